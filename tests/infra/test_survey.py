"""The command says what a run would make of somebody's raw files, by the recipe's own words, and stores nothing."""

import json
from collections.abc import Callable
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from infra.cli import app
from infra.settings import settings
from models.climate.datasets.config import FLOWS, preset
from models.climate.generator.storms import StormsConfig, hurdat2, storms_of
from tests.models.climate.datasets.analogs.test_analogs import daily
from tests.models.climate.datasets.fluxes.worlds import archive
from tests.models.climate.datasets.outlooks.test_outlooks import three_outlooks
from tests.models.climate.datasets.precipitation.worlds import written
from tests.models.climate.datasets.turbulence.worlds import line, write_month


def survey(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["survey", *map(str, words)])
    return done.exit_code, done.output


def changed(config: Any) -> list[str]:
    """The settings of a configuration that are no defaults, as words."""
    given = {one.name: getattr(config, one.name) for one in fields(config) if getattr(config, one.name) != one.default}
    return [f"{name}={value}" for name, value in given.items() if name != "source"]


def days(folder: Path) -> list[str]:
    for number in (29, 30, 31):
        daily(folder, date(2019, 1, number))
    daily(folder, date(2019, 2, 1))
    return [f"files={folder}/MERRA2*.nc"]


def storms(folder: Path) -> list[str]:
    for basin in ("AL", "EP"):
        (folder / f"{basin}.txt").write_text(hurdat2(storms_of(StormsConfig(basin=basin), 2001)))
    return [f"atlantic={folder}/AL.txt", f"pacific={folder}/EP.txt"]


def reports(folder: Path) -> list[str]:
    write_month(folder, "2023-01", [line(f"202301{day:02d}1500", "350", "MOD") for day in (3, 4, 9)])
    return [f"reports={folder}/*.csv"]


def pages(folder: Path) -> list[str]:
    _, listing = three_outlooks(folder)
    return [f"pages={folder}/*.html", f"images={listing}", "variables="]


RAW: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "fluxes": (lambda folder: changed(archive(folder)), "12 parts; the first is '2015-03-01T00:00 levels 1-2'"),
    "turbulence": (reports, "1 part; the first is 'reports 2023-01'."),
    "storms": (storms, "2 parts; the first is 'AL.txt', the last 'EP.txt'"),
    "analogs": (days, "2 parts; the first is '2019-01', the last '2019-02'"),
    "precipitation": (lambda folder: changed(written(folder)), "parts; the first is "),
    "outlooks": (pages, "1 part; the first is "),
}


@pytest.mark.parametrize("dataset", FLOWS)
def test_files_of_each_kind_are_surveyed_and_what_is_printed_can_be_pasted(
    dataset: str, home: Path, tmp_path: Path
) -> None:
    make, said = RAW[dataset]
    words = make(tmp_path)
    code, output = survey(dataset, *words)
    assert code == 0, output
    assert said in output
    assert "Verdict: usable" in output
    assert "HEADRACE_DATA_ROOTS does not hold" in output
    pasted = json.loads(output[output.index("\n{\n") : output.index("\n}\n") + 3])["config"]["data"]
    built = TypeAdapter(type(preset(dataset, "tiny").recipe)).validate_python(pasted)
    assert built.source == "files"
    for word in words:
        name, _, value = word.partition("=")
        assert str(getattr(built, name) or "") == value
    assert not any(path.is_file() for path in home.rglob("*") if path.suffix == ".json"), "something was stored"


@pytest.mark.parametrize("dataset", FLOWS)
def test_the_generated_world_is_surveyed_when_it_is_asked_for(dataset: str) -> None:
    code, output = survey(dataset, "source=generated")
    assert code == 0, output
    assert "No raw files: the world is generated." in output
    assert "does not hold" not in output


def test_grid_times_variables_and_the_first_part_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(tmp_path))
    settings.cache_clear()
    code, output = survey("fluxes", *changed(archive(tmp_path)), "--part")
    assert code == 0, output
    assert "time: 2015-03-01T00:00 to 2015-03-02T01:00 UTC (4)" in output
    assert "lat: 90 to -90 degrees_north (47)" in output
    for row in (r"surface_pressure", r"PS20150301_ml.nc", r"m s-1", "Part 2015-03-01T00:00 levels 1-2"):
        assert row in output
    assert "training/uw" in output and "0.0%" in output
    assert "does not hold" not in output


def test_units_that_are_not_what_they_say_are_refused_by_the_first_part(tmp_path: Path) -> None:
    daily(tmp_path, date(2019, 1, 1), units="hPa")
    path = tmp_path / "MERRA2_400.inst1_2d_asm_Nx.20190101.SUB.nc"
    import netCDF4

    with netCDF4.Dataset(path, "a") as file:
        file["SLP"].units = "Pa"
    words = ("analogs", f"files={tmp_path}/*.nc")
    assert survey(*words)[0] == 0, "a survey looks at headers alone"
    code, output = survey(*words, "--part")
    assert code == 1
    assert "SLP" in output
    assert "Verdict: unusable; a run would say:" in output
    assert "hPa" in output or "check the units" in output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("rain",), 2, "there is no dataset 'rain'"),
        (("storms", "files=x"), 2, "'files=x' is no setting as in NAME=VALUE"),
        (("storms", "atlantic"), 2, "'atlantic' is no setting"),
        (("analogs",), 2, "AnalogsConfig.files must name daily files"),
        (("analogs", "files=x", "hour=24"), 2, "hour"),
        (("analogs", "files=x", "hour=noon"), 2, "hour"),
        (("analogs", "files=/nowhere/*.nc"), 1, "/nowhere/*.nc: no file fits"),
        (("storms", "atlantic=/nowhere/al.txt"), 1, "/nowhere/al.txt: no file fits"),
    ],
)
def test_what_cannot_be_surveyed_is_said_by_name(words: tuple[str, ...], code: int, said: str) -> None:
    found, output = survey(*words)
    assert found == code
    assert said in " ".join(output.replace("│", " ").split())


def test_a_gap_is_refused_as_a_run_refuses_it(tmp_path: Path) -> None:
    daily(tmp_path, date(2019, 1, 1))
    daily(tmp_path, date(2019, 1, 3))
    code, output = survey("analogs", f"files={tmp_path}/*.nc")
    assert code == 1
    assert "1 days from 2019-01-01 to 2019-01-03 have no file, the first is 2019-01-02" in output
    assert "Raw files" in output
    code, output = survey("analogs", f"files={tmp_path}/**/*.nc", "gaps=true", "reproduce=exists_is_done")
    assert code == 0, output
    assert '"gaps": true' in output
