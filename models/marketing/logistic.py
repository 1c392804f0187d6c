"""Logistic regression: a straight line of features turned into chances, with weights and a ridge.

With features z in standard units, weights w and the ridge k, the slopes b and the offset c make

    sum_i w_i ( -y_i log p_i - (1 - y_i) log(1 - p_i) )  +  k |b|^2 / 2,      p = 1 / (1 + exp(-(c + b . z)))

least. The offset is free, so the weighted mean chance is the weighted mean label. With k above 0 there is always one
answer. Without a ridge there is none where a line parts the labels; whether one does is a linear program, and it is
asked wherever slopes become steep.
"""

# Shapes: N rows, F features.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import expit

from models.common.errors import InputError
from models.marketing.standard import standard_units

Floats = NDArray[np.float64]

STEPS = 200
"""Most Newton steps."""
NEAR = 1e-15
"""Nats per row that the next step promises, below which it is the last: the loss itself cannot tell them apart."""
STEEP = 8.0
"""Logits above which it is asked whether a line parts the labels; only without a ridge."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Logistic:
    """Chance 1 / (1 + exp(-(offset + slope . features))).

    Attributes:
        offset: logit at features of 0.
        slope: (F) of the features as they come; 0 for columns that did not vary.
    """

    offset: float
    slope: Floats

    def logits(self, features: NDArray[Any]) -> Floats:
        """(N) logits of features (N, F)."""
        return np.asarray(np.asarray(features, np.float64) @ self.slope + self.offset, np.float64)

    def __call__(self, features: NDArray[Any]) -> Floats:
        """(N) chances of features (N, F)."""
        return np.asarray(expit(self.logits(features)), np.float64)


def fit_logistic(
    features: NDArray[Any], label: NDArray[Any], weight: NDArray[Any] | None = None, *, ridge: float = 1.0
) -> Logistic:
    """Fit a logistic regression by Newton's method.

    Args:
        features: (N, F) finite.
        label: (N) 0 to 1, not all 0 and not all 1.
        weight: (N) 0 or more; None for ones. A row without weight is as if it were not there.
        ridge: k, on squared slopes in standard units of the features (of rows with weight, each counted once), in rows;
            0 or more.

    Returns:
        The model. Of columns that repeat each other each takes a part.

    Raises:
        InputError: a value cannot be, the labels are all 0 or all 1, or there is no ridge and a line parts the labels.

    Source:
        McCullagh & Nelder 1989, "Generalized linear models", section 2.5; ridge: le Cessie & van Houwelingen 1992,
        "Ridge estimators in logistic regression"; when there is no answer: Albert & Anderson 1984, "On the existence of
        maximum likelihood estimates in logistic regression models".
    """
    table, truth = np.asarray(features, np.float64), np.asarray(label, np.float64)
    mass = np.ones(len(truth)) if weight is None else np.asarray(weight, np.float64)
    _checked(table, truth, mass, ridge)
    counted = mass > 0
    table, truth, mass = table[counted], truth[counted], mass[counted]
    total = float(mass.sum())
    mass, penalty = mass / total, ridge / total
    units = standard_units(table)
    design = np.concatenate([np.ones((len(table), 1)), units(table)], axis=1)
    shrink = np.append(0.0, np.full(design.shape[1] - 1, penalty))
    found = _least(design, truth, mass, shrink)
    if ridge == 0 and np.abs(design @ found).max() > STEEP and _parted(design, truth):
        raise InputError(
            "the logistic regression has no finite slopes, since a line of the features parts the labels; use a ridge "
            "above 0."
        )
    offset, slope = units.back(found[1:])
    return Logistic(offset=float(found[0]) + offset, slope=slope)


def _least(design: Floats, truth: Floats, mass: Floats, shrink: Floats) -> Floats:
    """Where the loss is least; rows have weights that add up to one, and the offset is the first column's."""

    def cost(at: Floats) -> float:
        line = design @ at
        # each branch alone: their difference would lose the digits of a sure and right chance
        loss = truth * np.logaddexp(0, -line) + (1 - truth) * np.logaddexp(0, line)
        return float(mass @ loss + 0.5 * shrink @ at**2)

    share = float(mass @ truth)
    now = np.zeros(design.shape[1])
    now[0] = np.log(share) - np.log(float(mass @ (1 - truth)))
    lowest = cost(now)
    for _ in range(STEPS):
        chance = expit(design @ now)
        slope = design.T @ (mass * (chance - truth)) + shrink * now
        bend = design.T @ (design * (mass * chance * (1 - chance))[:, None]) + np.diag(shrink)
        step = np.linalg.lstsq(bend, slope, rcond=None)[0]
        if slope @ step <= NEAR:
            # from here one whole step ends at the optimum up to rounding
            tried = now - step
            return tried if cost(tried) <= lowest + NEAR else now
        size = 1.0
        while (lower := cost(now - size * step)) >= lowest and size > 1e-10:
            size /= 2
        if lower >= lowest:  # no step is downhill any more: what is left is rounding
            break
        now, lowest = now - size * step, lower
    return now


def _parted(design: Floats, truth: Floats) -> bool:
    """Whether some line is nowhere on the wrong side of the labels, and somewhere on the right one."""
    sure = (truth == 0) | (truth == 1)
    signed = np.where(truth == 1, 1.0, -1.0)[:, None] * design
    gain = signed[sure].mean(axis=0)
    both = signed[~sure]  # a label between 0 and 1 is on either side, so the line must go through it
    found = linprog(
        -gain,
        A_ub=np.concatenate([-signed[sure], signed[sure]]),
        b_ub=np.repeat([0.0, 1.0], int(sure.sum())),
        A_eq=both if len(both) else None,
        b_eq=np.zeros(len(both)) if len(both) else None,
        bounds=(None, None),
        method="highs",
    )
    return not found.success or -float(found.fun) > 1e-9


def _checked(table: Floats, truth: Floats, mass: Floats, ridge: float) -> None:
    if table.ndim != 2 or not len(table) or truth.shape != (len(table),) or mass.shape != truth.shape:
        raise InputError(
            f"features (N, F), labels (N) and weights (N) are needed, one row each and at least one, got "
            f"{table.shape}, {truth.shape}, {mass.shape}."
        )
    wrong = np.argwhere(~np.isfinite(table))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"features of row {row}, column {column} are {table[row, column]}, must be finite; fill them or leave the "
            "row out."
        )
    for name, numbers, good, remedy in (
        ("label", truth, (truth >= 0) & (truth <= 1), "0 to 1"),
        ("weight", mass, np.isfinite(mass) & (mass >= 0), "0 or more and finite"),
    ):
        odd = np.flatnonzero(~good)
        if len(odd):
            raise InputError(f"{name} of row {odd[0]} is {numbers[odd[0]]}, must be {remedy}; mend or drop the row.")
    if not (truth[mass > 0] > 0).any() or not (truth[mass > 0] < 1).any():
        raise InputError(
            f"the labels of {int((mass > 0).sum())} rows with weight are alike, {truth[mass > 0].max(initial=0):g}, so "
            "there is nothing to tell apart; wait for the other kind."
        )
    if not (np.isfinite(ridge) and ridge >= 0):
        raise InputError(f"ridge must be 0 or more and finite, got {ridge}.")
