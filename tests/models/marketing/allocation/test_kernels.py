import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.marketing.allocation import kernels, newton, soundness
from models.marketing.allocation.arranged import Arranged, Members, Reading, reading, workers
from models.marketing.allocation.prices import dual_bound, net_values, rows_worth
from models.marketing.allocation.program import Program
from tests.models.marketing.allocation.worlds import world

FAR = 36.0
KINDS = (1.0, 0.5, 2.0, 1.5, "mixed")


def read(program: Program, prices: np.ndarray, temperature: float, far: float = FAR) -> Reading:
    return reading(Arranged(program), prices, temperature, far)


def some(kind: Any, seed: int = 0) -> tuple[Program, np.ndarray]:
    program = world(seed, members=47, offers=5, most=kind, negative=True)
    return program, np.random.default_rng(seed).normal(0, 0.3, program.K)


def plain(program: Program, prices: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
    """The smoothed part and the shares as the module's formulas say, a member at a time."""
    net, x, total = net_values(program, prices, 0, program.N), np.zeros(program.E), 0.0
    for u in range(program.N):
        pairs = slice(program.start[u], program.start[u + 1])
        s, most = net[pairs] / temperature, float(program.most_of(np.array([u]))[0])
        if most == 0 or not len(s):
            continue
        if most <= 1:
            z = 1 + np.exp(s).sum()
            x[pairs] = most * np.exp(s) / z
            total += most * temperature * math.log(z)
            continue
        most = min(most, len(s))
        low, high = 0.0, max(s.max(), 0) + 50
        if (1 / (1 + np.exp(-s))).sum() <= most:
            high = 0.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if (1 / (1 + np.exp(middle - s))).sum() > most else (low, middle)
        x[pairs] = 1 / (1 + np.exp(low - s))
        total += temperature * (np.log1p(np.exp(s - low)).sum() + most * low)
    return total, x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_bound_and_loads_are_the_written_formulas(kind: Any, temperature: float) -> None:
    program, prices = some(kind)
    found = read(program, prices, temperature)
    smooth, x = plain(program, prices, temperature)
    scale = np.abs(program.loads(x)).max()
    assert found.smooth == pytest.approx(smooth, rel=1e-11)
    assert found.worth == pytest.approx(float(x @ program.value), rel=1e-11)
    assert found.load == pytest.approx(program.loads(x), abs=1e-11 * scale)
    finite = (
        np.where(np.isfinite(program.lower), program.lower, -1e9),
        np.where(np.isfinite(program.upper), program.upper, 1e9),
    )
    free = replace_bounds(program, *finite)
    assert found.exact == pytest.approx(dual_bound(free, prices) - rows_worth(free, prices), rel=1e-9)


def replace_bounds(program: Program, lower: np.ndarray, upper: np.ndarray) -> Program:
    families = tuple(
        replace(family, lower=lower[k : k + len(family.rows)], upper=upper[k : k + len(family.rows)])
        for family, k in zip(program.families, program.first, strict=True)
    )
    return replace(program, families=families)


@pytest.mark.parametrize("kind", KINDS)
def test_loads_and_curvature_are_derivatives(kind: Any) -> None:
    program, prices = some(kind, 1)
    temperature, h = 0.3, 1e-5
    at = read(program, prices, temperature)
    for k in range(program.K):
        up, down = (read(program, prices + sign * h * np.eye(program.K)[k], temperature) for sign in (1, -1))
        assert (up.smooth - down.smooth) / (2 * h) == pytest.approx(-at.load[k], rel=1e-6, abs=1e-6)
        assert (down.load - up.load) / (2 * h) == pytest.approx(at.curve[k], rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothing_lies_above_the_exact_part_and_falls_with_the_temperature(kind: Any) -> None:
    program, prices = some(kind, 2)
    readings = [read(program, prices, temperature) for temperature in (1.0, 0.3, 0.03, 1e-6)]
    smooth = [reading.smooth for reading in readings]
    assert all(reading.smooth >= reading.exact for reading in readings)
    assert smooth == sorted(smooth, reverse=True)
    assert smooth[-1] == pytest.approx(readings[-1].exact, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_collected_shares_have_the_value_and_the_loads_of_the_reading(kind: Any) -> None:
    program, prices = some(kind, 3)
    with workers(1) as run:
        members = Members(program, run, FAR)
        all_ = members.read(prices, 0.1)
        found = members.collect(prices, 0.1, 1e-12)
    x = np.zeros(program.E)
    x[members.choice[members.choice >= 0]] = 1
    x[found.pairs] = found.shares
    member = np.repeat(np.arange(program.N), np.diff(program.start))
    assert (np.bincount(member, x, program.N) <= program.most_of(slice(0, program.N)) + 1e-12).all()
    assert found.value == pytest.approx(all_.worth, rel=1e-9)
    assert found.loads == pytest.approx(all_.load, rel=1e-8, abs=1e-8)
    assert found.value == pytest.approx(float(x @ program.value), rel=1e-12)
    assert members.measure(found.pairs, found.shares).loads == pytest.approx(program.loads(x), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_again_those_left_open_says_the_same_nearby(kind: Any) -> None:
    program, prices = some(kind, 4)
    with workers(1) as run:
        members = Members(program, run, 30.0)
        members.read(prices, 0.02)
        near = prices * (1 + 1e-4)
        again, all_ = members.again(near, 0.02), members.read(near, 0.02)
    assert again.smooth == pytest.approx(all_.smooth, rel=1e-9)
    assert again.load == pytest.approx(all_.load, rel=1e-7, abs=1e-7)
    assert again.curve == pytest.approx(all_.curve, rel=1e-5, abs=1e-5)


def test_dense_pairs_and_the_same_pairs_by_index_agree() -> None:
    program = world(6, members=61, offers=7, density=1.1)
    assert program.dense
    turned = program.take(np.arange(program.N))
    order = np.concatenate(
        [start + np.random.default_rng(u).permutation(7) for u, start in enumerate(program.start[:-1])]
    )
    weights = {id(f.weight): f.weight[order] for f in program.families if f.weight is not None}
    families = tuple(replace(f, weight=None if f.weight is None else weights[id(f.weight)]) for f in program.families)
    turned = replace(program, offer=program.offer[order], value=program.value[order], families=families)
    assert not turned.dense
    prices = np.random.default_rng(0).normal(0, 0.3, program.K)
    one, other = read(program, prices, 0.2), read(turned, prices, 0.2)
    assert one.smooth == pytest.approx(other.smooth, rel=1e-13)
    assert one.load == pytest.approx(other.load, rel=1e-12)
    assert one.curve == pytest.approx(other.curve, rel=1e-10, abs=1e-10)


def test_exponentials_are_exact_to_a_few_units_in_the_last_place() -> None:
    x = np.append(np.linspace(-36, 0, 9973), np.array([0.0, -1e-300, -0.3465]))
    expected = np.array([math.exp(value) for value in x])
    bits = np.empty(len(x), np.int64)
    kernels._exponentials(x, len(x), bits, bits.view(np.float64))
    assert np.abs(x / expected - 1).max() < 2e-15


@pytest.mark.parametrize("seed", range(20))
def test_a_step_minimises_the_model_with_its_kinks(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = int(random.integers(1, 9))
    factor = random.normal(0, 1, (rows, rows + 1))
    curve, load = factor @ factor.T + 0.05 * np.eye(rows), random.normal(1, 2, rows)
    lower = np.where(random.random(rows) < 0.5, 1 - random.random(rows), -np.inf)
    upper = np.where(random.random(rows) < 0.7, 1 + random.random(rows), np.inf)
    at = random.normal(0, 1, rows) * (random.random(rows) < 0.6)
    at = np.where((at > 0) & np.isinf(upper), 0, np.where((at < 0) & np.isinf(lower), 0, at))
    found = at + newton.step(at, load, curve, lower, upper)
    expected = load - curve @ (found - at)  # loads that the model expects after the step
    for k in range(rows):  # optimality of each price on its own: the problem is convex
        if found[k] > 0:
            assert expected[k] == pytest.approx(upper[k], abs=1e-8)
        elif found[k] < 0:
            assert expected[k] == pytest.approx(lower[k], abs=1e-8)
        else:
            assert lower[k] - 1e-8 <= expected[k] <= upper[k] + 1e-8


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numbers_that_are_not_finite_are_seen_wherever_they_are(kind: Any) -> None:
    numbers = np.random.default_rng(0).random(4099).astype(kind)
    assert soundness.least(numbers) == 0.0
    assert soundness.least(np.append(numbers, kind(-2))) == -2.0
    assert soundness.least(np.zeros(0, kind)) == 0.0
    for place in (0, 17, 2048, 4098):
        for wild in (np.nan, np.inf, -np.inf):
            broken = numbers.copy()
            broken[place] = wild
            assert math.isnan(soundness.least(broken))


@pytest.mark.parametrize("kind", KINDS)
def test_who_was_open_may_have_nothing_at_other_prices(kind: Any) -> None:
    # as after a warm start: a row is narrowed, its price rises, and no score of who was open is near to nothing
    program, prices = some(kind, 5)
    with workers(1) as run:
        members = Members(program, run, FAR)
        members.read(prices, 0.3)
        left = members.choice <= kernels.OPEN
        assert left.any()
        dear = prices + np.where(np.arange(program.K) == 0, 1e6, 0.0)
        found = members.collect(dear, 0.3, 1e-7)
    assert not len(found.pairs)
    assert (members.choice[left] == kernels.NOTHING).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numbers_whose_products_would_overflow_are_seen(kind: Any) -> None:
    largest = np.finfo(kind).max if kind is np.float32 else np.nextafter(soundness.LARGEST, 0)
    assert soundness.least(np.array([1.0, largest], kind)) == 0.0
    assert soundness.least(np.array([1.0, -largest], kind)) == -float(kind(largest))
    if kind is np.float64:
        assert math.isnan(soundness.least(np.array([1.0, soundness.LARGEST])))
        assert math.isnan(soundness.least(np.array([1.0, -soundness.LARGEST])))


def test_memory_is_seen_as_it_is_and_not_copied() -> None:
    array = np.arange(10.0)
    assert soundness.seen(array) is array
    array.flags.writeable = False
    view = soundness.seen(array)
    assert view.flags.writeable
    assert np.shares_memory(view, array)
    assert soundness.seen(array[::2]).tolist() == [0, 2, 4, 6, 8]
    empty = np.zeros(0)
    empty.flags.writeable = False
    assert soundness.seen(empty).size == 0
