"""The networks written out in float64 say what the networks say."""

from typing import Any

import numpy as np
import pytest
import torch

from models.climate.gravity_waves.judge import shape_of
from models.climate.gravity_waves.networks import FluxNetwork, NetworkConfig
from models.climate.gravity_waves.reference import Reference, Shape

LEVELS = 3


def network_of(seed: int = 0, **settings: Any) -> FluxNetwork:
    """A network with weights, statistics and norms of chance, in evaluation mode."""
    torch.manual_seed(seed)
    network = FluxNetwork(LEVELS, NetworkConfig(**settings))
    for name, value in network.state_dict().items():
        if value.dtype != torch.float32:
            continue
        if name.endswith(("running_var", "deviation")):
            value.copy_(0.5 + torch.rand_like(value))
        elif name.endswith(("running_mean", "mean", "bias")):
            value.copy_(0.3 * torch.randn_like(value))
    return network.eval()


@pytest.mark.parametrize("padding", ["zeros", "circular", "sphere"])
@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "column", "hidden": 20, "longitude": True, "omega": True, "dropout": 0.3},
        {"kind": "stencil", "stencil": "3x3", "hidden": 20, "layers": 2},
        {"kind": "stencil", "stencil": "5x5", "hidden": 20, "layers": 1, "theta": False},
        {"kind": "unet", "width": 4, "depth": 2, "dropout": 0.3},
        {"kind": "unet", "width": 4, "depth": 1, "gates": False, "latitude": False, "ground": False},
        {"kind": "unet", "width": 4, "depth": 2, "stem": 6},
    ],
    ids=lambda one: "-".join(map(str, one.values())),
)
def test_a_network_written_out_says_the_same(settings: dict[str, Any], padding: str) -> None:
    network = network_of(padding=padding, **settings)
    features = np.random.default_rng(1).standard_normal((2, 3 + 4 * LEVELS, 8, 16)).astype(np.float32)
    with torch.no_grad():
        told = network.double().fluxes(torch.from_numpy(features).double()).numpy()
    reference = Reference(network.state_dict(), shape_of(network))
    for hour, said in zip(features, told, strict=True):
        np.testing.assert_allclose(reference(hour), said, rtol=1e-10, atol=1e-10)


def test_another_padding_is_another_network() -> None:
    network = network_of(kind="unet", width=4, depth=2, padding="circular")
    features = np.random.default_rng(1).standard_normal((3 + 4 * LEVELS, 8, 16)).astype(np.float32)
    shape = shape_of(network)
    told = Reference(network.state_dict(), shape)(features)
    for padding in ("zeros", "sphere"):
        other = Reference(network.state_dict(), Shape(**(vars(shape) | {"padding": padding})))(features)
        assert np.abs(other - told).max() > 1e-3
