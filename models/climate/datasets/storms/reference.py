"""Storms once more, by slow code that shares nothing with the recipe, and what must hold of the stored whole."""

import gzip
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Claim
from models.common.parts import Part

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.storms.config import StormsConfig

Array = NDArray[Any]

TOLERANCES: Mapping[str, float] = {"storms/ace": 1e-12}
"""Relative distance that a variable may have from its reference; those that are not named must be equal."""

FASTEST_KM_H = 250.0
"""No centre moves faster; the fastest of the Northeast Pacific 1949-2022 makes 151 km/h."""

EARTH_KM = 6371.0

_BEGIN = datetime(1970, 1, 1)


def reference(config: "StormsConfig", part: Part, files: Mapping[str, tuple[Path, ...]]) -> Mapping[str, "xr.Dataset"]:
    """One part, read again line by line in plain Python.

    Args:
        config: the settings.
        part: which part.
        files: the raw files, as the survey was given them; those of the part are taken.

    Returns:
        The groups `storms` and `records`.

    Source:
        Ours, after the format's description.
    """
    import xarray as xr

    del files  # the part names its own
    storms, rows = [], []
    for head, body in _blocks(_text(config, part)):
        began = _time(body[0])
        early = config.first is not None and began.date() < config.first
        late = config.last is not None and began.date() > config.last
        if early or late:
            continue
        storms.append(_storm(head, body))
        tail = 10 if config.repeats("last_ten_records") else 0
        for index, cells in enumerate(body):
            shown = config.series_start <= index < len(body) - tail
            rows.append((*_row(cells), int(shown)))
    kinds = {
        "storms": (
            ("storm_id", "S8"), ("name", "S20"), ("basin", "S2"), ("season", "i2"), ("row_size", "i4"),
            ("fields", "i1"), ("ace", "f8"),
        ),
        "records": (
            ("time", "i4"), ("record_identifier", "S1"), ("status", "S2"), ("lat", "f8"), ("lon", "f8"),
            ("lon_given", "f8"), ("wind", "i2"), ("pressure", "i2"), ("radius", "i2"), ("rmw", "i2"),
            ("category", "i1"), ("in_series", "i1"),
        ),
    }  # fmt: skip
    out = {}
    for group, listed in (("storms", storms), ("records", rows)):
        columns: dict[str, Any] = {}
        for place, (name, dtype) in enumerate(kinds[group]):
            values = np.array([one[place] for one in listed], dtype)
            dims: tuple[str, ...] = (group[:-1],)
            if name == "radius":
                values, dims = values.reshape(-1, 3, 4), ("record", "threshold", "quadrant")
            columns[name] = (dims, values)
        out[group] = xr.Dataset(columns)
    return out


def _text(config: "StormsConfig", part: Part) -> str:
    if not part.files:
        return config.generated(part.about["year"])
    content = Path(part.files[0]).read_bytes()
    return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("ascii")


def _blocks(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Headers with the rows that they announce."""
    lines = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    out, at = [], 0
    while at < len(lines):
        count = int(lines[at][2])
        out.append((lines[at], lines[at + 1 : at + 1 + count]))
        at += 1 + count
    return out


def _time(cells: list[str]) -> datetime:
    return datetime.strptime(cells[0] + cells[1], "%Y%m%d%H%M")


def _storm(head: list[str], body: list[list[str]]) -> tuple[Any, ...]:
    energy = 0.0
    for cells in body:
        wind, kind = int(cells[6]), {"TY": "HU", "ST": "HU"}.get(cells[3], cells[3])
        if cells[1] in ("0000", "0600", "1200", "1800") and kind in ("HU", "TS", "SS") and wind >= 0:
            energy += round(wind * wind * 0.0001, 4)
    fields = 21 if len(body[0]) > 20 and body[0][20] else 20
    return head[0], head[1], head[0][:2], int(head[0][4:]), len(body), fields, energy


def _row(cells: list[str]) -> tuple[Any, ...]:
    minute = round((_time(cells) - _BEGIN).total_seconds() / 60)
    latitude = float(cells[4][:-1]) * (-1 if cells[4].endswith("S") else 1)
    given = float(cells[5][:-1]) * (-1 if cells[5].endswith("W") else 1)
    turns = given
    while turns >= 180:
        turns -= 360
    while turns < -180:
        turns += 360
    numbers = [int(cell) for cell in cells[6:21] if cell] + [-999]
    wind, pressure, *radii = (-999 if number in (-99, -999) else number for number in numbers[:15])
    category = -1 if wind == -999 else sum(wind >= edge for edge in (32, 64, 83, 96, 113, 137))
    place = (latitude, round(turns, 4), given)
    return minute, cells[2], cells[3], *place, wind, pressure, radii[:12], radii[12], category


def checks(groups: Mapping[str, "xr.Dataset"]) -> tuple[Claim, ...]:
    """What must hold of the stored whole, whatever it was made from.

    Args:
        groups: `storms` and `records`, decoded or not.

    Returns:
        Claims on counts, identities, times, motion, units and derived values.

    Source:
        Ours. Speeds along great circles on a sphere of 6371 km.
    """
    storms, records = groups["storms"], groups["records"]
    identity = np.char.decode(np.asarray(storms["storm_id"].values, "S8"), "ascii")
    basin = np.char.decode(np.asarray(storms["basin"].values, "S2"), "ascii")
    count = np.asarray(storms["row_size"].values).astype(np.int64)
    season = np.asarray(storms["season"].values).astype(np.int64)
    minute = _minutes(records["time"].values)
    rows = len(minute)
    claims = [
        _none("records_counted", abs(int(count.sum()) - rows), f"{int(count.sum())} announced, {rows} stored"),
        _none("storms_named_twice", len(identity) - len(np.unique(identity)), "an edition or a part was taken twice"),
        _none("storms_without_records", int((count <= 0).sum()), f"of {len(count)} storms"),
        _none(
            "identities_misread",
            sum(not (len(one) == 8 and one[:2] == where and one[2:].isdigit() and int(one[4:]) == year)
                for one, where, year in zip(identity, basin, season, strict=True)),
            "an identity is basin, number and season",
        ),
    ]  # fmt: skip
    if int(count.sum()) != rows or not rows:
        return tuple(claims)
    owner = np.repeat(np.arange(len(count)), count)
    return (*claims, *_motion(records, minute, owner, season, basin), *_strength(storms, records, minute, owner, count))


def _none(name: str, found: float, detail: str, limit: float = 0.0) -> Claim:
    return Claim(name=name, kind="exact", value=float(found), limit=limit, sense="at most", detail=detail + ".")


def _minutes(values: Array) -> NDArray[np.int64]:
    """Minutes since 1970, from numbers or times."""
    values = np.asarray(values)
    if values.dtype.kind == "M":
        return values.astype("datetime64[m]").astype(np.int64)
    return values.astype(np.int64)


def _known(values: Array) -> Array:
    """Numbers with not-a-number where not known."""
    numbers = np.asarray(values).astype(np.float64)
    return np.where(numbers == -999, np.nan, numbers)


def _letters(values: Array, width: int) -> Array:
    return np.char.decode(np.asarray(values, f"S{width}"), "ascii")


def _motion(records: "xr.Dataset", minute: Array, owner: Array, season: Array, basin: Array) -> list[Claim]:
    """Claims on when and where."""
    latitude, longitude = _known(records["lat"].values), _known(records["lon"].values)
    given = _known(records["lon_given"].values)
    same = owner[1:] == owner[:-1]
    step = np.diff(minute)
    phi, lam = np.radians(latitude), np.radians(longitude)
    chord = np.sin(np.diff(phi) / 2) ** 2 + np.cos(phi[1:]) * np.cos(phi[:-1]) * np.sin(np.diff(lam) / 2) ** 2
    distance = 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(chord, 0, 1)))
    # places are rounded to a tenth of a degree, which two records a few minutes apart may show as a leap
    speed = (np.maximum(distance - 16.0, 0.0) / np.maximum(step / 60.0, 1 / 60))[same & (step > 0)]
    year = (minute.astype("datetime64[m]").astype("datetime64[Y]").astype(np.int64) + 1970) - season[owner]
    northern = np.isin(basin, ("AL", "EP", "CP", "WP", "IO"))[owner]
    pacific, atlantic = np.isin(basin, ("EP", "CP"))[owner], (basin == "AL")[owner]
    elsewhere = (pacific & (longitude > -70) & (longitude < 90)) | (atlantic & ((longitude < -140) | (longitude > 60)))
    south = ~(np.abs(latitude) <= 90) | (northern & (latitude < 0))
    turned = np.abs((given - longitude + 180.0) % 360.0 - 180.0)
    fastest = float(speed.max()) if speed.size else 0.0
    return [
        _none("times_going_back", int((step[same] < 0).sum()), "records of a storm must follow one another"),
        _none("records_outside_their_season", int((np.abs(year) > 1).sum()), "a storm begins in its season"),
        _none("latitudes_outside", int(south.sum()), "sign or unit"),
        _none("longitudes_outside", int((~((longitude >= -180) & (longitude < 180))).sum()), "-180 to 180"),
        _none("records_in_other_oceans", float(np.mean(elsewhere)), "share; a few storms cross over", 0.05),
        _none("longitudes_unlike_those_given", float(np.nan_to_num(turned, nan=360).max()), "in degrees", 1e-6),
        Claim(
            name="fastest_centre_km_h", kind="bounded", value=fastest, limit=FASTEST_KM_H,
            detail="Along great circles; more says that records are shuffled or places shifted.",
        ),
    ]  # fmt: skip


def _strength(storms: "xr.Dataset", records: "xr.Dataset", minute: Array, owner: Array, count: Array) -> list[Claim]:
    """Claims on winds, pressures, and what is derived from them."""
    wind, pressure = _known(records["wind"].values), _known(records["pressure"].values)
    status = _letters(records["status"].values, 2)
    radius = _known(records["radius"].values)
    category, shown = _known(records["category"].values), _known(records["in_series"].values)
    with np.errstate(invalid="ignore"):
        expected = sum((wind >= edge).astype(np.float64) for edge in (32, 64, 83, 96, 113, 137))
        expected = np.where(np.isnan(wind), -1.0, expected)
        both = ~np.isnan(wind) & ~np.isnan(pressure)
        unlike = np.zeros(len(wind), bool)
        for kinds, low, high in ((("HU", "TY", "ST"), 60, 999), (("TS", "SS"), 30, 85), (("TD", "SD"), 0, 40)):
            unlike |= np.isin(status, kinds) & ((wind < low) | (wind > high))
        shrinking = (radius[:, 0] < radius[:, 1]) | (radius[:, 1] < radius[:, 2])
        counted = (minute % 360 == 0) & np.isin(status, ("TS", "SS", "HU", "TY", "ST")) & ~np.isnan(wind)
        energy = np.bincount(owner, np.where(counted, wind, 0.0) ** 2 / 1e4, minlength=len(count))
        wrong_winds = int(((wind < 0) | (wind > 250)).sum())
        wrong_pressures = int(((pressure < 800) | (pressure > 1100)).sum())
    first = np.cumsum(count) - count
    index = np.arange(len(owner)) - first[owner]
    begin, end = _span(index, owner, shown, len(count))
    claims = [
        _none("winds_outside", wrong_winds, "0 to 250 kt; a fill read as a value lies outside"),
        _none("pressures_outside", wrong_pressures, "800 to 1100 hPa"),
        _none(
            "status_unlike_wind", float(np.mean(unlike)), "share of records whose status belongs to other winds", 0.01
        ),
        _none("categories_unlike_wind", int((category != expected).sum()), "by the edges of the published track plot"),
        _none(
            "radii_growing_with_wind", float(np.mean(shrinking)), "share; winds of 64 kt blow inside those of 34", 0.005
        ),
        _none("energy_off", float(np.abs(_known(storms["ace"].values) - energy).max()), "in 10^-4 kt^2", 1e-6),
        _none("series_with_gaps", int((begin != end).sum()), "storms whose series is not one run of records"),
    ]
    if both.sum() > 30:
        relation = float(np.corrcoef(wind[both], pressure[both])[0, 1])
        claims.append(
            Claim(
                name="wind_against_pressure", kind="statistical", value=relation, limit=-0.7,
                detail="Correlation; winds rise as pressure falls.",
            )
        )  # fmt: skip
    return claims


def _span(index: Array, owner: Array, shown: Array, storms: int) -> tuple[Array, Array]:
    """Per storm: how many records are shown, and how many lie between the first and the last of them."""
    chosen = shown == 1
    low = np.full(storms, np.iinfo(np.int64).max)
    high = np.full(storms, -1)
    np.minimum.at(low, owner[chosen], index[chosen])
    np.maximum.at(high, owner[chosen], index[chosen])
    number = np.bincount(owner[chosen], minlength=storms)
    return number, np.where(high >= 0, high - low + 1, 0)
