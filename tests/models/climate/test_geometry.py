"""Grids: areas that sum to the sphere's, bounds, recognition by coordinates, and the nearest point on the circle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.geometry import GLOBAL, Grid, gaussian_grid, global_grid, grid_of, regular_grid
from models.common.errors import InputError

SIZES = [(601, 1200), (721, 1440), (361, 576), (360, 576), (64, 128), (7, 5), (2, 3)]


@pytest.mark.parametrize("kind", GLOBAL)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("north_first", [True, False])
def test_areas_of_a_global_grid_sum_to_the_sphere(kind: str, size: tuple[int, int], north_first: bool) -> None:
    grid = global_grid(kind, *size, north_first=north_first)  # type: ignore[arg-type]
    assert grid.shape == size and grid.periodic and grid.north_first == north_first
    assert (grid.area_weights > 0).all()
    assert abs(grid.area_weights.sum() - 1) < 2e-15
    assert {grid.latitude_bounds[0], grid.latitude_bounds[-1]} == {90.0, -90.0}
    assert np.array_equal(grid.flipped().row_weights, grid.row_weights[::-1])


def test_poles_of_a_grid_of_points_have_half_a_cell() -> None:
    grid = regular_grid(601, 1200)
    # 1 - cos(0.15 degrees), over two hemispheres' worth of sine; the next row has cos(0.15) - cos(0.45).
    assert grid.row_weights[0] == pytest.approx((1 - np.cos(np.radians(0.15))) / 2, rel=1e-9)
    assert grid.row_weights[1] == pytest.approx((np.cos(np.radians(0.15)) - np.cos(np.radians(0.45))) / 2, rel=1e-9)
    assert grid.latitude_bounds[1] == pytest.approx(89.85)


def test_gaussian_areas_are_the_weights_of_the_quadrature() -> None:
    grid = gaussian_grid(64, 128)
    # T42: first latitude -87.8638, as in any table of Gaussian grids.
    assert grid.latitudes[0] == pytest.approx(-87.8638, abs=5e-5)
    assert np.allclose(grid.row_weights, np.polynomial.legendre.leggauss(64)[1] / 2, rtol=1e-12)
    assert ((grid.latitude_bounds[:-1] < grid.latitudes) & (grid.latitudes < grid.latitude_bounds[1:])).all()


def test_the_mean_of_a_field_is_that_of_its_integral() -> None:
    # Mean of sin^2 over the sphere is 1/3: exact by Gaussian weights, second order by cells.
    for grid, error in (
        (gaussian_grid(3, 4), 1e-15),
        (regular_grid(601, 4), 2e-5),
        (regular_grid(600, 4, poles=False), 2e-5),
    ):
        field = np.broadcast_to(np.sin(np.radians(grid.latitudes))[:, None] ** 2, grid.shape)
        assert abs(grid.mean(field) - 1 / 3) < error
    assert grid.mean(np.ones((2, 3, *grid.shape), np.float32)).shape == (2, 3)


@pytest.mark.parametrize("kind", GLOBAL)
@pytest.mark.parametrize("first", [0.0, -180.0, -179.6875, 0.15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coordinates_of_a_file_are_recognised_and_made_exact(kind: str, first: float, dtype: type) -> None:
    for size in ((601, 1200), (64, 128)):
        grid = global_grid(kind, *size, first_longitude=first)  # type: ignore[arg-type]
        found = grid_of(grid.latitudes.astype(dtype), grid.longitudes.astype(dtype))
        assert found.kind == kind
        assert np.array_equal(found.latitudes, grid.latitudes)
        assert np.array_equal(found.longitudes, grid.longitudes)


def test_a_residue_in_a_longitude_is_rounding() -> None:
    longitudes = -180 + np.arange(576) * 0.625
    longitudes[288] = 5.1e-13
    assert grid_of(regular_grid(361, 576).latitudes, longitudes).longitudes[288] == 0


def test_part_of_the_sphere_is_regional_and_ends_where_its_cells_do() -> None:
    grid = grid_of([42.0, 42.5, 43.0], [-15.0, -14.375, -13.75, -13.125])
    assert grid.kind == "regional" and not grid.periodic
    assert grid.latitude_bounds.tolist() == [41.75, 42.25, 42.75, 43.25]
    assert grid.longitude_bounds[[0, -1]].tolist() == [-15.3125, -12.8125]
    # 1.5 degrees of latitude by 2.5 of longitude.
    share = (np.sin(np.radians(43.25)) - np.sin(np.radians(41.75))) / 2 * 2.5 / 360
    assert grid.area_weights.sum() == pytest.approx(share, rel=1e-12)
    one = grid_of([10.0], [0.0, 1.0])
    assert one.shape == (1, 2)


MERRA = regular_grid(361, 576, north_first=False, first_longitude=-180.0)


@given(
    latitude=st.floats(-90, 90),
    longitude=st.floats(-400, 400),
    grid=st.sampled_from([MERRA, MERRA.flipped(), regular_grid(5, 7), gaussian_grid(6, 9, first_longitude=3.5),
                          grid_of([40.0, 41, 43], [350.0, 352, 354]), grid_of([1.0], [5.0])]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_the_nearest_point_is_the_nearest_around_the_circle(latitude: float, longitude: float, grid: Grid) -> None:
    row, column = grid.nearest(latitude, longitude)
    away = np.abs((grid.longitudes - longitude + 180) % 360 - 180)
    assert away[column] == pytest.approx(away.min(), abs=1e-9)
    assert np.abs(grid.latitudes - latitude)[row] == np.abs(grid.latitudes - latitude).min()
    line_row, line_column = grid.nearest(latitude, longitude, wrap=False)
    assert line_row == row == np.abs(grid.latitudes - latitude).argmin()
    assert line_column == np.abs(grid.longitudes - longitude).argmin()


def test_places_at_the_date_line_fall_on_its_nearer_side() -> None:
    # From the recorded grids of pilots' reports: without the wrap all of these but the last fall in column 575.
    places = [(51.9, 179.8), (52.1, 179.99), (53.6, 180.0), (52.1, -179.9)]
    rows, columns = MERRA.nearest(*np.array(places).T)
    assert rows.tolist() == [284, 284, 287, 284] and columns.tolist() == [0, 0, 0, 0]
    assert MERRA.nearest(*np.array(places).T, wrap=False)[1].tolist() == [575, 575, 575, 0]
    # Half-way: the lower index, across the seam too.
    assert [int(i) for i in MERRA.nearest(34.25, -99.6875)] == [248, 128]
    assert int(MERRA.nearest(0.0, 179.6875)[1]) == 0


@pytest.mark.parametrize(
    ("latitudes", "longitudes", "words"),
    [
        ([0, 1, 1], [0, 1], "does not run one way at row 2"),
        ([0, 2, 1], [0, 1], "does not run one way at row 2"),
        ([0, 91], [0, 1], "beyond 90 degrees"),
        ([0, np.nan], [0, 1], "no number"),
        ([[0, 1]], [0, 1], "shape"),
        ([0, 1], [179, -180], "falls at column 1"),
        ([0, 1], [0, 1, 3], "equal steps"),
        ([0, 1], [0, 120, 240, 360], "below one circle"),
    ],
)
def test_coordinates_that_make_no_grid_are_refused(latitudes: list[float], longitudes: list[float], words: str) -> None:
    with pytest.raises(InputError, match=f"(?s)a.nc: .*{words}"):
        grid_of(latitudes, longitudes, name="a.nc")


def test_what_is_no_place_or_no_grid_is_refused() -> None:
    with pytest.raises(InputError, match=r"place 1 lies at latitude 90\.5"):
        MERRA.nearest([1.0, 90.5], [0.0, 0.0])
    with pytest.raises(InputError, match=r"place 0 .* nan"):
        MERRA.nearest(1.0, np.nan)
    for make in (regular_grid, gaussian_grid):
        with pytest.raises(InputError, match="0 x 4"):
            make(0, 4)
    with pytest.raises(InputError, match="use grid_of"):
        global_grid("regional", 4, 4)
