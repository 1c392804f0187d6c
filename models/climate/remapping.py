"""Conservative remapping between grids of latitudes and longitudes: from cells to cells, or the exact mean of a field.

The area that a cell of one such grid shares with a cell of another is a product, (overlap of sines of latitude) times
(overlap of longitude), so that the remap of a field f is two small steps,

    g = A f B^T,    A (T, I): shares of target row t in source row i,    B (C, J): the same for columns,

each with some ten entries a row where the matrix of all pairs of cells has a million.

- `Conservative` takes a value as the mean of its cell, as first-order conservative regridding does: the area integral
  is kept to rounding, maxima stay maxima, and missing values can be left out. Where a target edge cuts a source cell,
  its two parts get the same value: single means of a wave of degree 22 on 0.25 degrees are 1e-3 off.
- `SpectralMeans` takes values as samples of the smooth field that the grid resolves and integrates that exactly over
  every target cell, through the Fourier series around circles of latitude and along whole meridians. The integral that
  it keeps is the one of the quadrature on the source grid. It overshoots where the field has jumps.

Both accumulate in double precision and take rows in either order, longitudes from any first one.

Shapes: N fields, I x J source, T x C target.

Source:
    First-order conservative remapping: P. W. Jones, Mon. Wea. Rev. 127 (1999) 2204, separable for these grids as in
    weatherbench2. Fourier series on meridians: S. A. Orszag, Mon. Wea. Rev. 102 (1974) 56. Means from them are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from models.climate.geometry import Grid
from models.common.errors import InputError

Floats = NDArray[np.float64]
Array = NDArray[Any]

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")
vectorised: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})

GAP = 1e-9
"""Share of a target cell that may lie outside the source: rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """How the intervals of one axis are made of those of another: neighbours `first`..`first + count - 1` and shares.

    Attributes:
        first: (T,) index of the first source interval.
        count: (T,) how many.
        share: (T, W) of the target interval that each covers; zeros behind the last.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    share: Floats

    def dense(self, size: int) -> Floats:
        """The matrix (T, `size`) of shares; indices beyond the size start again at 0."""
        matrix = np.zeros((len(self.first), size))
        for row, (first, count) in enumerate(zip(self.first.tolist(), self.count.tolist(), strict=True)):
            np.add.at(matrix[row], np.arange(first, first + count) % size, self.share[row, :count])
        return matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class Conservative:
    """First-order conservative remap.

    Attributes:
        source: grid of the fields; covers the target, around the whole circle.
        target: grid of the result.
        latitude_bounds: (I + 1,) bounds of the source's rows in place of its own, as a published regridder was given
            them; a bound beyond a pole is folded back over it, so that the row between loses that area. Empty: its own.

    Raises:
        InputError: the source is no whole circle, does not cover a target row, or the bounds have another length.

    Source:
        See the module.
    """

    source: Grid
    target: Grid
    latitude_bounds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a target that the source does not cover."""
        if not self.source.periodic:
            raise InputError(
                f"conservative remapping needs a whole circle of longitudes, got {self.source.longitudes[0]:g} to "
                f"{self.source.longitudes[-1]:g}; give files of whole circles."
            )
        if self.latitude_bounds and len(self.latitude_bounds) != self.source.shape[0] + 1:
            raise InputError(f"{len(self.latitude_bounds)} bounds do not enclose {self.source.shape[0]} latitudes.")
        if not self.latitude_bounds and (missing := np.abs(self.rows.share.sum(axis=1) - 1)).max() > GAP:
            at = int(missing.argmax())
            raise InputError(
                f"latitudes {self.source.latitudes[0]:g} to {self.source.latitudes[-1]:g} leave {missing[at]:.1%} of "
                f"the target row at {self.target.latitudes[at]:g} uncovered; give files from pole to pole."
            )

    @cached_property
    def rows(self) -> Overlap:
        """Of target latitudes in source latitudes, by area."""
        bounds = np.asarray(self.latitude_bounds) if self.latitude_bounds else self.source.latitude_bounds
        folded = np.where(np.abs(bounds) > 90.0, np.copysign(180.0, bounds) - bounds, bounds)
        return _row_overlap(folded, self.target.latitude_bounds)

    @cached_property
    def columns(self) -> Overlap:
        """Of target longitudes in source longitudes, around the circle."""
        return _column_overlap(self.source.longitude_bounds, self.target.longitude_bounds)

    def __call__(self, fields: ArrayLike, out: Array | None = None) -> Array:
        """Remap fields (..., I, J) to (..., T, C).

        Args:
            fields: any real dtype; float32 and float64 are read as they are. A missing value spreads to every target
                cell that it touches.
            out: where to put the result, of its dtype; None: a new float64 array.

        Returns:
            `out`.

        Raises:
            InputError: fields are not on the source grid.
        """
        stacked, result = self._arrays(fields, out)
        rows, columns = self.rows, self.columns
        _remap(stacked, rows.first, rows.count, rows.share, columns.first, columns.count, columns.share,
               result.reshape(-1, *self.target.shape))  # fmt: skip
        return result

    def skipping(self, fields: ArrayLike, out: Array | None = None, *, least: float = 0.5) -> Array:
        """Remap fields with missing values (NaN): the mean over what is known of a target cell.

        Args:
            fields: (..., I, J).
            out: as above.
            least: share of a target cell's area that must be known, above 0 and at most 1; NaN where less is.

        Returns:
            `out`; where nothing is missing, the same numbers as without skipping within rounding.

        Raises:
            InputError: fields are not on the source grid, or `least` is not in 0..1.
        """
        if not 0 < least <= 1:
            raise InputError(f"least must be above 0 and at most 1, got {least}.")
        stacked, result = self._arrays(fields, out)
        rows, columns = self.rows, self.columns
        _remap_known(stacked, rows.first, rows.count, rows.share, columns.first, columns.count, columns.share,
                     least - GAP, result.reshape(-1, *self.target.shape))  # fmt: skip
        return result

    def _arrays(self, fields: ArrayLike, out: Array | None) -> tuple[Array, Array]:
        given = np.asarray(fields)
        if given.shape[-2:] != self.source.shape:
            raise InputError(f"fields of {given.shape} are not on the source grid of {self.source.shape}.")
        if given.dtype not in (np.float32, np.float64):
            given = given.astype(np.float64)
        result = np.empty((*given.shape[:-2], *self.target.shape)) if out is None else out
        if not result.flags.c_contiguous or result.shape != (*given.shape[:-2], *self.target.shape):
            raise InputError(f"out of {result.shape} must be contiguous, of {(*given.shape[:-2], *self.target.shape)}.")
        return np.ascontiguousarray(given).reshape(-1, *self.source.shape), result


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralMeans:
    """Exact means, over target cells, of the band-limited field through the source's values.

    Attributes:
        source: kind "point" or "centred".
        target: any global grid with an even number of columns.

    Raises:
        InputError: the source has no equal steps from pole to pole, or the target an odd number of columns.

    Source:
        See the module.
    """

    source: Grid
    target: Grid

    def __post_init__(self) -> None:
        """Refuse grids on which the series do not exist."""
        if self.source.kind not in ("point", "centred") or not self.source.periodic:
            raise InputError(
                f"spectral means need equal steps from pole to pole, got a {self.source.kind} grid of "
                f"{self.source.shape}; remap conservatively."
            )
        if not self.target.periodic or self.target.shape[1] % 2:
            raise InputError(
                f"spectral means need an even number of columns around the circle, got {self.target.shape}."
            )

    def __call__(self, fields: ArrayLike, out: Array | None = None, *, wind: bool = False) -> Array:
        """Remap fields (..., I, J) to (..., T, C).

        Args:
            fields: real values.
            out: where to put the result; None: a new float64 array.
            wind: whether the field is the component of a wind, or a scalar times one: it then changes sign where a
                meridian crosses the pole, because east and north do.

        Returns:
            `out`.

        Raises:
            InputError: fields are not on the source grid.
        """
        given = np.asarray(fields)
        if given.shape[-2:] != self.source.shape:
            raise InputError(f"fields of {given.shape} are not on the source grid of {self.source.shape}.")
        result = np.empty((*given.shape[:-2], *self.target.shape)) if out is None else out
        even, odd = self._meridians[::-1] if wind else self._meridians
        columns = self.target.shape[1]
        size = self.source.shape[1] // 2 + 1
        folded = np.empty((self.source.shape[0], columns), np.complex128)
        means = np.empty(self.target.shape, np.complex128)
        for at in np.ndindex(given.shape[:-2]):
            waves = scipy.fft.rfft(given[at].astype(np.float64, copy=False), axis=-1)
            waves *= self._attenuation
            # Wavenumbers that differ by the number of target columns look alike there; they keep their parity.
            folded[:] = 0
            for start in range(0, size, columns):
                folded[:, : min(columns, size - start)] += waves[:, start : start + columns]
            for parity, onto in enumerate((even, odd)):
                # Real and imaginary parts side by side: a product of real matrices.
                halves = onto @ np.ascontiguousarray(folded[:, parity::2]).view(np.float64)
                means[:, parity::2] = halves.view(np.complex128)
            result[at] = scipy.fft.ifft(means, axis=-1, norm="forward").real
        return result

    @cached_property
    def _attenuation(self) -> NDArray[np.complex128]:
        """(J / 2 + 1,): from a wave's Fourier sum to its mean over the first target cell, both signs of m together."""
        columns = self.source.shape[1]
        m = np.arange(columns // 2 + 1)
        width = np.radians(360.0 / self.target.shape[1])
        shift = np.radians(self.target.longitude_bounds[0] - self.source.longitudes[0]) + width / 2
        both = np.where((m == 0) | (2 * m == columns), 1.0, 2.0) / columns
        return np.asarray(both * np.sinc(m * width / (2 * np.pi)) * np.exp(1j * m * shift))

    @cached_property
    def _meridians(self) -> tuple[Floats, Floats]:
        """(T, I) twice: means over target rows of what is even, and of what is odd, across the poles."""
        rows = self.source.shape[0]
        poles = self.source.kind == "point"
        steps = rows - 1 if poles else rows
        colatitude = np.pi * (np.arange(rows) + (0.0 if poles else 0.5)) / steps
        k = np.arange(steps + 1)
        angles = k[:, None] * colatitude
        # Values to coefficients of the series in cos k and sin k; the first and the last term count half, and so do
        # values on a pole.
        half_k = np.where((k == 0) | (k == steps), 0.5, 1.0)[:, None]
        half_i = np.where(poles & ((np.arange(rows) == 0) | (np.arange(rows) == rows - 1)), 0.5, 1.0)
        cosines, sines = (2 / steps * half_k * half_i * wave(angles) for wave in (np.cos, np.sin))
        bounds = np.radians(90.0 - (self.target if self.target.north_first else self.target.flipped()).latitude_bounds)
        middle, half = (bounds[1:] + bounds[:-1])[:, None] / 2, (bounds[1:] - bounds[:-1])[:, None] / 2

        def integral(wave: Callable[[Floats], Floats], n: NDArray[np.int64]) -> Floats:
            """Of wave(n x) between the bounds, (T, K)."""
            return np.asarray(2 * half * wave(n * middle) * np.sinc(n * half / np.pi))

        area = integral(np.sin, np.array([1]))
        even = (integral(np.sin, k + 1) - integral(np.sin, k - 1)) / 2 / area @ cosines
        odd = (integral(np.cos, k - 1) - integral(np.cos, k + 1)) / 2 / area @ sines
        down = slice(None) if self.source.north_first else slice(None, None, -1)
        out = slice(None) if self.target.north_first else slice(None, None, -1)
        return np.ascontiguousarray(even[out, down]), np.ascontiguousarray(odd[out, down])


def _row_overlap(source: Floats, target: Floats) -> Overlap:
    """Overlap of latitude bands (bounds in degrees, either way) by area."""
    low, high = np.minimum(source[:-1], source[1:]), np.maximum(source[:-1], source[1:])
    low_t, high_t = np.minimum(target[:-1], target[1:])[:, None], np.maximum(target[:-1], target[1:])[:, None]
    return _packed(_band(np.maximum(low, low_t), np.minimum(high, high_t)) / _band(low_t, high_t))


def _band(low: Floats, high: Floats) -> Floats:
    """Difference of sines, without losing digits near the poles; zero where `high` is not above `low`."""
    low, high = np.radians(low), np.radians(np.maximum(low, high))
    return np.asarray(2 * np.cos((low + high) / 2) * np.sin((high - low) / 2))


def _packed(share: Floats) -> Overlap:
    known = share > 0
    first = known.argmax(axis=1)
    count = np.where(known.any(axis=1), share.shape[1] - known[:, ::-1].argmax(axis=1) - first, 0)
    packed = np.zeros((len(share), max(int(count.max()), 1)))
    for row, (at, length) in enumerate(zip(first.tolist(), count.tolist(), strict=True)):
        packed[row, :length] = share[row, at : at + length]
    return Overlap(first=first, count=count, share=packed)


def _column_overlap(source: Floats, target: Floats) -> Overlap:
    """Overlap of longitude intervals of equal steps around the circle; `first` lies in 0..J - 1 and runs on past J."""
    columns = len(source) - 1
    edges = (target - source[0]) * columns / 360.0  # in steps of the source
    whole = np.round(edges)
    edges = np.where(np.abs(edges - whole) < GAP, whole, edges)
    first = np.floor(edges[:-1]).astype(np.int64)
    count = np.ceil(edges[1:]).astype(np.int64) - first
    left = first[:, None] + np.arange(int(count.max()))
    shared = np.minimum(left + 1, edges[1:, None]) - np.maximum(left, edges[:-1, None])
    share = np.clip(shared, 0, None) / np.diff(edges)[:, None]
    return Overlap(first=first % columns, count=count, share=share)


@vectorised
def _remap(
    fields: Array, row_first: Array, row_count: Array, row_share: Array,
    column_first: Array, column_count: Array, column_share: Array, out: Array,
) -> None:  # fmt: skip
    """Target rows one after another: the rows of the source that they touch into one row, then that into cells.

    Every row is read once, those between two target rows twice; the row in between stays in the first-level cache.
    Four source rows a turn, so that it is written a quarter as often.
    """
    columns = fields.shape[2]
    margin = column_count.max()
    line = np.empty(columns + margin, np.float64)
    for n in range(fields.shape[0]):
        for t in range(len(row_first)):
            first, count = row_first[t], row_count[t]
            line[:columns] = 0.0
            done = 0
            while done + 4 <= count:
                a, b = row_share[t, done], row_share[t, done + 1]
                c, d = row_share[t, done + 2], row_share[t, done + 3]
                row_a, row_b = fields[n, first + done], fields[n, first + done + 1]
                row_c, row_d = fields[n, first + done + 2], fields[n, first + done + 3]
                for j in range(columns):
                    line[j] += a * row_a[j] + b * row_b[j] + c * row_c[j] + d * row_d[j]
                done += 4
            while done < count:
                a = row_share[t, done]
                row_a = fields[n, first + done]
                for j in range(columns):
                    line[j] += a * row_a[j]
                done += 1
            for j in range(margin):
                line[columns + j] = line[j % columns]
            for c in range(len(column_first)):
                total = 0.0
                at = column_first[c]
                for k in range(column_count[c]):
                    total += column_share[c, k] * line[at + k]
                out[n, t, c] = total


@compiled
def _remap_known(
    fields: Array, row_first: Array, row_count: Array, row_share: Array,
    column_first: Array, column_count: Array, column_share: Array, least: float, out: Array,
) -> None:  # fmt: skip
    """As `_remap`, with the known area beside the sum."""
    columns = fields.shape[2]
    margin = column_count.max()
    line = np.empty(columns + margin, np.float64)
    known = np.empty(columns + margin, np.float64)
    for n in range(fields.shape[0]):
        for t in range(len(row_first)):
            line[:] = 0.0
            known[:] = 0.0
            for i in range(row_count[t]):
                share = row_share[t, i]
                row = fields[n, row_first[t] + i]
                for j in range(columns):
                    value = np.float64(row[j])
                    here = value == value
                    line[j] += share * value if here else 0.0
                    known[j] += share if here else 0.0
            for j in range(margin):
                line[columns + j] = line[j % columns]
                known[columns + j] = known[j % columns]
            for c in range(len(column_first)):
                total, area = 0.0, 0.0
                at = column_first[c]
                for k in range(column_count[c]):
                    total += column_share[c, k] * line[at + k]
                    area += column_share[c, k] * known[at + k]
                out[n, t, c] = total / area if area >= least else np.nan
