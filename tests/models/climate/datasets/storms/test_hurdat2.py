"""HURDAT2 of any edition is read, or refused with file, line, field, value and remedy; what is read comes out again."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.datasets.storms.hurdat2 import IDENTIFIERS, MISSING, STATUSES, Track, lines_of, read, written
from models.common.errors import InputError
from tests.models.climate.samples import real

RADII = ", -999, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999"
NEW = (
    "AL092011,              IRENE,      3,\n"
    "20110827, 0600,  , HU, 33.5N,  76.4W,  75,  952,  250,  225,  125,  175,  125,  125,   75,   90,   80,   75,   50,"
    "   60,   45\n"
    "20110827, 1200, L, HU, 34.7N,  76.6W,  75,  952,  225,  225,  150,  125,  125,  125,   75,   60,   80,   80,   35,"
    "   50,   45\n"
    "20110828, 0935, L, TS, 39.4N,  74.4W,  60,  959,  230,  280,  160,  110,    0,  150,  150,    0,    0,    0,    0,"
    "    0, -999\n"
)
OLD = (
    "AL011851,            UNNAMED,      2,\n"
    f"18510625, 0000,  , HU, 28.0N,  94.8W,  80, -999{RADII},\n"
    f"18510625, 0600,  , HU, 28.0N,  95.4W, -99, -999{RADII},\n"
)
DATE_LINE = (
    "CP021957,                   ,      3,\n"
    f"19570901, 0000,  , TY, 15.0N, 180.0E,  70, -999{RADII}, -999\n"
    f"19570901, 0600,  , ST,  5.0S, 181.5W, 130,  905{RADII}, -999\n"
    f"19570901, 1200,  , ET, 25.0N, 359.1W,  50, -999{RADII}, -999\n"
)


def test_an_edition_with_the_radius_of_maximum_wind_is_read() -> None:
    (track,) = read(NEW.splitlines(), "new")
    assert (track.identity, track.name, track.season, track.fields) == ("AL092011", "IRENE", 2011, 21)
    assert track.minutes[2] - track.minutes[0] == 27 * 60 + 35
    assert track.record == ("", "L", "L")
    assert track.radii[0].tolist() == [250, 225, 125, 175, 125, 125, 75, 90, 80, 75, 50, 60]
    assert track.rmw.tolist() == [45, 45, MISSING]
    assert track.longitude[0] == -76.4


def test_an_edition_without_it_is_read_and_both_old_and_new_fills_are_missing() -> None:
    (track,) = read(OLD.splitlines(), "old")
    assert track.fields == 20
    assert track.wind.tolist() == [80, MISSING]
    assert (track.radii == MISSING).all()
    assert (track.rmw == MISSING).all()
    assert np.datetime64("1970-01-01T00:00", "m") + track.minutes[0] == np.datetime64("1851-06-25T00:00")


def test_blank_names_southern_latitudes_and_longitudes_past_the_date_line_are_read() -> None:
    (track,) = read(DATE_LINE.splitlines(), "date line")
    assert track.name == ""
    assert track.latitude.tolist() == [15.0, -5.0, 25.0]
    assert track.longitude.tolist() == [180.0, -181.5, -359.1]


@pytest.mark.parametrize("text", [NEW, OLD, DATE_LINE, NEW + OLD + DATE_LINE])
def test_what_was_read_is_written_again_byte_for_byte(text: str) -> None:
    assert "".join(written(read(text.splitlines(), "text"))) == text


def test_the_published_text_comes_out_again_but_for_a_stray_blank_in_one_name() -> None:
    path = real("hurricane/hurdat2_nepac_1949_2022.txt")
    again = "".join(written(read(lines_of(path), path.name))).splitlines()
    differing = [(one, other) for one, other in zip(again, path.read_text().splitlines(), strict=True) if one != other]
    assert differing == [("EP081994,                 LI,     70,", "EP081994,                LI ,     70,")]


def test_a_packed_file_with_other_line_ends_and_empty_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "best.txt.gz"
    path.write_bytes(gzip.compress(("\r\n" + NEW.replace("\n", "\r\n") + "\r\n").encode()))
    (track,) = read(lines_of(path), str(path))
    assert "".join(written([track])) == NEW


ROW = f"18510625, 0000,  , HU, 28.0N,  94.8W,  80, -999{RADII},"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (ROW.replace("0000", "2400"), "line 2: time is '2400'; it must be HHMM from 0000 to 2359; midnight is 0000"),
        (ROW.replace("18510625", "18510631"), "line 2: date is '18510631'; there is no such day"),
        (ROW.replace("18510625", "1851-06-25"), "line 2: date is '1851-06-25'; it must be written YYYYMMDD"),
        (ROW.replace(",  , HU", ", Q, HU"), "record identifier is 'Q'; it must be blank or one of C, G, I"),
        (ROW.replace("HU", "XX"), "status is 'XX'; it must be one of TD, TS"),
        (ROW.replace("28.0N", "28.0"), "latitude is '28.0'; it must be degrees and a letter of NS, such as 28.0N"),
        (ROW.replace("28.0N", "98.0N"), "latitude is '98.0N'; it must be at most 90"),
        (ROW.replace("94.8W", "94.8N"), "longitude is '94.8N'; it must be degrees and a letter of EW"),
        (ROW.replace("  80", "  8o"), "wind is '8o'; it must be a whole number, -999 where not known"),
        (ROW.replace("  80", " 300"), "wind is '300'; it must lie between 0 and 250"),
        (ROW.replace("  80, -999", "  80,  500"), "pressure is '500'; it must lie between 800 and 1100"),
        (ROW.removesuffix(" -999,"), "number of fields is 19; a row has 20, or 21"),
        ("AL021851, UNNAMED, x,", "number of rows is 'x'; it must be a whole number above 0"),
        (f"AL021851, {'A' * 21}, 1,", "it must have at most 20 letters"),
        ("AL021851, UNNAMED,", "header is 'AL021851, UNNAMED'; it must hold identity, name and number of rows"),
    ],
)
def test_a_row_that_is_none_is_refused(line: str, said: str) -> None:
    head = "" if line.startswith("AL") else "AL011851, UNNAMED, 1,\n"
    with pytest.raises(InputError) as error:
        list(read(f"{head}{line}".splitlines(), "atlantic.txt"))
    assert str(error.value).startswith("atlantic.txt, line ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OLD.replace("2,\n", "3,\n", 1), "line 1: number of rows is 3; AL011851 has 2; the file is cut or joined"),
        (OLD + ROW, "line 4: time is '18510625 0000'; it lies before the row above"),
        (OLD.replace("0600", "0000"), "line 3: time is '18510625 0000'; the row above has the same"),
        (ROW, "line 1: first field is '18510625'; a header such as AL012005 must come first"),
        (NEW + OLD.splitlines()[1].removesuffix(","), "line 5: number of fields is 20; rows of AL092011 began with 21"),
    ],
)
def test_a_text_that_does_not_hang_together_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match="atlantic") as error:
        list(read(text.splitlines(), "atlantic.txt"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is no file; give the path of a HURDAT2 text"),
        (b"", r"is empty \(0 bytes\); get it again"),
        (b"AL011851, UNNAMED, 2,\n\xff\xfe\n", "no ASCII text"),
        (gzip.compress(NEW.encode(), mtime=0)[:60], "no ASCII text"),
    ],
)
def test_a_file_that_is_no_text_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "best.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        list(read(lines_of(path), str(path)))


@settings(max_examples=150, database=None)
@given(st.integers(0, len(NEW + OLD) - 1), st.characters(min_codepoint=32, max_codepoint=126), st.booleans())
def test_a_text_with_one_letter_changed_is_read_or_refused_and_nothing_else(at: int, letter: str, drop: bool) -> None:
    text = NEW + OLD
    spoilt = text[:at] + ("" if drop else letter) + text[at + 1 :]
    try:
        found = list(read(spoilt.splitlines(), "spoilt"))
    except InputError as error:
        assert str(error).startswith("spoilt, line ")
    else:
        assert sum(len(track.minutes) for track in found) == 5


PLACES = st.integers(0, 900).map(lambda tenths: tenths / 10)


@st.composite
def tracks(draw: st.DrawFn) -> Track:
    """Any storm that the format can hold."""
    count = draw(st.integers(1, 5))

    def numbers(low: int, high: int, *shape: int) -> np.ndarray[Any, Any]:
        one = st.one_of(st.just(MISSING), st.integers(low, high))
        size = int(np.prod(shape))
        return np.array(draw(st.lists(one, min_size=size, max_size=size)), np.int16).reshape(shape)

    fields = draw(st.sampled_from((20, 21)))
    minutes = np.cumsum(draw(st.lists(st.integers(1, 1440), min_size=count, max_size=count)))
    sign = np.array(draw(st.lists(st.sampled_from((-1.0, 1.0)), min_size=2 * count, max_size=2 * count)))
    place = np.array(draw(st.lists(PLACES, min_size=2 * count, max_size=2 * count)))
    return Track(
        identity=f"{draw(st.sampled_from(('AL', 'EP', 'CP', 'WP')))}{draw(st.integers(1, 99)):02d}1999",
        name=draw(st.text("ABCDEFGHIJ", max_size=10)),
        fields=fields,
        minutes=draw(st.integers(-62_000_000, 30_000_000)) + minutes,
        record=tuple(draw(st.lists(st.sampled_from(("", *IDENTIFIERS)), min_size=count, max_size=count))),
        status=tuple(draw(st.lists(st.sampled_from(STATUSES), min_size=count, max_size=count))),
        latitude=place[:count] * sign[:count],
        longitude=2 * place[count:] * sign[count:],
        wind=numbers(0, 200, count),
        pressure=numbers(850, 1050, count),
        radii=numbers(0, 900, count, 12),
        rmw=numbers(0, 300, count) if fields == 21 else np.full(count, MISSING, np.int16),
    )


@settings(max_examples=30, database=None)
@given(st.lists(tracks(), max_size=3))
def test_whatever_is_written_is_read_again(given_tracks: list[Track]) -> None:
    again = list(read("".join(written(given_tracks)).splitlines(), "written"))
    assert len(again) == len(given_tracks)
    for one, other in zip(again, given_tracks, strict=True):
        assert (one.identity, one.name, one.fields) == (other.identity, other.name, other.fields)
        assert (one.record, one.status) == (other.record, other.status)
        for name in ("minutes", "latitude", "longitude", "wind", "pressure", "radii", "rmw"):
            assert np.allclose(getattr(one, name), getattr(other, name), atol=1e-9), name
