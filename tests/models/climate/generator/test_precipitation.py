"""Rain and what satellites saw before it: a stated share of tomorrow can be known, and files are the archives'."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from models.climate.generator import precipitation as world
from models.climate.generator.precipitation import PrecipitationWorldConfig, inputs_of, rain_of

SMALL = PrecipitationWorldConfig(rows=18, columns=36, memory=3.0)
START = date(2004, 2, 1)
DAYS = [START + timedelta(days=k) for k in range(400)]


def moist(config: PrecipitationWorldConfig, days: list[date]) -> np.ndarray:
    place = world._centres(config.rows, config.columns)
    return np.array([world._on(world._moist(config, day), *place) for day in days])


def wet(config: PrecipitationWorldConfig, days: list[date]) -> np.ndarray:
    place = world._centres(config.rows, config.columns)
    return np.array([world._on(world._wet(config, day), *place) for day in days])


def test_the_past_knows_the_stated_share_of_what_comes() -> None:
    g, w = moist(SMALL, DAYS), wet(SMALL, DAYS)
    assert w.std() == pytest.approx(1.0, abs=0.05)
    for lead in (1, 3, 7):
        past = np.stack([g[20 - k : 380 - k].ravel() for k in range(10)], axis=1)
        ahead = w[20 + lead : 380 + lead].ravel()
        weights = np.linalg.lstsq(past, ahead, rcond=None)[0]
        assert np.corrcoef(past @ weights, ahead)[0, 1] == pytest.approx(SMALL.predictable(lead), abs=0.04)


def test_less_can_be_known_the_later_the_day_and_the_more_is_chance() -> None:
    shares = [SMALL.predictable(lead) for lead in range(1, 29)]
    assert (np.diff(shares) < 0).all()
    assert shares[-1] < 0.01
    assert replace(SMALL, own=1.0).predictable(1) == 0
    assert replace(SMALL, own=0.0).predictable(1) == pytest.approx(1.0)


def test_it_rains_as_often_and_as_much_as_published() -> None:
    rain = np.array([rain_of(SMALL, day) for day in DAYS])
    assert rain.dtype == np.float32
    assert rain.min() == 0
    assert (rain > 0).mean() == pytest.approx(0.472, abs=0.03)
    assert rain.mean() == pytest.approx(2.82, rel=0.1)


def test_every_instrument_sees_the_moisture_of_its_day() -> None:
    day = START
    seen, g = inputs_of(SMALL, day), moist(SMALL, [day])[0]
    assert {name: array.shape for name, array in seen.items()} == {
        "gridsat": (18, 36, 8, 3), "patmosx": (18, 36, 46), "ssmi": (18, 36, 14),
    }  # fmt: skip
    for name, sign in (("patmosx", None), ("ssmi", None)):
        for channel in range(seen[name].shape[-1]):
            known = np.isfinite(seen[name][..., channel])
            assert 0.7 < known.mean() <= 1
            assert abs(np.corrcoef(seen[name][..., channel][known], g[known])[0, 1]) > 0.6, (name, channel, sign)
    window = seen["gridsat"][:, :, ~np.isnan(seen["gridsat"][0, 0, :, 2])][..., 2]
    assert np.corrcoef(window.mean(-1).ravel(), g.ravel())[0, 1] < -0.99
    # visible light by day alone: about half of the circle
    assert 0.4 < np.isnan(seen["gridsat"][..., 0]).mean() < 0.7


def test_passes_differ_and_gaps_wander() -> None:
    one, other = inputs_of(SMALL, START)["ssmi"], inputs_of(SMALL, START + timedelta(days=1))["ssmi"]
    assert (np.isnan(one[..., 0]) != np.isnan(one[..., 7])).any()
    assert (np.isnan(one[..., 0]) != np.isnan(other[..., 0])).any()
    assert np.nanmax(np.abs(one[..., 0] - one[..., 7])) > 1


def test_gridsat_files_are_packed_by_slot_and_lost_ones_are_not_there(tmp_path: Path) -> None:
    config = replace(SMALL, lost=0.3)
    paths = world.write_gridsat(config, tmp_path / "raw", START, START + timedelta(days=1))
    slots = [f"GRIDSAT-B1.{day:%Y.%m.%d}.{3 * slot:02d}.v02r01.nc" for day in (START, START + timedelta(days=1))
             for slot in range(8) if not world._lost(config, day)[slot]]  # fmt: skip
    assert [path.name for path in paths] == slots
    assert len(slots) < 16
    with netCDF4.Dataset(paths[0]) as file:
        latitude, longitude = np.asarray(file["lat"][:], float), np.asarray(file["lon"][:], float)
        assert (latitude[0], latitude[-1], longitude[0]) == (-70, 70, -180)
        slot = int(paths[0].name[22:24]) // 3
        wanted = world._gridsat(config, START, slot, latitude, longitude)
        assert file["irwin_cdr"].dtype == np.int16
        np.testing.assert_allclose(file["irwin_cdr"][0], wanted[..., 2], atol=0.0051)
        np.testing.assert_array_equal(np.ma.getmaskarray(file["vschn"][0]), np.isnan(wanted[..., 0]))
        moment = netCDF4.num2date(file["time"][0], file["time"].units)
        assert (moment.day, moment.hour) == (1, 3 * slot)


def test_patmosx_and_ssmi_files_hold_both_passes(tmp_path: Path) -> None:
    paths = world.write_patmosx(SMALL, tmp_path, START, START)
    assert [path.name for path in paths] == [
        "patmosx_v06r00_NOAA-19_asc_d20040201_c20220101.nc", "patmosx_v06r00_NOAA-19_des_d20040201_c20220101.nc",
    ]  # fmt: skip
    seen = inputs_of(SMALL, START)
    for number, path in enumerate(paths):
        with netCDF4.Dataset(path) as file:
            for channel, name in enumerate((*world.IMAGER, *world.SOUNDER)):
                found = np.ma.filled(file[name][0].astype(float), np.nan)
                np.testing.assert_allclose(found, seen["patmosx"][..., 23 * number + channel], atol=0.0026)
            assert file["temp_11_0um_nom"].dimensions == ("time", "latitude", "longitude")
    path = world.write_ssmi(SMALL, tmp_path, START, START)[0]
    assert path.name == "CSU_SSMI_FCDR-GRID_V02R00_F13_D20040201.nc"
    with netCDF4.Dataset(path) as file:
        means = [np.ma.mean(file[f"fcdr_tb19h_{suffix}"][:]) for suffix in ("asc", "dsc")]
        assert means[1] - means[0] == pytest.approx(1.5, abs=1.5)
        assert file["fcdr_tb85v_dsc"]._FillValue == -9999
        assert file["lon"][0] > 0


def test_rain_changes_its_archive_in_june_2000(tmp_path: Path) -> None:
    early, late = world.write_rain(SMALL, tmp_path, date(2000, 5, 31), date(2000, 6, 1))
    assert early.name == "PERSIANN-CDR_v01r01_20000531_c20140523.nc"
    assert late.name == "3B-DAY.MS.MRG.3IMERG.20000601-S000000-E235959.V07B.nc4"
    with netCDF4.Dataset(early) as file:
        assert file["precipitation"].dimensions == ("time", "lon", "lat")
        latitude, longitude = np.asarray(file["lat"][:], float), np.asarray(file["lon"][:], float)
        assert 60 > latitude[0] > 0 > latitude[-1] > -60
        assert longitude.min() > 0
        wanted = rain_of(SMALL, date(2000, 5, 31), latitude, longitude)
        np.testing.assert_allclose(file["precipitation"][0].T, wanted, rtol=1e-5)
    with netCDF4.Dataset(late) as file:
        np.testing.assert_array_equal(file["precipitation"][0].T, rain_of(SMALL, date(2000, 6, 1)))
        assert file["precipitation"].units == "mm/day"


def test_a_day_is_the_same_alone_and_in_company() -> None:
    first = inputs_of(SMALL, START)
    world._moist.cache_clear()
    inputs_of(SMALL, START + timedelta(days=9))
    for name, array in inputs_of(SMALL, START).items():
        np.testing.assert_array_equal(array, first[name])
    np.testing.assert_array_equal(rain_of(SMALL, START), rain_of(SMALL, START))
