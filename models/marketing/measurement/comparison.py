"""All tests of two arms, side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from models.marketing.measurement import heavy_tails
from models.marketing.measurement.combination import EVEN, GAINS, PERMUTATIONS, combination, permuted
from models.marketing.measurement.heavy_tails import Finding, Reason, RefusedError
from models.marketing.measurement.mean_effect import LEVEL, MeanEffect, mean_effect
from models.marketing.measurement.outcomes import Outcomes, rank_sums_of

TESTS = ("welch", "winsorised", "mann_whitney", "zero_trimmed", "two_part", "combination", "combination_for_gains")
"""Names of the tests, in the order of tables."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A test that does not speak: its name, the reason by name, and the reason in words."""

    test: str
    reason: Reason
    told: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two arms compared by several tests.

    Attributes:
        effect: difference of means over all units, with its interval.
        findings: of the tests that speak, by name.
        refusals: of the others, by name.
    """

    effect: MeanEffect
    findings: Mapping[str, Finding]
    refusals: Mapping[str, Refusal]

    def table(self) -> tuple[Mapping[str, Any], ...]:
        """Rows for a person; the difference of means stands in every one of them, and any doubt of its interval."""
        interval = f"{self.effect.low:+.4g} to {self.effect.high:+.4g}"
        if self.effect.doubt:
            interval += f"; in doubt: {self.effect.doubt}"
        shown = {"difference of means": f"{self.effect.difference:+.4g}", "95 % interval": interval}
        if self.effect.level != LEVEL:
            shown = {"difference of means": f"{self.effect.difference:+.4g}", "interval": interval}
        rows = []
        for test in (*self.findings, *self.refusals):
            finding, refusal = self.findings.get(test), self.refusals.get(test)
            p_value = f"{finding.p_value:.3g}" if finding else f"refused: {refusal.reason}" if refusal else ""
            rows.append({"test": test, "asks": heavy_tails.QUESTIONS[test], "p": p_value, **shown})
        return tuple(rows)


def compare(
    outcomes: Outcomes,
    *,
    tests: Sequence[str] = TESTS,
    level: float = LEVEL,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> Comparison:
    """Ask every test; refusals are results too.

    Args:
        outcomes: of two arms, each of at least two units.
        tests: names, of `TESTS`.
        level: coverage of the interval of the difference of means.
        seed: of the permutations.
        permutations: of the combination.

    Returns:
        Findings and refusals.

    Raises:
        ValueError: a test is unknown, or an arm has fewer than two units.

    Source:
        Ours.
    """
    if unknown := sorted(set(tests) - set(TESTS)):
        raise ValueError(f"there is no test {', '.join(unknown)}; there are {', '.join(TESTS)}.")
    effect, sums = mean_effect(outcomes, level=level), rank_sums_of(outcomes)
    draws = cache(lambda: permuted(outcomes, permutations=permutations, seed=seed))
    ask: dict[str, Callable[[], Finding]] = {
        "welch": lambda: heavy_tails.welch(outcomes, effect=effect),
        "winsorised": lambda: heavy_tails.winsorised(outcomes, effect=effect),
        "mann_whitney": lambda: heavy_tails.mann_whitney(outcomes, sums=sums, effect=effect),
        "zero_trimmed": lambda: heavy_tails.zero_trimmed(outcomes, sums=sums, effect=effect),
        "two_part": lambda: heavy_tails.two_part(outcomes, sums=sums, effect=effect),
        EVEN.test: lambda: combination(outcomes, design=EVEN, draws=draws, effect=effect),
        GAINS.test: lambda: combination(outcomes, design=GAINS, draws=draws, effect=effect),
    }
    findings, refusals = {}, {}
    for test in tests:
        try:
            findings[test] = ask[test]()
        except RefusedError as refused:
            refusals[test] = Refusal(test=test, reason=refused.reason, told=str(refused))
    return Comparison(effect=effect, findings=findings, refusals=refusals)
