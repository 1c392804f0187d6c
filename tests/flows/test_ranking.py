"""The ranking flow, whole: what is cached, what is compared with the champion, what is refused, what goes on."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flows.ranking import train_ranker
from infra.refs import Model
from infra.store import open_store
from infra.tracking import mlflow_client
from models.common.contracts import TrainingConfig
from models.feed.events.simulator import SimulatorConfig
from models.feed.ranking.config import (
    DataConfig,
    JudgementConfig,
    NetworkConfig,
    RankerConfig,
    RankingConfig,
    TransformerConfig,
)
from tests.runs import states

TRAINING = TrainingConfig(epochs=2, batch_size=8, learning_rate=5e-3)
CONFIG = RankingConfig(
    data=DataConfig(name="flow-test", simulator=SimulatorConfig(users=47, sessions=7.0)),
    ranker=RankerConfig(
        architecture=NetworkConfig(
            transformer=TransformerConfig(width=12, heads=2, layers=2, multiplier=2), item_width=10, history=31
        ),
        training=TRAINING,
    ),
    judgement=JudgementConfig(sessions=8, margin=1.0, calibration=1.0, resamples=100),
)
PRODUCT = "ranking-flow-test"
STEPS = ("curate", "train", "rival", "evaluate", "publish")


def run(config: RankingConfig = CONFIG) -> Any:
    return train_ranker(config, return_state=True)


def trained_by(**changes: Any) -> RankingConfig:
    training = dataclasses.replace(TRAINING, **changes)
    return dataclasses.replace(CONFIG, ranker=dataclasses.replace(CONFIG.ranker, training=training))


def judged() -> Any:
    """The judgement of the newest evaluation."""
    (experiment,) = [one for one in mlflow_client().search_experiments() if one.name == "ranking"]
    return mlflow_client().search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0].data


@pytest.mark.usefixtures("prefect_server")
def test_a_published_ranker_is_cached_and_the_next_one_must_not_be_worse(home: Path) -> None:
    first = run()
    (outcome,) = first.result()
    assert (first.name, outcome.status, outcome.product) == ("Published", "published", PRODUCT)
    assert outcome.certificate == "exact + bounded + statistical: holds"
    assert set(states(first).values()) == {"Completed"}
    store = open_store()
    live = store.live(Model, PRODUCT)
    assert (live.version, outcome.headline) == (outcome.version, "auc")
    assert "gain_over_champion" not in judged().metrics
    assert judged().params["model"] == "LiGR"

    again = run()
    assert again.name == "Unchanged"
    found = states(again)
    assert {name: found[name] for name in STEPS if name != "rival"} == dict.fromkeys(
        ("curate", "train", "evaluate", "publish"), "Cached"
    )

    better = trained_by(epochs=3)
    lenient = dataclasses.replace(better, gate=dataclasses.replace(CONFIG.gate, margin=1.0))
    second = run(lenient)
    assert second.name == "Published"
    metrics = judged().metrics
    assert metrics["gain_over_champion_low"] <= metrics["gain_over_champion"] <= metrics["gain_over_champion_high"]
    assert metrics["gain_over_champion"] == pytest.approx(metrics["auc"] - metrics["auc_champion"], abs=1e-12)

    worse = trained_by(epochs=1, learning_rate=1e-6)
    refused = run(worse)
    assert refused.name == "Refused"
    assert "interval against the champion begins at" in str(refused.message)
    assert store.live(Model, PRODUCT).version == second.result()[0].version


@pytest.mark.usefixtures("prefect_server")
def test_the_champion_is_compared_by_identifiers_when_the_data_have_changed(home: Path) -> None:
    run()
    grown = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, simulator=SimulatorConfig(users=60, sessions=7.0)),
        gate=dataclasses.replace(CONFIG.gate, margin=1.0),
    )
    state = run(grown)
    assert state.name == "Published", state.message
    assert 0 < judged().metrics["auc_champion"] < 1


@pytest.mark.usefixtures("prefect_server")
def test_a_ranker_that_is_not_above_the_item_ctr_is_refused_with_the_reason(home: Path) -> None:
    strict = dataclasses.replace(
        trained_by(epochs=1, learning_rate=1e-6), judgement=dataclasses.replace(CONFIG.judgement, margin=0.0)
    )
    state = run(strict)
    assert state.name == "Refused"
    assert "auc_gain_over_item_ctr_low" in str(state.message)
    assert open_store().current_or_none("model", PRODUCT) is None


@pytest.mark.usefixtures("prefect_server")
def test_a_table_whose_responses_are_all_alike_fails_with_the_remedy(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(tmp_path))
    rows = ["user,item,time"] + [f"u{number % 5},i{number % 7},{1_600_000_000 + 4000 * number}" for number in range(90)]
    file = tmp_path / "events.csv"
    file.write_text("\n".join(rows))
    table = dataclasses.replace(CONFIG.data.table, events=str(file))
    config = dataclasses.replace(CONFIG, data=DataConfig(name="own", source="table", table=table))
    state = run(config)
    assert state.name == "Failed"
    assert "log what was shown and passed over too" in str(state.message)


@pytest.mark.usefixtures("prefect_server")
def test_the_same_inputs_make_the_same_versions(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = run().result()[0].version
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "elsewhere"))
    assert run().result()[0].version == first


@pytest.mark.usefixtures("prefect_server")
def test_two_processes_train_one_ranker(home: Path) -> None:
    state = run(trained_by(processes=2))
    assert state.name == "Published"
    assert judged().params["processes"] == "2"
