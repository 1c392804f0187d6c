"""The configuration of the flux dataset: winds on model levels, what counts as a wave, and the coarse grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from models.climate.datasets.recipe import Recipe
from models.common.configuration import setting
from models.common.parts import Part, Survey

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class FluxesConfig(Recipe):
    """Momentum fluxes of gravity waves from winds on model levels, at full resolution and with their inputs on T42."""

    dataset: ClassVar[str] = "fluxes"
    elsewhere: ClassVar[tuple[str, ...]] = (
        "name", "start", "end", "u", "v", "omega", "temperature", "surface_pressure", "surface_height", "hours",
        "dropped_levels", "train_years",
    )  # fmt: skip

    name: str = setting("fluxes", "Name", "Name of the dataset: lower case letters, digits and hyphens.", min_length=1)
    u: str = setting("", "Eastward wind", "For files: path, glob or URL of eastward winds on levels, in m/s.")
    v: str = setting("", "Northward wind", "For files: path, glob or URL of northward winds on levels, in m/s.")
    omega: str = setting("", "Vertical velocity", "For files: path, glob or URL of pressure velocities, in Pa/s.")
    temperature: str = setting(
        "",
        "Temperature",
        "For files: path, glob or URL of temperatures, in K; empty: no temperature, no stratification.",
    )
    surface_pressure: str = setting(
        "",
        "Surface pressure",
        "For files: path, glob or URL of surface pressures or their logarithm; empty: levels over 1013.25 hPa.",
    )
    surface_height: str = setting(
        "", "Surface height", "For files: path, glob or URL of surface geopotentials or heights; empty: no heights."
    )
    truncation: int = setting(
        21,
        "Truncation",
        "Highest total wavenumber of what counts as resolved, 0 to 1000; 21 as published.",
        ge=0,
        le=1000,
    )
    remapping: Literal["conservative", "spectral"] = setting(
        "conservative",
        "Remapping",
        "'conservative': means over cells of the fine grid, as published. 'spectral': exact means of the smooth fluxes "
        "that the fine grid resolves, 1,000 times closer for short waves.",
    )
    coarse_rows: int = setting(
        16, "Coarse rows", "Gaussian latitudes of the coarse grid, 8 to 640; 64 of T42.", ge=8, le=640
    )
    coarse_columns: int = setting(
        32, "Coarse columns", "Longitudes of the coarse grid, 16 to 1280, even; 128 of T42.", ge=16, le=1280
    )
    keep_fluxes: bool = setting(
        True, "Keep fine fluxes", "Whether to store the fluxes at full resolution beside the training fields."
    )
    levels_at_once: int = setting(
        3,
        "Levels at once",
        "Levels of one hour that one part makes and one stored file holds, 1 to 256; 14 of 601 x 1200 take 250 MiB.",
        ge=1,
        le=256,
    )
    dropped_levels: int = setting(
        1,
        "Dropped levels",
        "Levels at the top that the learning files leave out, 0 to 256; 15 of 137 as published.",
        ge=0,
        le=256,
    )
    train_years: tuple[int, ...] = setting(
        (2010, 2012, 2014),
        "Years of training",
        "Years whose mean and deviation scale the learning files; if none of them is there, all hours do.",
    )
    rows: int = setting(
        181,
        "Rows",
        "For generated: latitudes of the fine grid, poles included, 9 to 1801; 601 of ERA5. Waves need 158 or more.",
        ge=9,
        le=1801,
    )
    columns: int = setting(
        360, "Columns", "For generated: longitudes of the fine grid, 16 to 3600; 1200 of ERA5.", ge=16, le=3600
    )
    levels: int = setting(6, "Levels", "For generated: levels from 1 to 1000 hPa, 6 to 137.", ge=6, le=137)
    hours: int = setting(3, "Hours", "For generated: hours from the first day on, 1 to 87600.", ge=1, le=87600)
    seed: int = setting(
        0, "Seed", "For generated: start of the world's random stream, 0 to 2147483647.", ge=0, le=2147483647
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "files" and not (self.u and self.v and self.omega):
            raise ValueError(
                "FluxesConfig.u, v and omega must name files when source is 'files', got "
                f"{self.u!r}, {self.v!r}, {self.omega!r}; give their paths, globs or URLs."
            )
        if self.source == "generated" and any(self._given().values()):
            raise ValueError(
                f"FluxesConfig.source must be 'files' when files are named, as {', '.join(self.sources_named())} are."
            )
        if self.coarse_columns % 2:
            raise ValueError(f"FluxesConfig.coarse_columns must be even, got {self.coarse_columns}; 128 of T42.")

    def _given(self) -> dict[str, str]:
        return {
            "u": self.u,
            "v": self.v,
            "w": self.omega,
            "t": self.temperature,
            "sp": self.surface_pressure,
            "zs": self.surface_height,
        }

    def sources_named(self) -> tuple[str, ...]:
        """Logical names of the files that are named: u, v, w, t, sp, zs."""
        return tuple(name for name, place in self._given().items() if place)

    def sources(self) -> Mapping[str, str]:
        """Logical name to path, glob or URL; empty when generated."""
        return {name: place for name, place in self._given().items() if place}

    def survey(self, files: Mapping[str, tuple[Path, ...]]) -> Survey:
        """Hours and level blocks; see `models.common.parts.Partitioned`."""
        from models.climate.datasets.fluxes import prepare

        return prepare.survey(self, files)

    def part(self, part: Part) -> "Mapping[str, xr.Dataset]":
        """One hour of one block of levels; see `models.common.parts.Partitioned`."""
        from models.climate.datasets.fluxes import prepare

        return prepare.make(self, part)

    def export(self, groups: "Mapping[str, xr.Dataset]", folder: Path) -> tuple[Path, ...]:
        """The published files; see `models.common.parts.Partitioned`."""
        from models.climate.datasets.fluxes import layout

        return layout.export(self, groups, folder)


def tiny() -> FluxesConfig:
    """Three generated hours of six levels on one degree: a few CPU seconds."""
    return FluxesConfig(start="2010-01-31")


def small() -> FluxesConfig:
    """Two generated days of 12 levels on one degree, fluxes on T42."""
    return FluxesConfig(
        start="2010-01-31",
        hours=48,
        rows=181,
        columns=360,
        levels=12,
        coarse_rows=64,
        coarse_columns=128,
        levels_at_once=12,
    )


def paper() -> FluxesConfig:
    """ERA5 on 137 model levels and 0.3 degrees, hourly, as published."""
    return FluxesConfig(
        source="files",
        # Names of download_era5_modellevel_data.py, lines 121-137, in a folder of your own.
        u="era5/U*_ml.nc",
        v="era5/V*_ml.nc",
        omega="era5/W*_ml.nc",
        temperature="era5/T*_ml.nc",
        surface_pressure="era5/PS*_ml.nc",
        surface_height="era5/ZS*_ml.nc",
        truncation=21,  # compute_momentum_flux_from_era5.py, lines 197-198
        coarse_rows=64,  # coarsegrain_computed_momentum_fluxes.py, lines 82-83
        coarse_columns=128,
        levels_at_once=14,  # ten files an hour; a part takes some 250 MiB
        dropped_levels=15,  # 122 of 137: training.py of amangupta2/nonlocal_gwfluxes
    )
