"""Did the split come out as it was meant? If not, nothing else of the experiment can be believed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALARM = 1e-3
"""Level of the checks: a sound experiment raises a false alarm once in a thousand times."""

FEW = 50
"""Expected units of an arm below which chi-squared raises too many alarms: at 2 of them ten times too many."""

_EXACT = 1_000_000
"""Units up to which two arms are checked by the exact law, however many are expected."""


@dataclass(frozen=True, kw_only=True)
class RatioCheck:
    """A split beside what was meant.

    Attributes:
        what: was split.
        observed: units by arm.
        expected: by arm.
        p_value: of a split at least so unlikely.
        alarm: level below which the check fails.
    """

    what: str
    observed: Mapping[str, int]
    expected: Mapping[str, float]
    p_value: float
    alarm: float = ALARM

    @property
    def holds(self) -> bool:
        """Whether the split may be chance."""
        return self.p_value >= self.alarm

    def sentence(self) -> str:
        """The check in words."""
        each = (f"{arm} {count:,} (expected {self.expected[arm]:,.1f})" for arm, count in self.observed.items())
        verdict = "as meant" if self.holds else "MISMATCH: do not read any effect before the cause is found"
        return f"{self.what}: {', '.join(each)}; p = {self.p_value:.2g}, {verdict}."


def sample_ratio(
    counts: Mapping[str, int], shares: Mapping[str, float], *, what: str = "units", alarm: float = ALARM
) -> RatioCheck:
    """Check how many units each arm got.

    Args:
        counts: units by arm.
        shares: that were meant, by arm; matched by name, and scaled to add up to one.
        what: is counted.
        alarm: level.

    Returns:
        The check. Two arms of up to a million units: by the binomial law. Where an arm expects fewer than `FEW` units:
        each arm by the binomial law, and the least p-value times the number of arms. Else by chi-squared.

    Raises:
        ValueError: names differ, a share is not above zero, a count is no whole number of zero or more, or there are
            no units.

    Source:
        Fabijan et al. 2019, "Diagnosing sample ratio mismatch in online controlled experiments".
    """
    if set(counts) != set(shares):
        odd = sorted(set(counts) ^ set(shares))
        raise ValueError(f"arms {', '.join(odd)} are in one of counts and shares only; name the same arms.")
    _whole(counts)
    if len(counts) < 2 or not sum(counts.values()):
        raise ValueError(f"a split needs two arms and some units, got {dict(counts)}.")
    if not all(np.isfinite(share) and share > 0 for share in shares.values()):
        raise ValueError(f"every share must be above zero, got {dict(shares)}; leave out arms that get nothing.")
    total, whole = sum(counts.values()), sum(shares.values())
    expected = {arm: total * shares[arm] / whole for arm in counts}
    if (len(counts) == 2 and total <= _EXACT) or min(expected.values()) < FEW:
        p = _binomial(counts, expected)
    else:
        square = sum((count - expected[arm]) ** 2 / expected[arm] for arm, count in counts.items())
        p = float(stats.chi2.sf(square, len(counts) - 1))
    return RatioCheck(what=what, observed=dict(counts), expected=expected, p_value=p, alarm=alarm)


def trigger_ratio(
    triggered: Mapping[str, int], units: Mapping[str, int], *, what: str = "triggered units", alarm: float = ALARM
) -> RatioCheck:
    """Check that each arm triggered at the same rate.

    A trigger is a function of what was known before the treatment. Then the rate cannot depend on the arm, and a
    difference means that a log is wrong: events lost in one arm, or a trigger that the treatment itself moves.

    Args:
        triggered: units by arm that the log calls triggered.
        units: of each arm.
        what: is counted.
        alarm: level.

    Returns:
        The check. Two arms of up to a million units: by Fisher's exact law (hypergeometric). Where an arm expects fewer
        than `FEW` units with or without a trigger: these as in `sample_ratio`. Else by chi-squared.

    Raises:
        ValueError: names differ, there are fewer than two arms, a count is no whole number of zero or more, an arm has
            no units, or more triggered units than units.

    Source:
        Deng et al. 2021, "Zero to hero: exploiting null effects to achieve variance reduction in experiments with
        one-sided triggering" (arXiv 2112.13299), for the setting; Fisher 1935 for the law.
    """
    if set(triggered) != set(units):
        odd = sorted(set(triggered) ^ set(units))
        raise ValueError(f"arms {', '.join(odd)} are in one of triggered and units only; name the same arms.")
    _whole(triggered)
    _whole(units)
    if len(units) < 2 or not min(units.values()):
        raise ValueError(f"rates need two arms and units in each of them, got {dict(units)}; leave out empty arms.")
    for arm, count in triggered.items():
        if not 0 <= count <= units[arm]:
            raise ValueError(f"{arm} has {count} triggered of {units[arm]} units; count each unit once.")
    total, all_ = sum(triggered.values()), sum(units.values())
    expected = {arm: total * units[arm] / all_ for arm in triggered}
    without = {arm: units[arm] - triggered[arm] for arm in triggered}
    table = np.array([[triggered[arm], without[arm]] for arm in triggered])
    if total in (0, all_):
        p = 1.0
    elif len(triggered) == 2 and all_ <= _EXACT:
        p = float(stats.fisher_exact(table).pvalue)
    elif min(min(total, all_ - total) * units[arm] / all_ for arm in triggered) < FEW:
        p = _binomial(triggered if total <= all_ - total else without, units)
    else:
        p = float(stats.chi2_contingency(table, correction=False).pvalue)
    return RatioCheck(what=what, observed=dict(triggered), expected=expected, p_value=p, alarm=alarm)


def _binomial(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """p-value of a split by the binomial law; of more than two arms Bonferroni's, each arm against all others."""
    total, whole = sum(counts.values()), sum(shares.values())
    each = [float(stats.binomtest(int(count), int(total), shares[arm] / whole).pvalue) for arm, count in counts.items()]
    return each[0] if len(each) == 2 else min(1.0, len(each) * min(each))


def _whole(counts: Mapping[str, int]) -> None:
    for arm, count in counts.items():
        if not (np.isfinite(count) and count >= 0 and count == int(count)):
            raise ValueError(f"{arm} has {count} units, must be a whole number of zero or more; count units, not rows.")
