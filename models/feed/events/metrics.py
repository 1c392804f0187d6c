"""How well scores order, how true chances are, how varied lists are, and how sure one may be of a difference.

Everything is computed in float64, whatever the scores come in.
"""

# Shapes: E events, U users, Q users asked for, I items, K places of a list, G categories, R resamples.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CLIP = 1e-7
"""Chances are kept this far from 0 and 1 before a logarithm is taken: a certain error costs 16.1 nats."""
BINS = 15
NEVER = 2**62
"""Place of a target that cannot be recommended: beyond every list, however long."""
_CELLS = 4_000_000
"""Numbers held at a time."""


# --- ordering ---------------------------------------------------------------------------------------------------------


def auc(label: NDArray[Any], score: NDArray[Any]) -> float:
    """Chance that a positive event scores above a negative one, ties counted half.

    Args:
        label: (E) zeros and ones.
        score: (E), finite; the larger the better.

    Returns:
        0 to 1.

    Raises:
        ValueError: labels are not zeros and ones of both kinds, or a score is not finite.

    Source:
        Hanley & McNeil 1982, "The meaning and use of the area under a receiver operating characteristic curve"; by
        ranks, in float64, as Mann & Whitney 1947.
    """
    truth, values = _checked(label, score)
    positives = int(truth.sum())
    if not 0 < positives < len(truth):
        raise ValueError(
            f"AUC needs events of both labels, got {positives} positives among {len(truth)}; take a longer slice."
        )
    rank = _ranks(values, np.zeros(len(values), np.int64))
    return float((rank[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


@dataclass(frozen=True, kw_only=True, eq=False)
class ByUser:
    """What a metric is made of, user by user; users as they occur, rising.

    Attributes:
        user: (U) codes.
        impressions: (U) events.
        positives: (U) positive events.
        auc: (U) AUC inside the user; not a number where all labels are alike.
    """

    user: Integers
    impressions: Integers
    positives: Integers
    auc: Floats


def auc_by_user(user: NDArray[Any], label: NDArray[Any], score: NDArray[Any]) -> ByUser:
    """AUC inside every user.

    Args:
        user: (E) codes.
        label: (E) zeros and ones.
        score: (E), finite.

    Returns:
        One row a user.

    Raises:
        ValueError: labels are not zeros and ones, or a score is not finite.

    Source:
        As `auc`.
    """
    truth, values = _checked(label, score)
    codes, place = np.unique(user, return_inverse=True)
    rank = _ranks(values, place)
    impressions = np.bincount(place, minlength=len(codes))
    positives = np.bincount(place, weights=truth, minlength=len(codes)).astype(np.int64)
    summed = np.bincount(place, weights=rank * truth, minlength=len(codes))
    pairs = positives * (impressions - positives)
    within = (summed - positives * (positives + 1) / 2) / np.where(pairs > 0, pairs, 1)
    return ByUser(
        user=codes.astype(np.int64), impressions=impressions, positives=positives,
        auc=np.where(pairs > 0, within, np.nan),
    )  # fmt: skip


def grouped_auc(user: NDArray[Any], label: NDArray[Any], score: NDArray[Any]) -> float:
    """gAUC: the mean over users of the AUC inside each, weighted by the user's events.

    Users whose labels are all alike have no AUC; they and their events are left out of both sums.

    Args:
        user: (E) codes.
        label: (E) zeros and ones.
        score: (E), finite.

    Returns:
        0 to 1.

    Raises:
        ValueError: no user has both labels, or as for `auc`.

    Source:
        Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction", section 6.3, equation 10.
    """
    parts = auc_by_user(user, label, score)
    both = ~np.isnan(parts.auc)
    if not both.any():
        raise ValueError(f"gAUC needs a user with both labels; none of {len(both)} has; take a longer slice.")
    return float(np.average(parts.auc[both], weights=parts.impressions[both]))


def _checked(label: NDArray[Any], score: NDArray[Any]) -> tuple[NDArray[np.bool_], Floats]:
    values = np.asarray(score, np.float64)
    if values.shape != np.shape(label) or values.ndim != 1:
        raise ValueError(
            f"labels and scores must be one row of the same length, got {np.shape(label)}, {values.shape}."
        )
    wrong = np.flatnonzero((label != 0) & (label != 1))
    if len(wrong):
        raise ValueError(f"labels must be 0 or 1, got {label[wrong[0]]} in row {wrong[0]}; choose a threshold.")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ValueError(f"scores must be finite, got {values[wrong[0]]} in row {wrong[0]}; look for a division by 0.")
    return np.asarray(label, bool), values


def _ranks(score: Floats, group: Integers) -> Floats:
    """Ranks from 1 inside every group, the mean rank for ties."""
    order = np.lexsort((score, group))
    ranked, owner = score[order], group[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (ranked[1:] != ranked[:-1]) | (owner[1:] != owner[:-1])
    first = np.flatnonzero(fresh)
    size = np.diff(np.append(first, len(order)))
    begins = np.searchsorted(owner, owner[first], side="left")
    rank = np.empty(len(order))
    rank[order] = np.repeat(first - begins + (size + 1) / 2, size)
    return rank


# --- chances ----------------------------------------------------------------------------------------------------------


def log_losses(label: NDArray[Any], chance: NDArray[Any]) -> Floats:
    """Nats that each event's label costs.

    Args:
        label: (E) zeros and ones.
        chance: (E) predicted chances, 0 to 1, kept `CLIP` away from both ends.

    Returns:
        (E) losses.

    Raises:
        ValueError: a chance is outside 0 to 1, or labels are not zeros and ones.

    Source:
        Good 1952, "Rational decisions".
    """
    truth, values = _checked(label, chance)
    wrong = np.flatnonzero((values < 0) | (values > 1))
    if len(wrong):
        raise ValueError(
            f"chances must lie from 0 to 1, got {values[wrong[0]]} in row {wrong[0]}; pass chances, not logits."
        )
    kept = np.clip(values, CLIP, 1 - CLIP)
    return -np.where(truth, np.log(kept), np.log1p(-kept))


def log_loss(label: NDArray[Any], chance: NDArray[Any]) -> float:
    """Mean nats per event; see `log_losses`."""
    return float(log_losses(label, chance).mean())


def normalized_entropy(label: NDArray[Any], chance: NDArray[Any]) -> float:
    """Log loss over that of always predicting these events' own rate: 1 has learned nothing, smaller is better.

    Args:
        label: (E) zeros and ones, both of them.
        chance: (E) predicted chances.

    Returns:
        Zero or more.

    Raises:
        ValueError: all labels are alike, or as for `log_losses`.

    Source:
        He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", section 3, equation 1.
    """
    losses = log_losses(label, chance)
    rate = float(np.mean(label, dtype=np.float64))
    if not 0 < rate < 1:
        raise ValueError(
            f"normalized entropy needs events of both labels, got a rate of {rate:g}; take a longer slice."
        )
    return float(losses.mean() / _entropy(np.float64(rate)))


def _entropy(rate: Any) -> Any:
    return -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def calibration_error(label: NDArray[Any], chance: NDArray[Any], bins: int = BINS) -> float:
    """ECE: mean distance between predicted and observed rate over bins of equal width, weighted by their events.

    Args:
        label: (E) zeros and ones.
        chance: (E) predicted chances.
        bins: how many, over 0 to 1; a chance on an edge belongs to the bin above it, 1 to the last.

    Returns:
        0 to 1.

    Raises:
        ValueError: as for `log_losses`.

    Source:
        Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; 15 bins as in Guo et al.
        2017, "On Calibration of Modern Neural Networks".
    """
    log_losses(label, chance)
    values = np.asarray(chance, np.float64)
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, weights=values - label, minlength=bins)
    return float(np.abs(gap).sum() / len(values))


def calibration_ratio(label: NDArray[Any], chance: NDArray[Any]) -> float:
    """Sum of predicted chances over the number of positives; 1 is right on average.

    Args:
        label: (E) zeros and ones, at least one of them 1.
        chance: (E) predicted chances.

    Raises:
        ValueError: there is no positive, or as for `log_losses`.

    Source:
        He et al. 2014, as above, section 3: "calibration".
    """
    log_losses(label, chance)
    positives = float(np.sum(label, dtype=np.float64))
    if not positives:
        raise ValueError(f"the calibration ratio needs a positive event, got none among {len(label)}.")
    return float(np.sum(chance, dtype=np.float64) / positives)


# --- ranking among all items ------------------------------------------------------------------------------------------


def target_ranks(
    score_QI: NDArray[Any], target_Q: NDArray[Any], seen_row: NDArray[Any], seen_item: NDArray[Any]
) -> Integers:
    """Place of each user's target among all items not seen, from 0; ties count against the target.

    Args:
        score_QI: scores, not written to; minus infinity for what cannot be recommended, but never a NaN.
        target_Q: the held-out item of each user.
        seen_row: rows of the pairs (row, item) that the users met before.
        seen_item: their items; seen items are out of the ranking, the target never is, not even when seen.

    Returns:
        (Q) how many other items score at least as high; `NEVER` for a target of minus infinity.

    Raises:
        ValueError: a score is not a number.

    Source:
        Full ranking as in Krichene & Rendle 2020, "On Sampled Metrics for Item Recommendation"; ties against the
        model, so that constant scores never hit.
    """
    if np.isnan(score_QI).any():
        row, item = np.argwhere(np.isnan(score_QI))[0]
        raise ValueError(f"scores must be numbers, got NaN for row {row}, item {item}.")
    rows = np.arange(len(score_QI))
    own_Q = score_QI[rows, target_Q]
    rank = (score_QI >= own_Q[:, None]).sum(1) - 1
    pair = np.unique(np.asarray(seen_row, np.int64) * score_QI.shape[1] + seen_item)
    row, item = np.divmod(pair, score_QI.shape[1])
    counted = (item != target_Q[row]) & (score_QI[row, item] >= own_Q[row])
    rank = rank - np.bincount(row[counted], minlength=len(rows))
    return np.asarray(np.where(np.isneginf(own_Q), NEVER, rank), np.int64)


def hit_rate_at(rank: Integers, k: int) -> Floats:
    """Whether each target is among the first k; with one target this is also the recall.

    Args:
        rank: (Q) places from 0.
        k: length of the list.

    Source:
        He et al. 2017, "Neural Collaborative Filtering", section 4.1.
    """
    return np.asarray(rank < k, np.float64)


def ndcg_at(rank: Integers, k: int) -> Floats:
    """Discounted gain of each target, 1 / log2(place + 2), zero beyond the first k.

    Args:
        rank: (Q) places from 0.
        k: length of the list.

    Source:
        Jarvelin & Kekalainen 2002, "Cumulated gain-based evaluation of IR techniques", base 2; with one target the
        ideal gain is 1.
    """
    return np.where(rank < k, 1 / np.log2(rank + 2.0), 0.0)


# --- variety ----------------------------------------------------------------------------------------------------------


def similarity(has_IG: NDArray[Any]) -> Floats:
    """Cosine of the categories of every two items; 0 for items without.

    Args:
        has_IG: whether, or how much, an item has of a category.

    Returns:
        (I, I) 0 to 1, the diagonal 1.

    Source:
        Salton & McGill 1983, "Introduction to Modern Information Retrieval".
    """
    vectors = np.asarray(has_IG, np.float64)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(norm > 0, norm, 1)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, 1)
    return np.asarray(alike)


def intra_list_distance(list_QK: Integers, has_IG: NDArray[Any]) -> Floats:
    """ILD: mean distance, one minus cosine, over all pairs of each list.

    Args:
        list_QK: items, -1 where a list ends early.
        has_IG: whether an item has a category.

    Returns:
        (Q) 0 to 1; 0 for lists of fewer than two items.

    Source:
        Ziegler et al. 2005, "Improving Recommendation Lists Through Topic Diversification", section 3.3, here as a
        distance, as in Zhang & Hurley 2008, "Avoiding monotony".
    """
    vectors_IG = np.asarray(has_IG, np.float64)
    norm = np.linalg.norm(vectors_IG, axis=1, keepdims=True)
    vectors_IG = vectors_IG / np.where(norm > 0, norm, 1)
    there = list_QK >= 0
    vectors_QKG = vectors_IG[np.where(there, list_QK, 0)] * there[:, :, None]
    # the cosines of all ordered pairs are the square of the sum less the squares
    both = (vectors_QKG.sum(1) ** 2).sum(1) - (vectors_QKG**2).sum((1, 2))
    size = there.sum(1)
    pairs = size * (size - 1)
    return np.where(pairs > 0, 1 - both / np.where(pairs > 0, pairs, 1), 0.0)


def distinct_categories(list_QK: Integers, has_IG: NDArray[Any]) -> Integers:
    """How many categories stand in each list.

    Args:
        list_QK: items, -1 where a list ends early.
        has_IG: whether an item has a category.

    Returns:
        (Q) counts.

    Source:
        Ours; a plain count that a person can check.
    """
    there = list_QK >= 0
    has = np.asarray(has_IG, bool)[np.where(there, list_QK, 0)] & there[:, :, None]
    return np.asarray(has.any(1).sum(1), np.int64)


def maximal_marginal_relevance(
    candidate_QC: Integers, score_QC: NDArray[Any], has_IG: NDArray[Any], k: int, weight: float
) -> Integers:
    """Lists in which each next item is good and unlike those above it.

    The next item is the largest  weight * score - (1 - weight) * (largest similarity to an item already chosen).

    Args:
        candidate_QC: items to choose from, -1 where there are fewer; of those within 1e-9 the earlier is taken.
        score_QC: their scores, on a scale comparable to a cosine, such as chances.
        has_IG: whether an item has a category.
        k: length of the lists.
        weight: 1 ranks by score alone, 0 by variety alone.

    Returns:
        (Q, k) items, -1 where a list ends early.

    Raises:
        ValueError: the weight is outside 0 to 1.

    Source:
        Carbonell & Goldstein 1998, "The use of MMR, diversity-based reranking".
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie from 0 to 1, got {weight}.")
    vectors_IG = np.asarray(has_IG, np.float64)
    norm = np.linalg.norm(vectors_IG, axis=1, keepdims=True)
    vectors_IG = vectors_IG / np.where(norm > 0, norm, 1)
    rows = np.arange(len(candidate_QC))
    vectors_QCG = vectors_IG[np.maximum(candidate_QC, 0)]
    free_QC = candidate_QC >= 0
    nearest_QC = np.zeros(candidate_QC.shape)
    lists = np.full((len(candidate_QC), k), -1, np.int64)
    for place in range(min(k, candidate_QC.shape[1])):
        worth = weight * np.asarray(score_QC, np.float64) - (1 - weight) * nearest_QC
        # cosines of the same angle differ by a rounding; without this, equals would be told apart by it
        best = np.where(free_QC, np.round(worth, 9), -np.inf).argmax(1)
        left = free_QC.any(1)
        lists[left, place] = candidate_QC[rows, best][left]
        free_QC[rows, best] = False
        alike = np.einsum("qcg,qg->qc", vectors_QCG, vectors_QCG[rows, best])
        nearest_QC = alike if place == 0 else np.maximum(nearest_QC, alike)
    return lists


# --- how sure ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference and the interval that covers it."""

    difference: float
    low: float
    high: float

    @property
    def off_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


_Measure = Callable[[Integers, NDArray[Any], NDArray[Any]], Callable[[Floats], Floats]]
"""Makes of users, labels and scores a function from (R, U) how often each user was drawn to (R) values."""


def paired_difference(
    user: NDArray[Any],
    label: NDArray[Any],
    ours: NDArray[Any],
    theirs: NDArray[Any],
    metric: Literal["auc", "gauc", "ne"],
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Difference ours - theirs of a metric, with a percentile bootstrap interval over users.

    Whole users are drawn, with all their events and both scores, so both models keep meeting the same users. A resample
    without both labels says nothing and is left out.

    Args:
        user: (E) codes.
        label: (E) zeros and ones.
        ours: (E) scores; chances for "ne".
        theirs: (E) scores of the other model.
        metric: "auc", "gauc", or "ne" for normalized entropy, where smaller is better.
        seed: of the resampling.
        resamples: how many.
        level: coverage, 0 to 1.

    Returns:
        The difference on all users, and the interval.

    Raises:
        ValueError: as for the metric, or the metric is unknown.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; clusters as in Field & Welsh 2007,
        "Bootstrapping clustered data".
    """
    codes, place = np.unique(user, return_inverse=True)
    rng = np.random.default_rng(seed)
    measures: dict[str, _Measure] = {"auc": _WeightedAuc, "gauc": _WeightedGroupedAuc, "ne": _WeightedEntropy}
    if metric not in measures:
        raise ValueError(f"metric must be one of {list(measures)}, got {metric!r}.")
    left, right = measures[metric](place, label, ours), measures[metric](place, label, theirs)
    whole = np.ones((1, len(codes)))
    difference = float((left(whole) - right(whole))[0])
    if np.isnan(difference):
        raise ValueError(f"{metric} needs events of both labels, and for gauc a user with both; take a longer slice.")
    found = []
    block = max(1, _CELLS // (2 * len(place)))
    for first in range(0, resamples, block):
        size = (min(block, resamples - first), len(codes))
        drawn = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=size[0]).astype(np.float64)
        found.append(left(drawn) - right(drawn))
    low, high = np.nanquantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Interval(difference=difference, low=float(low), high=float(high))


class _WeightedAuc:
    """AUC of events weighted by how often their user was drawn."""

    def __init__(self, place: Integers, label: NDArray[Any], score: NDArray[Any]) -> None:
        truth, values = _checked(label, score)
        order = np.argsort(values, kind="stable")
        self.owner = place[order]
        self.truth = truth[order].astype(np.float64)
        ranked = values[order]
        self.first = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))

    def __call__(self, drawn_RU: Floats) -> Floats:
        weight_RE = drawn_RU[:, self.owner]
        positive_RT = np.add.reduceat(weight_RE * self.truth, self.first, axis=1)
        all_RT = np.add.reduceat(weight_RE, self.first, axis=1)
        negative_RT = all_RT - positive_RT
        below_RT = np.cumsum(negative_RT, 1) - negative_RT / 2
        pairs_R = positive_RT.sum(1) * negative_RT.sum(1)
        won_R = (positive_RT * below_RT).sum(1)
        return np.where(pairs_R > 0, won_R / np.where(pairs_R > 0, pairs_R, 1), np.nan)


class _WeightedGroupedAuc:
    """gAUC of users weighted by how often they were drawn."""

    def __init__(self, place: Integers, label: NDArray[Any], score: NDArray[Any]) -> None:
        parts = auc_by_user(place, label, score)
        both = ~np.isnan(parts.auc)
        self.weight = np.where(both, parts.impressions, 0).astype(np.float64)
        self.gained = self.weight * np.where(both, parts.auc, 0)

    def __call__(self, drawn_RU: Floats) -> Floats:
        total_R = drawn_RU @ self.weight
        return np.where(total_R > 0, drawn_RU @ self.gained / np.where(total_R > 0, total_R, 1), np.nan)


class _WeightedEntropy:
    """Normalized entropy of users weighted by how often they were drawn."""

    def __init__(self, place: Integers, label: NDArray[Any], score: NDArray[Any]) -> None:
        self.loss = np.bincount(place, weights=log_losses(label, score))
        self.size = np.bincount(place).astype(np.float64)
        self.positives = np.bincount(place, weights=np.asarray(label, np.float64))

    def __call__(self, drawn_RU: Floats) -> Floats:
        total_R = drawn_RU @ self.size
        rate_R = drawn_RU @ self.positives / total_R
        both = (rate_R > 0) & (rate_R < 1)
        entropy_R = _entropy(np.where(both, rate_R, 0.5))
        return np.where(both, drawn_RU @ self.loss / total_R / entropy_R, np.nan)
