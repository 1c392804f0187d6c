"""Tests for outcomes of many zeros and a heavy tail: each answers its own question, or refuses by name.

    welch            did the mean change?                                     Welch's t
    winsorised       did the mean of capped outcomes change?                  Welch's t after capping
    mann_whitney     does a unit of the treatment tend to bring more?         U with its tie correction
    zero_trimmed     the same, with the zeros that both arms share left out   zero-trimmed U
    two_part         did the share of buyers or a buyer's value change?       z^2 + z^2, chi-squared with 2
    combination      did anything change, wherever it shows?                  see `combination`

Only the first is about revenue per unit. So every finding carries the difference of means with its interval, whatever
was tested.

A refusal looks, wherever it can, at both arms together and at no label. Given the pooled rows, the labels of an A/A
test are still a random draw, and whoever refuses without them leaves the size of the remaining tests untouched.
"""

# Shapes: G different values; arm 0 is the control, arm 1 the treatment.

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import special

from models.marketing.measurement.mean_effect import (
    DOMINANT,
    LEVEL,
    LOPSIDED,
    MeanEffect,
    dominance,
    lopsidedness,
    mean_effect,
    moments,
    varies,
    welch_error,
)
from models.marketing.measurement.outcomes import CONTROL, TREATMENT, Outcomes, RankSums, rank_sums_of

Reason = Literal[
    "an arm is too small",
    "too few positives",
    "no variation",
    "negative values",
    "one row dominates",
    "skewed and unequal arms",
    "cap in the zeros",
    "no overlap",
]

EXPECTED = 10
"""Positives that the smaller arm expects, given all, for a normal law to hold in the tail that a test looks at."""

QUANTILE = 0.95
"""Of the pooled positive values: where `winsorised` caps."""

_Compared = Callable[[Outcomes], "Finding"]


class RefusedError(ValueError):
    """A test cannot speak about these outcomes.

    Attributes:
        test: its name.
        reason: one of `Reason`.
    """

    def __init__(self, test: str, reason: Reason, told: str) -> None:
        super().__init__(f"{test} refuses, {reason}: {told}")
        self.test, self.reason = test, reason


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a test found.

    Attributes:
        test: its name.
        question: that the p-value answers.
        statistic: z, t or chi-squared.
        p_value: two-sided.
        effect: difference of means over all units, with its interval. A test of ranks may find what the means do not
            show, and the other way round.
        details: further numbers, by name.
    """

    test: str
    question: str
    statistic: float
    p_value: float
    effect: MeanEffect
    details: Mapping[str, float] = field(default_factory=dict)

    def sentence(self) -> str:
        """The finding in words."""
        return f"{self.test}: {self.question} p = {self.p_value:.3g}. Difference of means {self.effect.sentence()}."


QUESTIONS: Mapping[str, str] = {
    "welch": "Did the mean change?",
    "winsorised": "Did the mean of capped outcomes change?",
    "mann_whitney": "Does a unit of the treatment tend to bring more, or less?",
    "zero_trimmed": "Does it, the zeros that both arms share left out?",
    "two_part": "Did the share of buyers change, or what a buyer brings?",
    "combination": "Did anything change: share of buyers, their values, or both, alike or opposed?",
    "combination_for_gains": "Did anything change, gains being expected four to one?",
}


def welch(outcomes: Outcomes, *, level: float = LEVEL, effect: MeanEffect | None = None) -> Finding:
    """Welch's t test of the means.

    Args:
        outcomes: of two arms.
        level: coverage of the interval of the difference.
        effect: difference of means, when known.

    Returns:
        t and its p-value.

    Raises:
        RefusedError: too few positives, no variation, one row holds more than `DOMINANT` of the sum of squares, or
            skewed arms are of unequal size: then the law of t is not Student's, and the test is too timid or too bold.

    Source:
        Welch 1947. The refusal is ours.
    """
    require_positives("welch", outcomes)
    _require_spread("welch", outcomes)
    return _welch("welch", outcomes, outcomes, level, effect, {})


def winsorised(
    outcomes: Outcomes, *, quantile: float = QUANTILE, level: float = LEVEL, effect: MeanEffect | None = None
) -> Finding:
    """Welch's t test after capping at a quantile of the pooled positive values.

    A quantile of all values falls into the zeros as soon as fewer units buy than it leaves above, and the test is gone.

    Args:
        outcomes: of two arms, none below zero.
        quantile: of the positive values of both arms, 0 to 1.
        level: coverage of the interval of the (uncapped) difference.
        effect: difference of means, when known.

    Returns:
        t and its p-value; the cap and the capped difference are among the details.

    Raises:
        RefusedError: as `welch`, on capped values; negative values; the cap lies in the zeros: there is nothing else.
        ValueError: the quantile is not above 0 and at most 1.

    Source:
        Dixon & Tukey 1968 on winsorised t; the cap of positives follows Statsig's documentation (statsig-io/docs#1775).
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"the quantile of positive values lies above 0 and at most at 1, got {quantile}; take 0.95.")
    _require_no_negatives("winsorised", outcomes)
    if not outcomes.positives.sum():
        raise RefusedError("winsorised", "cap in the zeros", "no outcome is above zero; wait for the first.")
    require_positives("winsorised", outcomes)
    cap = quantile_of_positives(outcomes, quantile)
    capped = outcomes.capped(cap)
    _require_spread("winsorised", capped)
    difference = mean_effect(capped, level=level).difference
    return _welch("winsorised", capped, outcomes, level, effect, {"cap": cap, "capped_difference": difference})


def mann_whitney(
    outcomes: Outcomes, *, sums: RankSums | None = None, level: float = LEVEL, effect: MeanEffect | None = None
) -> Finding:
    """Mann and Whitney's U with the correction for ties, which zeros make indispensable.

    Args:
        outcomes: of two arms.
        sums: of ranks, when known.
        level: coverage of the interval of the difference of means.
        effect: difference of means, when known.

    Returns:
        z without continuity correction and its p-value; the share of pairs that the treatment wins is a detail.

    Raises:
        RefusedError: too few positives, or no variation.

    Source:
        Mann & Whitney 1947; the correction: Lehmann 1975, "Nonparametrics", section 1.4.
    """
    require_positives("mann_whitney", outcomes)
    sums = sums or rank_sums_of(outcomes)
    z = mann_whitney_z(sums)
    if not np.isfinite(z):
        raise RefusedError("mann_whitney", "no variation", "all outcomes are equal; there is nothing to rank.")
    pairs = 2 * sums.units[0] * sums.units[1]
    return _finding("mann_whitney", z, normal_p(z), outcomes, level, effect, {"win_share": sums.all_wins / pairs})


def zero_trimmed(
    outcomes: Outcomes, *, sums: RankSums | None = None, level: float = LEVEL, effect: MeanEffect | None = None
) -> Finding:
    """Zero-trimmed U: only as many zeros stay as tell the arms' shares apart.

    With shares of positives p0 and p1, p the larger one, n' = round(n p) units of each arm stay: all positives, and
    zeros to fill up. W is the rank sum of the treatment less its expectation, and as published

        Var W = (n0 n1 p)^2 / 4 (p0 (1 - p0) / n0 + p1 (1 - p1) / n1) + n0+ n1+ (n0+ + n1+) / 12.

    That rejects too often when the smaller arm has few positives: with 12 of them 6 to 7 % at .05 and up to 0.6 % at
    .001, for arms with few positives underrate their own spread. If the arms do not differ, both shares are the pooled
    one, p^; z is

        W / sqrt( (n0 n1 p)^2 / 4 p^ (1 - p^) (1 / n0 + 1 / n1) + n0+ n1+ (n0+ + n1+ + 1) / 12 ),

    with 5 to 6 % at .05 and 0.1 % at .001 there, and the same in the limit.

    Args:
        outcomes: of two arms, none below zero.
        sums: of ranks, when known.
        level: coverage of the interval of the difference of means.
        effect: difference of means, when known.

    Returns:
        z and its p-value; W and its variance as published are among the details.

    Raises:
        RefusedError: too few positives, negative values, or no variation.

    Source:
        Hallstrom 2010, "A modified Wilcoxon test for non-negative distributions with a clump of zeros"; the published
        formula as in robustInfer's `zero_trimmed_u`. Ours takes average ranks and subtracts (t^3 - t) / 12 n0+ n1+ /
        (n+ (n+ - 1)) for positives that are tied; without such ties it is the formula above. The pooled share is ours.
    """
    _require_no_negatives("zero_trimmed", outcomes)
    require_positives("zero_trimmed", outcomes)
    sums = sums or rank_sums_of(outcomes)
    z = zero_trimmed_z(sums)
    if not np.isfinite(z):
        raise RefusedError("zero_trimmed", "no variation", "all outcomes are equal; there is nothing to rank.")
    w, variance = zero_trimmed_u(sums)
    return _finding("zero_trimmed", z, normal_p(z), outcomes, level, effect, {"w": w, "variance": variance})


def two_part(
    outcomes: Outcomes, *, sums: RankSums | None = None, level: float = LEVEL, effect: MeanEffect | None = None
) -> Finding:
    """Share of buyers and ranks among buyers, each by its z, squared and added.

    Args:
        outcomes: of two arms, none below zero.
        sums: of ranks, when known.
        level: coverage of the interval of the difference of means.
        effect: difference of means, when known.

    Returns:
        z_share^2 + z_value^2 and its p-value by chi-squared with two degrees of freedom; both z are among the details.

    Raises:
        RefusedError: too few positives; negative values; every unit is positive or all positives are equal: then one
            part is missing.

    Source:
        Lachenbruch 2001, "Comparisons of two-part models with competitors", the two-part Wilcoxon.
    """
    _require_no_negatives("two_part", outcomes)
    require_positives("two_part", outcomes)
    sums = sums or rank_sums_of(outcomes)
    share, value = share_z(sums), value_z(sums)
    if not (np.isfinite(share) and np.isfinite(value)):
        what = "all positive outcomes are equal" if np.isfinite(share) else "no outcome is zero"
        raise RefusedError("two_part", "no variation", f"{what}; one part of two is left, use mann_whitney.")
    square = share**2 + value**2
    details = {"share_z": share, "value_z": value}
    return _finding("two_part", square, float(np.exp(-square / 2)), outcomes, level, effect, details)


# ------------------------------------------------------------------------------------------------- statistics


def mann_whitney_z(sums: RankSums) -> float:
    """U standardised with ties corrected; NaN when all outcomes are equal."""
    n0, n1 = sums.units
    variance = _ranks_variance(n0, n1, sums.all_ties)
    return float((sums.all_wins / 2 - n0 * n1 / 2) / np.sqrt(variance)) if variance > 0 else float("nan")


def zero_trimmed_z(sums: RankSums) -> float:
    """W standardised as if arms did not differ, as `zero_trimmed` has it; NaN when all outcomes are equal."""
    (n0, n1), (m0, m1) = sums.units, sums.positives
    p, pooled = max(m0 / n0, m1 / n1), (m0 + m1) / (n0 + n1)
    shares = (n0 * n1 * p) ** 2 / 4 * (pooled * (1 - pooled) * (1 / n0 + 1 / n1))
    variance = shares + _ranks_variance(m0, m1, sums.ties)
    return float(zero_trimmed_u(sums)[0] / np.sqrt(variance)) if variance > 0 else float("nan")


def zero_trimmed_u(sums: RankSums) -> tuple[float, float]:
    """W and its variance as published, see `zero_trimmed`; for outcomes of which none is negative."""
    (n0, n1), (m0, m1) = sums.units, sums.positives
    p0, p1 = m0 / n0, m1 / n1
    p = max(p0, p1)
    zeros0, zeros1 = round(n0 * p) - m0, round(n1 * p) - m1
    wins = sums.wins + 2 * m1 * zeros0 + zeros0 * zeros1
    w = wins / 2 - (m0 + zeros0) * (m1 + zeros1) / 2
    m = m0 + m1
    tied = m0 * m1 / 12 * sums.ties / (m * (m - 1.0)) if m > 1 else 0.0
    shares = (n0 * n1 * p) ** 2 / 4 * (p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1)
    return w, shares + m0 * m1 * m / 12 - tied


def share_z(sums: RankSums) -> float:
    """z of the two shares of positives, with the pooled variance; NaN when there is none."""
    (n0, n1), (m0, m1) = sums.units, sums.positives
    pooled = (m0 + m1) / (n0 + n1)
    variance = pooled * (1 - pooled) * (1 / n0 + 1 / n1)
    return float((m1 / n1 - m0 / n0) / np.sqrt(variance)) if variance > 0 else float("nan")


def value_z(sums: RankSums) -> float:
    """Mann and Whitney's z among the positives; NaN when they are all equal."""
    m0, m1 = sums.positives
    variance = _ranks_variance(m0, m1, sums.ties)
    return float((sums.wins / 2 - m0 * m1 / 2) / np.sqrt(variance)) if variance > 0 else float("nan")


def _ranks_variance(first: int, second: int, ties: float) -> float:
    """Of Mann and Whitney's U of two arms; exactly 0 when all their units are tied."""
    n = first + second
    if n < 2 or ties >= n * (n * n - 1.0):
        return 0.0
    return first * second / 12 * ((n + 1) - ties / (n * (n - 1.0)))


def quantile_of_positives(outcomes: Outcomes, quantile: float) -> float:
    """The least value with at least a share `quantile` of the pooled positives at or below it."""
    values = outcomes.values[outcomes.negative :]
    reached = np.cumsum(outcomes.both[outcomes.negative :])
    return float(values[np.searchsorted(reached, quantile * reached[-1])])


def normal_p(z: float) -> float:
    """Two-sided, accurate far out in the tail."""
    return float(special.erfc(abs(z) / np.sqrt(2)))


# ------------------------------------------------------------------------------------------------- refusals


def require_positives(test: str, outcomes: Outcomes, expected: float = EXPECTED, least: int = 2) -> None:
    """Refuse what is too small.

    Args:
        test: its name.
        outcomes: of two arms.
        expected: units other than zero that the smaller arm must expect, given those of both arms.
        least: units other than zero that each arm must have.

    Raises:
        RefusedError: it is.
    """
    units, other = outcomes.units, outcomes.counts.sum(1)
    if units.min() < 2:
        told = f"there are {units[0]} and {units[1]} units, at least 2 are needed in each arm; wait for more."
        raise RefusedError(test, "an arm is too small", told)
    share = other.sum() * units.min() / units.sum()
    if share < expected or other.min() < least:
        told = (
            f"{other[0]} and {other[1]} units are not zero; the smaller arm must expect {expected:g} of them and each "
            f"have {least}, it expects {share:.1f}; wait for more."
        )
        raise RefusedError(test, "too few positives", told)


def _require_no_negatives(test: str, outcomes: Outcomes) -> None:
    if outcomes.negative:
        told = f"the least outcome is {outcomes.values[0]:g}, must be zero or above; use mann_whitney or welch."
        raise RefusedError(test, "negative values", told)


def _require_spread(test: str, outcomes: Outcomes) -> None:
    if not varies(outcomes):
        raise RefusedError(test, "no variation", "all outcomes are equal; there is no spread to measure by.")
    if (share := dominance(outcomes)) > DOMINANT:
        told = (
            f"one row holds {share:.1%} of the sum of squares, at most {DOMINANT:.0%} may be; use winsorised, "
            "mann_whitney or combination."
        )
        raise RefusedError(test, "one row dominates", told)
    if (uneven := lopsidedness(outcomes)) > LOPSIDED:
        told = (
            f"the third cumulant of the difference of means is {uneven:.2f} standard errors, at most {LOPSIDED:g} may "
            "be; make the arms equal, or use mann_whitney or combination."
        )
        raise RefusedError(test, "skewed and unequal arms", told)


def _welch(
    test: str,
    tested: Outcomes,
    outcomes: Outcomes,
    level: float,
    effect: MeanEffect | None,
    details: Mapping[str, float],
) -> Finding:
    first, second = moments(tested.scaled, CONTROL), moments(tested.scaled, TREATMENT)
    error, freedom = welch_error(first, second)
    if error == 0:
        raise RefusedError(test, "no variation", "within each arm all outcomes are equal.")
    t = (second.mean - first.mean) / error
    p = float(2 * special.stdtr(freedom, -abs(t)))
    return _finding(test, t, p, outcomes, level, effect, {**details, "freedom": freedom})


def _finding(
    test: str,
    statistic: float,
    p_value: float,
    outcomes: Outcomes,
    level: float,
    effect: MeanEffect | None,
    details: Mapping[str, float],
) -> Finding:
    return Finding(
        test=test,
        question=QUESTIONS[test],
        statistic=float(statistic),
        p_value=p_value,
        effect=effect or mean_effect(outcomes, level=level),
        details=details,
    )
