"""Read a user's own table, Parquet or CSV (gzip or not), and say exactly what is wrong with it.

A file's kind is told by its first bytes, not by its name. Rows are counted from 1 after the header.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from models.common.contracts import InputError

INTEGER = r"^\s*[+-]?\d{1,18}\s*$"
NUMBER = r"^\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|NaN|NAN|inf|Inf|-inf|infinity|Infinity)\s*$"


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
    if not is_text(values.type) and not pa.types.is_null(values.type):
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
    if pa.types.is_string(values.type) and all_true(pc.match_substring_regex(values, INTEGER)):
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
    if not is_text(values.type):
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


def refuse_infinite(path: Path, column: str, values: pa.Array) -> pa.Array:
    """The same values, all finite or null; raises `InputError` for the first that is neither."""
    wrong = pc.fill_null(pc.invert(pc.is_finite(values)), False)
    refuse_first(path, column, wrong, values, "numbers must be finite; leave the cell empty if it is unknown")
    return values


def flat(table: pa.Table, column: str) -> pa.Array:
    """A column in one piece, dictionaries opened."""
    chunked = table[column]
    if pa.types.is_dictionary(chunked.type):
        chunked = pc.cast(chunked, chunked.type.value_type)
    return pa.concat_arrays(chunked.chunks) if chunked.num_chunks != 1 else chunked.chunk(0)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def all_true(truth: pa.Array) -> bool:
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


def read_numbers(path: Path, table: pa.Table, column: str, *, empty: float | None = None) -> NDArray[np.float64]:
    """A column of numbers.

    Args:
        path: the file, for the message.
        table: its contents.
        column: the column.
        empty: what an empty cell means; None: there must be none.

    Returns:
        float64, finite but for what an empty cell means.

    Raises:
        InputError: a cell is empty that must not be, or holds no finite number.

    Source:
        Ours.
    """
    values = flat(table, column)
    if is_text(values.type):
        text = pc.cast(values, pa.string())
        wrong = pc.fill_null(pc.invert(pc.match_substring_regex(text, NUMBER)), False)
        refuse_first(path, column, wrong, text, "write a number")
        values = pc.cast(pc.utf8_trim_whitespace(text), pa.float64())
    elif pa.types.is_null(values.type):
        values = pc.cast(values, pa.float64())
    elif not (
        pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    ):
        raise InputError(f"{path}, column {column!r} holds {values.type}; it must hold numbers. Convert it.")
    values = refuse_infinite(path, column, pc.cast(values, pa.float64()))
    if empty is None:
        refuse_first(
            path, column, pc.is_null(values), values, "a number must not be missing; fill it in or drop the row"
        )
    filled = values if empty is None else pc.fill_null(values, empty)
    return np.asarray(filled.to_numpy(zero_copy_only=False), np.float64)
