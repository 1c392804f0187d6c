"""How well four weeks of rain are foretold by rules that see no satellite: the bar for any model of the task.

    climatology   a cell's mean of the training years for the day of the year: mean and three harmonics of the year
    persistence   it rains as on the last day that was observed

Forecasts begin on every day whose 28 next days are all to be tested on. Scores are the task's own: bias, mean squared
error and linear correlation of daily rain within 60 degrees, weighted by area, by lead. Intervals are over blocks of
beginnings, for the weather of neighbouring days is one.

Shapes: T days, L leads, R x C cells within 60 degrees, H coefficients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

LEADS = 28
INPUT_DAYS = 8
RULES = ("climatology", "persistence")
HARMONICS = 3
"""Of the year, in the climatology."""
WHOLE_YEAR = 300
"""Days of training that the harmonics want; with fewer the climatology is the mean."""
BLOCK = 28
RESAMPLES = 1000
YEAR = 365.2425

_TRAIN, _TEST = 1, 2


@dataclass(frozen=True, eq=False)
class _Rain:
    """Rain of a cell's day, read a day at a time."""

    days: NDArray[np.int64]
    split: NDArray[np.int64]
    weight: Floats
    rows: NDArray[np.int64]
    stored: Any

    @classmethod
    def of(cls, group: "xr.Dataset") -> "_Rain":
        """From the stored group."""
        time = np.asarray(group["time"].values)
        lat = np.asarray(group["latitude"].values, np.float64)
        rows = np.flatnonzero(np.abs(lat) <= 60.0)
        half = 90.0 / len(lat)
        band = np.sin(np.radians(lat[rows] + half)) - np.sin(np.radians(lat[rows] - half))
        return cls(
            days=(time.astype("datetime64[D]") if time.dtype.kind == "M" else time).astype(np.int64),
            split=np.asarray(group["split"].values).astype(np.int64),
            weight=band / band.sum() / group.sizes["longitude"],
            rows=rows,
            stored=group["precipitation"],
        )

    def at(self, place: int) -> Singles:
        """(R, C) mm a day."""
        low, high = int(self.rows[0]), int(self.rows[-1]) + 1
        return np.asarray(self.stored[place, low:high].values, np.float32)


def _waves(days: NDArray[np.int64], harmonics: int) -> Floats:
    """(T, H): one, and cosines and sines of the year."""
    angle = 2 * np.pi * np.asarray(days, np.float64) / YEAR
    columns = [np.ones(len(angle))]
    for number in range(1, harmonics + 1):
        columns += [np.cos(number * angle), np.sin(number * angle)]
    return np.stack(columns, axis=1)


def climatology(rain: _Rain) -> tuple[Floats, int]:
    """Coefficients (H, R, C) of every cell's year from the days of training, and the number of harmonics.

    Args:
        rain: the stored rain.

    Returns:
        Least squares over the days on which a cell has a value; not-a-number where it has too few.

    Raises:
        InputError: no day is to be trained on.

    Source:
        Narapusetty et al. 2009, Journal of Climate 22, 4845: harmonics are the better smoother of a daily climatology.
    """
    chosen = np.flatnonzero(rain.split & _TRAIN)
    if not len(chosen):
        raise InputError("precipitation: no day of the years to train on; prepare days of 1983 to 2018 too.")
    harmonics = HARMONICS if len(chosen) >= WHOLE_YEAR else 0
    waves = _waves(rain.days[chosen], harmonics)
    size, shape = waves.shape[1], rain.at(int(chosen[0])).shape
    # the products of all days, less those of the days on which a cell has no value: few, so that is soon done
    lost, right = np.zeros((size, size, *shape)), np.zeros((size, *shape))
    for wave, place in zip(waves, chosen.tolist(), strict=True):
        values = rain.at(place)
        missing = np.isnan(values)
        if missing.any():
            lost[:, :, missing] += np.outer(wave, wave)[:, :, None]
        right += wave[:, None, None] * np.where(missing, 0.0, values)
    gram = (waves.T @ waves)[:, :, None, None] - lost
    enough = gram[0, 0] >= 2 * size
    square = np.where(enough, gram, np.eye(size)[:, :, None, None])
    solved = np.linalg.solve(np.moveaxis(square, (0, 1), (-2, -1)), np.moveaxis(right, 0, -1)[..., None])[..., 0]
    return np.where(enough, np.moveaxis(solved, -1, 0), np.nan), harmonics


def _sums(forecast: Singles, truth: Singles, weight: Floats) -> Floats:
    """(L, 6) weighted sums of 1, f, o, ff, oo, fo over the cells where both are known."""
    known = np.isfinite(forecast) & np.isfinite(truth)
    f, o = (np.where(known, table, 0.0).astype(np.float64) for table in (forecast, truth))
    terms = (known.astype(np.float64), f, o, f * f, o * o, f * o)
    return np.stack([np.einsum("lrc,r->l", term, weight) for term in terms], axis=1)


def scores(sums: Floats) -> Mapping[str, Floats]:
    """Bias, mean squared error and correlation from weighted sums.

    Args:
        sums: (..., 6) as `_sums` has them, added over forecasts.

    Returns:
        Each (...); a correlation is not-a-number where one side does not vary.

    Source:
        WxC-Bench at ee00516, long_term_precipitation_forecast/OVERVIEW.md, "Methodology".
    """
    count, f, o, ff, oo, fo = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f, o, ff, oo, fo = (term / count for term in (f, o, ff, oo, fo))
        spread = np.sqrt(np.maximum(ff - f * f, 0.0) * np.maximum(oo - o * o, 0.0))
        correlation = np.where(spread > 1e-12, (fo - f * o) / np.maximum(spread, 1e-300), np.nan)
    return {"bias": f - o, "mse": ff - 2 * fo + oo, "correlation": correlation}


def baseline(groups: Mapping[str, "xr.Dataset"], seed: int = 0) -> dict[str, float]:
    """Scores of climatology and persistence by lead, with intervals of 95 %.

    Args:
        groups: the stored dataset; `precipitation` is read, 29 days at a time.
        seed: of the resampling.

    Returns:
        `RULE_SCORE_LEADd` with `_low` and `_high`, for leads of 1 to 28 days; `forecasts`, `training_days`,
        `harmonics`.

    Raises:
        InputError: there is no rain, no day of training, or no four weeks to be tested on.

    Source:
        Intervals: moving blocks of 28 beginnings, Kuensch 1989, Annals of Statistics 17, 1217.
    """
    if "precipitation" not in groups:
        raise InputError("precipitation: no group of rain to score; name PERSIANN-CDR or IMERG files.")
    rain = _Rain.of(groups["precipitation"])
    coefficients, harmonics = climatology(rain)
    begins = _beginnings(rain)
    if not len(begins):
        raise InputError(
            f"precipitation: no {INPUT_DAYS} days with {LEADS} days of testing after them; prepare days of 2019 to "
            "2023 too."
        )
    sums = np.zeros((len(begins), len(RULES), LEADS, 6))
    held = dict[int, Singles]()
    for number, begin in enumerate(begins.tolist()):
        wanted = range(begin, begin + LEADS + 1)
        held = {place: held[place] if place in held else rain.at(place) for place in wanted}
        truth = np.stack([held[place] for place in wanted[1:]])
        waves = _waves(rain.days[begin + 1 : begin + LEADS + 1], harmonics)
        usual = np.maximum(np.einsum("lh,hrc->lrc", waves, coefficients), 0.0).astype(np.float32)
        last = np.broadcast_to(held[begin], truth.shape)
        for rule, forecast in enumerate((usual, last)):
            sums[number, rule] = _sums(forecast, truth, rain.weight)
    found = scores(sums.sum(0))
    drawn = scores(_resampled(sums, np.random.default_rng(seed)))
    metrics = {
        "forecasts": float(len(begins)),
        "training_days": float(np.count_nonzero(rain.split & _TRAIN)),
        "harmonics": float(harmonics),
    }
    for rule, name in enumerate(RULES):
        for score, values in found.items():
            low, high = np.percentile(drawn[score][:, rule], (2.5, 97.5), axis=0)
            for lead in range(LEADS):
                key = f"{name}_{score}_{lead + 1}d"
                metrics[key] = float(values[rule, lead])
                metrics[f"{key}_low"], metrics[f"{key}_high"] = float(low[lead]), float(high[lead])
    return metrics


def _beginnings(rain: _Rain) -> NDArray[np.int64]:
    """Places of the last observed days: eight days lie behind, 28 days of testing ahead, none is left out."""
    tested = (rain.split & _TEST) > 0
    found = [
        place
        for place in range(INPUT_DAYS - 1, len(rain.days) - LEADS)
        if tested[place + 1 : place + LEADS + 1].all()
        and rain.days[place + LEADS] - rain.days[place - INPUT_DAYS + 1] == LEADS + INPUT_DAYS - 1
    ]
    return np.array(found, np.int64)


def _resampled(sums: Floats, random: np.random.Generator) -> Floats:
    """(RESAMPLES, ...) sums over blocks of beginnings that were drawn with replacement."""
    count = len(sums)
    block = min(BLOCK, max(1, count // 4))
    whole = np.concatenate([np.zeros((1, *sums.shape[1:])), np.cumsum(sums, 0)])
    blocks = whole[block:] - whole[:-block]
    drawn = random.integers(0, len(blocks), (RESAMPLES, -(-count // block)))
    return np.stack([blocks[row].sum(0) for row in drawn])
