"""What may go, and its removal: versions of products, MLflow runs, Prefect's history, scratch.

Kept is what is live, what is pinned, the newest published versions, whatever is young, and all that a kept version is
made from, down the whole chain; and the judgement of what is kept. Everything is decided before anything is removed,
and looked at once more when its turn comes: what is needed by then is spared.
"""

import contextlib
import fcntl
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from infra import outbox
from infra.manifest import Manifest
from infra.refs import Calendar, Day, Report
from infra.registry import KINDS, registered_name
from infra.settings import settings
from infra.store import IntegrityError, Store

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

log = logging.getLogger("headrace.retention")

Key = tuple[str, str, str]
"""Kind, name and version."""

What = Literal["version", "unfinished", "MLflow run", "flow run", "scratch"]

MOST = 2000
"""How many MLflow runs, and about how many flow runs, one survey names; the oldest first, the next one goes on."""

SCRATCH = ("training", "downloads", "catalogue")
"""Folders of scratch whose entries grow old; each costs only time to make again."""

LOCK = ".lock"
"""Ending of the file beside a training's folder that says whether somebody works in it."""

TAG = "headrace.retention"
"""Tag of an MLflow run that was deleted here, with the time."""

OURS = ("prefect.flow_run_id", "configuration.digest")
"""Tags that every MLflow run of headrace has; on a server that others use too, theirs are not looked at."""

LOOK_AGAIN_S = 5
"""Seconds after which a sweep looks again who is made from what: flows go on meanwhile."""

IN_USE = timedelta(days=1)
"""A version that a run took up so recently is spared by a sweep, whatever its survey said."""

PAGE = 200
"""Most that Prefect's API gives in one answer."""


class Item(BaseModel):
    """One thing that may go.

    Attributes:
        what: its sort.
        key: how it is found again: KIND/NAME/VERSION, the id of a run, a path below scratch.
        name: what a person calls it.
        size: in bytes; 0 where nobody knows.
        since: when it was made or ended, UTC.
        why: the rule, as a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: What
    key: str
    name: str
    size: int
    since: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is kept of the versions.

    Attributes:
        published: how many published versions behind the live one.
        candidates: how long one that never went live, or was withdrawn.
        grace: how long everything.
    """

    published: int
    candidates: timedelta
    grace: timedelta


# ----------------------------------------------------------------------------------------------------- versions


def lineage(store: Store, manifest: Manifest) -> set[Key]:
    """The versions that a version is made from: its inputs; of a calendar the days that it lists.

    Raises:
        IntegrityError: the calendar's list is damaged.
    """
    named = {(kind, ref["name"], ref["version"]) for kind, ref in manifest.inputs.items()}
    if manifest.kind == Calendar.kind:
        entry = next((file for file in manifest.files if file.part == "days"), None)
        path = f"{manifest.kind}/{manifest.name}/{manifest.digest[:12]}"
        days = store.read_file(f"{path}/{entry.path}", entry) if entry else []
        named |= {(Day.kind, f"{manifest.name}-{day['day']}", day["version"]) for day in days}
    return named


@dataclass(frozen=True)
class Stays:
    """What of a store stays.

    Attributes:
        reasons: the versions that stay, each with the reason.
        manifests: of all versions.
        rules: by which.
        now: when, UTC.
    """

    reasons: dict[Key, str]
    manifests: dict[Key, Manifest]
    rules: Rules
    now: datetime

    @property
    def makers(self) -> set[str]:
        """Flow runs and MLflow runs that made what stays."""
        of_kept = [self.manifests[key] for key in self.reasons if key in self.manifests]
        return {run for manifest in of_kept for run in (manifest.flow_run_id, manifest.run_id) if run}


def what_stays(store: Store, rules: Rules, now: datetime) -> Stays:
    """Which versions stay, and why.

    Args:
        store: where.
        rules: what is kept for itself.
        now: UTC.

    Raises:
        IntegrityError: a version that stays is unreadable, so that nobody knows what it is made from; or a pointer is.
    """
    manifests: dict[Key, Manifest] = {}
    reasons: dict[Key, str] = {}
    unreadable: set[Key] = set()
    for kind in store.kinds():
        for name in store.products(kind):
            own = {(kind, name, manifest.digest[:12]): manifest for manifest in store.versions(kind, name)}
            manifests |= own
            damaged = {(kind, name, version) for version in store.known(kind, name)} - set(own)
            unreadable |= damaged
            headless = store.headless(kind, name) if damaged else {}
            whole = {*own, *(key for key in damaged if key[2] not in headless)}
            reasons |= _of_product(store, kind, name, rules, now, own, whole)
    waiting = list(reasons)
    while waiting:
        key = waiting.pop()
        if key not in manifests:
            if reasons[key].startswith("made into") and key not in unreadable:
                continue  # an input that is gone already cannot be kept
            raise IntegrityError(
                f"{'/'.join(key[:2])}@{key[2]} is {reasons[key]} and cannot be read, so nobody knows what it is made "
                "from; nothing may be removed. Run headrace doctor, mend it or unpin it."
            )
        for named in lineage(store, manifests[key]):
            if named not in reasons:
                reasons[named] = f"made into {'/'.join(key[:2])}@{key[2]}"
                waiting.append(named)
    for key, manifest in manifests.items():
        judged = lineage(store, manifest) if key[0] == Report.kind else set()
        if judged and judged <= set(reasons):
            reasons.setdefault(key, "the judgement of a version that is kept")
    return Stays(reasons, manifests, rules, now)


def _of_product(
    store: Store,
    kind: str,
    name: str,
    rules: Rules,
    now: datetime,
    manifests: Mapping[Key, Manifest],
    whole: set[Key],
) -> dict[Key, str]:
    """What stays of one product for itself; `whole` are the versions with a manifest, readable or not."""
    reasons: dict[Key, str] = {}
    current, pins = store.current_or_none(kind, name), store.pins(kind, name)
    history = current.history if current else ()
    for version, note in pins.items():
        reasons[kind, name, version] = f"pinned: {note.why}"
    if current:
        reasons[kind, name, current.version] = "live"
        for version in [version for version in history if (kind, name, version) in whole][: rules.published]:
            reasons.setdefault((kind, name, version), "one of the newest published")
        rolled_back = (kind, name, current.withdrawn[-1] if current.cause and current.withdrawn else "")
        if rolled_back in manifests and now - _time(current.published, unknown=now) < rules.grace:
            reasons.setdefault(rolled_back, "rolled back within the grace period")
    for key, manifest in manifests.items():
        used = store.used(*key)
        age = now - max(_time(manifest.created, unknown=now), used or datetime.min.replace(tzinfo=UTC))
        if age < rules.grace:
            reasons.setdefault(key, "within the grace period")
        elif key[2] not in history and age < rules.candidates:
            reasons.setdefault(key, "a young candidate")
    return reasons


def old_versions(store: Store, stays: Stays) -> list[Item]:
    """Versions that may go, what was made from others before those others.

    Args:
        store: where.
        stays: what does not go.
    """
    rules, items = stays.rules, []
    for key in _consumers_first(store, stays.manifests):
        if key in stays.reasons:
            continue
        kind, name, version = key
        current, manifest = store.current_or_none(kind, name), stays.manifests[key]
        if current and version in current.history:
            why = f"published, and not one of the newest {rules.published}"
        elif current and version in current.withdrawn:
            why = f"withdrawn, and older than {rules.candidates.days} days"
        elif kind == Report.kind:
            why = f"the judgement of nothing that is kept, and older than {rules.candidates.days} days"
        else:
            why = f"not live, made into nothing that is kept, and older than {rules.candidates.days} days"
        size = sum(entry.length for entry in manifest.files)
        label = f"{kind}/{name}@{version}"
        items.append(Item(what="version", key="/".join(key), name=label, size=size, since=manifest.created, why=why))
    for kind in store.kinds():
        for name in store.products(kind):
            for version, changed in store.headless(kind, name).items():
                if stays.now - changed >= rules.candidates:
                    why = f"files without a manifest, unchanged for {rules.candidates.days} days"
                    label, path = f"{kind}/{name}@{version}", f"{kind}/{name}/{version}"
                    since = changed.isoformat(timespec="seconds")
                    items.append(Item(what="unfinished", key=path, name=label, size=0, since=since, why=why))
    return items


def remove_versions(store: Store, items: Iterable[Item]) -> tuple[list[Item], list[Item]]:
    """Remove versions; what became live, pinned or somebody's input since the survey stays.

    Args:
        store: where.
        items: as `old_versions` gives them, in its order.

    Returns:
        What was removed, and what was spared.
    """
    items = list(items)
    planned = {_key(item) for item in items}
    removed, spared = [], []
    known: dict[Key, set[Key]] = {}
    kind_before, learnt = "", 0.0
    for item in items:
        key = kind, name, version = _key(item)
        # consumers come first, so that a new one of the next kind is seen in time
        if kind != kind_before or time.monotonic() - learnt > LOOK_AGAIN_S:
            _learn(store, known)
            kind_before, learnt = kind, time.monotonic()
        needed = any(key in named for other, named in known.items() if other != key)
        if kind == Report.kind:  # not before what it judges: that may have gone live, and its judgement stays with it
            needed = needed or any(store.needed(*named) for named in known.get(key, set()) & planned)
        used = store.used(*key)  # a run took it up after the survey
        needed = needed or (used is not None and datetime.now(UTC) - used < IN_USE)
        if item.what == "unfinished":  # somebody may have written it to its end, or be about to
            changed = store.headless(kind, name).get(version)
            needed = needed or changed is None or changed.isoformat(timespec="seconds") != item.since
        if needed or not store.remove(kind, name, version, item.why):
            spared.append(item)
            continue
        known.pop(key, None)
        removed.append(item)
        _tell_registry(key)
    return removed, spared


def _key(item: Item) -> Key:
    kind, name, version = item.key.split("/")
    return kind, name, version


def _learn(store: Store, known: dict[Key, set[Key]]) -> None:
    """Bring up to date what every version of the store is made from."""
    there = {
        (kind, name, version)
        for kind in store.kinds()
        for name in store.products(kind)
        for version in store.known(kind, name)
    }
    for key in set(known) - there:
        del known[key]
    for key in there - set(known):
        with contextlib.suppress(IntegrityError):  # one that is being written can be read at the next look
            known[key] = _lineage_as_far(store, store.manifest(*key))


def _consumers_first(store: Store, manifests: Mapping[Key, Manifest]) -> list[Key]:
    """What is made from others before those others. No circle can be: a digest covers those of what it is made from."""
    made_from = {key: _lineage_as_far(store, manifest) & set(manifests) for key, manifest in manifests.items()}
    levels: dict[Key, int] = {}
    for key in TopologicalSorter(made_from).static_order():
        levels[key] = 1 + max((levels[named] for named in made_from[key]), default=0)
    return sorted(manifests, key=lambda key: (-levels[key], key))


def _lineage_as_far(store: Store, manifest: Manifest) -> set[Key]:
    """What a version is made from, as far as it can be read: a damaged calendar that nobody needs stops nobody."""
    try:
        return lineage(store, manifest)
    except IntegrityError:
        return {(kind, ref["name"], ref["version"]) for kind, ref in manifest.inputs.items()}


def _makers(store: Store) -> set[str]:
    """Flow runs and MLflow runs that made what is in the store now."""
    return {
        run
        for kind in store.kinds()
        for name in store.products(kind)
        for manifest in store.versions(kind, name)
        for run in (manifest.flow_run_id, manifest.run_id)
        if run
    }


def _tell_registry(key: Key) -> None:
    """Say beside a registered version that the store no longer has it."""
    kind, name, version = key
    if kind not in KINDS or not outbox.answers():
        return
    from mlflow.exceptions import MlflowException

    client = outbox.mlflow_client()
    try:
        for found in client.search_model_versions(
            f"name = '{registered_name(kind, name)}' and tags.version = '{version}'"
        ):
            client.set_model_version_tag(found.name, found.version, "removed", _now())
    except MlflowException as error:
        log.warning("the registry was not told that %s/%s@%s is removed: %s", kind, name, version, error)


# -------------------------------------------------------------------------------------------------------- MLflow


def old_mlflow_runs(stays: Stays, age: timedelta) -> list[Item]:
    """Finished MLflow runs of headrace that belong to no version that stays.

    Args:
        stays: versions that stay keep their runs.
        age: how long a run is kept for itself.

    Returns:
        Runs that MLflow can still bring back after their removal; its own `mlflow gc` frees their space.
    """
    from mlflow.entities import ViewType

    waited_for = {file.stem for file in outbox.waiting()}
    client, items, makers = outbox.mlflow_client(), list[Item](), stays.makers
    before = int((stays.now - age).timestamp() * 1000)
    artifacts = settings().home.resolve() / "mlflow" / "artifacts"
    experiments = [one.experiment_id for one in client.search_experiments(view_type=ViewType.ALL)]
    token = None
    while len(items) < MOST:
        page = client.search_runs(
            experiments,
            f"attributes.end_time > 0 and attributes.end_time < {before}",
            order_by=["attributes.end_time ASC"],
            page_token=token,
        )
        for run in page:
            flow_run = run.data.tags.get("prefect.flow_run_id")
            needed = {flow_run, run.info.run_id} & makers or flow_run in waited_for
            if needed or run.info.status == "RUNNING" or not all(tag in run.data.tags for tag in OURS):
                continue
            items.append(
                Item(
                    what="MLflow run",
                    key=run.info.run_id,
                    name=run.info.run_name or run.info.run_id,
                    size=sum(_size(folder) for folder in artifacts.glob(f"*/{run.info.run_id}")),
                    since=_iso(run.info.end_time / 1000),
                    why=f"older than {age.days} days, and of no version that is kept",
                )
            )
        token = page.token
        if not token:
            break
    return items[:MOST]


def remove_mlflow_runs(items: Iterable[Item]) -> list[Item]:
    """Delete MLflow runs, as MLflow understands it: hidden, and kept until `mlflow gc`.

    One that made what is in the store after all, because a version was spared, stays; so does one that goes on.
    """
    from mlflow.exceptions import MlflowException

    client, removed, makers = outbox.mlflow_client(), [], _makers(Store(settings().store_location, touch=False))
    for item in items:
        try:
            run = client.get_run(item.key)
            flow_run = run.data.tags.get("prefect.flow_run_id")
            if {flow_run, item.key} & makers or run.info.status == "RUNNING":
                log.info("MLflow run %s stays: it goes on, or made a version that is kept", item.name)
                continue
            client.set_tag(item.key, TAG, _now())
            client.delete_run(item.key)
            removed.append(item)
        except MlflowException as error:
            log.warning("MLflow run %s stays: %s", item.name, error)
            if outbox.absence(error):  # each of the others would wait as long
                break
    return removed


# ------------------------------------------------------------------------------------------------------- Prefect


def old_flow_runs(stays: Stays, age: timedelta, pool: str) -> list[Item]:
    """Finished flow runs of the pool, and those that they started, which made no version that stays.

    A flow run goes together with all that it started, or not at all: without it nobody would find those again.

    Args:
        stays: versions that stay keep the flow runs that made them, and those that started these.
        age: how long a flow run is kept for itself.
        pool: the work pool; flow runs of other projects on the same server are not looked at.

    Returns:
        What may go, a flow run behind those that it started.

    Raises:
        httpx.HTTPError: the Prefect server did not answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import TERMINAL_STATES
    from prefect.client.schemas.sorting import FlowRunSort

    before, makers = stays.now - age, stays.makers
    of_pool = filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[pool]))
    ended = filters.FlowRunFilter(
        end_time=filters.FlowRunFilterEndTime(before_=before),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
    )
    found: list[FlowRun] = []
    with get_client(sync_client=True) as client:
        pages = _pages(client, flow_run_filter=ended, work_pool_filter=of_pool, sort=FlowRunSort.START_TIME_ASC)
        for root in (run for page in pages for run in page):
            if len(found) >= MOST:
                break
            if not _may_go(root, before, makers):
                continue
            family = [root]
            for member in family:  # grows while it is walked
                children = filters.FlowRunFilterParentFlowRunId(any_=[member.id])
                chosen = filters.FlowRunFilter(parent_flow_run_id=children)
                family += [run for page in _pages(client, flow_run_filter=chosen) for run in page]
            if all(_may_go(run, before, makers) for run in family):
                found += reversed(family)
    return [
        Item(
            what="flow run",
            key=str(run.id),
            name=run.name,
            size=0,
            since=run.end_time.isoformat(timespec="seconds") if run.end_time else "",
            why=f"ended more than {age.days} days ago, and made no version that is kept",
        )
        for run in found
    ]


def _pages(client: Any, **query: Any) -> "Iterator[list[FlowRun]]":
    """Flow runs that a query finds, as many at a time as the API gives."""
    offset = 0
    while page := client.read_flow_runs(**query, limit=PAGE, offset=offset):
        yield page
        if len(page) < PAGE:
            return
        offset += PAGE


def _may_go(run: "FlowRun", before: datetime, makers: set[str]) -> bool:
    ended = run.state is not None and run.state.is_final() and run.end_time is not None and run.end_time < before
    return ended and str(run.id) not in makers


def remove_flow_runs(items: Iterable[Item]) -> list[Item]:
    """Delete flow runs with their task runs, logs, and what their pages showed.

    One that made what is in the store after all, because a version was spared, stays; so does one that was retried.

    Raises:
        httpx.HTTPError: the Prefect server did not answer.
    """
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.exceptions import ObjectNotFound

    items = list(items)
    if not items:
        return []
    removed, makers = [], _makers(Store(settings().store_location, touch=False))
    with get_client(sync_client=True) as client:
        for item in items:
            identifier = UUID(item.key)
            children = filters.FlowRunFilterParentFlowRunId(any_=[identifier])
            shown = filters.ArtifactFilter(flow_run_id=filters.ArtifactFilterFlowRunId(any_=[identifier]))
            try:
                run = client.read_flow_run(identifier)
                spared = item.key in makers or run.state is None or not run.state.is_final()
                if spared or client.read_flow_runs(
                    flow_run_filter=filters.FlowRunFilter(parent_flow_run_id=children), limit=1
                ):
                    log.info("flow run %s stays: it was retried, or it or one that it started is needed", item.name)
                    continue
                while artifacts := client.read_artifacts(artifact_filter=shown):
                    for artifact in artifacts:
                        with contextlib.suppress(ObjectNotFound):
                            client.delete_artifact(artifact.id)
                client.delete_flow_run(identifier)
            except ObjectNotFound:  # somebody was faster
                continue
            removed.append(item)
    return removed


# ------------------------------------------------------------------------------------------------------- scratch


def old_scratch(age: timedelta, now: datetime) -> list[Item]:
    """Checkpoints and downloads that nobody changed for long.

    Args:
        age: how long they are kept.
        now: UTC.
    """
    items = []
    for folder in SCRATCH:
        for path in sorted((settings().scratch / folder).glob("*")):
            changed = _changed(path)
            if path.suffix == LOCK or changed is None or now - changed < age:
                continue  # a lock takes no room, and one that is taken away locks nobody out
            key, since = f"{folder}/{path.name}", changed.isoformat(timespec="seconds")
            why = f"unchanged for {age.days} days; made again when it is wanted"
            items.append(Item(what="scratch", key=key, name=key, size=_size(path), since=since, why=why))
    return items


def remove_scratch(items: Iterable[Item]) -> list[Item]:
    """Delete entries of scratch; one that somebody took up again since it was named stays."""
    removed = []
    for item in items:
        folder, _, name = item.key.partition("/")
        if folder not in SCRATCH or "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{item.key!r} is no entry of scratch; known folders are {', '.join(SCRATCH)}.")
        path = settings().scratch / folder / name
        with _unless_taken(path.with_suffix(LOCK)) as free:
            changed = _changed(path)
            if not free or changed is None or changed.isoformat(timespec="seconds") != item.since:
                log.info("%s stays: it is in use again, or gone already", item.name)
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if path.exists():
            log.warning("%s cannot be removed; look at its owner and its rights.", path)
            continue
        removed.append(item)
    return removed


@contextlib.contextmanager
def _unless_taken(lock: Path) -> Iterator[bool]:
    """Hold the lock beside an entry, as a training does; whether it was free. What has no lock is."""
    if not lock.exists():
        yield True
        return
    with lock.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _changed(path: Path) -> datetime | None:
    """Time of the last change in an entry; None of one that is gone, as when a training ends meanwhile."""
    times = []
    with contextlib.suppress(FileNotFoundError):
        within = [] if path.is_symlink() else path.rglob("*")
        times = [file.lstat().st_mtime for file in (path, *within)]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
    return 0


def _time(stamp: str, *, unknown: datetime) -> datetime:
    """When something was made; what does not say is taken for new, since nothing may go by mistake."""
    try:
        found = datetime.fromisoformat(stamp)
    except ValueError:
        return unknown
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
