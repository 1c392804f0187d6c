"""A program in parts: blocks of members that are loaded one after another, pass after pass.

A part is a `Program` over its own members with the offers, rows and bounds of the whole; only one part, and a sample of
some ten thousand members, are in memory at a time. Where parts are looked at is the caller's affair: in this process,
or wherever a function like `map` takes them, as to the workers of a Dask cluster,

    Partitioned(loaders, run=lambda call, jobs: client.gather(client.map(call, jobs, pure=False)))

When every part but the last holds a multiple of `arranged.BLOCK` members, sums are cut as in one program over all of
them; and then, whoever adds them up, the answer has the same bits.

Shapes: N members, M offers, E pairs, K shared rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.common.errors import InputError
from models.marketing.allocation.program import Floats, Integers, Program

Loader = Callable[[], Program]

Over = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Calls a function with each of some jobs, wherever that is, and gives the results in the order of the jobs."""


@dataclass(frozen=True)
class _Summary:
    """What a part says of itself."""

    members: int
    pairs: int
    offers: tuple[str, ...]
    names: tuple[str, ...]
    lower: Floats
    upper: Floats
    kinds: tuple[tuple[Any, ...], ...]
    least_value: float
    least_of_rows: Floats


class Partitioned:
    """Members in parts.

    Args:
        loaders: each gives its part whenever it is called, the same every time: from a file, from a generator.
        run: calls a function with each of some jobs and gives the results in order; None: here, one after another.
            What it sends elsewhere are loaders, arrays and functions of this package.

    Raises:
        InputError: there is no part, or a part has other offers, rows, bounds or groups of offers than the first.

    Source:
        Ours.
    """

    def __init__(self, loaders: Sequence[Loader], run: Over | None = None) -> None:
        if not loaders:
            raise InputError("a program in parts has no part; give at least one loader.")
        self._loaders, self.run = tuple(loaders), run
        found = self.each(_summary)
        first = found[0]
        for number, part in enumerate(found[1:], 1):
            if part.offers != first.offers or part.names != first.names:
                raise InputError(f"part {number} has other offers or rows than part 0; build all from the same tables.")
            if not (np.array_equal(part.lower, first.lower) and np.array_equal(part.upper, first.upper)):
                raise InputError(f"part {number} has other bounds than part 0; every part carries those of the whole.")
            if part.kinds != first.kinds:
                raise InputError(
                    f"part {number} groups its offers or weighs its pairs otherwise than part 0; build all from the "
                    "same tables."
                )
        self.offers, self.names, self.lower, self.upper = first.offers, first.names, first.lower, first.upper
        self.least_value = min(part.least_value for part in found)
        self.least_of_rows = np.min([part.least_of_rows for part in found], axis=0)
        self.first_member: Integers = np.cumsum([0, *(part.members for part in found)])
        self.first_pair: Integers = np.cumsum([0, *(part.pairs for part in found)])

    @property
    def N(self) -> int:  # noqa: N802 - the letter of the shapes
        """How many members there are."""
        return int(self.first_member[-1])

    @property
    def E(self) -> int:  # noqa: N802
        """How many pairs there are."""
        return int(self.first_pair[-1])

    @property
    def K(self) -> int:  # noqa: N802
        """How many shared rows there are."""
        return len(self.names)

    @property
    def packing(self) -> bool:
        """Whether less of any share never breaks a row; see `Program`."""
        return bool((self.least_of_rows >= 0).all() and (self.lower <= 0).all())

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self._loaders)

    def each(self, step: Callable[..., Any], jobs: Sequence[tuple[Any, ...]] | None = None) -> list[Any]:
        """One reading of the parts.

        Args:
            step: called with each part, and with what its job holds.
            jobs: one for each part; None: nothing.

        Returns:
            The results in the order of the parts.

        Source:
            Ours.
        """
        work = [(load, step, job) for load, job in zip(self._loaders, jobs or [()] * self.count, strict=True)]
        return [_loaded(one) for one in work] if self.run is None else list(self.run(_loaded, work))

    def take(self, members: Integers) -> Program:
        """A program over some members in the order of their numbers; one reading of the parts."""
        return joined(self.each(Program.take, self._cut(members, self.first_member)))

    def member_of(self, pairs: Integers) -> Integers:
        """The member of each pair, in any order; one reading of the parts."""
        order = np.argsort(pairs, kind="stable")
        found = self.each(Program.member_of, self._cut(pairs[order], self.first_pair))
        out = np.empty(len(pairs), np.int64)
        out[order] = np.concatenate([own + first for own, first in zip(found, self.first_member, strict=False)])
        return out

    def most_of(self, members: Integers) -> Floats:
        """Most offers of some members, in the order of their numbers; one reading of the parts."""
        return np.concatenate(self.each(Program.most_of, self._cut(members, self.first_member)))

    def pairs_of(self, members: Integers) -> Integers:
        """(S) numbers of the pairs of some members, in the order of their numbers; one reading of the parts."""
        found = self.each(Program.pairs_of, self._cut(members, self.first_member))
        return np.concatenate([own + first for own, first in zip(found, self.first_pair, strict=False)])

    def _cut(self, numbers: Integers, firsts: Integers) -> list[tuple[Integers]]:
        """Rising numbers within the whole as those within each part."""
        ends = np.searchsorted(numbers, firsts)
        return [(numbers[ends[i] : ends[i + 1]] - firsts[i],) for i in range(self.count)]


def _loaded(work: tuple[Loader, Callable[..., Any], tuple[Any, ...]]) -> Any:
    load, step, job = work
    return step(load(), *job)


def _summary(part: Program) -> _Summary:
    """A part, checked, in few numbers."""
    part.check()
    kinds = tuple(
        (
            family.weight is not None,
            family.members is not None,
            None if family.offers is None else tuple(np.asarray(family.offers).tolist()),
        )
        for family in part.families
    )
    return _Summary(
        members=part.N, pairs=part.E, offers=part.offers, names=part.names, lower=part.lower, upper=part.upper,
        kinds=kinds, least_value=part.least_value, least_of_rows=part.least_of_rows,
    )  # fmt: skip


def joined(programs: Sequence[Program]) -> Program:
    """One program over the members of several that have the same offers and rows.

    Args:
        programs: at least one.

    Returns:
        Their members in order, by number; arrays are copies.

    Source:
        Ours.
    """
    first = programs[0]
    offsets = np.cumsum([0, *(program.E for program in programs)])
    starts = [program.start[:-1] + offset for program, offset in zip(programs, offsets[:-1], strict=True)]
    weights: dict[int, Floats] = {}
    families = []
    for f, family in enumerate(first.families):
        if family.weight is not None and id(family.weight) not in weights:
            weights[id(family.weight)] = np.concatenate([program.families[f].weight for program in programs])
        groups = None
        if family.members is not None:
            groups = np.concatenate([program.families[f].members for program in programs])
        families.append(
            replace(family, weight=None if family.weight is None else weights[id(family.weight)], members=groups)
        )
    shared = all(isinstance(program.most, float) and program.most == first.most for program in programs)
    return replace(
        first,
        start=np.concatenate([*starts, offsets[-1:]]).astype(np.int64),
        offer=np.concatenate([program.offer for program in programs]),
        value=np.concatenate([program.value for program in programs]),
        families=tuple(families),
        most=first.most if shared else np.concatenate([program.most_of(slice(0, program.N)) for program in programs]),
        members=None,
    )
