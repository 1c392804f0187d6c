"""Mann-Whitney's question with covariates: would a unit bring more under treatment, all else equal? Doubly robust.

With propensity p_i, a model g_ij of the probability that unit i, treated, brings more than unit j, untreated, and I_ij
whether it did (one half for equal outcomes),

    k_ij = z_i (1 - z_j) / (p_i (1 - p_j)) (I_ij - g_ij) + g_ij,     delta = mean of k_ij over all i != j.

delta is right when either p or g is. There are n (n - 1) pairs, and none of them is ever formed:

* sums over I_ij are sums over sorted outcomes;
* g_ij = sigma(s_i - t_j) is smooth. Its poles lie pi away from the real axis, so a Chebyshev series in s and t with
  some dozens of terms has it to the last bit, and every sum over pairs becomes two sums over units.
"""

# Shapes: N units, Q covariates, M terms of a series.

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from models.common.errors import InputError
from models.marketing.logistic import fit_logistic
from models.marketing.measurement.heavy_tails import RefusedError
from models.marketing.measurement.mean_effect import LEVEL
from models.marketing.measurement.outcomes import Floats
from models.marketing.standard import standard_units

FARTHEST = 10.0
"""Scores beyond are moved there: sigma(10) is 1 - 4.5e-5."""

LEAST_PROPENSITY = 0.01
"""Units that were treated less or more surely than this leave nobody to compare them with."""

LEAST_UNITS = 50
"""Of each arm; with fewer the interval is too narrow: with 20 beside 400 the test rejects 6.4 % at .05."""

UNITS_EACH = 10
"""Of each arm for each covariate; with 3 the test rejects 8 % at .05."""

_PRECISION = 1e-15
_NO_SPREAD = 1e-9
_CHUNK = 1 << 14
_LOGISTIC_OF_NORMAL = 1.702
"""sigma(1.702 x) is within 0.0095 of the normal distribution function (Camilli 1994)."""


@dataclass(frozen=True, kw_only=True)
class AdjustedWins:
    """Probability that a treated unit brings more than an untreated one, ties shared, adjusted for covariates.

    Attributes:
        share: delta; 0.5 when nothing differs.
        standard_error: of it.
        low: lower end of the interval.
        high: upper end.
        level: coverage of the interval.
        p_value: of delta = 0.5.
    """

    share: float
    standard_error: float
    low: float
    high: float
    level: float
    p_value: float


def adjusted_wins(
    outcome: ArrayLike,
    arm: ArrayLike,
    covariates: ArrayLike,
    *,
    propensity: ArrayLike | None = None,
    level: float = LEVEL,
) -> AdjustedWins:
    """Estimate delta with memory that grows like N and time like N log N.

    Args:
        outcome: (N) of each unit.
        arm: (N) 0 for the control, 1 for the treatment.
        covariates: (N, Q) known before the treatment.
        propensity: (N) probabilities of treatment, known by design; fitted by logistic regression when left out.
        level: coverage of the interval.

    Returns:
        delta and its interval, which ends at 0 and 1. It takes p and g as known; with a fitted p it is, if anything,
        too wide.

    Raises:
        InputError: lengths differ, a number is not finite, or an arm is neither 0 nor 1.
        RefusedError: an arm has fewer than `LEAST_UNITS` or `UNITS_EACH` Q units, a unit's propensity is within
            `LEAST_PROPENSITY` of 0 or 1, or no pair differs from another, so that there is no spread to measure by.
        ValueError: the level is not between 0 and 1.

    Source:
        The estimating equation: "Beyond basic A/B testing" (arXiv 2505.08128) and its code robustInfer, which forms all
        pairs and lets equal outcomes win. Series instead of pairs, and g from regressions of ranks, are ours. Degrees
        of freedom: Welch 1947, as Brunner & Munzel 2000, "The nonparametric Behrens-Fisher problem", have them.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}; 0.95 is usual.")
    y, z, x = _checked(outcome, arm, covariates)
    counts = np.array([(~z).sum(), z.sum()])
    if counts.min() < (least := max(LEAST_UNITS, UNITS_EACH * (x.shape[1] - 1))):
        told = f"arms have {counts[0]} and {counts[1]} units, {least} are needed; wait for more."
        raise RefusedError("adjusted_wins", "an arm is too small", told)
    given = _fitted_propensity(x[:, 1:], z) if propensity is None else np.asarray(propensity, np.float64)
    if given.shape != z.shape:
        raise InputError(f"propensities have the shape {given.shape}, there are {len(z)} units; give one for each.")
    if not ((given > LEAST_PROPENSITY) & (given < 1 - LEAST_PROPENSITY)).all():
        told = f"a propensity lies outside of {LEAST_PROPENSITY} to {1 - LEAST_PROPENSITY}; leave such units out."
        raise RefusedError("adjusted_wins", "no overlap", told)
    s, t = outcome_scores(y, z, x)
    rows, columns = pair_sums(y, z, given, s, t)
    return _interval(rows, columns, z, level)


def pair_sums(y: Floats, z: NDArray[np.bool_], propensity: Floats, s: Floats, t: Floats) -> tuple[Floats, Floats]:
    """Sums of k_ij over j and over i, without forming a pair.

    Args:
        y: (N) outcomes.
        z: (N) whether treated.
        propensity: (N) probabilities of treatment.
        s: (N) scores of units as treated.
        t: (N) scores of units as untreated.

    Returns:
        (N) sums of k_ij over j != i, and (N) over i != j.

    Source:
        Ours; convergence of the series: Trefethen 2013, "Approximation Theory and Approximation Practice", theorem 8.2.
    """
    treated, control = z / propensity, ~z / (1 - propensity)
    won, lost = _indicators(y, treated, control)
    series = _Series(s, t)
    over_j, over_i = (
        series.row_sums(np.stack([control, np.ones(len(y))], 1)),
        series.column_sums(np.stack([treated, np.ones(len(y))], 1)),
    )
    itself = special.expit(s - t)
    rows = treated * (won - over_j[:, 0]) + over_j[:, 1] - itself
    columns = control * (lost - over_i[:, 0]) + over_i[:, 1] - itself
    return rows, columns


def outcome_scores(y: Floats, z: NDArray[np.bool_], x: Floats) -> tuple[Floats, Floats]:
    """Scores whose difference is the logit of g, from a regression of ranks within each arm.

    Args:
        y: (N) outcomes.
        z: (N) whether treated.
        x: (N, 1 + Q) covariates after a column of ones.

    Returns:
        (N) scores as treated and (N) as untreated, within `FARTHEST` of zero.

    Source:
        Ours.
    """
    rank, units = stats.rankdata(y) / (len(y) + 1), standard_units(x)
    x = np.concatenate([np.ones((len(y), 1)), units(x)], 1)
    fits, spread = [], 0.0
    for side in (z, ~z):
        coefficients = np.linalg.lstsq(x[side], rank[side], rcond=None)[0]
        fits.append(x @ coefficients)
        spread += float(np.square(rank[side] - fits[-1][side]).mean())
    centre = (fits[0].mean() + fits[1].mean()) / 2
    scale = _LOGISTIC_OF_NORMAL / np.sqrt(spread) if spread > 0 else 1.0
    first, second = (np.clip(scale * (fit - centre), -FARTHEST, FARTHEST) for fit in fits)
    return first, second


class _Series:
    """sigma(s_i - t_j) for all i and j as sum_kl T_k(s_i) C_kl T_l(t_j), T Chebyshev's polynomials."""

    def __init__(self, s: Floats, t: Floats) -> None:
        self.s, self.t = s, t
        self.scale = max(float(np.abs(s).max()), float(np.abs(t).max()), 1e-3)
        ellipse = np.pi / self.scale + np.sqrt((np.pi / self.scale) ** 2 + 1)
        self.terms = int(np.ceil(np.log(_PRECISION) / -np.log(ellipse))) + 8
        node = np.cos(np.pi * (np.arange(self.terms) + 0.5) / self.terms)
        basis = chebyshev.chebvander(node, self.terms - 1)
        inverse = basis.T * (2 / self.terms)  # discrete orthogonality on these nodes
        inverse[0] /= 2
        self.coefficients = inverse @ special.expit(self.scale * (node[:, None] - node[None, :])) @ inverse.T

    def row_sums(self, weight: Floats) -> Floats:
        """(N, W) sums over j of sigma(s_i - t_j) weight_jw."""
        inner = sum(basis.T @ weight[rows] for rows, basis in self._bases(self.t))
        return np.concatenate([basis @ (self.coefficients @ inner) for _, basis in self._bases(self.s)])

    def column_sums(self, weight: Floats) -> Floats:
        """(N, W) sums over i of sigma(s_i - t_j) weight_iw."""
        inner = sum(basis.T @ weight[rows] for rows, basis in self._bases(self.s))
        return np.concatenate([basis @ (self.coefficients.T @ inner) for _, basis in self._bases(self.t)])

    def _bases(self, score: Floats) -> Iterator[tuple[slice, Floats]]:
        for begin in range(0, len(score), _CHUNK):
            rows = slice(begin, begin + _CHUNK)
            yield rows, np.asarray(chebyshev.chebvander(score[rows] / self.scale, self.terms - 1), np.float64)


def _indicators(y: Floats, treated: Floats, control: Floats) -> tuple[Floats, Floats]:
    """Sums over j of I_ij control_j, and over i of I_ij treated_i; equal outcomes count one half."""
    _, group = np.unique(y, return_inverse=True)
    of_control, of_treated = np.bincount(group, control), np.bincount(group, treated)
    below = np.cumsum(of_control) - of_control / 2
    above = of_treated.sum() - np.cumsum(of_treated) + of_treated / 2
    return below[group], above[group]


def _interval(rows: Floats, columns: Floats, z: NDArray[np.bool_], level: float) -> AdjustedWins:
    n = len(rows)
    share = float(rows.sum() / (n * (n - 1)))
    influence = (rows + columns) / (n - 1) - 2 * share  # Hoeffding's projection of the pairs on units
    error = float(np.sqrt(np.square(influence).sum() / (n * (n - 1))))
    if error < _NO_SPREAD:
        told = f"a treated unit brings more in {share:.0%} of all pairs, and no unit differs from another in that"
        raise RefusedError("adjusted_wins", "no variation", f"{told}; use mann_whitney.")
    parts, sizes = np.array([np.square(influence[side]).sum() for side in (~z, z)]), np.array([(~z).sum(), z.sum()])
    freedom = float(parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum())
    half = float(stats.t.isf((1 - level) / 2, freedom)) * error
    return AdjustedWins(
        share=share,
        standard_error=error,
        low=max(share - half, 0.0),
        high=min(share + half, 1.0),
        level=level,
        p_value=float(2 * stats.t.sf(abs(share - 0.5) / error, freedom)),
    )


def _fitted_propensity(x: Floats, z: NDArray[np.bool_]) -> Floats:
    """Logistic regression; refuses where covariates tell the arms apart."""
    try:
        return fit_logistic(x, z, ridge=0.0)(x)
    except InputError as none:
        told = f"the covariates tell the arms apart ({none}); leave out those that the treatment moves."
        raise RefusedError("adjusted_wins", "no overlap", told) from none


def _checked(outcome: ArrayLike, arm: ArrayLike, covariates: ArrayLike) -> tuple[Floats, NDArray[np.bool_], Floats]:
    y, side = np.asarray(outcome, np.float64), np.asarray(arm)
    x = np.asarray(covariates, np.float64)
    x = x.reshape(len(y), -1) if x.size else np.zeros((len(y), 0))
    if side.shape != y.shape or y.ndim != 1:
        raise InputError(f"outcomes have the shape {y.shape} and arms {side.shape}; give one of each for a unit.")
    if not np.isin(side, (0, 1)).all():
        row = int(np.argmin(np.isin(side, (0, 1))))
        raise InputError(f"the arm of unit {row} is {side[row]}, must be 0 (control) or 1 (treatment).")
    for name, numbers in (("outcome", y[:, None]), ("covariates", x)):
        if not np.isfinite(numbers).all():
            row = int(np.argmin(np.isfinite(numbers).all(1)))
            raise InputError(f"the {name} of unit {row} are not finite; drop the unit or fill them.")
    return y, side.astype(bool), np.concatenate([np.ones((len(y), 1)), x], 1)
