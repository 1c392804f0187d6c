"""Prefect's server on SQLite: its event loop waits for no lock, and its transactions take turns."""

import os
import subprocess
import sys
from pathlib import Path

from infra import stack

WAIT_S = 5
"""Seconds that a statement waits for the lock; Prefect has 60."""

PROGRAM = """
import asyncio, sqlite3, sys, time
import aiosqlite
from infra import prefect_server

async def main(file, how, seconds):
    if how == "mended":
        prefect_server.mend()
    holder = await aiosqlite.connect(file, isolation_level=None)
    await holder.execute("PRAGMA journal_mode = WAL")
    other = await aiosqlite.connect(file, isolation_level=None, timeout=int(seconds))
    left_behind = await other.execute("VALUES (1), (2)")
    await left_behind.fetchone()  # and no further: its task was cancelled
    await holder.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(other.execute("BEGIN IMMEDIATE"))
    await asyncio.sleep(0.5)
    started = time.monotonic()
    del left_behind  # the last reference ends on the event loop
    stood_still = time.monotonic() - started
    await holder.execute("COMMIT")
    try:
        await waiting
        print(stood_still, "begun")
    except sqlite3.OperationalError as error:
        print(stood_still, error)
    await holder.close()
    await other.close()

asyncio.run(main(*sys.argv[1:]))
"""


def loop(file: Path, how: str) -> tuple[float, str]:
    """Seconds that the event loop stood still, and what became of a statement that had to wait for a lock."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), how, str(WAIT_S)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seconds, _, end = done.stdout.strip().partition(" ")
    return float(seconds), end


def test_a_cursor_that_nobody_closed_does_not_stop_the_event_loop(tmp_path: Path) -> None:
    seconds, end = loop(tmp_path / "mended.db", "mended")
    assert seconds < WAIT_S / 5
    assert end == "begun"


def test_the_fault_is_still_there_to_be_mended(tmp_path: Path) -> None:
    """When this fails the libraries have learned it, and `infra.prefect_server` may go."""
    seconds, end = loop(tmp_path / "plain.db", "plain")
    assert seconds > WAIT_S / 2
    assert end != "begun"  # "database is locked", or what is left of that


COUNTING = """
import asyncio, os, sys
from infra import prefect_server

async def main(how):
    if how == "mended":
        prefect_server.mend()
    import sqlalchemy as sa
    from prefect.server.database import provide_database_interface
    db = provide_database_interface()
    engine = await db.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE counts (count INTEGER)"))
        await connection.execute(sa.text("INSERT INTO counts VALUES (0)"))
    refused = 0

    async def count():
        nonlocal refused
        for _ in range(20):
            try:
                async with db.session_context(begin_transaction=True) as session:
                    found = (await session.execute(sa.text("SELECT count FROM counts"))).scalar_one()
                    await asyncio.sleep(0.01)
                    await session.execute(sa.text(f"UPDATE counts SET count = {found + 1}"))
            except sa.exc.OperationalError:
                refused += 1

    await asyncio.gather(*(count() for _ in range(4)))
    async with db.session_context() as session:
        print(refused, (await session.execute(sa.text("SELECT count FROM counts"))).scalar_one())

asyncio.run(main(sys.argv[1]))
"""


def counted(file: Path, how: str) -> tuple[int, int]:
    """Transactions of 80 that were refused, and what the others counted."""
    environment = {**os.environ, "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{file}"}
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, how],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    refused, _, count = done.stdout.strip().partition(" ")
    return int(refused), int(count)


def test_transactions_that_read_before_they_write_wait_for_one_another(tmp_path: Path) -> None:
    assert counted(tmp_path / "mended.db", "mended") == (0, 80)


def test_plain_prefect_still_refuses_them(tmp_path: Path) -> None:
    """When this fails Prefect has learned it, and this part of `infra.prefect_server` may go."""
    refused, count = counted(tmp_path / "plain.db", "plain")
    assert refused > 10
    assert count == 80 - refused


def test_the_server_of_the_stack_is_the_mended_one() -> None:
    assert "infra.prefect_server" in stack._commands("prefect", 4200)
    done = subprocess.run(
        [sys.executable, "-m", "infra.prefect_server", "start", "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0
    assert "--no-services" in done.stdout
