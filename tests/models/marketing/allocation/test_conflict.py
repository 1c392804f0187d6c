from dataclasses import replace

import highspy
import numpy as np
import pytest
import scipy.sparse

from models.marketing.allocation.conflict import explain, reach, shortfalls
from models.marketing.allocation.exact import matrix, membership, solve_exactly
from models.marketing.allocation.prices import best_of_all
from models.marketing.allocation.program import Family, Infeasible, Program
from models.marketing.certificate import certify_conflict
from tests.models.marketing.allocation.worlds import bounded, impossible, world

KINDS = (1.0, "mixed", 2.0, 1.5)


def some(seed: int) -> Program:
    return impossible(seed, members=5 + seed % 9, offers=2 + seed % 4, most=KINDS[seed % 4], negative=seed % 3 == 0)


def highs_of(program: Program) -> highspy.Highs:
    """The program as HiGHS reads it: shared rows first, then one row for each member."""
    whole = scipy.sparse.vstack([matrix(program), membership(program)]).tocsc()
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = program.E, whole.shape[0]
    model.col_cost_, model.col_lower_, model.col_upper_ = np.zeros(program.E), np.zeros(program.E), np.ones(program.E)
    model.row_lower_ = np.concatenate([program.lower, np.full(program.N, -np.inf)])
    model.row_upper_ = np.concatenate([program.upper, program.most_of(slice(0, program.N))])
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = whole.indptr, whole.indices, whole.data
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.passModel(model)
    return highs


def possible(program: Program) -> bool:
    """What HiGHS' simplex says."""
    highs = highs_of(program)
    highs.run()
    status = highs.getModelStatus()
    assert status in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInfeasible)
    return bool(status == highspy.HighsModelStatus.kOptimal)


def only(program: Program, rows: tuple[str, ...]) -> Program:
    """The program with bounds on some rows alone."""
    kept = np.array([name in rows for name in program.names])
    return bounded(program, np.where(kept, program.lower, -np.inf), np.where(kept, program.upper, np.inf))


@pytest.mark.parametrize("seed", range(100))
def test_a_conflict_is_found_exactly_where_highs_finds_no_allocation(seed: int) -> None:
    program = some(seed)
    conflict = explain(program)
    assert (conflict is None) == possible(program)
    if conflict is None:
        return
    proof = certify_conflict(
        program, ray=conflict.ray, rows=conflict.rows, needed=conflict.needed, available=conflict.available
    )
    assert proof.failures() == ()
    assert not possible(only(program, conflict.rows))
    for row in conflict.rows:
        assert possible(only(program, tuple(set(conflict.rows) - {row})))


def test_conflicts_are_as_small_as_those_of_highs() -> None:
    ours, theirs, larger = 0, 0, 0
    for seed in range(80):
        program = some(seed)
        conflict = explain(program)
        if conflict is None:
            continue
        highs = highs_of(program)
        highs.setOptionValue("iis_strategy", 6)  # an irreducible set, by rows before columns
        highs.run()
        _, found = highs.getIis()
        if found.valid_:
            size = sum(row < program.K for row in found.row_index_)
            ours, theirs = ours + len(conflict.rows), theirs + size
            larger += len(conflict.rows) > size
    assert ours <= theirs
    assert larger <= 2  # an irreducible set need not be a smallest one, neither theirs nor ours


@pytest.mark.parametrize("seed", range(20))
def test_whole_allocations_that_fill_every_row_to_the_last_unit_are_possible(seed: int) -> None:
    program = world(seed, members=5 + seed % 9, offers=4, negative=seed % 2 == 0)
    x = np.zeros(program.E)
    random = np.random.default_rng(seed)
    for u in range(program.N):
        if program.start[u] < program.start[u + 1] and random.random() < 0.7:
            x[random.integers(program.start[u], program.start[u + 1])] = 1
    loads = program.loads(x)
    assert explain(bounded(program, loads, loads)) is None


@pytest.mark.parametrize("most", (1.0, 2.0))
def test_many_members_take_few_passes_and_the_same_proof(most: float) -> None:
    program = world(3, members=20_000, offers=10, most=most, groups=8)
    pairs, shares = best_of_all(program, np.zeros(program.K))
    loads = program.loads_of(pairs, 0.9 * shares)
    assert explain(bounded(program, loads, loads)) is None
    tight = bounded(program, 1.2 * loads, 1.2 * loads)
    conflict = explain(tight)
    assert conflict is not None
    proof = certify_conflict(
        tight, ray=conflict.ray, rows=conflict.rows, needed=conflict.needed, available=conflict.available
    )
    assert proof.failures() == ()


def one_row(lower: float, upper: float, weight: list[float]) -> Program:
    family = Family(
        name="spend",
        rows=("spend",),
        lower=np.array([lower]),
        upper=np.array([upper]),
        weight=np.array(weight),
    )
    # a member with two pairs, one with a single pair, one with none
    return Program(
        start=np.array([0, 2, 3, 3]),
        offer=np.array([0, 1, 1], np.int16),
        value=np.ones(3),
        offers=("a", "b"),
        families=(family,),
    )


def test_a_lower_row_above_all_reach_is_named_with_what_it_needs_and_what_there_is() -> None:
    # the first member can bring 3 at most, the second 4: 7 in all
    conflict = explain(one_row(7.5, np.inf, [2.0, 3.0, 4.0]))
    assert conflict is not None
    assert (conflict.rows, conflict.needed, conflict.available) == (("spend",), 7.5, 7.0)
    assert conflict.sentence() == "row 'spend' needs 7.5, available are 7"
    assert explain(one_row(7.0, np.inf, [2.0, 3.0, 4.0])) is None


def test_an_upper_row_below_what_nothing_uses_is_named() -> None:
    conflict = explain(one_row(-np.inf, -1.0, [2.0, 3.0, 4.0]))
    assert conflict is not None
    assert (conflict.rows, conflict.needed, conflict.available) == (("spend",), 0.0, -1.0)


def test_a_row_that_must_be_zero_is_possible_and_a_lower_one_beside_it_is_not() -> None:
    program = one_row(-np.inf, 0.0, [2.0, 3.0, 4.0])
    assert explain(program) is None
    sends = Family(name="sends", rows=("sends",), lower=np.array([1.0]), upper=np.array([np.inf]))
    both = replace(program, families=(*program.families, sends)).check()
    conflict = explain(both)
    assert conflict is not None
    assert conflict.rows == ("spend", "sends")


def test_each_row_of_a_conflict_tells_what_the_others_leave_for_it() -> None:
    # at least 2 sends, which cost 2 and 4 at the cheapest, with money for 5
    program = one_row(-np.inf, 5.0, [2.0, 3.0, 4.0])
    sends = Family(name="sends", rows=("sends",), lower=np.array([2.0]), upper=np.array([np.inf]))
    program = replace(program, families=(*program.families, sends))
    conflict = explain(program)
    assert conflict is not None
    spend, least = shortfalls(program, conflict)
    assert (spend.row, spend.side, spend.needed) == ("spend", "at most", 5.0)
    assert spend.available <= 6.0 + 1e-9  # the truth is 6; the ray proves some number between it and the bound
    assert spend.available > 5.0
    assert (least.row, least.side, least.needed) == ("sends", "at least", 2.0)
    assert 1.75 - 1e-9 <= least.available < 2.0  # 2 + 3/4 of 4 is 5
    assert "'spend' must be at most 5; with the others held it is at least" in spend.sentence()


@pytest.mark.parametrize("seed", range(20))
def test_what_the_others_leave_is_never_less_than_what_highs_reaches(seed: int) -> None:
    program = some(seed)
    conflict = explain(program)
    if conflict is None or len(conflict.rows) < 2:
        return
    for found in shortfalls(program, conflict):
        k = program.names.index(found.row)
        others = only(program, tuple(set(conflict.rows) - {found.row}))
        sign = 1.0 if found.side == "at least" else -1.0
        row = matrix(program).toarray()[k]
        reached = sign * solve_exactly(replace(others, value=sign * row)).value
        assert sign * (found.available - reached) >= -1e-9 * (1 + abs(reached))
        assert sign * (found.needed - found.available) > 0


@pytest.mark.parametrize("seed", range(12))
def test_the_reach_of_each_row_is_what_highs_finds(seed: int) -> None:
    program = some(seed)
    least, most = reach(program)
    free = bounded(program, np.full(program.K, -np.inf), np.full(program.K, np.inf))
    rows = matrix(program).toarray()
    for k in range(program.K):
        assert most[k] == pytest.approx(solve_exactly(replace(free, value=rows[k])).value, abs=1e-9)
        assert least[k] == pytest.approx(-solve_exactly(replace(free, value=-rows[k])).value, abs=1e-9)


def test_the_exact_solver_refuses_with_the_conflict() -> None:
    with pytest.raises(Infeasible, match=r"row 'spend' needs 7\.5, available are 7; widen") as refused:
        solve_exactly(one_row(7.5, np.inf, [2.0, 3.0, 4.0]))
    assert refused.value.conflict.rows == ("spend",)
    without = Program(
        start=np.zeros(3, np.int64),
        offer=np.empty(0, np.int16),
        value=np.empty(0),
        offers=("a",),
        families=(Family(name="sends", rows=("sends",), lower=np.array([1.0]), upper=np.array([2.0])),),
    )
    with pytest.raises(Infeasible, match="row 'sends' needs 1, available are 0"):
        solve_exactly(without)


@pytest.mark.parametrize("far", [1e6, 1e12])
@pytest.mark.parametrize("seed", range(12))
def test_bounds_that_are_far_off_hide_no_conflict(seed: int, far: float) -> None:
    program = some(seed)
    upper = np.where(np.isfinite(program.upper), program.upper, far)
    lower = np.where(np.isfinite(program.lower), program.lower, -far)
    plain, conflict = explain(program), explain(bounded(program, lower, upper))
    assert (plain is None) == (conflict is None)
    if plain is not None and conflict is not None:
        assert conflict.rows == plain.rows
        assert np.isfinite(np.where(conflict.ray > 0, program.upper, program.lower)[conflict.ray != 0]).all()
