"""Where reports come from, month by month: CSV files of the Iowa Environmental Mesonet, or the generated world.

The archive gives CSV files whose columns VALID (YYYYMMDDHHMM, UTC), REPORT, TURBULENCE, LAT and LON are read; what is
missing is spelled None or left out. A file holds one month when its name says which (2023_01.csv, or the query string
of the request), else whatever months lie between its first and its last row.

Shapes: N reports.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from models.climate.datasets.turbulence import wording
from models.climate.datasets.turbulence.reports import COLUMNS, Faults, Reports, understood
from models.climate.datasets.turbulence.wording import Codes, Levels
from models.common.errors import InputError

if TYPE_CHECKING:
    from models.climate.generator.reports import ReportsConfig

MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "n/a", "nan", "null",
)  # fmt: skip
"""What pandas 1 takes for a missing value; the text None is not among them."""

_NAMED = (
    re.compile(r"year1=(?P<year>\d{4})&month1=(?P<month>\d{1,2})(?!\d)"),
    re.compile(r"(?<!\d)(?P<year>(?:19|20)\d{2})[_-]?(?P<month>0[1-9]|1[0-2])(?!\d)"),
)
_BULLETIN = re.compile(rb"^(?:UB|UA|UR)[A-Z]{2}\d{1,2} [A-Z]{4} \d{6}|\bU?UA /OV ", re.MULTILINE)


Reading = tuple[tuple[str, tuple[Path, ...]], ...]
"""Months and the files of each."""


@dataclass(frozen=True)
class Files:
    """Reports in CSV files.

    Attributes:
        reading: months and the files of each.
        stats: length and time of change of each file, so that a file which changed is read again.
    """

    reading: Reading
    stats: tuple[tuple[int, int], ...]

    @staticmethod
    def of(reading: Reading) -> "Files":
        """The files as they are now."""
        paths = [path for _, paths in reading for path in paths]
        return Files(reading, tuple(_stat(path) for path in paths))

    def table(self, month: str, faults: Faults) -> pa.Table:
        """The rows of a month; raises `InputError` for a file that cannot be read or holds others than it says."""
        paths = dict(self.reading)[month]
        return pa.concat_tables([_rows_of(path, month, any_month=faults.previous_month) for path in paths])

    def name(self, month: str) -> str:
        """The first file of the month."""
        return dict(self.reading)[month][0].name


@dataclass(frozen=True)
class Generated:
    """Reports of the generated world."""

    world: "ReportsConfig"
    first: date
    last: date

    def table(self, month: str, faults: Faults) -> pa.Table:
        """The rows of a month; there are no faults in a generated file."""
        from models.climate.generator.reports import reports_of

        days = (self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1))
        told = [reports_of(self.world, day) for day in days if day.isoformat()[:7] == month]
        columns = {name: [text for reports in told for text in reports.table[name]] for name in COLUMNS}
        return pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})

    def name(self, month: str) -> str:
        """The world, by its seed."""
        return f"the generated world {self.world.seed} in {month}"


Source = Files | Generated
"""Rows of reports by month; hashable, equal when the rows are."""


def month_of_name(path: Path) -> str:
    """The month which a file's name says it holds, as 2023-01; "" when it says none."""
    for pattern in _NAMED:
        found = pattern.search(path.name)
        if found and 1 <= int(found["month"]) <= 12:
            return f"{found['year']}-{int(found['month']):02}"
    return ""


def months_of(path: Path, *, unread: bool = False) -> tuple[str, ...]:
    """Months of which a file may hold reports: that of its name, else those from its first to its last row.

    Reads the head and the tail of the file only.

    Args:
        path: the file.
        unread: take the name's word for it, also of a file that cannot be read.

    Raises:
        InputError: the file is none of the archive's, or its rows run backwards.
    """
    named = month_of_name(path)
    if named and unread:
        return (named,)
    head, tail = _ends(path)
    _examine_head(path, head)
    if named:
        return (named,)
    columns = [name.strip().strip('"') for name in head.decode("utf-8", "replace").splitlines()[0].split(",")]
    at = columns.index("VALID")
    lines = [line for line in head.splitlines()[1:2] + tail.splitlines()[-1:] if line.strip()]
    if len(lines) < 2:
        return ()
    first, last = (line.decode("utf-8", "replace").split(",")[at].strip('"')[:6] for line in lines)
    if not (first.isdigit() and last.isdigit() and len(first) == len(last) == 6):
        raise InputError(
            f"{path.name}: VALID must be YYYYMMDDHHMM, got {first!r} in the first row and {last!r} in the last; name "
            "the file after its month, as 2023_01.csv, if the column VALID stands behind a text."
        )
    months = month_range(f"{first[:4]}-{first[4:]}", f"{last[:4]}-{last[4:]}")
    if not months:
        raise InputError(f"{path.name} runs from {first} back to {last}; sort it by VALID.")
    return months


def month_range(first: str, last: str) -> tuple[str, ...]:
    """All months from one to another, both as 2023-01 and both included."""
    begin, end = (int(text[:4]) * 12 + int(text[5:]) - 1 for text in (first, last))
    return tuple(f"{number // 12}-{number % 12 + 1:02}" for number in range(begin, end + 1))


def in_order(months: Iterable[str], *, by_name: bool) -> list[str]:
    """Months in the order in which their rows are joined.

    Args:
        months: as 2023-01.
        by_name: the published rule with sorted listings: by the name of the request, in which October comes before
            February. False: by time.
    """
    return sorted(set(months), key=(lambda m: f"year1={m[:4]}&month1={int(m[5:])}&") if by_name else str)


@lru_cache(maxsize=1)  # the days of a month ask for it one after another
def read_month(source: Source, month: str, faults: Faults) -> Reports:
    """The reports of one month, each with the flight level of its own text; raises `InputError`."""
    return understood(source.table(month, faults), source.name(month), faults)


@dataclass(frozen=True, kw_only=True, eq=False)
class Archive:
    """All months joined, without their texts: what the published faults need which mix the rows of different months.

    Attributes:
        months: in the order in which they are joined.
        copied: the month that each was read from, another than itself where its download had failed.
        begins: place of the first report of each month, and the number of all.
        level, band, intensity, day, latitude, longitude: of all reports; the level is the published one where the
            order of levels is repeated.
    """

    source: Source
    faults: Faults
    months: tuple[str, ...]
    copied: tuple[str, ...]
    begins: NDArray[np.int64]
    level: Levels
    band: Codes
    intensity: Codes
    day: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    def month(self, name: str) -> Reports:
        """One month with its texts."""
        at = self.months.index(name)
        part = slice(int(self.begins[at]), int(self.begins[at + 1]))
        reports = read_month(self.source, self.copied[at], self.faults)
        return replace(reports, level=self.level[part], band=self.band[part])


@lru_cache(maxsize=1)  # every part of a published recipe asks for the same
def read_archive(source: Source, months: tuple[str, ...], faults: Faults) -> Archive:
    """Read all months and join them; the texts of one month are in memory at a time.

    Args:
        source: of the rows.
        months: in the order of time.
        faults: which published faults are repeated.

    Returns:
        The archive, kept until another is asked for.

    Raises:
        InputError: as the source; not where a month that cannot be read is to be a copy of the one before.

    Source:
        WxC-Bench at ee00516: PIREP_downloads.ipynb, cells 7, 10 and 11; turb_eda_preprocessing.ipynb, cell 15.
    """
    bare: dict[str, Reports] = {}
    lists: dict[str, tuple[Levels, Levels]] = {}
    copied: dict[str, str] = {}
    latest = ""
    for month in months:
        try:
            copied[month], reports = month, read_month(source, month, faults)
        except InputError:
            if not (faults.previous_month and latest):
                raise
            copied[month] = copied[latest]
            reports = read_month(source, copied[latest], faults)
        latest = month
        fields = wording.flight_level_fields(reports.report, fourth=faults.short_report)
        lists[month] = wording.joined_end_to_end(fields, reports.level)
        nothing = pa.nulls(len(reports), pa.string())
        bare[month] = replace(reports, report=nothing, turbulence=nothing)
    order = in_order(months, by_name=faults.unsorted_files)
    joined = [lists[month][which] for which in (0, 1) for month in order]
    level = np.concatenate(joined if faults.flight_level_order else [bare[month].level for month in order])
    return Archive(
        source=source,
        faults=faults,
        months=tuple(order),
        copied=tuple(copied[month] for month in order),
        begins=np.cumsum([0, *(len(bare[month]) for month in order)]),
        level=level,
        band=wording.bands(level),
        intensity=np.concatenate([bare[month].intensity for month in order]),
        day=np.concatenate([bare[month].day for month in order]),
        latitude=np.concatenate([bare[month].latitude for month in order]),
        longitude=np.concatenate([bare[month].longitude for month in order]),
    )


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; fetch it again.") from None
    return stat.st_size, stat.st_mtime_ns


def _ends(path: Path, length: int = 65_536) -> tuple[bytes, bytes]:
    """The first bytes of a file and the last."""
    try:
        with path.open("rb") as file:
            head = file.read(length)
            file.seek(max(0, path.stat().st_size - length))
            return head, file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; fetch it again.") from None


def _examine_head(path: Path, head: bytes) -> None:
    """Refuse a file whose first line does not name the columns."""
    first = head.splitlines()[0] if head.strip() else b""
    names = [name.strip().strip('"') for name in first.decode("utf-8", "replace").split(",")]
    lacking = [column for column in COLUMNS if column not in names]
    if not lacking:
        return
    if _BULLETIN.search(head):
        raise InputError(
            f"{path.name} is a bulletin of raw reports: it gives places by station, and neither month nor year. Fetch "
            "the reports as CSV, with LAT and LON, from the archive of the Iowa Environmental Mesonet."
        )
    raise InputError(
        f"{path.name} lacks the column {lacking[0]!r} in its first line; its columns are {names[:12]}. Fetch the "
        "reports with fmt=csv from the archive of the Iowa Environmental Mesonet."
    )


def _read(path: Path) -> pa.Table:
    return _read_once(path, *_stat(path))


@lru_cache(maxsize=1)  # a file of many months is asked for each of them in turn
def _read_once(path: Path, size: int, modified: int) -> pa.Table:
    """The five columns as texts; null what pandas 1 takes for missing."""
    _examine_head(path, _ends(path)[0])
    wrong: list[pyarrow.csv.InvalidRow] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        wrong.append(row)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(COLUMNS),
                column_types=dict.fromkeys(COLUMNS, pa.string()),
                null_values=list(MISSING),
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path.name} cannot be read as CSV: {str(error).splitlines()[0]}; fetch it again.") from None
    if wrong:
        raise InputError(
            f"{path.name}, row {wrong[0].number}: {wrong[0].actual_columns} fields in place of "
            f"{wrong[0].expected_columns}, {wrong[0].text[:80]!r}; quote texts that hold commas, or fetch it again."
        )
    if table_was_cleaned(path):
        at = table.schema.get_field_index("TURBULENCE")
        table = table.set_column(at, "TURBULENCE", pc.fill_null(table["TURBULENCE"], "None"))
    return table


def table_was_cleaned(path: Path) -> bool:
    """Whether a file is one that the published download wrote: its rows are numbered, and None is left out."""
    return _ends(path, 64)[0].startswith((b",", b'"",'))


def _rows_of(path: Path, month: str, *, any_month: bool) -> pa.Table:
    """The rows of one month; a file that is named after it must hold no others."""
    table = _read(path)
    if any_month and month_of_name(path):
        return table
    digits = month.replace("-", "")
    there = pc.fill_null(pc.starts_with(table["VALID"], digits), False)
    if not month_of_name(path):
        _examine_range(path, table)
        return table.filter(there)
    if pc.all(there, min_count=0).as_py():
        return table
    at = int(pc.index(there, pa.scalar(False)).as_py())
    raise InputError(
        f"{path.name} is named after {month}, but its row {at + 1} has VALID {table['VALID'][at].as_py()!r}: a copy of "
        "another month is what a failed download leaves; fetch it again, or rename it."
    )


def _examine_range(path: Path, table: pa.Table) -> None:
    """Refuse a file some of whose rows lie before its first or after its last: no part would ask for their months."""
    months = months_of(path)
    found = pc.min_max(pc.utf8_slice_codeunits(table["VALID"], 0, 6)).as_py()
    for month in (found["min"], found["max"]):
        if month is not None and f"{month[:4]}-{month[4:]}" not in months:
            at = int(pc.index(pc.starts_with(table["VALID"], month), pa.scalar(True)).as_py())
            raise InputError(
                f"{path.name}, row {at + 1}: VALID {table['VALID'][at].as_py()!r} lies outside of {months[0]} to "
                f"{months[-1]}, the months of its first and last row; sort the file by VALID."
            )
