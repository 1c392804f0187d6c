"""A log as a service sees it: identifiers for codes, items that nobody knew, and users' events with those of today.

What is asked and told in service speaks of identifiers, as the user's own tables do; what is served was made from a log
and speaks of codes. `Known` stands between: it knows all users, items and categories of a log, and it puts a user's
events of the log and those that were told since into one line of time.

An item that the log lacks is its categories alone. Two such items with the same categories are the same to a model, so
both get one code behind those of the log, and as many codes are given as there are different sets of categories.
"""

# Shapes: L events of a user, N candidates, T tasks, I items of the log, U users of the log.

import contextlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.feed.events.catalogue import gap_codes
from models.feed.events.histories import Histories
from models.feed.events.table import Events

Identifier = int | str
Integers = NDArray[np.int64]
Singles = NDArray[np.float32]

GUESTS = 4096
"""Most sets of categories that items unknown to the log may have."""

RESPONDED = 0.5
"""Responses to the main task from which on a user met an item."""


class AskError(ValueError):
    """A request that cannot be answered.

    Attributes:
        field: where in the request, as in `candidates[3]`.
        value: what stands there.
        remedy: what would be right.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field}: {shown(value)}: {remedy}.")
        self.field, self.value, self.remedy = field, value, remedy


class Item(NamedTuple):
    """An item as somebody names it; `categories` are read where it is unknown, None when nobody said."""

    id: Identifier
    categories: tuple[str, ...] | None = None


class Told(NamedTuple):
    """What a user did, as somebody tells it; of one user, item and moment there is one event."""

    item: Item
    time: int
    actions: Mapping[str, float]


class Asked(NamedTuple):
    """A request.

    Attributes:
        user: who; None for somebody of whom only `history` is known.
        history: her events; None for those that are known of her.
        time: the moment, in seconds since 1970; events strictly before it count.
        candidates: what is to be ordered, one or more.
    """

    user: Identifier | None
    history: tuple[Told, ...] | None
    time: int
    candidates: tuple[Item, ...]


class Scores(NamedTuple):
    """Answers to a request.

    Attributes:
        logit: (N, T).
        chance: (N, T) calibrated.
        unknown: (N) whether an item was scored by its categories alone.
        seen: events of the user that counted.
    """

    logit: Singles
    chance: NDArray[np.float64]
    unknown: NDArray[np.bool_]
    seen: int


class Line(NamedTuple):
    """Events of one user in the order of time: items (L), responses (L, T), moments (L)."""

    item: Integers
    action: Singles
    time: Integers

    def before(self, moment: int) -> int:
        """How many lie strictly before a moment."""
        return int(np.searchsorted(self.time, moment, side="left"))

    @property
    def gap(self) -> Integers:
        """(L) codes of the time since the event before; 0 for the first."""
        return np.concatenate([np.zeros(min(1, len(self.time)), np.int64), gap_codes(np.diff(self.time))])


class Known:
    """Users, items and categories of a log; safe to use from several threads.

    Args:
        events: the log.
        attribute: item attribute with the categories; empty for none.
        admit: is told of a code behind those of the log, and of the categories that it stands for, before anybody uses
            it.

    Source:
        Ours.
    """

    def __init__(
        self, events: Events, attribute: str, admit: Callable[[int, tuple[int, ...]], None] = lambda code, kinds: None
    ) -> None:
        self.events, self.attribute, self._admit = events, attribute, admit
        self._histories = Histories(events)
        self._users = {identifier: code for code, identifier in enumerate(events.user_ids.to_pylist())}
        self._names = events.item_ids.to_pylist()
        self._items = {identifier: code for code, identifier in enumerate(self._names)}
        names = events.categories(attribute).names if attribute else ()
        self._categories = {name: code for code, name in enumerate(names)}
        self._numbers = pa.types.is_integer(events.user_ids.type), pa.types.is_integer(events.item_ids.type)
        self._guests: dict[tuple[int, ...], int] = {}
        self._lock = threading.Lock()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, the main one first."""
        return self.events.tasks

    def name(self, user: Identifier) -> Identifier:
        """A user's identifier as the log writes it: 7 for '7' where identifiers are numbers, '7' for 7 elsewhere."""
        return _as(user, number=self._numbers[0])

    def user(self, user: Identifier | None) -> int:
        """A user's code; U for one whom the log does not know."""
        return self.events.users if user is None else self._users.get(self.name(user), self.events.users)

    def spelled(self, item: Identifier) -> Identifier:
        """An item's identifier as the log writes it, as `name` of a user's."""
        return _as(item, number=self._numbers[1])

    def once(self, told: Sequence[Told]) -> list[Told]:
        """Events with their items as the log writes them; of one item and moment the last takes the first's place."""
        return [
            told[row]._replace(item=told[row].item._replace(id=self.spelled(told[row].item.id)))
            for row in self._last(told)
        ]

    def knows(self, item: Identifier) -> bool:
        """Whether an item is one of the log's."""
        return self.spelled(item) in self._items

    def item(self, item: Item, field: str) -> int:
        """An item's code.

        Args:
            item: what is named.
            field: where it is named, for the message.

        Raises:
            AskError: it is unknown, and nobody said of which categories it is; or there are too many of these.
        """
        code = self._items.get(self.spelled(item.id))
        if code is not None:
            return code
        if item.categories is None:
            raise AskError(
                field,
                item.id,
                "this item is unknown; say of which categories it is, as in "
                '{"item": ..., "categories": ["..."]}, [] for none, or leave it out',
            )
        kinds = tuple(sorted({self._categories[name] for name in item.categories if name in self._categories}))
        with self._lock:
            if kinds not in self._guests:
                kept = bool(kinds) and () not in self._guests  # a place for items of which nothing is known
                if len(self._guests) + kept >= GUESTS:
                    raise AskError(
                        field,
                        item.id,
                        f"{GUESTS} different sets of categories of unknown items were met already; leave the item out "
                        "until the next training",
                    )
                guest = self.events.items + len(self._guests)
                self._admit(guest, kinds)
                self._guests[kinds] = guest
            return self._guests[kinds]

    def _last(self, told: Sequence[Told]) -> list[int]:
        """Of the events of each item and moment the last, in the order of their first."""
        return list({(self.spelled(one.item.id), one.time): row for row, one in enumerate(told)}.values())

    def guests(self) -> list[tuple[int, ...]]:
        """Categories behind the codes after those of the log, in their order."""
        with self._lock:
            return list(self._guests)

    def codes(self, items: Sequence[Item], field: str) -> Integers:
        """(N) codes of items; raises `AskError`."""
        return np.array([self.item(item, f"{field}[{place}]") for place, item in enumerate(items)], np.int64)

    def actions(self, told: Mapping[str, float], field: str) -> list[float]:
        """Responses in the order of the tasks, 0 where nothing is said; raises `AskError` for an unknown task."""
        unknown = sorted(set(told) - set(self.tasks))
        if unknown:
            raise AskError(field, unknown[0], f"there is no such task; there are {list(self.tasks)}")
        return [float(told.get(task, 0.0)) for task in self.tasks]

    def countable(self, told: Sequence[Told]) -> Sequence[Told]:
        """The events that this log has items and tasks for, each once: what one was told, the next sees."""
        found = []
        for one in told:
            with contextlib.suppress(AskError):
                self.item(one.item, "item")
                self.actions(one.actions, "actions")
                found.append(one)
        return self.once(found)

    def met(self, asked: Asked, told: Sequence[Told]) -> list[Identifier]:
        """Items of the log that a user responded to before the moment of a request, oldest first."""
        if asked.history is not None:
            line = self.line(None, asked.history, "history")
        else:
            line = self.line(asked.user, self.countable(told))
        seen = line.before(asked.time)
        liked = line.item[:seen][line.action[:seen, 0] >= RESPONDED]
        return [self._names[code] for code in liked.tolist() if code < self.events.items]

    def line(self, user: Identifier | None, told: Sequence[Told], field: str = "events") -> Line:
        """A user's events of the log and those that were told, in the order of time.

        Args:
            user: who; None for nobody of the log.
            told: events; one of an item and a moment that the log has takes the place of that of the log, and one
                that was told before of that which was told.
            field: where they were told, for messages.

        Returns:
            Her events; those of one moment in the order of the log, then in that of `told`.

        Raises:
            AskError: an item or a task of `told` is unknown.
        """
        events, code = self.events, self.user(user)
        rows = np.zeros(0, np.int64)
        if code < events.users:
            rows = self._histories.rows[self._histories.start[code] : self._histories.start[code + 1]]
        base = Line(events.item[rows].astype(np.int64), events.actions[rows], events.time[rows])
        if not told:
            return base
        item = [self.item(one.item, f"{field}[{place}].item") for place, one in enumerate(told)]
        action = [self.actions(one.actions, f"{field}[{place}].actions") for place, one in enumerate(told)]
        row = self._last(told)
        new = Line(
            np.array(item, np.int64)[row],
            np.array(action, np.float32)[row],
            np.array([one.time for one in told], np.int64)[row],
        )
        again = set(zip(new.item.tolist(), new.time.tolist(), strict=True))
        kept = [pair not in again for pair in zip(base.item.tolist(), base.time.tolist(), strict=True)]
        time = np.concatenate([base.time[kept], new.time])
        order = np.argsort(time, kind="stable")
        return Line(
            np.concatenate([base.item[kept], new.item])[order],
            np.concatenate([base.action[kept], new.action])[order],
            time[order],
        )


def shown(value: object) -> str:
    """A value as errors show it: never longer than a line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _as(identifier: Identifier, *, number: bool) -> Identifier:
    if number and isinstance(identifier, str):
        return int(identifier) if re.fullmatch(r"-?[0-9]{1,18}", identifier) else identifier
    return identifier if number else str(identifier)
