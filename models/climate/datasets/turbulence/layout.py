"""The published files: maps by year and band, training data by band, and the tables of reports.

Bounded memory: a map, a block of samples or a block of reports is in memory at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.climate.datasets import schemas
from models.climate.datasets.schemas import FileSchema
from models.climate.datasets.turbulence.columns import FILL, PROFILES, SURFACE
from models.climate.datasets.turbulence.grids import COLUMNS, NO_DATA, ROWS
from models.climate.datasets.turbulence.wording import BANDS, UNKNOWN

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.turbulence.config import TurbulenceConfig

GRID_FILE = "{year}_{band}_fl.nc"
TRAINING_FILE = "training_data_{band}_fl.nc"
ALL_REPORTS = "csv_fl_rem.csv"
BAND_REPORTS = "{band}_fl.csv"

HOUR_TEXT = (
    "Training data for the turbulence prediciton benchmark model.\nWeather data are MERRA 2 profiles at {hour}Z."
)
"""As it is spelled upstream; the hour is that of the record."""

_BLOCK = 65_536


def file_schemas(config: "TurbulenceConfig") -> dict[str, FileSchema]:
    """What each published file must be, by the pattern of its name.

    That of the schema's data file, but for two things: a grid of another size has other dimensions, and where the fault
    is mended the fill of the training data is one that readers of netCDF know.
    """
    schema = schemas.load("turbulence")
    grid, training = schema.file(GRID_FILE), schema.file(TRAINING_FILE)
    if (config.rows, config.across) != (ROWS, COLUMNS):
        grid = replace(grid, dimensions={**grid.dimensions, "Y": config.rows, "X": config.across})
    changed: dict[str, Any] = {"dimensions": {**training.dimensions, "z": config.levels}}
    if not config.repeats("fill_in_mean"):
        filled = {n: replace(v, fill=FILL) if n in (*PROFILES, SURFACE) else v for n, v in training.variables.items()}
        changed["variables"] = filled
    if not config.repeats("time_index"):
        changed["attributes"] = {"description": HOUR_TEXT.format(hour=f"{config.hour:02}")}
    entries = {GRID_FILE: grid, TRAINING_FILE: replace(training, **changed)}
    return {**entries, **{name: schema.file(name) for name in (ALL_REPORTS, BAND_REPORTS)}}


def export(config: "TurbulenceConfig", groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
    """Write the published files from the stored groups.

    Args:
        config: the recipe that made them.
        groups: "reports", "grids" and, where there are columns, "training"; opened lazily, decoded or not.
        folder: where the files go.

    Returns:
        The files. A band without a day, or without a sample, has none.

    Source:
        WxC-Bench at ee00516: aviation_turbulence/code/grid_pireps.py, lines 97-125 and 145-173; make_training_data.py,
        lines 103-164; turb_eda_preprocessing.ipynb, cells 46, 48 and 49.
    """
    entries = file_schemas(config)
    written = []
    for number, band in enumerate(BANDS):
        for year, maps in _maps(groups["grids"], number):
            path = folder / GRID_FILE.format(year=year, band=band)
            written.append(schemas.write(entries[GRID_FILE], maps, path, compression=1))
        if "training" in groups and len(samples := np.flatnonzero(_plain(groups["training"]["band"]) == number)):
            path = folder / TRAINING_FILE.format(band=band)
            data = _samples(groups["training"], samples)
            written.append(schemas.write(entries[TRAINING_FILE], data, path, compression=1))
    tables = [(ALL_REPORTS, tuple(range(len(BANDS))))]
    tables += [(BAND_REPORTS.format(band=band), (number,)) for number, band in enumerate(BANDS)]
    for name, bands in tables:
        header = list(entries[ALL_REPORTS].variables)
        written.append(schemas.write_text(folder / name, _table(groups["reports"], header, bands)))
    return tuple(written)


def _maps(grids: "xr.Dataset", band: int) -> Iterator[tuple[int, "xr.Dataset"]]:
    """The maps of a band, year by year."""
    import xarray as xr

    years = _plain(grids["file_year"])[:, band]
    days = _days(grids["time"])
    lon, lat = np.meshgrid(_plain(grids["lon"]), _plain(grids["lat"]))
    for year in sorted(set(years.tolist()) - {0}):
        which = np.flatnonzero(years == year)
        maps = grids["Turbulence"].isel(band=band, time=which).variable
        renamed = xr.Variable(("Time", "Y", "X"), maps._data, maps.attrs)
        yield (
            year,
            xr.Dataset(
                {
                    "Turbulence": _whole_numbers(renamed),
                    "Dates": ("Time", np.array([day.replace("-", "") for day in days[which].astype(str)], object)),
                    "Lons": (("Y", "X"), lon),
                    "Lats": (("Y", "X"), lat),
                }
            ),
        )


def _samples(training: "xr.Dataset", which: NDArray[np.int64]) -> "xr.Dataset":
    wanted = training[["TURBULENCE", *PROFILES, SURFACE]].isel(sample=which)
    return wanted.rename_dims(sample="samples").drop_vars(list(wanted.coords))


def _table(reports: "xr.Dataset", header: list[str], bands: tuple[int, ...]) -> Iterator[str]:
    """The lines of a table of reports; the first column is the place of a report among all."""
    total = reports.sizes["report"]
    for begin in range(0, max(total, 1), _BLOCK):
        block = {str(name): _plain(reports[name][begin : begin + _BLOCK]) for name in reports.data_vars}
        minutes = _minutes(block["time"])
        keep = np.isin(block["band"], bands) & (block["band"] != UNKNOWN)
        time = pd.to_datetime(minutes[keep] * 60, unit="s")
        clear = block["clear_air"][keep]
        frame = pd.DataFrame(
            {
                "VALID": time.strftime("%Y%m%d%H%M"),
                "REPORT": _texts(block["message"][keep]),
                "TURBULENCE": _texts(block["turbulence"][keep]),
                "LAT": block["latitude"][keep],
                "LON": block["longitude"][keep],
                "DateTime": time.strftime("%Y-%m-%d %H:%M:%S"),
                "FlightLevels": block["flight_level"][keep],
                "Intensity": block["intensity"][keep],
                "CAT?": np.select([clear == 1, clear == 0], ["True", "False"], ""),
                "Dec_hr": time.hour + time.minute / 60,
            },
            index=begin + np.flatnonzero(keep),
        )
        yield frame.to_csv(header=header[1:] if begin == 0 else False, lineterminator="\n")


def _plain(variable: "xr.DataArray") -> NDArray[Any]:
    return np.asarray(variable.values)


def _days(time: "xr.DataArray") -> NDArray[np.datetime64]:
    """Days, whether the reader has decoded them or not."""
    values = _plain(time)
    return (
        values.astype("datetime64[D]") if values.dtype.kind == "M" else values.astype(np.int64).astype("datetime64[D]")
    )


def _minutes(values: NDArray[Any]) -> NDArray[np.int64]:
    return (values.astype("datetime64[m]") if values.dtype.kind == "M" else values).astype(np.int64)


def _texts(values: NDArray[Any]) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]


def _whole_numbers(maps: "xr.Variable") -> "xr.Variable":
    """Maps whose fill a reader has turned into not-a-number, as whole numbers again."""
    if maps.dtype.kind != "f":
        return maps
    return maps.where(maps.notnull(), NO_DATA).astype(np.uint8)  # type: ignore[no-any-return, no-untyped-call]
