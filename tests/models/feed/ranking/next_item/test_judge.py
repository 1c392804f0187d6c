"""Judging: the rows of the table, what the hybrid chooses by, and the comparison with the live version."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.common.contracts import Payload
from models.feed.events.counting import CounterConfig, fit_counter, next_item_metrics
from models.feed.events.metrics import ndcg_at
from models.feed.events.splits import Split
from models.feed.events.table import Events
from models.feed.ranking.next_item.config import JudgementConfig, NextItemConfig
from models.feed.ranking.next_item.counter import MIXTURES
from models.feed.ranking.next_item.data import PROTOCOL, questions
from models.feed.ranking.next_item.judge import Beside, paired_interval
from models.feed.ranking.next_item.network import NextItem
from models.feed.ranking.next_item.score import Scorer, ranks
from tests.models.feed.ranking.next_item.sequences import NETWORK, ranker_config, simulated

SETTINGS = JudgementConfig(users=6, margin=1.0, margin_popularity=1.0, resamples=200)
CONFIG = NextItemConfig(ranker=ranker_config(), judgement=SETTINGS)


def begun(data: Payload, seed: int = 3) -> NextItem:
    """A ranker that has not learned yet: its vectors are where they begin."""
    config = ranker_config(seed=seed)
    torch.manual_seed(seed)
    network = config.network(config.sizes(data))
    config.start(network, data)
    return network.eval()


def product(network: NextItem) -> Payload:
    return {"weights": dict(network.state_dict()), "training": {"sizes": {"items": network.items.num_embeddings}}}


@pytest.fixture(scope="module")
def data() -> Payload:
    return simulated(users=150)


def test_the_table_has_every_row_and_the_protocol_stands_beside_it(data: Payload) -> None:
    judgement = CONFIG.judge(product(begun(data)), data, None)
    assert [row["score"] for row in judgement.table] == [
        "popularity",
        "counter",
        "counter, by row and column",
        "LiGR",
        "LiGR with the counter as an input",
        "oracle",
    ]
    assert judgement.headline == "ndcg_at_10"
    assert "no refit: the validation event is not trained on" in judgement.protocol
    assert PROTOCOL in judgement.protocol
    assert judgement.certificate.holds
    by_name = {row["score"]: row for row in judgement.table}
    metrics = judgement.metrics
    assert by_name["LiGR"]["NDCG@10"] == metrics["ndcg_at_10"]
    assert by_name["oracle"]["NDCG@10"] == max(row["NDCG@10"] for row in judgement.table)
    assert {figure.name for figure in judgement.figures} == {"ndcg", "recall"}
    assert metrics["ndcg_at_10_model_over_counter"] == pytest.approx(
        metrics["ndcg_at_10"] - metrics["ndcg_at_10_counter"], abs=1e-12
    )


def test_the_counter_of_the_table_is_the_counting_recommender(data: Payload) -> None:
    events, split = Events.from_payload(data), Split.from_payload(data)
    metrics = CONFIG.judge(product(begun(data)), data, None).metrics
    counter = fit_counter(CounterConfig(), events.user[split.train], events.item[split.train], events.items)
    right = next_item_metrics(counter, events, np.concatenate([split.train, split.validation]), split.test)
    assert metrics["recall_at_10_counter"] == pytest.approx(right["hit_rate_at_10"], abs=1e-12)
    assert metrics["ndcg_at_10_counter"] == pytest.approx(right["ndcg_at_10"], abs=1e-12)


def test_the_hybrid_is_chosen_by_validation_alone(data: Payload) -> None:
    events, split = Events.from_payload(data), Split.from_payload(data)
    scorer, beside = Scorer(begun(data)), Beside.of(events, split, SETTINGS)
    asked = questions(events, split, "validation")
    logit = scorer.logits(asked.history)
    count = beside.companions.scores(asked.history.item, asked.history.start)
    reached = [ndcg_at(ranks(asked, one.logits(logit, count)), 10).mean() for one in MIXTURES]
    assert beside.mixture(scorer, events, split, SETTINGS) == MIXTURES[int(np.argmax(reached))]
    turned = replace(split, test=split.test[::-1])
    assert beside.mixture(scorer, events, turned, SETTINGS) == beside.mixture(scorer, events, split, SETTINGS)


def test_the_live_version_is_asked_about_the_same_users_with_items_matched_by_identifier(data: Payload) -> None:
    network = begun(data)
    other = simulated(seed=1, users=150)  # the same world, so that the live version knows these items
    champion = {"network": begun(other, seed=5), "data": other}
    metrics = CONFIG.judge(product(network), {**data, "champion": champion}, None).metrics
    right = CONFIG.judge(product(begun(data, seed=5)), data, None).metrics["ndcg_at_10"]
    assert metrics["ndcg_at_10_champion"] == pytest.approx(right, abs=1e-9)
    assert metrics["gain_over_champion"] == pytest.approx(metrics["ndcg_at_10"] - right, abs=1e-9)
    assert metrics["gain_over_champion_low"] <= metrics["gain_over_champion"] <= metrics["gain_over_champion_high"]


def test_a_version_compared_with_itself_gains_nothing(data: Payload) -> None:
    champion = {"network": begun(data), "data": data}
    metrics = CONFIG.judge(product(begun(data)), {**data, "champion": champion}, None).metrics
    assert [metrics[f"gain_over_champion{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


def test_a_live_version_of_another_system_is_refused_with_the_remedy(data: Payload) -> None:
    champion = {"network": torch.nn.Linear(2, 2), "data": data}
    with pytest.raises(TypeError, match="give these data a name of their own"):
        CONFIG.judge(product(begun(data)), {**data, "champion": champion}, None)


def test_the_interval_covers_a_difference_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for seed in range(200):
        ours, theirs = rng.normal(0.3, 1, 80), rng.normal(0, 1, 80)
        interval = paired_interval(ours, theirs, replace(SETTINGS, seed=seed))
        covered += interval.low <= 0.3 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_a_block_is_called_by_its_name(data: Payload) -> None:
    config = replace(CONFIG, ranker=ranker_config(replace(NETWORK, block="hstu")))
    network = config.ranker.network(config.ranker.sizes(data))
    config.ranker.start(network, data)
    assert "HSTU with the counter as an input" in [
        row["score"] for row in config.judge(product(network.eval()), data, None).table
    ]
