"""Read and write HURDAT2 text, storm by storm.

A storm is a header, `BBNNYYYY, NAME, ROWS,`, and so many rows of 20 fields, or of 21 in editions that have the radius
of maximum wind: date, HHMM, record identifier, status, latitude, longitude, maximum wind (kt), central pressure (hPa),
the radii (nautical miles) of 34, 50 and 64 kt in the quadrants NE, SE, SW, NW, and the radius of maximum wind.

Source:
    National Hurricane Center, format of the revised Atlantic and Northeast Pacific hurricane databases (HURDAT2).
"""

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

IDENTIFIERS = "CGILPRSTW"
"""Closest approach, genesis, peaks of wind and pressure, landfall, least pressure, detail, status, track, most wind."""

STATUSES = ("TD", "TS", "HU", "EX", "SD", "SS", "LO", "WV", "DB", "ET", "PT", "ST", "TY")
"""The nine of the format's description, and four that rows from the western Pacific carry."""

LONGEST_NAME = 20

MISSING = -999
OLD_MISSING = -99
"""What stands for a wind that is not known."""

EPOCH = date(1970, 1, 1).toordinal()

_HEADER = re.compile(r"[A-Z]{2}\d{6}")
_PLACE = re.compile(r"(\d{1,3}(?:\.\d+)?)([A-Z])")
_RADII = tuple(f"{wind}-kt radius {quadrant}" for wind in (34, 50, 64) for quadrant in ("NE", "SE", "SW", "NW"))
_LARGEST = {"wind": 250, "pressure": 1100, "radius of maximum wind": 2000}


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """One storm; n records.

    Attributes:
        identity: "AL012005".
        name: as in the file, "" when blank.
        fields: 20 or 21.
        minutes: since 1970-01-01 UTC, int64, n.
        record: one letter of `IDENTIFIERS`, or "".
        status: one of `STATUSES`.
        latitude: degrees, north positive, f8, n.
        longitude: degrees as the file gives them, west negative, not wrapped, f8, n; the sign of zero is kept.
        wind, pressure, rmw: int16, n; kt, hPa, nautical miles; `MISSING` where not known.
        radii: int16, n x 12, nautical miles: 34, 50, 64 kt by NE, SE, SW, NW.
    """

    identity: str
    name: str
    fields: int
    minutes: NDArray[np.int64]
    record: tuple[str, ...]
    status: tuple[str, ...]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    wind: NDArray[np.int16]
    pressure: NDArray[np.int16]
    radii: NDArray[np.int16]
    rmw: NDArray[np.int16]

    @property
    def season(self) -> int:
        """The year in its identity."""
        return int(self.identity[4:])


def lines_of(path: Path) -> Iterator[str]:
    """Lines of a file, gzip or not, one after another.

    Raises:
        InputError: the file is missing, empty, not ASCII or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give the path of a HURDAT2 text.")
    with path.open("rb") as raw:
        start = raw.read(2)
    if not start:
        raise InputError(f"{path} is empty (0 bytes); get it again.")
    opened = gzip.open if start == b"\x1f\x8b" else open
    number = 0
    try:
        with opened(path, "rt", encoding="ascii") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 (told by the error)
                yield line
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: line {number + 1} and what follows is no ASCII text ({error}); get it again."
        ) from error


def read(lines: Iterable[str], what: str) -> Iterator[Track]:
    """Read storms one after another, holding one at a time.

    Args:
        lines: of the text, with or without their ends; empty ones are passed over.
        what: the file's name, for errors.

    Yields:
        Storms in the order of the text.

    Raises:
        InputError: names file, line, field, value and remedy of the first thing that is not HURDAT2.

    Source:
        Ours, after the format's description.
    """
    reader = _Reader(what)
    for number, line in enumerate(lines, 1):
        fields = [field.strip() for field in line.split(",")]
        if fields == [""]:
            continue
        if fields[-1] == "":
            fields.pop()
        reader.line = number
        if _HEADER.fullmatch(fields[0]):
            if reader.open:
                yield reader.close()
            reader.header(fields)
        else:
            reader.row(fields)
    if reader.open:
        yield reader.close()


class _Reader:
    """One storm as it is read."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.line = 0
        self.open = False
        self.identity, self.name, self.rows, self.began = "", "", 0, 0
        self.fields = 0
        self._empty()

    def _empty(self) -> None:
        self.minutes: list[int] = []
        self.record: list[str] = []
        self.status: list[str] = []
        self.place: list[tuple[float, float]] = []
        self.numbers: list[list[int]] = []

    def refuse(self, field: str, value: object, remedy: str) -> NoReturn:
        raise InputError(f"{self.what}, line {self.line}: {field} is {value!r}; {remedy}.")

    def header(self, fields: Sequence[str]) -> None:
        if len(fields) != 3:
            self.refuse("header", ", ".join(fields), "it must hold identity, name and number of rows")
        if len(fields[1]) > LONGEST_NAME:
            self.refuse("name", fields[1], f"it must have at most {LONGEST_NAME} letters")
        self.open, self.began, self.fields = True, self.line, 0
        self.identity, self.name = fields[0], fields[1]
        if not fields[2].isdigit() or int(fields[2]) == 0:
            self.refuse("number of rows", fields[2], "it must be a whole number above 0")
        self.rows = int(fields[2])
        self._empty()

    def close(self) -> Track:
        if len(self.minutes) != self.rows:
            self.line = self.began
            self.refuse(
                "number of rows", self.rows, f"{self.identity} has {len(self.minutes)}; the file is cut or joined"
            )
        self.open = False
        numbers = np.array(self.numbers, np.int16)
        place = np.array(self.place)
        return Track(
            identity=self.identity,
            name=self.name,
            fields=self.fields,
            minutes=np.array(self.minutes, np.int64),
            record=tuple(self.record),
            status=tuple(self.status),
            latitude=place[:, 0],
            longitude=place[:, 1],
            wind=numbers[:, 0],
            pressure=numbers[:, 1],
            radii=numbers[:, 2:14],
            rmw=numbers[:, 14],
        )

    def row(self, fields: Sequence[str]) -> None:
        if not self.open:
            self.refuse("first field", fields[0], "a header such as AL012005 must come first; this is no HURDAT2 text")
        if len(fields) not in (20, 21):
            self.refuse("number of fields", len(fields), "a row has 20, or 21 with the radius of maximum wind")
        if self.fields not in (0, len(fields)):
            self.refuse("number of fields", len(fields), f"rows of {self.identity} began with {self.fields}")
        self.fields = len(fields)
        minute = self._minute(fields[0], fields[1])
        record, status = fields[2], fields[3]
        if record not in ("", *IDENTIFIERS):
            self.refuse("record identifier", record, f"it must be blank or one of {', '.join(IDENTIFIERS)}")
        if status not in STATUSES:
            self.refuse("status", status, f"it must be one of {', '.join(STATUSES)}")
        if self.minutes and minute < self.minutes[-1]:
            self.refuse("time", f"{fields[0]} {fields[1]}", "it lies before the row above; sort the rows of the storm")
        if self.minutes and minute == self.minutes[-1] and record == self.record[-1]:
            self.refuse("time", f"{fields[0]} {fields[1]}", "the row above has the same; take one out")
        self.minutes.append(minute)
        self.record.append(record)
        self.status.append(status)
        latitude = self._degrees("latitude", fields[4], "NS", 90.0)
        self.place.append((latitude, self._degrees("longitude", fields[5], "EW", 360.0)))
        numbers = [self._number("wind", fields[6], 0), self._number("pressure", fields[7], 800)]
        numbers += [self._number(name, field, 0) for name, field in zip(_RADII, fields[8:20], strict=True)]
        numbers.append(self._number("radius of maximum wind", fields[20], 0) if len(fields) == 21 else MISSING)
        self.numbers.append(numbers)

    def _minute(self, day: str, clock: str) -> int:
        """Minutes since 1970-01-01; midnight is 0000, never 2400."""
        if not re.fullmatch(r"\d{8}", day):
            self.refuse("date", day, "it must be written YYYYMMDD")
        if not re.fullmatch(r"([01]\d|2[0-3])[0-5]\d", clock):
            self.refuse("time", clock, "it must be HHMM from 0000 to 2359; midnight is 0000 of the next day")
        try:
            ordinal = date(int(day[:4]), int(day[4:6]), int(day[6:])).toordinal()
        except ValueError:
            self.refuse("date", day, "there is no such day")
        return (ordinal - EPOCH) * 1440 + int(clock[:2]) * 60 + int(clock[2:])

    def _degrees(self, name: str, text: str, letters: str, largest: float) -> float:
        found = _PLACE.fullmatch(text)
        if found is None or found[2] not in letters:
            self.refuse(name, text, f"it must be degrees and a letter of {letters}, such as 28.0{letters[0]}")
        value = float(found[1])
        if value > largest:
            self.refuse(name, text, f"it must be at most {largest:g}")
        return -value if found[2] in "SW" else value

    def _number(self, name: str, text: str, least: int) -> int:
        try:
            value = int(text)
        except ValueError:
            self.refuse(name, text, "it must be a whole number, -999 where not known")
        if value in (MISSING, OLD_MISSING):
            return MISSING
        if not least <= value <= _LARGEST.get(name, 2000):
            self.refuse(name, text, f"it must lie between {least} and {_LARGEST.get(name, 2000)}, or be -999")
        return value


def written(tracks: Iterable[Track]) -> Iterator[str]:
    """The text of storms, piece by piece; what `read` took from a file of 125 columns comes out byte for byte.

    A missing wind is written -99, as the field has three columns.
    """
    for track in tracks:
        yield f"{track.identity}, {track.name:>18}, {len(track.minutes):>6},\n"
        for row in range(len(track.minutes)):
            day, minute = divmod(int(track.minutes[row]), 1440)
            when = date.fromordinal(day + EPOCH).strftime("%Y%m%d")
            place = f"{_written(track.latitude[row], 'NS'):>5}, {_written(track.longitude[row], 'EW'):>6}"
            wind = int(track.wind[row])
            wind = OLD_MISSING if wind == MISSING else wind
            numbers = [int(track.pressure[row]), *map(int, track.radii[row])]
            tail = "".join(f", {number:>4}" for number in numbers)
            tail += f", {int(track.rmw[row]):>4}" if track.fields == 21 else ","
            head = f"{when}, {minute // 60:02d}{minute % 60:02d}, {track.record[row]:>1}, {track.status[row]}"
            yield f"{head}, {place}, {wind:>3}{tail}\n"


def _written(degrees: float, letters: str) -> str:
    """Degrees to a tenth with their letter; minus zero has the second one."""
    return f"{abs(degrees):.1f}{letters[int(np.signbit(degrees))]}"
