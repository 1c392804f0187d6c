"""The files of the archives: which day a file is of, by its name, and its fields on the area.

    GridSat-B1    GRIDSAT-B1.2009.11.25.06.v02r01.nc: three bands, eight files a day
    PATMOS-x      patmosx_v06r00_NOAA-15_des_d20230116_c20230125.nc: 15 bands of the imager, 8 of the sounder
    SSM/I(S)      CSU_SSMI_FCDR-GRID_V02R00_F13_D19980715.nc (daily maps of both passes), or
                  CSU_SSMI_FCDR_V02R00_F08_D19870709_S0126_E0308_R000268.nc (one orbit, pixel by pixel)
    PERSIANN-CDR  PERSIANN-CDR_v01r01_19830101_c20140523.nc: daily rain before the switch
    IMERG         3B-DAY.MS.MRG.3IMERG.20150601-S000000-E235959.V07B.nc4: daily rain from the switch on
    Stage IV      ST4.2013052210.01h.grb: hourly rain on its own grid

Files of a day are read in the order of their names, and a later one lies over an earlier where it has values.

Shapes: R x C of the area; channels first.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.climate.datasets.precipitation.area import Area, Method, Resampling, laid_over, swath_to
from models.climate.datasets.readers import NAMES, Field, Header, header, read, where
from models.common.errors import InputError

Singles = NDArray[np.float32]

GRIDSAT = ("vschn", "irwvp", "irwin_cdr")
"""Visible, water vapour, infrared window, in the published order: chimp/data/gridsat.py, load_gridsat_data."""

IMAGER = (
    "refl_0_65um_nom",
    "refl_0_86um_nom",
    "refl_1_60um_nom",
    "refl_3_75um_nom",
    "temp_4_46um_nom",
    "temp_4_52um_nom",
    "temp_6_7um_nom",
    "temp_7_3um_nom",
    "temp_9_7um_nom",
    "temp_11_0um_nom",
    "temp_12_0um_nom",
    "temp_13_3um_nom",
    "temp_13_6um_nom",
    "temp_13_9um_nom",
    "temp_14_2um_nom",
)
SOUNDER = (
    "temp_3_75um_nom_sounder",
    "temp_4_45um_nom_sounder",
    "temp_4_57um_nom_sounder",
    "temp_11_0um_nom_sounder",
    "temp_12_0um_nom_sounder",
    "temp_14_5um_nom_sounder",
    "temp_14_7um_nom_sounder",
    "temp_14_9um_nom_sounder",
)
"""In the published order: chimp/data/patmosx.py, load_observations."""

SSMI = ("19h", "19v", "22v", "37h", "37v", "85h", "85v")
"""In the published order: chimp/data/ssmi.py, load_observations; SSMIS has 91 GHz in place of 85."""

PASSES = ("asc", "des")
SLOTS = 8
SLOT_HOURS = 3

_DAY = r"(?P<year>(?:19|20)\d\d)[.\-_]?(?P<month>0[1-9]|1[0-2])[.\-_]?(?P<day>0[1-9]|[12]\d|3[01])"
_NAMES: Mapping[str, str] = {
    "gridsat": rf"(?i)gridsat.*?\b{_DAY}\.(?P<hour>[01]\d|2[0-3])(?!\d)",
    "patmosx": rf"(?i)patmosx.*_(?P<pass>asc|des)_d{_DAY}(?!\d)",
    "ssmi": rf"(?i)ssmis?_.*_D{_DAY}(?!\d)",
    "persiann": rf"(?i)persiann.*?_{_DAY}(?!\d)",
    "imerg": rf"(?i)imerg\.{_DAY}(?!\d)",
    "stage4": rf"(?i)st4.*?\.{_DAY}(?P<hour>[01]\d|2[0-3])\.(?P<span>\d\d)h",
}
_LIKE: Mapping[str, str] = {
    "gridsat": "GRIDSAT-B1.2009.11.25.06.v02r01.nc",
    "patmosx": "patmosx_v06r00_NOAA-15_des_d20230116_c20230125.nc",
    "ssmi": "CSU_SSMI_FCDR-GRID_V02R00_F13_D19980715.nc",
    "persiann": "PERSIANN-CDR_v01r01_19830101_c20140523.nc",
    "imerg": "3B-DAY.MS.MRG.3IMERG.20150601-S000000-E235959.V07B.nc4",
    "stage4": "ST4.2013052210.01h.grb",
}


@dataclass(frozen=True)
class Stamp:
    """What a file's name says.

    Attributes:
        day: UTC.
        hour: of the day; -1 when the name tells none.
        part: "asc" or "des"; "" when the name tells none.
    """

    day: date
    hour: int = -1
    part: str = ""


def stamp_of(product: str, path: Path) -> Stamp:
    """The day of a file, and what else its name says.

    Args:
        product: gridsat, patmosx, ssmi, persiann, imerg or stage4.
        path: of the file.

    Raises:
        InputError: the name is not one of the archive's.

    Source:
        The archives' names; see the module.
    """
    found = re.search(_NAMES[product], path.name)
    if not found:
        raise InputError(
            f"{path}: the name tells no day as files of {product} do ({_LIKE[product]}); give files under the "
            "archive's names."
        )
    parts = found.groupdict()
    try:
        day = date(int(parts["year"]), int(parts["month"]), int(parts["day"]))
    except ValueError as error:
        raise InputError(f"{path}: its name tells a day that there is not ({error}); rename it.") from error
    if parts.get("span", "01") != "01":
        raise InputError(
            f"{path}: Stage IV of {parts['span']} hours; hourly files (01h) are wanted, name them alone in the glob."
        )
    hour = int(parts["hour"]) if parts.get("hour") else -1
    if product == "gridsat" and hour % SLOT_HOURS:
        raise InputError(f"{path}: GridSat of {hour} UTC; files of every third hour are wanted.")
    return Stamp(day, hour, (parts.get("pass") or "").lower())


def _of_the_day(path: Path, field: Field, day: date, hours: tuple[int, int] = (0, 24)) -> None:
    """Hold the file's own time to its name."""
    axis = field.axis("time")
    if axis is None or axis.values is None or axis.kind != "dated":
        return
    start = np.datetime64(day, "us")
    low, high = (start + np.timedelta64(60 * hour, "m") for hour in hours)
    outside = axis.values[(axis.values < low) | (axis.values >= high)]
    if len(outside):
        raise InputError(
            f"{path}, {field.name}: its time is {outside[0]}, its name says {day}; one of the two is wrong. Get the "
            "file again."
        )


def _map(path: Path, field: Field, area: Area, method: Method, units: str = "", assume: str = "") -> Singles:
    """One field of one time on the area."""
    grid = field.grid
    if grid.kind not in ("regular", "gaussian", "uneven"):
        raise InputError(
            f"{path}, {field.name}: on a grid of the kind {grid.kind!r}; rows and columns of latitudes and longitudes "
            "are wanted."
        )
    resampling = Resampling(grid.latitudes, grid.longitudes, area, method, f"{path}, {field.name}")
    at: dict[str, Any] = {"lat": resampling.rows, "lon": resampling.columns}
    if (axis := field.axis("time")) is not None:
        if axis.size != 1:
            raise InputError(f"{path}, {field.name}: {axis.size} times in a file that should hold one.")
        at["time"] = 0
    wanted = {"x": units} if units else {}
    assumed = {"x": assume} if assume else {}
    found = read(path, {"x": (field.name,)}, at=at, units=wanted, assume=assumed)["x"]
    return resampling(found.transpose(..., "lat", "lon").values.astype(np.float32, copy=False))


def gridsat(files: Sequence[Path], day: date, area: Area, method: Method) -> Singles:
    """A day of GridSat-B1.

    Args:
        files: those of the day; slots without a file stay missing.
        day: UTC.
        area: where to.
        method: nearest or linear.

    Returns:
        (8, 3, R, C): three-hourly slots from 0 UTC; reflectance, and brightness temperatures in K.

    Raises:
        InputError: a file lacks a band, is of another day, or cannot be read.

    Source:
        Knapp et al. 2011, BAMS 92, 893; simonpf/chimp, chimp/data/gridsat.py, lines 18-50 and 92-146.
    """
    out = np.full((SLOTS, len(GRIDSAT), *area.shape), np.nan, np.float32)
    for path in sorted(files, key=lambda one: one.name):
        stamp, head = stamp_of("gridsat", path), header(path)
        for channel, name in enumerate(GRIDSAT):
            field = head.field(name)
            _of_the_day(path, field, day, (stamp.hour - 1, stamp.hour + 2))
            units = "K" if name.startswith("irw") else ""
            laid_over(out[stamp.hour // SLOT_HOURS, channel], _map(path, field, area, method, units, units))
    return out


def patmosx(files: Sequence[Path], day: date, area: Area, method: Method) -> Singles:
    """A day of PATMOS-x.

    Args:
        files: those of the day, of one or more satellites.
        day: UTC.
        area: where to.
        method: nearest or linear.

    Returns:
        (2, 23, R, C): ascending and descending passes; 15 bands of the imager, 8 of the sounder: reflectances as in the
        files, brightness temperatures in K.

    Raises:
        InputError: a file lacks a band, is of another day, or cannot be read.

    Source:
        Foster et al. 2021, doi 10.7289/V5X9287S; simonpf/chimp, chimp/data/patmosx.py, lines 20-80.
    """
    out = np.full((len(PASSES), len(IMAGER) + len(SOUNDER), *area.shape), np.nan, np.float32)
    for path in sorted(files, key=lambda one: one.name):
        half, head = PASSES.index(stamp_of("patmosx", path).part), header(path)
        for channel, name in enumerate((*IMAGER, *SOUNDER)):
            field = head.field(name)
            _of_the_day(path, field, day)
            units = "K" if name.startswith("temp") else ""
            laid_over(out[half, channel], _map(path, field, area, method, units, units))
    return out


def _high_band(head: Header, before: str, after: str = "") -> str:
    """85 GHz of SSM/I, or 91 GHz of SSMIS."""
    return "85" if f"{before}85v{after}" in head.fields else "91"


def ssmi_maps(path: Path, *, copied: bool = False) -> xr.Dataset:
    """Both passes of a gridded file on its own grid, longitudes from -180.

    Args:
        path: of the file.
        copied: whether the descending passes are a copy of the ascending ones, as one published script has it.

    Returns:
        `obs_asc` and `obs_des` (latitude, longitude, channels) K, and `second_of_day_asc` and `_des`, where the file
        has them; columns in the file's order.

    Raises:
        InputError: the file lacks a channel, or cannot be read.

    Source:
        simonpf/chimp at eacc2d4, chimp/data/ssmi.py, lines 36-90.
    """
    head = header(path)
    band = _high_band(head, "fcdr_tb", "_asc")
    data = dict[str, tuple[tuple[str, ...], Any]]()
    for half, theirs in zip(PASSES, ("asc", "asc" if copied else "dsc"), strict=True):
        names = [f"fcdr_tb{name.replace('85', band)}_{theirs}" for name in SSMI]
        found = read(path, names, units=dict.fromkeys(names, "K"), assume=dict.fromkeys(names, "K"))
        if "time" in found.dims:
            found = found.isel(time=0)
        data[f"obs_{half}"] = (
            ("latitude", "longitude", "channels"),
            np.stack([found[name].transpose("lat", "lon").values for name in names], -1),
        )
    axes = found
    for half, theirs in zip(PASSES, ("asc", "dsc"), strict=True):
        if f"time_offset_{theirs}" in head.fields:
            seconds = read(path, (f"time_offset_{theirs}",))[f"time_offset_{theirs}"]
            data[f"second_of_day_{half}"] = (("latitude", "longitude"), seconds.values.astype(np.int64))
    longitude = np.mod(axes["lon"].values + 180, 360) - 180
    return xr.Dataset(
        data, {"latitude": axes["lat"].values.astype(np.float32), "longitude": longitude.astype(np.float32)}
    )


def ssmi_orbit(path: Path, area: Area, radius_km: float) -> Singles:
    """One orbit on the area, its ascending and descending scans apart.

    Args:
        path: of the file.
        area: where to.
        radius_km: how far the nearest pixel may be.

    Returns:
        (2, 7, R, C) K.

    Raises:
        InputError: the file lacks a channel, or cannot be read.

    Source:
        simonpf/chimp at e1701da, chimp/data/ssmi.py, lines 24-135: a scan ascends when its mean latitude is north of
        that of the scan before; the first is taken as the second.
    """
    head = header(path)
    band = _high_band(head, "fcdr_tb")
    out = np.full((len(PASSES), len(SSMI), *area.shape), np.nan, np.float32)
    start = 0
    for names in (SSMI[:5], SSMI[5:]):
        own = [f"fcdr_tb{name.replace('85', band)}" for name in names]
        found = read(path, own, units=dict.fromkeys(own, "K"), assume=dict.fromkeys(own, "K"))
        if "latitude" not in found.coords or found["latitude"].ndim != 2:
            raise InputError(f"{path}, {own[0]}: its pixels have no latitudes and longitudes; give another file.")
        latitudes, longitudes = found["latitude"].values, found["longitude"].values
        values = np.stack([found[name].values for name in own])
        for half, scans in enumerate(_scans(latitudes)):
            out[half, start : start + len(own)] = swath_to(
                latitudes[scans].ravel(),
                longitudes[scans].ravel(),
                values[:, scans].reshape(len(own), -1),
                area,
                radius_km=radius_km,
            )
        start += len(own)
    return out


def _scans(latitudes: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The scans that ascend and those that descend, of those with a pixel anywhere."""
    there = np.flatnonzero(np.isfinite(latitudes).any(1))
    mean = np.nanmean(latitudes[there], axis=1)
    rise = np.concatenate([np.diff(mean)[:1], np.diff(mean)]) if len(mean) > 1 else np.ones(len(mean))
    return there[rise > 0], there[~(rise > 0)]


def ssmi(
    files: Sequence[Path], day: date, area: Area, method: Method, *, radius_km: float, copied: bool = False
) -> Singles:
    """A day of SSM/I or SSMIS, gridded or orbit by orbit.

    Args:
        files: those of the day, of one or more satellites.
        day: UTC.
        area: where to.
        method: of gridded files: nearest or linear.
        radius_km: of orbits: how far the nearest pixel may be.
        copied: of gridded files: see `ssmi_maps`.

    Returns:
        (2, 7, R, C): ascending and descending passes, K.

    Raises:
        InputError: a file lacks a channel, is of another day, or cannot be read.

    Source:
        Berg et al. 2018, Remote Sensing 10, 1306; see `ssmi_maps` and `ssmi_orbit`.
    """
    del day  # the time axis of these files counts scans
    out = np.full((len(PASSES), len(SSMI), *area.shape), np.nan, np.float32)
    for path in sorted(files, key=lambda one: one.name):
        head = header(path)
        if "fcdr_tb19h" in head.fields:
            laid_over(out, ssmi_orbit(path, area, radius_km))  # the script for orbits copies nothing
            continue
        maps = ssmi_maps(path, copied=copied).sortby("longitude")
        resampling = Resampling(
            maps["latitude"].values.astype(np.float64),
            maps["longitude"].values.astype(np.float64),
            area,
            method,
            str(path),
        )
        window = {"latitude": resampling.rows, "longitude": resampling.columns}
        for half, name in enumerate(PASSES):
            values = maps[f"obs_{name}"].isel(window).transpose("channels", "latitude", "longitude").values
            laid_over(out[half], resampling(values))
    return out


def rain(files: Sequence[Path], day: date, area: Area, method: Method) -> Singles:
    """A day of rain from PERSIANN-CDR or IMERG.

    Args:
        files: that of the day; of several editions the last by name.
        day: UTC.
        area: where to.
        method: nearest or linear.

    Returns:
        (R, C) mm a day.

    Raises:
        InputError: the file holds no precipitation, is of another day, in other units, or cannot be read.

    Source:
        simonpf/chimp, chimp/data/daily_precip.py, lines 118-160.
    """
    out = np.full(area.shape, np.nan, np.float32)
    for path in sorted(files, key=lambda one: one.name)[-1:]:
        field = header(path).field(*NAMES["precipitation"])
        _of_the_day(path, field, day)
        out = _map(path, field, area, method, *_daily(field))
    return out


def _daily(field: Field) -> tuple[str, str]:
    """Units to ask for: an amount in a daily file is the day's; and units of files that tell none."""
    amount = field.units.strip().lower() in ("mm", "kg m-2", "kg m**-2", "kg/m2", "kg/m^2", "millimeters", "millimeter")
    return ("mm" if amount else "mm day-1"), "mm day-1"


def stage4(files: Sequence[Path], day: date, shape: tuple[int, int]) -> Singles:
    """A day of Stage IV, hour by hour on its own grid.

    Args:
        files: those whose hour ends on this day, after 0 UTC; the 24th ends at 0 UTC of the next.
        day: UTC.
        shape: rows and columns that every file must have.

    Returns:
        (24, rows, columns) mm in the hour that begins then; hours without a file are missing.

    Raises:
        InputError: a file is on another grid, of another hour, or cannot be read.

    Source:
        NCEP, Stage IV: Lin & Mitchell 2005, 19th Conference on Hydrology, AMS; the name tells the hour's end.
    """
    out = np.full((24, *shape), np.nan, np.float32)
    for path in sorted(files, key=lambda one: one.name):
        field = header(path).field(*NAMES["precipitation"])
        if field.shape[-2:] != shape:
            raise InputError(
                f"{path}, {field.name}: {field.shape[-2]} x {field.shape[-1]} points, the others have {shape[0]} x "
                f"{shape[1]}; prepare files of one grid at a time."
            )
        stamp = stamp_of("stage4", path)
        end = np.datetime64(stamp.day, "us") + np.timedelta64(stamp.hour, "h")
        if field.attrs.get("interval_hours", 1.0) != 1.0:
            raise InputError(f"{path}, {field.name}: rain of {field.attrs['interval_hours']:g} hours, not of one.")
        place = int(where(field, "time", [end])[0])
        begin = int((end - np.datetime64(day, "us")) / np.timedelta64(1, "h")) - 1
        if not 0 <= begin < 24:
            raise InputError(f"{path}: its hour ends at {end}, which is not in {day}; list it under its own day.")
        got = read(path, {"rain": (field.name,)}, at={"time": place}, units={"rain": "mm"}, assume={"rain": "mm"})
        laid_over(out[begin], got["rain"].values)
    return out
