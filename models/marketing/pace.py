"""One day of a budget: what was spent since the live plan moves the cost row of the next one.

The data's budget is that of one day, and a horizon of H days has H times as much. A day's plan predicts what it spends;
what is delivered costs less, and drifts. After every day the controller of `models.marketing.adaptive.pacing` moves the
target, and the next plan is solved within it. Where the budget stands is kept in the plan itself, so that any run can
take the next step from what is live and nothing else.

    about.pace   the day, spent, delivery and target before and after, predicted and realised spend of the day, and the
                 ledger of the horizon's days so far
"""

# Shapes: H days of the horizon.

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.common.judgement import Figure, Judgement, Series
from models.common.tables import flat
from models.marketing import judge as judging
from models.marketing.adaptive.pacing import Paced, Pacing, uniform
from models.marketing.allocation.program import Program
from models.marketing.generator import GeneratorConfig, generate
from models.marketing.judge import JudgementConfig, pairs_of_plan, stored
from models.marketing.planning import PlanConfig, planned
from models.marketing.tables import program_of
from models.marketing.values import values_of

TRENDING = 0.3
"""Weight of the last change of delivery in its trend: of a day's thousands of sends little is noise."""
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class PacingConfig:
    """How a budget is held over a horizon of days."""

    row: str = setting("spend", "Row", "Name of the row that is paced; it is over all pairs.", min_length=1)
    days: int = setting(
        14, "Days", "Days of the horizon, 1 to 400; the data's budget is that of one day.", ge=1, le=400
    )
    rule: Literal["forecast", "published", "open loop"] = setting(
        "forecast",
        "Rule",
        "forecast: shares what is left over the days to come at the delivery expected of each; published: the rule as "
        "printed, which swings; open loop: never looks at what was spent.",
    )
    gain: float = setting(
        0.3, "Gain", "Of the published rule: share of an error made up for in the next day, above 0 to 1.", gt=0, le=1
    )
    band: float = setting(
        0.015,
        "Band",
        "Of the forecast: how far spend may lead or trail its plan, share of the budget, 0 to 1.",
        ge=0,
        le=1,
    )
    smoothing: float = setting(0.5, "Smoothing", "Weight of the last day's delivery, above 0 to 1.", gt=0, le=1)
    most: float = setting(
        3.0,
        "Most per day",
        "A day's target is at most this many times the even share of the budget, 1 to 100.",
        ge=1,
        le=100,
    )
    source: Literal["told", "simulated"] = setting(
        "simulated", "Source", "Where spend comes from: told below, or simulated in a generated world."
    )
    spent: float = setting(0.0, "Spent", "When told: money spent since the horizon began, 0 to 1e15.", ge=0, le=1e15)
    delivery: float = setting(
        0.7,
        "Delivery",
        "When simulated: chance of a delivery on the last day, 1 on the first, 0.05 to 1.",
        ge=0.05,
        le=1,
    )
    seed: int = setting(0, "Seed", "When simulated: of what is delivered, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)

    def controller(self, budget: float) -> Pacing:
        """The outer loop over a budget for one day."""
        return Pacing(
            budget=budget * self.days,
            curve=uniform(self.days),
            rule=self.rule,
            gain=self.gain,
            band=self.band,
            smoothing=self.smoothing,
            trending=TRENDING,
            most=self.most * budget,
        )


def stepped(
    data: Payload,
    live: Payload,
    settings: PacingConfig,
    plan: PlanConfig,
    world: GeneratorConfig | None,
    network: torch.nn.Module | None = None,
) -> Payload:
    """Look at what the live plan's day cost, and plan the next one.

    Args:
        data: of the next day; those behind the live plan when delivery is simulated.
        live: the plan of the day that is over.
        settings: of the controller.
        plan: of the program.
        world: the generated world, when delivery is simulated; None when it is told.
        network: says what pairs are worth; None when the data do.

    Returns:
        The next plan, with where the budget stands; see the module.

    Raises:
        InputError: there is no such row, it has no upper bound, or less was told to be spent than before.

    Source:
        Ours; the controller names its own.
    """
    program = program_of(data, most=plan.most)
    controller = settings.controller(_budget(program, settings.row))
    kept = live["about"].get("pace")
    before, ledger = controller.begin(), list[dict[str, float]]()
    if kept and kept["days"] == settings.days and kept["after"]["period"] < settings.days:
        before, ledger = Paced(**kept["after"]), list(kept["ledger"])
    elif kept:
        before = _anew(controller, float(kept["after"]["ratio"]))
    predicted = _of(live, settings.row, "load")
    realised = _delivered(live, program, settings, before.period, world) if world else settings.spent - before.spent
    if realised < 0:
        raise InputError(
            f"PacingConfig.spent is {settings.spent:g}, the live plan knows of {before.spent:g} after day "
            f"{before.period}; give what was spent since the horizon began."
        )
    after = controller.after(before, predicted=predicted, realised=realised)
    ledger.append({"day": after.period, "planned": float(controller.plan[after.period]), "spent": after.spent})
    upper = _following(controller, after).target
    rows, value = with_upper(data["rows"], settings.row, upper), values_of(data, network)
    product = planned(program_of(data, most=plan.most, rows=rows, value=value), plan, live)
    pace: dict[str, Any] = {
        "row": settings.row,
        "days": settings.days,
        "budget": controller.budget,
        "before": dataclasses.asdict(before),
        "after": dataclasses.asdict(after),
        "predicted": predicted,
        "realised": realised,
        "upper": upper,
        "ledger": ledger,
    }
    return {**product, "about": {**product["about"], "pace": pace}}


def with_upper(rows: pa.Table, row: str, upper: float) -> pa.Table:
    """Rows of which one has another upper bound; its lower bound gives way where it lies above.

    Args:
        rows: as `models.marketing.tables` has them.
        row: family of a row over all pairs.
        upper: the new bound.

    Returns:
        The rows.

    Source:
        Ours.
    """
    changed = [
        {**one, "upper": upper, "lower": None if one["lower"] is None else min(one["lower"], upper)}
        if one["family"] == row and not one["by"]
        else one
        for one in rows.to_pylist()
    ]
    return pa.Table.from_pylist(changed, rows.schema)


def judge(
    product: Payload,
    data: Payload,
    settings: PacingConfig,
    plan: PlanConfig,
    judgement: JudgementConfig,
    world: GeneratorConfig | None,
    network: torch.nn.Module | None = None,
) -> Judgement:
    """Judge a day's plan: as any plan within its rows, the paced one at its target, and the target itself.

    Args:
        product: the plan.
        data: behind it.
        settings: of the controller.
        plan: how the plan was made.
        judgement: the bar.
        world: the generated world behind the data; None for a user's own tables.
        network: says what pairs are worth; None when the data do.

    Returns:
        The judgement.

    Source:
        Ours.
    """
    upper = product["about"]["pace"]["upper"]
    rows = with_upper(data["rows"], settings.row, upper)
    found = judging.judge(product, {**data, "rows": rows}, plan, judgement, world, network)
    certificate, figures = judged(product, program_of(data, most=plan.most), settings)
    return dataclasses.replace(
        found,
        metrics={**found.metrics, **metrics_of(product)},
        certificate=Certificate(claims=(*found.certificate.claims, *certificate.claims)),
        figures=(*figures, *found.figures),
    )


def judged(product: Payload, program: Program, settings: PacingConfig) -> tuple[Certificate, tuple[Figure, ...]]:
    """Whether the day's target follows from what was spent, worked out again; and the horizon as a figure.

    Args:
        product: the plan.
        program: of the data, with the data's own rows.
        settings: of the controller.

    Returns:
        Claims and figures.

    Source:
        Ours.
    """
    pace = product["about"]["pace"]
    controller = settings.controller(_budget(program, settings.row))
    before = Paced(**pace["before"])
    again = controller.after(before, predicted=pace["predicted"], realised=pace["realised"])
    following = _following(controller, again)
    stated = Paced(**pace["after"])
    found = {
        **{name: (float(value), float(getattr(again, name))) for name, value in dataclasses.asdict(stated).items()},
        "budget": (pace["budget"], controller.budget),
        "upper": (pace["upper"], following.target),
        "row": (_of(product, settings.row, "upper"), following.target),
    }
    step = controller.budget / settings.days
    off = {name: abs(one - other) / max(abs(other), step, 1e-300) for name, (one, other) in found.items()}
    worst = max(off, key=lambda name: off[name])
    claim = Claim(
        name="target_off",
        kind="bounded",
        value=off[worst],
        limit=_ROUNDING,
        detail=f"The day's target worked out again from {pace['realised']:.6g} spent of {pace['predicted']:.6g} "
        f"predicted; furthest off is {worst}: {found[worst][0]:.9g}, must be {found[worst][1]:.9g}.",
    )
    return Certificate(claims=(claim,)), (_figure(pace),)


def metrics_of(product: Payload) -> dict[str, float]:
    """Where the budget stands, for comparing days."""
    pace = product["about"]["pace"]
    planned_spend = pace["ledger"][-1]["planned"]
    return {
        "day": float(pace["after"]["period"]),
        "spent": pace["after"]["spent"],
        "spend_planned": planned_spend,
        "spend_error": (pace["after"]["spent"] - planned_spend) / max(pace["budget"], 1e-300),
        "delivery": pace["after"]["ratio"],
        "target": pace["upper"],
    }


def _figure(pace: dict[str, Any]) -> Figure:
    ledger = pace["ledger"]
    days = tuple(int(one["day"]) for one in ledger)
    error = (ledger[-1]["spent"] - ledger[-1]["planned"]) / max(pace["budget"], 1e-300)
    return Figure(
        name="pacing",
        title=f"After day {days[-1]} spend is off its plan by {error:+.1%} of the budget",
        x_label="day of the horizon",
        y_label="spent since it began (money)",
        series=(
            Series(label="planned", x=days, y=tuple(one["planned"] for one in ledger)),
            Series(label="spent", x=days, y=tuple(one["spent"] for one in ledger)),
        ),
        caption=f"A horizon of {pace['days']} days, budget {pace['budget']:.6g}.",
    )


def _budget(program: Program, row: str) -> float:
    """The upper bound of the paced row."""
    alone = [one.name for one in program.families if one.offers is None and one.members is None]
    if row not in alone:
        raise InputError(f"there is no row {row!r} over all pairs to pace; there are {', '.join(alone) or 'none'}.")
    upper = float(program.upper[program.names.index(row)])
    if not np.isfinite(upper):
        raise InputError(f"row {row!r} has no upper bound to pace; give it one.")
    return upper


def _following(controller: Pacing, after: Paced) -> Paced:
    """Where the next day begins: in this horizon, or in the next one."""
    return after if after.period < controller.periods else _anew(controller, after.ratio)


def _anew(controller: Pacing, ratio: float) -> Paced:
    """A new horizon begins with what the old one taught about delivery."""
    return controller.begin(max(ratio, controller.smallest))


def _of(product: Payload, row: str, column: str) -> float:
    names = flat(product["rows"], "row").to_pylist()
    return float(flat(product["rows"], column)[names.index(row)].as_py())


def _delivered(live: Payload, program: Program, settings: PacingConfig, day: int, config: GeneratorConfig) -> float:
    """What the live plan's sends cost in the generated world: what arrives is paid, and less and less arrives."""
    world, plan = generate(config), stored(program, live)
    pairs = pairs_of_plan(program, plan)
    if (program.member_of(pairs) != plan.member).any() or (program.offer[pairs] != plan.offer).any():
        raise InputError("the live plan is one for another world; plan this one first, or tell what was spent.")
    drift = 1.0 - (1.0 - settings.delivery) * day / max(settings.days - 1, 1)
    rng = np.random.default_rng([settings.seed, day])
    arrived = rng.random(len(pairs)) < world.reach[pairs] * drift * np.asarray(flat(live["plan"], "share"))
    return float(world.cost[pairs][arrived].sum(dtype=np.float64))
