"""A history is what the user did before, and not a second more."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.feed.events.histories import Histories
from models.feed.events.leakage import LeakageError, check_history
from tests.models.feed.events.logs import random_events


@given(st.integers(0, 10_000), st.sampled_from([1, 5, 300]), st.sampled_from([60, 3600, 86_400]))
def test_histories_are_the_user_s_earlier_events_oldest_first(seed: int, length: int, step: int) -> None:
    events = random_events(seed, size=97, users=7, step=step)
    found = Histories(events)
    by_session = found.latest(events.user, found.before_session, length)
    by_row = found.latest(events.user, found.before_row, length)
    for row in range(97):
        mine = [other for other in range(97) if events.user[other] == events.user[row]]
        began = min(events.time[other] for other in range(97) if events.session[other] == events.session[row])
        for lists, right in (
            (by_session, [other for other in mine if events.time[other] < began]),
            (by_row, [other for other in mine if other < row]),
        ):
            assert lists[row].tolist() == (right[-length:] + [-1] * length)[:length]
    check_history(events, np.arange(97), by_session)


def test_a_request_sees_what_happened_strictly_before_it() -> None:
    events = random_events(1)
    found = Histories(events)
    user, moment = np.array([4, 16, 4]), np.array([events.time[200], events.time[-1], 0])
    right = [int(((events.user == u) & (events.time < t)).sum()) for u, t in zip(user, moment, strict=True)]
    assert found.before(user, moment).tolist() == right and right[0] > 0
    assert found.latest(user, found.before(user, moment), 3)[1].tolist() == [-1, -1, -1]


def test_no_events_give_empty_histories() -> None:
    empty = Histories(random_events(1).take(np.zeros(0, int)))
    assert empty.latest(np.array([2]), empty.before(np.array([2]), np.array([9])), 2).tolist() == [[-1, -1]]


def test_a_history_with_the_own_session_or_somebody_else_is_refused() -> None:
    events = random_events(1, step=60)
    found = Histories(events)
    late = np.flatnonzero(found.before_row > found.before_session)
    assert len(late), "sessions of this log hold several events"
    with pytest.raises(
        LeakageError, match=rf"history of row {late[0]} \(user \d+, session from \d+ on\) holds row \d+"
    ):
        check_history(events, late, found.latest(events.user[late], found.before_row[late], 4))
    rows = np.flatnonzero(events.user == 3)[5:6]
    others = np.flatnonzero(events.user != 3)[:1]
    with pytest.raises(LeakageError, match=rf"holds row {others[0]} \(user "):
        check_history(events, rows, others[None])
    with pytest.raises(ValueError, match="histories must be of shape"):
        check_history(events, rows, np.zeros((4, 2), int))
