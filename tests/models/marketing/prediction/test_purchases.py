"""BG/NBD and Gamma-Gamma against the formulae as they are printed, integrals, and customers drawn from the model."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import beta as beta_function
from scipy.special import gammaln, hyp2f1

from models.common.contracts import InputError
from models.marketing.prediction.purchases import (
    Histories,
    Purchases,
    Spending,
    features,
    fit_purchases,
    fit_spending,
    histories,
    mean_when_alive,
    purchase_loglikelihood,
    spending_loglikelihood,
)

Floats = NDArray[np.float64]


def _drawn(model: Purchases, age: Floats, seed: int) -> tuple[Floats, Floats, Floats]:
    """Customers of the model: repeats, recency, age."""
    random = np.random.default_rng(seed)
    repeats, recency = np.zeros(len(age)), np.zeros(len(age))
    rate = random.gamma(model.r, 1 / model.alpha, len(age))
    gone = random.beta(model.a, model.b, len(age))
    now, alive = np.zeros(len(age)), np.ones(len(age), bool)
    while alive.any():
        now[alive] += random.exponential(1 / np.maximum(rate[alive], 1e-300))
        alive &= now <= age
        repeats[alive] += 1
        recency[alive] = now[alive]
        alive &= random.random(len(age)) >= gone
    return repeats, recency, age


TRUE = Purchases(r=0.25, alpha=4.5, a=0.8, b=2.5)


def _printed(model: Purchases, x: float, t: float, age: float) -> float:
    """The likelihood of one customer, as Fader, Hardie & Lee 2005 print it in equation 6."""
    r, alpha, a, b = model.r, model.alpha, model.a, model.b
    alive = (
        beta_function(a, b + x) / beta_function(a, b)
        * math.gamma(r + x) * alpha**r / (math.gamma(r) * (alpha + age) ** (r + x))
    )  # fmt: skip
    if x == 0:
        return float(alive)
    return float(alive) + float(
        beta_function(a + 1, b + x - 1) / beta_function(a, b)
        * math.gamma(r + x) * alpha**r / (math.gamma(r) * (alpha + t) ** (r + x))
    )  # fmt: skip


@pytest.mark.parametrize("x, t, age", [(0, 0, 38.9), (1, 3.0, 3.0), (2, 30.43, 38.86), (11, 20.0, 27.5)])
def test_the_likelihood_is_the_printed_one(x: float, t: float, age: float) -> None:
    parameters = np.log([TRUE.r, TRUE.alpha, TRUE.a, TRUE.b])
    repeats, recency, ages = (np.array([part], np.float64) for part in (x, t, age))
    value, _, _ = purchase_loglikelihood(parameters, repeats, recency, ages, np.ones(1), np.zeros((1, 0)))
    assert value == pytest.approx(math.log(_printed(TRUE, x, t, age)), rel=1e-12)


def _steps(function, at: Floats) -> tuple[Floats, Floats]:  # type: ignore[no-untyped-def]
    """Gradient and Hessian by central differences."""
    size, step = len(at), 1e-5
    ends = [(function(at + step * unit), function(at - step * unit)) for unit in np.eye(size)]
    gradient = np.array([(up[0] - down[0]) / (2 * step) for up, down in ends])
    return gradient, np.array([(up[1] - down[1]) / (2 * step) for up, down in ends])


def test_derivatives_of_purchases_are_those_of_small_steps() -> None:
    random = np.random.default_rng(3)
    x, t, age = _drawn(TRUE, random.uniform(1, 50, 300), 4)
    weight, told = random.uniform(0.5, 2, 300), random.normal(size=(300, 2))
    at = np.array([-1.2, 1.4, -0.3, 0.8, 0.3, -0.2])

    def function(now: Floats) -> tuple[float, Floats, Floats]:
        return purchase_loglikelihood(now, x, t, age, weight, told)

    _, gradient, hessian = function(at)
    by_steps, bend = _steps(function, at)
    np.testing.assert_allclose(gradient, by_steps, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(hessian, bend, rtol=1e-6, atol=1e-5)


def test_derivatives_of_spending_are_those_of_small_steps() -> None:
    random = np.random.default_rng(5)
    x, mean, weight = random.integers(1, 9, 200).astype(float), random.gamma(2, 20, 200), random.uniform(0.5, 2, 200)

    def function(now: Floats) -> tuple[float, Floats, Floats]:
        return spending_loglikelihood(now, x, mean, weight)

    at = np.array([0.9, 1.1, 2.3])
    value, gradient, hessian = function(at)
    by_steps, bend = _steps(function, at)
    np.testing.assert_allclose(gradient, by_steps, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(hessian, bend, rtol=1e-6, atol=1e-5)
    p, q, v = np.exp(at)
    printed = (
        gammaln(p * x + q) - gammaln(p * x) - gammaln(q) + q * np.log(v)
        + (p * x - 1) * np.log(mean) + p * x * np.log(x) - (p * x + q) * np.log(x * mean + v)
    )  # fmt: skip
    assert value == pytest.approx(float(weight @ printed), rel=1e-12)


def test_a_fit_finds_the_model_that_drew_the_customers() -> None:
    model = fit_purchases(*_drawn(TRUE, np.random.default_rng(0).uniform(10, 60, 40_000), 1))
    found = np.log([model.r, model.alpha, model.a, model.b])
    true = np.log([TRUE.r, TRUE.alpha, TRUE.a, TRUE.b])
    assert np.all(np.abs(found - true) < 4 * model.error)
    assert np.all(model.error < 0.15)


def test_a_fit_does_not_depend_on_the_unit_of_time_or_on_how_customers_are_grouped() -> None:
    x, t, age = _drawn(TRUE, np.ceil(np.random.default_rng(0).uniform(10, 60, 3000)), 2)
    t = np.where(x > 0, np.maximum(np.floor(t), 1), 0)
    weeks, days = fit_purchases(x, t, age), fit_purchases(x, 7 * t, 7 * age)
    assert days.alpha == pytest.approx(7 * weeks.alpha, rel=1e-6)
    assert (days.r, days.a, days.b) == pytest.approx((weeks.r, weeks.a, weeks.b), rel=1e-6)
    kinds, count = np.unique(np.stack([x, t, age]), axis=1, return_counts=True)
    grouped = fit_purchases(*kinds, weight=count)
    assert grouped.loglikelihood == pytest.approx(weeks.loglikelihood, rel=1e-12)
    assert (grouped.r, grouped.alpha) == pytest.approx((weeks.r, weeks.alpha), rel=1e-7)


def test_a_fit_converges_without_a_penalty_at_ages_of_about_500() -> None:
    """The shape of the case in which public fits give up: ages to 500 and few who ever buy again."""
    few = Purchases(r=0.06, alpha=60.0, a=0.4, b=1.2)
    x, t, age = _drawn(few, np.random.default_rng(7).integers(1, 501, 60_000).astype(float), 8)
    t = np.where(x > 0, np.maximum(np.ceil(t), 1), 0)
    model = fit_purchases(x, np.minimum(t, age), age)
    found, true = np.log([model.r, model.alpha, model.a, model.b]), np.log([few.r, few.alpha, few.a, few.b])
    assert np.all(np.abs(found - true) < 5 * model.error + 0.05)  # whole days move the truth a little


def test_covariates_move_the_rate_by_what_drew_it() -> None:
    random = np.random.default_rng(11)
    told = random.normal(size=(20_000, 2)) * [1.0, 30.0]
    effect = np.array([0.5, -0.01])
    parts = [_drawn(replace(TRUE, alpha=TRUE.alpha * float(np.exp(-row @ effect))), np.array([40.0]), number)
             for number, row in enumerate(told[:4000])]  # fmt: skip
    x, t, age = (np.concatenate(part) for part in zip(*parts, strict=True))
    model = fit_purchases(x, t, age, covariates=told[:4000])
    assert np.all(np.abs(model.gamma - effect) < 4 * model.error[4:])
    more = model.expected(np.zeros(2), np.zeros(2), np.ones(2), np.array([10.0]), np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert more[1, 0] > more[0, 0]
    with pytest.raises(InputError, match="covariates must be"):
        model.expected(np.zeros(2), np.zeros(2), np.ones(2), np.array([10.0]))


def test_a_slowing_clock_is_found_and_is_more_likely() -> None:
    power = 0.7
    random = np.random.default_rng(13)
    age = random.uniform(20, 60, 8000)
    rate, gone = random.gamma(0.5, 1 / 3.0, 8000), random.beta(0.6, 3.0, 8000)
    logs, x, t = np.zeros(8000), np.zeros(8000), np.zeros(8000)
    for customer in range(8000):  # purchases at the clock's times, turned back into days
        now = 0.0
        while True:
            now += random.exponential(1 / max(rate[customer], 1e-300))
            if now > age[customer] ** power:
                break
            x[customer] += 1
            t[customer] = now ** (1 / power)
            logs[customer] += math.log(t[customer])
            if random.random() < gone[customer]:
                break
    slow, plain = fit_purchases(x, t, age, log_days=logs), fit_purchases(x, t, age)
    assert slow.power == pytest.approx(power, abs=0.03)
    assert slow.loglikelihood > plain.loglikelihood + 20
    assert slow.alpha == pytest.approx(3.0, rel=0.2)


@pytest.mark.parametrize("a", [0.05, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("x", [0, 1, 30])
@pytest.mark.parametrize("ratio", [0.01, 1.0, 50.0])
def test_the_mean_over_the_chance_to_be_gone_is_its_integral(a: float, x: int, ratio: float) -> None:
    shape, b = 0.25 + x, 2.0 + x
    scale = 1 / beta_function(a, b)

    def inside(power: float) -> float:  # P = power^(1/a) takes the pole of the Beta at 0 away
        p = power ** (1 / a)
        curve = shape * ratio if p < 1e-280 else -math.expm1(-shape * math.log1p(p * ratio)) / p
        return float(scale) / a * curve * math.exp((b - 1) * math.log1p(-min(p, 1 - 1e-16)))

    value, _ = quad(inside, 0, 1, epsabs=0, epsrel=1e-11, limit=500, points=[1e-6, 1e-3])
    found = mean_when_alive(np.array([shape]), np.array([[ratio]]), a, np.array([b]))[0, 0]
    assert found == pytest.approx(value, rel=1e-8)


@given(
    r=st.floats(0.05, 3), a=st.floats(1.2, 4), b=st.floats(0.3, 5), x=st.integers(0, 12), ratio=st.floats(0.01, 3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_expected_purchases_are_the_printed_hypergeometric_ones(
    r: float, a: float, b: float, x: int, ratio: float
) -> None:
    # equation 10 with alpha + T = 1, for a customer who is alive
    z = ratio / (1 + ratio)
    printed = (a + b + x - 1) / (a - 1) * (1 - (1 - z) ** (r + x) * hyp2f1(r + x, b + x, a + b + x - 1, z))
    found = mean_when_alive(np.array([r + x]), np.array([[ratio]]), a, np.array([b + x]))[0, 0]
    assert found == pytest.approx(printed, rel=1e-7)


def test_expected_purchases_stay_sound_where_the_printed_form_breaks() -> None:
    model = Purchases(r=0.3, alpha=10.0, a=1.0, b=2.0)  # a - 1 is 0
    x, t, age = np.array([0.0, 500.0, 20_000.0]), np.array([0.0, 90.0, 99.0]), np.full(3, 100.0)
    found = model.expected(x, t, age, np.array([0.0, 1.0, 10.0, 1e4]))
    assert np.all(np.isfinite(found)) and np.all(found[:, 0] == 0)
    assert np.all(np.diff(found, axis=1) > 0)
    near = replace(model, a=1 + 1e-7).expected(x, t, age, np.array([10.0]))
    np.testing.assert_allclose(found[:, 2:3], near, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e9, 1e12])
def test_customers_who_all_leave_with_one_chance_are_the_limit_of_large_parameters(scale: float) -> None:
    """Differences of Gamma functions lose every digit here; sums do not, and a search does not run after noise."""
    chance, x, t, age = 0.2, np.array([0.0, 1.0, 6.0]), np.array([0.0, 3.0, 15.0]), np.full(3, 20.0)
    model = Purchases(r=0.5, alpha=4.0, a=scale * chance, b=scale * (1 - chance))
    shape = model.r + x
    bought = gammaln(shape) - gammaln(model.r) + model.r * np.log(model.alpha) + x * np.log1p(-chance)
    alive = -shape * np.log(model.alpha + age)
    gone = np.where(x > 0, np.log(chance / (1 - chance)) - shape * np.log(model.alpha + t), -np.inf)
    value, slope, _ = purchase_loglikelihood(
        np.log([model.r, model.alpha, model.a, model.b]), x, t, age, np.ones(3), np.zeros((3, 0))
    )
    assert value == pytest.approx(float((bought + np.logaddexp(alive, gone)).sum()), rel=20 / scale + 1e-12)
    assert abs(slope[2] + slope[3]) < 100 / scale + 1e-9  # both together change nothing
    ahead = model.expected(x, t, age, np.array([10.0]))[:, 0]
    limit = model.alive(x, t, age) * (1 - (1 + chance * 10 / 24) ** -shape) / chance
    np.testing.assert_allclose(ahead, limit, rtol=20 / scale + 1e-9)


def test_expected_purchases_are_what_customers_of_the_model_go_on_to_do() -> None:
    model = Purchases(r=0.6, alpha=5.0, a=0.7, b=2.0)
    age, ahead, size = 20.0, 15.0, 200_000
    random = np.random.default_rng(17)
    rate, gone = random.gamma(model.r, 1 / model.alpha, size), random.beta(model.a, model.b, size)
    now, alive = np.zeros(size), np.ones(size, bool)
    x, t, future = np.zeros(size), np.zeros(size), np.zeros(size)
    while alive.any():
        now[alive] += random.exponential(1 / np.maximum(rate[alive], 1e-300))
        alive &= now <= age + ahead
        early = alive & (now <= age)
        x[early] += 1
        t[early] = now[early]
        future[alive & ~early] += 1
        alive &= random.random(size) >= gone
    said = model.expected(x, t, np.full(size, age), np.array([ahead]))[:, 0]
    for low, high in ((0, 0), (1, 1), (2, 4), (5, 99)):
        some = (x >= low) & (x <= high)
        error = future[some].std() / math.sqrt(some.sum())
        assert abs(future[some].mean() - said[some].mean()) < 4 * error


def test_spending_finds_the_model_that_drew_it_and_shrinks_towards_all() -> None:
    random = np.random.default_rng(19)
    p, q, v = 6.0, 4.0, 15.0
    x = random.integers(1, 7, 20_000)
    mean = random.gamma(p * x, 1 / (random.gamma(q, 1 / v, 20_000) * x))
    model = fit_spending(x, mean)
    assert np.all(np.abs(np.log([model.p, model.q, model.v]) - np.log([p, q, v])) < 4 * model.error)
    everyone = model.p * model.v / (model.q - 1)
    once, often = model.expected(np.array([1.0, 50.0]), np.array([100.0, 100.0]))
    assert everyone < once < often < 100
    assert model.expected(np.zeros(1), np.zeros(1))[0] == pytest.approx(everyone)


def test_purchases_of_a_day_are_one_and_later_ones_are_left_out() -> None:
    customer = np.array(["b", "a", "a", "a", "b", "a", "c"])
    day = np.array([3, 1, 1, 5, 3, 9, 8])
    spend = np.array([2.0, 10.0, 5.0, 7.0, 4.0, 100.0, 1.0])
    known = histories(customer, day, spend, end=7)
    assert list(known.customer) == ["a", "b"]
    np.testing.assert_array_equal(known.repeats, [1, 0])
    np.testing.assert_array_equal(known.recency, [4, 0])
    np.testing.assert_array_equal(known.age, [6, 4])
    np.testing.assert_array_equal(known.first, [15, 6])
    np.testing.assert_array_equal(known.spend, [7, 0])
    np.testing.assert_allclose(known.mean, [11, 6])
    np.testing.assert_allclose(known.log_days, [math.log(4), 0])


def test_features_have_no_unit_of_time() -> None:
    x, t, age = _drawn(TRUE, np.ceil(np.random.default_rng(0).uniform(10, 60, 500)), 2)
    random = np.random.default_rng(1)
    first, spend = random.gamma(2, 10, 500), np.where(x > 0, random.gamma(2, 10, 500), 0)
    spending = Spending(p=6.0, q=4.0, v=15.0, error=np.zeros(3))

    def told(scale: float) -> Floats:
        known = Histories(customer=np.arange(500), repeats=x, recency=t * scale, age=age * scale, first=first,
                          spend=spend, log_days=np.zeros(500))  # fmt: skip
        model = replace(TRUE, alpha=TRUE.alpha * scale)
        return features(known, model, spending, unit=float(known.age.mean()))

    np.testing.assert_allclose(told(1.0)[:, :8], told(7.0)[:, :8], rtol=1e-9)
    assert told(1.0).shape == (500, 9)


@pytest.mark.parametrize(
    "x, t, age, word",
    [
        ([1.5], [1.0], [2.0], "whole number"),
        ([1.0], [3.0], [2.0], "at least recency"),
        ([0.0], [1.0], [2.0], "0 without a repeat"),
        ([1.0], [0.0], [2.0], "above 0 with a repeat"),
        ([np.nan], [1.0], [2.0], "whole number"),
        ([0.0], [0.0], [2.0], "nobody bought again"),
    ],
)
def test_histories_that_cannot_be_are_refused_by_name(
    x: list[float], t: list[float], age: list[float], word: str
) -> None:
    with pytest.raises(InputError, match=word):
        fit_purchases(np.array(x), np.array(t), np.array(age))


def test_customers_who_are_all_alike_get_the_limit_and_errors_that_say_so() -> None:
    model = fit_purchases(np.full(50, 3.0), np.full(50, 6.0), np.full(50, 6.0))
    ahead = model.expected(np.array([3.0]), np.array([6.0]), np.array([6.0]), np.array([6.0, 12.0]))
    np.testing.assert_allclose(ahead, [[3.0, 6.0]], rtol=1e-3)
    assert model.error.max() > 10
    gone = fit_purchases(np.ones(50), np.full(50, 0.1), np.full(50, 100.0))
    assert gone.expected(np.ones(1), np.array([0.1]), np.array([100.0]), np.array([100.0]))[0, 0] < 1e-6
    assert gone.error.max() > 10


def test_spends_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"spend of purchase 1 .*refunds"):
        histories(np.array([1, 2]), np.array([1, 2]), np.array([1.0, -2.0]), end=9)
    with pytest.raises(InputError, match="no purchase lies on or before"):
        histories(np.array([1]), np.array([10]), np.array([1.0]), end=9)
    with pytest.raises(InputError, match="two customers"):
        fit_spending(np.array([1.0]), np.array([2.0]))
    with pytest.raises(InputError, match="mean of customer 1"):
        fit_spending(np.array([1.0, 1.0]), np.array([2.0, np.inf]))
    with pytest.raises(InputError, match="no bound"):
        Spending(p=1.0, q=0.9, v=1.0, error=np.zeros(3)).expected(np.zeros(1), np.zeros(1))
    with pytest.raises(InputError, match="horizons"):
        TRUE.expected(np.zeros(1), np.zeros(1), np.ones(1), np.array([-1.0]))


@pytest.mark.parametrize(
    ("customer", "day", "told"),
    [
        (["a", "a"], [1.5, 3.0], "day of purchase 0 is 1.5; it must be a whole number"),
        (["a", "a"], [1.0, np.nan], "day of purchase 1 is nan"),
        (["a", None], [1, 3], "customer of purchase 1 is missing"),
        ([1.0, np.nan], [1, 3], "customer of purchase 1 is missing"),
    ],
)
def test_purchases_without_a_customer_or_a_whole_day_are_refused(customer: list, day: list, told: str) -> None:
    with pytest.raises(InputError, match=told):
        histories(np.array(customer), np.array(day), np.ones(2), end=9)


def test_the_chance_to_be_alive_checks_its_histories_too() -> None:
    model = Purchases(r=0.5, alpha=3.0, a=0.7, b=2.0)
    with pytest.raises(InputError, match="age of customer 0 must be at least recency"):
        model.alive(np.ones(1), np.full(1, 5.0), np.full(1, 3.0))
