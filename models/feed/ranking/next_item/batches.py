"""Batches of about the same number of next items each, in rows of like length, with negatives that all of them share.

A training is so many steps on so many next items, whatever the data's size: batches come from one pass over the users
after another, each in an order of its own, and an epoch is a fixed number of them. So a configuration means the same
work on a thousand users and on a million.
"""

# Shapes: U users who have a next item, B rows of a batch, L events (padded), M next items of a batch, N negatives.

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.feed.ranking.next_item.data import Histories
from models.feed.ranking.next_item.network import Batch

Integers = NDArray[np.int64]
Sampling = Literal["uniform", "popularity"]

BUCKET = 20
"""Batches whose users are sorted by length together."""


class Negatives:
    """Draws the negatives of a step.

    Args:
        count_I: how often each item is in the training part; the others are never drawn.
        size: how many; 0 or more than there are: all.
        sampling: uniform, each at most once, or by popularity, where an item drawn twice counts twice.
        corrected: whether the offsets make the expected sum that over all items (logQ).
    """

    def __init__(self, count_I: NDArray[Any], size: int, sampling: Sampling, *, corrected: bool) -> None:
        self.item = np.flatnonzero(count_I)
        self._all = not 0 < size < len(self.item)
        self._size, self._sampling, self._corrected = size, sampling, corrected
        self._chance = count_I[self.item] / count_I.sum()

    def draw(self, rng: np.random.Generator) -> tuple[Integers, NDArray[np.float32]]:
        """Items (N), each once, and their offsets (N)."""
        if self._all:
            return self.item, np.zeros(len(self.item), np.float32)
        if self._sampling == "uniform":
            place = rng.choice(len(self.item), self._size, replace=False, shuffle=False)
            expected = np.full(self._size, self._size / len(self.item))
            times = np.ones(self._size, np.int64)
        else:
            place, times = np.unique(rng.choice(len(self.item), self._size, p=self._chance), return_counts=True)
            expected = self._size * self._chance[place]
        offset = np.log(times) - (np.log(expected) if self._corrected else 0)
        return self.item[place], offset.astype(np.float32)


class SequenceBatches:
    """Training batches.

    Args:
        histories: the training part of every user.
        negatives: what states are compared with beside their target.
        history: latest events of a user that are read.
        size: next items of a batch over all processes, about.
        steps: batches of an epoch.
        seed: of all orders and draws.
        rank: this process among the data-parallel ones.
        processes: how many there are; each takes its share of every batch's users, all draw the same negatives.

    Raises:
        ValueError: nobody has two events, or there are fewer users than processes.
    """

    def __init__(
        self,
        histories: Histories,
        negatives: Negatives,
        *,
        history: int,
        size: int,
        steps: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        able = histories.take(np.flatnonzero(histories.length > 1))
        if len(able) < processes:
            raise ValueError(
                f"{len(able)} users have two events to learn from, and there are {processes} processes; log more, or "
                f"train in fewer."
            )
        self._rows = able.latest(history + 1)
        self._targets = self._rows.length - 1
        self._negatives, self._steps, self._seed = negatives, steps, seed
        self._rank, self._processes = rank, processes
        self.in_pass = max(1, int(np.ceil(self._targets.sum() / size)))
        """Batches of one pass over all users."""

    def __len__(self) -> int:
        return self._steps

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        known, groups = -1, list[Integers]()
        for step in range(number * self._steps, (number + 1) * self._steps):
            going, place = divmod(step, self.in_pass)
            if going != known:
                known, groups = going, self.groups(going)
            rng = np.random.default_rng((self._seed, 1, step))
            yield self._batch(groups[place], *self._negatives.draw(rng))

    def groups(self, going: int) -> list[Integers]:
        """The users of each batch of a pass: all users once, so that every batch has about as many next items.

        Users are shuffled and sorted by length within the users of some batches, so that rows need little padding;
        then the batches are shuffled.
        """
        rng = np.random.default_rng((self._seed, 0, going))
        order = rng.permutation(len(self._rows))
        total = int(self._targets.sum())
        bucket = self._placed(order, total, BUCKET)
        order = order[np.lexsort((self._targets[order], bucket))]
        batch = self._placed(order, total, 1)
        parts = np.split(order, np.flatnonzero(np.diff(batch)) + 1)
        return [parts[place] for place in rng.permutation(len(parts))]

    def _placed(self, order: Integers, total: int, batches: int) -> Integers:
        """Which so many batches' worth of next items each user of an order falls into, by the middle of hers."""
        amount = self._targets[order]
        middle = 2 * np.cumsum(amount) - amount
        return np.asarray(middle * self.in_pass // (2 * total * batches), np.int64)

    def _batch(self, users: Integers, negative: Integers, offset: NDArray[np.float32]) -> Batch:
        whole = int(self._targets[users].sum())
        rows = self._rows.take(users[self._rank :: self._processes])
        length = rows.length - 1
        # all but the last event of each row are read, all but the first are to be found
        first, last = np.zeros(len(rows.item), bool), np.zeros(len(rows.item), bool)
        first[rows.start[:-1]] = last[rows.start[1:] - 1] = True
        read, found = rows.item[~last], rows.item[~first]
        others = np.setdiff1d(rows.item, negative)
        item = np.concatenate([negative, others])
        order = np.argsort(item)
        read, found = (order[np.searchsorted(item[order], one)] for one in (read, found))
        widest = int(length.max(initial=0))
        row = np.repeat(np.arange(len(length)), length)
        state = row * widest + np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
        history = np.zeros(len(length) * widest, np.int64)
        history[state] = read
        hit = np.flatnonzero(found < len(negative))
        return Batch(
            item=torch.from_numpy(item),
            history=torch.from_numpy(history.reshape(len(length), widest)),
            length=torch.from_numpy(length),
            state=torch.from_numpy(state),
            target=torch.from_numpy(found),
            negatives=len(negative),
            hit=torch.from_numpy(np.stack([hit, found[hit]])),
            offset=torch.from_numpy(offset),
            share=whole / self._processes,
        )
