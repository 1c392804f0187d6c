"""Isotonic calibration: turn scores into chances without changing their order.

The fit is the nondecreasing step function of least weighted squares (pool adjacent violators). It is served as the
piecewise linear function through the blocks' mean scores and rates, constant beyond the outermost blocks. Between them
it rises strictly, so that no two events there become equal that were not: AUC stays, up to ties among the scores below
the first block's mean or above the last one's.

A broken line through the middles of steps has not the mean of the steps. So all chances are moved by one straight line
at the end, toward 0 or toward 1: with m the mean of the labels and c that of the chances,

    chance * m / c   if c >= m,      1 - (1 - chance) (1 - m) / (1 - c)   if c < m.

What was fitted is then right on average over the events that it was fitted to, and its order is what it was.
"""

# Shapes: E events, B blocks, K scores that differ, C rows that were scored, T tasks.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from models.common.contracts import Payload

Floats = NDArray[np.float64]

KNOTS = 256
"""Most knots of a calibration that travels with a network."""
SAME = 1e-12
"""Rates of neighbouring blocks that are no further apart are one rate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Isotonic:
    """A nondecreasing function of scores.

    Attributes:
        score: (B) mean score of each block, rising strictly.
        chance: (B) rate of each block, rising strictly, 0 to 1.

    Raises:
        ValueError: the arrays are not such.
    """

    score: Floats
    chance: Floats

    def __post_init__(self) -> None:
        if not len(self.score) or self.score.shape != self.chance.shape or self.score.ndim != 1:
            raise ValueError(
                f"Isotonic needs as many scores as chances, at least one, got {self.score.shape}, {self.chance.shape}."
            )
        for name, values in (("score", self.score), ("chance", self.chance)):
            wrong = np.flatnonzero(~(np.diff(values, prepend=-np.inf) > 0) | ~np.isfinite(values))
            if len(wrong):
                raise ValueError(f"Isotonic.{name} must rise and be finite, got {values[wrong[0]]} at {wrong[0]}.")
        if self.chance[0] < 0 or self.chance[-1] > 1:
            raise ValueError(f"Isotonic.chance must lie from 0 to 1, got {self.chance[0]} to {self.chance[-1]}.")

    def __call__(self, score: NDArray[Any]) -> Floats:
        """Calibrated chances of scores of any shape, in float64."""
        return np.asarray(np.interp(np.asarray(score, np.float64), self.score, self.chance), np.float64)

    def payload(self) -> Payload:
        """The function as two arrays."""
        return {"score": self.score, "chance": self.chance}

    @classmethod
    def from_payload(cls, payload: Payload) -> "Isotonic":
        """The function that `payload` described; raises `KeyError` for a part that is missing."""
        return cls(score=np.asarray(payload["score"], np.float64), chance=np.asarray(payload["chance"], np.float64))


def fit_isotonic(
    score: NDArray[Any], label: NDArray[Any], weight: NDArray[Any] | None = None, *, prior: float = 1.0
) -> Isotonic:
    """Fit chances to the labels of a slice that the model was not trained on.

    Args:
        score: (E) scores, finite; ties are pooled first.
        label: (E) labels, 0 to 1.
        weight: (E) weights above zero; None for ones.
        prior: weight, in events, of one made-up event with the mean label at the lowest score and of one at the
            highest, so that no chance is exactly 0 or 1; 0 for none.

    Returns:
        The function; its mean over the events is that of their labels, except where chances are 0 and 1 alone.

    Raises:
        ValueError: lengths differ, there is no event, or a value is not finite or outside its range.

    Source:
        Ayer et al. 1955, "An empirical distribution function for sampling with incomplete information"; for
        calibration Zadrozny & Elkan 2002, "Transforming classifier scores into accurate multiclass probability
        estimates". The made-up events, the interpolation and the kept mean are ours.
    """
    step = staircase(score, label, weight, prior=prior)
    return keep_mean(step, score, label, weight)


def staircase(
    score: NDArray[Any], label: NDArray[Any], weight: NDArray[Any] | None = None, *, prior: float = 1.0
) -> Isotonic:
    """The blocks of `fit_isotonic`, before their mean is kept; arguments, errors and source as there."""
    knots_K, mass_K, positive_K = _by_score(score, label, weight)
    if not prior >= 0:
        raise ValueError(f"prior must be 0 or more, got {prior}.")
    mean = positive_K.sum() / mass_K.sum()
    for end in (0, -1):
        mass_K[end] += prior
        positive_K[end] += prior * mean
    start_B = np.asarray(isotonic_regression(positive_K / mass_K, weights=mass_K).blocks[:-1], np.int64)
    centre_B, chance_B = _blocks(start_B, knots_K, mass_K, positive_K)
    # blocks of one rate, which rounding can leave apart, are one
    fresh_B = np.append(True, (np.diff(chance_B) > SAME) & (np.diff(centre_B) > 0))
    centre_B, chance_B = _blocks(start_B[fresh_B], knots_K, mass_K, positive_K)
    return Isotonic(score=centre_B, chance=chance_B)


def _blocks(start_B: NDArray[np.int64], knots_K: Floats, mass_K: Floats, positive_K: Floats) -> tuple[Floats, Floats]:
    """Mean score and rate (B) of blocks of knots."""
    mass_B = np.add.reduceat(mass_K, start_B)
    rate_B = np.clip(np.add.reduceat(positive_K, start_B) / mass_B, 0, 1)
    return np.add.reduceat(mass_K * knots_K, start_B) / mass_B, rate_B


def keep_mean(step: Isotonic, score: NDArray[Any], label: NDArray[Any], weight: NDArray[Any] | None = None) -> Isotonic:
    """Move chances toward 0 or toward 1 until their mean over some events is that of the labels.

    Args:
        step: any function.
        score: (E) scores, finite.
        label: (E) labels, 0 to 1.
        weight: (E) weights above zero; None for ones.

    Returns:
        The function, a straight line of the old one, and as strictly rising; the old one where the labels have a mean
        of 0 or 1 that no such line reaches.

    Raises:
        ValueError: as for `fit_isotonic`.

    Source:
        Ours; see the top of this module.
    """
    knots_K, mass_K, positive_K = _by_score(score, label, weight)
    wanted = positive_K.sum() / mass_K.sum()
    found = (mass_K * step(knots_K)).sum() / mass_K.sum()
    if found > wanted > 0:
        moved = step.chance * (wanted / found)
    elif found < wanted < 1:
        moved = 1 - (1 - step.chance) * ((1 - wanted) / (1 - found))
    else:
        return step
    return Isotonic(score=step.score, chance=np.clip(moved, 0, 1))


def _by_score(score: NDArray[Any], label: NDArray[Any], weight: NDArray[Any] | None) -> tuple[Floats, Floats, Floats]:
    """(K) scores that differ, rising, and the weights and weighted labels at each; raises `ValueError`."""
    values, truth = np.asarray(score, np.float64), np.asarray(label, np.float64)
    mass = np.ones(len(values)) if weight is None else np.asarray(weight, np.float64)
    if values.ndim != 1 or not len(values) or values.shape != truth.shape or values.shape != mass.shape:
        raise ValueError(
            f"scores, labels and weights must be rows of one length, at least 1, got {values.shape}, {truth.shape}, "
            f"{mass.shape}."
        )
    for name, numbers, good in (
        ("score", values, np.isfinite(values)),
        ("label", truth, (truth >= 0) & (truth <= 1)),
        ("weight", mass, np.isfinite(mass) & (mass > 0)),
    ):
        wrong = np.flatnonzero(~good)
        if len(wrong):
            raise ValueError(f"{name} of row {wrong[0]} is {numbers[wrong[0]]}; scores are finite, labels 0 to 1, "
                             f"weights above 0.")  # fmt: skip
    knots, place = np.unique(values, return_inverse=True)
    at_knot = (np.bincount(place, weights=part) for part in (mass, mass * truth))
    total, positive = (np.asarray(part, np.float64) for part in at_knot)
    return knots, total, positive


def fit_tasks(score_CT: NDArray[Any], label_CT: NDArray[Any], knots: int) -> list[Isotonic]:
    """What turns the scores of each task into chances, with at most so many knots.

    Args:
        score_CT: (C, T) scores.
        label_CT: (C, T) responses to the same, that the scores were not learned from.
        knots: most knots of a function, 3 or more; where a fit has more, events of like score are pooled first.

    Returns:
        One function a task; each keeps the mean of its labels.

    Source:
        See `fit_isotonic`.
    """
    steps = []
    for task in range(score_CT.shape[1]):
        score, label = score_CT[:, task].astype(np.float64), label_CT[:, task]
        step = fit_isotonic(score, label)
        if len(step.score) > knots:
            group = np.empty(len(score), np.int64)
            group[np.argsort(score, kind="stable")] = np.arange(len(score)) * (knots - 2) // len(score)
            like = (np.bincount(group, weights=score) / np.bincount(group))[group]
            step = keep_mean(staircase(like, label), score, label)
        steps.append(step)
    return steps
