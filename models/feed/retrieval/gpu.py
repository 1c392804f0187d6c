"""Exact search on a card: codes of the rows beside the vectors, the kernels of `gpu_kernels`, and floors that rise.

The rows are scanned in parts, each several times as long as all before it. After a part, every query knows the scores
of K rows or more, and with them a floor: no row below it can be among its K best. So each row is read once, a part
brings a query some thousand rows to remember, and no matrix of scores exists. What is left in the end is scored in
float64 as in `scan`; the answer has the same bits, whatever the codes, the parts and the order of rows.

A part may bring more rows than a board has places for. The others are lost, but their number is known: what was kept
raises the floors, and the part is scanned again in halves. If the floors do not rise, because too many rows lie within
the error of the codes, the board is scored exactly.

`Signs` is for what is too large even for bytes: rows are chosen by one bit for each number, and only those chosen are
scored. Its answers are approximate; the only such here.

Shapes: N rows, d dimension, D the same padded to a multiple of 32, B queries, K results, C places on a board, M rows
scored exactly.

Source: LiNR filters, scores and selects by an operator each (sections 3.1 and 3.2) and selects by codes without a bound
(V3); one reading with floors, and the bound, are ours.
"""

import importlib.metadata
import importlib.util
import math
import os
import shutil
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from models.feed.retrieval.attributes import range_of
from models.feed.retrieval.columns import Categories, Column, Numbers, passing
from models.feed.retrieval.filter import And, Comparison, Everything, Filter, In, Not, Predicate
from models.feed.retrieval.scan import exact_scores

Codes = Literal["int8", "float16"]

LARGEST = 2**17
"""Numbers in a vector up to which a sum of products of bytes fits 32 bits."""

_TYPES: Mapping[str, torch.dtype] = {"int8": torch.int8, "float16": torch.float16}

_PAD = 32
"""Numbers that the card multiplies at once at least: codes are padded to that."""

_BLOCK = 128
_STEPS = 32
"""Rows of a block, and blocks of a chunk: 256 kB of codes at D = 64, which lie together."""

_TOGETHER = 64
"""Queries scanned together at most: on current cards the codes then still take longer to read than to multiply."""

_GROWTH = 8
"""How many times the rows before it a part ends at: it brings a query about that many times K rows, or some more where
codes err."""

_BOARD = 32
"""Places on a board for each result: four times the rows that a part brings."""

_SMALLEST_BOARD = 2**15
_PLACES = 2**24
"""Places on all boards together at most, unless one query alone needs more."""

_ELEMENTS = 2**24
"""Numbers in one temporary matrix."""

_SAMPLE = 64
"""Chunks from which `Signs` learns how many signs the rows to be kept have in common with a query."""


_COMPILES = ((3, 6), (3, 7))
"""Versions of triton whose compiler takes our kernels; those of 3.8 and 3.9 end in an assertion of their own."""


def usable(device: torch.device, dimension: int) -> bool:
    """Whether rows there, of such a dimension, can be searched: on a CUDA device, where triton can launch kernels."""
    return device.type == "cuda" and dimension <= LARGEST and _launches()


@cache
def _launches() -> bool:
    """Whether a triton is there that compiles our kernels, and what it builds its launcher with: a C compiler and the
    headers of Python."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return _triton() in _COMPILES and compiler is not None and headers.exists()


def _triton() -> tuple[int, int]:
    """Which triton is there; (0, 0) for none."""
    if importlib.util.find_spec("triton") is None:
        return 0, 0
    major, minor = importlib.metadata.version("triton").split(".")[:2]
    return int(major), int(minor)


# --- which rows pass --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Clause:
    """A row passes if its value lies in a range, or, a reverse clause, if it does not.

    Attributes:
        values: of shape (N,), int32 or int64.
        low: lowest value in the range.
        high: highest.
        outside: whether the rows outside pass.
    """

    values: Tensor
    low: int
    high: int
    outside: bool = False

    def __post_init__(self) -> None:
        if self.values.dtype not in (torch.int32, torch.int64) or self.values.ndim != 1:
            raise ValueError(
                f"a clause needs one int32 or int64 for each row, got {self.values.dtype} of shape "
                f"{tuple(self.values.shape)}; convert the column, or say what passes by bits."
            )


@dataclass(frozen=True, eq=False)
class Passing:
    """The rows that pass a filter: those that pass all clauses and have their bit set.

    Attributes:
        clauses: compared row by row during the scan; none for no condition.
        bits: of shape (N / 8, rounded up), uint8: bit i of byte t is set when row 8 t + i passes; None for all.
    """

    clauses: tuple[Clause, ...] = ()
    bits: Tensor | None = None


def packed(mask: Tensor) -> Tensor:
    """A mask of shape (N,) as bits, for `Passing`."""
    whole = torch.nn.functional.pad(mask, (0, -len(mask) % 8)).view(-1, 8)
    bits = torch.zeros(len(whole), dtype=torch.uint8, device=mask.device)
    for place in range(8):
        bits |= whole[:, place].to(torch.uint8) << place
    return bits


def select(filters: Sequence[Filter], columns: Mapping[str, Column], live: Tensor, *, all_live: bool) -> list[Passing]:
    """What the scan is to know of bound filters.

    Conjunctions of ranges over integers and categories are compared during the scan, as clauses; other filters are
    evaluated beforehand, to bits.

    Args:
        filters: B of them, equal ones for queries that share one.
        columns: column by name.
        live: of shape (N,), bool.
        all_live: whether every row is live, so that nobody need look.

    Returns:
        For each filter the rows that pass it and are live; the same object for equal filters.

    Source:
        Clauses and reverse clauses are LiNR's (section 3.1); ranges, and that they are compared without a mask, are
        ours.
    """
    alive = None if all_live else packed(live)
    found: dict[Filter, Passing] = {}
    for where in filters:
        if where not in found:
            clauses = _clauses(where, columns, len(live))
            if clauses is None:
                found[where] = Passing(bits=packed(passing(where, columns, slice(len(live)), live) & live))
            else:
                found[where] = Passing(clauses, alive)
    return [found[where] for where in filters]


def _clauses(where: Filter, columns: Mapping[str, Column], rows: int) -> tuple[Clause, ...] | None:
    """The clauses that say what a bound filter says; None if clauses cannot."""
    match where:
        case Everything():
            return ()
        case Not(part):
            inner = _clauses(part, columns, rows)
            if inner is None or len(inner) != 1:
                return None
            (clause,) = inner
            return (Clause(clause.values, clause.low, clause.high, not clause.outside),)
        case And(parts):
            found: tuple[Clause, ...] = ()
            for part in parts:
                more = _clauses(part, columns, rows)
                if more is None:
                    return None
                found += more
            return found
        case Predicate():
            return _of_predicate(where, columns[where.column], rows)
    return None


def _of_predicate(where: Predicate, column: Column, rows: int) -> tuple[Clause, ...] | None:
    if isinstance(column, Categories):
        codes = column.codes[:rows]
        if isinstance(where, Comparison) and where.operator == "!=":
            has_one = Clause(codes, 0, torch.iinfo(codes.dtype).max)
            return has_one, *(Clause(codes, code, code, outside=True) for code in column.known([where.value]))
        wanted = column.passing_codes(where)
        if not wanted:
            return (Clause(codes, 1, 0),)
        return (Clause(codes, wanted[0], wanted[-1]),) if wanted[-1] - wanted[0] == len(wanted) - 1 else None
    if not isinstance(column, Numbers) or not column.whole or column.stored.dtype != torch.int64:
        return None
    if isinstance(where, Comparison) and where.operator == "!=":
        return (Clause(column.stored[:rows], int(where.value), int(where.value), outside=True),)
    if isinstance(where, In) and len(set(where.values)) == 1:
        return (Clause(column.stored[:rows], int(where.values[0]), int(where.values[0])),)
    ends = range_of(where, column.stored.dtype)
    return None if ends is None else (Clause(column.stored[:rows], *ends),)


# --- answers ----------------------------------------------------------------------------------------------------------


class Best(NamedTuple):
    """The best rows of B queries, by (score descending, id ascending).

    Attributes:
        scores: of shape (B, K), float64; minus infinity in unfilled places.
        ids: of shape (B, K), int64; -1 in unfilled places.
        rows: of shape (B, K), int64; -1 in unfilled places.
        passed: of shape (B,), int64: how many rows pass.
    """

    scores: Tensor
    ids: Tensor
    rows: Tensor
    passed: Tensor

    @classmethod
    def none(cls, queries: int, k: int, device: torch.device) -> "Best":
        """Nothing found yet."""
        empty = torch.full((queries, k), -1, dtype=torch.int64, device=device)
        scores = torch.full((queries, k), -torch.inf, dtype=torch.float64, device=device)
        return cls(scores, empty, empty.clone(), torch.zeros(queries, dtype=torch.int64, device=device))


RowsOf = Callable[[Tensor], Tensor]
"""From row numbers of any shape to the rows, float32 or float64: what exact scores are computed from."""


def _merged(best: Best, queries: Tensor, numbers: Tensor, filled: Tensor, rows_of: RowsOf, ids: Tensor | None) -> Best:
    """The best so far and further rows, scored exactly, in competition.

    Args:
        best: the best so far.
        queries: of shape (B, d), float32.
        numbers: of shape (B, M), int64: row numbers that the query has not met yet.
        filled: of shape (B, M), bool: which of them are any.
        rows_of: gives rows.
        ids: of shape (N,); None when row numbers are the ids.

    Returns:
        The best of both.
    """
    count, k = best.scores.shape
    step = max(1, _ELEMENTS // (count * queries.shape[1]))
    for start in range(0, numbers.shape[1], step):
        rows, real = numbers[:, start : start + step], filled[:, start : start + step]
        rows = rows.masked_fill(~real, 0)
        scores = exact_scores(rows_of(rows), queries[:, None]).masked_fill_(~real, -torch.inf)
        found = rows if ids is None else ids[rows]
        all_scores = torch.cat([best.scores, scores], 1)
        all_ids = torch.cat([best.ids, found.masked_fill(~real, -1)], 1)
        all_rows = torch.cat([best.rows, rows.masked_fill(~real, -1)], 1)
        # the k best scores, and all that equal the last of them: ids decide among those
        kth = all_scores.topk(min(k, all_scores.shape[1]), dim=1).values[:, -1:]
        most = int((all_scores >= kth).sum(1).max())
        all_scores, kept = all_scores.topk(most, dim=1)
        all_ids, all_rows = all_ids.gather(1, kept), all_rows.gather(1, kept)
        order = all_ids.argsort(dim=1, stable=True)
        order = order.gather(1, all_scores.gather(1, order).argsort(dim=1, stable=True, descending=True))[:, :k]
        best = Best(all_scores.gather(1, order), all_ids.gather(1, order), all_rows.gather(1, order), best.passed)
    return best


# --- engines ----------------------------------------------------------------------------------------------------------


class Engine:
    """The codes of rows, appended to and never changed.

    Whoever holds the codes of a moment may go on reading: growing replaces them by longer ones that begin alike.

    Args:
        dimension: numbers in a vector, d.
        device: where the rows are; a CUDA device, or a CPU when triton interprets.
        codes: what approximate scores are computed from. Bytes are read twice as fast; numbers of half precision err
            less, which pays where many scores are close to one another.

    Raises:
        ValueError: the dimension is too large, or there are no such codes.
    """

    def __init__(self, dimension: int, device: torch.device, codes: Codes = "int8") -> None:
        if not 1 <= dimension <= LARGEST:
            raise ValueError(f"dimension must be from 1 to {LARGEST}, got {dimension}; shorten the vectors.")
        if codes not in _TYPES:
            raise ValueError(f"codes must be one of {', '.join(_TYPES)}, got {codes!r}.")
        self.dimension = dimension
        self.device = device
        self.rows = 0
        width = _PAD * -(-dimension // _PAD)
        self._codes = torch.zeros((0, width), dtype=_TYPES[codes], device=device)
        self._scales = torch.zeros(0, dtype=torch.float32, device=device)
        self._worst = (0.0, 0.0)

    @classmethod
    def of_codes(cls, codes: Tensor, scales: Tensor) -> "Engine":
        """An engine over codes that were made elsewhere, which then are the rows themselves: row = scale * code.

        Args:
            codes: of shape (N, d), int8 or float16, d a multiple of 32. They are not copied.
            scales: of shape (N,), float32, not negative.

        Returns:
            The engine; `search` it without vectors.

        Raises:
            ValueError: types or shapes are others.
        """
        names = {type_: name for name, type_ in _TYPES.items()}
        if codes.ndim != 2 or codes.shape[1] % _PAD or codes.dtype not in names or not codes.is_contiguous():
            raise ValueError(
                f"codes must be contiguous int8 or float16 of shape (rows, a multiple of {_PAD}), got {codes.dtype} of "
                f"shape {tuple(codes.shape)}; pad with zeros."
            )
        if scales.shape != codes.shape[:1] or scales.dtype != torch.float32:
            raise ValueError(
                f"scales must be float32 of shape ({len(codes)},), got {scales.dtype} of shape {tuple(scales.shape)}."
            )
        engine = cls(codes.shape[1], codes.device, names[codes.dtype])  # type: ignore[arg-type]
        longest = 0.0
        for start, end in _pieces(len(codes), codes.shape[1]):
            lengths = torch.linalg.vector_norm(engine._decoded(codes[start:end], scales[start:end]), dim=1)
            longest = max(longest, float(lengths.max()))
        engine._codes, engine._scales, engine._worst, engine.rows = codes, scales, (0.0, longest), len(codes)
        return engine

    def append(self, vectors: Tensor, start: int) -> None:
        """Write the codes of further rows.

        Args:
            vectors: of shape (M, d), float32.
            start: number of the first; codes from there on, of rows that were never shown to anybody, are replaced.
        """
        end = start + len(vectors)
        if end > len(self._codes):
            room = max(end, 2 * len(self._codes))
            codes, scales = self._codes.new_zeros((room, self._codes.shape[1])), self._scales.new_zeros(room)
            codes[:start], scales[:start] = self._codes[:start], self._scales[:start]
            self._codes, self._scales = codes, scales
        residual, longest = self._worst
        for first, last in _pieces(len(vectors), self.dimension):
            codes, scales, errors = _encoded(vectors[first:last], self._codes.dtype, self._codes.shape[1])
            self._codes[start + first : start + last] = codes
            self._scales[start + first : start + last] = scales
            residual, longest = max(residual, float(errors[0].max())), max(longest, float(errors[1].max()))
        self._worst, self.rows = (residual, longest), end

    def decoded(self, rows: Tensor) -> Tensor:
        """What the codes of some rows stand for: of shape (..., d), float64."""
        return self._decoded(self._codes[rows], self._scales[rows])[..., : self.dimension]

    @staticmethod
    def _decoded(codes: Tensor, scales: Tensor) -> Tensor:
        return codes.double() * scales.double()[..., None]

    def search(
        self,
        queries: Tensor,
        k: int,
        selections: Sequence[Passing],
        vectors: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Best:
        """The K best passing rows of each query.

        Args:
            queries: of shape (B, d), float32, finite.
            k: results per query, at least 1.
            selections: B of them, of as many rows as `vectors` has; one object where several queries share a filter.
            vectors: of shape (N, d), float32, of which the first `self.rows` rows at least were appended; None when
                what the codes stand for is to be searched, exactly.
            ids: of shape (N,), int64, none twice among rows that pass; None when row numbers are the ids.

        Returns:
            The exact answer, and how many rows pass.

        Source:
            Filter first, then score, is LiNR's V2 (section 3.1); two stages are its V3; that nothing is lost is ours.
        """
        source = self.decoded if vectors is None else vectors.__getitem__
        worst = self._worst if vectors is not None else (0.0, self._worst[1] + self._worst[0])
        rows = self.rows if vectors is None else len(vectors)
        places = max(min(rows, max(_SMALLEST_BOARD, _BOARD * k)), 2 * _BLOCK * _STEPS)
        found = [Best.none(0, k, self.device)]
        for start, end in _parts(len(queries), min(_TOGETHER, _PLACES // places)):
            asked = _Asked.of(queries[start:end], worst, self._codes)
            chosen = _Filters.of(selections[start:end], len(asked.codes), rows, self.device)
            found.append(_Question(self._codes, self._scales, asked, chosen, rows, source, ids, k, places).answer())
        return Best(*(torch.cat(parts) for parts in zip(*found, strict=True)))


class _Asked(NamedTuple):
    """Queries as the kernel wants them.

    Attributes:
        queries: of shape (B, d), float32.
        codes: of shape (B padded, D), of the rows' type.
        factors: of shape (B,), float64: what a score by codes is to be multiplied with.
        errors: of shape (B,), float64: by how much it may err, in the same units.
    """

    queries: Tensor
    codes: Tensor
    factors: Tensor
    errors: Tensor

    @classmethod
    def of(cls, queries: Tensor, worst: tuple[float, float], rows: Tensor) -> "_Asked":
        """Encode queries and bound the errors.

        With x = s c + r for a row and q = f b + e for a query, x . q - s f (c . b) = s c . e + r . q, and |s c| is at
        most |x| + |r|. So the score of codes errs by at most (|x| + |r|) |e| + |r| |q|; on top comes its rounding to
        float32, at most four roundings of a number of at most (|x| + |r|) (|q| + |e|). Sums of bytes are exact. Those
        of numbers of half precision are not: products are exact in float32, and each of D additions errs by at most
        2^-21 of |c| |b|, which allows for the cut-off digits of a card's matrix units (Fasi et al. 2021 measured less).
        A factor or a product below 2^-126 may be flushed to zero.
        """
        width = rows.shape[1]
        codes, factors, errors = _encoded(queries.double(), rows.dtype, width)
        factors = torch.where(factors > 0, factors, 1.0)
        (residual, longest), (missed, length) = worst, errors
        whole = rows.dtype == torch.int8
        rounding = 2.0**-21 if whole else 2.0**-21 * (1 + width)
        reach = longest + residual
        error = 1.001 * (reach * missed + residual * length) + rounding * reach * (length + missed)
        flushed = 2.0**-126 * width * (2.0**14 if whole else 4 * (1 + longest))
        padded = torch.nn.functional.pad(codes, (0, 0, 0, _padded(len(codes)) - len(codes)))
        return cls(queries, padded, factors, error / factors + flushed)


def _encoded(vectors: Tensor, type_: torch.dtype, width: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Codes with a scale for each row, and what they miss.

    Args:
        vectors: of shape (M, d), float32 or float64.
        type_: of the codes.
        width: D.

    Returns:
        Codes of shape (M, D); scales of shape (M,) of the vectors' type, zero for rows without length; the lengths
        |x - scale code| and |x|, each of shape (M,), float64. The first is measured and not derived, so that however
        badly a row can be divided by its scale, the bound holds.
    """
    largest = vectors.abs().amax(1)
    scales = largest / 127 if type_ == torch.int8 else largest
    parts = vectors / torch.where(scales > 0, scales, 1.0)[:, None]
    codes = (parts.round().clamp(-127, 127) if type_ == torch.int8 else parts).to(type_)
    missed = vectors.double() - scales.double()[:, None] * codes.double()
    lengths = torch.linalg.vector_norm(missed, dim=1), torch.linalg.vector_norm(vectors.double(), dim=1)
    return torch.nn.functional.pad(codes, (0, width - codes.shape[1])), scales, lengths


class _Filters(NamedTuple):
    """The filters of a group of queries as the kernels want them; see there."""

    columns: tuple[Tensor, ...]
    lows: tuple[Tensor, ...]
    highs: tuple[Tensor, ...]
    outsides: tuple[Tensor, ...]
    bits: Tensor
    sets: Tensor
    width: int
    any_bits: bool

    @classmethod
    def of(cls, selections: Sequence[Passing], padded: int, rows: int, device: torch.device) -> "_Filters":
        """Give each clause a slot; queries that compare the same column share it, so that it is read once."""
        slots: dict[tuple[int, int], tuple[Tensor, list[Clause | None]]] = {}
        sets, distinct = [-1] * padded, dict[int, tuple[int, Tensor]]()
        for number, selection in enumerate(selections):
            uses: defaultdict[int, int] = defaultdict(int)
            for clause in selection.clauses:
                _check_rows("a clause's column", clause.values, rows)
                place = clause.values.data_ptr()
                slot = slots.setdefault((place, uses[place]), (clause.values, [None] * padded))
                slot[1][number] = clause
                uses[place] += 1
            if selection.bits is not None:
                _check_rows("bits", selection.bits, -(-rows // 8))
                sets[number] = distinct.setdefault(id(selection.bits), (len(distinct), selection.bits))[0]
        columns = [values for values, _ in slots.values()]
        ends = [_ends(values.dtype, clauses) for values, clauses in slots.values()]
        # to the card in one go
        numbers = torch.tensor([*(row for slot in ends for row in slot), sets], dtype=torch.int64).to(device)
        lows, highs, outsides = (numbers[part:-1:3] for part in range(3))
        bits = [one for _, one in distinct.values()] or [torch.zeros(1, dtype=torch.uint8, device=device)]
        return cls(
            tuple(columns),
            tuple(low.to(values.dtype) for low, values in zip(lows, columns, strict=True)),
            tuple(high.to(values.dtype) for high, values in zip(highs, columns, strict=True)),
            tuple(outside.to(torch.int8) for outside in outsides),
            torch.stack(bits), numbers[-1].to(torch.int32), len(bits[0]), bool(distinct),
        )  # fmt: skip


def _ends(type_: torch.dtype, clauses: Sequence[Clause | None]) -> list[tuple[int, ...]]:
    """Lows, highs and outsides of the queries' clauses, within what the column can hold."""
    lowest, highest = torch.iinfo(type_).min, torch.iinfo(type_).max
    found = []
    for clause in clauses:
        if clause is None:
            found.append((lowest, highest, 0))
            continue
        low, high = max(clause.low, lowest), min(clause.high, highest)
        found.append((*((low, high) if low <= high else (1, 0)), int(clause.outside)))
    return list(zip(*found, strict=True))


def _check_rows(name: str, values: Tensor, expected: int) -> None:
    if len(values) != expected or not values.is_contiguous():
        raise ValueError(f"{name} must be contiguous with {expected} entries for the rows, got {len(values)}.")


@dataclass
class _Question:
    """Queries of a group under way: what is read, and what is known so far.

    Attributes:
        codes: of the rows.
        scales: of the rows.
        asked: the queries.
        filters: which rows pass.
        rows: how many there are.
        rows_of: gives rows.
        ids: of the rows.
        k: results per query.
        places: on a board, C; at least twice the rows of a chunk.
    """

    codes: Tensor
    scales: Tensor
    asked: _Asked
    filters: _Filters
    rows: int
    rows_of: RowsOf
    ids: Tensor | None
    k: int
    places: int

    def __post_init__(self) -> None:
        count, padded, device = len(self.asked.queries), len(self.asked.codes), self.codes.device
        self.best = Best.none(count, self.k, device)
        self.floors = torch.full((padded,), -torch.inf, dtype=torch.float32, device=device)
        self.passed = torch.zeros(padded, dtype=torch.int64, device=device)
        # the boards: scores by codes and row numbers, and how many places of each are given out
        self.scores = torch.empty((count, self.places), dtype=torch.float32, device=device)
        self.numbers = torch.empty((count, self.places), dtype=torch.int64, device=device)
        self.counts = torch.zeros(count, dtype=torch.int32, device=device)

    def answer(self) -> Best:
        """Scan everything."""
        chunk = _BLOCK * _STEPS
        chunks = -(-self.rows // chunk)
        first, size = 0, max(1, self.places // (2 * chunk))
        while first < chunks:
            last = min(chunks, first + size)
            counts, passed = self.counts.clone(), self.passed.clone()
            self.scan(first, last - first, chunks)
            most = int(self.counts.max())
            self._raise(most)
            if most > self.places:  # rows were lost: with higher floors, the part is scanned again in halves
                self.counts, self.passed = counts, passed
                size = max(1, (last - first) // 2)
            else:
                first, size = last, max(size, (_GROWTH - 1) * last)
            if 4 * most > self.places or first == chunks:
                self._clear(most)
        self._settle()
        return self.best._replace(passed=self.passed[: len(self.counts)])

    def scan(self, first: int, count: int, chunks: int) -> None:
        """Launch the kernel over some chunks, in the order of visits."""
        from models.feed.retrieval import gpu_kernels

        padded, width = self.asked.codes.shape
        filters = self.filters
        with torch.cuda.device(self.codes.device if self.codes.is_cuda else -1):
            gpu_kernels.scan[(count,)](
                self.codes, self.scales, self.asked.codes, self.floors, filters.columns, filters.lows, filters.highs,
                filters.outsides, filters.bits, filters.sets, filters.width, self.scores, self.numbers, self.counts,
                self.passed, self.rows, first, chunks, _step(chunks), len(self.asked.queries), self.places, B=padded,
                BLOCK=_BLOCK, STEPS=_STEPS, WIDTH=width, PIECE=_piece(width, self.codes.element_size()),
                WHOLE=self.codes.dtype == torch.int8, CLAUSES=len(filters.columns), BITS=filters.any_bits,
                num_warps=4 if padded <= 16 else 8, maxnreg=128,
            )  # fmt: skip

    def _filled(self, width: int) -> Tensor:
        """Which places of the first `width` are given out."""
        return torch.arange(width, device=self.counts.device) < self.counts[:, None]

    def _raise(self, most: int) -> None:
        """Raise the floors by what is on the boards: k rows score at least the k-th best, less the error."""
        width = min(most, self.places)
        if width >= self.k:
            scores = self.scores[:, :width].masked_fill(~self._filled(width), -torch.inf)
            kth = scores.topk(self.k, dim=1, sorted=False).values.amin(1)
            self._lift(kth.double() - 2 * self.asked.errors)

    def _lift(self, floors: Tensor) -> None:
        """Take floors, of shape (B,), float64, where they are higher; in float32, and never above what is given."""
        lowered = (floors - 2e-7 * floors.abs() - 1e-37).float()
        self.floors[: len(lowered)] = torch.maximum(self.floors[: len(lowered)], lowered)

    def _clear(self, most: int) -> None:
        """Take rows below the floors off the boards; score all exactly if more than half of the places stay taken."""
        width = min(most, self.places)
        kept = self._filled(width) & (self.scores[:, :width] >= self.floors[: len(self.counts), None])
        owner, place = kept.nonzero(as_tuple=True)
        goal = (kept.cumsum(1) - 1)[owner, place]
        scores, numbers = self.scores[owner, place], self.numbers[owner, place]
        self.scores[owner, goal], self.numbers[owner, goal] = scores, numbers
        self.counts = kept.sum(1, dtype=torch.int32)
        if 2 * int(self.counts.max()) > self.places:
            self._settle()
            self._lift(self.best.scores[:, -1] / self.asked.factors - self.asked.errors)

    def _settle(self) -> None:
        """Score what is on the boards exactly, and clear them."""
        width = int(self.counts.max())
        numbers, filled = self.numbers[:, :width], self._filled(width)
        self.best = _merged(self.best, self.asked.queries, numbers, filled, self.rows_of, self.ids)
        self.counts = torch.zeros_like(self.counts)


class Signs:
    """One bit for each direction of a rotated row: the first stage of an approximate search.

    Args:
        dimension: numbers in a vector, d.
        device: where the rows are.
        bits: how many directions, a multiple of 32; d rounded up to one when not given.
        seed: of the rotation.

    Raises:
        ValueError: the number of bits is no multiple of 32 from 32 on.

    Source:
        Codes of signs, agreement by popcount, and re-scoring are LiNR's (section 3.2, V3). The paper projects by
        OPORP; with as many bits as numbers that mixes nothing, so we rotate at random, and by further rotations where
        there are more bits than numbers.
    """

    def __init__(self, dimension: int, device: torch.device, bits: int | None = None, seed: int = 0) -> None:
        bits = 32 * -(-dimension // 32) if bits is None else bits
        if bits < 32 or bits % 32:
            raise ValueError(f"bits must be a multiple of 32, got {bits}.")
        random = torch.Generator().manual_seed(seed)
        turns = [
            torch.linalg.qr(torch.randn(dimension, dimension, generator=random, dtype=torch.float64)).Q
            for _ in range(-(-bits // dimension))
        ]
        self.device = device
        self.rows = 0
        self._turned = torch.cat(turns, 1)[:, :bits].float().to(device)
        self._codes = torch.zeros((0, bits // 32), dtype=torch.int32, device=device)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows, so that nothing is copied on the way there."""
        if rows > len(self._codes):
            codes = self._codes.new_zeros((rows, self._codes.shape[1]))
            codes[: self.rows] = self._codes[: self.rows]
            self._codes = codes

    def append(self, vectors: Tensor) -> None:
        """Write the signs of further rows, of shape (M, d)."""
        end = self.rows + len(vectors)
        if end > len(self._codes):
            self.reserve(max(end, 2 * len(self._codes)))
        for first, last in _pieces(len(vectors), self._turned.shape[1]):
            self._codes[self.rows + first : self.rows + last] = self._signs(vectors[first:last])
        self.rows = end

    def _signs(self, vectors: Tensor) -> Tensor:
        positive = (vectors.float() @ self._turned > 0).view(len(vectors), -1, 32)
        places = torch.arange(32, device=vectors.device)
        return (positive.long() << places).sum(-1).to(torch.int32)  # the highest bit becomes the sign

    def search(
        self,
        queries: Tensor,
        k: int,
        selections: Sequence[Passing],
        rows_of: RowsOf,
        ids: Tensor | None = None,
        *,
        keep: int,
    ) -> Best:
        """The K best, exactly scored, of about the `keep` passing rows whose signs agree best with the query's.

        This is not an exact search: a row among the K best is lost when its signs agree too little. What is returned
        passes the filter, and its scores are exact. Recall grows with `keep`; the benchmark `retrieval_gpu` measures
        it.

        Args:
            queries: of shape (B, d), float32, finite.
            k: results per query, at least 1.
            selections: B of them, of `self.rows` rows.
            rows_of: gives rows for exact scores: `vectors.__getitem__`, or `decoded` of an `Engine`.
            ids: of shape (N,), int64, none twice among rows that pass; None when row numbers are the ids.
            keep: rows to be scored for a query, at least K. Rows that agree equally well are kept or left together,
                and the agreement to be reached is estimated from a sample, so that it may be some more or less.

        Returns:
            The answer, and how many rows pass. Fewer than K only if fewer pass.

        Raises:
            ValueError: `keep` is less than k.
        """
        if keep < k:
            raise ValueError(f"keep must be at least k, got {keep} with k = {k}.")
        found = [Best.none(0, k, self.device)]
        for start, end in _parts(len(queries), min(_TOGETHER, _PLACES // min(2 * keep, self.rows + 1))):
            found.append(self._group(queries[start:end], k, selections[start:end], rows_of, ids, keep))
        return Best(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _group(
        self,
        queries: Tensor,
        k: int,
        selections: Sequence[Passing],
        rows_of: RowsOf,
        ids: Tensor | None,
        keep: int,
    ) -> Best:
        count, codes = len(queries), self._signs(queries)
        filters = _Filters.of(selections, count, self.rows, self.device)
        chunk = _BLOCK * _STEPS
        chunks = -(-self.rows // chunk)
        sample = min(chunks, _SAMPLE)
        floors = torch.zeros(count, dtype=torch.int32, device=self.device)
        scores, _, counts, _ = self._scan(codes, filters, floors, sample, chunks, min(sample * chunk, self.rows))
        # of the rows in the sample, so many belong to the kept ones of all rows
        rank = max(1, math.ceil(keep * min(sample * chunk, self.rows) / max(1, self.rows)))
        if rank <= scores.shape[1]:
            filled = torch.arange(scores.shape[1], device=self.device) < counts[:, None]
            floors = scores.masked_fill(~filled, 0).topk(rank, dim=1).values[:, -1].contiguous()
        room = 2 * keep
        while True:
            _, numbers, counts, passed = self._scan(codes, filters, floors, chunks, chunks, min(room, self.rows))
            most = int(counts.max())
            short = (counts < k) & (counts < passed)
            if bool(short.any()):
                floors = torch.where(short, floors // 2, floors)
            elif most <= numbers.shape[1]:
                break
            room = max(room, most)
        filled = torch.arange(most, device=self.device) < counts[:, None]
        best = Best.none(count, k, self.device)._replace(passed=passed)
        return _merged(best, queries, numbers[:, :most], filled, rows_of, ids)

    def _scan(
        self, codes: Tensor, filters: _Filters, floors: Tensor, count: int, chunks: int, places: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Launch the kernel over the first chunks in the order of visits: scores, row numbers, counts and passed."""
        from models.feed.retrieval import gpu_kernels

        asked = len(codes)
        scores = torch.empty((asked, places), dtype=torch.int32, device=self.device)
        numbers = torch.zeros((asked, places), dtype=torch.int64, device=self.device)
        counts = torch.zeros(asked, dtype=torch.int32, device=self.device)
        passed = torch.zeros(asked, dtype=torch.int64, device=self.device)
        if count:
            with torch.cuda.device(self.device if self.device.type == "cuda" else -1):
                gpu_kernels.agree[(count,)](
                    self._codes, codes, floors, filters.columns, filters.lows, filters.highs, filters.outsides,
                    filters.bits, filters.sets, filters.width, scores, numbers, counts, passed, self.rows, 0, chunks,
                    _step(chunks), asked, places, BLOCK=_BLOCK * _STEPS // 4, STEPS=4, WORDS=self._codes.shape[1],
                    CLAUSES=len(filters.columns), BITS=filters.any_bits,
                )  # fmt: skip
        return scores, numbers, counts, passed


def _padded(queries: int) -> int:
    """Queries in a tile: the card multiplies 16 rows at least."""
    return max(16, 1 << (queries - 1).bit_length())


def _piece(width: int, bytes_of_one: int) -> int:
    """Numbers multiplied at once: a power of two that divides the width, of 128 bytes at most."""
    return min(width & -width, 128 // bytes_of_one)


def _step(chunks: int) -> int:
    """From one visited chunk to the next: about the golden section of all, which spreads any first few evenly."""
    step = max(1, round(chunks * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, chunks) > 1:
        step += 1
    return step


def _parts(count: int, size: int) -> list[tuple[int, int]]:
    size = max(1, size)
    return [(start, min(count, start + size)) for start in range(0, count, size)]


def _pieces(rows: int, dimension: int) -> list[tuple[int, int]]:
    """Cut rows so that their numbers make one temporary matrix."""
    return _parts(rows, _ELEMENTS // dimension)
