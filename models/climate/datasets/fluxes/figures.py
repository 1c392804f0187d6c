"""What a person looks at: where waves carry momentum, and how rare strong fluxes are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.common.judgement import Field, Figure, Series

if TYPE_CHECKING:
    import xarray as xr

HOURS = 8
"""Hours that a figure looks at; of more, some in equal steps."""


def figures(groups: Mapping[str, "xr.Dataset"]) -> tuple[Figure, ...]:
    """Figures of a prepared dataset.

    Args:
        groups: with `training`, opened lazily and undecoded.

    Returns:
        A map of the zonal flux at one level, the spectrum of flux magnitudes there, and the mean flux by level.

    Source:
        Ours, after the histograms by which such fluxes are judged (section 6 of `docs/datasets.md`).
    """
    training = groups["training"]
    hours = np.unique(np.linspace(0, training.sizes["time"] - 1, min(HOURS, training.sizes["time"])).astype(int))
    level = training.sizes["level"] // 2
    pressure = float(np.nanmean(np.asarray(training["p"][hours[0], level].values, np.float64))) / 100
    flux: dict[str, NDArray[np.float64]] = {
        name: np.stack([np.asarray(training[name][int(hour), level].values, np.float64) for hour in hours]) * 1e3
        for name in ("uw", "vw")
    }
    lat, lon = (np.asarray(training[name].values, np.float64) for name in ("lat", "lon"))
    weight = np.cos(np.radians(lat))[:, None] * np.ones(len(lon))
    edges = np.geomspace(1e-3, max(1.0, float(np.abs(flux["uw"]).max(initial=0.0))), 25)
    lines = []
    for name, values in flux.items():
        share, _ = np.histogram(np.abs(values), edges, weights=np.broadcast_to(weight, values.shape))
        above = share[::-1].cumsum()[::-1] / (weight.sum() * len(hours))
        known = above > 0
        lines.append(
            Series(
                label=name, x=tuple(edges[:-1][known].tolist()), y=tuple(above[known].tolist()), style="curve"
            )
        )  # fmt: skip
    return (
        Figure(
            name="zonal_flux",
            title=f"Eastward momentum that waves carry upward near {pressure:.0f} hPa",
            x_label="longitude (degrees east)",
            y_label="latitude (degrees north)",
            series=(),
            kind="map",
            caption=f"Mean of {len(hours)} hours, level {level + 1} of {training.sizes['level']} from the top.",
            field=Field(
                latitude=tuple(lat.tolist()),
                longitude=tuple(lon.tolist()),
                values=tuple(tuple(row) for row in np.nanmean(flux["uw"], 0).tolist()),
                label="uw (mPa)",
                diverging=True,
            ),
        ),
        Figure(
            name="flux_magnitudes",
            title="Strong fluxes are rare, and carry most of the momentum",
            x_label="magnitude of the flux (mPa)",
            y_label="share of area and time above it",
            series=tuple(line for line in lines if line.x),
            caption=f"{len(hours)} hours near {pressure:.0f} hPa, weighted by area.",
            log_x=True,
            log_y=True,
        ),
    )
