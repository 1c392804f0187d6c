"""What pilots write: levels, ranges, and the strongest word."""

from collections.abc import Sequence

import pyarrow as pa
import pytest

from models.climate.datasets.turbulence.wording import (
    BANDS,
    bands,
    flight_level_fields,
    flight_levels,
    intensities,
    joined_end_to_end,
)
from models.common.errors import InputError
from tests.models.climate.samples import real

LEVELS = {
    "FL350": 350,
    "FL 035 ": 35,
    "FL45": 45,
    "FL0350": 350,
    "FL040-060": 50,
    "FL149-152": 150,  # the middle, rounded down
    "FL180-FL200 ": 190,
    "FL3000": 3000,
    "FL+50": 50,
    "FLSFC-090": -1,
    "FL-50": -1,
    "FLFL010-": -1,
    "FL35O": -1,
    "FLUNKN": -1,
    "FLDURD": -1,
    "FL": -1,
    "FL99999999999": 2_000_000_000,
}

WORDS = {  # text: mended, published
    "NEG": (0, 0),
    "SMTH": (0, 0),
    "SMOOTH": (0, 0),
    "LGT": (1, 1),
    "LT TURB & CHOP": (1, 1),
    "CONT LGT CHOP 360": (1, 1),
    "MOD": (2, 2),
    "MDT": (2, 2),
    "MODERATE": (2, 2),
    "MOD CAT 310-370": (2, 2),
    "SEV": (3, 3),
    "SEVERE": (3, 3),
    "MOD-SEV": (3, 3),
    "EXTRM": (4, 4),
    "SEV-EXTM": (4, 4),
    "MTW": (-1, -1),
    "CHOP": (-1, -1),
    "UNKN": (-1, -1),
    "LGT-MOD": (2, 1),
    "CONT LGT OCNL MOD CHOP": (2, 1),
    "CONS MOD": (2, -1),
    "MOD DURGD DSCNT": (2, -1),
    "MOD MX": (2, -1),
    "MOD MULT RPTS": (2, 1),
    "SEV BLW FLT LVL": (3, 1),
    "MOD 350 NEG BLW 300": (2, 0),
    "SVR SMTH ABV 350": (3, 0),
    "mod chop": (2, -1),
    "MODCHOP": (2, 2),
    "LGTNG ALL QUADS": (-1, 1),
    "SEVERAL RPTS": (-1, 3),
    "EXTD RNWY": (-1, 4),
    "NEGLIGENT": (-1, 0),
}


def texts(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def test_a_level_is_a_number_or_the_middle_of_two_and_else_unknown() -> None:
    assert flight_levels(texts(list(LEVELS))).tolist() == list(LEVELS.values())


def test_every_text_gets_its_own_answer_whatever_stands_around_it() -> None:
    many = [*LEVELS, None, *reversed(LEVELS)]
    assert flight_levels(texts(many)).tolist() == [*LEVELS.values(), -1, *reversed(LEVELS.values())]


@pytest.mark.parametrize("inside_words", [False, True], ids=["mended", "published"])
def test_the_strongest_word_counts_and_by_the_published_rule_the_first_letters_found(inside_words: bool) -> None:
    found = intensities(texts([*WORDS, None]), inside_words=inside_words).tolist()
    assert dict(zip(WORDS, found, strict=False)) == {text: both[inside_words] for text, both in WORDS.items()}
    assert found[-1] == -1


def test_the_level_stands_in_the_fourth_field_unless_another_is_marked() -> None:
    reports = {
        "BNA UA /OV BNA135020/TM 1932/FL070/TP LJ60/TB MOD": "FL070",
        "UA /OV BNA 240040 /TM 1933 /FL 110-130 /TP PA28": "FL 110-130 ",
        "AVK UA /OV O/ANY/TM 1655/FL170/TP C750": "FL170",  # the identifier holds a stroke
        "ORD UA /OV ORD/TM 1200/350/TP B738": "350",  # without its mark
        "DEN UA /OV 35 SW": None,
        "UA /OV X /FL120": "FL120",
        "": None,
    }
    assert flight_level_fields(texts(list(reports)), fourth=False).to_pylist() == list(reports.values())
    published = flight_level_fields(texts(list(reports)[:4]), fourth=True).to_pylist()
    assert published == ["FL070", "FL 110-130 ", "TM 1655", "350"]
    with pytest.raises(InputError, match=r"report 4 has fewer than four fields, 'DEN UA /OV 35 SW'.*short_report"):
        flight_level_fields(texts(list(reports)), fourth=True)


def test_no_reports_have_no_levels() -> None:
    nothing = texts([])
    assert flight_levels(flight_level_fields(nothing, fourth=False)).tolist() == []
    assert flight_levels(flight_level_fields(nothing, fourth=True)).tolist() == []
    assert intensities(nothing, inside_words=False).tolist() == []


def test_joined_end_to_end_every_row_after_the_first_range_has_the_level_of_another() -> None:
    fields = texts(["FL100", "FL200-300", "FL110", "FLUNKN", "FL010-020", "FL120"])
    single, ranged = joined_end_to_end(fields, flight_levels(fields))
    assert (single.tolist(), ranged.tolist()) == ([100, 110, -1, 120], [250, 15])


def test_bands_end_where_the_next_begins() -> None:
    levels = {-1: -1, 0: 0, 149: 0, 150: 1, 299: 1, 300: 2, 499: 2, 500: -1, 3000: -1}
    assert bands(flight_levels(texts([f"FL{level}" for level in levels]))).tolist() == list(levels.values())
    assert BANDS == ("low", "med", "high")


def test_levels_and_words_of_real_bulletins_are_understood() -> None:
    folder = real("text/pirep_PRCUS.txt").parent
    told = " ".join(path.read_text(errors="replace") for path in sorted(folder.glob("pirep_*.txt")))
    reports = [report for report in " ".join(told.split()).split("=") if "/TB " in report]
    levels = flight_levels(flight_level_fields(texts(reports), fourth=False))
    words = [report.partition("/TB ")[2].partition("/")[0].strip() for report in reports]
    strength = dict(zip(words, intensities(texts(words), inside_words=False).tolist(), strict=True))
    assert len(reports) > 15
    unknown = [report for report, level in zip(reports, levels.tolist(), strict=True) if level < 0]
    assert all("FLUNKN" in report or "FLDUR" in report for report in unknown)
    assert {word for word, found in strength.items() if found < 0} == {"MTW"}
    assert strength["LT TURB & CHOP"] == 1
    assert strength["CONT LGT CHOP 360"] == 1
    assert strength["SEV"] == 3
