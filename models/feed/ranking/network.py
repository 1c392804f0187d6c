"""The ranker's network: the gated transformer over events and candidates, a head for each task, calibration.

    logit_t    = head_t(session(transformer(history, candidates))) + b_t[i]
    chance_t   = step_t(logit_t)                                       isotonic, fitted on the validation part

`transformer` shows a candidate the history and itself, `session` the candidates of its session and itself. Tokens of
events and candidates are those of `scorer`.
"""

# Shapes: B rows of a batch, L events (padded), N candidates (padded), T tasks, F counting features.

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.common.configuration import check, setting
from models.common.transformer import Transformer, TransformerConfig
from models.feed.events.catalogue import Catalogue
from models.feed.ranking.scorer import TokenScorer


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
    hour: bool = setting(True, "Hour", "Whether events and candidates are told the hour of the day.")
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
        counts: (B, N, F) counting features of the candidates; (B, N, 0) for a network that asks for none.
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
    counts: Tensor


class LiGR(TokenScorer):
    """A transformer that scores the candidates of a session by the user's history.

    Args:
        users: number of users.
        items: number of items.
        categories: number of categories.
        tasks: number of tasks.
        config: sizes.

    Source:
        LiGR (arXiv 2502.03417): history of items and actions, candidates after it, blocks of attention in the session
        on top, one logit for each task. The tokens are those of `TokenScorer`, the rest see `Transformer`.
    """

    def __init__(self, *, users: int, items: int, categories: int, tasks: int, config: NetworkConfig) -> None:
        super().__init__(users=users, items=items, categories=categories, tasks=tasks, config=config)
        width = config.transformer.width
        self.transformer = Transformer(config.transformer)
        self.session = Transformer(config.session) if config.session else None
        hidden = [nn.Linear(width, width), nn.SiLU()] if config.head == "mlp" else []
        self.head = nn.Sequential(*hidden, nn.Linear(width, tasks))
        self.begin()

    def logits(self, hidden: Tensor, item: Tensor) -> Tensor:
        """A logit for each task (..., T) of hidden states (..., D) and the items behind them."""
        out: Tensor = self.head(hidden) + self.bias(item)
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T); those of padding mean nothing."""
        event, candidate = self.tokens(batch)
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
