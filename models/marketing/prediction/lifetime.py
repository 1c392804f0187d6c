"""What a customer will be worth: most nothing, some a little, few very much.

A network says three numbers of a customer, (l, m, s), and by them how the value y of the coming time is spread:

    y = 0 with chance 1 - p,    log y ~ Normal(m, w^2) with chance p,    p = sigmoid(l),  w = max(softplus(s), LEAST).

The loss is minus the logarithm of that,

    log(1 + e^l) - [y > 0] l + [y > 0] ( log y + log w + log(2 pi) / 2 + (log y - m)^2 / (2 w^2) ),

and what is expected is E y = p exp(m + w^2 / 2), which overflows long before its logarithm does. So everything stays a
logarithm up to the end, and the last exponential is held at a stated most.
"""

# Shapes: B members of a batch, N members, F features, D tenths.

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

from models.common.contracts import Payload, TrainingConfig
from models.common.errors import InputError
from models.marketing.prediction.tabular import Batched, Tower, TowerConfig, check_table, layers, learning

Floats = NDArray[np.float64]

LEAST = math.sqrt(torch.finfo(torch.float32).eps)
"""The smallest deviation of log y: below it a batch of equal values would pull the loss without end."""
TENTHS = 10


# --- the loss ---------------------------------------------------------------------------------------------------------


def deviation(logits: Tensor) -> Tensor:
    """w of each (..., 3): softplus(s), at least `LEAST`; at the bound its gradient is 0."""
    return functional.softplus(logits[..., 2]).clamp_min(LEAST)


def zero_inflated_lognormal(logits: Tensor, value: Tensor) -> Tensor:
    """Loss of each member.

    Args:
        logits: (..., 3) l, m, s.
        value: (...) 0 or more, finite.

    Returns:
        (...) in nats; finite with finite gradients for logits from -50 to 50, in float32 too.

    Source:
        Wang, Liu & Miao 2019, "A deep probabilistic model for customer lifetime value prediction" (arXiv 1912.07753),
        section 3. The bound on w is that of their code; there only the loss has it, here the expected value too.
    """
    bought = value > 0
    log_value = torch.where(bought, value, torch.ones_like(value)).log()
    w = deviation(logits)
    density = log_value + w.log() + 0.5 * math.log(2 * math.pi) + 0.5 * ((log_value - logits[..., 1]) / w).square()
    chance = functional.binary_cross_entropy_with_logits(logits[..., 0], bought.to(logits.dtype), reduction="none")
    return chance + torch.where(bought, density, torch.zeros_like(density))


def log_expected(logits: Tensor) -> Tensor:
    """log E y (...) of logits (..., 3); never overflows.

    Source:
        The mean of a lognormal; see the top of this module.
    """
    return functional.logsigmoid(logits[..., 0]) + logits[..., 1] + 0.5 * deviation(logits).square()


def expected(logits: Tensor, most: float) -> Tensor:
    """E y (...), at most `most`, which must be finite and above 0."""
    if not 0 < most < math.inf:
        raise ValueError(f"most must be above 0 and finite, got {most}; take the largest value that was ever seen.")
    return log_expected(logits).clamp_max(math.log(most)).exp()


# --- how good ---------------------------------------------------------------------------------------------------------


def normalised_gini(value: NDArray[Any], score: NDArray[Any]) -> float:
    """Which part of the value's own concentration the scores find: their Gini coefficient over that of the values.

    Args:
        value: (N) 0 or more, not all equal.
        score: (N) finite; equal scores share their value evenly, so the order of rows does not matter.

    Returns:
        -1 to 1: 1 when scores order as values do, 0 when they say nothing.

    Raises:
        InputError: lengths differ, a number cannot be, or the values are all equal.

    Source:
        Wang, Liu & Miao 2019, section 4.1; ties as expected over random orders, ours.
    """
    truth, scores = _pair(value, score)
    if np.ptp(truth) == 0:
        raise InputError("all values are equal, so there is nothing to order; take a longer horizon.")
    return _gini(truth, scores) / _gini(truth, truth)


def _gini(value: Floats, score: Floats) -> float:
    """Area between the curve of captured value and the diagonal; ties are straight pieces of the curve."""
    _, place = np.unique(-score, return_inverse=True)
    share = np.append(0.0, np.cumsum(np.bincount(place))) / len(value)
    caught = np.append(0.0, np.cumsum(np.bincount(place, weights=value))) / value.sum()
    return float(np.diff(share) @ (caught[1:] + caught[:-1]) / 2 - 0.5)


def spearman(value: NDArray[Any], score: NDArray[Any]) -> float:
    """Correlation of ranks, mean ranks for ties; arguments and errors as `normalised_gini`, also for equal scores."""
    truth, scores = (rankdata(part) for part in _pair(value, score))
    if np.ptp(truth) == 0 or np.ptp(scores) == 0:
        raise InputError("values or scores are all equal, so they have no order.")
    return float(np.corrcoef(truth, scores)[0, 1])


def tenths(value: NDArray[Any], said: NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean value and mean of what was said (D) of each tenth of the members by what was said, rising.

    Ties at a border are split evenly between its sides, so that the order of rows does not matter.
    """
    truth, scores = _pair(value, said)
    if len(truth) < TENTHS:
        raise InputError(f"tenths need {TENTHS} members, got {len(truth)}.")
    knots, place = np.unique(scores, return_inverse=True)
    count = np.append(0.0, np.cumsum(np.bincount(place)))
    border = np.linspace(0, len(truth), TENTHS + 1)
    summed = (np.append(0.0, np.cumsum(np.bincount(place, weights=part))) for part in (truth, knots[place]))
    truth_D, said_D = (np.diff(np.interp(border, count, part)) * TENTHS / len(truth) for part in summed)
    return truth_D, said_D


def decile_error(value: NDArray[Any], said: NDArray[Any]) -> float:
    """Mean over tenths by what was said of |mean said - mean value| / mean value.

    Raises:
        InputError: as `normalised_gini`, or a tenth has no value at all, which leaves its error without measure.

    Source:
        Wang, Liu & Miao 2019, section 4.1, "decile-level mean absolute percentage error".
    """
    truth_D, said_D = tenths(value, said)
    empty = np.flatnonzero(~(truth_D > 0))
    if len(empty):
        raise InputError(f"tenth {empty[0] + 1} by what was said has no value, so its error has no measure; take a "
                         f"longer horizon or look at `tenths`.")  # fmt: skip
    return float(np.mean(np.abs(said_D - truth_D) / truth_D))


def _pair(value: NDArray[Any], score: NDArray[Any]) -> tuple[Floats, Floats]:
    truth, scores = np.asarray(value, np.float64), np.asarray(score, np.float64)
    if truth.shape != scores.shape or truth.ndim != 1 or not len(truth):
        raise InputError(f"values and scores must be rows of one length, at least 1, got {truth.shape}, "
                         f"{scores.shape}.")  # fmt: skip
    for name, numbers, good in (
        ("value", truth, np.isfinite(truth) & (truth >= 0)),
        ("score", scores, np.isfinite(scores)),
    ):
        wrong = np.flatnonzero(~good)
        if len(wrong):
            raise InputError(
                f"{name} of member {wrong[0]} is {numbers[wrong[0]]}; values are 0 or more, scores finite."
            )
    return truth, scores


# --- the network ------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Members of a step.

    Attributes:
        feature: (B, F).
        value: (B).
        weight: (B) how much each counts.
    """

    feature: Tensor
    value: Tensor
    weight: Tensor


class LifetimeNetwork(nn.Module):
    """A tower, and l, m, s as straight lines of it.

    Args:
        features: F.
        width: of the hidden layers.
        depth: hidden layers.
        dropout: share of hidden units that a step leaves out.

    Source:
        The head: Wang, Liu & Miao 2019.
    """

    most: Tensor

    def __init__(self, features: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.tower = Tower(features, width, depth, dropout)
        self.head = nn.Linear(self.tower.width, 3)
        self.register_buffer("most", torch.ones((), dtype=torch.float64))

    def forward(self, feature: Tensor) -> Tensor:
        """Logits (B, 3) of features (B, F) as they come."""
        out: Tensor = self.head(self.tower(feature))
        return out

    def expected(self, feature: Tensor) -> Tensor:
        """E y (B) in float64, at most the largest value of the training members."""
        return expected(self(feature).double(), float(self.most))


@dataclass(frozen=True, kw_only=True)
class LifetimeConfig(TowerConfig):
    """A network that tells value from features, and how it learns; a `Trainable`.

    Its data have the parts `features` (N, F), `value` (N), `train` and `validation`, numbers of rows, and, where
    members do not count alike, `weight` (N): see `models.marketing.prediction.maturity` for those of young members.
    """

    depth: int = layers(2)
    training: TrainingConfig = learning(15, 2e-3)

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """F; raises `InputError` for data that cannot be learned from."""
        _check(data)
        return {"features": int(data["features"].shape[1])}

    def network(self, sizes: Mapping[str, int]) -> LifetimeNetwork:
        """A fresh network."""
        return LifetimeNetwork(sizes["features"], self.width, self.depth, self.dropout)

    def start(self, network: nn.Module, data: Payload) -> None:
        """Begin at what all training members have in common, in standard units."""
        assert isinstance(network, LifetimeNetwork)  # noqa: S101 - for the type checker
        rows = data["train"]
        feature = np.asarray(data["features"][rows], np.float64)
        value = np.asarray(data["value"][rows], np.float64)
        weight = np.asarray(data["weight"][rows] if "weight" in data else np.ones(len(rows)), np.float64)
        logs, mass = np.log(value[value > 0]), weight[value > 0]
        share = mass.sum() / weight.sum()
        middle = float(np.average(logs, weights=mass))
        spread = max(math.sqrt(float(np.average((logs - middle) ** 2, weights=mass))), 0.1)
        network.tower.keep(feature)
        with torch.no_grad():
            network.most.fill_(float(value.max()))
            chance = math.log((share + 1e-6) / (1 - share + 1e-6))
            network.head.bias.copy_(torch.tensor([chance, middle, math.log(math.expm1(spread))]))
            nn.init.zeros_(network.head.weight)

    def batches(self, data: Payload, *, rank: int, processes: int) -> Batched[Batch]:
        """This process's share of the training rows."""
        return Batched(partial(batch_of, data), self.order(data, rank=rank, processes=processes))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Weighted mean loss of a batch."""
        loss = zero_inflated_lognormal(network(batch.feature), batch.value)
        return (loss * batch.weight).sum() / batch.weight.sum()

    def validate(self, network: nn.Module, data: Payload) -> Mapping[str, float]:
        """Likelihood per member, normalised Gini and what was expected over what was."""
        assert isinstance(network, LifetimeNetwork)  # noqa: S101 - for the type checker
        batch = batch_of(data, data["validation"])
        logits = network(batch.feature)
        loss = zero_inflated_lognormal(logits.double(), batch.value.double())
        value = batch.value.double().numpy()
        said = network.expected(batch.feature).numpy()
        weight = batch.weight.double()
        return {
            "likelihood": -float((loss * weight).sum() / weight.sum()),
            "gini": normalised_gini(value, said),
            "ratio": float(weight.numpy() @ said / (weight.numpy() @ value)),
        }


def level(network: LifetimeNetwork, data: Payload, rows: NDArray[np.int64]) -> float:
    """What expected values of some members must be multiplied with so that their sum is that of the values.

    A lognormal that fits the middle of the values need not have their mean. The factor is to be found on members that
    were known when the network was trained, all of them, since a few large values decide it.

    Args:
        network: trained.
        data: see `LifetimeConfig`.
        rows: numbers of members, usually those of training and validation together.

    Returns:
        Above 0.

    Raises:
        InputError: the members have no value.

    Source:
        Ours; the kept mean of a calibration.
    """
    batch = batch_of(data, rows)
    with torch.no_grad():
        said = float((network.expected(batch.feature) * batch.weight.double()).sum())
    value = float((batch.value.double() * batch.weight.double()).sum())
    if not value > 0:
        raise InputError("members without any value have no level; take a longer horizon.")
    return value / said


def batch_of(data: Payload, rows: NDArray[np.int64]) -> Batch:
    """Rows of the data as a batch."""
    weight = data["weight"][rows] if "weight" in data else np.ones(len(rows))
    return Batch(
        feature=torch.from_numpy(np.asarray(data["features"][rows], np.float32)),
        value=torch.from_numpy(np.asarray(data["value"][rows], np.float32)),
        weight=torch.from_numpy(np.asarray(weight, np.float32)),
    )


def _check(data: Payload) -> None:
    """Raise `InputError` for data that cannot be learned from."""
    columns = ("value", "weight") if "weight" in data else ("value",)
    check_table(data, *columns)
    for name in columns:
        wrong = np.flatnonzero(np.asarray(data[name]) < 0)
        if len(wrong):
            raise InputError(f"{name} of member {wrong[0]} is {data[name][wrong[0]]}; it must be 0 or more.")
    for name in ("train", "validation"):
        rows = np.asarray(data[name])
        counted = rows[np.asarray(data["weight"])[rows] > 0] if "weight" in data else rows
        value = np.asarray(data["value"])[counted]
        if (value > 0).sum() < 2 or np.ptp(value) == 0:
            raise InputError(
                f"{name} has {(value > 0).sum()} members of value and weight; 2 of different value are needed."
            )
