"""Judge an allocation, or the proof that there is none, from outside: from the program's arrays and plain numbers.

Whatever made the plan, three numbers decide how good it is. For any prices y of the shared rows,

    D(y) = sum_k max(l_k y_k, u_k y_k) + sum_u h_u(y),    h_u(y) = max { sum_e (v_e - sum_k a_ke y_k) x_e }

with the maximum over what member u may get, is at least the value of every plan (weak duality). P is the value of the
plan at hand, counted again, and (D - P) / D bounds what any other plan could gain. And with all values zero, a ray r
with D(r) < 0 proves that no plan holds all rows.

The judge shares no code with what it judges: it reads the arrays of a program and does every sum again, those that
decide whether a row holds without any rounding (`math.fsum`).

Shapes: N members, M offers, E pairs, K shared rows, S entries of a plan.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.marketing.allocation.program import Program

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_TOGETHER = 1 << 21
"""Pairs looked at together; some ten arrays of that length live at once."""

_ROUNDING = 1e-9
"""How far two sums of the same numbers may lie apart, relative to the sum of their sizes."""

_TINY = 1e-300


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An allocation as it is stored, with what is claimed of it.

    Attributes:
        member: (S) number of the member of each entry.
        offer: (S) number of the offer.
        share: (S) how much of it she gets, above zero to one; all one in a plan of whole offers.
        rows: (K) names of the rows, in the order of `prices` and `loads`.
        prices: (K) shadow prices: above zero where an upper bound holds the value down, below zero for a lower one.
        loads: (K) claimed load of each row.
        value: claimed value.
        bound: claimed upper bound on the value of any plan.
    """

    member: Integers
    offer: NDArray[Any]
    share: NDArray[Any]
    rows: tuple[str, ...]
    prices: Floats
    loads: Floats
    value: float
    bound: float


class Unspent(NamedTuple):
    """Why a row is not used up.

    Attributes:
        row: its name.
        bound: its upper bound.
        load: what the plan uses.
        worthless: load of the pairs that are not in the plan since their value is not above zero.
        taken: load of those whose member has something better instead.
        held: load of those that other rows' prices hold back: their value would pay for this row, but not for those.
        binding: the rows that hold them back, dearest first: name, what one more unit of it is worth, and its part of
            the prices that these pairs would have to pay.
    """

    row: str
    bound: float
    load: float
    worthless: float
    taken: float
    held: float
    binding: tuple[tuple[str, float, float], ...]

    def sentence(self) -> str:
        """Why, in words."""
        left = f"{self.row!r} uses {self.load:.6g} of {self.bound:.6g}"
        if not self.held:
            return f"{left}: nothing else is worth sending."
        because = ", ".join(f"{name!r} (one more unit is worth {worth:.4g})" for name, worth, _ in self.binding)
        return f"{left}: {self.held:.6g} are held back by {because}."


def certify_plan(program: Program, plan: Plan, *, whole: bool, gap: float = 1e-4) -> Certificate:
    """Judge a stored plan.

    Args:
        program: the source: what may be given to whom, and the rows. Not the planner's copy.
        plan: what is stored.
        whole: whether members get whole offers. Then rows must hold exactly, bit by bit; shares may exceed a bound by
            1e-9 of what its row adds up.
        gap: how far the plan's value may lie below the bound, relative to it.

    Returns:
        Its claims; when one fails its detail names the first offender.

    Source:
        Weak duality of linear programs (Dantzig 1963); the form of the claims is ours.
    """
    if (broken := _misshapen(program, plan)) is not None:
        return Certificate(claims=(broken,))
    pairs, doubles, strangers = _looked_up(program, plan)
    claims = [
        _count("numbers_not_finite", _not_finite(plan), "Prices, loads, shares, value and bound that are no numbers."),
        _named("rows_misnamed", [i for i, name in enumerate(_names(program)) if plan.rows[i] != name], plan.rows),
        _count("unknown_pairs", strangers, "Entries of a member and an offer that she may not get."),
        _count("repeated_pairs", doubles, "Entries of a member and an offer that she has already."),
    ]
    if not all(claim.holds for claim in claims):
        return Certificate(claims=tuple(claims))
    share = plan.share.astype(np.float64)
    outside = (share != 1.0) if whole else ~((share > 0) & (share <= 1))
    claims.append(_count("shares_outside", np.flatnonzero(outside), "Shares not above zero to one, or not whole."))
    claims.append(_members(program, plan, share, whole))
    return Certificate(claims=(*claims, *_sums(program, plan, pairs, share, whole, gap)))


def certify_conflict(
    program: Program, *, ray: Floats, rows: Sequence[str], needed: float, available: float
) -> Certificate:
    """Judge the proof that no plan holds all rows.

    Args:
        program: the source.
        ray: (K) prices of the rows.
        rows: names of the rows in conflict; those whose price is not zero.
        needed: claimed sum of |r_k| l_k over rows with r_k below zero.
        available: claimed sum of r_k u_k over the others, and of what members can have at most of -r . load.

    Returns:
        Its claims.

    Source:
        Farkas' lemma, with the members' part written out.
    """
    names = _names(program)
    ray = np.asarray(ray, np.float64)
    if ray.shape != (len(names),):
        wrong = f"The ray has the shape {ray.shape}, the rows are {len(names)}."
        return Certificate(claims=(Claim(name="shapes_wrong", kind="exact", value=1.0, limit=0.0, detail=wrong),))
    finite = _count("ray_not_finite", np.flatnonzero(~np.isfinite(ray)), "Entries of the ray that are no numbers.")
    lower, upper = _bounds(program)
    endless = np.flatnonzero(((ray > 0) & ~np.isfinite(upper)) | ((ray < 0) & ~np.isfinite(lower)))
    sides = _count("ray_without_bound", endless, "Entries of the ray whose side of the row has no bound.")
    used = [name for name, price in zip(names, ray, strict=True) if price != 0]
    named = sorted(set(used) ^ set(rows)) + [name for name in set(rows) if list(rows).count(name) > 1]
    conflict = Claim(
        name="rows_misnamed",
        kind="exact",
        value=float(len(named)),
        limit=0.0,
        detail=f"Rows named that the ray does not use, or used and not named: {named[:1] or 'none'}.",
    )
    if not (finite.holds and sides.holds):
        return Certificate(claims=(finite, sides, conflict))
    needs, offered = (-ray * _finite(lower))[ray < 0].tolist(), (ray * _finite(upper))[ray > 0].tolist()
    asks, gives = math.fsum(needs), [offered]
    size = math.fsum(map(abs, [*needs, *offered]))
    for piece in _pieces(program):
        paid, sizes = piece.priced(ray)
        most, sizes = _most_of(program, piece, -paid, sizes)
        gives.append(most.tolist())
        size += math.fsum(sizes.tolist())
    has = math.fsum(number for part in gives for number in part)
    off = abs(needed - asks) + abs(available - has)  # what is no number stays none, and no claim holds for it
    return Certificate(
        claims=(
            finite,
            sides,
            conflict,
            Claim(
                name="ray_proves",
                kind="exact",
                value=(has - asks) / max(size, _TINY),
                limit=-_PROOF,
                detail=f"What is available, {has:.9g}, less what is needed, {asks:.9g}, relative to the sizes of their "
                f"{size:.3g}; below zero by more than rounding proves that no plan holds these rows.",
            ),
            Claim(
                name="numbers_off",
                kind="bounded",
                value=off / max(size, _TINY),
                limit=_ROUNDING,
                detail=f"Claimed are needed {needed:.9g} and available {available:.9g}.",
            ),
        )
    )


_PROOF = 1e-12
"""The products and sums of one pair err by less than this, relative to their sizes; sums over members are exact."""


def unspent(program: Program, plan: Plan) -> tuple[Unspent, ...]:
    """Say of every row below its upper bound why it is not used up.

    A pair outside the plan that would use the row is worthless, or its member has something better, or other rows'
    prices are more than its value. In the last case each row's part of these prices says how much it holds back.

    Args:
        program: the source.
        plan: a plan that `certify_plan` holds good.

    Returns:
        Rows whose load is below the upper bound by more than one part in a million, or in a thousand where the row has
        a price; in the order of the program.

    Source:
        Ours.
    """
    names, (_, upper) = _names(program), _bounds(program)
    left_of = np.where(np.isfinite(upper), _finite(upper) - plan.loads, 0.0)
    # a row with a price binds, though whole offers may leave a little of it
    slack = left_of > np.where(plan.prices > 0, 1e-3, 1e-6) * np.abs(_finite(upper))
    pairs, _, _ = _looked_up(program, plan)
    held = np.zeros((3, len(names)))
    blame = np.zeros((len(names), len(names)))
    given = np.zeros(program.E, np.float32)
    given[pairs] = plan.share
    for piece in _pieces(program):
        left = np.maximum(1.0 - given[piece.first : piece.last].astype(np.float64), 0.0)
        value = program.value[piece.first : piece.last].astype(np.float64)
        price, _ = piece.priced(plan.prices)
        kinds = np.select([value <= 0, value - price > 0], [0, 1], 2)
        for row, weight in piece.columns:
            inside = (row >= 0) & (left > 0) & (weight > 0)
            at, load, kind = row[inside], (left * weight)[inside], kinds[inside]
            held += np.bincount(kind * len(names) + at, load, minlength=held.size).reshape(held.shape)
            for other, amount in piece.columns:
                part = left[inside] * np.maximum(
                    plan.prices[np.maximum(other[inside], 0)] * amount[inside] * (other[inside] >= 0), 0
                )
                both = (kind == 2) & (part > 0)
                blame += np.bincount(
                    at[both] * len(names) + other[inside][both], part[both], minlength=blame.size
                ).reshape(blame.shape)
    found = []
    for k in np.flatnonzero(slack).tolist():
        order = [j for j in np.argsort(-blame[k], kind="stable").tolist() if blame[k, j] > 0 and j != k]
        binding = tuple((names[j], float(plan.prices[j]), float(blame[k, j])) for j in order)
        worthless, taken, back = held[:, k].tolist()
        found.append(Unspent(names[k], float(upper[k]), float(plan.loads[k]), worthless, taken, back, binding))
    return tuple(found)


# --- the program, read again ------------------------------------------------------------------------------------------


def _names(program: Program) -> tuple[str, ...]:
    names: list[str] = []
    for family in program.families:
        alone = family.offers is None and family.members is None
        names += [family.name] if alone else [f"{family.name}/{row}" for row in family.rows]
    return tuple(names)


def _bounds(program: Program) -> tuple[Floats, Floats]:
    sides = [
        [float(bound) for family in program.families for bound in getattr(family, side)] for side in ("lower", "upper")
    ]
    return np.array(sides[0], np.float64), np.array(sides[1], np.float64)


class _Piece(NamedTuple):
    """Some members side by side.

    Attributes:
        members: the first of them, and the one after the last.
        first: the first pair.
        last: the one after the last.
        columns: of each family, the row of each pair (-1: none) and what it adds, in float64.
    """

    members: tuple[int, int]
    first: int
    last: int
    columns: tuple[tuple[Integers, Floats], ...]

    def priced(self, prices: Floats) -> tuple[Floats, Floats]:
        """What each pair pays at some prices, and the sum of the sizes of its terms."""
        paid, sizes = np.zeros(self.last - self.first), np.zeros(self.last - self.first)
        for row, weight in self.columns:
            term = np.where(row >= 0, prices[np.maximum(row, 0)] * weight, 0.0)
            paid += term
            sizes += np.abs(term)
        return paid, sizes


def _pieces(program: Program) -> Iterator[_Piece]:
    """All members, some two million pairs at a time."""
    start, count = program.start, len(program.start) - 1
    begin = 0
    while begin < count:
        end = int(np.searchsorted(start, start[begin] + _TOGETHER, side="right")) - 1
        end = min(count, max(end, begin + 1))
        first, last = int(start[begin]), int(start[end])
        yield _Piece((begin, end), first, last, tuple(_columns(program, begin, end)))
        begin = end


def _columns(program: Program, begin: int, end: int) -> Iterator[tuple[Integers, Floats]]:
    first, last = int(program.start[begin]), int(program.start[end])
    row_of_family = 0
    for family in program.families:
        if family.offers is not None:
            row = np.asarray(family.offers).astype(np.int64)[program.offer[first:last].astype(np.int64)]
        elif family.members is not None:
            sizes = np.diff(program.start[begin : end + 1])
            row = np.repeat(np.asarray(family.members)[begin:end].astype(np.int64), sizes)
        else:
            row = np.zeros(last - first, np.int64)
        weight = np.ones(last - first) if family.weight is None else family.weight[first:last].astype(np.float64)
        yield np.where(row >= 0, row + row_of_family, -1), weight
        row_of_family += len(family.rows)


def _caps(program: Program, begin: int, end: int) -> Floats:
    """Most offers of some members."""
    most = np.asarray(program.most, np.float64)
    return most[begin:end] if most.ndim else np.full(end - begin, float(most))


def _most_of(program: Program, piece: _Piece, gain: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """The most that each member can have of a gain: the sum of her `most` greatest ones above zero, the last in part.

    Args:
        program: the source.
        piece: its members.
        gain: of each of their pairs.
        sizes: of the terms of each gain together.

    Returns:
        That of each member, and what it errs by at most in units of the rounding of one pair.
    """
    begin, end = piece.members
    counts = np.diff(program.start[begin : end + 1])
    caps, full = _caps(program, begin, end), counts > 0
    most, largest = np.zeros(end - begin), np.zeros(end - begin)
    if full.any():
        at = (program.start[begin:end] - piece.first)[full]
        largest[full] = np.maximum.reduceat(sizes, at)
        most[full] = np.maximum(np.maximum.reduceat(gain, at), 0.0)
    if not (caps == 1).all():
        member, above = np.repeat(np.arange(end - begin), counts), np.flatnonzero(gain > 0)
        order = above[np.lexsort((-gain[above], member[above]))]
        who = member[order]
        found = np.bincount(who, minlength=end - begin)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(found) - found, found)
        part = np.clip(caps[who] - rank, 0.0, 1.0)
        most = np.bincount(who, gain[order] * part, minlength=end - begin).astype(np.float64)
    return most, largest * np.minimum(caps, counts)


# --- the plan ---------------------------------------------------------------------------------------------------------


def _misshapen(program: Program, plan: Plan) -> Claim | None:
    """A claim that fails when the arrays do not fit one another."""
    rows = len(_names(program))
    shapes = {
        "member": (np.shape(plan.member), np.shape(plan.share)),
        "offer": (np.shape(plan.offer), np.shape(plan.share)),
        "prices": (np.shape(plan.prices), (rows,)),
        "loads": (np.shape(plan.loads), (rows,)),
        "rows": ((len(plan.rows),), (rows,)),
    }
    wrong = [f"{name} has {found}, must be {right}" for name, (found, right) in shapes.items() if found != right]
    if not wrong:
        return None
    return Claim(name="shapes_wrong", kind="exact", value=float(len(wrong)), limit=0.0, detail="; ".join(wrong))


def _count(name: str, offenders: NDArray[Any], detail: str) -> Claim:
    first = f" The first is number {offenders[0]}." if len(offenders) else ""
    return Claim(name=name, kind="exact", value=float(len(offenders)), limit=0.0, detail=detail + first)


def _named(name: str, places: Sequence[int], rows: Sequence[str]) -> Claim:
    first = f" The first is {rows[places[0]]!r}." if places else ""
    detail = f"Rows that stand where another should.{first}"
    return Claim(name=name, kind="exact", value=float(len(places)), limit=0.0, detail=detail)


def _not_finite(plan: Plan) -> Integers:
    """Places of what is no number, counted through shares, prices, loads, value and bound."""
    numbers = [np.asarray(part, np.float64).ravel() for part in (plan.share, plan.prices, plan.loads)]
    return np.flatnonzero(~np.isfinite(np.concatenate([*numbers, [plan.value, plan.bound]])))


def _looked_up(program: Program, plan: Plan) -> tuple[Integers, Integers, Integers]:
    """The pair of each entry (-1: there is none), entries that stand a second time, and those without a pair."""
    count, offers = len(program.start) - 1, len(program.offers)
    member, offer = plan.member.astype(np.int64), plan.offer.astype(np.int64)
    pairs = np.full(len(member), -1, np.int64)
    known = (member >= 0) & (member < count) & (offer >= 0) & (offer < offers)
    entries = np.flatnonzero(known)
    entries = entries[np.argsort(member[entries], kind="stable")]
    asked = member[entries]
    for piece in _pieces(program):
        begin, end = piece.members
        some = entries[np.searchsorted(asked, begin) : np.searchsorted(asked, end)]
        if not len(some):
            continue
        owner = np.repeat(np.arange(begin, end), np.diff(program.start[begin : end + 1]))
        key = owner * offers + program.offer[piece.first : piece.last].astype(np.int64)
        order = np.argsort(key, kind="stable")
        wanted = member[some] * offers + offer[some]
        place = np.minimum(np.searchsorted(key, wanted, sorter=order), max(len(key) - 1, 0))
        found = np.zeros(len(some), bool) if not len(key) else key[order[place]] == wanted
        pairs[some[found]] = piece.first + order[place[found]]
    _, first = np.unique(pairs, return_index=True)
    repeated = np.setdiff1d(np.flatnonzero(pairs >= 0), first)
    return pairs, repeated, np.flatnonzero(pairs < 0)


def _members(program: Program, plan: Plan, share: Floats, whole: bool) -> Claim:
    """That nobody gets more than she may."""
    count = len(program.start) - 1
    got = np.bincount(plan.member.astype(np.int64), share, minlength=count)
    over = got - _caps(program, 0, count)
    worst = int(np.argmax(over)) if count else 0
    largest = float(over[worst]) if count else 0.0
    return Claim(
        name="offers_too_many",
        kind="exact" if whole else "bounded",
        value=max(largest, 0.0),
        limit=0.0 if whole else 1e-6,  # shares may be stored in float32
        detail=f"By how much a member gets more than she may; the worst is number {worst}." if count else "No members.",
    )


def _sums(program: Program, plan: Plan, pairs: Integers, share: Floats, whole: bool, gap: float) -> Iterator[Claim]:
    """The claims on loads, rows, value, bound and gap."""
    names, (lower, upper) = _names(program), _bounds(program)
    loads, sizes, above, below = _loads(program, pairs, share, lower, upper)
    value = math.fsum((program.value[pairs].astype(np.float64) * share).tolist())
    weight = math.fsum(np.abs(program.value[pairs].astype(np.float64) * share).tolist())
    bound, prices_wrong, bound_size = _bound(program, plan.prices, lower, upper)

    off = np.abs(plan.loads - loads) / np.maximum(sizes, _TINY)
    worst = int(np.argmax(off)) if len(off) else 0
    row = f"row {names[worst]!r}: claimed {plan.loads[worst]!r}, counted {loads[worst]!r}" if len(off) else "no rows"
    yield Claim(
        name="loads_off",
        kind="bounded",
        value=float(off.max(initial=0.0)),
        limit=_ROUNDING,
        detail=f"Largest difference of a load, relative to what it adds up; {row}.",
    )
    if not whole:  # each side by its own bound: beside a far upper bound a broken lower one would look small
        above = above / (np.maximum(sizes, np.abs(_finite(upper))) + _TINY)
        below = below / (np.maximum(sizes, np.abs(_finite(lower))) + _TINY)
    excess = np.maximum(above, below)
    worst = int(np.argmax(excess)) if len(excess) else 0
    row = "no rows"
    if len(excess):
        row = f"row {names[worst]!r} of {lower[worst]:.9g} to {upper[worst]:.9g} has the load {loads[worst]:.9g}"
    yield Claim(
        name="rows_broken",
        kind="exact" if whole else "bounded",
        value=max(float(excess.max(initial=0.0)), 0.0),
        limit=0.0 if whole else _ROUNDING,
        detail=f"Largest excess over a bound{'' if whole else ', relative to what the row adds up'}; {row}.",
    )
    yield Claim(
        name="value_off",
        kind="bounded",
        value=abs(plan.value - value) / max(weight, _TINY),
        limit=_ROUNDING,
        detail=f"Claimed {plan.value!r}, counted {value!r}.",
    )
    yield _count("prices_without_bound", prices_wrong, "Prices whose side of the row has no bound.")
    yield Claim(
        name="bound_off",
        kind="bounded",
        value=abs(plan.bound - bound) / max(bound_size, _TINY),
        limit=_ROUNDING,
        detail=f"Claimed {plan.bound!r}, at these prices it is {bound!r}.",
    )
    scale = max(abs(bound), _TINY)
    short = (bound - value) / scale
    yield Claim(
        name="gap",
        kind="bounded",
        value=short if bound != value else 0.0,
        limit=gap,
        detail=f"No plan is worth more than {bound:.9g}; this one is worth {value:.9g}.",
    )
    yield Claim(
        name="gap_below_zero",
        kind="bounded",
        value=max(value - bound, 0.0) / max(bound_size, weight, _TINY),
        limit=1e-7 if not whole else _ROUNDING,  # shares in float32 may exceed a member's one by that
        detail="A plan worth more than the bound would break its members or rows.",
    )


def _finite(bound: Floats) -> Floats:
    return np.where(np.isfinite(bound), bound, 0.0)


def _loads(
    program: Program, pairs: Integers, share: Floats, lower: Floats, upper: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Loads, the sums of the sizes that they are made of, and by how much they exceed and miss their bounds.

    Each is the correctly rounded sum of its terms. The last two sum the bound along with the terms, so that their sign
    is that of the exact number.
    """
    rows = len(lower)
    loads, sizes, above, below = (np.zeros(rows) for _ in range(4))
    member = np.searchsorted(program.start, pairs, side="right") - 1
    first = 0
    for family in program.families:
        if family.offers is not None:
            row = np.asarray(family.offers).astype(np.int64)[program.offer[pairs].astype(np.int64)]
        elif family.members is not None:
            row = np.asarray(family.members).astype(np.int64)[member]
        else:
            row = np.zeros(len(pairs), np.int64)
        weight = np.ones(len(pairs)) if family.weight is None else family.weight[pairs].astype(np.float64)
        inside = np.flatnonzero(row >= 0)
        inside = inside[np.argsort(row[inside], kind="stable")]
        ends = np.searchsorted(row[inside], np.arange(len(family.rows) + 1))
        for k in range(len(family.rows)):
            some = inside[ends[k] : ends[k + 1]]
            terms = (weight[some] * share[some]).tolist()
            at = first + k
            loads[at], sizes[at] = math.fsum(terms), math.fsum(map(abs, terms))
            above[at] = math.fsum([*terms, -upper[at]]) if np.isfinite(upper[at]) else -math.inf
            below[at] = -math.fsum([*terms, -lower[at]]) if np.isfinite(lower[at]) else -math.inf
        first += len(family.rows)
    return loads, sizes, above, below


def _bound(program: Program, prices: Floats, lower: Floats, upper: Floats) -> tuple[float, Integers, float]:
    """D at some prices, rows whose price has no bound to be paid at, and the sum of the sizes that D is made of."""
    prices = np.asarray(prices, np.float64)
    wrong = np.flatnonzero(((prices > 0) & ~np.isfinite(upper)) | ((prices < 0) & ~np.isfinite(lower)))
    if len(wrong):
        return math.inf, wrong, math.inf
    rows = np.where(prices > 0, prices * _finite(upper), prices * _finite(lower)).tolist()
    members: list[float] = []
    sizes = [abs(row) for row in rows]
    for piece in _pieces(program):
        value = program.value[piece.first : piece.last].astype(np.float64)
        paid, terms = piece.priced(prices)
        most, terms = _most_of(program, piece, value - paid, np.abs(value) + terms)
        members.extend(most.tolist())
        sizes.extend(terms.tolist())
    return math.fsum([*rows, *members]), wrong, math.fsum(sizes)
