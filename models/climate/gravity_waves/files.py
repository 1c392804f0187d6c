"""Hours of a stored group as netCDF files of their own."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from models.climate.gravity_waves.fields import DIMS

if TYPE_CHECKING:
    import xarray as xr


def write_hours(
    dataset: "xr.Dataset", rows: NDArray[Any], names: Iterable[str], path: Path, *, compressed: bool
) -> Path:
    """Write some hours in the words of the store, one hour after another, so that no more is held.

    Args:
        dataset: group with (time, level, lat, lon), opened lazily.
        rows: which hours, rising.
        names: variables.
        path: the file; one that is there gives way.
        compressed: whether values are deflated.

    Returns:
        The path.
    """
    import netCDF4

    packing: dict[str, Any] = {"zlib": True, "complevel": 1} if compressed else {}
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(dict(dataset.attrs))
        for name in DIMS:
            values = dataset[name].values[rows] if name == "time" else dataset[name].values
            file.createDimension(name, len(values))
            file.createVariable(name, values.dtype.newbyteorder("="), (name,))[:] = values
            file[name].setncatts(dict(dataset[name].attrs))
        for name in names:
            file.createVariable(name, "f4", DIMS, **packing).setncatts(dict(dataset[name].attrs))
            for at, row in enumerate(rows.tolist()):
                file[name][at] = dataset[name][row].values
    return path
