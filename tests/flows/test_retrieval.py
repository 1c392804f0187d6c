"""The retrieval flow, whole: what is cached, what runs again, what is refused, and the way back."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from flows.nightly import nightly
from flows.retrieval import compact_index, monitor_recall, rebuild_index, rollback_index
from infra.refs import Dataset, Index, Model, Writes
from infra.serving import Live, folder_of
from infra.store import open_store
from infra.tracking import mlflow_client
from models.common.contracts import TrainingConfig
from models.feed.retrieval import config as config_module
from models.feed.retrieval.config import (
    DataConfig,
    EncoderConfig,
    GeneratorConfig,
    IndexConfig,
    JudgementConfig,
    RetrievalConfig,
    TowerConfig,
)
from models.feed.retrieval.delta import LiveIndex
from models.feed.retrieval.index import RetrievalIndex
from tests.models.feed.history.worlds import CONFIG as HISTORY
from tests.models.feed.ranking.worlds import CONFIG as RANKING
from tests.models.marketing.campaigns import CONFIG as MARKETING
from tests.runs import states

CONFIG = RetrievalConfig(
    data=DataConfig(name="flow-test", generator=GeneratorConfig(users=120, items=240, events=15)),
    encoder=EncoderConfig(
        tower=TowerConfig(dimension=8, hidden=8, uniform_negatives=16),
        training=TrainingConfig(epochs=2, batch_size=128),
    ),
    judgement=JudgementConfig(cases=16, replays=16, margin=1.0),
)
PRODUCT = "retrieval-flow-test"


def run(config: RetrievalConfig = CONFIG) -> Any:
    return rebuild_index(config, return_state=True)


@pytest.mark.usefixtures("prefect_server")
def test_a_published_index_is_cached_until_something_about_it_changes(home: Path) -> None:
    first = run()
    (outcome,) = first.result()
    assert (first.name, outcome.status, outcome.product) == ("Published", "published", PRODUCT)
    assert set(states(first).values()) == {"Completed"}
    live = open_store().live(Index, PRODUCT)
    assert live.version == outcome.version
    runs = _mlflow_runs()

    again = run()
    assert states(again) == dict.fromkeys(("curate", "train", "build_index", "evaluate", "publish"), "Cached")
    assert _mlflow_runs() == runs, "a run in which everything was cached made an MLflow run"

    judged_anew = run(dataclasses.replace(CONFIG, judgement=dataclasses.replace(CONFIG.judgement, cases=17)))
    assert states(judged_anew)["train"] == "Cached"
    assert states(judged_anew)["evaluate"] == "Completed"
    assert judged_anew.result()[0].version == outcome.version

    filesystem, path = fsspec.core.url_to_fs(live.location)
    filesystem.rm(path, recursive=True)
    rebuilt = run()
    assert states(rebuilt)["train"] == "Cached"
    assert states(rebuilt)["build_index"] == "Completed", "a reference to a lost version was used"
    assert open_store().live(Index, PRODUCT) == live

    index = RetrievalIndex.restore(open_store().open(live))
    assert len(index) == 240


@pytest.mark.usefixtures("prefect_server")
def test_a_refused_candidate_leaves_the_champion_and_rollback_withdraws(home: Path) -> None:
    champion = run().result()[0].version
    untrained = dataclasses.replace(
        CONFIG,
        encoder=dataclasses.replace(
            CONFIG.encoder, training=TrainingConfig(epochs=1, batch_size=128, learning_rate=1e-6)
        ),
        judgement=dataclasses.replace(CONFIG.judgement, margin=0.0),
    )
    state = run(untrained)
    (outcome,) = state.result()
    assert (state.type.value, state.name, outcome.status) == ("COMPLETED", "Refused", "refused")
    assert "must be at least" in str(state.message)
    assert outcome.live == champion

    second = dataclasses.replace(CONFIG, encoder=dataclasses.replace(CONFIG.encoder, tower=TowerConfig(dimension=12)))
    replaced = run(second).result()[0].version
    assert open_store().current("index", PRODUCT).version == replaced
    assert mlflow_client().get_model_version_by_alias(f"{PRODUCT}-index", "champion").tags["version"] == replaced

    assert rollback_index(PRODUCT)[0].live == champion
    assert mlflow_client().get_model_version_by_alias(f"{PRODUCT}-index", "champion").tags["version"] == champion
    brought_back = run(second)
    assert brought_back.name == "Refused", "a schedule brought a withdrawn version back"
    assert "was rolled back" in str(brought_back.message)
    assert open_store().current("index", PRODUCT).version == champion

    healthy = monitor_recall(CONFIG, return_state=True)
    assert healthy.name == "Healthy", healthy.message


@pytest.mark.usefixtures("prefect_server")
def test_what_is_written_in_service_is_compacted_certified_published_and_followed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    store = open_store()
    built = store.live(Index, PRODUCT)
    unchanged = compact(CONFIG)
    assert (unchanged.name, unchanged.result()[0].version) == ("Unchanged", built.version), "there was no write"

    live = Live(store, PRODUCT)
    with live.following():
        index: Any = live()[0]
        items = index.index.snapshot()
        index.upsert(np.array([9000, 9001]), -items["vectors"][:2], items["attributes"].slice(0, 2))
        index.upsert(items["ids"][3:4], items["vectors"][4:5], items["attributes"].slice(4, 1))
        index.delete([0, 9001])
        index.flush()
        first = compact(CONFIG)
        (outcome,) = first.result()
        assert (first.name, outcome.status, outcome.certificate) == ("Published", "published", "exact: holds")
        made = store.live(Index, PRODUCT)
        manifest = store.open(made).manifest
        assert manifest.input(Index, store.root) == built
        assert set(manifest.inputs) == {kind.kind for kind in (Dataset, Model, Index, Writes)}
        published = store.open(made)
        assert published["ids"].tolist() == [*range(1, 240), 9000]
        assert published["vectors"][-1].tolist() == (-items["vectors"][0]).tolist()
        assert RetrievalIndex.restore(published).rows == 240  # as any other version
        live.look()
        assert live() == (index, str(made))

        again = compact(CONFIG)
        assert (again.name, again.result()[0].version) == ("Unchanged", made.version), "no write came meanwhile"
        assert monitor_recall(CONFIG, return_state=True).name == "Healthy"
        index.upsert(np.array([9002]), items["vectors"][:1], items["attributes"].slice(0, 1))
        index.flush()
        second = compact(CONFIG).result()[0]
        manifest = store.open(store.live(Index, PRODUCT)).manifest
        assert manifest.input(Index, store.root) == built, "lineage stays as short as it is"
        live.look()
        assert 9002 in index.index.snapshot()["ids"]

        # while one is compacted, a version that was built anew goes live
        index.delete([9002])
        index.flush()
        plain = RetrievalConfig.judge

        def judge(self: RetrievalConfig, *parts: Any) -> Any:
            monkeypatch.setattr(RetrievalConfig, "judge", plain)
            other = EncoderConfig(tower=TowerConfig(dimension=6), training=TrainingConfig(epochs=1, batch_size=128))
            assert run(dataclasses.replace(CONFIG, encoder=other)).name == "Published"
            return plain(self, *parts)

        monkeypatch.setattr(RetrievalConfig, "judge", judge)
        late = compact(CONFIG)
        assert late.name == "Refused"
        assert f"was to take the place of {second.version}" in str(late.message)
        assert 9002 not in folder_items(built)


def compact(config: RetrievalConfig) -> Any:
    return compact_index(config, return_state=True)


def folder_items(built: Index) -> list[int]:
    with contextlib.closing(LiveIndex(folder_of(built))) as found:
        ids: list[int] = found.index.snapshot()["ids"].tolist()
        return ids


@pytest.mark.usefixtures("prefect_server")
def test_a_compaction_by_other_settings_fails_and_one_that_does_not_hold_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    store = open_store()
    built, live = store.live(Index, PRODUCT), Live(store, PRODUCT)
    with live.following():
        index: Any = live()[0]
        index.delete([5, 6])
        index.flush()
    narrow = dataclasses.replace(CONFIG, index=IndexConfig(attributes=("year",)))
    failed = compact(narrow)
    assert failed.name == "Failed"
    assert "run with the settings that it was built by" in str(failed.message)

    def lossy(found: Any) -> Any:
        return RetrievalIndex.restore(found.base).snapshot()  # as if the log had not been read

    monkeypatch.setattr(config_module, "replayed", lossy)
    refused = compact(CONFIG)
    assert refused.name == "Refused"
    assert "writes_lost = 2, must be at most 0" in str(refused.message)
    assert store.live(Index, PRODUCT) == built


@pytest.mark.usefixtures("prefect_server")
def test_a_retry_of_a_compaction_goes_on_with_what_was_folded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    live = Live(open_store(), PRODUCT)
    with live.following():
        index: Any = live()[0]
        index.delete([5])
        index.flush()
        plain, asked = RetrievalConfig.judge, list[int]()

        def judge(self: RetrievalConfig, *parts: Any) -> Any:
            asked.append(len(parts[0]["ids"]))
            if len(asked) == 1:
                index.delete([6])
                index.flush()
                raise OSError("the machine has other plans")
            return plain(self, *parts)

        monkeypatch.setattr(RetrievalConfig, "judge", judge)
        state = compact_index.with_options(retries=1, retry_delay_seconds=0)(CONFIG, return_state=True)
        assert (state.name, asked) == ("Published", [239, 239])
        live.look()
        assert len(index) == 238


@pytest.mark.usefixtures("prefect_server")
def test_a_watch_logs_recall_overlap_latency_and_how_much_the_filters_let_through(home: Path) -> None:
    run()
    before = _mlflow_runs()
    assert monitor_recall(CONFIG, return_state=True).name == "Healthy"
    (new,) = _mlflow_runs() - before
    client = mlflow_client()
    metrics = client.get_run(new).data.metrics
    assert metrics["filtered_recall_at_10"] == metrics["overlap_at_10"] == 1
    assert 0 < metrics["latency_ms_p50"] <= metrics["latency_ms_p95"]
    logged = {file.path for file in client.list_artifacts(new, "figures")}
    names = ("passing_counts", "latency_by_passing")
    assert logged == {f"figures/{name}.{ending}" for name in names for ending in ("png", "json")}
    histogram = json.loads(Path(client.download_artifacts(new, "figures/passing_counts.json")).read_text())
    (series,) = histogram["series"]
    assert sum(series["y"]) == CONFIG.judgement.replays
    assert len(series["x"]) == len(series["y"]) > 1
    table = json.loads(Path(client.download_artifacts(new, "tables/results.json")).read_text())
    column = {name: [row[place] for row in table["data"]] for place, name in enumerate(table["columns"])}
    assert sum(column["requests"]) == CONFIG.judgement.replays
    assert set(column["recall"]) == set(column["overlap"]) == {1.0}


@pytest.mark.usefixtures("prefect_server")
def test_the_nightly_flow_ends_with_the_outcomes_of_all_products(home: Path) -> None:
    state = nightly(CONFIG, RANKING, HISTORY, MARKETING, return_state=True)
    assert state.name == "Published"
    products = [outcome.product for outcome in state.result()]
    assert products == [PRODUCT, "ranking-test", "history-test", "marketing-test"]


@pytest.mark.usefixtures("prefect_server")
def test_two_processes_train_one_model_in_one_mlflow_run(home: Path) -> None:
    runs = _mlflow_runs()
    training = dataclasses.replace(CONFIG.encoder.training, processes=2)
    state = run(dataclasses.replace(CONFIG, encoder=dataclasses.replace(CONFIG.encoder, training=training)))
    assert state.name == "Published"
    (new,) = _mlflow_runs() - runs
    logged = mlflow_client().get_run(new).data
    assert logged.params["processes"] == "2"
    assert len(mlflow_client().get_metric_history(new, "train_loss")) == 2, "one point for each epoch, from one process"


def _mlflow_runs() -> set[str]:
    experiment = mlflow_client().get_experiment_by_name("retrieval")
    if experiment is None:
        return set()
    return {found.info.run_id for found in mlflow_client().search_runs([experiment.experiment_id])}
