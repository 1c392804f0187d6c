"""Probing: the rows stand in lists of rows that are close to one another, and a query reads the nearest lists.

    list of x = argmax_l <x, c_l>;   answer = the K best passing rows in the lists with the largest  <q, c_l>

with directions c of length one (spherical k-means).

`Probing.of` has the index put the rows of a list side by side. So a list is a run of the codes that the exact engine
has anyway: it costs no copy, is read from one end to the other, and a filter's bits need not be translated. An exact
search over the index gives the bits that it gave before.

Within the lists that are probed the answer is exact, by the boards of `kernels`. Which lists are probed depends on the
filter. A list counts by the share of its rows that pass, against the share that passes overall, and one at most: where
no row passes in the lists around a query, those further off are probed in their place. And lists are probed until K
passing rows were met, or all rows, so that as many results come as pass. How many lists a recall takes is measured
(`calibrate`); where few rows pass, or so many lists would be needed that reading everything is as fast, the answer is
the exact one.

Rows that came after the lists were made are always read, deleted ones do not pass. When the index is compacted again
its rows stand otherwise, and all answers are exact until `Probing.of` is called anew.

Shapes: N rows, D dimension, L lists, B queries, K results.

Source: inverted lists over a k-means are those of Sivic & Zisserman 2003 and Jegou et al. 2011, "Product Quantization
for Nearest Neighbor Search", section IV; lists as runs of the index, and what they count under a filter, are ours.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.feed.retrieval import kernels
from models.feed.retrieval.approximate import Estimated, Question, Recall, measure
from models.feed.retrieval.attributes import Bits, tiles_of
from models.feed.retrieval.engine import Asked, Best, Board, Engine, do_all, parts_of, threads_to_use
from models.feed.retrieval.index import RetrievalIndex, Where
from models.feed.retrieval.kernels import compiled

_ROUNDS = 8
_TRAINED_ON = 64
"""Rows for each list that the directions are made from."""

_SCORES = 2**22
"""Products of rows and directions held at once."""

_WORTH = 8
"""At most one list in so many is probed: a query that reads more costs what it costs in an exact scan with others."""


class Probing:
    """Lists over the rows of an index; make one with `of`.

    Args:
        index: whose rows stand in the order of the lists.
        engine: its codes.
        directions: of shape (L, D), float32.
        starts: of shape (L + 1,), int64: row at which each list begins; at the end, how many rows stand in lists.
        seed: of what is random.
    """

    def __init__(
        self,
        index: RetrievalIndex,
        engine: Engine,
        directions: NDArray[np.float32],
        starts: NDArray[np.int64],
        seed: int,
    ) -> None:
        self.index = index
        self.recall: Recall | None = None
        self._engine, self._directions, self._starts, self._seed = engine, directions, starts, seed

    @classmethod
    def of(cls, index: RetrievalIndex, lists: int | None = None, *, seed: int = 0) -> "Probing":
        """Put the rows of an index in lists; compacts it.

        Args:
            index: on a CPU; queries to it go on meanwhile, writes wait.
            lists: how many, L; at most one for each item. None takes the square root of the number of items.
            seed: of the k-means; the same gives the same lists on the same machine.

        Returns:
            The lists. `calibrate` them before asking for a recall.

        Raises:
            ValueError: there are fewer than one list, or the index is not on a CPU.

        Source:
            The module's.
        """
        if lists is not None and lists < 1:
            raise ValueError(f"lists must be at least 1, got {lists}; None takes the square root of the items.")
        made: list[NDArray[Any]] = []

        def arrange(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
            count = lists if lists is not None else round(len(vectors) ** 0.5)
            directions, owners = cluster(vectors, min(count, len(vectors)), seed=seed)
            made[:] = directions, np.concatenate([[0], np.bincount(owners, minlength=len(directions)).cumsum()])
            return np.argsort(owners, kind="stable")

        with index._writing:  # nobody compacts it again before its rows are known
            none = np.zeros((0, index.dimension), np.float32)
            Question.of(index, none, 1)  # raises where nothing could be asked
            index.compact(arrange)
            engine = Question.of(index, none, 1).engine
        directions, starts = made
        probing = cls(index, engine, directions, starts, seed)
        probing.search(np.zeros((1, index.dimension), np.float32), 1, lists=1)  # compiles what is missing
        return probing

    @property
    def lists(self) -> int:
        """How many there are, L."""
        return len(self._directions)

    @property
    def current(self) -> bool:
        """Whether the rows still stand in lists; if not, answers are exact and `of` makes lists anew."""
        return self.index._engine is self._engine

    @property
    def bytes(self) -> int:
        """What the lists take on top of the index."""
        return self._directions.nbytes + self._starts.nbytes

    def calibrate(self, queries: NDArray[np.float32] | None = None, k: int = 100) -> Recall:
        """Measure which recall so many lists give; later searches choose by that.

        Args:
            queries: of shape (Q, D), like those to come; some hundreds. None takes items of the index, each left out of
                its own answer.
            k: the most results that searches will ask for.

        Returns:
            Recall by share of passing rows and number of lists. It is kept as `recall`.

        Raises:
            ValueError: as in `approximate.measure`, or the index was compacted since.

        Source:
            Ours.
        """
        efforts = np.unique(np.geomspace(1, max(1, self.lists), 256).round().astype(np.int64))
        self.recall = measure(self.index, queries, k, efforts, self._place_of_list, self._seed)
        return self.recall

    def _place_of_list(self, question: Question, truth: Best) -> NDArray[np.int64]:
        """Among how many lists of each query is the one that has a row."""
        if question.engine is not self._engine:
            raise ValueError("the index was compacted after its lists were made; make them anew with Probing.of.")
        owners = np.searchsorted(self._starts, truth.rows, side="right") - 1
        nearest = np.argsort(-(question.queries @ self._directions.T), axis=1, kind="stable")
        places = np.empty((len(nearest), self.lists + 1), np.int64)
        np.put_along_axis(places, nearest, np.arange(1, self.lists + 1)[None], axis=1)
        places[:, self.lists] = 0  # rows that came later are always read
        return np.take_along_axis(places, owners, axis=1)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        where: Where | Sequence[Where] = None,
        *,
        recall: float = 0.95,
        lists: int | None = None,
    ) -> Estimated:
        """Find the k best passing items of every query, or most of them.

        Args:
            queries: of shape (B, D), float32.
            k: results per query.
            where: as in `RetrievalIndex.search`.
            recall: what the mean recall shall reach, by the lower end of what was measured.
            lists: probe so many of each query, whatever was measured.

        Returns:
            The answers, with as many results as pass, up to k; exact with all lists.

        Raises:
            FilterError: a filter does not suit the columns.
            ValueError: as in `RetrievalIndex.search` and `Recall.effort`; nothing was measured and `lists` is not
                given; or the index is not on a CPU.

        Source:
            The module's.
        """
        if lists is not None and lists < 1:
            raise ValueError(f"lists must be at least 1, got {lists}; there are {self.lists}.")
        if lists is None and self.recall is None:
            raise ValueError("no recall was measured yet; call calibrate, or say how many lists to probe.")
        question = Question.of(self.index, queries, k, where)
        best, promised = Best.none(len(queries), k), np.ones(len(queries))
        exactly, probing = list[int](), defaultdict[int, list[int]](list)
        wanted = np.zeros(len(queries), np.int64)
        for number, selection in enumerate(question.selections):
            found: tuple[int, float] | None = (min(lists, self.lists), np.nan) if lists is not None else None
            if lists is None and self.recall is not None:
                found = self.recall.effort(k, question.share(number), recall)
                if found is not None and found[0] * _WORTH > self.lists:
                    found = None
            if question.engine is not self._engine or found is None or not selection.count:
                exactly.append(number)
            else:
                wanted[number], promised[number] = found
                probing[id(selection)].append(number)
        question.answer_exactly(exactly, best)
        if probing:
            self._probe(question, list(probing.values()), wanted, best)
        return question.estimated(best, promised)

    def _probe(
        self, question: Question, groups: Sequence[Sequence[int]], wanted: NDArray[np.int64], best: Best
    ) -> None:
        """Answer queries from their nearest lists; those of a group share a filter."""
        engine = question.engine
        asked = Asked.of(question.queries, engine._worst, engine._codes.shape[1])
        near = question.queries @ self._directions.T

        def probe(part: tuple[Sequence[int], Bits]) -> None:
            members, bits = part
            board = Board.of(1, question.k)
            probe_lists(
                np.asarray(members), wanted, near, self._starts, engine._codes, engine._scales, bits,
                len(question.vectors), question.share(members[0]), asked.codes, asked.starts, asked.errors,
                asked.factors, question.vectors, question.ids, asked.precise, *best, board.near[0], board.rows[0],
                board.room, board.aligned[0],
            )  # fmt: skip

        work = []
        for group in groups:
            bits = question.selections[group[0]].as_bits(tiles_of(len(question.vectors)))
            for members in parts_of(group, -(-len(group) // threads_to_use())):
                work.append(partial(probe, (members, bits)))
        do_all(work)


def cluster(vectors: NDArray[np.float32], lists: int, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Part vectors into lists by spherical k-means: each goes to the direction that it has the largest product with.

    A mean, unlike a direction, is the shorter the wider its rows are spread, and a query would go by it too late.

    Args:
        vectors: of shape (N, D), float32.
        lists: how many, L; at most N.
        seed: of the sample that the directions are made from, and of their beginnings.

    Returns:
        The directions (L, D), of length one or zero, and the list (N,) of each vector.

    Source:
        Dhillon & Modha 2001, "Concept Decompositions for Large Sparse Text Data Using Clustering"; some rounds over a
        sample, and a list that lost all its rows begins anew at the row that suits its own worst.
    """
    if not lists:
        return np.zeros((0, vectors.shape[1]), np.float32), np.zeros(0, np.int64)
    chosen = np.random.default_rng(seed).permutation(len(vectors))[: _TRAINED_ON * lists]
    sample = _directions(torch.from_numpy(vectors[chosen]).double())
    directions = sample[:lists]
    for _ in range(_ROUNDS):
        owners, products = _nearest(sample, directions)
        sums = torch.zeros(directions.shape, dtype=torch.float64).index_add_(0, owners, sample.double())
        empty = (torch.bincount(owners, minlength=lists) == 0).nonzero().flatten()
        sums[empty] = sample[products.argsort(stable=True)[: len(empty)]].double()
        directions = _directions(sums)
    owners, _ = _nearest(torch.from_numpy(vectors), directions)
    return directions.numpy(), owners.numpy()


def _directions(vectors: torch.Tensor) -> torch.Tensor:
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return (vectors / torch.where(lengths > 0, lengths, 1)).float()


def _nearest(vectors: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The direction that each vector has the largest product with, and that product."""
    owners, products = torch.empty(len(vectors), dtype=torch.int64), torch.empty(len(vectors))
    step = max(1, _SCORES // len(directions))
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        products[part], owners[part] = (vectors[part] @ directions.T).max(dim=1)
    return owners, products


@compiled
def probe_lists(
    members: Any, wanted: Any, near_lists: Any, begins: Any, codes: Any, scales: Any, bits: Any, total: int,
    share: float, query_codes: Any, starts: Any, errors: Any, factors: Any, vectors: Any, all_ids: Any, queries: Any,
    scores: Any, ids: Any, rows: Any, near: Any, near_rows: Any, room: Any, aligned: Any,
) -> None:  # fmt: skip
    """Let the passing rows of the nearest lists compete, for one query after another.

    Args:
        members: int64: numbers of the queries; all share a filter.
        wanted: of shape (B,), int64: how many lists each probes.
        near_lists: of shape (B, L), float32: products with the directions.
        begins: of shape (L + 1,), int64: first row of each list, and the first behind them.
        codes: of shape (16 T, D), uint8.
        scales: of shape (16 T,), float32.
        bits: of shape (T,), uint16: the passing rows.
        total: how many rows there are, N.
        share: of them passes.
        query_codes: of shape (B, D), int8.
        starts: of shape (B,), int32.
        errors: of shape (B,), float64.
        factors: of shape (B,), float64.
        vectors: of shape (N, d), float32.
        all_ids: of shape (N,), int64.
        queries: of shape (B, d), float64.
        scores: of shape (B, K), float64: takes the best.
        ids: of shape (B, K), int64.
        rows: of shape (B, K), int64.
        near: of shape (C,), float32: the board.
        near_rows: of shape (C,), int64.
        room: of shape (C,), float32.
        aligned: of shape (16,), float32.
    """
    width, lists = np.int64(codes.shape[1]), near_lists.shape[1]
    base, scale_base, aligned_base = codes.ctypes.data, scales.ctypes.data, aligned.ctypes.data
    floors, left = np.empty(1, np.float32), np.zeros(1, np.uint16)
    floors_base, left_base = floors.ctypes.data, left.ctypes.data
    terms = np.empty(vectors.shape[1], np.float64)
    order = np.empty(lists, np.int64)
    k = scores.shape[1]
    for q in members:
        query_base, starts_base = query_codes.ctypes.data + q * width, starts.ctypes.data + 4 * q
        floors[0] = -np.inf
        count, held, met, weight, probed, known = 0, 0, 0, 0.0, 0, 0
        start, end, later = begins[lists], total, True  # rows that came later are read first, and always
        while True:
            passed = 0
            for tile in range(start >> 4, (end + 15) >> 4):
                found = np.uint32(bits[tile])
                if tile * 16 < start:
                    found &= np.uint32(0xFFFF) << np.uint32(start - tile * 16)
                if tile * 16 + 16 > end:
                    found &= (np.uint32(1) << np.uint32(end - tile * 16)) - np.uint32(1)
                if found == 0:
                    continue
                left[0] = found
                passed += _ones(found)
                if not kernels._tile_for_one(
                    base + tile * 16 * width, scale_base + tile * 64, query_base, starts_base, width, floors_base,
                    aligned_base, left_base,
                ):  # fmt: skip
                    continue
                found = np.uint32(left[0])
                while found:
                    lane = kernels._lowest(found)
                    found &= found - np.uint32(1)
                    if aligned[lane] < floors[0]:
                        continue
                    near[count], near_rows[count] = aligned[lane], tile * 16 + lane
                    count += 1
                    if count == len(near):
                        count, floors[0], held = kernels._made_room(
                            near, near_rows, count, errors[q], factors[q], floors[0], room, vectors, all_ids,
                            queries[q], terms, scores[q], ids[q], rows[q], held,
                        )  # fmt: skip
            met += passed
            if not later and end > start:
                weight += min(1.0, passed / (share * (end - start)))
            later = False
            if probed == lists or (weight > wanted[q] - 0.5 and met >= k):
                break
            if probed == known:
                known = _next_lists(near_lists[q], order, known, min(lists, max(2 * known, wanted[q] + 1)))
            start, end = begins[order[probed]], begins[order[probed] + 1]
            probed += 1
        count, floors[0] = kernels._tightened(near, near_rows, count, k, errors[q], floors[0], room)
        held = kernels.settle(
            near_rows, count, vectors, all_ids, queries[q], terms, scores[q], ids[q], rows[q], held
        )  # fmt: skip
        kernels.rank(scores[q], ids[q], rows[q], held)


@compiled
def _next_lists(products: Any, order: Any, known: int, wanted: int) -> int:
    """Put further lists into the order by (product descending, number ascending), until it has so many."""
    last = order[known - 1] if known else -1
    count = known
    for i in range(len(products)):
        value = products[i]
        if count == wanted and not value > products[order[count - 1]]:
            continue
        if known and (value > products[last] or (value == products[last] and i <= last)):
            continue
        place = count if count < wanted else count - 1
        while place > known and products[order[place - 1]] < value:
            order[place] = order[place - 1]
            place -= 1
        order[place] = i
        count = min(count + 1, wanted)
    return count


@compiled
def _ones(bits: Any) -> Any:
    """How many bits of sixteen are set."""
    bits -= (bits >> np.uint32(1)) & np.uint32(0x5555)
    bits = (bits & np.uint32(0x3333)) + ((bits >> np.uint32(2)) & np.uint32(0x3333))
    bits = (bits + (bits >> np.uint32(4))) & np.uint32(0x0F0F)
    return np.int64((bits + (bits >> np.uint32(8))) & np.uint32(0x1F))
