"""The live network on the latest hours: what is looked at, and what is told when it no longer holds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from models.climate.gravity_waves.config import (
    FluxNetworkConfig,
    GravityWavesConfig,
    JudgementConfig,
    NetworkConfig,
    ReadingConfig,
    SplitConfig,
)
from models.climate.gravity_waves.networks import of_fluxes
from models.climate.gravity_waves.watch import watch
from models.common.errors import InputError
from models.common.judgement import Judgement
from tests.models.climate.gravity_waves.hours import hand_written

READING = ReadingConfig(split=SplitConfig(train=("2010-01",), validation=("2010-02",), test=("2010-03",)))
NETWORK = FluxNetworkConfig(architecture=NetworkConfig(kind="column", hidden=4, layers=1), reading=READING)


def world(hours: int = 90, start: str = "2010-01-01T00") -> xr.Dataset:
    """Three months, a value a day, without a trend."""
    made = hand_written(hours, rows=4, columns=8, apart=24, start=start)
    random = np.random.default_rng(0)
    for name in ("u", "v", "w", "t", "uw", "vw"):
        values = made[name].values.mean(0) + random.standard_normal(made[name].shape)
        made[name] = (made[name].dims, values.astype(np.float32), made[name].attrs)
    return made


def watched(latest: xr.Dataset | None = None, **changes: Any) -> Judgement:
    data: dict[str, Any] = {"data": {"training": world()}}
    network = NETWORK.network(NETWORK.sizes(data)).eval()
    NETWORK.start(network, data)
    with torch.no_grad():
        network.body.last.weight.zero_()  # type: ignore[union-attr,operator]
        network.body.last.bias.zero_()  # type: ignore[union-attr,operator]
    if latest is not None:
        data["latest"] = {"data": {"training": latest}}
    config = GravityWavesConfig(judgement=JudgementConfig(**changes))
    return replace(config, data=replace(config.data, reading=READING)).watch({}, data, network)


def failures(judgement: Judgement) -> set[str]:
    return {claim.name for claim in judgement.certificate.failures()}


def test_the_hours_that_were_not_learned_from_are_predicted_again() -> None:
    found = watched(mean=1.1)
    assert failures(found) == set()
    assert found.metrics["hours"] == 31
    assert found.metrics["skill_over_mean"] == pytest.approx(0, abs=1e-5), "it says the mean of training"
    assert "2010-03" in found.figures[0].series[0].x[0]


def test_a_network_that_knows_nothing_is_told() -> None:
    assert failures(watched()) == {"mse_over_mean"}


def test_the_latest_data_are_looked_at_and_their_drift_is_told() -> None:
    later = world(start="2012-01-01T00").isel(time=slice(40))
    assert failures(watched(later, mean=2.0)) == set()
    warmer = later.assign(t=(later["t"].dims, later["t"].values + np.float32(100), later["t"].attrs))
    assert failures(watched(warmer, mean=2.0)) == {"drift_of_inputs"}


def test_half_precision_is_held_to_what_it_can_hold() -> None:
    limits = []
    for precision in ("float32", "bfloat16"):
        half = replace(NETWORK, architecture=replace(NETWORK.architecture, precision=precision))
        data: dict[str, Any] = {"data": {"training": world()}}
        found = watch(data, of_fluxes(half.network(half.sizes(data)).eval()), READING, JudgementConfig())
        limits += [claim.limit for claim in found.certificate.claims if claim.name == "difference_alone"]
    assert limits == [1e-4, 5e-2]


def test_another_lattice_is_not_drift() -> None:
    data: dict[str, Any] = {"data": {"training": world()}}
    stencil = replace(NETWORK, architecture=replace(NETWORK.architecture, kind="stencil"))
    network = stencil.network({"levels": 3, "rows": 8, "columns": 16}).eval()
    with pytest.raises(InputError, match=r"a lattice of \(4, 8\), the network learned from one of \(8, 16\)"):
        watch(data, network, READING, JudgementConfig())


def test_months_of_training_alone_are_refused() -> None:
    with pytest.raises(InputError, match="no hour outside the months"):
        watched(world(20))
    with pytest.raises(InputError, match="no uw and vw"):
        watched(world().drop_vars(["uw", "vw"]))
