"""The compiled loops of an exact search: bytes decide what may matter, float64 decides what does.

Rows are stored twice: as float32, and as a byte for each number. Sixteen rows are a tile, and a query's bytes are
multiplied with a tile's by an instruction that adds four products in each of sixteen lanes (AVX-512 VNNI; other
processors take the same steps one by one, with the same integers). For one query a lane holds a part of a row's sum,
and the parts of sixteen rows are added crosswise. For several a tile is first turned, so that a lane holds a row.

A query keeps a board: rows that may still be among its K best, by an approximate score that errs by at most E. When the
board is full, a row whose approximate score is below (K-th best on the board) - 2 E is dropped, for K rows are certain
to be better; the threshold rises, and most later rows are compared with it and forgotten within the loop. What is left
is scored in float64, in the order of `scan.exact_scores`, and ranked by (score descending, id ascending). So the answer
has the same bits as the one of `scan`, whatever was dropped.

Shapes: N rows, T = N / 16 tiles, d dimension, D the same padded to a multiple of 64, G queries of a group, K results,
C places on a board.

Source: the bound and the boards are ours; LiNR (section 3.2) scores by codes and re-scores, without a bound.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba import types

TILE = 16
"""Rows of a tile: 32-bit lanes of a 512-bit register."""

LINE = 64
"""Bytes of a register, and of a line of the cache: rows of codes are padded to that."""

GROUP = 8
"""Queries that a tile is held for: their eight sums leave registers for the rest."""

_AHEAD = 12
"""Rows read here and there are asked for so many rows before they are needed: as many as a core waits for at once."""

_RUN = 64
"""Tiles that are passed over together or not at all: leaving out tiles here and there takes longer than reading all,
because memory is read ahead in order (1.9 times as long at a tenth passing, D = 64)."""

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")
# typed as what they are to their readers: mypy knows nothing of numba
_intrinsic: Callable[..., Any] = numba.extending.intrinsic
_FEATURES = llvmlite.binding.get_host_cpu_features()
_VNNI = bool(_FEATURES.get("avx512vnni")) and bool(_FEATURES.get("avx512bw"))
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_LANES = ir.VectorType(_I32, TILE)
_FLOATS = ir.VectorType(_FLOAT, TILE)
_BYTES = ir.VectorType(_I8, 4 * TILE)


# --- instructions -----------------------------------------------------------------------------------------------------


def _splat(builder: Any, value: Any, type_: Any) -> Any:
    undefined = ir.Constant(type_, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_LANES, [0] * TILE))


def _at(builder: Any, address: Any, type_: Any) -> Any:
    """What is at an address; one that is a multiple of nothing costs time and nothing else."""
    return builder.load(builder.inttoptr(address, type_.as_pointer()), align=1)


def _put(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _four_products(builder: Any, total: Any, codes: Any, query: Any) -> Any:
    """Add, in each lane, four products of an unsigned byte of a row and a signed byte of the query."""
    if _VNNI:
        multiply = builder.module.declare_intrinsic(
            "llvm.x86.avx512.vpdpbusd.512", (), ir.FunctionType(_LANES, [_LANES, _BYTES, _BYTES])
        )
        return builder.call(multiply, [total, builder.bitcast(codes, _BYTES), builder.bitcast(query, _BYTES)])
    for byte in range(4):
        left = ir.Constant(_LANES, [24 - 8 * byte] * TILE)
        code = builder.lshr(builder.shl(codes, left), ir.Constant(_LANES, [24] * TILE))
        factor = builder.ashr(builder.shl(query, left), ir.Constant(_LANES, [24] * TILE))
        total = builder.add(total, builder.mul(code, factor))
    return total


def _shuffled(builder: Any, first: Any, second: Any, lanes: Any) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(_LANES, list(lanes)))


def _crosswise(builder: Any, parts: list[Any]) -> Any:
    """From sixteen vectors the vector of their sums: neighbours are added, two vectors become one, four times over."""
    while len(parts) > 1:
        parts = [
            builder.add(
                _shuffled(builder, first, second, range(0, 2 * TILE, 2)),
                _shuffled(builder, first, second, range(1, 2 * TILE, 2)),
            )
            for first, second in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Rows become columns: lane i of vector j is lane j of vector i."""
    for distance in (8, 4, 2, 1):
        low = [lane if not lane & distance else lane - distance + TILE for lane in range(TILE)]
        high = [lane + distance if not lane & distance else lane + TILE for lane in range(TILE)]
        turned = list(rows)
        for first in range(TILE):
            if not first & distance:
                pair = rows[first], rows[first + distance]
                turned[first] = _shuffled(builder, *pair, low)
                turned[first + distance] = _shuffled(builder, *pair, high)
        rows = turned
    return rows


def _tile_kernel(queries: int) -> Any:
    """Score one tile for some queries and compare with their floors.

    Args:
        queries: how many.
    """

    @_intrinsic
    def kernel(
        typingctx: Any,
        codes: Any,
        scales: Any,
        query: Any,
        starts: Any,
        width: Any,
        floors: Any,
        scores: Any,
        bits: Any,
    ) -> Any:
        """Score a tile.

        Args:
            codes: address of the tile's bytes.
            scales: address of its rows' scales.
            query: address of the queries' bytes.
            starts: address of their first sums.
            width: bytes of a row, D.
            floors: address of what a score must reach.
            scores: address to write scores to.
            bits: address of the passing rows; those that reach the floor are left.

        Returns:
            Whether any are left.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes, scales, query, starts, width, floors, scores, bits = arguments
            entry, loop = builder.block, builder.append_basic_block("lines")
            done = builder.append_basic_block("compare")
            rows = [builder.add(codes, builder.mul(width, ir.Constant(_I64, row))) for row in range(TILE)]
            asked = [builder.add(query, builder.mul(width, ir.Constant(_I64, q))) for q in range(queries)]
            builder.branch(loop)
            builder.position_at_end(loop)
            step = builder.phi(_I64)
            step.add_incoming(ir.Constant(_I64, 0), entry)
            sums = [builder.phi(_LANES) for _ in range(TILE if queries == 1 else queries)]
            for one in sums:
                one.add_incoming(ir.Constant(_LANES, [0] * TILE), entry)
            held = [_at(builder, builder.add(row, step), _LANES) for row in rows]
            grown = list[Any](sums)
            if queries == 1:
                line = _at(builder, builder.add(asked[0], step), _LANES)
                grown = [_four_products(builder, one, row, line) for one, row in zip(sums, held, strict=True)]
            else:
                for quad, column in enumerate(_turned(builder, held)):
                    offset = builder.add(step, ir.Constant(_I64, 4 * quad))
                    for q in range(queries):
                        four = _splat(builder, _at(builder, builder.add(asked[q], offset), _I32), _LANES)
                        grown[q] = _four_products(builder, grown[q], column, four)
            after = builder.add(step, ir.Constant(_I64, LINE))
            step.add_incoming(after, loop)
            for one, new in zip(sums, grown, strict=True):
                one.add_incoming(new, loop)
            builder.cbranch(builder.icmp_signed("<", after, width), loop, done)
            builder.position_at_end(done)
            totals = [_crosswise(builder, grown)] if queries == 1 else grown
            scale = _at(builder, scales, _FLOATS)
            found = ir.Constant(_I16, 0)
            for q, total in enumerate(totals):
                start = _splat(builder, _at(builder, builder.add(starts, ir.Constant(_I64, 4 * q)), _I32), _LANES)
                score = builder.fmul(builder.sitofp(builder.add(total, start), _FLOATS), scale)
                floor = _at(builder, builder.add(floors, ir.Constant(_I64, 4 * q)), _FLOAT)
                above = builder.bitcast(builder.fcmp_ordered(">=", score, _splat(builder, floor, _FLOATS)), _I16)
                place = builder.add(bits, ir.Constant(_I64, 2 * q))
                left = builder.and_(above, _at(builder, place, _I16))
                _put(builder, left, place)
                _put(builder, score, builder.add(scores, ir.Constant(_I64, 4 * TILE * q)))
                found = builder.or_(found, left)
            return builder.zext(found, _I32)

        return types.uint32(*(types.int64,) * 8), generate

    return kernel


_tile_for_one = _tile_kernel(1)
_tile_for_group = _tile_kernel(GROUP)


@_intrinsic
def _row_sum(typingctx: Any, codes: Any, query: Any, width: Any) -> Any:
    """Sum of the products of a row's bytes, at an address, with a query's."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, query, width = arguments
        entry, loop = builder.block, builder.append_basic_block("lines")
        done = builder.append_basic_block("add")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, total = builder.phi(_I64), builder.phi(_LANES)
        step.add_incoming(ir.Constant(_I64, 0), entry)
        total.add_incoming(ir.Constant(_LANES, [0] * TILE), entry)
        row, line = (_at(builder, builder.add(address, step), _LANES) for address in (codes, query))
        grown, after = _four_products(builder, total, row, line), builder.add(step, ir.Constant(_I64, LINE))
        step.add_incoming(after, loop)
        total.add_incoming(grown, loop)
        builder.cbranch(builder.icmp_signed("<", after, width), loop, done)
        builder.position_at_end(done)
        add = builder.module.declare_intrinsic("llvm.vector.reduce.add.v16i32", (), ir.FunctionType(_I32, [_LANES]))
        return builder.call(add, [grown])

    return types.int32(types.int64, types.int64, types.int64), generate


@_intrinsic
def _fetch(typingctx: Any, address: Any) -> Any:
    """Ask the memory for the line at an address, which will be read soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _I8.as_pointer())
        types_ = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        ask = builder.module.declare_intrinsic("llvm.prefetch.p0", (), types_)
        builder.call(ask, [pointer, *(ir.Constant(_I32, number) for number in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _between_kernel(kind: Any, numba_type: Any) -> Any:
    """Which of sixteen values lie between two bounds, both included: one bit each."""
    vector = ir.VectorType(kind, TILE)

    @_intrinsic
    def kernel(typingctx: Any, address: Any, low: Any, high: Any) -> Any:
        """Address of the values, lowest and highest."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address, low, high = arguments
            values = _at(builder, address, vector)
            compare = builder.icmp_signed if isinstance(kind, ir.IntType) else builder.fcmp_ordered
            first, last = (_splat(builder, bound, vector) for bound in (low, high))
            inside = builder.and_(compare(">=", values, first), compare("<=", values, last))
            return builder.bitcast(inside, _I16)

        return types.uint16(types.int64, numba_type, numba_type), generate

    return kernel


_between_int32 = _between_kernel(_I32, types.int32)
_between_int64 = _between_kernel(_I64, types.int64)
_between_float64 = _between_kernel(ir.DoubleType(), types.float64)


@compiled
def _between_int32_values(values: Any, tiles: int, low: Any, high: Any, bits: Any) -> None:
    address = values.ctypes.data
    for tile in range(tiles):
        bits[tile] = _between_int32(address + tile * 64, np.int32(low), np.int32(high))


@compiled
def _between_int64_values(values: Any, tiles: int, low: Any, high: Any, bits: Any) -> None:
    address = values.ctypes.data
    for tile in range(tiles):
        bits[tile] = _between_int64(address + tile * 128, np.int64(low), np.int64(high))


@compiled
def _between_float64_values(values: Any, tiles: int, low: Any, high: Any, bits: Any) -> None:
    address = values.ctypes.data
    for tile in range(tiles):
        bits[tile] = _between_float64(address + tile * 128, np.float64(low), np.float64(high))


BETWEEN: dict[str, Callable[..., None]] = {
    "int32": _between_int32_values,
    "int64": _between_int64_values,
    "float64": _between_float64_values,
}
"""By type of the values: write, for so many tiles, one bit for each value that lies from the lowest to the highest."""


@compiled
def place(values: Any, order: Any, first: int, value: Any, after: bool) -> int:
    """Where in an order by value, from `first` on, a value would stand: before its equals, or after them."""
    last = len(order)
    while first < last:
        middle = (first + last) >> 1
        found = values[order[middle]]
        if found < value or (after and found == value):
            first = middle + 1
        else:
            last = middle
    return first


@compiled
def mark(rows: Any, bits: Any) -> None:
    """Set the bits of some rows."""
    for row in rows:
        bits[row >> 4] |= np.uint16(1 << (row & 15))


@compiled
def keep(rows: Any, live: Any, kept: Any) -> int:
    """Write the live ones of some rows, in their order; returns how many there are."""
    count = np.uint64(0)  # unsigned numbers need not be looked at for negative ones
    for i in range(len(rows)):
        kept[count] = rows[i]
        count += np.uint64(live[np.uint64(rows[i])])
    return int(count)


@compiled
def rows_of(bits: Any, rows: Any) -> None:
    """Write the numbers of the rows whose bits are set, ascending."""
    count = 0
    for tile in range(len(bits)):
        left = np.uint32(bits[tile])
        while left:
            rows[count] = tile * 16 + _lowest(left)
            left &= left - np.uint32(1)
            count += 1


@_intrinsic
def _lowest(typingctx: Any, bits: Any) -> Any:
    """Number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zeros = builder.module.declare_intrinsic("llvm.cttz", [_I32], ir.FunctionType(_I32, [_I32, ir.IntType(1)]))
        return builder.zext(builder.call(zeros, [arguments[0], ir.Constant(ir.IntType(1), 1)]), _I64)

    return types.int64(types.uint32), generate


# --- codes ------------------------------------------------------------------------------------------------------------


@compiled
def encode(vectors: Any, start: int, codes: Any, scales: Any, errors: Any) -> None:
    """Write the bytes of some rows.

    A row x becomes scale * code, with scale = max |x_i| / 127 and codes from -127 to 127, stored with 128 added.

    Args:
        vectors: of shape (M, d), float32.
        start: number of the first row.
        codes: of shape (16 T, D), uint8; dimensions beyond d hold 128.
        scales: of shape (16 T,), float32.
        errors: of shape (2,), float64; raised to the greatest |x - scale code| and the greatest |x| seen.
    """
    dimension = vectors.shape[1]
    for number in range(len(vectors)):
        row = start + number
        largest = np.float32(0.0)
        for i in range(dimension):
            largest = max(largest, abs(vectors[number, i]))
        scale = largest / np.float32(127.0)
        if scale > 0 and not np.isfinite(np.float32(1.0) / scale):
            scale = np.float32(0.0)  # the numbers are too small to be divided: all of the row is error
        scales[row] = scale
        missed, length = 0.0, 0.0
        for i in range(dimension):
            value = vectors[number, i]
            code = np.int32(0)
            if scale > 0:
                code = np.int32(np.rint(value / scale))
            codes[row, i] = np.uint8(code + 128)
            rest = np.float64(value) - np.float64(scale) * code
            missed += rest * rest
            length += np.float64(value) * np.float64(value)
        errors[0] = max(errors[0], np.sqrt(missed))
        errors[1] = max(errors[1], np.sqrt(length))


@compiled
def encode_queries(queries: Any, worst: Any, codes: Any, starts: Any, factors: Any, errors: Any) -> None:
    """Write the bytes of queries, and by how much a score of bytes may err.

    With x = s c + r for a row and q = f b + e for a query, x . q - s f (c . b) = s c . e + r . q, and |s c| is at most
    |x| + |r|. So the score of codes errs by at most (|x| + |r|) |e| + |r| |q|; on top comes its rounding to float32, at
    most four roundings of a number of at most (|x| + |r|) (|q| + |e|).

    Args:
        queries: of shape (G, d), float32.
        worst: of shape (2,), float64: the greatest |r| and the greatest |x|, as `encode` gives them.
        codes: of shape (G, D), int8, zeroed.
        starts: of shape (G,), int32: takes the 128 in the rows' codes away again.
        factors: of shape (G,), float64: f.
        errors: of shape (G,), float64: the bound, in units of f.
    """
    reach = worst[0] + worst[1]
    for number in range(len(queries)):
        largest = 0.0
        for value in queries[number]:
            largest = max(largest, abs(np.float64(value)))
        factor = largest / 127.0
        if not factor > 0:
            factor = 1.0
        total = np.int32(0)
        missed, length = 0.0, 0.0
        for i in range(queries.shape[1]):
            value = np.float64(queries[number, i])
            code = np.int32(np.rint(value / factor))
            codes[number, i] = np.int8(code)
            total += code
            rest = value - factor * code
            missed += rest * rest
            length += value * value
        starts[number] = -128 * total
        factors[number] = factor
        missed, length = np.sqrt(missed), np.sqrt(length)
        errors[number] = 1.001 * (reach * missed + worst[0] * length) + 2.0**-21 * reach * (length + missed)
        errors[number] /= factor


# --- boards -----------------------------------------------------------------------------------------------------------


@compiled
def _exact(row: Any, query: Any, terms: Any) -> Any:
    """Dot product in float64, added pairwise as in `scan.exact_scores`, to the bit."""
    left = len(row)
    for i in range(left):
        terms[i] = np.float64(row[i]) * query[i]
    while left > 1:
        half = (left + 1) // 2
        for i in range(left - half):
            terms[i] += terms[half + i]
        if left & 1:
            terms[half - 1] += 0.0
        left = half
    return terms[0]


@compiled
def _kth(values: Any, count: int, k: int, room: Any) -> Any:
    """The k-th largest of the first values; `room` is overwritten."""
    for i in range(count):
        room[i] = values[i]
    low, high, wanted = 0, count - 1, k - 1
    while low < high:
        pivot = room[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while room[i] > pivot:
                i += 1
            while room[j] < pivot:
                j -= 1
            if i <= j:
                room[i], room[j] = room[j], room[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return room[wanted]


@compiled
def _worse(score: float, identity: int, other: float, other_identity: int) -> bool:
    return score < other or (score == other and identity > other_identity)


@compiled
def _sink(scores: Any, ids: Any, rows: Any, count: int, place: int) -> None:
    """Restore the order of a heap whose worst is on top."""
    score, identity, row = scores[place], ids[place], rows[place]
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and _worse(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if not _worse(scores[child], ids[child], score, identity):
            break
        scores[place], ids[place], rows[place] = scores[child], ids[child], rows[child]
        place = child
    scores[place], ids[place], rows[place] = score, identity, row


@compiled
def _enter(scores: Any, ids: Any, rows: Any, count: int, score: float, identity: int, row: int) -> int:
    """Let a row into the heap of the best if there is room or it is better than the worst; returns their number."""
    k = len(scores)
    if count < k:
        place = count
        while place > 0:
            parent = (place - 1) >> 1
            if not _worse(score, identity, scores[parent], ids[parent]):
                break
            scores[place], ids[place], rows[place] = scores[parent], ids[parent], rows[parent]
            place = parent
        scores[place], ids[place], rows[place] = score, identity, row
        return count + 1
    if _worse(scores[0], ids[0], score, identity):
        scores[0], ids[0], rows[0] = score, identity, row
        _sink(scores, ids, rows, k, 0)
    return count


@compiled
def settle(
    near_rows: Any, count: int, vectors: Any, all_ids: Any, query: Any, terms: Any, scores: Any, ids: Any, rows: Any,
    held: int,
) -> Any:  # fmt: skip
    """Score the rows of a board in float64 and let them compete; returns how many are held."""
    base, width = vectors.ctypes.data, np.int64(4 * vectors.shape[1])
    for i in range(count):
        if i + _AHEAD < count:
            later = base + near_rows[i + _AHEAD] * width
            for line in range(0, width, LINE):
                _fetch(later + line)
        row = near_rows[i]
        held = _enter(scores, ids, rows, held, _exact(vectors[row], query, terms), all_ids[row], row)
    return held


@compiled
def join(
    from_scores: Any, from_ids: Any, from_rows: Any, count: int, scores: Any, ids: Any, rows: Any, held: int
) -> int:
    """Let the held rows of one heap compete in another; returns how many that holds."""
    for i in range(count):
        held = _enter(scores, ids, rows, held, from_scores[i], from_ids[i], from_rows[i])
    return held


@compiled
def rank(scores: Any, ids: Any, rows: Any, count: int) -> None:
    """Turn a heap into a list, best first."""
    for end in range(count - 1, 0, -1):
        scores[0], scores[end] = scores[end], scores[0]
        ids[0], ids[end] = ids[end], ids[0]
        rows[0], rows[end] = rows[end], rows[0]
        _sink(scores, ids, rows, end, 0)


@compiled
def hand_over(
    from_scores: Any, from_ids: Any, from_rows: Any, held: Any, queries: Any, scores: Any, ids: Any, rows: Any
) -> None:
    """Copy heaps to where the answers of their queries go, and turn them into lists."""
    for place in range(len(queries)):
        query = queries[place]
        for i in range(held[place]):
            scores[query, i], ids[query, i] = from_scores[place, i], from_ids[place, i]
            rows[query, i] = from_rows[place, i]
        rank(scores[query], ids[query], rows[query], held[place])


@compiled
def _lowered(value: float) -> Any:
    """A float32 that is not above a float64."""
    return np.float32(value - 2e-7 * abs(value) - 1e-37)


@compiled
def _tightened(near: Any, near_rows: Any, count: int, k: int, error: float, floor: float, room: Any) -> Any:
    """Drop what cannot be among the k best any more; returns how many are left, and the floor from now on."""
    if count > k:
        floor = max(floor, _lowered(np.float64(_kth(near, count, k, room)) - 2 * error))
    kept = 0
    for i in range(count):
        if near[i] >= floor:
            near[kept], near_rows[kept] = near[i], near_rows[i]
            kept += 1
    return kept, floor


@compiled
def _made_room(
    near: Any, near_rows: Any, count: int, error: float, factor: float, floor: float, room: Any, vectors: Any,
    all_ids: Any, query: Any, terms: Any, scores: Any, ids: Any, rows: Any, held: int,
) -> Any:  # fmt: skip
    """Make room on a board that is full: by dropping, and if that is not enough by scoring all of it exactly."""
    k = len(scores)
    count, floor = _tightened(near, near_rows, count, k, error, floor, room)
    if 2 * count > len(near):
        held = settle(near_rows, count, vectors, all_ids, query, terms, scores, ids, rows, held)
        count = 0
        if held == k:
            floor = max(floor, _lowered(scores[0] / factor - error))
    return count, floor, held


@compiled
def _any_asked_for(bits: Any) -> bool:
    """Whether any row of some tiles passes for any query."""
    found = np.uint16(0)
    for one in bits.flat:
        found |= one
    return bool(found)


@compiled
def scan_for_one(
    codes: Any, scales: Any, first: int, last: int, bits: Any, query_codes: Any, starts: Any, error: float,
    factor: float, vectors: Any, all_ids: Any, query: Any, scores: Any, ids: Any, rows: Any, near: Any, near_rows: Any,
    room: Any, aligned: Any,
) -> Any:  # fmt: skip
    """Let the passing rows of tiles compete for one query.

    Args:
        codes: of shape (16 T, D), uint8.
        scales: of shape (16 T,), float32.
        first: number of the first tile.
        last: number behind the last.
        bits: of shape (T,), uint16: the passing rows.
        query_codes: of shape (1, D), int8.
        starts: of shape (1,), int32.
        error: by how much an approximate score, in units of `factor`, may err.
        factor: what approximate scores are to be multiplied with.
        vectors: of shape (N, d), float32.
        all_ids: of shape (N,), int64.
        query: of shape (d,), float64.
        scores: of shape (K,), float64: takes the best, worst on top.
        ids: of shape (K,), int64.
        rows: of shape (K,), int64.
        near: of shape (C,), float32.
        near_rows: of shape (C,), int64.
        room: of shape (C,), float32.
        aligned: of shape (16,), float32.

    Returns:
        How many are held.
    """
    width = np.int64(codes.shape[1])
    base, scale_base, query_base = codes.ctypes.data, scales.ctypes.data, query_codes.ctypes.data
    starts_base, aligned_base = starts.ctypes.data, aligned.ctypes.data
    floors, left = np.full(1, -np.inf, np.float32), np.zeros(1, np.uint16)
    floors_base, left_base = floors.ctypes.data, left.ctypes.data
    terms = np.empty(vectors.shape[1], np.float64)
    count, held = 0, 0
    for start in range(first, last, _RUN):
        end = min(start + _RUN, last)
        if not _any_asked_for(bits[start:end]):
            continue
        for tile in range(start, end):
            left[0] = bits[tile]
            if not _tile_for_one(
                base + tile * 16 * width, scale_base + tile * 64, query_base, starts_base, width, floors_base,
                aligned_base, left_base,
            ):  # fmt: skip
                continue
            found = np.uint32(left[0])
            while found:
                lane = _lowest(found)
                found &= found - np.uint32(1)
                if aligned[lane] < floors[0]:  # risen within this tile
                    continue
                near[count], near_rows[count] = aligned[lane], tile * 16 + lane
                count += 1
                if count == len(near):
                    count, floors[0], held = _made_room(
                        near, near_rows, count, error, factor, floors[0], room, vectors, all_ids, query, terms, scores,
                        ids, rows, held,
                    )  # fmt: skip
    count, floors[0] = _tightened(near, near_rows, count, len(scores), error, floors[0], room)
    return settle(near_rows, count, vectors, all_ids, query, terms, scores, ids, rows, held)


@compiled
def scan_for_group(
    codes: Any, scales: Any, first: int, last: int, bits: Any, query_codes: Any, starts: Any, errors: Any, factors: Any,
    vectors: Any, all_ids: Any, queries: Any, scores: Any, ids: Any, rows: Any, held: Any, near: Any, near_rows: Any,
    room: Any, aligned: Any,
) -> None:  # fmt: skip
    """`scan_for_one` for GROUP queries: each array has a leading dimension, and `held` is written.

    `bits` is of shape (GROUP, T), or (1, T) for a filter that all share.
    """
    width, shared = np.int64(codes.shape[1]), len(bits) == 1
    base, scale_base, query_base = codes.ctypes.data, scales.ctypes.data, query_codes.ctypes.data
    starts_base, aligned_base = starts.ctypes.data, aligned.ctypes.data
    floors, left = np.full(GROUP, -np.inf, np.float32), np.zeros(GROUP, np.uint16)
    floors_base, left_base = floors.ctypes.data, left.ctypes.data
    terms = np.empty(vectors.shape[1], np.float64)
    counts = np.zeros(GROUP, np.int64)
    for start in range(first, last, _RUN):
        end = min(start + _RUN, last)
        if not _any_asked_for(bits[:, start:end]):
            continue
        for tile in range(start, end):
            for q in range(GROUP):
                left[q] = bits[0 if shared else q, tile]
            if not _tile_for_group(
                base + tile * 16 * width, scale_base + tile * 64, query_base, starts_base, width, floors_base,
                aligned_base, left_base,
            ):  # fmt: skip
                continue
            for q in range(GROUP):
                found = np.uint32(left[q])
                while found:
                    lane = _lowest(found)
                    found &= found - np.uint32(1)
                    if aligned[q, lane] < floors[q]:
                        continue
                    count = counts[q]
                    near[q, count], near_rows[q, count] = aligned[q, lane], tile * 16 + lane
                    count += 1
                    if count == near.shape[1]:
                        count, floors[q], held[q] = _made_room(
                            near[q], near_rows[q], count, errors[q], factors[q], floors[q], room, vectors, all_ids,
                            queries[q], terms, scores[q], ids[q], rows[q], held[q],
                        )  # fmt: skip
                    counts[q] = count
    for q in range(GROUP):
        count, floors[q] = _tightened(near[q], near_rows[q], counts[q], scores.shape[1], errors[q], floors[q], room)
        held[q] = settle(
            near_rows[q], count, vectors, all_ids, queries[q], terms, scores[q], ids[q], rows[q], held[q]
        )  # fmt: skip


@compiled
def read_rows(
    passing: Any, codes: Any, scales: Any, query_codes: Any, starts: Any, error: float, factor: float, vectors: Any,
    all_ids: Any, query: Any, scores: Any, ids: Any, rows: Any, near: Any, near_rows: Any, room: Any,
) -> Any:  # fmt: skip
    """`scan_for_one` for rows here and there, by their numbers `passing`: for filters that few rows pass."""
    base, query_base, width = codes.ctypes.data, query_codes.ctypes.data, np.int64(codes.shape[1])
    scale_base = scales.ctypes.data
    terms = np.empty(vectors.shape[1], np.float64)
    floor = np.float32(-np.inf)
    count, held, total = 0, 0, len(passing)
    for i in range(total):
        if i + _AHEAD < total:
            later = passing[i + _AHEAD]
            _fetch(scale_base + 4 * later)
            for line in range(0, width, LINE):
                _fetch(base + later * width + line)
        row = passing[i]
        score = np.float32(_row_sum(base + row * width, query_base, width) + starts[0]) * scales[row]
        if score < floor:
            continue
        near[count], near_rows[count] = score, row
        count += 1
        if count == len(near):
            count, floor, held = _made_room(
                near, near_rows, count, error, factor, floor, room, vectors, all_ids, query, terms, scores, ids, rows,
                held,
            )  # fmt: skip
    count, floor = _tightened(near, near_rows, count, len(scores), error, floor, room)
    return settle(near_rows, count, vectors, all_ids, query, terms, scores, ids, rows, held)


@compiled
def read_rows_of_each(
    numbers: Any, passing: Any, offsets: Any, codes: Any, scales: Any, query_codes: Any, starts: Any, errors: Any,
    factors: Any, vectors: Any, all_ids: Any, queries: Any, scores: Any, ids: Any, rows: Any, near: Any, near_rows: Any,
    room: Any,
) -> None:  # fmt: skip
    """Answer some queries by `read_rows`, in one call, for a call may have to wait for the interpreter.

    Query `numbers[i]` has the rows `passing[offsets[i] : offsets[i + 1]]`. Arrays of queries and answers have all of
    the queries.
    """
    for i in range(len(numbers)):
        q = numbers[i]
        held = read_rows(
            passing[offsets[i] : offsets[i + 1]], codes, scales, query_codes[q : q + 1], starts[q : q + 1], errors[q],
            factors[q], vectors, all_ids, queries[q], scores[q], ids[q], rows[q], near, near_rows, room,
        )  # fmt: skip
        rank(scores[q], ids[q], rows[q], held)


@compiled
def scan_for_each(
    numbers: Any, codes: Any, scales: Any, bits: Any, query_codes: Any, starts: Any, errors: Any, factors: Any,
    vectors: Any, all_ids: Any, queries: Any, scores: Any, ids: Any, rows: Any, near: Any, near_rows: Any, room: Any,
    aligned: Any, group_codes: Any,
) -> None:  # fmt: skip
    """Answer some queries under one filter by `scan_for_group`, group after group, in one call.

    Arrays of queries and answers have all of the queries; `bits` is of shape (1, T), and `group_codes` is room for the
    codes of a group, of shape (GROUP, D).
    """
    k = scores.shape[1]
    heap_scores, heap_ids = np.empty((GROUP, k), np.float64), np.empty((GROUP, k), np.int64)
    heap_rows, held = np.empty((GROUP, k), np.int64), np.empty(GROUP, np.int64)
    group_starts, group_errors = np.empty(GROUP, np.int32), np.empty(GROUP, np.float64)
    group_factors, group_queries = np.empty(GROUP, np.float64), np.empty((GROUP, queries.shape[1]), np.float64)
    for first in range(0, len(numbers), GROUP):
        members = numbers[first : first + GROUP]
        for place in range(GROUP):  # places that are left ask for the first once more, and nobody reads what they find
            q = members[place] if place < len(members) else members[0]
            group_codes[place], group_queries[place] = query_codes[q], queries[q]
            group_starts[place], group_errors[place], group_factors[place] = starts[q], errors[q], factors[q]
        held[:] = 0
        scan_for_group(
            codes, scales, 0, bits.shape[1], bits, group_codes, group_starts, group_errors, group_factors, vectors,
            all_ids, group_queries, heap_scores, heap_ids, heap_rows, held, near, near_rows, room, aligned,
        )  # fmt: skip
        hand_over(heap_scores, heap_ids, heap_rows, held, members, scores, ids, rows)


def warm() -> None:
    """Compile what looks at attributes for every type of theirs."""
    order, bits = np.zeros(1, np.int32), np.zeros(1, np.uint16)
    for name, compare in BETWEEN.items():
        values = np.zeros(TILE, name)
        compare(values, 1, values[0].item(), values[0].item(), bits)
    keep(np.zeros(1, np.int32), np.ones(1, np.bool_), np.zeros(1, np.int64))
    for values in (np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.bool_)):
        place(values, order, 0, values[0].item(), True)
