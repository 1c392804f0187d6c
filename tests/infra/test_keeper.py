"""The keeper: what it closes, what it delivers, what it starts again, and that nothing makes it give up."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra import keeper, stack
from infra.settings import settings
from infra.stack import Service


class Stop(BaseException):
    """Ends the keeper's endless loop."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only sleeping moves; after an hour the keeper is stopped."""
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if sum(naps) > 3600:
            raise Stop

    monkeypatch.setattr(keeper.time, "sleep", sleep)
    monkeypatch.setattr(keeper.time, "monotonic", lambda: 1000.0 + sum(naps))


def kept() -> None:
    with pytest.raises(Stop):
        keeper.keep()


class Mortal(Service):
    """A service that is dead or alive as a test says."""

    lives: bool = True

    def alive(self) -> bool:
        return self.lives


def test_a_dead_service_is_started_again_within_seconds(monkeypatch: pytest.MonkeyPatch, clock: None) -> None:
    services = {"prefect": Mortal(pid=1, created=0), "worker": Mortal(pid=2, created=0, lives=False)}
    started: list[float] = []

    def up(_: Callable[[str], None]) -> None:
        started.append(keeper.time.monotonic())
        services["worker"] = Mortal(pid=3, created=0)

    monkeypatch.setattr(stack, "known", lambda: services)
    monkeypatch.setattr(stack, "up", up)
    monkeypatch.setattr(keeper, "tidy", lambda _: [])
    kept()
    assert started == [1000.0 + keeper.LOOK_S]


def test_what_dies_again_and_again_is_started_ever_more_slowly_and_never_given_up(
    monkeypatch: pytest.MonkeyPatch, clock: None
) -> None:
    started: list[float] = []
    monkeypatch.setattr(stack, "known", lambda: {"mlflow": Mortal(pid=1, created=0, lives=False)})

    def up(_: Callable[[str], None]) -> None:
        started.append(keeper.time.monotonic())
        raise stack.StackError("mlflow ended while starting")

    monkeypatch.setattr(stack, "up", up)
    kept()
    pauses = [later - earlier for earlier, later in itertools.pairwise(started)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 2 * keeper.LOOK_S
    assert pauses[-1] == keeper.LONGEST_WAIT_S
    assert len(started) > 3600 / keeper.LONGEST_WAIT_S - 3, "it gave up"


def test_after_a_bad_spell_it_looks_as_often_as_before(monkeypatch: pytest.MonkeyPatch, clock: None) -> None:
    started: list[float] = []

    def known() -> dict[str, Mortal]:
        now = keeper.time.monotonic()
        return {"mlflow": Mortal(pid=1, created=0, lives=1400 < now < 3000 or (now > 3000 and max(started) > 3000))}

    monkeypatch.setattr(stack, "known", known)
    monkeypatch.setattr(stack, "up", lambda _: started.append(keeper.time.monotonic()))
    monkeypatch.setattr(keeper, "tidy", lambda _: [])
    kept()
    assert min(one for one in started if one > 3000) <= 3000 + 2 * keeper.LOOK_S


def test_a_damaged_record_does_not_end_the_keeper(monkeypatch: pytest.MonkeyPatch, clock: None) -> None:
    def known() -> dict[str, Mortal]:
        raise stack.StackError("stack.json cannot be read")

    monkeypatch.setattr(stack, "known", known)
    monkeypatch.setattr(stack, "up", lambda _: pytest.fail("nobody knows what is dead"))
    kept()


def test_a_keeper_of_a_healthy_stack_starts_nothing_and_tidies_twice_a_minute(
    monkeypatch: pytest.MonkeyPatch, clock: None
) -> None:
    tidied: list[float] = []
    monkeypatch.setattr(stack, "known", lambda: {"prefect": Mortal(pid=1, created=0)})
    monkeypatch.setattr(stack, "up", lambda _: pytest.fail("nothing was dead"))
    monkeypatch.setattr(keeper, "tidy", lambda _: tidied.append(keeper.time.monotonic()))
    kept()
    assert 90 <= len(tidied) <= 121


def test_the_keeper_itself_is_none_of_those_that_it_starts(monkeypatch: pytest.MonkeyPatch, clock: None) -> None:
    monkeypatch.setattr(stack, "known", lambda: {stack.KEEPER: Mortal(pid=1, created=0, lives=False)})
    monkeypatch.setattr(stack, "up", lambda _: pytest.fail("a keeper that runs must not start a keeper"))
    monkeypatch.setattr(keeper, "tidy", lambda _: [])
    kept()


def test_a_server_that_does_not_answer_does_not_end_the_keeper(monkeypatch: pytest.MonkeyPatch, clock: None) -> None:
    tried: list[int] = []

    def tidy(_: stack.Services) -> list[str]:
        tried.append(1)
        raise stack.StackError("Prefect refused")

    monkeypatch.setattr(stack, "known", lambda: {"prefect": Mortal(pid=1, created=0)})
    monkeypatch.setattr(keeper, "tidy", tidy)
    kept()
    assert len(tried) > 90


def test_where_others_keep_processes_alive_it_only_tidies_and_never_gives_up(
    monkeypatch: pytest.MonkeyPatch, clock: None
) -> None:
    monkeypatch.setenv("HEADRACE_PREFECT_API_URL", "http://prefect.example.org:4200/api")
    settings.cache_clear()
    asked: list[str] = []

    def tidy(services: stack.Services) -> list[str]:
        asked.append(services["prefect"].url)
        raise stack.StackError("Prefect is lost")

    monkeypatch.setattr(keeper, "tidy", tidy)
    monkeypatch.setattr(stack, "up", lambda _: pytest.fail("it starts nothing"))
    with pytest.raises(Stop):
        keeper.keep_tidy()
    settings.cache_clear()
    assert len(asked) > 3600 / keeper.TIDY_S
    assert set(asked) == {"http://prefect.example.org:4200"}


# --------------------------------------------------------------------------------------- task runs left open


@pytest.fixture
def server(prefect_server: str, home: Path) -> Service:
    return Service(pid=0, created=0, address=prefect_server.removesuffix("/api"))


def task_run(flow_state: str, pool: str = stack.POOL) -> Any:
    """A task run that says Running, in a flow run of some state of a pool; returns its id."""
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Running, State, StateType

    @task
    def left_open() -> None:
        pass

    @flow(name=f"ended in {pool}")
    def ended() -> None:
        pass

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
        client.create_deployment(client.create_flow(ended), name="any", work_pool_name=pool)
        flow_run = client.create_flow_run(ended)
        run = client.create_task_run(left_open, flow_run_id=flow_run.id, dynamic_key="0", state=Running())
        client.set_flow_run_state(flow_run.id, Running(), force=True)
        if flow_state != "RUNNING":
            client.set_flow_run_state(flow_run.id, State(type=StateType(flow_state)), force=True)
    return run.id


def state_of(run: Any) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        state = client.read_task_run(run).state
    assert state
    return state.type.value


def closed(server: Service, run: Any) -> bool:
    """Whether a look at what is left open closes a task run; the server hears of states a moment later."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        keeper.close_dangling_task_runs(server)
        if state_of(run) == "CRASHED":
            return True
        time.sleep(0.5)
    return False


@pytest.mark.parametrize("flow_state", ["CRASHED", "FAILED", "CANCELLED", "COMPLETED"])
def test_a_task_run_that_its_dead_flow_run_left_open_is_closed(
    server: Service, monkeypatch: pytest.MonkeyPatch, flow_state: str
) -> None:
    monkeypatch.setattr(keeper, "SETTLED_S", -5)
    assert closed(server, task_run(flow_state))


def test_a_task_run_of_a_flow_run_that_ended_a_moment_ago_is_left_its_last_word(server: Service) -> None:
    run = task_run("COMPLETED")
    time.sleep(1)
    keeper.close_dangling_task_runs(server)
    assert state_of(run) == "RUNNING"


def test_a_task_run_of_a_flow_run_under_way_is_left_alone(server: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SETTLED_S", -5)
    run = task_run("RUNNING")
    time.sleep(1)
    keeper.close_dangling_task_runs(server)
    assert state_of(run) == "RUNNING"


def test_a_task_run_of_somebody_else_is_left_alone(server: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SETTLED_S", -5)
    ours, others = task_run("CRASHED"), task_run("CRASHED", "of-others")
    assert closed(server, ours)
    assert state_of(others) == "RUNNING"
