"""Which content each member gets, learned while it is sent: a bandit draws the rewards, a program holds the volumes.

In every round the learner draws one reward for each member and each content from what it believes (Thompson sampling;
means instead of draws make it greedy), and the program

    maximise    sum_{u,k} (w_{u,k} - w_{u,0}) x_{u,k}                        w: rewards drawn
    subject to  l_k N <= sum_u x_{u,k} <= u_k N,   sum_k x_{u,k} <= 1,   x in {0, 1}

decides. Content 0 is what a member gets when nothing is chosen; it has no row. All weights are one and all bounds are
whole, so the corners of the relaxed program are whole, and the rows hold exactly in every round.

Source: "From Prediction to Incrementality" (arXiv 2608.10182), reward draws and a program solved again in each round;
that its corners are whole is Hoffman & Kruskal 1956, "Integral boundary points of convex polyhedra".
"""

# Shapes: N members of a round, K contents besides content 0, I logged decisions.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.allocation.program import Family, Program
from models.marketing.allocation.rounding import entries, round_whole
from models.marketing.allocation.solver import solve

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """How many members each content must and may get, as shares of all members of a round.

    Attributes:
        names: (K) of the contents besides content 0.
        lower: (K) least shares, 0 to 1.
        upper: (K) most shares, 0 to 1.
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.lower) == len(self.upper):
            raise InputError(
                f"volumes need a lower and an upper share for each name, got {len(self.names)} names, "
                f"{len(self.lower)} and {len(self.upper)} shares."
            )
        for name, low, high in zip(self.names, self.lower, self.upper, strict=True):
            if not 0 <= low <= high <= 1:
                raise InputError(f"the volume of {name!r} needs 0 <= lower <= upper <= 1, got {low} and {high}.")

    def counts(self, members: int) -> tuple[Integers, Integers]:
        """Least and most members of each content.

        Args:
            members: N.

        Raises:
            InputError: no whole number of members lies between the shares of a content.
        """
        low = np.ceil(np.array(self.lower) * members - 1e-9).astype(np.int64)
        high = np.floor(np.array(self.upper) * members + 1e-9).astype(np.int64)
        wrong = np.flatnonzero(low > high)
        if len(wrong):
            k = wrong[0]
            raise InputError(
                f"no whole number of {members} members lies between the shares {self.lower[k]} and {self.upper[k]} of "
                f"{self.names[k]!r}; widen them or choose for more members at once."
            )
        return low, high

    def broken(self, choice: NDArray[np.integer]) -> dict[str, int]:
        """By how many members each content is outside of its bounds; those that hold are left out.

        Args:
            choice: (N) content of each member, 0 for none.
        """
        wrong = np.flatnonzero((choice < 0) | (choice > len(self.names)))
        if len(wrong):
            raise InputError(f"content of member {wrong[0]} is {choice[wrong[0]]}; there are 0 to {len(self.names)}.")
        low, high = self.counts(len(choice))
        loads = np.bincount(choice, minlength=len(self.names) + 1)[1:]
        over = np.maximum(loads - high, low - loads)
        return {name: int(by) for name, by in zip(self.names, over, strict=True) if by > 0}


def choose(reward: NDArray[Any], volumes: Volumes) -> Integers:
    """Choose each member's content so that the sum of rewards is greatest and every volume holds.

    Args:
        reward: (N, K+1) of each content, content 0 first: draws, means, or any other score.
        volumes: of contents 1 to K.

    Returns:
        (N) content of each member, 0 to K.

    Raises:
        InputError: shapes differ, or a reward is not finite.
        Infeasible: the least volumes need more members than there are.
        RuntimeError: a volume is broken, which cannot happen.

    Source:
        See the module.
    """
    rewards = _rewards(reward, volumes)
    members, contents = rewards.shape[0], rewards.shape[1] - 1
    if not contents:
        return np.zeros(members, np.int64)
    low, high = volumes.counts(members)
    program = Program(
        start=np.arange(members + 1, dtype=np.int64) * contents,
        offer=np.tile(np.arange(contents, dtype=np.int16), members),
        value=np.ascontiguousarray(rewards[:, 1:] - rewards[:, :1]).ravel(),
        offers=volumes.names,
        families=(
            Family(
                name="volume",
                rows=volumes.names,
                lower=low.astype(np.float64),
                upper=high.astype(np.float64),
                offers=np.arange(contents),
            ),
        ),
    )
    answer = solve(program, gap=1e-9, vertex=True)
    # of equal contents the large solver may give a member a part of each; the simplex never does
    whole = entries(answer)[0] if not len(answer.pairs) else round_whole(program, *entries(answer), answer.prices).pairs
    choice = np.zeros(members, np.int64)
    choice[whole // contents] = whole % contents + 1
    if broken := volumes.broken(choice):
        raise RuntimeError(f"volumes are broken by {broken}; report the rewards.")
    return choice


def rank(reward: NDArray[Any]) -> Integers:
    """Each member's best content by reward, whatever the volumes: what ranking does.

    Args:
        reward: (N, K+1) of each content, content 0 first; the first of equals is taken.
    """
    return np.asarray(np.argmax(reward, axis=1), np.int64)


def rank_in_turn(reward: NDArray[Any], volumes: Volumes) -> Integers:
    """Ranking that holds the volumes: members come one after another and take the best that still has room.

    Once as many members are left as the least volumes still need, only contents below their least volume are given.

    Args:
        reward: (N, K+1) of each content, content 0 first.
        volumes: of contents 1 to K.

    Returns:
        (N) content of each member.

    Raises:
        InputError: as for `choose`, or the least volumes need more members than there are.

    Source:
        Ours; what a ranking system with caps does.
    """
    rewards = _rewards(reward, volumes)
    low, high = volumes.counts(len(rewards))
    if low.sum() > len(rewards):
        raise InputError(f"the least volumes need {low.sum()} members, there are {len(rewards)}; lower them.")
    room = np.append(len(rewards), high)
    need = np.append(0, low)
    choice = np.zeros(len(rewards), np.int64)
    for member, row in enumerate(rewards):
        pressed = len(rewards) - member <= need.sum()
        allowed = (need > 0) if pressed else (room > 0)
        content = int(np.argmax(np.where(allowed, row, -np.inf)))
        choice[member] = content
        room[content] -= 1
        need[content] = max(need[content] - 1, 0)
    return choice


class Learner(Protocol):
    """What believes something about rewards, and learns from what was sent."""

    def draws(self, context: Any, rng: np.random.Generator) -> Floats:
        """(N, K+1) one draw of each member's reward of each content."""

    def means(self, context: Any) -> Floats:
        """(N, K+1) expected rewards."""

    def learn(self, context: Any, choice: Integers, reward: Floats) -> None:
        """Take in what was chosen and what came of it, (N) each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """One round.

    Attributes:
        choice: (N) content of each member.
        reward: (N) what came of it.
        believed: sum of the rewards by which was chosen.
        loads: (K) members of each content but 0.
    """

    choice: Integers
    reward: Floats
    believed: float
    loads: Integers


def run_rounds(
    learner: Learner,
    volumes: Volumes,
    contexts: Callable[[int], Any],
    respond: Callable[[int, Any, Integers], Floats],
    *,
    rounds: int,
    explores: bool,
    seed: int,
) -> list[Round]:
    """Choose, send, learn, again and again.

    Args:
        learner: in the state to begin with; it is taught.
        volumes: rows that hold in every round.
        contexts: of round 0, 1, ...: its members, in the form that the learner takes.
        respond: to the choices of a round: (N) rewards.
        rounds: how many, at least 1.
        explores: whether to choose by draws; else by means.
        seed: of the draws.

    Returns:
        All rounds. In none of them a volume is broken; `choose` would have refused.

    Raises:
        InputError: there is not at least one round, or whatever `choose` refuses.
    """
    if rounds < 1:
        raise InputError(f"there must be at least one round, got {rounds}.")
    found = []
    for number in range(rounds):
        context = contexts(number)
        reward = learner.draws(context, np.random.default_rng((seed, number))) if explores else learner.means(context)
        choice = choose(reward, volumes)
        seen = np.asarray(respond(number, context, choice), np.float64)
        learner.learn(context, choice, seen)
        believed = float(np.asarray(reward)[np.arange(len(choice)), choice].sum())
        loads = np.bincount(choice, minlength=len(volumes.names) + 1)[1:]
        found.append(Round(choice=choice, reward=seen, believed=believed, loads=loads.astype(np.int64)))
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """What a policy would have earned a member.

    Attributes:
        mean: the estimate.
        error: its standard error.
        rows: (I) its terms, for paired differences and other resamples.
    """

    mean: float
    error: float
    rows: Floats


def doubly_robust(
    predicted: NDArray[Any],
    chosen: NDArray[np.integer],
    *,
    action: NDArray[np.integer],
    chance: NDArray[Any],
    reward: NDArray[Any],
) -> Estimate:
    """Value of a policy from decisions that another one made and logged.

        V = mean_i [ q(x_i, pi(x_i)) + 1{a_i = pi(x_i)} / e_i (r_i - q(x_i, a_i)) ]

    It is unbiased when the logged chances are true, however poor the predictions, so long as they were not fitted on
    the same decisions.

    Args:
        predicted: (I, A) expected reward of each action.
        chosen: (I) the policy's action, 0 to A - 1.
        action: (I) logged actions.
        chance: (I) with which they were taken, above 0 to 1.
        reward: (I) what came of them.

    Returns:
        The estimate.

    Raises:
        InputError: shapes differ, an action does not exist, or a chance is not above 0 and at most 1.

    Source:
        Dudik, Langford & Li 2011, "Doubly robust policy evaluation and learning", equation 2.
    """
    table, taken = np.asarray(predicted, np.float64), np.asarray(action)
    chances, rewards, wanted = np.asarray(chance, np.float64), np.asarray(reward, np.float64), np.asarray(chosen)
    rows = len(table)
    if table.ndim != 2 or any(one.shape != (rows,) for one in (taken, chances, rewards, wanted)) or rows < 2:
        raise InputError(
            f"doubly robust estimates need predictions (I, A) and at least two decisions, one of each column, got "
            f"{table.shape}, {wanted.shape}, {taken.shape}, {chances.shape}, {rewards.shape}."
        )
    for name, codes in (("logged action", taken), ("chosen action", wanted)):
        wrong = np.flatnonzero((codes < 0) | (codes >= table.shape[1]) | (codes != np.floor(codes)))
        if len(wrong):
            raise InputError(
                f"{name} of decision {wrong[0]} is {codes[wrong[0]]}; there are {table.shape[1]}, numbered from 0."
            )
    wrong = np.flatnonzero(~((chances > 0) & (chances <= 1)))
    if len(wrong):
        raise InputError(
            f"the chance of decision {wrong[0]} is {chances[wrong[0]]}; it must be above 0 and at most 1: log it when "
            "deciding."
        )
    wrong = np.flatnonzero(~np.isfinite(rewards) | ~np.isfinite(table).all(1))
    if len(wrong):
        raise InputError(f"reward or predictions of decision {wrong[0]} are not finite; leave it out.")
    place, taken, wanted = np.arange(rows), taken.astype(np.int64), wanted.astype(np.int64)
    correction = np.where(taken == wanted, (rewards - table[place, taken]) / chances, 0.0)
    terms = table[place, wanted] + correction
    return Estimate(mean=float(terms.mean()), error=float(terms.std(ddof=1) / np.sqrt(rows)), rows=terms)


def _rewards(reward: NDArray[Any], volumes: Volumes) -> Floats:
    rewards = np.asarray(reward, np.float64)
    if rewards.ndim != 2 or rewards.shape[1] != len(volumes.names) + 1:
        raise InputError(
            f"rewards must be members x {len(volumes.names) + 1} contents, content 0 first, got shape {rewards.shape}."
        )
    wrong = np.argwhere(~np.isfinite(rewards))
    if len(wrong):
        member, content = wrong[0]
        raise InputError(
            f"reward of member {member} and content {content} is {rewards[member, content]}; it must be finite."
        )
    return rewards
