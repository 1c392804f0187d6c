"""Recall as it is measured: known efforts give known recall, and a promise is a lower end."""

import numpy as np
import pytest

from models.feed.retrieval.approximate import SHARES, Question, measure
from models.feed.retrieval.engine import Best
from models.feed.retrieval.index import RetrievalIndex

EFFORTS = np.array([1, 3, 7, 10])


def index_of(rows: int) -> RetrievalIndex:
    random = np.random.default_rng(0)
    return RetrievalIndex.build(random.standard_normal((rows, 5)).astype(np.float32), np.arange(rows) * 3)


def places(question: Question, truth: Best) -> np.ndarray:
    """Rank 1 is found by effort 1, rank 2 by effort 2, and so on."""
    return np.broadcast_to(np.arange(1, truth.rows.shape[1] + 1), truth.rows.shape)


def test_recall_is_the_share_of_the_exact_answer_that_an_effort_finds() -> None:
    queries = np.random.default_rng(1).standard_normal((47, 5)).astype(np.float32)
    found = measure(index_of(1000), queries, 10, EFFORTS, places, seed=0)
    assert np.allclose(found.mean, [[0.1, 0.3, 0.7, 1.0]] * len(SHARES))
    assert (found.lower <= found.mean + 1e-12).all()
    assert found.lower[0, -1] < 1  # so many queries without a miss prove no more
    assert found.queries == 47


def test_an_item_is_left_out_of_its_own_answer() -> None:
    index = index_of(300)

    def own_first(question: Question, truth: Best) -> np.ndarray:
        own = (question.vectors[truth.rows] == question.queries[:, None]).all(axis=-1) & (truth.rows >= 0)
        return np.where(own, 1, 5)

    found = measure(index, None, 10, np.array([1, 4, 5]), own_first, seed=0)
    assert found.mean[0].tolist() == [0, 0, 1]


def test_places_that_nothing_fills_are_no_misses() -> None:
    found = measure(index_of(4), None, 10, EFFORTS, places, seed=0)
    assert found.mean[:, -1].tolist() == [1] * len(SHARES)
    assert found.mean[0, 0] < 1


def test_the_effort_is_the_least_whose_lower_end_reaches_the_recall_at_the_next_smaller_share() -> None:
    queries = np.random.default_rng(1).standard_normal((47, 5)).astype(np.float32)

    def harder_when_narrow(question: Question, truth: Best) -> np.ndarray:
        return np.full(truth.rows.shape, 3 if question.share(0) > 0.6 else 10)

    found = measure(index_of(1000), queries, 10, EFFORTS, harder_when_narrow, seed=0)
    assert found.effort(10, 1.0, 0.9) == (3, found.lower[0, 1])
    assert found.effort(4, 0.65, 0.9) == (10, found.lower[2, 3])  # 0.5 is the next that was measured
    assert found.effort(10, 0.001, 0.9) is None
    assert found.effort(10, 1.0, 1.0) is None
    assert found.rows(0.9)[0] == (1.0, 3, found.mean[0, 1], found.lower[0, 1])
    assert found.rows(1.0)[0][1] is None
    with pytest.raises(ValueError, match="calibrate with k=11"):
        found.effort(11, 1.0, 0.9)
    with pytest.raises(ValueError, match="recall must be above 0"):
        found.effort(10, 1.0, 95)


def test_nothing_is_measured_without_items_or_queries() -> None:
    with pytest.raises(ValueError, match="without items"):
        measure(index_of(0), None, 10, EFFORTS, places, seed=0)
    with pytest.raises(ValueError, match="needs queries"):
        measure(index_of(9), np.zeros((0, 5), np.float32), 10, EFFORTS, places, seed=0)
