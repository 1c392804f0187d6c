"""Pressure and temperature: weather types that come back, and files as MERRA-2 lays them out."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import netCDF4
import numpy as np

from models.climate.generator.surface import SurfaceConfig, stream_of, surface_of, type_of, write_surface

SMALL = SurfaceConfig(rows=37, columns=72, types=6, own=0.4)
DAYS = [date(2019, 1, 1) + timedelta(days=k) for k in range(240)]


def test_types_last_some_days_and_all_of_them_come_back() -> None:
    types = np.array([type_of(SMALL, day) for day in DAYS])
    assert set(types) == set(range(6))
    spells = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(types) != 0, [True]])))
    assert 1 <= spells.min() <= spells.max() <= 18
    assert 3.5 < spells.mean() < 7.5


def test_the_nearest_other_day_is_most_often_of_the_same_type() -> None:
    fields = np.array([surface_of(SMALL, day).SLP[22:34, 30:40].ravel() for day in DAYS], np.float64)
    fields = (fields - fields.mean(0)) / fields.std(0)
    types = np.array([type_of(SMALL, day) for day in DAYS])
    distance = ((fields[:, None] - fields) ** 2).mean(-1)
    distance[np.abs(np.subtract.outer(range(240), range(240))) < 10] = np.inf
    assert (types[distance.argmin(1)] == types).mean() > 0.8
    noisy = replace(SMALL, own=10.0)
    fields = np.array([surface_of(noisy, day).SLP[22:34, 30:40].ravel() for day in DAYS], np.float64)
    distance = ((fields[:, None] - fields) ** 2).mean(-1)
    distance[np.abs(np.subtract.outer(range(240), range(240))) < 10] = np.inf
    assert (types[distance.argmin(1)] == types).mean() < 0.4


def test_values_are_those_of_weather() -> None:
    january, july = (surface_of(SMALL, date(2020, month, 15)) for month in (1, 7))
    north, south = slice(30, 34), slice(3, 7)
    assert january.T2M[north].mean() + 15 < july.T2M[north].mean()
    assert july.T2M[south].mean() + 15 < january.T2M[south].mean()
    for one in (january, july):
        assert 93_000 < one.SLP.min() < one.SLP.max() < 108_000
        assert 180 < one.T2M.min() < one.T2M.max() < 335
        assert np.abs(one.U10M).max() < 60
        assert {one.SLP.dtype, one.T2M.dtype, one.U10M.dtype} == {np.dtype(np.float32)}


def test_wind_blows_along_the_isobars() -> None:
    one = surface_of(SMALL, date(2020, 3, 3))
    row = 30  # 60 N; the mean pressure by latitude moves no air here, the day's own does
    slope = np.gradient(one.SLP.astype(float), axis=0)[row] / (5 * 111_195)
    wanted = -0.6 * (slope - slope.mean()) / (1.2 * 1.4584e-4 * np.sin(np.radians(60)))
    assert np.corrcoef(wanted, one.U10M[row] - one.U10M[row].mean())[0, 1] > 0.9


def test_a_day_goes_over_into_the_next_and_is_the_same_alone() -> None:
    day = date(2020, 2, 28)
    late, next_day = surface_of(SMALL, day, 23).SLP, surface_of(SMALL, day + timedelta(days=1), 0).SLP
    assert np.abs(late - next_day).max() < np.abs(surface_of(SMALL, day, 0).SLP - next_day).max() / 10
    np.testing.assert_array_equal(surface_of(SMALL, day, 23).SLP, late)


def test_streams_are_merras() -> None:
    streams = [stream_of(date(year, 6, 1)) for year in (1985, 1995, 2005, 2015, 2020, 2021)]
    assert streams == [100, 200, 300, 400, 400, 401]


def test_files_hold_a_leap_day_and_the_published_region(tmp_path: Path) -> None:
    config = replace(SMALL, rows=361, columns=576)
    paths = write_surface(config, tmp_path, date(2020, 2, 29), date(2020, 2, 29), hours=1)
    assert [path.name for path in paths] == ["MERRA2_400.inst1_2d_asm_Nx.20200229.nc4"]
    with netCDF4.Dataset(paths[0]) as file:
        file.set_auto_mask(False)
        latitude, longitude = file["lat"][:], file["lon"][:]
        assert ((latitude >= 42) & (latitude <= 58)).sum() == 33
        assert ((longitude >= -15) & (longitude <= 0)).sum() == 25
        assert (longitude == 0).sum() == 1
        assert file["SLP"].dimensions == ("time", "lat", "lon")
        assert (file["SLP"].units, file["T2M"].units) == ("Pa", "K")
        assert file["T2M"]._FillValue == np.float32(1e15)
        np.testing.assert_array_equal(file["T2M"][0], surface_of(config, date(2020, 2, 29)).T2M)
