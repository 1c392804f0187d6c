"""What a person looks at: where it rains, and how much of each day the satellites saw."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.common.judgement import Field, Figure, Series

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]

OBSERVED = {"gridsat": "GridSat-B1", "patmosx": "PATMOS-x", "ssmi": "SSM/I"}
_WIDEST = 96
"""Columns of a map that is looked at; finer grids are taken together."""
_LONGEST = 400
"""Days that are looked at; more are taken in equal steps."""


def figures(groups: Mapping[str, "xr.Dataset"]) -> tuple[Figure, ...]:
    """Figures of a prepared dataset.

    Args:
        groups: opened lazily, decoded or not.

    Returns:
        A map of the mean rain, and a line of the share that each instrument saw of a day.

    Source:
        Ours; after the figures of WxC-Bench's OVERVIEW.md.
    """
    made = list[Figure]()
    if "precipitation" in groups:
        made.append(_rain(groups["precipitation"]))
    seen = [name for name in OBSERVED if name in groups]
    if seen:
        made.append(_seen({name: groups[name] for name in seen}))
    return tuple(made)


def _chosen(days: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, days - 1, min(days, _LONGEST)).astype(np.int64))


def _rain(group: "xr.Dataset") -> Figure:
    lat, lon = (np.asarray(group[name].values, np.float64) for name in ("latitude", "longitude"))
    total, count = np.zeros((len(lat), len(lon))), np.zeros((len(lat), len(lon)))
    days = _chosen(group.sizes["time"])
    for place in days.tolist():
        values = np.asarray(group["precipitation"][place].values, np.float64)
        total += np.nan_to_num(values)
        count += np.isfinite(values)
    step = max(1, -(-len(lon) // _WIDEST))
    total, count = _together(total, step), _together(count, step)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    weight = np.cos(np.radians(_middles(lat, step)))[:, None] * np.isfinite(mean)
    whole = float((np.nan_to_num(mean) * weight).sum() / max(float(weight.sum()), 1e-12))
    return Figure(
        name="mean_rain",
        title=f"It rains {whole:.2f} mm a day on average",
        x_label="longitude (degrees east)",
        y_label="latitude (degrees north)",
        series=(),
        kind="map",
        caption=f"Mean of {len(days)} days, the title's number weighted by area.",
        field=Field(
            latitude=tuple(_middles(lat, step).tolist()),
            longitude=tuple(_middles(lon, step).tolist()),
            values=tuple(tuple(None if np.isnan(one) else float(one) for one in row) for row in mean.tolist()),
            label="rain (mm/day)",
        ),
    )


def _seen(groups: Mapping[str, "xr.Dataset"]) -> Figure:
    lines, shares = list[Series](), list[float]()
    for name, group in groups.items():
        time = np.asarray(group["time"].values)
        number = (time.astype("datetime64[D]") if time.dtype.kind == "M" else time).astype(np.int64)
        days = _chosen(len(number))
        share = [float(np.isfinite(np.asarray(group["obs"][place].values)).mean()) for place in days.tolist()]
        shares.append(float(np.mean(share)))
        x = tuple(1970 + number[days] / 365.2425)
        lines.append(Series(label=OBSERVED[name], x=tuple(map(float, x)), y=tuple(share), style="curve"))
    return Figure(
        name="seen",
        title="Of a day the satellites saw "
        + ", ".join(f"{share:.0%} ({line.label})" for line, share in zip(lines, shares, strict=True)),
        x_label="year",
        y_label="share of values that are there (1)",
        series=tuple(lines),
        caption="All channels, slots and passes of a day.",
    )


def _together(table: Floats, step: int) -> Floats:
    rows, columns = (-(-size // step) * step for size in table.shape)
    whole = np.zeros((rows, columns))
    whole[: table.shape[0], : table.shape[1]] = table
    return np.asarray(whole.reshape(rows // step, step, columns // step, step).sum((1, 3)))


def _middles(axis: Floats, step: int) -> Floats:
    return np.array([float(axis[start : start + step].mean()) for start in range(0, len(axis), step)])
