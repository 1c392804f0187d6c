"""The large scale of a generated atmosphere on any grid: winds in balance with temperatures, ground, vertical motion.

Degrees 1 to 21 alone: random streamfunctions that forget within five days, subtropical and polar-night jets that follow
the season, temperatures in thermal-wind balance with both. The ground has ridges of degrees 22 to 85 on continents.
Everything at an hour is a function of the seed and the hour.

Shapes: L levels, V vertical structures, K coefficients, A latitudes, B longitudes.

Source: ours. Jets of 30 m/s at 200 hPa and of 60 m/s at 1 hPa.
"""

from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.climate.generator.background import RADIUS, Smooth
from models.climate.generator.chance import autoregression, stream

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

GRAVITY = 9.81
GAS = 287.053
KAPPA = 0.286
SCALE_HEIGHT = 7000.0
SURFACE = 1e5
ROTATION = 7.292e-5
"""rad/s."""

DEGREE = 21
"""Highest degree of the large scale."""

MEMORY = 120.0
"""Hours after which the large scale's autocorrelation is 1/e: five days."""

STRUCTURES = 5
"""Random vertical structures."""

EDDY_WIND = 8.0
"""Root mean square of each component of the random wind at the surface, m/s, all structures together."""

LIFT = 0.08
"""Root mean square of the large scale's omega, Pa/s."""

LAPSE = 6.5e-3
"""K/m by which levels that follow the ground get colder over hills."""

_FLOW, _RISING, _HILLS, _LAND = range(4)
"""What chance is asked for; other modules begin at 10."""


def hour_of(moment: str) -> int:
    """Hours since 1970-01-01T00 UTC of an ISO time: "2015-03-01T05"."""
    return int(np.datetime64(moment, "h").astype(np.int64))


def ground_of(seed: int, latitude: Floats, longitude: Floats) -> Floats:
    """Height of the ground on any grid.

    Ridges of degrees 22 to 85, or to what the grid resolves, with amplitudes that fall with the square of the degree,
    on continents of degrees 1 to 6; the sea is flat.

    Args:
        seed: which world.
        latitude, longitude: (A), (B) degrees.

    Returns:
        (A, B) m.

    Source:
        Ours.
    """
    finest = int(min(85, max(22, len(latitude) * 2 // 3)))
    fine, coarse = Smooth(latitude, longitude, finest), Smooth(latitude, longitude, 6)
    # drawn to degree 85 on every grid, so that all grids see the same hills
    whole = Smooth(latitude, longitude, 85)
    drawn = stream(seed, _HILLS).standard_normal((2, len(whole.degrees)))
    ridges = (drawn[0] + 1j * drawn[1]) * whole.weights(_spectrum(85, 22, 2.0))
    land = stream(seed, _LAND).standard_normal((2, len(coarse.degrees)))
    continents = (land[0] + 1j * land[1]) * coarse.weights(np.full(7, 1 / 6))
    ridge = fine.field(ridges[None, whole.degrees <= finest])[0]
    shore = np.clip((coarse.field(continents[None])[0] + 0.1) / 0.6, 0.0, 1.0)
    return np.asarray(1000.0 * shore * np.log1p(np.exp(2.0 * ridge)))


def _spectrum(degree: int, first: int, slope: float) -> Floats:
    """Variance by degree, one in all, whose amplitudes fall with a power of the degree from `first` on."""
    degrees = np.arange(degree + 1.0)
    variance = np.where(degrees >= first, (degrees + 0.5) * np.maximum(degrees, 1.0) ** (-2 * slope), 0.0)
    return np.asarray(variance / variance.sum())


@lru_cache(maxsize=1)
def _flow_spectrum() -> Floats:
    """Variance by degree of the streamfunction that gives each wind component a variance of one, m4/s2.

    Amplitudes of coefficients fall with the third power beyond degree 12, where synoptic eddies are, so kinetic energy
    with the third power too.
    """
    degrees = np.arange(DEGREE + 1.0)
    shape = np.where(degrees > 0, (2 * degrees + 1) * (degrees**2 + 144.0) ** -3, 0.0)
    wind = (shape * degrees * (degrees + 1)).sum() / (2 * RADIUS**2)
    return np.asarray(shape / wind)


class Atmosphere:
    """The large scale on one grid: structures once for an hour, then sums of them level by level.

    Args:
        seed: which world.
        latitude, longitude: (A), (B) degrees, in any order, poles allowed.
    """

    def __init__(self, seed: int, latitude: Floats, longitude: Floats) -> None:
        self.seed = seed
        self.smooth = Smooth(latitude, longitude, DEGREE)
        self.coriolis = 2 * ROTATION * np.sin(np.radians(latitude))
        self.ground = ground_of(seed, latitude, longitude)
        self._kept: tuple[int, tuple[Floats, Floats, Floats, Floats]] | None = None

    def fields(self, hour: int, pressure: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Wind u, v in m/s, temperature in K, omega in Pa/s: (L, A, B) each.

        Args:
            hour: hours since 1970-01-01T00 UTC.
            pressure: (L) Pa.

        Returns:
            A level has the same bits alone and in company.

        Source:
            Thermal wind: T' = (H / R) f d psi / dz.
        """
        height = SCALE_HEIGHT * np.log(SURFACE / pressure)
        u_VAB, v_VAB, balance_VAB, rising_VAB = self._structures(hour)
        profile, slope = _profiles(height, hour)
        t = _combined(slope, balance_VAB)
        t += _reference(height)[:, None, None]
        follows = np.clip((pressure - 2e4) / 8e4, 0.0, 1.0)
        t -= LAPSE * follows[:, None, None] * self.ground
        omega = _combined(_rising_profiles(pressure), rising_VAB)
        return _combined(profile, u_VAB), _combined(profile, v_VAB), t, omega

    def _structures(self, hour: int) -> tuple[Floats, Floats, Floats, Floats]:
        """Winds and balanced temperatures of unit profiles (V, A, B), rising (2, A, B); the last hour stays."""
        kept = self._kept
        if kept is None or kept[0] != hour:
            psi_VK = np.concatenate([_random_flow(self.seed, hour), _jets()])
            v_VAB, minus_u_VAB = self.smooth.gradient(psi_VK)
            balance_VAB = self.smooth.field(psi_VK) * self.coriolis[:, None] * (SCALE_HEIGHT / GAS)
            rising_VAB = self.smooth.field(_random_rising(self.seed, hour))
            # hour and fields in one assignment: threads may ask for different hours
            self._kept = kept = (hour, (-minus_u_VAB, v_VAB, balance_VAB, rising_VAB))
        return kept[1]


def _combined(profile_LV: Floats, structure_VAB: Floats) -> Floats:
    """Sum of structures with weights by level; in a fixed order, so that a level does not depend on its company."""
    total = np.empty((len(profile_LV), *structure_VAB.shape[1:]))
    for level, weights in enumerate(profile_LV):
        np.multiply(structure_VAB[0], weights[0], out=total[level])
        for weight, structure in zip(weights[1:], structure_VAB[1:], strict=True):
            total[level] += weight * structure
    return total


@lru_cache(maxsize=2)
def _random_flow(seed: int, hour: int) -> Complexes:
    """Streamfunctions (STRUCTURES, K) of random structures at an hour, m2/s per unit of the profile."""
    smooth = Smooth(np.zeros(1), np.zeros(1), DEGREE)
    parts = autoregression(seed, _FLOW, 2 * STRUCTURES * len(smooth.degrees), hour, MEMORY)
    real, imaginary = parts.reshape(2, STRUCTURES, -1)
    return np.asarray((real + 1j * imaginary) * smooth.weights(_flow_spectrum()))


@lru_cache(maxsize=2)
def _random_rising(seed: int, hour: int) -> Complexes:
    """Coefficients (2, K) of the large scale's vertical motion, of unit variance."""
    smooth = Smooth(np.zeros(1), np.zeros(1), DEGREE)
    real, imaginary = autoregression(seed, _RISING, 4 * len(smooth.degrees), hour, MEMORY / 5).reshape(2, 2, -1)
    return np.asarray((real + 1j * imaginary) * smooth.weights(_spectrum(DEGREE, 1, 0.5)))


@lru_cache(maxsize=1)
def _jets() -> Complexes:
    """Streamfunctions (4, K) of zonal jets of 1 m/s: subtropical north and south, polar night north and south."""
    sine, weight = np.polynomial.legendre.leggauss(256)
    latitude = np.degrees(np.arcsin(sine))
    found = []
    smooth = Smooth(np.zeros(1), np.zeros(1), DEGREE)
    for centre, width in ((30.0, 12.0), (-30.0, 12.0), (60.0, 14.0), (-60.0, 14.0)):
        wind = np.exp(-(((latitude - centre) / width) ** 2))
        # u = - d psi / (R d lat), summed from the south by the midpoints of nodes
        steps = np.diff(np.radians(latitude)) * (wind[1:] + wind[:-1]) / 2
        found.append(smooth.zonal(-RADIUS * np.concatenate([[0.0], np.cumsum(steps)]), sine, weight))
    return np.array(found)


def _profiles(height: Floats, hour: int) -> tuple[Floats, Floats]:
    """Weights (levels, V) of all structures, and their derivative with height, 1/m."""
    top = SCALE_HEIGHT * np.log(1000.0)
    year = (hour - hour_of(f"{datetime.fromtimestamp(hour * 3600, UTC).year}-01-01T00")) / 8766.0
    winter = np.cos(2 * np.pi * (year - 0.04))

    def weights(z: Floats) -> Floats:
        random = [
            EDDY_WIND * np.sqrt((1.0 if n == 0 else 2.0) / (2 * STRUCTURES - 1)) * (1 + z / 60_000.0)
            * np.cos(n * np.pi * z / top)
            for n in range(STRUCTURES)
        ]  # fmt: skip
        subtropical = np.exp(-(((z - 11_300.0) / 6_000.0) ** 2))
        polar = np.clip((z - 14_000.0) / (top - 14_000.0), 0.0, 1.0)
        jets = [
            30.0 * (1 + 0.25 * winter) * subtropical,
            30.0 * (1 - 0.25 * winter) * subtropical,
            60.0 * winter * polar,
            -60.0 * winter * polar,
        ]
        return np.stack([*random, *jets], axis=-1)

    return weights(height), (weights(height + 50.0) - weights(height - 50.0)) / 100.0


def _reference(height: Floats) -> Floats:
    """Temperature of the standard atmosphere, K."""
    return np.interp(height, [0.0, 11e3, 20e3, 32e3, 47e3, 60e3], [288.2, 216.7, 216.7, 228.7, 270.7, 245.0])


def _rising_profiles(pressure: Floats) -> Floats:
    """(levels, 2): strongest in the middle troposphere, less the thinner the air."""
    share = pressure / SURFACE
    return np.stack([LIFT * 4 * share * (1 - share) + LIFT * 0.02 * share, LIFT * 0.3 * share], axis=-1)


def stability(t_LAB: Floats, pressure: Floats) -> Floats:
    """Squared buoyancy frequency of columns, by differences between neighbouring levels.

    N2 = g^2 / (R T) (kappa - d ln T / d ln p).

    Args:
        t_LAB: temperature, K.
        pressure: (L) Pa, rising.

    Returns:
        (L, A, B), 1/s2; negative where a column would turn over.

    Source:
        Definition of N2 with hydrostatic balance.
    """
    slope = np.gradient(np.log(t_LAB), np.log(pressure), axis=0)
    return np.asarray(GRAVITY**2 / (GAS * t_LAB) * (KAPPA - slope))
