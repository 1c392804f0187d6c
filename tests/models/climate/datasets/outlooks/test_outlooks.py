"""Outlooks with the runs of their day, as published and mended; the reference finds what was spoilt."""

import csv
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from models.climate.datasets import schemas
from models.climate.datasets.certificate import distance
from models.climate.datasets.outlooks.baseline import baseline, overlap, weighted, words_of
from models.climate.datasets.outlooks.config import OutlooksConfig, paper, small, tiny
from models.climate.datasets.outlooks.figures import figures
from models.climate.datasets.outlooks.reference import TOLERANCES, checks, reference
from models.climate.generator import outlooks as world
from models.common.errors import AwaitedError, InputError
from tests.models.climate.datasets.outlooks.test_pages import SUMMARY, TEXT
from tests.models.climate.samples import real

Groups = dict[str, xr.Dataset]


def whole(
    config: OutlooksConfig, pages: tuple[Path, ...] = (), images: tuple[Path, ...] = (), *, judged: bool = True
) -> tuple[Groups, Any]:
    """The recipe's parts put together as they are stored, and the survey; every part is held to the reference."""
    survey = config.survey({"pages": pages, "images": images})
    made = []
    for part in survey.parts:
        made.append(config.part(part))
        if not judged:
            continue
        again = reference(config, part, {})
        for group, layout in survey.groups.items():
            assert made[-1][group].identical(again[group]), (part.name, group)
            for name, variable in layout.variables.items():
                kind = made[-1][group][name].dtype
                assert kind == (object if variable.dtype == "str" else np.dtype(variable.dtype))
    return {
        group: xr.concat([one[group] for one in made], layout.append).assign_attrs(layout.attrs)
        for group, layout in survey.groups.items()
    }, survey


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def exported(config: OutlooksConfig, groups: Groups, folder: Path) -> dict[str, Path]:
    written = {path.name: path for path in config.export(groups, folder)}
    for name, path in written.items():
        assert schemas.differences_in(schemas.load("outlooks").file(name), path) == []
    return written


def golden_pages(*lists: str) -> tuple[Path, ...]:
    folder = real("golden/forecast_reports/spc_pages_synthetic")
    return (*folder.glob("day*.html"), *(folder / name for name in lists))


ONE_A_DAY = ("index_2021-06-27_2021-06-27.html", "index_2021-06-28_2021-06-28.html")
TWO_DAYS = ("index_2021-06-27_2021-06-28.html",)


@pytest.mark.parametrize(
    ("lists", "reports", "pairs"),
    [(ONE_A_DAY, "csv_reports", "metadata.csv"), (TWO_DAYS, "csv_reports_two_days", "metadata_two_days.csv")],
)
def test_the_golden_tables_come_out_as_published(
    lists: tuple[str, ...], reports: str, pairs: str, tmp_path: Path
) -> None:
    golden = real("golden/forecast_reports")
    config = OutlooksConfig(source="files", pages="x", images="y", compat="published")
    groups, _ = whole(config, golden_pages(*lists), (golden / "hrrr_file_names.txt",))
    written = exported(config, groups, tmp_path)
    for path in (golden / reports).iterdir():
        assert written[path.name].read_bytes() == path.read_bytes()
    assert written["metadata.csv"].read_bytes() == (golden / pairs).read_bytes()
    assert [claim.sentence() for claim in checks(groups) if not claim.holds] == []


def test_mended_tables_differ_from_the_golden_ones_where_dots_blocks_and_marks_say(tmp_path: Path) -> None:
    golden = real("golden/forecast_reports")
    config = OutlooksConfig(source="files", pages="x", images="y")
    groups, _ = whole(config, golden_pages(*ONE_A_DAY), (golden / "hrrr_file_names.txt",))
    written = exported(config, groups, tmp_path)
    assert written["20210628.csv"].read_bytes() == (golden / "csv_reports" / "20210628.csv").read_bytes()
    assert written["metadata.csv"].read_bytes() == (golden / "metadata.csv").read_bytes()
    ours, theirs = rows_of(written["20210627.csv"]), rows_of(golden / "csv_reports" / "20210627.csv")
    assert [row in theirs for row in ours] == [True, True, False, True, False]
    assert ours[2][:3] == theirs[2][:3]
    assert ours[2][3].strip().endswith("are possible today from\n   the upper Midwest into the Great Lakes.")
    # the note in a second block is no row, and a page without a mark has no text
    assert theirs[4][3] == "Probabilistic note in a second block."
    assert (ours[4][:3], ours[4][3]) == (theirs[5][:3], "")
    assert [claim.sentence() for claim in checks(groups) if not claim.holds] == []


def test_each_day_has_its_own_outlooks_though_one_request_asked_for_two(tmp_path: Path) -> None:
    golden = real("golden/forecast_reports")
    found = tuple(path for path in golden_pages(*TWO_DAYS) if "1300" in path.name or "index" in path.name)
    tables = {}
    for reproduce in ((), ("last_day_of_request",)):
        config = OutlooksConfig(source="files", pages="x", images="y", reproduce=reproduce)
        groups, _ = whole(config, found, (golden / "hrrr_file_names.txt",))
        tables[reproduce] = exported(config, groups, tmp_path / str(len(reproduce)))
    days = [{name for name in written if name[0] == "2"} for written in tables.values()]
    assert days == [{"20210627.csv", "20210628.csv"}, {"20210628.csv"}]
    mended, repeated = (rows_of(written["metadata.csv"])[1:] for written in tables.values())
    assert [row[0] for row in mended] == [f"hrrr.202106{day}.t01z.wrfnatf00.grib2" for day in (27, 28)]
    assert mended[0][1].startswith("Damaging winds...large hail")
    assert mended[1][1] == "Strong storms may produce gusts of 50 kt."
    # only the last day is left, with the nearest of the rows stored under it
    assert [row[0] for row in repeated] == ["hrrr.20210628.t01z.wrfnatf00.grib2"]


def outlook(folder: Path, name: str, summary: str | None, *, html: bool = True) -> Path:
    """A page with a text of its own; None: without a mark."""
    body = TEXT.split(".PREV")[0]
    body = body.split("...SUMMARY...")[0] if summary is None else body.replace(SUMMARY.strip(), summary)
    path = folder / name
    path.write_text(f"<html><body><pre>{body}</pre></body></html>" if html else body)
    return path


def three_outlooks(folder: Path) -> tuple[tuple[Path, ...], Path]:
    """A day whose list begins with the outlook for the next day, and the names of two runs."""
    found = (
        outlook(folder, "day2otlk_20210627_0600.html", "Tomorrow hail is possible."),
        outlook(folder, "day1otlk_20210627_0100.html", "Storms end."),
        outlook(folder, "day1otlk_20210627_1300.html", "Storms...with hail...begin.", html=False),
        outlook(folder, "day1otlk_20210627_2000.html", None),
    )
    listing = folder / "names.txt"
    listing.write_text("".join(f"hrrr.20210627.t{hour}z.wrfnatf00.grib2\n" for hour in ("12", "02")) + "notes.txt\n")
    links = "".join(f"<a href='/products/outlook/archive/2021/{path.name}'>x</a>" for path in found)
    index = folder / "index_a.html"
    index.write_text(f"<html>{links}</html>")
    return (*found, index), listing


def test_a_run_goes_with_the_outlook_of_its_day_issued_nearest_to_it(tmp_path: Path) -> None:
    found, listing = three_outlooks(tmp_path)
    config = OutlooksConfig(source="files", pages="x", images="y")
    pairs = whole(config, found, (listing,))[0]["pairs"]
    assert pairs["text"].values.tolist() == ["Storms end.", "Storms...with hail...begin."]
    first = OutlooksConfig(source="files", pages="x", images="y", reproduce=("first_outlook", "last_day_of_request"))
    pairs = whole(first, found, (listing,))[0]["pairs"]
    assert pairs["text"].values.tolist() == ["Tomorrow hail is possible."] * 2  # the first of the list
    every = OutlooksConfig(source="files", pages="x", images="y", pairing="every")
    groups, _ = whole(every, found, (listing,))
    assert groups["pairs"]["text"].values.tolist() == ["Storms end.", "Storms...with hail...begin."] * 2
    assert groups["outlooks"]["has_summary"].values.tolist() == [1, 1, 1, 0]
    assert [claim.sentence() for claim in checks(groups) if not claim.holds] == []


def test_runs_of_the_archive_are_named_when_no_files_are_and_the_last_day_is_kept(tmp_path: Path) -> None:
    found, _ = three_outlooks(tmp_path)
    settings: dict[str, Any] = {"source": "files", "pages": "x", "start": "2021-06-26", "end": "2021-06-28"}
    mended, survey = whole(OutlooksConfig(**settings), found)
    assert [part.name for part in survey.parts] == ["2021-06-26", "2021-06-27", "2021-06-28"]
    assert mended["images"]["paired"].values.tolist() == [0, 1, 0]
    repeated, _ = whole(OutlooksConfig(**settings, reproduce=("end_exclusive",)), found)
    assert repeated["images"].identical(mended["images"].isel(image=slice(2)).assign_attrs(repeated["images"].attrs))


def test_a_report_without_a_telling_name_is_placed_by_its_text(tmp_path: Path) -> None:
    path = outlook(tmp_path, "bulletin.txt", "Storms.", html=False)
    groups, survey = whole(OutlooksConfig(source="files", pages="x"), (path,))
    assert [part.name for part in survey.parts] == ["2021-06-27"]
    assert groups["pairs"]["text"].values.tolist() == ["Storms."]
    assert groups["outlooks"]["url"].values.tolist() == ["bulletin.txt"]


def test_pages_and_lists_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    found, listing = three_outlooks(tmp_path)
    config = OutlooksConfig(source="files", pages="spc/*", images="names")
    with pytest.raises(AwaitedError, match=r"no file matches 'spc/\*'"):
        config.survey({})
    with pytest.raises(AwaitedError, match="no file matches 'names'"):
        config.survey({"pages": found})
    with pytest.raises(
        AwaitedError, match=r"lists https://spc.*day2otlk_20210627_0600.html, and 0 more, without a file"
    ):
        config.survey({"pages": found[1:], "images": (listing,)})
    assert len(OutlooksConfig(source="files", pages="x", gaps=True).survey({"pages": found[1:]}).parts) == 1
    empty = tmp_path / "index_b.html"
    empty.write_text("<html><a href='/index.html'>home</a></html>")
    config.survey({"pages": (*found, empty), "images": (listing,)})
    published = OutlooksConfig(source="files", pages="x", compat="published")
    with pytest.raises(InputError, match="lists no outlook, at which the published preparation stops"):
        published.survey({"pages": (*found, empty)})
    note = tmp_path / "day1otlk_20210701_1300.html"
    note.write_text("<html><pre>A note.</pre></html>")
    with pytest.raises(InputError, match="holds no report: no line tells when it was issued"):
        whole(OutlooksConfig(source="files", pages="x"), (note,))
    (tmp_path / "again").mkdir()
    twice = outlook(tmp_path / "again", "day1otlk_20210627_0100.html", "Storms.")
    with pytest.raises(InputError, match="are the same outlook; take one of them away"):
        config.survey({"pages": (*found, twice), "images": (listing,)})
    with pytest.raises(AwaitedError, match="no outlook of 2022-01-01"):
        OutlooksConfig(source="files", pages="x", start="2022-01-01").survey({"pages": found})
    unpaired = OutlooksConfig(source="files", pages="x", start="2021-06-26", end="2021-06-27", hour=2)
    groups, _ = whole(unpaired, (found[0],))
    with pytest.raises(InputError, match="no model file has an outlook of its day"):
        unpaired.export(groups, tmp_path / "out")
    with pytest.raises(ValueError, match=r"OutlooksConfig\.pages must name outlooks"):
        OutlooksConfig(source="files")


def test_written_pages_give_what_the_generated_world_gives(tmp_path: Path) -> None:
    generator = world.OutlooksConfig(daily=5, seed=3)
    first, last = date(2021, 1, 1), date(2021, 1, 9)
    pages = world.write_outlooks(generator, tmp_path, first, last)
    settings: dict[str, Any] = {"start": str(first), "end": str(last), "seed": 3}
    from_files, _ = whole(OutlooksConfig(source="files", pages="x", **settings), pages)
    generated, _ = whole(OutlooksConfig(**settings), ())
    for group, variables in generated.items():
        assert variables.drop_attrs().identical(from_files[group].drop_attrs())
    truth = [one.summary for day in range(9) for one in world.outlooks_of(generator, date(2021, 1, 1 + day))]
    assert [text.strip() for text in generated["outlooks"]["discussion"].values] == truth
    published, _ = whole(OutlooksConfig(compat="published", **settings))
    assert published["outlooks"].sizes["outlook"] > generated["outlooks"].sizes["outlook"]  # notes beside


@pytest.fixture(scope="module")
def stored() -> Groups:
    """Thirty generated days."""
    return whole(OutlooksConfig())[0]


def test_generated_days_hold_what_must_hold(stored: Groups) -> None:
    assert [claim.sentence() for claim in checks(stored) if not claim.holds] == []
    assert paper().hour == 1 and paper().start == "2018-01-01"
    assert len(small().survey({}).parts) == 1096
    assert list(tiny().survey({}).groups) == ["fields", "outlooks", "images", "pairs"]


def changed(group: str, name: str, change: Callable[[Any], Any]) -> Callable[[Groups], Groups]:
    def spoil(groups: Groups) -> Groups:
        one = groups[group]
        return {**groups, group: one.assign({name: one[name].copy(data=np.asarray(change(one[name].values)))})}

    return spoil


def each(change: Callable[[int, Any], Any]) -> Callable[[Any], Any]:
    return lambda values: np.array([change(row, one) for row, one in enumerate(values)], values.dtype)


CORRUPTIONS: dict[str, Callable[[Groups], Groups]] = {
    "texts shuffled": changed("pairs", "text", lambda text: np.roll(text, 7)),
    "outlooks shuffled": lambda groups: {
        **groups, "outlooks": groups["outlooks"].isel(outlook=np.random.default_rng(1).permutation(150)),
    },
    "one part twice": lambda groups: {name: xr.concat([group, group], name[:-1]) for name, group in groups.items()},
    "a day earlier": changed("outlooks", "issued", lambda issued: issued - 1440),
    "stored under another day": changed("outlooks", "stored_under", lambda day: day + 1),
    "times in hours": changed("images", "moment", lambda moment: moment // 60),
    "texts cut at dots": changed("outlooks", "discussion", each(lambda row, text: text.strip().split(" ")[0])),
    "header as a text": changed("outlooks", "discussion", each(lambda row, text: TEXT if row == 3 else text)),
    "texts lost": changed("pairs", "text", each(lambda row, text: "" if row == 2 else text)),
    "characters damaged": changed("outlooks", "discussion", each(lambda row, text: text.replace("a", "\ufffd"))),
    "names of another model": changed("images", "file_name", each(lambda row, name: name.replace("hrrr", "rap"))),
    "flags forgotten": changed("images", "paired", lambda paired: paired * 0),
    "pairs of another day": changed("pairs", "moment", lambda moment: moment + 1440),
    "addresses exchanged": changed("pairs", "url", lambda url: np.roll(url, 1)),
    "summaries said to be missing": changed("outlooks", "has_summary", lambda flag: flag * 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_was_spoilt_is_refused(name: str, stored: Groups) -> None:
    assert [claim.name for claim in checks(CORRUPTIONS[name](stored)) if not claim.holds]


def test_overlap_counts_common_words_with_repetition() -> None:
    assert words_of("Hail, 2-inch HAIL!") == ["hail", "2", "inch", "hail"]
    assert overlap(["hail", "hail", "wind"], ["hail", "rain"]) == pytest.approx(2 / 5)
    assert overlap([], []) == 1.0
    vectors = weighted([["a", "b"], ["a", "c"], ["a"]])
    assert np.allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0])  # a word that all texts have says nothing
    assert float(vectors[0] @ vectors[1]) == 0.0


def test_the_text_of_the_day_before_knows_more_than_a_random_one() -> None:
    groups, _ = whole(OutlooksConfig(days=60), judged=False)
    metrics = baseline(groups, seed=1)
    assert metrics["coverage"] == 1.0
    assert metrics["outlooks_a_day"] == 5.0
    assert metrics["persistence_f1"] > metrics["random_f1"]
    for rule in ("persistence", "typical", "random"):
        assert metrics[f"{rule}_f1_low"] <= metrics[f"{rule}_f1"] <= metrics[f"{rule}_f1_high"]
    assert baseline(groups, seed=1) == metrics
    with pytest.raises(ValueError, match="at least 10 pairs, got 5"):
        baseline({**groups, "pairs": groups["pairs"].isel(pair=slice(5))})


def test_figures_count_runs_and_words(stored: Groups) -> None:
    found = {figure.name: figure for figure in figures(stored)}
    assert list(found) == ["runs_with_text", "words_by_hour"]
    assert found["runs_with_text"].title == "30 of 30 runs have a text"


FIELDS: dict[str, Any] = {"variables": ("t", "u"), "level": 2, "every": 5}


def test_fields_of_the_runs_are_stored_beside_from_generated_days_and_from_grib_alike(tmp_path: Path) -> None:
    first, last = date(2021, 1, 1), date(2021, 1, 3)
    settings: dict[str, Any] = {"start": str(first), "end": str(last), **FIELDS}
    pages = world.write_outlooks(world.OutlooksConfig(), tmp_path, first, last)
    runs = world.write_hrrr(world.OutlooksConfig(), tmp_path, first, last)
    generated = OutlooksConfig(**settings)
    from_files = OutlooksConfig(source="files", pages="x", images="y", **settings)
    found: list[xr.Dataset] = []
    for config, files in ((generated, {}), (from_files, {"pages": pages, "images": runs})):
        survey = config.survey(files)
        layout = survey.groups["fields"]
        made = [config.part(part)["fields"] for part in survey.parts]
        for part, one in zip(survey.parts, made, strict=True):
            again = reference(config, part, {})["fields"]
            for name in layout.variables:
                limit = TOLERANCES.get(f"fields/{name}", 0.0)
                assert distance(one[name].values, again[name].values) <= limit
        axes = {name: (dims, values) for name, (dims, values, _) in layout.coordinates.items()}
        found.append(xr.concat(made, "run").assign_coords(axes))
    assert found[0]["t"].shape == (3, 36 // 5, 60 // 5)
    assert found[0]["file_name"].values.tolist() == [path.name for path in runs]
    for name in ("t", "u", "latitude", "longitude"):
        assert np.allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-3)
    held = world.native_of(world.OutlooksConfig(), date(2021, 1, 2))["t"][1]
    assert float(found[0]["t"][1, 2, 3]) == pytest.approx(float(held[10:15, 15:20].mean()), rel=1e-6)


def test_fields_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    day = date(2021, 1, 1)
    pages = world.write_outlooks(world.OutlooksConfig(), tmp_path, day, day)
    (run,) = world.write_hrrr(world.OutlooksConfig(), tmp_path, day, day)
    config = OutlooksConfig(source="files", pages="x", images="y", **FIELDS)
    wrong = tmp_path / "hrrr.20210101.t05z.wrfnatf00.grib2"
    wrong.write_bytes(run.read_bytes())
    survey = config.survey({"pages": pages, "images": (wrong,)})
    with pytest.raises(InputError, match="t is of 2021-01-01T01:00, its name says 2021-01-01 05:00:00"):
        config.part(survey.parts[0])
    with pytest.raises(InputError, match="no variable 'cape'"):
        OutlooksConfig(source="files", pages="x", images="y", variables=("cape",)).survey(
            {"pages": pages, "images": (run,)}
        )
    with pytest.raises(InputError, match="no level 9"):
        OutlooksConfig(source="files", pages="x", images="y", variables=("t",), level=9).survey(
            {"pages": pages, "images": (run,)}
        )
    listing = tmp_path / "names.txt"
    listing.write_text(f"{run.name}\n")
    with pytest.raises(AwaitedError, match=r"names no \.grib2 file to take"):
        config.survey({"pages": pages, "images": (listing,)})
    with pytest.raises(ValueError, match=r"OutlooksConfig\.images must name the model's files"):
        OutlooksConfig(source="files", pages="x", variables=("t",))
    with pytest.raises(ValueError, match="must be different fields"):
        OutlooksConfig(variables=("t", "t"))
    with pytest.raises(ValueError, match="names 'gh', which the generated world lacks; it has pres, q, t, u, v"):
        OutlooksConfig(variables=("gh",)).survey({})
    with pytest.raises(ValueError, match="level must be at most 5 in the generated world, got 9"):
        OutlooksConfig(variables=("t",), level=9).survey({})
