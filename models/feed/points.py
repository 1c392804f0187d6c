"""Points on the sphere as values in a table: a struct of latitude and longitude, in degrees.

Shapes: N points.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

POINT = pa.struct([("latitude", pa.float64()), ("longitude", pa.float64())])
NAMES = (("latitude", "longitude"), ("lat", "lon"))


def is_point(type_: pa.DataType) -> bool:
    """Whether values of a pyarrow type are points: a struct of two floats named as in `NAMES`, in either order."""
    return bool(
        pa.types.is_struct(type_)
        and any(sorted(names) == sorted(field.name for field in type_) for names in NAMES)
        and all(pa.types.is_floating(field.type) for field in type_)
    )


def degrees_of(values: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """Points as degrees.

    Args:
        values: N values of a type that `is_point`.

    Returns:
        Of shape (N, 2), float64: latitude and longitude. A point without one of them, or with not-a-number, is no
        point: both are not-a-number. The longitude -180 has become 180, which is the same.

    Source:
        Ours.
    """
    named = {field.name for field in values.type}
    degrees = np.empty((len(values), 2))
    for place, name in enumerate(next(names for names in NAMES if named == set(names))):
        degrees[:, place] = pc.struct_field(values, name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    degrees[np.isnan(degrees).any(axis=1)] = np.nan
    degrees[degrees[:, 1] == -180, 1] = 180
    return degrees


def outside(degrees: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points, as degrees (N, 2), are no place on the sphere: of shape (N,)."""
    return np.asarray((np.abs(degrees) > (90, 180)).any(axis=1))


def struct_of(degrees: NDArray[np.float64], type_: pa.DataType) -> pa.StructArray:
    """Points as values of a pyarrow type.

    Args:
        degrees: of shape (N, 2), as from `degrees_of`.
        type_: a type that `is_point`.

    Returns:
        N values; null where a point is not-a-number.

    Source:
        Ours.
    """
    absent = np.isnan(degrees[:, 0])
    filled = np.where(absent[:, None], 0.0, degrees)
    parts = [pa.array(filled[:, int(field.name.startswith("lon"))]).cast(field.type) for field in type_]
    return pa.StructArray.from_arrays(parts, fields=list(type_), mask=pa.array(absent))
