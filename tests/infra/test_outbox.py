"""The outbox: MLflow goes away and comes back, and nobody misses a number."""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import outbox
from infra.settings import PROJECT, settings
from infra.tracking import adopt, lightning_logger, mlflow_client, run_for


class Server:
    """An MLflow server that is killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        artifacts = str(self.folder / "artifacts")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", artifacts, "--serve-artifacts"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):  # noqa: S310 - our own loopback address
                return
            time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow-server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def away(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is up at the beginning of a test; patience is short, as tests are."""
    monkeypatch.setenv("HEADRACE_TRACKING_URI", server.url)
    monkeypatch.setattr(outbox, "QUIET_S", 0.0)
    settings.cache_clear()
    if server.process is None:
        server.start()
    outbox._Absence.until, outbox._Absence.told = 0.0, False
    yield server
    if server.process is None:
        server.start()


def test_what_is_written_while_mlflow_is_away_arrives_when_it_is_back(away: Server) -> None:
    with run_for("outbox", str(uuid.uuid4()), "outlived") as run:
        run.metrics({"loss": 1.0}, step=0)
        away.kill()
        for step in range(1, 6):
            run.metrics({"loss": 1.0 / (1 + step)}, step=step)
        run.parameters({"width": 8})
        run.text("certificate.md", "holds")
        assert len(outbox.waiting()) == 1
        away.start()
        run.metrics({"loss": 0.1}, step=6)
    client = mlflow_client()
    found = client.get_metric_history(run.id, "loss")
    assert [point.step for point in found] == list(range(7))
    assert client.get_run(run.id).data.params == {"width": "8"}
    assert client.get_run(run.id).info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(run.id)] == ["certificate.md"]
    assert outbox.waiting() == []


def test_a_run_that_begins_and_ends_while_mlflow_is_away_is_made_afterwards(away: Server) -> None:
    away.kill()
    flow_run = str(uuid.uuid4())
    with run_for("outbox", flow_run, "born in the dark", {"product": "toy"}) as run:
        run.metrics({"loss": 0.5})
        lightning_logger(run.target).log_metrics({"train_loss": 0.25}, step=3)
        assert run.id == ""
    assert outbox.waiting()
    away.start()
    assert outbox.deliver() == [flow_run]
    client = mlflow_client()
    found = client.search_runs(
        [client.get_experiment_by_name("outbox").experiment_id], f"tags.`prefect.flow_run_id` = '{flow_run}'"
    )
    assert len(found) == 1
    assert found[0].data.metrics == {"loss": 0.5, "train_loss": 0.25}
    assert found[0].data.tags["product"] == "toy"
    assert found[0].info.status == "FINISHED"


def test_a_process_whose_disk_ends_with_it_waits_for_mlflow_and_ends_then(away: Server, home: Path) -> None:
    """A pod: nobody comes to its outbox afterwards."""
    away.kill()
    program = (
        "from infra.tracking import run_for\n"
        "with run_for('outbox', 'of-a-pod', 'of a pod') as run: run.metrics({'loss': 0.5})\n"
    )
    environment = {**os.environ, "HEADRACE_OUTBOX_WAIT_S": "300"}
    pod = subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=PROJECT)
    try:
        while not outbox.waiting():
            time.sleep(0.1)
        with pytest.raises(subprocess.TimeoutExpired):
            pod.wait(timeout=15)  # long after its work is done
        away.start()
        assert pod.wait(timeout=120) == 0
    finally:
        pod.kill()
    assert outbox.waiting() == []
    client = mlflow_client()
    (found,) = client.search_runs(
        [client.get_experiment_by_name("outbox").experiment_id], "tags.`prefect.flow_run_id` = 'of-a-pod'"
    )
    assert found.data.metrics == {"loss": 0.5}


def test_a_process_that_waited_long_enough_says_what_is_lost(away: Server, caplog: pytest.LogCaptureFixture) -> None:
    away.kill()
    with run_for("outbox", "in-vain", "in vain") as run:
        run.metrics({"loss": 0.5})
    outbox.last_call(0.1)
    assert "MLflow did not answer" in caplog.text
    assert "in-vain" in caplog.text


def test_a_delivery_that_is_killed_and_repeated_leaves_no_point_twice(away: Server) -> None:
    away.kill()
    flow_run = str(uuid.uuid4())
    with run_for("outbox", flow_run, "twice") as run:
        for step in range(20):
            run.metrics({"loss": float(step)}, step=step)
    file = outbox.waiting()[0]
    kept = file.read_bytes()
    away.start()
    outbox.deliver()
    file.write_bytes(kept + b'{"target": {"exp')  # as one leaves it who dies before he removes it, and within a line
    outbox.deliver()
    client = mlflow_client()
    found = client.search_runs(
        [client.get_experiment_by_name("outbox").experiment_id], f"tags.`prefect.flow_run_id` = '{flow_run}'"
    )
    assert len(found) == 1
    assert [point.value for point in client.get_metric_history(found[0].info.run_id, "loss")] == list(range(20))


def test_a_training_taken_over_while_mlflow_is_away_keeps_its_run(away: Server) -> None:
    with run_for("outbox", str(uuid.uuid4()), "first") as first:
        pass
    away.kill()
    heir = str(uuid.uuid4())
    assert adopt(first.id, heir, "outbox")
    away.start()
    outbox.deliver()
    assert mlflow_client().get_run(first.id).data.tags["prefect.flow_run_id"] == heir
    assert not adopt("0" * 32, heir, "outbox"), "a run that a person deleted was taken for one that is there"


def test_a_refusal_is_an_error_now_and_kept_for_a_person_later(away: Server) -> None:
    from mlflow.exceptions import MlflowException

    target = outbox.Target(experiment="outbox", flow_run_id=str(uuid.uuid4()), name="gone", run_id="0" * 32)
    with pytest.raises(MlflowException):
        outbox.write(target, "metrics", values={"loss": 1.0}, time=1, step=0)
    away.kill()
    outbox.write(target, "metrics", values={"loss": 1.0}, time=1, step=0)
    away.start()
    outbox.deliver()
    assert outbox.waiting() == []
    refused = list((settings().home / "outbox").glob("*.refused.jsonl"))
    assert len(refused) == 1
    assert json.loads(refused[0].read_text())["arguments"]["values"] == {"loss": 1.0}


def test_a_server_that_hangs_is_away_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(2)

        do_POST = do_GET  # noqa: N815 - as the library calls it

    hanging = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hangs)
    threading.Thread(target=hanging.serve_forever, daemon=True).start()
    monkeypatch.setenv("HEADRACE_TRACKING_URI", f"http://127.0.0.1:{hanging.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings.cache_clear()
    outbox._Absence.until = 0.0
    begun = time.monotonic()
    with run_for("outbox", str(uuid.uuid4()), "hung") as run:
        run.metrics({"loss": 1.0})
    hanging.shutdown()
    assert time.monotonic() - begun < 8, "training waited for a server that hangs at every write"
    assert len(outbox.waiting()) == 1


def test_a_gateway_that_refuses_is_not_taken_for_absence(away: Server) -> None:
    from mlflow.exceptions import MlflowException

    words = "API request to endpoint /api/2.0/mlflow/runs/log-batch failed with error code"
    for code, absent in ((413, False), (403, False), (429, True), (408, True), (502, True)):
        assert outbox.absence(MlflowException(f"{words} {code} != 200. Response body: ''")) is absent, code
    assert outbox.absence(MlflowException("API request failed with exception HTTPConnectionPool"))


def test_runs_that_note_the_same_dataset_at_one_moment_all_succeed(away: Server) -> None:
    """MLflow looks for a dataset before it inserts one, and two that look at once both insert."""
    targets = [outbox.Target(experiment="toy", flow_run_id=str(uuid.uuid4()), name=f"run {i}") for i in range(6)]
    runs = [outbox.write(target, "running") for target in targets]
    for version in range(8):
        ready, refused = threading.Barrier(len(targets)), list[Exception]()

        def note(target: outbox.Target, version: int = version, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                outbox.write(target, "dataset", name="toy", version=f"v{version}", location="there", context="training")
            except Exception as error:
                refused.append(error)  # noqa: B023 - joined within this turn

        threads = [threading.Thread(target=note, args=(target,)) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not refused
    for run_id in runs:
        inputs = mlflow_client().get_run(run_id).inputs.dataset_inputs
        assert sorted(entry.dataset.digest for entry in inputs) == [f"v{version}" for version in range(8)]
