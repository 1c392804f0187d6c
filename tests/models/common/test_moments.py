"""Moments of data in pieces: exact whatever the pieces, at every scale, with everything missing that can be."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.errors import InputError
from models.common.moments import Moments, merge, moments


def two_passes(values: list[float]) -> tuple[float, float]:
    """Mean and variance by rational numbers, as a textbook writes them."""
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction()) / len(exact)
    return float(mean), float(sum(((value - mean) ** 2 for value in exact), Fraction()) / len(exact))


def cut(values: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Pieces of random sizes, some empty, in random order."""
    places = np.sort(rng.integers(0, len(values) + 1, 7))
    pieces = np.split(values, places)
    rng.shuffle(pieces)  # type: ignore[arg-type]
    return pieces


ADVERSARIAL = {
    "a mean far above the spread": lambda rng: 1e15 + rng.integers(-3, 4, 4001).astype(float),
    "scales from smallest to largest": lambda rng: rng.choice([-1, 1], 999) * 2.0 ** rng.uniform(-1074, 500, 999),
    "sums that cancel": lambda rng: np.concatenate([(big := 1e300 * rng.random(50)), [1e-300], -big]) * 1e-150,
    "subnormal numbers": lambda rng: rng.integers(-9, 9, 77) * 5e-324,
    "zeros of both signs": lambda rng: np.array([0.0, -0.0, -0.0, 0.0]),
    "flux of tiny size, pressure of large": lambda rng: np.concatenate([1e-9 * rng.random(300), [101325.0] * 300]),
}  # fmt: skip


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_mean_and_variance_agree_with_rational_numbers_whatever_the_pieces(case: str) -> None:
    rng = np.random.default_rng(7)
    values = ADVERSARIAL[case](rng)
    mean, variance = two_passes(values.tolist())
    whole = moments(values)
    for _ in range(4):
        merged = merge(moments(piece) for piece in cut(values, rng))
        assert merged == whole
        # equality, where the goal is 1e-12
        assert merged.mean == mean
        assert merged.variance == variance
        assert merged.deviation == pytest.approx(math.sqrt(variance), rel=4e-16) or not variance
        assert merged.minimum == values.min()
        assert merged.maximum == values.max()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=False, width=64), max_size=40),
    places=st.lists(st.integers(0, 40), max_size=4),
)
def test_any_list_in_any_pieces_gives_what_fsum_gives(values: list[float], places: list[int]) -> None:
    array = np.array(values, float)
    found = merge(moments(piece) for piece in np.split(array, sorted(min(place, len(array)) for place in places)))
    there = [value for value in values if not math.isnan(value)]
    assert found == moments(array)
    assert found.count == len(there)
    assert found.missing == len(values) - len(there)
    if there and max(map(abs, there)) < 1e150:
        assert found.mean * len(there) == pytest.approx(math.fsum(there), rel=1e-15, abs=1e-320)
        assert found.variance == two_passes(there)[1]


def test_variance_survives_where_a_running_mean_loses_it() -> None:
    values = 1e9 + np.random.default_rng(1).random(10_001) * 1e-4
    wide = values.astype(np.longdouble)
    expected = float(((wide - wide.mean()) ** 2).mean())
    assert moments(values).variance == pytest.approx(expected, rel=1e-12)
    one_pass = np.mean(values**2) - np.mean(values) ** 2
    assert abs(one_pass / expected - 1) > 1  # what is avoided


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint16", "int32", "int64", "uint64", "bool"]
)
def test_every_numeric_type_is_taken_at_its_exact_values(dtype: str) -> None:
    rng = np.random.default_rng(3)
    values = (rng.random(203) * (1 if dtype == "bool" else 90) + 0.7).astype(dtype)
    mean, variance = two_passes([float(value) for value in values])
    found = moments(values)
    assert (found.mean, found.variance) == (mean, variance)
    assert (found.minimum, found.maximum) == (float(values.min()), float(values.max()))


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_whole_numbers_beyond_the_reach_of_float64_stay_exact(dtype: str) -> None:
    limits = np.iinfo(dtype)
    values = np.array([limits.min, limits.max, limits.max - 1, 1, 0, limits.max // 3], dtype)
    exact = [Fraction(int(value)) for value in values]
    mean = sum(exact, Fraction()) / 6
    found = moments(values)
    assert found.mean == float(mean)
    assert found.variance == float(sum((value - mean) ** 2 for value in exact) / 6)
    assert found.lows == (int(limits.min),)
    assert found.highs == (int(limits.max),)


def test_kept_axes_have_moments_of_their_own_in_the_order_asked_for() -> None:
    values = np.random.default_rng(2).normal(250, 30, (3, 5, 4, 7)).astype(np.float32)
    found = moments(values, keep=(-1, 1))
    assert found.shape == (7, 5)
    wide = values.astype(np.float64)
    assert found.mean == pytest.approx(wide.mean((0, 2)).T, rel=1e-12)
    assert found.variance == pytest.approx(wide.var((0, 2)).T, rel=1e-12)
    np.testing.assert_array_equal(found.maximum, values.max((0, 2)).T)
    np.testing.assert_array_equal(found.count, np.full((7, 5), 12))


def test_nan_and_fill_are_missing_and_the_fill_is_compared_in_the_arrays_own_type() -> None:
    values = np.array([1.0, np.nan, 1e15, 3.0], np.float32)
    found = moments(values, fill=1e15)
    assert (found.count, found.missing, found.mean, found.maximum) == (2, 2, 2.0, 3.0)
    # the published statistics took the fill for a temperature
    assert moments(values).mean > 3e14
    codes = moments(np.array([0, 1, 2, 2], np.uint8), fill=2)
    assert (codes.count, codes.missing, codes.mean) == (2, 2, 0.5)
    assert moments(np.array([0, 1], np.uint8), fill=-999).missing == 0
    assert moments(np.array([0, 1], np.uint8), fill=0.5).missing == 0
    assert moments(np.array([0.0, np.nan]), fill=math.nan).missing == 1


def test_nothing_at_all_has_no_mean_and_changes_nothing() -> None:
    empty = moments(np.zeros((0, 3)), keep=(1,))
    assert np.isnan(empty.mean).all()
    assert np.isnan(empty.variance).all()
    assert np.isnan(empty.deviation).all()
    assert np.isnan(empty.minimum).all()
    some = moments(np.arange(6.0).reshape(2, 3), keep=(1,))
    assert empty + some == some == some + empty
    only_missing = moments(np.full((4, 3), np.nan), keep=(1,))
    assert (only_missing.count.sum(), only_missing.missing.sum()) == (0, 12)
    assert moments(np.zeros((0, 3)), keep=(0,)).mean.shape == (0,)


def test_a_variance_beyond_float64_is_infinite_and_its_root_is_not() -> None:
    found = moments(np.array([-1e300, 1e300]))
    assert found.variance == math.inf
    assert found.deviation == pytest.approx(1e300, rel=1e-15)


def test_the_state_goes_through_json_without_a_change() -> None:
    values = np.array([[1e-310, -1e300, 0.1], [np.nan, 2.5, 7.0]])
    state = moments(values, keep=(1,))
    again = Moments.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    np.testing.assert_array_equal(again.variance, state.variance)
    nothing = moments(np.array([], np.int64))
    assert Moments.from_json(json.loads(json.dumps(nothing.to_json()))) == nothing


def test_an_infinity_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match=r"-inf at \(1, 0\)"):
        moments(np.array([[1.0, 2.0], [-np.inf, 3.0]]), keep=(1,))


def test_times_text_and_long_doubles_are_refused() -> None:
    for values in (np.array(["a"]), np.array(["2020"], "M8[D]"), np.array([1j]), np.array([1], np.longdouble)):
        with pytest.raises(TypeError, match="must be floating-point numbers"):
            moments(values)


def test_pieces_that_keep_other_axes_apart_do_not_add() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        _ = moments(np.zeros((2, 3)), keep=(0,)) + moments(np.zeros((2, 3)), keep=(1,))
    with pytest.raises(ValueError, match="at least one piece"):
        merge([])


def test_blocks_of_cells_stand_side_by_side_and_neither_overlap_nor_leave_a_hole() -> None:
    from models.common.moments import side_by_side

    values = np.random.default_rng(3).normal(size=(5, 4, 9))
    whole = moments(values, keep=(0, 1))
    corners = [(0, 0), (0, 3), (2, 0), (2, 3)]
    blocks = {
        (a, b): moments(values[a : a + (2 if a == 0 else 3), b : b + (3 if b == 0 else 1)], keep=(0, 1))
        for a, b in corners
    }
    assert side_by_side(blocks) == whole
    assert side_by_side({(): moments(values)}) == moments(values)
    with pytest.raises(ValueError, match="no block has the cell"):
        side_by_side({corner: block for corner, block in blocks.items() if corner != (0, 3)})
    with pytest.raises(ValueError, match="two blocks"):
        side_by_side({**blocks, (1, 0): blocks[2, 0]})
