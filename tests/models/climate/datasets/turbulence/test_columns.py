"""Columns of MERRA-2 at points and an hour: chosen by the file's own coordinates, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.climate.datasets.turbulence.columns import FILL, Columns, day_of_name, read_columns
from models.climate.datasets.turbulence.grids import grid_of_size
from models.common.errors import InputError
from tests.models.climate.datasets.turbulence.worlds import ACROSS, LEVELS, ROWS, write_columns
from tests.models.climate.samples import write_netcdf

ROW, COLUMN = np.array([0, 25, 36, 7]), np.array([47, 12, 0, 3])


def columns(paths: list[Path], **settings: Any) -> Columns:
    given = {"levels": LEVELS, "hour": 18, "first_time": False, **settings}
    return read_columns(paths, "2023-01-02", ROW, COLUMN, grid_of_size(ROWS, ACROSS), **given)


def test_the_record_is_that_of_the_hour_and_the_column_that_of_the_point(tmp_path: Path) -> None:
    found = columns([write_columns(tmp_path, "2023-01-02", hours=(0, 9, 18))]).values
    assert found["U"].shape == (4, LEVELS)
    assert found["U"].dtype == np.float32
    np.testing.assert_array_equal(found["U"][:, 0], COLUMN)
    np.testing.assert_array_equal(found["V"][:, 2], ROW)
    np.testing.assert_array_equal(found["PHIS"], 100 * ROW)
    np.testing.assert_array_equal(found["OMEGA"], np.full((4, LEVELS), 1.8, "f4"))


@pytest.mark.parametrize("order", [(-1, 1), (1, -1), (-1, -1)])
def test_rows_and_columns_may_run_either_way(tmp_path: Path, order: tuple[int, int]) -> None:
    if order[1] < 0:  # a grid whose columns fall is no grid that a reader takes
        with pytest.raises(InputError):
            columns([write_columns(tmp_path, "2023-01-02", order=order)])
        return
    found = columns([write_columns(tmp_path, "2023-01-02", order=order)]).values
    np.testing.assert_array_equal(found["U"][:, 0], COLUMN)
    np.testing.assert_array_equal(found["V"][:, 0], ROW)


def test_of_many_levels_the_lowest_are_taken(tmp_path: Path) -> None:
    path = write_columns(tmp_path, "2023-01-02", levels=9)
    found = columns([path], levels=4).values
    np.testing.assert_array_equal(found["PL"][0], 10000 + 20000 * np.arange(5, 9))


def test_variables_may_lie_in_several_files(tmp_path: Path) -> None:
    split = [("U", "V", "T", "RH", "OMEGA"), ("H", "PL", "PHIS")]
    paths = [write_columns(tmp_path / str(n), "2023-01-02", stored=names) for n, names in enumerate(split)]
    np.testing.assert_array_equal(columns(paths).values["PHIS"], 100 * ROW)
    with pytest.raises(InputError, match=r"no file of 2023-01-02 holds the variable H: .*fetch the variables"):
        columns(paths[:1])


@pytest.mark.parametrize("told", [True, False])
def test_what_lies_below_ground_is_missing_whether_the_file_says_so_or_not(tmp_path: Path, told: bool) -> None:
    hidden = (slice(3, None), slice(20, 30), slice(10, 14))
    path = write_columns(tmp_path, "2023-01-02", hidden=hidden)
    if not told:
        import netCDF4

        with netCDF4.Dataset(path, "a") as file:
            for name in ("T", "U", "V", "OMEGA", "RH", "H", "PL"):
                file[name].renameAttribute("_FillValue", "fill_value")
    found = columns([path])
    expected = np.zeros((4, LEVELS), bool)
    expected[1, 3:] = True
    np.testing.assert_array_equal(found.missing["T"], expected)
    assert (found.values["T"][expected] == np.float32(FILL)).all()
    assert not found.missing["PHIS"].any()


def test_by_the_published_rule_the_first_record_counts_whatever_its_hour(tmp_path: Path) -> None:
    path = write_columns(tmp_path, "2023-01-02", hours=(3, 18))
    assert (columns([path], first_time=True).values["OMEGA"] == np.float32(0.3)).all()
    assert (columns([path]).values["OMEGA"] == np.float32(1.8)).all()


def test_other_hours_units_levels_and_grids_are_refused(tmp_path: Path) -> None:
    plain = write_columns(tmp_path, "2023-01-02")
    with pytest.raises(InputError, match=r"no record of 2023-01-02T06:00 UTC, only of 2023-01-02T00:00, .*18:00"):
        columns([plain], hour=6)
    with pytest.raises(InputError, match=r"T has 5 levels, not 34"):
        columns([plain], levels=34)
    with pytest.raises(InputError, match=r"PL: .*"):
        columns([write_columns(tmp_path / "a", "2023-01-02", PL="K")])
    grid = grid_of_size(19, ACROSS)
    with pytest.raises(InputError, match=r"latitude .* is no point of the grid of 19 x 48"):
        read_columns([plain], "2023-01-02", ROW // 2, COLUMN, grid, levels=5, hour=18, first_time=False)
    stale = write_columns(tmp_path / "b", "2022-01-02")
    with pytest.raises(InputError, match=r"no record of 2023-01-02T18:00"):
        columns([stale])


def test_a_cut_of_the_globe_serves_the_points_within_and_no_others(tmp_path: Path) -> None:
    lat, lon = np.linspace(-90, 90, ROWS)[20:30], (-180 + np.arange(ACROSS) * 7.5)[10:20]
    variables: dict[str, Any] = {
        "time": (("time",), np.array([1080], "i4"), {"units": "minutes since 2023-01-02"}),
        "lev": (("lev",), np.arange(3.0), {}),
        "lat": (("lat",), lat, {"units": "degrees_north"}),
        "lon": (("lon",), lon, {"units": "degrees_east"}),
        "PHIS": (("time", "lat", "lon"), np.zeros((1, 10, 10), "f4"), {"units": "m2 s-2"}),
    }
    units = {"T": "K", "U": "m s-1", "V": "m s-1", "OMEGA": "Pa s-1", "RH": "1", "H": "m", "PL": "Pa"}
    field = np.broadcast_to(lon, (1, 3, 10, 10)).astype("f4")
    for name, unit in units.items():
        variables[name] = (("time", "lev", "lat", "lon"), field, {"units": unit})
    sizes: dict[str, int | None] = {"time": 1, "lev": 3, "lat": 10, "lon": 10}
    path = write_netcdf(tmp_path / "MERRA2.20230102.nc", sizes, variables)
    grid = grid_of_size(ROWS, ACROSS)
    inside = read_columns(
        [path], "2023-01-02", np.array([25]), np.array([12]), grid, levels=3, hour=18, first_time=False
    )
    assert inside.values["U"].tolist() == [[-90.0] * 3]
    with pytest.raises(InputError, match=r"has no longitude 0, where a report is"):
        read_columns([path], "2023-01-02", np.array([25]), np.array([24]), grid, levels=3, hour=18, first_time=False)


def test_the_day_stands_in_the_name() -> None:
    assert day_of_name(Path("MERRA2_400.inst3_3d_asm_Nv.20230102.SUB.nc")) == "2023-01-02"
    assert day_of_name(Path("MERRA2_401.inst3_3d_asm_Nv.2020-02-29.nc4")) == "2020-02-29"
    with pytest.raises(InputError, match=r"merra.nc does not say which day"):
        day_of_name(Path("merra.nc"))
