"""The sketch: however rows are cut, the same bits; and sums of ranks equal to counting pairs one by one."""

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.marketing.measurement.outcomes import Outcomes, rank_sums, rank_sums_of

ARM = st.lists(st.sampled_from([-2.5, -1.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 7.25]), min_size=1, max_size=17)


def spend(rng: np.random.Generator, units: int, share: float = 0.2) -> np.ndarray:
    return np.where(rng.random(units) < share, np.exp(rng.standard_normal(units)).round(2), 0.0)


def same(one: Outcomes, other: Outcomes) -> bool:
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("values", "counts", "zeros"))


@settings(max_examples=100, deadline=None)
@given(ARM, ARM)
def test_sums_of_ranks_count_pairs(control: list[float], treatment: list[float]) -> None:
    found = rank_sums(control, treatment)
    pairs = [(a, b) for a in control for b in treatment]
    assert found.all_wins == sum(2 * (b > a) + (b == a) for a, b in pairs)
    assert found.wins == sum(2 * (b > a) + (b == a) for a, b in pairs if a > 0 and b > 0)
    _, counts = np.unique([*control, *treatment], return_counts=True)
    assert found.all_ties == (counts**3 - counts).sum()
    assert found == rank_sums_of(Outcomes.of(control, treatment))


@settings(max_examples=50, deadline=None)
@given(ARM, ARM, st.integers(0, 17), st.integers(0, 17))
def test_merged_parts_are_the_whole_to_the_bit(
    control: list[float], treatment: list[float], cut: int, other: int
) -> None:
    whole = Outcomes.of(control, treatment)
    first, second = Outcomes.of(control[:cut], treatment[:other]), Outcomes.of(control[cut:], treatment[other:])
    assert same(first.merged(second), whole)
    assert same(second.merged(first), whole)


@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_partitions_of_dask_give_the_same_bits_in_any_order(partitions: int) -> None:
    rng = np.random.default_rng(3)
    y, arm = spend(rng, 3 * 4711), rng.integers(0, 2, 3 * 4711)
    whole = Outcomes.of(y[arm == 0], y[arm == 1])
    rows = np.array_split(rng.permutation(len(y)), partitions)

    @dask.delayed
    def sketched(part: np.ndarray) -> Outcomes:
        return Outcomes.of(y[part][arm[part] == 0], y[part][arm[part] == 1])

    parts = [sketched(part) for part in rows]
    while len(parts) > 1:  # a tree, as a reduction of Dask makes it
        parts = [dask.delayed(lambda a, *b: a.merged(*b))(*parts[i : i + 2]) for i in range(0, len(parts), 2)]
    merged = dask.compute(parts[0], scheduler="threads")[0]
    assert same(merged, whole)
    assert rank_sums_of(merged) == rank_sums(y[arm == 0], y[arm == 1])


def test_ties_beyond_what_an_integer_of_64_bits_holds_are_counted() -> None:
    zeros = 4_000_000
    sketch = Outcomes(values=np.array([1.0]), counts=np.array([[3], [5]]), zeros=np.array([zeros, zeros]))
    assert rank_sums_of(sketch).all_ties == pytest.approx((2 * zeros) ** 3 - 2 * zeros + 8**3 - 8, rel=1e-15)


def test_a_missing_outcome_is_refused_with_arm_and_row() -> None:
    with pytest.raises(InputError, match="row 2 of the treatment is nan"):
        Outcomes.of([0.0, 1.0], [0.0, 1.0, np.nan])
    with pytest.raises(InputError, match="row 0 of the control is inf"):
        rank_sums([np.inf, -np.inf], [0.0])


def test_finite_outcomes_whose_sum_overflows_are_accepted() -> None:
    assert Outcomes.of([1e308, 1e308], [1e308]).units.tolist() == [2, 1]


def test_what_is_no_row_of_numbers_is_refused_by_arm() -> None:
    with pytest.raises(InputError, match="outcomes of the treatment are not all numbers"):
        Outcomes.of([1.0], ["much"])
    with pytest.raises(InputError, match=r"outcomes of the control have the shape \(2, 2\)"):
        Outcomes.of([[1, 2], [3, 4]], [1])
