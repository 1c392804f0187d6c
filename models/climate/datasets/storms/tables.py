"""Storms as arrays, and as the tables that the published plots are drawn from.

The published scripts read HURDAT2 through tropycal 0.6.1; its rules are kept, so that the tables are equal: types TY
and ST are called HU, energy is summed record by record, an observation off the hours 00, 06, 12 and 18 UTC is extra.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets.storms.hurdat2 import MISSING, Track

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

EDGES = (32, 64, 83, 96, 113, 137)
"""Lower edges in kt of tropical storms and of the five categories; hurricane/codes/hurricane_track.py."""

CATEGORIES = ("depression", "storm", "one", "two", "three", "four", "five")

BASINS = {"AL": "north_atlantic", "EP": "east_pacific", "CP": "east_pacific"}

STORMS_AT_ONCE = 500

# Sea and land as far as a storm from the Pacific must come to be in the Atlantic: its coast from Colombia to Texas,
# (latitude, longitude) read from a map to a tenth of a degree, then along 35.8 N to the open sea. Ours.
_ATLANTIC = np.array(
    [
        (8.6, -77.2), (9.6, -79.6), (8.9, -81.7), (10.1, -83.2), (11.2, -83.8), (14.3, -83.2), (15.2, -83.4),
        (15.9, -85.0), (15.7, -87.5), (15.8, -88.8), (16.9, -88.2), (19.1, -87.6), (20.8, -86.9), (21.5, -87.0),
        (21.6, -88.1), (21.0, -90.3), (19.7, -90.7), (18.8, -91.6), (18.5, -92.8), (18.15, -94.5), (18.5, -94.8),
        (18.7, -95.7), (19.8, -96.5), (22.1, -97.8), (25.2, -97.7), (27.7, -97.2), (29.2, -95.0), (35.8, -95.0),
        (35.8, 0.0), (0.0, 0.0), (0.0, -77.2),
    ]
)  # fmt: skip


def arrays(tracks: Iterable[Track], *, left_out: tuple[int, int]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Variables of the groups `storms` and `records`.

    Args:
        tracks: the storms, in order.
        left_out: how many records at the beginning and at the end of a storm are not in its intensity series.

    Returns:
        Two mappings of name to values: storms (n) and records (N, in the order of the storms).
    """
    all_tracks = list(tracks)
    counts = np.array([len(track.minutes) for track in all_tracks], np.int32)

    def joined(name: str, dtype: str, *shape: int) -> Array:
        parts = [np.asarray(getattr(track, name)) for track in all_tracks]
        return np.concatenate(parts).astype(dtype) if parts else np.zeros((0, *shape), dtype)

    storms: dict[str, Array] = {
        "storm_id": np.array([track.identity for track in all_tracks], "S8"),
        "name": np.array([track.name for track in all_tracks], "S20"),
        "basin": np.array([track.identity[:2] for track in all_tracks], "S2"),
        "season": np.array([track.season for track in all_tracks], np.int16),
        "row_size": counts,
        "fields": np.array([track.fields for track in all_tracks], np.int8),
        "ace": np.array([energy(track) for track in all_tracks], np.float64),
    }
    wind, given = joined("wind", "int16"), joined("longitude", "float64")
    records: dict[str, Array] = {
        "time": joined("minutes", "int32"),
        "record_identifier": joined("record", "S1"),
        "status": joined("status", "S2"),
        "lat": joined("latitude", "float64"),
        "lon": wrapped(given),
        "lon_given": given,
        "wind": wind,
        "pressure": joined("pressure", "int16"),
        "radius": joined("radii", "int16", 12).reshape(-1, 3, 4),
        "rmw": joined("rmw", "int16"),
        "category": category(wind),
        "in_series": np.concatenate([_in_series(int(count), left_out) for count in counts] or [np.zeros(0, np.int8)]),
    }
    return storms, records


def _in_series(count: int, left_out: tuple[int, int]) -> NDArray[np.int8]:
    """1 for the records of an intensity series."""
    chosen = np.zeros(count, np.int8)
    chosen[left_out[0] : max(left_out[0], count - left_out[1])] = 1
    return chosen


def wrapped(longitude: Array) -> Array:
    """Longitudes in [-180, 180); those that lie there are left as they are."""
    outside = (longitude < -180.0) | (longitude >= 180.0)
    return np.where(outside, np.round((longitude + 180.0) % 360.0 - 180.0, 4), longitude)


def category(wind: Array) -> NDArray[np.int8]:
    """0 for a depression, 1 for a storm, 2 to 6 for hurricanes of category one to five; -1 where not known."""
    found = np.digitize(wind, EDGES).astype(np.int8)
    return np.where(wind == MISSING, np.int8(-1), found)


def energy(track: Track) -> float:
    """Accumulated cyclone energy, 10^-4 kt^2: squares of winds of storms and hurricanes at the four main hours.

    Summed record by record, each to four decimals, so that the last digit is tropycal 0.6.1's.
    """
    total = 0.0
    for minute, status, wind in zip(track.minutes, track.status, track.wind, strict=True):
        if minute % 360 == 0 and _called(status) in ("SS", "TS", "HU") and wind != MISSING:
            total += float(np.round(10**-4 * int(wind) ** 2, 4))
    return total


def _called(status: str) -> str:
    return "HU" if status in ("TY", "ST") else status


def wmo_basin(track: Track) -> tuple[str, ...]:
    """In which basin each record lies, by tropycal's names; over land a storm is in the basin that it came from."""
    start = BASINS.get(track.identity[:2], "")
    return tuple(
        _basin(float(latitude), float(longitude) % 360.0, start)
        for latitude, longitude in zip(track.latitude, track.longitude, strict=True)
    )


def _basin(latitude: float, east: float, start: str) -> str:
    """One record's basin; `east` is 0 to 360."""
    if latitude < 0.0:
        southern = ((20.0, "south_atlantic"), (90.0, "south_indian"), (160.0, "australia"), (280.0, "south_pacific"))
        return next((name for edge, name in southern if east < edge), "south_atlantic")
    if east < 100.0:
        if latitude < 40.0:
            return "north_atlantic" if start == "north_atlantic" else "north_indian"
        return "north_atlantic" if east < 70.0 else "west_pacific"
    if east <= 180.0:
        return "west_pacific"
    if start == "east_pacific" and _inside(latitude, east - 360.0):
        return "north_atlantic"
    return start or "west_pacific"


def _inside(latitude: float, longitude: float) -> bool:
    """Whether a place lies in the Atlantic, by the rule of crossings."""
    y, x = _ATLANTIC[:, 0], _ATLANTIC[:, 1]
    y2, x2 = np.roll(y, -1), np.roll(x, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = (y > latitude) != (y2 > latitude)
        at = x + (latitude - y) * (x2 - x) / (y2 - y)
    return bool(np.count_nonzero(crossing & (longitude < at)) % 2)


def tracks_of(storms: "xr.Dataset", records: "xr.Dataset") -> Iterator[Track]:
    """Storms as they were read, from the stored groups, some hundreds at once."""
    ends = np.cumsum(storms["row_size"].values.astype(np.int64))
    for first in range(0, len(ends), STORMS_AT_ONCE):
        some = storms.isel(storm=slice(first, first + STORMS_AT_ONCE)).load()
        start = int(ends[first - 1]) if first else 0
        rows = records.isel(record=slice(start, int(ends[min(first + STORMS_AT_ONCE, len(ends)) - 1]))).load()
        columns = {str(name): variable.values for name, variable in rows.variables.items()}
        at = 0
        for one in range(some.sizes["storm"]):
            count = int(some["row_size"].values[one])
            yield _track({name: some[name].values[one] for name in ("storm_id", "name", "fields")}, columns, at, count)
            at += count


def _track(head: Mapping[str, Any], columns: Mapping[str, Array], at: int, count: int) -> Track:
    """One storm of the stored groups."""
    rows = slice(at, at + count)
    return Track(
        identity=_text(head["storm_id"]),
        name=_text(head["name"]),
        fields=int(head["fields"]),
        minutes=columns["time"][rows].astype(np.int64),
        record=tuple(map(_text, columns["record_identifier"][rows])),
        status=tuple(map(_text, columns["status"][rows])),
        latitude=columns["lat"][rows],
        longitude=columns["lon_given"][rows],
        wind=columns["wind"][rows],
        pressure=columns["pressure"][rows],
        radii=columns["radius"][rows].reshape(count, 12),
        rmw=columns["rmw"][rows],
    )


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _line(values: Sequence[object]) -> str:
    """One line of a CSV; None is an empty cell."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def _when(minute: int) -> str:
    return datetime.fromtimestamp(int(minute) * 60, UTC).strftime("%Y-%m-%dT%H:%M")


def _known(value: Any, kind: type) -> object:
    return None if value == MISSING else kind(value)


def records_table(tracks: Iterable[Track]) -> Iterator[str]:
    """Every record, with the columns of the published track data set."""
    yield "id,name,year,season,index,date,extra_obs,special,type,lat,lon,vmax,mslp,wmo_basin\n"
    for track in tracks:
        head = (track.identity, track.name, track.season, track.season)
        for row, basin in enumerate(wmo_basin(track)):
            minute = int(track.minutes[row])
            place = (repr(float(track.latitude[row])), repr(float(track.longitude[row])))
            strength = (_known(track.wind[row], int), _known(track.pressure[row], float))
            kind = (track.record[row], _called(track.status[row]))
            yield _line((*head, row, _when(minute), int(minute % 360 != 0), *kind, *place, *strength, basin))


def storms_table(tracks: Iterable[Track]) -> Iterator[str]:
    """Every storm, with the columns of the published track data set."""
    yield "id,name,year,season,basin,records,ace\n"
    for track in tracks:
        basin = BASINS.get(track.identity[:2], track.identity[:2])
        numbers = (len(track.minutes), repr(energy(track)))
        yield _line((track.identity, track.name, track.season, track.season, basin, *numbers))


def series_table(tracks: Iterable[Track], *, left_out: tuple[int, int]) -> Iterator[str]:
    """Winds and pressures of every storm as the published figures of intensity show them."""
    yield "name,year,start,skip,date,vmax,mslp\n"
    for track in tracks:
        for row in np.flatnonzero(_in_series(len(track.minutes), left_out)):
            strength = (_known(track.wind[row], int), _known(track.pressure[row], float))
            yield _line((track.name.lower(), track.season, *left_out, _when(track.minutes[row]), *strength))
