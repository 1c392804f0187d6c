"""How good ranked lists are, what they are compared with, and how sure one may be."""

# Shapes: Q users asked for, K places of a list, R relevant items of a user, N items, S resamples.

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def _hits(list_QK: Integers, relevant_QR: Integers, k: int) -> NDArray[np.bool_]:
    """Whether each of the first k places holds a relevant item; -1 on either side is nothing."""
    head = list_QK[:, :k]
    found = np.zeros(head.shape, bool)
    for column in relevant_QR.T:
        found |= head == column[:, None]
    return found & (head >= 0)


def hit_rate(list_QK: Integers, relevant_QR: Integers, k: int) -> Floats:
    """Whether any relevant item is among the first k, for each user.

    Args:
        list_QK: items, best first, each once, -1 where a list ends early.
        relevant_QR: held-out items, -1 where a user has fewer.
        k: length of the list.

    Returns:
        (Q) zeros and ones.

    Source:
        He et al. 2017, "Neural Collaborative Filtering", section 4.1.
    """
    return np.asarray(_hits(list_QK, relevant_QR, k).any(1), np.float64)


def recall(list_QK: Integers, relevant_QR: Integers, k: int) -> Floats:
    """Share of each user's relevant items among the first k; zero for a user without any.

    Args:
        list_QK: items, best first, each once, -1 where a list ends early.
        relevant_QR: held-out items, -1 where a user has fewer.
        k: length of the list.

    Returns:
        (Q) shares; with one relevant item it is the hit rate.

    Source:
        Manning et al. 2008, "Introduction to Information Retrieval", section 8.3.
    """
    return np.asarray(_hits(list_QK, relevant_QR, k).sum(1) / np.maximum((relevant_QR >= 0).sum(1), 1))


def ndcg(list_QK: Integers, relevant_QR: Integers, k: int) -> Floats:
    """Discounted gain of the first k over the best possible, for each user; gains are zero or one.

    Args:
        list_QK: items, best first, each once, -1 where a list ends early.
        relevant_QR: held-out items, -1 where a user has fewer.
        k: length of the list.

    Returns:
        (Q) shares; zero for a user without relevant items.

    Source:
        Jarvelin & Kekalainen 2002, "Cumulated gain-based evaluation of IR techniques", base 2.
    """
    found = _hits(list_QK, relevant_QR, k)
    gain = 1 / np.log2(np.arange(max(k, found.shape[1])) + 2)
    best = np.concatenate([[0.0], np.cumsum(gain[:k])])
    ideal = best[np.minimum((relevant_QR >= 0).sum(1), k)]
    return np.asarray((found * gain[: found.shape[1]]).sum(1) / np.where(ideal > 0, ideal, 1))


def reciprocal_rank(list_QK: Integers, relevant_QR: Integers, k: int) -> Floats:
    """One over the place of the first relevant item, zero if it is not among the first k; the mean is the MRR@k.

    Args:
        list_QK: items, best first, each once, -1 where a list ends early.
        relevant_QR: held-out items, -1 where a user has fewer.
        k: length of the list.

    Returns:
        (Q) values of 0 to 1.

    Source:
        Voorhees 1999, "The TREC-8 Question Answering Track Report".
    """
    found = _hits(list_QK, relevant_QR, k)
    return np.where(found.any(1), 1 / (found.argmax(1) + 1.0), 0.0)


def coverage(list_QK: Integers, items: int, k: int) -> float:
    """Share of all items that stand in anyone's first k.

    Args:
        list_QK: items, best first, -1 where a list ends early.
        items: number of items.
        k: length of the list.

    Returns:
        A share.

    Source:
        Ge et al. 2010, "Beyond accuracy: evaluating recommender systems by coverage and serendipity".
    """
    shown = np.unique(list_QK[:, :k])
    return float((shown >= 0).sum() / items)


class Seen:
    """Which items each user met already, over one or several tables of interactions.

    Args:
        parts: tables of `user` and `item`.
        users: number of users.
    """

    def __init__(self, parts: Sequence[pa.Table], users: int) -> None:
        user = np.concatenate([part["user"].to_numpy() for part in parts])
        order = np.argsort(user, kind="stable")
        self._item = np.concatenate([part["item"].to_numpy() for part in parts])[order].astype(np.int64)
        self._start = np.searchsorted(user[order], np.arange(users + 1))

    def counts(self, users: Integers) -> Integers:
        """How many items each of these users met."""
        return np.asarray(self._start[users + 1] - self._start[users])

    def pairs(self, users: Integers) -> tuple[Integers, Integers]:
        """Row in `users` and item of everything that these users met."""
        count = self.counts(users)
        row = np.repeat(np.arange(len(users)), count)
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(self._start[users], count)
        return row, self._item[place]

    def drop(self, list_QK: Integers, users: Integers, k: int) -> Integers:
        """The first k of each list that the user did not meet, in their order; -1 where there are fewer."""
        row, item = self.pairs(users)
        width = int(max(list_QK.max(initial=0), item.max(initial=0))) + 1
        met = np.isin(np.arange(len(users))[:, None] * width + list_QK, row * width + item) | (list_QK < 0)
        order = np.argsort(met, axis=1, kind="stable")[:, :k]
        kept = np.where(np.take_along_axis(met, order, 1), -1, np.take_along_axis(list_QK, order, 1))
        return np.pad(kept, ((0, 0), (0, k - kept.shape[1])), constant_values=-1)


Compare = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Scores (Q, N) of rows of users and rows of items."""


def inner_product(left_QD: NDArray[np.float32], right_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (Q, N) of vectors."""
    return np.asarray(left_QD @ right_ND.T)


def rank_by(
    left_QD: NDArray[np.float32],
    right_ND: NDArray[np.float32],
    users: Integers,
    seen: Seen,
    k: int,
    compare: Compare = inner_product,
) -> Integers:
    """The k items of largest inner product that each user has not met; ties go to the lower row.

    Args:
        left_QD: one vector per user.
        right_ND: one vector per item.
        users: whose vectors they are.
        seen: what is left out.
        k: length of the lists.
        compare: another similarity of rows in place of the inner product.

    Returns:
        (Q, k) items, -1 where fewer than k are left.

    Source:
        Ours; a plain exhaustive scan, independent of the index.
    """
    lists = []
    block = max(1, 16_000_000 // len(right_ND))
    for first in range(0, len(users), block):
        some = users[first : first + block]
        scores = compare(left_QD[first : first + block], right_ND)
        row, item = seen.pairs(some)
        scores[row, item] = -np.inf
        lists.append(_top(scores, k))
    return np.concatenate(lists) if lists else np.zeros((0, k), np.int64)


def _top(scores_QN: NDArray[np.float32], k: int) -> Integers:
    """Places of the k largest of each row, largest first, ties by place; -1 for minus infinity."""
    width = min(k, scores_QN.shape[1])
    least = np.partition(scores_QN, scores_QN.shape[1] - width, axis=1)[:, -width]
    out = np.full((len(scores_QN), k), -1, np.int64)
    for row, scores in enumerate(scores_QN):
        place = np.flatnonzero(scores >= least[row])
        place = place[np.argsort(-scores[place], kind="stable")][:width]
        out[row, :width] = np.where(np.isneginf(scores[place]), -1, place)
    return out


POPULARITY_WINDOWS = (1.0, 0.5, 0.25, 0.125, 0.0625)


def popularity(parts: Sequence[pa.Table], items: int, window: float) -> Integers:
    """How often each item was met in the latest share of all interactions.

    Args:
        parts: tables of `item` and `time`.
        items: number of items.
        window: share of the interactions, latest first, 0 to 1; 1 counts all.

    Returns:
        (N) counts.

    Source:
        Ours; a recent window is a stronger baseline than all time wherever fashion moves (Ji et al. 2020, "A
        Re-visit of the Popularity Baseline in Recommender Systems").
    """
    item = np.concatenate([part["item"].to_numpy() for part in parts])
    time = np.concatenate([part["time"].to_numpy() for part in parts])
    latest = np.argsort(-time, kind="stable")[: max(1, round(window * len(time)))]
    return np.bincount(item[latest], minlength=items)


def popularity_lists(counts_N: Integers, users: Integers, seen: Seen, k: int) -> Integers:
    """The k most popular items that each user has not met; ties go to the lower row.

    Args:
        counts_N: how popular each item is.
        users: whom to rank for.
        seen: what is left out.
        k: length of the lists.

    Returns:
        (Q, k) items.

    Source:
        Ours.
    """
    most = int(seen.counts(users).max(initial=0))
    order = np.argsort(-counts_N, kind="stable")[: k + most]
    return np.concatenate(
        [seen.drop(np.tile(order, (len(some), 1)), some, k) for some in np.array_split(users, len(users) // 256 + 1)]
    )


def best_window(
    train: Sequence[pa.Table], items: int, users: Integers, seen: Seen, relevant_QR: Integers, k: int
) -> float:
    """The window of popularity with the highest hit rate on these users; the longest of equals.

    Args:
        train: tables of `item` and `time` to count in.
        items: number of items.
        users: validation users.
        seen: what is left out.
        relevant_QR: their validation items.
        k: length of the lists.

    Returns:
        A share of the interactions, one of `POPULARITY_WINDOWS`.

    Source:
        Ours.
    """
    rates = [
        hit_rate(popularity_lists(popularity(train, items, window), users, seen, k), relevant_QR, k).mean()
        for window in POPULARITY_WINDOWS
    ]
    return POPULARITY_WINDOWS[int(np.argmax(rates))]


def paired_interval(
    ours_Q: Floats, theirs_Q: Floats, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval, over users, of the mean difference ours - theirs.

    Args:
        ours_Q: a metric of each user.
        theirs_Q: the same users' metric under the other ranking.
        seed: of the resampling.
        resamples: how many.
        level: coverage, 0 to 1.

    Returns:
        Lower and upper end.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; users are resampled, so both rankings
        keep meeting the same users.
    """
    difference = ours_Q - theirs_Q
    values, counts = np.unique(difference, return_counts=True)
    rng = np.random.default_rng(seed)
    means_S = rng.multinomial(len(difference), counts / len(difference), size=resamples) @ values / len(difference)
    low, high = np.quantile(means_S, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
