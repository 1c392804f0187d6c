"""Batches: a session a row, its user's history before it, rows of like length together."""

# Shapes: S sessions, B rows of a batch, L events (padded), N candidates (padded).

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from models.feed.history.inputs import Inputs
from models.feed.history.network import Batch, NetworkConfig

Integers = NDArray[np.int64]

BUCKET = 16
"""Batches that are sorted by length together."""


def batch_of(inputs: Inputs, sessions: Integers, config: NetworkConfig, *, rows: Integers | None = None) -> Batch:
    """Some sessions as a batch.

    Args:
        inputs: the log.
        sessions: (B) numbers of the sessions.
        config: how long histories are.
        rows: (B) the one candidate of each; None: all that the sessions show.

    Returns:
        The batch; padded to its longest history and its largest session.

    Source:
        Ours.
    """
    events, order = inputs.events, inputs.histories.rows
    begin_B, length_B = inputs.span(sessions, config.history, config.stride)
    place_L = np.arange(max(1, int(length_B.max(initial=0))))
    there_BL = place_L < length_B[:, None]
    at_BL = order[np.minimum(begin_B[:, None] + place_L, len(order) - 1)]
    if rows is None:
        start_B = inputs.session_start[sessions]
        size_B = inputs.session_start[sessions + 1] - start_B
        place_N = np.arange(int(size_B.max(initial=1)))
        shown_BN = place_N < size_B[:, None]
        # padding repeats the first candidate, whose features of the request are those of all
        row_BN = inputs.session_rows[start_B[:, None] + np.where(shown_BN, place_N, 0)]
    else:
        row_BN, shown_BN = rows[:, None], np.ones((len(rows), 1), bool)
    return Batch(
        event_item=_tensor(np.where(there_BL, events.item[at_BL], 0).astype(np.int64)),
        event_action=_tensor(np.where(there_BL[:, :, None], events.actions[at_BL], np.float32(0))),
        event_gap=_tensor(np.where(there_BL, inputs.gap[at_BL], 0)),
        length=_tensor(length_B),
        user=_tensor(events.user[row_BN[:, 0]].astype(np.int64)),
        item=_tensor(events.item[row_BN].astype(np.int64)),
        feature=_tensor(inputs.features[row_BN]),
        label=_tensor(events.actions[row_BN]),
        weight=_tensor(shown_BN.astype(np.float32)),
        catalogue=inputs.catalogue,
    )


def _tensor(values: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


class SessionBatches:
    """One process's share of the training batches; implements `models.common.contracts.Batches`.

    An epoch is a permutation of the sessions drawn from seed and epoch alone; `BUCKET` batches at a time are sorted by
    length, so that a batch has histories of like length, and the batches are mixed again. Process r of p takes every
    p-th session of each batch from the r-th. The rest that fills no batch waits for another epoch.

    Args:
        inputs: the log.
        sessions: numbers of the training sessions.
        config: how long histories are.
        batch_size: sessions of a step over all processes.
        seed: of the order.
        rank: this process.
        processes: how many there are.

    Raises:
        ValueError: there are fewer sessions than processes.
    """

    def __init__(
        self,
        inputs: Inputs,
        sessions: Integers,
        config: NetworkConfig,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if len(sessions) < processes:
            raise ValueError(
                f"training needs at least one session per process, got {len(sessions)} for {processes} processes; "
                f"lower processes or give more sessions."
            )
        self._inputs, self._sessions, self._config = inputs, sessions, config
        self._size = min(batch_size, len(sessions)) // processes * processes
        self._seed, self._rank, self._processes = seed, rank, processes
        self._length = inputs.span(sessions, config.history, config.stride)[1]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._sessions) // self._size

    def order(self, number: int) -> Integers:
        """(batches, sessions) of one epoch, over all processes."""
        draw = np.random.default_rng([self._seed, number])
        order = draw.permutation(len(self._sessions))[: len(self) * self._size]
        parts = []
        for first in range(0, len(order), BUCKET * self._size):
            some = order[first : first + BUCKET * self._size]
            parts.append(some[np.argsort(self._length[some], kind="stable")].reshape(-1, self._size))
        batches = np.concatenate(parts)
        return np.asarray(self._sessions[batches[draw.permutation(len(batches))]], np.int64)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches of one epoch."""
        for chosen in self.order(number):
            yield batch_of(self._inputs, chosen[self._rank :: self._processes], self._config)
