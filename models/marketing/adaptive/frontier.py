"""What a budget buys when it is the only shared row: the exact answer of that program for every budget at once.

    V(C) = max_x  sum_e v_e x_e   s.t.  sum_e c_e x_e <= C,  sum_{e of member u} x_e <= 1,  0 <= x_e <= 1

V is concave and made of straight pieces: the steps of every member's upper hull of (cost, value), taken in the order of
value per cost. Pacing plans with it, bidding reads its price from it, and what a clairvoyant would have bought with the
same budget is one more point on it.
"""

# Shapes: E pairs, N members, J steps of hulls.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier:
    """The concave curve of value against spend, as steps of falling value per cost.

    Attributes:
        slope: (J) value per unit of cost of each step, falling.
        pair: (J) the pair that a member holds once the step is taken in full.
        spend: (J) cost of the step and of all before it.
        value: (J) value of the step and of all before it.
        free: value of pairs that cost nothing, which are taken at any budget.
        free_pairs: those pairs, at most one a member.
    """

    slope: Floats
    pair: Integers
    spend: Floats
    value: Floats
    free: float
    free_pairs: Integers

    def value_at(self, spend: float) -> float:
        """The most value that may be bought for at most so much, the last step in part."""
        return self.free + float(np.interp(spend, np.append(0.0, self.spend), np.append(0.0, self.value)))

    def price_at(self, spend: float) -> float:
        """Shadow price at a budget: value of one more unit of cost; 0 where all that is worth buying is bought."""
        place = int(np.searchsorted(self.spend, spend, side="right"))
        return float(self.slope[place]) if place < len(self.slope) else 0.0

    def spend_at(self, price: float) -> float:
        """What is spent when every step worth more than the price per unit of cost is taken."""
        place = int(np.searchsorted(-self.slope, -price, side="left"))
        return float(self.spend[place - 1]) if place else 0.0

    def pairs_within(self, spend: float, member: NDArray[np.integer]) -> Integers:
        """The pair that every member holds when only steps that fit the budget in full are taken.

        Args:
            spend: the budget; what is held costs no more.
            member: (E) of each pair, codes from 0.

        Returns:
            (N) pairs, -1 for none, N one more than the largest code.
        """
        held = np.full(int(member.max()) + 1 if len(member) else 0, -1, np.int64)
        held[member[self.free_pairs]] = self.free_pairs
        taken = self.pair[: np.searchsorted(self.spend, spend, side="right")]
        held[member[taken]] = taken  # of several steps of a member the last one counts, and it comes last
        return held


def frontier(member: NDArray[np.integer], value: NDArray[np.floating], cost: NDArray[np.floating]) -> Frontier:
    """The whole curve of a program with one cost row.

    Args:
        member: (E) of each pair, any codes.
        value: (E) worth of the pair; a pair worth nothing or less is never taken.
        cost: (E) what it costs, zero or more.

    Returns:
        The curve; empty when no pair is worth anything.

    Raises:
        InputError: lengths differ, a number is not finite, or a cost is negative.

    Source:
        Dyer 1984, "An O(n) algorithm for the multiple-choice knapsack linear program", and Zemel 1984: the hull of each
        class, then greedily by slope.
    """
    worth, price = np.asarray(value, np.float64), np.asarray(cost, np.float64)
    owner = np.asarray(member)
    _checked(owner, worth, price)
    _, owner = np.unique(owner, return_inverse=True)
    order = np.lexsort((-worth, price, owner))
    order = order[worth[order] > 0]
    owner, price, worth = owner[order], price[order], worth[order]
    members = int(owner[-1]) + 1 if len(owner) else 0
    reached_cost, reached_value, last_slope = np.zeros(members), np.zeros(members), np.full(members, np.inf)
    slopes, pairs, costs, values = [], [], [], []
    free_pairs = np.empty(0, np.int64)
    free = 0.0
    nothing = price == 0
    if nothing.any():
        first = np.flatnonzero(nothing & np.append(True, owner[1:] != owner[:-1]))
        reached_value[owner[first]] = worth[first]
        free, free_pairs = float(worth[first].sum()), order[first].astype(np.int64)
    alive = ~nothing
    while True:
        alive = alive & (price > reached_cost[owner]) & (worth > reached_value[owner])
        place = np.flatnonzero(alive)
        if not len(place):
            break
        held = owner[place]
        slope = (worth[place] - reached_value[held]) / (price[place] - reached_cost[held])
        ranked = np.lexsort((-price[place], -slope, held))
        first = ranked[np.append(True, held[ranked][1:] != held[ranked][:-1])]
        chosen, who = place[first], held[first]
        # rounding must not let a later step of a hull pass an earlier one
        last_slope[who] = np.minimum(slope[first], last_slope[who])
        slopes.append(last_slope[who])
        pairs.append(order[chosen])
        costs.append(price[chosen] - reached_cost[who])
        values.append(worth[chosen] - reached_value[who])
        reached_cost[who], reached_value[who] = price[chosen], worth[chosen]
    if not slopes:
        empty = np.empty(0)
        return Frontier(slope=empty, pair=np.empty(0, np.int64), spend=empty, value=empty, free=free,
                        free_pairs=free_pairs)  # fmt: skip
    slope_J, pair_J = np.concatenate(slopes), np.concatenate(pairs)
    # a member's steps were appended in falling slope, so a stable sort keeps each hull in its order
    sort = np.argsort(-slope_J, kind="stable")
    return Frontier(
        slope=slope_J[sort],
        pair=pair_J[sort].astype(np.int64),
        spend=np.cumsum(np.concatenate(costs)[sort]),
        value=np.cumsum(np.concatenate(values)[sort]),
        free=free,
        free_pairs=free_pairs,
    )


def _checked(owner: NDArray[np.integer], worth: Floats, price: Floats) -> None:
    if not owner.shape == worth.shape == price.shape or owner.ndim != 1:
        raise InputError(
            f"member, value and cost must be one row of the same length, got {owner.shape}, {worth.shape}, "
            f"{price.shape}; give every pair all three."
        )
    for name, numbers in (("value", worth), ("cost", price)):
        wrong = np.flatnonzero(~np.isfinite(numbers))
        if len(wrong):
            raise InputError(
                f"{name} of pair {wrong[0]} (member {owner[wrong[0]]}) is {numbers[wrong[0]]}; it must be finite."
            )
    wrong = np.flatnonzero(price < 0)
    if len(wrong):
        raise InputError(
            f"cost of pair {wrong[0]} (member {owner[wrong[0]]}) is {price[wrong[0]]:g}; it must be zero or more: "
            "what pays is a value."
        )
