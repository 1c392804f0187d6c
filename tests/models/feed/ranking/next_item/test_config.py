"""The configuration: its presets, what it refuses, and a training that is killed and goes on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from models.common.contracts import Payload, TrainingConfig
from models.common.fit import fit
from models.feed.events.splits import Split
from models.feed.events.table import Events
from models.feed.ranking.next_item.batches import SequenceBatches
from models.feed.ranking.next_item.config import (
    NetworkConfig,
    NextItemConfig,
    NextItemRankerConfig,
    ObjectiveConfig,
    beauty,
    paper,
    published_size,
    small,
    sports,
    tiny,
)
from models.feed.ranking.next_item.network import Batch
from tests.models.feed.ranking.next_item.sequences import KINDS, NETWORK, ranker_config, simulated

CPU = {"accelerator": "cpu", "devices": 1}


class Killed(NextItemRankerConfig):
    """A ranker whose training kills its process at a step, once."""

    def batches(self, data: Payload, *, rank: int, processes: int) -> SequenceBatches:
        batches = super().batches(data, rank=rank, processes=processes)
        epoch = batches.epoch

        def until(number: int) -> Iterator[Batch]:
            for place, batch in enumerate(epoch(number)):
                if number * len(batches) + place == int(os.environ.get("DIE_AT", "-1")):
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        batches.epoch = until  # type: ignore[method-assign]
        return batches


def killable() -> Killed:
    config = ranker_config(epochs=3, checkpoint_minutes=1e-9)
    return Killed(architecture=config.architecture, objective=config.objective, training=config.training)


def train(folder: Path) -> None:
    fit(killable(), simulated(), folder, lightning_arguments=CPU)


@pytest.mark.parametrize("die_at", [3, 10, 13])
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(tmp_path: Path, die_at: int) -> None:
    train(tmp_path / "whole")
    script = f"from tests.models.feed.ranking.next_item.test_config import *\ntrain(Path({str(tmp_path / 'killed')!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "DIE_AT": str(die_at)},
        cwd=Path(__file__).parents[5],
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["global_step"] >= die_at - 1
    train(tmp_path / "killed")
    for name in ("weights.safetensors", "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_block_learns_the_world(kind: str, tmp_path: Path) -> None:
    data = simulated(users=300)
    config = replace(
        ranker_config(replace(NETWORK, dropout=0.1, item_dropout=0.0, **KINDS[kind]), epochs=4, batch_size=120),
        objective=ObjectiveConfig(negatives=30, steps=30),
    )
    torch.manual_seed(0)
    before = config.network(config.sizes(data)).eval()
    config.start(before, data)
    fit(config, data, tmp_path, lightning_arguments=CPU)
    after = config.network(config.sizes(data)).eval()
    after.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    assert config.validate(after, data)["ndcg_at_10"] > config.validate(before, data)["ndcg_at_10"] + 0.05


def test_a_network_begins_at_the_training_part_alone() -> None:
    data = simulated(users=30, items=90)
    split, events = Split.from_payload(data), Events.from_payload(data)
    config = ranker_config()
    network = config.network(config.sizes(data))
    config.start(network, data)
    known = np.zeros(90, bool)
    known[events.item[split.train]] = True
    assert network.known.tolist() == known.tolist()
    assert not known.all()
    table = data["events"]
    held = np.concatenate([split.validation, split.test])
    item = table["item"].to_numpy().copy()
    item[held] = item[held][::-1]
    place = table.column_names.index("item")
    moved = {**data, "events": table.set_column(place, "item", [item.astype(np.int32)])}
    other = config.network(config.sizes(moved))
    config.start(other, moved)
    assert torch.equal(other.items.weight, network.items.weight)


def test_validation_does_not_read_the_test_part() -> None:
    data = simulated()
    config = ranker_config()
    network = config.network(config.sizes(data)).eval()
    found = config.validate(network, data)
    split = Split.from_payload(data)
    table = data["events"]
    item = table["item"].to_numpy().copy()
    item[split.test] = 0
    place = table.column_names.index("item")
    assert config.validate(network, {**data, "events": table.set_column(place, "item", [item])}) == found


@pytest.mark.parametrize("preset", [tiny, small, beauty, sports, paper])
def test_presets_build_what_they_describe(preset: Any) -> None:
    config: NextItemConfig = preset()
    network = config.ranker.network({"items": 40})
    assert len(network.blocks) == config.ranker.architecture.layers
    names = set(config.parameters())
    assert {"data", "model", "negatives", "steps", "seed"} <= names


def test_the_settings_of_beauty_and_sports_are_the_same() -> None:
    assert beauty().ranker == sports().ranker == published_size()
    assert beauty().data.sources() == {"sequences": "catalogue:ranking-amazon-s3rec/Beauty.txt.gz"}
    objective, training = published_size().objective, published_size().training
    assert 800 <= objective.steps * training.epochs <= 1050


def test_the_paper_has_the_published_sizes() -> None:
    ranker = paper().ranker
    network, data = ranker.architecture, 131_413  # next items in the training part of Beauty
    assert (network.width, network.layers, network.heads, network.multiplier) == (64, 1, 1, 4)
    assert (network.history, network.dropout, ranker.objective.negatives) == (50, 0.2, 256)
    passes = ranker.training.epochs * ranker.objective.steps * ranker.training.batch_size / data
    assert passes == pytest.approx(200, abs=1)


def test_a_batch_below_two_histories_is_refused_with_the_least() -> None:
    with pytest.raises(ValueError, match="must be at least 200, twice the history for each process, got 199"):
        NextItemRankerConfig(
            architecture=NetworkConfig(history=50), training=TrainingConfig(batch_size=199, processes=2)
        )
