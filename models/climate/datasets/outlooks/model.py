"""Fields of the model's runs, taken together to a grid that is small enough to learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets import readers
from models.climate.datasets.fields import Field
from models.common.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """The grid on which fields are stored, R x C cells.

    Attributes:
        latitude, longitude: middles of the cells (R, C), degrees; longitudes in -180..180.
        units: name of a field to its units, as the files spell them.
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    units: Mapping[str, str]


def together(values: Array, every: int) -> NDArray[np.float64]:
    """Means of squares of points; what is left over at the ends of rows and columns is dropped.

    Args:
        values: (rows, columns).
        every: points along a side of a square.
    """
    rows, columns = (size // every for size in values.shape)
    cut = np.asarray(values[: rows * every, : columns * every], np.float64)
    return np.asarray(cut.reshape(rows, every, columns, every).mean(axis=(1, 3)))


def frame_of(latitude: Array, longitude: Array, every: int, units: Mapping[str, str], what: str) -> Frame:
    """The grid of the stored cells.

    Raises:
        InputError: the grid has fewer points along a side than a cell.
    """
    if min(latitude.shape) < every:
        raise InputError(
            f"{what} has {latitude.shape[0]} x {latitude.shape[1]} points, fewer than {every} along a side."
        )
    east = np.radians(longitude)
    middle = np.degrees(np.arctan2(together(np.sin(east), every), together(np.cos(east), every)))
    return Frame(latitude=together(latitude, every), longitude=np.asarray(middle), units=units)


def frame_in(path: Path, names: Sequence[str], level: int, every: int) -> Frame:
    """The grid of the stored cells, by one file.

    Raises:
        InputError: the file lacks a field, a level, or a grid of two dimensions.
    """
    header = readers.header(path)
    units = {name: header.field(name).units for name in names}
    data = readers.read(path, {names[0]: (names[0],)}, at=_at(header.field(names[0]), level))
    dims = data[names[0]].dims[-2:]
    if "latitude" in data.coords:
        latitude, longitude = (np.asarray(data[name].values, np.float64) for name in ("latitude", "longitude"))
    elif dims == ("lat", "lon"):
        latitude, longitude = np.meshgrid(data["lat"].values, data["lon"].values, indexing="ij")
    else:
        raise InputError(f"{path}: {names[0]} lies on no grid of latitudes and longitudes; name other fields.")
    return frame_of(latitude, longitude, every, units, str(path))


def _at(field: Field, level: int) -> dict[str, Array]:
    """Positions of the first time and of the level asked for, on the axes that a field has."""
    at: dict[str, Array] = {name: np.array([0]) for name in ("number", "time", "step") if field.axis(name)}
    if field.axis("level"):
        at["level"] = readers.where(field, "level", [level])
    return at


def read(
    path: Path, moment: datetime, names: Sequence[str], level: int, every: int, shape: tuple[int, int]
) -> dict[str, NDArray[np.float32]]:
    """Fields of one run.

    Args:
        path: the file.
        moment: when its run began, by its name.
        names: of the fields, as in the file.
        level: which level of fields that have several.
        every: points along a side of a cell.
        shape: (R, C) of the stored grid.

    Returns:
        Name to (R, C).

    Raises:
        InputError: the file lacks a field or level, is of another run, or has another grid.
    """
    header = readers.header(path)
    out = {}
    for name in names:
        field = header.field(name)
        times = field.axis("time")
        if times is not None and times.values is not None and times.values.dtype.kind == "M":
            found = times.values[0].astype("datetime64[m]")
            if found != np.datetime64(moment, "m"):
                raise InputError(
                    f"{path}: {name} is of {found}, its name says {moment}; get the file again, or rename it."
                )
        data = readers.read(path, {name: (name,)}, at=_at(field, level))[name]
        cells = together(np.asarray(data.values).reshape(data.shape[-2:]), every)
        if cells.shape != shape:
            raise InputError(
                f"{path}: {name} has {cells.shape} cells, other files have {shape}; give files on one grid."
            )
        out[name] = cells.astype(np.float32)
    return out
