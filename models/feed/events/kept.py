"""What a service of rankers keeps in memory: what was computed and told of users, and what became of requests."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from models.feed.events.known import Asked, Identifier, Known, Scores, Told

V = TypeVar("V")


class Ranking(Protocol):
    """A version of a ranker, opened for service; safe to use from several threads."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, the main one first."""

    def name(self, user: Identifier) -> Identifier:
        """A user's identifier as the log writes it."""

    def knows(self, item: Identifier) -> bool:
        """Whether an item is one of those that it was trained for."""

    def met(self, asked: Asked, told: "Kept") -> list[Identifier]:
        """Items of the log that a user responded to before the moment, oldest first."""

    def check(self, told: Sequence[Told]) -> list[Told]:
        """Events with their items as the log writes them; raises `AskError` for one that cannot be counted."""

    def rank(self, asked: Asked, told: "Kept") -> Scores:
        """Logits and chances of candidates; raises `AskError`."""

    def counts(self) -> dict[str, float]:
        """What became of requests' histories, and how many bytes are held: hits, extended, misses, evicted, bytes."""


class OfLog:
    """What every ranker of a log says of it: the part of a `Ranking` that no network is asked for.

    Attributes:
        known: the log by its identifiers; made by the subclass.

    Source:
        Ours.
    """

    known: Known

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, the main one first."""
        return self.known.tasks

    def name(self, user: Identifier) -> Identifier:
        """A user's identifier as the log writes it."""
        return self.known.name(user)

    def knows(self, item: Identifier) -> bool:
        """Whether an item is one of the log's."""
        return self.known.knows(item)

    def met(self, asked: Asked, told: "Kept") -> list[Identifier]:
        """Items that a user responded to before the moment, oldest first."""
        return self.known.met(asked, told.of(asked.user))

    def check(self, told: Sequence[Told]) -> list[Told]:
        """Events with their items as the log writes them; raises `AskError` for one that cannot be counted."""
        self.known.line(None, told)
        return self.known.once(told)

    def close(self) -> None:
        """Nothing is on a disk; what answers still goes on."""


class ByteLru(Generic[V]):
    """Values of at most so many bytes; what was not asked for longest goes first. Safe to use from several threads.

    Args:
        size: bytes; a value that alone is larger is not kept, and no other is given up for it.

    Source:
        Ours.
    """

    def __init__(self, size: float) -> None:
        self.size, self.nbytes, self.evicted = size, 0, 0
        self._values: OrderedDict[Identifier, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Identifier) -> V | None:
        """A value; None when there is none."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Identifier, value: V, nbytes: int) -> None:
        """Keep a value in place of the one that the key had, and give up others for it."""
        with self._lock:
            self._put(key, value, nbytes)

    def _put(self, key: Identifier, value: V, nbytes: int) -> None:
        if key in self._values:
            self.nbytes -= self._values.pop(key)[1]
        if nbytes > self.size:
            self.evicted += 1
            return
        self._values[key] = value, nbytes
        self.nbytes += nbytes
        while self.nbytes > self.size:
            self.nbytes -= self._values.popitem(last=False)[1][1]
            self.evicted += 1


class Kept(ByteLru[tuple[Told, ...]]):
    """What was told of users, by their identifiers.

    Args:
        size: bytes.

    Source:
        Ours.
    """

    def __init__(self, size: float) -> None:
        super().__init__(size)
        self.revision = 0

    def of(self, user: Identifier | None) -> tuple[Told, ...]:
        """What was told of a user, in the order in which it came."""
        return () if user is None else self.get(user) or ()

    def add(self, user: Identifier, told: Sequence[Told]) -> int:
        """Keep events; one of an item and a moment takes the place of an earlier one of both.

        Returns:
            How many of the user are kept now; 0 when they do not fit.
        """
        with self._lock:
            known = self._values[user][0] if user in self._values else ()
            merged = {(one.item.id, one.time): one for one in known} | {(one.item.id, one.time): one for one in told}
            everything = tuple(merged.values())
            self._put(user, everything, sum(map(_bytes, everything)) + sys.getsizeof(everything))
            self.revision += 1
            return len(everything) if user in self._values else 0

    def everything(self) -> tuple[int, dict[Identifier, tuple[Told, ...]]]:
        """A number that grows with every change, and all that is kept at that moment."""
        with self._lock:
            return self.revision + self.evicted, {user: told for user, (told, _) in self._values.items()}


def _bytes(told: Told) -> int:
    size = sys.getsizeof
    kinds = told.item.categories or ()
    return (
        sum(map(size, (told, told.item, told.item.id, told.time, told.actions, kinds)))
        + sum(map(size, kinds))
        + 24 * len(told.actions)
        + 200  # the places in dictionaries
    )


class Outcomes:
    """What became of the histories of requests; safe to use from several threads."""

    def __init__(self) -> None:
        self._counts = {"hits": 0, "extended": 0, "misses": 0}
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        """Count a request: `hits` where the history was there, `extended` but for its end, `misses` not at all."""
        with self._lock:
            self._counts[what] += 1

    def summary(self) -> dict[str, float]:
        """The counts, and the share of requests that found their history or most of it; 0 before the first."""
        with self._lock:
            counts = dict(self._counts)
        asked = sum(counts.values())
        return {**counts, "cache_hit_rate": (asked - counts["misses"]) / asked if asked else 0.0}
