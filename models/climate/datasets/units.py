"""Units of weather and climate data: their spellings, and conversion by table.

Every unit is a multiple of a base, plus an offset for temperatures: value in base = value * factor + offset. What does
not stand in the table is refused, never guessed.

Source:
    Factors are those of the SI and of UDUNITS-2; 1 kg m-2 of water is 1 mm deep (density 1000 kg m-3), the convention
    of the WMO for precipitation.
"""

import re

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

_TABLE: dict[str, tuple[str, float, float]] = {
    "K": ("temperature", 1.0, 0.0),
    "degC": ("temperature", 1.0, 273.15),
    "degF": ("temperature", 5 / 9, 273.15 - 32 * 5 / 9),
    "Pa": ("pressure", 1.0, 0.0),
    "hPa": ("pressure", 100.0, 0.0),
    "kPa": ("pressure", 1000.0, 0.0),
    "m s-1": ("speed", 1.0, 0.0),
    "cm s-1": ("speed", 0.01, 0.0),
    "km h-1": ("speed", 1 / 3.6, 0.0),
    "kt": ("speed", 1852 / 3600, 0.0),
    "Pa s-1": ("change of pressure", 1.0, 0.0),
    "hPa s-1": ("change of pressure", 100.0, 0.0),
    "hPa h-1": ("change of pressure", 100 / 3600, 0.0),
    "m2 s-2": ("geopotential", 1.0, 0.0),
    "m": ("length", 1.0, 0.0),
    "km": ("length", 1000.0, 0.0),
    "cm": ("length", 0.01, 0.0),
    "mm": ("length", 0.001, 0.0),
    "ft": ("length", 0.3048, 0.0),
    "kg m-2": ("length", 0.001, 0.0),
    "mm day-1": ("precipitation rate", 1.0, 0.0),
    "cm day-1": ("precipitation rate", 10.0, 0.0),
    "m day-1": ("precipitation rate", 1000.0, 0.0),
    "mm h-1": ("precipitation rate", 24.0, 0.0),
    "mm s-1": ("precipitation rate", 86400.0, 0.0),
    "kg m-2 s-1": ("precipitation rate", 86400.0, 0.0),
    "kg m-2 day-1": ("precipitation rate", 1.0, 0.0),
    "kg m-2 h-1": ("precipitation rate", 24.0, 0.0),
    "1": ("ratio", 1.0, 0.0),
    "%": ("ratio", 0.01, 0.0),
    "g kg-1": ("ratio", 0.001, 0.0),
    "kg kg-1": ("ratio", 1.0, 0.0),
    "s-1": ("frequency", 1.0, 0.0),
    "s-2": ("square of a frequency", 1.0, 0.0),
    "W m-2": ("flux of energy", 1.0, 0.0),
    "J m-2": ("energy on an area", 1.0, 0.0),
    "degrees": ("angle", 1.0, 0.0),
    "rad": ("angle", 180 / np.pi, 0.0),
    "s": ("time", 1.0, 0.0),
    "min": ("time", 60.0, 0.0),
    "h": ("time", 3600.0, 0.0),
    "day": ("time", 86400.0, 0.0),
}

_SPELLINGS: dict[str, str] = {
    **dict.fromkeys(("kelvin", "k", "degk", "deg_k", "degree_kelvin", "degrees_kelvin"), "K"),
    **dict.fromkeys(("c", "celsius", "degc", "deg_c", "degree_celsius", "degrees_celsius", "°c", "degree_c"), "degC"),
    **dict.fromkeys(("f", "fahrenheit", "degf", "degree_fahrenheit", "degrees_fahrenheit"), "degF"),
    **dict.fromkeys(("pascal", "pascals", "pa", "n m-2"), "Pa"),
    **dict.fromkeys(("hpa", "mb", "mbar", "millibar", "millibars", "hectopascal", "hectopascals"), "hPa"),
    **dict.fromkeys(("kpa",), "kPa"),
    **dict.fromkeys(("kt", "kts", "knot", "knots"), "kt"),
    **dict.fromkeys(
        ("m", "meter", "meters", "metre", "metres", "gpm", "geopotential_meter", "m_of_water_equivalent"), "m"
    ),
    **dict.fromkeys(("ft", "foot", "feet"), "ft"),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), "mm"),
    **dict.fromkeys(("", "1", "(0 - 1)", "0-1", "dimensionless", "fraction", "numeric", "unitless", "none", "-"), "1"),
    **dict.fromkeys(("%", "percent"), "%"),
    **dict.fromkeys(("degree", "degrees", "deg", "degrees_true", "degree_true"), "degrees"),
    **dict.fromkeys(("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"), "degrees"),
    **dict.fromkeys(("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese"), "degrees"),
    **dict.fromkeys(("s", "sec", "second", "seconds"), "s"),
    **dict.fromkeys(("min", "minute", "minutes"), "min"),
    **dict.fromkeys(("h", "hr", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "day"),
}

_PER = {"s": "s", "sec": "s", "second": "s", "h": "h", "hr": "h", "hour": "h", "d": "day", "day": "day"}
_REMEDIES = {
    ("geopotential", "length"): "Divide the geopotential by 9.80665 m s-2 to get a height.",
    ("length", "geopotential"): "Multiply the height by 9.80665 m s-2 to get a geopotential.",
    ("change of pressure", "speed"): "Vertical motion in Pa s-1 needs density and g to become m s-1.",
    ("speed", "change of pressure"): "Vertical motion in m s-1 needs density and g to become Pa s-1.",
    ("length", "precipitation rate"): "Divide the amount by the time over which it fell.",
    ("precipitation rate", "length"): "Multiply the rate by the time over which it fell.",
}


def canonical(text: str) -> str:
    """One spelling for a unit: "m s**-1", "m/s", "m.s-1" and "m s^-1" are all "m s-1".

    Args:
        text: as it stands in a file.

    Returns:
        The spelling of the table; unknown units come back with exponents and blanks made alike.

    Source:
        Ours; the spellings are those of the CF conventions, ECMWF, NCEP and NASA's products.
    """
    plain = " ".join(str(text).strip().replace("·", " ").split())
    if plain in _TABLE:
        return plain
    if plain.lower() in _SPELLINGS:
        return _SPELLINGS[plain.lower()]
    plain = re.sub(r"\*\*|\^|\+(?=\d)", "", plain).replace("*", " ")
    plain = re.sub(r"(?<=[A-Za-z0-9])\.(?=[A-Za-z])", " ", plain)
    first, *under = [piece.strip() for piece in plain.split("/")]
    words = first.split()
    for word in (word for piece in under for word in piece.strip("() ").split()):
        found = re.fullmatch(r"([A-Za-z_%°]+)(\d*)", word)
        words.append(f"{found.group(1)}-{found.group(2) or 1}" if found else f"/{word}")
    joined = " ".join(_word(word) for word in words if word != "1")
    return _SPELLINGS.get(joined.lower(), joined)


def _word(word: str) -> str:
    """One factor of a unit, its name as the table has it."""
    found = re.fullmatch(r"([A-Za-z_%°]+)(-?\d+)?", word)
    if not found:
        return word
    name, power = found.group(1), found.group(2) or ""
    if power == "-1" and name.lower() in _PER:
        name = _PER[name.lower()]
    elif name not in _TABLE and name.lower() in _SPELLINGS:
        name = _SPELLINGS[name.lower()]
    return name + power


def convert(values: NDArray[np.floating], given: str, wanted: str, *, place: str) -> NDArray[np.floating]:
    """Values in other units, computed in double precision and kept in the precision that they came in.

    Args:
        values: any shape; not changed.
        given: their units.
        wanted: the units to give.
        place: file and variable, for the error.

    Returns:
        The values themselves when nothing is to be done.

    Raises:
        InputError: a unit does not stand in the table, or the two measure different things.

    Source:
        Ours; see the module.
    """
    scale, offset = between(given, wanted, place=place)
    if scale == 1.0 and offset == 0.0:
        return values
    return np.asarray(values.astype(np.float64) * scale + offset, values.dtype)


def between(given: str, wanted: str, *, place: str) -> tuple[float, float]:
    """Factor and offset from one unit to another: wanted = given * factor + offset.

    Args:
        given: units of what there is.
        wanted: units to be had.
        place: file and variable, for the error.

    Raises:
        InputError: a unit does not stand in the table, or the two measure different things.

    Source:
        Ours; see the module.
    """
    ours, theirs = canonical(given), canonical(wanted)
    if ours == theirs:
        return 1.0, 0.0
    for unit, text in ((ours, given), (theirs, wanted)):
        if unit not in _TABLE:
            raise InputError(
                f"{place}: the unit {text!r} does not stand in the table, so it is not converted from {given!r} to "
                f"{wanted!r}; correct the file's attribute `units` or convert it first."
            )
    (kind, factor, offset), (other, divisor, shift) = _TABLE[ours], _TABLE[theirs]
    if kind != other:
        remedy = _REMEDIES.get((kind, other), "Another variable is meant, or the attribute `units` is wrong.")
        raise InputError(
            f"{place}: in {given!r}, which is a {kind}; {wanted!r} is wanted, which is a {other}. {remedy}"
        )
    return factor / divisor, (offset - shift) / divisor
