"""Calibrated chances, and a network that tells responses to every offer."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from scipy.special import expit

from models.common.contracts import InputError, Payload, TrainingConfig
from models.common.fit import fit
from models.marketing.prediction.response import (
    Response,
    ResponseConfig,
    batch_of,
    logits_of,
)

Floats = NDArray[np.float64]


def _members(size: int, seed: int) -> tuple[Payload, Floats]:
    """Three offers, one for everybody, one for some, one for the others, shown at random."""
    random = np.random.default_rng(seed)
    feature = random.normal(size=(size, 2)) * [1.0, 30.0] + [0.0, 200.0]
    line = np.stack([np.full(size, -1.5), -1.5 + 1.2 * feature[:, 0], -1.5 - 0.04 * (feature[:, 1] - 200)], axis=1)
    chance, offer = expit(line), random.integers(0, 3, size)
    response = (random.random(size) < chance[np.arange(size), offer]).astype(float)
    rows = random.permutation(size)
    data = {
        "features": feature, "offer": offer, "response": response, "offers": ["plain", "young", "old"],
        "train": rows[size // 4 :], "validation": rows[: size // 4],
    }  # fmt: skip
    return data, chance


def test_the_network_tells_the_response_to_every_offer_and_is_calibrated(tmp_path: Path) -> None:
    data, _ = _members(12_000, 0)
    config = ResponseConfig(
        width=8, training=TrainingConfig(epochs=8, batch_size=256, learning_rate=1e-2, average=0.99)
    )
    fit(config, data, tmp_path, lightning_arguments={"accelerator": "cpu", "devices": 1})
    network = config.network(config.sizes(data))
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    model = Response.of(network, data)
    fresh, true = _members(6000, 1)
    said = model.chances(fresh["features"])
    assert said.shape == (6000, 3)
    assert np.abs(said - true).mean() < 0.04
    rows = data["validation"]
    for offer in range(3):
        shown = rows[data["offer"][rows] == offer]
        mean = data["response"][shown].mean()
        assert model.chances(data["features"][shown])[:, offer].mean() == pytest.approx(mean, abs=1e-9)
        assert np.corrcoef(said[:, offer], true[:, offer])[0, 1] > 0.9 or offer == 0


def test_the_last_layer_sees_what_makes_the_logits() -> None:
    data, _ = _members(300, 2)
    config = ResponseConfig(width=5)
    network = config.network(config.sizes(data))
    config.start(network, data)
    with torch.no_grad():
        torch.nn.init.normal_(network.head.weight)
        seen = network.last(torch.from_numpy(data["features"].astype(np.float32)))
        weight = torch.cat((network.head.weight, network.head.bias[:, None]), dim=1)
    np.testing.assert_allclose((seen @ weight.T).numpy(), logits_of(network, data["features"]), rtol=1e-4, atol=1e-5)


def test_a_fresh_network_says_the_mean_response_to_each_offer_and_only_shown_offers_learn() -> None:
    data, _ = _members(3000, 3)
    config = ResponseConfig()
    network = config.network(config.sizes(data))
    config.start(network, data)
    said = expit(logits_of(network, data["features"])).mean(0)
    rows = data["train"]
    for offer in range(3):
        assert said[offer] == pytest.approx(data["response"][rows][data["offer"][rows] == offer].mean(), abs=2e-3)
    shown = np.flatnonzero(data["offer"] == 1)
    loss = config.loss(network, batch_of(data, shown))
    (slope,) = torch.autograd.grad(loss, network.head.bias)
    assert float(slope[1].abs()) > 0 and float(slope[[0, 2]].abs().max()) == 0


@pytest.mark.parametrize(
    "change, word",
    [
        ({"offer": np.full(80, 3)}, "offer of member 0 is 3"),
        ({"offer": np.full(80, 0.5)}, "offer of member 0 is 0.5; it must be a whole number"),
        ({"offer": np.zeros(80, int)}, "train never shows the offer 'young'"),
        ({"response": np.full(80, 0.5)}, "response of member 0 is 0.5"),
        ({"features": np.full((80, 2), np.inf)}, "column 0 is inf"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused_by_name(change: dict[str, Floats], word: str) -> None:
    data, _ = _members(80, 4)
    with pytest.raises(InputError, match=word):
        ResponseConfig().sizes({**data, **change})
