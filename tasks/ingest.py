"""Ingest: raw files that arrive day by day become immutable days, and days become one dataset.

Every day is a product of its own in the store, published with a small certificate; its `CURRENT` says which version
of a late or revised day counts. Days do not know one another, so they are taken in wherever there are hands, in any
order, and what was taken in before a kill need not be taken in again.
"""

import contextlib
import dataclasses
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, runtime, task
from prefect.cache_policies import INPUTS, RUN_ID

from infra import catalogue
from infra.caching import cache_key, verb
from infra.compute import each
from infra.manifest import describe, describe_configuration, product_name
from infra.provenance import create_table_artifact, this_flow_run
from infra.refs import Calendar, Dataset, Day
from infra.settings import settings
from infra.store import Store, WithdrawnError, open_store
from models.common.contracts import AwaitedError, CuratableDay, Dated, InputError
from models.common.days import DaysConfig

Status = Literal["new", "revised", "unchanged", "kept", "awaited", "withdrawn", "damaged"]
MEANINGS: dict[Status, str] = {
    "new": "taken in for the first time",
    "revised": "taken in again, with other content; the old version stays in the history",
    "unchanged": "as it was",
    "kept": "its file is gone, its version stays",
    "awaited": "its file is not there yet",
    "withdrawn": "this content was rolled back; the version before it counts",
    "damaged": "cannot be used",
}
TOLD = 20
"""How many damaged days an error spells out; the table on the flow run's page has them all."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of one day: small enough to come back from a worker.

    Attributes:
        day: the date.
        status: see `MEANINGS`.
        rows: how many it has; 0 when there is none.
        version: the one that counts now; empty when there is none.
        note: what is wrong with it.
    """

    day: str
    status: Status
    rows: int = 0
    version: str = ""
    note: str = ""


def _worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """A network may come back; a wrong file stays wrong."""
    return not isinstance(state.result(raise_on_failure=False), ValueError)


@task(
    cache_policy=RUN_ID + INPUTS,  # a retry goes on with what was seen; another run looks at every file again
    persist_result=True,
    result_serializer="json",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=_worth_retrying,
    timeout_seconds=timedelta(hours=12).total_seconds(),
)
def ingest(config: Dated, days: DaysConfig) -> Calendar:
    """Take in every day of a range that is new or revised, and say which days make the dataset.

    Args:
        config: says what one day is.
        days: the range, and the window of days that count.

    Returns:
        All days known under the configuration's name, inside this range and outside it, as far as the window goes; so
        the same days give the same calendar, in whatever order they arrived.

    Raises:
        InputError: a day cannot be used, the message names all such days; or no day is known at all. The other days
            are kept.
        StoreError: the store cannot be written.
    """
    log, flow_run, began = get_run_logger(), this_flow_run(), time.monotonic()
    dates = days.dates(runtime.flow_run.scheduled_start_time.astimezone(UTC).date())
    last_told = began

    def tell(done: int, total: int) -> None:
        nonlocal last_told
        if done == total or time.monotonic() - last_told > 5:
            last_told = time.monotonic()
            log.info("looked at %d of %d days in %.1f s", done, total, last_told - began)

    taken = each(partial(take, flow_run_id=flow_run.id), [config.day(day) for day in dates], tell=tell)
    counts = Counter(one.status for one in taken)
    summary = f"{len(taken)} days from {dates[0]} to {dates[-1]}: " + ", ".join(
        f"{counts[status]} {status}" for status in MEANINGS if counts[status]
    )
    create_table_artifact([_shown(one) for one in taken], key="days", description=summary)
    log.info(summary)
    _refuse_damaged(taken)
    return _calendar(config, days, flow_run.id, summary)


def take(config: CuratableDay, *, flow_run_id: str) -> Taken:
    """Look at one day's files, and make them a published version if they hold anything new.

    Args:
        config: the day.
        flow_run_id: the Prefect run that asks.

    Returns:
        What became of it. A file that is missing or damaged is no error here, so that one day does not stop another.

    Raises:
        StoreError: the store cannot be written.
    """
    store, name = open_store(), product_name(config)
    day = name[-len("2024-05-17") :]
    live = store.current_or_none(Day.kind, name)
    before = live.version if live and store.serves(Day.kind, name, live.version) else ""
    try:
        if any(_absent(location) for location in config.sources().values()):
            raise AwaitedError(f"nothing at {', '.join(config.sources().values())} yet.")
        key = cache_key(take, {"config": config})
        if before and key in _keys(store, name, before):
            return Taken(day=day, status="unchanged", rows=_rows(store, name, before), version=before)
        files = {source: catalogue.locate(location) for source, location in config.sources().items()}
        payload = config.prepare(files)
        certificate = config.certify(payload, files)
        if not certificate.holds:
            raise InputError("; ".join(claim.sentence() for claim in certificate.failures()))
    except AwaitedError as error:
        if before:
            return Taken(day=day, status="kept", rows=_rows(store, name, before), version=before)
        return Taken(day=day, status="awaited", note=str(error))
    except ValueError as error:
        return Taken(day=day, status="damaged", version=before, note=str(error))
    manifest = describe(Day, name, config, flow_run_id=flow_run_id)
    ref = store.write(Day, payload, manifest)
    try:
        claims = [dataclasses.asdict(claim) for claim in certificate.claims]
        store.publish(ref, {"claims": claims, "rows": payload["about"]["rows"], "key": key})
    except WithdrawnError:
        return Taken(day=day, status="withdrawn", rows=_rows(store, name, before), version=before)
    if ref.version == before:
        _note(name, before, key)  # the file was written anew, or the code, and nothing came of it
    status: Status = "unchanged" if ref.version == before else "revised" if live else "new"
    return Taken(day=day, status=status, rows=int(payload["about"]["rows"]), version=ref.version)


@verb(
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=_worth_retrying,
    timeout_seconds=timedelta(hours=4).total_seconds(),
)
def assemble(config: Dated, calendar: Calendar) -> Dataset:
    """Put the days of a calendar together as one dataset.

    Args:
        config: knows how, and names the files that all days share.
        calendar: which days, each in which version.

    Returns:
        The dataset; the same days, files and code give the same version.

    Raises:
        InputError: the days do not fit together, or too little is left of them.
        IntegrityError: a day is damaged in the store; ingest it again.
    """
    store = open_store()
    days = {}
    for entry in store.open(calendar)["days"]:
        product, version = f"{calendar.name}-{entry['day']}", entry["version"]
        location = f"{store.root}/{Day.kind}/{product}/{version}"
        ref = Day(name=product, version=version, digest=entry["digest"], location=location)
        days[entry["day"]] = store.open(ref)
    files = {name: catalogue.locate(location) for name, location in config.sources().items()}
    payload = config.assemble(days, files)
    manifest = describe(Dataset, product_name(config), config, (calendar,), flow_run_id=this_flow_run().id)
    dataset = store.write(Dataset, payload, manifest)
    get_run_logger().info("assembled %s from %d days", dataset, len(days))
    return dataset


def _calendar(config: Dated, days: DaysConfig, flow_run_id: str, summary: str) -> Calendar:
    """Write down which days are known: what is live of each, made with the same settings, within the window."""
    store, log, name = open_store(), get_run_logger(), product_name(config)
    known: dict[date, dict[str, str]] = {}
    others: list[date] = []
    for day in _days_of(store, name):
        ref = store.live(Day, f"{name}-{day}")
        if store.open(ref).manifest.configuration == describe_configuration(config.day(day)):
            known[day] = {"day": str(day), "version": ref.version, "digest": ref.digest}
        else:
            others.append(day)
    if others:
        log.warning(
            "%d days of %s from %s to %s were taken in with other settings and do not count; take them in again.",
            len(others), name, min(others), max(others),
        )  # fmt: skip
    if not known:
        raise InputError(f"no day of {name} is known ({summary}); check the dates and where the files are.")
    within = days.within(list(known))
    manifest = describe(Calendar, name, config, flow_run_id=flow_run_id)
    calendar = store.write(Calendar, {"days": [known[day] for day in within]}, manifest)
    log.info("%s has %d of %d known days, %s to %s", calendar, len(within), len(known), within[0], within[-1])
    return calendar


def _days_of(store: Store, name: str) -> Iterator[date]:
    """The published days of a dataset, in order."""
    for product in store.products(Day.kind):
        found = re.fullmatch(re.escape(name) + r"-(\d{4}-\d{2}-\d{2})", product)
        if found and store.current_or_none(Day.kind, product):
            yield date.fromisoformat(found.group(1))


def _absent(location: str) -> bool:
    """Whether there is nothing at a location, which is something else than not being allowed or able to look."""
    if location.startswith("catalogue:"):
        return False
    place = catalogue.allowed(location)
    if "://" not in place:
        return not Path(place).exists()
    try:
        catalogue.fingerprint(location)
    except catalogue.CatalogueError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return True
        raise
    return False


def _keys(store: Store, name: str, version: str) -> set[str]:
    """Keys of files and code that are known to give a version: its own, and the one last seen to give it again."""
    keys = {str((store.manifest(Day.kind, name, version).certificate or {}).get("key"))}
    with contextlib.suppress(OSError, ValueError):
        note = json.loads(_note_of(name).read_text())
        if note["version"] == version:
            keys.add(note["key"])
    return keys


def _note(name: str, version: str, key: str) -> None:
    """Note that other files or other code gave the same version; a note that is lost costs a look at the file."""
    path = _note_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(f".{os.getpid()}")
    partial_path.write_text(json.dumps({"version": version, "key": key}))
    partial_path.replace(path)


def _note_of(name: str) -> Path:
    return settings().scratch / "days" / f"{name}.json"


def _rows(store: Store, name: str, version: str) -> int:
    if not version:
        return 0
    return int((store.manifest(Day.kind, name, version).certificate or {}).get("rows", 0))


def _shown(taken: Taken) -> dict[str, Any]:
    """A line of the table on the flow run's page."""
    said = taken.note or MEANINGS[taken.status]
    return {"day": taken.day, "rows": taken.rows, "status": taken.status, "version": taken.version, "meaning": said}


def _refuse_damaged(taken: Sequence[Taken]) -> None:
    """One error for all days that cannot be used."""
    damaged = [one for one in taken if one.status == "damaged"]
    if not damaged:
        return
    lines = [f"{one.day}: {one.note}" for one in damaged[:TOLD]]
    more = [f"and {len(damaged) - TOLD} more; the table of days has them all."] if len(damaged) > TOLD else []
    raise InputError(
        f"{len(damaged)} of {len(taken)} days cannot be used; mend them and run again, the others are kept:\n"
        + "\n".join([*lines, *more])
    )
