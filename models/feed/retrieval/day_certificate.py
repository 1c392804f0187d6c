"""What holds about one prepared day, found by reading its file once more with other code.

The file is read by pandas (CSV) or row group by row group (Parquet), identifiers are compared as text, moments are
read one by one by the standard library. Nothing of `table.py`, which prepared the day, is used.
"""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim

Integers = NDArray[np.int64]


def certify_file(table: pa.Table, path: Path, columns: tuple[str, str, str], day: tuple[int, int]) -> Certificate:
    """Compare a prepared day with its file.

    Args:
        table: the prepared day: user, item, time.
        path: its raw file.
        columns: the file's columns of users, items and moments.
        day: first second of the day and of the next, since 1970.

    Returns:
        The certificate.

    Source:
        Ours.
    """
    raw = _read(path, columns)
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    user, item, time = columns
    renamed = _differ(raw[user], table["user"].to_pandas()) + _differ(raw[item], table["item"].to_pandas())
    compared, moved = _moved(raw[time], table["time"].to_pandas())
    origin = f"{len(raw)} rows of the file with SHA-256 {checksum}, read again by other code"
    return _certificate(table, len(raw), renamed, (moved, compared), day, origin)


def certify_world(table: pa.Table, rows: tuple[Integers, Integers, Integers], day: tuple[int, int]) -> Certificate:
    """Compare a prepared day with the generated world that it is cut from.

    Args:
        table: the prepared day: user, item, time.
        rows: members, items and moments of all events of the world.
        day: first second of the day and of the next, since 1970.

    Returns:
        The certificate.

    Source:
        Ours.
    """
    inside = (rows[2] >= day[0]) & (rows[2] < day[1])
    count = int(inside.sum())
    columns = [
        (column[inside].tolist(), table[name].to_pylist())
        for column, name in zip(rows, table.column_names, strict=True)
    ]
    user, item, time = (sum(one != other for one, other in zip(*pair, strict=False)) for pair in columns)
    return _certificate(table, count, user + item, (time, count), day, f"{count} events of that day in the whole world")


def _certificate(
    table: pa.Table, rows: int, renamed: int, moved: tuple[int, int], day: tuple[int, int], origin: str
) -> Certificate:
    time = np.asarray(pc.fill_null(table["time"], day[0] - 1).to_numpy(), np.int64)
    empty = {name: table[name].null_count for name in table.column_names}
    shares = ", ".join(f"{name} {count / max(table.num_rows, 1):.3g}" for name, count in empty.items())
    outside = int(((time < day[0]) | (time >= day[1])).sum())
    return Certificate(
        claims=(
            _none("rows_lost_or_added", abs(table.num_rows - rows), f"{table.num_rows} rows against {origin}."),
            _none("identifiers_changed", renamed, "Users and items of every row against the same source, as text."),
            _none("moments_changed", moved[0], f"Moments of {moved[1]} rows against the same source, to the second."),
            _none("cells_missing", sum(empty.values()), f"Share of empty cells: {shares}."),
            _none("moments_outside_the_day", outside, "Every moment against midnight and midnight, UTC."),
        )
    )


def _none(name: str, count: int, detail: str) -> Claim:
    return Claim(name=name, kind="exact", value=count, limit=0, detail=detail)


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns of a raw file: integers, or text as it was written."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = [file.read_row_group(number, columns=list(columns)) for number in range(file.num_row_groups)]
            return pa.concat_tables([file.schema_arrow.empty_table().select(columns), *groups]).to_pandas()
    return pd.read_csv(
        path,
        usecols=list(columns),
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        compression="gzip" if start[:2] == b"\x1f\x8b" else None,
    )


def _moved(theirs: pd.Series, ours: pd.Series) -> tuple[int, int]:
    """How many moments could be compared, and how many of them differ."""
    if pd.api.types.is_integer_dtype(theirs.dtype):
        return len(theirs), _differ(theirs, ours)
    meanings = [_seconds(value) for value in theirs.tolist()]
    differ = sum(bool(known) and found not in known for known, found in zip(meanings, ours.tolist(), strict=False))
    return sum(map(bool, meanings)), differ


def _seconds(value: Any) -> set[int]:
    """What a moment may mean in whole seconds since 1970; nothing for a form that the standard library cannot read."""
    if isinstance(value, pd.Timestamp):
        return {int(value.value // 1_000_000_000)}
    meanings = set()
    if isinstance(value, date):
        value = value.isoformat()
    with contextlib.suppress(ValueError, OverflowError):
        meanings.add(math.floor(float(value)))
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value.strip())
            whole = moment.replace(microsecond=0, tzinfo=moment.tzinfo or UTC)
            meanings.add(round(whole.timestamp()))
    return meanings


def _differ(theirs: pd.Series, ours: pd.Series) -> int:
    """Rows that differ as text; rows that only one side has are counted elsewhere."""
    length = min(len(theirs), len(ours))
    theirs, ours = theirs.iloc[:length], ours.iloc[:length]
    if not all(pd.api.types.is_integer_dtype(side.dtype) for side in (theirs, ours)):
        theirs, ours = theirs.astype(str), ours.astype(str)
    return int((theirs.to_numpy() != ours.to_numpy()).sum())
