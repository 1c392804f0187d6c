"""Where the fields of one hour come from: files of any kind that the readers know, or a generated atmosphere.

Names: u, v (m/s), w (omega, Pa/s), t (K) on levels; sp (Pa) and zs (m) at the surface.
Shapes: K levels asked for, I latitudes, J longitudes.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.climate import geometry
from models.climate.datasets import readers
from models.climate.datasets.fluxes.columns import STANDARD_GRAVITY
from models.climate.datasets.fluxes.levels import Levels, hybrid_levels, pressure_levels
from models.climate.generator import gwsphere
from models.climate.generator.atmosphere import ground_of
from models.climate.geometry import Grid, regular_grid
from models.common.errors import AwaitedError, InputError

Floats = NDArray[np.float64]
Array = NDArray[Any]
Hour = np.datetime64

UNITS: Mapping[str, str] = {"u": "m s-1", "v": "m s-1", "w": "Pa s-1", "t": "K", "sp": "Pa", "zs": "m2 s-2"}
CALLED: Mapping[str, tuple[str, ...]] = {
    **{name: readers.NAMES[name] for name in ("u", "v", "w", "t")},
    "sp": readers.NAMES["sp"] + readers.NAMES["lnsp"],
    "zs": (*readers.NAMES["z"], "zs", "orog", "surface_altitude"),
}
ON_LEVELS = ("u", "v", "w", "t")


class Fields(Protocol):
    """The fields of one hour."""

    @property
    def grid(self) -> Grid:
        """Of all fields."""

    @property
    def levels(self) -> Levels:
        """From the top."""

    def has(self, name: str) -> bool:
        """Whether there is such a field."""

    def load(self, name: str, levels: range) -> Array:
        """u, v, w or t on some levels, (K, I, J); no value is missing."""

    def surface(self, name: str) -> Floats:
        """sp or zs, (I, J); no value is missing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shelf:
    """Where the hours of one variable lie.

    Attributes:
        name: u, v, w, t, sp or zs.
        places: hour to the file and the position on its time axis; None: the file has no time axis.
        always: of a surface field without hours of its own: the one file; else None.
    """

    name: str
    places: Mapping[Hour, tuple[Path, int | None]]
    always: tuple[Path, int | None] | None = None

    def at(self, hour: Hour) -> tuple[Path, int | None]:
        """File and position of an hour.

        Raises:
            AwaitedError: it is not there yet.
        """
        found = self.places.get(hour, self.always)
        if found is None:
            raise AwaitedError(
                f"{self.name} of {hour} is in no file; get it, or set start and end around what is there."
            )
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Library:
    """What there is: hours, and the grid and levels that all fields share.

    Attributes:
        shelves: where the variables lie; empty when they are generated.
        hours: in their order.
        grid: of all fields.
        levels: from the top.
        has: names of the fields beside u, v and w: any of t, sp, zs.
    """

    shelves: Mapping[str, Shelf]
    hours: tuple[Hour, ...]
    grid: Grid
    levels: Levels
    has: tuple[str, ...]


def catalogue(files: Mapping[str, tuple[Path, ...]]) -> Library:
    """Look at the headers of all files.

    Args:
        files: u, v, w, and any of t, sp, zs, to their files.

    Returns:
        Hours are those of u, in their order.

    Raises:
        InputError: a variable has no file or no levels, files differ in grid or levels, or an hour comes twice.

    Source:
        Ours.
    """
    for name in ("u", "v", "w"):
        if not files.get(name):
            raise AwaitedError(f"no file of {name} was found; check the path or the glob.")
    shelves = {name: _shelf(name, paths) for name, paths in files.items() if paths}
    first = files["u"][0]
    grid, numbers, kind = _levels_and_grid(first, "u")
    for name in ON_LEVELS:
        for path in files.get(name, ()):
            other, found, _ = _levels_and_grid(path, name)
            if not np.array_equal(found, numbers):
                raise InputError(
                    f"{path}: {name} has {len(found)} levels from {found[0]:g} to {found[-1]:g}, {first} has "
                    f"{len(numbers)} from {numbers[0]:g} to {numbers[-1]:g}; give files of the same levels."
                )
            _same_grid(other, grid, path, first)
    for name in ("sp", "zs"):
        for path in files.get(name, ()):
            _same_grid(_grid(path, _field(path, name)), grid, path, first)
    return Library(
        shelves=shelves,
        hours=tuple(sorted(shelves["u"].places)),
        grid=grid,
        levels=_levels(first, numbers, kind),
        has=tuple(name for name in ("t", "sp", "zs") if name in shelves),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class FileFields:
    """One hour in files.

    Attributes:
        hour: when; for messages.
        places: name to file and position on its time axis.
        grid: of all fields.
        levels: from the top.
    """

    hour: Hour
    places: Mapping[str, tuple[Path, int | None]]
    grid: Grid
    levels: Levels

    @classmethod
    def of(cls, hour: Hour, places: Mapping[str, tuple[Path, int | None]]) -> "FileFields":
        """Grid and levels from the header of u."""
        path = places["u"][0]
        grid, numbers, kind = _levels_and_grid(path, "u")
        return cls(hour=hour, places=places, grid=grid, levels=_levels(path, numbers, kind))

    def has(self, name: str) -> bool:
        """Whether a file of it was given."""
        return name in self.places

    def load(self, name: str, levels: range) -> Array:
        """See `Fields`; in single precision as read."""
        path, position = self.places[name]
        spots: Any = _downward(_level_axis(path, name)[0])[levels.start : levels.stop]
        if len(spots) == 1 or (np.diff(spots) == 1).all():
            spots = slice(int(spots[0]), int(spots[-1]) + 1)
        return self._read(name, path, position, {"level": spots})

    def surface(self, name: str) -> Floats:
        """See `Fields`."""
        path, position = self.places[name]
        field = _field(path, name)
        at = {"level": 0} if field.axis("level") is not None else {}
        if name == "sp" and field.name in readers.NAMES["lnsp"]:
            return np.exp(self._read(name, path, position, at, units=None).astype(np.float64))
        found = self._read(name, path, position, at, units="m" if name == "zs" and _is_height(field) else UNITS[name])
        found = found.astype(np.float64)
        return found if name == "sp" or _is_height(field) else found / STANDARD_GRAVITY

    def _read(
        self, name: str, path: Path, position: int | None, at: Mapping[str, Any], units: str | None = ""
    ) -> Array:
        wanted = UNITS[name] if units == "" else units
        at = {**at, **({} if position is None else {"time": position})}
        data = readers.read(
            path, {name: CALLED[name]}, at=at, units={} if wanted is None else {name: wanted}, epoch=_epoch(path)
        )
        values = np.ascontiguousarray(data[name].values)
        if not np.isfinite(values).all():
            raise InputError(
                f"{path}: {name} at {self.hour} has {int((~np.isfinite(values)).sum())} missing values; a Helmholtz "
                "decomposition needs the whole sphere. Get the file again, or leave the hour out."
            )
        return values


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedFields:
    """One hour of a generated atmosphere whose waves are known.

    Attributes:
        hour: when.
        world: which.
        grid: on which the fields are asked for.
    """

    hour: Hour
    world: gwsphere.GwsphereConfig
    grid: Grid

    @property
    def levels(self) -> Levels:
        """Of constant pressure."""
        return pressure_levels(gwsphere.world_of(self.world).pressure / 100.0)

    def has(self, name: str) -> bool:
        """All but a surface pressure: the levels do not follow it."""
        return name in ("u", "v", "w", "t", "zs")

    def load(self, name: str, levels: range) -> Array:
        """See `Fields`."""
        found = _generated(self.world, self.hour, self.grid.shape, levels)
        return np.asarray(getattr(found, "omega" if name == "w" else name))

    def surface(self, name: str) -> Floats:
        """See `Fields`."""
        return ground_of(self.world.seed, self.grid.latitudes, self.grid.longitudes)


@functools.lru_cache(maxsize=2)
def _generated(world: gwsphere.GwsphereConfig, hour: Hour, shape: tuple[int, int], levels: range) -> gwsphere.Fields:
    """All four fields of some levels; asked for by name, one after another."""
    grid = regular_grid(*shape)
    hours = int(hour.astype("datetime64[h]").astype(np.int64))
    return gwsphere.fields_on(world, hours, grid.latitudes, grid.longitudes, list(levels))


def _field(path: Path, name: str) -> readers.Field:
    return readers.header(path).field(*CALLED[name])


def _is_height(field: readers.Field) -> bool:
    return field.units.strip() in ("m", "gpm", "metres", "meters")


def _epoch(path: Path) -> str:
    """The day in a file's name, for hours that stand without a date: U20150301_ml.nc."""
    found = re.search(r"(?<!\d)((?:18|19|20|21)\d\d)-?([01]\d)-?([0-3]\d)(?!\d)", path.name)
    return "-".join(found.groups()) if found else ""


def _shelf(name: str, paths: Sequence[Path]) -> Shelf:
    places: dict[Hour, tuple[Path, int | None]] = {}
    undated: list[tuple[Path, int | None]] = []
    for path in paths:
        field = _field(path, name)
        for axis in field.axes:
            if axis.name not in ("time", "level", "lat", "lon") and axis.size > 1:
                raise InputError(f"{path}: {name} has {axis.size} entries along {axis.name}; choose one of them first.")
        times = field.axis("time")
        if times is None or times.values is None:
            undated.append((path, None if times is None else 0))
            continue
        values = times.values
        if values.dtype.kind != "M":
            # Undated hours: the day stands in the name.
            data = readers.read(path, {name: CALLED[name]}, at={"level": 0, "lat": 0, "lon": 0}, epoch=_epoch(path))
            values = data["time"].values
            if values.dtype.kind != "M":
                undated.append((path, 0))
                continue
        for position, hour in enumerate(values.astype("datetime64[s]").astype("datetime64[m]")):
            if hour in places:
                raise InputError(f"{name} of {hour} is in {places[hour][0]} and in {path}; give one of them.")
            places[hour] = (path, position)
    if undated and name != "zs":
        raise InputError(
            f"{undated[0][0]}: {name} has no dated times; a time axis or a day in the file's name is needed."
        )
    always = undated[0] if undated else None
    if name == "zs" and places and always is None:
        # The surface does not move: an hour without a file of its own takes the first.
        always = places[min(places)]
    return Shelf(name=name, places=places, always=always)


def _grid(path: Path, field: readers.Field) -> Grid:
    if field.grid.kind not in ("regular", "gaussian", "uneven") or not len(field.grid.latitudes):
        raise InputError(
            f"{path}: {field.name} lies on a {field.grid.kind} grid; interpolate it to latitudes and longitudes."
        )
    return geometry.grid_of(field.grid.latitudes, field.grid.longitudes, name=f"{path}, {field.name}")


def _levels_and_grid(path: Path, name: str) -> tuple[Grid, Array, str]:
    values, kind = _level_axis(path, name)
    return _grid(path, _field(path, name)), values[_downward(values)], kind


def _level_axis(path: Path, name: str) -> tuple[Array, str]:
    """Levels in the file's order, and what they are."""
    field = _field(path, name)
    axis = field.axis("level")
    if axis is None or axis.values is None or axis.kind in ("height", "depth"):
        raise InputError(
            f"{path}: {name} has no model or pressure levels, it has {list(field.dims)}; give such a file."
        )
    return np.asarray(axis.values, np.float64), axis.kind


def _downward(values: Array) -> Array:
    """Positions from the top down: numbers of model levels and pressures both rise."""
    return np.argsort(values, kind="stable")


def _levels(path: Path, numbers: Array, kind: str) -> Levels:
    if kind == "pressure":
        return pressure_levels(np.asarray(numbers, np.float64))
    if (numbers != np.round(numbers)).any():
        raise InputError(
            f"{path}: levels {numbers[:6].tolist()} are neither pressures with units nor numbers of model levels."
        )
    hybrid = readers.header(path).hybrid
    whole = numbers.astype(np.int64)
    return hybrid_levels(whole) if hybrid is None else hybrid_levels(whole, hybrid.a, hybrid.b)


def _same_grid(found: Grid, wanted: Grid, path: Path, first: Path) -> None:
    if found.shape != wanted.shape or not (
        np.allclose(found.latitudes, wanted.latitudes, atol=1e-3, rtol=0)
        and np.allclose(found.longitudes, wanted.longitudes, atol=1e-3, rtol=0)
    ):
        raise InputError(f"{path} has a grid of {found.shape}, {first} one of {wanted.shape}; give files of one grid.")
