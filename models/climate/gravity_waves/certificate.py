"""An independent reference for networks of fluxes: hours are read again, asked again, and counted again, otherwise.

Nothing here is shared with what it judges: neither the networks nor the batches, neither the reading of fields nor the
metrics. It gets the stored dataset as it is, the networks as functions from features to fluxes, and, hour by hour, what
the judge believed to be the truth and what it was told.

Shapes: H hours that were judged, F = 3 + 4 L features, O = 2 L fluxes, L levels, top first, I x J latitudes, south
first, x longitudes. Fluxes in Pa.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import stdtrit

from models.common.certificate import Certificate, Claim

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Times = NDArray[np.datetime64]

Ask = Callable[[Singles], Singles]
"""Fluxes (N, O, I, J) in Pa of features (N, F, I, J)."""

SERVED = 1e-4
"""How far, in deviations of a flux, an answer may be from that to the same hour in another batch."""

WRITTEN_OUT = 1e-3
"""How far, in deviations of a flux, an answer in single precision may be from the network written out in float64."""

HALF = 5e-2
"""The same in the root mean square, of answers in half precision; and how far they may be in another batch."""

ROLLED = 1e-5
"""How far, in deviations of a flux, the answer to a rolled hour may be from the rolled answer."""

UNLEARNED = 1.0
"""Most that the column's error may be of that of saying the mean: a column that is worse is no bar for anybody."""

WORST = 1.5
"""Most that the error of any one flux may be of that of saying its mean. One of the wrong sign that knows a share r2 of
the truth has 1 + 3 r2."""

COUNTED = 1e-9
"""Relative distance of reported metrics from those that are counted again."""

STATISTICS = (1e-4, 0.2)
"""Distance, in deviations, of a network's statistics from those counted again: over all hours of training, or over some
of them, when a year of weather is known by its sample alone."""

PLACE = (90.0, 360.0)
"""Degrees that latitude and longitude are divided by, as in the published files; they are not centred."""

REFERENCE_PRESSURE, EXPONENT = 1e5, -0.286
"""Of the potential temperature T (p / p0)^exponent: coarsegrain_computed_momentum_fluxes.py of NASA-IMPACT/WxC-Bench,
lines 88-91."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a network must reach.

    Attributes:
        column: upper end of the interval of its error over that of the column.
        mean: the same over that of the mean of training.
        sign: share of strong fluxes with the right sign.
        magnitude: factor within which mean magnitudes agree.
        slope: factor within which the slope of truth on prediction is 1.
        change: correlation of departures from each cell's mean.
        drag: correlation of the drag of columns.
    """

    column: float
    mean: float
    sign: float
    magnitude: float
    slope: float
    change: float
    drag: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Hours of the parts of the data, as datetime64[s]."""

    training: Times
    validation: Times
    test: Times


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """What is judged.

    Attributes:
        weights: of the product, by name.
        served: of the network that was asked, by name.
        ask: its answers.
        ask_column: those of the column beside it.
        written_out: fluxes (O, I, J) in Pa of features (F, I, J), from the weights in float64; see `reference`.
        single, column_single: whether answers of network and column are in single precision; else in half.
        feature_mean, feature_deviation: (F) its statistics.
        flux_mean, flux_deviation: (O) its statistics, Pa.
        multiple: by how many columns features may be rolled.
        rolls: whether the fluxes should roll with them.
        column_share: steps that the column learned for, over those of the network.
        kept_from_column: how many features the network is told, and the column is not.
    """

    weights: "Mapping[str, torch.Tensor]"
    served: "Mapping[str, torch.Tensor]"
    ask: Ask
    ask_column: Ask
    written_out: Callable[[Singles], Floats]
    single: bool
    column_single: bool
    feature_mean: Floats
    feature_deviation: Floats
    flux_mean: Floats
    flux_deviation: Floats
    multiple: int
    rolls: bool
    column_share: float
    kept_from_column: int


# --- the stored hours ------------------------------------------------------------------------------------------------


class Stored:
    """The hours of a dataset, read plainly.

    Args:
        dataset: group with u, v, w, t (and p) or theta, zs, uw, vw; decoded or not.
        levels: how many are kept, from the ground up.
    """

    def __init__(self, dataset: xr.Dataset, levels: int) -> None:
        self.data = dataset
        self.time: Times = np.asarray(xr.decode_cf(dataset[["time"]])["time"].values).astype("datetime64[s]")
        self._levels = np.argsort(np.asarray(dataset["level"].values, np.float64), kind="stable")[-levels:]
        self._rows = np.argsort(np.asarray(dataset["lat"].values, np.float64), kind="stable")
        self._number = {time: number for number, time in enumerate(self.time.tolist())}

    @property
    def latitude(self) -> Floats:
        """(I) degrees, rising."""
        return np.asarray(self.data["lat"].values, np.float64)[self._rows]

    def fluxes(self, time: np.datetime64) -> Singles:
        """(O, I, J) of an hour; KeyError if there is no such hour."""
        return np.concatenate([self._levelled(name, time) for name in ("uw", "vw")]).astype(np.float32)

    def features(self, time: np.datetime64) -> Singles:
        """(F, I, J) of an hour; KeyError if there is no such hour."""
        u, v, w = (self._levelled(name, time) for name in ("u", "v", "w"))
        if "theta" in self.data:
            theta = self._levelled("theta", time)
        else:
            theta = self._levelled("t", time) * (self._pressure(time) / REFERENCE_PRESSURE) ** EXPONENT
        surface = self.data["zs"]
        if "time" in surface.dims:
            surface = surface.isel(time=self._place(time))
        if "level" in surface.dims:
            surface = surface.isel(level=int(self._levels[0]))
        height = np.asarray(surface.transpose("lat", "lon").values)[self._rows]
        place = np.meshgrid(self.latitude, np.asarray(self.data["lon"].values, np.float64), indexing="ij")
        return np.concatenate([np.stack([*place, height]), u, v, theta, w]).astype(np.float32)

    def _place(self, time: np.datetime64) -> int:
        return self._number[time.astype("datetime64[s]").item()]

    def _levelled(self, name: str, time: np.datetime64) -> Array:
        values = self.data[name].isel(time=self._place(time)).transpose("level", "lat", "lon").values
        return np.asarray(values[self._levels][:, self._rows])

    def _pressure(self, time: np.datetime64) -> Floats:
        if "p" in self.data:
            return np.asarray(self._levelled("p", time), np.float64)
        level = self.data["level"]
        factor = 1.0 if str(level.attrs.get("units", "hPa")).lower() == "pa" else 100.0
        return np.asarray(level.values, np.float64)[self._levels][:, None, None] * factor


def row_weights(latitude_I: Floats) -> Floats:
    """(I) share of the sphere of each row: Gauss' weights where the rows are his, else bands between the middles.

    Source:
        Textbook: Gauss-Legendre quadrature; Archimedes' theorem on zones.
    """
    sines = np.sin(np.radians(latitude_I))
    roots, weights = np.polynomial.legendre.leggauss(len(latitude_I))
    if np.abs(sines - roots).max() < 1e-5:
        return np.asarray(weights / weights.sum())
    middles = np.radians(np.clip((latitude_I[1:] + latitude_I[:-1]) / 2, -90, 90))
    edges = np.concatenate([[-1.0], np.sin(middles), [1.0]])
    return np.diff(edges) / 2


# --- what the judge saw ----------------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False)
class Witness:
    """Looks over the judge's shoulder: what it held for the truth, and what it was told; keeps a count of its own.

    Attributes:
        latitude: (I) degrees.
        mean, deviation: (O) Pa, by which fluxes are standardised.
        keep: hours whose arrays are kept, to be read and asked again.
    """

    latitude: Floats
    mean: Floats
    deviation: Floats
    keep: Collection[np.datetime64]
    time: list[np.datetime64] = field(default_factory=list)
    odd: int = 0
    first_odd: str = ""
    kept: dict[Any, tuple[Singles, Singles, Singles]] = field(default_factory=dict)
    rows: dict[str, list[Floats]] = field(default_factory=dict)
    _cells: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._weight = row_weights(self.latitude)

    def see(self, time_N: Times, truth_NOIJ: Singles, told_NOIJ: Singles, column_NOIJ: Singles) -> None:
        """A batch of hours: when, the truth, what the network says, and what the column says."""
        wanted = {one.astype("datetime64[s]").item() for one in self.keep}
        for time, truth, told, column in zip(
            time_N.astype("datetime64[s]"), truth_NOIJ, told_NOIJ, column_NOIJ, strict=True
        ):
            self.time.append(time)
            wrong = int((~np.isfinite(told)).sum() + (~np.isfinite(column)).sum())
            if wrong and not self.odd:
                self.first_odd = str(time)
            self.odd += wrong
            if time.item() in wanted:
                self.kept[time.item()] = (truth.copy(), told.copy(), column.copy())
            self._count(truth, told, column)

    def _count(self, truth_OIJ: Singles, told_OIJ: Singles, column_OIJ: Singles) -> None:
        weight = self._weight
        mean, deviation = self.mean[:, None, None], self.deviation[:, None, None]
        y, p, c = ((np.asarray(one, np.float64) - mean) / deviation for one in (truth_OIJ, told_OIJ, column_OIJ))

        def area(values: Floats) -> Floats:
            return np.asarray(values.mean(-1) @ weight)

        levels = len(truth_OIJ) // 2
        top, ground = [0, levels], [levels - 1, 2 * levels - 1]
        drag = [np.asarray(one[ground], np.float64) - one[top] for one in (truth_OIJ, told_OIJ)]
        scale = np.sqrt(mean**2 + deviation**2)
        strong = np.abs(truth_OIJ) >= scale
        agree = strong & ((np.asarray(truth_OIJ, np.float64) * told_OIJ) > 0)
        for name, values in {
            "error": area((p - y) ** 2), "column": area((c - y) ** 2), "flat": ((p - y) ** 2).mean((1, 2)),
            "y": area(y), "p": area(p), "yy": area(y * y), "pp": area(p * p), "yp": area(y * p),
            "strong": area(strong.astype(float)), "agree": area(agree.astype(float)),
            "size": area(np.abs(truth_OIJ) / scale), "told_size": area(np.abs(told_OIJ) / scale),
            "dy": area(drag[0]), "dp": area(drag[1]), "dyy": area(drag[0] ** 2), "dpp": area(drag[1] ** 2),
            "dyp": area(drag[0] * drag[1]),
        }.items():  # fmt: skip
            self.rows.setdefault(name, []).append(values)
        self._depart(y, p)

    def _depart(self, y: Floats, p: Floats) -> None:
        """Running means and squared departures of every cell (Welford 1962)."""
        cells = self._cells
        if not cells:
            cells.update(count=0, y=np.zeros_like(y), p=np.zeros_like(y), yy=np.zeros_like(y), pp=np.zeros_like(y))
            cells["yp"] = np.zeros_like(y)
        cells["count"] += 1
        dy, dp = y - cells["y"], p - cells["p"]
        cells["y"] += dy / cells["count"]
        cells["p"] += dp / cells["count"]
        cells["yy"] += dy * (y - cells["y"])
        cells["pp"] += dp * (p - cells["p"])
        cells["yp"] += dy * (p - cells["p"])

    def _row(self, name: str) -> Floats:
        return np.array(self.rows[name])

    # --- what follows from it

    def errors(self) -> tuple[Floats, Floats, Floats]:
        """(H) squared errors of network, column, and the mean of training, hour by hour, over all channels."""
        return self._row("error").mean(1), self._row("column").mean(1), self._row("yy").mean(1)

    def worst(self) -> tuple[float, int]:
        """The largest error of a flux over that of saying its mean, and which; what never changes does not count."""
        error_O, mean_O = self._row("error").mean(0), self._row("yy").mean(0)
        over_O = np.divide(error_O, mean_O, out=np.where(np.isnan(error_O), np.nan, 0.0), where=mean_O > 1e-12)
        return float(over_O.max()), int(over_O.argmax())

    def metrics(self) -> dict[str, float]:
        """Those that a judge reports under the same names."""
        error, column, mean = self.errors()
        y, p, yy, pp, yp = (self._row(name).mean(0) for name in ("y", "p", "yy", "pp", "yp"))
        spread, told, both = (yy - y * y).sum(), (pp - p * p).sum(), (yp - y * p).sum()
        return {
            "mse": float(error.mean()),
            "mse_published": float(self._row("flat").mean()),
            "mse_column": float(column.mean()),
            "mse_mean": float(mean.mean()),
            "mse_over_column": _quotient(error.sum(), column.sum()),
            "correlation": _quotient(both, math.sqrt(max(spread * told, 0.0))),
            "r2": 1 - _quotient(self._row("error").mean(0).sum(), spread),
            "slope": _quotient(both, told),
            "sign_right": _quotient(self._row("agree").sum(), self._row("strong").sum()),
            "magnitude_ratio": _quotient(self._row("told_size").sum(), self._row("size").sum()),
            "change_correlation": self.change(),
            "column_drag_correlation": self.drag(),
        }

    def change(self) -> float:
        """Correlation of departures from each cell's own mean."""
        weight = self._weight[:, None]
        yy, pp, yp = (float((self._cells[name] * weight).sum()) for name in ("yy", "pp", "yp"))
        # a constant answer leaves rounding behind
        still = pp <= 1e-12 * float((self._cells["p"] ** 2 * weight).sum() * self._cells["count"])
        return math.nan if still else _quotient(yp, math.sqrt(max(yy * pp, 0.0)))

    def drag(self) -> float:
        """Correlation of F_bottom - F_top over area and hours, of both directions together."""
        dy, dp, dyy, dpp, dyp = (self._row(name).mean(0) for name in ("dy", "dp", "dyy", "dpp", "dyp"))
        return _quotient((dyp - dy * dp).sum(), math.sqrt(max((dyy - dy * dy).sum() * (dpp - dp * dp).sum(), 0.0)))


def _quotient(above: float, below: float) -> float:
    return float(above / below) if below > 0 else math.nan


def upper_end(above_H: Floats, below_H: Floats, blocks: Array, confidence: float) -> float:
    """Upper end of the interval of a ratio of sums, by leaving out one block of hours at a time.

    Source:
        Delete-a-group jackknife with Student's t, Miller 1974.
    """
    names = sorted(set(blocks.tolist()))
    if len(names) < 2:
        return math.inf
    whole = above_H.sum() / below_H.sum()
    left = [above_H[blocks != one].sum() / below_H[blocks != one].sum() for one in names]
    middle = sum(left) / len(left)
    variance = (len(names) - 1) / len(names) * sum((one - middle) ** 2 for one in left)
    return float(whole + stdtrit(len(names) - 1, (1 + confidence) / 2) * math.sqrt(variance))


# --- the claims ------------------------------------------------------------------------------------------------------


def certify(
    *,
    stored: Stored,
    parts: Parts,
    witness: Witness,
    candidate: Candidate,
    blocks: Array,
    confidence: float,
    metrics: Mapping[str, float],
    statistics_hours: int,
    limits: Limits,
) -> Certificate:
    """Say how far a network is from what it should be.

    Args:
        stored: the dataset.
        parts: which hours are for what.
        witness: saw all that was judged.
        candidate: network and column.
        blocks: (H) to which block of time each judged hour belongs, in the order in which it was seen.
        confidence: of intervals.
        metrics: as reported.
        statistics_hours: over how many hours of training, at most, statistics are counted again.
        limits: what must be reached.

    Returns:
        The certificate.

    Source:
        Ours; `docs/gravity_waves.md`.
    """
    error, column, mean = witness.errors()
    claims = [
        _finite(witness),
        _as_trained(candidate),
        *_leakage(parts, witness),
        *_again(stored, witness, candidate),
        _written_out(stored, witness, candidate),
        _statistics(stored, parts, candidate, statistics_hours),
        _reported(witness, metrics),
        *_rolled(stored, witness, candidate),
        Claim(
            name="column_budget",
            kind="exact",
            value=candidate.column_share,
            limit=1.0,
            sense="at least",
            detail="steps that the single column learned for, over those of the network: a column that learned less "
            "proves nothing; train it as long.",
        ),
        Claim(
            name="features_kept_from_column",
            kind="exact",
            value=candidate.kept_from_column,
            limit=0,
            detail="features that the network is told and the column is not: what they are worth is not what the "
            "neighbours are worth; tell the column as much.",
        ),
        Claim(
            name="column_over_mean",
            kind="statistical",
            value=float(column.sum() / mean.sum()),
            limit=UNLEARNED,
            detail="squared error of the column over that of saying the mean of training: who learned nothing "
            "is soon beaten; look at its rate.",
        ),
        Claim(
            name="mse_over_column",
            kind="statistical",
            value=upper_end(error, column, blocks, confidence),
            limit=limits.column,
            detail=f"Upper end of the {confidence:.0%} interval of the squared error over that of the single column, "
            f"{error.sum() / column.sum():.4f}, over {len(set(blocks.tolist()))} blocks of {len(error)} hours of test.",
        ),
        Claim(
            name="mse_over_mean",
            kind="statistical",
            value=upper_end(error, mean, blocks, confidence),
            limit=limits.mean,
            detail=f"The same over the error of saying the mean of training, {error.sum() / mean.sum():.4f}.",
        ),
        _worst(witness),
        *_physical(witness, limits),
    ]
    return Certificate(claims=tuple(claims))


def _finite(witness: Witness) -> Claim:
    first = f" The first is at {witness.first_odd}; look for overflow in the network." if witness.odd else ""
    return Claim(
        name="values_not_finite",
        kind="exact",
        value=witness.odd,
        limit=0,
        detail=f"fluxes of network and column over {len(witness.time)} hours.{first}",
    )


def _worst(witness: Witness) -> Claim:
    over, flux = witness.worst()
    levels = len(witness.mean) // 2
    return Claim(
        name="worst_flux_over_mean",
        kind="statistical",
        value=over,
        limit=WORST,
        detail=f"Squared error over that of saying the mean, of the worst of {2 * levels} fluxes: "
        f"{('uw', 'vw')[flux // levels]} on level {flux % levels + 1} from the top.",
    )


def _as_trained(candidate: Candidate) -> Claim:
    """Whether the network that was asked has the weights of the product, bit by bit."""
    wrong = sorted(set(candidate.weights) ^ set(candidate.served))
    for name in set(candidate.weights) & set(candidate.served):
        ours, theirs = (np.asarray(one[name]) for one in (candidate.weights, candidate.served))
        if ours.shape != theirs.shape or ours.tobytes() != theirs.tobytes():
            wrong.append(name)
    first = f" {sorted(wrong)[0]} is not; load the product's weights." if wrong else ""
    return Claim(
        name="weights_not_as_trained",
        kind="exact",
        value=len(wrong),
        limit=0,
        detail=f"{len(candidate.weights)} tensors of the network that was asked, against the product's.{first}",
    )


def _leakage(parts: Parts, witness: Witness) -> list[Claim]:
    """Whether what was judged is the test part, all months of it, and no month in which anything was learned."""
    judged = np.array(witness.time, "datetime64[s]")
    months = set(judged.astype("datetime64[M]").tolist())
    learned = np.concatenate([parts.training, parts.validation]).astype("datetime64[M]")
    shared = sorted(months & set(learned.tolist()))
    unjudged = sorted(set(parts.test.astype("datetime64[M]").tolist()) - months)
    foreign = int((~np.isin(judged, parts.test.astype("datetime64[s]"))).sum())
    return [
        Claim(
            name="months_of_training_judged",
            kind="exact",
            value=len(shared),
            limit=0,
            detail=f"{len(months)} judged months against those of {len(learned)} hours of training and validation."
            + (f" {shared[0]:%Y-%m} is in both; change SplitConfig." if shared else ""),
        ),
        Claim(
            name="test_months_not_judged",
            kind="exact",
            value=len(unjudged),
            limit=0,
            detail=f"of {len(months | set(unjudged))} months of test."
            + (f" {unjudged[0]:%Y-%m} has no judged hour; raise JudgementConfig.hours." if unjudged else ""),
        ),
        Claim(
            name="hours_not_of_test",
            kind="exact",
            value=foreign + len(judged) - len(np.unique(judged)),
            limit=0,
            detail=f"{len(judged)} judged hours: none is outside the test part, none was judged twice.",
        ),
    ]


def _again(stored: Stored, witness: Witness, candidate: Candidate) -> list[Claim]:
    """Hours that are read from the store and asked again, one by one."""
    wrong = values = 0
    worst = {"network": 0.0, "column": 0.0}
    for second, (truth, told, column) in witness.kept.items():
        time = np.datetime64(second, "s")
        own = stored.fluxes(time)
        values += own.size
        wrong += own.size if own.shape != truth.shape else int((own != truth).sum())
        features = stored.features(time)[None]
        deviation = candidate.flux_deviation[:, None, None]
        for name, ask, said in (("network", candidate.ask, told), ("column", candidate.ask_column, column)):
            distance = np.abs(ask(features)[0].astype(np.float64) - said) / deviation
            worst[name] = max(worst[name], float(distance.max())) if np.isfinite(distance).all() else math.inf
    if not witness.kept:
        wrong, worst = 1, dict.fromkeys(worst, math.inf)
    hours = ", ".join(str(np.datetime64(one, "m")) for one in sorted(witness.kept))
    return [
        Claim(
            name="truth_not_as_stored",
            kind="exact",
            value=wrong,
            limit=0,
            detail=f"{values:,} fluxes of {hours or 'no hour'}, read again: the same bits, levels top first, rows from "
            "the south, uw before vw, Pa.",
        ),
        *(
            Claim(
                name=f"{name}_answer_difference",
                kind="exact",
                value=distance,
                limit=SERVED if (candidate.single if name == "network" else candidate.column_single) else HALF,
                detail=f"Largest distance, in deviations of a flux, of what the {name} said from its answer to the "
                "same hours, whose features are put together again from the store.",
            )
            for name, distance in worst.items()
        ),
    ]


def _written_out(stored: Stored, witness: Witness, candidate: Candidate) -> Claim:
    """An hour's answer against the network written out."""
    away, hour = np.full(1, math.inf), "no hour"
    if witness.kept:
        second = min(witness.kept)
        hour = str(np.datetime64(second, "m"))
        own = candidate.written_out(stored.features(np.datetime64(second, "s")))
        away = (witness.kept[second][1] - own) / candidate.flux_deviation[:, None, None]
    value = np.abs(away).max() if candidate.single else np.sqrt(np.square(away).mean())
    return Claim(
        name="written_out_difference",
        kind="exact",
        value=float(value) if np.isfinite(value) else math.inf,
        limit=WRITTEN_OUT if candidate.single else HALF,
        detail=f"{'Largest' if candidate.single else 'Root mean square'} distance, in deviations of a flux, of the "
        f"answers to {hour} from the network written out in float64, straight from the product's weights.",
    )


def _statistics(stored: Stored, parts: Parts, candidate: Candidate, most: int) -> Claim:
    """The network's statistics against those of hours of training, counted in shifted sums."""
    every = np.unique(np.linspace(0, len(parts.training) - 1, min(most, len(parts.training))).round().astype(int))
    hours = parts.training[every]
    limit = STATISTICS[0 if len(hours) == len(parts.training) else 1]
    total: dict[str, Floats] = {}
    square: dict[str, Floats] = {}
    reads = {"feature": stored.features, "flux": stored.fluxes}
    for name, read in reads.items():
        # about the first hour's means, so that squares lose no digits to a large mean
        first = read(hours[0]).mean((1, 2), dtype=np.float64)
        away, far = np.zeros_like(first), np.zeros_like(first)
        for hour in hours:
            distance = read(hour) - first[:, None, None]
            away += distance.mean((1, 2))
            far += np.square(distance).mean((1, 2))
        away /= len(hours)
        total[name], square[name] = first + away, far / len(hours) - away**2
    total["feature"][:2], square["feature"][:2] = 0.0, np.square(PLACE)
    worst, where = 0.0, "none"
    for name in reads:
        spread = np.sqrt(np.maximum(square[name], 0.0))
        spread = np.where(spread > 1e-6 * np.abs(total[name]), spread, 1.0)  # what is constant is scaled by one
        mean, deviation = getattr(candidate, f"{name}_mean"), getattr(candidate, f"{name}_deviation")
        for what, gap in (
            ("mean", np.abs(mean - total[name]) / spread - 1e-6 * np.abs(total[name]) / spread),  # stored as float32
            ("deviation", np.abs(deviation - spread) / spread),
        ):
            if not np.nanmax(gap) <= worst or np.isnan(gap).any():
                worst = math.inf if np.isnan(gap).any() else float(gap.max())
                where = f"the {what} of {name} channel {int(np.argmax(gap))}"
    return Claim(
        name="statistics_difference",
        kind="exact" if limit == STATISTICS[0] else "statistical",
        value=worst,
        limit=limit,
        detail=f"Means and deviations of all channels over {len(hours)} of {len(parts.training)} hours of training, in "
        f"deviations; the worst is {where}.",
    )


def _reported(witness: Witness, metrics: Mapping[str, float]) -> Claim:
    worst, where = 0.0, "none"
    counted = witness.metrics()
    for name, value in counted.items():
        said = metrics.get(name, math.nan)
        gap = 0.0 if math.isnan(said) and math.isnan(value) and name in metrics else abs(said - value)
        gap /= max(abs(value), 1e-3) if not math.isnan(value) else 1.0
        if not gap <= worst:
            worst, where = (math.inf if math.isnan(gap) else gap), name
    return Claim(
        name="reported_difference",
        kind="exact",
        value=worst,
        limit=COUNTED,
        detail=f"{', '.join(counted)}, counted again in other sums; the worst is {where}.",
    )


def _rolled(stored: Stored, witness: Witness, candidate: Candidate) -> list[Claim]:
    """Features turned about the earth's axis give fluxes turned alike."""
    if not candidate.rolls or not witness.kept:
        return []
    time = np.datetime64(min(witness.kept), "s")
    features = stored.features(time)[None]
    turn = candidate.multiple * max(1, features.shape[-1] // candidate.multiple // 3)
    plain, turned = candidate.ask(features), candidate.ask(np.roll(features, turn, -1))
    gap = np.abs(np.roll(plain, turn, -1).astype(np.float64) - turned) / candidate.flux_deviation[:, None, None]
    return [
        Claim(
            name="roll_difference",
            kind="exact",
            value=float(gap.max()) if np.isfinite(gap).all() else math.inf,
            limit=ROLLED,
            detail=f"Largest distance, in deviations of a flux, between the answer to {time} rolled by {turn} columns "
            f"and the rolled answer; the network is blind to rolls by multiples of {candidate.multiple}.",
        )
    ]


def _physical(witness: Witness, limits: Limits) -> list[Claim]:
    """Sign, size, slope, change and drag."""
    found = witness.metrics()

    def factor(value: float) -> float:
        return max(value, 1 / value) if value > 0 else math.inf

    def claim(name: str, value: float, limit: float, detail: str, *, least: bool = False) -> Claim:
        return Claim(
            name=name, kind="statistical", value=value, limit=limit, sense="at least" if least else "at most",
            detail=detail,
        )  # fmt: skip

    return [
        claim(
            "sign_right", found["sign_right"], limits.sign,
            "Share, by area, of fluxes of a deviation and more whose sign is right.", least=True,
        ),
        claim(
            "magnitude_factor", factor(found["magnitude_ratio"]), limits.magnitude,
            f"Mean magnitude of the answers is {found['magnitude_ratio']:.3f} of the truth's, here as a factor.",
        ),
        claim(
            "slope_factor", factor(found["slope"]), limits.slope,
            f"Slope of the truth on the answers, {found['slope']:.3f}, as a factor: other units or another scale are "
            "far from 1.",
        ),
        claim(
            "change_correlation", found["change_correlation"], limits.change,
            "Correlation of departures from each cell's own mean: a climatology has none.", least=True,
        ),
        claim(
            "column_drag_correlation", found["column_drag_correlation"], limits.drag,
            "Correlation of the force on whole columns, F_bottom - F_top, over area and hours.", least=True,
        ),
    ]  # fmt: skip
