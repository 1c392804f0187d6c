"""An event stamped D never enters features; windows are those of the formula, member by member."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.marketing.prediction.windows import Windowed, WindowsConfig, gather, whole

CONFIG = WindowsConfig(back=10, treatment=3, conversion=5, decisions=7)
REPORT = 40


def _events(seed: int, size: int = 300, members: int = 9) -> tuple[Any, ...]:
    random = np.random.default_rng(seed)
    return (random.integers(0, members, size), random.integers(0, REPORT + 1, size), random.integers(0, 3, size),
            np.round(random.gamma(2, 5, size), 2))  # fmt: skip


def _gathered(events: tuple[Any, ...], decision: Any) -> Windowed:
    member, day, kind, amount = events
    return gather(member, day, kind, amount, decision, kinds=3, touch=1, conversion=2, report=REPORT, config=CONFIG)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_windows_are_those_of_the_formula(seed: int) -> None:
    events, decision = _events(seed), CONFIG.decision_days(9, report=REPORT, seed=seed)
    found = _gathered(events, decision)
    rows = list(zip(*events, strict=True))
    for member in range(9):
        d = decision[member]
        own = [row for row in rows if row[0] == member]
        before = [row for row in own if d - 10 <= row[1] < d]
        wanted = [float(sum(row[2] == kind for row in before)) for kind in range(3)]
        wanted += [float(sum(row[3] for row in before if row[2] == kind)) for kind in range(3)]
        wanted += [float(min([d - row[1] for row in before if row[2] == kind], default=10)) for kind in range(3)]
        wanted += [float(min(max([d - row[1] for row in own if row[1] < d], default=0), 10))]
        np.testing.assert_allclose(found.features[member], wanted)
        assert found.treated[member] == any(row[2] == 1 and d <= row[1] < d + 3 for row in own)
        late = [row[3] for row in own if row[2] == 2 and d + 3 <= row[1] <= REPORT]
        assert found.outcome[member] == pytest.approx(sum(late))
        assert found.converted[member] == bool(late)
        assert found.followed[member] == REPORT - d - 3 + 1


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_no_event_stamped_with_the_decision_day_or_later_moves_a_feature(seed: int) -> None:
    random = np.random.default_rng(seed)
    member, day, kind, amount = _events(seed)
    decision = CONFIG.decision_days(9, report=REPORT, seed=seed)
    plain = _gathered((member, day, kind, amount), decision)
    who = random.integers(0, 9, 50)
    when = decision[who] + random.integers(0, 3, 50) * (random.random(50) < 0.5)  # half of them at D itself
    more = (np.append(member, who), np.append(day, when), np.append(kind, random.integers(0, 3, 50)),
            np.append(amount, random.gamma(2, 500, 50)))  # fmt: skip
    np.testing.assert_array_equal(_gathered(more, decision).features, plain.features)
    earlier = (
        np.append(member, who),
        np.append(day, decision[who] - 1),
        np.append(kind, 0 * who),
        np.append(amount, 0 * who),
    )
    assert not np.array_equal(_gathered(earlier, decision).features, plain.features)


def test_decisions_lie_where_the_formula_says_and_follow_the_seed() -> None:
    day = WindowsConfig().decision_days(20_000, report=1000, seed=1)
    assert day.min() == 1000 - (30 + 7 + 90) and day.max() == 1000 - (30 + 7 + 90) + 89
    np.testing.assert_array_equal(day, WindowsConfig().decision_days(20_000, report=1000, seed=1))
    counted = np.bincount(day - day.min())
    assert len(counted) == 90 and counted.min() > 150


@pytest.mark.parametrize(
    "column, value, word",
    [(0, 9, "member of event 3 is 9"), (1, 41, "day of event 3 is 41"), (2, -1, "kind of event 3"),
     (3, np.nan, "amount of event 3 is nan")],
)  # fmt: skip
def test_events_that_cannot_be_are_refused_by_name(column: int, value: float, word: str) -> None:
    events = [part.copy() for part in _events(0)]
    events[column][3] = value
    with pytest.raises(InputError, match=word):
        _gathered(tuple(events), CONFIG.decision_days(9, report=REPORT, seed=0))


def test_lengths_are_held_to_their_limits() -> None:
    with pytest.raises(ValueError, match=r"WindowsConfig\.back"):
        WindowsConfig(back=0)


def test_days_and_numbers_that_are_not_whole_are_refused_and_not_cut_off() -> None:
    assert whole(np.array([1.0, -2.0]), "day").tolist() == [1, -2]
    for wrong in (0.5, np.nan, np.inf):
        with pytest.raises(InputError, match=f"day of event 1 is {wrong}; it must be a whole number"):
            whole(np.array([1.0, wrong]), "day of event")
