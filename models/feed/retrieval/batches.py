"""Training examples: a member, what she met before, and what she took; gathered, not iterated."""

# Shapes: E examples (training rows), B examples of a batch, H items of a history, M negatives, N items.

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.feed.retrieval.network import Catalogue

Integers = NDArray[np.int64]


class Batch(NamedTuple):
    """One training step's examples.

    Attributes:
        user: (B) members.
        positive: (B) the item that each took.
        history: (B, H) the latest other items of each in training, -1 where there are fewer.
        negative: (M) items drawn uniformly, shared by the batch.
        expected_positive: (N) expected number of times that an item comes as another example's positive.
        expected_negative: expected number of times that any one item comes as a negative.
        catalogue: all items' attributes.
        epoch: passes over the examples that came before.
    """

    user: Tensor
    positive: Tensor
    history: Tensor
    negative: Tensor
    expected_positive: Tensor
    expected_negative: Tensor
    catalogue: Catalogue
    epoch: int


def latest_items(parts: list[pa.Table], users: int, length: int) -> Integers:
    """Each member's latest items over tables that follow one another in time.

    Args:
        parts: tables of `user` and `item`, each by user and then by time.
        users: number of members.
        length: items to keep.

    Returns:
        (users, length), oldest first; -1 behind a shorter history.

    Source:
        Ours.
    """
    user = np.concatenate([part["user"].to_numpy() for part in parts])
    item = np.concatenate([part["item"].to_numpy() for part in parts])
    order = np.argsort(user, kind="stable")
    user, item = user[order], item[order]
    end = np.searchsorted(user, np.arange(users), side="right")
    start = np.maximum(np.searchsorted(user, np.arange(users), side="left"), end - length)
    place = start[:, None] + np.arange(length)
    inside = place < end[:, None]
    return np.where(inside, item[np.minimum(place, len(item) - 1)], -1)


class InteractionBatches:
    """One process's share of the training batches; implements `models.common.contracts.Batches`.

    An epoch is a permutation of all examples drawn from seed and epoch alone. Step s takes the s-th `batch_size` of
    it, and process r of p every p-th example of those from the r-th: all processes take equally many steps, and the
    union over processes is the same whatever their number. The rest that fills no batch waits for another epoch.

    Args:
        train: `user` and `item`, by user and then by time.
        items: number of items.
        catalogue: all items' attributes.
        history: items of a history.
        negatives: uniform negatives of a batch.
        batch_size: examples of a step over all processes.
        seed: of the order.
        rank: this process.
        processes: how many there are.

    Raises:
        ValueError: there are fewer examples than two per process.
    """

    def __init__(
        self,
        train: pa.Table,
        *,
        items: int,
        catalogue: Catalogue,
        history: int,
        negatives: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._user = np.asarray(train["user"].to_numpy(), np.int64)
        self._item = np.asarray(train["item"].to_numpy(), np.int64)
        examples = len(self._item)
        if examples < 2 * processes:
            raise ValueError(
                f"training needs at least two examples per process, got {examples} for {processes} processes; "
                f"lower processes or give more interactions."
            )
        self._size = min(max(batch_size, 2 * processes), examples) // processes * processes
        self._items, self._catalogue, self._negatives = items, catalogue, negatives
        self._seed, self._rank, self._processes = seed, rank, processes
        self._end = np.searchsorted(self._user, self._user, side="right")
        self._start = np.searchsorted(self._user, self._user, side="left")
        self._reach = np.arange(history + 1)
        others = self._size // processes - 1
        count = np.bincount(self._item, minlength=items)
        self._expected_positive = torch.from_numpy((others / (examples - 1) * count).astype(np.float32))
        self._expected_negative = torch.tensor(negatives / items, dtype=torch.float32)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._item) // self._size

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches of one epoch."""
        order = np.random.default_rng([self._seed, number]).permutation(len(self._item))
        for step in range(len(self)):
            rows = order[step * self._size : (step + 1) * self._size][self._rank :: self._processes]
            drawn = np.random.default_rng([self._seed, number, step, self._rank])
            yield Batch(
                user=torch.from_numpy(self._user[rows]),
                positive=torch.from_numpy(self._item[rows]),
                history=torch.from_numpy(self._histories(rows)),
                negative=torch.from_numpy(drawn.integers(0, self._items, self._negatives)),
                expected_positive=self._expected_positive,
                expected_negative=self._expected_negative,
                catalogue=self._catalogue,
                epoch=number,
            )

    def _histories(self, rows: Integers) -> Integers:
        """The member's latest training items without the example itself, as she will be served by her latest items."""
        end, start = self._end[rows, None], self._start[rows, None]
        place = np.maximum(end - len(self._reach), start) + self._reach
        inside = (place < end) & (place != rows[:, None])
        items = np.where(inside, self._item[np.minimum(place, len(self._item) - 1)], -1)
        hole = np.argmin(inside, axis=1)
        kept = self._reach[:-1] + (self._reach[:-1] >= hole[:, None])
        return np.take_along_axis(items, kept, axis=1)
