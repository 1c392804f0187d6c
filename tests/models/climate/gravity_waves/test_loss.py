"""The loss: areas count, units do not."""

import numpy as np
import pytest
import torch

from models.climate.geometry import gaussian_grid
from models.climate.gravity_waves.loss import flux_loss, mean_square
from models.climate.gravity_waves.networks import FluxNetwork, NetworkConfig

GRID = gaussian_grid(6, 10)
AREA = torch.from_numpy(np.asarray(GRID.area_weights))


def errors() -> torch.Tensor:
    return torch.randn(3, 4, *GRID.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_is_the_mean_over_the_sphere() -> None:
    # by hand: 2 x 3 cells, of which a row has twice the area of the other
    error = torch.tensor([[[[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]]]])
    area = torch.tensor([[2.0], [1.0]])
    assert float(mean_square(error, area)) == pytest.approx((2 * (1 + 4 + 9) + (0 + 1 + 1)) / 9)
    expected = np.mean([GRID.mean(field) for field in errors().square().numpy().reshape(-1, *GRID.shape)])
    assert float(mean_square(errors(), AREA)) == pytest.approx(float(expected), rel=1e-12)


def test_the_unit_of_area_does_not_matter() -> None:
    assert float(mean_square(errors(), 5e14 * AREA)) == pytest.approx(float(mean_square(errors(), AREA)), rel=1e-12)
    assert float(mean_square(errors(), AREA[:, :1])) == pytest.approx(float(mean_square(errors(), AREA)), rel=1e-12)


def test_an_error_at_the_equator_counts_more_than_one_at_a_pole() -> None:
    pole, equator = torch.zeros(2, 1, 1, *GRID.shape, dtype=torch.float64)
    pole[..., 0, 3], equator[..., 3, 3] = 1.0, 1.0
    ratio = float(mean_square(equator, AREA) / mean_square(pole, AREA))
    assert ratio == pytest.approx(float(AREA[3, 3] / AREA[0, 3]))
    assert ratio > 2


def test_splitting_a_batch_evenly_keeps_the_mean() -> None:
    whole = torch.cat((errors(), 2 * errors()))
    halves = [float(mean_square(half, AREA)) for half in whole.chunk(2)]
    assert float(mean_square(whole, AREA)) == pytest.approx(np.mean(halves), rel=1e-12)


def test_the_mean_flux_scores_the_variance_and_the_truth_scores_nothing() -> None:
    network = FluxNetwork(2, NetworkConfig(kind="column", hidden=4))
    fluxes = 3e-4 + 2e-4 * errors()
    network.double()
    network.flux_mean.fill_(3e-4)
    network.flux_deviation.fill_(2e-4)
    for weight in network.parameters():
        torch.nn.init.zeros_(weight)
    features = torch.zeros(3, 11, *GRID.shape, dtype=torch.float64)
    expected = float(mean_square(errors(), AREA))
    # means are kept in float32
    assert flux_loss(network, features, fluxes, AREA).item() == pytest.approx(expected, rel=1e-6)
    assert flux_loss(network, features, network.fluxes(features), AREA).item() == pytest.approx(0, abs=1e-20)


def test_the_gradient_is_that_of_the_mean() -> None:
    error = errors().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: mean_square(given, AREA), (error,))


def test_areas_of_another_lattice_are_refused() -> None:
    with pytest.raises(ValueError, match=r"area has shape \(5, 10\), errors are on 6 latitudes and 10 longitudes"):
        mean_square(errors(), AREA[:5])
    with pytest.raises(ValueError, match=r"area has shape \(6,\)"):
        mean_square(errors(), AREA[:, 0])
