"""Pages of outlooks are read, or refused; the summary is the section, not what stands before the next three dots."""

import gzip
from datetime import date, datetime
from pathlib import Path

import pytest

from models.climate.datasets.outlooks import hrrr, pages
from models.climate.datasets.outlooks.pages import Issue
from models.common.errors import InputError
from tests.models.climate.samples import real

TEXT = """
   SPC AC 271251

   Day 1 Convective Outlook
   NWS Storm Prediction Center Norman OK
   0751 AM CDT Sun Jun 27 2021

   Valid 271300 - 281200Z

   ...THERE IS A SLIGHT RISK OF SEVERE THUNDERSTORMS ACROSS PARTS OF
   SOUTHERN LOWER MICHIGAN...

   ...SUMMARY...
   Damaging winds...large hail...and a tornado are possible today
   ...mostly after 21Z...from the upper Midwest.

   ...Great Lakes eastward into
   New York...
   Heating will destabilize the air mass.

   ..Thornton/Hart.. 06/27/2021

   .PREV DISCUSSION... /ISSUED 0056 AM CDT SUN JUN 27 2021/

   ...SUMMARY...
   An older text.

   $$
"""
SUMMARY = (
    "\n   Damaging winds...large hail...and a tornado are possible today\n   ...mostly after 21Z...from the upper "
    "Midwest.\n\n   "
)


def test_a_summary_keeps_its_dots_and_ends_at_the_next_section() -> None:
    assert pages.summary(TEXT) == SUMMARY
    assert pages.published_summary(TEXT) == "\n   An older text.\n\n   $$\n"


@pytest.mark.parametrize(
    ("end", "left"),
    [
        ("\n\n   $$\n", "\n\n   "),
        ("\n\n   &&\n", "\n\n   "),
        ("\n   ...Ohio Valley...\n   Moist.\n", "\n   "),
        ("\n\n..HART.. 06/27/2021\n", "\n\n"),
        ("\n", "\n"),
        ("", ""),
    ],
)
def test_every_kind_of_section_ends_a_summary(end: str, left: str) -> None:
    assert pages.summary(f"   ...Summary...\n   Storms.{end}") == f"\n   Storms.{left}"


def test_a_report_without_summary_has_none_and_a_note_is_no_report() -> None:
    head = TEXT.split("...SUMMARY...")[0]
    assert pages.summary(head) is None
    assert pages.is_report(head)
    assert not pages.is_report("Probabilistic note in a second block.")


def test_blocks_and_links_are_taken_from_html_and_plain_text_is_one_block() -> None:
    page = "<HTML><body><a href='/x/day1otlk_20210627_0100.html'>a</a><a name='y'>n</a><a href='/points.txt'>p</a>"
    page += "<PRE>one &lt;two&gt; <a href='/z'>three</a></PRE>no<pre class='q'>\nfour</pre></body></HTML>"
    assert pages.blocks_of(page) == ["one <two> three", "\nfour"]
    assert pages.links_of(page) == ["https://spc.noaa.gov/x/day1otlk_20210627_0100.html"]
    assert pages.links_of("<a href='https://x.org/day2otlk_20210627_1730.html'>a</a>") == [
        "https://x.org/day2otlk_20210627_1730.html"
    ]
    assert pages.blocks_of(TEXT) == [TEXT]


def test_when_a_report_was_issued_is_told_by_name_or_text() -> None:
    assert pages.issue_in_name("day2otlk_20210627_1730.html", "x") == Issue(day=date(2021, 6, 27), time="1730", ahead=2)
    assert pages.issue_in_text(TEXT, "x") == Issue(day=date(2021, 6, 27), time="1251", ahead=1)
    evening = TEXT.replace("0751 AM CDT", "0756 PM CST")
    assert pages.issue_in_text(evening, "x") == Issue(day=date(2021, 6, 28), time="0156", ahead=1)
    noon = TEXT.replace("0751 AM CDT", "1230 AM EST")
    assert pages.issue_in_text(noon, "x").time == "0530"
    assert Issue(day=date(1970, 1, 2), time="0102", ahead=1).minutes == 1440 + 62


def test_real_discussions_of_the_same_office_are_read() -> None:
    text = pages.text_of(real("text/spc_SWOMCD_301.txt"))
    assert pages.issue_in_text(text, "x") == Issue(day=date(2024, 3, 25), time="1938", ahead=0)
    assert pages.summary(text) == (
        "Storms capable of hail, gusty wind, and an isolated\ntornado possible through the afternoon.\n\n"
    )
    for name in ("spc_SWOMCD.txt", "spc_SWOMCD_tags.txt", "spc_SWOMCDconcerning.txt"):
        text = pages.text_of(real(f"text/{name}"))
        summary = pages.summary(text)
        assert summary is not None
        assert summary.strip() and "DISCUSSION..." not in summary


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outlook.html", "x is not called like an outlook; call it as day1otlk_20210627_1300.html is"),
        ("day1otlk_20210631_1300.html", "x: '20210631' is no day; it must be YYYYMMDD"),
        ("day1otlk_20210627_2400.html", "x: '2400' is no time; it must be HHMM from 0000 to 2359"),
    ],
)
def test_a_name_that_tells_no_time_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        pages.issue_in_name(name, "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Some words.", "tells neither in its name nor in its text when it was issued"),
        (TEXT.replace("CDT Sun", "XDT Sun"), "has a zone or month that is not known"),
        (TEXT.replace("Jun 27", "Jun 31"), "is no time"),
    ],
)
def test_a_text_that_tells_no_time_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        pages.issue_in_text(text, "x")


def test_pages_come_packed_or_in_another_encoding_and_what_is_no_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert pages.text_of(path) == TEXT
    path.write_bytes("90\N{DEGREE SIGN}".encode("cp1252"))
    assert pages.text_of(path) == "90\N{DEGREE SIGN}"
    for content, said in (
        (b" \n", "is empty; get it again"),
        (b"\x1f\x8bbroken", "is damaged"),
        (b"a\0b", "is no text: it holds zeros"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            pages.text_of(path)
    with pytest.raises(InputError, match="is no file"):
        pages.text_of(tmp_path / "none.html")


def test_the_end_of_a_range_of_runs_is_left_out_as_published_and_kept_when_mended() -> None:
    first, last = date(2020, 2, 27), date(2020, 3, 2)
    published = [one.name for one in hrrr.requests(first, last, hour=1, end_exclusive=True)]
    mended = [one.name for one in hrrr.requests(first, last, hour=1, end_exclusive=False)]
    assert len(published) == 4
    assert mended == [*published, "hrrr.20200302.t01z.wrfnatf00.grib2"]
    assert hrrr.moment_of(mended[2]) == datetime(2020, 2, 29, 1)


def test_the_published_requests_come_out() -> None:
    lines = real("golden/forecast_reports/hrrr_requests.csv").read_text().splitlines()[1:]
    found = []
    for case, first, last in (
        ("as_published", date(2018, 1, 1), date(2018, 1, 2)),
        ("options 20200227-01 to 20200302-01", date(2020, 2, 27), date(2020, 3, 2)),
    ):
        found += [f"{case},{one.place},{one.name}" for one in hrrr.requests(first, last, hour=1, end_exclusive=True)]
    assert found == lines


@pytest.mark.parametrize("name", ["hrrr.20210627.grib2", "hrrr.20210631.t01z.wrfnatf00.grib2", "gfs.grib2"])
def test_a_file_that_is_not_called_like_the_models_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"is not called like an HRRR file|names no day and hour"):
        hrrr.moment_of(name)
