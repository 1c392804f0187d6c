"""The last step, exact: a small linear program over some members decides their shares, everybody else stays.

After Newton's method nearly all members are sure of one choice, and rows hold but for a little. What is left is a
program of the same kind over the members who are not sure, with what the others leave of each row. HiGHS answers it at
a vertex, so that at most K of its members have fractional shares, and with prices.

Shapes: N members, E pairs, K shared rows, S pairs of the program, T members of it, F families.

Source: sifting (Bixby et al., Very large-scale linear programming, 1992): solve over a part, price the rest, take in
what disagrees. Choosing whole members by how near their best two scores are is ours.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse

from models.marketing.allocation.program import Floats, Integers, Program


@dataclass(frozen=True)
class Part:
    """Some members' pairs.

    Attributes:
        pairs: (S) numbers of pairs, in order.
        member: (S) place of the pair's member among them.
        caps: (T) most offers.
        rows: (F, S) row of each pair in each family.
        weights: (F, S) what it adds there.
        value: (S).
    """

    pairs: Integers
    member: Integers
    caps: Floats
    rows: Integers
    weights: Floats
    value: Floats


@dataclass(frozen=True)
class Settled:
    """A vertex.

    Attributes:
        shares: (S).
        prices: (K).
        value: of the shares.
        holds: whether there is an allocation at all.
    """

    shares: Floats
    prices: Floats
    value: float
    holds: bool


def part_of(program: Program, prices: Floats, window: float) -> Part:
    """The pairs of a small program whose score is within a window below their member's best.

    Args:
        program: of the members to be settled.
        prices: (K).
        window: in units of value; inf keeps all.

    Returns:
        The part; zero, the score of nothing, counts as a score of every member.

    Source:
        Ours.
    """
    pairs, member = np.arange(program.E), np.repeat(np.arange(program.N), np.diff(program.start))
    rows, weights = program.columns(pairs)
    value, caps = program.value.astype(np.float64), program.most_of(slice(0, program.N))
    if np.isfinite(window) and len(pairs):
        score = value - (weights * np.where(rows >= 0, prices[rows], 0.0)).sum(axis=0)
        top = np.zeros(program.N)
        np.maximum.at(top, member, score)
        keep = (score >= top[member] - window) | (caps[member] > 1)
        pairs, member = pairs[keep], member[keep]
        rows, weights, value = rows[:, keep], weights[:, keep], value[keep]
    return Part(pairs, member, caps, rows, weights, value)


def vertex(part: Part, lower: Floats, upper: Floats, under: Floats, over: Floats) -> Settled:
    """Solve a part exactly.

    Args:
        part: some members' pairs.
        lower: (K) least loads that they must bring.
        upper: (K) most loads that they may bring.
        under: (K) load in which the lower bounds are given to HiGHS, unless all that the part has in the row is less:
            its tolerances are absolute, and it takes entries below 1e-9 for zero.
        over: (K) the same for the upper bounds.

    Returns:
        Shares at a vertex and prices; `holds` is false if there is no allocation.

    Raises:
        RuntimeError: HiGHS ends otherwise.

    Source:
        HiGHS' dual simplex (Huangfu and Hall 2018) by scipy.
    """
    S, K = len(part.pairs), len(lower)
    if S == 0:
        return Settled(np.zeros(0), np.zeros(K), 0.0, bool(((lower / under <= 1e-10) & (upper / over >= -1e-10)).all()))
    inside = part.rows >= 0
    pair = np.broadcast_to(np.arange(S), part.rows.shape)[inside]
    row, weight = part.rows[inside], part.weights[inside]
    most = np.bincount(row, np.abs(weight), minlength=K)
    under, over = (np.where(most > 0, np.minimum(size, most), size) for size in (under, over))
    matrix = scipy.sparse.csr_array((weight, (row, pair)), shape=(K, S))
    equal = np.flatnonzero(lower == upper)
    above = np.flatnonzero((lower != upper) & np.isfinite(upper))
    below = np.flatnonzero((lower != upper) & np.isfinite(lower))

    def sided(rows: Integers, sizes: Floats) -> Any:
        return scipy.sparse.diags_array(1.0 / sizes[rows]) @ matrix[rows]

    own = scipy.sparse.csr_array((np.ones(S), (part.member, np.arange(S))), shape=(len(part.caps), S))
    scale = float(np.abs(part.value).max(initial=0.0)) or 1.0
    found = scipy.optimize.linprog(
        -part.value / scale,
        A_ub=scipy.sparse.vstack([sided(above, over), -sided(below, under), own], format="csr"),
        b_ub=np.concatenate([(upper / over)[above], -(lower / under)[below], part.caps]),
        A_eq=sided(equal, over) if len(equal) else None,
        b_eq=(upper / over)[equal] if len(equal) else None,
        bounds=(0.0, 1.0),
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.status == 2:
        return Settled(np.zeros(S), np.zeros(K), 0.0, False)
    if found.x is None:
        raise RuntimeError(f"HiGHS did not solve a part of {len(part.caps)} members: {found.message}")
    prices = np.zeros(K)
    # a multiplier below zero is rounding; priced at a side without a bound it would make the dual bound infinite
    prices[above] += np.maximum(-found.ineqlin.marginals[: len(above)], 0.0) / over[above]
    prices[below] -= np.maximum(-found.ineqlin.marginals[len(above) : len(above) + len(below)], 0.0) / under[below]
    if len(equal):
        prices[equal] -= found.eqlin.marginals / over[equal]
    shares = np.clip(found.x, 0.0, 1.0)
    shares[shares < 1e-12] = 0.0
    shares[shares > 1 - 1e-12] = 1.0
    return Settled(shares, prices * scale, float(shares @ part.value), True)
