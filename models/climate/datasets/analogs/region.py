"""Cut a region out of daily files of a global analysis."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets import readers
from models.climate.datasets.fields import Field
from models.common.errors import InputError

Array = NDArray[Any]

NAMES = {"SLP": readers.NAMES["slp"], "T2M": readers.NAMES["t2m"]}
UNITS = {"SLP": "Pa", "T2M": "K"}

TOLERANCE = 1e-4
"""Degrees by which a coordinate may miss a bound, or its place in the region: far above what rounding leaves (5e-13 in
place of 0 stands in such files), far below any grid's step."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A region; degrees, bounds included; west may lie east of the date line from east's view."""

    south: float
    north: float
    west: float
    east: float

    def latitudes(self, given: Array) -> NDArray[np.int64]:
        """Positions of the rows inside, southernmost first."""
        inside = np.flatnonzero((given >= self.south - TOLERANCE) & (given <= self.north + TOLERANCE))
        return inside[np.argsort(given[inside], kind="stable")]

    def longitudes(self, given: Array) -> tuple[NDArray[np.int64], Array]:
        """Positions of the columns inside, westernmost first, and their longitudes from `west` on eastward."""
        east = self.west + (given - self.west + TOLERANCE) % 360.0 - TOLERANCE
        span = (self.east - self.west) % 360.0 or (360.0 if self.east > self.west else 0.0)
        inside = np.flatnonzero(east <= self.west + span + TOLERANCE)
        inside = inside[np.argsort(east[inside], kind="stable")]
        return inside, east[inside]

    def exactly(self, given: Array, low: float, high: float) -> NDArray[np.int64]:
        """Positions of the coordinates that compare as inside, as published: no tolerance, no way round the circle."""
        return np.flatnonzero((given >= low) & (given <= high))


def _clean(degrees: Array) -> NDArray[np.float64]:
    """Degrees without what rounding left, and without a negative zero."""
    return np.asarray(np.round(degrees, 6) + 0.0, np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Axes:
    """The region's own coordinates, free of rounding: R rows from the south, C columns from the west."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    @classmethod
    def of(cls, bounds: Bounds, latitude: Array, longitude: Array, what: str) -> "Axes":
        """The coordinates of a grid that lie inside.

        Raises:
            InputError: none does.
        """
        columns, degrees = bounds.longitudes(longitude)
        rows = latitude[bounds.latitudes(latitude)]
        if not len(rows) or not len(columns):
            raise InputError(
                f"{what} has no point between {bounds.south:g} and {bounds.north:g} N, {bounds.west:g} and "
                f"{bounds.east:g} E; its latitudes run from {latitude.min():g} to {latitude.max():g}, its longitudes "
                f"from {longitude.min():g} to {longitude.max():g}. Give global files, or other bounds."
            )
        return cls(latitude=_clean(rows), longitude=_clean(degrees))


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """One day of the region.

    Attributes:
        fields: SLP (Pa) and T2M (K) to (R, C) float32; NaN where not known or not cut.
        latitude, longitude: (R), (C) as the file gives them; NaN where not cut.
        minutes: since 1970-01-01 UTC.
        attributes: the file's own.
    """

    fields: dict[str, NDArray[np.float32]]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    minutes: int
    attributes: dict[str, Any]


def days_in(path: Path, hour: int) -> tuple[date, ...]:
    """Which days a file holds: the day in its name, or those of its time axis.

    Raises:
        InputError: neither tells.
    """
    for text in re.findall(r"(?<!\d)(\d{8})(?!\d)", path.name):
        try:
            return (date(int(text[:4]), int(text[4:6]), int(text[6:])),)
        except ValueError:
            continue
    times = _times(readers.header(path).field(*NAMES["SLP"]), path)
    chosen = times[(times - times.astype("datetime64[D]")) == np.timedelta64(hour, "h")]
    if not len(chosen):
        raise InputError(
            f"{path} has no time at {hour:02d} UTC; choose another hour, or name the day in the file's name."
        )
    return tuple(one.astype(object) for one in chosen.astype("datetime64[D]"))


def _times(field: Field, path: Path) -> Array:
    axis = field.axis("time")
    if axis is None or axis.values is None or axis.values.dtype.kind != "M":
        raise InputError(f"{path}: {field.name} has no dated time axis, it has {list(field.dims)}; give daily files.")
    return axis.values.astype("datetime64[m]")


def cut(path: Path, day: date, hour: int, bounds: Bounds, axes: Axes, *, by_index: bool, exactly: bool) -> Cut:
    """Read one day of the region.

    Args:
        path: the file.
        day: which day.
        hour: UTC.
        bounds: the region.
        axes: its coordinates.
        by_index: take the file's first time, whatever its date, as published.
        exactly: compare coordinates without tolerance, as published.

    Returns:
        The day.

    Raises:
        InputError: the file lacks the time, a variable, or has another grid.

    Source:
        weather_analog/preprocess_weather_analog.py lines 32-35.
    """
    header = readers.header(path)
    field = header.field(*NAMES["SLP"])
    times = _times(field, path)
    wanted = np.datetime64(day, "m") + np.timedelta64(hour, "h")
    found = np.array([0]) if by_index else np.flatnonzero(times == wanted)
    if len(found) != 1:
        raise InputError(
            f"{path} has {len(found)} times {wanted}; it has {len(times)}, from {times[0]} to {times[-1]}. Give the "
            "file of the day, or choose another hour."
        )
    latitude, longitude = _straight(field, path)
    if exactly:
        rows, columns = (
            bounds.exactly(latitude, bounds.south, bounds.north), bounds.exactly(longitude, bounds.west, bounds.east),
        )  # fmt: skip
    else:
        rows, (columns, _) = bounds.latitudes(latitude), bounds.longitudes(longitude)
    at_row = _places(latitude[rows], axes.latitude, path, "latitude")
    at_column = _places(longitude[columns], axes.longitude, path, "longitude")
    if not exactly and (len(rows), len(columns)) != (len(axes.latitude), len(axes.longitude)):
        raise InputError(
            f"{path} has {len(rows)} x {len(columns)} points in the region, others have {len(axes.latitude)} x "
            f"{len(axes.longitude)}; give files on one grid."
        )
    data = readers.read(path, NAMES, at={"time": found, "lat": rows, "lon": columns}, units=UNITS)
    fields = {}
    for name in NAMES:
        whole = np.full((len(axes.latitude), len(axes.longitude)), np.nan, np.float32)
        whole[np.ix_(at_row, at_column)] = data[name].values.reshape(len(rows), len(columns))
        fields[name] = whole
    given = [np.full(len(axis), np.nan) for axis in (axes.latitude, axes.longitude)]
    given[0][at_row], given[1][at_column] = latitude[rows], longitude[columns]
    return Cut(
        fields=fields,
        latitude=given[0],
        longitude=given[1],
        minutes=int(times[found[0]].astype(np.int64)),
        attributes=dict(header.attrs),
    )


def _straight(field: Field, path: Path) -> tuple[Array, Array]:
    """Latitudes and longitudes of a grid of rows and columns."""
    grid = field.grid
    if grid.latitudes.ndim != 1 or grid.longitudes.ndim != 1 or not grid.latitudes.size:
        raise InputError(f"{path}: {field.name} lies on a {grid.kind} grid; give one of latitudes and longitudes.")
    return grid.latitudes, grid.longitudes


def _places(given: Array, axis: Array, path: Path, name: str) -> NDArray[np.int64]:
    """Where coordinates stand on the region's axis."""
    gap = np.abs((given[:, None] - axis[None, :] + 180.0) % 360.0 - 180.0)
    if len(given) and gap.min(1).max() > TOLERANCE:
        worst = given[int(gap.min(1).argmax())]
        raise InputError(f"{path} has {name} {worst:g}, which the first file's grid lacks; give files on one grid.")
    return np.asarray(gap.argmin(1), np.int64)


def grid_of(path: Path, bounds: Bounds) -> tuple[Axes, dict[str, dict[str, Any]]]:
    """The region's coordinates by a file's header, and the attributes of its variables.

    Raises:
        InputError: the file lacks a variable, or the region.
    """
    header = readers.header(path)
    axes = Axes.of(bounds, *_straight(header.field(*NAMES["SLP"]), path), str(path))
    return axes, {name: dict(header.field(*names).attrs) for name, names in NAMES.items()}


def from_arrays(latitude: Sequence[float] | Array, longitude: Sequence[float] | Array, bounds: Bounds) -> Axes:
    """The region's coordinates on a generated grid."""
    return Axes.of(bounds, np.asarray(latitude, np.float64), np.asarray(longitude, np.float64), "the generated grid")
