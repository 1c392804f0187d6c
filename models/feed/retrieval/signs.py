"""Signs: a row is stored as the signs of some projections of it, and what looks best by signs is scored exactly.

    bits_j(x) = [ (A x)_j >= 0 ]        j = 1 .. H

Two projections A and two comparisons, each of which has its place:

* "oporp", as in LiNR. One permutation p and one vector r of random signs: y = (x * r)[p] is cut into bins, and A x sums
  each bin. The query's signs are compared with the row's by H - 2 popcount(a xor b). H / 8 bytes for a row.
* "rotation", as in RaBitQ. A is a random rotation, or its first rows or columns. With s the row's signs as +1 and -1,

      <q, x>  is about  f <A q, s>,     f = |x|^2 / |A x|_1,

  which is right for q = x and has no bias over rotations. The query keeps its numbers, rounded to four bits u_3 .. u_0:
  sum_j 2^j (H - 2 popcount(u_j xor b)). H / 8 bytes for a row, and two for f.

The P rows with the best scores are scored in float64 and ranked as an exact search does. P follows from the recall that
is wanted, by what was measured (`calibrate`). Where few rows pass the answer is the exact one.

Shapes: N rows, T = N / 16 tiles, D dimension, H bits, W = H / 32 words, B queries, K results, P rows scored again.

Source: LiNR, section 3.2 and V3 of section 3.1; Li & Li 2023, "OPORP: One Permutation + One Random Projection" (signs);
Gao & Long 2024, "RaBitQ" (factor and four-bit query), without its lists and with round-to-nearest for its random
rounding.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from models.feed.retrieval import kernels
from models.feed.retrieval.approximate import Estimated, Question, Recall, measure
from models.feed.retrieval.attributes import Bits, tiles_of
from models.feed.retrieval.engine import Best, Engine, aligned_array, do_all, parts_of, threads_to_use
from models.feed.retrieval.index import RetrievalIndex, Where
from models.feed.retrieval.kernels import TILE, compiled

Method = Literal["oporp", "rotation"]

WORD = 32
"""Bits of a word: a tile holds a word of each of its sixteen rows in one register."""

_MOST = 16
"""Rows scored again for each result, at most; where a recall takes more, the answer is exact."""

_BLOCK = 2**16
_EFFORTS = 64
_BOARD = 4


class Signs:
    """Signs of the rows of an index, for approximate searches; follows what is written to the index.

    Args:
        index: on a CPU.
        method: "oporp" or "rotation".
        bits: signs of a row, H, a multiple of 32. None takes the dimension, rounded up.
        seed: of the projection; the same gives the same codes on the same machine.

    Raises:
        ValueError: the method is unknown, the bits are no multiple of 32, or the index is not on a CPU.
    """

    def __init__(
        self, index: RetrievalIndex, method: Method = "rotation", *, bits: int | None = None, seed: int = 0
    ) -> None:
        bits = WORD * -(-index.dimension // WORD) if bits is None else bits
        if bits < WORD or bits % WORD:
            raise ValueError(f"bits must be a multiple of {WORD}, got {bits}.")
        if method not in _PROJECTIONS:
            raise ValueError(f"method must be one of {sorted(_PROJECTIONS)}, got {method!r}.")
        self.index, self.method, self.bits = index, method, bits
        self.recall: Recall | None = None
        self.projection = _PROJECTIONS[method](bits, index.dimension, seed)
        self._seed, self._following = seed, threading.Lock()
        self._held = self._nothing(index._engine)
        self.search(np.zeros((1, index.dimension), np.float32), 1, candidates=1)  # compiles what is missing

    @property
    def bytes_per_item(self) -> int:
        """What is stored of a row; its vector, which it is scored again by, not counted."""
        return self._held.codes.itemsize * self.bits // WORD + (2 if self.method == "rotation" else 0)

    def calibrate(self, queries: NDArray[np.float32] | None = None, k: int = 100) -> Recall:
        """Measure which recall so many rows scored again give; later searches choose by that.

        Args:
            queries: of shape (Q, D), like those to come; some hundreds. None takes items of the index, each left out of
                its own answer.
            k: the most results that searches will ask for.

        Returns:
            Recall by share of passing rows and number of rows scored again, up to 16 K. It is kept as `recall`.

        Raises:
            ValueError: as in `approximate.measure`.

        Source:
            Ours.
        """
        most = _MOST * k

        def place(question: Question, truth: Best) -> NDArray[np.int64]:
            """Which of its query's rows, best first by signs, each row is."""
            _, near_rows, counts = self._candidates(question, range(len(question.queries)), most)
            places = np.full(truth.rows.shape, most + 1)
            for query, (found, count) in enumerate(zip(near_rows, counts, strict=True)):
                order = np.argsort(found[:count], kind="stable")
                where = np.searchsorted(found[:count], truth.rows[query], sorter=order)
                known = order[np.minimum(where, count - 1)] if count else np.zeros_like(where)
                hit = found[known] == truth.rows[query]
                places[query, hit] = known[hit] + 1
            return places

        efforts = np.unique(np.geomspace(1, most, _EFFORTS).round().astype(np.int64))
        self.recall = measure(self.index, queries, k, efforts, place, self._seed)
        return self.recall

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        where: Where | Sequence[Where] = None,
        *,
        recall: float = 0.95,
        candidates: int | None = None,
    ) -> Estimated:
        """Find the k best passing items of every query, or most of them.

        Args:
            queries: of shape (B, D), float32.
            k: results per query.
            where: as in `RetrievalIndex.search`.
            recall: what the mean recall shall reach, by the lower end of what was measured.
            candidates: score so many rows again, P, whatever was measured; at least k.

        Returns:
            The answers, with as many results as pass, up to k; exact when all rows that pass are scored again.

        Raises:
            FilterError: a filter does not suit the columns.
            ValueError: as in `RetrievalIndex.search` and `Recall.effort`; nothing was measured and `candidates` is not
                given, or is below k; or the index is not on a CPU.

        Source:
            LiNR, section 3.1, V3; the choice of P is ours.
        """
        if candidates is not None and candidates < k:
            raise ValueError(f"candidates must be at least k = {k}, got {candidates}.")
        if candidates is None and self.recall is None:
            raise ValueError("no recall was measured yet; call calibrate, or say how many candidates to score again.")
        question = Question.of(self.index, queries, k, where)
        best, promised = Best.none(len(queries), k), np.ones(len(queries))
        exactly, by_effort = list[int](), dict[int, list[int]]()
        for number in range(len(queries)):
            found: tuple[int, float] | None = (candidates, np.nan) if candidates is not None else None
            if candidates is None and self.recall is not None:
                found = self.recall.effort(k, question.share(number), recall)
            if found is None:
                exactly.append(number)
            else:
                effort, promised[number] = max(k, found[0]), found[1]
                by_effort.setdefault(effort, []).append(number)
        question.answer_exactly(exactly, best)
        for effort, members in by_effort.items():
            _, near_rows, counts = self._candidates(question, members, effort)

            def settle(part: Sequence[tuple[int, NDArray[np.int64]]]) -> None:
                terms = np.empty(question.vectors.shape[1])
                for number, rows in part:
                    precise = question.queries[number].astype(np.float64)
                    held = kernels.settle(
                        rows, len(rows), question.vectors, question.ids, precise, terms, *best.of(number), 0
                    )
                    kernels.rank(*best.of(number), held)

            known = [(number, rows[:count]) for number, rows, count in zip(members, near_rows, counts, strict=True)]
            do_all([partial(settle, part) for part in parts_of(known, -(-len(known) // threads_to_use()))])
        return question.estimated(best, promised)

    def _candidates(
        self, question: Question, members: Sequence[int], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """The best passing rows by signs of some queries: scores, row numbers, best first, and how many there are."""
        held = self._follow(question)
        count = max(1, min(count, max((question.selections[number].count for number in members), default=0)))
        places = max(1024, _BOARD * count)
        near, near_rows = np.empty((len(members), count), np.float32), np.empty((len(members), count), np.int64)
        counts = np.zeros(len(members), np.int64)
        planes = self._planes(question.queries[members])
        shared: dict[int, list[int]] = {}
        for place, number in enumerate(members):
            shared.setdefault(id(question.selections[number]), []).append(place)

        def scan(part: tuple[Sequence[int], Bits]) -> None:
            places_of, bits = part
            scores, rows, room = np.empty(places, np.float32), np.empty(places, np.int64), np.empty(places, np.float32)
            scan_signs(
                np.asarray(places_of), bits, held.codes, held.factors, planes, scores, rows, room, near, near_rows,
                counts,
            )  # fmt: skip

        work = []
        for group in shared.values():
            bits = question.selections[members[group[0]]].as_bits(tiles_of(len(question.vectors)))
            for part in parts_of(group, -(-len(group) // threads_to_use())):
                work.append(partial(scan, (part, bits)))
        do_all(work)
        return near, near_rows, counts

    def _planes(self, queries: NDArray[np.float32]) -> NDArray[np.uint32]:
        """Queries as words of shape (B, J, W): their signs, or the four bits of their rounded projections."""
        projected = queries @ self.projection.T
        if self.method == "oporp":
            return _words(projected >= 0)[:, None]
        largest = np.abs(projected).max(axis=1, keepdims=True)
        steps = np.floor((projected / np.where(largest > 0, largest, 1) + 1) * 8).clip(0, 15).astype(np.int64)
        return np.stack([_words((steps >> plane & 1).astype(np.bool_)) for plane in range(4)], axis=1)

    def _follow(self, question: Question) -> "_Held":
        """The codes of all rows that a question sees; the missing ones are made."""
        with self._following:
            held = self._held
            if held.engine is not question.engine:
                held = self._nothing(question.engine)
            rows = len(question.vectors)
            if held.rows < rows:
                if not held.rows:
                    held = held._replace(centre=question.vectors.mean(axis=0, dtype=np.float64).astype(np.float32))
                held = held.roomy(rows)
                for start in range(held.rows, rows, _BLOCK):
                    block = question.vectors[start : min(rows, start + _BLOCK)]
                    held.write(start, *self._encoded(block, held.centre))
                held = held._replace(rows=rows)
            self._held = held
        return held

    def _nothing(self, engine: Engine) -> "_Held":
        codes, factors = aligned_array((0, self.bits // WORD, TILE), np.uint32), aligned_array((0,), np.uint16)
        centre = np.zeros(self.index.dimension, np.float32)
        return _Held(engine, 0, centre, codes, factors, self.method == "rotation")

    def _encoded(
        self, vectors: NDArray[np.float32], centre: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """Words (M, W) and factors (M,) of rows; a factor is the upper half of a float32."""
        if self.method == "oporp":
            return _words(vectors @ self.projection.T >= 0), np.zeros(0, np.uint16)
        rest = vectors - centre  # the query's product with the centre is the same for all rows
        projected = rest @ self.projection.T
        spread = np.abs(projected).sum(axis=1)
        factors = np.square(rest).sum(axis=1) / np.where(spread > 0, spread, 1)
        return _words(projected >= 0), ((factors.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


class _Held(NamedTuple):
    """Codes at one moment. Longer ones begin alike, so whoever holds them may go on reading.

    Attributes:
        engine: of the index whose rows these are.
        rows: how many have codes.
        centre: of shape (D,), float32: what is taken off the rows.
        codes: of shape (T, W, 16), uint32.
        factors: of shape (16 T,), uint16; empty unless they are scaled.
        scaled: whether rows have factors.
    """

    engine: Engine
    rows: int
    centre: NDArray[np.float32]
    codes: NDArray[np.uint32]
    factors: NDArray[np.uint16]
    scaled: bool

    def roomy(self, rows: int) -> "_Held":
        """The same with room for so many rows."""
        if rows <= TILE * len(self.codes):
            return self
        tiles = tiles_of(max(rows, 2 * self.rows))
        codes = aligned_array((tiles, *self.codes.shape[1:]), np.uint32)
        factors = aligned_array((TILE * tiles * self.scaled,), np.uint16)
        codes[: len(self.codes)], factors[: len(self.factors)] = self.codes, self.factors
        codes[len(self.codes) :], factors[len(self.factors) :] = 0, 0
        return self._replace(codes=codes, factors=factors)

    def write(self, start: int, words: NDArray[np.uint32], factors: NDArray[np.uint16]) -> None:
        """Write rows from a number on."""
        rows = np.arange(start, start + len(words))
        self.codes[rows >> 4, :, rows & 15] = words
        self.factors[start : start + len(factors)] = factors


def _words(signs: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Signs (M, H) as words (M, W): bit i of word w is sign 32 w + i."""
    return np.packbits(signs, axis=1, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def one_permutation(bits: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """The matrix of OPORP: each row adds the numbers of one bin, with random signs.

    Args:
        bits: how many bins, H.
        dimension: D.
        seed: of permutation and signs.

    Returns:
        Of shape (H, D). Bins are as equal as can be. More bits than numbers take several permutations, each with about
        as many bins as the others.

    Source:
        Li & Li 2023; LiNR, section 3.2. There the dimension is a multiple of the bins, and what is done with more bits
        than numbers is not said: the paper has 512 bits of 128 numbers.
    """
    random = np.random.default_rng(seed)
    matrix = np.zeros((bits, dimension), np.float32)
    for part in np.array_split(np.arange(bits), -(-bits // dimension)):
        permutation, sign = random.permutation(dimension), random.choice([-1, 1], dimension)
        for row, places in zip(part, np.array_split(permutation, len(part)), strict=True):
            matrix[row, places] = sign[places]
    return matrix


def rotation(bits: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """A random rotation: of D numbers, or of D numbers and as many zeros as there are bits more.

    Args:
        bits: H.
        dimension: D.
        seed: of the rotation.

    Returns:
        Of shape (H, D): its rows are orthonormal when H <= D, its columns when H >= D.

    Source:
        Gao & Long 2024, section 3.1.2; by the QR decomposition of a Gaussian matrix (Stewart 1980).
    """
    whole = max(bits, dimension)
    found, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((whole, whole)))
    matrix: NDArray[np.float32] = (found * np.sign(np.diag(upper)))[:bits, :dimension].astype(np.float32)
    return matrix


_PROJECTIONS: dict[str, Callable[[int, int, int], NDArray[np.float32]]] = {
    "oporp": one_permutation,
    "rotation": rotation,
}


# --- the compiled loop ------------------------------------------------------------------------------------------------


def _tile_kernel(planes: int) -> Any:
    """Score one tile by its words and compare with the floor; rows have factors when a query has several planes."""
    lanes, halves = kernels._LANES, ir.VectorType(kernels._I16, TILE)

    @kernels._intrinsic
    def kernel(typingctx: Any, codes: Any, words: Any, query: Any, factors: Any, floor: Any, scores: Any) -> Any:
        """Addresses of the tile's words, their number, addresses of the query's planes and the rows' factors, what a
        score must be above, and the address to write scores to. Returns a bit for each row above it.
        """  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes, words, query, factors, floor, scores = arguments
            count = builder.module.declare_intrinsic("llvm.ctpop.v16i32", (), ir.FunctionType(lanes, [lanes]))
            entry, loop = builder.block, builder.append_basic_block("words")
            done = builder.append_basic_block("compare")
            builder.branch(loop)
            builder.position_at_end(loop)
            word, total = builder.phi(kernels._I64), builder.phi(lanes)
            word.add_incoming(ir.Constant(kernels._I64, 0), entry)
            total.add_incoming(ir.Constant(lanes, [0] * TILE), entry)
            row = kernels._at(builder, builder.add(codes, builder.shl(word, ir.Constant(kernels._I64, 6))), lanes)
            grown = builder.add(total, ir.Constant(lanes, [WORD * (2**planes - 1)] * TILE))
            for plane in range(planes):
                place = builder.add(builder.mul(words, ir.Constant(kernels._I64, plane)), word)
                place = builder.add(query, builder.shl(place, ir.Constant(kernels._I64, 2)))
                asked = kernels._splat(builder, kernels._at(builder, place, kernels._I32), lanes)
                differing = builder.call(count, [builder.xor(row, asked)])
                grown = builder.sub(grown, builder.shl(differing, ir.Constant(lanes, [plane + 1] * TILE)))
            after = builder.add(word, ir.Constant(kernels._I64, 1))
            word.add_incoming(after, loop)
            total.add_incoming(grown, loop)
            builder.cbranch(builder.icmp_signed("<", after, words), loop, done)
            builder.position_at_end(done)
            score = builder.sitofp(grown, kernels._FLOATS)
            if planes > 1:
                upper = builder.zext(kernels._at(builder, factors, halves), lanes)
                upper = builder.shl(upper, ir.Constant(lanes, [16] * TILE))
                score = builder.fmul(score, builder.bitcast(upper, kernels._FLOATS))
            kernels._put(builder, score, scores)
            above = builder.fcmp_ordered(">", score, kernels._splat(builder, floor, kernels._FLOATS))
            return builder.zext(builder.bitcast(above, kernels._I16), kernels._I32)

        return types.uint32(*(types.int64,) * 4, types.float32, types.int64), generate

    return kernel


_by_signs = _tile_kernel(1)
_by_estimate = _tile_kernel(4)


@compiled
def _shrunk(near: Any, near_rows: Any, count: int, most: int, room: Any) -> Any:
    """Keep the best, of equal ones the first; returns the worst score that is left. Order stays."""
    floor = kernels._kth(near, count, most, room)
    spare = most
    for i in range(count):
        if near[i] > floor:
            spare -= 1
    kept = 0
    for i in range(count):
        if near[i] > floor or (near[i] == floor and spare > 0):
            if near[i] == floor:
                spare -= 1
            near[kept], near_rows[kept] = near[i], near_rows[i]
            kept += 1
    return floor


@compiled
def scan_signs(
    members: Any, bits: Any, codes: Any, factors: Any, planes: Any, scores: Any, rows: Any, room: Any, near: Any,
    near_rows: Any, counts: Any,
) -> None:  # fmt: skip
    """Find the best passing rows by signs, by (score descending, row ascending), for one query after another.

    Args:
        members: int64: places of the queries; all share a filter.
        bits: of shape (T,), uint16: the passing rows.
        codes: of shape (T', W, 16), uint32, with T' >= T.
        factors: of shape (16 T',), uint16.
        planes: of shape (B, J, W), uint32: J = 1 compares signs alone, J = 4 estimates products.
        scores: of shape (C,), float32: the board.
        rows: of shape (C,), int64.
        room: of shape (C,), float32.
        near: of shape (B, P), float32: takes the scores, best first.
        near_rows: of shape (B, P), int64.
        counts: of shape (B,), int64: takes how many there are.
    """
    words, most = np.int64(codes.shape[1]), near.shape[1]
    line = np.empty(16, np.float32)
    line_base = line.ctypes.data
    base, factor_base, plane_base = codes.ctypes.data, factors.ctypes.data, planes.ctypes.data
    for query in members:
        asked = plane_base + query * planes.shape[1] * words * 4
        floor, count = np.float32(-np.inf), 0
        for tile in range(len(bits)):
            passing = np.uint32(bits[tile])
            if passing == 0:
                continue
            place, factor = base + tile * words * 64, factor_base + tile * 32
            if planes.shape[1] == 1:
                passing &= _by_signs(place, words, asked, factor, floor, line_base)
            else:
                passing &= _by_estimate(place, words, asked, factor, floor, line_base)
            while passing:
                lane = kernels._lowest(passing)
                passing &= passing - np.uint32(1)
                if not line[lane] > floor:  # risen within this tile
                    continue
                scores[count], rows[count] = line[lane], tile * 16 + lane
                count += 1
                if count == len(scores):
                    floor = _shrunk(scores, rows, count, most, room)
                    count = most
        if count > most:
            _shrunk(scores, rows, count, most, room)
            count = most
        for i in range(count // 2 - 1, -1, -1):
            _sink_pair(scores, rows, count, i)
        counts[query] = count
        for i in range(count - 1, -1, -1):
            near[query, i], near_rows[query, i] = scores[0], rows[0]
            scores[0], rows[0] = scores[i], rows[i]
            _sink_pair(scores, rows, i, 0)


@compiled
def _sink_pair(scores: Any, rows: Any, count: int, place: int) -> None:
    kernels._sink(scores, rows, rows, count, place)
