"""The last layer's knowledge against closed forms and exact posteriors, and what drawing from it chooses."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import kstest, norm

from models.common.contracts import InputError
from models.marketing.prediction.exploration import LastLayer, last_layer, of_network, seen_by
from models.marketing.prediction.response import ResponseConfig, logits_of

Floats = NDArray[np.float64]


def _covariance(known: LastLayer, offer: int) -> Floats:
    return np.asarray(np.linalg.inv(known.root[offer] @ known.root[offer].T), np.float64)


def test_for_numbers_it_is_bayesian_linear_regression() -> None:
    random = np.random.default_rng(0)
    g, offer = random.normal(size=(60, 3)), random.integers(0, 2, 60)
    y = g @ [1.0, -2.0, 0.5] + random.normal(0, 0.7, 60)
    empty = last_layer(np.zeros((2, 3)), g[:0], offer[:0], prior=2.0, likelihood="number", noise=0.49)
    known = empty.learned(g, offer, y)
    for number in (0, 1):
        rows = offer == number
        covariance = np.linalg.inv(2.0 * np.eye(3) + g[rows].T @ g[rows] / 0.49)
        np.testing.assert_allclose(_covariance(known, number), covariance, rtol=1e-10)
        np.testing.assert_allclose(known.mean[number], covariance @ g[rows].T @ y[rows] / 0.49, rtol=1e-10)
    parts = empty
    for batch in np.array_split(np.arange(60), 7):
        parts = parts.learned(g[batch], offer[batch], y[batch])
    np.testing.assert_allclose(parts.mean, known.mean, rtol=1e-8)
    np.testing.assert_allclose(parts.root, known.root, rtol=1e-8, atol=1e-10)


def test_for_responses_it_is_the_curvature_at_the_most_likely_weights() -> None:
    random = np.random.default_rng(1)
    g = np.concatenate([random.normal(size=(300, 2)), np.ones((300, 1))], axis=1)
    y = (random.random(300) < expit(g @ [0.8, -0.5, -1.0])).astype(float)
    offer = np.zeros(300, int)
    known = last_layer(np.zeros((1, 3)), g[:0], offer[:0], prior=1.0).learned(g, offer, y, steps=25)
    slope = g.T @ (y - expit(g @ known.mean[0])) - known.mean[0]
    np.testing.assert_allclose(slope, 0, atol=1e-9)
    chance = expit(g @ known.mean[0])
    wanted = np.eye(3) + g.T @ (g * (chance * (1 - chance))[:, None])
    np.testing.assert_allclose(known.root[0] @ known.root[0].T, wanted, rtol=1e-10)
    again = last_layer(known.mean, g, offer, prior=1.0)  # the same from a trained checkpoint
    np.testing.assert_allclose(again.root, known.root, rtol=1e-10)


def test_it_is_close_to_the_exact_posterior_of_a_small_logistic_problem() -> None:
    random = np.random.default_rng(2)
    g = np.stack([random.normal(size=80), np.ones(80)], axis=1)
    y = (random.random(80) < expit(g @ [1.0, -0.5])).astype(float)
    known = last_layer(np.zeros((1, 2)), g[:0], np.zeros(0, int), prior=1.0).learned(g, np.zeros(80, int), y, steps=25)
    axis = np.linspace(-4, 4, 401)
    slope, offset = np.meshgrid(axis, axis, indexing="ij")
    line = slope[..., None] * g[:, 0] + offset[..., None]
    log = (y * line - np.logaddexp(0, line)).sum(-1) - 0.5 * (slope**2 + offset**2)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = np.array([(weight * slope).sum(), (weight * offset).sum()])
    spread = np.sqrt([(weight * slope**2).sum() - mean[0] ** 2, (weight * offset**2).sum() - mean[1] ** 2])
    np.testing.assert_allclose(np.sqrt(np.diag(_covariance(known, 0))), spread, rtol=0.08)
    np.testing.assert_allclose(known.mean[0], mean, atol=0.25 * spread.max())
    # the chance that a logit is above 0, which decides what is tried, at three members
    for x in (-1.0, 0.4, 2.0):
        exact = float(weight[(slope * x + offset) > 0].sum())
        at = np.array([[x, 1.0]])
        said = float(norm.cdf(known.logits(at)[0, 0] / known.spread(at)[0, 0]))
        assert said == pytest.approx(exact, abs=0.03)


def test_draws_have_the_mean_and_spread_that_are_known() -> None:
    random = np.random.default_rng(3)
    g, offer = random.normal(size=(40, 4)), random.integers(0, 3, 40)
    known = last_layer(random.normal(size=(3, 4)), g, offer, prior=0.5)
    at = random.normal(size=(5, 4))
    drawn = np.stack([known.drawn(at, random) for _ in range(4000)])
    standard = (drawn - known.logits(at)) / known.spread(at)
    for member in range(5):
        for number in range(3):
            assert kstest(standard[:, member, number], "norm").pvalue > 1e-5
    # one draw serves all members: their logits move together as the covariance says
    found = np.cov(drawn[:, 0, 0], drawn[:, 1, 0])[0, 1]
    wanted = float(at[0] @ _covariance(known, 0) @ at[1])
    size = float(known.spread(at)[0, 0] * known.spread(at)[1, 0])
    assert abs(found - wanted) < 5 * size / np.sqrt(4000)
    more = np.stack([known.drawn(at, random, extra=2.0) for _ in range(4000)])
    np.testing.assert_allclose(more.std(0), np.sqrt(known.spread(at) ** 2 + 4), rtol=0.06)


def test_without_exploration_the_same_checkpoint_says_what_the_network_says() -> None:
    random = np.random.default_rng(4)
    data: dict[str, Any] = {"features": random.normal(size=(100, 3)), "offer": np.arange(100) % 2, "offers": ["a", "b"],
            "response": random.integers(0, 2, 100).astype(float), "train": np.arange(80),
            "validation": np.arange(80, 100)}  # fmt: skip
    config = ResponseConfig(width=6)
    network = config.network(config.sizes(data))
    config.start(network, data)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    known, seen = of_network(network, data, prior=1.0), seen_by(network, data["features"])
    # the Gauss-Newton matrix of the training members, by the gradients of their logits
    rows = [row for row in data["train"] if data["offer"][row] == 1]
    wanted = np.eye(seen.shape[1])
    for row in rows:
        logit = network(torch.from_numpy(data["features"][[row]].astype(np.float32)))[0, 1]
        by_weight, by_offset = torch.autograd.grad(logit, (network.head.weight, network.head.bias))
        g = np.append(by_weight[1].numpy(), by_offset[1].numpy())
        chance = float(torch.sigmoid(logit.detach()))
        wanted += chance * (1 - chance) * np.outer(g, g)
    np.testing.assert_allclose(known.root[1] @ known.root[1].T, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(known.logits(seen), logits_of(network, data["features"]), atol=1e-5)
    np.testing.assert_array_equal(known.drawn(seen, random, scale=0.0), known.logits(seen))
    assert not np.allclose(known.drawn(seen, random), known.logits(seen), atol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_offer_is_tried_as_often_as_it_is_the_best_in_the_exact_posterior() -> None:
    # two offers without features: Normal knowledge, so P(a is best) = Phi(difference / root of summed variances)
    g, offer = np.ones((30, 1)), np.repeat([0, 1], [20, 10])
    y = np.where(offer == 0, 0.5, 0.8)
    empty = last_layer(np.zeros((2, 1)), g[:0], offer[:0], prior=1.0, likelihood="number")
    known = empty.learned(g, offer, y)
    random = np.random.default_rng(5)
    tried = np.mean([known.drawn(np.ones((1, 1)), random).argmax() for _ in range(20_000)])
    mean, variance = np.array([20 * 0.5 / 21, 10 * 0.8 / 11]), np.array([1 / 21, 1 / 11])
    exact = norm.cdf((mean[1] - mean[0]) / np.sqrt(variance.sum()))
    assert tried == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_drawing_finds_the_better_offer_that_greed_gives_up() -> None:
    """After an unlucky start greed never returns; drawn decisions do, in nearly every run."""
    chance = np.array([0.3, 0.5])
    ends = {"drawn": 0, "greedy": 0}
    for seed in range(30):
        for kind in ends:
            random = np.random.default_rng(seed)
            known = last_layer(np.array([[0.0], [-2.0]]), np.zeros((0, 1)), np.zeros(0, int), prior=1.0)
            for _ in range(60):
                logits = known.drawn(np.ones((10, 1)), random, scale=1.0 if kind == "drawn" else 0.0)
                offer = logits.argmax(1)
                y = (random.random(10) < chance[offer]).astype(float)
                known = known.learned(np.ones((10, 1)), offer, y, steps=3)
            ends[kind] += int(known.logits(np.ones((1, 1))).argmax() == 1)
    assert ends["drawn"] >= 27 and ends["drawn"] >= ends["greedy"] + 5, ends


def test_what_cannot_be_is_refused_by_name() -> None:
    g, offer = np.ones((3, 2)), np.zeros(3, int)
    with pytest.raises(InputError, match="prior and noise"):
        last_layer(np.zeros((1, 2)), g, offer, prior=0.0)
    known = last_layer(np.zeros((1, 2)), g, offer, prior=1.0)
    with pytest.raises(InputError, match=r"offer \(0 to 0\) of member 0"):
        known.learned(g, offer + 1, np.zeros(3))
    with pytest.raises(InputError, match="outcome of member 1"):
        known.learned(g, offer, np.array([0.0, 0.5, 1.0]))
    with pytest.raises(InputError, match="a row of 2 numbers"):
        known.learned(np.ones((3, 3)), offer, np.zeros(3))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_no_newton_step_leads_away_from_the_most_likely_weights(seed: int, steps: int) -> None:
    random = np.random.default_rng(seed)
    prior, scale, size = 10.0 ** random.uniform(-4, 1), 10.0 ** random.uniform(-1, 2), int(random.integers(1, 60))
    g = np.column_stack([random.normal(size=(size, 2)) * scale, np.ones(size)])
    y = (random.random(size) < expit(2 * g[:, 0] / scale)).astype(float)
    begun = last_layer(random.normal(size=(1, 3)) / 10, g[:0], np.zeros(0, int), prior=prior)

    def cost(weights: np.ndarray) -> float:
        line, away = g @ weights, weights - begun.mean[0]
        return float((np.logaddexp(0, line) - y * line).sum() + prior / 2 * away @ away)

    found = cost(begun.learned(g, np.zeros(size, int), y, steps=steps).mean[0])
    assert found <= cost(begun.mean[0])
    if steps == 50:
        best = minimize(cost, begun.mean[0], method="BFGS", options={"gtol": 1e-8, "maxiter": 2000})
        assert found <= best.fun + 1e-6
