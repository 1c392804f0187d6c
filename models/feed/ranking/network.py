"""The ranker's network: tokens of events and candidates, the gated transformer, a head for each task, calibration.

    x_i = W[i] + mean over its categories of C[g]                      an item
    event      = P x_i + R actions + r + G[gap] + H[hour]              what happened, and how the user responded
    candidate  = P x_i + c + G'[gap of the session] + H'[hour] + U[user]
    logit_t    = head_t(session(transformer(history, candidates))) + b_t[i]
    chance_t   = step_t(logit_t)                                       isotonic, fitted on the validation part

`transformer` shows a candidate the history and itself, `session` the candidates of its session and itself.
W and b start at zero: an item that training never met is known by its categories alone, and a new user by her history.
"""

# Shapes: B rows of a batch, L events (padded), N candidates (padded), T tasks, I items, A slots of categories, D width,
# V width of an item's vector, K knots of a calibration, Q items asked for.

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.common.configuration import check, setting
from models.common.transformer import Transformer, TransformerConfig
from models.feed.events.calibration import Isotonic
from models.feed.ranking.inputs import GAPS, HOURS, Catalogue

Floats = NDArray[np.float64]

KNOTS = 256
"""Most steps of a calibration."""


def _transformer() -> TransformerConfig:
    return TransformerConfig(width=32, heads=2, layers=2, multiplier=2, dropout=0.1)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the network, and what a candidate knows."""

    transformer: TransformerConfig = setting(_transformer, "Transformer", "Blocks over history and candidates.")
    item_width: int = setting(32, "Width of items", "Numbers in the embedding of an item, 1 to 4096.", ge=1, le=4096)
    history: int = setting(
        128, "History", "Latest events of a user before the session that are seen, 1 to 100000.", ge=1, le=100_000
    )
    setwise: bool = setting(
        True, "Set-wise", "Whether the candidates of one session see one another; without it each is scored alone."
    )
    session_layers: int = setting(
        0,
        "Layers of the session",
        "Blocks over the candidates of a session alone, after those over the history, 0 to 16; 0: set-wise candidates "
        "see one another beside the history, in the same softmax. Without set-wise there are none.",
        ge=0,
        le=16,
    )
    user: bool = setting(False, "User", "Whether a candidate is told who the user is, besides her history.")
    head: Literal["linear", "mlp"] = setting(
        "mlp", "Head", "What makes logits of a candidate: one matrix, or one hidden layer of the transformer's width."
    )
    forgetting: float = setting(
        0.1,
        "Forgetting of identities",
        "Share of items and of users that a training step sees without their own embedding, 0 to 0.9; what else is "
        "known, categories and history, then has to do.",
        ge=0,
        le=0.9,
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def session(self) -> TransformerConfig | None:
        """Blocks over the candidates of a session; None when there are none."""
        return replace(self.transformer, layers=self.session_layers) if self.setwise and self.session_layers else None

    @property
    def joint(self) -> bool:
        """Whether candidates see one another beside the history."""
        return self.setwise and not self.session_layers


class Batch(NamedTuple):
    """Rows of a step: a user's events, and after them the candidates of one or more of her sessions.

    Attributes:
        event_item: (B, L) items of the events, oldest first, flush left.
        event_action: (B, L, T) responses to them.
        event_gap: (B, L) codes of gaps.
        event_hour: (B, L) hours.
        length: (B) events.
        item: (B, N) candidates; padding at the end.
        gap: (B, N) codes of the gap before the session.
        hour: (B, N) hours in which the sessions begin.
        user: (B) users.
        session: (B, N) sessions, numbered in the row; padding has numbers of its own.
        seen: (B, N) how many events of the row come before the session.
        label: (B, N, T) responses.
        weight: (B, N) what each counts in the loss; 0 for padding.
        total: what all candidates of an epoch count together.
        catalogue: categories of all items.
    """

    event_item: Tensor
    event_action: Tensor
    event_gap: Tensor
    event_hour: Tensor
    length: Tensor
    item: Tensor
    gap: Tensor
    hour: Tensor
    user: Tensor
    session: Tensor
    seen: Tensor
    label: Tensor
    weight: Tensor
    total: Tensor
    catalogue: Catalogue


class LiGR(nn.Module):
    """A transformer that scores the candidates of a session by the user's history.

    Args:
        users: number of users.
        items: number of items.
        categories: number of categories.
        tasks: number of tasks.
        config: sizes.

    Source:
        LiGR (arXiv 2502.03417): history of items and actions, candidates after it, blocks of attention in the session
        on top, one logit for each task. Time, hour and the zero start of the embeddings are ours; the
        rest see `Transformer`.
    """

    calibration: Tensor
    knots: Tensor

    def __init__(self, *, users: int, items: int, categories: int, tasks: int, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.transformer.width, config.item_width
        self.items = nn.Embedding(items, inner)
        self.categories = nn.Embedding(categories, inner) if categories else None
        self.users = nn.Embedding(users, width) if config.user else None
        self.project = nn.Linear(inner, width, bias=False)
        self.response = nn.Linear(tasks, width)
        self.candidate = nn.Parameter(torch.zeros(width))
        self.event_gap, self.event_hour = nn.Embedding(GAPS, width), nn.Embedding(HOURS, width)
        self.gap, self.hour = nn.Embedding(GAPS, width), nn.Embedding(HOURS, width)
        self.transformer = Transformer(config.transformer)
        self.session = Transformer(config.session) if config.session else None
        hidden = [nn.Linear(width, width), nn.SiLU()] if config.head == "mlp" else []
        self.head = nn.Sequential(*hidden, nn.Linear(width, tasks))
        for table in (self.categories, self.event_gap, self.event_hour, self.gap, self.hour):
            if table is None:
                continue
            nn.init.normal_(table.weight, std=table.weight.shape[1] ** -0.5)
        self.bias = nn.Embedding(items, tasks)
        nn.init.zeros_(self.items.weight)
        nn.init.zeros_(self.bias.weight)
        if self.users is not None:
            nn.init.zeros_(self.users.weight)
        self.register_buffer("calibration", torch.zeros(tasks, 2, KNOTS, dtype=torch.float64))
        self.register_buffer("knots", torch.zeros(tasks, dtype=torch.int64))

    def item_vectors(self, item_Q: Tensor, catalogue: Catalogue) -> Tensor:
        """Items in the transformer's width (Q, D)."""
        own_QV = self.items(item_Q)
        if self.training and self.config.forgetting:
            kept_Q1 = torch.rand(len(item_Q), 1, device=item_Q.device) >= self.config.forgetting
            own_QV = own_QV * kept_Q1
        if self.categories is not None:
            shared_QAV = self.categories(catalogue.codes[item_Q])
            own_QV = own_QV + (catalogue.weights[item_Q].unsqueeze(-1) * shared_QAV).sum(1)
        out: Tensor = self.project(own_QV)
        return out

    def event_tokens(self, vector: Tensor, action: Tensor, gap: Tensor, hour: Tensor) -> Tensor:
        """Tokens of events (..., D) from vectors of their items (..., D), responses, gaps and hours."""
        out: Tensor = vector + self.response(action) + self.event_gap(gap) + self.event_hour(hour)
        return out

    def candidate_tokens(self, vector: Tensor, gap: Tensor, hour: Tensor, user: Tensor) -> Tensor:
        """Tokens of candidates (..., D) from vectors of their items, gap and hour of their sessions, and users."""
        out: Tensor = vector + self.candidate + self.gap(gap) + self.hour(hour)
        if self.users is None:
            return out
        known: Tensor = self.users(user)
        if self.training and self.config.forgetting:
            kept = torch.rand(known.shape[:-1], device=known.device) >= self.config.forgetting
            known = known * kept.unsqueeze(-1)
        return out + known

    def logits(self, hidden: Tensor, item: Tensor) -> Tensor:
        """A logit for each task (..., T) of hidden states (..., D) and the items behind them."""
        out: Tensor = self.head(hidden) + self.bias(item)
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T); those of padding mean nothing."""
        there = torch.cat((batch.event_item, batch.item), dim=1)
        known, place = torch.unique(there, return_inverse=True)
        vector = functional.embedding(place, self.item_vectors(known, batch.catalogue))
        length = batch.event_item.shape[1]
        event = self.event_tokens(vector[:, :length], batch.event_action, batch.event_gap, batch.event_hour)
        candidate = self.candidate_tokens(vector[:, length:], batch.gap, batch.hour, batch.user.unsqueeze(1))
        hidden = self.transformer(
            event,
            batch.length,
            candidate,
            batch.session if self.config.joint else None,
            seen_BN=batch.seen,
        ).candidates
        if self.session is not None:
            nothing = hidden[:, :0]
            hidden = self.session(nothing, torch.zeros_like(batch.length), hidden, batch.session).candidates
        return self.logits(hidden, batch.item)

    def calibrate(self, steps: list[Isotonic]) -> None:
        """Keep what turns the logits of each task into chances; raises `ValueError` when there are too many knots."""
        for task, step in enumerate(steps):
            size = len(step.score)
            if size > KNOTS:
                raise ValueError(f"a calibration has at most {KNOTS} knots, got {size}; group the scores first.")
            self.calibration[task] = 0
            self.calibration[task, 0, :size] = torch.from_numpy(step.score)
            self.calibration[task, 1, :size] = torch.from_numpy(step.chance)
            self.knots[task] = size

    def steps(self) -> list[Isotonic]:
        """What turns logits into chances, for each task; raises `ValueError` for a network without calibration."""
        table, count = self.calibration.cpu().numpy(), self.knots.tolist()
        return [
            Isotonic(score=table[task, 0, :size].copy(), chance=table[task, 1, :size].copy())
            for task, size in enumerate(count)
        ]

    def chances(self, logit: NDArray[np.float32]) -> Floats:
        """Calibrated chances of logits (..., T)."""
        columns = [step(logit[..., task]) for task, step in enumerate(self.steps())]
        return np.stack(columns, -1)
