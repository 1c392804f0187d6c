"""Metrics agree with their definitions, baselines are honest, intervals cover."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.retrieval.metrics import (
    Seen,
    best_window,
    coverage,
    hit_rate,
    ndcg,
    paired_interval,
    popularity,
    popularity_lists,
    rank_by,
    recall,
    reciprocal_rank,
)

lists_and_relevant = st.tuples(
    st.permutations(list(range(9))), st.lists(st.integers(0, 8), unique=True, max_size=4), st.integers(1, 12)
)


@given(lists_and_relevant)
def test_metrics_are_their_definitions(case: tuple[list[int], list[int], int]) -> None:
    ranked, relevant, k = case
    lists = np.array([ranked[:7]])
    wanted = np.array([relevant + [-1] * (4 - len(relevant))])
    places = [place for place, item in enumerate(ranked[:7][:k], 1) if item in relevant]
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(len(relevant), k) + 1))
    gain = sum(1 / math.log2(place + 1) for place in places)
    assert hit_rate(lists, wanted, k)[0] == bool(places)
    assert recall(lists, wanted, k)[0] == pytest.approx(len(places) / max(len(relevant), 1))
    assert ndcg(lists, wanted, k)[0] == pytest.approx(gain / ideal if ideal else 0)
    assert reciprocal_rank(lists, wanted, k)[0] == pytest.approx(1 / places[0] if places else 0)


@given(lists_and_relevant)
def test_longer_lists_never_find_less(case: tuple[list[int], list[int], int]) -> None:
    ranked, relevant, k = case
    lists, wanted = np.array([ranked]), np.array([relevant + [-1] * (4 - len(relevant))])
    for metric in (hit_rate, recall, reciprocal_rank):
        assert metric(lists, wanted, k)[0] <= metric(lists, wanted, k + 1)[0]


def test_an_empty_place_is_never_a_hit() -> None:
    lists, wanted = np.array([[4, -1, -1]]), np.array([[2, -1]])
    assert hit_rate(lists, wanted, 3)[0] == 0
    assert coverage(np.array([[4, -1], [4, 2]]), 8, 2) == 0.25


def interactions(rows: list[tuple[int, int, int]]) -> pa.Table:
    user, item, time = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {"user": pa.array(user, pa.int64()), "item": pa.array(item, pa.int64()), "time": pa.array(time, pa.int64())}
    )


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ranking_is_by_score_then_row_without_what_was_seen(data: st.DataObject) -> None:
    met = data.draw(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 10)), max_size=40))
    k = data.draw(st.integers(1, 14))
    left = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=10, max_size=10)), np.float32).reshape(5, 2)
    right = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=22, max_size=22)), np.float32).reshape(11, 2)
    seen = Seen([interactions([(u, i, 0) for u, i in met])], 5)
    users = np.array([3, 0, 4, 4])
    found = rank_by(left[users], right, users, seen, k)
    for row, user in enumerate(users):
        open_items = [i for i in range(11) if (user, i) not in met]
        best = sorted(open_items, key=lambda i: (-(left[user] @ right[i]), i))[:k]
        assert found[row].tolist() == best + [-1] * (k - len(best))


def test_dropping_keeps_the_order_of_a_list() -> None:
    seen = Seen([interactions([(0, 3, 0), (0, 5, 0), (2, 9, 0)])], 3)
    lists = np.array([[5, 1, 3, 0], [5, 1, 3, 0], [9, -1, -1, -1]])
    assert seen.drop(lists, np.array([0, 1, 2]), 3).tolist() == [[1, 0, -1], [5, 1, 3], [-1, -1, -1]]


def test_popularity_counts_the_latest_share_and_skips_what_was_seen() -> None:
    table = interactions([(0, 2, 1), (1, 2, 2), (2, 2, 3), (3, 0, 8), (4, 0, 9), (5, 1, 10)])
    assert popularity([table], 4, 1.0).tolist() == [2, 1, 3, 0]
    assert popularity([table], 4, 0.5).tolist() == [2, 1, 0, 0]
    lists = popularity_lists(popularity([table], 4, 1.0), np.array([0, 5]), Seen([table], 6), 3)
    assert lists.tolist() == [[0, 1, 3], [2, 0, 3]]


def test_the_window_of_popularity_is_that_which_serves_validation_best() -> None:
    old = [(user, 0, user) for user in range(20)]
    new = [(20 + user, 1, 100 + user) for user in range(10)]
    table = interactions(old + new)
    users, seen = np.array([30, 31]), Seen([table], 32)
    assert best_window([table], 3, users, seen, np.array([[0], [0]]), 1) == 1.0
    assert best_window([table], 3, users, seen, np.array([[1], [1]]), 1) == 0.5  # ten of the latest fifteen


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(300):
        theirs = rng.random(150) < 0.3
        ours = theirs ^ (rng.random(150) < np.where(theirs, 0.1, 0.2))  # true difference 0.7 * 0.2 - 0.3 * 0.1 = 0.11
        low, high = paired_interval(ours.astype(float), theirs.astype(float), seed=trial, resamples=400)
        covered += low <= 0.11 <= high
    assert 0.90 <= covered / 300 <= 0.985  # 0.95 nominal; three standard errors are 0.038


def test_the_interval_is_that_of_resampled_users_and_repeats_with_its_seed() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(80), rng.random(80)
    low, high = paired_interval(ours, theirs, seed=1, resamples=4000)
    means = [(ours - theirs)[rng.integers(0, 80, 80)].mean() for _ in range(4000)]
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.01)
    assert (low, high) == paired_interval(ours, theirs, seed=1, resamples=4000)
    assert paired_interval(ours, ours, seed=1) == (0.0, 0.0)
