import numpy as np
import pytest

from models.climate.datasets.units import between, canonical, convert
from models.common.errors import InputError


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("m s**-1", "m s-1"),
        ("m/s", "m s-1"),
        ("m.s-1", "m s-1"),
        ("m s^-1", "m s-1"),
        ("m+2 s-2", "m2 s-2"),
        ("m**2 s**-2", "m2 s-2"),
        ("Pa s**-1", "Pa s-1"),
        ("Pa/s", "Pa s-1"),
        ("millibars", "hPa"),
        ("degK", "K"),
        ("kg kg**-1", "kg kg-1"),
        ("kg m**-2", "kg m-2"),
        ("mm/d", "mm day-1"),
        ("mm hr-1", "mm h-1"),
        ("kg/(m2 s)", "kg m-2 s-1"),
        ("1/s", "s-1"),
        ("Numeric", "1"),
        ("degrees_north", "degrees"),
        ("furlongs", "furlongs"),
    ],
)
def test_one_unit_has_one_spelling_however_a_file_writes_it(spelled: str, plain: str) -> None:
    assert canonical(spelled) == plain
    assert canonical(canonical(spelled)) == plain


@pytest.mark.parametrize(
    ("value", "given", "wanted", "right"),
    [
        (0.0, "degC", "K", 273.15),
        (212.0, "degF", "degC", 100.0),
        (1013.25, "hPa", "Pa", 101325.0),
        (1.0, "kt", "m s-1", 1852 / 3600),  # the international nautical mile, exact by definition
        (2.5, "kg m**-2", "mm", 2.5),
        (1.0, "mm/hr", "mm/day", 24.0),
        (1e-4, "kg m**-2 s**-1", "mm day-1", 8.64),
        (0.001, "m", "mm", 1.0),
        (50.0, "%", "1", 0.5),
    ],
)
def test_conversions_are_those_of_the_definitions(value: float, given: str, wanted: str, right: float) -> None:
    assert convert(np.array([value]), given, wanted, place="x")[0] == pytest.approx(right, rel=1e-14)
    back = convert(np.array([right]), wanted, given, place="x")[0]
    assert back == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_a_conversion_is_rounded_once() -> None:
    values = np.random.default_rng(0).uniform(180, 320, 1000).astype(np.float32)
    converted = convert(values, "K", "degC", place="x")
    assert converted.dtype == np.float32
    assert np.array_equal(converted, (values.astype(np.float64) - 273.15).astype(np.float32))


def test_units_that_measure_different_things_are_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"a\.nc, z: in 'm2 s-2', which is a geopotential; 'm' is wanted.*9\.80665"):
        between("m2 s-2", "m", place="a.nc, z")
    with pytest.raises(InputError, match=r"precipitation rate.*time over which it fell"):
        between("kg m-2 s-1", "mm", place="a.nc, pr")
    with pytest.raises(InputError, match="'furlongs' does not stand in the table"):
        between("furlongs", "m", place="a.nc, x")
    assert between("furlongs", "furlongs", place="a.nc, x") == (1.0, 0.0)
