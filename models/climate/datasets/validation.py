"""Validate a live dataset by its baseline, and write it as the published files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.judgement import Judgement

Name = Literal["fluxes", "turbulence", "storms", "analogs", "precipitation", "outlooks"]

HEADLINES: Mapping[str, str] = {
    "fluxes": "column_r2_uw",
    "turbulence": "mlp_f1",
    "storms": "track_persistence_24h_km",
    "analogs": "analog_1d_rms",
    "precipitation": "persistence_correlation_1d",
    "outlooks": "coverage",
}


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Which dataset is validated."""

    dataset: Name = setting("storms", "Dataset", "Which of the six recipes made it.")
    name: str = setting(
        "", "Name", "Name in its recipe, lower case letters, digits and hyphens; empty: that of the recipe itself."
    )
    seed: int = setting(0, "Seed", "Start of weights, draws and resampling, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)

    @property
    def product(self) -> str:
        """The dataset's name in the store."""
        return f"datasets-{self.name or self.dataset}"

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        return {"dataset": self.dataset, "name": self.name or self.dataset, "seed": self.seed}

    def analyse(self, data: Payload) -> Judgement:
        """Scores of the baseline with intervals of 95 %.

        Raises:
            ValueError: the dataset is too small to say anything.
        """
        measured = import_module(f"models.climate.datasets.{self.dataset}.baseline").baseline(data["data"], self.seed)
        metrics = _flat(measured)
        ends = {name: (metrics[f"{name}_low"], metrics[f"{name}_high"]) for name in metrics if f"{name}_low" in metrics}
        outside = [name for name, (low, high) in ends.items() if not low <= metrics[name] <= high]
        unknown = [name for name, value in metrics.items() if not math.isfinite(value)]
        return Judgement(
            headline=HEADLINES[self.dataset] if HEADLINES[self.dataset] in metrics else next(iter(metrics)),
            metrics=metrics,
            certificate=Certificate(
                claims=(
                    Claim(
                        name="scores_without_a_value",
                        kind="exact",
                        value=len(unknown),
                        limit=0,
                        detail=f"{len(metrics)} scores and ends of intervals. {', '.join(unknown[:5])}".strip(),
                    ),
                    Claim(
                        name="scores_outside_their_interval",
                        kind="statistical",
                        value=len(outside),
                        limit=0,
                        detail=f"{len(ends)} intervals of 95 %. {', '.join(outside[:5])}".strip(),
                    ),
                )
            ),
            table=tuple(
                {"score": name, "value": metrics[name], "low": low, "high": high} for name, (low, high) in ends.items()
            ),
            protocol="The baseline's own protocol is in docs/datasets.md; the part that scores is read once.",
        )


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Which dataset is written as files, and where."""

    dataset: Name = setting("storms", "Dataset", "Which of the six recipes made it.")
    name: str = setting(
        "", "Name", "Name in its recipe, lower case letters, digits and hyphens; empty: that of the recipe itself."
    )
    folder: str = setting("", "Folder", "Where the files go, under a data root; empty: nothing is written.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def product(self) -> str:
        """The dataset's name in the store."""
        return f"datasets-{self.name or self.dataset}"


def _flat(measured: Mapping[str, Any]) -> dict[str, float]:
    """Scores as numbers; one that comes as value, low and high becomes three, or one where both ends are itself."""
    flat: dict[str, float] = {}
    for name, value in measured.items():
        if not isinstance(value, tuple):
            flat[name] = float(value)
            continue
        flat[name], low, high = (float(one) for one in value)
        if not low == high == flat[name]:
            flat[f"{name}_low"], flat[f"{name}_high"] = low, high
    return flat
