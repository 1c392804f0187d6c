"""A real stack of its own, whose workers, flows and servers are killed, and what comes of it.

Everything here goes through what a person has: deployments, the Prefect API, processes that the kernel kills.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).parent.parent
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
SERVERS = ("prefect", "mlflow")

RETRIED_AFTER_S = 12
"""No person is faster; and Prefect's worker says Crashed a second time some six seconds after the first."""

LEARNING = {
    "data": {"name": "operated", "generator": {"users": 200, "items": 400}},
    "encoder": {"training": {"epochs": 6, "batch_size": 256}},
    "judgement": {"cases": 24, "margin": 1.0},
}
"""Every step of the tiny configuration, with less to learn."""


@dataclass
class Stack:
    """A running stack with a home and ports of its own.

    Attributes:
        home: its folder.
        port: first port tried for Prefect; MLflow's is a thousand higher.
    """

    home: Path
    port: int
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "PREFECT_"))}
        self.environment = {
            **kept,
            "HEADRACE_HOME": str(self.home),
            "HEADRACE_PREFECT_PORT": str(self.port),
            "HEADRACE_MLFLOW_PORT": str(self.port + 1000),
        }

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `headrace` with these words."""
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", *words],
            env=self.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def up(self) -> None:
        """Start what does not run."""
        done = self.command("up")
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    def down(self) -> None:
        """Stop everything."""
        self.command("down")

    def services(self) -> dict[str, Any]:
        """Services as the stack recorded them."""
        found: dict[str, Any] = json.loads((self.home / "stack" / "stack.json").read_text())
        return found

    def call(self, path: str, body: Any = None, method: str = "") -> Any:
        """Ask the Prefect API; waits for a server that is away."""
        address = f"http://127.0.0.1:{self.services()['prefect']['port']}/api{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        for attempt in range(200):
            request = urllib.request.Request(
                address, data, headers, method=method or ("GET" if body is None else "POST")
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                    text = reply.read()
                return json.loads(text) if text else None
            except OSError as error:
                busy = getattr(error, "code", 503) == 503  # SQLite has one writer, and somebody else was it
                if attempt == 199 or not busy:
                    raise
                time.sleep(1)
        raise AssertionError

    def trigger(self, deployment: str, parameters: dict[str, Any] | None = None) -> str:
        """Run a deployment; returns the flow run."""
        found = self.call(f"/deployments/name/{deployment}")
        body = {"parameters": {**found["parameters"], **(parameters or {})}}
        return str(self.call(f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def state(self, flow_run: str) -> dict[str, Any]:
        """The state of a flow run."""
        found: dict[str, Any] = self.call(f"/flow_runs/{flow_run}")
        return {"type": found["state_type"], "name": found["state_name"], "message": (found["state"] or {})["message"]}

    def wait(self, flow_run: str, types: tuple[str, ...] = FINAL, seconds: float = 900) -> dict[str, Any]:
        """Wait for a state of one of these types."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.state(flow_run)
            if found["type"] in types:
                return found
            time.sleep(0.3)
        return {**self.state(flow_run), "late": True}

    def wait_for_task(self, flow_run: str, task: str, seconds: float = 300) -> None:
        """Wait until a task of a flow run is under way."""
        deadline = time.monotonic() + seconds
        query = {"flow_runs": {"id": {"any_": [flow_run]}}}
        while time.monotonic() < deadline:
            if any(run["name"].startswith(task) for run in self.call("/task_runs/filter", query)):
                return
            time.sleep(0.3)
        raise TimeoutError(f"{task} of {flow_run} did not begin within {seconds} s: {self.state(flow_run)}")

    def retry(self, flow_run: str) -> None:
        """What the button in the UI does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "retried by a person"}
        self.call(f"/flow_runs/{flow_run}/set_state", {"state": state, "force": True})

    def kill(self, name: str) -> None:
        """Kill a service and all that it started, flow runs excepted: they have sessions of their own."""
        leader = psutil.Process(self.services()[name]["pid"])
        family = [leader, *([] if name in ("worker", "keeper") else leader.children(recursive=True))]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def kill_flow(self, flow_run: str) -> int:
        """Kill the processes of a flow run; returns how many there were."""
        found = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if flow_run in process.environ().get("PREFECT__FLOW_RUN_ID", ""):
                    process.kill()
                    found += 1
        return found

    def digest(self, kind: str, product: str) -> str:
        """Digest of what is live, every byte checked."""
        from infra.refs import Index, Model
        from infra.store import Store

        store = Store(str(self.home / "store"))
        live = store.live({"index": Index, "model": Model}[kind], product)
        store.verify(live)
        return live.digest

    def forget(self) -> None:
        """Remove products, checkpoints and cached results, so that the next run does everything anew."""
        for folder in ("store", "scratch", "prefect/storage"):
            shutil.rmtree(self.home / folder, ignore_errors=True)

    def repeated(self, flow_run: str) -> list[str]:
        """Tasks of a flow run that ended twice without being cached."""
        query = {"task_runs": {}, "flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}
        ends: dict[str, int] = {}
        for run in self.call("/task_runs/filter", query):
            if run["state_name"] == "Completed":
                ends[run["name"].rpartition("-")[0]] = ends.get(run["name"].rpartition("-")[0], 0) + 1
        return sorted(task for task, count in ends.items() if count > 1)

    def metric_steps(self, flow_run: str, metric: str) -> list[int]:
        """Steps of a metric in the MLflow run of a flow run."""
        address = f"http://127.0.0.1:{self.services()['mlflow']['port']}/api/2.0/mlflow"
        experiments = self._mlflow(f"{address}/experiments/search", {"max_results": 100})["experiments"]
        body = {
            "experiment_ids": [one["experiment_id"] for one in experiments],
            "filter": f"tags.`prefect.flow_run_id` = '{flow_run}'",
        }
        runs = self._mlflow(f"{address}/runs/search", body).get("runs", [])
        if len(runs) != 1:
            raise AssertionError(f"{len(runs)} MLflow runs of {flow_run}")
        history = self._mlflow(
            f"{address}/metrics/get-history?run_id={runs[0]['info']['run_id']}&metric_key={metric}&max_results=10000"
        )
        return sorted(int(point.get("step", 0)) for point in history.get("metrics", []))

    def _mlflow(self, address: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            return json.loads(reply.read())


@contextlib.contextmanager
def stack(home: Path, port: int) -> Iterator[Stack]:
    """A stack for the length of the block."""
    running = Stack(home, port)
    try:
        running.up()
        yield running
    finally:
        running.down()


def learning(seed: int, epochs: int = 6, **training: Any) -> dict[str, Any]:
    """Parameters of a run that learns for a while."""
    changed = {"epochs": epochs, "batch_size": 256, "seed": seed, **training}
    return {"config": {**LEARNING, "encoder": {"training": changed}}}


def killed(running: Stack, victim: str, after_s: float, deployment: str = "retrieval/tiny") -> dict[str, Any]:
    """Kill a service, or the flow, some time into a run; retry if it crashed; compare.

    Args:
        running: the stack.
        victim: flow, worker, prefect or mlflow.
        after_s: seconds from the state Running to the kill.
        deployment: what runs.

    Returns:
        States, the digest of what is live, tasks that ended twice, retries.
    """
    running.forget()
    flow_run = running.trigger(deployment, learning(0))
    first = running.wait(flow_run, ("RUNNING", *FINAL))
    time.sleep(after_s)
    under_way = running.state(flow_run)["type"] == "RUNNING"
    if victim == "flow":
        running.kill_flow(flow_run)
    else:
        running.kill(victim)
    state, retries = running.wait(flow_run), 0
    while state["type"] != "COMPLETED" and retries < 3:
        retries += 1
        time.sleep(RETRIED_AFTER_S)
        running.retry(flow_run)
        running.wait(flow_run, ("RUNNING",), 120)
        state = running.wait(flow_run)
    kind = "model" if "encoder" in deployment else "index"
    return {
        "first": first["type"],
        "under_way": under_way,
        "state": f"{state['type']}/{state['name']}",
        "retries": retries,
        "digest": running.digest(kind, "retrieval-operated") if state["type"] == "COMPLETED" else "",
        "repeated": running.repeated(flow_run),
    }


def dead_together(running: Stack, flow_runs: list[str], *, keeper: bool) -> list[dict[str, Any]]:
    """Kill a worker and its flows at one moment, and time how long each is still called Running.

    Args:
        running: the stack; its worker executes the flow runs.
        flow_runs: what is under way.
        keeper: whether the keeper lives on; if not, the automation is alone.

    Returns:
        Seconds, state and message of each.
    """
    if not keeper:
        running.kill("keeper")
    running.kill("worker")
    found = [running.kill_flow(flow_run) for flow_run in flow_runs]
    begun, ended = time.monotonic(), dict[str, dict[str, Any]]()
    while len(ended) < len(flow_runs) and time.monotonic() - begun < 300:
        for flow_run in flow_runs:
            if flow_run not in ended and (state := running.state(flow_run))["type"] in FINAL:
                ended[flow_run] = {**state, "seconds": round(time.monotonic() - begun, 1)}
        time.sleep(0.2)
    return [
        ended.get(flow_run, {**running.state(flow_run), "seconds": 300.0}) | {"processes": count}
        for flow_run, count in zip(flow_runs, found, strict=True)
    ]


def away(running: Stack, server: str, seconds: float, flow_runs: list[str], epochs: int) -> list[dict[str, Any]]:
    """Take a server away for some time while runs learn, and look at what is missing afterwards.

    Args:
        running: the stack.
        server: prefect or mlflow.
        seconds: how long it is away.
        flow_runs: what is under way.
        epochs: points that a metric must have in the end.

    Returns:
        State, message and missing points of each.
    """
    running.kill("keeper")  # it would bring the server back within seconds
    running.kill(server)
    time.sleep(seconds)
    running.up()
    found = []
    for flow_run in flow_runs:
        state = running.wait(flow_run)
        deadline = time.monotonic() + 90
        missing = epochs
        while missing and time.monotonic() < deadline:
            with contextlib.suppress(AssertionError, OSError):
                missing = epochs - len(set(running.metric_steps(flow_run, "train_loss")))
            time.sleep(1)
        found.append({**state, "missing": missing})
    return found


def moments(count: int, seed: int, longest: float) -> list[float]:
    """Random seconds into a run, rising."""
    draw = random.Random(seed)
    return sorted(round(draw.uniform(0, longest), 2) for _ in range(count))


def publishing(root: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill a publisher again and again while a reader polls.

    Args:
        root: a fresh store.
        kills: how many publishers die.
        seed: of the moments.

    Returns:
        Reads, reads that were wrong, versions that were seen, publishers that were killed in the act.
    """
    import multiprocessing

    from tests.publishers import publish_for_ever, read_for_ever

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.publishers"])
    stop, told = context.Event(), context.Queue()
    reader = context.Process(target=read_for_ever, args=(str(root), stop, told))
    draw, killed_in_act = random.Random(seed), 0
    began = context.Value("i", 0)
    first = context.Process(target=publish_for_ever, args=(str(root), 0, began, 3))
    first.start()
    first.join()
    reader.start()
    for number in range(kills):
        before = began.value
        publisher = context.Process(target=publish_for_ever, args=(str(root), 1 + number, began, 1_000_000))
        publisher.start()
        while began.value == before:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.12))
        killed_in_act += publisher.is_alive()
        os.kill(publisher.pid or 0, signal.SIGKILL)
        publisher.join()
    stop.set()
    found: dict[str, Any] = told.get(timeout=60)
    reader.join()
    return {**found, "killed": killed_in_act, "publishes": began.value}
