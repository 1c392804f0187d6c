"""From reports to daily maps: whether moderate or stronger turbulence was reported in a cell of the grid.

A report belongs to the nearest point of the grid, its day is that of UTC, and a cell of a day and a band is

    1   where (reports of moderate or stronger turbulence) / (reports of known intensity) >= threshold,
    0   where that share is lower,
    2   where there is no such report.

The grid has its first row at the south pole and its first column at 180 W; that of MERRA-2 is 361 x 576.

Shapes: N reports, D days, B bands, I latitudes, J longitudes, C cells with reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets.turbulence.wording import BANDS, UNKNOWN, Codes
from models.climate.geometry import Grid, regular_grid
from models.common.errors import InputError

ROWS, COLUMNS = 361, 576
"""Of MERRA-2."""

NO_DATA = 2
MODERATE = 2
"""The least intensity that counts as turbulence."""

Days = NDArray[np.int64]


def grid_of_size(rows: int, columns: int) -> Grid:
    """The grid with poles, from the south and from 180 W."""
    return regular_grid(rows, columns, north_first=False, first_longitude=-180.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """What was reported, cell by cell, in the order of day, band, row and column.

    Attributes:
        day: (C,) days since 1970.
        band, row, column: (C,) numbers of band, latitude and longitude.
        reports: (C,) reports that count.
        moderate: (C,) those of them with moderate or stronger turbulence.
        turbulence: (C,) 0 or 1.
    """

    day: Days
    band: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    reports: NDArray[np.int64]
    moderate: NDArray[np.int64]
    turbulence: NDArray[np.uint8]

    def where(self, keep: NDArray[np.bool_]) -> "Cells":
        """Those for which `keep` is true, in the same order."""
        return Cells(**{name: values[keep] for name, values in vars(self).items()})


def count(
    day: Days,
    band: Codes,
    intensity: Codes,
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    grid: Grid,
    *,
    threshold: float,
    unknown_counts: bool,
    wrap: bool,
) -> Cells:
    """Count the reports of every cell.

    Args:
        day: (N,) days since 1970.
        band: (N,); reports without a band are left out.
        intensity: (N,).
        latitude, longitude: (N,) degrees.
        grid: (I, J).
        threshold: share from which a cell is turbulent.
        unknown_counts: the published rule: reports of unknown intensity are in the denominator.
        wrap: whether 179.9 E is near 180 W; False is the published rule.

    Returns:
        The cells that hold a report that counts.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/code/grid_pireps.py, lines 64-93 and 133-140. Its search for the
        smallest sum of squares of degrees is the nearest latitude and the nearest longitude, the lower of two as near.
    """
    use = band != UNKNOWN
    if not unknown_counts:
        use &= intensity != UNKNOWN
    rows, columns = grid.nearest(np.clip(latitude[use], -90, 90), longitude[use], wrap=wrap)
    bands, (height, width) = len(BANDS), grid.shape
    key = ((day[use] * bands + band[use]) * height + rows) * width + columns
    cell, where = np.unique(key, return_inverse=True)
    reports = np.bincount(where, minlength=len(cell))
    moderate = np.bincount(where, weights=intensity[use] >= MODERATE, minlength=len(cell)).astype(np.int64)
    rest, column = np.divmod(cell, width)
    rest, row = np.divmod(rest, height)
    number, of_band = np.divmod(rest, bands)
    return Cells(
        day=number,
        band=of_band,
        row=row,
        column=column,
        reports=reports,
        moderate=moderate,
        turbulence=(moderate / np.maximum(reports, 1) >= threshold).astype(np.uint8),
    )


def maps(cells: Cells, days: Days, grid: Grid) -> NDArray[np.uint8]:
    """Maps of some days, (D, B, I, J): 0, 1 and `NO_DATA`.

    Args:
        cells: sorted by day.
        days: (D,) rising; cells of other days are not looked at.
        grid: (I, J).
    """
    drawn = np.full((len(days), len(BANDS), *grid.shape), NO_DATA, np.uint8)
    at, there = places(days, cells.day)
    inside = cells.where(there)
    drawn[at[there], inside.band, inside.row, inside.column] = inside.turbulence
    return drawn


def places(sorted_days: Days, days: Days) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where days stand among rising ones, and which of them do."""
    at = np.searchsorted(sorted_days, days)
    there = at < len(sorted_days)
    there[there] = sorted_days[at[there]] == days[there]
    return at, there


def year_of(days: Days) -> NDArray[np.int64]:
    """Years of days since 1970."""
    return np.asarray(days.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970)


def listed_years(day: Days, band: Codes, days: Days, *, last_day: bool, literal_year: bool) -> NDArray[np.int16]:
    """In which year's file a day stands, (D, B); 0: in none.

    A day stands in the file of its year when its band has a report. The published rules need the days of all reports.

    Args:
        day, band: (N,) of all reports.
        days: (D,) that are asked for.
        last_day: the published rule: the last day of a band is lost.
        literal_year: the published rule: only 2023 is written; the first report of 2023 writes the day before it, as a
            day without data, into the file of its year, and what comes after 2023 gives its year to the file.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/code/grid_pireps.py, lines 65-131 and 145-146.
    """
    years = np.zeros((len(days), len(BANDS)), np.int16)
    for number in range(len(BANDS)):
        of_band = np.unique(day[band == number])
        files = year_of(of_band)
        if literal_year:
            of_band, files = _only_2023(of_band, files, last_day)
        elif last_day:
            of_band, files = of_band[:-1], files[:-1]
        at, there = places(of_band, days)
        years[there, number] = files[at[there]]
    return years


def examine_bands(band: Codes) -> None:
    """Stop at a band without reports, as the published gridding does.

    Raises:
        InputError: there is one.
    """
    for number, name in enumerate(BANDS):
        if not (band == number).any():
            raise InputError(
                f"no report is in the band {name!r}, at which the published gridding stops; do not reproduce "
                "'empty_band', or take more months."
            )


def _only_2023(of_band: Days, files: NDArray[np.int64], last_day: bool) -> tuple[Days, NDArray[np.int64]]:
    inside = np.flatnonzero(files == 2023)
    if not len(inside):
        return of_band[:0], files[:0]
    first, last = int(inside[0]), int(inside[-1])
    name = np.full(len(of_band), files[-1])
    name[:first] = files[:first]
    begin, end = max(first - 1, 0), last if last_day else last + 1
    return of_band[begin:end], name[begin:end]


def day_numbers(texts: Sequence[str]) -> Days:
    """Days since 1970 of days in ISO form."""
    return np.array([np.datetime64(text, "D") for text in texts], "datetime64[D]").astype(np.int64)
