"""Logistic regression with a ridge and weights, by Newton's method."""

# Shapes: I rows, F features.

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.common.contracts import InputError

Floats = NDArray[np.float64]

_STEPS = 50


def fit_ridge(
    feature: NDArray[Any], label: NDArray[Any], *, ridge: float = 1.0, weight: NDArray[Any] | None = None
) -> Floats:
    """Coefficients of a logistic regression.

    Args:
        feature: (I, F), finite; an intercept is added, and columns are standardized for the fit.
        label: (I) zeros and ones, both of them with weight.
        ridge: on the squares of the standardized coefficients but the intercept, in rows; above zero, so that labels
            which a feature parts have an answer too.
        weight: (I) of the rows, zero or more; None: one each.

    Returns:
        (F+1) coefficients of the features as given, the intercept first; 0 for columns that do not vary.

    Raises:
        InputError: shapes differ, numbers are not finite, labels are all alike, or the ridge is not above zero.

    Source:
        Cox 1958, "The regression analysis of binary sequences"; ridge: le Cessie & van Houwelingen 1992.
    """
    x, y = np.asarray(feature, np.float64), np.asarray(label, np.float64)
    w = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
    _checked(x, y, w, ridge)
    middle, spread = x.mean(0), x.std(0)
    varied = spread > 1e-9 * (1 + np.abs(x).max(0, initial=0.0))  # a constant's spread is one of rounding errors
    design = np.column_stack([np.ones(len(x)), (x[:, varied] - middle[varied]) / spread[varied]])
    penalty = np.append(0.0, np.full(int(varied.sum()), float(ridge)))

    def cost(beta: Floats) -> float:
        z = design @ beta
        return float((w * (np.logaddexp(0, z) - y * z)).sum() + 0.5 * (penalty * beta**2).sum())

    rate = float((w * y).sum() / w.sum())
    beta = np.append(np.log(rate / (1 - rate)), np.zeros(len(penalty) - 1))
    now = cost(beta)
    for _ in range(_STEPS):
        chance = expit(design @ beta)
        slope = design.T @ (w * (chance - y)) + penalty * beta
        curve = (design * (w * chance * (1 - chance))[:, None]).T @ design + np.diag(penalty + 1e-10)
        step, size = np.linalg.solve(curve, slope), 1.0
        while (after := cost(beta - size * step)) > now and size > 1e-6:
            size /= 2
        if after >= now:  # no step is downhill any more: what is left is rounding
            break
        beta, now = beta - size * step, after
        if float(slope @ step) <= 1e-12 * (1 + abs(now)):
            break
    found = np.zeros(x.shape[1] + 1)
    found[1:][varied] = beta[1:] / spread[varied]
    found[0] = beta[0] - found[1:] @ middle
    return found


def logits(beta: Floats, feature: NDArray[Any]) -> Floats:
    """(I) logits of rows at coefficients that `fit_ridge` found."""
    return np.asarray(beta[0] + np.asarray(feature, np.float64) @ beta[1:], np.float64)


def _checked(x: Floats, y: Floats, w: Floats, ridge: float) -> None:
    if x.ndim != 2 or y.shape != (len(x),) or w.shape != (len(x),):
        raise InputError(f"features (I, F), labels and weights (I) are needed, got {x.shape}, {y.shape}, {w.shape}.")
    if not np.isfinite(x).all() or not (np.isfinite(w) & (w >= 0)).all():
        raise InputError("features must be finite and weights finite and zero or more; look for missing values.")
    if not ((y == 0) | (y == 1)).all() or not (w[y == 1] > 0).any() or not (w[y == 0] > 0).any():
        raise InputError(f"labels must be zeros and ones, both with weight; got {len(y)} with a sum of {y.sum():g}.")
    if not ridge > 0:
        raise InputError(f"the ridge must be above zero, got {ridge}; without one separable labels have no optimum.")
