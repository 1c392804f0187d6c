"""What a look at somebody's own table found: how its columns were understood, what is wrong, what to paste.

A system whose configuration is `models.common.contracts.Examinable` answers with an `Examination`. Rows are counted
from 1 after the header, as in the messages of `InputError`.
"""

import codecs
import csv
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

Grade = Literal["stops the run", "rows left out", "worth knowing"]
Choice = Literal["named by you", "guessed by name", "guessed by content", "by default", "not found", "not read"]

SHOWN = 3
"""Rows that stand for a problem; their count is of the whole file."""

_PACKED = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV UTF-8",
    b"BZh": "packed with bzip2; unpack it, or pack it with gzip",
    b"\xfd7zXZ": "packed with xz; unpack it, or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "packed with zstd; unpack it, or pack it with gzip",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV UTF-8",
    b"\xff\xfe": "UTF-16 text; save it as CSV UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as CSV UTF-8",
}
_DATA = re.compile(r'\s*([{\["]|[+-]?\d+(\.\d+)?\s*$|\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4})')


class RawFile(NamedTuple):
    """A file to be examined.

    Attributes:
        location: what parameters call it: an absolute path, a URL, or a catalogue entry.
        path: where its bytes lie now.
    """

    location: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class ColumnFound:
    """How one column was understood.

    Attributes:
        role: what it is for, in the system's words.
        file: path of the file.
        column: its name there.
        kind: the type that its values are read as.
        example: its first value.
        choice: who or what chose it.
        missing: share of rows without a value, 0 to 1.
    """

    role: str
    file: str
    column: str
    kind: str = ""
    example: str = ""
    choice: Choice
    missing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not as it should be, over the whole file.

    Attributes:
        grade: what it does to a run.
        what: the thing, in a few words.
        file: path of the file.
        column: the column; empty when the whole file is meant.
        count: how many rows have it; 0 when it is not one of rows.
        rows: the first of them, with the value.
        remedy: what to do.
    """

    grade: Grade
    what: str
    file: str
    column: str = ""
    count: int = 0
    rows: tuple[tuple[int, str], ...] = ()
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What a look at somebody's own table found.

    Attributes:
        columns: how each column was understood.
        problems: what is not as it should be, the gravest first.
        refusal: the words in which a run would refuse the files; empty when it would take them.
        settings: values of the system's configuration that use the files as they were understood.
        counts: what a run would get, when it would take them.
    """

    columns: tuple[ColumnFound, ...]
    problems: tuple[Problem, ...]
    refusal: str
    settings: Mapping[str, Any]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether a run would take the files."""
        return not self.refusal


def offending(
    grade: Grade, what: str, file: str, column: str, wrong: Any, values: pa.Array, remedy: str
) -> tuple[Problem, ...]:
    """The problem of the rows where `wrong` holds.

    Args:
        grade: what it does to a run.
        what: the thing, in a few words.
        file: path of the file.
        column: the column.
        wrong: N truth values; null is no.
        values: N values, to be shown.
        remedy: what to do.

    Returns:
        One problem, or none when there is no such row.

    Source:
        Ours.
    """
    mask = pa.array(wrong).fill_null(False)
    places = np.flatnonzero(np.asarray(mask.to_numpy(zero_copy_only=False), bool))
    if not len(places):
        return ()
    rows = tuple((int(place) + 1, shown(values[int(place)].as_py())) for place in places[:SHOWN])
    return (Problem(grade=grade, what=what, file=file, column=column, count=len(places), rows=rows, remedy=remedy),)


def shown(value: Any) -> str:
    """A value as it is shown to a person: short, on one line."""
    text = repr(value) if isinstance(value, str) else str(value)
    text = "nothing" if value is None else text
    return text if len(text) <= 40 else text[:37] + "..."


def plain_name(name: str) -> str:
    """A column's name in lower case with underscores: `UserID`, `user id` and `user-id` become `user_id`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def rank_by_name(name: str, words: Sequence[str], endings: Sequence[str]) -> int | None:
    """How well a column's name says that it has a role.

    Args:
        name: the column's name.
        words: names that say so, the plainest first.
        endings: last parts of a longer name that holds one of the words: `app_user_id` ends in `id`.

    Returns:
        0 for the plainest word, more for others; None when the name does not say so.

    Source:
        Ours.
    """
    plain = plain_name(name)
    if plain in words:
        return list(words).index(plain)
    parts = plain.split("_")
    if parts[-1] in endings and any(part in words for part in parts):
        return len(words) + len(parts)
    return None


def looks_like_data(name: str) -> bool:
    """Whether what should be a column's name is rather a value: a number, a date, the beginning of JSON."""
    return bool(_DATA.match(name))


def suspicion(path: Path) -> str:
    """What a file that cannot be read probably is, and what to do; empty when nothing comes to mind.

    Args:
        path: the file; may be missing.

    Returns:
        A sentence without its full stop.

    Source:
        Ours.
    """
    start = _beginning(path)
    for mark, words in _PACKED.items():
        if start.startswith(mark):
            return f"it is {words}"
    if start.startswith(b"PAR1") or not start:
        return ""
    try:
        first = codecs.getincrementaldecoder("utf-8-sig")().decode(start).splitlines()[:1]
    except UnicodeDecodeError:
        return "it may be Windows-1252, as Excel's plain CSV is; convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    line = first[0] if first else ""
    if line.startswith("{"):
        return (
            "it is JSON Lines; write Parquet from it with pyarrow.json.read_json(OLD) and pyarrow.parquet.write_table"
        )
    if line.startswith("["):
        return "it is JSON; write it as CSV or Parquet, one row per element"
    for separator, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if line.count(separator) > line.count(","):
            return f"its cells are parted by {called}; save it with commas between them"
    cells = next(csv.reader(io.StringIO(line)), [])
    if any(looks_like_data(cell) for cell in cells):
        return f"its first line looks like data ({line[:60]!r}); add a first line that names the columns"
    return ""


_READ = 65_536


def _beginning(path: Path) -> bytes:
    """The first bytes, unpacked when they are gzip; as many as could be had."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        raw = file.read(_READ)
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(raw, _READ)
    except zlib.error:
        return b""
