"""Decide for any member, solved for or not, from the shadow prices alone.

A pair's net value is its value less what it pays for the rows that it uses; a member gets those of her best net values
that are above zero, at most as many as she may have. Members who are indifferent are the exception: scores that come
from a binned model make thousands of them alike, and by the prices alone all or none of them would get the offer. They
are shared out by a hash of the member's key, in the shares that the solved members with the same choice had.

The policy holds names, no numbers of rows or offers: it meets tables in another order, and refuses what it does not
know.

Shapes: N members, M offers, E pairs, K shared rows, S pairs that are tied.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.allocation.prices import net_values, spans
from models.marketing.allocation.program import NOTHING, Floats, Integers, Program

_WIDTH = 1e-7

_KINDS = 10_000
"""Ties that are remembered, those of most members first; the others are shared out evenly."""


@dataclass(frozen=True, kw_only=True)
class Priced:
    """The prices of a family of rows.

    Attributes:
        name: of the family.
        prices: of its rows, by name.
        weighted: whether its pairs have a weight; else each counts one.
        by: what its rows group: "offers", "members", or "" for all pairs in one row.
        row_of: row of each offer by name, where it groups offers; offers in no row are left out.
    """

    name: str
    prices: Mapping[str, float]
    weighted: bool
    by: str
    row_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tie:
    """How indifferent members of one kind were shared out.

    Attributes:
        groups: their row in each family that groups members; "" for none.
        slots: how many of the options each may get at most.
        options: offers between which they are indifferent, by name, in order.
        shares: of each option; what is missing to `slots` are members who got less.
    """

    groups: tuple[str, ...]
    slots: int
    options: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Prices by name, and what to do where they do not decide.

    Attributes:
        offers: names of all offers.
        families: of rows.
        most: offers a member at most, where nothing else is said.
        width: net values closer than this are equal.
        ties: shares of the indifferent.
        salt: of the hash; another one shares them out differently.
    """

    offers: tuple[str, ...]
    families: tuple[Priced, ...]
    most: int
    width: float
    ties: tuple[Tie, ...] = ()
    salt: str = "allocation"

    @classmethod
    def from_shares(
        cls,
        program: Program,
        prices: Floats,
        pairs: Integers,
        shares: Floats,
        *,
        width: float | None = None,
        salt: str = "allocation",
    ) -> Self:
        """The policy of an answer.

        Args:
            program: that was solved.
            prices: (K) of its rows.
            pairs: (S) pairs with a share above zero, rising.
            shares: (S).
            width: see the class; None: a ten-millionth of the mean absolute value.
            salt: see the class.

        Returns:
            The policy.

        Raises:
            InputError: a member's `most` is not whole.

        Source:
            Decisions at shadow prices as in "From Prediction to Incrementality" (arXiv 2608.10182, section on
            serving); the sharing out of ties is ours.
        """
        size = float(np.abs(program.value).mean(dtype=np.float64)) if program.E else 1.0
        width = _WIDTH * (size or 1.0) if width is None else width
        families = []
        for family, first in zip(program.families, program.first, strict=True):
            alone = family.offers is None and family.members is None
            rows = (family.name,) if alone else family.rows
            row_of = {}
            if family.offers is not None:
                places = np.asarray(family.offers).tolist()
                row_of = {o: rows[k] for o, k in zip(program.offers, places, strict=True) if k != NOTHING}
            families.append(
                Priced(
                    name=family.name,
                    prices={row: float(prices[first + k]) for k, row in enumerate(rows)},
                    weighted=family.weight is not None,
                    by="offers" if family.offers is not None else "" if alone else "members",
                    row_of=row_of,
                )
            )
        most = np.atleast_1d(np.asarray(program.most, np.float64))
        usual = int(np.median(np.floor(most))) if len(most) else 1
        bare = cls(offers=program.offers, families=tuple(families), most=usual, width=width, salt=salt)
        x = np.zeros(program.E, np.float32)
        x[pairs] = shares
        total: dict[tuple[Any, ...], list[Any]] = {}
        for ties in bare._ties(program, prices):
            names = np.array(program.offers)
            for alike in ties.kinds():
                own = ties.rows_of(alike)
                options = tuple(names[program.offer[ties.pairs[own[0]]]].tolist())
                key = (ties.groups[alike[0]], int(ties.slots[alike[0]]), options)
                entry = total.setdefault(key, [0, np.zeros(len(options))])
                entry[0] += len(alike)
                entry[1] += x[ties.pairs[own]].sum(0, dtype=np.float64)
        common = sorted(total.items(), key=lambda kind: (-kind[1][0], kind[0]))[:_KINDS]
        found = tuple(
            Tie(groups=groups, slots=slots, options=options, shares=tuple((got / count).tolist()))
            for (groups, slots, options), (count, got) in sorted(common, key=lambda kind: kind[0])
        )
        return cls(offers=program.offers, families=tuple(families), most=usual, width=width, ties=found, salt=salt)

    def decide(
        self,
        values: Mapping[str, float],
        *,
        key: str,
        weights: Mapping[str, Mapping[str, float]] | None = None,
        groups: Mapping[str, str] | None = None,
        most: int | None = None,
    ) -> tuple[str, ...]:
        """Decide for one member.

        Args:
            values: of the offers that she may get, by name.
            key: hers; the same key decides the same.
            weights: by family, by offer: what each of these offers adds, for families that have weights.
            groups: her row in each family that groups members; a family that is left out has her in none.
            most: offers at most; None: the policy's.

        Returns:
            Offers that she gets, dearest first by net value.

        Raises:
            InputError: an offer, a family or a row is unknown; a weight is missing; a number is not finite.

        Source:
            See `from_shares`.
        """
        weights, groups, most = weights or {}, groups or {}, self.most if most is None else most
        self._known(values, weights, groups)
        net = {}
        for offer, value in values.items():
            paid = 0.0
            for family in self.families:
                row = {"offers": family.row_of.get(offer), "members": groups.get(family.name), "": family.name}[
                    family.by
                ]
                if row is None or not family.prices[row]:
                    continue
                weight = 1.0
                if family.weighted:
                    if offer not in weights.get(family.name, {}):
                        raise InputError(f"offer {offer!r} has no weight for {family.name!r}; give it.")
                    weight = weights[family.name][offer]
                paid += family.prices[row] * weight
            net[offer] = value - paid
            if not np.isfinite(net[offer]):
                raise InputError(f"offer {offer!r} has the net value {net[offer]}; give finite values and weights.")
        if most < 1:
            return ()
        order = sorted(net, key=lambda offer: (-net[offer], offer))
        least = max(net[order[most - 1]], 0.0) if len(order) >= most else 0.0
        given = [offer for offer in order if net[offer] > least + self.width]
        tied = sorted(offer for offer in order if abs(net[offer] - least) <= self.width)
        slots = most - len(given)
        if least > self.width and len(tied) <= slots:
            return (*given, *sorted(tied, key=order.index))
        own = tuple(groups.get(family.name, "") for family in self.families if family.by == "members")
        shares = self._shares.get((own, slots, tuple(tied)))
        shares = _even(len(tied), slots, least > self.width) if shares is None else shares
        point, before = _points([key], self.salt)[0], 0.0
        for offer, share in zip(tied, shares, strict=True):
            upto = before + share
            if np.ceil(_snapped(upto) - point) > np.ceil(_snapped(before) - point):
                given.append(offer)
            before = upto
        return tuple(given)

    def decide_all(self, program: Program, *, keys: Sequence[str] | NDArray[Any] | None = None) -> Integers:
        """Decide for many members at once.

        Args:
            program: who may get what, with weights and groups by name; its bounds are not looked at.
            keys: (N) of the members; None: their names, or numbers.

        Returns:
            (S) pairs that are given, rising.

        Raises:
            InputError: the program has an offer, a family or a row that the policy does not know, or lacks a family.

        Source:
            See `from_shares`.
        """
        prices = self._prices(program)
        if keys is None:
            keys = np.arange(program.N) if program.members is None else program.members
        given = []
        for ties in self._ties(program, prices):
            given.append(ties.sure)
            if not len(ties.member):
                continue
            names = np.array(program.offers)
            share = np.empty(len(ties.pairs))
            for alike in ties.kinds():
                own = ties.rows_of(alike)
                options = tuple(names[program.offer[ties.pairs[own[0]]]].tolist())
                slots = int(ties.slots[alike[0]])
                known = self._shares.get((ties.groups[alike[0]], slots, options))
                share[own] = _even(len(options), slots, bool(ties.full[alike[0]])) if known is None else known
            total = np.cumsum(share)
            sizes = ties.ends - ties.begins
            before = np.repeat(total[ties.begins] - share[ties.begins], sizes)
            upto = _snapped(total - before)
            since = np.append(0.0, upto[:-1])
            since[ties.begins] = 0.0
            point = np.repeat(_points([keys[m] for m in ties.member.tolist()], self.salt), sizes)
            given.append(ties.pairs[np.ceil(upto - point) > np.ceil(since - point)])
        return np.sort(np.concatenate([np.empty(0, np.int64), *given]))

    def as_json(self) -> dict[str, Any]:
        """The policy as a JSON value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The policy that `as_json` gave.

        Args:
            value: read from JSON.

        Returns:
            An equal policy.

        Raises:
            InputError: keys are missing or unknown.

        Source:
            Ours.
        """
        try:
            return cls(
                offers=tuple(value["offers"]),
                families=tuple(Priced(**family) for family in value["families"]),
                ties=tuple(
                    Tie(
                        groups=tuple(tie["groups"]),
                        slots=tie["slots"],
                        options=tuple(tie["options"]),
                        shares=tuple(tie["shares"]),
                    )
                    for tie in value["ties"]
                ),
                **{name: part for name, part in value.items() if name not in ("offers", "families", "ties")},
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"this is no policy: {error}; give what `as_json` made.") from error

    @property
    def _shares(self) -> dict[tuple[Any, ...], tuple[float, ...]]:
        kept: dict[tuple[Any, ...], tuple[float, ...]] | None = self.__dict__.get("_by_kind")
        if kept is None:
            kept = {(tie.groups, tie.slots, tie.options): tie.shares for tie in self.ties}
            object.__setattr__(self, "_by_kind", kept)
        return kept

    def _known(self, values: Mapping[str, float], weights: Mapping[str, Any], groups: Mapping[str, str]) -> None:
        """Refuse names that the policy does not know."""
        families = {family.name: family for family in self.families}
        for what, given, known in (
            ("offer", values, self.offers),
            ("family", weights, [family.name for family in self.families if family.weighted]),
            ("family", groups, [family.name for family in self.families if family.by == "members"]),
        ):
            if unknown := sorted(set(given) - set(known)):
                raise InputError(f"{what} {unknown[0]!r} is unknown here; known are {', '.join(known) or 'none'}.")
        for name, row in groups.items():
            if row not in families[name].prices:
                raise InputError(f"family {name!r} has no row {row!r}, it has {', '.join(families[name].prices)}.")

    def _prices(self, program: Program) -> Floats:
        """(K) prices of a program's rows by name."""
        if unknown := sorted(set(program.offers) - set(self.offers)):
            raise InputError(f"offer {unknown[0]!r} is unknown to the policy; solve with it first.")
        known = {family.name: family for family in self.families}
        if missing := sorted(set(known) ^ {family.name for family in program.families}):
            where = "the program" if missing[0] in known else "the policy"
            raise InputError(f"{where} has no family {missing[0]!r}; both must have the same.")
        prices: list[float] = []
        for family in program.families:
            own = known[family.name]
            by = "offers" if family.offers is not None else "members" if family.members is not None else ""
            if own.by != by or own.weighted != (family.weight is not None):
                raise InputError(f"family {family.name!r} groups or weighs other things here than in the policy.")
            rows = family.rows if by else (family.name,)
            if unknown := sorted(set(rows) - set(own.prices)):
                raise InputError(f"row {family.name}/{unknown[0]} is unknown to the policy; solve with it first.")
            if family.offers is not None:
                for offer, k in zip(program.offers, np.asarray(family.offers).tolist(), strict=True):
                    here, there = (None if k == NOTHING else rows[k]), own.row_of.get(offer)
                    if here != there:
                        raise InputError(
                            f"offer {offer!r} is in row {here!r} of {family.name!r}, in the policy in {there!r}; "
                            "solve again."
                        )
            prices += [own.prices[row] for row in rows]
        return np.array(prices, np.float64)

    def _ties(self, program: Program, prices: Floats) -> Iterator["_Ties"]:
        """Who is sure and who is not, some members at a time."""
        caps = np.atleast_1d(np.asarray(program.most, np.float64))
        if (caps != np.floor(caps)).any():
            member = int(np.flatnonzero(caps != np.floor(caps))[0])
            raise InputError(
                f"most of member {program.name_of(member)!r} is {caps[member]}, a policy gives whole offers; round it."
            )
        by_name = np.argsort(np.array(program.offers), kind="stable")
        place = np.empty(program.M, np.int64)
        place[by_name] = np.arange(program.M)
        for begin, end in spans(program):
            yield self._sorted_out(program, prices, begin, end, place)

    def _sorted_out(self, program: Program, prices: Floats, begin: int, end: int, place: NDArray[np.int64]) -> "_Ties":
        first = int(program.start[begin])
        net = net_values(program, prices, begin, end)
        counts = np.diff(program.start[begin : end + 1])
        most = program.most_of(slice(begin, end))
        member = np.repeat(np.arange(end - begin), counts)
        least = np.zeros(end - begin)
        filled = np.flatnonzero(counts)
        if (most == 1).all():
            if len(filled):
                least[filled] = np.maximum(np.maximum.reduceat(net, program.start[begin:end][filled] - first), 0.0)
        else:
            order = np.lexsort((-net, member))
            at = program.start[begin:end] - first + np.minimum(most, counts).astype(np.int64) - 1
            enough = (counts >= most) & (most >= 1)
            least[enough] = np.maximum(net[order[at[enough]]], 0.0)
            least[most < 1] = np.inf
        level = least[member]
        sure = net > level + self.width
        tied = np.abs(net - level) <= self.width
        slots = most - np.bincount(member[sure], minlength=end - begin)
        count = np.bincount(member[tied], minlength=end - begin)
        full = least > self.width
        settled = full & (count <= slots)
        sure |= tied & settled[member]
        pairs = np.flatnonzero(tied & ~settled[member])
        pairs = pairs[np.lexsort((place[program.offer[first + pairs]], member[pairs]))]
        who, begins = np.unique(member[pairs], return_index=True)
        ends = np.append(begins[1:], len(pairs)).astype(np.int64)[: len(begins)]
        own: list[NDArray[Any]] = []
        for family in program.families:
            if family.members is not None:
                names = np.array([*family.rows, ""])
                own.append(names[np.asarray(family.members)[begin:end][who]])
        rows: list[list[str]] = [names.tolist() for names in own]
        groups: list[tuple[str, ...]] = [tuple(row[i] for row in rows) for i in range(len(who))]
        kinds: dict[tuple[Any, ...], int] = {}
        offers = program.offer[first + pairs].tolist()
        kind = np.array(
            [
                kinds.setdefault((group, slot, tuple(offers[a:b])), len(kinds))
                for group, slot, a, b in zip(groups, slots[who].tolist(), begins.tolist(), ends.tolist(), strict=True)
            ],
            np.int64,
        )
        return _Ties(
            first + np.flatnonzero(sure), begin + who, first + pairs, begins, ends, slots[who], full[who], groups, kind
        )


class _Ties(NamedTuple):
    """Members of a span sorted out.

    Attributes:
        sure: pairs that are given whatever the hash says.
        member: (T) members who are indifferent.
        pairs: (S) pairs between which they are, member by member, by the offer's name.
        begins: (T) first of each member's.
        ends: (T) the one after the last.
        slots: (T) how many she may get of them.
        full: (T) whether she gets as many in any case.
        groups: (T) her rows by name.
        kind: (T) number of her kind: the same groups, slots and offers.
    """

    sure: Integers
    member: Integers
    pairs: Integers
    begins: Integers
    ends: Integers
    slots: Floats
    full: NDArray[np.bool_]
    groups: list[tuple[str, ...]]
    kind: Integers

    def kinds(self) -> list[Integers]:
        """Places of the members of each kind."""
        order = np.argsort(self.kind, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.kind))[:-1]) if len(order) else []

    def rows_of(self, alike: Integers) -> Integers:
        """(members, options) places in `pairs` of members of one kind."""
        size = int(self.ends[alike[0]] - self.begins[alike[0]])
        return np.asarray(self.begins[alike][:, None] + np.arange(size))


def _even(options: int, slots: float, full: bool) -> tuple[float, ...]:
    """Equal shares where nothing is known; nothing is one more option for those who need not get any."""
    return (min(1.0, slots / (options + (0 if full else 1))),) * options


def _snapped(number: Any) -> Any:
    """Sums of shares that should be whole are."""
    near = np.round(number)
    return np.where(np.abs(number - near) < 1e-9, near, number)


def _points(keys: Sequence[Any], salt: str) -> Floats:
    """A number of [0, 1) of each key: 53 bits of BLAKE2b."""
    seed = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    return np.array(
        [
            (int.from_bytes(hashlib.blake2b(str(key).encode(), digest_size=8, key=seed).digest()) >> 11) * 2.0**-53
            for key in keys
        ]
    )
