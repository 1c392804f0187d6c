"""What the rankers of this system have in common, whatever they do between: embeddings, tokens, a bias of items.

    x_i       = W[i] + mean over its categories of C[g]                      an item
    event     = P x_i + R actions + r + G[gap] + H[hour]                     what happened, and how the user responded
    candidate = P x_i + c + G'[gap of the session] + H'[hour] + U[user]

W and U start at zero, and so does the bias b, unless it begins at counted rates (`RankerConfig.start`): an item that
training never met is known by its categories alone, and a new user by her history.
"""

# Shapes: B rows of a batch, L events (padded), N candidates (padded), Q items asked for, D width, V width of an item's
# vector, T tasks, A slots of categories.

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.feed.events.calibrated import Calibrated
from models.feed.events.catalogue import GAPS, Catalogue
from models.feed.ranking.counts import Counter
from models.feed.ranking.inputs import HOURS

if TYPE_CHECKING:
    from models.feed.ranking.network import Batch, NetworkConfig


class Scorer(Calibrated):
    """A network that scores candidates, and carries its calibration.

    Attributes:
        config: its sizes.

    Args:
        tasks: number of tasks.
        config: sizes.

    Source:
        Ours.
    """

    def __init__(self, tasks: int, config: "NetworkConfig") -> None:
        super().__init__(tasks)
        self.config = config

    @classmethod
    def counter(cls, config: "NetworkConfig") -> Counter | None:
        """What it asks to have counted of candidates; None for nothing."""
        return None

    def forward(self, batch: "Batch") -> Tensor:
        """Logits of all candidates (B, N, T); those of padding mean nothing."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it scores.")

    def identities(self, *, bias: bool = True) -> list[Tensor]:
        """Tables of what belongs to one item or to one user alone, with or without the bias of items."""
        return []


class TokenScorer(Scorer):
    """A scorer with embeddings of items, categories, responses, gaps and hours, and a bias of each item.

    A subclass makes its own parts after those of this class, and then calls `begin`.

    Args:
        users: number of users.
        items: number of items.
        categories: number of categories.
        tasks: number of tasks.
        config: sizes.

    Source:
        Kinds of inputs: LiGR (arXiv 2502.03417), table 2. Time, hour and the zero start are ours.
    """

    def __init__(self, *, users: int, items: int, categories: int, tasks: int, config: "NetworkConfig") -> None:
        super().__init__(tasks, config)
        width, inner = config.transformer.width, config.item_width
        self.items = nn.Embedding(items, inner)
        self.categories = nn.Embedding(categories, inner) if categories else None
        self.users = nn.Embedding(users, width) if config.user else None
        self.project = nn.Linear(inner, width, bias=False)
        self.response = nn.Linear(tasks, width)
        self.candidate = nn.Parameter(torch.zeros(width))
        self.event_gap = nn.Embedding(GAPS, width)
        self.event_hour = nn.Embedding(HOURS, width) if config.hour else None
        self.gap = nn.Embedding(GAPS, width)
        self.hour = nn.Embedding(HOURS, width) if config.hour else None

    def begin(self) -> None:
        """Draw and clear the tables, and give each item a bias."""
        for table in (self.categories, self.event_gap, self.event_hour, self.gap, self.hour):
            if table is None:
                continue
            nn.init.normal_(table.weight, std=table.weight.shape[1] ** -0.5)
        self.bias = nn.Embedding(self.items.num_embeddings, len(self.knots))
        nn.init.zeros_(self.items.weight)
        nn.init.zeros_(self.bias.weight)
        if self.users is not None:
            nn.init.zeros_(self.users.weight)

    def identities(self, *, bias: bool = True) -> list[Tensor]:
        """Tables of what belongs to one item or to one user alone, with or without the bias of items."""
        tables = [self.items, *([self.bias] if bias else []), *([] if self.users is None else [self.users])]
        return [table.weight for table in tables]

    def item_vectors(self, item_Q: Tensor, catalogue: Catalogue) -> Tensor:
        """Items in the network's width (Q, D)."""
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
        out: Tensor = vector + self.response(action) + self.event_gap(gap)
        return out if self.event_hour is None else out + self.event_hour(hour)

    def candidate_tokens(self, vector: Tensor, gap: Tensor, hour: Tensor, user: Tensor) -> Tensor:
        """Tokens of candidates (..., D) from vectors of their items, gap and hour of their sessions, and users."""
        out: Tensor = vector + self.candidate + self.gap(gap)
        if self.hour is not None:
            out = out + self.hour(hour)
        if self.users is None:
            return out
        known: Tensor = self.users(user)
        if self.training and self.config.forgetting:
            kept = torch.rand(known.shape[:-1], device=known.device) >= self.config.forgetting
            known = known * kept.unsqueeze(-1)
        return out + known

    def vectors(self, batch: "Batch") -> tuple[Tensor, Tensor]:
        """Vectors of the items of all events (B, L, D) and of all candidates (B, N, D) of a batch."""
        there = torch.cat((batch.event_item, batch.item), dim=1)
        known, place = torch.unique(there, return_inverse=True)
        vector = functional.embedding(place, self.item_vectors(known, batch.catalogue))
        length = batch.event_item.shape[1]
        return vector[:, :length], vector[:, length:]

    def tokens_of(self, batch: "Batch", of_event: Tensor, of_candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of events (B, L, D) and candidates (B, N, D) from the vectors of their items."""
        event = self.event_tokens(of_event, batch.event_action, batch.event_gap, batch.event_hour)
        return event, self.candidate_tokens(of_candidate, batch.gap, batch.hour, batch.user.unsqueeze(1))

    def tokens(self, batch: "Batch") -> tuple[Tensor, Tensor]:
        """Tokens of all events (B, L, D) and of all candidates (B, N, D) of a batch."""
        return self.tokens_of(batch, *self.vectors(batch))
