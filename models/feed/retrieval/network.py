"""Two towers that meet in one space: a member's and an item's unit vectors, compared by their inner product.

x_i = W[i] + sum_a weight_ia E[code_ia]                          what an item is: itself and its attributes
item_i = unit(x_i + MLP(x_i))
h_u = U[u] + mean_{i in history of u} x_i                        what a member is: herself and what she met
user_u = unit(h_u + MLP(h_u))
logit_ui = user_u . item_i / temperature
"""

# Shapes: N items, A attribute codes of an item, B members in a batch, C candidates, H items of a history, M items asked
# for, D dimension of the space, X numbers in a row, here D.

import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.common.configuration import check, setting
from models.feed.retrieval.features import Features

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The two towers and their loss."""

    dimension: int = setting(32, "Dimension", "Length of the vectors, 2 to 1024.", ge=2, le=1024)
    hidden: int = setting(
        64, "Hidden width", "Width of each tower's hidden layer, 0 (no hidden layer) to 8192.", ge=0, le=8192
    )
    dropout: float = setting(
        0.1, "Dropout", "Share of each tower's input that is dropped in training, 0 to 0.9.", ge=0, le=0.9
    )
    forgetting: float = setting(
        0.2,
        "Forgetting of identities",
        "Share of members and of items that a training step sees without their own embedding, 0 to 0.9; the rest of "
        "what is known, histories and attributes, then has to do.",
        ge=0,
        le=0.9,
    )
    temperature: float = setting(
        0.2, "Temperature", "Divides the cosine; small is sharp, large keeps the towers from extremes, 0.01 to 1.",
        ge=0.01, le=1,
    )  # fmt: skip
    learn_temperature: bool = setting(False, "Learn the temperature", "Start from the temperature given and learn it.")
    history: int = setting(50, "History", "Latest items of a member that her tower reads, 1 to 2000.", ge=1, le=2000)
    uniform_negatives: int = setting(
        256, "Uniform negatives", "Items drawn uniformly for each batch, besides those of the batch, 0 to 65536.",
        ge=0, le=65536,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


class Catalogue(NamedTuple):
    """All items' attribute codes (N, A) and their weights (N, A)."""

    codes: Tensor
    weights: Tensor

    @classmethod
    def of(cls, features: Features) -> "Catalogue":
        """The same as tensors."""
        return cls(torch.from_numpy(features.codes), torch.from_numpy(features.weights))


class TwoTower(nn.Module):
    """A member tower and an item tower which share the items' input vectors.

    Args:
        users: number of members.
        items: number of items.
        codes: number of attribute codes.
        config: widths and temperature.

    Source:
        Two towers trained by sampled softmax: Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large
        Corpus Item Recommendations", section 3. A history as the mean of item vectors: Covington et al. 2016,
        section 3. The residual around each MLP is ours: a tower begins as the identity.
    """

    def __init__(self, *, users: int, items: int, codes: int, config: TowerConfig) -> None:
        super().__init__()
        width = config.dimension
        self.forgetting = config.forgetting
        self.history = config.history
        self.user_width = width
        self.users = nn.Embedding(users, width)
        self.items = nn.Embedding(items, width)
        self.attributes = nn.Embedding(codes, width)
        self.user_tower = _tower(width, config)
        self.item_tower = _tower(width, config)
        start = torch.tensor(float(np.log(config.temperature)))
        self.log_temperature = nn.Parameter(start, requires_grad=config.learn_temperature)
        for table in (self.users, self.items, self.attributes):
            nn.init.normal_(table.weight, std=0.5 / width**0.5)

    @property
    def temperature(self) -> Tensor:
        """What divides the cosine; held to 0.01 and above."""
        return self.log_temperature.clamp_min(float(np.log(0.01))).exp()

    def inputs(self, item_M: Tensor, catalogue: Catalogue) -> Tensor:
        """What items are before either tower (M, D)."""
        return self._identity(self.items, item_M) + self.attribute_bags(item_M, catalogue)

    def attribute_bags(self, item_M: Tensor, catalogue: Catalogue) -> Tensor:
        """What the attributes alone say of items (M, D)."""
        return functional.embedding_bag(
            catalogue.codes[item_M],
            self.attributes.weight,
            per_sample_weights=catalogue.weights[item_M].to(self.attributes.weight.dtype),
            mode="sum",
        )

    def item_vectors(self, input_MD: Tensor) -> Tensor:
        """Unit vectors of items (M, D) from their inputs."""
        return functional.normalize(input_MD + self.item_tower(input_MD), dim=-1)

    def user_inputs(self, user_B: Tensor, place_BH: Tensor, weight_BH: Tensor, input_MD: Tensor) -> Tensor:
        """What members are before their tower (B, D).

        Args:
            user_B: members; -1 is a member unknown to the network, who is her history alone.
            place_BH: rows of `input_MD` that make up each history; any row where the weight is zero.
            weight_BH: weights of the rows, summing to one, or all zero for an empty history.
            input_MD: inputs of the items that the histories need.
        """
        weight_BH = weight_BH.to(input_MD.dtype)
        history_BD = functional.embedding_bag(place_BH, input_MD, per_sample_weights=weight_BH, mode="sum")
        known_B = (user_B >= 0)[:, None]
        return history_BD + self._identity(self.users, user_B.clamp_min(0)) * known_B

    def user_vectors(self, user_B: Tensor, place_BH: Tensor, weight_BH: Tensor, input_MD: Tensor) -> Tensor:
        """Unit vectors of members (B, D); arguments as in `user_inputs`."""
        mixed_BD = self.user_inputs(user_B, place_BH, weight_BH, input_MD)
        return functional.normalize(mixed_BD + self.user_tower(mixed_BD), dim=-1)

    def user_rows(self, user_B: Tensor, place_BH: Tensor, weight_BH: Tensor, input_MD: Tensor) -> Tensor:
        """What `compare` wants of members (B, X): here their unit vectors; arguments as in `user_inputs`."""
        return self.user_vectors(user_B, place_BH, weight_BH, input_MD)

    def item_rows(self, item_M: Tensor, input_MD: Tensor, catalogue: Catalogue) -> Tensor:
        """What `compare` wants of items (M, X): here their unit vectors."""
        return self.item_vectors(input_MD)

    def compare(self, user_BX: Tensor, item_CX: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of rows of members and of items, and a penalty that joins the loss; here none."""
        logits_BC = user_BX @ item_CX.T / self.temperature
        return logits_BC, logits_BC.new_zeros(())

    def _identity(self, table: nn.Embedding, row_M: Tensor) -> Tensor:
        """Embeddings of members or items; in training some are forgotten whole, the others scaled up to make up."""
        kept = functional.dropout(
            torch.ones_like(table.weight[:1, :1].expand(len(row_M), 1)), self.forgetting, self.training
        )
        return torch.mul(table(row_M), kept)


def _tower(width: int, config: TowerConfig) -> nn.Module:
    """Dropout and a light MLP; its last layer starts at zero, so that a fresh tower is the identity."""
    last = nn.Linear(config.hidden or width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if not config.hidden:
        return nn.Sequential(nn.Dropout(config.dropout), last)
    return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.GELU(), last)


@torch.no_grad()
def encode_items(network: TwoTower, catalogue: Catalogue, *, batch: int = 8192) -> Floats:
    """Rows of all items: their unit vectors, and more where the similarity is learned.

    Computed in float64 and rounded once: the same weights then give the same float32 vectors whatever the batch, the
    number of threads or the machine, and an index can be compared with its source to the bit.

    Args:
        network: the towers; evaluated without dropout and left as they were.
        catalogue: attributes of all items.
        batch: items at a time.

    Returns:
        (N, X) float32, in the order of the items.

    Source:
        Ours.
    """
    exact, catalogue = _exact(network, catalogue)
    rows = torch.arange(len(catalogue.codes), device=catalogue.codes.device)
    parts = [
        exact.item_rows(some, exact.inputs(some, catalogue), catalogue).float().cpu()
        for some in torch.split(rows, batch)
    ]
    return np.asarray(torch.cat(parts).numpy())


@torch.no_grad()
def encode_users(
    network: TwoTower, catalogue: Catalogue, users: Integers, histories: Integers, *, batch: int = 4096
) -> Floats:
    """Rows of members; computed as those of items are.

    Args:
        network: the towers; evaluated without dropout and left as they were.
        catalogue: attributes of all items.
        users: members (Q), -1 for one unknown to the network.
        histories: items (Q, H), -1 where there is none.
        batch: members at a time.

    Returns:
        (Q, X) float32, in the order of `users`.

    Source:
        Ours.
    """
    exact, catalogue = _exact(network, catalogue)
    parts = [torch.zeros((0, exact.user_width))]
    for first in range(0, len(users), batch):
        history = torch.tensor(histories[first : first + batch], device=catalogue.codes.device)
        unique, place = torch.unique(history.clamp_min(0), return_inverse=True)
        user = torch.tensor(users[first : first + batch], device=history.device)
        parts.append(
            exact.user_rows(user, place, history_weights(history), exact.inputs(unique, catalogue)).float().cpu()
        )
    return np.asarray(torch.cat(parts).numpy())


def _exact(network: TwoTower, catalogue: Catalogue) -> tuple[TwoTower, Catalogue]:
    """A copy of the towers for evaluation in float64, and the catalogue beside it."""
    device = network.log_temperature.device
    exact = copy.deepcopy(network).double().eval()
    return exact, Catalogue(catalogue.codes.to(device), catalogue.weights.to(device))


def history_weights(history_BH: Tensor) -> Tensor:
    """Equal weights of the items that are there (-1 is none); zero for an empty history."""
    there = history_BH >= 0
    return there / there.sum(1, keepdim=True).clamp_min(1)
