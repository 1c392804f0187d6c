"""Around the solver, for `make prove SYSTEM=marketing`: whole offers, lots, sampled programs and conflicts."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import scipy.sparse
from scipy import stats

from models.marketing.allocation.conflict import explain
from models.marketing.allocation.exact import matrix, membership
from models.marketing.allocation.program import Floats, Integers, Program
from models.marketing.allocation.rounding import Sampling, Unroundable, draw, entries, room, round_whole
from models.marketing.allocation.sampled import part_of, solve_sampled
from models.marketing.allocation.solver import solve
from models.marketing.certificate import Plan, certify_conflict, certify_plan
from tests.models.marketing.allocation.worlds import bounded, impossible, world
from tests.proof import Found, Pieces, Proof, Report, Section, table

_HERE = Path(__file__)
_WORLDS = _HERE.parents[1] / "models" / "marketing" / "allocation" / "worlds.py"


# --- whole offers -----------------------------------------------------------------------------------------------------

SEEDS = 10
SIZES = (10_000, 100_000)
KINDS: Mapping[str, Mapping[str, Any]] = {
    "upper rows": {"lower": 0.0},
    "lower rows too": {"lower": 0.3},
    "frequency cap of 2": {"lower": 0.0, "most": 2.0},
}


def rounding(_: Proof) -> Pieces:
    """A kind and size a piece."""
    return {f"{kind}, {members:,} members": partial(_rounding, kind, members) for kind in KINDS for members in SIZES}


def _rounding(kind: str, members: int, _: Mapping[str, Found]) -> Found:
    found: dict[str, list[float]] = {"broken": [], "changed": [], "short": [], "promised": [], "refused": [], "cpu": []}
    for seed in range(SEEDS):
        program = world(seed, members, 10, density=0.4, groups=8, tight=0.1, **KINDS[kind])
        answer = solve(program)
        pairs, shares = entries(answer)
        begun = time.process_time()
        try:
            whole = round_whole(program, pairs, shares, answer.prices)
        except Unroundable as refused:
            found["refused"].append(sum(repr(name) in str(refused) for name in program.names))
            continue
        found["cpu"].append(time.process_time() - begun)
        plan = Plan(
            member=program.member_of(whole.pairs),
            offer=program.offer[whole.pairs],
            share=np.ones(len(whole.pairs)),
            rows=program.names,
            prices=answer.prices,
            loads=whole.loads,
            value=whole.value,
            bound=answer.bound,
        )
        judged = certify_plan(program, plan, whole=True, gap=1.0)
        found["broken"].append(len(judged.failures()))
        found["changed"].append(whole.changed / program.K)
        found["short"].append(1 - whole.value / answer.bound)
        worth = float(np.max(program.value)) * float(np.max(program.most))
        found["promised"].append(1e-4 + program.K * worth / answer.bound)
    return dict(found)


def report_rounding(found: Mapping[str, Found]) -> Report:
    """Rows, members changed, and value against the stated bound."""
    rows, missed = [], []
    for name, piece in found.items():
        rounded, changed, short = len(piece["short"]), piece["changed"] or [0], piece["short"] or [0]
        allowed, seconds = piece["promised"] or [0], piece["cpu"] or [0]
        rows.append(
            (name, f"{rounded} of {SEEDS}", f"{sum(map(bool, piece['broken']))}", f"{max(changed):.2f} K",
             f"{max(short):.1e}", f"{min(allowed):.1e}", f"{np.median(seconds):.2f}")
        )  # fmt: skip
        if any(piece["broken"]) or max(piece["changed"] or [0]) > 1:
            missed.append(f"whole offers: {name} break a row or change more than K members")
        if any(s > p for s, p in zip(piece["short"], piece["promised"], strict=True)):
            missed.append(f"whole offers: {name} are worth less than the stated bound")
        if any(count != 1 for count in piece["refused"]):
            missed.append(f"whole offers: {name}: a refusal names no row")
        if "lower" not in name and piece["refused"]:
            missed.append(f"whole offers: {name}: refused without lower rows")
    lines = [
        f"{SEEDS} worlds of each kind, 10 offers, 18 rows. Rows are judged by the certificate, in sums without "
        "rounding. The value may lie below the dual bound by 1e-4 and K times the dearest member, relative to it. "
        "Refusals name the row that no whole offers near the shares hold.",
        "",
        *table(
            ("kind", "rounded", "refused by the judge", "members changed, most", "below the bound, most",
             "allowed, least", "CPU s, median"),
            rows,
        ),
    ]  # fmt: skip
    return Report(lines, missed)


# --- lots -------------------------------------------------------------------------------------------------------------

DRAWS, DRAWN = 2000, 2000
DELTAS = (0.05, 0.01)
SAMPLINGS: tuple[Sampling, ...] = ("independent", "balanced")


def _smoothed(members: int, seed: int) -> tuple[Program, Integers, Floats]:
    """A world and shares in which every member is unsure, with rows that these shares fill to the last unit."""
    program = world(seed, members, 8, groups=6, lower=0.0)
    random = np.random.default_rng(seed)
    member = np.repeat(np.arange(program.N), np.diff(program.start))
    raw = np.exp(random.normal(size=program.E))
    shares = raw / (np.bincount(member, raw, minlength=program.N) + 1)[member]
    loads = program.loads(shares)
    return bounded(program, loads, loads), np.arange(program.E), shares


def lots(_: Proof) -> Pieces:
    """A way to draw a piece."""
    return {sampling: partial(_lots, sampling) for sampling in SAMPLINGS}


def _lots(sampling: Sampling, _: Mapping[str, Found]) -> Found:
    program, pairs, shares = _smoothed(DRAWN, seed=5)
    a, loads = matrix(program), program.loads_of(pairs, shares)
    drawn = np.empty((DRAWS, program.K))
    begun = time.process_time()
    for seed in range(DRAWS):
        x = np.zeros(program.E)
        x[draw(program, pairs, shares, seed=seed, sampling=sampling)] = 1
        drawn[seed] = a @ x
    seconds = (time.process_time() - begun) / DRAWS
    off = np.abs(drawn - loads)
    strays = {delta: room(program, pairs, shares, delta=delta, sampling=sampling) for delta in DELTAS}
    used = loads > 0
    return {
        "broken": {str(delta): int((off > stray + 1e-9 * loads).any(axis=1).sum()) for delta, stray in strays.items()},
        "bare": int((drawn > loads * (1 + 1e-9)).any(axis=1).sum()),
        "shrunk": {str(delta): float(np.max(stray[used] / loads[used])) for delta, stray in strays.items()},
        "variance": drawn.var(axis=0)[used].tolist(),
        "seconds": seconds,
    }


def report_lots(found: Mapping[str, Found]) -> Report:
    """Rows broken against the stated chance, and variances."""
    rows, missed = [], []
    for sampling, piece in found.items():
        for delta in DELTAS:
            broken = piece["broken"][str(delta)]
            p = stats.binomtest(broken, DRAWS, delta, alternative="greater").pvalue
            rows.append(
                (sampling, f"{delta}", f"{piece['shrunk'][str(delta)]:.3f}", f"{broken} of {DRAWS:,}", f"{p:.3g}",
                 f"{piece['bare']:,}")
            )  # fmt: skip
            if p < 1e-3:
                missed.append(f"lots: {sampling} at {delta} break rows in {broken} of {DRAWS}")
    lines = [
        f"{DRAWN:,} members, all of them unsure, {DRAWS:,} draws. Rows are filled by the shares to the last unit; with "
        "room, bounds are wider than that by t_k, of which the table has the greatest relative to its row.",
        "",
        *table(("lot", "delta", "room, greatest", "some row broken", "exact binomial p", "without room"), rows),
    ]
    if len(found) == len(SAMPLINGS):
        ratio = np.array(found["balanced"]["variance"]) / np.array(found["independent"]["variance"])
        balanced, alone = (1e3 * found[kind]["seconds"] for kind in ("balanced", "independent"))
        lines += [
            "",
            f"Variance of a load, balanced over independent: {ratio.max():.3f} at most, {np.median(ratio):.3f} in the "
            f"median row. A balanced draw takes {balanced:.1f} ms of CPU, an independent one {alone:.1f} ms.",
        ]
        if ratio.max() > 0.2:
            missed.append(f"lots: balanced ones vary by {ratio.max():.2f} of independent ones")
    return Report(lines, missed)


# --- sampled programs -------------------------------------------------------------------------------------------------

ALL, SHARE, DELTA = 1_000_000, 0.01, 0.05
PARTS, TOGETHER = 200, 50
WORTH, QUICK = 0.995, 0.03
GAP = 1e-3
"""To which the part is solved: its own error is some ten times as large."""


def sampled(_: Proof) -> Pieces:
    """Some parts of one program a piece."""
    return {f"{first + 1} to {first + TOGETHER}": partial(_sampled, first) for first in range(0, PARTS, TOGETHER)}


def _solved(program: Program) -> tuple[Floats, Integers, Floats]:
    answer = solve(program, gap=GAP, threads=1)
    return (answer.prices, *entries(answer))


def _sampled(first: int, _: Mapping[str, Found]) -> Found:
    program = world(1, ALL, 10, density=0.4, groups=8, lower=0.0, tight=0.1)
    _solved(part_of(program, np.arange(0, ALL, 50)))  # compiled
    begun = time.process_time()
    answer = solve(program, threads=1)
    full = time.process_time() - begun
    found: dict[str, list[float]] = {"worth": [], "kept": [], "error": [], "stated": [], "solve": [], "whole": []}
    for seed in range(first, first + TOGETHER):
        spent: list[float] = []

        def timed(part: Program, spent: list[float] = spent) -> tuple[Floats, Integers, Floats]:
            start = time.process_time()
            out = _solved(part)
            spent.append(time.process_time() - start)
            return out

        begun = time.process_time()
        guess = solve_sampled(program, timed, share=SHARE, delta=DELTA, seed=seed)
        found["whole"].append((time.process_time() - begun) / full)
        found["solve"].append(spent[0] / full)
        given = guess.policy.decide_all(program)
        loads = program.loads_of(given, np.ones(len(given)))
        used = np.isfinite(program.upper) & (program.upper > 0)
        error = np.maximum(loads[used] / program.upper[used] - 1, 0)
        found["worth"].append(float(program.value[given].sum()) / answer.value)
        found["error"].append(float(error.max()))
        found["stated"].append(float(guess.error[used].max()))
        found["kept"].append(float((error <= guess.error[used] + 1e-12).all()))
    return {**found, "full": full}


def report_sampled(found: Mapping[str, Found]) -> Report:
    """Value, row errors against the stated ones, and time."""
    pieces = list(found.values())
    worth, kept, error, stated, quick, whole = (
        np.array([number for piece in pieces for number in piece[key]])
        for key in ("worth", "kept", "error", "stated", "solve", "whole")
    )
    good, count = int(((worth >= WORTH) & (kept > 0)).sum()), len(worth)
    p = stats.binomtest(good, count, 1 - DELTA, alternative="less").pvalue
    rows = [
        ("value over the best", f"{worth.min():.4f}", f"{np.median(worth):.4f}", f"{worth.max():.4f}"),
        ("greatest row error", f"{error.min():.4f}", f"{np.median(error):.4f}", f"{error.max():.4f}"),
        ("row error stated beforehand", f"{stated.min():.4f}", f"{np.median(stated):.4f}", f"{stated.max():.4f}"),
        ("CPU of the part's solve over the full one's", *(f"{q:.3f}" for q in np.quantile(quick, (0, 0.5, 1)))),
        ("CPU with the second part over it", *(f"{q:.3f}" for q in np.quantile(whole, (0, 0.5, 1)))),
    ]
    seconds = np.median([piece["full"] for piece in pieces])
    lines = [
        f"{ALL:,} members, 10 offers, 18 rows; {SHARE:.0%} of the members solved to a gap of {GAP}, {count} draws. The "
        f"full solve, to a gap of 1e-4, takes {seconds:.2f} CPU s on one thread.",
        "",
        *table(("", "least", "median", "most"), rows),
        "",
        f"The value is at least {WORTH:.1%} and every row within its stated error in {good} of {count} draws (exact "
        f"binomial p against {1 - DELTA:.0%}: {p:.3g}).",
    ]
    missed = [] if p > 1e-3 else [f"sampled programs: only {good} of {count} draws are as stated"]
    if np.median(quick) > QUICK:
        missed.append(f"sampled programs: the solve takes {np.median(quick):.3f} of the full one, must be {QUICK}")
    return Report(lines, missed)


# --- conflicts --------------------------------------------------------------------------------------------------------

CONFLICTS, CONFLICT_PIECE = 1000, 250
MANY = (100_000, 1_000_000)


def conflicts(_: Proof) -> Pieces:
    """Some random programs a piece, then large ones."""
    small = {
        f"{first + 1} to {first + CONFLICT_PIECE}": partial(_conflicts, first)
        for first in range(0, CONFLICTS, CONFLICT_PIECE)
    }
    return {**small, **{f"{members:,} members": partial(_large, members) for members in MANY}}


def _proved(program: Program) -> tuple[tuple[str, ...] | None, bool]:
    """Rows of the conflict, and whether an independent sum proves it."""
    conflict = explain(program)
    if conflict is None:
        return None, True
    proof = certify_conflict(
        program, ray=conflict.ray, rows=conflict.rows, needed=conflict.needed, available=conflict.available
    )
    return conflict.rows, proof.holds


def _highs(program: Program) -> tuple[bool, int | None]:
    """Whether HiGHS finds the program possible, and the rows of its own irreducible set; None if it has none."""
    whole = scipy.sparse.vstack([matrix(program), membership(program)]).tocsc()
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = program.E, whole.shape[0]
    model.col_cost_, model.col_lower_, model.col_upper_ = np.zeros(program.E), np.zeros(program.E), np.ones(program.E)
    model.row_lower_ = np.concatenate([program.lower, np.full(program.N, -np.inf)])
    model.row_upper_ = np.concatenate([program.upper, program.most_of(slice(0, program.N))])
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = whole.indptr, whole.indices, whole.data
    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("iis_strategy", 6)
    highs.passModel(model)
    highs.run()
    if highs.getModelStatus() == highspy.HighsModelStatus.kOptimal:
        return True, None
    _, found = highs.getIis()
    return False, sum(row < program.K for row in found.row_index_) if found.valid_ else None


def _conflicts(first: int, _: Mapping[str, Found]) -> Found:
    found = {"agree": 0, "impossible": 0, "proved": 0, "minimal": 0, "smaller": 0, "equal": 0, "larger": 0}
    for seed in range(first, first + CONFLICT_PIECE):
        kind: float | str = (1.0, "mixed", 2.0, 1.5)[seed % 4]
        program = impossible(seed, members=5 + seed % 9, offers=2 + seed % 4, most=kind, negative=seed % 3 == 0)
        rows, proved = _proved(program)
        possible, size = _highs(program)
        found["agree"] += (rows is None) == possible
        if rows is None:
            continue
        found["impossible"] += 1
        found["proved"] += proved
        found["minimal"] += all(_highs(_only(program, set(rows) - {row}))[0] for row in rows)
        if size is not None:
            found["smaller"] += len(rows) < size
            found["equal"] += len(rows) == size
            found["larger"] += len(rows) > size
    return found


def _only(program: Program, rows: set[str]) -> Program:
    kept = np.array([name in rows for name in program.names])
    return bounded(program, np.where(kept, program.lower, -np.inf), np.where(kept, program.upper, np.inf))


def _large(members: int, _: Mapping[str, Found]) -> Found:
    seconds, sizes, proved = [], [], 0
    for seed in range(5):
        program = impossible(seed, members=members, offers=10, density=0.4, groups=8)
        begun = time.process_time()
        rows, holds = _proved(program)
        seconds.append(time.process_time() - begun)
        sizes.append(len(rows or ()))
        proved += holds
    return {"seconds": seconds, "sizes": sizes, "proved": proved}


def report_conflicts(found: Mapping[str, Found]) -> Report:
    """Agreement with HiGHS, proofs, and sizes."""
    small = [piece for piece in found.values() if "agree" in piece]
    counted = ("impossible", "agree", "proved", "minimal", "smaller", "equal", "larger")
    total = {key: sum(piece[key] for piece in small) for key in counted}
    missed, lines = [], []
    if small:
        count, against = CONFLICT_PIECE * len(small), total["impossible"]
        lines += [
            f"{count:,} random programs of 5 to 13 members, 8 rows, all kinds of caps. HiGHS agrees on "
            f"{total['agree']:,} whether there is an allocation; {against:,} have none. Of these {total['proved']:,} "
            f"conflicts are proved by an independent sum, and {total['minimal']:,} are minimal: HiGHS finds an "
            f"allocation without any one row. Beside HiGHS' own irreducible set they have fewer shared rows in "
            f"{total['smaller']}, as many in {total['equal']:,} and more in {total['larger']}.",
        ]
        if total["agree"] != count or total["proved"] != against or total["minimal"] != against:
            missed.append("conflicts: HiGHS disagrees, or one is not proved or not minimal")
        if total["larger"] > 0.02 * against:
            missed.append(f"conflicts: {total['larger']} of {against} are larger than HiGHS' own")
    rows = [
        (name, f"{piece['proved']} of {len(piece['sizes'])}", ", ".join(map(str, piece["sizes"])),
         f"{np.median(piece['seconds']):.1f}")
        for name, piece in found.items() if "sizes" in piece
    ]  # fmt: skip
    if rows:
        lines += ["", *table(("program", "proved", "rows", "CPU s with the proof, median"), rows)]
    missed += [
        f"conflicts: {name} has one that is not proved"
        for name, piece in found.items()
        if "sizes" in piece and piece["proved"] != len(piece["sizes"])
    ]
    return Report(lines, missed)


SECTIONS = (
    Section("allocation_rounding", "Whole offers", (_HERE, _WORLDS), rounding, report_rounding),
    Section("allocation_lots", "Offers by lot", (_HERE, _WORLDS), lots, report_lots),
    Section("allocation_sampled", "Sampled programs", (_HERE, _WORLDS), sampled, report_sampled),
    Section("allocation_conflicts", "Conflicts", (_HERE, _WORLDS), conflicts, report_conflicts),
)
