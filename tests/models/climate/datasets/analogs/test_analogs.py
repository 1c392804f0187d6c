"""Days of a region, as published and mended; the reference finds what was spoilt; analogs are what they must be."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.datasets import schemas
from models.climate.datasets.analogs.baseline import Days, baseline, type_agreement
from models.climate.datasets.analogs.config import AnalogsConfig, paper, small, tiny
from models.climate.datasets.analogs.figures import figures
from models.climate.datasets.analogs.reference import TOLERANCES, checks, reference
from models.climate.datasets.analogs.region import Axes, Bounds
from models.climate.datasets.certificate import distance
from models.climate.generator import surface
from models.common.errors import AwaitedError, InputError
from tests.models.climate.samples import message, real, write_netcdf

LATITUDE = np.linspace(-90, 90, 37)
LONGITUDE = -180.0 + 7.5 * np.arange(48)
FILL = np.float32(1e15)


def daily(
    folder: Path, day: date, *, first_hour: int = 0, longitude: Any = LONGITUDE, latitude: Any = LATITUDE,
    units: str = "Pa", name: str = "MERRA2_400.inst1_2d_asm_Nx.{day}.SUB.nc", hole: bool = False,
) -> Path:  # fmt: skip
    """One day of hourly fields whose values tell day, hour, row and column."""
    hours, rows, columns = np.ogrid[0:4, 0 : len(latitude), 0 : len(longitude)]
    wave = 700 * np.sin(day.toordinal() * 0.8 + 0.2 * rows + 0.1 * columns)
    slp = (101_000 + wave + 10 * rows + columns + 0.25 * hours).astype("f4")
    t2m = (300 - np.abs(latitude)[None, :, None] * 0.4 + 0.01 * columns + hours + 0.003 * wave).astype("f4")
    if hole:
        slp[:, 27, 22] = FILL
    kept = {"_FillValue": FILL, "missing_value": FILL}
    return write_netcdf(
        folder / name.format(day=f"{day:%Y%m%d}"),
        {"time": 4, "lat": len(latitude), "lon": len(longitude)},
        {
            "time": (
                ("time",),
                np.arange(4, dtype="i4") * 60,
                {"units": f"minutes since {day} {first_hour:02d}:00:00"},
            ),
            "lat": (("lat",), np.asarray(latitude, "f8"), {"units": "degrees_north"}),
            "lon": (("lon",), np.asarray(longitude, "f8"), {"units": "degrees_east"}),
            "SLP": (("time", "lat", "lon"), slp / (100 if units == "hPa" else 1), {**kept, "units": units}),
            "T2M": (("time", "lat", "lon"), t2m, {**kept, "units": "K", "long_name": "2-meter_air_temperature"}),
        },
    )


def whole(config: AnalogsConfig, files: tuple[Path, ...] = ()) -> tuple[dict[str, xr.Dataset], Any]:
    """The recipe's parts put together as they are stored, and the survey."""
    survey = config.survey({"files": files})
    layout = survey.groups[""]
    stored = xr.concat([config.part(part)[""] for part in survey.parts], "time")
    stored = stored.assign_coords({name: (dims, values) for name, (dims, values, _) in layout.coordinates.items()})
    return {"": stored.assign_attrs(layout.attrs)}, survey


def some_days(folder: Path, first: date, count: int, **settings: Any) -> tuple[Path, ...]:
    days = [date.fromordinal(first.toordinal() + number) for number in range(count)]
    return tuple(daily(folder, day, **settings) for day in days)


def raw(path: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a file holds: dimensions, types, bytes, attributes."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        held: dict[str, tuple[Any, ...]] = {
            name: (
                one.dtype.str, one.dimensions, one.shape, np.asarray(one[:]).tobytes(),
                {key: str(one.getncattr(key)) for key in one.ncattrs()},
                {key: np.asarray(one.getncattr(key)).dtype.kind for key in one.ncattrs()},
            )
            for name, one in file.variables.items()
        }  # fmt: skip
        held["."] = ({key: file.getncattr(key) for key in file.ncattrs()}, file.data_model)
        return held


def test_golden_files_come_out_as_published_and_mended_ones_differ_in_the_column_at_the_residue(tmp_path: Path) -> None:
    golden = real("golden/weather_analog")
    files = tuple(sorted((golden / "input_synthetic").glob("*.nc")))
    written = {}
    for compat in ("published", "mended"):
        config = AnalogsConfig(source="files", files="x", compat=compat, gaps=True)  # type: ignore[arg-type]
        groups, survey = whole(config, files)
        written[compat] = {path.name: path for path in config.export(groups, tmp_path / compat)}
        for part in survey.parts:
            assert config.part(part)[""].identical(reference(config, part, {})[""])
    assert len(written["published"]) == 3
    for name, path in written["published"].items():
        assert schemas.differences_in(schemas.load("analogs").file(name), path) == []
        assert raw(path) == raw(golden / "output" / name), name
        if "20211231" not in name:
            assert raw(written["mended"][name]) == raw(golden / "output" / name), name
    with (
        xr.open_dataset(written["mended"]["MERRA2_SLP_T2M_20211231.nc"], engine="netcdf4") as mended,
        xr.open_dataset(golden / "output" / "MERRA2_SLP_T2M_20211231.nc", engine="netcdf4") as published,
    ):
        assert (mended.sizes["lon"], published.sizes["lon"]) == (25, 24)
        assert float(mended["lon"][-1]) == 0.0
        assert mended.isel(lon=slice(24)).identical(published)


def test_a_region_is_cut_at_the_hour_of_its_day_from_any_grid(tmp_path: Path) -> None:
    (tmp_path / "greenwich").mkdir()
    plain = some_days(tmp_path, date(2020, 2, 27), 4)
    turned = some_days(tmp_path / "greenwich", date(2020, 2, 27), 4, longitude=7.5 * np.arange(48), units="hPa")
    for files in (plain, turned):
        config = AnalogsConfig(source="files", files="x", hour=2)
        groups, survey = whole(config, files)
        stored = groups[""]
        assert [part.name for part in survey.parts] == ["2020-02", "2020-03"]
        assert stored["lat"].values.tolist() == [45.0, 50.0, 55.0]
        assert stored["lon"].values.tolist() == [-15.0, -7.5, 0.0]
        assert stored["time"].values.tolist() == [
            (day - date(1970, 1, 1)).days * 1440 + 120
            for day in (date(2020, 2, 27), date(2020, 2, 28), date(2020, 2, 29), date(2020, 3, 1))
        ]
        for part in survey.parts:
            again = reference(config, part, {})[""]
            assert config.part(part)[""].drop_vars("SLP").identical(again.drop_vars("SLP"))
            assert np.allclose(config.part(part)[""]["SLP"], again["SLP"], rtol=2e-7)
        assert [claim.sentence() for claim in checks(groups) if not claim.holds] == []
    with xr.open_dataset(plain[2], engine="netcdf4") as file:
        expected = file["SLP"].isel(time=2, lat=slice(27, 30), lon=slice(22, 25))
        with xr.open_dataset(config.export(whole(config, plain)[0], tmp_path / "out")[2], engine="netcdf4") as day:
            assert np.array_equal(day["SLP"][0], expected)
            assert day["T2M"].attrs["long_name"] == "2-meter_air_temperature"


def test_a_value_below_a_fill_stays_missing_and_is_written_as_a_fill(tmp_path: Path) -> None:
    files = (daily(tmp_path, date(2020, 1, 1), hole=True),)
    config = AnalogsConfig(source="files", files="x")
    groups, survey = whole(config, files)
    assert np.isnan(groups[""]["SLP"].values).sum() == 1
    assert survey.groups[""].variables["SLP"].missing == 0.0  # so the run ends, by name
    (path,) = config.export(groups, tmp_path / "out")
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        assert (file["SLP"][:] == FILL).sum() == 1
    assert [claim.name for claim in checks(groups) if not claim.holds] == ["points_missing_for_one_alone"]


def test_the_first_time_is_taken_by_published_rules_and_the_hour_of_the_day_by_mended_ones(tmp_path: Path) -> None:
    late = (daily(tmp_path, date(2020, 1, 1), first_hour=3),)
    published, _ = whole(AnalogsConfig(source="files", files="x", compat="published"), late)
    assert published[""]["time"].values.tolist() == [18262 * 1440 + 180]
    with pytest.raises(InputError, match="has 0 times 2020-01-01T00:00"):
        whole(AnalogsConfig(source="files", files="x"), late)


def test_a_residue_of_longitude_loses_a_column_by_the_published_rule_alone(tmp_path: Path) -> None:
    residue = LONGITUDE.copy()
    residue[24] = 5e-13
    files = (daily(tmp_path, date(2020, 1, 1)), daily(tmp_path, date(2020, 1, 2), longitude=residue))
    mended, _ = whole(AnalogsConfig(source="files", files="x"), files)
    repeated, _ = whole(AnalogsConfig(source="files", files="x", reproduce=("longitude_residue",)), files)
    same = (mended[""]["SLP"] == repeated[""]["SLP"]).values
    expected = np.ones((2, 3, 3), bool)
    expected[1, :, 2] = False
    assert np.array_equal(same, expected)
    assert np.isnan(repeated[""]["SLP"].values[1, :, 2]).all()
    assert mended[""]["lon_given"].values[1].tolist() == [-15.0, -7.5, 5e-13]


def test_a_file_cut_off_half_way_is_kept_by_the_published_rule_and_written_anew_by_the_mended(tmp_path: Path) -> None:
    files = (daily(tmp_path, date(2020, 1, 1)),)
    for compat, kept in (("published", True), ("mended", False)):
        config = AnalogsConfig(source="files", files="x", compat=compat)  # type: ignore[arg-type]
        target = tmp_path / compat / "MERRA2_SLP_T2M_20200101.nc"
        target.parent.mkdir()
        target.write_bytes(b"\0" * 1000)
        assert config.export(whole(config, files)[0], tmp_path / compat) == (target,)
        assert (target.read_bytes() == b"\0" * 1000) is kept
        if not kept:
            assert schemas.differences_in(schemas.load("analogs").file(target.name), target) == []


def test_grib_is_cut_alike_and_its_days_are_read_from_its_times(tmp_path: Path) -> None:
    latitude, longitude = np.linspace(90, -90, 37), 7.5 * np.arange(48)
    table = 101_000 + latitude[:, None] + longitude[None, :] / 10
    path = tmp_path / "surface.grib2"
    path.write_bytes(
        b"".join(
            message(values, "regular_ll_sfc_grib2", shortName=name, dataDate=day)
            for day in (20200228, 20200229)
            for name, values in (("msl", table), ("2t", table / 400))
        )
    )
    groups, survey = whole(AnalogsConfig(source="files", files="x"), (path,))
    assert survey.parts[0].about["days"] == ["2020-02-28", "2020-02-29"]
    rows = [list(latitude).index(one) for one in (45.0, 50.0, 55.0)]
    assert np.allclose(groups[""]["SLP"].values[1], table[np.ix_(rows, [46, 47, 0])], rtol=1e-6)
    config = AnalogsConfig(source="files", files="x")
    again = reference(config, survey.parts[0], {})[""]
    for name in survey.groups[""].variables:
        assert distance(groups[""][name].values, again[name].values) <= TOLERANCES.get(name, 0.0), name


@pytest.mark.parametrize(
    ("bounds", "columns"),
    [
        (Bounds(south=0, north=1, west=-15, east=0), [-15.0, -7.5, 0.0]),
        (Bounds(south=0, north=1, west=165, east=-165), [165.0, 172.5, 180.0, 187.5, 195.0]),
        (Bounds(south=0, north=1, west=350, east=10), [352.5, 360.0, 367.5]),
        (Bounds(south=0, north=1, west=0, east=0), [0.0]),
    ],
)
def test_a_region_may_run_across_the_date_line(bounds: Bounds, columns: list[float]) -> None:
    for longitude in (LONGITUDE, 7.5 * np.arange(48)):
        axes = Axes.of(bounds, LATITUDE, longitude, "a grid")
        assert axes.longitude.tolist() == columns
    assert Axes.of(Bounds(south=-90, north=90, west=-180, east=180), LATITUDE, LONGITUDE, "x").longitude.size == 48


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    config = AnalogsConfig(source="files", files="x*.nc")
    with pytest.raises(AwaitedError, match=r"no file matches 'x\*\.nc'"):
        config.survey({})
    one, three = daily(tmp_path, date(2020, 1, 1)), daily(tmp_path, date(2020, 1, 3))
    with pytest.raises(
        AwaitedError, match="1 days from 2020-01-01 to 2020-01-03 have no file, the first is 2020-01-02"
    ):
        config.survey({"files": (one, three)})
    again = daily(tmp_path, date(2020, 1, 1), name="MERRA2_401.{day}.nc")
    with pytest.raises(InputError, match="both hold 2020-01-01; take one of them away"):
        config.survey({"files": (one, again)})
    with pytest.raises(AwaitedError, match="none of 1 files holds a day from 2021-01-01"):
        AnalogsConfig(source="files", files="x", start="2021-01-01").survey({"files": (one,)})
    other = daily(tmp_path, date(2020, 1, 2), longitude=LONGITUDE + 1.0)
    with pytest.raises(InputError, match="which the first file's grid lacks; give files on one grid"):
        whole(config, (one, other))
    with pytest.raises(InputError, match="has no point between 42 and 58 N"):
        config.survey({"files": (daily(tmp_path, date(2020, 5, 1), latitude=LATITUDE[:20], name="{day}.nc"),)})
    with pytest.raises(ValueError, match=r"AnalogsConfig\.north must not lie south of south, got 50 to 40"):
        AnalogsConfig(south=50, north=40)
    with pytest.raises(ValueError, match=r"AnalogsConfig\.files must name daily files"):
        AnalogsConfig(source="files")


def test_presets_say_what_was_published() -> None:
    config = paper()
    assert (config.west, config.east, config.south, config.north) == (-15.0, 0.0, 42.0, 58.0)
    assert (config.start, config.end, config.hour) == ("2019-01-01", "2021-12-31", 0)
    axes = Axes.of(config.bounds, np.linspace(-90, 90, 361), -180 + 0.625 * np.arange(576), "MERRA-2")
    assert (axes.latitude.size, axes.longitude.size) == (33, 25)
    assert len(small().survey({}).parts) == 120


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, xr.Dataset], Any]:
    """Two generated months."""
    return whole(tiny())


def test_generated_months_are_what_the_reference_makes_of_them(made: tuple[dict[str, xr.Dataset], Any]) -> None:
    groups, survey = made
    for part in survey.parts:
        assert tiny().part(part)[""].identical(reference(tiny(), part, {})[""])
    assert [claim.sentence() for claim in checks(groups) if not claim.holds] == []


def changed(name: str, change: Callable[[xr.DataArray], Any]) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda stored: stored.assign({name: stored[name].copy(data=np.asarray(change(stored[name])))})


def upside_down(stored: xr.Dataset) -> xr.Dataset:
    """Fields turned over under coordinates that stay."""
    return stored.assign({name: stored[name].copy(data=stored[name].values[:, ::-1]) for name in ("SLP", "T2M")})


def shuffled(stored: xr.Dataset) -> xr.Dataset:
    order = np.random.default_rng(5).permutation(stored.sizes["time"])
    return stored.assign({name: stored[name].copy(data=stored[name].values[order]) for name in ("SLP", "T2M")})


CORRUPTIONS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "days shuffled": lambda stored: stored.isel(time=np.random.default_rng(5).permutation(stored.sizes["time"])),
    "fields of other days": shuffled,
    "pressure in hPa": changed("SLP", lambda field: field / 100),
    "temperature in Celsius": changed("T2M", lambda field: field - 273.15),
    "fill read as a value": changed("SLP", lambda field: np.where(field.values == field.values[3, 1, 1], FILL, field)),
    "one part twice": lambda stored: xr.concat([stored, stored], "time"),
    "a day's field under the next day": changed("SLP", lambda field: np.where(
        np.arange(field.sizes["time"])[:, None, None] == 9, field.values[8], field)),
    "rows upside down": upside_down,
    "latitudes upside down": lambda stored: stored.assign_coords(lat=stored["lat"].values[::-1]),
    "longitudes shifted": lambda stored: stored.assign_coords(lon=stored["lon"].values + 5.0),
    "another hour": changed("time", lambda time: np.where(np.arange(time.size) == 4, time + 60, time)),
    "points lost": changed("T2M", lambda field: np.where(field.values == field.values[2, 2, 2], np.nan, field)),
    "variables exchanged": lambda stored: stored.assign(SLP=stored["T2M"], T2M=stored["SLP"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_was_spoilt_is_refused(name: str, made: tuple[dict[str, xr.Dataset], Any]) -> None:
    assert [claim.name for claim in checks({"": CORRUPTIONS[name](made[0][""])}) if not claim.holds]


def test_columns_exchanged_are_found_by_the_reference(made: tuple[dict[str, xr.Dataset], Any]) -> None:
    part = made[1].parts[0]
    field = tiny().part(part)[""]["SLP"]
    assert not np.array_equal(np.roll(field.values, 1, axis=2), reference(tiny(), part, {})[""]["SLP"].values)


def test_the_nearest_day_is_the_nearest_of_an_exhaustive_search(made: tuple[dict[str, xr.Dataset], Any]) -> None:
    days = Days.of(made[0])
    places, distance = days.nearest(count=3)
    stored = made[0][""]
    weights = np.cos(np.radians(stored["lat"].values))[:, None] * np.ones(stored.sizes["lon"])
    weights /= weights.sum()
    for row in (0, 17, 58):
        allowed = [other for other in range(59) if abs(other - row) > 15]
        exact = []
        for other in allowed:
            squares = []
            for name in ("SLP", "T2M"):
                field = stored[name].values.astype(np.float64)
                anomaly = field - field.mean(0)
                scale = np.sqrt((anomaly**2 * weights).sum((1, 2)).mean())
                squares.append((((anomaly[row] - anomaly[other]) / scale) ** 2 * weights).sum())
            exact.append(np.sqrt(np.mean(squares)))
        order = np.argsort(exact)[:3]
        assert places[row].tolist() == [allowed[one] for one in order]
        assert distance[row] == pytest.approx(np.array(exact)[order], rel=1e-9)


def test_vectors_for_inner_products_order_days_as_distances_do(made: tuple[dict[str, xr.Dataset], Any]) -> None:
    days = Days.of(made[0])
    held, asked = days.for_inner_products()
    product = asked.astype(np.float64) @ held.T.astype(np.float64)
    distance = np.linalg.norm(days.vectors[:, None] - days.vectors[None], axis=2)
    assert np.array_equal(np.argsort(-product, 1)[:, :3], np.argsort(distance, 1)[:, :3])
    assert float(np.mean((days.vectors**2).sum(1))) == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_days_that_are_nearly_as_near_keep_their_order_in_float32(seed: int, apart: float) -> None:
    """One number for the square, in float32, swaps such days; two hold it to 48 bits."""
    random = np.random.default_rng(seed)
    vectors = random.normal(0, 5, 7) + apart * random.normal(0, 1, (47, 7))
    held, asked = Days(day=np.arange(47), vectors=vectors).for_inner_products()
    kept = held[:, :-2].astype(np.float64)
    assert np.array_equal(held[:, :-2], vectors.astype(np.float32))
    product = asked.astype(np.float64) @ held.T.astype(np.float64)
    square = ((kept[:, None] - kept[None]) ** 2).sum(2)
    assert np.abs(2 * product - (kept**2).sum(1)[:, None] + square).max() < 1e-10
    ordered = np.take_along_axis(square, np.argsort(-product, 1), 1)
    assert (np.diff(ordered, axis=1) > -1e-10).all()
    single = kept @ kept.T + held[:, -2].astype(np.float64)
    error = np.abs(2 * single - (kept**2).sum(1)[:, None] + square).max()
    assert error > 1e-8, "one number would do"


def test_analogs_find_the_weather_types_that_the_world_was_made_of(made: tuple[dict[str, xr.Dataset], Any]) -> None:
    days = Days.of(made[0])
    config = tiny()
    world = surface.SurfaceConfig(rows=config.rows, columns=config.columns, types=config.types, seed=config.seed)
    types = np.array([surface.type_of(world, date.fromordinal(int(day) + 719163)) for day in days.day])
    found = type_agreement(days.nearest()[0], types)
    chance = float(((np.bincount(types) / len(types)) ** 2).sum())
    assert found > 3 * chance
    metrics = baseline(made[0], seed=2)
    assert metrics["analog_0d_rms_high"] < metrics["random_0d_rms_low"]
    assert metrics["ten_analogs_3d_rms"] < metrics["analog_3d_rms"]  # means are nearer than any one of them
    assert metrics["persistence_1d_rms"] < metrics["random_1d_rms"]
    assert baseline(made[0], seed=2) == metrics


def test_too_few_days_have_no_analogs_but_a_map(tmp_path: Path) -> None:
    groups, _ = whole(AnalogsConfig(days=20))
    with pytest.raises(ValueError, match="analogs need at least 32 days, got 20"):
        baseline(groups)
    assert [figure.name for figure in figures(groups)] == ["last_day"]


def test_figures_show_the_closest_pair_and_the_errors(made: tuple[dict[str, xr.Dataset], Any]) -> None:
    found = {figure.name: figure for figure in figures(made[0])}
    assert list(found) == ["closest_day", "closest_analog", "analog_forecasts"]
    assert found["closest_day"].field is not None
    assert len(found["closest_day"].field.values) == made[0][""].sizes["lat"]
