"""Recommenders that count: what follows what, and how often an item was clicked.

The counter scores item j for a user whose items were h_1 .. h_t, oldest first, by

    score(j) = sum_{k < keep} recency^k * C[h_{t-k}, j] / (tau + sum_m C[h_{t-k}, m]),
    C[i, j]  = sum over pairs of one user's events, i at distance d <= window before j, of d^-power,
               and backward times that over pairs with j before i.

Recent items weigh more, close pairs more, and tau damps what was learned from few pairs. Whether the counts include the
validation event (refit) or not (no refit) is the caller's choice of rows and worth 14 % on the files of S3-Rec, so it
must be said beside every number. It takes seconds and equals published transformers on some files: no table without it.
"""

# Shapes: E events, U users, I items, Q users asked for, T events of their histories.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.feed.events.metrics import hit_rate_at, ndcg_at, target_ranks
from models.feed.events.table import Events

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CELLS = 8_000_000
"""Scores held at a time."""


@dataclass(frozen=True, kw_only=True)
class CounterConfig:
    """How pairs are counted and histories weighed; the defaults were chosen on the validation events of Beauty."""

    window: int = setting(
        10, "Window", "Largest distance of a pair inside one user's events, 1 to 1000.", ge=1, le=1000
    )
    power: float = setting(
        0.5, "Power of distance", "A pair at distance d counts d to the minus this, 0 to 5.", ge=0, le=5
    )
    backward: float = setting(
        0.5, "Backward", "What a pair counts in the direction against time, 0 to 1; 0: only forward.", ge=0, le=1
    )
    recency: float = setting(
        0.6, "Recency", "Weight of each item of the history relative to the next later one, 0 to 1.", ge=0, le=1
    )
    tau: float = setting(30.0, "Damping", "Pairs added to the total of every row, 0 to 1000000.", ge=0, le=1_000_000)
    keep: int = setting(20, "History", "Latest items of the history that are looked at, 1 to 10000.", ge=1, le=10_000)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Counter:
    """Counts of pairs, divided by the damped totals of their rows.

    Attributes:
        config: how they were counted.
        share: (I, I) sparse float32; row i: what goes with item i.
    """

    config: CounterConfig
    share: Any

    @property
    def items(self) -> int:
        """Number of items."""
        return int(self.share.shape[0])

    def scores(self, item_T: NDArray[Any], start_Q: Integers) -> NDArray[np.float32]:
        """Scores of all items for some histories.

        Args:
            item_T: items of all histories, one after another, oldest first.
            start_Q: (Q + 1) where each history begins, and where the last one ends.

        Returns:
            (Q, I), zero or more; zero for what never went with the history.
        """
        config, size = self.config, len(start_Q) - 1
        length_Q = np.diff(start_Q)
        row_T = np.repeat(np.arange(size), length_Q)
        back_T = np.repeat(start_Q[1:], length_Q) - 1 - np.arange(start_Q[0], start_Q[-1])
        near = back_T < config.keep
        # 0 to the 0 is 1: with recency 0 only the latest item counts
        weight = np.float64(config.recency) ** back_T[near]
        history = sparse.csr_matrix(
            (weight.astype(np.float32), (row_T[near], np.asarray(item_T[start_Q[0] : start_Q[-1]])[near])),
            shape=(size, self.items),
        )
        return np.asarray((history @ self.share).toarray(), np.float32)

    def payload(self) -> Payload:
        """The counter as arrays and its configuration."""
        return {
            "data": self.share.data,
            "indices": self.share.indices,
            "indptr": self.share.indptr,
            "config": {name: getattr(self.config, name) for name in self.config.__dataclass_fields__},
        }

    @classmethod
    def from_payload(cls, payload: Payload) -> "Counter":
        """The counter that `payload` described; raises `KeyError` for a part that is missing."""
        size = len(payload["indptr"]) - 1
        share = sparse.csr_matrix((payload["data"], payload["indices"], payload["indptr"]), shape=(size, size))
        return cls(config=CounterConfig(**payload["config"]), share=share)


def fit_counter(config: CounterConfig, user_E: NDArray[Any], item_E: NDArray[Any], items: int) -> Counter:
    """Count pairs.

    Args:
        config: how.
        user_E: user of each event that may be learned from, events in the order of time.
        item_E: their items.
        items: number of all items.

    Returns:
        The counter.

    Source:
        Ours, of known parts: co-occurrence (Sarwar et al. 2001, "Item-based collaborative filtering"; Linden et al.
        2003), decay with distance as in sequential rules (Ludewig & Jannach 2018, "Evaluation of session-based
        recommendation algorithms", SR), damped totals as in Bell & Koren 2007.
    """
    order = np.argsort(user_E, kind="stable")
    user, item = np.asarray(user_E)[order], np.asarray(item_E)[order]
    total = sparse.csr_matrix((items, items), dtype=np.float64)
    for distance in range(1, config.window + 1):
        same = user[:-distance] == user[distance:]
        if not same.any():
            break
        weight = np.full(int(same.sum()), float(distance) ** -config.power)
        pair = (item[:-distance][same], item[distance:][same])
        total += sparse.csr_matrix((weight, pair), shape=(items, items))
    if config.backward:
        total = total + config.backward * total.T
    total = sparse.csr_matrix(total)
    sums = np.asarray(total.sum(1)).reshape(-1) + config.tau
    scale = sparse.diags(np.where(sums > 0, 1 / np.where(sums > 0, sums, 1), 0))
    share = sparse.csr_matrix(scale @ total).astype(np.float32)
    share.sort_indices()
    return Counter(config=config, share=share)


def next_item_metrics(
    counter: Counter, events: Events, known: NDArray[Any], target: Integers, k: int = 10
) -> dict[str, float]:
    """How well the counter ranks held-out events among all items.

    Args:
        counter: the counter.
        events: all events.
        known: rows that are the users' histories; also what is taken out of the ranking.
        target: rows to be found, at most one a user.
        k: length of the lists.

    Returns:
        `hit_rate_at_k` and `ndcg_at_k`, means over targets, under those names; a target that scores zero is a miss.

    Raises:
        ValueError: a user has two targets.

    Source:
        As `target_ranks`.
    """
    who = events.user[target]
    if len(np.unique(who)) < len(who):
        raise ValueError(f"target must hold at most one event a user, got {len(who)} for {len(np.unique(who))} users.")
    history = np.zeros(len(events), bool)
    history[known] = True
    rows = np.flatnonzero(history)
    rows = rows[np.argsort(events.user[rows], kind="stable")]
    owner, item = events.user[rows], events.item[rows]
    hit, gain = [], []
    block = max(1, _CELLS // counter.items)
    target = np.asarray(target)[np.argsort(who, kind="stable")]
    for first in range(0, len(target), block):
        some = target[first : first + block]
        users = events.user[some]
        begin, end = np.searchsorted(owner, users), np.searchsorted(owner, users, side="right")
        start = np.concatenate([[0], np.cumsum(end - begin)])
        place = np.arange(start[-1]) - np.repeat(start[:-1] - begin, end - begin)
        score = counter.scores(item[place], start)
        score[score <= 0] = -np.inf
        seen = np.repeat(np.arange(len(some)), end - begin)
        rank = target_ranks(score, events.item[some], seen, item[place])
        hit.append(hit_rate_at(rank, k))
        gain.append(ndcg_at(rank, k))
    return {
        f"hit_rate_at_{k}": float(np.concatenate(hit).mean()),
        f"ndcg_at_{k}": float(np.concatenate(gain).mean()),
    }


def best_counter(
    configs: Sequence[CounterConfig],
    events: Events,
    train: NDArray[Any],
    validation: Integers,
    *,
    most: int = 5000,
    seed: int = 0,
    k: int = 10,
) -> CounterConfig:
    """The way of counting that ranks the validation events best; the first of equals.

    Args:
        configs: what to try, at least one.
        events: all events.
        train: rows to count in, which are the histories too.
        validation: rows to be found, at most one a user; the test part is not read.
        most: validation events that are looked at, a sample when there are more.
        seed: of the sample.
        k: length of the lists; NDCG@k decides.

    Returns:
        One of `configs`.

    Source:
        Ours.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(validation)[:most])
    found = [
        next_item_metrics(
            fit_counter(config, events.user[train], events.item[train], events.items), events, train, rows, k
        )[f"ndcg_at_{k}"]
        for config in configs
    ]
    return configs[int(np.argmax(found))]


def item_rates(item_E: NDArray[Any], label_E: NDArray[Any], items: int, *, prior: float = 10.0) -> Floats:
    """Item CTR: the rate of every item, pulled towards the rate of all.

    Args:
        item_E: items of the events that may be learned from.
        label_E: their labels, 0 to 1.
        items: number of all items.
        prior: how many events of the rate of all are added to each item, above zero.

    Returns:
        (I) rates; that of all for an item without events, one half when there are none at all.

    Raises:
        ValueError: the prior is not above zero.

    Source:
        Empirical Bayes with the mean of a beta distribution, as in Robinson 2017, "Introduction to Empirical Bayes".
    """
    if not prior > 0:
        raise ValueError(f"prior must be above 0, got {prior}.")
    shown = np.bincount(item_E, minlength=items)
    clicked = np.bincount(item_E, weights=label_E, minlength=items)
    rate = float(np.mean(label_E, dtype=np.float64)) if len(item_E) else 0.5
    return np.asarray((clicked + prior * rate) / (shown + prior))
