"""The blocks written out in float64 say what the network says."""

import itertools

import numpy as np
import pytest
import torch

from models.common.transformer import Transformer, TransformerConfig
from models.common.written_out import Blocks, sigmoid


def drawn(config: TransformerConfig) -> Transformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Transformer(config)
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.3 * torch.randn(weight.shape)
    return network.double().eval()


@pytest.mark.parametrize(("gate", "rotary", "self_key"), list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("length", [0, 9])
def test_events_and_candidates_alone_come_out_as_the_network_gives_them(
    gate: bool, rotary: bool, self_key: bool, length: int
) -> None:
    config = TransformerConfig(
        width=12, heads=2, layers=2, multiplier=2, gate=gate, rotary=rotary, self_key=self_key, dropout=0.0
    )
    network = drawn(config)
    token = np.random.default_rng(1).normal(size=(length + 3, 12))
    with torch.no_grad():
        event, candidate = torch.from_numpy(token[None, :length]), torch.from_numpy(token[None, length:])
        found = network(event, torch.tensor([length]), candidate)
    sees = np.tril(np.ones((length + 3, length + 3), bool))
    sees[length:, length:] = np.eye(3, dtype=bool) & self_key
    weights = {f"stack.{name}": weight.numpy() for name, weight in network.state_dict().items()}
    blocks = Blocks(weights, "stack", heads=2, rotary=rotary)
    said = blocks(token, sees, np.minimum(np.arange(length + 3), length))
    np.testing.assert_allclose(said[:length], found.history[0].numpy(), atol=1e-12)
    np.testing.assert_allclose(said[length:], found.candidates[0].numpy(), atol=1e-12)


def test_no_tokens_are_no_trouble() -> None:
    network = drawn(TransformerConfig(width=12, heads=2, layers=1, multiplier=2))
    weights = {f"stack.{name}": weight.numpy() for name, weight in network.state_dict().items()}
    nothing = np.zeros((0, 12))
    assert Blocks(weights, "stack", heads=2, rotary=True)(nothing, np.zeros((0, 0), bool), np.arange(0)).shape == (
        0,
        12,
    )


def test_the_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]
