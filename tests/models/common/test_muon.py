"""Muon for matrices and AdamW for the rest, in one optimizer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.common.muon import MuonAndAdamW, matrices_of

SETTINGS = {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1}


class Mixed(nn.Module):
    """A table, two matrices, one of them a convolution's, a norm, and a layer of one output."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(5, 6)
        self.around = nn.Conv1d(6, 4, 3, padding=1)
        self.norm = nn.LayerNorm(4)
        self.wide = nn.Linear(4, 7)
        self.last = nn.Linear(7, 1)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=draw))

    def forward(self, ids: Tensor) -> Tensor:
        field = self.around(self.table(ids).transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.last(torch.tanh(self.wide(self.norm(field))))
        return out


def _loss(network: nn.Module, step: int) -> Tensor:
    ids = torch.randint(5, (3, 8), generator=torch.Generator().manual_seed(step))
    out: Tensor = (network(ids)[..., 0] - ids.float().cumsum(1) / 4).square().mean()
    return out


def _learn(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        _loss(network, step).backward()
        optimizer.step()


def test_matrices_are_weights_of_layers_with_two_outputs_or_more() -> None:
    network = Mixed()
    assert {id(weight) for weight in matrices_of(network)} == {id(network.around.weight), id(network.wide.weight)}
    network.wide.weight.requires_grad_(False)
    assert matrices_of(network) == [network.around.weight]


def test_a_layer_that_is_there_twice_learns_once() -> None:
    layer = nn.Linear(3, 3)
    assert len(matrices_of(nn.Sequential(layer, nn.Tanh(), layer))) == 1


def test_weights_are_those_of_muon_and_adamw_side_by_side() -> None:
    network = Mixed()
    apart = copy.deepcopy(network)
    _learn(network, MuonAndAdamW(network, **SETTINGS), range(5))

    matrices = [apart.around.weight, apart.wide.weight]
    others = [weight for weight in apart.parameters() if all(weight is not one for one in matrices)]
    adamw = torch.optim.AdamW(others, **SETTINGS)
    flat = [nn.Parameter(weight.detach().reshape(len(weight), -1)) for weight in matrices]
    muon = torch.optim.Muon(flat, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        apart.zero_grad()
        _loss(apart, step).backward()
        for weight, matrix in zip(matrices, flat, strict=True):
            matrix.grad = weight.grad.reshape(matrix.shape)
        adamw.step()
        muon.step()
        with torch.no_grad():
            for weight, matrix in zip(matrices, flat, strict=True):
                weight.copy_(matrix.view(weight.shape))
    for (name, found), right in zip(network.named_parameters(), apart.parameters(), strict=True):
        assert torch.equal(found, right), name


def test_a_step_of_a_matrix_is_as_long_as_one_of_adamw() -> None:
    network = nn.Linear(64, 32, bias=False)
    before = network.weight.detach().clone()
    _learn_plain(network, MuonAndAdamW(network, lr=0.01, betas=(0.9, 0.999), weight_decay=0.0))
    assert float((network.weight.detach() - before).square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)


def _learn_plain(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    draw = torch.Generator().manual_seed(1)
    network(torch.randn(128, 64, generator=draw)).square().mean().backward()
    optimizer.step()


def test_one_that_was_saved_and_loaded_goes_on_with_the_same_bits() -> None:
    whole = Mixed()
    _learn(whole, MuonAndAdamW(whole, **SETTINGS), range(6))

    first = Mixed()
    optimizer = MuonAndAdamW(first, **SETTINGS)
    _learn(first, optimizer, range(3))
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(first.state_dict())
    second = Mixed()
    second.load_state_dict(weights)
    again = MuonAndAdamW(second, **SETTINGS)
    again.load_state_dict(state)
    _learn(second, again, range(3, 6))
    for (name, found), right in zip(second.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, right), name


def test_a_weight_without_a_gradient_stays_and_a_closure_gives_the_loss() -> None:
    network = Mixed()
    optimizer = MuonAndAdamW(network, **SETTINGS)
    before = network.wide.weight.detach().clone()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(network, 0)
        loss.backward()
        network.wide.weight.grad = None
        return loss

    assert optimizer.step(closure).item() > 0
    assert torch.equal(network.wide.weight, before)
    assert network.wide.weight not in optimizer.state


def test_a_schedule_changes_the_rate_of_both() -> None:
    network = Mixed()
    optimizer = MuonAndAdamW(network, **SETTINGS)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [weight.detach().clone() for weight in network.parameters()]
    _learn(network, optimizer, range(2))
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), before, strict=True))


def test_a_network_without_matrices_learns_by_adamw_alone() -> None:
    network = nn.Linear(3, 1)
    other = copy.deepcopy(network)
    for one, optimizer in (
        (network, MuonAndAdamW(network, **SETTINGS)),
        (other, torch.optim.AdamW(other.parameters(), **SETTINGS)),
    ):
        one(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
    assert torch.equal(network.weight, other.weight)
