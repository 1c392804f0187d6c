"""Every published defect, on a few reports written by hand: what it does, and that nothing else changes without it."""

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from models.climate.datasets.recipe import known
from models.climate.datasets.turbulence.baseline import BaselineConfig, features_of, samples_of
from models.common.errors import InputError
from tests.models.climate.datasets.turbulence.worlds import (
    HEADER,
    Groups,
    assembled,
    config_of,
    line,
    write_columns,
    write_month,
)

DECEMBER = [
    line("202212310100", "350", "MOD", 30, -100),
    line("202212310200", "040-060", "SEV", 30, -100),
    line("202212310300", "200", "NEG", 30, -100),
]
JANUARY = [
    line("202301010100", "100", "LGT-MOD", 40, -90),
    line("202301010200", "310-330", "CONS MOD", 40, -90),
    line("202301010300", "250", "None", 40, -90),
    line("202301010400", "360", "", 40, -90),
    line("202301010500", "360", "SEV CAT", 50, 179),
    line("202301020100", "120", "NEG", 40, -90),
    line("202301020200", "260", "MOD", 40, -90),
    line("202301020300", "390", "MOD", 40, -90),
    line("202301020400", "390", "UNKN", 40, -90),
    line("202301020500", "390", "UNKN", 40, -90),
    line("202301020600", "390", "UNKN", 40, -90),
    line("202301020700", "390", "UNKN", 40, -90),
]
ALONE = (
    "intensity_words", "unknown_reports", "leap_day", "last_day", "no_wrap", "literal_year", "none_text",
    "flight_level_order", "empty_clear_air", "unsorted_files", "short_report", "empty_band", "previous_month",
)  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> dict[str, tuple[Path, ...]]:
    return {
        "reports": (write_month(tmp_path, "2022-12", DECEMBER), write_month(tmp_path, "2023-01", JANUARY)),
    }


def made(files: Any, *names: str, **settings: Any) -> Groups:
    return assembled(config_of(reproduce=names, **settings), files)[1]


def rows_that_differ(one: xr.Dataset, other: xr.Dataset) -> dict[str, list[int]]:
    """Variables that differ, and the rows in which they do."""
    assert one.sizes == other.sizes
    differ = {}
    for name in one.data_vars:
        wrong = np.asarray(one[name].values != other[name].values)
        if (rows := np.flatnonzero(wrong.reshape(len(wrong), -1).any(1))).size:
            differ[str(name)] = rows.tolist()
    return differ


def cells_that_differ(one: xr.Dataset, other: xr.Dataset) -> list[tuple[str, str, float, float, int, int]]:
    """(day, band, latitude, longitude, value, other value) of the cells that differ."""
    found = np.argwhere(one["Turbulence"].values != other["Turbulence"].values)
    days = one["time"].values.astype("datetime64[D]")
    return [
        (
            str(days[t]),
            ("low", "med", "high")[b],
            float(one["lat"][i]),
            float(one["lon"][j]),
            int(one["Turbulence"][t, b, i, j]),
            int(other["Turbulence"][t, b, i, j]),
        )
        for t, b, i, j in found.tolist()
    ]


def test_after_the_first_range_every_row_has_the_level_of_another(files: Any) -> None:
    mended, faulty = made(files), made(files, "flight_level_order")
    own = [350, 50, 200, 100, 320, 250, 360, 360, 120, 260, 390, 390, 390, 390, 390]
    ranges = [1, 4]
    singles = [level for row, level in enumerate(own) if row not in ranges]
    assert mended["reports"]["flight_level"].values.tolist() == own
    assert faulty["reports"]["flight_level"].values.tolist() == [*singles, 50, 320]
    differ = rows_that_differ(mended["reports"], faulty["reports"])
    assert set(differ) == {"flight_level", "band"}
    assert min(differ["flight_level"]) == 1


def test_words_inside_words_lower_what_was_reported(files: Any) -> None:
    mended, faulty = made(files), made(files, "intensity_words")
    assert rows_that_differ(mended["reports"], faulty["reports"]) == {"intensity": [3, 4]}
    assert mended["reports"]["intensity"].values[[3, 4]].tolist() == [2, 2]
    assert faulty["reports"]["intensity"].values[[3, 4]].tolist() == [1, -1]
    assert cells_that_differ(mended["grids"], faulty["grids"]) == [
        ("2023-01-01", "low", 40, -90, 1, 0),
        ("2023-01-01", "high", 40, -90, 1, 2),
    ]


def test_unknown_reports_outvote_the_one_that_is_known(files: Any) -> None:
    mended, faulty = made(files), made(files, "unknown_reports")
    assert rows_that_differ(mended["reports"], faulty["reports"]) == {}
    assert cells_that_differ(mended["grids"], faulty["grids"]) == [
        ("2023-01-01", "med", 40, -90, 2, 0),  # nothing is known there
        ("2023-01-02", "high", 40, -90, 1, 0),  # one of one, or one of five
    ]


def test_the_leap_day_is_lost(tmp_path: Path) -> None:
    rows = [line(f"2020022{day}0100", "350", "MOD") for day in (8, 9, 9)] + [line("202002290200", "350", "NEG")]
    files = {"reports": (write_month(tmp_path, "2020-02", rows),)}
    mended, faulty = made(files), made(files, "leap_day")
    assert mended["reports"].sizes["report"] == 3
    assert faulty["reports"].sizes["report"] == 1
    assert [cell[:2] for cell in cells_that_differ(mended["grids"], faulty["grids"])] == [("2020-02-29", "high")]


def test_the_last_day_of_a_band_is_lost(files: Any) -> None:
    mended, faulty = made(files), made(files, "last_day")
    assert rows_that_differ(mended["reports"], faulty["reports"]) == {}
    lost = {(day, band) for day, band, *_ in cells_that_differ(mended["grids"], faulty["grids"])}
    assert lost == {("2023-01-02", "low"), ("2023-01-02", "med"), ("2023-01-02", "high")}
    assert faulty["grids"]["file_year"].values[-30].tolist() == [0, 0, 0]
    assert mended["grids"]["file_year"].values[-30].tolist() == [2023, 2023, 2023]


def test_without_going_round_the_last_column_takes_what_is_near_the_first(files: Any) -> None:
    mended, faulty = made(files), made(files, "no_wrap")
    assert cells_that_differ(mended["grids"], faulty["grids"]) == [
        ("2023-01-01", "high", 50, -180, 1, 2),
        ("2023-01-01", "high", 50, 172.5, 2, 1),
    ]


def test_the_literal_year_leaves_out_others_but_for_an_empty_day(files: Any) -> None:
    mended, faulty = made(files), made(files, "literal_year")
    assert {cell[0] for cell in cells_that_differ(mended["grids"], faulty["grids"])} == {"2022-12-31"}
    assert (faulty["grids"]["Turbulence"].values[30] == 2).all()
    assert faulty["grids"]["file_year"].values[30].tolist() == [2022, 2022, 2022]


def test_reports_without_words_are_kept_however_that_is_spelled(files: Any) -> None:
    mended, faulty = made(files)["reports"], made(files, "none_text")["reports"]
    assert (mended.sizes["report"], faulty.sizes["report"]) == (15, 14)
    assert [row for row, words in enumerate(mended["turbulence"].values.tolist()) if not words] == [5, 6]
    kept = [row for row in range(15) if row != 6]
    assert rows_that_differ(mended.isel(report=kept), faulty) == {}


def test_clear_air_turbulence_is_told_or_left_empty(files: Any) -> None:
    mended, faulty = made(files), made(files, "empty_clear_air")
    assert mended["reports"]["clear_air"].values.tolist() == [0, 0, 0, 0, 0, -1, -1, 1, *[0] * 7]
    assert (faulty["reports"]["clear_air"].values == -1).all()
    assert set(rows_that_differ(mended["reports"], faulty["reports"])) == {"clear_air"}


def test_a_failed_month_is_refused_or_gets_a_copy_of_the_one_before(tmp_path: Path, files: Any) -> None:
    broken = tmp_path / "2023_02.csv"
    broken.write_text("Internal Server Error\n")
    files = {"reports": (*files["reports"], broken)}
    with pytest.raises(InputError, match=r"2023_02.csv lacks the column"):
        made(files)
    config = config_of(reproduce=("previous_month",))
    months = {path: path.name[:7].replace("_", "-") for path in files["reports"]}
    reading = [[month, [at]] for at, month in enumerate(months.values())]
    from models.common.parts import Part

    part = Part(
        name="reports 2023-02",
        files=tuple(map(str, months)),
        at={"grids": {"time": 59}},
        about={"month": "2023-02", "reading": reading, "report_files": 3, "days": ["2023-02-01", 28]},
    )
    copied = config.part(part)["reports"]
    january = made({"reports": files["reports"][:2]})["reports"].isel(report=slice(3, None))
    assert rows_that_differ(copied, january) == {}

    copy = write_month(tmp_path / "other", "2023-02", JANUARY)
    with pytest.raises(InputError, match=r"2023_02.csv is named after 2023-02, but its row 1.*failed download"):
        made({"reports": (*files["reports"][:2], copy)})
    twice = made({"reports": (*files["reports"][:2], copy)}, "previous_month")
    assert twice["reports"].sizes["report"] == 3 + 2 * 12
    assert twice["grids"]["unknown"].sum() == 2 * made({"reports": files["reports"][:2]})["grids"]["unknown"].sum()


def test_a_report_with_too_few_fields_is_kept_without_level_or_ends_the_run(tmp_path: Path) -> None:
    rows = [*JANUARY, line("202301020800", "", "MOD", message="DEN UA /OV 35 SW")]
    rows += [line("202301020900", "", "MOD", message="AVK UA /OV O/ANY/TM 0900/FL170/TP C750")]
    files = {"reports": (write_month(tmp_path, "2023-01", rows),)}
    mended = made(files)["reports"]
    assert mended["flight_level"].values[-2:].tolist() == [-1, 170]
    with pytest.raises(InputError, match=r"fewer than four fields, 'DEN UA /OV 35 SW'"):
        made(files, "short_report")
    files = {"reports": (write_month(tmp_path, "2023-01", [*rows[:-2], rows[-1]]),)}
    assert rows_that_differ(made(files)["reports"], made(files, "short_report")["reports"]) == {
        "flight_level": [12],
        "band": [12],
    }


def test_a_band_without_reports_is_a_map_without_data_or_ends_the_run(tmp_path: Path) -> None:
    files = {"reports": (write_month(tmp_path, "2023-01", JANUARY[-3:]),)}
    mended = made(files)["grids"]
    assert (mended["Turbulence"].values[:, :2] == 2).all()
    with pytest.raises(InputError, match=r"no report is in the band 'low'"):
        made(files, "empty_band")


def test_months_are_joined_by_time_or_by_name(tmp_path: Path) -> None:
    months = ["2023-01", "2023-02", "2023-10"]
    rows = {month: [line(f"{month.replace('-', '')}020100", "350", "MOD")] for month in months}
    files = {"reports": tuple(write_month(tmp_path, month, rows[month]) for month in months)}

    def order(groups: Groups) -> list[str]:
        minutes = groups["reports"]["time"].values.astype("datetime64[m]").astype("datetime64[M]")
        return [str(month) for month in minutes]

    assert order(made(files)) == months
    assert order(made(files, "unsorted_files")) == ["2023-01", "2023-10", "2023-02"]
    assert cells_that_differ(made(files)["grids"], made(files, "unsorted_files")["grids"]) == []


@pytest.fixture
def with_columns(tmp_path: Path, files: Any) -> dict[str, tuple[Path, ...]]:
    hidden = (slice(4, None), slice(20, 30), slice(10, 14))
    days = [write_columns(tmp_path, f"2023-01-0{day}", hidden=hidden) for day in (1, 2)]
    return {**files, "columns": tuple(days)}


def test_the_record_is_that_of_the_hour_or_the_first_whatever_it_is(with_columns: Any) -> None:
    mended = made(with_columns, columns="*.nc")["training"]
    faulty = made(with_columns, "time_index", columns="*.nc")["training"]
    assert (mended["OMEGA"].values[:, 0] == np.float32(1.8)).all()
    assert (faulty["OMEGA"].values[:, 0] == 0).all()
    assert set(rows_that_differ(mended.fillna(0), faulty.fillna(0))) == {"T", "OMEGA"}


def test_the_fill_is_missing_and_counted_or_enters_the_mean(with_columns: Any, tmp_path: Path) -> None:
    mended = made(with_columns, columns="*.nc")
    faulty = made(with_columns, "fill_in_mean", columns="*.nc")
    below = np.isin(mended["training"]["row"], range(20, 30)) & np.isin(mended["training"]["column"], range(10, 14))
    assert 0 < below.sum() < len(below)
    assert (mended["training"]["missing"].values == np.where(below, 7, 0)).all()
    differ = rows_that_differ(mended["training"].fillna(-1), faulty["training"])
    assert differ == {name: np.flatnonzero(below).tolist() for name in ("T", "U", "V", "OMEGA", "RH", "H", "PL")}
    assert (faulty["training"]["T"].values[below, 4] == np.float32(1e15)).all()
    for name, groups, names in (("mended", mended, ()), ("published", faulty, ("fill_in_mean",))):
        config = config_of(reproduce=names, columns="*.nc")
        paths = config.export(groups, tmp_path / name)
        path = next(path for path in paths if path.name == "training_data_high_fl.nc")
        with netCDF4.Dataset(path) as file:
            largest = float(np.ma.max(file["T"][:]))
        assert largest < 400 if name == "mended" else largest > 1e14


def test_whole_days_are_held_out_or_single_samples(with_columns: Any, tmp_path: Path) -> None:
    more = [line(f"202301{day:02}0100", "350", "MOD", lat, -90) for day in range(3, 13) for lat in range(30, 50, 5)]
    reports = write_month(tmp_path, "2023-01", [*JANUARY, *more])
    air = [write_columns(tmp_path, f"2023-01-{day:02}") for day in range(1, 13)]
    files = {"reports": (reports,), "columns": tuple(air)}
    mended = made(files, columns="*.nc")["training"]
    faulty = made(files, "random_split", columns="*.nc")["training"]
    for day in range(12):
        sides = mended["split"].values[mended["time"].values == mended["time"].values.min() + day]
        assert len(set(sides.tolist())) == 1
    held = {int(day) for day, side in zip(mended["time"], mended["split"], strict=True) if side}
    assert len(held) == 3  # one of every four days that follow one another
    mixed = [
        set(faulty["split"].values[faulty["time"].values == day].tolist()) for day in np.unique(faulty["time"].values)
    ]
    assert any(len(sides) == 2 for sides in mixed)
    assert set(rows_that_differ(mended, faulty)) == {"split"}


def test_the_loader_of_all_bands_has_all_profiles_or_forgets_two(with_columns: Any) -> None:
    training = made(with_columns, columns="*.nc")["training"]
    whole, label = features_of(training, (0, 1, 2), left_out=False)
    short, same = features_of(training, (0, 1, 2), left_out=True)
    assert (whole.shape[1], short.shape[1]) == (7 * 5, 5 * 5)
    np.testing.assert_array_equal(whole[:, :25], short)
    np.testing.assert_array_equal(label, same)
    with pytest.raises(InputError, match="prepare more days"):
        samples_of(made(with_columns, columns="*.nc"), BaselineConfig(), 0)


def test_every_defect_of_the_dataset_has_a_test_here() -> None:
    tested = {*ALONE, "time_index", "fill_in_mean", "random_split", "features_left_out"}
    assert tested == set(known("turbulence"))


def test_published_is_all_of_them_together(files: Any) -> None:
    names = tuple(name for name in known("turbulence") if name != "short_report")
    rows = [*JANUARY[:3], *JANUARY[4:]]
    path = write_month(files["reports"][1].parent, "2023-01", rows)
    files = {"reports": (files["reports"][0], path)}
    whole, named = assembled(config_of(compat="published"), files)[1], made(files, *names)
    for group in ("reports", "grids"):
        assert rows_that_differ(whole[group], named[group]) == {}
    assert HEADER.startswith("VALID,URGENT")
