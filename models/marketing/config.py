"""The marketing system's configuration: it builds data, plan and judgement."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch

from models.common.configuration import check, setting
from models.common.contracts import Account, Payload
from models.common.gate import GateConfig
from models.common.judgement import Judgement
from models.marketing import audience, audience_judge, experiments, pace
from models.marketing import judge as judging
from models.marketing.audience import ExpansionConfig, GeneratedSeedsConfig, SeedsTableConfig
from models.marketing.audience_judge import AudienceJudgementConfig
from models.marketing.experiments import AnalysisConfig, ExperimentConfig, HillstromConfig, OutcomesTableConfig
from models.marketing.generator import GeneratorConfig
from models.marketing.judge import JudgementConfig
from models.marketing.pace import PacingConfig
from models.marketing.planning import PlanConfig, account
from models.marketing.prediction.response import ResponseConfig
from models.marketing.tables import TableConfig, generated, read_tables
from models.marketing.values import ValuesConfig

__all__ = [
    "AnalysisConfig",
    "AudienceConfig",
    "AudienceJudgementConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExpansionConfig",
    "ExperimentConfig",
    "GeneratedSeedsConfig",
    "GeneratorConfig",
    "HillstromConfig",
    "JudgementConfig",
    "MarketingConfig",
    "OutcomesTableConfig",
    "PaceConfig",
    "PacingConfig",
    "PlanConfig",
    "ResponseConfig",
    "SeedsTableConfig",
    "TableConfig",
    "ValuesConfig",
    "hillstrom",
    "learned",
    "paper",
    "small",
    "tiny",
    "tiny_audience",
    "tiny_campaign",
    "tiny_pace",
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Who may get what; only the settings of the chosen source are read."""

    name: str = setting(
        "generated",
        "Name",
        "Name of the data and of the plan made from them: lower case letters, digits and hyphens, 1 to 63.",
        min_length=1,
        max_length=63,
    )
    source: Literal["generator", "table"] = setting(
        "generator", "Source", "A generated world whose truth is known, or tables of your own."
    )
    generator: GeneratorConfig = setting(GeneratorConfig, "Generator", "The generated world, when it is the source.")
    table: TableConfig = setting(TableConfig, "Own tables", "Your files and columns, when they are the source.")

    def __post_init__(self) -> None:
        check(self)
        if not all(part.isalnum() and part.isascii() and part == part.lower() for part in self.name.split("-")):
            raise ValueError(
                f"DataConfig.name must be lower case letters, digits and single hyphens, got {self.name!r}."
            )
        if self.source == "table":
            for name in ("pairs", "rows"):
                if not getattr(self.table, name):
                    raise ValueError(
                        f"DataConfig.table.{name} must name a file when the source is 'table', got ''; "
                        "give its path or URL."
                    )

    @property
    def world(self) -> GeneratorConfig | None:
        """The generated world, whose truth is known; None for tables."""
        return self.generator if self.source == "generator" else None

    def sources(self) -> Mapping[str, str]:
        """Raw files of the chosen source: logical name to location."""
        if self.source != "table":
            return {}
        named = {name: getattr(self.table, name) for name in ("pairs", "rows", "offers", "members")}
        return {name: location for name, location in named.items() if location}

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate and arrange the raw files; raises `InputError`."""
        return read_tables(self.table, files) if self.source == "table" else generated(self.generator)


@dataclass(frozen=True, kw_only=True)
class MarketingConfig:
    """A plan of offers for members under shared budgets, with its certificate."""

    data: DataConfig = setting(DataConfig, "Data", "Members, offers, what a pair is worth and draws, and the rows.")
    values: ValuesConfig = setting(ValuesConfig, "Values", "Where the worth of pairs comes from.")
    plan: PlanConfig = setting(PlanConfig, "Plan", "What is solved, and how its answer becomes decisions.")
    judgement: JudgementConfig = setting(JudgementConfig, "Judgement", "How the plan is judged.")
    gate: GateConfig = setting(GateConfig, "Gate", "When the plan goes live.")

    def __post_init__(self) -> None:
        check(self)
        if self.learns and self.data.source == "table":
            raise ValueError(
                "MarketingConfig.values.source must be 'given' for tables of your own, got 'learned'; put what you "
                "learned into the value column."
            )

    @property
    def learns(self) -> bool:
        """Whether values are learned before the plan is made."""
        return self.values.source == "learned"

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        described: dict[str, str | int | float] = {
            "data": self.data.name,
            "source": self.data.source,
            "values": self.values.source,
            "gap_wanted": self.plan.gap,
            "most_offers": self.plan.most,
            "rounding": self.plan.rounding,
            "warm": self.plan.warm,
            "seed": self.plan.seed,
        }
        if self.data.source == "table":
            return described
        world = self.data.generator
        return {
            **described,
            "members": world.members,
            "offers": world.offers,
            "budget": world.budget,
            "least_volume": world.least_volume,
            "world_seed": world.seed,
        }

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """The certificate of a plan, or of the proof that there is none; and what it is truly worth where truth is."""
        return judging.judge(product, data, self.plan, self.judgement, self.data.world, network)


@dataclass(frozen=True, kw_only=True)
class PaceConfig:
    """One day's step of a budget, from the live plan to the next one."""

    data: DataConfig = setting(
        DataConfig, "Data", "Of the next day, under the name of the live plan; their budget is that of one day."
    )
    plan: PlanConfig = setting(PlanConfig, "Plan", "What is solved, and how its answer becomes decisions.")
    pacing: PacingConfig = setting(PacingConfig, "Pacing", "How the budget is held over its horizon.")
    judgement: JudgementConfig = setting(JudgementConfig, "Judgement", "How the plan is judged.")
    gate: GateConfig = setting(GateConfig, "Gate", "When the plan goes live.")

    def __post_init__(self) -> None:
        check(self)
        if self.pacing.source == "simulated" and self.data.source != "generator":
            raise ValueError(
                "PaceConfig.pacing.source must be 'told' unless the data are generated, got 'simulated'; "
                "tell what was spent."
            )

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        return {
            "data": self.data.name,
            "gap_wanted": self.plan.gap,
            "row": self.pacing.row,
            "days": self.pacing.days,
            "rule": self.pacing.rule,
            "spend_source": self.pacing.source,
        }

    def allocate(self, data: Payload, live: Payload | None, network: torch.nn.Module | None) -> Payload:
        """The next day's plan; see `Allocatable`."""
        if live is None:
            raise ValueError("there is no live plan to take the next step from; plan first.")
        world = self.data.generator if self.pacing.source == "simulated" else None
        return pace.stepped(data, live, self.pacing, self.plan, world, network)

    def account(self, product: Payload) -> Account:
        """What the solve is compared by, and where the budget stands."""
        found = account(product)
        return replace(found, metrics={**found.metrics, **pace.metrics_of(product)})

    def decide(self, product: Payload, data: Payload, requests: pa.Table) -> tuple[pa.Table, Mapping[str, float]]:
        """Sends for members who come later; see `Deciding`."""
        return self.plan.decide(product, data, requests)

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """The certificate of the day's plan within its target, and of the target itself."""
        return pace.judge(product, data, self.pacing, self.plan, self.judgement, self.data.world, network)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What two arms of a campaign show."""

    experiment: ExperimentConfig = setting(ExperimentConfig, "Experiment", "Arms, decisions and outcomes.")
    analysis: AnalysisConfig = setting(AnalysisConfig, "Analysis", "How they are read.")

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        return {
            "experiment": self.experiment.name,
            "source": self.experiment.source,
            "share": self.experiment.share,
            "seed": self.experiment.seed,
            "level": self.analysis.level,
        }

    def analyse(self, data: Payload) -> Judgement:
        """Effects, tests, and the checks that come before them."""
        return experiments.analyse(data, self.analysis)


@dataclass(frozen=True, kw_only=True)
class AudienceConfig:
    """An audience of look-alikes: seeds ask a published index, and the members nearest to them join."""

    expansion: ExpansionConfig = setting(
        ExpansionConfig, "Expansion", "Who the seeds are, what they ask the index, and how many members join them."
    )
    judgement: AudienceJudgementConfig = setting(
        AudienceJudgementConfig, "Judgement", "How the expansion is judged by seeds that are held out."
    )
    export: str = setting("", "Export", "Path of a Parquet file for the members, under a data root; empty: none.")

    def __post_init__(self) -> None:
        check(self)
        if self.export and not self.export.endswith(".parquet"):
            raise ValueError(
                f"AudienceConfig.export must end in .parquet, because members are a Parquet file, got {self.export!r}."
            )

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        return audience.parameters(self.expansion)

    def analyse(self, data: Payload) -> Judgement:
        """How many held-out seeds an expansion finds, and its certificate."""
        return audience_judge.judge(data, self.judgement)


def tiny() -> MarketingConfig:
    """10,000 members and 8 offers: the whole flow in seconds on a CPU; the default everywhere."""
    return MarketingConfig()


def learned() -> MarketingConfig:
    """20,000 members whose values are learned from a round of the past that chance decided."""
    return MarketingConfig(
        data=DataConfig(name="learned", generator=GeneratorConfig(members=20_000, lines=3, offers=6)),
        values=ValuesConfig(source="learned"),
    )


def tiny_pace() -> PaceConfig:
    """A day of the tiny plan: what arrives is simulated."""
    return PaceConfig()


def tiny_campaign() -> EvaluateConfig:
    """A simulated campaign of 8,000 members."""
    return EvaluateConfig()


def tiny_audience() -> AudienceConfig:
    """200 look-alikes of some 150 generated seeds, among the 1,500 items of retrieval's tiny index."""
    return AudienceConfig()


def hillstrom() -> EvaluateConfig:
    """Hillstrom's e-mail test: the mailing with men's goods against none."""
    return EvaluateConfig(
        experiment=ExperimentConfig(name="hillstrom", source="hillstrom", share=0.5),
    )


def small() -> MarketingConfig:
    """200,000 members and 24 offers: a real result on two cores within minutes."""
    return MarketingConfig(
        data=DataConfig(
            name="generated-small",
            generator=GeneratorConfig(members=200_000, offers=24, lines=6, channels=6, segments=8),
        ),
        plan=PlanConfig(gap=1e-5),
    )


def paper() -> MarketingConfig:
    """The published scale of a round, "tens of millions of users x hundreds of items" (arXiv 2608.10182).

    Not run by us: 20 million members with 20 of 100 offers each are 400 million pairs, some 10 GB before anything is
    solved.
    """
    return MarketingConfig(
        data=DataConfig(
            name="generated-paper",
            generator=GeneratorConfig(
                members=20_000_000,  # "tens of millions of users"
                offers=100,  # "hundreds of items"
                lines=4,  # table 1: lines A to D
                channels=6,  # not published, nor are eligibility and segments
                segments=8,
                density=0.2,
                least_volume=0.05,  # table 1: from 5 to 50 % of the audience, each line in a range of its own
                most_volume=0.5,
            ),
        ),
    )
