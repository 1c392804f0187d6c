"""Pressure at sea level and temperature near the ground: weather types that come back.

Every few days the weather changes to one of a few types, each with patterns of its own. A day is its type's pattern,
more or less strong, the season, the hour, and weather of its own that forgets within two days. Two days of one type are
analogs by construction: a search should find them before others.

Shapes: A latitudes from the south pole, B longitudes from -180, K coefficients.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from models.climate.generator.atmosphere import ground_of
from models.climate.generator.background import Smooth
from models.climate.generator.chance import autoregression, stream
from models.climate.generator.files import coordinates, variable
from models.common.configuration import check, setting

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Complexes = NDArray[np.complex128]

DEGREE = 15
"""Highest degree of a pattern."""

SPELL = 5
"""Days between two changes of weather, on average."""

MEMORY = 2.0
"""Days after which a day's own weather is forgotten to 1/e."""

_PATTERN, _SPELL, _OWN, _STRENGTH, _ONSET = range(40, 45)
"""What chance is asked for."""

FILL = 1e15


@dataclass(frozen=True, kw_only=True)
class SurfaceConfig:
    """A world of recurring weather types."""

    rows: int = setting(361, "Rows", "Latitudes from pole to pole, 19 to 721; MERRA-2 has 361.", ge=19, le=721)
    columns: int = setting(576, "Columns", "Longitudes from -180, 36 to 1440; MERRA-2 has 576.", ge=36, le=1440)
    types: int = setting(8, "Weather types", "Number of patterns that come back, 2 to 100.", ge=2, le=100)
    own: float = setting(
        0.5,
        "Own weather",
        "A day's own weather over its type's pattern, as a ratio of deviations, 0 to 10.",
        ge=0,
        le=10,
    )
    seed: int = setting(0, "Seed", "Which world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        """Hold the settings to their limits."""
        check(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """One hour, float32.

    Attributes:
        latitude, longitude: (A), (B) degrees.
        SLP: pressure at sea level (A, B), Pa.
        T2M: temperature at 2 m (A, B), K.
        U10M: eastward wind at 10 m (A, B), m/s: in balance with the pressure, slowed by friction.
    """

    latitude: Floats
    longitude: Floats
    SLP: Singles
    T2M: Singles
    U10M: Singles


def type_of(config: SurfaceConfig, day: date) -> int:
    """The weather type of a day, 0 to types - 1: what a search for analogs should find again.

    A type begins 0 to 4 days into each span of five days, so spells last 1 to 9 days, and differs from the one before,
    but for one change in 64 that may lead to the same type.

    Source:
        Ours.
    """
    number = day.toordinal()
    span = number // SPELL
    if number % SPELL < int(stream(config.seed, _SPELL, span).integers(0, SPELL)):
        span -= 1
    # steps between types are never 0, and their sum is kept short by starting anew every 64 spans
    block = span // 64 * 64
    steps = [int(stream(config.seed, _ONSET, at).integers(1, config.types)) for at in range(block + 1, span + 1)]
    return (int(stream(config.seed, _ONSET, block).integers(0, config.types)) + sum(steps)) % config.types


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sphere:
    latitude: Floats
    longitude: Floats
    smooth: Smooth
    ground: Floats


@lru_cache(maxsize=2)
def _sphere(seed: int, rows: int, columns: int) -> _Sphere:
    latitude = (np.arange(rows) * 2 - (rows - 1)) * 90.0 / (rows - 1)
    longitude = -180.0 + np.arange(columns) * 360.0 / columns
    return _Sphere(
        latitude=latitude,
        longitude=longitude,
        smooth=Smooth(latitude, longitude, DEGREE),
        ground=ground_of(seed, latitude, longitude),
    )


def _weights(smooth: Smooth) -> Floats:
    degrees = np.arange(DEGREE + 1.0)
    shape = np.where(degrees > 2, (2 * degrees + 1) / (degrees**2 + 36.0) ** 1.5, 0.0)
    return smooth.weights(shape / shape.sum())


@lru_cache(maxsize=16)
def _patterns(config: SurfaceConfig, day: date) -> tuple[Complexes, Complexes]:
    """Coefficients of pressure and temperature of a day, in units of their deviations (K) each."""
    smooth = _sphere(config.seed, config.rows, config.columns).smooth
    size, weights = len(smooth.degrees), _weights(smooth)
    drawn = stream(config.seed, _PATTERN, type_of(config, day)).standard_normal((4, size))
    strength = float(np.exp(0.25 * stream(config.seed, _STRENGTH, day.toordinal()).standard_normal()))
    own = autoregression(config.seed, _OWN, 4 * size, day.toordinal(), MEMORY).reshape(4, size)
    parts = (strength * drawn + config.own * own) * weights
    pressure = parts[0] + 1j * parts[1]
    # warm where pressure is low to the west: half of the temperature's pattern is the pressure's, turned by a quarter
    return pressure, 0.6 * 1j * pressure + 0.8 * (parts[2] + 1j * parts[3])


def surface_of(config: SurfaceConfig, day: date, hour: int = 0) -> Surface:
    """One hour of a day.

    Args:
        config: grid and world.
        day: the day.
        hour: 0 to 23 UTC; within a day the weather goes over into the next day's.

    Returns:
        The fields; the same bits whenever they are made.

    Source:
        Ours.
    """
    sphere = _sphere(config.seed, config.rows, config.columns)
    share = hour / 24.0
    today, tomorrow = _patterns(config, day), _patterns(config, day + timedelta(days=1))
    pressure, warmth = ((1 - share) * a + share * b for a, b in zip(today, tomorrow, strict=True))
    sine = np.sin(np.radians(sphere.latitude))[:, None]
    season = np.cos(2 * np.pi * ((day - date(day.year, 1, 1)).days + share - 20.0) / 365.25)
    stormy = 0.3 + 0.7 * np.abs(sine)
    anomaly = sphere.smooth.field(pressure[None])[0]
    slp = (
        101_300.0 + 700.0 * np.cos(3.2 * np.radians(np.abs(sphere.latitude)) - 1.6)[:, None] + 900.0 * stormy * anomaly
    )
    east, north = sphere.smooth.gradient(pressure[None])
    del east
    coriolis = 1.4584e-4 * np.where(sine < 0, -1.0, 1.0) * np.maximum(np.abs(sine), 0.2)
    u10m = -0.6 * 900.0 * stormy * north[0] / (1.2 * coriolis)
    daily = 4.0 * (sphere.ground > 50.0) * np.cos(2 * np.pi * ((hour + sphere.longitude / 15.0) - 15.0) / 24.0)[None, :]
    t2m = 300.0 - 48.0 * sine**2 - 14.0 * season * sine - 6.5e-3 * sphere.ground + daily
    t2m = t2m + 4.0 * stormy * sphere.smooth.field(warmth[None])[0]
    return Surface(
        latitude=sphere.latitude,
        longitude=sphere.longitude,
        SLP=slp.astype(np.float32),
        T2M=t2m.astype(np.float32),
        U10M=u10m.astype(np.float32),
    )


def stream_of(day: date) -> int:
    """MERRA-2's number of the production stream of a day, a part of its file names.

    Source:
        MERRA-2's file specification: 100 to 1991, 200 to 2000, 300 to 2010, then 400; 401 where days were made again.
    """
    if (day.year, day.month) in {(2020, 9), (2021, 6), (2021, 7), (2021, 8), (2021, 9)}:
        return 401
    return 100 if day.year < 1992 else 200 if day.year < 2001 else 300 if day.year < 2011 else 400


def write_surface(config: SurfaceConfig, folder: Path, first: date, last: date, *, hours: int = 24) -> tuple[Path, ...]:
    """Write days as MERRA-2's M2I1NXASM has them.

    Args:
        config: grid and world.
        folder: where to; made if absent.
        first, last: days, both included.
        hours: of each day, from 0 UTC.

    Returns:
        `MERRA2_{stream}.inst1_2d_asm_Nx.YYYYMMDD.nc4`, one a day: SLP, T2M, U10M (time, lat, lon).

    Source:
        MERRA-2's file specification.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        written.append(folder / f"MERRA2_{stream_of(day)}.inst1_2d_asm_Nx.{day:%Y%m%d}.nc4")
        moments = [surface_of(config, day, hour) for hour in range(hours)]
        with netCDF4.Dataset(written[-1], "w", format="NETCDF4") as file:
            coordinates(
                file,
                time=(np.arange(hours, dtype=np.int32) * 60, {"units": f"minutes since {day} 00:00:00"}),
                lat=(moments[0].latitude, {"units": "degrees_north"}),
                lon=(moments[0].longitude, {"units": "degrees_east"}),
            )
            for name, unit, words in (
                ("SLP", "Pa", "sea_level_pressure"),
                ("T2M", "K", "2-meter_air_temperature"),
                ("U10M", "m s-1", "10-meter_eastward_wind"),
            ):
                values = np.stack([getattr(moment, name) for moment in moments])
                fills = {"missing_value": np.float32(FILL), "fmissing_value": np.float32(FILL)}
                variable(file, name, ("time", "lat", "lon"), values, FILL, units=unit, long_name=words, **fills)
    return tuple(written)
