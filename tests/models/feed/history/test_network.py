from dataclasses import replace

import numpy as np
import pytest
import torch

from models.common.transformer import TransformerConfig
from models.feed.events.catalogue import GAPS
from models.feed.events.features import FEATURES
from models.feed.history.batches import batch_of
from models.feed.history.inputs import OF_CANDIDATE, OF_REQUEST, Inputs
from models.feed.history.loss import multi_task_loss
from models.feed.history.network import DLRM, Cross, Head, NetworkConfig, pool
from tests.models.feed.history.worlds import BLOCK, NETWORK, VARIANTS, random_scorer, simulated


@pytest.mark.parametrize("name", ["append", "concat", "low rank"])
def test_parameters_are_those_of_tables_blocks_and_layers(name: str) -> None:
    config = VARIANTS[name]
    network = DLRM(users=7, items=11, categories=5, tasks=3, config=config)
    width, inner, m = BLOCK.width, config.item_width, BLOCK.multiplier
    blocks = BLOCK.layers * ((6 + 3 * m) * width**2 + 6 * width) + 2 * width
    tables = (7 + 11 + 5) * inner + GAPS * width
    tokens = 2 * inner * width + width + 4 * width
    first = 3 * inner + len(FEATURES) + (config.last + 1) * width
    if config.fused:
        tokens += 2 * width**2 + width
    else:
        first += width
    matrix = 2 * config.rank * first if config.rank else first**2
    head = config.cross * (matrix + first) + (first + 1) * config.hidden + (config.hidden + 1) * (config.hidden + 3)
    assert sum(weight.numel() for weight in network.parameters()) == blocks + tables + tokens + head


def test_a_cross_layer_is_the_formula_of_its_paper() -> None:
    torch.manual_seed(0)
    layer = Cross(5, 0)
    first, now = torch.randn(5), torch.randn(5)
    weight, bias = layer.outward.weight.detach(), layer.outward.bias.detach()
    wanted = [first[i] * (sum(weight[i, j] * now[j] for j in range(5)) + bias[i]) + now[i] for i in range(5)]
    np.testing.assert_allclose(layer(first, now).tolist(), [float(value) for value in wanted], atol=1e-6)
    narrow = Cross(5, 2)
    assert narrow.inward is not None
    full = Cross(5, 0)
    full.outward.weight.data = narrow.outward.weight @ narrow.inward.weight
    full.outward.bias.data = narrow.outward.bias
    np.testing.assert_allclose(narrow(first, now).tolist(), full(first, now).tolist(), atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1, 4])
@pytest.mark.parametrize("cross", [0, 1, 3])
@pytest.mark.parametrize("count", [1, 53])
def test_a_head_that_computes_the_shared_part_once_says_the_same(rank: int, cross: int, count: int) -> None:
    torch.manual_seed(rank + 10 * cross)
    head = Head(17, 9, 2, replace(NETWORK, rank=rank, cross=cross))
    shared, own = torch.randn(17), torch.randn(count, 9)
    with torch.no_grad():
        apart = head.candidates(head.shared(shared), own)
        np.testing.assert_allclose(apart, head(shared.expand(count, -1), own), atol=1e-6)
    assert apart.shape == (count, 2)


def test_pooling_takes_the_last_outputs_and_the_maximum_of_events_alone() -> None:
    hidden = torch.tensor([[[1.0, -5], [2, -6], [-3, -7], [99, 99]], [[4, 4], [9, 9], [9, 9], [9, 9]], [[7, 7]] * 4])
    found = pool(hidden, torch.tensor([3, 1, 0]), 2)
    assert found.tolist() == [[-3, -7, 2, -6, 2, -5], [4, 4, 0, 0, 4, 4], [0, 0, 0, 0, 0, 0]]
    assert pool(hidden, torch.tensor([3, 1, 0]), 0).tolist() == [[2, -5], [4, 4], [0, 0]]


def test_an_unknown_item_is_its_categories_alone() -> None:
    inputs = Inputs.of(simulated())
    network = DLRM(users=1, items=inputs.events.items, categories=8, tasks=2, config=NETWORK).eval()
    code = inputs.catalogue.codes[:, 0]
    same = torch.nonzero(code == code[0])[:2, 0]
    first, second = network.item_parts(same, inputs.catalogue)
    assert torch.equal(first, second), "untrained items of one category are alike"
    assert not first[: NETWORK.item_width].any()
    other = torch.nonzero(code != code[0])[:1, 0]
    assert not torch.allclose(network.item_parts(other, inputs.catalogue)[0], first)


def test_forgetting_and_dropout_act_in_training_alone() -> None:
    data = simulated()
    network = random_scorer(data, replace(NETWORK, forgetting=0.5))
    batch = batch_of(Inputs.of(data), np.arange(20), NETWORK)
    assert torch.equal(network(batch), network(batch))
    network.train()
    assert not torch.equal(network(batch), network(batch))


@pytest.mark.parametrize("form", ["append", "append with self key", "concat"])
def test_every_part_of_the_network_learns(form: str) -> None:
    data = simulated()
    network = random_scorer(data, VARIANTS[form]).train()
    loss = multi_task_loss(network, batch_of(Inputs.of(data), np.arange(200, 240), NETWORK))
    loss.backward()  # type: ignore[no-untyped-call]
    still = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


def test_the_loss_is_the_cross_entropy_summed_over_tasks_and_padding_counts_nothing() -> None:
    data = simulated()
    inputs, network = Inputs.of(data), random_scorer(data)
    sessions = np.arange(12)
    batch = batch_of(inputs, sessions, NETWORK)
    with torch.no_grad():
        found, logit = float(multi_task_loss(network, batch)), network(batch).double().numpy()
        padded = batch._replace(
            item=torch.cat((batch.item, batch.item[:, :2]), 1),
            feature=torch.cat((batch.feature, batch.feature[:, :2]), 1),
            label=torch.cat((batch.label, 1 - batch.label[:, :2]), 1),
            weight=torch.cat((batch.weight, torch.zeros(12, 2)), 1),
        )
        assert float(multi_task_loss(network, padded)) == pytest.approx(found, abs=1e-6)
    total = count = 0.0
    for place, session in enumerate(sessions):
        for slot, row in enumerate(inputs.rows(int(session))):
            chance = 1 / (1 + np.exp(-logit[place, slot]))
            label = inputs.events.actions[row]
            total -= float(np.where(label == 1, np.log(chance), np.log(1 - chance)).sum())
            count += 1
    assert found == pytest.approx(total / count, rel=1e-5)


def test_units_and_calibration_travel_with_the_weights() -> None:
    data = simulated()
    network, other = random_scorer(data), random_scorer(data, seed=1)
    other.mean.zero_()
    other.load_state_dict(network.state_dict())
    logit = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    assert other.chances(logit).tolist() == network.chances(logit).tolist()
    assert other.standard.mean.tolist() == Inputs.of(data).standard.mean.tolist()


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="stride must be at most history, got 32 and 9"):
        NetworkConfig(history=9)
    with pytest.raises(ValueError, match="window must be 0, got 5"):
        NetworkConfig(transformer=TransformerConfig(window=5))
    assert not NetworkConfig(form="append").blocks.self_key
    assert NetworkConfig(form="append with self key").blocks.self_key
    assert len(OF_REQUEST) + len(OF_CANDIDATE) == len(FEATURES)
