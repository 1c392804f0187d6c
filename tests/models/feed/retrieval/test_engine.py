"""The engine against the plain scan: the same bits, whichever way a question takes."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.feed.retrieval import engine as module
from models.feed.retrieval import kernels
from models.feed.retrieval.attributes import FEW, Selection, tiles_of
from models.feed.retrieval.engine import Engine
from models.feed.retrieval.scan import exact_scores
from tests.models.feed.retrieval.test_index import CASES

Vectors = NDArray[np.float32]


def expected(
    queries: Vectors, k: int, masks: NDArray[np.bool_], vectors: Vectors, ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All scores in float64, sorted."""
    scores = np.full((len(queries), k), -np.inf)
    found = np.full((len(queries), k), -1, np.int64)
    for number, mask in enumerate(masks):
        rows = np.flatnonzero(mask)
        exact = exact_scores(torch.from_numpy(vectors[rows]), torch.from_numpy(queries[number])).numpy()
        best = np.lexsort((ids[rows], -exact))[:k]
        scores[number, : len(best)], found[number, : len(best)] = exact[best], ids[rows][best]
    return scores, found


def check(queries: Vectors, k: int, masks: NDArray[np.bool_], vectors: Vectors, ids: NDArray[np.int64]) -> None:
    engine = Engine(vectors.shape[1])
    half = len(vectors) // 3
    engine.append(vectors[half : 3 * half], 0)
    engine.append(vectors[:half], 0)
    engine.append(vectors[half:], half)  # as after writes that failed half-way
    best = engine.search(queries, k, [Selection.of(mask) for mask in masks], vectors, ids)
    scores, found = expected(queries, k, masks, vectors, ids)
    assert np.array_equal(best.ids, found)
    assert best.scores.tobytes() == scores.tobytes()
    held = best.rows >= 0
    assert np.array_equal(ids[best.rows[held]], best.ids[held])
    assert not held[best.ids < 0].any()


def lumpy(random: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Some groups of rows that are close to one another."""
    centres = random.standard_normal((max(1, rows // 50), dimension))
    vectors = centres[random.integers(0, len(centres), rows)] + 0.1 * random.standard_normal((rows, dimension))
    return vectors.astype(np.float32)


def of_all_lengths(random: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Lengths from 1e-20 to 1e17, so that the errors of the longest hide what the others score."""
    return (lumpy(random, rows, dimension) * 10.0 ** random.integers(-20, 17, (rows, 1))).astype(np.float32)


def equal(random: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Five different rows, over and over: ties are decided by id."""
    return lumpy(random, 5, dimension)[random.integers(0, 5, rows)]


def denormal(random: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Numbers below what a float32 can be divided by."""
    return (lumpy(random, rows, dimension) * 1e-40).astype(np.float32)


def whole(random: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Small integers: many scores are equal."""
    return random.integers(-2, 3, (rows, dimension)).astype(np.float32)


def nothing(random: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Zeros."""
    return np.zeros((rows, dimension), np.float32)


WORLDS: list[Callable[..., Vectors]] = [lumpy, of_all_lengths, equal, denormal, whole, nothing]


@settings(max_examples=CASES, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    world=st.sampled_from(WORLDS),
    rows=st.integers(0, 3000),
    dimension=st.integers(1, 70),
    queries=st.integers(1, 20),
    k=st.sampled_from([1, 2, 10, 100, 700]),
    passing=st.sampled_from([0.0, 0.003, 0.02, 0.3, 1.0]),
)
def test_every_way_gives_the_bits_of_an_exhaustive_scan(
    seed: int, world: Callable[..., Vectors], rows: int, dimension: int, queries: int, k: int, passing: float
) -> None:
    random = np.random.default_rng(seed)
    vectors = world(random, rows, dimension)
    asked = world(random, max(rows, queries), dimension)[:queries].copy()
    if queries > 1:
        asked[0] = 0
    ids = random.permutation(10 * rows)[:rows].astype(np.int64)
    masks = random.random((queries, rows)) < passing * random.choice([1.0, 0.01], (queries, 1))
    check(asked, k, masks, vectors, ids)


@pytest.mark.parametrize("queries", [1, 2, kernels.GROUP, kernels.GROUP + 1, 3 * kernels.GROUP])
@pytest.mark.parametrize("passing", [1.0, 0.7, 0.5 / FEW])
def test_a_filter_that_is_shared_and_one_of_ones_own_answer_alike(queries: int, passing: float) -> None:
    random = np.random.default_rng(7)
    vectors, asked, ids = lumpy(random, 5000, 32), lumpy(random, queries, 32), np.arange(5000)
    mask = random.random(5000) < passing
    engine = Engine(32)
    engine.append(vectors, 0)
    one = Selection.of(mask)
    together = engine.search(asked, 50, [one] * queries, vectors, ids)
    apart = engine.search(asked, 50, [Selection.of(mask) for _ in range(queries)], vectors, ids)
    for left, right in zip(together, apart, strict=True):
        assert np.array_equal(left, right)
    check(asked, 50, np.repeat(mask[None], queries, axis=0), vectors, ids)


@pytest.mark.parametrize("queries", [1, 5, 21])
@pytest.mark.parametrize("passing", [0.5, 0.02])
def test_threads_share_rows_and_queries_without_a_difference(
    monkeypatch: pytest.MonkeyPatch, queries: int, passing: float
) -> None:
    random = np.random.default_rng(8)
    vectors, asked, ids = lumpy(random, 20_000, 24), lumpy(random, 21, 24)[:queries], random.permutation(20_000)
    masks = random.random((queries, 20_000)) < passing
    monkeypatch.setattr(module, "_READ_TOGETHER", 1000)
    monkeypatch.setattr(module, "_TILES_FOR_THREADS", 1)
    monkeypatch.setattr(module, "_BYTES_FOR_THREADS", 1)
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(module, "threads_to_use", lambda threads=threads: threads)
        check(asked, 100, masks, vectors, ids)


def test_the_longest_scores_that_codes_can_have_do_not_overflow() -> None:
    vectors = np.full((40, 4096), 1.0, np.float32)
    vectors[::2] = -1.0
    check(vectors[:2].copy(), 30, np.ones((2, 40), np.bool_), vectors, np.arange(40))


def test_a_board_that_cannot_be_cleared_is_scored_exactly() -> None:
    """All rows are as good as one another but for the last bits: nothing may be dropped by codes."""
    random = np.random.default_rng(9)
    vectors = (1 + 1e-6 * random.standard_normal((30_000, 16))).astype(np.float32)
    check(vectors[:9].copy(), 10, np.ones((9, 30_000), np.bool_), vectors, random.permutation(30_000))


def test_rows_that_are_appended_while_others_search_are_not_seen_and_disturb_nobody() -> None:
    random = np.random.default_rng(10)
    vectors, asked = lumpy(random, 40_000, 16), lumpy(random, 3, 16)
    ids, rows = np.arange(40_000), 1003
    engine = Engine(16)
    engine.append(vectors[:rows], 0)
    mask = Selection.of(np.ones(rows, np.bool_))
    scores, found = expected(asked, 20, np.ones((3, rows), np.bool_), vectors[:rows], ids[:rows])
    differences: list[Any] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            best = engine.search(asked, 20, [mask] * 3, vectors[:rows], ids[:rows])
            if best.scores.tobytes() != scores.tobytes() or not np.array_equal(best.ids, found):
                differences.append(best)

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    for start in range(rows, 40_000, 37):
        engine.append(vectors[start : start + 37], start)
    ended.set()
    for reader in readers:
        reader.join()
    assert differences == []
    assert engine.rows == 40_000


def test_a_child_of_a_process_that_has_searched_can_search_too() -> None:
    """It has none of the threads of its parent."""
    random = np.random.default_rng(12)
    vectors, asked, ids = lumpy(random, 500, 16), lumpy(random, 64, 16), np.arange(500)
    masks = np.ones((64, 500), np.bool_)
    check(asked, 5, masks, vectors, ids)
    child = os.fork()
    if not child:
        try:
            signal.alarm(60)
            check(asked, 5, masks, vectors, ids)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@given(st.lists(st.booleans(), max_size=70))
def test_a_selection_says_what_its_mask_says(flags: list[bool]) -> None:
    mask = np.array(flags, np.bool_)
    selection = Selection.of(mask)
    assert selection.count == sum(flags)
    rows, tiles = selection.as_rows(), tiles_of(len(flags))
    assert rows.tolist() == np.flatnonzero(mask).tolist()
    assert selection.as_bits(tiles).shape == (tiles,)
    assert Selection(len(rows), rows=rows).as_bits(tiles).tolist() == selection.as_bits(tiles).tolist()


@pytest.mark.parametrize("width", [64, 192])
@pytest.mark.parametrize("queries", [1, kernels.GROUP])
def test_a_processor_without_the_instruction_gets_the_same_integers(
    monkeypatch: pytest.MonkeyPatch, queries: int, width: int
) -> None:
    """The tile kernel, generated both ways, on all bytes that there are."""
    random = np.random.default_rng(11)
    codes, scales = module.aligned_array((16, width), np.uint8), module.aligned_array((16,), np.float32)
    asked, scores = module.aligned_array((queries, width), np.int8), module.aligned_array((queries, 16), np.float32)
    codes[:], scales[:] = random.integers(0, 256, codes.shape), 2.0 ** random.integers(-3, 4, 16)
    asked[:] = random.integers(-127, 128, asked.shape)
    starts = random.integers(-(2**20), 2**20, queries).astype(np.int32)
    floors = np.zeros(queries, np.float32)
    sums = asked.astype(np.int64) @ codes.T.astype(np.int64) + starts[:, None]
    expected_bits = np.packbits(sums >= 0, axis=1, bitorder="little").view("<u2")[:, 0]
    for vnni in {False, kernels._VNNI}:
        monkeypatch.setattr(kernels, "_VNNI", vnni)
        bits = np.full(queries, 0xFFFF, np.uint16)
        first, last = [codes, scales, asked, starts], [floors, scores, bits]
        found = called(kernels._tile_kernel(queries))(
            *(array.ctypes.data for array in first), width, *(array.ctypes.data for array in last)
        )
        assert np.array_equal(scores, sums.astype(np.float32) * scales)
        assert np.array_equal(bits, expected_bits)
        assert bool(found) == bool(expected_bits.any())


def called(kernel: Any) -> Any:
    """A function of Python that calls an intrinsic of numba."""

    @numba.njit
    def call(a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int) -> int:
        return kernel(a, b, c, d, e, f, g, h)

    return call
