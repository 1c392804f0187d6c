"""The grid of the precipitation dataset, and how fields and swaths are brought onto it.

    nearest   the source cell whose centre is nearest; half-way, the one to the south or west; nothing beyond the cells
    linear    between the four centres around, by latitude and longitude; nothing where one that counts is missing
    swath     the nearest pixel of a scan, within a radius

Longitudes go around: a source of the whole circle has no edge at its seam.

Shapes: R x C of the area, I x J of a source, N pixels of a swath, K channels.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from models.common.errors import InputError

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Method = Literal["nearest", "linear"]

EARTH_RADIUS_KM = 6370.997
"""The sphere on which pyresample measures distances."""

_HAIR = 1e-6
"""Degrees, and shares of a step, below which two places are one."""


@dataclass(frozen=True, eq=False)
class Area:
    """Centres of a grid of equal steps around the globe.

    Attributes:
        latitudes: (R) from north to south.
        longitudes: (C) from -180 on.
    """

    latitudes: Floats
    longitudes: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """R and C."""
        return len(self.latitudes), len(self.longitudes)

    @cached_property
    def directions(self) -> Floats:
        """(R * C, 3) unit vectors of the centres."""
        lat, lon = np.meshgrid(self.latitudes, self.longitudes, indexing="ij")
        return _directions(lat.ravel(), lon.ravel())


def area_of(rows: int, columns: int, *, shifted: bool = False) -> Area:
    """The area "merra" at any size: rows between the poles, columns on the longitudes of MERRA-2.

    Args:
        rows: number of latitudes; 360 are published, in contrast to the 361 of MERRA-2 with its poles.
        columns: number of longitudes; 576 are published.
        shifted: half a cell to the east, as one of the two published definitions has it.

    Source:
        simonpf/chimp, chimp/areas/merra.yml: area_extent from -180.3125 at eacc2d4, and from -180 at e1701da.
    """
    down, across = np.arange(rows, dtype=np.float64), np.arange(columns, dtype=np.float64)
    return Area(
        latitudes=90.0 - (down + 0.5) * (180.0 / rows),
        longitudes=-180.0 + (across + (0.5 if shifted else 0.0)) * (360.0 / columns),
    )


@dataclass(frozen=True, eq=False)
class _Axis:
    """For every target the two source positions around it, the weight of the second, and whether there is anything."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: Floats
    there: NDArray[np.bool_]


class Resampling:
    """From one regular grid to an area.

    Args:
        latitudes: (I) centres of the source, either way.
        longitudes: (J) centres of the source, from west to east.
        area: where to.
        method: nearest or linear.
        place: file and variable, for the error.

    Attributes:
        rows: source rows that are needed, rising.
        columns: source columns that are needed, rising.

    Raises:
        InputError: the source has fewer than two rows or columns.
    """

    def __init__(self, latitudes: Floats, longitudes: Floats, area: Area, method: Method, place: str = "") -> None:
        if len(latitudes) < 2 or len(longitudes) < 2:
            raise InputError(
                f"{place}: {len(latitudes)} x {len(longitudes)} points make no grid to resample; give a map."
            )
        self.area = area
        south = latitudes if latitudes[0] < latitudes[-1] else latitudes[::-1]
        found = _around(south, area.latitudes, method, period=0.0)
        if latitudes[0] > latitudes[-1]:
            last = len(latitudes) - 1
            found = _Axis(last - found.first, last - found.second, found.weight, found.there)
        across = _around(longitudes, area.longitudes, method, period=360.0)
        self.rows, row_places = np.unique(np.concatenate([found.first, found.second]), return_inverse=True)
        self.columns, column_places = np.unique(np.concatenate([across.first, across.second]), return_inverse=True)
        half = len(found.first)
        self._lat = _Axis(row_places[:half], row_places[half:], found.weight, found.there)
        half = len(across.first)
        self._lon = _Axis(column_places[:half], column_places[half:], across.weight, across.there)

    def __call__(self, values: Singles) -> Singles:
        """Fields of the needed rows and columns, brought onto the area.

        Args:
            values: (..., len(rows), len(columns)); not-a-number where there is nothing.

        Returns:
            (..., R, C).
        """
        half = _between(np.swapaxes(values, -1, -2), self._lat)
        return np.asarray(_between(np.swapaxes(half, -1, -2), self._lon), np.float32)


def _around(source: Floats, target: Floats, method: Method, *, period: float) -> _Axis:
    """Positions in a rising source axis."""
    count, step = len(source), float(np.median(np.diff(source)))
    around = bool(period) and abs(source[-1] - source[0] + step - period) < 0.5 * step
    place = source[0] + np.mod(target - source[0], period) if period else target
    if period:  # what lies less than a cell west of the first centre is there, not a circle away
        place = np.where(place > source[0] + period - step, place - period, place) if not around else place
    after = np.searchsorted(source, place, side="right")
    first = np.clip(after - 1, 0, count - 1)
    second = (first + 1) % count if around else np.minimum(first + 1, count - 1)
    ahead = np.where(second > first, source[second], source[second] + period)
    width = np.where(second == first, step, ahead - source[first])
    weight = (place - source[first]) / width
    weight = np.where(np.abs(weight) < _HAIR, 0.0, np.where(np.abs(weight - 1) < _HAIR, 1.0, weight))
    if method == "nearest":
        chosen = np.where(weight <= 0.5 + _HAIR, first, second)
        there = (weight >= -0.5 - _HAIR) & ((second != first) | (weight <= 0.5 + _HAIR))
        return _Axis(chosen, chosen, np.zeros(len(target)), there)
    there = (weight >= 0) & (weight <= 1) & ((second != first) | (weight == 0))
    return _Axis(first, second, np.clip(weight, 0.0, 1.0), there)


def _between(values: NDArray[np.floating], axis: _Axis) -> Floats:
    """Along the last axis; a neighbour that counts nothing may be missing."""
    first = values[..., axis.first].astype(np.float64)
    if np.any(axis.weight):
        second = values[..., axis.second]
        mixed = first * (1 - axis.weight) + second * axis.weight
        first = np.where(axis.weight == 0, first, np.where(axis.weight == 1, second, mixed))
    return np.where(axis.there, first, np.nan)


def _directions(latitudes: Floats, longitudes: Floats) -> Floats:
    lat, lon = np.radians(latitudes), np.radians(longitudes)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def swath_to(
    latitudes: NDArray[np.floating],
    longitudes: NDArray[np.floating],
    values: Singles,
    area: Area,
    *,
    radius_km: float,
) -> Singles:
    """Pixels of a swath on the area: to every centre the nearest pixel, if it is near enough.

    Args:
        latitudes: (N) degrees.
        longitudes: (N) degrees.
        values: (K, N); a pixel that is missing in one channel still is the nearest.
        area: where to.
        radius_km: how far the nearest pixel may be, along the chord.

    Returns:
        (K, R, C), not-a-number where no pixel is near.

    Source:
        pyresample's nearest neighbours with radius_of_influence, as simonpf/chimp uses them in chimp/data/ssmi.py.
    """
    rows, columns = area.shape
    out = np.full((len(values), rows * columns), np.nan, np.float32)
    known = np.flatnonzero(np.isfinite(latitudes) & np.isfinite(longitudes) & (np.abs(latitudes) <= 90))
    if not len(known):
        return out.reshape(-1, rows, columns)
    pixels = _directions(latitudes[known].astype(np.float64), longitudes[known].astype(np.float64))
    reach = radius_km / EARTH_RADIUS_KM
    low, high = pixels[:, 2].min() - reach, pixels[:, 2].max() + reach
    near = np.flatnonzero((area.directions[:, 2] >= low) & (area.directions[:, 2] <= high))
    # a pixel exactly at the radius is within it
    bound = np.nextafter(reach, np.inf)
    distance, found = cKDTree(pixels).query(area.directions[near], distance_upper_bound=bound)
    hit = np.isfinite(distance)
    out[:, near[hit]] = values[:, known[found[hit]]]
    return out.reshape(-1, rows, columns)


def laid_over(below: Singles, above: Singles) -> Singles:
    """The second field where it has values, the first elsewhere; changes and returns the first.

    Args:
        below: any shape.
        above: the same shape.
    """
    there = np.isfinite(above)
    below[there] = above[there]
    return below
