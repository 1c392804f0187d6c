"""What the approximate modes share: a question put to an index, and recall as it was measured.

An approximate mode has an effort: lists that are probed, or rows that are scored again. How much of it a recall takes
depends on the data, on the queries and on how many rows pass, and no formula tells. So it is measured: queries are
answered exactly, under random filters that pass one share of the rows after another, and for each row of an exact
answer it is noted which effort finds it. A mean over queries is uncertain, and what is promised is the lower end of its
interval. It is a mean over queries like those and over filters that do not depend on the vectors: queries that share
one filter may together be somewhat above it or below.

Shapes: N rows, B queries, K results, S shares, E efforts.

Source: the threshold by share of passing rows is what filtered engines do (knowhere, cuVS); measuring it with the index
at hand, with an interval, is ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.feed.retrieval.attributes import Selection
from models.feed.retrieval.engine import Best
from models.feed.retrieval.index import Question as Exact
from models.feed.retrieval.index import RetrievalIndex, Where

SHARES = tuple(2.0 ** (-step / 2) for step in range(11))
"""Shares of passing rows that are measured; below the last of them an exact search costs little."""

_NEAR = 1.05
"""A share counts as one that was measured if it is so little below it."""

_SAMPLED = 512
_FILTERS = 16
"""Filters of a share: queries that ask for the same rows under one filter are one experiment and not many."""

_RESAMPLES = 1000
_Z = 1.96


class Estimated(NamedTuple):
    """Answers to B queries that may lack rows of the exact ones; what they have is right.

    Attributes:
        ids: of shape (B, K), int64, best first; equal scores by ascending id; -1 where fewer than K items pass.
        scores: of shape (B, K), the same float64 scores that an exact answer has; minus infinity where the id is -1.
        passing: of shape (B,), int64: how many items the filter lets through.
        recall: of shape (B,), float64: lower end of the 95 % interval of the mean recall that was measured for such
            queries; 1 for answers that are exact, and not-a-number where the caller chose the effort.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    passing: NDArray[np.int64]
    recall: NDArray[np.float64]


class Question(Exact):
    """Queries, and the version of an index that answers them.

    As long as its engine is the same object, rows that were there keep their numbers.
    """

    @classmethod
    def of(
        cls, index: RetrievalIndex, queries: NDArray[np.float32], k: int, where: Where | Sequence[Where] = None
    ) -> "Question":
        """Hold the arguments to what `RetrievalIndex.search` asks, and evaluate the filters.

        Raises:
            FilterError: a filter does not suit the columns.
            ValueError: as in `RetrievalIndex.search`, or the index is not on a CPU.
        """
        exact = index.question(queries, k, where)
        if exact is None:
            raise ValueError(
                f"approximate search runs on a CPU, the index is on {index.vectors.device}; move it there."
            )
        return cls(**vars(exact))

    def share(self, query: int) -> float:
        """Which part of the rows passes a query's filter; deleted rows are rows that do not pass."""
        return self.selections[query].count / max(1, len(self.vectors))

    def answer_exactly(self, members: Sequence[int], best: Best) -> None:
        """Write the exact answers to some of the queries."""
        if len(members):
            chosen = [self.selections[number] for number in members]
            found = self.engine.search(self.queries[members], self.k, chosen, self.vectors, self.ids)
            for goal, source in zip(best, found, strict=True):
                goal[members] = source

    def estimated(self, best: Best, recall: NDArray[np.float64]) -> Estimated:
        """The answers as a caller gets them."""
        return Estimated(best.ids, best.scores, np.array([one.count for one in self.selections], np.int64), recall)


@dataclass(frozen=True)
class Recall:
    """Recall of the K best as it was measured, by share of rows that pass and by effort.

    Attributes:
        k: results per query, K.
        queries: how many queries were asked.
        shares: of shape (S,), descending.
        efforts: of shape (E,), ascending.
        mean: of shape (S, E): mean over the queries.
        lower: of shape (S, E): lower end of its 95 % interval.
    """

    k: int
    queries: int
    shares: Sequence[float]
    efforts: NDArray[np.int64]
    mean: NDArray[np.float64]
    lower: NDArray[np.float64]

    def effort(self, k: int, share: float, recall: float) -> tuple[int, float] | None:
        """The least effort for a recall.

        Args:
            k: results wanted; for fewer than were measured the recall is not lower, as they lie nearer.
            share: of the rows that pass.
            recall: what the lower end shall reach, above 0 and at most 1.

        Returns:
            The effort and that lower end, for the next smaller share that was measured; None if none reaches it.

        Raises:
            ValueError: more results are wanted than were measured, or the recall is out of its range.
        """
        if not 0 < recall <= 1:
            raise ValueError(f"recall must be above 0 and at most 1, got {recall}.")
        if k > self.k:
            raise ValueError(f"recall was measured for the {self.k} best, {k} are asked for; calibrate with k={k}.")
        for measured, lower in zip(self.shares, self.lower, strict=True):
            if measured <= share * _NEAR:
                enough = np.flatnonzero(lower >= recall)
                return (int(self.efforts[enough[0]]), float(lower[enough[0]])) if len(enough) else None
        return None

    def rows(self, recall: float) -> list[tuple[float, int | None, float, float]]:
        """For a report: share, least effort, mean recall and its lower end; without an effort that of the largest."""
        found = []
        for place, share in enumerate(self.shares):
            enough = np.flatnonzero(self.lower[place] >= recall)
            at = int(enough[0]) if len(enough) else -1
            effort = int(self.efforts[at]) if len(enough) else None
            found.append((share, effort, float(self.mean[place, at]), float(self.lower[place, at])))
        return found


def measure(
    index: RetrievalIndex,
    queries: NDArray[np.float32] | None,
    k: int,
    efforts: NDArray[np.int64],
    effort_of: Callable[[Question, Best], NDArray[np.int64]],
    seed: int,
) -> Recall:
    """Measure recall by share and effort.

    Args:
        index: what is asked; at least one item.
        queries: of shape (Q, D), float32; None for a sample of the items' own vectors, each left out of its answer.
        k: results per query.
        efforts: of shape (E,), ascending: what to measure.
        effort_of: the least effort that finds each row of exact answers, of their shape; anything in unfilled places.
        seed: of the random filters, the sample and the resampling.

    Returns:
        What was measured; the lower end is that of a percentile bootstrap over queries, and never above what Wilson's
        interval leaves to so many queries without a miss.

    Raises:
        ValueError: as in `RetrievalIndex.search`, or there are no items or no queries.

    Source:
        Ours.
    """
    random = np.random.default_rng(seed)
    question = Question.of(index, np.zeros((1, index.dimension), np.float32) if queries is None else queries, k)
    if not len(question.queries):
        raise ValueError("recall needs queries to be measured with, got none; give some, or None for the items.")
    everything = question.selections[0]
    if not everything.count:
        raise ValueError("an index without items has no recall to measure; calibrate after the first upsert.")
    own = np.full((len(question.queries), 1), -1)
    if queries is None:
        own = np.sort(random.choice(everything.as_rows(), min(_SAMPLED, everything.count), replace=False))[:, None]
        question = replace(question, queries=question.vectors[own[:, 0]], k=k + 1)
    asked, alive = len(question.queries), np.zeros(len(question.vectors), np.bool_)
    alive[everything.as_rows()] = True
    weights = random.multinomial(asked, np.full(asked, 1 / asked), size=_RESAMPLES) / asked
    lot = random.random(len(alive))
    means, lowers = [], []
    for share in SHARES:
        filters = [Selection.of(alive & ((lot + number / _FILTERS) % 1 < share)) for number in range(_FILTERS)]
        thinned = replace(question, selections=[filters[number % _FILTERS] for number in range(asked)])
        truth = Best.none(asked, thinned.k)
        thinned.answer_exactly(range(asked), truth)
        counted = (truth.rows >= 0) & (truth.rows != own)
        counted &= counted.cumsum(axis=1) <= k
        needed = np.sort(np.where(counted, effort_of(thinned, truth), np.iinfo(np.int64).max), axis=1)
        found = np.stack([np.searchsorted(row, efforts, side="right") for row in needed])
        recall = np.where(counted.any(axis=1)[:, None], found / np.maximum(1, counted.sum(axis=1))[:, None], 1.0)
        means.append(recall.mean(axis=0))
        lowers.append(np.minimum(np.quantile(weights @ recall, 0.025, axis=0), asked / (asked + _Z**2)))
    return Recall(k, asked, SHARES, efforts, np.stack(means), np.stack(lowers))
