"""How often a customer will buy again and for how much, from when and how often they bought: BG/NBD, Gamma-Gamma.

A customer buys at a rate L while alive, and after every purchase, the first one apart, is gone with chance P:

    L ~ Gamma(r, alpha),    P ~ Beta(a, b),    spend of a purchase ~ Gamma(p, N),    N ~ Gamma(q, v).

With x repeat purchases, the last at t after the first one, and T since the first one, the likelihood is

    G(r + x) alpha^r   B(a, b + x)  [                             a      (alpha + T)^(r + x) ]
    ---------------- . ------------ [ (alpha + T)^-(r + x)  ( 1 + --------- (-----------)          [x > 0] ) ]
          G(r)           B(a, b)    [                         b + x - 1  (alpha + t)         ]

Customers of one (x, t, T) are one row with a weight. With covariates z of a customer alpha is alpha exp(-z . gamma), so
that the mean rate is multiplied by exp(z . gamma). All parameters are fitted in their logarithms with exact first and
second derivatives.

A clock that slows is ours: with a power c the model holds in the time d^c, d days after the first purchase, so that
interest fades, below c = 1, even while nobody is gone. c is fitted with the rest; c = 1 is BG/NBD.

The usual closed form of expected purchases has a hypergeometric function that loses all digits near a = 1 and
overflows for many purchases. Here it is what it came from, a mean over P of a customer who is alive,

    E[purchases in h] = P(alive) E[ (1 - (1 + P h / (alpha + T))^-(r + x)) / P ],    P ~ Beta(a, b + x),

summed along the line of log P - log(1 - P), where the sum converges geometrically for all arguments; nothing is divided
by a - 1.
"""

# Shapes: N customers, R rows of alike customers, C covariates, H horizons, K kinds of customers,
# X counts that differ, Q nodes.

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import betaln, gammaln, psi, zeta

from models.common.errors import InputError
from models.marketing.prediction.windows import whole

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

STEP = 0.25
"""Between nodes of the sum over P, in log P - log(1 - P); less where P is surely known."""
TAIL = 40.0
"""Nodes go to where what is summed has fallen to exp(-40)."""
POWERS = (0.3, 1.5)
"""Between which the power of the clock is sought."""
NARROW = 1e5
"""A Beta with larger parameters ends within the sum, and its weights are made to add up to 1."""
CELLS = 4_000_000
"""Numbers held at a time."""
FLAT = 1e-10
"""A fit ends when the mean gradient per customer, in logarithms of parameters, is below this."""
FARTHEST = 100.0
"""A logarithm of a parameter beyond this is called unbounded: the data do not say where it lies."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """What each customer did up to a day.

    Attributes:
        customer: (N) as they were given, each once, rising.
        repeats: (N) x, days with a purchase after the first one.
        recency: (N) t, days from the first purchase to the last one.
        age: (N) T, days from the first purchase to the end.
        first: (N) spend on the first day.
        spend: (N) mean spend of a repeat day; 0 without one.
        log_days: (N) sum over repeat days of the logarithm of days since the first purchase, for the slowing clock.
    """

    customer: NDArray[Any]
    repeats: Floats
    recency: Floats
    age: Floats
    first: Floats
    spend: Floats
    log_days: Floats

    def __len__(self) -> int:
        return len(self.customer)

    @property
    def mean(self) -> Floats:
        """(N) mean spend of all days with a purchase, the first one too."""
        return (self.first + self.repeats * self.spend) / (self.repeats + 1)


def histories(customer: NDArray[Any], day: NDArray[Any], spend: NDArray[Any], *, end: int) -> Histories:
    """What each customer did up to and with a day; purchases of one day are one.

    Args:
        customer: of each purchase.
        day: whole number of each purchase, any origin.
        spend: of each purchase, 0 or more.
        end: last day that counts; later purchases are left out.

    Returns:
        One entry for every customer who bought by then.

    Raises:
        InputError: lengths differ, a spend is negative or not a number, a day is no whole number, a customer is
            missing, or nobody bought by then.

    Source:
        Fader, Hardie & Lee 2005, "Counting your customers the easy way".
    """
    days, amounts = np.asarray(day), np.asarray(spend, np.float64)
    if not len(customer) == len(days) == len(amounts):
        raise InputError(f"purchases need as many customers as days and spends, got {len(customer)}, {len(days)}, "
                         f"{len(amounts)}.")  # fmt: skip
    wrong = np.flatnonzero(~(np.isfinite(amounts) & (amounts >= 0)))
    if len(wrong):
        raise InputError(f"spend of purchase {wrong[0]} (customer {customer[wrong[0]]}) is {amounts[wrong[0]]}; it "
                         f"must be 0 or more: leave refunds out or net them by day.")  # fmt: skip
    wrong = np.flatnonzero(pd.isna(customer))
    if len(wrong):
        raise InputError(f"customer of purchase {wrong[0]} is missing; name the customer or leave the purchase out.")
    days = whole(days, "day of purchase")
    early = days <= end
    if not early.any():
        raise InputError(f"no purchase lies on or before day {end}; take a later end.")
    names, who = np.unique(np.asarray(customer)[early], return_inverse=True)
    order = np.lexsort((days[early], who))
    who, days, amounts = who[order], days[early][order], amounts[early][order]
    fresh = np.append(True, (np.diff(who) != 0) | (np.diff(days) != 0))
    total = np.add.reduceat(amounts, np.flatnonzero(fresh))
    who, days = who[fresh], days[fresh]
    begin = np.flatnonzero(np.append(True, np.diff(who) != 0))
    repeats = np.diff(np.append(begin, len(who))) - 1
    later = np.add.reduceat(total, begin) - total[begin]
    since = np.maximum(days - np.repeat(days[begin], repeats + 1), 1)
    return Histories(
        customer=names,
        repeats=repeats.astype(np.float64),
        recency=(days[begin + repeats] - days[begin]).astype(np.float64),
        age=(end - days[begin]).astype(np.float64),
        first=total[begin],
        spend=later / np.maximum(repeats, 1),
        log_days=np.add.reduceat(np.log(since), begin),
    )


# --- how often --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Purchases:
    """BG/NBD: how often customers will buy.

    Attributes:
        r: shape of the rates.
        alpha: scale of the rates, in the unit of time.
        a: of the chance to be gone.
        b: of the chance to be gone.
        gamma: (C) effect of covariates on the logarithm of the rate.
        power: c of the clock; alpha is then in the unit of time to this power.
        loglikelihood: sum over customers at these parameters; not a number where they were given, not fitted.
        error: (4 + C) standard errors of log r, log alpha, log a, log b and gamma at this power; likewise.

    Source:
        Fader, Hardie & Lee 2005, "Counting your customers the easy way: an alternative to the Pareto/NBD model".
        Covariates: Fader & Hardie 2007, "Incorporating time-invariant covariates into the Pareto/NBD and BG/NBD
        models". The quadrature in place of the hypergeometric function and the slowing clock are ours.
    """

    r: float
    alpha: float
    a: float
    b: float
    gamma: Floats = field(default_factory=lambda: np.zeros(0))
    power: float = 1.0
    loglikelihood: float = float("nan")
    error: Floats = field(default_factory=lambda: np.full(4, np.nan))

    def alive(self, repeats: Floats, recency: Floats, age: Floats, covariates: Floats | None = None) -> Floats:
        """(N) chance that a customer may still buy; 1 without a repeat purchase, as the model has it.

        Raises:
            InputError: as for `expected`.
        """
        _checked(repeats, recency, age)
        alpha_N = self._alphas(covariates, len(repeats))
        odds_N = np.log(alpha_N + age**self.power) - np.log(alpha_N + recency**self.power)
        odds_N *= self.r + repeats
        odds_N += np.log(self.a) - np.log(self.b + np.maximum(repeats, 1) - 1)
        return np.where(repeats > 0, np.exp(-np.logaddexp(0, odds_N)), 1.0)

    def expected(
        self,
        repeats: Floats,
        recency: Floats,
        age: Floats,
        horizons: Floats,
        covariates: Floats | None = None,
    ) -> Floats:
        """Expected purchases within each horizon from now on.

        Args:
            repeats: (N) x.
            recency: (N) t.
            age: (N) T.
            horizons: (H) 0 or more, in the unit of time.
            covariates: (N, C); None for none.

        Returns:
            (N, H), rising along a row.

        Raises:
            InputError: a value cannot be, or the number of covariates is not that of the fit.

        Source:
            Fader, Hardie & Lee 2005, equation 10, before its integral over P is named a hypergeometric function.
        """
        _checked(repeats, recency, age)
        times_H = np.atleast_1d(np.asarray(horizons, np.float64))
        if not np.all(times_H >= 0) or not np.all(np.isfinite(times_H)):
            raise InputError(f"horizons must be 0 or more and finite, got {times_H.min()} to {times_H.max()}.")
        alpha_N = self._alphas(covariates, len(repeats))
        kinds, kind_N = _kinds(repeats, age, alpha_N)
        x, passed, alpha = (part[kinds] for part in (repeats, age, alpha_N))
        ahead_KH = (passed[:, None] + times_H) ** self.power - passed[:, None] ** self.power
        ratio_KH = ahead_KH / (alpha + passed**self.power)[:, None]
        mean_KH = mean_when_alive(self.r + x, ratio_KH, self.a, self.b + x)
        alive_N1 = self.alive(repeats, recency, age, covariates)[:, None]
        return np.asarray(alive_N1 * mean_KH[kind_N], np.float64)

    def _alphas(self, covariates: Floats | None, size: int) -> Floats:
        if covariates is None:
            covariates = np.zeros((size, 0))
        if covariates.shape != (size, len(self.gamma)):
            raise InputError(f"covariates must be ({size}, {len(self.gamma)}) as the model was fitted, got "
                             f"{covariates.shape}.")  # fmt: skip
        return np.asarray(self.alpha * np.exp(-covariates @ self.gamma), np.float64)


def _kinds(*columns: Floats) -> tuple[Integers, Integers]:
    """A row of each kind that differs, sorted by the first column, and the kind of every row."""
    if all(column.max() < 2**20 and np.array_equal(column, np.floor(column)) for column in columns):
        key = np.zeros(len(columns[0]), np.int64)  # whole days and counts: one sort in place of one a column
        for column in columns:
            key = (key << 20) + column.astype(np.int64)
        order = np.argsort(key)
        fresh = np.append(True, np.diff(key[order]) != 0)
    else:
        order = np.lexsort(columns[::-1])
        fresh = np.append(True, np.any([np.diff(column[order]) != 0 for column in columns], axis=0))
    kind = np.empty(len(order), np.int64)
    kind[order] = np.cumsum(fresh) - 1
    return order[fresh], kind


def mean_when_alive(shape_N: Floats, ratio_NH: Floats, a: float, b_N: Floats) -> Floats:
    """Mean of f(P) = (1 - (1 + P ratio)^-shape) / P over P ~ Beta(a, b).

    f minus the straight line through f(0) = shape ratio and f(1) is summed at P = 1 / (1 + exp(-u)) for u in equal
    steps. In u the singularities of f and of the Beta lie at least pi / 2 from the real line, whatever the arguments,
    so the sum's error is of the order of exp(-pi^2 / step).

    Args:
        shape_N: above 0.
        ratio_NH: 0 or more.
        a: above 0.
        b_N: above 0.

    Returns:
        (N, H).

    Source:
        The mean equals (a + b - 1) / (a - 1) times one minus a hypergeometric term, Fader, Hardie & Lee 2005, equation
        10. Sums along a line: Trefethen & Weideman 2014, "The exponentially convergent trapezoidal rule".
    """
    u_Q, step = _line(float((shape_N[:, None] * ratio_NH).max()), a, b_N)
    log_p_Q, log_rest_Q = -np.logaddexp(0, -u_Q), -np.logaddexp(0, u_Q)
    p_Q, mean_NH = np.exp(log_p_Q), np.empty_like(ratio_NH)
    for rows in np.array_split(np.arange(len(b_N)), max(1, len(b_N) * len(u_Q) // CELLS)):
        b, shape = b_N[rows, None], shape_N[rows, None]
        weight_RQ = step * np.exp(a * log_p_Q + b * log_rest_Q - betaln(a, b))
        if a > NARROW and b.min() > NARROW:  # the norm of so large numbers is all rounding
            weight_RQ /= weight_RQ.sum(axis=1, keepdims=True)
        for column, ratio in enumerate(ratio_NH[rows].T[:, :, None]):
            low, high = shape * ratio, -np.expm1(-shape * np.log1p(ratio))
            curve_RQ = -np.expm1(-shape * np.log1p(ratio * p_Q)) / p_Q
            bent_R = ((curve_RQ - low - (high - low) * p_Q) * weight_RQ).sum(axis=1)
            mean_NH[rows, column] = (low + (high - low) * a / (a + b))[:, 0] + bent_R
    return mean_NH


def _line(steepest: float, a: float, b_N: Floats) -> tuple[Floats, float]:
    """(Q) places u, in equal steps, outside of which the sum has no part, and the step."""
    middle_N, spread_N = np.log(a / b_N), np.sqrt(1 / a + 1 / b_N)  # of the Beta, in u
    b, spread = float(b_N.min()), float(spread_N.max())
    aside = 8 * min(1.0, spread)
    # f is its straight line up to terms of P^2 on the left and of (1 - P) on the right; and a Beta that is narrow ends
    # long before that
    left = max(
        min(-np.log1p(steepest), middle_N.min()) - TAIL / (a + 1) - aside,
        middle_N.min() - TAIL / a - math.sqrt(2 * TAIL) * spread,
    )
    right = min(
        max(0.0, middle_N.max()) + TAIL / (b + 1) + aside,
        middle_N.max() + TAIL / b + math.sqrt(2 * TAIL) * spread,
    )
    step = min(STEP, 0.5 * float(spread_N.min()))
    return step * np.arange(np.floor(left / step), np.ceil(right / step) + 1), step


def purchase_loglikelihood(
    log_parameters: Floats, repeats: Floats, recency: Floats, age: Floats, weight: Floats, covariates: Floats
) -> tuple[float, Floats, Floats]:
    """Log-likelihood of BG/NBD with its first and second derivatives.

    Args:
        log_parameters: (4 + C) log r, log alpha, log a, log b, gamma.
        repeats: (R) x.
        recency: (R) t.
        age: (R) T.
        weight: (R) customers.
        covariates: (R, C).

    Returns:
        The sum over customers, its gradient (4 + C) and its Hessian (4 + C, 4 + C).

    Source:
        Fader, Hardie & Lee 2005, equation 7, in the form of Hardie's note 4; derivatives ours.
    """
    return _purchases_at(log_parameters, np.unique(repeats, return_inverse=True), recency, age, weight, covariates)


def _purchases_at(
    log_parameters: Floats, counts: tuple[Floats, Integers], recency: Floats, age: Floats, weight: Floats, told: Floats
) -> tuple[float, Floats, Floats]:
    """As `purchase_loglikelihood`, with counts that differ and which of them is whose."""
    x, back = counts
    mass_X = np.bincount(back, weights=weight, minlength=len(x))
    r, _, a, b = np.exp(log_parameters[:4])
    log_alpha_R = log_parameters[1] - told @ log_parameters[4:]
    alpha_R = np.exp(log_alpha_R)
    # what depends on the count alone is computed once a count
    last_X = b + np.maximum(x, 1) - 1
    value_r, slope_r, bend_r = _rising(r, x)
    value_b, slope_b, bend_b = _rising(b, x)
    value_a, slope_a, bend_a = (-part for part in _rising(a + b, x))
    value_X, slope_b, bend_b = value_r + value_b + value_a, slope_b + slope_a, bend_b + bend_a
    shape_R = (r + x)[back]
    on_R, off_R = alpha_R + age, alpha_R + recency
    log_on_R, log_off_R = np.log(on_R), np.log(off_R)
    with np.errstate(divide="ignore"):
        ratio_X = np.where(x > 0, np.log(a) - np.log(last_X), -np.inf)
    odds_R = ratio_X[back] + shape_R * (log_on_R - log_off_R)
    gone_R = 1 / (1 + np.exp(-np.minimum(odds_R, 700)))
    both_R = np.logaddexp(0, odds_R) - shape_R * log_on_R
    value = float(mass_X @ value_X + weight @ (r * log_alpha_R + both_R))

    # by log r, log alpha, log a, log b; the two branches, alive and gone, are mixed by the chance of each
    size = len(log_parameters)
    gradient, hessian = np.zeros(size), np.zeros((size, size))
    share_on, share_off, fall_R = alpha_R / on_R, alpha_R / off_R, (b / last_X)[back]
    share_R = share_on + gone_R * (share_off - share_on)
    log_R = log_on_R + gone_R * (log_off_R - log_on_R)
    alpha_slope_R = r - shape_R * share_R
    gone_a, gone_b = gone_R, -gone_R * fall_R
    gradient[0] = r * (mass_X @ slope_r + weight @ (log_alpha_R - log_R))
    gradient[1] = weight @ alpha_slope_R
    gradient[2] = a * (mass_X @ slope_a) + weight @ gone_a
    gradient[3] = b * (mass_X @ slope_b) + weight @ gone_b
    apart_4R = np.stack(
        [r * (log_off_R - log_on_R), shape_R * (share_off - share_on), np.full_like(on_R, -1.0), fall_R]
    )
    spread_R = gone_R * (1 - gone_R)
    hessian[:4, :4] = (apart_4R * (spread_R * weight)) @ apart_4R.T
    hessian[0, 0] += gradient[0] + r * r * (mass_X @ bend_r)
    cross_R = r - r * share_R
    hessian[0, 1] += weight @ cross_R
    own_R = -shape_R * ((1 - gone_R) * share_on * (1 - share_on) + gone_R * share_off * (1 - share_off))
    hessian[1, 1] += weight @ own_R
    hessian[2, 2] += a * (mass_X @ slope_a) + a * a * (mass_X @ bend_a)
    hessian[2, 3] += a * b * (mass_X @ bend_a)
    hessian[3, 3] += b * (mass_X @ slope_b) + b * b * (mass_X @ bend_b) + weight @ (gone_b * (1 - fall_R))
    hessian[1, 0], hessian[3, 2] = hessian[0, 1], hessian[2, 3]
    if size > 4:
        bend_4R = spread_R * apart_4R[1] * apart_4R
        bend_4R[0] += cross_R
        bend_4R[1] += own_R
        gradient[4:] = -(alpha_slope_R * weight) @ told
        hessian[4:, :4] = -told.T @ (bend_4R * weight).T
        hessian[:4, 4:] = hessian[4:, :4].T
        hessian[4:, 4:] = told.T @ (told * (bend_4R[1] * weight)[:, None])
    return value, gradient, hessian


def _rising(start: float, count: Floats) -> tuple[Floats, Floats, Floats]:
    """(X) log of G(start + count) / G(start), and its first and second derivatives by start.

    As sums over start, start + 1, ...: differences of Gamma functions would lose all digits where start is large, and
    a search would run after the noise.
    """
    terms = start + np.arange(int(count.max()))
    place = count.astype(np.int64)
    each = (np.log(terms), 1 / terms, -1 / terms**2)
    value, slope, bend = (np.append(0.0, np.cumsum(part))[place] for part in each)
    return value, slope, bend


def _trigamma(value: Any) -> Any:
    return zeta(2.0, value)


def fit_purchases(
    repeats: NDArray[Any],
    recency: NDArray[Any],
    age: NDArray[Any],
    *,
    weight: NDArray[Any] | None = None,
    covariates: NDArray[Any] | None = None,
    log_days: NDArray[Any] | None = None,
) -> Purchases:
    """Fit BG/NBD by maximum likelihood, without a penalty.

    Args:
        repeats: (N) x.
        recency: (N) t.
        age: (N) T.
        weight: (N) customers of each entry; None for one each.
        covariates: (N, C) about what was known of a customer at the first purchase, of like size; None for none.
        log_days: (N) sum over repeat purchases of the logarithm of the time since the first one; with it the power of
            the clock is fitted too, without it the power is 1.

    Returns:
        The model. Time is divided by the mean age while fitting, so its unit does not matter. Of customers who are all
        alike parameters run off to where rates no longer differ; what is expected is then that limit, and the standard
        errors are large.

    Raises:
        InputError: a value cannot be, nobody bought again, or the likelihood has no maximum.

    Source:
        As `Purchases`; alike customers as one row: Fader & Hardie 2005, "Implementing the BG/NBD model in Excel".
    """
    x, t, end = (np.asarray(part, np.float64) for part in (repeats, recency, age))
    _checked(x, t, end)
    mass = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    told = np.zeros((len(x), 0)) if covariates is None else np.asarray(covariates, np.float64)
    _checked_extra(x, mass, told, log_days)
    if not mass @ (x > 0):
        raise InputError("nobody bought again, so BG/NBD has nothing to learn from; take a later end.")
    bought, spoken = float(mass @ x), 0.0 if log_days is None else float(mass @ log_days)
    x, t, end, mass, told = _alike(x, t, end, mass, told)
    counts = np.unique(x, return_inverse=True)
    unit = float(mass @ end / mass.sum())
    # by how much the spread of a covariate moves the rate, not its unit
    deviation = np.std(told, axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    start = np.zeros(4 + told.shape[1])
    names = ("log r", "log alpha", "log a", "log b", *(f"gamma {number}" for number in range(told.shape[1])))

    def at(power: float, digits: float) -> tuple[float, Floats, Floats]:
        """The best log-likelihood of one power, and where."""
        nonlocal start
        past, passed = (t / unit) ** power, (end / unit) ** power

        def cost(now: Floats) -> tuple[float, Floats, Floats]:
            value, slope, bend = _purchases_at(now, counts, past, passed, mass, told / scale)
            return -value / mass.sum(), -slope / mass.sum(), -bend / mass.sum()

        start, bend = _lowest(cost, start, names, digits)
        # the density of purchases in time, not in the clock's time
        jacobian = bought * np.log(power) + (power - 1) * (spoken - bought * np.log(unit))
        return -cost(start)[0] * mass.sum() + jacobian, start, bend

    power = 1.0
    if log_days is not None:
        sought = minimize_scalar(
            lambda now: -at(now, 1e-6)[0], bounds=POWERS, method="bounded", options={"xatol": 1e-4}
        )
        power = float(sought.x)
    value, best, bend = at(power, FLAT)
    found = best.copy()
    found[1] += power * np.log(unit)
    found[4:] /= scale
    error = _errors(bend * mass.sum())
    error[4:] /= scale
    r, alpha, a, b = (float(part) for part in np.exp(found[:4]))
    return Purchases(
        r=r, alpha=alpha, a=a, b=b, gamma=found[4:], power=power,
        # in the unit of time that was given
        loglikelihood=float(value - bought * np.log(unit)), error=error,
    )  # fmt: skip


def _alike(x: Floats, t: Floats, end: Floats, mass: Floats, told: Floats) -> tuple[Floats, ...]:
    """Alike customers as one row."""
    if told.shape[1]:
        return x, t, end, mass, told
    kinds, kind = _kinds(end, x, t)
    size = np.asarray(np.bincount(kind, weights=mass), np.float64)
    return x[kinds], t[kinds], end[kinds], size, told[kinds]


# --- how much ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Spending:
    """Gamma-Gamma: how much customers spend at a purchase.

    Attributes:
        p: shape of a purchase's spend.
        q: shape of the customers' rates.
        v: scale of the customers' rates, in the unit of spend.
        loglikelihood: sum over customers at these parameters; not a number where they were given, not fitted.
        error: (3) standard errors of log p, log q and log v; not numbers likewise.

    Source:
        Fader & Hardie 2013, "The Gamma-Gamma model of monetary value", equations 1a, 5.
    """

    p: float
    q: float
    v: float
    loglikelihood: float = float("nan")
    error: Floats

    def expected(self, purchases: Floats, mean: Floats) -> Floats:
        """(N) mean spend of a future purchase of customers with so many purchases of this mean.

        Raises:
            InputError: q is not above 1, so that the mean of all customers is unbounded, and one has no purchase.
        """
        weight_N = self.p * np.asarray(purchases, np.float64)
        below_N = weight_N + self.q - 1
        if not np.all(below_N > 0):
            raise InputError(f"q is {self.q:.4g}: mean spend has no bound for customers with few purchases; "
                             f"cap extreme spends before the fit.")  # fmt: skip
        return np.asarray((self.p * self.v + weight_N * mean) / below_N, np.float64)


def spending_loglikelihood(
    log_parameters: Floats, purchases: Floats, mean: Floats, weight: Floats
) -> tuple[float, Floats, Floats]:
    """Log-likelihood of Gamma-Gamma with its first and second derivatives.

    Args:
        log_parameters: (3) log p, log q, log v.
        purchases: (R) 1 or more.
        mean: (R) mean spend, above 0.
        weight: (R) customers.

    Returns:
        The sum over customers, its gradient (3) and its Hessian (3, 3).

    Source:
        Fader & Hardie 2013, equation 1a; derivatives ours.
    """
    counts = np.unique(purchases, return_inverse=True)
    return _spending_at(log_parameters, counts, purchases * mean, np.log(mean), weight)


def _spending_at(
    log_parameters: Floats, counts: tuple[Floats, Integers], total: Floats, log_mean: Floats, weight: Floats
) -> tuple[float, Floats, Floats]:
    """As `spending_loglikelihood`, with counts that differ, which of them is whose, and total spends."""
    p, q, v = np.exp(log_parameters)
    x, back = counts
    mass_X = np.bincount(back, weights=weight, minlength=len(x))
    shape, joint = p * x, p * x + q
    log_sum_R, share_R = np.log(total + v), v / (total + v)
    known_X = np.bincount(back, weights=weight * log_mean, minlength=len(x))  # sum of log means of a count
    summed_X = np.bincount(back, weights=weight * log_sum_R, minlength=len(x))
    share_X = np.bincount(back, weights=weight * share_R, minlength=len(x))
    mass = mass_X.sum()
    value_X = gammaln(joint) - gammaln(shape) - gammaln(q) + q * np.log(v) + shape * np.log(x)
    value = float(mass_X @ value_X + (shape - 1) @ known_X - joint @ summed_X)
    slope = np.empty(3)
    slope[0] = mass_X @ (shape * (psi(joint) - psi(shape) + np.log(x))) + shape @ (known_X - summed_X)
    slope[1] = q * (mass_X @ psi(joint) + mass * (np.log(v) - psi(q)) - summed_X.sum())
    slope[2] = q * mass - joint @ share_X
    bend_joint = _trigamma(joint)
    bend = np.empty((3, 3))
    bend[0, 0] = slope[0] + mass_X @ (shape**2 * (bend_joint - _trigamma(shape)))
    bend[1, 1] = slope[1] + q**2 * (mass_X @ (bend_joint - _trigamma(q)))
    bend[2, 2] = -(weight * joint[back]) @ (share_R * (1 - share_R))
    bend[0, 1] = bend[1, 0] = q * (mass_X @ (shape * bend_joint))
    bend[0, 2] = bend[2, 0] = -(shape @ share_X)
    bend[1, 2] = bend[2, 1] = q * (mass - share_X.sum())
    return value, slope, bend


def fit_spending(purchases: NDArray[Any], mean: NDArray[Any], *, weight: NDArray[Any] | None = None) -> Spending:
    """Fit Gamma-Gamma by maximum likelihood, without a penalty.

    Args:
        purchases: (N) of each customer; those without one say nothing and are left out.
        mean: (N) mean spend of these; customers whose mean is 0 are left out, the model has none such.
        weight: (N) customers of each entry; None for one each.

    Returns:
        The model.

    Raises:
        InputError: a value cannot be, nobody is left, or the likelihood has no maximum.

    Source:
        As `Spending`.
    """
    x, m = np.asarray(purchases, np.float64), np.asarray(mean, np.float64)
    mass = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    if not x.shape == m.shape == mass.shape:
        raise InputError(f"purchases, means and weights must be of one length, got {x.shape}, {m.shape}, {mass.shape}.")
    for name, values in (("purchases", x), ("mean", m), ("weight", mass)):
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(wrong):
            raise InputError(f"{name} of customer {wrong[0]} is {values[wrong[0]]}; it must be 0 or more and finite.")
    use = (x > 0) & (m > 0) & (mass > 0)
    if use.sum() < 2:
        raise InputError(f"Gamma-Gamma needs two customers with a paid purchase, got {use.sum()}.")
    x, m, mass = x[use], m[use], mass[use]
    unit = float(mass @ m / mass.sum())

    counts, total, log_mean = np.unique(x, return_inverse=True), x * (m / unit), np.log(m / unit)

    def cost(now: Floats) -> tuple[float, Floats, Floats]:
        value, slope, bend = _spending_at(now, counts, total, log_mean, mass)
        return -value / mass.sum(), -slope / mass.sum(), -bend / mass.sum()

    best, bend = _lowest(cost, np.log([2.0, 3.0, 1.0]), ("log p", "log q", "log v"), FLAT)
    found = best + np.array([0, 0, np.log(unit)])
    value, _, _ = spending_loglikelihood(found, x, m, mass)
    error = _errors(bend * mass.sum())
    p, q, v = (float(part) for part in np.exp(found))
    return Spending(p=p, q=q, v=v, loglikelihood=value, error=error)


# --- both -------------------------------------------------------------------------------------------------------------

FEATURES = ("log rate", "log spend", "repeats", "alive", "place of last", "first", "mean repeat", "age", "silence")


def features(known: Histories, purchases: Purchases, spending: Spending, *, unit: float) -> Floats:
    """What a network is told of customers: nothing has a unit of time, so that it holds for another horizon too.

    Args:
        known: what they did.
        purchases: fitted to such histories up to the same day.
        spending: fitted to the spend of all days, the first ones too.
        unit: what is one unit of time, usually the mean age.

    Returns:
        (N, 9): logarithms of expected purchases within a unit of time and of their mean spend, of 1 + repeats, the
        chance to be alive, recency over age, log(1 + first spend), log(1 + mean spend of repeats), age in units, and
        log(1 + days since the last purchase) over that of a unit.

    Source:
        Ours.
    """
    rate_N = purchases.expected(known.repeats, known.recency, known.age, np.array([unit]))[:, 0]
    spend_N = spending.expected(known.repeats + 1, known.mean)
    tiny = np.finfo(np.float64).tiny
    return np.stack(
        [
            np.log(np.maximum(rate_N, tiny)),
            np.log(np.maximum(spend_N, tiny)),
            np.log1p(known.repeats),
            purchases.alive(known.repeats, known.recency, known.age),
            known.recency / np.maximum(known.age, 1),
            np.log1p(known.first),
            np.log1p(known.spend),
            known.age / unit,
            np.log1p(known.age - known.recency) / np.log1p(unit),
        ],
        axis=1,
    )


# --- inside -----------------------------------------------------------------------------------------------------------


def _lowest(
    cost: Callable[[Floats], tuple[float, Floats, Floats]], start: Floats, names: tuple[str, ...], digits: float
) -> tuple[Floats, Floats]:
    """Where a cost is lowest, and its Hessian there; Newton within a region that is trusted."""
    kept: dict[bytes, tuple[float, Floats, Floats]] = {}

    def at(now: Floats) -> tuple[float, Floats, Floats]:
        key = now.tobytes()
        if key not in kept:
            kept.clear()
            kept[key] = cost(now)
        return kept[key]

    result = minimize(
        lambda now: at(now)[0],
        start,
        jac=lambda now: at(now)[1],
        hess=lambda now: at(now)[2],
        method="trust-exact",
        options={"gtol": digits, "maxiter": 500, "initial_trust_radius": 1.0, "max_trust_radius": 4.0},
    )
    best = np.asarray(result.x, np.float64)
    _, slope, bend = at(best)
    far = [name for name, value in zip(names, best, strict=False) if not abs(value) < FARTHEST]
    if far:
        raise InputError(f"the likelihood has no maximum: {far[0]} runs off to {best[names.index(far[0])]:.3g}; there "
                         f"are too few or too even customers.")  # fmt: skip
    # rounding of the value itself can end a search a little above FLAT; a search that is lost ends far above it
    if not np.abs(slope).max() < max(1e-6, 2 * digits):
        raise InputError(f"the likelihood has no maximum that was found: its gradient is still "
                         f"{np.abs(slope).max():.3g}; look for customers who are all alike.")  # fmt: skip
    return best, bend


def _errors(bend: Floats) -> Floats:
    """Standard errors by the Hessian of minus the log-likelihood; infinite along what the data do not say."""
    curve, way = np.linalg.eigh(bend)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(way**2 > 1e-12, way**2 / np.maximum(curve, 0), 0.0)
    return np.asarray(np.sqrt(parts.sum(axis=1)), np.float64)


def _checked(repeats: Floats, recency: Floats, age: Floats) -> None:
    """Raise `InputError` for histories that cannot be."""
    if not repeats.shape == recency.shape == age.shape or repeats.ndim != 1 or not len(repeats):
        raise InputError(f"repeats, recency and age must be rows of one length, at least 1, got {repeats.shape}, "
                         f"{recency.shape}, {age.shape}.")  # fmt: skip
    for name, wrong, remedy in (
        ("repeats", ~(np.isfinite(repeats) & (repeats >= 0) & (repeats == np.floor(repeats))), "a whole number"),
        ("recency", ~(np.isfinite(recency) & (recency >= 0)), "0 or more"),
        ("age", ~(np.isfinite(age) & (age >= recency)), "at least recency"),
        ("recency", (repeats == 0) & (recency != 0), "0 without a repeat purchase"),
        ("recency", (repeats > 0) & (recency == 0), "above 0 with a repeat purchase: days, not purchases, are counted"),
    ):
        place = np.flatnonzero(wrong)
        if len(place):
            at = place[0]
            raise InputError(f"{name} of customer {at} must be {remedy}, got repeats {repeats[at]}, recency "
                             f"{recency[at]}, age {age[at]}.")  # fmt: skip


def _checked_extra(repeats: Floats, weight: Floats, covariates: Floats, log_days: NDArray[Any] | None) -> None:
    if log_days is not None and (np.shape(log_days) != repeats.shape or not np.all(np.isfinite(log_days))):
        raise InputError(f"log_days must have {len(repeats)} finite entries, got {np.shape(log_days)}.")
    if weight.shape != repeats.shape or covariates.ndim != 2 or len(covariates) != len(repeats):
        raise InputError(f"weights and covariates must have {len(repeats)} rows, got {weight.shape}, "
                         f"{covariates.shape}.")  # fmt: skip
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(wrong):
        raise InputError(f"weight of customer {wrong[0]} is {weight[wrong[0]]}; it must be 0 or more.")
    wrong = np.flatnonzero(~np.isfinite(covariates).all(1))
    if len(wrong):
        raise InputError(f"covariates of customer {wrong[0]} are {covariates[wrong[0]]}; they must be finite.")
