"""Helmholtz parts and truncations against analytic fields, spherical rotations, and references of windspharm."""

from pathlib import Path

import numpy as np
import pytest

from models.climate.geometry import EARTH_RADIUS, Grid, gaussian_grid, grid_of, regular_grid
from models.climate.harmonics import Harmonics
from models.common.errors import InputError
from tests.models.climate.samples import real

GRIDS = {
    "ERA5 at 0.3 degrees": regular_grid(601, 1200),
    "MERRA-2": regular_grid(361, 576, north_first=False, first_longitude=-180.0),
    "centred": regular_grid(90, 188, poles=False),
    "T42, south first": gaussian_grid(64, 128),
    "odd": gaussian_grid(47, 93, north_first=True, first_longitude=3.5),
}


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - truth).max() / np.abs(truth).max())


def sectoral(grid: Grid, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """grad of R cos^l(lat) cos(l lon), which is a harmonic of degree and order l, by hand."""
    lat, lon = np.radians(grid.latitudes)[:, None], np.radians(grid.longitudes)
    east = -degree * np.cos(lat) ** (degree - 1) * np.sin(degree * lon)
    return east, -degree * np.cos(lat) ** (degree - 1) * np.sin(lat) * np.cos(degree * lon)


def zonal(grid: Grid, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """The solid-body like rotation k x grad of R P_l(sin lat): along circles of latitude alone, without divergence."""
    lat = np.radians(grid.latitudes)[:, None]
    slope = np.polynomial.legendre.Legendre.basis(degree).deriv()(np.sin(lat)) * np.cos(lat)
    return np.broadcast_to(-slope, grid.shape).copy(), np.zeros(grid.shape)


@pytest.mark.parametrize("name", GRIDS)
def test_the_irrotational_part_is_the_gradient_that_went_in(name: str) -> None:
    grid = GRIDS[name]
    sphere = Harmonics(grid=grid)
    low, high = sectoral(grid, 5), sectoral(grid, min(sphere.degree, sphere.order) // 2)
    turning = zonal(grid, 7)
    u, v = (a + 3 * b + 10 * c for a, b, c in zip(low, high, turning, strict=True))
    for above, truth in ((0, [a + 3 * b for a, b in zip(low, high, strict=True)]), (21, [3 * b for b in high])):
        for found, wanted in zip(sphere.irrotational(u, v, above=above), truth, strict=True):
            assert error(found, wanted) < 1e-10


@pytest.mark.parametrize("name", GRIDS)
def test_any_resolved_wind_comes_back_and_its_parts_are_found(name: str) -> None:
    sphere = Harmonics(grid=GRIDS[name])
    count = len(sphere.degrees)
    random = np.random.default_rng(1)
    coefficients = (random.normal(size=(2, count)) + 1j * random.normal(size=(2, count))) / (1 + sphere.degrees) ** 1.5
    coefficients[:, : sphere.degree + 1].imag = 0
    coefficients[:, 0] = 0
    u, v = sphere.synthesise_wind(coefficients)
    assert error(sphere.analyse_wind(u, v), coefficients) < 1e-10
    fine = coefficients[:1].copy()
    fine[:, sphere.degrees <= 21] = 0
    for found, wanted in zip(sphere.irrotational(u, v, above=21), sphere.synthesise_wind(fine), strict=True):
        assert error(found, wanted) < 1e-10
    single = sphere.irrotational(u.astype(np.float32), v.astype(np.float32), above=21)
    for found, wanted in zip(single, sphere.synthesise_wind(fine), strict=True):
        assert found.dtype == np.float64 and error(found, wanted) < 5e-6


@pytest.mark.parametrize("name", GRIDS)
def test_truncation_takes_whole_degrees_and_nothing_of_the_finest(name: str) -> None:
    grid = GRIDS[name]
    sphere = Harmonics(grid=grid)
    count = len(sphere.degrees)
    random = np.random.default_rng(2)
    coefficients = random.normal(size=count) + 1j * random.normal(size=count)  # white: the finest are as strong as any
    coefficients[: sphere.degree + 1].imag = 0
    field = sphere.synthesise(coefficients)
    low = np.where(sphere.degrees <= 21, coefficients, 0)
    assert error(sphere.low_pass(field, 21), sphere.synthesise(low)) < 1e-10
    assert error(sphere.high_pass(field, 21), sphere.synthesise(coefficients - low)) < 1e-10
    assert error(sphere.low_pass(field, 10**6), field) < 1e-10


def test_divergence_vorticity_potential_and_gradient_agree_with_calculus() -> None:
    grid = GRIDS["odd"]
    sphere = Harmonics(grid=grid)
    lat, lon = np.radians(grid.latitudes)[:, None], np.radians(grid.longitudes)
    wave = np.cos(lat) ** 5 * np.cos(5 * lon)
    legendre = np.broadcast_to(np.polynomial.legendre.Legendre.basis(7)(np.sin(lat)), grid.shape)
    u, v = (a + b for a, b in zip(sectoral(grid, 5), zonal(grid, 7), strict=True))
    # chi = R cos^5 cos(5 lon), psi = R P_7; the Laplacian multiplies by -l (l + 1) / R^2.
    assert error(sphere.divergence(u, v), -30 / EARTH_RADIUS * wave) < 1e-11
    assert error(sphere.vorticity(u, v), -56 / EARTH_RADIUS * legendre) < 1e-11
    psi, chi = sphere.potential(u, v)
    assert error(chi, EARTH_RADIUS * wave) < 1e-11 and error(psi, EARTH_RADIUS * legendre) < 1e-11
    for found, wanted in zip(sphere.gradient(EARTH_RADIUS * wave), sectoral(grid, 5), strict=True):
        assert error(found, wanted) < 1e-11


def test_the_order_of_rows_and_the_first_longitude_do_not_matter() -> None:
    random = np.random.default_rng(3)
    u, v = random.normal(size=(2, 31, 60))
    first = Harmonics(grid=regular_grid(31, 60)).irrotational(u, v, above=5)
    flipped = Harmonics(grid=regular_grid(31, 60, north_first=False)).irrotational(u[::-1], v[::-1], above=5)
    rolled = Harmonics(grid=regular_grid(31, 60, first_longitude=-180.0)).irrotational(
        np.roll(u, 30, 1), np.roll(v, 30, 1), above=5
    )
    for a, b, c in zip(first, flipped, rolled, strict=True):
        assert np.allclose(a, b[::-1], atol=1e-13) and np.allclose(a, np.roll(c, -30, 1), atol=1e-12)


def test_truncating_the_potential_leaves_no_wind_at_the_poles_that_truncating_components_does() -> None:
    # A flow of degree 3 across the pole is large scale: nothing of it is finer than T21.
    grid = regular_grid(73, 144)
    sphere = Harmonics(grid=grid)
    lat, lon = np.radians(grid.latitudes)[:, None], np.radians(grid.longitudes)
    chi = EARTH_RADIUS * np.cos(lat) * (5 * np.sin(lat) ** 2 - 1) * np.cos(lon)  # P_31
    u, v = sphere.gradient(chi)
    kept = sphere.irrotational(u, v, above=21)
    by_component = sphere.high_pass(u, 21)
    assert np.abs(kept).max() < 1e-11 * np.abs(u).max()
    assert np.abs(by_component[0]).max() > 0.3 * np.abs(u[0]).max()


@pytest.mark.parametrize("kind", ["regular", "gaussian"])
def test_references_of_windspharm_are_met(kind: str) -> None:
    folder = real(f"oracle_windspharm/{kind}")

    def saved(name: str) -> np.ndarray:
        return np.load(Path(folder) / f"{name}.ref.npy").squeeze().astype(np.float64)

    u, v = saved("uwnd"), saved("vwnd")
    grid = regular_grid(*u.shape) if kind == "regular" else gaussian_grid(*u.shape, north_first=True)
    sphere = Harmonics(grid=grid)
    parts = sphere.analyse_wind(u, v)
    psi, chi = sphere.potential(u, v)
    found = {
        "uchi": sphere.irrotational(u, v)[0],
        "vchi": sphere.irrotational(u, v)[1],
        "upsi": sphere.synthesise_wind(np.stack([0 * parts[1], parts[1]]))[0],
        "vpsi": sphere.synthesise_wind(np.stack([0 * parts[1], parts[1]]))[1],
        "div": sphere.divergence(u, v),
        "vrt": sphere.vorticity(u, v),
        "psi": psi,
        "chi": chi,
        "chigradu": sphere.gradient(saved("chi"))[0],
        "chigradv": sphere.gradient(saved("chi"))[1],
        "vrt_trunc": sphere.low_pass(saved("vrt"), 21),
    }
    assert {name: error(one, saved(name)) for name, one in found.items() if error(one, saved(name)) > 5e-6} == {}


def test_what_is_no_global_grid_or_not_of_the_grid_is_refused() -> None:
    with pytest.raises(InputError, match=r"global grid, got \(3, 2\), regional, from latitude 40 to 43"):
        Harmonics(grid=grid_of([40.0, 41, 43], [0.0, 1]))
    sphere = Harmonics(grid=regular_grid(5, 8))
    with pytest.raises(InputError, match=r"field of \(8, 5\)"):
        sphere.analyse(np.zeros((8, 5)))
    with pytest.raises(InputError, match=r"winds of \(5, 8\) and \(5, 9\)"):
        sphere.irrotational(np.zeros((5, 8)), np.zeros((5, 9)))
