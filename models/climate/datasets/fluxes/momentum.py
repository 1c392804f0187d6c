"""Momentum flux of the unresolved waves: small-scale divergent winds times small-scale vertical motion.

With the potential flow (u_d, v_d) of the wind and a prime for what is finer than T21,

    uw = u_d' omega' / -g,    vw = v_d' omega' / -g      in Pa,

so that the sign is that of rho u' w': omega = -rho g w. Nothing is averaged here; the coarse cells do that.

Shapes: I latitudes, J longitudes. Units: winds m/s, omega Pa/s, flux Pa.

Source:
    Helmholtz fluxes of WxC-Bench, nonlocal_parameterization/compute_momentum_flux_from_era5.py, lines 186-209.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.climate.harmonics import Harmonics

Floats = NDArray[np.float64]

GRAVITY = 9.81
"""m/s2, as published."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WaveFlux:
    """The flux of one level.

    Attributes:
        harmonics: transform of the grid.
        truncation: highest degree of what counts as resolved.
        scalar_truncation: repeat a published defect: truncate the components of the divergent wind as if they were
            scalars. At the poles, where components of a smooth wind jump from one longitude to the next, that leaves
            nearly the whole wind as if it were waves.
        zonal_mean_omega: repeat a published defect: take from omega its zonal mean alone, so that it keeps planetary
            waves that the wind has lost.
    """

    harmonics: Harmonics
    truncation: int = 21
    scalar_truncation: bool = False
    zonal_mean_omega: bool = False

    def __call__(self, u: ArrayLike, v: ArrayLike, omega: ArrayLike) -> tuple[Floats, Floats]:
        """Zonal and meridional flux (I, J) each, Pa.

        Args:
            u: eastward wind (I, J).
            v: northward wind (I, J).
            omega: pressure velocity (I, J).
        """
        u_wave, v_wave = self.winds(u, v)
        vertical = self.vertical(omega)
        vertical /= -GRAVITY
        return np.multiply(u_wave, vertical, out=u_wave), np.multiply(v_wave, vertical, out=v_wave)

    def winds(self, u: ArrayLike, v: ArrayLike) -> tuple[Floats, Floats]:
        """Divergent winds finer than the truncation (I, J) each, m/s."""
        if not self.scalar_truncation:
            return self.harmonics.irrotational(u, v, above=self.truncation)
        divergent = self.harmonics.irrotational(u, v)
        east, north = (self.harmonics.high_pass(component, self.truncation) for component in divergent)
        return east, north

    def vertical(self, omega: ArrayLike) -> Floats:
        """Vertical motion finer than the truncation (I, J), Pa/s."""
        if self.zonal_mean_omega:
            field = np.asarray(omega, np.float64)
            return np.asarray(field - field.mean(axis=1, keepdims=True))
        return self.harmonics.high_pass(omega, self.truncation)
