"""How often the tests speak up: on arms that do not differ, and on arms that do, in four ways.

A unit buys with probability p; what a buyer brings has a heavy tail. Effects are told in standard errors of the two
parts, so that one number fits every size: a lift of the share by e sqrt(2 (1 - p) / (n p)) of itself, and a shift of
the logarithm by e s sqrt(2 / (n p)), s its standard deviation.
"""

# Shapes: n units in each arm.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from models.common.judgement import Figure, Series
from models.marketing.measurement.comparison import TESTS, compare
from models.marketing.measurement.outcomes import Floats, Outcomes

Law = Literal["lognormal", "pareto", "cauchy"]
Kind = Literal["none", "share", "value", "both", "opposed"]

KINDS: Mapping[Kind, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "share": (2.0, 0.0),
    "value": (0.0, 2.0),
    "both": (1.2, 1.2),
    "opposed": (-1.6, 1.6),
}
"""Effects on share and value, in standard errors."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Two arms.

    Attributes:
        law: of a buyer's value: lognormal, Pareto from 1, or the absolute value of Cauchy's.
        spread: standard deviation of the logarithm (lognormal), or index of the tail (Pareto); nothing to Cauchy.
        units: n, of the control.
        share: p, probability that a unit of the control buys.
        kind: of the effect.
        size: of the effect; 1: as in `KINDS`.
        treated: units of the treatment; 0: as many as of the control.
    """

    law: Law
    spread: float
    units: int
    share: float
    kind: Kind = "none"
    size: float = 1.0
    treated: int = 0

    @property
    def name(self) -> str:
        """Short and unique."""
        law = self.law if self.law == "cauchy" else f"{self.law} {self.spread:g}"
        effect = "" if self.kind == "none" else f" {self.kind}"
        units = f"{self.units}:{self.treated}" if self.treated else str(self.units)
        return f"{law} n={units} p={self.share:g}{effect}{'' if self.size == 1 else f' x{self.size:g}'}"

    def draw(self, rng: np.random.Generator) -> Outcomes:
        """One experiment; raises `ValueError` where the effect leaves no share of buyers from 0 to 1."""
        units = np.array([self.units, self.treated or self.units])
        share_effect, value_effect = (self.size * part for part in KINDS[self.kind])
        error = np.sqrt((1 / units).sum() / self.share)
        lift = share_effect * error * np.sqrt(1 - self.share)
        if not 0 <= (treated := self.share * (1 + lift)) <= 1:
            told = f"{self.name} would have a share of {treated:.3g} of the treatment buy, must be 0 to 1"
            raise ValueError(f"{told}; take more units or a smaller effect.")
        buyers = rng.binomial(units, [self.share, self.share * (1 + lift)])
        arms = [self._values(int(count), rng) for count in buyers]
        sketch = Outcomes.of(arms[0], arms[1] * np.exp(value_effect * self._log_deviation() * error))
        return replace(sketch, zeros=units - sketch.counts.sum(1))

    def _log_deviation(self) -> float:
        if self.law == "cauchy":
            return float(np.pi / 2)
        return self.spread if self.law == "lognormal" else 1 / self.spread

    def _values(self, count: int, rng: np.random.Generator) -> Floats:
        if self.law == "lognormal":
            return np.asarray(np.exp(self.spread * rng.standard_normal(count)))
        if self.law == "pareto":
            return np.asarray(rng.random(count) ** (-1 / self.spread))  # in (0, 1) but for one case in 2^53
        return np.asarray(np.abs(rng.standard_cauchy(count)))


@dataclass(frozen=True, kw_only=True)
class Rejections:
    """What a test did in many experiments.

    Attributes:
        spoke: experiments in which it did not refuse.
        rejected: of these, those with a p-value at or below each level.
    """

    spoke: int
    rejected: tuple[int, ...]


def study(
    scenario: Scenario,
    *,
    runs: int,
    seed: int,
    levels: Sequence[float] = (0.05,),
    tests: Sequence[str] = TESTS,
    first: int = 0,
) -> Mapping[str, Rejections]:
    """Repeat an experiment.

    Args:
        scenario: of the experiment.
        runs: how many.
        seed: run number i draws from (seed, i), so that a study can be cut into pieces.
        levels: of the tests.
        tests: names.
        first: number of the first run.

    Returns:
        Rejections of each test.

    Source:
        Ours.
    """
    return tallied([_run(scenario, seed, run, tests) for run in range(first, first + runs)], tests, levels)


def _run(scenario: Scenario, seed: int, run: int, tests: Sequence[str]) -> Mapping[str, float]:
    outcomes = scenario.draw(np.random.default_rng((seed, run)))
    return p_values(outcomes, tests, run)


def p_values(outcomes: Outcomes, tests: Sequence[str], seed: int) -> Mapping[str, float]:
    """p-values of the tests that speak.

    Args:
        outcomes: of two arms.
        tests: names.
        seed: of the permutations.

    Returns:
        By name; without those that refuse.

    Source:
        Ours.
    """
    found = compare(outcomes, tests=tests, seed=seed)
    return {test: finding.p_value for test, finding in found.findings.items()}


def tallied(
    runs: Sequence[Mapping[str, float]], tests: Sequence[str], levels: Sequence[float]
) -> Mapping[str, Rejections]:
    """Count rejections.

    Args:
        runs: p-values by test, of each run.
        tests: names.
        levels: of the tests.

    Returns:
        Rejections of each test.

    Source:
        Ours.
    """
    out = {}
    for test in tests:
        p = np.array([run[test] for run in runs if test in run])
        # a whole number of permutations divided by another may miss the level by its last bit
        out[test] = Rejections(spoke=len(p), rejected=tuple(int((p <= level * (1 + 1e-12)).sum()) for level in levels))
    return out


def binomial_band(runs: int, level: float, error: float) -> tuple[int, int]:
    """Rejections between which a test of exactly this level falls, but for a probability of at most `error`.

    Args:
        runs: in which the test spoke.
        level: of the test.
        error: of both tails together; divide it by the number of bands that are looked at (Bonferroni).

    Returns:
        Least and most.

    Source:
        The exact binomial law.
    """
    law = stats.binom(runs, level)
    return int(law.ppf(error / 2)), int(law.isf(error / 2))


def power_figure(
    kind: Kind = "both",
    *,
    law: Law = "lognormal",
    spread: float = 1.0,
    units: int = 2000,
    share: float = 0.2,
    sizes: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0),
    runs: int = 400,
    seed: int = 0,
    tests: Sequence[str] = TESTS,
) -> Figure:
    """Power of the tests against the size of one kind of effect.

    Args:
        kind: of the effect.
        law: of a buyer's value.
        spread: of it.
        units: in each arm.
        share: of buyers in the control.
        sizes: of the effect; 1 is that of `KINDS`.
        runs: experiments for each size.
        seed: of the experiments.
        tests: names.

    Returns:
        The figure, with intervals of 95 % (Wilson).

    Source:
        Wilson 1927 for the intervals.
    """
    base = Scenario(law=law, spread=spread, units=units, share=share, kind=kind)
    found = [study(replace(base, size=size), runs=runs, seed=seed, tests=tests) for size in sizes]
    series = []
    for test in tests:
        counts = [one[test] for one in found]
        spoken = [(size, one) for size, one in zip(sizes, counts, strict=True) if one.spoke]
        if not spoken:
            continue
        ends = [stats.binomtest(one.rejected[0], one.spoke).proportion_ci(method="wilson") for _, one in spoken]
        series.append(
            Series(
                label=test.replace("_", " "),
                x=tuple(size for size, _ in spoken),
                y=tuple(one.rejected[0] / one.spoke for _, one in spoken),
                low=tuple(float(end.low) for end in ends),
                high=tuple(float(end.high) for end in ends),
            )
        )
    share_effect, value_effect = KINDS[kind]
    effects = f"{share_effect:+g} s.e. of the share and {value_effect:+g} s.e. of the logarithm of the value"
    return Figure(
        name=f"power_{kind}",
        title=f"Power at 5 % when the effect is on {kind}" if kind in ("share", "value", "both") else "Power at 5 %",
        x_label=f"size of the effect (1: {effects})",
        y_label="share of experiments with p <= 0.05",
        series=tuple(series),
        caption=f"{base.name}; {runs} experiments for each point, 95 % intervals. A test that refuses has no point.",
    )
