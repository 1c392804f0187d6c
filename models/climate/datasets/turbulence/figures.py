"""What a person looks at: where turbulence is reported, how strong it is in which band, and how it comes and goes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.judgement import Field, Figure, Series

if TYPE_CHECKING:
    import xarray as xr

BANDS = ("low", "med", "high")
INTENSITIES = ("none", "light", "moderate", "severe", "extreme")
_WIDEST = 72
"""Columns of a map that is looked at; finer grids are taken together."""


def figures(groups: Mapping[str, "xr.Dataset"]) -> tuple[Figure, ...]:
    """Figures of a prepared dataset.

    Args:
        groups: "reports" and "grids", opened lazily, decoded or not.

    Returns:
        A map of the share of turbulent days, bars of intensities by band, and a line of reports by month.

    Source:
        Ours.
    """
    return (_map(groups["grids"]), _intensities(groups["reports"]), _months(groups["grids"]))


def _map(grids: "xr.Dataset") -> Figure:
    """Share of days with turbulence among those with a report, of all bands together."""
    lat, lon = np.asarray(grids["lat"].values, np.float64), np.asarray(grids["lon"].values, np.float64)
    turbulent, known = np.zeros((len(lat), len(lon))), np.zeros((len(lat), len(lon)))
    for number in range(grids.sizes["time"]):
        maps = np.nan_to_num(np.asarray(grids["Turbulence"][number].values), nan=2)
        turbulent += (maps == 1).sum(0)
        known += (maps != 2).sum(0)
    step = max(1, -(-len(lon) // _WIDEST))
    turbulent, known = _together(turbulent, step), _together(known, step)
    share = np.where(known > 0, turbulent / np.maximum(known, 1), np.nan)
    rows = tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in share.tolist())
    return Figure(
        name="turbulent_days",
        title=f"{int((known > 0).sum())} of {known.size} places have ever had a report that counts",
        x_label="longitude (degrees east)",
        y_label="latitude (degrees north)",
        series=(),
        kind="map",
        caption=f"Share of turbulent cells among those with a report; {grids.sizes['time']} days, all bands.",
        field=Field(
            latitude=tuple(_middles(lat, step)),
            longitude=tuple(_middles(lon, step)),
            values=rows,
            label="share of turbulent cells (1)",
        ),
    )


def _together(values: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Sums of blocks of step x step cells; the last are cut short."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], step), axis=0)
    return np.asarray(np.add.reduceat(rows, np.arange(0, values.shape[1], step), axis=1))


def _middles(points: NDArray[np.float64], step: int) -> list[float]:
    return [float(points[begin : begin + step].mean()) for begin in range(0, len(points), step)]


def _intensities(reports: "xr.Dataset") -> Figure:
    band, intensity = (np.asarray(reports[name].values, np.int64) for name in ("band", "intensity"))
    series = []
    for number, name in enumerate(BANDS):
        counts = np.bincount(intensity[(band == number) & (intensity >= 0)], minlength=len(INTENSITIES))
        share = counts / max(1, counts.sum())
        series.append(Series(label=name, x=INTENSITIES, y=tuple(share.tolist())))
    use = (band >= 0) & (intensity >= 0)
    known, strong = int(use.sum()), float((intensity[use] >= 2).mean()) if use.any() else 0.0
    return Figure(
        name="intensities",
        title=f"{strong:.0%} of the reports tell of moderate or stronger turbulence",
        x_label="intensity",
        y_label="share of the band's reports (1)",
        series=tuple(series),
        kind="bars",
        caption=f"{known} reports of known intensity and flight level, of {len(band)}.",
    )


def _months(grids: "xr.Dataset") -> Figure:
    days: NDArray[Any] = np.asarray(grids["time"].values)
    days = (days if days.dtype.kind == "M" else days.astype(np.int64)).astype("datetime64[D]")
    month, place = np.unique(days.astype("datetime64[M]"), return_inverse=True)
    reports = np.asarray(grids["reports"].values, np.float64)
    series = tuple(
        Series(
            label=name,
            x=tuple(str(one) for one in month),
            y=tuple(
                (np.bincount(place, reports[:, number]) / np.bincount(place)).tolist(),
            ),
        )
        for number, name in enumerate(BANDS)
    )
    return Figure(
        name="reports_by_month",
        title=f"{reports.sum(1).mean():.0f} reports count on a day",
        x_label="month",
        y_label="reports a day (1)",
        series=series,
        caption="Mean of the days of each month, by band of flight levels.",
    )
