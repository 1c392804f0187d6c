"""Columns of air from MERRA-2: profiles of the assimilation at the points and the hour that are wanted.

The files are those of the collection inst3_3d_asm_Nv, or what a subsetting service leaves of them: one day a file,
eight times, 72 model levels from the top down, of which the lowest 34 reach from the ground to about 100 hPa.

Shapes: N points, Z levels from the top down.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets import readers
from models.climate.datasets.readers import Field, Header
from models.climate.geometry import Grid
from models.common.errors import InputError

PROFILES = ("T", "U", "V", "OMEGA", "RH", "H", "PL")
SURFACE = "PHIS"
FILL = 1e15
"""What stands below ground and wherever the assimilation has no value, also in files that do not say so."""

UNITS: Mapping[str, str] = {
    "T": "K", "U": "m s-1", "V": "m s-1", "OMEGA": "Pa s-1", "RH": "1", "H": "m", "PL": "Pa", "PHIS": "m2 s-2",
}  # fmt: skip

ROUNDING = 1e-3
"""Degrees by which coordinates may be off."""

_DAY = re.compile(r"(?<!\d)((?:19|20)\d{2})-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])(?!\d)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """Profiles at some points.

    Attributes:
        values: by name, (N, Z) float32, (N,) for the surface; `FILL` where there is none.
        missing: by name, which of them are none.
    """

    values: Mapping[str, NDArray[np.float32]]
    missing: Mapping[str, NDArray[np.bool_]]


def day_of_name(path: Path) -> str:
    """The day which a file's name says it holds, in ISO form.

    Raises:
        InputError: the name says none.
    """
    for found in _DAY.finditer(path.name):
        try:
            return date(*map(int, found.groups())).isoformat()
        except ValueError:
            continue
    raise InputError(
        f"{path.name} does not say which day it holds; keep the archive's names, as in "
        "MERRA2_400.inst3_3d_asm_Nv.20230102.SUB.nc."
    )


def read_columns(
    paths: Sequence[Path],
    day: str,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    grid: Grid,
    *,
    levels: int,
    hour: int,
    first_time: bool,
) -> Columns:
    """Profiles of one day at points of the MERRA-2 grid.

    One level block of one variable is in memory at a time.

    Args:
        paths: files of the day; each variable is taken from the first that holds it.
        day: in ISO form.
        row, column: (N,) numbers of latitude and longitude.
        grid: whose numbers they are.
        levels: how many of the lowest levels.
        hour: UTC, 0 to 23.
        first_time: the published rule: the first record, whatever its time and its coordinates are. False: the record
            of the day and hour, and the points by the file's coordinates.

    Returns:
        The columns.

    Raises:
        InputError: a variable, a time, a level or a point is not in the files, or units are others; the message names
            the file, the variable and the remedy.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/code/make_training_data.py, lines 53-93.
    """
    heads = [readers.header(path) for path in paths]
    values: dict[str, NDArray[np.float32]] = {}
    missing: dict[str, NDArray[np.bool_]] = {}
    for name in (*PROFILES, SURFACE):
        head = _holder(heads, name, day)
        field = head.field(name)
        at: dict[str, int | slice] = {"time": 0 if first_time else _record(head, field, day, hour)}
        if name != SURFACE:
            at["level"] = _lowest(head, field, levels)
        rows, columns = (row, column) if first_time else _points(head, field, grid, row, column)
        block = readers.read(head.path, {name: (name,)}, at=at, units={name: UNITS[name]}, fills={name: (FILL,)})[name]
        found = np.ascontiguousarray(block.values[..., rows, columns].T, np.float32)
        missing[name] = ~np.isfinite(found)
        values[name] = np.where(missing[name], np.float32(FILL), found)
    return Columns(values=values, missing=missing)


def _holder(heads: Sequence[Header], name: str, day: str) -> Header:
    for head in heads:
        if name in head.fields:
            return head
    held = sorted({field for head in heads for field in head.fields})
    raise InputError(
        f"no file of {day} holds the variable {name}: {', '.join(str(head.path) for head in heads)} hold "
        f"{', '.join(held)}; fetch the variables T, U, V, OMEGA, RH, H, PL and PHIS of inst3_3d_asm_Nv."
    )


def _record(head: Header, field: Field, day: str, hour: int) -> int:
    """Number of the record of a day and an hour."""
    axis = field.axis("time")
    if axis is None or axis.values is None or axis.kind != "dated":
        raise InputError(f"{head.path}: {field.name} has no dated time, so no hour; fetch the original file.")
    wanted = np.datetime64(f"{day}T{hour:02}:00", "us")
    moments = axis.values.astype("datetime64[us]")
    if (found := np.flatnonzero(moments == wanted)).size:
        return int(found[0])
    held = ", ".join(str(moment)[:16] for moment in moments[:9])
    raise InputError(
        f"{head.path}: {field.name} has no record of {day}T{hour:02}:00 UTC, only of {held}; set the hour to one."
    )


def _lowest(head: Header, field: Field, levels: int) -> slice:
    """The lowest levels; files count them from the top."""
    axis = field.axis("level")
    there = axis.size if axis else 0
    if axis is None or there < levels:
        raise InputError(f"{head.path}: {field.name} has {there} levels, not {levels}; fetch 1000 to 100 hPa.")
    if axis.values is not None and not (np.diff(axis.values) > 0).all():
        raise InputError(f"{head.path}: levels must rise, from the top down, got {axis.values[:3]}...; turn it over.")
    return slice(there - levels, there)


def _points(
    head: Header, field: Field, grid: Grid, row: NDArray[np.int64], column: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where points of the grid stand in a file, which may be a cut of it in any order."""
    if field.grid.latitudes.ndim != 1 or not len(field.grid.latitudes):
        raise InputError(f"{head.path}: {field.name} is not on rows of latitude; fetch the original file.")
    places = []
    for name, numbers, points, held in (
        ("latitude", row, grid.latitudes, field.grid.latitudes),
        ("longitude", column, grid.longitudes, field.grid.longitudes),
    ):
        step = float(points[1] - points[0])
        index = np.rint((held - points[0]) / step)
        off = np.abs(points[0] + index * step - held)
        if off.max() > ROUNDING:
            raise InputError(
                f"{head.path}: {name} {held[off.argmax()]:g} is no point of the grid of {len(grid.latitudes)} x "
                f"{len(grid.longitudes)}; set rows and columns to those of the files, or interpolate them."
            )
        place = np.full(len(points), -1)
        place[index.astype(np.int64) % len(points)] = np.arange(len(held))
        found = place[numbers]
        if (found < 0).any():
            at = int(np.argmin(found))
            raise InputError(
                f"{head.path} has no {name} {points[numbers[at]]:g}, where a report is; fetch the whole globe."
            )
        places.append(found)
    return places[0], places[1]
