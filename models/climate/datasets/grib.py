"""GRIB of editions 1 and 2: an index of all messages, then single fields by their place; nothing is written beside it.

Messages are found by their own lengths, so that a damaged one in the middle is not passed over in silence. Messages of
edition 2 that hold several fields (wind components of NCEP's models) are taken apart here.
"""

import mmap
import sqlite3  # noqa: F401 - see below
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# eccodes brings a libsqlite3 of its own, and the one that a process loads first is the one that it has. The
# interpreter's comes first here: MLflow refuses the other, which is old.
import eccodes
import numpy as np
from numpy.typing import NDArray

from models.climate.datasets.coordinates import grid_of
from models.climate.datasets.fields import Array, Axis, Field, Grid, Header, Hybrid
from models.common.errors import InputError

_LOCK = threading.RLock()
_SPANS = {"isobaricInhPa": ("pressure", 1.0), "isobaricInPa": ("pressure", 0.01)}
_SPANS |= {"hybrid": ("model", 1.0), "hybridLayer": ("model", 1.0)}
_UNITS = {"": 60, "h": 60, "m": 1, "D": 1440}
_HEADER = (
    *("shortName", "name", "cfName", "units", "paramId", "typeOfLevel", "level", "stepType", "stepRange"),
    *("md5GridSection", "PVPresent", "number"),
)
_MOMENTS = ("dataDate", "dataTime", "validityDate", "validityTime")
_TABLES = {
    1: ("table2Version", "indicatorOfParameter"),
    2: ("discipline", "parameterCategory", "parameterNumber"),
}
_PROJECTION = (
    "Latin1InDegrees",
    "Latin2InDegrees",
    "LoVInDegrees",
    "LaDInDegrees",
    "orientationOfTheGridInDegrees",
    "DxInMetres",
    "DyInMetres",
    "radius",
    "shapeOfTheEarth",
    "latitudeOfFirstGridPointInDegrees",
    "longitudeOfFirstGridPointInDegrees",
    "latitudeOfSouthernPoleInDegrees",
    "longitudeOfSouthernPoleInDegrees",
)
_SURFACE = ("lnsp",)
"""Stored as if on a hybrid level, and of the surface."""
_POINTS: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
"""Points of the last projected grid, by the digest of its definition: they take a second to compute."""


@dataclass(frozen=True)
class _Message:
    """One field: its pieces in the file, as pairs of start and length, and what its header says."""

    pieces: tuple[tuple[int, int], ...]
    length: int
    edition: int
    keys: dict[str, Any]

    def bytes_of(self, data: Any) -> bytes:
        """The message as one that stands alone."""
        whole = b"".join(data[start : start + length] for start, length in self.pieces)
        if len(self.pieces) == 1:
            return whole
        total = len(whole) + 4
        return whole[:8] + total.to_bytes(8, "big") + whole[16:] + b"7777"


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the messages of a field stand: (number, time, step, level) to pieces; an empty tuple: no such message."""

    messages: tuple[_Message, ...]
    cube: NDArray[np.int64]
    dims: tuple[str, ...]
    whole: int


@contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


@contextmanager
def _handle(message: bytes, partial: bool = False) -> Iterator[int]:
    """A message in eccodes' hands, by one thread at a time."""
    with _LOCK:
        handle = eccodes.codes_new_from_message(message, partial)
        try:
            yield handle
        finally:
            eccodes.codes_release(handle)


def _int(data: Any, start: int, count: int) -> int:
    return int.from_bytes(data[start : start + count], "big")


def _messages(path: Path, data: Any) -> Iterator[tuple[int, int, int]]:
    """Start, length and edition of every message; raises `InputError` for anything that is none."""
    size, at = len(data), 0
    while (start := data.find(b"GRIB", at)) >= 0:
        _only_padding(path, data, at, start)
        edition = data[start + 7] if start + 16 <= size else 0
        if edition not in (1, 2):
            cut = "the file was cut" if start + 16 > size else f"edition {edition} is neither 1 nor 2; it is damaged"
            raise InputError(f"{path}: at byte {start} {cut}. Get it again.")
        length = _int(data, start + 8, 8) if edition == 2 else _first_length(data, start)
        if start + length > size:
            raise InputError(
                f"{path}: the message at byte {start} ends at byte {start + length}, the file at {size}; it was cut. "
                "Get it again."
            )
        if length < 24 or data[start + length - 4 : start + length] != b"7777":
            raise InputError(
                f"{path}: the message at byte {start} does not end with 7777 after the {length} bytes that it claims; "
                "it is damaged. Get it again."
            )
        yield start, length, edition
        at = start + length
    _only_padding(path, data, at, size)
    if at == 0:
        raise InputError(f"{path}: no GRIB message in it; give a GRIB file.")


def _first_length(data: Any, start: int) -> int:
    """Length of a message of edition 1; beyond 8 MB it is kept in units of 120 bytes."""
    length = _int(data, start + 4, 3)
    if not length & 0x800000:
        return length
    at = start + 8
    flags = data[at + 7]
    at += _int(data, at, 3)
    for bit in (0x80, 0x40):
        at += _int(data, at, 3) if flags & bit else 0
    rest = _int(data, at, 3)
    return (length & 0x7FFFFF) * 120 - rest + 4 if rest < 120 else length


def _only_padding(path: Path, data: Any, start: int, end: int) -> None:
    """Between messages may stand zeros, and headings of the telecommunication system."""
    gap = data[start : min(end, start + (1 << 20))]
    if gap.strip(b"\0 \r\n\t") == b"":
        return
    heading = len(gap) <= 512 and all(byte in b"\0\1\3\r\n\t" or 32 <= byte < 127 for byte in gap)
    if not heading or (start == 0 and gap.lstrip()[:1] in (b"<", b"{")):
        raise InputError(
            f"{path}: bytes {start} to {end} belong to no GRIB message; a message is damaged or the file is none. "
            "Get it again."
        )


def _header_end(data: Any, start: int) -> int:
    """Where the packed numbers of a message of edition 1 begin, with what their first bytes say."""
    at, flags = start + 8, data[start + 8 + 7]
    at += _int(data, at, 3)
    for bit in (0x80, 0x40):
        at += _int(data, at, 3) if flags & bit else 0
    return at + 11


def _parts(path: Path, data: Any, start: int, length: int) -> list[tuple[tuple[tuple[int, int], ...], int]]:
    """Fields of a message of edition 2: the sections of each, and where its data section begins.

    Source:
        WMO Manual on Codes, FM 92 GRIB edition 2: sections 2 to 7, 3 to 7 or 4 to 7 may come again.
    """
    at, last = start + 16, dict[int, tuple[int, int]]()
    fields = list[tuple[tuple[tuple[int, int], ...], int]]()
    bitmap: tuple[int, int] | None = None
    while at < start + length - 4:
        size, number = _int(data, at, 4), data[at + 4]
        if size < 5 or not 1 <= number <= 7 or at + size > start + length - 4:
            raise InputError(
                f"{path}: the message at byte {start} has a section {number} of {size} bytes at byte {at}, which "
                "cannot be; it is damaged. Get the file again."
            )
        last[number] = (at, size)
        if number == 6:
            if data[at + 5] == 254 and bitmap is not None:
                last[6] = bitmap  # the one defined before
            else:
                bitmap = last[6]
        if number == 7:
            fields.append((tuple(last[key] for key in sorted(last)), at))
        at += size
    return fields


def _indexed(path: Path, data: Any) -> list[_Message]:
    found, known = list[_Message](), dict[bytes, dict[str, Any]]()
    for start, length, edition in _messages(path, data):
        if edition == 1:
            end = _header_end(data, start)
            head = data[start:end]
            keys = _keys(path, head, _undated(head[8:-11], (12, 17), (24, 25)), known, start, 1)
            found.append(_Message(((start, length),), length, 1, keys))
            continue
        for sections, end in _parts(path, data, start, length):
            pieces = ((start, 16), *sections)
            head = b"".join(data[at : at + size] for at, size in pieces[:-1]) + data[end : end + 5]
            # section 5 tells how numbers are packed, and changes with them
            told = b"".join(data[at : at + size] for at, size in sections if data[at + 4] < 5)
            keys = _keys(path, head, data[start : start + 8] + _undated(told, (12, 19)), known, start, 2)
            alone = sections[0][0] == start + 16 and sum(size for _, size in sections) + 20 == length
            found.append(_Message(((start, length),) if alone else pieces, length, 2, keys))
    return found


def _undated(head: bytes, *moments: tuple[int, int]) -> bytes:
    """A header without the bytes that tell when, so that the same field of another time is known again."""
    for start, end in moments:
        head = head[:start] + b"\0" * (end - start) + head[end:]
    return head


def _keys(
    path: Path, head: bytes, family: bytes, known: dict[bytes, dict[str, Any]], start: int, edition: int
) -> dict[str, Any]:
    """What the header of a message says; names and units are looked up once for all times of a field."""
    try:
        with _handle(head, partial=True) as handle:
            if family not in known:
                known[family] = _told(handle, edition)
            told = known[family]
            moments = {key: int(eccodes.codes_get(handle, key)) for key in _MOMENTS}
        validity = _moment(moments["validityDate"], moments["validityTime"])
        return {**told, "validity": validity, "base": _moment(moments["dataDate"], moments["dataTime"])}
    except (eccodes.CodesInternalError, ValueError, KeyError, MemoryError) as error:
        raise InputError(
            f"{path}: the header of the message at byte {start} cannot be read ({error}); it is damaged or of a local "
            "kind. Get the file again, or leave the message out."
        ) from error


def _told(handle: int, edition: int) -> dict[str, Any]:
    """What does not depend on the time."""
    keys = {key: eccodes.codes_get(handle, key) for key in _HEADER if eccodes.codes_is_defined(handle, key)}
    if keys.get("shortName", "unknown") == "unknown":
        keys["shortName"] = "p" + ".".join(str(eccodes.codes_get(handle, key)) for key in _TABLES[edition])
    missing = {"typeOfLevel", "stepType", "stepRange"} - set(keys)
    if missing:
        raise KeyError(f"no {', '.join(sorted(missing))}")
    return keys


def _moment(day: int, clock: int) -> np.datetime64:
    text = f"{day:08d}"
    date = np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}", "us")
    return date + np.timedelta64(clock // 100 * 60 + clock % 100, "m")


def survey(path: Path) -> Header:
    """What a GRIB file holds: every message's header is read, and of every grid one message.

    Args:
        path: of the file.

    Returns:
        Its header. `time` is the time for which a field holds; where several runs reach the same time, `time` is the
        run's start and `step` the lead. Levels and times ascend.

    Raises:
        InputError: something in the file is no message, a message was cut, or one field comes twice.

    Source:
        WMO Manual on Codes, FM 92 GRIB; names are those of eccodes.
    """
    with _mapped(path) as data:
        messages = _indexed(path, data)
        groups = dict[tuple[Any, ...], list[_Message]]()
        for message in messages:
            keys = message.keys
            kind = _SPANS.get(keys["typeOfLevel"], (keys["typeOfLevel"], 1.0))[0]
            group = (keys["shortName"], kind, keys["stepType"], keys.get("md5GridSection", ""))
            groups.setdefault(group, []).append(message)
        grids, fields, refused, hybrid = dict[str, tuple[Grid, int, int] | str](), dict[str, Field](), {}, None
        for (short, _, _, section), held in groups.items():
            name = _name(short, held[0], groups)
            if name in fields or name in refused:
                name = f"{name}@{sum(1 for known in groups if known[0] == short)}"
            if section not in grids:
                grids[section] = _grid(path, held[0].bytes_of(data))
            grid = grids[section]
            if isinstance(grid, str):
                refused[name] = grid
                continue
            fields[name] = _field(path, name, held, grid)
        for message in messages:
            if hybrid is None and message.keys.get("PVPresent"):
                hybrid = _hybrid(message.bytes_of(data))
    if not fields:
        raise InputError(f"{path}, {next(iter(refused))}: {next(iter(refused.values()))}")
    editions = "+".join(str(edition) for edition in sorted({message.edition for message in messages}))
    return Header(path=path, format=f"GRIB{editions}", fields=fields, hybrid=hybrid, refused=refused)


def _name(short: str, message: _Message, groups: dict[tuple[Any, ...], list[_Message]]) -> str:
    """The short name, and what tells it from others of the same name."""
    rivals = [group for group in groups if group[0] == short]
    kind, step = message.keys["typeOfLevel"], message.keys["stepType"]
    name = short if len({group[1] for group in rivals}) == 1 else f"{short}@{kind}"
    return name if len({group[2] for group in rivals}) == 1 else f"{name}@{step}"


def _arranged(values: Array, columns: int, rows: int, scan: dict[str, int]) -> Array:
    """Values as rows from west to east, rows in the file's order from its first."""
    table = values.reshape(columns, rows).T if scan["jPointsAreConsecutive"] else values.reshape(rows, columns)
    if scan["alternativeRowScanning"]:
        table = table.copy()
        table[1::2] = table[1::2, ::-1]
    return table[:, ::-1] if scan["iScansNegatively"] else table


def _scan(handle: int) -> dict[str, int]:
    keys = ("iScansNegatively", "jPointsAreConsecutive", "alternativeRowScanning")
    return {key: int(eccodes.codes_get(handle, key)) if eccodes.codes_is_defined(handle, key) else 0 for key in keys}


def _grid(path: Path, message: bytes) -> tuple[Grid, int, int] | str:
    """The grid of a message with its rows and columns, or why it is none that is read."""
    try:
        with _handle(message) as handle:
            kind = str(eccodes.codes_get(handle, "gridType"))
            if kind.startswith("reduced") or kind in ("sh", "unstructured_grid", "unknown", "healpix"):
                return (
                    f"on a grid of the kind {kind!r}, whose points make no rows and columns; interpolate it to a "
                    "regular or Gaussian grid first (mir, cdo setgridtype,regular, or the archive's grid option)."
                )
            columns, rows = (int(eccodes.codes_get(handle, key)) for key in ("Ni", "Nj"))
            winds = "grid" if int(eccodes.codes_get(handle, "uvRelativeToGrid")) else "earth"
            if kind in ("regular_ll", "regular_gg"):
                scan = _scan(handle)
                latitudes, longitudes = (
                    _arranged(eccodes.codes_get_array(handle, key), columns, rows, scan)
                    for key in ("latitudes", "longitudes")
                )
                grid = grid_of(latitudes[:, 0], longitudes[0], str(path))
                return grid, rows, columns
            projection = {
                key: eccodes.codes_get(handle, key) for key in _PROJECTION if eccodes.codes_is_defined(handle, key)
            }
            north = not int(eccodes.codes_get(handle, "jScansPositively"))
    except (eccodes.CodesInternalError, MemoryError) as error:
        raise InputError(f"{path}: a grid cannot be read ({error}); the file is damaged. Get it again.") from error
    grid = Grid(
        kind=kind,
        north_first=north,
        span="other",
        winds="grid" if winds == "grid" else "earth",
        projection=projection,
    )
    return grid, rows, columns


def _hybrid(message: bytes) -> Hybrid:
    with _handle(message) as handle:
        both = np.asarray(eccodes.codes_get_array(handle, "pv"), np.float64)
    half = len(both) // 2
    return Hybrid(a=both[:half], b=both[half:])


def _minutes(step: str) -> int:
    """A step as eccodes spells it, in minutes: "12", "15m", "30s"."""
    number = step.rstrip("smhD")
    unit = step[len(number) :]
    return int(number) // 60 if unit == "s" else int(number) * _UNITS[unit]


def _field(path: Path, name: str, held: Sequence[_Message], grid: tuple[Grid, int, int]) -> Field:
    """One field from its messages: its axes and where each message stands among them."""
    first = held[0].keys
    kind, _ = _SPANS.get(first["typeOfLevel"], (first["typeOfLevel"], 1.0))
    number = np.array([message.keys.get("number", 0) for message in held])
    base = np.array([message.keys["base"] for message in held])
    valid = np.array([message.keys["validity"] for message in held])
    scale = np.array([_SPANS.get(message.keys["typeOfLevel"], ("", 1.0))[1] for message in held])
    level = np.array([message.keys.get("level", 0) for message in held]) * scale
    layered = kind in ("pressure", "model") and first["shortName"] not in _SURFACE
    level = level if layered or len(set(level)) > 1 else np.zeros(len(held))
    by_valid = len(set(zip(number, valid, level, strict=True))) == len(held)
    time, step = (valid, np.zeros(len(held), "timedelta64[m]")) if by_valid else (base, (valid - base).astype("m8[m]"))
    keys = list(zip(number, time, step, level, strict=True))
    twice, count = Counter(keys).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{path}, {name}: {count} messages hold number {twice[0]}, time {twice[1]}, step {twice[2]}, level "
            f"{twice[3]:g}; leave out all but one."
        )
    axes = [np.unique(values) for values in (number, time, step, level)]
    cube = np.full([len(values) for values in axes], -1, np.int64)
    places = [np.searchsorted(values, own) for values, own in zip(axes, (number, time, step, level), strict=True)]
    cube[tuple(places)] = np.arange(len(held))
    dims = ["number", "time", "step", "level"]
    kept = [len(axes[0]) > 1, True, not by_valid, layered or len(axes[3]) > 1]
    numbers = axes[3].astype(np.int64) if kind != "pressure" and np.all(axes[3] == np.floor(axes[3])) else axes[3]
    made = [
        Axis(name="number", size=len(axes[0]), values=axes[0]),
        Axis(name="time", size=len(axes[1]), values=axes[1], kind="dated"),
        Axis(name="step", size=len(axes[2]), values=axes[2] / np.timedelta64(1, "h"), units="h"),
        Axis(name="level", size=len(axes[3]), values=numbers, kind=kind, units="hPa" if kind == "pressure" else ""),
    ]
    shape, rows, columns = grid
    flat = len(shape.latitudes) > 0
    made.append(Axis(name="lat" if flat else "y", size=rows, values=shape.latitudes if flat else None))
    made.append(Axis(name="lon" if flat else "x", size=columns, values=shape.longitudes if flat else None))
    attrs = {
        "long_name": first["name"],
        "GRIB_paramId": first["paramId"],
        "GRIB_typeOfLevel": first["typeOfLevel"],
        "GRIB_stepType": first["stepType"],
        "edition": held[0].edition,
    }
    if first.get("cfName", "unknown") != "unknown":
        attrs["standard_name"] = first["cfName"]
    ends = {tuple(str(message.keys["stepRange"]).split("-")) for message in held}
    spans = {_minutes(end[1]) - _minutes(end[0]) for end in ends if len(end) == 2}
    if len(spans) == 1 and all(len(end) == 2 for end in ends):
        attrs["interval_hours"] = spans.pop() / 60
    if len(axes[3]) == 1 and not kept[3]:
        attrs["level"] = float(first.get("level", 0))
    return Field(
        name=name,
        axes=tuple(axis for axis, keep in zip(made, [*kept, True, True], strict=True) if keep),
        dtype=np.dtype(np.float64),
        units=str(first.get("units", "")).replace("~", ""),
        attrs=attrs,
        grid=shape,
        place=_Place(tuple(held), cube, tuple(dim for dim, keep in zip(dims, kept, strict=True) if keep), sum(kept)),
    )


def load(path: Path, field: Field, index: tuple[Any, ...], gaps: bool) -> NDArray[np.float32]:
    """Values of a part of a field; what the bitmap leaves out is not-a-number.

    Args:
        path: of the file.
        field: from its header.
        index: for every axis of the field a whole number or a slice.
        gaps: whether a message that is missing leaves not-a-numbers; it is an error else.

    Returns:
        Values; whole numbers drop their axis.

    Raises:
        InputError: a message is missing or cannot be decoded.

    Source:
        Ours.
    """
    place: _Place = field.place
    squeezed = place.cube[tuple(slice(None) if dim in place.dims else 0 for dim in ("number", "time", "step", "level"))]
    wanted = np.asarray(squeezed[index[: place.whole]])
    window = index[place.whole :]
    missing = np.argwhere(wanted < 0)
    if len(missing) and not gaps:
        raise InputError(
            f"{path}, {field.name}: {len(missing)} of {wanted.size} messages of the part that is wanted are not in the "
            f"file, the first at {_where(field, index, tuple(missing[0]))}; get the file again, or allow gaps."
        )
    out: NDArray[np.float32] | None = None
    with _mapped(path) as data:
        for spot in np.ndindex(wanted.shape):
            if wanted[spot] < 0:
                continue
            values = _values(path, field, place.messages[wanted[spot]], data)[window]
            if out is None:
                out = np.full(wanted.shape + values.shape, np.nan, np.float32)
            out[spot] = values
    if out is None:
        rows = [len(range(*cut.indices(axis.size))) for cut, axis in zip(window, field.axes[-2:], strict=True)]
        return np.full((*wanted.shape, *rows), np.nan, np.float32)
    return out


def _where(field: Field, index: tuple[Any, ...], spot: tuple[int, ...]) -> str:
    """A place on the leading axes in words."""
    words, spots = list[str](), list(spot)
    for axis, chosen in zip(field.axes[:-2], index, strict=False):
        values = np.arange(axis.size) if axis.values is None else axis.values
        entry = values[chosen] if isinstance(chosen, int) else values[chosen][spots.pop(0)]
        words.append(f"{axis.name} {entry}")
    return ", ".join(words)


def _values(path: Path, field: Field, message: _Message, data: Any) -> Array:
    try:
        with _handle(message.bytes_of(data)) as handle:
            gone = 0.0
            masked = bool(eccodes.codes_get(handle, "bitmapPresent"))
            if masked:
                gone = -1.7e38
                eccodes.codes_set(handle, "missingValue", gone)
            values = np.asarray(eccodes.codes_get_values(handle))
            scan = _scan(handle)
    except (eccodes.CodesInternalError, MemoryError) as error:
        raise InputError(
            f"{path}, {field.name}: the message at byte {message.pieces[0][0]} cannot be decoded ({error}); it is "
            "damaged. Get the file again."
        ) from error
    if values.size != field.shape[-1] * field.shape[-2]:
        raise InputError(
            f"{path}, {field.name}: the message at byte {message.pieces[0][0]} holds {values.size} values for "
            f"{field.shape[-2]} x {field.shape[-1]} points; it is damaged. Get the file again."
        )
    if masked:
        values = np.where(values == gone, np.nan, values)
    return _arranged(values, field.shape[-1], field.shape[-2], scan)


def points(path: Path, field: Field) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes and longitudes of the points of a projected grid.

    Args:
        path: of the file.
        field: from its header.

    Returns:
        (rows, columns) degrees north, and degrees east from -180 to 180.

    Raises:
        InputError: eccodes does not know the projection.

    Source:
        eccodes' iterators over the points of a grid.
    """
    rows, columns = field.shape[-2:]
    first: _Message = field.place.messages[0]
    key = str(first.keys.get("md5GridSection", path))
    with _LOCK:
        if key in _POINTS:
            return _POINTS[key]
    with _mapped(path) as data:
        message = first.bytes_of(data)
    try:
        with _handle(message) as handle:
            scan = _scan(handle)
            lat, lon = (
                _arranged(np.asarray(eccodes.codes_get_array(handle, key)), columns, rows, scan)
                for key in ("latitudes", "longitudes")
            )
    except (eccodes.CodesInternalError, MemoryError) as error:
        raise InputError(
            f"{path}, {field.name}: the points of its grid ({field.grid.kind}) cannot be computed ({error}); give "
            "their latitudes and longitudes in a netCDF file."
        ) from error
    found = (lat, np.mod(lon + 180, 360) - 180)
    for table in found:
        table.flags.writeable = False
    with _LOCK:
        _POINTS.clear()  # one is enough: files of one kind have one grid
        _POINTS[key] = found
    return found
