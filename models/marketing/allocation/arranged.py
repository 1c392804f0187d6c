"""A program laid out for the compiled loops, and one reading of it at some prices.

Shapes: N members, M offers, E pairs, K rows, F families, S distinct weights.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.marketing.allocation import kernels
from models.marketing.allocation.partitioned import Partitioned
from models.marketing.allocation.program import NOTHING, Floats, Integers, Program

BLOCK = 16_384
"""Members summed together: the cut decides the bits of a sum, so it depends on nothing else."""

_CURVES = 1 << 21
"""Numbers of the curvatures that are in memory together."""

Run = Callable[[Callable[[int], Any], int], list[Any]]


@dataclass(frozen=True)
class Reading:
    """What one reading of the members says at some prices and a temperature.

    Attributes:
        exact: the members' part of the bound.
        smooth: its smoothing; never below.
        worth: value of the smoothed shares.
        load: (K) of the smoothed shares.
        curve: (K, K) second derivatives of `smooth` in the prices.
    """

    exact: float
    smooth: float
    worth: float
    load: Floats
    curve: Floats


class Prices(NamedTuple):
    """Prices spread over offers: of a pair alone (M), per weight (S, M), and as they are (K)."""

    unit: Floats
    priced: Floats
    all: Floats


class Arranged:
    """A program whose arrays the loops read in place; only groups of members are copied, as a rule to two bytes each.

    Args:
        program: checked.
        run: calls a function with 0 .. n - 1 and gives the results in order; threads are its affair.
        choice: (N) where choices are left; None: an array of its own.
    """

    def __init__(self, program: Program, run: Run | None = None, choice: NDArray[Any] | None = None) -> None:
        self.program = program
        self.run: Run = run or (lambda call, count: [call(i) for i in range(count)])
        weights: list[NDArray[Any]] = []
        self.fslot = np.full(len(program.families), -1, np.int64)
        for f, family in enumerate(program.families):
            if family.weight is not None:
                found = [d for d, weight in enumerate(weights) if weight is family.weight]
                if not found:
                    weights.append(family.weight)
                self.fslot[f] = found[0] if found else len(weights) - 1
        self.slots = len(weights)
        if len({weight.dtype for weight in weights}) > 1:  # the loops index weights as one kind
            weights = [weight.astype(np.float64, copy=False) for weight in weights]
        width = 2
        while width < self.slots:
            width *= 2
        empty = np.zeros(0, weights[0].dtype if weights else program.value.dtype)
        self.weights = tuple(weights + [empty] * (width - self.slots))
        self.frow = np.full((len(program.families), program.M), NOTHING, np.int32)
        self.fmem = np.full(len(program.families), -1, np.int64)
        self.kind = np.full(len(program.families), kernels.ALL)
        by_members = [f for f, family in enumerate(program.families) if family.members is not None]
        self.mslot = self.fslot[by_members]
        self.mtab = np.full((len(by_members), program.N), NOTHING, np.int16 if program.K < 2**15 else np.int32)
        self.flat = np.ones(max(self.slots, 1), np.bool_)
        for f, (family, first) in enumerate(zip(program.families, program.first, strict=True)):
            if family.members is not None:
                self.fmem[f], self.kind[f] = by_members.index(f), kernels.BY_MEMBER
                np.add(family.members, first, out=self.mtab[self.fmem[f]], where=family.members >= 0, casting="unsafe")
                continue
            if family.offers is None:
                self.frow[f] = first
                continue
            groups, self.kind[f] = np.asarray(family.offers), kernels.BY_OFFER
            self.frow[f] = np.where(groups >= 0, first + groups, NOTHING)
            if self.fslot[f] >= 0:
                self.flat[self.fslot[f]] = False
        self.most = np.atleast_1d(np.asarray(program.most, np.float64))
        self.dense = program.dense
        self.widest = program.M if self.dense else int(np.diff(program.start).max(initial=0))
        kind = np.int32 if program.E < 2**31 else np.int64
        self.choice: NDArray[Any] = np.empty(program.N, kind) if choice is None else choice
        self.starts = list(range(0, program.N, BLOCK)) or [0]

    def spread(self, prices: Floats) -> Prices:
        """Prices by offer."""
        unit, priced = np.zeros(self.program.M), np.zeros((max(self.slots, 1), self.program.M))
        for f in range(len(self.fslot)):
            if self.fmem[f] < 0:
                target = unit if self.fslot[f] < 0 else priced[self.fslot[f]]
                inside = self.frow[f] >= 0
                target[inside] += prices[self.frow[f][inside]]
        return Prices(unit, priced, prices)

    def blocks(self, prices: Floats, temperature: float, far: float, curve: Floats, *, again: bool = False) -> "Blocks":
        """One pass, block by block, over all members, or again over those left open; choices are left in `choice`.

        Curvature (K, K) is added to `curve` in the order of the blocks, some blocks at a time: that of all is large.
        """
        program, spread, rows, count = self.program, self.spread(prices), self.program.K, len(self.starts)
        sure, several, loads = np.empty((3, count, rows))
        wave = max(8, _CURVES // max(rows * rows, 1))
        curves = np.empty((min(wave, count), rows, rows))
        sums = []
        for first in range(0, count, wave):

            def block(i: int, first: int = first) -> tuple[float, ...]:
                begin = self.starts[first + i]
                result: tuple[float, ...] = kernels.sweep(
                    program.start, program.offer, program.value, self.weights, self.slots, self.flat, self.dense,
                    self.kind, self.fslot, self.frow, self.fmem, self.mslot, self.mtab, self.most, *spread, temperature,
                    far, begin, min(begin + BLOCK, program.N), self.widest, again, self.choice, sure[first + i],
                    several[first + i], loads[first + i], curves[i],
                )  # fmt: skip
                return result

            part = self.run(block, min(wave, count - first))
            sums += part
            for own in curves[: len(part)]:
                curve += own
        return Blocks(np.array(sums).reshape(-1, 5), sure, several, loads)

    def collect(
        self, prices: Floats, temperature: float, far: float, least: float
    ) -> tuple[Integers, Floats, Floats, Floats]:
        """Pairs and shares of the members that the last pass left open; their value and loads in each block."""
        program, spread = self.program, self.spread(prices)
        loads = np.empty((len(self.starts), program.K))

        def block(i: int) -> tuple[Integers, Floats, float]:
            begin = self.starts[i]
            end = min(begin + BLOCK, program.N)
            before = self.choice[begin:end].copy()
            size = 4 * int(np.count_nonzero(before <= kernels.OPEN)) + 16
            while True:
                pairs, shares = np.empty(size, np.int64), np.empty(size)
                found, worth = kernels.collect(
                    program.start, program.offer, program.value, self.weights, self.slots, self.flat, self.dense,
                    self.mslot, self.mtab, self.most, *spread, temperature, far, begin, end, self.widest, least,
                    self.fslot, self.frow, self.fmem, self.choice, pairs, shares, loads[i],
                )  # fmt: skip
                if found <= size:
                    return pairs[:found].copy(), shares[:found].copy(), worth
                size = found
                self.choice[begin:end] = before

        parts = self.run(block, len(self.starts))
        return (
            np.concatenate([pairs for pairs, _, _ in parts]),
            np.concatenate([shares for _, shares, _ in parts]),
            np.array([worth for _, _, worth in parts]),
            loads,
        )

    def tally(self) -> tuple[Floats, Floats]:
        """Value and loads of each block, of what its members surely get by `choice`."""
        program, loads = self.program, np.zeros((len(self.starts), self.program.K))

        def block(i: int) -> float:
            begin = self.starts[i]
            worth: float = kernels.tally(
                program.value, program.offer, self.weights, self.fslot, self.frow, self.fmem, self.mtab, self.choice,
                begin, min(begin + BLOCK, program.N), loads[i],
            )  # fmt: skip
            return worth

        return np.array(self.run(block, len(self.starts))), loads


class Allocation(NamedTuple):
    """Shares, but for those of members who are sure: these are in `Members.choice`.

    Attributes:
        pairs: (S) numbers of pairs.
        shares: (S).
        value: of all, the sure ones too.
        loads: (K) of all.
    """

    pairs: Integers
    shares: Floats
    value: float
    loads: Floats


class Members:
    """All members, in memory or part by part.

    Args:
        program: checked.
        run: how blocks are run.
        far: scores so many temperatures apart do not share.
    """

    def __init__(self, program: Program | Partitioned, run: Run, far: float) -> None:
        self.program, self.run, self.far = program, run, far
        self.certain, self.many, self.fresh = 0.0, 0.0, False
        self.sure, self.several = np.zeros((2, program.K))
        self.whole = Arranged(program, run) if isinstance(program, Program) else None
        kind = np.int32 if program.E < 2**31 else np.int64
        self.choice: NDArray[Any] = np.empty(program.N, kind) if self.whole is None else self.whole.choice

    def parts(self) -> Iterator[tuple[Arranged, int, int]]:
        """Each part laid out, and its first member and pair; of a program in parts one at a time."""
        if isinstance(self.program, Partitioned):
            firsts = zip(self.program.first_member.tolist(), self.program.first_pair.tolist(), strict=True)
            for part, (member, pair) in zip(self.program.parts(), firsts, strict=False):
                yield Arranged(part, self.run, self.choice[member : member + part.N]), member, pair
        elif self.whole is not None:
            yield self.whole, 0, 0

    def read(self, prices: Floats, temperature: float) -> Reading:
        """One pass; choices are left in `choice`, by the pair's number within its part."""
        curve = np.zeros((len(prices), len(prices)))
        blocks = joined([part.blocks(prices, temperature, self.far, curve) for part, _, _ in self.parts()])
        self.certain, self.many = (float(x) for x in in_order(blocks.sums)[2:4])
        self.fresh = True
        self.sure, self.several = in_order(blocks.sure), in_order(blocks.several)
        return combined(blocks, curve, temperature)

    def again(self, prices: Floats, temperature: float) -> Reading:
        """One pass over those whom the last `read` left open; the others are taken to choose what they chose then.

        Then it is no proof, and costs only what is open.
        """
        curve = np.zeros((len(prices), len(prices)))
        passes = [part.blocks(prices, temperature, self.far, curve, again=True) for part, _, _ in self.parts()]
        found = combined(joined(passes), curve, temperature)
        worth, load = self.certain + self.many, self.sure + self.several
        others = worth - float(prices @ load)
        return Reading(found.exact + others, found.smooth + others, found.worth + worth, found.load + load, found.curve)

    def collect(self, prices: Floats, temperature: float, least: float) -> Allocation:
        """Shares of those whom the last `read` left open; then `choice` has numbers within the whole."""
        if not self.fresh:
            raise RuntimeError("choices were collected already; read again.")
        self.fresh = False
        found = []
        for part, _, first in self.parts():
            pairs, shares, worths, loads = part.collect(prices, temperature, self.far, least)
            found.append((pairs + first, shares, worths, loads))
            if first:
                part.choice[part.choice >= 0] += first
        pairs, shares, worths, loads = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return Allocation(pairs, shares, self.certain + float(in_order(worths)), self.sure + in_order(loads))

    def measure(self, pairs: Integers, shares: Floats) -> Allocation:
        """What these shares, and the sure choices in `choice`, amount to; one pass over what is chosen."""
        found, values, columns = [], [], []
        for part, _, first in self.parts():
            program = part.program
            if first:
                part.choice[part.choice >= 0] -= first
            found.append(part.tally())
            if first:
                part.choice[part.choice >= 0] += first
            some = pairs[(pairs >= first) & (pairs < first + program.E)] - first
            values.append(program.value[some].astype(np.float64))
            columns.append(program.columns(some))
        worths, loads = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        rows, weights = (np.concatenate(arrays, axis=1) for arrays in zip(*columns, strict=True))
        inside = rows >= 0
        own = np.bincount(rows[inside], (weights * shares)[inside], minlength=self.program.K)
        value = float(in_order(worths)) + float((np.concatenate(values) * shares).sum())
        return Allocation(pairs, shares, value, in_order(loads) + own)


class Blocks(NamedTuple):
    """Sums of each block of members.

    Attributes:
        sums: (blocks, 5) exact and smoothed part; value of those who are sure of one offer, of several, of the others.
        sure: (blocks, K) loads of those who are sure of one offer.
        several: (blocks, K) of those who are sure of several.
        loads: (blocks, K) of the others.
    """

    sums: Floats
    sure: Floats
    several: Floats
    loads: Floats


def joined(parts: Sequence[Blocks]) -> Blocks:
    """The blocks of all parts."""
    return parts[0] if len(parts) == 1 else Blocks(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def combined(blocks: Blocks, curve: Floats, temperature: float) -> Reading:
    """All blocks as one reading, added in their order; of the curvature's sum what is above the diagonal counts."""
    exact, smooth, certain, many, worth = (float(x) for x in in_order(blocks.sums))
    upper = np.triu(curve)
    load = in_order(blocks.sure) + in_order(blocks.several) + in_order(blocks.loads)
    return Reading(exact, smooth, certain + many + worth, load, (upper + np.triu(upper, 1).T) / temperature)


def reading(arranged: Arranged, prices: Floats, temperature: float, far: float) -> Reading:
    """A pass over members in memory."""
    curve = np.zeros((len(prices), len(prices)))
    return combined(arranged.blocks(prices, temperature, far, curve), curve, temperature)


def in_order(parts: NDArray[Any]) -> Any:
    """The sum over the first axis, one after another: numpy's own order is its own affair."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


@contextlib.contextmanager
def workers(count: int) -> Iterator[Run]:
    """How to run blocks on so many threads; 0: as many as numba would use."""
    count = count or int(numba.config.NUMBA_NUM_THREADS)
    if count == 1:
        yield lambda call, blocks: [call(i) for i in range(blocks)]
        return
    with ThreadPoolExecutor(count) as pool:
        yield lambda call, blocks: list(pool.map(call, range(blocks))) if blocks > 1 else [call(0)]
