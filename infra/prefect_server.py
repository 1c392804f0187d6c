"""Prefect's server, with a fault in how its SQLite is reached mended.

    python -m infra.prefect_server start --host 127.0.0.1 --port 4200       what `prefect server start` takes

Each connection to SQLite has a thread, and the event loop never waits for one. But a cursor that nobody closed, because
its statement failed or its task was cancelled, is freed where its last reference ends: on the event loop. Freeing it
resets its statement, and for that SQLite wants the connection's mutex. If the connection is in use again by then, and
its statement waits for the lock of the database, the loop stands still until that statement gives up, after 60 s.
Whoever holds the lock needs the loop to let go of it; so the statement does give up, with "database is locked", and
leaves the next cursor behind. A busy server does not get out of that: it answers for a moment once a minute.

Here the thread closes what nobody closed. (aiosqlite 0.22, SQLAlchemy 2.0; prefect issue 18934 has the symptom.)
"""

import sys

from aiosqlite.cursor import Cursor


def mend() -> None:
    """Let cursors be closed by the thread of their connection, wherever their last reference ends."""
    Cursor.__del__ = _closed_by_its_thread  # type: ignore[attr-defined]


def _closed_by_its_thread(cursor: Cursor) -> None:
    # no future: nobody waits for it. A thread that has ended leaves it in its queue, and then there is no mutex either
    cursor._conn._tx.put_nowait((None, cursor._cursor.close))


if __name__ == "__main__":
    mend()
    from prefect.cli import app

    sys.argv = ["prefect", "server", *sys.argv[1:]]
    app()
