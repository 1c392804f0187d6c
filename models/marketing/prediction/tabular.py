"""What networks on tables of members share: settings, standard units, hidden layers, and batches of rows."""

# Shapes: B members of a batch, N members, F features, W width.

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.common.configuration import check, setting
from models.common.contracts import Payload, TrainingConfig
from models.common.errors import InputError
from models.marketing.standard import standard_units

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Batch = TypeVar("Batch")


def layers(default: int) -> Any:
    """The setting of how many hidden layers there are."""
    return setting(default, "Hidden layers", "How many, 0 to 8; 0: a straight line of the features.", ge=0, le=8)


def learning(epochs: int, learning_rate: float) -> Any:
    """The setting of how a network on a table learns."""
    return setting(
        lambda: TrainingConfig(
            epochs=epochs, batch_size=512, learning_rate=learning_rate, weight_decay=1e-2, average=0.99
        ),
        "Training",
        "How the network learns.",
    )


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """A network on a table, and how it learns: what is alike whatever it tells."""

    width: int = setting(32, "Width", "Units of a hidden layer, 1 to 4096.", ge=1, le=4096)
    depth: int = layers(1)
    dropout: float = setting(0.0, "Dropout", "Share of hidden units that a step leaves out, 0 to 0.9.", ge=0, le=0.9)
    training: TrainingConfig = learning(10, 3e-3)

    def __post_init__(self) -> None:
        check(self)

    @property
    def monitor(self) -> str:
        """The metric by which the best epoch is kept."""
        return "likelihood"

    def order(self, data: Payload, *, rank: int, processes: int) -> "Rows":
        """Which training rows each batch of this process has."""
        rows = np.asarray(data["train"], np.int64)
        return Rows(rows, size=self.training.batch_size, seed=self.training.seed, rank=rank, processes=processes)


class Tower(nn.Module):
    """Features in standard units, and beside them what hidden layers make of them.

    Args:
        features: F.
        width: of the hidden layers.
        depth: hidden layers; 0: the features alone.
        dropout: share of hidden units that a step leaves out.

    Source:
        Features beside the layers: Cheng et al. 2016, "Wide & deep learning for recommender systems".
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(above, below) for above, below in pairwise([features] + [width] * depth))
        self.dropout = nn.Dropout(dropout)
        self.width = features + (width if depth else 0)
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(features, dtype=torch.float64))

    def keep(self, feature: Floats) -> None:
        """Keep what puts features (N, F) like these into standard units; it travels with the weights.

        A feature that does not vary is said to deviate by one, in its own unit or in that of its size if that is more.
        """
        units, mean_F = standard_units(feature), feature.mean(axis=0)
        scale_F = np.maximum(1.0, np.abs(mean_F))
        scale_F[units.varies] = units.scale
        self.mean.copy_(torch.from_numpy(mean_F))
        self.scale.copy_(torch.from_numpy(scale_F))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, W) of features (B, F) as they come: F of them, then the last hidden layer."""
        standard = ((feature - self.mean) / self.scale).to(torch.get_default_dtype())
        if not len(self.hidden):
            return standard
        now = standard
        for layer in self.hidden:
            now = self.dropout(functional.silu(layer(now)))
        return torch.cat((standard, now), dim=1)


class Rows:
    """Numbers of training rows in an order that depends on seed and epoch alone.

    The rest that fills no batch waits for another epoch; fewer rows than a batch are one batch.

    Args:
        rows: the training rows.
        size: rows of a batch over all processes.
        seed: of the order.
        rank: this process.
        processes: how many there are.
    """

    def __init__(self, rows: Integers, *, size: int, seed: int, rank: int, processes: int) -> None:
        self._rows, self._seed, self._rank, self._processes = rows, seed, rank, processes
        self._size = min(size, len(rows) // processes * processes)
        self._count = len(rows) // self._size

    def epoch(self, number: int) -> Iterator[Integers]:
        """This process's share of each batch of an epoch."""
        order = np.random.default_rng((self._seed, number)).permutation(self._rows)
        for place in range(self._count):
            yield order[place * self._size : (place + 1) * self._size][self._rank :: self._processes]

    def __len__(self) -> int:
        return self._count


class Batched(Generic[Batch]):
    """Batches of training rows; implements `models.common.contracts.Batches`.

    Args:
        made: a batch of the numbers of its rows.
        rows: which rows each batch has.
    """

    def __init__(self, made: Callable[[Integers], Batch], rows: Rows) -> None:
        self._made, self._rows = made, rows

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches of one epoch."""
        return map(self._made, self._rows.epoch(number))

    def __len__(self) -> int:
        return len(self._rows)


def check_table(data: Payload, *columns: str) -> None:
    """Raise `InputError` unless features and columns are finite, of one length, and the parts name rows of them.

    Args:
        data: parts `features` (N, F), `train` and `validation` (numbers of rows), and the columns (N).
        columns: names of parts.
    """
    missing = [name for name in ("features", *columns, "train", "validation") if name not in data]
    if missing:
        raise InputError(f"the data lack the part {missing[0]}; they need features, {', '.join(columns)}, train and "
                         f"validation.")  # fmt: skip
    features = data["features"]
    if features.ndim != 2 or not features.size:
        raise InputError(f"features must be a table of at least one row and column, got {features.shape}.")
    for name in ("features", *columns):
        if len(data[name]) != len(features):
            raise InputError(f"{name} must have {len(features)} rows as features have, got {len(data[name])}.")
        wrong = np.argwhere(~np.isfinite(data[name]))
        if len(wrong):
            place = "".join(f", column {column}" for column in wrong[0][1:])
            raise InputError(f"{name} of member {wrong[0][0]}{place} is {data[name][tuple(wrong[0])]}; fill it or "
                             f"leave the member out.")  # fmt: skip
    for name in ("train", "validation"):
        rows = np.asarray(data[name])
        if not len(rows) or rows.min() < 0 or rows.max() >= len(features):
            raise InputError(f"{name} must name rows from 0 to {len(features) - 1}, at least one.")
