import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.common.contracts import InputError
from models.marketing.allocation import arranged
from models.marketing.allocation.conflict import gap_of_ray, reach
from models.marketing.allocation.partitioned import Partitioned
from models.marketing.allocation.prices import dual_bound
from models.marketing.allocation.program import Family, Infeasible, Program
from models.marketing.allocation.solver import Answer, solve
from tests.models.marketing.allocation.worlds import bounded, impossible, world

KINDS: tuple[dict[str, Any], ...] = (
    {"lower": 0.0},
    {"lower": 0.6},
    {"lower": 0.6, "most": 2.0},
    {"lower": 0.6, "most": "mixed"},
    {"lower": 0.4, "quantise": 0.5},
    {"lower": 0.6, "negative": True},
    {"lower": 0.4, "density": 1.1},
)


def shares(answer: Answer) -> np.ndarray:
    x = np.zeros(answer.size)
    x[answer.choice[answer.choice >= 0]] = 1
    x[answer.pairs] = answer.shares
    return x


def holds(program: Program, answer: Answer) -> None:
    """The answer is an allocation, and what it says of itself is so."""
    x = shares(answer)
    member = np.repeat(np.arange(program.N), np.diff(program.start))
    load, size = program.loads(x), program.loads(np.abs(x)) + 1e-9
    over, under = (
        np.maximum(size, np.where(np.isfinite(bound), np.abs(bound), 0)) for bound in (program.upper, program.lower)
    )
    assert (x >= 0).all()
    assert (x <= 1 + 1e-12).all()
    assert (np.bincount(member, x, program.N) <= program.most_of(slice(0, program.N)) + 1e-9).all()
    assert (load <= program.upper + 2e-9 * over).all()
    assert (load >= program.lower - 2e-9 * under).all()
    assert answer.loads == pytest.approx(load, rel=1e-9, abs=1e-9 * size.max())
    assert answer.value == pytest.approx(float(x @ program.value.astype(np.float64)), rel=1e-10, abs=1e-12)
    assert answer.bound == pytest.approx(dual_bound(program, answer.prices), rel=1e-9, abs=1e-12)
    assert answer.bound >= answer.value - 1e-9 * max(1, abs(answer.bound))


def parted(program: Program, answer: Answer) -> int:
    inside = (answer.shares > 0) & (answer.shares < 1)
    return len(np.unique(program.member_of(answer.pairs[inside])))


@pytest.mark.parametrize("seed", range(200))
def test_newton_and_the_simplex_method_agree_on_tiny_programs(seed: int) -> None:
    random = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    program = world(seed, members=int(random.integers(1, 7)), offers=int(random.integers(1, 5)), **kind)
    exact = solve(program, engine="highs")
    ours = solve(program, engine="newton", gap=1e-10, vertex=True, threads=1)
    holds(program, exact)
    holds(program, ours)
    assert ours.value == pytest.approx(exact.value, rel=1e-9, abs=1e-11)
    assert ours.bound >= exact.value - 1e-9 * max(1.0, abs(exact.value))
    if program.E:
        assert (exact.engine, ours.engine) == ("highs", "newton")


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_program_reaches_the_gap_and_holds_every_row(kind: dict[str, Any]) -> None:
    program = world(1, members=6000, offers=6, **kind)
    answer = solve(program, threads=1)
    holds(program, answer)
    assert answer.engine == "newton"
    assert 0 <= answer.gap <= 1e-4
    assert answer.share().sum() == pytest.approx(shares(answer).sum(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS[:3] + KINDS[4:])
def test_a_vertex_parts_at_most_as_many_members_as_there_are_rows(kind: dict[str, Any]) -> None:
    program = world(2, members=6000, offers=6, **kind)
    answer = solve(program, vertex=True, threads=1)
    holds(program, answer)
    assert parted(program, answer) <= program.K
    assert answer.gap <= 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_a_gap_of_a_millionth_is_reached(seed: int) -> None:
    program = world(seed, members=6000, offers=6, lower=0.4 * (seed % 2))
    answer = solve(program, gap=1e-6, threads=1)
    holds(program, answer)
    assert answer.gap <= 1e-6


def test_complementary_slackness_at_a_vertex() -> None:
    program = world(7, members=300, offers=5, tight=0.2)
    answer = solve(program, engine="newton", vertex=True, gap=1e-10, threads=1)
    up, down = answer.prices > 1e-6, answer.prices < -1e-6
    assert up.any()
    assert answer.loads[up] == pytest.approx(program.upper[up], rel=1e-8)
    assert answer.loads[down] == pytest.approx(program.lower[down], rel=1e-8)


def test_the_order_of_members_and_offers_does_not_matter() -> None:
    program = world(8, members=400, offers=5)
    plain = solve(program, engine="newton", vertex=True, gap=1e-10, threads=1)
    random = np.random.default_rng(0)
    turned = program.take(random.permutation(program.N))
    names = random.permutation(program.M)  # the offer with number i becomes names[i]
    groups = [None if f.offers is None else f.offers[np.argsort(names)] for f in turned.families]
    turned = replace(
        turned,
        offer=names[turned.offer].astype(np.int16),
        families=tuple(replace(f, offers=own) for f, own in zip(turned.families, groups, strict=True)),
    )
    other = solve(turned, engine="newton", vertex=True, gap=1e-10, threads=1)
    assert other.value == pytest.approx(plain.value, rel=1e-9)
    assert other.prices == pytest.approx(plain.prices, rel=1e-7, abs=1e-9)


def test_a_row_in_other_units_has_its_price_in_them() -> None:
    program = world(9, members=400, offers=5, tight=0.2, lower=0.0)
    plain = solve(program, engine="newton", vertex=True, gap=1e-10, threads=1)
    cents = replace(
        program.families[0],
        weight=100 * program.families[0].weight,
        upper=100 * program.families[0].upper,
        lower=100 * program.families[0].lower,
    )
    scaled = replace(program, families=(cents, *program.families[1:]))
    other = solve(scaled, engine="newton", vertex=True, gap=1e-10, threads=1)
    assert other.value == pytest.approx(plain.value, rel=1e-9)
    assert other.prices[0] == pytest.approx(plain.prices[0] / 100, rel=1e-6)
    assert other.prices[1:] == pytest.approx(plain.prices[1:], rel=1e-6, abs=1e-9)


def test_everybody_twice_and_bounds_doubled_is_twice_the_value_at_the_same_prices() -> None:
    program = world(10, members=300, offers=5, tight=0.2)
    twice = bounded(program.take(np.repeat(np.arange(300), 2)), 2 * program.lower, 2 * program.upper)
    plain = solve(program, engine="newton", vertex=True, gap=1e-10, threads=1)
    double = solve(twice, engine="newton", vertex=True, gap=1e-10, threads=1)
    assert double.value == pytest.approx(2 * plain.value, rel=1e-9)
    assert dual_bound(twice, plain.prices) == pytest.approx(double.value, rel=1e-9)


def one_row(seed: int, members: int, share: float) -> Program:
    random = np.random.default_rng(seed)
    program = world(seed, members=members, offers=4, lower=0.0)
    cost = np.exp(random.normal(0, 0.6, program.E))
    family = Family(name="spend", rows=("spend",), lower=np.array([-np.inf]), upper=np.array([np.inf]), weight=cost)
    free = replace(program, families=(family,))
    most = solve(free, engine="newton", gap=1e-6, threads=1).loads[0]
    return replace(free, families=(replace(family, upper=np.array([share * most])),))


def greedy(program: Program) -> float:
    """Dyer and Zemel: along each member's hull of (cost, value), steps by falling value per cost."""
    cost, steps = program.families[0].weight, []
    for u in range(program.N):
        pairs = range(program.start[u], program.start[u + 1])
        hull = [(0.0, 0.0)]
        for c, v in sorted((float(cost[e]), float(program.value[e])) for e in pairs):
            while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (c - hull[-2][0]) <= (v - hull[-2][1]) * (
                hull[-1][0] - hull[-2][0]
            ):
                hull.pop()
            if v > hull[-1][1]:
                hull.append((c, v))
        steps += [(b[1] - a[1], b[0] - a[0]) for a, b in itertools.pairwise(hull)]
    left, total = float(program.upper[0]), 0.0
    for worth, price in sorted(steps, key=lambda step: -step[0] / step[1]):
        part = min(1.0, left / price)
        total, left = total + part * worth, left - part * price
        if left <= 0:
            break
    return total


@pytest.mark.parametrize("seed", range(6))
def test_one_row_is_the_greedy_of_the_multiple_choice_knapsack(seed: int) -> None:
    program = one_row(seed, 200, 0.1 + 0.13 * seed)
    answer = solve(program, engine="newton", vertex=True, gap=1e-11, threads=1)
    assert answer.value == pytest.approx(greedy(program), rel=1e-12)
    assert answer.bound == pytest.approx(answer.value, rel=1e-11)


def test_a_price_never_rises_when_its_budget_grows() -> None:
    prices = [
        solve(one_row(3, 300, share), engine="newton", vertex=True, gap=1e-10, threads=1).prices[0]
        for share in (0.05, 0.1, 0.2, 0.4, 0.8, 1.2)
    ]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > prices[-1] == 0


def test_any_number_of_threads_and_any_cut_into_parts_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arranged, "BLOCK", 512)
    program = world(11, members=6000, offers=6, lower=0.3)
    cuts = [(0, 1024), (1024, 3584), (3584, 6000)]
    parts = Partitioned([lambda cut=cut: program.take(np.arange(*cut)) for cut in cuts])
    one, three, streamed = solve(program, threads=1), solve(program, threads=3), solve(parts, threads=2)
    for other in (three, streamed):
        assert one.prices.tobytes() == other.prices.tobytes()
        assert one.choice.tobytes() == other.choice.tobytes()
        assert one.pairs.tobytes() == other.pairs.tobytes()
        assert one.shares.tobytes() == other.shares.tobytes()
        assert (one.value, one.bound, one.loads.tobytes()) == (other.value, other.bound, other.loads.tobytes())


@pytest.mark.parametrize("kind", [{"lower": 0.3}, {"lower": 0.6, "most": 2.0}])
def test_parts_reach_a_vertex_too(kind: dict[str, Any]) -> None:
    program = world(12, members=6000, offers=6, **kind)
    parts = Partitioned([lambda: program.take(np.arange(0, 2500)), lambda: program.take(np.arange(2500, 6000))])
    answer = solve(parts, vertex=True, threads=1)
    holds(program, answer)
    assert parted(program, answer) <= program.K


def test_float32_data_give_the_answer_of_the_same_numbers_in_float64() -> None:
    program = world(13, members=6000, offers=6, lower=0.3)

    def as_(kind: Any) -> Program:
        weights = {
            id(f.weight): f.weight.astype(np.float32).astype(kind) for f in program.families if f.weight is not None
        }
        families = tuple(
            replace(f, weight=None if f.weight is None else weights[id(f.weight)]) for f in program.families
        )
        return replace(program, value=program.value.astype(np.float32).astype(kind), families=families)

    single, double = (solve(as_(kind), gap=1e-6, threads=1) for kind in (np.float32, np.float64))
    assert single.gap <= 1e-6
    assert single.value == pytest.approx(double.value, rel=1e-9)
    assert single.prices == pytest.approx(double.prices, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_warm_start_after_small_changes_takes_few_passes(seed: int) -> None:
    program = world(14 + seed, members=20_000, offers=6, lower=0.3, tight=0.3)
    before = solve(program, threads=1)
    random = np.random.default_rng(seed)
    value = program.value * np.where(random.random(program.E) < 0.01, random.uniform(0.8, 1.2, program.E), 1)
    changed = bounded(replace(program, value=value), 0.98 * program.lower, 1.02 * program.upper)
    told: list[tuple[int, float]] = []
    after = solve(changed, prices=before.prices, threads=1, tell=lambda number, gap: told.append((number, gap)))
    holds(changed, after)
    assert after.gap <= 1e-4
    assert after.passes <= 5
    assert [number for number, _ in told] == list(range(1, after.passes + 1))


@pytest.mark.parametrize("seed", range(10))
def test_rows_that_cannot_hold_are_refused_with_their_conflict(seed: int) -> None:
    program = impossible(seed, members=1500, offers=4, lower=0.5)
    engines = []
    for engine in ("newton", "highs"):
        try:
            holds(program, solve(program, engine=engine, threads=1))  # type: ignore[arg-type]
            engines.append("possible")
        except Infeasible as refusal:
            conflict = refusal.conflict
            assert conflict.needed > conflict.available
            assert set(conflict.rows) <= set(program.names)
            engines.append("impossible")
    assert engines[0] == engines[1]


def test_parts_that_cannot_hold_the_rows_prove_it_too() -> None:
    program = world(30, members=6000, offers=4, lower=0.0)
    lower, upper = program.lower.copy(), program.upper.copy()
    lower[4], upper[4] = 5000.0, np.inf
    broken = bounded(program, lower, upper)
    parts = Partitioned([lambda: broken.take(np.arange(0, 2500)), lambda: broken.take(np.arange(2500, 6000))])
    with pytest.raises(Infeasible, match="volume/c") as refusal:
        solve(parts, threads=1)
    conflict = refusal.value.conflict
    assert conflict.needed > conflict.available
    assert gap_of_ray(broken, conflict.ray)[:2] == pytest.approx((conflict.needed, conflict.available))


def test_what_nobody_may_use_is_closed_with_a_price_that_says_so() -> None:
    program = world(20, members=6000, offers=6, lower=0.0)
    upper = program.upper.copy()
    upper[[0, 3]] = 0.0
    closed = bounded(program, np.full(program.K, -np.inf), upper)
    answer = solve(closed, threads=1)
    holds(closed, answer)
    assert answer.loads[0] == answer.loads[3] == 0.0
    assert np.isfinite(answer.prices).all()
    # nothing at all may be spent, and every pair costs something
    assert answer.value == answer.bound == answer.gap == 0.0


@pytest.mark.parametrize("engine", ["newton", "highs"])
@pytest.mark.parametrize("worth", [0.0, -1.0])
def test_when_nothing_is_worth_sending_nothing_is_sent(engine: Any, worth: float) -> None:
    program = world(21, members=2000, offers=4, lower=0.0)
    answer = solve(replace(program, value=np.full(program.E, worth)), engine=engine, threads=1)
    assert answer.value == answer.bound == answer.gap == 0.0
    assert not answer.prices.any()


@pytest.mark.parametrize("engine", ["newton", "highs"])
def test_members_without_pairs_and_programs_without_rows_are_no_trouble(engine: Any) -> None:
    program = world(22, members=2000, offers=4, density=0.2)
    assert (np.diff(program.start) == 0).any()
    holds(program, solve(program, engine=engine, threads=1))
    free = replace(program, families=())
    answer = solve(free, engine=engine, threads=1, gap=1e-6)
    tops = [program.value[a:b].max(initial=0) for a, b in zip(program.start, program.start[1:], strict=False)]
    assert answer.value == pytest.approx(sum(tops), rel=1e-6)
    nobody = program.take(np.zeros(0, int))
    unbounded = np.full(program.K, np.inf)
    assert solve(bounded(nobody, -unbounded, unbounded), engine=engine).value == 0


def test_mass_ties_are_shared_and_not_all_or_nothing() -> None:
    members = 8000
    program = Program(
        start=np.arange(members + 1, dtype=np.int64),
        offer=np.zeros(members, np.int16),
        value=np.ones(members),
        offers=("mail",),
        families=(Family(name="volume", rows=("volume",), lower=np.array([-np.inf]), upper=np.array([1234.5])),),
    )
    answer = solve(program, threads=1)
    holds(program, answer)
    assert answer.value == pytest.approx(1234.5, rel=1e-4)
    vertex = solve(program, vertex=True, threads=1)
    assert vertex.value == pytest.approx(1234.5, rel=1e-9)
    assert parted(program, vertex) == 1


def test_small_programs_go_to_highs_and_the_answer_says_so() -> None:
    assert solve(world(23, members=500)).engine == "highs"
    assert solve(world(23, members=5000)).engine == "newton"


def test_what_cannot_be_solved_for_is_refused() -> None:
    program = world(24, members=50)
    with pytest.raises(InputError, match="finite numbers, one for each row"):
        solve(program, prices=np.zeros(3))
    with pytest.raises(InputError, match="gap must be above zero"):
        solve(program, gap=0.0)
    with pytest.raises(InputError, match="engine must be 'auto', 'newton' or 'highs', got 'simplex'"):
        solve(program, engine="simplex")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threads must be at least 0, got -1"):
        solve(program, threads=-1)
    with pytest.raises(InputError, match="HiGHS holds no program in parts"):
        solve(Partitioned([lambda: program]), engine="highs")
    broken = program.value.copy()
    broken[3] = np.inf
    with pytest.raises(InputError, match="value of member"):
        solve(replace(program, value=broken))


@pytest.mark.parametrize("engine", ["newton", "highs"])
@pytest.mark.parametrize("far", [1e9, 1e15])
@pytest.mark.parametrize("seed", range(4))
def test_a_bound_that_is_far_off_is_as_good_as_none(seed: int, far: float, engine: Any) -> None:
    program = world(seed, members=1800, offers=5, lower=0.7, tight=0.2, negative=seed % 2 == 0)
    plain = solve(program, engine=engine, gap=1e-6, threads=1)
    upper = np.where(np.isfinite(program.upper), program.upper, far)
    lower = np.where(np.isfinite(program.lower), program.lower, -far)
    bounds_far = bounded(program, lower, upper)
    answer = solve(bounds_far, engine=engine, gap=1e-6, threads=1)
    holds(bounds_far, answer)
    assert (answer.loads >= program.lower - 1e-8 * np.abs(program.lower)).all()
    assert answer.value == pytest.approx(plain.value, rel=3e-6)


@pytest.mark.parametrize("warm", [False, True])
def test_a_lower_bound_of_nothing_costs_no_passes(warm: bool) -> None:
    # channels without offers have the load zero, and a lower bound of zero that no load can be below
    program = world(11, members=12_000, offers=6, lower=0.6, most=2.0)
    idle = (program.lower == 0) & (program.loads(np.ones(program.E)) == 0)
    assert idle.any()
    answer = solve(program, threads=1)
    if warm:
        answer = solve(program, prices=answer.prices, threads=1)
    holds(program, answer)
    assert answer.gap <= 1e-4
    assert answer.passes <= 4


def test_when_a_row_asks_for_all_that_there_is_steps_that_grew_stay_long() -> None:
    program = world(3, members=6000, offers=6, lower=0.0, tight=0.3)
    upper, lower = np.full(program.K, np.inf), program.lower.copy()
    upper[0] = program.upper[0]
    lower[2] = reach(program)[1][2]
    everybody = bounded(program, lower, upper)
    answer = solve(everybody, threads=1)
    holds(everybody, answer)
    assert answer.gap <= 1e-4
    assert answer.passes <= 12


@pytest.mark.parametrize("engine", ["newton", "highs"])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_left_of_a_bound_when_nothing_may_be_sent(seed: int, engine: Any) -> None:
    program = world(seed, members=30, offers=3, density=1.1, lower=0.0, most=1.0 + seed % 2)
    upper = program.upper.copy()
    upper[0] = 0.0
    closed = bounded(program, np.full(program.K, -np.inf), upper)
    answer = solve(closed, engine=engine, threads=1)
    assert answer.value == answer.bound == answer.gap == 0.0
    assert dual_bound(closed, answer.prices) == 0.0


@pytest.mark.parametrize("which", ["all", "weights", "one weight", "not side by side"])
def test_arrays_that_may_not_be_written_to_or_have_gaps_give_the_same_bits(which: str) -> None:
    program = world(5, members=2000, offers=5)
    plain = solve(program, engine="newton", threads=1)

    def other(array: np.ndarray) -> np.ndarray:
        if which == "not side by side":
            return np.stack([array, array], axis=1)[:, 0]
        array = array.copy()
        array.flags.writeable = False
        return array

    weights: dict[int, np.ndarray] = {}
    for family in program.families:
        if family.weight is not None and not (weights and which == "one weight"):
            weights.setdefault(id(family.weight), other(family.weight))
    families = tuple(
        replace(family, weight=None if family.weight is None else weights.get(id(family.weight), family.weight))
        for family in program.families
    )
    changed = replace(program, families=families)
    if which in ("all", "not side by side"):
        changed = replace(changed, **{name: other(getattr(program, name)) for name in ("start", "offer", "value")})
    answer = solve(changed, engine="newton", threads=1)
    assert answer.prices.tobytes() == plain.prices.tobytes()
    assert answer.shares.tobytes() == plain.shares.tobytes()
    assert solve(changed, engine="highs").value == solve(program, engine="highs").value


def test_more_offers_than_sixteen_bits_can_number_are_solved() -> None:
    members, offers = 6000, 40_000
    offer = (5 * np.repeat(np.arange(members), 4) + np.tile(np.arange(4), members)) % offers + 9_999
    volume = Family(
        name="volume",
        rows=("even", "odd"),
        lower=np.full(2, -np.inf),
        upper=np.array([500.0, 700.0]),
        offers=np.arange(offers) % 2,
    )
    program = Program(
        start=4 * np.arange(members + 1),
        offer=offer.astype(np.int32),
        value=np.random.default_rng(0).random(4 * members),
        offers=tuple(map(str, range(offers))),
        families=(volume,),
    )
    answer = solve(program, threads=1)
    holds(program, answer)
    assert answer.gap <= 1e-4
    assert offer.max() > 2**15
    assert answer.loads == pytest.approx([500, 700], rel=1e-3)
