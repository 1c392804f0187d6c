"""What the scorer is given: sessions and their histories, categories, and counting features in standard units.

A session that has `seen` events of its user before it sees the latest of them, at most `history`, from an event on
whose number is a multiple of `stride`. So the oldest event that is seen changes once in `stride` events, and in between
what was computed for a history can be kept and extended. Training and service follow the same rule.
"""

# Shapes: E events, S sessions, L events of a history, F features, Q rows asked for.

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.feed.events.catalogue import GAPS, Catalogue, catalogue_of, gaps
from models.feed.events.features import FEATURES
from models.feed.events.histories import Histories
from models.feed.events.table import Events

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

__all__ = ["GAPS", "OF_CANDIDATE", "OF_REQUEST", "Catalogue", "Inputs", "Past", "Standard", "first_seen"]

OUTERMOST = 8.0
"""Standard deviations beyond which a feature counts as this far out."""

OF_REQUEST = tuple(
    place
    for place, name in enumerate(FEATURES)
    if name.startswith(("hour_", "weekday_")) or name in ("user_rate", "user_count", "user_recency", "user_known")
)
"""Places of the features that all candidates of a request share."""

OF_CANDIDATE = tuple(place for place in range(len(FEATURES)) if place not in OF_REQUEST)


class Past(NamedTuple):
    """Events of one user, oldest first: items (L), responses (L, T), codes of the gaps before them (L)."""

    item: Integers
    action: Singles
    gap: Integers

    @property
    def length(self) -> int:
        """Events, L."""
        return len(self.item)

    def begins_with(self, other: "Past") -> bool:
        """Whether all events of another are the first ones of these."""
        size = other.length
        return size <= self.length and (
            np.array_equal(self.item[:size], other.item)
            and np.array_equal(self.action[:size], other.action)
            and np.array_equal(self.gap[:size], other.gap)
        )

    def after(self, size: int) -> "Past":
        """These events without the first ones."""
        return Past(self.item[size:], self.action[size:], self.gap[size:])

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return int(self.item.nbytes + self.action.nbytes + self.gap.nbytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Standard:
    """Mean and scale of every feature over the training part, by which features are put into standard units.

    Attributes:
        mean: (F).
        scale: (F) standard deviation; 1 for a feature that never varies.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, raw_QF: NDArray[Any]) -> "Standard":
        """Of some rows."""
        values = np.asarray(raw_QF, np.float64)
        spread = values.std(0)
        return cls(mean=values.mean(0), scale=np.where(spread > 1e-9, spread, 1.0))

    def __call__(self, raw_QF: NDArray[Any]) -> Singles:
        """(Q, F) in standard units, at most `OUTERMOST` from zero."""
        values = (np.asarray(raw_QF, np.float64) - self.mean) / self.scale
        return np.clip(values, -OUTERMOST, OUTERMOST).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Events as the scorer sees them.

    Attributes:
        events: the log.
        histories: events of every user.
        gap: (E) codes of the time since the user's event before.
        raw: (E, F) counting features.
        standard: their mean and scale over the training part.
        features: (E, F) the same in standard units.
        catalogue: categories of all items.
        categories: their names, by code.
        session_rows: (E) row numbers, session by session, in the order of rows.
        session_start: (S + 1) where each session's rows begin in `session_rows`.
        seen: (S) events of the user strictly before each session.
    """

    events: Events
    histories: Histories
    gap: Integers
    raw: Singles
    standard: Standard
    features: Singles
    catalogue: Catalogue
    categories: tuple[str, ...]
    session_rows: Integers
    session_start: Integers
    seen: Integers

    @classmethod
    def of(cls, data: Payload) -> "Inputs":
        """The events of a data set as inputs.

        Args:
            data: the parts of `Events.payload`, `features`, `train`, and `layout`, which names the item attribute with
                the categories.

        Raises:
            ValueError: the parts do not fit together.

        Source:
            Ours. Kinds of inputs, sparse and dense: Naumov et al. 2019, "Deep Learning Recommendation Model for
            Personalization and Recommendation Systems".
        """
        events, raw = Events.from_payload(data), np.asarray(data["features"], np.float32)
        if raw.shape != (len(events), len(FEATURES)):
            raise ValueError(
                f"features must be of shape ({len(events)}, {len(FEATURES)}), got {raw.shape}; curate the data again."
            )
        standard = Standard.of(raw[np.asarray(data["train"])])
        histories = Histories(events)
        session_rows = np.argsort(events.session, kind="stable").astype(np.int64)
        _, first = np.unique(events.session[session_rows], return_index=True)
        opening = session_rows[first]
        catalogue, names = catalogue_of(events, data["layout"]["categories"])
        return cls(
            events=events,
            histories=histories,
            gap=gaps(events, histories),
            raw=raw,
            standard=standard,
            features=standard(raw),
            catalogue=catalogue,
            categories=names,
            session_rows=session_rows,
            session_start=np.append(first, len(session_rows)).astype(np.int64),
            seen=histories.before(events.user[opening], events.time[opening]),
        )

    def sessions_of(self, rows: NDArray[Any]) -> Integers:
        """(Q) numbers of the sessions that have at least one of some rows, in the order of sessions."""
        number = np.empty(len(self.session_rows), np.int64)
        number[self.session_rows] = np.repeat(np.arange(len(self.seen)), np.diff(self.session_start))
        return np.unique(number[rows])

    def rows(self, session: int) -> Integers:
        """Row numbers of what a session shows."""
        return self.session_rows[self.session_start[session] : self.session_start[session + 1]]

    def span(self, sessions: Integers, history: int, stride: int) -> tuple[Integers, Integers]:
        """Where the events that sessions see begin in `Histories.rows`, and how many they are."""
        user = self.events.user[self.session_rows[self.session_start[sessions]]]
        skipped = first_seen(self.seen[sessions], history, stride)
        return self.histories.start[user] + skipped, self.seen[sessions] - skipped

    def past(self, session: int, history: int, stride: int) -> Past:
        """The events that a session sees."""
        begin, length = self.span(np.array([session]), history, stride)
        rows = self.histories.rows[begin[0] : begin[0] + length[0]]
        return Past(self.events.item[rows].astype(np.int64), self.events.actions[rows], self.gap[rows])


def first_seen(seen: Integers, history: int, stride: int) -> Integers:
    """Number of the oldest event that is seen when `seen` events have happened: a multiple of the stride."""
    return -(-np.maximum(np.asarray(seen, np.int64) - history, 0) // stride) * stride
