"""Who is computing: the flow run around the present task, as plain values."""

from dataclasses import dataclass, field
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


def prefect_version() -> str:
    """Version of Prefect, for lineage tags."""
    return str(prefect.__version__)
