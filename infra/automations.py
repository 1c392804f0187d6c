"""Automations of the Prefect server: what happens by itself, to be seen and switched off under Automations in the UI.

    headrace: a run without a sign of life is Crashed
    headrace: a run that was taken and never began is Crashed

What follows a publish is said beside its deployment, under `triggers` in prefect.yaml.

    python -m infra.automations        creates or updates them on the server that PREFECT_API_URL names
"""

import asyncio
import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore
    from sqlalchemy.engine import URL

SIGN_OF_LIFE_S = 30
"""Seconds between two heartbeats of a flow run; Prefect allows no less."""

SILENCE_S = 90
"""Seconds without any sign after which a run is taken for dead: three heartbeats that did not come."""

GRACE_S = 120
"""Seconds that every run has to show itself after the server was away."""

STILLBORN_S = 600
"""Seconds that a run has between being taken by a worker and its first word: an image may have to be fetched."""

DEAD = "headrace: a run without a sign of life is Crashed"
STILLBORN = "headrace: a run that was taken and never began is Crashed"


def create() -> list[str]:
    """Create or update the automations; returns their names.

    One that a person switched off in the UI stays off.

    Raises:
        httpx.HTTPError: the server did not answer, or refused.
    """
    from prefect.client.orchestration import get_client

    wanted = [
        _silence(
            DEAD,
            f"A flow run that begins, beats or is being cancelled, and then is silent for {SILENCE_S} s: its process "
            "is gone, and so is the worker that would have said so. Its slot is free again; retry it.",
            after={"prefect.flow-run.Running", "prefect.flow-run.heartbeat", "prefect.flow-run.Cancelling"},
            seconds=SILENCE_S,
        ),
        _silence(
            STILLBORN,
            f"A flow run that a worker took and of which nothing is heard for {STILLBORN_S // 60} minutes: it was "
            "killed before it began, and so was the worker. Its slot is free again; retry it.",
            after={"prefect.flow-run.Pending"},
            seconds=STILLBORN_S,
        ),
    ]
    with get_client(sync_client=True) as client:
        for automation in wanted:
            known = client.read_automations_by_name(automation.name)
            if known:
                client.update_automation(known[0].id, automation.model_copy(update={"enabled": known[0].enabled}))
            else:
                client.create_automation(automation)
    return [automation.name for automation in wanted]


def _silence(name: str, description: str, after: set[str], seconds: int) -> "AutomationCore":
    """An automation that says Crashed of a run of ours of which, after some event, nothing is heard for a time."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            # others' runs on the same server may beat more slowly, and are none of our business
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": _watched()},
            for_each={"prefect.resource.id"},
            after=after,
            # not a list of final states: ours end Published, Refused, Unchanged, Healthy or Degraded
            expect={"prefect.flow-run.*"},
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message=f"No sign of life for {seconds} s: process and worker are gone. Nothing is lost; retry it.",
            )
        ],
    )


def _watched() -> list[str]:
    """Names of the flows that have a deployment in our work pool; parts of a flow run are runs of such flows too."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters

    from infra.stack import POOL

    of_pool = filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[POOL]))
    with get_client(sync_client=True) as client:
        return sorted(flow.name for flow in client.read_flows(work_pool_filter=of_pool)) or ["no flow is deployed yet"]


def give_grace(database: "Path | URL") -> int:
    """Let every run that is waited for show itself again before it is taken for dead; for a server that is stopped.

    Its heartbeats could not arrive while the server was away, and the server would count that as silence the moment
    it is back. Nothing is done to a database that is not there, or of another form: a grace that cannot be given must
    not keep the server from starting.

    Args:
        database: the server's SQLite file, or the address of its Postgres with the driver asyncpg.

    Returns:
        How many runs are waited for.
    """
    until = datetime.now(UTC) + timedelta(seconds=GRACE_S)
    if not isinstance(database, Path):
        return asyncio.run(_give_grace(database, until))
    with contextlib.suppress(sqlite3.Error):
        if database.exists():
            with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection, connection:
                statement, value = _GRACE.format("?1"), f"{until:%Y-%m-%d %H:%M:%S.%f}"
                return connection.execute(statement, (value,)).rowcount
    return 0


_GRACE = 'UPDATE automation_bucket SET "end" = {0} WHERE "end" < {0}'


async def _give_grace(database: "URL", until: datetime) -> int:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(database, connect_args={"timeout": 10})
    try:
        with contextlib.suppress(SQLAlchemyError, OSError):
            async with engine.begin() as connection:
                done = await connection.execute(text(_GRACE.format(":until")), {"until": until})
                return int(done.rowcount)
    finally:
        await engine.dispose()
    return 0


if __name__ == "__main__":
    for name in create():
        print(name)
