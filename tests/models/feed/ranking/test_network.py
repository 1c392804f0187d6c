from dataclasses import replace

import numpy as np
import pytest
import torch

from models.feed.events.catalogue import GAPS
from models.feed.ranking.batches import batch_of, rows_of
from models.feed.ranking.inputs import HOURS, Inputs
from models.feed.ranking.loss import impression_loss
from models.feed.ranking.network import LiGR
from tests.models.feed.ranking.worlds import BLOCK, NETWORK, random_ranker, simulated


def test_parameters_are_those_of_blocks_tables_and_heads() -> None:
    config = replace(NETWORK, user=True)
    network = LiGR(users=7, items=11, categories=5, tasks=3, config=config)
    width, inner, layers, m = BLOCK.width, config.item_width, BLOCK.layers, BLOCK.multiplier
    block = (6 + 3 * m) * width**2 + 2 * width + 4 * width
    blocks = layers * block + 2 * width
    tables = (11 + 5) * inner + 7 * width + 2 * (GAPS + HOURS) * width
    inputs = inner * width + (3 + 1) * width + width
    head = width**2 + width + 3 * width + 3 + 11 * 3
    assert sum(weight.numel() for weight in network.parameters()) == blocks + tables + inputs + head


def test_an_unknown_item_is_its_categories_alone() -> None:
    data = simulated()
    inputs = Inputs.of(data)
    network = LiGR(users=1, items=inputs.events.items, categories=8, tasks=2, config=NETWORK).eval()
    code = inputs.catalogue.codes[:, 0]
    same = torch.nonzero(code == code[0])[:2, 0]
    first, second = network.item_vectors(same, inputs.catalogue)
    assert torch.allclose(first, second, atol=1e-6), "untrained items of one category are alike"
    other = torch.nonzero(code != code[0])[:1, 0]
    assert not torch.allclose(network.item_vectors(other, inputs.catalogue)[0], first)


def test_forgetting_and_dropout_act_in_training_alone() -> None:
    data = simulated()
    inputs, network = Inputs.of(data), random_ranker(data, replace(NETWORK, forgetting=0.5))
    rows = rows_of(inputs, np.arange(20), history=31, candidates=30)
    batch = batch_of(inputs, rows, np.arange(len(rows)), np.ones(len(inputs.events), np.float32))
    assert torch.equal(network(batch), network(batch))
    network.train()
    assert not torch.equal(network(batch), network(batch))


def test_the_loss_is_the_weighted_cross_entropy_summed_over_tasks() -> None:
    data = simulated()
    inputs, network = Inputs.of(data), random_ranker(data)
    rows = rows_of(inputs, np.arange(12), history=31, candidates=30)
    weight = np.random.default_rng(0).random(len(inputs.events)).astype(np.float32)
    batch = batch_of(inputs, rows, np.arange(len(rows)), weight)
    with torch.no_grad():
        found, logit = float(impression_loss(network, batch)), network(batch).double().numpy()
    total = mass = 0.0
    for place in range(len(rows)):
        for slot, row in enumerate(rows.row[rows.start[place] : rows.start[place + 1]]):
            chance = 1 / (1 + np.exp(-logit[place, slot]))
            label = inputs.events.actions[row]
            total -= weight[row] * float(np.where(label == 1, np.log(chance), np.log(1 - chance)).sum())
            mass += weight[row]
    assert found == pytest.approx(total / mass, rel=1e-5)
    prior = sum(float(table.weight.detach().square().sum()) for table in (network.items, network.bias)) / (
        2 * weight.sum()
    )
    assert impression_loss(network, batch, 3.0).item() == pytest.approx(total / mass + 3 * prior, rel=1e-5)
    nothing = batch._replace(weight=torch.zeros_like(batch.weight))
    assert impression_loss(network, nothing).item() == 0
