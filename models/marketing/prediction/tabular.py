"""What networks on tables of members share: standard units, hidden layers, and batches of rows."""

# Shapes: B members of a batch, N members, F features, W width.

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.common.contracts import InputError, Payload

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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
        """Keep what puts features (N, F) like these into standard units; it travels with the weights."""
        deviation_F = feature.std(axis=0)
        self.mean.copy_(torch.from_numpy(feature.mean(axis=0)))
        self.scale.copy_(torch.from_numpy(np.where(deviation_F > 0, deviation_F, 1.0)))

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
