"""What published files look like, as data: load a schema, hold a dataset or a file to it, write a file exactly by it.

`schemas/NAME.json` describes the files of one dataset, with the upstream file and line that each fact comes from:

    {"dataset": NAME, "upstream": {"repository": ..., "commit": ...},
     "files": [{"name": "{year}_fl.nc", "group": GROUP, "format": "NETCDF4", "source": "FILE:LINE",
                "dimensions": {"time": 24, "row": null, "station": "*"},
                "variables": {"u": {"dims": [...], "dtype": "float32", "units": "m s-1", "fill": 1e15,
                                    "attributes": {...}, "source": "FILE:LINE"}},
                "attributes": {...}}],
     "splits": [{"name": "train", "rule": ..., "source": ...}]}

- A dimension is a length, null (unlimited) or "*" (any length, not unlimited).
- A dtype is spelled as numpy does; "str" is netCDF's string of any length, "S8" an array of characters with a last
  dimension of 8 named in `dims`. In a file of format CSV the variables are its columns, in order.
- `units` and `fill` of null: there is no such attribute. A fill of "nan" is not-a-number.
- Names, units and text attributes may hold {placeholders}, which stand for any text.
- An attribute of null must be there and may say anything; {"dtype": "float32", "value": 1e15} also states its type; the
  name "*" lets a file carry attributes that are not listed.
"""

import csv
import functools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from models.common.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 32 << 20
"""What is held of one variable while a file is written."""

NETCDF = ("NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")
FORMATS = (*NETCDF, "CSV", "TEXT")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_UNIT_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


@dataclass(frozen=True, kw_only=True)
class VariableSchema:
    """One variable of a file, or one column of a table; see the module."""

    name: str
    dims: tuple[str, ...] = ()
    dtype: str
    units: str | None = None
    fill: float | int | str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def fill_value(self) -> Any:
        """The fill in the variable's own type, or None."""
        if self.fill is None:
            return None
        return np.dtype(self.dtype).type("nan" if self.fill == "nan" else self.fill)


@dataclass(frozen=True, kw_only=True)
class FileSchema:
    """One kind of published file; see the module."""

    name: str
    group: str = ""
    format: str = "NETCDF4"
    source: str = ""
    dimensions: Mapping[str, int | str | None] = field(default_factory=dict)
    variables: Mapping[str, VariableSchema] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def file_name(self, **values: object) -> str:
        """The name with its placeholders filled in."""
        return self.name.format(**values)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The published files of one dataset, and its splits."""

    dataset: str
    upstream: Mapping[str, str]
    files: tuple[FileSchema, ...]
    splits: tuple[Mapping[str, str], ...] = ()

    def file(self, name: str) -> FileSchema:
        """The entry of a file's name, by its pattern or by a name that matches it.

        Of several patterns that match, the one with the most literal letters is meant: training_data_low_fl.nc is a
        training_data_{band}_fl.nc, although it could be a {year}_{band}_fl.nc too.

        Raises:
            KeyError: no entry is so called, or two that are equally literal.
        """
        found = [entry for entry in self.files if entry.name == name]
        found = found or [entry for entry in self.files if matches(entry.name, name)]
        most = max((_literal(entry.name) for entry in found), default=0)
        found = [entry for entry in found if _literal(entry.name) == most]
        if len(found) != 1:
            raise KeyError(f"{self.dataset} has {len(found)} files like {name!r}; known are {self.names()}.")
        return found[0]

    def names(self) -> tuple[str, ...]:
        """The patterns of its files' names."""
        return tuple(entry.name for entry in self.files)


@functools.cache
def load(dataset: str) -> Schema:
    """The schema of one dataset, from its data file.

    Raises:
        FileNotFoundError: there is no such data file.
        ValueError: it does not follow the form that the module describes.

    Source:
        Ours.
    """
    found = resources.files("models.climate.datasets") / "schemas" / f"{dataset}.json"
    if not found.is_file():
        raise FileNotFoundError(f"there is no schema {dataset!r}; it would lie in models/climate/datasets/schemas.")
    return parse(json.loads(found.read_text(encoding="utf-8")))


def parse(raw: Mapping[str, Any]) -> Schema:
    """A schema from the values of its data file; raises ValueError that names file, variable and what is wrong."""
    _only(raw, {"dataset", "upstream", "files", "splits"}, "the schema")
    return Schema(
        dataset=raw["dataset"],
        upstream=raw["upstream"],
        files=tuple(_file(entry) for entry in raw["files"]),
        splits=tuple(raw.get("splits", ())),
    )


def _file(raw: Mapping[str, Any]) -> FileSchema:
    """One entry of `files`."""
    name = raw["name"]
    _only(raw, {"name", "group", "format", "source", "dimensions", "variables", "attributes"}, name)
    variables = {}
    for called, one in raw.get("variables", {}).items():
        _only(one, {"dims", "dtype", "units", "fill", "attributes", "source"}, f"{name}: {called}")
        variables[called] = VariableSchema(name=called, **{**one, "dims": tuple(one.get("dims", ()))})
    entry = FileSchema(**{**raw, "variables": variables})
    if entry.format not in FORMATS:
        raise ValueError(f"{name}: format must be one of {', '.join(FORMATS)}, got {entry.format!r}.")
    for one in variables.values():
        if entry.format in NETCDF and (strange := set(one.dims) - set(entry.dimensions)):
            raise ValueError(f"{name}: {one.name} has dimensions {sorted(strange)}, which the file does not list.")
        if one.dtype != "str":
            np.dtype(one.dtype)  # TypeError for what is no type
    return entry


def _only(raw: Mapping[str, Any], allowed: set[str], what: str) -> None:
    """Refuse keys that nothing reads: a misspelt one would be a fact that is never checked."""
    if strange := set(raw) - allowed:
        raise ValueError(f"{what} has unknown keys {sorted(strange)}; known are {sorted(allowed)}.")


def matches(pattern: str, text: str) -> bool:
    """Whether a text is what a pattern with {placeholders} stands for."""
    pieces = _PLACEHOLDER.split(pattern)
    return re.fullmatch(".+?".join(re.escape(piece) for piece in pieces), text, re.DOTALL) is not None


def _literal(pattern: str) -> int:
    """How many letters of a pattern stand for themselves."""
    return len(_PLACEHOLDER.sub("", pattern))


def differences(entry: FileSchema, dataset: "xr.Dataset") -> list[str]:
    """Hold a dataset in memory, or one just opened, to a file's entry.

    Args:
        entry: the file that it is, or will be.
        dataset: decoded or not (`decode_cf=False`): types, fills and time units are taken from where xarray keeps them.

    Returns:
        One sentence for each difference in names, dims, lengths, types, units, fills and attributes; empty when equal.

    Source:
        Ours.
    """
    said: list[str] = []
    present = {str(name): variable for name, variable in dataset.variables.items()}
    said += _names(set(present), set(entry.variables), "variable")
    unlimited = dataset.encoding.get("unlimited_dims")
    for name, length in dataset.sizes.items():
        if str(name) not in entry.dimensions:
            said.append(f"dimension {name} is not in the schema.")
        else:
            known = None if unlimited is None else name in unlimited
            said += _length(str(name), length, known, entry.dimensions[str(name)])
    for name, wanted in entry.variables.items():
        if name in present:
            said += _variable(wanted, present[name])
    return said + _attributes("the file", entry.attributes, dict(dataset.attrs), set())


def _names(present: set[str], wanted: set[str], what: str) -> list[str]:
    return [f"{what} {name} is missing." for name in sorted(wanted - present)] + [
        f"{what} {name} is not in the schema." for name in sorted(present - wanted)
    ]


def _length(name: str, length: int, unlimited: bool | None, wanted: int | str | None) -> list[str]:
    """Differences of one dimension; `unlimited` of None: not known."""
    said = []
    if isinstance(wanted, int) and length != wanted:
        said.append(f"dimension {name} has length {length}, must have {wanted}.")
    if unlimited is not None and unlimited != (wanted is None):
        said.append(
            f"dimension {name} is {'' if unlimited else 'not '}unlimited, must {'' if wanted is None else 'not '}be."
        )
    return said


def _variable(wanted: VariableSchema, variable: "xr.Variable") -> list[str]:
    """Differences of one variable of an xarray dataset."""
    said = []
    dims = tuple(map(str, variable.dims))
    encoding, attrs = variable.encoding, dict(variable.attrs)
    if wanted.dtype.startswith("S") and "char_dim_name" in encoding:
        dims = (*dims, str(encoding["char_dim_name"]))
    if dims != wanted.dims:
        said.append(f"{wanted.name} has dims {dims}, must have {wanted.dims}.")
    given = _spelled(encoding.get("dtype", variable.dtype))
    if given == "S1" and dims == wanted.dims:  # characters that were not put together
        given = f"S{variable.shape[-1]}"
    if given != _spelled(wanted.dtype):
        said.append(f"{wanted.name} has dtype {given}, must have {_spelled(wanted.dtype)}.")
    for name in ("_FillValue", "units", "calendar"):
        if name in encoding and name not in attrs:
            attrs[name] = encoding[name]
    said += _fill(wanted, attrs.get("_FillValue"))
    return said + _units(wanted, attrs) + _attributes(wanted.name, wanted.attributes, attrs, {"_FillValue", "units"})


def _spelled(dtype: Any) -> str:
    """A type by its name, whatever its byte order; all that holds text of any length is "str"."""
    if dtype in (str, "str", "string"):
        return "str"
    given = np.dtype(dtype)
    if given.kind in "OUT":
        return "str"
    return f"S{given.itemsize}" if given.kind == "S" else given.name


def _fill(wanted: VariableSchema, given: Any) -> list[str]:
    fill = wanted.fill_value
    if fill is None and given is None:
        return []
    if fill is None or given is None or not _same(fill, given):
        return [f"{wanted.name} has fill {given!r}, must have {fill!r}."]
    return []


def _same(one: Any, other: Any) -> bool:
    """Whether two attribute values are equal, not-a-number included."""
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape:
        return False
    if first.dtype.kind == "f" and second.dtype.kind == "f":
        return bool(np.array_equal(first, second, equal_nan=True))
    return bool(np.array_equal(first, second))


def _units(wanted: VariableSchema, attrs: Mapping[str, Any]) -> list[str]:
    given = attrs.get("units")
    if wanted.units is None:
        return [] if given is None else [f"{wanted.name} has units {given!r}, must have none."]
    if not isinstance(given, str) or not matches(wanted.units, given):
        return [f"{wanted.name} has units {given!r}, must have {wanted.units!r}."]
    return []


def _attributes(what: str, wanted: Mapping[str, Any], given: Mapping[str, Any], apart: set[str]) -> list[str]:
    """Differences of attributes; those of `apart` are looked at elsewhere."""
    said = []
    for name, value in wanted.items():
        if name == "*":
            continue
        if name not in given:
            said.append(f"{what} lacks attribute {name}.")
        elif not _as_wanted(value, given[name]):
            said.append(f"{what} has attribute {name} = {given[name]!r}, must have {value!r}.")
    if "*" not in wanted:
        said += [
            f"{what} has attribute {name}, which is not in the schema."
            for name in given
            if name not in {*wanted, *apart}
        ]
    return said


def _as_wanted(wanted: Any, given: Any) -> bool:
    """Whether an attribute is as its schema says."""
    if wanted is None:
        return True
    if isinstance(wanted, Mapping):
        dtype = np.dtype(wanted["dtype"])
        return np.asarray(given).dtype == dtype and _same(np.asarray(wanted["value"], dtype), given)
    if isinstance(wanted, str):
        return isinstance(given, str) and matches(wanted, given)
    return _same(wanted, given)


def differences_in(entry: FileSchema, path: Path) -> list[str]:
    """Hold a file to its entry, by its own bytes: also format, unlimited and unused dimensions, and columns of a CSV.

    Raises:
        InputError: the file cannot be opened as what its entry says.
    """
    if entry.format == "CSV":
        return _differences_of_table(entry, path)
    if entry.format == "TEXT":
        return [] if path.is_file() else [f"{path.name} is missing."]
    import netCDF4
    import xarray as xr

    try:
        with netCDF4.Dataset(path) as file:
            said = [] if file.data_model == entry.format else [f"format is {file.data_model}, must be {entry.format}."]
            said += _names(set(file.dimensions), set(entry.dimensions), "dimension")
            for name, one in file.dimensions.items():
                if name in entry.dimensions:
                    said += _length(name, len(one), one.isunlimited(), entry.dimensions[name])
        engine: Any = "netcdf4"
        with xr.open_dataset(path, engine=engine, decode_cf=False) as dataset:
            return said + [line for line in differences(entry, dataset) if line not in said]
    except OSError as error:
        raise InputError(f"{path} cannot be read as netCDF ({error}); write it again.") from error


def _differences_of_table(entry: FileSchema, path: Path) -> list[str]:
    """Hold a CSV's header to its entry."""
    with path.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    return [] if header == list(entry.variables) else [f"columns are {header}, must be {list(entry.variables)}."]


def write(entry: FileSchema, dataset: "xr.Dataset", path: Path, *, compression: int = 0) -> Path:
    """Write a dataset to netCDF exactly by an entry; a reader sees the old file or the whole new one.

    Values go through the variable's type: not-a-number becomes the fill, times become numbers in the units that the
    entry or the variable's `units` attribute gives. Attributes are the entry's; those that it leaves open, by null,
    "*" or a {placeholder}, are the dataset's own. At most `BLOCK_BYTES` of a variable are read at once, so an hour of
    many levels goes to the file some levels at a time.

    Args:
        entry: what the file must be.
        dataset: holds at least the entry's variables, in memory or lazily; others are left out.
        path: where it goes; its folder is made.
        compression: zlib level, 0 to 9; the schema says nothing of it.

    Returns:
        The path.

    Raises:
        InputError: a variable is missing, has other dims or lengths, holds what its type cannot, or an attribute that
            the entry leaves open is not given.

    Source:
        Ours.
    """
    import netCDF4

    if entry.format not in NETCDF:
        raise InputError(f"{path} is of format {entry.format} in the schema, not netCDF; write it as text.")
    sizes = _sizes(entry, dataset, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        form = cast(Any, entry.format)
        with netCDF4.Dataset(beside, "w", format=form) as file:
            for name, wanted in entry.dimensions.items():
                file.createDimension(name, None if wanted is None else sizes[name])
            file.setncatts(_written(entry.attributes, dataset.attrs, str(path)))
            for variable in entry.variables.values():
                _write_variable(file, variable, dataset[variable.name].variable, path, compression)
        _settle(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _sizes(entry: FileSchema, dataset: "xr.Dataset", path: Path) -> dict[str, int]:
    """Lengths of the dimensions to be written."""
    sizes = {name: wanted for name, wanted in entry.dimensions.items() if isinstance(wanted, int)}
    for variable in entry.variables.values():
        if variable.name not in dataset.variables:
            raise InputError(
                f"{path} wants {variable.name}, which the dataset lacks; it has {list(dataset.variables)}."
            )
        given = dataset[variable.name]
        wanted = variable.dims[:-1] if _characters(variable) else variable.dims
        if given.dims != wanted:
            raise InputError(f"{path}: {variable.name} has dims {given.dims}, must have {wanted}; transpose or rename.")
        for name, length in zip(wanted, given.shape, strict=True):
            if sizes.setdefault(name, length) != length:
                raise InputError(
                    f"{path}: {variable.name} has {length} along {name}, must have {sizes[name]}; cut it to size."
                )
        if _characters(variable):
            sizes.setdefault(variable.dims[-1], np.dtype(variable.dtype).itemsize)
    if missing := [name for name in entry.dimensions if name not in sizes and entry.dimensions[name] is not None]:
        raise InputError(f"{path}: no variable gives a length to {missing}; state it in the schema.")
    return sizes


def _characters(variable: VariableSchema) -> bool:
    """Whether a variable is an array of characters, with a dimension of its own."""
    return variable.dtype.startswith("S") and variable.dtype != "str"


def _write_variable(file: Any, wanted: VariableSchema, variable: "xr.Variable", path: Path, compression: int) -> None:
    """Create one variable and stream its values."""
    kind: Any = str if wanted.dtype == "str" else ("S1" if _characters(wanted) else np.dtype(wanted.dtype))
    packed: dict[str, Any] = {}
    if compression and kind is not str and wanted.dims and file.data_model.startswith("NETCDF4"):
        packed = {"zlib": True, "complevel": compression}
    fill = wanted.fill_value
    target = file.createVariable(wanted.name, kind, wanted.dims, fill_value=False if fill is None else fill, **packed)
    target.set_auto_maskandscale(False)
    target.set_auto_chartostring(False)
    given = {**variable.encoding, **variable.attrs}
    units = wanted.units
    if units is not None and "{" in units:
        units = given.get("units")
        if not isinstance(units, str) or not matches(str(wanted.units), units):
            raise InputError(f"{path}: units of {wanted.name} must be like {wanted.units!r}, got {units!r}; set them.")
    apart = {"_FillValue", "units"}
    own = {name: value for name, value in variable.attrs.items() if name not in apart}
    attributes = {**_written(wanted.attributes, own, f"{path}: {wanted.name}")}
    target.setncatts({**({} if units is None else {"units": units}), **attributes})
    for rows, values in _blocks(variable):
        target[rows] = _converted(wanted, values, units, path)


def _blocks(variable: "xr.Variable") -> Iterator[tuple[Any, Array]]:
    """A variable's values in pieces that are few enough at once."""
    if not variable.dims:
        yield ..., np.asarray(variable.values)
    elif variable.size:
        for piece in _pieces(variable.shape, BLOCK_BYTES // max(1, variable.dtype.itemsize)):
            yield piece, np.asarray(variable[piece].values)


def _pieces(shape: tuple[int, ...], most: int) -> Iterator[tuple[slice, ...]]:
    """Pieces of at most so many values, or of one: as many rows as fit, or pieces of one row after another."""
    length, *others = shape
    row = math.prod(others)
    if others and row > most:
        for start in range(length):
            for piece in _pieces(tuple(others), most):
                yield slice(start, start + 1), *piece
        return
    step = max(1, most // row)
    for start in range(0, length, step):
        yield (slice(start, min(length, start + step)),)


def _converted(wanted: VariableSchema, values: Array, units: str | None, path: Path) -> Array:
    """Values in the type that is written; refuses what would not survive."""
    if values.dtype.kind == "M":
        values = since(values, units, f"{path}: {wanted.name}")
    if wanted.dtype == "str":
        return np.asarray([str(value) for value in values.ravel()], object).reshape(values.shape)
    dtype = np.dtype(wanted.dtype)
    if _characters(wanted):
        text = np.char.encode(values.astype(str), "utf-8") if values.dtype.kind != "S" else values
        if text.dtype.itemsize > dtype.itemsize:
            raise InputError(f"{path}: {wanted.name} has texts longer than {dtype.itemsize} bytes; shorten them.")
        return np.ascontiguousarray(text.astype(dtype)).view("S1").reshape(*text.shape, dtype.itemsize)
    if values.dtype.kind == "f" and wanted.fill_value is not None:
        values = np.where(np.isnan(values), wanted.fill_value, values)
    with np.errstate(invalid="ignore", over="ignore"):
        cast_values = values.astype(dtype)
    if dtype.kind in "iub" and not np.array_equal(cast_values.astype(values.dtype), values):
        raise InputError(f"{path}: {wanted.name} holds values that {dtype.name} cannot hold; mend them first.")
    if dtype.kind == "f" and bool((np.isinf(cast_values) & np.isfinite(values)).any()):
        raise InputError(f"{path}: {wanted.name} holds values beyond {dtype.name}; mend them first.")
    return cast_values


def since(times: Array, units: str | None, what: str) -> Array:
    """Times as numbers in CF units, exactly.

    Args:
        times: datetime64.
        units: such as "minutes since 2019-01-01" in the proleptic Gregorian calendar, UTC.
        what: whose they are, for the error.

    Returns:
        int64 when all are whole numbers of the unit, else float64.

    Raises:
        InputError: there are no such units, or a time is missing.
    """
    found = re.fullmatch(
        r"(seconds|minutes|hours|days) since (\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d))?Z?", units or ""
    )
    if found is None:
        raise InputError(f"{what} holds times and has units {units!r}; give them as 'minutes since 2019-01-01'.")
    if np.isnat(times).any():
        raise InputError(f"{what} holds a missing time; drop its rows.")
    start = np.datetime64(f"{found[2]}T{found[3] or '00:00:00'}", "s")
    nanoseconds = (times - start).astype("timedelta64[ns]").astype(np.int64)
    unit = _UNIT_SECONDS[found[1]] * 10**9
    if (nanoseconds % unit == 0).all():
        return np.asarray(nanoseconds // unit)
    return np.asarray(nanoseconds / unit)


def _written(wanted: Mapping[str, Any], given: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """Attributes as they are written, in the order of the schema."""
    out: dict[str, Any] = {}
    for name, value in wanted.items():
        if name == "*":
            out |= {str(own): one for own, one in given.items() if own not in wanted}
        elif value is None or (isinstance(value, str) and "{" in value):
            if name not in given or not _as_wanted(value, given[name]):
                raise InputError(f"{what} wants attribute {name} like {value!r}, got {given.get(name)!r}; set it.")
            out[name] = given[name]
        elif isinstance(value, Mapping):
            out[name] = np.dtype(value["dtype"]).type(value["value"])
        else:
            out[name] = value
    return out


def _settle(beside: Path, path: Path) -> None:
    """Make a file durable, then give it its name."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, pieces: Iterator[str] | Sequence[str]) -> Path:
    """Write text piece by piece, beside its place first; a reader sees the old file or the whole new one.

    Args:
        path: where it goes; its folder is made.
        pieces: what stands in it, in order; newlines are written as they are.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            for piece in pieces:
                file.write(piece)
        _settle(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
