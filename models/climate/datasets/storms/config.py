"""The settings of the storms, their parts and their published files."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from models.climate.datasets import schemas
from models.climate.datasets.recipe import Recipe
from models.climate.datasets.storms import hurdat2, tables
from models.climate.datasets.storms.hurdat2 import MISSING, Track
from models.common.configuration import setting
from models.common.errors import AwaitedError, InputError
from models.common.parts import Layout, Part, Survey, Variable

if TYPE_CHECKING:
    import xarray as xr

PUBLISHED_TAIL = 10
"""Records at a storm's end that the published series leave out; hurricane/codes/hurricane_intensity.py lines 7, 27."""

FILES = {"AL": "ATL_hurricanes.txt", "EP": "PAC_hurricanes.txt", "CP": "PAC_hurricanes.txt"}
"""Names of the published texts, by the basin of a storm."""

_CHUNK, _SHARD = 1 << 16, 1 << 20
_TIME = "minutes since 1970-01-01 00:00:00"


@dataclass(frozen=True, kw_only=True)
class StormsConfig(Recipe):
    """Hurricane tracks and intensities from HURDAT2; the days are those on which a storm begins."""

    dataset = "storms"
    elsewhere: ClassVar[tuple[str, ...]] = ("name", "atlantic", "pacific", "first_year", "years")

    name: str = setting("storms", "Name", "Name of the dataset: lower case letters, digits and hyphens.", min_length=1)
    atlantic: str = setting("", "Atlantic file", "Path, glob or URL of the Atlantic HURDAT2 text, of any edition.")
    pacific: str = setting(
        "", "Pacific file", "Path, glob or URL of the Northeast Pacific HURDAT2 text, of any edition."
    )
    series_start: int = setting(
        2, "First record of a series", "Records at a storm's beginning that its intensity series leaves out, 0 to 100.",
        ge=0, le=100,
    )  # fmt: skip
    basin: Literal["AL", "EP", "CP"] = setting("AL", "Generated basin", "Basin of the generated storms.")
    first_year: int = setting(
        2001, "First generated year", "First season of the generated world, 1851 to 2100.", ge=1851, le=2100
    )
    years: int = setting(3, "Generated years", "Seasons of the generated world, 1 to 250.", ge=1, le=250)
    yearly: float = setting(15.0, "Storms a year", "Storms in a generated season on average, 1 to 99.", ge=1, le=99)
    seed: int = setting(0, "Seed", "Seed of the generated world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "files" and not (self.atlantic or self.pacific):
            raise ValueError(
                "StormsConfig.atlantic or pacific must name a HURDAT2 text when the source is 'files', got ''; give "
                "its path, glob or URL."
            )

    @property
    def left_out(self) -> tuple[int, int]:
        """Records at the beginning and at the end of a storm that its intensity series leaves out."""
        return self.series_start, PUBLISHED_TAIL if self.repeats("last_ten_records") else 0

    def sources(self) -> Mapping[str, str]:
        """The texts of the two basins, where named."""
        if self.source == "generated":
            return {}
        named = {"atlantic": self.atlantic, "pacific": self.pacific}
        return {name: place for name, place in named.items() if place}

    def survey(self, files: Mapping[str, tuple[Path, ...]]) -> Survey:
        """One part for each text, or for each generated season; only the first line of a text is read."""
        return Survey(parts=tuple(self._parts(files)), groups=_groups())

    def _parts(self, files: Mapping[str, tuple[Path, ...]]) -> Iterator[Part]:
        if self.source == "generated":
            for year in range(self.first_year, self.first_year + self.years):
                if (self.first is None or self.first.year <= year) and (self.last is None or year <= self.last.year):
                    yield Part(name=f"{self.basin} {year}", about={"year": year})
            return
        begun: dict[str, Path] = {}
        called = [path.name for name in self.sources() for path in files.get(name, ())]
        for name in self.sources():
            if not files.get(name):
                raise AwaitedError(
                    f"no file matches {name} {self.sources()[name]!r}; correct the path, or get the file."
                )
            for path in sorted(files[name]):
                first = next(iter(hurdat2.lines_of(path)), "").split(",")[0].strip()
                if first in begun:
                    raise InputError(
                        f"{path} begins with storm {first} as {begun[first]} does: two editions of one basin; name one."
                    )
                begun[first] = path
                yield Part(name=path.name if called.count(path.name) == 1 else str(path), files=(str(path),))

    def tracks(self, part: Part) -> Iterator[Track]:
        """The storms of a part that begin on a day asked for, one after another."""
        if part.files:
            (path,) = map(Path, part.files)
            found = hurdat2.read(hurdat2.lines_of(path), str(path))
        else:
            found = hurdat2.read(self.generated(int(part.about["year"])).splitlines(), f"season {part.about['year']}")
        low = (self.first.toordinal() - hurdat2.EPOCH) * 1440 if self.first else None
        high = (self.last.toordinal() + 1 - hurdat2.EPOCH) * 1440 if self.last else None
        for track in found:
            begin = track.minutes[0]
            if (low is None or begin >= low) and (high is None or begin < high):
                yield track

    def generated(self, year: int) -> str:
        """The text of one generated season."""
        from models.climate.generator import storms as world

        config = world.StormsConfig(basin=self.basin, yearly=self.yearly, seed=self.seed)
        return str(world.hurdat2(world.storms_of(config, year)))

    def part(self, part: Part) -> Mapping[str, "xr.Dataset"]:
        """The storms of one text as the groups `storms` and `records`."""
        import xarray as xr

        storms, records = tables.arrays(self.tracks(part), left_out=self.left_out)
        layouts = _groups()
        return {
            group: xr.Dataset(
                {name: (layouts[group].variables[name].dims, values) for name, values in variables.items()}
            )
            for group, variables in (("storms", storms), ("records", records))
        }

    def export(self, groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
        """The HURDAT2 texts, the three tables that figures are drawn from, and one CF file of ragged arrays."""
        storms, records = groups["storms"], groups["records"]
        folder = Path(folder)
        tracks = functools.partial(tables.tracks_of, storms, records)
        basins = np.char.decode(np.asarray(storms["basin"].values, "S2"), "ascii")
        written = []
        for name in sorted({_text_name(str(basin)) for basin in basins}):
            written.append(schemas.write_text(folder / name, hurdat2.written(_of(tracks(), name))))
        written += [
            schemas.write_text(folder / "tracks_records.csv", tables.records_table(tracks())),
            schemas.write_text(folder / "storms.csv", tables.storms_table(tracks())),
            schemas.write_text(folder / "intensity_series.csv", tables.series_table(tracks(), left_out=self.left_out)),
        ]
        whole = storms.assign({str(name): one for name, one in records.variables.items()} | _axes())
        entry = schemas.load("storms").file("hurricane_tracks.nc")
        written.append(schemas.write(entry, whole.drop_attrs(deep=False), folder / entry.name))
        return tuple(written)


def _text_name(basin: str) -> str:
    return FILES.get(basin, f"{basin}_hurricanes.txt")


def _of(tracks: Iterable[Track], name: str) -> Iterator[Track]:
    """The storms of one published text."""
    return (track for track in tracks if _text_name(track.identity[:2]) == name)


def _axes() -> dict[str, Any]:
    """Coordinates of the radii."""
    return {
        "threshold": (("threshold",), np.array([34, 50, 64], np.int16), {"units": "kt", "long_name": "wind speed"}),
        "quadrant": (("quadrant",), np.array([b"NE", b"SE", b"SW", b"NW"]), {"long_name": "quadrant"}),
    }


def _groups() -> dict[str, Layout]:
    """Storms, and their records one after another: CF contiguous ragged arrays."""

    def storm(dtype: str, fill: float | int | str | None = None, **attrs: Any) -> Variable:
        return Variable(
            dims=("storm",), dtype=dtype, fill=fill, attrs=attrs, chunks={"storm": _CHUNK}, shards={"storm": _SHARD}
        )

    def record(dtype: str, low: float | None = None, high: float | None = None, **attrs: Any) -> Variable:
        fill = MISSING if dtype == "int16" else None
        return Variable(
            dims=("record",), dtype=dtype, attrs=attrs, fill=fill, chunks={"record": _CHUNK}, shards={"record": _SHARD},
            low=low, high=high,
        )  # fmt: skip

    radius = Variable(
        dims=("record", "threshold", "quadrant"), dtype="int16", fill=MISSING, chunks={"record": _CHUNK},
        shards={"record": _SHARD}, low=0, high=2000,
        attrs={"units": "nmi", "long_name": "greatest radius of winds of the threshold in the quadrant"},
    )  # fmt: skip
    return {
        "storms": Layout(
            append="storm",
            sizes={},
            attrs={"title": "Storms of HURDAT2", "featureType": "trajectory", "Conventions": "CF-1.11"},
            variables={
                "storm_id": storm("S8", cf_role="trajectory_id", long_name="basin, number and season"),
                "name": storm("S20", long_name="name, blank where the file has none"),
                "basin": storm("S2", long_name="basin in which the storm formed"),
                "season": storm("int16", long_name="season", units="1"),
                "row_size": storm("int32", long_name="number of records", sample_dimension="record", units="1"),
                "fields": storm("int8", long_name="fields in a row of the text: 21 with the radius of maximum wind"),
                "ace": storm("float64", long_name="accumulated cyclone energy, in 10^-4 kt^2", units="1e-4 kt2"),
            },
        ),
        "records": Layout(
            append="record",
            sizes={"threshold": 3, "quadrant": 4},
            coordinates=_axes(),
            attrs={"title": "Records of storms, one storm after another", "Conventions": "CF-1.11"},
            variables={
                "time": record("int32", standard_name="time", units=_TIME, calendar="proleptic_gregorian"),
                "record_identifier": record("S1", long_name="record identifier, L is landfall"),
                "status": record("S2", long_name="status of the system"),
                "lat": record("float64", -90, 90, standard_name="latitude", units="degrees_north"),
                "lon": record("float64", -180, 180, standard_name="longitude", units="degrees_east"),
                "lon_given": record(
                    "float64", -360, 360, long_name="longitude as given, west negative", units="degrees_east"
                ),
                "wind": record("int16", 0, 250, long_name="maximum sustained wind", units="kt"),
                "pressure": record("int16", 800, 1100, long_name="minimum central pressure", units="hPa"),
                "radius": radius,
                "rmw": record("int16", 0, 2000, long_name="radius of maximum wind", units="nmi"),
                "category": record(
                    "int8", -1, 6, long_name="category by wind", flag_values=[-1, *range(7)],
                    flag_meanings=" ".join(("unknown", *tables.CATEGORIES)),
                ),
                "in_series": record(
                    "int8", 0, 1, long_name="in the intensity series of its storm", flag_values=[0, 1],
                    flag_meanings="left_out shown",
                ),
            },
        ),
    }  # fmt: skip


def tiny() -> StormsConfig:
    """Two generated seasons."""
    return StormsConfig(years=2)


def small() -> StormsConfig:
    """Forty generated seasons."""
    return StormsConfig(first_year=1981, years=40)


def paper() -> StormsConfig:
    """The published best tracks: Atlantic 1851-2022 and Northeast Pacific 1949-2022."""
    return StormsConfig(
        source="files",
        # hurricane/codes/hurricane_intensity.py line 20
        atlantic="https://www.nhc.noaa.gov/data/hurdat/hurdat2-1851-2022-042723.txt",
        # hurricane/best_track, as committed upstream
        pacific="https://raw.githubusercontent.com/NASA-IMPACT/WxC-Bench/main/hurricane/best_track/PAC_hurricanes.txt",
    )
