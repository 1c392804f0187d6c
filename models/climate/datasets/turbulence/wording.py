"""What a pilot's report says: the flight level, its band, and how strong the turbulence was.

A report is a line of fields parted by strokes, each with a two-letter mark:

    BNA UA /OV BNA135020/TM 1932/FL070/TP LJ60/TB MOD-SEV DURGD 070

FL is the flight level in hundreds of feet, a range such as FL040-060 counts as its middle, and words such as UNKN or
DURD (during descent) as unknown. TB is the turbulence, in words that pilots and controllers abbreviate as they like.

Texts repeat: every function looks at each different text once and hands the answer to all that say the same.

Shapes: N reports.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.errors import InputError

Levels = NDArray[np.int32]
Codes = NDArray[np.int8]

UNKNOWN = -1
"""Of a level, a band or an intensity."""

CEILING = 500
"""Hundreds of feet from which a level is taken for a slip of the pen."""

BANDS = ("low", "med", "high")
FLOORS = (0, 150, 300)
"""Hundreds of feet at which the bands begin; each ends where the next begins, the last at `CEILING`."""

INTENSITIES = ("none", "light", "moderate", "severe", "extreme")

HIGHEST = 2_000_000_000
"""What a level beyond the range of the stored type becomes; it is far above `CEILING` either way."""

_WORDS = (
    r"NEG(?:ATIVE)?|NONE|NIL|SMOOTH|SMTH|SMTHR",
    r"LGT|LIGHT|LGHT|LT",
    r"MOD|MDT|MODERATE|MODT",
    r"SEV|SVR|SEVERE|SVRE",
    r"EXT|EXTM|EXTRM|EXTRE?ME|XTRM",
)
_INTENSITY = tuple(re.compile(rf"(?<![A-Z])(?:{words})(?:CHOP|TURB[A-Z]*|CAT)?(?![A-Z])") for words in _WORDS)


def flight_level_fields(report: pa.Array, *, fourth: bool) -> pa.Array:
    """The field that holds the flight level, with its mark: "FL040-060 ".

    Args:
        report: (N,) texts.
        fourth: the published rule: it is the fourth field, whatever is in it, and a report with fewer ends the run.
            False: if the fourth is not marked FL, it is the first that is, if any; null in a report with fewer
            fields and no mark.

    Returns:
        (N,) texts.

    Raises:
        InputError: by the published rule, a report has fewer than four fields.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/code/turb_eda_preprocessing.ipynb, cell 14. The search for the mark
        is ours: an identifier may hold a stroke itself (/OV O/ANY/TM 1655/FL170), and then the fourth field is another.
    """
    parts = pc.split_pattern(report, "/", max_splits=4)
    starts = np.asarray(parts.offsets, np.int64)
    enough = np.diff(starts) > 3
    if fourth and not enough.all():
        at = int(np.argmin(enough))
        raise InputError(
            f"report {at} has fewer than four fields, {report[at].as_py()!r}, at which the published run stops; "
            "do not reproduce 'short_report', or take the report out."
        )
    where = pa.array(np.where(enough, starts[:-1] + 3, 0), mask=~enough)
    fields = parts.values.take(where) if len(parts.values) else pa.nulls(len(report), report.type)
    if fourth:
        return fields
    marked = np.asarray(pc.fill_null(pc.match_substring_regex(fields, r"^\s*FL"), False))
    others = np.flatnonzero(~marked)
    if not len(others):
        return fields
    found = pc.struct_field(pc.extract_regex(report.take(pa.array(others)), r"/\s*(?P<level>FL[^/]*)"), [0])
    return pc.replace_with_mask(fields, pa.array(~marked), pc.coalesce(found, fields.take(pa.array(others))))


def flight_levels(fields: pa.Array) -> Levels:
    """Flight levels of the fields that hold them, each of its own field.

    Args:
        fields: (N,) texts, null where there is none.

    Returns:
        (N,) hundreds of feet; `UNKNOWN` where the text is no whole number and no range of two.

    Source:
        WxC-Bench at ee00516, turb_eda_preprocessing.ipynb, cell 15: what can be read, and that a range counts as its
        middle, rounded down. There singles and ranges go into two lists; see `joined_end_to_end`.
    """
    return _each(fields, _level, np.int32)


def joined_end_to_end(fields: pa.Array, levels: Levels) -> tuple[Levels, Levels]:
    """The published lists: levels of the fields without a dash, and of those with one, each in the order of the rows.

    Joined, they are the published flight levels: row r gets the r-th of the joined list, its own only before the first
    range.

    Args:
        fields: (N,) texts.
        levels: (N,) what each says.

    Returns:
        Singles and ranges, N together.

    Source:
        WxC-Bench at ee00516, turb_eda_preprocessing.ipynb, cell 15.
    """
    ranged = np.asarray(pc.fill_null(pc.match_substring(fields, "-"), False))
    return levels[~ranged], levels[ranged]


def bands(levels: Levels) -> Codes:
    """Band of every level: 0 low, 1 med, 2 high, `UNKNOWN` below zero and from `CEILING` on."""
    band = np.searchsorted(np.array(FLOORS), levels, side="right") - 1
    return np.where((levels >= 0) & (levels < CEILING), band, UNKNOWN).astype(np.int8)


def intensities(turbulence: pa.Array, *, inside_words: bool) -> Codes:
    """How strong the turbulence was, by the words of the report.

    Args:
        turbulence: (N,) texts, null where nothing was said.
        inside_words: the published rule: the first of some letters that occur anywhere decides. False: whole words
            count, and the strongest is meant.

    Returns:
        (N,) 0 to 4 as in `INTENSITIES`, `UNKNOWN` where no word tells.

    Source:
        WxC-Bench at ee00516, turb_eda_preprocessing.ipynb, cells 17, 19 and 37, whose text says that of two the
        stronger is meant. The words are the reporting terms of the FAA's Aeronautical Information Manual (NEG, LGT,
        MOD, SEV, EXTRM) with the spellings that real bulletins hold; the list is ours.
    """
    return _each(turbulence, _letters if inside_words else _strongest, np.int8)


def _each(texts: pa.Array, read: Callable[[str], int], dtype: Any) -> NDArray[Any]:
    """Ask of every different text once; `UNKNOWN` where there is none."""
    told = pc.dictionary_encode(texts)
    answers = np.array([read(text) for text in told.dictionary.to_pylist()] + [UNKNOWN], dtype)
    return np.asarray(answers[np.asarray(pc.fill_null(told.indices, len(told.dictionary)))])


def _level(field: str) -> int:
    text = field.replace("FL", "")
    try:
        if "-" in text:
            lower, upper = text.split("-")[:2]
            return min((int(lower) + int(upper)) // 2, HIGHEST)
        return min(int(text), HIGHEST)
    except ValueError:
        return UNKNOWN


def _letters(text: str) -> int:
    def has(*letters: str) -> bool:
        return any(each in text for each in letters)

    if has("SMOOTH", "SMTH", "NONE", "NEG"):
        return 0
    if has("LGT", "LIGHT", "LT"):
        return 1
    if has("MOD", "MDT") and not has("S", "X"):
        return 2
    if has("SVR", "SEV") and not has("X"):
        return 3
    return 4 if has("EXT") else UNKNOWN


def _strongest(text: str) -> int:
    said = [number for number, words in enumerate(_INTENSITY) if words.search(text.upper())]
    return max(said, default=UNKNOWN)
