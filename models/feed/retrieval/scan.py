"""The k best of many rows, exactly: a float32 scan decides what may matter, float64 decides what does.

Shapes: G queries answered together, D dimension, K results per query, R rows of one block, M candidates.

Why the answer is exact. A float32 product of vectors x and q, summed in any order and with or without fused
multiply-add, errs by at most

    |fl(x . q) - x . q| <= gamma_D sum_i |x_i| |q_i| <= gamma_D |x| |q|,   gamma_D = D u / (1 - D u),   u = 2^-24,

(Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1, and Cauchy-Schwarz). With L the
length of the longest row, bound = gamma_D L |q| holds for every row. Two consequences let the scan drop rows:

* a row whose float32 score is below (k-th best exact score so far) - bound has an exact score below that k-th best;
* with t the k-th best float32 score of a block, K of its rows have an exact score of at least t - bound, so that a row
  whose float32 score is below t - 2 bound cannot be among the K best.

Every other row is scored again in float64 and meets the best so far by (score descending, id ascending). What is
dropped could not have entered, so the answer does not depend on BLAS, threads, blocks or the order of rows. Products
of float32 are exact in float64, and `exact_scores` adds them in one fixed order: equal rows get equal bits. Its own
error, log2(D) 2^-53 |x| |q|, is far below the one part in a thousand by which the bound is widened.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

LONGEST = 1e18
"""Rows and queries must be shorter than this, so that no float32 product overflows."""

ELEMENTS = 2**21
"""Numbers in one temporary matrix; a handful of them live at once, at most some 100 MB together."""

_FIRST_BLOCK = 8192
_CROWD = 4


def rounding_bound(dimension: int, longest: float, lengths: Tensor) -> Tensor:
    """The largest error of a float32 score, for each query.

    Args:
        dimension: numbers in a vector.
        longest: an upper bound on the length of every row, in float64.
        lengths: of shape (G,), float64; lengths of the queries.

    Returns:
        Of shape (G,), float64: the bound of the module's docstring, with what it leaves out. Where torch may multiply
        float32 matrices in a shorter format (`torch.set_float32_matmul_precision` other than "highest": TF32 or
        bfloat16), both factors are first rounded, by at most 2^-8 each. Numbers below 2^-126 may be flushed to zero:
        per dimension one product, one factor of the row and one of the query. One part in a thousand on top covers
        the rounding of the lengths and of the bound itself.

    Source:
        Higham as above; the treatment of short formats and of flushed numbers is ours.
    """
    unit = 2.0**-24
    factor = 0.0 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
    gamma = dimension * unit / (1 - dimension * unit)
    relative = (1 + factor) ** 2 * (1 + gamma) - 1
    flushed = 2 * dimension * 2.0**-126 * (1 + longest + lengths)
    return 1.001 * (relative * longest * lengths + flushed)


def exact_scores(vectors: Tensor, queries: Tensor) -> Tensor:
    """Dot products in float64, added in an order that depends on the dimension alone.

    Neighbouring halves are added until one number is left: D products cost log2(D) roundings each, and no library's
    summation order, block or thread count can change a bit. Differentiable in both arguments.

    Args:
        vectors: of shape (..., D).
        queries: of a shape that broadcasts with `vectors`.

    Returns:
        Float64 scores of shape (...).

    Source:
        Pairwise summation (Higham, section 4.1), written out as element-wise additions.
    """
    terms = vectors.double() * queries.double()
    while terms.shape[-1] > 1:
        half = (terms.shape[-1] + 1) // 2
        left, right = terms[..., :half], terms[..., half:]
        terms = left + torch.nn.functional.pad(right, (0, half - right.shape[-1]))
    return terms[..., 0]


def blocks(rows: int, queries: int, dimension: int, k: int) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks that double: then each brings about K log 2 newcomers to a query, if rows come in any order.

    Args:
        rows: how many rows there are.
        queries: queries scored together, G.
        dimension: numbers in a vector, D.
        k: results per query.

    Yields:
        Start and end of one block after another; at most `ELEMENTS` scores, or numbers of the rows, in each.

    Source:
        Ours.
    """
    largest = max(1, min(ELEMENTS // queries, 4 * ELEMENTS // dimension))
    size = min(largest, max(_FIRST_BLOCK, 2 * _CROWD * k))
    start = 0
    while start < rows:
        end = min(rows, start + size)
        yield start, end
        start, size = end, min(largest, 2 * size)


class Best:
    """The K best rows so far of G queries, by (score descending, id ascending).

    Attributes:
        scores: of shape (G, K), float64; minus infinity in unfilled places.
        ids: of shape (G, K), int64; -1 in unfilled places.
        rows: of shape (G, K), int64, the numbers under which rows were offered; -1 in unfilled places.
    """

    def __init__(self, queries: Tensor, k: int, longest: float) -> None:
        groups, dimension = queries.shape
        self.queries = queries
        self.bound = rounding_bound(dimension, longest, torch.linalg.vector_norm(queries.double(), dim=1))
        self.scores = torch.full((groups, k), -torch.inf, dtype=torch.float64, device=queries.device)
        self.ids = torch.full((groups, k), -1, dtype=torch.int64, device=queries.device)
        self.rows = self.ids.clone()

    def offer(self, vectors: Tensor, ids: Tensor, rows: Tensor, passing: Tensor | None = None) -> None:
        """Let a block of rows compete.

        Args:
            vectors: of shape (R, D), float32.
            ids: of shape (R,), int64; no id is offered twice to the same query.
            rows: of shape (R,), int64; numbers that `self.rows` shall show.
            passing: of shape (G, R) or (1, R), bool: which row may answer which query; none means all may.
        """
        k = self.scores.shape[1]
        approximate = self.queries @ vectors.T
        candidate = approximate >= _below(self.scores[:, -1] - self.bound)[:, None]
        if passing is not None:
            candidate &= passing
        owner, place = candidate.nonzero(as_tuple=True)
        crowded = (torch.bincount(owner, minlength=len(candidate)) > _CROWD * k).nonzero().flatten()
        if len(crowded):
            contest = approximate[crowded].masked_fill_(~candidate[crowded], -torch.inf)
            kth = contest.topk(k, dim=1, sorted=True).values[:, -1]
            candidate[crowded] &= contest >= _below(kth.double() - 2 * self.bound[crowded])[:, None]
            owner, place = candidate.nonzero(as_tuple=True)
        step = max(1, ELEMENTS // vectors.shape[1])
        scores = [
            exact_scores(vectors[place[start : start + step]], self.queries[owner[start : start + step]])
            for start in range(0, len(owner), step)
        ]
        if scores:
            self._merge(owner, torch.cat(scores), ids[place], rows[place])

    def _merge(self, owner: Tensor, scores: Tensor, ids: Tensor, rows: Tensor) -> None:
        groups, k = self.scores.shape
        held_owner, held = (self.rows >= 0).nonzero(as_tuple=True)
        owner = torch.cat([held_owner, owner])
        scores = torch.cat([self.scores[held_owner, held], scores])
        ids = torch.cat([self.ids[held_owner, held], ids])
        rows = torch.cat([self.rows[held_owner, held], rows])
        order = ids.argsort(stable=True)
        order = order[scores[order].argsort(stable=True, descending=True)]
        order = order[owner[order].argsort(stable=True)]
        sizes = torch.bincount(owner, minlength=groups)
        owner = owner[order]
        rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[owner]
        order, owner, rank = order[rank < k], owner[rank < k], rank[rank < k]
        self.scores[owner, rank] = scores[order]
        self.ids[owner, rank] = ids[order]
        self.rows[owner, rank] = rows[order]


def _below(threshold: Tensor) -> Tensor:
    """The threshold in float32, never above the one given."""
    return torch.nextafter(threshold.float(), torch.tensor(-torch.inf, device=threshold.device))
