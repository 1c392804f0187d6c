"""The flow that keeps the house from filling up: what it names, what it removes, and what it leaves alone.

The clock of the survey is set 100 days ahead, so that what is made here is old.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import fsspec
import pytest
import yaml
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.states import Completed, Failed, Running

import tasks.retain
from flows.upkeep import upkeep
from infra import outbox, retention
from infra.manifest import Manifest
from infra.refs import Dataset, Index, Ref, Report
from infra.retention import Rules, Stays
from infra.settings import PROJECT, settings
from infra.stack import POOL
from infra.store import NotPublishedError, Store, open_store
from infra.tracking import mlflow_client, run_for
from tasks.retain import RetentionConfig

AHEAD = timedelta(days=100)
DRY, REMOVE = RetentionConfig(published=1), RetentionConfig(published=1, remove=True)


class Ahead(datetime):
    """A clock that goes ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + AHEAD


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow of our own: what others of the session made is not to be removed, nor counted."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def later(home: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tasks.retain, "datetime", Ahead)
    return home


@pytest.fixture
def client(later: Path) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        for name in (POOL, "another"):
            try:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            except ObjectAlreadyExists:
                continue
        yield client


def made(kind: type[Ref], number: int, *inputs: Ref, **fields: str) -> Ref:
    manifest = Manifest(
        kind=kind.kind,
        name="toy",
        configuration={"number": number},
        configuration_class="models.toy.Config",
        inputs={ref.kind: {"name": ref.name, "version": ref.version, "digest": ref.digest} for ref in inputs},
        files=(),
        code="c",
        **fields,
    )
    return open_store().write(kind, {"x": {"number": number}}, manifest)


def publish(*refs: Ref) -> None:
    for ref in refs:
        open_store().publish(ref, {"claims": []})


def there() -> set[str]:
    store = open_store()
    return {
        f"{kind}/{name}@{version}"
        for kind in store.kinds()
        for name in store.products(kind)
        for version in store.known(kind, name)
    }


def label(ref: Ref) -> str:
    return f"{ref.kind}/{ref.name}@{ref.version}"


def scratch(name: str) -> Path:
    folder = settings().scratch / "training" / name
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(bytes(3000))
    return folder


def mlflow_run(flow_run_id: str) -> str:
    """A finished MLflow run, older than the survey's clock wants."""
    with run_for("upkeep-test", flow_run_id, "toy", {"configuration.digest": "d"}) as run:
        pass
    mlflow_client().set_terminated(run.id, "FINISHED", end_time=int((datetime.now(UTC) - AHEAD).timestamp() * 1000))
    return run.id


@task
def step() -> None:
    """Stands between a flow run and one that it started."""


@flow
def worked() -> None:
    """What the flow runs of these tests are runs of."""


def flow_run(
    client: SyncPrefectClient, *, pool: str = POOL, under: FlowRun | None = None, state: Any = None
) -> FlowRun:
    """A flow run that ended, in a pool or started by another one."""
    if under:
        between = client.create_task_run(step, under.id, dynamic_key=uuid4().hex, state=Completed())
        run = client.create_flow_run(worked, parent_task_run_id=between.id)
    else:
        deployment = client.create_deployment(client.create_flow(worked), f"worked-{pool}", work_pool_name=pool)
        run = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(run.id, state or Completed(), force=True)
    return run


def exists(client: SyncPrefectClient, run: FlowRun | str) -> bool:
    try:
        client.read_flow_run(UUID(str(getattr(run, "id", run))))
    except ObjectNotFound:
        return False
    return True


def shown(state: State[Any], key: str) -> dict[str, str]:
    """What a table on the flow run's page names, and why."""
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        found = [one for one in client.read_artifacts(artifact_filter=chosen) if one.key == key]
    assert len(found) <= 1
    return {row["name"]: row["why"] for one in found for row in json.loads(str(one.data))}


def run(config: RetentionConfig) -> State[Any]:
    return upkeep(config, return_state=True)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


# ------------------------------------------------------------------------------------------------------ the whole flow


def test_a_dry_run_names_what_a_sweep_removes_and_changes_nothing(client: SyncPrefectClient) -> None:
    maker, starter = str(uuid4()), flow_run(client)
    kept_run, parent = flow_run(client, under=starter), flow_run(client)
    child = flow_run(client, under=parent)
    grandchild = flow_run(client, under=child)
    foreign, running = flow_run(client, pool="another"), flow_run(client, state=Running())
    data = made(Dataset, 1, flow_run_id=maker)
    lonely = made(Dataset, 2)
    past = [made(Index, number, data) for number in (3, 4, 5)]
    live = made(Index, 6, data, flow_run_id=str(kept_run.id))
    judged = made(Report, 7, past[0], data)
    publish(*past, live)
    runs = {"kept": mlflow_run(maker), "old": mlflow_run(str(uuid4()))}
    training = scratch("abandoned")
    home = settings().home

    before = tree(home)
    surveyed = run(DRY)
    assert (surveyed.type.value, surveyed.name) == ("COMPLETED", "Surveyed"), surveyed.message
    assert "nothing was removed; run it with Remove on, and it is" in str(surveyed.message)
    assert tree(home) == before
    named = shown(surveyed, "retention-survey")
    gone = {label(ref) for ref in (lonely, past[0], past[1], judged)}
    assert {name for name in named if "@" in name} == gone
    assert {"training/abandoned", parent.name, child.name, grandchild.name} <= set(named)
    assert not {starter.name, kept_run.name, foreign.name, running.name} & set(named)
    assert shown(surveyed, "retention-sweep") == {}
    assert mlflow_client().get_run(runs["old"]).info.lifecycle_stage == "active"
    assert exists(client, parent)

    kept = there() - gone
    swept = run(REMOVE)
    assert swept.name == "Swept", swept.message
    assert shown(swept, "retention-sweep") == shown(swept, "retention-survey") == named
    assert there() == kept == {label(ref) for ref in (data, past[2], live)}
    for ref in (data, past[2], live):
        open_store().verify(ref)
    assert open_store().live(Index, "toy") == live
    assert not training.exists()
    assert [mlflow_client().get_run(runs[name]).info.lifecycle_stage for name in ("kept", "old")] == [
        "active",
        "deleted",
    ]
    assert [exists(client, one) for one in (parent, child, grandchild)] == [False] * 3
    assert all(exists(client, one) for one in (starter, kept_run, foreign, running))
    with pytest.raises(NotPublishedError, match="was removed by retention on"):
        open_store().rollback("index", "toy", past[0].version)

    again = run(REMOVE)
    assert str(again.message) == "nothing removed, of nothing that might go."


def test_a_sweep_that_is_interrupted_goes_on_with_the_next_run(later: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(Dataset, 1)
    live, old = made(Index, 2, data), [made(Index, number, made(Dataset, number)) for number in (3, 4, 5)]
    publish(live)
    remove, left = Store.remove, 2

    def interrupted(store: Store, *words: str) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("the machine went down")
        return remove(store, *words)

    monkeypatch.setattr(Store, "remove", interrupted)
    assert run(REMOVE).name == "Failed"
    assert len(there()) == 6, "two of eight went"
    for kind, name, version in (label(ref).replace("@", "/").split("/") for ref in (*old, live)):
        if f"{kind}/{name}@{version}" in there():
            made_from = open_store().manifest(kind, name, version).inputs["dataset"]["version"]
            assert f"dataset/toy@{made_from}" in there(), "an index lost its data"
    monkeypatch.setattr(Store, "remove", remove)
    swept = run(REMOVE)
    assert swept.name == "Swept"
    assert there() == {label(live), label(data)}


def test_what_goes_live_between_survey_and_sweep_stays_with_its_runs(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = flow_run(client)
    data = made(Dataset, 1)
    candidate = made(Index, 2, data, flow_run_id=str(maker.id))
    judgement, other = made(Report, 3, candidate, data), made(Index, 4)
    logged = mlflow_run(str(maker.id))
    survey = retention.old_flow_runs

    def and_publish(*words: Any) -> Any:
        found = survey(*words)
        publish(candidate)
        return found

    monkeypatch.setattr(retention, "old_flow_runs", and_publish)
    state = run(REMOVE)
    named = shown(state, "retention-survey")
    assert {label(ref) for ref in (data, candidate, judgement, other)} | {maker.name} <= set(named)
    assert set(shown(state, "retention-sweep")) == {label(other)}
    assert there() == {label(ref) for ref in (data, candidate, judgement)}
    assert exists(client, maker)
    assert mlflow_client().get_run(logged).info.lifecycle_stage == "active"


def test_a_pinned_version_stays_with_its_runs_and_what_it_is_made_from(client: SyncPrefectClient) -> None:
    maker = flow_run(client)
    data = made(Dataset, 1, flow_run_id=str(maker.id))
    pinned = made(Index, 2, data)
    open_store().pin("index", "toy", pinned.version, "a paper")
    logged = mlflow_run(str(maker.id))
    run(REMOVE)
    assert there() == {label(data), label(pinned)}
    assert exists(client, maker)
    assert mlflow_client().get_run(logged).info.lifecycle_stage == "active"


def test_without_mlflow_the_rest_is_swept(later: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged, old = mlflow_run(str(uuid4())), made(Index, 1)
    monkeypatch.setattr(outbox, "answers", lambda: False)
    state = run(REMOVE)
    assert (state.name, there()) == ("Swept", set())
    assert label(old) in shown(state, "retention-sweep")
    assert mlflow_client().get_run(logged).info.lifecycle_stage == "active"


def test_a_store_in_which_what_is_live_cannot_be_read_loses_nothing(
    later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.retain.survey, "retries", 0)  # it tries three times, with half a minute between
    live, old = made(Index, 1), made(Index, 2)
    publish(live)
    files, place = fsspec.url_to_fs(f"{live.location}/manifest.json")
    files.pipe_file(place, files.cat_file(place)[:100])
    state = run(REMOVE)
    assert state.name == "Failed"
    assert "nothing may be removed" in str(state.message)
    assert there() == {label(live), label(old)}


# ---------------------------------------------------------------------------------------------------- Prefect's history


def manifest(number: int, maker: FlowRun) -> Manifest:
    """Of a version that a flow run made."""
    values = {"kind": "index", "name": "toy", "configuration": {"number": number}, "configuration_class": "c"}
    return Manifest.model_validate(values | {"inputs": {}, "files": (), "code": "c", "flow_run_id": str(maker.id)})


def stays(*versions: Manifest) -> Stays:
    rules = Rules(published=1, candidates=timedelta(days=30), grace=timedelta(days=2))
    keys = [(one.kind, one.name, one.digest[:12]) for one in versions]
    return Stays(dict.fromkeys(keys, "live"), dict(zip(keys, versions, strict=True)), rules, Ahead.now(UTC))


def named(kept: Stays) -> list[str]:
    return [item.key for item in retention.old_flow_runs(kept, timedelta(days=60), POOL)]


def test_a_flow_run_goes_behind_all_that_it_started_however_many_they_are(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    parent = flow_run(client)
    children = [flow_run(client, under=parent) for _ in range(5)]
    grandchildren = [flow_run(client, under=children[0]) for _ in range(3)]
    found = named(stays())
    family = [str(one.id) for one in (parent, *children, *grandchildren)]
    assert set(family) <= set(found), "more than a page holds was forgotten"
    assert found.index(str(parent.id)) > max(found.index(str(one.id)) for one in children)
    assert found.index(str(children[0].id)) > max(found.index(str(one.id)) for one in grandchildren)


@pytest.mark.parametrize("reason", ["it made what is kept", "it goes on", "it ended late"])
def test_a_flow_run_stays_as_long_as_one_that_it_started(client: SyncPrefectClient, reason: str) -> None:
    parent = flow_run(client)
    sibling, child = flow_run(client, under=parent), flow_run(client, under=parent)
    kept = stays()
    if reason == "it made what is kept":
        kept = stays(manifest(0, child))
    elif reason == "it goes on":
        client.set_flow_run_state(child.id, Running(), force=True)
    else:
        late = client.read_flow_run(child.id).end_time
        assert late is not None
        client.set_flow_run_state(child.id, Running(), force=True)
        client.set_flow_run_state(child.id, Failed(), force=True)
        ended = client.read_flow_run(child.id).end_time
        assert ended is not None
        assert ended > late
        kept = Stays({}, {}, kept.rules, late + timedelta(days=60, microseconds=1))
    assert not {str(one.id) for one in (parent, sibling, child)} & set(named(kept))


def test_flow_runs_that_are_kept_do_not_hide_the_old_ones_behind_them(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST", 2)
    monkeypatch.setattr(retention, "PAGE", 2)
    pool = client.create_work_pool(WorkPoolCreate(name=uuid4().hex, type="process")).name
    makers = [flow_run(client, pool=pool) for _ in range(3)]
    old = [str(flow_run(client, pool=pool).id) for _ in range(3)]
    kept = stays(*(manifest(number, maker) for number, maker in enumerate(makers)))
    assert [item.key for item in retention.old_flow_runs(kept, timedelta(days=60), pool)] == old[:2]


def test_a_flow_run_that_was_retried_or_got_a_child_since_the_survey_stays(client: SyncPrefectClient) -> None:
    retried, gone, parent = flow_run(client), flow_run(client), flow_run(client)
    mine = {str(one.id) for one in (retried, gone, parent)}
    items = [item for item in retention.old_flow_runs(stays(), timedelta(days=60), POOL) if item.key in mine]
    client.set_flow_run_state(retried.id, Running(), force=True)
    flow_run(client, under=parent, state=Running())
    client.delete_flow_run(gone.id)
    assert len(items) == 3
    assert retention.remove_flow_runs(items) == []
    assert exists(client, retried)
    assert exists(client, parent)


def test_what_a_page_showed_goes_with_the_flow_run(client: SyncPrefectClient) -> None:
    from prefect.client.schemas.actions import ArtifactCreate

    old = flow_run(client)
    for number in range(3):
        client.create_artifact(ArtifactCreate(key="table", type="table", data=f"[{number}]", flow_run_id=old.id))
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[old.id]))
    assert len(client.read_artifacts(artifact_filter=chosen)) == 3
    items = [item for item in retention.old_flow_runs(stays(), timedelta(days=60), POOL) if item.key == str(old.id)]
    assert len(retention.remove_flow_runs(items)) == 1
    assert client.read_artifacts(artifact_filter=chosen) == []


# -------------------------------------------------------------------------------------------------- form and deployment


def test_it_runs_every_week_and_removes_nothing_unless_told() -> None:
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    (mine,) = [one for one in deployments if one["entrypoint"] == "flows.upkeep.upkeep"]
    assert (mine["name"], mine.get("parameters", {})) == ("retention", {})
    assert [schedule["cron"] for schedule in mine["schedules"]] == ["7 5 * * 0"]
    assert mine["concurrency_limit"]["limit"] == 1
    assert RetentionConfig().remove is False


@pytest.mark.parametrize(
    ("field", "value"),
    [("published", 0), ("candidate_days", 0), ("grace_days", 0), ("run_days", 6), ("scratch_days", 1)],
)
def test_rules_that_would_remove_too_much_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        RetentionConfig(**{field: value})
