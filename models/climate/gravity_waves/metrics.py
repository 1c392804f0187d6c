"""What predicted fluxes are worth: errors, correlations, histograms, spectra, regional means, and drag.

Everything is a sum over hours, in double precision. A batch of hours gives its sums, sums of batches are added in any
order and any grouping, and metrics are read off the sum; a year of hours never lies in memory.

Errors are those of standardised fluxes: every channel less its mean over the hours of training, over its deviation
there, so that 1 is about the error of saying the mean. A cell counts by its share of the sphere; the published error,
which counts the cells of a converging grid alike, stands beside it under the name `published`.

Shapes: N hours, L levels (top first), O = 2 L channels (uw of all levels, then vw), I x J latitudes x longitudes, B
bins, Z bands of latitude, W = J/2 + 1 zonal wavenumbers, R regions, H blocks of hours. Fluxes F = rho u'w' in Pa,
positive where waves carry eastward (northward) momentum upward.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.climate.geometry import Grid, gaussian_grid

Array = NDArray[np.float32] | NDArray[np.float64]
Floats = NDArray[np.float64]

GRAVITY = 9.81
"""m/s2; the published flux scripts divide by it."""

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Sums over hours; two of them add to that of all their hours.

    Attributes:
        hours: how many.
    """

    hours: int

    def __add__(self, other: Self) -> Self:
        names = [one.name for one in fields(self)]
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})


# --- errors, correlation, R2 -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement(Sums):
    """How far predictions are from the truth in every channel.

    Attributes:
        truth, prediction: (O) area means, added over hours.
        truth_square, prediction_square, product: (O) area means of squares and of the product.
        error_square: (O) area mean of the squared error.
        flat_error_square: (O) mean of the squared error over cells, whatever their area.
    """

    truth: Floats
    prediction: Floats
    truth_square: Floats
    prediction_square: Floats
    product: Floats
    error_square: Floats
    flat_error_square: Floats

    def of(self, channels: slice | Sequence[int]) -> "Agreement":
        """Those of some channels."""
        kept = {one.name: getattr(self, one.name)[channels] for one in fields(self) if one.name != "hours"}
        return Agreement(hours=self.hours, **kept)

    @property
    def mse(self) -> Floats:
        """(O) area-weighted mean squared error."""
        return self.error_square / self.hours

    @property
    def published(self) -> Floats:
        """(O) mean squared error with all cells alike, as the published logs report it."""
        return self.flat_error_square / self.hours

    @property
    def bias(self) -> Floats:
        """(O) mean of prediction less truth."""
        return (self.prediction - self.truth) / self.hours

    @property
    def truth_variance(self) -> Floats:
        """(O) variance over area and hours."""
        return np.maximum(self.truth_square / self.hours - (self.truth / self.hours) ** 2, 0.0)

    @property
    def prediction_variance(self) -> Floats:
        """(O) variance over area and hours."""
        return np.maximum(self.prediction_square / self.hours - (self.prediction / self.hours) ** 2, 0.0)

    @property
    def covariance(self) -> Floats:
        """(O) of prediction and truth over area and hours."""
        return np.asarray(self.product / self.hours - self.truth * self.prediction / self.hours**2)

    @property
    def correlation(self) -> Floats:
        """(O) Pearson's; NaN where one side is constant."""
        return _ratio(self.covariance, np.sqrt(self.truth_variance * self.prediction_variance))

    @property
    def r2(self) -> Floats:
        """(O) 1 - error / variance of the truth over these hours; NaN where the truth is constant."""
        return 1.0 - _ratio(self.mse, self.truth_variance)

    @property
    def pooled_correlation(self) -> float:
        """Covariances of all channels together, over the root of their variances together."""
        both = self.truth_variance.sum() * self.prediction_variance.sum()
        return float(_ratio(self.covariance.sum(), np.sqrt(both)))

    @property
    def pooled_r2(self) -> float:
        """1 - errors of all channels together over their variances together."""
        return float(1.0 - _ratio(self.error_square.sum() / self.hours, self.truth_variance.sum()))

    @property
    def slope(self) -> float:
        """Least-squares slope of the truth on the prediction, all channels together: 1 for a conditional mean.

        Below 1 a prediction overshoots, above 1 it is too timid: times this slope it would have the least error.
        """
        return float(_ratio(self.covariance.sum(), self.prediction_variance.sum()))


def _ratio(above: Floats, below: Floats) -> Floats:
    """A quotient that is NaN where nothing stands below."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(below) > 0, above / below, np.nan)


def standardised(flux_NOIJ: Array, mean_O: Floats, deviation_O: Floats) -> Floats:
    """Fluxes (N, O, I, J) less the mean of training, over the deviation of training.

    Raises:
        ValueError: a channel did not vary in training.

    Source:
        The scaling of the published learning files: one mean and one deviation for every flux and level.
    """
    if not (deviation_O > 0).all():
        raise ValueError(
            f"channel {int(np.argmin(deviation_O > 0))} has the deviation {deviation_O[~(deviation_O > 0)][0]} over "
            "the hours of training and cannot be standardised; leave its level out of the data."
        )
    return np.asarray((flux_NOIJ - mean_O[:, None, None]) / deviation_O[:, None, None], np.float64)


def agreement(truth_NOIJ: Floats, prediction_NOIJ: Floats, area_IJ: Floats) -> Agreement:
    """The sums behind errors and correlations of a batch of hours.

    Args:
        truth_NOIJ: standardised truth, or any other channels.
        prediction_NOIJ: the same of the prediction.
        area_IJ: shares of the sphere; they sum to one.

    Source:
        Ours. `flat_error_square` is the published loss (torch.nn.MSELoss over all cells and channels).
    """
    count, channels = truth_NOIJ.shape[:2]
    weight = area_IJ.ravel()
    truth, prediction = (one.reshape(count, channels, -1) for one in (truth_NOIJ, prediction_NOIJ))
    error = (prediction - truth) ** 2
    return Agreement(
        hours=count,
        truth=(truth @ weight).sum(0),
        prediction=(prediction @ weight).sum(0),
        truth_square=(truth**2 @ weight).sum(0),
        prediction_square=(prediction**2 @ weight).sum(0),
        product=(truth * prediction @ weight).sum(0),
        error_square=(error @ weight).sum(0),
        flat_error_square=error.mean(2).sum(0),
    )


# --- change from hour to hour ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Change(Sums):
    """Sums at every cell, for what is left when each cell's own mean over the hours is taken off.

    Attributes:
        truth, prediction, truth_square, prediction_square, product: (O, I, J), added over hours.
    """

    truth: Floats
    prediction: Floats
    truth_square: Floats
    prediction_square: Floats
    product: Floats

    def correlation(self, area_IJ: Floats) -> float:
        """Correlation of departures from each cell's own mean, all channels together; a climatology has none (NaN)."""
        mean, other = self.truth / self.hours, self.prediction / self.hours
        both = ((self.product / self.hours - mean * other) * area_IJ).sum()
        own = (np.maximum(self.truth_square / self.hours - mean**2, 0) * area_IJ).sum()
        # a constant prediction leaves rounding of its square behind
        square = self.prediction_square / self.hours
        varied = np.where(square - other**2 > 1e-12 * square, square - other**2, 0.0)
        return float(_ratio(both, np.sqrt(own * (varied * area_IJ).sum())))


def change(truth_NOIJ: Floats, prediction_NOIJ: Floats) -> Change:
    """The sums behind the correlation of departures, of a batch of standardised hours.

    Source:
        The anomaly correlation of weather forecasts, with the judged hours' own mean as climate.
    """
    return Change(
        hours=len(truth_NOIJ),
        truth=truth_NOIJ.sum(0),
        prediction=prediction_NOIJ.sum(0),
        truth_square=np.square(truth_NOIJ).sum(0),
        prediction_square=np.square(prediction_NOIJ).sum(0),
        product=(truth_NOIJ * prediction_NOIJ).sum(0),
    )


# --- sign and size ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Size(Sums):
    """Signs where the flux is strong, and magnitudes.

    Attributes:
        strong: (O) share of the area where the truth is at least as large as the scale.
        right: (O) share of the area where it is, and the prediction has its sign.
        truth, prediction: (O) area means of magnitudes.
    """

    strong: Floats
    right: Floats
    truth: Floats
    prediction: Floats

    @property
    def sign_right(self) -> float:
        """Share of the strong fluxes of all channels whose sign is right; NaN where none is strong."""
        return float(_ratio(self.right.sum(), self.strong.sum()))

    def magnitude_ratio(self, scale_O: Floats) -> float:
        """Mean magnitude of predictions over that of the truth, channels weighed by their scale."""
        return float(_ratio((self.prediction / scale_O).sum(), (self.truth / scale_O).sum()))


def size(truth_NOIJ: Array, prediction_NOIJ: Array, area_IJ: Floats, scale_O: Floats) -> Size:
    """The sums behind signs and magnitudes of a batch of hours.

    Args:
        truth_NOIJ: Pa.
        prediction_NOIJ: Pa.
        area_IJ: shares of the sphere.
        scale_O: Pa; from this magnitude on a flux is strong.

    Source:
        Ours.
    """
    count, channels = truth_NOIJ.shape[:2]
    weight = area_IJ.ravel()
    truth, prediction = (one.reshape(count, channels, -1) for one in (truth_NOIJ, prediction_NOIJ))
    strong = np.abs(truth) >= scale_O[:, None]
    return Size(
        hours=count,
        strong=(strong @ weight).sum(0),
        right=((strong & (np.sign(prediction) == np.sign(truth))) @ weight).sum(0),
        truth=(np.abs(truth) @ weight).sum(0),
        prediction=(np.abs(prediction) @ weight).sum(0),
    )


# --- histograms ------------------------------------------------------------------------------------------------------

SIDE = np.geomspace(0.01, 30.0, 36)
"""Positive edges of bins, in units of a channel's root mean square over the hours of training."""

EDGES = np.concatenate([-SIDE[::-1], SIDE])
"""(B - 1) all inner edges: symmetric, one bin around zero, the first and the last bin without end. Fluxes have long
tails: equal bins would put nearly all of them into one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram(Sums):
    """Shares of area in the bins of `EDGES`.

    Attributes:
        truth, prediction: (O, B), added over hours; NaN lies in the last bin.
    """

    truth: Floats
    prediction: Floats

    @property
    def hellinger(self) -> Floats:
        """(O) Hellinger distance of truth and prediction, 0 (alike) to 1 (nothing in common).

        H = sqrt(1 - sum sqrt(p q)) is computed as sqrt(sum (sqrt p - sqrt q)^2 / 2), which is the same for shares that
        sum to one and is exactly 0 for equal ones.
        """
        p, q = (one / one.sum(-1, keepdims=True) for one in (self.truth, self.prediction))
        return np.asarray(np.sqrt(np.square(np.sqrt(p) - np.sqrt(q)).sum(-1) / 2))


def histogram(truth_NOIJ: Array, prediction_NOIJ: Array, area_IJ: Floats, scale_O: Floats) -> Histogram:
    """Shares of area by flux of a batch of hours.

    Args:
        truth_NOIJ: Pa.
        prediction_NOIJ: Pa.
        area_IJ: shares of the sphere.
        scale_O: Pa; root mean square of each channel over the hours of training.

    Source:
        The distance is Hellinger's (1909); bins are ours: the published repository has no such measure.
    """
    return Histogram(
        hours=len(truth_NOIJ),
        truth=_counted(truth_NOIJ, area_IJ, scale_O),
        prediction=_counted(prediction_NOIJ, area_IJ, scale_O),
    )


def _counted(flux_NOIJ: Array, area_IJ: Floats, scale_O: Floats) -> Floats:
    """(O, B) shares of area."""
    channels, bins = len(scale_O), len(EDGES) + 1
    first = np.arange(channels)[:, None] * bins
    weight = np.broadcast_to(area_IJ.ravel(), (channels, area_IJ.size)).ravel()
    total = np.zeros(channels * bins)
    for hour in flux_NOIJ:
        place = np.searchsorted(EDGES, (hour / scale_O[:, None, None]).ravel(), side="right")
        total += np.bincount((place.reshape(channels, -1) + first).ravel(), weight, channels * bins)
    return total.reshape(channels, bins)


# --- spectra ---------------------------------------------------------------------------------------------------------

BANDS: tuple[tuple[str, float, float], ...] = (
    ("90-60 S", -90.0, -60.0),
    ("60-20 S", -60.0, -20.0),
    ("20 S-20 N", -20.0, 20.0),
    ("20-60 N", 20.0, 60.0),
    ("60-90 N", 60.0, 90.0),
)
"""Bands of latitude: name, from, to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectra(Sums):
    """Power by zonal wavenumber, in bands of latitude.

    Attributes:
        truth, prediction, error: (Z, O, W) area means of power, added over hours. Over all wavenumbers they sum to
            the mean square along the circles.
    """

    truth: Floats
    prediction: Floats
    error: Floats

    def short_power_ratio(self) -> float:
        """Power of predictions over that of the truth in the upper half of the wavenumbers, all bands and channels.

        Channels are weighed by the inverse of their true power, or the strongest level would be all that counts.
        """
        short = slice(self.truth.shape[-1] // 2, None)
        truth, prediction = (one[..., short].sum((0, 2)) for one in (self.truth, self.prediction))
        known = truth > 0
        return float(np.mean(prediction[known] / truth[known])) if known.any() else float("nan")


def band_weights(grid: Grid) -> Floats:
    """(Z, I): how much each row counts in each band of `BANDS`: its share of the band's area.

    Source:
        Ours.
    """
    bounds = np.sort(np.stack([grid.sines[:-1], grid.sines[1:]]), 0)
    rows = []
    for _, south, north in BANDS:
        low, high = np.sin(np.radians([south, north]))
        rows.append(np.clip(np.minimum(bounds[1], high) - np.maximum(bounds[0], low), 0, None))
    weight = np.stack(rows)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def spectra(truth_NOIJ: Array, prediction_NOIJ: Array, bands_ZI: Floats) -> Spectra:
    """Power by zonal wavenumber of a batch of hours.

    Args:
        truth_NOIJ: Pa, on whole circles.
        prediction_NOIJ: Pa.
        bands_ZI: from `band_weights`.

    Returns:
        One-sided power |c_m|^2 of the Fourier coefficients c_m = sum_j F_j exp(-2 pi i m j / J) / J, doubled but for
        m = 0 and, of an even J, m = J/2 (Parseval).

    Source:
        Textbook: Parseval's theorem for real series.
    """
    columns = truth_NOIJ.shape[-1]
    both = np.full(columns // 2 + 1, 2.0)
    both[0] = 1.0
    if columns % 2 == 0:
        both[-1] = 1.0
    shape = (len(bands_ZI), truth_NOIJ.shape[1], columns // 2 + 1)
    found = {name: np.zeros(shape) for name in ("truth", "prediction", "error")}
    for truth, prediction in zip(truth_NOIJ, prediction_NOIJ, strict=True):
        waves = {
            "truth": np.fft.rfft(np.asarray(truth, np.float64), axis=-1) / columns,
            "prediction": np.fft.rfft(np.asarray(prediction, np.float64), axis=-1) / columns,
        }
        waves["error"] = waves["prediction"] - waves["truth"]
        for name, wave_OIW in waves.items():
            power = (np.square(wave_OIW.real) + np.square(wave_OIW.imag)) * both
            found[name] += np.tensordot(bands_ZI, power, (1, 1))
    return Spectra(hours=len(truth_NOIJ), **found)


# --- regions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Region:
    """A box of cells of the 64 x 128 Gaussian grid, south first, columns from 0 degrees.

    Attributes:
        name: in metrics.
        title: for a person.
        rows: first row and the row after the last.
        columns: first column and the column after the last.
    """

    name: str
    title: str
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """South, north, west and east: the outer bounds of the cells, in degrees; west may be below 0."""
        grid = gaussian_grid(64, 128)
        south, north = (float(grid.latitude_bounds[row]) for row in self.rows)
        west, east = (float(grid.longitude_bounds[column]) for column in self.columns)
        return south, north, west, east


REGIONS = (
    Region(name="andes", title="the Andes", rows=(3, 21), columns=(96, 113)),
    Region(name="scandinavia", title="Scandinavia", rows=(45, 58), columns=(0, 12)),
    Region(name="himalaya", title="the Himalaya", rows=(41, 54), columns=(26, 44)),
    Region(name="newfoundland", title="Newfoundland", rows=(47, 58), columns=(103, 119)),
    Region(name="southern_ocean", title="the Southern Ocean", rows=(8, 17), columns=(10, 25)),
    Region(name="southeast_asia", title="Southeast Asia", rows=(33, 42), columns=(32, 49)),
    Region(name="north_atlantic", title="the North Atlantic", rows=(31, 44), columns=(112, 124)),
    Region(name="north_pacific", title="the North Pacific", rows=(27, 47), columns=(67, 87)),
)
"""The regions of amangupta2/nonlocal_gwfluxes, ann_cnn_training/dataloader_definition.py (class Dataset_ANN_CNN)."""


def region_weights(grid: Grid) -> Floats:
    """(R, I, J): how much each cell counts in each region: its share of the region's area.

    A cell that lies partly within counts with that part, so every global grid has every region; on the 64 x 128
    Gaussian grid they are the published boxes, cell by cell.

    Raises:
        ValueError: the grid is no whole sphere.

    Source:
        Ours.
    """
    if not grid.periodic:
        raise ValueError(f"regions need a whole sphere, got a {grid.kind} grid of {grid.shape}; use a global grid.")
    bounds = np.sort(np.stack([grid.sines[:-1], grid.sines[1:]]), 0)
    left, right = grid.longitude_bounds[:-1], grid.longitude_bounds[1:]
    found = []
    for region in REGIONS:
        south, north, west, east = region.box
        low, high = np.sin(np.radians([south, north]))
        row = np.clip(np.minimum(bounds[1], high) - np.maximum(bounds[0], low), 0, None)
        column = np.zeros(len(left))
        for turn in (-720.0, -360.0, 0.0, 360.0, 720.0):  # the box and the columns may start anywhere on the circle
            column += np.clip(np.minimum(right, east + turn) - np.maximum(left, west + turn), 0, None)
        # bounds that agree to rounding leave slivers of neighbours
        row, column = np.where(row > 1e-12, row, 0.0), np.where(column > 1e-9, column, 0.0)
        weight = row[:, None] * column[None, :]
        found.append(weight / weight.sum())
    return np.stack(found)


def weighted_means(flux_NOIJ: Array, weights_RIJ: Floats) -> Floats:
    """(N, O, R) means over regions, in the unit of the flux."""
    count, channels = flux_NOIJ.shape[:2]
    flat = np.asarray(flux_NOIJ, np.float64).reshape(count, channels, -1)
    return np.asarray(flat @ weights_RIJ.reshape(len(weights_RIJ), -1).T)


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionalSeries:
    """Regional means hour by hour; two of them add to one in the order of time.

    Attributes:
        time: (N) datetime64.
        truth, prediction: (N, O, R) Pa.
    """

    time: NDArray[np.datetime64]
    truth: Floats
    prediction: Floats

    def __add__(self, other: "RegionalSeries") -> "RegionalSeries":
        return RegionalSeries.joined([self, other])

    @classmethod
    def joined(cls, series: Sequence["RegionalSeries"]) -> "RegionalSeries":
        """Many in one, each copied once; adding them one by one copies the first as often as there are others."""
        time = np.concatenate([one.time for one in series])
        order = np.argsort(time, kind="stable")
        return cls(
            time=time[order],
            truth=np.concatenate([one.truth for one in series])[order],
            prediction=np.concatenate([one.prediction for one in series])[order],
        )

    @property
    def none(self) -> "RegionalSeries":
        """The same without any hour."""
        return RegionalSeries(time=self.time[:0], truth=self.truth[:0], prediction=self.prediction[:0])

    @property
    def correlation(self) -> Floats:
        """(O, R) of the two series; NaN where one is constant, or there are fewer than two hours."""
        a, b = (one - one.mean(0) for one in (self.truth, self.prediction))
        return _ratio((a * b).sum(0), np.sqrt(np.square(a).sum(0) * np.square(b).sum(0)))


def regional(
    time_N: NDArray[np.datetime64], truth_NOIJ: Array, prediction_NOIJ: Array, weights_RIJ: Floats
) -> RegionalSeries:
    """Regional means of a batch of hours.

    Args:
        time_N: when.
        truth_NOIJ: Pa.
        prediction_NOIJ: Pa.
        weights_RIJ: from `region_weights`.

    Source:
        Ours; the regions are the published ones.
    """
    return RegionalSeries(
        time=time_N,
        truth=weighted_means(truth_NOIJ, weights_RIJ),
        prediction=weighted_means(prediction_NOIJ, weights_RIJ),
    )


# --- drag ------------------------------------------------------------------------------------------------------------


def layer_force(flux_NOIJ: Array) -> Floats:
    """(N, 2 (L - 1), I, J): force on the air between two levels, in Pa: what enters below less what leaves above.

    Waves that carry F = rho u'w' upward leave du/dt = -(1/rho) dF/dz = g dF/dp behind. Over a layer of the mass dp/g
    that is F_lower - F_upper, exactly.

    Source:
        Textbook, Fritts and Alexander 2003, section 5. A flux that is written as u'omega' = -g F has the other sign.
    """
    split = _by_level(flux_NOIJ)
    force = split[:, :, 1:] - split[:, :, :-1]
    return force.reshape(len(force), -1, *flux_NOIJ.shape[2:])


def acceleration(flux_NOIJ: Array, pressure_L: Floats) -> Floats:
    """(N, 2 (L - 1), I, J): g dF/dp between two levels, m/s a day.

    Args:
        flux_NOIJ: Pa.
        pressure_L: of the levels, Pa, rising.

    Source:
        See `layer_force`.
    """
    thickness = np.tile(np.diff(pressure_L), 2)
    return np.asarray(layer_force(flux_NOIJ) * (GRAVITY * DAY / thickness)[:, None, None])


def column_drag(flux_NOIJ: Array) -> Floats:
    """(N, 2, I, J): force on the whole column, in Pa: g dF/dp integrated over dp/g, which is F_bottom - F_top.

    The forces on all layers sum to it, whatever the levels: the sum is taken in closed form, so nothing is lost.

    Source:
        See `layer_force`.
    """
    split = _by_level(flux_NOIJ)
    return np.asarray(split[:, :, -1] - split[:, :, 0])


def _by_level(flux_NOIJ: Array) -> Floats:
    """(N, 2, L, I, J) in double precision."""
    count, channels, *cells = flux_NOIJ.shape
    return np.asarray(flux_NOIJ, np.float64).reshape(count, 2, channels // 2, *cells)


# --- all of it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores(Sums):
    """All that is known of a network's predictions.

    Attributes:
        agreement: of standardised fluxes.
        change: of standardised fluxes.
        size, histogram, spectra: of fluxes in Pa.
        drag: of the force on whole columns, two channels, Pa.
        speedup: of the acceleration of layers, 2 (L - 1) channels, m/s a day.
        regions: series in Pa.
    """

    agreement: Agreement
    change: Change
    size: Size
    histogram: Histogram
    spectra: Spectra
    drag: Agreement
    speedup: Agreement
    regions: RegionalSeries


@dataclass(frozen=True, kw_only=True, eq=False)
class Yardstick:
    """What predictions on a lattice are measured by.

    Attributes:
        grid: the lattice, a whole sphere.
        pressure: (L) Pa, top first.
        mean, deviation: (O) Pa, of the hours of training.
    """

    grid: Grid
    pressure: Floats
    mean: Floats
    deviation: Floats

    @cached_property
    def area(self) -> Floats:
        """(I, J) shares of the sphere."""
        return self.grid.area_weights

    @cached_property
    def bands(self) -> Floats:
        """(Z, I); see `band_weights`."""
        return band_weights(self.grid)

    @cached_property
    def regions(self) -> Floats:
        """(R, I, J); see `region_weights`."""
        return region_weights(self.grid)

    @cached_property
    def scale(self) -> Floats:
        """(O) Pa: root mean square of each channel over the hours of training."""
        return np.hypot(self.mean, self.deviation)

    def errors(self, truth_NOIJ: Array, prediction_NOIJ: Array) -> Agreement:
        """Errors and correlations of standardised fluxes alone."""
        return agreement(self._standard(truth_NOIJ), self._standard(prediction_NOIJ), self.area)

    def squared_errors(self, truth_NOIJ: Array, prediction_NOIJ: Array) -> Floats:
        """(N) area-weighted mean squared error of standardised fluxes, hour by hour, over all channels."""
        error = (np.asarray(prediction_NOIJ, np.float64) - truth_NOIJ) / self.deviation[:, None, None]
        return np.asarray((np.square(error).mean(1) * self.area).sum((1, 2)))

    def __call__(self, time_N: NDArray[np.datetime64], truth_NOIJ: Array, prediction_NOIJ: Array) -> Scores:
        """The scores of a batch of hours, fluxes in Pa."""
        truth, prediction = truth_NOIJ, prediction_NOIJ
        standard_truth, standard_prediction = self._standard(truth), self._standard(prediction)
        speedup = acceleration(truth, self.pressure), acceleration(prediction, self.pressure)
        return Scores(
            hours=len(truth),
            agreement=agreement(standard_truth, standard_prediction, self.area),
            change=change(standard_truth, standard_prediction),
            size=size(truth, prediction, self.area, self.scale),
            histogram=histogram(truth, prediction, self.area, self.scale),
            spectra=spectra(truth, prediction, self.bands),
            drag=agreement(column_drag(truth), column_drag(prediction), self.area),
            speedup=agreement(speedup[0], speedup[1], self.area),
            regions=regional(time_N, truth, prediction, self.regions),
        )

    def _standard(self, flux_NOIJ: Array) -> Floats:
        return standardised(flux_NOIJ, self.mean, self.deviation)


# --- intervals -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and what chance allows.

    Attributes:
        value: of all hours.
        low, high: ends of the interval; infinite with fewer than two blocks.
        blocks: how many pieces of time it rests on.
    """

    value: float
    low: float
    high: float
    blocks: int


def ratio_interval(above_N: Floats, below_N: Floats, block_N: NDArray[np.int64], *, confidence: float) -> Interval:
    """A ratio of two sums over hours, with its interval over blocks of time.

    Hours close in time are alike, so blocks are left out one at a time, whole. Student's t with one degree of freedom
    less than there are blocks keeps the interval honest when there are few.

    Args:
        above_N: an hour's part of the numerator; paired with the denominator hour by hour.
        below_N: of the denominator, positive.
        block_N: to which block each hour belongs.
        confidence: 0.95 for a 95 % interval.

    Source:
        The delete-a-group jackknife, Quenouille 1956 and Miller 1974, "The jackknife: a review".
    """
    _, block = np.unique(block_N, return_inverse=True)
    above, below = np.bincount(block, above_N), np.bincount(block, below_N)
    count = len(above)
    value = float(above.sum() / below.sum())
    if count < 2:
        return Interval(value=value, low=-np.inf, high=np.inf, blocks=count)
    without = (above.sum() - above) / (below.sum() - below)
    error = float(np.sqrt((count - 1) / count * np.square(without - without.mean()).sum()))
    reach = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    return Interval(value=value, low=value - reach, high=value + reach, blocks=count)


MONTHS = 4
"""From how many calendar months on they are the blocks of intervals."""

WINDOW = 10
"""Days of a block where there are fewer months. Weather that keeps 0.6 of itself from day to day is covered by 95 %
intervals over two months 93 times in 100, one that keeps 0.8 only 82 times; windows of 5 days cover it 76 times."""


def blocks_of(time_N: NDArray[np.datetime64]) -> tuple[NDArray[np.int64], str]:
    """Blocks of time for intervals: calendar months, or windows of days where there are few months.

    Args:
        time_N: when.

    Returns:
        A number for every hour, and what blocks are, as a word.

    Source:
        Ours.
    """
    months = time_N.astype("datetime64[M]").astype(np.int64)
    if len(np.unique(months)) >= MONTHS:
        return months, "months"
    days = time_N.astype("datetime64[D]").astype(np.int64)
    return days // WINDOW, f"windows of {WINDOW} days"
