"""Smooth fields on the sphere from few coefficients: Legendre functions in tables, sines and cosines along rows.

Written apart from `models/climate/harmonics.py`, which is examined with what is made here.

Shapes: K coefficients (order m by order m: l = m..L), M orders, I latitudes, J longitudes, V fields at once.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

RADIUS = 6.37122e6
"""Of the earth, m."""


_compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)


@_compiled
def _series(real_VIM: Any, imaginary_VIM: Any, cosine_MJ: Any, sine_MJ: Any, field_VIJ: Any) -> None:
    """Fourier series along rows, order by order."""
    for v in range(field_VIJ.shape[0]):
        for i in range(field_VIJ.shape[1]):
            row = field_VIJ[v, i]
            row[:] = real_VIM[v, i, 0]
            for m in range(1, cosine_MJ.shape[0]):
                a, b = real_VIM[v, i, m], imaginary_VIM[v, i, m]
                for j in range(len(row)):
                    row[j] += a * cosine_MJ[m, j] - b * sine_MJ[m, j]


class Smooth:
    """Real spherical harmonics of degrees 1..L on a grid of latitudes and longitudes.

    A field is f(lat, lon) = Re sum_lm c_lm P_lm(sin lat) exp(i m lon), with P_lm normalised so that independent unit
    normal parts of c give a field of variance sum (2 l + 1) ... per degree; see `weights`.

    Args:
        latitude: (I) degrees, poles allowed.
        longitude: (J) degrees, any.
        degree: L.
    """

    def __init__(self, latitude: Floats, longitude: Floats, degree: int) -> None:
        self.latitude, self.longitude, self.degree = latitude, longitude, degree
        pairs = [(m, n) for m in range(degree + 1) for n in range(m, degree + 1)]
        self.orders = np.array([m for m, _ in pairs])
        self.degrees = np.array([n for _, n in pairs])

    @cached_property
    def _tables(self) -> tuple[Floats, Floats, Floats]:
        """(K, I) each: P, dP/dlat, m P / cos lat."""
        # short of the pole, where the quotients have limits that rounding would miss
        phi = np.radians(np.clip(self.latitude, -89.9999, 89.9999))
        sine, cosine = np.sin(phi), np.cos(phi)
        value, slope = [], []
        diagonal = np.full(len(phi), np.sqrt(0.5))
        for m in range(self.degree + 1):
            if m:
                diagonal = diagonal * cosine * np.sqrt((2 * m + 1) / (2 * m))
            before, now = np.zeros_like(diagonal), diagonal
            for n in range(m, self.degree + 1):
                lower = np.sqrt((2 * n + 1) * (n * n - m * m) / (2 * n - 1)) if n > m else 0.0
                value.append(now)
                slope.append((lower * before - n * sine * now) / cosine)
                a = np.sqrt((2 * n + 1) * (2 * n + 3) / ((n + 1) ** 2 - m * m))
                b = np.sqrt((n * n - m * m) / (4 * n * n - 1)) if n else 0.0
                before, now = now, a * (sine * now - b * before)
        table = np.array(value)
        return table, np.array(slope), table * self.orders[:, None] / cosine

    def _rows(self, coefficients: Complexes, table: Floats, factor: complex = 1.0) -> Floats:
        """(V, I, J): sum over l for every order, then over orders."""
        waves = np.empty((len(coefficients), len(self.latitude), self.degree + 1), complex)
        for m in range(self.degree + 1):
            of_m = self.orders == m
            # einsum and loops of our own: sums of a BLAS depend on its threads, in the last bit
            waves[:, :, m] = np.einsum("vk,ki->vi", coefficients[:, of_m] * factor, table[of_m])
        angle = np.arange(self.degree + 1)[:, None] * np.radians(self.longitude)
        fields = np.empty((len(coefficients), len(self.latitude), len(self.longitude)))
        real, imaginary = np.ascontiguousarray(waves.real), np.ascontiguousarray(waves.imag)
        _series(real, imaginary, np.cos(angle), np.sin(angle), fields)
        return fields

    def field(self, coefficients: Complexes) -> Floats:
        """Scalars (V, I, J) of coefficients (V, K)."""
        return self._rows(coefficients, self._tables[0])

    def gradient(self, coefficients: Complexes) -> tuple[Floats, Floats]:
        """Eastward and northward derivative per metre (V, I, J)."""
        _, slope, over = self._tables
        return self._rows(coefficients / RADIUS, over, 1j), self._rows(coefficients / RADIUS, slope)

    def weights(self, shape: Floats) -> Floats:
        """Standard deviation of the real parts of (K) random coefficients.

        Args:
            shape: (L + 1) wanted variance of the field in every degree, over the sphere; degree 0 is left out.

        Returns:
            (K); imaginary parts have the same, and those of m = 0 do not matter.
        """
        # over the sphere P_lm^2 averages 1/2; cos and sin halve it again; degree l has 2 l + 1 real coefficients
        variance = shape[self.degrees] / (2 * self.degrees + 1) * np.where(self.orders == 0, 2.0, 4.0)
        return np.sqrt(np.where(self.degrees > 0, variance, 0.0))

    def zonal(self, profile: Floats, sine: Floats, quadrature: Floats) -> Complexes:
        """Coefficients (K) of the zonal field whose values at Gaussian nodes are given.

        Args:
            profile: values at the nodes.
            sine: sines of latitude of the nodes.
            quadrature: their weights, which sum to 2.
        """
        found = np.zeros(len(self.degrees), complex)
        nodes = Smooth(np.degrees(np.arcsin(sine)), self.longitude[:1], self.degree)
        zonal = self.orders == 0
        found[zonal] = np.einsum("ki,i->k", nodes._tables[0][zonal], profile * quadrature)
        found[self.degrees == 0] = 0
        return found
