"""The toy system's configuration builds what it describes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import Payload, TrainingConfig
from models.common.gate import GateConfig
from models.common.judgement import Judgement


@dataclass(frozen=True, kw_only=True)
class PointsConfig:
    """Points near a line."""

    name: str = setting("line", "Name", "Name of the data set.")
    points: int = setting(200, "Points", "How many points, 10 to 10000.", ge=10, le=10000)

    def __post_init__(self) -> None:
        check(self)

    def sources(self) -> Mapping[str, str]:
        return {}

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        random = np.random.default_rng(0)
        x = random.uniform(-1, 1, self.points).astype(np.float32)
        return {"x": x, "y": 2 * x + 1}


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """A slope and an offset."""

    training: TrainingConfig = setting(
        lambda: TrainingConfig(epochs=20, batch_size=20, learning_rate=0.1), "Training", "How the line is fitted."
    )
    monitor = "fit"

    def sizes(self, data: Payload) -> Mapping[str, int]:
        return {"inputs": 1}

    def network(self, sizes: Mapping[str, int]) -> torch.nn.Module:
        return torch.nn.Linear(sizes["inputs"], 1)

    def batches(self, data: Payload, *, rank: int, processes: int) -> "Points":
        return Points(torch.from_numpy(data["x"].copy()), torch.from_numpy(data["y"].copy()), self.training.batch_size)

    def loss(self, network: torch.nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return torch.nn.functional.mse_loss(network(x[:, None])[:, 0], y)

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        x, y = torch.from_numpy(data["x"].copy()), torch.from_numpy(data["y"].copy())
        return {"fit": -float(torch.nn.functional.mse_loss(network(x[:, None])[:, 0], y))}


@dataclass(frozen=True, kw_only=True)
class LineJudgementConfig:
    """The closed form knows the answer."""

    tolerance: float = setting(0.05, "Tolerance", "Largest error of slope and offset, above 0 to 1.", gt=0, le=1)

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        slope, offset = np.polyfit(data["x"].astype(np.float64), data["y"], 1)
        error = max(abs(float(product["weights"]["weight"]) - slope), abs(float(product["weights"]["bias"]) - offset))
        claim = Claim(name="error", kind="exact", value=error, limit=self.tolerance, detail="against least squares")
        return Judgement(headline="error", metrics={"error": error}, certificate=Certificate(claims=(claim,)))


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Everything about one line."""

    data: PointsConfig = setting(PointsConfig, "Data", "The points.")
    line: LineConfig = setting(LineConfig, "Line", "The network.")
    judgement: LineJudgementConfig = setting(LineJudgementConfig, "Judgement", "How it is judged.")
    gate: GateConfig = setting(GateConfig, "Gate", "When it goes live.")


class Points:
    """Batches of points."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, size: int) -> None:
        self._x, self._y, self._size = x, y, size

    def epoch(self, number: int) -> Iterator[Any]:
        order = torch.randperm(len(self._x), generator=torch.Generator().manual_seed(number))
        for chosen in order.split(self._size):
            yield self._x[chosen], self._y[chosen]

    def __len__(self) -> int:
        return -(-len(self._x) // self._size)
