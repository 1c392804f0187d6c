"""Filtered search on a card, in the shapes of LiNR and over a billion items, beside masking in plain torch.

    python -m benchmarks retrieval_gpu [--n 15500000] [--large 1000000000] [--rounds 50] [--seed 0] [--write]

The first shape is that of LiNR's measurement (section 5.2): two clauses, one of them reverse, 11 % pass; then a further
clause that leaves thousands. Answers are exact over float32 vectors. The second is rows of 64 bytes with 8 bytes of
attributes, made on the card, which have no vectors: answers are exact over what the bytes stand for. Signs choose rows
among the same; recall is against the exact answer.

Times are of whole calls, with CUDA events, after warming up. Native torch scores all rows in half precision, masks and
selects. The share of the bandwidth compares the bytes that a call has to read with a copy on the same card. On a CPU,
with `--device cpu` and TRITON_INTERPRET=1, nothing but the script itself is tested; take small sizes.
"""

# Shapes: N rows, D dimension, B queries, K results per query.

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.feed.retrieval.gpu import Best, Clause, Engine, Passing, Signs
from models.feed.retrieval.scan import exact_scores

PAGE = Path(__file__).parent.parent / "docs" / "results" / "retrieval_gpu.md"
GEOS, COMPANIES, TITLES = 9, 1000, 500
"""Values of the clauses: one in nine rows has a geo, and thousands of fifteen million a geo and a title."""
WARM = 3
PIECE = 2**22
"""Rows made, or scored for the check, at once."""
LINR, BILLION = 128 * (4 + 1 + 2) + 4 + 12, 64 + 4 + 8 + 8
"""Bytes of a row: vector, codes and halves, scale, clauses; codes, scale, attributes, signs."""
ASIDE = 8 * 10**9
"""Bytes for all that comes and goes."""
HEAD = (
    "request",
    "K",
    "passing",
    "ours ms",
    "p95",
    "bandwidth",
    "torch ms",
    "torch / ours",
    "answer",
    "LiNR, A100, ms",
)


@dataclass(frozen=True)
class Request:
    """One kind of call.

    Attributes:
        name: what is asked.
        k: results per query.
        read: bytes that it has to read.
        ours: answers.
        plain: the same in plain torch, if it fits.
        right: how good an answer is.
        published: what LiNR reports.
    """

    name: str
    k: int
    read: float
    ours: Callable[[], Best]
    plain: Callable[[], Tensor] | None
    right: Callable[[Best], str]
    published: str = "-"


def refusal(device: str = "cuda") -> str | None:
    """Why this machine cannot run it; None if it can."""
    if device == "cuda" and not torch.cuda.is_available():
        return "retrieval_gpu needs a CUDA device, and torch sees none; where there is one: make setup TORCH=cu130."
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "retrieval_gpu on a CPU needs TRITON_INTERPRET=1, and measures nothing there."
    return None


def main(options: Sequence[str] = ()) -> None:
    """Time every kind of request, print the table, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks retrieval_gpu")
    parser.add_argument("--n", type=int, default=15_500_000, help="rows of 128 numbers; 0 for none")
    parser.add_argument("--large", type=int, default=1_000_000_000, help="rows of 64 bytes; 0 for none")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--write", action="store_true", help="write docs/results/retrieval_gpu.md")
    chosen = parser.parse_args(options)
    if (why := refusal(chosen.device)) is not None:
        raise SystemExit(why)
    if chosen.rounds < 1 or min(chosen.n, chosen.large) < 0:
        parser.error("--rounds must be at least 1, --n and --large not negative.")
    card = Card(torch.device(chosen.device), chosen.seed)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(*HEAD, title=f"{card.name}, {card.bandwidth / 1e12:.2f} TB/s measured by a copy")
    rows = []
    shapes = (linr, chosen.n, LINR, "--n"), (billion, chosen.large, BILLION, "--large")
    for shape, size, bytes_of_one, option in shapes:
        fits = card.room() // bytes_of_one
        if size > fits:
            console.print(f"{option} {size} does not fit the card and is left out; {option} {fits} would fit.")
        elif size:
            with console.status(option):
                rows += [_row(card, request, chosen.rounds) for request in shape(card, size)]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(_page(chosen, card, rows), encoding="ascii")
        console.print(f"wrote docs/results/{PAGE.name}")


class Card:
    """The device, and how to time on it."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.random = torch.Generator(device).manual_seed(seed)
        self.real = device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if self.real else "CPU, interpreted"
        source = torch.zeros(2**30 if self.real else 2**20, dtype=torch.uint8, device=device)
        goal = torch.empty_like(source)
        times = [self.milliseconds(lambda: goal.copy_(source)) for _ in range(10)]
        self.bandwidth = 2 * len(source) / (float(np.median(times)) / 1e3)

    def milliseconds(self, call: Callable[[], Any]) -> float:
        """How long a call takes, until its last kernel has ended."""
        if not self.real:
            begun = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - begun)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()  # type: ignore[no-untyped-call]
        call()
        end.record()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))  # type: ignore[no-untyped-call]

    def room(self) -> int:
        """Bytes that rows may take."""
        if not self.real:
            return 2**30
        torch.cuda.empty_cache()  # of what is not held any more
        return max(0, torch.cuda.mem_get_info(self.device)[0] - ASIDE)

    def unit(self, rows: int, dimension: int) -> Tensor:
        """Random vectors of length one."""
        vectors = torch.empty((rows, dimension), device=self.device)
        for start in range(0, rows, PIECE):
            part = vectors[start : start + PIECE].normal_(generator=self.random)
            part /= torch.linalg.vector_norm(part, dim=1, keepdim=True)
        return vectors

    def values(self, rows: int, count: int) -> Tensor:
        """A column of integers below a number."""
        return torch.randint(0, count, (rows,), generator=self.random, device=self.device, dtype=torch.int32)


def linr(card: Card, n: int) -> list[Request]:
    """LiNR's shape: 128 numbers, the best 2,000."""
    k = 2000
    vectors, geo, company, title = card.unit(n, 128), *(card.values(n, some) for some in (GEOS, COMPANIES, TITLES))
    engine, half = Engine(128, card.device), vectors.half()
    engine.append(vectors, 0)
    requests = []
    for narrow, batch, published in (
        (False, 1, "4.8"), (False, 16, "22.8"), (True, 1, "1.9"), (True, 16, "14.2 (TensorFlow)"),
    ):  # fmt: skip
        queries = card.unit(batch, 128)
        selections = [
            Passing(
                (Clause(geo, b % GEOS, b % GEOS), Clause(company, b, b, outside=True))
                + ((Clause(title, b, b),) if narrow else ())
            )
            for b in range(batch)
        ]
        share = min(1.0, min(batch, GEOS) / GEOS if not narrow else batch / GEOS / TITLES)
        touched = 1 - (1 - share) ** 128  # of the blocks
        requests.append(
            Request(
                f"{n:,} x 128, {'narrow filter' if narrow else 'two clauses'}, batch {batch}",
                k,
                n * ((12 if narrow else 8) + touched * 132),
                lambda queries=queries, selections=selections: engine.search(queries, k, selections, vectors),
                lambda queries=queries, selections=selections: _plain(queries, k, selections, half),
                lambda best, queries=queries, selections=selections: _exactness(
                    best, queries, selections, lambda start, end: vectors[start:end]
                ),
                published,
            )
        )
    return requests


def billion(card: Card, n: int) -> list[Request]:
    """Rows of 64 bytes alone: exact over the bytes, and approximate by signs first."""
    codes = torch.empty((n, 64), dtype=torch.int8, device=card.device)
    scales = torch.empty(n, device=card.device)
    signs = Signs(64, card.device)
    for start in range(0, n, PIECE):
        part = card.unit(min(PIECE, n - start), 64)
        largest = part.abs().amax(1, keepdim=True) / 127
        codes[start : start + PIECE] = (part / largest).round().to(torch.int8)
        scales[start : start + PIECE] = largest[:, 0]
        signs.reserve(n)
        signs.append(part)
    engine = Engine.of_codes(codes, scales)
    first, second = card.values(n, 1000), card.values(n, 1000)

    def exactness(best: Best, queries: Tensor, selections: Sequence[Passing]) -> str:
        decoded = lambda start, end: engine.decoded(torch.arange(start, end, device=card.device))  # noqa: E731
        return _exactness(best, queries[:1], selections[:1], decoded)

    requests = []
    for batch in (1, 64):
        queries = card.unit(batch, 64)
        selections = [
            Passing((Clause(first, 3 * b, 3 * b + 700), Clause(second, b, b, outside=True))) for b in range(batch)
        ]
        if batch == 1:
            selections = [Passing()]
        requests.append(
            Request(
                f"{n:,} x 64 bytes, " + ("all pass, one query" if batch == 1 else "64 queries with 64 filters"),
                1000,
                n * (68 + (8 if batch > 1 else 0)),
                lambda queries=queries, selections=selections: engine.search(queries, 1000, selections),
                None,
                lambda best, queries=queries, selections=selections: exactness(best, queries, selections),
            )
        )
    query = card.unit(1, 64)
    for share in (0.001, 0.01, 0.03):
        keep = max(100, round(share * n))
        requests.append(
            Request(
                f"{n:,} x 64 signs, then the bytes of {share:.1%}",
                100,
                n * 8 + keep * 68,
                lambda keep=keep: signs.search(query, 100, [Passing()], engine.decoded, keep=keep),
                None,
                lambda best: f"recall {_recall(best, engine.search(query, 100, [Passing()])):.3f}",
                "97.6 (p95)",
            )
        )
    return requests


def _plain(queries: Tensor, k: int, selections: Sequence[Passing], vectors: Tensor) -> Tensor:
    """Torch over the whole matrix: score all rows, mask, select; a passing row's score may be negative."""
    masks = torch.stack([_mask(selection) for selection in selections])
    scores = queries.to(vectors.dtype) @ vectors.T
    return scores.masked_fill_(~masks, -torch.inf).topk(min(k, len(vectors)), dim=1).indices


def _mask(selection: Passing) -> Tensor:
    parts = [((c.values >= c.low) & (c.values <= c.high)) != c.outside for c in selection.clauses]
    return torch.stack(parts).all(0)


def _exactness(best: Best, queries: Tensor, selections: Sequence[Passing], rows: Callable[[int, int], Tensor]) -> str:
    """Compare with every passing row scored in float64."""
    for number, (query, selection) in enumerate(zip(queries, selections, strict=True)):
        k = best.scores.shape[1]
        scores, names = best.scores.new_zeros(0), best.rows.new_zeros(0)
        mask = _mask(selection) if selection.clauses else None
        total = len(mask) if mask is not None else int(best.passed[number])
        for start in range(0, total, PIECE // 4):
            end = min(total, start + PIECE // 4)
            part = exact_scores(rows(start, end), query)
            where = torch.arange(start, end, device=query.device)
            if mask is not None:
                part, where = part[mask[start:end]], where[mask[start:end]]
            scores, names = torch.cat([scores, part]), torch.cat([names, where])
            order = scores.sort(descending=True, stable=True).indices[:k]  # names rise, so ties stay in order
            scores, names = scores[order], names[order]
        held = best.rows[number] >= 0
        if not torch.equal(best.scores[number][held], scores) or not torch.equal(best.rows[number][held], names):
            return "WRONG"
    return "exact"


def _recall(found: Best, right: Best) -> float:
    return float(torch.isin(right.rows, found.rows).double().mean())


def _row(card: Card, request: Request, rounds: int) -> tuple[str, ...]:
    for _ in range(WARM if card.real else 0):
        request.ours()
    best = request.ours()
    times = [card.milliseconds(request.ours) for _ in range(rounds)]
    plain = None
    if request.plain is not None:
        for _ in range(WARM):
            request.plain()
        plain = float(np.median([card.milliseconds(request.plain) for _ in range(rounds)]))
    median = float(np.median(times))
    return (
        request.name,
        str(request.k),
        f"{float(best.passed.double().mean()):,.0f}",
        f"{median:.2f}",
        f"{float(np.percentile(times, 95)):.2f}",
        f"{request.read / (median / 1e3) / card.bandwidth:.0%}",
        "-" if plain is None else f"{plain:.2f}",
        "-" if plain is None else f"{plain / median:.1f}",
        request.right(best),
        request.published,
    )


def _page(chosen: argparse.Namespace, card: Card, rows: Sequence[Sequence[str]]) -> str:
    options = f"--n {chosen.n} --large {chosen.large} --rounds {chosen.rounds} --seed {chosen.seed} --write"
    lines = [
        "# Filtered search on a card",
        "",
        f"Written by `python -m benchmarks retrieval_gpu {options}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"{card.name}, {card.bandwidth / 1e12:.2f} TB/s measured by a copy, torch {torch.__version__}. Medians and "
        f"95th percentiles of {chosen.rounds} calls. Bandwidth: the bytes that a call has to read, by its time, as a "
        "share of the copy's. Torch scores all rows in half precision, masks and selects. Answers are compared with "
        "every passing row scored in float64 (of 64 queries the first); recall of signs is against the exact answer. "
        "LiNR's times are of other data on another card, and show scale.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"
