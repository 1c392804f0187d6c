"""Analog search: the day most like another, and what follows it as a forecast.

A day is a vector of standardised anomalies x of both variables, each point with the square root of its share of area,
so that the squared distance of two vectors is the area-weighted mean square difference over points and variables:

    |x - y|^2 = sum_p a_p ((s_p(x) - s_p(y))^2 + (t_p(x) - t_p(y))^2) / 2,     sum_p a_p = 1

An anomaly is what is left of a value after the seasonal cycle, two harmonics of the year at each point, and is divided
by the variable's deviation over the region. The distance to a day without anomaly is 1 on average.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

LEADS_DAYS = (0, 1, 2, 3, 5, 7)
WINDOW_DAYS = 15
"""Days on either side of a day that are no analogs of it: they are the same weather."""

RESAMPLES = 1000
_BLOCK_DAYS = 15
_MANY = 10
_PAIRS = 1 << 22
"""Distances that are held at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Days:
    """N days as vectors.

    Attributes:
        day: days since 1970-01-01, ascending (N).
        vectors: (N, D) float64, D = 2 x points.
    """

    day: NDArray[np.int64]
    vectors: NDArray[np.float64]

    @classmethod
    def of(cls, groups: Mapping[str, "xr.Dataset"]) -> "Days":
        """The vectors of a stored dataset.

        Raises:
            ValueError: there are too few days, or values are missing at a point on every day.
        """
        stored = groups[""]
        time = np.asarray(stored["time"].values)
        minutes = time.astype("datetime64[m]").astype(np.int64) if time.dtype.kind == "M" else time.astype(np.int64)
        day = minutes // 1440
        if len(day) < 2 * WINDOW_DAYS + 2:
            raise ValueError(f"analogs need at least {2 * WINDOW_DAYS + 2} days, got {len(day)}; prepare more days.")
        latitude = np.asarray(stored["lat"].values, np.float64)
        area = np.repeat(np.cos(np.radians(latitude))[:, None], stored.sizes["lon"], axis=1).ravel()
        pieces = []
        for name in ("SLP", "T2M"):
            values = np.asarray(stored[name].values, np.float64).reshape(len(day), -1)
            here = ~np.isnan(values).any(axis=0)
            if not here.any():
                raise ValueError(f"{name} is missing at every point on some day; mend the dataset.")
            share = area[here] / area[here].sum()
            left = values[:, here] - _season(day, values[:, here])
            deviation = float(np.sqrt((left**2 @ share).mean()))
            pieces.append(left / max(deviation, 1e-12) * np.sqrt(share / 2))
        return cls(day=day, vectors=np.concatenate(pieces, axis=1))

    def nearest(self, count: int = 1, window: int = WINDOW_DAYS) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For every day the days most like it, exactly.

        Args:
            count: how many.
            window: days on either side that are left out.

        Returns:
            Positions and distances, (N, count), nearest first; the earlier of two that are as near.

        Raises:
            ValueError: some day has fewer than `count` others outside the window.
        """
        square = (self.vectors**2).sum(1)
        places = np.empty((len(self.day), count), np.int64)
        step = max(1, _PAIRS // len(self.day))
        for start in range(0, len(self.day), step):
            rows = slice(start, start + step)
            distance = square[rows, None] + square[None, :] - 2 * self.vectors[rows] @ self.vectors.T
            distance[np.abs(self.day[rows, None] - self.day[None, :]) <= window] = np.inf
            if count > np.isfinite(distance).sum(1).min():
                raise ValueError(
                    f"some day has fewer than {count} days outside {window} days around it; prepare more days."
                )
            places[rows] = np.argsort(distance, axis=1, kind="stable")[:, :count]
        # once more by differences: the expansion above loses half of the digits where two days are close
        ranks = [_apart(self.vectors, self.vectors[places[:, rank]]) for rank in range(count)]
        exact = np.stack(ranks, axis=1)
        order = np.argsort(exact, axis=1, kind="stable")
        return np.take_along_axis(places, order, 1), np.take_along_axis(exact, order, 1)

    def for_inner_products(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors for an index that ranks by inner products, and the questions to it; both (N, D + 2).

        The index holds [y, h, l] and is asked with [x, 1, 1]: the product, x.y - |y|^2 / 2, orders days as the distance
        from x does. What is subtracted is h + l, as h alone in float32 would swap days that are nearly as near: y is
        rounded first, its square is taken in float64, and h and l hold it to 48 bits.
        """
        rounded = self.vectors.astype(np.float32)
        half = -(rounded.astype(np.float64) ** 2).sum(1, keepdims=True) / 2
        high = half.astype(np.float32)
        low = (half - high).astype(np.float32)
        return np.concatenate([rounded, high, low], axis=1), asking(rounded)


def asking(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q, D + 2) questions by vectors of days (Q, D); see `Days.for_inner_products`."""
    return np.concatenate([vectors, np.ones((len(vectors), 2), np.float32)], axis=1)


def held(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, D) vectors of days as an index holds them (N, D + 2); see `Days.for_inner_products`.

    Raises:
        ValueError: these are other vectors: the last two numbers of one are not what the others ask for.
    """
    days, tail = vectors[:, :-2].astype(np.float64), vectors[:, -2:].astype(np.float64).sum(1)
    half = -(days**2).sum(1) / 2
    wrong = np.flatnonzero(~(np.abs(tail - half) <= 1e-12 * (1 + np.abs(half))))
    if len(wrong) or vectors.shape[1] < 3:
        raise ValueError(
            f"{max(len(wrong), 1)} of {len(vectors)} vectors do not end in minus half their square; build the index "
            "from a table of days as analogs are exported."
        )
    return vectors[:, :-2]


def _season(day: Array, values: Array) -> Array:
    """The seasonal cycle: mean and two harmonics of the year, by least squares; the mean alone for less than a year."""
    angle = 2 * np.pi * day / 365.2425
    basis = [np.ones(len(day))]
    if day[-1] - day[0] >= 365:
        basis += [wave(order * angle) for order in (1, 2) for wave in (np.cos, np.sin)]
    columns = np.stack(basis, axis=1)
    weights, *_ = np.linalg.lstsq(columns, values, rcond=None)
    return np.asarray(columns @ weights)


def baseline(groups: Mapping[str, "xr.Dataset"], seed: int = 0) -> dict[str, float]:
    """How near analogs are, and how well what followed them foretells what follows, by a direct search.

    Args:
        groups: the root group.
        seed: of the random days and of the resampling.

    Returns:
        What `skill` says of the ten nearest days, or of the nearest where some day has no ten outside its window.

    Raises:
        ValueError: there are too few days.
    """
    days = Days.of(groups)
    near = np.searchsorted(days.day, days.day + WINDOW_DAYS, "right") - np.searchsorted(
        days.day, days.day - WINDOW_DAYS
    )
    outside = len(days.day) - int(near.max())
    return skill(days, days.nearest(count=_MANY if outside >= _MANY else 1)[0], seed=seed)


def skill(days: Days, places: Array, *, window: int = WINDOW_DAYS, seed: int = 0) -> dict[str, float]:
    """How near given analogs are, and how well what followed them foretells what follows.

    A forecast of lead L is the vector L days after the analog, or the mean of those after all analogs of the day;
    persistence is the day itself, climatology no anomaly, random any day outside the window.

    Args:
        days: the days.
        places: (N, count) positions of the analogs of each day, nearest first.
        window: days on either side of a day that are no analogs of it.
        seed: of the random days and of the resampling.

    Returns:
        `RULE_LEADd_rms` for the rules analog, ten_analogs (or another number), random, persistence, climatology;
        `gain_over_OTHER_LEADd` for random and persistence, the mean of a day's error by it less that by the analogs,
        by all of them if there are several; each with `_low` and `_high`: 95 %, over blocks of 15 days drawn with
        replacement; `days_LEADd`; `analog_below_random`, the share of days whose analog is nearer than a random day.

    Source:
        Lorenz 1969, Journal of the Atmospheric Sciences 26, 636, for analogs; the metric is ours.
    """
    analog, count = places[:, 0], places.shape[1]
    best = "analog" if count == 1 else f"{'ten' if count == _MANY else count}_analogs"
    random = np.random.default_rng(seed)
    other = _others(days, window, random)
    nearer = _apart(days.vectors, days.vectors[analog]) < _apart(days.vectors, days.vectors[other])
    metrics = {"analog_below_random": float(nearer.mean())}
    for lead in LEADS_DAYS:
        ahead, there = _ahead(days.day, np.arange(len(days.day)), lead)
        after, followed = _ahead(days.day, analog, lead)
        later, also = _ahead(days.day, other, lead)
        rows = np.flatnonzero(there & followed & also)
        if len(rows) < 2 * _BLOCK_DAYS:
            continue
        truth = days.vectors[ahead[rows]]
        guesses = {
            "analog": days.vectors[after[rows]],
            "random": days.vectors[later[rows]],
            "persistence": days.vectors[rows],
            "climatology": np.zeros_like(truth),
        }
        if count > 1:
            guesses[best] = _mean_after(days, places[rows], lead)
        errors = {f"{rule}_{lead}d_rms": _apart(truth, guess) for rule, guess in guesses.items()}
        for rule in ("random", "persistence"):
            errors[f"gain_over_{rule}_{lead}d"] = errors[f"{rule}_{lead}d_rms"] - errors[f"{best}_{lead}d_rms"]
        metrics[f"days_{lead}d"] = float(len(rows))
        block = days.day[rows] // _BLOCK_DAYS
        _, index = np.unique(block, return_inverse=True)
        draws = random.multinomial(index.max() + 1, np.full(index.max() + 1, 1 / (index.max() + 1)), size=RESAMPLES)
        for name, error in errors.items():
            if lead == 0 and "persistence" in name:
                continue
            means = (draws @ np.bincount(index, error)) / (draws @ np.bincount(index))
            mean = float(error.mean())
            low, high = np.quantile(means, (0.025, 0.975))
            low, high = min(float(low), mean), max(float(high), mean)  # one draw has no spread, but it rounds
            metrics |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return metrics


def _mean_after(days: Days, places: Array, lead: int) -> Array:
    """Mean of what followed several days each, as far as it is known; the first of them is."""
    total, number = np.zeros((len(places), days.vectors.shape[1])), np.zeros((len(places), 1))
    for rank in range(places.shape[1]):
        after, known = _ahead(days.day, places[:, rank], lead)
        total[known] += days.vectors[after[known]]
        number[known] += 1
    return np.asarray(total / number)


def _apart(one: Array, other: Array) -> Array:
    return np.asarray(np.sqrt(((one - other) ** 2).sum(1)))


def _others(days: Days, window: int, random: np.random.Generator) -> NDArray[np.int64]:
    """For every day a random one outside its window."""
    out = np.empty(len(days.day), np.int64)
    for row, day in enumerate(days.day):
        allowed = np.flatnonzero(np.abs(days.day - day) > window)
        out[row] = random.choice(allowed)
    return out


def _ahead(day: Array, rows: Array, lead: int) -> tuple[Array, Array]:
    """Positions of the days so much later than those of the rows, and whether there are such."""
    wanted = day[rows] + lead
    place = np.minimum(np.searchsorted(day, wanted), len(day) - 1)
    return place, day[place] == wanted


def type_agreement(places: Array, types: Array) -> float:
    """Share of days whose nearest day is of the same weather type; for worlds whose types are known.

    Args:
        places: (N, 1) or (N) positions of the nearest days.
        types: (N) the type of every day.
    """
    nearest = np.asarray(places).reshape(len(types), -1)[:, 0]
    return float((np.asarray(types)[nearest] == np.asarray(types)).mean())
