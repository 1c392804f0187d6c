"""Exact search on the CPU: codes of the rows beside the vectors, the loops of `kernels`, and who works on what.

`Engine` keeps the codes; `search` answers queries, each under the rows that pass its filter. Few passing rows are read
where they are; many are found by a scan, eight queries at a time; those that many queries ask for are first copied
together. The answer does not depend on which way was taken, on threads or on codes: it has the bits that `scan` gives.

Shapes: N rows, T = N / 16 tiles, d dimension, D the same padded to a multiple of 64, B queries, K results.
"""

import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.feed.retrieval import kernels
from models.feed.retrieval.attributes import FEW, Bits, RowNumbers, Selection, few, tiles_of
from models.feed.retrieval.kernels import GROUP, LINE, TILE

T = TypeVar("T")
Counts = Sequence[int] | NDArray[np.int64]

_BOARD = 4
"""Places on a board for each result; below some hundreds they cost nothing."""

_SMALLEST_BOARD = 1024
_COPY = 60
"""What copying a row costs, in looks of a query at a row during a scan (measured at D = 64)."""

_TILES_FOR_THREADS = 2**12
"""Tiles for one group of queries from which on threads share them: below, that costs more than it saves."""

_BYTES_FOR_THREADS = 2**21
"""The same for the codes that are read here and there for one query."""


_READ_TOGETHER = 2**20
"""Row numbers that are joined at most for one call."""


class Best(NamedTuple):
    """The best rows of B queries, by (score descending, id ascending).

    Attributes:
        scores: of shape (B, K), float64; minus infinity in unfilled places.
        ids: of shape (B, K), int64; -1 in unfilled places.
        rows: of shape (B, K), int64; -1 in unfilled places.
    """

    scores: NDArray[np.float64]
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def none(cls, queries: int, k: int) -> "Best":
        """Nothing found yet."""
        return cls(
            np.full((queries, k), -np.inf), np.full((queries, k), -1, np.int64), np.full((queries, k), -1, np.int64)
        )

    def of(self, query: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """The row of one query."""
        return self.scores[query], self.ids[query], self.rows[query]


class Engine:
    """The codes of rows, appended to and never changed.

    Whoever holds the arrays of a moment may go on reading: growing replaces them by longer ones that begin alike.

    Args:
        dimension: numbers in a vector, d.
    """

    def __init__(self, dimension: int) -> None:
        self.rows = 0
        self._codes = aligned_array((0, LINE * -(-dimension // LINE)), np.uint8)
        self._scales = aligned_array((0,), np.float32)
        self._worst = np.zeros(2)

    def append(self, vectors: NDArray[np.float32], start: int) -> None:
        """Write the codes of further rows.

        Args:
            vectors: of shape (M, d), float32.
            start: number of the first; codes from there on, of rows that were never shown to anybody, are replaced.
        """
        _warm()
        self._append(vectors, start)

    def _append(self, vectors: NDArray[np.float32], start: int) -> None:
        end = start + len(vectors)
        if end > len(self._codes):
            room = TILE * tiles_of(max(end, 2 * len(self._codes)))
            codes, scales = aligned_array((room, self._codes.shape[1]), np.uint8), aligned_array((room,), np.float32)
            codes[: len(self._codes)], scales[: len(self._scales)] = self._codes, self._scales
            codes[len(self._codes) :], scales[len(self._scales) :] = 128, 0
            self._codes, self._scales = codes, scales
        worst = self._worst.copy()
        kernels.encode(vectors, start, self._codes, self._scales, worst)
        self._worst, self.rows = worst, end

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        selections: Sequence[Selection],
        vectors: NDArray[np.float32],
        ids: NDArray[np.int64],
    ) -> Best:
        """The K best passing rows of each query.

        Args:
            queries: of shape (B, d), float32, finite.
            k: results per query.
            selections: B of them, of as many rows as `vectors` has; one object where several queries share a filter.
            vectors: of shape (N, d), float32, of which the first `self.rows` rows at least were appended.
            ids: of shape (N,), int64, none twice among rows that pass.

        Returns:
            The exact answer.

        Source:
            Filter first, then score, is LiNR's V2 (section 3.1); two stages are its V3; that nothing is lost is ours.
        """
        best = Best.none(len(queries), k)
        asked = Asked.of(queries, self._worst, self._codes.shape[1])
        askers: defaultdict[int, list[int]] = defaultdict(list)
        for number, selection in enumerate(selections):
            askers[id(selection)].append(number)
        narrow, wide = list[tuple[int, RowNumbers]](), list[tuple[int, Bits]]()
        shared = list[tuple[list[int], Bits]]()
        for members in askers.values():
            selection = selections[members[0]]
            if not selection.count:
                continue
            if _worth_copying(selection.count, len(vectors), len(members)):
                rows = selection.as_rows()
                everything = [Selection.of(np.ones(len(rows), np.bool_))] * len(members)
                found = self._copied(rows).search(queries[members], k, everything, vectors[rows], ids[rows])
                best.scores[members], best.ids[members] = found.scores, found.ids
                best.rows[members] = np.where(found.rows < 0, -1, rows[found.rows])
            elif few(selection.count, len(vectors), len(queries)):
                rows = selection.as_rows()
                narrow += [(number, rows) for number in members]
            else:
                bits = selection.as_bits(tiles_of(len(vectors)))
                if len(members) > GROUP:
                    shared.append((members, bits))
                else:
                    wide += [(number, bits) for number in members]
        question = _Question(self._codes, self._scales, asked, vectors, ids, best)
        threads = threads_to_use()
        lone = len(narrow) == 1 and not wide and not shared
        if lone and len(narrow[0][1]) * self._codes.shape[1] >= _BYTES_FOR_THREADS:
            question.read(*narrow[0], threads)
        elif 0 < len(wide) <= GROUP and not narrow and not shared and tiles_of(len(vectors)) >= _TILES_FOR_THREADS:
            question.scan(wide, threads)
        else:
            do_all(
                [
                    *(partial(question.read_each, part) for part in _shares(narrow, threads)),
                    *(
                        partial(question.scan_each, part, bits)
                        for members, bits in shared
                        for part in parts_of(members, GROUP * -(-len(members) // (GROUP * threads)))
                    ),
                    *(partial(question.scan, part, 1) for part in parts_of(wide, GROUP)),
                ]
            )
        return best

    def _copied(self, rows: RowNumbers) -> "Engine":
        """The codes of some rows."""
        copy = object.__new__(Engine)
        room = TILE * tiles_of(len(rows))
        copy._codes, copy._scales = (
            aligned_array((room, self._codes.shape[1]), np.uint8),
            aligned_array((room,), np.float32),
        )
        np.take(self._codes, rows, axis=0, out=copy._codes[: len(rows)])
        np.take(self._scales, rows, out=copy._scales[: len(rows)])
        copy._codes[len(rows) :], copy._scales[len(rows) :] = 128, 0
        copy._worst, copy.rows = self._worst, len(rows)
        return copy


def _worth_copying(passing: int, rows: int, queries: int) -> bool:
    """Whether copying the passing rows costs less than it saves the queries that ask for them.

    A copy costs as much as `_COPY` queries' look at the row. The queries then look at the passing rows alone, and not
    at all rows of each tile with one that passes. A quarter of the rows is copied at most, for the memory it takes.
    """
    looked_at = rows * (1 - (1 - passing / rows) ** TILE)
    return queries >= GROUP and 4 * passing <= rows and passing * (_COPY + queries) < looked_at * queries


class _Question(NamedTuple):
    """Queries under way: what is read, and where answers go.

    Attributes:
        codes: of the rows.
        scales: of the rows.
        asked: the queries.
        vectors: of the rows.
        ids: of the rows.
        best: answers, each written by whoever works on its query.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    asked: "Asked"
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    best: Best

    def read_each(self, members: Sequence[tuple[int, RowNumbers]]) -> None:
        """Answer queries from the rows that pass, by their numbers, one query after another."""
        passing = [rows for _, rows in members]
        offsets = np.cumsum([0, *map(len, passing)])
        asked, board = self.asked, Board.of(1, self.best.scores.shape[1])
        kernels.read_rows_of_each(
            np.array([number for number, _ in members]), passing[0] if len(passing) == 1 else np.concatenate(passing),
            offsets, self.codes, self.scales, asked.codes, asked.starts, asked.errors, asked.factors, self.vectors,
            self.ids, asked.precise, *self.best, board.near[0], board.rows[0], board.room,
        )  # fmt: skip

    def scan_each(self, numbers: Sequence[int], bits: Bits) -> None:
        """Answer queries that share a filter by scans, one group after another."""
        asked, board = self.asked, Board.of(GROUP, self.best.scores.shape[1])
        kernels.scan_for_each(
            np.array(numbers), self.codes, self.scales, bits[None], asked.codes, asked.starts, asked.errors,
            asked.factors, self.vectors, self.ids, asked.precise, *self.best, board.near, board.rows, board.room,
            board.aligned, aligned_array((GROUP, self.codes.shape[1]), np.int8),
        )  # fmt: skip

    def read(self, number: int, rows: RowNumbers, parts: int) -> None:
        """Answer one query from the rows that pass; by so many threads, each for a part of the rows."""
        asked = self.asked

        def compete(first: int, last: int, into: Best) -> Counts:
            board = Board.of(1, into.scores.shape[1])
            held = kernels.read_rows(
                rows[first:last], self.codes, self.scales, asked.codes[number : number + 1],
                asked.starts[number : number + 1], asked.errors[number], asked.factors[number], self.vectors, self.ids,
                asked.precise[number], *into.of(0), board.near[0], board.rows[0], board.room,
            )  # fmt: skip
            return [held]

        self._answer([number], 1, len(rows), parts, compete)

    def scan(self, members: Sequence[tuple[int, Bits]], parts: int) -> None:
        """Answer at most GROUP queries by a scan; by so many threads, each for a part of the tiles."""
        numbers, tiles, asked = [number for number, _ in members], len(members[0][1]), self.asked
        if len(members) == 1:
            ((number, bits),) = members

            def compete(first: int, last: int, into: Best) -> Counts:
                board = Board.of(1, into.scores.shape[1])
                held = kernels.scan_for_one(
                    self.codes, self.scales, first, last, bits, asked.codes[number : number + 1],
                    asked.starts[number : number + 1], asked.errors[number], asked.factors[number], self.vectors,
                    self.ids, asked.precise[number], *into.of(0), board.near[0], board.rows[0], board.room,
                    board.aligned[0],
                )  # fmt: skip
                return [held]

            self._answer(numbers, 1, tiles, parts, compete)
            return
        spare = GROUP - len(members)  # places that are left ask nothing
        chosen = numbers + numbers[:1] * spare
        if not spare and all(bits is members[0][1] for _, bits in members):
            passing = members[0][1][None]
        else:
            passing = np.zeros((GROUP, tiles), np.uint16)
            for place, (_, bits) in enumerate(members):
                passing[place] = bits
        codes, starts, precise = _taken(asked.codes, chosen), asked.starts[chosen], asked.precise[chosen]
        errors, factors = asked.errors[chosen], asked.factors[chosen]

        def compete_together(first: int, last: int, into: Best) -> Counts:
            board, held = Board.of(GROUP, into.scores.shape[1]), np.zeros(GROUP, np.int64)
            kernels.scan_for_group(
                self.codes, self.scales, first, last, passing, codes, starts, errors, factors, self.vectors, self.ids,
                precise, *into, held, board.near, board.rows, board.room, board.aligned,
            )  # fmt: skip
            return held

        self._answer(numbers, GROUP, tiles, parts, compete_together)

    def _answer(
        self, numbers: Sequence[int], places: int, total: int, parts: int, compete: Callable[..., Counts]
    ) -> None:
        """Let the rows of each part compete for queries, then the best of the parts with one another.

        Args:
            numbers: of the queries.
            places: of a part's answers: as many as queries, or more.
            total: how much there is to share out.
            parts: among how many threads.
            compete: is told where to begin, where to end, and where the best go; returns how many there are.
        """
        k = self.best.scores.shape[1]
        if parts == 1:
            heaps = Best.none(places, k)
            held = np.asarray(compete(0, total, heaps), np.int64)
            kernels.hand_over(*heaps, held, np.asarray(numbers, np.int64), *self.best)
            return
        found = [Best.none(places, k) for _ in range(parts)]
        counted: list[Counts] = [()] * parts

        def part(which: int) -> None:
            counted[which] = compete(total * which // parts, total * (which + 1) // parts, found[which])

        do_all([partial(part, which) for which in range(parts)])
        for place, number in enumerate(numbers):
            best, count = self.best.of(number), 0
            for one, counts in zip(found, counted, strict=True):
                count = kernels.join(*one.of(place), counts[place], *best, count)
            kernels.rank(*best, count)


class Asked(NamedTuple):
    """Queries as the kernels want them; B of each.

    Attributes:
        codes: of shape (B, D), int8.
        starts: first sums, int32.
        factors: what a sum of products of codes is to be multiplied with, float64.
        errors: by how much such a sum times a row's scale may err, float64.
        precise: of shape (B, d), float64: the queries.
    """

    codes: NDArray[np.int8]
    starts: NDArray[np.int32]
    factors: NDArray[np.float64]
    errors: NDArray[np.float64]
    precise: NDArray[np.float64]

    @classmethod
    def of(cls, queries: NDArray[np.float32], worst: NDArray[np.float64], width: int) -> "Asked":
        """Encode queries against rows whose greatest error and length are given."""
        count = len(queries)
        codes, starts, factors = aligned_array((count, width), np.int8), np.empty(count, np.int32), np.empty(count)
        errors = np.empty(count)
        codes[:] = 0
        kernels.encode_queries(queries, worst, codes, starts, factors, errors)
        return cls(codes, starts, factors, errors, queries.astype(np.float64))


class Board:
    """Room for the rows that may still be among the best of some queries."""

    def __init__(self, queries: int, places: int) -> None:
        self.near = np.empty((queries, places), np.float32)
        self.rows = np.empty((queries, places), np.int64)
        self.room = np.empty(places, np.float32)
        self.aligned = aligned_array((queries, TILE), np.float32)

    @classmethod
    def of(cls, queries: int, k: int) -> "Board":
        """A board for K results; a small one is the thread's own, which nobody may keep."""
        places = max(_SMALLEST_BOARD, _BOARD * k)
        if queries > 1 or places > _SMALLEST_BOARD:
            return cls(queries, places)
        board: Board | None = getattr(_own, "board", None)
        if board is None:
            board = _own.board = cls(queries, places)
        return board


_own = threading.local()


def aligned_array(shape: tuple[int, ...], type_: Any) -> NDArray[Any]:
    """An array that begins at a multiple of 64 bytes, so that no row lies on two lines of the cache."""
    size = math.prod(shape) * np.dtype(type_).itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE
    found: NDArray[Any] = raw[start : start + size].view(type_).reshape(shape)
    return found


def _taken(codes: NDArray[np.int8], chosen: Sequence[int]) -> NDArray[np.int8]:
    found = aligned_array((len(chosen), codes.shape[1]), np.int8)
    found[:] = codes[chosen]
    return found


def _shares(narrow: Sequence[tuple[int, RowNumbers]], threads: int) -> Iterator[Sequence[tuple[int, RowNumbers]]]:
    """Cut queries into parts with about as many rows each, two for each thread, and none too large to be copied."""
    most = min(_READ_TOGETHER, sum(len(rows) for _, rows in narrow) // (2 * threads))
    part, total = list[tuple[int, RowNumbers]](), 0
    for member in narrow:
        if part and total + len(member[1]) > most:
            yield part
            part, total = [], 0
        part.append(member)
        total += len(member[1])
    if part:
        yield part


def parts_of(members: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a list into parts of a size; the last may be shorter, and none is empty."""
    for start in range(0, len(members), max(1, size)):
        yield members[start : start + size]


def do_all(work: Sequence[Callable[[], None]]) -> None:
    """Do all of it, by the threads that torch may use if there is more than one thing; an error of any is raised."""
    if len(work) < 2 or threads_to_use() < 2:
        for one in work:
            one()
        return
    for done in [_pool(threads_to_use()).submit(one) for one in work]:
        done.result()


@cache
def _warm() -> None:
    """Compile every loop, or read it from the cache, so that no question has to wait for that."""
    vectors, ids = np.ones((4 * FEW, TILE), np.float32), np.arange(4 * FEW)
    engine = Engine(TILE)
    engine._append(vectors, 0)
    everything, one = Selection.of(np.ones(len(ids), np.bool_)), Selection.of(ids == 0)
    engine.search(vectors[:GROUP], 1, [everything] * GROUP, vectors, ids)
    engine.search(vectors[:2], 1, [everything, one], vectors, ids)
    engine.search(vectors[:GROUP], 1, [Selection(1, rows=one.as_rows())] * GROUP, vectors, ids)
    engine.search(np.resize(vectors, (2 * GROUP, TILE)), 1, [everything] * 2 * GROUP, vectors, ids)
    asked = Asked.of(vectors[:1], engine._worst, engine._codes.shape[1])
    question = _Question(engine._codes, engine._scales, asked, vectors, ids, Best.none(1, 1))
    question.scan([(0, everything.as_bits(len(engine._codes)))], 2)
    question.read(0, one.as_rows(), 2)
    kernels.warm()


def threads_to_use() -> int:
    """As many as torch may use."""
    return torch.get_num_threads()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="retrieval")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads
