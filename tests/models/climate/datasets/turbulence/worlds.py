"""Small files of reports and columns written by hand, and a dataset put together from its parts in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from models.climate.datasets.turbulence.config import TurbulenceConfig
from models.common.parts import Survey
from tests.models.climate.samples import write_netcdf

Files = Mapping[str, tuple[Path, ...]]
Groups = dict[str, xr.Dataset]

HEADER = "VALID,URGENT,AIRCRAFT,REPORT,ICING,TURBULENCE,ATRCC,LAT,LON,PRODUCT_ID\n"
ROWS, ACROSS, LEVELS = 37, 48, 5
"""A grid of 5 x 7.5 degrees: neither MERRA-2's nor square."""

UNITS = {"T": "K", "U": "m s-1", "V": "m s-1", "OMEGA": "Pa s-1", "RH": "1", "H": "m", "PL": "Pa", "PHIS": "m+2 s-2"}


def line(valid: str, level: str, words: str, lat: Any = 40.0, lon: Any = -90.0, message: str = "") -> str:
    """One row of the archive."""
    message = message or f"ORD UA /OV ORD/TM {valid[8:]}/FL{level}/TP B738/TB {words}"
    return f"{valid},F,B738,{message},None,{words},ZAU,{lat},{lon},{valid}-KORD\n"


def write_month(folder: Path, month: str, lines: Sequence[str], name: str = "") -> Path:
    """A file of the archive for one month."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"{month.replace('-', '_')}.csv")
    path.write_text(HEADER + "".join(lines))
    return path


def air(hour: int, rows: int = ROWS, across: int = ACROSS, levels: int = LEVELS) -> dict[str, np.ndarray[Any, Any]]:
    """Columns which tell where and when they are: U is the column's number, V the row's, OMEGA the hour in tenths."""
    level, row, column = np.meshgrid(np.arange(levels), np.arange(rows), np.arange(across), indexing="ij")
    return {
        "T": 210.0 + 10 * level + hour,
        "U": 1.0 * column,
        "V": 1.0 * row,
        "OMEGA": np.full(level.shape, hour / 10),
        "RH": np.full(level.shape, 0.5),
        "H": 16000.0 - 3000 * level,
        "PL": 10000.0 + 20000 * level,
        "PHIS": 100.0 * row[0],
    }


def write_columns(
    folder: Path,
    day: str,
    *,
    hours: Sequence[int] = (0, 18),
    levels: int = LEVELS,
    hidden: tuple[slice, slice, slice] | None = None,
    order: tuple[int, int] = (1, 1),
    stored: Sequence[str] = tuple(UNITS),
    **units: str,
) -> Path:
    """A file as MERRA-2's; `hidden` levels, rows and columns hold the fill."""
    folder.mkdir(parents=True, exist_ok=True)
    down, along = order
    records = [air(hour, levels=levels) for hour in hours]
    variables: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {
        "time": (("time",), np.array(hours, "i4") * 60, {"units": f"minutes since {day} 00:00:00"}),
        "lev": (("lev",), np.arange(72 - levels, 72) + 1.0, {"units": "layer"}),
        "lat": (("lat",), np.linspace(-90, 90, ROWS)[::down], {"units": "degrees_north"}),
        "lon": (("lon",), (-180 + np.arange(ACROSS) * 7.5)[::along], {"units": "degrees_east"}),
    }
    for name in stored:
        values = np.array([record[name] for record in records], "f4")
        if hidden and name != "PHIS":
            values[(slice(None), *hidden)] = 1e15
        dims = ("time", "lat", "lon") if name == "PHIS" else ("time", "lev", "lat", "lon")
        attrs = {"units": units.get(name, UNITS[name]), "_FillValue": np.float32(1e15)}
        variables[name] = (dims, np.ascontiguousarray(values[..., ::down, ::along]), attrs)
    path = folder / f"MERRA2_400.inst3_3d_asm_Nv.{day.replace('-', '')}.SUB.nc"
    sizes: dict[str, int | None] = {"time": len(hours), "lev": levels, "lat": ROWS, "lon": ACROSS}
    return write_netcdf(path, sizes, variables)


def config_of(**settings: Any) -> TurbulenceConfig:
    """A recipe for the files of this module."""
    given = {"source": "files", "reports": "*.csv", "rows": ROWS, "across": ACROSS, "levels": LEVELS, **settings}
    return TurbulenceConfig(**given)


def assembled(config: TurbulenceConfig, files: Files) -> tuple[Survey, Groups]:
    """All parts, in the places that the survey gives them."""
    survey = config.survey(files)
    made = [(part, config.part(part)) for part in survey.parts]
    groups: Groups = {}
    for name, layout in survey.groups.items():
        pieces = [(part.at[name], labelled[name]) for part, labelled in made if name in labelled]
        if layout.append:
            whole = xr.concat([piece for _, piece in pieces], layout.append)
        else:
            whole = xr.concat([piece for _, piece in sorted(pieces, key=lambda one: one[0]["time"])], "time")
        coordinates = {key: (dims, values) for key, (dims, values, _) in layout.coordinates.items()}
        groups[name] = whole.assign_coords(coordinates).assign_attrs(layout.attrs)
        assert set(groups[name].data_vars) == set(layout.variables)
        for key, variable in layout.variables.items():
            assert groups[name][key].dims == variable.dims, key
            assert groups[name][key].dtype == np.dtype(variable.dtype), key
    return survey, groups
