"""Boosted trees: many small trees, each fitted to what the ones before it leave unexplained.

With g the negative gradient of the loss at what is said so far and h its curvature, a tree of given depth splits where

    G_left^2 / (H_left + shrink) + G_right^2 / (H_right + shrink) - G^2 / (H + shrink)

is largest, G and H being sums of g and h, and each leaf adds rate G / (H + shrink). For numbers g is target minus what
is said and h is 1; for chances g is label minus chance and h is chance (1 - chance), in logits. Features are cut at
quantiles, so that only their order matters.
"""

# Shapes: N members, F features, T trees, I inner nodes, L leaves, V nodes of a level, B bins.

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.common.configuration import check, setting
from models.common.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trees:
    """A sum of trees.

    Attributes:
        start: what is said before the first tree, in logits for chances.
        feature: (T, I) which feature each inner node asks; node i has the nodes 2 i + 1 and 2 i + 2.
        cut: (T, I) above it one goes right; infinite where a node does not split.
        leaf: (T, L) what is added.
        chances: whether a logistic curve follows.
    """

    start: float
    feature: Integers
    cut: Floats
    leaf: Floats
    chances: bool

    def __call__(self, features: Floats) -> Floats:
        """(N) means of features (N, F)."""
        said = self.sums(features)
        return np.asarray(expit(said), np.float64) if self.chances else said

    def sums(self, features: Floats) -> Floats:
        """(N) sums of the trees, logits for chances."""
        said, row = np.full(len(features), self.start), np.arange(len(features))
        inner = self.feature.shape[1]
        for feature_I, cut_I, leaf_L in zip(self.feature, self.cut, self.leaf, strict=True):
            node = np.zeros(len(features), np.int64)
            while inner and node.min(initial=inner) < inner:
                node = 2 * node + 1 + (features[row, feature_I[node]] > cut_I[node])
            said += leaf_L[node - inner]
        return said


@dataclass(frozen=True, kw_only=True)
class BoostedConfig:
    """How trees are grown; a learner of means as `models.marketing.prediction.uplift` wants them.

    Source:
        Friedman 2001, "Greedy function approximation: a gradient boosting machine"; second derivatives and histograms
        of quantiles: Chen & Guestrin 2016, "XGBoost", sections 2.2 and 3.2.
    """

    outcome: Literal["number", "chance"] = setting(
        "number", "Outcome", "number: any number, by least squares; chance: 0 to 1, by cross-entropy."
    )
    trees: int = setting(100, "Trees", "How many, 1 to 10000.", ge=1, le=10_000)
    depth: int = setting(3, "Depth", "Splits from the root to a leaf, 1 to 10.", ge=1, le=10)
    rate: float = setting(0.1, "Rate", "How much of a leaf is added, above 0 to 1.", gt=0, le=1)
    least: int = setting(20, "Least", "Members in a leaf, 1 or more.", ge=1)
    shrink: float = setting(1.0, "Shrink", "Added to a leaf's curvature, 0 or more.", ge=0)
    bins: int = setting(64, "Bins", "Quantiles at which a feature is cut, 2 to 1024.", ge=2, le=1024)

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, features: Floats, target: Floats) -> Trees:
        """Grow trees from features (N, F) and targets (N).

        Raises:
            InputError: there is nobody, a value is not finite, or a target for chances is outside 0 to 1.
        """
        if features.ndim != 2 or not len(features) or target.shape != (len(features),):
            raise InputError(f"trees need one target a member, at least one, got {features.shape}, {target.shape}.")
        if not np.all(np.isfinite(features)) or not np.all(np.isfinite(target)):
            raise InputError("features and targets of trees must be finite.")
        chances = self.outcome == "chance"
        if chances and not np.all((target >= 0) & (target <= 1)):
            raise InputError(f"targets for chances are 0 to 1, got {target.min()} to {target.max()}.")
        if not chances:
            # a power of two takes no digit, and keeps squares of huge or tiny targets within the range of numbers
            size = int(np.frexp(np.abs(target).max())[1])
            if size:
                grown = self(features, np.ldexp(target, -size))
                return replace(grown, start=float(np.ldexp(grown.start, size)), leaf=np.ldexp(grown.leaf, size))
        mean = float(target.mean())
        # one made-up member of either kind keeps the logit of labels that are all alike finite
        share = (mean * len(target) + 1) / (len(target) + 2)
        start = float(np.log(share / (1 - share))) if chances else mean
        cuts, code_NF = self._binned(features)
        said = np.full(len(features), start)
        feature = np.zeros((self.trees, 2**self.depth - 1), np.int64)
        cut = np.full(feature.shape, np.inf)
        leaf = np.zeros((self.trees, 2**self.depth))
        for tree in range(self.trees):
            now = expit(said) if chances else said
            slope, bend = target - now, now * (1 - now) if chances else np.ones(len(said))
            place = self._grow(code_NF, cuts, slope, bend, feature[tree], cut[tree])
            total = np.bincount(place, weights=slope, minlength=leaf.shape[1])
            curve = np.bincount(place, weights=bend, minlength=leaf.shape[1])
            leaf[tree] = self.rate * total / np.maximum(curve + self.shrink, 1e-12)
            said += leaf[tree][place]
        return Trees(start=start, feature=feature, cut=cut, leaf=leaf, chances=chances)

    def _binned(self, features: Floats) -> tuple[list[Floats], Integers]:
        """Cuts of each feature, rising, and (N, F) in which bin each member lies: above how many cuts."""
        shares = np.arange(1, self.bins) / self.bins
        cuts = []
        for column in features.T:
            edges = np.unique(np.quantile(column, shares, method="inverted_cdf"))
            cuts.append(edges[edges < column.max()])
        codes = [np.searchsorted(edges, column, side="left") for edges, column in zip(cuts, features.T, strict=True)]
        return cuts, np.stack(codes, axis=1).astype(np.int64)

    def _grow(
        self, code_NF: Integers, cuts: list[Floats], slope: Floats, bend: Floats, feature_I: Integers, cut_I: Floats
    ) -> Integers:
        """Fill in a tree's splits, level by level, and tell each member's leaf (N)."""
        node = np.zeros(len(slope), np.int64)
        for level in range(self.depth):
            width, first = 2**level, 2**level - 1
            gain_V, which_V, bin_V = np.zeros(width), np.zeros(width, np.int64), np.zeros(width, np.int64)
            for number, edges in enumerate(cuts):
                if not len(edges):
                    continue
                bins = len(edges) + 1
                cell = node * bins + code_NF[:, number]
                summed = (np.bincount(cell, weights=part, minlength=width * bins) for part in (slope, bend, None))
                gain_VB = self._gain(*(np.cumsum(part.reshape(width, bins), axis=1, dtype=float) for part in summed))
                best = gain_VB.argmax(axis=1)
                found = np.take_along_axis(gain_VB, best[:, None], axis=1)[:, 0]
                better = found > gain_V
                gain_V[better], which_V[better], bin_V[better] = found[better], number, best[better]
            split = gain_V > 0
            feature_I[first : first + width] = which_V
            edge = [
                cuts[which][place] if go else np.inf for which, place, go in zip(which_V, bin_V, split, strict=True)
            ]
            cut_I[first : first + width] = edge
            right = split[node] & (code_NF[np.arange(len(node)), which_V[node]] > bin_V[node])
            node = 2 * node + right
        return node

    def _gain(self, left_G: Floats, left_H: Floats, left_N: Floats) -> Floats:
        """(V, B - 1) what a cut after each bin gains, 0 where a side is too small."""
        all_G, all_H, all_N = (part[:, -1:] for part in (left_G, left_H, left_N))
        low_G, low_H, low_N = (part[:, :-1] for part in (left_G, left_H, left_N))

        def score(g: Floats, h: Floats) -> Floats:
            return g**2 / np.maximum(h + self.shrink, 1e-12)

        low, high, whole = score(low_G, low_H), score(all_G - low_G, all_H - low_H), score(all_G, all_H)
        gain = low + high - whole
        allowed = (low_N >= self.least) & (all_N - low_N >= self.least)
        # differences of equal sums leave crumbs, which are no gain
        return np.where(allowed & (gain > 1e-12 * np.maximum(whole, low.max(initial=0))), gain, 0.0)
