"""Days of interactions put together are the table that they were cut from, and what is wrong with a day is named."""

import csv
import gzip
import random
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import AwaitedError, InputError, Payload
from models.common.days import DaysConfig
from models.feed.retrieval.config import DataConfig, GeneratorConfig, TableConfig
from models.feed.retrieval.generator import FIRST_DAY, LAST_DAY, generate

DAY = date(2024, 2, 28)  # the last days of a leap year's February
MIDNIGHT = int(datetime(2024, 2, 28, tzinfo=UTC).timestamp())
Row = tuple[str, str, int]


def write(path: Path, rows: list[Row], *, header: tuple[str, ...] = ("user", "item", "time")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def cut(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by their days, within a day as they were; days without rows are there too."""
    days = [DAY + timedelta(days=number) for number in range(4)]
    return {str(day): [row for row in rows if datetime.fromtimestamp(row[2], UTC).date() == day] for day in days}


def shop(folder: Path, suffix: str = "csv", **settings_: Any) -> DataConfig:
    table = TableConfig(interactions=f"{folder}/met-{{date}}.{suffix}", **settings_)
    return DataConfig(name="shop", source="table", table=table)


def prepared(config: DataConfig, day: str) -> Payload:
    one = config.day(date.fromisoformat(day))
    return one.prepare({name: Path(location) for name, location in one.sources().items()})


def assert_equal(found: Payload, expected: Payload) -> None:
    """Bit for bit, types included."""
    assert set(found) == set(expected)
    for part, value in expected.items():
        if isinstance(value, pa.Table):
            assert found[part].schema.equals(value.schema), part
            assert found[part].equals(value), part
        elif isinstance(value, np.ndarray):
            assert found[part].dtype == value.dtype
            np.testing.assert_array_equal(found[part], value)
        else:
            assert found[part] == value, part


# ------------------------------------------------------------------------------------------- days against one table

names = st.sampled_from(["007", "7", " 8 ", "ann", "9", "été", "10"])
events = st.lists(st.tuples(names, names, st.integers(MIDNIGHT, MIDNIGHT + 4 * 86_400 - 1)), min_size=12, max_size=50)


@settings(max_examples=60, deadline=None)
@given(rows=events, integers=st.booleans(), seed=st.integers(0, 99))
def test_days_in_any_order_give_what_one_table_with_the_same_rows_gives(
    rows: list[Row], integers: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With identifiers that are integers in some files only: what they are is decided over all days."""
    folder = tmp_path_factory.mktemp("days")
    if integers:
        rows = [(user, str(len(item) + index % 5), time) for index, (user, item, time) in enumerate(rows)]
    whole = DataConfig(name="shop", source="table", table=TableConfig(interactions=str(folder / "all.csv")))
    by_time = [row for day in cut(rows).values() for row in day]
    try:
        expected = whole.prepare({"interactions": write(folder / "all.csv", by_time)})
    except InputError:
        expected = None
    config = shop(folder)
    days = list(cut(rows))
    random.Random(seed).shuffle(days)
    for day in days:
        write(folder / f"met-{day}.csv", cut(rows)[day])
    parts = {day: prepared(config, day) for day in days}
    if expected is None:
        with pytest.raises(InputError, match="met 3 different items"):
            config.assemble(parts, {})
    else:
        assert_equal(config.assemble(parts, {}), expected)


def test_days_of_parquet_with_an_items_file_give_what_one_table_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    size = 3 * 47
    time = np.sort(MIDNIGHT + rng.integers(0, 4 * 86_400, size))
    table = pa.table({"who": rng.integers(0, 9, size), "what": rng.integers(0, 31, size), "time": time})
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet")
    items = pa.table({"what": np.arange(31), "price": rng.random(31)})
    pyarrow.parquet.write_table(items, tmp_path / "items.parquet")
    columns = {"user_column": "who", "item_column": "what", "items": str(tmp_path / "items.parquet")}
    config = shop(tmp_path, "parquet", **columns)
    for number in range(4):
        inside = (time - MIDNIGHT) // 86_400 == number
        pyarrow.parquet.write_table(table.filter(inside), tmp_path / f"met-{DAY + timedelta(days=number)}.parquet")
    whole = DataConfig(
        name="shop", source="table", table=TableConfig(interactions=str(tmp_path / "all.parquet"), **columns)
    )
    files = {"items": tmp_path / "items.parquet"}
    parts = {day: prepared(config, day) for day in cut([])}
    assert_equal(config.assemble(parts, files), whole.prepare({**files, "interactions": tmp_path / "all.parquet"}))
    assert config.sources() == {"items": str(tmp_path / "items.parquet")}, "what all days share, and nothing else"


def test_all_days_of_a_generated_world_are_the_world_and_some_of_them_come_without_truth() -> None:
    config = DataConfig(name="world", generator=GeneratorConfig(users=47, items=203, events=11, seed=5))
    days = [FIRST_DAY + timedelta(days=number) for number in range((LAST_DAY - FIRST_DAY).days + 1)]
    parts = {str(day): config.day(day).prepare({}) for day in days}
    assert sum(part["about"]["rows"] for part in parts.values()) == len(generate(config.generator).time)
    assert_equal(config.assemble(parts, {}), config.prepare({}))
    early = config.assemble({day: part for day, part in parts.items() if day < "2021-06-01"}, {})
    assert not {"true_users", "true_items"} & set(early), "an oracle that knows who is not born yet"
    assert early["users"].num_rows == early["about"]["users"] <= 47
    assert early["train"]["time"].to_numpy().max() < datetime(2021, 6, 1, tzinfo=UTC).timestamp()


def test_a_day_that_the_generated_world_does_not_have_is_awaited() -> None:
    with pytest.raises(AwaitedError, match="from 2020-09-13 to 2021-12-07, got 2021-12-08"):
        DataConfig().day(LAST_DAY + timedelta(days=1)).prepare({})


# ------------------------------------------------------------------------------------------------------ what is wrong

GOOD: list[Row] = [("ann", "tea", MIDNIGHT), ("bob", "jam", MIDNIGHT + 86_399), ("ann", "jam", MIDNIGHT + 3)]
WRONG: dict[str, tuple[list[Row], str]] = {
    "of the day before": ([*GOOD, ("bob", "tea", MIDNIGHT - 1)], r"'time', row 4: '2024-02-27T23:59:59Z'.*2024-02-28"),
    "of the next day": ([("bob", "tea", MIDNIGHT + 86_400), *GOOD], r"'time', row 1: '2024-02-29T00:00:00Z'"),
    "without a user": ([*GOOD[:1], ("", "tea", MIDNIGHT)], r"'user', row 2: None"),
    "without an item": ([("ann", "", MIDNIGHT)], r"'item', row 1: None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_row_that_does_not_belong_into_its_day_is_refused_with_file_column_and_row(tmp_path: Path, case: str) -> None:
    rows, message = WRONG[case]
    write(tmp_path / f"met-{DAY}.csv", rows)
    with pytest.raises(InputError, match=rf"met-{DAY}\.csv, column {message}"):
        prepared(shop(tmp_path), str(DAY))


def test_an_item_that_nobody_knows_is_refused_in_the_file_and_row_of_its_day(tmp_path: Path) -> None:
    for day, rows in cut([(user, item, time + 86_400 * n) for n in range(3) for user, item, time in GOOD]).items():
        write(tmp_path / f"met-{day}.csv", [*rows, ("eve", "gin", MIDNIGHT + 86_401)] if day == "2024-02-29" else rows)
    (tmp_path / "items.csv").write_text("item,price\ntea,2\njam,3\n")
    config = shop(tmp_path)
    parts = {day: prepared(config, day) for day in cut([])}
    with pytest.raises(InputError, match=r"met-2024-02-29\.csv, column 'item', row 4: 'gin'"):
        config.assemble(parts, {"items": tmp_path / "items.csv"})


def test_a_day_without_rows_is_a_day(tmp_path: Path) -> None:
    write(tmp_path / f"met-{DAY}.csv", [])
    day = prepared(shop(tmp_path), str(DAY))
    assert (day["about"]["rows"], day["interactions"].num_rows) == (0, 0)
    assert shop(tmp_path).day(DAY).certify(day, {"interactions": tmp_path / f"met-{DAY}.csv"}).holds


@pytest.mark.parametrize("location", ["https://shop/{date}.csv?sig=planted", "s3://key:planted@shop/{date}.csv"])
def test_an_error_about_a_location_says_no_more_of_it_than_the_name_of_the_file(location: str) -> None:
    data = DataConfig(source="table", table=TableConfig(interactions=location))
    for ask in (
        lambda: data.prepare({}),
        lambda: TableConfig(interactions=location, items=location),
        lambda: DataConfig(source="table", table=TableConfig(interactions=location.replace("{date}", "all"))).day(DAY),
    ):
        with pytest.raises(ValueError, match=r"(\{date\}|all)\.csv") as caught:
            ask()
        assert "planted" not in str(caught.value)


def test_a_file_for_each_day_is_not_read_as_one_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is one file for each day"):
        shop(tmp_path).prepare({})
    with pytest.raises(ValueError, match=r"TableConfig\.items must be one file"):
        TableConfig(interactions="x-{date}.csv", items="y-{date}.csv")
    with pytest.raises(InputError, match=r"interactions is 'x\.csv', which has no days"):
        DataConfig(source="table", table=TableConfig(interactions="x.csv")).day(DAY)
    with pytest.raises(InputError, match="source is 'movielens', which has no days"):
        DataConfig(source="movielens").day(DAY)


# ---------------------------------------------------------------------------------------------------- the certificate


def _with(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))


CORRUPTIONS: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "the last row lost": (lambda t: t.slice(0, 2), "rows_lost_or_added"),
    "the first row lost": (lambda t: t.slice(1), "rows_lost_or_added"),
    "all rows lost": (lambda t: t.slice(0, 0), "rows_lost_or_added"),
    "a row twice": (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "rows_lost_or_added"),
    "rows in another order": (lambda t: t.take([1, 0, 2]), "identifiers_changed"),
    "another user": (lambda t: _with(t, "user", 1, "eve"), "identifiers_changed"),
    "another item": (lambda t: _with(t, "item", 2, "gin"), "identifiers_changed"),
    "users and items exchanged": (
        lambda t: t.select(["item", "user", "time"]).rename_columns(t.column_names),
        "identifiers_changed",
    ),
    "a moment a second later": (lambda t: _with(t, "time", 2, MIDNIGHT + 4), "moments_changed"),
    "no user": (lambda t: _with(t, "user", 0, None), "cells_missing"),
    "no moment": (lambda t: _with(t, "time", 0, None), "cells_missing"),
    "a second before the day": (lambda t: _with(t, "time", 0, MIDNIGHT - 1), "moments_outside_the_day"),
    "a second after the day": (lambda t: _with(t, "time", 1, MIDNIGHT + 86_400), "moments_outside_the_day"),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_the_certificate_of_a_whole_day_holds_and_names_the_file(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / f"met-{DAY}.csv", [("\ufeffann", "a,b", MIDNIGHT), ("007", ' "x" ', MIDNIGHT + 1)])
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    files = {"interactions": path}
    day = shop(tmp_path).day(DAY)
    certificate = day.certify(day.prepare(files), files)
    assert certificate.holds, certificate.failures()
    assert {claim.kind for claim in certificate.claims} == {"exact"}
    assert any("2 rows of the file with SHA-256" in claim.detail for claim in certificate.claims)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_day_is_refused_by_the_claim_that_it_breaks(tmp_path: Path, corruption: str) -> None:
    files = {"interactions": write(tmp_path / f"met-{DAY}.csv", GOOD)}
    day = shop(tmp_path).day(DAY)
    payload = day.prepare(files)
    spoil, claim = CORRUPTIONS[corruption]
    broken: Mapping[str, Any] = {**payload, "interactions": spoil(payload["interactions"])}
    assert claim in {failure.name for failure in day.certify(broken, files).failures()}


def test_a_corrupted_generated_day_is_refused() -> None:
    day = DataConfig().day(FIRST_DAY + timedelta(days=3))
    payload = day.prepare({})
    table = payload["interactions"]
    assert day.certify(payload, {}).holds and table.num_rows > 2
    later = _with(table, "time", 0, table["time"][0].as_py() + 1)
    for broken in (table.slice(1), later, DataConfig().day(FIRST_DAY + timedelta(days=4)).prepare({})["interactions"]):
        assert not day.certify({**payload, "interactions": broken}, {}).holds


MOMENTS: dict[str, list[Any]] = {
    "seconds as text": [str(MIDNIGHT), f"{MIDNIGHT + 1}.9"],
    "dates with zones": ["2024-02-28T00:00:00Z", "2024-02-28T02:00:01+02:00"],
    "dates without zones": ["2024-02-28", "2024-02-28 00:00:01.999999"],
}


@pytest.mark.parametrize("form", MOMENTS)
def test_moments_in_every_accepted_form_are_certified(tmp_path: Path, form: str) -> None:
    files = {"interactions": write(tmp_path / f"met-{DAY}.csv", [("ann", "tea", moment) for moment in MOMENTS[form]])}
    day = shop(tmp_path).day(DAY)
    payload = day.prepare(files)
    assert payload["interactions"]["time"].to_pylist() == [MIDNIGHT, MIDNIGHT + 1]
    assert day.certify(payload, files).holds


@pytest.mark.parametrize("unit", ["s", "ns", "zone", "float"])
def test_moments_of_parquet_are_certified(tmp_path: Path, unit: str) -> None:
    moments: Any = pa.array([MIDNIGHT * 10**9, (MIDNIGHT + 1) * 10**9 + 999_999_999], pa.timestamp("ns"))
    if unit == "s":
        moments = moments.cast(pa.timestamp("s"), safe=False)
    elif unit == "zone":
        moments = moments.cast(pa.timestamp("ns", "Europe/Paris"))
    elif unit == "float":
        moments = pa.array([float(MIDNIGHT), MIDNIGHT + 1.5])
    path = tmp_path / f"met-{DAY}.parquet"
    pyarrow.parquet.write_table(pa.table({"user": [1, 2], "item": [3, 4], "time": moments}), path)
    day = shop(tmp_path, "parquet").day(DAY)
    payload = day.prepare({"interactions": path})
    assert payload["interactions"]["time"].to_pylist() == [MIDNIGHT, MIDNIGHT + 1]
    certificate = day.certify(payload, {"interactions": path})
    assert certificate.holds, certificate.failures()
    assert "Moments of 2 rows" in next(c.detail for c in certificate.claims if c.name == "moments_changed")


# ----------------------------------------------------------------------------------------------------- which days


def test_recent_days_end_yesterday_and_dates_end_with_the_last() -> None:
    recent = DaysConfig(span="recent", lookback=3).dates(date(2024, 3, 1))
    assert recent == [date(2024, 2, 27), date(2024, 2, 28), date(2024, 2, 29)]
    assert DaysConfig(first=DAY, last=DAY).dates(date(2024, 3, 1)) == [DAY]


def test_the_window_ends_with_the_newest_known_day() -> None:
    known = [date(2024, 1, 1), date(2024, 3, 1), date(2024, 2, 28), date(2024, 2, 29)]
    assert DaysConfig(window=0).within(known) == sorted(known)
    assert DaysConfig(window=2).within(known) == [date(2024, 2, 29), date(2024, 3, 1)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first": date(2024, 1, 2), "last": date(2024, 1, 1)}, "first must not be after last, got 2024-01-02"),
        ({"last": date(2999, 1, 1)}, "last must not be in the future, got 2999-01-01"),
        ({"first": date(1969, 12, 31)}, "first must be in 1970 or later, got 1969-12-31"),
        ({"first": date(1999, 1, 1), "last": date(2024, 1, 1)}, "last must be less than 3660 days after first"),
        ({"lookback": 0}, "lookback must be at least 1, got 0"),
        ({"window": -1}, "window must be at least 0, got -1"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"DaysConfig\.{message}"):
        DaysConfig(**values)
