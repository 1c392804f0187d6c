"""Filtered exact search beside FAISS, and beside what one would write by hand in torch and in numpy.

    python -m benchmarks retrieval_search [--n 1000000] [--queries 64] [--rounds 7] [--seed 0] [--groups 1000] [--write]

All get the same queries and ranges in the same round, one after another in turning order, with the same number of
threads. The others get their ranges as bare numbers over a bare array of 32-bit integers, make of them, within their
time, whatever they search with, and filter, score and select in float32. FAISS knows one filter for all queries of a
call: with a filter for each, every query is a call of its own, and threads of Python share them out.

FAISS is a peer of this benchmark and no dependency: pip install faiss-cpu.
"""

# Shapes: N items, D dimension, Q queries, K results per query, P passing items.

import argparse
import importlib.util
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
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


class _Faiss:
    """A flat index of FAISS; `_selector` says how it is told what passes."""

    def __init__(self, vectors: NDArray[np.float32], values: NDArray[np.int32]) -> None:
        import faiss

        self._faiss, self._vectors, self._values, self._threads = faiss, vectors, values, torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads)
        self._faiss.omp_set_num_threads(self._threads)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def __call__(self, request: Request) -> NDArray[np.int64]:
        """Identifiers (Q, K)."""
        if len(request.ranges) == 1:
            return self._best(request.queries, *request.ranges[0])
        self._faiss.omp_set_num_threads(1)
        calls = [
            self._pool.submit(self._best, query[None], low, high)
            for query, (low, high) in zip(request.queries, request.ranges, strict=True)
        ]
        found = np.concatenate([call.result() for call in calls])
        self._faiss.omp_set_num_threads(self._threads)
        return found

    def _best(self, queries: NDArray[np.float32], low: int, high: int) -> NDArray[np.int64]:
        mask = (self._values >= low) & (self._values <= high)
        held, selector = self._selector(mask)
        found: NDArray[np.int64] = self._index.search(queries, K, params=self._faiss.SearchParameters(sel=selector))[1]
        del held  # FAISS reads it without holding it
        return found

    def _selector(self, mask: NDArray[np.bool_]) -> tuple[Any, Any]:
        raise NotImplementedError


class FaissBitmap(_Faiss):
    """FAISS told by a bit for each item."""

    def _selector(self, mask: NDArray[np.bool_]) -> tuple[Any, Any]:
        bits = np.packbits(mask, bitorder="little")
        return bits, self._faiss.IDSelectorBitmap(len(mask), self._faiss.swig_ptr(bits))


class FaissArray(_Faiss):
    """FAISS told by the numbers of the passing items, which it then visits alone."""

    def _selector(self, mask: NDArray[np.bool_]) -> tuple[Any, Any]:
        rows = np.flatnonzero(mask)
        return rows, self._faiss.IDSelectorArray(len(rows), self._faiss.swig_ptr(rows))


class FaissGather(_Faiss):
    """The passing items are taken out, and FAISS searches these by products of matrices."""

    def _best(self, queries: NDArray[np.float32], low: int, high: int) -> NDArray[np.int64]:
        rows = np.flatnonzero((self._values >= low) & (self._values <= high))
        chosen = self._vectors if len(rows) == len(self._vectors) else self._vectors[rows]
        found = self._faiss.knn(queries, chosen, K, metric=self._faiss.METRIC_INNER_PRODUCT)[1]
        return np.where(found < 0, -1, rows[found])


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
    parser.add_argument("--groups", type=int, default=0, help="groups that vectors lie in; 0 for none: the hardest")
    parser.add_argument("--write", action="store_true", help="write docs/results/retrieval_search.md")
    chosen = parser.parse_args(options)
    if chosen.rounds < 5 or chosen.n * min(SHARES) < K:
        parser.error(f"--rounds must be at least 5 and --n at least {K / min(SHARES):.0f}.")
    rng = np.random.default_rng(chosen.seed)
    draw = _grouped(rng, chosen.groups) if chosen.groups else partial(_unit, rng)
    vectors = draw(chosen.n)
    values = rng.permutation(chosen.n).astype(np.int32)
    ways: dict[str, Any] = {"ours": Ours, "torch": MaskThenTopK, "numpy": GatherThenPartition}
    if importlib.util.find_spec("faiss") is not None:
        ways |= {"faiss bitmap": FaissBitmap, "faiss array": FaissArray, "faiss gather": FaissGather}
    searches = {name: way(vectors, values) for name, way in ways.items()}
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    rows, lost, wrong, ratios = [], [], [], dict[str, list[float]]()
    for shape in SHAPES:
        for share in SHARES:
            with console.status(f"{shape}, {share:.1%} passing"):
                requests = [
                    _request(rng, draw, shape, share, chosen.n, chosen.queries) for _ in range(chosen.rounds + 1)
                ]
                timings = _race(searches, requests, vectors, values)
            rows.append(_row(shape, share, timings))
            ratio = float(np.median(_ratios(timings, _fastest(timings))))
            lost += [f"{shape} at {share:.1%}"] if ratio < 1 else []
            ratios.setdefault(shape, []).append(ratio)
            wrong += [f"{name}: {shape} at {share:.1%}" for name, taken in timings.items() if taken.recall < 1]
    head = ("request", "passing", "fastest other / ours", "which", *(f"{name} ms" for name in ways), "CPU ms", "recall")
    table = Table(*head, title=f"N = {chosen.n:,}, D = {DIMENSION}, K = {K}, {chosen.queries} queries together")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    means = ", ".join(f"{shape} {math.exp(np.mean(np.log(values))):.2f}" for shape, values in ratios.items())
    said = f"{_said(lost, wrong)} Geometric means against the fastest other of each case: {means}."
    console.print(said)
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(_page(chosen, head, rows, said), encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE.name}")
    if any(entry.startswith("ours") for entry in wrong):
        raise SystemExit("our answers were not exact.")


def _unit(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _grouped(rng: np.random.Generator, groups: int) -> Callable[[int], NDArray[np.float32]]:
    """Vectors around so many centres, some centres with more of them than others; queries come from the same."""
    centres, weights = _unit(rng, groups), rng.gamma(1.0, 1.0, groups)

    def draw(count: int) -> NDArray[np.float32]:
        vectors = centres[rng.choice(groups, count, p=weights / weights.sum())]
        vectors += np.float32(0.9 / math.sqrt(DIMENSION)) * rng.standard_normal(vectors.shape, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    return draw


def _request(
    rng: np.random.Generator,
    draw: Callable[[int], NDArray[np.float32]],
    shape: str,
    share: float,
    n: int,
    together: int,
) -> Request:
    width = round(share * n)
    starts = rng.integers(0, n - width + 1, together if shape == SHAPES[2] else 1)
    # where all pass, filters of different text keep their number
    ranges = tuple((int(low), int(low) + width - 1 + (place if share == 1 else 0)) for place, low in enumerate(starts))
    return Request(draw(1 if shape == SHAPES[0] else together), ranges)


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
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
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


def _fastest(timings: dict[str, Timing]) -> str:
    """The fastest of the others."""
    return min((name for name in timings if name != "ours"), key=lambda name: float(np.median(timings[name].wall)))


def _row(shape: str, share: float, timings: dict[str, Timing]) -> tuple[str, ...]:
    def spread(values: Any, scale: float = 1.0, digits: int = 2) -> str:
        low, middle, high = (scale * float(f(values)) for f in (np.min, np.median, np.max))
        return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"

    return (
        shape,
        f"{share:.1%}",
        spread(_ratios(timings, _fastest(timings))),
        _fastest(timings),
        *(spread(timings[name].wall, 1e3) for name in timings),
        " / ".join(f"{1e3 * np.median(taken.cpu):.2f}" for taken in timings.values()),
        " / ".join(f"{taken.recall:.4g}" for taken in timings.values()),
    )


def _said(lost: Sequence[str], wrong: Sequence[str]) -> str:
    cases = "1 case" if len(lost) == 1 else f"{len(lost)} cases"
    slower = (
        f"We are slower than the fastest other in {cases}: {'; '.join(lost)}." if lost else "We are slower in none."
    )
    unequal = f" Recall below 1: {'; '.join(wrong)}." if wrong else " All answers have recall 1."
    return slower + unequal


def _faiss_version() -> str:
    if importlib.util.find_spec("faiss") is None:
        return "; FAISS was not there"
    import faiss

    return f", FAISS {faiss.__version__}"


def _page(chosen: argparse.Namespace, head: Sequence[str], rows: Sequence[Sequence[str]], said: str) -> str:
    options = f"--n {chosen.n} --queries {chosen.queries} --rounds {chosen.rounds} --seed {chosen.seed}"
    options += f" --groups {chosen.groups} --write"
    command = f"python -m benchmarks retrieval_search {options}"
    cores = len(os.sched_getaffinity(0))
    groups = f"in {chosen.groups:,} groups" if chosen.groups else "random, without groups"
    lines = [
        "# Filtered exact search beside FAISS, torch and numpy",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"{chosen.n:,} unit vectors of {DIMENSION} numbers, {groups}, the best {K}, one range over an integer column. "
        f"A call asks for one query or for {chosen.queries} together. Ratios above 1: we are faster than the fastest "
        f"other. Medians of {chosen.rounds} interleaved rounds with (least..most). CPU is that of one call; recall is "
        "the least of all rounds against an answer in float64; both in the order of the columns of times.",
        "",
        f"Machine: {cores} cores ({platform.machine()}), {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}{_faiss_version()}.",
        "",
        "The torch way scores all items, masks and selects; the numpy way takes the passing items out, scores them, "
        "partitions and sorts; FAISS gets a bit for each item, the numbers of the passing ones, or these taken out. "
        "All work in float32 on a fixed array; ours also proves exactness in float64, orders equal scores by id, and "
        "can be written to meanwhile.",
        "",
        f"{said}",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"
