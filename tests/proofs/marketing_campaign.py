"""Whole simulated campaigns for `make prove SYSTEM=marketing`: how often the interval covers the true lift."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from models.marketing.experiments import AnalysisConfig, ExperimentConfig, analyse, simulated
from tests.proof import Found, Pieces, Proof, Report, Section, table

CAMPAIGNS = 400
PIECE = 50
LEAST, MOST = 0.93, 0.97
FIRST_SEED = 8000
PERMUTATIONS = 99
"""The combined test is not looked at here."""


def campaigns(_: Proof) -> Pieces:
    """Some campaigns a piece; each has a world, a toss and members of its own."""
    return {f"{first + 1} to {first + PIECE}": partial(_campaigns, first) for first in range(0, CAMPAIGNS, PIECE)}


def _campaigns(first: int, _: Mapping[str, Found]) -> Found:
    return {"metrics": [one_campaign(FIRST_SEED + number) for number in range(first, first + PIECE)]}


def one_campaign(seed: int) -> dict[str, float]:
    """Simulate and analyse one campaign."""
    config = ExperimentConfig()
    data = simulated(replace(config, world=replace(config.world, seed=seed), seed=seed))
    metrics = dict(analyse(data, AnalysisConfig(permutations=PERMUTATIONS)).metrics)
    wanted = ("lift", "lift_low", "lift_high", "true_lift", "covered", "triggered_share", "variance_ratio")
    return {name: metrics[name] for name in (*wanted, "lift_untriggered_low", "lift_untriggered_high")}


def report_campaigns(found: Mapping[str, Found]) -> Report:
    """Coverage with its exact interval, and whether the estimate leans."""
    rows = [one for piece in found.values() for one in piece["metrics"]]
    column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    covered, count = int(column["covered"].sum()), len(rows)
    everybody = (column["lift_untriggered_low"] <= column["true_lift"]) & (
        column["true_lift"] <= column["lift_untriggered_high"]
    )
    half = (column["lift_high"] - column["lift_low"]) / 2
    z = (column["lift"] - column["true_lift"]) / (half / 1.96)
    lean = float(z.mean() * np.sqrt(count))
    exact = stats.binomtest(covered, count).proportion_ci(0.95)
    lines = [
        "Each campaign has a world of its own, a plan for one half of the members and a ranking for the other, each "
        "with half of every row, and outcomes that are mostly zero with a lognormal tail. The interval is that of the "
        "triggered analysis at 95 %.",
        "",
        *table(
            ("", "found"),
            [
                ("campaigns", f"{count:,}"),
                ("true lift inside the interval", f"{covered} of {count} ({covered / count:.1%})"),
                ("95 % interval of that share", f"{exact.low:.1%} to {exact.high:.1%}"),
                ("the same without triggering", f"{int(everybody.sum())} of {count}"),
                ("share of members whom the two ways treat otherwise", f"{column['triggered_share'].mean():.1%}"),
                ("variance beside that of everybody", f"{column['variance_ratio'].mean():.2f}"),
                ("mean true lift, money per member", f"{column['true_lift'].mean():.3f}"),
                ("mean measured lift", f"{column['lift'].mean():.3f}"),
                ("mean error, in its standard errors", f"{lean:+.2f}"),
            ],
        ),
    ]
    missed = []
    if not LEAST <= covered / count <= MOST:
        missed.append(f"the interval covers the true lift in {covered / count:.1%}, must be {LEAST:.0%} to {MOST:.0%}")
    if abs(lean) > 3.3:
        missed.append(f"the measured lift leans by {lean:+.1f} standard errors, must be at most 3.3 either way")
    return Report(lines, missed)


SECTIONS = (Section("campaign", "Whole campaigns", (Path(__file__),), campaigns, report_campaigns),)
