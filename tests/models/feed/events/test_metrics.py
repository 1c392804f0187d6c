"""Metrics agree with their definitions, counted pair by pair; intervals cover what they should."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.events.metrics import (
    CLIP,
    NEVER,
    auc,
    auc_by_user,
    calibration_error,
    calibration_ratio,
    distinct_categories,
    grouped_auc,
    hit_rate_at,
    intra_list_distance,
    log_loss,
    maximal_marginal_relevance,
    ndcg_at,
    normalized_entropy,
    paired_difference,
    similarity,
    target_ranks,
)

# --- ordering ---------------------------------------------------------------------------------------------------------

events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=40)


def counted(label: list[int], score: list[Any]) -> float | None:
    """Share of pairs, of a positive and a negative, in the right order; ties half."""
    pairs = [
        1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
        for i, j in itertools.product(range(len(label)), repeat=2)
        if label[i] == 1 and label[j] == 0
    ]
    return sum(pairs) / len(pairs) if pairs else None


@settings(max_examples=150)
@given(events)
def test_auc_counts_pairs(rows: list[tuple[int, int, int]]) -> None:
    _, label, score = (list(column) for column in zip(*rows, strict=True))
    right = counted(label, score)
    if right is None:
        with pytest.raises(ValueError, match="needs events of both labels"):
            auc(np.array(label), np.array(score))
        return
    assert auc(np.array(label), np.array(score)) == pytest.approx(right, abs=1e-12)
    assert auc(np.array(label), -np.array(score)) == pytest.approx(1 - right, abs=1e-12)


@settings(max_examples=150)
@given(events)
def test_grouped_auc_weighs_users_by_events_and_drops_those_with_one_label(rows: list[tuple[int, int, int]]) -> None:
    user, label, score = (np.array(column) for column in zip(*rows, strict=True))
    weights, areas = [], []
    for who in range(5):
        mine = user == who
        found = counted(label[mine].tolist(), score[mine].tolist())
        if found is not None:
            weights.append(int(mine.sum()))
            areas.append(found)
    if not areas:
        with pytest.raises(ValueError, match="needs a user with both labels"):
            grouped_auc(user, label, score)
        return
    assert grouped_auc(user, label, score) == pytest.approx(np.average(areas, weights=weights), abs=1e-12)
    parts = auc_by_user(user, label, score)
    assert parts.auc[~np.isnan(parts.auc)].tolist() == pytest.approx(areas)


def test_auc_of_many_close_scores_is_exact() -> None:
    """2^24 + 1 is no float32: sums of ranks in float32 would drift."""
    size = 20_000
    score = np.arange(size, dtype=np.float64) * 1e-9 + 1
    label = np.arange(size) % 2
    assert auc(label, score) == (size / 2 + 1) / size  # the k-th positive beats k of the size / 2 negatives


# --- chances ----------------------------------------------------------------------------------------------------------


def test_the_constant_rate_has_a_normalized_entropy_of_one() -> None:
    label = np.array([1, 0, 0, 1, 0, 0, 0])
    assert normalized_entropy(label, np.full(7, 2 / 7)) == pytest.approx(1, abs=1e-15)
    assert normalized_entropy(label, np.full(7, 0.5)) > 1
    assert normalized_entropy(label, label * 0.8 + 0.1) == pytest.approx(
        -math.log(0.9) / -(2 / 7 * math.log(2 / 7) + 5 / 7 * math.log(5 / 7))
    )


def test_log_loss_is_the_mean_of_nats_and_a_certain_error_is_finite() -> None:
    assert log_loss(np.array([1, 0]), np.array([0.25, 0.5])) == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert log_loss(np.array([1]), np.array([0.0])) == pytest.approx(-math.log(CLIP))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_calibration_error_goes_through_the_bins(rows: list[tuple[int, float]]) -> None:
    label, chance = (np.array(column) for column in zip(*rows, strict=True))
    total = 0.0
    for number in range(15):
        inside = [(y, p) for y, p in rows if min(int(p * 15), 14) == number]
        if inside:
            gap = sum(p for _, p in inside) / len(inside) - sum(y for y, _ in inside) / len(inside)
            total += len(inside) / len(rows) * abs(gap)
    assert calibration_error(label, chance) == pytest.approx(total, abs=1e-12)


def test_calibration_ratio_is_predicted_over_observed() -> None:
    assert calibration_ratio(np.array([1, 0, 0, 1]), np.array([0.5, 0.5, 0.25, 0.25])) == 0.75
    with pytest.raises(ValueError, match="needs a positive event, got none among 2"):
        calibration_ratio(np.zeros(2), np.full(2, 0.5))


@pytest.mark.parametrize(
    ("label", "score", "message"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], "labels must be 0 or 1, got 2 in row 2"),
        ([0, 1], [0.1, float("nan")], "scores must be finite, got nan in row 1"),
        ([0, 1], [0.1, 0.2, 0.3], "same length"),
    ],
)
def test_labels_and_scores_that_mean_nothing_are_refused(label: list[int], score: list[float], message: str) -> None:
    user = np.zeros(len(label), int)
    measures: list[Callable[[Any, Any], Any]] = [auc, log_loss, normalized_entropy, calibration_error]
    measures.append(lambda y, s: grouped_auc(user, y, s))
    for measure in measures:
        with pytest.raises(ValueError, match=message):
            measure(np.array(label), np.array(score))


def test_logits_are_not_taken_for_chances() -> None:
    with pytest.raises(ValueError, match=r"got 1.5 in row 1; pass chances, not logits"):
        log_loss(np.array([0, 1]), np.array([0.2, 1.5]))
    with pytest.raises(ValueError, match="both labels, got a rate of 1"):
        normalized_entropy(np.ones(3), np.full(3, 0.5))


# --- ranking among all items ------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=4),
    st.data(),
)
def test_ranks_count_items_not_seen_that_score_as_high(scores: list[list[int]], data: st.DataObject) -> None:
    target = data.draw(st.lists(st.integers(0, 6), min_size=len(scores), max_size=len(scores)))
    seen = data.draw(st.lists(st.tuples(st.integers(0, len(scores) - 1), st.integers(0, 6)), max_size=20))
    found = target_ranks(
        np.array(scores, np.float32), np.array(target),
        np.array([row for row, _ in seen], int), np.array([item for _, item in seen], int),
    )  # fmt: skip
    for row, own in enumerate(target):
        better = [
            item
            for item in range(7)
            if item != own and (row, item) not in seen and scores[row][item] >= scores[row][own]
        ]
        assert found[row] == len(better)


def test_constant_scores_never_hit_and_a_seen_target_is_still_ranked() -> None:
    none = np.zeros(0, int)
    rank = target_ranks(np.zeros((1, 30)), np.array([3]), none, none)
    assert rank.tolist() == [29] and hit_rate_at(rank, 10).tolist() == [0]
    score = np.arange(5.0)[None]
    assert target_ranks(score, np.array([3]), np.array([0, 0]), np.array([3, 4])).tolist() == [0]


def test_a_target_that_cannot_be_recommended_is_a_miss_and_nan_is_refused() -> None:
    none = np.zeros(0, int)
    score = np.array([[-np.inf, -np.inf, 0.5]])
    rank = target_ranks(score, np.array([1]), none, none)
    assert rank.tolist() == [NEVER] and hit_rate_at(rank, 100).tolist() == ndcg_at(rank, 100).tolist() == [0]
    with pytest.raises(ValueError, match="got NaN for row 0, item 1"):
        target_ranks(np.array([[0, np.nan]]), np.array([0]), none, none)


def test_hits_and_gains_of_places() -> None:
    rank = np.array([0, 1, 9, 10])
    assert hit_rate_at(rank, 10).tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(ndcg_at(rank, 10), [1, 1 / math.log2(3), 1 / math.log2(11), 0])


# --- variety ----------------------------------------------------------------------------------------------------------

HAS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]], bool)


def test_similarity_is_the_cosine_of_categories() -> None:
    alike = similarity(HAS)
    assert alike[0, 1] == pytest.approx(1 / math.sqrt(2)) and alike[0, 2] == 0 and alike[0, 4] == 1
    assert alike[3].tolist() == [0, 0, 0, 1, 0], "without categories an item is like itself alone"


def test_intra_list_distance_is_the_mean_over_pairs() -> None:
    lists = np.array([[0, 1, 2], [0, 4, -1], [2, -1, -1], [3, 0, 1]])
    alike = similarity(HAS)
    right = []
    for row in lists:
        pairs = [1 - alike[i, j] for i, j in itertools.combinations([item for item in row if item >= 0], 2)]
        right.append(np.mean(pairs) if pairs else 0)
    np.testing.assert_allclose(intra_list_distance(lists, HAS), right, atol=1e-12)
    assert distinct_categories(lists, HAS).tolist() == [3, 1, 1, 2]


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_marginal_relevance_takes_the_best_of_each_step(seed: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    has = rng.random((11, 4)) < 0.4
    candidates = np.stack([rng.permutation(11)[:6] for _ in range(3)])
    candidates[2, 4:] = -1
    score = rng.integers(0, 4, (3, 6)) / 4
    vectors = has / np.maximum(np.linalg.norm(has.astype(float), axis=1, keepdims=True), 1e-12)
    found = maximal_marginal_relevance(candidates, score, has, 5, weight)
    for row in range(3):
        left = [place for place in range(6) if candidates[row, place] >= 0]
        chosen: list[int] = []
        while left and len(chosen) < 5:

            def worth(place: int, row: int = row, chosen: list[int] = chosen) -> float:
                near = [float(vectors[candidates[row, place]] @ vectors[item]) for item in chosen]
                return weight * score[row, place] - (1 - weight) * max(near, default=0.0)

            best = max(left, key=lambda place: (round(worth(place), 9), -place))
            left.remove(best)
            chosen.append(int(candidates[row, best]))
        assert found[row].tolist() == chosen + [-1] * (5 - len(chosen))


def test_variety_costs_relevance_and_the_weight_is_checked() -> None:
    rng = np.random.default_rng(0)
    has, candidates, score = rng.random((60, 7)) < 0.3, np.tile(np.arange(60), (20, 1)), rng.random((20, 60))
    plain, varied = (maximal_marginal_relevance(candidates, score, has, 10, weight) for weight in (1.0, 0.5))
    assert plain.tolist() == np.argsort(-score, axis=1)[:, :10].tolist()
    assert intra_list_distance(varied, has).mean() > intra_list_distance(plain, has).mean() + 0.1
    with pytest.raises(ValueError, match=r"weight must lie from 0 to 1, got 1.5"):
        maximal_marginal_relevance(candidates, score, has, 10, 1.5)


# --- how sure ---------------------------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[Any, Any, Any], float]] = {
    "auc": lambda user, label, score: auc(label, score),
    "gauc": grouped_auc,
    "ne": lambda user, label, score: normalized_entropy(label, score),
}


def two_models(seed: int, users: int = 60) -> tuple[Any, ...]:
    """Users of very different size; ours is better than theirs, and both give ties."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users) * 3, rng.integers(1, 40, users))
    taste = rng.normal(0, 1, users)[user // 3]
    logit = taste + rng.normal(0, 1, len(user)) - 0.5
    label = (rng.random(len(user)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    ours = np.round(1 / (1 + np.exp(-logit)), 2)
    theirs = np.round(1 / (1 + np.exp(-(logit + rng.normal(0, 1.5, len(user))))), 2)
    return user, label, ours, theirs


@pytest.mark.parametrize("metric", MEASURES)
def test_the_interval_is_that_of_drawing_users_and_measuring_again(metric: Any) -> None:
    user, label, ours, theirs = two_models(0)
    found = paired_difference(user, label, ours, theirs, metric, seed=5, resamples=200)
    measure = MEASURES[metric]
    assert found.difference == pytest.approx(measure(user, label, ours) - measure(user, label, theirs), abs=1e-12)
    codes = np.unique(user)
    rng = np.random.default_rng(5)
    again = []
    for drawn in rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=200):
        rows = np.concatenate(
            [np.flatnonzero(user == who) for who, n in zip(codes, drawn, strict=True) for _ in range(n)]
        )
        copies = np.repeat(np.arange(drawn.sum()), [(user == who).sum() for who, n in zip(codes, drawn, strict=True)
                                                    for _ in range(n)])  # fmt: skip
        again.append(measure(copies, label[rows], ours[rows]) - measure(copies, label[rows], theirs[rows]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])), abs=1e-10)


def test_a_better_model_is_told_and_the_same_model_is_not() -> None:
    user, label, ours, theirs = two_models(1, users=200)
    better = paired_difference(user, label, ours, theirs, "auc", seed=0)
    assert better.off_zero and better.low > 0.02
    assert paired_difference(user, label, ours, theirs, "ne", seed=0).high < 0
    same = paired_difference(user, label, ours, ours, "gauc", seed=0)
    assert (same.difference, same.low, same.high) == (0, 0, 0) and not same.off_zero


def test_intervals_cover_no_difference_about_as_often_as_they_say() -> None:
    """Two models of the same quality: 95 % of 120 intervals hold zero, give or take 4 standard errors (8 %)."""
    covered = 0
    for seed in range(120):
        user, label, ours, _ = two_models(seed, users=70)
        rng = np.random.default_rng(seed + 1000)
        left, right = (np.clip(ours + rng.normal(0, 0.1, len(ours)), 0.01, 0.99) for _ in range(2))
        found = paired_difference(user, label, left, right, "auc", seed=seed, resamples=300)
        covered += found.low <= 0 <= found.high
    assert 0.87 < covered / 120 <= 1


def test_the_blocks_in_which_users_are_drawn_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    user, label, ours, theirs = two_models(2)
    whole = paired_difference(user, label, ours, theirs, "auc", seed=1, resamples=101)
    monkeypatch.setattr("models.feed.events.metrics._CELLS", 7 * 2 * len(user))
    assert paired_difference(user, label, ours, theirs, "auc", seed=1, resamples=101) == whole


def test_an_unknown_metric_and_one_label_are_refused() -> None:
    user, label, ours, theirs = two_models(3)
    with pytest.raises(ValueError, match="metric must be one of"):
        paired_difference(user, label, ours, theirs, "map", seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gauc needs events of both labels"):
        paired_difference(np.arange(len(user)), label, ours, theirs, "gauc", seed=0)
