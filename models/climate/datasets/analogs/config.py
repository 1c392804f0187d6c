"""The settings of the analogs, their parts and their published files."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from models.climate.datasets import schemas
from models.climate.datasets.analogs import region
from models.climate.datasets.analogs.region import Axes, Bounds, Cut
from models.climate.datasets.recipe import Recipe
from models.common.configuration import setting
from models.common.errors import AwaitedError, InputError
from models.common.parts import Layout, Part, Survey, Variable

if TYPE_CHECKING:
    import xarray as xr

_TIME = "minutes since 1970-01-01 00:00:00"
_EPOCH = date(1970, 1, 1)
_CF = {"SLP": "air_pressure_at_mean_sea_level", "T2M": "air_temperature"}
_LONG = {"SLP": "sea-level pressure", "T2M": "temperature at 2 m"}
_RANGES = {"SLP": (85_000.0, 110_000.0), "T2M": (180.0, 340.0)}
_DAYS = 366
_APART = frozenset({"_FillValue", "missing_value", "units", "scale_factor", "add_offset"})


@dataclass(frozen=True, kw_only=True)
class AnalogsConfig(Recipe):
    """Sea-level pressure and 2 m temperature of a region, one time a day."""

    dataset = "analogs"
    elsewhere: ClassVar[tuple[str, ...]] = ("name", "files", "start", "end", "days", "gaps")

    name: str = setting("analogs", "Name", "Name of the dataset: lower case letters, digits and hyphens.", min_length=1)
    files: str = setting(
        "", "Files", "Path, glob or URL of daily files with SLP and T2M, netCDF or GRIB, such as MERRA2*.nc4."
    )
    south: float = setting(42.0, "Southern bound", "Degrees north, -90 to 90.", ge=-90, le=90)
    north: float = setting(58.0, "Northern bound", "Degrees north, -90 to 90.", ge=-90, le=90)
    west: float = setting(-15.0, "Western bound", "Degrees east, -180 to 360.", ge=-180, le=360)
    east: float = setting(0.0, "Eastern bound", "Degrees east, -180 to 360; the region runs east from the western one.",
                          ge=-180, le=360)  # fmt: skip
    hour: int = setting(0, "Hour", "Which time of the day is taken, UTC, 0 to 23.", ge=0, le=23)
    gaps: bool = setting(
        False, "Gaps allowed", "Whether days between the first and the last may lack a file; else they are refused."
    )
    days: int = setting(
        92, "Generated days", "Days of the generated world when no last day is given, 1 to 40000.", ge=1, le=40_000
    )
    rows: int = setting(
        37, "Generated rows", "Latitudes of the generated globe, poles included, 19 to 721.", ge=19, le=721
    )
    columns: int = setting(72, "Generated columns", "Longitudes of the generated globe, 36 to 1440.", ge=36, le=1440)
    types: int = setting(
        8, "Weather types", "How many recurring types the generated weather has, 2 to 100.", ge=2, le=100
    )
    seed: int = setting(0, "Seed", "Seed of the generated world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.south > self.north:
            raise ValueError(
                f"AnalogsConfig.north must not lie south of south, got {self.south:g} to {self.north:g}; swap them."
            )
        if self.source == "files" and not self.files:
            raise ValueError(
                "AnalogsConfig.files must name daily files when the source is 'files', got ''; give a path, a glob or "
                "a URL."
            )

    @property
    def bounds(self) -> Bounds:
        """The region."""
        return Bounds(south=self.south, north=self.north, west=self.west, east=self.east)

    @property
    def published(self) -> bool:
        """Whether the published script's habits hold beside its defects: first time of a file, silent gaps."""
        return self.compat == "published"

    def sources(self) -> Mapping[str, str]:
        """The daily files."""
        return {"files": self.files} if self.source == "files" else {}

    def survey(self, files: Mapping[str, tuple[Path, ...]]) -> Survey:
        """One part for each calendar month; names of files, and the first one's header, are looked at."""
        if self.source == "generated":
            first = self.first or date(2019, 1, 1)
            last = self.last or first + timedelta(days=self.days - 1)
            days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
            axes = self._axes()
            parts = [Part(name=month, about={"days": listed}) for month, listed in _months(days)]
            return Survey(parts=tuple(parts), groups={"": self._layout(axes, {})})
        found = self._days(files.get("files", ()))
        axes, attributes = region.grid_of(next(iter(found.values())), self.bounds)
        about = {"latitude": axes.latitude.tolist(), "longitude": axes.longitude.tolist()}
        parts = []
        for month, listed in _months(list(found)):
            paths = [str(found[date.fromisoformat(one)]) for one in listed]
            names = sorted(set(paths))
            where = {"days": listed, "file": [names.index(path) for path in paths]}
            parts.append(Part(name=month, files=tuple(names), about={**where, **about}))
        return Survey(parts=tuple(parts), groups={"": self._layout(axes, attributes)})

    def _days(self, paths: tuple[Path, ...]) -> dict[date, Path]:
        """Every day that is asked for to its file, in order."""
        if not paths:
            raise AwaitedError(f"no file matches {self.files!r}; correct AnalogsConfig.files, or get the files.")
        found: dict[date, Path] = {}
        for path in sorted(paths):
            for one in region.days_in(path, self.hour):
                if (self.first and one < self.first) or (self.last and one > self.last):
                    continue
                if one in found:
                    raise InputError(f"{path} and {found[one]} both hold {one}; take one of them away.")
                found[one] = path
        if not found:
            raise AwaitedError(
                f"none of {len(paths)} files holds a day from {self.start or 'any'} to {self.end or 'any'}; get more "
                "files or choose other days."
            )
        ordered = sorted(found)
        if not (self.gaps or self.published):
            first, last = self.first or ordered[0], self.last or ordered[-1]
            missing = [one for one in _every(first, last) if one not in found]
            if missing:
                raise AwaitedError(
                    f"{len(missing)} days from {first} to {last} have no file, the first is {missing[0]}; get them, "
                    "or set AnalogsConfig.gaps."
                )
        return {one: found[one] for one in ordered}

    def _axes(self) -> Axes:
        """The region's coordinates on the generated globe."""
        latitude = np.linspace(-90.0, 90.0, self.rows)
        return region.from_arrays(latitude, -180.0 + 360.0 / self.columns * np.arange(self.columns), self.bounds)

    def _layout(self, axes: Axes, attributes: Mapping[str, Mapping[str, Any]]) -> Layout:
        whole = 1.0 if self.repeats("longitude_residue") else 0.0

        def daily(name: str) -> Variable:
            return Variable(
                dims=("time", "lat", "lon"),
                dtype="float32",
                attrs={"standard_name": _CF[name], "long_name": _LONG[name], "units": region.UNITS[name]},
                chunks={"time": _DAYS},
                shards={"time": 16 * _DAYS},
                low=_RANGES[name][0],
                high=_RANGES[name][1],
                missing=whole,
            )

        def along(dim: str | None, dtype: str, **attrs: Any) -> Variable:
            dims = ("time",) if dim is None else ("time", dim)
            return Variable(dims=dims, dtype=dtype, attrs=attrs, chunks={"time": _DAYS}, shards={"time": 16 * _DAYS})

        kept = {
            name: {key: one for key, one in given.items() if key not in _APART} for name, given in attributes.items()
        }
        return Layout(
            append="time",
            sizes={"lat": len(axes.latitude), "lon": len(axes.longitude)},
            coordinates={
                "lat": (("lat",), axes.latitude, {"standard_name": "latitude", "units": "degrees_north"}),
                "lon": (("lon",), axes.longitude, {"standard_name": "longitude", "units": "degrees_east"}),
            },
            attrs={
                "title": "Daily sea-level pressure and temperature of a region",
                "Conventions": "CF-1.11",
                "source_attributes": json.dumps(kept, sort_keys=True),
            },
            variables={
                "time": along(None, "int32", standard_name="time", units=_TIME, calendar="proleptic_gregorian"),
                "SLP": daily("SLP"),
                "T2M": daily("T2M"),
                "lat_given": along("lat", "float64", long_name="latitude in the file", units="degrees_north"),
                "lon_given": along("lon", "float64", long_name="longitude in the file", units="degrees_east"),
                "granule": along(None, "str", long_name="attributes of the file, JSON"),
            },
        )

    def part(self, part: Part) -> Mapping[str, "xr.Dataset"]:
        """The days of one month."""
        import xarray as xr

        cuts = list(self._cuts(part))
        columns: dict[str, Any] = {
            "time": (("time",), np.array([one.minutes for one in cuts], np.int32)),
            **{
                name: (("time", "lat", "lon"), np.stack([one.fields[name] for one in cuts]))
                for name in region.NAMES
            },
            "lat_given": (("time", "lat"), np.stack([one.latitude for one in cuts])),
            "lon_given": (("time", "lon"), np.stack([one.longitude for one in cuts])),
            "granule": (("time",), np.array([json.dumps(one.attributes, sort_keys=True) for one in cuts], object)),
        }  # fmt: skip
        return {"": xr.Dataset(columns)}

    def _cuts(self, part: Part) -> Iterator[Cut]:
        """The days of a part, one after another."""
        days = [date.fromisoformat(one) for one in part.about["days"]]
        if not part.files:
            yield from self._generated(days)
            return
        axes = Axes(latitude=np.array(part.about["latitude"]), longitude=np.array(part.about["longitude"]))
        for one, file in zip(days, part.about["file"], strict=True):
            yield region.cut(
                Path(part.files[file]), one, self.hour, self.bounds, axes,
                by_index=self.published, exactly=self.repeats("longitude_residue"),
            )  # fmt: skip

    def _generated(self, days: list[date]) -> Iterator[Cut]:
        """Days of the generated world."""
        from models.climate.generator import surface as world

        config = world.SurfaceConfig(rows=self.rows, columns=self.columns, types=self.types, seed=self.seed)
        axes = self._axes()
        for one in days:
            made = world.surface_of(config, one, self.hour)
            rows = self.bounds.latitudes(np.asarray(made.latitude))
            columns, _ = self.bounds.longitudes(np.asarray(made.longitude))
            yield Cut(
                fields={
                    name: np.asarray(getattr(made, name), np.float32)[np.ix_(rows, columns)] for name in region.NAMES
                },
                latitude=axes.latitude,
                longitude=axes.longitude,
                minutes=(one - _EPOCH).days * 1440 + self.hour * 60,
                attributes={"Title": "Generated weather, no measurements."},
            )

    def export(self, groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
        """One netCDF file a day, as published."""
        stored = groups[""]
        kept = json.loads(stored.attrs.get("source_attributes", "{}"))
        entry = schemas.load("analogs").file("MERRA2_SLP_T2M_{date}.nc")
        keep_old = self.repeats("exists_is_done")
        written = []
        for first in range(0, stored.sizes["time"], _DAYS):
            block = stored.isel(time=slice(first, first + _DAYS)).load()
            for row in range(block.sizes["time"]):
                daily = self._daily(block.isel(time=[row]), kept)
                path = Path(folder) / entry.file_name(date=daily.attrs.pop("date"))
                if not (keep_old and path.exists()):
                    schemas.write(entry, daily, path, compression=4)
                written.append(path)
        return tuple(written)

    def _daily(self, one: "xr.Dataset", kept: Mapping[str, Mapping[str, Any]]) -> "xr.Dataset":
        """One day as its file holds it."""
        import xarray as xr

        raw = np.asarray(one["time"].values)
        minutes = int((raw.astype("datetime64[m]") if raw.dtype.kind == "M" else raw).astype(np.int64)[0])
        day = _EPOCH + timedelta(days=minutes // 1440)
        rows = np.flatnonzero(~np.isnan(one["lat_given"].values[0]))
        columns = np.flatnonzero(~np.isnan(one["lon_given"].values[0]))
        # the published files have the coordinates of their source, rounding included
        latitude = one["lat_given"].values[0][rows] if self.published else one["lat"].values[rows]
        longitude = one["lon_given"].values[0][columns] if self.published else one["lon"].values[columns]
        fields = {
            name: (
                ("time", "lat", "lon"),
                one[name].values[:, rows][:, :, columns],
                {key: _narrow(value) for key, value in kept.get(name, {}).items()},
            )
            for name in region.NAMES
        }
        return xr.Dataset(
            {
                **fields,
                "time": (("time",), np.array([minutes % 1440], np.int32), {"units": f"minutes since {day}"}),
                "lat": (("lat",), latitude),
                "lon": (("lon",), longitude),
            },
            attrs={**json.loads(str(one["granule"].values[0])), "date": f"{day:%Y%m%d}"},
        )


def _narrow(value: Any) -> Any:
    """An attribute in the type of the variable that it belongs to."""
    if isinstance(value, float):
        return np.float32(value)
    return np.array(value, np.float32) if isinstance(value, list) else value


def _every(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


def _months(days: list[date]) -> list[tuple[str, list[str]]]:
    """Calendar months with their days in ISO form."""
    return [(month, [str(one) for one in some]) for month, some in groupby(days, lambda one: f"{one:%Y-%m}")]


def tiny() -> AnalogsConfig:
    """Two generated months on a coarse globe."""
    return AnalogsConfig(days=59)


def small() -> AnalogsConfig:
    """Ten generated years at 2.5 degrees."""
    return AnalogsConfig(start="2010-01-01", end="2019-12-31", rows=73, columns=144)


def paper() -> AnalogsConfig:
    """MERRA-2 M2I1NXASM 2019-2021, 00 UTC, 15 W to 0, 42 to 58 N."""
    # weather_analog/preprocess_weather_analog.py lines 13, 20-25, 54
    return AnalogsConfig(
        source="files", files="M2I1NXASM/MERRA2*.SUB.nc", start="2019-01-01", end="2021-12-31",
        west=-15.0, east=0.0, south=42.0, north=58.0, hour=0,
    )  # fmt: skip
