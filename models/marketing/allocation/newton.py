"""Newton's method on the smoothed bound, with the temperature falling as the rows come right.

Minimises  F(p) = sum_k max(l_k p_k, u_k p_k) + smooth(p)  over prices p (K). The first part has a kink at zero for a
row with two bounds, and forbids a sign for a row with one. A step minimises the quadratic model of `smooth` with that
first part kept as it is: which prices are zero is found within the step, not one step at a time.

Source: smoothing and continuation as in Nesterov (2005) and DuaLip; the step is a proximal Newton step (Lee, Sun and
Saunders, Proximal Newton-type methods, 2014, section 2). Lowering the temperature together with a step, is ours.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from models.marketing.allocation.arranged import Reading
from models.marketing.allocation.program import Floats

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")

COOLING = 0.15
"""How the temperature falls at a time."""

_WRONG = 0.3
"""Rows wrong by more keep the temperature where it is. Waiting for half of the loss instead took three times as many
passes."""

_PATIENT = 100.0
"""So do rows wrong by so many times the loss: at a low temperature few members share, and a step sees only those."""


@compiled
def _solve(matrix: Any, side: Any, n: int) -> None:
    """Cholesky in place, the solution in `side`; a pivot that is not above zero is replaced by a large one."""
    for j in range(n):
        pivot = matrix[j, j]
        for k in range(j):
            pivot -= matrix[j, k] * matrix[j, k]
        if not pivot > 1e-14 * matrix[j, j]:
            pivot = 1e300
        root = np.sqrt(pivot)
        matrix[j, j] = root
        for i in range(j + 1, n):
            x = matrix[i, j]
            for k in range(j):
                x -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = x / root
    for j in range(n):
        x = side[j]
        for k in range(j):
            x -= matrix[j, k] * side[k]
        side[j] = x / matrix[j, j]
    for j in range(n - 1, -1, -1):
        x = side[j]
        for k in range(j + 1, n):
            x -= matrix[k, j] * side[k]
        side[j] = x / matrix[j, j]


@compiled
def step(at: Any, load: Any, curve: Any, lower: Any, upper: Any) -> Any:
    """The step that minimises the model.

    Args:
        at: (K) prices; all in units in which each row's bound is about one.
        load: (K) loads.
        curve: (K, K) curvature, positive definite.
        lower: (K) least loads, -inf none.
        upper: (K) most loads, inf none.

    Returns:
        (K) step. Prices that it takes to zero are exactly zero after it.

    Source:
        Active sets by principal pivoting, all at once and then one by one (Kunisch and Rendl 2003).
    """
    rows = at.shape[0]
    side = np.zeros(rows, np.int64)
    for k in range(rows):
        if at[k] > 0.0 or (at[k] == 0.0 and load[k] > upper[k]):
            side[k] = 1
        elif at[k] < 0.0 or (at[k] == 0.0 and load[k] < lower[k]):
            side[k] = -1
    d = np.zeros(rows)
    free = np.empty(rows, np.int64)
    matrix, right = np.empty((rows, rows)), np.empty(rows)
    for turn in range(60):
        n = 0
        for k in range(rows):
            if side[k] != 0:
                free[n] = k
                n += 1
            else:
                d[k] = -at[k]
        for i in range(n):
            k = free[i]
            right[i] = load[k] - (upper[k] if side[k] > 0 else lower[k])
            for q in range(rows):
                if side[q] == 0:
                    right[i] -= curve[k, q] * d[q]
            for j in range(n):
                matrix[i, j] = curve[k, free[j]]
        _solve(matrix, right, n)
        for i in range(n):
            d[free[i]] = right[i]
        changed = False
        for i in range(n):
            k = free[i]
            if (at[k] + d[k]) * side[k] < 0.0:
                side[k] = 0
                changed = True
                if turn > 20:
                    break
        if changed:
            continue
        for k in range(rows):
            if side[k] != 0:
                continue
            expected = load[k]
            for q in range(rows):
                expected -= curve[k, q] * d[q]
            if expected > upper[k] + 1e-12:
                side[k] = 1
                changed = True
            elif expected < lower[k] - 1e-12:
                side[k] = -1
                changed = True
            if changed and turn > 20:
                break
        if not changed:
            break
    for k in range(rows):
        if side[k] == 0 or (at[k] + d[k]) * side[k] < 0.0:
            d[k] = -at[k]
    return d


@dataclass
class Rows:
    """Bounds of the rows, those aimed at, and each row's unit.

    Attributes:
        lower: (K).
        upper: (K).
        low: (K) lower bounds aimed at, a little inside where there is room.
        high: (K) upper bounds aimed at.
        unit: (K) load that counts as one.
        under: (K) what a load below the lower bound is compared with: a far upper bound must not make it look small.
        over: (K) what one above the upper bound is compared with.
    """

    lower: Floats
    upper: Floats
    low: Floats
    high: Floats
    unit: Floats
    under: Floats
    over: Floats

    def scaled(self, share: float) -> "Rows":
        """For a sample with this share of the members."""
        parts = (self.lower, self.upper, self.low, self.high, self.unit, self.under, self.over)
        return Rows(*(share * x for x in parts))

    def beyond(self, load: Floats) -> Floats:
        """(K) how far loads are outside of the bounds, in each row's own unit."""
        return np.maximum(np.maximum(load - self.upper, self.lower - load), 0.0)

    def excess(self, load: Floats) -> Floats:
        """(K) the same, relative to the bound that is passed."""
        return relative_excess(load, self.lower, self.upper, self.under, self.over)

    def missed(self, load: Floats) -> Floats:
        """(K) how far loads are outside of the bounds that are aimed at, relative to those."""
        return relative_excess(load, self.low, self.high, self.under, self.over)


def relative_excess(load: Floats, lower: Floats, upper: Floats, under: Floats, over: Floats) -> Floats:
    """(K) how far loads are outside of bounds, relative to what each side is compared with."""
    return np.maximum(np.maximum((load - upper) / over, (lower - load) / under), 0.0)


def priced(prices: Floats, lower: Floats, upper: Floats) -> float:
    """sum_k max(l_k p_k, u_k p_k); a price of zero costs nothing, whatever the bound."""
    above, below = prices > 0, prices < 0
    return float(prices[above] @ upper[above] + prices[below] @ lower[below])


def sides(lower: Floats, upper: Floats, unit: Floats) -> tuple[Floats, Floats]:
    """(K) and (K) what loads below and above their bounds are compared with: the bound, but at most the row's unit."""
    under, over = (
        np.where(np.isfinite(bound) & (bound != 0), np.clip(np.abs(bound), 1e-12 * unit, unit), unit)
        for bound in (lower, upper)
    )
    return under, over


def aimed(lower: Floats, upper: Floats, unit: Floats, margin: float) -> Rows:
    """Rows whose aims lie a margin inside, but at most a quarter of the way between two bounds."""
    with np.errstate(invalid="ignore"):
        room = np.where(np.isfinite(lower) & np.isfinite(upper), (upper - lower) / 4, np.inf)
    under, over = sides(lower, upper, unit)
    low, high = lower + np.minimum(margin * under, room), upper - np.minimum(margin * over, room)
    return Rows(lower, upper, low, high, unit, under, over)


@dataclass
class Point:
    """Prices, their temperature, and the reading there."""

    prices: Floats
    temperature: float
    reading: Reading
    bound: float


class Descent:
    """Newton's method at one level: a sample, or all members.

    Args:
        read: one reading at prices and a temperature.
        rows: bounds.
        scale: value that a price times a unit is compared with: the most that members could be worth.
        prices: start.
        temperature: start.
    """

    def __init__(
        self,
        read: Callable[[Floats, float], Reading],
        rows: Rows,
        scale: float,
        prices: Floats,
        temperature: float,
    ) -> None:
        self.read_at, self.rows, self.scale = read, rows, scale
        self.passes, self.stalled, self.reach, self.limited, self.moved = 0, 0, 0.5 * scale, False, 0.0
        self.least = (np.inf, prices)
        self.move_to(prices, temperature)

    def move_to(self, prices: Floats, temperature: float) -> None:
        """Read at other prices."""
        self.point = self._at(prices, temperature)

    def among(self, read: Callable[[Floats, float], Reading]) -> "Descent":
        """A descent from here, of what another reading says that agrees here; it leaves this one as it is."""
        other = copy.copy(self)
        other.read_at, other.passes, other.stalled, other.limited, other.moved = read, 0, 0, False, 0.0
        return other

    def _at(self, prices: Floats, temperature: float) -> Point:
        reading = self.read_at(prices, temperature)
        self.passes += 1
        bound = reading.exact + priced(prices, self.rows.lower, self.rows.upper)
        if bound < self.least[0]:
            self.least = (bound, prices)
        return Point(prices, temperature, reading, bound)

    def off(self) -> float:
        """How wrong the rows are: the worst excess over the aims, and slack that is priced, against the bound."""
        p, load = self.point.prices, self.point.reading.load
        slack = abs(priced(p, self.rows.low, self.rows.high) - float(p @ load))
        return float(self.rows.missed(load).max(initial=0.0)) + slack / self.size()

    def smoothed(self, point: Point) -> float:
        """What is minimised, at a point."""
        return priced(point.prices, self.rows.low, self.rows.high) + point.reading.smooth

    def size(self) -> float:
        """What gaps are relative to."""
        return max(abs(self.least[0]), 1e-9 * self.scale, 1e-300)

    def loss(self) -> float:
        """What the smoothing costs, relative: the members' bound less what their shares earn at these prices."""
        reading = self.point.reading
        return (reading.exact - (reading.worth - float(self.point.prices @ reading.load))) / self.size()

    def cooling(self, target: float) -> float:
        """How the temperature should change with the next step, for a loss of `target`.

        It waits while the rows are wrong by much. The loss falls about with the temperature's square: members who share
        are so many, and each loses so much. When steps no longer help, the temperature rises.
        """
        loss = self.loss()
        if self.stalled >= 2:
            return 2.0
        if loss <= target or self.off() > min(_WRONG, _PATIENT * loss):
            return 1.0
        return max(COOLING, float(np.sqrt(0.7 * target / loss)))

    def advance(self, cool: float = 1.0) -> None:
        """One step, halved until the smoothed bound falls; or one to a temperature `cool` times as high."""
        here, rows = self.point, self.rows
        unit, load = rows.unit, here.reading.load
        curve = here.reading.curve / np.outer(unit, unit) if len(unit) else here.reading.curve
        diagonal = np.diag(curve)
        ridge = 1e-4 * diagonal + 1e-9 * diagonal.max(initial=0.0) + 1e-12 / self.scale
        curve = curve + np.diag(ridge)
        at = here.prices * unit
        move = step(at, load / unit, curve, rows.low / unit, rows.high / unit)
        longest = float(np.abs(move).max(initial=0.0))
        self.limited = longest > self.reach
        if self.limited:
            move *= self.reach / longest
        temperature = here.temperature * cool
        start = priced(here.prices, rows.low, rows.high) + here.reading.smooth
        # the model's promised change, never above zero
        promised = float(-(load / unit) @ move) + priced((at + move) / unit, rows.low, rows.high)
        promised -= priced(here.prices, rows.low, rows.high)
        share = 1.0
        while True:
            prices = (at + share * move) / unit
            prices[(at + share * move) == 0] = 0.0
            there = self._at(prices, temperature)
            after = priced(prices, rows.low, rows.high) + there.reading.smooth
            if cool != 1.0 or after <= start + 1e-4 * share * promised + 1e-13 * abs(start) or share < 1e-3:
                break
            share *= 0.3
        self.stalled = self.stalled + 1 if share < 1e-2 else 0
        if self.limited and share == 1.0:
            self.reach *= 4
        self.moved = share * min(longest, self.reach)
        self.point = there
