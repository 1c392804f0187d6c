"""Retention: what may go, what never goes, and what is spared when the world changed since the survey.

The property at the top builds random lineages with random ages, lets others publish, pin and build between survey and
sweep, cuts the sweep anywhere, and compares with the rules written down a second time.
"""

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import infra.store
from infra import outbox, retention
from infra.manifest import Manifest
from infra.refs import Calendar, Dataset, Day, Index, Model, Ref, Report
from infra.retention import Item, Key, Rules, Stays
from infra.settings import settings
from infra.store import IntegrityError, NotPublishedError, Store
from infra.tracking import mlflow_client, run_for

NOW = datetime(2026, 11, 25, 5, 7, tzinfo=UTC)
RULES = Rules(published=1, candidates=timedelta(days=30), grace=timedelta(days=2))
KINDS: dict[str, type[Ref]] = {kind.kind: kind for kind in (Dataset, Model, Index, Report, Calendar, Day)}


class World:
    """A store in which a version can be made, published and rolled back at any time of the past."""

    def __init__(self, root: str) -> None:
        self.store = Store(root)
        self.made = 0

    def make(self, kind: str, age: float, *inputs: Ref, name: str = "toy", payload: Any = None, **fields: str) -> Ref:
        """A version that is so many days old."""
        self.made += 1
        manifest = Manifest(
            kind=kind,
            name=name,
            configuration={"number": self.made},
            configuration_class="models.toy.Config",
            inputs={ref.kind: {"name": ref.name, "version": ref.version, "digest": ref.digest} for ref in inputs},
            files=(),
            code="c",
            **fields,
        )
        with at(age):
            return self.store.write(KINDS[kind], payload or {"x": {"number": self.made}}, manifest)

    def publish(self, ref: Ref, age: float = 0, run_id: str = "") -> None:
        with at(age):
            self.store.publish(ref, {"claims": []}, run_id=run_id, reinstate=True)

    def survey(self, rules: Rules = RULES) -> tuple[Stays, list[Item]]:
        stays = retention.what_stays(self.store, rules, NOW)
        return stays, retention.old_versions(self.store, stays)

    def there(self) -> set[Key]:
        return {
            (kind, name, version)
            for kind in self.store.kinds()
            for name in self.store.products(kind)
            for version in self.store.known(kind, name)
        }


class at:  # noqa: N801 - reads as words
    """The store's clock, so many days ago."""

    def __init__(self, age: float) -> None:
        self.stamp = (NOW - timedelta(days=age)).isoformat(timespec="milliseconds")

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(infra.store, "_now", lambda: self.stamp)

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


@pytest.fixture
def world(home: Path) -> World:
    return World(settings().store_location)


def key(ref: Ref) -> Key:
    return (ref.kind, ref.name, ref.version)


def keys(items: list[Item]) -> list[Key]:
    return [retention._key(item) for item in items]


def folder(world: World, ref: Ref) -> Path:
    return Path(world.store.root) / ref.kind / ref.name / ref.version


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below a folder, with time and content."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


# ------------------------------------------------------------------------------------------------------ the property

AGES = st.sampled_from([0.5, 1.9, 2.1, 8.0, 29.0, 31.0, 45.0, 400.0])


@st.composite
def histories(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(2, 12))
    versions = []
    for number in range(count):
        kind = draw(st.sampled_from(["dataset", "model", "index", "report"]))
        inputs = draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        versions.append((kind, draw(st.sampled_from(["one", "two"])), draw(AGES), inputs))
    some = st.lists(st.integers(0, count - 1), max_size=4)
    return {
        "versions": versions,
        "published": draw(st.lists(st.tuples(st.integers(0, count - 1), AGES), max_size=7)),
        "rolled_back": draw(some),
        "pinned": draw(st.lists(st.integers(0, count - 1), max_size=1)),
        "meanwhile": draw(st.fixed_dictionaries({"publish": some, "pin": some, "build": some})),
        "cut": draw(st.integers(0, 6)),
        "rules": Rules(
            published=draw(st.integers(1, 2)),
            candidates=timedelta(days=draw(st.sampled_from([1, 5, 30]))),
            grace=timedelta(days=2),
        ),
    }


def made_from(store: Store, version: Key) -> set[Key]:
    return {(kind, ref["name"], ref["version"]) for kind, ref in store.manifest(*version).inputs.items()}


def chain(store: Store, version: Key) -> set[Key]:
    """A version and all that it is made from."""
    return {version}.union(*(chain(store, named) for named in made_from(store, version)))


def kept_by_the_rules(world: World, rules: Rules) -> set[Key]:
    """The rules of docs/operating/upkeep.md, written down a second time."""
    store, there, kept = world.store, world.there(), set()
    age = {version: NOW - datetime.fromisoformat(store.manifest(*version).created) for version in there}
    for version in there:
        kind, name, number = version
        current = store.current_or_none(kind, name)
        history = [past for past in current.history if (kind, name, past) in there] if current else []
        kept_for_itself = [
            current is not None and current.version == number,
            number in store.pins(kind, name),
            number in history[: rules.published],
            age[version] < rules.grace,
            age[version] < rules.candidates and number not in (current.history if current else ()),
            current is not None
            and current.cause != ""
            and current.withdrawn[-1:] == (number,)
            and NOW - datetime.fromisoformat(current.published) < rules.grace,
        ]
        if any(kept_for_itself):
            kept |= chain(store, version)
    judged = {one for one in there if one[0] == "report" and made_from(store, one) and made_from(store, one) <= kept}
    return kept | judged


@hypothesis_settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(history=histories())
def test_nothing_that_is_needed_ever_goes_and_nothing_goes_that_was_not_named(history: dict[str, Any]) -> None:
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))  # noqa: S108
    patch = pytest.MonkeyPatch()
    patch.setattr(outbox, "answers", lambda: False)
    try:
        check_history(World(str(root / "store")), history)
    finally:
        patch.undo()
        shutil.rmtree(root)


def check_history(world: World, history: dict[str, Any]) -> None:
    store, rules, refs = world.store, history["rules"], list[Ref]()
    for kind, name, age, inputs in history["versions"]:
        one_of_a_kind = {refs[number].kind: refs[number] for number in inputs}
        refs.append(world.make(kind, age, *one_of_a_kind.values(), name=name))
    for number, age in history["published"]:
        world.publish(refs[number], age)
    for number in history["rolled_back"]:
        if (current := store.current_or_none(refs[number].kind, refs[number].name)) and current.history:
            with at(history["versions"][number][2]):
                store.rollback(refs[number].kind, refs[number].name, cause=uuid.uuid4().hex)
    for number in history["pinned"]:
        store.pin(*key(refs[number]), "property")

    before, kept = world.there(), kept_by_the_rules(world, rules)
    looked = tree(Path(store.root))
    _, items = world.survey(rules)
    assert tree(Path(store.root)) == looked, "a survey changed something"
    assert set(keys(items)) == before - kept, "what is named is not what the rules say"

    # others go on between survey and sweep
    for number in history["meanwhile"]["publish"]:
        world.publish(refs[number])
    for number in history["meanwhile"]["pin"]:
        store.pin(*key(refs[number]), "meanwhile")
    built = {key(world.make("index", 0, refs[number], name="built")) for number in history["meanwhile"]["build"]}
    needed = set().union(*(chain(store, one) for one in built | {key(ref) for ref in refs} if store.needed(*one)))
    needed = needed.union(*(chain(store, one) for one in built))

    before, lineages = world.there(), {one: made_from(store, one) for one in world.there()}
    removed = sweep_and_cut(world, items, history["cut"])
    assert before - world.there() == removed <= set(keys(items)), "what went is not what was named"
    check_whole(world, needed | kept, lineages)

    # the next one goes on: nothing is left that the rules do not keep
    _, again = world.survey(rules)
    gone, spared = retention.remove_versions(store, again)
    assert (set(keys(gone)), spared) == (set(keys(again)), [])
    assert world.there() == kept_by_the_rules(world, rules)
    check_whole(world, needed | kept, lineages)


def sweep_and_cut(world: World, items: list[Item], after: int) -> set[Key]:
    """Sweep until it is killed, after so many removals."""
    before, left, remove = world.there(), after, world.store.remove

    def killed(*args: str) -> bool:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return remove(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "remove", killed)
        try:
            gone, spared = retention.remove_versions(world.store, items)
            assert set(keys(gone)) | set(keys(spared)) == set(keys(items))
        except KeyboardInterrupt:
            pass
    return before - world.there()


def check_whole(world: World, needed: set[Key], lineages: dict[Key, set[Key]]) -> None:
    there = world.there()
    assert needed <= there, "what is needed went"
    for one in there:
        assert lineages.get(one, set()) <= there, f"{one} lost what it is made from"
    for kind, name, version in needed:
        manifest = world.store.manifest(kind, name, version)
        location = f"{world.store.root}/{kind}/{name}/{version}"
        assert world.store.intact(KINDS[kind](name=name, version=version, digest=manifest.digest, location=location))


# -------------------------------------------------------------------------------------------------- versions, by name


def test_every_reason_is_a_sentence_and_consumers_go_first(world: World) -> None:
    data = world.make("dataset", 50)
    old = world.make("index", 45, data)
    judged = world.make("report", 45, old, data)
    live = world.make("index", 40)
    past = [world.make("index", 60 + number) for number in range(3)]
    for ref in (*past, live):
        world.publish(ref, 40)
    stays, items = world.survey()
    assert {version[2]: why for version, why in stays.reasons.items()} == {
        live.version: "live",
        past[2].version: "one of the newest published",
    }
    assert [(item.name, item.why) for item in items] == [
        (f"report/toy@{judged.version}", "the judgement of nothing that is kept, and older than 30 days"),
        (f"index/toy@{old.version}", "not live, made into nothing that is kept, and older than 30 days"),
        (f"dataset/toy@{data.version}", "not live, made into nothing that is kept, and older than 30 days"),
        *sorted((f"index/toy@{ref.version}", "published, and not one of the newest 1") for ref in past[:2]),
    ]
    assert all(item.size > 0 for item in items)


def test_the_days_of_a_kept_calendar_stay_also_when_they_were_revised(world: World) -> None:
    def entry(day: str, ref: Ref) -> dict[str, str]:
        return {"day": day, "version": ref.version, "digest": ref.digest}

    first, second, third = (world.make("day", age, name="toy-2026-01-01") for age in (90, 80, 70))
    calendars = [world.make("calendar", 60, payload={"days": [entry("2026-01-01", ref)]}) for ref in (first, second)]
    data = world.make("dataset", 60, calendars[0])
    world.publish(world.make("index", 60, data), 60)
    for day in (first, second, third):
        world.publish(day, 60)
    rules = Rules(published=1, candidates=timedelta(days=30), grace=timedelta(days=2))
    world.publish(world.make("day", 50, name="toy-2026-01-01"), 50)
    stays, items = world.survey(rules)
    assert stays.reasons[key(first)] == f"made into calendar/toy@{calendars[0].version}"
    assert stays.reasons[key(third)] == "one of the newest published"
    assert set(keys(items)) == {key(calendars[1]), key(second)}
    removed, spared = retention.remove_versions(world.store, items)
    assert (keys(removed), spared) == ([key(calendars[1]), key(second)], [])


def test_a_damaged_calendar_that_nobody_needs_goes_and_stops_nobody(world: World) -> None:
    calendar = world.make("calendar", 60, payload={"days": []})
    (folder(world, calendar) / "days.json").write_text("[")
    world.publish(world.make("index", 60), 60)
    _, items = world.survey()
    assert keys(items) == [key(calendar)]
    assert keys(retention.remove_versions(world.store, items)[0]) == [key(calendar)]


@pytest.mark.parametrize("needed_as", ["live", "pinned", "made into", "one of the newest published"])
@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_nothing_may_be_removed_while_a_needed_manifest_cannot_be_read(
    world: World, needed_as: str, damage: str
) -> None:
    data, before = world.make("dataset", 60), world.make("index", 60)
    live = world.make("index", 60, data)
    world.publish(before, 60)
    world.publish(live, 60)
    pinned = world.make("model", 60)
    world.store.pin(*key(pinned), "a paper")
    lost = {"live": live, "pinned": pinned, "made into": data, "one of the newest published": before}[needed_as]
    manifest = folder(world, lost) / "manifest.json"
    if damage == "cut":
        os.truncate(manifest, 100)
    else:
        manifest.unlink()
        if needed_as == "one of the newest published":  # what a killed removal leaves is no version to return to
            assert key(lost) not in world.survey()[0].reasons
            return
    with pytest.raises(IntegrityError, match=needed_as) as found:
        world.survey()
    assert f"{lost.kind}/toy@{lost.version}" in str(found.value)
    assert "nothing may be removed. Run headrace doctor" in str(found.value)


def test_an_unreadable_version_that_nobody_needs_stops_nobody_and_stays_for_a_person(world: World) -> None:
    lost = world.make("index", 60)
    os.truncate(folder(world, lost) / "manifest.json", 100)
    assert world.survey()[1] == []
    assert folder(world, lost).exists()


def test_a_version_that_does_not_say_when_it_was_made_is_taken_for_new(world: World) -> None:
    for stamp in ("", "yesterday"):
        ref = world.make("index", 60)
        file = folder(world, ref) / "manifest.json"
        file.write_text(file.read_text().replace(world.store.manifest(*key(ref)).created, stamp))
    assert world.survey()[1] == []


@pytest.mark.parametrize("meanwhile", ["publish", "pin", "build"])
def test_what_became_needed_between_survey_and_sweep_is_spared_with_its_lineage_and_judgement(
    world: World, meanwhile: str
) -> None:
    data = world.make("dataset", 60)
    model = world.make("model", 60, data)
    report = world.make("report", 60, model, data)
    other = world.make("dataset", 60, name="other")
    _, items = world.survey()
    assert set(keys(items)) == {key(ref) for ref in (data, model, report, other)}
    if meanwhile == "publish":
        world.publish(model)
    elif meanwhile == "pin":
        world.store.pin(*key(model), "wanted after all")
    else:
        world.make("index", 0, model)
    removed, spared = retention.remove_versions(world.store, items)
    judgement = [] if meanwhile == "build" else [key(report)]
    assert keys(spared) == [*judgement, key(model), key(data)]
    assert set(keys(removed)) == {key(other), key(report)} - set(judgement)


def test_a_consumer_written_in_the_middle_of_a_long_sweep_is_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [world.make("dataset", 60) for _ in range(3)]
    _, items = world.survey()
    last = next(ref for ref in sets if key(ref) == keys(items)[-1])
    remove, built = world.store.remove, list[Ref]()

    def slow(*args: str) -> bool:
        if not built:
            built.append(world.make("index", 0, last))
        return remove(*args)

    monkeypatch.setattr(retention, "LOOK_AGAIN_S", -1)
    monkeypatch.setattr(world.store, "remove", slow)
    removed, spared = retention.remove_versions(world.store, items)
    assert (len(removed), keys(spared)) == (2, [key(last)])


def test_who_wants_a_removed_version_is_told_that_it_was_removed_and_why(world: World) -> None:
    past = [world.make("index", 60) for _ in range(3)]
    for ref in past:
        world.publish(ref, 60)
    retention.remove_versions(world.store, world.survey()[1])
    assert world.there() == {key(past[1]), key(past[2])}
    with pytest.raises(
        NotPublishedError, match=r"was removed by retention on .* \(published, and not one of the newest"
    ):
        world.store.rollback("index", "toy", past[0].version)
    with pytest.raises(NotPublishedError, match=f"to return to are .*{past[1].version}"):
        world.store.rollback("index", "toy", past[0].version)
    with pytest.raises(IntegrityError, match="the version was removed on"):
        world.store.open(past[0])
    world.store.rollback("index", "toy")
    assert world.store.current("index", "toy").version == past[1].version


def test_whatever_is_younger_than_the_grace_period_stays_and_so_does_what_it_is_made_from(world: World) -> None:
    data = world.make("dataset", 60)
    young = world.make("index", 1.5, data)
    for ref in (young, world.make("index", 60), world.make("index", 60)):
        world.publish(ref, 1)
    stays, items = world.survey()
    assert stays.reasons[key(young)] == "within the grace period"
    assert stays.reasons[key(data)] == f"made into index/toy@{young.version}"
    assert items == []


def test_a_version_that_was_just_rolled_back_can_be_looked_at(world: World) -> None:
    first, second = world.make("index", 60), world.make("index", 60)
    world.publish(first, 50)
    world.publish(second, 50)
    with at(1):
        world.store.rollback("index", "toy", cause="a person")
    assert world.survey()[0].reasons[key(second)] == "rolled back within the grace period"


# ------------------------------------------------------------------------------------------------ files without a head


def headless(world: World, kind: str = "index", days: float = 40) -> Path:
    """What a killed removal on an object store leaves."""
    ref = world.make(kind, days)
    (folder(world, ref) / "manifest.json").unlink()
    moment = (NOW - timedelta(days=days)).timestamp()
    for path in (*folder(world, ref).iterdir(), folder(world, ref)):
        os.utime(path, (moment, moment))
    return folder(world, ref)


def test_old_files_without_a_manifest_go_and_young_ones_stay(world: World) -> None:
    old, young = headless(world), headless(world, days=20)
    _, items = world.survey()
    assert [(item.what, item.key) for item in items] == [("unfinished", f"index/toy/{old.name}")]
    removed, spared = retention.remove_versions(world.store, items)
    assert (removed, spared) == (items, [])
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("finished", [True, False])
def test_files_that_somebody_took_up_since_the_survey_stay(world: World, finished: bool) -> None:
    old = headless(world)
    _, items = world.survey()
    if finished:
        world.made -= 1
        assert world.make("index", 0).version == old.name
    else:
        (old / "x.json").write_text("more")
    removed, spared = retention.remove_versions(world.store, items)
    assert (removed, spared) == ([], items)
    assert old.exists()


# ------------------------------------------------------------------------------------------------------------- MLflow


def run(experiment: str, days: float, *, flow_run: str = "", **tags: str) -> str:
    """An MLflow run of headrace that ended so many days ago."""
    own = {"configuration.digest": "d"} | tags
    with run_for(experiment, flow_run or str(uuid.uuid4()), "toy", own) as begun:
        pass
    client = mlflow_client()
    end = int((NOW - timedelta(days=days)).timestamp() * 1000)
    client.set_terminated(begun.id, "FINISHED", end_time=end)
    return begun.id


@pytest.fixture
def experiment() -> str:
    return f"retention-{uuid.uuid4().hex[:8]}"


def of(experiment: str, items: list[Item]) -> set[str]:
    """The runs of this test, among those of other tests in the session's MLflow."""
    found = mlflow_client().get_experiment_by_name(experiment)
    mine = {one.info.run_id for one in mlflow_client().search_runs([found.experiment_id])}
    return {item.key for item in items} & mine


def test_runs_of_kept_versions_stay_and_so_do_young_running_waiting_and_foreign_ones(
    world: World, experiment: str
) -> None:
    maker, judge, waits = (str(uuid.uuid4()) for _ in range(3))
    kept_by_id = run(experiment, 400)
    run(experiment, 400, flow_run=maker)
    run(experiment, 400, flow_run=judge)
    run(experiment, 400, flow_run=waits)
    running = run(experiment, 400)
    mlflow_client().update_run(running, status="RUNNING")
    client = mlflow_client()
    foreign = client.create_run(
        client.get_experiment_by_name(experiment).experiment_id, tags={"prefect.flow_run_id": "theirs"}
    )
    client.set_terminated(foreign.info.run_id, "FINISHED", end_time=1)
    run(experiment, 100)
    old = run(experiment, 200)
    data = world.make("dataset", 400, flow_run_id=maker)
    live = world.make("index", 400, data)
    world.make("report", 400, live, data, flow_run_id=judge)
    world.publish(live, 400, run_id=kept_by_id)
    outbox._folder().mkdir(parents=True, exist_ok=True)
    (outbox._folder() / f"{waits}.jsonl").write_text("")
    stays, _ = world.survey()
    items = retention.old_mlflow_runs(stays, timedelta(days=180))
    assert of(experiment, items) == {old}
    mine = [item for item in items if item.key == old]
    assert [item.key for item in retention.remove_mlflow_runs(mine)] == [old]
    assert mlflow_client().get_run(old).info.lifecycle_stage == "deleted"
    assert retention.TAG in mlflow_client().get_run(old).data.tags
    assert of(experiment, retention.old_mlflow_runs(stays, timedelta(days=180))) == set()


def test_the_run_of_a_version_that_was_spared_stays_and_so_does_one_that_goes_on(world: World, experiment: str) -> None:
    flow_run = str(uuid.uuid4())
    maker, resumed = run(experiment, 400, flow_run=flow_run), run(experiment, 400)
    candidate = world.make("index", 400, flow_run_id=flow_run)
    stays, items = world.survey()
    runs = [item for item in retention.old_mlflow_runs(stays, timedelta(days=180)) if item.key in (maker, resumed)]
    assert (keys(items), len(runs)) == ([key(candidate)], 2)
    world.publish(candidate)
    mlflow_client().update_run(resumed, status="RUNNING")
    assert retention.remove_versions(world.store, items) == ([], items)
    assert retention.remove_mlflow_runs(runs) == []
    assert mlflow_client().get_run(maker).info.lifecycle_stage == "active"


def test_kept_runs_do_not_hide_the_old_ones_behind_them(
    world: World, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST", 1)
    kept = run(experiment, 5000)
    world.publish(world.make("index", 400), 400, run_id=kept)
    old = run(experiment, 4999)
    items = retention.old_mlflow_runs(world.survey()[0], timedelta(days=180))
    assert [item.key for item in items] == [old]


def test_a_sweep_gives_up_on_mlflow_when_it_goes_away(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HEADRACE_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody answers
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings.cache_clear()
    items = [Item(what="MLflow run", key=f"{n:032x}", name=f"run {n}", size=0, since="", why="") for n in range(3)]
    assert retention.remove_mlflow_runs(items) == []
    assert [record.getMessage().split(" stays")[0] for record in caplog.records] == ["MLflow run run 0"]


def test_the_registry_says_of_a_version_that_it_was_removed(world: World) -> None:
    from infra.registry import mirror, registered_name

    name = f"toy-{uuid.uuid4().hex[:8]}"
    refs = [world.make("index", 60, name=name) for _ in range(3)]
    for ref in refs:
        world.publish(ref, 60)
        mirror(world.store, "index", name)
    retention.remove_versions(world.store, world.survey()[1])
    found = mlflow_client().search_model_versions(f"name = '{registered_name('index', name)}'")
    assert {one.tags["version"] for one in found if "removed" in one.tags} == {refs[0].version}


# ------------------------------------------------------------------------------------------------------------ scratch

AGE = timedelta(days=14)


def scratch(path: str, days: float = 20) -> Path:
    """An entry of scratch that was last changed so many days ago."""
    entry = settings().scratch / path
    (entry / "deep").mkdir(parents=True)
    (entry / "deep" / "last.ckpt").write_bytes(bytes(1000))
    moment = time.time() - days * 86400
    for one in (*entry.rglob("*"), entry):
        os.utime(one, (moment, moment))
    return entry


def test_an_old_version_that_a_run_took_up_again_is_not_named(world: World) -> None:
    taken, left = world.make("dataset", 60), world.make("dataset", 60)
    world.store.intact(taken)
    _, items = world.survey()
    assert [item.key for item in items] == [f"dataset/toy/{left.version}"]


def test_an_old_version_that_a_run_took_up_after_the_survey_is_spared(world: World) -> None:
    taken, left = world.make("dataset", 60), world.make("dataset", 60)
    _, items = world.survey()
    assert len(items) == 2
    world.store.intact(taken)
    removed, spared = retention.remove_versions(world.store, items)
    assert [item.key for item in removed] == [f"dataset/toy/{left.version}"]
    assert [item.key for item in spared] == [f"dataset/toy/{taken.version}"]


def test_a_version_that_was_half_written_at_the_first_look_keeps_its_inputs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an object store the manifest comes last; what was unreadable then is read again at each look."""
    first, second = world.make("dataset", 60), world.make("dataset", 60)
    _, items = world.survey()
    model = world.make("model", 0, second)
    file = Path(model.location, "manifest.json")
    whole = file.read_bytes()
    file.unlink()
    monkeypatch.setattr(retention, "LOOK_AGAIN_S", -1)
    remove = world.store.remove

    def then(*arguments: str) -> bool:
        file.write_bytes(whole)
        return remove(*arguments)

    monkeypatch.setattr(world.store, "remove", then)
    items.sort(key=lambda item: item.key != f"dataset/toy/{first.version}")
    removed, spared = retention.remove_versions(world.store, items)
    assert [item.key for item in removed] == [f"dataset/toy/{first.version}"]
    assert [item.key for item in spared] == [f"dataset/toy/{second.version}"]


def old_scratch() -> list[Item]:
    return retention.old_scratch(AGE, datetime.now(UTC))


def test_old_scratch_goes_and_a_training_that_was_taken_up_again_keeps_its_checkpoints(home: Path) -> None:
    gone, taken, held = (scratch(f"training/{name}") for name in ("gone", "taken", "held"))
    scratch("training/young", days=10)
    scratch("days/a-note")  # not scratch that grows
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "file").touch()
    link = settings().scratch / "downloads"
    link.mkdir()
    (link / "link").symlink_to(home / "elsewhere")
    os.utime(link / "link", (0, 0), follow_symlinks=False)
    for entry in (gone, taken, held):
        entry.with_suffix(".lock").touch()
        os.utime(entry.with_suffix(".lock"), (0, 0))
    items = old_scratch()
    assert {item.key for item in items} == {"training/gone", "training/taken", "training/held", "downloads/link"}
    assert next(item.size for item in items if item.key == "training/gone") == 1000
    (taken / "run_id").touch()
    with held.with_suffix(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        removed = retention.remove_scratch(items)
    assert {item.key for item in removed} == {"training/gone", "downloads/link"}
    assert (gone.exists(), taken.exists(), held.exists()) == (False, True, True)
    assert (home / "elsewhere" / "file").exists(), "a link was followed"
    assert gone.with_suffix(".lock").exists(), "whoever waits for a lock that is gone locks nobody out"
    assert {item.key for item in retention.remove_scratch(old_scratch())} == {"training/held"}


def test_a_training_that_ends_while_it_is_looked_at_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = scratch("training/ends")
    lstat: Callable[..., os.stat_result] = Path.lstat

    def ends(path: Path) -> os.stat_result:
        shutil.rmtree(entry, ignore_errors=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", ends)
    assert old_scratch() == []


@pytest.mark.parametrize("name", ["store/index", "training/../../store", "training/", "training/..", "prefect"])
def test_what_is_no_entry_of_scratch_is_refused(home: Path, name: str) -> None:
    item = Item(what="scratch", key=name, name=name, size=0, since="", why="")
    with pytest.raises(ValueError, match="is no entry of scratch"):
        retention.remove_scratch([item])


def test_what_cannot_be_removed_is_not_said_to_be_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch("training/stuck")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    assert retention.remove_scratch(old_scratch()) == []
