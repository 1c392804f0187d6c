"""Remapping keeps area integrals, constants and places; spectral means are exact where the grid resolves the field."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.geometry import Grid, gaussian_grid, grid_of, regular_grid
from models.climate.harmonics import Harmonics
from models.climate.remapping import Conservative, SpectralMeans
from models.common.errors import InputError

T42 = gaussian_grid(64, 128)
SOURCES = {
    "0.3 degrees": regular_grid(601, 1200),
    "0.25 degrees": regular_grid(721, 1440),
    "south first, from 180 W": regular_grid(361, 576, north_first=False, first_longitude=-180.0),
    "centred, from an edge at 180.3125 W": regular_grid(360, 576, poles=False, first_longitude=-180.0),
    "gaussian": gaussian_grid(96, 193, north_first=True, first_longitude=0.7),
}


def share(grid: Grid, target: Grid, field: np.ndarray) -> np.ndarray:
    """The remap in plain words: for every pair of cells, the area that they share."""
    out = np.zeros(target.shape)
    area = np.zeros(target.shape)
    west, east = grid.longitude_bounds[:-1], grid.longitude_bounds[1:]
    for t in range(target.shape[0]):
        low, high = sorted(target.latitude_bounds[t : t + 2])
        for i in range(grid.shape[0]):
            south, north = sorted(grid.latitude_bounds[i : i + 2])
            south, north = max(south, low), min(north, high)
            if north <= south:
                continue
            band = np.sin(np.radians(north)) - np.sin(np.radians(south))
            for c in range(target.shape[1]):
                left, right = target.longitude_bounds[c : c + 2]
                for turn in (-720, -360, 0, 360, 720):
                    common = np.clip(np.minimum(east + turn, right) - np.maximum(west + turn, left), 0, None)
                    out[t, c] += band * (common * field[i]).sum()
                    area[t, c] += band * common.sum()
    return np.asarray(out / area)


@pytest.mark.parametrize("north_first", [True, False])
@pytest.mark.parametrize("first", [0.0, -180.0, 7.25])
def test_cell_means_are_those_of_shared_areas(north_first: bool, first: float) -> None:
    source = regular_grid(13, 17, north_first=north_first, first_longitude=first)
    field = np.random.default_rng(0).normal(size=source.shape)
    for target in (gaussian_grid(4, 6), gaussian_grid(5, 7, north_first=True, first_longitude=100.0)):
        found = Conservative(source=source, target=target)(field)
        assert np.allclose(found, share(source, target, field), atol=1e-12)


@pytest.mark.parametrize("name", SOURCES)
def test_area_integrals_are_kept(name: str) -> None:
    source = SOURCES[name]
    remap = Conservative(source=source, target=T42)
    field = np.random.default_rng(1).normal(size=(3, *source.shape)) + 280
    found = remap(field)
    assert np.abs(T42.mean(found) / source.mean(field) - 1).max() < 1e-12
    stored = found.astype(np.float32)
    assert np.abs(T42.mean(stored) / source.mean(field) - 1).max() < 1e-6
    # Of a field of both signs, relative to its size.
    waves = field - 280
    assert np.abs(T42.mean(remap(waves)) - source.mean(waves)).max() < 1e-12 * np.abs(waves).max()


@pytest.mark.parametrize("name", SOURCES)
def test_constants_stay_and_no_value_leaves_its_range(name: str) -> None:
    source = SOURCES[name]
    remap = Conservative(source=source, target=T42)
    assert np.abs(remap(np.full(source.shape, 3.0)) - 3).max() < 1e-14
    field = np.random.default_rng(2).uniform(-1, 1, source.shape).astype(np.float32)
    assert np.abs(remap(field)).max() <= np.abs(field).max()


def test_single_precision_fields_are_summed_in_double_precision() -> None:
    source = SOURCES["0.3 degrees"]
    field = (np.random.default_rng(3).normal(size=source.shape) + 280).astype(np.float32)
    remap = Conservative(source=source, target=T42)
    assert np.array_equal(remap(field), remap(field.astype(np.float64)))
    dense = remap.rows.dense(601) @ field.astype(np.float64) @ remap.columns.dense(1200).T
    assert np.abs(remap(field) / dense - 1).max() < 1e-14
    into = np.empty((1, 1, 64, 128), np.float32)
    assert np.array_equal(remap(field[None, None], into), remap(field)[None, None].astype(np.float32))
    whole = np.arange(601 * 1200).reshape(601, 1200)
    assert np.array_equal(remap(whole), remap(whole.astype(np.float64)))


def test_a_missing_value_spreads_or_is_left_out() -> None:
    source, target = regular_grid(13, 17), gaussian_grid(4, 6)
    remap = Conservative(source=source, target=target)
    field = np.random.default_rng(4).normal(size=source.shape)
    assert np.allclose(remap.skipping(field), remap(field), atol=1e-14)
    holes = field.copy()
    holes[5, 3] = np.nan
    touched = np.isnan(remap(holes))
    assert 0 < touched.sum() < touched.size
    known = remap.skipping(holes, least=0.01)
    assert not np.isnan(known).any()
    assert np.allclose(known[~touched], remap(field)[~touched], atol=1e-14)
    # A field that is constant where it is known stays so: the hole has no weight.
    assert np.allclose(remap.skipping(np.where(np.isnan(holes), np.nan, 7.0), least=0.01), 7.0)
    assert np.isnan(remap.skipping(holes, least=1.0)[touched]).all()
    assert np.isnan(remap.skipping(np.full(source.shape, np.nan))).all()


@given(
    rows=st.integers(2, 20), columns=st.integers(1, 30), coarse_rows=st.integers(1, 30),
    coarse_columns=st.integers(1, 30), first=st.floats(-400, 400), north=st.booleans(), poles=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_global_grid_goes_to_any_other(
    rows: int, columns: int, coarse_rows: int, coarse_columns: int, first: float, north: bool, poles: bool
) -> None:
    source = regular_grid(rows, columns, north_first=north, poles=poles, first_longitude=first)
    target = gaussian_grid(coarse_rows, coarse_columns)
    remap = Conservative(source=source, target=target)
    field = np.random.default_rng(rows).normal(size=source.shape)
    assert remap(field).shape == target.shape
    assert abs(target.mean(remap(field)) - source.mean(field)) < 1e-12
    assert np.abs(remap(np.ones(source.shape)) - 1).max() < 1e-13


def test_published_bounds_beyond_the_poles_take_the_polar_rows_away() -> None:
    source = regular_grid(601, 1200)
    own = Conservative(source=source, target=T42)
    bounds = (90.15, *source.latitude_bounds[1:-1], -90.15)
    published = Conservative(source=source, target=T42, latitude_bounds=bounds)
    polar = np.zeros(source.shape)
    polar[[0, -1]] = 1.0
    assert own(polar)[[0, -1]].min() > 0 and np.abs(published(polar)).max() < 1e-12
    field = np.random.default_rng(5).normal(size=source.shape)
    assert np.abs(own(field) - published(field))[1:-1].max() < 1e-12
    # What is missing is the share of the polar cells: 1 - cos .15 of the cap's 1 - sin 86.5 degrees or so.
    lost = 1 - published(np.ones(source.shape))
    cap = 1 - abs(T42.sines[1])
    assert lost[0] == pytest.approx((1 - np.cos(np.radians(0.15))) / cap, rel=1e-6)


def analytic(grid: Grid, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u, v and omega of chi = R cos^l cos(l lon), omega = cos^l sin(l lon)."""
    lat, lon = np.radians(grid.latitudes)[:, None], np.radians(grid.longitudes)
    u = -degree * np.cos(lat) ** (degree - 1) * np.sin(degree * lon)
    v = -degree * np.cos(lat) ** (degree - 1) * np.sin(lat) * np.cos(degree * lon)
    return u, v, np.cos(lat) ** degree * np.sin(degree * lon)


def true_means(target: Grid, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of u omega and v omega over cells: latitude by quadrature, longitude in closed form."""
    x, w = np.polynomial.legendre.leggauss(40)
    rows = []
    for low, high in np.radians(np.stack([target.latitude_bounds[:-1], target.latitude_bounds[1:]], 1)):
        lat = (low + high) / 2 + (high - low) / 2 * x
        area = w * np.cos(lat)
        power = np.cos(lat) ** (2 * degree - 1)
        rows.append([(area * power).sum() / area.sum(), (area * power * np.sin(lat)).sum() / area.sum()])
    u_row, v_row = np.array(rows).T[:, :, None]
    lon, half = np.radians(target.longitudes), np.pi / target.shape[1]
    damped = np.sin(2 * degree * half) / (2 * degree * half)  # of the mean of a wave of 2 l over a cell
    # -l cos^(2l-1) sin^2 = -l cos^(2l-1) (1 - cos 2l lon) / 2, and -l cos^(2l-1) sin(lat) sin(2l lon) / 2.
    return (
        -degree * u_row * (1 - damped * np.cos(2 * degree * lon)) / 2,
        -degree * v_row * damped * np.sin(2 * degree * lon) / 2,
    )


@pytest.mark.parametrize("degree", [22, 100, 179])
def test_the_flux_of_an_analytic_wave_is_exact_on_the_grid_and_in_coarse_cells(degree: int) -> None:
    source = SOURCES["0.25 degrees"]
    u, v, omega = analytic(source, degree)
    sphere = Harmonics(grid=source)
    east, north = sphere.irrotational(u, v, above=21)
    wave = sphere.high_pass(omega, 21)
    for found, wanted in ((east * wave, u * omega), (north * wave, v * omega)):
        assert np.abs(found - wanted).max() < 1e-8 * np.abs(u * omega).max()
    # The zonal mean of the flux is -(l / 2) cos^(2l-1), whatever the longitude.
    zonal = -degree / 2 * np.cos(np.radians(source.latitudes)) ** (2 * degree - 1)
    assert np.abs((east * wave).mean(axis=1) - zonal).max() < 1e-8 * degree
    means = SpectralMeans(source=source, target=T42)
    for fine, truth in zip((east * wave, north * wave), true_means(T42, degree), strict=True):
        assert np.abs(means(fine, wind=True) - truth).max() < 1e-6 * np.abs(truth).max()
    # First order takes the value at the middle of a cell for its mean.
    cells = Conservative(source=source, target=T42)(east * wave)
    truth = true_means(T42, degree)[0]
    assert 1e-4 < np.abs(cells - truth).max() / np.abs(truth).max() < 0.05


@pytest.mark.parametrize("name", ["0.3 degrees", "south first, from 180 W", "centred, from an edge at 180.3125 W"])
def test_spectral_means_keep_constants_scalars_and_the_integral_of_the_quadrature(name: str) -> None:
    source = SOURCES[name]
    means = SpectralMeans(source=source, target=T42)
    assert np.abs(means(np.full(source.shape, 3.0)) - 3).max() < 1e-12
    lat = np.radians(source.latitudes)[:, None]
    bounds = np.sin(np.radians(T42.latitude_bounds))
    # Mean of sin^2 between two latitudes, in closed form; and of a scalar wave that crosses the poles.
    squares = np.broadcast_to(np.sin(lat) ** 2, source.shape)
    wanted = (bounds[1:] ** 3 - bounds[:-1] ** 3) / 3 / np.diff(bounds)
    assert np.abs(means(squares) - wanted[:, None]).max() < 1e-12
    sphere = Harmonics(grid=source)
    random = np.random.default_rng(6)
    coefficients = random.normal(size=len(sphere.degrees)) / (1 + sphere.degrees) + 0j
    field = sphere.synthesise(coefficients)
    # The mean over the sphere is the coefficient of degree 0 over sqrt(4 pi).
    assert abs(T42.mean(means(field)) - coefficients[0].real / np.sqrt(4 * np.pi)) < 1e-12
    stacked = means(np.stack([field, squares]).astype(np.float32), np.empty((2, 64, 128), np.float32))
    assert np.abs(stacked[0] - means(field)).max() < 1e-5 * np.abs(field).max()


def test_exact_means_of_a_gradient_cross_the_poles_as_a_wind() -> None:
    # grad of R cos(lat) cos(lon): u = -sin(lon), constant speed over the pole.
    source = regular_grid(61, 120)
    target = gaussian_grid(8, 16)
    lon = np.radians(source.longitudes)
    u = np.broadcast_to(-np.sin(lon), source.shape)
    west, east = np.radians(target.longitude_bounds[:-1]), np.radians(target.longitude_bounds[1:])
    wanted = (np.cos(east) - np.cos(west)) / (east - west)
    assert np.abs(SpectralMeans(source=source, target=target)(u, wind=True) - wanted).max() < 1e-12
    assert np.abs(SpectralMeans(source=source, target=target)(u) - wanted).max() > 1e-3


def test_what_cannot_be_remapped_is_refused() -> None:
    with pytest.raises(InputError, match="whole circle"):
        Conservative(source=grid_of([-1.0, 1.0], [0.0, 1.0]), target=T42)
    with pytest.raises(InputError, match="uncovered"):
        Conservative(source=grid_of([-30.0, 0.0, 30.0], np.arange(8) * 45.0), target=T42)
    with pytest.raises(InputError, match="3 bounds do not enclose 13"):
        Conservative(source=regular_grid(13, 17), target=T42, latitude_bounds=(90.0, 0.0, -90.0))
    remap = Conservative(source=regular_grid(13, 17), target=gaussian_grid(4, 6))
    with pytest.raises(InputError, match=r"fields of \(17, 13\)"):
        remap(np.zeros((17, 13)))
    with pytest.raises(InputError, match="out of"):
        remap(np.zeros((13, 17)), np.empty((6, 4)))
    with pytest.raises(InputError, match="least must be"):
        remap.skipping(np.zeros((13, 17)), least=0.0)
    with pytest.raises(InputError, match="remap conservatively"):
        SpectralMeans(source=T42, target=T42)
    with pytest.raises(InputError, match="even number"):
        SpectralMeans(source=regular_grid(13, 17), target=gaussian_grid(4, 7))
    with pytest.raises(InputError, match=r"fields of \(17, 13\)"):
        SpectralMeans(source=regular_grid(13, 17), target=gaussian_grid(4, 6))(np.zeros((17, 13)))
