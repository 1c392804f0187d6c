"""Trigger a deployment through the Prefect API and follow it to its end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from rich.console import Console
from rich.table import Table

from infra import stack
from infra.refs import Outcome
from infra.stack import StackError
from infra.tracking import url_of

POLL_S = 0.5
DEAD_FOR_S = 5
"""A worker that is being restarted is dead for a moment; one that died stays dead."""


@dataclass(frozen=True)
class Followed:
    """A flow run that completed.

    Attributes:
        state: name of its final state.
        address: its page.
        outcomes: what it did; nothing for a flow without products.
    """

    state: str
    address: str
    outcomes: list[Outcome]


def follow(deployment: str, console: Console) -> Followed:
    """Run a deployment and print its state and every task's as they change.

    Args:
        deployment: `FLOW/PRESET`.
        console: where to print.

    Returns:
        The flow run at its end.

    Raises:
        StackError: there is no such deployment, the worker died, or the flow run did not complete; the message ends
            with its link.
    """
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run_from_deployment(_find(client, deployment, console).id)
        address = f"{str(client.api_url).removesuffix('/').removesuffix('/api')}/runs/flow-run/{flow_run.id}"
        console.print(f"{deployment} is flow run {flow_run.name}: {address}")
        started, worker_seen, seen = time.monotonic(), time.monotonic(), dict[UUID, str]()
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
                name = str(state.name) if state else "Pending"
                if seen.get(flow_run.id) != name and name not in ("Pending", "Scheduled"):
                    console.print(f"{time.monotonic() - started:6.1f} s  {flow_run.name:<28} {'':<20} {name}")
                seen[flow_run.id] = name
                status.update(f"{deployment}: {name}")
                worker = stack.known().get("worker")
                if worker is None or worker.alive():
                    worker_seen = time.monotonic()
                elif time.monotonic() - worker_seen > DEAD_FOR_S:
                    log = stack.folder() / "worker.log"
                    raise StackError(
                        f"the worker died while {deployment} was {name}; {log} says why. Look at {address}"
                    )
                time.sleep(POLL_S)
    console.print(f"{time.monotonic() - started:6.1f} s  {deployment} {state.name}: {state.message or ''}")
    if not state.is_completed():
        raise StackError(f"{deployment} ended {state.name}: {state.message}. Look at {address}")
    result = state.result(raise_on_failure=False)
    return Followed(str(state.name), address, list(result) if isinstance(result, list) else [])


def show(followed: Followed, console: Console) -> None:
    """Print the outcomes as a table, and below it their pages, one whole address to a line."""
    table = Table(show_lines=False)
    for column in ("product", "headline", "certificate", "version", "status"):
        table.add_column(column, overflow="fold")
    for outcome in followed.outcomes:
        table.add_row(
            outcome.product,
            f"{outcome.headline} = {outcome.value:.4f}",
            outcome.certificate,
            outcome.version,
            outcome.status,
        )
    console.print(table)
    for outcome in followed.outcomes:
        if len(followed.outcomes) > 1:
            console.print(f"{outcome.product}@{outcome.version}", soft_wrap=True)
        console.print(f"flow run  {followed.address}", soft_wrap=True)
        console.print(f"MLflow    {url_of(outcome.run_id) or 'no run'}", soft_wrap=True)


def _find(client: SyncPrefectClient, deployment: str, console: Console) -> DeploymentResponse:
    """A deployment by its name; deploys once more if it is missing, for someone may have removed it in the UI."""
    try:
        return client.read_deployment_by_name(deployment)
    except ObjectNotFound:
        with console.status(f"there is no deployment {deployment}; deploying the flows of prefect.yaml again ..."):
            stack.deploy(stack.known(), always=True)
    try:
        return client.read_deployment_by_name(deployment)
    except ObjectNotFound as error:
        names = ", ".join(sorted(_names(client)))
        raise StackError(f"no deployment {deployment!r} in prefect.yaml; there are {names}.") from error


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
