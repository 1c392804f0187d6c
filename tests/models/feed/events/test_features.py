"""Features of the past are what they are called, and know nothing of the session they are for."""

import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.events.features import DAY_SECONDS, FEATURES, PastCounts
from models.feed.events.leakage import check_past_only, check_recomputed, recompute
from models.feed.events.table import Events, arrange
from tests.models.feed.events.logs import random_events

DAY = DAY_SECONDS
START = 19_000 * DAY  # a midnight, UTC; 19,000 = 2 modulo 7


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["", "genres", "year"]), st.sampled_from([1, 600, 86_400]))
def test_every_feature_of_every_row_is_what_the_past_gives(seed: int, attribute: str, step: int) -> None:
    """`recompute` is shown the events before the session and nothing else."""
    events = random_events(seed, size=131, step=step)
    rows = np.arange(len(events))
    values = PastCounts(events, attribute).of_events()
    assert values.shape == (131, len(FEATURES)) and np.isfinite(values).all()
    check_recomputed(events, rows, values, FEATURES, partial(recompute, attribute=attribute), sample=40, seed=seed)


@pytest.mark.parametrize("attribute", ["", "genres"])
def test_nothing_moves_when_the_future_and_the_own_responses_change(attribute: str) -> None:
    events = random_events(3, size=700, step=3600)
    check_past_only(events, lambda log: PastCounts(log, attribute).of_events(), FEATURES, sample=60)


def by_hand() -> Events:
    """Two users, three items; the last three rows are one session of user 0 that begins on day 40, at 06:00."""
    rows = [
        (0, 0, 0, 1), (1, 0, 5 * DAY, 0), (0, 1, 20 * DAY, 1), (1, 1, 36 * DAY, 1), (0, 0, 39 * DAY + DAY // 2, 0),
        (1, 0, 40 * DAY + DAY // 4, 1), (0, 0, 40 * DAY + DAY // 4, 1), (0, 1, 40 * DAY + DAY // 4 + 60, 1),
        (0, 2, 40 * DAY + DAY // 4 + 120, 0),
    ]  # fmt: skip
    user, item, time, click = (np.array(column) for column in zip(*rows, strict=True))
    return arrange(
        user=pa.array(user), item=pa.array(item), time=START + time, actions={"click": click},
        item_attributes=pa.table({"genre": pa.array([["a", "b"], ["b"], None], pa.list_(pa.string()))}),
    )  # fmt: skip


def test_values_that_a_person_can_count() -> None:
    events = by_hand()
    assert len(np.unique(events.session[6:])) == 1
    found = [dict(zip(FEATURES, row, strict=True)) for row in PastCounts(events, "genre").of_events()]
    # five events lie before the session, three of them clicked; the row of user 1 in the same second does not count
    overall = (3 + 1) / (5 + 2)
    now = 40 * DAY + DAY // 4
    item_0 = {
        "user_rate": (2 + 10 * overall) / 13,
        "item_rate": (1 + 10 * overall) / 13,
        # genres a and b: user 0 met item 0 twice (two genres shared, one click) and item 1 once (one shared, clicked)
        "user_category_rate": (2 * 1 + 1 + 10 * overall) / (2 * 2 + 1 + 10),
        "category_rate": (2 * 1 + 2 + 10 * overall) / (2 * 3 + 2 + 10),
        "pair_rate": (1 + 10 * overall) / 12,
        "user_count": math.log(4),
        "item_count": math.log(4),
        "user_category_count": math.log(6),
        "pair_count": math.log(3),
        "user_recency": math.log1p(now - 39 * DAY - DAY // 2),
        "item_recency": math.log1p(now - 39 * DAY - DAY // 2),
        "user_known": 1,
        "item_known": 1,
        "item_age": math.log1p(now),
        "item_day": math.log(2),
        "item_week": math.log(2),
        "item_month": math.log(2),
        "item_week_share": 3 * 1 / 2,
        "item_week_rate": (0 + 10 * overall) / 11,
        "hour_sine": 1,
        "hour_cosine": 0,
        "weekday_sine": math.sin(2 * math.pi * ((2 + 40) % 7 + 0.25) / 7),
        "weekday_cosine": math.cos(2 * math.pi * ((2 + 40) % 7 + 0.25) / 7),
    }
    assert found[6] == pytest.approx(item_0, abs=1e-9)
    item_1 = {**item_0, "item_rate": (2 + 10 * overall) / 12, "item_count": math.log(3), "item_day": 0}
    item_1 |= {"item_month": math.log(3), "item_age": math.log1p(now - 20 * DAY), "pair_count": math.log(2)}
    item_1 |= {"item_recency": math.log1p(now - 36 * DAY), "pair_rate": (1 + 10 * overall) / 11}
    item_1 |= {"item_week_rate": (1 + 10 * overall) / 11}
    for name in ("user_rate", *item_1.keys() - {"user_category_rate", "category_rate", "user_category_count"}):
        assert found[7][name] == pytest.approx(item_1[name], abs=1e-9), name
    unknown = found[8]
    for name in ("item_rate", "pair_rate", "category_rate", "user_category_rate", "item_week_rate"):
        assert unknown[name] == pytest.approx(overall)
    for name in ("item_count", "pair_count", "item_age", "item_recency", "item_known", "user_category_count"):
        assert unknown[name] == 0
    assert found[0]["user_rate"] == 0.5 and found[0]["user_known"] == 0


def test_a_request_in_service_is_treated_like_a_row_of_the_log() -> None:
    events = random_events(7)
    counts = PastCounts(events, "genres")
    rows = np.array([300, 17, 330, 17])
    np.testing.assert_array_equal(
        counts.at(events.user[rows], events.item[rows], events.began[rows]), counts.of_events()[rows]
    )
    cut = events.take(np.arange(len(events)) < events.before(events.began[rows[:1]])[0])
    served = PastCounts(cut, "genres").at(events.user[rows[:1]], events.item[rows[:1]], events.began[rows[:1]])
    np.testing.assert_allclose(served, counts.of_events(rows[:1]), rtol=1e-12)
    assert np.isfinite(counts.at(np.array([16]), np.array([22]), events.time[-1:] + 5)).all(), "both without an event"


def test_a_log_without_a_single_event_still_answers() -> None:
    empty = random_events(1).take(np.zeros(0, int))
    found = PastCounts(empty, "genres").at(np.array([3]), np.array([4]), np.array([START]))
    assert dict(zip(FEATURES, found[0], strict=True))["user_rate"] == 0.5


def test_the_list_of_features_is_documented_and_known_to_the_slow_code() -> None:
    from models.feed.events import features

    assert features.__doc__ is not None
    documented = [line.split()[0] for line in features.__doc__.splitlines() if line.startswith("    ")]
    assert documented == list(FEATURES)
    again = recompute(random_events(1), 0, 0, START)
    assert tuple(again) == FEATURES


def test_events_without_times_and_unknown_attributes_are_refused() -> None:
    untimed = arrange(
        user=pa.array([0, 1]), item=pa.array([0, 1]), time=np.arange(2), actions={"event": np.ones(2)}, timed=False
    )
    with pytest.raises(ValueError, match="features of the past need moments"):
        PastCounts(untimed)
    with pytest.raises(ValueError, match="got 'genre'"):
        PastCounts(random_events(1), "genre")
