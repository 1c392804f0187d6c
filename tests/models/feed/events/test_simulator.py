"""The simulated feed follows its stated rule, and its oracles are the best that anyone can do."""

from dataclasses import replace

import numpy as np
import pytest

from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.metrics import auc, log_loss
from models.feed.events.simulator import Simulation, SimulatorConfig, simulate, sized, slot_effect
from models.feed.events.splits import global_time
from models.feed.events.table import Events

SMALL = SimulatorConfig(users=300, items=331, sessions=9.0, slate=7, categories=11, seed=3)


@pytest.fixture(scope="module")
def small() -> Simulation:
    return simulate(SMALL)


def logit(chance: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(chance) - np.log1p(-chance))


def test_a_feed_follows_from_its_configuration_alone(small: Simulation) -> None:
    again, other = simulate(SMALL), simulate(replace(SMALL, seed=4))
    for name in ("user", "item", "time", "session", "position", "actions"):
        np.testing.assert_array_equal(getattr(again.events, name), getattr(small.events, name))
    for name in ("probability", "pointwise", "setwise"):
        np.testing.assert_array_equal(getattr(again, name), getattr(small, name))
    assert len(other.events) != len(small.events) or not np.array_equal(other.events.item, small.events.item)


def test_a_session_is_one_slate_of_different_items_shown_at_once(small: Simulation) -> None:
    events = small.events
    slates = events.item.reshape(-1, 7)
    assert all(len(set(slate)) == 7 for slate in slates.tolist())
    for name in ("user", "time", "session"):
        rows = getattr(events, name).reshape(-1, 7)
        assert (rows == rows[:, :1]).all()
    assert events.position.reshape(-1, 7).tolist() == [list(range(7))] * len(slates)
    assert set(events.user.tolist()) == set(range(300))
    span = events.time[-1] - events.time[0]
    assert 0.95 * 60 * 86_400 < span <= 60 * 86_400


def test_repeats_are_the_other_items_of_the_category(small: Simulation) -> None:
    codes = small.events.categories("category").code  # each item has one
    slates = codes[small.events.item].reshape(-1, 7).tolist()
    right = [[slate.count(code) - 1 for code in slate] for slate in slates]
    assert small.repeats.reshape(-1, 7).tolist() == right
    assert small.repeats.max() >= 5


def test_a_like_only_follows_a_click(small: Simulation) -> None:
    click, like = small.events.actions.T
    assert not (like > click).any() and 0.2 < like[click == 1].mean() < 0.8


def test_clicks_are_drawn_with_the_stated_chance(small: Simulation) -> None:
    """Sums of independent draws: within 4.5 standard deviations for each slot, number of repeats and decile."""
    chance, click = small.probability, small.events.label
    decile = np.argsort(np.argsort(chance)) * 10 // len(chance)
    for group in (small.events.position, np.minimum(small.repeats, 4), decile):
        z = [
            (click[group == g] - chance[group == g]).sum()
            / np.sqrt((chance[group == g] * (1 - chance[group == g])).sum())
            for g in np.unique(group)
        ]
        assert np.abs(z).max() < 4.5


def test_the_setwise_oracle_is_the_mean_over_slots(small: Simulation) -> None:
    slot = slot_effect(SMALL)
    bare = logit(small.probability) - slot[small.events.position]
    right = np.mean([1 / (1 + np.exp(-(bare + effect))) for effect in slot], axis=0)
    np.testing.assert_allclose(small.setwise, right, atol=2e-8)


@pytest.mark.parametrize("courtship", [0.0, 1.5])
def test_the_pointwise_oracle_is_the_mean_over_all_that_was_shown_with_the_item(courtship: float) -> None:
    """Two users without drift see the same items some thousand times, each time in another slate."""
    config = SimulatorConfig(
        users=2, items=30, sessions=9000.0, slate=5, categories=3, drift=0, courtship=courtship, repeat=0.8, seed=1
    )
    found = simulate(config)
    pair = found.events.user.astype(int) * 30 + found.events.item
    count = np.bincount(pair)
    assert count.min() > 300
    pointwise = np.bincount(pair, found.pointwise) / count
    np.testing.assert_allclose(found.pointwise, pointwise[pair], atol=1e-9)  # without drift it is one number
    mean = np.bincount(pair, found.setwise) / count
    spread = np.sqrt(np.bincount(pair, (found.setwise - mean[pair]) ** 2) / count / count)
    z = (mean - pointwise) / spread
    assert np.abs(z).max() < 4.5 and 0.7 < z.std() < 1.3


def test_seeing_the_slate_is_worth_more_than_two_hundredths_of_auc() -> None:
    found = simulate(replace(sized("small"), users=700))
    click = found.events.label
    pointwise, setwise, chance = (auc(click, score) for score in (found.pointwise, found.setwise, found.probability))
    assert pointwise + 0.02 < setwise < chance
    losses = [log_loss(click, score) for score in (found.pointwise, found.setwise, found.probability)]
    assert losses[0] > losses[1] + 0.01 > losses[2]


def test_without_a_penalty_the_slate_is_worth_nothing_and_without_slots_their_order_neither() -> None:
    found = simulate(replace(SMALL, repeat=0.0))
    np.testing.assert_allclose(found.setwise, found.pointwise, atol=3e-8)
    assert np.abs(found.setwise - found.probability).max() > 0.05
    found = simulate(replace(SMALL, position=0.0))
    np.testing.assert_allclose(found.setwise, found.probability, atol=3e-8)


def test_what_a_user_did_says_more_than_how_often_an_item_was_clicked() -> None:
    found = simulate(replace(sized("small"), users=700))
    split = global_time(found.events)
    rows = split.test
    features = dict(zip(FEATURES, PastCounts(found.events, "category").of_events(rows).T, strict=True))
    click = found.events.label[rows]
    item = auc(click, features["item_rate"])
    both = auc(click, logit(features["item_rate"]) + logit(features["user_category_rate"]))
    assert item > 0.55 and item + 0.05 < both < auc(click, found.pointwise[rows]) - 0.03


def test_tastes_drift_as_far_as_stated() -> None:
    """A user's rates of categories in the first fifth of the span say less about the last fifth when tastes turn."""

    def likeness(drift: float) -> float:
        config = SimulatorConfig(users=150, items=400, sessions=60.0, categories=10, drift=drift, item_spread=0, seed=2)
        found = simulate(config)
        category = found.events.categories("category").code[found.events.item]
        cell = found.events.user.astype(int) * 10 + category
        fifth = (found.events.time - found.events.time[0]) * 5 // (found.events.time[-1] - found.events.time[0] + 1)
        rates = []
        for part in (0, 4):
            rows = fifth == part
            shown = np.bincount(cell[rows], minlength=1500)
            total = np.bincount(cell[rows], logit(found.pointwise[rows]), minlength=1500)
            rates.append(np.where(shown > 0, total / np.maximum(shown, 1), np.nan))
        both = ~np.isnan(rates[0]) & ~np.isnan(rates[1])
        return float(np.corrcoef(rates[0][both], rates[1][both])[0, 1])

    assert likeness(0.0) > 0.85 and likeness(1.0) < 0.55


def test_more_users_find_the_same_items_and_leave_the_others_as_they_were() -> None:
    def by_pair(users: int) -> tuple[np.ndarray, np.ndarray, Simulation]:
        found = simulate(replace(SMALL, users=users, drift=0.0, courtship=0.0, sessions=40.0))
        pair = found.events.user.astype(int) * SMALL.items + found.events.item
        code, first = np.unique(pair, return_index=True)
        return code, found.pointwise[first], found

    few, more = by_pair(30), by_pair(90)
    assert few[2].events.item_attributes.equals(more[2].events.item_attributes)
    both, left, right = np.intersect1d(few[0], more[0], return_indices=True)
    assert len(both) > 1000 and len(more[0]) > 2 * len(few[0])
    np.testing.assert_allclose(few[1][left], more[1][right], atol=1e-7)  # the same chance for user and item


def test_sizes_grow_by_what_their_names_say() -> None:
    assert 4_000 < len(simulate(sized("tiny")).events) < 9_000
    assert 130_000 < len(simulate(sized("small")).events) < 170_000
    assert [sized(size).users * sized(size).sessions * sized(size).slate for size in ("medium", "large")] == [1e6, 5e6]
    assert sized("tiny", seed=5).seed == 5
    with pytest.raises(ValueError, match=r"size must be one of .*, got 'huge'"):
        sized("huge")  # type: ignore[arg-type]


def test_blocks_of_sessions_are_joined_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.feed.events.simulator._BLOCK", 97)
    found = simulate(SMALL)
    bare = logit(found.probability) - slot_effect(SMALL)[found.events.position] + SMALL.repeat * found.repeats
    right = np.mean([1 / (1 + np.exp(-(bare - SMALL.repeat * found.repeats + e))) for e in slot_effect(SMALL)], axis=0)
    np.testing.assert_allclose(found.setwise, right, atol=2e-8)
    z = (found.setwise - found.pointwise).sum() / np.sqrt(((found.setwise - found.pointwise) ** 2).sum() * 7)
    assert abs(z) < 4.5, "seven events of a slate at most move together"


def test_oracles_travel_with_the_events(small: Simulation) -> None:
    payload = small.payload()
    assert len(Events.from_payload(payload)) == len(payload["oracle_setwise"]) == len(payload["oracle_pointwise"])


def test_a_world_that_is_too_small_for_its_slates_is_refused() -> None:
    with pytest.raises(ValueError, match="items must be at least 160, twice the slate for each category"):
        SimulatorConfig(items=159)
    with pytest.raises(ValueError, match=r"SimulatorConfig.focus must be at most 1, got 1.5"):
        SimulatorConfig(focus=1.5)


def test_extreme_settings_stay_finite() -> None:
    for changes in ({"focus": 1.0}, {"focus": 0.0}, {"slate": 1}, {"head": 1.0}, {"categories": 1}, {"affinity": 10.0}):
        found = simulate(replace(SimulatorConfig(), **changes))  # type: ignore[arg-type]
        for scores in (found.pointwise, found.setwise, found.probability):
            assert np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()
