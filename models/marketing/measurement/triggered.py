"""Signal dilution: only units for whom two policies decide differently can differ, so only they are compared.

Both policies decide for every unit of both arms, and both decisions are logged. With T the units for whom the decisions
differ and r their share, the effect over all units is r times that within T,

    delta = r delta_T,     Var(delta) = r^2 Var(delta_T) + delta_T^2 r (1 - r) / N,

and its variance is about r times that of comparing everybody. What makes this right is checked, not believed: the log
must trigger at one rate in both arms, and outside of T there must be no effect.
"""

# Shapes: N units, Q augmentations; arm 0 is the control, arm 1 the treatment.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from models.common.errors import InputError
from models.marketing.measurement.heavy_tails import Finding, RefusedError, mann_whitney, welch
from models.marketing.measurement.mean_effect import LEVEL, MeanEffect, mean_effect
from models.marketing.measurement.outcomes import ARMS, CONTROL, TREATMENT, Floats, Outcomes
from models.marketing.measurement.sample_ratio import ALARM, RatioCheck, sample_ratio, trigger_ratio
from models.marketing.standard import standard_units


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimated effect over all units of the experiment, and its interval."""

    value: float
    standard_error: float
    low: float
    high: float
    level: float


@dataclass(frozen=True, kw_only=True, eq=False)
class TriggeredEffect:
    """What a triggered analysis found.

    Attributes:
        rate: r, share of units for whom the decisions differ.
        triggered: difference of means within them, with its interval.
        diluted: r times that: the effect over all units.
        everybody: difference of means over all units, without triggering.
        variance_ratio: variance of `diluted` over that of `everybody`.
        outcomes: of the triggered units, for further tests.
        complement: what a test of means found outside, where nothing may be; None when it refuses.
        complement_ranks: what a test of ranks found there; None when it refuses.
        split: check of the units.
        triggers: check of the rates at which the arms triggered.
    """

    rate: float
    triggered: MeanEffect
    diluted: Estimate
    everybody: MeanEffect
    variance_ratio: float
    outcomes: Outcomes
    complement: Finding | None
    complement_ranks: Finding | None
    split: RatioCheck
    triggers: RatioCheck

    @property
    def alarms(self) -> tuple[str, ...]:
        """Why the effect must not be believed; empty when all checks hold."""
        found = [check.sentence() for check in (self.split, self.triggers) if not check.holds]
        for finding in (self.complement, self.complement_ranks):
            if finding and finding.p_value < self.split.alarm:
                found.append(f"outside of the triggered units the arms differ: {finding.sentence()}")
        return tuple(found)


def triggered_effect(
    outcome: ArrayLike,
    arm: ArrayLike,
    decision_control: ArrayLike,
    decision_treatment: ArrayLike,
    *,
    shares: Mapping[str, float] | None = None,
    level: float = LEVEL,
    alarm: float = ALARM,
) -> TriggeredEffect:
    """Compare two policies on the units for whom they decide differently.

    Args:
        outcome: (N) of each unit.
        arm: (N) 0 for the control, 1 for the treatment.
        decision_control: (N) what the policy of the control decides for the unit, whichever arm it is in.
        decision_treatment: (N) what the policy of the treatment decides for it.
        shares: of units that were meant for `control` and `treatment`; half each when left out.
        level: coverage of the intervals.
        alarm: level of the checks.

    Returns:
        Effects and checks; read `alarms` first.

    Raises:
        InputError: lengths differ, an arm is neither 0 nor 1, a decision or an outcome is missing, or one policy's
            decisions are numbers and the other's names.
        RefusedError: an arm has fewer than two triggered units.

    Source:
        Deng & Hu 2015, "Diluted treatment effect estimation for trigger analysis in online controlled experiments"; the
        counterfactual log: Deng et al. 2021 (arXiv 2112.13299).
    """
    y, treated = _outcome_and_arm(outcome, arm)
    decisions = [
        _decisions(given, len(y), name)
        for given, name in zip((decision_control, decision_treatment), ARMS, strict=True)
    ]
    if len({one.dtype.kind in "biuf" for one in decisions}) > 1:
        told = f"decisions are {decisions[0].dtype} of the control and {decisions[1].dtype} of the treatment"
        raise InputError(f"{told}, so that none is ever equal; log both as numbers or both as names.")
    differ = np.asarray(decisions[0] != decisions[1])
    outcomes, complement = _arms(y, treated, differ), _arms(y, treated, ~differ)
    units = np.array([(~treated).sum(), treated.sum()])
    if outcomes.units.min() < 2:
        told = f"{outcomes.units[0]} and {outcomes.units[1]} units triggered, 2 are needed in each arm."
        raise RefusedError("triggered_effect", "an arm is too small", told)
    rate, effect = float(differ.mean()), mean_effect(outcomes, level=level)
    everybody = mean_effect(_arms(y, treated, np.ones(len(y), bool)), level=level)
    error = float(np.hypot(rate * effect.standard_error, effect.difference * np.sqrt(rate * (1 - rate) / len(y))))
    counts = {name: int(count) for name, count in zip(ARMS, units, strict=True)}
    triggers = {name: int(count) for name, count in zip(ARMS, outcomes.units, strict=True)}
    return TriggeredEffect(
        rate=rate,
        triggered=effect,
        diluted=_estimate(rate * effect.difference, error, effect.freedom, level),
        everybody=everybody,
        variance_ratio=_squared_ratio(error, everybody.standard_error),
        outcomes=outcomes,
        complement=_asked(welch, complement),
        complement_ranks=_asked(mann_whitney, complement),
        split=sample_ratio(counts, shares or dict.fromkeys(ARMS, 0.5), alarm=alarm),
        triggers=trigger_ratio(triggers, counts, alarm=alarm),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class OneSidedEffect:
    """What is known when the trigger was logged in the treatment alone.

    Attributes:
        effect: over all units, with the augmentation.
        plain: difference of means over all units: intention to treat.
        variance_ratio: of the augmented over the plain estimate.
        coefficients: (Q) by which augmentations are subtracted.
        rate: share of the treatment that triggered.
        per_triggered: the effect divided by that rate: over triggered units.
    """

    effect: Estimate
    plain: MeanEffect
    variance_ratio: float
    coefficients: Floats
    rate: float
    per_triggered: float


def one_sided_effect(
    outcome: ArrayLike,
    arm: ArrayLike,
    triggered: ArrayLike,
    *,
    before: ArrayLike | None = None,
    never: ArrayLike | None = None,
    level: float = LEVEL,
) -> OneSidedEffect:
    """Effect over all units when only the treatment's log says who triggered.

    The difference of means needs no trigger and is unbiased. Whatever has the same expectation in both arms may be
    subtracted from it, times any number, without moving it: numbers known before the treatment, and the outcomes of
    units that can never trigger. The coefficients make the variance least.

    Args:
        outcome: (N) of each unit.
        arm: (N) 0 for the control, 1 for the treatment.
        triggered: (N) whether the log calls the unit triggered; read in the treatment alone.
        before: (N) or (N, Q) numbers known before the treatment; none when left out.
        never: (N) whether the unit can never trigger, by a rule known before the treatment; none when left out.
        level: coverage of the interval.

    Returns:
        The effect. With neither `before` nor `never` it is the plain difference.

    Raises:
        InputError: lengths differ, a number is not finite, or the log calls a unit of the treatment triggered that can
            never trigger.
        RefusedError: an arm has fewer units than augmentations and three.

    Source:
        Deng et al. 2021 (arXiv 2112.13299): an estimate of intention to treat with augmentations of mean zero. Which
        ones is ours; coefficients as in Deng et al. 2013, "Improving the sensitivity of online controlled experiments
        by utilizing pre-experiment data". The variance is that of an analysis of covariance, which knows that they were
        found on the same units: Cochran 1957, "Analysis of covariance: its nature and uses".
    """
    y, treated = _outcome_and_arm(outcome, arm)
    log = _flags(triggered, len(y), "triggered")
    columns = []
    if before is not None:
        columns.append(_known(before, len(y)))
    if never is not None:
        apart = _flags(never, len(y), "never")
        if (wrong := treated & log & apart).any():
            told = f"unit {int(np.argmax(wrong))} triggered and can never trigger; mend the rule or the log."
            raise InputError(told)
        columns += [(y * apart)[:, None], apart[:, None].astype(np.float64)]
    more = np.concatenate(columns, 1) if columns else np.zeros((len(y), 0))
    plain = mean_effect(_arms(y, treated, np.ones(len(y), bool)), level=level)
    sizes = np.array([(~treated).sum(), treated.sum()])
    if sizes.min() < more.shape[1] + 3:
        told = f"arms have {sizes[0]} and {sizes[1]} units, {more.shape[1] + 3} are needed for {more.shape[1]} numbers."
        raise RefusedError("one_sided_effect", "an arm is too small", told)
    # in standard units, so that no column is dropped for the smallness of its unit
    units, money = standard_units(more), standard_units(y[:, None])
    scale = float(money.scale[0]) if money.varies[0] else 1.0
    joint = np.concatenate([y[:, None] / scale, units(more)], 1)
    means = [joint[side].mean(0) for side in (~treated, treated)]
    covariance = sum(
        np.atleast_2d(np.cov(joint[side], rowvar=False)) / size
        for side, size in zip((~treated, treated), sizes, strict=True)
    )
    gap = means[TREATMENT] - means[CONTROL]
    curve, way = np.linalg.eigh(covariance[1:, 1:])
    kept = curve > 1e-10 * (1 / sizes).sum()  # below lie columns that repeat others, and those that tell the arms apart
    inner = way[:, kept] / curve[kept] @ way[:, kept].T
    slopes = inner @ covariance[1:, 0]
    weights = np.concatenate([[1.0], -slopes])
    # slopes that were found on the same units fit them too well, and the more so the further arms are apart
    rank, within = int(kept.sum()), int(sizes.sum()) - 2
    fitted = within / (within - rank) * (1 + float(gap[1:] @ inner @ gap[1:]) / within)
    error = float(np.sqrt(max(float(weights @ covariance @ weights), 0.0) * fitted))
    coefficients = scale * units.back(slopes)[1]
    rate = float(log[treated].mean())
    freedom = plain.freedom * (within - rank) / within
    effect = _estimate(float(weights @ gap) * scale, error * scale, freedom, level)
    return OneSidedEffect(
        effect=effect,
        plain=plain,
        variance_ratio=_squared_ratio(effect.standard_error, plain.standard_error),
        coefficients=coefficients,
        rate=rate,
        per_triggered=effect.value / rate if rate else float("nan"),
    )


def _squared_ratio(error: float, whole: float) -> float:
    """Of two variances, by their roots; not a number where the second is zero."""
    return (error / whole) ** 2 if whole > 0 else float("nan")


def _flags(given: ArrayLike, units: int, name: str) -> NDArray[np.bool_]:
    flags = np.asarray(given)
    if flags.shape != (units,):
        raise InputError(f"{name} has the shape {flags.shape}, there are {units} units; give one for each.")
    wrong = np.flatnonzero(~np.isin(flags, (0, 1)))
    if len(wrong):
        raise InputError(f"{name} of unit {wrong[0]} is {flags[wrong[0]]}, must be yes or no (1 or 0).")
    return flags.astype(bool)


def _known(before: ArrayLike, units: int) -> Floats:
    """(N, Q) numbers known before the treatment."""
    numbers = np.asarray(before, np.float64)
    if numbers.ndim not in (1, 2) or len(numbers) != units:
        raise InputError(
            f"numbers known before have the shape {numbers.shape}, there are {units} units; give a row each."
        )
    table = numbers.reshape(units, -1)
    wrong = np.argwhere(~np.isfinite(table))
    if len(wrong):
        row, column = wrong[0]
        told = f"number {column} known before of unit {row} is {table[row, column]}, must be finite"
        raise InputError(f"{told}; fill it, or leave the column out.")
    return table


def _estimate(value: float, error: float, freedom: float, level: float) -> Estimate:
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Estimate(value=value, standard_error=error, low=value - half, high=value + half, level=level)


def _outcome_and_arm(outcome: ArrayLike, arm: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    y, side = np.asarray(outcome, np.float64), np.asarray(arm)
    if y.shape != side.shape or y.ndim != 1:
        raise InputError(f"outcomes have the shape {y.shape} and arms {side.shape}; give one of each for a unit.")
    if not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(y)))
        raise InputError(f"the outcome of unit {row} is {y[row]}, must be finite; drop or fill it.")
    if not np.isin(side, (CONTROL, TREATMENT)).all():
        row = int(np.argmin(np.isin(side, (CONTROL, TREATMENT))))
        raise InputError(f"the arm of unit {row} is {side[row]}, must be 0 (control) or 1 (treatment).")
    return y, side.astype(bool)


def _decisions(given: ArrayLike, units: int, name: str) -> NDArray[Any]:
    decisions = np.asarray(given)
    if decisions.shape != (units,):
        raise InputError(f"decisions of the {name} have the shape {decisions.shape}, there are {units} units; log all.")
    missing = np.asarray(pd.isna(decisions))
    if missing.any():
        row = int(np.argmax(missing))
        raise InputError(f"the {name}'s decision for unit {row} is missing; log both decisions of every unit.")
    return decisions


def _arms(y: Floats, treated: NDArray[np.bool_], among: NDArray[np.bool_]) -> Outcomes:
    return Outcomes.of(y[among & ~treated], y[among & treated])


def _asked(test: Any, outcomes: Outcomes) -> Finding | None:
    try:
        found: Finding = test(outcomes)
    except RefusedError:
        return None
    return found
