"""Real files of weather and climate, and small ones written by hand in the same formats."""

import os
from pathlib import Path
from typing import Any

import eccodes
import netCDF4
import numpy as np
import pytest


def real(name: str) -> Path:
    """A real file: below `climate/` of the folder that HEADRACE_MIRROR names, or of the data beside the checkout."""
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    given = os.environ.get("HEADRACE_MIRROR")
    for folder in ([Path(given)] if given else []) + [beside]:
        if (folder / "climate" / name).exists():
            return folder / "climate" / name
    pytest.skip(f"no climate/{name} below HEADRACE_MIRROR or {beside}; every rule is tested on files made here too")


def write_netcdf(
    path: Path,
    sizes: dict[str, int | None],
    variables: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]],
    kind: str = "NETCDF4",
    **storage: Any,
) -> Path:
    """A netCDF file of stored numbers: nothing is packed or masked on the way."""
    with netCDF4.Dataset(path, "w", format=kind) as data:
        for name, size in sizes.items():
            data.createDimension(name, size)
        for name, (dims, values, attrs) in variables.items():
            values = np.asarray(values)
            fill = attrs.get("_FillValue")
            own = storage if len(dims) > 1 else {}
            variable = data.createVariable(name, values.dtype, dims, fill_value=fill, **own)
            variable.set_auto_maskandscale(False)
            variable.setncatts({key: value for key, value in attrs.items() if key != "_FillValue"})
            variable[...] = values
    return path


def axes(rows: int = 5, columns: int = 8, times: int = 3) -> dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]:
    """Coordinates of a small global grid, north first, and of hours."""
    return {
        "time": (("time",), np.arange(times, dtype="i4"), {"units": "hours since 2020-02-28 22:00"}),
        "latitude": (("latitude",), np.linspace(90, -90, rows, dtype="f4"), {"units": "degrees_north"}),
        "longitude": (("longitude",), (np.arange(columns) * 360 / columns).astype("f4"), {"units": "degrees_east"}),
    }


def message(values: Any, sample: str = "regular_ll_pl_grib2", **keys: Any) -> bytes:
    """One GRIB message on a global grid; values are (rows, columns), north first."""
    table = np.asarray(values, np.float64)
    rows, columns = table.shape
    handle = eccodes.codes_grib_new_from_samples(sample)
    try:
        grid = {
            "Ni": columns,
            "Nj": rows,
            "latitudeOfFirstGridPointInDegrees": 90.0,
            "latitudeOfLastGridPointInDegrees": -90.0,
            "longitudeOfFirstGridPointInDegrees": 0.0,
            "longitudeOfLastGridPointInDegrees": 360.0 - 360.0 / columns,
            "iDirectionIncrementInDegrees": 360.0 / columns,
            "jDirectionIncrementInDegrees": 180.0 / (rows - 1),
        }
        for key, value in {
            "shortName": "t",
            **grid,
            "dataDate": 20200229,
            "dataTime": 0,
            "bitsPerValue": 24,
            **keys,
        }.items():
            eccodes.codes_set(handle, key, value)
        if np.isnan(table).any():
            eccodes.codes_set(handle, "bitmapPresent", 1)
            eccodes.codes_set(handle, "missingValue", 9999.0)
        eccodes.codes_set_values(handle, np.where(np.isnan(table), 9999.0, table).ravel())
        return bytes(eccodes.codes_get_message(handle))
    finally:
        eccodes.codes_release(handle)
