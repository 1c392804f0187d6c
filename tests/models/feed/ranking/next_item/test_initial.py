"""The beginning of item vectors: singular vectors of pairs."""

import numpy as np
import pytest
import scipy.sparse as sparse

from models.feed.ranking.next_item.counter import count_pairs, normalized
from models.feed.ranking.next_item.initial import InitialConfig, initial_vectors, truncated_svd


def low_rank(rows: int, rank: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, rank)) * 2.0 ** -np.arange(rank) @ rng.normal(size=(rank, rows))


@pytest.mark.parametrize(("rows", "rank"), [(47, 5), (9, 9), (30, 12)])
def test_the_truncated_decomposition_is_that_of_the_whole_matrix(rows: int, rank: int) -> None:
    matrix = low_rank(rows, rank, seed=rows)
    vector, value = truncated_svd(sparse.csr_matrix(matrix), rank, seed=0)
    left, right, _ = np.linalg.svd(matrix)
    np.testing.assert_allclose(value, right[:rank], rtol=1e-6)
    np.testing.assert_allclose(np.abs((vector * left[:, :rank]).sum(0)), 1, rtol=1e-6)
    assert (vector[np.abs(vector).argmax(0), np.arange(rank)] > 0).all()


def test_the_decomposition_follows_from_its_seed_and_hardly_from_another() -> None:
    matrix = sparse.csr_matrix(low_rank(47, 8, seed=2))
    assert np.array_equal(truncated_svd(matrix, 4, 1)[0], truncated_svd(matrix, 4, 1)[0])
    np.testing.assert_allclose(truncated_svd(matrix, 4, 1)[0], truncated_svd(matrix, 4, 2)[0], atol=1e-6)


def test_inner_products_of_the_first_vectors_are_the_pairs() -> None:
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(60), 6), rng.integers(20, size=360)
    config = InitialConfig(spread=0.25)
    found = initial_vectors(config, user, item, 20, 20, 0).astype(np.float64)
    pairs = count_pairs(user, item, 20, window=10, power=0.5, backward=1.0)
    matrix = normalized(pairs, config.damping).toarray()
    # of a symmetric matrix, U S U' has the sizes of the eigenvalues: the positive part of the matrix twice, less itself
    value, vector = np.linalg.eigh(matrix)
    right = (vector * np.abs(value)) @ vector.T
    scale = (found @ found.T)[0, 0] / right[0, 0]
    np.testing.assert_allclose(found @ found.T, scale * right, atol=1e-5 * scale)
    assert found.std() == pytest.approx(0.25, rel=1e-5)


def test_items_without_pairs_begin_somewhere_and_a_narrow_catalogue_leaves_numbers_at_zero() -> None:
    user, item = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 4])
    found = initial_vectors(InitialConfig(), user, item, 5, 8, 0)
    length = np.linalg.norm(found, axis=1)
    assert (length > 1e-3).all(), "a vector of zeros has no direction"
    assert (found[:3, 5:] == 0).all()
    assert found.dtype == np.float32


def test_random_vectors_are_asked_for_by_name() -> None:
    found = initial_vectors(InitialConfig(kind="random", spread=0.02), np.zeros(0), np.zeros(0), 400, 30, 1)
    assert found.std() == pytest.approx(0.02, rel=0.03)
    assert not np.array_equal(
        found, initial_vectors(InitialConfig(kind="random", spread=0.02), np.zeros(0), np.zeros(0), 400, 30, 2)
    )
