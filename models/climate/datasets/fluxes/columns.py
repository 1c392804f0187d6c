"""What columns give: pressure, vertical shear, stratification.

Derivatives are of second order on levels of unequal distance (a parabola through three), one-sided at the first and the
last level, and taken at full resolution, before anything is averaged: the published script declares its arrays so
(coarsegrain_computed_momentum_fluxes.py lines 94-97; its formulas are missing). Pressure is linear in the surface
pressure, so its coarse mean is that of the surface pressure.

    N2 = -(g^2 / (R T)) d ln theta / d ln p,    theta = T (p / p0)^-kappa

Shapes: I latitudes, J longitudes.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.climate.datasets.fluxes.momentum import GRAVITY

Floats = NDArray[np.float64]

REFERENCE_PRESSURE = 1e5
GAS_CONSTANT = 287.053
KAPPA = 0.286
"""Pa, J/(kg K), and R / c_p, as published (coarsegrain_computed_momentum_fluxes.py lines 88-91)."""
STANDARD_GRAVITY = 9.80665
"""m/s2; by definition what makes a height of a geopotential."""

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")


def potential_temperature(temperature: ArrayLike, pressure: ArrayLike) -> Floats:
    """theta, K, of temperature (K) and pressure (Pa)."""
    return np.asarray(np.asarray(temperature) * (np.asarray(pressure) / REFERENCE_PRESSURE) ** -KAPPA)


def log_theta(temperature: ArrayLike, log_pressure: Floats) -> Floats:
    """ln theta of temperature (I, J) in K and ln of pressure in Pa; theta in K."""
    found = np.log(np.asarray(temperature, np.float64))
    found += KAPPA * np.log(REFERENCE_PRESSURE)
    found -= KAPPA * log_pressure
    return np.asarray(found)


def derivative(at: int, x: tuple[Floats, ...], y: tuple[Floats, ...]) -> Floats:
    """dy/dx at one of two or three levels.

    Args:
        at: which of them.
        x: (I, J) each, different from level to level.
        y: likewise.

    Returns:
        (I, J): of the parabola through three, of the line through two.
    """
    out = np.empty(x[0].shape)
    if len(x) == 2:
        return np.asarray((y[1] - y[0]) / (x[1] - x[0]))
    _parabola(*(np.ascontiguousarray(value, np.float64) for value in (*x, *y)), at, out)
    return out


def stratification(temperature: ArrayLike, slope: Floats) -> Floats:
    """N2 (I, J), 1/s2, of temperature (K) and d ln theta / d ln p."""
    return np.asarray(-(GRAVITY**2 / GAS_CONSTANT) * slope / np.asarray(temperature, np.float64))


@compiled
def _parabola(x0: Any, x1: Any, x2: Any, y0: Any, y1: Any, y2: Any, at: int, out: Any) -> None:
    """Newton's form: first difference, plus second difference times what is left of the way."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            a, b, c = x0[i, j], x1[i, j], x2[i, j]
            first = (y1[i, j] - y0[i, j]) / (b - a)
            second = ((y2[i, j] - y1[i, j]) / (c - b) - first) / (c - a)
            x = a if at == 0 else (b if at == 1 else c)
            out[i, j] = first + second * ((x - a) + (x - b))
