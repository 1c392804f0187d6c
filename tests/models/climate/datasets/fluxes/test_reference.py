"""The reference makes parts again by other means, and refuses what was spoilt."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from models.climate.datasets import certificate
from models.climate.datasets.fluxes import reference as fluxes
from models.climate.datasets.fluxes.config import FluxesConfig, tiny
from models.climate.datasets.fluxes.reference import TOLERANCES, checks, reference, some_levels, to_meridian
from models.climate.datasets.judge import JudgementConfig, judge
from models.climate.geometry import gaussian_grid, regular_grid
from models.common.certificate import Claim
from models.common.moments import moments
from models.common.parts import Survey
from tests.models.climate.datasets.fluxes.worlds import archive, surveyed, whole

Groups = dict[str, xr.Dataset]


def judged(config: FluxesConfig, groups: Groups) -> list[Claim]:
    """What a judge would say: some parts made again, and the whole looked at."""
    survey = surveyed(config)
    chosen = [survey.parts[0], survey.parts[-1]]
    places = {
        part.name: {group: {dim: slice(at, None) for dim, at in begin.items()} for group, begin in part.at.items()}
        for part in chosen
    }
    again = [(part.name, places[part.name], reference(config, part, {})) for part in chosen]
    found = certificate.differences(groups, again)
    return [*certificate.claims_of_parts(found, TOLERANCES, len(chosen), len(survey.parts)), *checks(groups)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FluxesConfig:
    """Two days of two hours on five levels."""
    return archive(tmp_path_factory.mktemp("era5"))


@pytest.fixture(scope="module")
def groups(config: FluxesConfig) -> Groups:
    """What the recipe makes of them."""
    return whole(config)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compat": "published"},
        {"reproduce": ("scalar_truncation",)},
        {"reproduce": ("zonal_mean_omega", "beyond_the_pole")},
        {"remapping": "spectral"},
        {"keep_fluxes": False},
        {"surface_pressure": "", "surface_height": "", "temperature": ""},
        {"levels_at_once": 1},
    ],
)
def test_what_the_recipe_makes_is_made_again(config: FluxesConfig, settings: dict[str, object]) -> None:
    config = replace(config, **settings)  # type: ignore[arg-type]
    assert [claim.sentence() for claim in judged(config, whole(config)) if not claim.holds] == []


@pytest.mark.parametrize(
    ("grid", "reverse"),
    [
        (regular_grid(46, 90, north_first=False, first_longitude=-180.0), True),
        (regular_grid(40, 84, poles=False), False),
        (gaussian_grid(32, 64), False),
    ],
)
def test_other_grids_are_made_again(tmp_path: Path, grid: object, reverse: bool) -> None:
    config = archive(tmp_path, days=("20150301",), hours=1, grid=grid, reverse=reverse)  # type: ignore[arg-type]
    assert [claim.sentence() for claim in judged(config, whole(config)) if not claim.holds] == []


def test_the_generated_atmosphere_is_made_again() -> None:
    assert [claim.sentence() for claim in judged(tiny(), whole(tiny())) if not claim.holds] == []


def test_some_levels_of_a_part_are_made_again_alone(config: FluxesConfig, groups: Groups) -> None:
    config = replace(config, levels_at_once=5)
    survey = surveyed(config)
    product = {"data": whole(config), "statistics": published(groups), "provenance": provenance(survey)}
    for most, said in ((5, "in 2 of 4 parts"), (2, "in 4 levels, drawn, of 2 of 4 parts")):
        found = judge(config, fluxes, (), product, survey, JudgementConfig(levels=most)).certificate
        (claim,) = (one for one in found.claims if one.name == "relative_difference_of_remade_parts")
        assert claim.holds and said in claim.detail
    part = survey.parts[1]
    pieces = some_levels(part, 2, random.Random(3))
    levels = [piece.at["fluxes"]["level"] for piece in pieces]
    assert len(set(levels)) == 2 and set(levels) <= set(range(5))
    assert [piece.name for piece in pieces] == [f"{part.about['hour']} levels {n + 1}-{n + 1}" for n in levels]
    assert {piece.at["training"]["time"] for piece in pieces} == {1}
    spoilt = {**product, "data": {name: one.copy(deep=True) for name, one in product["data"].items()}}
    spoilt["data"]["training"]["dudp"][:] += 1.0
    failed = judge(config, fluxes, (), spoilt, survey, JudgementConfig(levels=1)).certificate.failures()
    assert "relative_difference_of_remade_parts" in {one.name for one in failed}


def published(groups: Groups) -> dict[str, Any]:
    """Statistics as a run publishes them, of one variable."""
    found = moments(groups["training"]["u"].values, (1,), None)
    kept = ("count", "missing", "mean", "deviation", "minimum", "maximum")
    return {"training/u": {name: getattr(found, name).tolist() for name in kept}}


def provenance(survey: Survey) -> dict[str, Any]:
    """Parts and files as a run publishes them."""
    return {
        "parts": [
            {"name": part.name, "files": [{"name": file.rpartition("/")[2]} for file in part.files], "rows": {}}
            for part in survey.parts
        ]
    }


def test_meridians_are_interpolated_exactly() -> None:
    for kind, grid in (("point", regular_grid(13, 4)), ("centred", regular_grid(12, 4, poles=False))):
        theta = np.radians(90 - grid.latitudes)
        fine = np.linspace(0, np.pi, 50)
        assert np.allclose(to_meridian(theta, kind, fine, odd=False) @ np.cos(7 * theta), np.cos(7 * fine))
        assert np.allclose(to_meridian(theta, kind, fine, odd=True) @ np.sin(7 * theta), np.sin(7 * fine))


def training(change: Callable[[xr.Dataset], None]) -> Callable[[Groups], None]:
    """A corruption of the coarse group."""
    return lambda groups: change(groups["training"])


def fine(change: Callable[[xr.Dataset], None]) -> Callable[[Groups], None]:
    """A corruption of the fluxes at full resolution."""
    return lambda groups: change(groups["fluxes"])


def everywhere(change: Callable[[xr.Dataset], None]) -> Callable[[Groups], None]:
    """A corruption of both groups, so that they still agree with each other."""

    def both(groups: Groups) -> None:
        for group in groups.values():
            change(group)

    return both


def put(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[xr.Dataset], None]:
    """One variable replaced by what is made of it."""

    def change(data: xr.Dataset) -> None:
        data[name].values = np.asarray(make(data[name].values.copy()), np.float32)

    return change


def one_cell(values: np.ndarray) -> np.ndarray:
    """A single value of the last part, off by a thousandth of the largest."""
    values[-1, -1, 5, 7] += np.abs(values).max() / 1000
    return values


def part_twice(values: np.ndarray) -> np.ndarray:
    """The first block in place of the second."""
    values[:, 2:4] = values[:, :2]
    return values


def unread_fill(values: np.ndarray) -> np.ndarray:
    """The library's fill, taken for a value."""
    values[1, 2, 3, 4] = 9.97e36
    return values


def hole(values: np.ndarray) -> np.ndarray:
    """A value that went missing."""
    values[2, 1, 3, 4] = np.nan
    return values


def without_filter(groups: Groups) -> None:
    """Fluxes of whole fields: what is large scale was never taken off."""
    for group in groups.values():
        for name in ("uw", "vw"):
            group[name].values = group[name].values * np.float32(1.05) + np.float32(1e-3)


def exchanged(groups: Groups) -> None:
    """East for north."""
    for group in groups.values():
        group["uw"].values, group["vw"].values = group["vw"].values.copy(), group["uw"].values.copy()


def hours_exchanged(groups: Groups) -> None:
    """Two hours of the middle in each other's place, in the coarse group alone."""
    for name in groups["training"].data_vars:
        values = groups["training"][name].values
        groups["training"][name].values = values[[0, 2, 1, 3]]


def relabelled(name: str, values: Callable[[np.ndarray], np.ndarray]) -> Callable[[xr.Dataset], None]:
    """A coordinate that no longer says where or when."""

    def change(data: xr.Dataset) -> None:
        data[name] = (name, values(data[name].values), data[name].attrs)

    return change


def in_units(name: str, units: str) -> Callable[[xr.Dataset], None]:
    """Other units on the label."""

    def change(data: xr.Dataset) -> None:
        data[name].attrs["units"] = units

    return change


CORRUPTIONS: dict[str, Callable[[Groups], None]] = {
    "flipped sign of the coarse flux": training(put("uw", np.negative)),
    "flipped sign of both fluxes": everywhere(put("uw", np.negative)),
    "longitudes shifted by half a circle": fine(put("vw", lambda values: np.roll(values, values.shape[-1] // 2, -1))),
    "longitudes shifted by one cell": training(put("vw", lambda values: np.roll(values, 1, -1))),
    "rows upside down": training(put("uw", lambda values: values[:, :, ::-1])),
    "rows shuffled": fine(put("uw", lambda values: values[:, :, np.random.default_rng(0).permutation(47)])),
    "levels shuffled": training(put("u", lambda values: values[:, [1, 0, 2, 3, 4]])),
    "one part twice": training(put("t", part_twice)),
    "hours exchanged": hours_exchanged,
    "east for north": exchanged,
    "temperature in degrees Celsius": training(put("t", lambda values: values - 273.15)),
    "omega in hPa/s": training(put("w", lambda values: values / 100)),
    "pressure in hPa": training(put("p", lambda values: values / 100)),
    "fluxes in mPa": everywhere(put("vw", lambda values: values * 1000)),
    "a label of mPa": training(in_units("uw", "mPa")),
    "a fill read as a value": training(put("N2", unread_fill)),
    "a missing value": training(put("v", hole)),
    "one cell off by a thousandth": training(put("uw", one_cell)),
    "large scales left in": without_filter,
    "shear of the other sign": training(put("dudp", np.negative)),
    "stratification of the wrong levels": training(put("N2", lambda values: np.roll(values, 1, 1))),
    "heights of one hour alone": training(put("zs", lambda values: np.concatenate([values[:3], 2 * values[3:]]))),
    "an hour said twice": training(relabelled("time", lambda values: values[[0, 1, 1, 3]])),
    "levels said bottom up": training(relabelled("level", lambda values: values[::-1])),
    "latitudes said north first": training(relabelled("lat", lambda values: values[::-1])),
    "groups of other hours": fine(relabelled("time", lambda values: values + 60)),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_spoilt_dataset_is_refused(config: FluxesConfig, groups: Groups, name: str) -> None:
    spoilt = {group: data.copy(deep=True) for group, data in groups.items()}
    CORRUPTIONS[name](spoilt)
    failing = [claim for claim in judged(config, spoilt) if not claim.holds]
    assert failing
    assert all(claim.detail for claim in failing)


@pytest.mark.parametrize(
    "name",
    [
        "flipped sign of the coarse flux", "longitudes shifted by one cell", "rows shuffled", "pressure in hPa",
        "temperature in degrees Celsius", "a label of mPa", "a fill read as a value", "a missing value",
        "shear of the other sign", "heights of one hour alone", "an hour said twice",
    ],
)  # fmt: skip
def test_many_faults_are_seen_without_the_raw_files(groups: Groups, name: str) -> None:
    spoilt = {group: data.copy(deep=True) for group, data in groups.items()}
    CORRUPTIONS[name](spoilt)
    assert not all(claim.holds for claim in checks(spoilt))
