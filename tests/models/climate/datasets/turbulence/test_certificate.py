"""The slow reference agrees with every part, and a stored dataset that was spoilt is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from models.climate.datasets.recipe import known
from models.climate.datasets.turbulence.config import TurbulenceConfig
from models.climate.datasets.turbulence.reference import TOLERANCES, checks, reference
from models.common.parts import Survey
from tests.models.climate.datasets.turbulence.worlds import (
    Files,
    Groups,
    assembled,
    config_of,
    line,
    write_columns,
    write_month,
)
from tests.models.climate.samples import real

WORLD = TurbulenceConfig(rows=19, across=36, levels=9, days=4, daily=170, start="2023-01-29", seed=3)


@pytest.fixture(scope="module")
def world() -> tuple[Survey, Groups]:
    return assembled(WORLD, {})


def same(one: xr.Dataset, other: xr.Dataset) -> list[str]:
    """Variables that are not the same to the bit."""
    assert set(one.data_vars) == set(other.data_vars)
    wrong = []
    for name in one.data_vars:
        a, b = one[name], other[name]
        equal = a.dims == b.dims and a.dtype == b.dtype and a.shape == b.shape
        if not equal or not np.array_equal(a.values, b.values, equal_nan=a.dtype.kind == "f"):
            wrong.append(str(name))
    return wrong


def disagreements(config: TurbulenceConfig, files: Files) -> list[str]:
    wrong = []
    for part in config.survey(files).parts:
        made, again = config.part(part), reference(config, part, {})
        assert set(made) == set(again)
        wrong += [f"{part.name}: {group}/{name}" for group in made for name in same(made[group], again[group])]
    return wrong


def test_the_reference_makes_every_part_of_the_generated_world_again() -> None:
    assert disagreements(WORLD, {}) == []
    assert TOLERANCES == {}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Months in an odd order with all that reports may be: see `test_defects.py` for what each line is."""
    rng = np.random.default_rng(11)
    words = [
        "NEG",
        "LGT",
        "LGT-MOD",
        "CONS MOD",
        "SEV CAT",
        "EXTRM",
        "None",
        "UNKN",
        "MOD MX",
        "",
        "SMTH ABV 300",
        "LT",
    ]
    levels = ["350", "040-060", "UNKN", " 180-FL200 ", "3000", "100", "149", "150 ", "SFC-090", "299", "300", "0499"]
    months = {}
    for month in ("2022-12", "2023-01", "2023-02", "2023-10"):
        rows = []
        for _ in range(120):
            day, hour = rng.integers(1, 4), rng.integers(24)
            lat, lon = rng.choice([29.75, 30.0, 32.5, 51.9999999999999]), rng.choice([-90, -93.75, 176.25, 179.9, 180])
            valid = f"{month.replace('-', '')}{day:02}{hour:02}00"
            rows.append(line(valid, str(rng.choice(levels)), str(rng.choice(words)), lat, lon))
        months[month] = [*rows, rows[0], line(rows[0][:12], "350", "MOD", "None", 10)]
    reports = [write_month(tmp_path, month, rows) for month, rows in months.items()]
    hidden = (slice(3, None), slice(24, 30), slice(0, 20))
    air = [write_columns(tmp_path, day, hidden=hidden) for day in ("2022-12-02", "2023-01-01", "2023-10-03")]
    return {"reports": tuple(reports), "columns": tuple(air)}


@pytest.mark.parametrize("name", ["", "published", *known("turbulence")])
def test_the_reference_agrees_with_every_rule(name: str, files: Files) -> None:
    repeated = () if name in ("", "published") else (name,)
    compat: Any = "published" if name == "published" else "mended"
    assert disagreements(config_of(compat=compat, reproduce=repeated, columns="*.nc"), files) == []


def test_the_reference_agrees_on_a_cut_of_days(files: Files) -> None:
    config = config_of(columns="*.nc", start="2022-12-03", end="2023-01-02")
    assert disagreements(config, files) == []
    assert [part.name for part in config.survey(files).parts] == [
        "reports 2022-12",
        "reports 2023-01",
        "columns 2023-01-01",
    ]


def test_the_reference_agrees_on_the_recorded_archive() -> None:
    raw = real("golden/aviation/input/pireps_no_ranges.csv")
    for compat in ("mended", "published"):
        config = TurbulenceConfig(source="files", reports="x", rows=361, across=576, compat=compat)
        assert disagreements(config, {"reports": (raw,)}) == []


def failing(groups: Groups) -> set[str]:
    return {claim.name for claim in checks(groups) if not claim.holds}


def test_what_was_made_holds(world: tuple[Survey, Groups]) -> None:
    claims = checks(world[1])
    assert [claim.sentence() for claim in claims if not claim.holds] == []
    assert len(claims) > 20


@pytest.mark.parametrize("compat", ["mended", "published"])
def test_what_was_made_of_files_holds_by_either_rule(compat: Any, files: Files) -> None:
    assert failing(assembled(config_of(compat=compat, columns="*.nc"), files)[1]) == set()


def test_what_a_reader_decodes_holds_too(world: tuple[Survey, Groups]) -> None:
    decoded = dict(world[1])
    decoded["grids"] = decoded["grids"].assign_coords(time=decoded["grids"]["time"].values.astype("datetime64[D]"))
    decoded["grids"]["Turbulence"] = decoded["grids"]["Turbulence"].where(decoded["grids"]["Turbulence"] != 2)
    decoded["reports"] = decoded["reports"].assign(
        time=("report", decoded["reports"]["time"].values.astype("datetime64[m]"))
    )
    assert failing(decoded) == set()


def shuffled(groups: Groups, group: str, dim: str, name: str) -> None:
    order = np.random.default_rng(1).permutation(groups[group].sizes[dim])
    groups[group][name] = (groups[group][name].dims, groups[group][name].values[order])


def changed(groups: Groups, group: str, name: str, change: Callable[[Any], Any]) -> None:
    variable = groups[group][name]
    groups[group][name] = (variable.dims, change(variable.values.copy()))


def first(values: Any, value: Any) -> Any:
    values[np.flatnonzero(values != value)[0]] = value
    return values


def filled(values: Any) -> Any:
    values[np.isnan(values)] = 1e15
    return values


def one_lower(values: Any) -> Any:
    known = np.argwhere(values == 1)[0]
    values[tuple(known)] = 0
    return values


CORRUPTIONS: dict[str, Callable[[Groups], None]] = {
    "intensities of other rows": lambda g: shuffled(g, "reports", "report", "intensity"),
    "levels of other rows": lambda g: shuffled(g, "reports", "report", "flight_level"),
    "bands of other rows": lambda g: shuffled(g, "reports", "report", "band"),
    "texts of other rows": lambda g: shuffled(g, "reports", "report", "message"),
    "a part twice": lambda g: g.update(reports=xr.concat([g["reports"], g["reports"][{"report": slice(9)}]], "report")),
    "a part missing": lambda g: g.update(reports=g["reports"].isel(report=slice(40, None))),
    "longitudes turned": lambda g: changed(g, "reports", "longitude", lambda v: (v + 360) % 360 - 170),
    "latitudes with the other sign": lambda g: changed(g, "reports", "latitude", np.negative),
    "times an hour late": lambda g: changed(g, "reports", "time", lambda v: v + 60),
    "one cell quiet": lambda g: changed(g, "grids", "Turbulence", one_lower),
    "no data as zero": lambda g: changed(g, "grids", "Turbulence", lambda v: np.where(v == 2, 0, v).astype("u1")),
    "no data as 255": lambda g: changed(g, "grids", "Turbulence", lambda v: np.where(v == 2, 255, v).astype("u1")),
    "maps north first": lambda g: changed(g, "grids", "Turbulence", lambda v: v[:, :, ::-1]),
    "maps a column on": lambda g: changed(g, "grids", "Turbulence", lambda v: np.roll(v, 1, 3)),
    "bands exchanged": lambda g: changed(g, "grids", "Turbulence", lambda v: v[:, ::-1]),
    "two days exchanged": lambda g: changed(g, "grids", "Turbulence", lambda v: v[[1, 0, *range(2, len(v))]]),
    "coordinates from Greenwich": lambda g: g.update(
        grids=g["grids"].assign_coords(lon=(g["grids"]["lon"] + 360) % 360)
    ),
    "a day out of order": lambda g: g.update(grids=g["grids"].assign_coords(time=g["grids"]["time"].values[::-1])),
    "counts of another day": lambda g: changed(g, "grids", "reports", lambda v: v[::-1]),
    "a year that is not the day's": lambda g: changed(g, "grids", "file_year", lambda v: np.where(v > 0, 0, 2023)),
    "labels of other samples": lambda g: shuffled(g, "training", "sample", "TURBULENCE"),
    "samples of another day": lambda g: changed(g, "training", "time", lambda v: v - 1),
    "samples in disorder": lambda g: g.update(training=g["training"].isel(sample=slice(None, None, -1))),
    "a sample lost": lambda g: g.update(training=g["training"].isel(sample=slice(1, None))),
    "a day on both sides": lambda g: changed(g, "training", "split", lambda v: first(v, 1 - v[0])),
    "fill as value": lambda g: changed(g, "training", "T", filled),
    "celsius": lambda g: changed(g, "training", "T", lambda v: v - np.float32(273.15)),
    "hectopascals": lambda g: changed(g, "training", "PL", lambda v: v / 100),
    "geopotential for height": lambda g: changed(g, "training", "H", lambda v: v * np.float32(9.81)),
    "levels from the ground up": lambda g: changed(g, "training", "PL", lambda v: v[:, ::-1]),
    "missing miscounted": lambda g: changed(g, "training", "missing", lambda v: v + 1),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_a_spoilt_dataset_is_refused(what: str, world: tuple[Survey, Groups]) -> None:
    survey, groups = world
    spoilt = {name: group.copy(deep=True) for name, group in groups.items()}
    CORRUPTIONS[what](spoilt)
    assert failing(spoilt) or differing_parts(survey, spoilt), what


def test_winds_with_the_other_sign_and_columns_of_another_place_differ_from_the_reference(
    world: tuple[Survey, Groups],
) -> None:
    survey, groups = world
    for name, change in (("U", np.negative), ("V", lambda v: v[::-1]), ("OMEGA", lambda v: v * np.float32(1.001))):
        spoilt = {key: group.copy(deep=True) for key, group in groups.items()}
        changed(spoilt, "training", name, change)
        assert f"training/{name}" in differing_parts(survey, spoilt)


_AGAIN: dict[str, Any] = {}


def differing_parts(survey: Survey, groups: Groups) -> set[str]:
    """What differs from the reference in the first month and the first day of columns."""
    chosen = [survey.parts[0], next(part for part in survey.parts if part.name.startswith("columns"))]
    wrong: set[str] = set()
    for part in chosen:
        if part.name not in _AGAIN:
            _AGAIN[part.name] = reference(WORLD, part, {})
        for group, again in _AGAIN[part.name].items():
            for name in map(str, again.data_vars):
                dim = str(again[name].dims[0])
                stored = groups[group][name].isel({dim: slice(again.sizes[dim])})
                if not np.array_equal(stored.values, again[name].values, equal_nan=stored.dtype.kind == "f"):
                    wrong.add(f"{group}/{name}")
    return wrong


def test_an_unspoilt_dataset_does_not_differ(world: tuple[Survey, Groups]) -> None:
    assert differing_parts(*world) == set()
