"""What `make prove SYSTEM=marketing` measures: sizes and powers of tests, the published table, triggered analysis.

Other parts of the system have files of their own, `marketing_PART.py`, each with its `SECTIONS`; those that are there
are run after these.
"""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import linprog

from infra.settings import settings
from models.marketing.measurement.combination import DIRECTIONS, EVEN, GAINS
from models.marketing.measurement.comparison import TESTS
from models.marketing.measurement.heavy_tails import zero_trimmed_u
from models.marketing.measurement.outcomes import Outcomes, rank_sums
from models.marketing.measurement.power import KINDS, Rejections, Scenario, binomial_band, p_values, study, tallied
from models.marketing.measurement.triggered import one_sided_effect, triggered_effect
from tests.proof import Found, Pieces, Proof, Report, Section, Subject, table

CODE = ("models.marketing",)
PARTS = ("allocation", "prediction", "adaptive", "campaign")
"""Parts of the system that may bring sections of their own, in `tests/proofs/marketing_PART.py`."""

LEVELS = (0.05, 0.01, 0.001)
SIZE_RUNS, POWER_RUNS, TABLE_RUNS, TRIGGER_RUNS = 4000, 5000, 4000, 2000
FAMILY = 1e-3
"""Probability that tests of exactly their level leave any band of the whole table."""

LAWS: Sequence[tuple[Any, float]] = (("lognormal", 1.0), ("lognormal", 5.0), ("pareto", 1.8), ("cauchy", 0.0))
SIZES = ((200, 0.2), (2000, 0.2), (2000, 0.01), (20_000, 0.01))
"""Units of each arm and share of buyers."""

UNEQUAL = ((2000, 200, 0.2), (20_000, 2000, 0.2), (20_000, 10_000, 0.05))
"""Units of the control, units of the treatment, and share of buyers, lognormal 1."""

GRID = (
    {"law": "lognormal", "spread": 1.0, "units": 2000, "share": 0.2},
    {"law": "pareto", "spread": 1.8, "units": 2000, "share": 0.2},
    {"law": "lognormal", "spread": 1.0, "units": 20_000, "share": 0.01},
)
EFFECTS = tuple(kind for kind in KINDS if kind != "none")
MIXED = ("both", "opposed")
RATIO = 0.93
"""Power beside the best single test."""

HILLSTROM = "hillstrom_dev.csv.gz"
HILLSTROM_UNITS = (200, 2000, 20_000)


def hillstrom() -> Path | None:
    """The e-mail test of MineThatData in the mirror, if there is one."""
    mirror = settings().mirror
    found = sorted(Path(mirror).glob(f"*/{HILLSTROM}")) if mirror else []
    return found[0] if found else None


# ------------------------------------------------------------------------------------------------- size


def size_scenarios() -> Mapping[str, Scenario]:
    """Arms that do not differ."""
    found = [
        Scenario(law=law, spread=spread, units=units, share=share) for units, share in SIZES for law, spread in LAWS
    ]
    found += [
        Scenario(law="lognormal", spread=1.0, units=control, treated=treated, share=share)
        for control, treated, share in UNEQUAL
    ]
    return {scenario.name: scenario for scenario in found}


def size(_: Proof) -> Pieces:
    """A piece for each law and size."""
    pieces: dict[str, Any] = {
        name: partial(_size, scenario, 1000 + number)
        for number, (name, scenario) in enumerate(size_scenarios().items())
    }
    if path := hillstrom():
        pieces |= {f"hillstrom n={units}": partial(_permuted_labels, path, units) for units in HILLSTROM_UNITS}
    return pieces


def _size(scenario: Scenario, seed: int, _: Mapping[str, Found]) -> Found:
    return _as_json(study(scenario, runs=SIZE_RUNS, seed=seed, levels=LEVELS))


def _permuted_labels(path: Path, units: int, _: Mapping[str, Found]) -> Found:
    """Labels drawn at random for the spend of all customers, whichever e-mail they got."""
    import pandas as pd

    spend = pd.read_csv(path)["spend"].to_numpy(np.float64)
    runs = []
    for run in range(SIZE_RUNS):
        drawn = np.random.default_rng((2000 + units, run)).permutation(len(spend))[: 2 * units]
        runs.append(p_values(Outcomes.of(spend[drawn[:units]], spend[drawn[units:]]), TESTS, run))
    return _as_json(tallied(runs, TESTS, LEVELS))


def _as_json(rejections: Mapping[str, Rejections]) -> Found:
    return {test: [one.spoke, *one.rejected] for test, one in rejections.items()}


def report_size(found: Mapping[str, Found]) -> Report:
    """Rates beside bands."""
    bands = len(found) * len(TESTS) * len(LEVELS)
    rows, missed, single, counted = [], [], 0, 0
    for name, piece in found.items():
        cells = []
        for test in TESTS:
            spoke, *rejected = piece[test]
            if not spoke:
                cells.append("refuses")
                continue
            for level, count in zip(LEVELS, rejected, strict=True):
                low, high = binomial_band(spoke, level, FAMILY / bands)
                inner = binomial_band(spoke, level, FAMILY)
                counted, single = counted + 1, single + (not inner[0] <= count <= inner[1])
                if not low <= count <= high:
                    missed.append(
                        f"size: {test} on {name} rejects {count} of {spoke} at {level:g}, must be {low} to {high}"
                    )
            shown = " / ".join(f"{count / spoke:.4f}".lstrip("0") for count in rejected)
            silent = 1 - spoke / SIZE_RUNS
            cells.append(f"{shown} (refuses {silent:.0%})" if silent else shown)
        rows.append((name, *cells))
    low, high = binomial_band(SIZE_RUNS, 0.05, FAMILY / bands)
    return Report(
        [
            f"Two arms of n units (or control:treatment) that do not differ, {SIZE_RUNS:,} runs; p is the share of "
            f"buyers. Shares of p-values at or below {', '.join(map(str, LEVELS))}, of the runs in which the test "
            "speaks. Hillstrom: labels drawn at random for the spend of customers.",
            "",
            *table(("arms", *(test.replace("_", " ") for test in TESTS)), rows),
            "",
            f"With a probability of {1 - FAMILY:g} tests of exactly their level stay within all {bands} exact binomial "
            f"bands (Bonferroni); at .05 and {SIZE_RUNS:,} runs that is {low / SIZE_RUNS:.4f} to "
            f"{high / SIZE_RUNS:.4f}. Outside of its band: {len(missed)}. Outside of the band of 99.9 % that each has "
            f"alone: {single} of {counted}, {FAMILY * counted:.1f} expected.",
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- power


def power(_: Proof) -> Pieces:
    """A piece for each cell of the grid, each sense of it, and what is attainable at all."""
    pieces: dict[str, Any] = {}
    for row, base in enumerate(GRID):
        for column, kind in enumerate(EFFECTS):
            for sense in (1.0, -1.0):
                scenario = Scenario(kind=kind, size=sense, **base)
                seed = 3000 + 100 * row + 10 * column + (sense < 0)
                pieces[scenario.name] = partial(_power, scenario, seed)
    return {**pieces, "attainable": _attainable}


def _power(scenario: Scenario, seed: int, _: Mapping[str, Found]) -> Found:
    runs = POWER_RUNS if scenario.size > 0 else POWER_RUNS // 3
    return _as_json(study(scenario, runs=runs, seed=seed))


def _rate(piece: Found, test: str) -> float:
    spoke, rejected = piece[test][:2]
    return float(rejected / spoke) if spoke else 0.0


SINGLE = tuple(test for test in TESTS if test not in (EVEN.test, GAINS.test))


def _best(piece: Found) -> tuple[str, float]:
    best = max(SINGLE, key=lambda test: _rate(piece, test))
    return best, _rate(piece, best)


def _attainable(found: Mapping[str, Found]) -> Found:
    names = [Scenario(kind=kind, **GRID[0]).name for kind in EFFECTS]
    targets = [_best(found[name])[1] for name in names if name in found]
    return {"ratio": attainable(targets)} if len(targets) == len(EFFECTS) else {"ratio": float("nan")}


def attainable(targets: Sequence[float], step: float = 0.11) -> float:
    """The largest least ratio of powers to targets that any test has which treats gain and loss alike.

    The data of a lognormal cell are two normal numbers (s, v) with means `KINDS`. A test is the probability of
    rejecting at each point, the same at (s, v) and (-s, -v); its size is .05: a linear program on a grid of points.

    Args:
        targets: power of the best single test for share, value, both and opposed.
        step: of the grid, in standard errors.

    Returns:
        The ratio.
    """
    place = np.arange(-5.5, 5.5 + step / 2, step)
    s, v = (axis.ravel() for axis in np.meshgrid(place, place, indexing="ij"))

    def density(mean: np.ndarray) -> np.ndarray:
        return np.exp(-((s - mean[0]) ** 2 + (v - mean[1]) ** 2) / 2) / (2 * np.pi) * step**2

    rows = [
        np.append(-(density(mean) + density(-mean)) / 2, target)
        for mean, target in zip(DIRECTIONS, targets, strict=True)
    ]
    limits = np.append(np.zeros(len(rows)), 0.05)
    matrix = np.array([*rows, np.append(density(np.zeros(2)), 0.0)])
    cost = np.append(np.zeros(len(s)), -1.0)
    done = linprog(cost, A_ub=matrix, b_ub=limits, bounds=[(0, 1)] * len(s) + [(0, None)], method="highs")
    return float(done.x[-1])


def report_power(found: Mapping[str, Found]) -> Report:
    """A row for each cell: every test, and the combinations beside the best single test."""
    rows, losses, missed, least = [], [], [], {}
    for base in GRID:
        for kind in EFFECTS:
            scenario = Scenario(kind=kind, **base)
            for one, rows_of in ((scenario, rows), (replace(scenario, size=-1.0), losses)):
                piece = found.get(one.name)
                if piece is None:
                    continue
                name, best = _best(piece)
                ratios = {test: _rate(piece, test) / best for test in (EVEN.test, GAINS.test)}
                rows_of.append(
                    (
                        one.name,
                        *(f"{_rate(piece, test):.3f}".lstrip("0") for test in TESTS),
                        name.replace("_", " "),
                        *(f"{ratio:.3f}" for ratio in ratios.values()),
                    )
                )
                if one.size < 0:
                    continue
                if one.law == "lognormal":
                    least[one.name] = ratios[EVEN.test]
                bar = 1.0 if kind in MIXED else RATIO
                if ratios[GAINS.test] < bar:
                    missed.append(
                        f"power: {GAINS.test} on {one.name}: {ratios[GAINS.test]:.3f} of {name}, must be {bar}"
                    )
    head = ("arms", *(test.replace("_", " ") for test in TESTS), "best single", "combination", "for gains")
    lines = [
        f"Share of runs with p <= .05 when arms differ; {POWER_RUNS:,} runs, a standard error of at most "
        f"{0.5 / np.sqrt(POWER_RUNS):.4f}. Effects in standard errors of share and logarithm: "
        + ", ".join(f"{kind} {KINDS[kind][0]:+g} and {KINDS[kind][1]:+g}" for kind in EFFECTS)
        + ". The last two columns divide by the best single test.",
        "",
        *table(head, rows),
        "",
        f"The same effects with the opposite sign, {POWER_RUNS // 3:,} runs: what the combination for gains pays.",
        "",
        *table(head, losses),
        "",
    ]
    if (bound := found.get("attainable", {}).get("ratio")) and least:
        worst = min(least.values())
        lines.append(
            f"In the lognormal cells an experiment is two normal numbers, and no test of size .05 that treats gain and "
            f"loss alike has more than {bound:.3f} of the best single test in all four kinds at once (linear program "
            f"over all such tests). The even combination has at least {worst:.3f}."
        )
        if worst < 0.96 * bound:
            missed.append(f"power: {EVEN.test} has {worst:.3f} of the best single test, attainable are {bound:.3f}")
    return Report(lines, missed)


# ------------------------------------------------------------------------------------------------- published table

PUBLISHED: Mapping[tuple[str, int, float, float], tuple[float, float, float]] = {
    ("lognormal", 50, 0.0, 0.0): (0.053, 0.008, 0.000),
    ("lognormal", 200, 0.0, 0.0): (0.055, 0.003, 0.003),
    ("cauchy", 50, 0.0, 0.0): (0.062, 0.004, 0.018),
    ("cauchy", 200, 0.0, 0.0): (0.054, 0.008, 0.027),
    ("lognormal", 200, 0.1, 0.0): (0.529, 0.383, 0.006),
    ("lognormal", 200, 0.1, 1.0): (0.724, 0.435, 0.021),
    ("lognormal", 200, 0.1, 2.0): (0.851, 0.499, 0.035),
    ("cauchy", 200, 0.1, 0.0): (0.565, 0.391, 0.077),
    ("cauchy", 200, 0.1, 1.0): (0.751, 0.459, 0.139),
    ("cauchy", 200, 0.1, 2.0): (0.955, 0.601, 0.251),
    ("lognormal", 200, 0.0, 2.0): (0.166, 0.008, 0.005),
}
"""robustInfer, notebooks/zero_trimmed_mwu_ra.ipynb, 1,000 runs: zero-trimmed U, Wilcoxon without ties corrected, t.

By law, units of each arm, points by which the share of buyers rises from 20 %, and shift."""

PUBLISHED_RUNS = 1000


def published(_: Proof) -> Pieces:
    """A piece for each row."""
    return {
        f"{law} n={units} {lift:+g} shift {shift:g}": partial(_published, (law, units, lift, shift), 4000 + number)
        for number, (law, units, lift, shift) in enumerate(PUBLISHED)
    }


def _published(row: tuple[str, int, float, float], seed: int, _: Mapping[str, Found]) -> Found:
    return {"rates": published_rates(row, TABLE_RUNS, seed)}


def published_rates(row: tuple[str, int, float, float], runs: int, seed: int) -> list[float]:
    """Rejections at .05 of zero-trimmed U, Wilcoxon without ties corrected, and t, as shares.

    Args:
        row: law, units, lift and shift.
        runs: how many.
        seed: of them.
    """
    law, units, lift, shift = row
    rejected = np.zeros(3)
    for run in range(runs):
        rng = np.random.default_rng((seed, run))
        arms = []
        for share, move in ((0.2, 0.0), (0.2 + lift, shift)):
            count = rng.binomial(units, share)
            if law == "lognormal":
                values = np.exp(move + 5 * rng.standard_normal(count))
            else:
                values = np.abs(rng.standard_cauchy(count) + move)
            arms.append(np.concatenate([values, np.zeros(units - count)]))
        sums = rank_sums(*arms)
        w, variance = zero_trimmed_u(sums)
        plain = (sums.all_wins / 2 - units**2 / 2) / np.sqrt(units**2 * (2 * units + 1) / 12)
        p = [
            *(2 * stats.norm.sf(np.abs([w / np.sqrt(variance), plain]))),
            stats.ttest_ind(*arms, equal_var=False).pvalue,
        ]
        rejected += np.array(p) < 0.05
    return [float(count) for count in rejected / runs]


def report_published(found: Mapping[str, Found]) -> Report:
    """Ours beside theirs, in standard errors of both together."""
    rows, missed = [], []
    for (name, piece), theirs in zip(found.items(), PUBLISHED.values(), strict=False):
        away = [standard_errors(ours, their, TABLE_RUNS) for ours, their in zip(piece["rates"], theirs, strict=True)]
        pairs = [f"{ours:.3f} / {their:.3f}" for ours, their in zip(piece["rates"], theirs, strict=True)]
        rows.append((name, *pairs, f"{max(map(abs, away)):.1f}"))
        if max(map(abs, away)) > 3.5:
            missed.append(f"published: {name} is {max(map(abs, away)):.1f} standard errors away")
    return Report(
        [
            f"Ours ({TABLE_RUNS:,} runs) / published (1,000 runs): lognormal of deviation 5, or absolute Cauchy.",
            "",
            *table(("arms", "zero-trimmed U", "Wilcoxon, no ties corrected", "t", "standard errors apart"), rows),
        ],
        missed,
    )


def standard_errors(ours: float, theirs: float, runs: int) -> float:
    """How far two rates are apart, a rate of 0 having the error of one case."""
    pooled = max((ours * runs + theirs * PUBLISHED_RUNS) / (runs + PUBLISHED_RUNS), 1 / PUBLISHED_RUNS)
    return float((ours - theirs) / np.sqrt(pooled * (1 - pooled) * (1 / runs + 1 / PUBLISHED_RUNS)))


# ------------------------------------------------------------------------------------------------- triggered

TRIGGER_RATES = (0.02, 0.05, 0.2)
TRIGGER_UNITS = 20_000


def triggered(_: Proof) -> Pieces:
    """A piece for each rate, and one for each fault of a log."""
    rates: dict[str, Any] = {f"rate {rate:g}": partial(_triggered, rate) for rate in TRIGGER_RATES}
    faults = {name: partial(_faulty, name) for name in FAULTS}
    return {**rates, **faults, "one-sided": _one_sided}


def experiment(rng: np.random.Generator, rate: float, effect: float, units: int = TRIGGER_UNITS) -> dict[str, Any]:
    """Units, arms, both decisions, outcomes: zero or lognormal; `effect` is added where decisions differ."""
    arm = rng.integers(0, 2, units)
    differ = rng.random(units) < rate
    outcome = (rng.random(units) < 0.2) * np.exp(0.5 * rng.standard_normal(units))
    outcome += effect * (differ & (arm == 1))
    return {"outcome": outcome, "arm": arm, "decision_control": np.zeros(units, int), "decision_treatment": differ * 1}


def _triggered(rate: float, _: Mapping[str, Found]) -> Found:
    effect = 0.1
    values, inside, complement, alarms = [], 0, 0, 0
    for run in range(TRIGGER_RUNS):
        found = triggered_effect(**experiment(np.random.default_rng((5000, round(1000 * rate), run)), rate, effect))
        values.append((found.diluted.value, found.everybody.difference, found.variance_ratio))
        inside += found.diluted.low <= rate * effect <= found.diluted.high
        complement += found.complement is not None and found.complement.p_value <= 0.05
        alarms += bool(found.alarms)
    diluted, everybody, ratio = np.array(values).T
    return {
        "variance_ratio": float(diluted.var() / everybody.var()),
        "told_ratio": float(ratio.mean()),
        "bias": float((diluted.mean() - rate * effect) / (diluted.std() / np.sqrt(TRIGGER_RUNS))),
        "covered": inside,
        "complement": complement,
        "alarms": alarms,
    }


def _lost(rng: np.random.Generator, data: dict[str, Any]) -> None:
    """Of the treatment's triggers a fifth is not in the log."""
    lost = (data["arm"] == 1) & (rng.random(len(data["arm"])) < 0.2)
    data["decision_treatment"][lost] = 0


def _moved(rng: np.random.Generator, data: dict[str, Any]) -> None:
    """The trigger is what the treatment moves: buyers of the treatment trigger more often."""
    bought = (data["arm"] == 1) & (data["outcome"] > 0) & (rng.random(len(data["arm"])) < 0.2)
    data["decision_treatment"][bought] = 1


def _swapped(_: np.random.Generator, data: dict[str, Any]) -> None:
    """Triggers of other units: the log is one row off, and effects appear outside of it."""
    data["decision_treatment"] = np.roll(data["decision_treatment"], 1)


FAULTS = {"lost": _lost, "moved": _moved, "swapped": _swapped}


def _faulty(name: str, _: Mapping[str, Found]) -> Found:
    caught = {"triggers": 0, "complement": 0, "any": 0}
    runs = TRIGGER_RUNS // 4
    for run in range(runs):
        rng = np.random.default_rng((6000, run))
        data = experiment(rng, 0.2, 0.3)
        FAULTS[name](rng, data)
        found = triggered_effect(**data)
        caught["triggers"] += not found.triggers.holds
        caught["any"] += bool(found.alarms)
        caught["complement"] += bool(found.alarms) and found.triggers.holds
    return {**caught, "runs": runs}


def _one_sided(_: Mapping[str, Found]) -> Found:
    values, truth = [], 0.1 * 0.2
    covered = 0
    for run in range(TRIGGER_RUNS):
        rng = np.random.default_rng((7000, run))
        data = experiment(rng, 0.0, 0.0)
        may = rng.random(TRIGGER_UNITS) < 0.25  # a rule known before: the others never trigger
        triggers = may & (rng.random(TRIGGER_UNITS) < 0.8)
        before = data["outcome"] + rng.standard_normal(TRIGGER_UNITS)
        outcome = data["outcome"] + 0.1 * (triggers & (data["arm"] == 1))
        log = triggers & (data["arm"] == 1)
        found = one_sided_effect(outcome, data["arm"], log, before=before, never=~may)
        values.append((found.effect.value, found.plain.difference, found.effect.standard_error))
        covered += found.effect.low <= truth <= found.effect.high
    effect, plain, told = np.array(values).T
    return {
        "bias": float((effect.mean() - truth) / effect.std()),
        "variance_ratio": float(effect.var() / plain.var()),
        "told": float(told.mean() / effect.std()),
        "covered": covered,
    }


def report_triggered(found: Mapping[str, Found]) -> Report:
    """Variance, bias, coverage, sizes; then faults; then the one-sided log."""
    rows, faults, missed, lines = [], [], [], []
    bands = 2 * len(TRIGGER_RATES) + 1
    low, high = binomial_band(TRIGGER_RUNS, 0.05, FAMILY / bands)
    for rate in TRIGGER_RATES:
        if not (piece := found.get(f"rate {rate:g}")):
            continue
        outside = TRIGGER_RUNS - piece["covered"]
        rows.append(
            (
                f"{rate:g}",
                f"{piece['variance_ratio']:.4f}",
                f"{piece['variance_ratio'] / rate:.3f}",
                f"{piece['told_ratio'] / rate:.3f}",
                f"{piece['bias']:+.2f}",
                f"{1 - outside / TRIGGER_RUNS:.4f}",
                f"{piece['complement'] / TRIGGER_RUNS:.4f}",
                f"{piece['alarms'] / TRIGGER_RUNS:.4f}",
            )
        )
        if piece["variance_ratio"] > 1.15 * rate:
            missed.append(f"triggered: at rate {rate:g} the variance ratio is {piece['variance_ratio'] / rate:.3f} r")
        for what, count in (("the interval misses", outside), ("the complement rejects", piece["complement"])):
            if not low <= count <= high:
                missed.append(f"triggered: at rate {rate:g} {what} {count} times, must be {low} to {high}")
    for name, fault in FAULTS.items():
        if piece := found.get(name):
            shares = [f"{piece[key] / piece['runs']:.3f}" for key in ("triggers", "complement", "any")]
            faults.append(((fault.__doc__ or "").strip(), *shares))
            if piece["any"] < 0.9 * piece["runs"]:
                missed.append(f"triggered: {name}: {piece['any']} of {piece['runs']} wrong logs detected")
    if piece := found.get("one-sided"):
        outside = TRIGGER_RUNS - piece["covered"]
        lines = [
            "",
            "Trigger logged in the treatment alone, a quarter of the units may trigger by a rule known before, one "
            f"noisy number is known before: bias {piece['bias']:+.3f} standard errors (of one experiment), variance "
            f"{piece['variance_ratio']:.3f} of the plain difference, told standard error {piece['told']:.3f} of the "
            f"true one, the 95 % interval holds the truth in {1 - outside / TRIGGER_RUNS:.4f}.",
        ]
        if abs(piece["bias"]) >= 0.1 or not low <= outside <= high:
            missed.append(f"triggered: one-sided: bias {piece['bias']:+.3f} s.e., {outside} intervals miss")
    head = (
        "r",
        "variance ratio",
        "in r",
        "told, in r",
        "bias (z of mean)",
        "coverage",
        "complement at .05",
        "false alarms",
    )
    return Report(
        [
            f"{TRIGGER_UNITS:,} units, {TRIGGER_RUNS:,} experiments: decisions differ for a share r, and there the "
            "treatment adds 0.1. Variance of the diluted effect over that of comparing everybody; bar 1.15 r. Sizes "
            f"and misses of intervals must lie in {low / TRIGGER_RUNS:.4f} to {high / TRIGGER_RUNS:.4f}.",
            "",
            *table(head, rows),
            "",
            f"Wrong logs (r = 0.2, effect 0.3), {TRIGGER_RUNS // 4} experiments each, checks at 0.001:",
            "",
            *table(("fault", "by the rate of triggers", "by the complement alone", "by either"), faults),
            *lines,
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- the whole

_HERE = Path(__file__)


def _parts() -> tuple[Section, ...]:
    names = [f"tests.proofs.marketing_{part}" for part in PARTS]
    found = [importlib.import_module(name) for name in names if importlib.util.find_spec(name)]
    return tuple(section for module in found for section in module.SECTIONS)


SECTIONS = (
    Section("size", "Size of the tests", (_HERE,), size, report_size),
    Section("power", "Power of the tests", (_HERE,), power, report_power),
    Section("published", "The published table", (_HERE,), published, report_published),
    Section("triggered", "Triggered analysis", (_HERE,), triggered, report_triggered),
    *_parts(),
)

SUBJECT = Subject("marketing", "Marketing", CODE, SECTIONS, "1000 to 7000, in the sections")
