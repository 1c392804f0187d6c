"""What two arms brought in, as counts by value: a sketch that is exact, merges, and is all that the tests need.

Most units bring nothing and a few bring much. So the outcomes of an arm are kept as a count of zeros and a count for
every other value. Counts are whole numbers and values are sorted: however the rows were cut into partitions, and in
whatever order those were merged, the sketch is the same to the bit, and so is every number computed from it.

Rank statistics need less, and `rank_sums` finds it without a sketch: it sorts each arm's positive values alone and
merges them in one pass.
"""

# Shapes: N units, G different values other than zero; arm 0 is the control, arm 1 the treatment.

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.common.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# typed as what it is to its readers: mypy knows nothing of numba
compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")

CONTROL, TREATMENT = 0, 1
ARMS = ("control", "treatment")


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """Outcomes of two arms by value.

    Attributes:
        values: (G) float64, strictly rising, without zero.
        counts: (2, G) int64: how many units of each arm have the value.
        zeros: (2) int64: how many units of each arm have none of it.
    """

    values: Floats
    counts: Integers
    zeros: Integers

    @cached_property
    def units(self) -> Integers:
        """(2) units of each arm."""
        return np.asarray(self.zeros + self.counts.sum(1))

    @cached_property
    def negative(self) -> int:
        """How many of the values are below zero."""
        return int(np.searchsorted(self.values, 0.0))

    @cached_property
    def positives(self) -> Integers:
        """(2) units of each arm with a value above zero."""
        return np.asarray(self.counts[:, self.negative :].sum(1))

    @cached_property
    def both(self) -> Integers:
        """(G) units of both arms with each value."""
        return np.asarray(self.counts.sum(0))

    @cached_property
    def exponent(self) -> int:
        """The least power of two above the size of every value; 0 when there is none."""
        return int(np.frexp(np.abs(self.values[[0, -1]]).max())[1]) if len(self.values) else 0

    @cached_property
    def scaled(self) -> "Outcomes":
        """The same outcomes over 2^`exponent`: within -1 to 1, so that no square leaves the range of numbers.

        No digit is lost, but of values 1e300 times less than the largest.
        """
        return Outcomes(values=np.ldexp(self.values, -self.exponent), counts=self.counts, zeros=self.zeros)

    @classmethod
    def of(cls, control: ArrayLike, treatment: ArrayLike) -> "Outcomes":
        """Count the outcomes of two arms.

        Args:
            control: (N0) outcome of each unit of the control, in any unit of money; any order.
            treatment: (N1) of the treatment.

        Returns:
            The sketch; an arm may be empty, as it may be in one partition of many.

        Raises:
            InputError: an outcome is not a finite number; the message names arm and row.

        Source:
            Ours.
        """
        arms = [_checked(values, arm) for values, arm in zip((control, treatment), ARMS, strict=True)]
        others = [values[values != 0] for values in arms]
        both = np.concatenate(others)
        values, place = np.unique(both, return_inverse=True)
        first = len(others[0])
        counts = [np.bincount(part, minlength=len(values)) for part in (place[:first], place[first:])]
        zeros = [len(all_) - len(other) for all_, other in zip(arms, others, strict=True)]
        return cls(values=values, counts=np.array(counts, np.int64), zeros=np.array(zeros, np.int64))

    def merged(self, *others: "Outcomes") -> "Outcomes":
        """The sketch of all rows together.

        Args:
            others: sketches of other rows.

        Returns:
            What `of` would have made of all rows at once, to the bit.

        Source:
            Ours.
        """
        parts = (self, *others)
        values, place = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
        counts = np.zeros((2, len(values)), np.int64)
        for arm in (CONTROL, TREATMENT):
            np.add.at(counts[arm], place, np.concatenate([part.counts[arm] for part in parts]))
        return Outcomes(values=values, counts=counts, zeros=np.sum([part.zeros for part in parts], 0))

    def capped(self, cap: float) -> "Outcomes":
        """The same units, none with more than `cap`, which is above zero."""
        above = int(np.searchsorted(self.values, cap))
        if above == len(self.values):
            return self
        counts = np.concatenate([self.counts[:, :above], self.counts[:, above:].sum(1, keepdims=True)], 1)
        return Outcomes(values=np.append(self.values[:above], cap), counts=counts, zeros=self.zeros)


@dataclass(frozen=True, kw_only=True)
class RankSums:
    """All that rank tests need of two arms. Every number is a whole number, held exactly.

    Attributes:
        units: of control and treatment.
        negatives: units of each arm below zero.
        positives: units of each arm above zero.
        wins: twice the pairs (control, treatment) of positive units in which the treatment has more, and once the pairs
            in which both have the same.
        negative_wins: the same among the negative units.
        ties: sum of t^3 - t over groups of t equal positive values.
        negative_ties: the same among negative values.
    """

    units: tuple[int, int]
    negatives: tuple[int, int]
    positives: tuple[int, int]
    wins: int
    negative_wins: int
    ties: float
    negative_ties: float

    @property
    def zeros(self) -> tuple[int, int]:
        """Units of each arm at zero."""
        first, second = (
            n - less - more for n, less, more in zip(self.units, self.negatives, self.positives, strict=True)
        )
        return first, second

    @property
    def all_wins(self) -> int:
        """Twice Mann and Whitney's U of the treatment over all units."""
        below, zeros, above = self.negatives, self.zeros, self.positives
        among = self.wins + self.negative_wins + zeros[0] * zeros[1]
        return among + 2 * (above[1] * (zeros[0] + below[0]) + zeros[1] * below[0])

    @property
    def all_ties(self) -> float:
        """Sum of t^3 - t over all groups of equal values."""
        zeros = float(sum(self.zeros))
        return self.ties + self.negative_ties + (zeros**3 - zeros)


def rank_sums(control: ArrayLike, treatment: ArrayLike) -> RankSums:
    """Rank two arms without ranks: sort each arm's positive values, then merge in one pass.

    Args:
        control: (N0) outcomes in any order.
        treatment: (N1) outcomes.

    Returns:
        The sums, equal to those of a sketch to the bit.

    Raises:
        InputError: an outcome is not a finite number.

    Source:
        Mann & Whitney 1947; zeros are counted and never sorted, which is ours.
    """
    arms = [_checked(values, arm) for values, arm in zip((control, treatment), ARMS, strict=True)]
    above = [_sorted_above(values) for values in arms]
    below = [_sorted_above(-values) if len(values) and values.min() < 0 else np.zeros(0) for values in arms]
    wins, ties = _merge(*above)
    losses, negative_ties = _merge(*below)
    return RankSums(
        units=(len(arms[0]), len(arms[1])),
        negatives=(len(below[0]), len(below[1])),
        positives=(len(above[0]), len(above[1])),
        wins=int(wins),
        negative_wins=2 * len(below[0]) * len(below[1]) - int(losses),
        ties=float(ties),
        negative_ties=float(negative_ties),
    )


def rank_sums_of(outcomes: Outcomes) -> RankSums:
    """The same sums from a sketch.

    Args:
        outcomes: of two arms.

    Returns:
        The sums.

    Source:
        Ours.
    """
    cut, counts = outcomes.negative, outcomes.counts
    (losers, wins, ties), (below, negative_wins, negative_ties) = _counted(counts[:, cut:]), _counted(counts[:, :cut])
    units = outcomes.units
    return RankSums(
        units=(int(units[0]), int(units[1])),
        negatives=below,
        positives=losers,
        wins=wins,
        negative_wins=negative_wins,
        ties=ties,
        negative_ties=negative_ties,
    )


def _counted(counts: Integers) -> tuple[tuple[int, int], int, float]:
    first, second = counts
    below = np.cumsum(first) - first
    total = (first + second).astype(np.float64)
    tied = total[total > 1]
    return (
        (int(first.sum()), int(second.sum())),
        int((second * (2 * below + first)).sum()),
        float(_added(tied**3 - tied)),
    )


def _added(terms: Floats) -> float:
    """A sum from left to right, as the merging pass makes it."""
    return float(np.cumsum(terms)[-1]) if len(terms) else 0.0


def _checked(values: ArrayLike, arm: str) -> Floats:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as wrong:
        raise InputError(f"the outcomes of the {arm} are not all numbers ({wrong}); give money as numbers.") from wrong
    if array.ndim != 1:
        raise InputError(f"the outcomes of the {arm} have the shape {array.shape}; give one number for each unit.")
    # neither of the extremes of finite numbers is infinite, and NaN is both extremes
    if len(array) and not np.isfinite([array.min(), array.max()]).all():
        row = int(np.argmin(np.isfinite(array)))
        raise InputError(
            f"the outcome in row {row} of the {arm} is {array[row]}, must be a finite number; drop or fill it."
        )
    return array


def _sorted_above(values: Floats) -> Floats:
    positive = values[values > 0]
    positive.sort()
    return positive


@compiled
def _merge(first: Floats, second: Floats) -> tuple[int, float]:
    """Wins of the second over the first, twice, and ties, of two sorted arms."""
    wins, ties = 0, 0.0
    i, j, m, n = 0, 0, len(first), len(second)
    while i < m and j < n:
        a, b = first[i], second[j]
        alone = a != b and (i + 1 == m or first[i + 1] != a) and (j + 1 == n or second[j + 1] != b)
        if alone:  # which of them is less cannot be foreseen, so there is no branch on it
            more = int(b < a)
            wins += more * 2 * i
            j += more
            i += 1 - more
            continue
        least = min(a, b)
        from_i, from_j = i, j
        while i < m and first[i] == least:
            i += 1
        while j < n and second[j] == least:
            j += 1
        wins += (j - from_j) * (from_i + i)
        tied = float(i - from_i + j - from_j)
        ties += tied * tied * tied - tied
    wins += 2 * m * (n - j)
    for rest, begin in ((first, i), (second, j)):
        while begin < len(rest):
            end = begin + 1
            while end < len(rest) and rest[end] == rest[begin]:
                end += 1
            tied = float(end - begin)
            ties += tied * tied * tied - tied
            begin = end
    return wins, ties
