"""A whole campaign: two ways to decide share the members and the budget, and what came of it measures the better one.

Every member is tossed into an arm. Each arm has its share of every row, of its lower bounds too, and decides for its
own members alone: a plan made for both would couple them, and the contrast would measure the coupling. What the other
arm would have sent is written down for every member as well (the counterfactual log), so that those can be told apart
for whom both ways are the same, and who therefore say nothing.

    treatment   the plan: the program solved, rounded to whole offers; beyond its members, the policy of its prices
    control     the ranking: every member's best offer by estimated value, dearest first, until a row is full

The true lift is known where the world is generated: the mean over all members of what the treatment's decision would
bring less what the control's would.
"""

# Shapes: N members, E pairs, K rows.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.allocation.policy import Policy
from models.marketing.allocation.program import NOTHING, Program
from models.marketing.allocation.rounding import entries, round_whole
from models.marketing.allocation.solver import solve
from models.marketing.generator import World, simulate
from models.marketing.measurement.split import split_program
from models.marketing.tables import data_of, program_of

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What was decided, what happened, and what is true.

    Attributes:
        treated: (N) whether the member's arm is the treatment.
        control: (N) pair that the control would send, `NOTHING` for none.
        treatment: (N) pair that the treatment would send.
        spend: (N) money that the member spent.
        lift: true mean over all members of the treatment's decisions less the control's, in money per member.
    """

    treated: NDArray[np.bool_]
    control: Integers
    treatment: Integers
    spend: Floats
    lift: float


def run_campaign(world: World, *, share: float, gap: float, seed: int) -> Campaign:
    """Toss, decide in both arms, send, and look.

    Args:
        world: the truth, and what planners see of it.
        share: of the members in the treatment, between 0 and 1.
        gap: to which the treatment's program is solved.
        seed: of the toss and of everything that members do.

    Returns:
        The campaign.

    Raises:
        InputError: the toss leaves an arm without members.
        Infeasible: the treatment's part of the rows cannot hold.

    Source:
        Ours; arms with rows of their own as in "Beyond Basic A/B testing" (arXiv 2505.08128).
    """
    rng = np.random.default_rng(seed)
    program = program_of(data_of(world))
    treated = rng.random(program.N) < share
    if treated.all() or not treated.any():
        empty = "control" if treated.all() else "treatment"
        raise InputError(
            f"of {program.N} members the toss leaves none to the {empty}, whose share is "
            f"{1 - share if treated.all() else share:g}; take more members or arms of more equal size."
        )
    own = split_program(program, treated, {0: 1 - share, 1: share})[1]
    answer = solve(own, gap=gap, seed=seed)
    shares = entries(answer)
    given = Policy.from_shares(own, answer.prices, *shares).decide_all(program)
    given = given[~treated[world.member[given]]]
    sent = np.flatnonzero(treated[world.member])[round_whole(own, *shares, answer.prices).pairs]
    treatment = np.full(program.N, NOTHING, np.int64)
    for pairs in (given, sent):
        treatment[world.member[pairs]] = pairs
    control = ranked(program, ~treated, 1 - share)
    outcome = simulate(world, np.where(treated, treatment, control), rng)
    true = np.append(world.true_value, 0.0)
    return Campaign(
        treated=treated,
        control=control,
        treatment=treatment,
        spend=outcome.spend,
        lift=float((true[treatment] - true[control]).mean()),
    )


def ranked(program: Program, ours: NDArray[np.bool_], share: float) -> Integers:
    """Every member's best offer by value, the dearest of some members first, until a row of theirs is full.

    Args:
        program: of all members.
        ours: (N) members whose loads count.
        share: of the upper rows that they have.

    Returns:
        (N) pair of each member whose best offer is worth as much as the last that was sent; `NOTHING` for the others.

    Source:
        The kind of system that NOAH replaced, "the legacy ranking system"; that it stops at the first full row is ours.
    """
    best = best_pairs(program)
    has = np.flatnonzero(ours & (best != NOTHING))
    order = has[np.argsort(-program.value[best[has]], kind="stable")]
    rows, weights = program.columns(best[order])
    room = np.full(len(order), True)
    for row, weight in zip(rows, weights, strict=True):
        for k in np.unique(row[row >= 0]).tolist():
            room &= np.cumsum(np.where(row == k, weight, 0.0)) <= share * program.upper[k]
    sent = int(np.argmin(room)) if not room.all() else len(order)
    last = float(program.value[best[order[sent - 1]]]) if sent else np.inf
    enough = (best != NOTHING) & (program.value[best] >= last)
    chosen = np.where(enough, best, NOTHING)
    inside = np.zeros(program.N, bool)
    inside[order[:sent]] = True
    chosen[ours & ~inside] = NOTHING
    return chosen


def best_pairs(program: Program) -> Integers:
    """(N) each member's pair of the highest value, the first of equals; `NOTHING` where none is above zero."""
    best = np.full(program.N, NOTHING, np.int64)
    member = np.repeat(np.arange(program.N), np.diff(program.start))
    some = np.flatnonzero(program.value > 0)
    order = some[np.lexsort((-program.value[some].astype(np.float64), member[some]))]
    who, place = np.unique(member[order], return_index=True)
    best[who] = order[place]
    return best
