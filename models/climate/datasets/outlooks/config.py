"""The settings of the outlooks, their parts and their published files."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from models.climate.datasets import schemas
from models.climate.datasets.outlooks import hrrr, model, pages, tables
from models.climate.datasets.outlooks.pages import Issue
from models.climate.datasets.outlooks.tables import Row
from models.climate.datasets.recipe import Recipe
from models.common.configuration import setting
from models.common.errors import AwaitedError, InputError
from models.common.parts import Layout, Part, Survey, Variable

if TYPE_CHECKING:
    import xarray as xr

_TIME = "minutes since 1970-01-01 00:00:00"
_CHUNK, _SHARD = 1024, 1 << 16
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class OutlooksConfig(Recipe):
    """Convective outlooks of the Storm Prediction Center, paired with HRRR runs."""

    dataset = "outlooks"
    elsewhere: ClassVar[tuple[str, ...]] = ("name", "pages", "images", "start", "end", "hour", "gaps", "days")

    name: str = setting(
        "outlooks", "Name", "Name of the dataset: lower case letters, digits and hyphens.", min_length=1
    )
    pages: str = setting(
        "", "Pages", "Path, glob or URL of outlooks, and of lists of outlooks, as HTML or text, such as spc/*.html."
    )
    images: str = setting(
        "",
        "Model files",
        "Path, glob or URL of HRRR files, or of a text with their names, one a line; empty: those that the archive has "
        "for the days.",
    )
    hour: int = setting(
        1, "Hour", "Which run of a day is paired when no model files are named, UTC, 0 to 23.", ge=0, le=23
    )
    pairing: Literal["nearest", "every"] = setting(
        "nearest", "Pairing", "Pair a run with the outlook issued nearest to it, or with every one of its day."
    )
    variables: tuple[str, ...] = setting(
        (),
        "Fields",
        "Fields of the model's files that are stored beside, by their names there, such as t, u, v; none: names alone.",
    )
    level: int = setting(
        1, "Level", "Which level of fields that have several; of HRRR's 50 the lowest is 1.", ge=1, le=1000
    )
    every: int = setting(
        8, "Points of a cell", "Points of the model's grid along a side of a stored cell, 1 to 512.", ge=1, le=512
    )
    gaps: bool = setting(
        False, "Gaps allowed", "Whether an outlook that a list names may be missing; else it is refused."
    )
    days: int = setting(
        30, "Generated days", "Days of the generated world when no last day is given, 1 to 40000.", ge=1, le=40_000
    )
    daily: int = setting(5, "Outlooks a day", "Outlooks of a generated day, 1 to 5.", ge=1, le=5)
    seed: int = setting(0, "Seed", "Seed of the generated world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "files" and not self.pages:
            raise ValueError(
                "OutlooksConfig.pages must name outlooks when the source is 'files', got ''; give a path, a glob or a "
                "URL."
            )

        if self.source == "files" and self.variables and not self.images:
            raise ValueError(
                "OutlooksConfig.images must name the model's files when variables are to be stored, got ''; give a "
                "path, a glob or a URL, or take the variables out."
            )
        if len(set(self.variables)) < len(self.variables) or {"file_name", "moment"} & set(self.variables):
            raise ValueError(
                f"OutlooksConfig.variables must be different fields, got {self.variables}; name each once."
            )

    def sources(self) -> Mapping[str, str]:
        """Outlooks, and the model's files where named."""
        if self.source == "generated":
            return {}
        return {name: place for name, place in (("pages", self.pages), ("images", self.images)) if place}

    def survey(self, files: Mapping[str, tuple[Path, ...]]) -> Survey:
        """One part for each day; names of files, and the lists of outlooks, are looked at."""
        if self.source == "generated":
            first = self.first or date(2021, 1, 1)
            last = self.last or first + timedelta(days=self.days - 1)
            images = self._requests(first, last)
            parts = [
                Part(name=str(day), about={"under": str(day), "images": images.get(day, [])})
                for day in _every(first, last)
            ]
            return Survey(parts=tuple(parts), groups=self._groups(self._generated_frame(first)))
        wanted = files.get("pages", ())
        if not wanted:
            raise AwaitedError(f"no file matches {self.pages!r}; correct OutlooksConfig.pages, or get the outlooks.")
        found, lists = self._pages(wanted)
        requests = self._asked(found, lists) if self.repeats("last_day_of_request") else self._daily(found, lists)
        days = sorted(requests)
        if self.images:
            images = self._named(files.get("images", ()))
        elif days:
            images = self._requests(self.first or days[0], self.last or days[-1])
        else:
            images = {}
        if not days and not images:
            raise AwaitedError(
                f"no outlook of {self.start or 'any day'} to {self.end or 'any day'}; get more, or other days."
            )
        runs = {path.name: path for path in files.get("images", ()) if self.variables and path.suffix == ".grib2"}
        frame = None
        if self.variables:
            if not runs:
                raise AwaitedError(
                    f"{self.images!r} names no .grib2 file to take {self.variables} from; name the files."
                )
            frame = model.frame_in(runs[min(runs)], self.variables, self.level, self.every)
        parts = []
        for day in sorted({*requests, *images}):
            listed, named = requests.get(day, []), images.get(day, [])
            there = [str(runs[name]) for name in named if name in runs]
            about = {"under": str(day), "images": named, "urls": [url for url, _ in listed]}
            if frame is not None:
                about["cells"] = list(frame.latitude.shape)
            parts.append(Part(name=str(day), files=(*(str(path) for _, path in listed), *there), about=about))
        return Survey(parts=tuple(parts), groups=self._groups(frame))

    def _pages(self, paths: Sequence[Path]) -> tuple[dict[str, Path], list[tuple[Path, list[str]]]]:
        """Outlooks by their address, and lists with the addresses that they name."""
        found: dict[str, Path] = {}
        lists = []
        for path in sorted(paths):
            if pages.is_outlook(path):
                url = tables.name_of(path)
            else:
                page = pages.text_of(path)
                if not pages.blocks_of(page):
                    lists.append((path, pages.links_of(page)))
                    continue
                _issue(path)
                url = path.name
            if url in found:
                raise InputError(f"{path} and {found[url]} are the same outlook; take one of them away.")
            found[url] = path
        return found, lists

    def _within(self, day: date) -> bool:
        return (self.first is None or day >= self.first) and (self.last is None or day <= self.last)

    def _daily(
        self, found: Mapping[str, Path], lists: Sequence[tuple[Path, list[str]]]
    ) -> dict[date, list[tuple[str, Path]]]:
        """Outlooks by the day of their issue, in order of time."""
        for path, urls in lists:
            missing = [url for url in urls if url not in found and self._within(_issued(url, path).day)]
            if missing and not self.gaps:
                raise AwaitedError(
                    f"{path} lists {missing[0]}, and {len(missing) - 1} more, without a file; get them, or set "
                    "OutlooksConfig.gaps."
                )
        out: dict[date, list[tuple[str, Path]]] = {}
        ordered = sorted((_issue(path), url, path) for url, path in found.items())
        for issue, url, path in ordered:
            if self._within(issue.day):
                out.setdefault(issue.day, []).append((url, path))
        return out

    def _asked(
        self, found: Mapping[str, Path], lists: Sequence[tuple[Path, list[str]]]
    ) -> dict[date, list[tuple[str, Path]]]:
        """Outlooks as published: all those of one list under the day of its last one; a later list takes its place."""
        if not lists:
            return self._daily(found, ())
        out: dict[date, list[tuple[str, Path]]] = {}
        for path, urls in lists:
            if not urls:
                raise InputError(
                    f"{path} lists no outlook, at which the published preparation stops; take it away, or mend the "
                    "defect last_day_of_request."
                )
            under = _issued(urls[-1], path).day
            if self._within(under):
                out[under] = [(url, found[url]) for url in urls if url in found]
        return out

    def _requests(self, first: date, last: date) -> dict[date, list[str]]:
        """Names of the model's files of a range of days."""
        out: dict[date, list[str]] = {}
        for one in hrrr.requests(first, last, hour=self.hour, end_exclusive=self.repeats("end_exclusive")):
            out.setdefault(one.moment.date(), []).append(one.name)
        return out

    def _named(self, paths: Sequence[Path]) -> dict[date, list[str]]:
        """Names of the model's files that are there, by day, in order of name."""
        if not paths:
            raise AwaitedError(f"no file matches {self.images!r}; correct OutlooksConfig.images, or get the files.")
        names: list[str] = []
        for path in paths:
            listing = path.suffix in (".txt", ".csv")
            names += [line.strip() for line in pages.text_of(path).splitlines()] if listing else [path.name]
        out: dict[date, list[str]] = {}
        for name in sorted(set(names)):
            if name.endswith(".grib2"):
                day = hrrr.moment_of(name).date()
                if self._within(day):
                    out.setdefault(day, []).append(name)
        return out

    def rows(self, part: Part) -> list[Row]:
        """The discussions of a part, in the order of their table."""
        under = date.fromisoformat(part.about["under"])
        three_dots = self.repeats("three_dots")
        rows: list[Row] = []
        if self.source == "generated":
            for issue, url, text in self._generated(under):
                rows += tables.rows_of(text, issue, url, under, three_dots=three_dots, what=url)
            return rows
        for url, file in zip(part.about["urls"], part.files, strict=False):  # the model's files stand behind
            page = pages.text_of(Path(file))
            issue = _issue(Path(file))
            rows += tables.rows_of(page, issue, url, under, three_dots=three_dots, what=file)
        return rows

    def _generated(self, day: date) -> Iterator[tuple[Issue, str, str]]:
        """Outlooks of one day of the generated world: issue, address, text."""
        from models.climate.generator import outlooks as world

        for one in world.outlooks_of(world.OutlooksConfig(daily=self.daily, seed=self.seed), day):
            name = f"day1otlk_{day:%Y%m%d}_{one.time}"
            url = f"{pages.SITE}/products/outlook/archive/{day.year}/{name}.html"
            yield Issue(day=day, time=one.time, ahead=1), url, one.page

    def part(self, part: Part) -> Mapping[str, "xr.Dataset"]:
        """The outlooks of one day, the model's files of that day, and which go together."""
        import xarray as xr

        rows = self.rows(part)
        images = [(name, _place(name), hrrr.moment_of(name)) for name in part.about["images"]]
        named = [(name, moment) for name, _, moment in images]
        pairs = tables.pairs_of(named, rows, first=self.repeats("first_outlook"), every=self.pairing == "every")
        made = {
            group: xr.Dataset({name: ((group[:-1],), one) for name, one in variables.items()})
            for group, variables in tables.arrays(rows, images, pairs).items()
        }
        return {**made, "fields": self._fields(part)} if self.variables else made

    def _fields(self, part: Part) -> "xr.Dataset":
        """Fields of the runs of one day that are there, a run at a time."""
        import xarray as xr

        names, fields = [], []
        if self.source == "generated":
            names = list(part.about["images"])
            fields = [self._generated_fields(hrrr.moment_of(name).date()) for name in names]
            shape = self._generated_frame(date.fromisoformat(part.about["under"])).latitude.shape
        else:
            shape = tuple(part.about["cells"])
            for file in part.files[len(part.about["urls"]) :]:
                path = Path(file)
                moment = hrrr.moment_of(path.name)
                names.append(path.name)
                fields.append(model.read(path, moment, self.variables, self.level, self.every, (shape[0], shape[1])))
        minutes = [round((hrrr.moment_of(name) - tables.EPOCH).total_seconds() / 60) for name in names]
        columns: dict[str, Any] = {
            "file_name": (("run",), np.array(names, object)),
            "moment": (("run",), np.array(minutes, np.int32)),
        }
        for name in self.variables:
            stack = [one[name] for one in fields]
            columns[name] = (("run", "y", "x"), np.stack(stack) if stack else np.zeros((0, *shape), np.float32))
        return xr.Dataset(columns)

    def _generated_frame(self, day: date) -> model.Frame:
        """The stored grid of the generated world."""
        from models.climate.generator import outlooks as world

        config = world.OutlooksConfig(daily=self.daily, seed=self.seed)
        held = world.native_of(config, day) if self.variables else {}
        if missing := [name for name in self.variables if name not in held]:
            raise ValueError(
                f"OutlooksConfig.variables names {missing[0]!r}, which the generated world lacks; it has "
                f"{', '.join(sorted(held))}."
            )
        if self.variables and self.level > config.levels:
            raise ValueError(
                f"OutlooksConfig.level must be at most {config.levels} in the generated world, got {self.level}."
            )
        fields = world.fields_of(config, day)
        units = {"t": "K", "u": "m s-1", "v": "m s-1", "q": "kg kg-1", "pres": "Pa"}
        return model.frame_of(fields["latitude"], fields["longitude"], self.every, units, "the generated grid")

    def _generated_fields(self, day: date) -> dict[str, "np.ndarray[Any, Any]"]:
        from models.climate.generator import outlooks as world

        held = world.native_of(world.OutlooksConfig(daily=self.daily, seed=self.seed), day)
        return {
            name: model.together(held[name][self.level - 1], self.every).astype(np.float32) for name in self.variables
        }

    def _groups(self, frame: model.Frame | None) -> dict[str, Layout]:
        def of(dim: str, **variables: tuple[str, dict[str, Any]]) -> Layout:
            return Layout(
                append=dim,
                sizes={},
                attrs={"Conventions": "CF-1.11", "repeated_defects": " ".join(sorted(self.defects))},
                variables={
                    name: Variable(dims=(dim,), dtype=dtype, attrs=attrs, chunks={dim: _CHUNK}, shards={dim: _SHARD})
                    for name, (dtype, attrs) in variables.items()
                },
            )

        time = {"units": _TIME, "calendar": "proleptic_gregorian"}
        flags = {"flag_values": [0, 1], "flag_meanings": "no yes"}
        fields = {"fields": self._field_layout(frame)} if self.variables and frame is not None else {}
        return {
            **fields,
            "outlooks": of(
                "outlook",
                stored_under=("int32", {"long_name": "day of its table", "units": "days since 1970-01-01"}),
                issued=("int32", {"standard_name": "time", "long_name": "time of issue", **time}),
                ahead=("int8", {"long_name": "day that it is for, 1 is the day of issue", "units": "1"}),
                block=("int16", {"long_name": "number of the preformatted block in the page", "units": "1"}),
                has_summary=("int8", {"long_name": "whether the page has a summary", **flags}),
                url=("str", {"long_name": "address of the page"}),
                discussion=("str", {"long_name": "discussion"}),
            ),
            "images": of(
                "image",
                file_name=("str", {"long_name": "name of the model's file"}),
                place=("str", {"long_name": "object of the archive"}),
                moment=("int32", {"standard_name": "time", "long_name": "time of the run", **time}),
                paired=("int8", {"long_name": "whether a text goes with it", **flags}),
            ),
            "pairs": of(
                "pair",
                file_name=("str", {"long_name": "name of the model's file"}),
                moment=("int32", {"standard_name": "time", "long_name": "time of the run", **time}),
                issued=("int32", {"long_name": "time of issue of the outlook", **time}),
                url=("str", {"long_name": "address of the outlook"}),
                text=("str", {"long_name": "discussion, without blanks around it"}),
            ),
        }

    def _field_layout(self, frame: model.Frame) -> Layout:
        """Fields of runs on the stored grid."""
        rows, columns = frame.latitude.shape
        axes = {"latitude": ("degrees_north", frame.latitude), "longitude": ("degrees_east", frame.longitude)}

        def along(dtype: str, **attrs: Any) -> Variable:
            return Variable(dims=("run",), dtype=dtype, attrs=attrs, chunks={"run": _CHUNK}, shards={"run": _SHARD})

        def field(name: str) -> Variable:
            attrs = {"units": frame.units[name], "coordinates": "latitude longitude", "cell_methods": "y: x: mean"}
            return Variable(dims=("run", "y", "x"), dtype="float32", attrs=attrs, chunks={"run": 1}, shards={"run": 64})

        return Layout(
            append="run",
            sizes={"y": rows, "x": columns},
            coordinates={
                name: (("y", "x"), values, {"standard_name": name, "units": units})
                for name, (units, values) in axes.items()
            },
            attrs={"Conventions": "CF-1.11", "level": self.level, "points_of_a_cell": self.every},
            variables={
                "file_name": along("str", long_name="name of the model's file"),
                "moment": along("int32", standard_name="time", units=_TIME, calendar="proleptic_gregorian"),
                **{name: field(name) for name in self.variables},
            },
        )

    def export(self, groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
        """The tables of outlooks, one a day, the table of pairs, and the list of the model's files."""
        folder = Path(folder)
        outlooks, images, pairs = (groups[name] for name in ("outlooks", "images", "pairs"))
        if not pairs.sizes["pair"]:
            raise InputError("no model file has an outlook of its day, so there is no metadata to write; add outlooks.")
        under = np.asarray(outlooks["stored_under"].values).astype(np.int64)
        written = []
        for days in _batches(under):
            begin = days[0][0]
            block = outlooks.isel(outlook=slice(begin, days[-1][1])).load()
            for start, stop in days:
                day = _EPOCH + timedelta(days=int(under[start]))
                rows = block.isel(outlook=slice(start - begin, stop - begin))
                written.append(schemas.write_text(folder / "csv_reports" / f"{day:%Y%m%d}.csv", _reports(rows)))
        written.append(
            schemas.write_text(folder / "metadata.csv", _columns(pairs, "pair", file_name="file_name", text="text"))
        )
        columns = _columns(images, "image", object="place", save_name="file_name")
        return (*written, schemas.write_text(folder / "hrrr_requests.csv", columns))


def _reports(block: "xr.Dataset") -> Iterator[str]:
    """One day's table."""
    yield "date,time,url,discussion\n"
    for minutes, url, discussion in zip(
        np.asarray(block["issued"].values).astype(np.int64),
        block["url"].values,
        block["discussion"].values,
        strict=True,
    ):
        moment = datetime(1970, 1, 1) + timedelta(minutes=int(minutes))
        yield _line((f"{moment:%Y%m%d}", f"{moment:%H%M}", str(url), str(discussion)))


def _columns(group: "xr.Dataset", dim: str, **named: str) -> Iterator[str]:
    """Columns of text of a group as a table, some rows at once."""
    yield _line(tuple(named))
    for start in range(0, group.sizes[dim], _CHUNK):
        block = group.isel({dim: slice(start, start + _CHUNK)}).load()
        for row in zip(*(block[name].values for name in named.values()), strict=True):
            yield _line(tuple(map(str, row)))


def _line(values: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def _batches(values: "np.ndarray[Any, Any]") -> Iterator[list[tuple[int, int]]]:
    """Begin and end of every run of equal values, as many runs at once as some thousand rows have."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    held: list[tuple[int, int]] = []
    for start, stop in pairwise(edges):
        if held and stop - held[0][0] > 4 * _CHUNK:
            yield held
            held = []
        if stop > start:
            held.append((start, stop))
    if held:
        yield held


def _issue(path: Path) -> Issue:
    """When a page was issued, by its name or its text."""
    if pages.is_outlook(path):
        return pages.issue_in_name(path.name, str(path))
    return pages.issue_in_text(pages.text_of(path), str(path))


def _issued(url: str, path: Path) -> Issue:
    return pages.issue_in_name(url, f"{path}: {url}")


def _place(name: str) -> str:
    moment = hrrr.moment_of(name)
    return f"hrrr.{moment:%Y%m%d}/conus/hrrr.{name.split('.', 2)[2]}"


def _every(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


def tiny() -> OutlooksConfig:
    """Thirty generated days, and the temperature of their runs."""
    return OutlooksConfig(variables=("t",))


def small() -> OutlooksConfig:
    """Three generated years, with temperature, wind and humidity of their runs."""
    return OutlooksConfig(start="2019-01-01", end="2021-12-31", variables=("t", "u", "v", "q"))


def paper() -> OutlooksConfig:
    """Outlooks of 2018 on, paired with the run of 01 UTC."""
    # forecast-report-generation/download_hrrr.py lines 24-33 begins at 2018-01-01 01 UTC and steps by 24 h; no end, and
    # no list of pages, is committed
    return OutlooksConfig(source="files", pages="csv_reports/pages/*.html", start="2018-01-01", hour=1)
