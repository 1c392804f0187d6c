"""The sphere of gravity waves: columns alone at non-locality 0, a way sideways at 1, a truth that is found again."""

import dataclasses
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from models.climate.generator import gwsphere
from models.climate.generator.atmosphere import hour_of
from models.climate.generator.gwsphere import GwsphereConfig, era5_grid, fields_on, state_of, truth_of, world_of
from models.climate.geometry import gaussian_grid, regular_grid
from models.climate.harmonics import Harmonics

HOUR = hour_of("2015-12-31T23")
SMALL = GwsphereConfig(rows=24, columns=48, levels=9, seed=3)


def given_fluxes(config: GwsphereConfig, order: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes of the world's own atmosphere with its columns along every row in another order."""
    world = world_of(config)
    u, v, t, _ = world.air.fields(HOUR, world.pressure)
    ground = world.zs
    if order is not None:
        u, v, t, ground = u[..., order], v[..., order], t[..., order], ground[..., order]
    return gwsphere.fluxes_of(config, HOUR, u, v, t, ground)


def test_without_a_way_sideways_a_column_alone_decides_its_flux_to_the_bit() -> None:
    config = dataclasses.replace(SMALL, nonlocality=0.0, intermittency=0.0)
    order = np.random.default_rng(1).permutation(48)
    straight, mixed = given_fluxes(config), given_fluxes(config, order)
    assert np.abs(straight[0]).max() > 1e-3
    for one, other in zip(straight, mixed, strict=True):
        np.testing.assert_array_equal(one[..., order], other)


def test_with_a_way_sideways_the_neighbours_matter() -> None:
    config = dataclasses.replace(SMALL, nonlocality=1.0, intermittency=0.0)
    order = np.random.default_rng(1).permutation(48)
    straight, mixed = given_fluxes(config)[0][..., order], given_fluxes(config, order)[0]
    assert np.abs(straight[1] - mixed[1]).max() > 0.1 * np.abs(straight[1]).max()
    # where the waves start, it is the column still
    np.testing.assert_allclose(straight[-1], mixed[-1], atol=1e-15)


def test_what_arrives_aloft_comes_from_further_the_larger_the_nonlocality() -> None:
    config = GwsphereConfig(intermittency=0.0)
    still = truth_of(dataclasses.replace(config, nonlocality=0.0), HOUR)[0]
    agreement = []
    for nonlocality in (0.25, 0.5, 1.0):
        moved = truth_of(dataclasses.replace(config, nonlocality=nonlocality), HOUR)[0]
        agreement.append([np.corrcoef(still[level].ravel(), moved[level].ravel())[0, 1] for level in (1, 5, 8, 11)])
    assert (np.diff(agreement, axis=0) <= 1e-12).all()
    upper, middle, lower, ground = agreement[-1]
    assert upper < middle < lower < ground
    assert ground == pytest.approx(1.0, abs=1e-12)
    assert upper < 0.3


def test_the_way_to_the_stratosphere_is_many_hundreds_of_kilometres() -> None:
    config = GwsphereConfig()
    now = gwsphere._moment(config, HOUR, recorded=True)
    alive = now.path[:, 3, 2] > 0
    start = np.argwhere(now.launch.flux > 0)[alive]
    world = world_of(config)
    cosine = np.cos(np.radians(world.latitude[start[:, 0]]))
    east = (now.path[alive, 3, 1] - start[:, 1]) * 2.8125 * cosine * 111.2
    north = (now.path[alive, 3, 0] - world.latitude[start[:, 0]]) * 111.2
    way = np.hypot(east, north)
    # a cell is 300 km wide: half of the flux has crossed two cells and more
    assert np.quantile(way, 0.5) > 600
    assert np.quantile(way, 0.95) < 8000


def test_flux_is_only_lost_on_the_way_up_and_none_falls_between_cells() -> None:
    now = gwsphere._moment(dataclasses.replace(SMALL, nonlocality=1.0), HOUR, recorded=True)
    area = world_of(SMALL).area
    there = now.launch.flux > 0
    i, j, p = np.argwhere(there).T
    flux = now.path[:, :, 2].astype(float)
    for level in range(SMALL.levels):
        carried = (flux[:, level] * now.launch.east[i, j, p] * area[i, j]).sum()
        assert (now.uw[level] * area).sum() == pytest.approx(carried, rel=1e-5, abs=1e-12)
    later = flux[:, :-1][flux[:, 1:] > 0] - flux[:, 1:][flux[:, 1:] > 0]
    assert later.max() <= 0


def test_an_hour_is_the_same_alone_and_in_company_and_seeds_are_different_worlds() -> None:
    first = state_of(SMALL, HOUR)
    for hour in (HOUR + 1, HOUR - 4000):
        assert np.abs(state_of(SMALL, hour).u - first.u).max() > 0.1
    gwsphere.world_of.cache_clear()
    again = state_of(SMALL, HOUR)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
        assert getattr(first, field.name).dtype == np.float32
        assert np.isfinite(getattr(first, field.name)).all()
    other = state_of(dataclasses.replace(SMALL, seed=4), HOUR)
    assert np.abs(other.zs - first.zs).max() > 100


def test_another_process_with_other_threads_makes_the_same_bits() -> None:
    script = """
import hashlib
from models.climate.generator.gwsphere import GwsphereConfig, era5_grid, fields_on, state_of
config, digest = GwsphereConfig(rows=24, columns=48, levels=9, seed=3), hashlib.sha256()
for made in (state_of(config, 403247), fields_on(config, 403247, *era5_grid(121, 240), levels=[3, 8])):
    for array in vars(made).values():
        digest.update(array.tobytes())
print(digest.hexdigest())
"""
    digests = set()
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1


def test_intermittency_changes_the_fluxes_and_not_their_mean() -> None:
    calm = dataclasses.replace(SMALL, nonlocality=0.0, intermittency=0.0)
    lively = dataclasses.replace(calm, intermittency=0.5)
    sources = [gwsphere._moment(config, HOUR).launch.flux[..., 0] for config in (calm, lively)]
    ratio = (sources[1] / np.where(sources[0] > 0, sources[0], 1))[sources[0] > 1e-5]
    assert ratio.std() == pytest.approx(np.sqrt(np.expm1(0.25)), rel=0.25)
    assert ratio.mean() == pytest.approx(1.0, abs=0.1)
    assert np.abs(state_of(calm, HOUR).u - state_of(lively, HOUR).u).max() == 0


def test_features_have_the_published_order_of_channels() -> None:
    features, output = gwsphere.features_of(SMALL, HOUR)
    state, world = state_of(SMALL, HOUR), world_of(SMALL)
    assert features.shape == (3 + 4 * 9, 24, 48)
    assert output.shape == (18, 24, 48)
    np.testing.assert_array_equal(features[0, :, 5], world.latitude.astype(np.float32))
    np.testing.assert_array_equal(features[1, 5], world.longitude.astype(np.float32))
    np.testing.assert_array_equal(features[2], state.zs)
    np.testing.assert_array_equal(features[3:12], state.u)
    np.testing.assert_array_equal(features[12:21], state.v)
    np.testing.assert_array_equal(features[30:39], state.omega)
    np.testing.assert_allclose(features[21:30], state.t * (world.pressure[:, None, None] / 1e5) ** -0.286, rtol=1e-6)
    np.testing.assert_array_equal(output, np.concatenate([state.uw, state.vw]))
    assert world.pressure[0] < world.pressure[-1]
    assert world.latitude[0] < 0


def test_the_recipe_finds_the_truth_again_on_a_grid_that_resolves_the_waves() -> None:
    config = GwsphereConfig(levels=9, seed=1)
    latitude, longitude = era5_grid(241, 480)
    transform = Harmonics(grid=regular_grid(241, 480))
    lattice = gaussian_grid(64, 128)
    row = np.clip(np.searchsorted(lattice.latitude_bounds, latitude) - 1, 0, 63)
    column = np.floor(longitude / 2.8125 + 0.5).astype(int) % 128
    weight = transform.grid.area_weights
    for level in (2, 4, 7):
        fields = fields_on(config, HOUR, latitude, longitude, [level])
        u, v = transform.irrotational(fields.u[0], fields.v[0], above=21)
        omega = transform.high_pass(fields.omega[0].astype(float), 21)
        for wind, truth in ((u, truth_of(config, HOUR)[0]), (v, truth_of(config, HOUR)[1])):
            found, area = np.zeros((64, 128)), np.zeros((64, 128))
            np.add.at(found, (row[:, None], column), wind * omega / -9.81 * weight)
            np.add.at(area, (row[:, None], column), weight)
            # blocks of 4 x 4 cells, where the chance meeting of packets has averaged out
            blocks = [
                (a * lattice.area_weights).reshape(16, 4, 32, 4).sum((1, 3))[2:14] for a in (found / area, truth[level])
            ]
            assert np.corrcoef(blocks[0].ravel(), blocks[1].ravel())[0, 1] > 0.9
            slope = (blocks[0] * blocks[1]).sum() / (blocks[1] ** 2).sum()
            assert slope == pytest.approx(0.95, abs=0.15)


def test_waves_have_little_of_their_power_in_the_degrees_of_the_large_scale() -> None:
    config = GwsphereConfig(levels=9, seed=1)
    latitude, longitude = era5_grid(241, 480)
    transform = Harmonics(grid=regular_grid(241, 480))
    fields = fields_on(config, HOUR, latitude, longitude, [4])
    potential = np.abs(transform.analyse_wind(fields.u[0], fields.v[0])[0]) ** 2
    assert potential[transform.degrees <= 21].sum() < 0.03 * potential.sum()
    peak = np.bincount(transform.degrees, potential).argmax()
    assert 75 < peak < 140


def test_a_coarse_grid_sees_the_large_scale_alone() -> None:
    world = world_of(SMALL)
    fields = fields_on(SMALL, HOUR, world.latitude, world.longitude)
    state = state_of(SMALL, HOUR)
    for name in ("u", "v", "t", "omega"):
        np.testing.assert_array_equal(getattr(fields, name), getattr(state, name))


def test_a_level_of_a_fine_grid_is_the_same_alone_and_in_company() -> None:
    latitude, longitude = era5_grid(151, 300)
    together = fields_on(SMALL, HOUR, latitude, longitude, [2, 6, 7])
    alone = fields_on(SMALL, HOUR, latitude, longitude, [6])
    for name in ("u", "v", "t", "omega"):
        np.testing.assert_array_equal(getattr(together, name)[1], getattr(alone, name)[0])


def test_archives_hold_the_fields_under_the_names_of_era5(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, levels=6)
    paths = gwsphere.write_era5(config, tmp_path / "raw", date(2016, 2, 29), 2, hours=2, grid=(37, 72))
    assert [path.name for path in paths] == [
        *(f"{letter}{day}_ml.nc" for day in ("20160229", "20160301") for letter in "UVTW"), "ZS.nc",
    ]  # fmt: skip
    latitude, longitude = era5_grid(37, 72)
    assert (latitude[0], latitude[-1], longitude[0], longitude[-1]) == (90, -90, 0, 355)
    fields = fields_on(config, hour_of("2016-03-01T01"), latitude, longitude)
    for name, unit, wanted in (
        ("u", "m s**-1", fields.u), ("v", "m s**-1", fields.v), ("t", "K", fields.t), ("w", "Pa s**-1", fields.omega),
    ):  # fmt: skip
        with netCDF4.Dataset(tmp_path / "raw" / f"{name.upper()}20160301_ml.nc") as file:
            variable = file[name]
            assert variable.dimensions == ("time", "level", "latitude", "longitude")
            assert (variable.dtype, variable.units) == (np.float32, unit)
            np.testing.assert_array_equal(variable[1], wanted)
            assert file["time"].units == "hours since 2016-03-01 00:00:00"
            np.testing.assert_array_equal(file["level"][:], np.arange(1, 7))
            np.testing.assert_allclose(file["latitude"][:], latitude)
    with netCDF4.Dataset(tmp_path / "raw" / "ZS.nc") as file:
        np.testing.assert_array_equal(file["pressure"][:], world_of(config).pressure)
        assert file["zs"].shape == (37, 72)


def test_a_setting_outside_its_limits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"GwsphereConfig\.nonlocality must be at most 1, got 1\.5"):
        GwsphereConfig(nonlocality=1.5)
