"""Rates of items know the past alone, and are what one counts by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.leakage import LeakageError
from models.feed.events.rates import EVER, PastRates, check_rates
from models.feed.ranking.counts import Rates
from models.feed.ranking.inputs import Inputs
from tests.models.feed.ranking.worlds import few_events, simulated

DAY = 86_400


def odds(rate: float) -> float:
    return math.log(rate / (1 - rate))


def test_a_rate_is_counted_strictly_before_the_moment_and_smoothed_by_that_of_all() -> None:
    events = few_events()
    rates = PastRates.of(events, "item")
    # item a: clicked at 0, passed over at 7200, clicked at 9000; of all events before 9000 four of six were clicked
    overall = (4 + 1) / (6 + 2)
    found = rates.before(np.array([0]), np.array([9000]), 365).odds[0]
    assert found == pytest.approx(odds((1 + 10 * overall) / (2 + 10)), abs=1e-12)
    late = rates.before(np.array([0]), np.array([9001]), 365).odds[0]
    assert late == pytest.approx(odds((2 + 10 * (5 + 1) / (8 + 2)) / (3 + 10)), abs=1e-12)
    nothing = rates.before(np.array([0, 77]), np.array([0, 0]), 365).odds
    assert nothing.tolist() == [0.0, 0.0], "before the first event every rate is one half"


def test_events_of_the_item_grow_old_and_those_of_all_do_not() -> None:
    rates = PastRates(np.array([3, 3, 5]), np.array([0, 5 * DAY, 5 * DAY]), np.array([1.0, 0.0, 1.0]))
    moment = np.array([7 * DAY])
    assert rates.before(np.array([3]), moment, 7).events.tolist() == [2.0], "so many days before still count"
    young = rates.before(np.array([3]), moment, 6)
    assert (young.events.tolist(), young.responses.tolist(), young.all_events.tolist()) == ([1.0], [0.0], [3.0])


@settings(max_examples=25, deadline=None)
@given(days=st.integers(1, 40), seed=st.integers(0, 1000))
def test_counting_agrees_with_the_counting_features_and_with_a_loop(days: int, seed: int) -> None:
    data = simulated()
    events = Inputs.of(data).events
    rates, draw = PastRates.of(events, "item"), np.random.default_rng(seed)
    user = draw.integers(0, events.users, 9)
    item, moment = draw.integers(0, events.items, 9), draw.integers(events.time[0] - DAY, events.time[-1] + DAY, 9)
    features = PastCounts(events).at(user, item, moment)
    for key, code in (("item", item), ("user", user)):
        whole = features[:, FEATURES.index(f"{key}_rate")]
        ours = PastRates.of(events, key).before(code, moment, EVER).odds  # type: ignore[arg-type]
        np.testing.assert_allclose(ours, np.log(whole / (1 - whole)), atol=1e-12)
    tally = rates.before(item, moment, days)
    for place in range(9):
        age = moment[place] - events.time
        mine = (events.item == item[place]) & (age > 0) & (age <= days * DAY)
        assert tally.events[place] == mine.sum()
        assert tally.responses[place] == events.label[mine].sum(dtype=np.float64)


def test_logs_add_up_and_can_be_taken_away_again() -> None:
    events = few_events()
    rows = np.arange(len(events)) % 2 == 0
    parts = [PastRates(events.item[some], events.time[some], events.label[some]) for some in (rows, ~rows)]
    item, moment = np.arange(4), np.array([30, 7200, 9000, 30_000])
    whole = PastRates.of(events, "item").before(item, moment, 365)
    first, second = (part.before(item, moment, 365) for part in parts)
    assert first.plus(second).odds.tolist() == whole.odds.tolist()
    assert whole.plus(second, -1.0).odds.tolist() == first.odds.tolist()


@pytest.mark.parametrize("user", [False, True])
def test_rates_that_know_the_session_are_refused(user: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated()
    inputs = Inputs.of(data)
    Rates(4, user).check(inputs, data["train"])
    right = PastRates.before
    monkeypatch.setattr(PastRates, "before", lambda self, item, moment, days: right(self, item, moment + 1, days))
    with pytest.raises(LeakageError, match="count only what is strictly before the session"):
        Rates(4, user).check(inputs, data["train"])


def test_rates_of_the_labels_that_come_are_refused() -> None:
    data = simulated()
    events = Inputs.of(data).events
    turned = replace(events, actions=1 - events.actions)
    with pytest.raises(LeakageError):
        check_rates(events, data["train"], 4, PastRates.of(turned, "item"), "item")


def test_a_log_without_times_has_no_rates() -> None:
    with pytest.raises(ValueError, match="rate_days"):
        PastRates.of(replace(few_events(), timed=False), "item")
