"""The configuration of the turbulence dataset: where reports and columns come from, and how they are put together."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from models.climate.datasets.recipe import Recipe
from models.climate.datasets.turbulence import layout, prepare
from models.climate.datasets.turbulence.grids import COLUMNS, ROWS, grid_of_size
from models.climate.geometry import Grid
from models.common.configuration import setting
from models.common.parts import Part, Survey

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.generator.reports import ReportsConfig

_FIRST = date(2023, 1, 30)
"""Where the generated world begins when no day is named: its first days lie in two months."""


@dataclass(frozen=True, kw_only=True)
class TurbulenceConfig(Recipe):
    """Pilots' reports of turbulence as daily maps of three bands of flight levels, and MERRA-2 columns at the cells."""

    dataset: ClassVar[str] = "turbulence"
    elsewhere: ClassVar[tuple[str, ...]] = ("name", "reports", "columns", "start", "end", "days")

    name: str = setting(
        "turbulence", "Name", "Name of the dataset: lower case letters, digits and hyphens.", min_length=1
    )
    reports: str = setting(
        "",
        "Reports",
        "For files: path, glob or URL of the CSV files of pilots' reports, from the archive of the Iowa Environmental "
        "Mesonet.",
    )
    columns: str = setting(
        "",
        "Columns",
        "For files: path, glob or URL of MERRA-2 files (inst3_3d_asm_Nv: T, U, V, OMEGA, RH, H, PL, PHIS), a day in "
        "each name; empty: maps without training pairs.",
    )
    rows: int = setting(37, "Rows", "Latitudes of the grid, poles included, 3 to 2881; MERRA-2 has 361.", ge=3, le=2881)
    across: int = setting(48, "Columns across", "Longitudes of the grid, 4 to 5760; MERRA-2 has 576.", ge=4, le=5760)
    levels: int = setting(34, "Levels", "Lowest model levels of a column, 1 to 72; 34 reach to 100 hPa.", ge=1, le=72)
    hour: int = setting(18, "Hour", "Hour of the columns in UTC, 0 to 23; it must be in the files.", ge=0, le=23)
    threshold: float = setting(
        0.25,
        "Threshold",
        "Share of moderate or stronger reports from which a cell is turbulent, 0.01 to 1.",
        ge=0.01,
        le=1,
    )
    train_share: float = setting(
        0.75,
        "Share of training",
        "Share of the days to train on, 0.5 to 0.95; the rest is held out.",
        ge=0.5,
        le=0.95,
    )
    split_seed: int = setting(0, "Seed of the split", "Which days are held out, 0 to 2147483647.", ge=0, le=2147483647)
    text_bytes: int = setting(
        512, "Length of texts", "Bytes that are kept of a text, 16 to 4096; a longer one is an error.", ge=16, le=4096
    )
    days: int = setting(8, "Days", "For generated: days from the first one on, 1 to 3660.", ge=1, le=3660)
    daily: int = setting(300, "Reports a day", "For generated: reports of one day, 1 to 20000.", ge=1, le=20_000)
    seed: int = setting(
        0, "Seed", "For generated: start of the world's random stream, 0 to 2147483647.", ge=0, le=2147483647
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "files" and not self.reports:
            raise ValueError(
                f"TurbulenceConfig.reports must name the files of reports when source is 'files', got {self.reports!r}."
            )
        if self.source == "generated" and (self.reports or self.columns):
            raise ValueError(
                f"TurbulenceConfig.source must be 'files' when files are named, got 'generated' beside "
                f"{self.reports or self.columns!r}."
            )

    @property
    def grid(self) -> Grid:
        """The grid of the maps, from the south pole and from 180 W."""
        return grid_of_size(self.rows, self.across)

    @property
    def generated_days(self) -> tuple[date, date]:
        """First and last day of the generated world."""
        first = self.first or _FIRST
        return first, min(self.last or date.max, first + timedelta(days=self.days - 1))

    @property
    def world(self) -> "ReportsConfig":
        """The generated world."""
        from models.climate.generator.reports import ReportsConfig

        return ReportsConfig(rows=self.rows, columns=self.across, levels=self.levels, daily=self.daily, seed=self.seed)

    def sources(self) -> Mapping[str, str]:
        """Raw files wanted: the reports, and the columns where they are named."""
        named = {"reports": self.reports, "columns": self.columns}
        return {name: place for name, place in named.items() if place}

    def survey(self, files: Mapping[str, tuple[Path, ...]]) -> Survey:
        """The months and days there are; raises `InputError`."""
        return prepare.survey(self, files)

    def part(self, part: Part) -> Mapping[str, "xr.Dataset"]:
        """A month of reports with its maps, or a day of columns with its pairs; raises `InputError`."""
        return prepare.make(self, part)

    def export(self, groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
        """Write the published files: maps by year and band, training data by band, and the tables of reports."""
        return layout.export(self, groups, folder)


def tiny() -> TurbulenceConfig:
    """A coarse generated world of eight days."""
    return TurbulenceConfig()


def small() -> TurbulenceConfig:
    """A generated world of sixty days on a coarse grid, with as many reports a day as the archive has."""
    return TurbulenceConfig(start="2023-01-01", days=60, daily=950)  # 2,824,632 reports of 2015-2023 are 860 a day


def paper() -> TurbulenceConfig:
    """The published years and sizes, from files of the archives.

    Years 2021 and 2022 and 34 levels: WxC-Bench at ee00516, aviation_turbulence/code/make_training_data.py, lines 14
    and 109; grid, threshold: grid_pireps.py, lines 20 and 42-49; 75 % to train on:
    neuralnet/train_TurbulenceNN.py, line 42.
    """
    return TurbulenceConfig(
        source="files",
        reports="pirep_downloads/*.csv",
        columns="MERRA2_2021-2022_1000hPa-100hPa/*/*.nc",
        start="2021-01-01",
        end="2022-12-31",
        rows=ROWS,
        across=COLUMNS,
        levels=34,
        hour=18,
        threshold=0.25,
        train_share=0.75,
    )
