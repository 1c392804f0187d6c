"""The door to MLflow's experiments: one run for each flow run that computed something.

Every task of one flow run writes into the same MLflow run, found by the flow run's id. So a retried flow continues
its run, and a flow whose tasks were all cached makes none. MLflow is imported when it is first spoken to: three
seconds that a cached flow does not pay.
"""

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

from infra.refs import Ref
from infra.settings import PROJECT, settings

logging.getLogger("mlflow").setLevel(logging.WARNING)


class Run:
    """One MLflow run; writing the same thing twice leaves it as it was."""

    def __init__(self, client: "MlflowClient", run_id: str, experiment_id: str) -> None:
        self.id = run_id
        self._client = client
        self._experiment_id = experiment_id

    @property
    def url(self) -> str:
        """Where a person looks at the run; empty without a server."""
        return run_url(self._experiment_id, self.id)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log what a person compares runs by. A parameter never changes within a run."""
        from mlflow.entities import Param

        known = self._client.get_run(self.id).data.params
        new = [Param(key, str(value)) for key, value in values.items() if key not in known]
        self._client.log_batch(self.id, params=new)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log final metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.id, metrics=[Metric(key, float(value), now, 0) for key, value in values.items()])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(key, value) for key, value in values.items()])

    def dataset(self, ref: Ref, context: str) -> None:
        """Name a dataset as the run's input, with its digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": ref.location})
        dataset = Dataset(name=ref.name, digest=ref.version, source_type="local", source=source)
        self._client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def text(self, path: str, content: str) -> None:
        """Log a small text file."""
        self._client.log_text(self.id, content, path)

    def table(self, path: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows as a table that MLflow shows beside other runs'."""
        if rows:
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            with tempfile.TemporaryDirectory() as folder:  # log_table appends; a table of ours is written once
                file = Path(folder) / Path(path).name
                file.write_text(json.dumps({"columns": list(columns), "data": [list(row.values()) for row in rows]}))
                self._client.log_artifact(self.id, str(file), str(Path(path).parent))

    def image(self, path: str, png: bytes) -> None:
        """Log a figure."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            file.write_bytes(png)
            self._client.log_artifact(self.id, str(file), str(Path(path).parent))

    def image_url(self, path: str) -> str:
        """Address of a logged figure; empty without a server."""
        return artifact_url(self.id, path)


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
    client = mlflow_client()
    experiment_id = _experiment(client, experiment)
    if not run_id:
        run_id = _find_or_create(client, experiment_id, flow_run_id, name, tags or {})
    client.update_run(run_id, status="RUNNING")
    run = Run(client, run_id, experiment_id)
    try:
        yield run
    except BaseException:
        with contextlib.suppress(Exception):  # the error inside matters more than one in saying so
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def mlflow_client() -> "MlflowClient":
    """A client of the tracking server or file that settings name."""
    from mlflow import MlflowClient

    return MlflowClient(settings().tracking_location)


def _find_or_create(
    client: "MlflowClient", experiment_id: str, flow_run_id: str, name: str, tags: Mapping[str, str]
) -> str:
    lock = settings().home / "locks" / f"{flow_run_id}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:  # two tasks of one flow may begin at once
        fcntl.flock(handle, fcntl.LOCK_EX)
        known = client.search_runs([experiment_id], f"tags.`prefect.flow_run_id` = '{flow_run_id}'", max_results=1)
        if known:
            return str(known[0].info.run_id)
        all_tags = {"prefect.flow_run_id": flow_run_id, "git.commit": git_commit(), **tags}
        run = client.create_run(experiment_id, run_name=name, tags=all_tags)
    lock.unlink(missing_ok=True)
    return str(run.info.run_id)


def _experiment(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None if _server() else str(settings().home.resolve() / "mlflow" / "artifacts" / name)
    try:
        return str(
            client.create_experiment(
                name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
            )
        )
    except MlflowException:  # another process was faster
        return str(client.get_experiment_by_name(name).experiment_id)


def lightning_logger(run_id: str, experiment: str) -> Any:
    """A Lightning logger that writes into a known run; only rank zero writes."""
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(experiment_name=experiment, tracking_uri=settings().tracking_location, run_id=run_id)


def run_url(experiment_id: str, run_id: str) -> str:
    """Page of a run; empty without a server."""
    server = _server()
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}" if server and run_id else ""


def artifact_url(run_id: str, path: str) -> str:
    """Address of a file of a run; empty without a run, a path or a server."""
    server = _server()
    return f"{server}/get-artifact?path={quote(path)}&run_uuid={run_id}" if server and run_id and path else ""


def url_of(run_id: str) -> str:
    """Page of a run whose experiment is not at hand; empty without a run or a server."""
    if not run_id:
        return ""
    from mlflow.exceptions import MlflowException

    try:
        return run_url(str(mlflow_client().get_run(run_id).info.experiment_id), run_id)
    except MlflowException:  # the run was deleted, or the server is another one now
        return ""


def adopt(run_id: str, flow_run_id: str) -> bool:
    """Let a flow run continue the MLflow run that another flow run began and did not finish.

    Args:
        run_id: the MLflow run.
        flow_run_id: who continues it.

    Returns:
        Whether the run exists; if not, a new one is to be begun.
    """
    from mlflow.exceptions import MlflowException

    try:
        mlflow_client().set_tag(run_id, "prefect.flow_run_id", flow_run_id)
    except MlflowException:
        return False
    return True


def _server() -> str:
    """Address of the server without a user's name or password; empty when tracking goes to a file."""
    location = settings().tracking_location
    if not location.startswith(("http://", "https://")):
        return ""
    parts = urlsplit(location)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


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
