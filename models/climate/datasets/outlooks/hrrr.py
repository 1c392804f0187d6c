"""Names of the model's files: what to ask the archive for, and which day a file is of."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from models.common.errors import InputError

_NAME = re.compile(r"hrrr\.(\d{8})\.t(\d\d)z\.wrf(prs|nat|sfc|subh)f(\d\d)\.grib2")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One file of the archive.

    Attributes:
        moment: of the run, UTC.
        place: the object's name: "hrrr.20180101/conus/hrrr.t01z.wrfnatf00.grib2".
        name: under which it is kept: "hrrr.20180101.t01z.wrfnatf00.grib2".
    """

    moment: datetime
    place: str
    name: str


def requests(
    first: date, last: date, *, hour: int, every: int = 24, kind: str = "nat", lead: int = 0, end_exclusive: bool
) -> Iterator[Request]:
    """Files of a range of days.

    Args:
        first, last: days.
        hour: of the first run, UTC; the range ends at this hour of the last day.
        every: hours between runs.
        kind: "prs", "nat" or "sfc".
        lead: forecast hour; 0 is the analysis.
        end_exclusive: leave out the run at the very end of the range, as published.

    Yields:
        Requests in order of time.

    Source:
        forecast-report-generation/download_hrrr.py lines 49-63.
    """
    moment, end = (datetime(day.year, day.month, day.day, hour) for day in (first, last))
    while moment < end or (moment == end and not end_exclusive):
        file = f"hrrr.t{moment:%H}z.wrf{kind}f{lead:02d}.grib2"
        name = f"hrrr.{moment:%Y%m%d}.t{moment:%H}z.wrf{kind}f{lead:02d}.grib2"
        yield Request(moment=moment, place=f"hrrr.{moment:%Y%m%d}/conus/{file}", name=name)
        moment += timedelta(hours=every)


def moment_of(name: str) -> datetime:
    """When the run of a file began, by its name.

    Raises:
        InputError: it is not called like a file of the model.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name} is not called like an HRRR file; call it as hrrr.20180101.t01z.wrfnatf00.grib2 is.")
    try:
        day = date(int(found[1][:4]), int(found[1][4:6]), int(found[1][6:]))
        return datetime(day.year, day.month, day.day, int(found[2]))
    except ValueError as error:
        raise InputError(f"{name} names no day and hour ({error}); correct the name.") from error
