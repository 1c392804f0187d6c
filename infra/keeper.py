"""The keeper of the local stack: what dies is started again, and what a dead run left open is closed.

    python -m infra.keeper                started and stopped by `infra.stack`
    python -m infra.keeper --only-tidy    where others keep processes alive: `headrace serve keeper`

A killed server comes back where it was; a killed worker comes back too, and with it the runs that died with it are said
Crashed. A task run that says Running for ever, because its flow run was killed, is closed. What waited for MLflow is
delivered.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from infra import outbox, stack

log = logging.getLogger("headrace.keeper")

LOOK_S = 3
"""Seconds between two looks at the processes."""

TIDY_S = 30
"""Seconds between two looks at what was left open."""

LONGEST_WAIT_S = 60
"""Seconds to wait at most before a service that dies again and again is started once more."""

SETTLED_S = 60
"""A task run this long after the end of its flow run will not end by itself; its last word may come late."""


def keep() -> None:
    """Watch over the stack until somebody stops this process."""
    wait, tidied, healthy_since = LOOK_S, 0.0, time.monotonic()
    while True:
        time.sleep(wait)
        dead = _dead()
        if dead:
            log.warning("%s died; starting again", " and ".join(dead))
            wait = LOOK_S if time.monotonic() - healthy_since > LONGEST_WAIT_S else min(2 * wait, LONGEST_WAIT_S)
            _try(lambda: stack.up(log.info))
            healthy_since = time.monotonic()
            continue
        if time.monotonic() - healthy_since > LONGEST_WAIT_S:
            wait = LOOK_S
        if time.monotonic() - tidied > TIDY_S:
            _try(lambda: tidy(stack.known()))
            tidied = time.monotonic()


def keep_tidy() -> None:
    """Only tidy, after servers that run elsewhere, until somebody stops this process."""
    while True:
        _try(lambda: tidy(stack.elsewhere_services()))
        time.sleep(TIDY_S)


def _dead() -> list[str]:
    """Services that were started and have no process; none while the record cannot be read."""
    with contextlib.suppress(stack.StackError):
        return [name for name, service in stack.known().items() if name != stack.KEEPER and not service.alive()]
    return []


def tidy(services: stack.Services) -> list[str]:
    """Close task runs that nobody will end, and deliver what waits for MLflow; returns the names of the task runs.

    Args:
        services: where the servers are.
    """
    closed = close_dangling_task_runs(services["prefect"]) if "prefect" in services else []
    for name in closed:
        log.info("closed task run %s: its flow run is over", name)
    if outbox.waiting() and outbox.answers():
        outbox.deliver_apart(stack.environment(services))
    return closed


def close_dangling_task_runs(prefect: stack.Service) -> list[str]:
    """Say Crashed of every task run that is under way in a flow run of ours which ended a minute ago.

    Args:
        prefect: the Prefect server.

    Returns:
        Names of the task runs.

    Raises:
        StackError: the server did not answer, or refused.
    """
    before = (datetime.now(UTC) - timedelta(seconds=SETTLED_S)).isoformat()
    of_pool = {"work_pools": {"name": {"any_": [stack.POOL]}}}  # parts of a flow run are runs of such flows too
    ours = [flow["id"] for flow in stack.call(prefect, "/flows/filter", of_pool)]
    found = stack.call(
        prefect,
        "/task_runs/filter",
        {
            "flows": {"id": {"any_": ours}},
            "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
            "flow_runs": {
                "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}},
                "end_time": {"before_": before},
            },
        },
    )
    message = "Its flow run is over, and it never said how it ended itself."
    for task_run in found:
        state = {"type": "CRASHED", "name": "Crashed", "message": message}
        stack.call(prefect, f"/task_runs/{task_run['id']}/set_state", {"state": state, "force": True})
    return [str(task_run["name"]) for task_run in found]


def _try(act: Callable[[], object]) -> None:
    """Act, and go on keeping when it fails: the next look tries again."""
    try:
        act()
    except Exception as error:
        log.warning("could not: %s", error)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        keep_tidy() if "--only-tidy" in sys.argv[1:] else keep()
