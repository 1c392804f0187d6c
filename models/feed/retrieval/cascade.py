"""The k best items by a mixture of logits, without comparing the member with every item.

First stage. Item rows lie in one `RetrievalIndex`. A query that holds one component p of the member in the place of
component q, and zeros elsewhere, has with a row the inner product of that pair: one index of whole rows answers for all
pairs, under any filter, exactly. The best of each pair are proposed, then the best by the mixture with its gate held at
what it weighs on her best so far. Second stage: the mixture itself, in float64, on what was proposed.

Certificate. The gate's weights are positive and sum to one, so no mixture exceeds the largest of its logits:

    phi(x, u) <= max_pq delta_pq(x, u) <= max_pq t_pq      for every x not proposed,

with t_pq the last logit of the pair's list. When the k-th best mixture lies above, the answer is exact. Otherwise the
lists grow until it does, or until a budget of mixtures is spent.
"""

# Shapes: B queries, X numbers in a row, N items, K results per query, C candidates, P components of a member, Q of an
# item, G = PQ pairs, D width of a component.

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.common.contracts import Payload
from models.feed.retrieval.index import RetrievalIndex, Where
from models.feed.retrieval.mixture import MixtureOfLogits

Integers = NDArray[np.int64]

GROWTH = 4
"""How much longer the lists become in each round."""

_SLACK = 1e-9
"""What the bound is widened by, relative to the logits; float64 errs by some 1e-14 of them."""


class MixtureHits(NamedTuple):
    """Answers to B queries.

    Attributes:
        ids: of shape (B, K), int64, best first; equal scores by ascending id; -1 where fewer than K items pass.
        scores: of shape (B, K), float64 logits of the mixture; minus infinity where the id is -1.
        passing: of shape (B,), int64: how many items the filter lets through.
        certified: of shape (B,), bool: whether the answer is proven to be that of comparing every passing item.
        evaluated: of shape (B,), int64: mixtures computed, the measure of work; comparing every item takes N.
    """

    ids: Tensor
    scores: Tensor
    passing: Tensor
    certified: Tensor
    evaluated: Tensor


class MixtureIndex(nn.Module):
    """Items searchable by a mixture of logits, under filters.

    Args:
        network: a trained mixture; a copy of it is kept, in float64.
        product: snapshot of a `RetrievalIndex` over the network's item rows.

    Raises:
        ValueError: the rows have another width than the network's.

    Source:
        Ding & Zhai 2025, "Retrieval with Learned Similarities": candidates by component and the bound. Ours: one index
        for all pairs, the proposal by a gate held fixed, growth under a budget, filters in both stages.
    """

    def __init__(self, network: MixtureOfLogits, product: Payload) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().double().eval().requires_grad_(False)
        self.index = RetrievalIndex.restore(product)
        if self.index.dimension != network.item_width:
            raise ValueError(
                f"the index has rows of {self.index.dimension} numbers, the network's have {network.item_width}; build "
                f"the index with this network."
            )
        order = np.argsort(product["ids"], kind="stable")
        self._ids = np.asarray(product["ids"], np.int64)[order]
        self._rows = torch.from_numpy(np.asarray(product["vectors"], np.float32)[order])

    def forward(
        self,
        queries: Tensor,
        k: int,
        where: Where | Sequence[Where] = None,
        *,
        budget: int = 0,
        rows: Tensor | None = None,
    ) -> MixtureHits:
        """The k best passing items of each query.

        Args:
            queries: member rows (B, X), as `encode_users` gives them. Gradients flow into them through the scores.
            k: results per query, at least 1.
            where: filters, as in `RetrievalIndex.forward`; they hold in both stages.
            budget: most mixtures per query, at least k; 0: as many as a certified answer takes.
            rows: item rows (N, X) by ascending id that the scores are to be computed from, and gradients flow into;
                none means those of the index.

        Returns:
            The hits. Without a budget all of them are certified.

        Raises:
            ValueError: an argument has another shape, or the budget is below k.
            FilterError: a filter does not suit the columns.

        Source:
            See the class.
        """
        if queries.dim() != 2 or queries.shape[1] != self.network.user_width:
            raise ValueError(
                f"queries must be rows of {self.network.user_width} numbers, got shape {tuple(queries.shape)}."
            )
        if budget < 0 or 0 < budget < k:
            raise ValueError(f"budget must be 0 or at least k, got {budget} for k = {k}; raise it.")
        with torch.no_grad():
            hits, places = self._found(queries.detach().double(), k, where, budget or len(self._ids))
        if torch.is_grad_enabled() and (queries.requires_grad or (rows is not None and rows.requires_grad)):
            source = self._rows if rows is None else rows
            scores, _ = self.network.compare(queries.double(), source[places.clamp_min(0)].double())
            hits = hits._replace(scores=scores.masked_fill(places < 0, -torch.inf))
        return hits

    def search(
        self, queries: NDArray[np.float32], k: int, where: Where | Sequence[Where] = None, *, budget: int = 0
    ) -> MixtureHits:
        """`forward` for arrays, without gradients."""
        with torch.no_grad():
            return self.forward(torch.from_numpy(np.ascontiguousarray(queries)), k, where, budget=budget)

    def _found(
        self, queries_BX: Tensor, k: int, where: Where | Sequence[Where], budget: int
    ) -> tuple[MixtureHits, Tensor]:
        """The hits, and the place of each among the rows."""
        count, every = len(queries_BX), len(self._ids)
        filters = list(where) if isinstance(where, Sequence) and not isinstance(where, str) else [where] * count
        if len(filters) != count:
            raise ValueError(f"{len(filters)} filters for {count} queries; give one for each, or one for all.")
        best = [_Candidates(k, budget) for _ in range(count)]
        passing = torch.zeros(count, dtype=torch.int64)
        certified = torch.zeros(count, dtype=torch.bool)
        asking, depth, first = list(range(count)), max(1, min(k, budget // (2 * self.network.pairs))), True
        while asking:
            wanted = [filters[one] for one in asking]
            ids, last, passing[asking] = self._lists(self._pairs(queries_BX[asking]), depth, wanted)
            if first:
                self._propose(queries_BX, best, asking, ids)
            held = self._held(queries_BX, best, asking)
            self._propose(queries_BX, best, asking, self._lists(held, max(k, GROWTH * depth), wanted)[0])
            if not first:
                self._propose(queries_BX, best, asking, ids)
            last = last if self.network.started else last[:, :1]
            for one, limit in zip(asking, (last.amax(1) / float(self.network.temperature)).tolist(), strict=True):
                complete = len(best[one].places) == int(passing[one])
                certified[one] = complete or best[one].least > limit + _SLACK * (1 + abs(limit))
            asking = [one for one in asking if not certified[one] and best[one].left]
            depth, first = min(GROWTH * depth, max(1, every)), False
        evaluated = torch.tensor([len(one.places) for one in best], dtype=torch.int64)
        places_BK = torch.full((count, k), -1, dtype=torch.int64)
        scores_BK = torch.full((count, k), -torch.inf, dtype=torch.float64)
        for one, candidates in enumerate(best):
            order = np.lexsort((candidates.places, -candidates.scores))[:k]  # places rise with ids
            places_BK[one, : len(order)] = torch.from_numpy(candidates.places[order])
            scores_BK[one, : len(order)] = torch.from_numpy(candidates.scores[order])
        ids_BK = torch.from_numpy(np.append(self._ids, -1))[places_BK]
        return MixtureHits(ids_BK, scores_BK, passing, certified, evaluated), places_BK

    def _lists(self, probes_BGX: Tensor, depth: int, filters: list[Where]) -> tuple[Integers, Tensor, Tensor]:
        """Places among the rows (B, G, depth), -1 behind a shorter list; last inner products (B, G); passing (B)."""
        count, probing = probes_BGX.shape[:2]
        repeated = [where for where in filters for _ in range(probing)]
        hits = self.index(probes_BGX.flatten(0, 1).float(), depth, repeated)
        ids = hits.ids.numpy()
        places = np.where(ids >= 0, np.searchsorted(self._ids, ids), -1)
        shape = (count, probing)
        return places.reshape(*shape, depth), hits.scores[:, -1].view(shape), hits.passing.view(shape)[:, 0]

    def _pairs(self, queries_BX: Tensor) -> Tensor:
        """A query of the index for each pair of components (B, G, X): p of the member in the place of q."""
        P, Q, D = self.network.user_components, self.network.item_components, self.network.items.embedding_dim
        component_BPD = queries_BX[:, : P * D].reshape(-1, P, D)
        placed_BPQQD = torch.einsum("bpd,qr->bpqrd", component_BPD, torch.eye(Q, dtype=queries_BX.dtype))
        return self._padded(placed_BPQQD.flatten(3).flatten(1, 2))

    def _held(self, queries_BX: Tensor, best: "list[_Candidates]", asking: list[int]) -> Tensor:
        """One query of the index for each member (B, 1, X): the mixture with its gate as on her best so far."""
        P, Q, D = self.network.user_components, self.network.item_components, self.network.items.embedding_dim
        held = []
        for one in asking:
            top = best[one].places[np.argsort(-best[one].scores, kind="stable")[: best[one].k]]
            _, weight_1CG = self.network.mixture(queries_BX[one : one + 1], self._rows[top][None].double())
            weight_PQ = weight_1CG[0].mean(0).nan_to_num(1 / (P * Q)).view(P, Q)
            held.append(weight_PQ.T @ queries_BX[one, : P * D].view(P, D))
        return self._padded(torch.stack(held).flatten(1)[:, None])

    def _padded(self, placed_BGX: Tensor) -> Tensor:
        """Zeros where item rows hold what the gate wants."""
        return torch.nn.functional.pad(placed_BGX, (0, self.network.pairs))

    def _propose(self, queries_BX: Tensor, best: "list[_Candidates]", asking: list[int], places: Integers) -> None:
        """Compute the mixture of each member with those of her lists that are new, the best of every list first."""
        for one, lists in zip(asking, places, strict=True):
            fresh = best[one].fresh(lists)
            if len(fresh):
                scores, _ = self.network.compare(queries_BX[one : one + 1], self._rows[fresh][None].double())
                best[one].add(fresh, scores[0].numpy())


class MixtureSearching:
    """A mixture's index as the plain function that a contest asks.

    Args:
        network: a trained mixture.
        product: snapshot of a `RetrievalIndex` over its item rows.
    """

    def __init__(self, network: MixtureOfLogits, product: Payload) -> None:
        self._index = MixtureIndex(network, product)
        self._work = len(product["ids"]) // 10

    def __call__(
        self, queries: NDArray[np.float32], k: int, filters: Sequence[Where] | None
    ) -> tuple[Integers, NDArray[np.float64], Integers]:
        """Identifiers (B, K), scores (B, K) and passing items (B); see `hits`."""
        hits = self.hits(queries, k, filters)
        return hits.ids.numpy(), hits.scores.numpy(), hits.passing.numpy()

    def hits(self, queries: NDArray[np.float32], k: int, filters: Sequence[Where] | None) -> MixtureHits:
        """The answers with what is certain about them, by mixtures of a tenth of the items, or of 2 k."""
        return self._index.search(queries, k, filters, budget=max(self._work, 2 * k))


def tower_queries(network: MixtureOfLogits, members: NDArray[np.float32]) -> NDArray[np.float32]:
    """Members' tower vectors in the place of the items': queries whose inner products with item rows are cosines.

    Args:
        network: whose rows they are.
        members: rows of members (B, X).

    Returns:
        Rows (B, X) as wide as those of items.

    Source:
        Ours.
    """
    width = network.items.embedding_dim
    return np.pad(members[:, :width], ((0, 0), (0, network.item_width - width)))


class _Candidates:
    """What was compared with one member."""

    def __init__(self, k: int, budget: int) -> None:
        self.k = k
        self.left = budget
        self.places = np.zeros(0, np.int64)
        self.scores = np.zeros(0)

    @property
    def least(self) -> float:
        """The k-th best score; minus infinity with fewer."""
        return float(np.partition(self.scores, -self.k)[-self.k]) if len(self.scores) >= self.k else -np.inf

    def fresh(self, lists_GK: Integers) -> Integers:
        """Places that were not compared yet, by their position in the lists, as many as the budget allows."""
        places, position = np.unique(lists_GK.T, return_index=True)
        places = places[np.argsort(position, kind="stable")]
        return places[(places >= 0) & ~np.isin(places, self.places)][: self.left]

    def add(self, places: Integers, scores: NDArray[np.float64]) -> None:
        """Take down what was compared."""
        self.places, self.scores = np.append(self.places, places), np.append(self.scores, scores)
        self.left -= len(places)
