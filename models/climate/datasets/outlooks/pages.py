"""Pages of the Storm Prediction Center's archive: outlooks, and lists of them.

An outlook's file is called day1otlk_20210627_1300.html, with the day that it is for (1 is the day of issue), the date
and the time, UTC. A list holds links to outlooks. Pages may be HTML or plain text, gzip or not.
"""

import gzip
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

from models.common.errors import InputError

SITE = "https://spc.noaa.gov"
"""What the published script puts before a link; weather_report_data_scraping.py line 48."""

_NAME = re.compile(r"day(\d)[\w-]*?_(\d{8})_(\d{4})\b")
_SUMMARY = re.compile(r"\.\.\.[ \t]*SUMMARY[ \t]*\.\.\.", re.IGNORECASE)
_PREVIOUS = re.compile(r"^[ \t]*\.+[ \t]*PREV(?:IOUS)? DISCUSSION", re.MULTILINE | re.IGNORECASE)
_SUMMARY_IN_LINE = re.compile(r"^SUMMARY\.\.\.", re.MULTILINE)
# a section ends before a paragraph that begins with dots, dollars or ampersands, and before a heading alone on its line
_END = re.compile(r"\n[ \t\r]*\n[ \t]*(?=\.\.|\$\$|&&)|\n[ \t]*(?=\.\.\.(?=[^.\s])[^\n]*\.\.\.[ \t\r]*(?:\n|$))")
_END_IN_LINE = re.compile(r"\n[ \t\r]*\n(?=[A-Z]{4,}\.\.\.|\.\.|\$\$)|\n(?=DISCUSSION\.\.\.)")
_ISSUED = re.compile(
    r"(\d{3,4}) (AM|PM) ([A-Z]{3}) \w{3} (\w{3}) (\d{1,2}) (\d{4})|(\d{4}) (?:UTC|GMT) \w{3} (\w{3}) (\d{1,2}) (\d{4})",
    re.IGNORECASE,
)
_ZONES = {"EST": 5, "EDT": 4, "CST": 6, "CDT": 5, "MST": 7, "MDT": 6, "PST": 8, "PDT": 7, "UTC": 0, "GMT": 0}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, kw_only=True, order=True)
class Issue:
    """When an outlook was issued, and for which day.

    Attributes:
        day: UTC.
        time: "HHMM", UTC.
        ahead: 1 for the day of issue, 2 and 3 for the next ones, 4 for the days 4 to 8; 0: not told.
    """

    day: date
    time: str
    ahead: int

    @property
    def minutes(self) -> int:
        """Since 1970-01-01."""
        return (self.day - date(1970, 1, 1)).days * 1440 + int(self.time[:2]) * 60 + int(self.time[2:])


class _Reader(HTMLParser):
    """Collects the texts of preformatted blocks, and the targets of links."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self.links: list[str] = []
        self._open = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A block begins, or a link."""
        if tag == "pre":
            self._open += 1
            self.blocks.append("")
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value is not None]

    def handle_endtag(self, tag: str) -> None:
        """A block ends."""
        if tag == "pre" and self._open:
            self._open -= 1

    def handle_data(self, data: str) -> None:
        """Text of an open block."""
        if self._open:
            self.blocks[-1] += data


def text_of(path: Path) -> str:
    """The characters of a page.

    Raises:
        InputError: it is missing, empty, damaged, or no text.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give an outlook's page.")
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise InputError(f"{path} is damaged ({error}); get it again.") from error
    if not content.strip():
        raise InputError(f"{path} is empty; get it again.")
    if b"\0" in content:
        raise InputError(f"{path} is no text: it holds zeros; give an outlook's page.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def blocks_of(page: str) -> list[str]:
    """The texts of a page's preformatted blocks; a page without HTML is one block."""
    if not re.search(r"<\s*(?:html|pre|body|head|!doctype)\b", page[:5000], re.IGNORECASE):
        return [page]
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.blocks


def links_of(page: str) -> list[str]:
    """Addresses of the outlooks that a list names, in its order."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    chosen = [link for link in reader.links if "otlk" in link and ".html" in link]
    return [link if "://" in link else f"{SITE}{link}" for link in chosen]


def is_outlook(path: Path) -> bool:
    """Whether a file's name is that of an outlook."""
    return _NAME.search(path.name) is not None


def issue_in_name(name: str, what: str) -> Issue:
    """When an outlook was issued, by its file's name or address.

    Raises:
        InputError: the name holds no such day or time.
    """
    found = _NAME.search(name)
    if found is None:
        raise InputError(f"{what} is not called like an outlook; call it as day1otlk_20210627_1300.html is.")
    return Issue(day=_day(found[2], what), time=_clock(found[3], what), ahead=int(found[1]))


def issue_in_text(text: str, what: str) -> Issue:
    """When a report was issued, by the line below its title: "0238 PM CDT Mon Mar 25 2024".

    Raises:
        InputError: there is no such line, or it names a day that does not exist.
    """
    found = _ISSUED.search(text)
    if found is None:
        raise InputError(
            f"{what} tells neither in its name nor in its text when it was issued; call it as "
            "day1otlk_20210627_1300.html is, or give the whole report with the line '0751 AM CDT Sun Jun 27 2021'."
        )
    clock, half, zone, month, day, year = found.groups()[:6]
    if clock is None:
        clock, month, day, year = found.groups()[6:]
        hour, zone = int(clock[:-2]), "UTC"
    else:
        hour = int(clock[:-2]) % 12 + (12 if half.upper() == "PM" else 0)
    zone, month = zone.upper(), month.title()
    if zone not in _ZONES or month not in _MONTHS:
        raise InputError(f"{what}: {found[0]!r} has a zone or month that is not known; zones are {', '.join(_ZONES)}.")
    try:
        local = datetime(
            int(year), _MONTHS.index(month) + 1, int(day), hour, int(clock[-2:]),
            tzinfo=timezone(timedelta(hours=-_ZONES[zone])),
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"{what}: {found[0]!r} is no time ({error}); correct it.") from error
    moment = local.astimezone(UTC)
    ahead = re.search(r"\bDay (\d)\b", text, re.IGNORECASE)
    return Issue(day=moment.date(), time=f"{moment:%H%M}", ahead=int(ahead[1]) if ahead else 0)


def _day(text: str, what: str) -> date:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        raise InputError(f"{what}: {text!r} is no day; it must be YYYYMMDD.") from None


def _clock(text: str, what: str) -> str:
    if int(text[:2]) > 23 or int(text[2:]) > 59:
        raise InputError(f"{what}: {text!r} is no time; it must be HHMM from 0000 to 2359, UTC.")
    return text


def published_summary(block: str) -> str:
    """The discussion as published: after the last mark of a summary, to the next three dots, wherever they are.

    Source:
        weather_report_data_scraping.py line 75.
    """
    return block.split("...SUMMARY...")[-1].split("...")[0]


def summary(block: str) -> str | None:
    """The summary of a report: from its mark to the next section.

    Of several, the last is taken, but none of what "PREV DISCUSSION" repeats: that is out of date.

    Args:
        block: a preformatted block, an outlook or a mesoscale discussion.

    Returns:
        The text as it stands, blanks and ends of lines included; None without a mark.

    Source:
        Ours.
    """
    block = _PREVIOUS.split(block, maxsplit=1)[0]
    for mark, end in ((_SUMMARY, _END), (_SUMMARY_IN_LINE, _END_IN_LINE)):
        found = list(mark.finditer(block))
        if found:
            rest = block[found[-1].end() :]
            stop = end.search(rest)
            return rest[: stop.end()] if stop else rest
    return None


def is_report(block: str) -> bool:
    """Whether a block is a report of its own, and no note beside one."""
    return bool(_SUMMARY.search(block) or _SUMMARY_IN_LINE.search(block) or _ISSUED.search(block))


def first_report(blocks: Iterable[str]) -> str:
    """The first block that is a report; "" without one."""
    return next((block for block in blocks if is_report(block)), "")
