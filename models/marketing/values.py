"""What an offer is worth to a member, learned from a round of the past that chance decided: a chance times a spend.

    value_ni = reach_ni ( p_i(x_n) - p_l(x_n) ) s_l

p_i is the chance that a member with features x buys in the line l of an offer i that arrived, p_l the chance that she
buys there without any offer, and s_l the mean spend of who buys in it. All chances are heads of one network
(`models.marketing.prediction.response`), one for every offer and one for every line without an offer, each calibrated
on members that it was not trained on.
"""

# Shapes: N members, M offers, E pairs, L lines, F features, R examples.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.common.configuration import setting
from models.common.contracts import InputError, Payload, TrainingConfig
from models.common.tables import flat
from models.common.threads import one_thread
from models.marketing.generator import FEATURES, LINES, Outcome, World
from models.marketing.prediction.response import Batch, Response, ResponseConfig, ResponseNetwork
from models.marketing.prediction.tabular import Batched

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

HELD_OUT = 5
"""Every so many members are kept from training, to choose the epoch and to calibrate."""


@dataclass(frozen=True, kw_only=True)
class ValuesConfig:
    """Where the worth of pairs comes from, and how it is learned; a `Trainable`."""

    source: Literal["given", "learned"] = setting(
        "given", "Values", "given: those of the data; learned: from a round of the past that chance decided."
    )
    response: ResponseConfig = setting(ResponseConfig, "Response", "The network of chances, and how it learns.")

    @property
    def training(self) -> TrainingConfig:
        """How training runs."""
        return self.response.training

    @property
    def monitor(self) -> str:
        """The metric by which the best epoch is kept."""
        return self.response.monitor

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """Features, and heads."""
        return self.response.sizes(taught(data))

    def network(self, sizes: Mapping[str, int]) -> ResponseNetwork:
        """A fresh network."""
        return self.response.network(sizes)

    def start(self, network: torch.nn.Module, data: Payload) -> None:
        """Begin at the mean chance of every head."""
        self.response.start(network, taught(data))

    def batches(self, data: Payload, *, rank: int, processes: int) -> Batched[Batch]:
        """This process's share of the training examples."""
        return self.response.batches(taught(data), rank=rank, processes=processes)

    def loss(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy of what was shown."""
        return self.response.loss(network, batch)

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        """Likelihood of the examples that were kept from training."""
        return self.response.validate(network, taught(data))


def examples(world: World, choice: Integers, outcome: Outcome) -> Payload:
    """What a round of the past teaches, as parts of a data set.

    Args:
        world: for features and offers.
        choice: (N) pair that each member was sent, -1 for nothing.
        outcome: what came of it.

    Returns:
        `past_features` (R, F), `past_head` (R), `past_response` (R), `past_train` and `past_validation` (numbers of
        examples), and `lessons`: names of the heads, the head of each offer's line without an offer, and the mean spend
        of who bought in each offer's line. A send that arrived is one example, of its offer and its line; a member
        without one is an example for every line.

    Source:
        Ours.
    """
    features_NF = np.stack([np.asarray(flat(world.members, name)) for name in FEATURES], axis=1)
    lines, offers = world.organic.shape[1], len(world.line)
    reached, alone = np.flatnonzero(outcome.arrived), np.flatnonzero(choice < 0)
    offer = world.offer[choice[reached]].astype(np.int64)
    member = np.concatenate([reached, np.repeat(alone, lines)])
    line = np.concatenate([world.line[offer], np.tile(np.arange(lines), len(alone))])
    head = np.concatenate([offer, offers + np.tile(np.arange(lines), len(alone))])
    bought, held = outcome.lines > 0, member % HELD_OUT == 0
    spend = outcome.lines.sum(0) / np.maximum(bought.sum(0), 1)
    return {
        "past_features": features_NF[member].astype(np.float32),
        "past_head": head,
        "past_response": bought[member, line].astype(np.float32),
        "past_train": np.flatnonzero(~held),
        "past_validation": np.flatnonzero(held),
        "lessons": {
            "heads": [*world.offers["offer"].to_pylist(), *(f"nothing, {LINES[one]}" for one in range(lines))],
            "without": (offers + world.line).tolist(),
            "spend": spend[world.line].tolist(),
        },
    }


def taught(data: Payload) -> Payload:
    """The examples of a data set under the names that `ResponseConfig` knows.

    Raises:
        InputError: the data have no past to learn from.
    """
    if "lessons" not in data:
        raise InputError("the data have no past that chance decided; give values, or generate a world.")
    names = {"features": "features", "offer": "head", "response": "response"}
    parts = {name: data[f"past_{part}"] for name, part in names.items()}
    rows = {name: data[f"past_{name}"] for name in ("train", "validation")}
    return {**parts, **rows, "offers": data["lessons"]["heads"]}


def values_of(data: Payload, network: torch.nn.Module | None) -> NDArray[np.float32] | None:
    """(E) values by a network; None without one: those of the data count."""
    return None if network is None else learned_values(network, data)


@one_thread()
def learned_values(network: torch.nn.Module, data: Payload) -> NDArray[np.float32]:
    """(E) what pairs are worth by a trained network; the same bits whoever asks on a machine.

    Args:
        network: trained by `ValuesConfig`.
        data: the data set that it was trained on.

    Returns:
        Values in money; below zero where an offer does harm.

    Raises:
        InputError: the data have no past to learn from.

    Source:
        See the module.
    """
    if not isinstance(network, ResponseNetwork):
        raise TypeError(f"expected a trained ResponseNetwork, got {type(network).__name__}; train the values first.")
    response, lessons = Response.of(network, taught(data)), data["lessons"]
    features = np.stack([np.asarray(flat(data["members"], name), np.float64) for name in FEATURES], axis=1)
    pairs, start = data["pairs"], np.asarray(data["start"])
    chance_NH = response.chances(features)
    member, offer = np.repeat(np.arange(len(start) - 1), np.diff(start)), np.asarray(flat(pairs, "offer"))
    without, spend = np.array(lessons["without"])[offer], np.array(lessons["spend"])[offer]
    lift = chance_NH[member, offer] - chance_NH[member, without]
    return np.asarray(np.asarray(flat(pairs, "reach")) * lift * spend, np.float32)
