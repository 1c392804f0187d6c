"""Look-alikes: cosines, index answers and heads find who resembles the seeds, and hand over further pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.marketing.adaptive.lookalikes import (
    best_cosines,
    best_neighbours,
    expand,
    extra_pairs,
    fit_head,
)
from models.marketing.allocation.program import Limits, Program
from models.marketing.allocation.solver import solve


def embedded(seed: int, rows: int, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (rows, width))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 12))
def test_the_score_is_the_mean_of_the_best_cosines(seed: int, seeds: int, best: int) -> None:
    candidates, known = embedded(seed, 23), embedded(seed + 1, seeds)
    cosine = (candidates @ known.T) / np.linalg.norm(candidates, axis=1)[:, None] / np.linalg.norm(known, axis=1)
    plain = np.sort(cosine, axis=1)[:, ::-1][:, :best].mean(1)
    assert best_cosines(candidates, known, best=best) == pytest.approx(plain)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 4), max_size=9), st.integers(1, 4))
def test_duplicates_of_seeds_and_lengths_change_nothing(seed: int, copies: list[int], best: int) -> None:
    candidates, known = embedded(seed, 11), embedded(seed + 1, 5)
    doubled = np.concatenate([known, known[copies]])
    assert best_cosines(candidates, doubled, best=best) == pytest.approx(best_cosines(candidates, known, best=best))
    assert best_cosines(3 * candidates, known, best=best) == pytest.approx(best_cosines(candidates, known, best=best))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 8))
def test_an_index_that_answers_with_everybody_gives_the_cosines(seed: int, best: int) -> None:
    members, known = embedded(seed, 17), embedded(seed + 1, 5)
    cosine = (known @ members.T) / np.linalg.norm(known, axis=1)[:, None] / np.linalg.norm(members, axis=1)
    order = np.argsort(-cosine, axis=1)
    found = best_neighbours(order, np.take_along_axis(cosine, order, 1), 17, best=best)
    assert found == pytest.approx(best_cosines(members, known, best=best))


def test_members_that_no_list_holds_come_last_and_empty_places_count_for_nothing() -> None:
    ids, cosine = np.array([[2, 0, -1], [2, 1, 0]]), np.array([[0.9, 0.2, np.nan], [0.7, 0.6, 0.1]])
    assert best_neighbours(ids, cosine, 4, best=1) == pytest.approx([0.2, 0.6, 0.9, -1.0])
    assert best_neighbours(ids, cosine, 4, best=2) == pytest.approx([0.15, -0.2, 0.8, -1.0])
    assert best_neighbours(ids, cosine, 4, best=2, absent=0.0) == pytest.approx([0.15, 0.3, 0.8, 0.0])


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_cosines_do_not_know_lengths_however_huge_or_tiny(unit: float) -> None:
    rng = np.random.default_rng(9)
    members, seeds = rng.normal(size=(20, 3)), rng.normal(size=(5, 3))
    assert best_cosines(members * unit, seeds / unit, best=2) == pytest.approx(best_cosines(members, seeds, best=2))


def test_a_member_without_an_embedding_resembles_nobody() -> None:
    assert best_cosines(np.zeros((1, 7)), embedded(0, 3)).tolist() == [0.0]


def world(seed: int, size: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members, who converts, who comes near: both along one direction."""
    rng = np.random.default_rng(seed)
    members = rng.normal(0, 1, (size, 7))
    taste = members @ np.array([1.0, -0.5, 0.25, 0, 0, 0, 0])
    converted = rng.random(size) < 1 / (1 + np.exp(4.5 - taste))
    near = converted | (rng.random(size) < 1 / (1 + np.exp(2.0 - taste)))
    return members, converted, near


def test_the_head_finds_held_out_converters_and_near_seeds_help() -> None:
    plain, helped, chance = [], [], []
    for seed in range(4):
        members, converted, near = world(seed)
        early = np.arange(len(members)) < 2000
        rule = members[2000:, 3] > 1.0
        for found, known in ((plain, None), (helped, near[early])):
            head = fit_head(members[early], converted[early], near=known)
            grown = expand(head.scores(members[~early]), rule, 400)
            assert not rule[grown.added].any()
            found.append(grown.recall(converted[~early]))
        chance.append(400 / (~rule).sum())
    assert np.mean(plain) > 1.5 * np.mean(chance)
    assert np.mean(helped) >= np.mean(plain)


def test_a_column_that_says_nothing_changes_nothing() -> None:
    members, converted, _ = world(5, 2000)
    # 0.1 repeated has a spread of rounding errors
    wider = np.column_stack([members, np.full(2000, 0.1), np.zeros(2000)])
    plain, wide = fit_head(members, converted), fit_head(wider, converted)
    assert wide.line.slope[7:9].tolist() == [0.0, 0.0]
    assert np.corrcoef(plain.scores(members), wide.scores(wider))[0, 1] > 0.999


def test_weights_undo_that_some_were_rarely_reached() -> None:
    # who has much of the third direction is rarely reached; the response also bends in it, which one line cannot follow
    rng = np.random.default_rng(0)
    members = rng.normal(0, 1, (60_000, 3))
    chance = np.where(members[:, 2] > 0, 0.05, 0.9)
    reached = rng.random(len(members)) < chance
    slope = np.where(members[:, 2] > 0, 1.0, -1.0)
    converted = rng.random(len(members)) < 1 / (1 + np.exp(3 - slope * members[:, 2]))
    seeds = reached & converted
    weighted = fit_head(members, seeds, reached=reached, propensity=chance, ridge=1.0)
    blind = fit_head(members, seeds, reached=reached, ridge=1.0)
    ideal = fit_head(members, converted, ridge=1.0)
    far = [float(np.abs(head.scores(members) - ideal.scores(members)).mean()) for head in (weighted, blind)]
    assert far[0] < 0.5 * far[1]


def test_the_expansion_adds_the_best_beyond_the_rule_in_order_and_never_the_barred() -> None:
    score = np.array([0.1, 0.9, 0.5, 0.5, 0.7, 0.2])
    rule, barred = np.array([0, 1, 0, 0, 0, 0], bool), np.array([0, 0, 0, 0, 1, 0], bool)
    grown = expand(score, rule, 3, barred)
    assert grown.added.tolist() == [2, 3, 5]
    assert expand(score, rule, 99).added.tolist() == [4, 2, 3, 5, 0]
    converted = np.array([1, 1, 1, 0, 0, 0], bool)
    assert grown.recall(converted) == 0.5
    assert grown.precision(converted) == (1.0, pytest.approx(1 / 3))
    nobody = expand(score, rule, 0)
    assert np.isnan(nobody.precision(converted)[1])
    assert np.isnan(nobody.recall(np.array([0, 1, 0, 0, 0, 0], bool)))


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 6), max_size=8),
    st.lists(st.integers(0, 3), max_size=4),
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=12),
)
def test_further_pairs_are_new_complete_and_never_twice(
    added: list[int], offers: list[int], known: set[tuple[int, int]]
) -> None:
    member = np.array([one for one, _ in known], np.int64)
    offer = np.array([one for _, one in known], np.int64)
    found = extra_pairs(np.array(added, np.int64), np.array(offers, np.int64), member=member, offer=offer)
    pairs = list(zip(*(column.tolist() for column in found), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {(a, b) for a in added for b in offers} - known
    assert pairs == sorted(pairs)


def test_the_program_takes_the_further_pairs_and_sends_where_they_are_worth_more() -> None:
    # two members by rule, two added; each offer may be sent once
    member, offer = np.array([0, 0, 1]), np.array([0, 1, 0])
    new_member, new_offer = extra_pairs(np.array([2, 3]), np.array([0, 1]), member=member, offer=offer)
    worth = {(0, 0): 3.0, (0, 1): 1.0, (1, 0): 2.0, (2, 0): 1.0, (2, 1): 4.0, (3, 0): 5.0, (3, 1): 1.0}
    pairs = sorted(zip(np.append(member, new_member).tolist(), np.append(offer, new_offer).tolist(), strict=True))
    assert pairs == sorted(worth)
    names = ["a", "b"]
    table = {
        "member": [f"m{who}" for who, _ in pairs],
        "offer": [names[what] for _, what in pairs],
        "value": [worth[pair] for pair in pairs],
    }
    once = Limits(name="sends", bounds={"a": (0, 1), "b": (0, 1)}, by="offer")
    program = Program.from_pairs(table, limits=[once], offers={"offer": names})
    assert solve(program).value == pytest.approx(5 + 4)


def test_bad_input_is_named() -> None:
    members, converted, _ = world(0, 50)
    converted[:3] = True
    bad = members.copy()
    bad[4, 1] = np.inf
    none = np.zeros(50, bool)
    for act, words in (
        (lambda: best_cosines(bad, members), "candidate 4 is not finite"),
        (lambda: best_cosines(members, members[:, :3]), "7 dimensions and seeds 3"),
        (lambda: best_cosines(members, members[:0]), "no seed"),
        (lambda: best_cosines(members, members, best=0), "at least 1, got 0"),
        (lambda: best_neighbours(np.array([[9]]), np.array([[1.0]]), 5), "0 to 4.*got 9"),
        (lambda: best_neighbours(np.array([[1, 1]]), np.array([[1.0, 1.0]]), 5), "twice"),
        (lambda: best_neighbours(np.array([[1, 2]]), np.array([[1.0, np.nan]]), 5), "seed 0 to a neighbour"),
        (lambda: fit_head(members, none), "needs a seed"),
        (lambda: fit_head(members, converted, reached=none), "member 0 responded without having been reached"),
        (lambda: fit_head(members, converted, propensity=np.zeros(50)), "member 0 is 0"),
        (lambda: fit_head(members, converted, seed_weight=0.0), "weight of a seed"),
        (lambda: fit_head(members, converted[:9]), "one entry for each of 50"),
        (lambda: fit_head(members, converted).scores(members[:, :4]), "4 dimensions, the head 7"),
        (lambda: expand(np.array([np.nan, 1.0]), np.array([False, True]), 1), "score of member 0 is nan"),
        (lambda: expand(np.ones(2), np.zeros(3, bool), 1), "of the same length"),
        (lambda: expand(np.ones(2), np.zeros(2, bool), -1), "0 or more, got -1"),
        (lambda: extra_pairs(np.array([-1]), np.array([0]), member=np.empty(0, int), offer=np.empty(0, int)), "got -1"),
    ):
        with pytest.raises(InputError, match=words):
            act()
    with pytest.raises(InputError, match="seed of member 0 is nan; it must be yes or no"):
        fit_head(np.zeros((4, 2)), np.full(4, np.nan))
