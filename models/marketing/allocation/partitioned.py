"""A program in parts: blocks of members that are loaded one after another, pass after pass.

A part is a `Program` over its own members with the offers, rows and bounds of the whole; only one part, and a sample of
some ten thousand members, are in memory at a time. When every part but the last holds a multiple of `arranged.BLOCK`
members, sums are cut as in one program over all of them, and the answer has the same bits.

Shapes: N members, M offers, E pairs, K shared rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from models.common.contracts import InputError
from models.marketing.allocation.program import Floats, Integers, Program

Loader = Callable[[], Program]


class Partitioned:
    """Members in parts.

    Args:
        loaders: each gives its part whenever it is called, the same every time: from a file, from a generator.

    Raises:
        InputError: there is no part, or a part has other offers, rows or bounds than the first.

    Source:
        Ours.
    """

    def __init__(self, loaders: Sequence[Loader]) -> None:
        if not loaders:
            raise InputError("a program in parts has no part; give at least one loader.")
        self._loaders = tuple(loaders)
        members, pairs, self.least_value = [0], [0], 0.0
        self.least_weights: tuple[float, ...] = ()
        for number, load in enumerate(self._loaders):
            part = load().check()
            if number == 0:
                self.offers, self.names, self.lower, self.upper = part.offers, part.names, part.lower, part.upper
            elif part.offers != self.offers or part.names != self.names:
                raise InputError(f"part {number} has other offers or rows than part 0; build all from the same tables.")
            elif not (np.array_equal(part.lower, self.lower) and np.array_equal(part.upper, self.upper)):
                raise InputError(f"part {number} has other bounds than part 0; every part carries those of the whole.")
            own = part.least_weights
            self.least_weights = tuple(min(a, b) for a, b in zip(self.least_weights or own, own, strict=True))
            self.least_value = min(self.least_value, part.least_value)
            members.append(members[-1] + part.N)
            pairs.append(pairs[-1] + part.E)
        self.first_member: Integers = np.array(members, np.int64)
        self.first_pair: Integers = np.array(pairs, np.int64)

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

    @cached_property
    def count(self) -> int:
        """How many parts there are."""
        return len(self._loaders)

    def part(self, number: int) -> Program:
        """One part."""
        return self._loaders[number]()

    def parts(self) -> Iterator[Program]:
        """All parts in order, one in memory at a time."""
        for load in self._loaders:
            yield load()

    def take(self, members: Integers) -> Program:
        """A program over some members in the order of their numbers; one reading of the parts."""
        found = []
        for number, part in enumerate(self.parts()):
            first, last = self.first_member[number], self.first_member[number + 1]
            found.append(part.take(members[(members >= first) & (members < last)] - first))
        return joined(found)

    def member_of(self, pairs: Integers) -> Integers:
        """The member of each pair; one reading of the parts."""
        out = np.empty(len(pairs), np.int64)
        for number, part in enumerate(self.parts()):
            first, last = self.first_pair[number], self.first_pair[number + 1]
            inside = (pairs >= first) & (pairs < last)
            out[inside] = part.member_of(pairs[inside] - first) + self.first_member[number]
        return out

    def most_of(self, members: Integers) -> Floats:
        """Most offers of some members, in the order of their numbers; one reading of the parts."""
        found = []
        for number, part in enumerate(self.parts()):
            first, last = self.first_member[number], self.first_member[number + 1]
            found.append(part.most_of(members[(members >= first) & (members < last)] - first))
        return np.concatenate(found)

    def pairs_of(self, members: Integers) -> Integers:
        """(S) numbers of the pairs of some members, in the order of their numbers; one reading of the parts."""
        found = []
        for number, part in enumerate(self.parts()):
            first, last = self.first_member[number], self.first_member[number + 1]
            found.append(
                part.pairs_of(members[(members >= first) & (members < last)] - first) + self.first_pair[number]
            )
        return np.concatenate(found)


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
