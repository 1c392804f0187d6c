"""Rows of outlooks, and which of them goes with which file of the model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets.outlooks import pages
from models.climate.datasets.outlooks.pages import Issue
from models.common.errors import InputError

EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One discussion.

    Attributes:
        under: day under which its table is stored.
        issue: when it was issued, and for which day.
        url: where it was published.
        block: number of its preformatted block in the page, from 0.
        discussion: the text, blanks and ends of lines included; "" without a summary.
        found: whether the page has a summary.
    """

    under: date
    issue: Issue
    url: str
    block: int
    discussion: str
    found: bool


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A file of the model with the text that goes with it."""

    file_name: str
    moment: datetime
    row: Row


def rows_of(page: str, issue: Issue, url: str, under: date, *, three_dots: bool, what: str) -> list[Row]:
    """The discussions of one page.

    Args:
        page: its characters.
        issue, url, under: what is known of it.
        three_dots: cut and take as published: every block, to the first three dots.
        what: its name, for errors.

    Returns:
        One row, the page's first report; as published, one for each block.

    Raises:
        InputError: the page has no preformatted text.
    """
    blocks = pages.blocks_of(page)
    if not blocks and not three_dots:
        raise InputError(f"{what} has no preformatted text; it is no outlook's page. Get it again, or take it away.")
    rows = []
    for number, block in enumerate(blocks):
        if three_dots:
            text: str | None = pages.published_summary(block)
        elif pages.is_report(block):
            text = pages.summary(block)
        else:
            continue
        rows.append(Row(under=under, issue=issue, url=url, block=number, discussion=text or "", found=text is not None))
    if three_dots:
        return rows
    if not rows:
        raise InputError(f"{what} holds no report: no line tells when it was issued. Get it again, or take it away.")
    return rows[:1]


def pairs_of(images: Iterable[tuple[str, datetime]], rows: Sequence[Row], *, first: bool, every: bool) -> list[Pair]:
    """Which text goes with which file.

    Args:
        images: names and times of the model's files of one day.
        rows: discussions of that day, in the order of their table.
        first: take the first row, as published.
        every: take all outlooks for the day of issue, not only the one issued nearest to the run.

    Returns:
        Pairs in order of the files.

    Source:
        forecast-report-generation/create_metadata.py lines 42-58; the rest is ours.
    """
    out = []
    for name, moment in images:
        if first:
            chosen = list(rows[:1])
        else:
            minutes = round((moment - EPOCH).total_seconds() / 60)
            fitting = [row for row in rows if row.found and row.issue.ahead in (0, 1) and row.discussion.strip()]
            chosen = fitting if every else sorted(fitting, key=lambda row: abs(row.issue.minutes - minutes))[:1]
        out += [Pair(file_name=name, moment=moment, row=row) for row in chosen]
    return out


def arrays(
    rows: Sequence[Row], images: Sequence[tuple[str, str, datetime]], pairs: Sequence[Pair]
) -> Mapping[str, Mapping[str, NDArray[Any]]]:
    """Variables of the groups `outlooks`, `images` and `pairs`.

    Args:
        rows: discussions.
        images: name, place in the archive, and time of the model's files.
        pairs: which go together.
    """

    def text(values: Iterable[str]) -> NDArray[Any]:
        listed = list(values)
        out = np.empty(len(listed), object)
        out[:] = listed
        return out

    def minutes(moment: datetime) -> int:
        return round((moment - EPOCH).total_seconds() / 60)

    paired = {pair.file_name for pair in pairs}
    return {
        "outlooks": {
            "stored_under": np.array([(row.under - EPOCH.date()).days for row in rows], np.int32),
            "issued": np.array([row.issue.minutes for row in rows], np.int32),
            "ahead": np.array([row.issue.ahead for row in rows], np.int8),
            "block": np.array([row.block for row in rows], np.int16),
            "has_summary": np.array([row.found for row in rows], np.int8),
            "url": text(row.url for row in rows),
            "discussion": text(row.discussion for row in rows),
        },
        "images": {
            "file_name": text(name for name, _, _ in images),
            "place": text(place for _, place, _ in images),
            "moment": np.array([minutes(moment) for _, _, moment in images], np.int32),
            "paired": np.array([name in paired for name, _, _ in images], np.int8),
        },
        "pairs": {
            "file_name": text(pair.file_name for pair in pairs),
            "moment": np.array([minutes(pair.moment) for pair in pairs], np.int32),
            "issued": np.array([pair.row.issue.minutes for pair in pairs], np.int32),
            "url": text(pair.row.url for pair in pairs),
            "text": text(pair.row.discussion.strip() for pair in pairs),
        },
    }


def name_of(path: Path) -> str:
    """An outlook's address by its file's name, as the archive has it."""
    issue = pages.issue_in_name(path.name, str(path))
    stem = path.name.split(".")[0]
    return f"{pages.SITE}/products/outlook/archive/{issue.day.year}/{stem}.html"
