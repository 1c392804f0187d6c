"""Claims about a model of impressions, counted again from its log and from what it said.

For certificates, so nothing is shared with what they judge: neither metrics nor calibration, neither histories nor any
network. Histories are found again in the log by comparing times, AUC is counted, and the calibration is fitted again by
pooling neighbours one by one.
"""

# Shapes: C rows that were scored, T tasks, N candidates of a session, K knots.

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.certificate import Claim
from models.common.contracts import Payload

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SCORE = 2e-5
"""How far a float32 logit may be from the reference, relative to the larger of 1 and the logit: about 200 roundings."""
ROUNDING = 1e-9
REFIT = 1e-3
"""How far, on average over the validation part, the kept calibration may be from one that is fitted again; the fit
pools scores before it where it would have more knots than are kept."""
SIGMAS = 4.0
"""Standard errors that chance is allowed: 1 in 16,000 honest models fails."""
DRAWS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What the fast path said.

    Attributes:
        rows: (C) row numbers of events.
        logit: (C, T) their logits, asked one session after another as in service.
        chance: (C, T) their chances.
        batch: (C, T) logits of the same rows in batches.
    """

    rows: Integers
    logit: NDArray[Any]
    chance: NDArray[Any]
    batch: NDArray[Any]


# --- the log ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Log:
    """The events of a data set, read from its tables."""

    user: Integers
    item: Integers
    time: Integers
    session: Integers
    action: Floats
    categories: list[list[int]]
    """Of every item, numbers of its categories in the order of their names."""

    @classmethod
    def of(cls, data: Payload) -> "Log":
        """The log of a data set."""
        table = data["events"]
        column = {name: np.asarray(table[name].to_numpy(), np.int64) for name in ("user", "item", "time", "session")}
        action = [np.asarray(table[f"action_{task}"].to_numpy(), np.float64) for task in data["about"]["tasks"]]
        return cls(**column, action=np.stack(action, 1), categories=_categories(data))

    def asked(self, session: int, history: int, stride: int = 1) -> tuple[Integers, Integers]:
        """Rows of what a session sees of its user's past, and rows of the session.

        Of more than `history` events the oldest are passed over, `stride` at a time, until the rest is short enough.
        """
        rows = np.flatnonzero(self.session == session)
        past = np.flatnonzero((self.user == self.user[rows[0]]) & (self.time < self.time[rows].min()))
        passed = 0
        while len(past) - passed > history:
            passed += stride
        return past[passed:], rows

    def gaps(self, past: Integers) -> list[int]:
        """Of some successive events of a user, the code of the time since her event before; 0 for none."""
        if not len(past):
            return []
        earlier = np.flatnonzero(self.user[: past[0]] == self.user[past[0]])
        times = self.time[past].tolist()
        first = [elapsed(int(self.time[earlier[-1]]), times[0])] if len(earlier) else [0]
        return first + [elapsed(then, now) for then, now in pairwise(times)]


def elapsed(then: int, now: int) -> int:
    """How many binary digits 1 + the seconds between have, at most 39."""
    return min((1 + now - then).bit_length(), 39)


def _categories(data: Payload) -> list[list[int]]:
    name, items = data["layout"]["categories"], data["items"]
    if not name:
        return [[] for _ in range(items.num_rows)]
    column = items[f"item_{name}"].combine_chunks()
    several = pa.types.is_list(column.type)
    kind = column.type.value_type if several else column.type
    spelled = []
    for value in column.to_pylist():
        known = [one for one in ((value or []) if several else [value]) if one is not None]
        spelled.append(set(pc.cast(pa.array(known, kind), pa.string()).to_pylist()))
    number = {text: place for place, text in enumerate(sorted(set().union(*spelled), key=str.encode))}
    return [sorted(number[text] for text in values) for values in spelled]


# --- what was learned from and what was scored ------------------------------------------------------------------------


def finite(weights: Mapping[str, Floats]) -> Claim:
    """Every number of the product is finite."""
    wrong = {name: int((~np.isfinite(value)).sum()) for name, value in weights.items()}
    bad = [name for name, count in wrong.items() if count]
    return Claim(
        name="weights_not_finite",
        kind="exact",
        value=float(sum(wrong.values())),
        limit=0.0,
        detail=f"All {sum(value.size for value in weights.values())} numbers of the product." + _first(bad),
    )


def parts_in_order(log: Log, data: Payload) -> Claim:
    """Parts apart and one after another in time, sessions whole, the log itself in order."""
    parts = {name: np.asarray(data[name], np.int64) for name in ("train", "validation", "test")}
    owner: dict[int, str] = {}
    wrong: list[str] = []
    for name, rows in parts.items():
        for row in rows.tolist():
            if row in owner:
                wrong.append(f"row {row} is in {owner[row]} and {name}")
            owner[row] = name
    torn: dict[int, str] = {}
    for row, name in owner.items():
        other = torn.setdefault(int(log.session[row]), name)
        if other != name:
            wrong.append(f"session {log.session[row]} is in {other} and {name}")
    for earlier, later in (("train", "validation"), ("validation", "test")):
        border = log.time[parts[later]].min()
        late = parts[earlier][log.time[parts[earlier]] >= border]
        wrong += [f"row {row} of {earlier} is not before {later}" for row in late]
    wrong += [f"row {row + 1} is earlier than the row before it" for row in np.flatnonzero(np.diff(log.time) < 0)]
    return Claim(
        name="time_order_violations",
        kind="exact",
        value=float(len(wrong)),
        limit=0.0,
        detail=f"{len(owner)} events in three parts: each in one, sessions whole, one part before the next."
        + _first(wrong),
    )


def complete(data: Payload, test: Scored) -> Claim:
    """Each event of the test part has one score, and no other event has."""
    wanted, found = np.asarray(data["test"], np.int64).tolist(), test.rows.tolist()
    missing, more = set(wanted) - set(found), set(found) - set(wanted)
    wrong = [f"row {row} was not scored" for row in sorted(missing)]
    wrong += [f"row {row} is not of the test part" for row in sorted(more)]
    return Claim(
        name="rows_missing_or_foreign",
        kind="exact",
        value=float(len(wrong) + len(found) - len(set(found))),
        limit=0.0,
        detail=f"{len(wanted)} events of the test part against {len(found)} scores." + _first(wrong),
    )


def scored_again(
    reference: Callable[[int], Floats], log: Log, scored: Scored, name: str, sessions: int, seed: int
) -> Claim:
    """Sampled sessions scored again; a missing score counts as infinitely far.

    Args:
        reference: gives logits (N, T) of the rows of a session.
        log: the events.
        scored: what was said.
        name: of the claim.
        sessions: how many sessions.
        seed: of their choice.
    """
    known = {int(row): place for place, row in enumerate(scored.rows)}
    every = np.unique(log.session[scored.rows])
    chosen = np.sort(np.random.default_rng(seed).permutation(every)[:sessions])
    worst, where, rows = 0.0, -1, 0
    for session in chosen.tolist():
        right = reference(session)
        shown = np.flatnonzero(log.session == session)
        rows += len(shown)
        for place, row in enumerate(shown.tolist()):
            said = scored.logit[known[row]] if row in known else np.full(right.shape[1], np.inf)
            away = float((np.abs(right[place] - said) / np.maximum(1, np.abs(right[place]))).max())
            if not away <= worst:
                worst, where = away, row
    return Claim(
        name=name,
        kind="bounded",
        value=worst,
        limit=SCORE,
        detail=f"Largest difference in logits, relative to the larger of 1 and the logit, over {rows} candidates of "
        f"{len(chosen)} sessions, scored again in float64 from the weights and from the events before each session; "
        f"the largest is at row {where}.",
    )


def alike(name: str, ours: NDArray[Any], theirs: NDArray[Any], limit: float, detail: str) -> Claim:
    """Two ways of saying the same are at most so far apart; what is not a number is infinitely far."""
    away = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
    value = float(np.nan_to_num(away, nan=np.inf).max()) if away.size else 0.0
    return Claim(name=name, kind="bounded", value=value, limit=limit, detail=f"{detail}, {len(away)} candidates.")


# --- calibration ------------------------------------------------------------------------------------------------------


def _steps(weights: Mapping[str, Floats]) -> list[tuple[Floats, Floats]]:
    """Scores and chances of the knots that a network keeps, for each task."""
    return [
        (table[0, : int(size)], table[1, : int(size)])
        for table, size in zip(weights["calibration"], weights["knots"].tolist(), strict=True)
    ]


def disorder(weights: Mapping[str, Floats], test: Scored) -> Claim:
    """Knots rise, chances are chances, and larger scores never have less."""
    wrong: list[str] = []
    for task, (score, chance) in enumerate(_steps(weights)):
        if not len(score):
            wrong.append(f"task {task} has no calibration")
        for what, values in (("score", score), ("chance", chance)):
            falls = np.flatnonzero(~(np.diff(values) > 0))
            wrong += [f"task {task}: the {what} of knot {place + 1} does not rise" for place in falls]
        wrong += [f"task {task}: {value} is no chance" for value in chance if not 0 <= value <= 1]
        order = np.argsort(test.logit[:, task], kind="stable")
        falls = np.flatnonzero(np.diff(np.asarray(test.chance, np.float64)[order, task]) < 0)
        wrong += [
            f"task {task}: row {test.rows[order[place + 1]]} has less chance at a larger score" for place in falls
        ]
    return Claim(
        name="calibration_disorder",
        kind="exact",
        value=float(len(wrong)),
        limit=0.0,
        detail="Knots that do not rise, and served chances that fall where scores rise." + _first(wrong),
    )


def chances_kept(weights: Mapping[str, Floats], test: Scored) -> Claim:
    """Served chances are the kept steps of the served logits."""
    worst = 0.0
    for task, (score, chance) in enumerate(_steps(weights)):
        if not len(score):
            worst = math.inf
            continue
        right = _interpolated(np.asarray(test.logit[:, task], np.float64), score, chance)
        worst = max(worst, float(np.nan_to_num(np.abs(right - test.chance[:, task]), nan=np.inf).max(initial=0)))
    return Claim(
        name="chance_error",
        kind="bounded",
        value=worst,
        limit=ROUNDING,
        detail=f"Largest difference between served chances and the kept steps of the served logits, "
        f"{len(test.rows)} candidates.",
    )


def calibrated(weights: Mapping[str, Floats], log: Log, test: Scored, validation: Scored) -> list[Claim]:
    """Chances are the kept steps of the logits, and these are what the validation part alone gives."""
    refit = 0.0
    for task, (score, chance) in enumerate(_steps(weights)):
        if not len(score):
            refit = math.inf
            continue
        values = np.asarray(validation.logit[:, task], np.float64)
        again = fitted_again(values, log.action[validation.rows, task])
        refit = max(refit, float(np.abs(again - _interpolated(values, score, chance)).mean()))
    return [
        chances_kept(weights, test),
        Claim(
            name="calibration_refit_difference",
            kind="bounded",
            value=refit,
            limit=REFIT,
            detail=f"Mean difference between the kept calibration and one fitted again on {len(validation.rows)} "
            f"events of the validation part alone, pool adjacent violators.",
        ),
    ]


def _interpolated(value: Floats, score: Floats, chance: Floats) -> Floats:
    """The broken line through (score, chance), constant beyond its ends."""
    if len(score) == 1:
        return np.full(len(value), chance[0])
    right = np.clip(np.searchsorted(score, value), 1, len(score) - 1)
    share = np.clip((value - score[right - 1]) / (score[right] - score[right - 1]), 0, 1)
    return np.asarray(chance[right - 1] + share * (chance[right] - chance[right - 1]))


def pooled(score: Floats, label: Floats) -> tuple[Floats, Floats]:
    """Isotonic regression by pooling neighbours, one after another.

    Args:
        score: finite scores.
        label: responses, 0 to 1; one more event with their mean is added at the lowest and at the highest score.

    Returns:
        Mean score and rate of each block; both rise.

    Source:
        Ayer et al. 1955.
    """
    mean = float(label.mean())
    ties: dict[float, list[float]] = {}
    ends = [(float(score.min()), mean), (float(score.max()), mean)]
    for value, truth in [*ends, *zip(score.tolist(), label.tolist(), strict=True)]:
        mass = ties.setdefault(value, [0.0, 0.0])
        mass[0] += 1
        mass[1] += truth
    blocks: list[list[float]] = []
    for value in sorted(ties):
        count, total = ties[value]
        blocks.append([count, total, count * value])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            top = blocks.pop()
            blocks[-1] = [old + new for old, new in zip(blocks[-1], top, strict=True)]
    table = np.array(blocks)
    return table[:, 2] / table[:, 0], table[:, 1] / table[:, 0]


def fitted_again(score: Floats, label: Floats) -> Floats:
    """Chances (C) of some events by a calibration that they alone give.

    Args:
        score: (C) finite scores.
        label: (C) responses, 0 to 1.

    Returns:
        The broken line through the pooled blocks; too much expected in all is taken off in proportion to the chances,
        too little is added in proportion to what they lack of one.
    """
    chance = _interpolated(score, *pooled(score, label))
    excess = math.fsum(chance.tolist()) - math.fsum(label.tolist())
    if excess > 0:
        return chance - excess * chance / math.fsum(chance.tolist())
    lacking = 1 - chance
    return chance - excess * lacking / max(math.fsum(lacking.tolist()), 1e-300)


# --- reported numbers, and whether chances are honest -----------------------------------------------------------------


def counted(log: Log, test: Scored, metrics: Mapping[str, float]) -> list[Claim]:
    """Reported numbers of the main task, `auc` and `normalized_entropy`, counted again."""
    label = log.action[test.rows, 0]
    score = np.asarray(test.logit[:, 0], np.float64)
    losers = sorted(score[label == 0].tolist())
    winners = score[label == 1].tolist()
    won = sum(bisect_left(losers, value) + bisect_right(losers, value) for value in winners) / 2
    area = won / (len(winners) * len(losers)) if winners and losers else math.nan
    loss = [
        -math.log(min(max(p if truth else 1 - p, 1e-7), 1 - 1e-7))
        for p, truth in zip(np.asarray(test.chance[:, 0], np.float64).tolist(), (label == 1).tolist(), strict=True)
    ]
    rate = len(winners) / max(len(label), 1)
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate) if 0 < rate < 1 else math.nan
    found = {"auc": area, "normalized_entropy": sum(loss) / max(len(loss), 1) / entropy}
    return [
        Claim(
            name=f"{name}_difference",
            kind="exact",
            value=abs(value - metrics[name]),
            limit=ROUNDING,
            detail=f"{name} counted again from the served scores and the log: {value:.6f}, reported "
            f"{metrics[name]:.6f}.",
        )
        for name, value in found.items()
    ]


def honest(log: Log, test: Scored, margin: float) -> list[Claim]:
    """Whether the served chances of the main task meet the later rates, beyond what luck and drift explain.

    Args:
        log: the events.
        test: what was said.
        margin: how far, as a share, chances may be off beyond that.
    """
    chance, label = np.asarray(test.chance[:, 0], np.float64), log.action[test.rows, 0]
    user = log.user[test.rows]
    off = np.array([(chance - label)[user == one].sum() for one in np.unique(user)])
    total = max(float(label.sum()), 1.0)
    spread = float(((off - off.mean()) ** 2).sum()) * len(off) / max(len(off) - 1, 1)
    sure = max(0.0, abs(float(off.sum())) - SIGMAS * math.sqrt(spread)) / total
    found = _binned(chance, label)
    draw = np.random.default_rng(0)
    luck = [_binned(chance, (draw.random(len(chance)) < chance).astype(np.float64)) for _ in range(DRAWS)]
    more = max(0.0, found - float(np.mean(luck)) - SIGMAS * float(np.std(luck)))
    rate = total / max(len(label), 1)
    return [
        Claim(
            name="calibration_sum_off",
            kind="statistical",
            value=sure,
            limit=margin,
            detail=f"Sum of chances {chance.sum():.1f} against {label.sum():.0f} responses, less {SIGMAS:g} standard "
            f"errors over {len(off)} users, as a share of the responses.",
        ),
        Claim(
            name="calibration_bins_off",
            kind="statistical",
            value=more / rate,
            limit=margin,
            detail=f"Mean distance of chance and rate over 15 bins, {found:.4f}, less what {DRAWS} draws of "
            f"responses with the served chances have and {SIGMAS:g} standard deviations, as a share of the rate.",
        ),
    ]


def _binned(chance: Floats, label: Floats) -> float:
    place = np.minimum(np.floor(chance * 15), 14)
    return float(sum(abs((chance - label)[place == one].sum()) for one in range(15)) / max(len(chance), 1))


def _first(wrong: list[str]) -> str:
    return f" The first of {len(wrong)}: {wrong[0]}." if wrong else ""
