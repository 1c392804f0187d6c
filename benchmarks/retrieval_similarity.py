"""Learned similarities beside a tuned inner product, on hit rate@50 of held-out choices.

    python -m benchmarks retrieval_similarity [--worlds several one movielens] [--kinds "mixture, frozen clusters"]
        [--seeds 5] [--users 800] [--write]

Every kind gets the same grid of learning rate and temperature, the same epochs, batches and candidates. Its place in
the grid is chosen by the validation hit rate on a world of its own (seed 100; MovieLens: a training seed of its own),
the epoch by that of each run; the test items are read once, by the chosen settings. Generator and training seeds vary
together; for MovieLens the training seed alone.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from rich.console import Console

from models.common.contracts import Payload, TrainingConfig
from models.common.fit import fit
from models.feed.retrieval.config import (
    DataConfig,
    EncoderConfig,
    GeneratorConfig,
    SimilarityConfig,
    TowerConfig,
    item_vectors,
    query_vectors,
)
from models.feed.retrieval.generator import utility
from models.feed.retrieval.metrics import Compare, Seen, hit_rate, inner_product, paired_interval, rank_by
from models.feed.retrieval.mixture import compare_by

Floats = NDArray[np.float64]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "retrieval_similarity.md"
DIMENSION = 32
GRID = tuple(product((1.5e-3, 3e-3), (0.15, 0.3)))
"""Learning rates and temperatures."""
TUNED_ON = 100
"""Seed of the world on which each kind chooses its place in the grid."""
ITEMS = 500
EPOCHS = 8
MIXTURE = SimilarityConfig(kind="mixture", clusters=30, gate=16, tower_epochs=3)
KINDS: Mapping[str, tuple[SimilarityConfig, int]] = {
    "dot product": (SimilarityConfig(), DIMENSION),
    "dot product as wide as all components": (SimilarityConfig(), 3 * DIMENSION),
    "Hadamard network": (SimilarityConfig(kind="hadamard"), DIMENSION),
    "mixture, no clusters": (replace(MIXTURE, clusters=0), DIMENSION),
    "mixture, frozen clusters": (MIXTURE, DIMENSION),
    "mixture, trained clusters": (replace(MIXTURE, frozen=False), DIMENSION),
}
"""Similarity and width of the towers; the components of an item have 96 numbers together."""
OURS, BASELINES = "mixture, frozen clusters", ("dot product", "dot product as wide as all components")
WORLDS = {
    "several": "three interests of each member",
    "one": "one interest of each member",
    "movielens": "MovieLens ml-latest-small",
}


@dataclass(frozen=True)
class Result:
    """What one training came to: validation hit rate, zeros and ones of the test members, seconds of CPU."""

    validation: float
    hits: Floats
    seconds: float


def main(options: Sequence[str] = ()) -> None:
    """Tune and train every kind on every world, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks retrieval_similarity")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=["several", "one"])
    others = [kind for kind in KINDS if kind not in BASELINES]
    parser.add_argument("--kinds", nargs="+", choices=others, default=others, help="beside both inner products")
    parser.add_argument("--seeds", type=int, default=5, help="worlds that the chosen settings are tested on")
    parser.add_argument("--users", type=int, default=800, help="members of a generated world")
    parser.add_argument("--write", action="store_true", help="write docs/results/retrieval_similarity.md")
    args = parser.parse_args(options)
    console, lines = Console(), []
    for world in args.worlds:
        lines += _compared(world, [*BASELINES, *args.kinds], args.seeds, args.users, console)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    if args.write:
        kinds = "" if args.kinds == others else " --kinds " + " ".join(f'"{kind}"' for kind in args.kinds)
        command = f"--worlds {' '.join(args.worlds)}{kinds} --seeds {args.seeds} --users {args.users} --write"
        PAGE.write_text("\n".join([*_head(command), *lines]) + "\n")


def _compared(world: str, kinds: Sequence[str], seeds: int, users: int, console: Console) -> list[str]:
    """Tables of one world."""
    tuning = _data(world, TUNED_ON, users)
    chosen, found, oracle = {}, {kind: list[Result]() for kind in kinds}, []
    for kind in kinds:
        tried = {place: _trained(kind, place, TUNED_ON, tuning, test=False) for place in GRID}
        chosen[kind] = max(tried, key=lambda place: tried[place].validation)
        console.print(f"{world}: {kind}: " + ", ".join(f"{p} {r.validation:.4f}" for p, r in tried.items()))
    for seed in range(seeds):
        data = _data(world, seed, users)
        if "true_users" in data:
            oracle.append(_hits(data, data["true_users"][_users(data)], data["true_items"], utility).mean())
        for kind in kinds:
            found[kind].append(_trained(kind, chosen[kind], seed, data, test=True))
            console.print(f"{world} {seed}: {kind}: {found[kind][-1].hits.mean():.4f}")
    return [f"## {WORLDS[world].capitalize()}", "", *_table(found, chosen, oracle), "", *_gains(found), ""]


def _data(world: str, seed: int, users: int) -> Payload:
    if world == "movielens":
        from infra.catalogue import locate

        config = DataConfig(source="movielens")
        return config.prepare({name: locate(place) for name, place in config.sources().items()})
    taste = {"several": {"interests": 3, "sharpness": 4.0}, "one": {}}[world]
    return DataConfig(generator=GeneratorConfig(users=users, items=ITEMS, seed=seed, **taste)).prepare({})


def _trained(kind: str, place: tuple[float, float], seed: int, data: Payload, *, test: bool) -> Result:
    similarity, dimension = KINDS[kind]
    rate, temperature = place
    config = EncoderConfig(
        tower=TowerConfig(dimension=dimension, temperature=temperature, uniform_negatives=64),
        similarity=similarity,
        training=TrainingConfig(epochs=EPOCHS, batch_size=256, learning_rate=rate, seed=seed),
    )
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        fit(config, data, Path(folder), lightning_arguments={"accelerator": "cpu", "devices": 1})
        network = config.network(config.sizes(data))
        network.load_state_dict(safetensors.torch.load_file(Path(folder) / "weights.safetensors"))
    network.eval()
    seconds = time.process_time() - begun
    hits = np.zeros(0)
    if test:
        hits = _hits(data, query_vectors(data, network), item_vectors(data, network), compare_by(network))
    return Result(config.validate(network, data)["hit_rate_at_50"], hits, seconds)


def _users(data: Payload) -> NDArray[np.int64]:
    return np.asarray(data["test"]["user"].to_numpy(), np.int64)


def _hits(
    data: Payload, left: NDArray[np.float32], right: NDArray[np.float32], compare: Compare = inner_product
) -> Floats:
    seen = Seen([data["train"], data["validation"]], data["users"].num_rows)
    relevant = np.asarray(data["test"]["item"].to_numpy(), np.int64)[:, None]
    return hit_rate(rank_by(left, right, _users(data), seen, 50, compare), relevant, 50)


def _table(found: Mapping[str, list[Result]], chosen: Mapping[str, tuple[float, float]], oracle: list[float]) -> list:
    lines = [
        "| similarity | learning rate, temperature | HR@50, mean +- sd over seeds | by seed | CPU s of a training |",
        "|---|---|---|---|---|",
    ]
    for kind, results in found.items():
        rates = [result.hits.mean() for result in results]
        spread = np.std(rates, ddof=1) if len(rates) > 1 else 0.0
        lines.append(
            f"| {kind} | {chosen[kind][0]:g}, {chosen[kind][1]:g} | {np.mean(rates):.4f} +- {spread:.4f} | "
            f"{', '.join(f'{rate:.3f}' for rate in rates)} | {np.mean([result.seconds for result in results]):.0f} |"
        )
    if oracle:
        lines.append(f"| oracle | | {np.mean(oracle):.4f} | {', '.join(f'{rate:.3f}' for rate in oracle)} | |")
    return lines


def _gains(found: Mapping[str, list[Result]]) -> list[str]:
    """Paired gains: of every other kind over the inner product, of frozen over trained clusters."""
    pairs = [(kind, base) for base in BASELINES for kind in found if kind not in BASELINES]
    pairs += [(OURS, kind) for kind in found if OURS in found and kind == "mixture, trained clusters"]
    lines = [
        "| | against | gain in HR@50 | relative | 95 % interval, all members | intervals by seed |",
        "|---|---|---|---|---|---|",
    ]
    for kind, base in pairs:
        ours, theirs = ([result.hits for result in found[name]] for name in (kind, base))
        low, high = paired_interval(np.concatenate(ours), np.concatenate(theirs), seed=0)
        each = [paired_interval(one, other, seed=0) for one, other in zip(ours, theirs, strict=True)]
        gain, rate = float(np.mean(np.concatenate(ours) - np.concatenate(theirs))), np.concatenate(theirs).mean()
        lines.append(
            f"| {kind} | {base} | {gain:+.4f} | {100 * gain / rate:+.1f} % | {low:+.4f} to {high:+.4f} | "
            f"{', '.join(f'{a:+.3f} to {b:+.3f}' for a, b in each)} |"
        )
    return lines


def _head(command: str) -> list[str]:
    return [
        "# Learned similarities beside an inner product",
        "",
        f"Written by `python -m benchmarks retrieval_similarity {command}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"Hit rate@50 on each member's last item, ranked among all items that she has not met. {len(GRID)} settings of "
        f"learning rate and temperature for every kind, chosen by validation on a world with seed {TUNED_ON}; {EPOCHS} "
        "epochs, the best one by validation; the test item is read once. Intervals: paired bootstrap over members, of "
        "each seed and of all seeds together. Towers have 32 numbers, and so has each of the three components of an "
        "item (tower vector, attributes, cluster); the wide inner product has the 96 numbers of all three.",
        "",
        f"Machine: {os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}.",
        "",
    ]
