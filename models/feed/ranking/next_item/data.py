"""Where sequences come from, how they are split, and the checks that they must pass.

A prepared data set is a payload with the parts of `Events.payload` (`events`, `users`, `items`, `about`), those of
`Split.payload` (`train`, `validation`, `test`, `left_out`, `split`), and

    layout       JSON: source
    oracle_*     simulated sequences only: their law (`models.feed.ranking.next_item.world`)

Protocol: leave one out, as in published tables of next-item ranking. It lets the past of one user know the future of
another, so no claim about quality in service rests on it.
"""

# Shapes: E events, Q histories, T events of all histories, I items.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.feed.events.leakage import check_split
from models.feed.events.sources import item_sequences
from models.feed.events.splits import Split, leave_one_out
from models.feed.events.table import Events, EventsTableConfig, read_events
from models.feed.ranking.next_item.world import WorldConfig, simulate_sequences

Integers = NDArray[np.int64]

PROTOCOL = (
    "All items are ranked but those that the user met, the target among them always; ties count against the model; a "
    "target that training never met is a miss; identifiers only."
)
"""How next items are ranked, to be printed beside every number with the rule of the split."""
LEAST_USERS = 20
"""Users with three events or more, below which nothing can be judged."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which sequences; only the settings of the chosen source are read."""

    name: str = setting(
        "sequences",
        "Name",
        "Name of the data and of the ranker made from them: lower case letters, digits and hyphens, 1 to 63; another "
        "than that of impressions, so that each ranker has a live version of its own.",
        min_length=1,
        max_length=63,
    )
    source: Literal["world", "sequences", "table"] = setting(
        "world", "Source", "Simulated sequences of known law, a file with one user a line, or a table of your own."
    )
    world: WorldConfig = setting(WorldConfig, "World", "The simulated sequences, when they are the source.")
    file: str = setting(
        "",
        "File of sequences",
        "Path, URL or catalogue entry of a file with one user a line: the user, then the items, oldest first, parted "
        "by spaces; packed with gzip or not.",
    )
    table: EventsTableConfig = setting(
        EventsTableConfig,
        "Own table",
        "Your files and columns, when they are the source; events without a response to the main task do not count.",
    )

    def __post_init__(self) -> None:
        check(self)
        if not all(part.isalnum() and part.isascii() and part == part.lower() for part in self.name.split("-")):
            raise ValueError(
                f"DataConfig.name must be lower case letters, digits and single hyphens, got {self.name!r}."
            )
        for source, location in (("sequences", self.file), ("table", self.table.events)):
            if self.source == source and not location:
                field = "file" if source == "sequences" else "table.events"
                raise ValueError(
                    f"DataConfig.{field} must name a file when the source is {source!r}, got ''; give its path or URL."
                )

    def sources(self) -> Mapping[str, str]:
        """Raw files of the chosen source: logical name to location."""
        if self.source == "sequences":
            return {"sequences": self.file}
        if self.source == "table":
            files = {"events": self.table.events, "items": self.table.items}
            return {name: location for name, location in files.items() if location}
        return {}

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate, split and check the events.

        Args:
            files: the raw files.

        Raises:
            InputError: they cannot be used.
            LeakageError: a part would know of another.
        """
        if self.source == "world":
            world = simulate_sequences(self.world)
            return {**split_events(world.events, self.source), **world.payload()}
        if self.source == "sequences":
            return split_events(item_sequences(files["sequences"]), self.source)
        events = read_events(files["events"], self.table, items=files.get("items"))
        return split_events(events.take(events.label > 0), self.source)


def split_events(events: Events, source: str) -> Payload:
    """Hold out each user's last two events, and refuse a split that lets one part know another.

    Args:
        events: the log.
        source: what it comes from, in a word.

    Returns:
        The parts of the data set.

    Raises:
        InputError: too few users have three events.
        LeakageError: see `models.feed.events.leakage`.

    Source:
        Ours.
    """
    split = leave_one_out(events)
    if len(split.test) < LEAST_USERS:
        raise InputError(
            f"the events of {source} cannot be used: {len(split.test)} of {events.users} users have three events or "
            f"more, and at least {LEAST_USERS} must; log more, or say what a response is in EventsTableConfig.at_least."
        )
    check_split(events, split.train, split.validation, split.test, ordered=False)
    return {**events.payload(), **split.payload(), "layout": {"source": source}}


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """Items that some users met, oldest first.

    Attributes:
        item: (T) items of all histories, one after another.
        start: (Q + 1) where each history begins, and where the last one ends.
    """

    item: Integers
    start: Integers

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def length(self) -> Integers:
        """(Q) events of each."""
        return np.diff(self.start)

    def take(self, chosen: NDArray[Any]) -> "Histories":
        """Some of them, in the order given."""
        length = self.length[chosen]
        start = np.concatenate([[0], np.cumsum(length)])
        place = np.arange(start[-1]) + np.repeat(self.start[chosen] - start[:-1], length)
        return Histories(item=self.item[place], start=start)

    def latest(self, most: int) -> "Histories":
        """The last events of each, at most so many."""
        length = np.minimum(self.length, most)
        start = np.concatenate([[0], np.cumsum(length)])
        place = np.arange(start[-1]) + np.repeat(self.start[1:] - length - start[:-1], length)
        return Histories(item=self.item[place], start=start)

    @property
    def pairs(self) -> tuple[Integers, Integers]:
        """(T) place of the history and item of every event."""
        return np.repeat(np.arange(len(self)), self.length), self.item


def histories_of(events: Events, rows: NDArray[Any], users: NDArray[Any]) -> Histories:
    """What some users met, as far as some rows tell.

    Args:
        events: the log.
        rows: row numbers of the events that may be seen.
        users: whose histories; each once or more.

    Returns:
        One history a user, in the order of `users`; empty for who has none.

    Source:
        Ours.
    """
    rows = np.sort(rows)
    rows = rows[np.argsort(events.user[rows], kind="stable")]
    start = np.concatenate([[0], np.cumsum(np.bincount(events.user[rows], minlength=events.users))])
    everyone = Histories(item=np.asarray(events.item[rows], np.int64), start=np.asarray(start, np.int64))
    return everyone.take(np.asarray(users, np.int64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """Who is asked about with which history, and what came next.

    Attributes:
        user: (Q) users.
        history: (Q) what they met before.
        target: (Q) items that came next.
    """

    user: Integers
    history: Histories
    target: Integers

    def __len__(self) -> int:
        return len(self.target)

    def take(self, chosen: NDArray[Any]) -> "Questions":
        """Some of them."""
        return Questions(user=self.user[chosen], history=self.history.take(chosen), target=self.target[chosen])


def questions(events: Events, split: Split, part: Literal["validation", "test"]) -> Questions:
    """The held-out events of a part as questions, by user.

    Args:
        events: the log.
        split: leave one out.
        part: which; the histories of the test hold the validation events too.

    Source:
        See `leave_one_out`.
    """
    rows, known = split.validation, split.train
    if part == "test":
        rows, known = split.test, np.concatenate([split.train, split.validation])
    rows = rows[np.argsort(events.user[rows], kind="stable")]
    user = np.asarray(events.user[rows], np.int64)
    return Questions(
        user=user, history=histories_of(events, known, user), target=np.asarray(events.item[rows], np.int64)
    )
