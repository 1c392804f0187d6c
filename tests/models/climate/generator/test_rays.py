"""Packets of waves: dispersion, breaking, critical levels, and a flux that is never made on the way."""

from typing import Any

import numpy as np
import pytest

from models.climate.generator import rays
from models.climate.geometry import gaussian_grid

GRID = gaussian_grid(12, 20)
LEVELS = 9
HEIGHT = np.linspace(40e3, 0.0, LEVELS)
DENSITY = 1.4 * np.exp(-HEIGHT / 7000)


def flown(
    u: float | np.ndarray = 0.0,
    *,
    flux: float = 1e-5,
    speed: float = 25.0,
    reach: float = 1.0,
    at: tuple[int, int] = (7, 3),
    east: float = 1.0,
) -> Any:
    """Fluxes and path of a single packet that starts at the ground."""
    shape = (LEVELS, 12, 20)
    wind = np.broadcast_to(np.asarray(u, float).reshape(-1, 1, 1), shape).copy()
    n = np.full(shape, 0.02)
    source = np.zeros((12, 20, 1))
    source[at] = flux
    full = np.ones((12, 20, 1))
    uw, vw, path = np.zeros(shape), np.zeros(shape), np.zeros((1, LEVELS, 5), np.float32)
    rays.trace(
        GRID.latitudes, GRID.row_weights, HEIGHT, DENSITY, wind, np.zeros(shape), n, source, np.array([LEVELS - 1]),
        east * full, speed * full, np.sqrt(1 - east**2) * full, np.array([2e-5]), reach, uw, vw, path,
    )  # fmt: skip
    return uw, vw, path[0]


def test_a_weak_wave_carries_its_flux_all_the_way_and_none_is_lost_between_cells() -> None:
    uw, vw, path = flown(u=5.0)
    whole = (uw * GRID.area_weights).sum((1, 2))
    np.testing.assert_allclose(whole, 1e-5 * GRID.area_weights[7, 3], rtol=1e-12)
    assert not vw.any()
    assert len(np.unique(np.argwhere(uw)[:, 2])) == 3
    np.testing.assert_allclose(path[:, 2], 1e-5, rtol=1e-6)


def test_a_ray_goes_sideways_as_its_group_velocity_says() -> None:
    _, _, path = flown(u=5.0)
    f = 1.4584e-4 * np.sin(np.radians(GRID.latitudes[7]))
    w, n, k = 2e-5 * 20.0, 0.02, 2e-5
    cgz = (w**2 - f**2) ** 1.5 / (w * n * k)
    cgx = (w**2 - f**2) / (w * k) + 5.0
    metres = (path[0, 1] - path[-1, 1]) * 2 * np.pi * rays.RADIUS / 20 * np.cos(np.radians(GRID.latitudes[7]))
    assert metres == pytest.approx(cgx / cgz * 40e3, rel=1e-5)
    assert 1e5 < metres < 5e6
    # |m| of the dispersion relation, and its phase over the climb
    m = n * k / np.sqrt(w**2 - f**2)
    np.testing.assert_allclose(path[:, 3], m, rtol=1e-5)
    assert path[0, 4] == pytest.approx(-m * 40e3, rel=1e-5)


def test_a_ray_that_may_not_go_sideways_stays_in_its_cell_to_the_bit() -> None:
    uw, _, path = flown(u=5.0, reach=0.0)
    assert set(map(tuple, np.argwhere(uw)[:, 1:])) == {(7, 3)}
    assert set(uw[:, 7, 3]) == {1e-5}
    assert set(path[:, 1]) == {3.0}


def test_a_strong_wave_breaks_and_keeps_the_flux_of_the_largest_amplitude() -> None:
    uw, _, path = flown(flux=100.0, reach=0.0)
    f = 1.4584e-4 * np.sin(np.radians(GRID.latitudes[7]))
    m = 0.02 * 2e-5 / np.sqrt((2e-5 * 25) ** 2 - f**2)
    # amplitude sqrt(2 F m / (rho k)) at most the intrinsic phase speed
    np.testing.assert_allclose(np.sqrt(2 * uw[:, 7, 3] * m / (DENSITY * 2e-5)), 25.0, rtol=1e-12)
    assert (np.diff(uw[:, 7, 3]) > 0).all()
    assert path[-1, 2] == pytest.approx(uw[-1, 7, 3])


def test_nothing_passes_a_critical_level() -> None:
    wind = np.where(HEIGHT > 21e3, 26.0, 0.0)
    uw, _, _ = flown(u=wind, reach=0.0)
    assert not uw[wind > 0].any()
    assert (uw[wind == 0][:, 7, 3] > 0).all()
    # against the wind there is no critical level
    uw, _, _ = flown(u=wind, east=-1.0, reach=0.0)
    assert (uw[:, 7, 3] < 0).all()


def test_near_inertial_waves_are_left_behind() -> None:
    # w = K c: 2e-5 * 5 = 1e-4 < f at 60 degrees, but above f near the equator
    assert rays.saturated(1.0, 5.0, 0.02, 1.26e-4, 2e-5, 1.0) == 0
    assert rays.saturated(1e-9, 5.0, 0.02, 1e-5, 2e-5, 1.0) == 1e-9


def test_rays_wrap_around_the_circle() -> None:
    uw, _, path = flown(u=5.0, at=(7, 19))
    assert path[:, 1].max() > 19.5
    assert uw[0, 7, :2].any()


def test_a_drawn_packet_has_the_flux_that_it_stands_for_and_does_not_turn() -> None:
    latitude, longitude = np.linspace(20, 40, 401), np.linspace(100, 120, 401)
    u, v, omega, warmth = (np.zeros((401, 401)) for _ in range(4))
    k, density, flux, m = 500 / rays.RADIUS, 0.05, 2e-3, 1.1e-3
    # four packets at the corners of a lattice cell: their windows' squares sum to one inside
    path = np.array([[lat, column, flux, m, 0.3] for lat in (28.5, 31.5) for column in (36.0, 37.0)])
    one = np.ones(4)
    rays.draw(
        latitude,
        longitude,
        3.0 * one,
        path,
        0.6 * one,
        0.8 * one,
        k * one,
        np.zeros(4),
        density,
        0.02,
        3.0,
        0.0,
        u,
        v,
        omega,
        warmth,
    )
    inside = np.ix_((latitude > 28.5) & (latitude < 31.5), (longitude > 108) & (longitude < 111))
    mean = -(u * omega)[inside].mean() / 9.81, -(v * omega)[inside].mean() / 9.81
    # windows of neighbours agree in phase only in part, and their edges add winds of their own
    assert mean[0] == pytest.approx(0.6 * flux, rel=0.2)
    assert mean[1] / mean[0] == pytest.approx(0.8 / 0.6, rel=0.1)
    step = np.radians(0.05) * rays.RADIUS
    cosine = np.cos(np.radians(latitude))[:, None]
    curl = np.gradient(v, step, axis=1) / cosine - np.gradient(u * cosine, step, axis=0) / cosine
    divergence = np.gradient(u, step, axis=1) / cosine + np.gradient(v * cosine, step, axis=0) / cosine
    inner = slice(3, -3)
    assert np.abs(curl[inner, inner]).max() < 0.03 * np.abs(divergence).max()
    assert np.abs(warmth).max() == pytest.approx(0.02 / 9.81 * np.sqrt(2 * flux * m / (density * k)), rel=0.7)
