"""A program laid out for the compiled loops, and one reading of it at some prices.

Shapes: N members, M offers, E pairs, K rows, F families, S distinct weights.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.marketing.allocation import kernels
from models.marketing.allocation.partitioned import Partitioned
from models.marketing.allocation.program import NOTHING, Floats, Integers, Program
from models.marketing.allocation.soundness import seen

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
        self.weights = (*map(seen, weights), *[empty] * (width - self.slots))
        self.start, self.offer, self.value = seen(program.start), seen(program.offer), seen(program.value)
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
        self.most = seen(np.atleast_1d(np.asarray(program.most, np.float64)))
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

    def blocks(
        self, prices: Floats, temperature: float, far: float, add: Callable[[Floats], None], *, again: bool = False
    ) -> "Blocks":
        """One pass, block by block, over all members, or again over those left open; choices are left in `choice`.

        `add` gets the curvature (K, K) of each block in their order, some blocks at a time: that of all is large.
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
                    self.start, self.offer, self.value, self.weights, self.slots, self.flat, self.dense,
                    self.kind, self.fslot, self.frow, self.fmem, self.mslot, self.mtab, self.most, *spread, temperature,
                    far, begin, min(begin + BLOCK, program.N), self.widest, again, self.choice, sure[first + i],
                    several[first + i], loads[first + i], curves[i],
                )  # fmt: skip
                return result

            part = self.run(block, min(wave, count - first))
            sums += part
            for own in curves[: len(part)]:
                add(own)
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
                    self.start, self.offer, self.value, self.weights, self.slots, self.flat, self.dense,
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
                self.value, self.offer, self.weights, self.fslot, self.frow, self.fmem, self.mtab, self.choice,
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

    def of_each(self, step: Callable[..., Any], *job: Any) -> list[Any]:
        """`step(program, *job)` of every part."""
        program = self.program
        return program.each(step, [job] * program.count) if isinstance(program, Partitioned) else [step(program, *job)]

    def _each(self, step: Callable[..., Any], jobs: Sequence[tuple[Any, ...]] | None = None) -> list[Any]:
        """`step(part laid out, *job)` of every part; its choices are kept."""
        program = self.program
        if not isinstance(program, Partitioned):
            return [step(self.whole, *job) for job in jobs or [()]]
        own = list(zip(self._cuts(), jobs or [()] * program.count, strict=True))
        if program.run is None:
            return program.each(lambda part, choice, job: step(Arranged(part, self.run, choice), *job), own)
        found = program.each(_apart, [(step, choice, job) for choice, job in own])
        for choice, (left, _) in zip(self._cuts(), found, strict=True):
            choice[:] = left
        return [result for _, result in found]

    def _cuts(self) -> list[NDArray[Any]]:
        """Choices of the members of each part."""
        program = self.program
        return [self.choice] if isinstance(program, Program) else np.split(self.choice, program.first_member[1:-1])

    def _firsts(self) -> list[int]:
        """The first pair of each part."""
        return [0] if isinstance(self.program, Program) else self.program.first_pair[:-1].tolist()

    def _renumber(self, sign: int) -> None:
        """Choices by the pair's number within the whole, or (-1) within its part again."""
        for choice, first in zip(self._cuts(), self._firsts(), strict=True):
            if first:
                choice[choice >= 0] += sign * first

    def _pass(self, prices: Floats, temperature: float, *, again: bool) -> tuple["Blocks", Floats]:
        """Sums of all blocks, and curvature."""
        curve = np.zeros((len(prices), len(prices)))
        add = _adding(curve)
        apart = isinstance(self.program, Partitioned) and self.program.run is not None
        found = self._each(partial(_passed, prices, temperature, self.far, again, None if apart else add))
        for _, kept in found:
            for own in kept:
                add(own)
        return joined([blocks for blocks, _ in found]), curve

    def read(self, prices: Floats, temperature: float) -> Reading:
        """One pass; choices are left in `choice`, by the pair's number within its part."""
        blocks, curve = self._pass(prices, temperature, again=False)
        self.certain, self.many = (float(x) for x in in_order(blocks.sums)[2:4])
        self.fresh = True
        self.sure, self.several = in_order(blocks.sure), in_order(blocks.several)
        return combined(blocks, curve, temperature)

    def again(self, prices: Floats, temperature: float) -> Reading:
        """One pass over those whom the last `read` left open; the others are taken to choose what they chose then.

        Then it is no proof, and costs only what is open.
        """
        found = combined(*self._pass(prices, temperature, again=True), temperature)
        worth, load = self.certain + self.many, self.sure + self.several
        others = worth - float(prices @ load)
        return Reading(found.exact + others, found.smooth + others, found.worth + worth, found.load + load, found.curve)

    def collect(self, prices: Floats, temperature: float, least: float) -> Allocation:
        """Shares of those whom the last `read` left open; then `choice` has numbers within the whole."""
        if not self.fresh:
            raise RuntimeError("choices were collected already; read again.")
        self.fresh = False
        found = self._each(partial(_collected, prices, temperature, self.far, least))
        self._renumber(1)
        numbered = [(pairs + first, *rest) for (pairs, *rest), first in zip(found, self._firsts(), strict=True)]
        pairs, shares, worths, loads = (np.concatenate(arrays) for arrays in zip(*numbered, strict=True))
        return Allocation(pairs, shares, self.certain + float(in_order(worths)), self.sure + in_order(loads))

    def measure(self, pairs: Integers, shares: Floats) -> Allocation:
        """What these shares (pairs rising) and the sure choices in `choice` amount to; one pass over what is chosen."""
        firsts = self._firsts()
        ends = np.searchsorted(pairs, [*firsts, self.program.E])
        jobs = [(pairs[ends[i] : ends[i + 1]] - first,) for i, first in enumerate(firsts)]
        self._renumber(-1)
        found = self._each(_measured, jobs)
        self._renumber(1)
        worths, loads, values = (np.concatenate(arrays) for arrays in zip(*(one[:3] for one in found), strict=True))
        rows, weights = (np.concatenate(arrays, axis=1) for arrays in zip(*(one[3:] for one in found), strict=True))
        inside = rows >= 0
        own = np.bincount(rows[inside], (weights * shares)[inside], minlength=self.program.K)
        value = float(in_order(worths)) + float((values * shares).sum())
        return Allocation(pairs, shares, value, in_order(loads) + own)


def _adding(total: Floats) -> Callable[[Floats], None]:
    """Adds what it is given to a total, in place."""

    def add(own: Floats) -> None:
        np.add(total, own, out=total)

    return add


def _apart(part: Program, step: Callable[..., Any], choice: NDArray[Any], job: tuple[Any, ...]) -> tuple[Any, Any]:
    """A step over a part that was loaded elsewhere, and the choices that it leaves."""
    left = choice.copy()  # what came from elsewhere may be read-only
    return left, step(Arranged(part, choice=left), *job)


def _passed(
    prices: Floats, temperature: float, far: float, again: bool, add: Callable[[Floats], None] | None, part: Arranged
) -> tuple["Blocks", list[Floats]]:
    """A pass over a part; without anybody to add them up here, the curvatures of its blocks are kept."""
    kept: list[Floats] = []
    blocks = part.blocks(prices, temperature, far, add or (lambda own: kept.append(own.copy())), again=again)
    return blocks, kept


def _collected(
    prices: Floats, temperature: float, far: float, least: float, part: Arranged
) -> tuple[Integers, Floats, Floats, Floats]:
    return part.collect(prices, temperature, far, least)


def _measured(part: Arranged, some: Integers) -> tuple[Floats, Floats, Floats, Integers, Floats]:
    """Worth and loads of the choices in a part, and values, rows and weights of some of its pairs."""
    return *part.tally(), part.program.value[some].astype(np.float64), *part.program.columns(some)


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
    blocks = arranged.blocks(prices, temperature, far, _adding(curve))
    return combined(blocks, curve, temperature)


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
