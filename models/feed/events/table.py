"""Events of a feed: who was shown or met what, when, in which session, and how they responded.

A user's own table is a Parquet or a CSV file (UTF-8, gzip or not), one row per event. The columns may bear other names;
`EventsTableConfig` says which.

    user            required   integer or text
    item            required   integer or text
    time            required   seconds since 1970 in UTC, or dates as in ISO 8601; parts of a second are cut off
    any number of   optional   responses, called actions: numbers or truth values, one column for each task, the main
    actions                    task first; without any, every event counts as a response of 1 to the task `event`
    session         optional   integer or text, counted anew for every user; without it a session ends when the user
                               does nothing for 30 minutes
    position        optional   slot in the list that was shown, from 0; empty where it is not known
    item_*          optional   attributes of the item, called what follows item_; each item has one value throughout

Attributes of items may instead stand in a second file, one row per item, with the column `item` and one column per
attribute. Attributes are truth values, numbers, moments, text or lists; text that holds several values, parted by a
separator, is named in `multi_valued`. An item of the events that the second file lacks is refused.

Events are kept in the order of time, and events of one moment in the order of their file: several files are read as if
they stood in one, one after another.
"""

# Shapes: E events, U users, I items, A tasks, S sessions, G categories, M memberships of items in categories.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.feed.tables import (
    flat,
    read_attribute,
    read_table,
    read_times,
    read_written_names,
    refuse_first,
    type_names,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Truth = NDArray[np.bool_]

SESSION_GAP = 1800
"""Seconds without an event after which a session is over: 30 minutes, as in web analytics and as in Quadrana et al.
2017, "Personalizing Session-based Recommendations with Hierarchical RNNs", section 4.1."""

NO_TABLE = pa.table({})
"""No columns: nothing more is known."""
EVENT, USER, ITEM, ACTION = "event_", "user_", "item_", "action_"


def _no_table() -> pa.Table:
    return NO_TABLE


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Which categories each item has, in compressed rows; an item may have none or several.

    Attributes:
        start: (I + 1); the categories of item i are `code[start[i]:start[i + 1]]`.
        code: (M) categories, 0..G-1, each at most once for an item.
        names: (G) what they are called.
    """

    start: Integers
    code: Integers
    names: tuple[str, ...]

    @property
    def matrix(self) -> NDArray[np.bool_]:
        """(I, G) whether an item has a category."""
        has_IG = np.zeros((len(self.start) - 1, len(self.names)), bool)
        has_IG[np.repeat(np.arange(len(self.start) - 1), np.diff(self.start)), self.code] = True
        return has_IG

    def of(self, items: NDArray[Any]) -> tuple[Integers, Integers]:
        """Place in `items` and category, for every category of all of these items."""
        count = (self.start[1:] - self.start[:-1])[items]
        place = np.repeat(np.arange(len(items)), count)
        offset = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        return place, self.code[np.repeat(self.start[items], count) + offset]


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """Events in the order of time; those of one moment in the order of their source.

    Attributes:
        user: (E) int32 codes 0..U-1.
        item: (E) int32 codes 0..I-1.
        time: (E) int64 seconds since 1970, UTC; never falls. Without times: the event's number in the file.
        session: (E) int64 number of the session; all events of a session are of one user.
        position: (E) int16 slot in the list that was shown, from 0; -1 where it is not known.
        actions: (E, A) float32 responses, finite; the main task first.
        tasks: (A) names of the tasks.
        user_ids: (U) int64 or text, each once.
        item_ids: (I) int64 or text, each once.
        timed: whether `time` is a moment; if not, no session can be told and every event is one of its own.
        item_attributes: one row per item, or no columns.
        user_attributes: one row per user, or no columns.
        event_attributes: one row per event, or no columns.

    Raises:
        ValueError: the arrays do not fit together; the message names the array, the place and the value.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    session: NDArray[np.int64]
    position: NDArray[np.int16]
    actions: NDArray[np.float32]
    tasks: tuple[str, ...]
    user_ids: pa.Array
    item_ids: pa.Array
    timed: bool = True
    item_attributes: pa.Table = field(default_factory=_no_table)
    user_attributes: pa.Table = field(default_factory=_no_table)
    event_attributes: pa.Table = field(default_factory=_no_table)

    def __post_init__(self) -> None:
        size = len(self.user)
        types = {"user": "int32", "item": "int32", "time": "int64", "session": "int64", "position": "int16"}
        for name, kind in types.items():
            values = getattr(self, name)
            if values.dtype != kind or values.shape != (size,):
                raise ValueError(
                    f"Events.{name} must be {kind} of shape ({size},), got {values.dtype} {values.shape}; convert it."
                )
        if self.actions.dtype != "float32" or self.actions.shape != (size, len(self.tasks)):
            raise ValueError(
                f"Events.actions must be float32 of shape ({size}, {len(self.tasks)}), one column for each task of "
                f"{self.tasks}, got {self.actions.dtype} {self.actions.shape}."
            )
        if not self.tasks or len(set(self.tasks)) < len(self.tasks) or not all(self.tasks):
            raise ValueError(f"Events.tasks must name at least one task, each once, got {self.tasks}.")
        _within("user", self.user, 0, len(self.user_ids))
        _within("item", self.item, 0, len(self.item_ids))
        _within("position", self.position, -1, 2**15)
        _within("session", self.session, 0, 2**62)
        wrong = np.argwhere(~np.isfinite(self.actions))
        if len(wrong):
            row, task = wrong[0]
            raise ValueError(
                f"Events.actions, row {row}, task {self.tasks[task]!r}: {self.actions[row, task]}; "
                f"responses must be finite, drop the row or fill it in."
            )
        falls = np.flatnonzero(np.diff(self.time) < 0)
        if len(falls):
            row = falls[0] + 1
            raise ValueError(
                f"Events.time, row {row}: {self.time[row]} after {self.time[row - 1]}; "
                f"sort by time and keep the order of the file within one moment."
            )
        first, place = self._sessions
        shared = np.flatnonzero(self.user != self.user[first][place])
        if len(shared):
            row = int(shared[0])
            raise ValueError(
                f"Events.session, row {row}: session {self.session[row]} has the users "
                f"{self.user[first][place[row]]} and {self.user[row]}; a session is of one user, number them apart."
            )
        for name, ids in (("user_ids", self.user_ids), ("item_ids", self.item_ids)):
            if ids.null_count or len(pc.unique(ids)) < len(ids):
                raise ValueError(f"Events.{name} must hold each identifier once and none empty; got {len(ids)} with "
                                 f"{len(pc.unique(ids))} different ones.")  # fmt: skip
        for name, rows in (
            ("item_attributes", self.items),
            ("user_attributes", self.users),
            ("event_attributes", size),
        ):
            table = getattr(self, name)
            if table.num_columns and table.num_rows != rows:
                raise ValueError(f"Events.{name} must have {rows} rows, got {table.num_rows}.")

    def __len__(self) -> int:
        return len(self.user)

    @property
    def users(self) -> int:
        """Number of users, those without an event among them."""
        return len(self.user_ids)

    @property
    def items(self) -> int:
        """Number of items, those without an event among them."""
        return len(self.item_ids)

    @property
    def label(self) -> NDArray[np.float32]:
        """(E) response to the main task."""
        return np.asarray(self.actions[:, 0])

    @cached_property
    def _sessions(self) -> tuple[Integers, Integers]:
        """(S) first row of each session and (E) the place of each row's session among them."""
        _, first, place = np.unique(self.session, return_index=True, return_inverse=True)
        return first, place

    @cached_property
    def began(self) -> Integers:
        """(E) time of the first event of each event's session."""
        first, place = self._sessions
        return np.asarray(self.time[first][place])

    def before(self, moment: NDArray[np.int64]) -> Integers:
        """How many events lie strictly before each moment: they are the first so many rows."""
        return np.asarray(np.searchsorted(self.time, moment, side="left"), np.int64)

    def take(self, rows: NDArray[Any]) -> "Events":
        """Some of the events, with all users and items and their codes.

        Args:
            rows: row numbers that rise, or a truth value for each event.

        Returns:
            The events.

        Source:
            Ours.
        """
        extra = self.event_attributes
        if extra.num_columns:
            extra = extra.take(pa.array(np.flatnonzero(rows) if rows.dtype == bool else rows))
        arrays = {
            name: getattr(self, name)[rows] for name in ("user", "item", "time", "session", "position", "actions")
        }
        return replace(self, **arrays, event_attributes=extra)

    def categories(self, attribute: str) -> Categories:
        """The values of an item attribute as categories.

        Args:
            attribute: its name; text, numbers, truth values or lists of them; a null is no category.

        Returns:
            The categories of every item, named in the order of their names.

        Raises:
            ValueError: there is no such attribute.

        Source:
            Ours.
        """
        if attribute not in self.item_attributes.column_names:
            raise ValueError(
                f"item attribute must be one of {self.item_attributes.column_names}, got {attribute!r}; "
                f"choose one, or add the column to the items."
            )
        column = self.item_attributes[attribute].combine_chunks()
        if pa.types.is_list(column.type):
            value = column.flatten()
            item = np.asarray(pc.list_parent_indices(column), np.int64)
        else:
            value, item = column, np.arange(len(column))
        known = np.asarray(pc.is_valid(value))
        text = pc.cast(value.filter(pa.array(known)), pa.string())
        names = pc.unique(text).sort()
        code = np.asarray(pc.index_in(text, value_set=names).to_numpy(zero_copy_only=False), np.int64)
        pair = np.unique(item[known] * max(len(names), 1) + code)
        item, code = np.divmod(pair, max(len(names), 1))
        return Categories(
            start=np.searchsorted(item, np.arange(self.items + 1)), code=code, names=tuple(names.to_pylist())
        )

    def payload(self) -> Payload:
        """The events as parts of a product: the tables `events`, `users`, `items`, and `about` in JSON.

        Returns:
            `events` has user, item, time, session, position, `action_` and `event_` columns; `users` and `items` have
            their identifier and attributes under `user_` and `item_`.

        Source:
            Ours.
        """
        columns = {name: pa.array(getattr(self, name)) for name in ("user", "item", "time", "session", "position")}
        for place, task in enumerate(self.tasks):
            columns[ACTION + task] = pa.array(np.ascontiguousarray(self.actions[:, place]))
        return {
            "events": pa.table({**columns, **_prefixed(EVENT, self.event_attributes)}),
            "users": pa.table({"id": self.user_ids, **_prefixed(USER, self.user_attributes)}),
            "items": pa.table({"id": self.item_ids, **_prefixed(ITEM, self.item_attributes)}),
            "about": {"tasks": list(self.tasks), "timed": self.timed},
        }

    @classmethod
    def from_payload(cls, payload: Payload) -> "Events":
        """The events that `payload` described.

        Args:
            payload: parts, perhaps among others.

        Raises:
            ValueError: a part is missing, or the parts do not fit together.

        Source:
            Ours.
        """
        for part in ("events", "users", "items", "about"):
            if part not in payload:
                raise ValueError(f"a payload of events must have the part {part!r}, got {sorted(payload)}.")
        table, about = payload["events"], payload["about"]
        tasks = tuple(about["tasks"])
        kinds = {"user": np.int32, "item": np.int32, "time": np.int64, "session": np.int64, "position": np.int16}
        needed = [*kinds, *(ACTION + task for task in tasks)]
        for name in needed:
            if name not in table.column_names:
                raise ValueError(f"the part 'events' must have the column {name!r}, got {table.column_names}.")
        actions = [np.asarray(table[ACTION + task].to_numpy(), np.float32) for task in tasks]
        return cls(
            **{name: np.asarray(table[name].to_numpy(), kind) for name, kind in kinds.items()},
            actions=np.stack(actions, 1),
            tasks=tasks,
            user_ids=payload["users"]["id"].combine_chunks(),
            item_ids=payload["items"]["id"].combine_chunks(),
            timed=about["timed"],
            item_attributes=_unprefixed(ITEM, payload["items"]),
            user_attributes=_unprefixed(USER, payload["users"]),
            event_attributes=_unprefixed(EVENT, table),
        )


def _within(name: str, values: NDArray[Any], low: int, high: int) -> None:
    wrong = np.flatnonzero((values < low) | (values >= high))
    if len(wrong):
        raise ValueError(
            f"Events.{name}, row {wrong[0]}: {values[wrong[0]]} (and {len(wrong) - 1} more) must be from {low} to "
            f"{high - 1}; make the codes again from the identifiers."
        )


def _prefixed(prefix: str, table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {prefix + name: table[name] for name in table.column_names}


def _unprefixed(prefix: str, table: pa.Table) -> pa.Table:
    chosen = {name.removeprefix(prefix): table[name] for name in table.column_names if name.startswith(prefix)}
    return pa.table(chosen) if chosen else NO_TABLE


def sessions_by_gap(user: NDArray[Any], time: NDArray[np.int64], gap: int = SESSION_GAP) -> Integers:
    """Number sessions: a user's next event opens a new one when more than `gap` seconds have passed.

    Args:
        user: (E) users.
        time: (E) seconds.
        gap: longest pause inside a session, in seconds.

    Returns:
        (E) numbers 0..S-1, in the order in which sessions begin; of one moment, in the order of rows.

    Source:
        Ours; the rule is Catledge & Pitkow 1995, "Characterizing browsing strategies in the World-Wide Web".
    """
    order = np.lexsort((time, user))
    opens = np.ones(len(order), bool)
    opens[1:] = (np.diff(user[order]) != 0) | (np.diff(time[order]) > gap)
    session = np.empty(len(order), np.int64)
    session[order] = np.cumsum(opens) - 1
    return in_order_of_beginning(session, time)


def in_order_of_beginning(session: NDArray[Any], time: NDArray[np.int64]) -> Integers:
    """Number sessions anew, 0..S-1, in the order in which they begin; of one moment, in the order of rows.

    Args:
        session: (E) any numbers.
        time: (E) seconds.

    Returns:
        (E) numbers.

    Source:
        Ours.
    """
    by_time = np.argsort(time, kind="stable")
    _, first, place = np.unique(session[by_time], return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(len(first))
    out = np.empty(len(session), np.int64)
    out[by_time] = number[place]
    return out


def arrange(
    *,
    user: pa.Array,
    item: pa.Array,
    time: NDArray[np.int64],
    actions: Mapping[str, NDArray[Any]],
    session: NDArray[Any] | None = None,
    position: NDArray[Any] | None = None,
    gap: int = SESSION_GAP,
    timed: bool = True,
    item_ids: pa.Array | None = None,
    item_attributes: pa.Table = NO_TABLE,
    user_ids: pa.Array | None = None,
    user_attributes: pa.Table = NO_TABLE,
    event_attributes: pa.Table = NO_TABLE,
) -> Events:
    """Bring events in the order of a file into the order of time, with codes for users and items.

    Args:
        user: (E) identifiers.
        item: (E) identifiers.
        time: (E) seconds since 1970, or the event's number in the file.
        actions: (E) responses by task, the main task first.
        session: (E) number of the session, counted anew for every user or not; None makes sessions.
        position: (E) slot from 0, -1 unknown; None for none known.
        gap: longest pause inside a session that is made, in seconds.
        timed: whether `time` is a moment; if not, every event is a session of its own.
        item_ids: identifiers of all items in the order of their attributes; None: those of the events, sorted.
        item_attributes: one row for each of `item_ids`.
        user_ids: identifiers of all users in the order of their attributes; None: those of the events, sorted.
        user_attributes: one row for each of `user_ids`.
        event_attributes: (E rows) what else is known.

    Returns:
        The events.

    Raises:
        ValueError: an identifier is not among `item_ids` or `user_ids`, or `Events` refuses the arrays.

    Source:
        Ours.
    """
    item_ids = pc.unique(item).sort() if item_ids is None else item_ids
    user_ids = pc.unique(user).sort() if user_ids is None else user_ids
    user_E, item_E = _codes("user", user, user_ids), _codes("item", item, item_ids)
    size = len(user_E)
    order = np.argsort(time, kind="stable")
    if not timed:
        session = np.arange(size)
    elif session is None:
        session = sessions_by_gap(user_E, time, gap)
    else:
        _, number = np.unique(session, return_inverse=True)
        session = in_order_of_beginning(user_E.astype(np.int64) * (int(number.max(initial=0)) + 1) + number, time)
    position = np.full(size, -1) if position is None else position
    stacked = np.stack([np.asarray(values, np.float32) for values in actions.values()], 1)
    return Events(
        user=user_E[order],
        item=item_E[order],
        time=time[order],
        session=np.asarray(session, np.int64)[order],
        position=position[order].astype(np.int16),
        actions=stacked[order],
        tasks=tuple(actions),
        user_ids=user_ids,
        item_ids=item_ids,
        timed=timed,
        item_attributes=item_attributes,
        user_attributes=user_attributes,
        event_attributes=event_attributes.take(pa.array(order)) if event_attributes.num_columns else NO_TABLE,
    )


def _codes(what: str, values: pa.Array, known: pa.Array) -> NDArray[np.int32]:
    place = pc.index_in(values, value_set=known)
    if place.null_count:
        row = int(np.flatnonzero(np.asarray(pc.is_null(place)))[0])
        raise ValueError(f"{what} of row {row}, {values[row].as_py()!r}, is not among the {len(known)} known ones.")
    return np.asarray(place.to_numpy(zero_copy_only=False), np.int32)


@dataclass(frozen=True, kw_only=True)
class EventsTableConfig:
    """Where a user's own events lie and what their columns are called; see the module for the schema."""

    events: str = setting("", "Events file", "Path or URL of a Parquet or CSV file with one row per event.")
    items: str = setting(
        "", "Items file", "Path or URL of a Parquet or CSV file with one row per item; empty: none beside the events."
    )
    user_column: str = setting("user", "User column", "Column of the events that names the user.", min_length=1)
    item_column: str = setting(
        "item", "Item column", "Column that names the item, the same in both files.", min_length=1
    )
    time_column: str = setting(
        "time",
        "Time column",
        "Column of the events with the moment: seconds since 1970 in UTC, or dates as in ISO 8601.",
        min_length=1,
    )
    actions: tuple[str, ...] = setting(
        (), "Actions", "Columns of the events with responses, the main task first; none: every event is a response."
    )
    at_least: tuple[float, ...] = setting(
        (),
        "Least value",
        "For each action the least value that counts as a response of 1, any below as 0; none: values as they are.",
    )
    session_column: str = setting(
        "", "Session column", "Column of the events that names the session; empty: sessions are made from pauses."
    )
    position_column: str = setting(
        "", "Position column", "Column of the events with the slot in the list shown, from 0; empty: not known."
    )
    gap_minutes: float = setting(
        30.0, "Pause", "Minutes without an event after which a made session is over, 0 to 10080.", ge=0, le=10_080
    )
    multi_valued: tuple[str, ...] = setting(
        (), "Multi-valued attributes", "Text attributes of items that hold several values, parted by the separator."
    )
    separator: str = setting("|", "Separator", "What parts the values of a multi-valued attribute.", min_length=1)

    def __post_init__(self) -> None:
        check(self)
        if self.at_least and len(self.at_least) != len(self.actions):
            raise ValueError(
                f"EventsTableConfig.at_least must have one value for each action, got {self.at_least} for "
                f"{self.actions}; name as many, or none to take values as they are."
            )
        named = [self.user_column, self.item_column, self.time_column, *self.actions]
        named += [name for name in (self.session_column, self.position_column) if name]
        for name in named:
            if named.count(name) > 1:
                raise ValueError(f"EventsTableConfig names the column {name!r} twice; every column has one use.")

    def read(self, files: Mapping[str, Path]) -> Events:
        """The events of the files called `events` and `items`; raises `InputError`."""
        return read_events(files["events"], self, items=files.get("items"))


DEFAULT_TABLE = EventsTableConfig()


def read_events(
    paths: Path | Sequence[Path], config: EventsTableConfig = DEFAULT_TABLE, *, items: Path | None = None
) -> Events:
    """A user's own table of events; see the module for its schema.

    Args:
        paths: the file, or several that are read as one.
        config: names of the columns.
        items: a file of items; None when there is none.

    Returns:
        The events, in the order of time.

    Raises:
        InputError: a file cannot be used; the message names file, column, row and value.

    Source:
        Ours.
    """
    several = [paths] if isinstance(paths, Path) else list(paths)
    if not several:
        raise InputError("no file of events was given; give at least one path.")
    parts = [_read_part(path, config) for path in several]
    files = tuple((str(path), len(part["time"])) for path, part in zip(several, parts, strict=True))
    user = type_names(_joined([part["user"] for part in parts]))
    item = type_names(_joined([part["item"] for part in parts]))
    inside = _item_columns(files, config, item, [part["attributes"] for part in parts])
    item_ids, attributes = (pc.unique(item).sort(), inside) if items is None else _read_items(items, config)
    if items is not None:
        if inside.num_columns:
            raise InputError(
                f"{several[0]} has the column {ITEM + inside.column_names[0]!r} and there is a file of items; "
                f"attributes come from one place, drop either."
            )
        if item_ids.type != item.type:
            item, item_ids = pc.cast(item, pa.string()), pc.cast(item_ids, pa.string())
        missing = pc.is_null(pc.index_in(item, value_set=item_ids))
        refuse_first(files, config.item_column, missing, item, f"{items} has no such item; add it or drop the row")
    session = None
    if config.session_column:
        session = np.asarray(pc.dictionary_encode(_joined([part["session"] for part in parts])).indices)
    return arrange(
        user=user,
        item=item,
        time=np.concatenate([part["time"] for part in parts]),
        actions={task: np.concatenate([part["actions"][task] for part in parts]) for task in parts[0]["actions"]},
        session=session,
        position=np.concatenate([part["position"] for part in parts]),
        gap=round(config.gap_minutes * 60),
        item_ids=item_ids,
        item_attributes=attributes,
    )


def _read_part(path: Path, config: EventsTableConfig) -> dict[str, Any]:
    """One file of events: user, item, session as written, time, position, actions, and the columns item_*."""
    needed = [config.user_column, config.item_column, config.time_column, *config.actions]
    needed += [name for name in (config.session_column, config.position_column) if name]
    table = read_table(path, (), needed=needed)
    return {
        "user": read_written_names(path, table, config.user_column),
        "item": read_written_names(path, table, config.item_column),
        "time": read_times(path, table, config.time_column),
        "session": read_written_names(path, table, config.session_column) if config.session_column else None,
        "position": _read_positions(path, table, config.position_column),
        "actions": _read_actions(path, table, config),
        "attributes": {
            name.removeprefix(ITEM): flat(table, name)
            for name in table.column_names
            if name.startswith(ITEM) and name != ITEM and name not in needed
        },
    }


def _read_actions(path: Path, table: pa.Table, config: EventsTableConfig) -> dict[str, NDArray[np.float32]]:
    if not config.actions:
        return {"event": np.ones(table.num_rows, np.float32)}
    least = config.at_least or (None,) * len(config.actions)
    return {name: read_response(path, table, name, limit) for name, limit in zip(config.actions, least, strict=True)}


def read_response(path: Path, table: pa.Table, column: str, at_least: float | None = None) -> NDArray[np.float32]:
    """A column of responses.

    Args:
        path: the file, for the message.
        table: its contents.
        column: the column; numbers or truth values.
        at_least: the least value that counts as 1, any below as 0; None to take values as they are.

    Returns:
        float32, finite.

    Raises:
        InputError: a value is missing or no number.

    Source:
        Ours.
    """
    values = read_attribute(path, table, column)
    refuse_first(path, column, pc.is_null(values), flat(table, column), "a response must not be empty; fill it in")
    if pa.types.is_string(values.type):
        values = read_attribute(path, table, column, kind="number")
    if not (pa.types.is_boolean(values.type) or pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise InputError(f"{path}, column {column!r} holds {values.type}; responses are numbers or truth values.")
    numbers = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
    return np.asarray(numbers if at_least is None else numbers >= at_least, np.float32)


def _read_positions(path: Path, table: pa.Table, column: str) -> Integers:
    if not column:
        return np.full(table.num_rows, -1)
    values = read_attribute(path, table, column, kind="number")
    numbers = np.asarray(pc.fill_null(pc.cast(values, pa.float64()), -1).to_numpy(zero_copy_only=False), np.float64)
    known = np.asarray(pc.is_valid(values))
    wrong = known & ~((numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < 2**15))
    refuse_first(path, column, pa.array(wrong), values, "write a whole number from 0 to 32767, or leave the cell empty")
    return numbers.astype(np.int64)


def _joined(parts: list[pa.Array]) -> pa.Array:
    """Identifiers of several files; text in one is text in all, as it was written."""
    if all(part.type == parts[0].type for part in parts):
        return pa.concat_arrays(parts)
    return pa.concat_arrays([pc.cast(part, pa.string()) for part in parts])


def _item_columns(
    files: tuple[tuple[str, int], ...], config: EventsTableConfig, item: pa.Array, parts: list[dict[str, pa.Array]]
) -> pa.Table:
    """Attributes of items that stand in the events, one row per item in the order of the sorted identifiers."""
    for (path, _), part in zip(files, parts, strict=True):
        if part.keys() != parts[0].keys():
            raise InputError(
                f"{path} has the item columns {sorted(part)}, {files[0][0]} has {sorted(parts[0])}; give all files the "
                f"same."
            )
    known = pc.unique(item).sort()
    place = np.asarray(pc.index_in(item, value_set=known).to_numpy(zero_copy_only=False), np.int64)
    _, first = np.unique(place, return_index=True)
    columns = {}
    for name in parts[0]:
        values = pa.concat_arrays([part[name] for part in parts])
        whole = pa.table({name: values})
        kind: Literal["any", "list"] = "list" if name in config.multi_valued else "any"
        listed = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
        plain = pa.array([str(value) for value in values.to_pylist()]) if listed else values
        code = np.asarray(pc.dictionary_encode(plain, null_encoding="encode").indices)
        unlike = code != code[first][place]
        if unlike.any():
            row = int(np.flatnonzero(unlike)[0])
            other = values[int(first[place[row]])].as_py()
            remedy = f"item {item[row].as_py()!r} has {other!r} in an earlier row; an item has one value throughout"
            refuse_first(files, ITEM + name, pa.array(unlike), values, remedy)
        whole = whole.take(pa.array(first))
        columns[name] = read_attribute(Path(files[0][0]), whole, name, kind=kind, separator=config.separator)
    return pa.table(columns) if columns else NO_TABLE


def _read_items(path: Path, config: EventsTableConfig) -> tuple[pa.Array, pa.Table]:
    """Identifiers and attributes of the items file, in its order."""
    table = read_table(path, (), needed=(config.item_column, *config.multi_valued))
    ids = type_names(read_written_names(path, table, config.item_column))
    repeated = np.ones(len(ids), bool)
    repeated[np.unique(np.asarray(pc.dictionary_encode(ids).indices), return_index=True)[1]] = False
    refuse_first(path, config.item_column, pa.array(repeated), ids, "an item stands in one row only; merge its rows")
    columns = {}
    for name in table.column_names:
        if name != config.item_column:
            kind: Literal["any", "list"] = "list" if name in config.multi_valued else "any"
            columns[name] = read_attribute(path, table, name, kind=kind, separator=config.separator)
    return ids, pa.table(columns) if columns else NO_TABLE
