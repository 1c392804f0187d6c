"""Pilots' reports of turbulence whose severity is known, over columns as MERRA-2 holds them.

The atmosphere is as turbulent as its columns say: severity grows with the shear over the stability (an inverse
Richardson number) and with vertical motion. Pilots fly near stations, meet the severity of their level, round it with
some error of their own, and write it down in the wordings that real bulletins hold: ranges of flight levels, levels
that are unknown or "during descent", intensities within intensities, negations, abbreviations.

Shapes: L levels, top first, A latitudes from the south pole, B longitudes from -180, N reports.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from models.climate.generator.atmosphere import GAS, GRAVITY, SURFACE, Atmosphere, hour_of, stability
from models.climate.generator.chance import stream
from models.climate.generator.files import coordinates, variable
from models.common.configuration import check, setting

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

FILL = 1e15
"""What MERRA-2 writes below ground."""

_REPORTS = 20
"""What chance is asked for."""

STATIONS = {
    "ANC": (61.17, -150.0), "ATL": (33.64, -84.43), "BNA": (36.12, -86.68), "BOS": (42.36, -71.01),
    "DEN": (39.86, -104.67), "DFW": (32.9, -97.04), "FAI": (64.82, -147.86), "GGG": (32.38, -94.71),
    "HNL": (21.32, -157.92), "JFK": (40.64, -73.78), "LAX": (33.94, -118.41), "MIA": (25.79, -80.29),
    "MSP": (44.88, -93.22), "ORD": (41.98, -87.9), "PDX": (45.59, -122.6), "PHX": (33.43, -112.01),
    "PUB": (38.29, -104.5), "SEA": (47.45, -122.31), "SLC": (40.79, -111.98), "SYA": (52.71, 174.11),
    "YVR": (49.19, -123.18), "GUM": (13.48, 144.8),
}  # fmt: skip
"""Identifier to latitude and longitude, degrees; Shemya lies beyond the date line."""

AIRCRAFT = ("A320", "B738", "B752", "B77W", "BE20", "C172", "CRJ9", "E145", "E170", "MD90", "PA28", "DH8")
CENTRES = ("ZAB", "ZAU", "ZDV", "ZFW", "ZJX", "ZKC", "ZLA", "ZME", "ZSE", "ZTL")

WORDINGS: tuple[tuple[str, ...], ...] = (
    ("NEG", "SMTH", "SMOOTH", "NEG", "NONE", "SMTH ABV 180"),
    ("LGT", "LGT CHOP", "LIGHT", "CONT LGT", "OCNL LGT CHOP", "LT TURB & CHOP", "INTMT LGT", "LGT FL240-340"),
    ("MOD", "MOD CHOP", "CONT MOD", "OCNL MOD", "MDT", "MODERATE", "LGT-MOD", "CONS MOD", "LT-MOD CHOP", "MOD 290-250",
     "MOD 350 NEG BLW 300", "MOD MULT RPTS"),
    ("SEV", "SVR", "MOD-SEV", "MDT-SEV", "SEV CAT", "SVR SMTH ABV 350", "SEV BLW FLT LVL"),
    ("EXTRM", "EXTREME", "SEV-EXTM", "EXTM"),
)  # fmt: skip
"""By the largest intensity that they name; drawn after the saved bulletins."""

USUAL = (
    [100e2, 232e2, 330e2, 418e2, 501e2, 579e2, 654e2, 727e2, 798e2, 867e2, 934e2, 1000e2],
    [-5.45, -5.44, -3.98, -2.64, -2.89, -3.38, -3.99, -4.73, -5.67, -6.89, -8.37, -8.47],
)
"""Pressure in Pa and mean of ln(S^2 / N^2) there, in this atmosphere."""

UNCLASSIFIED = ("MTW", "CHOP", "TURB", "None", "None", "None", "None")


@dataclass(frozen=True, kw_only=True)
class ReportsConfig:
    """Columns and the reports of pilots who fly through them."""

    rows: int = setting(361, "Rows", "Latitudes from pole to pole, 19 to 721; MERRA-2 has 361.", ge=19, le=721)
    columns: int = setting(576, "Columns", "Longitudes from -180, 36 to 1440; MERRA-2 has 576.", ge=36, le=1440)
    levels: int = setting(34, "Levels", "Levels from 100 to 1000 hPa, 4 to 72.", ge=4, le=72)
    daily: int = setting(300, "Reports a day", "Mean number of reports of a day, 1 to 100000.", ge=1, le=100_000)
    ranges: float = setting(0.08, "Ranges", "Share of reports that name a range of flight levels, 0 to 1.", ge=0, le=1)
    unknown: float = setting(0.12, "Unknown levels", "Share of reports without a flight level, 0 to 1.", ge=0, le=1)
    silent: float = setting(
        0.25, "Silent", "Share of reports whose turbulence nobody can tell, 0 to 1.", ge=0, le=1
    )  # fmt: skip
    error: float = setting(
        0.35, "Pilots' error", "Standard deviation of a pilot's rounding, in grades of intensity, 0 to 4.", ge=0, le=4
    )
    seed: int = setting(0, "Seed", "Which world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        """Hold the settings to their limits."""
        check(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """The atmosphere at one hour as MERRA-2's inst3_3d_asm_Nv has it, float32; `FILL` below ground.

    Attributes:
        latitude, longitude: (A), (B) degrees.
        U, V: wind, m/s. T: temperature, K. OMEGA: vertical motion, Pa/s. RH: relative humidity, 0 to 1.
        H: height of the middle of a layer, m. PL: its pressure, Pa. All (L, A, B).
        PHIS: geopotential of the ground (A, B), m2/s2.
    """

    latitude: Floats
    longitude: Floats
    U: Singles
    V: Singles
    T: Singles
    OMEGA: Singles
    RH: Singles
    H: Singles
    PL: Singles
    PHIS: Singles


@dataclass(frozen=True, kw_only=True, eq=False)
class Reports:
    """Reports of one day, in order of time: the columns of the mesonet's table as text, and the truth.

    Attributes:
        table: VALID, URGENT, AIRCRAFT, REPORT, ICING, TURBULENCE, ATRCC, LAT, LON, PRODUCT_ID, each (N).
        level: hundreds of feet (N), the middle of a range rounded down; -1: unknown.
        intensity: largest intensity that the text names (N), 0 none, 1 light, ... 4 extreme; -1: none is named.
        severity: of the air where the pilot was (N), 0 to 4.
        latitude, longitude: (N) degrees. minute: of the day (N).
    """

    table: dict[str, tuple[str, ...]]
    level: Integers
    intensity: Integers
    severity: Floats
    latitude: Floats
    longitude: Floats
    minute: Integers


def pressures(levels: int) -> Floats:
    """Pressures of the layers from 100 to 1000 hPa, closer near the ground, Pa (L)."""
    return np.asarray(1e4 + 9e4 * np.linspace(0, 1, levels) ** 0.8)


def _grid(config: ReportsConfig) -> tuple[Floats, Floats]:
    latitude = (np.arange(config.rows) * 2 - (config.rows - 1)) * 90.0 / (config.rows - 1)
    return np.asarray(latitude), np.asarray(-180.0 + np.arange(config.columns) * 360.0 / config.columns)


@lru_cache(maxsize=2)
def _air(config: ReportsConfig) -> Atmosphere:
    return Atmosphere(config.seed, *_grid(config))


def columns_of(config: ReportsConfig, day: date, hour: int = 0) -> Columns:
    """The columns at one hour of a day.

    Args:
        config: grid and world.
        day: the day.
        hour: 0 to 23 UTC.

    Returns:
        The columns; the same bits whenever they are made.

    Source:
        Names, units and fill of MERRA-2's file specification (GMAO Office Note 9); the atmosphere is ours.
    """
    air, latitude, longitude = _air(config), *_grid(config)
    pressure = pressures(config.levels)
    u, v, t, omega = air.fields(hour_of(f"{day}T{hour:02d}"), pressure)
    # heights from 1000 hPa upwards: dz = - R T / g d ln p
    log = np.log(pressure)
    thickness = GAS * (t[1:] + t[:-1]) / 2 / GRAVITY * np.diff(log)[:, None, None]
    bottom = GAS * t[-1] / GRAVITY * np.log(SURFACE * 1.013 / pressure[-1])
    height = bottom + np.concatenate([np.cumsum(thickness[::-1], axis=0)[::-1], np.zeros((1, *bottom.shape))])
    damp = 1 / (1 + np.exp(8 * omega)) * (pressure[:, None, None] / SURFACE) ** 0.5
    layers = np.broadcast_to(pressure[:, None, None], u.shape)
    below = height < air.ground
    arrays = {"U": u, "V": v, "T": t, "OMEGA": omega, "RH": np.clip(1.3 * damp, 0.01, 1.0), "H": height, "PL": layers}
    masked = {name: np.where(below, FILL, array).astype(np.float32) for name, array in arrays.items()}
    return Columns(
        latitude=latitude, longitude=longitude, **masked, PHIS=(GRAVITY * air.ground).astype(np.float32)
    )  # fmt: skip


def severity_of(config: ReportsConfig, day: date, hour: int = 0) -> Singles:
    """The true severity of turbulence (L, A, B), 0 to 4, of every layer; NaN below ground.

    severity = 0.65 (1 + 2 |omega|) exp(0.8 z), at most 4, with z = (ln(S^2 / N^2) - USUAL(p)) / 1.45; S is the shear of
    the wind, N the buoyancy frequency, both from neighbouring layers of the column, omega in Pa/s.

    Source:
        The ingredients of Ellrod and Knapp 1992 in a single column; the formula is ours.
    """
    columns = columns_of(config, day, hour)
    pressure = pressures(config.levels)
    below = columns.U >= FILL / 2
    u, v, t, omega, height = (
        np.where(below, np.nan, array).astype(np.float64)
        for array in (columns.U, columns.V, columns.T, columns.OMEGA, columns.H)
    )
    n2 = np.maximum(stability(t, pressure), 2e-5)
    rise = np.gradient(height, axis=0)
    shear2 = (np.gradient(u, axis=0) ** 2 + np.gradient(v, axis=0) ** 2) / rise**2
    usual = np.interp(pressure, *USUAL)[:, None, None]
    z = (np.log(np.maximum(shear2, 1e-12) / n2) - usual) / 1.45
    severity = 0.65 * (1 + 2 * np.abs(omega)) * np.exp(0.8 * z)
    return np.clip(severity, 0.0, 4.0).astype(np.float32)


def flight_pressure(level: Floats) -> Floats:
    """Pressure of a flight level in hundreds of feet, Pa: the standard atmosphere, up to 65,000 feet."""
    height = np.asarray(level) * 30.48
    low = 101325.0 * (1 - 2.25577e-5 * np.minimum(height, 11_000.0)) ** 5.25588
    return np.asarray(low * np.exp(-np.maximum(height - 11_000.0, 0.0) / 6341.6))


def reports_of(config: ReportsConfig, day: date) -> Reports:
    """What pilots report on one day.

    Args:
        config: grid, number and habits.
        day: the day.

    Returns:
        The reports and the truth about them; the same whenever they are made.

    Source:
        Fields of the Iowa Environmental Mesonet's table; wordings after bulletins of the US weather service.
    """
    rng = stream(config.seed, _REPORTS, day.toordinal())
    count = int(rng.poisson(config.daily))
    minute = np.sort(rng.integers(0, 1440, count))
    station = rng.integers(0, len(STATIONS), count)
    bearing, distance = rng.integers(1, 37, count) * 10, rng.integers(0, 13, count) * 5
    place = np.array(list(STATIONS.values()))[station]
    latitude = np.round(place[:, 0] + distance / 60 * np.cos(np.radians(bearing)), 4)
    longitude = place[:, 1] + distance / 60 * np.sin(np.radians(bearing)) / np.cos(np.radians(place[:, 0]))
    longitude = np.round((longitude + 180) % 360 - 180, 4)
    level = np.where(rng.random(count) < 0.3, rng.integers(2, 18, count), rng.integers(10, 46, count)) * 10

    severity = np.zeros(count)
    pressure, (rows, columns) = pressures(config.levels), _grid(config)
    for hour in range(0, 24, 3):
        # every third hour stands for the three that follow
        now = np.flatnonzero(minute // 180 == hour // 3)
        if not len(now):
            continue
        field = severity_of(config, day, hour)
        i = np.rint((latitude[now] + 90) / 180 * (len(rows) - 1)).astype(int)
        j = np.rint((longitude[now] + 180) / 360 * len(columns)).astype(int) % len(columns)
        k = np.abs(np.log(pressure[:, None] / flight_pressure(level[now]))).argmin(0)
        deep = np.isfinite(field[:, i, j]).sum(0) - 1
        severity[now] = field[np.minimum(k, deep), i, j]
    felt = np.clip(np.rint(severity + config.error * rng.standard_normal(count)), 0, 4).astype(np.int64)
    told = rng.random((count, 6))
    return _written(config, day, rng, minute, list(STATIONS), station, bearing, distance, latitude, longitude, level,
                    severity, felt, told)  # fmt: skip


def _written(
    config: ReportsConfig, day: date, rng: np.random.Generator, minute: Integers, names: list[str], station: Integers,
    bearing: Integers, distance: Integers, latitude: Floats, longitude: Floats, level: Integers, severity: Floats,
    felt: Integers, told: Floats,
) -> Reports:  # fmt: skip
    """Put what pilots felt into words."""
    headings = ["VALID", "URGENT", "AIRCRAFT", "REPORT", "ICING", "TURBULENCE", "ATRCC", "LAT", "LON", "PRODUCT_ID"]
    table: dict[str, list[str]] = {heading: [] for heading in headings}
    true_level, intensity = level.copy(), felt.copy()
    for n in range(len(minute)):
        name, draw = names[station[n]], told[n]
        stamp = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=int(minute[n]))
        field = f"FL{level[n]:03d}"
        if draw[0] < config.ranges:
            low, high = int(level[n]), int(level[n]) + 10 * int(1 + 4 * draw[1])
            true_level[n] = (low + high) // 2
            field = [f"FL{low:03d}-{high:03d}", f"FL{low:03d}-FL{high:03d}", f"FL{high:03d}-{low:03d}"][
                int(3 * draw[2])
            ]
        elif draw[0] > 1 - config.unknown:
            true_level[n] = -1
            field = ["FLUNKN", "FLDURD", "FLDURC", "FLUNKN"][int(4 * draw[1])]
        elif draw[1] < 0.03:
            field = f"FL {level[n]:03d}"
        if draw[3] < config.silent:
            intensity[n] = -1
            words = UNCLASSIFIED[int(len(UNCLASSIFIED) * draw[4])]
        else:
            wordings = WORDINGS[felt[n]]
            words = wordings[int(len(wordings) * draw[4])]
        over = f"{name}{bearing[n]:03d}{distance[n]:03d}" if distance[n] else name
        space = " " if draw[5] < 0.3 else ""
        fields = [f"OV {over}", f"TM {stamp:%H%M}", field, f"TP {AIRCRAFT[int(12 * draw[2])]}"]
        if words != "None":
            fields.append(f"TB {words}")
        if draw[5] > 0.5:
            fields.append(["RM DURD", "RM ZDV CWSU", "RM AWC-WEB:SWA", "RM CONT LGT BLW 100"][int(8 * (draw[5] - 0.5))])
        urgent = bool(intensity[n] >= 3)
        kind = "UUA" if urgent else "UA"
        row = (
            f"{stamp:%Y%m%d%H%M}", "T" if urgent else "F", AIRCRAFT[int(12 * draw[2])],
            f"{name} {kind} /" + f"{space}/".join(fields), "None", words, CENTRES[int(10 * draw[1])],
            f"{latitude[n]:.4f}", f"{longitude[n]:.4f}", f"{stamp:%Y%m%d%H%M}-K{name}-UBUS01-PRCUS",
        )  # fmt: skip
        for heading, value in zip(headings, row, strict=True):
            table[heading].append(value)
    return Reports(
        table={heading: tuple(values) for heading, values in table.items()},
        level=true_level,
        intensity=intensity,
        severity=severity,
        latitude=latitude,
        longitude=longitude,
        minute=minute,
    )


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def write_reports(config: ReportsConfig, folder: Path, first: date, last: date) -> tuple[Path, ...]:
    """Write reports as the mesonet serves them: a CSV for every month, in order of time.

    Args:
        config: grid, number and habits.
        folder: where to; made if absent.
        first, last: days, both included.

    Returns:
        `YYYY_MM.csv`, one for each calendar month that the days touch.

    Source:
        Ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for day in _days(first, last):
        path = folder / f"{day:%Y_%m}.csv"
        table = reports_of(config, day).table
        if path not in written:
            written.append(path)
            path.write_text(",".join(table) + "\n")
        with path.open("a") as file:
            file.writelines(",".join(row) + "\n" for row in zip(*table.values(), strict=True))
    return tuple(written)


UNITS = {
    "U": ("m s-1", "eastward_wind"), "V": ("m s-1", "northward_wind"), "T": ("K", "air_temperature"),
    "RH": ("1", "relative_humidity_after_moist"), "OMEGA": ("Pa s-1", "vertical_pressure_velocity"),
    "H": ("m", "mid_layer_heights"), "PL": ("Pa", "mid_level_pressure"),
    "PHIS": ("m+2 s-2", "surface geopotential height"),
}  # fmt: skip


def write_columns(
    config: ReportsConfig, folder: Path, first: date, last: date, hours: tuple[int, ...] = (0, 3, 6, 9, 12, 15, 18, 21)
) -> tuple[Path, ...]:
    """Write columns as subsets of MERRA-2 look: two files a day, in two folders.

    Args:
        config: grid and world.
        folder: where to; made if absent.
        first, last: days, both included.
        hours: of each day, UTC.

    Returns:
        `U_V_T_RH_OMEGA/MERRA2_400.inst3_3d_asm_Nv.YYYYMMDD.SUB.nc` and the same in `H_PL_PHIS/`, day by day; the stream
        is 401 from June to September 2021 and in September 2020, as it was.

    Source:
        MERRA-2's file specification and the request that WxC-Bench makes.
    """
    latitude, longitude = _grid(config)
    written = []
    for day in _days(first, last):
        for names in (("U", "V", "T", "RH", "OMEGA"), ("H", "PL", "PHIS")):
            late = (day.year, day.month) in {(2020, 9), (2021, 6), (2021, 7), (2021, 8), (2021, 9)}
            path = folder / "_".join(names) / f"MERRA2_{401 if late else 400}.inst3_3d_asm_Nv.{day:%Y%m%d}.SUB.nc"
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
                coordinates(
                    file,
                    time=(np.array(hours, np.int32) * 60, {"units": f"minutes since {day} 00:00:00"}),
                    lev=(np.arange(73.0 - config.levels, 73.0), {"units": "layer", "positive": "down"}),
                    lat=(latitude, {"units": "degrees_north"}),
                    lon=(longitude, {"units": "degrees_east"}),
                )
                moments = [columns_of(config, day, hour) for hour in hours]
                for name in names:
                    unit, words = UNITS[name]
                    values = np.stack([getattr(moment, name) for moment in moments])
                    dims = ("time", "lat", "lon") if name == "PHIS" else ("time", "lev", "lat", "lon")
                    fills = {"missing_value": np.float32(FILL), "fmissing_value": np.float32(FILL)}
                    variable(file, name, dims, values, FILL, units=unit, long_name=words, **fills)
    return tuple(written)
