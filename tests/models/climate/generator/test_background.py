"""Smooth fields: analytic ones come out exact, derivatives agree with transforms written apart from them."""

import numpy as np
import pytest

from models.climate.generator.background import RADIUS, Smooth
from models.climate.geometry import gaussian_grid
from models.climate.harmonics import Harmonics


def random_field(smooth: Smooth, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = len(smooth.degrees)
    return (rng.standard_normal((1, size)) + 1j * rng.standard_normal((1, size))) * (smooth.degrees > 0)


def test_the_lowest_degrees_are_the_textbooks() -> None:
    latitude, longitude = np.array([-90.0, -17.0, 0.0, 45.0, 90.0]), np.array([0.0, 33.0, 181.0])
    smooth = Smooth(latitude, longitude, 2)
    for order, degree, wanted in (
        # orthonormal Legendre functions on [-1, 1]
        (0, 1, lambda x, lon: np.sqrt(3 / 2) * x + 0 * lon),
        (1, 1, lambda x, lon: np.sqrt(3 / 4) * np.sqrt(1 - x * x) * np.cos(lon)),
        (0, 2, lambda x, lon: np.sqrt(5 / 8) * (3 * x * x - 1) + 0 * lon),
        (2, 2, lambda x, lon: np.sqrt(15 / 16) * (1 - x * x) * np.cos(2 * lon)),
    ):
        alone = ((smooth.orders == order) & (smooth.degrees == degree)).astype(complex)
        x, lon = np.sin(np.radians(latitude))[:, None], np.radians(longitude)[None, :]
        np.testing.assert_allclose(smooth.field(alone[None])[0], wanted(x, lon), atol=4e-6)


def test_derivatives_agree_with_those_of_the_spherical_transforms() -> None:
    grid = gaussian_grid(40, 80)
    smooth = Smooth(grid.latitudes, grid.longitudes, 17)
    coefficients = random_field(smooth, 1)
    east, north = smooth.gradient(coefficients)
    wanted_east, wanted_north = Harmonics(grid=grid, radius=RADIUS).gradient(smooth.field(coefficients)[0])
    assert np.abs(east[0] - wanted_east).max() < 1e-11 * np.abs(wanted_east).max()
    assert np.abs(north[0] - wanted_north).max() < 1e-11 * np.abs(wanted_north).max()


def test_a_field_holds_no_degree_beyond_its_limit() -> None:
    grid = gaussian_grid(40, 80)
    field = Smooth(grid.latitudes, grid.longitudes, 17).field(random_field(Smooth(np.zeros(1), np.zeros(1), 17), 2))[0]
    transform = Harmonics(grid=grid)
    power = np.abs(transform.analyse(field)) ** 2
    assert power[transform.degrees > 17].sum() < 1e-24 * power.sum()


def test_random_fields_have_the_variance_asked_for_everywhere() -> None:
    smooth = Smooth(np.array([-80.0, 3.0, 50.0]), np.array([12.0, 200.0]), 9)
    shape = np.where(np.arange(10) > 2, 1 / 7, 0.0)
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((2, 6000, len(smooth.degrees)))
    fields = smooth.field((parts[0] + 1j * parts[1]) * smooth.weights(shape))
    np.testing.assert_allclose(fields.var(0), 1.0, atol=0.08)


def test_a_zonal_profile_of_few_degrees_is_found_again() -> None:
    sine, weight = np.polynomial.legendre.leggauss(64)
    latitude = np.array([-60.0, 0.0, 20.0])
    smooth = Smooth(latitude, np.array([5.0]), 6)
    found = smooth.field(smooth.zonal(sine**3 - 0.6 * sine, sine, weight)[None])[0, :, 0]
    x = np.sin(np.radians(latitude))
    assert found == pytest.approx(x**3 - 0.6 * x, abs=1e-12)
