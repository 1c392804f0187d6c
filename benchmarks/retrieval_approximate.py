"""The approximate modes: probing beside FAISS IVF at the same recall, and how much recall signs keep.

    python -m benchmarks retrieval_approximate [--n 1000000] [--queries 256] [--rounds 7] [--seed 0] [--glove FILE]
                                               [--recall-only] [--write]

Speed: both get as many lists, and each probes as few of them as reach a mean recall of 0.95 over queries that are not
timed, under a filter of the same share. They answer the same requests in the same round, one after another in turning
order, with the same number of threads. A filter is a range over an integer column; what a way makes of it is timed.

Recall of signs: against the exact answer, by bytes of a row and by rows scored again, without a filter.

FAISS is a peer of this benchmark and no dependency: pip install faiss-cpu. GloVe: glove50_int8.npz of the catalogue.
"""

# Shapes: N items, D dimension, Q queries, K results per query.

import argparse
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from models.feed.retrieval.probing import Probing
from models.feed.retrieval.signs import Method, Signs

PAGE = Path(__file__).parent.parent / "docs" / "results" / "retrieval_approximate.md"
DIMENSION = 64
K = 100
GOAL = 0.95
SHARES = (0.5, 1.0)
SHAPES = ("single query", "one filter for all", "a filter for each")
ENOUGH_S = 0.1
"""Requests of a round are repeated until a round takes so long."""
CODES: tuple[tuple[Method, int], ...] = (("oporp", 64), ("rotation", 64), ("rotation", 96))
AGAIN = (4, 8, 16)
"""Rows scored again, for each result."""
HEAD = ("request", "passing", "FAISS / ours", "ours ms", "FAISS ms", "lists", "recall", "queries/s")
SIGNS_HEAD = ("vectors", "method", "bits", "bytes", *(f"{K * times} scored again" for times in AGAIN))

Vectors = NDArray[np.float32]
Ranges = Sequence[tuple[int, int]]


class Ours:
    """Probing, asked with filters as Python expressions."""

    def __init__(self, vectors: Vectors, values: NDArray[np.int32], lists: int) -> None:
        self.index = RetrievalIndex.build(vectors, np.arange(len(vectors)), pa.table({"value": values}))
        self.probing = Probing.of(self.index, lists)

    def __call__(self, queries: Vectors, ranges: Ranges, lists: int) -> NDArray[np.int64]:
        """Identifiers (Q, K)."""
        where = [col("value").between(low, high) for low, high in ranges]
        return self.probing.search(queries, K, where if len(where) > 1 else where[0], lists=lists).ids


class Faiss:
    """IndexIVFFlat with a bitmap of the passing rows for each filter."""

    def __init__(self, vectors: Vectors, values: NDArray[np.int32], lists: int) -> None:
        import faiss

        self._faiss, self._values, self._threads = faiss, values, torch.get_num_threads()
        faiss.omp_set_num_threads(self._threads)
        self._index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(DIMENSION), DIMENSION, lists, faiss.METRIC_INNER_PRODUCT
        )  # fmt: skip
        self._index.own_fields = False
        self._index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[: 256 * lists]])
        self._index.add(vectors)

    def __call__(self, queries: Vectors, ranges: Ranges, lists: int) -> NDArray[np.int64]:
        """Identifiers (Q, K)."""
        if len(ranges) == 1:
            return self._search(queries, ranges[0], lists)
        # FAISS takes one filter for a call, and spreads over the queries of a call: each query gets a thread of ours.
        self._faiss.omp_set_num_threads(1)
        with ThreadPoolExecutor(self._threads) as pool:
            found = list(pool.map(lambda i: self._search(queries[i : i + 1], ranges[i], lists), range(len(queries))))
        self._faiss.omp_set_num_threads(self._threads)
        return np.concatenate(found)

    def _search(self, queries: Vectors, bounds: tuple[int, int], lists: int) -> NDArray[np.int64]:
        bits = np.packbits((self._values >= bounds[0]) & (self._values <= bounds[1]), bitorder="little")
        chosen = self._faiss.IDSelectorBitmap(len(self._values), self._faiss.swig_ptr(bits))
        asked = self._faiss.SearchParametersIVF(sel=chosen, nprobe=lists)
        ids: NDArray[np.int64] = self._index.search(queries, K, params=asked)[1]
        return ids


def main(options: Sequence[str] = ()) -> None:
    """Time probing, measure signs, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks retrieval_approximate")
    parser.add_argument("--n", type=int, default=200_000, help="items")
    parser.add_argument("--queries", type=int, default=256, help="queries asked together")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, 5 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--glove", type=Path, help="glove50_int8.npz, to measure signs on it as well")
    parser.add_argument("--recall-only", action="store_true", help="time nothing, and need no FAISS")
    parser.add_argument("--write", action="store_true", help="write docs/results/retrieval_approximate.md")
    chosen = parser.parse_args(options)
    if chosen.rounds < 5 or chosen.n * min(SHARES) < 16 * K:
        parser.error(f"--rounds must be at least 5 and --n at least {16 * K / min(SHARES):.0f}.")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    faiss_is_there = importlib.util.find_spec("faiss") is not None
    if not chosen.recall_only and not faiss_is_there:
        console.print("FAISS is not installed (pip install faiss-cpu): nothing is timed.")
    timed = faiss_is_there and not chosen.recall_only
    speed = _speed(chosen, console) if timed else []
    signs = _signs(chosen, console)
    for head, rows, title in ((HEAD, speed, "Probing and FAISS IVF"), (SIGNS_HEAD, signs, f"Recall@{K} by signs")):
        table = Table(*head, title=f"{title}: N = {chosen.n:,}, K = {K}")
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(_page(chosen, speed, signs), encoding="ascii")
        console.print(f"wrote {PAGE.name}")


def _unit(vectors: NDArray[Any]) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _clustered(rng: np.random.Generator, n: int, queries: int) -> tuple[Vectors, Vectors]:
    """Unit vectors in groups of 500 on average, of very different sizes; queries are drawn alike."""
    groups = max(2, n // 500)
    centres = _unit(rng.standard_normal((groups, DIMENSION), dtype=np.float32))
    owners = rng.choice(groups, n + queries, p=rng.dirichlet(np.ones(groups)))
    vectors = _unit(centres[owners] + 0.09 * rng.standard_normal((n + queries, DIMENSION), dtype=np.float32))
    return vectors[:n], vectors[n:]


def _ranges(rng: np.random.Generator, share: float, n: int, count: int) -> Ranges:
    width = round(share * n)
    starts = rng.integers(0, n - width + 1, count)
    # where all pass, filters of different text keep their number
    return [(int(low), int(low) + width - 1 + (place if share == 1 else 0)) for place, low in enumerate(starts)]


def _recall(found: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(one, ids).mean() for one, ids in zip(right, found, strict=True)]))


def _speed(chosen: argparse.Namespace, console: Console) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(chosen.seed)
    vectors, asked = _clustered(rng, chosen.n, 256 + chosen.queries)
    tuning, queries = asked[:256], asked[256:]
    values = rng.permutation(chosen.n).astype(np.int32)
    lists = round(chosen.n**0.5)
    with console.status("making lists"):
        ways: dict[str, Callable[..., NDArray[np.int64]]] = {
            "ours": Ours(vectors, values, lists),
            "FAISS": Faiss(vectors, values, lists),
        }
    ours = ways["ours"]
    assert isinstance(ours, Ours)
    rows = []
    for share in SHARES:
        efforts = {}
        (bounds,) = _ranges(rng, share, chosen.n, 1)
        right = ours.index.search(tuning, K, col("value").between(*bounds)).ids
        for name, way in ways.items():
            efforts[name] = next(
                (effort for effort in range(1, lists + 1) if _recall(way(tuning, [bounds], effort), right) >= GOAL),
                lists,
            )
        for shape in SHAPES:
            with console.status(f"{shape}, {share:.0%} passing"):
                rows.append(_raced(rng, shape, share, chosen, ways, efforts, queries, ours.index))
    return rows


def _raced(
    rng: np.random.Generator,
    shape: str,
    share: float,
    chosen: argparse.Namespace,
    ways: dict[str, Callable[..., NDArray[np.int64]]],
    efforts: dict[str, int],
    queries: Vectors,
    index: RetrievalIndex,
) -> tuple[str, ...]:
    """Every way answers every request; the first one warms up."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    recall: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(chosen.rounds + 1):
        asked = queries[rng.integers(len(queries))][None] if shape == SHAPES[0] else queries
        ranges = _ranges(rng, share, chosen.n, len(queries) if shape == SHAPES[2] else 1)
        where = [col("value").between(low, high) for low, high in ranges]
        right = index.search(asked, K, where if len(where) > 1 else where[0]).ids
        names = list(ways)
        for name in names[number % 2 :] + names[: number % 2]:
            begun, calls = time.perf_counter(), 0
            while not calls or (number and time.perf_counter() - begun < ENOUGH_S):
                found = ways[name](asked, ranges, efforts[name])
                calls += 1
            if number:
                wall[name].append((time.perf_counter() - begun) / calls)
                recall[name].append(_recall(found, right))
    ratios = np.asarray(wall["FAISS"]) / np.asarray(wall["ours"])
    asked_together = 1 if shape == SHAPES[0] else len(queries)
    return (
        shape,
        f"{share:.0%}",
        _spread(ratios),
        *(_spread(np.asarray(wall[name]) * 1e3) for name in ways),
        " / ".join(str(efforts[name]) for name in ways),
        " / ".join(f"{np.mean(recall[name]):.3f}" for name in ways),
        " / ".join(f"{asked_together / np.median(wall[name]):,.0f}" for name in ways),
    )


def _spread(values: NDArray[Any]) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f}..{values.max():.2f})"


def _signs(chosen: argparse.Namespace, console: Console) -> list[tuple[str, ...]]:
    """Recall of each kind of code on each kind of vectors."""
    rng, rows = np.random.default_rng(chosen.seed + 1), []
    kinds: dict[str, Callable[[], tuple[Vectors, Vectors]]] = {
        "random": lambda: (
            _unit(rng.standard_normal((chosen.n, DIMENSION), dtype=np.float32)),
            _unit(rng.standard_normal((256, DIMENSION))),
        ),
        "in groups": lambda: _clustered(rng, chosen.n, 256),
    }
    if chosen.glove is not None:
        kinds["GloVe, 50 numbers"] = lambda: _glove(rng, chosen.glove)
    for kind, make in kinds.items():
        vectors, queries = make()
        index = RetrievalIndex.build(vectors, np.arange(len(vectors)))
        right = index.search(queries, K).ids
        for method, bits in CODES:
            with console.status(f"{kind}: {method}, {bits} bits"):
                signs = Signs(index, method, bits=bits, seed=chosen.seed)
                found = [_recall(signs.search(queries, K, candidates=times * K).ids, right) for times in AGAIN]
            rows.append(
                (
                    f"{kind}, {len(vectors):,}",
                    method,
                    str(bits),
                    str(signs.bytes_per_item),
                    *(f"{r:.3f}" for r in found),
                )
            )
    return rows


def _glove(rng: np.random.Generator, file: Path) -> tuple[Vectors, Vectors]:
    """GloVe as unit vectors; 256 of them are the queries and no items."""
    stored = np.load(file)
    vectors = _unit(stored["codes"] * stored["scale"][:, None])
    order = rng.permutation(len(vectors))
    return vectors[order[256:]], vectors[order[:256]]


def _page(chosen: argparse.Namespace, speed: Sequence[Sequence[str]], signs: Sequence[Sequence[str]]) -> str:
    options = f"--n {chosen.n} --queries {chosen.queries} --rounds {chosen.rounds} --seed {chosen.seed}"
    options += (" --glove FILE" if chosen.glove else "") + (" --recall-only" if not speed else "") + " --write"
    lines = [
        "# Approximate search: probing beside FAISS IVF, and recall by signs",
        "",
        f"Written by `python -m benchmarks retrieval_approximate {options}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"Machine: {len(os.sched_getaffinity(0))} cores ({platform.machine()}), {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}.",
        "",
        "## Probing",
        "",
    ]
    if speed:
        lines += [
            f"{chosen.n:,} unit vectors of {DIMENSION} numbers in groups of 500 on average, the best {K}, one range "
            "over an integer column. Each way has the square root of that many lists and probes as few as reach a "
            f"recall of {GOAL} over 256 other queries. Ratios above 1: we are faster. Medians of {chosen.rounds} "
            "interleaved rounds with (least..most); lists, recall and queries per second are ours / FAISS.",
            "",
            f"| {' | '.join(HEAD)} |",
            f"|{'---|' * len(HEAD)}",
            *(f"| {' | '.join(row)} |" for row in speed),
        ]
    else:
        lines += ["Not timed in this run."]
    lines += [
        "",
        "## Signs",
        "",
        f"Recall of the best {K} without a filter, by how many rows are scored again; 256 queries. Bytes are those of "
        "a row's code; its vector is kept beside it.",
        "",
        f"| {' | '.join(SIGNS_HEAD)} |",
        f"|{'---|' * len(SIGNS_HEAD)}",
        *(f"| {' | '.join(row)} |" for row in signs),
    ]
    return "\n".join(lines) + "\n"
