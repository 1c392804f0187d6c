"""Best tracks as ragged arrays and as the published tables; the reference finds what was spoilt."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from models.climate.datasets import schemas
from models.climate.datasets.storms import tables
from models.climate.datasets.storms.baseline import LEADS_H, RULES, baseline, distance_km
from models.climate.datasets.storms.config import StormsConfig, paper, small, tiny
from models.climate.datasets.storms.figures import figures
from models.climate.datasets.storms.hurdat2 import read
from models.climate.datasets.storms.reference import checks, reference
from models.common.errors import AwaitedError, InputError
from tests.models.climate.datasets.storms.test_hurdat2 import DATE_LINE, NEW, OLD
from tests.models.climate.samples import real

Groups = dict[str, xr.Dataset]


def drifting(seasons: int = 6, storms: int = 8) -> str:
    """Storms of known motion: west and north by rule, strengthening then weakening; some with odd hours and gaps."""
    random = np.random.default_rng(47)
    lines = []
    for season in range(2001, 2001 + seasons):
        for number in range(1, storms + 1):
            count, north, west = int(random.integers(9, 31)), random.uniform(0.1, 0.5), random.uniform(0.3, 1.0)
            start = np.datetime64(f"{season}-07-01T00:00") + np.timedelta64(int(random.integers(400)) * 6, "h")
            latitude, longitude = random.uniform(9, 20), random.uniform(30, 60)
            lines.append(f"AL{number:02d}{season}, {'ABCDEFGH'[number % 8]}, {count},")
            for row in range(count):
                when = str(start + np.timedelta64(6 * row + (3 if row == 5 else 0), "h"))
                wind = 5 * round((25 + 60 * np.sin(np.pi * row / count) + random.normal(0, 3)) / 5)
                status = "TD" if wind < 34 else ("TS" if wind < 64 else "HU")
                place = f"{latitude + north * row:.1f}N, {longitude + west * row:.1f}W"
                clock = when[11:13] + when[14:16]
                outer = [120, 100, 80, 110, 60, 50, 40, 60, 30, 20, 20, 30]
                radii = ", ".join(str(radius if wind > 34 else -999) for radius in outer)
                pressure = 1012 - round(wind * 0.8) if row % 7 else -999
                cells = (when[:10].replace("-", ""), clock, "L" if row == 5 else "", status, place, wind, pressure)
                lines.append(", ".join(map(str, cells)) + f", {radii}, {20 if row % 2 else -999}")
    return "\n".join(lines) + "\n"


def made(text: str, folder: Path, **settings: object) -> tuple[StormsConfig, Groups, Groups]:
    """The recipe's groups of one text, and the reference's."""
    path = folder / "atlantic.txt"
    path.write_text(text)
    config = StormsConfig(source="files", atlantic=str(path), **settings)  # type: ignore[arg-type]
    files = {"atlantic": (path,)}
    (part,) = config.survey(files).parts
    return config, dict(config.part(part)), dict(reference(config, part, files))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Groups:
    """Groups of drifting storms."""
    return made(drifting(), tmp_path_factory.mktemp("storms"))[1]


@pytest.mark.parametrize("text", [NEW, OLD, DATE_LINE, NEW + OLD + DATE_LINE, drifting()])
def test_recipe_and_reference_agree_bit_for_bit(text: str, tmp_path: Path) -> None:
    for settings in ({}, {"compat": "published"}, {"start": "2002-07-15", "end": "2004-08-31"}):
        config, groups, again = made(text, tmp_path, **settings)
        layouts = config.survey({"atlantic": (tmp_path / "atlantic.txt",)}).groups
        for group in ("storms", "records"):
            assert groups[group].identical(again[group])
            for name, variable in layouts[group].variables.items():
                assert groups[group][name].dtype == again[group][name].dtype == np.dtype(variable.dtype)
                assert groups[group][name].dims == variable.dims


def test_storms_are_chosen_by_the_day_on_which_they_begin(tmp_path: Path) -> None:
    _, groups, _ = made(NEW + OLD + DATE_LINE, tmp_path, start="1957-09-01", end="1957-09-01")
    assert groups["storms"]["storm_id"].values.tolist() == [b"CP021957"]
    assert groups["records"].sizes["record"] == 3


def test_longitudes_go_once_round_and_what_the_file_gave_is_kept(tmp_path: Path) -> None:
    records = made(DATE_LINE, tmp_path)[1]["records"]
    assert records["lon"].values.tolist() == [-180.0, 178.5, 0.9]
    assert records["lon_given"].values.tolist() == [180.0, -181.5, -359.1]


def test_categories_follow_the_edges_of_the_published_plot() -> None:
    winds = np.array([-999, 0, 31, 32, 63, 64, 83, 96, 113, 137, 150], np.int16)
    assert tables.category(winds).tolist() == [-1, 0, 0, 1, 1, 2, 3, 4, 5, 6, 6]


def test_energy_counts_storms_and_hurricanes_at_the_main_hours_alone(tmp_path: Path) -> None:
    # IRENE: 75 kt twice at 06 and 12 UTC; the landfall at 09:35 does not count
    storms = made(NEW + DATE_LINE, tmp_path)[1]["storms"]
    assert storms["ace"].values.tolist() == pytest.approx([2 * 0.5625, 0.49 + 1.69], abs=1e-12)


def test_a_storm_over_mexico_is_in_the_pacific_until_it_reaches_the_gulf() -> None:
    rows = "".join(
        f"20220{600 + day}, 0000,  , LO, {place},  20, 1007{', -999' * 13}\n"
        for day, place in enumerate(("16.0N,  95.5W", "17.5N,  95.0W", "19.0N,  94.6W", "14.0N, 179.5E"), 1)
    )
    (track,) = read(f"EP012022, AGATHA, 4,\n{rows}".splitlines(), "x")
    assert tables.wmo_basin(track) == ("east_pacific", "east_pacific", "north_atlantic", "west_pacific")


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("compat", ["published", "mended"])
def test_the_golden_tables_come_out(compat: str, tmp_path: Path) -> None:
    golden = real("golden/hurricane")
    text = golden / "hurdat2_nepac_20_storms.txt"
    config = StormsConfig(source="files", pacific=str(text), compat=compat)  # type: ignore[arg-type]
    (part,) = config.survey({"pacific": (text,)}).parts
    written = {path.name: path for path in config.export(config.part(part), tmp_path)}
    for path in written.values():
        assert schemas.differences_in(schemas.load("storms").file(path.name), path) == []
    assert written["PAC_hurricanes.txt"].read_bytes() == text.read_bytes()
    assert written["tracks_records.csv"].read_bytes() == (golden / "tracks_records_tropycal061.csv").read_bytes()
    assert written["storms.csv"].read_bytes() == (golden / "storms_tropycal061.csv").read_bytes()
    for one, other in zip(rows_of(written["storms.csv"]), rows_of(golden / "storms_tropycal152.csv"), strict=True):
        assert one[:-1] == other[:-1]
        assert one[-1] == "ace" or abs(float(one[-1]) - float(other[-1])) < 1e-9


def test_the_published_series_are_reproduced_and_mended_ones_have_the_last_ten_records_beside(tmp_path: Path) -> None:
    golden = real("golden/hurricane")
    text = golden / "hurdat2_nepac_20_storms.txt"
    wanted = rows_of(golden / "intensity_series_tropycal061.csv")[1:]
    series = {}
    for compat in ("published", "mended"):
        config = StormsConfig(source="files", pacific=str(text), compat=compat)  # type: ignore[arg-type]
        (part,) = config.survey({"pacific": (text,)}).parts
        paths = {path.name: path for path in config.export(config.part(part), tmp_path / compat)}
        plotted = [("nora", "2021"), ("agatha", "2022"), ("cosme", "1989"), ("dolores", "2021")]
        series[compat] = [row for row in rows_of(paths["intensity_series.csv"]) if tuple(row[:2]) in plotted]
    assert sorted(series["published"]) == sorted(wanted)

    def without_skip(rows: list[list[str]]) -> set[tuple[str, ...]]:
        return {(*row[:3], *row[4:]) for row in rows}

    beside = without_skip(series["mended"]) - without_skip(wanted)
    assert without_skip(wanted) < without_skip(series["mended"])
    # the last ten of each, and of DOLORES, which has 11 records and showed nothing, all but the first two
    assert {name: sum(row[0] == name for row in beside) for name in ("nora", "agatha", "cosme", "dolores")} == {
        "nora": 10, "agatha": 10, "cosme": 10, "dolores": 9,
    }  # fmt: skip


def test_the_last_ten_records_are_left_out_of_series_by_the_published_rules_alone(tmp_path: Path) -> None:
    text = drifting(seasons=1, storms=5)
    mended = made(text, tmp_path)[1]
    published = made(text, tmp_path, reproduce=("last_ten_records",))[1]
    count = mended["storms"]["row_size"].values
    last = np.concatenate([np.arange(size) >= max(2, size - 10) for size in count])
    differing = mended["records"]["in_series"].values != published["records"]["in_series"].values
    assert np.array_equal(differing, last)
    same = mended["records"].drop_vars("in_series").identical(published["records"].drop_vars("in_series"))
    assert same and mended["storms"].identical(published["storms"])


def test_the_stored_groups_become_a_cf_file_and_texts_of_every_basin(tmp_path: Path) -> None:
    text = NEW + OLD + DATE_LINE
    config, groups, _ = made(text, tmp_path)
    written = {path.name: path for path in config.export(groups, tmp_path / "out")}
    assert written["ATL_hurricanes.txt"].read_text() == NEW + OLD
    assert written["PAC_hurricanes.txt"].read_text() == DATE_LINE
    entry = schemas.load("storms").file("hurricane_tracks.nc")
    assert schemas.differences_in(entry, written[entry.name]) == []
    with xr.open_dataset(written[entry.name], engine="netcdf4", decode_times=False, mask_and_scale=False) as found:
        for group in groups.values():
            for name in group.variables:
                assert np.array_equal(found[name].values, group[name].values), name
        assert found["row_size"].attrs["sample_dimension"] == "record"


def test_generated_seasons_are_parts_of_their_own_and_hold_what_must_hold() -> None:
    config = tiny()
    survey = config.survey({})
    assert [part.name for part in survey.parts] == ["AL 2001", "AL 2002"]
    made_parts = [config.part(part) for part in survey.parts]
    for part, groups in zip(survey.parts, made_parts, strict=True):
        again = reference(config, part, {})
        assert all(groups[group].identical(again[group]) for group in groups)
    whole = {
        "storms": xr.concat([groups["storms"] for groups in made_parts], "storm"),
        "records": xr.concat([groups["records"] for groups in made_parts], "record"),
    }
    assert [claim.sentence() for claim in checks(whole) if not claim.holds] == []


def test_two_basins_of_one_file_name_are_two_parts_and_their_storms_stand_one_after_another(tmp_path: Path) -> None:
    texts = {"atlantic": NEW, "pacific": DATE_LINE}
    paths = {name: (tmp_path / name / "best.txt",) for name in texts}
    for name, (path,) in paths.items():
        path.parent.mkdir()
        path.write_text(texts[name])
    config = StormsConfig(source="files", atlantic="a", pacific="p")
    survey = config.survey(paths)
    assert [part.name for part in survey.parts] == [str(paths["atlantic"][0]), str(paths["pacific"][0])]
    found = [config.part(part)["storms"]["storm_id"].values.tolist() for part in survey.parts]
    assert found == [[b"AL092011"], [b"CP021957"]]


def test_presets_say_what_was_published() -> None:
    assert paper().source == "files"
    assert paper().sources()["atlantic"].endswith("hurdat2-1851-2022-042723.txt")
    assert small().years == 40
    assert tiny().sources() == {}


def test_settings_and_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"StormsConfig\.atlantic or pacific must name a HURDAT2 text"):
        StormsConfig(source="files")
    config = StormsConfig(source="files", atlantic="a*.txt")
    with pytest.raises(AwaitedError, match=r"no file matches atlantic 'a\*\.txt'"):
        config.survey({"atlantic": ()})
    for name in ("a1.txt", "a2.txt"):
        (tmp_path / name).write_text(NEW)
    with pytest.raises(InputError, match="two editions of one basin; name one"):
        config.survey({"atlantic": (tmp_path / "a2.txt", tmp_path / "a1.txt")})


def shuffled(groups: Groups) -> Groups:
    order = np.random.default_rng(3).permutation(groups["records"].sizes["record"])
    return {**groups, "records": groups["records"].isel(record=order)}


def changed(group: str, name: str, change: Callable[[xr.DataArray], xr.DataArray]) -> Callable[[Groups], Groups]:
    def spoil(groups: Groups) -> Groups:
        return {**groups, group: groups[group].assign({name: change(groups[group][name])})}

    return spoil


def one_part_twice(groups: Groups) -> Groups:
    return {name: xr.concat([group, group], name[:-1]) for name, group in groups.items()}


def rotated(groups: Groups) -> Groups:
    """Every storm has the count of records of another."""
    return changed("storms", "row_size", lambda size: size.copy(data=np.roll(size.values, 1)))(groups)


CORRUPTIONS: dict[str, Callable[[Groups], Groups]] = {
    "records shuffled": shuffled,
    "winds in m/s": changed("records", "wind", lambda wind: (wind * 0.514).astype("int16").where(wind >= 0, -999)),
    "latitudes flipped": changed("records", "lat", lambda lat: -lat),
    "longitudes shifted": changed("records", "lon", lambda lon: lon + 10.0),
    "longitudes with another sign": lambda groups: changed("records", "lon", lambda lon: -lon)(
        changed("records", "lon_given", lambda lon: -lon)(groups)
    ),
    "one part twice": one_part_twice,
    "fill read as a pressure": changed("records", "pressure", lambda pressure: pressure.where(pressure > 0, 99)),
    "fill read as a wind": changed("records", "wind", lambda wind: wind.copy(data=np.where(wind > 60, -99, wind))),
    "pressures in Pa over 100 twice": changed("records", "pressure", lambda pressure: pressure // 100),
    "counts of other storms": rotated,
    "a record lost": lambda groups: {**groups, "records": groups["records"].isel(record=slice(0, -1))},
    "times in hours": changed("records", "time", lambda time: time // 60),
    "energy of another unit": changed("storms", "ace", lambda ace: ace * 1e4),
    "radii in another order": changed("records", "radius", lambda radius: radius.isel(threshold=[2, 1, 0])),
    "identities of another season": changed("storms", "season", lambda season: season + 1),
    "series with holes": changed(
        "records", "in_series", lambda shown: shown.copy(data=shown.values * (np.arange(shown.size) % 3 > 0))
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_was_spoilt_is_refused(name: str, stored: Groups) -> None:
    assert [claim.sentence() for claim in checks(stored) if not claim.holds] == []
    refused = [claim.name for claim in checks(CORRUPTIONS[name](stored)) if not claim.holds]
    assert refused


def test_distances_are_those_of_the_sphere() -> None:
    places = np.array([[0.0, 0.0], [0.0, 179.5], [60.0, 10.0]])
    others = np.array([[0.0, 90.0], [0.0, -179.5], [60.0, 11.0]])
    quarter = np.pi / 2 * 6371.0
    found = distance_km(places, others)
    assert found[:2] == pytest.approx([quarter, 6371.0 * np.pi / 180])
    assert found[2] == pytest.approx(6371.0 * np.pi / 180 / 2, rel=1e-3)


def test_rules_are_ranked_as_they_must_be_where_storms_move_steadily(stored: Groups) -> None:
    metrics = baseline(stored, seed=1)
    for lead in LEADS_H:
        stays, goes_on = (metrics[f"track_{rule}_{lead}h_km"] for rule in ("persistence", "extrapolation"))
        assert goes_on < 0.3 * stays  # what is left of steady motion is rounding to tenths
        for rule in RULES:
            name = f"track_{rule}_{lead}h_km"
            assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert metrics["wind_regression_24h_kt"] < metrics["wind_persistence_24h_kt"]
    assert baseline(stored, seed=1) == metrics


def test_one_season_is_too_few_for_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="storms of at least 2 seasons are needed"):
        baseline(made(drifting(seasons=1), tmp_path)[1])


def test_persistence_of_real_storms_has_errors_of_the_known_size() -> None:
    path = real("hurricane/hurdat2_nepac_1949_2022.txt")
    config = StormsConfig(source="files", pacific=str(path))
    (part,) = config.survey({"pacific": (path,)}).parts
    groups = config.part(part)
    assert [claim.sentence() for claim in checks(groups) if not claim.holds] == []
    metrics = baseline(groups)
    assert 330 < metrics["track_persistence_24h_km"] < 430  # 4.4 m/s, the usual speed of a centre there
    assert metrics["track_regression_48h_km_high"] < metrics["track_extrapolation_48h_km_low"]
    assert metrics["wind_regression_72h_kt_high"] < metrics["wind_persistence_72h_kt_low"]


def test_figures_show_tracks_categories_and_what_is_missing(stored: Groups, tmp_path: Path) -> None:
    found = {figure.name: figure for figure in figures(stored)}
    assert list(found) == ["tracks", "strongest_category", "missing_by_season"]
    assert sum(found["strongest_category"].series[0].y) == stored["storms"].sizes["storm"]
    (tracks, *_) = figures(made(DATE_LINE.replace("359.1W", "179.0E"), tmp_path)[1])
    longitudes = [one.x for one in tracks.series]
    assert longitudes == [(-180.0,), (178.5, 179.0)]  # cut where the track passes the date line
