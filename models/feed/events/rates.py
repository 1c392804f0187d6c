"""Rates of an item's and of a user's events, from the past alone: what a network over identities cannot keep up with.

Of the n events of the item, or of the user, strictly before the moment t and at most so many days before it, c with a
response to the main task,

    rate = (c + m r) / (n + m),   r = (C + 1) / (N + 2),   m = 10,

with C of the N events of all before t, whenever they were. Its log-odds are told. Over all days they are those of
`item_rate` and `user_rate` of `models.feed.events.features`. Of an item whoever's events count; nothing of the session
itself does, and nothing of the same second.
"""

# Shapes: E events, Q keys asked about: items or users.

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.feed.events.features import DAY_SECONDS, SMOOTHING
from models.feed.events.leakage import check_recomputed
from models.feed.events.table import Events

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

EVER = 100_000
"""Days in which all events are."""
CHECKED = 24
"""Rows whose rates are counted a second time before anything is learned from them."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What was counted before some moments: events and responses of some keys (Q), and of all of them (Q)."""

    events: Floats
    responses: Floats
    all_events: Floats
    all_responses: Floats

    def plus(self, other: "Tally", sign: float = 1.0) -> "Tally":
        """With the events of another log too, or without them."""
        return Tally(
            events=self.events + sign * other.events,
            responses=self.responses + sign * other.responses,
            all_events=self.all_events + sign * other.all_events,
            all_responses=self.all_responses + sign * other.all_responses,
        )

    @property
    def odds(self) -> Floats:
        """(Q) log-odds of the smoothed rates."""
        overall = (self.all_responses + 1) / (self.all_events + 2)
        rate = (self.responses + SMOOTHING * overall) / (self.events + SMOOTHING)
        return np.asarray(np.log(rate / (1 - rate)))


class PastRates:
    """Counts of items, or of users, before any moment.

    Args:
        key: (E) codes of items, or of users.
        time: (E) seconds since 1970, in any order.
        label: (E) responses to the main task, 0 to 1.

    Source:
        Ours; a counted rate as a feature, as in Richardson et al. 2007, "Predicting clicks".
    """

    def __init__(self, key: NDArray[Any], time: NDArray[Any], label: NDArray[Any]) -> None:
        order = np.argsort(time, kind="stable")
        self._time = np.asarray(time, np.int64)[order]
        key_E, label_E = np.asarray(key, np.int64)[order], np.asarray(label, np.float64)[order]
        self._size = len(order)
        by_key = np.argsort(key_E, kind="stable")
        # key and place in time as one number that rises
        self._place = key_E[by_key] * (self._size + 1) + by_key
        self._running = np.concatenate([[0.0], np.cumsum(label_E[by_key])])
        self._running_all = np.concatenate([[0.0], np.cumsum(label_E)])

    @classmethod
    def of(cls, events: Events, key: Literal["item", "user"]) -> "PastRates":
        """Of a log; raises `ValueError` when it has no times."""
        if not events.timed:
            raise ValueError(
                "rates of the past need moments, and these events have only the order of their file; take a source "
                "with times or set NetworkConfig.rate_days to 0 and user_rate off."
            )
        return cls(getattr(events, key), events.time, events.label)

    def before(self, key_Q: NDArray[Any], moment_Q: NDArray[Any], days: int) -> Tally:
        """What happened strictly before some moments.

        Args:
            key_Q: codes; one that has no events counts none.
            moment_Q: seconds since 1970.
            days: how far back events of a key count; those of all count whenever they were.
        """
        key, moment = np.asarray(key_Q, np.int64), np.asarray(moment_Q, np.int64)
        until = np.searchsorted(self._time, moment, side="left")
        since = np.searchsorted(self._time, moment - days * DAY_SECONDS, side="left")
        low, high = (np.searchsorted(self._place, key * (self._size + 1) + row) for row in (since, until))
        return Tally(
            events=(high - low).astype(np.float64),
            responses=self._running[high] - self._running[low],
            all_events=until.astype(np.float64),
            all_responses=self._running_all[until],
        )


def check_rates(events: Events, rows: Integers, days: int, rates: PastRates, key: Literal["item", "user"]) -> None:
    """Refuse rates that know more than the past: some of the rows are counted again.

    Args:
        events: the log.
        rows: rows to learn from.
        days: how far back events count.
        rates: what is to be learned from.
        key: whose they are.

    Raises:
        LeakageError: a rate is not what the events before the session give.

    Source:
        See `models.feed.events.leakage.check_recomputed`.
    """
    sampled = np.sort(np.random.default_rng(0).permutation(rows)[:CHECKED])

    def again(past: Events, user: int, item: int, moment: int) -> dict[str, float]:
        label = [float(value) for value in past.label]
        wanted, keys = (item, past.item) if key == "item" else (user, past.user)
        ours = [
            place
            for place, (one, then) in enumerate(zip(keys.tolist(), past.time.tolist(), strict=True))
            if one == wanted and then >= moment - days * DAY_SECONDS
        ]
        overall = (math.fsum(label) + 1) / (len(label) + 2)
        rate = (math.fsum(label[place] for place in ours) + 10 * overall) / (len(ours) + 10)
        return {f"{key}_odds": math.log(rate) - math.log(1 - rate)}

    found = rates.before(getattr(events, key)[sampled], events.began[sampled], days).odds
    check_recomputed(events, sampled, found[:, None], (f"{key}_odds",), again, sample=CHECKED)
