"""LiGR against trained baselines: the same flow, data, split, budget, judge and number of configurations tried.

python -m benchmarks ranking_baselines [--data simulator|FOLDER] [--seeds 3] [--configurations 2] [--write]

FOLDER holds MovieLens in RecBole's atomic files (`*.inter`, `*.item`, packed or not). Of each model the first
configurations of `SEARCH` are trained with seed 0; the one with the best AUC on the validation part is trained with the
other seeds; then the test part is read. Every training is kept in a folder and found again, so a run that was cut off
goes on, and `--most` ends one after so many CPU seconds.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks._trained import (
    Runs,
    SpentError,
    Tested,
    limited,
    luck,
    markdown,
    movielens_files,
    one_thread,
    paired,
    spread,
)
from models.common.contracts import Payload
from models.feed.events.counting import item_rates
from models.feed.events.metrics import (
    auc,
    calibration_error,
    calibration_ratio,
    grouped_auc,
    normalized_entropy,
)
from models.feed.events.rates import EVER
from models.feed.events.splits import Split
from models.feed.ranking.config import NETWORKS, DataConfig, Model, MovieLensConfig, RankerConfig, movielens, tiny
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.judge import NAMES

PAGE = Path(__file__).parent.parent / "docs" / "results" / "ranking_baselines.md"
MODELS: tuple[Model, ...] = ("ligr", "logistic", "dcnv2", "din", "sasrec", "hstu")
CALLED = {model: NAMES[NETWORKS[model].__name__] for model in MODELS}

Change = Mapping[str, Mapping[str, Any]]
SEARCH: Mapping[Model, tuple[Change, ...]] = {
    "ligr": (
        {"architecture": {"setwise": False}},
        {"architecture": {"setwise": False, "rate_days": EVER}, "objective": {"smoothing": 0.0, "prior": 20.0}},
        {
            "architecture": {"setwise": False, "rate_days": EVER, "user_rate": True},
            "objective": {"smoothing": 0.0, "prior": 20.0},
        },
        {
            "architecture": {"setwise": False, "rate_days": EVER, "user_rate": True},
            "objective": {"smoothing": 0.0, "prior": 20.0, "cut": 0.0},
        },
    ),
    "logistic": (
        {"objective": {"cut": 0.0}, "training": {"learning_rate": 1e-2, "epochs": 5}},
        {"training": {"learning_rate": 1e-2, "epochs": 5}},
        {"objective": {"cut": 0.0}, "training": {"learning_rate": 3e-2, "epochs": 5}},
        {"training": {"learning_rate": 3e-2, "epochs": 5}},
    ),
    "dcnv2": (
        {"objective": {"cut": 0.0, "smoothing": 0.0}, "block": {"layers": 2}},
        {"objective": {"cut": 0.0}, "block": {"layers": 2}},
        {"block": {"layers": 2}},
        {"objective": {"cut": 0.0, "smoothing": 0.0}, "block": {"layers": 2, "dropout": 0.3}},
    ),
    "din": (
        {},
        {"training": {"learning_rate": 1e-3}},
        {"block": {"dropout": 0.3}},
        {"objective": {"cut": 0.0}},
    ),
    "sasrec": (
        {},
        {"block": {"layers": 2}},
        {"block": {"dropout": 0.3}},
        {"objective": {"cut": 0.0}},
    ),
    "hstu": (
        {},
        {"block": {"layers": 2}},
        {"block": {"dropout": 0.3}},
        {"objective": {"cut": 0.0}},
    ),
}
"""What is tried of each model: changes to the ranker of the preset, the same number for all."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Data and the ranker from which all configurations are made."""

    name: str
    data: DataConfig
    files: Mapping[str, Path]
    base: RankerConfig

    def prepare(self) -> Payload:
        """The data set."""
        return self.data.prepare(self.files)


def main(options: Sequence[str] = ()) -> None:
    """Train what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranking_baselines")
    parser.add_argument("--data", default="simulator", help="simulator, or a folder with *.inter and *.item")
    parser.add_argument("--seeds", type=int, default=3, help="how many, 1 or more")
    parser.add_argument("--configurations", type=int, default=2, help="tried of each model, 1 to 4")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--runs", default="", help="folder of the trainings; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/ranking_baselines.md")
    chosen = parser.parse_args(options)
    if not 1 <= chosen.configurations <= 4 or chosen.seeds < 1:
        parser.error("--configurations must be 1 to 4 and --seeds at least 1.")
    one_thread()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    world = world_of(chosen.data, parser)
    folder = Path(chosen.runs or Path(tempfile.gettempdir()) / "headrace" / "ranking_baselines")
    runs = Runs(folder=folder, name=world.name)
    prepare = limited(world.prepare, chosen.most)
    try:
        count = chosen.configurations
        searched = {model: _search(world, runs, model, count, prepare, console) for model in chosen.models}
        found = _tests(world, runs, searched, chosen.seeds, prepare, console)
    except SpentError:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(chosen, world, searched, found)
    console.print("\n".join(lines))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def simulated() -> World:
    """A small feed, and a ranker from which every change of `SEARCH` makes another one."""
    preset = tiny()
    architecture, objective = preset.ranker.architecture, preset.ranker.objective
    base = replace(
        preset.ranker,
        architecture=replace(architecture, transformer=replace(architecture.transformer, layers=1)),
        objective=replace(objective, smoothing=10.0, cut=0.5),
    )
    return World(name="simulator", data=preset.data, files={}, base=base)


def world_of(name: str, parser: argparse.ArgumentParser) -> World:
    """The data of `--data`: the simulator, or the folder of that name; another name ends the command."""
    if name == "simulator":
        return simulated()
    found = movielens_files(name, parser)
    files = MovieLensConfig(ratings=str(found["ratings"]), movies=str(found["movies"]))
    data = DataConfig(name="movielens", source="movielens", movielens=files)
    stem = found["ratings"].name.split(".")[0]
    return World(name=stem, data=data, files=found, base=movielens().ranker)


def configured(base: RankerConfig, model: Model, change: Change, seed: int) -> RankerConfig:
    """A ranker of the given model and seed, changed as `SEARCH` says."""
    block = replace(base.architecture.transformer, **change.get("block", {}))
    return replace(
        base,
        model=model,
        architecture=replace(base.architecture, transformer=block, **change.get("architecture", {})),
        objective=replace(base.objective, **change.get("objective", {})),
        training=replace(base.training, **change.get("training", {}), seed=seed),
    )


def _search(
    world: World, runs: Runs, model: Model, count: int, prepare: Callable[[], Payload], console: Console
) -> list[tuple[Change, float]]:
    """Every configuration that was tried of a model, and its AUC on the validation part."""
    found = []
    for change in SEARCH[model][:count]:
        known = runs.trained(configured(world.base, model, change, 0), prepare)
        found.append((change, float(known["best_validation_auc"])))
        shown = f"validation AUC {found[-1][1]:.4f}, {known['cpu_s']:.0f} CPU s"
        console.print(f"{CALLED[model]}, {_spelled(change)}: {shown}")
    return found


def _best(tried: Sequence[tuple[Change, float]]) -> Change:
    return tried[int(np.argmax([value for _, value in tried]))][0]


def _tests(
    world: World,
    runs: Runs,
    searched: Mapping[Model, list[tuple[Change, float]]],
    seeds: int,
    prepare: Callable[[], Payload],
    console: Console,
) -> dict[Model, list[Tested]]:
    """The chosen configuration of every model, trained with all seeds; then, and only then, its test scores."""
    chosen = {model: _best(tried) for model, tried in searched.items()}
    for seed in range(seeds):
        for model, change in chosen.items():
            runs.trained(configured(world.base, model, change, seed), prepare)
    found: dict[Model, list[Tested]] = {}
    for model, change in chosen.items():
        found[model] = [runs.tested(configured(world.base, model, change, seed), prepare) for seed in range(seeds)]
        console.print(f"{CALLED[model]}: test AUC {spread([one.metrics['AUC'] for one in found[model]])}")
    return found


def _spelled(change: Change) -> str:
    parts = [f"{name} {value}" for part in change.values() for name, value in part.items()]
    return ", ".join(parts) or "as the preset"


def _counted(world: World) -> tuple[str, ...]:
    """The item CTR of all that lies before the test part, for the table."""
    data = world.prepare()
    inputs, split = Inputs.of(data), Split.from_payload(data)
    events, known, rows = inputs.events, np.concatenate([split.train, split.validation]), split.test
    chance = item_rates(events.item[known], events.label[known], events.items)[events.item[rows]]
    label, user = events.label[rows], events.user[rows]
    values = (
        auc(label, chance),
        grouped_auc(user, label, chance),
        normalized_entropy(label, chance),
        calibration_error(label, chance),
        luck(chance),
        calibration_ratio(label, chance),
    )
    return ("item CTR", *(f"{value:.4f}" for value in values), "-", "-")


def _page(
    chosen: argparse.Namespace,
    world: World,
    searched: Mapping[Model, list[tuple[Change, float]]],
    found: Mapping[Model, list[Tested]],
) -> list[str]:
    """The page: protocol, quality, differences, calibration, search."""
    names = ("AUC", "gAUC", "NE", "ECE", "ECE of luck", "ratio")
    quality = [
        (
            CALLED[model],
            *(spread([one.metrics[name] for one in tests]) for name in names),
            " ".join(str(one.epoch) for one in tests),
            f"{np.median([one.cpu_s for one in tests]):.0f}",
        )
        for model, tests in found.items()
    ]
    ours = found.get("ligr", [])
    pairs = []
    for model, tests in found.items():
        if model != "ligr" and ours:
            exact, low, high = paired(ours, tests)
            pairs.append((f"LiGR - {CALLED[model]}", f"{exact:+.4f}", f"{low:+.4f} to {high:+.4f}"))
    tried = [
        (CALLED[model], _spelled(change), f"{value:.4f}", "chosen" if change is _best(options) else "")
        for model, options in searched.items()
        for change, value in options
    ]
    protocol = Split.from_payload(world.prepare()).protocol
    shown = "ligr" if ours else next(iter(found))
    first = found[shown][0]
    deciles = [(f"{place + 1}", f"{said:.3f}", f"{rate:.3f}") for place, (said, rate) in enumerate(first.deciles)]
    some = "" if len(found) == len(MODELS) else f" --models {' '.join(found)}"
    where = "simulator" if world.name == "simulator" else "FOLDER"
    return [
        "# LiGR against trained baselines",
        "",
        f"Written by `python -m benchmarks ranking_baselines --data {where} --seeds {chosen.seeds} "
        f"--configurations {chosen.configurations}{some} --write` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"Data: {world.name}. {protocol} A history is everything before the session. The epoch, the configuration and "
        f"the calibration are chosen on the validation part; the test part ({len(first.label):,} events of "
        f"{len(np.unique(first.user)):,} users) chooses nothing and is scored one request "
        "after another. All models share data, split, "
        f"objective and judge; configurations tried of each: {chosen.configurations}, seeds: {chosen.seeds}. Mean and, "
        "of several seeds, standard deviation.",
        "",
        "LiGR, DIN, SASRec and HSTU are told the same inputs: item, categories, responses, gap, order, and the hour "
        "where the preset says so; LiGR with `rate_days` and `user_rate` two more, the rates of item and user counted "
        "from everything before the session. Logistic regression and DCNv2 have 23 features counted likewise, events "
        "of the validation and test parts before the session included; the weights of all models are those of the "
        "training part.",
        "",
        *markdown(
            ("model", "AUC", "gAUC", "normalized entropy", "ECE, 15 bins", "ECE of luck", "predicted / observed",
             "best epochs", "CPU s of training"),
            [_counted(world), *quality],
        ),
        "",
        "ECE of luck: what chances that were true would have, the mean over 100 draws of responses with these chances.",
        "",
        "## Differences in AUC",
        "",
        "Paired; the interval draws seeds and, within each, users, with replacement.",
        "",
        *markdown(("difference", "AUC", "95 % interval"), pairs),
        "",
        f"## Calibration of {CALLED[shown]}, seed 0, tenths of the test events by chance",
        "",
        *markdown(("tenth", "mean chance", "rate"), deciles),
        "",
        "## Configurations tried, seed 0",
        "",
        *markdown(("model", "changes to the preset", "validation AUC", ""), tried),
    ]  # fmt: skip
