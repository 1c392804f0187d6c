"""The configuration builds what it describes; a killed training ends with the same bits; noise teaches nothing."""

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

from models.common.calibration import KNOTS, fit_tasks
from models.common.contracts import Payload, TrainingConfig
from models.common.fit import fit
from models.feed.events.leakage import check_shuffled, shuffle_labels
from models.feed.events.metrics import auc
from models.feed.events.table import Events
from models.feed.ranking import config as config_module
from models.feed.ranking.config import RankerConfig, RankingConfig
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR
from models.feed.ranking.score import Ranker, batch_logits
from tests import children
from tests.models.feed.ranking.worlds import CONFIG, simulated

CPU = {"accelerator": "cpu", "devices": 1}


def trained(config: RankerConfig, data: Payload, folder: Path) -> dict[str, Any]:
    fit(config, data, folder, lightning_arguments=CPU)
    training = json.loads((folder / "training.json").read_text())
    return {"weights": safetensors.torch.load_file(folder / "weights.safetensors"), "training": training}


def test_the_presets_survive_json_and_grow() -> None:
    for preset in (config_module.tiny, config_module.small, config_module.movielens, config_module.paper):
        config = preset()
        assert TypeAdapter(RankingConfig).validate_python(json.loads(json.dumps(asdict(config)))) == config
        assert all(isinstance(value, str | int | float) for value in config.parameters().values())
    assert RankingConfig() == config_module.tiny()
    sizes = {"users": 1, "items": 1, "categories": 1, "tasks": 2}
    with torch.device("meta"):
        block = config_module.paper().ranker.network(sizes).transformer
    dense = sum(weight.numel() for weight in block.parameters())
    assert 9e6 < dense < 12e6, "LiGR's largest run has 10 million dense weights"


def test_sizes_are_those_of_the_data_and_another_network_is_refused() -> None:
    data = simulated()
    assert CONFIG.ranker.sizes(data) == {"users": 47, "items": 240, "categories": 8, "tasks": 2}
    with pytest.raises(TypeError, match="expected a ranker's network, got Linear"):
        CONFIG.ranker.validate(torch.nn.Linear(1, 1), data)


def test_validation_reads_no_test_row_and_leaves_a_calibration_of_its_own_rows() -> None:
    data = simulated()
    network = CONFIG.ranker.network(CONFIG.ranker.sizes(data)).eval()
    first = CONFIG.ranker.validate(network, data)
    assert CONFIG.ranker.validate(network, data) == first
    events = Events.from_payload(data)
    actions = events.actions.copy()
    actions[data["test"]] = 1 - actions[data["test"]]
    turned = {**data, **replace(events, actions=actions).payload()}
    steps = network.steps()
    assert CONFIG.ranker.validate(network, turned) == first
    for one, other in zip(steps, network.steps(), strict=True):
        assert one.chance.tolist() == other.chance.tolist()
    inputs = Inputs.of(data)
    rows, logit = batch_logits(network, inputs, inputs.sessions_of(data["validation"]))
    for one, other in zip(fit_tasks(logit, inputs.events.actions[rows], KNOTS), network.steps(), strict=True):
        assert one.score.tolist() == other.score.tolist()
        assert one.chance.tolist() == other.chance.tolist()


@pytest.mark.parametrize("after", [1, 7])
def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path: Path, after: int) -> None:
    """kill -9 after some steps; checkpoints are written after every step, so at most one step is made again."""
    training = replace(CONFIG.ranker.training, checkpoint_minutes=1e-9)
    config = replace(CONFIG.ranker, training=training)
    data = simulated()
    whole = trained(config, data, tmp_path / "whole")
    script = f"""
import os, signal
from dataclasses import replace
from pathlib import Path
from models.common.fit import fit
from models.feed.ranking.config import RankerConfig
from tests.models.feed.ranking.worlds import CONFIG, simulated
plain, steps = RankerConfig.loss, []
def loss(self, network, batch):
    steps.append(1)
    if len(steps) > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, network, batch)
RankerConfig.loss = loss
config = replace(CONFIG.ranker, training=replace(CONFIG.ranker.training, checkpoint_minutes=1e-9))
fit(config, simulated(), Path({str(tmp_path / "killed")!r}), lightning_arguments={CPU!r})
"""
    done = children.run(script, timeout=250)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "killed" / "last.ckpt").exists()
    resumed = trained(config, data, tmp_path / "killed")
    assert resumed["training"] == whole["training"]
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name


def test_what_was_trained_is_what_is_served_bit_for_bit(tmp_path: Path) -> None:
    data = simulated()
    product = trained(CONFIG.ranker, data, tmp_path / "fit")
    networks = []
    for _ in range(2):
        network = CONFIG.ranker.network(product["training"]["sizes"]).eval()
        network.load_state_dict(product["weights"])
        networks.append(network)
    inputs = Inputs.of(data)
    sessions = inputs.sessions_of(data["test"])
    one, other = (Ranker(network, inputs.catalogue).logits(inputs, sessions)[1] for network in networks)
    assert one.tolist() == other.tolist()
    batch = batch_logits(networks[0], inputs, sessions)[1]
    assert np.abs(one - batch).max() <= 5e-6
    validated = CONFIG.ranker.validate(networks[0], data)["auc"]
    assert product["training"]["best_validation_auc"] == np.float32(validated), "it is kept in float32"


def test_a_ranker_learns_what_a_simulated_feed_has_and_nothing_from_shuffled_labels(tmp_path: Path) -> None:
    data = simulated(users=300, sessions=10.0)
    config = replace(config_module.tiny().ranker, training=TrainingConfig(epochs=4, batch_size=8, learning_rate=5e-3))
    inputs = Inputs.of(data)
    rows = np.concatenate([data["validation"], data["test"]])

    def scores(payload: Payload, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        network: LiGR = config.network(config.sizes(payload)).eval()
        network.load_state_dict(trained(config, payload, folder)["weights"])
        known = Inputs.of(payload)
        found, logit = batch_logits(network, known, known.sessions_of(rows))
        return known.events.label[found], logit[:, 0]

    assert auc(*scores(data, tmp_path / "true")) > 0.62
    noise = {**data, **shuffle_labels(inputs.events, seed=1).payload()}
    check_shuffled(*scores(noise, tmp_path / "shuffled"))


def test_a_run_of_several_processes_takes_the_same_rows() -> None:
    data = simulated()
    whole = CONFIG.ranker.batches(data, rank=0, processes=1)
    halves = [CONFIG.ranker.batches(data, rank=rank, processes=2) for rank in (0, 1)]
    assert len(whole) == len(halves[0]) == len(halves[1])
    for batch, first, second in zip(whole.epoch(1), halves[0].epoch(1), halves[1].epoch(1), strict=True):
        assert sorted(batch.user.tolist()) == sorted(first.user.tolist() + second.user.tolist())


def test_no_history_of_a_training_batch_holds_a_validation_or_test_row() -> None:
    """Labels of later parts are turned round; not a number of any batch changes."""
    data = simulated()
    events = Events.from_payload(data)
    later = np.concatenate([data["validation"], data["test"], data["left_out"]])
    actions = events.actions.copy()
    actions[later] = 1 - actions[later]
    turned = {**data, **replace(events, actions=actions).payload()}
    pairs = zip(
        CONFIG.ranker.batches(data, rank=0, processes=1).epoch(0),
        CONFIG.ranker.batches(turned, rank=0, processes=1).epoch(0),
        strict=True,
    )
    for one, other in pairs:
        assert torch.equal(one.event_action, other.event_action)
        assert torch.equal(one.label * one.weight.unsqueeze(-1), other.label * other.weight.unsqueeze(-1))
