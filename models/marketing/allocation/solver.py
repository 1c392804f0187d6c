"""Solve the program: prices by Newton's method over growing samples, shares from the prices, a certified gap.

    solve(program, gap=1e-4)

For any prices p of the rows, no allocation is worth more than

    bound(p) = sum_k max(l_k p_k, u_k p_k) + sum_u max_x sum_{e of u} (v_e - a_e . p) x_e ,

so prices whose bound is near the value of an allocation prove both to be near the best. The bound is convex, with a
kink wherever a member changes her mind; smoothed with a temperature it has derivatives, and members' smoothed choices
have loads that miss the rows by what Newton's method has not yet put right. Samples of 500, 4,000 and 32,000 members
bring the prices to within their own error. After one pass over all members nearly everybody is sure of her choice;
Newton's method goes on among those who are not, and the next pass proves how far that was right. One to four passes are
usual.

Shapes: N members, M offers, E pairs, K shared rows, S pairs of members who are not sure.

Source: DuaLip ("From Prediction to Incrementality", arXiv 2608.10182, equation 12) ascends a squared smoothing with
gradients; Newton's method, samples, and an allocation that is certified instead of a fixed number of iterations are
ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.allocation import kernels, settle
from models.marketing.allocation.arranged import Allocation, Arranged, Members, Run, reading, workers
from models.marketing.allocation.newton import Descent, Point, aimed, priced, relative_excess, sides
from models.marketing.allocation.partitioned import Partitioned
from models.marketing.allocation.program import Conflict, Floats, Infeasible, Integers, Program

Tell = Callable[[int, float], None]

SMALL = 5_000
"""Members below which HiGHS is asked at once."""

SAMPLES = (500, 4_000)
_LARGEST = 32_000
"""Members of the last sample, at most; else a third of all."""
_PAIRS = 1_000_000
"""Pairs of the last sample, at most: it is a copy."""
_LEVELS = {500: (3e-2, 3e-2), 4_000: (5e-3, 1e-2)}
"""Down to where a sample brings the smoothing's loss and the rows' error: its own error. The last aims at the gap."""
_FINEST = 1e-5
"""The loss below which no sample is brought."""
_ROUGH = 10.0
"""Temperatures apart at which scores do not share in a sample."""
_FEWER = 3
"""A sample is worth its passes when there are so many times as many members."""

HOLDS = 1e-9
"""A row holds when its load is outside of its bounds by at most so much of them: rounding of float64 sums."""

_LEAST_SHARE = 1e-7
_PASSES = 60
_USUAL = 1e-4
"""The gap that is tried when a smaller one leaves no allocation at all."""
_LAST = 0.4
"""Part of the gap that the smoothing may cost."""
_BEGIN = 0.05
"""Temperature to begin with, in typical values."""
_WARM = 0.015
"""The same of a warm start: prices are about right, so that only the smoothing is left to go."""
_TRUSTED = 1.0
"""A start is kept when the rows of a sample are wrong by less; a sample alone may well be wrong by half of that."""
_COLD = 1e-10
"""Temperature at which only equal scores share, in typical values."""
_BARRED = 1e30
"""Price of a row that nothing may use while it is solved, in typical values."""
_NEAR = 0.1
"""Rows wrong by less: members who seem sure may be taken to stay so for some steps."""
_SETTLED = 600
"""Members over whom a small program puts right what is left of the rows, to begin with."""
_FEW = 3_000
"""Members over whom a vertex is sought at once."""
_MANY = 60_000
"""Members beyond whom no vertex is sought."""
_POLISH = 1e-9
"""A vertex is sifted until its gap is this, or the one asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """Prices and an allocation that holds every row, with how far its value can be from the best.

    Attributes:
        prices: (K) float64; above zero where an upper row binds, below zero where a lower row binds.
        choice: (N) int32, int64 beyond 2^31 pairs: the pair of the one offer that a member surely gets; -1: nothing, or
            her shares are in `pairs`.
        pairs: (S) int64, every other pair with a share above zero.
        shares: (S) float64, their shares.
        value: of the allocation.
        bound: no allocation is worth more.
        gap: (bound - value) / bound.
        loads: (K) of the allocation.
        passes: over all members; those over samples are not counted.
        engine: "newton" or "highs".
        size: E.
    """

    prices: Floats
    choice: NDArray[Any]
    pairs: Integers
    shares: Floats
    value: float
    bound: float
    gap: float
    loads: Floats
    passes: int
    engine: str
    size: int

    def share(self) -> NDArray[np.float32]:
        """(E) shares of all pairs."""
        out = np.zeros(self.size, np.float32)
        out[self.choice[self.choice >= 0]] = 1
        out[self.pairs] = self.shares
        return out


def solve(
    program: Program | Partitioned,
    *,
    gap: float = 1e-4,
    prices: Floats | None = None,
    vertex: bool = False,
    engine: Literal["auto", "newton", "highs"] = "auto",
    seed: int = 0,
    threads: int = 0,
    tell: Tell | None = None,
) -> Answer:
    """Solve a program to a certified gap.

    Args:
        program: in memory, or in parts.
        gap: to reach, relative to the bound.
        prices: (K) to begin with, as of the last solve; None: from nothing.
        vertex: whether at most K members may have shares between nothing and all that they may have; found where no
            more than 60,000 members are tied at the last prices, else what is best without.
        engine: "highs" or "newton"; "auto": HiGHS below 5,000 members in memory, where it is quicker.
        seed: of the samples.
        threads: 0: as many as numba has. The answer's bits do not depend on it.
        tell: called after each pass over all members with how many there were and the gap so far, inf when no
            allocation holds the rows yet.

    Returns:
        The answer; its gap is what was reached.

    Raises:
        InputError: the program does not stand `Program.check`; prices are not K finite numbers.
        Infeasible: no allocation holds all rows; it carries the conflict.
        RuntimeError: neither an allocation nor a proof that there is none was found.

    Source:
        Ours; see the module.
    """
    if prices is not None and (np.shape(prices) != (program.K,) or not np.isfinite(prices).all()):
        raise InputError(f"prices must be {program.K} finite numbers, one for each row; match them by name.")
    if not gap > 0:
        raise InputError(f"gap must be above zero, got {gap}; 1e-4 is usual, 1e-9 is about the least.")
    if engine not in ("auto", "newton", "highs"):
        raise InputError(f"engine must be 'auto', 'newton' or 'highs', got {engine!r}.")
    if threads < 0:
        raise InputError(f"threads must be at least 0, got {threads}; 0 takes as many as numba has.")
    if isinstance(program, Program):
        program.check()
    if program.E == 0:
        return _without_pairs(program if isinstance(program, Program) else program.take(np.arange(program.N)))
    if isinstance(program, Program):
        if engine == "highs" or (engine == "auto" and program.N < SMALL):
            return _by_highs(program)
    elif engine == "highs":
        raise InputError("HiGHS holds no program in parts; leave engine out, or join the parts.")
    with workers(threads) as run:
        return _Solve(program, gap, seed, run, tell).answer(prices, vertex)


class _Solve:
    """One solve by Newton's method."""

    def __init__(self, program: Program | Partitioned, gap: float, seed: int, run: Run, tell: Tell | None) -> None:
        self.program, self.gap, self.run, self.tell = program, gap, run, tell
        self.far = _far(gap)
        self.members = Members(program, run, self.far)
        self.draw = np.random.default_rng(seed)
        sizes = [size for size in SAMPLES if _FEWER * size <= program.N]
        if (last := min(_LARGEST, program.N // 3, _PAIRS * program.N // max(program.E, 1))) > 2 * SAMPLES[-1]:
            sizes.append(last)
        order = self.draw.choice(program.N, sizes[-1], replace=False, shuffle=True) if sizes else None
        self.samples: list[Program] = []
        if order is not None:
            place = np.argsort(order)
            largest = program.take(order[place])
            self.samples = [largest.take(np.flatnonzero(place < size)) for size in sizes[:-1]] + [largest]
        else:
            largest = program if isinstance(program, Program) else program.take(np.arange(program.N))
        self.typical = float(np.abs(largest.value).mean(dtype=np.float64)) if largest.E else 0.0
        self.typical = self.typical or 1.0
        self.scale = self.typical * program.N
        most = float(largest.most_of(slice(0, largest.N)).sum()) * program.N / max(largest.N, 1)
        self.floor = min(0.0, program.least_value) * most
        self._rows(self.samples[:2][-1] if self.samples else largest)

    def _rows(self, sample: Program) -> None:
        """Units of the rows; those that nothing may use are closed by a price that is above every value.

        A lower bound that no load can be below is none: aimed at from inside, it might not be reached.
        """
        program = self.program
        self.closed = _closed(program)
        unit = _units(program, sample, sample.N / max(program.N, 1))
        idle = (program.lower <= 0) & (program.least_of_rows >= 0)
        lower = np.where(idle, -np.inf, program.lower)
        upper = np.where(self.closed, np.inf, program.upper)
        self.rows = aimed(lower, upper, unit, 0.05 * self.gap)

    def barred(self, prices: Floats) -> Floats:
        """Prices with those of closed rows, at which no pair that uses them scores above zero."""
        return np.where(self.closed, _BARRED * self.typical, prices) if self.closed.any() else prices

    def answer(self, prices: Floats | None, vertex: bool) -> Answer:
        """Samples, then all members."""
        begin, temperature = self._sampled(prices)
        self.samples = []  # copies of members: memory for what comes next
        return self._all(begin, temperature, vertex)

    def _sampled(self, prices: Floats | None) -> tuple[Floats, float]:
        """Prices and a temperature to begin with: those given, if a sample finds them near, or what samples say."""
        begin, temperature = np.zeros(self.program.K), _BEGIN * self.typical
        if prices is not None:
            begin = np.where(self.closed, 0.0, prices)
            begin = np.where((begin > 0) & ~np.isfinite(self.rows.upper), 0.0, begin)
            begin = np.where((begin < 0) & ~np.isfinite(self.rows.lower), 0.0, begin)
            warm = _WARM * self.typical
            if not self.samples or self._descent(self.samples[-1], begin, warm).off() < _TRUSTED:
                return begin, warm
        for sample in self.samples:
            begin, temperature = self._level(sample, begin, temperature)
        return begin, temperature

    def _descent(self, sample: Program, begin: Floats, temperature: float) -> Descent:
        """Newton's method over a sample, its bounds in proportion."""
        arranged, share = Arranged(sample, self.run), sample.N / self.program.N
        return Descent(
            lambda p, t: reading(arranged, self.barred(p), t, _ROUGH),
            self.rows.scaled(share),
            self.scale * share,
            begin,
            temperature,
        )

    def _level(self, sample: Program, begin: Floats, temperature: float) -> tuple[Floats, float]:
        """Prices and temperature after a sample; its start when the sample alone holds no allocation."""
        share, descent = sample.N / self.program.N, self._descent(sample, begin, temperature)
        loss, off = _LEVELS.get(sample.N, (max(_LAST * self.gap, _FINEST), 2e-3))
        while not (descent.loss() <= loss and descent.off() <= off) and descent.passes < 60 and descent.stalled < 4:
            if descent.point.bound < self.floor * share - 1e-6 * self.scale * share:
                return begin, temperature
            descent.advance(descent.cooling(loss))
        return descent.point.prices, descent.point.temperature

    def _all(self, begin: Floats, temperature: float, vertex: bool) -> Answer:
        """Newton's method over all members, until an allocation is certified."""
        descent = Descent(lambda p, t: self.members.read(self.barred(p), t), self.rows, self.scale, begin, temperature)
        target, best, reached, stuck, near = _LAST * self.gap, None, False, 0, True
        while True:
            here = descent.point
            self._told(descent, self._estimate(descent.least, here))
            if descent.least[0] < self.floor - 1e-9 * self.scale:
                raise self._infeasible(descent.least[1])
            few = int(np.count_nonzero(self.members.choice == kernels.OPEN)) <= _FEW
            inner = descent
            if self._estimate(descent.least, here) > self.gap or reached:
                inner = self._among_open(descent, target) if near and descent.off() < _NEAR else descent
            if not reached and self._estimate(descent.least, inner.point) <= self.gap:
                found = self._settled(descent, inner.point)
                best = found if found is not None and (best is None or found.gap < best.gap) else best
                reached = best is not None and best.gap <= self.gap
                if reached and not vertex and best is not None:
                    return best
            frozen = here.temperature < 1e-6 * self.typical or stuck >= 3
            if (
                (reached and few)
                or frozen
                or descent.passes >= _PASSES
                or (few and descent.passes > 12 and descent.off() < 1e-3)
            ):
                break
            if reached or (descent.loss() <= target and descent.off() <= 0.2 * self.gap):
                target = 0.1 * descent.loss()  # colder than the gap asks: for fewer open members, or to go on
            if inner is descent:
                descent.advance(descent.cooling(target))
                near = True
                stuck = stuck + 1 if descent.stalled >= 2 else 0
            else:
                descent.move_to(inner.point.prices, inner.point.temperature)
                if descent.smoothed(descent.point) > descent.smoothed(here):  # too far for those who seemed sure
                    descent.point, near = here, False
                else:
                    descent.reach = inner.reach  # or steps that were found too short would begin as short again
        polished = self._polished(descent)
        for answer in (polished, best):
            if answer is not None and answer.gap <= self.gap:
                return answer
        if polished is None and best is None and self.gap < _USUAL:  # too little is open at such a temperature
            self.gap, self.far = _USUAL, _far(_USUAL)
            self.members.far = self.far
            return self._all(begin, _BEGIN * self.typical, vertex=False)
        if polished is None and best is None:
            descent.move_to(descent.point.prices, descent.point.temperature)
            best = self._settled(descent, descent.point)
        best = polished or best
        if best is None:
            raise self._infeasible(descent.least[1])
        return best

    def _among_open(self, descent: Descent, target: float) -> Descent:
        """Newton's method among the members whom the last pass left open, until rows hold and the loss is `target`.

        As long as prices move little, everybody else goes on choosing what she chose.
        """
        inner = descent.among(lambda p, t: self.members.again(self.barred(p), t))
        first, enough = 0.0, 0.1 * self.gap
        while not (inner.loss() <= target and inner.off() <= enough) and inner.passes < 20:
            inner.advance(inner.cooling(target))
            first = first or inner.moved
            if inner.moved > 3.0 * first or inner.stalled >= 3:
                break
            if self._estimate(descent.least, inner.point) <= 0.9 * self.gap:
                break
            hopeless = descent.least[0] - inner.point.bound > (self.gap - inner.loss()) * descent.size()
            enough = max(0.1 * self.gap, 0.1 * descent.off() if hopeless else 0.0)  # another pass is needed anyway
        return inner

    def _told(self, descent: Descent, estimate: float) -> None:
        if self.tell is not None:
            self.tell(descent.passes, estimate)

    def _estimate(self, least: tuple[float, Floats], point: Point) -> float:
        """The gap if what is left of the rows is put right; inf while that is too much."""
        excess = self.rows.excess(point.reading.load)
        worst = float(excess.max(initial=0.0))
        value = point.reading.worth
        if self.program.packing:
            value /= 1.0 + worst
        elif worst > 1e-3:
            return math.inf
        elif worst > HOLDS:
            value -= 3.0 * float(np.abs(point.prices) @ self.rows.beyond(point.reading.load))
        return (least[0] - value) / max(abs(least[0]), 1e-9 * self.scale, 1e-300)

    def _settled(self, descent: Descent, point: Point) -> Answer | None:
        """The allocation at a point with every row put right; None if that takes more than is open."""
        prices, temperature = point.prices, point.temperature
        found: Allocation | None = self.members.collect(self.barred(prices), temperature, _LEAST_SHARE)
        if found is not None and self._excess(found.loads) > HOLDS and self.program.packing:
            found = self._trimmed(found)
        if found is not None and self._excess(found.loads) > HOLDS:
            found = self._exchanged(found, prices, temperature)
        if found is None:
            return None
        choice = np.where(self.members.choice >= 0, self.members.choice, kernels.NOTHING).astype(
            self.members.choice.dtype, copy=False
        )
        return self._answer(descent.least, choice, found, descent.passes)

    def _answer(self, least: tuple[float, Floats], choice: NDArray[Any], found: Allocation, passes: int) -> Answer:
        bound, prices = least
        if self.closed.any():
            least_closing = self.members.of_each(_closing, self.closed, prices)
            prices = np.where(self.closed, np.max(least_closing, axis=0), prices)
        gap = (bound - found.value) / max(abs(bound), 1e-12 * self.scale, 1e-300)
        return Answer(
            prices=prices, choice=choice, pairs=found.pairs, shares=found.shares, value=found.value, bound=bound,
            gap=gap, loads=found.loads, passes=passes, engine="newton", size=self.program.E,
        )  # fmt: skip

    def _excess(self, loads: Floats) -> float:
        """How far loads are outside of the bounds, closed rows included, relative to the bounds."""
        rows, program = self.rows, self.program
        return float(relative_excess(loads, program.lower, program.upper, rows.under, rows.over).max(initial=0.0))

    def _trimmed(self, found: Allocation) -> Allocation | None:
        """Less of the open shares in rows that are exceeded; None when they do not suffice.

        Only where less never breaks a row. A row exceeded by d gives up the part d of its open load, which costs about
        d times what the row is worth.
        """
        program, members = self.program, self.members
        some = program if isinstance(program, Program) else program.take(np.flatnonzero(members.choice <= kernels.OPEN))
        at = found.pairs
        if isinstance(program, Partitioned):
            at = np.searchsorted(program.pairs_of(np.flatnonzero(members.choice <= kernels.OPEN)), found.pairs)
        rows, weights = some.columns(at)
        inside = rows >= 0
        mine = np.bincount(rows[inside], (weights * found.shares)[inside], minlength=program.K)
        over = np.maximum(found.loads - program.upper, 0.0)
        wide = over > 0
        if (over[wide] > 0.5 * mine[wide]).any():
            return None
        keep = np.ones(program.K)
        keep[wide] = 1.0 - over[wide] / mine[wide] * (1 + 1e-12)
        less = found.shares * (1.0 - np.where(inside & (weights > 0), keep[rows], 1.0).min(axis=0, initial=1.0))
        value = found.value - float((some.value[at] * less).sum(dtype=np.float64))
        gone = np.bincount(rows[inside], (weights * less)[inside], minlength=program.K)
        return Allocation(found.pairs, found.shares - less, value, found.loads - gone)

    def _exchanged(self, found: Allocation, prices: Floats, temperature: float) -> Allocation | None:
        """Some open members' shares decided anew so that every row holds; None when no number of them can."""
        program, members = self.program, self.members
        open_ = np.flatnonzero(members.choice <= kernels.OPEN)
        count = min(_SETTLED, len(open_))
        while count:
            chosen = open_[np.linspace(0, len(open_) - 1, count).astype(np.int64)]
            sub, theirs = program.take(chosen), program.pairs_of(chosen)
            others = ~np.isin(found.pairs, theirs)
            rest = members.measure(found.pairs[others], found.shares[others])
            got = self._within(part := settle.part_of(sub, prices, 60.0 * temperature), rest.loads)
            if got.holds:
                some = got.shares > 0
                pairs = np.concatenate([rest.pairs, theirs[part.pairs[some]]])
                shares = np.concatenate([rest.shares, got.shares[some]])
                order = np.argsort(pairs, kind="stable")
                return members.measure(pairs[order], shares[order])
            if count == len(open_) or count >= _MANY:
                return None
            count = min(8 * count, len(open_))
        return None

    def _polished(self, descent: Descent) -> Answer | None:
        """A vertex by sifting: the open members exactly, then those who disagree with its prices too.

        None when there are too many of them, or no number of them can hold the rows.
        """
        program, members = self.program, self.members
        if not members.fresh:
            descent.move_to(descent.point.prices, descent.point.temperature)
        prices, temperature = descent.point.prices, descent.point.temperature
        found = members.collect(self.barred(prices), temperature, _LEAST_SHARE)
        base = members.choice.copy()
        inside = np.arange(program.N) if program.N <= _FEW else self._parted(found)
        fixed, parts = found.pairs, found.shares
        window = math.inf if len(inside) == program.N else 60.0 * temperature
        best: Answer | None = None
        for _ in range(40):
            if len(inside) > _MANY:
                break
            others = ~np.isin(program.member_of(fixed), inside)
            fixed, parts = fixed[others], parts[others]
            members.choice[:] = base
            members.choice[inside] = kernels.OPEN
            rest = members.measure(fixed, parts)
            sub, theirs = program.take(inside), program.pairs_of(inside)
            part = settle.part_of(sub, prices, window)
            got = self._within(part, rest.loads)
            if not got.holds or not len(inside):
                if len(inside) == program.N:
                    raise self._infeasible(prices)
                temperature, window = 8 * temperature, 8 * window
                members.read(self.barred(prices), temperature)
                wider = members.collect(self.barred(prices), temperature, _LEAST_SHARE)
                inside = np.union1d(inside, self._parted(wider))
                continue
            prices = np.where(self.closed, 0.0, got.prices)
            cold = _COLD * self.typical
            bound = members.read(self.barred(prices), cold).exact + priced(prices, program.lower, program.upper)
            descent.passes += 1
            if bound < descent.least[0]:
                descent.least = (bound, prices)
            after = members.collect(self.barred(prices), cold, _LEAST_SHARE)
            now = members.choice.copy()
            gap = (descent.least[0] - rest.value - got.value) / descent.size()
            self._told(descent, gap)
            if best is None or gap < best.gap:
                best = self._vertex(descent, base, inside, (fixed, parts), theirs[part.pairs], got.shares)
            if gap <= min(self.gap, _POLISH):
                break
            changed = np.flatnonzero(now != base)
            other = np.concatenate([program.member_of(np.setxor1d(fixed, after.pairs)), self._parted(after)])
            grown = np.union1d(inside, np.union1d(changed, other))
            if len(grown) == len(inside):
                if math.isinf(window):
                    break
                window = 30.0 * window if window < self.typical else math.inf
            inside = grown
        return best

    def _within(self, part: settle.Part, loads: Floats) -> settle.Settled:
        """A part decided exactly within what the loads of all others leave."""
        lower, upper = self.program.lower - loads, self.program.upper - loads
        return settle.vertex(part, lower, upper, self.rows.under, self.rows.over)

    def _parted(self, found: Allocation) -> Integers:
        """Members who have a part of an offer that they might have whole, as far as they may have one whole."""
        owner = self.program.member_of(found.pairs)
        who, place = np.unique(owner, return_inverse=True)
        whole = np.minimum(self.program.most_of(who)[place], 1.0)
        parted: Integers = who[np.unique(place[(found.shares > 0) & (found.shares < whole * (1 - _LEAST_SHARE))])]
        return parted

    def _vertex(
        self,
        descent: Descent,
        base: NDArray[Any],
        inside: Integers,
        others: tuple[Integers, Floats],
        theirs: Integers,
        shares: Floats,
    ) -> Answer:
        """The answer of which some members' shares were decided exactly."""
        members, program = self.members, self.program
        members.choice[:] = base
        members.choice[inside] = kernels.OPEN
        whole = shares == 1
        owner, caps = program.member_of(theirs), program.most_of(inside)
        single = whole & (caps[np.searchsorted(inside, owner)] <= 1)
        members.choice[owner[single]] = theirs[single]
        some = (shares > 0) & ~single
        pairs = np.concatenate([others[0], theirs[some]])
        all_shares = np.concatenate([others[1], shares[some]])
        order = np.argsort(pairs, kind="stable")
        found = members.measure(pairs[order], all_shares[order])
        choice = np.where(members.choice >= 0, members.choice, kernels.NOTHING).astype(base.dtype)
        return self._answer(descent.least, choice, found, descent.passes)

    def _infeasible(self, prices: Floats) -> Exception:
        """The error that says why no allocation holds the rows.

        Of a program in parts the proof is made of the prices that Newton's method ran off to; its rows need not be a
        smallest set.
        """
        from models.marketing.allocation.conflict import PROOF, explain, gap_of_ray

        if self.members.whole is not None:
            conflict = explain(self.members.whole.program)
            return Infeasible(conflict) if conflict is not None else _undecided(self.program)
        size = np.abs(prices) * self.rows.unit
        ray = np.where(self.closed, 1.0 / self.rows.unit, prices / max(float(size.max(initial=0.0)), 1e-300))
        ray[np.abs(ray) * self.rows.unit < 1e-9] = 0.0
        rows = float(ray[ray > 0] @ self.program.upper[ray > 0])
        said = self.members.of_each(gap_of_ray, ray)
        needed, available = said[0][0], rows + sum(more - rows for _, more, _ in said)
        if not available - needed < -PROOF * sum(size for _, _, size in said):
            return _undecided(self.program)
        names = tuple(self.program.names[k] for k in np.flatnonzero(ray))
        return Infeasible(Conflict(rows=names, ray=ray, needed=needed, available=available))


def _far(gap: float) -> float:
    """Temperatures apart at which scores no longer share: what is left out is a thousandth of the gap."""
    return min(max(math.log(1 / gap) + 7.0, 14.0), 30.0)


def _closed(program: Program | Partitioned) -> NDArray[np.bool_]:
    """(K) rows that nothing may use."""
    closed: NDArray[np.bool_] = (program.upper == 0) & (program.lower <= 0) & (program.least_of_rows >= 0)
    return closed


def _closing(program: Program, closed: NDArray[np.bool_], prices: Floats) -> Floats:
    """(K) for closed rows a price at which no pair that uses one is worth it, whatever else it uses.

    A little above the least such price: the bound must not keep the rounding of a score that is just zero.
    """
    out = np.zeros(program.K)
    for begin in range(0, program.E, 1 << 20):
        pairs = np.arange(begin, min(begin + (1 << 20), program.E))
        rows, weights = program.columns(pairs)
        paid = weights * np.where((rows >= 0) & ~closed[rows], prices[rows], 0.0)
        value = program.value[pairs].astype(np.float64)
        score = value - paid.sum(axis=0) + 1e-12 * (np.abs(value) + np.abs(paid).sum(axis=0))
        used = (rows >= 0) & (weights > 0) & closed[rows] & (score > 0)
        np.maximum.at(out, rows[used], np.broadcast_to(score, rows.shape)[used] / weights[used])
    return out


def _units(program: Program | Partitioned, sample: Program, share: float) -> Floats:
    """(K) load of each row that counts as one: its greater bound, but at most what all pairs together would put there.

    Args:
        program: whose bounds count.
        sample: some of its members.
        share: of the members who are in the sample.
    """
    rows, weights = sample.columns(np.arange(sample.E))
    inside = rows >= 0
    all_ = np.bincount(rows[inside], np.abs(weights[inside]), minlength=program.K) / share
    finite = [np.where(np.isfinite(bound), np.abs(bound), 0.0) for bound in (program.lower, program.upper)]
    unit = np.maximum(*finite)
    # a row whose bounds are both zero: as if everybody had one pair
    unit = np.where(unit == 0, all_ * sample.N / max(sample.E, 1), np.where(all_ > 0, np.minimum(unit, all_), unit))
    return np.where(unit == 0, 1.0, unit)


def _by_highs(program: Program) -> Answer:
    """The whole program as one part."""
    part = settle.part_of(program, np.zeros(program.K), math.inf)
    sizes = sides(program.lower, program.upper, _units(program, program, 1.0))
    got = settle.vertex(part, program.lower, program.upper, *sizes)
    if not got.holds:
        raise _refusal(program)
    prices, closed = got.prices, _closed(program)
    if closed.any():
        prices = np.where(closed, _closing(program, closed, prices), prices)
    typical = float(np.abs(program.value).mean(dtype=np.float64)) or 1.0
    bound = reading(Arranged(program), prices, _COLD * typical, _far(1e-9)).exact
    bound += priced(prices, program.lower, program.upper)
    caps = program.most_of(slice(0, program.N))
    single = (got.shares == 1) & (caps[part.member] <= 1)
    choice = np.full(program.N, kernels.NOTHING, np.int32)
    choice[part.member[single]] = part.pairs[single]
    some = (got.shares > 0) & ~single
    loads = program.loads_of(np.flatnonzero(got.shares), got.shares[got.shares > 0])
    return Answer(
        prices=prices, choice=choice, pairs=part.pairs[some], shares=got.shares[some], value=got.value, bound=bound,
        gap=max(bound - got.value, 0.0) / max(abs(bound), 1e-12 * typical * program.N, 1e-300), loads=loads, passes=0,
        engine="highs", size=program.E,
    )  # fmt: skip


def _without_pairs(program: Program) -> Answer:
    """Nothing can be given: every load is zero."""
    if (program.lower > 0).any() or (program.upper < 0).any():
        raise _refusal(program)
    return Answer(
        prices=np.zeros(program.K), choice=np.full(program.N, kernels.NOTHING, np.int32), pairs=np.empty(0, np.int64),
        shares=np.empty(0), value=0.0, bound=0.0, gap=0.0, loads=np.zeros(program.K), passes=0, engine="highs", size=0,
    )  # fmt: skip


def _refusal(program: Program) -> Exception:
    from models.marketing.allocation.conflict import explain

    conflict = explain(program)
    return Infeasible(conflict) if conflict is not None else _undecided(program)


def _undecided(program: Program | Partitioned) -> Exception:
    return RuntimeError(
        f"no allocation was found for {program.N} members and {program.K} rows, and no proof that there is none: some "
        "rows can only just be held; widen them by a part in a thousand."
    )
