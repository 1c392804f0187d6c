"""Rain that follows what satellites saw in the days before, and the satellites' files.

A moist field g of each day forgets within a few days; the wetness of day d is a weighted sum of g over days d - 1 to
d - 8 and of the day's own chance, and it rains where the wetness is above the median or so. Infrared, visible and
microwave channels see g of their day, with noise, gaps between swaths, night and lost slots. So a forecast from eight
days of observations can know a stated share of the next day's rain, less the later the day.

Shapes: A latitudes, B longitudes, K coefficients, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from models.climate.generator.background import Smooth
from models.climate.generator.chance import autoregression, stream
from models.climate.generator.files import coordinates, variable
from models.common.configuration import check, setting

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Complexes = NDArray[np.complex128]

DEGREE = 18
LAGS = 8
WEIGHTS = np.exp(-np.arange(1, LAGS + 1) / 3.0)
"""Of g one to eight days before, in the wetness."""

_MOIST, _OWN, _NOISE, _LOST = range(60, 64)
"""What chance is asked for."""

RAIN_SCALE, RAIN_FROM = 7.4, 0.07
"""mm/day, and the wetness in deviations from which on it rains: wet in 47 % of places, 2.8 mm/day on average."""

LAUNCHED = date(2000, 6, 1)
"""First day whose rain comes from IMERG; PERSIANN-CDR before."""

IMAGER = (
    "refl_0_65um_nom", "refl_0_86um_nom", "refl_1_60um_nom", "refl_3_75um_nom", "temp_4_46um_nom", "temp_4_52um_nom",
    "temp_6_7um_nom", "temp_7_3um_nom", "temp_9_7um_nom", "temp_11_0um_nom", "temp_12_0um_nom", "temp_13_3um_nom",
    "temp_13_6um_nom", "temp_13_9um_nom", "temp_14_2um_nom",
)  # fmt: skip
SOUNDER = (
    "temp_3_75um_nom_sounder", "temp_4_45um_nom_sounder", "temp_4_57um_nom_sounder", "temp_11_0um_nom_sounder",
    "temp_12_0um_nom_sounder", "temp_14_5um_nom_sounder", "temp_14_7um_nom_sounder", "temp_14_9um_nom_sounder",
)  # fmt: skip
PATMOSX_MEAN = (
    25.0, 26.0, 20.0, 8.0, 252.0, 262.0, 244.0, 256.0, 262.0, 278.0, 276.0, 258.0, 252.0, 246.0, 238.0,
    286.0, 264.0, 250.0, 278.0, 276.0, 236.0, 230.0, 224.0,
)  # fmt: skip
PATMOSX_GAIN = (
    9.0, 9.0, 6.0, 2.0, -6.0, -8.0, -7.0, -9.0, -10.0, -18.0, -18.0, -10.0, -8.0, -6.0, -4.0,
    -14.0, -8.0, -6.0, -18.0, -18.0, -4.0, -2.0, 1.0,
)  # fmt: skip
"""What each channel of imager and sounder shows for g = 0, and by how much for every unit of g."""

MICROWAVE = ("tb19h", "tb19v", "tb22v", "tb37h", "tb37v", "tb85h", "tb85v")


@dataclass(frozen=True, kw_only=True)
class PrecipitationWorldConfig:
    """A world of rain."""

    rows: int = setting(36, "Rows", "Latitudes, centres of equal bands from pole to pole, 18 to 360.", ge=18, le=360)
    columns: int = setting(72, "Columns", "Longitudes from -180, 36 to 576.", ge=36, le=576)
    memory: float = setting(4.0, "Memory", "Days after which moisture is forgotten to 1/e, 0.5 to 60.", ge=0.5, le=60)
    own: float = setting(
        0.5, "Own chance", "Share of the variance of wetness that no observation tells, 0 to 1.", ge=0, le=1
    )
    noise: float = setting(1.0, "Noise", "Standard deviation of a brightness temperature, K, 0 to 50.", ge=0, le=50)
    lost: float = setting(0.03, "Lost slots", "Share of GridSat's slots that are lost, 0 to 1.", ge=0, le=1)
    seed: int = setting(0, "Seed", "Which world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        """Hold the settings to their limits."""
        check(self)

    def predictable(self, lead: int) -> float:
        """Correlation of the wetness `lead` days ahead with the best forecast from all of the past's moisture.

        The past of day d knows g up to day d itself; the wetness of day d + lead needs g up to day d + lead - 1, of
        which the unknown days are forecast by their autocorrelation.

        Args:
            lead: days, 1 or more.

        Returns:
            0 to 1.

        Source:
            Conditional variance of a sum of a first-order autoregression; ours.
        """
        lags = np.arange(1, LAGS + 1)
        kept = np.exp(-1.0 / self.memory)
        total = WEIGHTS @ kept ** np.abs(np.subtract.outer(lags, lags)) @ WEIGHTS
        # of g at d + lead - k only the part beyond d is unknown: covariance given g up to d
        ahead = np.maximum(lead - lags, 0)
        both = kept ** np.abs(np.subtract.outer(ahead, ahead)) - kept ** np.add.outer(ahead, ahead)
        unknown = WEIGHTS @ np.where(np.minimum.outer(ahead, ahead) > 0, both, 0.0) @ WEIGHTS
        return float(np.sqrt((1 - self.own) * (1 - unknown / total)))


def _centres(rows: int, columns: int) -> tuple[Floats, Floats]:
    latitude = (np.arange(rows) * 2 - (rows - 1)) * 90.0 / rows
    return np.asarray(latitude), np.asarray(-180.0 + (np.arange(columns) + 0.5) * 360.0 / columns)


@lru_cache(maxsize=8)
def _smooth(latitude: tuple[float, ...], longitude: tuple[float, ...]) -> Smooth:
    return Smooth(np.array(latitude), np.array(longitude), DEGREE)


def _coefficients(config: PrecipitationWorldConfig, kind: int, day: date, memory: float) -> Complexes:
    """Coefficients (K) of a field of unit variance."""
    smooth = _smooth((0.0,), (0.0,))
    degrees = np.arange(DEGREE + 1.0)
    shape = np.where(degrees > 0, (2 * degrees + 1) / (degrees**2 + 49.0), 0.0)
    parts = autoregression(config.seed, kind, 2 * len(smooth.degrees), day.toordinal(), memory)
    real, imaginary = parts.reshape(2, -1)
    return np.asarray((real + 1j * imaginary) * smooth.weights(shape / shape.sum()))


@lru_cache(maxsize=64)
def _moist(config: PrecipitationWorldConfig, day: date) -> Complexes:
    return _coefficients(config, _MOIST, day, config.memory)


@lru_cache(maxsize=8)
def _wet(config: PrecipitationWorldConfig, day: date) -> Complexes:
    kept = np.exp(-np.abs(np.subtract.outer(np.arange(LAGS), np.arange(LAGS))) / config.memory)
    past = sum(w * _moist(config, day - timedelta(days=k)) for k, w in enumerate(WEIGHTS, start=1))
    own = _coefficients(config, _OWN, day, 0.05)
    share = np.sqrt((1 - config.own) / (WEIGHTS @ kept @ WEIGHTS))
    return np.asarray(share * past + np.sqrt(config.own) * own)


def _on(coefficients: Complexes, latitude: Floats, longitude: Floats) -> Floats:
    """A field on any grid (A, B)."""
    smooth = _smooth(tuple(latitude.tolist()), tuple(longitude.tolist()))
    return np.asarray(smooth.field(coefficients[None])[0])


def rain_of(
    config: PrecipitationWorldConfig, day: date, latitude: Floats | None = None, longitude: Floats | None = None
) -> Singles:
    """Rain of a day, mm/day (A, B), float32.

    Args:
        config: which world.
        day: the day.
        latitude, longitude: another grid than the world's own, degrees.

    Returns:
        Zero where it is dry; the same bits whenever it is made.

    Source:
        Ours; share of wet places and mean after the published statistics of the target (47.2 %, 2.82 mm/day).
    """
    own = _centres(config.rows, config.columns)
    wet = _on(_wet(config, day), own[0] if latitude is None else latitude, own[1] if longitude is None else longitude)
    return (RAIN_SCALE * np.maximum(wet - RAIN_FROM, 0.0) ** 1.3).astype(np.float32)


def _noisy(config: PrecipitationWorldConfig, values: Floats, day: date, kind: int) -> Floats:
    """Values with the instrument's noise; `kind` says which instrument, pass and slot."""
    noise = stream(config.seed, _NOISE, day.toordinal(), kind).standard_normal(values.shape)
    return values + config.noise * noise


def _gridsat(config: PrecipitationWorldConfig, day: date, slot: int, latitude: Floats, longitude: Floats) -> Floats:
    """Visible reflectance, water vapour and window temperature (A, B, 3) of a three-hourly slot; NaN at night."""
    g = _on(_moist(config, day), latitude, longitude)
    window = _noisy(config, 275.0 - 20.0 * g, day, 100 + slot)
    vapour = _noisy(config, 245.0 - 8.0 * g, day, 120 + slot)
    sun = np.cos(np.radians(longitude + 45.0 * slot - 180.0))[None, :]
    light = np.clip(_noisy(config, 0.3 + 0.12 * g, day, 140 + slot) * 0.01 + 0.99 * (0.3 + 0.12 * g), 0.0, 1.2)
    return np.stack([np.where(sun > 0.1, light, np.nan), vapour, window], axis=-1)


def _lost(config: PrecipitationWorldConfig, day: date) -> NDArray[np.bool_]:
    """Which of a day's eight slots GridSat has lost."""
    return np.asarray(stream(config.seed, _LOST, day.toordinal()).random(8) < config.lost)


def _swath(config: PrecipitationWorldConfig, day: date, ascending: bool, latitude: Floats, longitude: Floats) -> Any:
    """Whether a polar orbiter saw a place: slanted stripes with gaps at low latitudes, another day another place."""
    shift = (day.toordinal() * 37 + (0 if ascending else 12)) % 360
    lean = 20.0 if ascending else -20.0
    across = (longitude[None, :] + shift + lean * np.sin(np.radians(latitude))[:, None]) % 25.7
    return across < 25.7 * np.minimum(1.0, 0.75 / np.maximum(np.cos(np.radians(latitude)), 0.05))[:, None]


def _patmosx(
    config: PrecipitationWorldConfig, day: date, ascending: bool, latitude: Floats, longitude: Floats
) -> Floats:
    """Imager and sounder channels (A, B, 23): reflectances in percent, then temperatures in K; NaN between swaths."""
    g = _on(_moist(config, day), latitude, longitude)[..., None]
    values = _noisy(config, np.add(PATMOSX_MEAN, np.multiply(PATMOSX_GAIN, g)), day, 200 + ascending)
    return np.where(_swath(config, day, ascending, latitude, longitude)[..., None], values, np.nan)


def _ssmi(config: PrecipitationWorldConfig, day: date, ascending: bool, latitude: Floats, longitude: Floats) -> Floats:
    """Brightness temperatures (A, B, 7), K; emission warms the low channels, ice cools the high ones."""
    g = _on(_moist(config, day), latitude, longitude)[..., None]
    base = np.array([170.0, 205, 225, 195, 225, 250, 260]) + (0.0 if ascending else 1.5)
    values = _noisy(config, base + np.array([12.0, 8, 7, 10, 6, -6, -7]) * g, day, 220 + ascending)
    return np.where(_swath(config, day, ascending, latitude, longitude)[..., None], values, np.nan)


def inputs_of(config: PrecipitationWorldConfig, day: date) -> dict[str, Singles]:
    """What satellites saw of a day on the world's grid, float32; NaN where nothing was seen.

    Args:
        config: which world.
        day: the day.

    Returns:
        gridsat (A, B, 8, 3): visible reflectance, water vapour, window in K; patmosx (A, B, 46): imager and sounder of
        the ascending pass, then of the descending one; ssmi (A, B, 14): ascending, then descending.

    Source:
        Channels of the WxC-Bench task; the physics is the simplest that tells g from each of them.
    """
    place = _centres(config.rows, config.columns)
    slots = np.stack([_gridsat(config, day, slot, *place) for slot in range(8)], axis=2)
    slots[:, :, _lost(config, day)] = np.nan
    passes = (True, False)
    return {
        "gridsat": slots.astype(np.float32),
        "patmosx": np.concatenate([_patmosx(config, day, up, *place) for up in passes], axis=-1).astype(np.float32),
        "ssmi": np.concatenate([_ssmi(config, day, up, *place) for up in passes], axis=-1).astype(np.float32),
    }


def _written(
    folder: Path, first: date, last: date, write: Callable[[Path, date], list[Path]]
) -> tuple[Path, ...]:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return tuple(path for day in days for path in write(folder, day))


def write_gridsat(config: PrecipitationWorldConfig, folder: Path, first: date, last: date) -> tuple[Path, ...]:
    """Write GridSat-B1 slots: `GRIDSAT-B1.YYYY.MM.DD.HH.v02r01.nc`; lost slots have no file.

    Latitudes reach from -70 to 70, values are packed in 16 bits as in the archive.

    Args:
        config: which world.
        folder: where to; made if absent.
        first, last: days, both included.

    Returns:
        The files.

    Source:
        GridSat-B1 climate data record, algorithm document of Knapp: names, packing, fill -31999.
    """
    rows = max(9, config.rows * 140 // 180)
    latitude = np.linspace(-70.0, 70.0, rows)
    longitude = -180.0 + np.arange(config.columns) * 360.0 / config.columns

    def write(folder: Path, day: date) -> list[Path]:
        paths = []
        for slot in np.flatnonzero(~_lost(config, day)).tolist():
            paths.append(folder / f"GRIDSAT-B1.{day:%Y.%m.%d}.{3 * slot:02d}.v02r01.nc")
            values = _gridsat(config, day, slot, latitude, longitude)
            with netCDF4.Dataset(paths[-1], "w", format="NETCDF4") as file:
                days = (datetime(day.year, day.month, day.day, 3 * slot) - datetime(1970, 1, 1)).total_seconds() / 86400
                coordinates(
                    file,
                    time=(np.array([days]), {"units": "days since 1970-01-01 00:00:00", "calendar": "standard"}),
                    lat=(latitude.astype(np.float32), {"units": "degrees_north"}),
                    lon=(longitude.astype(np.float32), {"units": "degrees_east"}),
                )
                for channel, (name, scale, offset, unit) in enumerate((
                    ("vschn", 0.001, 0.5, "1"), ("irwvp", 0.01, 200.0, "kelvin"), ("irwin_cdr", 0.01, 200.0, "kelvin"),
                )):  # fmt: skip
                    _pack(file, name, ("time", "lat", "lon"), values[None, ..., channel], scale, offset, -31999, unit)
        return paths

    return _written(folder, first, last, write)


def _pack(
    file: netCDF4.Dataset, name: str, dims: tuple[str, ...], values: Floats, scale: float, offset: float, fill: int,
    unit: str,
) -> None:  # fmt: skip
    """Write float values as 16-bit whole numbers; NaN becomes the fill."""
    known = np.isfinite(values)
    packed = np.full(values.shape, fill, np.int16)
    packed[known] = np.clip(np.rint((values[known] - offset) / scale), -31998, 32767).astype(np.int16)
    variable(
        file, name, dims, packed, fill, units=unit, scale_factor=np.float32(scale), add_offset=np.float32(offset)
    )  # fmt: skip


def write_patmosx(config: PrecipitationWorldConfig, folder: Path, first: date, last: date) -> tuple[Path, ...]:
    """Write PATMOS-x days: `patmosx_v06r00_NOAA-19_{asc,des}_dYYYYMMDD_cYYYYMMDD.nc`, packed in 16 bits.

    Args:
        config: which world.
        folder: where to; made if absent.
        first, last: days, both included.

    Returns:
        The files, ascending before descending.

    Source:
        Variables as the published loader reads them, (time, latitude, longitude), scan_line_time in hours of the day.
    """
    latitude, longitude = _centres(config.rows, config.columns)

    def write(folder: Path, day: date) -> list[Path]:
        paths = []
        for ascending in (True, False):
            stamp = f"{'asc' if ascending else 'des'}_d{day:%Y%m%d}_c20220101"
            paths.append(folder / f"patmosx_v06r00_NOAA-19_{stamp}.nc")
            values = _patmosx(config, day, ascending, latitude, longitude)
            with netCDF4.Dataset(paths[-1], "w", format="NETCDF4") as file:
                coordinates(
                    file,
                    time=(np.array([0.0]), {"units": f"hours since {day} 00:00:00"}),
                    latitude=(latitude.astype(np.float32), {"units": "degrees_north"}),
                    longitude=(longitude.astype(np.float32), {"units": "degrees_east"}),
                )
                dims = ("time", "latitude", "longitude")
                for channel, name in enumerate((*IMAGER, *SOUNDER)):
                    unit = "%" if name.startswith("refl") else "K"
                    offset = 50.0 if unit == "%" else 250.0
                    _pack(file, name, dims, values[None, ..., channel], 0.005, offset, -32768, unit)
                local = (13.5 if ascending else 1.5) - longitude / 15.0
                hours = np.broadcast_to((local % 24.0)[None, None, :], (1, *values.shape[:2]))
                variable(file, "scan_line_time", dims, np.ascontiguousarray(hours, np.float32), -999.0, units="hours")
        return paths

    return _written(folder, first, last, write)


def write_ssmi(config: PrecipitationWorldConfig, folder: Path, first: date, last: date) -> tuple[Path, ...]:
    """Write gridded SSM/I days: `CSU_SSMI_FCDR-GRID_V02R00_F13_DYYYYMMDD.nc`, both passes in one file.

    Args:
        config: which world.
        folder: where to; made if absent.
        first, last: days, both included.

    Returns:
        The files.

    Source:
        Variables of the gridded daily SSM/I climate data record: fcdr_tb19h_asc, ..., fcdr_tb85v_dsc; fill -9999.
    """
    latitude, longitude = _centres(config.rows, config.columns)

    def write(folder: Path, day: date) -> list[Path]:
        path = folder / f"CSU_SSMI_FCDR-GRID_V02R00_F13_D{day:%Y%m%d}.nc"
        with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
            coordinates(
                file,
                lat=(latitude.astype(np.float32), {"units": "degrees_north"}),
                lon=((longitude + 180.0).astype(np.float32), {"units": "degrees_east"}),
            )
            for ascending, suffix, begin in ((True, "asc", 21600), (False, "dsc", 64800)):
                values = _ssmi(config, day, ascending, latitude, longitude + 180.0)
                for channel, name in enumerate(MICROWAVE):
                    known = np.where(np.isfinite(values[..., channel]), values[..., channel], -9999.0)
                    variable(
                        file, f"fcdr_{name}_{suffix}", ("lat", "lon"), known.astype(np.float32), -9999.0, units="K"
                    )
                seconds = np.broadcast_to(begin + 60 * np.arange(len(longitude), dtype=np.int32), values.shape[:2])
                words = "seconds after the start of the day"
                variable(file, f"time_offset_{suffix}", ("lat", "lon"), seconds.astype(np.int32), long_name=words)
        return [path]

    return _written(folder, first, last, write)


def write_rain(config: PrecipitationWorldConfig, folder: Path, first: date, last: date) -> tuple[Path, ...]:
    """Write daily rain: PERSIANN-CDR before June 2000, within 60 degrees, longitudes from 0; IMERG after, whole sphere.

    Args:
        config: which world.
        folder: where to; made if absent.
        first, last: days, both included.

    Returns:
        `PERSIANN-CDR_v01r01_YYYYMMDD_c20140523.nc` or `3B-DAY.MS.MRG.3IMERG.YYYYMMDD-S000000-E235959.V07B.nc4`.

    Source:
        Both archives' own conventions: (time, lon, lat), mm/day, fills -9999 and -9999.9, PERSIANN from north to south.
    """
    latitude, longitude = _centres(config.rows, config.columns)

    def write(folder: Path, day: date) -> list[Path]:
        early = day < LAUNCHED
        rows = latitude[np.abs(latitude) < 60.0][::-1] if early else latitude
        columns = longitude + 180.0 if early else longitude
        name = f"PERSIANN-CDR_v01r01_{day:%Y%m%d}_c20140523.nc"
        if not early:
            name = f"3B-DAY.MS.MRG.3IMERG.{day:%Y%m%d}-S000000-E235959.V07B.nc4"
        fill = -9999.0 if early else float(np.float32(-9999.9))
        values = rain_of(config, day, rows, columns).T[None]
        with netCDF4.Dataset(folder / name, "w", format="NETCDF4") as file:
            coordinates(
                file,
                time=(np.array([0], np.int32), {"units": f"days since {day} 00:00:00", "calendar": "julian"}),
                lon=(columns.astype(np.float32), {"units": "degrees_east"}),
                lat=(rows.astype(np.float32), {"units": "degrees_north"}),
            )
            variable(file, "precipitation", ("time", "lon", "lat"), values, fill, units="mm" if early else "mm/day")
        return [folder / name]

    return _written(folder, first, last, write)
