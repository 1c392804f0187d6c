"""The automations: which there are, when they call a run dead, and the grace after an outage of the server."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra import automations


@pytest.fixture
def client(prefect_server: str) -> Iterator[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client
        for name in (automations.DEAD, automations.STILLBORN):
            for automation in client.read_automations_by_name(name):
                client.delete_automation(automation.id)


def test_the_automations_are_made_once_however_often_they_are_asked_for(client: Any) -> None:
    silences = {automations.DEAD: automations.SILENCE_S, automations.STILLBORN: automations.STILLBORN_S}
    assert automations.create() == list(silences)
    automations.create()
    for name, seconds in silences.items():
        (found,) = client.read_automations_by_name(name)
        assert found.enabled
        assert found.trigger.within == timedelta(seconds=seconds)
        assert [action.type for action in found.actions] == ["change-flow-run-state"]


def test_a_run_that_was_taken_is_not_waited_for_by_the_silence_of_those_that_began(client: Any) -> None:
    """An image may have to be fetched, for minutes, before a run says its first word."""
    automations.create()
    (dead,), (stillborn,) = map(client.read_automations_by_name, (automations.DEAD, automations.STILLBORN))
    assert stillborn.trigger.after == {"prefect.flow-run.Pending"}
    assert not dead.trigger.after & stillborn.trigger.after


def test_an_automation_that_a_person_switched_off_stays_off(client: Any) -> None:
    automations.create()
    (found,) = client.read_automations_by_name(automations.DEAD)
    client.pause_automation(found.id)
    automations.create()
    (again,) = client.read_automations_by_name(automations.DEAD)
    assert not again.enabled


def test_an_automation_of_an_older_headrace_is_brought_up_to_date(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(automations, "SILENCE_S", 3600)
        automations.create()
    (before,) = client.read_automations_by_name(automations.DEAD)
    automations.create()
    (now,) = client.read_automations_by_name(automations.DEAD)
    assert (before.trigger.within, now.trigger.within) == (timedelta(hours=1), timedelta(seconds=90))


def test_only_flows_of_our_work_pool_are_watched(client: Any) -> None:
    """Whoever shares the server may beat every three minutes, as Prefect does by itself."""
    from prefect.client.schemas.actions import WorkPoolCreate

    from infra.stack import POOL

    with contextlib.ExitStack() as after:
        for pool, name in ((POOL, "of-ours"), ("of-others", "of-somebody-else")):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
            deployed = client.create_deployment(client.create_flow_from_name(name), name="any", work_pool_name=pool)
            after.callback(client.delete_deployment, deployed)
        automations.create()
        (found,) = client.read_automations_by_name(automations.DEAD)
    assert "of-ours" in found.trigger.match_related["prefect.resource.name"]
    assert "of-somebody-else" not in found.trigger.match_related["prefect.resource.name"]


def test_three_missing_heartbeats_are_silence_and_the_verdict_comes_within_two_minutes() -> None:
    assert automations.SILENCE_S >= 3 * automations.SIGN_OF_LIFE_S
    assert automations.SILENCE_S + automations.SIGN_OF_LIFE_S <= 120


def test_flow_runs_beat_as_often_as_the_automation_expects(home: Path) -> None:
    from infra import stack

    beats = stack.environment({})["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
    assert float(beats) == automations.SIGN_OF_LIFE_S


# ------------------------------------------------------------------------------------------------------- grace


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's own tables in a SQLite file, made by Prefect's own migrations."""
    file = tmp_path_factory.mktemp("prefect-database") / "prefect.db"
    program = (
        "import asyncio; from prefect.server.database import provide_database_interface as provide; "
        "asyncio.run(provide().create_db())"
    )
    url = f"sqlite+aiosqlite:///{file}"
    environment = {**os.environ, "PREFECT_SERVER_DATABASE_CONNECTION_URL": url, "PREFECT_HOME": str(file.parent)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
    return file


def wait_for(database: Path, end: datetime) -> None:
    """Let Prefect wait for a run until a moment, written as Prefect itself would write it."""
    import sqlalchemy as sa
    from prefect.server.database.orm_models import Automation, AutomationBucket

    engine = sa.create_engine(f"sqlite:///{database}")
    with engine.begin() as connection:
        connection.execute(sa.delete(AutomationBucket))
        connection.execute(sa.delete(Automation))
        connection.execute(
            sa.text(
                "INSERT INTO automation (id, name, description, enabled, trigger, actions, actions_on_trigger, "
                "actions_on_resolve, tags) VALUES ('a', 'a', '', 1, '{}', '[]', '[]', '[]', '[]')"
            )
        )
        row = {
            "automation_id": "a", "trigger_id": str(uuid.uuid4()), "bucketing_key": '["run"]', "count": 0,
            "start": _as_prefect(end - timedelta(seconds=90)), "end": _as_prefect(end),
        }  # fmt: skip
        columns = ", ".join(f'"{name}"' for name in row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(sa.text(f"INSERT INTO automation_bucket ({columns}) VALUES ({values})"), row)  # noqa: S608
    engine.dispose()


def _as_prefect(moment: datetime) -> str:
    from prefect.server.utilities.database import Timestamp
    from sqlalchemy.dialects import sqlite

    bound = Timestamp().process_bind_param(moment, sqlite.dialect())
    assert bound is not None
    return f"{bound:%Y-%m-%d %H:%M:%S.%f}"


def ends(database: Path) -> list[datetime]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute('SELECT "end" FROM automation_bucket').fetchall()
    return [datetime.fromisoformat(end).replace(tzinfo=UTC) for (end,) in rows]


def test_a_run_whose_heartbeats_could_not_arrive_is_waited_for_after_an_outage(database: Path) -> None:
    now = datetime.now(UTC)
    wait_for(database, now - timedelta(seconds=40))
    assert automations.give_grace(database) == 1
    (end,) = ends(database)
    assert timedelta(seconds=automations.GRACE_S - 5) < end - now < timedelta(seconds=automations.GRACE_S + 15)


def test_grace_never_shortens_what_a_run_has_left(database: Path) -> None:
    later = datetime.now(UTC) + timedelta(seconds=automations.GRACE_S + 600)
    wait_for(database, later)
    assert automations.give_grace(database) == 0
    assert ends(database) == [later]


def test_a_database_that_is_not_there_or_of_another_form_keeps_no_server_from_starting(tmp_path: Path) -> None:
    assert automations.give_grace(tmp_path / "none.db") == 0
    assert not (tmp_path / "none.db").exists()
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE something (x)")
    assert automations.give_grace(other) == 0
    (tmp_path / "text.db").write_text("no database")
    assert automations.give_grace(tmp_path / "text.db") == 0


def test_a_postgres_that_does_not_answer_keeps_no_server_from_starting() -> None:
    from sqlalchemy.engine import make_url

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert automations.give_grace(make_url(f"postgresql+asyncpg://prefect:x@127.0.0.1:{port}/prefect")) == 0


@pytest.mark.parametrize("service", ["prefect", "prefect-services"])
def test_a_server_in_the_foreground_gives_grace_in_the_database_that_it_uses(
    home: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    from infra import stack
    from infra.settings import settings

    given: list[Any] = []
    monkeypatch.setattr(stack, "give_grace", given.append)
    stack.foreground("prefect-api")
    stack.foreground(service)
    monkeypatch.setenv("HEADRACE_PREFECT_DATABASE", "postgresql://prefect:x@db:5432/prefect")
    settings.cache_clear()
    stack.foreground(service)
    settings.cache_clear()
    assert [str(database) for database in given] == [
        str(home.resolve() / "prefect" / "prefect.db"),
        "postgresql+asyncpg://prefect:***@db:5432/prefect",
    ]
