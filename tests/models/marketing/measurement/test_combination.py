"""The combination: exact under permutation, its limit, its weights, and its power beside each single test."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from models.marketing.measurement.combination import (
    DIRECTIONS,
    EVEN,
    GAINS,
    LIMIT,
    Design,
    combination,
    height,
    limit_p,
    normal_scores,
    parts,
    permuted,
)
from models.marketing.measurement.heavy_tails import RefusedError
from models.marketing.measurement.outcomes import Outcomes
from models.marketing.measurement.power import Scenario, binomial_band, power_figure, study
from tests.proofs.marketing import attainable


def test_permutations_draw_every_assignment_of_labels_as_often() -> None:
    """Three positives among nine units, four of them treated: 126 assignments, written out one by one."""
    values = np.array([0, 0, 0, 0, 0, 0, 1.0, 2.0, 5.0])
    share, value = [], []
    for treated in combinations(range(9), 4):
        side = np.isin(np.arange(9), treated)
        s, v = parts(Outcomes.of(values[~side], values[side]))
        share.append(s)
        value.append(v)
    side = np.isin(np.arange(9), (0, 1, 6, 8))
    drawn = permuted(Outcomes.of(values[~side], values[side]), permutations=40_000, seed=2)
    every, counts = np.unique(np.round([share, value], 9), axis=1, return_counts=True)
    found, times = np.unique(np.round([drawn.share, drawn.value], 9), axis=1, return_counts=True)
    assert np.array_equal(every, found)
    assert stats.chisquare(times, counts * (40_000 / counts.sum())).pvalue > 1e-3


def test_share_is_the_permutation_z_and_value_is_welch_on_normal_scores() -> None:
    rng = np.random.default_rng(4)
    control, treatment = (np.where(rng.random(n) < 0.3, rng.lognormal(size=n).round(1), 0.0) for n in (211, 307))
    s, v = parts(Outcomes.of(control, treatment))
    positives = np.concatenate([control[control > 0], treatment[treatment > 0]])
    scores = stats.norm.ppf(stats.rankdata(positives) / (len(positives) + 1))
    cut = (control > 0).sum()
    assert v == pytest.approx(stats.ttest_ind(scores[cut:], scores[:cut], equal_var=False).statistic, rel=1e-9)
    law = stats.hypergeom(518, len(positives), 307)
    assert s == pytest.approx(((treatment > 0).sum() - law.mean()) / law.std(), rel=1e-12)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    rng = np.random.default_rng(5)
    outcomes = Outcomes.of(rng.exponential(size=300).round(1), rng.exponential(size=200).round(1))
    one, same, other = (permuted(outcomes, permutations=500, seed=seed) for seed in (1, 1, 2))
    assert one.value.tobytes() == same.value.tobytes()
    assert one.value.tobytes() != other.value.tobytes()


@pytest.mark.parametrize("design", [EVEN, GAINS])
def test_the_limit_is_the_tail_of_two_normal_numbers(design: Design) -> None:
    s, v = np.random.default_rng(6).standard_normal((2, 400_000))
    law = height(s, v, design)
    for statistic in (0.0, 1.0, 2.0):
        count = int((law >= statistic).sum())
        low, high = binomial_band(len(law), limit_p(statistic, design), 1e-3)
        assert low <= count <= high
    assert limit_p(-9.0, design) == 1
    assert 0 < limit_p(60.0, design) < 1e-100


def test_with_many_positives_the_law_of_permutations_is_the_limit() -> None:
    rng = np.random.default_rng(7)
    outcomes = Outcomes.of(
        np.append(rng.lognormal(size=3000), np.zeros(5000)), np.append(rng.lognormal(0.02, size=3090), np.zeros(5000))
    )
    found = combination(outcomes, permutations=4999)
    assert 0.01 < found.details["limit_p"] < 0.6
    assert found.p_value == pytest.approx(found.details["limit_p"], abs=0.025)
    many = Outcomes(
        values=np.arange(1.0, LIMIT + 2), counts=np.ones((2, LIMIT + 1), np.int64), zeros=np.array([10**9, 10**9])
    )
    whole = combination(many)
    assert whole.details["permutations"] == 0
    assert whole.p_value == whole.details["limit_p"] == 1


def test_the_few_positives_of_a_small_arm_are_permuted_however_many_the_other_has() -> None:
    rng = np.random.default_rng(13)
    outcomes = Outcomes.of(rng.lognormal(size=30_000), rng.lognormal(size=7))
    outcomes = Outcomes(values=outcomes.values, counts=outcomes.counts, zeros=np.array([1_470_000, 343]))
    found = combination(outcomes)
    assert found.details["permutations"] == 1999
    # of 350 labels at a share of 2 %: far from normal, which the limit takes it for
    drawn = permuted(outcomes)
    assert stats.skew(drawn.share) > 0.2


def test_normal_scores_of_tied_values_stand_at_their_mean_rank() -> None:
    assert normal_scores(np.array([1, 2, 1])) == pytest.approx(stats.norm.ppf([0.2, 0.5, 0.8]))


def test_the_even_weights_make_the_least_ratio_as_large_as_it_can_be() -> None:
    """Powers in the plane of (s, v), against single tests as lognormal cells have them."""
    rank = np.sqrt(3 / np.pi)  # efficiency of Wilcoxon's test beside normal scores, for a normal shift

    def normal(z: float) -> float:
        return float(stats.norm.sf(stats.norm.isf(0.025) - z))

    def squared(noncentral: float) -> float:
        return float(stats.ncx2.sf(stats.chi2.isf(0.05, 2), 2, noncentral))

    targets = [
        normal(2 * np.cos(0.105)),  # Mann-Whitney, 6 degrees off the share
        squared((2 * rank) ** 2),
        normal(1.2 * (np.cos(0.57) + rank * np.sin(0.57))),  # zero-trimmed U, 33 degrees off the share
        squared(1.6**2 * (1 + rank**2)),
    ]
    place = np.arange(-6, 6.01, 0.05)
    s, v = np.meshgrid(place, place, indexing="ij")

    def law(mean: np.ndarray) -> np.ndarray:
        return np.exp(-((s - mean[0]) ** 2 + (v - mean[1]) ** 2) / 2) / (2 * np.pi) * 0.05**2

    statistic = height(s, v, EVEN)
    order = np.argsort(-statistic, axis=None)
    inside = order[: np.searchsorted(np.cumsum(law(np.zeros(2)).ravel()[order]), 0.05)]
    power = np.array([law(mean).ravel()[inside].sum() for mean in DIRECTIONS])
    least = (power / targets).min()
    bound = attainable(targets, step=0.22)
    assert bound - 0.01 < least <= bound + 0.002
    assert bound < 0.93, "an even-handed test could do better than is said"


def test_a_combination_for_gains_has_more_power_for_gains_and_less_for_losses() -> None:
    gain, loss = (
        Scenario(law="lognormal", spread=1.0, units=1000, share=0.2, kind="both", size=size) for size in (1, -1)
    )
    tests = ("combination", "combination_for_gains", "zero_trimmed")
    found = {one.size: study(one, runs=250, seed=8, tests=tests) for one in (gain, loss)}
    even, leaning = (
        {size: found[size][test].rejected[0] for size in found} for test in ("combination", "combination_for_gains")
    )
    assert leaning[1] > even[1] + 5
    assert leaning[-1] < even[-1] - 20


@pytest.mark.parametrize(
    ("scenario", "at_least"),
    [
        (
            Scenario(law="lognormal", spread=1.0, units=1000, share=0.2, kind="opposed"),
            {"mann_whitney": 20, "welch": 60},
        ),
        (Scenario(law="lognormal", spread=1.0, units=1000, share=0.2, kind="share"), {"welch": 40, "winsorised": 20}),
        (Scenario(law="pareto", spread=1.8, units=1000, share=0.2, kind="both"), {"zero_trimmed": 15, "two_part": 15}),
    ],
)
def test_the_combination_sees_what_single_tests_miss(scenario: Scenario, at_least: dict[str, int]) -> None:
    found = study(scenario, runs=250, seed=9)
    for test, more in at_least.items():
        assert found["combination"].rejected[0] >= found[test].rejected[0] + more, test


@pytest.mark.parametrize("law", ["lognormal", "pareto", "cauchy"])
def test_arms_that_do_not_differ_are_called_different_as_often_as_said(law: str) -> None:
    """All tests, 300 runs; 4,000 in `make prove SYSTEM=marketing`."""
    found = study(Scenario(law=law, spread=1.8, units=500, share=0.2), runs=300, seed=10)
    for test, one in found.items():
        low, high = binomial_band(one.spoke, 0.05, 1e-4)
        assert low <= one.rejected[0] <= high, test


def test_buyers_in_one_arm_alone_are_evidence() -> None:
    found = combination(Outcomes.of(np.zeros(1000), np.concatenate([np.zeros(990), np.arange(1.0, 11.0)])))
    assert found.details["value_z"] == 0
    assert found.p_value < 0.02


@pytest.mark.parametrize(
    ("control", "treatment", "reason"),
    [
        (np.zeros(50), np.append(np.zeros(49), 1.0), "too few positives"),
        (-np.ones(50), np.ones(50), "negative values"),
        (np.ones(50), np.ones(50), "no variation"),
    ],
)
def test_the_combination_refuses_by_name(control: np.ndarray, treatment: np.ndarray, reason: str) -> None:
    with pytest.raises(RefusedError, match=f"combination refuses, {reason}"):
        combination(Outcomes.of(control, treatment))


def test_powers_are_drawn_for_every_test_with_their_intervals() -> None:
    figure = power_figure("value", units=300, sizes=(0.0, 2.0), runs=40)
    assert {series.label for series in figure.series} >= {"combination", "two part", "mann whitney"}
    for series in figure.series:
        assert all(low <= y <= high for low, y, high in zip(series.low, series.y, series.high, strict=True))


def test_an_effect_beyond_all_units_is_named() -> None:
    scenario = Scenario(law="lognormal", spread=1.0, units=20, share=0.97, kind="share", size=3)
    with pytest.raises(ValueError, match=r"n=20 p=0\.97 share x3 would have a share of 1"):
        scenario.draw(np.random.default_rng(0))
