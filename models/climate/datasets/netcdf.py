"""NetCDF files of the classic formats and of HDF5: headers first, then slices of single variables.

Classic files are mapped into memory and their layout is read here: the library returns zeros beyond the end of a file
that was cut, and says nothing. Everything else goes through the netCDF library, which is not safe for threads, so one
lock stands before it.
"""

import re
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from models.climate.datasets.coordinates import dates, grid_of, level_kind
from models.climate.datasets.fields import ORDER, Array, Axis, Field, Grid, Header, Hybrid
from models.common.errors import InputError

FILLS = ("_FillValue", "missing_value", "missing_data_value", "fill_value")
"""Attributes that name what stands for nothing; the last two are read by no CF reader, and yet are written."""

_LOCK = threading.RLock()
_NAMES = {
    **dict.fromkeys(("time", "valid_time", "times"), "time"),
    **dict.fromkeys(("level", "lev", "plev", "pressure_level", "model_level", "hybrid", "isobaric", "levels"), "level"),
    **dict.fromkeys(("lat", "latitude", "lats", "nav_lat"), "lat"),
    **dict.fromkeys(("lon", "longitude", "long", "lons", "nav_lon"), "lon"),
    **dict.fromkeys(("number", "member", "ensemble"), "number"),
    "step": "step",
}
_STANDARD = {
    "time": "time",
    "latitude": "lat",
    "longitude": "lon",
    "air_pressure": "level",
    "altitude": "level",
    "height": "level",
    "depth": "level",
    "atmosphere_hybrid_sigma_pressure_coordinate": "level",
    "realization": "number",
    "forecast_period": "step",
}
_HALVES = (("hyai", "hybi"), ("a_half", "b_half"), ("ak", "bk"), ("a_k", "b_k"), ("ap_bnds", "b_bnds"))
_TYPES = {1: ">i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8"}
_TYPES |= {7: ">u1", 8: ">u2", 9: ">u4", 10: ">i8", 11: ">u8"}


@dataclass(frozen=True)
class _Place:
    """Where a variable stands: its path in the groups, and how its own axes become those handed out."""

    variable: str
    order: tuple[int, ...]
    unsigned: bool
    classic: "tuple[int, tuple[int, ...], tuple[int, ...], str] | None" = None  # offset, shape, strides, dtype


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, through the library, by one thread at a time."""
    with _LOCK:
        try:
            data = netCDF4.Dataset(path, "r")
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: the netCDF library cannot open it ({error}); the file was cut or damaged. Get it again."
            ) from error
        try:
            data.set_auto_maskandscale(False)
            data.set_auto_chartostring(False)
            yield data
        finally:
            data.close()


def survey(path: Path) -> Header:
    """What a netCDF file holds; coordinates are read, data are not.

    Args:
        path: of the file.

    Returns:
        Its header. Dimensions are normalised by units, standard name, axis and name, in this order.

    Raises:
        InputError: the file was cut or is damaged, or its coordinates make no sense.

    Source:
        CF conventions 1.11, chapter 4.
    """
    with path.open("rb") as stream:
        classic = stream.read(3) == b"CDF"
    layout = _classic_layout(path) if classic else {}
    with _opened(path) as data:
        try:
            survey = _Survey(path, dict(_walk(data)), layout)
            return survey.header("NETCDF3" if classic else "NETCDF4", _attributes(data))
        except (RuntimeError, OSError, UnicodeDecodeError, MemoryError) as error:
            raise InputError(
                f"{path}: its header or coordinates cannot be read ({error}); the file is damaged. Get it again."
            ) from error


def _walk(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All variables of a file, those of its groups under their path."""
    for name, variable in group.variables.items():
        yield prefix + name, variable
    for name, child in group.groups.items():
        yield from _walk(child, f"{prefix}{name}/")


def _attributes(owner: Any) -> dict[str, Any]:
    """Attributes of a file or variable as plain values; text that is no UTF-8 is taken for Latin-1."""
    found = dict[str, Any]()
    for name in owner.ncattrs():
        value = owner.getncattr(name)
        if isinstance(value, str) and "\ufffd" in value:  # what the library puts for what it cannot decode
            value = owner.getncattr(name, encoding="latin-1")
        found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """An attribute as a plain value."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


class _Survey:
    """One look at the variables of an open file.

    Args:
        path: of the file, for errors.
        variables: all of them, by path.
        layout: where a classic file keeps them.
    """

    def __init__(self, path: Path, variables: Mapping[str, Any], layout: Mapping[str, Any]) -> None:
        self.path, self.variables, self.layout = path, variables, layout
        self.notes: list[str] = []
        self.attrs = {name: _attributes(variable) for name, variable in variables.items()}
        self.axes: dict[tuple[str, str], Axis] = {}
        self.used: set[str] = set()

    def header(self, kind: str, attrs: Mapping[str, Any]) -> Header:
        """Everything together."""
        pairs = self._curvilinear()
        bounds = {str(known.get(key)) for known in self.attrs.values() for key in ("bounds", "climatology")}
        fields, refused = dict[str, Field](), dict[str, str]()
        for name, variable in self.variables.items():
            base = name.rpartition("/")[2]
            if not variable.dimensions or base in bounds or (base in variable.dimensions and variable.ndim == 1):
                continue
            if any(name in pair for pair in pairs.values()):
                continue
            if (
                not (isinstance(variable.dtype, np.dtype) and variable.dtype.kind in "iufS")
                and variable.dtype is not str
            ):
                refused[name] = f"its type {variable.dtype} is none that is read here; convert the variable."
                continue
            try:
                fields[name] = self._field(name, variable, pairs)
            except InputError as error:
                refused[name] = str(error).removeprefix(f"{self.path}: ")
        if not fields and refused:
            name, reason = next(iter(refused.items()))
            raise InputError(f"{self.path}, {name}: {reason}")
        return Header(
            path=self.path,
            format=kind,
            fields=fields,
            attrs=attrs,
            hybrid=self._hybrid(),
            notes=tuple(dict.fromkeys(self.notes)),
            refused=refused,
        )

    def _coordinate(self, name: str, dimension: str) -> str:
        """The path of the coordinate variable of a dimension, seen from a variable; "" if there is none."""
        group = name.rpartition("/")[0]
        while True:
            path = f"{group}/{dimension}" if group else dimension
            if path in self.variables and self.variables[path].dimensions == (dimension,):
                return path
            if not group:
                return ""
            group = group.rpartition("/")[0]

    def _role(self, dimension: str, coordinate: str) -> str:
        """What a dimension is, or its own name."""
        own = _NAMES.get(dimension.lower(), "")
        if not coordinate:
            return own or dimension
        attrs = self.attrs[coordinate]
        units = str(attrs.get("units", "")).strip().lower()
        if " since " in units:
            return "time"
        if re.fullmatch(r"degrees?_?n(orth)?", units):
            return "lat"
        if re.fullmatch(r"degrees?_?e(ast)?", units):
            return "lon"
        standard = _STANDARD.get(str(attrs.get("standard_name", "")).lower(), "")
        axis = {"T": "time", "Z": "level"}.get(str(attrs.get("axis", attrs.get("cartesian_axis", ""))).upper(), "")
        return standard or axis or own or ("level" if dimension.lower() == "z" else dimension)

    def _axis(self, name: str, dimension: str, size: int) -> Axis:
        coordinate = self._coordinate(name, dimension)
        key = (coordinate or dimension, dimension)
        if key not in self.axes:
            self.axes[key] = self._read_axis(dimension, coordinate, size)
        return self.axes[key]

    def _read_axis(self, dimension: str, coordinate: str, size: int) -> Axis:
        role = self._role(dimension, coordinate)
        if not coordinate:
            return Axis(name=role, size=size)
        attrs, place = self.attrs[coordinate], f"{self.path}, {coordinate}"
        raw = self.variables[coordinate][...]
        units = str(attrs.get("units", ""))
        if role == "time":
            if " since " not in units:
                self.notes.append(f"{coordinate} has no date ({units or 'no units'}): its numbers are handed out.")
                return Axis(name=role, size=size, values=raw, kind="undated", units=units)
            calendar = str(attrs.get("calendar", ""))
            if not calendar:
                self.notes.append(f"{coordinate} names no calendar: the standard one is taken.")
            return Axis(name=role, size=size, values=dates(raw, units, calendar, place), kind="dated")
        if role == "level" and raw.dtype.kind in "iuf":
            kind, factor = level_kind(coordinate, units, attrs)
            values = raw if kind == "model" else np.asarray(raw, np.float64) * factor
            return Axis(name=role, size=size, values=values, kind=kind, units="hPa" if kind == "pressure" else units)
        return Axis(name=role, size=size, values=raw, units=units)

    def _curvilinear(self) -> dict[tuple[str, ...], tuple[str, str]]:
        """Pairs of two-dimensional latitudes and longitudes, by the dimensions that they share."""
        pairs, lats = dict[tuple[str, ...], tuple[str, str]](), dict[tuple[str, ...], str]()
        for wanted in ("lat", "lon"):
            for name, variable in self.variables.items():
                if variable.ndim != 2:
                    continue
                attrs = self.attrs[name]
                units = str(attrs.get("units", "")).lower()
                known = _STANDARD.get(str(attrs.get("standard_name", "")).lower(), "") == wanted
                known |= bool(re.fullmatch(r"degrees?_?n(orth)?" if wanted == "lat" else r"degrees?_?e(ast)?", units))
                known |= bool(re.match(rf"x?({wanted}|nav_{wanted})([its_]|$)", name.rpartition("/")[2].lower()))
                if not known or variable.dtype.kind != "f":
                    continue
                if wanted == "lat":
                    lats.setdefault(variable.dimensions, name)
                elif variable.dimensions in lats:
                    pairs.setdefault(variable.dimensions, (lats[variable.dimensions], name))
        return pairs

    def _field(self, name: str, variable: Any, pairs: Mapping[tuple[str, ...], tuple[str, str]]) -> Field:
        attrs = self.attrs[name]
        axes = [
            self._axis(name, dimension, size)
            for dimension, size in zip(variable.dimensions, variable.shape, strict=True)
        ]
        grid, axes = self._grid(variable.dimensions, axes, pairs)
        seen = set[str]()
        for number, (axis, dimension) in enumerate(zip(axes, variable.dimensions, strict=True)):
            if axis.name in seen:  # two axes of one meaning: the second keeps the file's name
                own = dimension if dimension not in seen else f"{dimension}_{number}"
                axes[number] = Axis(name=own, size=axis.size, values=axis.values, kind=axis.kind, units=axis.units)
            seen.add(axes[number].name)
        rank = [ORDER.index(axis.name) if axis.name in ORDER else -1 for axis in axes]
        order = tuple(int(place) for place in np.argsort(rank, kind="stable"))
        unsigned = str(attrs.get("_Unsigned", "")).lower() == "true"
        stored = np.dtype("U") if variable.dtype is str else np.dtype(variable.dtype)
        packed = "scale_factor" in attrs or "add_offset" in attrs
        return Field(
            name=name,
            axes=tuple(axes[place] for place in order),
            dtype=np.dtype(stored.str.replace("i", "u")) if unsigned and stored.kind == "i" else stored,
            units=str(attrs.get("units", "")),
            attrs=attrs,
            scale=_number(attrs.get("scale_factor", 1.0), name, self.path),
            offset=_number(attrs.get("add_offset", 0.0), name, self.path),
            packed=packed,
            fills=() if stored.kind in "SU" else _fills(attrs, stored, unsigned),
            grid=grid,
            place=_Place(name, order, unsigned, self.layout.get(name)),
        )

    def _grid(
        self, dimensions: tuple[str, ...], axes: list[Axis], pairs: Mapping[tuple[str, ...], tuple[str, str]]
    ) -> tuple[Grid, list[Axis]]:
        """Where a variable lies, and its axes with rows and columns named."""
        lat = next((axis for axis in axes if axis.name == "lat" and axis.values is not None), None)
        lon = next((axis for axis in axes if axis.name == "lon" and axis.values is not None), None)
        if lat is not None and lon is not None and lat.values is not None and lon.values is not None:
            grid = grid_of(lat.values, lon.values, str(self.path))
        else:
            pair = next((pair for shared, pair in pairs.items() if set(shared) <= set(dimensions)), None)
            if pair is None:
                return Grid(), axes
            latitudes, longitudes = (np.asarray(self.variables[name][...]) for name in pair)
            grid = grid_of(latitudes, longitudes, str(self.path))
            rows, columns = self.variables[pair[0]].dimensions
            if grid.kind == "curvilinear":
                named = {own: axis.name for own, axis in zip(dimensions, axes, strict=True)}
                return replace(grid, dims=(named[rows], named[columns])), axes
            roles = {rows: ("lat", grid.latitudes), columns: ("lon", grid.longitudes)}
            return grid, [
                Axis(name=roles[own][0], size=axis.size, values=roles[own][1], units="degrees")
                if own in roles
                else axis
                for own, axis in zip(dimensions, axes, strict=True)
            ]
        values = {"lat": grid.latitudes, "lon": grid.longitudes}
        return grid, [
            Axis(name=axis.name, size=axis.size, values=values[axis.name], units="degrees")
            if axis.name in values
            else axis
            for axis in axes
        ]

    def _hybrid(self) -> Hybrid | None:
        for first, second in _HALVES:
            if first in self.variables and second in self.variables and self.variables[first].ndim == 1:
                a, b = (np.asarray(self.variables[name][...], np.float64) for name in (first, second))
                if a.shape == b.shape and str(self.attrs[first].get("units", "Pa")) == "Pa":
                    return Hybrid(a=a, b=b)
        return None


def _number(value: Any, name: str, path: Path) -> float:
    try:
        return float(np.asarray(value).ravel()[0])
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}, {name}: scale_factor or add_offset is {value!r}, no number; correct it.") from error


def _fills(attrs: Mapping[str, Any], stored: np.dtype[Any], unsigned: bool) -> tuple[float, ...]:
    """The stored values that attributes name as missing, each as the stored type holds it."""
    found = list[float]()
    for name in FILLS:
        for value in np.atleast_1d(np.asarray(attrs.get(name, []))).ravel():
            try:
                number = float(value)
            except ValueError:
                continue  # words, as in fill_value: "none"
            if stored.kind in "iu":
                if not np.isfinite(number) or number != np.floor(number):
                    continue  # not-a-number as the fill of an integer: nothing can equal it
                if unsigned and number < 0:
                    number += 2.0 ** (8 * stored.itemsize)
            elif np.isnan(number):
                continue  # missing already
            else:
                number = float(np.asarray(number).astype(stored))
            if number not in found:
                found.append(number)
    return tuple(found)


def load(path: Path, field: Field, index: tuple[Any, ...]) -> Array:
    """Stored numbers of a part of a variable, axes in the order in which the field has them.

    Args:
        path: of the file.
        field: from its header.
        index: for every axis of the field a whole number or a slice.

    Returns:
        The stored numbers, in the byte order of the file; integers drop their axis.

    Raises:
        InputError: the part cannot be decoded.

    Source:
        Ours.
    """
    place: _Place = field.place
    own: list[Any] = [None] * len(index)
    for position, chosen in zip(place.order, index, strict=True):
        own[position] = chosen
    if place.classic is not None:
        offset, shape, strides, dtype = place.classic
        mapped = np.memmap(path, np.uint8, "r")
        whole = np.ndarray(shape, dtype, buffer=mapped, offset=offset, strides=strides)
        raw: Array = whole[tuple(own)]
    else:
        with _opened(path) as data:
            try:
                raw = np.asarray(data[place.variable][tuple(own)])
            except (RuntimeError, OSError) as error:
                raise InputError(
                    f"{path}, {field.name}: a part of its data cannot be decoded ({error}); the file is damaged. "
                    "Get it again."
                ) from error
        # the library keeps axes of length one for whole numbers in some versions: make it what numpy does
        raw = raw.reshape([_length(chosen, size) for chosen, size in _sizes(own, field) if not isinstance(chosen, int)])
    if place.unsigned and raw.dtype.kind == "i":
        raw = raw.view(np.dtype(raw.dtype.str.replace("i", "u")))
    kept = [position for position, chosen in zip(place.order, index, strict=True) if not isinstance(chosen, int)]
    return raw.transpose([sorted(kept).index(position) for position in kept])


def _sizes(own: list[Any], field: Field) -> list[tuple[Any, int]]:
    shape = [0] * len(own)
    for position, size in zip(field.place.order, field.shape, strict=True):
        shape[position] = size
    return list(zip(own, shape, strict=True))


def _length(chosen: slice, size: int) -> int:
    return len(range(*chosen.indices(size)))


# What follows reads the header of a classic file, as the specification lays it out:
# header = magic numrecs dim_list gatt_list var_list, every list an int32 tag, a count, and its elements.


class _Bytes:
    """A cursor over the header; counts are of 4 bytes, or 8 in the 64-bit data format."""

    def __init__(self, path: Path, data: bytes, wide: bool) -> None:
        self.path, self.data, self.wide, self.at = path, data, wide, 4

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if count < 0 or len(piece) < count:
            raise InputError(f"{self.path}: the file ends in its own header; it was cut. Get it again.")
        self.at += count
        return piece

    def number(self, wide: bool | None = None) -> int:
        wide = self.wide if wide is None else wide
        return int(struct.unpack(">q" if wide else ">i", self.take(8 if wide else 4))[0])

    def words(self) -> str:
        length = self.number()
        return self.take(-(-length // 4) * 4)[:length].decode("utf-8", "replace")


def _classic_layout(path: Path) -> dict[str, tuple[int, tuple[int, ...], tuple[int, ...], str]]:
    """Where each variable of a classic file stands: offset, shape, strides in bytes and type.

    Raises:
        InputError: the file ends before its last variable does.

    Source:
        NetCDF User's Guide, "The NetCDF Classic Format Specification" (CDF-1, -2 and -5).
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        data = stream.read(min(size, 4 << 20))
    version = data[3]
    if version not in (1, 2, 5):
        raise InputError(f"{path}: classic netCDF of version {version}, known are 1, 2 and 5; the file is damaged.")
    cursor = _Bytes(path, data, version == 5)
    records = cursor.number()
    dimensions = list[int]()
    tag, count = cursor.number(wide=False), cursor.number()
    for _ in range(count if tag else 0):
        cursor.words()
        dimensions.append(cursor.number())
    _skip_attributes(cursor)
    tag, count = cursor.number(wide=False), cursor.number()
    found = list[tuple[str, list[int], int, int]]()
    for _ in range(count if tag else 0):
        name = cursor.words()
        own = [cursor.number() for _ in range(cursor.number())]
        _skip_attributes(cursor)
        kind = cursor.number(wide=False)
        cursor.number()  # the size that the writer noted, wrong for large variables
        begin = cursor.number(wide=version != 1)
        if kind not in _TYPES or any(not 0 <= number < len(dimensions) for number in own):
            raise InputError(f"{path}, {name}: its entry in the header makes no sense; the file is damaged.")
        found.append((name, own, kind, begin))
    return _placed(path, found, dimensions, records, size)


def _placed(
    path: Path, found: list[tuple[str, list[int], int, int]], dimensions: list[int], records: int, size: int
) -> dict[str, tuple[int, tuple[int, ...], tuple[int, ...], str]]:
    def bytes_of(own: list[int], kind: int) -> int:
        return int(np.prod([dimensions[number] for number in own], dtype=np.int64)) * np.dtype(_TYPES[kind]).itemsize

    moving = [(own, kind) for _, own, kind, _ in found if own and not dimensions[own[0]]]
    padded = [-(-bytes_of(own[1:], kind) // 4) * 4 for own, kind in moving]
    # a single record variable is not padded to four bytes
    stride = bytes_of(moving[0][0][1:], moving[0][1]) if len(moving) == 1 else sum(padded)
    if records < 0:  # still being written, says the specification: count what is there
        begins = [begin for _, own, _, begin in found if own and not dimensions[own[0]]]
        records = (size - min(begins)) // stride if begins and stride else 0
    placed = dict[str, tuple[int, tuple[int, ...], tuple[int, ...], str]]()
    for name, own, kind, begin in found:
        moves = bool(own) and not dimensions[own[0]]
        shape = tuple(records if moves and place == 0 else dimensions[number] for place, number in enumerate(own))
        item = np.dtype(_TYPES[kind]).itemsize
        inner = np.cumprod([1, *shape[:0:-1]], dtype=np.int64)[::-1] * item if shape else np.empty(0, np.int64)
        strides = tuple(int(step) for step in inner)
        strides = (stride, *strides[1:]) if moves else strides
        held = int(np.prod(shape, dtype=np.int64)) > 0
        last = (
            begin + item + sum((length - 1) * step for length, step in zip(shape, strides, strict=True)) if held else 0
        )
        if last > size:
            raise InputError(
                f"{path}, {name}: the variable ends at byte {last}, the file at {size}; it was cut. Get it again."
            )
        placed[name] = (begin, shape, strides, _TYPES[kind])
    return placed


def _skip_attributes(cursor: _Bytes) -> None:
    tag, count = cursor.number(wide=False), cursor.number()
    for _ in range(count if tag else 0):
        cursor.words()
        kind = cursor.number(wide=False)
        length = cursor.number()
        if kind not in _TYPES:
            raise InputError(f"{cursor.path}: an attribute of type {kind} makes no sense; the file is damaged.")
        cursor.take(-(-length * np.dtype(_TYPES[kind]).itemsize // 4) * 4)
