"""Amortized scoring beside a history for each candidate, one masked pass, and the same amortization in plain torch.

    python -m benchmarks ranking_amortisation [--rounds 7] [--threads 1] [--seed 0] [--write]

All sides hold the same weights (width 64, two layers, two heads, SwiGLU of 128, gates, rotary positions) and answer the
same request in the same round, one after another in turning order. A request is a history and candidates, both as
vectors; the answer is one number for each candidate. One thread is timed by its own CPU time, several by the clock.

- append: every candidate as the last event of a history of its own, as many sequences at a time as are fastest here.
  Where that takes too long, a part of the candidates is timed and scaled up; n sequences cost n times one.
- masked: history and candidates as one sequence, under a mask of (L + n) x (L + n).
- torch: history once, candidates in one pass over its keys and values, in torch (`Amortised(stack, compiled=False)`).
"""

# Shapes: L events, N candidates, D width.

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from one another

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.common.amortised import Amortised, request_flops
from models.common.attention import Sight, candidates_see, events_see, rotation
from models.common.transformer import Transformer, TransformerConfig

PAGE = Path(__file__).parent.parent / "docs" / "results" / "ranking_amortisation.md"
CONFIG = TransformerConfig(width=64, heads=2, layers=2, multiplier=2)
INPUT = 32
REQUESTS = ((50, 32), (200, 128), (200, 512), (1000, 128), (1000, 512), (1000, 4096))
CHUNK_TOKENS = 4096
"""The naive way takes so many tokens at a time; more leave the inner caches (32,000 take 1.16 times as long)."""

NAIVE_TOKENS = 16_000
"""The naive way is timed on so many candidates that they make about so many tokens."""

PEAK = (1000, 4096)
ENOUGH_S = 0.02
"""A call that takes less is repeated within its round."""


class Ranker:
    """The stack between a projection and a head, scored in four ways."""

    def __init__(self, seed: int, threads: int) -> None:
        torch.manual_seed(seed)
        self.stack = Transformer(CONFIG).eval()
        with torch.no_grad():
            for name, parameter in self.stack.named_parameters():
                if parameter.ndim == 1 or "gate" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        self.project, self.head = torch.nn.Linear(INPUT, CONFIG.width), torch.nn.Linear(CONFIG.width, 1)
        self.amortised = Amortised(self.stack, threads=threads)
        self.plain = Amortised(self.stack, compiled=False)

    def ours(self, history_LI: Tensor, candidate_NI: Tensor) -> Tensor:
        """The history once, the candidates in compiled passes over it."""
        return self._amortised(self.amortised, history_LI, candidate_NI)

    def torch(self, history_LI: Tensor, candidate_NI: Tensor) -> Tensor:
        """The same in torch."""
        return self._amortised(self.plain, history_LI, candidate_NI)

    def _amortised(self, way: Amortised, history_LI: Tensor, candidate_NI: Tensor) -> Tensor:
        cache = way.encode(self.project(history_LI))
        return self._scores(way.attend(cache, self.project(candidate_NI)))

    def append(self, history_LI: Tensor, candidate_NI: Tensor) -> Tensor:
        """A history for each candidate, some at a time."""
        parts = []
        for part_NI in torch.split(candidate_NI, _chunk(len(history_LI))):
            joined = torch.cat((history_LI.expand(len(part_NI), -1, -1), part_NI.unsqueeze(1)), dim=1)
            length = torch.full((len(part_NI),), joined.shape[1])
            parts.append(self._scores(self.stack(self.project(joined), length).history[:, -1]))
        return torch.cat(parts)

    def masked(self, history_LI: Tensor, candidate_NI: Tensor) -> Tensor:
        """One sequence under one mask."""
        length, count = len(history_LI), len(candidate_NI)
        mask_TT = torch.zeros(length + count, length + count, dtype=torch.bool)
        mask_TT[:length, :length] = events_see(length)
        mask_TT[length:] = candidates_see(length, torch.full((1, count), length))[0]
        place = torch.arange(length + count).clamp_max(length)
        # with no events at all, everything stands under the candidates' mask
        sight = Sight(0, rotation(place, CONFIG.head_width), None, mask_TT.unsqueeze(0))
        token_BTD = self.project(torch.cat((history_LI, candidate_NI))).unsqueeze(0)
        for block in self.stack.blocks:
            token_BTD = block(token_BTD, sight)
        return self._scores(self.stack.norm(token_BTD)[0, length:])

    def _scores(self, hidden_ND: Tensor) -> Tensor:
        scores: Tensor = self.head(hidden_ND).squeeze(-1)
        return scores


@torch.inference_mode()
def main(options: Sequence[str] = ()) -> None:
    """Time every request, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranking_amortisation")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, 5 or more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write docs/results/ranking_amortisation.md")
    parser.add_argument("--peak", choices=("ours", "masked", "torch"), help="print the extra memory of one way, in MiB")
    chosen = parser.parse_args(options)
    if chosen.rounds < 5:
        parser.error("--rounds must be at least 5.")
    torch.set_num_threads(chosen.threads)
    ranker = Ranker(chosen.seed, chosen.threads)
    if chosen.peak:
        print(_peak(getattr(ranker, chosen.peak)))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    rows = []
    for length, count in REQUESTS:
        with console.status(f"{length} events, {count} candidates"):
            rows.append(_request(ranker, length, count, chosen.rounds, chosen.threads))
    head = (
        "L", "n", "append / ours", "of operations", "masked / ours", "torch / ours", "ours ms", "torch ms", "append ms",
        "ours = how many appended", "difference",
    )  # fmt: skip
    console.print(_table(f"CPU, {chosen.threads} thread(s)", head, rows))
    events = [_events(ranker, length, chosen.rounds, chosen.threads) for length in (200, 1000)]
    events_head = ("L", "one event / encode", "one event ms", "encode ms")
    console.print(_table("One new event", events_head, events))
    peaks = [(way, f"{_asked(way, chosen):.1f}") for way in ("ours", "torch", "masked")]
    peaks_head = ("way", "extra memory MiB")
    console.print(_table(f"{PEAK[0]} events, {PEAK[1]} candidates", peaks_head, peaks))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(_page(chosen, (head, rows), (events_head, events), (peaks_head, peaks)), encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE.name}")


def _chunk(length: int) -> int:
    return max(1, CHUNK_TOKENS // length)


def _request(ranker: Ranker, length: int, count: int, rounds: int, threads: int) -> tuple[str, ...]:
    chunk = _chunk(length)
    some = min(count, max(1, NAIVE_TOKENS // length // chunk) * chunk)
    requests = [(torch.randn(length, INPUT), torch.randn(count, INPUT)) for _ in range(rounds + 1)]
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ours": ranker.ours,
        "torch": ranker.torch,
        "masked": ranker.masked,
        "append": lambda history, candidate: ranker.append(history, candidate[:some]),
    }
    history, candidate = requests[0]
    answers = {name: way(history, candidate) for name, way in ways.items()}
    apart = max(float((answers["ours"][: len(answer)] - answer).abs().max()) for answer in answers.values())
    times = _race(ways, requests, threads)
    times["append"] = times["append"] * (count / some)
    ratio = {name: times[name] / times["ours"] for name in ways}
    # a sequence of one more event each, counted as the request is
    token = request_flops(CONFIG, 0, 1) - CONFIG.layers * 4 * CONFIG.width
    appended = (length + 1) * token + CONFIG.layers * 4 * (length + 1) ** 2 * CONFIG.width
    return (
        f"{length:,}",
        f"{count:,}",
        _spread(ratio["append"], 0),
        f"{count * appended / request_flops(CONFIG, length, count):.0f}",
        _spread(ratio["masked"], 2),
        _spread(ratio["torch"], 2),
        _spread(1e3 * times["ours"], 2),
        f"{1e3 * np.median(times['torch']):.2f}",
        f"{1e3 * np.median(times['append']):.0f}",
        f"{np.median(times['ours'] / times['append']) * count:.2f}",
        f"{apart:.1e}",
    )


def _events(ranker: Ranker, length: int, rounds: int, threads: int) -> tuple[str, ...]:
    """What twenty events, one after another, take of what the whole history takes."""
    history, event = ranker.project(torch.randn(length, INPUT)), ranker.project(torch.randn(20, INPUT))
    whole, each = [], []
    for _ in range(rounds + 1):
        begun = _clock(threads)
        cache = ranker.amortised.encode(history)
        encoded = _clock(threads)
        for number in range(20):
            cache = ranker.amortised.extend(cache, event[number : number + 1])
        each.append((_clock(threads) - encoded) / 20)
        whole.append(encoded - begun)
    share = 100 * np.asarray(each[1:]) / np.asarray(whole[1:])
    middle = (f"{1e3 * np.median(values[1:]):.3f}" for values in (each, whole))
    return (f"{length:,}", f"{_spread(share, 2)} %", *middle)


def _race(
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]], requests: Sequence[tuple[Tensor, Tensor]], threads: int
) -> dict[str, np.ndarray]:
    """Seconds of every way for every request but the first, which warms up and decides how often a call is repeated."""
    names, repeats = list(ways), {}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        way(*requests[0])
        begun = _clock(threads)
        way(*requests[0])
        repeats[name] = max(1, round(ENOUGH_S / max(1e-6, _clock(threads) - begun)))
    for number, request in enumerate(requests[1:]):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            begun = _clock(threads)
            for _ in range(repeats[name]):
                ways[name](*request)
            taken[name].append((_clock(threads) - begun) / repeats[name])
    return {name: np.asarray(values) for name, values in taken.items()}


def _clock(threads: int) -> float:
    return time.thread_time() if threads == 1 else time.perf_counter()


def _peak(way: Callable[[Tensor, Tensor], Tensor]) -> float:
    """MiB by which a large request raises the greatest memory of this process, after a small one."""
    history, candidate = torch.randn(PEAK[0], INPUT), torch.randn(PEAK[1], INPUT)
    way(history[:20], candidate[:20])
    Path("/proc/self/clear_refs").write_text("5")  # the greatest so far becomes what there is now
    before = _greatest()
    way(history, candidate)
    return (_greatest() - before) / 1024


def _greatest() -> int:
    """The greatest memory of this process so far, in KiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def _asked(way: str, chosen: argparse.Namespace) -> float:
    """The same of a process of its own: the greatest memory never falls."""
    options = ["--peak", way, "--threads", str(chosen.threads), "--seed", str(chosen.seed)]
    command = [sys.executable, "-m", "benchmarks", "ranking_amortisation", *options]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _spread(values: np.ndarray, digits: int) -> str:
    low, middle, high = (float(f(values)) for f in (np.min, np.median, np.max))
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    return table


def _page(chosen: argparse.Namespace, *tables: tuple[Sequence[str], Sequence[Sequence[str]]]) -> str:
    options = f"--rounds {chosen.rounds} --threads {chosen.threads} --seed {chosen.seed} --write"
    command = f"python -m benchmarks ranking_amortisation {options}"
    clock = "CPU time of the thread" if chosen.threads == 1 else "wall time"
    requests, events, peaks = (
        [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
        for head, rows in tables
    )
    lines = [
        "# Amortized scoring of candidates over a member's history",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"Width {CONFIG.width}, {CONFIG.layers} layers, {CONFIG.heads} heads, SwiGLU of {CONFIG.inner_width}, gates, "
        f"rotary positions, float32, random weights. L events, n candidates; a request is a history and candidates as "
        f"vectors of {INPUT}, the answer one number for each candidate, projection and head included. {clock}, "
        f"{chosen.threads} thread(s); medians of {chosen.rounds} interleaved rounds with (least..most). Ratios above "
        "1: ours is faster.",
        "",
        f"Machine: {len(os.sched_getaffinity(0))} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}.",
        "",
        "Append gives every candidate a history of its own, and is timed on a part of them where that takes long. "
        "Masked is one sequence of history and candidates under a square mask. Torch is the amortized way in torch. "
        "The column of operations is the ratio of multiplications that append and ours need, attention counted as if "
        "it were not causal; ours computes half of the history's attention, so the ratio of times may be larger. "
        "Difference is the largest one between our scores and any other way's.",
        "",
        *requests,
        "",
        "A new event, twenty after one another, against encoding the whole history:",
        "",
        *events,
        "",
        f"Memory beyond a small request's: {PEAK[0]:,} events, {PEAK[1]:,} candidates, each in a process of its own:",
        "",
        *peaks,
    ]
    return "\n".join(lines) + "\n"
