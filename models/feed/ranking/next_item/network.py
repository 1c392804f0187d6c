"""A causal transformer over what a user met, whose last state is compared with the vectors of all items.

    x_t   = v_{h_t} + p_{t'}                 v: item vectors, p: positions, t': events after t in the row
    x     = blocks(x)
    score = cos(x_T, v_j) / temperature      or x_T . v_j / temperature

The same vectors are read and compared with. Three kinds of block, so that others are measured under the same objective
and budget. Not the blocks of `models.common.transformer`: those have a norm at the end, no dropout within attention and
feed-forward, and rotary positions, and a published baseline must be what was published.

Dropout on item vectors is one mask a step, the same wherever an item stands in the batch, as event, as target and as
negative; so it removes numbers of the comparison, and does not make an item unlike itself.
"""

# Shapes: B rows, L events (padded), D width, H heads, E width of a head, I items, K items of a batch, M states whose
# next item is known.

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.configuration import check, setting

SMALLEST = 1e-6
"""Length below which a vector is not made longer."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the network and the kind of its blocks."""

    block: Literal["ligr", "sasrec", "hstu"] = setting(
        "ligr", "Block", "The gated block of LiGR, or as baselines the blocks of SASRec and HSTU."
    )
    gate: bool = setting(True, "Gate", "Whether a sigmoid gate weighs each branch of a LiGR block.")
    width: int = setting(64, "Width", "Numbers in a vector, 2 to 4096; a multiple of heads.", ge=2, le=4096)
    heads: int = setting(1, "Heads", "Attention heads, 1 to 64.", ge=1, le=64)
    layers: int = setting(1, "Layers", "Blocks on top of one another, 1 to 64.", ge=1, le=64)
    multiplier: int = setting(
        1, "Multiplier", "Inner width of a LiGR block's feed-forward part over width, 1 to 16.", ge=1, le=16
    )
    history: int = setting(20, "History", "Latest events that are read, 1 to 10000.", ge=1, le=10_000)
    final_norm: bool = setting(False, "Norm at the end", "Whether the last block is followed by a norm.")
    similarity: Literal["cosine", "inner"] = setting(
        "cosine", "Similarity", "How a state is compared with an item: by the cosine or by the inner product."
    )
    temperature: float = setting(
        0.07, "Temperature", "What similarities are divided by, 0.001 to 100.", ge=1e-3, le=100
    )
    dropout: float = setting(
        0.1, "Dropout", "Share dropped of inputs, attention, branches and inner numbers, 0 to below 1.", ge=0, lt=1
    )
    item_dropout: float = setting(
        0.1, "Dropout of item vectors", "Share of the numbers of item vectors dropped for a step, 0 to below 1.",
        ge=0, lt=1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if self.width % self.heads:
            raise ValueError(
                f"NetworkConfig.width must be a multiple of heads, got {self.width} and {self.heads}; "
                f"take {self.heads * math.ceil(self.width / self.heads)}."
            )


class Batch(NamedTuple):
    """Rows of some users, and what their states are compared with.

    Attributes:
        item: (K) items of the batch: first the negatives, then the others.
        history: (B, L) places in `item`, oldest first, flush left; padding is 0.
        length: (B) events of each row.
        state: (M) which of the B L states have a next item.
        target: (M) places in `item` of the next items.
        negatives: how many of `item` are negatives, N.
        hit: (2, X) states and negatives that are each other's target; such a negative does not count.
        offset: (N) what is added to the logits of negatives; logarithm of one over how often each is expected.
        share: M, or the mean of it over data-parallel processes.
    """

    item: Tensor
    history: Tensor
    length: Tensor
    state: Tensor
    target: Tensor
    negatives: int
    hit: Tensor
    offset: Tensor
    share: float


class Attention(nn.Module):
    """Causal softmax attention with biases and dropout on its weights.

    Args:
        config: width, heads, dropout.

    Source:
        Vaswani et al. 2017, "Attention is all you need", section 3.2.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.inward = nn.Linear(config.width, 3 * config.width)
        self.outward = nn.Linear(config.width, config.width)

    def forward(self, asking_BLD: Tensor, asked_BLD: Tensor) -> Tensor:
        """What each event gathers from itself and those before it (B, L, D).

        Args:
            asking_BLD: what queries are made of.
            asked_BLD: what keys and values are made of; the same in all but SASRec's block.
        """
        if asking_BLD is asked_BLD:
            query, key, value = self.inward(asking_BLD).chunk(3, dim=-1)
        else:
            width = asking_BLD.shape[-1]
            weight, bias = self.inward.weight, self.inward.bias
            query = functional.linear(asking_BLD, weight[:width], bias[:width])
            key, value = functional.linear(asked_BLD, weight[width:], bias[width:]).chunk(2, dim=-1)
        query, key, value = (split_heads(one, self.heads) for one in (query, key, value))
        gathered = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        out: Tensor = self.outward(gathered.transpose(1, 2).flatten(2))
        return out


def split_heads(vector_BLD: Tensor, heads: int) -> Tensor:
    """(B, H, L, E)."""
    rows, events, width = vector_BLD.shape
    return vector_BLD.view(rows, events, heads, width // heads).transpose(1, 2)


class GatedBlock(nn.Module):
    """LiGR: h + F(norm(h)) * sigmoid(h W + b), F first attention, then SwiGLU; without a gate h + F(norm(h)).

    Source:
        LiGR (arXiv 2502.03417), as written in "eSASRec" (arXiv 2508.06450), equation 1; SwiGLU without biases is
        Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, inner = config.width, config.multiplier * config.width
        self.attention_norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(config)
        self.opening = nn.Linear(width, 2 * inner, bias=False)
        self.closing = nn.Linear(inner, width, bias=False)
        self.attention_gate = nn.Linear(width, width) if config.gate else None
        self.inner_gate = nn.Linear(width, width) if config.gate else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, event_BLD: Tensor) -> Tensor:
        """(B, L, D)."""
        normed = self.attention_norm(event_BLD)
        event_BLD = self._add(event_BLD, self.attention(normed, normed), self.attention_gate)
        opened, passing = self.opening(self.inner_norm(event_BLD)).chunk(2, dim=-1)
        change = self.closing(self.dropout(functional.silu(opened) * passing))
        return self._add(event_BLD, change, self.inner_gate)

    def _add(self, event_BLD: Tensor, change_BLD: Tensor, gate: nn.Linear | None) -> Tensor:
        change_BLD = self.dropout(change_BLD)
        return event_BLD + (change_BLD if gate is None else change_BLD * torch.sigmoid(gate(event_BLD)))


class PlainBlock(nn.Module):
    """SASRec: queries from the normed stream, keys and values from the stream itself; then two layers with a ReLU.

    Source:
        Kang & McAuley 2018, "Self-attentive sequential recommendation", section III, in the form of the authors' code,
        where the residual goes on from the normed stream.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.attention_norm, self.inner_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.opening = nn.Linear(config.width, config.width)
        self.closing = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, event_BLD: Tensor) -> Tensor:
        """(B, L, D)."""
        normed = self.attention_norm(event_BLD)
        event_BLD = self.inner_norm(normed + self.attention(normed, event_BLD))
        change: Tensor = self.closing(self.dropout(functional.relu(self.opening(event_BLD))))
        out: Tensor = event_BLD + self.dropout(change)
        return out


class PointwiseBlock(nn.Module):
    """HSTU: h + W (norm(A V) * U), A = silu(Q K^T / sqrt(E) + distance) / history, no softmax and no feed-forward part.

    Source:
        Zhai et al. 2024, "Actions Speak Louder than Words" (arXiv 2402.17152), equations 1 to 3; of its relative bias
        the distance in events alone, for there are no times.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.history = config.heads, config.history
        self.norm, self.gathered_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, 4 * width), nn.Linear(width, width)
        self.distance = nn.Parameter(torch.zeros(config.heads, config.history))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, event_BLD: Tensor) -> Tensor:
        """(B, L, D)."""
        query, key, value, passing = functional.silu(self.inward(self.norm(event_BLD))).chunk(4, dim=-1)
        query, key, value = (split_heads(one, self.heads) for one in (query, key, value))
        place = torch.arange(event_BLD.shape[1], device=event_BLD.device)
        apart = place[:, None] - place
        score = (
            query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + self.distance[:, apart.clamp(0, self.history - 1)]
        )
        weight = self.dropout(functional.silu(score) * (apart >= 0) / self.history)
        gathered = (weight @ value).transpose(1, 2).flatten(2)
        out: Tensor = event_BLD + self.dropout(self.outward(self.gathered_norm(gathered) * passing))
        return out


BLOCKS: dict[str, type[nn.Module]] = {"ligr": GatedBlock, "sasrec": PlainBlock, "hstu": PointwiseBlock}


class NextItem(nn.Module):
    """The network.

    Args:
        items: number of items.
        config: sizes and kind.

    Source:
        See the blocks; tied vectors and learned positions are SASRec's. Positions counted from the end are ours: so the
        last event has one position whatever the length.
    """

    def __init__(self, items: int, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(items, config.width)
        self.positions = nn.Embedding(config.history, config.width)
        self.blocks = nn.ModuleList(BLOCKS[config.block](config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width) if config.final_norm else None
        self.register_buffer("known", torch.ones(items, dtype=torch.bool))
        self.known: Tensor
        for name, weight in self.named_parameters():
            if weight.dim() > 1 and not name.endswith("distance"):
                nn.init.xavier_normal_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def begin(self, vector_ID: Tensor, known_I: Tensor) -> None:
        """Set the item vectors, and which items the training part has: no other is ever recommended."""
        with torch.no_grad():
            self.items.weight.copy_(vector_ID)
        self.known.copy_(known_I)

    def states(self, event_BLD: Tensor, length_B: Tensor) -> Tensor:
        """The state after each event.

        Args:
            event_BLD: item vectors, oldest first, flush left; padding must be finite.
            length_B: events of each row, 0 to the history's length.

        Returns:
            (B, L, D); those of a row's events depend on itself alone, those of padding hold anything.

        Source:
            See the module.
        """
        place = torch.arange(event_BLD.shape[1], device=event_BLD.device)
        later_BL = (length_B[:, None] - 1 - place).clamp_min(0)
        event_BLD = event_BLD + functional.embedding(later_BL, self.positions.weight)
        event_BLD = functional.dropout(event_BLD, self.config.dropout, self.training)
        for block in self.blocks:
            event_BLD = block(event_BLD)
        return event_BLD if self.norm is None else self.norm(event_BLD)

    def user_vectors(self, history_BL: Tensor, length_B: Tensor) -> Tensor:
        """What the items are compared with (B, D); zeros for an empty history, which makes all items alike."""
        if not history_BL.shape[1]:
            return self.items.weight.new_zeros(len(length_B), self.config.width)
        state_BLD = self.states(self.items(history_BL), length_B)
        last = state_BLD[torch.arange(len(length_B), device=length_B.device), (length_B - 1).clamp_min(0)]
        return self.compared(last) / self.config.temperature * (length_B > 0)[:, None]

    def item_vectors(self) -> Tensor:
        """What user vectors are multiplied with (I, D)."""
        return self.compared(self.items.weight)

    def compared(self, vector: Tensor) -> Tensor:
        """Vectors (..., D) as they are compared: of length one for a cosine."""
        return functional.normalize(vector, dim=-1, eps=SMALLEST) if self.config.similarity == "cosine" else vector


def network_of(network: Any) -> NextItem:
    """The same network, if it is one of this system.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(network, NextItem):
        raise TypeError(
            f"expected a ranker of next items, got {type(network).__name__}; give these data a name of their own, so "
            f"that the live version is one of next items."
        )
    return network
