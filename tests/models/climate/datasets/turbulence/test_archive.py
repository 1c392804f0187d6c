"""Reading the archive's files: what is kept, what is left out, and what is refused by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.climate.datasets.turbulence.archive import Files, in_order, month_of_name, months_of, read_month
from models.climate.datasets.turbulence.reports import Faults, as_pandas_reads
from models.common.errors import InputError
from tests.models.climate.datasets.turbulence.worlds import HEADER, line, write_month
from tests.models.climate.samples import real

MENDED = Faults()


def test_repeated_rows_and_rows_without_a_position_are_left_out_and_counted(tmp_path: Path) -> None:
    first = line("202301020100", "350", "MOD")
    rows = [
        first,
        line("202301020101", "040-060", "None"),
        line("202301020102", "100", "", 41.5, -91.25),
        first,
        line("202301020103", "100", "NEG", "None", -91),
        line("202301020104", "100", "NEG", 41, ""),
        line("202301020105", "100", "NEG", 90.5, -91),
    ]
    path = write_month(tmp_path, "2023-01", rows)
    reports = read_month(Files.of((("2023-01", (path,)),)), "2023-01", MENDED)
    assert (reports.read, reports.repeated, reports.nowhere) == (7, 1, 3)
    assert reports.turbulence.to_pylist() == ["MOD", None, None]
    assert reports.level.tolist() == [350, 50, 100]
    assert reports.band.tolist() == [2, 0, 0]
    assert reports.intensity.tolist() == [2, -1, -1]
    assert (reports.latitude.tolist(), reports.longitude.tolist()) == ([40, 40, 41.5], [-90, -90, -91.25])
    day = (np.datetime64("2023-01-02") - np.datetime64("1970-01-01")).astype(int)
    assert reports.minute.tolist() == [day * 1440 + 60, day * 1440 + 61, day * 1440 + 62]


@pytest.mark.parametrize(
    ("name", "month"),
    [
        ("2023_01.csv", "2023-01"),
        ("pireps_202302.csv", "2023-02"),
        ("2020-12.csv", "2020-12"),
        ("year1=2020&month1=2&day1=1&hour1=0&minute1=0&year2=2020&month2=2&day2=28&fmt=csv.csv", "2020-02"),
        ("year1=2020&month1=11&day1=1.csv", "2020-11"),
        ("pireps.csv", ""),
        ("pireps_2023_13.csv", ""),
        ("20230102.csv", ""),
    ],
)
def test_a_file_is_of_the_month_that_its_name_says(name: str, month: str) -> None:
    assert month_of_name(Path(name)) == month


def test_a_file_without_a_month_in_its_name_holds_all_from_its_first_to_its_last_row(tmp_path: Path) -> None:
    rows = [line("202211300000", "350", "MOD"), line("202301020000", "350", "LGT"), line("202301312359", "10", "NEG")]
    path = write_month(tmp_path, "", rows, name="archive.csv")
    assert months_of(path) == ("2022-11", "2022-12", "2023-01")
    source = Files.of(tuple((month, (path,)) for month in months_of(path)))
    assert [read_month(source, month, MENDED).level.tolist() for month in months_of(path)] == [[350], [], [350, 10]]


def test_months_are_joined_by_time_or_by_the_name_of_the_request() -> None:
    months = ["2023-02", "2022-12", "2023-10", "2023-01"]
    assert in_order(months, by_name=False) == ["2022-12", "2023-01", "2023-02", "2023-10"]
    assert in_order(months, by_name=True) == ["2022-12", "2023-01", "2023-10", "2023-02"]


def test_a_file_changed_since_is_read_again(tmp_path: Path) -> None:
    path = write_month(tmp_path, "2023-01", [line("202301020100", "350", "MOD")])
    assert len(read_month(Files.of((("2023-01", (path,)),)), "2023-01", MENDED)) == 1
    write_month(tmp_path, "2023-01", [line("202301020100", "350", "MOD"), line("202301020200", "350", "MOD")])
    assert len(read_month(Files.of((("2023-01", (path,)),)), "2023-01", MENDED)) == 2


def test_a_file_that_the_published_download_wrote_keeps_its_missing_words(tmp_path: Path) -> None:
    path = tmp_path / "2023_01.csv"
    path.write_text(",VALID,REPORT,TURBULENCE,LAT,LON\n7,202301020100,A UA /OV A/TM 0100/FL350,,40.0,-90.0\n")
    for faults in (MENDED, Faults(none_text=True)):
        assert read_month(Files.of((("2023-01", (path,)),)), "2023-01", faults).turbulence.to_pylist() == [None]


WRONG = {
    "no columns": ("VALID,REPORT\n", r"2023_01.csv lacks the column 'TURBULENCE'.*fmt=csv"),
    "empty": ("", r"2023_01.csv lacks the column 'VALID'"),
    "a web page": ("<!doctype html>\n<p>502</p>\n", r"2023_01.csv lacks the column 'VALID'.*doctype"),
    "a time": (HEADER + line("202301322500", "350", "MOD"), r"2023_01.csv: VALID '202301322500' is no time"),
    "29 February": (HEADER + line("202302290000", "350", "MOD"), r"2023_02.csv: VALID '202302290000' is no time"),
    "a position": (HEADER + line("202301020000", "350", "MOD", "40N"), r"2023_01.csv: LAT holds no number: .*40N"),
    "infinite": (HEADER + line("202301020000", "350", "MOD", "inf"), r"2023_01.csv: LAT holds 'inf'.*no position"),
    "a comma": (HEADER + line("202301020000", "350", "MOD, CHOP"), r"2023_01.csv, row 2: .* fields in place of 10"),
    "a month": (HEADER + line("202212310000", "350", "MOD"), r"named after 2023-01, but its row 1 has VALID '20221231"),
    "not text": (HEADER + "\udcff,,,,,,,,,\n", r"2023_01.csv cannot be read as CSV"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, what: str) -> None:
    content, message = WRONG[what]
    month = "2023-02" if "February" in what else "2023-01"
    path = tmp_path / f"{month.replace('-', '_')}.csv"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=message):
        read_month(Files.of(((month, (path,)),)), month, MENDED)


def test_a_file_that_is_not_there_or_runs_backwards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2023_01.csv cannot be read: No such file"):
        Files.of((("2023-01", (tmp_path / "2023_01.csv",)),))
    rows = [line("202302010000", "350", "MOD"), line("202301010000", "350", "MOD")]
    with pytest.raises(InputError, match=r"archive.csv runs from 202302 back to 202301; sort it"):
        months_of(write_month(tmp_path, "", rows, name="archive.csv"))


def test_a_row_before_the_first_or_after_the_last_is_refused(tmp_path: Path) -> None:
    for odd in ("202210010000", "202303010000"):
        rows = [line("202301010000", "350", "MOD"), line(odd, "350", "MOD"), line("202302010000", "350", "MOD")]
        path = write_month(tmp_path, "", rows, name="archive.csv")
        with pytest.raises(InputError, match=rf"archive.csv, row 2: VALID '{odd}' lies outside of 2023-01 to 2023-02"):
            read_month(Files.of((("2023-01", (path,)),)), "2023-01", MENDED)


def test_a_bulletin_of_raw_reports_is_refused_as_what_it_is() -> None:
    for path in sorted(real("text/pirep_PRCUS.txt").parent.glob("pirep_*.txt")):
        with pytest.raises(InputError, match=rf"{path.name} is a bulletin of raw reports.*neither month nor year"):
            months_of(path)


def test_a_bulletin_written_here_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "pirep.txt"
    path.write_text("000\nUBUS31 KWBC 201705\nPRCUS\nAVK UA /OV O/ANY/TM 1655/FL170/TP C750=\n")
    with pytest.raises(InputError, match=r"pirep.txt is a bulletin of raw reports"):
        months_of(path)


PANDAS = {  # printed by pandas 1.5.3: read_csv(io.StringIO(text), header=None)[0][0]
    "-94.74821762540411": -94.74821762540412,
    "29.578332983172402": 29.5783329831724,
    "-24.074301514869433": -24.074301514869436,
    "0.28228948656712526954": 0.2822894865671252,
    "-0.18954203002110259213": -0.1895420300211025,
    "0.000123456789012345678": 0.0001234567890123,
    "-0.9999999999999999": -1.0,
    "29.87813966663967": 29.87813966663967,
    "-84.79079885750748": -84.79079885750748,
    "-122.3838012345678901": -122.38380123456788,
    " 41 ": 41.0,
    "+12.5": 12.5,
    "1.5E-3": 0.0015,
    "-90.": -90.0,
    ".5": 0.5,
}


def test_positions_have_the_nearest_double_or_the_last_digit_of_pandas(tmp_path: Path) -> None:
    assert as_pandas_reads(pa.array(list(PANDAS))).tolist() == list(PANDAS.values())
    path = write_month(tmp_path, "2023-01", [line("202301020100", "350", "MOD", lon="-94.74821762540411")])
    for faults, value in ((MENDED, -94.74821762540411), (Faults(none_text=True), -94.74821762540412)):
        assert read_month(Files.of((("2023-01", (path,)),)), "2023-01", faults).longitude.tolist() == [value]
