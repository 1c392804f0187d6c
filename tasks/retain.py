"""Retain: what is old and needed by nobody goes, after it was named; what is live or pinned stays, whatever its age."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from infra import outbox, retention
from infra.provenance import create_table_artifact
from infra.retention import Item, Rules
from infra.stack import POOL
from infra.store import open_store
from infra.terminal import readable
from models.common.configuration import check, setting


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """How long what is kept."""

    remove: bool = setting(
        False, "Remove", "Off: only name what would go, with its size. On: remove exactly what is named."
    )
    published: int = setting(
        10,
        "Published versions",
        "How many published versions of each product are kept behind the live one, to roll back to, 1 to 100.",
        ge=1,
        le=100,
    )
    candidate_days: int = setting(
        30,
        "Days of a candidate",
        "How long a version is kept that is not live and was not published, or was withdrawn, in days, 1 to 3650.",
        ge=1,
        le=3650,
    )
    grace_days: int = setting(
        2,
        "Days of grace",
        "Nothing in the store younger than this goes, whatever else is said, in days, 1 to 365.",
        ge=1,
        le=365,
    )
    run_days: int = setting(
        180,
        "Days of an MLflow run",
        "How long an MLflow run is kept that made nothing that stays, 7 to 3650.",
        ge=7,
        le=3650,
    )
    history_days: int = setting(
        60,
        "Days of a flow run",
        "How long a flow run is kept in Prefect after its end, with its task runs, logs and tables, 7 to 3650.",
        ge=7,
        le=3650,
    )
    scratch_days: int = setting(
        14,
        "Days of scratch",
        "How long checkpoints and downloads are kept after their last change, 2 to 3650.",
        ge=2,
        le=3650,
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def rules(self) -> Rules:
        """What is kept of the versions."""
        return Rules(
            published=self.published,
            candidates=timedelta(days=self.candidate_days),
            grace=timedelta(days=self.grace_days),
        )


@task(
    cache_policy=NO_CACHE,
    persist_result=True,
    result_serializer="json",
    retries=2,
    retry_delay_seconds=30,
    timeout_seconds=timedelta(hours=1).total_seconds(),
)
def survey(config: RetentionConfig) -> list[Item]:
    """Name everything that may go; nothing is changed.

    Args:
        config: what is kept.

    Returns:
        What may go, in the order in which it is removed: scratch first, which makes room for the rest.

    Raises:
        IntegrityError: a version that stays cannot be read, so that nobody knows what it is made from.
    """
    stays = retention.what_stays(open_store(), config.rules, datetime.now(UTC))
    items = retention.old_scratch(timedelta(days=config.scratch_days), stays.now)
    items += retention.old_versions(open_store(), stays)
    if outbox.answers():
        items += retention.old_mlflow_runs(stays, timedelta(days=config.run_days))
    else:
        get_run_logger().warning("MLflow is away; its runs are looked at the next time.")
    items += retention.old_flow_runs(stays, timedelta(days=config.history_days), POOL)
    _show(items, "retention-survey", "What may go")
    for item in items:
        get_run_logger().info("%s %s (%s): %s", item.what, item.name, readable(item.size), item.why)
    return items


@task(
    cache_policy=NO_CACHE,
    persist_result=True,
    result_serializer="json",
    timeout_seconds=timedelta(hours=4).total_seconds(),
)
def sweep(config: RetentionConfig, items: list[Item]) -> list[Item]:
    """Remove exactly what the survey named, except what is needed by now; with `remove` off, nothing.

    Args:
        config: whether to remove.
        items: from `survey`.

    Returns:
        What was removed.

    Raises:
        IntegrityError: a pointer or the pins of a product cannot be read.
    """
    if not config.remove:
        return []
    log, runs = get_run_logger(), [item for item in items if item.what == "MLflow run"]
    removed = retention.remove_scratch([item for item in items if item.what == "scratch"])
    versions = [item for item in items if item.what in ("version", "unfinished")]
    gone, spared = retention.remove_versions(open_store(), versions)
    removed += [*gone, *(retention.remove_mlflow_runs(runs) if runs else [])]
    removed += retention.remove_flow_runs([item for item in items if item.what == "flow run"])
    _show(removed, "retention-sweep", "What was removed")
    for item in spared:
        log.info("%s stays: it is live, pinned or somebody's input by now, or gone already", item.name)
    if runs:
        log.info("MLflow keeps the files of deleted runs until `mlflow gc`; docs/operating/upkeep.md has the line.")
    return removed


def account(config: RetentionConfig, items: list[Item], removed: list[Item]) -> None:
    """The final state of the flow, Completed and named `Surveyed` or `Swept`; its data are None.

    Args:
        config: whether anything was to be removed.
        items: what might go.
        removed: what went.
    """
    if config.remove:
        state: State[None] = Completed(
            name="Swept", message=f"{_counted(removed)} removed, of {_counted(items)} that might go."
        )
    else:
        wish = "nothing was removed; run it with Remove on, and it is."
        state = Completed(name="Surveyed", message=f"{_counted(items)} may go; {wish}")
    return cast("None", state)


def _counted(items: list[Item]) -> str:
    if not items:
        return "nothing"
    counts = {what: len([item for item in items if item.what == what]) for what in dict.fromkeys(i.what for i in items)}
    return ", ".join(f"{count} {what}{'s' if count > 1 else ''}" for what, count in counts.items()) + (
        f" ({readable(sum(item.size for item in items))})"
    )


def _show(items: list[Item], key: str, description: str) -> None:
    rows = [
        {"what": item.what, "name": item.name, "size": readable(item.size), "since": item.since[:19], "why": item.why}
        for item in items
    ]
    create_table_artifact(rows, key=key, description=f"{description}: {_counted(items)}")
