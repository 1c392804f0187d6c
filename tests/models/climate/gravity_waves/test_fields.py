from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.generator.gwsphere import GwsphereConfig, features_of
from models.climate.gravity_waves.chunks import LabelledHours, StoredHours, hours_of
from models.climate.gravity_waves.fields import DIMS, GROUP, FluxFields
from models.climate.gravity_waves.lattice import LatticeConfig
from models.common.errors import InputError
from tests.models.climate.gravity_waves.hours import coded, files_of, hand_written, prepared, stored

LAYOUTS = {
    "a level a chunk, two levels a file": ({"time": 1, "level": 1}, {"time": 1, "level": 2}),
    "an hour a chunk and a file": ({"time": 1}, {"time": 1}),
    "two levels a chunk, three hours a file": ({"time": 1, "level": 2}, {"time": 3, "level": 4}),
    "an hour a chunk, two hours a file": ({"time": 1}, {"time": 2}),
}


def test_channels_are_place_ground_u_v_theta_omega_and_fluxes_are_uw_then_vw() -> None:
    fields = FluxFields(hand_written(levels=3, rows=4, columns=6))
    features, fluxes = fields.read([4, 1])
    assert features.shape == (2, 3 + 4 * 3, 4, 6) == (2, fields.features, *fields.shape)
    assert features.dtype == np.float32
    assert fluxes is not None and fluxes.shape == (2, 6, 4, 6) == (2, fields.outputs, *fields.shape)
    assert features[0, 0, :, 2].tolist() == np.float32(fields.latitude).tolist()
    assert features[0, 1, 3].tolist() == [0, 60, 120, 180, 240, 300]
    for n, hour in enumerate((4, 1)):
        assert features[n, 2, 3, 5] == coded("zs", hour, 0, 3, 5)
        for level in range(3):
            for at, name in ((3, "u"), (6, "v"), (12, "w")):
                assert features[n, at + level, 2, 5] == coded(name, hour, level, 2, 5)
            theta = coded("t", hour, level, 2, 5) * (coded("p", hour, level, 2, 5) / 1e5) ** -0.286
            assert features[n, 9 + level, 2, 5] == pytest.approx(theta, rel=1e-7)
            assert fluxes[n, level, 1, 4] == coded("uw", hour, level, 1, 4)
            assert fluxes[n, 3 + level, 1, 4] == coded("vw", hour, level, 1, 4)


def test_axes_are_those_of_the_dataset() -> None:
    fields = FluxFields(hand_written(3, apart=7, start="2010-12-31T10"))
    assert len(fields) == 3
    assert fields.time.astype(str).tolist() == ["2010-12-31T10:00:00", "2010-12-31T17:00:00", "2011-01-01T00:00:00"]
    assert fields.level.tolist() == [3, 70, 400]
    assert fields.pressure.tolist() == [300, 7000, 40000]
    assert fields.area.sum() == pytest.approx(1, abs=1e-14)
    assert (np.diff(fields.latitude) > 0).all()


def _turned(dataset: xr.Dataset, *, north: bool, bottom: bool) -> xr.Dataset:
    if north:
        dataset = dataset.isel(lat=slice(None, None, -1))
    return dataset.isel(level=slice(None, None, -1)) if bottom else dataset


@pytest.mark.parametrize("dropped", [0, 1, 2])
@pytest.mark.parametrize("bottom", [False, True])
@pytest.mark.parametrize("north", [False, True])
def test_other_orders_of_latitudes_and_levels_give_the_same_bits(north: bool, bottom: bool, dropped: int) -> None:
    dataset = hand_written(levels=4)
    plain = FluxFields(dataset, dropped_levels=dropped)
    turned = FluxFields(_turned(dataset, north=north, bottom=bottom), dropped_levels=dropped)
    assert plain.level.tolist() == turned.level.tolist() == [3, 70, 400, 900][dropped:]
    assert plain.latitude.tolist() == turned.latitude.tolist()
    for one, other in zip(plain.read([0, 3]), turned.read([0, 3]), strict=True):
        assert one is not None and other is not None
        assert np.array_equal(one, other)


def test_dropped_levels_are_those_at_the_top() -> None:
    features, fluxes = FluxFields(hand_written(levels=4), dropped_levels=3).read([2])
    assert fluxes is not None
    assert features.shape[1] == 7 and fluxes.shape[1] == 2
    assert features[0, 3, 0, 0] == coded("u", 2, 3, 0, 0)
    assert fluxes[0, 1, 3, 5] == coded("vw", 2, 3, 3, 5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bottom", [False, True])
def test_stored_hours_have_the_bits_of_the_arrays_they_were_made_of(layout: str, bottom: bool, tmp_path: Path) -> None:
    dataset = _turned(hand_written(5, levels=5, rows=6, columns=10), north=bottom, bottom=bottom)
    chunks, shards = LAYOUTS[layout]
    data = stored(dataset, tmp_path, chunks=chunks, shards=shards)
    assert all(isinstance(hours_of(data["data"][GROUP][name].variable, name), StoredHours) for name in ("u", "p", "vw"))
    for dropped in (0, 3):
        plain, fast = FluxFields(dataset, dropped_levels=dropped), FluxFields.of(data, dropped_levels=dropped)
        for one, other in zip(plain.read([4, 0, 2]), fast.read([4, 0, 2]), strict=True):
            assert one is not None and other is not None
            assert np.array_equal(one, other)


@settings(max_examples=12, deadline=None)
@given(
    hours=st.integers(1, 5),
    levels=st.integers(1, 5),
    rows=st.integers(2, 7),
    columns=st.integers(2, 9),
    chunk=st.integers(1, 5),
    files=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    turned=st.tuples(st.booleans(), st.booleans()),
    draw=st.data(),
)
def test_any_layout_of_a_stored_dataset_gives_the_values_that_were_written(
    hours: int,
    levels: int,
    rows: int,
    columns: int,
    chunk: int,
    files: tuple[int, int],
    turned: tuple[bool, bool],
    draw: st.DataObject,
) -> None:
    dropped = draw.draw(st.integers(0, levels - 1))
    dataset = _turned(hand_written(hours, levels=levels, rows=rows, columns=columns), north=turned[0], bottom=turned[1])
    chunks, shards = {"time": 1, "level": chunk}, {"time": files[0], "level": files[1] * chunk}
    with TemporaryDirectory() as folder:
        data = stored(dataset, Path(folder), chunks=chunks, shards=shards)
        features, fluxes = FluxFields.of(data, dropped_levels=dropped).read(range(hours))
    assert fluxes is not None
    count = levels - dropped
    assert features.shape == (hours, 3 + 4 * count, rows, columns)
    for at, name in ((3, "u"), (3 + count, "v"), (3 + 3 * count, "w")):
        assert np.array_equal(features[:, at : at + count], _values(name, hours, levels, rows, columns)[:, dropped:])
    assert np.array_equal(features[:, 2], _values("zs", hours, levels, rows, columns)[:, 0])
    for at, name in ((0, "uw"), (count, "vw")):
        assert np.array_equal(fluxes[:, at : at + count], _values(name, hours, levels, rows, columns)[:, dropped:])
    t, p = (_values(name, hours, levels, rows, columns)[:, dropped:].astype(np.float64) for name in ("t", "p"))
    np.testing.assert_allclose(features[:, 3 + 2 * count : 3 + 3 * count], t * (p / 1e5) ** -0.286, rtol=1e-7)


def _values(name: str, *shape: int) -> Any:
    """All values of a variable, from the top and from the south."""
    return hand_written(shape[0], levels=shape[1], rows=shape[2], columns=shape[3])[name].values


def test_what_was_changed_after_opening_is_read_and_not_the_files(tmp_path: Path) -> None:
    dataset = hand_written(5)
    group = stored(dataset, tmp_path, chunks={"time": 1}, shards={"time": 1})["data"][GROUP]
    later = FluxFields(group.isel(time=slice(2, None)))
    assert np.array_equal(later.read([0])[0], FluxFields(dataset).read([2])[0])
    changed = group.assign(u=(DIMS, group["u"].values + 1, group["u"].attrs))
    assert np.array_equal(FluxFields(changed).read([1])[0][:, 3:6], FluxFields(dataset).read([1])[0][:, 3:6] + 1)


def test_an_archive_that_is_not_ours_is_read_through_xarray(tmp_path: Path) -> None:
    dataset = hand_written(5)
    dataset.to_zarr(tmp_path / "other.zarr", zarr_format=2, consolidated=False)
    opened = xr.open_zarr(tmp_path / "other.zarr", consolidated=False, chunks=None)
    assert isinstance(hours_of(opened["u"].variable, "u"), LabelledHours)
    assert opened["time"].dtype.kind == "M"
    fields = FluxFields(opened)
    assert np.array_equal(fields.time, FluxFields(dataset).time)
    assert np.array_equal(fields.read([3])[0], FluxFields(dataset).read([3])[0])


def test_the_ground_may_be_given_once_by_the_hour_or_on_every_level() -> None:
    dataset = hand_written()
    wanted = FluxFields(dataset).read([2])[0]
    once = dataset.assign(zs=(("lat", "lon"), dataset["zs"].values[0, 0], {"units": "m"}))
    hourly = dataset.assign(zs=(("time", "lat", "lon"), dataset["zs"].values[:, 0], {"units": "m"}))
    for one in (once, hourly, once.isel(lat=slice(None, None, -1)), hourly.isel(lat=slice(None, None, -1))):
        assert np.array_equal(FluxFields(one).read([2])[0], wanted)


def test_potential_temperature_may_be_given_or_follow_from_the_labels_of_levels() -> None:
    dataset = hand_written()
    given = dataset.drop_vars(["t", "p"]).assign(theta=(DIMS, dataset["t"].values, {"units": "K"}))
    assert FluxFields(given).read([1])[0][0, 6 + 3, 0, 0] == coded("t", 1, 0, 0, 0)
    labelled = FluxFields(dataset.drop_vars("p")).read([1])[0]
    assert labelled[0, 6 + 3, 0, 0] == pytest.approx(coded("t", 1, 0, 0, 0) * (300 / 1e5) ** -0.286, rel=1e-7)


def test_pressure_that_changes_from_hour_to_hour_is_taken_up() -> None:
    dataset = hand_written()
    dataset["p"][1] *= 1.25
    fields = FluxFields(dataset)
    before, changed, after = (fields.read([row])[0][0, 9] for row in (0, 1, 2))
    warm = [dataset["t"].values[row, 0].astype(np.float64) for row in range(3)]
    factor = [(dataset["p"].values[row, 0].astype(np.float64) / 1e5) ** -0.286 for row in range(3)]
    for found, t, power in zip((before, changed, after), warm, factor, strict=True):
        np.testing.assert_allclose(found, t * power, rtol=1e-7)


def test_the_lattice_gives_the_published_sample_of_the_generator(tmp_path: Path) -> None:
    config = LatticeConfig(years=(2010,), hours_apart=3001, hours_together=2, world=GwsphereConfig(rows=10, columns=16))
    fields = FluxFields.of(prepared(config, tmp_path))
    for row, hour in enumerate(config.hours):
        features, fluxes = features_of(config.world, hour)
        read, truth = fields.read([row])
        assert truth is not None
        np.testing.assert_array_equal(truth[0], fluxes)
        np.testing.assert_array_equal(read[0, :27], features[:27])
        np.testing.assert_array_equal(read[0, 39:], features[39:])
        np.testing.assert_allclose(read[0, 27:39], features[27:39], rtol=3e-7)  # theta, of t as it was stored


def test_many_threads_read_what_one_reads(tmp_path: Path) -> None:
    dataset = hand_written(12)
    dataset["p"][::2] *= 1.125
    fields = FluxFields.of(stored(dataset, tmp_path, chunks={"time": 1, "level": 1}, shards={"time": 1}))
    rows = [int(row) for row in np.random.default_rng(0).integers(0, 12, 200)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda row: fields.read([row]), rows))
    alone = [fields.read([row]) for row in range(12)]
    for row, one in zip(rows, found, strict=True):
        assert np.array_equal(one[0], alone[row][0])
        assert np.array_equal(np.asarray(one[1]), np.asarray(alone[row][1]))


def test_a_dataset_without_fluxes_gives_features_alone() -> None:
    fields = FluxFields(hand_written().drop_vars(["uw", "vw"]))
    assert not fields.has_fluxes
    features, fluxes = fields.read([0])
    assert fluxes is None
    with pytest.raises(InputError, match="has no uw and vw to learn from"):
        fields.read_into(0, features[0], np.empty((6, 4, 6), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["u", "v", "w", "t", "p", "uw", "vw"])
def test_a_value_that_is_no_number_is_refused_with_its_place(name: str, value: float) -> None:
    dataset = hand_written(5, levels=3)
    dataset[name][3, 2, 1, 4] = value
    fields = FluxFields(dataset)
    fields.read([0, 1, 2, 4])
    said = (
        rf"training: {name} at 2010-01-01T21:00, level 3 from the top \(400 hPa\), latitude -19.\d\d, longitude 240.00"
    )
    with pytest.raises(InputError, match=said + r" is -?(nan|inf); 1 of 72 values are no finite numbers"):
        fields.read([3])


def test_a_ground_without_height_is_refused() -> None:
    dataset = hand_written()
    dataset["zs"][:] = np.nan
    with pytest.raises(InputError, match=r"zs at 2010-01-01T00:00, latitude .* 24 of 24 values are no finite numbers"):
        FluxFields(dataset).read([0])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("t", lambda t: t - 273.15, "t at .* are outside 100 to 400 K. Check the units of t"),
        ("p", lambda p: p / 100, "p at .* averages .* on the level labelled 3 hPa, expected about 300 Pa"),
        ("zs", lambda z: 981 * z, "zs at .* are outside -1000 to 10000 m"),
        ("w", lambda w: 1000 * w, "w at .* are outside -100 to 100 Pa s-1"),
    ],
)
def test_values_in_other_units_than_they_say_are_refused(name: str, change: Any, said: str) -> None:
    dataset = hand_written()
    dataset[name][:] = change(dataset[name].values)
    with pytest.raises(InputError, match=said):
        FluxFields(dataset).read([0])


@pytest.mark.parametrize("name", ["u", "zs", "uw", "level", "time"])
@pytest.mark.parametrize("packing", [{"scale_factor": 0.1}, {"add_offset": 3.0}])
def test_packed_numbers_are_not_taken_for_values(name: str, packing: dict[str, float]) -> None:
    dataset = hand_written()
    dataset[name].attrs |= packing
    with pytest.raises(InputError, match=f"{name} is packed by scale_factor and add_offset; write it as floats"):
        FluxFields(dataset)


@pytest.mark.parametrize(("name", "attribute", "value"), [("zs", "_FillValue", -999), ("u", "missing_value", -99)])
def test_a_number_that_stands_for_a_missing_value_is_none(name: str, attribute: str, value: float) -> None:
    dataset = hand_written(6, rows=4, columns=6)
    dataset[name][3, 0, 2, 1] = value
    FluxFields(dataset).read([3])
    dataset[name].attrs[attribute] = np.float32(value)
    fields = FluxFields(dataset)
    fields.read([0, 1, 2, 4, 5])
    with pytest.raises(InputError, match=rf"{name} at .* longitude 60.00 is {value:.1f}; 1 of .* stand for missing"):
        fields.read([3])


@pytest.mark.parametrize("name", ["u", "v", "w", "t", "zs", "time", "level", "lat", "lon"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"has no {name}; it has "):
        FluxFields(hand_written().drop_vars(name))


@pytest.mark.parametrize("name", ["u", "v", "w", "t", "p", "zs", "uw", "vw"])
@pytest.mark.parametrize("units", ["mPa", "1", None])
def test_other_units_are_refused(name: str, units: str | None) -> None:
    dataset = hand_written()
    dataset[name].attrs = {} if units is None else {"units": units}
    with pytest.raises(InputError, match=f"{name} is in {units or 'no known units'}, expected "):
        FluxFields(dataset)


@pytest.mark.parametrize(
    ("name", "units"),
    [("u", "m/s"), ("v", "m s**-1"), ("v", "m.s-1"), ("w", "Pa s**-1"), ("w", "Pa/s"), ("t", "kelvin")],
)
def test_other_spellings_of_the_same_units_are_known(name: str, units: str) -> None:
    dataset = hand_written()
    dataset[name].attrs = {"units": units}
    assert len(FluxFields(dataset)) == 5


def _dated(minutes: list[float], units: str = "minutes since 1970-01-01", **more: str) -> xr.Dataset:
    return hand_written(len(minutes)).assign_coords(time=("time", np.array(minutes), {"units": units, **more}))


def _coarse(time: float, units: str) -> xr.Dataset:
    return hand_written(1).assign_coords(time=("time", np.array([time], np.float32), {"units": units}))


def test_times_in_single_precision_that_are_exact_are_taken() -> None:
    assert FluxFields(_coarse(40_000, "days since 1900-01-01")).time == np.datetime64("2009-07-08")
    assert FluxFields(_coarse(30.5, "hours since 2010-01-01")).time == np.datetime64("2010-01-02T06:30")


def _decoded(*times: str) -> xr.Dataset:
    return hand_written(len(times)).assign_coords(time=np.array(times, "datetime64[ns]"))


def _rows(latitudes: list[float]) -> xr.Dataset:
    return hand_written(rows=len(latitudes)).assign_coords(lat=("lat", np.array(latitudes)))


def test_areas_sum_to_the_sphere_where_a_pole_was_cut_off() -> None:
    fields = FluxFields(_rows(np.linspace(90, -90, 9)[:-1].tolist()))
    assert float(fields.area.sum()) == pytest.approx(1, abs=1e-15)
    assert fields.latitude.tolist() == np.linspace(-67.5, 90, 8).tolist()


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (lambda: _dated([60, 0]), "1970-01-01T00:00:00 follows 1970-01-01T01:00:00"),
        (lambda: _dated([60, 120, 120]), "1970-01-01T02:00:00 follows 1970-01-01T02:00:00"),
        (lambda: _dated([0, 1], "hour of the day"), "time is in hour of the day, expected minutes since a date"),
        (lambda: hand_written().isel(time=slice(0, 0)), "has no hours"),
        (lambda: _dated([0, 2**62, 3]), "hour 2 of 3 has no time"),
        (lambda: _dated([0, np.nan, 3]), "hour 2 of 3 has no time"),
        (lambda: _coarse(40_000.04, "days since 1900-01-01"), "time is in single precision and in days since 1900"),
        (lambda: _decoded("2010-01-01", "NaT"), "hour 2 of 2 has no time"),
        (lambda: _dated([0, 1], "hours since 2010-01-01 00:00:00 +05:00"), "expected minutes since a date of UTC"),
        (lambda: _dated([0, 1], calendar="noleap"), "time is in the calendar noleap, expected standard"),
        (lambda: hand_written().isel(lon=slice(0, 4)), "longitudes from 0 to 180 are no whole circle"),
        (lambda: _rows([20, 30, 40, 50]), "latitudes from 20 to 50 degrees are no whole sphere"),
        (lambda: _rows([-1, -0.3, 0.3, 1]), "or give latitudes in degrees"),
        (lambda: hand_written().roll(lon=1, roll_coords=True), "longitude falls at column 1"),
        (lambda: hand_written().assign_coords(lon=hand_written()["lon"] - 180), "roll them to begin at Greenwich"),
        (lambda: hand_written().isel(level=[0, 2, 1]), "level does not run one way"),
        (lambda: hand_written().transpose("time", "lat", "lon", "level"), "lies on .*; transpose it"),
        (lambda: hand_written().drop_vars("vw"), "has uw and not the other of uw and vw"),
    ],
)
def test_axes_that_cannot_be_used_are_refused(dataset: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        FluxFields(dataset())


def test_levels_without_pressure_are_refused() -> None:
    dataset = hand_written()
    dataset["level"].attrs = {"units": "1"}
    with pytest.raises(InputError, match="level is in 1, expected hPa or Pa"):
        FluxFields(dataset)
    dataset["level"].attrs = {"units": "Pa"}
    assert FluxFields(dataset.drop_vars("p")).pressure.tolist() == pytest.approx([3, 70, 400])
    with pytest.raises(InputError, match="has 3 levels, and 3 shall be dropped"):
        FluxFields(hand_written(), dropped_levels=3)


@pytest.mark.parametrize(
    ("units", "first", "step"),
    [
        ("hours since 1970-01-01 00:00:00", "1970-01-01T00", 3600),
        ("days since 1969-12-31T12:00", "1969-12-31T12", 86400),
        ("hours since 1970-01-01 6:00:00", "1970-01-01T06", 3600),
        ("hours since 1970-01-01 06:00:00.0 UTC", "1970-01-01T06", 3600),
        ("seconds since 1970-01-01T00:00:00Z", "1970-01-01T00", 1),
        ("minutes since 1970-01-01 00:00:00 +00:00", "1970-01-01T00", 60),
    ],
)
def test_times_count_from_any_date(units: str, first: str, step: int) -> None:
    fields = FluxFields(_dated([0, 1, 5], units))
    assert (fields.time == np.datetime64(first, "s") + np.array([0, step, 5 * step], "m8[s]")).all()


def test_a_dataset_without_the_group_is_refused_with_what_it_has() -> None:
    with pytest.raises(InputError, match=r"has no group 'training', only \['fluxes'\]"):
        FluxFields.of({"data": {"fluxes": hand_written()}})
    with pytest.raises(IndexError, match="has hours 0 to 4, got 5"):
        FluxFields.of({"data": {"training": hand_written()}}).read([5])


def _flip(data: bytes) -> bytes:
    """One bit of the first chunk's values is another."""
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "is damaged"),
        (lambda _: b"", "is damaged"),
        (_flip, "is damaged: a chunk does not have its checksum"),
        (None, "is missing; the dataset is damaged"),
    ],
)
def test_a_damaged_file_is_named(layout: str, damage: Any, said: str, tmp_path: Path) -> None:
    chunks, shards = LAYOUTS[layout]
    data = stored(hand_written(levels=4, rows=6, columns=10), tmp_path, chunks=chunks, shards=shards)
    file = files_of(tmp_path, "v")[0]
    whole = file.read_bytes()
    file.unlink()  # its other name in the part keeps its bytes
    if damage is not None:
        file.write_bytes(damage(whole))
    with pytest.raises(InputError, match=said) as error:
        FluxFields.of(data).read([0])
    assert str(file) in str(error.value)


def test_a_store_that_cannot_be_read_is_named_with_the_hour() -> None:
    class Broken(LabelledHours):
        def read(self, *_: Any) -> None:
            raise OSError("connection lost")

    fields = FluxFields(hand_written())
    fields._levelled["w"] = Broken(hand_written()["w"].variable, "s3://somewhere/w")
    with pytest.raises(InputError, match=r"s3://somewhere/w cannot be read at 2010-01-01T07:00 \(connection lost\)"):
        fields.read([1])
