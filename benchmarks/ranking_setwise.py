"""What it is worth that the candidates of a session see one another: against scores of one at a time, and against MMR.

python -m benchmarks ranking_setwise [--size tiny|small] [--tasteless] [--seeds 3] [--configurations 2] [--write]

On simulated feeds, whose best possible scores are known. Each seed has a feed of its own, and both rankers are trained
on it with this seed. Their configurations are chosen by AUC on the validation part of the first feed. Share closed:

    (AUC(set-wise) - AUC(pointwise)) / (AUC(set-wise oracle) - AUC(pointwise oracle))

With `--tasteless` a click depends on user, item, slot and slate alone. Otherwise users differ in taste too, of which so
many events tell only a part, and what a slate does can be won the less the more of the odds is unknown.

MMR re-ranks by the pointwise ranker's chances and the categories of the items already chosen. Trainings are kept and
found again, as in `ranking_baselines`.
"""

# Shapes: Q sessions, C candidates of a session, K places of a list, G categories.

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks._trained import Runs, SpentError, Tested, limited, markdown, one_thread, paired, spread
from models.common.contracts import Payload
from models.feed.events.metrics import (
    auc,
    distinct_categories,
    intra_list_distance,
    maximal_marginal_relevance,
)
from models.feed.events.splits import Split
from models.feed.ranking.config import DataConfig, ObjectiveConfig, RankerConfig, RankingConfig, small, tiny
from models.feed.ranking.inputs import Inputs

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "ranking_setwise.md"
SIZES: Mapping[str, Callable[[], RankingConfig]] = {"tiny": tiny, "small": small}
TOP = 5
WEIGHTS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3)
"""Of the chance against the likeness to what was chosen, in MMR."""

SEARCH: tuple[Mapping[str, Mapping[str, Any]], ...] = (
    {"architecture": {"company": 0}},
    {
        "objective": {"recency_days": ObjectiveConfig().recency_days},
        "training": {"average": 0.0},
        "architecture": {"company": 0},
    },
    {},
    {"architecture": {"session_layers": 1}},
)
"""Changes to the ranker of the preset, tried of both rankers. Blocks of a session and company are for the set-wise one
alone; the pointwise one has a block more over the history for each instead."""


@dataclass(frozen=True, kw_only=True)
class Lists:
    """How good and how varied the first places of re-ranked sessions are, means over sessions."""

    ndcg: float
    distinct: float
    distance: float


def main(options: Sequence[str] = ()) -> None:
    """Train what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranking_setwise")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--tasteless", action="store_true", help="feeds whose users all like the same")
    parser.add_argument("--seeds", type=int, default=3, help="how many feeds, 1 or more")
    parser.add_argument("--configurations", type=int, default=2, help="tried of each ranker, 1 to 4")
    parser.add_argument("--runs", default="", help="folder of the trainings; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/ranking_setwise[_tasteless].md")
    chosen = parser.parse_args(options)
    if not 1 <= chosen.configurations <= len(SEARCH) or chosen.seeds < 1:
        parser.error(f"--configurations must be 1 to {len(SEARCH)} and --seeds at least 1.")
    one_thread()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    folder = Path(chosen.runs or Path(tempfile.gettempdir()) / "headrace" / "ranking_setwise")
    runs = Runs(folder=folder, name=f"feed-{chosen.size}{'-tasteless' if chosen.tasteless else ''}")
    prepare = _prepared(_feed(chosen), chosen.most)
    try:
        tried = {setwise: _search(chosen, runs, prepare, setwise=setwise) for setwise in (True, False)}
        best = {setwise: max(found, key=lambda one: one[1])[0] for setwise, found in tried.items()}
        tests = _tests(chosen, runs, prepare, best)
    except SpentError:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(chosen, prepare, tried, tests)
    console.print("\n".join(lines))
    if chosen.write:
        page = PAGE.with_stem(f"{PAGE.stem}_tasteless") if chosen.tasteless else PAGE
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {page.relative_to(PAGE.parent.parent.parent)}")


def _feed(chosen: argparse.Namespace) -> DataConfig:
    data = SIZES[chosen.size]().data
    taste = 0.0 if chosen.tasteless else data.simulator.affinity
    return replace(data, simulator=replace(data.simulator, affinity=taste))


def _prepared(data: DataConfig, most: float) -> Callable[[int], Payload]:
    """Makes the feed of a seed; see `limited`."""
    return limited(lambda seed: replace(data, simulator=replace(data.simulator, seed=seed)).prepare({}), most)


def configured(size: str, change: Mapping[str, Mapping[str, Any]], seed: int, *, setwise: bool) -> RankerConfig:
    """A ranker of the given seed, set-wise or not, changed as `SEARCH` says."""
    base = SIZES[size]().ranker
    shape = dict(change.get("architecture", {}))
    block = base.architecture.transformer
    if not setwise:
        more = shape.get("session_layers", 0) + (shape.get("company", base.architecture.company) > 0)
        block, shape = replace(block, layers=block.layers + more), {"session_layers": 0, "company": 0}
    return replace(
        base,
        architecture=replace(base.architecture, transformer=block, setwise=setwise, **shape),
        objective=replace(base.objective, **change.get("objective", {})),
        training=replace(base.training, **change.get("training", {}), seed=seed),
    )


def _search(
    chosen: argparse.Namespace, runs: Runs, prepare: Callable[[int], Payload], *, setwise: bool
) -> list[tuple[RankerConfig, float]]:
    """Every configuration that was tried, as it is trained with seed 0, and its AUC on the validation part."""
    found = []
    for change in SEARCH[: chosen.configurations]:
        ranker = configured(chosen.size, change, 0, setwise=setwise)
        known = runs.trained(ranker, lambda: prepare(0), 0)
        found.append((ranker, float(known["best_validation_auc"])))
    return found


def _tests(
    chosen: argparse.Namespace, runs: Runs, prepare: Callable[[int], Payload], best: Mapping[bool, RankerConfig]
) -> dict[bool, list[Tested]]:
    """Test scores of both rankers, one for each seed."""
    found: dict[bool, list[Tested]] = {True: [], False: []}
    for seed in range(chosen.seeds):
        for setwise, ranker in best.items():
            own = replace(ranker, training=replace(ranker.training, seed=seed))
            found[setwise].append(runs.tested(own, lambda seed=seed: prepare(seed), seed))  # type: ignore[misc]
    return found


def share_closed(data: Payload, together: Tested, alone: Tested) -> tuple[float, float, float]:
    """AUC of the pointwise and of the set-wise oracle on the test part, and the share of the gap that is closed."""
    rows = np.sort(Split.from_payload(data).test)
    point, whole = (
        auc(together.label, np.asarray(data[f"oracle_{name}"], np.float64)[rows]) for name in ("pointwise", "setwise")
    )
    gain = auc(together.label, together.score) - auc(alone.label, alone.score)
    return point, whole, gain / (whole - point)


def lists_of(data: Payload, together: Tested, alone: Tested) -> dict[str, Lists]:
    """The first places of every test session by each way of ranking.

    Args:
        data: the feed.
        together: the set-wise ranker.
        alone: the pointwise ranker, also what MMR re-ranks.

    Source:
        As `maximal_marginal_relevance`.
    """
    inputs = Inputs.of(data)
    rows = np.sort(Split.from_payload(data).test)
    session = inputs.events.session[rows]
    order = np.argsort(session, kind="stable")
    opens = np.flatnonzero(np.append(True, np.diff(session[order]) != 0))
    size = np.diff(np.append(opens, len(order)))
    place_QC = opens[:, None] + np.arange(size.max())
    there_QC = np.arange(size.max()) < size[:, None]
    at_QC = order[np.minimum(place_QC, len(order) - 1)]
    item_QC = np.where(there_QC, inputs.events.item[rows][at_QC], -1)
    label_QC = np.where(there_QC, together.label[at_QC], 0)
    has_IG = np.zeros((inputs.events.items, len(inputs.categories)))
    owner_I1 = np.arange(inputs.events.items)[:, None]
    np.maximum.at(has_IG, (owner_I1, inputs.catalogue.codes.numpy()), inputs.catalogue.weights.numpy() > 0)
    ways = {"set-wise": np.where(there_QC, together.chance[at_QC], -np.inf)}
    found = {}
    for name, chance_QC in ways.items():
        list_QK = maximal_marginal_relevance(item_QC, np.where(there_QC, chance_QC, 0), has_IG, TOP, 1.0)
        found[name] = _seen(list_QK, item_QC, label_QC, has_IG)
    alone_QC = np.where(there_QC, alone.chance[at_QC], 0)
    for weight in WEIGHTS:
        list_QK = maximal_marginal_relevance(item_QC, alone_QC, has_IG, TOP, weight)
        found["pointwise" if weight == 1 else f"MMR {weight:g}"] = _seen(list_QK, item_QC, label_QC, has_IG)
    return found


def _seen(list_QK: Integers, item_QC: Integers, label_QC: NDArray[Any], has_IG: Floats) -> Lists:
    """Means over the sessions with a click."""
    gain_QK = np.zeros(list_QK.shape)
    for place in range(list_QK.shape[1]):
        gain_QK[:, place] = (label_QC * (item_QC == list_QK[:, [place]])).sum(1)
    discount_K = 1 / np.log2(np.arange(list_QK.shape[1]) + 2)
    best_QK = -np.sort(-label_QC, axis=1)[:, : list_QK.shape[1]]
    ideal_Q = (best_QK * discount_K).sum(1)
    clicked = ideal_Q > 0
    ndcg = ((gain_QK * discount_K).sum(1)[clicked] / ideal_Q[clicked]).mean()
    return Lists(
        ndcg=float(ndcg),
        distinct=float(distinct_categories(list_QK, has_IG).mean()),
        distance=float(intra_list_distance(list_QK, has_IG).mean()),
    )


def _page(
    chosen: argparse.Namespace,
    prepare: Callable[[int], Payload],
    tried: Mapping[bool, list[tuple[RankerConfig, float]]],
    tests: Mapping[bool, list[Tested]],
) -> list[str]:
    """The page: what set-wise wins of what can be won, and how varied its lists are."""
    data = [prepare(seed) for seed in range(chosen.seeds)]
    pairs = list(zip(tests[True], tests[False], strict=True))
    gaps = [share_closed(one, *pair) for one, pair in zip(data, pairs, strict=True)]
    rows = [
        (f"{seed}", *(f"{value:.4f}" for value in (auc(b.label, b.score), auc(a.label, a.score), *gap[:2])),
         f"{100 * gap[2]:.0f} %")
        for seed, ((a, b), gap) in enumerate(zip(pairs, gaps, strict=True))
    ]  # fmt: skip
    exact, low, high = paired(tests[True], tests[False])
    lists = [lists_of(one, *pair) for one, pair in zip(data, pairs, strict=True)]
    varied = [
        (name, *(spread([getattr(one[name], part) for one in lists]) for part in ("ndcg", "distinct", "distance")))
        for name in lists[0]
    ]
    search = [
        ("set-wise" if setwise else "pointwise", f"{place + 1}", f"{value:.4f}")
        for setwise, found in tried.items()
        for place, (_, value) in enumerate(found)
    ]
    feed = _feed(chosen).simulator
    return [
        "# Set-wise against pointwise, and against MMR",
        "",
        f"Written by `python -m benchmarks ranking_setwise --size {chosen.size} "
        f"{'--tasteless ' if chosen.tasteless else ''}--seeds {chosen.seeds} "
        f"--configurations {chosen.configurations} --write` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"Simulated feeds, one for each seed: {feed.users:,} users, {feed.items:,} items, {feed.sessions:g} sessions a "
        f"user, slates of {feed.slate}, taste of {feed.affinity:g} logits. {Split.from_payload(data[0]).protocol} "
        "Epoch and configuration are chosen by AUC on the validation part, of both among as many; the test part "
        "is read once.",
        "",
        *markdown(
            ("seed", "AUC, pointwise", "AUC, set-wise", "pointwise oracle", "set-wise oracle", "share closed"), rows
        ),
        "",
        f"Share closed: {spread([100 * gap[2] for gap in gaps], 0)} % over seeds. Gain in AUC, paired over seeds and "
        f"users: {exact:+.4f} ({low:+.4f} to {high:+.4f}).",
        "",
        f"## First {TOP} places of every session",
        "",
        "NDCG of clicks over sessions with a click; categories in the list; mean distance, one minus cosine of "
        "categories, of two of its items. MMR by the weight of the chance.",
        "",
        *markdown(("ranked by", f"NDCG@{TOP}", "categories", "intra-list distance"), varied),
        "",
        "## Configurations tried, seed 0",
        "",
        "Numbers as in `SEARCH` of the benchmark.",
        "",
        *markdown(("ranker", "configuration", "validation AUC"), search),
    ]
