"""Learned values: chances of every offer and of none, and what is lost by learning instead of knowing."""

import dataclasses

import numpy as np
import pytest
import torch

from models.common.contracts import InputError, Payload, TrainingConfig
from models.marketing.generator import GeneratorConfig, generate
from models.marketing.prediction.response import ResponseConfig, ResponseNetwork
from models.marketing.tables import generated
from models.marketing.values import ValuesConfig, learned_values, taught

WORLD = GeneratorConfig(members=6000, lines=3, offers=6, spread=1.0, seed=8)
CONFIG = ValuesConfig(
    source="learned", response=ResponseConfig(training=TrainingConfig(epochs=4, batch_size=512, learning_rate=5e-3))
)


@pytest.fixture(scope="module")
def data() -> Payload:
    return generated(WORLD)


@pytest.fixture(scope="module")
def network(data: Payload) -> ResponseNetwork:
    """A few epochs by hand: the loop of the house is tested where it lives."""
    torch.manual_seed(0)
    network = CONFIG.network(CONFIG.sizes(data))
    CONFIG.start(network, data)
    steps = torch.optim.AdamW(network.parameters(), lr=CONFIG.training.learning_rate)
    batches = CONFIG.batches(data, rank=0, processes=1)
    for epoch in range(CONFIG.training.epochs):
        for batch in batches.epoch(epoch):
            steps.zero_grad()
            CONFIG.loss(network, batch).backward()
            steps.step()
    return network


def test_a_send_that_arrived_is_one_example_and_a_member_alone_one_for_every_line(data: Payload) -> None:
    past, heads = data["past"].to_pydict(), taught(data)["offers"]
    arrived = sum(past["arrived"])
    alone = past["offer"].count(None)
    assert len(data["past_head"]) == arrived + 3 * alone
    assert heads[6:] == ["nothing, starter", "nothing, plus", "nothing, team"]
    assert np.bincount(data["past_head"], minlength=9)[6:].tolist() == [alone] * 3
    assert not set(data["past_train"]) & set(data["past_validation"])


def test_learned_values_follow_the_true_ones(data: Payload, network: ResponseNetwork) -> None:
    value, true = learned_values(network, data), generate(WORLD).true_value
    untrained = CONFIG.network(CONFIG.sizes(data))
    CONFIG.start(untrained, data)
    known = [np.corrcoef(one, true)[0, 1] for one in (value, learned_values(untrained, data))]
    assert known[0] > 0.4
    assert known[0] > known[1] + 0.1, "nothing was learned of members"


def test_the_same_network_says_the_same_bits_on_any_number_of_threads(data: Payload, network: ResponseNetwork) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = learned_values(network, data)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(two, learned_values(network, data))


def test_data_without_a_past_are_refused(data: Payload, network: ResponseNetwork) -> None:
    with pytest.raises(InputError, match="no past that chance decided"):
        learned_values(network, {name: part for name, part in data.items() if name != "lessons"})
    with pytest.raises(TypeError, match="expected a trained ResponseNetwork, got Linear"):
        learned_values(torch.nn.Linear(1, 1), data)


def test_settings_of_learning_are_those_of_the_response() -> None:
    assert dataclasses.replace(CONFIG).training == CONFIG.response.training
    assert CONFIG.monitor == "likelihood"
