"""The counter scores what its formula says, sees nothing that is held out, and is better than popularity."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.events.counting import Counter, CounterConfig, best_counter, fit_counter, item_rates, next_item_metrics
from models.feed.events.splits import leave_one_out
from models.feed.events.table import Events, arrange
from tests.models.feed.events.logs import random_events

ITEMS = 7

configs = st.builds(
    CounterConfig,
    window=st.integers(1, 5), power=st.sampled_from([0.0, 0.5, 1.0]), backward=st.sampled_from([0.0, 0.5, 1.0]),
    recency=st.sampled_from([0.0, 0.6, 1.0]), tau=st.sampled_from([0.0, 3.0]), keep=st.integers(1, 4),
)  # fmt: skip
sequences = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=8), min_size=1, max_size=5)


def written_out(config: CounterConfig, learned: list[list[int]], history: list[int]) -> list[float]:
    """The formula of the module, term by term."""
    count = np.zeros((ITEMS, ITEMS))
    for items in learned:
        for a in range(len(items)):
            for b in range(a + 1, min(a + config.window, len(items) - 1) + 1):
                count[items[a], items[b]] += (b - a) ** -config.power
                count[items[b], items[a]] += config.backward * (b - a) ** -config.power
    score = np.zeros(ITEMS)
    for k, item in enumerate(history[::-1][: config.keep]):
        total = config.tau + count[item].sum()
        if total:
            score += config.recency**k * count[item] / total
    return [float(value) for value in score]


@settings(max_examples=120)
@given(configs, sequences, sequences)
def test_scores_are_the_formula(config: CounterConfig, learned: list[list[int]], asked: list[list[int]]) -> None:
    user = np.array([number for number, items in enumerate(learned) for _ in items], int)
    counter = fit_counter(config, user, np.array([item for items in learned for item in items], int), ITEMS)
    start = np.concatenate([[0], np.cumsum([len(items) for items in asked])])
    found = counter.scores(np.array([item for items in asked for item in items], int), start)
    assert found.shape == (len(asked), ITEMS)
    for row, history in enumerate(asked):
        np.testing.assert_allclose(found[row], written_out(config, learned, history), rtol=1e-5, atol=1e-7)


def test_a_part_of_the_histories_can_be_scored_alone() -> None:
    counter = fit_counter(CounterConfig(), np.array([0, 0, 0, 1, 1]), np.array([1, 2, 3, 2, 3]), ITEMS)
    item = np.array([1, 2, 5, 3, 2, 2])
    start = np.array([0, 2, 2, 6])
    np.testing.assert_array_equal(counter.scores(item, start)[1:], counter.scores(item, start[1:]))


def test_users_may_be_mixed_in_time() -> None:
    user, item = np.array([0, 1, 0, 1, 0]), np.array([1, 2, 3, 4, 5])
    apart = fit_counter(CounterConfig(), np.array([0, 0, 0, 1, 1]), np.array([1, 3, 5, 2, 4]), ITEMS)
    mixed = fit_counter(CounterConfig(), user, item, ITEMS)
    np.testing.assert_array_equal(mixed.share.toarray(), apart.share.toarray())


def chains(seed: int, users: int = 300, items: int = 60) -> Events:
    """Users who mostly go on to the next item of a circle."""
    rng = np.random.default_rng(seed)
    length = rng.integers(2, 12, users)
    item = np.concatenate([(rng.integers(0, items) + np.cumsum(rng.integers(1, 4, n))) % items for n in length])
    return arrange(
        user=pa.array(np.repeat(np.arange(users), length)), item=pa.array(item), time=np.arange(len(item)),
        actions={"event": np.ones(len(item))}, timed=False, item_ids=pa.array(np.arange(items)),
    )  # fmt: skip


def test_it_finds_the_next_item_of_a_chain() -> None:
    events = chains(0)
    split = leave_one_out(events)
    counter = fit_counter(CounterConfig(), events.user[split.train], events.item[split.train], events.items)
    known = np.concatenate([split.train, split.validation])
    found = next_item_metrics(counter, events, known, split.test, 3)
    assert found["hit_rate_at_3"] > 0.6, "one of three items follows, each as likely"
    shuffled = np.random.default_rng(0).permutation(events.item[split.train])
    chance = fit_counter(CounterConfig(), events.user[split.train], shuffled, events.items)
    assert next_item_metrics(chance, events, known, split.test, 3)["hit_rate_at_3"] < 0.2


def test_metrics_are_those_of_ranking_all_items_for_one_user_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    events = random_events(5)
    split = leave_one_out(events)
    known = np.concatenate([split.train, split.validation])
    counter = fit_counter(CounterConfig(), events.user[split.train], events.item[split.train], events.items)
    hits, gains = [], []
    for row in split.test:
        mine = np.array([r for r in sorted(known) if events.user[r] == events.user[row]])
        score = counter.scores(events.item[mine], np.array([0, len(mine)]))[0]
        target = int(events.item[row])
        others = [j for j in range(events.items) if j != target and j not in events.item[mine]]
        rank = sum(score[j] >= score[target] for j in others) if score[target] > 0 else 10**6
        hits.append(rank < 4)
        gains.append(1 / np.log2(rank + 2) if rank < 4 else 0)
    right = {"hit_rate_at_4": np.mean(hits), "ndcg_at_4": np.mean(gains)}
    assert 0 < right["hit_rate_at_4"] < 1
    assert next_item_metrics(counter, events, known, split.test, 4) == pytest.approx(right)
    monkeypatch.setattr("models.feed.events.counting._CELLS", 5 * events.items)
    assert next_item_metrics(counter, events, known, split.test, 4) == pytest.approx(right)


def test_the_way_of_counting_is_chosen_on_validation_events_alone() -> None:
    events = chains(3)
    split = leave_one_out(events)
    tried = [
        CounterConfig(window=1, power=0, backward=1, recency=1),
        CounterConfig(window=2, backward=0),
        CounterConfig(),
    ]
    chosen = best_counter(tried, events, split.train, split.validation)
    gains = [
        next_item_metrics(fit_counter(config, events.user[split.train], events.item[split.train], events.items),
                          events, split.train, split.validation)["ndcg_at_10"]
        for config in tried
    ]  # fmt: skip
    assert chosen == tried[int(np.argmax(gains))] == tried[1]
    cut = events.take(np.setdiff1d(np.arange(len(events)), split.test))
    kept = np.cumsum(np.isin(np.arange(len(events)), split.test, invert=True)) - 1
    assert best_counter(tried, cut, kept[split.train], kept[split.validation]) == chosen, "without a test part"


def test_a_user_without_history_is_a_miss_and_two_targets_are_refused() -> None:
    events = chains(1)
    counter = fit_counter(CounterConfig(), events.user, events.item, events.items)
    none = np.zeros(0, int)
    found = next_item_metrics(counter, events, none, np.array([0]), 100)
    assert found == {"hit_rate_at_100": 0, "ndcg_at_100": 0}, "not even in a list longer than the catalogue"
    with pytest.raises(ValueError, match="at most one event a user, got 2 for 1"):
        next_item_metrics(counter, events, none, np.array([0, 1]))


def test_the_counter_comes_back_from_its_arrays() -> None:
    events = chains(2)
    counter = fit_counter(CounterConfig(window=3), events.user, events.item, events.items)
    payload = dict(counter.payload())
    assert all(isinstance(payload[name], np.ndarray) for name in ("data", "indices", "indptr"))
    back = Counter.from_payload(payload)
    assert back.config == counter.config
    start = np.array([0, 4, 9])
    np.testing.assert_array_equal(back.scores(events.item, start), counter.scores(events.item, start))


def test_item_rates_are_pulled_towards_the_rate_of_all() -> None:
    item, label = np.array([0, 0, 0, 1, 3]), np.array([1, 1, 0, 0, 0])
    rates = item_rates(item, label, 5, prior=2)
    np.testing.assert_allclose(rates, [(2 + 0.8) / 5, 0.8 / 3, 0.4, 0.8 / 3, 0.4])
    assert item_rates(item[:0], label[:0], 2).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="prior must be above 0, got 0"):
        item_rates(item, label, 5, prior=0)


@pytest.mark.parametrize("bad", [{"window": 0}, {"recency": 1.5}, {"tau": -1.0}, {"backward": 2.0}, {"keep": 0}])
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"CounterConfig.{next(iter(bad))} must be"):
        CounterConfig(**bad)
