import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from models.common.certificate import Certificate
from models.marketing.allocation.conflict import explain
from models.marketing.allocation.exact import solve_exactly
from models.marketing.allocation.program import Conflict, Family, Program
from models.marketing.allocation.rounding import round_whole
from models.marketing.certificate import Plan, certify_conflict, certify_plan, unspent
from tests.models.marketing.allocation.worlds import bounded, impossible, world

SEEDS = range(8)
KINDS = (1.0, 2.0, 1.5, "mixed")


def shared(program: Program) -> Plan:
    """An optimal plan of shares."""
    exact = solve_exactly(program)
    pairs = np.flatnonzero(exact.x > 0)
    return Plan(
        member=program.member_of(pairs),
        offer=program.offer[pairs],
        share=exact.x[pairs],
        rows=program.names,
        prices=exact.prices,
        loads=exact.loads,
        value=exact.value,
        bound=exact.bound,
    )


def whole(program: Program) -> Plan:
    """A plan of whole offers near it."""
    plan = shared(program)
    pairs = np.array([pair_of(program, u, i) for u, i in zip(plan.member, plan.offer, strict=True)])
    found = round_whole(program, pairs, plan.share, plan.prices)
    return replace(
        plan,
        member=program.member_of(found.pairs),
        offer=program.offer[found.pairs],
        share=np.ones(len(found.pairs)),
        loads=found.loads,
        value=found.value,
    )


def pair_of(program: Program, member: int, offer: int) -> int:
    own = range(int(program.start[member]), int(program.start[member + 1]))
    return next(pair for pair in own if program.offer[pair] == offer)


def plain_bound(program: Program, prices: np.ndarray) -> float:
    """The dual bound as it is written: every member by herself, every subset of pairs that her whole cap allows."""
    total = 0.0
    for k in range(program.K):
        ends = [bound * prices[k] for bound in (program.lower[k], program.upper[k]) if np.isfinite(bound)]
        total += max(ends) if prices[k] else 0.0
    columns = np.array([program.loads_of(np.array([pair]), np.ones(1)) for pair in range(program.E)])
    net = program.value - columns @ prices
    for u in range(program.N):
        own = range(int(program.start[u]), int(program.start[u + 1]))
        cap = int(program.most_of(np.array([u]))[0])
        subsets = itertools.chain.from_iterable(itertools.combinations(own, size) for size in range(cap + 1))
        total += max(sum(net[pair] for pair in subset) for subset in subsets)
    return total


@pytest.mark.parametrize("most", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_an_optimal_plan_of_shares_is_certified_with_no_gap(seed: int, most: float | str) -> None:
    program = world(seed, members=13, offers=5, most=most, negative=seed % 2 == 1)
    certificate = certify_plan(program, shared(program), whole=False, gap=1e-9)
    assert certificate.failures() == ()
    assert certificate.kinds == "exact + bounded"


@pytest.mark.parametrize("most", (1.0, 2.0))
@pytest.mark.parametrize("seed", SEEDS)
def test_whole_offers_are_certified_with_rows_exact(seed: int, most: float) -> None:
    program = world(seed, members=60, offers=5, most=most, lower=0.4)
    certificate = certify_plan(program, whole(program), whole=True, gap=0.2)
    assert certificate.failures() == ()
    assert next(claim for claim in certificate.claims if claim.name == "rows_broken").kind == "exact"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_is_what_every_subset_of_every_member_gives(seed: int) -> None:
    program = world(seed, members=7, offers=4, most=1.0 + seed % 2)
    prices = np.random.default_rng(seed).normal(size=program.K)
    prices = np.where(np.isfinite(program.upper), prices, np.minimum(prices, 0))
    prices = np.where(np.isfinite(program.lower), prices, np.maximum(prices, 0))
    plan = replace(shared(program), prices=prices, bound=plain_bound(program, prices))
    assert certify_plan(program, plan, whole=False, gap=np.inf).holds


def test_a_plan_of_nothing_is_certified_where_all_values_are_zero() -> None:
    program = world(3, lower=0.0)
    program = replace(program, value=np.zeros(program.E))
    none = np.empty(0, np.int64)
    rows = np.zeros(program.K)
    plan = Plan(
        member=none, offer=none, share=np.empty(0), rows=program.names, prices=rows, loads=rows, value=0.0, bound=0.0
    )
    certificate = certify_plan(program, plan, whole=True, gap=0.0)
    assert certificate.failures() == ()


def test_a_row_of_whole_offers_may_be_full_to_the_last_bit_but_no_fuller() -> None:
    # 0.1 + 0.2 is above 0.3 in floating point, and so is its correctly rounded sum 0.30000000000000004
    family = Family(
        name="spend",
        rows=("spend",),
        lower=np.array([-np.inf]),
        upper=np.array([0.1 + 0.2]),
        weight=np.array([0.1, 0.2]),
    )
    program = Program(
        start=np.array([0, 1, 2]), offer=np.zeros(2, np.int16), value=np.ones(2), offers=("a",), families=(family,)
    )
    plan = Plan(
        member=np.array([0, 1]), offer=np.zeros(2, np.int16), share=np.ones(2), rows=("spend",), prices=np.zeros(1),
        loads=np.array([0.1 + 0.2]), value=2.0, bound=2.0,
    )  # fmt: skip
    assert certify_plan(program, plan, whole=True).holds
    tighter = bounded(program, program.lower, np.array([0.3]))
    assert [claim.name for claim in certify_plan(tighter, plan, whole=True).failures()] == ["rows_broken"]


# --- corruptions ------------------------------------------------------------------------------------------------------


def moved(numbers: np.ndarray, place: int, number: float) -> np.ndarray:
    out = np.asarray(numbers, np.float64).copy()
    out[place] = number
    return out


def binding(plan: Plan) -> int:
    """The row with the greatest price."""
    return int(np.argmax(np.abs(plan.prices * plan.loads)))


def ineligible(program: Program) -> tuple[int, int]:
    """A member and an offer that she may not get."""
    for u in range(program.N):
        own = set(program.offer[program.start[u] : program.start[u + 1]].tolist())
        if own and len(own) < program.M:
            return u, min(set(range(program.M)) - own)
    raise AssertionError


def with_stranger(program: Program, plan: Plan) -> Plan:
    u, i = ineligible(program)
    return replace(
        plan, member=np.append(plan.member, u), offer=np.append(plan.offer, i), share=np.append(plan.share, 1.0)
    )


def with_second(program: Program, plan: Plan) -> Plan:
    """A member gets another of her offers on top."""
    for u in plan.member[plan.share == 1].tolist():
        free = set(program.offer[program.start[u] : program.start[u + 1]].tolist()) - set(plan.offer[plan.member == u])
        if free:
            return replace(
                plan,
                member=np.append(plan.member, u),
                offer=np.append(plan.offer, min(free)),
                share=np.append(plan.share, 1.0),
            )
    raise AssertionError


def swapped(program: Program, plan: Plan, *parts: str) -> Plan:
    """Two rows with different numbers change places in some parts."""
    one = binding(plan)
    other = next(k for k in range(program.K) if abs(plan.loads[k] - plan.loads[one]) > 0.1 and k != one)
    order = np.arange(program.K)
    order[[one, other]] = order[[other, one]]
    changes = {part: np.asarray(getattr(plan, part))[order] for part in parts}
    return replace(plan, **{part: tuple(new.tolist()) if part == "rows" else new for part, new in changes.items()})


PLANS: dict[str, tuple[str, Callable[[Program, Plan], Plan]]] = {
    "a price scaled": (
        "bound_off",
        lambda p, a: replace(a, prices=moved(a.prices, binding(a), a.prices[binding(a)] * 1.01)),
    ),
    "all prices scaled": ("bound_off", lambda p, a: replace(a, prices=a.prices * 0.999)),
    "all prices scaled, and the bound counted again": (
        "gap",
        lambda p, a: replace(a, prices=a.prices * 0.9, bound=plain_bound(p, a.prices * 0.9)),
    ),
    "a price with the other sign": (
        "bound_off",
        lambda p, a: replace(a, prices=moved(a.prices, binding(a), -a.prices[binding(a)])),
    ),
    "a price that is no number": ("numbers_not_finite", lambda p, a: replace(a, prices=moved(a.prices, 0, np.nan))),
    "an infinite price": ("numbers_not_finite", lambda p, a: replace(a, prices=moved(a.prices, 0, np.inf))),
    "a load off by one part in a thousand": (
        "loads_off",
        lambda p, a: replace(a, loads=moved(a.loads, binding(a), a.loads[binding(a)] * 1.001)),
    ),
    "a load that is no number": ("numbers_not_finite", lambda p, a: replace(a, loads=moved(a.loads, 1, np.nan))),
    "two loads swapped": ("loads_off", lambda p, a: swapped(p, a, "loads")),
    "two prices swapped": ("bound_off", lambda p, a: swapped(p, a, "prices")),
    "two rows swapped throughout": ("rows_misnamed", lambda p, a: swapped(p, a, "rows", "loads", "prices")),
    "the value too high": ("value_off", lambda p, a: replace(a, value=a.value * (1 + 1e-6))),
    "the value no number": ("numbers_not_finite", lambda p, a: replace(a, value=np.nan)),
    "the bound too low": ("bound_off", lambda p, a: replace(a, bound=a.bound * (1 - 1e-6))),
    "a member with two offers": ("offers_too_many", with_second),
    "an offer that a member may not get": ("unknown_pairs", with_stranger),
    "a member that there is not": ("unknown_pairs", lambda p, a: replace(a, member=np.append(a.member[:-1], p.N))),
    "a member below zero": ("unknown_pairs", lambda p, a: replace(a, member=np.append(-1, a.member[1:]))),
    "an entry twice": (
        "repeated_pairs",
        lambda p, a: replace(
            a,
            member=np.append(a.member, a.member[0]),
            offer=np.append(a.offer, a.offer[0]),
            share=np.append(a.share, a.share[0]),
        ),
    ),
    "a share above one": ("shares_outside", lambda p, a: replace(a, share=moved(a.share, 0, 1.5))),
    "a share below zero": ("shares_outside", lambda p, a: replace(a, share=moved(a.share, 0, -0.5))),
    "an entry lost": ("value_off", lambda p, a: replace(a, member=a.member[1:], offer=a.offer[1:], share=a.share[1:])),
    "an array too short": ("shapes_wrong", lambda p, a: replace(a, prices=a.prices[1:])),
}

TIGHT = {"members": 30, "offers": 5, "tight": 0.1, "lower": 0.3}


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("seed", range(3))
def test_a_corrupt_plan_is_refused_for_what_is_wrong(seed: int, kind: str) -> None:
    program = world(seed, **TIGHT)
    plan = shared(program)
    assert certify_plan(program, plan, whole=False, gap=1e-6).holds
    claim, corrupt = PLANS[kind]
    certificate = certify_plan(program, corrupt(program, plan), whole=False, gap=1e-6)
    assert claim in [failure.name for failure in certificate.failures()]


@pytest.mark.parametrize("seed", range(3))
def test_a_plan_for_wider_rows_is_refused(seed: int) -> None:
    program = world(seed, **TIGHT)
    plan = shared(program)
    k = next(k for k in np.argsort(-plan.prices * plan.loads) if plan.prices[k] > 0)
    shrunk = bounded(program, program.lower, moved(program.upper, k, program.upper[k] * 0.99))
    broken = certify_plan(shrunk, plan, whole=False, gap=1e-6).failures()
    assert {"rows_broken", "bound_off"} <= {claim.name for claim in broken}
    assert program.names[k] in next(claim.detail for claim in broken if claim.name == "rows_broken")


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_no_whole_offers(seed: int) -> None:
    program = world(seed, **TIGHT)
    failures = certify_plan(program, shared(program), whole=True, gap=1e-6).failures()
    assert "shares_outside" in [claim.name for claim in failures]


@pytest.mark.parametrize("seed", range(3))
def test_a_plan_far_from_the_best_is_refused_by_its_gap(seed: int) -> None:
    program = world(seed, members=30, offers=5, lower=0.0)
    plan = shared(program)
    half = replace(plan, share=plan.share / 2, loads=plan.loads / 2, value=plan.value / 2)
    assert [claim.name for claim in certify_plan(program, half, whole=False).failures()] == ["gap"]


# --- conflicts --------------------------------------------------------------------------------------------------------


def conflict_of(seed: int) -> tuple[Program, Conflict]:
    """A program with a conflict of two rows or more."""
    for attempt in itertools.count():
        program = impossible(1000 * seed + attempt, members=9, offers=4)
        conflict = explain(program)
        if conflict is not None and len(conflict.rows) > 1:
            return program, conflict
    raise AssertionError


def judged(program: Program, conflict: Conflict) -> Certificate:
    return certify_conflict(
        program, ray=conflict.ray, rows=conflict.rows, needed=conflict.needed, available=conflict.available
    )


def first(conflict: Conflict) -> int:
    return int(np.flatnonzero(conflict.ray)[0])


CONFLICTS: dict[str, Callable[[Conflict], Conflict]] = {
    "a price of the ray left out": lambda c: replace(c, ray=moved(c.ray, first(c), 0.0), rows=c.rows[1:]),
    "a price of the ray a hundred times as large": lambda c: replace(
        c, ray=moved(c.ray, first(c), 100 * c.ray[first(c)])
    ),
    "a price with the other sign": lambda c: replace(c, ray=moved(c.ray, first(c), -c.ray[first(c)])),
    "the whole ray with the other sign": lambda c: replace(c, ray=-c.ray),
    "a ray of nothing": lambda c: replace(c, ray=0 * c.ray, rows=(), needed=0.0, available=0.0),
    "a price that is no number": lambda c: replace(c, ray=moved(c.ray, first(c), np.nan)),
    "a row not named": lambda c: replace(c, rows=c.rows[1:]),
    "a row named twice": lambda c: replace(c, rows=(*c.rows, c.rows[0])),
    "a row named that has no part": lambda c: replace(c, rows=(*c.rows, "elsewhere")),
    "needed off by one part in a thousand": lambda c: replace(c, needed=c.needed * 1.001),
    "available off by one part in a thousand": lambda c: replace(c, available=c.available * 1.001 + 1e-3),
    "available no number": lambda c: replace(c, available=np.nan),
    "rays of another program": lambda c: replace(c, ray=c.ray[1:]),
}


@pytest.mark.parametrize("kind", CONFLICTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_corrupt_conflict_is_refused(seed: int, kind: str) -> None:
    program, conflict = conflict_of(seed)
    assert judged(program, conflict).holds
    assert not judged(program, CONFLICTS[kind](conflict)).holds


@pytest.mark.parametrize("seed", SEEDS)
def test_no_ray_proves_anything_against_a_program_that_is_possible(seed: int) -> None:
    program = world(seed, members=9, offers=4)
    random = np.random.default_rng(seed)
    for _ in range(20):
        ray = random.normal(size=program.K) * (random.random(program.K) < 0.5)
        ray = np.where(np.isfinite(program.upper), ray, np.minimum(ray, 0))
        ray = np.where(np.isfinite(program.lower), ray, np.maximum(ray, 0))
        rows = tuple(program.names[k] for k in np.flatnonzero(ray))
        failures = certify_conflict(program, ray=ray, rows=rows, needed=0.0, available=0.0).failures()
        assert "ray_proves" in [claim.name for claim in failures]


# --- why a budget is left ---------------------------------------------------------------------------------------------


def test_an_unspent_budget_is_explained_by_the_row_that_holds_it_back() -> None:
    # three members alike but for their value; two sends allowed, money for five: the sends hold the money back
    families = (
        Family(
            name="spend", rows=("spend",), lower=np.array([-np.inf]), upper=np.array([10.0]), weight=np.full(4, 2.0)
        ),
        Family(name="sends", rows=("sends",), lower=np.array([-np.inf]), upper=np.array([2.0])),
    )
    program = Program(
        start=np.arange(5), offer=np.zeros(4, np.int16), value=np.array([5.0, 4.0, 3.0, 0.0]), offers=("a",),
        families=families,
    )  # fmt: skip
    plan = Plan(
        member=np.array([0, 1]), offer=np.zeros(2, np.int16), share=np.ones(2), rows=program.names,
        prices=np.array([0.0, 3.5]), loads=np.array([4.0, 2.0]), value=9.0, bound=9.0,
    )  # fmt: skip
    assert certify_plan(program, plan, whole=True).failures() == ()
    (row,) = unspent(program, plan)
    assert (row.row, row.bound, row.load) == ("spend", 10.0, 4.0)
    assert (row.worthless, row.taken, row.held) == (2.0, 0.0, 2.0)
    assert row.binding == (("sends", 3.5, 3.5),)
    assert "'sends' (one more unit is worth 3.5)" in row.sentence()


def test_an_unspent_budget_that_nothing_holds_back_says_so() -> None:
    program = world(0, lower=0.0)
    program = bounded(program, np.full(program.K, -np.inf), np.full(program.K, 1e6))
    found = unspent(program, shared(program))
    assert [row.row for row in found] == list(program.names)
    assert all(row.held == 0 and row.binding == () for row in found)
    assert "nothing else is worth sending" in found[0].sentence()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_pair_outside_the_plan_is_explained_once(seed: int) -> None:
    program = world(seed, members=17, offers=5, lower=0.0)
    plan = shared(program)
    taken = np.zeros(program.E)
    taken[[pair_of(program, u, i) for u, i in zip(plan.member, plan.offer, strict=True)]] = plan.share
    left = program.loads(1 - taken)  # every weight of this world is above zero
    for row in unspent(program, plan):
        k = program.names.index(row.row)
        assert row.worthless + row.taken + row.held == pytest.approx(left[k], rel=1e-6)
        assert row.load < row.bound


def test_a_program_without_members_has_a_plan_of_nothing() -> None:
    spend = Family(name="spend", rows=("spend",), lower=np.array([-np.inf]), upper=np.zeros(1), weight=np.empty(0))
    none = np.empty(0, np.int64)
    program = Program(
        start=np.zeros(1, np.int64), offer=none.astype(np.int16), value=np.empty(0), offers=("a",), families=(spend,)
    )
    plan = Plan(
        member=none, offer=none, share=np.empty(0), rows=("spend",), prices=np.zeros(1), loads=np.zeros(1), value=0.0,
        bound=0.0,
    )  # fmt: skip
    assert certify_plan(program, plan, whole=True).failures() == ()
    assert unspent(program, plan) == ()


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_a_bound_that_is_far_off_hides_no_broken_one_of_the_same_row(side: str) -> None:
    program = world(1, members=40, offers=4, lower=0.0)
    free = bounded(program, np.full(program.K, -np.inf), np.full(program.K, np.inf))
    plan = shared(free)
    load = float(plan.loads[0])
    lower, upper = free.lower.copy(), free.upper.copy()
    lower[0], upper[0] = (load + 1, 1e12) if side == "lower" else (-1e12, load - 1)
    certificate = certify_plan(bounded(free, lower, upper), plan, whole=False, gap=1.0)
    assert [claim.name for claim in certificate.claims if not claim.holds] == ["rows_broken"]
