from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from models.climate.datasets.fluxes.config import FluxesConfig
from models.climate.generator.gwsphere import GwsphereConfig, state_of
from models.climate.gravity_waves.fields import GROUP, FluxFields
from models.climate.gravity_waves.lattice import LatticeConfig
from tests.models.climate.gravity_waves.hours import prepared

SMALL = LatticeConfig(
    years=(2011, 2012), hours_apart=1103, hours_together=3, world=GwsphereConfig(rows=8, columns=16, levels=6, seed=3)
)


def test_hours_begin_with_every_year_and_stay_in_it() -> None:
    hours = np.array(SMALL.hours).astype("datetime64[h]")
    years = hours.astype("datetime64[Y]")
    assert len(hours) == 16
    for year in ("2011", "2012"):
        own = hours[years == np.datetime64(year)]
        assert own[0] == np.datetime64(f"{year}-01-01T00") and (np.diff(own) == np.timedelta64(1103, "h")).all()
    leap = LatticeConfig(years=(2011, 2012), hours_apart=1)
    assert len(leap.hours) == 8760 + 8784
    assert leap.hours == tuple(range(leap.hours[0], leap.hours[-1] + 1))


def test_steps_without_a_factor_of_a_day_meet_every_hour_of_it() -> None:
    assert {hour % 24 for hour in LatticeConfig().hours} == set(range(24))


def test_parts_together_are_the_states_of_the_world(tmp_path: Path) -> None:
    dataset = prepared(SMALL, tmp_path)["data"][GROUP]
    assert len(SMALL.survey({}).parts) == 6
    for row, hour in enumerate(SMALL.hours):
        state = state_of(SMALL.world, hour)
        assert dataset["time"].values[row] == 60 * hour
        for name, other in (("u", "u"), ("v", "v"), ("t", "t"), ("w", "omega"), ("uw", "uw"), ("vw", "vw")):
            assert np.array_equal(dataset[name][row].values, getattr(state, other))
        assert all(np.array_equal(level, state.zs) for level in dataset["zs"][row].values)
    pressure = dataset["level"].values * 100
    assert np.array_equal(dataset["p"][5, :, 2, 3].values, pressure.astype(np.float32))


def test_a_part_is_the_same_alone_and_when_years_are_added() -> None:
    parts = SMALL.survey({}).parts
    longer = replace(SMALL, years=(2011, 2012, 2013), name="other").survey({}).parts
    assert [part.about for part in parts[:-1]] == [part.about for part in longer[: len(parts) - 1]]
    one, again = SMALL.part(parts[3])[GROUP], SMALL.part(parts[3])[GROUP]
    assert all(np.array_equal(one[name].values, again[name].values) for name in one.data_vars)


def test_names_dimensions_and_attributes_are_those_of_the_prepared_fluxes() -> None:
    ours = SMALL.survey({}).groups[GROUP]
    theirs = FluxesConfig(hours=1).survey({}).groups[GROUP]
    assert set(theirs.variables) - set(ours.variables) == {"dudp", "N2"}  # which no network reads
    for name, variable in ours.variables.items():
        other = theirs.variables[name]
        assert (variable.dims, variable.dtype, variable.attrs) == (other.dims, other.dtype, other.attrs)
        assert (variable.low, variable.high, variable.along) == (other.low, other.high, other.along)
    assert set(ours.coordinates) == set(theirs.coordinates)
    for name, (dims, values, attrs) in ours.coordinates.items():
        assert (dims, values.dtype, attrs) == (
            theirs.coordinates[name][0],
            theirs.coordinates[name][1].dtype,
            theirs.coordinates[name][2],
        )


def test_the_fields_of_prepared_fluxes_are_read_like_those_of_the_lattice(tmp_path: Path) -> None:
    recipe = FluxesConfig(hours=1, rows=41, columns=80, coarse_rows=8, coarse_columns=16, levels=7, levels_at_once=3,
                          keep_fluxes=False)  # fmt: skip
    data = prepared(recipe, tmp_path)
    fields = FluxFields.of(data, dropped_levels=2)
    features, fluxes = fields.read([0])
    dataset = data["data"][GROUP]
    assert fluxes is not None
    assert features.shape == (1, 23, 8, 16) and fluxes.shape == (1, 10, 8, 16)
    assert np.array_equal(features[0, 3:8], dataset["u"][0, 2:].values)
    assert np.array_equal(features[0, 18:], dataset["w"][0, 2:].values)
    assert np.array_equal(fluxes[0, 5:], dataset["vw"][0, 2:].values)
    theta = dataset["t"][0, 2:].values * (dataset["p"][0, 2:].values.astype(np.float64) / 1e5) ** -0.286
    np.testing.assert_allclose(features[0, 13:18], theta, rtol=1e-7)


def test_export_writes_a_file_a_year_with_every_value(tmp_path: Path) -> None:
    data = prepared(SMALL, tmp_path)
    target = tmp_path / "files"
    target.mkdir()
    written = SMALL.export(data["data"], target)
    assert [path.name for path in written] == ["lattice_lattice_2011.nc", "lattice_lattice_2012.nc"]
    dataset = data["data"][GROUP]
    with netCDF4.Dataset(written[1]) as file:
        assert file["u"].dimensions == ("time", "level", "lat", "lon")
        assert file["time"].units == "minutes since 1970-01-01"
        assert (file["time"][:] == dataset["time"].values[8:]).all()
        for name in ("u", "zs", "vw"):
            assert file[name].units == dataset[name].attrs["units"]
            assert np.array_equal(file[name][:].data, dataset[name][8:].values)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"years": (2012, 2011)}, "LatticeConfig.years must be years from 1970 to 2200, rising"),
        ({"years": (2012, 2012)}, "rising, each once"),
        ({"years": (1969,)}, "from 1970 to 2200"),
        ({"years": ()}, "LatticeConfig.years must be at least this long: 1"),
        ({"hours_apart": 0}, "LatticeConfig.hours_apart must be at least 1"),
    ],
)
def test_settings_that_make_no_hours_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LatticeConfig(**settings)
