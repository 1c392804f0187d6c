"""Whether appending a candidate to the history costs quality against joining it to every event.

python -m benchmarks history_forms [--seeds 5] [--size tiny|small] [--write]

For each seed a simulated feed of that seed is split by time; the same configuration is trained in both forms from that
seed; the best epoch is chosen on the validation part; the test part is read once. The difference of AUC, append less
concat, is paired: both score the same impressions. Its interval draws seeds and, within each, users, with replacement.
"""

# Shapes: E test events, U users, R resamples.

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from one another

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.common.contracts import Payload
from models.common.fit import fit
from models.feed.events.metrics import auc, grouped_auc, normalized_entropy, paired_difference
from models.feed.events.splits import Split
from models.feed.history.config import HistoryConfig, small, tiny
from models.feed.history.inputs import Inputs
from models.feed.history.network import Form
from models.feed.history.score import batch_logits

Floats = NDArray[np.float64]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "history_forms.md"
FORMS = ("append", "append with self key", "concat")
SIZES = {"tiny": tiny, "small": small}
BAR = 0.003
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What one training came to on the test part.

    Attributes:
        user: (E) users.
        label: (E) responses.
        score: (E) logits of the main task.
        metrics: AUC, gAUC, normalized entropy.
        epoch: the best one on the validation part.
        cpu_s: CPU time of training.
    """

    user: NDArray[np.int32]
    label: NDArray[np.float32]
    score: Floats
    metrics: dict[str, float]
    epoch: int
    cpu_s: float


def main(options: Sequence[str] = ()) -> None:
    """Train, compare, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks history_forms")
    parser.add_argument("--seeds", type=int, default=2, help="how many, 2 or more; a claim takes 5")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--users", type=int, default=0, help="users of the feed; 0: those of the size")
    parser.add_argument("--epochs", type=int, default=0, help="most epochs; 0: those of the size")
    parser.add_argument("--self-key", action="store_true", help="train the append form with self key too")
    parser.add_argument("--write", action="store_true", help="write docs/results/history_forms.md")
    chosen = parser.parse_args(options)
    if chosen.seeds < 2:
        parser.error("--seeds must be at least 2.")
    torch.set_num_threads(1)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    forms = [form for form in FORMS if chosen.self_key or form != "append with self key"]
    found: dict[str, list[Outcome]] = {form: [] for form in forms}
    for seed in range(chosen.seeds):
        base = _configuration(chosen, seed)
        data = base.data.prepare({})
        for form in forms:
            found[form].append(_trained(base, data, cast(Form, form)))
            one = found[form][-1]
            console.print(f"seed {seed}, {form}: AUC {one.metrics['AUC']:.4f}, {one.cpu_s:.0f} CPU s")
    rows = [_row(form, found[form]) for form in forms]
    head = ("form", "AUC", "gAUC", "normalized entropy", "best epochs", "CPU s of training")
    pairs = [_pair(form, "concat", found) for form in forms if form != "concat"]
    pairs_head = ("difference", "AUC", "95 % interval over seeds and users", "each seed, interval over users",
                  f"inside +-{BAR:g}")  # fmt: skip
    console.print(_table(f"Test part, {chosen.seeds} seeds", head, rows))
    console.print(_table("Paired", pairs_head, pairs))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(_page(chosen, (head, rows), (pairs_head, pairs)), encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def _configuration(chosen: argparse.Namespace, seed: int) -> HistoryConfig:
    base = SIZES[chosen.size]()
    feed = replace(base.data.simulator, seed=seed, users=chosen.users or base.data.simulator.users)
    training = replace(base.scorer.training, seed=seed, epochs=chosen.epochs or base.scorer.training.epochs)
    return replace(base, data=replace(base.data, simulator=feed), scorer=replace(base.scorer, training=training))


def _trained(base: HistoryConfig, data: Payload, form: Form) -> Outcome:
    scorer = replace(base.scorer, architecture=replace(base.scorer.architecture, form=form))
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        fit(scorer, data, Path(folder), lightning_arguments={"accelerator": "cpu", "devices": 1})
        training = json.loads((Path(folder) / "training.json").read_text())
        weights = safetensors.torch.load_file(Path(folder) / "weights.safetensors")
    taken = time.process_time() - begun
    network = scorer.network(training["sizes"]).eval()
    network.load_state_dict(weights)
    inputs = Inputs.of(data)
    rows, logit = batch_logits(network, inputs, inputs.sessions_of(Split.from_payload(data).test))
    user, label, score = inputs.events.user[rows], inputs.events.label[rows], logit[:, 0].astype(np.float64)
    metrics = {
        "AUC": auc(label, score),
        "gAUC": grouped_auc(user, label, score),
        "normalized entropy": normalized_entropy(label, network.chances(logit)[:, 0]),
    }
    return Outcome(
        user=user, label=label, score=score, metrics=metrics, epoch=training["best_epoch"], cpu_s=taken
    )  # fmt: skip


def _row(form: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    columns = []
    for name in ("AUC", "gAUC", "normalized entropy"):
        values = np.array([one.metrics[name] for one in outcomes])
        columns.append(f"{values.mean():.4f} +- {values.std(ddof=1):.4f}")
    epochs = " ".join(str(one.epoch) for one in outcomes)
    return (form, *columns, epochs, f"{np.median([one.cpu_s for one in outcomes]):.0f}")


def _pair(form: str, other: str, found: dict[str, list[Outcome]]) -> tuple[str, ...]:
    pairs = list(zip(found[form], found[other], strict=True))
    drawn = np.stack([resampled(ours, theirs, seed) for seed, (ours, theirs) in enumerate(pairs)])
    exact = float(np.mean([ours.metrics["AUC"] - theirs.metrics["AUC"] for ours, theirs in pairs]))
    pick = np.random.default_rng(99).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    means = drawn[pick, np.arange(RESAMPLES)[:, None]].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    each = []
    for ours, theirs in pairs:
        gap = paired_difference(
            ours.user, ours.label, ours.score, theirs.score, "auc", seed=0, resamples=RESAMPLES
        )  # fmt: skip
        each.append(f"{gap.difference:+.4f} ({gap.low:+.4f}..{gap.high:+.4f})")
    inside = low >= -BAR and high <= BAR
    return (
        f"{form} - {other}",
        f"{exact:+.4f}",
        f"{low:+.4f}..{high:+.4f}",
        "; ".join(each),
        "yes" if inside else "NO",
    )


def resampled(ours: Outcome, theirs: Outcome, seed: int) -> Floats:
    """(R) differences of AUC over users drawn with replacement, the same users for both.

    Source:
        As `models.feed.events.metrics.paired_difference`, which keeps only the interval.
    """
    codes, place = np.unique(ours.user, return_inverse=True)
    draw = np.random.default_rng(seed)
    weight_RU = draw.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), RESAMPLES).astype(np.float64)
    return _areas(ours, place, weight_RU) - _areas(theirs, place, weight_RU)


def _areas(one: Outcome, place: NDArray[Any], weight_RU: Floats) -> Floats:
    """(R) AUC with each user's events counted so often; ties count half."""
    order = np.argsort(one.score, kind="stable")
    score, positive = one.score[order], one.label[order] == 1
    opens = np.flatnonzero(np.append(True, score[1:] != score[:-1]))
    out = np.empty(len(weight_RU))
    for resample, weight_U in enumerate(weight_RU):
        weight_E = weight_U[place[order]]
        up = np.add.reduceat(weight_E * positive, opens)
        down = np.add.reduceat(weight_E * ~positive, opens)
        out[resample] = (up * (np.cumsum(down) - down / 2)).sum() / (up.sum() * down.sum())
    return out


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    return table


def _page(chosen: argparse.Namespace, *tables: tuple[Sequence[str], Sequence[Sequence[str]]]) -> str:
    options = f"--seeds {chosen.seeds} --size {chosen.size}"
    options += f" --users {chosen.users}" if chosen.users else ""
    options += f" --epochs {chosen.epochs}" if chosen.epochs else ""
    options += " --self-key" if chosen.self_key else ""
    config = _configuration(chosen, 0)
    feed, training = config.data.simulator, config.scorer.training
    quality, pairs = (
        [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
        for head, rows in tables
    )
    lines = [
        "# Append against concat: quality",
        "",
        f"Written by `python -m benchmarks history_forms {options} --write` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"Simulated feeds, one for each seed: {feed.users:,} users, {feed.items:,} items, {feed.sessions:g} sessions a "
        f"user, slates of {feed.slate}. Global time split, 80 / 10 / 10 per cent of the events. Each form has the same "
        f"configuration (`{chosen.size}()`), {training.epochs} epochs at most, the best one by AUC on the validation "
        "part, and the same seed; no form was tuned by itself. Mean and standard deviation over seeds. AUC of clicks "
        "on the test part, which was read once.",
        "",
        *quality,
        "",
        "The interval draws seeds and, within each, users, with replacement, the same users for both forms:",
        "",
        *pairs,
    ]
    return "\n".join(lines) + "\n"
