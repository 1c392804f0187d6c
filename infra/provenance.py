"""Who is computing: the flow run around the present task, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import prefect
from prefect import runtime
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.context import FlowRunContext

__all__ = [
    "FlowRun",
    "create_image_artifact",
    "create_link_artifact",
    "create_markdown_artifact",
    "create_table_artifact",
    "dated",
    "this_flow_run",
]


@dataclass(frozen=True, kw_only=True)
class FlowRun:
    """A Prefect flow run.

    Attributes:
        id: its identifier.
        name: its name.
        url: its page; empty when no server is configured.
        parameters: what it was called with.
    """

    id: str
    name: str
    url: str
    parameters: dict[str, Any] = field(default_factory=dict)


def this_flow_run() -> FlowRun:
    """The flow run around the caller.

    Raises:
        RuntimeError: called outside a flow run.
    """
    if not runtime.flow_run.id:
        raise RuntimeError("no flow run here; call the flow, or the task's `.fn` inside one.")
    url = runtime.flow_run.ui_url or ""
    context = FlowRunContext.get()
    return FlowRun(
        id=str(runtime.flow_run.id),
        name=str(runtime.flow_run.name),
        url=str(url),
        parameters=dict(context.parameters or {}) if context else {},
    )


def dated(template: str) -> Callable[[], str]:
    """A name for flow runs that a person can tell apart: what is worked on, and when.

    Args:
        template: names parameters of the flow, as in "{config.data.name}".

    Returns:
        What Prefect calls to name a run: "movielens 2026-11-23 18:52:10", in UTC.
    """

    def name() -> str:
        subject = template.format(**runtime.flow_run.parameters)
        return f"{subject} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"

    return name


def prefect_version() -> str:
    """Version of Prefect, for lineage tags."""
    return str(prefect.__version__)
