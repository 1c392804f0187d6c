"""Wins adjusted for covariates: the same as all pairs written out, and right when either model is."""

import numpy as np
import pytest
from scipy import stats

from models.common.contracts import InputError
from models.marketing.measurement.adjusted_wins import adjusted_wins, outcome_scores, pair_sums
from models.marketing.measurement.heavy_tails import RefusedError


def observed(
    rng: np.random.Generator, units: int, effect: float = 0.0, crooked: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Outcome, arm, covariates and propensity: units with a large first covariate bring more and are treated more."""
    x = rng.standard_normal((units, 2))
    propensity = 1 / (1 + np.exp(-crooked * x[:, 0] / 1.5))
    arm = (rng.random(units) < propensity).astype(int)
    outcome = np.maximum(x[:, 0] + effect * arm + rng.standard_normal(units), 0).round(2)
    return outcome, arm, x, propensity


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_sums_without_pairs_are_those_of_all_pairs(spread: float) -> None:
    rng = np.random.default_rng(1)
    y, arm, _, propensity = observed(rng, 300)
    z, s, t = arm == 1, spread * rng.standard_normal(300), spread * rng.standard_normal(300)
    k = np.zeros((300, 300))
    for i in range(300):
        for j in range(300):
            if i != j:
                g = 1 / (1 + np.exp(t[j] - s[i]))
                win = (y[i] > y[j]) + 0.5 * (y[i] == y[j])
                k[i, j] = z[i] * (1 - z[j]) / (propensity[i] * (1 - propensity[j])) * (win - g) + g
    rows, columns = pair_sums(y, z, propensity, s, t)
    assert np.abs(rows - k.sum(1)).max() / 299 < 1e-10
    assert np.abs(columns - k.sum(0)).max() / 299 < 1e-10
    assert rows.sum() / (300 * 299) == pytest.approx(k.sum() / (300 * 299), abs=1e-12)


def test_without_covariates_it_is_the_share_that_mann_whitney_counts() -> None:
    rng = np.random.default_rng(2)
    y, arm = rng.exponential(size=500).round(1), rng.integers(0, 2, 500)
    found = adjusted_wins(y, arm, np.zeros((500, 0)))
    u = stats.mannwhitneyu(y[arm == 1], y[arm == 0], use_continuity=False, method="asymptotic")
    # pairs of one unit with itself are left out of the mean over pairs: a difference of the order 1 / n
    assert found.share == pytest.approx(u.statistic / ((arm == 1).sum() * (arm == 0).sum()), abs=2e-3)
    assert found.p_value == pytest.approx(u.pvalue, rel=0.1)


def test_units_that_were_treated_because_they_bring_more_are_no_effect() -> None:
    """A/A with crooked treatment: the plain share is far off; the adjusted interval holds one half in 95 of 100."""
    held, plain = 0, []
    for run in range(100):
        y, arm, x, _ = observed(np.random.default_rng((3, run)), 600)
        found = adjusted_wins(y, arm, x)
        held += found.low <= 0.5 <= found.high
        plain.append(stats.mannwhitneyu(y[arm == 1], y[arm == 0]).statistic / ((arm == 1).sum() * (arm == 0).sum()))
    assert np.mean(plain) > 0.6
    assert held >= 88


@pytest.mark.parametrize("wrong", ["propensity", "outcome"])
def test_one_wrong_model_does_no_harm(wrong: str) -> None:
    shares = []
    for run in range(60):
        y, arm, x, propensity = observed(np.random.default_rng((4, run)), 600)
        z = arm == 1
        s, t = outcome_scores(y, z, np.column_stack([np.ones(600), x]))
        if wrong == "outcome":
            s, t = np.zeros(600), np.zeros(600)
        else:
            propensity = np.full(600, 0.5)
        rows, _ = pair_sums(y, z, propensity, s, t)
        shares.append(rows.sum() / (600 * 599))
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * np.std(shares) / np.sqrt(60) + 0.01)


def test_covariates_narrow_the_interval_of_a_randomised_experiment() -> None:
    y, arm, x, propensity = observed(np.random.default_rng(5), 3000, effect=0.3, crooked=0.0)
    with_, without = (adjusted_wins(y, arm, part, propensity=propensity) for part in (x, np.zeros((3000, 0))))
    assert with_.standard_error < 0.9 * without.standard_error
    assert with_.share > 0.5


def test_a_hundred_thousand_units_need_no_pairs() -> None:
    y, arm, x, _ = observed(np.random.default_rng(6), 100_000)
    found = adjusted_wins(y, arm, x)
    assert found.standard_error < 0.004
    assert abs(found.share - 0.5) < 4 * found.standard_error


def test_what_cannot_be_compared_is_refused() -> None:
    y, arm, x, propensity = observed(np.random.default_rng(7), 200)
    with pytest.raises(RefusedError, match="no overlap"):
        adjusted_wins(y, arm, x, propensity=np.where(arm == 1, 0.999, 0.5))
    with pytest.raises(RefusedError, match="an arm is too small"):
        adjusted_wins(y, np.zeros(200, int), x)
    with pytest.raises(InputError, match="the covariates of unit 3 are not finite"):
        adjusted_wins(y, arm, np.where(np.arange(200)[:, None] == 3, np.nan, x))
    with pytest.raises(InputError, match="the arm of unit 0 is 2"):
        adjusted_wins(y, np.full(200, 2), x)
    assert propensity.shape == (200,)
    with pytest.raises(InputError, match=r"shape \(3,\), there are 200 units"):
        adjusted_wins(y, arm, x, propensity=np.full(3, 0.5))
    with pytest.raises(RefusedError, match="the covariates tell the arms apart"):
        adjusted_wins(y, arm, arm[:, None])
    with pytest.raises(RefusedError, match="100 and 100 units, 120 are needed"):
        adjusted_wins(y, np.arange(200) % 2, np.random.default_rng(0).normal(size=(200, 12)))
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.2"):
        adjusted_wins(y, arm, x, level=1.2)


@pytest.mark.parametrize("y", [np.ones(120), np.arange(120) % 2, np.arange(120) % 2 * 10.0 + np.arange(120) / 120])
def test_arms_without_spread_have_no_interval_of_no_width(y: np.ndarray) -> None:
    with pytest.raises(RefusedError, match="adjusted_wins refuses, no variation"):
        adjusted_wins(y, np.arange(120) % 2, np.zeros((120, 0)))


@pytest.mark.parametrize(("control", "treatment"), [(50, 50), (50, 400), (120, 60)])
def test_small_arms_are_compared_at_the_level_that_is_said(control: int, treatment: int) -> None:
    rng, runs, arm = np.random.default_rng((control, treatment)), 1500, np.repeat([0, 1], [control, treatment])
    none = np.zeros((len(arm), 0))
    found = [adjusted_wins(rng.random(len(arm)), arm, none) for _ in range(runs)]
    for level in (0.05, 0.01, 0.001):
        rejected = sum(one.p_value <= level for one in found)
        assert rejected <= stats.binom(runs, 1.2 * level).isf(1e-4)
    assert all(0 <= one.low < one.high <= 1 for one in found)


@pytest.mark.parametrize("unit", [1e-300, 1e-9, 1e9, 1e300])
def test_the_unit_of_a_covariate_does_not_matter(unit: float) -> None:
    y, arm, x, _ = observed(np.random.default_rng(8), 300)
    assert adjusted_wins(y, arm, x * unit).share == pytest.approx(adjusted_wins(y, arm, x).share, rel=1e-9)
