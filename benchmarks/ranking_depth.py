"""What depth is worth to LiGR, with the gates of its blocks and without them.

python -m benchmarks ranking_depth [--data simulator|FOLDER] [--layers 2 4 8] [--seeds 3] [--write]

Everything but the number of blocks and the gate is that of the preset, scored one candidate at a time, so the blocks
over the history are the only ones. Blocks without a gate add their branch as it is, and have 2 D^2 + 2 D numbers less.
FOLDER holds MovieLens as `ranking_baselines` reads it. Trainings are kept and found again, as there.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks._trained import Runs, SpentError, Tested, limited, markdown, one_thread, paired, spread
from benchmarks.ranking_baselines import Change, World, configured, world_of
from models.common.contracts import Payload
from models.feed.events.splits import Split
from models.feed.ranking.config import RankerConfig

PAGE = Path(__file__).parent.parent / "docs" / "results" / "ranking_depth.md"
LAYERS = (2, 4, 8)
GATED = {True: "gated", False: "plain"}


def main(options: Sequence[str] = ()) -> None:
    """Train what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranking_depth")
    parser.add_argument("--data", default="simulator", help="simulator, or a folder with *.inter and *.item")
    parser.add_argument("--layers", nargs="+", type=int, default=list(LAYERS), help="numbers of blocks, 1 to 64 each")
    parser.add_argument("--seeds", type=int, default=3, help="how many, 1 or more")
    parser.add_argument("--runs", default="", help="folder of the trainings; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/ranking_depth.md")
    chosen = parser.parse_args(options)
    if chosen.seeds < 1 or not all(1 <= layers <= 64 for layers in chosen.layers):
        parser.error("--seeds must be at least 1 and --layers 1 to 64.")
    one_thread()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    world = world_of(chosen.data, parser)
    folder = Path(chosen.runs or Path(tempfile.gettempdir()) / "headrace" / "ranking_depth")
    runs = Runs(folder=folder, name=world.name)
    prepare = limited(world.prepare, chosen.most)
    try:
        found = _tests(chosen, world, runs, prepare, console)
    except SpentError:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(chosen, world, runs, found)
    console.print("\n".join(lines))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def deep(world: World, layers: int, seed: int, *, gate: bool) -> RankerConfig:
    """A pointwise LiGR of so many blocks, with gates or without."""
    change: Change = {"architecture": {"setwise": False}, "block": {"layers": layers, "gate": gate}}
    return configured(world.base, "ligr", change, seed)


Found = Mapping[tuple[int, bool], list[Tested]]


def _tests(
    chosen: argparse.Namespace, world: World, runs: Runs, prepare: Callable[[], Payload], console: Console
) -> Found:
    """Test scores of every depth, gated and plain, one for each seed."""
    found: dict[tuple[int, bool], list[Tested]] = {
        (layers, gate): [] for layers in sorted(chosen.layers) for gate in GATED
    }
    for seed in range(chosen.seeds):
        for (layers, gate), tests in found.items():
            tests.append(runs.tested(deep(world, layers, seed, gate=gate), prepare))
            shown = f"{layers} blocks, {GATED[gate]}, seed {seed}"
            console.print(f"{shown}: AUC {tests[-1].metrics['AUC']:.4f}, {tests[-1].cpu_s:.0f} CPU s")
    return found


def _page(chosen: argparse.Namespace, world: World, runs: Runs, found: Found) -> list[str]:
    """The page: quality by depth, what the gate adds at each, what depth adds to each."""
    quality = []
    for (blocks, gate), tests in found.items():
        known = [runs.trained(deep(world, blocks, seed, gate=gate), world.prepare) for seed in range(chosen.seeds)]
        quality.append(
            (
                f"{blocks}",
                GATED[gate],
                f"{known[0]['parameters']:,}",
                spread([one["best_validation_auc"] for one in known]),
                *(spread([one.metrics[name] for one in tests]) for name in ("AUC", "gAUC", "NE")),
                " ".join(str(one.epoch) for one in tests),
                f"{np.median([one.cpu_s for one in tests]):.0f}",
            )
        )
    layers = sorted(chosen.layers)
    of_gate = [(f"{one} blocks: gated - plain", *_pair(found[one, True], found[one, False])) for one in layers]
    of_depth = [
        (f"{GATED[gate]}: {one} - {layers[0]} blocks", *_pair(found[one, gate], found[layers[0], gate]))
        for gate in GATED
        for one in layers[1:]
    ]
    training = world.base.training
    first = found[layers[0], True][0]
    where = "simulator" if world.name == "simulator" else "FOLDER"
    return [
        "# Depth, with gates and without",
        "",
        f"Written by `python -m benchmarks ranking_depth --data {where} --layers {' '.join(map(str, layers))} "
        f"--seeds {chosen.seeds} --write` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"Data: {world.name}. {Split.from_payload(world.prepare()).protocol} All else is that of the preset, scored "
        f"one candidate at a time: width {world.base.architecture.transformer.width}, {training.epochs} epochs at "
        f"most, the best one by AUC on the validation part, learning rate {training.learning_rate:g}; nothing was "
        f"tuned for a depth. The test part ({len(first.label):,} events of {len(np.unique(first.user)):,} users) is "
        "read once. "
        "Mean and, of several seeds, standard deviation.",
        "",
        *markdown(
            ("blocks", "gate", "numbers", "validation AUC", "AUC", "gAUC", "normalized entropy", "best epochs",
             "CPU s of training"),
            quality,
        ),
        "",
        "Differences in AUC are paired; the interval draws seeds and, within each, users, with replacement.",
        "",
        *markdown(("difference", "AUC", "95 % interval"), [*of_gate, *of_depth]),
    ]  # fmt: skip


def _pair(ours: Sequence[Tested], theirs: Sequence[Tested]) -> tuple[str, str]:
    exact, low, high = paired(ours, theirs)
    return f"{exact:+.4f}", f"{low:+.4f} to {high:+.4f}"
