"""What Prefect knows of a flow run, once it has arrived there."""

import time
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter

SECONDS = 30


def states(state: Any) -> dict[str, str]:
    """Task names and their final states' names in one flow run, as soon as two looks at them agree.

    States of tasks travel as events; with a broker between, they arrive a moment after the flow has ended.
    """
    before: dict[str, str] = {}
    found: dict[str, str] = {}
    deadline = time.monotonic() + SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id={"any_": [state.state_details.flow_run_id]}),
                task_run_filter=TaskRunFilter(),
            )
            found = {run.name.rpartition("-")[0]: run.state.name for run in runs if run.state}
            if found and found == before and all(run.state and run.state.is_final() for run in runs):
                break
            before = found
            time.sleep(1)
    return found
