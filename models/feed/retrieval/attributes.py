"""Which rows pass a filter, found by what the columns' values are and not by looking at every row.

An `Order` lists the first rows of a column by value. So it knows how many rows pass a predicate before any is looked
at. A filter that few rows can pass is answered with row numbers: candidates from the most selective order, each then
looked at. One that many rows may pass is answered with a bit for every row, compared sixteen values at a time where the
predicate is a range. Rows that were appended after the orders were made are looked at one by one.

Points are in order by cell: bands of latitude with as many rows each, and within a band by longitude. A circle or box
has its candidates in one or two stretches of each band that it touches, which is the packing of an R-tree (Leutenegger,
Lopez and Edgington 1997, STR) without the tree.

Shapes: N rows, E rows in the orders, T = N / 16 tiles.

Source: knowing the exact count before scoring, and choosing by it, is what the filtered-search engines in front do by a
threshold (BigANN 2023, filter track); orders and bits are ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.feed.retrieval import kernels
from models.feed.retrieval.columns import Categories, Column, Lists, Numbers, Points, passing
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
    Not,
    Or,
    Predicate,
)
from models.feed.retrieval.kernels import TILE
from models.feed.retrieval.points import rectangle

Bits = NDArray[np.uint16]
RowNumbers = NDArray[np.int64]
Pieces = Sequence[tuple[int, int]]

FEW = 4
"""One query is answered from row numbers when at most one row in so many passes: about where reading rows here and
there costs what reading all codes does (measured at D = 64 on two threads)."""

_FEWER = 4
"""Several queries share what reading all codes costs: there must be so many times fewer, or as many times as there are
queries."""

_ROUGH = (HasAll, GeoWithin, GeoBox)
"""Predicates that an order has candidates for, of which some may not pass."""

_BAND = 64
"""Rows of a band for each band that there is: the more, the fewer bands a circle touches, and the more of each."""

_CELLS = 2**18
"""Cells of a band: 153 metres on the equator."""


@dataclass(frozen=True)
class Selection:
    """The rows that pass a filter, as numbers or as bits.

    Attributes:
        count: how many pass.
        rows: their numbers, int64, none twice; None when `bits` says it.
        bits: of shape (T,), uint16: bit i of word t is set when row 16 t + i passes; None when `rows` says it.
    """

    count: int
    rows: RowNumbers | None = None
    bits: Bits | None = None

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> "Selection":
        """The selection that a mask of shape (N,) says, as bits."""
        return cls.of_bits(packed(mask))

    @classmethod
    def of_bits(cls, bits: Bits) -> "Selection":
        """The selection that bits say."""
        return cls(int(np.bitwise_count(bits).sum(dtype=np.int64)), bits=bits)

    def as_bits(self, tiles: int) -> Bits:
        """A bit for each row."""
        if self.bits is not None:
            return self.bits
        bits = np.zeros(tiles, np.uint16)
        kernels.mark(self.as_rows(), bits)
        return bits

    def as_rows(self) -> RowNumbers:
        """Numbers of the passing rows."""
        if self.rows is not None:
            return self.rows
        found = np.empty(self.count, np.int64)
        kernels.rows_of(self.bits, found)
        return found


def few(passing_rows: int, rows: int, queries: int) -> bool:
    """Whether so many passing rows are few enough to be read by their numbers."""
    return passing_rows * FEW * min(queries, _FEWER) <= rows


def tiles_of(rows: int) -> int:
    """Tiles that so many rows take."""
    return -(-rows // TILE)


def packed(mask: NDArray[np.bool_]) -> Bits:
    """A mask of shape (N,) as bits of shape (T,)."""
    whole = np.zeros(2 * tiles_of(len(mask)), np.uint8)
    filled = np.packbits(mask, bitorder="little")
    whole[: len(filled)] = filled
    return whole.view("<u2").astype(np.uint16, copy=False)


class Order:
    """The first rows of a column, those without a value first and then by value."""

    repeats = False
    """Whether a row may stand more than once."""

    _rows: NDArray[np.int32]

    def pieces(self, where: Predicate) -> Pieces:
        """From where to where the rows stand that can pass a bound predicate; all of them do, but for `_ROUGH` ones."""
        raise NotImplementedError

    def rows(self, pieces: Pieces, live: NDArray[np.bool_] | None) -> RowNumbers:
        """The rows of pieces, of which some may not be live."""
        found = [self._rows[start:end] for start, end in pieces]
        numbers = found[0] if len(found) == 1 else np.concatenate([self._rows[:0], *found])
        if live is None:
            return numbers.astype(np.int64)
        kept = np.empty(len(numbers), np.int64)
        return kept[: int(kernels.keep(numbers, live, kept))]


def _continued(before: Order | None, rows: int) -> NDArray[np.int32]:
    """All rows, as they stood in an order before and then the new ones.

    A stable sort of that gives what one of the rows as they come would give, and merges where that would sort.
    """
    known = np.zeros(0, np.int32) if before is None else before._rows
    return np.concatenate([known, np.arange(len(known), rows, dtype=np.int32)])


class _OfNumbers(Order):
    def __init__(self, column: Numbers, rows: int, before: Order | None) -> None:
        present, self._stored = column.present[:rows].numpy(), column.stored[:rows].numpy()
        self._first = rows - int(np.count_nonzero(present))
        by_value = _continued(before, rows)
        by_value = by_value[np.argsort(self._stored[by_value], kind="stable")]
        if self._first:
            by_value = by_value[np.argsort(present[by_value], kind="stable")]
        self._rows = by_value

    def pieces(self, where: Predicate) -> Pieces:
        first, last = self._first, len(self._rows)
        match where:
            case IsNull():
                return [(0, first)]
            case Comparison(_, value, "=="):
                return [self._between(value, value)]
            case Comparison(_, value, "!="):
                start, end = self._between(value, value)
                return [(first, start), (end, last)]
            case Comparison(_, value, sign):
                place = self._place(value, after=sign in ("<=", ">"))
                return [(first, place)] if sign in ("<", "<=") else [(place, last)]
            case Between(_, low, high):
                return [self._between(low, high)]
            case In(_, values):
                return [self._between(value, value) for value in set(values)]
        raise TypeError(f"{where} was not bound to a column of numbers.")

    def _between(self, low: Any, high: Any) -> tuple[int, int]:
        start = self._place(low, after=False)
        return start, max(start, self._place(high, after=True))

    def _place(self, value: Any, *, after: bool) -> int:
        """Where in the order a value would stand: before its equals, or after them."""
        return int(kernels.place(self._stored, self._rows, self._first, value, after))


class _ByCode(Order):
    def _put(self, codes: NDArray[np.int32], owners: NDArray[np.int32]) -> None:
        self._rows = owners[np.argsort(codes, kind="stable")]
        self._offsets = np.concatenate([[0], np.cumsum(np.bincount(codes + 1))])

    def _piece(self, code: int) -> tuple[int, int]:
        """The rows of a code; none for one that came later."""
        if code + 2 >= len(self._offsets):
            return 0, 0
        return int(self._offsets[code + 1]), int(self._offsets[code + 2])


class _OfCategories(_ByCode):
    def __init__(self, column: Categories, rows: int, before: Order | None) -> None:
        self._column = column
        owners = _continued(before, rows)
        self._put(column.codes[:rows].numpy()[owners], owners)

    def pieces(self, where: Predicate) -> Pieces:
        return [self._piece(code) for code in self._column.passing_codes(where)]


class _OfLists(_ByCode):
    repeats = True

    def __init__(self, column: Lists, rows: int) -> None:
        self._column = column
        offsets = column.offsets[: rows + 1].numpy()
        absent = np.flatnonzero(~column.present[:rows].numpy())
        codes = np.concatenate([np.full(len(absent), -1, np.int32), column.codes[: offsets[-1]].numpy()])
        owners = np.concatenate([absent, np.repeat(np.arange(rows), np.diff(offsets))])
        self._put(codes, owners.astype(np.int32))

    def pieces(self, where: Predicate) -> Pieces:
        match where:
            case IsNull():
                return [self._piece(-1)]
            case Has(_, value):
                return [self._piece(code) for code in self._column.known([value])]
            case HasAny(_, values):
                return [self._piece(code) for code in self._column.known(values)]
            case HasAll(_, values):
                known = self._column.known(values)
                found = [self._piece(code) for code in known]
                return [min(found, key=_length)] if len(known) == len(set(values)) else []
        raise TypeError(f"{where} was not bound to a column of lists.")


class _OfPoints(Order):
    def __init__(self, column: Points, rows: int) -> None:
        latitude, longitude = column.degrees[:rows].numpy().T
        present = np.flatnonzero(~np.isnan(latitude))
        self._first = rows - len(present)
        bands = 1 + math.isqrt(len(present) // _BAND)
        ranks = len(present) * np.arange(1, bands) // bands
        self._souths = np.partition(latitude[present], ranks)[ranks]
        """The least latitude of each band but the first."""
        keys = self._band(latitude[present]) * _CELLS + _cell(longitude[present])
        by_key = np.argsort(keys, kind="stable")
        self._keys = keys[by_key].astype(np.int32)
        self._rows = np.concatenate([np.flatnonzero(np.isnan(latitude)), present[by_key]]).astype(np.int32)

    def pieces(self, where: Predicate) -> Pieces:
        match where:
            case IsNull():
                return [(0, self._first)]
            case GeoWithin() | GeoBox():
                south, west, north, east = rectangle(where)
                first, last = self._band(np.array([south, north])).tolist()
                bands = np.arange(first, last + 1, dtype=np.int32)[:, None] * _CELLS
                stretches = np.array(_stretches(west, east), np.int32)
                starts = self._first + np.searchsorted(self._keys, (bands + stretches[:, 0]).ravel(), side="left")
                ends = self._first + np.searchsorted(self._keys, (bands + stretches[:, 1]).ravel(), side="right")
                full = starts < ends
                return list(zip(starts[full].tolist(), ends[full].tolist(), strict=True))
        raise TypeError(f"{where} was not bound to a column of points.")

    def _band(self, latitude: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.searchsorted(self._souths, latitude, side="right")


def _cell(longitude: Any) -> Any:
    """Number of the cell of a longitude, rising with it."""
    return np.minimum((longitude + 180) * (_CELLS / 360), _CELLS - 1).astype(np.int64)


def _stretches(west: float, east: float) -> list[tuple[int, int]]:
    """The cells from west eastwards to east, first and last of each stretch, none twice."""
    first, last = _cell(np.array([west, east])).tolist()
    if west <= east:
        return [(first, last)]
    return [(0, last), (first, _CELLS - 1)] if last < first else [(0, _CELLS - 1)]


def _length(piece: tuple[int, int]) -> int:
    return piece[1] - piece[0]


def order_of(column: Column, rows: int, before: Order | None = None) -> Order:
    """Put the first rows of a column on the CPU in order; `before` is one of fewer of them."""
    match column:
        case Numbers():
            return _OfNumbers(column, rows, before)
        case Categories():
            return _OfCategories(column, rows, before)
        case Lists():
            return _OfLists(column, rows)
        case Points():
            return _OfPoints(column, rows)
    raise TypeError(f"a {type(column).__name__} has no order.")


@dataclass(frozen=True)
class Orders:
    """The orders of all columns, over the same first rows.

    Attributes:
        rows: how many rows they have, E.
        by_column: by the column's name.
    """

    rows: int
    by_column: Mapping[str, Order]

    @classmethod
    def of(cls, columns: Mapping[str, Column], rows: int, before: "Orders | None" = None) -> "Orders":
        """Put the first rows of columns in order; `before` are orders of fewer rows of the same columns."""
        known = before.by_column if before is not None else {}
        return cls(rows, {name: order_of(entry, rows, known.get(name)) for name, entry in columns.items()})

    def candidates(self, where: Filter) -> "Candidates":
        """The rows among which are all that pass a bound filter."""
        if not self.rows:
            return Candidates(0, [])
        match where:
            case Predicate():
                order = self.by_column[where.column]
                pieces = order.pieces(where)
                return Candidates(sum(map(_length, pieces)), [(order, pieces)])
            case And(parts):
                return min(map(self.candidates, parts), key=lambda found: found.most)
            case Or(parts):
                found = [self.candidates(part) for part in parts]
                if all(one.where is not None for one in found):
                    return Candidates(
                        sum(one.most for one in found), [pair for one in found for pair in one.where or ()]
                    )
            case Not(Everything()):
                return Candidates(0, [])
        return Candidates(self.rows, None)


class Candidates(NamedTuple):
    """Rows that may pass a filter.

    Attributes:
        most: how many at most.
        where: orders and pieces of them that have the rows; None when any row may pass.
    """

    most: int
    where: Sequence[tuple[Order, Pieces]] | None

    def rows(self, live: NDArray[np.bool_] | None) -> RowNumbers:
        """The numbers of those that are live, none twice; None says that all are."""
        found = [order.rows(pieces, live) for order, pieces in self.where or ()]
        if len(found) == 1 and self.where and not self.where[0][0].repeats:
            return found[0]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))


def select(
    where: Filter, columns: Mapping[str, Column], orders: Orders, live: Tensor, *, all_live: bool, queries: int = 1
) -> Selection:
    """The rows that pass a bound filter and are live.

    Args:
        where: the filter.
        columns: column by name, on the CPU.
        orders: of the same columns, over at most N rows.
        live: of shape (N,), bool.
        all_live: whether every row is live, so that nobody need look.
        queries: how many are asked together.

    Returns:
        Exactly those rows.
    """
    total, later = len(live), len(live) - orders.rows
    candidates = orders.candidates(where)
    if candidates.where is not None and few(candidates.most + later, total, queries):
        rows = candidates.rows(None if all_live else live.numpy())
        if not isinstance(where, Predicate) or isinstance(where, _ROUGH):
            numbers = torch.from_numpy(rows)
            rows = rows[passing(where, columns, numbers, numbers).numpy()]
        if later:
            found = passing(where, columns, slice(orders.rows, total), live[orders.rows :])
            if not all_live:
                found = found & live[orders.rows :]
            rows = np.concatenate([rows, np.flatnonzero(found.numpy()) + orders.rows])
        return Selection(len(rows), rows=rows)
    bits = _bits(where, columns, total)
    if not all_live:
        bits = bits & packed(live.numpy())
    return Selection.of_bits(bits)


def _bits(where: Filter, columns: Mapping[str, Column], rows: int) -> Bits:
    """A bit for each row, set if it passes a bound filter."""
    match where:
        case Everything():
            bits = np.full(tiles_of(rows), 0xFFFF, np.uint16)
            if rows % TILE:
                bits[-1] = (1 << rows % TILE) - 1
            return bits
        case Not(part):
            return _bits(Everything(), columns, rows) & ~_bits(part, columns, rows)
        case And(parts):
            bits = _bits(parts[0], columns, rows)
            for part in parts[1:]:
                bits = bits & _bits(part, columns, rows)
            return bits
        case Or(parts):
            bits = _bits(parts[0], columns, rows)
            for part in parts[1:]:
                bits = bits | _bits(part, columns, rows)
            return bits
        case Predicate():
            column = columns[where.column]
            ranged = _ranged(where, column, rows)
            return packed(column.passing(where, slice(rows)).numpy()) if ranged is None else ranged
    raise TypeError(f"{where!r} is no filter.")


def _ranged(where: Predicate, column: Column, rows: int) -> Bits | None:
    """The bits of a predicate that one range of stored values passes; None for any other."""
    if isinstance(column, Numbers):
        stored, limits = column.stored[:rows].numpy(), range_of(where, column.stored.dtype)
    elif isinstance(column, Categories):
        stored, codes = column.codes[:rows].numpy(), column.passing_codes(where)
        limits = (codes[0], codes[-1]) if codes and codes[-1] - codes[0] == len(codes) - 1 else None
    else:
        return None
    compare = kernels.BETWEEN.get(stored.dtype.name)
    if limits is None or compare is None:
        return None
    low, high = limits
    bits = np.empty(tiles_of(rows), np.uint16)
    whole = rows // TILE
    compare(stored, whole, low, high, bits)
    if rows % TILE:
        rest = stored[whole * TILE :]
        bits[whole:] = packed((rest >= low) & (rest <= high))
    if isinstance(column, Numbers) and not column.whole:
        bits &= packed(column.present[:rows].numpy())
    return bits


def range_of(where: Predicate, type_: torch.dtype) -> tuple[Any, Any] | None:
    """Lowest and highest value that pass, if all those between do and no others."""
    if type_ == torch.bool:
        return None
    real = type_ == torch.float64
    lowest, highest = (-np.inf, np.inf) if real else (torch.iinfo(type_).min, torch.iinfo(type_).max)
    match where:
        case Between(_, low, high):
            return low, high
        case Comparison(_, value, "=="):
            return value, value
        case Comparison(_, value, "<="):
            return lowest, value
        case Comparison(_, value, ">="):
            return value, highest
        case Comparison(_, value, "<" | ">" as sign):
            number: Any = value
            if number == (lowest if sign == "<" else highest):
                return None
            beyond = lowest if sign == "<" else highest
            step = -1 if sign == "<" else 1
            next_ = float(np.nextafter(number, beyond)) if real else number + step
            return (lowest, next_) if sign == "<" else (next_, highest)
    return None
