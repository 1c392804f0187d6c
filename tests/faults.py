"""Kill a flow at a chosen moment, retry it, and compare what came of it with an undisturbed run.

    python -m tests.faults HOME FLOW FLOW_RUN_ID MOMENT DURATIONS        the child process that is killed

A moment is `TASK:enter`, `TASK:middle`, `TASK:exit` (the work is done, nobody knows yet), `CALL:N` (the N-th call of
fsync, rename, replace or link: inside a write), `step:N` (the N-th step of training, each of which leaves a checkpoint)
or `part:N` (the N-th part of a dataset is made, and not stored yet).
The flow's code has no hook for this: the child wraps what it calls.
"""

import dataclasses
import importlib
import inspect
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from tests import children

TASKS = {
    "rebuild_index": ("curate", "train", "build_index", "evaluate", "publish"),
    "train_encoder": ("curate", "train", "evaluate", "publish"),
    "backfill_index": ("ingest", "assemble", "train", "build_index", "evaluate", "publish"),
    **{
        f"prepare_{dataset}": ("prepare", "certify", "publish")
        for dataset in ("fluxes", "turbulence", "storms", "analogs", "precipitation", "outlooks")
    },
}
"""Flows that are killed, and their tasks."""


SMALLER: dict[str, dict[str, Any]] = {
    "fluxes": {"hours": 1},
    "turbulence": {"days": 2},
    "precipitation": {"days": 4},
    "outlooks": {"days": 4, "variables": ()},
}
"""What the datasets of killed flows have in place of their smallest preset's: few parts, seconds of work."""


def module_of(flow: str) -> str:
    """The module of `flows` that a flow is in."""
    return "flows.datasets" if flow.startswith("prepare_") else "flows.retrieval"


INSIDE = tuple(f"{task}:{where}" for task in TASKS["rebuild_index"] for where in ("enter", "middle", "exit"))
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
    """What came of a killed and retried flow run; `between` is what a reader found live, whole, before the retry."""

    moment: str
    killed: bool
    state: str
    digest: str
    repeated: list[str]
    runs: int
    steps: int = 0
    between: str = ""
    attempts: list[Attempt] = field(default_factory=list, repr=False)


def run_with_kill(
    home: Path, moment: str, server: str, durations: dict[str, float], flow: str = "rebuild_index"
) -> Result:
    """Run the flow in a fresh home, kill it at the moment, retry it once, and look.

    Args:
        home: empty folder for all state.
        moment: when to kill; "" runs undisturbed.
        server: address of the Prefect API.
        durations: seconds of each task in an undisturbed run, for `middle`.
        flow: name of the flow.

    Returns:
        State, digest of the live product, tasks that were finished and yet repeated, number of MLflow runs, steps of
        training that were made in all.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import AwaitingRetry, Crashed, Pending
    from pydantic import TypeAdapter

    parameters = {
        name: TypeAdapter(type(value)).dump_python(value, mode="json") for name, value in faulted(flow, moment).items()
    }
    _make_database(home)
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(_flow(flow), parameters=parameters, state=Pending())
        attempts = [_attempt(home, flow, str(flow_run.id), moment, server, durations)]
        between, _ = _look(home, flow)
        if moment not in ("", EVERY_STEP):
            client.set_flow_run_state(flow_run.id, Crashed(), force=True)
            client.set_flow_run_state(flow_run.id, AwaitingRetry(), force=True)
            client.set_flow_run_state(flow_run.id, Pending(), force=True)
            attempts.append(_attempt(home, flow, str(flow_run.id), _retried(moment), server, durations))
        state = client.read_flow_run(flow_run.id).state
    repeated = sorted(attempts[0].finished() & set(attempts[1].entered())) if len(attempts) > 1 else []
    digest, runs = _look(home, flow)
    return Result(
        moment=moment,
        killed=attempts[0].code == -9,
        state=f"{state.type.value}/{state.name}" if state else "none",
        digest=digest,
        repeated=repeated,
        runs=runs,
        between=between,
        steps=sum(event == "step" for attempt in attempts for _, event in attempt.events),
        attempts=attempts,
    )


EVERY_STEP = "step:0"
"""Not a kill: an undisturbed run that counts its steps and leaves a checkpoint after each."""


def _retried(moment: str) -> str:
    """What the retry is told: steps are counted there too."""
    return EVERY_STEP if moment.startswith("step:") else ""


def durations_of(home: Path) -> dict[str, float]:
    """Seconds that each task took in the undisturbed run of a home."""
    lines = [json.loads(line) for line in (home / "events.jsonl").read_text().splitlines()]
    begun = {line["task"]: line["time"] for line in lines if line["event"] == "enter"}
    return {line["task"]: line["time"] - begun[line["task"]] for line in lines if line["event"] == "exit"}


def _attempt(home: Path, flow: str, flow_run_id: str, moment: str, server: str, durations: dict[str, float]) -> Attempt:
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
    words = (str(home), flow, flow_run_id, moment or "never", json.dumps(durations))
    done = children.run("from tests.faults import main; main()", *words, environment=environment, timeout=280)
    lines = log.read_text().splitlines()[before:] if log.exists() else []
    events = [(line["task"], line["event"]) for line in map(json.loads, lines)]
    return Attempt(code=done.returncode, events=events, output=done.stdout + done.stderr)


def _make_database(home: Path) -> None:
    """Let MLflow make its database, as its server has in service before any flow runs.

    A kill while it is made leaves one half made, which MLflow cannot mend.
    """
    from mlflow import MlflowClient

    (home / "mlflow").mkdir(parents=True, exist_ok=True)
    MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}").search_experiments(max_results=1)


def _look(home: Path, flow: str) -> tuple[str, int]:
    """Digest of the live product, every byte checked, and the number of MLflow runs.

    Nothing is live after a run that failed: then the digest is "".
    """
    from mlflow import MlflowClient

    from infra.refs import Dataset, Index, Model
    from infra.store import Store

    store = Store(str(home / "store"))
    datasets = module_of(flow) == "flows.datasets"
    kind = Dataset if datasets else Index if store.products("index") else Model
    digest = ""
    for name in [one for one in store.products(kind.kind) if store.current_or_none(kind.kind, one)][:1]:
        ref = store.live(kind, name)
        store.verify(ref)
        digest = ref.digest
    client = MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(module_of(flow).partition(".")[2])
    return digest, len(client.search_runs([experiment.experiment_id])) if experiment else 0


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
    wrapped.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
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


def _count_steps(home: Path, fatal: int) -> None:
    """Note every step of training, and die at the n-th; 0 never dies."""
    from models.feed.retrieval.config import EncoderConfig

    original = EncoderConfig.loss
    log = (home / "events.jsonl").open("a")
    seen = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        log.write(json.dumps({"task": "train", "event": "step", "time": time.time()}) + "\n")
        log.flush()
        if seen == fatal:
            _die()
        return original(*args, **kwargs)

    EncoderConfig.loss = wrapped  # type: ignore[method-assign]


def _child(home: Path, flow: str, flow_run_id: str, moment: str, durations: dict[str, float]) -> None:
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    module = importlib.import_module(module_of(flow))
    for name in TASKS[flow]:
        _watch(home, getattr(module, name), moment, durations.get(name, 0.5))
    call, _, count = moment.partition(":")
    if call == "fsync":
        _count(os, "fsync", int(count))
    elif call == "link":
        _count(os, "link", int(count))
    elif call == "part":
        from infra.grids import Parts

        _count(Parts, "write", int(count))
    elif call in ("rename", "replace"):
        _count(pathlib.Path, call, int(count))
    elif call == "step":
        _count_steps(home, int(count))
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(flow_run_id))
    run_flow(_flow(flow), flow_run=flow_run, parameters=faulted(flow, moment), return_type="state")


def _flow(name: str) -> Any:
    return getattr(importlib.import_module(module_of(name)), name)


def faulted(flow: str = "rebuild_index", moment: str = "") -> dict[str, Any]:
    """Parameters of the flow under test: every step of the tiny configuration, with less to learn."""
    if module_of(flow) == "flows.datasets":
        from models.climate.datasets.config import preset
        from models.climate.datasets.judge import JudgementConfig

        dataset = flow.removeprefix("prepare_")
        config = preset(dataset, "tiny")
        recipe = dataclasses.replace(config.recipe, **SMALLER.get(dataset, {}))  # type: ignore[type-var]
        return {"config": dataclasses.replace(config, data=recipe, judgement=JudgementConfig(parts=1))}  # type: ignore[call-arg]
    from models.common.contracts import TrainingConfig
    from models.common.days import DaysConfig
    from models.feed.retrieval.config import (
        DataConfig,
        EncoderConfig,
        GeneratorConfig,
        JudgementConfig,
        RetrievalConfig,
    )

    minutes = 1e-9 if moment.startswith("step:") else 10.0
    config = RetrievalConfig(
        data=DataConfig(name="faulted", generator=GeneratorConfig(users=200, items=400)),
        encoder=EncoderConfig(training=TrainingConfig(epochs=6, batch_size=256, checkpoint_minutes=minutes)),
        judgement=JudgementConfig(cases=24, margin=1.0),
    )
    days = DaysConfig(first=date(2021, 7, 1), last=date(2021, 12, 6))
    return {"config": config, "days": days} if flow == "backfill_index" else {"config": config}


def main() -> None:
    """The child process, by its arguments: HOME FLOW FLOW_RUN_ID MOMENT DURATIONS."""
    _child(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], json.loads(sys.argv[5]))


if __name__ == "__main__":
    main()
