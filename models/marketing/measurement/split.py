"""Budgets of an experiment: each arm gets its own share of every shared row, so that no unit spends another arm's.

One program over both arms lets an offer in one of them take budget from the other: what the treatment gains, the
control loses, and their difference shows the gain twice. So each arm is solved alone, with bounds times its share of
the members, and prices of one arm are never the start of another.
"""

# Shapes: N members, E pairs, K shared rows, A arms.

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.common.errors import InputError
from models.marketing.allocation.program import Family, Program
from models.marketing.measurement.outcomes import Integers


def shared_rows(program: Program, arm: ArrayLike) -> tuple[str, ...]:
    """Names of the rows that members of more than one arm draw from: each of them is a leak between arms.

    Args:
        program: over members of several arms.
        arm: (N) arm of each member, any integers.

    Returns:
        Names, in the order of the program; empty when every arm has its own rows. A row without a finite bound binds
        nobody and is left out.

    Raises:
        InputError: there are more or fewer arms than members.

    Source:
        Ours.
    """
    arm_N = _arm_of(program, arm)
    low, high = np.full(program.K, np.iinfo(np.int64).max), np.full(program.K, np.iinfo(np.int64).min)
    size = 1 << 20
    for begin in range(0, program.E, size):
        pairs = np.arange(begin, min(begin + size, program.E))
        arm_S = arm_N[program.member_of(pairs)]
        rows_FS, weights_FS = program.columns(pairs)
        for row_S, weight_S in zip(rows_FS, weights_FS, strict=True):
            drawn = (row_S >= 0) & (weight_S != 0)
            np.minimum.at(low, row_S[drawn], arm_S[drawn])
            np.maximum.at(high, row_S[drawn], arm_S[drawn])
    bounded = np.isfinite(program.lower) | np.isfinite(program.upper)
    return tuple(name for k, name in enumerate(program.names) if bounded[k] and low[k] < high[k])


def split_program(program: Program, arm: ArrayLike, shares: Mapping[int, float] | None = None) -> Mapping[int, Program]:
    """One program for each arm, with its share of every bound.

    Args:
        program: over members of all arms.
        arm: (N) arm of each member, any integers.
        shares: of the bounds, by arm; the arm's share of the members when left out. They need not add up to one: what
            is missing is held back.

    Returns:
        Programs by arm, of its members in their order, with the same offers and names of rows.

    Raises:
        InputError: an arm has no share, a share is not above zero, or the shares add up to more than one.

    Source:
        Split budgets: Liu et al. 2021, "Trustworthy and powerful online marketplace experimentation with budget-split
        design" (arXiv 2012.08724).
    """
    arm_N = _arm_of(program, arm)
    arms, sizes = np.unique(arm_N, return_counts=True)
    given = shares or {int(a): float(size) / len(arm_N) for a, size in zip(arms, sizes, strict=True)}
    if missing := [int(a) for a in arms if int(a) not in given]:
        raise InputError(f"arm {missing[0]} has members and no share of the budgets; name every arm.")
    if not all(share > 0 for share in given.values()) or not sum(given.values()) <= 1 + 1e-9:
        raise InputError(f"shares must be above zero and add up to at most one, got {dict(given)}.")
    return {int(a): _of_members(program, np.flatnonzero(arm_N == a), given[int(a)]) for a in arms}


def _of_members(program: Program, members: Integers, share: float) -> Program:
    """The program of some members, with bounds times a share."""
    counts = np.diff(program.start)[members]
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    pairs = np.repeat(program.start[members] - start[:-1], counts) + np.arange(start[-1])
    families = tuple(_of_family(family, members, pairs, share) for family in program.families)
    most = program.most[members] if isinstance(program.most, np.ndarray) else program.most
    names: Sequence[str] | NDArray[Any] | None = program.members
    if names is not None:
        names = names[members] if isinstance(names, np.ndarray) else tuple(names[int(member)] for member in members)
    return replace(
        program,
        start=start,
        offer=program.offer[pairs],
        value=program.value[pairs],
        families=families,
        most=most,
        members=names,
    )


def _of_family(family: Family, members: Integers, pairs: Integers, share: float) -> Family:
    return replace(
        family,
        lower=np.asarray(family.lower, np.float64) * share,
        upper=np.asarray(family.upper, np.float64) * share,
        weight=None if family.weight is None else family.weight[pairs],
        members=None if family.members is None else np.asarray(family.members)[members],
    )


def _arm_of(program: Program, arm: ArrayLike) -> Integers:
    arm_N = np.asarray(arm)
    if arm_N.shape != (program.N,) or arm_N.dtype.kind not in "iub":
        raise InputError(
            f"arms are {arm_N.dtype} {arm_N.shape}, the program has {program.N} members; give one integer for each."
        )
    return arm_N.astype(np.int64)
