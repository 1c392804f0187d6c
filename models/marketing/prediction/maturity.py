"""Members who are too young to have shown what they will do.

A conversion is seen only when its delay D is at most the member's age A. Of a member without one it is not known
whether there is none or whether it is still to come. With

    F(a) = P(D <= a | it comes within the horizon)

a seen conversion counts 1 / F(A): its mean is then the chance of a conversion within the whole horizon, whatever the
ages. F itself is estimated from seen conversions alone; since each was seen only because D <= A, their delays are
truncated on the right, and the product over later delays,

    F(a) = product over u > a of (1 - d(u) / n(u)),   d(u): conversions with delay u,   n(u): those with D <= u <= A,

corrects for it, as long as ages do not tell delays. With amounts as weights F is the share of a horizon's revenue that
has come by an age, and n(u) / (n(u) - d(u)) is the development factor of the chain ladder.
"""

# Shapes: E conversions, K delays that differ, N members, H horizons.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.prediction.estimate import NORMAL

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Delays:
    """How many conversions have come by an age, of those that come within the horizon.

    Attributes:
        delay: (K) rising.
        come: (K) P(D <= delay | D <= horizon), rising to 1.
        error: (K) standard error of its logarithm.
        horizon: largest delay that is spoken of.
    """

    delay: Floats
    come: Floats
    error: Floats
    horizon: float

    def __call__(self, age: NDArray[Any]) -> Floats:
        """F at ages of any shape; 0 before the first delay, 1 from the horizon on; raises `InputError` for NaN."""
        ages = np.asarray(age, np.float64)
        if np.isnan(ages).any():
            raise InputError(
                f"age of member {int(np.argmax(np.isnan(ages)))} is nan; leave out whom nothing is known of."
            )
        place = np.searchsorted(self.delay, ages, side="right")
        return np.append(0.0, self.come)[place]


def fit_delays(delay: NDArray[Any], age: NDArray[Any], *, horizon: float, weight: NDArray[Any] | None = None) -> Delays:
    """Estimate the delays of conversions from those that were seen.

    Args:
        delay: (E) from the beginning to the conversion, 0 or more.
        age: (E) from the beginning to now, of the same members; at least the delay.
        horizon: conversions later than this do not count.
        weight: (E) above 0, such as amounts; None for one each.

    Returns:
        The estimate. Standard errors are those of Greenwood's formula and hold without weights.

    Raises:
        InputError: a value cannot be, there is no conversion, nobody is as old as the horizon, or at some delay all who
            could have converted later did not, which leaves earlier delays without an estimate.

    Source:
        Lagakos, Barraj & De Gruttola 1988, "Nonparametric analysis of truncated survival data, with application to
        AIDS"; with amounts as weights Mack 1993, "Distribution-free calculation of the standard error of chain ladder
        reserve estimates".
    """
    late, old = np.asarray(delay, np.float64), np.asarray(age, np.float64)
    mass = np.ones(len(late)) if weight is None else np.asarray(weight, np.float64)
    if not late.shape == old.shape == mass.shape or late.ndim != 1:
        raise InputError(f"delays, ages and weights must be rows of one length, got {late.shape}, {old.shape}, "
                         f"{mass.shape}.")  # fmt: skip
    for name, numbers, good in (
        ("delay", late, np.isfinite(late) & (late >= 0)),
        ("age", old, np.isfinite(old) & (old >= late)),
        ("weight", mass, np.isfinite(mass) & (mass > 0)),
    ):
        wrong = np.flatnonzero(~good)
        if len(wrong):
            raise InputError(f"{name} of conversion {wrong[0]} is {numbers[wrong[0]]}; delays are 0 or more, ages at "
                             f"least the delay (a later conversion is not seen yet), weights above 0.")  # fmt: skip
    use = late <= horizon
    late, old, mass = late[use], np.minimum(old[use], horizon), mass[use]
    if not len(late):
        raise InputError(f"no conversion came within {horizon:g}; take a longer horizon.")
    if not old.max() >= horizon:
        raise InputError(f"nobody who converted is older than {old.max():g}, so nothing is known up to the horizon "
                         f"{horizon:g}; lower it.")  # fmt: skip
    times, place = np.unique(late, return_inverse=True)
    came = np.bincount(place, weights=mass)
    # at risk, backwards in time, at u: D <= u <= A
    order = np.argsort(old, kind="stable")
    younger = np.append(0.0, np.cumsum(mass[order]))[np.searchsorted(old[order], times, side="left")]
    risk = np.cumsum(came) - younger
    # the earliest delay always takes all who are left; a later one that does hides everything before it
    empty = np.flatnonzero(risk[1:] - came[1:] <= 1e-12 * risk[1:]) + 1
    if len(empty):
        raise InputError(f"who converted and is {times[empty[-1]]:g} old or older did so at {times[empty[-1]]:g} or "
                         f"later, so earlier delays have no estimate; pool delays or lower the horizon.")  # fmt: skip
    keep = 1 - came[1:] / risk[1:]
    come = np.append(np.cumprod(keep[::-1])[::-1], 1.0)
    variance = np.append(np.cumsum((came[1:] / (risk[1:] * (risk[1:] - came[1:])))[::-1])[::-1], 0.0)
    return Delays(delay=times, come=come, error=np.sqrt(variance), horizon=float(horizon))


def survival(time: NDArray[Any], ended: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Chance that something has not happened by a time, where some are only known not to have happened yet.

    Args:
        time: (N) to the event, or to now where it has not happened.
        ended: (N) whether it has happened.

    Returns:
        (K) times of events, rising; (K) chance to be without one after each; (K) its standard error.

    Raises:
        InputError: a value cannot be, or nothing happened.

    Source:
        Kaplan & Meier 1958, "Nonparametric estimation from incomplete observations"; errors by Greenwood 1926. It
        takes for granted that the event comes to everyone in the end: use `fit_delays` for conversions, which do not.
    """
    times, happened = np.asarray(time, np.float64), np.asarray(ended, bool)
    if times.shape != happened.shape or times.ndim != 1 or not np.all(np.isfinite(times) & (times >= 0)):
        raise InputError(f"times must be 0 or more and as many as events, got {times.shape}, {happened.shape}.")
    if not happened.any():
        raise InputError("nothing happened yet, so its time has no estimate.")
    knots, place = np.unique(times[happened], return_inverse=True)
    events = np.bincount(place).astype(np.float64)
    risk = len(times) - np.searchsorted(np.sort(times), knots, side="left")
    stay = np.asarray(np.cumprod(1 - events / risk), np.float64)
    left = np.where(risk > events, risk - events, np.inf)
    error = np.asarray(stay * np.sqrt(np.cumsum(events / (risk * left))), np.float64)
    return knots, stay, error


def maturity_weights(age: NDArray[Any], delays: Delays, *, most: float) -> Floats:
    """What a seen conversion of a member of some age counts.

    Args:
        age: (N).
        delays: of conversions.
        most: the largest weight that is accepted, 1 or more.

    Returns:
        (N) 1 / F(age), 1 or more.

    Raises:
        InputError: a member is so young that its weight would be above `most`: leave such members out of both sums.

    Source:
        Inverse probability weighting, Horvitz & Thompson 1952, "A generalization of sampling without replacement from a
        finite universe".
    """
    come = delays(age)
    wrong = np.flatnonzero(~(come * most >= 1))
    if len(wrong):
        at = wrong[0]
        raise InputError(f"member {at} is {np.asarray(age)[at]:g} old, when {come[at]:.3g} of all conversions have "
                         f"come: its weight is above {most:g}; leave members this young out.")  # fmt: skip
    return np.asarray(1 / come, np.float64)


def matured_loss(loss_of_one: Any, loss_of_zero: Any, seen: Any, weight: Any) -> Any:
    """The loss (N) whose mean is that of the labels as they will be; arrays or tensors.

    Args:
        loss_of_one: (N) loss if the member converts.
        loss_of_zero: (N) loss if not.
        seen: (N) 1 where a conversion was seen, else 0.
        weight: (N) of `maturity_weights`.

    Returns:
        (N) w s l1 + (1 - w s) l0, below 0 for some members: it is right on average, not member by member.

    Source:
        Unbiased losses from corrupted labels: Natarajan et al. 2013, "Learning with noisy labels"; for delayed feedback
        Yasui et al. 2020, "A feedback shift correction in predicting conversion rates under delayed feedback".
    """
    share = weight * seen
    return share * loss_of_one + (1 - share) * loss_of_zero


def matured_rate(seen: NDArray[Any], weight: NDArray[Any]) -> tuple[float, float, float]:
    """Share of members who will have converted at the horizon, with a 95 % interval.

    A conversion counts w and is seen with chance 1 / w, so what is found of a share p has the variance (p mean w - p^2)
    / N. The ends are those p from which it is 1.96 deviations away; so there is an upper end where nobody converted.

    Args:
        seen: (N) 1 where a conversion was seen, else 0.
        weight: (N) of `maturity_weights`, 1 or more; the interval takes them as known.

    Returns:
        The share and both ends, which lie from 0 to 1. With few members of large weights the share may be above 1.

    Raises:
        InputError: there are fewer than 2 members, lengths differ, or a value cannot be.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference", with the variance of
        Horvitz & Thompson 1952.
    """
    flags, mass = np.asarray(seen, np.float64), np.asarray(weight, np.float64)
    if flags.shape != mass.shape or flags.ndim != 1 or len(flags) < 2:
        raise InputError(f"a rate needs 2 members or more and a weight for each, got {flags.shape}, {mass.shape}.")
    for name, numbers, good, remedy in (
        ("seen", flags, (flags == 0) | (flags == 1), "0 or 1"),
        ("weight", mass, np.isfinite(mass) & (mass >= 1), "1 or more and finite"),
    ):
        wrong = np.flatnonzero(~good)
        if len(wrong):
            raise InputError(f"{name} of member {wrong[0]} is {numbers[wrong[0]]}; it must be {remedy}.")
    found, part = float((flags * mass).mean()), NORMAL**2 / len(flags)
    middle = found + part * float(mass.mean()) / 2
    half = np.sqrt(max(middle**2 - (1 + part) * found**2, 0.0))
    low, high = (float(np.clip((middle + side * half) / (1 + part), 0.0, 1.0)) for side in (-1, 1))
    return found, low, high


def matured_value(seen: NDArray[Any], age: NDArray[Any], delays: Delays, predicted: NDArray[Any]) -> Floats:
    """Value at the horizon of young members: what was seen, and the part of what is predicted that is still to come.

    Args:
        seen: (N) value so far.
        age: (N).
        delays: of revenue, fitted with amounts as weights.
        predicted: (N) value at the horizon as predicted at the beginning.

    Returns:
        (N) seen + (1 - F(age)) predicted.

    Source:
        Bornhuetter & Ferguson 1972, "The actuary and IBNR".
    """
    return np.asarray(np.asarray(seen, np.float64) + (1 - delays(age)) * predicted, np.float64)


def discounted(value: NDArray[Any], horizons: NDArray[Any], *, rate: float) -> Floats:
    """Worth now of value that comes by and by.

    Args:
        value: (N, H) value within each horizon from now on, rising along a row.
        horizons: (H) rising, above 0; within a step value comes in the middle.
        rate: continuous discount per unit of time; 0 for none. A yearly rate of i in days is log(1 + i) / 365.

    Returns:
        (N) sum over steps of exp(-rate * middle) times what comes in the step.

    Raises:
        InputError: horizons do not rise, values fall, or the rate is below 0.

    Source:
        Present value; for buyers Fader, Hardie & Lee 2005, "RFM and CLV", there over an unbounded horizon.
    """
    times, total = np.asarray(horizons, np.float64), np.asarray(value, np.float64)
    if times.ndim != 1 or total.shape[1:] != times.shape or not np.all(np.diff(times, prepend=0.0) > 0):
        raise InputError(f"horizons must rise from above 0, one a column of {total.shape}, got {times}.")
    if not rate >= 0:
        raise InputError(f"rate must be 0 or more, got {rate}.")
    step = np.diff(total, prepend=0.0, axis=1)
    if step.min(initial=0) < -1e-9 * max(1.0, float(np.abs(total).max(initial=0))):
        raise InputError("values fall along a row; they must be what has come within each horizon, not within a step.")
    middle = times - np.diff(times, prepend=0.0) / 2
    return np.asarray(step @ np.exp(-rate * middle), np.float64)
