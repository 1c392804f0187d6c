"""Published files as data: what differs is said, and what is written is exactly what was asked for."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.datasets import schemas
from models.climate.datasets.schemas import FileSchema, differences, differences_in, matches, parse, since, write
from models.common.errors import InputError

RAW: dict[str, Any] = {
    "dataset": "toy",
    "upstream": {"repository": "none", "commit": "none"},
    "files": [
        {
            "name": "{year}_toy.nc",
            "group": "grids",
            "format": "NETCDF4",
            "source": "toy.py:1",
            "dimensions": {"time": None, "lat": 3, "lon": "*", "letters": 4},
            "variables": {
                "time": {"dims": ["time"], "dtype": "int32", "units": "minutes since {day}", "fill": None},
                "lat": {"dims": ["lat"], "dtype": "float64", "units": "degrees_north", "fill": "nan"},
                "rain": {
                    "dims": ["time", "lat", "lon"],
                    "dtype": "float32",
                    "units": "mm",
                    "fill": 1e15,
                    "attributes": {"long_name": "rain", "missing_value": {"dtype": "float32", "value": 1e15}},
                },
                "flag": {"dims": ["time"], "dtype": "uint8", "units": None, "fill": 2, "attributes": {"*": None}},
                "label": {"dims": ["time"], "dtype": "str"},
                "code": {"dims": ["time", "letters"], "dtype": "S4"},
            },
            "attributes": {"title": "toys of {year}"},
        }
    ],
    "splits": [{"name": "train", "rule": "all", "source": "toy.py:2"}],
}


def entry() -> FileSchema:
    return parse(RAW).files[0]


def toys(rows: int = 7) -> xr.Dataset:
    rain = np.arange(rows * 15, dtype="float32").reshape(rows, 3, 5)
    rain[1, 2, 3] = np.nan
    return xr.Dataset(
        {
            "lat": ("lat", [10.0, np.nan, 30.0]),
            "rain": (("time", "lat", "lon"), rain),
            "flag": ("time", np.array([0.0, 1.0, np.nan] * 3)[:rows], {"note": "kept"}),
            "label": ("time", np.array(["one", "zwölf, drei"] * 4, object)[:rows]),
            "code": ("time", np.array([b"AB", b"WXYZ"] * 4)[:rows]),
            "beside": ("time", np.zeros(rows)),
        },
        coords={
            "time": (
                "time",
                np.datetime64("2020-02-29T00:00", "ns") + np.arange(rows) * np.timedelta64(90, "m"),
                {"units": "minutes since 2020-02-29"},
            )
        },
        attrs={"title": "toys of 2020"},
    )


@pytest.mark.parametrize("at_once", [10**6, 130, 45, 4], ids=["all", "two rows of rain", "less than one", "a value"])
def test_a_file_written_by_its_entry_shows_no_difference_and_every_value_comes_back(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "BLOCK_BYTES", at_once)
    path = write(entry(), toys(), tmp_path / "sub" / "2020_toy.nc", compression=4)
    assert differences_in(entry(), path) == []
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        assert file["time"][:].tolist() == [90 * row for row in range(7)]
        assert file["rain"][1, 2, 3] == np.float32(1e15)
        assert file["flag"][:].tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert file["flag"].note == "kept"
        assert file["label"][1] == "zwölf, drei"
        assert list(file.variables) == list(entry().variables)
    with xr.open_dataset(path, engine="netcdf4") as found:
        assert np.array_equal(found["rain"].values, toys()["rain"].values, equal_nan=True)
        assert found["code"].values.tolist() == toys()["code"].values.tolist()
    assert [one.name for one in path.parent.iterdir()] == ["2020_toy.nc"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 40))
def test_pieces_cover_an_array_once_and_are_no_larger_than_may_be(shape: list[int], most: int) -> None:
    seen = np.zeros(shape, int)
    for piece in schemas._pieces(tuple(shape), most):
        seen[piece] += 1
        assert seen[piece].size <= max(1, most)
    assert (seen == 1).all()


def spoilt(change: Callable[[xr.Dataset], xr.Dataset], tmp_path: Path) -> list[str]:
    """What is said of a good file after a change to what xarray reads of it."""
    path = write(entry(), toys(), tmp_path / "2020_toy.nc")
    with xr.open_dataset(path, engine="netcdf4", decode_cf=False) as good:
        return differences(entry(), change(good.load()))


def retyped(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign(rain=dataset["rain"].astype("float64"))


def without(name: str, key: str) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(dataset: xr.Dataset) -> xr.Dataset:
        del dataset[name].attrs[key]
        return dataset

    return change


def marked(name: str, key: str, value: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(dataset: xr.Dataset) -> xr.Dataset:
        dataset[name].attrs[key] = value
        return dataset

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda dataset: dataset.drop_vars("rain"), "variable rain is missing."),
        (lambda dataset: dataset.rename(rain="snow"), "variable snow is not in the schema."),
        (lambda dataset: dataset.isel(lat=slice(2)), "dimension lat has length 2, must have 3."),
        (lambda dataset: dataset.transpose("lat", ...), "rain has dims ('lat', 'time', 'lon'), must have"),
        (retyped, "rain has dtype float64, must have float32."),
        (without("flag", "_FillValue"), "flag has fill None, must have"),
        (marked("rain", "units", "m"), "rain has units 'm', must have 'mm'."),
        (marked("label", "units", "1"), "label has units '1', must have none."),
        (marked("rain", "_FillValue", np.float32(1e20)), "rain has fill"),
        (marked("rain", "long_name", "snow"), "rain has attribute long_name = 'snow', must have 'rain'."),
        (marked("rain", "missing_value", 1e15), "rain has attribute missing_value"),
        (without("rain", "missing_value"), "rain lacks attribute missing_value."),
        (marked("rain", "colour", "blue"), "rain has attribute colour, which is not in the schema."),
        (lambda dataset: dataset.assign_attrs(title="toys"), "the file has attribute title = 'toys'"),
    ],
)
def test_every_kind_of_difference_is_said(
    change: Callable[[xr.Dataset], xr.Dataset], said: str, tmp_path: Path
) -> None:
    assert any(line.startswith(said) for line in spoilt(change, tmp_path))


def test_a_good_dataset_shows_no_difference_in_memory(tmp_path: Path) -> None:
    assert spoilt(lambda dataset: dataset, tmp_path) == []


def test_a_limited_dimension_and_another_format_are_told_from_the_file(tmp_path: Path) -> None:
    whole = {**RAW["files"][0], "dimensions": {"time": "*", "lat": 3, "lon": "*", "letters": 4, "unused": 8}}
    path = write(parse({**RAW, "files": [whole]}).files[0], toys(), tmp_path / "2020_toy.nc")
    assert differences_in(entry(), path) == [
        "dimension unused is not in the schema.",
        "dimension time is not unlimited, must be.",
    ]
    classic = parse({**RAW, "files": [{**whole, "format": "NETCDF4_CLASSIC"}]}).files[0]
    assert differences_in(classic, path) == ["format is NETCDF4, must be NETCDF4_CLASSIC."]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda dataset: dataset.drop_vars("rain"), "wants rain, which the dataset lacks"),
        (lambda dataset: dataset.isel(lat=slice(2)), "lat has 2 along lat, must have 3; cut it to size"),
        (lambda dataset: dataset.transpose("lat", ...), "transpose or rename"),
        (lambda dataset: dataset.assign(flag=dataset["flag"] + 0.5), "flag holds values that uint8 cannot hold"),
        (lambda dataset: dataset.assign(rain=dataset["rain"] * 1e40), "rain holds values beyond float32"),
        (lambda dataset: dataset.drop_attrs(deep=False), "wants attribute title like 'toys of {year}', got None"),
        (lambda dataset: dataset.assign(code=dataset["label"]), "code has texts longer than 4 bytes"),
    ],
)
def test_what_would_not_survive_is_refused_and_the_old_file_stays(
    change: Callable[[xr.Dataset], xr.Dataset], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "2020_toy.nc"
    path.write_bytes(b"old")
    given = toys()
    with pytest.raises(InputError, match=said):
        write(entry(), change(given.assign(rain=given["rain"].astype("float64"))), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["2020_toy.nc"]  # noqa: PTH208


def test_times_become_exact_numbers() -> None:
    times = np.array(["1851-06-25T00:00", "2020-02-29T12:30"], "datetime64[s]")
    minutes = (datetime(2020, 2, 29, 12, 30) - datetime(1851, 6, 25)) // timedelta(minutes=1)
    assert since(times, "minutes since 1851-06-25", "x").tolist() == [0, minutes]
    assert since(times[1:], "days since 2020-02-29 12:00:00", "x").tolist() == [1 / 48]
    with pytest.raises(InputError, match="give them as 'minutes since 2019-01-01'"):
        since(times, "fortnights since 1900", "x")


def test_patterns_stand_for_text() -> None:
    assert matches("{year}_{band}_fl.nc", "2021_low_fl.nc")
    assert not matches("{year}_fl.nc", "_fl.nc")
    assert not matches("a.nc", "abnc")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "GRIB"}, "format must be one of NETCDF4"),
        ({"dimension": {}}, r"unknown keys \['dimension'\]"),
        ({"variables": {"u": {"dims": ["z"], "dtype": "f4"}}}, "u has dimensions"),
        ({"variables": {"u": {"dims": [], "dtype": "f4", "unit": "m"}}}, r"u has unknown keys \['unit'\]"),
    ],
)
def test_a_schema_that_is_misspelt_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse({**RAW, "files": [{**RAW["files"][0], **change}]})


def test_files_are_found_by_pattern_and_by_name() -> None:
    toy = parse(RAW)
    assert toy.file("{year}_toy.nc") is toy.file("1999_toy.nc")
    assert toy.files[0].file_name(year=1999) == "1999_toy.nc"
    with pytest.raises(KeyError, match="0 files like"):
        toy.file("toy.nc")


def test_of_several_patterns_the_most_literal_one_is_meant() -> None:
    turbulence = schemas.load("turbulence")
    assert turbulence.file("training_data_low_fl.nc").name == "training_data_{band}_fl.nc"
    assert turbulence.file("2023_low_fl.nc").name == "{year}_{band}_fl.nc"
    one = RAW["files"][0]
    even = parse({**RAW, "files": [{**one, "name": "{year}_a.nc"}, {**one, "name": "b_{year}.nc"}]})
    with pytest.raises(KeyError, match=r"2 files like 'b_1_a\.nc'"):
        even.file("b_1_a.nc")


def test_a_table_is_held_to_its_columns(tmp_path: Path) -> None:
    table = parse({**RAW, "files": [{"name": "a.csv", "format": "CSV", "variables": {"x": {"dtype": "str"}}}]}).files[0]
    schemas.write_text(tmp_path / "a.csv", ["x\n", "1\n"])
    schemas.write_text(tmp_path / "b.csv", ["x,y\n"])
    assert differences_in(table, tmp_path / "a.csv") == []
    assert differences_in(table, tmp_path / "b.csv") == ["columns are ['x', 'y'], must be ['x']."]
