import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.datasets.precipitation.area import EARTH_RADIUS_KM, Area, Resampling, area_of, laid_over, swath_to
from models.climate.datasets.precipitation.reference import _brought
from models.common.errors import InputError
from tests.models.climate.samples import real


def test_the_area_lies_on_the_longitudes_of_merra_and_has_no_row_on_a_pole() -> None:
    area = area_of(360, 576)
    assert area.shape == (360, 576)
    assert (area.latitudes[0], area.latitudes[-1]) == (89.75, -89.75)
    assert (area.longitudes[0], area.longitudes[1], area.longitudes[-1]) == (-180.0, -179.375, 179.375)
    assert np.array_equal(area_of(360, 576, shifted=True).longitudes, area.longitudes + 0.3125)


@pytest.mark.parametrize(("pin", "shifted"), [("eacc2d4", False), ("e1701da", True)])
def test_both_published_definitions_of_the_area_are_met(pin: str, shifted: bool) -> None:
    golden = np.load(real(f"golden/precipitation/merra_area_{pin}.npz"))
    area, other = area_of(360, 576, shifted=shifted), area_of(360, 576, shifted=not shifted)
    assert np.array_equal(golden["longitude"], area.longitudes)
    assert np.array_equal(golden["latitude"], area.latitudes)
    assert np.array_equal(golden["latitude"], other.latitudes), "the defect is one of longitudes alone"
    assert not np.any(golden["longitude"] == other.longitudes)


@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 11),
    first=st.sampled_from([-180.0, 0.0, -170.0, 2.5]),
    span=st.sampled_from([360.0, 200.0]),
    reach=st.sampled_from([90.0, 60.0]),
    north=st.booleans(),
    target=st.tuples(st.integers(2, 8), st.integers(2, 9)),
    method=st.sampled_from(["nearest", "linear"]),
    seed=st.integers(0, 999),
)
@settings(max_examples=150)
def test_fields_come_to_the_area_as_a_search_over_all_centres_finds(
    rows: int,
    columns: int,
    first: float,
    span: float,
    reach: float,
    north: bool,
    target: tuple[int, int],
    method: str,
    seed: int,
) -> None:
    lat = -reach + (np.arange(rows) + 0.5) * 2 * reach / rows
    lon = first + (np.arange(columns) + 0.5) * span / columns
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 9, (rows, columns)).astype(np.float32)
    values[rng.random(values.shape) < 0.15] = np.nan
    area = area_of(*target, shifted=bool(seed % 2))
    chosen = "nearest" if method == "nearest" else "linear"
    own_lat, own = (lat[::-1], values[::-1]) if north else (lat, values)
    resampling = Resampling(own_lat, lon, area, chosen)  # type: ignore[arg-type]
    got = resampling(own[np.ix_(resampling.rows, resampling.columns)])
    want = _brought(lat, lon, values.astype(np.float64), area.latitudes, area.longitudes, method)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.allclose(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_half_way_between_centres_the_nearest_is_the_one_to_the_south_and_west() -> None:
    area = Area(np.array([5.0]), np.array([10.0]))
    for lat in (np.array([0.0, 10.0]), np.array([10.0, 0.0])):
        resampling = Resampling(lat, np.array([0.0, 20.0]), area, "nearest")
        assert (lat[resampling.rows[0]], resampling.columns[0]) == (0.0, 0)


def test_there_is_no_seam_where_the_source_goes_around() -> None:
    lon = np.arange(0.05, 360, 10.0)
    lat = np.arange(-85.0, 90, 10.0)
    field = np.cos(np.radians(lon))[None, :] * np.ones((len(lat), 1))
    area = area_of(6, 90)
    resampling = Resampling(lat, lon, area, "linear")
    got = resampling(field[np.ix_(resampling.rows, resampling.columns)].astype(np.float32))
    assert np.isfinite(got).all()
    # a chord of a cosine is off by at most step^2 / 8
    assert np.abs(got - np.cos(np.radians(area.longitudes))).max() < np.radians(10) ** 2 / 8


def test_linear_fields_are_kept_and_a_missing_neighbour_matters_only_where_it_counts() -> None:
    lat, lon = np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0])
    plane = (lat[:, None] * 2 + lon[None, :] * 3 + 1).astype(np.float32)
    area = Area(np.array([20.0, 13.0, 10.0]), np.array([0.0, 7.0, 20.0]))
    resampling = Resampling(lat, lon, area, "linear")
    needed = np.ix_(resampling.rows, resampling.columns)
    assert np.allclose(resampling(plane[needed]), area.latitudes[:, None] * 2 + area.longitudes * 3 + 1)
    plane[2, 1] = np.nan
    got = resampling(plane[needed])
    assert np.array_equal(np.isnan(got), [[False, True, False], [False, True, False], [False, False, False]])


def test_one_row_makes_no_grid() -> None:
    with pytest.raises(InputError, match=r"x: 1 x 8 points make no grid to resample"):
        Resampling(np.zeros(1), np.arange(8.0), area_of(4, 4), "linear", "x")


@given(seed=st.integers(0, 999), radius=st.sampled_from([64.0, 400.0, 3000.0]))
@settings(max_examples=25)
def test_a_swath_gives_every_centre_its_nearest_pixel_within_reach(seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 150))), rng.uniform(-180, 360, 150)
    lat[:5] = np.nan
    values = rng.normal(250, 20, (2, 150)).astype(np.float32)
    values[1, 20:40] = np.nan
    area = area_of(7, 11)
    got = swath_to(lat, lon, values, area, radius_km=radius)

    def vectors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = np.radians(a), np.radians(b)
        return np.stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)], -1)

    centres = vectors(*np.meshgrid(area.latitudes, area.longitudes, indexing="ij")).reshape(-1, 3)
    chord = np.linalg.norm(centres[:, None] - vectors(lat, lon)[None], axis=-1) * EARTH_RADIUS_KM
    chord[:, :5] = np.inf
    nearest = chord.argmin(1)
    want = np.where(chord.min(1) <= radius, values[:, nearest], np.nan).reshape(2, 7, 11)
    assert np.array_equal(got, want, equal_nan=True)


def test_a_later_field_lies_over_an_earlier_where_it_has_values() -> None:
    below, above = np.array([1, 2, np.nan], np.float32), np.array([np.nan, 5, np.nan], np.float32)
    assert np.array_equal(laid_over(below, above), [1, 5, np.nan], equal_nan=True)
