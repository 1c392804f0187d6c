"""Pilots' reports of a month made clean: repeated ones and those without a position left out, their texts understood.

Shapes: N reports.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.climate.datasets.turbulence import wording
from models.climate.datasets.turbulence.wording import Codes, Levels
from models.common.errors import InputError

COLUMNS = ("VALID", "REPORT", "TURBULENCE", "LAT", "LON")
"""What is read of a report: time (YYYYMMDDHHMM, UTC), the line, its words on turbulence, degrees north and east."""

_DIGITS = r"^\d{12}$"
_NUMBER = r"^\s*(?P<sign>[+-]?)(?P<whole>\d*)\.?(?P<rest>\d*)(?:[eE](?P<power>[+-]?\d+))?\s*$"


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Which faults of the published preparation are repeated; the names are those of `recipe.DEFECTS`."""

    flight_level_order: bool = False
    intensity_words: bool = False
    leap_day: bool = False
    previous_month: bool = False
    short_report: bool = False
    none_text: bool = False
    unsorted_files: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Reports:
    """Reports with a position, in the order of their file.

    Attributes:
        minute: (N,) minutes since 1970, UTC.
        report, turbulence: (N,) texts, null where nothing was said.
        latitude, longitude: (N,) degrees, as read.
        level: (N,) hundreds of feet.
        band: (N,) number of the band.
        intensity: (N,) 0 to 4.
        read: rows of the month in the files.
        repeated: rows left out because an equal one came before.
        nowhere: rows left out because they lack a position or a report.
    """

    minute: NDArray[np.int64]
    report: pa.Array
    turbulence: pa.Array
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    level: Levels
    band: Codes
    intensity: Codes
    read: int = 0
    repeated: int = 0
    nowhere: int = 0

    def __len__(self) -> int:
        return len(self.minute)

    @property
    def day(self) -> NDArray[np.int64]:
        """(N,) days since 1970."""
        return np.asarray(self.minute // 1440)

    def where(self, keep: NDArray[np.bool_]) -> "Reports":
        """Those for which `keep` is true, in the same order."""
        mask = pa.array(keep)
        return replace(
            self,
            minute=self.minute[keep],
            report=self.report.filter(mask),
            turbulence=self.turbulence.filter(mask),
            latitude=self.latitude[keep],
            longitude=self.longitude[keep],
            level=self.level[keep],
            band=self.band[keep],
            intensity=self.intensity[keep],
        )


def understood(table: pa.Table, name: str, faults: Faults) -> Reports:
    """Make clean the rows of one month, and understand their texts.

    Flight levels are those of each report's own text; the published order of levels needs all months, see `Archive`.

    Args:
        table: the columns `COLUMNS` as texts, null where pandas 1 finds nothing.
        name: what messages call it.
        faults: which published faults are repeated.

    Returns:
        The reports.

    Raises:
        InputError: a time or a position is none; the message names the row and the remedy.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/code/PIREP_downloads.ipynb, cells 4, 5, 7; mended as `Faults` says.
    """
    table = table.combine_chunks()
    if faults.leap_day:
        seen = pc.invert(pc.match_substring_regex(pc.fill_null(table["VALID"], ""), r"^\d{4}0229"))
        table = table.filter(seen)
    kept = table.take(pa.array(_first_of_each(table)))
    told = _without_missing(kept, none_text=faults.none_text).combine_chunks()
    minute = _minutes(_texts(told, "VALID"), name)
    latitude, longitude = (_degrees(_texts(told, column), f"{name}: {column}", faults) for column in ("LAT", "LON"))
    report, turbulence = _texts(told, "REPORT"), _texts(told, "TURBULENCE")
    level = wording.flight_levels(wording.flight_level_fields(report, fourth=faults.short_report))
    reports = Reports(
        minute=minute,
        report=report,
        turbulence=turbulence,
        latitude=latitude,
        longitude=longitude,
        level=level,
        band=wording.bands(level),
        intensity=wording.intensities(turbulence, inside_words=faults.intensity_words),
        read=table.num_rows,
        repeated=table.num_rows - kept.num_rows,
        nowhere=kept.num_rows - told.num_rows,
    )
    if faults.none_text:
        return reports
    # A position off the sphere is no position; the published rule moves it to the nearest edge.
    on_sphere = (np.abs(reports.latitude) <= 90) & (np.abs(reports.longitude) <= 360)
    return replace(reports.where(on_sphere), nowhere=reports.nowhere + int((~on_sphere).sum()))


def clear_air(turbulence: pa.Array) -> Codes:
    """Whether the text speaks of clear-air turbulence: 1, 0, and -1 where there is no text.

    Source:
        WxC-Bench at ee00516, turb_eda_preprocessing.ipynb, cell 43.
    """
    said = pc.cast(pc.match_substring(turbulence, "CAT"), pa.int8())
    return np.asarray(pc.fill_null(said, -1), np.int8)


def _first_of_each(table: pa.Table) -> NDArray[np.int64]:
    """Row numbers without those that repeat an earlier row in all five columns."""
    if not table.num_rows:
        return np.zeros(0, np.int64)
    columns = [pc.fill_null(table[name].combine_chunks(), "\x00") for name in COLUMNS]
    codes = np.asarray(pc.binary_join_element_wise(*columns, "\x1f").dictionary_encode().indices, np.int64)
    # Codes are given in the order of first appearance: a row is the first of its kind where the code is a new highest.
    highest = np.maximum.accumulate(np.concatenate([[-1], codes]))
    return np.flatnonzero(codes > highest[:-1])


def _without_missing(table: pa.Table, *, none_text: bool) -> pa.Table:
    """Rows with a position and a report; the text None becomes null.

    Args:
        table: the five columns.
        none_text: the published rule under pandas 1: a row with any empty field goes, None is kept but in positions.
            False: empty and None mean the same, and a report without turbulence stays.
    """
    if none_text:
        table = table.drop_null()
    for name in COLUMNS:
        column = table[name]
        cleared = pc.if_else(pc.equal(column, "None"), pa.scalar(None, pa.string()), column)
        table = table.set_column(table.schema.get_field_index(name), name, cleared)
    needed = ("LAT", "LON") if none_text else ("LAT", "LON", "REPORT", "VALID")
    keep = pc.is_valid(table[needed[0]])
    for name in needed[1:]:
        keep = pc.and_(keep, pc.is_valid(table[name]))
    return table.filter(keep)


def _minutes(valid: pa.Array, name: str) -> NDArray[np.int64]:
    """Minutes since 1970 of times spelled YYYYMMDDHHMM."""
    right = np.asarray(pc.fill_null(pc.match_substring_regex(valid, _DIGITS), False))
    if right.all():
        number = np.asarray(pc.cast(valid, pa.int64()))
        year, month, day = number // 10**8, number // 10**6 % 100, number // 10**4 % 100
        hour, minute = number // 100 % 100, number % 100
        months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
        days = months.astype("datetime64[D]")
        length = ((months + 1).astype("datetime64[D]") - days).astype(np.int64)
        right = (month >= 1) & (month <= 12) & (day >= 1) & (day <= length) & (hour < 24) & (minute < 60)
        if right.all():
            return np.asarray((days.astype(np.int64) + day - 1) * 1440 + hour * 60 + minute)
    at = int(np.argmin(right))
    raise InputError(
        f"{name}: VALID {valid[at].as_py()!r} is no time YYYYMMDDHHMM (report {at + 1} after cleaning); mend the row."
    )


def _degrees(texts: pa.Array, name: str, faults: Faults) -> NDArray[np.float64]:
    """Numbers of a column; under the published rule to the last digit as pandas' reader has them."""
    try:
        exact = np.asarray(pc.cast(pc.utf8_trim_whitespace(texts), pa.float64()))
    except pa.ArrowInvalid as error:
        raise InputError(f"{name} holds no number: {error}; mend the row.") from None
    wrong = ~np.isfinite(exact)
    if wrong.any():
        raise InputError(f"{name} holds {texts[int(np.argmax(wrong))].as_py()!r}, which is no position; mend the row.")
    return as_pandas_reads(texts) if faults.none_text else exact


def as_pandas_reads(texts: pa.Array) -> NDArray[np.float64]:
    """Numbers as the CSV reader of pandas 1 makes them, of which one in five is not the nearest double.

    At most 17 digits are taken, one after another, into a double, and what comes out is divided by a power of ten: from
    the sixteenth digit on every step rounds.

    Args:
        texts: (N,) numbers such as "-84.79079885750748"; leading and trailing spaces do not matter.

    Returns:
        (N,)

    Source:
        What pandas 1.5.3 returns for its default `float_precision`, found by trial; `test_archive.py` holds its values.
    """
    if not len(texts):
        return np.zeros(0)
    parts = pc.extract_regex(
        texts, r"^\s*(?P<sign>[+-]?)(?P<whole>\d*)\.?(?P<rest>\d*)(?:[eE](?P<power>[+-]?\d+))?\s*$"
    )
    sign, whole, rest, power = (pc.struct_field(parts, [at]) for at in range(4))
    digits = pc.binary_join_element_wise(whole, rest, "")
    number = np.zeros(len(texts))
    for begin, end in ((0, 15), (15, 16), (16, 17)):
        piece = pc.utf8_slice_codeunits(digits, begin, end)
        length = np.asarray(pc.utf8_length(piece), np.int64)
        value = np.asarray(pc.cast(pc.utf8_lpad(piece, 1, "0"), pa.int64()), np.float64)
        number = np.where(length > 0, number * 10.0**length + value, number)  # exact in the first piece
    before, after = (np.asarray(pc.utf8_length(piece), np.int64) for piece in (whole, rest))
    scale = np.maximum(before - 17, 0) - np.minimum(after, np.maximum(17 - before, 0))
    power = pc.if_else(pc.equal(pc.utf8_length(power), 0), "0", power)
    scale = scale + np.asarray(pc.cast(pc.utf8_ltrim(power, "+"), pa.int64()), np.int64)
    tens = np.array([float(f"1e{exponent}") for exponent in range(309)])
    scaled = np.where(scale > 0, number * tens[np.clip(scale, 0, 308)], number / tens[np.clip(-scale, 0, 308)])
    return np.asarray(np.where(np.asarray(pc.equal(sign, "-")), -scaled, scaled))


def _texts(table: pa.Table, column: str) -> pa.Array:
    """A column of a table of one piece."""
    chunks = table[column].chunks
    return chunks[0] if chunks else pa.array([], pa.string())
