"""What a person looks at: where storms went, how strong they became, and what is not known of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.judgement import Figure, Series

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

_TRACKS = 40
"""Tracks on a map; more cannot be told apart."""

_CATEGORIES = ("depression", "storm", "1", "2", "3", "4", "5")


def figures(groups: Mapping[str, "xr.Dataset"]) -> tuple[Figure, ...]:
    """Figures of a prepared dataset.

    Args:
        groups: `storms` and `records`, opened lazily, undecoded.

    Returns:
        A map of the most energetic storms' tracks, bars of the strongest categories, and the share of records without
        pressure and radii by decade.

    Source:
        Ours; the edges of categories are those of hurricane/codes/hurricane_track.py.
    """
    storms, records = groups["storms"], groups["records"]
    if not storms.sizes["storm"]:
        return ()
    return (_tracks(storms, records), _strongest(storms, records), _unknown(storms, records))


def _ends(storms: "xr.Dataset") -> Array:
    return np.cumsum(np.asarray(storms["row_size"].values).astype(np.int64))


def _tracks(storms: "xr.Dataset", records: "xr.Dataset") -> Figure:
    """Tracks of the storms with the largest energy; a track that passes the date line is drawn in two pieces."""
    energy, ends = np.asarray(storms["ace"].values), _ends(storms)
    latitude, longitude = np.asarray(records["lat"].values), np.asarray(records["lon"].values)
    series = []
    for one in np.argsort(-energy, kind="stable")[:_TRACKS]:
        rows = slice(int(ends[one] - storms["row_size"].values[one]), int(ends[one]))
        x, y = longitude[rows], latitude[rows]
        for piece in np.split(np.arange(len(x)), np.flatnonzero(np.abs(np.diff(x)) > 180) + 1):
            points = (tuple(x[piece].tolist()), tuple(y[piece].tolist()))
            series.append(Series(label="", x=points[0], y=points[1], style="curve"))
    shown = min(_TRACKS, len(energy))
    share = float(np.sort(energy)[::-1][:shown].sum() / max(energy.sum(), 1e-12))
    return Figure(
        name="tracks",
        title=f"The {shown} most energetic of {len(energy)} storms hold {share:.0%} of the energy",
        x_label="longitude (degrees east)",
        y_label="latitude (degrees north)",
        series=tuple(series),
        kind="map",
        caption="Best tracks; energy is the sum of squared winds of storms and hurricanes every six hours.",
    )


def _strongest(storms: "xr.Dataset", records: "xr.Dataset") -> Figure:
    """Storms by the highest category that they reached."""
    category = np.asarray(records["category"].values).astype(np.int64)
    owner = np.repeat(np.arange(storms.sizes["storm"]), np.asarray(storms["row_size"].values).astype(np.int64))
    highest = np.full(storms.sizes["storm"], -1)
    np.maximum.at(highest, owner, category)
    count = np.bincount(highest[highest >= 0], minlength=len(_CATEGORIES))
    hurricanes = int(count[2:].sum())
    return Figure(
        name="strongest_category",
        title=f"{hurricanes} of {len(highest)} storms became hurricanes, {int(count[4:].sum())} of them major ones",
        x_label="highest category by wind",
        y_label="storms",
        series=(Series(label="", x=_CATEGORIES, y=tuple(map(float, count))),),
        kind="bars",
        caption=f"Edges 32, 64, 83, 96, 113, 137 kt; {int((highest < 0).sum())} storms have no known wind.",
    )


def _unknown(storms: "xr.Dataset", records: "xr.Dataset") -> Figure:
    """Share of records without pressure, radii and radius of maximum wind, by season."""
    count = np.asarray(storms["row_size"].values).astype(np.int64)
    season = np.repeat(np.asarray(storms["season"].values).astype(np.int64), count)
    missing = {
        "central pressure": np.asarray(records["pressure"].values) == -999,
        "radii of 34 kt": (np.asarray(records["radius"].values)[:, 0] == -999).all(axis=1),
        "radius of maximum wind": np.asarray(records["rmw"].values) == -999,
    }
    seasons = np.unique(season)
    series = tuple(
        Series(
            label=name,
            x=tuple(int(one) for one in seasons),
            y=tuple(float(flag[season == one].mean()) for one in seasons),
            style="curve",
        )
        for name, flag in missing.items()
    )
    return Figure(
        name="missing_by_season",
        title=f"{float(missing['central pressure'].mean()):.0%} of records have no pressure",
        x_label="season",
        y_label="share of records without a value",
        series=series,
        caption=f"{len(season)} records of {len(count)} storms.",
    )
