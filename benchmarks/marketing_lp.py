"""The allocation solver beside general solvers of linear programs, by CPU seconds to the same certified gap.

    python -m benchmarks marketing_lp [--cases a,b] [--peers a,b] [--rounds 3] [--limit 150] [--keep FILE] [--write]

Everybody gets the same arrays and is judged by the same sums, made here and by nobody's claim: prices give a bound that
no allocation can exceed, shares are brought into the rows by scaling, and (bound - value) / bound is the gap. A peer is
asked at its loosest setting that passes 1e-4, without crossover where it can be left out. CPU seconds are those of the
process, threads included, from the arrays to the answer: what a peer needs to build its matrix is part of it, what is
compiled once per installation is not. We are timed beside every peer, before and after; each run is a process of its
own. A peer that does not end within the limit (of wall time, as solvers count) is a lower bound and marked so.

Peers: scipy (HiGHS interior point), highspy (HiGHS interior point, PDLP, dual simplex), cvxpy to HiGHS.
"""

# Shapes: N members, M offers, E pairs, K rows.

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
from numpy.typing import NDArray

from models.marketing.allocation.prices import dual_bound
from models.marketing.allocation.program import Family, Program

PAGE = Path(__file__).parent.parent / "docs" / "results" / "marketing_lp.md"
GAP = 1e-4
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A generated program.

    Attributes:
        members: N.
        offers: M.
        density: share of the offers that a member may get; 1: all.
        kind: "upper": upper rows alone; "both": lower rows too; "cap": up to two offers a member; "ties": values that
            are multiples of a half.
    """

    members: int
    offers: int
    density: float = 0.4
    kind: str = "upper"


CASES = {
    "10 thousand x 10": Case(10_000, 10),
    "100 thousand x 10": Case(100_000, 10),
    "20 thousand x 50, all": Case(20_000, 50, 1.0),
    "1 million x 10": Case(1_000_000, 10),
    "1 million x 50, all": Case(1_000_000, 50, 1.0),
    "100 thousand x 10, lower rows": Case(100_000, 10, kind="both"),
    "100 thousand x 10, two a member": Case(100_000, 10, kind="cap"),
    "100 thousand x 10, ties": Case(100_000, 10, kind="ties"),
}
SEGMENTS = 20
CHANNELS = 6


def program_of(case: Case, seed: int) -> Program:
    """A campaign: few members are worth much, offers of six channels cost and annoy differently."""
    random = np.random.default_rng(seed)
    N, M = case.members, case.offers
    if case.density >= 1:
        counts = np.full(N, M)
        offer = np.tile(np.arange(M, dtype=np.int16), N)
    else:
        counts = random.binomial(M - 1, case.density, N) + 1
        turn = random.integers(0, M, N)
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        offer = ((np.repeat(turn, counts) + place) % M).astype(np.int16)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    E = len(offer)
    worth = np.exp(random.normal(-1.5, 1.6, N)) * (random.random(N) < 0.6)
    value = np.repeat(worth, counts) * np.exp(random.normal(0, 0.6, M))[offer] * np.exp(random.normal(0, 0.5, E))
    if case.kind == "ties":
        value = np.round(2 * value) / 2
    channel = np.arange(M) % CHANNELS
    cost = np.array([0.002, 0.001, 0.0002, 0.3, 0.05, 0.7])[channel][offer] * np.exp(random.normal(0, 0.2, E))
    annoyed = np.array([2.5, 4.0, 0.5, 0.1, 8.0, 1.0])[channel][offer] * 1e-3 * np.exp(random.normal(0, 0.8, E))
    segment = random.integers(0, SEGMENTS, N).astype(np.int16)

    def family(name: str, rows: int, **parts: Any) -> Family:
        free = np.full(rows, np.inf)
        return Family(name=name, rows=tuple(str(r) for r in range(rows)), lower=-free, upper=free, **parts)

    families = [
        family("spend", 1, weight=cost),
        family("annoyed", 1, weight=annoyed),
        family("channel", CHANNELS, offers=channel),
        family("segment", SEGMENTS, members=segment),
    ]
    names = tuple(f"offer {i}" for i in range(M))
    most = 2.0 if case.kind == "cap" else 1.0
    free = Program(start=start, offer=offer, value=value, offers=names, families=tuple(families), most=most)
    top = np.repeat(np.maximum.reduceat(value, start[:-1]), counts)
    load = free.loads(((value == top) & (value > 0)).astype(np.float64))
    share = np.concatenate([[0.35, 0.35], random.uniform(0.4, 1.2, CHANNELS), random.uniform(0.5, 1.2, SEGMENTS)])
    upper, lower = share * load, np.full(free.K, -np.inf)
    if case.kind == "both":  # some segments are asked for more than the budget would give them
        lower[8:12], upper[8:12] = 0.8 * load[8:12], 1.2 * load[8:12]
    first, bounded = 0, []
    for one in families:
        rows = slice(first, first + len(one.rows))
        bounded.append(
            Family(
                name=one.name,
                rows=one.rows,
                lower=lower[rows],
                upper=upper[rows],
                weight=one.weight,
                offers=one.offers,
                members=one.members,
            )
        )
        first += len(one.rows)
    return Program(start=start, offer=offer, value=value, offers=names, families=tuple(bounded), most=most)


# --- who solves -------------------------------------------------------------------------------------------------------

Solved = tuple[Floats, Floats]
"""Shares (E) and prices (K)."""


def matrices(program: Program) -> tuple[Any, Any]:
    """Rows (K, E) and members (N, E), sparse."""
    import scipy.sparse

    rows, weights = program.columns(np.arange(program.E))
    inside = rows >= 0
    pairs = np.broadcast_to(np.arange(program.E), rows.shape)
    a = scipy.sparse.csr_array((weights[inside], (rows[inside], pairs[inside])), shape=(program.K, program.E))
    own = scipy.sparse.csr_array(
        (np.ones(program.E), np.arange(program.E), program.start), shape=(program.N, program.E)
    )
    return a, own


def ours(program: Program, limit: float) -> Solved:
    """This project's solver."""
    from models.marketing.allocation.solver import solve

    answer = solve(program, gap=GAP)
    x = np.zeros(program.E)
    x[answer.choice[answer.choice >= 0]] = 1
    x[answer.pairs] = answer.shares
    return x, answer.prices


def scipy_ipm(program: Program, limit: float) -> Solved:
    """scipy.optimize.linprog, interior point."""
    import scipy.optimize
    import scipy.sparse

    a, own = matrices(program)
    low = np.flatnonzero(np.isfinite(program.lower))
    found = scipy.optimize.linprog(
        -program.value,
        A_ub=scipy.sparse.vstack([a, -a[low], own], format="csc"),
        b_ub=np.concatenate([program.upper, -program.lower[low], program.most_of(slice(0, program.N))]),
        bounds=(0, 1),
        method="highs-ipm",
        options={"time_limit": limit},
    )
    prices = -found.ineqlin.marginals[: program.K]
    np.add.at(prices, low, found.ineqlin.marginals[program.K : program.K + len(low)])
    return found.x, prices


def highspy_with(**options: Any) -> Callable[[Program, float], Solved]:
    """HiGHS by its own interface."""

    def solve(program: Program, limit: float) -> Solved:
        import highspy
        import scipy.sparse

        a, own = matrices(program)
        whole = scipy.sparse.vstack([a, own]).tocsc()
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = program.E, program.K + program.N
        model.col_cost_, model.col_lower_, model.col_upper_ = -program.value, np.zeros(program.E), np.ones(program.E)
        model.row_lower_ = np.concatenate([program.lower, np.full(program.N, -np.inf)])
        model.row_upper_ = np.concatenate([program.upper, program.most_of(slice(0, program.N))])
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_, model.a_matrix_.index_ = whole.indptr, whole.indices
        model.a_matrix_.value_ = whole.data
        highs = highspy.Highs()
        for name, value in {"output_flag": False, "time_limit": limit, "threads": 2, **options}.items():
            highs.setOptionValue(name, value)
        highs.passModel(model)
        highs.run()
        solution = highs.getSolution()
        return np.array(solution.col_value), -np.array(solution.row_dual)[: program.K]

    return solve


def cvxpy_highs(program: Program, limit: float) -> Solved:
    """cvxpy states the program, HiGHS solves it."""
    import cvxpy

    a, own = matrices(program)
    x = cvxpy.Variable(program.E, nonneg=True)
    low = np.flatnonzero(np.isfinite(program.lower))
    rows = [a @ x <= program.upper, own @ x <= program.most_of(slice(0, program.N))]
    if len(low):
        rows.append(a[low] @ x >= program.lower[low])
    if np.max(program.most) > 1:
        rows.append(x <= 1)
    problem = cvxpy.Problem(cvxpy.Maximize(program.value @ x), rows)
    problem.solve(solver=cvxpy.HIGHS, time_limit=limit)  # type: ignore[no-untyped-call]
    prices = np.array(rows[0].dual_value)
    if len(low):
        prices[low] -= rows[2].dual_value
    return np.array(x.value), prices


SOLVERS: dict[str, Callable[[Program, float], Solved]] = {
    "ours": ours,
    "scipy HiGHS IPM": scipy_ipm,
    "highspy IPM": highspy_with(solver="ipm", run_crossover="off", ipm_optimality_tolerance=1e-5),
    "highspy PDLP": highspy_with(
        solver="pdlp",
        pdlp_optimality_tolerance=1e-5,
        primal_feasibility_tolerance=1e-6,
        dual_feasibility_tolerance=1e-6,
    ),
    "highspy simplex": highspy_with(solver="simplex"),
    "cvxpy to HiGHS": cvxpy_highs,
}


# --- judging and timing -----------------------------------------------------------------------------------------------


def judged(program: Program, x: Floats, prices: Floats) -> dict[str, float]:
    """Gap of a solution, whoever made it, after its shares are brought into the rows.

    Above its rows an allocation is scaled down as a whole. That mends no lower row: what is then short of one is
    charged at the row's price, which is what an exact repair costs to first order, and reported.
    """
    prices = np.where(np.isinf(program.upper), np.minimum(prices, 0), prices)
    prices = np.where(np.isinf(program.lower), np.maximum(prices, 0), prices)
    x = np.clip(np.nan_to_num(x), 0, 1)
    counts, caps = np.diff(program.start), program.most_of(slice(0, program.N))
    total = np.add.reduceat(x, program.start[:-1])
    x = x * np.repeat(np.minimum(1, caps / np.maximum(total, 1e-300)), counts)
    load = program.loads(x)
    over = float(np.max(load / program.upper - 1, initial=0))
    x, load = x / (1 + over), load / (1 + over)
    short = np.maximum(np.where(np.isfinite(program.lower), program.lower - load, 0), 0)
    value = float(x @ program.value.astype(np.float64)) - float(np.abs(prices) @ short)
    bound = dual_bound(program, prices)
    worst = float((short / np.maximum(np.abs(np.where(np.isfinite(program.lower), program.lower, 1)), 1e-300)).max())
    return {
        "gap": (bound - value) / max(abs(bound), 1e-300),
        "over": over,
        "short": worst,
        "parted": float(((x > 1e-6) & (x < 1 - 1e-6)).sum()),
    }


def scan(program: Program) -> float:
    """CPU seconds of one reading of values and weights by a compiled loop: what no pass can do without."""
    import numba

    @numba.njit(fastmath=True, nogil=True)
    def read(a: Any, b: Any, c: Any) -> float:
        total = 0.0
        for i in range(a.shape[0]):
            total += a[i] + b[i] * c[i]
        return total

    arrays = (program.value, program.families[0].weight, program.families[1].weight)
    read(*(array[:8] for array in arrays))
    best = np.inf
    for _ in range(5):
        begin = time.process_time()
        read(*arrays)
        best = min(best, time.process_time() - begin)
    return best


def resident(peak: bool) -> float:
    """Resident memory of this process, now or at most since `clear`, in MiB."""
    key = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(name: str, case: Case, seed: int, limit: float, out: Any) -> None:
    """One solver on one case, in a process of its own; a small case first loads libraries and compiled code."""
    solver = SOLVERS[name]
    solver(program_of(Case(5_200 if name == "ours" else 60, case.offers, case.density, case.kind), 99), limit)
    program = program_of(case, seed)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident(peak=False)
    begin = time.process_time()
    if name == "ours":  # the answer is compact: it is expanded for the judge alone, after the clock stops
        module = importlib.import_module("models.marketing.allocation.solver")
        answer = module.solve(program, gap=GAP)
        cpu, grown = time.process_time() - begin, resident(peak=True) - before
        x = np.zeros(program.E)
        x[answer.choice[answer.choice >= 0]] = 1
        x[answer.pairs] = answer.shares
        prices = answer.prices
        more = {"passes": float(answer.passes), "scan": scan(program), **finer(program), **warm(program, prices, seed)}
    else:
        try:
            x, prices = solver(program, limit)
        except Exception as error:  # out of time: each peer says so in its own way
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            out.put({"spent": time.process_time() - begin})
            return
        cpu, grown, more = time.process_time() - begin, resident(peak=True) - before, {}
    size = sum(array.nbytes for array in (program.start, program.offer, program.value))
    size += sum(family.weight.nbytes for family in program.families if family.weight is not None)
    out.put({"cpu": cpu, "grown": grown, "size": size / 2**20, **more, **judged(program, x, prices)})


def finer(program: Program) -> dict[str, float]:
    """The same to a hundredth of the gap, and to a vertex."""
    from models.marketing.allocation.solver import solve

    found = {}
    for name, options in (("fine", {"gap": GAP / 100}), ("vertex", {"vertex": True})):
        begin = time.process_time()
        answer = solve(program, **options)  # type: ignore[arg-type]
        owners = program.member_of(answer.pairs[(answer.shares > 0) & (answer.shares < 1)])
        found |= {
            f"{name}_cpu": time.process_time() - begin,
            f"{name}_gap": answer.gap,
            f"{name}_parted": float(len(np.unique(owners))),
        }
    return found


def warm(program: Program, prices: Floats, seed: int) -> dict[str, float]:
    """The next solve: one value in a hundred has changed by a fifth, every bound by a fiftieth."""
    from models.marketing.allocation.solver import solve

    random = np.random.default_rng(seed + 1000)
    changed = np.where(random.random(program.E) < 0.01, 1 + random.choice([-0.2, 0.2], program.E), 1.0)
    families = tuple(
        replace(one, lower=one.lower * turn, upper=one.upper * turn)
        for one, turn in zip(program.families, 1 + random.choice([-0.02, 0.02], len(program.families)), strict=True)
    )
    after = solve(replace(program, value=program.value * changed, families=families), gap=GAP, prices=prices)
    return {"warm_passes": float(after.passes), "warm_gap": after.gap}


def alone(name: str, case: Case, seed: int, limit: float) -> dict[str, Any]:
    """`run` in a fresh process, ended when it takes much longer than its limit."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=run, args=(name, case, seed, limit, out))
    process.start()
    result: dict[str, Any] = {}
    until = time.monotonic() + 4 * limit
    while time.monotonic() < until:
        if not out.empty() or not process.is_alive():
            break
        time.sleep(0.05)
    if not out.empty():
        result = out.get()
    process.join(1)
    if process.is_alive():
        process.kill()
    return result


def measured(case: str, peer: str, rounds: int, limit: float, seed: int) -> list[dict[str, Any]]:
    """We, the peer, we: as often as there are rounds."""
    found = []
    for round_ in range(rounds):
        for name in ("ours", peer, "ours") if peer != "ours" else ("ours",):
            result = alone(name, CASES[case], seed + round_, limit)
            found.append(
                {"case": case, "solver": name, "beside": peer, "seed": seed + round_, "limit": limit, **result}
            )
            print(json.dumps(found[-1]), flush=True)
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


def page(rows: Sequence[dict[str, Any]], command: str) -> str:
    """The results as a page."""
    lines = [
        "# The allocation solver beside general solvers",
        "",
        f"`{command}`",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{datetime.now(UTC).date().isoformat()}. Gap asked for: {GAP:g}. CPU seconds of the process, building "
        "included, compiling once per installation not. We run before and after every peer, each in a process of its "
        "own, on the same generated program; the ratio divides the peer's CPU by the median of ours beside it. Other "
        "programs ran on the machine: CPU seconds, not wall time, are comparable. The gap is counted by the benchmark "
        "from prices and shares, for everybody alike.",
        "",
        "## Against each peer",
        "",
        "| case | peer | peer's CPU s | its gap | our CPU s | our gap | peer / ours |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    cases = [case for case in CASES if any(row["case"] == case for row in rows)]
    for case in cases:
        for peer in SOLVERS:
            theirs = [r for r in rows if r["case"] == case and r["solver"] == peer and peer != "ours"]
            mine = [
                r for r in rows if r["case"] == case and r["beside"] == peer and r["solver"] == "ours" and "cpu" in r
            ]
            if not theirs or not mine:
                continue
            own = statistics.median(r["cpu"] for r in mine)
            own_gap = max(r["gap"] for r in mine)
            done = [r for r in theirs if "cpu" in r]
            if not done:
                spent = max(r.get("spent", 0.0) for r in theirs)
                text = f"> {spent:.1f} (not ended)", "-", f"> {spent / own:.0f}"
            else:
                cpu, gap = statistics.median(r["cpu"] for r in done), max(r["gap"] for r in done)
                mark = "" if gap <= GAP else " (missed)"
                more = "" if gap <= GAP else "> "
                text = f"{cpu:.1f}", f"{gap:.1e}{mark}", f"{more}{cpu / own:.0f}"
            lines.append(f"| {case} | {peer} | {text[0]} | {text[1]} | {own:.3f} | {own_gap:.1e} | {text[2]} |")
    lines += [
        "",
        "## Ours alone",
        "",
        "Passes are over all members; a scan is one compiled reading of values and weights on one core. Memory is what "
        "the process grew by while solving, the compact answer included, against the input's arrays. Arrays of less "
        "than 100 MiB stay in the cache and are not given in scans.",
        "",
        "| case | runs | CPU s, median | in scans | passes, most | gap, worst | memory beyond input |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        mine = [r for r in rows if r["case"] == case and r["solver"] == "ours" and "cpu" in r]
        if not mine:
            continue
        cpu = statistics.median(r["cpu"] for r in mine)
        scans = f"{statistics.median(r['cpu'] / r['scan'] for r in mine):.0f}" if mine[0]["size"] > 100 else "-"
        grown = statistics.median(r["grown"] for r in mine)
        size = mine[0]["size"]
        lines.append(
            f"| {case} | {len(mine)} | {cpu:.3f} | {scans} | {max(r['passes'] for r in mine):.0f} | "
            f"{max(r['gap'] for r in mine):.1e} | {grown:.0f} MiB of {size:.0f} ({grown / size:.0%}) |"
        )
    lines += [
        "",
        "## Finer, at a vertex, and the next day",
        "",
        "To a gap of 1e-6; to a vertex, where few members have parts of offers; and again from the prices, after one "
        "value in a hundred has changed by a fifth and all bounds by a fiftieth. Worst of the runs; CPU seconds are "
        "medians.",
        "",
        "| case | 1e-6: CPU s | gap | vertex: CPU s | gap | members with parts | warm: passes | gap |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        mine = [r for r in rows if r["case"] == case and r["solver"] == "ours" and "fine_cpu" in r]
        if not mine:
            continue
        fine, sharp = (statistics.median(r[key] for r in mine) for key in ("fine_cpu", "vertex_cpu"))
        worst = {k: max(r[k] for r in mine) for k in mine[0] if isinstance(mine[0][k], float)}
        lines.append(
            f"| {case} | {fine:.3f} | {worst['fine_gap']:.1e} | {sharp:.3f} | {max(worst['vertex_gap'], 0):.1e} | "
            f"{worst['vertex_parted']:.0f} | {worst['warm_passes']:.0f} | {worst['warm_gap']:.1e} |"
        )
    return "\n".join(lines) + "\n"


def main(options: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="100 thousand x 10", help=f"separated by ';' of: {'; '.join(CASES)}")
    parser.add_argument("--peers", default=";".join(SOLVERS), help=f"separated by ';' of: {'; '.join(SOLVERS)}")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=150, help="seconds that a peer may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="results are added to this file and read from it")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    asked = parser.parse_args(options)
    rows: list[dict[str, Any]] = []
    if asked.keep and asked.keep.exists():
        rows = [json.loads(line) for line in asked.keep.read_text().splitlines()]
    for case in (name.strip() for name in asked.cases.split(";") if name.strip()):
        for peer in (name.strip() for name in asked.peers.split(";") if name.strip()):
            rows += measured(case, peer, asked.rounds, asked.limit, asked.seed)
            if asked.keep:
                asked.keep.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = page(rows, "python -m benchmarks marketing_lp --keep FILE --write, case by case")
    print(text)
    if asked.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
