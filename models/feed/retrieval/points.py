"""Points on the sphere: what is inside a circle, and a rectangle around what is.

A point lies in a circle of r kilometres around another when the straight line between them, through the sphere, is no
longer than that of an arc of r kilometres: with x and c as unit vectors and R the radius of the Earth,

    |x - c|^2 <= (2 sin(r / 2R))^2;   from half of the circumference on, every point is inside.

That is the great-circle distance, compared before a root or an arc sine could blur it. Everybody must find the same:
a library's sine differs by a bit from that of another, or of another processor. So sine and cosine are computed here,
from degrees, by additions and multiplications alone, each of which IEEE 754 rounds in one way, and so is the sum of
three squares. A verdict has the same bits wherever it is found. It is that of exact arithmetic unless the line is
within some 1e-15 R of the limit: 10 nanometres on the ground, or half a metre close to the opposite point.

Shapes: N points.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.feed.retrieval.filter import GeoBox, GeoWithin

EARTH_KM = 6371.0088
"""Mean radius of the Earth, (2a + b) / 3 of the ellipsoid GRS 80 (Moritz 2000, Geodetic Reference System 1980)."""

_SPARE = 1e-4
"""Degrees by which a rectangle is larger than its circle: far above any rounding, which close to the opposite point is
1e-7 radians."""

_SINE = [(-1) ** n / math.factorial(2 * n + 1) for n in reversed(range(9))]
_COSINE = [(-1) ** n / math.factorial(2 * n) for n in reversed(range(9))]


def units_of(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points as unit vectors.

    Args:
        degrees: of shape (N, 2): latitude and longitude, or not-a-number.

    Returns:
        Of shape (N, 3), float64, with the same bits on every machine; not-a-number where the degrees are.

    Source:
        Ours; see the module.
    """
    sine, cosine = _sine_and_cosine(degrees)
    return np.stack([cosine[:, 0] * cosine[:, 1], cosine[:, 0] * sine[:, 1], sine[:, 0]], axis=1)


def circle_of(where: GeoWithin) -> tuple[NDArray[np.float64], float]:
    """The circle of a filter, as it is compared.

    Args:
        where: the filter.

    Returns:
        The centre as a unit vector of shape (3,), and the largest square of a distance to it, in radii of the Earth.

    Source:
        Ours; see the module.
    """
    (centre,) = units_of(np.array([[where.latitude, where.longitude]]))
    if where.km >= math.pi * EARTH_KM:
        return centre, math.inf
    sine, _ = _sine_and_cosine(np.array(where.km / (2 * EARTH_KM) * (180 / math.pi)))
    chord = 2 * float(sine)
    return centre, chord * chord


def sides_of(where: GeoBox) -> tuple[float, float]:
    """The west and east of a box for longitudes above -180 up to 180, of which those from west eastwards are inside."""
    return (180.0 if where.west == -180 and where.east != 180 else where.west), where.east


def rectangle(where: GeoWithin | GeoBox) -> tuple[float, float, float, float]:
    """A rectangle in which all points are that pass a filter.

    Args:
        where: the filter.

    Returns:
        South, west, north and east in degrees, all included; longitudes go from west eastwards to east, and across the
        antimeridian when west is above east.

    Source:
        The tangents of a circle that are meridians: sin(difference of longitude) = sin(radius) / cos(latitude).
    """
    if isinstance(where, GeoBox):
        west, east = (-180.0, 180.0) if max(-where.south, where.north) == 90 else sides_of(where)
        return where.south, west, where.north, east
    reach = math.degrees(where.km / EARTH_KM) + _SPARE
    south, north = where.latitude - reach, where.latitude + reach
    if south <= -90 or north >= 90:  # a pole, and with it every longitude
        return max(south, -90.0), -180.0, min(north, 90.0), 180.0
    spread = math.degrees(math.asin(math.sin(math.radians(reach)) / math.cos(math.radians(where.latitude))))
    west, east = where.longitude - spread, where.longitude + spread
    return south, west + 360 * (west < -180), north, east - 360 * (east > 180)


def _sine_and_cosine(degrees: NDArray[np.float64]) -> tuple[Any, Any]:
    """Of angles from -180 to 180, of any shape: exact steps to the nearest quarter turn, and series from there."""
    quarters = np.rint(degrees / 90)
    x = (degrees - 90 * quarters) * (math.pi / 180)  # the difference is exact
    square = x * x
    sine, cosine = np.zeros_like(x), np.zeros_like(x)
    for odd, even in zip(_SINE, _COSINE, strict=True):
        sine, cosine = sine * square + odd, cosine * square + even
    sine = sine * x
    turned = np.nan_to_num(quarters).astype(np.int64) % 4
    return np.choose(turned, [sine, cosine, -sine, -cosine]), np.choose(turned, [cosine, -sine, -cosine, sine])
