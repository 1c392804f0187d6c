"""Whether appending a candidate to the history costs quality against joining it to every event.

python -m benchmarks history_forms [--data simulator|FOLDER] [--seeds 5] [--size tiny|small] [--write]

For each seed a simulated feed of that seed is split by time; the same configuration is trained in both forms from that
seed; the best epoch is chosen on the validation part; the test part is read once. FOLDER holds MovieLens as
`ranking_baselines` reads it; then the data are the same for all seeds. The difference of AUC, append less concat, is
paired: both score the same impressions. Its interval draws seeds and, within each, users, with replacement.

Every training is kept in a folder and found again, so a run that was cut off goes on, and `--most` ends one after so
many CPU seconds.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from one another

import numpy as np
from rich.console import Console

from benchmarks._trained import (
    RESAMPLES,
    Runs,
    Scored,
    SpentError,
    Tested,
    limited,
    markdown,
    movielens_files,
    one_thread,
    paired,
    spread,
)
from models.common.contracts import Payload
from models.feed.events.metrics import paired_difference
from models.feed.events.splits import Split
from models.feed.history.config import HistoryConfig, MovieLensConfig, movielens, small, tiny
from models.feed.history.inputs import Inputs
from models.feed.history.network import Form
from models.feed.history.score import batch_logits

PAGE = Path(__file__).parent.parent / "docs" / "results" / "history_forms.md"
FORMS: tuple[Form, ...] = ("append", "append with self key", "concat")
SIZES = {"tiny": tiny, "small": small}
METRICS = {"AUC": "AUC", "gAUC": "gAUC", "NE": "normalized entropy"}
BAR = 0.003


def main(options: Sequence[str] = ()) -> None:
    """Train what is missing, compare, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks history_forms")
    parser.add_argument("--data", default="simulator", help="simulator, or a folder with *.inter and *.item")
    parser.add_argument("--seeds", type=int, default=2, help="how many, 2 or more; a claim takes 5")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny", help="of the feed and the scorer")
    parser.add_argument("--users", type=int, default=0, help="users of the feed; 0: those of the size")
    parser.add_argument("--epochs", type=int, default=0, help="most epochs; 0: those of the size")
    parser.add_argument("--history", type=int, default=0, help="events that are seen; 0: those of the size")
    parser.add_argument("--self-key", action="store_true", help="train the append form with self key too")
    parser.add_argument("--runs", default="", help="folder of the trainings; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/history_forms[_movielens].md")
    chosen = parser.parse_args(options)
    if chosen.seeds < 2:
        parser.error("--seeds must be at least 2.")
    one_thread()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    base, files = _configuration(chosen, parser)
    folder = Path(chosen.runs or Path(tempfile.gettempdir()) / "headrace" / "history_forms")
    runs = Runs(folder=folder, name=_name(chosen, base), score=scored)
    try:
        found = _tests(chosen, base, runs, limited(lambda seed: _data(base, seed).prepare(files), chosen.most), console)
    except SpentError:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(chosen, base, found)
    console.print("\n".join(lines))
    if chosen.write:
        page = PAGE if base.data.source == "simulator" else PAGE.with_stem(f"{PAGE.stem}_movielens")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {page.relative_to(PAGE.parent.parent.parent)}")


def _configuration(
    chosen: argparse.Namespace, parser: argparse.ArgumentParser
) -> tuple[HistoryConfig, Mapping[str, Path]]:
    """What is trained with seed 0 in the append form, and the raw files."""
    files: Mapping[str, Path] = {}
    if chosen.data == "simulator":
        base = SIZES[chosen.size]()
        feed = replace(base.data.simulator, users=chosen.users or base.data.simulator.users)
        data = replace(base.data, simulator=feed)
    else:
        base, files = movielens(), movielens_files(chosen.data, parser)
        table = MovieLensConfig(ratings=str(files["ratings"]), movies=str(files["movies"]))
        data = replace(base.data, movielens=table)
    scorer = base.scorer
    history = chosen.history or scorer.architecture.history
    shape = replace(scorer.architecture, history=history, stride=min(scorer.architecture.stride, history))
    training = replace(scorer.training, epochs=chosen.epochs or scorer.training.epochs)
    return replace(base, data=data, scorer=replace(scorer, architecture=shape, training=training)), files


def _name(chosen: argparse.Namespace, base: HistoryConfig) -> str:
    """What the trainings are called: all of the data that is not the seed."""
    if base.data.source == "simulator":
        return f"feed-{chosen.size}-{base.data.simulator.users}"
    return Path(base.data.movielens.ratings).name.split(".")[0]


def _data(base: HistoryConfig, seed: int) -> Any:
    return replace(base.data, simulator=replace(base.data.simulator, seed=seed))


def scored(network: Any, data: Payload) -> Scored:
    """Logits of a scorer for the test part, in batches."""
    inputs = Inputs.of(data)
    return inputs.events, *batch_logits(network, inputs, inputs.sessions_of(Split.from_payload(data).test))


def _tests(
    chosen: argparse.Namespace,
    base: HistoryConfig,
    runs: Runs,
    prepare: Callable[[int], Payload],
    console: Console,
) -> dict[str, list[Tested]]:
    """Test scores of every form, one for each seed."""
    forms = [form for form in FORMS if chosen.self_key or form != "append with self key"]
    found: dict[str, list[Tested]] = {form: [] for form in forms}
    for seed in range(chosen.seeds):
        for form in forms:
            scorer = replace(
                base.scorer,
                architecture=replace(base.scorer.architecture, form=form),
                training=replace(base.scorer.training, seed=seed),
            )
            of_data = seed if base.data.source == "simulator" else 0
            one = runs.tested(scorer, lambda place=of_data: prepare(place), of_data)  # type: ignore[misc]
            found[form].append(one)
            console.print(f"seed {seed}, {form}: AUC {one.metrics['AUC']:.4f}, {one.cpu_s:.0f} CPU s")
    return found


def _row(form: str, tests: Sequence[Tested]) -> tuple[str, ...]:
    columns = [spread([one.metrics[name] for one in tests]) for name in METRICS]
    epochs = " ".join(str(one.epoch) for one in tests)
    return (form, *columns, epochs, f"{np.median([one.cpu_s for one in tests]):.0f}")


def _pair(form: str, other: str, found: Mapping[str, Sequence[Tested]]) -> tuple[str, ...]:
    exact, low, high = paired(found[form], found[other])
    each = []
    for ours, theirs in zip(found[form], found[other], strict=True):
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


def _page(chosen: argparse.Namespace, base: HistoryConfig, found: Mapping[str, Sequence[Tested]]) -> list[str]:
    simulated = base.data.source == "simulator"
    options = f"--seeds {chosen.seeds}"
    options = f"{options} --size {chosen.size}" if simulated else f"--data FOLDER {options}"
    options += f" --users {chosen.users}" if chosen.users else ""
    options += f" --epochs {chosen.epochs}" if chosen.epochs else ""
    options += f" --history {chosen.history}" if chosen.history else ""
    options += " --self-key" if chosen.self_key else ""
    feed, training, first = base.data.simulator, base.scorer.training, next(iter(found.values()))[0]
    if simulated:
        about = (
            f"Simulated feeds, one for each seed: {feed.users:,} users, {feed.items:,} items, {feed.sessions:g} "
            f"sessions a user, slates of {feed.slate}."
        )
    else:
        about = (
            f"Data: {_name(chosen, base)}, the same for all seeds; a rating of four stars and more is a click. Ratings "
            "are not impressions: nobody knows what was passed over."
        )
    return [
        "# Append against concat: quality",
        "",
        f"Written by `python -m benchmarks history_forms {options} --write` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"{about} Global time split, 80 / 10 / 10 per cent of the events. Each form has the same configuration "
        f"(`{chosen.size if simulated else 'movielens'}()`, of a history the latest {base.scorer.architecture.history} "
        f"events), {training.epochs} epochs at most, the best one by AUC on the validation part, and the same seed; no "
        "form was tuned by itself. Mean and standard deviation over seeds. AUC of clicks on the test part "
        f"({len(first.label):,} events{' of seed 0' if simulated else ''}), which was read once.",
        "",
        *markdown(
            ("form", *METRICS.values(), "best epochs", "CPU s of training"),
            [_row(form, tests) for form, tests in found.items()],
        ),
        "",
        "The interval draws seeds and, within each, users, with replacement, the same users for both forms:",
        "",
        *markdown(
            ("difference", "AUC", "95 % interval over seeds and users", "each seed, interval over users",
             f"inside +-{BAR:g}"),
            [_pair(form, "concat", found) for form in found if form != "concat"],
        ),
    ]  # fmt: skip
