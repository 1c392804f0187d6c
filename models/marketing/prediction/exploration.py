"""How sure the last layer of a response network is, and decisions drawn from what it does not know (Thompson sampling).

The network stays as it was trained. Of each offer only the last layer's weights w are unsure, Gaussian around the
trained ones,

    w ~ Normal(trained, P^-1),    P = prior + sum over members who were shown the offer of k g g',

with g what the last layer sees of a member (the offset's 1 too), and k the curvature of the loss in the logit,
p (1 - p) for responses of 0 or 1, 1 / noise variance for numbers. For a fixed g this is the Gauss-Newton matrix, and
for numbers it is the exact posterior of Bayesian linear regression. A logit is then Normal(f, g' P^-1 g).

Without exploration a decision is made from the trained logits; with it from logits drawn once for all members, so that
two members who look alike are tried alike. Nothing else changes: one checkpoint serves both.
"""

# Shapes: N members, M offers, W what the last layer sees, the offset's 1 included.

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import expit

from models.common.contracts import InputError, Payload
from models.marketing.prediction.response import ResponseNetwork

Floats = NDArray[np.float64]
Likelihood = Literal["response", "number"]

SMALLEST = 1e-6
"""Part of a Newton step below which none is taken: what is left is rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LastLayer:
    """What is known of the last layer's weights.

    Attributes:
        mean: (M, W) weights, the offset last.
        root: (M, W, W) lower Cholesky factors of the precisions.
        likelihood: response: 0 or 1 through a logistic curve; number: with normal noise.
        noise: variance of the noise of numbers.

    Source:
        MacKay 1992, "A practical Bayesian framework for backpropagation networks"; of the last layer alone Kristiadi,
        Hein & Hennig 2020, "Being Bayesian, even just a bit, fixes overconfidence in ReLU networks". Exploration by it:
        "From Prediction to Incrementality" (arXiv 2608.10182).
    """

    mean: Floats
    root: Floats
    likelihood: Likelihood
    noise: float

    def logits(self, seen: Floats) -> Floats:
        """(N, M) trained logits of what the last layer sees (N, W): no exploration."""
        return np.asarray(seen @ self.mean.T, np.float64)

    def spread(self, seen: Floats) -> Floats:
        """(N, M) standard deviations of the logits."""
        parts = [np.sqrt((solve_triangular(root, seen.T, lower=True) ** 2).sum(0)) for root in self.root]
        return np.stack(parts, axis=1)

    def drawn(self, seen: Floats, random: np.random.Generator, *, scale: float = 1.0, extra: float = 0.0) -> Floats:
        """Logits (N, M) at weights drawn once.

        Args:
            seen: (N, W).
            random: of the draw.
            scale: standard deviations are multiplied by it; 0: no exploration, 1: Thompson sampling.
            extra: a standard deviation of every logit of its own beside that of the weights, the paper's sigma_0.
        """
        normal = random.standard_normal(self.mean.shape)
        # w = mean + L'^-1 z has the covariance (L L')^-1
        away = np.stack(
            [solve_triangular(root, z, lower=True, trans="T") for root, z in zip(self.root, normal, strict=True)]
        )
        logits = seen @ (self.mean + scale * away).T
        if extra:
            logits = logits + scale * extra * random.standard_normal(logits.shape)
        return np.asarray(logits, np.float64)

    def learned(self, seen: Floats, offer: NDArray[Any], outcome: NDArray[Any], steps: int = 1) -> "LastLayer":
        """What is known after more outcomes, the earlier knowledge as the prior.

        Args:
            seen: (N, W).
            offer: (N) what was shown.
            outcome: (N).
            steps: Newton steps towards the new most likely weights, halved where a whole one leads away; for numbers
                one is exact.

        Returns:
            Fresh knowledge. For responses the precision is that at the new weights, added to the earlier one: an
            approximation that is close for batches that each say little.

        Raises:
            InputError: a value cannot be.

        Source:
            Chapelle & Li 2011, "An empirical evaluation of Thompson sampling", algorithm 3, with all of the matrix.
        """
        _checked(seen, offer, outcome, self.mean.shape, self.likelihood)
        mean, root = self.mean.copy(), self.root.copy()
        for number in np.unique(offer):
            rows = offer == number
            g, y, before = seen[rows], np.asarray(outcome, np.float64)[rows], self.mean[number]
            prior = self.root[number] @ self.root[number].T
            now = before

            for _ in range(steps):
                said, curve = self._at(g @ now)
                slope = g.T @ ((y - said) * self._unit) - prior @ (now - before)
                step = np.linalg.solve(prior + g.T @ (g * curve[:, None]), slope)
                # where chances are sure the curve is flat and a whole step would go far beyond the optimum
                reached, (size, ahead) = self._cost(now, before, prior, g, y), (1.0, now + step)
                while size > SMALLEST and self._cost(ahead, before, prior, g, y) > reached:
                    size /= 2
                    ahead = now + size * step
                now = ahead if size > SMALLEST else now
            mean[number] = now
            _, curve = self._at(g @ mean[number])
            root[number] = np.linalg.cholesky(prior + g.T @ (g * curve[:, None]))
        return LastLayer(mean=mean, root=root, likelihood=self.likelihood, noise=self.noise)

    @property
    def _unit(self) -> float:
        return 1.0 if self.likelihood == "response" else 1 / self.noise

    def _cost(self, weights: Floats, before: Floats, prior: Floats, g: Floats, outcome: Floats) -> float:
        """Minus the logarithm of prior and likelihood at weights (W), up to a constant."""
        logit, away = g @ weights, weights - before
        if self.likelihood == "number":
            loss = float(np.square(outcome - logit).sum()) / (2 * self.noise)
        else:
            loss = float((outcome * np.logaddexp(0, -logit) + (1 - outcome) * np.logaddexp(0, logit)).sum())
        return loss + 0.5 * float(away @ prior @ away)

    def _at(self, logit: Floats) -> tuple[Floats, Floats]:
        """What is expected at logits, and the curvature of the loss."""
        if self.likelihood == "number":
            return logit, np.full(len(logit), 1 / self.noise)
        chance = np.asarray(expit(logit), np.float64)
        return chance, chance * (1 - chance)


def last_layer(
    mean: NDArray[Any],
    seen: NDArray[Any],
    offer: NDArray[Any],
    *,
    prior: float,
    likelihood: Likelihood = "response",
    noise: float = 1.0,
) -> LastLayer:
    """What the training members say about the last layer's weights, at the trained weights.

    Args:
        mean: (M, W) trained weights, the offset last.
        seen: (N, W) what the last layer saw of the training members.
        offer: (N) what each was shown.
        prior: precision of every weight before any member was seen, above 0: the weight decay that the training had,
            times members, or 1 / variance of what is thought likely.
        likelihood: see `LastLayer`.
        noise: variance of the noise of numbers, above 0.

    Returns:
        The knowledge. Without members it is the prior around the mean.

    Raises:
        InputError: a value cannot be.

    Source:
        See `LastLayer`.
    """
    weights, table = np.asarray(mean, np.float64), np.asarray(seen, np.float64)
    if not prior > 0 or not noise > 0 or not np.all(np.isfinite(weights)):
        raise InputError(f"prior and noise must be above 0 and weights finite, got prior {prior}, noise {noise}.")
    _checked(table, offer, np.zeros(len(table)), weights.shape, likelihood)
    empty = LastLayer(
        mean=weights, root=np.zeros((*weights.shape, weights.shape[1])), likelihood=likelihood, noise=noise
    )
    root = np.empty_like(empty.root)
    for number in range(len(weights)):
        g = table[offer == number]
        _, curve = empty._at(g @ weights[number])
        root[number] = np.linalg.cholesky(prior * np.eye(weights.shape[1]) + g.T @ (g * curve[:, None]))
    return LastLayer(mean=weights, root=root, likelihood=likelihood, noise=noise)


def seen_by(network: ResponseNetwork, features: NDArray[Any]) -> Floats:
    """(N, W) what the last layer of a trained network sees of features (N, F), the offset's 1 at the end."""
    network.eval()
    with torch.no_grad():
        seen: Floats = network.last(torch.from_numpy(np.asarray(features, np.float32))).double().numpy()
    return seen


def of_network(network: ResponseNetwork, data: Payload, *, prior: float) -> LastLayer:
    """What a trained network's training members say about its last layer.

    Args:
        network: trained.
        data: what it was trained on, see `models.marketing.prediction.response.ResponseConfig`.
        prior: as for `last_layer`.

    Returns:
        The knowledge; its logits are the network's own, up to float32.

    Source:
        See `LastLayer`.
    """
    rows = np.asarray(data["train"])
    with torch.no_grad():
        weights = torch.cat((network.head.weight, network.head.bias[:, None]), dim=1).double().numpy()
    return last_layer(weights, seen_by(network, data["features"][rows]), data["offer"][rows], prior=prior)


def _checked(
    seen: Floats, offer: NDArray[Any], outcome: NDArray[Any], shape: tuple[int, ...], likelihood: Likelihood
) -> None:
    if (
        seen.ndim != 2
        or seen.shape[1] != shape[1]
        or np.shape(offer) != (len(seen),)
        or np.shape(outcome) != (len(seen),)
    ):
        raise InputError(f"a row of {shape[1]} numbers, an offer and an outcome are needed of every member, got "
                         f"{seen.shape}, {np.shape(offer)}, {np.shape(outcome)}.")  # fmt: skip
    for name, good in (
        ("what the last layer sees", np.isfinite(seen).all(1)),
        (f"offer (0 to {shape[0] - 1})", (np.asarray(offer) >= 0) & (np.asarray(offer) < shape[0])),
        ("outcome", np.isfinite(outcome) if likelihood == "number" else np.isin(outcome, (0, 1))),
    ):
        wrong = np.flatnonzero(~good)
        if len(wrong):
            raise InputError(f"{name} of member {wrong[0]} cannot be: {np.asarray(offer)[wrong[0]]}, "
                             f"{np.asarray(outcome)[wrong[0]]}, {seen[wrong[0]]}.")  # fmt: skip
