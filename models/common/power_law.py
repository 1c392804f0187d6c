"""How an error falls with what is spent: a power law above an asymptote, fitted, with intervals, and asked ahead.

    y = asymptote + coefficient * x^-exponent + noise,      asymptote >= floor, coefficient >= 0

Given the exponent, the rest is a least-squares problem with two unknowns. So the sum of squares is a function of the
exponent alone, and every interval here is read from that curve: an exponent is believed as long as its sum of squares
is at most 1 + F / n of the least one, n the degrees of freedom and F the quantile of Fisher's law with 1 and n.
"""

# Shapes: K points, G exponents of the grid.

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]

LEAST, MOST = 0.005, 4.0
"""Exponents that are looked at; an interval that reaches an end is open there."""
GRID = 600
ZOOMS, BETWEEN = 3, 65
"""Finer grids between the neighbours of the best exponent, and exponents on each: steps of 1.1 % become 3e-7."""


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """A fitted law.

    Attributes:
        asymptote: what remains however much is spent.
        coefficient: what is above it at x = 1.
        exponent: how fast that falls.
        low: lower end of the exponent's interval; `LEAST` when the points do not bound it.
        high: upper end; `MOST` when they do not.
        r_squared: share of the variance of the points that the law explains.
    """

    asymptote: float
    coefficient: float
    exponent: float
    low: float
    high: float
    r_squared: float

    def __call__(self, x: float) -> float:
        """The law at a point."""
        return float(self.asymptote + self.coefficient * x**-self.exponent)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a law says of a point that it was not fitted to, with the interval in which a measurement should fall."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """y = intercept + slope log10(x), with the interval of the slope."""

    intercept: float
    slope: float
    low: float
    high: float
    r_squared: float


def fit_power_law(x: Floats, y: Floats, *, floor: float = 0.0, level: float = 0.95) -> PowerLaw:
    """Fit the law by least squares.

    Args:
        x: (K) what was spent, above zero, in a unit in which it is neither huge nor tiny.
        y: (K) error of each.
        floor: the asymptote is not below it.
        level: coverage of the exponent's interval, 0 to 1.

    Returns:
        The law.

    Raises:
        ValueError: there are fewer than four different x, or one is not above zero, or a number is not finite.

    Source:
        The form: Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically", section 2. Variable
        projection: Golub & Pereyra 1973. Interval by profile: Bates & Watts 1988, "Nonlinear Regression Analysis and
        Its Applications", section 6.1.
    """
    x, y = _checked(x, y, 4)
    exponents = np.geomspace(LEAST, MOST, GRID)
    squares = _given(x, y, exponents, floor)[2]
    best = int(np.argmin(squares))
    around = exponents[max(best - 1, 0)], exponents[min(best + 1, GRID - 1)]
    found = optimize.minimize_scalar(
        lambda c: _square(x, y, c, floor), bounds=around, method="bounded", options={"xatol": 1e-10}
    )
    exponent = float(found.x)
    asymptote, coefficient, square = (float(part[0]) for part in _given(x, y, np.array([exponent]), floor))
    freedom = len(y) - 3
    limit = square * (1 + stats.f.ppf(level, 1, freedom) / freedom)
    total = float(np.square(y - y.mean()).sum())
    return PowerLaw(
        asymptote=asymptote,
        coefficient=coefficient,
        exponent=exponent,
        low=_end(x, y, floor, limit, exponent, exponents[squares <= limit].min(initial=exponent), LEAST),
        high=_end(x, y, floor, limit, exponent, exponents[squares <= limit].max(initial=exponent), MOST),
        r_squared=1 - square / total if total > 0 else float("nan"),
    )


def predict(x: Floats, y: Floats, at: float, *, floor: float = 0.0, level: float = 0.95) -> Prediction:
    """What the law of some points says of another one, and where a measurement of it should fall.

    The interval has every value that, taken as one more point, would raise the least sum of squares by no more than
    chance does. It knows of the noise of the new point and of all that the points leave open about the law.

    Args:
        x: (K) what was spent.
        y: (K) error of each; the new point is taken to be as noisy.
        at: what is spent at the new point.
        floor: the asymptote is not below it.
        level: coverage, 0 to 1.

    Returns:
        Value and interval.

    Raises:
        ValueError: as `fit_power_law`.

    Source:
        Profile predictive likelihood: Bjornstad 1990, "Predictive Likelihood: A Review", section 3; the quantile of
        Fisher's law for the unknown variance is that of linear prediction.
    """
    law = fit_power_law(x, y, floor=floor, level=level)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    exponents = np.sort(np.append(np.geomspace(LEAST, MOST, GRID), law.exponent))
    least = _square(x, y, law.exponent, floor)
    limit = least * (1 + stats.f.ppf(level, 1, len(y) - 3) / (len(y) - 3))

    def excess(value: float) -> float:
        return _least(np.append(x, at), np.append(y, value), exponents, floor) - float(limit)

    return Prediction(
        value=law(at),
        low=_outermost(excess, law(at), floor, limit),
        high=_outermost(excess, law(at), np.inf, limit),
    )


def fit_line(x: Floats, y: Floats, *, level: float = 0.95) -> Line:
    """Fit y = intercept + slope log10(x) by least squares.

    Args:
        x: (K) above zero.
        y: (K) values.
        level: coverage of the slope's interval, 0 to 1.

    Returns:
        The line.

    Raises:
        ValueError: there are fewer than three different x, or one is not above zero, or a number is not finite.

    Source:
        Student's interval of a slope, as in any textbook.
    """
    x, y = _checked(x, y, 3)
    place = np.log10(x)
    away = place - place.mean()
    slope = float((away * y).sum() / np.square(away).sum())
    left = y - y.mean() - slope * away
    square, total = float(np.square(left).sum()), float(np.square(y - y.mean()).sum())
    half = stats.t.ppf((1 + level) / 2, len(x) - 2) * np.sqrt(square / (len(x) - 2) / np.square(away).sum())
    return Line(
        intercept=float(y.mean() - slope * place.mean()),
        slope=slope,
        low=float(slope - half),
        high=float(slope + half),
        r_squared=1 - square / total if total > 0 else float("nan"),
    )


def _checked(x: Floats, y: Floats, least: int) -> tuple[Floats, Floats]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1 or not np.isfinite(x).all() or not np.isfinite(y).all() or not (x > 0).all():
        raise ValueError(f"a law needs as many finite y as finite x above zero, got shapes {x.shape} and {y.shape}.")
    if len(np.unique(x)) < least:
        raise ValueError(f"a law of this form needs at least {least} different x, got {len(np.unique(x))}; add sizes.")
    return x, y


def _given(x: Floats, y: Floats, exponent_G: Floats, floor: float) -> tuple[Floats, Floats, Floats]:
    """Asymptotes, coefficients and sums of squares (G), the exponents given."""
    column_GK = x ** -exponent_G[:, None]
    mean_G, away_GK = column_GK.mean(1), column_GK - column_GK.mean(1, keepdims=True)
    coefficient_G = (away_GK * y).sum(1) / np.square(away_GK).sum(1)
    asymptote_G = y.mean() - coefficient_G * mean_G
    steep_G = (column_GK * (y - floor)).sum(1) / np.square(column_GK).sum(1)
    below_G = asymptote_G < floor
    asymptote_G, coefficient_G = np.where(below_G, floor, asymptote_G), np.where(below_G, steep_G, coefficient_G)
    rising_G = coefficient_G < 0
    asymptote_G = np.where(rising_G, max(float(y.mean()), floor), asymptote_G)
    coefficient_G = np.where(rising_G, 0.0, coefficient_G)
    left_GK = y - asymptote_G[:, None] - coefficient_G[:, None] * column_GK
    return asymptote_G, coefficient_G, np.square(left_GK).sum(1)


def _square(x: Floats, y: Floats, exponent: float, floor: float) -> float:
    return float(_given(x, y, np.array([exponent]), floor)[2][0])


def _least(x: Floats, y: Floats, exponents: Floats, floor: float) -> float:
    """Least sum of squares over all exponents between the first and the last of a rising grid.

    The grid alone is too coarse: of points with little noise the exponent is known to less than one step, and the least
    sum on the grid is several times the least one.
    """
    for _ in range(ZOOMS):
        best = int(np.argmin(_given(x, y, exponents, floor)[2]))
        exponents = np.geomspace(exponents[max(best - 1, 0)], exponents[min(best + 1, len(exponents) - 1)], BETWEEN)
    return float(_given(x, y, exponents, floor)[2].min())


def _outermost(excess: Callable[[float], float], begin: float, end: float, square: float) -> float:
    """The last value with no excess on the way from one that has none, up or down, to an end."""
    if excess(begin) >= 0:  # points without noise: rounding is all there is
        return begin
    inside, step = begin, float(np.sqrt(square)) + 1e-12
    while True:
        outside = min(inside + step, end) if end > begin else max(inside - step, end)
        if excess(outside) > 0:
            break
        if outside == end:
            return end
        inside, step = outside, 2 * step
    return float(optimize.brentq(excess, inside, outside, xtol=1e-15, rtol=1e-12))


def _end(x: Floats, y: Floats, floor: float, limit: float, best: float, last: float, edge: float) -> float:
    """Where the sum of squares crosses its limit, between the last exponent of the grid inside and the next one."""
    step = (MOST / LEAST) ** (1 / (GRID - 1))
    beyond = float(np.clip(last / step if edge < best else last * step, LEAST, MOST))
    inside, outside = float(last), beyond
    if _square(x, y, outside, floor) <= limit:
        return edge
    for _ in range(60):
        middle = (inside + outside) / 2
        if _square(x, y, middle, floor) <= limit:
            inside = middle
        else:
            outside = middle
    return inside
