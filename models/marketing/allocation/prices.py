"""What shadow prices say: the net value of a pair, what a member then likes best, and a bound on the value of all.

    net_e(y) = v_e - sum_k a_ke y_k
    D(y) = sum_k max(l_k y_k, u_k y_k) + sum_u (sum of the most_u greatest net_e(y) above zero)

Shapes: N members, M offers, E pairs, K shared rows, S pairs chosen.

Source: Lagrangian duality; for the allocation of offers as in "From Prediction to Incrementality" (arXiv 2608.10182).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.marketing.allocation.program import Floats, Integers, Program

TOGETHER = 1 << 20
"""Pairs looked at together."""


def spans(program: Program, together: int = TOGETHER) -> Iterator[tuple[int, int]]:
    """Members side by side, some `together` pairs at a time: the first, and the one after the last."""
    begin = 0
    while begin < program.N:
        end = int(np.searchsorted(program.start, program.start[begin] + together, side="right")) - 1
        end = min(program.N, max(end, begin + 1))
        yield begin, end
        begin = end


def paid(program: Program, prices: Floats, begin: int, end: int) -> Floats:
    """What the pairs of the members from `begin` to before `end` pay for the rows that they use."""
    first, last = int(program.start[begin]), int(program.start[end])
    total = np.zeros(last - first)
    offer = program.offer[first:last]
    for family, row in zip(program.families, program.first, strict=True):
        own = np.append(prices[row : row + len(family.rows)], 0.0)  # the last one stands for NOTHING
        if not own.any():
            continue
        if family.offers is not None:
            price = own[np.asarray(family.offers)][offer]
        elif family.members is not None:
            price = np.repeat(own[np.asarray(family.members)[begin:end]], np.diff(program.start[begin : end + 1]))
        else:
            price = np.full(last - first, own[0])
        total += price if family.weight is None else price * family.weight[first:last].astype(np.float64)
    return total


def net_values(program: Program, prices: Floats, begin: int, end: int) -> Floats:
    """Net values of the pairs of the members from `begin` to before `end`."""
    first, last = int(program.start[begin]), int(program.start[end])
    return program.value[first:last].astype(np.float64) - paid(program, prices, begin, end)


def best(program: Program, gain: Floats, begin: int, end: int) -> tuple[Integers, Floats, Floats]:
    """What members like best at some gain of their pairs.

    Args:
        program: the program.
        gain: of each pair of the members.
        begin: the first member.
        end: the one after the last.

    Returns:
        (S) numbers of pairs, rising within a member's gain; (S) their shares, one but for the last of a cap that is not
        whole; and (N) what each member has. Pairs whose gain is not above zero are left out; of equal ones the first
        comes first.
    """
    first = int(program.start[begin])
    counts = np.diff(program.start[begin : end + 1])
    caps = program.most_of(slice(begin, end))
    if (caps == 1.0).all():
        top, full = np.zeros(end - begin), counts > 0
        if full.any():
            top[full] = np.maximum(np.maximum.reduceat(gain, (program.start[begin:end] - first)[full]), 0.0)
        at = np.flatnonzero((gain == np.repeat(top, counts)) & (gain > 0))
        who = np.searchsorted(program.start[begin : end + 1], at + first, side="right") - 1
        at = at[np.append(True, who[1:] != who[:-1])] if len(at) else at
        return at + first, np.ones(len(at)), top
    above = np.flatnonzero(gain > 0)
    who = np.searchsorted(program.start[begin : end + 1], above + first, side="right") - 1
    order = np.lexsort((-gain[above], who))
    above, who = above[order], who[order]
    found = np.bincount(who, minlength=end - begin)
    rank = np.arange(len(above)) - np.repeat(np.cumsum(found) - found, found)
    share = np.clip(caps[who] - rank, 0.0, 1.0)
    has = np.bincount(who, gain[above] * share, minlength=end - begin).astype(np.float64)
    kept = share > 0
    return above[kept] + first, share[kept], has


def rows_worth(program: Program, prices: Floats) -> float:
    """sum_k max(l_k y_k, u_k y_k); infinite when a price's side of its row has no bound."""
    side = np.where(prices > 0, program.upper, program.lower)
    return float(np.sum(prices[prices != 0] * side[prices != 0]))


def dual_bound(program: Program, prices: Floats) -> float:
    """D(y): no allocation within the rows is worth more.

    Args:
        program: the program.
        prices: (K) any prices.

    Returns:
        The bound, in the unit of the values; infinite when a price's side of its row has no bound.

    Source:
        The module's formula.
    """
    total = rows_worth(program, prices)
    for begin, end in spans(program):
        total += float(best(program, net_values(program, prices, begin, end), begin, end)[2].sum())
    return total


def best_of_all(program: Program, prices: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Pairs and shares that all members like best at some prices."""
    parts = [best(program, net_values(program, prices, b, e), b, e)[:2] for b, e in spans(program)]
    if not parts:
        return np.empty(0, np.int64), np.empty(0)
    return np.concatenate([pairs for pairs, _ in parts]), np.concatenate([shares for _, shares in parts])
