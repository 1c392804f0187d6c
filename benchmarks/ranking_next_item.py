"""Next items among all items: the gated block beside SASRec, HSTU, counting and what was published.

    python -m benchmarks ranking_next_item [--data beauty sports PATH] [--models ligr sasrec hstu] [--seeds 3]
        [--search] [--most N] [--folder PATH] [--write]

Every model has the same objective, the same steps, negatives and dropout. With --search each chooses its settings among
the eight of `GRID` by validation NDCG@10, with narrower vectors and fewer steps; without, all take those of
`published_size`. Then it is trained at full size with each seed and the test is read once. A finished training is kept
in the folder under a digest of its configuration and of the data, and not made again; --most ends after so many new
ones, so that a long study can be run in pieces, and --most 0 shows what is finished.
"""

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import safetensors.torch
import torch
from rich.console import Console

from infra.manifest import describe_configuration, digest_of
from infra.settings import settings
from models.common.contracts import Payload
from models.common.fit import fit
from models.feed.events.counting import CounterConfig
from models.feed.ranking.next_item.config import (
    DataConfig,
    JudgementConfig,
    NextItemConfig,
    NextItemRankerConfig,
    published_size,
)
from models.feed.ranking.next_item.counter import MIXTURES
from models.feed.ranking.next_item.data import PROTOCOL

PAGE = Path(__file__).parent.parent / "docs" / "results" / "ranking_next_item.md"
FILES = {"beauty": "Beauty.txt.gz", "sports": "Sports_and_Outdoors.txt.gz", "lastfm": "LastFM.txt.gz"}
ENTRIES = {
    "beauty": "ranking-amazon-s3rec",
    "sports": "ranking-amazon-s3rec",
    "lastfm": "ranking-lastfm-s3rec",
}
"""Entries of the catalogue that hold them."""
Block = Literal["ligr", "sasrec", "hstu"]
MODELS: dict[Block, str] = {"ligr": "LiGR", "sasrec": "SASRec", "hstu": "HSTU"}
GRID = tuple(product((5e-4, 1e-3), (0.05, 0.07), (0.2, 0.3)))
"""Learning rate, temperature and dropout of the network: eight settings for each model."""
NARROW, FEW, EPOCHS = 128, 1024, 3
"""Width, negatives and epochs of a hundred steps of a training of the search."""
PLACE = (1e-3, 0.07, 0.2)
"""Those of `published_size`."""
PUBLISHED = {
    "beauty": (
        ("eSASRec", 0.0928, 0.0523, "arXiv 2508.06450 and its repository"),
        ("SASRec, sampled softmax", 0.0921, 0.0531, "the same repository"),
        ("FuXi-alpha", 0.0809, 0.0451, "the same repository"),
        ("HSTU", 0.0788, 0.0439, "the same repository"),
        ("ActionPiece", 0.0775, 0.0424, "its paper"),
        ("TIGER", 0.0648, 0.0384, "its paper"),
    ),
    "sports": (
        ("eSASRec", 0.0560, 0.0323, "arXiv 2508.06450 and its repository"),
        ("SASRec, sampled softmax", 0.0569, 0.0314, "the same repository"),
        ("FuXi-alpha", 0.0437, 0.0244, "the same repository"),
        ("HSTU", 0.0437, 0.0243, "the same repository"),
        ("ActionPiece", 0.0500, 0.0264, "its paper"),
    ),
}
"""Recall@10 and NDCG@10 on the same files: full rank, leave one out."""


K = TypeVar("K")


class Enough(Exception):  # noqa: N818 - it ends a loop, nothing is wrong
    """As many trainings as were asked for have been made."""


@dataclass
class Study:
    """Trainings on one data set, each made once.

    Attributes:
        name: of the data.
        file: where they lie.
        folder: takes one JSON file per finished training.
        left: how many may still be made now.
        finished: whether what is not finished is left out.
        console: where progress is told.
    """

    name: str
    file: Path
    folder: Path
    left: list[int]
    finished: bool
    console: Console

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        self._data: Payload | None = None

    @property
    def data(self) -> Payload:
        """The prepared data set."""
        if self._data is None:
            config = DataConfig(name="benchmark", source="sequences", file=str(self.file))
            self._data = config.prepare({"sequences": self.file})
        return self._data

    def run(self, ranker: NextItemRankerConfig, *, test: bool) -> dict[str, Any]:
        """What a training came to: validation metrics, CPU seconds, and test metrics if they are to be read."""
        whole = NextItemConfig(ranker=ranker, judgement=JudgementConfig())
        described = {"ranker": describe_configuration(ranker), "judgement": describe_configuration(whole.judgement)}
        key = digest_of({**described, "data": self._digest, "test": test})[:16]
        kept = self.folder / f"{key}.json"
        if kept.exists():
            found: dict[str, Any] = json.loads(kept.read_text())
            return found
        if self.left[0] <= 0:
            raise Enough
        self.left[0] -= 1
        found = {**described, "data": self.name, **_trained(whole, self.data, test=test)}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(found, indent=1))
        partial.replace(kept)
        shown = found.get("test", found["validation"])
        block = ranker.architecture.block
        self.console.print(
            f"{_of(self.name)}: {block}, seed {ranker.training.seed}, {found['cpu_s']:.0f} CPU s: validation "
            f"{found['validation']['ndcg_at_10']:.4f}; recall@10 {shown['recall_at_10']:.4f}, NDCG@10 "
            f"{shown['ndcg_at_10']:.4f}"
        )
        return found

    def runs(self, wanted: Mapping[K, NextItemRankerConfig], *, test: bool) -> dict[K, dict[str, Any]]:
        """Several trainings; only the finished ones when no new one was asked for at all."""
        found: dict[K, dict[str, Any]] = {}
        for key, ranker in wanted.items():
            try:
                found[key] = self.run(ranker, test=test)
            except Enough:
                if not self.finished:
                    raise
        return found


def main(options: Sequence[str] = ()) -> None:
    """Search, train, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranking_next_item")
    parser.add_argument("--data", nargs="+", default=["beauty"], help="beauty, sports, lastfm, or files of sequences")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["ligr"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--search", action="store_true", help="choose among eight settings for each model first")
    parser.add_argument(
        "--most", type=int, default=10**9, help="new trainings before this command ends; 0: only what is done"
    )
    parser.add_argument("--folder", type=Path, default=settings().scratch / "benchmarks" / "ranking_next_item")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(PAGE.parents[2])}")
    args = parser.parse_args(options)
    torch.set_num_threads(1)  # CPU seconds of one core, whatever the machine
    console, lines, left = Console(soft_wrap=True), list[str](), [args.most]
    try:
        for data in args.data:
            study = Study(data, _file(data), args.folder, left, not args.most, console)
            lines += _section(study, args.models, range(args.seeds), search=args.search)
    except Enough:
        console.print(f"{args.most} trainings made; run the same command again to go on.")
        return
    for line in lines:
        console.print(line, markup=False)
    if args.write:
        searched = " --search" if args.search else ""
        names, models = " ".join(map(_of, args.data)), " ".join(args.models)
        command = f"--data {names} --models {models} --seeds {args.seeds}{searched} --write"
        PAGE.write_text("\n".join([*_head(command, search=args.search), *lines]) + "\n")


def refusal() -> str | None:
    """Why this benchmark is left out when all are run."""
    return "ranking_next_item takes hours and files that are not served; name it to run it"


def _file(data: str) -> Path:
    if data in ENTRIES:
        from infra.catalogue import locate

        return locate(f"catalogue:{ENTRIES[data]}/{FILES[data]}")
    return Path(data)


def _of(data: str) -> str:
    """The name under which a data set is known; that of the file for one's own."""
    return {file: name for name, file in FILES.items()}.get(Path(data).name, Path(data).name)


def _trained(config: NextItemConfig, data: Payload, *, test: bool) -> dict[str, Any]:
    ranker, begun = config.ranker, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        fit(ranker, data, Path(folder), lightning_arguments={"accelerator": "cpu", "devices": 1})
        weights = safetensors.torch.load_file(Path(folder) / "weights.safetensors")
        summary = json.loads((Path(folder) / "training.json").read_text())
    seconds = time.process_time() - begun
    network = ranker.network(summary["sizes"]).eval()
    network.load_state_dict(weights)
    found = {
        "cpu_s": seconds,
        "epoch": summary["best_epoch"],
        "parameters": summary["parameters"],
        "validation": dict(ranker.validate(network, data)),
    }
    if test:
        judgement = config.judge({"weights": weights, "training": summary}, data, None)
        found["test"] = dict(judgement.metrics)
        found["failures"] = [claim.sentence() for claim in judgement.certificate.failures()]
    return found


def _ranker(model: Block, place: tuple[float, float, float], seed: int, *, narrow: bool) -> NextItemRankerConfig:
    """A model at a place of the grid; SASRec has the norm at its end that it was published with."""
    whole, (rate, temperature, dropout) = published_size(seed=seed), place
    architecture = replace(
        whole.architecture, block=model, temperature=temperature, dropout=dropout, final_norm=model == "sasrec"
    )
    training, objective = replace(whole.training, learning_rate=rate), whole.objective
    if narrow:
        architecture, objective = replace(architecture, width=NARROW), replace(objective, negatives=FEW)
        training = replace(training, epochs=EPOCHS)
    return replace(whole, architecture=architecture, objective=objective, training=training)


def _section(study: Study, models: Sequence[Block], seeds: Sequence[int], *, search: bool) -> list[str]:
    """Tables of one data set."""
    chosen, searched = dict.fromkeys(models, PLACE), list[str]()
    found: dict[Block, list[dict[str, Any]]] = {}
    for model in models:
        if search:
            tried = study.runs({place: _ranker(model, place, 0, narrow=True) for place in GRID}, test=False)
            if len(tried) == len(GRID):
                chosen[model] = max(tried, key=lambda place: tried[place]["validation"]["ndcg_at_10"])
                searched += _searched(model, tried, chosen[model])
        wanted = {seed: _ranker(model, chosen[model], seed, narrow=False) for seed in seeds}
        if runs := list(study.runs(wanted, test=True).values()):
            found[model] = runs
    if not found:
        return []
    head = [f"## {_of(study.name).capitalize()}", ""]
    table = [*head, *_table(found, chosen), *_published(_of(study.name)), "", *_gains(found), ""]
    if searched:
        table += [
            "The search, validation NDCG@10:",
            "",
            "| model | learning rate | temperature | dropout | NDCG@10 | |",
        ]
        table += ["|---|---|---|---|---|---|", *searched, ""]
    failures = [f"{MODELS[model]}: {line}" for model, runs in found.items() for run in runs for line in run["failures"]]
    return [*table, *(["Claims of certificates that did not hold:", "", *failures, ""] if failures else [])]


def _searched(
    model: Block, tried: Mapping[tuple[float, float, float], Any], best: tuple[float, float, float]
) -> list[str]:
    return [
        f"| {MODELS[model]} | {place[0]:g} | {place[1]:g} | {place[2]:g} | {run['validation']['ndcg_at_10']:.4f} | "
        f"{'chosen' if place == best else ''} |"
        for place, run in tried.items()
    ]


def _spread(values: Sequence[float]) -> str:
    spread = f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def _table(
    found: Mapping[Block, list[dict[str, Any]]], chosen: Mapping[Block, tuple[float, float, float]]
) -> list[str]:
    lines = [
        "| | recall@10, test | NDCG@10, test | NDCG@10 by seed | NDCG@10, validation | CPU s of a training |",
        "|---|---|---|---|---|---|",
    ]
    first = next(iter(found.values()))[0]["test"]
    for suffix, called in (
        ("popularity", "popularity"),
        ("counter", "counter"),
        ("companions", "counter, by row and column"),
    ):
        lines.append(
            f"| {called} | {first[f'recall_at_10_{suffix}']:.4f} | {first[f'ndcg_at_10_{suffix}']:.4f} | | | |"
        )
    for model, runs in found.items():
        place = "learning rate {:g}, temperature {:g}, dropout {:g}".format(*chosen[model])
        for suffix, called in (("", f"{MODELS[model]} ({place})"), ("_hybrid", f"{MODELS[model]} and counter")):
            recall, gain = ([run["test"][f"{name}_at_10{suffix}"] for run in runs] for name in ("recall", "ndcg"))
            rest = "| | |"
            if not suffix:
                validation = _spread([run["validation"]["ndcg_at_10"] for run in runs])
                rest = f"| {validation} | {np.mean([run['cpu_s'] for run in runs]):.0f} |"
            by_seed = ", ".join(f"{one:.4f}" for one in gain)
            lines.append(f"| {called} | {_spread(recall)} | {_spread(gain)} | {by_seed} {rest}")
    return lines


def _published(name: str) -> list[str]:
    return [
        f"| published: {model} ({source}) | {recall:.4f} | {gain:.4f} | | | |"
        for model, recall, gain, source in PUBLISHED.get(name, ())
    ]


def _gains(found: Mapping[Block, list[dict[str, Any]]]) -> list[str]:
    lines = ["| difference in NDCG@10, test | by seed, with 95 % intervals over users |", "|---|---|"]
    for model, runs in found.items():
        for left, right in (("model", "counter"), ("model", "popularity"), ("hybrid", "model"), ("hybrid", "counter")):
            name = f"ndcg_at_10_{left}_over_{right}"
            shown = "; ".join(
                f"{run['test'][name]:+.4f} ({run['test'][name + '_low']:+.4f} to {run['test'][name + '_high']:+.4f})"
                for run in runs
            )
            called = {"model": MODELS[model], "hybrid": f"{MODELS[model]} and counter"}
            lines.append(f"| {called[left]} less {called.get(right, right)} | {shown} |")
    return lines


def _head(command: str, *, search: bool) -> list[str]:
    chosen = (
        f"The search has {len(GRID)} settings for each model, with {NARROW} numbers, {FEW} negatives and "
        f"{EPOCHS * published_size().objective.steps} steps; its test is not read."
        if search
        else "No search was made here: the settings were chosen by validation in the experiments of "
        "[the log](../log.md), which also says that test figures of earlier code with nearly these settings were seen."
    )
    ranker, counter = published_size(), CounterConfig()
    network, training = ranker.architecture, ranker.training
    return [
        "# Next items among all items",
        "",
        f"Written by `python -m benchmarks ranking_next_item {command}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"Protocol: leave one out; each user's last event is the test, the one before it the validation; no refit: the "
        f"validation event is never trained on; events in the order of the file. {PROTOCOL} Mean and standard "
        f"deviation over seeds. CPU seconds are of one core, with first item vectors and validation.",
        "",
        f"All models: {network.layers} block, {network.width} numbers, {network.heads} head, histories of "
        f"{network.history}, cosine over a temperature, item vectors from the singular vectors of the pairs in the "
        f"training part; {ranker.objective.negatives} uniform negatives a step, "
        f"{training.epochs * ranker.objective.steps} steps of about {training.batch_size} next items, AdamW with a "
        f"cosine schedule, products of matrices in {ranker.objective.precision}, a mean of the weights, best epoch by "
        f"validation. The same settings for every data set. The "
        f"counter looks at pairs at most {counter.window} apart; the hybrid adds to each logit the logarithm of one "
        f"plus the score of the counter by row and column, weight and scale one of {len(MIXTURES)} by validation.",
        "",
        chosen,
        "",
        f"Machine: {os.cpu_count()} cores ({platform.machine()}), one thread, Python {platform.python_version()}, "
        f"torch {torch.__version__}.",
        "",
    ]
