"""The recorded outputs of the published scripts, and what every defect does and does not change."""

import csv
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from models.climate.datasets import schemas
from models.climate.datasets.fluxes import calendar
from models.climate.datasets.fluxes.config import FluxesConfig
from models.climate.datasets.fluxes.fields import catalogue
from models.climate.datasets.fluxes.layout import published_bounds
from models.climate.geometry import gaussian_grid, regular_grid
from models.climate.harmonics import Harmonics
from tests.models.climate.datasets.fluxes.worlds import archive, fields_of, found, surveyed, whole
from tests.models.climate.samples import real

GOLDEN = "golden/gravity_wave"
GRIDS = {"grid_73x144": (1e-4, 1e-4), "grid_601x1200": (1e-4, 1e-3)}
"""Largest differences of uw and vw over the largest value: the published transforms are float32."""


def recorded(name: str) -> tuple[FluxesConfig, Path]:
    """The configuration that reads the recorded inputs, and the recorded output."""
    folder = real(f"{GOLDEN}/{name}")
    temperature = f"{folder}/T*.nc" if (folder / "T20150301_ml.nc").exists() else ""
    config = FluxesConfig(
        source="files", u=f"{folder}/U*.nc", v=f"{folder}/V*.nc", omega=f"{folder}/W*.nc", temperature=temperature,
        levels_at_once=4, compat="published",
    )  # fmt: skip
    return config, folder / "helmholtz_fluxes_hourly_era5_1Mar2015.nc"


def output(path: Path) -> dict[str, np.ndarray]:
    """Recorded fluxes (1, K, I, J)."""
    with netCDF4.Dataset(path) as file:
        return {name: np.asarray(file[name][:].data, np.float64) for name in ("uw", "vw")}


def apart(made: xr.Dataset, wanted: dict[str, np.ndarray], name: str) -> np.ndarray:
    """(K,) largest difference over the largest value, level by level."""
    gap = np.abs(made[name].values[0] - wanted[name][0]).max(axis=(1, 2))
    return np.asarray(gap / np.abs(wanted[name][0]).max(axis=(1, 2)))


@pytest.mark.parametrize("name", GRIDS)
def test_recorded_fluxes_come_out_and_mended_ones_are_others(name: str) -> None:
    config, path = recorded(name)
    wanted = output(path)
    published = whole(config)["fluxes"]
    mended = whole(replace(config, compat="mended"))["fluxes"]
    for one, bar in zip(("uw", "vw"), GRIDS[name], strict=True):
        assert apart(published, wanted, one).max() < bar
        assert apart(mended, wanted, one).min() > 0.3


def test_each_defect_of_the_flux_alone_changes_what_it_names() -> None:
    config, path = recorded("grid_73x144")
    wanted = output(path)
    sphere = Harmonics(grid=regular_grid(73, 144))
    inputs = {}
    for name, letter in (("u", "U"), ("v", "V"), ("w", "W")):
        with netCDF4.Dataset(path.parent / f"{letter}20150301_ml.nc") as file:
            inputs[name] = np.asarray(file[name][0].data, np.float64)
    # With both defects repeated by name, the recorded fluxes; the same as compat.
    both = replace(config, compat="mended", reproduce=("zonal_mean_omega", "scalar_truncation"))
    assert apart(whole(both)["fluxes"], wanted, "uw").max() < 1e-4
    omega = whole(replace(config, compat="mended", reproduce=("scalar_truncation",)))["fluxes"]
    wind = whole(replace(config, compat="mended", reproduce=("zonal_mean_omega",)))["fluxes"]
    for level in range(6):
        u, v, w = (inputs[name][level] for name in "uvw")
        # Mending omega alone: every row that omega's planetary waves reach differs, by u' times exactly these waves.
        east, north = sphere.irrotational(u, v)
        planetary = w - w.mean(axis=1, keepdims=True) - sphere.high_pass(w, 21)
        for name, component in (("uw", east), ("vw", north)):
            difference = wanted[name][0, level] - omega[name].values[0, level]
            named = sphere.high_pass(component, 21) * planetary / -9.81
            assert np.abs(difference - named).max() < 2e-4 * np.abs(wanted[name][0, level]).max()
        # Mending the truncation alone: the winds differ by what two truncations differ by, most of all at the poles.
        smooth = sphere.irrotational(u, v, above=21)
        waves = w - w.mean(axis=1, keepdims=True)
        for name, component, mended in (("uw", east, smooth[0]), ("vw", north, smooth[1])):
            difference = wanted[name][0, level] - wind[name].values[0, level]
            named = (sphere.high_pass(component, 21) - mended) * waves / -9.81
            assert np.abs(difference - named).max() < 2e-4 * np.abs(wanted[name][0, level]).max()
        gap = np.abs(sphere.high_pass(east, 21) - smooth[0])
        poles = np.abs(sphere.grid.latitudes) > 80
        assert gap[poles].max() > 2 * gap[~poles].max() or level > 3


def test_recorded_intermediate_winds_come_out() -> None:
    config, path = recorded("grid_73x144")
    sphere = Harmonics(grid=regular_grid(73, 144))
    saved = np.load(path.parent / "intermediate_level6.npz")
    winds = {}
    for name, letter in (("u", "U"), ("v", "V")):
        with netCDF4.Dataset(path.parent / f"{letter}20150301_ml.nc") as file:
            winds[name] = np.asarray(file[name][0, 5].data, np.float64)
    for name, part in zip(("udiv", "vdiv"), sphere.irrotational(winds["u"], winds["v"]), strict=True):
        scale = np.abs(saved["udiv"]).max()
        assert np.abs(part - saved[name]).max() < 1e-5 * scale
        assert np.abs(sphere.low_pass(part, 21) - saved[f"{name}21"]).max() < 1e-5 * scale
    assert config.repeats("scalar_truncation")


@pytest.mark.parametrize("name", GRIDS)
def test_recorded_files_follow_the_schema(name: str) -> None:
    _, path = recorded(name)
    assert schemas.differences_in(schemas.load("fluxes").file(path.name), path) == []


def test_the_recorded_training_file_has_what_ours_has_but_for_its_missing_outputs() -> None:
    import json

    saved = json.loads(real(f"{GOLDEN}/training_file_schema.json").read_text())
    entry = schemas.load("fluxes").file(saved["file_name"])
    assert set(entry.variables) - set(saved["variables"]) == {"uw", "vw"}  # the published script breaks off before
    assert {name for name, one in saved["dimensions"].items() if one["unlimited"]} == {
        name for name, length in entry.dimensions.items() if length is None
    }
    for name, one in saved["variables"].items():
        ours = entry.variables[name]
        attributes = {**ours.attributes, **({} if ours.units is None else {"units": ours.units})}
        assert (list(ours.dims), ours.dtype, attributes) == (one["dims"], one["dtype"], one["attrs"])


def test_recorded_bounds_of_the_regridder_come_out_and_own_bounds_end_at_the_poles() -> None:
    saved = np.load(real(f"{GOLDEN}/regridder_source_grid.npz"))
    assert np.array_equal(published_bounds(saved["lat"]), saved["lat_b"])
    own = regular_grid(601, 1200).latitude_bounds
    differ = np.abs(own - saved["lat_b"]) > 1e-4
    assert np.flatnonzero(differ).tolist() == [0, 601] and own[0] == 90


def test_recorded_lengths_of_months_come_out() -> None:
    with real(f"{GOLDEN}/days_in_month.csv").open() as file:
        rows = [(int(one["year"]), int(one["month"]), int(one["days_upstream"])) for one in csv.DictReader(file)]
    assert all(calendar.days_in_month(year, month, published=True) == days for year, month, days in rows)
    others = [(year, month) for year, month, days in rows if calendar.days_in_month(year, month) != days]
    assert others == [(year, 2) for year in (1900, 2100)]


def test_a_century_without_leap_day_is_complete_and_not_so_under_the_published_rule(tmp_path: Path) -> None:
    config = archive(tmp_path, days=("19000228", "19000301"), hours=1, surfaces=False, levels=3)
    assert len(surveyed(config).parts) == 4
    with pytest.raises(ValueError, match="no hour of 1900-02-29"):
        surveyed(replace(config, reproduce=("century_leap",)))


def test_polar_rows_alone_lose_by_the_published_bounds(tmp_path: Path) -> None:
    config = archive(tmp_path, days=("20150301",), hours=1)
    own, published = (whole(replace(config, reproduce=names)) for names in ((), ("beyond_the_pole",)))
    for name in ("u", "w", "t", "uw", "vw", "N2", "dudp", "zs"):
        a, b = own["training"][name].values, published["training"][name].values
        differs = np.abs(a - b).max(axis=(0, 1, 3)) > 1e-5 * np.abs(a).max()
        assert not differs[1:-1].any()
        assert differs[[0, -1]].all()
    assert np.array_equal(own["fluxes"]["uw"], published["fluxes"]["uw"])
    assert own["training"].attrs["published_defects"] == ""
    assert published["training"].attrs["published_defects"] == "beyond_the_pole"


def test_scalar_truncation_alone_leaves_jumps_on_the_poles(tmp_path: Path) -> None:
    config = archive(tmp_path, days=("20150301",), hours=1, surfaces=False)

    def polar(made: xr.Dataset) -> float:
        """Largest zonal wave other than that of a wind on a pole, over the largest flux."""
        rows = made["vw"].values[0][:, [0, -1]].astype(np.float64)
        waves = np.abs(np.fft.rfft(rows, axis=-1, norm="forward"))
        return float(np.delete(waves, 1, axis=-1).max() / np.abs(made["vw"].values).max())

    assert polar(whole(config)["fluxes"]) < 1e-6
    assert polar(whole(replace(config, reproduce=("scalar_truncation",)))["fluxes"]) > 0.01


def test_spectral_remapping_changes_the_coarse_fluxes_alone(tmp_path: Path) -> None:
    config = archive(tmp_path, days=("20150301",), hours=1)
    cells, spectral = (whole(replace(config, remapping=way)) for way in ("conservative", "spectral"))
    for name in cells["training"].data_vars:
        same = np.array_equal(cells["training"][name], spectral["training"][name])
        assert same == (name not in ("uw", "vw"))
    coarse = gaussian_grid(16, 32)
    fine = regular_grid(47, 93)
    for name in ("uw", "vw"):
        stored = cells["fluxes"][name].values
        scale = np.abs(stored).max()
        assert np.abs(coarse.mean(cells["training"][name]) - fine.mean(stored)).max() < 1e-6 * scale
        assert np.abs(spectral["training"][name].values).max() > 0
    assert fields_of(fine, 1, 1)["u"].shape == (1, 1, 47, 93)
    assert catalogue(found(config)).has == ("t", "sp", "zs")
