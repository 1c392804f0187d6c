"""The door to MLflow's experiments: one run for each flow run that computed something.

Every task of one flow run writes into the same MLflow run, found by the flow run's id. So a retried flow continues
its run, and a flow whose tasks were all cached makes none. MLflow is imported when it is first spoken to: three
seconds that a cached flow does not pay.
"""

import base64
import contextlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from infra import outbox
from infra.outbox import Target, mlflow_client, server
from infra.refs import Ref
from infra.settings import PROJECT, settings

__all__ = [
    "Run",
    "Target",
    "adopt",
    "artifact_url",
    "git_commit",
    "lightning_logger",
    "mlflow_client",
    "quiet",
    "run_for",
    "run_url",
    "server",
    "url_of",
]

logging.getLogger("mlflow").setLevel(logging.WARNING)


class Run:
    """One MLflow run; writing the same thing twice leaves it as it was.

    While MLflow does not answer, what is written waits in `infra.outbox` and nobody notices.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    @property
    def id(self) -> str:
        """MLflow's identifier; "" as long as MLflow was not there to give one."""
        return self.target.run_id

    @property
    def url(self) -> str:
        """Where a person looks at the run; empty without a server."""
        return url_of(self.id)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log what a person compares runs by. A parameter never changes within a run."""
        self._write("parameters", values={key: str(value) for key, value in values.items()})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics: final ones, or those of a training step."""
        self._write("metrics", values={key: float(value) for key, value in values.items()}, time=_now(), step=step)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._write("tags", values=dict(values))

    def dataset(self, ref: Ref, context: str) -> None:
        """Name a dataset as the run's input, with its digest."""
        self._write("dataset", name=ref.name, version=ref.version, location=ref.location, context=context)

    def text(self, path: str, content: str) -> None:
        """Log a small text file."""
        self._artifact(path, content.encode())

    def table(self, path: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows as a table that MLflow shows beside other runs'."""
        if rows:
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            table = {"columns": list(columns), "data": [list(row.values()) for row in rows]}
            self._artifact(path, json.dumps(table).encode())

    def image(self, path: str, png: bytes) -> None:
        """Log a figure."""
        self._artifact(path, png)

    def image_url(self, path: str) -> str:
        """Address of a logged figure; empty without a server."""
        return artifact_url(self.id, path)

    def running(self) -> None:
        """Say that work goes on."""
        self._write("running")

    def ended(self, status: str) -> None:
        """Say that it is over: FINISHED or FAILED."""
        self._write("ended", status=status, time=_now())

    def _artifact(self, path: str, content: bytes) -> None:
        self._write("artifact", path=path, content=base64.b64encode(content).decode())

    def _write(self, operation: str, **arguments: Any) -> None:
        run_id = outbox.write(self.target, operation, **arguments)
        if run_id != self.target.run_id:
            self.target = self.target.model_copy(update={"run_id": run_id or self.target.run_id})


@contextlib.contextmanager
def run_for(
    experiment: str, flow_run_id: str, name: str, tags: Mapping[str, str] | None = None, run_id: str = ""
) -> Iterator[Run]:
    """Continue or begin the MLflow run of a flow run.

    The run is RUNNING inside the block; it ends FINISHED, or FAILED when the block raises.

    Args:
        experiment: the system.
        flow_run_id: the Prefect flow run.
        name: run name that a person can read, used when the run begins.
        tags: lineage, set when the run begins.
        run_id: a known run to continue instead of searching.

    Yields:
        The run.
    """
    target = Target(
        experiment=experiment,
        flow_run_id=flow_run_id,
        name=name,
        tags={"git.commit": git_commit(), **(tags or {})},
        run_id=run_id,
    )
    run = Run(target)
    run.running()
    try:
        yield run
    except BaseException:
        with contextlib.suppress(Exception):  # the error inside matters more than one in saying so
            run.ended("FAILED")
        raise
    run.ended("FINISHED")


def lightning_logger(target: Target, prefix: str = "") -> Any:
    """A Lightning logger that writes into a known run, each name behind a prefix; only rank zero writes."""
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.utilities import rank_zero_only

    class RunLogger(Logger):  # type: ignore[misc, unused-ignore]
        """Not Lightning's own MLflow logger: that one fails the training when MLflow is away."""

        name, version = target.experiment, target.run_id
        run = Run(target)

        @rank_zero_only  # type: ignore[untyped-decorator, unused-ignore]
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            self.run.metrics({f"{prefix}{name}": value for name, value in metrics.items()}, step or 0)

        @rank_zero_only  # type: ignore[untyped-decorator, unused-ignore]
        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            """What is compared was logged by the task."""

    return RunLogger()


def run_url(experiment_id: str, run_id: str) -> str:
    """Page of a run; empty without a server."""
    return f"{server()}/#/experiments/{experiment_id}/runs/{run_id}" if server() and run_id else ""


def artifact_url(run_id: str, path: str) -> str:
    """Address of a file of a run; empty without a run, a path or a server."""
    return f"{server()}/get-artifact?path={quote(path)}&run_uuid={run_id}" if server() and run_id and path else ""


def url_of(run_id: str) -> str:
    """Page of a run whose experiment is not at hand; empty without a run or a server."""
    if not run_id or not server():
        return ""
    try:
        return run_url(str(mlflow_client().get_run(run_id).info.experiment_id), run_id)
    except Exception:  # the run was deleted, the server is another one now, or it is away: a link is not worth a run
        return ""


def adopt(run_id: str, flow_run_id: str, experiment: str) -> bool:
    """Let a flow run continue the MLflow run that another flow run began and did not finish.

    Args:
        run_id: the MLflow run.
        flow_run_id: who continues it.
        experiment: the system.

    Returns:
        Whether the run exists, as far as is known; if not, a new one is to be begun.
    """
    from mlflow.exceptions import MlflowException

    target = Target(experiment=experiment, flow_run_id=flow_run_id, name=run_id, run_id=run_id)
    try:
        outbox.write(target, "tags", values={"prefect.flow_run_id": flow_run_id})
    except MlflowException:
        return False
    return True


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Commit of the code, with "+" when the tree differs from it; empty outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(PROJECT), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return f"{commit}+" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def quiet() -> None:
    """Keep MLflow's banners and tracking of its own usage out of the logs."""
    import mlflow

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri(settings().tracking_location)
