"""The configuration of the precipitation dataset: where observations and rain come from, and the grid they come to."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from models.climate.datasets.precipitation import layout, prepare
from models.climate.datasets.precipitation.area import Area, area_of
from models.climate.datasets.recipe import Recipe, day
from models.common.configuration import setting
from models.common.parts import Part, Survey

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.generator.precipitation import PrecipitationWorldConfig

PRODUCTS = ("gridsat", "patmosx", "ssmi", "persiann", "imerg", "stage4")

_FIRST = date(2018, 12, 8)
"""Where the generated world begins when no day is named: its days lie in both splits."""


@dataclass(frozen=True, kw_only=True)
class PrecipitationConfig(Recipe):
    """Satellite observations and daily rain on one grid, to forecast four weeks of rain from eight days."""

    dataset = "precipitation"
    elsewhere: ClassVar[tuple[str, ...]] = ("name", "start", "end", "days", *PRODUCTS)

    name: str = setting("precipitation", "Name", "Lower case letters, digits and hyphens.", min_length=1)
    gridsat: str = setting(
        "", "GridSat-B1", "For files: path, glob or URL of GRIDSAT-B1.YYYY.MM.DD.HH.v02r01.nc; empty: without."
    )
    patmosx: str = setting(
        "", "PATMOS-x", "For files: path, glob or URL of patmosx_..._asc_dYYYYMMDD_....nc and _des_; empty: without."
    )
    ssmi: str = setting(
        "",
        "SSM/I",
        "For files: path, glob or URL of CSU_SSMI_FCDR-GRID_..._DYYYYMMDD.nc, or of orbits; empty: without.",
    )
    persiann: str = setting(
        "", "PERSIANN-CDR", "For files: path, glob or URL of PERSIANN-CDR_v01r01_YYYYMMDD_....nc; empty: without."
    )
    imerg: str = setting(
        "", "IMERG", "For files: path, glob or URL of 3B-DAY.MS.MRG.3IMERG.YYYYMMDD-....nc4; empty: without."
    )
    stage4: str = setting(
        "", "Stage IV", "For files: path, glob or URL of hourly ST4.YYYYMMDDHH.01h files; empty: without."
    )
    switch: str = setting("2000-06-01", "First day of IMERG", "Before it rain is PERSIANN-CDR's, from it on IMERG's.")
    rows: int = setting(18, "Rows", "Latitudes of the grid, 4 to 3600; published are 360.", ge=4, le=3600)
    columns: int = setting(32, "Columns", "Longitudes of the grid, 4 to 7200; published are 576.", ge=4, le=7200)
    gridsat_method: Literal["nearest", "linear"] = setting(
        "nearest", "GridSat by", "How GridSat comes onto the grid: the nearest centre, or linearly between four."
    )
    patmosx_method: Literal["nearest", "linear"] = setting(
        "linear", "PATMOS-x by", "How PATMOS-x comes onto the grid: the nearest centre, or linearly between four."
    )
    ssmi_method: Literal["nearest", "linear"] = setting(
        "nearest", "SSM/I by", "How gridded SSM/I comes onto the grid: the nearest centre, or linearly between four."
    )
    rain_method: Literal["nearest", "linear"] = setting(
        "linear", "Rain by", "How rain comes onto the grid: the nearest centre, or linearly between four."
    )
    radius_km: float = setting(
        64.0, "Reach of a pixel", "How far the nearest pixel of an orbit may lie, 1 to 1000 km.", ge=1, le=1000
    )
    days: int = setting(70, "Days", "For generated: days from the first one on, 1 to 36500.", ge=1, le=36500)
    world_rows: int = setting(
        24, "Rows of the world", "For generated: latitudes of its own grid, 18 to 360.", ge=18, le=360
    )
    world_columns: int = setting(
        36, "Columns of the world", "For generated: longitudes of its own grid, 36 to 576.", ge=36, le=576
    )
    seed: int = setting(
        0, "Seed", "For generated: start of the world's random stream, 0 to 2147483647.", ge=0, le=2147483647
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if day(self.switch, "switch") is None:
            raise ValueError("PrecipitationConfig.switch must be a day such as 2000-06-01, got ''.")
        if self.source == "files" and not self.sources():
            raise ValueError(
                f"PrecipitationConfig needs one of {', '.join(PRODUCTS)} when source is 'files', got none; give a "
                "path, a glob or a URL."
            )
        if self.source == "generated" and any(getattr(self, product) for product in PRODUCTS):
            raise ValueError("PrecipitationConfig.source must be 'files' when files are named, got 'generated'.")

    @property
    def area(self) -> Area:
        """The grid that everything comes to."""
        return area_of(self.rows, self.columns, shifted=self.repeats("shifted_area"))

    @property
    def first_of_imerg(self) -> date:
        """The first day whose rain is IMERG's."""
        return day(self.switch, "switch") or date.min

    @property
    def generated_days(self) -> tuple[date, date]:
        """First and last day of the generated world."""
        first = self.first or _FIRST
        return first, min(self.last or date.max, first + timedelta(days=self.days - 1))

    @property
    def world(self) -> "PrecipitationWorldConfig":
        """The generated world."""
        from models.climate.generator.precipitation import PrecipitationWorldConfig

        return PrecipitationWorldConfig(rows=self.world_rows, columns=self.world_columns, seed=self.seed)

    def sources(self) -> Mapping[str, str]:
        """The archives that are named."""
        named = {product: getattr(self, product) for product in PRODUCTS}
        return {name: place for name, place in named.items() if place and self.source == "files"}

    def survey(self, files: Mapping[str, tuple[Path, ...]]) -> Survey:
        """The days there are; only names and one header are looked at; raises `InputError`."""
        return prepare.survey(self, files)

    def part(self, part: Part) -> Mapping[str, "xr.Dataset"]:
        """One day of one group, or of the whole generated world; raises `InputError`."""
        return prepare.make(self, part)

    def export(self, groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
        """Write the published files, one a day and group."""
        return layout.export(groups, folder)


def tiny() -> PrecipitationConfig:
    """A coarse generated world of seventy days, in both splits: enough for forecasts of four weeks."""
    return PrecipitationConfig()


def small() -> PrecipitationConfig:
    """A generated world of three years on a grid of five degrees."""
    return PrecipitationConfig(start="2017-01-01", days=1095, rows=36, columns=72, world_rows=48, world_columns=96)


def paper() -> PrecipitationConfig:
    """The published years, grid and archives.

    Grid: chimp/areas/merra.yml; years: WxC-Bench at ee00516, extract_data_*.sh; nearest and linear: OVERVIEW.md, "Data
    collection and processing"; 64 km: chimp at e1701da, chimp/data/ssmi.py, resample_data; switch: chimp at 088de05,
    chimp/data/daily_precip.py, SPLIT. The scripts that were seen (chimp/data/gridsat.py:128 at 4c904f7) interpolate
    GridSat linearly, where the text says nearest: the text is followed.
    """
    return PrecipitationConfig(
        source="files",
        gridsat="gridsat/*/GRIDSAT-B1.*.nc",
        patmosx="patmosx/*/patmosx_*.nc",
        ssmi="ssmi/*/CSU_SSMI*_FCDR*.nc",
        persiann="persiann/*/PERSIANN-CDR_*.nc",
        imerg="imerg/*/*/3B-DAY.MS.MRG.3IMERG.*.nc4",
        start="1983-01-01",
        end="2023-12-31",
        rows=360,
        columns=576,
    )
