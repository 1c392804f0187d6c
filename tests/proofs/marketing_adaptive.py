"""Pacing, bidding and learning by the whole count for `make prove SYSTEM=marketing`, with the bars to be reached."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks import marketing_bidding, marketing_content
from benchmarks._pieces import mean_interval
from benchmarks.marketing_bidding import MARKETS, MEMBERS, PERIODS, SHARE
from infra.settings import settings
from models.marketing.adaptive.auction import Market, simulate_auctions
from models.marketing.adaptive.bidding import Bidder, Log, best_value, constant_bid_value, run_auctions
from models.marketing.adaptive.delivery import drifting, run_day, simulate_day
from models.marketing.adaptive.pacing import Pacing, by_traffic
from tests.proof import Found, Pieces, Proof, Report, Section, table

SEEDS = 30
PIECE = 5
FIRST_SEED = 5000
"""Other worlds than those of the benchmarks."""
ROUNDS = 100
OVERTAKEN = 50
"""Updates after which Thompson sampling must be ahead."""
SPEND_ERROR, OVERSHOOT, REGRET, MISS, GAIN = 0.01, 0.03, 0.01, 0.2, 0.1


def _seeds() -> dict[str, range]:
    firsts = range(FIRST_SEED, FIRST_SEED + SEEDS, PIECE)
    return {f"{first} to {first + PIECE - 1}": range(first, first + PIECE) for first in firsts}


def _joined(found: Mapping[str, Found]) -> dict[str, list[float]]:
    rows = [row for piece in found.values() for row in piece["rows"]]
    return {name: [row[name] for row in rows] for name in rows[0]}


# ------------------------------------------------------------------------------------------------- pacing


def pacing(_: Proof) -> Pieces:
    """Some days a piece."""
    return {name: partial(_paced, seeds) for name, seeds in _seeds().items()}


def _paced(seeds: Sequence[int], _: Mapping[str, Found]) -> Found:
    rows = []
    for seed in seeds:
        day = simulate_day(drifting("falling", PERIODS), members=MEMBERS, seed=seed)
        row = {}
        for name, rule in (("held", "forecast"), ("open", "open loop")):
            course = run_day(day, Pacing(budget=SHARE * day.all_cost, curve=by_traffic(day.traffic), rule=rule))  # type: ignore[arg-type]
            row |= {f"{name} error": course.spend_error, f"{name} overshoot": course.overshoot}
            row[f"{name} regret"] = course.regret
        rows.append(row)
    return {"rows": rows}


def report_pacing(found: Mapping[str, Found]) -> Report:
    """Spend, overshoot and regret beside the open loop."""
    column = _joined(found)
    worst = {name: float(np.abs(values).max()) for name, values in column.items()}
    regret, open_miss = float(np.mean(column["held regret"])), -max(column["open error"])
    missed = [
        f"pacing: {what} is {value:.2%}, must be {words} {bar:.0%}"
        for what, value, holds, words, bar in (
            ("the worst spend error", worst["held error"], worst["held error"] <= SPEND_ERROR, "at most", SPEND_ERROR),
            ("the worst overshoot", max(column["held overshoot"]), max(column["held overshoot"]) <= OVERSHOOT,
             "at most", OVERSHOOT),
            ("the mean regret", regret, regret <= REGRET, "at most", REGRET),
            ("the open loop's least miss", open_miss, open_miss >= MISS, "at least", MISS),
        )
        if not holds
    ]  # fmt: skip
    return Report(
        [
            f"Days of {PERIODS} periods with about {MEMBERS:,} members; delivery falls from 1 to .4 along a line. Per "
            "cent; means with 95 % intervals over days by Student's t.",
            "",
            *table(
                ("", "forecast", "open loop"),
                [
                    (
                        f"{what} of {len(column['held error'])} days",
                        mean_interval(column[f"held {what}"], 100),
                        mean_interval(column[f"open {what}"], 100),
                    )
                    for what in ("error", "overshoot", "regret")
                ],
            ),
            "",
            f"Worst spend error {worst['held error']:.2%}, worst overshoot {max(column['held overshoot']):.2%}.",
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- bidding


def bidding(_: Proof) -> Pieces:
    """Some days a piece."""
    return {name: partial(_bid, seeds) for name, seeds in _seeds().items()}


def _bid(seeds: Sequence[int], _: Mapping[str, Found]) -> Found:
    rows = []
    for seed in seeds:
        log = Log.of(simulate_auctions(Market(), 10_000 + seed))
        day, budget = simulate_auctions(MARKETS["drift"][0], seed), 0.1 * float(log.price.sum())
        bought = run_auctions(day, Bidder(log, budget))
        blind = run_auctions(day, Bidder(log, budget, adapts=False))
        spent = float(bought.spent[-1])
        rows.append(
            {
                "spend error": spent / budget - 1,
                "regret": 1 - bought.value / best_value(day, budget),
                "gain": bought.value / constant_bid_value(day, spent) - 1,
                "gain, bids by segment": bought.value / constant_bid_value(day, spent, by_segment=True) - 1,
                "open loop's spend error": float(blind.spent[-1]) / budget - 1,
            }
        )
    return {"rows": rows}


def report_bidding(found: Mapping[str, Found]) -> Report:
    """Gain, regret and spend."""
    column = _joined(found)
    worst, regret = float(np.abs(column["spend error"]).max()), float(np.mean(column["regret"]))
    least = min(column["gain, bids by segment"])
    missed = [f"bidding: the worst spend error is {worst:.2%}, must be at most 1 %"] * (worst > SPEND_ERROR)
    missed += [f"bidding: the mean regret is {regret:.2%}, must be at most 1 %"] * (regret > REGRET)
    missed += [f"bidding: the least gain is {least:.1%}, must be at least 10 %"] * (least < GAIN)
    return Report(
        [
            f"Market `drift` of the benchmark: {MARKETS['drift'][1]}. Per cent; means with 95 % intervals over days. "
            "Gains at equal spend over the best constant bids, found with all auctions of the day known.",
            "",
            *table(
                ("", "mean", "least", "most"),
                [
                    (name, mean_interval(values, 100), f"{100 * min(values):.2f}", f"{100 * max(values):.2f}")
                    for name, values in column.items()
                ],
            ),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- learning


def dataset() -> Path | None:
    """The folder of the Open Bandit Dataset in the mirror, if there is one."""
    mirror = settings().mirror
    found = sorted(Path(mirror).glob("*/obd_random_all.csv.gz")) if mirror else []
    return found[0].parent if found else None


def learning(_: Proof) -> Pieces:
    """Some worlds a piece; none without the data set."""
    folder = dataset()
    return {name: partial(_learned, str(folder), seeds) for name, seeds in _seeds().items()} if folder else {
        "no data": lambda _: {"rows": []}
    }  # fmt: skip


def _learned(folder: str, seeds: Sequence[int], _: Mapping[str, Found]) -> Found:
    rows = []
    for seed in seeds:
        done = {
            explores: marketing_content.bandit(folder, seed, ROUNDS, explores=explores) for explores in (False, True)
        }
        once = marketing_content.single_turn(folder, seed)
        ahead = np.array(done[True]["earned"]) - np.array(done[False]["earned"])
        rows.append(
            {
                "ahead": float(ahead[OVERTAKEN - 10 : OVERTAKEN].mean()),
                "ahead at the end": float(ahead[-10:].mean()),
                "broken": done[True]["broken"] + done[False]["broken"],
                **{name: once[name]["mean"] for name in marketing_content.POLICIES},
            }
        )
    return {"rows": rows}


def report_learning(found: Mapping[str, Found]) -> Report:
    """Exploration against greed, and the order of the policies."""
    if not any(piece["rows"] for piece in found.values()):
        return Report(["Not run: HEADRACE_MIRROR named no folder with the Open Bandit Dataset."], [])
    column = _joined(found)
    first, second, third = marketing_content.POLICIES[:3]
    contrasts = {
        f"Thompson sampling ahead of greedy, updates {OVERTAKEN - 9} to {OVERTAKEN}": column["ahead"],
        f"the same, updates {ROUNDS - 9} to {ROUNDS}": column["ahead at the end"],
        f"{first} less {second}": list(np.subtract(column[first], column[second])),
        f"{second} less {third}": list(np.subtract(column[second], column[third])),
    }
    low = {
        name: np.mean(values) - stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        for name, values in contrasts.items()
    }
    missed = [f"learning: {name}: the interval reaches {value:.5f}, must be above 0" for name, value in low.items()
              if not value > 0]  # fmt: skip
    broken = int(sum(column["broken"]))
    if broken:
        missed.append(f"learning: volumes are broken in {broken} rounds, must be none")
    return Report(
        [
            "Users of the Open Bandit Dataset, simulated responses, as in the benchmark `marketing_content`. In net "
            "responses per 100 members; means with 95 % intervals over worlds.",
            "",
            *table(("", "found"), [(name, mean_interval(values, 100, 3)) for name, values in contrasts.items()]),
            "",
            f"Volumes were broken in {broken} of {2 * ROUNDS * len(column['ahead']):,} rounds.",
        ],
        missed,
    )


_FILES = (Path(__file__), Path(str(marketing_bidding.__file__)), Path(str(marketing_content.__file__)))

SECTIONS = (
    Section("pacing", "Pacing under drifting delivery", _FILES, pacing, report_pacing),
    Section("bidding", "Bids in a drifting market", _FILES, bidding, report_bidding),
    Section("learning", "Content by bandit and program", _FILES, learning, report_learning),
)
