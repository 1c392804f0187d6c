"""The fused kernels of a search on a card: filter, score and choose in one reading of the codes.

A program works on a chunk of rows that lie together, a block at a time, for all queries of a group. It decides which
rows pass which query's filter, from the columns themselves and from bits. Only if some row passes are the codes read
and compared with the queries', and only rows that reach their query's floor are written, to places given out by a
counter. No matrix of scores or masks is ever held. `scan` scores by bytes or numbers of half precision, `agree` by the
number of equal signs.

Chunks are visited in an order that is spread over all rows, so that the first of them are a sample. Row numbers, and
what is computed from them, are 64-bit wide: a billion rows of 64 bytes lie beyond what 32 bits can address. Within a
block 32 bits are enough.

Importing this module imports triton; only what is about to launch a kernel may do so. With `TRITON_INTERPRET=1` in the
environment before that, the kernels run on a CPU.

Shapes: N rows, D numbers of a code, W words of signs, B queries of a group padded to a power of two, S clauses, M sets
of bits, C places on a board.

Source: one operator in place of LiNR's three (sections 3.1 and 3.2) is ours; the paper expects it to be faster (section
5.2).
"""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

# typed as what they are to their readers: mypy knows nothing of triton
_inlined: Callable[..., Any] = triton.jit
# numbers that change from launch to launch are not worth another compilation each
_launched: Callable[..., Any] = triton.jit(
    do_not_specialize=["rows", "first", "chunks", "step", "asked", "capacity", "width"]
)


@_inlined
def _chunk(first, chunks, step):
    """The chunk of this program: chunks are visited `step` apart, around and around."""
    return ((tl.program_id(0).to(tl.int64) + first) * step) % chunks


@_inlined
def _passing(
    passes, start, local, left, b, columns, lows, highs, outsides,
    bits, sets, width, CLAUSES: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Of the pairs of query b and row start + local, those that pass; `b` and `local` are of shapes that broadcast."""
    for c in tl.static_range(CLAUSES):
        value = tl.load(columns[c] + start + local, mask=local < left, other=0)
        within = (value >= tl.load(lows[c] + b)) & (value <= tl.load(highs[c] + b))
        passes = passes & (within != (tl.load(outsides[c] + b) != 0))
    if BITS:
        which = tl.load(sets + b)
        byte = tl.load(
            bits + which.to(tl.int64) * width + start // 8 + local // 8, mask=passes & (which >= 0), other=255
        ).to(tl.int32)
        passes = passes & (((byte >> (local % 8)) & 1) != 0)
    return passes


@_launched
def scan(
    codes, scales, queries, floors, columns, lows, highs, outsides, bits,
    sets, width, scores, numbers, counts, passed, rows, first, chunks,
    step, asked, capacity, B: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
    WIDTH: tl.constexpr, PIECE: tl.constexpr, WHOLE: tl.constexpr, CLAUSES: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Put the rows of a chunk that pass, and reach the floor, on the boards of a group of queries.

    Args:
        codes: of shape (N or more, D), int8 or float16.
        scales: of shape (N or more,), float32.
        queries: of shape (B, D), of the codes' type.
        floors: of shape (B,), float32.
        columns: S of shape (N,), int32 or int64.
        lows: S of shape (B,), of the column's type: a row passes from here on,
        highs: up to here,
        outsides: S of shape (B,), int8; or everywhere else, where this is 1.
        bits: of shape (M, width), uint8: bit i of byte t is set when row 8 t + i passes. Read only where BITS.
        sets: of shape (B,), int32: which bits are the query's, -1 for none.
        width: bytes of a set of bits.
        scores: of shape (B, C), float32: takes the scores by codes.
        numbers: of shape (B, C), int64: takes the rows' numbers.
        counts: of shape (B,), int32: places given out; above C rows were lost.
        passed: of shape (B,), int64: grows by the number of rows that pass.
        rows: N.
        first: the first program's place in the order of chunks.
        chunks: how many there are.
        step: from one chunk to the next, coprime to `chunks`.
        asked: how many queries there are, at most B.
        capacity: C.
        B: see above.
        BLOCK: rows of a block, a multiple of 16.
        STEPS: blocks of a chunk.
        WIDTH: D.
        PIECE: numbers multiplied at once, a divisor of D.
        WHOLE: whether codes are integers.
        CLAUSES: S.
        BITS: whether any query has bits.
    """
    chunk = _chunk(first, chunks, step)
    b = tl.arange(0, B)[:, None]
    local = tl.arange(0, BLOCK)[None, :]
    down = tl.arange(0, BLOCK)[:, None]
    across = tl.arange(0, PIECE)[None, :]
    floor = tl.load(floors + b)
    seen = tl.zeros((B,), tl.int32)
    for block in range(STEPS):
        start = (chunk * STEPS + block) * BLOCK
        left = tl.minimum(rows - start, BLOCK).to(tl.int32)
        passes = _passing(
            (b < asked) & (local < left), start, local, left, b, columns, lows, highs, outsides, bits, sets, width,
            CLAUSES, BITS,
        )  # fmt: skip
        here = tl.sum(passes.to(tl.int32), 1)
        seen += here
        if tl.max(here, 0) > 0:
            total = tl.zeros((B, BLOCK), tl.int32 if WHOLE else tl.float32)
            for begin in range(0, WIDTH, PIECE):
                code = tl.load(codes + start * WIDTH + (down * WIDTH + begin + across), mask=down < left, other=0)
                query = tl.load(queries + (b * WIDTH + begin + across))
                total = tl.dot(query, tl.trans(code), total, out_dtype=tl.int32 if WHOLE else tl.float32)
            score = total.to(tl.float32) * tl.load(scales + start + local, mask=local < left, other=0)
            found = passes & (score >= floor)
            ones = found.to(tl.int32)
            if tl.max(tl.max(ones, 1), 0) > 0:
                place = tl.atomic_add(counts + b + tl.zeros_like(ones), ones, mask=found, sem="relaxed")
                fits = found & (place < capacity)
                place += b * capacity
                tl.store(scores + place, score, mask=fits)
                tl.store(numbers + place, start + local + tl.zeros_like(ones), mask=fits)
    tl.atomic_add(passed + tl.arange(0, B), seen.to(tl.int64), sem="relaxed")


@_launched
def agree(
    codes, queries, floors, columns, lows, highs, outsides, bits, sets,
    width, scores, numbers, counts, passed, rows, first, chunks, step,
    asked, capacity, BLOCK: tl.constexpr, STEPS: tl.constexpr, WORDS: tl.constexpr, CLAUSES: tl.constexpr,
    BITS: tl.constexpr,
):  # fmt: skip
    """`scan` by signs: the score of a row is the number of its signs that equal the query's.

    `codes` is of shape (N or more, W), `queries` of (B, W), both int32 with a sign in each bit; `floors` and `scores`
    are int32.
    """
    chunk = _chunk(first, chunks, step)
    local = tl.arange(0, BLOCK)
    for block in range(STEPS):
        start = (chunk * STEPS + block) * BLOCK
        left = tl.minimum(rows - start, BLOCK).to(tl.int32)
        if left > 0:
            b = 0
            while b < asked:
                passes = _passing(
                    local < left, start, local, left, b, columns, lows, highs, outsides, bits, sets, width, CLAUSES,
                    BITS,
                )  # fmt: skip
                score = tl.full((BLOCK,), 32 * WORDS, tl.int32)
                for word in tl.static_range(WORDS):
                    code = tl.load(codes + start * WORDS + (local * WORDS + word), mask=passes, other=0)
                    differing = (code ^ tl.load(queries + b * WORDS + word)).to(tl.uint32, bitcast=True)
                    # bits are counted in pairs, fours and bytes, and a multiplication adds the bytes
                    differing = differing - ((differing >> 1) & 0x55555555)
                    differing = (differing & 0x33333333) + ((differing >> 2) & 0x33333333)
                    differing = (differing + (differing >> 4)) & 0x0F0F0F0F
                    score -= ((differing * 0x01010101) >> 24).to(tl.int32)
                found = passes & (score >= tl.load(floors + b))
                ones = found.to(tl.int32)
                # one order of places for the whole block: many rows are found, and all ask the same counter
                place = tl.atomic_add(counts + b, tl.sum(ones, 0), sem="relaxed") + tl.cumsum(ones, 0) - ones
                fits = found & (place < capacity)
                place = place.to(tl.int64) + capacity.to(tl.int64) * b
                tl.store(scores + place, score, mask=fits)
                tl.store(numbers + place, start + local, mask=fits)
                tl.atomic_add(passed + b, tl.sum(passes.to(tl.int64), 0), sem="relaxed")
                b += 1
