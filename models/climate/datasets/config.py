"""The six datasets as whole configurations: a recipe, how its parts are made, how the dataset is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import Any, cast

from models.climate.datasets import judge as judging
from models.climate.datasets.analogs import config as analogs
from models.climate.datasets.fluxes import config as fluxes
from models.climate.datasets.judge import JudgementConfig
from models.climate.datasets.outlooks import config as outlooks
from models.climate.datasets.precipitation import config as precipitation
from models.climate.datasets.storms import config as storms
from models.climate.datasets.turbulence import config as turbulence
from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.gate import GateConfig
from models.common.judgement import Judgement
from models.common.parts import Partitioned, PreparationConfig, Survey

PRESETS = ("tiny", "small", "paper")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What all six have beside their recipe, which stands first in their forms."""

    data: Any = setting(None, "Recipe", "What makes the parts; each dataset has its own.")
    preparation: PreparationConfig = setting(PreparationConfig, "Preparation", "How the parts are made.")
    judgement: JudgementConfig = setting(JudgementConfig, "Judgement", "How the dataset is judged.")
    gate: GateConfig = setting(GateConfig, "Gate", "When the dataset goes live.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def recipe(self) -> Partitioned:
        """What makes the parts."""
        return cast("Partitioned", self.data)

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by: every setting of the recipe that is a word or a number."""
        recipe = self.recipe
        found: dict[str, str | int | float] = {"recipe": type(recipe).__module__.split(".")[-2]}
        for field in fields(recipe):  # type: ignore[arg-type]
            value = getattr(recipe, field.name)
            if isinstance(value, str | int | float):
                found[field.name] = value
            elif isinstance(value, tuple):
                found[field.name] = ", ".join(map(str, value))
        return found

    def judge_parts(self, product: Payload, survey: Survey) -> Judgement:
        """The certificate by the recipe's own reference, statistics and figures."""
        package = type(self.recipe).__module__.rpartition(".")[0]
        reference, figures = import_module(f"{package}.reference"), import_module(f"{package}.figures")
        return judging.judge(
            self.recipe, reference, tuple(figures.figures(product["data"])), product, survey, self.judgement
        )


@dataclass(frozen=True, kw_only=True)
class FluxesFlowConfig(DatasetConfig):
    """Gravity-wave momentum fluxes of WINDSET and the fields that they are learned from."""

    data: fluxes.FluxesConfig = setting(fluxes.FluxesConfig, "Recipe", "Winds in, momentum fluxes out.")


@dataclass(frozen=True, kw_only=True)
class TurbulenceFlowConfig(DatasetConfig):
    """Pilots' reports of turbulence as maps, and the columns of the atmosphere at them."""

    data: turbulence.TurbulenceConfig = setting(
        turbulence.TurbulenceConfig, "Recipe", "Reports and columns in, maps and training pairs out."
    )


@dataclass(frozen=True, kw_only=True)
class StormsFlowConfig(DatasetConfig):
    """Tracks and intensities of hurricanes."""

    data: storms.StormsConfig = setting(storms.StormsConfig, "Recipe", "HURDAT2 texts in, storms and records out.")


@dataclass(frozen=True, kw_only=True)
class AnalogsFlowConfig(DatasetConfig):
    """Daily pressure and temperature of one region, to find similar days in."""

    data: analogs.AnalogsConfig = setting(analogs.AnalogsConfig, "Recipe", "MERRA-2 files in, a region's days out.")


@dataclass(frozen=True, kw_only=True)
class PrecipitationFlowConfig(DatasetConfig):
    """Satellite observations and the daily rain that is forecast from them."""

    data: precipitation.PrecipitationConfig = setting(
        precipitation.PrecipitationConfig, "Recipe", "Satellite archives in, observations and rain on one grid out."
    )


@dataclass(frozen=True, kw_only=True)
class OutlooksFlowConfig(DatasetConfig):
    """Forecasters' discussions and the model fields that they were written from."""

    data: outlooks.OutlooksConfig = setting(
        outlooks.OutlooksConfig, "Recipe", "Outlook pages and HRRR files in, pairs of text and fields out."
    )


FLOWS: Mapping[str, type[DatasetConfig]] = {
    "fluxes": FluxesFlowConfig,
    "turbulence": TurbulenceFlowConfig,
    "storms": StormsFlowConfig,
    "analogs": AnalogsFlowConfig,
    "precipitation": PrecipitationFlowConfig,
    "outlooks": OutlooksFlowConfig,
}
"""The whole configuration of each dataset, by the name of its package."""


def preset(dataset: str, size: str) -> DatasetConfig:
    """The whole configuration of one dataset in one size.

    Raises:
        KeyError: there is no such dataset.
    """
    recipe = getattr(import_module(f"models.climate.datasets.{dataset}.config"), size)()
    if size != "tiny":  # presets are live side by side
        recipe = replace(recipe, name=f"{dataset}-{size}")
    if (dataset, size) == ("fluxes", "paper"):  # a level of 601 x 1200 takes the slow reference 8 CPU seconds
        return FluxesFlowConfig(data=cast("fluxes.FluxesConfig", recipe), judgement=JudgementConfig(levels=2))
    return FLOWS[dataset](data=recipe)


def tiny_fluxes() -> FluxesFlowConfig:
    """The smallest generated world, seconds of work; the default everywhere."""
    return FluxesFlowConfig(data=fluxes.tiny())


def tiny_turbulence() -> TurbulenceFlowConfig:
    """The smallest generated world, seconds of work; the default everywhere."""
    return TurbulenceFlowConfig(data=turbulence.tiny())


def tiny_storms() -> StormsFlowConfig:
    """The smallest generated world, seconds of work; the default everywhere."""
    return StormsFlowConfig(data=storms.tiny())


def tiny_analogs() -> AnalogsFlowConfig:
    """The smallest generated world, seconds of work; the default everywhere."""
    return AnalogsFlowConfig(data=analogs.tiny())


def tiny_precipitation() -> PrecipitationFlowConfig:
    """The smallest generated world, seconds of work; the default everywhere."""
    return PrecipitationFlowConfig(data=precipitation.tiny())


def tiny_outlooks() -> OutlooksFlowConfig:
    """The smallest generated world, seconds of work; the default everywhere."""
    return OutlooksFlowConfig(data=outlooks.tiny())
