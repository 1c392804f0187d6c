"""Filtered exact search beside what one would write by hand, in torch and in numpy.

    python -m benchmarks retrieval_search [--n 1000000] [--queries 64] [--rounds 7] [--seed 0] [--write]

All three get the same queries and ranges in the same round, one after another in turning order, with the same number of
threads. The two plain ways get their ranges as bare numbers over a bare array of 32-bit integers; they filter, score
and select in float32.
"""

# Shapes: N items, D dimension, Q queries, K results per query, P passing items.

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from one another

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.feed.retrieval.filter import col
from models.feed.retrieval.index import RetrievalIndex

PAGE = Path(__file__).parent.parent / "docs" / "results" / "retrieval_search.md"
DIMENSION = 64
K = 100
SHARES = (0.001, 0.01, 0.1, 0.5, 1.0)
SHAPES = ("single query", "one filter for all", "a filter for each")
ENOUGH_S = 0.03
"""A call that takes less is repeated within its round."""
HEAD = ("request", "passing", "torch / ours", "numpy / ours", "ours ms", "torch ms", "numpy ms", "CPU ms", "recall")


@dataclass(frozen=True)
class Request:
    """Queries and the range [low, high] of each, or one range for all."""

    queries: NDArray[np.float32]
    ranges: tuple[tuple[int, int], ...]


class Ours:
    """The index, asked with filters as Python expressions."""

    def __init__(self, vectors: NDArray[np.float32], values: NDArray[np.int32]) -> None:
        self._index = RetrievalIndex.build(vectors, np.arange(len(vectors)), pa.table({"value": values}))

    def __call__(self, request: Request) -> NDArray[np.int64]:
        """Identifiers (Q, K)."""
        where = [col("value").between(low, high) for low, high in request.ranges]
        return self._index.search(request.queries, K, where if len(where) > 1 else where[0]).ids


class MaskThenTopK:
    """Torch over the whole matrix: score all items, mask, select."""

    def __init__(self, vectors: NDArray[np.float32], values: NDArray[np.int32]) -> None:
        self._vectors, self._values = torch.from_numpy(vectors), torch.from_numpy(values)

    def __call__(self, request: Request) -> NDArray[np.int64]:
        """Identifiers (Q, K)."""
        masks = torch.stack([(self._values >= low) & (self._values <= high) for low, high in request.ranges])
        scores = torch.from_numpy(request.queries) @ self._vectors.T
        return scores.masked_fill_(~masks, -torch.inf).topk(K, dim=1).indices.numpy()


class GatherThenPartition:
    """Numpy over the passing items alone: take them out, score, partition, sort."""

    def __init__(self, vectors: NDArray[np.float32], values: NDArray[np.int32]) -> None:
        self._vectors, self._values = vectors, values

    def __call__(self, request: Request) -> NDArray[np.int64]:
        """Identifiers (Q, K)."""
        if len(request.ranges) == 1:
            return self._best(request.queries, *request.ranges[0])
        pairs = zip(request.queries[:, None], request.ranges, strict=True)
        return np.concatenate([self._best(query, *bounds) for query, bounds in pairs])

    def _best(self, queries: NDArray[np.float32], low: int, high: int) -> NDArray[np.int64]:
        rows = np.flatnonzero((self._values >= low) & (self._values <= high))
        scores = queries @ self._vectors[rows].T
        part = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1)
        return rows[np.take_along_axis(part, order, axis=1)]


@dataclass
class Timing:
    """What one way of searching took: seconds and CPU seconds per call by round, and its least recall."""

    wall: list[float]
    cpu: list[float]
    recall: float = 1.0


def main(options: Sequence[str] = ()) -> None:
    """Time every kind of request, print the table, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks retrieval_search")
    parser.add_argument("--n", type=int, default=200_000, help="items")
    parser.add_argument("--queries", type=int, default=64, help="queries asked together")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, 5 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write docs/results/retrieval_search.md")
    chosen = parser.parse_args(options)
    if chosen.rounds < 5 or chosen.n * min(SHARES) < K:
        parser.error(f"--rounds must be at least 5 and --n at least {K / min(SHARES):.0f}.")
    rng = np.random.default_rng(chosen.seed)
    vectors = _unit(rng, chosen.n)
    values = rng.permutation(chosen.n).astype(np.int32)
    ways = {"ours": Ours, "torch": MaskThenTopK, "numpy": GatherThenPartition}
    searches = {name: way(vectors, values) for name, way in ways.items()}
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    rows, lost, wrong = [], [], []
    for shape in SHAPES:
        for share in SHARES:
            with console.status(f"{shape}, {share:.1%} passing"):
                requests = [_request(rng, shape, share, chosen.n, chosen.queries) for _ in range(chosen.rounds + 1)]
                timings = _race(searches, requests, vectors, values)
            rows.append(_row(shape, share, timings))
            lost += [f"{shape} at {share:.1%} against {name}" for name in ("torch", "numpy") if _loses(timings, name)]
            wrong += [f"{name}: {shape} at {share:.1%}" for name, taken in timings.items() if taken.recall < 1]
    table = Table(*HEAD, title=f"N = {chosen.n:,}, D = {DIMENSION}, K = {K}, {chosen.queries} queries together")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    said = _said(lost, wrong)
    console.print(said)
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(_page(chosen, rows, said), encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE.name}")
    if any(entry.startswith("ours") for entry in wrong):
        raise SystemExit("our answers were not exact.")


def _unit(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _request(rng: np.random.Generator, shape: str, share: float, n: int, together: int) -> Request:
    width = round(share * n)
    starts = rng.integers(0, n - width + 1, together if shape == SHAPES[2] else 1)
    # where all pass, filters of different text keep their number
    ranges = tuple((int(low), int(low) + width - 1 + (place if share == 1 else 0)) for place, low in enumerate(starts))
    return Request(_unit(rng, 1 if shape == SHAPES[0] else together), ranges)


def _race(
    searches: dict[str, Callable[[Request], NDArray[np.int64]]],
    requests: Sequence[Request],
    vectors: NDArray[np.float32],
    values: NDArray[np.int32],
) -> dict[str, Timing]:
    """Every way answers every request; the first request warms up and decides how often a call is repeated."""
    timings = {name: Timing([], []) for name in searches}
    repeats = {}
    for name, search in searches.items():
        search(requests[0])
        begun = time.perf_counter()
        search(requests[0])
        repeats[name] = max(1, math.ceil(ENOUGH_S / (time.perf_counter() - begun)))
    for number, request in enumerate(requests[1:]):
        truth = _exact(request, vectors, values)
        names = list(searches)
        for name in names[number % 3 :] + names[: number % 3]:
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                found = searches[name](request)
            timings[name].wall.append((time.perf_counter() - wall) / repeats[name])
            timings[name].cpu.append((time.process_time() - cpu) / repeats[name])
            recall = np.mean([np.isin(right, ids).mean() for right, ids in zip(truth, found, strict=True)])
            timings[name].recall = min(timings[name].recall, float(recall))
    return timings


def _exact(request: Request, vectors: NDArray[np.float32], values: NDArray[np.int32]) -> NDArray[np.int64]:
    """The answer in float64, for recall; not timed."""
    best = []
    ranges = request.ranges if len(request.ranges) > 1 else request.ranges * len(request.queries)
    for query, (low, high) in zip(request.queries, ranges, strict=True):
        rows = np.flatnonzero((values >= low) & (values <= high))
        approximate = vectors[rows] @ query
        # float32 errs by far less than 1e-4 here, so the K best lie among those near the K-th
        near = rows[approximate >= np.partition(approximate, len(rows) - K)[len(rows) - K] - 1e-4]
        scores = vectors[near].astype(np.float64) @ query.astype(np.float64)
        best.append(near[np.lexsort((near, -scores))[:K]])
    return np.stack(best)


def _ratios(timings: dict[str, Timing], name: str) -> NDArray[np.float64]:
    return np.asarray(timings[name].wall) / np.asarray(timings["ours"].wall)


def _loses(timings: dict[str, Timing], name: str) -> bool:
    return float(np.median(_ratios(timings, name))) < 1


def _row(shape: str, share: float, timings: dict[str, Timing]) -> tuple[str, ...]:
    def spread(values: Any, scale: float = 1.0, digits: int = 2) -> str:
        low, middle, high = (scale * float(f(values)) for f in (np.min, np.median, np.max))
        return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"

    return (
        shape,
        f"{share:.1%}",
        spread(_ratios(timings, "torch")),
        spread(_ratios(timings, "numpy")),
        *(spread(timings[name].wall, 1e3) for name in timings),
        " / ".join(f"{1e3 * np.median(taken.cpu):.2f}" for taken in timings.values()),
        " / ".join(f"{taken.recall:.4g}" for taken in timings.values()),
    )


def _said(lost: Sequence[str], wrong: Sequence[str]) -> str:
    cases = "1 case" if len(lost) == 1 else f"{len(lost)} cases"
    slower = f"We are slower in {cases}: {'; '.join(lost)}." if lost else "We are slower in no case."
    unequal = f" Recall below 1: {'; '.join(wrong)}." if wrong else " All answers have recall 1."
    return slower + unequal


def _page(chosen: argparse.Namespace, rows: Sequence[Sequence[str]], said: str) -> str:
    options = f"--n {chosen.n} --queries {chosen.queries} --rounds {chosen.rounds} --seed {chosen.seed} --write"
    command = f"python -m benchmarks retrieval_search {options}"
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Filtered exact search beside plain torch and numpy",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"{chosen.n:,} random unit vectors of {DIMENSION} numbers, the best {K}, one range over an integer column. A "
        f"call asks for one query or for {chosen.queries} together. Ratios above 1: we are faster. Medians of "
        f"{chosen.rounds} interleaved rounds with (least..most). CPU is that of ours / torch / numpy in one call; "
        "recall, in the same order, is the least of all rounds against an answer in float64.",
        "",
        f"Machine: {cores} cores ({platform.machine()}), {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}.",
        "",
        "The torch way scores all items, masks and selects; the numpy way takes the passing items out, scores them, "
        "partitions and sorts. Both work in float32 on a fixed array; ours also proves exactness in float64, orders "
        "equal scores by id, and can be written to meanwhile.",
        "",
        f"{said}",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"
