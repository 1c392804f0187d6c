"""What a file of gridded data holds, as far as its headers tell: fields, their axes, their grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

Array = NDArray[Any]
Span = Literal["0..360", "-180..180", "other", "none"]

ORDER = ("number", "time", "step", "level", "lat", "lon")
"""Axes with a meaning of their own, in the order in which a field is handed out; others stand before them as found."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """One dimension of a field.

    Attributes:
        name: normalised: one of `ORDER`, or the file's own name.
        size: number of entries.
        values: (size) coordinates: datetime64 for a dated time, hPa for pressure levels, degrees; None: the file tells
            none.
        kind: of levels: "pressure", "model", "height", "depth", "other"; of times: "dated", "undated"; "" else.
        units: of the values; "" for dates and numbers.
    """

    name: str
    size: int
    values: Array | None = None
    kind: str = ""
    units: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Where a field's values lie on the sphere.

    Attributes:
        kind: regular (equal steps), gaussian (steps of a Gaussian grid), uneven (other rows and columns), curvilinear
            (every point its own), lambert, polar_stereographic or another projection's name; none: not on a map.
        latitudes: (rows) degrees north, or (rows, columns) when curvilinear; empty for projections, whose points are
            computed when the field is read.
        longitudes: (columns) degrees east, or (rows, columns); as found.
        north_first: whether the first row is the northernmost.
        span: what the longitudes run over.
        around: whether the columns close a full circle.
        winds: whether wind components point along the grid's own axes ("grid") or east and north ("earth").
        projection: the projection's parameters; empty for others.
        dims: the axes that latitudes and longitudes of two dimensions share.
    """

    kind: str = "none"
    latitudes: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    longitudes: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    north_first: bool = True
    span: Span = "none"
    around: bool = False
    winds: Literal["earth", "grid"] = "earth"
    projection: Mapping[str, float | int | str] = field(default_factory=dict)
    dims: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Hybrid:
    """Coefficients of hybrid levels: p = a + b * surface pressure, at the half levels 0..N, the model's top first.

    Attributes:
        a: (N + 1) Pa.
        b: (N + 1).
    """

    a: NDArray[np.float64]
    b: NDArray[np.float64]

    def pressure(self, surface: Array, levels: Array) -> NDArray[np.float64]:
        """Pressure at full levels: the mean of the two half levels around each.

        Args:
            surface: pressure at the surface, Pa, any shape S.
            levels: (K) numbers of levels, from 1 at the top to N.

        Returns:
            (K, *S) Pa.

        Raises:
            InputError: a level lies outside 1..N.

        Source:
            Simmons & Burridge 1981, Monthly Weather Review 109; IFS documentation CY41R2, part III, section 2.2.1.
        """
        chosen = np.asarray(levels, np.int64)
        if chosen.size and (chosen.min() < 1 or chosen.max() >= len(self.a)):
            raise InputError(
                f"hybrid levels {chosen.min()} to {chosen.max()} are asked for, there are 1 to {len(self.a) - 1}; "
                "take levels that the coefficients know."
            )
        ground = np.asarray(surface, np.float64)[None]
        shape = (-1,) + (1,) * (ground.ndim - 1)
        a, b = (0.5 * (half[chosen - 1] + half[chosen]) for half in (self.a, self.b))
        return np.asarray(a.reshape(shape) + b.reshape(shape) * ground)


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """One variable of a file.

    Attributes:
        name: in the file; GRIB: the short name, with the kind of level behind "@" where one name stands for several.
        axes: in the order in which the field is handed out.
        dtype: as stored.
        units: as the file spells them; "": it tells none.
        attrs: the file's attributes, plain values.
        scale, offset: how packed numbers are decoded: stored * scale + offset.
        packed: whether scale or offset were given.
        fills: stored values that stand for nothing, from the file's attributes.
        grid: where it lies.
        place: how the reader finds it; of no interest to others.
    """

    name: str
    axes: tuple[Axis, ...]
    dtype: np.dtype[Any]
    units: str = ""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    offset: float = 0.0
    packed: bool = False
    fills: tuple[float, ...] = ()
    grid: Grid = field(default_factory=Grid)
    place: Any = None

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of its axes."""
        return tuple(axis.name for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes."""
        return tuple(axis.size for axis in self.axes)

    def axis(self, name: str) -> Axis | None:
        """The axis of that name, or None."""
        return next((axis for axis in self.axes if axis.name == name), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """What a file says about itself.

    Attributes:
        path: of the file.
        format: "NETCDF3", "NETCDF4" or "GRIB1", "GRIB2", "GRIB1+2".
        fields: by name, coordinates left out.
        attrs: of the file.
        hybrid: coefficients of hybrid levels, where the file holds them.
        notes: what was assumed because the file is silent, in sentences.
        refused: fields that stand in the file and cannot be read, with the reason.
    """

    path: Path
    format: str
    fields: Mapping[str, Field]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    hybrid: Hybrid | None = None
    notes: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def field(self, *names: str) -> Field:
        """The field that goes by one of these names: its own, whatever the case, or its standard name.

        Args:
            names: the first that fits is taken.

        Raises:
            InputError: none fits; the message lists what the file holds.

        Source:
            Ours.
        """
        for name in names:
            if name in self.fields:
                return self.fields[name]
            for known in self.fields.values():
                if name.lower() in (known.name.lower(), str(known.attrs.get("standard_name", "")).lower()):
                    return known
        for name in names:
            if name in self.refused:
                raise InputError(f"{self.path}, {name}: {self.refused[name]}")
        held = ", ".join(f"{known.name}{list(known.dims)}" for known in self.fields.values()) or "no field at all"
        raise InputError(
            f"{self.path}: no variable {' or '.join(map(repr, names))}; it holds {held}. Name the variable as the file "
            "does, or give the right file."
        )
