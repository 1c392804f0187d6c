import csv
import dataclasses
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from models.climate.datasets import certificate, schemas
from models.climate.datasets.precipitation import config as presets
from models.climate.datasets.precipitation import figures, layout, reference
from models.climate.datasets.precipitation.config import PrecipitationConfig
from models.climate.generator import precipitation as world
from models.common.certificate import Claim
from models.common.configuration import check
from models.common.errors import AwaitedError, InputError
from models.common.parts import Survey
from tests.models.climate.datasets.precipitation.worlds import FIRST, LAST, WORLD, but, found, stored, written
from tests.models.climate.samples import real

Groups = dict[str, xr.Dataset]
Again = list[tuple[str, dict[str, dict[str, slice]], Any]]


def made_again(config: PrecipitationConfig, survey: Survey) -> Again:
    """Every part by the reference, and where it lies."""
    return [
        (
            part.name,
            {group: {dim: slice(at, None) for dim, at in place.items()} for group, place in part.at.items()},
            reference.reference(config, part, {}),
        )
        for part in survey.parts
    ]


def compared(groups: Groups, again: Again) -> list[Claim]:
    """What is stored beside what the reference made, as the judge does it."""
    different = certificate.differences(groups, again)
    return certificate.claims_of_parts(different, reference.TOLERANCES, len(again), len(again))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> PrecipitationConfig:
    return written(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def surveyed(files: PrecipitationConfig) -> Survey:
    return files.survey(found(files))


@pytest.fixture(scope="module")
def whole(files: PrecipitationConfig, surveyed: Survey) -> Groups:
    return stored(files, surveyed)


@pytest.fixture(scope="module")
def again(files: PrecipitationConfig, surveyed: Survey) -> Again:
    return made_again(files, surveyed)


def test_every_preset_holds_its_own_limits_and_paper_is_as_published() -> None:
    for preset in (presets.tiny(), presets.small(), presets.paper()):
        check(preset)
    paper = presets.paper()
    assert (paper.rows, paper.columns, paper.switch, paper.radius_km) == (360, 576, "2000-06-01", 64.0)
    assert set(paper.sources()) == {"gridsat", "patmosx", "ssmi", "persiann", "imerg"}
    names = {field.name for field in dataclasses.fields(PrecipitationConfig)}
    assert set(PrecipitationConfig.elsewhere) <= names


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"source": "files"}, "needs one of gridsat, patmosx"),
        ({"imerg": "x.nc4"}, "source must be 'files' when files are named"),
        ({"switch": ""}, "switch must be a day"),
        ({"switch": "June"}, "switch must be a day"),
        ({"rows": 3}, "rows must be at least 4"),
        ({"reproduce": ("no_wrap",)}, "reproduce must name defects of precipitation"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PrecipitationConfig(**changes)


def test_a_survey_has_a_part_for_every_day_and_group_and_looks_at_names_alone(
    files: PrecipitationConfig, tmp_path: Path
) -> None:
    sources = found(files)
    empty = {name: tuple(tmp_path / path.name for path in paths) for name, paths in sources.items()}
    for paths in empty.values():
        for path in paths:
            path.touch()
    survey = files.survey(empty)  # nothing is in the files
    assert [part.name for part in survey.parts][:4] == [
        f"2000-05-30 {name}" for name in ("gridsat", "patmosx", "ssmi", "precipitation")
    ]
    assert len(survey.parts) == 4 * 4
    used = {part.about["day"]: part.files[0] for part in survey.parts if part.about["group"] == "precipitation"}
    assert ["3IMERG" in used[day] for day in sorted(used)] == [False, False, True, True]


def test_days_are_those_asked_for_and_a_day_without_files_is_a_part_of_nothing(
    files: PrecipitationConfig, whole: Groups
) -> None:
    sources = found(files)
    sources["ssmi"] = tuple(path for path in sources["ssmi"] if "20000531" not in path.name)
    asked = but(files, start="2000-05-31", end="2000-06-01")
    survey = asked.survey(sources)
    assert survey.groups["gridsat"].sizes["time"] == 2
    groups = stored(asked, survey)
    assert np.isnan(groups["ssmi"]["obs"][0].values).all()
    assert np.array_equal(groups["ssmi"]["obs"][1].values, whole["ssmi"]["obs"][2].values, equal_nan=True)
    assert np.array_equal(groups["patmosx"]["obs"].values, whole["patmosx"]["obs"][1:3].values, equal_nan=True)
    with pytest.raises(AwaitedError, match=r"none of gridsat.* has files from 2001-01-01 to the last"):
        but(files, start="2001-01-01").survey(found(files))
    with pytest.raises(AwaitedError, match="no file matches imerg"):
        files.survey({**found(files), "imerg": ()})


def test_stored_values_are_those_of_the_world_where_the_grids_agree(tmp_path: Path) -> None:
    """PERSIANN's and IMERG's centres on the area's own: nothing is between, so nothing is changed."""
    world.write_rain(WORLD, tmp_path, FIRST, LAST)
    config = PrecipitationConfig(
        source="files", persiann=f"{tmp_path}/PER*", imerg=f"{tmp_path}/3B*", rows=20, columns=36,
        reproduce=("shifted_area",),
    )  # fmt: skip
    groups = stored(config, config.survey(found(config)))
    rain = groups["precipitation"]["precipitation"]
    assert [str(day) for day in layout.days_of(groups["precipitation"])] == [
        "2000-05-30", "2000-05-31", "2000-06-01", "2000-06-02",
    ]  # fmt: skip
    assert groups["precipitation"]["product"].values.tolist() == [0, 0, 1, 1]
    for place, day in enumerate((FIRST, date(2000, 5, 31), date(2000, 6, 1), LAST)):
        truth = world.rain_of(WORLD, day)[::-1]
        known = np.isfinite(rain[place].values)
        assert known.all() == (place > 1), "PERSIANN-CDR has nothing beyond 60 degrees"
        assert np.allclose(rain[place].values[known], truth[known], atol=1e-5)


def test_every_part_agrees_with_the_slow_reference_and_the_whole_with_its_checks(whole: Groups, again: Again) -> None:
    claims = [*compared(whole, again), *reference.checks(whole)]
    assert [claim.sentence() for claim in claims if not claim.holds] == []
    assert len(claims) > 10


@pytest.mark.parametrize("methods", [("linear", "nearest", "linear", "nearest"), ("nearest",) * 4, ("linear",) * 4])
def test_the_reference_agrees_whatever_the_methods(files: PrecipitationConfig, methods: tuple[str, ...]) -> None:
    names = ("gridsat_method", "patmosx_method", "ssmi_method", "rain_method")
    config = but(files, end="2000-05-30", compat="published", **dict(zip(names, methods, strict=True)))
    survey = config.survey(found(config))
    claims = compared(stored(config, survey), made_again(config, survey))
    assert [claim.sentence() for claim in claims if not claim.holds] == []


@pytest.mark.parametrize("compat", ["mended", "published"])
def test_the_generated_world_is_prepared_whole(compat: str) -> None:
    config = but(presets.tiny(), days=4, compat=compat)
    survey = config.survey({})
    groups = stored(config, survey)
    claims = [*compared(groups, made_again(config, survey)), *reference.checks(groups)]
    assert [claim.sentence() for claim in claims if not claim.holds] == []
    drawn = figures.figures(groups)
    assert [figure.name for figure in drawn] == ["mean_rain", "seen"]
    assert drawn[0].field is not None and len(drawn[0].field.values) == 18


def test_a_part_depends_on_its_own_day_alone() -> None:
    tiny = presets.tiny()
    long = tiny.survey({})
    short = but(tiny, start="2018-12-10", days=2).survey({})
    assert short.parts[0].about == long.parts[2].about
    for name, made in tiny.part(long.parts[2]).items():
        assert made.identical(but(tiny, start="2018-12-10", days=2).part(short.parts[0])[name])


# Defects.


def splits(overlapping: bool) -> set[tuple[str, str, int]]:
    names = {"gridsat": "gridsat", "patmosx": "patmosx", "ssmi": "ssmi", "precipitation": "daily_precip"}
    return {
        (theirs, split, year)
        for ours, theirs in names.items()
        for split, years in zip(("train", "test"), layout.years_of(ours, overlapping=overlapping), strict=True)
        for year in years
    }


MENDED_YEARS = {
    *(("ssmi", "train", year) for year in (2019,)),
    *(("gridsat", "test", year) for year in (1998, 1999, 2000, 2001, 2020, 2021, 2022, 2023)),
}


def test_published_splits_are_those_of_the_scripts_and_mended_ones_differ_in_the_years_of_the_defect() -> None:
    with real("golden/precipitation/extraction_years.csv").open() as stream:
        golden = {(row["source"], row["split"], int(row["year"])) for row in csv.DictReader(stream)}
    assert splits(overlapping=True) == golden
    assert splits(overlapping=False) ^ golden == MENDED_YEARS


def test_mended_splits_share_no_year() -> None:
    assert splits(overlapping=False) ^ splits(overlapping=True) == MENDED_YEARS
    for group in ("gridsat", "patmosx", "ssmi", "precipitation"):
        train, test = layout.years_of(group, overlapping=False)
        assert not train & test
        assert test == set(range(2019, 2024))


@pytest.mark.parametrize(
    ("defect", "differing"),
    [("descending_copy", {"ssmi"}), ("overlapping_years", set()), ("shifted_area", set(layout.GROUPS) - {"stage4"})],
)
def test_each_defect_changes_what_it_names_and_nothing_else(
    files: PrecipitationConfig, whole: Groups, defect: str, differing: set[str]
) -> None:
    config = but(files, end="2000-05-31", reproduce=(defect,))
    groups = stored(config, config.survey(found(config)))
    before = {name: group.isel(time=slice(0, 2)) for name, group in whole.items()}
    changed = {
        name
        for name, group in groups.items()
        if any(
            not np.array_equal(group[key].values, before[name][key].values, equal_nan=True)
            for key in map(str, group.data_vars)
        )
    }
    assert changed == differing
    if defect == "descending_copy":
        now, then = groups["ssmi"]["obs"].values, before["ssmi"]["obs"].values
        assert np.array_equal(now[:, 0], then[:, 0], equal_nan=True)
        assert np.array_equal(now[:, 1], then[:, 0], equal_nan=True)
    if defect == "shifted_area":
        assert np.array_equal(groups["gridsat"]["latitude"].values, whole["gridsat"]["latitude"].values)
        assert np.allclose(groups["gridsat"]["longitude"].values - whole["gridsat"]["longitude"].values, 7.5)
    if defect == "overlapping_years":  # 2000 is a year of both for GridSat
        assert set(groups["gridsat"]["split"].values.tolist()) == {3}
        assert set(whole["gridsat"]["split"].values.tolist()) == {1}
        assert groups["patmosx"]["split"].equals(before["patmosx"]["split"])


def test_published_rules_repeat_all_three(files: PrecipitationConfig) -> None:
    assert but(files, compat="published").defects == {"descending_copy", "overlapping_years", "shifted_area"}


# Files that are published.


def test_published_files_have_the_schemas_names_dims_types_and_values(whole: Groups, tmp_path: Path) -> None:
    config = PrecipitationConfig()
    paths = config.export({name: group.isel(time=slice(1, 3)) for name, group in whole.items()}, tmp_path)
    assert sorted(path.name for path in paths) == sorted(
        name.format(day)
        for name in ("gridsat_{}_00_00.nc", "patmosx_{}_0000.nc", "ssmi_{}_0000.nc", "precip_{}_00_00.nc")
        for day in ("20000531", "20000601")
    )
    schema = schemas.load("precipitation")
    for path in paths:
        entry = schema.file(path.name)
        sizes = {**entry.dimensions, "latitude": 14, "longitude": 24}
        assert schemas.differences_in(dataclasses.replace(entry, dimensions=sizes), path) == []
        with xr.open_dataset(path, engine="netcdf4") as made:
            group = whole[entry.group].isel(time=2 if "0601" in path.name else 1)
            if entry.group == "gridsat":
                assert np.array_equal(made["obs"].values, group["obs"].values.transpose(0, 2, 3, 1), equal_nan=True)
                assert list(made["time"].values.astype("datetime64[h]").astype(int) % 24) == list(range(0, 24, 3))
            elif entry.group == "precipitation":
                assert np.array_equal(made["precipitation"].values, group["precipitation"].values, equal_nan=True)
            else:
                kinds = ("imager", "sounder") if entry.group == "patmosx" else ("lores", "hires")
                for half, part in enumerate(("asc", "des")):
                    both = np.concatenate([made[f"obs_{kind}_{part}"].values for kind in kinds], -1)
                    assert np.array_equal(both, group["obs"].values[half].transpose(1, 2, 0), equal_nan=True)


def test_the_schema_states_the_published_sizes() -> None:
    for entry in schemas.load("precipitation").files:
        assert (entry.dimensions["latitude"], entry.dimensions["longitude"]) == (360, 576)
        assert all(variable.source for variable in entry.variables.values())


# Corruptions: whoever stores something else is found out.


def _set(group: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Groups], Groups]:
    def corrupt(groups: Groups) -> Groups:
        name = next(iter(groups[group].data_vars))
        changed = groups[group].copy(deep=True)
        changed[name].values = change(changed[name].values)
        return {**groups, group: changed}

    return corrupt


def _put(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[index] = values[value] if isinstance(value, tuple) else value
        return values

    return change


def _axis(group: str, axis: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Groups], Groups]:
    def corrupt(groups: Groups) -> Groups:
        stored = groups[group][axis]
        return {
            **groups,
            group: groups[group].assign_coords({axis: (stored.dims, change(stored.values), stored.attrs)}),
        }

    return corrupt


def _bare(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.float32(-9999), values)


CORRUPTIONS: dict[str, Callable[[Groups], Groups]] = {
    "rows of rain from the south": _set("precipitation", lambda values: values[:, ::-1]),
    "rain a column to the east": _set("precipitation", lambda values: np.roll(values, 1, -1)),
    "rain in metres": _set("precipitation", lambda values: values / 1000),
    "rain with the sign turned": _set("precipitation", lambda values: -values),
    "one day of rain twice": _set("precipitation", _put((2,), (3,))),
    "two days of rain exchanged": _set("precipitation", lambda values: values[[1, 0, 2, 3]]),
    "rain where nothing is known": _set("precipitation", lambda values: np.nan_to_num(values)),
    "one value of rain wrong by a thousandth": _set("precipitation", lambda values: values * np.float32(1.001)),
    "fill read as a temperature": _set("ssmi", _bare),
    "microwave polarisations exchanged": _set("ssmi", lambda values: values[:, :, [1, 0, 2, 4, 3, 6, 5]]),
    "descending passes a copy": _set("ssmi", lambda values: values[:, [0, 0]]),
    "ascending and descending exchanged": _set("patmosx", lambda values: values[:, [1, 0]]),
    "infrared bands exchanged": _set("gridsat", lambda values: values[:, :, [0, 2, 1]]),
    "temperatures in degrees Celsius": _set("gridsat", lambda values: values - np.float32(273.15)),
    "slots three hours late": _set("gridsat", lambda values: np.roll(values, 1, 1)),
    "a slot lost": _set("gridsat", _put((1, 3), np.nan)),
    "one channel of one pass of noise": _set(
        "patmosx", _put((0, 1, 9), np.random.default_rng(0).uniform(200, 300, (14, 24)))
    ),
    "a day left out of the calendar": _axis("ssmi", "time", lambda days: days + np.array([0, 0, 1, 1], days.dtype)),
    "longitudes half a cell off": _axis("gridsat", "longitude", lambda lon: lon + 7.5),
    "latitudes from the south": _axis("precipitation", "latitude", lambda lat: lat[::-1]),
    "training days called testing": _axis("precipitation", "split", lambda split: split * 2),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_dataset_is_refused(name: str, whole: Groups, again: Again) -> None:
    groups = CORRUPTIONS[name](whole)
    claims = [*compared(groups, again), *reference.checks(groups)]
    assert [claim.name for claim in claims if not claim.holds] != []


@pytest.mark.parametrize(
    "name",
    [
        "rain in metres",
        "rain with the sign turned",
        "one day of rain twice",
        "fill read as a temperature",
        "microwave polarisations exchanged",
        "descending passes a copy",
        "infrared bands exchanged",
        "temperatures in degrees Celsius",
        "a day left out of the calendar",
        "longitudes half a cell off",
        "latitudes from the south",
        "training days called testing",
    ],
)
def test_some_corruptions_are_seen_without_the_raw_files(name: str, whole: Groups) -> None:
    assert any(not claim.holds for claim in reference.checks(CORRUPTIONS[name](whole)))


# Stage IV, and input that is damaged.


def test_stage_iv_is_prepared_hour_by_hour(tmp_path: Path) -> None:
    config = PrecipitationConfig(source="files", stage4=str(real("precip/ST4.2013052210.01h.grb")))
    survey = config.survey(found(config))
    (part,) = survey.parts
    assert (part.name, survey.groups["stage4"].sizes) == ("2013-05-22 stage4", {"hour": 24, "y": 881, "x": 1121})
    latitude, longitude = (survey.groups["stage4"].coordinates[name][1] for name in ("latitude", "longitude"))
    assert latitude.shape == longitude.shape == (881, 1121)
    assert (latitude[0, 0], longitude[0, 0]) == pytest.approx((23.117, -119.023), abs=1e-5)  # as its header says
    made = config.part(part)["stage4"]["precipitation"]
    again = reference.reference(config, part, {})["stage4"]["precipitation"]
    assert np.isfinite(made.values).any()
    assert np.array_equal(made.values, again.values, equal_nan=True)
    assert config.export({"stage4": made.to_dataset()}, tmp_path) == ()


def test_a_web_page_under_the_name_of_a_data_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "3B-DAY.MS.MRG.3IMERG.20200601-S000000-E235959.V07B.nc4"
    path.write_text("<!DOCTYPE html><html>Earthdata Login</html>")
    config = PrecipitationConfig(source="files", imerg=str(path))
    survey = config.survey(found(config))
    with pytest.raises(InputError, match=r"3IMERG\.20200601.*a web page under the name of a data file"):
        config.part(survey.parts[0])
