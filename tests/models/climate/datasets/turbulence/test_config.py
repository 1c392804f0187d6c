"""What the recipe asks for, which parts it has, and what it writes."""

import functools
import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from models.climate.datasets import schemas
from models.climate.datasets.turbulence.config import TurbulenceConfig, paper, small, tiny
from models.climate.datasets.turbulence.figures import figures
from models.climate.datasets.turbulence.layout import file_schemas
from models.climate.generator.reports import ReportsConfig, reports_of, write_columns, write_reports
from models.common.errors import InputError
from models.common.parts import Survey
from tests.models.climate.datasets.turbulence.worlds import Groups, assembled, config_of, line, write_month

WORLD = TurbulenceConfig(rows=19, across=36, levels=9, days=5, daily=150, start="2023-01-30", seed=5)


@functools.cache
def generated() -> tuple[Survey, Groups]:
    return assembled(WORLD, {})


def test_levels_and_intensities_of_the_generated_world_are_its_truth() -> None:
    reports = generated()[1]["reports"]
    truth = [reports_of(WORLD.world, date(2023, 1, 30) + timedelta(days=number)) for number in range(WORLD.days)]
    assert reports["flight_level"].values.tolist() == [int(level) for one in truth for level in one.level]
    assert reports["intensity"].values.tolist() == [int(strength) for one in truth for strength in one.intensity]
    assert {-1, 0, 1, 2, 3} <= set(reports["intensity"].values.tolist())


def test_files_of_the_generated_world_give_the_generated_dataset(tmp_path: Path) -> None:
    settings = ReportsConfig(rows=19, columns=36, levels=9, daily=150, seed=5)
    first, last = date(2023, 1, 30), date(2023, 2, 3)
    reports = write_reports(settings, tmp_path, first, last)
    air = write_columns(settings, tmp_path, first, last, hours=(0, 18))
    config = TurbulenceConfig(
        source="files", reports="*.csv", columns="*.nc", rows=19, across=36, levels=9, start="2023-01-30",
        end="2023-02-03",
    )  # fmt: skip
    written = assembled(config, {"reports": reports, "columns": air})[1]
    original = generated()[1]
    for group in ("reports", "grids", "training"):
        for name in original[group].data_vars:
            np.testing.assert_array_equal(written[group][name].values, original[group][name].values, err_msg=str(name))


def test_what_is_written_is_as_the_schema_says(tmp_path: Path) -> None:
    survey, groups = generated()
    paths = WORLD.export(groups, tmp_path)
    entries = file_schemas(WORLD)
    assert len(paths) == 3 + 3 + 4
    for path in paths:
        # A pattern of two placeholders fits other names too; the one with the most letters of its own is meant.
        fitting = [name for name in entries if schemas.matches(name, path.name)]
        entry = entries[max(fitting, key=lambda name: len(re.sub(r"\{.*?\}", "", name)))]
        assert schemas.differences_in(entry, path) == [], path.name
    with xr.open_dataset(tmp_path / "2023_low_fl.nc") as maps:
        assert maps["Dates"].values.tolist() == ["20230130", "20230131", "20230201", "20230202", "20230203"]
        np.testing.assert_array_equal(maps["Turbulence"].values, groups["grids"]["Turbulence"].values[:, 0])
    assert {part.name.partition(" ")[0] for part in survey.parts} == {"reports", "columns"}


def test_what_a_reader_has_decoded_is_written_alike(tmp_path: Path) -> None:
    _, groups = generated()
    decoded = dict(groups)
    grids = groups["grids"].assign_coords(time=groups["grids"]["time"].values.astype("datetime64[D]"))
    decoded["grids"] = grids.assign(Turbulence=grids["Turbulence"].where(grids["Turbulence"] != 2))
    minutes = groups["reports"]["time"].values.astype("datetime64[m]")
    decoded["reports"] = groups["reports"].assign(time=("report", minutes))
    plain, other = WORLD.export(groups, tmp_path / "a"), WORLD.export(decoded, tmp_path / "b")
    for one, two in zip(plain, other, strict=True):
        if one.suffix == ".csv":
            assert one.read_bytes() == two.read_bytes()
        else:
            xr.testing.assert_identical(xr.load_dataset(one), xr.load_dataset(two))


def test_the_published_size_has_the_published_schema_but_for_a_fill_that_readers_know() -> None:
    config = replace(paper(), compat="published")
    schema = schemas.load("turbulence")
    assert file_schemas(config) == {entry.name: entry for entry in schema.files}
    mended = file_schemas(paper())
    assert mended["{year}_{band}_fl.nc"] == schema.file("{year}_{band}_fl.nc")
    assert mended["training_data_{band}_fl.nc"].variables["T"].fill == 1e15
    assert mended["training_data_{band}_fl.nc"].attributes["description"].endswith("at 18Z.")


def test_a_month_and_a_day_have_a_part_each_and_name_their_files(tmp_path: Path) -> None:
    months = [write_month(tmp_path, month, [line(f"{month[:4]}{month[5:]}010000", "350", "MOD")])
              for month in ("2020-02", "2020-01")]  # fmt: skip
    air = tmp_path / "MERRA2_400.inst3_3d_asm_Nv.20200229.SUB.nc"
    stray = tmp_path / "MERRA2_400.inst3_3d_asm_Nv.20210301.SUB.nc"
    files = {"reports": tuple(months), "columns": (stray, air)}
    survey = config_of(columns="*.nc").survey(files)
    assert [part.name for part in survey.parts] == ["reports 2020-01", "reports 2020-02", "columns 2020-02-29"]
    assert [part.files for part in survey.parts] == [
        (str(months[1]),),
        (str(months[0]),),
        (str(months[0]), str(air)),
    ]
    assert survey.parts[1].at["grids"] == {"time": 31}
    assert survey.groups["grids"].sizes["time"] == 31 + 29
    assert "training" not in config_of().survey({"reports": tuple(months)}).groups


def test_a_range_of_days_cuts_months(tmp_path: Path) -> None:
    rows = [line(f"202001{day:02}0000", "350", "MOD") for day in range(1, 32)]
    files = {"reports": (write_month(tmp_path, "2020-01", rows),)}
    _, groups = assembled(config_of(start="2020-01-10", end="2020-01-12"), files)
    assert groups["grids"].sizes["time"] == 3
    assert groups["reports"].sizes["report"] == 3
    with pytest.raises(InputError, match=r"no reports lie within 2021-01-01 to the last day; the files hold none"):
        config_of(start="2021-01-01").survey(files)


def test_a_text_that_is_too_long_is_refused(tmp_path: Path) -> None:
    rows = [line("202001010000", "350", "MOD", message="A UA /OV A/TM 0000/FL350/RM " + "X" * 60)]
    files = {"reports": (write_month(tmp_path, "2020-01", rows),)}
    with pytest.raises(InputError, match=r"report 0 has 88 bytes of REPORT.*and 64 are kept; raise text_bytes"):
        assembled(config_of(text_bytes=64), files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "files"}, r"reports must name the files of reports"),
        ({"reports": "a.csv"}, r"source must be 'files' when files are named"),
        ({"hour": 24}, r"TurbulenceConfig.hour must be at most 23"),
        ({"threshold": 0.0}, r"TurbulenceConfig.threshold must be at least 0.01"),
        ({"reproduce": ("scalar_truncation",)}, r"reproduce must name defects of turbulence"),
        ({"start": "2023-02-30"}, r"TurbulenceConfig.start must be a day"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TurbulenceConfig(**settings)


def test_presets_are_what_they_say() -> None:
    assert tiny().source == "generated"
    assert tiny().sources() == {}
    assert small().days == 60
    published = paper()
    assert (published.rows, published.across, published.levels, published.threshold) == (361, 576, 34, 0.25)
    assert set(published.sources()) == {"reports", "columns"}
    assert (published.first, published.last) == (date(2021, 1, 1), date(2022, 12, 31))


def test_figures_say_what_is_in_the_dataset() -> None:
    _, groups = generated()
    world, strength, months = figures(groups)
    assert world.field is not None
    assert (len(world.field.values), len(world.field.values[0])) == (19, 36)
    places = sum(value is not None for row in world.field.values for value in row)
    assert world.title.startswith(f"{places} of {19 * 36} places")
    assert all(sum(series.y) == pytest.approx(1) for series in strength.series)
    assert [series.x for series in months.series] == [("2023-01", "2023-02")] * 3
    total = sum(share * days for series in months.series for share, days in zip(series.y, (2, 3), strict=True))
    assert total == pytest.approx(float(groups["grids"]["reports"].sum()))
