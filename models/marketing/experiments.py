"""Two arms of a campaign: simulated with known truth, a public experiment, or a table of your own; and what they show.

A prepared experiment is a payload with these parts.

    outcomes     `treated`, `control` and `treatment` (what either way would decide for the unit), `outcome` in money
    about        JSON: source, expected share of the treatment, protocol, whether decisions were logged, and the true
                 lift where it is known

Only a unit for whom both ways decide otherwise can show a difference. All others have the same outcome whatever they
are tossed into, and their noise dilutes the signal; so the effect is found among the former and told per unit of all.
"""

# Shapes: N units.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.common.judgement import Figure, Judgement, Series
from models.common.tables import flat, read_numbers, read_table, read_written_names, refuse_first
from models.marketing.allocation.program import NOTHING
from models.marketing.campaign import run_campaign
from models.marketing.generator import GeneratorConfig, World, generate
from models.marketing.measurement.comparison import Comparison, compare
from models.marketing.measurement.triggered import TriggeredEffect, triggered_effect

__all__ = ["AnalysisConfig", "ExperimentConfig", "HillstromConfig", "OutcomesTableConfig"]


@dataclass(frozen=True, kw_only=True)
class HillstromConfig:
    """Hillstrom's e-mail test of 2008: two mailings against none, spend within two weeks."""

    file: str = setting(
        "catalogue:marketing-hillstrom/hillstrom_dev.csv.gz", "File", "Path, URL or catalogue entry of the table."
    )
    mailing: Literal["Mens E-Mail", "Womens E-Mail"] = setting(
        "Mens E-Mail", "Mailing", "The treatment; the control is no e-mail."
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class OutcomesTableConfig:
    """Where the outcome of an experiment of your own lies and what its columns are called."""

    file: str = setting("", "File", "Path or URL of a Parquet or CSV file with one row per unit.")
    arm_column: str = setting("arm", "Arm column", "Column that names the arm of a unit.", min_length=1)
    treatment: str = setting("treatment", "Treatment", "What the arm column calls the treatment.", min_length=1)
    control: str = setting("control", "Control", "What the arm column calls the control.", min_length=1)
    outcome_column: str = setting(
        "spend", "Outcome column", "Column with what the unit brought, in money.", min_length=1
    )
    control_decision: str = setting(
        "", "Control's decision", "Column with what the control would have sent; empty when it was not logged."
    )
    treatment_decision: str = setting(
        "", "Treatment's decision", "Column with what the treatment would have sent; empty when it was not logged."
    )

    def __post_init__(self) -> None:
        check(self)
        if bool(self.control_decision) != bool(self.treatment_decision):
            raise ValueError(
                "OutcomesTableConfig needs both decisions or none, got "
                f"{self.control_decision!r} and {self.treatment_decision!r}; name the other column too."
            )
        if self.control == self.treatment:
            raise ValueError(f"OutcomesTableConfig.control and treatment are both {self.control!r}; name two arms.")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Which experiment; only the settings of the chosen source are read."""

    name: str = setting(
        "campaign",
        "Name",
        "Name of the experiment: lower case letters, digits and hyphens, 1 to 63.",
        min_length=1,
        max_length=63,
    )
    source: Literal["simulated", "hillstrom", "table"] = setting(
        "simulated", "Source", "A simulated campaign whose true lift is known, a public e-mail test, or your own table."
    )
    world: GeneratorConfig = setting(
        lambda: GeneratorConfig(members=8000, lines=3, offers=6), "World", "Of the simulated campaign."
    )
    gap: float = setting(
        1e-3, "Duality gap", "To which the simulated treatment's program is solved, 1e-9 to 0.1.", ge=1e-9, le=0.1
    )
    seed: int = setting(0, "Seed", "Of the simulated toss and outcomes, 0 to 2147483647.", ge=0, le=2147483647)
    hillstrom: HillstromConfig = setting(HillstromConfig, "Hillstrom", "The public e-mail test, when it is the source.")
    table: OutcomesTableConfig = setting(OutcomesTableConfig, "Own table", "Your file, when it is the source.")
    share: float = setting(
        0.5, "Treatment's share", "Share of the units that was to be treated, 0.01 to 0.99.", ge=0.01, le=0.99
    )

    def __post_init__(self) -> None:
        check(self)
        if not all(part.isalnum() and part.isascii() and part == part.lower() for part in self.name.split("-")):
            raise ValueError(
                f"ExperimentConfig.name must be lower case letters, digits and single hyphens, got {self.name!r}."
            )
        if self.source == "table" and not self.table.file:
            raise ValueError(
                "ExperimentConfig.table.file must name a file when the source is 'table', got ''; give its path or URL."
            )

    def sources(self) -> Mapping[str, str]:
        """Raw files of the chosen source: logical name to location."""
        if self.source == "hillstrom":
            return {"experiment": self.hillstrom.file}
        return {"experiment": self.table.file} if self.source == "table" else {}

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate and arrange the raw files, or simulate; raises `InputError`."""
        if self.source == "hillstrom":
            columns = OutcomesTableConfig(
                file=self.hillstrom.file,
                arm_column="segment",
                treatment=self.hillstrom.mailing,
                control="No E-Mail",
            )
            return read_experiment(files["experiment"], columns, self.share, others=True)
        if self.source == "table":
            return read_experiment(files["experiment"], self.table, self.share)
        return simulated(self)


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """How an experiment is read."""

    level: float = setting(0.95, "Level", "Coverage of intervals, 0.5 to 0.999.", ge=0.5, le=0.999)
    doubt: float = setting(
        0.001,
        "Doubt",
        "A check of the experiment itself fails when chance alone gives so much less often than this, 0 to 0.1.",
        ge=0,
        le=0.1,
    )
    permutations: int = setting(1999, "Permutations", "Of the combined test, 99 to 100000.", ge=99, le=100_000)
    seed: int = setting(0, "Seed", "Of the permutations, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)


def simulated(config: ExperimentConfig) -> Payload:
    """A simulated campaign as an experiment, its true lift beside it."""
    world = generate(config.world)
    campaign = run_campaign(world, share=config.share, gap=config.gap, seed=config.seed)
    outcomes = pa.table(
        {
            "treated": campaign.treated,
            "control": pa.array(_offer(campaign.control, world), pa.int32()),
            "treatment": pa.array(_offer(campaign.treatment, world), pa.int32()),
            "outcome": campaign.spend,
        }
    )
    sends = {name: int((getattr(campaign, name) != NOTHING).sum()) for name in ("control", "treatment")}
    protocol = (
        f"Simulated: {len(campaign.treated)} members, {config.share:.0%} to the treatment, every row split by that "
        f"share; the control would send {sends['control']} offers, the treatment {sends['treatment']}."
    )
    return {
        "outcomes": outcomes,
        "about": {
            "source": "simulated", "share": config.share, "logged": True, "lift": campaign.lift, "protocol": protocol
        },
    }  # fmt: skip


def read_experiment(path: Path, config: OutcomesTableConfig, share: float, *, others: bool = False) -> Payload:
    """An experiment from a table of one row per unit.

    Args:
        path: the file.
        config: names of columns and arms.
        share: of the units that was to be treated.
        others: whether the table may have further arms, which are left out.

    Returns:
        The parts.

    Raises:
        InputError: the file cannot be used, an arm is unknown or empty, an outcome is no number.

    Source:
        Ours.
    """
    decisions = [name for name in (config.control_decision, config.treatment_decision) if name]
    table = read_table(path, (config.arm_column, config.outcome_column, *decisions))
    arm = pc.cast(read_written_names(path, table, config.arm_column), pa.string())
    treated, control = pc.equal(arm, config.treatment), pc.equal(arm, config.control)
    known = pc.or_(treated, control)
    if not others:
        refuse_first(
            path, config.arm_column, pc.invert(known), arm, f"arms are {config.control!r} and {config.treatment!r}"
        )
    for name, inside in ((config.treatment, treated), (config.control, control)):
        if not pc.any(inside).as_py():
            present = ", ".join(sorted(pc.unique(arm).to_pylist()))
            raise InputError(f"{path}, column {config.arm_column!r} has no arm {name!r}; it has {present}.")
    outcome = read_numbers(path, table, config.outcome_column)
    named: tuple[Any, ...] = (pa.array(["control"] * table.num_rows), pa.array(["treatment"] * table.num_rows))
    if decisions:
        columns = [flat(table, name) for name in decisions]
        types = [one.type for one in columns]
        if any(map(pa.types.is_floating, types)) and any(map(pa.types.is_integer, types)):
            columns = [pc.cast(one, pa.float64()) for one in columns]  # else 1 would be another decision than 1.0
        named = tuple(pc.fill_null(pc.cast(one, pa.string()), "") for one in columns)
    outcomes = pa.table(
        {"treated": treated, "control": named[0], "treatment": named[1], "outcome": pa.array(outcome)}
    ).filter(known)
    protocol = f"{path.name}: {outcomes.num_rows} units, {config.treatment!r} against {config.control!r}."
    return {
        "outcomes": outcomes,
        "about": {"source": "table", "share": share, "logged": bool(decisions), "lift": None, "protocol": protocol},
    }


def analyse(data: Payload, settings: AnalysisConfig) -> Judgement:
    """What an experiment shows, and whether it may be believed.

    Args:
        data: the experiment's parts.
        settings: level, checks, permutations.

    Returns:
        The effect per unit of all with its interval, every test or its refusal, and the checks as a certificate.

    Raises:
        RefusedError: an arm has fewer than two units for whom the ways differ.

    Source:
        `models.marketing.measurement` names its own; putting it together is ours.
    """
    table, about = data["outcomes"], data["about"]
    found = triggered_effect(
        np.asarray(flat(table, "outcome")),
        np.asarray(flat(table, "treated")).astype(np.int64),
        _numbers(table, "control"),
        _numbers(table, "treatment"),
        shares={"control": 1 - about["share"], "treatment": about["share"]},
        level=settings.level,
        alarm=settings.doubt,
    )
    tests = compare(found.outcomes, level=settings.level, seed=settings.seed, permutations=settings.permutations)
    metrics = _metrics(found, tests, about)
    return Judgement(
        headline="lift",
        metrics=metrics,
        certificate=_checks(found, metrics, settings),
        table=tests.table(),
        figures=(_effects(found, about), _zeros(found)),
        protocol=about["protocol"],
    )


def _metrics(found: TriggeredEffect, tests: Comparison, about: Mapping[str, Any]) -> dict[str, float]:
    metrics = {
        "lift": found.diluted.value,
        "lift_low": found.diluted.low,
        "lift_high": found.diluted.high,
        "lift_untriggered_low": found.everybody.low,
        "lift_untriggered_high": found.everybody.high,
        "triggered_share": found.rate,
        "units": float(sum(found.split.observed.values())),
        "sample_ratio_p": found.split.p_value,
        "trigger_ratio_p": found.triggers.p_value,
        **{f"p_{name}": finding.p_value for name, finding in tests.findings.items()},
    }
    if np.isfinite(found.variance_ratio):  # without any spread there is none to compare
        metrics["variance_ratio"] = found.variance_ratio
    for name, finding in (("complement_p", found.complement), ("complement_ranks_p", found.complement_ranks)):
        if finding is not None:
            metrics[name] = finding.p_value
    if about["lift"] is not None:
        metrics |= {
            "true_lift": about["lift"],
            "covered": float(found.diluted.low <= about["lift"] <= found.diluted.high),
        }
    return metrics


def _checks(found: TriggeredEffect, metrics: Mapping[str, float], settings: AnalysisConfig) -> Certificate:
    """The checks that come before any effect."""
    words = {
        "sample_ratio_p": found.split.sentence(),
        "trigger_ratio_p": found.triggers.sentence(),
        "complement_p": "Units for whom both ways decide the same have the same mean, but by chance.",
        "complement_ranks_p": "And the same ranks.",
    }
    return Certificate(
        claims=tuple(
            Claim(
                name=name,
                kind="statistical",
                value=metrics[name],
                limit=settings.doubt,
                sense="at least",
                detail=detail,
            )
            for name, detail in words.items()
            if name in metrics
        )
    )


def _effects(found: TriggeredEffect, about: Mapping[str, Any]) -> Figure:
    """The effect by two ways to look at it, and the truth."""
    named: dict[str, Any] = {"triggered": found.diluted, "everybody": found.everybody}
    middle = {"triggered": found.diluted.value, "everybody": found.everybody.difference}
    series = [
        Series(
            label="measured",
            x=tuple(named),
            y=tuple(middle.values()),
            low=tuple(one.low for one in named.values()),
            high=tuple(one.high for one in named.values()),
        )
    ]
    if about["lift"] is not None:
        series.append(Series(label="true", x=tuple(named), y=(about["lift"],) * 2))
    return Figure(
        name="lift",
        title=f"The treatment brings {found.diluted.value:+.3g} per unit ({found.diluted.low:+.3g} to "
        f"{found.diluted.high:+.3g})",
        x_label="units that are compared",
        y_label="lift (money per unit of all)",
        series=tuple(series),
        kind="bars",
        caption=f"{found.diluted.level:.0%} intervals; the ways differ for {found.rate:.1%} of "
        f"{sum(found.split.observed.values()):,} units."
        + (f" In doubt: {found.triggered.doubt}." if found.triggered.doubt else ""),
    )


def _zeros(found: TriggeredEffect) -> Figure:
    """Share of buyers in both arms: what the mean alone does not tell."""
    counts = zip(found.outcomes.positives.tolist(), found.outcomes.units.tolist(), strict=True)
    tests = [stats.binomtest(buyers, units) for buyers, units in counts]
    ends = [test.proportion_ci(found.diluted.level, method="wilson") for test in tests]
    share = [float(test.statistic) for test in tests]
    return Figure(
        name="buyers",
        title=f"{share[1]:.2%} of the treated buy, {share[0]:.2%} of the others",
        x_label="arm",
        y_label="share of units that buy",
        series=(
            Series(
                label="buyers",
                x=("control", "treatment"),
                y=tuple(share),
                low=tuple(float(end.low) for end in ends),
                high=tuple(float(end.high) for end in ends),
            ),
        ),
        kind="bars",
        caption=f"{found.diluted.level:.0%} intervals (Wilson); {int(found.outcomes.units.sum()):,} units for whom the "
        "ways differ.",
    )


def _offer(choice: NDArray[np.int64], world: World) -> NDArray[np.int64]:
    """(N) offer of each pair, `NOTHING` for none."""
    return np.where(choice == NOTHING, NOTHING, world.offer[np.maximum(choice, 0)])


def _numbers(table: pa.Table, column: str) -> NDArray[Any]:
    """Decisions as numbers that are equal where their names are, in both columns alike."""
    values = flat(table, column)
    if pa.types.is_integer(values.type):
        return np.asarray(values)
    names = pc.unique(pa.concat_arrays([flat(table, "control"), flat(table, "treatment")])).sort()
    return np.asarray(pc.index_in(values, value_set=names))
