"""One test for all four ways in which arms differ: more buyers, larger purchases, both, or one against the other.

No single z sees all four. Let s be the z of the shares of positives and v the z of the positive values. Mann-Whitney
looks almost along s alone; zero-trimmed U looks along a mixture of both and is blind where they oppose each other;
s^2 + v^2 looks everywhere and pays for it. Here the two are weighed like evidence: with directions d_i in the plane of
(s, v), lengths included, and weights w_i and u_i of d_i and of -d_i,

    T = log sum_i exp(-|d_i|^2 / 2) (w_i exp(d_i . (s, v)) + u_i exp(-d_i . (s, v))).

T is the likelihood ratio of a difference in one of these directions against none, if (s, v) is normal with unit
variance: by the lemma of Neyman and Pearson no test of the same size has more power averaged over them with these
weights. Two designs:

* `EVEN` treats gain and loss alike. Its weights are those at which the power, divided by that of the best single test
  for each direction, is equal in all four: the least of the four ratios is as large as it can be, 0.89.
* `GAINS` is for a treatment that was made to bring more: 0.8 of the weight of the first three directions lies on gains.
  It still finds losses, with less power. Choose it before the experiment, or not at all.

v is Welch's t of normal scores (van der Waerden) of the pooled positive values. Against a shift of the logarithm it is
never less efficient than the t of logarithms, and no value, however large, moves it by more than its rank.

The law of T comes from permuting labels, which is exact when arms do not differ. Zeros make it fast: of the labels of
zeros only their number matters, so that a permutation is one hypergeometric number, of positives in the treatment, and
a draw of so many of the positives.
"""

# Shapes: P positive units of both arms, B permutations; arm 0 is the control, arm 1 the treatment.

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from models.marketing.measurement.heavy_tails import (
    QUESTIONS,
    Finding,
    RefusedError,
    require_positives,
)
from models.marketing.measurement.mean_effect import LEVEL, MeanEffect, mean_effect, varies
from models.marketing.measurement.outcomes import TREATMENT, Floats, Integers, Outcomes, compiled

DIRECTIONS = np.array([[2.0, 0.0], [0.0, 2.0], [1.2, 1.2], [-1.6, 1.6]])
"""(4, 2) differences in (s, v) that are looked for, in standard errors: share, value, both alike, both opposed."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """How directions are weighed.

    Attributes:
        test: name of the combination.
        gains: weight of each of `DIRECTIONS`.
        losses: weight of the direction opposite to each.
    """

    test: str
    gains: tuple[float, ...]
    losses: tuple[float, ...]

    def logarithms(self) -> Floats:
        """(4, 2) logarithms of what multiplies exp(d . z) and exp(-d . z)."""
        weights = np.array([self.gains, self.losses]).T
        return np.asarray(np.log(weights / weights.sum()) - np.square(DIRECTIONS).sum(1)[:, None] / 2)


EVEN = Design(test="combination", gains=(0.4, 0.15, 0.36, 0.09), losses=(0.4, 0.15, 0.36, 0.09))
"""Found again in `tests/models/marketing/measurement/test_combination.py`."""

GAINS = Design(test="combination_for_gains", gains=(0.112, 0.004, 0.336, 0.218), losses=(0.028, 0.001, 0.084, 0.218))
"""Four to one for gains; neither sense of opposed parts is a gain, and both weigh the same.

The other weights are those at which its power for gains is above that of every single test in the mixed directions and
near it in the pure ones."""

PERMUTATIONS = 1999
"""So many permutations and the observed labels make p-values of whole 2000ths: .05, .01 and .001 are among them."""

LIMIT = 10_000
"""With more positives than that expected in the smaller arm the law of (s, v) is its limit, and no label is permuted.

Drawing the smaller arm's labels costs as much as it has positives, however many the other one has; and its few are what
the limit is far from."""

EXPECTED = 5
"""Positives that the smaller arm expects; with fewer there are too few ways to draw labels for small p-values."""

_FEW = 5
"""Positives of an arm from which on its own variance is trusted."""

_ANGLES = 360
_STEPS = 60
_SAME = 1e-9
"""Two values of T nearer than this are equal: the same draw, added in another order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """The parts of T under labels that were drawn again.

    Attributes:
        share: (B) s, z of the shares of positives, with the variance that drawing labels gives it.
        value: (B) v, Welch's t of normal scores of the positive values; 0 when an arm has no positives.
    """

    share: Floats
    value: Floats


def combination(
    outcomes: Outcomes,
    *,
    design: Design = EVEN,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    draws: Callable[[], Draws] | None = None,
    level: float = LEVEL,
    effect: MeanEffect | None = None,
) -> Finding:
    """Test whether anything changed, by permuting labels.

    Args:
        outcomes: of two arms, none below zero. An arm without positives is evidence, not an obstacle.
        design: `EVEN`, or `GAINS` when it was chosen before the experiment.
        permutations: B; p-values are multiples of 1 / (B + 1).
        seed: of the permutations.
        draws: gives `permuted` of these outcomes; then neither `permutations` nor `seed` is read.
        level: coverage of the interval of the difference of means.
        effect: difference of means, when known.

    Returns:
        T and its p-value; both z, and the p-value in the limit of many positives (`limit_p`, which has no least value)
        are among the details.

    Raises:
        RefusedError: too few positives; negative values; no zero and all positives equal.

    Source:
        The combination is ours. Mixtures of likelihood ratios: Lehmann & Romano 2005, "Testing Statistical Hypotheses",
        section 3.8. Studentised permutation: Janssen 1997; Chung & Romano 2013, "Exact and asymptotically robust
        permutation tests". Normal scores: van der Waerden 1952; Chernoff & Savage 1958.
    """
    if outcomes.negative:
        told = f"the least outcome is {outcomes.values[0]:g}, must be zero or above; use mann_whitney or welch."
        raise RefusedError(design.test, "negative values", told)
    require_positives(design.test, outcomes, EXPECTED, least=0)
    if not varies(outcomes):
        raise RefusedError(design.test, "no variation", "all outcomes are equal; there is nothing to compare.")
    share, value = parts(outcomes)
    statistic = float(height(share, value, design))
    limit = limit_p(statistic, design)
    p_value, used = limit, 0
    units = outcomes.units
    if outcomes.positives.sum() * (units.min() / units.sum()) <= LIMIT:
        drawn = draws() if draws else permuted(outcomes, permutations=permutations, seed=seed)
        used, law_B = len(drawn.share), height(drawn.share, drawn.value, design)
        p_value = (1 + int((law_B >= statistic - _SAME * max(1.0, abs(statistic))).sum())) / (used + 1)
    return Finding(
        test=design.test,
        question=QUESTIONS[design.test],
        statistic=statistic,
        p_value=p_value,
        effect=effect or mean_effect(outcomes, level=level),
        details={"share_z": share, "value_z": value, "limit_p": limit, "permutations": float(used)},
    )


def normal_scores(count_G: Integers) -> Floats:
    """Van der Waerden's scores of values that occur so often, in rising order.

    Args:
        count_G: how many units have each value.

    Returns:
        (G) quantile of the normal law at mean rank / (P + 1).

    Source:
        van der Waerden 1952, with the mean rank for ties.
    """
    rank_G = np.cumsum(count_G) - (count_G - 1) / 2
    return np.asarray(special.ndtri(rank_G / (count_G.sum() + 1)))


def parts(outcomes: Outcomes) -> tuple[float, float]:
    """The parts of T as observed.

    Args:
        outcomes: of two arms, none below zero, at least one above.

    Returns:
        s and v.

    Source:
        Ours.
    """
    treated, both = outcomes.counts[TREATMENT].astype(np.float64), outcomes.both
    score_G = normal_scores(both)
    share, value = _parts(
        int(treated.sum()),
        float((treated * score_G).sum()),
        float((treated * score_G**2).sum()),
        int(both.sum()),
        float((both * score_G).sum()),
        float((both * score_G**2).sum()),
        *_centre(outcomes),
    )
    return float(share), float(value)


def permuted(outcomes: Outcomes, *, permutations: int = PERMUTATIONS, seed: int = 0) -> Draws:
    """The parts of T under labels that are drawn again.

    Args:
        outcomes: of two arms, none below zero, at least one above.
        permutations: B.
        seed: of the draws.

    Returns:
        The parts; both designs may read the same ones.

    Source:
        Ours.
    """
    rng = np.random.default_rng(seed)
    both = outcomes.both
    score_P, units = np.repeat(normal_scores(both), both), outcomes.units
    drawn_B = _hypergeometric(len(score_P), int(units.sum()), int(units[TREATMENT]), rng.random(permutations))
    state = np.uint64(rng.integers(1, 2**63))
    share_B, value_B = _permuted(score_P, drawn_B, *_centre(outcomes), state)
    return Draws(share=share_B, value=value_B)


def height(share: ArrayLike, value: ArrayLike, design: Design) -> Floats:
    """T at points of the plane.

    Args:
        share: (...) s.
        value: (...) v.
        design: weights.

    Returns:
        (...) T.

    Source:
        Ours.
    """
    along = np.stack([np.asarray(share, np.float64), np.asarray(value, np.float64)], -1) @ DIRECTIONS.T
    logarithms = design.logarithms()
    terms = np.concatenate([logarithms[:, 0] + along, logarithms[:, 1] - along], -1)
    largest = terms.max(-1, keepdims=True)
    return np.asarray(largest[..., 0] + np.log(np.exp(terms - largest).sum(-1)))


def limit_p(statistic: float, design: Design = EVEN) -> float:
    """Probability of a T at least so large when (s, v) is normal with unit variance.

    T is convex. So it reaches any height above that of the centre exactly once along a ray, and with R(a) the radius at
    which it does so in direction a, the probability is the mean of exp(-R(a)^2 / 2) over all directions.

    Args:
        statistic: T.
        design: weights.

    Returns:
        A probability, accurate relative to itself however small it is; 1 for a T below that of the centre.

    Source:
        Ours.
    """
    angle = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    along = DIRECTIONS @ np.array([np.cos(angle), np.sin(angle)])
    slope, constants = np.concatenate([along, -along]), design.logarithms().T.reshape(-1, 1)
    if statistic <= height(0.0, 0.0, design):
        return 1.0
    # beyond the root on a convex curve every step of Newton's stays beyond it
    radius = np.where(slope > 1e-9, (statistic - constants) / np.maximum(slope, 1e-9), np.inf).min(0)
    for _ in range(_STEPS):
        terms = constants + slope * radius
        largest = terms.max(0)
        shares = np.exp(terms - largest)
        total = shares.sum(0)
        step = (largest + np.log(total) - statistic) * total / (shares * slope).sum(0)
        radius = radius - step
        if np.abs(step).max() < 1e-12 * radius.max():
            break
    return float(np.exp(-(radius**2) / 2).mean())


# ------------------------------------------------------------------------------------------------- inner loops


def _centre(outcomes: Outcomes) -> tuple[float, float]:
    """Mean and standard deviation of the number of positives in the treatment when labels are permuted."""
    positives = float(outcomes.counts.sum())
    units = outcomes.units.astype(np.float64)
    n = units.sum()
    mean = positives * units[TREATMENT] / n
    variance = mean * (units[0] / n) * ((n - positives) / (n - 1))
    return float(mean), float(np.sqrt(variance))


def _hypergeometric(positives: int, units: int, treated: int, uniform_B: Floats) -> Integers:
    """Numbers of positives in the treatment, by inverting their law; exact for any number of units."""
    least, most = max(0, positives - (units - treated)), min(positives, treated)
    k = np.arange(least, most, dtype=np.float64)
    rise = (positives - k) * (treated - k) / ((k + 1) * (units - positives - treated + k + 1))
    log = np.concatenate([[0.0], np.cumsum(np.log(rise))])
    law = np.cumsum(np.exp(log - log.max()))
    return np.asarray(least + np.searchsorted(law / law[-1], uniform_B, side="right"), np.int64).clip(least, most)


@compiled
def _parts(
    k: int,
    score: float,
    square: float,
    positives: int,
    all_score: float,
    all_square: float,
    mean: float,
    deviation: float,
) -> tuple[float, float]:
    """Both parts, of k positives in the treatment whose scores and squares of scores add up to so much."""
    share = (k - mean) / deviation if deviation > 0 else 0.0
    rest = positives - k
    spread = all_square - all_score * all_score / positives
    if k == 0 or rest == 0 or spread <= 1e-12 * positives:
        return share, 0.0
    first, second = (all_score - score) / rest, score / k
    variance = spread / (positives - 1) * (1.0 / k + 1.0 / rest)
    if k >= _FEW and rest >= _FEW:
        own = (square - k * second * second) / (k - 1.0) / k
        own += (all_square - square - rest * first * first) / (rest - 1.0) / rest
        if own > 1e-6 * variance:
            variance = own
    return share, (second - first) / np.sqrt(variance)


@compiled
def _permuted(
    score_P: Floats, drawn_B: Integers, mean: float, deviation: float, state: np.uint64
) -> tuple[Floats, Floats]:
    """Both parts for each number of drawn positives: the smaller of both sides is drawn without replacement."""
    positives = len(score_P)
    pool = score_P.copy()
    all_score, all_square = 0.0, 0.0
    for one in pool:
        all_score += one
        all_square += one * one
    share_B, value_B = np.empty(len(drawn_B)), np.empty(len(drawn_B))
    word, left = np.uint64(0), 0
    for b in range(len(drawn_B)):
        k = drawn_B[b]
        few = min(k, positives - k)
        score, square = 0.0, 0.0
        for i in range(few):
            if left == 0:  # splitmix64 (Steele, Lea & Flood 2014); each of its words gives two numbers of 32 bits
                state += np.uint64(0x9E3779B97F4A7C15)
                word = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                word = word ^ (word >> np.uint64(31))
                left = 2
            half = (word & np.uint64(0xFFFFFFFF)) if left == 2 else (word >> np.uint64(32))
            left -= 1
            j = i + np.int64((half * np.uint64(positives - i)) >> np.uint64(32))
            one = pool[j]
            pool[j] = pool[i]
            pool[i] = one
            score += one
            square += one * one
        if few < k:
            score, square = all_score - score, all_square - square
        share_B[b], value_B[b] = _parts(k, score, square, positives, all_score, all_square, mean, deviation)
    return share_B, value_B
