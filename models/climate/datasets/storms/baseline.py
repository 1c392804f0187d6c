"""How far ahead storms are foretold by rules that know nothing: the bar for any model of track and intensity.

Three rules, all from the records of the last twelve hours:

    persistence     the storm stays where it is, as strong as it is
    extrapolation   it goes on as it moved, and strengthens as it did, over the last twelve hours
    regression      displacement and change of wind are linear in place, motion, wind, its change and the season: what
                    climatology and persistence together know (CLIPER5 and SHIFOR5 in kind), fitted on earlier seasons

Errors are great-circle distances in km and absolute differences in kt, on the last fifth of the seasons, with intervals
over storms: the records of one storm are no independent cases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

LEADS_H = (6, 12, 24, 36, 48, 72)
RULES = ("persistence", "extrapolation", "regression")
EARTH_KM = 6371.0
RESAMPLES = 1000

_BACK = 2
"""Six-hourly steps behind a forecast that its rules look at: twelve hours."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """Six-hourly records with a known wind; n of them.

    Attributes:
        storm: index of the storm.
        step: six-hour steps since 1970.
        place: latitude and longitude in degrees, n x 2; a storm's longitudes run on across the date line.
        wind: kt.
        day: of the year, from 0.
        season: of the storm.
    """

    storm: Array
    step: Array
    place: Array
    wind: Array
    day: Array
    season: Array

    @classmethod
    def of(cls, groups: Mapping[str, "xr.Dataset"]) -> "Cases":
        """The cases of the stored groups."""
        storms, records = groups["storms"], groups["records"]
        count = np.asarray(storms["row_size"].values).astype(np.int64)
        owner = np.repeat(np.arange(len(count)), count)
        time = np.asarray(records["time"].values)
        minute = time.astype("datetime64[m]").astype(np.int64) if time.dtype.kind == "M" else time.astype(np.int64)
        wind = np.asarray(records["wind"].values).astype(np.float64)
        chosen = (minute % 360 == 0) & (wind >= 0)
        owner, minute = owner[chosen], minute[chosen]
        longitude = np.unwrap(np.asarray(records["lon"].values, np.float64)[chosen], period=360.0)
        days = minute // 1440
        year = days.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
        return cls(
            storm=owner,
            step=minute // 360,
            place=np.stack([np.asarray(records["lat"].values, np.float64)[chosen], longitude], axis=1),
            wind=wind[chosen],
            day=days - year,
            season=np.asarray(storms["season"].values).astype(np.int64)[owner],
        )

    def at(self, shift: int) -> tuple[Array, Array]:
        """For each case the index of its storm's record so many steps later, and whether there is one."""
        key = self.storm * (1 << 24) + (self.step + (1 << 22))
        order = np.argsort(key, kind="stable")
        place = np.searchsorted(key[order], key + shift)
        found = order[np.minimum(place, len(key) - 1)]
        return found, key[found] == key + shift


def baseline(groups: Mapping[str, "xr.Dataset"], seed: int = 0) -> dict[str, float]:
    """Mean errors of the three rules by lead.

    Args:
        groups: `storms` and `records`.
        seed: of the resampling of storms.

    Returns:
        `track_RULE_LEADh_km` and `wind_RULE_LEADh_kt`, each with `_low` and `_high` (95 %), `cases_LEADh`,
        `storms_tested` and `seasons_tested`.

    Raises:
        ValueError: there are too few seasons or storms to fit and to test.

    Source:
        CLIPER5: Aberson 1998, Weather and Forecasting 13, 1005; SHIFOR5: Knaff et al. 2003, Weather and Forecasting
        18, 80. Ours is linear and has their predictors of position, motion, intensity and date alone.
    """
    cases = Cases.of(groups)
    seasons = np.unique(cases.season)
    if len(seasons) < 2:
        raise ValueError(
            f"storms of at least 2 seasons are needed to fit and to test, got {len(seasons)}; give more years."
        )
    tested = seasons[-max(1, len(seasons) // 5) :]
    random = np.random.default_rng(seed)
    metrics: dict[str, float] = {"seasons_tested": float(len(tested))}
    most = 0
    for lead in LEADS_H:
        back, was = cases.at(-_BACK)
        ahead, will = cases.at(lead // 6)
        test = np.isin(cases.season, tested)
        fit_rows = np.flatnonzero(was & will & ~test)
        rows = np.flatnonzero(was & will & test)
        storms = np.unique(cases.storm[rows])
        if len(storms) < 2 or len(fit_rows) < 50:
            continue
        most = max(most, len(storms))
        metrics[f"cases_{lead}h"] = float(len(rows))
        errors = _errors(cases, back, ahead, fit_rows, rows, lead)
        draws = random.multinomial(len(storms), np.full(len(storms), 1 / len(storms)), size=RESAMPLES)
        for name, error in errors.items():
            metrics |= _interval(name, error, cases.storm[rows], draws)
    if not most:
        raise ValueError("no storm has records twelve hours before and six hours after another; give more storms.")
    metrics["storms_tested"] = float(most)
    return metrics


def _errors(cases: Cases, back: Array, ahead: Array, fit_rows: Array, rows: Array, lead: int) -> dict[str, Array]:
    """Errors of every rule on the rows tested."""
    factor = lead / (6.0 * _BACK)
    motion, trend = cases.place - cases.place[back], cases.wind - cases.wind[back]
    predictors = _predictors(cases, motion, trend)
    targets = np.column_stack([cases.place[ahead] - cases.place, cases.wind[ahead] - cases.wind])
    mean, deviation = predictors[fit_rows].mean(0), predictors[fit_rows].std(0)
    scaled = np.column_stack([np.ones(len(predictors)), (predictors - mean) / np.where(deviation > 0, deviation, 1.0)])
    # a whisker of ridge: a few storms of one basin may leave a predictor without spread
    normal = scaled[fit_rows].T @ scaled[fit_rows] + 1e-6 * len(fit_rows) * np.eye(scaled.shape[1])
    weights = np.linalg.solve(normal, scaled[fit_rows].T @ targets[fit_rows])
    change = {
        "persistence": np.zeros((len(rows), 3)),
        "extrapolation": factor * np.column_stack([motion, trend])[rows],
        "regression": scaled[rows] @ weights,
    }
    errors = {}
    for rule in RULES:
        place = cases.place[rows] + change[rule][:, :2]
        wind = np.maximum(cases.wind[rows] + change[rule][:, 2], 0.0)
        errors[f"track_{rule}_{lead}h_km"] = distance_km(place, cases.place[ahead[rows]])
        errors[f"wind_{rule}_{lead}h_kt"] = np.abs(wind - cases.wind[ahead[rows]])
    return errors


def _predictors(cases: Cases, motion: Array, trend: Array) -> Array:
    """What the regression is linear in, n x 12."""
    latitude, longitude = cases.place[:, 0], cases.place[:, 1] % 360.0
    angle = 2 * np.pi * cases.day / 365.25
    products = [motion[:, 0] * latitude, motion[:, 1] * latitude, cases.wind * trend, cases.wind**2]
    base = [latitude, longitude, *motion.T, cases.wind, trend, np.sin(angle), np.cos(angle)]
    return np.column_stack([*base, *products])


def distance_km(one: Array, other: Array) -> Array:
    """Great-circle distances between places (latitude, longitude) in degrees."""
    latitude, latitude2 = np.radians(one[:, 0]), np.radians(other[:, 0])
    across = np.radians(one[:, 1] - other[:, 1])
    chord = np.sin((latitude - latitude2) / 2) ** 2 + np.cos(latitude) * np.cos(latitude2) * np.sin(across / 2) ** 2
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0))))


def _interval(name: str, error: Array, storm: Array, draws: Array) -> dict[str, float]:
    """The mean error, and its interval of 95 % over storms drawn with replacement."""
    _, index = np.unique(storm, return_inverse=True)
    total = np.bincount(index, error)
    number = np.bincount(index)
    means = (draws @ total) / (draws @ number)
    mean = float(error.mean())
    low, high = np.quantile(means, (0.025, 0.975))
    low, high = min(float(low), mean), max(float(high), mean)  # one draw has no spread, but it rounds
    return {name: mean, f"{name}_low": low, f"{name}_high": high}
