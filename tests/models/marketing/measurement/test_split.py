"""Budgets of an experiment: rows that arms share are found, and split programs share none."""

import numpy as np
import pytest

from models.common.contracts import InputError
from models.marketing.allocation.program import Family, Program
from models.marketing.measurement.split import shared_rows, split_program


def program(members: int = 47, seed: int = 0) -> Program:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, members)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    offer = np.concatenate([rng.permutation(3)[:count] for count in counts]).astype(np.int32)
    pairs = len(offer)
    return Program(
        start=start,
        offer=offer,
        value=rng.random(pairs),
        offers=("email", "push", "ad"),
        families=(
            Family(
                name="spend",
                rows=("spend",),
                lower=np.array([2.0]),
                upper=np.array([9.0]),
                weight=rng.random(pairs),
            ),
            Family(
                name="volume",
                rows=("owned", "paid"),
                lower=np.array([-np.inf, 1.0]),
                upper=np.array([20.0, np.inf]),
                offers=np.array([0, 0, 1]),
            ),
            Family(
                name="segment",
                rows=("young", "old"),
                lower=np.full(2, -np.inf),
                upper=np.array([5.0, 6.0]),
                members=np.arange(members) % 2,
            ),
            Family(name="free", rows=("free",), lower=np.array([-np.inf]), upper=np.array([np.inf])),
        ),
        most=np.full(members, 1.0),
        members=tuple(f"u{number}" for number in range(members)),
    ).check()


def test_rows_that_both_arms_draw_from_are_named() -> None:
    whole = program()
    assert shared_rows(whole, np.zeros(47, int)) == ()
    assert shared_rows(whole, np.random.default_rng(1).integers(0, 2, 47)) == (
        "spend",
        "volume/owned",
        "volume/paid",
        "segment/young",
        "segment/old",
    )
    by_segment = shared_rows(whole, np.arange(47) % 2)  # segments are the arms: each has its own row of that family
    assert by_segment == ("spend", "volume/owned", "volume/paid")


def test_split_programs_have_their_share_of_every_bound_and_all_pairs() -> None:
    whole, arm = program(), np.random.default_rng(2).integers(0, 2, 47)
    parts = split_program(whole, arm, {0: 0.5, 1: 0.3})
    assert sum(part.E for part in parts.values()) == whole.E
    for side, share in ((0, 0.5), (1, 0.3)):
        part = parts[side].check()
        assert part.names == whole.names
        assert np.array_equal(part.upper, whole.upper * share)
        assert np.array_equal(part.lower, whole.lower * share)
        assert list(part.members or ()) == [f"u{number}" for number in np.flatnonzero(arm == side)]


def test_allocations_of_both_arms_together_have_the_loads_of_the_whole() -> None:
    whole, arm = program(), np.random.default_rng(3).integers(0, 2, 47)
    parts = split_program(whole, arm)
    x = np.random.default_rng(4).random(whole.E)
    owner = arm[whole.member_of(np.arange(whole.E))]
    together = sum(part.loads(x[owner == side]) for side, part in parts.items())
    assert together == pytest.approx(whole.loads(x), rel=1e-12)
    assert sum(part.upper[0] for part in parts.values()) == pytest.approx(9.0)


def test_an_arm_without_a_share_and_shares_above_one_are_refused() -> None:
    with pytest.raises(InputError, match="arm 1 has members and no share"):
        split_program(program(), np.arange(47) % 2, {0: 0.5})
    with pytest.raises(InputError, match="add up to at most one"):
        split_program(program(), np.arange(47) % 2, {0: 0.7, 1: 0.5})
    for wrong in (0.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="must be above zero"):
            split_program(program(), np.arange(47) % 2, {0: 0.5, 1: wrong})
    with pytest.raises(InputError, match="the program has 47 members"):
        shared_rows(program(), np.zeros(3, int))
