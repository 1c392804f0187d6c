"""Learned similarities: several embeddings of a member and of an item, compared pair by pair and mixed by a gate.

    phi(x, u) = sum_pq pi_pq(x, u) delta_pq(x, u),   delta_pq = <f_p(u), g_q(x)> / temperature
    pi(x, u)  = softmax( SiLU( a(u) * b(x) + c(cosines) ) )                    one gate for each pair of components
    f(u)      = tower vector, interests, cluster                               all of length one and of one width
    g(x)      = tower vector, heads of the tower, attributes, cluster
    interest_p(u) = A_p tower(u) + B_p sum_h softmax_h(w_p . x_h) x_h          over the items h of her history

A mean over a history mixes what a member likes; each interest reads the history by an attention of its own.
The cluster of a member or an item is the nearest of some centroids to its tower vector: also one without any history
has a tower vector, and so falls on a cluster. A network begins as two towers compared by their inner product; after
some epochs the items' tower vectors are clustered and the mixture takes over, leaning at first on the pair of tower
vectors.

Everything that a comparison needs of a member or an item lies in one row of numbers, so that rows can be stored, and
indexed, like vectors: components one after another, then the gate's a(u) or b(x), or what else the similarity wants.
"""

# Shapes: B members, C candidates, M items asked for, N items, D width of a component, P components of a member, Q of an
# item, G = PQ pairs, X numbers in a row, K clusters, H hidden width of a gate.

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.common.configuration import check, setting
from models.feed.retrieval.metrics import Compare, inner_product
from models.feed.retrieval.network import Catalogue, TowerConfig, TwoTower, encode_items
from models.feed.retrieval.scan import exact_scores

LEAN = 0.8
"""Weight of the pair of tower vectors in a fresh gate: it begins near the inner product and reaches every pair."""

PRODUCT, PRODUCT_HIDDEN = 50, 10
"""Widths of the Hadamard network (LiNR, section 5.1)."""

KMEANS_ROUNDS = 25
_NUMBERS = 2**24
"""Numbers in one temporary matrix."""

_WIDTH = 64
"""Numbers that one comparison of a member and an item takes, about."""


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig:
    """How a member and an item are compared."""

    kind: Literal["dot", "hadamard", "mixture"] = setting(
        "dot",
        "Kind",
        "dot: inner product of the tower vectors; hadamard: a network over their elementwise product; mixture: a "
        "gated mixture of inner products of several embeddings.",
    )
    tower_epochs: int = setting(
        3, "Epochs of the towers", "Epochs in which the towers learn alone, before clusters are made, 1 to 1000.",
        ge=1, le=1000,
    )  # fmt: skip
    interests: int = setting(
        3,
        "Interests",
        "Embeddings of a member that read her history each by an attention of its own, for a mixture, 0 to 16.",
        ge=0,
        le=16,
    )
    heads: int = setting(
        0, "Heads of items", "Embeddings of an item besides tower vector, attributes and cluster, 0 to 16.", ge=0, le=16
    )
    clusters: int = setting(
        50, "Clusters", "K-means clusters of the items' tower vectors, for a mixture, 0 (none) to 65536.",
        ge=0, le=65536,
    )  # fmt: skip
    frozen: bool = setting(True, "Frozen clusters", "Keep the clusters' embeddings at their centroids, or train them.")
    gate: int = setting(32, "Gate width", "Width of the gate's hidden layers, 1 to 4096.", ge=1, le=4096)
    gate_dropout: float = setting(
        0.1, "Gate dropout", "Share of the gate's weights that is dropped in training, 0 to 0.9.", ge=0, le=0.9
    )
    balance: float = setting(
        0.001, "Load balance", "Weight of the loss that keeps the gate from collapsing on one pair, 0 to 1.", ge=0, le=1
    )

    def __post_init__(self) -> None:
        check(self)

    def network(self, *, users: int, items: int, codes: int, tower: TowerConfig) -> TwoTower:
        """A fresh network of this kind; random state is the caller's.

        Raises:
            ValueError: there are more clusters than items.
        """
        if self.kind == "dot":
            return TwoTower(users=users, items=items, codes=codes, config=tower)
        if self.kind == "hadamard":
            return Hadamard(users=users, items=items, codes=codes, config=tower)
        return MixtureOfLogits(users=users, items=items, codes=codes, config=tower, similarity=self)


class Hadamard(TwoTower):
    """Two towers compared by a network over the elementwise product of their hidden vectors.

        phi(x, u) = cos(u, x) / temperature + MLP( A(u) * B(x) )

    Source:
        LiNR, section 5.1: networks [50] of the member and of the item, elementwise product, network [10, 1]. It starts
        again when the first hundred steps go wrong. Instead we add the product's network to the inner product and let
        its last layer begin at zero, so that a fresh network is the two towers.
    """

    def __init__(self, *, users: int, items: int, codes: int, config: TowerConfig) -> None:
        super().__init__(users=users, items=items, codes=codes, config=config)
        self.user_width = config.dimension + PRODUCT
        self.user_factor = nn.Sequential(nn.Linear(config.dimension, PRODUCT), nn.SiLU())
        self.item_factor = nn.Sequential(nn.Linear(config.dimension, PRODUCT), nn.SiLU())
        last = nn.Linear(PRODUCT_HIDDEN, 1, bias=False)  # a softmax over items does not see what all logits share
        _zero(last)
        self.product = nn.Sequential(nn.Linear(PRODUCT, PRODUCT_HIDDEN), nn.SiLU(), last)

    def user_rows(self, user_B: Tensor, place_BH: Tensor, weight_BH: Tensor, input_MD: Tensor) -> Tensor:
        """Tower vectors and factors of members (B, X)."""
        vector_BD = self.user_vectors(user_B, place_BH, weight_BH, input_MD)
        return torch.cat([vector_BD, self.user_factor(vector_BD)], 1)

    def item_rows(self, item_M: Tensor, input_MD: Tensor, catalogue: Catalogue) -> Tensor:
        """Tower vectors and factors of items (M, X)."""
        vector_MD = self.item_vectors(input_MD)
        return torch.cat([vector_MD, self.item_factor(vector_MD)], 1)

    def compare(self, user_BX: Tensor, item_CX: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C), and no penalty."""
        width = self.items.embedding_dim
        cosine_BC = user_BX[:, :width] @ item_CX[:, :width].T
        product_BC = self.product(user_BX[:, None, width:] * item_CX[None, :, width:])[..., 0]
        return cosine_BC / self.temperature + product_BC, cosine_BC.new_zeros(())


class MixtureOfLogits(TwoTower):
    """Two towers with further embeddings, compared by a gated mixture of inner products; see the module.

    Args:
        users: number of members.
        items: number of items.
        codes: number of attribute codes.
        config: widths and temperature of the towers.
        similarity: components, gate and clusters.

    Raises:
        ValueError: there are more clusters than items.

    Source:
        Mixture of logits: Zhai et al. 2023, "Revisiting Neural Retrieval on Accelerators"; gate, its dropout and its
        balance: Ding & Zhai 2025, "Retrieval with Learned Similarities", and their released configurations; clusters as
        a component: LiNR, sections 3.3 and 5.1; interests by attention: Cen et al. 2020, "Controllable Multi-Interest
        Framework for Recommendation", section 3.2. Ours: the tower vector is a component and the gate begins by leaning
        on it; attributes are a component; components are as wide as the towers.
    """

    started: Tensor
    centroids: Tensor

    def __init__(
        self, *, users: int, items: int, codes: int, config: TowerConfig, similarity: SimilarityConfig
    ) -> None:
        super().__init__(users=users, items=items, codes=codes, config=config)
        if similarity.clusters > items:
            raise ValueError(
                f"SimilarityConfig.clusters must be at most the number of items, got {similarity.clusters} clusters of "
                f"{items} items; lower clusters."
            )
        width, clusters = config.dimension, similarity.clusters
        self._gate_dropout, self._balance = similarity.gate_dropout, similarity.balance
        self.user_components = 1 + similarity.interests + bool(clusters)
        self.item_components = 1 + similarity.heads + 1 + bool(clusters)
        self.pairs = self.user_components * self.item_components
        self.user_width = self.user_components * width + self.pairs
        self.item_width = self.item_components * width + self.pairs
        self.interests = nn.ModuleList([_Interest(width) for _ in range(similarity.interests)])
        self.item_heads = nn.ModuleList([_Head(width, config.hidden or width) for _ in range(similarity.heads)])
        self.item_attributes = nn.Linear(width, width)
        self.user_gate = _gate(width, similarity.gate, self.pairs)
        self.item_gate = _gate(width, similarity.gate, self.pairs)
        self.cross_gate = _gate(self.pairs, similarity.gate, self.pairs)
        _lean(self.cross_gate[-1])
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("centroids", torch.zeros(clusters, width))
        if clusters:
            self.clusters = nn.Embedding(clusters, width, _freeze=similarity.frozen)
            self.user_cluster, self.item_cluster = nn.Linear(width, width), nn.Linear(width, width)

    @torch.no_grad()
    def start(self, catalogue: Catalogue, *, seed: int) -> None:
        """Cluster the items' tower vectors and let the mixture take over from the towers.

        Args:
            catalogue: attributes of all items.
            seed: of the clustering.

        Source:
            LiNR, section 3.3: k-means over embeddings of posts; its settings are not published.
        """
        if len(self.centroids):
            vectors = torch.from_numpy(encode_items(self, catalogue))[:, : self.items.embedding_dim]
            self.centroids.copy_(spherical_kmeans(vectors, len(self.centroids), seed=seed))
            self.clusters.weight.copy_(self.centroids)
        self.started.fill_(True)

    def cluster_of(self, vector_MD: Tensor) -> Tensor:
        """The nearest centroid (M) to each tower vector; of equally near ones the first."""
        return nearest(vector_MD.detach(), self.centroids.to(vector_MD.dtype))

    def user_rows(self, user_B: Tensor, place_BH: Tensor, weight_BH: Tensor, input_MD: Tensor) -> Tensor:
        """Components and gate inputs of members (B, X)."""
        mixed_BD = self.user_inputs(user_B, place_BH, weight_BH, input_MD)
        tower_BD = mixed_BD + self.user_tower(mixed_BD)
        parts = [tower_BD]
        if len(self.interests):
            history_BHD = input_MD[place_BH]
            parts += [interest(tower_BD, history_BHD, weight_BH > 0) for interest in self.interests]
        if len(self.centroids):
            cluster_B = self.cluster_of(functional.normalize(tower_BD, dim=-1))
            parts.append(self.user_cluster(self.clusters(cluster_B)))
        return _row(parts, self.user_gate(tower_BD))

    def item_rows(self, item_M: Tensor, input_MD: Tensor, catalogue: Catalogue) -> Tensor:
        """Components and gate inputs of items (M, X)."""
        tower_MD = input_MD + self.item_tower(input_MD)
        parts = [tower_MD, *(head(tower_MD) for head in self.item_heads)]
        parts.append(self.item_attributes(self.attribute_bags(item_M, catalogue)))
        if len(self.centroids):
            cluster_M = self.cluster_of(functional.normalize(tower_MD, dim=-1))
            parts.append(self.item_cluster(self.clusters(cluster_M)))
        return _row(parts, self.item_gate(tower_MD))

    def compare(self, user_BX: Tensor, item_CX: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of rows of members and of items, and the penalty of an unbalanced gate.

        Args:
            user_BX: of members.
            item_CX: of items that all members are compared with, (C, X), or of each member's own, (B, C, X).

        Returns:
            Logits (B, C) and a scalar. Before `start`, the logits of the towers alone.
        """
        if not self.started:
            width = self.items.embedding_dim
            idle = torch.stack([parameter.sum() for parameter in self.cross_gate.parameters()]).sum()
            cosine_BC = torch.matmul(item_CX[..., :width], user_BX[:, :width, None])[..., 0]
            return cosine_BC / self.temperature, 0 * idle  # data-parallel training wants to see every parameter
        delta_BCG, weight_BCG = self.mixture(user_BX, item_CX)
        penalty = self._balance * imbalance(weight_BCG) if self.training and self._balance else delta_BCG.new_zeros(())
        weight_BCG = functional.dropout(weight_BCG, self._gate_dropout, self.training)
        if self.training and self._gate_dropout:
            weight_BCG = weight_BCG / weight_BCG.sum(-1, keepdim=True).clamp_min(1e-6)
        return (weight_BCG * delta_BCG).sum(-1), penalty

    def mixture(self, user_BX: Tensor, item_CX: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all pairs of components and the gate's weights of them, each (B, C, G); arguments as in `compare`.

        In float64 every sum is added in one order, so that equal rows get equal bits wherever they stand.
        """
        P, Q, D = self.user_components, self.item_components, self.items.embedding_dim
        user_BPD, a_BG = user_BX[:, : P * D].reshape(-1, P, D), user_BX[:, P * D :]
        item_CQD, b_CG = item_CX[..., : Q * D].reshape(*item_CX.shape[:-1], Q, D), item_CX[..., Q * D :]
        if item_CX.dtype == torch.float64:
            cosine_BCPQ = exact_scores(user_BPD[:, None, :, None], item_CQD.unsqueeze(-3))
        elif item_CX.dim() == 2:
            cosine_PQ = user_BPD.flatten(0, 1) @ item_CQD.flatten(0, 1).T
            cosine_BCPQ = cosine_PQ.view(len(user_BX), P, len(item_CX), Q).transpose(1, 2)
        else:
            cosine_BCPQ = torch.einsum("bpd,bcqd->bcpq", user_BPD, item_CQD)
        cosine_BCG = cosine_BCPQ.flatten(2)
        first, last = self.cross_gate[0], self.cross_gate[-1]
        if not self.started:
            lone_G = functional.one_hot(torch.tensor(0, device=cosine_BCG.device), self.pairs).to(cosine_BCG.dtype)
            return cosine_BCG / self.temperature, lone_G.expand_as(cosine_BCG)
        cross_BCG = _affine(last, functional.silu(_affine(first, cosine_BCG)))
        gate_BCG = functional.silu(a_BG[:, None] * b_CG + cross_BCG)
        return cosine_BCG / self.temperature, torch.softmax(gate_BCG, -1)


def compare_by(network: TwoTower) -> Compare:
    """A network's comparison of rows as a function of arrays, for `metrics.rank_by`.

    Args:
        network: as it is; in evaluation mode nothing of it is dropped.

    Returns:
        For plain towers the inner product of their vectors, else the logits in float32.

    Source:
        Ours.
    """
    if type(network) is TwoTower:
        return inner_product

    @torch.no_grad()
    def compare(left_QX: NDArray[np.float32], right_NX: NDArray[np.float32]) -> NDArray[np.float32]:
        device = network.log_temperature.device
        user_QX, item_NX = torch.from_numpy(left_QX).to(device), torch.from_numpy(right_NX).to(device)
        rows = max(1, _NUMBERS // (len(item_NX) * _WIDTH))
        return np.concatenate([network.compare(some, item_NX)[0].cpu().numpy() for some in torch.split(user_QX, rows)])

    return compare


def imbalance(weight_BCG: Tensor) -> Tensor:
    """How far the gate is from being decided for each pair of member and item, and even over all of them.

        mean H(pi) - H(mean pi)  =  - I(pair of components; member and item)

    Args:
        weight_BCG: weights that sum to one.

    Returns:
        A scalar from -log G to 0; minus the mutual information.

    Source:
        Ding & Zhai 2025, "Retrieval with Learned Similarities", load balancing by mutual information.
    """
    mean_G = weight_BCG.flatten(0, -2).mean(0)
    return _entropy(weight_BCG).mean() - _entropy(mean_G)


def _entropy(weight_G: Tensor) -> Tensor:
    return -torch.xlogy(weight_G, weight_G.clamp_min(1e-12)).sum(-1)


@torch.no_grad()
def spherical_kmeans(vectors_ND: Tensor, clusters: int, *, seed: int) -> Tensor:
    """Unit centroids that unit vectors gather around by cosine.

    Args:
        vectors_ND: unit vectors, at least as many as clusters.
        clusters: how many centroids, K.
        seed: of the vectors to begin with, drawn one after another by their distance from those before.

    Returns:
        Unit centroids (K, D), float64. A centroid that nobody is nearest to moves to the vector farthest from its own.

    Source:
        Dhillon & Modha 2001, "Concept Decompositions for Large Sparse Text Data Using Clustering"; the beginning is
        that of Arthur & Vassilvitskii 2007, "k-means++: The Advantages of Careful Seeding".
    """
    vectors_ND = vectors_ND.double()
    drawn = np.random.default_rng(seed).random(clusters)
    chosen = [int(drawn[0] * len(vectors_ND))]
    far_N = 1 - vectors_ND @ vectors_ND[chosen[0]]
    for share in drawn[1:].tolist():
        total_N = far_N.clamp_min(0).cumsum(0)
        chosen.append(min(int(torch.searchsorted(total_N, share * total_N[-1])), len(vectors_ND) - 1))
        far_N = torch.minimum(far_N, 1 - vectors_ND @ vectors_ND[chosen[-1]])
    centroid_KD, before = vectors_ND[chosen], None
    for _ in range(KMEANS_ROUNDS):
        cluster_N = nearest(vectors_ND, centroid_KD)
        if before is not None and torch.equal(before, cluster_N):
            break
        before = cluster_N
        near_N = (vectors_ND * centroid_KD[cluster_N]).sum(1)
        sum_KD = torch.zeros_like(centroid_KD).index_add_(0, cluster_N, vectors_ND)
        empty = torch.bincount(cluster_N, minlength=clusters) == 0
        sum_KD[empty] = vectors_ND[near_N.argsort(stable=True)[: int(empty.sum())]]
        centroid_KD = functional.normalize(sum_KD, dim=-1)
    return centroid_KD


def nearest(vectors_ND: Tensor, centroid_KD: Tensor) -> Tensor:
    """The centroid (N) with the largest inner product; the first of equals."""
    block = max(1, _NUMBERS // max(1, len(centroid_KD)))
    return torch.cat([(some @ centroid_KD.T).argmax(1) for some in torch.split(vectors_ND, block)])


class _Interest(nn.Module):
    """What a member likes, as read from her history by an attention of its own; with no history, from her tower."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.randn(width))
        self.tower = nn.Linear(width, width)
        self.history = nn.Linear(width, width, bias=False)

    def forward(self, tower_BD: Tensor, history_BHD: Tensor, there_BH: Tensor) -> Tensor:
        """Of shape (B, D)."""
        score_BH = (history_BHD @ self.attention).masked_fill(~there_BH, -1e9)
        weight_BH = torch.softmax(score_BH, 1) * there_BH
        read_BD = (weight_BH[:, None] @ history_BHD)[:, 0]
        return torch.add(self.tower(tower_BD), self.history(read_BD))


class _Head(nn.Module):
    """A projection and a network beside it whose last layer starts at zero."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.bend = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
        _zero(self.bend[-1])

    def forward(self, tower_MD: Tensor) -> Tensor:
        """Of shape (M, D)."""
        return torch.add(self.linear(tower_MD), self.bend(tower_MD))


def _row(parts: list[Tensor], gate_MG: Tensor) -> Tensor:
    """Components of length one and what the gate wants, one after another."""
    return torch.cat([*(functional.normalize(part, dim=-1) for part in parts), gate_MG], 1)


def _gate(width: int, hidden: int, pairs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, pairs))


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _lean(layer: Any) -> None:
    """Begin a gate's last layer as a constant that gives the first pair the weight `LEAN` and all others the same."""
    _zero(layer)
    wanted = max(0.0, math.log(max(1, len(layer.bias) - 1) * LEAN / (1 - LEAN)))
    found = wanted
    for _ in range(50):  # what SiLU makes `wanted` of
        found = wanted * (1 + math.exp(-found))
    with torch.no_grad():
        layer.bias[0] = found


def _affine(layer: Any, x: Tensor) -> Tensor:
    """A linear layer; in float64 by sums in one order."""
    if x.dtype == torch.float64:
        return exact_scores(x[..., None, :], layer.weight).add(layer.bias)
    found: Tensor = layer(x)
    return found
