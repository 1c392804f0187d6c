from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize

from models.marketing.allocation.exact import matrix, membership, solve_exactly
from models.marketing.allocation.prices import best_of_all, dual_bound
from models.marketing.allocation.program import Family, Program
from tests.models.marketing.allocation.worlds import bounded, world

KINDS = (1.0, "mixed", 2.0, 1.5)


@pytest.mark.parametrize("seed", range(24))
def test_the_value_is_that_of_the_program_written_for_another_solver(seed: int) -> None:
    program = world(seed, members=3 * (1 + seed % 5), offers=4, most=KINDS[seed % 4], negative=seed % 3 == 0)
    found = solve_exactly(program)
    a, finite = matrix(program), np.isfinite
    above, below = finite(program.upper), finite(program.lower)
    reference = scipy.optimize.linprog(
        -program.value,
        A_ub=np.concatenate([a.toarray()[above], -a.toarray()[below], membership(program).toarray()]),
        b_ub=np.concatenate([program.upper[above], -program.lower[below], program.most_of(slice(0, program.N))]),
        bounds=(0, 1),
        method="highs-ipm",
    )
    assert found.value == pytest.approx(-reference.fun, rel=1e-9, abs=1e-9)
    assert found.bound == pytest.approx(found.value, rel=1e-9, abs=1e-9)
    assert found.engine == "highs"


@pytest.mark.parametrize("seed", range(24))
def test_prices_and_slack_complement_each_other(seed: int) -> None:
    program = world(seed, members=13, offers=5, most=KINDS[seed % 4], negative=seed % 3 == 0)
    found = solve_exactly(program)
    assert (found.prices[~np.isfinite(program.upper)] <= 0).all()
    assert (found.prices[~np.isfinite(program.lower)] >= 0).all()
    dear, cheap = found.prices > 1e-9, found.prices < -1e-9
    np.testing.assert_allclose(found.loads[dear], program.upper[dear], rtol=1e-9)
    np.testing.assert_allclose(found.loads[cheap], program.lower[cheap], rtol=1e-9)
    net = program.value - matrix(program).T @ found.prices
    x = found.x
    assert (x[net < -1e-9] <= 1e-9).all()  # nobody gets what is not worth its price
    member = np.repeat(np.arange(program.N), np.diff(program.start))
    got = np.bincount(member, x, minlength=program.N)
    room = program.most_of(slice(0, program.N)) - got > 1e-9
    assert (x[(net > 1e-9) & room[member]] >= 1 - 1e-9).all()  # who has room gets all that is worth more


def test_signs_of_prices_are_those_of_the_house() -> None:
    # two members, values 3 and -1; at most 0.5 of the first line, at least 0.5 of the second
    volume = Family(
        name="volume",
        rows=("first", "second"),
        lower=np.array([-np.inf, 0.5]),
        upper=np.array([0.5, np.inf]),
        offers=np.array([0, 1]),
    )
    program = Program(
        start=np.array([0, 1, 2]),
        offer=np.array([0, 1], np.int16),
        value=np.array([3.0, -1.0]),
        offers=("a", "b"),
        families=(volume,),
    )
    found = solve_exactly(program.check())
    np.testing.assert_allclose(found.prices, [3.0, -1.0])
    assert found.value == pytest.approx(1.0)
    assert found.bound == pytest.approx(3.0 * 0.5 - 1.0 * 0.5 + 0.0)


def test_a_bound_of_zero_gives_nothing_of_its_row_and_a_price_that_says_so() -> None:
    program = world(5, members=13, offers=5, lower=0.0)
    upper = np.where(np.array(program.names) == "spend", 0.0, np.inf)
    found = solve_exactly(bounded(program, np.full(program.K, -np.inf), upper))
    assert found.value == 0.0
    assert (found.x == 0).all()
    assert found.bound == pytest.approx(0.0, abs=1e-9)


def test_values_of_zero_give_zero_at_prices_of_zero() -> None:
    program = world(1, lower=0.0)
    found = solve_exactly(replace(program, value=np.zeros(program.E)))
    assert (found.value, found.bound) == (0.0, 0.0)
    assert (found.prices == 0).all()


def test_a_program_without_pairs_or_rows_is_solved() -> None:
    empty = Program(start=np.zeros(4, np.int64), offer=np.empty(0, np.int16), value=np.empty(0), offers=("a",))
    assert solve_exactly(empty.check()).value == 0.0
    free = replace(world(2), families=())
    found = solve_exactly(free)
    pairs, shares = best_of_all(free, np.empty(0))
    assert found.value == pytest.approx(float(free.value[pairs] @ shares))
    assert found.bound == pytest.approx(found.value)


@pytest.mark.parametrize("seed", range(6))
def test_any_prices_bound_the_value_and_a_price_without_its_bound_says_nothing(seed: int) -> None:
    program = world(seed, members=13, offers=5, most=KINDS[seed % 4])
    value, random = solve_exactly(program).value, np.random.default_rng(seed)
    for _ in range(20):
        bound = dual_bound(program, random.normal(size=program.K))
        assert bound >= value - 1e-9
    open_above = np.where(np.isfinite(program.upper), 0.0, 1.0)
    assert np.isinf(dual_bound(program, open_above)) == bool(open_above.any())
