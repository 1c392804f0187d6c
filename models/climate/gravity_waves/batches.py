"""Batches of hours, read ahead of the step that learns from them.

The order of an epoch follows from seed and epoch alone. Days come in random order; some of them are drawn at a time,
and their hours are shuffled together, so that neighbours in a batch are of different weather while what is read next is
known far ahead. A batch of all processes is the same whatever their number; each reads its own share of it.

Nothing is read for a batch before somebody asks for its values. To go on in the middle of an epoch costs no reading.

Shapes: N hours of a batch, F feature channels, O flux channels, I x J latitudes x longitudes.
"""

import os
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.climate.gravity_waves.fields import FluxFields
from models.common.errors import InputError

Integers = NDArray[np.int64]

DAYS_TOGETHER = 32
"""Days whose hours are shuffled together: as many as a batch has hours, so that few of a batch are of one day."""

READERS = 8
"""Threads that read at most, unless more are asked for."""


class HourBatches:
    """Batches of one epoch after another; see `models.common.contracts.Batches`.

    Every batch is full: what is left of an epoch's order is left out, other hours in every epoch.

    Args:
        fields: what to read from; with fluxes.
        rows: hours to learn from.
        batch_size: hours of a batch over all processes.
        seed: of the order.
        rank: this process.
        processes: how many learn together; the batch size is a multiple of it.
        days: days whose hours are shuffled together.
        ahead: batches that are being read while one is learned from; memory holds so many and two.
        readers: threads that read; 0: one for each core but one that this process has to itself, at most 8.
        pinned: whether batches lie in memory that a GPU copies from directly.

    Raises:
        InputError: there are fewer hours than a batch has, or the fields have no fluxes.
        ValueError: the batch size is no multiple of the processes, or there is no such rank.
    """

    def __init__(
        self,
        fields: FluxFields,
        rows: Integers,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        days: int = DAYS_TOGETHER,
        ahead: int = 2,
        readers: int = 0,
        pinned: bool = False,
    ) -> None:
        if not 0 <= rank < processes:
            raise ValueError(f"rank must be between 0 and {processes - 1}, got {rank}.")
        if batch_size % processes:
            raise ValueError(f"batch_size {batch_size} does not split among {processes} processes; make it a multiple.")
        if min(days, ahead, readers + 1) < 1:
            raise ValueError(f"days and ahead must be at least 1, readers 0, got {days}, {ahead}, {readers}.")
        if len(rows) < batch_size:
            raise InputError(
                f"a batch has {batch_size} hours, and there are {len(rows)} to learn from; lower the batch size, or "
                "prepare more hours."
            )
        if not fields.has_fluxes:
            raise InputError(
                f"{fields.place or 'the root group'} has no uw and vw to learn from; use a dataset with fluxes."
            )
        self._fields = fields
        self._rows = np.asarray(rows, np.int64)
        self._day = fields.time[self._rows].astype("datetime64[D]").astype(np.int64)
        self._batch_size, self._share = batch_size, batch_size // processes
        self._seed, self._rank, self._days = seed, rank, days
        self._ahead, self._pinned = ahead, pinned
        self._readers = readers or max(1, min(READERS, (os.cpu_count() or 1) // processes - 1))

    def __len__(self) -> int:
        return len(self._rows) // self._batch_size

    def order(self, number: int) -> Integers:
        """(T) the hours of one epoch in their order, over all processes; the last may be left out."""
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, number)))
        days, day_T = np.unique(self._day, return_inverse=True)
        place = rng.permutation(len(days))[day_T] // self._days
        return self._rows[np.lexsort((rng.random(len(place)), place))]

    def epoch(self, number: int) -> Iterator["HourBatch"]:
        """Batches of one epoch, each with this process's share of the hours."""
        whole = self.order(number)[: len(self) * self._batch_size].reshape(len(self), self._batch_size)
        mine = whole[:, self._rank * self._share : (self._rank + 1) * self._share]
        reading = _Reading(self._fields, mine, ahead=self._ahead, readers=self._readers, pinned=self._pinned)
        return (HourBatch(reading, place, rows) for place, rows in enumerate(mine))


class HourBatch:
    """Some hours; their values are read when they are asked for.

    Unpacks as (features, fluxes), which is also what `to` gives.

    Attributes:
        rows: (N) numbers of the hours.
    """

    def __init__(self, reading: "_Reading", place: int, rows: Integers) -> None:
        self.rows = rows
        self._reading: _Reading | None = reading
        self._place = place
        self._values: tuple[torch.Tensor, ...] = ()

    @property
    def features(self) -> torch.Tensor:
        """(N, F, I, J) float32; see `FluxFields.read`."""
        return self._read()[0]

    @property
    def fluxes(self) -> torch.Tensor:
        """(N, O, I, J) float32, Pa."""
        return self._read()[1]

    def to(self, device: torch.device | str, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and fluxes on a device; from pinned memory the copy goes on while the caller does."""
        features, fluxes = self._read()
        how = {"non_blocking": features.is_pinned(), **how}
        return features.to(device, **how), fluxes.to(device, **how)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self) -> tuple[torch.Tensor, ...]:
        if self._reading is not None:
            self._values = self._reading.batch(self._place)
            self._reading = None
        return self._values


class _Reading:
    """Threads that read the batches of one epoch, in their order, a few ahead of the one that was asked for.

    They end when nobody holds the epoch or a batch of it that was not read.
    """

    def __init__(self, fields: FluxFields, rows_BN: Integers, *, ahead: int, readers: int, pinned: bool) -> None:
        self._fields, self._rows, self._ahead, self._pinned = fields, rows_BN, ahead, pinned
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="hours")
        self._begun: deque[tuple[int, tuple[torch.Tensor, torch.Tensor], list[Future[None]]]] = deque()
        self._next = 0
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def batch(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch; what comes before it and was not asked for is passed over.

        Raises:
            InputError: a file or a value of one of its hours cannot be used.
        """
        if place < self._next - len(self._begun):  # asked for out of turn; nobody who learns does that
            return self._wait(*self._begin(place))
        while self._begun and self._begun[0][0] < place:
            for one in self._begun.popleft()[2]:
                one.cancel()
        self._next = max(self._next, place)
        while self._next < min(len(self._rows), place + 1 + self._ahead):
            self._begun.append((self._next, *self._begin(self._next)))
            self._next += 1
        _, values, readings = self._begun.popleft()
        return self._wait(values, readings)

    def _begin(self, place: int) -> tuple[tuple[torch.Tensor, torch.Tensor], list[Future[None]]]:
        fields, rows = self._fields, self._rows[place]
        size = (len(rows), fields.features, *fields.shape), (len(rows), fields.outputs, *fields.shape)
        features, fluxes = (torch.empty(one, dtype=torch.float32, pin_memory=self._pinned) for one in size)
        # The pool must not hold this object, or nothing would end it.
        arrays = features.numpy(), fluxes.numpy()
        readings = [
            self._pool.submit(fields.read_into, int(row), arrays[0][n], arrays[1][n]) for n, row in enumerate(rows)
        ]
        return (features, fluxes), readings

    @staticmethod
    def _wait(
        values: tuple[torch.Tensor, torch.Tensor], readings: list[Future[None]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for one in readings:
            one.result()
        return values
