"""Tropical cyclones and their best tracks, as text in the format of HURDAT2.

A storm is born over warm water in its season, drifts with the trades and towards the pole, recurves into the
westerlies, grows towards what the sea beneath can feed, decays over land and over cold water, and turns extratropical
or dies. Wind and pressure follow one another, radii follow the wind. Old seasons have no radii, some have no pressure;
storms that touch land have records between the synoptic hours; tracks cross the date line and keep their letters.

Shapes: N records of a storm.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.climate.generator.chance import stream
from models.common.configuration import check, setting

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MISSING = -999

_STORMS = 30
"""What chance is asked for."""

NAMES = (
    "ANA", "BILL", "CLAUDETTE", "DANNY", "ELSA", "FRED", "GRACE", "HENRI", "IDA", "JULIAN", "KATE", "LARRY", "MINDY",
    "NICHOLAS", "ODETTE", "PETER", "ROSE", "SAM", "TERESA", "VICTOR", "WANDA", "AGATHA", "BLAS", "CELIA", "DARBY",
    "ESTELLE", "FRANK", "GEORGETTE", "HOWARD", "IVETTE", "JAVIER", "KAY", "LESTER", "MADELINE", "NEWTON", "ORLENE",
)  # fmt: skip

BIRTH = {
    "AL": ((8.0, 26.0), (-90.0, -20.0)),
    "EP": ((8.0, 18.0), (-125.0, -92.0)),
    "CP": ((8.0, 16.0), (-176.0, -142.0)),
}
"""Basin to latitudes and longitudes of birth, degrees."""


@dataclass(frozen=True, kw_only=True)
class StormsConfig:
    """Which ocean, and how many storms it has."""

    basin: Literal["AL", "EP", "CP"] = setting("AL", "Basin", "AL Atlantic, EP or CP eastern or central Pacific.")
    yearly: float = setting(15.0, "Storms a year", "Mean number of storms of a season, 1 to 99.", ge=1, le=99)
    seed: int = setting(0, "Seed", "Which world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        """Hold the settings to their limits."""
        check(self)
        if self.basin not in BIRTH:
            raise ValueError(f"StormsConfig.basin must be one of {', '.join(BIRTH)}, got {self.basin!r}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Storm:
    """A storm and its records, in order of time.

    Attributes:
        identity: basin, number in the season and year: "AL012005".
        name: "UNNAMED" where it has none.
        minutes: since 1970-01-01T00 UTC (N).
        record: "L" at landfall, "I" at the greatest intensity, "" else (N).
        status: TD, TS, HU, EX, LO (N).
        latitude, longitude: (N) degrees north and east; an eastern storm that has crossed the date line goes on beyond
            180, a western one beyond -180.
        wind: sustained, knots (N). pressure: least, hPa (N), `MISSING` where unknown.
        radii: of 34, 50 and 64 knots to the north-east, south-east, south-west, north-west, nautical miles (N, 12).
        radius: of the greatest wind, nautical miles (N); `MISSING` where unknown.
    """

    identity: str
    name: str
    minutes: Integers
    record: tuple[str, ...]
    status: tuple[str, ...]
    latitude: Floats
    longitude: Floats
    wind: Integers
    pressure: Integers
    radii: Integers
    radius: Integers


def _land(basin: str, latitude: float, longitude: float) -> bool:
    """Whether a place is on the land beside a basin: a coast that runs from south-east to north-west."""
    if basin == "AL":
        return (longitude < -81.0 - max(0.0, 30.0 - latitude) * 1.2 and latitude < 30.0) or (
            latitude >= 30.0 and longitude < -81.0 + (latitude - 30.0) * 1.1
        )  # fmt: skip
    return longitude > -97.0 - (latitude - 16.0) * 1.15 and latitude > 14.0 and longitude < 0


def _feeding(latitude: float) -> float:
    """Wind in knots that the sea can feed: much in the tropics, little beyond 35 degrees."""
    return float(15.0 + 140.0 / (1.0 + np.exp((latitude - 29.0) / 3.5)))


def storms_of(config: StormsConfig, year: int) -> tuple[Storm, ...]:
    """The storms of one season, in order of birth.

    Args:
        config: basin and number.
        year: the season.

    Returns:
        At least one storm; the same whenever they are made.

    Source:
        Drift and decay in the spirit of Emanuel et al. 2006, "A statistical deterministic approach to hurricane risk";
        wind and pressure by Atkinson and Holliday 1977: wind = 6.7 (1010 - pressure)^0.644. Numbers are ours.
    """
    rng = stream(config.seed, _STORMS + sorted(BIRTH).index(config.basin), year)
    count = max(1, int(rng.poisson(config.yearly)))
    births = np.sort(rng.normal(255.0, 28.0, count).clip(150.0, 330.0))
    return tuple(_storm(config, rng, year, number, float(day)) for number, day in enumerate(births, start=1))


def _storm(config: StormsConfig, rng: np.random.Generator, year: int, number: int, day: float) -> Storm:
    (south, north), (west, east) = BIRTH[config.basin]
    latitude, longitude = rng.uniform(south, north), rng.uniform(west, east)
    start = datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=6 * round(day * 4))
    wind, vigour, turn = 25.0, rng.uniform(0.3, 1.0), rng.uniform(22.0, 32.0)
    rows: list[tuple[int, str, float, float, float, bool]] = []
    drift_u, drift_v = 0.0, 0.0
    was_on_land = _land(config.basin, latitude, longitude)
    for step in range(int(rng.integers(8, 80))):
        minute = int(start.timestamp()) // 60 + 360 * step
        on_land = _land(config.basin, latitude, longitude)
        if on_land and not was_on_land and rows:
            # the coast was crossed between two synoptic hours
            share = rng.uniform(0.1, 0.9)
            _, _, before, across, strength, _ = rows[-1]
            rows.append((
                minute - 360 + int(360 * share) // 5 * 5 + 5, "L", before + share * (latitude - before),
                across + share * (longitude - across), strength, True,
            ))  # fmt: skip
        was_on_land = on_land
        rows.append((minute, "", latitude, longitude, wind, on_land))
        feed = 20.0 if on_land else _feeding(abs(latitude)) * vigour
        pace = 0.28 if on_land else 0.09 if feed > wind else 0.12
        wind = max(15.0, wind + pace * (feed - wind) + rng.normal(0, 2.5))
        if wind < 18.0 and step > 6:
            break
        drift_u, drift_v = 0.9 * drift_u + rng.normal(0, 0.9), 0.9 * drift_v + rng.normal(0, 0.6)
        # m/s: trades, the drift of a vortex towards the pole, westerlies
        u = -5.5 + 11.0 / (1 + np.exp(-(latitude - turn) / 3.0)) * (1 + max(0.0, latitude - turn) / 12.0) + drift_u
        v = 1.8 + 0.06 * max(0.0, latitude - 12.0) + drift_v
        latitude += v * 21600 / 111_195
        longitude += u * 21600 / (111_195 * np.cos(np.radians(latitude)))
        if not 3.0 < latitude < 65.0:
            break
    return _recorded(config, rng, year, number, rows)


def _recorded(
    config: StormsConfig, rng: np.random.Generator, year: int, number: int,
    rows: list[tuple[int, str, float, float, float, bool]],
) -> Storm:  # fmt: skip
    """Round a track to what a best track holds, and lose what old seasons lost."""
    wind = np.array([5 * round(row[4] / 5) for row in rows], np.int64)
    latitude = np.round([row[2] for row in rows], 1)
    longitude = np.round([row[3] for row in rows], 1)
    depth = (np.maximum(wind, 15) / 6.7) ** (1 / 0.644)
    pressure = np.rint(1012.0 - depth + rng.normal(0, 1.5, len(rows))).astype(np.int64)
    record = [row[1] for row in rows]
    peak = int(wind.argmax())
    if not record[peak] and rng.random() < 0.15:
        record[peak] = "I"
    status = []
    for n, row in enumerate(rows):
        late = n > 0.6 * len(rows)
        if late and abs(row[2]) > 36.0:
            status.append("EX")
        elif wind[n] >= 64:
            status.append("HU")
        elif wind[n] >= 34:
            status.append("TS")
        else:
            status.append("LO" if late and wind[n] < 25 else "TD")
    shape = np.array([1.15, 1.0, 0.8, 0.9])
    reach = [
        np.where(wind >= limit, (wind - limit + 15) * factor, 0) for limit, factor in ((34, 2.2), (50, 1.3), (64, 0.9))
    ]
    radii = np.concatenate([5 * np.rint(np.outer(r, shape) / 5) for r in reach], axis=1).astype(np.int64)
    radius = 5 * np.rint((55 - 0.25 * wind + rng.normal(0, 4, len(rows))).clip(10) / 5).astype(np.int64)
    if year < 2004:
        radii[:] = MISSING
    if year < 2021:
        radius[:] = MISSING
    if year < 1979:
        pressure[rng.random(len(rows)) < 0.8] = MISSING
    named = wind.max() >= 34 and year >= 1950
    return Storm(
        identity=f"{config.basin}{number:02d}{year}",
        name=NAMES[(number - 1) % len(NAMES)] if named else "UNNAMED",
        minutes=np.array([row[0] for row in rows], np.int64),
        record=tuple(record),
        status=tuple(status),
        latitude=latitude,
        longitude=longitude,
        wind=wind,
        pressure=pressure,
        radii=radii,
        radius=radius,
    )


def hurdat2(storms: tuple[Storm, ...]) -> str:
    """The text of a best-track file.

    Args:
        storms: in the order in which they are to stand.

    Returns:
        Headers and records as the hurricane centre spaces them, with the 21st column of new editions; longitudes within
        180 degrees and a letter.

    Source:
        Landsea and Franklin 2013, "Atlantic hurricane database uncertainty and presentation of a new database format".
    """
    lines = []
    for storm in storms:
        lines.append(f"{storm.identity},{storm.name:>19},{len(storm.minutes):>7},")
        for n, minute in enumerate(storm.minutes.tolist()):
            moment = datetime.fromtimestamp(minute * 60, UTC)
            east = (storm.longitude[n] + 180.0) % 360.0 - 180.0
            place = (
                f"{abs(storm.latitude[n]):4.1f}{'N' if storm.latitude[n] >= 0 else 'S'}",
                f"{abs(east):5.1f}{'E' if east >= 0 else 'W'}",
            )
            numbers = [storm.wind[n], storm.pressure[n], *storm.radii[n], storm.radius[n]]
            lines.append(
                f"{moment:%Y%m%d}, {moment:%H%M}, {storm.record[n]:>1}, {storm.status[n]:>2}, {place[0]}, {place[1]}, "
                + f"{numbers[0]:>3}, " + ", ".join(f"{number:>4}" for number in numbers[1:])
            )  # fmt: skip
    return "\n".join(lines) + "\n"


def write_hurdat2(config: StormsConfig, folder: Path, first_year: int, last_year: int) -> tuple[Path, ...]:
    """Write the best tracks of several seasons.

    Args:
        config: basin and number.
        folder: where to; made if absent.
        first_year, last_year: seasons, both included.

    Returns:
        `hurdat2_{basin}_{first}_{last}.txt`.

    Source:
        Ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hurdat2_{config.basin.lower()}_{first_year}_{last_year}.txt"
    path.write_text("".join(hurdat2(storms_of(config, year)) for year in range(first_year, last_year + 1)))
    return (path,)
