import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from models.common.contracts import InputError
from models.marketing.allocation.balanced import balance, purify
from models.marketing.allocation.exact import matrix, solve_exactly
from models.marketing.allocation.program import Family, Program
from models.marketing.allocation.rounding import (
    Unroundable,
    Whole,
    draw,
    entries,
    exact_loads,
    narrowed,
    room,
    round_whole,
    solve_with_room,
)
from models.marketing.allocation.solver import solve
from models.marketing.generator import GeneratorConfig
from models.marketing.tables import generated, program_of
from tests.models.marketing.allocation.worlds import bounded, world


def vertex(program: Program) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Pairs, shares, prices and bound of an optimal vertex."""
    found = solve_exactly(program)
    pairs = np.flatnonzero(found.x > 0)
    return pairs, found.x[pairs], found.prices, found.bound


def rational_loads(program: Program, pairs: np.ndarray) -> list[Fraction]:
    """Loads in rational numbers: floats are rational, and these sums have no rounding at all."""
    rows, weights = program.columns(pairs)
    loads = [Fraction(0)] * program.K
    for row, weight in zip(rows, weights, strict=True):
        for k, amount in zip(row.tolist(), weight.tolist(), strict=True):
            if k >= 0:
                loads[k] += Fraction(amount)
    return loads


def holds(program: Program, pairs: np.ndarray) -> bool:
    """Whether whole offers hold every row and every member's cap, in rational numbers."""
    per_member = np.bincount(program.member_of(pairs), minlength=program.N)
    within = all(
        (not np.isfinite(low) or load >= Fraction(float(low)))
        and (not np.isfinite(high) or load <= Fraction(float(high)))
        for load, low, high in zip(rational_loads(program, pairs), program.lower, program.upper, strict=True)
    )
    return within and bool((per_member <= program.most_of(slice(0, program.N))).all())


def rounded(program: Program) -> tuple[Whole, float]:
    pairs, shares, prices, bound = vertex(program)
    return round_whole(program, pairs, shares, prices), bound


@pytest.mark.parametrize("most", (1.0, 2.0, "mixed"))
@pytest.mark.parametrize("seed", range(10))
def test_upper_rows_hold_exactly_and_the_value_is_within_the_stated_bound(seed: int, most: float | str) -> None:
    program = world(seed, members=120, offers=6, lower=0.0, tight=0.05, most=most)
    found, bound = rounded(program)
    assert holds(program, found.pairs)
    assert found.changed <= program.K
    greatest = program.value.max() * np.max(program.most)
    assert found.value >= found.promise
    # the stated bound: (1 - 1e-4 - K max_u v_u / D) D
    assert found.value >= (1 - 1e-4 - program.K * greatest / bound) * bound


@pytest.mark.parametrize("seed", range(20))
def test_lower_rows_hold_exactly_or_the_row_is_named(seed: int) -> None:
    program = world(seed, members=80, offers=5, lower=0.7, tight=0.1, most=1.0 + seed % 2, negative=seed % 4 == 0)
    try:
        found, bound = rounded(program)
    except Unroundable as refused:
        named = [name for name in program.names if repr(name) in str(refused)]
        assert len(named) == 1
        assert "widen the row by" in str(refused)
        return
    assert holds(program, found.pairs)
    assert found.changed <= program.K
    assert found.promise <= found.value <= bound + 1e-9


def test_most_worlds_with_lower_rows_are_rounded() -> None:
    refused = 0
    for seed in range(40, 60):
        try:
            rounded(world(seed, members=80, offers=5, lower=0.7, tight=0.1))
        except Unroundable:
            refused += 1
    assert refused <= 4


@pytest.mark.parametrize("seed", range(12))
def test_a_search_finds_no_more_than_the_best_of_all_whole_plans(seed: int) -> None:
    program = world(seed, members=5, offers=3, lower=0.4)
    own = [range(int(program.start[u]), int(program.start[u + 1])) for u in range(program.N)]
    best = -np.inf
    for choice in itertools.product(*([-1, *pairs] for pairs in own)):
        pairs = np.array([pair for pair in choice if pair >= 0], np.int64)
        if holds(program, pairs):
            best = max(best, float(program.value[pairs].sum()))
    try:
        found, _ = rounded(program)
    except Unroundable:
        return  # a search near the vertex may miss what is far from it
    assert best - (program.K + 1) * program.value.max() <= found.value <= best + 1e-9


def test_a_program_that_no_whole_plan_holds_is_refused_with_its_row() -> None:
    # each send costs 2, exactly 3 must be spent: one and a half sends
    spend = Family(name="spend", rows=("spend",), lower=np.array([3.0]), upper=np.array([3.0]), weight=np.full(4, 2.0))
    program = Program(
        start=np.arange(5), offer=np.zeros(4, np.int16), value=np.arange(4.0), offers=("a",), families=(spend,)
    )
    with pytest.raises(
        Unroundable, match=r"no whole offers near the shares hold row 'spend': it must be at (most|least) 3"
    ):
        rounded(program)


def test_equal_counts_are_held_to_the_unit() -> None:
    program = world(4, members=90, offers=6, lower=0.0)
    volume = program.families[2]
    counts = np.floor(solve_exactly(program).loads[2 : 2 + len(volume.rows)])
    families = tuple(
        replace(family, lower=counts, upper=counts) if family.name == "volume" else family
        for family in program.families
    )
    free = np.full(1, np.inf)
    families = tuple(
        replace(family, lower=-free, upper=free) if family.name in ("spend", "risk") else family for family in families
    )
    program = replace(program, families=families)
    found, _ = rounded(program)
    np.testing.assert_array_equal(found.loads[2 : 2 + len(volume.rows)], counts)


def test_shares_far_from_a_vertex_are_first_brought_to_one() -> None:
    program = world(2, members=60, offers=5, lower=0.0, tight=0.05)
    pairs, shares, prices, _ = vertex(program)
    x = np.zeros(program.E)
    x[pairs] = shares
    blurred = 0.9 * x + 1e-3 * (1 - x)  # within rows and caps: the world's own allocation is far inside
    blurred *= min(1.0, np.min(program.upper / np.maximum(program.loads(blurred), 1e-12)))
    member = np.repeat(np.arange(program.N), np.diff(program.start))
    blurred /= np.maximum(np.bincount(member, blurred, minlength=program.N), 1)[member]
    everywhere = np.flatnonzero(blurred > 0)
    found = round_whole(program, everywhere, blurred[everywhere], prices)
    assert holds(program, found.pairs)
    assert found.changed <= program.K
    assert found.value >= float(program.value @ blurred) - program.K * program.value.max()


def test_a_cap_that_is_not_whole_is_refused_by_name() -> None:
    program = replace(world(0), most=np.array([1, 1, 1.5, 1, 1, 1.0]))
    with pytest.raises(InputError, match=r"most of member '2' is 1\.5, whole offers need a whole number"):
        round_whole(program, np.empty(0, np.int64), np.empty(0), np.zeros(program.K))


@pytest.mark.parametrize("seed", range(6))
def test_exact_loads_are_those_of_rational_numbers(seed: int) -> None:
    program = world(seed, members=50, offers=5, negative=True)
    pairs = np.flatnonzero(np.random.default_rng(seed).random(program.E) < 0.5)
    rational = rational_loads(program, pairs)
    loads, _ = exact_loads(program, pairs)
    assert loads.tolist() == [float(load) for load in rational]
    inside = bounded(program, np.full(program.K, -np.inf), loads)
    assert [broken > 0 for broken in exact_loads(inside, pairs)[1]] == [
        load > Fraction(float(high)) for load, high in zip(rational, loads, strict=True)
    ]


def test_a_program_without_pairs_is_rounded_to_nothing() -> None:
    program = Program(start=np.zeros(4, np.int64), offer=np.empty(0, np.int16), value=np.empty(0), offers=("a",))
    found = round_whole(program, np.empty(0, np.int64), np.empty(0), np.empty(0))
    assert (len(found.pairs), found.value, found.changed) == (0, 0.0, 0)


def test_the_search_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    # with presolving HiGHS mends an answer here, and says so past all its options
    program = program_of(generated(GeneratorConfig(members=3000, seed=0)), most=100)
    answer = solve(program)
    found = round_whole(program, *entries(answer), answer.prices)
    assert holds(program, found.pairs)
    assert capfd.readouterr().out == ""


# --- by lot -----------------------------------------------------------------------------------------------------------


def blurred(program: Program, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Shares in which every member is unsure, as those of a smoothed answer are."""
    random = np.random.default_rng(seed)
    member = np.repeat(np.arange(program.N), np.diff(program.start))
    raw = np.exp(random.normal(size=program.E))
    shares = raw / (np.bincount(member, raw, minlength=program.N) + 1)[member]
    shares = np.minimum(shares * program.most_of(slice(0, program.N))[member], 1.0)
    pairs = np.flatnonzero(shares > 0)
    return pairs, shares[pairs]


def lots(program: Program, pairs: np.ndarray, shares: np.ndarray, sampling: str, count: int) -> np.ndarray:
    """(count, E) what each of many lots gives."""
    out = np.zeros((count, program.E))
    for seed in range(count):
        out[seed, draw(program, pairs, shares, seed=seed, sampling=sampling)] = 1
    return out


@pytest.mark.parametrize("sampling", ("independent", "balanced"))
@pytest.mark.parametrize("most", (1.0, 2.0, "mixed"))
def test_lots_give_each_pair_with_its_share_and_nobody_too_much(most: float | str, sampling: str) -> None:
    program = world(1, members=60, offers=5, most=most, negative=True)
    pairs, shares = blurred(program)
    given = lots(program, pairs, shares, sampling, 600)
    own = np.repeat(np.arange(program.N), np.diff(program.start))
    for lot in given:
        assert (np.bincount(own, lot, minlength=program.N) <= program.most_of(slice(0, program.N))).all()
    count = given[:, pairs].sum(0).astype(int)
    # exact two-sided binomial tests of all pairs together, by Bonferroni
    p = [scipy.stats.binomtest(c, 600, s).pvalue for c, s in zip(count.tolist(), shares.tolist(), strict=True) if s < 1]
    assert min(p) * len(p) > 1e-3
    np.testing.assert_array_equal(given, lots(program, pairs, shares, sampling, 600))


def test_balanced_lots_vary_by_less_than_a_fifth_of_independent_ones() -> None:
    program = world(3, members=300, offers=6, groups=5, negative=True)
    pairs, shares = blurred(program)
    a = matrix(program)
    alone, balanced = (a @ lots(program, pairs, shares, kind, 300).T for kind in ("independent", "balanced"))
    used = alone.var(axis=1) > 0
    assert used.sum() >= 9
    assert (balanced.var(axis=1)[used] <= 0.2 * alone.var(axis=1)[used]).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_flight_keeps_every_load_and_leaves_at_most_k_members(seed: int) -> None:
    program = world(seed, members=80, offers=6, most=1.0 + seed % 2, negative=True)
    pairs, shares = blurred(program, seed)
    inner = (shares > 1e-9) & (shares < 1 - 1e-9)
    pairs, shares = pairs[inner], shares[inner]
    rows, weights = program.columns(pairs)
    member = program.member_of(pairs)
    landed = balance(member, rows, weights, shares, program.K, np.random.default_rng(seed))
    np.testing.assert_allclose(program.loads_of(pairs, landed), program.loads_of(pairs, shares), atol=1e-8)
    open_ = (landed > 1e-9) & (landed < 1 - 1e-9)
    assert len(np.unique(member[open_])) <= program.K
    assert (landed >= 0).all()
    assert (landed <= 1).all()


@pytest.mark.parametrize("sampling", ("independent", "balanced"))
@pytest.mark.parametrize("delta", (0.05, 0.01))
def test_with_room_a_lot_breaks_a_row_no_more_often_than_stated(delta: float, sampling: str) -> None:
    program = world(7, members=400, offers=6, lower=0.5, tight=0.3)
    free = bounded(program, np.full(program.K, -np.inf), np.full(program.K, np.inf))
    pairs, shares = blurred(program)
    loads = free.loads_of(pairs, shares)
    strays = room(bounded(program, loads - 1e9, loads + 1e9), pairs, shares, delta=delta, sampling=sampling)
    tight = bounded(program, loads - strays, loads + strays)
    a = matrix(program)
    count = 400
    drawn = (a @ lots(program, pairs, shares, sampling, count).T).T
    broken = int(((drawn < tight.lower - 1e-9) | (drawn > tight.upper + 1e-9)).any(axis=1).sum())
    assert scipy.stats.binomtest(broken, count, delta, alternative="greater").pvalue > 1e-3
    bare = int((drawn > loads + 1e-9).any(axis=1).sum())  # without room nearly every lot breaks some row
    assert bare > 0.9 * count


@pytest.mark.parametrize("sampling", ("independent", "balanced"))
def test_solving_with_room_costs_at_most_twice_the_greatest_shrinking(sampling: str) -> None:
    program = world(11, members=400, offers=6, lower=0.0, tight=0.05)

    def solve(narrow: Program) -> tuple[np.ndarray, np.ndarray]:
        return vertex(narrow)[:2]

    pairs, shares, kept = solve_with_room(program, solve, delta=0.05, sampling=sampling)
    loads = program.loads_of(pairs, shares)
    finite = np.isfinite(program.upper) & (program.upper > 0)  # a channel without offers has the load 0
    assert (loads + kept <= program.upper + 1e-9).all()
    full = solve_exactly(program).value
    greatest = float(np.max(kept[finite] / program.upper[finite]))
    assert greatest < 1
    assert float(program.value[pairs] @ shares) >= (1 - 2 * greatest) * full


def test_a_row_too_narrow_for_a_lot_is_named() -> None:
    program = bounded(world(0), np.full(8, 1.0), np.full(8, 1.5))
    with pytest.raises(InputError, match=r"row 'spend' of 1 to 1\.5 is too narrow for a lot that strays by 0\.3"):
        narrowed(program, np.full(8, 0.3))
    with pytest.raises(InputError, match="delta must lie between 0 and 1, got 0"):
        room(program, np.empty(0, np.int64), np.empty(0), delta=0.0)


def test_without_rows_everybody_gets_what_is_dearest_and_lots_still_work() -> None:
    program = replace(world(0), families=())
    pairs, shares = np.arange(program.E), np.full(program.E, 0.2)
    found = round_whole(program, pairs, shares, np.zeros(0))
    assert found.value == pytest.approx(solve_exactly(program).value)
    assert found.promise == pytest.approx(0.2 * program.value.sum())
    assert room(program, pairs, shares, delta=0.1).shape == (0,)
    for sampling in ("independent", "balanced"):
        lot = draw(program, pairs, shares, seed=0, sampling=sampling)
        assert (np.bincount(program.member_of(lot), minlength=program.N) <= 1).all()


def test_purified_shares_keep_loads_and_lose_no_value() -> None:
    for seed in range(6):
        program = world(seed, members=80, offers=6, most=1.0 + seed % 2, negative=True)
        pairs, shares = blurred(program, seed)
        inner = (shares > 1e-9) & (shares < 1 - 1e-9)
        pairs, shares = pairs[inner], shares[inner]
        rows, weights = program.columns(pairs)
        member = program.member_of(pairs)
        pure = purify(member, rows, weights, shares, program.value[pairs], program.K)
        np.testing.assert_allclose(program.loads_of(pairs, pure), program.loads_of(pairs, shares), atol=1e-8)
        assert program.value[pairs] @ pure >= program.value[pairs] @ shares - 1e-9
        assert len(np.unique(member[(pure > 1e-9) & (pure < 1 - 1e-9)])) <= program.K
