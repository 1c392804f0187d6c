"""Uplift of an e-mail test, and a policy's value from another policy's log, on real data.

python -m benchmarks marketing_uplift --test hillstrom.csv.gz [--log FILE --uniform FILE] [--write]

--test is the MineThatData e-mail test: recency, history, mens, womens, zip_code, newbie, channel, segment, visit and
spend.
--log is a log of the Open Bandit data with true propensities whose policy is not uniform, --uniform one of the uniform
policy over the same offers: what the first says of the uniform policy is held beside what the second saw.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from benchmarks._pieces import markdown
from models.marketing.prediction.counterfactual import Value, doubly_robust, ips, snips
from models.marketing.prediction.trees import BoostedConfig
from models.marketing.prediction.uplift import (
    Chance,
    CrossFitted,
    Learner,
    Model,
    Ridge,
    calibrate,
    cross_fit,
    fit_uplift,
    mean_uplift,
    qini,
)

Floats = NDArray[np.float64]
Fitted = Callable[[Floats, CrossFitted], Model]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "marketing_uplift.md"
PARTS = 5
"""What is said of a member comes from models of the other four fifths."""


def refusal() -> str:
    """Why this is left out when all benchmarks run."""
    return "marketing_uplift needs --test, the e-mail test"


def main(options: Sequence[str] = ()) -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks marketing_uplift")
    parser.add_argument("--test", required=True, help="the e-mail test")
    parser.add_argument("--log", default="", help="a log with propensities")
    parser.add_argument("--uniform", default="", help="a log of the uniform policy over the same offers")
    parser.add_argument("--write", action="store_true", help="write docs/results/marketing_uplift.md")
    chosen = parser.parse_args(options)
    begun = time.process_time()
    frame = pd.read_csv(chosen.test)
    lines = [
        "# Uplift and policies on real data",
        "",
        "Written by `python -m benchmarks marketing_uplift --test FILE"
        f"{' --log FILE --uniform FILE' if chosen.log else ''} --write` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        *_test(frame),
        *(_policies(Path(chosen.log), Path(chosen.uniform)) if chosen.log else []),
        "",
        f"{time.process_time() - begun:.0f} CPU seconds.",
    ]
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print("\n".join(lines))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")


# --- the e-mail test --------------------------------------------------------------------------------------------------


def _features(frame: pd.DataFrame) -> Floats:
    kinds = pd.get_dummies(frame[["zip_code", "channel"]], dtype=float).to_numpy()
    plain = frame[["recency", "mens", "womens", "newbie"]].to_numpy(np.float64)
    return np.concatenate([plain, np.log1p(frame[["history"]].to_numpy(np.float64)), kinds], axis=1)


def _methods(chances: bool) -> Mapping[str, tuple[Learner, Fitted]]:
    """Learner of outcomes, and how uplift is fitted, by name."""
    line: Learner = Chance() if chances else Ridge()
    boosted = BoostedConfig(outcome="chance" if chances else "number", trees=30, least=200, bins=32)
    numbers = BoostedConfig(trees=30, least=200, bins=32)
    return {
        "t, lines": (line, lambda x, known: fit_uplift(x, known, kind="t", learner=line)),
        "x, lines": (line, lambda x, known: fit_uplift(x, known, kind="x", learner=Ridge())),
        "dr, lines": (line, lambda x, known: fit_uplift(x, known, kind="dr", learner=Ridge())),
        "t, trees": (boosted, lambda x, known: fit_uplift(x, known, kind="t", learner=boosted)),
        "dr, trees": (boosted, lambda x, known: fit_uplift(x, known, kind="dr", learner=numbers)),
    }


def _test(frame: pd.DataFrame) -> list[str]:
    rows = []
    for arm in ("Mens E-Mail", "Womens E-Mail"):
        both = frame[frame["segment"].isin([arm, "No E-Mail"])]
        features, treated = _features(both), (both["segment"] == arm).to_numpy(np.float64)
        chance = np.full(len(both), 0.5)
        part = np.random.default_rng(0).permutation(len(both)) % PARTS
        for name, unit, digits in (("visit", 1000.0, 1), ("spend", 1.0, 3)):
            outcome = both[name].to_numpy(np.float64)
            judged = cross_fit(features, treated, outcome, learner=Ridge(), propensity=chance, seed=1)
            mean = mean_uplift(judged.scores)
            for method, (learner, fitted) in _methods(name == "visit").items():
                said = np.empty(len(both))
                for number in range(PARTS):
                    others, here = part != number, part == number
                    known = cross_fit(
                        features[others], treated[others], outcome[others], learner=learner, propensity=chance[others],
                        folds=3,
                    )  # fmt: skip
                    said[here] = fitted(features[others], known)(features[here])
                area, held = qini(judged.scores, said), calibrate(judged.scores, said)
                rows.append(
                    (arm, name, f"{unit * mean.value:.{digits}f} ({unit * mean.low:.{digits}f} to "
                     f"{unit * mean.high:.{digits}f})", method,
                     f"{unit * area.value:.{digits + 1}f} ({unit * area.low:.{digits + 1}f} to "
                     f"{unit * area.high:.{digits + 1}f})",
                     f"{held.slope.value:.2f} ({held.slope.low:.2f} to {held.slope.high:.2f})")
                )  # fmt: skip
    return [
        f"The MineThatData e-mail test, {len(frame):,} customers: each e-mail against none, drawn half and half. "
        "Visits in visits per 1,000 customers, spend in dollars a customer. Qini: what the model's order gains over a "
        "random one, averaged over all shares treated. What is said of a customer comes from the other "
        f"{PARTS - 1} of {PARTS} parts; what is found, from doubly robust scores. 95 % intervals.",
        "",
        *markdown(("arm", "outcome", "mean uplift", "model", "Qini", "slope of found on said"), rows),
    ]


# --- policies ---------------------------------------------------------------------------------------------------------


def _policies(log: Path, uniform: Path) -> list[str]:
    logged, seen = pd.read_csv(log), pd.read_csv(uniform)
    offers = int(max(logged["item_id"].max(), seen["item_id"].max())) + 1
    click, propensity = logged["click"].to_numpy(np.float64), logged["propensity_score"].to_numpy(np.float64)
    chance = np.full(len(logged), 1 / offers)
    shown, policy = _expected(logged, offers)
    truth = seen["click"].to_numpy(np.float64)
    error = 1.96 * truth.std() / np.sqrt(len(truth))
    own = click.std() / np.sqrt(len(click))
    rows = [
        ("seen under the uniform policy", f"{1e3 * truth.mean():.2f}",
         f"{1e3 * (truth.mean() - error):.2f} to {1e3 * (truth.mean() + error):.2f}", "-", "-", "-"),
        ("seen under the log's own policy", f"{1e3 * click.mean():.2f}",
         f"{1e3 * (click.mean() - 1.96 * own):.2f} to {1e3 * (click.mean() + 1.96 * own):.2f}", "-", "-", "-"),
    ]  # fmt: skip
    found: Mapping[str, Value] = {
        "IPS": ips(click, propensity, chance),
        "SNIPS": snips(click, propensity, chance),
        "DR": doubly_robust(click, propensity, chance, shown, policy),
    }
    for name, one in found.items():
        rows.append(
            (f"{name}, from the log", f"{1e3 * one.value:.2f}", f"{1e3 * one.low:.2f} to {1e3 * one.high:.2f}",
             f"{one.effective:.0f}", f"{one.largest:.0f}", f"{one.weight:.3f}")
        )  # fmt: skip
    return [
        "",
        "## What a log of one policy says of another",
        "",
        f"Open Bandit data, {len(logged):,} impressions of a policy that learns and {len(seen):,} of the uniform one, "
        f"{offers} offers, three positions. Clicks per 1,000 impressions of the uniform policy; its model of clicks, "
        "for DR, is each offer's rate drawn to that of all, learned from other rows.",
        "",
        *markdown(("", "clicks per 1,000", "95 % interval", "effective rows", "largest weight", "mean weight"), rows),
    ]


def _expected(logged: pd.DataFrame, offers: int) -> tuple[Floats, Floats]:
    """Clicks expected of what was shown and of the uniform policy, from the other fifths of the log."""
    offer, click = logged["item_id"].to_numpy(), logged["click"].to_numpy(np.float64)
    part = np.random.default_rng(0).permutation(len(logged)) % PARTS
    shown, policy = np.empty(len(logged)), np.empty(len(logged))
    for number in range(PARTS):
        others, here = part != number, part == number
        count = np.bincount(offer[others], minlength=offers)
        hits = np.bincount(offer[others], weights=click[others], minlength=offers)
        rate = (hits + 200 * click[others].mean()) / (count + 200)
        shown[here], policy[here] = rate[offer[here]], rate.mean()
    return shown, policy
