"""The published rules give what the published scripts gave, bit for bit; a mended rule differs where its defect says.

The recorded outputs, how they were made and with which versions: `climate/golden/README.md` beside them. They were made
by the scripts of NASA-IMPACT/WxC-Bench at ee00516 under pandas 1.5.3.
"""

import csv
import functools
from collections import defaultdict
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from models.climate.datasets.recipe import known
from models.climate.datasets.turbulence.baseline import features_of
from models.climate.datasets.turbulence.config import TurbulenceConfig
from tests.models.climate.datasets.turbulence.worlds import Groups, assembled
from tests.models.climate.samples import real

BANDS = ("low", "med", "high")


def config_of(*without: str, columns: str = "") -> TurbulenceConfig:
    """The published recipe, but for some defects, which are mended."""
    names = () if not without else tuple(name for name in known("turbulence") if name not in without)
    return TurbulenceConfig(
        source="files",
        reports="*.csv",
        columns=columns,
        rows=361,
        across=576,
        compat="mended" if without else "published",
        reproduce=names,
    )


@functools.cache
def monthly(case: str, folder: Path) -> tuple[Path, ...]:
    """The recorded archive as monthly files, as the archive hands them out."""
    lines = real(f"golden/aviation/input/pireps_{case}.csv").read_text().splitlines(keepends=True)
    months = defaultdict(list)
    for line in lines[1:]:
        months[line[:6]].append(line)
    paths = []
    for month, rows in months.items():
        paths.append(folder / f"{case}_{month[:4]}_{month[4:]}.csv")
        paths[-1].write_text(lines[0] + "".join(rows))
    return tuple(paths)


@functools.cache
def made(case: str, folder: Path, *without: str, columns: bool = False) -> tuple[TurbulenceConfig, Groups]:
    config = config_of(*without, columns="*.nc" if columns else "")
    files = {"reports": monthly(case, folder)}
    if columns:
        files["columns"] = tuple(real("golden/aviation/training/merra2_synthetic").glob("*/*.nc"))
    return config, assembled(config, files)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


def table(name: str) -> list[dict[str, str]]:
    with real(f"golden/aviation/{name}").open(newline="") as file:
        return list(csv.DictReader(file))


def differences(ours: Path, theirs: Path) -> list[str]:
    """Names, dims, types, attributes and values of two files that are not the same."""
    said = []
    with netCDF4.Dataset(ours) as one, netCDF4.Dataset(theirs) as other:
        for file in (one, other):
            file.set_auto_maskandscale(False)
        sizes = [{name: len(dim) for name, dim in file.dimensions.items()} for file in (one, other)]
        said += ["dimensions"] * (sizes[0] != sizes[1]) + ["attributes"] * (one.__dict__ != other.__dict__)
        said += ["names"] * (set(one.variables) != set(other.variables))
        for name, variable in other.variables.items():
            mine = one[name]
            if (mine.dtype, mine.dimensions, mine.__dict__) != (variable.dtype, variable.dimensions, variable.__dict__):
                said.append(f"{name}: type, dims or attributes")
            elif mine.shape != variable.shape or not np.array_equal(mine[:], variable[:]):
                said.append(f"{name}: values")
    return said


@pytest.mark.parametrize("case", ["archive", "no_ranges"])
def test_levels_and_intensities_are_those_that_were_recorded(case: str, folder: Path) -> None:
    reports = made(case, folder)[1]["reports"]
    levels = table(f"{case}_pandas1/flight_levels.csv")
    assert reports["flight_level"].values.tolist() == [int(row["FlightLevels"]) for row in levels]
    assert [text.decode() for text in reports["message"].values.tolist()] == [row["REPORT"] for row in levels]
    found = {row: int(reports["intensity"][row]) for row in np.flatnonzero(reports["band"].values >= 0).tolist()}
    assert found == {int(row["row"]): int(row["Intensity"]) for row in table(f"{case}_pandas1/intensity.csv")}


@pytest.mark.parametrize("case", ["archive", "no_ranges"])
def test_tables_and_maps_are_those_that_were_recorded(case: str, folder: Path, tmp_path: Path) -> None:
    config, groups = made(case, folder)
    written = {path.name: path for path in config.export(groups, tmp_path)}
    for name in ("csv_fl_rem.csv", "low_fl.csv", "med_fl.csv", "high_fl.csv"):
        assert written.pop(name).read_bytes() == real(f"golden/aviation/{case}_pandas1/{name}").read_bytes(), name
    recorded = real(f"golden/aviation/{case}_pandas1/gridded_as_published")
    assert set(written) == {path.name for path in recorded.glob("*.nc")}
    assert {name: differences(path, recorded / name) for name, path in written.items()} == {
        name: [] for name in written
    }


def test_without_the_literal_year_all_years_are_written_as_recorded(folder: Path, tmp_path: Path) -> None:
    config, groups = made("archive", folder, "literal_year")
    written = {path.name: path for path in config.export(groups, tmp_path) if path.suffix == ".nc"}
    recorded = real("golden/aviation/archive_pandas1/gridded_year_test_off")
    assert set(written) == {path.name for path in recorded.glob("*.nc")}
    assert {name: differences(path, recorded / name) for name, path in written.items()} == {
        name: [] for name in written
    }


def test_training_data_and_what_the_loader_makes_of_them_are_those_that_were_recorded(
    folder: Path, tmp_path: Path
) -> None:
    config, groups = made("no_ranges", folder, columns=True)
    written = {path.name: path for path in config.export(groups, tmp_path)}
    for band in BANDS:
        name = f"training_data_{band}_fl.nc"
        assert differences(written[name], real(f"golden/aviation/training/{name}")) == []
    recorded = np.load(real("golden/aviation/training/loader_output.npz"))
    for number, band in enumerate(BANDS):
        features, label = features_of(groups["training"], (number,), left_out=False)
        np.testing.assert_array_equal(features, recorded[f"X_{band}"])
        np.testing.assert_array_equal(label, recorded[f"y_{band}"])
        np.testing.assert_array_equal(np.mean(features, axis=0), recorded[f"mean_{band}"])
        np.testing.assert_array_equal(np.std(features, axis=0), recorded[f"std_{band}"])
    features, label = features_of(groups["training"], (0, 1, 2), left_out=True)
    np.testing.assert_array_equal(features, recorded["X_all"])
    np.testing.assert_array_equal(label, recorded["y_all"])
    assert recorded["mean_high"][33] > 1e14  # the fill below ground


def test_one_file_of_all_months_gives_the_same_as_monthly_files(folder: Path) -> None:
    raw = real("golden/aviation/input/pireps_no_ranges.csv")
    whole = assembled(config_of(), {"reports": (raw,)})[1]
    xr.testing.assert_identical(whole["reports"], made("no_ranges", folder)[1]["reports"])


# ------------------------------------------------- mended one by one: exactly the rows that a defect names are others


def reports_of(case: str, folder: Path, *without: str) -> dict[str, Any]:
    reports = made(case, folder, *without)[1]["reports"]
    return {str(name): reports[name].values for name in reports.data_vars}


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, set[int]]:
    found = {name: set(np.flatnonzero(one[name] != other[name]).tolist()) for name in one}
    return {name: rows for name, rows in found.items() if rows}


def own_level(field: str) -> int:
    """What the recorded field itself says, in the words of cell 15."""
    text = field.replace("FL", "").split("-")
    try:
        return int(text[0]) if len(text) == 1 else (int(text[0]) + int(text[1])) // 2
    except ValueError:
        return -1


def test_defect_1_is_602_levels_and_441_bands_after_the_first_range(folder: Path) -> None:
    recorded = table("archive_pandas1/flight_levels.csv")
    published = reports_of("archive", folder)
    mended = reports_of("archive", folder, "flight_level_order")
    own = [own_level(row["FieldText"]) for row in recorded]
    assert mended["flight_level"].tolist() == own
    wrong = {at for at, (row, level) in enumerate(zip(recorded, own, strict=True)) if int(row["FlightLevels"]) != level}

    def band(level: int) -> int:
        return -1 if not 0 <= level < 500 else int(level >= 150) + int(level >= 300)

    def group(level: int) -> int:  # in which the record counts levels from 500 on apart from unknown ones
        return 3 if level >= 500 else band(level)

    moved = [(int(recorded[at]["FlightLevels"]), own[at], at) for at in wrong]
    assert (len(wrong), min(wrong)) == (602, 2)
    assert sum(group(one) != group(other) for one, other, _ in moved) == 441
    elsewhere = {at for one, other, at in moved if band(one) != band(other)}
    assert differing(published, mended) == {"flight_level": wrong, "band": elsewhere}
    for reports in (published, mended):
        assert np.bincount(reports["band"][reports["band"] >= 0]).tolist() == [195, 157, 219]


def test_defect_2_is_the_texts_with_words_in_words(folder: Path) -> None:
    texts = {
        "LGT-MOD", "LGT-MOD CHOP", "LGT-MOD IC", "CONS LGT-OCNL MOD", "CONT LGT OCNL MOD CHOP", "CONS MOD", "MOD MX",
        "MOD DURGD DSCNT", "MOD MULT RPTS", "SEV BLW FLT LVL", "MOD 350 NEG BLW 300", "SVR SMTH ABV 350",
    }  # fmt: skip
    published = reports_of("archive", folder)
    mended = reports_of("archive", folder, "intensity_words")
    named = {at for at, text in enumerate(published["turbulence"].tolist()) if text.decode() in texts}
    assert len({published["turbulence"][at] for at in named}) == len(texts)
    assert differing(published, mended) == {"intensity": named}
    assert set(mended["intensity"][sorted(named)].tolist()) == {2, 3}


def cells(case: str, folder: Path, *without: str) -> np.ndarray[Any, Any]:
    return np.asarray(made(case, folder, *without)[1]["grids"]["Turbulence"].values)


def places(case: str, folder: Path, *without: str) -> dict[tuple[int, str, float, float], tuple[int, int]]:
    """(day of the first month, band, latitude, longitude) to the published value and the mended one."""
    published, mended = cells(case, folder), cells(case, folder, *without)
    grids = made(case, folder)[1]["grids"]
    days = grids["time"].values.astype("datetime64[D]")
    return {
        (int(str(days[t])[8:]), BANDS[b], float(grids["lat"][i]), float(grids["lon"][j])): (
            int(published[t, b, i, j]),
            int(mended[t, b, i, j]),
        )
        for t, b, i, j in np.argwhere(published != mended).tolist()
    }


def test_defect_3_is_three_cells_of_the_first_day(folder: Path) -> None:
    assert places("no_ranges", folder, "unknown_reports") == {
        (2, "high", 46.0, -95.0): (0, 1),  # MOD, NEG and three without words
        (2, "high", 48.0, -100.0): (0, 2),  # none with words
        (2, "high", 29.0, -90.0): (0, 2),  # MOD MX, which is unknown to the published words
    }


def test_defect_4_is_the_26_reports_of_29_february(folder: Path) -> None:
    published = reports_of("archive", folder, "flight_level_order")
    mended = reports_of("archive", folder, "flight_level_order", "leap_day")
    days = mended["time"].astype("datetime64[m]").astype("datetime64[D]").astype(str)
    extra = days == "2020-02-29"
    assert extra.sum() == 26
    kept = {name: values[~extra] for name, values in mended.items()}
    assert differing(published, kept) == {}


def test_defect_5_is_the_last_day_of_every_band(folder: Path) -> None:
    for case, last in (("archive", "2023-12-31"), ("no_ranges", "2023-01-04")):
        published, mended = cells(case, folder), cells(case, folder, "last_day")
        grids = made(case, folder)[1]["grids"]
        days = grids["time"].values.astype("datetime64[D]").astype(str)
        differ = np.argwhere(published != mended)
        assert {(str(days[t]), b) for t, b, *_ in differ.tolist()} == {(last, b) for b in range(3)}
        assert (published[differ[:, 0], differ[:, 1], differ[:, 2], differ[:, 3]] == 2).all()


def test_defect_6_is_the_cells_at_180(folder: Path) -> None:
    found = places("no_ranges", folder, "no_wrap")
    assert {place[3] for place in found} == {-180.0, 179.375}
    assert (3, "high", 52.0, 179.375) in found
    assert found[3, "high", 52.0, 179.375][1] == 2
    assert found[3, "high", 53.5, 179.375][1] == 2


def test_defect_7_is_the_record_of_midnight(folder: Path) -> None:
    published = made("no_ranges", folder, columns=True)[1]["training"]
    mended = made("no_ranges", folder, "time_index", columns=True)[1]["training"]
    for name, higher in (("U", 1000), ("V", 1000), ("T", 100)):
        known = published[name].values < 1e14
        np.testing.assert_array_equal(mended[name].values[known], published[name].values[known] + higher)
    for name in ("TURBULENCE", "row", "column", "band", "time", "missing", "split"):
        np.testing.assert_array_equal(mended[name].values, published[name].values)


def test_defect_9_is_the_values_below_ground(folder: Path) -> None:
    published = made("no_ranges", folder, columns=True)[1]["training"]
    mended = made("no_ranges", folder, "fill_in_mean", columns=True)[1]["training"]
    for name in ("T", "U", "V", "OMEGA", "RH", "H", "PL", "PHIS"):
        fill = published[name].values == np.float32(1e15)
        np.testing.assert_array_equal(np.isnan(mended[name].values), fill)
        np.testing.assert_array_equal(mended[name].values[~fill], published[name].values[~fill])
    assert np.isnan(mended["T"].values).any()
    features, _ = features_of(mended, (2,), left_out=False)
    assert np.nanmax(np.abs(np.nanmean(features, axis=0))) < 1e6


def test_defect_17_is_february_as_january(folder: Path) -> None:
    copied = real("golden/aviation/edge_cases/failed_month_2023_02.csv")
    assert copied.read_bytes() == real("golden/aviation/edge_cases/failed_month_2023_01.csv").read_bytes()
    january = real("golden/aviation/edge_cases/failed_month_2023_01.csv")
    broken = folder / "broken_2023_02.csv"
    broken.write_text("502 Bad Gateway")
    twice = assembled(config_of(), {"reports": (january, broken)})[1]["reports"]
    same = assembled(config_of(), {"reports": (january, copied)})[1]["reports"]
    xr.testing.assert_identical(twice, same)
    half = twice.sizes["report"] // 2
    np.testing.assert_array_equal(twice["message"].values[:half], twice["message"].values[half:])


def test_defect_18_is_a_report_whose_fourth_field_is_another(folder: Path) -> None:
    published = reports_of("archive", folder, "flight_level_order")
    mended = reports_of("archive", folder, "flight_level_order", "short_report")
    assert [published["message"][at][:17] for at in differing(published, mended)["flight_level"]] == [
        b"AVK UA /OV O/ANY/"
    ]
    for row in table("edge_cases/short_reports.csv"):
        assert row["outcome"].startswith("IndexError")


def test_defect_20_is_the_empty_column(folder: Path) -> None:
    mended = reports_of("archive", folder, "empty_clear_air")
    assert set(differing(reports_of("archive", folder), mended)) == {"clear_air"}
    # pandas 2 drops what has no text, and its cell runs through.
    recorded = {row["REPORT"]: row["CAT?"] for row in table("archive_pandas2/csv_fl_rem.csv")}
    told = zip(mended["message"].tolist(), mended["clear_air"].tolist(), strict=True)
    assert all(recorded[m.decode()] == str(bool(c)) for m, c in told if m.decode() in recorded)


def test_defect_21_is_the_4_reports_whose_text_is_left_empty(folder: Path) -> None:
    published = reports_of("archive", folder, "flight_level_order")
    mended = reports_of("archive", folder, "flight_level_order", "none_text")
    assert (len(published["time"]), len(mended["time"])) == (632, 636)
    silent = mended["turbulence"] == b""
    assert silent.sum() == (published["turbulence"] == b"").sum() + 4


def test_defect_22_is_the_order_of_months(folder: Path) -> None:
    published = reports_of("archive", folder, "flight_level_order")
    mended = reports_of("archive", folder, "flight_level_order", "unsorted_files")
    assert (np.diff(mended["time"]) >= 0).all()
    assert not (np.diff(published["time"]) >= 0).all()
    order = np.argsort(published["time"], kind="stable")
    assert differing({name: values[order] for name, values in published.items()}, mended) == {}
