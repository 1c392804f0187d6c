"""What the orchestration costs: task runs of each flow, and CPU outside the bodies of its tasks.

    python -m benchmarks retrieval_orchestration [--preset tiny]

The flow runs in a process of its own against a temporary server and home. That process notes its CPU seconds, threads
and ended children included, when all imports are done, around the body of each task, and at the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parent.parent
FLOWS = {
    "rebuild_index": "flows.retrieval",
    "monitor_recall": "flows.retrieval",
    "nightly": "flows.nightly",
}
"""The flows that run with a configuration; `rollback_index` is one task and needs two published versions."""


@contextmanager
def temporary_server() -> Iterator[str]:
    """A Prefect server with an empty database for the length of the block.

    Yields:
        The address of its API.
    """
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())


def run_flow(home: Path, server: str, flow: str, config: Any, timeout_s: float = 3600) -> dict[str, Any]:
    """Run one flow in a process of its own.

    Args:
        home: folder of all its state.
        server: address of the Prefect API.
        flow: one of `FLOWS`.
        config: the retrieval configuration.
        timeout_s: seconds until it is killed.

    Returns:
        Name and identifier of the final state, CPU seconds (`imports`, `flow`, `bodies` by task, and `process` from
        start to exit), and the metrics of the judgement if there was one.

    Raises:
        RuntimeError: the process failed; the message ends with its output.
    """
    from infra.manifest import describe_configuration

    environment = {
        **os.environ,
        "HEADRACE_HOME": str(home),
        "HEADRACE_STORE": "",
        "HEADRACE_TRACKING_URI": "",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": server,
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "OMP_WAIT_POLICY": "passive",
        "DO_NOT_TRACK": "1",
    }
    home.mkdir(parents=True, exist_ok=True)
    answer = home / f"{flow}.json"
    before = _cpu_of_children()
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, str(answer), flow, json.dumps(describe_configuration(config))],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{flow} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    told: dict[str, Any] = json.loads(answer.read_text())
    return {**told, "process": _cpu_of_children() - before}


def count_task_runs(flow_run_id: str) -> int:
    """Task runs of a flow run and of the flow runs that it started, as the server knows them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [flow_run_id]}))
        # a flow that calls a flow has a task run that stands for it
        stands_for = [str(task.id) for task in tasks]
        below = (
            client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_task_run_id={"any_": stands_for}))
            if tasks
            else []
        )
    return len(tasks) + sum(count_task_runs(str(run.id)) for run in below)


def measure(server: str, preset: str) -> dict[str, Any]:
    """Run every flow of `FLOWS` in one fresh home, the first with everything to do.

    Args:
        server: address of the Prefect API.
        preset: name of a preset of the retrieval configuration.

    Returns:
        Task runs by flow; for the first flow the CPU seconds of `run_flow`, of the server meanwhile, and the two
        shares outside the tasks' bodies.
    """
    from models.feed.retrieval import config as presets

    config = getattr(presets, preset)()
    with tempfile.TemporaryDirectory() as folder:
        before = _cpu_of_living_children()
        first = run_flow(Path(folder), server, "rebuild_index", config)
        serving = _cpu_of_living_children() - before
        told = {"rebuild_index": first}
        told |= {flow: run_flow(Path(folder), server, flow, config) for flow in FLOWS if flow not in told}
    bodies = sum(first["bodies"].values())
    return {
        "preset": preset,
        "states": {flow: run["state"] for flow, run in told.items()},
        "task_runs": {flow: count_task_runs(run["flow_run_id"]) for flow, run in told.items()},
        "cpu": {key: first[key] for key in ("imports", "flow", "bodies", "process")},
        "server": serving,
        "share": (first["process"] - bodies) / first["process"],
        "share_without_imports": (first["flow"] - bodies) / first["flow"],
    }


def table_of(told: dict[str, Any]) -> list[tuple[str, str]]:
    """What `measure` found, in words and numbers."""
    cpu = told["cpu"]
    bodies = sum(cpu["bodies"].values())
    return [
        *((f"task runs of {flow} ({told['states'][flow]})", str(count)) for flow, count in told["task_runs"].items()),
        ("CPU of the flow's process from start to exit, s", f"{cpu['process']:.1f}"),
        ("of it starting Python and importing, s", f"{cpu['imports']:.1f}"),
        ("of it the flow after imports, s", f"{cpu['flow']:.1f}"),
        ("of it inside the tasks' bodies, s", f"{bodies:.1f}"),
        *((f"of it {task}, s", f"{seconds:.1f}") for task, seconds in cpu["bodies"].items()),
        ("of it ending, s", f"{cpu['process'] - cpu['imports'] - cpu['flow']:.1f}"),
        ("CPU of the Prefect server meanwhile, not in any share, s", f"{told['server']:.1f}"),
        ("share of CPU outside the bodies, imports counted", f"{told['share']:.1%}"),
        ("share of CPU outside the bodies, without imports", f"{told['share_without_imports']:.1%}"),
    ]


def main(options: Sequence[str] = ()) -> None:
    """Measure one preset and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks retrieval_orchestration")
    parser.add_argument("--preset", default="tiny", choices=("tiny", "small"))
    chosen = parser.parse_args(options)
    console = Console(highlight=False)
    with console.status(f"the flow at {chosen.preset}"), temporary_server() as server:
        told = measure(server, chosen.preset)
    table = Table("what", "found", title=f"Orchestration at {chosen.preset}")
    for row in table_of(told):
        table.add_row(*row)
    console.print(table)


def _cpu_of_children() -> float:
    """CPU seconds of children that ended, theirs included."""
    times = os.times()
    return times.children_user + times.children_system


def _cpu_of_living_children() -> float:
    """CPU seconds of the servers that this process started."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system for time in times)


# ------------------------------------------------------------------------------------------------- the child


def _cpu() -> float:
    return sum(os.times()[:4])


def _watch(task: Any, bodies: dict[str, float], results: dict[str, Any]) -> None:
    """Note the CPU seconds of a task's body and what it returned."""
    name, original = task.fn.__name__, task.fn

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before = _cpu()
        try:
            results[name] = original(*args, **kwargs)
        finally:
            bodies[name] = bodies.get(name, 0.0) + _cpu() - before
        return results[name]

    wrapped.__module__, wrapped.__qualname__, wrapped.__name__ = original.__module__, original.__qualname__, name
    wrapped.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
    task.fn = wrapped


def _child(answer: Path, flow: str, configuration: str) -> None:
    import importlib

    import lightning  # noqa: F401  a task's body imports it when it must; here it is to count as an import
    from pydantic import TypeAdapter

    import flows.retrieval as retrieval
    import infra.figures  # noqa: F401
    import tasks.fit_job  # noqa: F401
    from infra import tracking
    from infra.store import open_store
    from models.feed.retrieval.config import RetrievalConfig

    tracking.quiet()
    run = getattr(importlib.import_module(FLOWS[flow]), flow)
    bodies: dict[str, float] = {}
    results: dict[str, Any] = {}
    for name in ("curate", "train", "build_index", "evaluate", "publish", "watch"):
        _watch(getattr(retrieval, name), bodies, results)
    config = TypeAdapter(RetrievalConfig).validate_python(json.loads(configuration))
    imports = _cpu()
    state = run(config, return_state=True)
    told = {
        "flow_run_id": str(state.state_details.flow_run_id),
        "state": f"{state.type.value}/{state.name}",
        "imports": imports,
        "flow": _cpu() - imports,
        "bodies": dict(bodies),
    }
    if "evaluate" in results:
        told["metrics"] = open_store().open(results["evaluate"])["judgement"]["metrics"]
    answer.write_text(json.dumps(told))


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
