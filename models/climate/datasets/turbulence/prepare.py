"""The parts of the dataset: a month of reports with its maps, and a day of columns with its training pairs.

Groups of the stored dataset:

    reports    laid end to end: every report with a position, its texts, level, band and intensity
    grids      (time, band, lat, lon): daily maps, and how many reports they are made of
    training   laid end to end: one sample for each cell of each day with a report, and the column of air above it

A month is made from its own files. Some published faults mix the rows of different months (levels joined end to end,
the last day of a band, the year of a file); where one of them is repeated, every part reads all reports.

Shapes: N reports, D days, B bands, S samples, Z levels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.climate.datasets.turbulence import archive as archives
from models.climate.datasets.turbulence import columns as air
from models.climate.datasets.turbulence import grids
from models.climate.datasets.turbulence.archive import Archive, Files, Generated, Source, read_archive, read_month
from models.climate.datasets.turbulence.columns import FILL, PROFILES, SURFACE, UNITS, Columns
from models.climate.datasets.turbulence.grids import NO_DATA, Cells
from models.climate.datasets.turbulence.reports import Faults, Reports, as_pandas_reads, clear_air
from models.climate.datasets.turbulence.wording import BANDS, FLOORS, INTENSITIES, UNKNOWN
from models.common.errors import InputError
from models.common.parts import Layout, Part, Survey, Variable

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.turbulence.config import TurbulenceConfig

MIXING = ("flight_level_order", "last_day", "literal_year", "previous_month", "empty_band")
"""Faults that need the reports of all months."""

SPLITS = ("train", "test")
_RANGES = {
    "T": (100.0, 400.0), "U": (-250.0, 250.0), "V": (-250.0, 250.0), "OMEGA": (-100.0, 100.0), "RH": (-0.05, 4.0),
    "H": (-1000.0, 40_000.0), "PL": (1000.0, 112_000.0), "PHIS": (-6000.0, 70_000.0),
}  # fmt: skip
"""Outside these a value is no weather of the earth, but a fill or another unit."""

_NAMES = {
    "T": ("air_temperature", "temperature"),
    "U": ("eastward_wind", "eastward wind"),
    "V": ("northward_wind", "northward wind"),
    "OMEGA": ("lagrangian_tendency_of_air_pressure", "vertical pressure velocity"),
    "RH": ("relative_humidity", "relative humidity"),
    "H": ("geopotential_height", "height of the middle of the level"),
    "PL": ("air_pressure", "pressure at the middle of the level"),
    "PHIS": ("surface_geopotential", "surface geopotential"),
}


def faults_of(config: "TurbulenceConfig") -> Faults:
    """The faults that act on the reading of reports."""
    return Faults(**{field.name: config.repeats(field.name) for field in fields(Faults)})


def mixes_months(config: "TurbulenceConfig") -> bool:
    """Whether a part needs the reports of all months."""
    return any(config.repeats(name) for name in MIXING)


def survey(config: "TurbulenceConfig", files: Mapping[str, tuple[Path, ...]]) -> Survey:
    """Months and days there are, by the names of files and the first and last rows of those that hold several months.

    Args:
        config: the recipe.
        files: under "reports" CSV files, under "columns" netCDF files; neither when generated.

    Returns:
        A part for each month, and for each day that has columns.

    Raises:
        InputError: there are no reports, a file is no such file, or no day lies within the range.
    """
    if config.source == "generated":
        first, last = config.generated_days
        reading: dict[str, list[str]] = {m: [] for m in archives.month_range(f"{first:%Y-%m}", f"{last:%Y-%m}")}
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        of_day: dict[str, list[str]] = {day.isoformat(): [] for day in days}
    else:
        reading = _reading(config, files.get("reports", ()))
        of_day = _days_of_columns(files.get("columns", ()))
        days = [day for month in sorted(reading) for day in _days_of(month, config)]
    if not days:
        span = f"{config.start or 'the first day'} to {config.end or 'the last day'}"
        raise InputError(f"no reports lie within {span}; the files hold {', '.join(sorted(reading)) or 'none'}.")
    place = {day.isoformat(): number for number, day in enumerate(days)}
    order = archives.in_order(reading, by_name=config.repeats("unsorted_files"))
    parts = [_month(month, reading, days, config) for month in order]
    parts += [_day(day, reading, of_day[day], days, config) for day in sorted(of_day) if day in place]
    return Survey(parts=tuple(parts), groups=layouts(config, days, with_columns=len(parts) > len(order)))


def layouts(config: "TurbulenceConfig", days: Sequence[date], *, with_columns: bool) -> Mapping[str, Layout]:
    """Names, types, units and places of what is stored."""
    groups = {"reports": _reports_layout(config), "grids": _grids_layout(config, days)}
    return {**groups, "training": _training_layout(config)} if with_columns else groups


def make(config: "TurbulenceConfig", part: Part) -> Mapping[str, "xr.Dataset"]:
    """Make one part; see the module.

    Raises:
        InputError: a file cannot be used; the message names it, the row or variable, and the remedy.
    """
    about = part.about
    number = int(about["report_files"])
    paths = tuple(Path(name) for name in part.files)
    source: Source
    if config.source == "generated":
        source = Generated(config.world, *map(date.fromisoformat, about["span"]))
    else:
        reading = tuple((month, tuple(paths[at] for at in which)) for month, which in about["reading"])
        source = Files.of(reading)
    months = tuple(month for month, _ in about["reading"])
    if "day" in about:
        return _make_day(config, source, months, about["day"], paths[number:])
    return _make_month(config, source, months, about)


# ---------------------------------------------------------------------------------------------------------- surveys


def _reading(config: "TurbulenceConfig", paths: Sequence[Path]) -> dict[str, list[str]]:
    """Files of each month within the range of days."""
    if not paths:
        raise InputError(f"no file of reports is at {config.reports!r}; name a path, a glob or a URL that has some.")
    reading: dict[str, list[str]] = {}
    for path in sorted(paths):
        for month in archives.months_of(path, unread=config.repeats("previous_month")):
            if _days_of(month, config):
                reading.setdefault(month, []).append(str(path))
    return reading


def _days_of_columns(paths: Sequence[Path]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        found.setdefault(air.day_of_name(path), []).append(str(path))
    return found


def _days_of(month: str, config: "TurbulenceConfig") -> list[date]:
    """Days of a month within the range."""
    day, days = date.fromisoformat(f"{month}-01"), []
    while day.isoformat()[:7] == month:
        if (config.first or day) <= day <= (config.last or day):
            days.append(day)
        day += timedelta(days=1)
    return days


def _wanted(month: str, reading: Mapping[str, list[str]], config: "TurbulenceConfig") -> tuple[list[str], list[Any]]:
    """Files that a part of a month reads, and which months are in which of them."""
    months = sorted(reading) if mixes_months(config) else [month]
    files = sorted({name for each in months for name in reading[each]})
    return files, [[each, [files.index(name) for name in reading[each]]] for each in months]


def _month(month: str, reading: Mapping[str, list[str]], days: Sequence[date], config: "TurbulenceConfig") -> Part:
    files, which = _wanted(month, reading, config)
    own = [day for day in days if day.isoformat()[:7] == month]
    span = days if mixes_months(config) else own
    return Part(
        name=f"reports {month}",
        files=tuple(files),
        at={"grids": {"time": days.index(own[0])}, "reports": {}},
        about={
            "month": month,
            "reading": which,
            "report_files": len(files),
            "days": [own[0].isoformat(), len(own)],
            "span": [span[0].isoformat(), span[-1].isoformat()],
        },
    )


def _day(
    day: str,
    reading: Mapping[str, list[str]],
    columns: Sequence[str],
    days: Sequence[date],
    config: "TurbulenceConfig",
) -> Part:
    files, which = _wanted(day[:7], reading, config)
    span = [days[0].isoformat(), days[-1].isoformat()] if mixes_months(config) else [day, day]
    return Part(
        name=f"columns {day}",
        files=(*files, *columns),
        at={"training": {}},
        about={"day": day, "reading": which, "report_files": len(files), "span": span},
    )


def _reports_layout(config: "TurbulenceConfig") -> Layout:
    def variable(dtype: str, **attrs: Any) -> Variable:
        return Variable(
            dims=("report",),
            dtype=dtype,
            attrs=attrs,
            fill="" if dtype.startswith("S") else None,
            chunks={"report": 16_384},
            shards={"report": 131_072},
        )

    code = {"flag_values": [UNKNOWN, *range(len(BANDS))], "flag_meanings": "unknown " + " ".join(BANDS)}
    strength = {
        "flag_values": [UNKNOWN, *range(len(INTENSITIES))],
        "flag_meanings": "unknown " + " ".join(INTENSITIES),
    }
    text = f"S{config.text_bytes}"
    return Layout(
        variables={
            "time": variable("int64", units="minutes since 1970-01-01", standard_name="time", long_name="time (UTC)"),
            "message": variable(text, long_name="report as it was transmitted, UTF-8"),
            "turbulence": variable(text, long_name="words of the report on turbulence, UTF-8; empty: none"),
            "latitude": variable("float64", units="degrees_north", standard_name="latitude"),
            "longitude": variable("float64", units="degrees_east", standard_name="longitude"),
            "flight_level": variable("int32", units="100 ft", long_name="flight level; -1: unknown"),
            "band": variable("int8", long_name="band of flight levels", **code),
            "intensity": variable("int8", long_name="intensity of turbulence", **strength),
            "clear_air": variable("int8", long_name="whether the words name clear-air turbulence; -1: no words"),
        },
        sizes={},
        attrs=_attrs(config, "Pilots' reports of turbulence"),
        append="report",
    )


def _grids_layout(config: "TurbulenceConfig", days: Sequence[date]) -> Layout:
    grid, bands = config.grid, len(BANDS)
    numbers = grids.day_numbers([day.isoformat() for day in days])
    floors = " ".join(f"{name} from {floor}" for name, floor in zip(BANDS, FLOORS, strict=True))

    def number(dtype: str, long_name: str, **attrs: Any) -> Variable:
        return Variable(
            dims=("time", "band"),
            dtype=dtype,
            attrs={"long_name": long_name, **attrs},
            chunks={"time": 1, "band": bands},
            shards={"time": 1, "band": bands},
        )

    return Layout(
        variables={
            "Turbulence": Variable(
                dims=("time", "band", "lat", "lon"),
                dtype="uint8",
                attrs={
                    "long_name": "Turbulence Presence (1=Yes, 0=No)",
                    "flag_values": [0, 1, NO_DATA],
                    "flag_meanings": "no yes no_report",
                },
                fill=NO_DATA,
                chunks={"time": 1, "band": 1},
                shards={"time": 1, "band": bands},
            ),
            "reports": number("int32", "reports that count", units="1"),
            "unknown": number("int32", "reports of unknown intensity", units="1"),
            "file_year": number("int16", "year of the published file in which the day stands; 0: in none"),
        },
        sizes={"time": len(days), "band": bands, "lat": grid.shape[0], "lon": grid.shape[1]},
        coordinates={
            "time": (("time",), numbers, {"units": "days since 1970-01-01", "standard_name": "time"}),
            "band": (
                ("band",),
                np.arange(bands, dtype=np.int8),
                {"flag_meanings": " ".join(BANDS), "long_name": f"band of flight levels in 100 ft: {floors}"},
            ),
            "lat": (("lat",), grid.latitudes, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": (("lon",), grid.longitudes, {"units": "degrees_east", "standard_name": "longitude"}),
        },
        attrs=_attrs(config, "Daily maps of moderate or stronger turbulence"),
    )


def _training_layout(config: "TurbulenceConfig") -> Layout:
    def variable(dtype: str, dims: tuple[str, ...] = ("sample",), **rest: Any) -> Variable:
        return Variable(dims=dims, dtype=dtype, chunks={"sample": 4096}, shards={"sample": 65_536}, **rest)

    published = config.repeats("fill_in_mean")
    variables = {
        "TURBULENCE": variable(
            "float32", attrs={"long_name": "turbulence (1=turbulence, 0=none)", "units": "1"}, low=0, high=1
        ),
        "time": variable("int32", attrs={"units": "days since 1970-01-01", "standard_name": "time"}),
        "band": variable("int8", attrs={"flag_meanings": " ".join(BANDS)}, low=0, high=len(BANDS) - 1),
        "row": variable("int16", attrs={"long_name": "number of the latitude"}, low=0),
        "column": variable("int16", attrs={"long_name": "number of the longitude"}, low=0),
        "missing": variable("int16", attrs={"long_name": "values of the column that are missing", "units": "1"}),
        "split": variable("int8", attrs={"flag_values": [0, 1], "flag_meanings": " ".join(SPLITS)}, low=0, high=1),
    }
    for name in (*PROFILES, SURFACE):
        low, high = (None, None) if published else _RANGES[name]
        standard, long = _NAMES[name]
        attrs: dict[str, Any] = {"units": UNITS[name], "standard_name": standard, "long_name": long}
        if published:
            attrs["fill_value"] = FILL  # an attribute that no reader of netCDF knows
        dims = ("sample",) if name == SURFACE else ("sample", "z")
        along = () if name == SURFACE else ("z",)
        variables[name] = variable("float32", dims, attrs=attrs, low=low, high=high, along=along)
    return Layout(
        variables=variables,
        sizes={"z": config.levels},
        attrs=_attrs(config, "Columns of air where turbulence was reported or was not"),
        append="sample",
    )


def _attrs(config: "TurbulenceConfig", title: str) -> dict[str, Any]:
    made = "a generated world" if config.source == "generated" else "pilots' reports and MERRA-2"
    return {
        "Conventions": "CF-1.11",
        "title": title,
        "source": made,
        "references": "WxC-Bench (Scientific Data, s41597-026-06839-7)",
        "published_faults": " ".join(sorted(config.defects)),
        "threshold": config.threshold,
    }


# -------------------------------------------------------------------------------------------------------------- parts


def _make_month(
    config: "TurbulenceConfig", source: Source, months: tuple[str, ...], about: Mapping[str, Any]
) -> Mapping[str, "xr.Dataset"]:
    import xarray as xr

    first, count = about["days"]
    days = grids.day_numbers([first])[0] + np.arange(count)
    reports = _month_of(config, source, months, about["month"])
    if not config.repeats("previous_month"):  # by which a month may hold the days of another
        reports = reports.where((reports.day >= days[0]) & (reports.day <= days[-1]))
    cells, numbers = _cells(config, source, months, about["month"], days)
    return {
        "reports": xr.Dataset({name: ("report", values) for name, values in _columns(config, reports).items()}),
        "grids": xr.Dataset(
            {
                "Turbulence": (("time", "band", "lat", "lon"), grids.maps(cells, days, config.grid)),
                **{name: (("time", "band"), values) for name, values in numbers.items()},
            }
        ),
    }


def _make_day(
    config: "TurbulenceConfig", source: Source, months: tuple[str, ...], day: str, paths: Sequence[Path]
) -> Mapping[str, "xr.Dataset"]:
    import xarray as xr

    days = grids.day_numbers([day])
    cells, _ = _cells(config, source, months, day[:7], days)
    if config.source == "generated":
        columns = _generated_columns(config, day, cells)
    else:
        columns = air.read_columns(
            paths,
            day,
            cells.row,
            cells.column,
            config.grid,
            levels=config.levels,
            hour=config.hour,
            first_time=config.repeats("time_index"),
        )
    keep_fill = config.repeats("fill_in_mean")
    sizes = {1: ("sample",), 2: ("sample", "z")}
    missing = sum(gone.sum(tuple(range(1, gone.ndim))) for gone in columns.missing.values())
    values = {
        name: value if keep_fill else np.where(columns.missing[name], np.float32(np.nan), value)
        for name, value in columns.values.items()
    }
    return {
        "training": xr.Dataset(
            {
                "TURBULENCE": ("sample", cells.turbulence.astype(np.float32)),
                "time": ("sample", cells.day.astype(np.int32)),
                "band": ("sample", cells.band.astype(np.int8)),
                "row": ("sample", cells.row.astype(np.int16)),
                "column": ("sample", cells.column.astype(np.int16)),
                "missing": ("sample", np.asarray(missing, np.int16)),
                "split": ("sample", split(config, cells)),
                **{name: (sizes[value.ndim], value) for name, value in values.items()},
            }
        )
    }


def split(config: "TurbulenceConfig", cells: Cells) -> NDArray[np.int8]:
    """Which samples are held out: 0 train, 1 test.

    Of every few days that follow one another one is drawn and held out whole. By the published rule each sample is
    drawn by itself; since upstream sets no seed, the draw is ours.

    Args:
        config: share and seed.
        cells: (S,) the samples.

    Returns:
        (S,) numbers of `SPLITS`.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/neuralnet/train_TurbulenceNN.py, line 42, for the random split.
    """
    if config.repeats("random_split"):
        keys = zip(cells.day.tolist(), cells.band.tolist(), cells.row.tolist(), cells.column.tolist(), strict=True)
        return np.array([_chance(config.split_seed, *key) >= config.train_share for key in keys], np.int8)
    block = max(2, round(1 / (1 - config.train_share)))
    held = [int(_chance(config.split_seed, day // block) * block) == day % block for day in cells.day.tolist()]
    return np.array(held, np.int8)


@lru_cache(maxsize=4096)
def _chance(*key: int) -> float:
    """A number from 0 to 1 that a key alone decides."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _month_of(config: "TurbulenceConfig", source: Source, months: tuple[str, ...], month: str) -> Reports:
    faults = faults_of(config)
    if mixes_months(config):
        return _archive(config, source, months).month(month)
    return read_month(source, month, faults)


def _archive(config: "TurbulenceConfig", source: Source, months: tuple[str, ...]) -> Archive:
    archive = read_archive(source, months, faults_of(config))
    if config.repeats("empty_band"):
        grids.examine_bands(archive.band)
    return archive


def _cells(
    config: "TurbulenceConfig", source: Source, months: tuple[str, ...], month: str, days: NDArray[np.int64]
) -> tuple[Cells, dict[str, NDArray[Any]]]:
    """Cells of some days that the published files would hold, and the numbers (D, B) that go with them."""
    mixed = mixes_months(config)
    reports = _archive(config, source, months) if mixed else read_month(source, month, faults_of(config))
    last_day, literal_year = config.repeats("last_day"), config.repeats("literal_year")
    years = grids.listed_years(reports.day, reports.band, days, last_day=last_day, literal_year=literal_year)
    near = (reports.day >= days[0]) & (reports.day <= days[-1])
    day, band, intensity = reports.day[near], reports.band[near], reports.intensity[near]
    cells = grids.count(
        day,
        band,
        intensity,
        *_positions(config, reports.latitude[near], reports.longitude[near]),
        config.grid,
        threshold=config.threshold,
        unknown_counts=config.repeats("unknown_reports"),
        wrap=not config.repeats("no_wrap"),
    )
    at, there = grids.places(days, cells.day)
    there[there] = years[at[there], cells.band[there]] > 0
    if literal_year:
        there &= grids.year_of(cells.day) == 2023
    cells = cells.where(there)
    numbers: dict[str, NDArray[Any]] = {
        "reports": _tally(days, cells.day, cells.band, cells.reports),
        "unknown": _tally(days, day, band, (intensity == UNKNOWN).astype(np.int64)),
        "file_year": years,
    }
    return cells, numbers


def _tally(
    days: NDArray[np.int64], day: NDArray[np.int64], band: NDArray[Any], amount: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Sums by day and band (D, B)."""
    total = np.zeros((len(days), len(BANDS)), np.int32)
    at, there = grids.places(days, day)
    there &= band != UNKNOWN
    np.add.at(total, (at[there], band[there].astype(np.int64)), amount[there])
    return total


def _positions(
    config: "TurbulenceConfig", latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions as the gridding sees them: the published one reads once more, from text, what was written."""
    if not config.repeats("none_text"):
        return latitude, longitude
    return tuple(as_pandas_reads(pa.array(map(repr, values.tolist()), pa.string())) for values in (latitude, longitude))  # type: ignore[return-value]


def _columns(config: "TurbulenceConfig", reports: Reports) -> dict[str, NDArray[Any]]:
    """The stored variables of reports (N,)."""
    clear = clear_air(reports.turbulence)
    return {
        "time": reports.minute,
        "message": _bytes(reports.report, "REPORT", config.text_bytes),
        "turbulence": _bytes(reports.turbulence, "TURBULENCE", config.text_bytes),
        "latitude": reports.latitude,
        "longitude": reports.longitude,
        "flight_level": reports.level,
        "band": reports.band,
        "intensity": reports.intensity,
        "clear_air": np.full_like(clear, UNKNOWN) if config.repeats("empty_clear_air") else clear,
    }


def _bytes(texts: pa.Array, name: str, width: int) -> NDArray[Any]:
    """Texts of fixed width; null becomes empty."""
    length = pc.fill_null(pc.binary_length(texts), 0)
    longest = pc.max(length).as_py() or 0
    if longest > width:
        at = int(np.argmax(np.asarray(length)))
        raise InputError(
            f"report {at} has {longest} bytes of {name}, {texts[at].as_py()[:60]!r}..., and {width} are kept; raise "
            "text_bytes."
        )
    return np.array(pc.fill_null(texts.cast(pa.binary()), b"").to_pylist(), f"S{width}")


def _generated_columns(config: "TurbulenceConfig", day: str, cells: Cells) -> Columns:
    """Columns of the generated world at the cells of a day."""
    from models.climate.generator.reports import columns_of

    world = columns_of(config.world, date.fromisoformat(day), config.hour)
    values = {
        name: np.ascontiguousarray(np.asarray(getattr(world, name))[..., cells.row, cells.column].T, np.float32)
        for name in (*PROFILES, SURFACE)
    }
    return Columns(values=values, missing={name: ~(np.abs(value) < FILL / 10) for name, value in values.items()})
