"""What a user did before: the rows that a model may see when it is asked about a row.

Two rules. `before_session`: the user's events strictly before the moment at which the row's session began, for claims
about impressions; nothing of the session itself is seen. `before_row`: the user's events before the row, ties in the
order of the file, for next-item protocols.
"""

# Shapes: E events, U users, Q rows asked for, L places of a history.

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.feed.events.table import Events

Integers = NDArray[np.int64]


class Histories:
    """The events of every user in the order of time, and how far each row may look.

    Attributes:
        rows: (E) row numbers, user by user, oldest first.
        start: (U + 1) where each user's rows begin in `rows`.

    Args:
        events: any.

    Source:
        Ours.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self.rows: Integers = np.argsort(events.user, kind="stable").astype(np.int64)
        self.start: Integers = np.concatenate([[0], np.cumsum(np.bincount(events.user, minlength=events.users))])

    @cached_property
    def before_row(self) -> Integers:
        """(E) events of the user before each row."""
        out = np.empty(len(self.rows), np.int64)
        out[self.rows] = np.arange(len(self.rows)) - self.start[self._events.user[self.rows]]
        return out

    @cached_property
    def before_session(self) -> Integers:
        """(E) events of the user strictly before the beginning of each row's session."""
        return self.before(self._events.user, self._events.began)

    def before(self, user: NDArray[Any], moment: NDArray[Any]) -> Integers:
        """How many events users have strictly before some moments, such as that of a request.

        Args:
            user: (Q) codes.
            moment: (Q) seconds since 1970.

        Returns:
            (Q) counts.
        """
        size = len(self.rows)
        place = self._events.user[self.rows].astype(np.int64) * (size + 1) + self.rows
        wanted = np.asarray(user, np.int64) * (size + 1) + self._events.before(np.asarray(moment, np.int64))
        return np.asarray(np.searchsorted(place, wanted) - self.start[user], np.int64)

    def latest(self, user: NDArray[Any], count: NDArray[Any], length: int) -> Integers:
        """The latest rows of some histories.

        Args:
            user: (Q) whose.
            count: (Q) how many of the user's events may be seen.
            length: places L, one or more.

        Returns:
            (Q, L) row numbers, oldest first, -1 at the end of those that are shorter.
        """
        kept = np.minimum(count, length)
        place = np.arange(length)
        at = (self.start[user] + count - kept)[:, None] + place
        there = place < kept[:, None]
        if not len(self.rows):
            return np.full(at.shape, -1, np.int64)
        return np.where(there, self.rows[np.minimum(at, len(self.rows) - 1)], -1)
