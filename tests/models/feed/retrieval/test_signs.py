"""Signs: scores as the papers write them, exact answers when all is scored again, and a recall that was measured."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.feed.retrieval.approximate import Question
from models.feed.retrieval.filter import col
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.signs import Method, Signs, one_permutation, rotation

Vectors = NDArray[np.float32]
METHODS: list[Method] = ["oporp", "rotation"]
SHAPES = [(1, 3), (47, 47), (1000, 64)]


def planted(random: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Unit vectors around some directions."""
    centres = np.random.default_rng(99).standard_normal((20, dimension))
    vectors = centres[random.integers(0, 20, rows)] + 0.6 * random.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def index_of(rows: int, dimension: int) -> RetrievalIndex:
    random = np.random.default_rng(rows)
    table = pa.table({"lot": random.integers(0, 1000, rows)})
    return RetrievalIndex.build(planted(random, rows, dimension), np.arange(rows) * 2, table)


def scores_of(signs: Signs, queries: Vectors) -> NDArray[np.float64]:
    """What the compiled loop says of all rows, in order of row."""
    question = Question.of(signs.index, queries, 1)
    near, rows, counts = signs._candidates(question, range(len(queries)), signs.index.rows)
    assert (counts == signs.index.rows).all()
    scores = np.empty(near.shape)
    np.put_along_axis(scores, rows, near.astype(np.float64), axis=1)
    return scores


@pytest.mark.parametrize(("rows", "dimension"), SHAPES)
@pytest.mark.parametrize("bits", [32, 64, 96])
def test_signs_are_compared_by_the_count_of_those_that_differ(rows: int, dimension: int, bits: int) -> None:
    signs = Signs(index_of(rows, dimension), "oporp", bits=bits, seed=3)
    queries = planted(np.random.default_rng(1), 3, dimension)
    vectors = signs.index._view().vectors.numpy()
    found = scores_of(signs, queries)
    for q, query in enumerate(queries):
        a = [value >= 0 for value in signs.projection @ query]
        for row in range(min(rows, 47)):
            b = [value >= 0 for value in signs.projection @ vectors[row]]
            differing = sum(one != other for one, other in zip(a, b, strict=True))
            assert found[q, row] == bits - 2 * differing


@pytest.mark.parametrize(("rows", "dimension"), SHAPES)
@pytest.mark.parametrize("bits", [32, 64, 96])
def test_products_are_estimated_from_signs_a_factor_and_four_bits_of_the_query(
    rows: int, dimension: int, bits: int
) -> None:
    signs = Signs(index_of(rows, dimension), "rotation", bits=bits, seed=3)
    queries = planted(np.random.default_rng(1), 3, dimension)
    vectors = signs.index._view().vectors.numpy()
    rest = (vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)) @ signs.projection.T
    factors = np.square(vectors - vectors.mean(axis=0)).sum(axis=1) / np.maximum(np.abs(rest).sum(axis=1), 1e-30)
    asked = queries @ signs.projection.T
    largest = np.abs(asked).max(axis=1, keepdims=True)
    levels = 2 * np.clip(np.floor((asked / largest + 1) * 8), 0, 15) - 15  # -15, -13 .. 15, in units of largest / 16
    expected = levels @ np.where(rest >= 0, 1, -1).T * factors
    assert np.allclose(scores_of(signs, queries), expected, rtol=2**-7, atol=1e-6)
    assert np.abs(levels / 16 - asked / largest).max() <= 1 / 16 + 1e-6


def test_the_estimate_has_no_bias_over_rotations() -> None:
    random = np.random.default_rng(2)
    x, q = random.standard_normal((2, 47))
    estimates = []
    for seed in range(400):
        turned = rotation(64, 47, seed).astype(np.float64)
        y = turned @ x
        estimates.append(x @ x / np.abs(y).sum() * (turned @ q) @ np.where(y >= 0, 1, -1))
    assert abs(np.mean(estimates) - x @ q) < 4 * np.std(estimates) / 400**0.5
    assert np.std(estimates) < 0.2 * np.linalg.norm(x) * np.linalg.norm(q)


@pytest.mark.parametrize(("bits", "dimension"), [(32, 64), (64, 64), (32, 3), (64, 47), (32, 100)])
def test_one_permutation_sums_bins_of_signed_permuted_numbers(bits: int, dimension: int) -> None:
    x = np.random.default_rng(8).integers(-9, 9, dimension)
    projected = one_permutation(bits, dimension, 5) @ x
    random, expected = np.random.default_rng(5), list[int]()
    repetitions = -(-bits // dimension)
    for part in range(repetitions):
        bins = len(range(bits)[part::repetitions])
        pi, r = random.permutation(dimension), random.choice([-1, 1], dimension)
        y = [int(x[i] * r[i]) for i in pi]  # (x o r)[pi]
        start = 0
        for place in range(bins):
            length = dimension // bins + (place < dimension % bins)
            expected.append(sum(y[start : start + length]))
            start += length
        assert start == dimension
    assert projected.tolist() == expected


@pytest.mark.parametrize(("bits", "dimension"), [(32, 3), (64, 47), (64, 64), (32, 64), (96, 64)])
def test_a_rotation_is_orthogonal(bits: int, dimension: int) -> None:
    matrix = rotation(bits, dimension, 1).astype(np.float64)
    product = matrix.T @ matrix if bits >= dimension else matrix @ matrix.T
    assert np.allclose(product, np.eye(min(bits, dimension)), atol=1e-6)
    assert not np.array_equal(matrix, rotation(bits, dimension, 2))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([0, 1, 47, 1000]),
    dimension=st.sampled_from([3, 47, 64]),
    method=st.sampled_from(METHODS),
    k=st.sampled_from([1, 10, 200]),
    share=st.sampled_from([0, 10, 500, 1000]),
    whole=st.booleans(),
)
def test_the_answer_is_exact_when_all_rows_are_scored_again(
    seed: int, rows: int, dimension: int, method: Method, k: int, share: int, whole: bool
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((rows, dimension)).astype(np.float32)
    vectors = np.rint(vectors) if whole else vectors
    index = RetrievalIndex.build(vectors, np.arange(rows), pa.table({"lot": random.integers(0, 1000, rows)}))
    signs = Signs(index, method, seed=seed % 100)
    queries = random.standard_normal((4, dimension)).astype(np.float32)
    where = [None, col("lot") < share, col("lot") < share + 1, col("lot") < share]
    found, exact = signs.search(queries, k, where, candidates=max(k, rows)), index.search(queries, k, where)
    assert np.array_equal(found.ids, exact.ids)
    assert found.scores.tobytes() == exact.scores.tobytes()
    assert np.array_equal(found.passing, exact.passing)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 10, 999])
def test_candidates_are_the_best_by_signs_and_of_equals_the_first(method: Method, count: int) -> None:
    signs = Signs(index_of(5000, 47), method, bits=32)
    queries = planted(np.random.default_rng(1), 3, 47)
    scores = scores_of(signs, queries)
    question = Question.of(signs.index, queries, 1)
    near, rows, counts = signs._candidates(question, range(3), count)
    for q in range(3):
        expected = np.lexsort((np.arange(5000), -scores[q]))[:count]
        assert np.array_equal(rows[q], expected)
        assert np.array_equal(near[q], scores[q][expected].astype(np.float32))
    assert (counts == count).all()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_is_seen_at_once(method: Method) -> None:
    index = index_of(1000, 47)
    signs = Signs(index, method)
    queries = planted(np.random.default_rng(1), 3, 47)
    first = signs.search(queries, 5, candidates=200)
    index.upsert(np.array([7001, 7003, 7005]), queries * 2, pa.table({"lot": [1, 2, 3]}))
    index.delete(first.ids[:, 0])
    for _ in range(2):
        found = signs.search(queries, 5, candidates=200)
        assert found.ids[:, 0].tolist() == [7001, 7003, 7005]
        assert not np.isin(first.ids[:, 0], found.ids).any()
        index.compact()  # rows have other numbers now


def test_twelve_bytes_and_sixteen_rows_for_each_result_reach_the_recall() -> None:
    index = index_of(6000, 64)
    signs = Signs(index)
    kinds = [signs, Signs(index, "oporp"), Signs(index, bits=96)]
    assert [kind.bytes_per_item for kind in kinds] == [10, 8, 14]
    assert [kind._held.codes.nbytes + kind._held.factors.nbytes for kind in kinds] == [60_000, 48_000, 84_000]
    random = np.random.default_rng(6)
    measured = signs.calibrate(planted(random, 200, 64), k=30)
    assert measured.efforts.max() == 480
    queries = planted(random, 200, 64)
    for where in (None, [col("lot").between(low, low + 499) for low in random.integers(0, 500, 200)]):
        found, exact = signs.search(queries, 30, where, recall=0.97), index.search(queries, 30, where)
        assert (found.recall >= 0.97).all()
        assert (found.recall < 1).all()
        hits = np.mean([np.isin(right, ours).mean() for right, ours in zip(exact.ids, found.ids, strict=True)])
        assert hits >= 0.95  # what other queries tell is uncertain as well
        assert np.array_equal(found.passing, exact.passing)


def test_where_few_pass_the_answer_is_exact_and_says_so() -> None:
    index = index_of(3000, 47)
    signs = Signs(index)
    signs.calibrate(k=10)
    queries = planted(np.random.default_rng(7), 5, 47)
    found = signs.search(queries, 10, col("lot") < 9)
    assert (found.recall == 1).all()
    assert np.array_equal(found.ids, index.search(queries, 10, col("lot") < 9).ids)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_and_threads_do_not(method: Method) -> None:
    index = index_of(2000, 47)
    queries = planted(np.random.default_rng(1), 13, 47)
    first = Signs(index, method, seed=1).search(queries, 10, candidates=20)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = Signs(index, method, seed=1).search(queries, 10, candidates=20)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(first.ids, again.ids)
    assert not np.array_equal(first.ids, Signs(index, method, seed=2).search(queries, 10, candidates=20).ids)


def test_what_cannot_be_answered_is_refused() -> None:
    index = index_of(47, 47)
    signs = Signs(index)
    query = np.zeros((1, 47), np.float32)
    for call, message in (
        (lambda: Signs(index, bits=33), "bits must be a multiple of 32"),
        (lambda: Signs(index, bits=0), "bits must be a multiple of 32"),
        (lambda: Signs(index, "simhash"), "method must be one of"),  # type: ignore[arg-type]
        (lambda: signs.search(query, 5), "call calibrate"),
        (lambda: signs.search(query, 5, candidates=4), "candidates must be at least k = 5"),
        (lambda: signs.search(query, 0, candidates=4), "k must be an integer"),
        (lambda: signs.search(query[:, :3], 5, candidates=9), "queries must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
