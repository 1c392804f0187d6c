"""Programs in processes of their own that start within milliseconds, for tests that kill them.

A fresh interpreter spends seconds on importing torch, Lightning, Prefect and MLflow. Here one process imports them once
and does nothing else; every program is a fork of it, with memory, environment and threads of its own, and is killed
like any other process. What is ours it imports itself.

    children.run(code, "one", "two", environment={...}, timeout=100)

is `subprocess.run([sys.executable, "-c", code, "one", "two"], env=..., capture_output=True, text=True)`.
"""

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent
PRELOADED = (
    "fsspec",
    "lightning",
    "mlflow",
    "numba",
    "pandas",
    "prefect",
    "pyarrow.parquet",
    "scipy.optimize",
    "torch",
)

_turn = threading.Lock()
_parent: "subprocess.Popen[str] | None" = None


def run(
    code: str, *words: str, environment: Mapping[str, str] | None = None, cwd: Path = PROJECT, timeout: float = 280
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end.

    Args:
        code: its source.
        words: its arguments, `sys.argv[1:]`.
        environment: all of its environment; None for ours.
        cwd: the folder in which it runs.
        timeout: seconds after which it is killed.

    Returns:
        Its exit code, negative for a signal, and what it wrote.

    Raises:
        subprocess.TimeoutExpired: it did not end.
    """
    with _turn, tempfile.TemporaryDirectory(prefix="headrace-child-") as folder:
        said = {name: Path(folder, name) for name in ("stdout", "stderr")}
        asked = {
            "code": code,
            "words": words,
            "environment": dict(os.environ if environment is None else environment),
            "cwd": str(cwd),
            "path": sys.path,
            **{name: str(file) for name, file in said.items()},
        }
        returncode = _ask(asked, timeout)
        stdout, stderr = (file.read_text(errors="replace") if file.exists() else "" for file in said.values())
    return subprocess.CompletedProcess(["python", "-c", code, *words], returncode, stdout, stderr)


def _ask(asked: dict[str, Any], timeout: float) -> int:
    global _parent
    if _parent is None or _parent.poll() is not None:
        _parent = subprocess.Popen(
            [sys.executable, "-m", "tests.children"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=PROJECT,
        )
        atexit.register(_parent.kill)
    assert _parent.stdin and _parent.stdout
    _parent.stdin.write(json.dumps(asked) + "\n")
    _parent.stdin.flush()
    child = int(_parent.stdout.readline())
    if not select.select([_parent.stdout], [], [], timeout)[0]:
        os.kill(child, signal.SIGKILL)
        _parent.stdout.readline()
        raise subprocess.TimeoutExpired("a program of the tests", timeout)
    return int(_parent.stdout.readline())


def _serve() -> None:
    """Fork for every line of the standard input; in a child, become its program and return."""
    for name in PRELOADED:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        asked = json.loads(line)
        child = os.fork()
        if not child:
            return _become(asked)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _become(asked: dict[str, Any]) -> None:
    """Be the program, as an interpreter that has just started would be."""
    files = (os.devnull, os.O_RDONLY), *((asked[name], os.O_WRONLY | os.O_CREAT) for name in ("stdout", "stderr"))
    for number, (file, flags) in enumerate(files):
        os.dup2(os.open(file, flags, 0o600), number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    sys.path[:] = asked["path"]
    sys.argv = ["-c", *asked["words"]]

    import prefect.context

    prefect.context.refresh_global_settings_context()
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(asked["code"], "<program>", "exec"), program.__dict__)  # noqa: S102 - our own tests


if __name__ == "__main__":
    _serve()
