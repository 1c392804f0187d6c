"""A simulated day of sends whose delivery drifts: what pacing is tried on, with its truth known.

In every period members come, each with offers of known value and cost, and the period's program spends up to its cost
target. A chosen pair is delivered by a chance r_t that nobody knows; only what is delivered costs and counts.
"""

# Shapes: H periods, E pairs of a period.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.common.judgement import Figure, Series
from models.marketing.adaptive.frontier import Frontier, frontier
from models.marketing.adaptive.pacing import Pacing

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Drift = Literal["falling", "step", "rising", "none"]

COST = (0.02, 0.1, 0.3, 1.0)
"""Of the four offers, before their spread."""
WORTH = (0.05, 0.15, 0.3, 0.6)
"""Of the four offers, before their spread."""


def drifting(kind: Drift, periods: int, low: float = 0.4) -> Floats:
    """(H) chance of delivery by period.

    Args:
        kind: "falling" from 1 to `low` along a line, a "step" from 1 to `low` at half time, "rising", or "none".
        periods: H.
        low: the smallest chance, above 0 to 1.

    Raises:
        InputError: the kind is unknown, or a number is out of range.
    """
    if periods < 1 or not 0 < low <= 1:
        raise InputError(f"a drift needs at least one period and 0 < low <= 1, got {periods} and {low}.")
    line = np.linspace(1.0, low, periods)
    half = np.where(np.arange(periods) < periods / 2, 1.0, low)
    kinds = {"falling": line, "step": half, "rising": line[::-1].copy(), "none": np.ones(periods)}
    if kind not in kinds:
        raise InputError(f"unknown drift {kind!r}; known are {', '.join(kinds)}.")
    return kinds[kind]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The pairs of one period.

    Attributes:
        member: (E) codes from 0.
        value: (E) worth when delivered.
        cost: (E) price when delivered.
        plan: what any budget buys if all is delivered.
    """

    member: Integers
    value: Floats
    cost: Floats
    plan: Frontier


@dataclass(frozen=True, kw_only=True, eq=False)
class Day:
    """A day with its truth.

    Attributes:
        batches: (H) what is on offer.
        traffic: (H) expected members of each period, known in advance.
        delivery: (H) true chance of delivery, known to nobody.
        seed: of who is delivered.
    """

    batches: tuple[Batch, ...]
    traffic: Floats
    delivery: Floats
    seed: int

    @property
    def all_cost(self) -> float:
        """What the best offers of all members would cost, all delivered."""
        return float(sum(batch.plan.spend[-1] for batch in self.batches if len(batch.plan.spend)))

    @cached_property
    def clairvoyant(self) -> Frontier:
        """What any budget buys for one who knows all members and all chances in advance: one program over the day."""
        member, value, cost, seen = [], [], [], 0
        for batch, chance in zip(self.batches, self.delivery, strict=True):
            member.append(batch.member + seen)
            value.append(batch.value * chance)
            cost.append(batch.cost * chance)
            seen += int(batch.member.max()) + 1 if len(batch.member) else 0
        return frontier(np.concatenate(member), np.concatenate(value), np.concatenate(cost))


def simulate_day(delivery: Floats, *, members: int, seed: int) -> Day:
    """Draw a day.

    Args:
        delivery: (H) true chance of delivery.
        members: expected, a period.
        seed: of everything drawn.

    Returns:
        Members come as Poisson counts round a daily curve; each has four offers, from cheap and poor to dear and rich,
        with lognormal spreads of value and cost.

    Raises:
        InputError: no members, or a chance outside 0 to 1.

    Source:
        Ours.
    """
    chance = np.asarray(delivery, np.float64)
    if members < 1 or chance.ndim != 1 or not len(chance) or not ((chance >= 0) & (chance <= 1)).all():
        raise InputError(f"a day needs at least one member a period and chances from 0 to 1, got {members}, {chance}.")
    rng, periods = np.random.default_rng((seed, 0)), len(chance)
    traffic = 1 + 0.5 * np.sin(2 * np.pi * (np.arange(periods) / periods - 0.3))
    traffic *= members / traffic.mean()
    batches = []
    for expected in traffic:
        count, offers = int(rng.poisson(expected)), len(COST)
        member = np.repeat(np.arange(count), offers)
        cost = np.tile(COST, count) * rng.lognormal(0, 0.3, count * offers)
        taste = np.repeat(rng.lognormal(0, 1, count), offers) * rng.lognormal(0, 0.5, count * offers)
        value = np.tile(WORTH, count) * taste
        batches.append(Batch(member=member, value=value, cost=cost, plan=frontier(member, value, cost)))
    return Day(batches=tuple(batches), traffic=traffic, delivery=chance, seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """How a day went.

    Attributes:
        spent: (H+1) real spend by the end of each period.
        planned: (H+1) S*.
        target: (H) cost targets.
        value: expected value of what was chosen, at the true chances.
        best: what the clairvoyant gets from the same budget.
    """

    spent: Floats
    planned: Floats
    target: Floats
    value: float
    best: float

    @property
    def spend_error(self) -> float:
        """Final spend against the budget, as a share of it; above 0: too much."""
        return float(self.spent[-1] / self.planned[-1] - 1)

    @property
    def overshoot(self) -> float:
        """The furthest that spend was ahead of the plan, as a share of the budget."""
        return float(np.max(self.spent - self.planned) / self.planned[-1])

    @property
    def regret(self) -> float:
        """Share of the clairvoyant's value that was missed."""
        return 1 - self.value / self.best


def run_day(day: Day, pacing: Pacing) -> Course:
    """Spend a budget over a day.

    Args:
        day: what comes.
        pacing: the outer loop; its budget must be above zero.

    Returns:
        The course. Sends are whole: the step of the program that does not fit the target is left out.

    Raises:
        InputError: the pacing has another number of periods, or no budget.
    """
    if pacing.periods != len(day.batches) or not pacing.budget > 0:
        raise InputError(
            f"the day has {len(day.batches)} periods, the pacing {pacing.periods} and a budget of {pacing.budget:g}; "
            "give both as many, and a budget above 0."
        )
    rng, state = np.random.default_rng((day.seed, 1)), pacing.begin()
    spent, targets, value = [0.0], [], 0.0
    for batch, chance in zip(day.batches, day.delivery, strict=True):
        targets.append(state.target)
        held = batch.plan.pairs_within(state.target, batch.member)
        held = held[held >= 0]
        delivered = rng.random(len(held)) < chance
        value += chance * float(batch.value[held].sum())
        state = pacing.after(
            state, predicted=float(batch.cost[held].sum()), realised=float(batch.cost[held][delivered].sum())
        )
        spent.append(state.spent)
    return Course(
        spent=np.array(spent),
        planned=pacing.plan,
        target=np.array(targets),
        value=value,
        best=day.clairvoyant.value_at(pacing.budget),
    )


def pacing_figure(courses: Mapping[str, Sequence[Course]], drift: str) -> Figure:
    """Spend by time of the day, in per cent of the budget, one curve a rule.

    Args:
        courses: of each rule, one a seed.
        drift: what delivery did, in words for the caption.

    Returns:
        Means over seeds, with the whole range of the seeds.

    Raises:
        InputError: there is no course.
    """
    if not courses or not all(courses.values()):
        raise InputError("a figure of pacing needs at least one course of every rule; run a day.")
    series = []
    for label, runs in courses.items():
        share = np.array([100 * run.spent / run.planned[-1] for run in runs])
        x = tuple(float(place) for place in 100 * np.arange(share.shape[1]) / (share.shape[1] - 1))
        series.append(
            Series(
                label=label,
                x=x,
                y=tuple(share.mean(0).tolist()),
                low=tuple(share.min(0).tolist()),
                high=tuple(share.max(0).tolist()),
                style="curve",
            )
        )
    one = next(iter(courses.values()))[0]
    series.append(Series(label="plan", x=series[0].x, y=tuple((100 * one.planned / one.planned[-1]).tolist()),
                         style="curve"))  # fmt: skip
    seeds = max(len(runs) for runs in courses.values())
    return Figure(
        name="pacing",
        title="The controller holds the budget's plan while delivery drifts",
        x_label="time of the day (per cent)",
        y_label="spent (per cent of the budget)",
        series=tuple(series),
        caption=f"{drift}; means and full range over {seeds} seeds.",
    )
