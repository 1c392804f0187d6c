"""Certified gaps of the allocation solver over kinds of rows and caps, seeds and sizes.

python -m benchmarks marketing_gaps [--members 1000000] [--seeds 10] [--write]

A gap is that of the certificate: rows, value and dual bound are found again from the program by code that shares
nothing with the solver. CPU seconds are those of one thread, compiling left out.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks._pieces import markdown
from models.marketing.allocation.program import Program
from models.marketing.allocation.rounding import entries
from models.marketing.allocation.solver import solve
from models.marketing.certificate import Plan, certify_plan
from tests.models.marketing.allocation.worlds import world

PAGE = Path(__file__).parent.parent / "docs" / "results" / "marketing_gaps.md"

KINDS: Mapping[str, Mapping[str, Any]] = {
    "upper rows": {"lower": 0.0},
    "lower rows too": {"lower": 0.3},
    "half of the rows with a lower bound": {"lower": 0.5},
    "frequency cap of 2": {"lower": 0.0, "most": 2.0},
    "caps of 0 to 3": {"most": "mixed"},
    "values in steps of 0.25: ties": {"quantise": 0.25},
    "weights of both signs": {"negative": True},
    "every offer for everybody": {"density": 1.0},
}
GAPS = (1e-4, 1e-6)


def main(options: Sequence[str] = ()) -> None:
    """Solve, judge, print the table, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks marketing_gaps")
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    chosen = parser.parse_args(options)
    solve(_world(0, 10_000, {}))  # compiles
    rows = []
    for kind, changes in KINDS.items():
        found: dict[float, list[tuple[float, int, float]]] = {gap: [] for gap in GAPS}
        for seed in range(chosen.seeds):
            program = _world(seed, chosen.members, changes)
            for gap in GAPS:
                found[gap].append(_judged(program, gap))
        for gap, runs in found.items():
            gaps, passes, seconds = zip(*runs, strict=True)
            rows.append(
                (kind, f"{gap:g}", f"{max(gaps):.2e}", max(passes), f"{statistics.median(seconds):.2f}",
                 "yes" if max(gaps) <= gap else "NO")
            )  # fmt: skip
    command = f"python -m benchmarks marketing_gaps --members {chosen.members} --seeds {chosen.seeds} --write"
    lines = [
        "# Certified gaps at scale",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"{chosen.members:,} members, 10 offers, 18 rows in four families, {chosen.seeds} seeds of each kind; "
        f"{platform.machine()}, one thread. The worst gap and the most passes over the members are over seeds.",
        "",
        *markdown(("kind", "gap asked for", "worst certified gap", "passes, most", "CPU s, median", "met"), rows),
    ]
    print("\n".join(lines))
    if chosen.write:
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")


def _world(seed: int, members: int, changes: Mapping[str, Any]) -> Program:
    return world(seed, members, 10, **{"density": 0.4, "groups": 8, "tight": 0.1, **changes})


def _judged(program: Program, gap: float) -> tuple[float, int, float]:
    """The certified gap of one answer, its passes, and CPU seconds."""
    begun = time.process_time()
    answer = solve(program, gap=gap)
    seconds = time.process_time() - begun
    pairs, shares = entries(answer)
    plan = Plan(
        member=program.member_of(pairs),
        offer=program.offer[pairs],
        share=shares,
        rows=program.names,
        prices=answer.prices,
        loads=answer.loads,
        value=answer.value,
        bound=answer.bound,
    )
    certificate = certify_plan(program, plan, whole=False, gap=gap)
    claim = next(one for one in certificate.claims if one.name == "gap")
    if broken := [one.name for one in certificate.failures() if one.name != "gap"]:
        raise SystemExit(f"{broken} fail; no gap speaks for such an answer.")
    return claim.value, answer.passes, seconds
