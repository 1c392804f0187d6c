"""Fluxes and training fields from winds on levels: parts, levels, derivatives, readers, and the published files."""

from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from models.climate.datasets import schemas
from models.climate.datasets.certificate import distance
from models.climate.datasets.fluxes import calendar, columns
from models.climate.datasets.fluxes import layout as published
from models.climate.datasets.fluxes.config import FluxesConfig, paper, small, tiny
from models.climate.datasets.fluxes.levels import hybrid_levels, pressure_levels
from models.climate.datasets.fluxes.momentum import WaveFlux
from models.climate.datasets.fluxes.reference import reference
from models.climate.generator import gwsphere
from models.climate.geometry import gaussian_grid, regular_grid
from models.climate.harmonics import Harmonics
from models.climate.remapping import Conservative
from models.common.errors import AwaitedError, InputError
from tests.models.climate.datasets.fluxes.worlds import archive, fields_of, found, surfaces_of, surveyed, whole
from tests.models.climate.samples import message, write_netcdf

Groups = dict[str, xr.Dataset]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FluxesConfig:
    """Four hours of two days on five levels."""
    return archive(tmp_path_factory.mktemp("era5"))


@pytest.fixture(scope="module")
def groups(config: FluxesConfig) -> Groups:
    """What the recipe makes of them."""
    return whole(config)


@pytest.fixture(scope="module")
def generated() -> Groups:
    """The generated atmosphere of `tiny`."""
    return whole(tiny())


def test_presets_are_what_they_say() -> None:
    for preset, parts in ((tiny(), 6), (small(), 48)):
        survey = preset.survey({})
        assert len(survey.parts) == parts
        assert len({part.name for part in survey.parts}) == parts
        for part in survey.parts:
            for group, begin in part.at.items():
                for variable in survey.groups[group].variables.values():
                    assert begin["level"] % variable.shards["level"] == 0 == begin["time"] % variable.shards["time"]
    published = paper()
    assert (published.coarse_rows, published.coarse_columns, published.truncation) == (64, 128, 21)
    assert 137 - published.dropped_levels == 122
    assert set(published.sources()) == {"u", "v", "w", "t", "sp", "zs"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "files", "u": "u.nc"}, "u, v and omega must name files"),
        ({"u": "u.nc", "start": "2010-01-31"}, "source must be 'files' when files are named, as u are"),
        ({"coarse_columns": 17}, "coarse_columns must be even, got 17"),
        ({"levels": 3}, "levels must be at least 6"),
        ({"reproduce": ("leap_day",)}, "must name defects of fluxes"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FluxesConfig(**settings)  # type: ignore[arg-type]


def test_fluxes_are_those_of_the_fields_in_the_files(config: FluxesConfig, groups: Groups) -> None:
    grid = regular_grid(47, 93)
    fields = fields_of(grid, 4, 5)
    flux = WaveFlux(harmonics=Harmonics(grid=grid), truncation=9)
    remap = Conservative(source=grid, target=gaussian_grid(config.coarse_rows, config.coarse_columns))
    for hour, level in ((0, 0), (3, 4), (2, 1)):
        u, v, w = (fields[name][hour, level] for name in "uvw")
        for name, wanted in zip(("uw", "vw"), flux(u, v, w), strict=True):
            assert np.array_equal(groups["fluxes"][name][hour, level], wanted.astype(np.float32))
            assert np.array_equal(groups["training"][name][hour, level], remap(wanted).astype(np.float32))
        for name in "uvwt":
            assert np.array_equal(groups["training"][name][hour, level], remap(fields[name][hour, level]).astype("f4"))
    assert groups["training"]["time"].values.tolist() == [
        int(np.datetime64(f"2015-03-0{day}T0{hour}:00", "m").astype(int)) for day in (1, 2) for hour in (0, 1)
    ]


def test_a_flux_has_the_sign_of_momentum_carried_upward() -> None:
    # Eastward wind in rising air: omega < 0, rho u' w' > 0.
    grid = regular_grid(91, 180)
    lat, lon = np.radians(grid.latitudes)[:, None], np.radians(grid.longitudes)
    u = -30 * np.cos(lat) ** 29 * np.sin(30 * lon)
    v = -30 * np.cos(lat) ** 29 * np.sin(lat) * np.cos(30 * lon)
    uw, vw = WaveFlux(harmonics=Harmonics(grid=grid))(u, v, np.cos(lat) ** 30 * np.sin(30 * lon))
    assert np.allclose(uw, 30 / 9.81 * np.cos(lat) ** 59 * np.sin(30 * lon) ** 2, atol=1e-12)
    assert uw.mean() > 0 and np.abs(vw.mean()) < 1e-12 * uw.max()


@pytest.mark.parametrize("together", [1, 3, 5])
def test_a_level_has_the_same_bits_in_any_block(config: FluxesConfig, groups: Groups, together: int) -> None:
    other = whole(replace(config, levels_at_once=together, end="2015-03-01"))
    for group, data in other.items():
        assert data.sizes["time"] == 2
        for name in data.data_vars:
            assert np.array_equal(data[name].values, groups[group][name][:2].values)


def test_columns_give_pressure_shear_and_stratification(groups: Groups) -> None:
    grid = regular_grid(47, 93)
    fields, surface = fields_of(grid, 4, 5), surfaces_of(grid)
    levels = hybrid_levels(np.arange(1, 6))
    remap = Conservative(source=grid, target=gaussian_grid(16, 32))
    p = np.stack([levels.pressure(level, surface["sp"].astype(np.float64)) for level in range(5)])
    u, t = fields["u"][1].astype(np.float64), fields["t"][1].astype(np.float64)
    theta = columns.potential_temperature(t, p)
    # numpy's own differences of second order; levels of the top have one pressure everywhere.
    shear = np.gradient(u, p[:, 0, 0], axis=0, edge_order=2)
    n2 = -(9.81**2) / (287.053 * t) * np.gradient(np.log(theta), np.log(p[:, 0, 0]), axis=0, edge_order=2)
    assert np.allclose(groups["training"]["dudp"][1], remap(shear), rtol=1e-5, atol=1e-6 * np.abs(shear).max())
    assert np.allclose(groups["training"]["N2"][1], remap(n2), rtol=1e-5, atol=1e-6 * np.abs(n2).max())
    assert np.allclose(groups["training"]["p"][1], remap(p), rtol=1e-6)
    assert np.allclose(groups["training"]["zs"], remap(surface["z"] / 9.80665), rtol=1e-6)


def test_derivatives_are_exact_for_parabolas_and_stable_air_is_stable() -> None:
    random = np.random.default_rng(0)
    x = tuple(np.sort(random.uniform(1, 9, (3, 4, 5)), axis=0))
    y = tuple(3 * level**2 - 2 * level + 1 for level in x)
    for at in range(3):
        assert np.allclose(columns.derivative(at, x, y), 6 * x[at] - 2)
    assert np.allclose(columns.derivative(1, x[:2], y[:2]), (y[1] - y[0]) / (x[1] - x[0]))
    # An isothermal atmosphere of T has N2 = g^2 kappa / (R T).
    temperature = np.full((3, 4, 5), 250.0)
    log_p = np.log(np.array([100.0, 300.0, 500.0]))[:, None, None] + np.zeros((3, 4, 5))
    logs = tuple(columns.log_theta(t, p) for t, p in zip(temperature, log_p, strict=True))
    n2 = columns.stratification(temperature[0], columns.derivative(0, tuple(log_p), logs))
    assert np.allclose(n2, 9.81**2 * 0.286 / (287.053 * 250))
    assert np.allclose(np.exp(logs[0]), columns.potential_temperature(250.0, 100.0))


def test_levels_are_those_of_the_model() -> None:
    levels = hybrid_levels(np.arange(1, 138))
    # Full-level pressures over 1013.25 hPa, as ECMWF tabulates them for 137 levels.
    table = {1: 0.0100, 2: 0.0255, 50: 56.2567, 96: 507.5021, 137: 1012.0494}
    assert all(abs(levels.labels[number - 1] - label) < 1e-4 for number, label in table.items())
    assert (np.diff(levels.labels) > 0).all()
    assert pressure_levels(np.array([1.0, 1000.0])).pressure(1, np.array([9e4])).tolist() == [1e5]
    for numbers in ([0, 1], [137, 138], [2, 1]):
        with pytest.raises(InputError, match=r"must rise within 1\.\.137"):
            hybrid_levels(np.array(numbers))
    with pytest.raises(InputError, match="must rise from above zero"):
        pressure_levels(np.array([2.0, 1.0]))


def test_rows_levels_and_seams_of_the_files_do_not_matter(tmp_path: Path, groups: Groups) -> None:
    upside = archive(tmp_path / "south", days=("20150301",), grid=regular_grid(47, 93, north_first=False), reverse=True)
    grid = regular_grid(47, 93)
    flipped = fields_of(grid.flipped(), 2, 5)
    straight = {name: one[:, :, ::-1] for name, one in flipped.items()}
    flux = WaveFlux(harmonics=Harmonics(grid=grid), truncation=9)
    made = whole(upside)
    for level in (0, 4):
        uw, vw = flux(*(straight[name][1, level] for name in "uvw"))
        assert np.allclose(made["fluxes"]["uw"][1, level].values[::-1], uw, atol=1e-6 * np.abs(uw).max())
        assert np.allclose(made["fluxes"]["vw"][1, level].values[::-1], vw, atol=1e-6 * np.abs(vw).max())
    assert made["fluxes"]["lat"].values[0] == -90
    assert np.array_equal(made["training"]["lat"], groups["training"]["lat"])
    assert (np.diff(made["training"]["level"].values) > 0).all()


def test_pressure_levels_packed_numbers_and_undated_hours_are_read(tmp_path: Path) -> None:
    grid = regular_grid(25, 36)
    fields = fields_of(grid, 2, 3)
    axes = {
        "time": (("time",), np.array([6, 7], "i4"), {"units": "hours"}),
        "level": (("level",), np.array([1000, 100, 500], "i4"), {"units": "hPa"}),
        "latitude": (("latitude",), grid.latitudes, {"units": "degrees_north"}),
        "longitude": (("longitude",), grid.longitudes, {"units": "degrees_east"}),
    }
    sizes: dict[str, int | None] = {"time": 2, "level": 3, "latitude": 25, "longitude": 36}
    for name in "uvw":
        scale = float(np.abs(fields[name]).max()) / 32_000
        packed = np.round(fields[name] / scale).astype("i2")
        attrs = {"units": "hPa s-1" if name == "w" else "m s-1", "scale_factor": scale * (0.01 if name == "w" else 1)}
        variable = (("time", "level", "latitude", "longitude"), packed, {**attrs, "add_offset": 0.0})
        write_netcdf(tmp_path / f"{name}-20160229.nc", sizes, {**axes, name: variable}, kind="NETCDF3_CLASSIC")
    config = FluxesConfig(source="files", u=f"{tmp_path}/u*", v=f"{tmp_path}/v*", omega=f"{tmp_path}/w*", truncation=5)
    made = whole(config)
    assert made["training"]["level"].values.tolist() == [100, 500, 1000]
    assert str(np.datetime64(int(made["training"]["time"][0]), "m")) == "2016-02-29T06:00"
    order = [1, 2, 0]
    uw, _ = WaveFlux(harmonics=Harmonics(grid=grid), truncation=5)(*(fields[name][1, order[0]] for name in "uvw"))
    assert np.allclose(made["fluxes"]["uw"][1, 0], uw, atol=2e-3 * np.abs(uw).max())
    assert np.isnan(made["training"]["t"]).all() and np.isnan(made["training"]["N2"]).all()
    assert made["training"]["p"].values[0, :, 0, 0].tolist() == [1e4, 5e4, 1e5]


def test_a_logarithm_of_surface_pressure_and_one_height_for_all_hours_are_read(tmp_path: Path, groups: Groups) -> None:
    config = archive(tmp_path, days=("20150301",))
    grid, surface = regular_grid(47, 93), surfaces_of(regular_grid(47, 93))
    axes = {
        "latitude": (("latitude",), grid.latitudes, {"units": "degrees_north"}),
        "longitude": (("longitude",), grid.longitudes, {"units": "degrees_east"}),
    }
    sizes: dict[str, int | None] = {"latitude": 47, "longitude": 93, "time": 2}
    dims = ("latitude", "longitude")
    height = (surface["z"] / 9.80665).astype("f4")
    write_netcdf(tmp_path / "height.nc", {name: sizes[name] for name in dims},
                 {**axes, "orog": (dims, height, {"units": "m"})})  # fmt: skip
    hours = (("time",), np.array([0, 1], "i4"), {"units": "hours since 2015-03-01"})
    logs = np.repeat(np.log(surface["sp"].astype("f8"))[None], 2, 0)
    write_netcdf(tmp_path / "lnsp.nc", sizes,
                 {**axes, "time": hours, "lnsp": (("time", *dims), logs, {"units": "1"})})  # fmt: skip
    made = whole(replace(config, surface_pressure=f"{tmp_path}/lnsp.nc", surface_height=f"{tmp_path}/height.nc"))
    for name in ("p", "zs", "N2"):
        assert np.allclose(made["training"][name], groups["training"][name][:2], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("kind", "numbers"), [("isobaricInhPa", [100, 500, 1000]), ("hybrid", [1, 2, 3])])
def test_grib_on_pressure_and_model_levels_is_read(tmp_path: Path, kind: str, numbers: list[int]) -> None:
    grid = regular_grid(25, 36)
    fields = fields_of(grid, 2, 3)
    for name in "uvwt":
        messages = [
            message(fields[name][hour, at], shortName=name, typeOfLevel=kind, level=level, dataTime=100 * hour)
            for hour in range(2)
            for at, level in enumerate(numbers)
        ]
        (tmp_path / f"{name}.grib").write_bytes(b"".join(messages))
    config = FluxesConfig(
        source="files", u=f"{tmp_path}/u.grib", v=f"{tmp_path}/v.grib", omega=f"{tmp_path}/w.grib",
        temperature=f"{tmp_path}/t.grib", truncation=5, coarse_rows=8, coarse_columns=16,
    )  # fmt: skip
    made = whole(config)
    uw, _ = WaveFlux(harmonics=Harmonics(grid=grid), truncation=5)(*(fields[name][1, 2] for name in "uvw"))
    assert np.allclose(made["fluxes"]["uw"][1, 2], uw, atol=1e-4 * np.abs(uw).max())
    labels = numbers if kind == "isobaricInhPa" else hybrid_levels(np.array(numbers)).labels
    assert np.allclose(made["training"]["level"], labels)
    again = reference(config, surveyed(config).parts[0], {})
    for name, values in again["training"].data_vars.items():
        assert distance(made["training"][name][:1, :3].values, values.values) < 1e-6


def test_a_part_reads_the_files_of_its_own_hour(config: FluxesConfig) -> None:
    for part in surveyed(config).parts:
        day = part.name[:10].replace("-", "")
        assert len(part.files) == 6 and all(day in Path(file).name for file in part.files)


def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    config = archive(tmp_path, days=("20150301", "20150302", "20150303"), hours=1, surfaces=False)
    (tmp_path / "V20150302_ml.nc").rename(tmp_path / "hidden.nc")
    with pytest.raises(AwaitedError, match=r"v of 2015-03-02T00:00 is in no file"):
        surveyed(config)
    (tmp_path / "hidden.nc").rename(tmp_path / "V20150302_ml.nc")
    assert len(surveyed(config).parts) == 9
    assert len(surveyed(replace(config, start="2015-03-03")).parts) == 3
    with pytest.raises(AwaitedError, match="none between 2016-01-01 and the last"):
        surveyed(replace(config, start="2016-01-01"))
    with pytest.raises(AwaitedError, match=r"no hour of 2015-02-27 and 1 more days"):
        surveyed(replace(config, start="2015-02-27"))
    with pytest.raises(AwaitedError, match="no file of w"):
        config.survey({**found(config), "w": ()})
    other = archive(tmp_path / "other", days=("20150304",), hours=1, grid=regular_grid(25, 36), surfaces=False)
    with pytest.raises(InputError, match=r"U20150304_ml\.nc has a grid of \(25, 36\)"):
        config.survey({name: paths + found(other)[name] for name, paths in found(config).items()})
    other = archive(tmp_path / "more", days=("20150304",), hours=1, levels=6, surfaces=False)
    with pytest.raises(InputError, match=r"u has 6 levels from 1 to 6, .* has 5 from 1 to 5"):
        config.survey({name: paths + found(other)[name] for name, paths in found(config).items()})
    twice = {name: paths + paths[:1] for name, paths in found(config).items()}
    with pytest.raises(InputError, match=r"u of 2015-03-01T00:00 is in .* and in"):
        config.survey(twice)
    survey = surveyed(config)
    with netCDF4.Dataset(tmp_path / "W20150301_ml.nc", "a") as file:
        file["w"][0, 3, 5, 7] = np.nan
    config.part(survey.parts[0])
    with pytest.raises(InputError, match=r"W20150301_ml\.nc: w at 2015-03-01T00:00 has 1 missing values"):
        config.part(survey.parts[1])


def test_the_generated_waves_are_found_again(generated: Groups) -> None:
    world = gwsphere.GwsphereConfig(rows=16, columns=32, levels=6, seed=0)
    hour = int(np.datetime64("2010-01-31T01", "h").astype(int))
    truth = gwsphere.truth_of(world, hour)
    for name, true in zip(("uw", "vw"), truth, strict=True):
        for level in range(6):
            made = generated["training"][name][1, level].values
            # Aloft, where packets overlap, chance decides more.
            assert np.corrcoef(made.ravel(), true[level].ravel())[0, 1] > (0.85 if level > 3 else 0.6)
    assert FluxesConfig().survey({}).parts == tiny().survey({}).parts
    assert generated["training"].sizes == {"time": 3, "level": 6, "lat": 16, "lon": 32}


def test_a_generated_hour_is_the_same_alone_and_another_seed_is_another_world(generated: Groups) -> None:
    survey = tiny().survey({})
    alone = tiny().part(survey.parts[-1])
    assert np.array_equal(alone["fluxes"]["uw"].values[0], generated["fluxes"]["uw"].values[2, 3:])
    other = replace(tiny(), seed=1).part(survey.parts[-1])
    assert not np.allclose(other["fluxes"]["uw"].values, alone["fluxes"]["uw"].values)
    without = replace(tiny(), keep_fluxes=False)
    assert set(without.survey({}).groups) == set(without.part(survey.parts[-1])) == {"training"}


def test_every_value_lies_within_its_declared_bounds(groups: Groups, generated: Groups, config: FluxesConfig) -> None:
    for survey, made in ((surveyed(config), groups), (tiny().survey({}), generated)):
        for group, layout in survey.groups.items():
            for name, variable in layout.variables.items():
                values = made[group][name].values
                assert np.isnan(values).mean() <= variable.missing
                assert variable.low is not None and variable.high is not None
                assert np.nanmin(values) >= variable.low and np.nanmax(values) <= variable.high


def test_published_files_follow_their_schema_and_hold_what_is_stored(
    tmp_path: Path, config: FluxesConfig, groups: Groups
) -> None:
    written = config.export(groups, tmp_path)
    assert [path.name for path in written] == [
        "helmholtz_fluxes_hourly_era5_1Mar2015.nc",
        "era5_training_data_hourly_era5_2015Mar01.nc",
        "helmholtz_fluxes_hourly_era5_2Mar2015.nc",
        "era5_training_data_hourly_era5_2015Mar02.nc",
        "1x1_inputfeatures_u_v_theta_w_uw_vw_era5_training_data_hourly_2015_constant_mu_sigma_scaling03.nc",
    ]
    known = schemas.load("fluxes")
    for path in written:
        assert schemas.differences_in(known.file(path.name), path) == []
    with netCDF4.Dataset(written[2]) as fine:
        assert np.array_equal(fine["uw"][:], groups["fluxes"]["uw"].values[2:])
        assert fine["time"][:].tolist() == [0, 1]
        assert np.allclose(fine["level"][:], groups["fluxes"]["level"])
    with netCDF4.Dataset(written[3]) as coarse:
        for name in ("u", "N2", "vw", "zs"):
            assert np.array_equal(coarse[name][:], groups["training"][name].values[2:])
        assert coarse["flux_p"][:].mask.all()  # nobody fills it
        assert coarse.dimensions["time_fc_u"].isunlimited() and coarse["time_fc_v"][:].tolist() == [0, 1]


def test_learning_files_have_the_published_channels_and_scales(
    tmp_path: Path, config: FluxesConfig, groups: Groups
) -> None:
    config = replace(config, dropped_levels=2, train_years=(2015,))
    path = config.export({"training": groups["training"]}, tmp_path)[-1]
    training = groups["training"].isel(level=slice(2, None))
    kept = training.sizes["level"]
    with netCDF4.Dataset(path) as file:
        features, output = file["features"][:].data, file["output"][:].data
        mean, deviation = file["features_mean"][:].data, file["features_deviation"][:].data
        assert file.scaled_by == "mean and deviation of 2015"
    assert features.shape == (4, 3 + 4 * kept, 16, 32) and output.shape == (4, 2 * kept, 16, 32)
    assert np.allclose(features[2, 0, :, 5], training["lat"] / 90) and np.allclose(
        features[2, 1, 5], training["lon"] / 360
    )
    theta = columns.potential_temperature(training["t"].values.astype("f8"), training["p"].values.astype("f8"))
    channels = {3: training["u"], 3 + kept: training["v"], 3 + 2 * kept: theta, 3 + 3 * kept: training["w"]}
    for first, values in channels.items():
        there = slice(first, first + kept)
        back = features[:, there] * deviation[there, None, None] + mean[there, None, None]
        assert np.allclose(back, values, rtol=1e-5, atol=1e-5 * float(np.abs(values).max()))
    assert np.abs(features[:, 3:].mean((0, 2, 3))).max() < 1e-5
    assert np.allclose(features[:, 2:].std((0, 2, 3)), 1, rtol=1e-5)
    assert np.allclose(output.std((0, 2, 3)), 1, rtol=1e-5)
    # With years of training that are not there, all hours scale; without temperature there is nothing to learn from.
    other = replace(config, train_years=(1999,)).export({"training": groups["training"]}, tmp_path / "other")[-1]
    with netCDF4.Dataset(other) as file:
        assert file.scaled_by == "mean and deviation of all hours"
    blind = groups["training"].assign(t=groups["training"]["t"] * np.nan)
    assert len(config.export({"training": blind}, tmp_path / "blind")) == 2


def test_files_written_some_levels_at_a_time_hold_the_same_and_no_hour_is_made_twice(
    tmp_path: Path, config: FluxesConfig, groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config.export(groups, tmp_path / "whole")
    made: list[str] = []
    original = published._channel
    monkeypatch.setattr(published, "_channel", lambda name, hours: (made.append(name), original(name, hours))[1])
    monkeypatch.setattr(
        published, "_scales", lambda *given, scales=published._scales: (scales(*given), made.clear())[0]
    )
    monkeypatch.setattr(schemas, "BLOCK_BYTES", 8_000)  # half a level of 47 x 93, three channels of 16 x 32
    for path, other in zip(whole, config.export(groups, tmp_path / "pieces"), strict=True):
        with xr.open_dataset(path, decode_cf=False) as ours, xr.open_dataset(other, decode_cf=False) as theirs:
            assert ours.identical(theirs), path.name
    assert len(made) == 4 * (len(published.FEATURES) + len(published.FLUXES)), "four hours, each channel once"


def test_hours_out_of_order_are_no_published_file(tmp_path: Path, config: FluxesConfig, groups: Groups) -> None:
    shuffled = {name: one.isel(time=[0, 2, 1, 3]) for name, one in groups.items()}
    with pytest.raises(InputError, match="hours of 2015-03-01 do not follow one another"):
        config.export(shuffled, tmp_path)


def test_months_are_spelled_and_counted_as_published() -> None:
    assert calendar.MONTHS[8] == "Sept"
    assert [calendar.days_in_month(year, 2) for year in (1900, 2000, 2019, 2020, 2100)] == [28, 29, 28, 29, 28]
    assert [calendar.days_in_month(year, 2, published=True) for year in (1900, 2000, 2019, 2020)] == [29, 29, 28, 29]
    assert [calendar.days_in_month(2015, month) for month in range(1, 13)] == [
        31,
        28,
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ]
