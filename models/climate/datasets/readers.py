"""Read gridded weather and climate data, netCDF or GRIB, alike: headers first, then only what is asked for.

    head = header(path)                                   # no data are read
    wind = read(path, ("u", "v"), at={"time": 5, "level": slice(0, 32)}, units={"u": "m s-1", "v": "m s-1"})

Axes are called number, time, step, level, lat, lon and stand in this order, times are dates, pressure levels are in
hPa, packed integers are decoded in double precision and rounded once, and what stands for nothing is not-a-number. A
file that is not what it seems is refused by an `InputError` that names file, variable, reason and remedy.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.climate.datasets import grib, netcdf
from models.climate.datasets.coordinates import dates
from models.climate.datasets.fields import Array, Axis, Field, Grid, Header, Hybrid, Span
from models.climate.datasets.units import between, canonical
from models.common.errors import AwaitedError, InputError

__all__ = [
    "NAMES",
    "Axis",
    "Field",
    "Grid",
    "Header",
    "Hybrid",
    "Span",
    "header",
    "points",
    "pressure_of",
    "read",
    "where",
]

NAMES: Mapping[str, tuple[str, ...]] = {
    "u": ("u", "U", "uwnd", "ugrd", "eastward_wind"),
    "v": ("v", "V", "vwnd", "vgrd", "northward_wind"),
    "w": ("w", "W", "omega", "vvel", "lagrangian_tendency_of_air_pressure"),
    "t": ("t", "T", "temp", "tmp", "air", "air_temperature"),
    "z": ("z", "geopotential"),
    "q": ("q", "QV", "spfh", "specific_humidity"),
    "r": ("r", "RH", "rh", "relative_humidity"),
    "lnsp": ("lnsp", "logarithm_of_surface_pressure"),
    "sp": ("sp", "PS", "ps", "surface_air_pressure"),
    "slp": ("SLP", "msl", "prmsl", "slp", "air_pressure_at_mean_sea_level", "air_pressure_at_sea_level"),
    "t2m": ("T2M", "2t", "t2m"),
    "precipitation": ("precipitation", "precipitationCal", "tp", "precip", "pr", "precipitation_flux"),
}
"""What fields go by in the files of ECMWF, NCEP, NASA and the CF conventions, by our name."""

_KINDS = (
    (b"\x89HDF\r\n\x1a\n", "netcdf"),
    (b"CDF\x01", "netcdf"),
    (b"CDF\x02", "netcdf"),
    (b"CDF\x05", "netcdf"),
    (b"GRIB", "grib"),
)
_STRANGERS = (
    (b"\x1f\x8b", "it is compressed by gzip; unpack it first"),
    (b"BZh", "it is compressed by bzip2; unpack it first"),
    (b"PK\x03\x04", "it is a zip archive; unpack it first"),
    (b"\xfd7zXZ", "it is compressed by xz; unpack it first"),
    (b"(\xb5/\xfd", "it is compressed by zstd; unpack it first"),
    (b"\x0e\x03\x13\x01", "it is HDF of version 4; convert it to netCDF first (h4toh5, or ncl_convert2nc)"),
    (b"BUFR", "it is BUFR, reports and no fields; give a GRIB or netCDF file"),
    (b"%PDF", "it is a PDF document; give a GRIB or netCDF file"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
_BLOCK = 1 << 18
"""Numbers decoded at a time: stays in the processor's cache."""

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")


def header(path: Path | str) -> Header:
    """What a file of gridded data holds; no data are read.

    Args:
        path: of a netCDF or GRIB file.

    Raises:
        InputError: the file is missing, empty, cut, damaged, or none of the two kinds.

    Source:
        Ours. The kind is told by the first bytes, never by the name.
    """
    place = Path(path)
    try:
        status = place.stat()
    except OSError as error:
        raise AwaitedError(f"{place}: no such file ({error.strerror}); check the path or get the file.") from error
    return _survey(place, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=32)
def _survey(path: Path, size: int, changed: int, inode: int) -> Header:
    """The header of a file as it is now; a file that changes is looked at again."""
    return grib.survey(path) if _kind(path, size) == "grib" else netcdf.survey(path)


def _kind(path: Path, size: int) -> str:
    """What the file's first bytes say it is."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; give a file.")
    if not size:
        raise InputError(f"{path}: the file is empty; get it again.")
    with path.open("rb") as stream:
        head = stream.read(4096)
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    for magic, reason in _STRANGERS:
        if head.startswith(magic):
            raise InputError(f"{path}: {reason}.")
    text = head.lstrip().lower()
    if text.startswith(_PAGES):
        raise InputError(
            f"{path}: a web page under the name of a data file, most likely a log-in or error page; log in to the "
            f"archive and get it again. It begins with {head.strip()[:60]!r}."
        )
    if b"GRIB" in head:
        return "grib"  # behind a heading of the telecommunication system
    if not head.strip(b"\0"):
        raise InputError(
            f"{path}: the file begins with {len(head)} zeros; it was not written to its end. Get it again."
        )
    raise InputError(
        f"{path}: neither netCDF nor GRIB, it begins with {head[:16]!r}; give a netCDF or GRIB file, or get it again."
    )


def points(path: Path | str, field: Field) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes and longitudes of every point of a field's grid.

    Args:
        path: of its file.
        field: from the file's header.

    Returns:
        (rows, columns) degrees north and degrees east.

    Raises:
        InputError: the field lies on no grid, or on a projection that is not known.

    Source:
        Ours; of projections eccodes'.
    """
    grid = field.grid
    if grid.kind == "none":
        raise InputError(f"{path}, {field.name}: it lies on no grid; choose a field with latitudes and longitudes.")
    if not len(grid.latitudes):
        return grib.points(Path(path), field)
    if grid.latitudes.ndim == 2:
        return grid.latitudes, grid.longitudes
    latitudes, longitudes = np.meshgrid(grid.latitudes, grid.longitudes, indexing="ij")
    return latitudes, longitudes


def where(field: Field, axis: str, labels: Sequence[Any] | Array) -> NDArray[np.int64]:
    """Positions of labels on an axis, for `read(at=...)`.

    Args:
        field: from a header.
        axis: such as "level".
        labels: levels (pressures in hPa), dates, numbers.

    Returns:
        One position per label.

    Raises:
        InputError: the axis has no values, or lacks a label.

    Source:
        Ours.
    """
    found = field.axis(axis)
    if found is None or found.values is None:
        raise InputError(f"{field.name}: no axis {axis!r} with values; it has {list(field.dims)}.")
    wanted = np.asarray(labels)
    if found.values.dtype.kind == "M":
        wanted = wanted.astype("datetime64[us]")
        same = found.values[None, :] == wanted[:, None]
    else:
        same = np.isclose(found.values[None, :].astype(np.float64), wanted[:, None].astype(np.float64), rtol=1e-6)
    if not same.any(1).all():
        raise InputError(
            f"{field.name}: no {axis} {wanted[~same.any(1)][0]} {found.units}; there are {found.size}, from "
            f"{found.values[0]} to {found.values[-1]}. Ask for what there is."
        )
    return np.asarray(same.argmax(1), np.int64)


def read(
    path: Path | str,
    names: Sequence[str] | Mapping[str, Sequence[str]] = (),
    *,
    at: Mapping[str, int | slice | Sequence[int] | NDArray[np.integer]] | None = None,
    units: Mapping[str, str] | None = None,
    assume: Mapping[str, str] | None = None,
    fills: Mapping[str, Sequence[float]] | None = None,
    north_first: bool | None = None,
    longitudes: Literal["as found", "0..360", "-180..180"] = "as found",
    epoch: str = "",
    double: bool = False,
    gaps: bool = False,
) -> xr.Dataset:
    """Read fields, or a part of them, in no more memory than they need.

    Args:
        path: of a netCDF or GRIB file.
        names: fields wanted: names in the file or standard names; or our names to the names that will do, of which the
            first that is there is taken (`NAMES` has many). None named: all fields.
        at: axis to the position, the slice, or the positions wanted, counted in the file's order; a whole number drops
            the axis. Axes that a field does not have are no error as long as one field has them.
        units: our name of a field to the units wanted; it is converted, or refused.
        assume: our name of a field to its units, for files that tell none.
        fills: our name of a field to further stored values that stand for nothing.
        north_first: whether rows shall run from north to south; None: as found.
        longitudes: the range to which longitudes shall be turned; columns are turned with them.
        epoch: the date from which a time axis without date counts: "2015-03-01" for hours of that day.
        double: whether numbers are handed out in double precision.
        gaps: GRIB: whether missing messages leave not-a-numbers; they are an error else.

    Returns:
        Fields of float32 with coordinates; integers that nothing marks as packed or missing, and text, stay what they
        are. Attributes are those of the file, with `units` as handed out.

    Raises:
        InputError: a field is missing or refused, its units do not fit, a position is not there, or data are damaged.

    Source:
        Ours.
    """
    head = header(path)
    wanted: dict[str, Field]
    if isinstance(names, Mapping):
        wanted = {ours: head.field(*theirs) for ours, theirs in names.items()}
    elif names:
        wanted = {name: head.field(name) for name in names}
    else:
        wanted = dict(head.fields)
    chosen = dict(at or {})
    for axis in chosen:
        if not any(field.axis(axis) for field in wanted.values()):
            held = ", ".join(f"{name}{list(field.dims)}" for name, field in wanted.items())
            raise InputError(f"{head.path}: no axis {axis!r} to choose from; there are {held}.")
    made = dict[str, xr.DataArray]()
    for name, field in wanted.items():
        made[name] = _one(
            head,
            field,
            chosen,
            wanted=(units or {}).get(name),
            assumed=(assume or {}).get(name),
            fills=tuple((fills or {}).get(name, ())),
            epoch=epoch,
            double=double,
            gaps=gaps,
        )
    return _turned(_together(head, made), head.path, north_first, longitudes)


def _one(
    head: Header,
    field: Field,
    at: Mapping[str, Any],
    *,
    wanted: str | None,
    assumed: str | None,
    fills: tuple[float, ...],
    epoch: str,
    double: bool,
    gaps: bool,
) -> xr.DataArray:
    """One field as it was asked for."""
    place = f"{head.path}, {field.name}"
    index, picks = _index(field, at, place)
    given = field.units or assumed or ""
    if wanted is not None and not given:
        raise InputError(f"{place}: it tells no units, {wanted!r} are wanted; say what they are in `assume`.")
    factor, shift = between(given, wanted, place=place) if wanted is not None else (1.0, 0.0)
    kind: Any = np.float64 if double else np.float32
    if head.format.startswith("GRIB"):
        values: Array = grib.load(head.path, field, index, gaps)
        values = values.astype(kind, copy=False)
        if (factor, shift) != (1.0, 0.0):
            values = np.asarray(values.astype(np.float64) * factor + shift, kind)
    else:
        values = netcdf.load(head.path, field, index)
        for position, chosen in picks.items():
            values = values.take(chosen, position)
        values = _decoded(values, field, fills, factor, shift, kind)
        picks = {}
    for position, chosen in picks.items():
        values = values.take(chosen, position)
    attrs = {key: value for key, value in field.attrs.items() if key not in (*netcdf.FILLS, *_PACKING)}
    if given or wanted:
        attrs["units"] = canonical(wanted) if wanted is not None else given
    attrs["grid"] = field.grid.kind
    if field.grid.winds == "grid":
        attrs["winds"] = "along the grid's own axes, not east and north"
    dims, coords = _coordinates(head, field, at, epoch)
    return xr.DataArray(values, coords, dims, attrs=attrs)


_PACKING = ("scale_factor", "add_offset", "_Unsigned", "valid_range", "valid_min", "valid_max", "actual_range", "units")


def _index(field: Field, at: Mapping[str, Any], place: str) -> tuple[tuple[Any, ...], dict[int, Array]]:
    """For every axis a whole number or a slice, and what is to be picked from the slices afterwards."""
    index, picks, kept = list[Any](), dict[int, Array](), 0
    for axis in field.axes:
        chosen = at.get(axis.name, slice(None))
        if isinstance(chosen, int | np.integer):
            if not -axis.size <= chosen < axis.size:
                raise InputError(f"{place}: no position {chosen} on {axis.name}, which has {axis.size}.")
            index.append(int(chosen) % axis.size)
            continue
        if isinstance(chosen, slice):
            start, stop, step = chosen.indices(axis.size)
            if step < 1:
                raise InputError(f"{place}: the slice {chosen} of {axis.name} runs backwards; turn the result instead.")
            if not len(range(start, stop, step)):
                raise InputError(f"{place}: the slice {chosen} of {axis.name} is empty; it has {axis.size} entries.")
            index.append(slice(start, stop, step))
        else:
            spots = np.asarray(chosen, np.int64)
            if spots.ndim != 1 or not len(spots) or spots.min() < 0 or spots.max() >= axis.size:
                raise InputError(f"{place}: positions {chosen} on {axis.name} are not all in 0..{axis.size - 1}.")
            low, high = int(spots.min()), int(spots.max())
            step = int(np.gcd.reduce(spots - low)) or 1
            index.append(slice(low, high + 1, step))
            if len(spots) != len(range(low, high + 1, step)) or np.any(np.diff(spots) < 0):
                picks[kept] = (spots - low) // step
        kept += 1
    return tuple(index), picks


def _coordinates(head: Header, field: Field, at: Mapping[str, Any], epoch: str) -> tuple[list[str], dict[str, Any]]:
    """Names of the axes that are left, and the values along all."""
    dims, coords = list[str](), dict[str, Any]()
    for axis in field.axes:
        chosen = at.get(axis.name, slice(None))
        single = isinstance(chosen, int | np.integer)
        if not single:
            dims.append(axis.name)
        values = axis.values
        if values is None:
            continue
        attrs: dict[str, Any] = {}
        if axis.name == "time" and axis.kind == "undated" and epoch:
            unit = axis.units if axis.units.strip() else "hours"
            values = dates(values, f"{unit} since {epoch}", "", f"{head.path}, time")
        elif axis.units:
            attrs["units"] = axis.units
        if axis.name == "level":
            attrs["kind"] = axis.kind
        if values.dtype.kind == "M":
            values = values.astype("datetime64[ns]")
        coords[axis.name] = ((), values[chosen], attrs) if single else (axis.name, values[chosen], attrs)
    grid = field.grid
    if grid.kind not in ("none", "curvilinear") and not len(grid.latitudes):
        latitudes, longitudes = grib.points(head.path, field)
        _two_dimensional(coords, field.dims[-2:], at, latitudes, longitudes)
    elif grid.kind == "curvilinear":
        _two_dimensional(coords, grid.dims, at, grid.latitudes, grid.longitudes)
    return dims, coords


def _two_dimensional(
    coords: dict[str, Any], dims: tuple[str, ...], at: Mapping[str, Any], latitudes: Array, longitudes: Array
) -> None:
    chosen = tuple(at.get(dim, slice(None)) for dim in dims)
    left = tuple(dim for dim, cut in zip(dims, chosen, strict=True) if not isinstance(cut, int | np.integer))
    spots = [np.atleast_1d(np.arange(size)[cut]) for cut, size in zip(chosen, latitudes.shape, strict=True)]
    sizes = [len(spot) for spot, cut in zip(spots, chosen, strict=True) if not isinstance(cut, int | np.integer)]
    for name, table in (("latitude", latitudes), ("longitude", longitudes)):
        coords[name] = (left, table[np.ix_(*spots)].reshape(sizes))


def _decoded(raw: Array, field: Field, fills: tuple[float, ...], factor: float, shift: float, kind: Any) -> Array:
    """Stored numbers as values in the units wanted; rounded once, at the end."""
    if raw.dtype.kind in "SUO":
        return raw if raw.dtype.kind == "S" else raw.astype(str)
    scale, offset = field.scale * factor, field.offset * factor + shift
    plain = scale == 1.0 and offset == 0.0
    marks = np.array([*field.fills, *fills], np.float64)
    if raw.dtype.kind in "iu" and not field.packed and plain and not len(marks):
        return np.ascontiguousarray(raw, raw.dtype.newbyteorder("="))
    if raw.dtype.itemsize == 8 or (raw.dtype.kind in "iu" and raw.dtype.itemsize == 4 and not field.packed):
        kind = np.float64 if raw.dtype.kind in "iu" else kind
    native = raw.dtype.newbyteorder("=")
    if plain and raw.dtype == np.dtype(kind) and raw.flags.c_contiguous and raw.flags.writeable:
        out = raw
    else:
        out = np.empty(raw.shape, kind)
    for piece in _pieces(raw.shape):
        block = np.ascontiguousarray(raw[piece], native).reshape(-1)
        target = out[piece].reshape(-1)  # leading axes alone are cut, so this is a view
        if not plain:
            _unpack(block, scale, offset, target)
        elif out is not raw:
            np.copyto(target, block, casting="unsafe")
        for mark in marks:
            gone = block == mark.astype(native) if _fits(mark, native) else np.zeros(1, bool)
            if gone.any():
                target[gone] = np.nan
    return out


def _fits(mark: np.float64, kind: np.dtype[Any]) -> bool:
    """Whether a number can stand in stored numbers of a type at all."""
    return kind.kind == "f" or bool(mark == np.floor(mark) and np.iinfo(kind).min <= mark <= np.iinfo(kind).max)


def _pieces(shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """The leading positions that cut an array into pieces of about a block, in order."""
    if not shape or int(np.prod(shape)) <= _BLOCK:
        return [(...,)]
    inner = int(np.prod(shape[1:]))
    if inner <= _BLOCK:
        rows = max(_BLOCK // max(inner, 1), 1)
        return [(slice(start, start + rows),) for start in range(0, shape[0], rows)]
    return [(first, *rest) for first in range(shape[0]) for rest in _pieces(shape[1:])]


@compiled
def _unpack(raw: Any, scale: float, offset: float, out: Any) -> None:
    """out = raw * scale + offset, in double precision up to the store."""
    for number in range(raw.size):
        out[number] = float(raw[number]) * scale + offset


def _together(head: Header, made: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """Fields in one dataset; those whose axes differ cannot stand together."""
    known = dict[str, tuple[str, Any]]()
    for name, array in made.items():
        for axis, values in array.coords.items():
            owner, before = known.setdefault(str(axis), (name, values.variable))
            if not before.equals(values.variable):
                raise InputError(
                    f"{head.path}: {owner} and {name} have different values on {axis} ({before.size} and "
                    f"{values.size} entries); read them one by one, or choose what they share with `at`."
                )
    made_together = xr.Dataset(dict(made))
    made_together.attrs = {"format": head.format, **{f"file_{key}": value for key, value in head.attrs.items()}}
    return made_together


def _turned(data: xr.Dataset, path: Path, north_first: bool | None, longitudes: str) -> xr.Dataset:
    """Rows and columns in the order and range that were asked for."""
    if north_first is not None and "lat" in data.dims:
        rows = data["lat"].values
        if len(rows) > 1 and (rows[0] > rows[-1]) != north_first:
            data = _copied(data.isel(lat=slice(None, None, -1)))
    if longitudes != "as found" and "lon" in data.dims:
        low = 0.0 if longitudes == "0..360" else -180.0
        # a longitude of -1e-13 is one of 0
        turned = np.mod(np.round(data["lon"].values - low, 9), 360.0) + low
        order = np.argsort(turned, kind="stable")
        if len(np.unique(turned)) != len(turned):
            raise InputError(f"{path}: a column comes twice on the circle; cut it with at={{'lon': slice(0, -1)}}.")
        data = data.assign_coords(lon=("lon", turned, data["lon"].attrs))
        if np.any(np.diff(order) != 1):
            data = _copied(data.isel(lon=order))
    return data


def _copied(data: xr.Dataset) -> xr.Dataset:
    """Arrays laid out anew, so that whoever computes on them finds neighbours side by side."""
    for name in list(data.data_vars):
        data[name].values = np.ascontiguousarray(data[name].values)
    return data


def pressure_of(path: Path | str, surface: Array, levels: Array) -> NDArray[np.float64]:
    """Pressure of hybrid levels by the coefficients that a file holds.

    Args:
        path: of a file whose header has `hybrid`.
        surface: pressure at the surface, Pa, any shape S; the exponential of `lnsp`.
        levels: (K) numbers of levels, 1 at the top.

    Returns:
        (K, *S) Pa.

    Raises:
        InputError: the file holds no coefficients, or fewer levels.

    Source:
        See `Hybrid.pressure`.
    """
    found = header(path).hybrid
    if found is None:
        raise InputError(
            f"{path}: no coefficients of hybrid levels in it; give the file that holds them, as hyai and hybi."
        )
    return found.pressure(surface, levels)
