"""The local stack as a person uses it: up, deploy, trigger over REST, a schedule that fires by itself, down."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

HEADRACE = str(Path(sys.executable).parent / "headrace")
PROJECT = Path(__file__).parent.parent
SMALL = {
    "data": {"name": "stack-test", "generator": {"users": 120, "items": 240, "events": 15}},
    "encoder": {"training": {"epochs": 2, "batch_size": 128}},
    "judgement": {"cases": 16, "margin": 1.0},
}


class Stack:
    """A running stack and its API."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "HEADRACE_HOME": str(home), "HEADRACE_TRACKING_URI": ""}
        self.environment |= {"HEADRACE_PREFECT_PORT": "4700", "HEADRACE_MLFLOW_PORT": "5700"}
        self.environment |= {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}  # a minute otherwise
        for name in ("PREFECT_API_URL", "PREFECT_HOME"):
            self.environment.pop(name, None)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HEADRACE, *words],
            env=self.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def services(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "stack" / "stack.json").read_text())
        return found

    def call(self, method: str, path: str, body: Any = None) -> Any:
        port = self.services()["prefect"]["port"]
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            text = reply.read()
        return json.loads(text) if text else None

    def wait(self, flow_run: str, seconds: float = 200) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.call("GET", f"/flow_runs/{flow_run}")
            if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found
            time.sleep(1)
        raise AssertionError(f"flow run {flow_run} is still {found['state_name']}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("home of the stack"))  # a path with spaces
    try:
        done = running.command("up")
        assert done.returncode == 0, done.stdout + done.stderr
        yield running
    finally:
        running.command("down")


@pytest.mark.timeout(600)
def test_up_twice_is_up_once(stack: Stack) -> None:
    before = stack.services()
    done = stack.command("up")
    assert done.returncode == 0, done.stdout
    assert stack.services() == before


@pytest.mark.timeout(600)
def test_a_run_triggered_over_rest_uses_the_parameters_that_were_sent(stack: Stack) -> None:
    deployment = stack.call("GET", "/deployments/name/retrieval/tiny")
    flow_run = stack.call("POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"config": SMALL}})
    ended = stack.wait(flow_run["id"])
    assert (ended["state_type"], ended["state_name"]) == ("COMPLETED", "Published"), ended["state"]["message"]
    current = json.loads((stack.home / "store" / "index" / "retrieval-stack-test" / "CURRENT").read_text())
    assert current["version"] in ended["state"]["message"]
    artifacts = stack.call("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}})
    assert {"table", "image", "markdown"} <= {artifact["type"] for artifact in artifacts}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"data": {"source": "nowhere"}}, "source"),
        ({"encoder": {"training": {"epochs": 0}}}, "epochs"),
        ({"judgement": {"k": "many"}}, "k"),
    ],
)
def test_bad_parameters_are_refused_by_the_api_with_the_path_of_the_field(
    stack: Stack, config: dict[str, Any], field: str
) -> None:
    deployment = stack.call("GET", "/deployments/name/retrieval/tiny")
    with pytest.raises(urllib.error.HTTPError) as caught:
        stack.call("POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"config": config}})
    assert caught.value.code in (409, 422)
    assert field in caught.value.read().decode()


@pytest.mark.timeout(600)
def test_a_schedule_fires_by_itself(stack: Stack) -> None:
    deployment = stack.call("GET", "/deployments/name/retrieval-rollback/any")
    began = datetime.now(UTC)
    made = stack.call(
        "POST",
        f"/deployments/{deployment['id']}/schedules",
        [{"schedule": {"interval": 5, "anchor_date": began.isoformat()}, "active": True}],
    )
    fired: list[Any] = []
    deadline = time.monotonic() + 200
    query = {
        "flow_runs": {
            "deployment_id": {"any_": [deployment["id"]]},
            "state": {"type": {"any_": ["FAILED", "COMPLETED"]}},
        }
    }
    while not fired and time.monotonic() < deadline:
        time.sleep(2)
        fired = stack.call("POST", "/flow_runs/filter", query)
    stack.call("DELETE", f"/deployments/{deployment['id']}/schedules/{made[0]['id']}")
    assert fired, "no scheduled run was executed"
    assert fired[0]["auto_scheduled"]
    # nothing is live under the default name in this home: the run did its work and says so
    assert "no index named 'retrieval-generated' is live" in fired[0]["state"]["message"]


@pytest.mark.timeout(600)
def test_the_servers_logged_no_error(stack: Stack) -> None:
    """A scheduler that fails on every pass is told by the log alone.

    Two writers that meet on SQLite are not counted: Prefect logs the second one, and tries again.
    """
    for name in ("prefect", "mlflow"):
        lines = (stack.home / "stack" / f"{name}.log").read_text().splitlines()
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        bad = [line for line in errors if "database is locked" not in line]
        assert bad == [], name


# After the logs were read: without a worker, what Prefect's services write collides on SQLite, is logged, tried again.
@pytest.mark.timeout(600)
def test_what_a_killed_worker_leaves_behind_is_crashed_and_blocks_nobody(stack: Stack) -> None:
    deployment = stack.call("GET", "/deployments/name/retrieval/tiny")
    create = f"/deployments/{deployment['id']}/create_flow_run"
    parameters = {"parameters": {"config": SMALL | {"data": SMALL["data"] | {"name": "stack-killed"}}}}
    flow_run = stack.call("POST", create, parameters)
    deadline = time.monotonic() + 200
    while stack.call("GET", f"/flow_runs/{flow_run['id']}")["state_type"] != "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.5)
    before = stack.services()
    worker = psutil.Process(before["worker"]["pid"])
    for process in (worker, *worker.children(recursive=True)):  # first the worker, so that it reports nothing
        process.kill()
    assert stack.call("GET", f"/flow_runs/{flow_run['id']}")["state_type"] == "RUNNING"
    done = stack.command("up")
    assert done.returncode == 0, done.stdout
    assert {name for name, service in stack.services().items() if service != before[name]} == {"worker"}
    ended = stack.call("GET", f"/flow_runs/{flow_run['id']}")
    assert (ended["state_name"], "worker" in ended["state"]["message"]) == ("Crashed", True)
    again = stack.wait(stack.call("POST", create, parameters)["id"])
    assert again["state_type"] == "COMPLETED", again["state"]["message"]


@pytest.mark.timeout(600)
def test_down_stops_what_up_started_and_nothing_else(stack: Stack) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        pids = [service["pid"] for service in stack.services().values()]
        children = [child for pid in pids for child in psutil.Process(pid).children(recursive=True)]
        done = stack.command("down")
        assert done.returncode == 0, done.stderr
        assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
        assert not any(child.is_running() for child in children)
        assert bystander.poll() is None
        assert "nothing was running" in stack.command("down").stdout
    finally:
        bystander.kill()
