"""Isotonic calibration: turn scores into chances without changing their order.

The fit is the nondecreasing step function of least weighted squares (pool adjacent violators). It is served as the
piecewise linear function through the blocks' mean scores and rates, constant beyond the outermost blocks. Between them
it rises strictly, so that no two events there become equal that were not: AUC stays, up to ties among the scores below
the first block's mean or above the last one's.
"""

# Shapes: E events, B blocks.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from models.common.contracts import Payload

Floats = NDArray[np.float64]


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
        The function.

    Raises:
        ValueError: lengths differ, there is no event, or a value is not finite or outside its range.

    Source:
        Ayer et al. 1955, "An empirical distribution function for sampling with incomplete information"; for
        calibration Zadrozny & Elkan 2002, "Transforming classifier scores into accurate multiclass probability
        estimates". The made-up events and the interpolation are ours.
    """
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
    if not prior >= 0:
        raise ValueError(f"prior must be 0 or more, got {prior}.")
    if prior:
        mean = float(np.average(truth, weights=mass))
        values = np.concatenate([[values.min(), values.max()], values])
        truth, mass = np.concatenate([[mean, mean], truth]), np.concatenate([[prior, prior], mass])
    knots, place = np.unique(values, return_inverse=True)
    total = np.bincount(place, weights=mass)
    rate = np.bincount(place, weights=mass * truth) / total
    blocks = isotonic_regression(rate, weights=total).blocks
    starts = np.asarray(blocks[:-1], np.int64)
    pooled = np.add.reduceat(total, starts)
    chance = np.clip(np.add.reduceat(total * rate, starts) / pooled, 0, 1)
    centre = np.add.reduceat(total * knots, starts) / pooled
    # blocks of equal rate or centre, which rounding can leave apart, are one
    fresh = np.append(True, (np.diff(chance) > 0) & (np.diff(centre) > 0))
    return Isotonic(score=centre[fresh], chance=chance[fresh])


def fit_tasks(score_CT: NDArray[Any], label_CT: NDArray[Any], knots: int) -> list[Isotonic]:
    """What turns the scores of each task into chances, with at most so many knots.

    Args:
        score_CT: (C, T) scores.
        label_CT: (C, T) responses to the same, that the scores were not learned from.
        knots: most knots of a function, 3 or more; where a fit has more, events of like score are pooled first.

    Returns:
        One function a task.

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
            score = (np.bincount(group, weights=score) / np.bincount(group))[group]
            step = fit_isotonic(score, label)
        steps.append(step)
    return steps
