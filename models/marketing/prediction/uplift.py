"""What an offer changes: the response with it minus the response without it, member by member.

Nobody is seen both ways. With t the treatment, y the outcome, e(x) the chance to be treated, and m0, m1 what is
expected without and with it,

    s = m1(x) - m0(x) + t (y - m1(x)) / e(x) - (1 - t) (y - m0(x)) / (1 - e(x))

has the uplift as its mean when either e or the m are right. These scores serve twice: a learner is fitted to them, and
every judgement of an uplift model here is a mean of them, with an interval. They are made by cross-fitting: what is
said of a member was learned from others.

    t-learner    m1(x) - m0(x)
    x-learner    e(x) u0(x) + (1 - e(x)) u1(x),   u1 fitted to y - m0(x) of the treated, u0 to m1(x) - y of the others
    dr-learner   fitted to s
"""

# Shapes: N members, F features, D tenths.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.logistic import fit_logistic
from models.marketing.prediction.estimate import Estimate
from models.marketing.standard import standard_units

Floats = NDArray[np.float64]
Model = Callable[[Floats], Floats]

TENTHS = 10


class Learner(Protocol):
    """Whatever fits a mean."""

    def __call__(self, features: Floats, target: Floats) -> Model:
        """A function from features (N, F) to means (N), learned from features (N, F) and targets (N)."""


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A straight line by least squares; a `Learner`.

    Attributes:
        penalty: on squared slopes in standard units of the features, in members; 0: none, then a feature that repeats
            others takes no part of its own.
    """

    penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.penalty) and self.penalty >= 0):
            raise InputError(f"the penalty of a ridge must be 0 or more and finite, got {self.penalty}.")

    def __call__(self, features: Floats, target: Floats) -> Model:
        """Fit; the offset has no penalty."""
        units, mean = standard_units(features), float(target.mean())
        standard = units(features)
        bend = standard.T @ standard + self.penalty * np.eye(standard.shape[1])
        less, slope = units.back(np.asarray(np.linalg.lstsq(bend, standard.T @ (target - mean), rcond=None)[0]))
        offset = mean + less
        return lambda asked: np.asarray(asked @ slope + offset, np.float64)


@dataclass(frozen=True, kw_only=True)
class Chance:
    """A logistic regression; a `Learner` for outcomes from 0 to 1."""

    ridge: float = 1.0

    def __call__(self, features: Floats, target: Floats) -> Model:
        """Fit; where all outcomes are alike that outcome is the mean."""
        if np.ptp(target) == 0:
            mean = float(target[0])
            return lambda asked: np.full(len(asked), mean)
        return fit_logistic(features, target, ridge=self.ridge)


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossFitted:
    """What is expected of every member, learned from other members.

    Attributes:
        treated: (N) 0 or 1.
        outcome: (N).
        without: (N) m0.
        treatment: (N) m1.
        propensity: (N) e.
    """

    treated: Floats
    outcome: Floats
    without: Floats
    treatment: Floats
    propensity: Floats

    @property
    def scores(self) -> Floats:
        """(N) s, whose mean is the mean uplift.

        Source:
            Robins, Rotnitzky & Zhao 1994, "Estimation of regression coefficients when some regressors are not always
            observed"; cross-fitted: Chernozhukov et al. 2018, "Double/debiased machine learning".
        """
        with_it = self.treated * (self.outcome - self.treatment) / self.propensity
        without = (1 - self.treated) * (self.outcome - self.without) / (1 - self.propensity)
        return np.asarray(self.treatment - self.without + with_it - without, np.float64)


def cross_fit(
    features: NDArray[Any],
    treated: NDArray[Any],
    outcome: NDArray[Any],
    *,
    learner: Learner,
    propensity: NDArray[Any] | None = None,
    folds: int = 5,
    seed: int = 0,
    least: float = 0.01,
) -> CrossFitted:
    """What is expected of every member with and without the treatment, and how likely it was.

    Args:
        features: (N, F) known before the treatment.
        treated: (N) 0 or 1.
        outcome: (N).
        learner: of outcomes.
        propensity: (N) known chance to be treated, as of an experiment; None: learned by logistic regression.
        folds: parts into which members are drawn, each judged by models of the others, 2 or more.
        seed: of the draw.
        least: propensities nearer to 0 or 1 than this are refused.

    Returns:
        All members, in their order.

    Raises:
        InputError: a value cannot be, a group is too small for the folds, or a propensity is too near to 0 or 1: there
            nobody like this member was treated otherwise, and no weight can make up for it.

    Source:
        Chernozhukov et al. 2018, definition 3.1.
    """
    table, group, result = _checked(features, treated, outcome, folds)
    fold = _folds(group, folds, seed)
    without, treatment, chance = (np.empty(len(table)) for _ in range(3))
    for number in range(folds):
        here, others = fold == number, fold != number
        for value, into in ((0, without), (1, treatment)):
            learned = others & (group == value)
            into[here] = learner(table[learned], result[learned])(table[here])
        if propensity is None:
            chance[here] = fit_logistic(table[others], group[others])(table[here])
    if propensity is not None:
        chance = np.asarray(propensity, np.float64)
        if chance.shape != group.shape:
            raise InputError(f"propensity must have {len(group)} entries, got {chance.shape}.")
    wrong = np.flatnonzero(~((chance >= least) & (chance <= 1 - least)))
    if len(wrong):
        raise InputError(f"propensity of member {wrong[0]} is {chance[wrong[0]]:.4g}, outside {least:g} to "
                         f"{1 - least:g}; leave out members who are always or never treated.")  # fmt: skip
    return CrossFitted(
        treated=group.astype(np.float64), outcome=result, without=without, treatment=treatment, propensity=chance
    )


def fit_uplift(
    features: NDArray[Any],
    known: CrossFitted,
    *,
    kind: Literal["t", "x", "dr"],
    learner: Learner,
    outcomes: Learner | None = None,
) -> Model:
    """A function from features to uplift.

    Args:
        features: (N, F) those of `cross_fit`.
        known: what was expected of these members.
        kind: see the top of this module.
        learner: of uplift; with `t` of outcomes.
        outcomes: of outcomes, for a learner of chances with `t`; None: the same.

    Returns:
        The function.

    Raises:
        InputError: the kind is unknown.

    Source:
        Künzel et al. 2019, "Metalearners for estimating heterogeneous treatment effects" (t, x); Kennedy 2023, "Towards
        optimal doubly robust estimation of heterogeneous causal effects" (dr).
    """
    if kind not in ("t", "x", "dr"):
        raise InputError(f"unknown kind of learner {kind!r}; known are 't', 'x' and 'dr'.")
    table = np.asarray(features, np.float64)
    with_it, without = known.treated == 1, known.treated == 0
    if kind == "dr":
        return learner(table, known.scores)
    if kind == "t":
        chosen = outcomes or learner
        after, before = (chosen(table[rows], known.outcome[rows]) for rows in (with_it, without))
        return lambda asked: after(asked) - before(asked)
    gained = learner(table[with_it], (known.outcome - known.without)[with_it])
    missed = learner(table[without], (known.treatment - known.outcome)[without])
    chance = fit_logistic(table, known.treated) if np.ptp(known.propensity) > 0 else None
    fixed = float(known.propensity[0])

    def mixed(asked: Floats) -> Floats:
        share = np.full(len(asked), fixed) if chance is None else chance(asked)
        return np.asarray(share * missed(asked) + (1 - share) * gained(asked), np.float64)

    return mixed


# --- judgement --------------------------------------------------------------------------------------------------------


def mean_uplift(scores: Floats) -> Estimate:
    """Mean uplift of all members by their scores (N), 2 or more and finite, else `InputError`."""
    _finite(scores, scores, least=2)
    return Estimate(value=float(scores.mean()), error=float(scores.std(ddof=1) / np.sqrt(len(scores))))


def area_under_uplift(scores: Floats, said: Floats) -> Estimate:
    """AUUC: mean gain per member over all shares treated, those first of whom most uplift is said.

    Treating the share q gains G(q), the mean over all members of the scores of those treated. The area under G is the
    mean of s F, with F the share of members of whom no more is said, ties counted half.

    Args:
        scores: (N) of members that the model was not learned from.
        said: (N) uplift as the model says it.

    Returns:
        The area, in units of the outcome.

    Raises:
        InputError: lengths differ, a number is not finite, or there are fewer than 10 members.

    Source:
        Rzepakowski & Jaroszewicz 2012, "Decision trees for uplift modeling with single and multiple treatments"; as a
        mean over pairs with the variance of a U-statistic (Hoeffding 1948), ours.
    """
    return _paired(scores, said, 0.0)


def qini(scores: Floats, said: Floats) -> Estimate:
    """The area between the gain of the model's order and that of a random one, which is half the mean uplift.

    Args, returns and errors as `area_under_uplift`.

    Source:
        Radcliffe 2007, "Using control groups to target on predicted lift", in units of the outcome per member; the
        interval is ours.
    """
    return _paired(scores, said, 0.5)


def _paired(scores: Floats, said: Floats, less: float) -> Estimate:
    """Mean of s (F - less), and its error by how much each member moves it."""
    _finite(scores, said, least=TENTHS)
    size = len(scores)
    _, place = np.unique(said, return_inverse=True)
    count, summed = np.bincount(place), np.bincount(place, weights=scores)
    below = (np.cumsum(count) - count / 2)[place] / size
    above = (summed.sum() - np.cumsum(summed) + summed / 2)[place] / size
    own = scores * (below - less)
    moved = own + above
    return Estimate(value=float(own.mean()), error=float(moved.std(ddof=1) / np.sqrt(size)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Uplift said beside uplift found, by tenths of the members by what was said.

    Attributes:
        said: (D) mean.
        found: (D) mean score.
        error: (D) standard error of it.
        slope: of found on said, member by member: 1 when right, below 1 when the model says too much.
        offset: found at said 0.
    """

    said: Floats
    found: Floats
    error: Floats
    slope: Estimate
    offset: Estimate


def calibrate(scores: Floats, said: Floats) -> Calibration:
    """How true what a model says is.

    Args:
        scores: (N) of members that the model was not learned from.
        said: (N) uplift as the model says it.

    Returns:
        Tenths of equal size, rising; ties keep the order of members. Slope and offset by least squares, with errors
        that hold for uneven spread.

    Raises:
        InputError: lengths differ, a number is not finite, there are fewer than 20 members, or all are said alike.

    Source:
        Chernozhukov, Demirer, Duflo & Fernandez-Val 2018, "Generic machine learning inference on heterogeneous
        treatment effects", sections 3.1 and 3.2; errors White 1980.
    """
    _finite(scores, said, least=2 * TENTHS)
    units = standard_units(said[:, None])
    if not units.varies[0]:
        raise InputError(
            f"calibration needs members of whom not all is said alike, got {said[0]:g} for all {len(said)}."
        )
    parts = np.array_split(np.argsort(said, kind="stable"), TENTHS)
    design = np.stack([np.ones(len(said)), units(said[:, None])[:, 0]], axis=1)
    size = max(float(np.abs(scores).max()), np.finfo(np.float64).tiny)
    found = design.T @ (scores / size) / len(said)  # the columns are orthonormal
    moved = design * (scores / size - design @ found)[:, None] / len(said)
    back = size * np.array([[1.0, -units.centre[0] / units.scale[0]], [0.0, 1 / units.scale[0]]])
    found, spread = back @ found, np.linalg.norm(moved @ back.T, axis=0)
    return Calibration(
        said=np.array([said[part].mean() for part in parts]),
        found=np.array([scores[part].mean() for part in parts]),
        error=np.array([scores[part].std(ddof=1) / np.sqrt(len(part)) for part in parts]),
        slope=Estimate(value=float(found[1]), error=float(spread[1])),
        offset=Estimate(value=float(found[0]), error=float(spread[0])),
    )


# --- inside -----------------------------------------------------------------------------------------------------------


def _finite(scores: Floats, said: Floats, *, least: int) -> None:
    if scores.shape != said.shape or scores.ndim != 1 or len(scores) < least:
        raise InputError(f"scores and what was said must be rows of one length, {least} or more, got {scores.shape}, "
                         f"{said.shape}.")  # fmt: skip
    for name, numbers in (("score", scores), ("what was said", said)):
        wrong = np.flatnonzero(~np.isfinite(numbers))
        if len(wrong):
            raise InputError(f"{name} of member {wrong[0]} is {numbers[wrong[0]]}; it must be finite.")


def _checked(
    features: NDArray[Any], treated: NDArray[Any], outcome: NDArray[Any], folds: int
) -> tuple[Floats, NDArray[np.int64], Floats]:
    table, result = np.asarray(features, np.float64), np.asarray(outcome, np.float64)
    flag = np.asarray(treated)
    if table.ndim != 2 or flag.shape != (len(table),) or result.shape != flag.shape:
        raise InputError(f"features, treatment and outcome must have one row a member, got {table.shape}, "
                         f"{flag.shape}, {result.shape}.")  # fmt: skip
    for name, good, remedy in (
        ("features", np.isfinite(table).all(1), "finite"),
        ("treated", (flag == 0) | (flag == 1), "0 or 1"),
        ("outcome", np.isfinite(result), "finite"),
    ):
        wrong = np.flatnonzero(~good)
        if len(wrong):
            raise InputError(f"{name} of member {wrong[0]} must be {remedy}.")
    if folds < 2:
        raise InputError(f"folds must be 2 or more, got {folds}.")
    group = flag.astype(np.int64)
    for value, name in ((0, "untreated"), (1, "treated")):
        size = int((group == value).sum())
        if size < 2 * folds:
            raise InputError(f"there are {size} {name} members; {2 * folds} are needed for {folds} folds.")
    return table, group, result


def _folds(group: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for every member, each with its share of either group."""
    random = np.random.default_rng(seed)
    fold = np.empty(len(group), np.int64)
    for value in (0, 1):
        rows = np.flatnonzero(group == value)
        fold[random.permutation(rows)] = np.arange(len(rows)) % folds
    return fold
