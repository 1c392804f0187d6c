"""A whole request for clicks: counting features, history, cross layers, for many candidates of one user.

python -m benchmarks history_request [--write]

Four ways to the same answer, with the same features and the same weights but for concat's own encoder:

    kept      the user's history is there from a request before; its candidates in one pass
    ours      the history is computed, its candidates in one pass; what all candidates share is computed once
    append    each candidate after a history of its own (the network as it is trained), some at a time
    concat    each candidate joined to every event of a history of its own, some at a time

Each round asks all ways, in turns, for a user that no round before has asked for. CPU time of the thread; ratios of
the same round, median with (least..most). `difference` is the largest one between the chances of ours or kept and those
of append.
"""

# Shapes: L events, N candidates, F features, T tasks.

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
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

from models.common.transformer import TransformerConfig
from models.feed.events.catalogue import catalogue_of, gaps
from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.histories import Histories
from models.feed.events.table import Events
from models.feed.history.inputs import OF_CANDIDATE, Past, Standard
from models.feed.history.network import DLRM, Batch, NetworkConfig
from models.feed.history.score import HistoryCache, Scorer

Floats = NDArray[np.float64]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "history_request.md"
REQUESTS = ((100, 64), (200, 256))
BARS = {(100, 64): 30, (200, 256): 80}
"""Per cent of the time of append without a cache, and of concat, that must be saved."""
ITEMS, CATEGORIES, USERS = 5000, 20, 64
CHUNK_TOKENS = 4096
"""Append and concat take so many events at a time; more leave the inner caches."""
CONFIG = NetworkConfig(
    transformer=TransformerConfig(width=64, heads=2, layers=2, multiplier=2),
    item_width=32,
    history=200,
    stride=50,
    last=10,
    cross=3,
    hidden=256,
    depth=2,
)
ORDERS = (
    ("ours", "kept", "append", "concat"),
    ("append", "ours", "concat", "kept"),
    ("concat", "append", "ours", "kept"),
)
"""In turns; ours must come before kept, which finds what it left."""


class World:
    """A log in which every user has the same number of events, and networks with drawn weights.

    Args:
        length: events of each user, L.
        seed: of everything.
    """

    def __init__(self, length: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        user = draw.permutation(np.repeat(np.arange(USERS), length))
        size = len(user)
        self.events = Events(
            user=user.astype(np.int32),
            item=draw.integers(0, ITEMS, size).astype(np.int32),
            time=np.sort(1_600_000_000 + draw.integers(0, 60 * 86_400, size)),
            session=np.arange(size),
            position=np.zeros(size, np.int16),
            actions=draw.integers(0, 2, (size, 2)).astype(np.float32),
            tasks=("click", "like"),
            user_ids=pa.array(np.arange(USERS)),
            item_ids=pa.array(np.arange(ITEMS)),
            item_attributes=pa.table({"category": pa.array([f"c{code % CATEGORIES:02}" for code in range(ITEMS)])}),
        )
        self.order = Histories(self.events)
        self.gap = gaps(self.events, self.order)
        self.counts = PastCounts(self.events, "category")
        self.catalogue, names = catalogue_of(self.events, "category")
        self.moment = int(self.events.time[-1]) + 60
        standard = Standard.of(self.counts.of_events(np.arange(0, size, 7)))
        self.networks = {form: self._network(form, len(names), standard, seed) for form in ("append", "concat")}
        self.scorer = Scorer(self.networks["append"], self.catalogue, threads=1)

    def _network(self, form: Any, categories: int, standard: Standard, seed: int) -> DLRM:
        torch.manual_seed(seed)
        config = NetworkConfig(**{**CONFIG.__dict__, "form": form})
        network = DLRM(users=USERS, items=ITEMS, categories=categories, tasks=2, config=config).eval()
        with torch.no_grad():
            for table in (network.items, network.users):
                table.weight.normal_(std=0.2)
        network.keep(standard)
        return network

    def past(self, user: int) -> Past:
        """All that a user did."""
        rows = self.order.rows[self.order.start[user] : self.order.start[user + 1]]
        return Past(self.events.item[rows].astype(np.int64), self.events.actions[rows], self.gap[rows])

    def features(self, user: int, item_N: NDArray[np.int64]) -> Floats:
        """Counting features of a request, as all ways compute them."""
        return self.counts.at(np.full(len(item_N), user), item_N, np.full(len(item_N), self.moment))

    def ours(self, user: int, item_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """The amortized request; whether the history is there depends on who asked before."""
        return self.scorer.score(user, self.past(user), item_N, self.features(user, item_N))

    def each(self, form: str, user: int, item_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """A history for each candidate."""
        network, past = self.networks[form], self.past(user)
        feature = torch.from_numpy(network.standard(self.features(user, item_N).astype(np.float32)))
        item = torch.from_numpy(item_N)
        event_item, event_action, event_gap = (torch.from_numpy(part) for part in (past.item, past.action, past.gap))
        parts = []
        for some in torch.split(torch.arange(len(item)), max(1, CHUNK_TOKENS // past.length)):
            size = len(some)
            batch = Batch(
                event_item=event_item.expand(size, -1),
                event_action=event_action.expand(size, -1, -1),
                event_gap=event_gap.expand(size, -1),
                length=torch.full((size,), past.length),
                user=torch.full((size,), user),
                item=item[some, None],
                feature=feature[some, None],
                label=torch.zeros(size, 1, 2),
                weight=torch.ones(size, 1),
                catalogue=self.catalogue,
            )
            parts.append(network(batch)[:, 0])
        return np.asarray(torch.cat(parts).numpy())

    def forget(self) -> None:
        """Keep no history."""
        self.scorer.histories = HistoryCache(self.scorer.histories.size)


@torch.inference_mode()
def main(options: Sequence[str] = ()) -> None:
    """Time every request, print the table, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks history_request")
    parser.add_argument("--rounds", type=int, default=9, help="rounds, 5 to 32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write docs/results/history_request.md")
    chosen = parser.parse_args(options)
    if not 5 <= chosen.rounds <= USERS // 2:
        parser.error(f"--rounds must be from 5 to {USERS // 2}.")
    torch.set_num_threads(1)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    rows = [_row(World(length, chosen.seed), length, count, chosen.rounds) for length, count in REQUESTS]
    parts = [_parts(World(length, chosen.seed), length, count, chosen.rounds) for length, count in REQUESTS]
    head = ("L", "n", "append / ours", "concat / ours", "append / kept", "time saved of append", "of concat",
            "to be saved", "ours ms", "kept ms", "append ms", "concat ms", "difference")  # fmt: skip
    parts_head = ("L", "n", "features ms", "history ms", "candidates ms", "cross layers, first split ms", "whole ms")
    console.print(_table("Whole request, CPU time of one thread", head, rows))
    console.print(_table("Its parts", parts_head, parts))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(_page(chosen, (head, rows), (parts_head, parts)), encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def _row(world: World, length: int, count: int, rounds: int) -> tuple[str, ...]:
    draw = np.random.default_rng(1)
    ways: dict[str, Callable[[int, NDArray[np.int64]], NDArray[np.float32]]] = {
        "ours": world.ours,
        "kept": world.ours,
        "append": lambda user, item: world.each("append", user, item),
        "concat": lambda user, item: world.each("concat", user, item),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    worst = 0.0
    for number in range(rounds + 1):
        item = draw.choice(ITEMS, count, replace=False).astype(np.int64)
        world.forget()
        said = {}
        for name in ORDERS[number % len(ORDERS)]:
            begun = time.thread_time()
            said[name] = ways[name](number, item)
            taken[name].append(time.thread_time() - begun)
        counts = world.scorer.histories.counts
        if (counts.misses, counts.hits) != (1, 1):
            raise RuntimeError(f"ours must find no history and kept must find one, got {counts}.")
        worst = max(worst, *(float(np.abs(_chance(said[a]) - _chance(said["append"])).max()) for a in ("ours", "kept")))
    times = {name: np.asarray(values[1:]) for name, values in taken.items()}
    saved = {name: 100 * (1 - times["ours"] / times[name]) for name in ("append", "concat")}
    bar = BARS[length, count]
    return (
        str(length),
        str(count),
        _spread(times["append"] / times["ours"], 1),
        _spread(times["concat"] / times["ours"], 1),
        _spread(times["append"] / times["kept"], 1),
        *(f"{_spread(saved[name], 1)} %" for name in ("append", "concat")),
        f"{bar} %: {'met' if min(map(np.median, saved.values())) >= bar else 'MISSED'}",
        *(f"{1e3 * np.median(times[name]):.2f}" for name in ("ours", "kept", "append", "concat")),
        f"{worst:.1e}",
    )


def _parts(world: World, length: int, count: int, rounds: int) -> tuple[str, ...]:
    """Where the time of an amortized request goes; the parts are timed one after another for the same user."""
    draw, scorer = np.random.default_rng(2), world.scorer
    amortised, network = scorer._amortised, scorer.network  # a look inside is the point
    assert amortised is not None  # for the type checker
    shared = torch.randn(network.head.split)
    own = torch.randn(count, CONFIG.item_width * 2 + len(OF_CANDIDATE) + CONFIG.transformer.width)
    taken = np.zeros((rounds + 1, 5))
    for number in range(rounds + 1):
        item = draw.choice(ITEMS, count, replace=False).astype(np.int64)
        world.forget()
        marks = [time.thread_time()]
        world.features(number, item)
        marks.append(time.thread_time())
        kept = scorer._history(amortised, number, world.past(number))
        marks.append(time.thread_time())
        amortised.attend(kept.cache, scorer._candidates[torch.from_numpy(item)])
        marks.append(time.thread_time())
        network.head.candidates(network.head.shared(shared), own)
        marks.append(time.thread_time())
        world.forget()
        begun = time.thread_time()
        world.ours(number, item)
        taken[number] = [*np.diff(marks), time.thread_time() - begun]
    return (str(length), str(count), *(_spread(1e3 * column, 2) for column in taken[1:].T))


def _chance(logit: NDArray[np.float32]) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logit.astype(np.float64))))


def _spread(values: NDArray[Any], digits: int) -> str:
    low, middle, high = (float(f(values)) for f in (np.min, np.median, np.max))
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    return table


def _page(chosen: argparse.Namespace, *tables: tuple[Sequence[str], Sequence[Sequence[str]]]) -> str:
    whole, parts = (
        [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
        for head, rows in tables
    )
    block = CONFIG.transformer
    lines = [
        "# A whole request of the click model, amortized and not",
        "",
        f"Written by `python -m benchmarks history_request --rounds {chosen.rounds} --seed {chosen.seed} --write` on "
        f"{datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"A request: {len(FEATURES)} counting features for each candidate, {block.layers} layers of the transformer "
        f"(width {block.width}, {block.heads} heads, SwiGLU of {block.inner_width}, gates, rotary positions) over L "
        f"events, last {CONFIG.last} outputs and their maximum, {CONFIG.cross} full cross layers, {CONFIG.depth} "
        f"hidden layers of {CONFIG.hidden}, two tasks; n candidates; float32, random weights. CPU time of the thread, "
        f"medians of {chosen.rounds} interleaved rounds with (least..most), each round another user. Ratios above 1: "
        "ours is faster.",
        "",
        f"Machine: {len(os.sched_getaffinity(0))} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}.",
        "",
        "Ours computes the history once and its candidates in one pass; kept finds the history of a request before. "
        "Append and concat compute a history for each candidate, in torch, in portions of the inner caches' size. "
        "All four compute the same features. Difference is the largest one between the chances of ours or kept and "
        "those of append.",
        "",
        *whole,
        "",
        "Parts of an amortized request:",
        "",
        *parts,
    ]
    return "\n".join(lines) + "\n"
