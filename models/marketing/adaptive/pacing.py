"""Hold a budget to its plan while delivery drifts: a loop of programs inside a loop that moves their cost row.

Inside, the program of a period may spend as much as its cost target C_t (predicted spend). Outside, the controller
compares what was really spent with the plan and moves the target:

    plan      S*_t = B q(t / H)                     q rises from 0 to 1
    behind    e_t = S*_t - S_t                      S_t: spent until now
    delivery  r_t = D_t / A_t,  r^_t = a r_t + (1 - a) r^_{t-1}        realised over predicted spend

    published  C_{t+1} = clip(C_t + kappa e_t / max(r^_t, eps), C_min, C_max)
    forecast   C_{t+1} = clip(D_{t+1} / r~_{t+1}, C_min, C_max)
               D_{t+1} = (B - S_t) w_{t+1} r~_{t+1} / sum_{s > t} w_s r~_s,   w_s = q(s / H) - q((s - 1) / H)
               held so that |S_t + D_{t+1} - S*_{t+1}| <= band B, the band closing over the last tenth of the plan

The published rule adds up what is already a sum. With delivery known it gives e_{t+1} - 2 e_t + e_{t-1} = -kappa e_t,
whose roots have modulus one for every kappa from 0 to 4: an error is never forgotten, it swings. The forecast is ours.
Its r~ is delivery carried on with its damped trend. As long as the plan allows, it shares what is left in the way of
one price for all periods, which is how a clairvoyant spends; the last period gets all that is left.

Smoothing follows a jump slowly. So delivery that is far from its forecast, the same way twice running, is believed at
once: r^ leaps to the mean of the two, by a factor of `LEAP` at most. One such period may be an outage, and is not.

Source: "From Prediction to Incrementality" (arXiv 2608.10182), the two-loop budget controller; the damped trend is
Gardner & McKenzie 1985, "Forecasting trends in time series".
"""

# Shapes: H periods of the horizon.

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

Floats = NDArray[np.float64]
Rule = Literal["forecast", "published", "open loop"]

CLOSING = 0.1
"""Share of the plan over whose end the band closes."""
DAMPING = 0.95
"""Of the trend, a period."""
NOISE = 0.05
"""How far delivery is thought to be from its forecast before it was seen, as a share of it; standard deviation."""
LEARNING = 0.1
"""Weight of the last period in the variance of that."""
SURPRISE = 5.0
"""Standard deviations from its forecast above which delivery is a surprise."""
LEAP = 0.6
"""Least factor, and its inverse the largest, by which r^ leaps: after an outage that is over all would be overspent."""


@dataclass(frozen=True, kw_only=True)
class Paced:
    """Where a budget stands between two periods; plain numbers, so that a flow may store and take it up again.

    Attributes:
        period: how many periods are over, 0 to H.
        spent: S_t, real spend of these periods.
        ratio: r^_t, smoothed realised over predicted spend.
        trend: of the ratio, a period.
        target: C_{t+1}, cost target of the next period's program, in predicted spend.
        noise: standard deviation of delivery round its forecast, as a share of the forecast.
        odd: the last period's delivery if it was a surprise, else below 0.
    """

    period: int
    spent: float
    ratio: float
    trend: float
    target: float
    noise: float = NOISE
    odd: float = -1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Pacing:
    """The outer loop.

    Attributes:
        budget: B, zero or more.
        curve: (H+1) q, share of the budget to be spent by the end of each period; from 0, never falling, to 1. For the
            forecast its steps should be in proportion to what is expected to happen, see `by_traffic`.
        rule: how the target moves; "open loop" never looks at what was spent.
        gain: kappa of the published rule, above 0 to 1.
        band: of the forecast, how far spend may lead or trail the plan, as a share of the budget, 0 to 1.
        smoothing: a, weight of the last period's delivery, above 0 to 1.
        trending: of the forecast, weight of the last change of delivery in the trend, 0 to 1; 0: no trend.
        smallest: eps, delivery is never taken to be below it.
        least: C_min, of a period.
        most: C_max, of a period.
        ceiling: delivery never exceeds it; the target is then held so low that spend cannot exceed the budget. 1 where
            the predicted spend is what is sent; infinity for no such promise.
    """

    budget: float
    curve: Floats
    rule: Rule = "forecast"
    gain: float = 0.3
    band: float = 0.015
    smoothing: float = 0.3
    trending: float = 0.1
    smallest: float = 0.05
    least: float = 0.0
    most: float = float("inf")
    ceiling: float = float("inf")

    def __post_init__(self) -> None:
        if not (np.isfinite(self.budget) and self.budget >= 0):
            raise InputError(f"the budget must be a finite sum of zero or more, got {self.budget}.")
        curve = np.asarray(self.curve, np.float64)
        if curve.ndim != 1 or len(curve) < 2 or not np.isfinite(curve).all():
            raise InputError(f"the curve needs at least two finite shares in one row, got shape {curve.shape}.")
        if curve[0] != 0 or curve[-1] != 1 or (np.diff(curve) < 0).any():
            raise InputError(
                f"the curve must rise from 0 to 1, got {curve[0]:g} to {curve[-1]:g} with the smallest step "
                f"{np.diff(curve).min():g}; give cumulated shares, as `uniform` and `by_traffic` do."
            )
        if self.rule not in ("forecast", "published", "open loop"):
            raise InputError(f"unknown rule {self.rule!r}; known are 'forecast', 'published' and 'open loop'.")
        for name, value in (("gain", self.gain), ("smoothing", self.smoothing)):
            if not 0 < value <= 1:
                raise InputError(f"{name} must be above 0 and at most 1, got {value}.")
        for name, value in (("band", self.band), ("trending", self.trending)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} must be from 0 to 1, got {value}.")
        if not self.smallest > 0:
            raise InputError(f"the smallest delivery must be above 0, got {self.smallest}.")
        if not 0 <= self.least <= self.most:
            raise InputError(f"cost targets need 0 <= least <= most, got {self.least} and {self.most}.")
        if not self.ceiling > 0:
            raise InputError(f"the ceiling of delivery must be above 0, got {self.ceiling}.")
        object.__setattr__(self, "curve", curve)

    @property
    def periods(self) -> int:
        """H."""
        return len(self.curve) - 1

    @property
    def plan(self) -> Floats:
        """(H+1) S*, what is to be spent by the end of each period."""
        return np.asarray(self.budget * self.curve, np.float64)

    def begin(self, ratio: float = 1.0) -> Paced:
        """Before the first period.

        Args:
            ratio: delivery known from earlier days; 1 when nothing is known.

        Raises:
            InputError: the ratio is not above zero.
        """
        if not (np.isfinite(ratio) and ratio > 0):
            raise InputError(f"the delivery to begin with must be above 0, got {ratio}; 1 when nothing is known.")
        first = Paced(period=0, spent=0.0, ratio=float(ratio), trend=0.0, target=0.0)
        target = float(self.plan[1]) / max(first.ratio, self.smallest)
        return replace(first, target=self._clipped(target, 0.0))

    def after(self, state: Paced, *, predicted: float, realised: float) -> Paced:
        """Move on by one period.

        Args:
            state: before the period.
            predicted: A_t, what the period's program expected to spend.
            realised: D_t, what was spent.

        Returns:
            The state after the period; its target is 0 when no period is left.

        Raises:
            InputError: all periods are over, or an amount is negative or not finite.
        """
        if state.period >= self.periods:
            raise InputError(f"all {self.periods} periods are over; begin a new horizon.")
        for name, amount in (("predicted", predicted), ("realised", realised)):
            if not (np.isfinite(amount) and amount >= 0):
                raise InputError(
                    f"{name} spend of period {state.period + 1} is {amount}; it must be finite and zero or more."
                )
        learned = self._delivery(state, predicted, realised)
        now = replace(learned, period=state.period + 1, spent=state.spent + realised, target=0.0)
        if now.period == self.periods:
            return now
        return replace(now, target=self._clipped(self._target(state.target, now), now.spent))

    def row(self, state: Paced, tolerance: float) -> tuple[float, float]:
        """Lower and upper bound of the cost row of the next period's program.

        Args:
            state: before the period.
            tolerance: half the width of the row as a share of the target, 0 to 1.

        Raises:
            InputError: the tolerance is outside 0 to 1.
        """
        if not 0 <= tolerance <= 1:
            raise InputError(f"the tolerance of the cost row is a share from 0 to 1, got {tolerance}.")
        upper = min(state.target * (1 + tolerance), self._safe(state.spent), self.most)
        return min(max(state.target * (1 - tolerance), self.least), upper), upper

    def _delivery(self, state: Paced, predicted: float, realised: float) -> Paced:
        """The state with what a period taught about delivery."""
        if predicted <= 0:
            return state
        seen = realised / predicted
        if self.rule != "forecast":
            return replace(state, ratio=self.smoothing * seen + (1 - self.smoothing) * state.ratio, trend=0.0)
        if state.period == 0:
            return replace(state, ratio=seen, trend=0.0)  # what it began with is a guess, and its distance no trend
        expected = state.ratio + DAMPING * state.trend
        away = (seen - expected) / max(expected, self.smallest)
        if abs(away) <= SURPRISE * state.noise:
            variance = (1 - LEARNING) * state.noise**2 + LEARNING * away**2
            state = replace(state, noise=float(np.sqrt(variance)), odd=-1.0)
        elif state.odd >= 0 and (state.odd - expected) * away > 0:
            low, high = LEAP * state.ratio, state.ratio / LEAP
            return replace(state, ratio=min(max((seen + state.odd) / 2, low), high), trend=0.0, odd=-1.0)
        else:
            state = replace(state, odd=seen)
        ratio = self.smoothing * seen + (1 - self.smoothing) * expected
        if state.odd >= 0:  # no trend is read off a surprise
            return replace(state, ratio=ratio, trend=DAMPING * state.trend)
        trend = self.trending * (ratio - state.ratio) + (1 - self.trending) * DAMPING * state.trend
        return replace(state, ratio=ratio, trend=trend)

    def _target(self, target: float, now: Paced) -> float:
        plan = self.plan
        if self.rule == "open loop":
            return float(plan[now.period + 1] - plan[now.period])
        if self.rule == "published":
            behind = float(plan[now.period]) - now.spent
            return target + self.gain * behind / max(now.ratio, self.smallest)
        weight = np.diff(self.curve)[now.period :]
        ahead = np.arange(1, len(weight) + 1)
        delivery = now.ratio + now.trend * DAMPING * (1 - DAMPING**ahead) / (1 - DAMPING) * (self.trending > 0)
        delivery = np.maximum(delivery, self.smallest)
        left, shared = self.budget - now.spent, float(weight @ delivery)
        spend = left * weight[0] * delivery[0] / shared if shared > 0 else left
        band = self.band * min(1.0, (1.0 - self.curve[now.period + 1]) / CLOSING) * self.budget
        middle = float(plan[now.period + 1]) - now.spent
        return float(min(max(spend, middle - band), middle + band) / delivery[0])

    def _clipped(self, target: float, spent: float) -> float:
        return float(min(max(target, self.least), self.most, self._safe(spent)))

    def _safe(self, spent: float) -> float:
        return max(self.budget - spent, 0.0) / self.ceiling if np.isfinite(self.ceiling) else float("inf")


def uniform(periods: int) -> Floats:
    """(H+1) the curve that spends alike in every period.

    Raises:
        InputError: there is not at least one period.
    """
    if periods < 1:
        raise InputError(f"a horizon needs at least one period, got {periods}.")
    return np.arange(periods + 1) / periods


def by_traffic(weight: NDArray[np.floating]) -> Floats:
    """(H+1) the curve that spends in proportion to what is expected to happen in each period.

    Args:
        weight: (H) expected members, impressions, or spend at a constant price; zero or more, not all zero.

    Raises:
        InputError: a weight is negative or not finite, or all are zero.

    Source:
        Ours: with a concave value of spend, one price for all periods is best, and at one price spend is in proportion.
    """
    weights = np.asarray(weight, np.float64)
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise InputError("weights of periods must be finite, zero or more, and not all zero; count traffic by period.")
    curve = np.append(0.0, np.cumsum(weights)) / weights.sum()
    curve[-1] = 1.0
    return np.asarray(np.minimum(curve, 1.0), np.float64)
