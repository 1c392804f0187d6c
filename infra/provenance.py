"""Who is computing: the flow run around the present task, as plain values; and what is shown on its page."""

import contextlib
import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import prefect
from prefect import artifacts as shown
from prefect import get_run_logger, runtime
from prefect.context import FlowRunContext
from prefect.events import emit_event

from infra.refs import Ref

__all__ = [
    "FlowRun",
    "Progress",
    "announce",
    "create_image_artifact",
    "create_link_artifact",
    "create_markdown_artifact",
    "create_table_artifact",
    "dated",
    "this_flow_run",
]

PATIENCE_S = 180
"""How long a page waits for a Prefect server that is away."""

SHOWN_EVERY_S = 2.0
"""How often a bar on a page moves."""


def _patient(create: Callable[..., Any]) -> Callable[..., None]:
    """Wait for a server that is away: a client that never reached it would give up at once, and fail the task.

    A server that stays away longer costs the page one table, and the run nothing. Keys may be any names: Prefect takes
    lower case letters, digits and hyphens, so what else they hold becomes a hyphen.
    """

    @functools.wraps(create)
    def wait_and_create(*args: Any, key: str, **kwargs: Any) -> None:
        begun, kwargs["key"] = time.monotonic(), re.sub("[^a-z0-9]+", "-", key.lower())
        while True:
            try:
                create(*args, **kwargs)
                return
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
                if refused:
                    raise
                if time.monotonic() - begun > PATIENCE_S:
                    get_run_logger().warning("Prefect is away (%s); %s is not on this page.", error, key)
                    return
                time.sleep(3)

    return wait_and_create


create_image_artifact = _patient(shown.create_image_artifact)
create_link_artifact = _patient(shown.create_link_artifact)
create_markdown_artifact = _patient(shown.create_markdown_artifact)
create_table_artifact = _patient(shown.create_table_artifact)


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


PUBLISHED = "headrace.published"
"""The event of a product that went live; its resource is `headrace.KIND.NAME`, which automations wait for."""


def announce(product: Ref) -> None:
    """Tell Prefect that a product is live, so that what depends on it can begin.

    Told again by a retry, the same is built again from the same inputs, which changes nothing.
    """
    emit_event(
        event=PUBLISHED,
        resource={
            "prefect.resource.id": f"headrace.{product.kind}.{product.name}",
            "prefect.resource.name": f"{product.name}@{product.version}",
            "headrace.version": product.version,
        },
        payload={"version": product.version, "digest": product.digest, "location": product.location},
    )


class Progress:
    """A bar on the flow run's page that grows with the work; a server that is away costs the bar and nothing else.

    Args:
        description: what is worked on.
    """

    def __init__(self, description: str) -> None:
        self._description, self._artifact, self._told = description, "", time.monotonic()

    def __enter__(self) -> "Progress":
        with contextlib.suppress(httpx.HTTPError):
            made: Any = shown.create_progress_artifact(0.0, key="progress", description=self._description)
            self._artifact = str(made)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._show(1.0)

    def __call__(self, share: float) -> None:
        """Show what share is done, 0 to 1; now and then."""
        if time.monotonic() - self._told > SHOWN_EVERY_S:
            self._show(share)

    def _show(self, share: float) -> None:
        self._told = time.monotonic()
        if self._artifact:
            with contextlib.suppress(httpx.HTTPError):
                shown.update_progress_artifact(UUID(self._artifact), progress=100 * share)


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
