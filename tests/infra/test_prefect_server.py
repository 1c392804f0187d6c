"""The server's event loop does not wait for a lock of SQLite."""

import subprocess
import sys
from pathlib import Path

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
    assert end == "database is locked"
