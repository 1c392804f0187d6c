"""Audience expansion on held-out converters: look-alike scores against a logistic regression and a rule.

python -m benchmarks marketing_lookalikes [--hillstrom FILE] [--obd FOLDER] [--seeds 30] [--runs FOLDER]
                                          [--most CPU_SECONDS] [--write]

Members are halved at random. One half's converters are the seeds; the other half's, beyond the audience of a rule, are
to be found among the N best by score. Recall: the share of them that is found.

Hillstrom: members who got an e-mail; they convert by buying, and come near by visiting. The rule: bought in the last 3
months, for 200 dollars or more in the last year. Open Bandit, small version: decisions of both of its policies on all
campaigns; a click is the conversion, and nothing else is known. The rule: the second most frequent value of the first
user feature.
"""

# Shapes: N members, D features, S seeds.

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from benchmarks._pieces import markdown, mean_interval, measured
from models.marketing import logistic
from models.marketing.adaptive import lookalikes
from models.marketing.adaptive.lookalikes import best_cosines, expand, fit_head
from models.marketing.logistic import fit_logistic

Floats = NDArray[np.float64]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "marketing_lookalikes.md"
CODE = [Path(str(module.__file__)) for module in (logistic, lookalikes)]
SIZES = (0.1, 0.2, 0.4)
"""N, as a share of the candidates beyond the rule."""
BASELINE = "logistic look-alike"


@dataclass(frozen=True, kw_only=True, eq=False)
class Members:
    """Members with what they did.

    Attributes:
        feature: (N, D) standardized.
        rich: (N, more) the same with products and steps, standardized: the embedding.
        converted: (N).
        near: (N) came close, or None where nothing is known of it.
        rule: (N) the rule's audience.
    """

    feature: Floats
    rich: Floats
    converted: NDArray[np.bool_]
    near: NDArray[np.bool_] | None
    rule: NDArray[np.bool_]


def main(options: Sequence[str] = ()) -> None:
    """Measure what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks marketing_lookalikes")
    parser.add_argument("--hillstrom", default="", help="the e-mail test as CSV")
    parser.add_argument("--obd", default="", help="folder of the Open Bandit Dataset's small version")
    parser.add_argument("--seeds", type=int, default=30, help="halvings, 2 or more")
    parser.add_argument("--runs", default="", help="folder of the pieces; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/marketing_lookalikes.md")
    chosen = parser.parse_args(options)
    if refused := refusal(chosen.hillstrom or chosen.obd):
        parser.error(refused)
    if chosen.seeds < 2:
        parser.error("--seeds must be at least 2.")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    sources = {name: path for name, path in (("Hillstrom", chosen.hillstrom), ("Open Bandit", chosen.obd)) if path}
    pieces: dict[str, Callable[[], Any]] = {
        f"{name} {seed}": partial(_halved, name, path, seed)
        for seed in range(chosen.seeds)
        for name, path in sources.items()
    }
    found = measured("marketing_lookalikes", pieces, [*CODE, Path(__file__)], folder=chosen.runs, most=chosen.most)
    if found is None:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(chosen, sources, found)
    console.print("\n".join(lines))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def refusal(source: str = "") -> str:
    """Why it cannot run."""
    return "" if source else "marketing_lookalikes needs --hillstrom, a CSV, or --obd, a folder."


@cache
def _members(name: str, path: str) -> Members:
    return _hillstrom(path) if name == "Hillstrom" else _open_bandit(path)


def _hillstrom(path: str) -> Members:
    table = pd.read_csv(path)
    table = table[table["segment"] != "No E-Mail"]
    recency, spent = table["recency"].to_numpy(np.float64), np.log(table["history"].to_numpy(np.float64))
    mens, womens, newbie = (table[name].to_numpy(np.float64) for name in ("mens", "womens", "newbie"))
    dummies = [
        *((table["zip_code"] == name).to_numpy(np.float64) for name in ("Rural", "Urban")),
        *((table["channel"] == name).to_numpy(np.float64) for name in ("Phone", "Web")),
    ]
    plain = [recency, spent, mens, womens, newbie, *dummies]
    products = [
        mens * womens, newbie * spent, recency * spent, spent**2, mens * womens * spent, newbie * recency,
        dummies[-1] * spent, newbie * mens, newbie * womens, *((recency == month) * 1.0 for month in range(1, 13)),
    ]  # fmt: skip
    return Members(
        feature=_standard(np.column_stack(plain)),
        rich=_standard(np.column_stack([*plain, *products])),
        converted=table["conversion"].to_numpy() > 0,
        near=table["visit"].to_numpy() > 0,
        rule=(recency <= 3) & (table["history"].to_numpy() >= 200),
    )


def _open_bandit(path: str) -> Members:
    table = pd.concat(
        [pd.read_csv(Path(path) / f"obd_{policy}_all.csv.gz", index_col=0) for policy in ("random", "bts")]
    )
    users = table[[f"user_feature_{number}" for number in range(4)]]
    dummies = pd.get_dummies(users).to_numpy(np.float64)
    affinity = table.filter(like="affinity").to_numpy(np.float64).sum(1, keepdims=True)
    position = pd.get_dummies(table["position"].astype(str)).to_numpy(np.float64)
    feature = np.column_stack([dummies, np.log1p(affinity), position])
    feature = _standard(feature[:, feature.std(0) > 0])
    first = users["user_feature_0"]
    return Members(
        feature=feature,
        rich=feature,
        converted=table["click"].to_numpy() > 0,
        near=None,
        rule=(first == first.value_counts().index[1]).to_numpy(),
    )


def _standard(columns: Floats) -> Floats:
    return np.asarray((columns - columns.mean(0)) / columns.std(0), np.float64)


def _halved(name: str, path: str, seed: int) -> dict[str, Any]:
    members = _members(name, path)
    early = np.random.default_rng(seed).random(len(members.converted)) < 0.5
    seeds = early & members.converted
    near = None if members.near is None else members.near[early]
    rich, learned = members.rich, members.converted[early]
    scores = {
        BASELINE: _logistic(members.feature, early, learned),
        "logistic, embedding": _logistic(rich, early, learned),
        "largest cosine": best_cosines(rich, rich[seeds], best=1),
        "mean of 20 cosines": best_cosines(rich, rich[seeds], best=20),
        "head": fit_head(rich[early], learned).scores(rich),
    }
    if near is not None:
        scores["logistic look-alike of visits"] = _logistic(members.feature, early, near)
        scores["head with near seeds"] = fit_head(rich[early], learned, near=near).scores(rich)
    late = ~early
    held_out = members.converted[late]
    candidates = int((late & ~members.rule).sum())
    found: dict[str, Any] = {"converters": int((held_out & ~members.rule[late]).sum())}
    for label, score in scores.items():
        grown = [expand(score[late], members.rule[late], round(share * candidates)) for share in SIZES]
        found[label] = {
            "recall": [one.recall(held_out) for one in grown],
            "precision": [one.precision(held_out)[1] for one in grown],
        }
        found["rule"] = grown[0].precision(held_out)[0]
    found["all"] = float(held_out[~members.rule[late]].mean())
    return found


def _logistic(feature: Floats, early: NDArray[np.bool_], label: NDArray[np.bool_]) -> Floats:
    return fit_logistic(feature[early], label).logits(feature)


def _page(chosen: argparse.Namespace, sources: Mapping[str, str], found: Mapping[str, Any]) -> list[str]:
    options = {"Hillstrom": " --hillstrom FILE", "Open Bandit": " --obd FOLDER"}
    lines = [
        "# Look-alikes",
        "",
        f"Written by `python -m benchmarks marketing_lookalikes{''.join(options[name] for name in sources)} "
        f"--seeds {chosen.seeds} --write`.",
        "",
        "Data: the MineThatData e-mail test (Hillstrom 2008), members who got an e-mail; Open Bandit Dataset, small "
        "version (Saito et al. 2020).",
        "",
        f"{chosen.seeds} random halvings: seeds are one half's converters, the other half's are held out. Recall: the "
        "share of held-out converters beyond the rule's audience among the N best. All in per cent, means over "
        "halvings; differences to the logistic look-alike are paired by halving, with 95 % intervals by Student's t. "
        "Halvings share their members, so the intervals are those of the halving, not of another year's data.",
    ]
    for name in sources:
        pieces = [found[f"{name} {seed}"] for seed in range(chosen.seeds)]
        rows = []
        for label in [key for key in pieces[0] if isinstance(pieces[0][key], dict)]:
            recall = 100 * np.array([piece[label]["recall"] for piece in pieces])
            ahead = recall - 100 * np.array([piece[BASELINE]["recall"] for piece in pieces])
            precision = 100 * np.array([piece[label]["precision"] for piece in pieces])
            rows.append(
                (
                    label,
                    *(f"{value:.1f}" for value in recall.mean(0)),
                    *("" if label == BASELINE else mean_interval(ahead[:, place]) for place in range(len(SIZES))),
                    f"{precision[:, 0].mean():.2f}",
                )
            )
        heads = [f"N = {100 * share:g} %" for share in SIZES]
        lines += [
            "",
            f"## {name}",
            "",
            f"Precision of the rule: {100 * np.mean([piece['rule'] for piece in pieces]):.2f}; of all candidates "
            f"beyond it: {100 * np.mean([piece['all'] for piece in pieces]):.2f}. Held-out converters beyond the rule: "
            f"{np.mean([piece['converters'] for piece in pieces]):.0f}.",
            "",
            *markdown(
                (
                    "score",
                    *(f"recall, {head}" for head in heads),
                    *(f"ahead, {head}" for head in heads),
                    f"precision, {heads[0]}",
                ),
                rows,
            ),
        ]
    return lines
