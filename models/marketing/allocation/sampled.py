"""Solve for a random part of the members, and decide for all at its prices.

With n of N members and every bound times n / N, prices come from a program that is N / n times smaller. What they do to
all members is a mean over members, so a second random part tells it: with chance 1 - delta every load of all members
lies within

    (N / n') sum over the second part  +-  N ( s sqrt(2 rho c / n') + kappa w c / n' ),
    c = log(5 * 2 (K + 1) / delta),  kappa = 7/3 + 3/sqrt(2),  rho = (1 - n'/N) (1 + 1/n'), or 1 - (n' - 1)/N up to N/2

where s is the standard deviation over the second part and w the range of one member's part in the row. The prices are
fixed before the second part is looked at, so this holds whatever they are.

Shapes: N members, E pairs, K shared rows.

Source: the paper's "linear program with randomization", read as a random sub-program. The interval is the empirical
Bernstein-Serfling inequality of Bardenet and Maillard (Bernoulli 2015, theorem 4.3) for sampling without replacement;
two sides, K rows and the value share delta.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from models.common.errors import InputError
from models.marketing.allocation.policy import Policy
from models.marketing.allocation.prices import best, net_values, rows_worth, spans
from models.marketing.allocation.program import Floats, Integers, Program

Solve = Callable[[Program], tuple[Floats, Integers, Floats]]
"""Gives prices, pairs and shares of a program; see `policy.Policy.from_shares`."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Prices of a part, and what they do to all members.

    Attributes:
        policy: decides for anybody.
        prices: (K).
        members: of the part.
        share: members of the part over all.
        delta: chance that any interval below does not hold.
        loads: (K, 2) least and most load of all members under the policy.
        values: least and most value of all members under the policy.
        error: (K) by how much a bound may be passed at most, relative to the bound; 0 for rows that surely hold, inf
            for one of zero that may not.
        bound: the best value of all members, estimated from the part's dual.
        bound_error: standard error of that.
    """

    policy: Policy
    prices: Floats
    members: Integers
    share: float
    delta: float
    loads: Floats
    values: tuple[float, float]
    error: Floats
    bound: float
    bound_error: float


def solve_sampled(
    program: Program,
    solve: Solve,
    *,
    share: float = 0.01,
    check: float | None = None,
    delta: float = 0.05,
    seed: int = 0,
) -> Sampled:
    """Solve for a random part of the members.

    Args:
        program: of all members.
        solve: solves a program.
        share: members of the part over all.
        check: members of the second part over all; None: four times the share, or all others.
        delta: chance that the stated bounds do not hold.
        seed: of the parts.

    Returns:
        Prices, a policy, and stated bounds on what it does to all members.

    Raises:
        InputError: a part would have no member or more than there are.
        Infeasible: no allocation of the part holds its rows.

    Source:
        See the module.
    """
    if not 0 < delta < 1:
        raise InputError(f"delta must lie between 0 and 1, got {delta}; it is the chance that a bound does not hold.")
    check = min(4 * share, 1 - share) if check is None else check
    if not (0 < share <= 1 and 0 < check <= 1):
        raise InputError(f"share and check must lie above 0 and up to 1, got {share} and {check}; 0.01 is usual.")
    count, checked = round(share * program.N), round(check * program.N)
    if count < 1 or checked < 2 or count + checked > program.N:
        raise InputError(
            f"{program.N} members give a part of {count} and a second one of {checked}; take shares that give at least "
            f"1 and 2, and no more than all."
        )
    order = np.random.default_rng(seed).permutation(program.N)[: count + checked]
    members, others = np.sort(order[:count]), np.sort(order[count:])
    part = part_of(program, members)
    prices, pairs, shares = solve(part)
    policy = Policy.from_shares(part, prices, pairs, shares)
    second = program.take(others)
    keys = others if program.members is None else None
    loads, values = _intervals(program, second, policy.decide_all(second, keys=keys), delta)
    above = np.where(np.isfinite(program.upper), loads[:, 1] - program.upper, 0.0)
    below = np.where(np.isfinite(program.lower), program.lower - loads[:, 0], 0.0)
    side = np.where(above >= below, np.abs(program.upper), np.abs(program.lower))
    passed = np.maximum(np.maximum(above, below), 0.0)
    error = np.where(passed > 0, passed / np.where(side > 0, side, 1.0), 0.0)
    error[(passed > 0) & (side == 0)] = np.inf
    bound, spread = dual_of(program, part, prices)
    return Sampled(
        policy=policy,
        prices=prices,
        members=members,
        share=count / program.N,
        delta=delta,
        loads=loads,
        values=values,
        error=error,
        bound=bound,
        bound_error=spread,
    )


def part_of(program: Program, members: Integers) -> Program:
    """Some members with their share of every bound.

    Args:
        program: of all members.
        members: some of them, rising.

    Returns:
        Their program.

    Source:
        See the module.
    """
    share, part = len(members) / program.N, program.take(members)
    families = tuple(replace(one, lower=one.lower * share, upper=one.upper * share) for one in part.families)
    return replace(part, families=families)


def dual_of(program: Program, part: Program, prices: Floats) -> tuple[float, float]:
    """The dual bound of all members at some prices, estimated from a part, and its standard error.

    Args:
        program: of all members.
        part: a random part of them.
        prices: (K).

    Returns:
        Both in the unit of the values. At the part's own best prices the estimate is a little low: they are fitted to
        it.

    Source:
        The mean of the members' duals; the correction for a finite population is that of any text on sampling.
    """
    has = _duals(part, prices)
    spread = float(has.std(ddof=1)) if part.N > 1 else math.inf
    error = program.N * spread * math.sqrt(max(1 - part.N / program.N, 0.0) / max(part.N, 1))
    return program.N * float(has.mean()) + rows_worth(program, prices), error


def share_for(
    program: Program,
    solve: Solve,
    *,
    error: float = 2e-3,
    rows: float = 0.05,
    pilot: int = 2000,
    seed: int = 0,
) -> float:
    """How large a part has to be, judged by a small one.

    Args:
        program: of all members.
        solve: solves a program.
        error: wanted standard error of the dual, relative to it.
        rows: wanted standard error of a binding row's load, relative to its bound.
        pilot: members of the small part.
        seed: of it.

    Returns:
        Members of the part over all, from that of the pilot to 1.

    Source:
        Ours: both errors fall with the square root of the part.
    """
    count = min(pilot, program.N)
    members = np.sort(np.random.default_rng(seed).permutation(program.N)[:count])
    part = part_of(program, members)
    prices, pairs, shares = solve(part)
    bound, _ = dual_of(program, part, prices)
    wanted = [(program.N * float(_duals(part, prices).std()) / max(abs(bound), 1e-300) / error) ** 2]
    deviation = np.sqrt(_moments(part, pairs, shares)[1])
    side = np.where(prices > 0, part.upper, part.lower) / count
    for k in np.flatnonzero(prices):
        wanted.append((deviation[k] / max(abs(float(side[k])), 1e-300) / rows) ** 2)
    needed = max(wanted)  # members of an endless population; of N those that are drawn need no estimate
    return max(count, needed / (1 + needed / program.N)) / program.N


def _duals(part: Program, prices: Floats) -> Floats:
    """(n) what each member adds to the dual bound."""
    return np.concatenate([np.empty(0), *(best(part, net_values(part, prices, b, e), b, e)[2] for b, e in spans(part))])


def _moments(program: Program, pairs: Integers, shares: Floats) -> tuple[Floats, Floats]:
    """(K) mean and variance over members of their part in each load."""
    rows, weights = program.columns(pairs)
    member = program.member_of(pairs)
    mean, square = np.zeros(program.K), np.zeros(program.K)
    for row, weight in zip(rows, weights, strict=True):
        inside = row >= 0
        key = row[inside].astype(np.int64) * program.N + member[inside]
        order = np.argsort(key, kind="stable")
        cells, first = np.unique(key[order], return_index=True)
        if len(cells):
            load = np.add.reduceat((weight * shares)[inside][order], first)
            mean += np.bincount(cells // program.N, load, minlength=program.K)
            square += np.bincount(cells // program.N, load**2, minlength=program.K)
    mean, square = mean / program.N, square / program.N
    return mean, np.maximum(square - mean**2, 0.0)


def _intervals(program: Program, second: Program, given: Integers, delta: float) -> tuple[Floats, tuple[float, float]]:
    """(K, 2) intervals of the loads of all members, and that of their value, from the second part."""
    n, N = second.N, program.N
    c = math.log(5 * 2 * (program.K + 1) / delta)
    rho = 1 - (n - 1) / N if n <= N / 2 else (1 - n / N) * (1 + 1 / n)
    mean, variance = _moments(second, given, np.ones(len(given)))
    wide = N * (np.sqrt(variance * 2 * rho * c / n) + _KAPPA * _ranges(program) * c / n)
    loads = np.column_stack([N * mean - wide, N * mean + wide])
    value = np.bincount(second.member_of(given), second.value[given].astype(np.float64), minlength=n)
    caps = float(np.max(program.most, initial=1.0))
    span = caps * (max(float(program.value.max(initial=0)), 0.0) - min(float(program.value.min(initial=0)), 0.0))
    off = N * (float(value.std()) * math.sqrt(2 * rho * c / n) + _KAPPA * span * c / n)
    return loads, (N * float(value.mean()) - off, N * float(value.mean()) + off)


_KAPPA = 7 / 3 + 3 / math.sqrt(2)


def _ranges(program: Program) -> Floats:
    """(K) the most by which one member's part in a load can differ from another's."""
    caps = float(np.max(program.most, initial=1.0))
    out: list[float] = []
    for family in program.families:
        high, low = 1.0, 0.0
        if family.weight is not None and program.E:
            high, low = max(float(family.weight.max()), 0.0), min(float(family.weight.min()), 0.0)
        used = np.ones(len(family.rows), bool)
        for groups in (family.offers, family.members):
            if groups is not None:
                used = np.bincount(np.asarray(groups)[np.asarray(groups) >= 0], minlength=len(family.rows)) > 0
        out += np.where(used, caps * (high - low), 0.0).tolist()
    return np.array(out, np.float64)
