"""Rank tests of many outcomes beside one numpy sort and scipy; and the e-mail test of MineThatData.

    python -m benchmarks marketing_ranks [--rows 10000000] [--rounds 5] [--seed 0] [--hillstrom FILE] [--write]

- sort: `numpy.sort` of all rows, the least that any exact rank test costs.
- sums: everything that Mann-Whitney and zero-trimmed U need, exact (`rank_sums`), and both p-values.
- sketch: the same from 8 partitions, each counted by value and then merged; the bits are compared.
- scipy: `scipy.stats.mannwhitneyu`, without continuity correction, once.

All sides take turns within a round; CPU seconds of the process, on one thread. Compilation is paid once per install and
is timed apart. With `--hillstrom`, a CSV of the public data (columns segment, spend): p-values of all tests, their
power on samples of 4,000 customers in each arm, and their size under permuted labels.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats

from models.marketing.measurement.comparison import TESTS, compare
from models.marketing.measurement.heavy_tails import mann_whitney_z, normal_p, zero_trimmed_u
from models.marketing.measurement.outcomes import Outcomes, RankSums, rank_sums, rank_sums_of
from models.marketing.measurement.power import Rejections, p_values, tallied

Floats = NDArray[np.float64]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "marketing_ranks.md"
SHARES = (1.0, 0.2, 0.01)
"""Of rows above zero."""
PARTITIONS = 8
SAMPLE, SAMPLES, PERMUTATIONS = 4000, 200, 400
ALLOWED = 1.3
"""Times of one sort."""


def main(options: Sequence[str] = ()) -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks marketing_ranks")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of both arms together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hillstrom", type=Path, help="CSV of the e-mail test")
    parser.add_argument("--write", action="store_true", help="write docs/results/marketing_ranks.md")
    args = parser.parse_args(options)
    begun = time.process_time()
    rank_sums([0.0, 1.0], [1.0, 2.0])
    compiled = time.process_time() - begun
    lines = _sorted(args.rows, args.rounds, args.seed)
    lines += [
        "",
        f"First call in this process (compiled, or read from the cache of the install): {compiled:.2f} CPU s.",
    ]
    if args.hillstrom:
        lines += ["", *_hillstrom(args.hillstrom, args.seed)]
    for line in lines:
        Console().print(line, markup=False, soft_wrap=True)
    if args.write:
        hillstrom = " --hillstrom FILE" if args.hillstrom else ""
        command = f"--rows {args.rows} --rounds {args.rounds} --seed {args.seed}{hillstrom} --write"
        PAGE.write_text("\n".join([*_head(command), *lines]) + "\n", encoding="ascii")


def _head(command: str) -> list[str]:
    cores = len(os.sched_getaffinity(0))
    return [
        "# Rank tests of many outcomes",
        "",
        f"Written by `python -m benchmarks marketing_ranks {command}` on {datetime.now(UTC):%Y-%m-%d}; do not edit.",
        f"Machine: {cores} cores ({platform.machine()}), Python {platform.python_version()}, numpy {np.__version__}.",
        "",
    ]


def _sorted(rows: int, rounds: int, seed: int) -> list[str]:
    """CPU seconds beside one sort."""
    lines = [
        f"## {rows:,} rows",
        "",
        f"CPU seconds, median of {rounds} rounds in which all sides take turns (scipy: once); values lognormal, the "
        f"rest zeros. Ratio: ours over one sort in the same round, least to most; bar {ALLOWED}.",
        "",
        "| above zero | one sort | sums and p-values | ratio | 8 partitions | scipy | scipy / ours | same bits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for share in SHARES:
        rng = np.random.default_rng(seed)
        y = np.where(rng.random(rows) < share, np.exp(rng.standard_normal(rows)), 0.0)
        control, treatment = y[: rows // 2], y[rows // 2 :]
        sides: Mapping[str, Callable[[], object]] = {
            "sort": lambda y=y: np.sort(y),
            "sums": lambda a=control, b=treatment: _p_values(rank_sums(a, b)),
            "sketch": lambda a=control, b=treatment: rank_sums_of(_sketch(a, b)),
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(rounds):
            names = list(sides)
            for name in names[turn % 3 :] + names[: turn % 3]:
                begun = time.process_time()
                sides[name]()
                taken[name].append(time.process_time() - begun)
        begun = time.process_time()
        theirs = stats.mannwhitneyu(treatment, control, use_continuity=False, method="asymptotic").pvalue
        scipy_s = time.process_time() - begun
        sums = rank_sums(control, treatment)
        assert abs(_p_values(sums)[0] - theirs) < 1e-12, "our p-value is not scipy's"
        ratios = np.array(taken["sums"]) / np.array(taken["sort"])
        median = {name: float(np.median(each)) for name, each in taken.items()}
        same = "yes" if rank_sums_of(_sketch(control, treatment)) == sums else "NO"
        ratio = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        lines.append(
            f"| {share:g} | {median['sort']:.3f} | {median['sums']:.3f} | {ratio} | "
            f"{median['sketch']:.2f} | {scipy_s:.2f} | {scipy_s / median['sums']:.1f} | {same} |"
        )
    return lines


def _p_values(sums: RankSums) -> tuple[float, float]:
    w, variance = zero_trimmed_u(sums)
    return normal_p(mann_whitney_z(sums)), normal_p(w / np.sqrt(variance))


def _sketch(control: Floats, treatment: Floats) -> Outcomes:
    halves = zip(np.array_split(control, PARTITIONS), np.array_split(treatment, PARTITIONS), strict=True)
    first, *others = [Outcomes.of(a, b) for a, b in halves]
    return first.merged(*others)


def _hillstrom(path: Path, seed: int) -> list[str]:
    """p-values, power and size on spend."""
    table = pd.read_csv(path)
    spend = {name: group["spend"].to_numpy(np.float64) for name, group in table.groupby("segment")}
    control, mens, womens = (spend[name] for name in ("No E-Mail", "Mens E-Mail", "Womens E-Mail"))
    found = [compare(Outcomes.of(control, arm), seed=seed) for arm in (mens, womens)]
    power = _repeated(SAMPLES, lambda rng: (rng.choice(control, SAMPLE, False), rng.choice(mens, SAMPLE, False)), seed)
    half = len(control) // 2
    size = _repeated(PERMUTATIONS, lambda rng: _halves(rng.permutation(control), half), seed)
    lines = [
        "## The e-mail test of MineThatData",
        "",
        f"Spend of {len(control):,} customers without e-mail, {len(mens):,} with the men's and {len(womens):,} with "
        f"the women's, in the rows of the given file. Men's: {found[0].effect.sentence()}. Women's: "
        f"{found[1].effect.sentence()}. Power: men's against none on {SAMPLES} samples of {SAMPLE:,} in each arm; "
        f"size: {PERMUTATIONS} permutations of those without e-mail; shares of p <= .05 where the test speaks.",
        "",
        "| test | men's p | women's p | power | size | refuses (power, size) |",
        "|---|---|---|---|---|---|",
    ]
    for test in TESTS:
        ps = [one.findings[test].p_value if test in one.findings else float("nan") for one in found]
        limits = [
            f" (limit {one.findings[test].details['limit_p']:.1e})"
            if test in one.findings and "limit_p" in one.findings[test].details
            else ""
            for one in found
        ]
        shown = [f"{p:.1e}{limit}" for p, limit in zip(ps, limits, strict=True)]
        rates = [f"{one[test].rejected[0] / one[test].spoke:.4f}" if one[test].spoke else "" for one in (power, size)]
        refused = f"{1 - power[test].spoke / SAMPLES:.0%}, {1 - size[test].spoke / PERMUTATIONS:.0%}"
        lines.append(f"| {test.replace('_', ' ')} | {' | '.join(shown)} | {' | '.join(rates)} | {refused} |")
    return lines


def _halves(values: Floats, half: int) -> tuple[Floats, Floats]:
    return values[:half], values[half : 2 * half]


def _repeated(
    runs: int, draw: Callable[[np.random.Generator], tuple[Floats, Floats]], seed: int
) -> Mapping[str, Rejections]:
    rows = [p_values(Outcomes.of(*draw(np.random.default_rng((seed, run)))), TESTS, run) for run in range(runs)]
    return tallied(rows, TESTS, (0.05,))


if __name__ == "__main__":
    main()
