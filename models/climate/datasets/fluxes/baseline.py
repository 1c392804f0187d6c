"""What a column knows of its own fluxes: a linear regression on one cell, against the mean."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]

INPUTS = ("u", "v", "t", "w")
HOURS = 96
"""Hours that are read at most, in equal steps."""
CELLS = 40_000
"""Cells of the hours before the border that the regression is fitted to, at most."""
RIDGE = 1e-3
"""Weight of the ridge, as a share of the mean square of a standardised input."""
DRAWS = 400


def baseline(groups: Mapping[str, "xr.Dataset"], seed: int = 0) -> dict[str, float]:
    """Skill of a linear regression of each flux on the column of the same cell, on the last fifth of the hours.

    Args:
        groups: with `training`, opened.
        seed: of the cells that are fitted to and of the resampling.

    Returns:
        `column_r2_uw`, `column_r2_vw`: one less the share of the mean square distance from the training mean that is
        left, weighted by area, levels alike; each with `_low` and `_high` (95 %, hours drawn with replacement); and
        `column_correlation_uw`, `column_correlation_vw` likewise; `hours_tested`, `cells_fitted`.

    Raises:
        InputError: there are fewer than three hours.

    Source:
        Ours; it stands below the single-column networks that the paper compares.
    """
    training = groups["training"]
    hours = training.sizes["time"]
    if hours < 3:
        raise InputError(f"a column's skill needs at least 3 hours, got {hours}; prepare more days.")
    chosen = np.unique(np.linspace(0, hours - 1, min(hours, HOURS)).astype(np.int64))
    border = max(1, int(0.8 * len(chosen)))
    generator = np.random.default_rng(seed)
    weight = np.cos(np.radians(np.asarray(training["lat"].values, np.float64)))
    area = np.repeat(weight / weight.mean(), training.sizes["lon"])
    each = -(-CELLS // border)
    picked = [
        generator.choice(len(area), min(each, len(area)), replace=False, p=area / area.sum()) for _ in range(border)
    ]
    x, y = zip(
        *(_columns(training, int(hour), cells) for hour, cells in zip(chosen, picked, strict=False)), strict=True
    )
    x_NC, y_NC = np.concatenate(x), np.concatenate(y)
    middle, scale = x_NC.mean(0), np.maximum(x_NC.std(0), 1e-12)
    target, spread = y_NC.mean(0), np.maximum(y_NC.std(0), 1e-30)
    z = (x_NC - middle) / scale
    gram = z.T @ z + RIDGE * len(z) * np.eye(z.shape[1])
    slope = np.linalg.solve(gram, z.T @ ((y_NC - target) / spread))
    sums = []
    for hour in chosen[border:]:
        x_NC, y_NC = _columns(training, int(hour), None)
        truth, said = (y_NC - target) / spread, (x_NC - middle) / scale @ slope
        parts = []
        for half in np.split(np.arange(truth.shape[1]), 2):
            t, s = truth[:, half], said[:, half]
            w = area[:, None]
            parts.append([(w * (t - s) ** 2).sum(), (w * t * t).sum(), (w * t * s).sum(), (w * s * s).sum()])
        sums.append(parts)
    sum_HFQ = np.array(sums)
    found: dict[str, float] = {"hours_tested": float(len(sum_HFQ)), "cells_fitted": float(len(z))}
    draws = generator.integers(0, len(sum_HFQ), (DRAWS, len(sum_HFQ)))
    for number, flux in enumerate(("uw", "vw")):
        for name, rule in (("r2", _r2), ("correlation", _correlation)):
            drawn = rule(sum_HFQ[draws, number].sum(1))
            key = f"column_{name}_{flux}"
            found[key] = float(rule(sum_HFQ[:, number].sum(0)[None])[0])
            found[f"{key}_low"], found[f"{key}_high"] = (float(one) for one in np.quantile(drawn, (0.025, 0.975)))
    return found


def _columns(training: "xr.Dataset", hour: int, cells: NDArray[np.int64] | None) -> tuple[Floats, Floats]:
    """Inputs and fluxes of cells of one hour, levels side by side."""

    def read(name: str) -> Floats:
        values = np.asarray(training[name][hour].values, np.float64)
        flat = values.reshape(len(values), -1).T
        return flat if cells is None else flat[cells]

    return np.hstack([read(name) for name in INPUTS]), np.hstack([read(name) for name in ("uw", "vw")])


def _r2(sum_DQ: Any) -> Floats:
    return np.asarray(1 - sum_DQ[:, 0] / sum_DQ[:, 1])


def _correlation(sum_DQ: Any) -> Floats:
    return np.asarray(sum_DQ[:, 2] / np.sqrt(np.maximum(sum_DQ[:, 1] * sum_DQ[:, 3], 1e-300)))
