"""What is held out is what the protocol says, and no part knows another."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.events.splits import SLACK, Split, global_time, leave_one_out
from models.feed.events.table import Events, arrange
from tests.models.feed.events.logs import random_events


def log(user: list[int], time: list[int], gap: int = 3) -> Events:
    return arrange(
        user=pa.array(user), item=pa.array(range(len(user))), time=np.array(time), gap=gap,
        actions={"event": np.ones(len(user))},
    )  # fmt: skip


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=50))
def test_the_last_event_is_the_test_and_the_one_before_it_the_validation(rows: list[tuple[int, int]]) -> None:
    """Items are numbered by their place in the file, so that ties can be told."""
    events = log([user for user, _ in rows], [time for _, time in rows])
    split = leave_one_out(events)
    for code in range(events.users):
        who = events.user_ids[code].as_py()
        right = sorted((row for row, (user, _) in enumerate(rows) if user == who), key=lambda row: (rows[row][1], row))
        parts = {name: [int(events.item[row]) for row in getattr(split, name) if events.user[row] == code]
                 for name in ("train", "validation", "test")}  # fmt: skip
        cut = len(right) - 2 if len(right) >= 3 else len(right)
        assert parts == {"train": right[:cut], "validation": right[cut : cut + 1], "test": right[cut + 1 :]}
    assert not split.ordered and "no refit" in split.protocol


def check_global(events: Events, split: Split) -> None:
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate([*parts, split.left_out]).tolist()) == list(range(len(events)))
    for earlier, later in pairwise(parts):
        assert events.time[earlier].max() < events.time[later].min()
    for rows in (*parts, split.left_out):
        assert (np.diff(rows) > 0).all()
        others = np.setdiff1d(np.arange(len(events)), rows)
        assert not set(events.session[rows].tolist()) & set(events.session[others].tolist())


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.6, 0.3, 0.1)]))
def test_parts_follow_one_another_in_time_and_hold_whole_sessions(
    seed: int, shares: tuple[float, float, float]
) -> None:
    events = random_events(seed)
    split = global_time(events, shares)
    check_global(events, split)
    assert split.ordered
    border = len(split.train) / len(events)
    assert abs(border - shares[0]) < SLACK + 0.1, "sessions of this log hold a few events each"


def test_a_session_across_the_border_is_in_no_part() -> None:
    """User 1 acts every three seconds for a minute, user 0 every ten: every border near 60 % cuts user 1's session."""
    user = [1] * 21 + [0] * 10
    time = [*range(0, 61, 3), *range(1, 100, 10)]
    events = log(user, time)
    split = global_time(events, (0.6, 0.2, 0.2))
    check_global(events, split)
    assert set(events.user[split.left_out].tolist()) == {1} and len(split.left_out) == 21
    assert "21 events of sessions that run across a border are in no part" in split.protocol


def test_a_border_moves_a_little_to_where_no_session_is_cut() -> None:
    """One event a second, each of another user, but every other one from 790 to 806 of user 2000: a session over 17
    seconds. 800 events would be the share; 807 is the nearest border that cuts nothing, and within one hundredth."""
    user = [2000 if 790 <= second <= 806 and second % 2 == 0 else second for second in range(1000)]
    split = global_time(log(user, list(range(1000))))
    assert len(split.train) == 807 and not len(split.left_out)
    lengthy = [2000 if 770 <= second <= 830 and second % 2 == 0 else second for second in range(1000)]
    events = log(lengthy, list(range(1000)))
    split = global_time(events)
    check_global(events, split)
    assert abs(len(split.train) + len(split.left_out) - 800) <= 1000 * SLACK + 31
    assert len(split.left_out) == 31, "no border within one hundredth spares the session, so it is in no part"


def test_a_session_that_ends_in_the_second_of_the_border_is_not_trained_on() -> None:
    """User 9 acts at 7 and 8; the border is at 8, where another session begins."""
    user, time = [0, 1, 2, 3, 4, 5, 6, 9, 9, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9]
    events = log(user, time)
    split = global_time(events, (0.7, 0.2, 0.1))
    check_global(events, split)
    assert events.time[split.validation].tolist() == [8] and events.time[split.left_out].tolist() == [7, 8]


def test_what_cannot_be_cut_is_refused() -> None:
    events = log([0, 0, 0, 0], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="cannot be cut in three"):
        global_time(events)
    with pytest.raises(ValueError, match="cannot be cut in three"):
        global_time(log([0, 1, 2], [5, 5, 5]))
    with pytest.raises(ValueError, match="add up to 1, got"):
        global_time(events, (0.8, 0.1, 0.2))
    with pytest.raises(ValueError, match="add up to 1, got"):
        global_time(events, (1.0, 0.0, 0.0))
    untimed = arrange(
        user=pa.array([0, 1]), item=pa.array([0, 1]), time=np.arange(2), actions={"event": np.ones(2)}, timed=False
    )
    with pytest.raises(ValueError, match="needs moments"):
        global_time(untimed)


def test_a_split_comes_back_from_its_payload() -> None:
    for split in (leave_one_out(random_events(3)), global_time(random_events(3))):
        back = Split.from_payload(split.payload())
        for name in ("train", "validation", "test", "left_out"):
            np.testing.assert_array_equal(getattr(back, name), getattr(split, name))
        assert back.protocol == split.protocol and back.ordered == split.ordered
