"""What the writers of netCDF files share."""

from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray


def coordinates(file: netCDF4.Dataset, **axes: tuple[NDArray[Any], dict[str, str]]) -> None:
    """Make dimensions and their coordinate variables.

    Args:
        file: open for writing.
        axes: name to values, whose type is kept, and attributes.

    Source:
        NetCDF's convention that a dimension's variable has its name.
    """
    for name, (values, attributes) in axes.items():
        file.createDimension(name, len(values))
        file.createVariable(name, values.dtype, (name,))[:] = values
        file[name].setncatts(attributes)


def variable(
    file: netCDF4.Dataset,
    name: str,
    dims: tuple[str, ...],
    values: NDArray[Any],
    fill: float | None = None,
    **attributes: Any,
) -> None:
    """Write one variable in its own type, zlib-compressed as archives are; `fill` becomes `_FillValue`."""
    made = file.createVariable(name, values.dtype, dims, zlib=True, complevel=1, fill_value=fill)
    made.set_auto_maskandscale(False)
    made.setncatts(
        {key: np.asarray(value)[()] if not isinstance(value, str) else value for key, value in attributes.items()}
    )
    made[:] = values
