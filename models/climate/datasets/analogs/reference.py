"""Days of the region once more, by slow code that shares nothing with the recipe, and what must hold of the whole."""

import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Claim
from models.common.errors import InputError
from models.common.parts import Part

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.analogs.config import AnalogsConfig

Array = NDArray[Any]

TOLERANCES: Mapping[str, float] = {"SLP": 3e-7, "T2M": 3e-7, "lat_given": 1e-7, "lon_given": 1e-7}
"""Relative distance that a variable may have from its reference, for units that are converted and for GRIB, whose
coordinates are whole numbers of a millionth of a degree; others must be equal."""

_NAMES = {"SLP": ("SLP", "msl", "slp", "prmsl"), "T2M": ("T2M", "t2m", "2t")}
_FACTORS = {"Pa": 1.0, "hPa": 100.0, "mb": 100.0, "K": 1.0}
_UNITS = {"minutes": 60, "hours": 3600, "seconds": 1, "days": 86400}


def reference(config: "AnalogsConfig", part: Part, files: Mapping[str, tuple[Path, ...]]) -> Mapping[str, "xr.Dataset"]:
    """One month, point by point.

    Args:
        config: the settings.
        part: which month.
        files: not needed, the part names its own.

    Returns:
        The root group.

    Raises:
        InputError: the pressure or temperature of a file goes by a name that is not known here.

    Source:
        Ours, on netCDF4 and eccodes.
    """
    import xarray as xr

    del files
    days = []
    for number, text in enumerate(part.about["days"]):
        day = date.fromisoformat(text)
        if part.files:
            days.append(_day(config, Path(part.files[part.about["file"][number]]), day, part.about))
        else:
            days.append(_generated(config, day))
    columns: dict[str, Any] = {}
    for name, dims in (
        ("time", ("time",)),
        ("SLP", ("time", "lat", "lon")),
        ("T2M", ("time", "lat", "lon")),
        ("lat_given", ("time", "lat")),
        ("lon_given", ("time", "lon")),
    ):
        columns[name] = (dims, np.array([one[name] for one in days], _DTYPES[name]))
    columns["granule"] = (("time",), np.array([one["granule"] for one in days], object))
    return {"": xr.Dataset(columns)}


_DTYPES = {"time": "i4", "SLP": "f4", "T2M": "f4", "lat_given": "f8", "lon_given": "f8"}


def _day(config: "AnalogsConfig", path: Path, day: date, about: Mapping[str, Any]) -> dict[str, Any]:
    """One day of one file."""
    with path.open("rb") as stream:
        if b"GRIB" in stream.read(4096):
            return _messages(config, path, day, about)
    import netCDF4

    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        latitude = [float(one) for one in file[_one(file, ("lat", "latitude"), path)][:]]
        longitude = [float(one) for one in file[_one(file, ("lon", "longitude"), path)][:]]
        when, at = _time(file, config, day, path)
        published, exactly = config.compat == "published", config.repeats("longitude_residue")
        at = 0 if published else at
        when = _times(file)[0] if published else when
        rows = _places(latitude, about["latitude"], (config.south, config.north), exactly)
        columns = _places(longitude, about["longitude"], (config.west, config.east), exactly)
        out: dict[str, Any] = {
            "time": round((when - datetime(1970, 1, 1)).total_seconds() / 60),
            "lat_given": [latitude[row] if row >= 0 else np.nan for row in rows],
            "lon_given": [longitude[column] if column >= 0 else np.nan for column in columns],
            "granule": json.dumps({key: _plain(file.getncattr(key)) for key in file.ncattrs()}, sort_keys=True),
        }
        for name, names in _NAMES.items():
            variable = file[_one(file, names, path)]
            factor = _FACTORS[variable.units]
            marks = [
                float(variable.getncattr(key)) for key in ("_FillValue", "missing_value") if key in variable.ncattrs()
            ]
            values = np.full((len(rows), len(columns)), np.nan)
            for i, row in enumerate(rows):
                if row < 0:
                    continue
                line = variable[at, row, :]
                for j, column in enumerate(columns):
                    if column >= 0 and float(line[column]) not in marks:
                        values[i, j] = float(line[column]) * factor
            out[name] = values
    return out


def _messages(config: "AnalogsConfig", path: Path, day: date, about: Mapping[str, Any]) -> dict[str, Any]:
    """One day of a GRIB file, message by message."""
    import eccodes

    wanted = datetime(day.year, day.month, day.day, config.hour)
    out: dict[str, Any] = {"granule": json.dumps({})}
    exactly = config.repeats("longitude_residue")
    with path.open("rb") as stream:
        while (handle := eccodes.codes_grib_new_from_file(stream)) is not None:
            try:
                short = eccodes.codes_get(handle, "shortName")
                name = next((ours for ours, theirs in _NAMES.items() if short in theirs), None)
                clock = f"{eccodes.codes_get(handle, 'validityDate')}{eccodes.codes_get(handle, 'validityTime'):04d}"
                moment = datetime.strptime(clock, "%Y%m%d%H%M")
                if name is None or name in out or (moment != wanted and config.compat != "published"):
                    continue
                table = eccodes.codes_get_values(handle)
                latitudes, longitudes = (eccodes.codes_get_array(handle, key) for key in ("latitudes", "longitudes"))
                latitude, longitude = sorted(set(latitudes.tolist())), sorted(set(longitudes.tolist()))
                cells = dict(
                    zip(zip(latitudes.tolist(), longitudes.tolist(), strict=True), table.tolist(), strict=True)
                )
                absent = (
                    eccodes.codes_get(handle, "missingValue") if eccodes.codes_get(handle, "bitmapPresent") else None
                )
            finally:
                eccodes.codes_release(handle)
            rows = _places(latitude, about["latitude"], (config.south, config.north), exactly)
            columns = _places(longitude, about["longitude"], (config.west, config.east), exactly)
            out["time"] = round((moment - datetime(1970, 1, 1)).total_seconds() / 60)
            out["lat_given"] = [latitude[row] if row >= 0 else np.nan for row in rows]
            out["lon_given"] = [longitude[column] if column >= 0 else np.nan for column in columns]
            out[name] = [
                [
                    np.nan if row < 0 or column < 0 or cells[latitude[row], longitude[column]] == absent
                    else cells[latitude[row], longitude[column]]
                    for column in columns
                ]
                for row in rows
            ]  # fmt: skip
    if missing := [name for name in _NAMES if name not in out]:
        raise InputError(f"{path} cannot be made again by the reference: {wanted} has no {missing[0]}.")
    return out


def _one(file: Any, names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in file.variables:
            return name
    raise InputError(f"{path} cannot be made again by the reference: none of {', '.join(names)} is in it.")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _times(file: Any) -> list[datetime]:
    unit, _, since = file["time"].units.partition(" since ")
    begin = datetime.fromisoformat(since.strip())
    return [begin + timedelta(seconds=float(one) * _UNITS[unit]) for one in file["time"][:]]


def _time(file: Any, config: "AnalogsConfig", day: date, path: Path) -> tuple[datetime, int]:
    wanted = datetime(day.year, day.month, day.day, config.hour)
    times = _times(file)
    if wanted in times:
        return wanted, times.index(wanted)
    if config.compat == "published":
        return times[0], 0
    raise InputError(f"{path} has no time {wanted}; give the file of the day.")


def _places(given: list[float], axis: list[float], ends: tuple[float, float], exactly: bool) -> list[int]:
    """For every coordinate of the region its position in the file, -1 where the cut leaves it out."""
    out = []
    for wanted in axis:
        gaps = [min(abs(one - wanted + turn) for turn in (-360.0, 0.0, 360.0)) for one in given]
        place = gaps.index(min(gaps))
        inside = ends[0] <= given[place] <= ends[1]
        out.append(place if min(gaps) < 1e-3 and (inside or not exactly) else -1)
    return out


def _generated(config: "AnalogsConfig", day: date) -> dict[str, Any]:
    """One day of the generated world."""
    from models.climate.generator import surface as world

    made = world.surface_of(
        world.SurfaceConfig(rows=config.rows, columns=config.columns, types=config.types, seed=config.seed),
        day,
        config.hour,
    )
    latitude, longitude = np.asarray(made.latitude, float), np.asarray(made.longitude, float)
    rows = sorted(
        (i for i in range(len(latitude)) if config.south <= latitude[i] <= config.north), key=lambda i: latitude[i]
    )
    turned = [(one - config.west) % 360.0 for one in longitude]
    columns = sorted(
        (j for j in range(len(longitude)) if turned[j] <= (config.east - config.west) % 360.0), key=lambda j: turned[j]
    )
    moment = datetime(day.year, day.month, day.day, config.hour)
    return {
        "time": round((moment - datetime(1970, 1, 1)).total_seconds() / 60),
        "lat_given": [float(np.round(latitude[row], 6)) for row in rows],
        "lon_given": [float(np.round(config.west + turned[column], 6)) for column in columns],
        "granule": json.dumps({"Title": "Generated weather, no measurements."}),
        **{name: [[getattr(made, name)[row][column] for column in columns] for row in rows] for name in _NAMES},
    }


def checks(groups: Mapping[str, "xr.Dataset"]) -> tuple[Claim, ...]:
    """What must hold of the stored whole, whatever it was made from.

    Args:
        groups: the root group, undecoded.

    Returns:
        Claims on days, coordinates, ranges, units, and on fields that stand where others should.

    Source:
        Ours. Bounds: sea-level pressure has never been measured outside 870 to 1085 hPa, nor temperature outside 183 to
        330 K.
    """
    stored = groups[""]
    minutes = _minutes(stored["time"].values)
    pressure, warmth = (np.asarray(stored[name].values, np.float64) for name in ("SLP", "T2M"))
    latitude, longitude = (np.asarray(stored[name].values, np.float64) for name in ("lat", "lon"))
    claims = [
        _none("days_not_after_the_one_before", int((np.diff(minutes) <= 0).sum()), "days must follow one another"),
        _none("days_at_another_hour", int((minutes % 1440 != minutes[0] % 1440).sum()), "one hour a day"),
        _none("rows_not_northward", int((np.diff(latitude) <= 0).sum()), "the first row is the southernmost"),
        _none("columns_not_eastward", int((np.diff(longitude) <= 0).sum()), "the first column is the westernmost"),
        _none("uneven_steps", _unevenness(latitude) + _unevenness(longitude), "degrees off an even step", 1e-4),
        _none("coordinates_unlike_the_files", _off(stored, latitude, longitude), "in degrees", 1e-3),
        _none("pressures_outside", _outside(pressure, 87_000, 108_500), "870 to 1085 hPa, in Pa; a fill lies outside"),
        _none("temperatures_outside", _outside(warmth, 183, 330), "183 to 330 K"),
        _none("points_missing_for_one_alone", int((np.isnan(pressure) != np.isnan(warmth)).sum()), "both or none"),
        _none("days_equal_to_another", _repeated(pressure) + _repeated(warmth), "a day taken twice under two dates"),
    ]
    return (*claims, *_weather(pressure, warmth, minutes, latitude))


def _weather(pressure: Array, warmth: Array, minutes: Array, latitude: Array) -> list[Claim]:
    """Claims that need many days."""
    claims = []
    spread = float(np.nanmean(np.nanstd(pressure, axis=(1, 2)))) if pressure.size else 0.0
    claims.append(
        Claim(
            name="pressure_spread_Pa", kind="bounded", value=spread, limit=20_000.0,
            detail="Mean over days of the deviation within the region; larger says that other data stand there.",
        )
    )  # fmt: skip
    follows = np.diff(minutes) == 1440
    if follows.sum() >= 20 and len(latitude) > 1:
        mean = np.nanmean(pressure, axis=(1, 2))
        step, apart = np.diff(mean)[follows], mean - mean.mean()
        # two independent days differ by twice the variance; weather remembers
        ratio = float((step**2).mean() / (2 * (apart**2).mean())) if (apart**2).mean() > 0 else 0.0
        claims.append(
            Claim(
                name="change_from_day_to_day", kind="statistical", value=ratio, limit=0.8,
                detail="Mean square change of the region's pressure over twice its variance; 1 for days in no order.",
            )
        )  # fmt: skip
        gradient = float(np.nanmean(warmth[:, 0, :]) - np.nanmean(warmth[:, -1, :]))
        northern = latitude.mean() >= 0
        claims.append(
            Claim(
                name="poleward_cooling_K", kind="statistical", value=gradient if northern else -gradient, limit=0.0,
                sense="at least", detail="Mean temperature of the row nearer the equator less that of the other.",
            )
        )  # fmt: skip
    return claims


def _none(name: str, found: float, detail: str, limit: float = 0.0) -> Claim:
    return Claim(name=name, kind="exact", value=float(found), limit=limit, sense="at most", detail=detail + ".")


def _minutes(values: Array) -> NDArray[np.int64]:
    values = np.asarray(values)
    return values.astype("datetime64[m]").astype(np.int64) if values.dtype.kind == "M" else values.astype(np.int64)


def _outside(values: Array, low: float, high: float) -> int:
    return int(((values < low) | (values > high)).sum())


def _unevenness(axis: Array) -> float:
    steps = np.diff(axis)
    return float(np.ptp(steps)) if len(steps) else 0.0


def _off(stored: "xr.Dataset", latitude: Array, longitude: Array) -> float:
    """Largest distance between the region's coordinates and those of the files."""
    worst = 0.0
    for given, axis in (("lat_given", latitude), ("lon_given", longitude)):
        gap = np.abs((np.asarray(stored[given].values) - axis + 180.0) % 360.0 - 180.0)
        worst = max(worst, float(np.nanmax(gap, initial=0.0)))
    return worst


def _repeated(values: Array) -> int:
    """How many days are equal to an earlier one."""
    return len(values) - len({np.ascontiguousarray(one).tobytes() for one in values})
