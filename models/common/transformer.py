"""The gated transformer over a history and its candidates: blocks, and the stack of them.

Each half of a block adds to the residual stream what its branch makes of the normalized stream, by as much as a gate
lets through that reads the stream itself:

    h  <-  h + F(norm(h)) * sigmoid(h W + b),   F first attention, then a SwiGLU

This one network is trained (here: batches, gradients) and served (`models.common.amortised`: the same weights, the
history computed once).

Shapes: as in `models.common.attention`; B sequences, L events, N candidates, T = L + N tokens, D width.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.attention import Attention, Sight, candidates_see, events_see, rotation
from models.common.configuration import check, setting


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the transformer, and what its candidates see."""

    width: int = setting(64, "Width", "Numbers in a token's vector, 2 to 4096; a multiple of heads.", ge=2, le=4096)
    heads: int = setting(2, "Heads", "Attention heads, 1 to 64.", ge=1, le=64)
    layers: int = setting(2, "Layers", "Blocks on top of one another, 1 to 64.", ge=1, le=64)
    multiplier: int = setting(4, "Multiplier", "Inner width of the feed-forward part over width, 1 to 16.", ge=1, le=16)
    dropout: float = setting(
        0.1, "Dropout", "Share of a branch's numbers dropped in training, 0 to below 1.", ge=0, lt=1
    )
    gate: bool = setting(True, "Gate", "Whether a sigmoid gate weighs each branch; without it the residual is plain.")
    self_key: bool = setting(True, "Self key", "Whether a candidate sees itself beside the history.")
    rotary: bool = setting(True, "Rotary positions", "Whether attention knows how far apart events are.")
    window: int = setting(
        0,
        "Window",
        "Latest events that an event or a candidate sees in each layer, 1 to 1000000; 0: all.",
        ge=0,
        le=1_000_000,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.width % self.heads:
            raise ValueError(
                f"TransformerConfig.width must be a multiple of heads, got {self.width} and {self.heads}; "
                f"take {self.heads * math.ceil(self.width / self.heads)}."
            )
        if self.rotary and self.head_width % 2:
            raise ValueError(
                f"TransformerConfig.rotary turns pairs of numbers, and a head is {self.head_width} wide; make "
                "width / heads even or turn rotary off."
            )

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def inner_width(self) -> int:
        """Inner width of the feed-forward part."""
        return self.multiplier * self.width


class SwiGLU(nn.Module):
    """Feed-forward part: (silu(x W1) * x W3) W2, without biases.

    Args:
        width: D.
        inner: width between.

    Source:
        Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, 2 * inner, bias=False)
        self.outward = nn.Linear(inner, width, bias=False)

    def forward(self, token_BTD: Tensor) -> Tensor:
        """(B, T, D)."""
        opening, passing = self.inward(token_BTD).chunk(2, dim=-1)
        out: Tensor = self.outward(functional.silu(opening) * passing)
        return out


class Residual(nn.Module):
    """h + F(norm(h)) * sigmoid(h W + b); without a gate h + F(norm(h)).

    The gate starts at one half everywhere. Dropout falls on the branch, before the gate.

    Args:
        branch: F.
        config: width, gate and dropout.

    Source:
        LiGR, as written in "eSASRec" (arXiv 2508.06450), equation 1.
    """

    def __init__(self, branch: nn.Module, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.branch: Any = branch  # attention or feed-forward, each with weights of its own
        self.dropout = nn.Dropout(config.dropout)
        self.gate = nn.Linear(config.width, config.width) if config.gate else None

    def forward(self, token_BTD: Tensor, *sight: Sight) -> Tensor:
        """The stream after this half of a block (B, T, D)."""
        change_BTD = self.dropout(self.branch(self.norm(token_BTD), *sight))
        if self.gate is not None:
            change_BTD = change_BTD * torch.sigmoid(self.gate(token_BTD))
        out: Tensor = token_BTD + change_BTD
        return out


class Block(nn.Module):
    """Attention, then SwiGLU, each a `Residual`.

    Has (6 + 3 m) D^2 weights in matrices, 2 D biases of the gates and 4 D of the norms.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Residual(Attention(config.width, config.heads), config)
        self.feed_forward = Residual(SwiGLU(config.width, config.inner_width), config)

    def forward(self, token_BTD: Tensor, sight: Sight) -> Tensor:
        """The stream after the block (B, T, D)."""
        out: Tensor = self.feed_forward(self.attention(token_BTD, sight))
        return out


class Hidden(NamedTuple):
    """What the transformer says of the events (B, L, D) and of the candidates (B, N, D); padding holds anything."""

    history: Tensor
    candidates: Tensor


class Transformer(nn.Module):
    """Blocks over a history and its candidates, and a norm at the end.

    Args:
        config: sizes.

    Source:
        LiGR (arXiv 2502.03417): the block and the in-session attention. Rotary positions, and one position for all
        candidates, are from its successors Feed-SR (arXiv 2602.12354) and UniPinRec (arXiv 2606.00422). Weights start
        as in GPT-2 (Radford et al. 2019, section 2.3): what a branch adds is scaled down by the root of the number of
        branches, so that the stream's variance does not grow with depth.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        for name, weight in self.named_parameters():
            if name.endswith(("inward.weight", "outward.weight")):
                branches = 2 * config.layers if name.endswith("outward.weight") else 1
                nn.init.normal_(weight, std=(weight.shape[1] * branches) ** -0.5)
            elif "gate" in name:
                nn.init.zeros_(weight)

    def forward(
        self,
        history_BLD: Tensor,
        length_B: Tensor,
        candidate_BND: Tensor | None = None,
        session_BN: Tensor | None = None,
        *,
        seen_BN: Tensor | None = None,
        start: int = 0,
    ) -> Hidden:
        """Hidden states of events and candidates.

        A training batch may hold the candidates of many sessions of one member in one row: `seen_BN` says how many
        events came before each, and the history is computed once.

        Args:
            history_BLD: events, oldest first, flush left (see `flush_left`); padding must be finite.
            length_B: how many events there are, 0 to L.
            candidate_BND: candidates; None for none.
            session_BN: sessions; candidates of one session (and the same row) see one another. Give padding a session
                of its own. None: candidates do not see one another.
            seen_BN: how many events a candidate sees, which is also its position; None: all, `length_B`.
            start: position of the first event; scores do not depend on it.

        Returns:
            Hidden states of events and candidates; an event's depend on itself and the events before it alone.

        Source:
            See the class; several sessions in one row are "shared-context batching" of Feed-SR.
        """
        if candidate_BND is None:
            candidate_BND = history_BLD.new_zeros(len(history_BLD), 0, self.config.width)
        length, candidates = history_BLD.shape[1], candidate_BND.shape[1]
        if seen_BN is None:
            seen_BN = length_B.unsqueeze(1).expand(-1, candidates)
        sight = self._sight(length, seen_BN, session_BN, start, history_BLD.dtype)
        token_BTD = torch.cat((history_BLD, candidate_BND), dim=1)
        for block in self.blocks:
            token_BTD = block(token_BTD, sight)
        token_BTD = self.norm(token_BTD)
        return Hidden(token_BTD[:, :length], token_BTD[:, length:])

    def _sight(self, length: int, seen_BN: Tensor, session_BN: Tensor | None, start: int, dtype: torch.dtype) -> Sight:
        config, device = self.config, seen_BN.device
        turned = None
        if config.rotary:
            event_L = torch.arange(length, device=device).expand(len(seen_BN), length)
            position_BT = start + torch.cat((event_L, seen_BN), dim=1) if seen_BN.shape[1] else start + event_L[:1]
            turned = rotation(position_BT.unsqueeze(1), config.head_width, dtype=dtype)
        windowed = 0 < config.window < length
        return Sight(
            length=length,
            rotation=turned,
            events=events_see(length, config.window, device=device) if windowed else None,
            candidates=candidates_see(length, seen_BN, session_BN, self_key=config.self_key, window=config.window),
        )


def flush_left(history_BLD: Tensor, present_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Move events to the front and padding to the back, wherever it stood; the order of events is kept.

    Args:
        history_BLD: events and padding.
        present_BL: which are events.

    Returns:
        The same, flush left (B, L, D), and the numbers of events (B).

    Source:
        Ours.
    """
    order_BL = torch.argsort(~present_BL, dim=1, stable=True)
    return torch.take_along_dim(history_BLD, order_BL.unsqueeze(-1), dim=1), present_BL.sum(1)
