"""Content by bandit and program: whole answers, volumes held in every round, unbiased estimates of value."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.marketing.adaptive.content import (
    Volumes,
    choose,
    doubly_robust,
    rank,
    rank_in_turn,
    run_rounds,
)
from models.marketing.allocation.program import Infeasible

LINES = Volumes(names=("A", "B", "C", "D"), lower=(0.05, 0.05, 0.05, 0.30), upper=(0.10, 0.30, 0.30, 0.50))


def by_trying_all(reward: np.ndarray, volumes: Volumes) -> float:
    members, contents = reward.shape
    best = -np.inf
    for choice in itertools.product(range(contents), repeat=members):
        if not volumes.broken(np.array(choice)):
            best = max(best, float(reward[np.arange(members), list(choice)].sum()))
    return best


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(3, 6), st.booleans())
def test_no_choice_that_holds_the_volumes_is_worth_more(seed: int, members: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    reward = rng.normal(0, 1, (members, 3))
    reward = reward.round(0) if ties else reward
    volumes = Volumes(names=("A", "B"), lower=(1 / 3, 0.0), upper=(1.0, 0.4))
    choice = choose(reward, volumes)
    assert volumes.broken(choice) == {}
    assert reward[np.arange(members), choice].sum() == pytest.approx(by_trying_all(reward, volumes))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_volumes_hold_where_many_members_are_alike(seed: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    reward = rng.normal(0, 1, (kinds, 5))[rng.integers(0, kinds, 141)]
    for choice in (choose(reward, LINES), rank_in_turn(reward, LINES)):
        assert LINES.broken(choice) == {}
    worth = [reward[np.arange(141), choice].sum() for choice in (choose(reward, LINES), rank_in_turn(reward, LINES))]
    assert worth[0] >= worth[1] - 1e-9


def test_volumes_hold_for_more_members_than_the_small_solver_takes() -> None:
    rng = np.random.default_rng(3)
    reward = rng.normal(0, 1, (20, 5))[rng.integers(0, 20, 6001)]
    choice = choose(reward, LINES)
    assert LINES.broken(choice) == {}
    assert reward[np.arange(6001), choice].sum() >= reward[np.arange(6001), rank_in_turn(reward, LINES)].sum()


def test_a_content_worth_less_than_nothing_is_withheld_unless_a_volume_demands_it() -> None:
    reward = np.array([[1.0, 0.4], [1.0, 0.9], [1.0, 2.0], [1.0, 3.0]])
    assert choose(reward, Volumes(names=("A",), lower=(0.0,), upper=(1.0,))).tolist() == [0, 0, 1, 1]
    assert choose(reward, Volumes(names=("A",), lower=(0.75,), upper=(1.0,))).tolist() == [0, 1, 1, 1]
    assert choose(reward, Volumes(names=("A",), lower=(0.0,), upper=(0.25,))).tolist() == [0, 0, 0, 1]


def test_ranking_breaks_volumes_and_says_by_how_much() -> None:
    reward = np.tile([0.0, 0.1, 0.2, 0.3, 0.4], (100, 1))
    assert LINES.broken(rank(reward)) == {"A": 5, "B": 5, "C": 5, "D": 50}


def test_a_round_of_another_size_rounds_its_volumes_inwards() -> None:
    low, high = Volumes(names=("A",), lower=(0.1,), upper=(0.35,)).counts(47)
    assert (low.tolist(), high.tolist()) == ([5], [16])
    # .3 of 10 is three, whatever the last bit of .3 says
    assert [int(side[0]) for side in Volumes(names=("A",), lower=(0.3,), upper=(0.3,)).counts(10)] == [3, 3]


class Rates:
    """Beta posteriors of one response rate a content, members all alike."""

    def __init__(self) -> None:
        self.seen = np.ones((2, 5))

    def draws(self, context: int, rng: np.random.Generator) -> np.ndarray:
        return np.tile(rng.beta(*self.seen), (context, 1))

    def means(self, context: int) -> np.ndarray:
        return np.tile(self.seen[0] / self.seen.sum(0), (context, 1))

    def learn(self, context: int, choice: np.ndarray, reward: np.ndarray) -> None:
        for outcome, row in ((1, 0), (0, 1)):
            self.seen[row] += np.bincount(choice[reward == outcome], minlength=5)


@pytest.mark.parametrize("explores", [True, False])
def test_volumes_hold_in_every_round_and_the_learner_learns(explores: bool) -> None:
    chance = np.array([0.1, 0.2, 0.6, 0.3, 0.4])

    def respond(number: int, context: int, choice: np.ndarray) -> np.ndarray:
        return (np.random.default_rng(number).random(context) < chance[choice]).astype(float)

    learner = Rates()
    rounds = run_rounds(learner, LINES, lambda number: 60 + number, respond, rounds=12, explores=explores, seed=1)
    low_high = [LINES.counts(60 + number) for number in range(12)]
    for one, (low, high) in zip(rounds, low_high, strict=True):
        assert (low <= one.loads).all()
        assert (one.loads <= high).all()
    assert rounds[-1].loads[1] == low_high[-1][1][1]  # the best content, B, at its cap
    again = run_rounds(Rates(), LINES, lambda number: 60 + number, respond, rounds=12, explores=explores, seed=1)
    assert all((a.choice == b.choice).all() for a, b in zip(rounds, again, strict=True))


def test_the_doubly_robust_estimate_is_its_formula() -> None:
    predicted = np.array([[0.1, 0.5], [0.2, 0.3], [0.4, 0.6]])
    found = doubly_robust(
        predicted, np.array([1, 0, 1]), action=np.array([1, 1, 1]), chance=np.array([0.5, 0.5, 0.25]),
        reward=np.array([1.0, 1.0, 0.0]),
    )  # fmt: skip
    # .5 + (1 - .5) / .5;  .2, another action was logged;  .6 + (0 - .6) / .25
    assert found.rows == pytest.approx([1.5, 0.2, -1.8])
    assert found.mean == pytest.approx(-0.1 / 3)
    assert found.error == pytest.approx(np.std([1.5, 0.2, -1.8], ddof=1) / np.sqrt(3))


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_it_is_unbiased_even_where_the_predictions_are_wrong(wrong: float) -> None:
    rng, size = np.random.default_rng(0), 40_000
    member = rng.random(size)
    truth = np.column_stack([0.2 + 0.1 * member, 0.5 - 0.4 * member])
    chosen = truth.argmax(1)
    chance_of_one = 0.3 + 0.4 * member
    action = (rng.random(size) < chance_of_one).astype(int)
    chance = np.where(action == 1, chance_of_one, 1 - chance_of_one)
    reward = (rng.random(size) < truth[np.arange(size), action]).astype(float)
    found = doubly_robust(truth + wrong, chosen, action=action, chance=chance, reward=reward)
    value = truth[np.arange(size), chosen].mean()
    assert abs(found.mean - value) <= 4 * found.error
    assert found.error <= 0.006


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ({"names": ("A",), "lower": (0.5,), "upper": (0.4,)}, "volume of 'A'.*0.5 and 0.4"),
        ({"names": ("A",), "lower": (0.0,), "upper": (1.1,)}, "volume of 'A'.*1.1"),
        ({"names": ("A", "B"), "lower": (0.0,), "upper": (1.0,)}, "2 names, 1 and 1"),
    ],
)
def test_bad_volumes_are_named(volumes: dict[str, tuple[object, ...]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Volumes(**volumes)  # type: ignore[arg-type]


def test_bad_input_is_named() -> None:
    reward = np.zeros((4, 5))
    reward[2, 3] = np.nan
    tight = Volumes(names=("A",), lower=(0.4,), upper=(0.45,))
    with pytest.raises(InputError, match="member 2 and content 3 is nan"):
        choose(reward, LINES)
    with pytest.raises(InputError, match=r"members x 5 contents.*\(4, 3\)"):
        choose(np.zeros((4, 3)), LINES)
    with pytest.raises(InputError, match=r"no whole number of 4 members.*'A'"):
        choose(np.zeros((4, 2)), tight)
    greedy = Volumes(names=("A", "B"), lower=(0.6, 0.6), upper=(1.0, 1.0))
    with pytest.raises(Infeasible, match=r"volume/A.*volume/B"):
        choose(np.zeros((10, 3)), greedy)
    with pytest.raises(InputError, match="need 12 members, there are 10"):
        rank_in_turn(np.zeros((10, 3)), greedy)
    with pytest.raises(InputError, match="at least one round, got 0"):
        run_rounds(Rates(), LINES, lambda _: 60, lambda *_: np.zeros(60), rounds=0, explores=True, seed=0)
    good = {"action": np.array([0, 1]), "chance": np.array([0.5, 0.5]), "reward": np.zeros(2)}
    table, chosen = np.zeros((2, 2)), np.array([0, 0])
    for change, words in (
        ({"chance": np.array([0.5, 0.0])}, "chance of decision 1 is 0"),
        ({"action": np.array([0, 2])}, "logged action of decision 1 is 2; there are 2"),
        ({"reward": np.array([np.inf, 0.0])}, "decision 0 are not finite"),
        ({"reward": np.zeros(3)}, "one of each column"),
    ):
        with pytest.raises(InputError, match=words):
            doubly_robust(table, chosen, **{**good, **change})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="content of member 1 is 5; there are 0 to 4"):
        LINES.broken(np.array([0, 5]))
    with pytest.raises(InputError, match=r"logged action of decision 2 is 1\.5"):
        doubly_robust(
            np.zeros((3, 2)), np.zeros(3), action=np.array([0, 1, 1.5]), chance=np.full(3, 0.5), reward=np.ones(3)
        )
