"""Balanced lots: chances become whole offers while the load of every row stays as it is; and the same without chance.

Take K + 1 members who are not sure, each with two options. There is a direction in which their chances can move
without moving any of the K loads. Go along it, forth or back, until a chance is zero or one; which way is drawn such
that every chance keeps its mean. One chance is settled, and another member takes the place. At the end at most K
members are left, and the loads have not moved at all. If the way is not drawn but chosen such that the value does not
fall, shares become those of a vertex.

Shapes: S pairs with a chance, K shared rows, F families.

Source: the flight of the cube method (Deville and Tille, Efficient balanced sampling, Biometrika 2004), in the form of
Chauvet and Tille (2006) that moves few units at a time. Members with more than two options, one pair of them after
another, are ours.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from models.marketing.allocation.program import Floats

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")

_ZERO = 1e-11


def balance(
    member: NDArray[Any],
    rows: NDArray[Any],
    weights: NDArray[Any],
    shares: Floats,
    count: int,
    random: np.random.Generator,
) -> Floats:
    """Settle chances without moving loads, until at most K members are left.

    Args:
        member: (S) whose chance it is, rising.
        rows: (F, S) row that it counts in, by family; -1: none.
        weights: (F, S) what it adds there.
        shares: (S) chances between zero and one, of a member together at most whatever she may have.
        count: K.
        random: draws the ways.

    Returns:
        (S) chances with the same means and the same loads; all but those of at most K members are zero or one, and a
        member's sum is what it was or, where that was not whole, one of the whole numbers beside it.

    Source:
        See the module.
    """
    return _settled(member, rows, weights, shares, np.zeros(len(shares)), count, random)


def purify(
    member: NDArray[Any], rows: NDArray[Any], weights: NDArray[Any], shares: Floats, value: NDArray[Any], count: int
) -> Floats:
    """Settle shares without moving loads and without losing value, until at most K members are left.

    Args:
        member: (S) as in `balance`, like all that follow.
        rows: (F, S).
        weights: (F, S).
        shares: (S).
        value: (S) of a whole offer.
        count: K.

    Returns:
        (S) shares with the same loads and no less value; all but those of at most K members are zero or one.

    Source:
        The purification of a feasible point of a linear program (Kortanek and Zhu, 1988), member by member.
    """
    return _settled(member, rows, weights, shares, np.asarray(value, np.float64), count, None)


def _settled(
    member: NDArray[Any],
    rows: NDArray[Any],
    weights: NDArray[Any],
    shares: Floats,
    value: Floats,
    count: int,
    random: np.random.Generator | None,
) -> Floats:
    if not len(shares):
        return shares.copy()
    starts = np.flatnonzero(np.append(True, member[1:] != member[:-1])).astype(np.int64)
    ends = np.append(starts[1:], len(member)).astype(np.int64)
    sums = np.add.reduceat(shares, starts)
    # "nothing" is an option like any other: it takes what is left up to the next whole number
    nothing = np.maximum(np.ceil(sums - 1e-9) - sums, 0.0)
    options = np.concatenate([shares, nothing])
    gains = np.concatenate([value, np.zeros(len(nothing))])
    draws = np.empty(0) if random is None else random.random(len(options) + 1)
    scale = np.full(count, 1e-300)
    inside = rows >= 0
    np.maximum.at(scale, rows[inside], np.abs(weights[inside]))
    scaled = np.where(inside, weights / scale[rows], 0.0) if count else weights
    _flight(starts, ends, np.ascontiguousarray(rows.astype(np.int64)), scaled, options, gains, count, draws)
    return np.asarray(np.clip(options[: len(shares)], 0.0, 1.0))


@compiled
def _next(starts: Any, ends: Any, options: Any, u: int, after: int) -> int:
    """The member's next option with a chance between zero and one, from place `after` on; -1: none."""
    size = ends[u] - starts[u]
    for place in range(after, size + 1):
        at = starts[u] + place if place < size else ends[-1] + u
        if _ZERO < options[at] < 1.0 - _ZERO:
            return int(place)
    return -1


@compiled
def _column(starts: Any, ends: Any, rows: Any, weights: Any, u: int, place: int, sign: float, out: Any) -> None:
    """Add what an option puts on the rows."""
    if place >= ends[u] - starts[u]:
        return
    for f in range(rows.shape[0]):
        k = rows[f, starts[u] + place]
        if k >= 0:
            out[k] += sign * weights[f, starts[u] + place]


@compiled
def _kernel(matrix: Any, work: Any, out: Any) -> None:
    """A vector that the matrix (K x K + 1) sends to zero: Gauss-Jordan up to the first column without a pivot."""
    K, width = matrix.shape
    work[:, :] = matrix
    out[:] = 0.0
    for j in range(width):
        best, at = 1e-9, -1
        for i in range(j, K):
            if abs(work[i, j]) > best:
                best, at = abs(work[i, j]), i
        if at < 0:
            out[j] = 1.0
            for i in range(j):
                out[i] = -work[i, j]
            return
        for c in range(j, width):
            work[j, c], work[at, c] = work[at, c], work[j, c]
        top = work[j, j]
        for c in range(j, width):
            work[j, c] /= top
        for i in range(K):
            factor = work[i, j]
            if i != j and factor != 0.0:
                for c in range(j, width):
                    work[i, c] -= factor * work[j, c]


@compiled
def _flight(starts: Any, ends: Any, rows: Any, weights: Any, options: Any, gains: Any, count: int, draws: Any) -> None:
    """Move chances along directions that leave the loads alone, in place; without draws, where no gain is lost."""
    members = starts.shape[0]
    width = count + 1
    who = np.empty(width, np.int64)
    one = np.empty(width, np.int64)
    two = np.empty(width, np.int64)
    matrix = np.zeros((count, width))
    work = np.zeros((count, width))
    way = np.zeros(width)
    size, coming, drawn = 0, 0, 0
    by_lot, most = draws.shape[0] > 0, options.shape[0] + 1
    while True:
        while size < width and coming < members:
            first = _next(starts, ends, options, coming, 0)
            second = _next(starts, ends, options, coming, first + 1) if first >= 0 else -1
            if second >= 0:
                who[size], one[size], two[size] = coming, first, second
                matrix[:, size] = 0.0
                _column(starts, ends, rows, weights, coming, first, 1.0, matrix[:, size])
                _column(starts, ends, rows, weights, coming, second, -1.0, matrix[:, size])
                size += 1
            coming += 1
        if size < width or drawn >= most:
            return
        _kernel(matrix, work, way)
        forth, back, gain = np.inf, np.inf, 0.0
        for j in range(width):
            if way[j] == 0.0:
                continue
            u = who[j]
            a = starts[u] + one[j] if one[j] < ends[u] - starts[u] else ends[-1] + u
            b = starts[u] + two[j] if two[j] < ends[u] - starts[u] else ends[-1] + u
            up = min(1.0 - options[a], options[b])
            down = min(options[a], 1.0 - options[b])
            step = abs(way[j])
            gain += way[j] * (gains[a] - gains[b])
            if way[j] > 0:
                forth, back = min(forth, up / step), min(back, down / step)
            else:
                forth, back = min(forth, down / step), min(back, up / step)
        onward = draws[drawn] * (forth + back) < back if by_lot else gain >= 0
        move = forth if onward else -back
        drawn += 1
        j = 0
        while j < size:
            u = who[j]
            a = starts[u] + one[j] if one[j] < ends[u] - starts[u] else ends[-1] + u
            b = starts[u] + two[j] if two[j] < ends[u] - starts[u] else ends[-1] + u
            options[a] += move * way[j]
            options[b] -= move * way[j]
            inner = _ZERO < options[a] < 1.0 - _ZERO and _ZERO < options[b] < 1.0 - _ZERO
            if inner:
                j += 1
                continue
            for at in (a, b):
                if options[at] <= _ZERO:
                    options[at] = 0.0
                elif options[at] >= 1.0 - _ZERO:
                    options[at] = 1.0
            first = _next(starts, ends, options, u, 0)
            second = _next(starts, ends, options, u, first + 1) if first >= 0 else -1
            if second >= 0:
                one[j], two[j] = first, second
                matrix[:, j] = 0.0
                _column(starts, ends, rows, weights, u, first, 1.0, matrix[:, j])
                _column(starts, ends, rows, weights, u, second, -1.0, matrix[:, j])
                j += 1
                continue
            size -= 1
            if j < size:
                who[j], one[j], two[j], way[j] = who[size], one[size], two[size], way[size]
                matrix[:, j] = matrix[:, size]
