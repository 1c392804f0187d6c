"""Budgets paced through drifting delivery, and bids from shadow prices against constant bids, with the truth known.

python -m benchmarks marketing_bidding [--seeds 30] [--runs FOLDER] [--most CPU_SECONDS] [--write]

Pacing: simulated days of 48 periods with about 1,000 members each; every period's program spends up to its cost target,
and a drifting share of it is delivered. Regret is against one program over the whole day that knows all members and all
chances in advance and is bound to no plan.

Bidding: simulated second-price auctions, about 200,000 a day in 96 periods. The bidder has the log of one usual day and
today's budget, a tenth of what all impressions of the log cost. Constant bids are found with all auctions of the day
known, at the spend that the bidder really had. Regret is against the fractional knapsack over all auctions of the day
at the whole budget.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks._pieces import markdown, mean_interval, measured
from models.marketing.adaptive import auction, bidding, delivery, frontier, pacing
from models.marketing.adaptive.auction import Auctions, Market, simulate_auctions
from models.marketing.adaptive.bidding import Bidder, Log, best_value, constant_bid_value, run_auctions
from models.marketing.adaptive.delivery import drifting, run_day, simulate_day
from models.marketing.adaptive.pacing import Pacing, by_traffic

PAGE = Path(__file__).parent.parent / "docs" / "results" / "marketing_bidding.md"
CODE = [Path(str(module.__file__)) for module in (auction, bidding, delivery, frontier, pacing)]

PERIODS, MEMBERS, SHARE = 48, 1000, 0.09
"""Of a day of pacing; the budget is this share of what the best offers of all members cost."""
DRIFTS: Mapping[delivery.Drift, str] = {
    "falling": "delivery falls from 1 to .4 along a line",
    "step": "delivery falls from 1 to .4 at half time",
    "rising": "delivery rises from .4 to 1 along a line",
    "none": "all is delivered",
}
RULES: tuple[pacing.Rule, ...] = ("forecast", "published", "open loop")

MARKETS: Mapping[str, tuple[Market, str]] = {
    "usual": (Market(), "a day like the log's"),
    "drift": (
        Market(price_drift=0.25, value_drift=-0.1, shown_last=0.75),
        "by night prices are up 28 %, values down 10 %, and a quarter of what is won is not shown",
    ),
    "cheaper": (
        Market(price_drift=-0.4, shown_first=0.7),
        "by night prices are down 33 %; in the morning 30 % of what is won is not shown",
    ),
    "strong drift": (
        Market(price_drift=0.5, value_drift=-0.2, shown_last=0.6),
        "by night prices are up 65 %, values down 18 %, and 40 % of what is won is not shown",
    ),
    "jump": (Market(price_jump=0.5, shown_last=0.7), "at half time prices jump by 65 %; by night 30 % is not shown"),
}
WAYS: Mapping[str, Mapping[str, bool]] = {
    "paced": {"adapts": True, "told": True},
    "paced, lost prices not told": {"adapts": True, "told": False},
    "open loop": {"adapts": False, "told": True},
}


def main(options: Sequence[str] = ()) -> None:
    """Measure what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks marketing_bidding")
    parser.add_argument("--seeds", type=int, default=30, help="days of each kind, 2 or more")
    parser.add_argument("--runs", default="", help="folder of the pieces; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/marketing_bidding.md")
    chosen = parser.parse_args(options)
    if chosen.seeds < 2:
        parser.error("--seeds must be at least 2.")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    found = measured("marketing_bidding", _pieces(chosen.seeds), [*CODE, Path(__file__)], folder=chosen.runs,
                     most=chosen.most)  # fmt: skip
    if found is None:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(chosen.seeds, found)
    console.print("\n".join(lines))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def _pieces(seeds: int) -> dict[str, Callable[[], Any]]:
    pieces: dict[str, Callable[[], Any]] = {}
    for seed in range(seeds):
        for kind in DRIFTS:
            pieces[f"pacing {kind} {seed}"] = partial(_paced, kind, seed)
            pieces[f"plan {kind} {seed}"] = partial(_on_plan, kind, seed)
        pieces[f"told jump {seed}"] = partial(_told, seed)
        for name in MARKETS:
            pieces[f"bidding {name} {seed}"] = partial(_bid, name, seed)
    return pieces


def _paced(kind: delivery.Drift, seed: int) -> dict[str, Any]:
    day = simulate_day(drifting(kind, PERIODS), members=MEMBERS, seed=seed)
    found: dict[str, Any] = {}
    for rule in RULES:
        budget = SHARE * day.all_cost
        course = run_day(day, Pacing(budget=budget, curve=by_traffic(day.traffic), rule=rule))
        found[rule] = {
            "spend error": course.spend_error,
            "overshoot": course.overshoot,
            "regret": course.regret,
        }
    return found


def _on_plan(kind: delivery.Drift, seed: int) -> float:
    """Regret of one who knows all chances in advance, but spends in every period what the plan says."""
    day = simulate_day(drifting(kind, PERIODS), members=MEMBERS, seed=seed)
    plan = Pacing(budget=SHARE * day.all_cost, curve=by_traffic(day.traffic)).plan
    spend = [after - before for before, after in itertools.pairwise(plan.tolist())]
    value = sum(
        chance * batch.plan.value_at(amount / chance)
        for batch, chance, amount in zip(day.batches, day.delivery.tolist(), spend, strict=True)
    )
    return float(1 - value / day.clairvoyant.value_at(float(plan[-1])))


def _told(seed: int) -> float:
    """Regret of one who knows all of the day but that prices will jump, and learns of it at once when they do."""
    market, log = MARKETS["jump"][0], _log(seed)
    day, calm = simulate_auctions(market, seed), simulate_auctions(replace(market, price_jump=0.0), seed)
    budget, late = 0.1 * float(log.price.sum()), day.period >= day.periods // 2
    worth = calm.value / calm.price
    order = np.flatnonzero(calm.shown)[np.argsort(-worth[calm.shown], kind="stable")]
    theta = float(worth[order][np.searchsorted(np.cumsum(calm.price[order]), budget)])
    early = ~late & day.shown & (day.value / day.price > theta)
    rest = replace(
        day, period=day.period[late], segment=day.segment[late], value=day.value[late], price=day.price[late],
        shown=day.shown[late],
    )  # fmt: skip
    value = float(day.value[early].sum()) + best_value(rest, budget - float(day.price[early].sum()))
    return 1 - value / best_value(day, budget)


@cache
def _log(seed: int) -> Log:
    return Log.of(simulate_auctions(Market(), 10_000 + seed))


def _bid(name: str, seed: int) -> dict[str, Any]:
    log, day = _log(seed), simulate_auctions(MARKETS[name][0], seed)
    budget = 0.1 * float(log.price.sum())
    best = best_value(day, budget)
    return {way: _one(day, log, budget, best, **how) for way, how in WAYS.items()}


def _one(day: Auctions, log: Log, budget: float, best: float, *, adapts: bool, told: bool) -> dict[str, float]:
    bought = run_auctions(day, Bidder(log, budget, adapts=adapts), told_prices=told)
    spent = float(bought.spent[-1])
    return {
        "spend error": spent / budget - 1,
        "regret": 1 - bought.value / best,
        "gain": bought.value / constant_bid_value(day, spent) - 1,
        "gain by segment": bought.value / constant_bid_value(day, spent, by_segment=True) - 1,
    }


def _page(seeds: int, found: Mapping[str, Any]) -> list[str]:
    def of(part: str, name: str, way: str, what: str) -> list[float]:
        return [found[f"{part} {name} {seed}"][way][what] for seed in range(seeds)]

    def worst(numbers: Sequence[float]) -> str:
        return f"{100 * max(abs(number) for number in numbers):.2f}"

    paced = [
        (
            kind,
            rule,
            mean_interval(of("pacing", kind, rule, "spend error"), 100),
            worst(of("pacing", kind, rule, "spend error")),
            f"{100 * max(of('pacing', kind, rule, 'overshoot')):.2f}",
            mean_interval(of("pacing", kind, rule, "regret"), 100),
        )
        for kind in DRIFTS
        for rule in RULES
    ]
    bid = [
        (
            name,
            way,
            mean_interval(of("bidding", name, way, "gain"), 100, 1),
            mean_interval(of("bidding", name, way, "gain by segment"), 100, 1),
            mean_interval(of("bidding", name, way, "spend error"), 100),
            worst(of("bidding", name, way, "spend error")),
            mean_interval(of("bidding", name, way, "regret"), 100),
        )
        for name in MARKETS
        for way in WAYS
    ]
    told = [found[f"told jump {seed}"] for seed in range(seeds)]
    return [
        "# Pacing and bidding in drifting markets",
        "",
        f"Written by `python -m benchmarks marketing_bidding --seeds {seeds} --write`.",
        "",
        f"Everything is simulated and its truth known; {seeds} seeds of each kind, means with 95 % intervals over "
        "seeds by Student's t. All numbers are per cent.",
        "",
        "## Pacing",
        "",
        f"Days of {PERIODS} periods with about {MEMBERS:,} members each, four offers a member, and a budget of "
        f"{100 * SHARE:g} % of what the best offers of all cost, to be spent in proportion to traffic. Spend error: "
        "final spend over the budget, less one. Overshoot: the furthest that spend was ahead of the plan, as a share "
        "of the budget, in the worst seed. Regret: expected value against one program over the day that knows "
        "everything in advance and is bound to no plan.",
        "",
        *(f"- {kind}: {words}" for kind, words in DRIFTS.items()),
        "",
        *markdown(("delivery", "rule", "spend error", "worst seed", "overshoot, worst seed", "regret"), paced),
        "",
        *markdown(
            ("delivery", "regret of one who knows it and spends what the plan says"),
            [(kind, mean_interval([found[f"plan {kind} {seed}"] for seed in range(seeds)], 100)) for kind in DRIFTS],
        ),
        "",
        "`forecast` is ours, `published` the rule of the two-loop controller with a gain of .3, `open loop` plans as "
        "if all were delivered. Most of the regret is the price of the plan itself, as the second table shows: the "
        "clairvoyant, bound to none, spends while delivery is good. The regret of one day also holds the luck of who "
        "is delivered, which the clairvoyant does not have.",
        "",
        "## Bidding",
        "",
        f"Second-price auctions, about {Market().impressions:,} a day in {Market().periods} periods, {Market().rivals} "
        "rivals. Known are the log of one usual day and the budget, a tenth of what all impressions of the log cost. "
        "Gain: value against the best constant bid, and against the best combination of one constant bid for each of "
        f"the {Market().segments} segments, both found with all auctions of the day known, at the spend that the "
        "bidder really had. Regret: against the fractional knapsack over all auctions of the day at the whole budget. "
        "Where the open loop spends less, so do its constant bids: its gain tells nothing of what it left.",
        "",
        *(f"- {name}: {words}" for name, (_, words) in MARKETS.items()),
        "",
        *markdown(("market", "bidder", "gain", "gain, bids by segment", "spend error", "worst seed", "regret"), bid),
        "",
        "Nobody can know of a jump before it comes. One who knows all of that day but the jump, and all of the jump as "
        f"soon as it is there, has a regret of {mean_interval(told, 100)}.",
    ]
