"""How the dataset is laid out: in the store, and in the files that the published scripts write.

In the store one file holds one hour of one block of levels, and one level of it is read at once: a map costs one read
of what it needs, and all levels of a coarse hour open as many files as there are blocks. The published files are

    helmholtz_fluxes_hourly_era5_{day}{Mon}{year}.nc    uw and vw at full resolution, an hour of the day a record
    era5_training_data_hourly_era5_{year}{Mon}{dd}.nc   everything on the coarse grid
    1x1_inputfeatures_..._{year}_constant_mu_sigma_scaling{mm}.nc
                                                        scaled features and output of a month, for learning

Shapes: H hours, K levels, T x C coarse grid.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netCDF4
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from models.climate.datasets import schemas
from models.climate.datasets.fluxes.calendar import MONTHS
from models.climate.datasets.fluxes.columns import potential_temperature
from models.climate.datasets.fluxes.fields import Library
from models.climate.geometry import gaussian_grid
from models.common.errors import InputError
from models.common.moments import merge, moments
from models.common.parts import Layout, Variable

if TYPE_CHECKING:
    from models.climate.datasets.fluxes.config import FluxesConfig

Array = NDArray[Any]

DIMS = ("time", "level", "lat", "lon")
FLUXES = ("uw", "vw")
TRAINING = ("u", "v", "w", "t", "p", "dudp", "N2", "zs", "uw", "vw")

FEATURES = ("lat", "lon", "zs", "u", "v", "theta", "w")
"""Channels of the learning files in their order; those on levels are as many as levels are kept."""

UNWRITTEN = netCDF4.default_fillvals["f4"]
"""What stands in a published variable that no script fills."""

_WORDS: Mapping[str, tuple[str, str, str, float, float]] = {
    # units, long name, standard name, and bounds outside which files have other units than they say
    "u": ("m s-1", "eastward wind", "eastward_wind", -400, 400),
    "v": ("m s-1", "northward wind", "northward_wind", -400, 400),
    "w": ("Pa s-1", "pressure velocity", "lagrangian_tendency_of_air_pressure", -100, 100),
    "t": ("K", "temperature", "air_temperature", 100, 400),
    "p": ("Pa", "pressure", "air_pressure", 0, 120_000),
    "dudp": ("m s-1 Pa-1", "vertical gradient of eastward wind", "", -1000, 1000),
    "N2": ("s-2", "squared buoyancy frequency", "square_of_brunt_vaisala_frequency_in_air", -1, 1),
    "zs": ("m", "height of the surface", "surface_altitude", -1000, 10_000),
    "uw": ("Pa", "vertical flux of eastward momentum by waves", "", -10_000, 10_000),
    "vw": ("Pa", "vertical flux of northward momentum by waves", "", -10_000, 10_000),
}


def layouts(config: "FluxesConfig", library: Library) -> dict[str, Layout]:
    """The stored groups."""
    coarse = gaussian_grid(config.coarse_rows, config.coarse_columns)
    count = len(library.levels.a)
    hours = np.array(library.hours, "datetime64[m]").astype(np.int64)
    axes = {
        "time": (("time",), hours, {"units": "minutes since 1970-01-01", "standard_name": "time"}),
        "level": (
            ("level",),
            library.levels.labels,
            {"units": "hPa", "positive": "down", "long_name": "pressure of the level over a surface of 1013.25 hPa"},
        ),
    }
    made = {}
    for name, grid, variables in (("fluxes", library.grid, FLUXES), ("training", coarse, TRAINING)):
        if name == "fluxes" and not config.keep_fluxes:
            continue
        absent = {"t": {"t", "N2"}, "zs": {"zs"}}
        missing = set().union(*(names for needed, names in absent.items() if needed not in library.has))
        if count < 2:
            missing |= {"dudp", "N2"}
        made[name] = Layout(
            variables={one: _variable(one, config.levels_at_once, 1.0 if one in missing else 0.0) for one in variables},
            sizes={"time": len(hours), "level": count, "lat": grid.shape[0], "lon": grid.shape[1]},
            coordinates={
                **axes,
                "lat": (("lat",), grid.latitudes, {"units": "degrees_north", "standard_name": "latitude"}),
                "lon": (("lon",), grid.longitudes, {"units": "degrees_east", "standard_name": "longitude"}),
            },
            attrs=_attrs(config, library, name),
        )
    return made


def _variable(name: str, together: int, missing: float) -> Variable:
    units, long_name, standard_name, low, high = _WORDS[name]
    fine = {"time": 1, "level": 1}
    return Variable(
        dims=DIMS,
        dtype="float32",
        attrs={"units": units, "long_name": long_name, **({"standard_name": standard_name} if standard_name else {})},
        chunks=fine,
        shards={"time": 1, "level": together},
        low=low,
        high=high,
        missing=missing,
        along=("level",),
    )


def _attrs(config: "FluxesConfig", library: Library, group: str) -> dict[str, Any]:
    title = {
        "fluxes": "Momentum fluxes of gravity waves at full resolution",
        "training": "Momentum fluxes of gravity waves and their large-scale inputs, means over coarse cells",
    }
    repeated = sorted(config.defects)
    return {
        "title": title[group],
        "Conventions": "CF-1.11",
        "remapping": config.remapping,
        "published_defects": " ".join(repeated),
        "references": "WxC-Bench (arXiv 2412.02780), non-local parameterisation of gravity-wave momentum flux",
        "comment": f"Waves are what is finer than T{config.truncation}. "
        + ("Means are conservative. " if config.remapping == "conservative" else "Means of fluxes are spectral. ")
        + ("Pressures are those over a surface of 1013.25 hPa. " if "sp" not in library.has else "")
        + (f"Repeats published defects: {', '.join(repeated)}." if repeated else "Published defects are mended."),
    }


def published_bounds(latitudes: Array) -> tuple[float, ...]:
    """Bounds of latitude as the published regridder was given them: they end half a step beyond the poles.

    Args:
        latitudes: degrees; taken in single precision, as the published script reads them.

    Returns:
        One more than the latitudes.

    Source:
        coarsegrain_computed_momentum_fluxes.py lines 47-55. What ESMF makes of a cell that crosses the pole is not
        recorded; here such a cell loses the area that it has twice, which leaves none of it.
    """
    points = latitudes.astype(np.float32)
    middle = np.float32(0.5) * (points[1:] + points[:-1])
    first = np.float64(middle[0]) + (points[0] - points[1])
    last = np.float64(middle[-1]) - (points[-2] - points[-1])
    return (float(first), *(float(bound) for bound in middle), float(last))


def export(config: "FluxesConfig", groups: "Mapping[str, xr.Dataset]", folder: Path) -> tuple[Path, ...]:
    """Write the published files of everything that is stored.

    Args:
        config: what drops how many levels, and which years scale.
        groups: "training", and "fluxes" if it was kept; opened lazily.
        folder: where they go.

    Returns:
        The files, days first. There are no learning files without temperature or heights.

    Raises:
        InputError: the hours of a day do not follow one another.

    Source:
        `schemas/fluxes.json` for names, dims, types and units.
    """
    fine, coarse, learning = schemas.load("fluxes").files
    training = groups["training"]
    written = []
    for hours in _runs(training, 10):
        if "fluxes" in groups:
            written.append(_fine_file(fine, groups["fluxes"].isel(time=hours), folder))
        written.append(_training_file(coarse, training.isel(time=hours), folder))
    if np.isnan(training["t"][:1].values).any() or np.isnan(training["zs"][:1].values).any():
        return tuple(written)
    scales, scaled_by = _scales(config, training)
    for hours in _runs(training, 7):
        written.append(_learning_file(learning, config, training.isel(time=hours), scales, scaled_by, folder))
    return tuple(written)


def _minutes(dataset: xr.Dataset) -> NDArray[np.datetime64]:
    """Times of a stored group, decoded or not."""
    values = dataset["time"].values
    if values.dtype.kind == "M":
        return np.asarray(values.astype("datetime64[m]"))
    return np.asarray(values.astype(np.int64).astype("datetime64[m]"))


def _runs(dataset: xr.Dataset, digits: int) -> Iterator[slice]:
    """Hours that share the first digits of their date: 10 for days, 7 for months."""
    names = [str(hour)[:digits] for hour in _minutes(dataset)]
    start = 0
    for end in range(1, len(names) + 1):
        if end == len(names) or names[end] != names[start]:
            if names[start] in names[end:]:
                raise InputError(f"hours of {names[start]} do not follow one another; sort the time axis.")
            yield slice(start, end)
            start = end


def _fine_file(entry: schemas.FileSchema, day: xr.Dataset, folder: Path) -> Path:
    date = str(_minutes(day)[0])
    name = entry.file_name(day=int(date[8:10]), Mon=MONTHS[int(date[5:7]) - 1], year=date[:4])
    return schemas.write(entry, _labelled(day), folder / name)


def _training_file(entry: schemas.FileSchema, day: xr.Dataset, folder: Path) -> Path:
    date = str(_minutes(day)[0])
    name = entry.file_name(year=date[:4], Mon=MONTHS[int(date[5:7]) - 1], dd=date[8:10])
    labelled = _labelled(day)
    hours = labelled["time"].values
    labelled = labelled.assign(
        time_fc_u=("time_fc_u", hours),
        time_fc_v=("time_fc_v", hours),
        flux_p=(DIMS, _lazy(lambda at: np.full(day["u"][at].shape, UNWRITTEN, np.float32), day["u"].shape)),
    )
    return schemas.write(entry, labelled, folder / name)


def _labelled(day: xr.Dataset) -> xr.Dataset:
    """The axes as the published files have them: hours of the day, and the rest in single precision."""
    hours = (_minutes(day) - _minutes(day)[0].astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int32)
    axes: dict[str, Any] = {name: (name, day[name].values.astype(np.float32)) for name in ("level", "lat", "lon")}
    return day.assign_coords({"time": ("time", hours), **axes})


def _learning_file(
    entry: schemas.FileSchema,
    config: "FluxesConfig",
    month: xr.Dataset,
    scales: Mapping[str, tuple[Array, Array]],
    scaled_by: str,
    folder: Path,
) -> Path:
    date = str(_minutes(month)[0])
    times = _minutes(month).astype(np.int64)

    def stacked(names: tuple[str, ...], at: slice) -> Array:
        """Scaled channels (H, C, lat, lon) of some hours."""
        hours = month.isel(time=at, level=slice(config.dropped_levels, None))
        pieces = []
        for name in names:
            mean, deviation = scales[name]
            pieces.append((_channel(name, hours) - mean[:, None, None]) / deviation[:, None, None])
        return np.concatenate(pieces, axis=1).astype(np.float32)

    dataset = xr.Dataset(coords={"time": ("time", times, {"units": "minutes since 1970-01-01"})})
    for called, dim, names in (("features", "idim", FEATURES), ("output", "odim", FLUXES)):
        mean, deviation = (np.concatenate([scales[name][part] for name in names]) for part in (0, 1))
        size = (len(times), len(mean), month.sizes["lat"], month.sizes["lon"])
        dataset[called] = (("time", dim, "lat", "lon"), _lazy(partial(stacked, names), size))
        dataset[f"{called}_mean"], dataset[f"{called}_deviation"] = (dim, mean), (dim, deviation)
    dataset["lat"], dataset["lon"] = month["lat"].astype(np.float32), month["lon"].astype(np.float32)
    dataset.attrs["scaled_by"] = scaled_by
    return schemas.write(entry, dataset, folder / entry.file_name(year=date[:4], MM=date[5:7]))


def _channel(name: str, hours: xr.Dataset) -> Array:
    """(H, K or 1, lat, lon) of one kind of channel, in double precision."""
    shape = (hours.sizes["time"], 1, hours.sizes["lat"], hours.sizes["lon"])
    if name == "lat":
        return np.broadcast_to(hours["lat"].values[:, None] / 90.0, shape)
    if name == "lon":
        return np.broadcast_to(hours["lon"].values / 360.0, shape)
    if name == "zs":
        return np.asarray(hours["zs"][:, :1].values, np.float64)
    if name == "theta":
        return potential_temperature(hours["t"].values.astype(np.float64), hours["p"].values.astype(np.float64))
    return np.asarray(hours[name].values, np.float64)


def _scales(config: "FluxesConfig", training: xr.Dataset) -> tuple[dict[str, tuple[Array, Array]], str]:
    """Mean and deviation of every channel over the years of training, and in words; position is not scaled."""
    years = _minutes(training).astype("datetime64[Y]").astype(int) + 1970
    chosen = np.flatnonzero(np.isin(years, config.train_years))
    words = "mean and deviation of " + (" ".join(map(str, np.unique(years[chosen]))) if len(chosen) else "all hours")
    chosen = chosen if len(chosen) else np.arange(len(years))
    found: dict[str, Any] = {}
    for hour in chosen.tolist():
        one = training.isel(time=slice(hour, hour + 1), level=slice(config.dropped_levels, None))
        for name in (*FEATURES[2:], *FLUXES):
            piece = moments(_channel(name, one), keep=(1,))
            found[name] = piece if name not in found else merge([found[name], piece])
    scales = {name: (piece.mean, np.where(piece.deviation > 0, piece.deviation, 1.0)) for name, piece in found.items()}
    return {"lat": (np.zeros(1), np.ones(1)), "lon": (np.zeros(1), np.ones(1)), **scales}, words


class _Computed(BackendArray):
    """An array whose leading rows are made when they are asked for; the last are kept, for whoever asks in pieces."""

    def __init__(self, make: Callable[[slice], Array], shape: tuple[int, ...]) -> None:
        self.make, self.shape, self.dtype = make, shape, np.dtype(np.float32)
        self._made: tuple[slice, Array] | None = None

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array:
        """Slices of the first axis, whole along the others."""
        return np.asarray(
            indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._rows)
        )

    def _rows(self, key: tuple[Any, ...]) -> Array:
        first, *others = key
        rows = slice(first, first + 1) if isinstance(first, int | np.integer) else first
        if self._made is None or self._made[0] != rows:
            self._made = None  # two of them need not be held at once
            self._made = rows, self.make(rows)
        found = self._made[1]
        return found[(0 if isinstance(first, int | np.integer) else slice(None), *others)]


def _lazy(make: Callable[[slice], Array], shape: tuple[int, ...]) -> Any:
    return indexing.LazilyIndexedArray(_Computed(make, shape))
