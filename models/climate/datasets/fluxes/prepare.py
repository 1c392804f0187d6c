"""What parts there are, and one part: an hour of a block of levels, from winds to fluxes and training fields.

A part reads its own hour alone, a few levels at a time, and one or two levels beside its block for derivatives, so its
memory does not grow with the data. Levels are worked on one by one: a level has the same bits in any block.

Shapes: K levels of a block, I x J fine grid, T x C coarse grid.
"""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.climate.datasets.fluxes import columns, layout
from models.climate.datasets.fluxes.calendar import days_between
from models.climate.datasets.fluxes.fields import Fields, FileFields, GeneratedFields, Library, catalogue
from models.climate.datasets.fluxes.levels import STANDARD_SURFACE
from models.climate.datasets.fluxes.momentum import WaveFlux
from models.climate.generator.gwsphere import GwsphereConfig
from models.climate.geometry import Grid, gaussian_grid, regular_grid
from models.climate.harmonics import Harmonics
from models.climate.remapping import Conservative, SpectralMeans
from models.common.errors import AwaitedError
from models.common.parts import Part, Survey

if TYPE_CHECKING:
    from models.climate.datasets.fluxes.config import FluxesConfig

Floats = NDArray[np.float64]
Array = NDArray[Any]

AT_ONCE = 2
"""Levels read at a time."""

GENERATED_START = date(2010, 1, 31)
"""First day of a generated atmosphere for which none is given: in the first year of training."""


def survey(config: "FluxesConfig", files: Mapping[str, tuple[Path, ...]]) -> Survey:
    """Hours and blocks of levels.

    Raises:
        InputError: files do not fit together; `AwaitedError`: an hour of u lacks its other variables, or a day between
            the first and the last has no hours.

    Source:
        See `models.common.parts.Partitioned`.
    """
    if config.source == "generated":
        start = np.datetime64(str(config.first or GENERATED_START), "m")
        hours = tuple(start + np.timedelta64(60 * hour, "m") for hour in range(config.hours))
        hours = tuple(hour for hour in hours if config.last is None or _day(hour) <= config.last)
        fields = _generated(config, hours[0])
        whole = Library(shelves={}, hours=hours, grid=fields.grid, levels=fields.levels, has=("t", "zs"))
    else:
        whole = _chosen(config, catalogue(files))
    count = len(whole.levels.a)
    blocks = [
        range(first, min(first + config.levels_at_once, count)) for first in range(0, count, config.levels_at_once)
    ]
    names = list(layout.layouts(config, whole))
    parts = []
    for number, hour in enumerate(whole.hours):
        places = {name: shelf.at(hour) for name, shelf in whole.shelves.items()}
        paths = sorted({path for path, _ in places.values()})
        reads = {name: [paths.index(path), position] for name, (path, position) in places.items()}
        for block in blocks:
            parts.append(
                Part(
                    name=f"{hour} levels {block.start + 1}-{block.stop}",
                    files=tuple(map(str, paths)),
                    at={name: {"time": number, "level": block.start} for name in names},
                    about={"hour": str(hour), "levels": [block.start, block.stop], "reads": reads},
                )
            )
    return Survey(parts=tuple(parts), groups=layout.layouts(config, whole))


def _chosen(config: "FluxesConfig", library: Library) -> Library:
    """The hours between the dates of the configuration; no day between them may be empty."""
    kept = [
        hour
        for hour in library.hours
        if (config.first is None or _day(hour) >= config.first) and (config.last is None or _day(hour) <= config.last)
    ]
    if not kept:
        raise AwaitedError(
            f"u has hours from {library.hours[0]} to {library.hours[-1]}, none between {config.start or 'the first'} "
            f"and {config.end or 'the last'}; check the dates, or get the files."
        )
    there = {_day(hour).isoformat() for hour in kept}
    expected = days_between(
        config.first or _day(kept[0]), config.last or _day(kept[-1]), published=config.repeats("century_leap")
    )
    if missing := [day for day in expected if day not in there]:
        raise AwaitedError(
            f"u has no hour of {missing[0]}{f' and {len(missing) - 1} more days' if len(missing) > 1 else ''}; get the "
            "files, or set start and end around what is there."
        )
    return Library(
        shelves=library.shelves, hours=tuple(kept), grid=library.grid, levels=library.levels, has=library.has
    )


def _day(hour: np.datetime64) -> date:
    return date.fromisoformat(str(hour)[:10])


def _generated(config: "FluxesConfig", hour: np.datetime64) -> GeneratedFields:
    world = GwsphereConfig(
        rows=max(8, config.coarse_rows),
        columns=max(16, config.coarse_columns),
        levels=config.levels,
        seed=config.seed,
    )
    return GeneratedFields(hour=hour, world=world, grid=regular_grid(config.rows, config.columns))


def make(config: "FluxesConfig", part: Part) -> dict[str, xr.Dataset]:
    """One hour of one block of levels.

    Returns:
        "fluxes" (if kept) with uw and vw on the fine grid, "training" with everything on the coarse one; float32.

    Raises:
        InputError: values are missing, or files cannot be read.

    Source:
        See `models.common.parts.Partitioned`, and `momentum` and `columns` for what is computed.
    """
    hour = np.datetime64(part.about["hour"], "m")
    if config.source == "generated":
        fields: Fields = _generated(config, hour)
    else:
        reads = part.about["reads"].items()
        fields = FileFields.of(hour, {name: (Path(part.files[file]), spot) for name, (file, spot) in reads})
    block = range(*part.about["levels"])
    flux = WaveFlux(
        harmonics=Harmonics(grid=fields.grid),
        truncation=config.truncation,
        scalar_truncation=config.repeats("scalar_truncation"),
        zonal_mean_omega=config.repeats("zonal_mean_omega"),
    )
    column = _Column(fields, block)
    coarsen = _Coarsen(config, fields.grid)
    size = (1, len(block), *fields.grid.shape) if config.keep_fluxes else (0,)
    fine = {name: np.empty(size, np.float32) for name in layout.FLUXES}
    coarse = {name: np.full((1, len(block), *coarsen.shape), np.nan, np.float32) for name in layout.TRAINING}
    surface = coarsen.state(column.surface)
    if fields.has("zs"):
        coarse["zs"][:] = coarsen.state(fields.surface("zs"))
    for at, level in enumerate(block):
        winds = {name: column.level(name, level) for name in ("u", "v", "w")}
        for name, field in zip(layout.FLUXES, flux(winds["u"], winds["v"], winds["w"]), strict=True):
            if config.keep_fluxes:
                fine[name][0, at] = field
            coarse[name][0, at] = coarsen.flux(field)
        for name, field in winds.items():
            coarse[name][0, at] = coarsen.state(field)
        coarse["p"][0, at] = fields.levels.pressure(level, surface)
        coarse["dudp"][0, at] = coarsen.state(column.shear(level))
        if fields.has("t"):
            coarse["t"][0, at] = coarsen.state(column.level("t", level))
            coarse["N2"][0, at] = coarsen.state(column.stratification(level))
        column.forget(level)
    made = {"training": xr.Dataset({name: (layout.DIMS, values) for name, values in coarse.items()})}
    if config.keep_fluxes:
        made["fluxes"] = xr.Dataset({name: (layout.DIMS, values) for name, values in fine.items()})
    return made


class _Column:
    """Levels of one hour, top first: read a few at a time, kept as long as a derivative needs them."""

    def __init__(self, fields: Fields, block: range) -> None:
        self.fields, self.block = fields, block
        self.count = len(fields.levels.a)
        # The stencil of the first and the last level of the atmosphere reaches one further.
        first, last = self._stencil(block.start)[0], self._stencil(block.stop - 1)[-1]
        self.reach = range(min(first, block.start), max(last, block.stop - 1) + 1)
        self.surface = fields.surface("sp") if fields.has("sp") else np.full(fields.grid.shape, STANDARD_SURFACE)
        self._kept: dict[tuple[str, int], Array] = {}

    def level(self, name: str, level: int) -> Array:
        """A field (I, J), or ln p or ln theta, of one level."""
        if (name, level) not in self._kept:
            if name == "p":
                self._kept[name, level] = self.fields.levels.pressure(level, self.surface)
            elif name == "ln p":
                self._kept[name, level] = np.log(self.level("p", level))
            elif name == "ln theta":
                self._kept[name, level] = columns.log_theta(self.level("t", level), self.level("ln p", level))
            else:
                within = self.reach if name in ("u", "t") else self.block
                wanted = range(level, min(level + AT_ONCE, within.stop))
                for number, field in zip(wanted, self.fields.load(name, wanted), strict=True):
                    self._kept[name, number] = field
        return self._kept[name, level]

    def shear(self, level: int) -> Floats:
        """du/dp (I, J), m/s/Pa; NaN on a single level."""
        return self._slope(level, "p", "u")

    def stratification(self, level: int) -> Floats:
        """N2 (I, J), 1/s2; NaN on a single level."""
        return columns.stratification(self.level("t", level), self._slope(level, "ln p", "ln theta"))

    def forget(self, level: int) -> None:
        """Drop what levels below this one will not ask for."""
        needed = self._stencil(min(level + 1, self.count - 1))[0]
        self._kept = {key: field for key, field in self._kept.items() if key[1] >= needed}

    def _slope(self, level: int, x: str, y: str) -> Floats:
        stencil = self._stencil(level)
        if len(stencil) < 2:
            return np.full(self.fields.grid.shape, np.nan)
        across, along = (tuple(self.level(name, at) for at in stencil) for name in (x, y))
        return columns.derivative(level - stencil.start, across, along)

    def _stencil(self, level: int) -> range:
        """The three levels around one, or fewer where there are fewer."""
        first = min(max(level - 1, 0), max(self.count - 3, 0))
        return range(first, min(first + 3, self.count))


class _Coarsen:
    """From the fine grid to the coarse one."""

    def __init__(self, config: "FluxesConfig", fine: Grid) -> None:
        coarse = gaussian_grid(config.coarse_rows, config.coarse_columns)
        self.shape = coarse.shape
        bounds = layout.published_bounds(fine.latitudes) if config.repeats("beyond_the_pole") else ()
        self._cells = Conservative(source=fine, target=coarse, latitude_bounds=bounds)
        self._exact = SpectralMeans(source=fine, target=coarse) if config.remapping == "spectral" else None

    def state(self, field: Array) -> Floats:
        """Cell means (T, C) of winds, temperatures and what is derived from them."""
        return np.asarray(self._cells(field))

    def flux(self, field: Array) -> Floats:
        """Means (T, C) of a flux, by the method of the configuration."""
        return np.asarray(self._cells(field) if self._exact is None else self._exact(field, wind=True))
