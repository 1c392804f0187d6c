"""Attributes of items in a user's own table; what all tables have in common is read by `models.common.tables`."""

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from models.common.contracts import InputError
from models.common.tables import (
    INTEGER,
    NUMBER,
    all_true,
    flat,
    is_text,
    read_names,
    read_table,
    read_times,
    read_written_names,
    refuse_first,
    refuse_infinite,
    type_names,
)
from models.feed.points import POINT, degrees_of, is_point, outside, struct_of

__all__ = [
    "INTEGER",
    "NUMBER",
    "TRUTH",
    "flat",
    "read_attribute",
    "read_names",
    "read_table",
    "read_times",
    "read_written_names",
    "refuse_first",
    "type_names",
]

TRUTH = r"^\s*(true|false|True|False|TRUE|FALSE)\s*$"


def read_attribute(
    path: Path, table: pa.Table, column: str, *, kind: Literal["any", "number", "list"] = "any", separator: str = "|"
) -> pa.Array:
    """A column of attributes as bool, int64, float64, string, list of strings or int64, or `POINT`; nulls stay.

    Args:
        path: the file, for the message.
        table: its contents.
        column: the column.
        kind: "number" refuses what is none; "list" parts text at the separator; "any" takes the narrowest type.
        separator: what parts a multi-valued text; an empty cell is null, and empty parts are dropped.

    Returns:
        The column.

    Raises:
        InputError: a number is not finite or is none, a point is nowhere on the sphere, or the type has no place in an
            index.

    Source:
        Ours.
    """
    values = flat(table, column)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        inside = pa.int64() if pa.types.is_integer(values.type.value_type) else pa.string()
        return pc.cast(values, pa.list_(inside))
    if pa.types.is_boolean(values.type) or pa.types.is_null(values.type):
        return pc.cast(values, pa.bool_())
    if pa.types.is_integer(values.type):
        return pc.cast(values, pa.int64())
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return refuse_infinite(path, column, pc.cast(values, pa.float64()))
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return pc.cast(pc.cast(values, pa.timestamp("s")), pa.int64())
    if is_point(values.type):
        degrees = degrees_of(values)
        remedy = "a latitude lies between -90 and 90 degrees, a longitude between -180 and 180"
        refuse_first(path, column, pa.array(outside(degrees)), values, remedy)
        return struct_of(degrees, POINT)
    if not is_text(values.type):
        raise InputError(
            f"{path}, column {column!r} holds {values.type}; attributes are truth values, numbers, moments, text, "
            f"lists, or points (latitude and longitude). Convert it, or leave it out of the attributes."
        )
    text = pc.cast(values, pa.string())
    if kind == "list":
        return pa.array([_parts(value, separator) for value in text.to_pylist()], pa.list_(pa.string()))
    if all_true(pc.match_substring_regex(text, INTEGER)) and text.null_count < len(text):
        return pc.cast(pc.utf8_trim_whitespace(text), pa.int64())
    if kind == "number" or (all_true(pc.match_substring_regex(text, NUMBER)) and text.null_count < len(text)):
        wrong = pc.fill_null(pc.invert(pc.match_substring_regex(text, NUMBER)), False)
        refuse_first(path, column, wrong, text, "write a number, or leave the cell empty")
        return refuse_infinite(path, column, pc.cast(pc.utf8_trim_whitespace(text), pa.float64()))
    if all_true(pc.match_substring_regex(text, TRUTH)) and text.null_count < len(text):
        return pc.equal(pc.utf8_lower(pc.utf8_trim_whitespace(text)), "true")
    return text


def _parts(value: str | None, separator: str) -> list[str] | None:
    return None if value is None else [part.strip() for part in value.split(separator) if part.strip()]
