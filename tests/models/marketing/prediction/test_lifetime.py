"""The zero-inflated lognormal loss against torch's own distributions, its extremes, its metrics and its network."""

import math
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import LogNormal
from torch.nn import functional

from models.common.contracts import InputError, Payload, TrainingConfig
from models.common.fit import fit
from models.marketing.prediction.lifetime import (
    LEAST,
    LifetimeConfig,
    batch_of,
    decile_error,
    expected,
    level,
    log_expected,
    normalised_gini,
    spearman,
    tenths,
    zero_inflated_lognormal,
)
from models.marketing.prediction.tabular import Tower

Floats = NDArray[np.float64]


def _by_distributions(logits: Tensor, value: Tensor) -> Tensor:
    """The loss from torch.distributions and a cross-entropy, member by member."""
    bought = (value > 0).to(logits.dtype)
    w = torch.maximum(functional.softplus(logits[:, 2]), torch.tensor(LEAST, dtype=logits.dtype))
    known: Tensor = LogNormal(logits[:, 1], w).log_prob(  # type: ignore[no-untyped-call]
        torch.where(value > 0, value, torch.ones_like(value))
    )
    chance = functional.binary_cross_entropy(torch.sigmoid(logits[:, 0]), bought, reduction="none")
    return chance - bought * known


def test_loss_and_gradient_are_those_of_the_distributions_to_a_millionth() -> None:
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(500, 3, generator=random, dtype=torch.float64)
    value = torch.where(torch.rand(500, generator=random) < 0.5, 0.0, (2 * torch.randn(500, generator=random)).exp())
    ours, theirs = logits.clone().requires_grad_(True), logits.clone().requires_grad_(True)
    loss, known = zero_inflated_lognormal(ours, value.double()), _by_distributions(theirs, value.double())
    torch.testing.assert_close(loss, known, rtol=1e-6, atol=0)
    (slope,), (wanted,) = torch.autograd.grad(loss.sum(), ours), torch.autograd.grad(known.sum(), theirs)
    torch.testing.assert_close(slope, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_all_is_finite_for_logits_from_minus_50_to_50(kind: torch.dtype) -> None:
    ends = torch.linspace(-50, 50, 21, dtype=kind)
    logits = torch.cartesian_prod(ends, ends, ends).requires_grad_(True)
    for value in (0.0, 1e-6, 1.0, 499.0, 1e9):
        loss = zero_inflated_lognormal(logits, torch.full((len(logits),), value, dtype=kind))
        (slope,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(loss).all() and torch.isfinite(slope).all()
    assert torch.isfinite(log_expected(logits)).all()
    said = expected(logits, 1e6)
    (slope,) = torch.autograd.grad(said.sum(), logits)
    assert torch.isfinite(said).all() and torch.isfinite(slope).all() and float(said.detach().max()) <= 1e6 * (1 + 1e-6)


def test_the_expected_value_is_the_mean_of_draws() -> None:
    logits = torch.tensor([[0.4, 1.2, 0.3]], dtype=torch.float64)
    random = np.random.default_rng(0)
    w = math.log1p(math.exp(0.3))
    drawn = (random.random(400_000) < 1 / (1 + math.exp(-0.4))) * random.lognormal(1.2, w, 400_000)
    assert float(expected(logits, 1e9)) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / math.sqrt(400_000))
    with pytest.raises(ValueError, match="most must be above 0"):
        expected(logits, math.inf)


def _area(value: list[float], order: list[int]) -> float:
    total, caught, area = sum(value), 0.0, 0.0
    for row in order:
        area += (2 * caught + value[row]) / 2 / total / len(value)
        caught += value[row]
    return area - 0.5


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=6))
@settings(max_examples=60)
def test_gini_is_the_mean_over_all_orders_of_tied_scores(rows: list[tuple[int, int]]) -> None:
    value, score = [float(row[0]) for row in rows], [float(row[1]) for row in rows]
    if len(set(value)) < 2:
        with pytest.raises(InputError, match="all values are equal"):
            normalised_gini(np.array(value), np.array(score))
        return
    orders = [order for order in permutations(range(len(value)))
              if all(score[a] >= score[b] for a, b in pairwise(order))]  # fmt: skip
    best = _area(value, sorted(range(len(value)), key=lambda row: -value[row]))
    mean = sum(_area(value, list(order)) for order in orders) / len(orders)
    assert normalised_gini(np.array(value), np.array(score)) == pytest.approx(mean / best, abs=1e-12)


def test_metrics_know_the_perfect_the_reversed_and_the_empty_order() -> None:
    value = np.random.default_rng(0).lognormal(size=101) * (np.arange(101) % 3 > 0)
    assert normalised_gini(value, value) == pytest.approx(1)
    assert normalised_gini(value, -value) == pytest.approx(-1)
    assert normalised_gini(value, np.zeros(101)) == pytest.approx(0)
    assert spearman(value, np.exp(value)) == pytest.approx(1)
    assert decile_error(np.arange(1, 101.0), np.arange(1, 101.0)) == pytest.approx(0)
    assert decile_error(np.arange(1, 101.0), 1.1 * np.arange(1, 101.0)) == pytest.approx(0.1)
    with pytest.raises(InputError, match="have no order"):
        spearman(value, np.zeros(101))
    with pytest.raises(InputError, match=r"tenth 1 .*no value"):
        decile_error(np.append(np.zeros(50), np.arange(1, 51.0)), np.arange(100.0))


def test_tenths_of_ties_do_not_depend_on_the_order_of_rows() -> None:
    random = np.random.default_rng(1)
    value, said = random.random(47), random.integers(0, 4, 47).astype(float)
    shuffled = random.permutation(47)
    for one, other in zip(tenths(value, said), tenths(value[shuffled], said[shuffled]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert tenths(value, said)[0].mean() == pytest.approx(value.mean())


def test_values_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="value of member 1 is -1"):
        normalised_gini(np.array([1.0, -1.0]), np.array([1.0, 2.0]))
    with pytest.raises(InputError, match="score of member 0 is nan"):
        spearman(np.array([1.0, 2.0]), np.array([np.nan, 2.0]))
    with pytest.raises(InputError, match="one length"):
        spearman(np.array([1.0]), np.array([1.0, 2.0]))


# --- the network ------------------------------------------------------------------------------------------------------


def _members(size: int, seed: int) -> tuple[Payload, Floats]:
    """Members whose true expected value is known: chance, mean log and spread depend on two of three features."""
    random = np.random.default_rng(seed)
    feature = random.normal(size=(size, 3)) * [1.0, 20.0, 1.0] + [0.0, 100.0, 0.0]
    chance = 1 / (1 + np.exp(1 - 1.5 * feature[:, 0]))
    middle, w = 1 + 0.04 * (feature[:, 1] - 100) + 0.5 * np.abs(feature[:, 0]), 0.7
    value = (random.random(size) < chance) * random.lognormal(middle, w)
    rows = random.permutation(size)
    part = {"features": feature, "value": value, "train": rows[size // 5 :], "validation": rows[: size // 5]}
    return part, chance * np.exp(middle + w * w / 2)


def test_the_network_learns_what_each_member_is_worth(tmp_path: Path) -> None:
    data, _ = _members(6000, 0)
    config = LifetimeConfig(training=TrainingConfig(epochs=12, batch_size=256, learning_rate=5e-3, average=0.99))
    fit(config, data, tmp_path, lightning_arguments={"accelerator": "cpu", "devices": 1})
    network = config.network(config.sizes(data))
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    network.eval()
    fresh, true = _members(6000, 1)
    with torch.no_grad():
        said = network.expected(torch.from_numpy(fresh["features"].astype(np.float32))).numpy()
    assert spearman(true, said) > 0.97
    assert said.sum() == pytest.approx(true.sum(), rel=0.1)
    known = normalised_gini(fresh["value"], true)
    assert normalised_gini(fresh["value"], said) > known - 0.02
    rows = np.arange(len(data["value"]))
    with torch.no_grad():
        raw = network.expected(torch.from_numpy(data["features"].astype(np.float32))).numpy()
    assert level(network, data, rows) * raw.sum() == pytest.approx(data["value"].sum(), rel=1e-5)


def test_a_fresh_network_says_the_mean_of_all_members_and_holds_the_largest_value() -> None:
    data, _ = _members(2000, 2)
    config = LifetimeConfig()
    network = config.network(config.sizes(data))
    config.start(network, data)
    with torch.no_grad():
        logits = network(torch.from_numpy(data["features"].astype(np.float32)))
    train = data["value"][data["train"]]
    assert torch.sigmoid(logits[:, 0]).mean() == pytest.approx((train > 0).mean(), rel=1e-3)
    assert logits[:, 1].mean() == pytest.approx(np.log(train[train > 0]).mean(), rel=1e-3)
    assert float(logits.std(dim=0).max()) < 1e-6
    assert float(network.most) == pytest.approx(train.max())


def test_weights_count_as_so_many_members() -> None:
    data, _ = _members(200, 3)
    twice = np.random.default_rng(0).integers(1, 3, 200)
    config = LifetimeConfig(depth=0)
    network = config.network(config.sizes(data))
    config.start(network, data)
    weighted = config.loss(network, batch_of({**data, "weight": twice.astype(float)}, np.arange(200)))
    repeated = config.loss(network, batch_of(data, np.repeat(np.arange(200), twice)))
    assert float(weighted.detach()) == pytest.approx(float(repeated.detach()), rel=1e-5)


def test_batches_depend_on_seed_and_epoch_alone_and_processes_share_them() -> None:
    data, _ = _members(1000, 4)
    config = LifetimeConfig(training=TrainingConfig(batch_size=128))
    whole = [batch.value for batch in config.batches(data, rank=0, processes=1).epoch(3)]
    again = [batch.value for batch in config.batches(data, rank=0, processes=1).epoch(3)]
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))
    halves = [list(config.batches(data, rank=rank, processes=2).epoch(3)) for rank in (0, 1)]
    for batch, left, right in zip(whole, *halves, strict=True):
        assert torch.equal(batch.sort().values, torch.cat((left.value, right.value)).sort().values)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"value": np.full(50, -1.0)}, "value of member 0 is -1"),
        ({"value": np.zeros(50)}, "train has 0 members of value"),
        ({"features": np.full((50, 3), np.nan)}, "features of member 0, column 0 is nan"),
        ({"features": np.zeros((49, 3))}, "must have 49 rows"),
        ({"train": np.array([70])}, "train must name rows from 0 to 49"),
        ({"weight": np.full(50, -1.0)}, "weight of member 0"),
        ({"weight": np.zeros(50)}, "train has 0 members of value and weight"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused_by_name(change: dict[str, Floats], word: str) -> None:
    data, _ = _members(50, 5)
    with pytest.raises(InputError, match=word):
        LifetimeConfig().sizes({**data, **change})
    with pytest.raises(InputError, match="lack the part value"):
        LifetimeConfig().sizes({"features": data["features"]})


def test_a_feature_that_never_varied_says_little_once_it_does() -> None:
    """0.1 repeated has a spread of rounding errors, in which 0.7 would be 1e16 away; in its own unit it is 0.6."""
    tower = Tower(3, 4, 0, 0.0)
    varied = np.random.default_rng(3).normal(size=50)
    tower.keep(np.column_stack([np.full(50, 0.1), np.full(50, -1e9), varied]))
    said = tower(torch.tensor([[0.1, -1e9, 0.0], [0.7, -2e9, 0.0]], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(said[:, :2], [[0, 0], [0.6, -1]], atol=1e-6)
    np.testing.assert_allclose(said[:, 2], -varied.mean() / varied.std(), rtol=1e-6)
