"""How the ranker's error falls with what its training costs: `models.feed.ranking.scaling`, trial by trial.

python -m benchmarks ranking_scaling [--size tiny|small] [--seeds 3] [--no-axes] [--folder F] [--seconds 600] [--write]

Every trial leaves one file in the folder, and a trial that has its file is not run again: the command may be stopped
and called as often as needed, with `--seconds` ending it after the trial that is then under way. When all are there, it
fits the law, certifies it, and prints it. The flow `scaling` does the same with its products in the store.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from one another

import numpy as np
import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.page_figures import DOCS, write
from infra.manifest import digest_of
from models.common.contracts import Payload
from models.common.fit import fit
from models.common.judgement import Judgement
from models.feed.ranking.scaling import ScalingConfig, TrialConfig, small, tiny

PAGE = DOCS / "results" / "ranking_scaling.md"
SIZES = {"tiny": tiny, "small": small}


def main(options: Sequence[str] = ()) -> None:
    """Run the trials that are missing; with all of them there, print the law and, if asked to, write its page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranking_scaling")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="which study")
    parser.add_argument("--seeds", type=int, default=0, help="fewer or more seeds than the study has")
    parser.add_argument("--no-axes", action="store_true", help="the sizes alone, no axes of examples and history")
    parser.add_argument("--folder", type=Path, help="keeps what trials measured; a fresh one when not given")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after so many")
    parser.add_argument("--write", action="store_true", help="write docs/results/ranking_scaling.md and its figures")
    chosen = parser.parse_args(options)
    torch.set_num_threads(1)
    config = SIZES[chosen.size]()
    config = replace(config, seeds=chosen.seeds or config.seeds)
    if chosen.no_axes:
        config = replace(config, examples=(), histories=())
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    with tempfile.TemporaryDirectory() as fresh:
        folder = chosen.folder or Path(fresh)
        folder.mkdir(parents=True, exist_ok=True)
        missing = _run(config, folder, chosen.seconds, console)
        if missing:
            console.print(f"{missing} of {len(config.trials())} trials are missing; call again to go on.")
            return
        data = config.gather([_read(_file(folder, trial)) for trial in config.trials()])
        seconds = [json.loads(str(np.load(_file(folder, trial))["seconds"])) for trial in config.trials()]
    law = config.conclude(data)
    judgement = config.judge(law, data, None)
    head, rows = _rows(judgement, config, seconds)
    table = Table(*head, title="Sizes, means over seeds")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(*_sentences(law["law"], judgement), sep="\n")
    if chosen.write:
        axes = "--no-axes " if chosen.no_axes else ""
        options = f"--size {chosen.size} --seeds {config.seeds} {axes}--folder FOLDER --write"
        command = f"python -m benchmarks ranking_scaling {options}"
        PAGE.write_text(_page(command, config, law["law"], judgement, (head, rows), seconds), encoding="ascii")
        for figure in judgement.figures:
            write(figure, f"ranking_scaling_{figure.name}")
        console.print(f"wrote docs/results/{PAGE.name} and {len(judgement.figures)} figures")


def _run(config: ScalingConfig, folder: Path, seconds: float, console: Console) -> int:
    """Run trials whose file is missing, as long as there is time; returns how many are missing still."""
    begun, trials = time.monotonic(), config.trials()
    shared: dict[str, Payload] = {}
    for trial in trials:
        if _file(folder, trial).exists() or time.monotonic() - begun > seconds:
            continue
        if trial.data.name not in shared:
            shared = {trial.data.name: trial.data.prepare({})}
        spent = time.process_time()
        part = _measured(trial, shared[trial.data.name])
        spent = time.process_time() - spent
        partial = folder / f".{os.getpid()}.npz"
        arrays = {name: value for name, value in part.items() if name != "about"}
        np.savez(partial, about=json.dumps(part["about"]), seconds=json.dumps(spent), **arrays)
        partial.replace(_file(folder, trial))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in trial.metrics(part).items())
        console.print(f"{trial.name}: {shown}; {spent:.0f} CPU s")
    return sum(not _file(folder, trial).exists() for trial in trials)


def _measured(trial: TrialConfig, data: Payload) -> Payload:
    folder = Path(tempfile.mkdtemp())
    try:
        fit(trial, data, folder, lightning_arguments={"accelerator": "cpu", "devices": 1})
        product = {
            "training": json.loads((folder / "training.json").read_text()),
            "weights": safetensors.torch.load_file(folder / "weights.safetensors"),
        }
    finally:
        shutil.rmtree(folder)
    network = trial.network(product["training"]["sizes"])
    network.load_state_dict(product["weights"])
    return trial.measure(product, data, network.eval())


def _file(folder: Path, trial: TrialConfig) -> Path:
    """One file for each trial: another size, rate or world has another file.

    Not in its name: the code, and what all trials of all studies have alike (decay, betas, sessions a row). Whoever
    changes one of these takes a fresh folder.
    """
    chosen = {**trial.parameters(), "measured": trial.measured, "world": asdict(trial.data.simulator)}
    return folder / f"{trial.name}-{digest_of(chosen)[:12]}.npz"


def _read(file: Path) -> Payload:
    with np.load(file) as parts:
        arrays = {name: parts[name] for name in parts.files if name not in ("about", "seconds")}
        return {**arrays, "about": json.loads(str(parts["about"]))}


def _rows(
    judgement: Judgement, config: ScalingConfig, seconds: Sequence[float]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = (
        "axis", "width", "layers", "weights", "users", "history", "operations", "normalized entropy", "AUC", "CPU s",
    )  # fmt: skip
    spent: dict[tuple[str, int], list[float]] = {}
    for trial, one in zip(config.trials(), seconds, strict=True):
        spent.setdefault((trial.axis, trial.place), []).append(one)
    rows, places = [], dict.fromkeys(("compute", "examples", "history"), 0)
    for row in judgement.table:
        axis = str(row["axis"])
        rows.append(
            (
                axis,
                *(f"{row[name]:,}" for name in ("width", "layers", "weights", "users", "history")),
                f"{row['operations']:.3g}",
                f"{row['normalized entropy']:.4f} ({row['least']:.4f}..{row['largest']:.4f})",
                f"{row['AUC']:.4f} ({row['AUC least']:.4f}..{row['AUC largest']:.4f})",
                f"{np.mean(spent[axis, places[axis]]):.0f}",
            )
        )
        places[axis] += 1
    return head, rows


def _sentences(law: Mapping[str, Any], judgement: Judgement) -> list[str]:
    held, rise, above = law["held_back"], law["auc"], law["above_oracle"]
    error = held["measured"] - held["predicted"]
    inside = "inside" if held["low"] <= held["measured"] <= held["high"] else "OUTSIDE"
    failures = judgement.certificate.failures()
    verdict = "; ".join(claim.sentence() for claim in failures) or "every claim holds"
    return [
        f"All sizes: NE = {law['asymptote']:.4f} + {law['coefficient']:.4f} (C / 10^12)^-{law['exponent']:.3f}; 95 % "
        f"interval of the exponent {law['exponent_low']:.3f} to {law['exponent_high']:.3f}; R^2 {law['r_squared']:.4f}"
        f"; {law['decades']:.2f} decades.",
        f"Without the largest: NE = {held['asymptote']:.4f} + {held['coefficient']:.4f} (C / 10^12)^-"
        f"{held['exponent']:.3f}, exponent {held['exponent_low']:.3f} to {held['exponent_high']:.3f}. It says "
        f"{held['predicted']:.4f} ({held['low']:.4f} to {held['high']:.4f}) for the largest, which reaches "
        f"{held['measured']:.4f} ({held['measured_low']:.4f}..{held['measured_high']:.4f} over seeds): off by "
        f"{error:+.4f}, {100 * error / held['measured']:+.2f} %, {inside} the interval.",
        f"AUC = {rise['intercept']:.4f} + {rise['slope']:.4f} log10(C / 10^12); 95 % interval of the slope "
        f"{rise['slope_low']:.4f} to {rise['slope_high']:.4f}; R^2 {rise['r_squared']:.4f}.",
        f"Above the best possible score, {law['oracle']:.4f}: NE falls as C^-{above['exponent']:.3f} "
        f"({above['exponent_low']:.3f} to {above['exponent_high']:.3f}), R^2 {above['r_squared']:.4f}; without the "
        f"largest this law says {above['predicted']:.4f} for it.",
        f"Certificate, {len(judgement.certificate.claims)} claims, {judgement.certificate.kinds}: {verdict}.",
    ]


def _page(
    command: str,
    config: ScalingConfig,
    law: Mapping[str, Any],
    judgement: Judgement,
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    seconds: Sequence[float],
) -> str:
    head, rows = table
    world = config.simulator
    lines = [
        "# Scaling of the ranker",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"{len(config.sizes)} sizes, seeds: {config.seeds}, each a simulated world of its own ({world.items} items, "
        f"{world.categories} categories, slates of {world.slate}, {world.sessions:g} sessions a user, affinity "
        f"{world.affinity:g}, of which categories tell {world.told:g}); all trials of a seed are measured on the same "
        f"sessions of the same {config.measured:,} users, whom none of them learned from. {judgement.protocol}",
        "",
        f"Rule for all sizes, fixed before the first: one pass, {config.batch_size} rows a step, peak learning rate "
        f"{config.rate:g} / width, falling to zero as a cosine, no dropout. Operations: products of matrices in blocks "
        "and head, multiply and add counted as two, backward as twice forward, attention as if it were not causal, "
        "nothing that is looked up. Means over seeds, (least..largest).",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"{len(seconds)} trials, {sum(seconds):,.0f} CPU seconds."
        + (
            " The axes of examples and history are exploratory: one network, no law is claimed. Trials of the history "
            "axis have one session a row, so that none sees more than its history."
            if config.examples or config.histories
            else ""
        ),
        "",
        "## The law",
        "",
        *(line for sentence in _sentences(law, judgement) for line in (f"- {sentence}",)),
        "",
        "The interval of an exponent holds every value whose least sum of squares over the means of the sizes is not "
        "above what chance allows; that of a prediction every value that could be one more point. Both know of the "
        "noise and of the shape: what the law misses counts as noise.",
        "",
        *(
            line
            for figure in judgement.figures
            for line in (f"![{figure.title}](../figures/ranking_scaling_{figure.name}.png)", "", figure.caption, "")
        ),
        "## Certificate",
        "",
        "| claim | kind | found | must be |",
        "|---|---|---|---|",
        *(
            f"| `{claim.name}` | {claim.kind} | {claim.value:.4g} | {claim.sense} {claim.limit:.4g} |"
            for claim in judgement.certificate.claims
        ),
    ]
    return "\n".join(lines) + "\n"
