from datetime import date
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from models.climate.datasets.precipitation import archives
from models.climate.datasets.precipitation.area import Area, area_of
from models.climate.generator import precipitation as world
from models.common.errors import InputError
from tests.models.climate.datasets.precipitation.worlds import FIRST, WORLD
from tests.models.climate.samples import real, write_netcdf


@pytest.mark.parametrize(
    ("product", "name", "stamp"),
    [
        ("gridsat", "GRIDSAT-B1.2009.11.25.06.v02r01.nc", archives.Stamp(date(2009, 11, 25), 6)),
        ("patmosx", "patmosx_v06r00_NOAA-15_des_d20230116_c20230125.nc", archives.Stamp(date(2023, 1, 16), -1, "des")),
        ("patmosx", "patmosx_v06r00-preliminary_NOAA-20_asc_d20250203_c20250918.nc",
         archives.Stamp(date(2025, 2, 3), -1, "asc")),
        ("ssmi", "CSU_SSMI_FCDR-GRID_V02R00_F13_D19980715.nc", archives.Stamp(date(1998, 7, 15))),
        ("ssmi", "CSU_SSMI_FCDR_V02R00_F08_D19870709_S0126_E0308_R000268.nc", archives.Stamp(date(1987, 7, 9))),
        ("persiann", "PERSIANN-CDR_v01r01_19840101_c20140523.nc", archives.Stamp(date(1984, 1, 1))),
        ("imerg", "3B-DAY.MS.MRG.3IMERG.20000601-S000000-E235959.V06.nc4", archives.Stamp(date(2000, 6, 1))),
        ("stage4", "ST4.2013052210.01h.grb", archives.Stamp(date(2013, 5, 22), 10)),
    ],
)  # fmt: skip
def test_the_archives_names_tell_the_day(product: str, name: str, stamp: archives.Stamp) -> None:
    assert archives.stamp_of(product, Path("2009") / name) == stamp


@pytest.mark.parametrize(
    ("product", "name", "why"),
    [
        ("gridsat", "GRIDSAT-B1.2009.11.25.nc", "tells no day as files of gridsat do"),
        ("gridsat", "GRIDSAT-B1.2009.11.25.07.v02r01.nc", "GridSat of 7 UTC; files of every third hour"),
        ("gridsat", "GRIDSAT-B1.2009.02.30.06.v02r01.nc", "a day that there is not"),
        ("patmosx", "patmosx_v06r00_NOAA-15_d20230116.nc", "tells no day as files of patmosx do"),
        ("stage4", "ST4.2013052212.06h.grb", "Stage IV of 06 hours; hourly files"),
        ("imerg", "rain.nc4", "under the archive's names"),
    ],
)
def test_other_names_are_refused(product: str, name: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        archives.stamp_of(product, Path(name))


def test_descending_passes_are_their_own_and_a_copy_only_as_published() -> None:
    golden = xr.load_dataset(real("golden/precipitation/ssmi_load_observations_eacc2d4.nc"), engine="netcdf4")
    source = real("golden/precipitation/ssmi_gridded_input.nc")
    published, mended = archives.ssmi_maps(source, copied=True), archives.ssmi_maps(source)
    for name, variable in golden.variables.items():
        assert published[name].dtype == variable.dtype
        assert published[name].dims == variable.dims
        assert np.array_equal(published[name].values, variable.values, equal_nan=True)
    differing = {
        str(name)
        for name, variable in golden.variables.items()
        if not np.array_equal(mended[name].values, variable.values, equal_nan=True)
    }
    assert differing == {"obs_des"}
    assert np.nanmean(mended["obs_des"] - mended["obs_asc"]) == pytest.approx(30, abs=0.1)  # K, so the input was made


def test_the_same_defect_is_seen_on_files_that_are_made_here(tmp_path: Path) -> None:
    (path,) = world.write_ssmi(WORLD, tmp_path, FIRST, FIRST)
    area = area_of(6, 9)
    mended = archives.ssmi([path], FIRST, area, "nearest", radius_km=64)
    published = archives.ssmi([path], FIRST, area, "nearest", radius_km=64, copied=True)
    assert np.array_equal(published[0], mended[0], equal_nan=True)
    assert np.array_equal(published[1], mended[0], equal_nan=True)
    assert not np.array_equal(mended[1], mended[0], equal_nan=True)


def test_orbits_come_to_the_grid_as_the_published_script_brings_them() -> None:
    golden = xr.load_dataset(real("golden/precipitation/ssmi_resample_e1701da.nc"), engine="netcdf4")
    area = Area(golden["latitude"].values.astype(np.float64), golden["longitude"].values.astype(np.float64))
    path = real("golden/precipitation/ssmi_swath_input.nc")
    got = archives.ssmi_orbit(path, area, 64.0)
    # at the commit that reads orbits the passes are apart, so the published rules change nothing
    assert np.array_equal(archives.ssmi([path], FIRST, area, "nearest", radius_km=64, copied=True), got, equal_nan=True)
    for half, part in enumerate(archives.PASSES):
        want = np.concatenate([golden[f"obs_{kind}_{part}"].values for kind in ("lores", "hires")], -1)
        assert np.isfinite(want).any()
        assert np.array_equal(got[half], want.transpose(2, 0, 1), equal_nan=True)


def orbit(path: Path, seed: int = 0) -> Path:
    """An orbit of two kinds of pixels over the equator, up on one side and down on the other."""
    rng = np.random.default_rng(seed)
    variables = {}
    for kind, step, names in (("lores", 4.0, archives.SSMI[:5]), ("hires", 2.0, archives.SSMI[5:])):
        up = np.arange(-60, 60, step)
        along = np.concatenate([up, up[::-1]])
        across = np.arange(-6, 6, step)
        lon = np.where(np.arange(len(along)) < len(up), 170.0, -100.0)[:, None] + across + 0.1 * along[:, None]
        dims = (f"nscan_{kind}", f"npixel_{kind}")
        lat = np.broadcast_to(along[:, None], lon.shape) + rng.uniform(-0.2, 0.2, lon.shape)
        lat = np.where(np.arange(len(along))[:, None] == 3, np.nan, lat)  # a scan that was lost
        wrapped = np.mod(lon + 180, 360) - 180
        variables[f"lat_{kind}"] = (dims, lat.astype("f4"), {})
        variables[f"lon_{kind}"] = (dims, wrapped.astype("f4"), {})
        for name in names:
            values = rng.uniform(150, 300, lon.shape).astype("f4")
            variables[f"fcdr_tb{name}"] = (dims, values, {"units": "K"})
    sizes = {dim: size for dims, table, _ in variables.values() for dim, size in zip(dims, table.shape, strict=True)}
    return write_netcdf(path, sizes, variables)


def test_an_orbit_with_a_lost_scan_agrees_with_the_slow_search(tmp_path: Path) -> None:
    from models.climate.datasets.precipitation.reference import _orbit

    path = orbit(tmp_path / "CSU_SSMI_FCDR_V02R00_F08_D19870709_S0126_E0308_R000268.nc")
    area = area_of(45, 72)
    got = archives.ssmi([path], date(1987, 7, 9), area, "nearest", radius_km=200)
    assert 0.01 < np.isfinite(got[0]).mean() < 0.2
    for half in (0, 1):
        for kind, names in (("lores", archives.SSMI[:5]), ("hires", archives.SSMI[5:])):
            own = [f"fcdr_tb{name}" for name in names]
            want = np.array(_orbit(path, own, half, kind, area.latitudes, area.longitudes, 200.0), np.float32)
            start = 0 if kind == "lores" else 5
            assert np.array_equal(got[half, start : start + len(own)], want, equal_nan=True)


def test_a_second_satellite_lies_over_the_first_where_it_saw_something(tmp_path: Path) -> None:
    first = world.write_patmosx(WORLD, tmp_path / "one", FIRST, FIRST)[0]
    other = world.PrecipitationWorldConfig(rows=20, columns=36, seed=4)
    path = world.write_patmosx(other, tmp_path / "two", FIRST, FIRST)[0]
    second = path.rename(tmp_path / path.name.replace("NOAA-19", "NOAA-20"))
    with netCDF4.Dataset(second, "a") as file:
        file["temp_11_0um_nom"].set_auto_maskandscale(False)
        file["temp_11_0um_nom"][:, ::2] = -32768
    area, channel = area_of(20, 36, shifted=True), archives.IMAGER.index("temp_11_0um_nom")
    alone = [archives.patmosx([path], FIRST, area, "nearest")[0, channel] for path in (first, second)]
    both = archives.patmosx([second, first], FIRST, area, "nearest")[0, channel]
    assert np.array_equal(both, np.where(np.isnan(alone[1]), alone[0], alone[1]), equal_nan=True)
    assert (np.isfinite(both) & np.isnan(alone[1])).any() and (both != alone[0])[np.isfinite(both)].any()


def test_a_slot_that_was_lost_stays_missing_and_the_others_are_in_their_place(tmp_path: Path) -> None:
    paths = world.write_gridsat(WORLD, tmp_path, FIRST, FIRST)
    there = sorted(archives.stamp_of("gridsat", path).hour // 3 for path in paths)
    assert 0 < len(there) < 8, "the world has lost slots"
    got = archives.gridsat(paths, FIRST, area_of(9, 12), "nearest")
    assert sorted(np.flatnonzero(np.isfinite(got[:, 2]).any((1, 2))).tolist()) == there
    # GridSat reaches to 70 degrees, and as far as the cells of its last centres
    assert np.isnan(got[:, :, [0, -1]]).all()


@pytest.mark.parametrize("product", ["gridsat", "patmosx", "rain"])
def test_a_file_of_another_day_than_its_name_is_refused(tmp_path: Path, product: str) -> None:
    writers = {"gridsat": world.write_gridsat, "patmosx": world.write_patmosx, "rain": world.write_rain}
    path = writers[product](WORLD, tmp_path, FIRST, FIRST)[0]
    other = path.rename(path.with_name(path.name.replace("2000.05.30", "2000.05.31").replace("20000530", "20000531")))
    reader = getattr(archives, product)
    with pytest.raises(InputError, match=r"its time is 2000-05-30.*its name says 2000-05-31; one of the two is wrong"):
        reader([other], date(2000, 5, 31), area_of(6, 9), "linear")


def test_rain_in_other_units_is_converted_or_refused(tmp_path: Path) -> None:
    (path,) = world.write_rain(WORLD, tmp_path, FIRST, FIRST)
    area = area_of(6, 9)
    daily = archives.rain([path], FIRST, area, "linear")
    for units, factor in (("mm/day", 1.0), ("kg m-2 s-1", 86400.0), ("mm/hr", 24.0), ("kg m-2", 1.0)):
        with netCDF4.Dataset(path, "a") as file:
            file["precipitation"].units = units
        assert np.allclose(archives.rain([path], FIRST, area, "linear"), daily * factor, equal_nan=True, rtol=1e-6)
    with netCDF4.Dataset(path, "a") as file:
        file["precipitation"].units = "K"
    with pytest.raises(InputError, match=r"PERSIANN.*precipitation: in 'K', which is a temperature"):
        archives.rain([path], FIRST, area, "linear")


def test_a_file_without_a_channel_is_refused_by_name(tmp_path: Path) -> None:
    path = world.write_patmosx(WORLD, tmp_path, FIRST, FIRST)[0]
    with netCDF4.Dataset(path, "a") as file:
        file.renameVariable("temp_11_0um_nom", "something")
    with pytest.raises(InputError, match=r"patmosx.*no variable 'temp_11_0um_nom'; it holds"):
        archives.patmosx([path], FIRST, area_of(6, 9), "linear")


def test_stage_iv_is_read_as_rain_of_the_hour_on_its_own_grid() -> None:
    path = real("precip/ST4.2013052210.01h.grb")
    got = archives.stage4([path], date(2013, 5, 22), (881, 1121))
    assert got.shape == (24, 881, 1121)
    assert np.flatnonzero(np.isfinite(got).any((1, 2))).tolist() == [9], "the hour that ends at 10 begins at 9"
    assert np.nanmax(got) == pytest.approx(165.13, abs=0.01)  # mm, the largest value that eccodes decodes
    with pytest.raises(InputError, match=r"881 x 1121 points, the others have 8 x 9"):
        archives.stage4([path], date(2013, 5, 22), (8, 9))
    with pytest.raises(InputError, match="which is not in 2013-05-23"):
        archives.stage4([path], date(2013, 5, 23), (881, 1121))
