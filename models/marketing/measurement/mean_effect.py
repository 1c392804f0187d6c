"""How much an arm brought in per unit beyond the other, with its interval.

Tests of ranks and of parts say whether two arms differ; money is counted in means. So the difference of means stands
beside every p-value, over all units of the arms, those included whom nothing was ever sent.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from models.marketing.measurement.outcomes import CONTROL, TREATMENT, Outcomes

DOMINANT = 0.25
"""Largest share of one row in the sum of squares, both arms together, at which Student's law still speaks for a mean.

Under permutation of the labels a mean is as near to normal as its largest row allows (Hajek's condition); with more the
interval is wide, but its error is no longer known. The share looks at no label, so that refusing by it leaves the size
of what is not refused as it was. `python -m tests.prove marketing` shows the sizes.
"""

LOPSIDED = 0.1
"""Largest standardised third cumulant of the difference of means, in size, at which Student's law still speaks for it.

In arms of equal size skewness cancels. In unequal arms it does not, and Welch's test rejects too often: at 0.1 by some
0.003 at .05, at 0.3 by 0.02.
"""

FEWEST = 5
"""Units that the smaller arm expects to differ from the usual outcome, for Student's law to speak for a mean.

With 2 of them, in arms of 100, a 95 % interval covers 92 %.
"""

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class MeanEffect:
    """A difference of means, treatment less control, in the outcome's own unit per unit of the experiment.

    Attributes:
        control: mean of the control.
        treatment: mean of the treatment.
        difference: treatment less control.
        low: lower end of the interval.
        high: upper end.
        standard_error: of the difference.
        freedom: degrees of freedom of Student's law.
        level: coverage of the interval.
        doubt: why the interval may not cover as often as it says; empty when there is no reason to think so.
    """

    control: float
    treatment: float
    difference: float
    low: float
    high: float
    standard_error: float
    freedom: float
    level: float
    doubt: str = ""

    def sentence(self) -> str:
        """The effect in words."""
        said = f"{self.difference:+.4g} per unit, {self.level:.0%} interval {self.low:+.4g} to {self.high:+.4g}"
        return f"{said} ({self.doubt})" if self.doubt else said


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Units, mean and sum of squares about the mean of one arm."""

    units: int
    mean: float
    square: float

    @property
    def variance(self) -> float:
        """Of one unit, unbiased."""
        return self.square / (self.units - 1)


def moments(outcomes: Outcomes, arm: int) -> Moments:
    """Moments of an arm, the same bits for the same sketch.

    Args:
        outcomes: of two arms.
        arm: `CONTROL` or `TREATMENT`.

    Returns:
        Its moments; squares are taken about the mean, not about zero.

    Source:
        Two passes, as in Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
    """
    count, zeros = outcomes.counts[arm].astype(np.float64), int(outcomes.zeros[arm])
    units = int(outcomes.units[arm])
    held = np.flatnonzero(count)
    if len(held) + bool(zeros) == 1:  # equal outcomes have a mean of their own bits, and no spread of rounding errors
        return Moments(units=units, mean=float(outcomes.values[held[0]]) if len(held) else 0.0, square=0.0)
    mean = float((outcomes.values * count).sum() / units)
    square = float((np.square(outcomes.values - mean) * count).sum()) + zeros * mean**2
    return Moments(units=units, mean=mean, square=square)


def varies(outcomes: Outcomes) -> bool:
    """Whether not all outcomes of both arms together are equal."""
    return len(outcomes.values) + bool(outcomes.zeros.sum()) > 1


def dominance(outcomes: Outcomes) -> float:
    """Share of the furthest row in the sum of squares of both arms about their common mean; 1 when all are equal.

    Args:
        outcomes: of two arms.

    Returns:
        A share; labels do not enter.

    Source:
        Hajek 1961, "Some extensions of the Wald-Wolfowitz-Noether theorem": the condition under which permuted sums
        are normal.
    """
    if not varies(outcomes):
        return 1.0
    units, count, values = int(outcomes.units.sum()), outcomes.both.astype(np.float64), outcomes.scaled.values
    mean = float((values * count).sum() / units)
    squares, zeros = np.square(values - mean), int(outcomes.zeros.sum())
    furthest = max(float(squares.max()), mean**2 if zeros else 0.0)
    return furthest / (float((squares * count).sum()) + zeros * mean**2)


def lopsidedness(outcomes: Outcomes) -> float:
    """Third cumulant of the difference of means, standardised, in size, if the arms do not differ.

    With g the skewness of both arms together,  g |1 / n0^2 - 1 / n1^2| / (1 / n0 + 1 / n1)^1.5.

    Args:
        outcomes: of two arms.

    Returns:
        A number; 0 for arms of equal size. Labels enter by the sizes of arms alone.

    Source:
        The first term of Edgeworth's series: Hall 1992, "The Bootstrap and Edgeworth Expansion", section 2.6.
    """
    if not varies(outcomes):
        return 0.0
    n, count, zeros = int(outcomes.units.sum()), outcomes.both.astype(np.float64), int(outcomes.zeros.sum())
    mean = float((outcomes.scaled.values * count).sum() / n)
    away = outcomes.scaled.values - mean
    square = float((away**2 * count).sum()) + zeros * mean**2
    cube = float((away**3 * count).sum()) - zeros * mean**3
    first, second = 1 / outcomes.units.astype(np.float64)
    uneven = abs(first**2 - second**2) / (first + second) ** 1.5
    return float(abs(cube / n / (square / n) ** 1.5) * uneven)


def doubt_of(outcomes: Outcomes) -> str:
    """Why Student's law may not hold for the difference of means; empty when nothing speaks against it.

    Args:
        outcomes: of two arms.

    Returns:
        In words.

    Source:
        Ours.
    """
    if not varies(outcomes):
        return "all outcomes are equal, so there is no spread to measure by"
    if all(moments(outcomes.scaled, arm).square == 0 for arm in (CONTROL, TREATMENT)):
        return "within each arm all outcomes are equal, so there is no spread to measure by"
    units = outcomes.units
    unusual = int(units.sum()) - max(int(outcomes.both.max()), int(outcomes.zeros.sum()))
    if unusual * units.min() / units.sum() < FEWEST:
        return f"{unusual} units have another outcome than all the rest"
    if (share := dominance(outcomes)) > DOMINANT:
        return f"one row holds {share:.0%} of the sum of squares"
    if (uneven := lopsidedness(outcomes)) > LOPSIDED:
        return f"skewed outcomes in arms of unequal size, {uneven:.2f}"
    return ""


def mean_effect(outcomes: Outcomes, *, level: float = LEVEL) -> MeanEffect:
    """Difference of means with Welch's interval.

    Args:
        outcomes: of two arms, each of at least two units.
        level: coverage of the interval, 0 to 1.

    Returns:
        The effect. Where nothing varies, one row dominates, or skewed arms are of unequal size, `doubt` says so.

    Raises:
        ValueError: an arm has fewer than two units, or the level is not between 0 and 1.

    Source:
        Welch 1947, "The generalization of Student's problem when several different population variances are involved".
    """
    if outcomes.units.min() < 2:
        raise ValueError(f"an interval needs two units in each arm, got {outcomes.units.tolist()}; wait for more.")
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}; 0.95 is usual.")
    first, second = moments(outcomes.scaled, CONTROL), moments(outcomes.scaled, TREATMENT)
    error, freedom = welch_error(first, second)
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error if error > 0 else 0.0
    difference = second.mean - first.mean
    numbers = (first.mean, second.mean, difference, difference - half, difference + half, error)
    control, treatment, difference, low, high, error = np.ldexp(numbers, outcomes.exponent).tolist()
    return MeanEffect(
        control=control,
        treatment=treatment,
        difference=difference,
        low=low,
        high=high,
        standard_error=error,
        freedom=freedom,
        level=level,
        doubt=doubt_of(outcomes),
    )


def welch_error(first: Moments, second: Moments) -> tuple[float, float]:
    """Standard error of a difference of means and Welch's degrees of freedom, from the moments of two arms."""
    parts = first.variance / first.units, second.variance / second.units
    total = sum(parts)
    if total == 0:
        return 0.0, float(first.units + second.units - 2)
    freedom = total**2 / (parts[0] ** 2 / (first.units - 1) + parts[1] ** 2 / (second.units - 1))
    return float(np.sqrt(total)), freedom
