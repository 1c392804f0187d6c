"""Probing: exact within the lists that are read, never fewer results than possible, and a recall that was measured."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.feed.retrieval.approximate import Estimated
from models.feed.retrieval.filter import col
from models.feed.retrieval.index import Hits, RetrievalIndex
from models.feed.retrieval.probing import Probing, cluster
from models.feed.retrieval.scan import exact_scores

Vectors = NDArray[np.float32]
GROUPS = 40


def planted(random: np.random.Generator, rows: int, dimension: int = 47) -> tuple[Vectors, NDArray[np.int64]]:
    """Unit vectors around some directions, and whose each is."""
    centres = np.random.default_rng(99).standard_normal((GROUPS, dimension))
    owners = random.integers(0, GROUPS, rows)
    vectors = centres[owners] + 0.4 * random.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), owners


def planted_index(rows: int) -> tuple[RetrievalIndex, NDArray[np.int64]]:
    random = np.random.default_rng(5)
    vectors, owners = planted(random, rows)
    table = pa.table({"group": owners, "lot": random.integers(0, 1000, rows)})
    return RetrievalIndex.build(vectors, random.permutation(2 * rows)[:rows], table), owners


def alike(found: Estimated, exact: Hits[NDArray[np.float64]]) -> bool:
    return (
        np.array_equal(found.ids, exact.ids)
        and found.scores.tobytes() == exact.scores.tobytes()
        and np.array_equal(found.passing, exact.passing)
    )


def recall(found: Estimated, exact: Hits[NDArray[np.float64]]) -> float:
    pairs = [(ours, right[right >= 0]) for ours, right in zip(found.ids, exact.ids, strict=True)]
    return float(np.mean([np.isin(right, ours).mean() for ours, right in pairs if len(right)]))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([0, 1, 47, 1000]),
    dimension=st.sampled_from([3, 47, 64]),
    lists=st.sampled_from([None, 1, 3, 47]),
    k=st.sampled_from([1, 10, 200]),
    share=st.sampled_from([0, 10, 500, 1000]),
    whole=st.booleans(),
)
def test_with_all_lists_the_answer_is_the_exact_one_to_the_bit(
    seed: int, rows: int, dimension: int, lists: int | None, k: int, share: int, whole: bool
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((rows, dimension)).astype(np.float32)
    vectors = np.rint(vectors) if whole else vectors  # rows of zeros, equal rows and equal scores
    queries = random.standard_normal((5, dimension)).astype(np.float32)
    table = pa.table({"lot": random.integers(0, 1000, rows)})
    index = RetrievalIndex.build(vectors, random.permutation(10 * rows)[:rows], table)
    where = [None, *(col("lot") < share + place for place in range(3)), col("lot") < share]
    before = index.search(queries, k, where)
    probing = Probing.of(index, lists, seed=seed)
    assert alike(probing.search(queries, k, where, lists=max(1, probing.lists)), before)
    assert alike(Estimated(*index.search(queries, k, where), np.ones(5)), before)  # the exact search, rearranged


@pytest.mark.parametrize("count", [1, 2, 7])
def test_within_the_nearest_lists_the_answer_is_exact(count: int) -> None:
    index, _ = planted_index(3000)
    probing = Probing.of(index, 31)
    queries, _ = planted(np.random.default_rng(6), 20)
    found = probing.search(queries, 10, lists=count)
    payload, view = index.snapshot(), index._view()
    directions, owners = cluster(payload["vectors"], 31, seed=0)
    for query, ids, scores in zip(queries, found.ids, found.scores, strict=True):
        nearest = np.argsort(-(directions @ query), kind="stable")[:count]
        rows = np.flatnonzero(np.isin(owners, nearest))
        exact = exact_scores(torch.from_numpy(payload["vectors"][rows]), torch.from_numpy(query)).numpy()
        best = np.lexsort((payload["ids"][rows], -exact))[:10]
        assert np.array_equal(payload["ids"][rows][best], ids)
        assert np.array_equal(exact[best], scores)
    assert view.rows == 3000


def test_recall_reaches_what_was_promised_for_queries_that_were_not_measured() -> None:
    index, _ = planted_index(6000)
    probing = Probing.of(index)
    measured = probing.calibrate(planted(np.random.default_rng(6), 200)[0], k=20)
    effort, lower = measured.effort(20, 1.0, 0.95) or (0, 0.0)
    assert 0 < effort * 8 <= probing.lists  # far from all of them
    queries, _ = planted(np.random.default_rng(7), 200)
    for where in (None, [col("lot").between(low, low + 699) for low in range(200)]):
        found = probing.search(queries, 20, where, recall=0.95)
        assert (found.recall >= 0.95).all()
        assert recall(found, index.search(queries, 20, where)) >= 0.95
    assert found.recall[0] < 1
    assert lower <= measured.mean[0].max()


def test_without_queries_the_items_themselves_are_asked() -> None:
    index, _ = planted_index(3000)
    probing = Probing.of(index)
    measured = probing.calibrate(k=10)
    assert measured.queries == 512
    assert (np.diff(measured.mean, axis=1) >= 0).all()  # more lists, more recall
    assert np.allclose(measured.mean[:, -1], 1)


def test_lists_in_which_nothing_passes_do_not_count() -> None:
    """Half of the groups pass, and the queries lie in the other half."""
    index, _ = planted_index(6000)
    probing = Probing.of(index)
    probing.calibrate(planted(np.random.default_rng(6), 200)[0], k=20)
    queries, owners = planted(np.random.default_rng(7), 200)
    queries = queries[owners < GROUPS // 2]
    where = col("group") >= GROUPS // 2
    found, exact = probing.search(queries, 20, where), index.search(queries, 20, where)
    assert (found.ids >= 0).all()
    assert recall(found, exact) >= 0.6  # no promise holds here; those lists alone would have given nothing


@settings(max_examples=20, deadline=None)
@given(passing=st.integers(0, 60), lists=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_as_many_results_come_as_pass_wherever_these_lie(passing: int, lists: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors, owners = planted(random, 1000)
    order = np.argsort(np.argsort(owners, kind="stable"))  # the first so many pass: a few whole groups
    index = RetrievalIndex.build(vectors, np.arange(1000), pa.table({"order": order}))
    probing = Probing.of(index, 32, seed=seed)
    found = probing.search(vectors[:7], 40, col("order") < passing, lists=lists)
    assert (found.passing == passing).all()
    assert ((found.ids >= 0).sum(axis=1) == min(40, passing)).all()
    assert all(set(order[ids[ids >= 0]]) <= set(range(passing)) for ids in found.ids)
    assert all(len(set(ids[ids >= 0])) == min(40, passing) for ids in found.ids)


def test_where_few_pass_the_answer_is_exact_and_says_so() -> None:
    index, _ = planted_index(3000)
    probing = Probing.of(index)
    probing.calibrate(k=10)
    queries, _ = planted(np.random.default_rng(7), 5)
    found = probing.search(queries, 10, [None, *[col("lot") < 9] * 4])
    assert found.recall[0] < 1
    assert (found.recall[1:] == 1).all()
    exact = index.search(queries, 10, col("lot") < 9)
    assert np.array_equal(found.ids[1:], exact.ids[1:])


def test_what_is_written_later_is_seen_at_once() -> None:
    index, _ = planted_index(2000)
    probing = Probing.of(index)
    queries, _ = planted(np.random.default_rng(7), 3)
    first = probing.search(queries, 5, lists=1)
    index.upsert(np.arange(10_000, 10_003), queries * 3, pa.table({"group": [0] * 3, "lot": [0] * 3}))
    index.delete(first.ids[:, 0])
    found = probing.search(queries, 5, lists=1)
    assert found.ids[:, 0].tolist() == [10_000, 10_001, 10_002]
    assert not np.isin(first.ids[:, 0], found.ids).any()
    assert alike(probing.search(queries, 5, lists=probing.lists), index.search(queries, 5))
    assert probing.current


def test_after_another_compaction_answers_are_exact_until_lists_are_made_anew() -> None:
    index, _ = planted_index(2000)
    probing = Probing.of(index)
    queries, _ = planted(np.random.default_rng(7), 9)
    index.compact()
    assert not probing.current
    found = probing.search(queries, 5, lists=1)
    assert alike(found, index.search(queries, 5))
    with pytest.raises(ValueError, match="make them anew"):
        probing.calibrate(queries, k=5)
    assert Probing.of(index).current


def test_answers_do_not_depend_on_threads_or_on_who_else_is_asked() -> None:
    index, _ = planted_index(3000)
    probing = Probing.of(index)
    queries, _ = planted(np.random.default_rng(7), 13)
    where = [col("lot") < 900 - 100 * (place % 3) for place in range(13)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = probing.search(queries, 10, where, lists=2)
        torch.set_num_threads(1)
        for place in range(13):
            alone = probing.search(queries[place : place + 1], 10, where[place], lists=2)
            assert np.array_equal(alone.ids[0], together.ids[place])
    finally:
        torch.set_num_threads(threads)


def test_the_same_seed_makes_the_same_lists_and_none_is_lost() -> None:
    vectors, planted_owners = planted(np.random.default_rng(3), 3000)
    first, again = cluster(vectors, 60, seed=4), cluster(vectors, 60, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    directions, owners = first
    assert np.allclose(np.linalg.norm(directions, axis=1), 1)
    assert np.array_equal(owners, (vectors @ directions.T).argmax(axis=1))
    purest = sum(np.bincount(planted_owners[owners == one]).max() for one in np.unique(owners))
    assert purest > 0.97 * len(vectors)


def test_an_empty_list_begins_anew() -> None:
    vectors = np.repeat(np.eye(5, dtype=np.float32), 40, axis=0)  # most beginnings are equal
    _, owners = cluster(vectors, 5, seed=0)
    assert len(np.unique(owners)) == 5


def test_lists_cost_few_bytes() -> None:
    index, _ = planted_index(3000)
    probing = Probing.of(index)
    assert probing.lists == 55
    assert probing.bytes == 55 * (47 * 4 + 8) + 8
    assert probing.bytes < 4 * 3000


def test_what_cannot_be_answered_is_refused() -> None:
    index, _ = planted_index(47)
    probing = Probing.of(index)
    query = np.zeros((1, 47), np.float32)
    for call, message in (
        (lambda: Probing.of(index, 0), "lists must be at least 1"),
        (lambda: probing.search(query, 5), "call calibrate"),
        (lambda: probing.search(query, 5, lists=0), "lists must be at least 1"),
        (lambda: probing.search(query, 0, lists=1), "k must be an integer"),
        (lambda: probing.search(query[:, :3], 5, lists=1), "queries must have shape"),
        (lambda: probing.search(query.tolist(), 5, lists=1), "queries must be an array"),  # type: ignore[arg-type]
        (lambda: probing.search(query, 5, "colour == 1", lists=1), "unknown column"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    probing.calibrate(k=5)
    with pytest.raises(ValueError, match="calibrate with k=6"):
        probing.search(query, 6)
