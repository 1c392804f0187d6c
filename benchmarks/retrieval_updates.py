"""Queries beside upserts: what a query takes while 0, 600 or 6,000 rows a second are written to a live index.

    python -m benchmarks retrieval_updates [--n 1000000] [--queries 10000] [--rounds 7] [--batch 1 100] [--seed 0]

One thread asks, one query at a time under a range that 10 % of the items pass; another writes rows of random ids at a
steady rate, in batches of as many rows as its rate has beside it, and flushes once a second. The rates take turns
within every round, on one index, and each round begins from a compacted one. Ratios are to the same round without
upserts. What the writer could not keep up with is told.
"""

# Shapes: N items, D dimension.

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from one another

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.feed.retrieval.delta import LiveIndex
from models.feed.retrieval.filter import col
from models.feed.retrieval.index import RetrievalIndex

DIMENSION = 64
K = 100
SHARE = 0.1
RATES = (0, 600, 6000)


@dataclass(frozen=True)
class Asked:
    """One turn: milliseconds of each query, and rows that were written in a second."""

    times: NDArray[np.float64]
    rows_per_s: float


def main(options: Sequence[str] = ()) -> None:
    """Time the queries of every turn and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks retrieval_updates")
    parser.add_argument("--n", type=int, default=200_000, help="items")
    parser.add_argument("--queries", type=int, default=10_000, help="queries at each rate, over all rounds")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, 3 or more")
    parser.add_argument("--batch", type=int, nargs=2, default=(1, 100), help="rows in an upsert at each rate above 0")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(options)
    if chosen.rounds < 3 or chosen.n < K / SHARE or min(chosen.batch) < 1 or chosen.queries < chosen.rounds:
        parser.error(f"--rounds must be at least 3, --n at least {K / SHARE:.0f}, and the others at least 1.")
    rng = np.random.default_rng(chosen.seed)
    batches = dict(zip(RATES, (1, *chosen.batch), strict=True))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    with tempfile.TemporaryDirectory() as folder:
        ids, vectors, values = _rows(rng, np.arange(chosen.n), chosen.n)
        first = RetrievalIndex.build(vectors, ids, values)
        with LiveIndex.create(Path(folder) / "live", first.snapshot()) as live, console.status("asking") as status:
            turns: dict[int, list[Asked]] = {rate: [] for rate in RATES}
            for round_ in range(chosen.rounds):
                for rate in RATES[round_ % 3 :] + RATES[: round_ % 3]:
                    live.compact()
                    status.update(f"round {round_ + 1} of {chosen.rounds}, {rate} rows a second")
                    count = -(-chosen.queries // chosen.rounds)
                    turns[rate].append(_turn(rng, live, chosen.n, count, rate, batches[rate]))
    cores = len(os.sched_getaffinity(0))
    table = Table(
        "rows/s asked", "rows/upsert", "rows/s done", "queries", "p50 ms", "p95 ms", "p50 ratio", "p95 ratio",
        title=f"N = {chosen.n:,}, D = {DIMENSION}, K = {K}, {SHARE:.0%} passing, {cores} cores "
        f"({platform.machine()}), {torch.get_num_threads()} threads, {chosen.rounds} rounds, median (least..most)",
    )  # fmt: skip
    for rate, asked in turns.items():
        table.add_row(
            f"{rate:,}",
            str(batches[rate]) if rate else "-",
            _spread([turn.rows_per_s for turn in asked], 0),
            f"{sum(len(turn.times) for turn in asked):,}",
            *(_spread([np.percentile(turn.times, p) for turn in asked]) for p in (50, 95)),
            *(
                _spread(
                    [
                        np.percentile(turn.times, p) / np.percentile(quiet.times, p)
                        for turn, quiet in zip(asked, turns[0], strict=True)
                    ],
                    3,
                )
                for p in (50, 95)
            ),
        )
    console.print(table)


def _turn(rng: np.random.Generator, live: LiveIndex, n: int, queries: int, rate: int, batch: int) -> Asked:
    """Ask so many queries, one after another, while rows are written at a rate."""
    asked = _unit(rng, queries + 20)
    lows = rng.integers(0, n - round(SHARE * n) + 1, len(asked))
    wheres = [col("value").between(int(low), int(low) + round(SHARE * n) - 1) for low in lows]
    over, written, failed = threading.Event(), [0], list[BaseException]()
    draw = np.random.default_rng(rng.integers(2**63))

    def write() -> None:
        begun = flushed = time.perf_counter()
        try:
            while not over.wait(max(0.0, begun + written[0] / rate - time.perf_counter())):
                live.upsert(*_rows(draw, draw.choice(n, batch, replace=False), n))
                written[0] += batch
                if time.perf_counter() - flushed > 1:
                    live.flush()
                    flushed = time.perf_counter()
        except BaseException as error:  # a thread's failure is the benchmark's
            failed.append(error)

    writer = threading.Thread(target=write)
    if rate:
        writer.start()
    times = np.empty(len(asked))
    begun = time.perf_counter()
    for number, where in enumerate(wheres):
        start = time.perf_counter()
        live.search(asked[number : number + 1], K, where)
        times[number] = time.perf_counter() - start
    seconds, rows = time.perf_counter() - begun, written[0]
    over.set()
    if rate:
        writer.join()
    if failed:
        raise failed[0]
    return Asked(1e3 * times[20:], rows / seconds)  # the first twenty warm up


def _rows(
    rng: np.random.Generator, ids: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], pa.Table]:
    return ids, _unit(rng, len(ids)), pa.table({"value": rng.integers(0, n, len(ids))})


def _unit(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _spread(values: Sequence[float], digits: int = 2) -> str:
    low, middle, high = (float(f(values)) for f in (np.min, np.median, np.max))
    return f"{middle:,.{digits}f} ({low:,.{digits}f}..{high:,.{digits}f})"
