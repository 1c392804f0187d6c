"""The frontier is the exact answer of the program with one cost row, for every budget."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.marketing.adaptive.frontier import frontier
from models.marketing.allocation.program import Family, Program
from models.marketing.allocation.solver import solve


def by_simplex(member: np.ndarray, value: np.ndarray, cost: np.ndarray, budget: float) -> float:
    rows = np.array([cost, *(member == one for one in np.unique(member))], float)
    bounds = np.append(budget, np.ones(len(rows) - 1))
    return -scipy.optimize.linprog(-value, A_ub=rows, b_ub=bounds, bounds=(0, 1), method="highs-ds").fun


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5), st.floats(0, 1))
def test_its_value_is_the_programs_at_every_budget(seed: int, members: int, offers: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(members), offers)
    # rounded, so that equal values, equal costs and free pairs occur
    value, cost = rng.normal(1, 1, len(member)).round(1), rng.exponential(1, len(member)).round(1)
    budget = share * cost.sum()
    assert frontier(member, value, cost).value_at(budget) == pytest.approx(by_simplex(member, value, cost, budget))


def test_it_agrees_with_the_solver_on_a_two_sided_cost_row() -> None:
    rng, members, offers = np.random.default_rng(4), 301, 4
    member = np.repeat(np.arange(members), offers)
    value, cost = rng.lognormal(0, 1, len(member)), rng.lognormal(0, 1, len(member))
    curve = frontier(member, value, cost)
    for share in (0.1, 0.4, 0.9):
        target = share * curve.spend[-1]
        row = Family(
            name="spend", rows=("spend",), lower=np.array([0.98 * target]), upper=np.array([target]), weight=cost
        )
        program = Program(
            start=np.arange(members + 1, dtype=np.int64) * offers,
            offer=np.tile(np.arange(offers, dtype=np.int16), members),
            value=value,
            offers=("a", "b", "c", "d"),
            families=(row,),
        )
        answer = solve(program, gap=1e-9)
        assert answer.value == pytest.approx(curve.value_at(target), rel=1e-7)
        assert answer.prices[0] == pytest.approx(curve.price_at(target), rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31))
def test_the_curve_is_concave_and_what_is_held_fits_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(47), 3)
    value, cost = rng.lognormal(0, 1, len(member)), rng.lognormal(0, 1, len(member))
    curve = frontier(member, value, cost)
    assert (np.diff(curve.slope) <= 0).all()
    budget = 0.3 * curve.spend[-1]
    held = curve.pairs_within(budget, member)
    assert len(held) == 47
    assert (member[held[held >= 0]] == np.flatnonzero(held >= 0)).all()
    bought = held[held >= 0]
    assert cost[bought].sum() <= budget + 1e-9
    largest = value.max()
    assert curve.value_at(budget) - largest <= value[bought].sum() <= curve.value_at(budget) + 1e-9


def test_the_price_is_the_slope_of_the_value() -> None:
    # worth 6, 4 and 1 at a cost of 2 each: prices 3, 2 and .5
    curve = frontier(np.arange(3), np.array([6.0, 1.0, 4.0]), np.full(3, 2.0))
    assert [curve.price_at(budget) for budget in (0, 1, 2, 3, 5, 6)] == [3, 3, 2, 2, 0.5, 0]
    assert curve.spend_at(1.0) == 4
    assert curve.spend_at(9.0) == 0


def test_what_is_free_is_taken_at_no_budget_and_what_is_worthless_never() -> None:
    curve = frontier(np.array([0, 0, 1]), np.array([1.0, 2.0, -1.0]), np.array([0.0, 5.0, 0.0]))
    assert curve.value_at(0.0) == 1
    assert curve.value_at(5.0) == 2
    assert curve.pairs_within(0.0, np.array([0, 0, 1])).tolist() == [0, -1]
    empty = frontier(np.empty(0, int), np.empty(0), np.empty(0))
    assert empty.value_at(1.0) == 0
    assert empty.price_at(1.0) == 0


@pytest.mark.parametrize(
    ("value", "cost", "words"),
    [
        ([1.0, np.nan], [1.0, 1.0], "value of pair 1 .*member 8"),
        ([1.0, 1.0], [np.inf, 1.0], "cost of pair 0 .*member 7"),
        ([1.0, 1.0], [1.0, -2.0], "cost of pair 1 .*-2.*zero or more"),
        ([1.0], [1.0, 1.0], "same length"),
    ],
)
def test_bad_pairs_are_named(value: list[float], cost: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        frontier(np.array([7, 8]), np.array(value), np.array(cost))
