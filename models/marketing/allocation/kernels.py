"""The compiled loops of the solver: one reading of members gives the bound, loads and curvature at some prices.

At prices p a pair scores s_e = v_e - a_e . p. A member's part of the bound is the best she could do with her scores,

    most <= 1:  most max(0, max_e s_e)             most > 1:  the sum of her `most` best positive scores,

and its smoothing with a temperature t (in units of value) is, from above,

    most <= 1:  most t log(1 + sum_e exp(s_e / t)),                      x_e = most exp(s_e / t) / (1 + sum exp(s / t))
    most > 1:   min_{m >= 0} t sum_e log(1 + exp((s_e - m) / t)) + most m,    x_e = 1 / (1 + exp(-(s_e - m) / t))

whose derivatives in p are -(sum a_e x_e) and the curvature below. Nearly every member is sure at a low temperature: her
best score is ahead of all others by many temperatures. She costs two comparisons a pair and no exponential.

All sums are float64, whatever the data are; a block of members is summed in their order, so that only the cut into
blocks decides the bits of a sum.

Shapes: N members, M offers, K rows, F families, S distinct weights ("slots"), B families by members.

Source: entropic smoothing of a linear program's dual (Nesterov, Smooth minimization of non-smooth functions, 2005,
section 4.1); "From Prediction to Incrementality" (arXiv 2608.10182) smooths with a square instead. Leaving out of the
curvature whoever is sure is ours.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

NOTHING = -1
"""A member's choice is nothing."""

ALL, BY_OFFER, BY_MEMBER = 0, 1, 2
"""Whether a family has one row, or one for some offers, or one for some members."""

OPEN = -2
"""A member is not sure of her choice: `collect` finds her shares."""

SEVERAL = -3
"""A member is sure, but of several offers, or of a part of one: `collect` finds which."""

_MATH = {"reassoc", "nsz", "nnan", "contract", "arcp"}
compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_MATH)
inlined: Callable[..., Any] = numba.njit(inline="always", nogil=True, error_model="numpy", fastmath=_MATH)


@inlined
def _fee(mslot: Any, mtab: Any, prices: Any, u: int, own: Any) -> float:
    """What a member's own rows ask for a pair; and, in `own`, what they ask for each weight."""
    fee = 0.0
    own[:] = 0.0
    for f in range(mslot.shape[0]):
        r = mtab[f, u]
        if r >= 0:
            if mslot[f] < 0:
                fee += prices[r]
            else:
                own[mslot[f]] += prices[r]
    return fee


@inlined
def _score(
    value: Any, offer: Any, weights: Any, slots: int, flat: Any, dense: bool, unit: Any, priced: Any, own: Any,
    fee: float, first: int, count: int, score: Any,
) -> None:  # fmt: skip
    """Scores of one member's pairs; slices, so that the loops run over registers."""
    worth = value[first : first + count]
    if dense:
        for j in range(count):
            score[j] = worth[j] - (unit[j] + fee)
    else:
        which = offer[first : first + count]
        for j in range(count):
            score[j] = worth[j] - (unit[which[j]] + fee)
    for d in range(slots):
        weight = weights[d][first : first + count]
        extra = own[d]
        if flat[d]:
            price = priced[d, 0] + extra
            if price != 0.0:
                for j in range(count):
                    score[j] -= weight[j] * price
        elif dense:
            for j in range(count):
                score[j] -= weight[j] * (priced[d, j] + extra)
        else:
            which = offer[first : first + count]
            for j in range(count):
                score[j] -= weight[j] * (priced[d, which[j]] + extra)


@inlined
def _exponentials(x: Any, n: int, bits: Any, powers: Any) -> None:
    """exp(x), in place, for -40 < x <= 0, to a few units in the last place; loops that run over registers.

    exp(x) = 2^k exp(r) with |r| <= log(2) / 2: 2^k is written as a float's exponent, exp(r) is its Taylor sum to r^12.
    `powers` is `bits` read as floats.
    """
    for b in range(n):
        k = np.floor(x[b] * 1.4426950408889634 + 0.5)
        r = (x[b] - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
        bits[b] = (np.int64(np.int32(k)) + 1023) << 52
        y = 1.0 / 479001600.0
        y = y * r + 1.0 / 39916800.0
        y = y * r + 1.0 / 3628800.0
        y = y * r + 1.0 / 362880.0
        y = y * r + 1.0 / 40320.0
        y = y * r + 1.0 / 5040.0
        y = y * r + 1.0 / 720.0
        y = y * r + 1.0 / 120.0
        y = y * r + 1.0 / 24.0
        y = y * r + 1.0 / 6.0
        y = y * r + 0.5
        y = y * r + 1.0
        x[b] = y * r + 1.0
    for b in range(n):
        x[b] *= powers[b]


@compiled
def _shares_of_one(
    score: Any, count: int, top: float, temperature: float, far: float, near: Any, share: Any, bits: Any, powers: Any
) -> tuple[int, float]:
    """Shares of the pairs that are not far below the best, and t log of the sum over them and nothing."""
    cut = top - far * temperature
    n = 0
    for j in range(count):
        near[n] = j
        share[n] = score[j] - top
        n += 1 if score[j] > cut else 0
    share[n] = -top if cut < 0.0 else -far * temperature
    cold = 1.0 / temperature
    for b in range(n + 1):
        share[b] *= cold
    _exponentials(share, n + 1, bits, powers)
    total = share[n] if cut < 0.0 else 0.0
    for b in range(n):
        total += share[b]
    cold = 1.0 / total
    for b in range(n):
        share[b] *= cold
    return n, top + temperature * np.log(total)


@compiled
def _best(score: Any, count: int, most: float, ranked: Any) -> float:
    """Sum of the `most` best positive scores; `ranked` gets the floor(most) + 1 best, highest first."""
    keep = int(np.floor(most)) + 1
    for r in range(keep):
        ranked[r] = -np.inf
    for j in range(count):
        x = score[j]
        if x > ranked[keep - 1]:
            r = keep - 1
            while r > 0 and ranked[r - 1] < x:
                ranked[r] = ranked[r - 1]
                r -= 1
            ranked[r] = x
    total = 0.0
    for r in range(keep - 1):
        total += max(0.0, ranked[r])
    return float(total + (most - np.floor(most)) * max(0.0, ranked[keep - 1]))


@compiled
def _shares_of_many(
    score: Any, count: int, most: float, temperature: float, far: float, ranked: Any, near: Any, share: Any
) -> tuple[int, float, bool]:
    """Shares when a member may have several offers: who has one, the smoothed sum, and whether `most` binds."""
    whole = int(np.floor(most))
    low, high = max(0.0, ranked[whole]), ranked[max(whole - 1, 0)]
    reach = far * temperature
    level = 0.0
    binds = False
    total = 0.0
    for j in range(count):
        if score[j] > reach:
            total += 1.0
        elif score[j] > -reach:
            total += 1.0 / (1.0 + np.exp(-score[j] / temperature))
    if total > most:
        binds = True
        if most == whole and high - low > 2.0 * reach:
            level = 0.5 * (low + high)
        else:
            below, above = 0.0, max(low, ranked[0]) + temperature * np.log(1.0 + count / most)
            level = min(max(low, below), above)
            for _ in range(200):
                total, slope = -most, 0.0
                for j in range(count):
                    z = (score[j] - level) / temperature
                    if z > -far:
                        y = 1.0 / (1.0 + np.exp(-z)) if z < far else 1.0
                        total += y
                        slope += y * (1.0 - y)
                if total > 0.0:
                    below = level
                else:
                    above = level
                if abs(total) < 1e-14 * most or above - below < 1e-15 * (abs(above) + temperature):
                    break
                moved = level + temperature * total / slope if slope > 1e-12 else -1.0
                level = moved if below < moved < above else 0.5 * (below + above)
    n = 0
    smooth = most * level if binds else 0.0
    for j in range(count):
        z = (score[j] - level) / temperature
        if z > -far:
            near[n] = j
            y = 1.0 / (1.0 + np.exp(-z))
            share[n] = y
            smooth += (
                (score[j] - level) + temperature * np.log1p(np.exp(-z))
                if z > 0.0
                else temperature * np.log1p(np.exp(z))
            )
            n += 1
    return n, smooth, binds


@inlined
def _sums(share: Any, left: Any, right: Any, n: int) -> float:
    total = 0.0
    for b in range(n):
        total += share[b] * left[b] * right[b]
    return total


@compiled
def _loaded(
    e: int, u: int, share: float, offer: Any, weights: Any, fslot: Any, frow: Any, fmem: Any, mtab: Any, load: Any
) -> None:
    """Add a pair's share to the loads."""
    for f in range(fslot.shape[0]):
        r = int(frow[f, offer[e]]) if fmem[f] < 0 else int(mtab[fmem[f], u])
        if r >= 0:
            load[r] += share * (weights[fslot[f]][e] if fslot[f] >= 0 else 1.0)


@compiled
def sweep(
    start: Any, offer: Any, value: Any, weights: Any, slots: int, flat: Any, dense: bool, kind: Any, fslot: Any,
    frow: Any, fmem: Any, mslot: Any, mtab: Any, most: Any, unit: Any, priced: Any, prices: Any, temperature: float,
    far: float, begin: int, end: int, widest: int, again: bool, choice: Any, sure: Any, several: Any, load: Any,
    curve: Any,
) -> tuple[float, float, float, float, float]:  # fmt: skip
    """Bound, loads and curvature of members `begin` to `end` - 1.

    Args:
        start: (N + 1) where members' pairs begin.
        offer: (E) offers.
        value: (E) values.
        weights: tuple of (E) distinct weights, padded.
        slots: how many of them count.
        flat: (S) whether a weight's price is the same for all offers.
        dense: whether every member has all offers, in order.
        kind: (F) `ALL`, `BY_OFFER` or `BY_MEMBER`.
        fslot: (F) weight of a family, -1: one each.
        frow: (F, M) row of an offer, -1 none; unused in families by members.
        fmem: (F) place of a family by members among such, else -1.
        mslot: (B) weight of a family by members.
        mtab: (B, N) row of a member, -1 none.
        most: (1) or (N) offers a member.
        unit: (M) prices of a pair without weight, by offer.
        priced: (S, M) prices per weight, by offer.
        prices: (K) prices, for the families by members.
        temperature: of the smoothing, in units of value.
        far: scores so many temperatures apart do not share.
        begin: first member.
        end: after the last.
        widest: most pairs of a member.
        again: only members whose choice is `OPEN`, and choices stay as they are.
        choice: (N), written: pair, `NOTHING`, `OPEN` or `SEVERAL`.
        sure: (K), written: loads of members who are sure of one offer.
        several: (K), written: loads of members who are `SEVERAL`.
        load: (K), written: loads of the others.
        curve: (K, K), written above the diagonal and on it: curvature times temperature.

    Returns:
        Sums over members of the exact part and of the smoothed part; and the value of those who are sure of one offer,
        those who are `SEVERAL`, and of the others.

    Source:
        Ours; derivation in the module.
    """
    families, rows = fslot.shape[0], prices.shape[0]
    score, share, ranked = np.empty(widest), np.empty(widest + 1), np.empty(widest + 2)
    bits = np.empty(widest + 1, np.int64)
    powers = bits.view(np.float64)
    near, touched = np.empty(widest + 1, np.int64), np.empty(rows, np.int64)
    row, part, turn, one = np.empty(families, np.int64), np.empty((families, widest)), np.empty(widest), np.ones(widest)
    mean, lean, own = np.zeros(rows), np.zeros(rows), np.zeros(max(slots, 1))
    seen = np.full(rows, -1, np.int64)
    sure[:] = 0.0
    several[:] = 0.0
    load[:] = 0.0
    curve[:] = 0.0
    exact, smooth, certain, many, worth = 0.0, 0.0, 0.0, 0.0, 0.0
    reach = far * temperature
    for u in range(begin, end):
        if again and choice[u] != OPEN:
            continue
        settled = False
        first = start[u]
        count = start[u + 1] - first
        cap = most[u] if most.shape[0] > 1 else most[0]
        if cap == 0.0 or count == 0:
            choice[u] = NOTHING
            continue
        fee = _fee(mslot, mtab, prices, u, own)
        _score(value, offer, weights, slots, flat, dense, unit, priced, own, fee, first, count, score)
        if cap <= 1.0:
            top = 0.0
            for j in range(count):
                top = score[j] if score[j] > top else top
            cut = top - reach
            n = 0
            for j in range(count):
                n += 1 if score[j] > cut else 0
            exact += cap * top
            if n == 0:
                smooth += cap * top
                if not again:
                    choice[u] = NOTHING
                continue
            if n == 1 and cut >= 0.0 and not again:
                smooth += cap * top
                j = 0
                while not score[j] > cut:
                    j += 1
                e = first + j
                if cap == 1.0:
                    certain += value[e]
                    choice[u] = e
                    for f in range(families):
                        r = int(frow[f, offer[e]]) if fmem[f] < 0 else int(mtab[fmem[f], u])
                        if r >= 0:
                            sure[r] += weights[fslot[f]][e] if fslot[f] >= 0 else 1.0
                else:
                    many += cap * value[e]
                    choice[u] = SEVERAL
                    _loaded(e, u, cap, offer, weights, fslot, frow, fmem, mtab, several)
                continue
            n, log = _shares_of_one(score, count, top, temperature, far, near, share, bits, powers)
            smooth += cap * log
            scale, binds, spread, simplex = cap, True, 1.0, True
        else:
            cap = min(cap, float(count))
            exact += _best(score, count, cap, ranked)
            n, log, binds = _shares_of_many(score, count, cap, temperature, far, ranked, near, share)
            smooth += log
            if n == 0:
                if not again:
                    choice[u] = NOTHING
                continue
            scale, spread, simplex, settled = 1.0, 0.0, False, not again
            for b in range(n):
                settled = settled and share[b] > 1.0 - 1e-7
        if settled:
            choice[u] = SEVERAL
            for b in range(n):
                e = first + near[b]
                many += value[e]
                _loaded(e, u, 1.0, offer, weights, fslot, frow, fmem, mtab, several)
            continue
        choice[u] = OPEN
        # simplex: E[a a'] - E[a] E[a]'; several: sum y (1 - y) a a' less the part along what `most` holds fixed
        for b in range(n):
            worth += scale * share[b] * value[first + near[b]]
            turn[b] = share[b] if simplex else share[b] * (1.0 - share[b])
            spread += 0.0 if simplex else turn[b]
        touches = 0
        for f in range(families):  # families whose row is the same for all of a member's pairs
            if kind[f] == BY_OFFER:
                continue
            r = int(frow[f, 0]) if kind[f] == ALL else int(mtab[fmem[f], u])
            row[f] = r
            if r < 0:
                continue
            if fslot[f] < 0:
                for b in range(n):
                    part[f, b] = 1.0
            else:
                weight = weights[fslot[f]][first : first + count]
                for b in range(n):
                    part[f, b] = weight[near[b]]
            touched[touches] = r
            touches += 1
            mean[r] = _sums(share, part[f], one, n)
            lean[r] = _sums(turn, part[f], one, n)
            for g in range(f + 1):
                if kind[g] != BY_OFFER and row[g] >= 0:
                    curve[row[g], r] += scale * _sums(turn, part[f], part[g], n)
        for f in range(families):
            if kind[f] != BY_OFFER:
                continue
            for b in range(n):
                e = first + near[b]
                r = int(frow[f, offer[e]])
                if r < 0:
                    continue
                a = weights[fslot[f]][e] if fslot[f] >= 0 else 1.0
                if seen[r] != u:
                    seen[r] = u
                    mean[r], lean[r] = 0.0, 0.0
                    touched[touches] = r
                    touches += 1
                mean[r] += share[b] * a
                lean[r] += turn[b] * a
                a *= scale * turn[b]
                for g in range(families):
                    if kind[g] != BY_OFFER:
                        q = row[g]
                        if q >= 0:
                            curve[min(q, r), max(q, r)] += a * part[g, b]
                    elif g <= f:
                        q = int(frow[g, offer[e]])
                        if q >= 0:
                            curve[q, r] += a * (weights[fslot[g]][e] if fslot[g] >= 0 else 1.0)
        lowered = scale / spread if binds and spread > 0.0 else 0.0
        for b in range(touches):
            r = touched[b]
            load[r] += scale * mean[r]
            for c in range(b + 1):
                q = touched[c]
                curve[min(r, q), max(r, q)] -= lowered * lean[r] * lean[q]
    return exact, smooth, certain, many, worth


@compiled
def collect(
    start: Any, offer: Any, value: Any, weights: Any, slots: int, flat: Any, dense: bool, mslot: Any, mtab: Any,
    most: Any, unit: Any, priced: Any, prices: Any, temperature: float, far: float, begin: int, end: int, widest: int,
    least: float, fslot: Any, frow: Any, fmem: Any, choice: Any, pairs: Any, shares: Any, load: Any,
) -> tuple[int, float]:  # fmt: skip
    """Shares of the members that `sweep` left open, at the same prices and temperature.

    Args:
        start: as all up to `widest` like `sweep`.
        least: a share below is not kept: the member's largest takes it.
        fslot: (F) weight of a family, and `frow`, `fmem`: as for `sweep`.
        choice: (N); a member who turns out to be sure is written.
        pairs: written: pairs, in order.
        shares: written: their shares.
        load: (K), written: loads of these members.

    Returns:
        How many pairs were written; if more than `pairs` holds, those beyond were not. And these members' value.

    Source:
        Ours.
    """
    score, share, ranked = np.empty(widest), np.empty(widest + 1), np.empty(widest + 2)
    near, own = np.empty(widest + 1, np.int64), np.zeros(max(slots, 1))
    bits = np.empty(widest + 1, np.int64)
    powers = bits.view(np.float64)
    written, worth = 0, 0.0
    load[:] = 0.0
    for u in range(begin, end):
        if choice[u] != OPEN and choice[u] != SEVERAL:
            continue
        first = start[u]
        count = start[u + 1] - first
        cap = most[u] if most.shape[0] > 1 else most[0]
        fee = _fee(mslot, mtab, prices, u, own)
        _score(value, offer, weights, slots, flat, dense, unit, priced, own, fee, first, count, score)
        if cap <= 1.0:
            top = 0.0
            for j in range(count):
                top = max(top, score[j])
            n, _ = _shares_of_one(score, count, top, temperature, far, near, share, bits, powers)
            if n == 0:
                choice[u] = NOTHING
                continue
            nothing = 1.0
            dropped, best = 0.0, 0
            for b in range(n):
                nothing -= share[b]
                best = b if share[b] > share[best] else best
                dropped += share[b] if share[b] < least else 0.0
            if nothing < least:
                dropped += max(nothing, 0.0)
            if share[best] >= nothing:
                share[best] = min(share[best] + dropped, 1.0)
            if share[best] > 1.0 - least:
                share[best] = 1.0
            if share[best] == 1.0 and cap == 1.0:
                e = first + near[best]
                choice[u] = e
                worth += value[e]
                _loaded(e, u, 1.0, offer, weights, fslot, frow, fmem, mtab, load)
                continue
            for b in range(n):
                share[b] *= cap
        else:
            cap = min(cap, float(count))
            _best(score, count, cap, ranked)
            n, _, _ = _shares_of_many(score, count, cap, temperature, far, ranked, near, share)
            total = 0.0
            for b in range(n):
                if share[b] > 1.0 - least:
                    share[b] = 1.0
                if share[b] < least:
                    share[b] = 0.0
                total += share[b]
            if total > cap:  # rounding shares up may exceed `most` by n least: those that were not rounded give way
                loose = 0.0
                for b in range(n):
                    loose += share[b] if share[b] < 1.0 else 0.0
                for b in range(n):
                    if loose > 0.0 and share[b] < 1.0:
                        share[b] *= max(0.0, 1.0 - (total - cap) / loose)
        kept = 0
        for b in range(n):
            if share[b] >= least:
                e = first + near[b]
                if written < pairs.shape[0]:
                    pairs[written] = e
                    shares[written] = share[b]
                written += 1
                worth += share[b] * value[e]
                _loaded(e, u, share[b], offer, weights, fslot, frow, fmem, mtab, load)
                kept += 1
        if kept == 0:
            choice[u] = NOTHING
    return written, worth


@compiled
def tally(
    value: Any, offer: Any, weights: Any, fslot: Any, frow: Any, fmem: Any, mtab: Any, choice: Any, begin: int,
    end: int, load: Any,
) -> float:  # fmt: skip
    """Value and loads of the pairs that members `begin` to `end` - 1 surely get; the loads are added to `load`."""
    worth = 0.0
    for u in range(begin, end):
        e = choice[u]
        if e < 0:
            continue
        worth += value[e]
        for f in range(fslot.shape[0]):
            r = int(frow[f, offer[e]]) if fmem[f] < 0 else int(mtab[fmem[f], u])
            if r >= 0:
                load[r] += weights[fslot[f]][e] if fslot[f] >= 0 else 1.0
    return worth
