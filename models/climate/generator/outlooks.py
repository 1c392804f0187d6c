"""Fields of a forecast over the United States, and convective outlooks that put them into words.

Where the air is unstable and its wind turns with height, storms are likely; how likely decides the category, and the
parts of the country where it is so are named in the text. Later outlooks of a day speak of the same fields with less
error. Pages hold what forecasters and their software leave behind: sentences joined by dots, two summaries, none, a
second block of text.

Shapes: A rows from the south, B columns from the west, of a Lambert grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
from numpy.typing import NDArray

from models.climate.generator.background import Smooth
from models.climate.generator.chance import autoregression, stream
from models.common.configuration import check, setting

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

DEGREE = 40
MEMORY = 2.0
"""Days after which the weather is forgotten to 1/e."""

_UNSTABLE, _SHEAR, _COLD, _ISSUE, _QUIRK = range(80, 85)
"""What chance is asked for."""

STANDARD_PARALLEL, MERIDIAN, SPHERE = 38.5, 262.5, 6_371_229.0
SOUTH_WEST = (21.138123, 237.280472)
"""Latitude and longitude of the first point, degrees: HRRR's."""

WIDTH, HEIGHT = 1798 * 3000.0, 1058 * 3000.0
"""Of HRRR's grid from the first to the last point, m."""

CATEGORIES = ("NONE", "MRGL", "SLGT", "ENH", "MDT", "HIGH")
WORDS = {"MRGL": "MARGINAL", "SLGT": "SLIGHT", "ENH": "ENHANCED", "MDT": "MODERATE", "HIGH": "HIGH"}
THRESHOLDS = (0.35, 0.75, 1.25, 1.9, 2.8)
"""Of the risk, for MRGL to HIGH."""

TIMES = ("0600", "1300", "1630", "2000", "0100")
"""When outlooks are issued, UTC; the last one after midnight belongs to the convective day before."""

REGIONS = {
    "the Pacific Northwest": (42, 49, -125, -117), "California": (33, 42, -124, -117),
    "the Great Basin": (37, 43, -117, -111), "the Southwest": (31, 37, -116, -106),
    "the northern Rockies": (43, 49, -117, -106), "the northern Plains": (43, 49, -106, -97),
    "the central Plains": (37, 43, -105, -96), "the southern Plains": (31, 37, -104, -95),
    "the upper Midwest": (42, 48, -97, -88), "the mid Mississippi Valley": (36, 42, -96, -89),
    "the lower Mississippi Valley": (30, 36, -95, -88), "the Great Lakes": (41, 46, -88, -79),
    "the Ohio Valley": (37, 41, -89, -80), "the Tennessee Valley": (33, 37, -89, -82),
    "the Southeast": (29, 34, -88, -80), "Florida": (25, 30, -84, -80),
    "the Mid-Atlantic": (35, 41, -80, -74), "the Northeast": (41, 46, -79, -69),
}  # fmt: skip
"""Name to south, north, west, east, degrees."""


@dataclass(frozen=True, kw_only=True)
class OutlooksConfig:
    """Fields, forecasters and their habits."""

    rows: int = setting(36, "Rows", "Rows of the Lambert grid, 4 to 1059; HRRR has 1059.", ge=4, le=1059)
    columns: int = setting(60, "Columns", "Columns of the Lambert grid, 4 to 1799; HRRR has 1799.", ge=4, le=1799)
    levels: int = setting(5, "Levels", "Hybrid levels of the GRIB files, 1 to 50; HRRR has 50.", ge=1, le=50)
    daily: int = setting(5, "Outlooks a day", "Outlooks of a day, 0 to 5.", ge=0, le=5)
    quirks: float = setting(0.15, "Quirks", "Share of pages with each of four blemishes, 0 to 1.", ge=0, le=1)
    seed: int = setting(0, "Seed", "Which world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        """Hold the settings to their limits."""
        check(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """One outlook and what stands behind it.

    Attributes:
        day: of the page's address. time: "HHMM" UTC.
        category: the largest of `CATEGORIES` anywhere.
        regions: where the risk is at least marginal, most dangerous first.
        hazards: "damaging winds", "large hail", "a tornado".
        summary: the words between the last mark of a summary and the next heading, as they stand in the page, trimmed;
            "" where the page has no mark.
        blocks: of preformatted text in the page.
        page: HTML.
    """

    day: date
    time: str
    category: str
    regions: tuple[str, ...]
    hazards: tuple[str, ...]
    summary: str
    blocks: int
    page: str


@lru_cache(maxsize=4)
def _lambert(rows: int, columns: int) -> tuple[Floats, Floats]:
    """Latitudes and longitudes (A, B) of a grid over HRRR's domain, degrees."""
    n = np.sin(np.radians(STANDARD_PARALLEL))

    def radius(latitude: Any) -> Any:
        tangent = np.tan(np.pi / 4 + np.radians(STANDARD_PARALLEL) / 2) / np.tan(np.pi / 4 + np.radians(latitude) / 2)
        return SPHERE * np.cos(np.radians(STANDARD_PARALLEL)) / n * tangent**n

    origin, start = radius(STANDARD_PARALLEL), radius(SOUTH_WEST[0])
    angle = n * np.radians(SOUTH_WEST[1] - MERIDIAN)
    x = start * np.sin(angle) + np.linspace(0.0, WIDTH, columns)[None, :]
    y = origin - start * np.cos(angle) + np.linspace(0.0, HEIGHT, rows)[:, None]
    rho, theta = np.hypot(x, origin - y), np.arctan2(x, origin - y)
    stretched = (SPHERE * np.cos(np.radians(STANDARD_PARALLEL)) / (n * rho)) ** (1 / n)
    latitude = 2 * np.degrees(np.arctan(stretched * np.tan(np.pi / 4 + np.radians(STANDARD_PARALLEL) / 2))) - 90.0
    return np.asarray(latitude), np.asarray(MERIDIAN + np.degrees(theta / n))


@lru_cache(maxsize=1)
def _table() -> Smooth:
    return Smooth(np.arange(15.0, 60.0), np.arange(220.0, 305.0), DEGREE)


def _weather(config: OutlooksConfig, kind: int, day: date) -> Floats:
    """A field of unit variance on the Lambert grid (A, B)."""
    smooth = _table()
    degrees = np.arange(DEGREE + 1.0)
    shape = np.where(degrees > 3, (2 * degrees + 1) / (degrees**2 + 100.0), 0.0)
    parts = autoregression(config.seed, kind, 2 * len(smooth.degrees), day.toordinal(), MEMORY).reshape(2, -1)
    coarse = smooth.field(((parts[0] + 1j * parts[1]) * smooth.weights(shape / shape.sum()))[None])[0]
    latitude, longitude = _lambert(config.rows, config.columns)
    i, j = latitude - 15.0, longitude - 220.0
    i0, j0 = np.floor(i).astype(int), np.floor(j).astype(int)
    a, b = i - i0, j - j0
    low = coarse[i0, j0] * (1 - b) + coarse[i0, j0 + 1] * b
    high = coarse[i0 + 1, j0] * (1 - b) + coarse[i0 + 1, j0 + 1] * b
    return np.asarray(low * (1 - a) + high * a)


def fields_of(config: OutlooksConfig, day: date) -> dict[str, Singles]:
    """The forecast of a day (A, B), float32.

    Args:
        config: grid and world.
        day: the day.

    Returns:
        latitude, longitude in degrees; cape in J/kg; shear over 6 km in m/s; t2m in K; risk: cape / 1000 times
        shear / 20.

    Source:
        Craven and Brooks 2004 for the product of instability and shear; the fields are ours.
    """
    latitude, longitude = _lambert(config.rows, config.columns)
    warm = np.cos(2 * np.pi * ((day - date(day.year, 1, 1)).days - 165.0) / 365.25)
    unstable = _weather(config, _UNSTABLE, day) + 0.5 * warm - 0.04 * (latitude - 37.0)
    cape = 330.0 * np.maximum(unstable - 0.3, 0.0) ** 1.5
    shear = 18.0 + 6.0 * _weather(config, _SHEAR, day) - 3.0 * warm
    cold = _weather(config, _COLD, day)
    t2m = 289.0 + 11.0 * warm - 0.7 * (latitude - 38.0) + 5.0 * cold
    shear = np.maximum(shear, 2.0)
    fields = {
        "latitude": latitude, "longitude": longitude, "cape": cape, "shear": shear, "t2m": t2m,
        "risk": cape / 1000.0 * shear / 20.0,
    }  # fmt: skip
    return {name: field.astype(np.float32) for name, field in fields.items()}


def _judged(config: OutlooksConfig, day: date, number: int) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Category, regions and hazards as the forecaster of an outlook sees them."""
    fields = fields_of(config, day)
    error = 0.15 * (5 - number) / 5
    rng = stream(config.seed, _ISSUE, day.toordinal(), number)
    latitude, longitude = fields["latitude"], fields["longitude"]
    found: dict[str, float] = {}
    shear = 0.0
    for name, (south, north, west, east) in REGIONS.items():
        inside = (latitude >= south) & (latitude < north) & (longitude - 360 >= west) & (longitude - 360 < east)
        factor = float(np.exp(error * rng.standard_normal()))
        if inside.any():
            found[name] = factor * float(np.quantile(fields["risk"][inside], 0.9))
            if found[name] >= max(found.values()):
                shear = float(fields["shear"][inside].mean())
    order = sorted(found, key=lambda name: -found[name])
    worst = found[order[0]] if order else 0.0
    category = CATEGORIES[int(np.searchsorted(THRESHOLDS, worst, side="right"))]
    regions = tuple(name for name in order if found[name] >= THRESHOLDS[0])[:4]
    hazards: tuple[str, ...] = ("damaging winds",) if category != "NONE" else ()
    if worst >= THRESHOLDS[1]:
        hazards += ("large hail",)
    if worst >= THRESHOLDS[1] and shear > 18.0:
        hazards += ("a tornado",)
    return category, regions, hazards


def _wrapped(words: str, width: int = 66) -> Iterator[str]:
    """Lines of a text as the forecast desk breaks and indents them."""
    line = ""
    for word in words.split():
        if line and len(line) + 1 + len(word) > width:
            yield "   " + line
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        yield "   " + line


def outlooks_of(config: OutlooksConfig, day: date) -> tuple[Outlook, ...]:
    """The outlooks whose pages carry a day's date, in order of their time of issue.

    Args:
        config: fields and habits.
        day: the day.

    Returns:
        As many as the configuration says; the one at 0100 UTC speaks of the convective day before.

    Source:
        Layout of the pages of the Storm Prediction Center's archive.
    """
    made = [_page(config, day, time) for time in sorted(TIMES[: config.daily])]
    return tuple(made)


def _page(config: OutlooksConfig, day: date, time: str) -> Outlook:
    number = TIMES.index(time)
    about = day - timedelta(days=1) if time == "0100" else day
    category, regions, hazards = _judged(config, about, number)
    issued = datetime(day.year, day.month, day.day, int(time[:2]), int(time[2:])) - timedelta(minutes=9)
    summer = 3 < day.month < 11
    local = issued - timedelta(hours=5 if summer else 6)
    until = about + timedelta(days=1)
    joined, doubled, unmarked, second = (
        stream(config.seed, _QUIRK, day.toordinal(), number).random(4) < config.quirks
    ).tolist()  # fmt: skip
    if category == "NONE":
        headline = "...NO SEVERE THUNDERSTORM AREAS FORECAST..."
        summary = "Severe thunderstorms are not expected across the contiguous United States."
    else:
        article = "AN" if category == "ENH" else "A"
        headline = (
            f"...THERE IS {article} {WORDS[category]} RISK OF SEVERE THUNDERSTORMS ACROSS {regions[0].upper()}..."
        )
        threats = hazards[0]
        if len(hazards) > 1:
            glue, end = ("...", "...and ") if joined else (", ", " and ")
            threats = glue.join(hazards[:-1]) + end + hazards[-1]
        areas = regions[0] if len(regions) == 1 else f"{regions[0]} into {regions[1]}"
        summary = f"{threats[0].upper()}{threats[1:]} are possible today across {areas}."
    lines = [
        f"   SPC AC {issued:%d%H%M}", "", "   Day 1 Convective Outlook",
        "   NWS Storm Prediction Center Norman OK",
        f"   {local:%I%M %p} {'CDT' if summer else 'CST'} {local:%a %b %d %Y}", "",
        f"   Valid {issued:%d%H%M}Z - {until:%d}1200Z", "", f"   {headline}", "",
    ]  # fmt: skip
    if doubled and not unmarked:
        lines += ["   ...SUMMARY...", *_wrapped("An earlier summary that the one below replaces."), ""]
    if not unmarked:
        lines.append("   ...SUMMARY...")
    body = list(_wrapped(summary))
    lines += [*body, ""]
    for region in regions:
        lines += [f"   ...{region[0].upper()}{region[1:]}...", *_wrapped("Heating will destabilize the air mass."), ""]
    lines += ["   $$", ""]
    blocks = "<pre>\n" + "\n".join(lines) + "</pre>"
    if second:
        blocks += "<pre>Probabilistic note in a second block.</pre>"
    page = f"<html><head><title>Storm Prediction Center</title></head><body>{blocks}</body></html>"
    return Outlook(
        day=day,
        time=time,
        category=category,
        regions=regions,
        hazards=hazards,
        summary="" if unmarked else "\n".join(body).strip(),
        blocks=2 if second else 1,
        page=page,
    )


def write_outlooks(config: OutlooksConfig, folder: Path, first: date, last: date) -> tuple[Path, ...]:
    """Write pages of outlooks and the index that a request for these days gives.

    Args:
        config: fields and habits.
        folder: where to; made if absent.
        first, last: days, both included.

    Returns:
        The index `index_{first}_{last}.html`, then `day1otlk_YYYYMMDD_HHMM.html` by day and time.

    Source:
        Names and links of the Storm Prediction Center's archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, links = [], ['<a href="/index.html">home</a>']
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        for outlook in outlooks_of(config, day):
            name = f"day1otlk_{day:%Y%m%d}_{outlook.time}"
            written.append(folder / f"{name}.html")
            written[-1].write_text(outlook.page)
            links.append(f'<a href="/products/outlook/archive/{day.year}/{name}.html">{name}</a>')
            points = f"KWNSPTSDY1_{day:%Y%m%d}{outlook.time}"
            links.append(f'<a href="/products/outlook/archive/{day.year}/{points}.txt">points</a>')
    index = folder / f"index_{first}_{last}.html"
    title = "<head><title>Storm Prediction Center</title></head>"
    index.write_text(f'<html>{title}<body>{"".join(links)}<a name="x">no link</a></body></html>')
    return (index, *written)


GRIB = {
    "t": (0, 0, 0), "u": (0, 2, 2), "v": (0, 2, 3), "q": (0, 1, 0), "pres": (0, 3, 0),
}  # fmt: skip
"""Short name to discipline, category and number of the parameter."""


def native_of(config: OutlooksConfig, day: date) -> dict[str, Singles]:
    """What HRRR's native levels hold (levels, A, B): t K, u, v m/s along the grid, q kg/kg, pres Pa; level 1 lowest."""
    fields = fields_of(config, day)
    height = np.linspace(10.0, 12_000.0, config.levels)[:, None, None]
    t = fields["t2m"] - 6.5e-3 * height
    share = np.minimum(height / 6000.0, 2.0)
    u = 3.0 + share * fields["shear"]
    v = 2.0 * np.cos(np.radians(fields["longitude"] * 4.0)) * (1 - 0.3 * share)
    pressure = 101_325.0 * np.exp(-height / 8000.0) * np.ones_like(fields["cape"])
    q = 0.004 * np.exp(-height / 2500.0) * (1.0 + fields["cape"] / 800.0)
    return {name: np.asarray(a, np.float32) for name, a in {"t": t, "u": u, "v": v, "q": q, "pres": pressure}.items()}


def write_hrrr(config: OutlooksConfig, folder: Path, first: date, last: date, hour: int = 1) -> tuple[Path, ...]:
    """Write analyses as GRIB 2 on a Lambert grid and hybrid levels, as HRRR's native files are.

    Args:
        config: grid and world; a coarser grid has wider steps over the same domain.
        folder: where to; made if absent.
        first, last: days, both included.
        hour: of the run, UTC.

    Returns:
        `hrrr.YYYYMMDD.tHHz.wrfnatf00.grib2`, one a day: t, u, v, q, pres by level, packed in 16 bits; winds along the
        grid.

    Source:
        Grid and name of HRRR's native-level files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        written.append(folder / f"hrrr.{day:%Y%m%d}.t{hour:02d}z.wrfnatf00.grib2")
        with written[-1].open("wb") as file:
            for name, values in native_of(config, day).items():
                for level, field in enumerate(values, start=1):
                    _message(config, file, day, hour, name, level, field)
    return tuple(written)


def _message(
    config: OutlooksConfig, file: Any, day: date, hour: int, name: str, level: int, field: Singles
) -> None:  # fmt: skip
    """Append one GRIB message."""
    discipline, category, number = GRIB[name]
    handle = eccodes.codes_grib_new_from_samples("GRIB2")
    try:
        for key, value in {
            "centre": "kwbc", "subCentre": 0, "discipline": discipline, "dataDate": int(f"{day:%Y%m%d}"),
            "dataTime": 100 * hour, "gridDefinitionTemplateNumber": 30, "shapeOfTheEarth": 6,
            "Nx": config.columns, "Ny": config.rows, "latitudeOfFirstGridPointInDegrees": SOUTH_WEST[0],
            "longitudeOfFirstGridPointInDegrees": SOUTH_WEST[1], "LaDInDegrees": STANDARD_PARALLEL,
            "LoVInDegrees": MERIDIAN, "DxInMetres": round(WIDTH / (config.columns - 1)),
            "DyInMetres": round(HEIGHT / (config.rows - 1)), "Latin1InDegrees": STANDARD_PARALLEL,
            "Latin2InDegrees": STANDARD_PARALLEL, "projectionCentreFlag": 0, "resolutionAndComponentFlags": 8,
            "jScansPositively": 1, "iScansNegatively": 0, "productDefinitionTemplateNumber": 0,
            "parameterCategory": category, "parameterNumber": number, "typeOfFirstFixedSurface": 105,
            "scaleFactorOfFirstFixedSurface": 0, "scaledValueOfFirstFixedSurface": level, "forecastTime": 0,
            "bitsPerValue": 16,
        }.items():  # fmt: skip
            eccodes.codes_set(handle, key, value)
        eccodes.codes_set_values(handle, field.astype(np.float64).ravel())
        eccodes.codes_write(handle, file)
    finally:
        eccodes.codes_release(handle)
