"""Networks of fluxes: what they see, what rolls with them, what they refuse."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.climate.gravity_waves.networks import FluxNetwork, Kind, NetworkConfig, Padding, published, surround

LEVELS, ROWS, COLUMNS = 3, 16, 32
FEATURES = 3 + 4 * LEVELS
WINDS = slice(3, 3 + 2 * LEVELS)

UNET = NetworkConfig(kind="unet", width=6, depth=2)
STENCIL = NetworkConfig(kind="stencil", hidden=11, layers=2)
ALL = {
    "column": NetworkConfig(kind="column", hidden=11, layers=2),
    "stencil 3x3": STENCIL,
    "stencil 5x5": replace(STENCIL, stencil="5x5"),
    "unet": UNET,
    "unet without gates": replace(UNET, gates=False),
    "unet with stem": replace(UNET, stem=13),
    "deep unet": replace(UNET, depth=4, width=3),
}
"""Small ones of every sort."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Statistics as of an atmosphere."""

    feature_mean: NDArray[np.float64]
    feature_deviation: NDArray[np.float64]
    flux_mean: NDArray[np.float64]
    flux_deviation: NDArray[np.float64]


def measured() -> Measured:
    random = np.random.default_rng(5)
    scale = np.array([0, 180, 300, *[9] * LEVELS, *[1] * LEVELS, *[400] * LEVELS, *[0] * LEVELS])
    spread = np.array([50, 104, 800, *[17] * LEVELS, *[11] * LEVELS, *[25] * LEVELS, *[0.1] * LEVELS])
    return Measured(
        feature_mean=scale * random.uniform(0.8, 1.2, FEATURES),
        feature_deviation=spread * random.uniform(0.8, 1.2, FEATURES),
        flux_mean=random.normal(0, 1e-4, 2 * LEVELS),
        flux_deviation=random.uniform(1e-4, 1e-3, 2 * LEVELS),
    )


def hours(count: int = 2, *, seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    """Features (N, F, I, J) in physical units, of no latitude or longitude in particular."""
    known = measured()
    noise = np.random.default_rng(seed).normal(size=(count, FEATURES, rows, columns))
    physical = known.feature_mean[:, None, None] + known.feature_deviation[:, None, None] * noise
    return torch.from_numpy(physical.astype(np.float32))


def lively(config: NetworkConfig, *, seed: int = 0) -> FluxNetwork:
    """A network as after some training: its batch norms know their channels, and it says numbers of the size of one."""
    torch.manual_seed(seed)
    network = FluxNetwork(LEVELS, config)
    network.begin(measured())
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(hours(4, seed=9))
    for norm in norms:
        norm.momentum = 0.1
        torch.nn.init.uniform_(norm.weight, 0.8, 1.2)
        torch.nn.init.uniform_(norm.bias, -0.2, 0.2)
    return network.eval()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).detach().abs().max())


def rolled(network: FluxNetwork, features: torch.Tensor, by: int) -> float:
    """Largest change when features are rolled before, and fluxes are rolled after."""
    with torch.no_grad():
        return difference(network(features.roll(by, -1)), network(features).roll(by, -1))


@pytest.mark.parametrize("padding", ["circular", "sphere"])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_roll_by_the_multiple_rolls_the_fluxes(
    name: str, padding: Padding, dtype: torch.dtype, tolerance: float
) -> None:
    network = lively(replace(ALL[name], padding=padding)).to(dtype)
    features = hours().to(dtype)
    assert float(network(features).detach().std()) > 0.02
    for times in (1, 3) if network.config.multiple < COLUMNS // 2 else (1,):
        assert rolled(network, features, times * network.config.multiple) <= tolerance


@pytest.mark.parametrize("name", ALL)
def test_half_precision_rolls_too(name: str) -> None:
    network = lively(replace(ALL[name], precision="bfloat16"))
    assert rolled(network, hours(), network.config.multiple) <= 1e-5


@pytest.mark.parametrize("name", ["stencil 3x3", "stencil 5x5", "unet", "deep unet"])
def test_zeros_at_the_date_line_are_seen_when_rolled(name: str, record_property: Any) -> None:
    around = lively(replace(ALL[name], padding="circular"))
    zeros = FluxNetwork(LEVELS, replace(ALL[name], padding="zeros")).eval()
    zeros.load_state_dict(around.state_dict())
    errors = {network.config.padding: rolled(network, hours(), network.config.multiple) for network in (around, zeros)}
    record_property("error by padding", errors)
    assert errors["circular"] <= 1e-5
    assert errors["zeros"] > 1e-2


def test_other_rolls_are_not_those_of_a_network_that_pools(record_property: Any) -> None:
    network = lively(replace(UNET, depth=2))
    errors = {by: rolled(network, hours(), by) for by in range(1, 9)}
    record_property("error by roll", errors)
    assert [by for by, error in errors.items() if error <= 1e-5] == [4, 8]
    assert min(error for by, error in errors.items() if by % 4) > 1e-2


def test_a_network_that_is_told_the_longitude_cannot_be_rolled() -> None:
    network = lively(replace(UNET, longitude=True))
    features = hours()
    moved = features.roll(4, -1)
    moved[:, 1] = features[:, 1]  # the winds go around, the lattice stays
    assert difference(network(moved), network(features).roll(4, -1)) > 1e-2


def seen(
    network: FluxNetwork, row: int, column: int, *, rows: int = ROWS, columns: int = COLUMNS
) -> set[tuple[int, int]]:
    """The cells whose fluxes change with the features of one."""
    features = hours(1, rows=rows, columns=columns)
    changed = features.clone()
    changed[0, :, row, column] += 5 * torch.from_numpy(measured().feature_deviation).float()
    with torch.no_grad():
        moved = (network(changed) != network(features)).any(1)[0]
    return {(int(one), int(other)) for one, other in moved.nonzero()}


def test_a_column_sees_itself_alone() -> None:
    network = lively(ALL["column"])
    for row, column in ((0, 0), (7, 31), (15, 3)):
        assert seen(network, row, column) == {(row, column)}


@pytest.mark.parametrize(("name", "reach"), [("stencil 3x3", 1), ("stencil 5x5", 2)])
@pytest.mark.parametrize("padding", ["zeros", "circular", "sphere"])
def test_a_stencil_sees_its_cells_alone(name: str, reach: int, padding: Padding) -> None:
    network = lively(replace(ALL[name], padding=padding))
    for row, column in ((8, 13), (8, 31), (0, 5), (15, 0)):
        around = set()
        for down in range(-reach, reach + 1):
            for across in range(-reach, reach + 1):
                one, other = row + down, column + across
                if padding != "zeros":
                    other %= COLUMNS
                if padding == "sphere" and not 0 <= one < ROWS:
                    one, other = (-1 - one) if one < 0 else 2 * ROWS - 1 - one, (other + COLUMNS // 2) % COLUMNS
                if 0 <= one < ROWS and 0 <= other < COLUMNS:
                    around.add((one, other))
        assert seen(network, row, column) == around


def test_a_unet_sees_far() -> None:
    counts = []
    for depth in (1, 2, 3):
        cells = seen(lively(replace(UNET, depth=depth, width=2)), 24, 48, rows=48, columns=96)
        counts.append(len(cells))
    assert 11 * 11 < counts[0] < counts[1] < counts[2]


def test_a_unet_with_a_stem_has_a_column_network_in_it() -> None:
    network = lively(ALL["unet with stem"])
    assert len(seen(network, 8, 13)) > 100
    (together,) = network.body.get_submodule("together").children()
    assert isinstance(together, torch.nn.Conv2d)
    with torch.no_grad():
        together.weight[:, : network.config.width] = 0
    assert seen(network, 8, 13) == {(8, 13)}


@pytest.mark.parametrize("padding", ["zeros", "circular", "sphere"])
@pytest.mark.parametrize("cells", [1, 2])
def test_what_surrounds_a_field_is_where_the_padding_says(padding: Padding, cells: int) -> None:
    field = torch.arange(2 * 3 * 4 * 6, dtype=torch.float64).reshape(2, 3, 4, 6)
    outer = surround(field, cells, padding)
    for row in range(-cells, 4 + cells):
        for column in range(-cells, 6 + cells):
            if padding == "zeros":
                inside = 0 <= row < 4 and 0 <= column < 6
                wanted = field[..., row, column] if inside else torch.zeros(2, 3)
            elif 0 <= row < 4:
                wanted = field[..., row, column % 6]
            elif padding == "circular":
                wanted = torch.zeros(2, 3)
            else:
                wanted = field[..., -1 - row if row < 0 else 7 - row, (column + 3) % 6]
            assert torch.equal(outer[..., row + cells, column + cells], wanted.double())


@given(
    rows=st.integers(2, 7),
    half=st.integers(1, 6),
    by=st.integers(-9, 9),
    cells=st.integers(1, 2),
    padding=st.sampled_from(["circular", "sphere"]),
)
def test_what_surrounds_a_field_rolls_with_it(rows: int, half: int, by: int, cells: int, padding: Padding) -> None:
    field = torch.arange(rows * 2 * half, dtype=torch.float64).reshape(1, 1, rows, 2 * half)
    moved, still = surround(field.roll(by, -1), cells, padding), surround(field, cells, padding)
    assert torch.equal(moved[..., cells:-cells], still[..., cells:-cells].roll(by, -1))
    assert torch.equal(moved[..., cells:-cells, cells:-cells], field.roll(by, -1))


@pytest.mark.parametrize("padding", ["circular", "sphere"])
@pytest.mark.parametrize("cells", [1, 2])
def test_gradients_come_back_from_the_surroundings(padding: Padding, cells: int) -> None:
    field = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda inner: surround(inner, cells, padding), (field,))


@pytest.mark.parametrize("stencil", ["3x3", "5x5"])
def test_a_wind_straight_over_a_pole_is_seen_as_one(stencil: Any) -> None:
    # near a pole a wind of one direction has components that turn once around it: each row says the same of it
    network = lively(replace(STENCIL, stencil=stencil)).double()
    longitude = 2 * np.pi * np.arange(COLUMNS) / COLUMNS
    features = hours(1)[:, :, :1, :1].double().repeat(1, 1, ROWS, COLUMNS)
    features[:, 3 : 3 + LEVELS] = torch.from_numpy(-20 * np.sin(longitude))
    features[:, 3 + LEVELS : 3 + 2 * LEVELS] = torch.from_numpy(20 * np.cos(longitude))
    fluxes = network(features).detach()
    assert float(fluxes.std(-1).max()) > 1e-3
    torch.testing.assert_close(fluxes, fluxes[:, :, 8:9].expand_as(fluxes), rtol=0, atol=1e-12)
    still = FluxNetwork(LEVELS, replace(network.config, padding="circular")).double().eval()
    still.load_state_dict(network.state_dict())
    assert difference(still(features)[:, :, 0], fluxes[:, :, 0]) > 1e-3


@pytest.mark.parametrize("stencil", ["3x3", "5x5"])
@pytest.mark.parametrize("padding", ["zeros", "circular", "sphere"])
def test_a_lattice_at_once_says_what_each_given_stencil_says(stencil: Any, padding: Padding) -> None:
    network = lively(replace(STENCIL, stencil=stencil, padding=padding)).double()
    features = hours(1).double()
    told, reach, size = network.config.channels(LEVELS), network.reach, 2 * network.reach + 1
    mean, deviation = measured().feature_mean[told], measured().feature_deviation[told]
    given = np.zeros((ROWS, COLUMNS, len(told), size, size))
    physical = features[0, told].numpy()
    for row in range(ROWS):
        for column in range(COLUMNS):
            for down in range(-reach, reach + 1):
                for across in range(-reach, reach + 1):
                    one, other, sign = row + down, column + across, 1
                    if padding == "sphere" and not 0 <= one < ROWS:
                        one, other, sign = (-1 - one if one < 0 else 2 * ROWS - 1 - one), other + COLUMNS // 2, -1
                    if not 0 <= one < ROWS or (padding == "zeros" and not 0 <= other < COLUMNS):
                        continue
                    cell = physical[:, one, other % COLUMNS].copy()
                    cell[[place for place, channel in enumerate(told) if 3 <= channel < 3 + 2 * LEVELS]] *= sign
                    # buffers are float32, and so are the means that the network takes off
                    cell = (cell - mean.astype(np.float32)) / deviation.astype(np.float32)
                    given[row, column, :, down + reach, across + reach] = cell
    with torch.no_grad():
        each = network.body(torch.from_numpy(given).flatten(0, 1))[:, :, 0, 0]
        at_once = network(features)[0].permute(1, 2, 0).flatten(0, 1)
    torch.testing.assert_close(each, at_once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_weight(name: str) -> None:
    network = lively(ALL[name]).train()
    network(hours()).square().mean().backward()
    idle = _before_norms(network)
    for label, weight in network.named_parameters():
        assert weight.grad is not None, label
        assert torch.isfinite(weight.grad).all(), label
        largest = float(weight.grad.abs().max())
        # a batch norm takes off again what a bias before it adds
        assert largest < 1e-6 if label in idle else largest > 1e-9, label


def _before_norms(network: FluxNetwork) -> set[str]:
    found = set()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Sequential):
            pieces = list(module.named_children())
            for (first, one), (_, other) in pairwise(pieces):
                if isinstance(one, torch.nn.Conv2d) and isinstance(other, torch.nn.BatchNorm2d):
                    found.add(f"{name}.{first}.bias")
    return found


@pytest.mark.parametrize("name", ALL)
def test_half_precision_stays_near_and_keeps_weights_whole(name: str) -> None:
    whole = lively(ALL[name])
    half = FluxNetwork(LEVELS, replace(ALL[name], precision="bfloat16")).eval()
    half.load_state_dict(whole.state_dict())
    features = hours()
    one, other = whole(features), half(features)
    assert other.dtype == torch.float32
    error = float((one - other).detach().square().mean().sqrt() / one.detach().square().mean().sqrt())
    # bfloat16 keeps 8 bits; norms of few cells, lowest in a U-Net of weights at random, make much of what it drops
    assert 1e-4 < error < {"column": 0.01, "stencil 3x3": 0.01, "stencil 5x5": 0.01, "deep unet": 0.5}.get(name, 0.1)
    half.train()(features).square().mean().backward()
    for label, weight in half.named_parameters():
        assert weight.dtype == torch.float32
        assert weight.grad is not None, label
        assert weight.grad.dtype == torch.float32
        assert torch.isfinite(weight.grad).all(), label


@pytest.mark.parametrize("name", ALL)
def test_channels_may_come_last(name: str) -> None:
    network = lively(ALL[name])
    features = hours()
    last = features.to(memory_format=torch.channels_last)
    assert difference(network(last), network(features)) < 1e-5
    network.train()(last).square().mean().backward()
    gradients = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]
    again = lively(ALL[name]).train()
    again(features).square().mean().backward()
    for (label, weight), gradient in zip(again.named_parameters(), gradients, strict=True):
        assert weight.grad is not None
        assert difference(weight.grad, gradient) < 1e-4 * max(1.0, float(gradient.abs().max())), label


@pytest.mark.parametrize("name", ALL)
def test_one_hour_is_enough_for_a_step(name: str) -> None:
    network = lively(ALL[name]).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fluxes = network(hours(1))
    fluxes.square().mean().backward()
    torch.optim.AdamW(network.parameters(), lr=1e-3).step()
    assert torch.isfinite(fluxes).all()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert {key for key in before if "running" in key or "weight" in key} <= changed
    assert not {key for key in changed if key.startswith(("feature", "flux"))}


@pytest.mark.parametrize("name", ALL)
def test_weights_and_statistics_come_back_from_a_file(name: str, tmp_path: Path) -> None:
    network = lively(ALL[name])
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    again = FluxNetwork(LEVELS, ALL[name]).eval()
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    features = hours()
    assert torch.equal(again.fluxes(features), network.fluxes(features))
    assert torch.equal(again.feature_mean, torch.from_numpy(measured().feature_mean).float())


def test_fluxes_are_standardised_ones_in_pascals() -> None:
    network, known = lively(UNET), measured()
    fluxes = network.fluxes(hours()).detach()
    mean, deviation = known.flux_mean[:, None, None], known.flux_deviation[:, None, None]
    expected = mean + deviation * network(hours()).detach().double().numpy()
    np.testing.assert_allclose(fluxes.numpy(), expected, rtol=1e-5, atol=1e-9)
    assert difference(network.standardised(fluxes), network(hours())) < 1e-5


def test_what_is_constant_is_left_at_zero() -> None:
    known = measured()
    deviation = known.feature_deviation.copy()
    deviation[0] = 0
    network = FluxNetwork(LEVELS, ALL["column"]).eval()
    network.begin(replace(known, feature_deviation=deviation))
    features = hours()
    features[:, 0] = float(known.feature_mean[0])
    assert torch.isfinite(network(features)).all()


def test_what_crosses_is_taken_before_dropout() -> None:
    network = lively(replace(UNET, dropout=0.1))
    features = hours()
    assert torch.equal(network(features), network(features))
    assert isinstance(network.body, torch.nn.Module)
    network.body.dropout = _Nothing()
    with torch.no_grad():
        assert float(network(features).std(-1).mean()) > 1e-2


class _Nothing(torch.nn.Module):
    def forward(self, field: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(field)


@pytest.mark.parametrize("kind", ["column", "stencil"])
def test_half_the_share_is_dropped_first(kind: Kind) -> None:
    network = FluxNetwork(LEVELS, replace(published(kind), hidden=8))
    shares = [module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    assert shares == [0.05] * (1 if kind == "column" else 2) + [0.1] * 5


def test_channels_are_those_that_are_told_in_the_published_order() -> None:
    assert published("column").channels(122) == list(range(369))
    assert published("unet").channels(122) == list(range(3, 369))
    assert NetworkConfig().channels(2) == [0, 2, 3, 4, 5, 6, 7, 8]
    assert NetworkConfig(latitude=False, ground=False, theta=False, omega=True).channels(2) == [3, 4, 5, 6, 9, 10]


def test_features_that_are_not_told_do_not_count() -> None:
    network = lively(UNET)
    features, changed = hours(), hours()
    changed[:, 1] += 40
    changed[:, 3 + 3 * LEVELS :] -= 1
    assert torch.equal(network(features), network(changed))


def test_a_fresh_network_takes_features_as_they_are() -> None:
    torch.manual_seed(0)
    network = FluxNetwork(LEVELS, NetworkConfig(kind="column", hidden=5)).eval()
    features = torch.randn(1, FEATURES, 2, 3)
    told = network.config.channels(LEVELS)
    assert torch.equal(network(features), network.body(features[:, told]))


@pytest.mark.parametrize(
    ("config", "shape", "words"),
    [
        (UNET, (2, FEATURES + 4, 16, 32), "3 levels wants .hours, 15"),
        (UNET, (FEATURES, 16, 32), "features have shape"),
        (UNET, (1, FEATURES, 15, 32), "15 latitudes and 32 longitudes, this unet wants multiples of 4 and 8"),
        (UNET, (1, FEATURES, 16, 36), "36 longitudes, this unet wants multiples of 4 and 8; lower NetworkConfig.depth"),
        (STENCIL, (1, FEATURES, 16, 31), "31 longitudes, this stencil wants multiples of 1 and 2"),
        (replace(STENCIL, stencil="5x5"), (1, FEATURES, 1, 32), "1 latitudes"),
    ],
)
def test_features_that_do_not_fit_are_refused_by_name(config: NetworkConfig, shape: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FluxNetwork(LEVELS, config)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"feature_mean": np.zeros(4)}, r"feature_mean has shape \(4,\), a network of 3 levels wants \(15,\)"),
        ({"flux_mean": np.array([0, 0, np.nan, 0, 0, 0])}, r"flux_mean is not finite at \[2\]"),
        ({"flux_deviation": -np.ones(6)}, r"flux_deviation is below 0, at \[0, 1, 2\]"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_by_name(change: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FluxNetwork(LEVELS, UNET).begin(replace(measured(), **change))


def test_settings_are_held_to_their_limits() -> None:
    with pytest.raises(ValueError, match=r"NetworkConfig\.depth must be at most 8, got 9"):
        NetworkConfig(depth=9)
    with pytest.raises(ValueError, match=r"NetworkConfig\.dropout must be below 1, got 1"):
        NetworkConfig(dropout=1.0)
