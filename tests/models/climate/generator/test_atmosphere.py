"""The large scale: balanced, of low degree, the same bits however it is asked for."""

import numpy as np
import pytest

from models.climate.generator.atmosphere import (
    GAS,
    GRAVITY,
    KAPPA,
    ROTATION,
    SCALE_HEIGHT,
    Atmosphere,
    ground_of,
    hour_of,
    stability,
)  # fmt: skip
from models.climate.geometry import gaussian_grid
from models.climate.harmonics import Harmonics

GRID = gaussian_grid(48, 96)
HOUR = hour_of("2016-02-29T07")
LEVELS = np.array([200.0, 3e4, 8.5e4])


def test_hours_count_from_1970_through_leap_days() -> None:
    assert hour_of("1970-01-01T00") == 0
    assert hour_of("2016-03-01T00") - hour_of("2016-02-28T00") == 48
    assert hour_of("1969-12-31T23") == -1


def test_winds_turn_without_diverging_and_hold_no_degree_beyond_21() -> None:
    u, v, _, _ = Atmosphere(4, GRID.latitudes, GRID.longitudes).fields(HOUR, LEVELS)
    transform = Harmonics(grid=GRID)
    for level in range(3):
        potential, rotation = np.abs(transform.analyse_wind(u[level], v[level])) ** 2
        assert potential.sum() < 1e-20 * rotation.sum()
        assert rotation[transform.degrees > 21].sum() < 1e-20 * rotation.sum()
        assert 5 < u[level].std() < 60


def test_temperature_balances_the_change_of_wind_with_height() -> None:
    # thermal wind: f du/dz = - (R / H) dT/dy, on pressure levels; over the sea, where no ground disturbs the levels
    air = Atmosphere(4, GRID.latitudes, GRID.longitudes)
    air.ground[:] = 0.0
    z = 15_000.0 + np.array([-100.0, 0.0, 100.0])
    u, v, t, _ = air.fields(HOUR, 1e5 * np.exp(-z / SCALE_HEIGHT))
    f = 2 * ROTATION * np.sin(np.radians(GRID.latitudes))[:, None]
    transform = Harmonics(grid=GRID)
    psi = [transform.potential(u[k], v[k])[0] for k in (0, 2)]
    wanted = SCALE_HEIGHT / GAS * f * (psi[1] - psi[0]) / 200.0
    found = t[1] - t[1].mean()
    assert np.abs(found - (wanted - wanted.mean())).max() < 0.02 * np.abs(wanted).max()


def test_a_level_is_the_same_alone_in_company_and_again() -> None:
    air = Atmosphere(4, GRID.latitudes, GRID.longitudes)
    together = air.fields(HOUR, LEVELS)
    air.fields(HOUR + 5, LEVELS)
    alone = Atmosphere(4, GRID.latitudes, GRID.longitudes).fields(HOUR, LEVELS[1:2])
    for one, all_levels in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one[0], all_levels[1])
    assert np.abs(air.fields(HOUR + 5, LEVELS)[0] - together[0]).max() > 0.1


def test_polar_night_jets_blow_from_the_west_in_the_winter_of_their_hemisphere() -> None:
    latitude, longitude = np.array([-60.0, 60.0]), np.arange(36) * 10.0
    air = Atmosphere(0, latitude, longitude)
    hours = [hour_of(f"{year}-{month}-15T00") for year in range(2000, 2012) for month in ("01", "07")]
    wind = np.array([air.fields(hour, np.array([150.0]))[0][0].mean(axis=1) for hour in hours])
    january, july = wind[::2].mean(0), wind[1::2].mean(0)
    assert january[1] > 30 > -30 > january[0]
    assert july[0] > 30 > -30 > july[1]


def test_an_isothermal_column_has_the_textbooks_stability() -> None:
    pressure = np.geomspace(100.0, 1e5, 7)
    found = stability(np.full((7, 2, 3), 240.0), pressure)
    np.testing.assert_allclose(found, GRAVITY**2 * KAPPA / (GAS * 240.0), rtol=1e-12)
    # the adiabatic lapse is neutral but for the curve of ln T between levels
    adiabat = 300.0 * (pressure / 1e5) ** KAPPA
    np.testing.assert_allclose(stability(adiabat[:, None, None], pressure), 0.0, atol=1e-15)


def test_hills_stand_where_they_stand_on_every_grid() -> None:
    fine = ground_of(2, np.array([10.0, 10.5, 11.0]), np.arange(720) * 0.5)
    again = ground_of(2, np.linspace(-90, 90, 361), np.arange(720) * 0.5)
    assert fine.min() >= 0
    assert 0.2 < (again > 10).mean() < 0.8
    assert again.max() == pytest.approx(4000, abs=3500)
    assert ground_of(3, np.array([10.0]), np.arange(720) * 0.5).std() > 0
