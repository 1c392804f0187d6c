"""Whole offers from shares: by search, so that every row holds exactly, or by lot, with the chance that a row breaks.

By search. A vertex of the program has at most K members whose shares are not whole. Taking their offers away holds all
upper rows and costs at most K times the most that one member can be worth; small searches over them, and over the
members who are nearest to another choice, win most of that back and put lower rows right.

By lot. A member's shares are chances. Loads then vary about those of the shares. With rows narrowed by `room`, the
chance that any bound is broken is at most delta:

    each member by herself   t_k = b_k c / 3 + sqrt((b_k c / 3)^2 + 2 c V_k)                        (Bernstein)
    balanced                 t_k = sqrt(c / 2 * sum of the K greatest squared ranges of a member)    (Hoeffding)

with c = log(sides / delta), V_k the variance of the load and b_k the greatest range of one member's part in it. A
balanced lot (`balanced.balance`) keeps every load as it is until at most K members are left to chance.

Shapes: N members, E pairs, K shared rows, S pairs with a share above zero, T members who are not sure.

Source: the paper's "linear program with randomization", read as a rounding; Bernstein 1924 and Hoeffding 1963 as in
Boucheron, Lugosi and Massart, Concentration Inequalities (2013), sections 2.6 and 2.8. The searches are ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.allocation.balanced import balance, purify
from models.marketing.allocation.prices import net_values, spans
from models.marketing.allocation.program import Floats, Integers, Program

Sampling = Literal["independent", "balanced"]

WHOLE = 1e-9
"""Shares so near to zero or one are that."""

_NODES = 300
_NEIGHBOURS = (0, 2, 8, 32)
"""Members nearest to another choice who are let into the search, as multiples of K."""

_OPTIONS = 6
_TRIES = 6


class Unroundable(InputError):  # noqa: N818 - says what the program is
    """No whole offers near the shares hold a row; the message names it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Whole:
    """Whole offers.

    Attributes:
        pairs: (S) int64, rising: pairs that are given.
        value: of them.
        promise: the value is at least this: that of the shares less K times the most that one member can be worth.
        loads: (K) of them, each the correctly rounded sum.
        changed: members who have other offers than at the vertex; those with fractions there count.
    """

    pairs: Integers
    value: float
    promise: float
    loads: Floats
    changed: int


def entries(answer: Any) -> tuple[Integers, Floats]:
    """Pairs with a share above zero and their shares, from an answer of the solver."""
    sure = answer.choice[answer.choice >= 0].astype(np.int64)
    pairs = np.concatenate([sure, answer.pairs])
    shares = np.concatenate([np.ones(len(sure)), answer.shares])
    kept = np.flatnonzero(shares > 0)
    order = kept[np.argsort(pairs[kept], kind="stable")]
    return pairs[order], shares[order]


def round_whole(program: Program, pairs: Integers, shares: Floats, prices: Floats) -> Whole:
    """Round shares to whole offers so that every row holds exactly: no bound is passed by a single bit.

    Args:
        program: whose `most` are whole numbers.
        pairs: (S) pairs with a share above zero, rising.
        shares: (S) an allocation that holds the rows but for rounding.
        prices: (K) of the rows: they say who is nearest to another choice.

    Returns:
        The whole offers. At most K members have other ones than at a vertex that is worth no less than the shares, and
        the value is at least `promise`.

    Raises:
        InputError: a member's `most` is not whole.
        Unroundable: the row that stays broken by least, when the search finds nothing that holds all rows.

    Source:
        Ours; see the module.
    """
    caps = np.atleast_1d(np.asarray(program.most, np.float64))
    if (caps != np.floor(caps)).any():
        member = int(np.flatnonzero(caps != np.floor(caps))[0])
        raise InputError(
            f"most of member {program.name_of(member)!r} is {caps[member]}, whole offers need a whole number; round it."
        )
    value = float(np.sum(program.value[pairs] * shares))
    pairs, shares = _at_vertex(program, pairs, shares)
    whole = shares > 1 - WHOLE
    unsure = np.unique(program.member_of(pairs[~whole & (shares > WHOLE)]))
    taken = pairs[whole]
    promise = value - program.K * _most_worth(program)
    search = _Search(program, taken, unsure, prices)
    found = search.without_fractions(pairs[~whole], shares[~whole]) if program.packing else None
    for neighbours in _NEIGHBOURS if found is None else ():
        if (found := search.among(neighbours * program.K)) is not None:
            break
    if found is None:
        raise Unroundable(search.refusal())
    total = math.fsum(program.value[found].astype(np.float64).tolist())
    changed = search.changed(found)
    return Whole(pairs=found, value=total, promise=promise, loads=exact_loads(program, found)[0], changed=changed)


def exact_loads(program: Program, pairs: Integers) -> tuple[Floats, Floats]:
    """Loads of whole offers, and by how much they pass their bounds; signs and zeros of the latter are exact.

    Args:
        program: the program.
        pairs: (S) pairs that are given.

    Returns:
        (K) correctly rounded loads; (K) above zero where a bound is broken: that much above the upper one or, negated,
        below the lower one. Zero where both hold.

    Source:
        Shewchuk's exact sums, in `math.fsum`: the bound is summed along with the terms.
    """
    rows, weights = program.columns(pairs)
    loads, broken = np.zeros(program.K), np.zeros(program.K)
    for f, (family, first) in enumerate(zip(program.families, program.first, strict=True)):
        order = np.argsort(rows[f], kind="stable")
        ends = np.searchsorted(rows[f][order], first + np.arange(len(family.rows) + 1))
        for k in range(len(family.rows)):
            terms, row = weights[f][order[ends[k] : ends[k + 1]]].tolist(), first + k
            loads[row] = math.fsum(terms)
            low, high = float(program.lower[row]), float(program.upper[row])
            over = math.fsum([*terms, -high]) if math.isfinite(high) else 0.0
            under = math.fsum([*terms, -low]) if math.isfinite(low) else 0.0
            broken[row] = over if over > 0 else min(under, 0.0)
    return loads, broken


def _most_worth(program: Program) -> float:
    """The most that other offers can change what one member is worth."""
    worth = 0.0
    for begin, end in spans(program):
        first, last = int(program.start[begin]), int(program.start[end])
        if first == last:
            continue
        caps = np.minimum(program.most_of(slice(begin, end)), np.diff(program.start[begin : end + 1]))
        filled = np.flatnonzero(np.diff(program.start[begin : end + 1]))
        value = program.value[first:last].astype(np.float64)
        at = program.start[begin:end][filled] - first
        top = np.maximum(np.maximum.reduceat(value, at), 0) - np.minimum(np.minimum.reduceat(value, at), 0)
        worth = max(worth, float((top * caps[filled]).max()))
    return worth


def _at_vertex(program: Program, pairs: Integers, shares: Floats) -> tuple[Integers, Floats]:
    """The same rows and sure members, with at most K members not sure, and no less value."""
    fraction = (shares > WHOLE) & (shares < 1 - WHOLE)
    members = np.unique(program.member_of(pairs[fraction]))
    if len(members) <= program.K:
        return pairs, shares
    inner = np.flatnonzero(fraction)
    rows, weights = program.columns(pairs[inner])
    moved = purify(
        program.member_of(pairs[inner]), rows, weights, shares[inner], program.value[pairs[inner]], program.K
    )
    shares = shares.copy()
    shares[inner] = moved
    kept = shares > WHOLE
    return pairs[kept], shares[kept]


class _Search:
    """Looks for whole offers near a vertex.

    Args:
        program: the program.
        taken: pairs that are whole at the vertex.
        unsure: members with fractions there.
        prices: (K).
    """

    def __init__(self, program: Program, taken: Integers, unsure: Integers, prices: Floats) -> None:
        self.program, self.taken, self.unsure, self.prices = program, taken, unsure, prices

    def changed(self, found: Integers) -> int:
        """Members who have other offers than at the vertex."""
        moved = self.program.member_of(np.setxor1d(found, self.taken, assume_unique=True))
        return len(np.union1d(moved, self.unsure))

    def without_fractions(self, fractions: Integers, shares: Floats) -> Integers | None:
        """Take fractions away, then give whole offers back where rows have room, dearest first.

        For programs in which less never breaks a row.
        """
        program, given = self.program, self.taken
        for _ in range(_TRIES):
            loads, broken = exact_loads(program, given)
            if not broken.any():
                break
            rows, weights = program.columns(given)  # rounding of the shares' own loads: the least worth goes
            uses = (weights * np.where(rows >= 0, broken[rows] > 0, False)).max(axis=0) > 0
            worth = np.where(uses, program.value[given], np.inf)
            given = np.delete(given, int(np.argmin(worth)))
        else:
            return None
        own = np.bincount(program.member_of(given), minlength=program.N)[self.unsure]
        room = dict(zip(self.unsure.tolist(), (program.most_of(self.unsure) - own).tolist(), strict=True))
        options = program.pairs_of(self.unsure)
        options = options[(program.value[options] > 0) & ~_within(options, given)]
        options = options[np.argsort(-program.value[options], kind="stable")]
        member = program.member_of(options).tolist()
        rows, weights = program.columns(options)
        more: list[int] = []
        for place, pair in enumerate(options.tolist()):
            inside = rows[:, place] >= 0
            at, adds = rows[inside, place], weights[inside, place]
            spare = program.upper[at] - loads[at] - adds
            tight = 1e-12 * np.abs(program.upper[at])
            if room[member[place]] < 1 or not (np.isinf(program.upper[at]) | (spare >= tight) | (adds == 0)).all():
                continue
            loads[at] += adds
            room[member[place]] -= 1
            more.append(pair)
        found = np.sort(np.concatenate([given, np.array(more, np.int64)]))
        return found if not exact_loads(program, found)[1].any() else np.sort(given)

    def among(self, neighbours: int) -> Integers | None:
        """The best whole offers of the unsure and of some neighbours that hold every row exactly; None: none found."""
        case = self._case(neighbours)
        low, high = case.low, case.high
        for _ in range(_TRIES):
            found = self._milp(case, low, high)
            if found is None:
                return None
            given = np.sort(np.concatenate([case.rest, found]))
            _, broken = exact_loads(self.program, given)
            if not broken.any():
                return given
            # the search holds rows to a tolerance: narrow those that it passed by a little more than that
            high = np.where(broken > 0, high - 2 * broken - 1e-7 * case.unit, high)
            low = np.where(broken < 0, low - 2 * broken + 1e-7 * case.unit, low)
        return None

    def refusal(self) -> str:
        """The row that whole offers cannot hold, in words: by the least total excess among all that were searched."""
        program = self.program
        case = self._case(_NEIGHBOURS[-1] * program.K)
        found = self._milp(case, case.low, case.high, elastic=True)
        given = np.sort(np.concatenate([case.rest, case.mine if found is None else found]))
        loads, broken = exact_loads(program, given)
        k = int(np.argmax(np.abs(broken) / case.unit))
        side, bound = ("at most", program.upper[k]) if broken[k] > 0 else ("at least", program.lower[k])
        return (
            f"no whole offers near the shares hold row {program.names[k]!r}: it must be {side} {bound:.9g}, the "
            f"nearest found are {loads[k]:.9g}; widen the row by {abs(broken[k]):.3g} or keep shares."
        )

    def _case(self, neighbours: int) -> "_Case":
        program = self.program
        members = self._near(neighbours)
        pairs = self._options(members)
        chosen = np.zeros(program.N, bool)
        chosen[members] = True
        own = chosen[program.member_of(self.taken)]
        rows, weights = program.columns(pairs)
        inside = rows >= 0
        unit = np.full(program.K, 1e-300)
        np.maximum.at(unit, rows[inside], np.abs(weights[inside]))
        unit[unit == 1e-300] = 1.0
        rest = self.taken[~own]
        loads, _ = exact_loads(program, rest)
        low, high = program.lower - loads, program.upper - loads
        return _Case(members, pairs, self.taken[own], rest, rows, weights, unit, low, high)

    def _near(self, neighbours: int) -> Integers:
        """The unsure members, and so many others who lose least by another choice."""
        program = self.program
        if not neighbours:
            return self.unsure
        loses = np.full(program.N, np.inf)
        for begin, end in spans(program):
            net = net_values(program, self.prices, begin, end)
            first = int(program.start[begin])
            has = np.zeros(len(net), bool)
            has[
                self.taken[np.searchsorted(self.taken, first) : np.searchsorted(self.taken, first + len(net))] - first
            ] = 1
            filled = np.flatnonzero(np.diff(program.start[begin : end + 1]))
            if not len(filled):
                continue
            at = program.start[begin:end][filled] - first
            kept = np.minimum.reduceat(np.where(has, net, np.inf), at)
            offered = np.maximum.reduceat(np.where(has, -np.inf, net), at)
            full = np.add.reduceat(has.astype(np.int64), at) >= program.most_of(slice(begin, end))[filled]
            change = np.minimum(kept, np.where(full, np.inf, -offered))
            with np.errstate(invalid="ignore"):  # inf less -inf of those who have all or nothing
                change = np.fmin(change, kept - offered)
            loses[begin + filled] = np.maximum(change, 0.0)
        loses[self.unsure] = np.inf
        count = min(neighbours, program.N - 1)
        near = np.argpartition(loses, count)[: count + 1]
        near = near[np.lexsort((near, loses[near]))][:neighbours]
        return np.union1d(self.unsure, near[np.isfinite(loses[near])])

    def _options(self, members: Integers) -> Integers:
        """All pairs of the unsure; of others those that they have and their best few."""
        program = self.program
        small = program.take(members)
        net = net_values(small, self.prices, 0, small.N)
        pairs, owner = program.pairs_of(members), np.repeat(np.arange(small.N), np.diff(small.start))
        has = _within(pairs, self.taken)
        order = np.lexsort((-net, ~has, owner))
        rank = np.empty(len(pairs), np.int64)
        rank[order] = np.arange(len(pairs)) - np.repeat(small.start[:-1], np.diff(small.start))
        sure = ~np.isin(members, self.unsure)[owner]
        return pairs[~sure | has | (rank < _OPTIONS)]

    def _milp(self, case: "_Case", low: Floats, high: Floats, *, elastic: bool = False) -> Integers | None:
        """Whole offers of some members, at most K of whom change, by HiGHS; None: none within its limits.

        `elastic`: rows may be passed, and are so by as little as can be.
        """
        program, pairs, members = self.program, case.pairs, case.members
        S, T, K = len(pairs), len(members), program.K
        if not S:
            return None if (low > 0).any() or (high < 0).any() else pairs
        place = np.searchsorted(members, program.member_of(pairs))
        inside = case.rows >= 0
        row, pair = case.rows[inside], np.broadcast_to(np.arange(S), case.rows.shape)[inside]
        spare = 2 * K if elastic else 0
        matrix = scipy.sparse.csr_array((case.weights[inside] / case.unit[row], (row, pair)), shape=(K, S))
        signs = scipy.sparse.hstack([-scipy.sparse.eye_array(K), scipy.sparse.eye_array(K)], format="csr")[:, :spare]
        shared = scipy.sparse.hstack([matrix, scipy.sparse.csr_array((K, T)), signs], format="csr")
        own = scipy.sparse.csr_array((np.ones(S), (place, np.arange(S))), shape=(T, S + T + spare))
        # a member who loses something of what she has, or gets something else, has changed
        has, caps = np.isin(pairs, case.mine), program.most_of(members)
        moved = np.where(has, -1.0, 1.0)
        size = np.maximum(2 * np.minimum(caps, np.bincount(place, minlength=T)), 1.0)
        ways = (np.concatenate([moved, -size]), (np.append(place, np.arange(T)), np.arange(S + T)))
        change = scipy.sparse.csr_array(ways, shape=(T, S + T + spare))
        sure = np.concatenate([np.zeros(S), ~np.isin(members, self.unsure), np.zeros(spare)])
        value = program.value[pairs].astype(np.float64)
        value /= float(np.abs(value).max(initial=0.0)) or 1.0
        found = scipy.optimize.milp(
            np.concatenate([-value * (1e-6 if elastic else 1.0), np.zeros(T), np.ones(spare)]),
            integrality=np.concatenate([np.ones(S + T), np.zeros(spare)]),
            bounds=scipy.optimize.Bounds(0, np.concatenate([np.ones(S + T), np.full(spare, np.inf)])),
            constraints=[
                scipy.optimize.LinearConstraint(shared, low / case.unit, high / case.unit),
                scipy.optimize.LinearConstraint(own, 0, caps),
                scipy.optimize.LinearConstraint(change, -np.inf, -np.bincount(place[has], minlength=T)),
                scipy.optimize.LinearConstraint(sure[None, :], 0, max(K - len(self.unsure), 0)),
            ],
            # presolved answers that the program itself does not hold are mended with a line on the terminal; without
            # presolving there are none, and these searches take no longer
            options={"node_limit": _NODES, "mip_rel_gap": 1e-4, "presolve": False},
        )
        return None if found.x is None else pairs[found.x[:S] > 0.5]


def _within(pairs: Integers, rising: Integers) -> NDArray[np.bool_]:
    """Which pairs are among some others that rise."""
    place = np.searchsorted(rising, pairs)
    return np.asarray(np.append(rising, -1)[place] == pairs)


class _Case(NamedTuple):
    """A small search.

    Attributes:
        members: (T) whose offers may change.
        pairs: (S) that may be given to them.
        mine: those of them that they have.
        rest: pairs that all others have.
        rows: (F, S) row of each pair in each family.
        weights: (F, S) what it adds there.
        unit: (K) greatest weight of these pairs in each row.
        low: (K) least load that they must bring.
        high: (K) most load that they may bring.
    """

    members: Integers
    pairs: Integers
    mine: Integers
    rest: Integers
    rows: NDArray[Any]
    weights: NDArray[Any]
    unit: Floats
    low: Floats
    high: Floats


# --- by lot -----------------------------------------------------------------------------------------------------------


def draw(program: Program, pairs: Integers, shares: Floats, *, seed: int, sampling: Sampling = "balanced") -> Integers:
    """Draw whole offers with the shares as chances.

    Args:
        program: whose `most` are whole numbers.
        pairs: (S) pairs with a share above zero, rising.
        shares: (S).
        seed: of the lot.
        sampling: "independent": each member by herself. "balanced": loads stay as they are until at most K members are
            left.

    Returns:
        Pairs that are given, rising: each with the chance of its share, no member with more than she may have.

    Source:
        Within a member systematic sampling (Madow 1949); see `balanced` for the other.
    """
    random = np.random.default_rng(seed)
    if sampling == "balanced":
        fraction = np.flatnonzero((shares > WHOLE) & (shares < 1 - WHOLE))
        rows, weights = program.columns(pairs[fraction])
        shares = shares.copy()
        shares[fraction] = balance(
            program.member_of(pairs[fraction]), rows, weights, shares[fraction], program.K, random
        )
    member = program.member_of(pairs)
    first = np.append(True, member[1:] != member[:-1]) if len(member) else np.empty(0, bool)
    shares = np.where(shares > 1 - WHOLE, 1.0, np.where(shares < WHOLE, 0.0, shares))
    total = np.cumsum(shares)
    group = np.cumsum(first) - 1
    before = (total - shares)[first][group] if len(member) else total
    point = random.random(int(first.sum()))[group] if len(member) else total
    upto = total - before
    upto = np.where(np.abs(upto - np.round(upto)) < 1e-9, np.round(upto), upto)
    since = np.where(first, 0.0, np.append(0.0, upto[:-1])) if len(member) else upto
    return pairs[(np.ceil(upto - point) - np.ceil(since - point)) > 0]


def room(program: Program, pairs: Integers, shares: Floats, *, delta: float, sampling: Sampling = "balanced") -> Floats:
    """How far loads stray from those of the shares: the chance that any stays not within that is at most delta.

    Args:
        program: the program; sides of rows without a bound are not counted.
        pairs: (S) pairs with a share above zero, rising.
        shares: (S).
        delta: above 0, below 1.
        sampling: how `draw` is asked.

    Returns:
        (K) t_k of the module's formulas, in each row's own unit.

    Raises:
        InputError: delta is not between 0 and 1.

    Source:
        See the module.
    """
    if not 0 < delta < 1:
        raise InputError(f"delta must lie between 0 and 1, got {delta}; it is the chance that a row breaks.")
    sides = int(np.isfinite(program.lower).sum() + np.isfinite(program.upper).sum())
    if not sides:
        return np.zeros(program.K)
    c = math.log(sides / delta)
    variance, ranges = _spread(program, pairs, shares)
    out = np.zeros(program.K)
    for k in range(program.K):
        own = ranges[k]
        if sampling == "balanced":
            most = np.partition(own, len(own) - program.K)[-program.K :] if len(own) > program.K else own
            out[k] = math.sqrt(c / 2 * float(np.sum(most**2)))
        else:
            b = float(own.max(initial=0.0)) * c / 3
            out[k] = b + math.sqrt(b * b + 2 * c * variance[k])
    return out


def _spread(program: Program, pairs: Integers, shares: Floats) -> tuple[Floats, Floats]:
    """(K) variance of each load under independent lots, and (K, T) range of each unsure member's part in it."""
    fraction = np.flatnonzero((shares > WHOLE) & (shares < 1 - WHOLE))
    pairs, shares = pairs[fraction], shares[fraction]
    members, place = np.unique(program.member_of(pairs), return_inverse=True)
    rows, weights = program.columns(pairs)
    T, K = len(members), program.K
    total = np.bincount(place, shares, minlength=T)
    many = np.ceil(total - 1e-9)
    variance, ranges = np.zeros(K), np.zeros((K, T))
    for row, weight in zip(rows, weights, strict=True):
        for k in np.unique(row[row >= 0]).tolist():
            a = np.where(row == k, weight, 0.0)
            mean, square = (np.bincount(place, shares * power, minlength=T) for power in (a, a * a))
            high, low = np.zeros(T), np.zeros(T)
            np.maximum.at(high, place, a)
            np.minimum.at(low, place, a)
            # who gets several: her part lies between as many of the least and of the greatest entries
            ranges[k] = (high - low) * np.maximum(many, 1)
            single = many <= 1
            variance[k] = float(np.sum(np.where(single, square - mean**2, ranges[k] ** 2 / 4)))
    return variance, ranges


def narrowed(program: Program, by: Floats) -> Program:
    """The program with every bound moved inwards.

    Args:
        program: the program.
        by: (K) not below zero.

    Returns:
        The same members and pairs, other bounds.

    Raises:
        InputError: nothing is left of a row.

    Source:
        Ours.
    """
    families = []
    for family, k in zip(program.families, program.first, strict=True):
        inner = by[k : k + len(family.rows)]
        lower, upper = family.lower + inner, family.upper - inner
        if (lower > upper).any():
            at = int(np.flatnonzero(lower > upper)[0])
            raise InputError(
                f"row {family.names[at]!r} of {family.lower[at]:.6g} to {family.upper[at]:.6g} is too narrow for a lot "
                f"that strays by {inner[at]:.3g}; widen it, allow a greater delta, or round by search."
            )
        families.append(replace(family, lower=lower, upper=upper))
    return replace(program, families=tuple(families))


def solve_with_room(
    program: Program,
    solve: Callable[[Program], tuple[Integers, Floats]],
    *,
    delta: float,
    sampling: Sampling = "balanced",
    rounds: int = 6,
) -> tuple[Integers, Floats, Floats]:
    """Shares such that a lot drawn from them breaks any row with a chance of at most delta.

    Args:
        program: the program.
        solve: gives pairs and shares of a program with narrower rows, as `entries` of the solver's answer.
        delta: above 0, below 1.
        sampling: how `draw` will be asked.
        rounds: solves at most.

    Returns:
        Pairs, shares, and (K) the room that was kept: for every bound the shares' load is inside by at least `room` of
        these very shares.

    Raises:
        InputError: a row is too narrow for the lot, or after the last round some load is nearer to its bound than its
            room.

    Source:
        Ours: the room depends on the shares, so it is asked again until it suffices.
    """
    kept = np.zeros(program.K)
    k = 0
    for _ in range(rounds):
        pairs, shares = solve(narrowed(program, kept))
        loads = program.loads_of(pairs, shares)
        needs = room(program, pairs, shares, delta=delta, sampling=sampling)
        short = np.maximum(loads + needs - program.upper, program.lower + needs - loads)
        if (short <= 1e-12 * np.abs(loads)).all():
            return pairs, shares, needs
        k = int(np.argmax(short))
        kept = np.where(short > 0, np.maximum(kept, needs) * 1.02, kept)
    raise InputError(
        f"row {program.names[k]!r} has less room than a lot needs after {rounds} rounds; allow a greater delta."
    )
