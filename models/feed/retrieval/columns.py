"""Attributes as buffers of a torch module: what is stored of each column, and which rows pass a predicate.

Four kinds of storage serve seven kinds of column. `Numbers` holds integers (int64, never through a float), floats
(float64; not-a-number is null) and booleans. `Categories` holds text as codes of a dictionary. `Lists` holds lists of
text or integers as codes of a dictionary, one after another, with offsets. Dictionaries only grow, so that a code
means the same for as long as its column lives. `Points` holds places as degrees and as unit vectors.

Rows are appended and never changed. Whoever reads the first n rows may go on reading while rows are appended behind
them: growing replaces a buffer by a longer one with the same beginning.

Shapes: N rows, V list values of all rows together.
"""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from models.feed.points import degrees_of, is_point, outside, struct_of
from models.feed.retrieval.filter import (
    And,
    Between,
    Comparison,
    Everything,
    Filter,
    GeoBox,
    GeoWithin,
    Has,
    HasAll,
    HasAny,
    In,
    IsNull,
    Kind,
    Not,
    Or,
    Predicate,
    Value,
)
from models.feed.retrieval.points import circle_of, sides_of, units_of

_COMPARED: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


Rows = slice | Tensor
"""Rows to be looked at: from the first up to some row, `slice(rows)`, or row numbers, int64."""


class Growing(torch.nn.Module):
    """A module whose buffers have room to grow, so that saved ones of another length can be loaded.

    Buffers keep their types: `.half()` on a model that holds an index moves nothing but the model's own weights.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Growing":
        def moved(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name, buffer in self._buffers.items():
            if buffer is not None and prefix + name in state_dict:
                self._buffers[name] = buffer.new_empty(state_dict[prefix + name].shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _reserve(self, name: str, needed: int) -> Tensor:
        """The buffer with room for at least `needed` entries; capacity doubles when it was too short."""
        buffer = self.get_buffer(name)
        if len(buffer) < needed:
            longer = buffer.new_zeros((max(needed, 2 * len(buffer)), *buffer.shape[1:]))
            longer[: len(buffer)] = buffer
            buffer = longer
            setattr(self, name, buffer)
        return buffer


class Column(Growing):
    """One attribute of all rows.

    Attributes:
        name: as in the table.
        arrow: the values' type in pyarrow; snapshots are given in this type.
    """

    def __init__(self, name: str, type_: pa.DataType) -> None:
        super().__init__()
        self.name = name
        self.arrow = type_

    def suited(self, values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        """Values of any type as values of the column's.

        Raises:
            ValueError: the values do not fit; `ArrowNotImplementedError` where pyarrow knows no way between the types.
        """
        return values if values.type == self.arrow else values.cast(self.arrow)

    def encode(self, values: pa.ChunkedArray) -> tuple[Tensor, ...]:
        """Turn values into what is stored, without storing it.

        Args:
            values: N values of the column's type.

        Returns:
            What `append` takes.

        Raises:
            ValueError: a value does not fit (an unsigned integer of 64 bits and more than 63 used).
        """
        raise NotImplementedError

    def append(self, encoded: tuple[Tensor, ...], start: int) -> None:
        """Store encoded values from row `start` on, growing where needed."""
        raise NotImplementedError

    def passing(self, where: Predicate, rows: Rows) -> Tensor:
        """Which of some rows pass a bound predicate: of their number, bool."""
        raise NotImplementedError

    def values(self, rows: Tensor) -> pa.Array:
        """The values of the given row numbers, in the column's type."""
        raise NotImplementedError


class Numbers(Column):
    """Integers, floats or booleans, with a mark for rows that have one; rows without one store zero.

    Attributes:
        whole: whether every row is known to have one.
    """

    stored: Tensor
    present: Tensor

    def __init__(self, name: str, type_: pa.DataType) -> None:
        super().__init__(name, type_)
        dtype = torch.int64
        self._plain = pa.int64()
        if pa.types.is_boolean(type_):
            self._plain, dtype = pa.bool_(), torch.bool
        elif pa.types.is_floating(type_):
            self._plain, dtype = pa.float64(), torch.float64
        self.whole = True
        self.register_buffer("stored", torch.zeros(0, dtype=dtype))
        self.register_buffer("present", torch.zeros(0, dtype=torch.bool))

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.whole = False
        super()._load_from_state_dict(*arguments)

    def encode(self, values: pa.ChunkedArray) -> tuple[Tensor, ...]:
        """See `Column`."""
        flat = values.combine_chunks().cast(self._plain)
        present = pc.is_valid(flat)
        if pa.types.is_floating(self._plain):
            present = pc.and_(present, pc.invert(pc.fill_null(pc.is_nan(flat), True)))
        stored = pc.if_else(present, flat, pa.scalar(0).cast(self._plain))
        return _tensor(stored), _tensor(present)

    def append(self, encoded: tuple[Tensor, ...], start: int) -> None:
        """See `Column`."""
        self.whole = self.whole and bool(encoded[1].all())
        for name, part in zip(("stored", "present"), encoded, strict=True):
            self._reserve(name, start + len(part))[start : start + len(part)] = part

    def passing(self, where: Predicate, rows: Rows) -> Tensor:
        """See `Column`."""
        stored, present = self.stored[rows], self.present[rows]
        match where:
            case IsNull():
                return ~present
            case Comparison(_, value, sign):
                found: Tensor = _COMPARED[sign](stored, value)
            case Between(_, low, high):
                found = _COMPARED[">="](stored, low) & _COMPARED["<="](stored, high)
            case In(_, values) if stored.dtype == torch.bool:
                found = ~stored if True not in values else stored | (False in values)
            case In(_, values):
                found = torch.isin(stored, torch.tensor(values, dtype=stored.dtype, device=stored.device))
            case _:
                raise TypeError(f"{where} was not bound to column {self.name!r}.")
        return found & present

    def values(self, rows: Tensor) -> pa.Array:
        """See `Column`."""
        stored, absent = self.stored[rows].cpu().numpy(), ~self.present[rows].cpu().numpy()
        return pa.array(stored, self._plain, mask=absent).cast(self.arrow)


class _Coded(Column):
    """Values as codes 0, 1, 2, ... in the order in which they were first seen; -1 for null."""

    codes: Tensor

    def __init__(self, name: str, type_: pa.DataType, plain: pa.DataType) -> None:
        super().__init__(name, type_)
        self._plain = plain
        self._dictionary: list[Value] = []
        self._code: dict[Value, int] = {}
        self.register_buffer("codes", torch.zeros(0, dtype=torch.int32))

    def _encoded(self, values: pa.Array) -> Tensor:
        local = values.cast(self._plain).dictionary_encode()
        for value in local.dictionary.to_pylist():
            if value not in self._code:
                self._dictionary.append(value)
                self._code[value] = len(self._dictionary) - 1
        known = np.array([self._code[value] for value in local.dictionary.to_pylist()] + [-1], dtype=np.int32)
        return torch.from_numpy(known[local.indices.fill_null(-1).to_numpy(zero_copy_only=False)])

    def _decoded(self, codes: Tensor) -> pa.Array:
        numbers = codes.cpu().numpy()
        dictionary = pa.array(self._dictionary, self._plain)
        return pa.DictionaryArray.from_arrays(pa.array(numbers, mask=numbers < 0), dictionary).cast(self._plain)

    def known(self, values: Sequence[Value]) -> list[int]:
        """Codes of those of some values that there are, ascending."""
        return sorted({self._code[value] for value in values if value in self._code})

    def _among(self, codes: Tensor, wanted: Sequence[int]) -> Tensor:
        if len(wanted) == 1:
            return codes == wanted[0]
        verdicts = torch.zeros(len(self._dictionary) + 1, dtype=torch.bool)
        verdicts[torch.tensor(wanted, dtype=torch.int64) + 1] = True
        return verdicts.to(codes.device).index_select(0, codes + 1)

    def get_extra_state(self) -> Tensor:
        """The dictionary as JSON in a byte tensor, which any weight format can hold."""
        return as_bytes(self._dictionary)

    def set_extra_state(self, state: Tensor) -> None:
        """Take a dictionary that `get_extra_state` gave."""
        self._dictionary = from_bytes(state)
        self._code = {value: code for code, value in enumerate(self._dictionary)}


class Categories(_Coded):
    """Text, one value per row."""

    def __init__(self, name: str, type_: pa.DataType) -> None:
        super().__init__(name, type_, pa.large_string())

    def encode(self, values: pa.ChunkedArray) -> tuple[Tensor, ...]:
        """See `Column`."""
        return (self._encoded(values.combine_chunks()),)

    def append(self, encoded: tuple[Tensor, ...], start: int) -> None:
        """See `Column`."""
        (codes,) = encoded
        self._reserve("codes", start + len(codes))[start : start + len(codes)] = codes

    def passing(self, where: Predicate, rows: Rows) -> Tensor:
        """See `Column`; a predicate is decided once per distinct value, and looked up per row."""
        return self._among(self.codes[rows], self.passing_codes(where))

    def passing_codes(self, where: Predicate) -> list[int]:
        """The codes whose values pass a bound predicate, ascending; -1 for none."""
        match where:
            case IsNull():
                return [-1]
            case Comparison(_, value, "=="):
                return self.known([value])
            case Comparison(_, value, "!="):
                return self._where(lambda text: bool(text != value))
            case In(_, values):
                return self.known(values)
            case Comparison(_, value, sign):
                return self._where(lambda text: bool(_COMPARED[sign](text, value)))
            case Between(_, low, high):
                return self._where(lambda text: bool(low <= text <= high))
        raise TypeError(f"{where} was not bound to column {self.name!r}.")

    def _where(self, holds: Callable[[Any], bool]) -> list[int]:
        return [code for code, value in enumerate(tuple(self._dictionary)) if holds(value)]

    def values(self, rows: Tensor) -> pa.Array:
        """See `Column`."""
        return self._decoded(self.codes[rows]).cast(self.arrow)


class Lists(_Coded):
    """Any number of values per row; row r has those from offsets[r] up to offsets[r + 1]."""

    offsets: Tensor
    present: Tensor

    def __init__(self, name: str, type_: pa.DataType) -> None:
        text = pa.types.is_string(type_.value_type) or pa.types.is_large_string(type_.value_type)
        super().__init__(name, type_, pa.large_string() if text else pa.int64())
        self.register_buffer("offsets", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("present", torch.zeros(0, dtype=torch.bool))

    def encode(self, values: pa.ChunkedArray) -> tuple[Tensor, ...]:
        """See `Column`."""
        flat = values.combine_chunks()
        sizes = pc.fill_null(pc.list_value_length(flat), 0).cast(pa.int64())
        return self._encoded(pc.list_flatten(flat)), _tensor(sizes), _tensor(pc.is_valid(flat))

    def append(self, encoded: tuple[Tensor, ...], start: int) -> None:
        """See `Column`."""
        codes, sizes, present = encoded
        first = int(self.offsets[start])
        end = start + len(present)
        self._reserve("codes", first + len(codes))[first : first + len(codes)] = codes
        self._reserve("present", end)[start:end] = present
        self._reserve("offsets", end + 1)[start + 1 : end + 1] = first + sizes.cumsum(0).to(self.offsets.device)

    def passing(self, where: Predicate, rows: Rows) -> Tensor:
        """See `Column`; the cost is one look at every list value."""
        match where:
            case IsNull():
                return ~self.present[rows]
            case Has(_, value):
                return self._holding([value], rows)
            case HasAny(_, values):
                return self._holding(values, rows)
            case HasAll(_, values):
                return torch.stack([self._holding([value], rows) for value in set(values)]).all(dim=0)
        raise TypeError(f"{where} was not bound to column {self.name!r}.")

    def _holding(self, values: Sequence[Value], rows: Rows) -> Tensor:
        wanted = self.known(values)
        if isinstance(rows, Tensor):
            offsets, codes = self._lists(rows)
        else:
            offsets = self.offsets[: len(self.present[rows]) + 1]
            codes = self.codes[: int(offsets[-1])]
        places = self._among(codes, wanted).nonzero().flatten()
        found = torch.zeros(len(offsets) - 1, dtype=torch.bool, device=offsets.device)
        found[torch.searchsorted(offsets[1:], places, right=True)] = True
        return found

    def _lists(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of some rows' lists, one list after another, with offsets."""
        first, sizes = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        within = torch.arange(int(offsets[-1]), device=sizes.device) - offsets[:-1].repeat_interleave(sizes)
        return offsets, self.codes[first.repeat_interleave(sizes) + within]

    def values(self, rows: Tensor) -> pa.Array:
        """See `Column`."""
        offsets, codes = self._lists(rows)
        flat = self._decoded(codes)
        absent = pa.array(~self.present[rows].cpu().numpy())
        return pa.LargeListArray.from_arrays(pa.array(offsets.cpu().numpy()), flat, mask=absent).cast(self.arrow)


class Points(Column):
    """Places on the sphere; rows without one store not-a-number, which lies in no circle and no box."""

    degrees: Tensor
    units: Tensor

    def __init__(self, name: str, type_: pa.DataType) -> None:
        super().__init__(name, type_)
        self.register_buffer("degrees", torch.zeros((0, 2), dtype=torch.float64))
        self.register_buffer("units", torch.zeros((0, 3), dtype=torch.float64))

    def suited(self, values: pa.ChunkedArray) -> pa.Array:
        """See `Column`; names and order of the fields may differ, which pyarrow's cast would turn into nulls."""
        if not is_point(values.type):
            raise ValueError(f"got {values.type}; points are structs of latitude and longitude, or lat and lon.")
        degrees = degrees_of(values)
        wrong = np.flatnonzero(outside(degrees))
        if len(wrong):
            latitude, longitude = degrees[wrong[0]].tolist()
            raise ValueError(
                f"row {wrong[0]} has latitude {latitude!r} and longitude {longitude!r}, and {len(wrong) - 1} others "
                "are like it; give degrees, latitudes from -90 to 90 and longitudes from -180 to 180."
            )
        return struct_of(degrees, self.arrow)

    def encode(self, values: pa.ChunkedArray) -> tuple[Tensor, ...]:
        """See `Column`."""
        degrees = degrees_of(values)
        return torch.from_numpy(degrees), torch.from_numpy(units_of(degrees))

    def append(self, encoded: tuple[Tensor, ...], start: int) -> None:
        """See `Column`."""
        for name, part in zip(("degrees", "units"), encoded, strict=True):
            self._reserve(name, start + len(part))[start : start + len(part)] = part

    def passing(self, where: Predicate, rows: Rows) -> Tensor:
        """See `Column`; each operation is one of its own, so that none is fused with another and all bits are kept."""
        match where:
            case IsNull():
                return self.degrees[rows][:, 0].isnan()
            case GeoWithin():
                centre, most = circle_of(where)
                x, y, z = (self.units[rows] - torch.from_numpy(centre).to(self.units.device)).unbind(1)
                return x * x + y * y + z * z <= most
            case GeoBox(_, south, _, north):
                west, east = sides_of(where)
                latitude, longitude = self.degrees[rows].unbind(1)
                if west <= east:
                    inside = (longitude >= west) & (longitude <= east)
                else:
                    inside = (longitude >= west) | (longitude <= east)
                return (latitude >= south) & (latitude <= north) & (inside | (latitude.abs() == 90))
        raise TypeError(f"{where} was not bound to column {self.name!r}.")

    def values(self, rows: Tensor) -> pa.Array:
        """See `Column`."""
        return struct_of(self.degrees[rows].cpu().numpy(), self.arrow)


def column(name: str, type_: pa.DataType) -> Column:
    """An empty column for values of a pyarrow type.

    Args:
        name: the column's name.
        type_: string (plain, large or as a dictionary), boolean, integer, float, list of string or integer, or a struct
            of two floats, latitude and longitude or lat and lon.

    Returns:
        A column without rows.

    Raises:
        ValueError: values of the type cannot be filtered.

    Source:
        Ours.
    """
    kind = kind_of(name, type_)
    if kind == "string":
        return Categories(name, type_)
    if kind == "point":
        return Points(name, type_)
    return Lists(name, type_) if kind.startswith("list of ") else Numbers(name, type_)


def kind_of(name: str, type_: pa.DataType) -> Kind:
    """What a filter may say about values of a pyarrow type; raises and is sourced as `column`."""
    if _is_text(type_) or (pa.types.is_dictionary(type_) and _is_text(type_.value_type)):
        return "string"
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        return "float"
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        if _is_text(type_.value_type):
            return "list of strings"
        if pa.types.is_integer(type_.value_type):
            return "list of integers"
    if is_point(type_):
        return "point"
    remedy = "give it one of these types, or drop it"
    if pa.types.is_temporal(type_):
        remedy = "cast times to int64 in a unit of your choice and say the unit in the column's name"
    elif pa.types.is_null(type_):
        remedy = "it holds nothing but nulls, so name its type or drop it"
    elif pa.types.is_decimal(type_):
        remedy = "cast it to int64 in the smallest unit, or to float64"
    elif pa.types.is_struct(type_):
        remedy = "give a point exactly these fields, or make columns of its fields"
    raise ValueError(
        f"attribute column {name!r} has type {type_}; columns are string, bool, integer, float, "
        f"list of string or integer, or point (struct of the floats latitude and longitude, or lat and lon): {remedy}."
    )


def passing(where: Filter, columns: Mapping[str, Column], rows: Rows, like: Tensor) -> Tensor:
    """Which of some rows a bound filter lets through.

    Args:
        where: a filter that `bind` returned for these columns.
        columns: column by name.
        rows: which rows to judge.
        like: anything with an entry for each of these rows, where the columns are.

    Returns:
        An entry for each of the rows, bool; deleted rows are judged like any other.

    Source:
        LiNR's joint mask (section 3.1), with the operators of `filter`.
    """
    match where:
        case Everything():
            return torch.ones(len(like), dtype=torch.bool, device=like.device)
        case Not(part):
            return ~passing(part, columns, rows, like)
        case And(parts):
            found = passing(parts[0], columns, rows, like)
            for part in parts[1:]:
                found = found & passing(part, columns, rows, like)
            return found
        case Or(parts):
            found = passing(parts[0], columns, rows, like)
            for part in parts[1:]:
                found = found | passing(part, columns, rows, like)
            return found
        case Predicate():
            return columns[where.column].passing(where, rows)
    raise TypeError(f"{where!r} is no filter.")


def as_bytes(value: Any) -> Tensor:
    """A JSON value as a tensor of bytes."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def from_bytes(state: Tensor) -> Any:
    """The JSON value that `as_bytes` wrote."""
    return json.loads(state.cpu().numpy().tobytes().decode())


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _tensor(values: pa.Array) -> Tensor:
    return torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False)))
