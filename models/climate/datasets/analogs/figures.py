"""What a person looks at: a day with its nearest analog, and how well analogs foretell."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets.analogs.baseline import LEADS_DAYS, WINDOW_DAYS, Days, baseline
from models.common.judgement import Field, Figure, Series

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

_OTHERS = ("persistence", "climatology", "random")
_MOST_DAYS = 5000
"""Days among which analogs are sought for a figure."""


def figures(groups: Mapping[str, "xr.Dataset"]) -> tuple[Figure, ...]:
    """Figures of a prepared dataset.

    Args:
        groups: the root group, opened lazily, undecoded.

    Returns:
        Maps of the closest pair of days, and errors of analog forecasts by lead; a dataset with too few days for them
        has the map of its last day alone.

    Source:
        Ours.
    """
    stored = groups[""].isel(time=slice(-_MOST_DAYS, None))
    if not stored.sizes["time"]:
        return ()
    if stored.sizes["time"] < 2 * WINDOW_DAYS + 2 or bool(np.isnan(np.asarray(stored["SLP"].values)).all(0).any()):
        return (_map(stored, stored.sizes["time"] - 1, "last_day", "Pressure of the last day"),)
    days = Days.of({"": stored})
    places, distance = days.nearest()
    closest = int(np.argmin(distance[:, 0]))
    pair = (closest, int(places[closest, 0]))
    found = (
        _map(stored, pair[0], "closest_day", f"{_name(days.day[pair[0]])}: the day with the nearest analog"),
        _map(
            stored, pair[1], "closest_analog",
            f"{_name(days.day[pair[1]])}: its analog, {distance[closest, 0]:.2f} deviations away",
        ),
    )  # fmt: skip
    return (*found, errors_by_lead(baseline({"": stored})))


def _name(day: Any) -> str:
    return str(date(1970, 1, 1) + timedelta(days=int(day)))


def _map(stored: "xr.Dataset", row: int, name: str, title: str) -> Figure:
    """Pressure of one day, in hPa."""
    values = np.asarray(stored["SLP"][row].values, np.float64) / 100
    return Figure(
        name=name,
        title=title,
        x_label="longitude (degrees east)",
        y_label="latitude (degrees north)",
        series=(),
        kind="map",
        caption=f"{stored.sizes['time']} days; analogs within {WINDOW_DAYS} days of a day are left out.",
        field=Field(
            latitude=tuple(np.asarray(stored["lat"].values, np.float64).tolist()),
            longitude=tuple(np.asarray(stored["lon"].values, np.float64).tolist()),
            values=tuple(tuple(None if np.isnan(one) else one for one in line) for line in values.tolist()),
            label="sea-level pressure (hPa)",
        ),
    )


def errors_by_lead(metrics: Mapping[str, float]) -> Figure:
    """Errors of the rules by lead, of what `skill` gives."""
    series = []
    several = dict.fromkeys(name.rpartition("_analogs_")[0] for name in metrics if "_analogs_" in name)
    for rule in ("analog", *(f"{number}_analogs" for number in several), *_OTHERS):
        leads = [lead for lead in LEADS_DAYS if f"{rule}_{lead}d_rms" in metrics]
        if not leads:
            continue
        low, middle, high = (
            tuple(metrics[f"{rule}_{lead}d_rms{end}"] for lead in leads) for end in ("_low", "", "_high")
        )
        series.append(Series(label=rule.replace("_", " "), x=tuple(leads), y=middle, low=low, high=high))
    share = metrics["analog_below_random"]
    return Figure(
        name="analog_forecasts",
        title=f"The nearest analog is nearer than a random day on {share:.0%} of days",
        x_label="days ahead",
        y_label="root mean square difference (deviations)",
        series=tuple(series),
        caption="Mean over days; bars are 95 % intervals over blocks of 15 days.",
    )
