"""The compiled loops of amortised inference: a few tokens at a time through all layers, within the caches of a core.

Tokens go in tiles. A tile passes through norms, products, attention and gates of one layer after another while its
numbers stay in the innermost caches. Keys of a tile's queries come in blocks, and the softmax is carried from block to
block, so that no row of scores is ever whole in memory.

What a token becomes does not depend on the tile it went in, to the bit. Every sum runs in an order given by the places
of its terms in weights and cache; a query is never a lane, only one of several rows that take the same steps; a key out
of sight adds an exact zero. Hence one pass, many small ones, an extension of the cache and any number of threads give
the same bits.

Vectors are as wide as the processor's. All addresses are in bytes, all strides and sizes in numbers of float32.

Shapes: M tokens, D width, H heads, E width of a head, F inner width, all padded with zeros to whole vectors; C slots of
a cache.

Source: attention in blocks is that of Dao et al. 2022, "FlashAttention", algorithm 1; the products of matrices in
registers follow Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"; the fusion is ours.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import llvmlite.binding
import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba import types

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")
# typed as what they are to their readers: mypy knows nothing of numba
_intrinsic: Callable[..., Any] = numba.extending.intrinsic
_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))

LANES = 16 if _WIDE else 8
"""Numbers of a vector."""

ROWS = 8 if _WIDE else 6
"""Rows of a product that are held in registers, each two vectors wide: half of the registers, and room for the rest."""

PANEL = 2 * LANES
"""Columns of a product that are held in registers; keys that lie side by side in the cache."""

TILE = 48
"""Tokens that pass through a layer together: whole groups of rows on either kind of processor."""

BLOCK = 2 * 64
"""Keys between two adjustments of a softmax: their keys and values fit into the innermost cache."""

_SCORES = BLOCK + LANES
"""Numbers from one row of scores to the next: no power of two, which would put all rows on the same lines."""

_NOTHING = np.float32(-1e30)
"""The largest score so far, before there is one: finite, so that its difference from minus infinity is one."""

_EPSILON = 1e-5
"""What torch adds to the variance in a layer norm."""

_STEPS = 2
"""Terms of a sum that are added in one turn of the loop; divides every padded width."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INTEGERS = ir.VectorType(_I32, LANES)
HALF = 8
"""Lanes of a rotation. Halves of a head are padded to that, so that keys and values of all heads make whole panels."""


def padded(size: int, to: int = LANES) -> int:
    """The next multiple."""
    return -(-size // to) * to


class Sizes(NamedTuple):
    """Padded sizes of a transformer."""

    layers: int
    heads: int
    width: int
    """D."""

    head: int
    """E."""

    inner: int
    """F."""

    gated: int
    """1: with gates, 0: without."""

    self_key: int
    """1: a candidate sees itself, 0: it does not."""

    layer: int
    """Numbers of one layer's weights."""


class Places(NamedTuple):
    """Where things lie among a layer's weights, in numbers."""

    inward: int
    inward_bias: int
    outward: int
    gate: int
    gate_bias: int
    open: int
    open_bias: int
    close: int
    second_gate: int
    second_gate_bias: int
    end: int


def places(width: int, heads: int, inner: int) -> Places:
    """Lay out a layer's weights.

    Args:
        width: D.
        heads: H E.
        inner: F.
    """
    lengths = [width * 3 * heads, 3 * heads, heads * width, width * width, width, width * 2 * inner, 2 * inner]
    lengths += [inner * width, width * width, width]
    starts = np.concatenate([[0], np.cumsum([padded(length, 16) for length in lengths])])
    return Places(*(int(start) for start in starts))


# --- instructions -----------------------------------------------------------------------------------------------------


def _number(value: int) -> Any:
    return ir.Constant(_I64, value)


def _all(value: float, type_: Any = _VECTOR) -> Any:
    return ir.Constant(type_, [value] * type_.count)


def _splat(builder: Any, value: Any, type_: Any = _VECTOR) -> Any:
    undefined = ir.Constant(type_, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, type_.count), [0] * type_.count))


def _place(builder: Any, address: Any, numbers: Any) -> Any:
    """The address so many numbers further."""
    numbers = _number(numbers) if isinstance(numbers, int) else numbers
    return builder.add(address, builder.shl(numbers, _number(2)))


def _at(builder: Any, address: Any, type_: Any = _VECTOR) -> Any:
    return builder.load(builder.inttoptr(address, type_.as_pointer()), align=4)


def _put(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def _multiply_add(builder: Any, first: Any, second: Any, third: Any) -> Any:
    """The first times the second plus the third, in one instruction where there is one."""
    type_ = first.type
    name = f"llvm.fmuladd.v{type_.count}f32"
    fused = builder.module.declare_intrinsic(name, (), ir.FunctionType(type_, [type_] * 3))
    return builder.call(fused, [first, second, third])


def _larger(builder: Any, first: Any, second: Any) -> Any:
    """The larger of two; the first if it is not a number."""
    return builder.select(builder.fcmp_unordered(">", first, second), first, second)


def _smaller(builder: Any, first: Any, second: Any) -> Any:
    """The smaller of two; the first if it is not a number."""
    return builder.select(builder.fcmp_unordered("<", first, second), first, second)


def _reduced(builder: Any, vector: Any, join: Callable[[Any, Any, Any], Any]) -> Any:
    """Join the lanes of a vector, the upper half with the lower."""
    count = vector.type.count
    while count > 1:
        count //= 2
        parts = [
            builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_I32, count), list(lanes)))
            for lanes in (range(count), range(count, 2 * count))
        ]
        vector = join(builder, *parts)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _sum(builder: Any, first: Any, second: Any) -> Any:
    return builder.fadd(first, second)


def _repeat(builder: Any, times: Any, carried: Sequence[Any], body: Callable[[Any, list[Any]], Sequence[Any]]) -> Any:
    """Do something at least once, with a counter and values that each turn hands to the next."""
    entry, loop, done = builder.block, builder.append_basic_block("turn"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    turn = builder.phi(_I64)
    turn.add_incoming(_number(0), entry)
    held = [builder.phi(value.type) for value in carried]
    for phi, value in zip(held, carried, strict=True):
        phi.add_incoming(value, entry)
    handed = body(turn, list(held))
    after = builder.add(turn, _number(1))
    turn.add_incoming(after, builder.block)
    for phi, value in zip(held, handed, strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed("<", after, times), loop, done)
    builder.position_at_end(done)
    return handed


def _power_series() -> list[float]:
    """Coefficients a of 2^x = 1 + x (a0 + a1 x + ... + a5 x^5), |x| <= 1/2, by Chebyshev points; errs by 5e-9."""
    point = np.cos((np.arange(6) + 0.5) * np.pi / 6) / 2
    found = np.linalg.solve(np.vander(point, increasing=True), np.expm1(point * np.log(2)) / point)
    return [float(np.float32(value)) for value in found]


def _power(builder: Any, x: Any) -> Any:
    """2 to the x, for x up to 126; exactly 1 for 0, and exactly 0 below -126."""
    magic = 1.5 * 2.0**23  # a number plus this is rounded to a whole one, which then stands in its lowest bits
    rounded = builder.fadd(x, _all(magic))
    rest = builder.fsub(x, builder.fsub(rounded, _all(magic)))
    series = _power_series()
    total = _all(series[-1])
    for factor in [*reversed(series[:-1]), 1.0]:
        total = _multiply_add(builder, total, rest, _all(factor))
    exponent = builder.shl(builder.bitcast(rounded, _INTEGERS), _all(23, _INTEGERS))
    scaled = builder.bitcast(builder.add(builder.bitcast(total, _INTEGERS), exponent), _VECTOR)
    # far below, all of the above is nonsense, and nobody sees it
    return builder.select(builder.fcmp_ordered("<", x, _all(-126.0)), _all(0.0), scaled)


def _sigmoid(builder: Any, x: Any) -> Any:
    opposite = _smaller(builder, builder.fmul(x, _all(float(np.float32(-np.log2(np.e))))), _all(126.0))
    return builder.fdiv(_all(1.0), builder.fadd(_all(1.0), _power(builder, opposite)))


def _product_kernel(vectors: int) -> Any:
    """Products of `ROWS` rows with a panel of columns.

    Args:
        vectors: width of the panel.
    """

    @_intrinsic
    def kernel(
        typingctx: Any, x: Any, x_step: Any, w: Any, w_step: Any, start: Any, start_step: Any, out: Any, out_step: Any,
        depth: Any,
    ) -> Any:  # fmt: skip
        """out = start + x w, where each is an address and a step from one row to the next."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, x_step, w, w_step, start, start_step, out, out_step, depth = arguments

            def rows(address: Any, step: Any) -> list[Any]:
                return [_place(builder, address, builder.mul(step, _number(row))) for row in range(ROWS)]

            sums = [
                _at(builder, _place(builder, row, LANES * vector))
                for row in rows(start, start_step)
                for vector in range(vectors)
            ]
            read = rows(x, x_step)

            def turn(number: Any, sums: list[Any]) -> list[Any]:
                for step in range(_STEPS):
                    term = builder.add(builder.mul(number, _number(_STEPS)), _number(step))
                    line = _place(builder, w, builder.mul(term, w_step))
                    column = [_at(builder, _place(builder, line, LANES * vector)) for vector in range(vectors)]
                    for row in range(ROWS):
                        factor = _splat(builder, _at(builder, _place(builder, read[row], term), _FLOAT))
                        for vector in range(vectors):
                            place = row * vectors + vector
                            sums[place] = _multiply_add(builder, factor, column[vector], sums[place])
                return sums

            sums = _repeat(builder, builder.sdiv(depth, _number(_STEPS)), sums, turn)
            for number, row in enumerate(rows(out, out_step)):
                for vector in range(vectors):
                    _put(builder, sums[number * vectors + vector], _place(builder, row, LANES * vector))
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 9), generate

    return kernel


_two_vectors = _product_kernel(2)
_one_vector = _product_kernel(1)


@_intrinsic
def _normalize(typingctx: Any, x: Any, out: Any, real: Any, vectors: Any, width: Any) -> Any:
    """Bring the numbers of a row, those where `real` is one and not zero, to mean zero and variance one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, out, real, vectors, width = arguments

        def vector(address: Any, number: Any) -> Any:
            return _at(builder, _place(builder, address, builder.mul(number, _number(LANES))))

        def add(number: Any, held: list[Any]) -> list[Any]:
            return [builder.fadd(held[0], vector(x, number))]

        total = _reduced(builder, _repeat(builder, vectors, [_all(0.0)], add)[0], _sum)
        mean = _splat(builder, builder.fdiv(total, width))

        def centre(number: Any, held: list[Any]) -> list[Any]:
            apart = builder.fmul(builder.fsub(vector(x, number), mean), vector(real, number))
            _put(builder, apart, _place(builder, out, builder.mul(number, _number(LANES))))
            return [_multiply_add(builder, apart, apart, held[0])]

        square = _reduced(builder, _repeat(builder, vectors, [_all(0.0)], centre)[0], _sum)
        variance = builder.fadd(builder.fdiv(square, width), ir.Constant(_FLOAT, float(np.float32(_EPSILON))))
        root = builder.module.declare_intrinsic("llvm.sqrt", [_FLOAT], ir.FunctionType(_FLOAT, [_FLOAT]))
        scale = _splat(builder, builder.fdiv(ir.Constant(_FLOAT, 1.0), builder.call(root, [variance])))

        def stretch(number: Any, held: list[Any]) -> list[Any]:
            scaled = builder.fmul(vector(out, number), scale)
            _put(builder, scaled, _place(builder, out, builder.mul(number, _number(LANES))))
            return []

        _repeat(builder, vectors, [], stretch)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4, types.float32), generate


def _elementwise(operands: int, compute: Callable[..., Any]) -> Any:
    """A loop over vectors that overwrites the first operand.

    Args:
        operands: how many addresses there are.
        compute: of a builder and one vector each.
    """

    def body(context: Any, builder: Any, arguments: Any) -> Any:
        *addresses, vectors = arguments

        def turn(number: Any, held: list[Any]) -> list[Any]:
            step = builder.mul(number, _number(LANES))
            read = [_at(builder, _place(builder, address, step)) for address in addresses]
            _put(builder, compute(builder, *read), _place(builder, addresses[0], step))
            return []

        _repeat(builder, vectors, [], turn)
        return context.get_dummy_value()

    if operands == 2:

        @_intrinsic
        def two(typingctx: Any, first: Any, second: Any, vectors: Any) -> Any:
            return types.void(*(types.int64,) * 3), lambda context, builder, _, arguments: body(
                context, builder, arguments
            )

        return two

    @_intrinsic
    def three(typingctx: Any, first: Any, second: Any, third: Any, vectors: Any) -> Any:
        return types.void(*(types.int64,) * 4), lambda context, builder, _, arguments: body(context, builder, arguments)

    return three


_copy = _elementwise(2, lambda builder, old, new: new)
_add = _elementwise(2, lambda builder, stream, change: builder.fadd(stream, change))
_add_gated = _elementwise(
    3, lambda builder, stream, change, gate: _multiply_add(builder, change, _sigmoid(builder, gate), stream)
)
_open = _elementwise(
    2, lambda builder, opening, passing: builder.fmul(builder.fmul(opening, _sigmoid(builder, opening)), passing)
)
_scale_and_shift = _elementwise(3, lambda builder, normal, scale, shift: _multiply_add(builder, normal, scale, shift))


@_intrinsic
def _soften(typingctx: Any, score: Any, vectors: Any, top: Any, total: Any, gathered: Any, width: Any) -> Any:
    """Turn a row of scores into weights 2^(score - top), after raising the top; scale what was summed before to it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        score, vectors, top, total, gathered, width = arguments

        def at(address: Any, number: Any) -> Any:
            return _place(builder, address, builder.mul(number, _number(LANES)))

        before = _at(builder, top, _FLOAT)

        def raise_(number: Any, held: list[Any]) -> list[Any]:
            return [_larger(builder, _at(builder, at(score, number)), held[0])]

        highest = _repeat(builder, vectors, [_splat(builder, before)], raise_)[0]
        after = _reduced(builder, highest, _larger)
        _put(builder, after, top)
        level = _splat(builder, after)
        scale = _power(builder, builder.fsub(_splat(builder, before), level))

        def weigh(number: Any, held: list[Any]) -> list[Any]:
            weight = _power(builder, builder.fsub(_at(builder, at(score, number)), level))
            _put(builder, weight, at(score, number))
            return [builder.fadd(held[0], weight)]

        added = _repeat(builder, vectors, [_all(0.0)], weigh)[0]
        _put(builder, _multiply_add(builder, _at(builder, total), scale, added), total)

        def lower(number: Any, held: list[Any]) -> list[Any]:
            _put(builder, builder.fmul(_at(builder, at(gathered, number)), scale), at(gathered, number))
            return []

        _repeat(builder, width, [], lower)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 6), generate


@_intrinsic
def _dot(typingctx: Any, first: Any, second: Any, vectors: Any) -> Any:
    """Product of two rows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second, vectors = arguments

        def add(number: Any, held: list[Any]) -> list[Any]:
            step = builder.mul(number, _number(LANES))
            pair = [_at(builder, _place(builder, address, step)) for address in (first, second)]
            return [_multiply_add(builder, pair[0], pair[1], held[0])]

        return _reduced(builder, _repeat(builder, vectors, [_all(0.0)], add)[0], _sum)

    return types.float32(*(types.int64,) * 3), generate


@_intrinsic
def _divide(typingctx: Any, gathered: Any, total: Any, out: Any, vectors: Any) -> Any:
    """Write what was gathered over the sum of its weights; zero over zero is zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        gathered, total, out, vectors = arguments
        weight = _reduced(builder, _at(builder, total), _sum)
        nothing = builder.fcmp_ordered("==", weight, ir.Constant(_FLOAT, 0.0))
        share = builder.fdiv(ir.Constant(_FLOAT, 1.0), builder.select(nothing, ir.Constant(_FLOAT, 1.0), weight))

        def turn(number: Any, held: list[Any]) -> list[Any]:
            step = builder.mul(number, _number(LANES))
            found = builder.fmul(_at(builder, _place(builder, gathered, step)), _splat(builder, share))
            _put(builder, found, _place(builder, out, step))
            return []

        _repeat(builder, vectors, [], turn)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4), generate


@_intrinsic
def _turn(typingctx: Any, x: Any, cos: Any, sin: Any, half: Any) -> Any:
    """Rotate a row in place: its first half makes pairs with its second."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, cos, sin, half = arguments
        type_ = ir.VectorType(_FLOAT, HALF)

        def turn(number: Any, held: list[Any]) -> list[Any]:
            step = builder.mul(number, _number(HALF))
            low, high = _place(builder, x, step), _place(builder, x, builder.add(step, half))
            first, second = _at(builder, low, type_), _at(builder, high, type_)
            across, along = (_at(builder, _place(builder, address, step), type_) for address in (cos, sin))
            _put(builder, builder.fsub(builder.fmul(first, across), builder.fmul(second, along)), low)
            _put(builder, builder.fadd(builder.fmul(first, along), builder.fmul(second, across)), high)
            return []

        _repeat(builder, builder.sdiv(half, _number(HALF)), [], turn)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4), generate


@_intrinsic
def _get(typingctx: Any, address: Any) -> Any:
    """The number at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _at(builder, arguments[0], _FLOAT)

    return types.float32(types.int64), generate


@_intrinsic
def _set(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a number to an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _put(builder, arguments[1], arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


# --- steps of a layer -------------------------------------------------------------------------------------------------


# The long instructions are functions of their own, so that they are compiled once and not wherever they are used.


@compiled
def _product_panel(
    x: int, x_step: int, w: int, w_step: int, start: int, start_step: int, out: int, out_step: int, depth: int
) -> None:  # fmt: skip
    _two_vectors(x, x_step, w, w_step, start, start_step, out, out_step, depth)


@compiled
def _product_vector(
    x: int, x_step: int, w: int, w_step: int, start: int, start_step: int, out: int, out_step: int, depth: int
) -> None:  # fmt: skip
    _one_vector(x, x_step, w, w_step, start, start_step, out, out_step, depth)


@compiled
def _product(rows: int, x: int, x_step: int, w: int, start: int, out: int, step: int, depth: int, columns: int) -> None:
    """out = start + x W for some rows, W in panels, the same start for all rows."""
    panels = columns - columns % PANEL
    for column in range(0, panels, PANEL):
        for row in range(0, rows, ROWS):
            _product_panel(
                x + 4 * row * x_step, x_step, w + 4 * column * depth, PANEL, start + 4 * column, 0,
                out + 4 * (row * step + column), step, depth,
            )  # fmt: skip
    if panels < columns:
        for row in range(0, rows, ROWS):
            _product_vector(
                x + 4 * row * x_step, x_step, w + 4 * panels * depth, LANES, start + 4 * panels, 0,
                out + 4 * (row * step + panels), step, depth,
            )  # fmt: skip


@compiled
def _look(
    sizes: Any, rows: int, query: int, step: int, keys: int, values: int, low: Any, high: Any, skip: Any, scores: int,
    zeros: int, top: int, total: int, gathered: int,
) -> None:  # fmt: skip
    """Carry the softmax of a tile's rows over the keys of one head, from a row's `low` to its `high`, less `skip`."""
    nearest, farthest = low[0], high[0]
    for row in range(rows):
        nearest, farthest = min(nearest, low[row]), max(farthest, high[row])
    for block in range(nearest // BLOCK * BLOCK, farthest, BLOCK):
        for first in range(0, rows, ROWS):
            begin, end = low[first], high[first]
            for row in range(first + 1, first + ROWS):
                begin, end = min(begin, low[row]), max(end, high[row])
            begin, end = max(block, begin // PANEL * PANEL), min(block + BLOCK, (end + PANEL - 1) // PANEL * PANEL)
            if begin >= end:
                continue
            for panel in range(begin, end, PANEL):
                _product_panel(
                    query + 4 * first * step, step, keys + 4 * panel * sizes.head, PANEL, zeros, 0,
                    scores + 4 * (panel - begin), _SCORES, sizes.head,
                )  # fmt: skip
            for row in range(first, first + ROWS):
                line = scores + 4 * (row - first) * _SCORES
                for key in range(begin, min(low[row], end)):
                    _set(line + 4 * (key - begin), np.float32(-np.inf))
                for key in range(max(high[row], begin), end):
                    _set(line + 4 * (key - begin), np.float32(-np.inf))
                if begin <= skip[row] < end:
                    _set(line + 4 * (skip[row] - begin), np.float32(-np.inf))
                _soften(
                    line, (end - begin) // LANES, top + 4 * row, total + 4 * row * LANES,
                    gathered + 4 * row * sizes.head, sizes.head // LANES,
                )  # fmt: skip
            held = gathered + 4 * first * sizes.head
            source = values + 4 * begin * sizes.head
            panels = sizes.head - sizes.head % PANEL
            for column in range(0, panels, PANEL):
                _product_panel(
                    scores, _SCORES, source + 4 * column, sizes.head, held + 4 * column, sizes.head,
                    held + 4 * column, sizes.head, end - begin,
                )  # fmt: skip
            if panels < sizes.head:
                _product_vector(
                    scores, _SCORES, source + 4 * panels, sizes.head, held + 4 * panels, sizes.head,
                    held + 4 * panels, sizes.head, end - begin,
                )  # fmt: skip


class Room(NamedTuple):
    """Addresses of a tile's room, and of what the rows of a group keep between the two halves of a layer."""

    stream: int
    split: int
    normal: int
    gathered: int
    change: int
    gate: int
    inner: int
    scores: int
    held: int
    total: int
    top: int
    zeros: int
    real: int


@compiled
def _lengths(sizes: Any, group: int) -> Any:
    """Numbers in each part of the room for a group of so many rows, whole lines of the cache."""
    across = 3 * sizes.heads * sizes.head
    widest = max(across, 2 * sizes.inner, sizes.width, PANEL)
    lengths = np.array([
        group * sizes.width, group * across, TILE * sizes.width, TILE * sizes.heads * sizes.head, TILE * sizes.width,
        TILE * sizes.width, TILE * 2 * sizes.inner, ROWS * _SCORES, TILE * sizes.head, TILE * LANES, TILE, widest,
        sizes.width,
    ])  # fmt: skip
    return (lengths + 15) // 16 * 16


@compiled
def room(sizes: Any, group: int, real_width: int) -> Any:
    """Room for a group of so many rows; a thread may use it again and again.

    Args:
        sizes: sizes.
        group: rows that pass through a layer before any goes to the next, at least `TILE`.
        real_width: D, unpadded.
    """
    lengths = _lengths(sizes, group)
    memory = np.zeros(16 + lengths.sum(), np.float32)
    real = (memory.ctypes.data + 63) // 64 * 64 + 4 * lengths[:-1].sum()
    for number in range(real_width):
        _set(real + 4 * number, np.float32(1))
    return memory


@compiled
def _parts(sizes: Any, group: int, memory: Any) -> Any:
    starts = np.empty(13, np.int64)
    place = (memory.ctypes.data + 63) // 64 * 64
    for number, length in enumerate(_lengths(sizes, group)):
        starts[number] = place
        place += 4 * length
    return Room(
        starts[0], starts[1], starts[2], starts[3], starts[4], starts[5], starts[6], starts[7], starts[8], starts[9],
        starts[10], starts[11], starts[12],
    )  # fmt: skip


@compiled
def _split(
    sizes: Any, places: Any, weights: int, room: Any, first: int, rows: int, real_width: int, cos: Any, sin: Any,
    turned: int, only_keys: bool,
) -> None:  # fmt: skip
    """Norm, then keys, values and queries of a tile, side by side in this order; keys and queries are turned."""
    keys = sizes.heads * sizes.head
    across = 3 * keys
    whole = (rows + ROWS - 1) // ROWS * ROWS
    stream, split = room.stream + 4 * first * sizes.width, room.split + 4 * first * across
    for row in range(whole):
        at = 4 * row * sizes.width
        _normalize(stream + at, room.normal + at, room.real, sizes.width // LANES, np.float32(real_width))
    columns = 2 * keys if only_keys else across
    _product(
        whole, room.normal, sizes.width, weights + 4 * places.inward, weights + 4 * places.inward_bias, split, across,
        sizes.width, columns,
    )  # fmt: skip
    if not turned:
        return
    half = sizes.head // 2
    for row in range(rows):
        # candidates stand at one place, events each at its own
        place = 4 * half * (first + row if turned > 1 else 0)
        for head in range(sizes.heads):
            line = split + 4 * (row * across + head * sizes.head)
            _turn(line, cos.ctypes.data + place, sin.ctypes.data + place, half)
            if not only_keys:
                _turn(line + 8 * keys, cos.ctypes.data + place, sin.ctypes.data + place, half)


@compiled
def _keep(sizes: Any, split: int, rows: int, keys: int, values: int, slots: int, slot: int) -> None:
    """Put the keys and values of some rows into the slots of a cache, from `slot` on."""
    across = 3 * sizes.heads * sizes.head
    for row in range(rows):
        place = slot + row
        for head in range(sizes.heads):
            source = split + 4 * (row * across + head * sizes.head)
            target = keys + 4 * (head * slots * sizes.head + place // PANEL * PANEL * sizes.head + place % PANEL)
            for number in range(sizes.head):
                _set(target + 4 * number * PANEL, _get(source + 4 * number))
            source = split + 4 * (row * across + (sizes.heads + head) * sizes.head)
            _copy(values + 4 * (head * slots + place) * sizes.head, source, sizes.head // LANES)


@compiled
def _gather(
    sizes: Any, room: Any, first: int, rows: int, keys: int, values: int, slots: int, low: Any, high: Any, near: Any,
) -> None:  # fmt: skip
    """Attention of a tile to a cache, and of candidates to themselves and to the others of their session.

    Args:
        near: address of the session's keys, of its values, its slots and its rows; the last is zero without a session.
    """
    across = 3 * sizes.heads * sizes.head
    whole = (rows + ROWS - 1) // ROWS * ROWS
    split = room.split + 4 * first * across
    nobody, itself = np.full(TILE, -1), np.full(TILE, -1)
    from_zero, to_all = np.zeros(TILE, np.int64), np.zeros(TILE, np.int64)
    for row in range(rows):
        itself[row], to_all[row] = first + row, near[3]
    for head in range(sizes.heads):
        query = split + 4 * ((2 * sizes.heads + head) * sizes.head)
        for row in range(whole):
            held, total = room.held + 4 * row * sizes.head, room.total + 4 * row * LANES
            _copy(total, room.zeros, 1)
            if near[4]:
                # a softmax that begins with the candidate itself needs no exponential for it
                key = split + 4 * (row * across + head * sizes.head)
                value = split + 4 * (row * across + (sizes.heads + head) * sizes.head)
                _set(room.top + 4 * row, _dot(query + 4 * row * across, key, sizes.head // LANES))
                _set(total, np.float32(1))
                _copy(held, value, sizes.head // LANES)
            else:
                _set(room.top + 4 * row, _NOTHING)
                _copy(held, room.zeros, sizes.head // LANES)
        _look(
            sizes, whole, query, across, keys + 4 * head * slots * sizes.head, values + 4 * head * slots * sizes.head,
            low, high, nobody, room.scores, room.zeros, room.top, room.total, room.held,
        )  # fmt: skip
        if near[3]:
            _look(
                sizes, whole, query, across, near[0] + 4 * head * near[2] * sizes.head,
                near[1] + 4 * head * near[2] * sizes.head, from_zero, to_all, itself, room.scores, room.zeros,
                room.top, room.total, room.held,
            )  # fmt: skip
        for row in range(whole):
            _divide(
                room.held + 4 * row * sizes.head, room.total + 4 * row * LANES,
                room.gathered + 4 * (row * sizes.heads + head) * sizes.head, sizes.head // LANES,
            )  # fmt: skip


@compiled
def _join(sizes: Any, places: Any, weights: int, room: Any, first: int, rows: int, real_width: int) -> None:
    """Add to a tile's stream what attention gathered, and then what the feed-forward part makes of it."""
    whole = (rows + ROWS - 1) // ROWS * ROWS
    stream, values = room.stream + 4 * first * sizes.width, sizes.heads * sizes.head
    vectors = whole * sizes.width // LANES
    _product(
        whole, room.gathered, values, weights + 4 * places.outward, room.zeros, room.change, sizes.width, values,
        sizes.width,
    )  # fmt: skip
    if sizes.gated:
        _product(
            whole, stream, sizes.width, weights + 4 * places.gate, weights + 4 * places.gate_bias, room.gate,
            sizes.width, sizes.width, sizes.width,
        )  # fmt: skip
        _add_gated(stream, room.change, room.gate, vectors)
    else:
        _add(stream, room.change, vectors)
    for row in range(whole):
        at = 4 * row * sizes.width
        _normalize(stream + at, room.normal + at, room.real, sizes.width // LANES, np.float32(real_width))
    _product(
        whole, room.normal, sizes.width, weights + 4 * places.open, weights + 4 * places.open_bias, room.inner,
        2 * sizes.inner, sizes.width, 2 * sizes.inner,
    )  # fmt: skip
    for row in range(whole):
        line = room.inner + 4 * row * 2 * sizes.inner
        _open(line, line + 4 * sizes.inner, sizes.inner // LANES)
    _product(
        whole, room.inner, 2 * sizes.inner, weights + 4 * places.close, room.zeros, room.change, sizes.width,
        sizes.inner, sizes.width,
    )  # fmt: skip
    if sizes.gated:
        _product(
            whole, stream, sizes.width, weights + 4 * places.second_gate, weights + 4 * places.second_gate_bias,
            room.gate, sizes.width, sizes.width, sizes.width,
        )  # fmt: skip
        _add_gated(stream, room.change, room.gate, vectors)
    else:
        _add(stream, room.change, vectors)


@compiled
def _enter(sizes: Any, room: Any, x: Any, begin: int, end: int) -> None:
    """Load tokens into the stream, and zeros after the last."""
    for row in range((end - begin + ROWS - 1) // ROWS * ROWS):
        line = room.stream + 4 * row * sizes.width
        for number in range(x.shape[1]):
            _set(line + 4 * number, x[begin + row, number] if begin + row < end else np.float32(0))


@compiled
def _leave(sizes: Any, room: Any, first: int, rows: int, weights: Any, out: Any, place: int) -> None:
    """Write the last norm of a tile's stream."""
    norm = weights.ctypes.data + 4 * sizes.layers * sizes.layer
    for row in range(rows):
        _normalize(
            room.stream + 4 * (first + row) * sizes.width, room.normal, room.real, sizes.width // LANES,
            np.float32(out.shape[1]),
        )  # fmt: skip
        _scale_and_shift(room.normal, norm, norm + 4 * sizes.width, sizes.width // LANES)
        for number in range(out.shape[1]):
            out[place + row, number] = _get(room.normal + 4 * number)


# --- passes -----------------------------------------------------------------------------------------------------------


@compiled
def extend(
    sizes: Any, places: Any, weights: Any, x: Any, keys: Any, values: Any, slots: int, slot: int, oldest: int,
    window: int, cos: Any, sin: Any, turned: bool, out: Any, memory: Any,
) -> bool:  # fmt: skip
    """Pass events through all layers and keep their keys and values, if all are finite.

    Args:
        sizes: sizes.
        places: where weights lie.
        weights: all layers', the last norm's scale and shift after them.
        x: the events (M, D unpadded).
        keys: the cache's keys (layers, H, C / panel, E, panel).
        values: its values (layers, H, C, E).
        slots: C.
        slot: where the first event goes.
        oldest: the first slot that counts.
        window: how many events an event sees at most, itself included; 0: all.
        cos: cosines of the events' angles (M, E / 2).
        sin: sines.
        turned: whether there are angles.
        out: takes the hidden states (M, D unpadded), or is empty: then nothing is computed that no key depends on.
        memory: room for `TILE` rows.

    Returns:
        Whether they were.
    """
    for row in range(len(x)):
        nothing = np.float32(0)
        for number in range(x.shape[1]):
            nothing += x[row, number] * np.float32(0)
        if nothing != 0:
            return False
    room = _parts(sizes, TILE, memory)
    low, high = np.zeros(TILE, np.int64), np.zeros(TILE, np.int64)
    near = (0, 0, 0, 0, 0)
    for begin in range(0, len(x), TILE):
        end = min(begin + TILE, len(x))
        rows = end - begin
        _enter(sizes, room, x, begin, end)
        for row in range(TILE):
            place = slot + begin + min(row, rows - 1)
            low[row] = max(oldest, place + 1 - window) if window else oldest
            high[row] = place + 1
        for layer in range(sizes.layers):
            own = weights.ctypes.data + 4 * layer * sizes.layer
            only_keys = layer + 1 == sizes.layers and not len(out)
            layer_keys = keys.ctypes.data + 4 * layer * sizes.heads * slots * sizes.head
            layer_values = values.ctypes.data + 4 * layer * sizes.heads * slots * sizes.head
            _split(
                sizes, places, own, room, 0, rows, x.shape[1], cos[begin:end], sin[begin:end], 2 if turned else 0,
                only_keys,
            )  # fmt: skip
            _keep(sizes, room.split, rows, layer_keys, layer_values, slots, slot + begin)
            if only_keys:
                break
            _gather(sizes, room, 0, rows, layer_keys, layer_values, slots, low, high, near)
            _join(sizes, places, own, room, 0, rows, x.shape[1])
        if len(out):
            _leave(sizes, room, 0, rows, weights, out, begin)
    return True


@compiled
def compare(
    sizes: Any, places: Any, weights: Any, x: Any, ends: Any, keys: Any, values: Any, slots: int, oldest: int,
    count: int, cos: Any, sin: Any, turned: bool, out: Any, group: int, memory: Any,
) -> None:  # fmt: skip
    """Pass candidates through all layers over a cache.

    Args:
        sizes: sizes.
        places: where weights lie.
        weights: all layers', the last norm's scale and shift after them.
        x: the candidates (M, D unpadded), those of one session side by side.
        ends: for each session the row after its last; empty when candidates do not see one another.
        keys: the cache's keys (layers, H, C / panel, E, panel).
        values: its values (layers, H, C, E).
        slots: C.
        oldest: the first slot that counts.
        count: the slot after the last.
        cos: cosines of the candidates' angle (1, E / 2).
        sin: sines.
        turned: whether there is an angle.
        out: takes the hidden states (M, D unpadded).
        group: the most candidates in a session, a multiple of `TILE`.
        memory: room for so many rows.
    """
    room = _parts(sizes, group, memory)
    low, high = np.full(TILE, oldest), np.zeros(TILE, np.int64)
    across = 3 * sizes.heads * sizes.head
    near_slots = (group + BLOCK - 1) // BLOCK * BLOCK if len(ends) else 0
    near_keys = np.zeros(sizes.heads * near_slots * sizes.head, np.float32)
    near_values = np.zeros(sizes.heads * near_slots * sizes.head, np.float32)
    begin, number = 0, 0
    while begin < len(x):
        end = ends[number] if len(ends) else min(begin + TILE, len(x))
        _enter(sizes, room, x, begin, end)
        for head in range(sizes.heads if len(ends) else 0):
            # what an earlier session left in the last panel must not be infinite: it will be multiplied by zero
            for slot in range(end - begin, (end - begin + PANEL - 1) // PANEL * PANEL):
                place = near_values.ctypes.data + 4 * (head * near_slots + slot) * sizes.head
                _copy(place, room.zeros, sizes.head // LANES)
        for layer in range(sizes.layers):
            own = weights.ctypes.data + 4 * layer * sizes.layer
            layer_keys = keys.ctypes.data + 4 * layer * sizes.heads * slots * sizes.head
            layer_values = values.ctypes.data + 4 * layer * sizes.heads * slots * sizes.head
            for first in range(0, end - begin, TILE):
                rows = min(TILE, end - begin - first)
                _split(sizes, places, own, room, first, rows, x.shape[1], cos, sin, 1 if turned else 0, False)
                if len(ends):
                    _keep(
                        sizes, room.split + 4 * first * across, rows, near_keys.ctypes.data, near_values.ctypes.data,
                        near_slots, first,
                    )  # fmt: skip
            near = (
                near_keys.ctypes.data, near_values.ctypes.data, near_slots, end - begin if len(ends) else 0,
                sizes.self_key,
            )  # fmt: skip
            for first in range(0, end - begin, TILE):
                rows = min(TILE, end - begin - first)
                for row in range(TILE):
                    high[row] = count if row < rows else oldest
                _gather(sizes, room, first, rows, layer_keys, layer_values, slots, low, high, near)
                _join(sizes, places, own, room, first, rows, x.shape[1])
        for first in range(0, end - begin, TILE):
            _leave(sizes, room, first, min(TILE, end - begin - first), weights, out, begin + first)
        begin, number = end, number + 1
