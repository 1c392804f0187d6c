"""Trigger a deployment through the Prefect API and follow it to its end."""

import time
from collections.abc import Iterator
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.exceptions import ObjectNotFound
from rich.console import Console
from rich.table import Table

from infra.refs import Outcome
from infra.stack import StackError
from infra.tracking import url_of

POLL_S = 0.5


def follow(deployment: str, console: Console) -> list[Outcome]:
    """Run a deployment and print every task's state as it changes.

    Args:
        deployment: `FLOW/PRESET`.
        console: where to print.

    Returns:
        What the flow did.

    Raises:
        StackError: there is no such deployment, or the flow run did not complete; the message ends with its link.
    """
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound as error:
            names = ", ".join(sorted(_names(client)))
            raise StackError(f"no deployment {deployment!r}; there are {names}.") from error
        flow_run = client.create_flow_run_from_deployment(found.id)
        address = f"{str(client.api_url).removesuffix('/').removesuffix('/api')}/runs/flow-run/{flow_run.id}"
        console.print(f"{deployment} is flow run {flow_run.name}: {address}")
        started, seen = time.monotonic(), dict[UUID, str]()
        with console.status(f"{deployment}: waiting for the worker") as status:
            while True:
                flow_run = client.read_flow_run(flow_run.id)
                for task_run, parent in _task_runs(client, flow_run):
                    name = str(task_run.state.name) if task_run.state else "Pending"
                    if seen.get(task_run.id) != name and name not in ("Pending", "Scheduled"):
                        console.print(f"{time.monotonic() - started:6.1f} s  {parent:<28} {task_run.name:<20} {name}")
                    seen[task_run.id] = name
                state = flow_run.state
                if state and state.is_final():
                    break
                status.update(f"{deployment}: {state.name if state else 'Pending'}")
                time.sleep(POLL_S)
    console.print(f"{time.monotonic() - started:6.1f} s  {deployment} {state.name}: {state.message or ''}")
    if not state.is_completed():
        raise StackError(f"{deployment} ended {state.name}: {state.message}. Look at {address}")
    result = state.result(raise_on_failure=False)
    return list(result) if isinstance(result, list) else []


def outcomes_table(outcomes: list[Outcome], _mlflow: str) -> Table:
    """The outcomes as a table for a terminal."""
    table = Table(show_lines=False)
    for column in ("product", "headline", "certificate", "version", "status", "MLflow run"):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        table.add_row(
            outcome.product,
            f"{outcome.headline} = {outcome.value:.4f}",
            outcome.certificate,
            outcome.version,
            outcome.status,
            url_of(outcome.run_id),
        )
    return table


def _task_runs(client: SyncPrefectClient, flow_run: FlowRun) -> Iterator[tuple[TaskRun, str]]:
    """Task runs of a flow run and of the flow runs it started, in order of their start."""
    children = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]))
    )
    for run in (flow_run, *children):
        chosen = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))
        for task_run in sorted(
            client.read_task_runs(task_run_filter=chosen), key=lambda item: str(item.start_time or "")
        ):
            yield task_run, run.name


def _names(client: SyncPrefectClient) -> Iterator[str]:
    for deployment in client.read_deployments():
        yield f"{client.read_flow(deployment.flow_id).name}/{deployment.name}"
