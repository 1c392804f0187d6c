"""The retrieval flow, whole: what is cached, what runs again, what is refused, and the way back."""

import dataclasses
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flows.nightly import nightly
from flows.retrieval import monitor_recall, rebuild_index, rollback_index
from infra.refs import Index
from infra.store import open_store
from infra.tracking import mlflow_client
from models.common.contracts import TrainingConfig
from models.feed.retrieval.config import (
    DataConfig,
    EncoderConfig,
    GeneratorConfig,
    JudgementConfig,
    RetrievalConfig,
    TowerConfig,
)
from models.feed.retrieval.index import RetrievalIndex
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
def test_the_nightly_flow_ends_with_the_outcomes_of_all_products(home: Path) -> None:
    state = nightly(CONFIG, return_state=True)
    assert state.name == "Published"
    assert [outcome.product for outcome in state.result()] == [PRODUCT]


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
