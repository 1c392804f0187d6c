"""Counting features of a user, an item and a moment, from the past alone.

A feature of a row may use events strictly before the moment at which the row's session began, whoever's they are, and
nothing else: neither the row itself, nor what else happened in its session, nor what another user did in the same
second. A request in service is treated alike: its session begins now.

With n events and c positive ones of the kind named, before the moment t, and m = 10 smoothing events, a rate is
(c + m r) / (n + m), where r is the rate of all events before t, (C + 1) / (N + 2).

    user_rate           rate of the user's events
    item_rate           rate of the item's events
    user_category_rate  rate of the user's events with items that share a category, counted once a category shared
    category_rate       rate of all events with items that share a category, counted likewise
    pair_rate           rate of the user's events with this very item
    user_count          log(1 + n) of the user's events
    item_count          log(1 + n) of the item's events
    user_category_count log(1 + n) of the events behind user_category_rate
    pair_count          log(1 + n) of the user's events with this very item
    user_recency        log(1 + seconds since the user's last event); 0 without one
    item_recency        log(1 + seconds since the item's last event); 0 without one
    user_known          1 when the user has an event, else 0
    item_known          1 when the item has an event, else 0
    item_age            log(1 + seconds since the item's first event); 0 without one
    item_day            log(1 + n) of the item's events in the last 24 hours
    item_week           log(1 + n) of the item's events in the last 7 days
    item_month          log(1 + n) of the item's events in the last 30 days
    item_week_share     the item's share of all events in the last 7 days, times the number of items; 0 without events
    item_week_rate      rate of the item's events in the last 7 days
    hour_sine           sine of the time of day, UTC, 24 hours a turn
    hour_cosine         cosine of it
    weekday_sine        sine of the time of the week, UTC, 7 days a turn
    weekday_cosine      cosine of it

The four features of categories are 0 or the overall rate for an item without a category, and so for all without an
attribute of categories. Of several tasks the main one counts. `leakage.recompute` says the same again, slowly.
"""

# Shapes: E events, Q rows asked for, F features, M memberships of items in categories.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.feed.events.table import Categories, Events

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DAY_SECONDS = 86_400
SMOOTHING = 10.0
"""Events of the overall rate that are added to every rate."""

FEATURES = (
    "user_rate", "item_rate", "user_category_rate", "category_rate", "pair_rate",
    "user_count", "item_count", "user_category_count", "pair_count",
    "user_recency", "item_recency", "user_known", "item_known", "item_age",
    "item_day", "item_week", "item_month", "item_week_share", "item_week_rate",
    "hour_sine", "hour_cosine", "weekday_sine", "weekday_cosine",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _Past:
    """Events sorted by a key and, within a key, in the order of time, with running sums.

    Attributes:
        place: key * (events + 1) + row, rising.
        row: row of each.
        positives: running sum of labels, one longer.
        size: number of events.
    """

    place: Integers
    row: Integers
    positives: Floats
    size: int

    @classmethod
    def of(cls, key: Integers, row: Integers, label: Floats, size: int) -> "_Past":
        place = key * (size + 1) + row
        order = np.argsort(place, kind="stable")
        return cls(
            place=place[order],
            row=row[order],
            positives=np.concatenate([[0.0], np.cumsum(label[row[order]])]),
            size=size,
        )

    def upto(self, key: Integers, row: Integers) -> Integers:
        """How many entries have a smaller key, or this key and a row below `row`."""
        return np.asarray(np.searchsorted(self.place, key * (self.size + 1) + row), np.int64)

    def count(self, key: Integers, since: Integers, until: Integers) -> tuple[Integers, Floats]:
        """Events of a key, and positive ones, among the rows from `since` up to but without `until`."""
        low, high = self.upto(key, since), self.upto(key, until)
        return high - low, self.positives[high] - self.positives[low]


class PastCounts:
    """Counting features of any users, items and moments with respect to a log.

    Args:
        events: the log; must have times.
        attribute: item attribute that holds the categories; empty for none.

    Raises:
        ValueError: the events have no times or no such attribute.
    """

    def __init__(self, events: Events, attribute: str = "") -> None:
        if not events.timed:
            raise ValueError(
                "features of the past need moments, and these events have only the order of their file; "
                "take a source with times."
            )
        self.events = events
        size = len(events)
        row = np.arange(size)
        label = np.asarray(events.label, np.float64)
        user, item = events.user.astype(np.int64), events.item.astype(np.int64)
        self._positives = np.concatenate([[0.0], np.cumsum(label)])
        self._user = _Past.of(user, row, label, size)
        self._item = _Past.of(item, row, label, size)
        self._pair = _Past.of(user * events.items + item, row, label, size)
        self._categories: Categories | None = None
        if attribute:
            self._categories = events.categories(attribute)
            member, code = self._categories.of(events.item)
            self._category = _Past.of(code, member, label, size)
            self._user_category = _Past.of(user[member] * self._width + code, member, label, size)

    @property
    def _width(self) -> int:
        return len(self._categories.names) if self._categories is not None else 0

    def at(self, user_Q: NDArray[Any], item_Q: NDArray[Any], moment_Q: NDArray[Any]) -> Floats:
        """Features of rows whose sessions begin at the given moments.

        Args:
            user_Q: codes of users.
            item_Q: codes of items.
            moment_Q: seconds since 1970.

        Returns:
            (Q, F) in the order of `FEATURES`, float64, finite.

        Source:
            Ours; counting features for cross networks as in Borisyuk et al. 2024, "LiRank: Industrial Large Scale
            Ranking Models at LinkedIn", section 3, and Cheng et al. 2016, "Wide & Deep Learning".
        """
        user, item = np.asarray(user_Q, np.int64), np.asarray(item_Q, np.int64)
        moment = np.asarray(moment_Q, np.int64)
        events = self.events
        until = events.before(moment)
        zero = np.zeros(len(until), np.int64)
        overall = (self._positives[until] + 1) / (until + 2)

        def rate(counted: tuple[Any, Floats]) -> Floats:
            return np.asarray((counted[1] + SMOOTHING * overall) / (counted[0] + SMOOTHING))

        of_user, of_item = self._user.count(user, zero, until), self._item.count(item, zero, until)
        of_pair = self._pair.count(user * events.items + item, zero, until)
        of_category, of_both = self._by_category(user, item, until)
        since = {days: events.before(moment - days * DAY_SECONDS) for days in (1, 7, 30)}
        recent = {days: self._item.count(item, row, until) for days, row in since.items()}
        in_week = until - since[7]
        columns = {
            "user_rate": rate(of_user),
            "item_rate": rate(of_item),
            "user_category_rate": rate(of_both),
            "category_rate": rate(of_category),
            "pair_rate": rate(of_pair),
            "user_count": np.log1p(of_user[0]),
            "item_count": np.log1p(of_item[0]),
            "user_category_count": np.log1p(of_both[0]),
            "pair_count": np.log1p(of_pair[0]),
            "user_recency": self._since_last(self._user, user, until, moment, of_user[0]),
            "item_recency": self._since_last(self._item, item, until, moment, of_item[0]),
            "user_known": of_user[0] > 0,
            "item_known": of_item[0] > 0,
            "item_age": self._since_first(self._item, item, moment, of_item[0]),
            "item_day": np.log1p(recent[1][0]),
            "item_week": np.log1p(recent[7][0]),
            "item_month": np.log1p(recent[30][0]),
            "item_week_share": events.items * recent[7][0] / np.maximum(in_week, 1),
            "item_week_rate": rate(recent[7]),
            **_clock(moment),
        }
        return np.stack([np.asarray(columns[name], np.float64) for name in FEATURES], 1)

    def of_events(self, rows: NDArray[Any] | None = None) -> Floats:
        """Features of the log's own rows, each at the beginning of its session.

        Args:
            rows: which; None for all.

        Returns:
            (Q, F) in the order of `FEATURES`.
        """
        some = np.arange(len(self.events)) if rows is None else np.asarray(rows)
        return self.at(self.events.user[some], self.events.item[some], self.events.began[some])

    def _by_category(
        self, user: Integers, item: Integers, until: Integers
    ) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Events and positives of the item's categories: of everybody, and of the user."""
        size = len(user)
        if self._categories is None:
            return (np.zeros(size), np.zeros(size)), (np.zeros(size), np.zeros(size))
        place, code = self._categories.of(item)
        zero = np.zeros(len(place), np.int64)
        everybody = self._category.count(code, zero, until[place])
        own = self._user_category.count(user[place] * self._width + code, zero, until[place])
        summed = [
            np.bincount(place, weights=values, minlength=size).astype(np.float64) for values in (*everybody, *own)
        ]
        return (summed[0], summed[1]), (summed[2], summed[3])

    def _since_last(self, past: _Past, key: Integers, until: Integers, moment: Integers, count: Integers) -> Floats:
        """log(1 + seconds since the key's last event), 0 without one."""
        return self._elapsed(past, past.upto(key, until) - 1, moment, count)

    def _since_first(self, past: _Past, key: Integers, moment: Integers, count: Integers) -> Floats:
        """log(1 + seconds since the key's first event), 0 without one."""
        return self._elapsed(past, past.upto(key, np.zeros_like(key)), moment, count)

    def _elapsed(self, past: _Past, entry: Integers, moment: Integers, count: Integers) -> Floats:
        if not past.size:
            return np.zeros(len(moment))
        then = self.events.time[past.row[np.clip(entry, 0, len(past.row) - 1)]]
        return np.where(count > 0, np.log1p(np.where(count > 0, moment - then, 0)), 0.0)


def _clock(moment: Integers) -> dict[str, Floats]:
    day = 2 * np.pi * (moment % DAY_SECONDS) / DAY_SECONDS
    week = 2 * np.pi * (moment % (7 * DAY_SECONDS)) / (7 * DAY_SECONDS)
    return {
        "hour_sine": np.sin(day),
        "hour_cosine": np.cos(day),
        "weekday_sine": np.sin(week),
        "weekday_cosine": np.cos(week),
    }
