"""Axes as files give them, made sense of: degrees, dates, levels."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets.fields import Array, Grid, Span
from models.climate.datasets.units import between, canonical
from models.common.errors import InputError

Floats = NDArray[np.float64]

_CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "")
_TICKS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1_000_000),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60_000_000),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3_600_000_000),
    **dict.fromkeys(("d", "day", "days"), 86_400_000_000),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1_000),
    **dict.fromkeys(("us", "microsecond", "microseconds"), 1),
}
_REFORM = np.datetime64("1582-10-15", "us")
_ALIKE = (np.datetime64("1900-03-01", "us"), np.datetime64("2100-02-28", "us"))
"""Between these the Julian calendar has the same days and leap years as ours, under the same names."""


def straightened(degrees: Array) -> Floats:
    """Degrees in double precision, freed of single precision's rounding where they plainly are equal steps.

    0.3, kept as 0.30000001 in single precision, becomes 0.3 again; Gaussian latitudes stay as they are.

    Args:
        degrees: (n) as stored.

    Source:
        Ours.
    """
    raw = np.asarray(degrees, np.float64)
    if np.asarray(degrees).dtype != np.float32 or len(raw) < 2:
        return raw
    step = (raw[-1] - raw[0]) / (len(raw) - 1)
    first = float(np.round(raw[0], 6))
    for exact in (float(np.round(step, 6)), 1 / np.round(1 / step) if 0 < abs(step) < 1 else step):
        straight: Floats = first + exact * np.arange(len(raw), dtype=np.float64)
        if np.abs(straight - raw).max() <= 4 * np.spacing(np.float32(np.abs(raw).max())):
            return straight
    return raw


def grid_of(latitudes: Array, longitudes: Array, place: str) -> Grid:
    """The grid that rows and columns, or points of their own, make.

    Args:
        latitudes: (rows), or (rows, columns), degrees north.
        longitudes: (columns), or (rows, columns), degrees east.
        place: the file, for the error.

    Raises:
        InputError: a latitude is beyond a pole, rows do not go one way, or a column comes twice.

    Source:
        Ours.
    """
    lat, lon = np.asarray(latitudes), np.asarray(longitudes)
    if lat.ndim == 2:
        rows, columns = lat[:, :1], lon[:1, :]
        if not (np.all(lat == rows) and np.all(lon == columns)):
            north = bool(lat.size) and float(lat[0].mean()) >= float(lat[-1].mean())
            return Grid(
                kind="curvilinear",
                latitudes=lat.astype(np.float64),
                longitudes=lon.astype(np.float64),
                north_first=north,
                span="other",
            )
        lat, lon = rows[:, 0], columns[0]
    lat, lon = straightened(lat), straightened(lon)
    if not (np.isfinite(lat).all() and np.isfinite(lon).all()):
        raise InputError(f"{place}: a latitude or longitude is missing or infinite; the file is damaged, get it again.")
    if len(lat) and np.abs(lat).max() > 90 + 1e-4:
        worst = lat[np.abs(lat).argmax()]
        raise InputError(
            f"{place}: a latitude of {worst:g} lies beyond the pole; latitude and longitude are swapped, or the units "
            "are not degrees. Correct the file."
        )
    step = np.diff(lat)
    if len(step) and not (np.all(step > 0) or np.all(step < 0)):
        raise InputError(f"{place}: latitudes do not go one way, so no row has a place; sort the file's rows first.")
    turn = np.mod(np.diff(lon), 360)
    if len(turn) and (turn.min() <= 1e-9 or turn.sum() > 360 - 1e-6):
        raise InputError(
            f"{place}: longitudes do not go once around from west to east (the first are {np.round(lon[:3], 4)}, the "
            "last is "
            f"{lon[-1]:g}); sort the file's columns first."
        )
    lon = _ascending(lon)
    even = np.allclose(turn, turn.mean(), atol=1e-4) if len(turn) else True
    around = bool(len(turn)) and abs(turn.sum() + turn.mean() - 360) < 1e-3 and even
    kind = "regular" if even and np.allclose(step, step.mean() if len(step) else 0.0, atol=1e-4) else "uneven"
    if kind == "uneven" and even and _is_gaussian(lat):
        kind = "gaussian"
    north = len(lat) < 2 or bool(lat[0] > lat[-1])
    return Grid(kind=kind, latitudes=lat, longitudes=lon, north_first=north, span=_span(lon), around=around)


def _ascending(longitudes: Floats) -> Floats:
    """Longitudes that pass 360 or 180 as ones that ascend: 340, 350, 0, 10 become -20, -10, 0, 10."""
    drop = np.flatnonzero(np.diff(longitudes) < 0)
    if not len(drop):
        return longitudes
    east = np.where(np.arange(len(longitudes)) > drop[0], longitudes + 360.0, longitudes)
    return east - 360 if east[0] >= 180 else east


def _is_gaussian(latitudes: Floats) -> bool:
    """Whether rows are the zeros of a Legendre polynomial, to what single precision keeps."""
    if len(latitudes) > 4000:
        return False
    zeros = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(len(latitudes))[0]))
    return bool(np.abs(np.sort(latitudes) - zeros).max() < 1e-3)


def _span(longitudes: Floats) -> Span:
    if not len(longitudes):
        return "none"
    low, high = longitudes.min(), longitudes.max()
    if low >= -1e-6 and high < 360 - 1e-6:
        return "0..360"
    return "-180..180" if low >= -180 - 1e-6 and high < 180 - 1e-6 else "other"


def dates(values: Array, units: str, calendar: str, place: str) -> NDArray[np.datetime64]:
    """Times of the CF conventions as datetime64 of microseconds.

    Args:
        values: (n) numbers.
        units: as in "hours since 1900-01-01".
        calendar: "" is the standard one, as the conventions say.
        place: file and variable, for the error.

    Raises:
        InputError: another calendar, months or years as units, or a reference that is no date.

    Source:
        CF conventions 1.11, section 4.4. IMERG names the Julian calendar. Dates of reference before 15 October 1582
        are read in the Julian calendar when the calendar is the mixed one ("standard", "gregorian" or none), which is
        where "hours since 1-1-1" goes wrong by two days elsewhere.
    """
    julian = calendar.lower() == "julian"
    if calendar.lower() not in _CALENDARS and not julian:
        raise InputError(
            f"{place}: the calendar {calendar!r} has days that ours does not have, or lacks some; convert the times "
            "to the standard calendar."
        )
    found = re.fullmatch(r"\s*(\w+)\s+since\s+(.+?)\s*", units)
    if not found or found.group(1).lower() not in _TICKS:
        raise InputError(
            f"{place}: times in {units!r}; only seconds to days since a date have a fixed length. Convert them to "
            "hours since a date."
        )
    start = _reference(found.group(2), julian or calendar.lower() == "proleptic_gregorian", f"{place}: {units!r}")
    tick = _TICKS[found.group(1).lower()]
    raw = np.asarray(values)
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise InputError(f"{place}: a time is missing; the file was not finished. Get it again.")
    # whole and broken units apart: in double precision 45,000 days of microseconds would lose the last digits
    whole = np.floor(raw).astype(np.int64)
    part = np.rint((raw - whole).astype(np.float64) * tick).astype(np.int64)
    found_dates = np.asarray(start + (whole * tick + part).astype("timedelta64[us]"))
    if julian and not all(_ALIKE[0] <= moment <= _ALIKE[1] for moment in (start, *found_dates)):
        raise InputError(
            f"{place}: dates of the Julian calendar are read from March 1900 to February 2100 alone, where they are "
            "ours; convert the times to the standard calendar."
        )
    return found_dates


def _reference(text: str, proleptic: bool, place: str) -> np.datetime64:
    pattern = r"([+-]?\d{1,4})-(\d{1,2})-(\d{1,2})(?:[T ]+(\d{1,2})(?::(\d{1,2})(?::(\d{1,2})(?:\.(\d*))?)?)?)?"
    found = re.fullmatch(pattern + r"\s*(?:Z|UTC|GMT|\+?00:?00|\+?0:00)?", text.strip())
    if not found:
        raise InputError(f"{place} has no reference date that can be read; write it as 1900-01-01 00:00:00, in UTC.")
    year, month, day, hour, minute, second = (int(piece or 0) for piece in found.groups()[:6])
    micro = int((found.group(7) or "").ljust(6, "0")[:6] or 0)
    clock = np.timedelta64(((hour * 60 + minute) * 60 + second) * 1_000_000 + micro, "us")
    try:
        start = np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "us")
    except ValueError as error:
        raise InputError(f"{place} names no day of a calendar ({error}); correct the reference date.") from error
    if start < _REFORM and not proleptic:  # the same words name another day in Julius Caesar's calendar
        start = np.datetime64("1970-01-01", "us") + np.timedelta64(_julian_day(year, month, day) - 2440588, "D")
    return start + clock


def _julian_day(year: int, month: int, day: int) -> int:
    """Day number of a date in the Julian calendar."""
    before = (14 - month) // 12
    y, m = year + 4800 - before, month + 12 * before - 3
    return day + (153 * m + 2) // 5 + 365 * y + y // 4 - 32083


def level_kind(name: str, units: str, attrs: dict[str, Any]) -> tuple[str, float]:
    """What a vertical axis counts, and the factor to hPa for pressures.

    Args:
        name: of the axis in the file.
        units: its units.
        attrs: its attributes.

    Returns:
        "pressure" and a factor, or "model", "depth", "height" or "other" and 1.

    Source:
        CF conventions 1.11, sections 4.3 and 4.3.3.
    """
    unit, standard = canonical(units) if units else "", str(attrs.get("standard_name", ""))
    if unit in ("Pa", "hPa", "kPa"):
        return "pressure", between(unit, "hPa", place=name)[0]
    if "hybrid" in standard or "sigma" in standard or unit == "level" or "model_level" in standard + name:
        return "model", 1.0
    if (str(attrs.get("positive", "")).lower() == "down" and unit == "m") or "depth" in standard:
        return "depth", 1.0
    return ("height", 1.0) if unit in ("m", "km") else ("other", 1.0)
