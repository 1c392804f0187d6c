import numpy as np
import pytest
import scipy.stats

from models.common.contracts import InputError
from models.marketing.allocation.exact import solve_exactly
from models.marketing.allocation.prices import dual_bound
from models.marketing.allocation.program import Program
from models.marketing.allocation.sampled import dual_of, part_of, share_for, solve_sampled
from tests.models.marketing.allocation.worlds import world


def solve(program: Program) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = solve_exactly(program)
    pairs = np.flatnonzero(found.x > 0)
    return found.prices, pairs, found.x[pairs]


@pytest.fixture(scope="module")
def program() -> Program:
    return world(1, members=6000, offers=4, lower=0.2, tight=0.1)


def test_a_part_has_its_share_of_every_bound(program: Program) -> None:
    members = np.arange(0, 6000, 4)
    part = part_of(program, members)
    assert part.N == 1500
    np.testing.assert_allclose(part.upper, program.upper / 4)
    np.testing.assert_allclose(part.lower, program.lower / 4)
    np.testing.assert_array_equal(part.value, program.value[program.pairs_of(members)])


def test_prices_of_a_part_serve_all_and_stated_bounds_hold(program: Program) -> None:
    best = solve_exactly(program).value
    delta, draws = 0.1, 20
    kept, worth = 0, []
    for seed in range(draws):
        found = solve_sampled(program, solve, share=0.05, delta=delta, seed=seed)
        given = found.policy.decide_all(program)
        loads, value = program.loads_of(given, np.ones(len(given))), float(program.value[given].sum())
        above = np.where(np.isfinite(program.upper), loads - program.upper, 0.0)
        below = np.where(np.isfinite(program.lower), program.lower - loads, 0.0)
        passed = np.maximum(np.maximum(above, below), 0.0)
        side = np.abs(np.where(above >= below, program.upper, program.lower))
        allowed = found.error * np.where(np.isfinite(side), side, 0.0)
        inside = (found.loads[:, 0] <= loads) & (loads <= found.loads[:, 1])
        kept += bool(inside.all() and found.values[0] <= value <= found.values[1] and (passed <= allowed + 1e-9).all())
        worth.append(value / best)
        assert len(found.members) == 300
    assert scipy.stats.binomtest(kept, draws, 1 - delta, alternative="less").pvalue > 1e-3
    assert np.mean(worth) > 0.97
    assert min(worth) > 0.9


def test_stated_bounds_narrow_with_the_second_part(program: Program) -> None:
    wide, narrow = (solve_sampled(program, solve, share=0.05, check=check, seed=3).loads for check in (0.05, 0.8))
    assert (np.diff(narrow)[narrow[:, 1] > 0] < 0.3 * np.diff(wide)[narrow[:, 1] > 0]).all()


def test_the_dual_of_a_part_estimates_that_of_all_with_its_standard_error(program: Program) -> None:
    prices = solve_exactly(program).prices
    truth, scores = dual_bound(program, prices), []
    for seed in range(200):
        members = np.sort(np.random.default_rng(seed).permutation(program.N)[:300])
        estimate, error = dual_of(program, part_of(program, members), prices)
        scores.append((estimate - truth) / error)
    assert abs(np.mean(scores)) < 4 / np.sqrt(200)
    assert np.std(scores) == pytest.approx(1.0, abs=0.2)


def test_all_members_have_no_error(program: Program) -> None:
    prices = solve_exactly(program).prices
    estimate, error = dual_of(program, part_of(program, np.arange(program.N)), prices)
    assert estimate == pytest.approx(dual_bound(program, prices), rel=1e-12)
    assert error == 0.0


def test_a_smaller_error_asks_for_a_larger_part(program: Program) -> None:
    shares = [share_for(program, solve, error=error, rows=1.0, pilot=300) for error in (0.05, 0.02, 0.01, 0.001)]
    assert shares == sorted(shares)
    assert 0.95 < shares[-1] <= 1.0
    without = [share / (1 - share) for share in shares]  # members who are drawn leave fewer to be guessed
    assert without[2] / without[1] == pytest.approx(4.0, rel=1e-6)  # half the error, four times the members
    prices = solve_exactly(program).prices
    count = round(shares[1] * program.N)
    found = [
        dual_of(program, part_of(program, np.sort(np.random.default_rng(s).permutation(program.N)[:count])), prices)
        for s in range(5)
    ]
    assert np.mean([error / bound for bound, error in found]) == pytest.approx(0.02, rel=0.35)


def test_parts_that_cannot_be_drawn_are_refused(program: Program) -> None:
    with pytest.raises(InputError, match="6000 members give a part of 4200 and a second one of 2400"):
        solve_sampled(program, solve, share=0.7, check=0.4)
    with pytest.raises(InputError, match=r"delta must lie between 0 and 1, got 1\.5"):
        solve_sampled(program, solve, delta=1.5)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(program: Program, share: float) -> None:
    with pytest.raises(InputError, match="share and check must lie above 0 and up to 1"):
        solve_sampled(program, solve, share=share)
