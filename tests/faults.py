"""Kill a flow at a chosen moment, retry it, and compare what came of it with an undisturbed run.

    python -m tests.faults HOME FLOW_RUN_ID MOMENT        the child process that is killed

A moment is `TASK:enter`, `TASK:middle`, `TASK:exit` (the work is done, nobody knows yet) or `CALL:N` (the N-th call of
fsync, rename or replace: inside a write). The flow's code has no hook for this: the child wraps what it calls.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASKS = ("curate", "train", "build_index", "evaluate", "publish")
INSIDE = tuple(f"{task}:{where}" for task in TASKS for where in ("enter", "middle", "exit"))
WRITES = (
    *(f"fsync:{count}" for count in (1, 4, 8, 12, 16, 20, 24)),
    *(f"rename:{count}" for count in (1, 2, 3, 4)),
    *(f"replace:{count}" for count in (1, 2, 3)),
)
"""A run makes some 30 fsyncs, four renames (dataset, model, index, report); it replaces checkpoints, seal, pointer."""


@dataclass
class Attempt:
    """One process that ran the flow: its exit code and what its tasks did, in order."""

    code: int
    events: list[tuple[str, str]]
    output: str

    def entered(self) -> list[str]:
        """Tasks whose work began."""
        return [task for task, event in self.events if event == "enter"]

    def finished(self) -> set[str]:
        """Tasks whose work ended."""
        return {task for task, event in self.events if event == "exit"}


@dataclass
class Result:
    """What came of a killed and retried flow run."""

    moment: str
    killed: bool
    state: str
    digest: str
    repeated: list[str]
    runs: int
    attempts: list[Attempt] = field(default_factory=list, repr=False)


def run_with_kill(home: Path, moment: str, server: str, durations: dict[str, float]) -> Result:
    """Run the flow in a fresh home, kill it at the moment, retry it once, and look.

    Args:
        home: empty folder for all state.
        moment: when to kill; "" runs undisturbed.
        server: address of the Prefect API.
        durations: seconds of each task in an undisturbed run, for `middle`.

    Returns:
        State, digest of the live product, tasks that were finished and yet repeated, number of MLflow runs.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import AwaitingRetry, Crashed, Pending

    from flows.retrieval import rebuild_index
    from infra.manifest import describe_configuration

    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(
            rebuild_index, parameters={"config": describe_configuration(faulted())}, state=Pending()
        )
        attempts = [_attempt(home, str(flow_run.id), moment, server, durations)]
        if moment:
            client.set_flow_run_state(flow_run.id, Crashed(), force=True)
            client.set_flow_run_state(flow_run.id, AwaitingRetry(), force=True)
            client.set_flow_run_state(flow_run.id, Pending(), force=True)
            attempts.append(_attempt(home, str(flow_run.id), "", server, durations))
        state = client.read_flow_run(flow_run.id).state
    repeated = sorted(attempts[0].finished() & set(attempts[1].entered())) if moment else []
    digest, runs = _look(home)
    return Result(
        moment=moment,
        killed=attempts[0].code == -9,
        state=f"{state.type.value}/{state.name}" if state else "none",
        digest=digest,
        repeated=repeated,
        runs=runs,
        attempts=attempts,
    )


def durations_of(home: Path) -> dict[str, float]:
    """Seconds that each task took in the undisturbed run of a home."""
    lines = [json.loads(line) for line in (home / "events.jsonl").read_text().splitlines()]
    begun = {line["task"]: line["time"] for line in lines if line["event"] == "enter"}
    return {line["task"]: line["time"] - begun[line["task"]] for line in lines if line["event"] == "exit"}


def _attempt(home: Path, flow_run_id: str, moment: str, server: str, durations: dict[str, float]) -> Attempt:
    log = home / "events.jsonl"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    environment = {
        **os.environ,
        "HEADRACE_HOME": str(home),
        "HEADRACE_TRACKING_URI": "",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": server,
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", str(home), flow_run_id, moment or "never", json.dumps(durations)],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    lines = log.read_text().splitlines()[before:] if log.exists() else []
    events = [(line["task"], line["event"]) for line in map(json.loads, lines)]
    return Attempt(code=done.returncode, events=events, output=done.stdout + done.stderr)


def _look(home: Path) -> tuple[str, int]:
    """Digest of the live index, every byte checked, and the number of MLflow runs."""
    from mlflow import MlflowClient

    from infra.refs import Index
    from infra.store import Store

    store = Store(str(home / "store"))
    ref = store.live(Index, store.products("index")[0])
    store.verify(ref)
    client = MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("retrieval")
    return ref.digest, len(client.search_runs([experiment.experiment_id]))


# ------------------------------------------------------------------------------------------------- the child


def _die() -> None:
    os.kill(os.getpid(), 9)


def _watch(home: Path, task: Any, moment: str, duration: float) -> None:
    """Note when a task's work begins and ends, and die inside it if this is the moment."""
    name, original = task.fn.__name__, task.fn
    log = (home / "events.jsonl").open("a")

    def note(event: str) -> None:
        log.write(json.dumps({"task": name, "event": event, "time": time.time()}) + "\n")
        log.flush()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        note("enter")
        if moment == f"{name}:enter":
            _die()
        if moment == f"{name}:middle":
            threading.Timer(max(0.05, duration / 2), _die).start()
        result = original(*args, **kwargs)
        if moment in (f"{name}:exit", f"{name}:middle"):
            _die()
        note("exit")
        return result

    wrapped.__module__, wrapped.__qualname__, wrapped.__name__ = original.__module__, original.__qualname__, name
    wrapped.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
    task.fn = wrapped


def _count(owner: Any, call: str, fatal: int) -> None:
    """Die at the n-th call of a function."""
    original: Callable[..., Any] = getattr(owner, call)
    seen = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == fatal:
            _die()
        return original(*args, **kwargs)

    setattr(owner, call, wrapped)


def _child(home: Path, flow_run_id: str, moment: str, durations: dict[str, float]) -> None:
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    import flows.retrieval as retrieval

    for name in TASKS:
        _watch(home, getattr(retrieval, name), moment, durations.get(name, 0.5))
    call, _, count = moment.partition(":")
    if call == "fsync":
        _count(os, "fsync", int(count))
    elif call in ("rename", "replace"):
        _count(pathlib.Path, call, int(count))
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(flow_run_id))
    run_flow(retrieval.rebuild_index, flow_run=flow_run, parameters={"config": faulted()}, return_type="state")


def faulted() -> Any:
    """The configuration under test: every step of the tiny one, with less to learn."""
    from models.common.contracts import TrainingConfig
    from models.feed.retrieval.config import (
        DataConfig,
        EncoderConfig,
        GeneratorConfig,
        JudgementConfig,
        RetrievalConfig,
    )

    return RetrievalConfig(
        data=DataConfig(name="faulted", generator=GeneratorConfig(users=200, items=400)),
        encoder=EncoderConfig(training=TrainingConfig(epochs=6, batch_size=256)),
        judgement=JudgementConfig(cases=24, margin=1.0),
    )


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
