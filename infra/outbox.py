"""Writes to MLflow that outlive its absence: noted on disk when it does not answer, delivered in order when it does.

    HOME/outbox/FLOW_RUN.jsonl             what is still to be written for one flow run, a JSON object to a line
    HOME/outbox/FLOW_RUN.refused.jsonl     what MLflow answered with a refusal; kept for a person to look at

Every operation may be delivered twice: a point of a metric carries its time, an artifact replaces itself, a parameter
or a run that exists is left alone. So whoever is killed in mid-delivery does no harm.
"""

import atexit
import base64
import contextlib
import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

from pydantic import BaseModel, ConfigDict

from infra.settings import PROJECT, settings

log = logging.getLogger("headrace.outbox")

QUIET_S = 10
"""After MLflow failed to answer, seconds in which nobody asks again: training goes on meanwhile."""

LAST_LOOK_S = 5
"""Seconds between two looks for MLflow by a process that only waits for it."""

ANSWER_S = 20
"""Seconds that MLflow has to answer one request."""


class Target(BaseModel):
    """The MLflow run that belongs to a flow run, whether it exists already or not.

    Attributes:
        experiment: the system.
        flow_run_id: the Prefect flow run; the run is found by it.
        name: run name, used when the run begins.
        tags: lineage, set when the run begins.
        run_id: MLflow's identifier; "" until it is known.
    """

    model_config = ConfigDict(frozen=True)

    experiment: str
    flow_run_id: str
    name: str
    tags: dict[str, str] = {}
    run_id: str = ""


class _Absence:
    """Which server was last found absent, in this process, until when nobody asks it again, and what was done."""

    server = ""
    until = 0.0
    told = False
    waits = False


def write(target: Target, operation: str, **arguments: Any) -> str:
    """Do an operation on a run now, or note it for later when MLflow does not answer.

    Args:
        target: the run.
        operation: a name of `OPERATIONS`.
        arguments: JSON values.

    Returns:
        MLflow's identifier of the run; "" while it does not exist yet.

    Raises:
        MlflowException: MLflow answered and refused.
    """
    file = _folder() / f"{target.flow_run_id}.jsonl"
    with _alone(target.flow_run_id):
        if not file.exists() and not _resting():
            try:
                client = mlflow_client()
                run_id = _begin(client, target)
                OPERATIONS[operation](client, run_id, arguments)
                return run_id
            except Exception as error:
                if not absence(error):
                    raise
                _absent(error)
        _note(file, target, operation, arguments)
        return target.run_id if _resting() else _deliver(file)


def deliver() -> list[str]:
    """Deliver everything that waits, as far as MLflow answers; returns the flow runs that were brought up to date."""
    done = []
    for file in waiting():
        with _alone(file.stem):
            if file.exists() and _deliver(file) and not file.exists():
                done.append(file.stem)
    return done


def deliver_apart(environment: Mapping[str, str]) -> None:
    """Deliver, and bring the registry in line, in a process of its own.

    MLflow takes 150 MB and seconds to import, which a process that waits should not keep.

    Args:
        environment: of that process.
    """
    subprocess.run([sys.executable, "-m", "infra.registry"], env=dict(environment), cwd=PROJECT, check=False)


def last_call(seconds: float) -> None:
    """Wait for MLflow until nothing waits for it, where the disk ends with the process: in a pod.

    Args:
        seconds: how long at most; what waits then is lost, and the log says so.
    """
    deadline = time.monotonic() + seconds
    while waiting() and time.monotonic() < deadline:
        if answers():
            deliver_apart(os.environ)
        if waiting():
            time.sleep(min(LAST_LOOK_S, max(0.0, deadline - time.monotonic())))
    if left := waiting():
        log.error("MLflow did not answer for %.0f s; what flow runs %s wrote waits in %s.", seconds, left, _folder())


def waiting() -> list[Path]:
    """Files with operations that MLflow has not seen."""
    return sorted(file for file in _folder().glob("*.jsonl") if not file.name.endswith(".refused.jsonl"))


def answers() -> bool:
    """Whether MLflow is there; a file always is."""
    if not server():
        return True
    import requests  # what MLflow's own client speaks through: it knows proxies and certificates

    try:
        return requests.get(f"{server()}/health", timeout=3).status_code < 500
    except requests.RequestException:
        return False


def server() -> str:
    """Address of the server without a user's name or password; "" when tracking goes to a file."""
    location = settings().tracking_location
    if not location.startswith(("http://", "https://")):
        return ""
    parts = urlsplit(location)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def mlflow_client() -> "MlflowClient":
    """A client of the tracking server or file that settings name; it gives up within seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(ANSWER_S))
    from mlflow import MlflowClient

    return MlflowClient(settings().tracking_location)


# ------------------------------------------------------------------------------------------------ operations


def _begin(client: "MlflowClient", target: Target) -> str:
    """The identifier of a target's run, which is created if it must be."""
    if target.run_id:
        return target.run_id
    experiment = _experiment(client, target.experiment)
    with _alone(target.flow_run_id, "begin"):  # two tasks of one flow may begin at once
        known = client.search_runs([experiment], f"tags.`prefect.flow_run_id` = '{target.flow_run_id}'", max_results=1)
        if known:
            return str(known[0].info.run_id)
        tags = {"prefect.flow_run_id": target.flow_run_id, **target.tags}
        return str(client.create_run(experiment, run_name=target.name, tags=tags).info.run_id)


def _experiment(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None if server() else str(settings().home.resolve() / "mlflow" / "artifacts" / name)
    try:
        return str(
            client.create_experiment(
                name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
            )
        )
    except MlflowException:  # another process was faster
        return str(client.get_experiment_by_name(name).experiment_id)


def _parameters(client: "MlflowClient", run_id: str, arguments: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in arguments["values"].items() if key not in known]
    client.log_batch(run_id, params=new)


def _metrics(client: "MlflowClient", run_id: str, arguments: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric

    points = [
        Metric(key, float(value), arguments["time"], arguments["step"]) for key, value in arguments["values"].items()
    ]
    client.log_batch(run_id, metrics=points)


def _tags(client: "MlflowClient", run_id: str, arguments: Mapping[str, Any]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in arguments["values"].items()])


def _dataset(client: "MlflowClient", run_id: str, arguments: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    source = json.dumps({"uri": arguments["location"]})
    dataset = Dataset(name=arguments["name"], digest=arguments["version"], source_type="local", source=source)
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", arguments["context"])])]
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        if absence(error):
            raise
        # MLflow looks for a dataset before it inserts one: of two runs that look at once, one is refused, once.
        client.log_inputs(run_id, inputs)


def _artifact(client: "MlflowClient", run_id: str, arguments: Mapping[str, Any]) -> None:
    path = Path(arguments["path"])
    parent = "" if str(path.parent) == "." else str(path.parent)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        file.write_bytes(base64.b64decode(arguments["content"]))
        client.log_artifact(run_id, str(file), parent or None)


def _running(client: "MlflowClient", run_id: str, _: Mapping[str, Any]) -> None:
    client.update_run(run_id, status="RUNNING")


def _ended(client: "MlflowClient", run_id: str, arguments: Mapping[str, Any]) -> None:
    client.set_terminated(run_id, arguments["status"], end_time=arguments["time"])


OPERATIONS = {
    "parameters": _parameters,
    "metrics": _metrics,
    "tags": _tags,
    "dataset": _dataset,
    "artifact": _artifact,
    "running": _running,
    "ended": _ended,
}


# -------------------------------------------------------------------------------------------------- plumbing


def _deliver(file: Path) -> str:
    """Deliver one file as far as MLflow answers; the caller holds its lock. Returns the run's identifier, or ""."""
    run_id = ""
    lines = file.read_bytes().splitlines()
    for count, line in enumerate(lines):
        try:
            noted = json.loads(line)
            target = Target(**noted["target"])
        except (ValueError, TypeError, KeyError):
            continue  # the last line of a writer that was killed within it, who will say it again
        try:
            client = mlflow_client()
            run_id = run_id or _begin(client, target)
            OPERATIONS[noted["operation"]](client, run_id, noted["arguments"])
        except Exception as error:
            if absence(error):
                _absent(error)
                _replace(file, lines[count:])
                return run_id
            log.warning("MLflow refused %s of %s: %s", noted["operation"], target.name, error)
            with file.with_suffix(".refused.jsonl").open("ab") as refused:
                refused.write(line + b"\n")
    file.unlink()
    _Absence.until, _Absence.told = 0.0, False
    log.info("what was noted while MLflow was away has arrived: %d writes of run %s", len(lines), run_id)
    return run_id


def _note(file: Path, target: Target, operation: str, arguments: Mapping[str, Any]) -> None:
    """Append an operation durably."""
    noted = {"target": target.model_dump(), "operation": operation, "arguments": arguments}
    with file.open("ab") as handle:
        if handle.tell() and not file.read_bytes().endswith(b"\n"):
            handle.write(b"\n")
        handle.write(json.dumps(noted).encode() + b"\n")
        handle.flush()
        os.fsync(handle.fileno())
    if (seconds := settings().outbox_wait_s) and not _Absence.waits:
        _Absence.waits = True
        atexit.register(last_call, seconds)


def _replace(file: Path, lines: list[bytes]) -> None:
    partial = file.with_suffix(".part")
    with partial.open("wb") as handle:
        handle.write(b"\n".join(lines) + b"\n")
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(file)


def absence(error: Exception) -> bool:
    """Whether an error says that MLflow is not there, rather than that it does not want this."""
    if not server():
        return False
    import requests
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return bool(error.response.status_code >= 500)
    if isinstance(error, RestException):
        temporary = error.error_code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
        return temporary or (error.error_code == "INTERNAL_ERROR" and not answers())
    if isinstance(error, MlflowException):  # what its client makes of a broken connection and of a gateway's words
        refused = re.search(r"failed with error code 4(?!08|29)\d\d", str(error))
        return bool(error.error_code == "INTERNAL_ERROR" and not refused)
    return bool(isinstance(error, requests.RequestException | OSError))


def _resting() -> bool:
    """Whether MLflow was found absent a moment ago; another address is asked all the same."""
    return server() == _Absence.server and time.monotonic() < _Absence.until


def _absent(error: Exception) -> None:
    _Absence.told &= server() == _Absence.server
    _Absence.server, _Absence.until = server(), time.monotonic() + QUIET_S
    if not _Absence.told:
        log.warning(
            "MLflow does not answer at %s (%s); what is to be written waits in %s and arrives when it is back.",
            server(),
            type(error).__name__,
            _folder(),
        )
        _Absence.told = True


@contextlib.contextmanager
def _alone(flow_run_id: str, purpose: str = "write") -> Iterator[None]:
    """One writer for a flow run, among processes and threads; some flow runs share a lock, so that locks are few."""
    lock = _folder() / ".locks" / f"{purpose}-{zlib.crc32(flow_run_id.encode()) % 16}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _folder() -> Path:
    return settings().home.resolve() / "outbox"
