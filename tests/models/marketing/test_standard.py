"""Standard units: mean 0 and deviation 1 of what varies, and lines that are the same before and after."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.marketing.standard import standard_units


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(2, 47), st.sampled_from([1e-300, 1e-9, 1.0, 1e9, 1e300]))
def test_columns_have_mean_zero_and_deviation_one_in_any_unit(seed: int, rows: int, unit: float) -> None:
    table = np.random.default_rng(seed).normal(size=(rows, 3)) * unit
    standard = standard_units(table)(table)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(standard.std(0), 1, rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31))
def test_a_line_by_standard_units_is_the_same_line_by_columns_as_they_come(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = np.column_stack([rng.normal(size=(40, 2)) * [1.0, 1e6] + [3.0, -1e7], np.full(40, 0.1)])
    units, slope = standard_units(table), rng.normal(size=2)
    offset, plain = units.back(slope)
    np.testing.assert_allclose(table @ plain + offset, units(table) @ slope, atol=1e-9)
    assert plain[2] == 0


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1e9, 1e-300, 1e300])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_repeated_value_does_not_vary_whatever_its_rounding(value: float, rows: int) -> None:
    table = np.column_stack([np.full(rows, value), np.full(rows, value) * (1 + 1e-15 * (np.arange(rows) % 2))])
    units = standard_units(table)
    assert not units.varies.any()
    assert units(table).shape == (rows, 0)


def test_small_differences_of_large_numbers_vary() -> None:
    seconds = 1.7e9 + np.arange(60.0)  # a minute in the clock of the world
    assert standard_units(seconds[:, None]).varies.all()
