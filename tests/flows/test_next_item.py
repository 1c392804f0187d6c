"""The flow of next items, whole: what is cached, what is compared with the champion, what is refused, what goes on."""

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import pytest

from flows.ranking import train_next_item_ranker
from infra.manifest import product_name, system_of
from infra.refs import Model
from infra.store import open_store
from infra.tracking import mlflow_client
from models.feed.ranking.next_item.config import (
    DataConfig,
    JudgementConfig,
    NetworkConfig,
    NextItemConfig,
    NextItemRankerConfig,
    ObjectiveConfig,
    TrainingConfig,
    WorldConfig,
)
from tests.runs import states

TRAINING = TrainingConfig(
    epochs=3, batch_size=120, learning_rate=5e-3, weight_decay=0.0, schedule="cosine", second_beta=0.98, average=0.9
)
CONFIG = NextItemConfig(
    data=DataConfig(name="flow-test-items", world=WorldConfig(users=200, items=40, length=7.0)),
    ranker=NextItemRankerConfig(
        architecture=NetworkConfig(width=24, history=12),
        objective=ObjectiveConfig(negatives=20, steps=15),
        training=TRAINING,
    ),
    judgement=JudgementConfig(users=8, margin=1.0, margin_popularity=1.0, resamples=100),
)
PRODUCT = product_name(CONFIG.data)
STEPS = ("curate", "train", "evaluate", "publish")


def run(config: NextItemConfig = CONFIG) -> Any:
    return train_next_item_ranker(config, return_state=True)


def trained_by(**changes: Any) -> NextItemConfig:
    training = dataclasses.replace(TRAINING, **changes)
    return dataclasses.replace(CONFIG, ranker=dataclasses.replace(CONFIG.ranker, training=training))


def judged() -> Any:
    """The judgement of the newest evaluation."""
    (experiment,) = [one for one in mlflow_client().search_experiments() if one.name == system_of(CONFIG)]
    return mlflow_client().search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0].data


@pytest.mark.usefixtures("prefect_server")
def test_a_published_ranker_is_cached_and_the_next_one_must_not_be_worse(home: Path) -> None:
    first = run()
    assert first.name == "Published", first.message
    (outcome,) = first.result()
    assert (outcome.status, outcome.product, outcome.headline) == ("published", PRODUCT, "ndcg_at_10")
    assert outcome.certificate == "exact + bounded + statistical: holds"
    assert set(states(first).values()) == {"Completed"}
    store = open_store()
    assert store.live(Model, PRODUCT).version == outcome.version
    assert "gain_over_champion" not in judged().metrics

    again = run()
    assert again.name == "Unchanged"
    found = states(again)
    assert {name: found[name] for name in STEPS} == dict.fromkeys(STEPS, "Cached")

    better = dataclasses.replace(trained_by(epochs=4), gate=dataclasses.replace(CONFIG.gate, margin=1.0))
    second = run(better)
    assert second.name == "Published", second.message
    metrics = judged().metrics
    assert metrics["gain_over_champion_low"] <= metrics["gain_over_champion"] <= metrics["gain_over_champion_high"]
    assert metrics["gain_over_champion"] == pytest.approx(metrics["ndcg_at_10"] - metrics["ndcg_at_10_champion"])

    worse = trained_by(epochs=1, learning_rate=1e-9, seed=1)
    ranker = dataclasses.replace(worse.ranker, initial=dataclasses.replace(worse.ranker.initial, kind="random"))
    refused = run(dataclasses.replace(worse, ranker=ranker))
    assert refused.name == "Refused"
    assert "interval against the champion begins at" in str(refused.message)
    assert store.live(Model, PRODUCT).version == second.result()[0].version


@pytest.mark.usefixtures("prefect_server")
def test_the_champion_is_compared_by_identifiers_when_the_data_have_changed(home: Path) -> None:
    run()
    grown = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, world=WorldConfig(users=220, items=47, length=7.0)),
        gate=dataclasses.replace(CONFIG.gate, margin=1.0),
    )
    state = run(grown)
    assert state.name == "Published", state.message
    assert 0 < judged().metrics["ndcg_at_10_champion"] < 1


@pytest.mark.usefixtures("prefect_server")
def test_a_ranker_below_the_counter_is_refused_with_the_reason(home: Path) -> None:
    bad = trained_by(epochs=1, learning_rate=1e-9)
    ranker = dataclasses.replace(bad.ranker, initial=dataclasses.replace(bad.ranker.initial, kind="random"))
    strict = dataclasses.replace(
        bad, ranker=ranker, judgement=dataclasses.replace(CONFIG.judgement, margin=0.0, margin_popularity=0.0)
    )
    state = run(strict)
    assert state.name == "Refused"
    assert "ndcg_gain_over_counter_low" in str(state.message)
    assert open_store().current_or_none("model", PRODUCT) is None


@pytest.mark.usefixtures("prefect_server")
def test_a_file_of_sequences_of_ones_own_is_ranked(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(tmp_path))
    file = tmp_path / "own.txt.gz"
    with gzip.open(file, "wt") as handle:
        handle.writelines(
            f"u{user} {' '.join(str((user * 7 + step * step) % 37) for step in range(6))}\n" for user in range(60)
        )
    data = DataConfig(name="own-items", source="sequences", file=str(file))
    state = run(dataclasses.replace(CONFIG, data=data))
    assert state.name == "Published", state.message
    (outcome,) = state.result()
    assert outcome.product == product_name(data)
    assert "ndcg_at_10_oracle" not in judged().metrics


@pytest.mark.usefixtures("prefect_server")
def test_the_same_inputs_make_the_same_versions(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = run().result()[0].version
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "elsewhere"))
    assert run().result()[0].version == first


@pytest.mark.usefixtures("prefect_server")
def test_two_processes_train_one_ranker(home: Path) -> None:
    state = run(trained_by(processes=2))
    assert state.name == "Published", state.message
