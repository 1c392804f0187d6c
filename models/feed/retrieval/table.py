"""A user's own interactions and items: what their columns are called, how the two tables meet, and given vectors."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import InputError
from models.feed.tables import (
    flat,
    read_attribute,
    read_names,
    read_table,
    read_times,
    read_written_names,
    refuse_first,
    type_names,
)

DAY_SECONDS = 86_400
DATE = "{date}"
"""What stands for the day in the location of a file for each day: 2024-05-17."""


def file_name(location: str) -> str:
    """What errors say of a location: the name of the file, for the rest may let its reader in."""
    return re.split("[?#]", location)[0].rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Where a user's own data lie and what their columns are called."""

    interactions: str = setting(
        "",
        "Interactions file",
        "Path or URL of a Parquet or CSV file with one row per interaction; with {date} in it, one file for each day.",
    )
    items: str = setting(
        "", "Items file", "Path or URL of a Parquet or CSV file with one row per item; empty: items without attributes."
    )
    user_column: str = setting("user", "User column", "Column of the interactions that names the user.", min_length=1)
    item_column: str = setting(
        "item", "Item column", "Column that names the item, the same in both files.", min_length=1
    )
    time_column: str = setting(
        "time",
        "Time column",
        "Column of the interactions with the moment: seconds since 1970 in UTC, or dates as in ISO 8601.",
        min_length=1,
    )
    attributes: tuple[str, ...] = setting(
        (), "Attributes", "Columns of the items file to keep for filters and the network; none named: all of them."
    )
    numbers: tuple[str, ...] = setting(
        (), "Numbers", "Attributes that must be numbers; a value that is none is then refused, not taken for a word."
    )
    multi_valued: tuple[str, ...] = setting(
        (), "Multi-valued attributes", "Text attributes that hold several values, parted by the separator."
    )
    separator: str = setting("|", "Separator", "What parts the values of a multi-valued attribute.", min_length=1)
    least_interactions: int = setting(
        3,
        "Fewest interactions",
        "Users with fewer interactions are left out, 3 to 1000; one each is held out for validation and test.",
        ge=3,
        le=1000,
    )

    def __post_init__(self) -> None:
        check(self)
        if DATE in self.items:
            raise ValueError(
                f"TableConfig.items must be one file, got {file_name(self.items)!r}; only the interactions may come "
                "day by day."
            )
        for name in (*self.numbers, *self.multi_valued):
            if self.attributes and name not in self.attributes:
                raise ValueError(
                    f"TableConfig.attributes must name every special column, got {name!r} beside {self.attributes}; "
                    f"add it there, or leave attributes empty to keep all columns."
                )


@dataclass(frozen=True, kw_only=True)
class VectorsConfig:
    """Where items with vectors of their own lie and what their columns are called; nothing is trained on them."""

    items: str = setting(
        "",
        "Items file",
        "Path or URL of a Parquet file with one row per item; columns beside those below are attributes.",
    )
    item_column: str = setting("item", "Item column", "Column that names the item.", min_length=1)
    vector_column: str = setting(
        "vector",
        "Vector column",
        "Column with the item's vector, a list of as many numbers in every row.",
        min_length=1,
    )
    query_column: str = setting(
        "",
        "Query column",
        "Column with the vector by which the item asks for others like it, as long as the others; empty: its own.",
    )

    def __post_init__(self) -> None:
        check(self)
        named = (self.item_column, self.vector_column, self.query_column)
        if len(set(named)) < len(named):
            raise ValueError(f"VectorsConfig must name columns that differ, got {named}; name each column once.")


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Who met what, when, still under the names of the file.

    Attributes:
        user: user of each row (int64 or string).
        item: item of each row, as a row number of the items table.
        time: seconds since 1970, UTC.
    """

    user: pa.Array
    item: NDArray[np.int64]
    time: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of interactions as their files have them, and which files those are, for messages.

    Attributes:
        table: `user` and `item` (int64, or text just as it was written) and `time` (seconds since 1970, UTC).
        files: each file and how many of the rows, one file after another, are from it.
    """

    table: pa.Table
    files: tuple[tuple[str, int], ...]


def read_items(path: Path, config: TableConfig, without: Collection[str] = ()) -> pa.Table:
    """The items file: `item_id` and one column per attribute, one row per item in the order of the file.

    Args:
        path: the file.
        config: names of the columns.
        without: columns that are no attributes.

    Returns:
        The table.

    Raises:
        InputError: the file cannot be used; also when an item stands there twice.

    Source:
        Ours.
    """
    wanted = (config.item_column, *config.attributes) if config.attributes else ()
    needed = (config.item_column, *config.numbers, *config.multi_valued)
    table = read_table(path, wanted, needed=needed)
    names = read_names(path, table, config.item_column)
    codes = np.asarray(pc.dictionary_encode(names).indices)
    repeated = np.ones(len(codes), bool)
    repeated[np.unique(codes, return_index=True)[1]] = False
    refuse_first(path, config.item_column, pa.array(repeated), names, "an item stands in one row only; merge its rows")
    columns = {"item_id": names}
    for name in table.column_names:
        if name == config.item_column or name in without:
            continue
        if name in ("item", "item_id"):
            raise InputError(f"{path} has an attribute called {name!r}, which is our own name; rename that column.")
        kind: Literal["any", "number", "list"] = "any"
        kind = "list" if name in config.multi_valued else "number" if name in config.numbers else kind
        columns[name] = read_attribute(path, table, name, kind=kind, separator=config.separator)
    return pa.table(columns)


def read_vectors(path: Path, column: str) -> NDArray[np.float32]:
    """A column of vectors.

    Args:
        path: a Parquet file.
        column: lists of numbers, all of one length.

    Returns:
        (N, D).

    Raises:
        InputError: the column holds something else, or a number that is missing or not finite in float32.

    Source:
        Ours.
    """
    values = flat(read_table(path, (column,)), column)
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    inside = values.type.value_type if any(is_kind(values.type) for is_kind in kinds) else pa.null()
    if not (pa.types.is_floating(inside) or pa.types.is_integer(inside)):
        raise InputError(f"{path}, column {column!r} holds {values.type}; write a list of numbers in every row.")
    lengths = pc.fill_null(pc.list_value_length(values), -1)
    length = max(lengths[0].as_py(), 1)
    refuse_first(
        path, column, pc.not_equal(lengths, length), lengths, f"the vector of the first row has {length} numbers"
    )
    numbers = pc.cast(pc.list_flatten(values), pa.float64()).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        found = np.asarray(numbers, np.float64).astype(np.float32).reshape(-1, length)
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        raise InputError(
            f"{path}, column {column!r}, row {wrong[0] + 1}: a number is missing or not finite as float32, and "
            f"{len(wrong) - 1} other rows are like it; mend the vectors."
        )
    return found


def read_interactions(path: Path, config: TableConfig, items: pa.Table | None) -> tuple[Interactions, pa.Array]:
    """The interactions file, its items found in the items table.

    Args:
        path: the file.
        config: names of the columns.
        items: what `read_items` gave; None when there is no items file.

    Returns:
        The interactions, and the identifiers of the items that their row numbers mean.

    Raises:
        InputError: the file cannot be used; also when an item is unknown.

    Source:
        Ours.
    """
    return find_items(read_rows(path, config), config, items)


def read_rows(path: Path, config: TableConfig, *, may_be_empty: bool = False) -> Rows:
    """A file of interactions, its identifiers not yet typed.

    Args:
        path: the file.
        config: names of the columns.
        may_be_empty: whether a header without rows will do.

    Returns:
        Its rows, in their order.

    Raises:
        InputError: the file cannot be used.

    Source:
        Ours.
    """
    table = read_table(path, (config.user_column, config.item_column, config.time_column), may_be_empty=may_be_empty)
    user = read_written_names(path, table, config.user_column)
    item = read_written_names(path, table, config.item_column)
    time = read_times(path, table, config.time_column) if table.num_rows else np.zeros(0, np.int64)
    return Rows(
        table=pa.table({"user": user, "item": item, "time": pa.array(time, pa.int64())}),
        files=((str(path), table.num_rows),),
    )


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows of several files as if they stood in one, one file after another.

    Args:
        parts: the rows of each file.

    Returns:
        All rows. A column that is text in one file is text in all, each identifier as its file wrote it.

    Source:
        Ours.
    """
    full = [part.table for part in parts if part.table.num_rows] or [part.table for part in parts[:1]]
    written = {name: pa.string() for name in ("user", "item") if any(not _is_integer(table, name) for table in full)}
    schema = pa.schema([(name, written.get(name, pa.int64())) for name in ("user", "item", "time")])
    return Rows(
        table=pa.concat_tables([table.select(schema.names).cast(schema) for table in full]).combine_chunks(),
        files=tuple(file for part in parts for file in part.files),
    )


def find_items(rows: Rows, config: TableConfig, items: pa.Table | None) -> tuple[Interactions, pa.Array]:
    """Type the identifiers of interactions and find their items in the items table.

    Args:
        rows: all interactions.
        config: names of the columns, for the message.
        items: what `read_items` gave; None when there is no items file.

    Returns:
        The interactions, and the identifiers of the items that their row numbers mean.

    Raises:
        InputError: an item is unknown.

    Source:
        Ours.
    """
    user = type_names(flat(rows.table, "user"))
    named = type_names(flat(rows.table, "item"))
    known = pc.unique(named).sort() if items is None else items["item_id"].combine_chunks()
    if known.type != named.type:
        known_as, named = pc.cast(known, pa.string()), pc.cast(named, pa.string())
    else:
        known_as = known
    place = pc.index_in(named, value_set=known_as)
    refuse_first(
        rows.files,
        config.item_column,
        pc.is_null(place),
        named,
        "the items file has no such item; add it or drop the row",
    )
    item = np.asarray(place.to_numpy(zero_copy_only=False), np.int64)
    time = np.asarray(flat(rows.table, "time").to_numpy(zero_copy_only=False), np.int64)
    return Interactions(user=user, item=item, time=time), known


def refuse_other_days(path: Path, config: TableConfig, rows: Rows, day: date) -> None:
    """Refuse rows that do not belong to the day of their file.

    Args:
        path: the file, for the message.
        config: names of the columns, for the message.
        rows: its rows.
        day: the day, from midnight to midnight in UTC.

    Raises:
        InputError: a moment lies before or after the day.

    Source:
        Ours.
    """
    begin, end = bounds(day)
    time = np.asarray(flat(rows.table, "time").to_numpy(zero_copy_only=False), np.int64)
    outside = (time < begin) | (time >= end)
    if not outside.any():
        return
    moments = pc.strftime(pc.cast(pa.array(time, pa.int64()), pa.timestamp("s")), format="%Y-%m-%dT%H:%M:%SZ")
    refuse_first(
        path, config.time_column, pa.array(outside), moments, f"this is the file of {day}, UTC; move the row to its day"
    )


def bounds(day: date) -> tuple[int, int]:
    """The first second of a day in UTC, and of the next one."""
    begin = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    return begin, begin + DAY_SECONDS


def _is_integer(table: pa.Table, name: str) -> bool:
    return bool(pa.types.is_integer(table.schema.field(name).type))
