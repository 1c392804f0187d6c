"""A log is what its file says, in the order of time; what does not fit is refused with row and value."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.feed.events.table import Events, EventsTableConfig, arrange, in_order_of_beginning, read_events
from models.feed.events.table import sessions_by_gap as by_gap
from tests.models.feed.events.logs import random_events, write

# --- order, codes, sessions -------------------------------------------------------------------------------------------

some_rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=40)


@settings(max_examples=80)
@given(some_rows)
def test_events_are_in_the_order_of_time_and_then_of_the_file(rows: list[tuple[int, int, int]]) -> None:
    user, item, time = zip(*rows, strict=True)
    number = np.arange(len(rows))
    events = arrange(
        user=pa.array([f"u{code}" for code in user]), item=pa.array(item), time=np.array(time),
        actions={"number": number}, event_attributes=pa.table({"number": number}),
    )  # fmt: skip
    right = sorted(range(len(rows)), key=lambda row: (time[row], row))
    assert events.label.tolist() == right
    assert events.event_attributes["number"].to_pylist() == right
    assert [events.user_ids[code].as_py() for code in events.user] == [f"u{user[row]}" for row in right]
    assert [events.item_ids[code].as_py() for code in events.item] == [item[row] for row in right]


@settings(max_examples=80)
@given(some_rows, st.integers(0, 4))
def test_a_session_ends_after_a_pause_longer_than_the_gap(rows: list[tuple[int, int, int]], gap: int) -> None:
    user, _, time = (np.array(column) for column in zip(*rows, strict=True))
    session = by_gap(user, time, gap)
    groups: list[set[int]] = []
    for who in range(4):
        mine = sorted(np.flatnonzero(user == who).tolist(), key=lambda row: (time[row], row))
        for before, row in zip([None, *mine], mine, strict=False):
            if before is None or time[row] - time[before] > gap:
                groups.append(set())
            groups[-1].add(row)
    assert {frozenset(np.flatnonzero(session == number).tolist()) for number in set(session.tolist())} == {
        frozenset(group) for group in groups
    }
    begin = [min((time[row], row) for row in np.flatnonzero(session == number)) for number in range(session.max() + 1)]
    assert begin == sorted(begin)


def test_sessions_are_numbered_in_the_order_in_which_they_begin() -> None:
    assert in_order_of_beginning(np.array([9, 4, 9, 2]), np.array([5, 5, 1, 7])).tolist() == [0, 1, 0, 2]


def test_one_name_of_a_session_means_another_session_for_another_user() -> None:
    events = arrange(
        user=pa.array([1, 2, 1, 2]), item=pa.array([1, 1, 2, 2]), time=np.arange(4), actions={"event": np.ones(4)},
        session=np.array([7, 7, 7, 8]),
    )  # fmt: skip
    assert events.session.tolist() == [0, 1, 0, 2]
    assert events.began.tolist() == [0, 1, 0, 3]


def test_without_times_every_event_is_a_session_of_its_own() -> None:
    events = arrange(
        user=pa.array([1, 1, 1]), item=pa.array([5, 6, 7]), time=np.arange(3), actions={"event": np.ones(3)},
        timed=False,
    )  # fmt: skip
    assert events.session.tolist() == [0, 1, 2] and not events.timed


def test_before_counts_the_events_strictly_before_a_moment() -> None:
    events = random_events(0)
    moments = events.time[[0, 100, -1]]
    assert events.before(moments).tolist() == [(events.time < moment).sum() for moment in moments]


def test_taking_rows_keeps_codes_and_what_is_known() -> None:
    events = replace(random_events(1), event_attributes=pa.table({"row": np.arange(331)}))
    for rows in (np.array([3, 8, 200]), events.user == 4):
        some = events.take(rows)
        at = np.flatnonzero(rows) if rows.dtype == bool else rows
        assert some.event_attributes["row"].to_pylist() == at.tolist()
        assert some.item.tolist() == events.item[at].tolist() and some.items == events.items


# --- categories -------------------------------------------------------------------------------------------------------


def test_categories_are_the_values_of_each_item() -> None:
    events = random_events(2)
    listed = events.item_attributes["genres"].to_pylist()
    found = events.categories("genres")
    for item in range(events.items):
        codes = found.code[found.start[item] : found.start[item + 1]]
        assert {found.names[code] for code in codes} == set(listed[item] or [])
        assert {found.names[code] for code in np.flatnonzero(found.matrix[item])} == set(listed[item] or [])
    place, code = found.of(np.array([5, 0, 5]))
    assert [found.names[c] for c in code[place == 0]] == [found.names[c] for c in code[place == 2]]
    assert {found.names[c] for c in code[place == 1]} == set(listed[0] or [])
    years = events.categories("year")
    assert [years.names[code] for code in years.code] == [str(y) for y in events.item_attributes["year"].to_pylist()]


def test_a_category_that_an_item_has_twice_counts_once_and_null_is_none() -> None:
    events = replace(
        random_events(2, items=3),
        item_attributes=pa.table({"tags": pa.array([["a", "a", None], None, ["b", "a"]], pa.list_(pa.string()))}),
    )
    found = events.categories("tags")
    assert found.names == ("a", "b") and found.start.tolist() == [0, 1, 1, 3]
    with pytest.raises(ValueError, match=r"must be one of \['tags'\], got 'genre'"):
        events.categories("genre")


# --- payload ----------------------------------------------------------------------------------------------------------


def same(left: Events, right: Events) -> None:
    for name in ("user", "item", "time", "session", "position", "actions"):
        found, wanted = getattr(left, name), getattr(right, name)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    for name in ("user_ids", "item_ids", "item_attributes", "user_attributes", "event_attributes"):
        assert getattr(left, name).equals(getattr(right, name))
    assert left.tasks == right.tasks and left.timed == right.timed


def test_events_come_back_from_their_payload() -> None:
    events = replace(
        random_events(3),
        user_attributes=pa.table({"age": pa.array([*range(16), None])}),
        event_attributes=pa.table({"propensity": np.linspace(0.1, 1, 331)}),
    )
    payload = events.payload()
    assert all(isinstance(part, pa.Table | dict) for part in payload.values())
    same(Events.from_payload(payload), events)
    bare = arrange(user=pa.array(["a"]), item=pa.array(["b"]), time=np.array([4]), actions={"event": np.ones(1)})
    same(Events.from_payload(bare.payload()), bare)


def test_a_payload_without_a_part_is_refused() -> None:
    payload = dict(random_events(3).payload())
    with pytest.raises(ValueError, match="must have the column 'action_like'"):
        Events.from_payload({**payload, "events": payload["events"].drop_columns(["action_like"])})
    del payload["items"]
    with pytest.raises(ValueError, match="must have the part 'items'"):
        Events.from_payload(payload)


# --- what does not fit ------------------------------------------------------------------------------------------------


def put(name: str, row: int, value: Any) -> Callable[[Events], dict[str, Any]]:
    def change(events: Events) -> dict[str, Any]:
        values = getattr(events, name).copy()
        values[row] = value
        return {name: values}

    return change


CORRUPTIONS: dict[str, tuple[Callable[[Events], dict[str, Any]], str]] = {
    "a user without a code": (put("user", 5, 17), r"Events.user, row 5: 17 .*must be from 0 to 16"),
    "a negative item": (put("item", 0, -1), r"Events.item, row 0: -1 .*must be from 0 to 22"),
    "time runs backwards": (put("time", 40, 0), r"Events.time, row 40: 0 after \d+"),
    "a slot below unknown": (put("position", 3, -2), r"Events.position, row 3: -2"),
    "a response without value": (put("actions", 7, np.nan), r"Events.actions, row 7, task 'click': nan"),
    "an infinite response": (put("actions", (9, 1), np.inf), r"Events.actions, row 9, task 'like': inf"),
    "wider codes": (lambda e: {"user": e.user.astype(np.int64)}, "Events.user must be int32"),
    "a short column": (lambda e: {"position": e.position[1:]}, r"Events.position must be int16 of shape \(331,\)"),
    "a task too many": (lambda e: {"tasks": (*e.tasks, "x")}, r"one column for each task"),
    "one name for two tasks": (lambda e: {"tasks": ("click", "click")}, "each once"),
    "no task": (lambda e: {"tasks": (), "actions": e.actions[:, :0]}, "at least one task"),
    "a session of two users": (lambda e: {"session": np.zeros(331, np.int64)}, r"session 0 has the users \d+ and \d+"),
    "an identifier twice": (lambda e: {"user_ids": pa.array([1, 1, *range(3, 18)])}, "Events.user_ids .*17 with 16"),
    "an empty identifier": (lambda e: {"item_ids": pa.array([None, *range(22)])}, "Events.item_ids"),
    "attributes of other items": (lambda e: {"item_attributes": pa.table({"a": [1, 2]})}, "must have 23 rows, got 2"),
    "attributes of other events": (lambda e: {"event_attributes": pa.table({"a": [1]})}, "must have 331 rows, got 1"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_arrays_that_do_not_fit_are_refused(name: str) -> None:
    change, message = CORRUPTIONS[name]
    events = random_events(4)
    with pytest.raises(ValueError, match=message):
        replace(events, **change(events))


# --- a user's own table -----------------------------------------------------------------------------------------------

ROWS = [
    ["who", "what", "when", "click", "stars", "visit", "slot", "item_genre", "item_tags"],
    ["ann", "m1", "1600000300", "true", "4.5", "s2", "1", "drama", "a|b"],
    ["bob", "m2", "1600000000", "false", "1", "s1", "", "noir", ""],
    ["ann", "m2", "1600000300", "false", "4", "s2", "0", "noir", ""],
    ["ann", "m3", "1600009999", "true", "2", "s1", "2", "", "b"],
]
MINE = EventsTableConfig(
    user_column="who", item_column="what", time_column="when", actions=("click", "stars"), at_least=(1, 4),
    session_column="visit", position_column="slot", multi_valued=("tags",),
)  # fmt: skip


def check_mine(events: Events) -> None:
    assert events.user_ids.to_pylist() == ["ann", "bob"] and events.item_ids.to_pylist() == ["m1", "m2", "m3"]
    assert events.user.tolist() == [1, 0, 0, 0] and events.item.tolist() == [1, 0, 1, 2]
    assert events.time.tolist() == [1600000000, 1600000300, 1600000300, 1600009999]
    assert events.session.tolist() == [0, 1, 1, 2]
    assert events.position.tolist() == [-1, 1, 0, 2]
    assert events.tasks == ("click", "stars") and events.actions.tolist() == [[0, 0], [1, 1], [0, 1], [1, 0]]
    assert events.item_attributes["genre"].to_pylist() == ["drama", "noir", None]
    assert [value or [] for value in events.item_attributes["tags"].to_pylist()] == [["a", "b"], [], ["b"]]


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_a_csv_table_is_read_by_the_names_of_its_columns(tmp_path: Path, ending: str) -> None:
    check_mine(read_events(write(tmp_path / f"log.{ending}", ROWS), MINE))


def test_a_parquet_table_is_read_with_its_own_types(tmp_path: Path) -> None:
    columns = dict(zip(ROWS[0], zip(*ROWS[1:], strict=True), strict=True))
    table = pa.table(
        {
            "who": pa.array(columns["who"]).dictionary_encode(),
            "what": pa.array(columns["what"]),
            "when": pa.array([int(value) for value in columns["when"]], pa.timestamp("s", "UTC")),
            "click": [True, False, False, True],
            "stars": pa.array([4.5, 1, 4, 2], pa.float32()),
            "visit": columns["visit"],
            "slot": pa.array([1, None, 0, 2], pa.int8()),
            "item_genre": ["drama", "noir", "noir", None],
            "item_tags": [["a", "b"], [], [], ["b"]],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet")
    check_mine(read_events(tmp_path / "log.parquet", MINE))


def test_several_files_are_read_as_if_they_stood_in_one(tmp_path: Path) -> None:
    parts = [write(tmp_path / "a.csv", ROWS[:3]), write(tmp_path / "b.csv.gz", [ROWS[0], *ROWS[3:]])]
    check_mine(read_events(parts, MINE))


def test_attributes_may_stand_in_a_file_of_items(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", [row[:7] for row in ROWS])
    items = write(
        tmp_path / "items.csv", [["what", "genre", "tags"], ["m3", "", "b"], ["m9", "noir", "c"], ["m2", "noir", ""],
                                 ["m1", "drama", "a|b"]],
    )  # fmt: skip
    events = MINE.read({"events": log, "items": items})
    assert events.item_ids.to_pylist() == ["m3", "m9", "m2", "m1"] and events.items == 4
    assert events.item.tolist() == [2, 3, 2, 0]
    assert events.item_attributes["genre"].to_pylist() == [None, "noir", "noir", "drama"]


def test_a_table_with_the_three_columns_alone_makes_sessions_and_counts_every_event(tmp_path: Path) -> None:
    rows = [["user", "item", "time"], [7, 1, 0], [7, 2, 1800], [7, 3, 3601], [8, 1, 3601]]
    events = read_events(write(tmp_path / "log.csv", rows))
    assert events.tasks == ("event",) and events.label.tolist() == [1, 1, 1, 1]
    assert events.session.tolist() == [0, 0, 1, 2]
    assert events.user_ids.type == pa.int64()


def test_identifiers_of_integers_in_one_file_and_words_in_another_are_words(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", [["user", "item", "time"], ["007", 1, 0]])
    second = write(tmp_path / "b.csv", [["user", "item", "time"], ["x", 1, 0]])
    assert read_events([first, second]).user_ids.to_pylist() == ["007", "x"]


BAD: dict[str, tuple[int, int, Any, str]] = {
    "no user": (2, 0, "", r"log.csv, column 'who', row 2: None: an identifier must not be empty"),
    "no time": (3, 2, "", r"log.csv, column 'when', row 3: None: a moment must not be empty"),
    "a word for a time": (1, 2, "noon", r"log.csv, column 'when', row 1: 'noon'"),
    "a response that is missing": (4, 3, "", r"log.csv, column 'click', row 4: None: a response must not be empty"),
    "a word for a response": (1, 4, "good", r"log.csv, column 'stars', row 1: 'good': write a number"),
    "an endless response": (1, 4, "inf", r"log.csv, column 'stars', row 1: inf: numbers must be finite"),
    "half a slot": (1, 6, "0.5", r"log.csv, column 'slot', row 1: 0.5: write a whole number"),
    "a slot below the first": (1, 6, "-1", r"log.csv, column 'slot', row 1: -1: write a whole number"),
    "two genres of one item": (3, 7, "drama", r"column 'item_genre', row 3: 'drama': item 'm2' has 'noir' in an earl"),
    "a session without a name": (2, 5, "", r"log.csv, column 'visit', row 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_cell_is_named_with_file_column_row_and_value(tmp_path: Path, name: str) -> None:
    row, column, value, message = BAD[name]
    rows = [list(line) for line in ROWS]
    rows[row][column] = value
    with pytest.raises(InputError, match=message):
        read_events(write(tmp_path / "log.csv", rows), MINE)


def test_a_wrong_cell_of_the_second_file_is_counted_from_its_own_first_row(tmp_path: Path) -> None:
    rows = [list(line) for line in ROWS]
    rows[4][7] = rows[3][7] = "western"
    parts = [write(tmp_path / "a.csv", rows[:3]), write(tmp_path / "b.csv", [rows[0], *rows[3:]])]
    with pytest.raises(InputError, match=r"b.csv, column 'item_genre', row 1: 'western'"):
        read_events(parts, MINE)


def test_an_item_that_the_items_file_lacks_or_has_twice_is_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", [row[:7] for row in ROWS])
    items = write(tmp_path / "items.csv", [["what", "tags"], ["m1", ""], ["m2", ""]])
    with pytest.raises(InputError, match=r"log.csv, column 'what', row 4: 'm3': .*items.csv has no such item"):
        read_events(log, MINE, items=items)
    write(items, [["what", "tags"], ["m1", ""], ["m1", "a"]])
    with pytest.raises(InputError, match=r"items.csv, column 'what', row 2: 'm1': an item stands in one row only"):
        read_events(log, MINE, items=items)


def test_attributes_from_two_places_files_that_differ_and_missing_columns_are_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", ROWS)
    items = write(tmp_path / "items.csv", [["what", "tags"], ["m1", ""], ["m2", ""], ["m3", ""]])
    with pytest.raises(InputError, match="attributes come from one place"):
        read_events(log, MINE, items=items)
    other = write(tmp_path / "other.csv", [row[:7] for row in ROWS])
    with pytest.raises(InputError, match=r"other.csv has the item columns \[\]"):
        read_events([log, other], MINE)
    with pytest.raises(InputError, match="has no column 'user'"):
        read_events(log)
    with pytest.raises(InputError, match="no file of events"):
        read_events([])


def test_a_configuration_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="one value for each action"):
        EventsTableConfig(actions=("a", "b"), at_least=(1.0,))
    with pytest.raises(ValueError, match="names the column 'time' twice"):
        EventsTableConfig(session_column="time")
    with pytest.raises(ValueError, match="gap_minutes must be at least 0"):
        EventsTableConfig(gap_minutes=-1)
