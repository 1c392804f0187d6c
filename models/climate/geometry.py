"""Grids of latitudes and longitudes on the sphere: bounds, areas that sum to the sphere's, and the nearest point.

Three kinds of grid occur in the archives, and their areas differ where it matters, at the poles and at the seam:

    point      latitudes from pole to pole with both poles as points (ERA5 721 x 1440, MERRA-2 361 x 576). A pole is a
               point of the grid but half a cell in latitude: its cell ends at the pole.
    centred    latitudes at the centres of equal bands, no row on a pole (360 x 576).
    gaussian   latitudes at the roots of the Legendre polynomial P_I. Bounds lie where the cumulated Gaussian weights
               lie, so that areas are the quadrature's own weights.

and `regional` for whatever part of the sphere. Latitudes may run either way, longitudes start anywhere, and a whole
circle is recognised whatever its seam (0..359.7, -180..179.375, -180.3125 as an edge).

Shapes: I latitudes, J longitudes, N points. Degrees throughout; areas are shares of the sphere, in double precision.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.common.errors import InputError

Kind = Literal["point", "centred", "gaussian", "regional"]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

GLOBAL: tuple[Kind, ...] = ("point", "centred", "gaussian")

EARTH_RADIUS = 6.37122e6
"""Metres; the sphere of NCAR's harmonic transforms, which the windspharm references were made with."""

ROUNDING = 5e-4
"""Degrees by which coordinates of a file may differ from the grid that they mean: float32 at 360 has 3e-5, packed or
decimal coordinates more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """A grid of latitudes and longitudes; make it with `regular_grid`, `gaussian_grid` or `grid_of`.

    Attributes:
        kind: see the module; what quadrature the latitudes allow.
        latitudes: (I,), strictly monotone, either way.
        longitudes: (J,), strictly rising, in steps of one size; the span is below a full circle.
        latitude_bounds: (I + 1,), in the order of the latitudes, never beyond a pole.
        longitude_bounds: (J + 1,), rising; the last is the first plus 360 where the grid is a whole circle.
    """

    kind: Kind
    latitudes: Floats
    longitudes: Floats
    latitude_bounds: Floats
    longitude_bounds: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """(I, J)."""
        return len(self.latitudes), len(self.longitudes)

    @property
    def north_first(self) -> bool:
        """Whether the first row is the northernmost."""
        return bool(self.latitudes[0] > self.latitudes[-1])

    @cached_property
    def periodic(self) -> bool:
        """Whether the longitudes are a whole circle, so that the last is a neighbour of the first."""
        return bool(abs(self.longitude_bounds[-1] - self.longitude_bounds[0] - 360.0) < ROUNDING)

    @cached_property
    def sines(self) -> Floats:
        """(I + 1,): sine of the latitude bounds; exactly +-1 at the poles."""
        return np.sin(np.radians(self.latitude_bounds))

    @cached_property
    def row_weights(self) -> Floats:
        """(I,): share of the sphere that a whole circle of cells of this row would have; a global grid's sum to one.

        The area between two latitudes is 2 pi (sin b - sin a). The difference is taken as 2 cos(mid) sin(half), which
        keeps all digits where the bounds lie close together and near the pole, where both sines are almost one.
        """
        upper, lower = np.radians(self.latitude_bounds[:-1]), np.radians(self.latitude_bounds[1:])
        return np.asarray(np.abs(np.cos((upper + lower) / 2) * np.sin((upper - lower) / 2)))

    @cached_property
    def column_weights(self) -> Floats:
        """(J,): share of the circle of every column."""
        return np.diff(self.longitude_bounds) / 360.0

    @cached_property
    def area_weights(self) -> Floats:
        """(I, J): share of the sphere of every cell, in double precision; a global grid's sum to one within 1e-15."""
        return self.row_weights[:, None] * self.column_weights[None, :]

    def mean(self, field: ArrayLike) -> Floats:
        """Area mean over the last two axes (..., I, J), accumulated in double precision; NaN where a value is NaN."""
        rows = np.asarray(field).mean(axis=-1, dtype=np.float64)  # columns are equally wide
        return np.asarray(rows @ (self.row_weights / self.row_weights.sum()))

    def nearest(self, latitude: ArrayLike, longitude: ArrayLike, *, wrap: bool = True) -> tuple[Indices, Indices]:
        """The grid point nearest in degrees to each place: row and column.

        Latitude and longitude are rounded one by one, as on a map of equal degrees. Half-way, the lower index is
        taken. A place beyond the last row or, on a grid that is no whole circle, the last column gets that last one.

        Args:
            latitude: (N,), within -90..90.
            longitude: (N,), any multiple of the circle.
            wrap: False measures longitude along the line instead of around the circle, as a search for the smallest
                absolute difference does: 179.99 is then far from -180.

        Returns:
            Rows (N,) and columns (N,).

        Raises:
            InputError: a latitude is outside -90..90, or a place is not a finite number.

        Source:
            Ours.
        """
        lat, lon = np.broadcast_arrays(np.asarray(latitude, np.float64), np.asarray(longitude, np.float64))
        wrong = ~((np.abs(lat) <= 90) & np.isfinite(lon))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(
                f"place {at} lies at latitude {lat.flat[at]}, longitude {lon.flat[at]}; drop places outside -90..90 or "
                "without a position first."
            )
        rows, columns = np.arange(len(self.latitudes)), np.arange(len(self.longitudes))
        order = slice(None, None, -1) if self.north_first else slice(None)
        row = _nearest(self.latitudes[order], lat, rows[order])
        if not wrap:
            return row, _nearest(self.longitudes, lon, columns)
        # Once around from the first column; the first stands again at the end, so the seam is like any other gap.
        first = self.longitudes[0]
        around = np.where((lon >= first) & (lon < first + 360.0), lon, first + np.mod(lon - first, 360.0))
        return row, _nearest(np.append(self.longitudes, first + 360.0), around, np.append(columns, 0))

    def southward(self) -> "Grid":
        """The same grid with its first row in the north."""
        return self if self.north_first else self.flipped()

    def flipped(self) -> "Grid":
        """The same grid with its rows in the other order."""
        return Grid(
            kind=self.kind,
            latitudes=self.latitudes[::-1],
            longitudes=self.longitudes,
            latitude_bounds=self.latitude_bounds[::-1],
            longitude_bounds=self.longitude_bounds,
        )


def regular_grid(
    rows: int, columns: int, *, north_first: bool = True, first_longitude: float = 0.0, poles: bool = True
) -> Grid:
    """A global grid of equal steps.

    Args:
        rows: latitudes, 2 or more.
        columns: longitudes, 1 or more, in steps of 360 / columns.
        north_first: order of the latitudes.
        first_longitude: degrees east of the first column.
        poles: True puts a row on each pole (kind "point"), False the centres of equal bands (kind "centred").

    Returns:
        The grid; both ends of its latitude bounds are the poles.

    Raises:
        InputError: there are too few rows or columns.

    Source:
        Ours.
    """
    if rows < 2 or columns < 1:
        raise InputError(f"a global grid needs 2 rows and 1 column at least, got {rows} x {columns}.")
    if poles:
        # Whole numbers of the step first: the equator and the poles come out exact.
        latitudes = (np.arange(rows) * 2 - (rows - 1)) * 90.0 / (rows - 1)
    else:
        latitudes = (np.arange(rows) * 2 - (rows - 1)) * 90.0 / rows
    bounds = np.concatenate([[-90.0], (latitudes[1:] + latitudes[:-1]) / 2, [90.0]])
    grid = Grid(
        kind="point" if poles else "centred",
        latitudes=latitudes,
        longitudes=first_longitude + np.arange(columns) * 360.0 / columns,
        latitude_bounds=bounds,
        longitude_bounds=_circle(columns, first_longitude),
    )
    return grid.flipped() if north_first else grid


def gaussian_grid(rows: int, columns: int, *, north_first: bool = False, first_longitude: float = 0.0) -> Grid:
    """The full Gaussian grid: 64 x 128 is that of T42.

    Args:
        rows: latitudes, 1 or more.
        columns: longitudes.
        north_first: order of the latitudes; False as in the files of T42 fluxes.
        first_longitude: degrees east of the first column.

    Returns:
        The grid; the sine of latitude bound i is -1 plus the sum of the first i Gaussian weights, so that
        `row_weights` are the Gaussian weights over two.

    Raises:
        InputError: there are too few rows or columns.

    Source:
        Gauss-Legendre quadrature; bounds as in the weatherbench2 and ESMF remapping of Gaussian grids.
    """
    if rows < 1 or columns < 1:
        raise InputError(f"a Gaussian grid needs 1 row and 1 column at least, got {rows} x {columns}.")
    sines, weights = np.polynomial.legendre.leggauss(rows)
    # From both ends, so that the bounds mirror each other and the equator of an even count is exactly zero.
    half = np.cumsum(weights)[: rows // 2] - 1.0
    edges = np.concatenate([[-1.0], half, -half[::-1] if rows % 2 else -half[-2::-1], [1.0]])
    if rows % 2 == 0:
        edges[rows // 2] = 0.0
    grid = Grid(
        kind="gaussian",
        latitudes=np.degrees(np.arcsin(sines)),
        longitudes=first_longitude + np.arange(columns) * 360.0 / columns,
        latitude_bounds=np.degrees(np.arcsin(edges)),
        longitude_bounds=_circle(columns, first_longitude),
    )
    return grid.flipped() if north_first else grid


def grid_of(latitudes: ArrayLike, longitudes: ArrayLike, *, name: str = "grid") -> Grid:
    """Recognise the grid of a file by its coordinates.

    Coordinates that a global grid explains within `ROUNDING` become that grid's exact ones: files hold them in
    float32 or decimals. Anything else that is monotone becomes a regional grid, bounds half-way between points.

    Args:
        latitudes: (I,), degrees north, monotone.
        longitudes: (J,), degrees east, rising, in equal steps.
        name: what the error message calls it, a file or a variable.

    Returns:
        The grid, in the file's order.

    Raises:
        InputError: coordinates are not one-dimensional, not finite, not monotone, beyond a pole, or longitudes do not
            rise in equal steps within one circle.

    Source:
        Ours.
    """
    lat, lon = np.asarray(latitudes, np.float64), np.asarray(longitudes, np.float64)
    _examine(lat, lon, name)
    rows, columns = len(lat), len(lon)
    step = float(lon[-1] - lon[0]) / (columns - 1) if columns > 1 else 360.0
    first = float(np.round(lon[0], 4)) if abs(np.round(lon[0], 4) - lon[0]) < 2e-5 else float(lon[0])
    whole = bool(np.abs(first + np.arange(columns) * 360.0 / columns - lon).max() < ROUNDING)
    if whole and rows > 1:
        for kind in GLOBAL:
            grid = global_grid(kind, rows, columns, north_first=bool(lat[0] > lat[-1]), first_longitude=first)
            if np.abs(grid.latitudes - lat).max() < ROUNDING:
                return grid
    # A single row is as high as it is wide.
    if rows > 1:
        ends = (1.5 * lat[0] - 0.5 * lat[1], 1.5 * lat[-1] - 0.5 * lat[-2])
    else:
        ends = (lat[0] - step / 2, lat[0] + step / 2)
    return Grid(
        kind="regional",
        latitudes=lat,
        longitudes=first + np.arange(columns) * 360.0 / columns if whole else lon,
        latitude_bounds=np.clip(np.concatenate([ends[:1], (lat[1:] + lat[:-1]) / 2, ends[1:]]), -90.0, 90.0),
        longitude_bounds=_circle(columns, first) if whole else lon[0] + (np.arange(columns + 1) - 0.5) * step,
    )


def global_grid(kind: Kind, rows: int, columns: int, *, north_first: bool = True, first_longitude: float = 0.0) -> Grid:
    """The grid of a kind in `GLOBAL`; see `regular_grid` and `gaussian_grid`.

    Raises:
        InputError: the kind is "regional", or there are too few rows or columns.
    """
    if kind not in GLOBAL:
        raise InputError(f"a grid of kind {kind!r} is not given by its size; use grid_of with its coordinates.")
    if kind == "gaussian":
        return gaussian_grid(rows, columns, north_first=north_first, first_longitude=first_longitude)
    poles = kind == "point"
    return regular_grid(rows, columns, north_first=north_first, first_longitude=first_longitude, poles=poles)


def _examine(lat: Floats, lon: Floats, name: str) -> None:
    for what, values, limit in (("latitude", lat, 90.0), ("longitude", lon, 720.0)):
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise InputError(f"{name}: {what} has shape {values.shape} or values that are no number; give a list.")
        if np.abs(values).max() > limit + 1e-6:
            raise InputError(f"{name}: {what} {values[np.abs(values).argmax()]} is beyond {limit:g} degrees.")
    turns = np.sign(np.diff(lat))
    if len(lat) > 1 and (turns[0] == 0 or (turns != turns[0]).any()):
        at = int(np.argmax(turns != turns[0])) if turns[0] else 0
        raise InputError(f"{name}: latitude does not run one way at row {at + 1} ({lat[at]}, {lat[at + 1]}); sort it.")
    steps = np.diff(lon)
    if len(lon) > 1 and (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        raise InputError(
            f"{name}: longitude falls at column {at + 1} ({lon[at]}, {lon[at + 1]}); roll it so that it rises."
        )
    if len(lon) > 1 and (np.abs(steps - steps.mean()).max() > ROUNDING or lon[-1] - lon[0] >= 360.0 - ROUNDING):
        raise InputError(
            f"{name}: longitudes from {lon[0]} to {lon[-1]} do not rise in equal steps below one circle; interpolate "
            "to equal steps, or drop the repeated column."
        )


def _circle(columns: int, first: float) -> Floats:
    """(J + 1,) bounds half-way between equal steps, whole numbers of the half step."""
    return np.asarray(first + (np.arange(columns + 1) * 2 - 1) * 180.0 / columns)


def _nearest(points: Floats, values: Floats, labels: Indices) -> Indices:
    """Label of the nearest of rising `points`; half-way the lower label."""
    if len(points) == 1:
        return np.full(values.shape, labels[0])
    right = np.clip(np.searchsorted(points, values), 1, len(points) - 1)
    left = right - 1
    to_right, to_left = np.abs(points[right] - values), np.abs(values - points[left])
    rightward = (to_right < to_left) | ((to_right == to_left) & (labels[right] < labels[left]))
    return np.asarray(np.where(rightward, labels[right], labels[left]))
