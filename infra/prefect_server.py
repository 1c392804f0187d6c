"""Prefect's server, with two faults in how its SQLite is used mended.

    python -m infra.prefect_server start --host 127.0.0.1 --port 4200       what `prefect server start` takes

**The event loop waits for a lock.** Each connection has a thread, so that the loop never waits for SQLite. But a
cursor that nobody closed, because its task was cancelled, is freed where its last reference ends: on the loop. Freeing
it resets its statement, and for that SQLite wants the connection's mutex. If the connection is in use again by then,
and waits for the lock of the database, the loop stands still until it gives up, after 60 s; whoever holds the lock
needs the loop to let go of it. A busy server does not get out of that: it answers for a moment once a minute. Here the
connection's thread closes what nobody closed.

**What was read is stale when it is written.** A transaction that reads first and writes then is refused at once,
"database is locked", when another one wrote in between, however long it would be willing to wait. Automations count
events that way; refused four times, an event is lost, signs of life among them. Here every transaction waits for its
turn before it reads. (What has no `BEGIN`, as most questions, waits for nobody, as before.)

Seen with Prefect 3.8, SQLAlchemy 2.0, aiosqlite 0.22; prefect issue 18934 has the symptom.
"""

import sys
from contextlib import AbstractAsyncContextManager

from aiosqlite.cursor import Cursor
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def mend() -> None:
    """Mend both in this process."""
    Cursor.__del__ = _closed_by_its_thread  # type: ignore[attr-defined]
    AioSqliteConfiguration.begin_transaction = _begun_in_turn  # type: ignore[assignment, method-assign]


_begin = AioSqliteConfiguration.begin_transaction


def _begun_in_turn(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = True
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    return _begin(self, session, with_for_update=True)


def _closed_by_its_thread(cursor: Cursor) -> None:
    # no future: nobody waits for it. A thread that has ended leaves it in its queue, and then there is no mutex either
    cursor._conn._tx.put_nowait((None, cursor._cursor.close))


if __name__ == "__main__":
    mend()
    from prefect.cli import app

    sys.argv = ["prefect", "server", *sys.argv[1:]]
    app()
