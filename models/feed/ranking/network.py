"""The ranker's network: the gated transformer over events and candidates, a head for each task, calibration.

    logit_t    = head_t(company(session(transformer(history, candidates)))) + b_t[i] + a_t . rates
    chance_t   = step_t(logit_t)                                       isotonic, fitted on the validation part

`transformer` shows a candidate the history and itself, `session` the candidates of its session and itself, and
`company` tells it how many of these are like it. Tokens of events and candidates are those of `scorer`. Where
candidates are told rates, as log-odds, they are in the token, each times a vector, and in the logit besides, with
weights that begin at one for the main task, at zero for others.
"""

# Shapes: B rows of a batch, L events (padded), N candidates (padded), D width, T tasks, F numbers of a candidate.

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.common.configuration import check, setting
from models.common.transformer import Transformer, TransformerConfig
from models.feed.events.catalogue import Catalogue
from models.feed.ranking.company import Company
from models.feed.ranking.counts import Counter, Rates
from models.feed.ranking.scorer import TokenScorer

RATE_STD = 0.3
"""How much of a token a rate is at the start, relative to an embedding."""


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
    company: int = setting(
        0,
        "Ways of company",
        "In how many ways a candidate is told how many others of its session are like it, 0 to 64; 0: it is not told. "
        "Without set-wise there are none.",
        ge=0,
        le=64,
    )
    user: bool = setting(False, "User", "Whether a candidate is told who the user is, besides her history.")
    hour: bool = setting(True, "Hour", "Whether events and candidates are told the hour of the day.")
    rate_days: int = setting(
        0,
        "Days of the rate",
        "A candidate is told the rate of its item's events, whoever's, in so many days before the session, 0 to "
        "100000; 0: it is not told. With it, leave ObjectiveConfig.smoothing at 0: both would count the same.",
        ge=0,
        le=100_000,
    )
    user_rate: bool = setting(
        False, "Rate of the user", "Whether a candidate is told the rate of all the user's events before the session."
    )
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
    def rates(self) -> int:
        """How many rates a candidate is told."""
        return (self.rate_days > 0) + self.user_rate

    @property
    def ways(self) -> int:
        """In how many ways candidates know their company."""
        return self.company if self.setwise else 0

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
        counts: (B, N, F) what is counted of the candidates; (B, N, 0) for a network that asks for nothing.
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
        self.rate, self.odds = None, None
        if config.rates:
            self.rate = nn.Linear(config.rates, width, bias=False)
            nn.init.normal_(self.rate.weight, std=RATE_STD * width**-0.5)
            self.odds = nn.Linear(config.rates, tasks, bias=False)
            nn.init.zeros_(self.odds.weight)
            nn.init.ones_(self.odds.weight[0])
        self.company = Company(width, config.ways) if config.ways else None

    @classmethod
    def counter(cls, config: NetworkConfig) -> Counter | None:
        """The rates that are told."""
        return Rates(config.rate_days, config.user_rate) if config.rates else None

    def rated(self, token: Tensor, rate: Tensor | None) -> Tensor:
        """Tokens of candidates (..., D) that are told log-odds of rates (..., F) too, where the network is."""
        return token if self.rate is None else token + self.rate(rate)

    def logits(self, hidden: Tensor, item: Tensor, rate: Tensor | None) -> Tensor:
        """A logit for each task (..., T) of hidden states (..., D), the items behind them and the rates (..., F)."""
        out: Tensor = self.head(hidden) + self.bias(item)
        return out if self.odds is None or rate is None else out + self.odds(rate)

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T); those of padding mean nothing."""
        of_event, of_candidate = self.vectors(batch)
        event, candidate = self.tokens_of(batch, of_event, of_candidate)
        candidate = self.rated(candidate, batch.counts)
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
        if self.company is not None:
            hidden = self.company(hidden, of_candidate, batch.session)
        return self.logits(hidden, batch.item, batch.counts)
