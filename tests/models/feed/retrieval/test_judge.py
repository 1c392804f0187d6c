"""A judgement speaks of the index that is served, reads the test part alone, and refuses what is wrong."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.common.contracts import Payload, TrainingConfig
from models.feed.retrieval.config import (
    DataConfig,
    EncoderConfig,
    GeneratorConfig,
    JudgementConfig,
    RetrievalConfig,
    TowerConfig,
    item_vectors,
    query_vectors,
)
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.judge import Searching, Source, sample_filters, watch
from models.feed.retrieval.metrics import Seen, hit_rate, rank_by
from models.feed.retrieval.network import TwoTower

CONFIG = RetrievalConfig(
    data=DataConfig(generator=GeneratorConfig(users=150, items=240, events=20, seed=3)),
    encoder=EncoderConfig(
        tower=TowerConfig(dimension=12, hidden=16, uniform_negatives=32, temperature=0.2, learn_temperature=False),
        training=TrainingConfig(epochs=6, batch_size=128, learning_rate=1e-2),
    ),
    judgement=JudgementConfig(cases=24, replays=20, resamples=500),
)


def trained(config: EncoderConfig, data: Payload) -> TwoTower:
    torch.manual_seed(config.training.seed)
    network = config.network(config.sizes(data))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.training.learning_rate)
    batches = config.batches(data, rank=0, processes=1)
    for epoch in range(config.training.epochs):
        for batch in batches.epoch(epoch):
            optimizer.zero_grad()
            config.loss(network, batch).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def data() -> Payload:
    return CONFIG.data.prepare({})


@pytest.fixture(scope="module")
def network(data: Payload) -> TwoTower:
    return trained(CONFIG.encoder, data)


@pytest.fixture(scope="module")
def product(data: Payload, network: TwoTower) -> Payload:
    return CONFIG.index.build_index(data, network)


def test_a_trained_index_holds_and_beats_popularity(product: Payload, data: Payload, network: TwoTower) -> None:
    judgement = CONFIG.judge(product, data, network)
    metrics = judgement.metrics
    assert judgement.certificate.holds, [claim.sentence() for claim in judgement.certificate.failures()]
    assert judgement.certificate.kinds == "exact + statistical"
    assert metrics["hit_rate_at_50_popularity"] < metrics["hit_rate_at_50"] < metrics["hit_rate_at_50_oracle"]
    assert metrics["hit_rate_gain_low"] < metrics["hit_rate_gain"] < metrics["hit_rate_gain_high"]
    gap = metrics["hit_rate_at_50_oracle"] - metrics["hit_rate_at_50_popularity"]
    assert metrics["gap_closed"] == pytest.approx(metrics["hit_rate_gain"] / gap)
    assert metrics["filtered_recall_at_10"] == 1
    assert metrics["index_rows"] == 240
    assert judgement.headline in metrics
    assert len({tuple(row) for row in judgement.table}) == 1
    assert [row["ranking"] for row in judgement.table][1:] == ["two towers", "oracle"]
    assert judgement.figures[0].title == "The two towers are above popularity"
    assert not [name for name in metrics if name.startswith("two_stage")]
    for figure in judgement.figures:
        assert {len(series.x) == len(series.y) == len(series.low) == len(series.high) for series in figure.series} == {
            True
        }


def test_the_judgement_repeats(product: Payload, data: Payload, network: TwoTower) -> None:
    assert CONFIG.judge(product, data, network) == CONFIG.judge(product, data, network)


def test_what_the_index_answers_is_what_a_plain_scan_ranks(product: Payload, data: Payload, network: TwoTower) -> None:
    users = data["test"]["user"].to_numpy()
    seen = Seen([data["train"], data["validation"]], data["users"].num_rows)
    plain = rank_by(query_vectors(data, network), item_vectors(data, network), users, seen, 50)
    rate = hit_rate(plain, data["test"]["item"].to_numpy()[:, None], 50).mean()
    assert CONFIG.judge(product, data, network).metrics["hit_rate_at_50"] == pytest.approx(rate)


def test_an_untrained_index_is_exact_but_not_worth_publishing(data: Payload) -> None:
    torch.manual_seed(0)
    fresh = CONFIG.encoder.network(CONFIG.encoder.sizes(data))
    certificate = CONFIG.judge(CONFIG.index.build_index(data, fresh), data, fresh).certificate
    assert [claim.name for claim in certificate.failures()] == ["hit_rate_gain_low"]


def changed(product: Payload, how: str) -> dict[str, Any]:
    parts = {name: product[name].copy() if name != "attributes" else product[name] for name in product}
    if how == "shuffled vectors":
        parts["vectors"] = parts["vectors"][::-1].copy()
    if how == "one vector turned":
        parts["vectors"][17] *= -1
    if how == "one item lost":
        parts = {"vectors": parts["vectors"][1:], "ids": parts["ids"][1:], "attributes": parts["attributes"].slice(1)}
    if how == "attributes of the neighbour":
        order = pa.array(np.roll(np.arange(parts["attributes"].num_rows), 1))
        parts["attributes"] = parts["attributes"].take(order)
    return parts


@pytest.mark.parametrize(
    "how", ["shuffled vectors", "one vector turned", "one item lost", "attributes of the neighbour"]
)
def test_an_index_of_other_items_is_refused(product: Payload, data: Payload, network: TwoTower, how: str) -> None:
    assert not CONFIG.judge(changed(product, how), data, network).certificate.holds


def test_watching_an_index_measures_recall_latency_and_passing(
    product: Payload, data: Payload, network: TwoTower
) -> None:
    watched = CONFIG.watch(product, data, network)
    assert watched.certificate.holds
    assert watched.metrics["filtered_recall_at_10"] == watched.metrics["overlap_at_10"] == 1
    assert 0 < watched.metrics["latency_ms_p50"] <= watched.metrics["latency_ms_p95"]
    assert sum(row["requests"] for row in watched.table) == 20
    assert {row["recall"] for row in watched.table} == {row["overlap"] for row in watched.table} == {1}
    shuffled = CONFIG.watch(changed(product, "shuffled vectors"), data, network)
    assert not shuffled.certificate.holds
    assert shuffled.metrics["overlap_at_10"] <= shuffled.metrics["filtered_recall_at_10"] < 0.5


def test_of_equal_scores_any_counts_for_recall_and_the_exact_ones_for_overlap(data: Payload, network: TwoTower) -> None:
    vectors, ids = np.ones((12, 3), np.float32), np.arange(12)
    source = Source(
        vectors=vectors, ids=ids, attributes=pa.table({"year": ids}), queries=vectors[:2], members=vectors[:2]
    )
    product = RetrievalIndex.build(vectors, 11 - ids, pa.table({"year": 11 - ids})).snapshot()
    settings = JudgementConfig(k=4, replays=12)
    assert watch(product, source, settings).metrics["overlap_at_4"] == 1
    plain = Searching.__call__

    def other(self: Searching, queries: Any, k: int, filters: Any) -> Any:
        found, scores, passing = plain(self, queries, 12, filters)
        there = (found >= 0).sum()
        return found[:, max(0, there - k) :][:, :k], scores[:, :k], passing  # the last of the equal ones

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Searching, "__call__", other)
        watched = watch(product, source, settings)
    assert watched.metrics["filtered_recall_at_4"] == 1
    assert watched.metrics["overlap_at_4"] < 1


def test_the_histogram_of_a_watch_counts_every_request_once(product: Payload, data: Payload, network: TwoTower) -> None:
    watched = CONFIG.watch(product, data, network)
    (histogram,) = [figure for figure in watched.figures if figure.name == "passing_counts"]
    (bars,) = histogram.series
    assert sum(bars.y) == 20
    assert bars.x == ("0", "1 to 9", "10 to 99", "100 to 999")[-len(bars.x) :]
    assert f"let {watched.metrics['passing_median']:,.0f} items through" in histogram.title
    inside = {row["items passing"]: row["requests"] for row in watched.table}
    assert inside["100 to 999"] == bars.y[bars.x.index("100 to 999")]


def test_sampled_filters_repeat_and_pass_from_few_to_all(data: Payload, product: Payload, network: TwoTower) -> None:
    attributes = CONFIG.index.filterable(data)
    filters = sample_filters(attributes, 200, seed=1)
    assert [str(where) for where in filters] == [str(where) for where in sample_filters(attributes, 200, seed=1)]
    queries = np.repeat(query_vectors(data, network)[:1], 200, axis=0)
    _, _, passing = Searching(RetrievalIndex.restore(product))(queries, 1, filters)
    assert passing.min() < 12
    assert passing.max() == 240


def test_sampled_filters_are_circles_on_columns_of_points() -> None:
    points = pa.array([{"lat": 1.0, "lon": None}, {"lat": 52.5, "lon": 13.4}, None])
    texts = {str(where) for where in sample_filters(pa.table({"place": points}), 60, seed=1)}
    assert any(text.startswith("place geo_within(52.5, 13.4, ") for text in texts)
    assert any("not place geo_within(" in text for text in texts)
    nowhere = sample_filters(pa.table({"place": points.slice(0, 1)}), 20, seed=1)
    assert {str(where).replace("place is null and ", "") for where in nowhere} == {"true", "place is null"}


# --- leakage ----------------------------------------------------------------------------------------------------------


def without_test(data: Payload) -> dict[str, Any]:
    """The same data with every test item replaced by another one, and no truth."""
    test = data["test"]
    other = pa.array((test["item"].to_numpy() + 1) % data["items"].num_rows)
    parts = {name: part for name, part in data.items() if not name.startswith("true_")}
    return {**parts, "test": test.set_column(1, "item", other)}


def test_training_validation_and_index_do_not_read_the_test_part(data: Payload, network: TwoTower) -> None:
    short = dataclasses.replace(CONFIG.encoder, training=dataclasses.replace(CONFIG.encoder.training, epochs=1))
    blind = {name: part for name, part in without_test(data).items() if name != "test"}
    one, other = trained(short, data), trained(short, blind)
    assert all(torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in one.state_dict())
    assert CONFIG.encoder.validate(network, data) == CONFIG.encoder.validate(network, blind)
    np.testing.assert_array_equal(
        CONFIG.index.build_index(data, network)["vectors"], CONFIG.index.build_index(blind, network)["vectors"]
    )


def test_training_does_not_read_the_validation_part(data: Payload) -> None:
    short = dataclasses.replace(CONFIG.encoder, training=dataclasses.replace(CONFIG.encoder.training, epochs=1))
    blind = {name: part for name, part in data.items() if name != "validation"}
    one, other = trained(short, data), trained(short, blind)
    assert all(torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in one.state_dict())


def test_queries_do_not_depend_on_the_test_items(data: Payload, network: TwoTower) -> None:
    np.testing.assert_array_equal(query_vectors(data, network), query_vectors(without_test(data), network))


def test_metrics_without_a_truth_leave_the_oracle_out(product: Payload, data: Payload, network: TwoTower) -> None:
    metrics = CONFIG.judge(product, without_test(data), network).metrics
    assert "gap_closed" not in metrics and "hit_rate_at_50_oracle" not in metrics
