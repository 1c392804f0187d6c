"""The stack's own bookkeeping, with small listeners in place of the servers."""

import importlib
import io
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from infra import stack
from infra.settings import settings
from infra.stack import Service, StackError

# A server that answers every question with 200 and has a child, and a child with a session of its own.
SERVER = """
import http.server, subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"[]")
    do_GET = do_POST = answer
    def log_message(self, *_): pass
http.server.HTTPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
WORKER = "import time; time.sleep(600)"
FIRST = {"prefect": 24800, "mlflow": 25800}


@pytest.fixture
def fake(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose services are small Python programs."""

    def commands(name: str, port: int) -> list[str]:
        return [sys.executable, "-c", SERVER if name in stack.SERVERS else WORKER, str(port)]

    monkeypatch.setattr(stack, "_commands", commands)
    monkeypatch.setattr(stack, "_create_pool", lambda _: None)
    for name, port in FIRST.items():
        monkeypatch.setenv(f"HEADRACE_{name.upper()}_PORT", str(port))
    monkeypatch.delenv("HEADRACE_TRACKING_URI")
    settings.cache_clear()
    yield home
    stack.down()


def quiet(_: str) -> None:
    """Nobody listens."""


def kill(service: Service) -> None:
    """End a leader without asking, and only it."""
    os.kill(service.pid, signal.SIGKILL)
    while service.alive():
        time.sleep(0.05)


def bearers(name: str) -> list[psutil.Process]:
    """Processes of a service, whoever is their parent."""
    return stack._family(name, None)


def changed(before: stack.Services, after: stack.Services) -> set[str]:
    return {name for name in after if after[name] != before[name]}


def test_up_twice_is_up_once_and_down_leaves_nothing(fake: Path) -> None:
    first = stack.up(quiet)
    assert stack.up(quiet) == first == stack.known()
    assert len(bearers("prefect")) == 3
    assert stack.down() == ["keeper", "worker", "mlflow", "prefect"]
    assert not any(bearers(name) for name in first)
    assert stack.down() == []


def test_a_killed_server_comes_back_where_it_was_and_the_worker_with_it(fake: Path) -> None:
    before = stack.up(quiet)
    orphans = bearers("mlflow")
    kill(before["mlflow"])
    after = stack.up(quiet)
    assert changed(before, after) == {"mlflow", "worker"}
    assert after["mlflow"].url == before["mlflow"].url
    assert not any(stack._runs(orphan) for orphan in orphans)


def test_down_ends_what_a_killed_leader_left_behind_even_without_a_record(fake: Path) -> None:
    services = stack.up(quiet)
    for service in services.values():
        kill(service)
    (stack.folder() / "stack.json").unlink()
    assert stack.down() == ["mlflow", "prefect"]  # worker and keeper had no children
    assert not any(bearers(name) for name in services)


def test_a_member_of_the_session_is_found_without_the_mark(fake: Path) -> None:
    service = stack.up(quiet)["prefect"]
    kill(service)
    assert len(stack._family("another name", service)) == 1  # the other child has its own session


def test_a_number_that_was_used_again_is_not_ours(fake: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER], start_new_session=True) as stranger:
        created = psutil.Process(stranger.pid).create_time()
        once = Service(pid=stranger.pid, created=created, birth=f"{stack._birth(os.getpid()).split()[0]} 1")
        assert not once.alive()
        assert stack._family("worker", once) == []
        assert Service(pid=stranger.pid, created=created).alive()  # a record of an earlier headrace has no birth
        stranger.kill()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux counts from boot")
def test_a_set_clock_does_not_make_a_service_a_stranger() -> None:
    mine = Service(pid=os.getpid(), created=0.0, birth=stack._birth(os.getpid()))
    assert mine.alive()


def test_other_settings_restart_an_idle_worker_and_no_server(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stack.up(quiet)
    monkeypatch.setenv("HEADRACE_MIRROR", "mirror")
    settings.cache_clear()
    after = stack.up(quiet)
    assert changed(before, after) == {"worker", "keeper"}  # the keeper would start the next worker with the old ones
    environment = psutil.Process(after["worker"].pid).environ()
    assert environment["HEADRACE_MIRROR"] == str(Path("mirror").resolve())
    assert stack.up(quiet) == after


def test_a_busy_worker_keeps_its_settings_and_says_so(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stack.up(quiet)
    said: list[str] = []
    monkeypatch.setattr(stack, "_executes", lambda _: True)
    monkeypatch.setenv("HEADRACE_MIRROR", "/mirror")
    settings.cache_clear()
    assert changed(before, stack.up(said.append)) == {"keeper"}
    assert len(said) == 1
    assert "keeps the settings" in said[0]


def test_a_keeper_whose_server_came_back_elsewhere_does_not_end_itself(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.folder().mkdir(parents=True)
    record = {stack.KEEPER: Service(pid=os.getpid(), created=0, digest="before")}
    monkeypatch.setenv("HEADRACE_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setattr(stack, "environment", lambda _: {"HEADRACE_TRACKING_URI": "http://127.0.0.1:5001"})
    monkeypatch.setattr(stack, "_end", lambda *_: pytest.fail("it would end itself"))
    stack._start_keeper(record, "after")
    assert stack.known()[stack.KEEPER].digest not in ("", "before")
    assert settings().tracking_uri == "http://127.0.0.1:5001"


def test_a_keeper_of_another_database_is_replaced_before_it_leads_the_servers_back(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stack.up(quiet)
    monkeypatch.setenv("HEADRACE_MLFLOW_ARTIFACTS", str(fake / "elsewhere"))
    settings.cache_clear()
    assert {"mlflow", stack.KEEPER} <= changed(before, stack.up(quiet))
    again = stack.known()
    assert changed(again, stack.up(quiet)) == set()


def test_a_damaged_record_is_an_error_by_name_and_no_reason_not_to_end_the_stack(fake: Path) -> None:
    stack.up(quiet)
    (stack.folder() / "stack.json").write_text("")
    with pytest.raises(StackError, match=r"stack\.json cannot be read"):
        stack.known()
    stack.down()
    assert not any(bearers(name) for name in (*stack.SERVERS, "worker", stack.KEEPER))


def test_leases_of_slots_outlive_a_restart_of_the_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose lease is forgotten ends itself within minutes; with Redis they are there."""
    values = stack._server_environment("prefect", "http://127.0.0.1:1")
    assert importlib.import_module(values["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]).ConcurrencyLeaseStorage
    assert "memory" not in values["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    assert float(values["PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION"]) / 4 >= 300
    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://127.0.0.1:6379/0")
    settings.cache_clear()
    values = stack._server_environment("prefect", "http://127.0.0.1:1")
    assert values["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == "prefect_redis.lease_storage"


def test_children_make_a_worker_busy() -> None:
    def service(process: Any) -> Service:
        return Service(pid=process.pid, created=psutil.Process(process.pid).create_time())

    code = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WORKER!r}], start_new_session=True).wait()"
    )
    with (
        subprocess.Popen([sys.executable, "-c", WORKER]) as idle,
        subprocess.Popen([sys.executable, "-c", code]) as busy,
    ):
        deadline = time.monotonic() + 20
        while not stack._executes(service(busy)) and time.monotonic() < deadline:
            time.sleep(0.1)
        family = psutil.Process(busy.pid).children(recursive=True)
        assert family
        assert not stack._executes(service(idle))
        for process in (idle, busy, *family):
            process.kill()


def test_a_stranger_that_takes_the_port_is_not_taken_for_ours(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER, str(FIRST["prefect"])], start_new_session=True) as stranger:
        deadline = time.monotonic() + 20
        while stack._is_free(FIRST["prefect"]) and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            # The race: the port was free when we looked.
            found = iter([FIRST["prefect"]])
            choose = stack._free_port
            monkeypatch.setattr(
                stack, "_free_port", lambda first, previous: next(found, None) or choose(first, previous)
            )
            services = stack.up(quiet)
            assert services["prefect"].port == FIRST["prefect"] + 1
            assert stranger.poll() is None
        finally:
            for process in psutil.Process(stranger.pid).children(recursive=True):
                process.kill()
            stranger.kill()


def test_a_server_that_ends_by_itself_is_an_error_with_its_log(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_commands", lambda *_: [sys.executable, "-c", "raise SystemExit('no disk')"])
    with pytest.raises(StackError, match=r"prefect ended while starting; .*prefect\.log ends:\nno disk"):
        stack.up(quiet)


def test_a_proxy_is_not_asked_for_loopback(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    services = stack.up(quiet)
    assert stack.environment(services)["no_proxy"] == "example.org,127.0.0.1,localhost"


def test_the_tracking_server_of_the_user_wins_and_that_of_the_stack_is_not_his(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = {"mlflow": Service(pid=1, created=0, port=5001)}
    exported = stack.environment(services)
    assert exported["HEADRACE_TRACKING_URI"] == exported["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5001"
    for name in ("HEADRACE_TRACKING_URI", stack.STACK_TRACKING_URI):
        monkeypatch.setenv(name, exported[name])  # what `headrace env` puts into a shell
    moved = {"mlflow": Service(pid=1, created=0, port=5002)}
    assert stack.environment(moved)["HEADRACE_TRACKING_URI"] == "http://127.0.0.1:5002"
    monkeypatch.setenv("HEADRACE_TRACKING_URI", "https://mlflow.example.org")
    chosen = stack.environment(moved)
    assert chosen["HEADRACE_TRACKING_URI"] == chosen["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"


@pytest.mark.parametrize(
    ("place", "found"), [("s3://bucket/x", "s3://bucket/x"), ("here", str(Path("here").resolve()))]
)
def test_the_store_is_absolute_unless_it_is_a_url(
    home: Path, place: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STORE", place)
    settings.cache_clear()
    assert stack.environment({})["HEADRACE_STORE"] == found


def test_flows_are_deployed_again_only_when_something_changed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    code = 0

    def deploy(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.extend([1] if "deploy" in command else [])  # the automations follow
        return subprocess.CompletedProcess([], code, "words", "")

    stack.folder().mkdir(parents=True)
    monkeypatch.setattr(subprocess, "run", deploy)
    one, other = ({"prefect": Service(pid=pid, created=0, port=4200)} for pid in (1, 2))
    stack.deploy(one)
    stack.deploy(one)
    assert len(calls) == 1
    stack.deploy(one, always=True)
    stack.deploy(other)
    assert len(calls) == 3
    code = 1
    with pytest.raises(StackError, match="words"):
        stack.deploy(one)
    code = 0
    stack.deploy(other)  # the failure may have changed anything
    assert len(calls) == 5


def test_dead_runs_and_what_they_started_are_crashed_and_no_others(prefect_server: str) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Completed, Pending, Running

    @flow
    def night() -> None: ...

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=stack.POOL, type="process"), overwrite=True)

        prefect = Service(pid=1, created=0, port=int(prefect_server.split(":")[2].split("/")[0]))
        stack.crash_dead_runs(prefect, "left by other tests")

        def run(state: Any, pool: str | None = stack.POOL) -> Any:
            return client.create_flow_run(night, state=state, work_pool_name=pool).id

        dead = [run(Running()), run(Pending())]
        others = [run(Running(), None), run(Completed())]
        assert set(stack.crash_dead_runs(prefect, "the worker died")) == {str(one) for one in dead}
        for one in dead:
            state = client.read_flow_run(one).state
            assert state is not None
            assert (state.name, state.message) == ("Crashed", "the worker died")
        assert [client.read_flow_run(one).state.name for one in others] == ["Running", "Completed"]  # type: ignore[union-attr]
        assert stack.crash_dead_runs(prefect, "again") == []


def test_addresses_are_whole_on_one_line_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import follow
    from infra.refs import Outcome

    address = "http://127.0.0.1:4200/runs/flow-run/" + "a" * 36
    monkeypatch.setattr(follow, "url_of", lambda run_id: f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}")
    outcome = Outcome(
        kind="index",
        product="retrieval-generated",
        version="12388bddc9bb",
        status="published",
        reason="",
        headline="recall_at_10",
        value=1,
        certificate="exact: holds",
        live="",
        run_id="b" * 32,
    )
    console = Console(width=40, file=io.StringIO())
    follow.show(follow.Followed("Published", address, [outcome]), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert f"flow run  {address}" in lines
    assert f"MLflow    http://127.0.0.1:5000/#/experiments/1/runs/{'b' * 32}" in lines


@pytest.mark.parametrize(
    ("state", "statuses", "code"),
    [("Healthy", [], 0), ("Degraded", [], 4), ("Published", ["published"], 0), ("Refused", ["refused"], 3)],
)
def test_the_exit_code_of_a_run(state: str, statuses: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import cli, follow

    outcomes: Any = [types.SimpleNamespace(status=one, product="p", version="v", reason="r") for one in statuses]
    monkeypatch.setattr(cli, "_ready", lambda **_: {})
    monkeypatch.setattr(follow, "follow", lambda *_: follow.Followed(state, "http://address", outcomes))
    monkeypatch.setattr(follow, "show", lambda *_: None)
    assert CliRunner().invoke(cli.app, ["run"]).exit_code == code


def test_what_breaks_the_stack_is_a_sentence_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from infra import cli, follow

    def fail(error: Exception) -> Any:
        def failing(*_: object, **__: object) -> None:
            raise error

        return failing

    monkeypatch.setattr(cli, "_ready", fail(StackError("no port [is] free")))
    for command in ("up", "run"):
        assert CliRunner().invoke(cli.app, [command]).exit_code == 1
    monkeypatch.setattr(cli, "_ready", lambda **_: {"prefect": Service(pid=1, created=0, port=4200)})
    monkeypatch.setattr(follow, "follow", fail(httpx.ConnectError("refused")))
    assert CliRunner().invoke(cli.app, ["run"]).exit_code == 1
