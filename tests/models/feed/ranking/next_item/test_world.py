"""The world of known law: sequences follow it, and its oracle is the best."""

import numpy as np
import pytest

from models.feed.events.metrics import ndcg_at
from models.feed.events.splits import leave_one_out
from models.feed.ranking.next_item.data import questions
from models.feed.ranking.next_item.score import ranks
from models.feed.ranking.next_item.world import CELLS, WorldConfig, oracle, simulate_sequences

CONFIG = WorldConfig(users=4000, items=24, length=5.0, successors=3, skew=0.5, seed=6)


def test_next_items_come_as_often_as_the_law_says() -> None:
    world = simulate_sequences(CONFIG)
    asked = questions(world.events, leave_one_out(world.events), "test")
    history = asked.history
    last, before = history.item[history.start[1:] - 1], history.item[history.start[1:] - 2]
    chance = oracle(world.payload(), last, before)
    row, item = history.pairs
    chance[row, item] = 0
    chance /= chance.sum(1, keepdims=True)
    hit = np.zeros_like(chance)
    hit[np.arange(len(asked)), asked.target] = 1
    assert (hit[chance == 0] == 0).all(), "an item that cannot come has come"
    edges = np.quantile(chance[chance > 0], np.linspace(0, 1, 9))
    place = np.searchsorted(edges[1:-1], chance)
    for one in range(8):
        inside = (place == one) & (chance > 0)
        spread = np.sqrt((chance[inside] * (1 - chance[inside])).sum())
        assert abs((hit - chance)[inside].sum()) < 4 * spread


def test_no_item_comes_twice_to_one_user_and_nobody_has_fewer_than_three() -> None:
    events = simulate_sequences(CONFIG).events
    pairs = set(zip(events.user.tolist(), events.item.tolist(), strict=True))
    assert len(pairs) == len(events)
    count = np.bincount(events.user)
    assert count.min() >= 3
    assert count.mean() == pytest.approx(5.0, abs=0.15)


def test_the_oracle_is_above_what_sees_only_the_last_item() -> None:
    world = simulate_sequences(CONFIG)
    asked = questions(world.events, leave_one_out(world.events), "test")
    last = asked.history.item[asked.history.start[1:] - 1]
    before = asked.history.item[asked.history.start[1:] - 2]
    best = ndcg_at(ranks(asked, oracle(world.payload(), last, before)), 10).mean()
    blind = ndcg_at(ranks(asked, oracle(world.payload(), last, np.full(len(last), -1))), 10).mean()
    shuffled = ndcg_at(ranks(asked, oracle(world.payload(), np.roll(last, 1), np.roll(before, 1))), 10).mean()
    assert best > blind + 0.02 > shuffled + 0.04


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"last": 0.7, "before": 0.4}, "add up to at most 1"),
        ({"items": 10, "length": 4.0}, "at least three times the length"),
        ({"items": 40, "successors": 40}, "successors must be below items"),
        ({"items": 5001}, "items must be at most 5000, got 5001"),
        ({"users": 2_500_001}, "users must be at most 2500000, got 2500001"),
        (
            {"users": 50_000, "items": 1000},
            r"at most 25,000,000, .* got 50,000 and 1,000, 50,000,000 in all. Lower users to 25,000, or items to 500\.",
        ),
    ],
)
def test_a_world_that_cannot_be_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldConfig(**wrong)  # type: ignore[arg-type]


def test_the_largest_worlds_are_accepted() -> None:
    assert WorldConfig(users=5000, items=5000).items * 5000 == CELLS
    assert WorldConfig(users=250_000, items=100).users * 100 == CELLS


def test_chains_alone_leave_nobody_without_a_next_item() -> None:
    world = simulate_sequences(WorldConfig(users=60, items=30, length=9.0, last=1.0, before=0.0, successors=2))
    assert len(world.events) == np.bincount(world.events.user).sum() > 400
