"""Read a user's own table, Parquet or CSV (gzip or not), and say exactly what is wrong with it.

A file's kind is told by its first bytes, not by its name. Rows are counted from 1 after the header.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from models.common.contracts import InputError
from models.feed.points import POINT, degrees_of, is_point, outside, struct_of

INTEGER = r"^\s*[+-]?\d{1,18}\s*$"
NUMBER = r"^\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|NaN|NAN|inf|Inf|-inf|infinity|Infinity)\s*$"
TRUTH = r"^\s*(true|false|True|False|TRUE|FALSE)\s*$"


def read_table(
    path: Path, columns: Sequence[str], *, needed: Sequence[str] = (), may_be_empty: bool = False
) -> pa.Table:
    """Read a Parquet or CSV file; CSV columns come as text, to be typed by those who know what they mean.

    Args:
        path: the file.
        columns: what to read, in this order; empty for everything.
        needed: columns that must be there when `columns` is empty.
        may_be_empty: whether a header without rows will do.

    Returns:
        The table; empty cells of a CSV are null.

    Raises:
        InputError: the file is missing, empty, damaged, not UTF-8, of another kind, or lacks a column.

    Source:
        Ours, on pyarrow.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give the path of a Parquet or CSV file.")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise InputError(f"{path} is empty (0 bytes); give a file with a header and rows.")
    table = _read_parquet(path) if start == b"PAR1" else _read_csv(path, packed=start[:2] == b"\x1f\x8b")
    for name in columns or needed:
        if name not in table.column_names:
            raise InputError(
                f"{path} has no column {name!r}; it has {table.column_names}. Rename the column or name another one."
            )
    table = table.select(list(columns)) if columns else table
    if not table.num_rows and not may_be_empty:
        raise InputError(f"{path} has a header but no rows; give at least one row.")
    return table.combine_chunks()


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pyarrow.parquet.ParquetFile(path).read()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{path} begins as Parquet but cannot be read ({error}); write or copy it again.") from error


def _read_csv(path: Path, *, packed: bool) -> pa.Table:
    try:
        raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is a damaged or truncated gzip file ({error}); copy it again.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8 text: line {line} has the byte 0x{raw[error.start]:02x}; "
            f"it must be Parquet, or CSV saved as UTF-8."
        ) from error
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise InputError(f"{path} is neither Parquet nor CSV: line {line} has a zero byte.")
    header = next(csv.reader(io.StringIO(text)), [])
    if not any(header):
        raise InputError(f"{path} has no header; its first line must name the columns.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"{path} names the column {twice[0]!r} twice; rename one.")
    try:
        return pyarrow.csv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in header},
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a regular CSV file ({error}); every row needs {len(header)} cells.") from error


def read_names(path: Path, table: pa.Table, column: str) -> pa.Array:
    """A column of identifiers: integers if all are, otherwise text.

    Args:
        path: the file, for the message.
        table: its contents.
        column: the column.

    Returns:
        int64 or string, without nulls.

    Raises:
        InputError: an identifier is missing, or is neither an integer nor text.

    Source:
        Ours.
    """
    return type_names(read_written_names(path, table, column))


def read_written_names(path: Path, table: pa.Table, column: str) -> pa.Array:
    """A column of identifiers just as they were written: what one file calls 007 another may call seven.

    Args:
        path: the file, for the message.
        table: its contents.
        column: the column.

    Returns:
        int64 or string, without nulls; text that looks like an integer stays text.

    Raises:
        InputError: an identifier is missing, or is neither an integer nor text.

    Source:
        Ours.
    """
    values = flat(table, column)
    refuse_first(
        path, column, pc.is_null(values), values, "an identifier must not be empty; fill it in or drop the row"
    )
    if pa.types.is_integer(values.type):
        return pc.cast(values, pa.int64())
    if not _is_text(values.type) and not pa.types.is_null(values.type):
        raise InputError(f"{path}, column {column!r} holds {values.type}; identifiers are integers or text.")
    return pc.cast(values, pa.string())


def type_names(values: pa.Array) -> pa.Array:
    """Identifiers as int64 if all of them are integers, otherwise as they are.

    Args:
        values: int64 or string, without nulls.

    Returns:
        int64 or string.

    Source:
        Ours.
    """
    if pa.types.is_string(values.type) and _all(pc.match_substring_regex(values, INTEGER)):
        return pc.cast(pc.utf8_trim_whitespace(values), pa.int64())
    return values


def read_times(path: Path, table: pa.Table, column: str) -> NDArray[np.int64]:
    """A column of moments as seconds since 1970, UTC.

    Whether text holds seconds or dates is what most of its values look like; the first that does not is refused.

    Args:
        path: the file, for the message.
        table: its contents.
        column: the column.

    Returns:
        int64 seconds; parts of a second are cut off.

    Raises:
        InputError: a moment is missing or cannot be read.

    Source:
        Ours.
    """
    values = flat(table, column)
    refuse_first(path, column, pc.is_null(values), values, "a moment must not be empty; fill it in or drop the row")
    if pa.types.is_integer(values.type):
        return np.asarray(pc.cast(values, pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    if pa.types.is_temporal(values.type):
        series = pd.to_datetime(pd.Series(values.to_pandas()), utc=True)
        return _seconds(series)
    if pa.types.is_floating(values.type):
        return _whole_seconds(path, column, values, np.asarray(values.to_numpy(zero_copy_only=False), np.float64))
    if not _is_text(values.type):
        raise InputError(f"{path}, column {column!r} holds {values.type}; moments are seconds or ISO 8601 dates.")
    like_number = pc.match_substring_regex(values, NUMBER)
    if 2 * (pc.sum(like_number).as_py() or 0) > len(values):
        refuse_first(path, column, pc.invert(like_number), values, "write seconds since 1970, as in the other rows")
        moments = pc.cast(pc.utf8_trim_whitespace(values), pa.float64()).to_numpy(zero_copy_only=False)
        return _whole_seconds(path, column, values, np.asarray(moments, np.float64))
    series = pd.to_datetime(pd.Series(values.to_pylist()), utc=True, format="ISO8601", errors="coerce")
    refuse_first(path, column, pa.array(series.isna()), values, "write a date as in 2024-05-17T08:30:00Z, or seconds")
    return _seconds(series)


def _seconds(series: "pd.Series") -> NDArray[np.int64]:
    return np.asarray(series.dt.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64))


def _whole_seconds(path: Path, column: str, values: pa.Array, moments: NDArray[np.float64]) -> NDArray[np.int64]:
    wrong = ~(np.abs(moments) < 1e15)
    refuse_first(path, column, pa.array(wrong), values, "write finite seconds since 1970")
    return np.floor(moments).astype(np.int64)


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
        return _finite(path, column, pc.cast(values, pa.float64()))
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return pc.cast(pc.cast(values, pa.timestamp("s")), pa.int64())
    if is_point(values.type):
        degrees = degrees_of(values)
        remedy = "a latitude lies between -90 and 90 degrees, a longitude between -180 and 180"
        refuse_first(path, column, pa.array(outside(degrees)), values, remedy)
        return struct_of(degrees, POINT)
    if not _is_text(values.type):
        raise InputError(
            f"{path}, column {column!r} holds {values.type}; attributes are truth values, numbers, moments, text, "
            f"lists, or points (latitude and longitude). Convert it, or leave it out of the attributes."
        )
    text = pc.cast(values, pa.string())
    if kind == "list":
        return pa.array([_parts(value, separator) for value in text.to_pylist()], pa.list_(pa.string()))
    if _all(pc.match_substring_regex(text, INTEGER)) and text.null_count < len(text):
        return pc.cast(pc.utf8_trim_whitespace(text), pa.int64())
    if kind == "number" or (_all(pc.match_substring_regex(text, NUMBER)) and text.null_count < len(text)):
        wrong = pc.fill_null(pc.invert(pc.match_substring_regex(text, NUMBER)), False)
        refuse_first(path, column, wrong, text, "write a number, or leave the cell empty")
        return _finite(path, column, pc.cast(pc.utf8_trim_whitespace(text), pa.float64()))
    if _all(pc.match_substring_regex(text, TRUTH)) and text.null_count < len(text):
        return pc.equal(pc.utf8_lower(pc.utf8_trim_whitespace(text)), "true")
    return text


def _parts(value: str | None, separator: str) -> list[str] | None:
    return None if value is None else [part.strip() for part in value.split(separator) if part.strip()]


def _finite(path: Path, column: str, values: pa.Array) -> pa.Array:
    wrong = pc.fill_null(pc.invert(pc.is_finite(values)), False)
    refuse_first(path, column, wrong, values, "numbers must be finite; leave the cell empty if it is unknown")
    return values


def flat(table: pa.Table, column: str) -> pa.Array:
    """A column in one piece, dictionaries opened."""
    chunked = table[column]
    if pa.types.is_dictionary(chunked.type):
        chunked = pc.cast(chunked, chunked.type.value_type)
    return pa.concat_arrays(chunked.chunks) if chunked.num_chunks != 1 else chunked.chunk(0)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _all(truth: pa.Array) -> bool:
    """Whether all that is not null is true."""
    return bool(pc.all(pc.fill_null(truth, True)).as_py())


def refuse_first(
    files: Path | Sequence[tuple[str, int]], column: str, wrong: pa.Array, values: pa.Array, remedy: str
) -> None:
    """Raise for the first wrong value, if there is one.

    Args:
        files: the file, or several with the number of rows that each has.
        column: the column.
        wrong: a truth value for each row.
        values: what stands there.
        remedy: what would be right.

    Raises:
        InputError: something is wrong; rows count from 1 after the header.

    Source:
        Ours.
    """
    places = np.flatnonzero(np.asarray(pa.array(wrong).to_numpy(zero_copy_only=False), bool))
    if not len(places):
        return
    first = row = int(places[0])
    path = str(files)
    if not isinstance(files, Path):
        for name, length in files:
            path = name
            if row < length:
                break
            row -= length
    _refuse(path, column, row, values[first].as_py(), len(places), remedy)


def _refuse(path: str, column: str, row: int, value: object, count: int, remedy: str) -> NoReturn:
    more = f" (and {count - 1} more)" if count > 1 else ""
    raise InputError(f"{path}, column {column!r}, row {row + 1}: {value!r}{more}: {remedy}.")
