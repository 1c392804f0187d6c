"""Small archives of winds on levels, written as ERA5 files are, and what a survey's parts put together."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from models.climate.datasets.fluxes.config import FluxesConfig
from models.climate.geometry import Grid, regular_grid
from models.climate.harmonics import Harmonics
from models.common.parts import Survey
from tests.models.climate.samples import write_netcdf

ROWS, COLUMNS, LEVELS = 47, 93, 5
LETTERS = {"u": "U", "v": "V", "w": "W", "t": "T"}
UNITS = {"u": "m s**-1", "v": "m s**-1", "w": "Pa s**-1", "t": "K"}


def fields_of(grid: Grid, hours: int, levels: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Winds, omega and temperature (H, K, I, J) with all the scales that the grid resolves, float32."""
    sphere = Harmonics(grid=grid)
    random = np.random.default_rng(seed)
    count = len(sphere.degrees)

    def coefficients(slope: float) -> np.ndarray:
        drawn = (random.normal(size=count) + 1j * random.normal(size=count)) / (1 + sphere.degrees) ** slope
        drawn[: sphere.degree + 1].imag = 0
        drawn[0] = 0
        return np.asarray(drawn)

    out = {name: np.empty((hours, levels, *grid.shape), np.float32) for name in "uvwt"}
    for hour in range(hours):
        for level in range(levels):
            wind = np.stack([0.3 * coefficients(1.2), coefficients(1.2)]) * 20
            out["u"][hour, level], out["v"][hour, level] = sphere.synthesise_wind(wind)
            out["w"][hour, level] = 0.2 * sphere.synthesise(coefficients(1.0))
            out["t"][hour, level] = 230 + 8 * level + 3 * sphere.synthesise(coefficients(1.5))
    return out


def surfaces_of(grid: Grid, seed: int = 1) -> dict[str, np.ndarray]:
    """Surface pressure (I, J), Pa, and geopotential, m2/s2, float32."""
    sphere = Harmonics(grid=grid)
    drawn = np.random.default_rng(seed).normal(size=len(sphere.degrees)) / (1 + sphere.degrees) ** 1.5 + 0j
    bumps = sphere.synthesise(drawn)
    return {
        "sp": (98_000 + 900 * bumps).astype(np.float32),
        "z": (3000 - 800 * bumps).astype(np.float32),
    }


def archive(
    folder: Path, *, days: tuple[str, ...] = ("20150301", "20150302"), hours: int = 2, grid: Grid | None = None,
    levels: int = LEVELS, reverse: bool = False, surfaces: bool = True,
) -> FluxesConfig:  # fmt: skip
    """Files of some days, and the configuration that reads them."""
    grid = grid or regular_grid(ROWS, COLUMNS)
    whole = fields_of(grid, hours * len(days), levels)
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int | None] = {
        "time": hours,
        "level": levels,
        "latitude": grid.shape[0],
        "longitude": grid.shape[1],
    }
    order = slice(None, None, -1) if reverse else slice(None)
    for number, day in enumerate(days):
        axes: dict[str, Any] = {
            "time": (("time",), np.arange(hours, dtype="i4"), {"units": f"hours since {day[:4]}-{day[4:6]}-{day[6:]}"}),
            "level": (("level",), np.arange(1, levels + 1, dtype="i4")[order], {"long_name": "model_level_number"}),
            "latitude": (("latitude",), grid.latitudes.astype("f4"), {"units": "degrees_north"}),
            "longitude": (("longitude",), grid.longitudes.astype("f4"), {"units": "degrees_east"}),
        }
        some = slice(number * hours, (number + 1) * hours)
        for name, letter in LETTERS.items():
            values = np.ascontiguousarray(whole[name][some][:, order])
            variable = (("time", "level", "latitude", "longitude"), values, {"units": UNITS[name]})
            write_netcdf(folder / f"{letter}{day}_ml.nc", sizes, {**axes, name: variable})
        if surfaces:
            flat = {name: axis for name, axis in axes.items() if name != "level"}
            for letter, name, units in (("PS", "sp", "Pa"), ("ZS", "z", "m**2 s**-2")):
                values = np.repeat(surfaces_of(grid)[name][None], hours, 0)
                variable = (("time", "latitude", "longitude"), values, {"units": units})
                write_netcdf(folder / f"{letter}{day}_ml.nc", {k: v for k, v in sizes.items() if k != "level"},
                             {**flat, name: variable})  # fmt: skip
    surface = {"surface_pressure": f"{folder}/PS*.nc", "surface_height": f"{folder}/ZS*.nc"} if surfaces else {}
    return FluxesConfig(
        source="files", u=f"{folder}/U*.nc", v=f"{folder}/V*.nc", omega=f"{folder}/W*.nc",
        temperature=f"{folder}/T*.nc", truncation=9, levels_at_once=2, **surface,
    )  # fmt: skip


def found(config: FluxesConfig) -> dict[str, tuple[Path, ...]]:
    """What the catalogue finds for a configuration's globs."""
    return {name: tuple(sorted(Path(place).parent.glob(Path(place).name))) for name, place in config.sources().items()}


def surveyed(config: FluxesConfig) -> Survey:
    """The survey of a configuration."""
    return config.survey(found(config))


def whole(config: FluxesConfig) -> dict[str, xr.Dataset]:
    """All parts put together in memory, as the store does on disk."""
    survey = surveyed(config)
    groups = {}
    for name, layout in survey.groups.items():
        empty = {
            one: (variable.dims, np.full([layout.sizes[dim] for dim in variable.dims], -7e30, variable.dtype),
                  dict(variable.attrs))
            for one, variable in layout.variables.items()
        }  # fmt: skip
        axes = {axis: (dims, values, dict(attrs)) for axis, (dims, values, attrs) in layout.coordinates.items()}
        groups[name] = xr.Dataset(empty, axes, dict(layout.attrs))
    for part in survey.parts:
        for name, made in config.part(part).items():
            for one, values in made.data_vars.items():
                begin = part.at[name]
                place = tuple(
                    slice(begin.get(str(dim), 0), begin.get(str(dim), 0) + size) for dim, size in values.sizes.items()
                )
                assert (groups[name][one].values[place] == np.float32(-7e30)).all()  # no place is filled twice
                groups[name][one].values[place] = values.values
    return groups
