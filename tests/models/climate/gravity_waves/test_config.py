"""Whole configurations of networks of fluxes: presets, names, and trainings that are killed and go on."""

import json
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import TypeAdapter

from models.climate.generator.gwsphere import GwsphereConfig
from models.climate.gravity_waves import config as config_module
from models.climate.gravity_waves.config import (
    DataConfig,
    FluxNetworkConfig,
    GravityWavesConfig,
    LatticeConfig,
    LearningConfig,
    NetworkConfig,
    ReadingConfig,
    SplitConfig,
    TrainingConfig,
)
from models.common.contracts import Payload
from models.common.fit import fit
from models.common.parts import PreparationConfig
from tests import children
from tests.models.climate.gravity_waves.hours import prepared

CPU = {"accelerator": "cpu", "devices": 1}
LATTICE = LatticeConfig(hours_apart=487, world=GwsphereConfig(rows=8, columns=16, levels=6))
LEARNING = FluxNetworkConfig(
    architecture=NetworkConfig(width=4, depth=1, dropout=0.1),
    training=TrainingConfig(epochs=3, batch_size=4, schedule="cosine", average=0.9),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    return prepared(LATTICE, tmp_path_factory.mktemp("lattice"))


def trained(config: FluxNetworkConfig, data: Payload, folder: Path) -> dict[str, Any]:
    fit(config, data, folder, lightning_arguments=CPU)
    return {
        "weights": safetensors.torch.load_file(folder / "weights.safetensors"),
        "training": json.loads((folder / "training.json").read_text()),
    }


def test_presets_are_what_their_json_says_and_the_default_is_tiny() -> None:
    for preset in (config_module.tiny, config_module.small, config_module.paper):
        config = preset()
        assert TypeAdapter(GravityWavesConfig).validate_python(json.loads(json.dumps(asdict(config)))) == config
        assert all(isinstance(value, str | int | float) for value in config.parameters().values())
        assert config.trained.reading == config.baseline.reading == config.data.reading
        assert config.baseline.architecture.kind == "column"
        learned, beside = config.network.training, config.column.training
        assert beside.epochs / beside.batch_size >= learned.epochs / learned.batch_size, "the column learns less"
    assert GravityWavesConfig() == config_module.tiny()


def test_what_stands_beside_is_a_column() -> None:
    with pytest.raises(ValueError, match="column must be a column, got a stencil"):
        GravityWavesConfig(column=LearningConfig(architecture=NetworkConfig(kind="stencil")))


def test_the_paper_preset_has_the_published_numbers_of_parameters() -> None:
    config = config_module.paper()
    with torch.device("meta"):
        network, column = (one.network({"levels": 122}) for one in (config.trained, config.baseline))
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(37.893, abs=5e-4)
    # the logs' 10.125 million count 18,688 weights of batch norms that are made and never called
    never_called = 2 * (3 * 1476 + 2 * 1476 + 1476 + 488)
    assert (sum(weight.numel() for weight in column.parameters()) + never_called) / 1e6 == pytest.approx(
        10.125, abs=5e-4
    )
    assert len(config.network.architecture.channels(122)) == 366


def test_what_is_trained_is_named_after_its_data() -> None:
    generated = DataConfig(preparation=PreparationConfig(workers=2))
    assert (generated.name, generated.recipe) == ("lattice", generated.lattice)
    live = DataConfig(source="dataset", dataset="datasets-fluxes-small")
    assert (live.name, live.recipe, live.product) == ("fluxes-small", None, "datasets-fluxes-small")


def test_a_training_says_which_months_are_not_there(data: Payload, caplog: pytest.LogCaptureFixture) -> None:
    LEARNING.start(LEARNING.network(LEARNING.sizes(data)), data)
    said = [record.getMessage() for record in caplog.records]
    split = replace(LEARNING.reading.split, train=("2009-12", *LEARNING.reading.split.train))
    asked = replace(LEARNING, reading=replace(LEARNING.reading, split=split))
    asked.start(asked.network(asked.sizes(data)), data)
    new = [record.getMessage() for record in caplog.records[len(said) :]]
    assert new == [
        *said,
        "training has no hour of months that the split names for train: 2009-12; the others are used",
    ]


def test_a_network_begins_with_the_statistics_of_its_months_of_training(data: Payload) -> None:
    network = LEARNING.network(LEARNING.sizes(data))
    assert not network.flux_mean.any()
    LEARNING.start(network, data)
    stored = data["data"]["training"]
    years = stored["time"].values.astype("datetime64[m]").astype("datetime64[M]").astype(str)
    learned = [month[:4] in ("2010", "2012", "2014") and month not in ("2014-04", "2014-10") for month in years]
    for name, half in (("uw", slice(0, 6)), ("vw", slice(6, 12))):
        values = stored[name].values[learned].astype(np.float64)
        np.testing.assert_allclose(network.flux_mean[half], values.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(network.flux_deviation[half], values.std((0, 2, 3)), rtol=1e-6)


def test_levels_at_the_top_are_left_out_everywhere(data: Payload) -> None:
    config = replace(LEARNING, reading=ReadingConfig(dropped_levels=2))
    assert config.sizes(data) == {"levels": 4, "rows": 8, "columns": 16}
    batch, area = _first(config, data)
    features, fluxes = batch
    assert (features.shape[1], fluxes.shape[1]) == (3 + 16, 8)
    assert float(area.sum()) == pytest.approx(1)


def _first(config: FluxNetworkConfig, data: Payload) -> Any:
    return next(config.batches(data, rank=0, processes=1).epoch(0))


def test_the_loss_counts_cells_by_their_area(data: Payload) -> None:
    batch, area = _first(LEARNING, data)
    features, fluxes = batch
    network = LEARNING.network(LEARNING.sizes(data)).eval()
    LEARNING.start(network, data)
    found = LEARNING.loss(network, ((features, fluxes), area)).detach()
    error = (network(features) - network.standardised(fluxes)).detach().double().square()
    expected = (error.mean((0, 1)) * area.double()).sum() / area.double().sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float(found) != pytest.approx(float(error.mean()), rel=1e-3)


def test_validation_reads_the_months_of_validation_alone(data: Payload) -> None:
    network = LEARNING.network(LEARNING.sizes(data)).eval()
    LEARNING.start(network, data)
    first = LEARNING.validate(network, data)
    assert set(first) == {"r2", "mse", "correlation"}
    changed = {"data": {"training": data["data"]["training"].copy()}}
    group = changed["data"]["training"]
    months = group["time"].values.astype("datetime64[m]").astype("datetime64[M]").astype(str)
    others = ~np.isin(months, ("2014-04", "2014-10"))
    for part, same in ((others, True), (~others, False)):
        values = data["data"]["training"]["uw"].values.copy()
        values[part] *= -3
        group["uw"] = (group["uw"].dims, values, group["uw"].attrs)
        assert (LEARNING.validate(network, changed) == first) is same


def test_another_network_is_refused(data: Payload) -> None:
    with pytest.raises(TypeError, match="expected a network of fluxes, got Linear"):
        LEARNING.validate(torch.nn.Linear(1, 1), data)
    with pytest.raises(TypeError, match="expected a network of fluxes, got NoneType"):
        GravityWavesConfig(network=LearningConfig(architecture=LEARNING.architecture)).judge(
            trained_for_nothing(data), data, None
        )


def trained_for_nothing(data: Payload) -> Payload:
    sizes = LEARNING.sizes(data)
    return {"weights": LEARNING.network(sizes).state_dict(), "training": {"sizes": sizes}}


@pytest.mark.parametrize("after", [1, 11])
def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path: Path, data: Payload, after: int) -> None:
    """kill -9 after some steps; checkpoints are written after every step, so at most one step is made again."""
    config = replace(LEARNING, training=replace(LEARNING.training, checkpoint_minutes=1e-9))
    whole = trained(config, data, tmp_path / "whole")
    assert whole["training"]["steps"] > 11
    script = f"""
import os, signal
from dataclasses import replace
from pathlib import Path
from models.common.fit import fit
from models.climate.gravity_waves.config import FluxNetworkConfig
from tests.models.climate.gravity_waves.hours import prepared
from tests.models.climate.gravity_waves.test_config import LATTICE, LEARNING
plain, steps = FluxNetworkConfig.loss, []
def loss(self, network, batch):
    steps.append(1)
    if len(steps) > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, network, batch)
FluxNetworkConfig.loss = loss
config = replace(LEARNING, training=replace(LEARNING.training, checkpoint_minutes=1e-9))
folder = Path({str(tmp_path)!r})
fit(config, prepared(LATTICE, folder), folder / "killed", lightning_arguments={CPU!r})
"""
    done = children.run(script, timeout=250)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "killed" / "last.ckpt").exists()
    resumed = trained(config, data, tmp_path / "killed")
    assert resumed["training"] == whole["training"]
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name


def test_one_batch_of_two_processes_is_the_batch_of_one(data: Payload) -> None:
    whole = [batch.rows.tolist() for batch, _ in LEARNING.batches(data, rank=0, processes=1).epoch(2)]
    shares = [
        [batch.rows.tolist() for batch, _ in LEARNING.batches(data, rank=rank, processes=2).epoch(2)] for rank in (0, 1)
    ]
    assert [one + other for one, other in zip(*shares, strict=True)] == whole


def test_no_month_is_in_two_parts() -> None:
    with pytest.raises(ValueError, match="a month has one part"):
        SplitConfig(train=("2010",), validation=("2010",), test=("2015",))
