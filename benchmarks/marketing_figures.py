"""The figures of the marketing page: passes until a gap is certified, spend by day under three rules, power of tests.

python -m benchmarks marketing_figures [--only gap pacing power] [--write]

The gap is that of worlds like the preset `small`. Spend is that of steps of the flow `marketing-pace` over the world of
`tiny` with a budget of 0.15: 14 days, deliveries that fall to 0.6 of what they were. Power is that of 200 experiments
for each point. Seeds are those of the presets.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.page_figures import write
from models.common.contracts import Payload
from models.common.judgement import Figure, Series
from models.marketing.allocation.solver import solve
from models.marketing.config import PacingConfig, small, tiny, tiny_pace
from models.marketing.generator import generate
from models.marketing.measurement.power import power_figure
from models.marketing.tables import data_of, generated, program_of

GAPS = (1e-4, 1e-6)
MEMBERS = (10_000, 30_000, 100_000, 300_000)
DAYS, DELIVERY, BUDGET = 14, 0.6, 0.15
RULES: Mapping[Any, str] = {"forecast": "forecast", "published": "as published", "open loop": "open loop"}
TESTS = ("welch", "mann_whitney", "zero_trimmed", "two_part", "combination")
EXPERIMENTS = 200


def main(options: Sequence[str] = ()) -> None:
    """Compute the figures, say what they show, and draw them if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks marketing_figures")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), help="some of them")
    parser.add_argument("--write", action="store_true", help="write docs/figures")
    chosen = parser.parse_args(options)
    for name in chosen.only:
        figure = FIGURES[name]()
        print(f"{name}: {figure.title}")
        for series in figure.series:
            print(f"  {series.label}: {', '.join(f'{x} {y:.3g}' for x, y in zip(series.x, series.y, strict=True))}")
        if chosen.write:
            write(figure, f"marketing_{name}")


def gap() -> Figure:
    """How many passes over the members a certified gap takes, by how many members there are."""
    passes: dict[float, list[int]] = {wanted: [] for wanted in GAPS}
    for members in MEMBERS:
        world = dataclasses.replace(small().data.generator, members=members, offers=8)
        program = program_of(data_of(generate(world)))
        for wanted in GAPS:
            answer = solve(program, gap=wanted)
            assert answer.gap <= wanted
            passes[wanted].append(answer.passes)
    most = max(max(counts) for counts in passes.values())
    return Figure(
        name="marketing_gap",
        title=f"At most {most} passes over the members certify a gap of {min(GAPS):g}",
        x_label="members",
        y_label="passes until the gap is certified",
        series=tuple(
            Series(label=f"gap {wanted:g}", x=tuple(f"{members:,}" for members in MEMBERS), y=tuple(map(float, counts)))
            for wanted, counts in passes.items()
        ),
        kind="bars",
        caption="8 offers, 22 rows, from nothing. Passes over samples that come before are not counted.",
    )


def pacing() -> Figure:
    """How far spend is from its plan, day by day, under three rules."""
    world = dataclasses.replace(tiny().data.generator, budget=BUDGET)
    data = generated(world)
    begun = tiny().plan.allocate(data, None, None)
    series = tuple(
        Series(label=label, x=tuple(range(1, DAYS + 1)), y=_errors(data, begun, rule)) for rule, label in RULES.items()
    )
    ours, blind = series[0].y[-1], series[-1].y[-1]
    return Figure(
        name="marketing_pacing",
        title=f"Spend ends {ours:+.1%} of the budget from its plan; {blind:+.1%} when nobody looks",
        x_label="day of the horizon",
        y_label="spent less planned (% of the budget)",
        series=tuple(dataclasses.replace(one, y=tuple(100 * y for y in one.y)) for one in series),
        caption=f"{DAYS} days; what arrives falls to {DELIVERY:g} of its share. One world, one seed.",
    )


def _errors(data: Payload, live: Payload, rule: Any) -> tuple[float, ...]:
    """Spent less planned after every day, as a share of the budget."""
    source = tiny_pace().data
    source = dataclasses.replace(source, generator=dataclasses.replace(source.generator, budget=BUDGET))
    pacing = PacingConfig(days=DAYS, rule=rule, delivery=DELIVERY)
    config = dataclasses.replace(tiny_pace(), data=source, pacing=pacing)
    errors = []
    for _ in range(DAYS):
        live = config.allocate(data, live, None)
        errors.append(config.account(live).metrics["spend_error"])
    return tuple(errors)


def power() -> Figure:
    """How often the tests speak up when fewer buy and buyers bring more."""
    return power_figure("opposed", runs=EXPERIMENTS, tests=TESTS)


FIGURES: Mapping[str, Callable[[], Figure]] = {"gap": gap, "pacing": pacing, "power": power}
