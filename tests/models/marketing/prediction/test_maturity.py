"""Young members are counted as what they will be: rates without bias at any ages, the chain ladder, present values."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from models.common.contracts import InputError
from models.marketing.prediction.maturity import (
    Delays,
    discounted,
    fit_delays,
    matured_loss,
    matured_rate,
    matured_value,
    maturity_weights,
    survival,
)

Floats = NDArray[np.float64]


def _members(seed: int, size: int = 4000) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Ages, delays (99: never) and whether the conversion was seen; 9.5 % convert within 30 days."""
    random = np.random.default_rng(seed)
    age = np.ceil(random.uniform(0, 40, size))
    delay = np.where(random.random(size) < 0.1, np.ceil(random.exponential(10, size)), 99)
    return age, delay, (delay <= age) & (delay <= 30)


TRUE = 0.1 * (1 - np.exp(-3.0))


def test_the_delays_of_seen_conversions_are_found_without_the_bias_of_seeing_them() -> None:
    age, delay, seen = _members(0, 60_000)
    found = fit_delays(delay[seen], age[seen], horizon=30)
    true = (1 - np.exp(-np.array([5.0, 10.0, 20.0]) / 10)) / (1 - np.exp(-3.0))
    at = found(np.array([5.0, 10.0, 20.0]))
    error = found.error[np.searchsorted(found.delay, [5.0, 10.0, 20.0])] * at
    assert np.all(np.abs(at - true) < 4 * error)
    naive = (delay[seen] <= 10).mean()
    assert naive - true[1] > 0.05  # what counting alone would say
    assert found(np.array([0.5, 30.0, 99.0])) == pytest.approx([0, 1, 1])


def test_the_rate_of_young_members_is_that_of_old_ones_and_its_interval_covers_it() -> None:
    inside, rates, naive = 0, [], []
    for seed in range(200):
        age, delay, seen = _members(seed, 3000)
        delays = fit_delays(delay[seen], age[seen], horizon=30)
        old = age >= 5
        rate, low, high = matured_rate(seen[old], maturity_weights(age[old], delays, most=10))
        rates.append(rate)
        naive.append(seen.mean())
        inside += low < TRUE < high
    assert abs(np.mean(rates) - TRUE) < 4 * np.std(rates) / np.sqrt(200)
    assert np.mean(naive) < 0.9 * TRUE
    assert 175 <= inside <= 200  # below 175 of 200 has a chance of 2e-5 at 95 %


def test_the_weighted_loss_has_the_mean_of_the_loss_of_ripe_labels() -> None:
    age, delay, seen = _members(3, 200_000)
    delays = fit_delays(delay[seen], age[seen], horizon=30)
    old = age >= 5
    weight = maturity_weights(age[old], delays, most=10)
    chance = np.random.default_rng(0).uniform(0.02, 0.3, old.sum())
    young = matured_loss(-np.log(chance), -np.log(1 - chance), seen[old], weight)
    ripe = np.where(delay[old] <= 30, -np.log(chance), -np.log(1 - chance))
    assert young.mean() == pytest.approx(ripe.mean(), abs=5 * young.std() / np.sqrt(old.sum()))
    unripe = np.where(seen[old], -np.log(chance), -np.log(1 - chance))
    assert abs(unripe.mean() - ripe.mean()) > 10 * abs(young.mean() - ripe.mean())


def test_with_amounts_it_is_the_chain_ladder() -> None:
    # three cohorts aged 3, 2, 1; incremental revenue by age: the textbook triangle
    triangle = {3: [100.0, 50.0, 25.0], 2: [110.0, 60.0], 1: [120.0]}
    delay, age, amount = zip(*[(d + 1.0, float(a), v) for a, row in triangle.items() for d, v in enumerate(row)],
                             strict=True)  # fmt: skip
    found = fit_delays(np.array(delay), np.array(age), horizon=3, weight=np.array(amount))
    second, third = (150 + 170) / (100 + 110), 175 / 150
    np.testing.assert_allclose(found.come, [1 / (second * third), 1 / third, 1], rtol=1e-12)
    value = matured_value(np.array([170.0]), np.array([2.0]), found, np.array([200.0]))
    assert value[0] == pytest.approx(170 + (1 - 1 / third) * 200)


def test_survival_is_the_printed_product() -> None:
    time, ended = np.array([6.0, 6, 6, 6, 7, 9, 10, 10, 11, 13]), np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1])
    knots, stay, error = survival(time, ended)
    # Freireich's 6-MP arm up to 13 weeks, cut to ten patients, by hand
    np.testing.assert_array_equal(knots, [6, 7, 10, 13])
    np.testing.assert_allclose(stay, [0.7, 0.7 * 5 / 6, 0.7 * 5 / 6 * 3 / 4, 0.0], rtol=1e-12)
    assert error[0] == pytest.approx(0.7 * np.sqrt(3 / (10 * 7)))
    with pytest.raises(InputError, match="nothing happened"):
        survival(time, np.zeros(10))


def test_present_value_of_a_steady_stream_is_its_integral() -> None:
    horizons = np.arange(1.0, 1001.0)
    worth = discounted(horizons[None] * 2.0, horizons, rate=0.01)
    assert worth[0] == pytest.approx(2 * (1 - np.exp(-10)) / 0.01, rel=1e-4)
    assert discounted(horizons[None], horizons, rate=0.0)[0] == pytest.approx(1000)
    with pytest.raises(InputError, match="horizons must rise"):
        discounted(np.ones((1, 2)), np.array([2.0, 1.0]), rate=0.1)
    with pytest.raises(InputError, match="fall along a row"):
        discounted(np.array([[2.0, 1.0]]), np.array([1.0, 2.0]), rate=0.1)
    with pytest.raises(InputError, match="rate must be"):
        discounted(np.ones((1, 1)), np.ones(1), rate=-0.1)


def test_what_cannot_be_known_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="age of conversion 1 is 2"):
        fit_delays(np.array([1.0, 3.0]), np.array([2.0, 2.0]), horizon=2)
    with pytest.raises(InputError, match="nobody who converted is older"):
        fit_delays(np.array([1.0, 2.0]), np.array([2.0, 3.0]), horizon=9)
    with pytest.raises(InputError, match="no conversion came"):
        fit_delays(np.array([5.0]), np.array([9.0]), horizon=2)
    with pytest.raises(InputError, match="earlier delays have no estimate"):
        fit_delays(np.array([1.0, 5.0]), np.array([3.0, 9.0]), horizon=8)
    known = Delays(delay=np.array([1.0, 4.0]), come=np.array([0.05, 1.0]), error=np.zeros(2), horizon=4.0)
    with pytest.raises(InputError, match=r"member 1 is 2 old, when 0\.05"):
        maturity_weights(np.array([4.0, 2.0]), known, most=10)


@pytest.mark.parametrize("share", [0.002, 0.1, 0.6])
def test_rates_of_young_members_have_the_interval_that_is_said(share: float) -> None:
    rng, runs, size, missed = np.random.default_rng(21), 2000, 400, 0
    for _ in range(runs):
        weight = rng.uniform(1, 4, size)
        seen = (rng.random(size) < share) & (rng.random(size) < 1 / weight)
        _, low, high = matured_rate(seen, weight)
        missed += not low <= share <= high
    assert missed <= stats.binom(runs, 0.06).isf(1e-4)


def test_where_weights_are_one_the_interval_of_a_rate_is_wilsons() -> None:
    for count in (0, 1, 17, 40):
        theirs = stats.binomtest(count, 40).proportion_ci(method="wilson")
        found = matured_rate(np.arange(40) < count, np.ones(40))
        assert found == pytest.approx((count / 40, theirs.low, theirs.high), abs=1e-12)


def test_ages_and_rates_that_cannot_be_are_refused_by_member() -> None:
    delays = fit_delays(np.array([1, 2, 3, 5.0]), np.full(4, 9.0), horizon=8)
    with pytest.raises(InputError, match="age of member 1 is nan"):
        maturity_weights(np.array([9.0, np.nan]), delays, most=10)
    for seen, weight, told in (
        (np.ones(5), np.ones(4), r"got \(5,\), \(4,\)"),
        (np.ones(1), np.ones(1), "needs 2 members"),
        (np.full(3, 2), np.ones(3), "seen of member 0 is 2"),
        (np.ones(3), np.array([1, 1, 0.5]), "weight of member 2 is 0.5"),
    ):
        with pytest.raises(InputError, match=told):
            matured_rate(seen, weight)
