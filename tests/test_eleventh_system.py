"""An eleventh system is new files and no edit: added to a copy of the tree, it runs from curate to publish."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent
RUN = """
import json
from flows.toy import fit_line
state = fit_line(return_state=True)
print("RESULT " + json.dumps({"name": state.name, "outcomes": [o.model_dump() for o in state.result()]}))
"""


def _python_files(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for package in ("flows", "tasks", "models", "infra")
        for file in (folder / package).rglob("*.py")
    }


def test_a_toy_system_is_published_without_editing_any_existing_python_file(
    tmp_path: Path, prefect_server: str
) -> None:
    tree = tmp_path / "tree"
    for package in ("flows", "tasks", "models", "infra"):
        shutil.copytree(PROJECT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    before = _python_files(tree)
    shutil.copytree(PROJECT / "tests" / "data" / "eleventh", tree, dirs_exist_ok=True)

    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "HEADRACE_HOME": str(tmp_path / "home"),
        "PREFECT_API_URL": prefect_server,
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tree, env=environment, capture_output=True, text=True, timeout=280, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])
    assert result["name"] == "Published"
    assert result["outcomes"][0]["product"] == "toy-line"
    assert (tmp_path / "home" / "store" / "model" / "toy-line" / "CURRENT").exists()
    after = _python_files(tree)
    assert {path: after[path] for path in before} == before, "an existing file was edited"
    assert set(after) - set(before) == {"flows/toy.py", "models/toy/__init__.py", "models/toy/config.py"}
