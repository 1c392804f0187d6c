"""What the ranker is told of an event and of a candidate, as arrays; all of it is known when it is asked.

    1 item         its identity
    2 categories   those of the item
    3 actions      how the user responded; of past events alone
    4 gap          time since the user's event before, in powers of two
    5 hour         hour of the day, UTC
    6 order        the place in the history, by rotary positions
    7 user         her identity; of candidates alone
    8 rates        log-odds of the item's rate in the last days, whoever's events they are, and of the user's rate; of
                   candidates alone

The last two and the hour are told where `NetworkConfig` says so; no preset tells more than seven.

A session is asked about at the moment when it begins. The user's events strictly before that moment are its history,
the latest `history` of them. Nothing of the session itself is told but the items that it shows.
"""

# Shapes: E events, S sessions, Q sessions asked about, L events of a history.

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.feed.events.catalogue import GAPS, Catalogue, catalogue_of, gap_codes, gaps
from models.feed.events.histories import Histories
from models.feed.events.rates import PastRates
from models.feed.events.table import Events

Integers = NDArray[np.int64]

HOURS = 24

__all__ = ["GAPS", "HOURS", "Catalogue", "Inputs", "gap_codes", "hours"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Events as the ranker sees them.

    Attributes:
        events: the log.
        histories: events of every user.
        gap: (E) codes of the time since the user's event before.
        hour: (E) hours of the day.
        catalogue: categories of all items.
        categories: their names, by code.
        attribute: the item attribute that holds them; empty for none.
        session_rows: (E) row numbers, session by session, in the order of rows.
        session_start: (S + 1) where each session's rows begin in `session_rows`.
        seen: (S) events of the user strictly before each session.
        session_gap: (S) codes of the time since the last of these.
    """

    events: Events
    histories: Histories
    gap: Integers
    hour: Integers
    catalogue: Catalogue
    categories: tuple[str, ...]
    attribute: str
    session_rows: Integers
    session_start: Integers
    seen: Integers
    session_gap: Integers

    @classmethod
    def of(cls, data: Payload) -> "Inputs":
        """The events of a payload as inputs.

        Args:
            data: the parts of `Events.payload`, and `layout`, which names the item attribute with the categories.

        Raises:
            ValueError: the parts do not fit together.
        """
        return cls.of_events(Events.from_payload(data), data["layout"]["categories"])

    @classmethod
    def of_events(cls, events: Events, categories: str) -> "Inputs":
        """The events of a log as inputs.

        Args:
            events: the log.
            categories: the item attribute with the categories; empty for none.

        Raises:
            ValueError: there is no such attribute.

        Source:
            Ours. Kinds of inputs: LiGR (arXiv 2502.03417), table 2; action and time of past events: Zhai et al. 2024
            (arXiv 2402.17152).
        """
        histories = Histories(events)
        session_rows = np.argsort(events.session, kind="stable").astype(np.int64)
        _, first = np.unique(events.session[session_rows], return_index=True)
        opening = session_rows[first]
        user, began = events.user[opening], events.time[opening]
        seen = histories.before(user, began)
        last = histories.latest(user, seen, 1)[:, 0] if len(seen) else np.zeros(0, np.int64)
        elapsed = np.where(last >= 0, began - events.time[last], 0)
        catalogue, names = catalogue_of(events, categories)
        return cls(
            events=events,
            histories=histories,
            gap=gaps(events, histories),
            hour=hours(events.time),
            catalogue=catalogue,
            categories=names,
            attribute=categories,
            session_rows=session_rows,
            session_start=np.append(first, len(session_rows)).astype(np.int64),
            seen=seen,
            session_gap=np.where(last >= 0, gap_codes(elapsed), 0),
        )

    @cached_property
    def item_rates(self) -> PastRates:
        """What counts the events of items; raises `ValueError` when the log has no times."""
        return PastRates.of(self.events, "item")

    @cached_property
    def user_rates(self) -> PastRates:
        """What counts the events of users; raises `ValueError` when the log has no times."""
        return PastRates.of(self.events, "user")

    def sessions_of(self, rows: NDArray[Any]) -> Integers:
        """(Q) numbers of the sessions that have at least one of some rows, in the order of sessions."""
        number = np.empty(len(self.session_rows), np.int64)
        number[self.session_rows] = np.repeat(np.arange(len(self.seen)), np.diff(self.session_start))
        return np.unique(number[rows])

    def rows(self, session: int) -> Integers:
        """Row numbers of what a session shows."""
        return self.session_rows[self.session_start[session] : self.session_start[session + 1]]

    def history(self, session: int, length: int) -> Integers:
        """(L) row numbers of the latest `length` events before a session, oldest first."""
        user = self.events.user[self.session_rows[self.session_start[session]]]
        end = self.histories.start[user] + self.seen[session]
        return self.histories.rows[max(self.histories.start[user], end - length) : end]


def hours(time: NDArray[np.int64]) -> Integers:
    """Hour of the day, UTC."""
    return np.asarray((time % 86_400) // 3600, np.int64)
