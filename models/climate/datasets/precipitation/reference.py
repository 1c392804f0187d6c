"""The precipitation dataset once more, by slow code that shares nothing with the recipe, and what must hold of it.

Files are read through the netCDF library and eccodes themselves, every target is looked for among all source rows and
columns, and the pixel of a swath among all pixels of its latitudes by the haversine.

Shapes: R x C of the area, I x J of a source.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Claim
from models.common.parts import Part

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.precipitation.config import PrecipitationConfig

Array = NDArray[Any]
Floats = NDArray[np.float64]

TOLERANCES: Mapping[str, float] = {"obs": 1e-6, "precipitation": 1e-6}
"""Interpolation weights are rounded in another order; relative to the largest value."""

EARTH_KM = 6370.997

_BANDS = {
    "gridsat": "vschn irwvp irwin_cdr",
    "patmosx": "refl_0_65um_nom refl_0_86um_nom refl_1_60um_nom refl_3_75um_nom temp_4_46um_nom temp_4_52um_nom "
    "temp_6_7um_nom temp_7_3um_nom temp_9_7um_nom temp_11_0um_nom temp_12_0um_nom temp_13_3um_nom temp_13_6um_nom "
    "temp_13_9um_nom temp_14_2um_nom temp_3_75um_nom_sounder temp_4_45um_nom_sounder temp_4_57um_nom_sounder "
    "temp_11_0um_nom_sounder temp_12_0um_nom_sounder temp_14_5um_nom_sounder temp_14_7um_nom_sounder "
    "temp_14_9um_nom_sounder",
}


def reference(
    config: "PrecipitationConfig", part: Part, files: Mapping[str, tuple[Path, ...]]
) -> Mapping[str, "xr.Dataset"]:
    """One part, made again.

    Args:
        config: the settings.
        part: which part.
        files: the raw files; the part names its own.

    Returns:
        Group to its variables, as the recipe gives them.

    Source:
        Ours.
    """
    import xarray as xr

    del files
    day = date.fromisoformat(part.about["day"])
    shift = 0.5 if config.compat == "published" or "shifted_area" in config.reproduce else 0.0
    copied = config.compat == "published" or "descending_copy" in config.reproduce
    lat = np.array([90 - 180 * (row + 0.5) / config.rows for row in range(config.rows)])
    lon = np.array([-180 + 360 * (column + shift) / config.columns for column in range(config.columns)])
    if config.source == "generated":
        made = _world(config, day, lat, lon, copied)
    else:
        paths = sorted(map(Path, part.files), key=lambda path: path.name)
        group = part.about["group"]
        made = {group: _MAKERS[group](config, part, paths, lat, lon)}
    inner = {"gridsat": "slot", "patmosx": "pass", "ssmi": "pass"}
    out: dict[str, xr.Dataset] = {}
    for group, values in made.items():
        single = values.astype(np.float32)
        if group == "stage4":
            out[group] = xr.Dataset({"precipitation": (("hour", "y", "x"), single)})
        elif group == "precipitation":
            out[group] = xr.Dataset({group: (("time", "latitude", "longitude"), single[None])})
        else:
            out[group] = xr.Dataset({"obs": (("time", inner[group], "channel", "latitude", "longitude"), single[None])})
    return out


# Reading.


def _raw(path: Path, name: str) -> tuple[Floats, dict[str, Any], tuple[str, ...]]:
    """A variable in double precision, decoded by hand, its attributes and dimensions."""
    import netCDF4

    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        variable = file[name]
        attrs = {key: variable.getncattr(key) for key in variable.ncattrs()}
        stored = np.asarray(variable[...])
        dims = tuple(variable.dimensions)
    values = stored.astype(np.float64) * float(attrs.get("scale_factor", 1)) + float(attrs.get("add_offset", 0))
    for key in ("_FillValue", "missing_value", "fill_value", "missing_data_value"):
        if key in attrs:
            values[stored == np.asarray(attrs[key]).astype(stored.dtype)] = np.nan
    return values, attrs, dims


def _names(path: Path) -> set[str]:
    import netCDF4

    with netCDF4.Dataset(path) as file:
        return set(file.variables)


def _map(path: Path, name: str) -> tuple[Floats, Floats, Floats]:
    """Latitudes from the south, longitudes from the west, and values (I, J) in this order."""
    values, _, dims = _raw(path, name)
    names = {one.lower()[:3]: one for one in dims}
    values = np.moveaxis(values, (dims.index(names["lat"]), dims.index(names["lon"])), (-2, -1)).reshape(
        values.shape[dims.index(names["lat"])], values.shape[dims.index(names["lon"])]
    )
    lat, lon = (_raw(path, names[key])[0] for key in ("lat", "lon"))
    rows, columns = np.argsort(lat), np.argsort(lon)
    return lat[rows], lon[columns], values[np.ix_(rows, columns)]


# Bringing fields onto the area.


def _brought(lat: Floats, lon: Floats, values: Floats, to_lat: Floats, to_lon: Floats, method: str) -> Floats:
    """A field of ascending rows and columns on the area's centres."""
    rows = [_pair(lat, one, method, 0.0) for one in to_lat]
    columns = [_pair(lon, one, method, 360.0) for one in to_lon]
    out = np.full((len(to_lat), len(to_lon)), np.nan)
    first = np.array([a for a, _, _ in columns])
    second = np.array([b for _, b, _ in columns])
    share = np.array([w for _, _, w in columns])
    for number, (a, b, w) in enumerate(rows):
        if a < 0:
            continue
        line = np.zeros(len(to_lon))
        for row, row_share in ((a, 1 - w), (b, w)):
            for column, column_share in ((first, 1 - share), (second, share)):
                weight = row_share * column_share
                line = line + np.where(weight > 0, weight * np.where(weight > 0, values[row, column], 0.0), 0.0)
        out[number] = np.where(first < 0, np.nan, line)
    return out


def _pair(source: Floats, target: float, method: str, circle: float) -> tuple[int, int, float]:
    """The two source positions around a target and the weight of the second; -1 where there is nothing."""
    step = float(np.median(np.diff(source)))
    away = source - target
    if circle:
        away = (away + circle / 2) % circle - circle / 2
    if method == "nearest":
        smallest = np.abs(away).min()
        if smallest > step * (0.5 + 2e-6):
            return -1, -1, 0.0
        tied = np.flatnonzero(np.abs(away) <= smallest + step * 2e-6)
        chosen = int(tied[np.argmin(away[tied])])  # the one to the south or west
        return chosen, chosen, 0.0
    exact = np.flatnonzero(np.abs(away) <= step * 1e-6)
    if len(exact):
        return int(exact[0]), int(exact[0]), 0.0
    below, above = np.flatnonzero(away < 0), np.flatnonzero(away > 0)
    if not len(below) or not len(above):
        return -1, -1, 0.0
    a, b = int(below[np.argmax(away[below])]), int(above[np.argmin(away[above])])
    if away[b] - away[a] > 1.5 * step and circle:
        return -1, -1, 0.0  # the gap of a grid that does not go around
    return a, b, float(-away[a] / (away[b] - away[a]))


def _over(below: Floats, above: Floats) -> Floats:
    return np.where(np.isnan(above), below, above)


def _gridsat(config: "PrecipitationConfig", part: Part, paths: list[Path], lat: Floats, lon: Floats) -> Floats:
    names = _BANDS["gridsat"].split()
    out = np.full((8, 3, len(lat), len(lon)), np.nan)
    for path in paths:
        slot = int(path.name.split(".")[4]) // 3
        for channel, name in enumerate(names):
            field = _brought(*_map(path, name), lat, lon, config.gridsat_method)
            out[slot, channel] = _over(out[slot, channel], field)
    return out


def _patmosx(config: "PrecipitationConfig", part: Part, paths: list[Path], lat: Floats, lon: Floats) -> Floats:
    names = _BANDS["patmosx"].split()
    out = np.full((2, 23, len(lat), len(lon)), np.nan)
    for path in paths:
        half = 0 if "_asc_" in path.name else 1
        for channel, name in enumerate(names):
            field = _brought(*_map(path, name), lat, lon, config.patmosx_method)
            out[half, channel] = _over(out[half, channel], field)
    return out


def _ssmi(config: "PrecipitationConfig", part: Part, paths: list[Path], lat: Floats, lon: Floats) -> Floats:
    out = np.full((2, 7, len(lat), len(lon)), np.nan)
    for path in paths:
        names = _names(path)
        high = "85" if any(name.startswith("fcdr_tb85") for name in names) else "91"
        tbs = [f"fcdr_tb{one}" for one in ("19h", "19v", "22v", "37h", "37v", f"{high}h", f"{high}v")]
        copied = config.compat == "published" or "descending_copy" in config.reproduce
        for half, suffix in enumerate(("asc", "asc" if copied else "dsc")):
            if f"{tbs[0]}_asc" not in names:
                for kind, channels in (("lores", range(5)), ("hires", range(5, 7))):
                    fields = _orbit(
                        path, [tbs[channel] for channel in channels], half, kind, lat, lon, config.radius_km
                    )
                    for channel, field in zip(channels, fields, strict=True):
                        out[half, channel] = _over(out[half, channel], field)
                continue
            for channel, name in enumerate(tbs):
                source_lat, source_lon, values = _map(path, f"{name}_{suffix}")
                turned = (source_lon + 180) % 360 - 180
                order = np.argsort(turned)
                field = _brought(source_lat, turned[order], values[:, order], lat, lon, config.ssmi_method)
                out[half, channel] = _over(out[half, channel], field)
    return out


def _orbit(path: Path, names: list[str], half: int, kind: str, lat: Floats, lon: Floats, radius: float) -> list[Floats]:
    """The nearest pixel of the ascending or descending scans of an orbit to each centre, by the haversine."""
    pixel_lat, pixel_lon = (_raw(path, f"{one}_{kind}")[0] for one in ("lat", "lon"))
    kept = [number for number, scan in enumerate(pixel_lat) if np.isfinite(scan).any()]
    mean = [float(np.nanmean(pixel_lat[number])) for number in kept]
    up = [mean[max(number, 1)] > mean[max(number, 1) - 1] if len(mean) > 1 else True for number in range(len(mean))]
    scans = np.array(kept, np.int64)[np.array(up, bool) == (half == 0)]
    pixel_lat, pixel_lon = pixel_lat[scans].ravel(), pixel_lon[scans].ravel()
    values = [_raw(path, name)[0][scans].ravel() for name in names]
    out = [np.full((len(lat), len(lon)), np.nan) for _ in names]
    margin = math.degrees(radius / EARTH_KM) * 1.01
    for row, latitude in enumerate(lat):
        near = np.flatnonzero(np.abs(pixel_lat - latitude) <= margin)
        if not len(near):
            continue
        a, b = math.radians(latitude), np.radians(pixel_lat[near])
        for start in range(0, len(lon), 64):
            turn = np.radians(pixel_lon[near] - lon[start : start + 64, None])
            square = np.sin((b - a) / 2) ** 2 + math.cos(a) * np.cos(b) * np.sin(turn / 2) ** 2
            best = square.argmin(1)
            away = 2 * EARTH_KM * np.sqrt(square[np.arange(len(best)), best])
            columns = start + np.flatnonzero(away <= radius * (1 + 1e-12))
            for table, value in zip(out, values, strict=True):
                table[row, columns] = value[near[best[columns - start]]]
    return out


def _rain(config: "PrecipitationConfig", part: Part, paths: list[Path], lat: Floats, lon: Floats) -> Floats:
    if not paths:
        return np.full((len(lat), len(lon)), np.nan)
    names = _names(paths[-1])
    name = next(one for one in ("precipitation", "precipitationCal", "precip") if one in names)
    units = str(_raw(paths[-1], name)[1].get("units", "mm")).lower().replace(" ", "")
    hourly = 24.0 if units in ("mm/hr", "mm/h", "mmhr-1", "mmh-1") else 1.0
    source_lat, source_lon, values = _map(paths[-1], name)
    return _brought(source_lat, source_lon, values * hourly, lat, lon, config.rain_method)


def _stage4(config: "PrecipitationConfig", part: Part, paths: list[Path], lat: Floats, lon: Floats) -> Floats:
    import eccodes

    rows, columns = part.about["shape"]
    out = np.full((24, rows, columns), np.nan)
    begin = datetime.fromisoformat(part.about["day"])
    for path in paths:
        found = re.search(r"(\d{10})", path.name)
        end = datetime.strptime(found.group(1), "%Y%m%d%H") if found else begin
        with path.open("rb") as stream:
            handle = eccodes.codes_grib_new_from_file(stream)
            values = np.asarray(eccodes.codes_get_values(handle), np.float64)
            if eccodes.codes_get(handle, "bitmapPresent"):
                values[values == eccodes.codes_get(handle, "missingValue")] = np.nan
            eccodes.codes_release(handle)
        out[int((end - begin).total_seconds() // 3600) - 1] = values.reshape(rows, columns)
    return out


_MAKERS: Mapping[str, Callable[..., Floats]] = {
    "gridsat": _gridsat,
    "patmosx": _patmosx,
    "ssmi": _ssmi,
    "precipitation": _rain,
    "stage4": _stage4,
}


def _world(config: "PrecipitationConfig", day: date, lat: Floats, lon: Floats, copied: bool) -> dict[str, Floats]:
    """A day of the generated world, channel by channel."""
    from models.climate.generator import precipitation as world

    rows, columns = config.world_rows, config.world_columns
    chosen = world.PrecipitationWorldConfig(rows=rows, columns=columns, seed=config.seed)
    south = np.array([-90 + 180 * (row + 0.5) / rows for row in range(rows)])
    west = np.array([-180 + 360 * (column + 0.5) / columns for column in range(columns)])
    seen = world.inputs_of(chosen, day)

    def onto(table: Array, method: str) -> Floats:
        return _brought(south, west, table.astype(np.float64), lat, lon, method)

    gridsat = [
        [onto(seen["gridsat"][:, :, slot, band], config.gridsat_method) for band in range(3)] for slot in range(8)
    ]
    patmosx = [
        [onto(seen["patmosx"][:, :, 23 * half + band], config.patmosx_method) for band in range(23)] for half in (0, 1)
    ]
    ssmi = [
        [onto(seen["ssmi"][:, :, 7 * half + band], config.ssmi_method) for band in range(7)]
        for half in ((0, 0) if copied else (0, 1))
    ]
    return {
        "gridsat": np.array(gridsat),
        "patmosx": np.array(patmosx),
        "ssmi": np.array(ssmi),
        "precipitation": onto(world.rain_of(chosen, day), config.rain_method),
    }


# What must hold of the whole.


def checks(groups: Mapping[str, "xr.Dataset"]) -> tuple[Claim, ...]:
    """What must hold of the stored dataset, counted again from its values.

    Args:
        groups: opened lazily, decoded or not.

    Returns:
        Claims on days, grid, splits, ranges, doubled days, passes, channels and the amount of rain.

    Source:
        Ours; brightness temperatures of the atmosphere lie between 50 and 400 K, and the world's mean rain is 2.6 to
        2.9 mm a day (Adler et al. 2017, Surveys in Geophysics 38, 679).
    """
    claims = list[Claim]()
    daily = {name: group for name, group in groups.items() if name != "stage4"}
    claims.append(_claim("days_out_of_order", sum(map(_disorder, daily.values())), "steps that are not one day"))
    claims.append(_claim("centres_off_the_grid", sum(map(_off_grid, daily.values())), "latitudes and longitudes"))
    claims.append(
        _claim("days_in_the_wrong_split", sum(_wrong_split(name, group) for name, group in daily.items()), "days")
    )
    claims += _scan(groups)
    return tuple(claims)


def _claim(name: str, value: float, what: str, limit: float = 0.0) -> Claim:
    return Claim(name=name, kind="exact", value=float(value), limit=limit, detail=f"{what}; all were looked at.")


def _days(group: "xr.Dataset") -> NDArray[np.int64]:
    time = np.asarray(group["time"].values)
    return (time.astype("datetime64[D]") if time.dtype.kind == "M" else time).astype(np.int64)


def _disorder(group: "xr.Dataset") -> int:
    return int(np.count_nonzero(np.diff(_days(group)) != 1))


def _off_grid(group: "xr.Dataset") -> int:
    lat, lon = (np.asarray(group[name].values, np.float64) for name in ("latitude", "longitude"))
    half = 0.5 if "shifted_area" in str(group.attrs.get("repeated", "")).split() else 0.0
    rows = [90 - 180 * (row + 0.5) / len(lat) for row in range(len(lat))]
    columns = [-180 + 360 * (column + half) / len(lon) for column in range(len(lon))]
    return int(np.count_nonzero(np.abs(lat - rows) > 1e-9) + np.count_nonzero(np.abs(lon - columns) > 1e-9))


def _wrong_split(name: str, group: "xr.Dataset") -> int:
    published = "overlapping_years" in str(group.attrs.get("repeated", "")).split()
    wrong = 0
    for number, split in zip(_days(group).tolist(), np.asarray(group["split"].values).tolist(), strict=True):
        year = date.fromordinal(date(1970, 1, 1).toordinal() + number).year
        train = 1983 <= year <= 2018
        test = 2019 <= year <= 2023
        if name == "gridsat":
            train = train and not 2002 <= year <= 2004
            test = (year == 2019 or 1998 <= year <= 2001) if published else test
        if name == "ssmi":
            train = 1987 <= year <= (2019 if published else 2018)
        wrong += split != train + 2 * test
    return wrong


def _scan(groups: Mapping[str, "xr.Dataset"]) -> list[Claim]:
    """One pass over all values, a day at a time."""
    doubled = outside = copies = pairs = empty = 0
    sums: dict[str, Floats] = {}
    rain, weight = 0.0, 0.0
    for name, group in groups.items():
        seen = set[bytes]()
        if name == "stage4":
            found_hours = 0
            for hour in range(group.sizes["hour"]):
                values = np.asarray(group["precipitation"][hour].values, np.float64)
                found_hours += bool(np.isfinite(values).any())
                outside += int(np.count_nonzero((values < 0) | (values > 1000)))
            empty += not found_hours
            continue
        lat = np.asarray(group["latitude"].values, np.float64)
        area = np.cos(np.radians(lat)) * (np.abs(lat) <= 60)
        variable = group["precipitation"] if name == "precipitation" else group["obs"]
        for place in range(group.sizes["time"]):
            values = np.asarray(variable[place].values)
            if np.isnan(values).all():
                continue
            digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()
            doubled += digest in seen
            seen.add(digest)
            if name == "precipitation":
                outside += int(np.count_nonzero((values < 0) | (values > 3000)))
                known = np.where(np.isnan(values), 0.0, 1.0)
                rain += float((np.nan_to_num(values.astype(np.float64)) * area[:, None]).sum())
                weight += float((known * area[:, None]).sum())
                continue
            channels = str(variable.attrs["channels"]).split()
            for number, channel in enumerate(channels):
                part = values[:, number]
                warm = not channel.startswith(("vschn", "refl"))
                low, high = (50.0, 400.0) if warm else (-50.0, 200.0)
                outside += int(np.count_nonzero((part < low) | (part > high)))
            found = np.stack([np.isfinite(values).sum((0, 2, 3)), np.nansum(values, (0, 2, 3), dtype=np.float64)])
            sums[name] = sums.get(name, np.zeros_like(found, np.float64)) + found
            if name == "ssmi" and "descending_copy" not in str(group.attrs.get("repeated", "")).split():
                both = np.isfinite(values[0]) & np.isfinite(values[1])
                pairs += int(both.sum())
                copies += int((values[0] == values[1])[both].sum())
        empty += not seen
    claims = [
        _claim("empty_groups", empty, "groups without a single value"),
        _claim("doubled_days", doubled, "days whose values are those of another"),
        _claim("values_out_of_range", outside, "values outside what the instruments and clouds can give"),
        _claim("passes_alike", copies / max(1, pairs), "share of pixels that are alike in both passes", 0.05),
    ]
    if "gridsat" in sums:
        mean = sums["gridsat"][1] / np.maximum(sums["gridsat"][0], 1)
        cold = sums["gridsat"][0][1:].all() and mean[2] <= mean[1]
        claims.append(_claim("window_colder_than_vapour", float(cold), "mean of the two infrared bands"))
    if "ssmi" in sums:
        count, total = sums["ssmi"]
        mean = total / np.maximum(count, 1)
        wrong = sum(bool(count[v] and count[h] and mean[v] <= mean[h]) for h, v in ((0, 1), (3, 4), (5, 6)))
        claims.append(_claim("horizontal_above_vertical", wrong, "polarisations of 19, 37 and 85 GHz"))
    if weight:
        amount = rain / weight
        least = Claim(
            name="mean_rain_mm_a_day", kind="exact", value=amount, limit=0.5, sense="at least",
            detail="within 60 degrees, weighted by area; less would be in other units.",
        )  # fmt: skip
        claims += [least, _claim("mean_rain_mm_a_day_at_most", amount, "within 60 degrees, weighted by area", 15.0)]
    return claims
