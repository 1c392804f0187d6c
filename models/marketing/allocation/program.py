"""The program: which member gets which offers, so that the value is greatest and every shared row holds.

    maximise    sum_e v_e x_e
    subject to  l_k <= sum_e a_ke x_e <= u_k        for every shared row k
                sum_{e of member u} x_e <= most_u   at most so many offers a member
                0 <= x_e <= 1

over pairs e of a member and an offer that she may get. Shared rows come in families: a weight of every pair, or one
each, summed over all pairs, by groups of offers (a channel, a line) or by groups of members (a segment). Names, not
places, say which row and which offer is meant.

Shapes: N members, M offers, E pairs, K shared rows, F families.

Source: the program of "From Prediction to Incrementality" (arXiv 2608.10182, equations 3, 4 and 12), with rows that
have both bounds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.allocation import soundness

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NOTHING = -1
"""Row of an offer or a member that is in no row of a family."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conflict:
    """Why no allocation holds all rows.

    For prices r of the rows, every allocation within the rows has  sum_k r_k load_k <= sum_k max(l_k r_k, u_k r_k), and
    every allocation at all has  sum_k r_k load_k >= -sum_u max_x (-r . load_u(x)). A ray r for which the second number
    is above the first proves that there is none. Written without signs: what lower rows need, at the ray's weights, is
    more than upper rows and members have.

    Attributes:
        rows: names of a smallest set of rows that cannot hold together: without any one of them the others can.
        ray: (K) float64; above zero for upper rows, below zero for lower rows, zero elsewhere.
        needed: sum over lower rows of |r_k| l_k.
        available: sum over upper rows of r_k u_k, plus the most that members can have of -r . load.
    """

    rows: tuple[str, ...]
    ray: Floats
    needed: float
    available: float

    def sentence(self) -> str:
        """The conflict in words."""
        if len(self.rows) == 1:
            return f"row {self.rows[0]!r} needs {self.needed:.6g}, available are {self.available:.6g}"
        names = ", ".join(repr(name) for name in self.rows)
        return f"rows {names} cannot hold together: they need {self.needed:.6g}, available are {self.available:.6g}"


class Infeasible(InputError):  # noqa: N818 - the name of the state, as in every text on linear programs
    """No allocation holds all rows; `conflict` says which rows and proves it."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(f"{conflict.sentence()}; widen one of these rows.")
        self.conflict = conflict


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """Shared rows that sum the same weight.

    Attributes:
        name: of the family, as in "spend".
        rows: names of its rows; one when neither offers nor members are given.
        lower: (rows) float64, least load; -inf for none.
        upper: (rows) float64, most load; +inf for none.
        weight: (E) float32 or float64, what a pair adds; None: one each.
        offers: (M) row of each offer, `NOTHING` for none; None: all offers are alike.
        members: (N) row of each member, `NOTHING` for none. At most one of offers and members is given.
    """

    name: str
    rows: tuple[str, ...]
    lower: Floats
    upper: Floats
    weight: NDArray[Any] | None = None
    offers: NDArray[Any] | None = None
    members: NDArray[Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of the rows: "spend", or "volume/email" where the family has groups."""
        if self.offers is None and self.members is None:
            return (self.name,)
        return tuple(f"{self.name}/{row}" for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Shared rows as a person names them, for `Program.from_pairs`.

    Attributes:
        name: of the family.
        bounds: least and most load of each row by its name; (-inf or inf: none). A family that is not `by` anything has
            one row, named like the family.
        weight: column of the pairs that is summed; empty: one each.
        by: column of the offers or of the members whose entries name the rows; empty: one row over all.
    """

    name: str
    bounds: Mapping[str, tuple[float, float]]
    weight: str = ""
    by: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A program in arrays, pairs of a member side by side.

    Attributes:
        start: (N + 1) int64; pairs of member u are start[u] to start[u + 1] - 1.
        offer: (E) int16 or int32, the pair's offer; each at most once in a member.
        value: (E) float32 or float64, what the pair is worth.
        offers: (M) names.
        families: of shared rows.
        most: at most so many offers a member; one number, or (N). 1: a simplex; more: a frequency cap.
        members: (N) names; None: they are called by number.
    """

    start: Integers
    offer: NDArray[Any]
    value: NDArray[Any]
    offers: tuple[str, ...]
    families: tuple[Family, ...] = ()
    most: float | Floats = 1.0
    members: Sequence[str] | NDArray[Any] | None = None

    @property
    def N(self) -> int:  # noqa: N802 - the letter of the shapes
        """How many members there are."""
        return len(self.start) - 1

    @property
    def M(self) -> int:  # noqa: N802
        """How many offers there are."""
        return len(self.offers)

    @property
    def E(self) -> int:  # noqa: N802
        """How many pairs there are."""
        return len(self.value)

    @property
    def K(self) -> int:  # noqa: N802
        """How many shared rows there are."""
        return sum(len(family.rows) for family in self.families)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """(K) names of the rows, family by family."""
        return tuple(name for family in self.families for name in family.names)

    @cached_property
    def lower(self) -> Floats:
        """(K) least loads."""
        return np.concatenate([np.asarray(family.lower, np.float64) for family in self.families] or [np.empty(0)])

    @cached_property
    def upper(self) -> Floats:
        """(K) most loads."""
        return np.concatenate([np.asarray(family.upper, np.float64) for family in self.families] or [np.empty(0)])

    @cached_property
    def first(self) -> tuple[int, ...]:
        """(F) the first row of each family."""
        sizes = [len(family.rows) for family in self.families]
        return tuple(int(n) for n in np.concatenate([[0], np.cumsum(sizes)[:-1]])) if sizes else ()

    @cached_property
    def dense(self) -> bool:
        """Whether every member may get every offer, in their order."""
        return bool(soundness.complete(soundness.seen(self.start), soundness.seen(self.offer), self.M))

    @cached_property
    def least_value(self) -> float:
        """The least value of a pair, or zero if none is below; a value that is not finite is refused."""
        return self._check_numbers("value", self.value)

    @cached_property
    def least_weights(self) -> tuple[float, ...]:
        """(F) the least weight of each family, or zero if none is below; one that is not finite is refused."""
        known: dict[int, float] = {}  # families often share a weight: it is read once
        out = []
        for family in self.families:
            if family.weight is None:
                out.append(0.0)
                continue
            if id(family.weight) not in known:
                known[id(family.weight)] = self._check_numbers(f"weight of {family.name!r}", family.weight)
            out.append(known[id(family.weight)])
        return tuple(out)

    @cached_property
    def least_of_rows(self) -> Floats:
        """(K) the least weight that a row may sum, or zero if none is below."""
        return np.repeat(np.array(self.least_weights, np.float64), [len(family.rows) for family in self.families])

    @property
    def packing(self) -> bool:
        """Whether less of any share never breaks a row: no weight below zero, no lower bound above zero."""
        return bool((self.least_of_rows >= 0).all() and (self.lower <= 0).all())

    def pairs_of(self, members: NDArray[Any]) -> Integers:
        """(S) pairs of some members, member by member in the order given."""
        counts = self.start[members + 1] - self.start[members]
        before = np.cumsum(counts) - counts
        pairs: Integers = np.repeat(self.start[members] - before, counts) + np.arange(counts.sum())
        return pairs

    def take(self, members: NDArray[Any]) -> "Program":
        """The same rows and bounds over some members, in the order given.

        Args:
            members: (n) numbers of members, each at most once.

        Returns:
            Their program; its arrays are copies.
        """
        counts = self.start[members + 1] - self.start[members]
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        pairs = self.pairs_of(members)
        weights: dict[int, NDArray[Any]] = {}
        families = []
        for family in self.families:
            if family.weight is not None and id(family.weight) not in weights:
                weights[id(family.weight)] = family.weight[pairs]
            families.append(
                replace(
                    family,
                    weight=None if family.weight is None else weights[id(family.weight)],
                    members=None if family.members is None else family.members[members],
                )
            )
        return replace(
            self,
            start=start,
            offer=self.offer[pairs],
            value=self.value[pairs],
            families=tuple(families),
            most=self.most[members] if isinstance(self.most, np.ndarray) else self.most,
            members=None if self.members is None else np.asarray(self.members)[members],
        )

    def most_of(self, members: NDArray[Any] | slice) -> Floats:
        """Most offers of some members."""
        if isinstance(self.most, np.ndarray):
            return np.asarray(self.most[members], np.float64)
        count = len(range(*members.indices(self.N))) if isinstance(members, slice) else len(members)
        return np.full(count, float(self.most))

    def member_of(self, pairs: NDArray[Any]) -> Integers:
        """The member (number) of each pair."""
        return np.searchsorted(self.start, pairs, side="right").astype(np.int64) - 1

    def columns(self, pairs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """What some pairs add to the rows.

        Args:
            pairs: (S) numbers of pairs.

        Returns:
            (F, S) int64 row of each pair in each family, `NOTHING` for none, and (F, S) float64 what it adds there.
        """
        pairs = np.asarray(pairs, np.int64)
        rows, weights = np.full((len(self.families), len(pairs)), NOTHING), np.ones((len(self.families), len(pairs)))
        member = self.member_of(pairs) if any(family.members is not None for family in self.families) else None
        for f, (family, first) in enumerate(zip(self.families, self.first, strict=True)):
            if family.offers is not None:
                group = np.asarray(family.offers)[self.offer[pairs]].astype(np.int64)
            elif family.members is not None and member is not None:
                group = np.asarray(family.members)[member].astype(np.int64)
            else:
                group = np.zeros(len(pairs), np.int64)
            rows[f] = np.where(group >= 0, first + group, NOTHING)
            if family.weight is not None:
                weights[f] = family.weight[pairs]
            weights[f][group < 0] = 0.0
        return rows, weights

    def loads_of(self, pairs: NDArray[Any], shares: NDArray[Any]) -> Floats:
        """(K) loads of some pairs at some shares."""
        rows, weights = self.columns(pairs)
        out = np.zeros(self.K)
        for row, weight in zip(rows, weights, strict=True):
            inside = row >= 0
            out += np.bincount(row[inside], (weight * shares)[inside], minlength=self.K)
        return out

    def loads(self, x: NDArray[Any]) -> Floats:
        """Loads of an allocation.

        Args:
            x: (E) shares.

        Returns:
            (K) float64, in each row's own unit.

        Raises:
            InputError: x has another length.
        """
        if x.shape != (self.E,):
            raise InputError(f"shares have the shape {x.shape}, the program has {self.E} pairs; give one for each.")
        out, size = np.zeros(self.K), 1 << 20
        for begin in range(0, self.E, size):
            pairs = begin + np.flatnonzero(x[begin : begin + size])
            out += self.loads_of(pairs, x[pairs].astype(np.float64))
        return out

    def name_of(self, member: int) -> str:
        """A member's name, or her number."""
        return str(member if self.members is None else self.members[member])

    def check(self) -> Self:
        """Refuse what cannot be solved, by name, value and remedy.

        Returns:
            The program itself.

        Raises:
            InputError: shapes do not fit; a number is NaN or infinite; a pair occurs twice or names no offer; a name is
                empty or occurs twice; a row's lower bound is above its upper; a family groups offers and members.
        """
        self._check_shapes()
        for family in self.families:
            self._check_family(family)
        _check_names(self.names, "row")
        _ = self.least_value
        _ = self.least_weights
        if not self.dense and (pair := self._misplaced()) >= 0:
            member = int(self.member_of(np.array([pair]))[0])
            number = int(self.offer[pair])
            if not 0 <= number < self.M:
                raise InputError(
                    f"member {self.name_of(member)!r} has offer number {number}, there are {self.M} offers; "
                    "number them from 0."
                )
            raise InputError(f"member {self.name_of(member)!r} has offer {self.offers[number]!r} twice; keep one pair.")
        return self

    def _misplaced(self) -> int:
        """The first pair whose offer is unknown or is in its member before; -1 if there is none."""
        return int(soundness.misplaced(soundness.seen(self.start), soundness.seen(self.offer), self.M))

    def _check_shapes(self) -> None:
        if self.start.ndim != 1 or len(self.start) < 1 or self.start.dtype != np.int64:
            raise InputError(f"start must be int64 (N + 1), got {self.start.dtype} {self.start.shape}.")
        if self.offer.dtype not in (np.int16, np.int32):
            raise InputError(f"offer must be int16 or int32, got {self.offer.dtype}; convert it.")
        if self.value.dtype not in (np.float32, np.float64):
            raise InputError(f"value must be float32 or float64, got {self.value.dtype}; convert it.")
        if self.offer.shape != self.value.shape or self.value.ndim != 1:
            raise InputError(f"offer is {self.offer.shape} and value {self.value.shape}; give one of each for a pair.")
        if self.start[0] != 0 or self.start[-1] != self.E or (np.diff(self.start) < 0).any():
            raise InputError(f"start must rise from 0 to {self.E}, the number of pairs; sort the pairs by member.")
        _check_names(self.offers, "offer")
        if self.members is not None and len(self.members) != self.N:
            raise InputError(f"{len(self.members)} members are named, start has {self.N}; name all or none.")
        if not isinstance(self.most, int | float | np.number | np.ndarray):
            raise InputError(f"most is a {type(self.most).__name__}; give one number, or an array of one each.")
        most = np.asarray(self.most, np.float64)
        if most.ndim and most.shape != (self.N,):
            raise InputError(
                f"most has the shape {most.shape}, there are {self.N} members; give one number or one each."
            )
        if not (np.isfinite(most) & (most >= 0)).all():
            where = int(np.flatnonzero(np.atleast_1d(~(np.isfinite(most) & (most >= 0))))[0])
            raise InputError(
                f"most of member {self.name_of(where)!r} is {np.atleast_1d(most)[where]}; give a number from 0 on."
            )

    def _check_family(self, family: Family) -> None:
        """Shapes and bounds of one family."""
        name, rows = family.name, len(family.rows)
        if not name:
            raise InputError("a family of rows has no name; name it.")
        if family.offers is not None and family.members is not None:
            raise InputError(f"family {name!r} groups offers and members; make a family of each.")
        if family.offers is None and family.members is None and rows != 1:
            raise InputError(f"family {name!r} has {rows} rows and no groups; give it one row, or offers or members.")
        _check_names(family.rows, f"row of {name!r}")
        for side, bound in (("lower", family.lower), ("upper", family.upper)):
            if np.shape(bound) != (rows,):
                raise InputError(f"{side} of family {name!r} has the shape {np.shape(bound)}, its rows are {rows}.")
        for row, lower, upper in zip(family.names, family.lower, family.upper, strict=True):
            if np.isnan(lower) or lower == np.inf:
                raise InputError(f"lower of row {row!r} is {lower}; give a number, or -inf for none.")
            if np.isnan(upper) or upper == -np.inf:
                raise InputError(f"upper of row {row!r} is {upper}; give a number, or inf for none.")
            if lower > upper:
                raise InputError(f"row {row!r} has lower {lower:.6g} above upper {upper:.6g}; exchange or widen them.")
        if family.weight is not None and (
            family.weight.shape != (self.E,) or family.weight.dtype not in (np.float32, np.float64)
        ):
            raise InputError(
                f"weight of family {name!r} is {family.weight.dtype} {family.weight.shape}; "
                f"give float32 or float64 for {self.E} pairs."
            )
        for what, groups, count in (("offers", family.offers, self.M), ("members", family.members, self.N)):
            if groups is None:
                continue
            if groups.shape != (count,) or groups.dtype.kind not in "iu":
                raise InputError(f"{what} of family {name!r} is {groups.dtype} {groups.shape}; give {count} integers.")
            if count and not (groups.min() >= NOTHING and groups.max() < rows):
                where = int(np.flatnonzero((groups < NOTHING) | (groups >= rows))[0])
                raise InputError(
                    f"{what}[{where}] of family {name!r} is {groups[where]}; "
                    f"give a row from 0 to {rows - 1}, or {NOTHING}."
                )

    def _check_numbers(self, column: str, numbers: NDArray[Any]) -> float:
        """The least of the numbers, or zero if none is below; all must be finite."""
        if not math.isnan(low := float(soundness.least(numbers))):
            return low
        pair = int(np.flatnonzero(~(np.abs(numbers) < soundness.LARGEST))[0])
        member = int(self.member_of(np.array([pair]))[0])
        raise InputError(
            f"{column} of member {self.name_of(member)!r} and offer {self.offers[int(self.offer[pair])]!r} is "
            f"{numbers[pair]}; give a number within 1.7e100, or leave the pair out."
        )

    @classmethod
    def from_pairs(
        cls,
        pairs: Any,
        *,
        limits: Sequence[Limits],
        offers: Any = None,
        members: Any = None,
        most: float | str = 1.0,
    ) -> "Program":
        """A program from tables, everything resolved by name.

        Args:
            pairs: columns member, offer, value, and the weights that the limits name; in any order. A pyarrow table, a
                pandas frame or a mapping of columns.
            limits: shared rows.
            offers: columns offer, and those that limits are `by`; None: offers are those of the pairs.
            members: columns member, and those that limits are `by`; None: members are those of the pairs.
            most: at most so many offers a member; one number, or a column of the members.

        Returns:
            The checked program. Offers and members are in the order of their tables, else of their first pair.

        Raises:
            InputError: a column is missing; a name is unknown, empty or occurs twice; a bound names a row that no offer
                or member is in; whatever `check` refuses.
        """
        member, member_names = _coded(pairs, "member", members)
        offer, offer_names = _coded(pairs, "offer", offers)
        if len(offer) != len(member):
            raise InputError(f"the pairs have {len(member)} members and {len(offer)} offers; give one of each.")
        order = np.argsort(member, kind="stable") if (np.diff(member) < 0).any() else slice(None)
        start = np.concatenate([[0], np.cumsum(np.bincount(member, minlength=len(member_names)))]).astype(np.int64)

        def numbers(table: Any, name: str) -> NDArray[Any]:
            return _numbers(_column(table, name), name, len(member) if table is pairs else len(member_names))

        families = []
        for limit in limits:
            groups: dict[str, NDArray[Any]] = {}
            rows, bounds = tuple(limit.bounds), _bounds(limit)
            if limit.by:
                what = [key for key, table in (("offers", offers), ("members", members)) if limit.by in _names(table)]
                if len(what) != 1:
                    held = "both tables have" if what else "neither table of offers nor of members has"
                    raise InputError(f"limits {limit.name!r} are by {limit.by!r}, {held} that column; name one of one.")
                groups[what[0]] = _rows(offers if what[0] == "offers" else members, limit)
            elif rows != (limit.name,):
                raise InputError(
                    f"limits {limit.name!r} are over all pairs and name the rows {rows}; "
                    f"give one bound, named {limit.name!r}, or say by which column."
                )
            families.append(
                Family(
                    name=limit.name,
                    rows=rows,
                    lower=bounds[:, 0],
                    upper=bounds[:, 1],
                    weight=numbers(pairs, limit.weight)[order] if limit.weight else None,
                    offers=groups.get("offers"),
                    members=groups.get("members"),
                )
            )
        kind = np.int16 if len(offer_names) < 2**15 else np.int32
        return cls(
            start=start,
            offer=offer[order].astype(kind),
            value=numbers(pairs, "value")[order],
            offers=tuple(offer_names),
            families=tuple(families),
            most=np.asarray(numbers(members, most), np.float64) if isinstance(most, str) else float(most),
            members=member_names,
        ).check()


def _check_names(names: Sequence[str], what: str) -> None:
    """Refuse an empty name and one that occurs twice."""
    seen: set[str] = set()
    for place, name in enumerate(names):
        if not name:
            raise InputError(f"{what} number {place} has no name; name it.")
        if name in seen:
            raise InputError(f"{what} {name!r} occurs twice; rename one.")
        seen.add(name)


def _names(table: Any) -> list[str]:
    """Names of a table's columns."""
    if table is None:
        return []
    return [str(name) for name in (table.column_names if isinstance(table, pa.Table) else table.keys())]


def _column(table: Any, name: str) -> Any:
    if name not in _names(table):
        raise InputError(f"there is no column {name!r}, the table has {', '.join(_names(table)) or 'none'}; add it.")
    return table[name]


def _numbers(entries: Any, name: str, count: int) -> NDArray[Any]:
    """A column of numbers; text, and another length than the table's, are refused by name."""
    column: NDArray[Any] = np.asarray(entries)
    if len(column) != count:
        raise InputError(f"column {name!r} has {len(column)} entries, the table has {count} rows; give one each.")
    if column.dtype in (np.float32, np.float64):
        return column
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"column {name!r} holds what is no number ({error}); correct it or leave it out.") from error


def _bounds(limit: Limits) -> Floats:
    """(rows, 2) least and most load of each row."""
    found = np.empty((len(limit.bounds), 2))
    for place, (row, both) in enumerate(limit.bounds.items()):
        try:
            found[place] = [float(bound) for bound in both]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"limits {limit.name!r} bound {row!r} by {both!r}; give the least and the most, -inf or inf for none."
            ) from error
    return found


def _text(table: Any, name: str) -> pa.DictionaryArray:
    """A column of names, each distinct one stored once."""
    column = _column(table, name)
    chunked = isinstance(column, pa.ChunkedArray)
    column = column.combine_chunks() if chunked else pa.array(np.asarray(column), from_pandas=True)
    if column.null_count:
        raise InputError(f"column {name!r} has {column.null_count} empty entries; name them.")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return column.cast(pa.dictionary(pa.int32(), pa.string()))


def _coded(pairs: Any, name: str, table: Any) -> tuple[Integers, list[str]]:
    """Numbers of the names in a column of the pairs, and the names in the order of their table or first pair."""
    column = _text(pairs, name)
    codes, found = column.indices.to_numpy().astype(np.int64), column.dictionary.to_pylist()
    if table is None:
        used = np.unique(codes, return_index=True)  # a dictionary may hold names that no pair has
        kept = used[0][np.argsort(used[1])]
        if "" in found and found.index("") in kept:
            pair = int(np.flatnonzero(codes == found.index(""))[0])
            raise InputError(f"{name} of pair {pair} has no name; name it.")
        place = np.full(len(found), NOTHING)
        place[kept] = np.arange(len(kept))
        return place[codes], [found[code] for code in kept]
    names = [str(entry) for entry in _text(table, name).to_pylist()]
    _check_names(names, name)
    known = {entry: number for number, entry in enumerate(names)}
    place = np.array([known.get(entry, NOTHING) for entry in found], np.int64)
    codes = place[codes]
    if (codes < 0).any():
        pair = int(np.flatnonzero(codes < 0)[0])
        raise InputError(
            f"pair {pair} is of {name} {column[pair].as_py()!r}, the table of {name}s has none; add it there."
        )
    return codes, names


def _rows(table: Any, limit: Limits) -> NDArray[np.int32]:
    """Row of each entry of a table by the names of its groups; a group without bounds is in no row."""
    column = _text(table, limit.by)
    found = column.dictionary.to_pylist()
    known = {name: row for row, name in enumerate(limit.bounds)}
    present = {found[code] for code in np.unique(column.indices.to_numpy())}
    if unknown := [name for name in known if name not in present]:
        raise InputError(
            f"limits {limit.name!r} bound {unknown[0]!r}, column {limit.by!r} holds {', '.join(sorted(present))}; "
            "correct the name or leave it out."
        )
    place = np.array([known.get(name, NOTHING) for name in found], np.int32)
    return np.asarray(place[column.indices.to_numpy()], np.int32)
