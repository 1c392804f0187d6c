"""What the ranker is compared with, trained by the same flow on the same data, judged by the same judge.

    logistic    logit = w f + b                                                f counting features
    dcnv2       x_{l+1} = x_0 * (W_l x_l + b_l) + x_l,  logit = w [x_L, mlp(x_0)] + b_i
    din         u = sum_s a(e_s, c) e_s,                logit = mlp(u, c, u * c) + b_i
    sasrec      logit = (V h_t) c / sqrt(D) + b_i,      h causal attention over the history, blind to the candidate
    hstu        A = silu(Q K' + rab) / n,  h <- h + (norm(A V) * U) O,  U, V, Q, K = silu(norm(h) I)

The first two see no history, the last three see what LiGR sees and no counts. All score each candidate alone. Nothing
is normalised over a batch, and padding is never seen, so a score does not depend on the company of its batch.
"""

# Shapes: B rows of a batch, L events (padded), N candidates (padded), T tasks, D width, H heads, E width of a head,
# F counting features, X width of what is crossed, Y hidden width of an attention.

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.attention import Attention, Sight, rotation
from models.common.transformer import TransformerConfig
from models.feed.ranking.counts import COUNTS, Counter, Features
from models.feed.ranking.network import Batch, NetworkConfig
from models.feed.ranking.scorer import Scorer, TokenScorer

DISTANCES = 20
"""Biases of an HSTU block by distance: one for each doubling, the last for 2^18 events and more."""


class Logistic(Scorer):
    """Logistic regression on counting features.

    Args:
        tasks: number of tasks.
        config: sizes; none is used.
        others: numbers of users, items and categories, which do not matter here.

    Source:
        Cox 1958, "The regression analysis of binary sequences"; counted rates as features, as in Richardson et al.
        2007, "Predicting clicks".
    """

    @classmethod
    def counter(cls, config: NetworkConfig) -> Counter | None:
        """All counting features."""
        return Features()

    def __init__(self, *, tasks: int, config: NetworkConfig, **others: int) -> None:
        super().__init__(tasks, config)
        self.linear = nn.Linear(COUNTS, tasks)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T)."""
        out: Tensor = self.linear(batch.counts)
        return out


class CrossLayer(nn.Module):
    """x_0 * (W x + b) + x.

    Source:
        Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
        Systems", equation 1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, width)

    def forward(self, first_X: Tensor, value_X: Tensor) -> Tensor:
        """(..., X) from the first value and the one before."""
        out: Tensor = first_X * self.inward(value_X) + value_X
        return out


class CrossNetwork(TokenScorer):
    """DCNv2, cross and deep part side by side, over identity, categories, moment and counting features.

    Cross layers: `layers`. Hidden layers: `multiplier` times `width`, then `width`.

    Args:
        users: number of users.
        items: number of items.
        categories: number of categories.
        tasks: number of tasks.
        config: sizes.

    Source:
        As `CrossLayer`, section 3.3, "parallel structure". The production ranker before LiGR is of this kind (Borisyuk
        et al. 2024, "LiRank").
    """

    @classmethod
    def counter(cls, config: NetworkConfig) -> Counter | None:
        """All counting features."""
        return Features()

    def __init__(self, *, users: int, items: int, categories: int, tasks: int, config: NetworkConfig) -> None:
        super().__init__(users=users, items=items, categories=categories, tasks=tasks, config=config)
        block = config.transformer
        crossed = 2 * block.width + COUNTS
        self.cross = nn.ModuleList(CrossLayer(crossed) for _ in range(block.layers))
        self.deep = nn.Sequential(
            nn.Linear(crossed, block.inner_width),
            nn.ReLU(),
            nn.Dropout(block.dropout),
            nn.Linear(block.inner_width, block.width),
            nn.ReLU(),
            nn.Dropout(block.dropout),
        )
        self.head = nn.Linear(crossed + block.width, tasks)
        self.begin()
        # no history is read: weights without a gradient would be dead, and training by several processes refuses them
        del self.response, self.event_gap, self.event_hour

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T)."""
        known, place = torch.unique(batch.item, return_inverse=True)
        vector = functional.embedding(place, self.item_vectors(known, batch.catalogue))
        moment = self.candidate_tokens(torch.zeros_like(vector), batch.gap, batch.hour, batch.user.unsqueeze(1))
        first = torch.cat((vector, moment, batch.counts), dim=-1)
        crossed = first
        for layer in self.cross:
            crossed = layer(first, crossed)
        out: Tensor = self.head(torch.cat((crossed, self.deep(first)), dim=-1)) + self.bias(batch.item)
        return out


class InterestNetwork(TokenScorer):
    """DIN: the history is summed with weights that depend on the candidate.

    The weight of an event is a hidden layer of `width` over (event, candidate, event - candidate, event * candidate),
    without a softmax, so that the sum says how strong an interest is. Its activation is PReLU: the Dice of the paper
    shifts by mean and variance of the batch, and a score would depend on who else is in it.

    Args:
        users: number of users.
        items: number of items.
        categories: number of categories.
        tasks: number of tasks.
        config: sizes.

    Source:
        Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction", section 4.3; the difference and
        the product are from its code.
    """

    def __init__(self, *, users: int, items: int, categories: int, tasks: int, config: NetworkConfig) -> None:
        super().__init__(users=users, items=items, categories=categories, tasks=tasks, config=config)
        width = config.transformer.width
        hidden = max(4, width // 2)
        self.weigh = nn.Linear(4 * width, hidden)
        self.weigh_turn = nn.PReLU()
        self.weight = nn.Linear(hidden, 1)
        self.tower = nn.Linear(3 * width, width)
        self.tower_turn = nn.PReLU()
        self.dropout = nn.Dropout(config.transformer.dropout)
        self.head = nn.Linear(width, tasks)
        nn.init.normal_(self.weight.weight, std=0.1 * hidden**-0.5)
        self.begin()

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T)."""
        event, candidate = self.tokens(batch)
        seen = torch.arange(event.shape[1], device=event.device) < batch.seen.unsqueeze(-1)
        interest = self.weights(event, candidate).masked_fill(~seen, 0) @ event
        tower = self.tower_turn(self.tower(torch.cat((interest, candidate, interest * candidate), dim=-1)))
        out: Tensor = self.head(self.dropout(tower)) + self.bias(batch.item)
        return out

    def weights(self, event_BLD: Tensor, candidate_BND: Tensor) -> Tensor:
        """What each event weighs for each candidate (B, N, L).

        The hidden layer is taken apart, W (e, c, e - c, e * c) = (W1 + W3) e + (W2 - W3) c + (W4 * c) e, so that the
        four parts of all pairs are never held.
        """
        of_event, of_candidate, of_difference, of_product = self.weigh.weight.chunk(4, dim=1)
        pair_BNYD = candidate_BND.unsqueeze(2) * of_product
        hidden_BNLY = torch.einsum("bld,bnyd->bnly", event_BLD, pair_BNYD)
        hidden_BNLY = hidden_BNLY + functional.linear(event_BLD, of_event + of_difference).unsqueeze(1)
        of_candidate_BNY = functional.linear(candidate_BND, of_candidate - of_difference, self.weigh.bias)
        out: Tensor = self.weight(self.weigh_turn(hidden_BNLY + of_candidate_BNY.unsqueeze(2))).squeeze(-1)
        return out


class SasBlock(nn.Module):
    """Causal attention, then one hidden layer with ReLU, each added to the stream after a norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.norm = nn.LayerNorm(config.width)
        self.inward = nn.Linear(config.width, config.width)
        self.outward = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_BTD: Tensor, sight: Sight) -> Tensor:
        """The stream after the block (B, T, D)."""
        token_BTD = token_BTD + self.dropout(self.attention(self.attention_norm(token_BTD), sight))
        hidden = torch.relu(self.inward(self.norm(token_BTD)))
        out: Tensor = token_BTD + self.dropout(self.outward(hidden))
        return out


class SasRec(TokenScorer):
    """The history becomes one vector, whatever the candidate, and meets it in an inner product.

    A token of its own stands before the history, so that an empty one has a vector too. Order is told by rotary
    positions, as to LiGR, and responses, gaps and hours are part of the tokens.

    Args:
        users: number of users.
        items: number of items.
        categories: number of categories.
        tasks: number of tasks.
        config: sizes.

    Source:
        Kang & McAuley 2018, "Self-attentive sequential recommendation", section III; norm before the branches and the
        objective of impressions are ours, as for all here.
    """

    def __init__(self, *, users: int, items: int, categories: int, tasks: int, config: NetworkConfig) -> None:
        super().__init__(users=users, items=items, categories=categories, tasks=tasks, config=config)
        block = config.transformer
        self.opening = nn.Parameter(torch.randn(block.width) * block.width**-0.5)
        self.blocks = nn.ModuleList(SasBlock(block) for _ in range(block.layers))
        self.norm = nn.LayerNorm(block.width)
        self.ask = nn.Linear(block.width, tasks * block.width)
        nn.init.normal_(self.ask.weight, std=block.width**-0.5)
        self.begin()

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T)."""
        event, candidate = self.tokens(batch)
        state = torch.take_along_dim(self.states(event), batch.seen.unsqueeze(-1), dim=1)
        asked_BNTD = self.ask(state).view(*candidate.shape[:2], -1, candidate.shape[-1])
        met = (asked_BNTD * candidate.unsqueeze(2)).sum(-1) / candidate.shape[-1] ** 0.5
        out: Tensor = met + self.bias(batch.item)
        return out

    def states(self, event_BLD: Tensor) -> Tensor:
        """What is known before any event, after one, and so on (B, L + 1, D)."""
        batch, length, width = event_BLD.shape
        token = torch.cat((self.opening.expand(batch, 1, width), event_BLD), dim=1)
        position = torch.arange(length + 1, device=token.device)[None, None]
        turned = rotation(position, self.config.transformer.head_width, dtype=token.dtype)
        nobody = torch.zeros(batch, 0, length + 1, dtype=torch.bool, device=token.device)
        sight = Sight(length=length + 1, rotation=turned, events=None, candidates=nobody)
        for block in self.blocks:
            token = block(token, sight)
        out: Tensor = self.norm(token)
        return out


class HstuBlock(nn.Module):
    """Attention without softmax, gated, without a feed-forward part.

        U, V, Q, K = silu(norm(h) I),   A = silu(Q K' + rab) / n,   h + (norm(A V) * U) O

    n is how many tokens are seen. The published code divides by the padded length, and a score would depend on who else
    is in the batch. rab is a bias by distance alone; gaps in time are told by the tokens, as to LiGR.

    Args:
        config: sizes.

    Source:
        Zhai et al. 2024, "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
        Recommendations" (arXiv 2402.17152), equations 1 to 3.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.inward = nn.Linear(config.width, 4 * config.width, bias=False)
        self.distance = nn.Parameter(torch.zeros(DISTANCES, config.heads))
        self.gathered_norm = nn.LayerNorm(config.width)
        self.outward = nn.Linear(config.width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_BTD: Tensor, seen_BN: Tensor) -> Tensor:
        """The stream after the block (B, L + N, D) of events and candidates, which see `seen_BN` events each."""
        split = functional.silu(self.inward(self.norm(token_BTD))).chunk(4, dim=-1)
        gate_BTD, value, query, key = split
        by_head = (*token_BTD.shape[:2], self.heads, -1)
        value, query, key = (part.view(by_head).transpose(1, 2) for part in (value, query, key))
        gathered_BHTE = self._attend(query, key, value, seen_BN)
        mixed = self.gathered_norm(gathered_BHTE.transpose(1, 2).flatten(2)) * gate_BTD
        out: Tensor = token_BTD + self.dropout(self.outward(mixed))
        return out

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, seen_BN: Tensor) -> Tensor:
        length = query.shape[2] - seen_BN.shape[1]
        place = torch.arange(length, device=query.device)
        of_event, event = key[:, :, :length], value[:, :, :length]
        causal = place[:, None] >= place
        near = self.distance[codes_of(place[:, None] - place)].permute(2, 0, 1)
        weight = functional.silu(query[:, :, :length] @ of_event.transpose(-1, -2) + near)
        among = (weight * (causal / (1 + place[:, None]))) @ event
        asked, own, itself = (part[:, :, length:] for part in (query, key, value))
        far = self.distance[codes_of(seen_BN.unsqueeze(-1) - place)].permute(0, 3, 1, 2)
        weight = functional.silu(asked @ of_event.transpose(-1, -2) + far)
        count = 1 + seen_BN.unsqueeze(-1)
        looked = (weight * ((place < seen_BN.unsqueeze(-1)) / count).unsqueeze(1)) @ event
        alone = functional.silu((asked * own).sum(-1, keepdim=True) + self.distance[0][:, None, None]) * itself
        return torch.cat((among, looked + alone / count.unsqueeze(1)), dim=2)


class Hstu(TokenScorer):
    """Blocks of HSTU over history and candidates; a candidate sees the history before its session and itself.

    Args:
        users: number of users.
        items: number of items.
        categories: number of categories.
        tasks: number of tasks.
        config: sizes.

    Source:
        As `HstuBlock`; who sees whom: its section 3.4, M-FALCON.
    """

    def __init__(self, *, users: int, items: int, categories: int, tasks: int, config: NetworkConfig) -> None:
        super().__init__(users=users, items=items, categories=categories, tasks=tasks, config=config)
        block = config.transformer
        self.blocks = nn.ModuleList(HstuBlock(block) for _ in range(block.layers))
        self.norm = nn.LayerNorm(block.width)
        self.head = nn.Linear(block.width, tasks)
        self.begin()

    def forward(self, batch: Batch) -> Tensor:
        """Logits of all candidates (B, N, T)."""
        event, candidate = self.tokens(batch)
        token = torch.cat((event, candidate), dim=1)
        for block in self.blocks:
            token = block(token, batch.seen)
        out: Tensor = self.head(self.norm(token[:, event.shape[1] :])) + self.bias(batch.item)
        return out


def codes_of(distance: Tensor) -> Tensor:
    """floor(log2(1 + distance)), at most `DISTANCES` - 1; 0 for what lies ahead."""
    # frexp is exact, and a logarithm in floating point need not be
    exponent = torch.frexp((1 + distance.clamp_min(0)).double()).exponent
    return (exponent - 1).long().clamp_max(DISTANCES - 1)


BASELINES: dict[str, Any] = {
    "logistic": Logistic,
    "dcnv2": CrossNetwork,
    "din": InterestNetwork,
    "sasrec": SasRec,
    "hstu": Hstu,
}
"""Networks by the name of `RankerConfig.model`."""
