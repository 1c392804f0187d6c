"""The scorer's network: sparse embeddings, dense features and a transformer over the history meet in cross layers.

    x_i       = W[i] + mean over its categories of C[g]                    an item
    event     = E x_i + R actions + r + G[gap before it]                   what happened, and how the user responded
    candidate = P x_i + p
    h_1..h_L, h_c = transformer(event_1..event_L, candidate)               append: the candidate after the history
    h_1..h_L      = transformer(A event_l + B candidate + f)               concat: the candidate joined to each event
    s  = [U[user], features of the request, last k of h_l, max over l of h_l]
    c  = [W[i], mean of C[g], features of the candidate, h_c]
    x0 = [s, c],   x_{n+1} = x0 * (W_n x_n + b_n) + x_n,   logit_t = w_t . mlp(x) + b_t

With concat the outputs of the history depend on the candidate: they stand in c, and there is no h_c.

Everything in s is the same for all candidates of a request, and so are its columns of the first cross layer:

    W_0 x0 + b_0 = (W_0s s + b_0) + W_0c c,

of which `Head.shared` computes the bracket once. W and U start at zero: an item that training never met is known by its
categories alone, and so is a new user by her history.
"""

# Shapes: B sessions of a batch, L events (padded), N candidates (padded), T tasks, F features, I items, A slots of
# categories, D width, V width of an item's vector, S and C widths of s and c.

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.configuration import check, setting
from models.common.transformer import Transformer, TransformerConfig
from models.feed.events.calibrated import Calibrated
from models.feed.events.catalogue import GAPS, Catalogue
from models.feed.events.features import FEATURES
from models.feed.history.inputs import OF_CANDIDATE, OF_REQUEST, Standard

Form = Literal["append", "append with self key", "concat"]


def _transformer() -> TransformerConfig:
    return TransformerConfig(width=32, heads=2, layers=2, multiplier=2, dropout=0.1)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the network, and how history and candidate meet."""

    form: Form = setting(
        "append",
        "Form",
        "append: the candidate asks the history, once computed for all candidates; with self key: it sees itself too; "
        "concat: it is joined to each event, and the history is computed again for each candidate.",
    )
    transformer: TransformerConfig = setting(
        _transformer, "Transformer", "Blocks over the history; whether a candidate sees itself follows from the form."
    )
    item_width: int = setting(
        16, "Width of embeddings", "Numbers in the embedding of an item, a category and a user, 1 to 4096.",
        ge=1, le=4096,
    )  # fmt: skip
    history: int = setting(
        128, "History", "Most events of a user before the session that are seen, 1 to 100000.", ge=1, le=100_000
    )
    stride: int = setting(
        32,
        "Stride",
        "The oldest event that is seen moves by so many at a time, 1 to history; in between a kept history is "
        "extended instead of computed anew.",
        ge=1,
        le=100_000,
    )
    last: int = setting(
        2, "Last outputs", "Outputs at so many last events of the history join the other features, 0 to 64.",
        ge=0, le=64,
    )  # fmt: skip
    cross: int = setting(2, "Cross layers", "How often features are multiplied with one another, 0 to 16.", ge=0, le=16)
    rank: int = setting(
        0, "Rank of cross layers", "Rank of a cross layer's matrix, 0 to 65536; 0: full.", ge=0, le=65536
    )
    hidden: int = setting(64, "Hidden units", "Width of the layers after the cross layers, 1 to 65536.", ge=1, le=65536)
    depth: int = setting(2, "Hidden layers", "Layers after the cross layers, 0 to 16.", ge=0, le=16)
    forgetting: float = setting(
        0.1,
        "Forgetting of identities",
        "Share of items and of users that a training step sees without their own embedding, 0 to 0.9; what else is "
        "known, categories, features and history, then has to do.",
        ge=0,
        le=0.9,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.stride > self.history:
            raise ValueError(
                f"NetworkConfig.stride must be at most history, got {self.stride} and {self.history}; lower stride."
            )
        if self.transformer.window:
            raise ValueError(
                f"NetworkConfig.transformer.window must be 0, got {self.transformer.window}: what the history "
                f"contributes is pooled over all events that are seen; bound them by history instead."
            )

    @property
    def fused(self) -> bool:
        """Whether the history's outputs depend on the candidate."""
        return self.form == "concat"

    @property
    def blocks(self) -> TransformerConfig:
        """The transformer of this form."""
        return replace(self.transformer, self_key=self.form == "append with self key")

    @property
    def pooled(self) -> int:
        """Numbers that the history contributes: its last outputs and their maximum."""
        return (self.last + 1) * self.transformer.width


class Batch(NamedTuple):
    """Sessions of a step: a user's events, and after them what the session shows.

    Attributes:
        event_item: (B, L) items of the events, oldest first, flush left; L is at least 1.
        event_action: (B, L, T) responses to them.
        event_gap: (B, L) codes of gaps.
        length: (B) events.
        user: (B) users.
        item: (B, N) candidates; padding at the end.
        feature: (B, N, F) features in standard units.
        label: (B, N, T) responses.
        weight: (B, N) 1 for candidates, 0 for padding.
        catalogue: categories of all items.
    """

    event_item: Tensor
    event_action: Tensor
    event_gap: Tensor
    length: Tensor
    user: Tensor
    item: Tensor
    feature: Tensor
    label: Tensor
    weight: Tensor
    catalogue: Catalogue


class Cross(nn.Module):
    """x0 * (W x + b) + x; with a rank, W is the product of two narrow matrices.

    Args:
        width: numbers in x0.
        rank: of W; 0: full.

    Source:
        Wang et al. 2021, "DCN V2", equations 1 and 2.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, rank, bias=False) if rank else None
        self.outward = nn.Linear(rank or width, width)

    def forward(self, first: Tensor, now: Tensor) -> Tensor:
        """(..., width)."""
        out: Tensor = first * self.outward(now if self.inward is None else self.inward(now)) + now
        return out


class Shared(NamedTuple):
    """What a head keeps of a request: s (S), and what it adds to the first product of matrices."""

    vector: Tensor
    part: Tensor


class Head(nn.Module):
    """Cross layers, hidden layers and a logit for each task.

    Args:
        shared: S.
        own: C.
        tasks: T.
        config: sizes.

    Source:
        Wang et al. 2021, "DCN V2", stacked; the split of the first layer is ours.
    """

    def __init__(self, shared: int, own: int, tasks: int, config: NetworkConfig) -> None:
        super().__init__()
        self.split = shared
        width = shared + own
        self.cross = nn.ModuleList(Cross(width, config.rank) for _ in range(config.cross))
        sizes = [width] + [config.hidden] * config.depth
        self.hidden = nn.ModuleList(nn.Linear(above, below) for above, below in pairwise(sizes))
        self.tasks = nn.Linear(sizes[-1], tasks)

    def forward(self, shared: Tensor, own: Tensor) -> Tensor:
        """Logits (..., T) of s (..., S) and c (..., C)."""
        first = torch.cat((shared, own), dim=-1)
        now = first
        for cross in self._crosses():
            now = cross(first, now)
        return self._after(now)

    def shared(self, vector_S: Tensor) -> Shared:
        """What can be computed of a request before its candidates are known."""
        layer = next(self._crosses(), None)
        if layer is None:
            return Shared(vector_S, vector_S[:0])
        if layer.inward is not None:
            return Shared(vector_S, functional.linear(vector_S, layer.inward.weight[:, : self.split]))
        weight = layer.outward.weight[:, : self.split]
        return Shared(vector_S, functional.linear(vector_S, weight, layer.outward.bias))

    def candidates(self, shared: Shared, own_NC: Tensor) -> Tensor:
        """Logits (N, T) of candidates of one request; those of `forward`, up to the order of a sum."""
        first = torch.cat((shared.vector.expand(len(own_NC), -1), own_NC), dim=1)
        now = first
        for number, cross in enumerate(self._crosses()):
            if number:
                now = cross(first, now)
            elif cross.inward is None:
                product = torch.addmm(shared.part, own_NC, cross.outward.weight[:, self.split :].T)
                now = torch.addcmul(first, first, product)
            else:
                narrow = torch.addmm(shared.part, own_NC, cross.inward.weight[:, self.split :].T)
                now = torch.addcmul(first, first, cross.outward(narrow))
        return self._after(now)

    def _crosses(self) -> Iterator[Cross]:
        for cross in self.cross:
            assert isinstance(cross, Cross)  # noqa: S101 - for the type checker
            yield cross

    def _after(self, now: Tensor) -> Tensor:
        for layer in self.hidden:
            now = functional.relu(layer(now))
        out: Tensor = self.tasks(now)
        return out


class DLRM(Calibrated):
    """A deep learning recommendation model with a transformer over the user's history.

    Args:
        users: number of users.
        items: number of items.
        categories: number of categories.
        tasks: number of tasks.
        config: sizes.

    Source:
        "Efficient user history modeling with amortized inference for deep learning recommendation models" (arXiv
        2412.06924): the forms, and cross layers with several tasks above them. Last outputs and a maximum over the
        history: TransAct (Xia et al. 2023, arXiv 2306.00248), section 3.3. The zero start, the gaps and the counting
        features are ours.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, *, users: int, items: int, categories: int, tasks: int, config: NetworkConfig) -> None:
        super().__init__(tasks)
        self.config = config
        width, inner = config.transformer.width, config.item_width
        self.items = nn.Embedding(items, inner)
        self.categories = nn.Embedding(max(categories, 1), inner)
        self.users = nn.Embedding(users, inner)
        self.event = nn.Linear(inner, width, bias=False)
        self.response = nn.Linear(tasks, width)
        self.gap = nn.Embedding(GAPS, width)
        self.candidate = nn.Linear(inner, width)
        self.fuse = nn.Linear(2 * width, width) if config.fused else None
        self.transformer = Transformer(config.blocks)
        shared, own = inner + len(OF_REQUEST), 2 * inner + len(OF_CANDIDATE)
        if config.fused:
            own += config.pooled
        else:
            shared, own = shared + config.pooled, own + width
        self.head = Head(shared, own, tasks, config)
        for table in (self.categories, self.gap):
            nn.init.normal_(table.weight, std=table.weight.shape[1] ** -0.5)
        nn.init.zeros_(self.items.weight)
        nn.init.zeros_(self.users.weight)
        self.register_buffer("mean", torch.zeros(len(FEATURES), dtype=torch.float64))
        self.register_buffer("scale", torch.ones(len(FEATURES), dtype=torch.float64))

    def item_parts(self, item_Q: Tensor, catalogue: Catalogue) -> Tensor:
        """Own embeddings of items and the means of their categories', beside one another (Q, 2 V)."""
        own_QV = self._remembered(self.items(item_Q))
        if not catalogue.codes.shape[1]:
            return torch.cat((own_QV, torch.zeros_like(own_QV)), dim=1)
        told_QAV = self.categories(catalogue.codes[item_Q])
        return torch.cat((own_QV, (catalogue.weights[item_Q].unsqueeze(-1) * told_QAV).sum(1)), dim=1)

    def user_vectors(self, user_B: Tensor) -> Tensor:
        """Embeddings of users (B, V)."""
        return self._remembered(self.users(user_B))

    def event_tokens(self, vector: Tensor, action: Tensor, gap: Tensor) -> Tensor:
        """Tokens of events (..., D) from E x of their items, responses and gaps."""
        out: Tensor = vector + self.response(action) + self.gap(gap)
        return out

    def fused(self, event_LD: Tensor, length: int, candidate_ND: Tensor) -> Tensor:
        """What the history contributes to each candidate when it is computed for each (N, (k + 1) D)."""
        return self._fuse(
            event_LD.unsqueeze(0).expand(len(candidate_ND), -1, -1),
            torch.full((len(candidate_ND),), length),
            candidate_ND,
        )

    def _fuse(self, event_NLD: Tensor, length_N: Tensor, candidate_ND: Tensor) -> Tensor:
        assert self.fuse is not None  # noqa: S101 - for the type checker
        width = event_NLD.shape[2]
        joined_NLD = functional.linear(event_NLD, self.fuse.weight[:, :width], self.fuse.bias)
        joined_NLD = joined_NLD + functional.linear(candidate_ND, self.fuse.weight[:, width:]).unsqueeze(1)
        return pool(self.transformer(joined_NLD, length_N).history, length_N, self.config.last)

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T); those of padding mean nothing."""
        size, length = batch.event_item.shape
        count = batch.item.shape[1]
        known, place = torch.unique(torch.cat((batch.event_item, batch.item), dim=1), return_inverse=True)
        parts = self.item_parts(known, batch.catalogue)
        whole = sum(parts.chunk(2, dim=1))
        event = self.event_tokens(
            functional.embedding(place[:, :length], self.event(whole)), batch.event_action, batch.event_gap
        )
        candidate = functional.embedding(place[:, length:], self.candidate(whole))
        request = [self.user_vectors(batch.user), batch.feature[:, 0, OF_REQUEST]]
        own = [functional.embedding(place[:, length:], parts), batch.feature[:, :, OF_CANDIDATE]]
        if self.config.fused:
            pooled = self._fuse(
                event.repeat_interleave(count, dim=0),
                batch.length.repeat_interleave(count),
                candidate.reshape(size * count, -1),
            )
            own.append(pooled.view(size, count, -1))
        else:
            hidden = self.transformer(event, batch.length, candidate)
            request.append(pool(hidden.history, batch.length, self.config.last))
            own.append(hidden.candidates)
        shared = torch.cat(request, dim=1).unsqueeze(1).expand(-1, count, -1)
        out: Tensor = self.head(shared, torch.cat(own, dim=2))
        return out

    def _remembered(self, vector: Tensor) -> Tensor:
        if not (self.training and self.config.forgetting):
            return vector
        return vector * (torch.rand(len(vector), 1, device=vector.device) >= self.config.forgetting)

    def keep(self, standard: Standard) -> None:
        """Keep what puts features into standard units, so that it travels with the weights."""
        self.mean.copy_(torch.from_numpy(standard.mean))
        self.scale.copy_(torch.from_numpy(standard.scale))

    @property
    def standard(self) -> Standard:
        """What puts features into standard units."""
        return Standard(mean=self.mean.cpu().numpy(), scale=self.scale.cpu().numpy())


def pool(hidden_BLD: Tensor, length_B: Tensor, last: int) -> Tensor:
    """Outputs at the last events, the latest first, then the maximum over all events; zeros where there are none.

    Args:
        hidden_BLD: outputs of the history, flush left; L is at least 1.
        length_B: how many are of events.
        last: k.

    Returns:
        (B, (k + 1) D).

    Source:
        TransAct (Xia et al. 2023), section 3.3.
    """
    place_Bk = length_B.unsqueeze(1) - 1 - torch.arange(last, device=length_B.device)
    index_Bk1 = place_Bk.clamp_min(0).unsqueeze(2)
    last_BkD = torch.take_along_dim(hidden_BLD, index_Bk1, dim=1) * (place_Bk >= 0).unsqueeze(2)
    there_BL1 = (torch.arange(hidden_BLD.shape[1], device=length_B.device) < length_B.unsqueeze(1)).unsqueeze(2)
    most_BD = hidden_BLD.masked_fill(~there_BL1, -torch.inf).amax(1)
    most_BD = torch.where(length_B.unsqueeze(1) > 0, most_BD, torch.zeros_like(most_BD))
    return torch.cat((last_BkD.flatten(1), most_BD), dim=1)
