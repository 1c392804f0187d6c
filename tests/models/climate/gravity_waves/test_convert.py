"""Checkpoints in the published layout: what they say, what is counted, what is refused."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.climate.gravity_waves import convert
from models.climate.gravity_waves.networks import FluxNetwork, NetworkConfig, published

LEVELS = 2
OUTPUTS = 2 * LEVELS
Weights = dict[str, Tensor]


def empty(levels: int, config: NetworkConfig) -> FluxNetwork:
    with torch.device("meta"):
        return FluxNetwork(levels, config)


@pytest.mark.parametrize(
    ("config", "levels", "millions", "megabytes"),
    [
        # "Num params" and "model size" of the logs: ann_cnns_3x3_global_global_uvtheta_epoch_1_to_100.txt and 5x5 in
        # ann_cnn_training, attnunet_global_{global,stratosphere_only}_uvtheta_epoch_1_to_100.txt in attention_unet
        (published("stencil"), 122, "11.351", "43.37"),
        (published("stencil", stencil="5x5"), 122, "12.577", "48.05"),
        (published("unet"), 122, "37.893", "144.61"),
        (published("unet"), 60, "37.777", "144.17"),
        # of logs whose size is not at hand
        (published("column"), 122, "10.125", ""),
        (published("column"), 60, "2.495", ""),
        (published("stencil"), 60, "2.797", ""),
    ],
)
def test_parameters_are_those_of_the_published_logs(
    config: NetworkConfig, levels: int, millions: str, megabytes: str
) -> None:
    network = empty(levels, config)
    assert f"{convert.published_parameters(network) / 1e6:.3f}" == millions
    if megabytes:
        assert f"{convert.published_megabytes(network):.2f}" == megabytes


def test_only_norms_that_are_never_called_are_left_out() -> None:
    assert sum(weight.numel() for weight in empty(122, published("unet")).parameters()) == 37_892_576
    column = empty(122, published("column"))
    # by hand: 369 and 1476 wide, then 488 and 244
    matrices = 369 * 1476 + 4 * 1476 * 1476 + 1476 * 488 + 488 * 244
    biases = 5 * 1476 + 488 + 244
    assert sum(weight.numel() for weight in column.parameters()) == matrices + biases
    # of 1476 channels each, but the fourth of twice, and the last of 488
    assert convert.published_parameters(column) - matrices - biases == 2 * (6 * 1476 + 488)


def drawn_columns(inputs: int, hidden: int, *, convolutions: int) -> Weights:
    """Weights at random, by the published names and shapes."""
    random = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(convolutions):
        shapes[f"conv{number + 1}"] = (inputs, inputs, 3, 3)
    widths = [inputs, hidden, hidden, hidden, hidden, hidden, 2 * OUTPUTS]
    for number in range(6):
        shapes[f"layer{number + 1}"] = (widths[number + 1], widths[number])
    shapes["output"] = (OUTPUTS, 2 * OUTPUTS)
    weights = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape[1:]))
        weights[f"{name}.weight"] = torch.randn(shape, generator=random) * (2 / size) ** 0.5
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=random) / 3
    return weights | _norm("bnorm5", hidden, random) | _norm("bnorm6", 2 * OUTPUTS, random)


def _norm(name: str, channels: int, random: torch.Generator) -> Weights:
    return {
        f"{name}.weight": 0.8 + 0.4 * torch.rand(channels, generator=random),
        f"{name}.bias": torch.randn(channels, generator=random) / 5,
        f"{name}.running_mean": torch.randn(channels, generator=random) / 5,
        f"{name}.running_var": 0.5 + torch.rand(channels, generator=random),
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def drawn_unet(inputs: int, width: int) -> Weights:
    random = torch.Generator().manual_seed(2)
    weights: Weights = {}

    def convolution(name: str, before: int, after: int, cells: int = 3) -> None:
        scale = (2 / (before * cells**2)) ** 0.5
        weights[f"{name}.weight"] = scale * torch.randn(after, before, cells, cells, generator=random)
        weights[f"{name}.bias"] = torch.randn(after, generator=random) / 5

    def normed(name: str, place: int, before: int, after: int) -> None:
        convolution(f"{name}.{place}", before, after)
        weights.update(_norm(f"{name}.{place + 1}", after, random))

    before = inputs
    for number in range(1, 6):
        after = width * 2 ** (number - 1)
        normed(f"conv{number}.conv", 0, before, after)
        normed(f"conv{number}.conv", 3, after, after)
        before = after
    for number in (5, 4, 3, 2):
        after = width * 2 ** (number - 2)
        normed(f"up{number}.up", 1, 2 * after, after)
        normed(f"attn{number}.Wx", 0, after, after // 2)
        normed(f"attn{number}.Wg", 0, after, after // 2)
        normed(f"attn{number}.Psi", 0, after // 2, 1)
        normed(f"upconv{number}.conv", 0, 2 * after, after)
        normed(f"upconv{number}.conv", 3, after, after)
    convolution("conv1x1", width, OUTPUTS, 1)
    return weights


def columns_say(weights: Weights, stencils: Tensor) -> Tensor:
    """Fluxes (cells, O) of stencils (cells, C, s, s), as published: a list of columns through matrices."""
    value = stencils
    for name in ("conv1", "conv2"):
        if f"{name}.weight" in weights:
            value = functional.conv2d(value, weights[f"{name}.weight"], weights[f"{name}.bias"]).relu()
    value = value.squeeze(-1).squeeze(-1)
    for number in range(1, 7):
        value = functional.leaky_relu(value @ weights[f"layer{number}.weight"].T + weights[f"layer{number}.bias"])
    return value @ weights["output.weight"].T + weights["output.bias"]


def unet_says(weights: Weights, field: Tensor, *, training: bool) -> Tensor:
    """Fluxes (N, O, I, J) of fields (N, C, I, J), as published, with zeros beyond the edges."""

    def normed(name: str, place: int, value: Tensor) -> Tensor:
        here, after = f"{name}.{place}", f"{name}.{place + 1}"
        value = functional.conv2d(value, weights[f"{here}.weight"], weights[f"{here}.bias"], padding=1)
        return functional.batch_norm(
            value,
            weights[f"{after}.running_mean"].clone(),
            weights[f"{after}.running_var"].clone(),
            weights[f"{after}.weight"],
            weights[f"{after}.bias"],
            training=training,
        )

    def block(name: str, value: Tensor) -> Tensor:
        return normed(f"{name}.conv", 3, normed(f"{name}.conv", 0, value).relu()).relu()

    crossing = {}
    for number in range(1, 6):
        field = block(f"conv{number}", functional.max_pool2d(field, 2) if number > 1 else field)
        crossing[number] = field
    for number in (5, 4, 3, 2):
        risen = normed(f"up{number}.up", 1, field.repeat_interleave(2, -1).repeat_interleave(2, -2)).relu()
        skip = crossing[number - 1]
        both = normed(f"attn{number}.Wx", 0, skip) + normed(f"attn{number}.Wg", 0, risen)
        weight = normed(f"attn{number}.Psi", 0, both.relu()).sigmoid()
        field = block(f"upconv{number}", torch.cat((risen, skip * weight), 1))
    return functional.conv2d(field, weights["conv1x1.weight"], weights["conv1x1.bias"])


def written(path: Path, weights: Weights) -> Path:
    """A checkpoint as the authors' training writes it after an epoch."""
    some = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([some], lr=1e-4)
    some.grad = torch.ones(3)
    optimizer.step()
    torch.save(
        {
            "epoch": np.arange(3)[1],
            "model_state_dict": weights,
            "optimizer_state_dict": optimizer.state_dict(),
            "loss": torch.nn.MSELoss(),
            "loss_train": np.zeros(3),
            "loss_test": np.zeros(3),
            "activation": "LeakyRelu()",
            "scheduler": "CyclicLR",
        },
        path,
    )
    return path


COLUMN = replace(published("column"), hidden=12, dropout=0.0)
STENCIL = replace(published("stencil"), hidden=12, dropout=0.0)
WIDE = replace(STENCIL, stencil="5x5")
UNET = replace(published("unet"), width=4)
PUBLISHED: dict[str, tuple[NetworkConfig, Callable[[], Weights]]] = {
    "column": (COLUMN, lambda: drawn_columns(9, 12, convolutions=0)),
    "3x3": (STENCIL, lambda: drawn_columns(9, 12, convolutions=1)),
    "5x5": (WIDE, lambda: drawn_columns(9, 12, convolutions=2)),
    "unet": (UNET, lambda: drawn_unet(6, 4)),
}
"""Narrow networks with the published layers, and weights for them in the published layout."""


def converted(name: str, folder: Path) -> tuple[FluxNetwork, Weights]:
    config, drawn = PUBLISHED[name]
    weights = drawn()
    network = FluxNetwork(LEVELS, config).eval()
    convert.take(network, convert.read_checkpoint(written(folder / "published_train_epoch2.pt", weights)))
    return network, weights


def fields(hours: int = 2) -> Tensor:
    return torch.randn(hours, 3 + 4 * LEVELS, 16, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["column", "3x3", "5x5"])
def test_converted_columns_say_what_the_published_ones_say_of_each_stencil(name: str, tmp_path: Path) -> None:
    network, weights = converted(name, tmp_path)
    features = fields()
    told = features[:, network.config.channels(LEVELS)]
    reach = network.reach
    size = 2 * reach + 1
    stencils = functional.unfold(told, size, padding=reach)  # (N, C s s, I J)
    stencils = stencils.movedim(1, -1).reshape(-1, told.shape[1], size, size)
    expected = columns_say(weights, stencils).reshape(2, 16, 32, OUTPUTS).movedim(-1, 1)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(network(features), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_converted_unet_says_what_the_published_one_says(training: bool, tmp_path: Path) -> None:
    network, weights = converted("unet", tmp_path)
    features = fields(3).double()
    expected = unet_says({name: value.double() for name, value in weights.items()}, features[:, 3:9], training=training)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(network.train(training).double()(features), expected, rtol=0, atol=1e-10)


def test_a_converted_unet_learns_as_the_published_one(tmp_path: Path) -> None:
    network, weights = converted("unet", tmp_path)
    network.train().double()
    theirs = {
        name: value.double().requires_grad_("running" not in name and "tracked" not in name)
        for name, value in weights.items()
    }
    features = fields(3).double()
    network(features).square().mean().backward()
    loss = unet_says(theirs, features[:, 3:9], training=True).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    known = convert.names(UNET)
    for name, weight in network.body.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, theirs[known[name]].grad, rtol=1e-6, atol=1e-10, msg=name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_go_there_and_back(name: str, tmp_path: Path) -> None:
    network, weights = converted(name, tmp_path)
    back = convert.given(network)
    assert set(back) == set(weights)
    for key, value in weights.items():
        assert back[key].shape == value.shape, key
        assert key.startswith("bnorm") or torch.equal(back[key], value), key


def test_statistics_and_padding_are_not_those_of_the_checkpoint(tmp_path: Path) -> None:
    network = FluxNetwork(LEVELS, replace(UNET, padding="sphere", precision="bfloat16", dropout=0.2)).eval()
    network.flux_deviation.fill_(3.0)
    convert.take(network, drawn_unet(6, 4))
    assert float(network.flux_deviation[0]) == 3.0
    zeros, _ = converted("unet", tmp_path)
    assert float((network(fields()) - zeros(fields())).detach().abs().max()) > 1e-2


def test_idle_norms_of_older_code_are_passed_over() -> None:
    network = FluxNetwork(LEVELS, COLUMN)
    weights = drawn_columns(9, 12, convolutions=0)
    random = torch.Generator().manual_seed(4)
    for name, channels in (("bnorm1", 12), ("bnorm2", 12), ("bnorm3", 12), ("bnorm4", 24)):
        weights |= _norm(name, channels, random)
    convert.take(network, weights)


def _without(weights: Weights, name: str) -> Weights:
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "column",
            lambda w: _without(w, "layer3.bias"),
            r"lacks layer3\.bias, which a column of 2 levels and 9 inputs",
        ),
        ("unet", lambda w: _without(_without(w, "attn3.Psi.0.bias"), "up2.up.1.weight"), "and 1 more, which a unet"),
        ("column", lambda _: drawn_columns(9, 12, convolutions=1), r"has conv1\.bias and 1 more, which a column"),
        ("3x3", lambda _: drawn_columns(9, 12, convolutions=0), r"lacks conv1\.weight and 1 more, which a 3x3 stencil"),
        ("3x3", lambda _: drawn_columns(9, 12, convolutions=2), r"has conv2\.bias and 1 more, which a 3x3 stencil"),
        (
            "column",
            lambda _: drawn_columns(11, 12, convolutions=0),
            r"layer1\.weight .* shape \(12, 11\), .* \(12, 9\)",
        ),
        (
            "unet",
            lambda _: drawn_unet(9, 4),
            r"conv1\.conv\.0\.weight .* shape \(4, 9, 3, 3\), .* wants \(4, 6, 3, 3\)",
        ),
        ("unet", lambda _: drawn_unet(6, 8), r"wants \(4, 4, 1, 1\); take the levels and features"),
        ("unet", lambda w: w | {"conv6.weight": torch.ones(1)}, r"has conv6\.weight, which a unet of 2 levels"),
        ("unet", lambda w: w | {"conv1x1.bias": torch.full((4,), torch.nan)}, r"conv1x1\.bias .* is not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing(
    name: str, change: Callable[[Weights], Weights], words: str
) -> None:
    config, drawn = PUBLISHED[name]
    network = FluxNetwork(LEVELS, config)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        convert.take(network, change(drawn()))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class _Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)

    def __init__(self, path: str) -> None:
        self.path = path


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {}, "loss": _Harm(str(tmp_path / "harm"))}, tmp_path / "published.pt")
    with pytest.raises(ValueError, match=r"published\.pt is no checkpoint that can be read safely"):
        convert.read_checkpoint(tmp_path / "published.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 1, "weights": {}}, r"has no model_state_dict, but \['epoch', 'weights'\]"),
        ([1, 2], "has no model_state_dict, but list"),
        ({"model_state_dict": {"conv1.weight": 3}}, r"has conv1\.weight in model_state_dict, which is no tensor"),
    ],
)
def test_other_files_are_refused_by_name(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=words):
        convert.read_checkpoint(tmp_path / "other.pt")


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.pt", drawn_unet(6, 4)).read_bytes()
    for content in (
        b"",
        b"hours and hours",
        pickle.dumps({"model_state_dict": {}}, protocol=2),
        whole[:-100],
        whole[:5000],
    ):
        (tmp_path / "other.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"other\.pt is no checkpoint that can be read safely: ."):
            convert.read_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(UNET, depth=3), "published U-Net has depth 4, gates and no stem, got depth 3"),
        (replace(UNET, stem=8), "and stem 8"),
        (replace(UNET, gates=False), "gates False"),
        (replace(COLUMN, layers=4), "published columns have 5 hidden layers, got 4"),
    ],
)
def test_networks_of_other_layers_have_no_published_weights(config: NetworkConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        convert.names(config)
