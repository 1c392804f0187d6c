"""An independent reference for the ranker: the network written out in float64, straight from the weights and the log.

Nothing here is shared with what it judges: neither the network nor its batches, neither the amortized pass nor the
metrics and the isotonic fit. Histories are found again in the log by comparing times, attention is a loop over heads,
AUC is counted, and the calibration is fitted again by pooling neighbours one by one.
"""

# Shapes: L events of a history, N candidates of a session, M = L + N tokens, D width, V width of an item's vector, E
# width of a head, T tasks, C rows that were scored, K knots.

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.contracts import Payload

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SCORE = 2e-5
"""How far, in logits, a float32 score may be from the reference: about 200 roundings of a number of size one."""
BATCH = 2e-5
"""How far, in logits, the scores of a batch may be from those of one request after another."""
ROUNDING = 1e-9
REFIT = 1e-3
"""How far, on average over the validation part, the kept calibration may be from one that is fitted again; the fit
pools scores before it where it would have more knots than are kept."""
SIGMAS = 4.0
"""Standard errors that chance is allowed: 1 in 16,000 honest rankers fails."""
DRAWS = 200


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the weights alone do not say of a network."""

    heads: int
    history: int
    setwise: bool
    self_key: bool
    rotary: bool
    window: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What the fast path said.

    Attributes:
        rows: (C) row numbers of events.
        logit: (C, T) their logits, asked one session after another.
        chance: (C, T) their chances.
        batch: (C, T) logits of the same rows in batches.
    """

    rows: Integers
    logit: NDArray[Any]
    chance: NDArray[Any]
    batch: NDArray[Any]


def certify(
    *,
    weights: Mapping[str, Any],
    shape: Shape,
    data: Payload,
    test: Scored,
    validation: Scored,
    metrics: Mapping[str, float],
    sessions: int,
    seed: int,
    margin: float,
) -> Certificate:
    """Say how far a ranker is from what it should be.

    Args:
        weights: of the product, by name.
        shape: of the network.
        data: the data set: events, items, parts.
        test: scores of the test part.
        validation: scores of the validation part; their chances are not read.
        metrics: what was reported: `auc` and `normalized_entropy` of the main task.
        sessions: how many sessions of the test part, and as many of the validation part, are scored again.
        seed: of their choice.
        margin: how far, as a share, chances may be off beyond what luck allows.

    Returns:
        The certificate.

    Source:
        Ours.
    """
    plain = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    log = Log.of(data)
    claims = [_finite(plain), _parts(log, data), _complete(log, data, test)]
    if claims[0].holds:
        reference = Reference(plain, shape, log)
        claims += [
            _again(reference, test, "served_score_error", sessions, seed),
            _again(reference, validation, "validation_score_error", sessions, seed),
        ]
    claims += [_alike(test), _disorder(plain, test), *_calibrated(plain, log, test, validation)]
    claims += _counted(log, test, metrics)
    claims += _honest(log, test, margin)
    return Certificate(claims=tuple(claims))


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

    def asked(self, session: int, length: int) -> tuple[Integers, Integers]:
        """Rows of the latest `length` events of the user before a session, and rows of the session."""
        rows = np.flatnonzero(self.session == session)
        began = self.time[rows].min()
        past = np.flatnonzero((self.user == self.user[rows[0]]) & (self.time < began))
        return past[max(0, len(past) - length) :], rows

    def gaps(self, past: Integers) -> list[int]:
        """Of some successive events of a user, the code of the time since her event before."""
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
    listed = column.to_pylist() if pa.types.is_list(column.type) else [[value] for value in column.to_pylist()]
    kind = column.type.value_type if pa.types.is_list(column.type) else column.type
    spelled = [
        {
            str(text)
            for text in pc.cast(pa.array([v for v in values or [] if v is not None], kind), pa.string()).to_pylist()
        }
        for values in listed
    ]
    number = {text: place for place, text in enumerate(sorted(set().union(*spelled), key=str.encode))}
    return [sorted(number[text] for text in values) for values in spelled]


# --- the network, written out -----------------------------------------------------------------------------------------


class Reference:
    """Scores of a session from weights and log, in float64.

    Args:
        weights: by name, float64.
        shape: of the network.
        log: the events.

    Source:
        The formulae at the top of `network.py` and of `models.common.transformer`, read again.
    """

    def __init__(self, weights: Mapping[str, Floats], shape: Shape, log: Log) -> None:
        self._w, self._shape, self.log = weights, shape, log

    def session(self, session: int) -> Floats:
        """Logits (N, T) of the rows of a session."""
        log, w = self.log, self._w
        past, rows = log.asked(session, self._shape.history)
        began = int(log.time[rows].min())
        hour = began // 3600 % 24
        event = [
            self._item(int(log.item[row]))
            + w["response.weight"] @ log.action[row]
            + w["response.bias"]
            + w["event_gap.weight"][code]
            + w["event_hour.weight"][int(log.time[row]) // 3600 % 24]
            for row, code in zip(past, log.gaps(past), strict=True)
        ]
        gap = elapsed(int(log.time[past[-1]]), began) if len(past) else 0
        shared = w["candidate"] + w["gap.weight"][gap] + w["hour.weight"][hour]
        if "users.weight" in w:
            shared = shared + w["users.weight"][log.user[rows[0]]]
        shown = [self._item(int(log.item[row])) + shared for row in rows]
        apart = any(name.startswith("session.") for name in w)
        hidden = self._stack("transformer", np.array(event + shown), len(past), together=not apart)[len(past) :]
        if apart:
            hidden = self._stack("session", hidden, 0, together=True)
        return np.array([self._head(one) for one in hidden]) + w["bias.weight"][log.item[rows]]

    def _item(self, item: int) -> Floats:
        vector = self._w["items.weight"][item]
        known = self.log.categories[item]
        if known:
            vector = vector + sum(self._w["categories.weight"][one] for one in known) / len(known)
        return np.asarray(self._w["project.weight"] @ vector)

    def _head(self, hidden: Floats) -> Floats:
        w = self._w
        if "head.2.weight" in w:
            between = w["head.0.weight"] @ hidden + w["head.0.bias"]
            return np.asarray(w["head.2.weight"] @ (between * _sigmoid(between)) + w["head.2.bias"])
        return np.asarray(w["head.0.weight"] @ hidden + w["head.0.bias"])

    def _stack(self, stack: str, token_MD: Floats, length: int, *, together: bool) -> Floats:
        """The blocks of a stack over events and then candidates, which see one another only when `together`."""
        sees_MM = self._sees(len(token_MD), length, together=together)
        layers = 1 + max(int(name.split(".")[2]) for name in self._w if name.startswith(f"{stack}.blocks."))
        position_M = np.minimum(np.arange(len(token_MD)), length)
        for layer in range(layers):
            name = f"{stack}.blocks.{layer}."
            change = self._attention(self._norm(token_MD, f"{name}attention.norm"), name, sees_MM, position_M)
            token_MD = token_MD + change * self._gate(token_MD, f"{name}attention.gate")
            inner = (
                self._norm(token_MD, f"{name}feed_forward.norm") @ self._w[f"{name}feed_forward.branch.inward.weight"].T
            )
            opening, passing = inner[:, : inner.shape[1] // 2], inner[:, inner.shape[1] // 2 :]
            change = (opening * _sigmoid(opening) * passing) @ self._w[f"{name}feed_forward.branch.outward.weight"].T
            token_MD = token_MD + change * self._gate(token_MD, f"{name}feed_forward.gate")
        return self._norm(token_MD, f"{stack}.norm")

    def _sees(self, tokens: int, length: int, *, together: bool) -> NDArray[np.bool_]:
        """Which token (row) sees which (column)."""
        sees = np.zeros((tokens, tokens), bool)
        window = self._shape.window or tokens
        for row in range(tokens):
            if row < length:
                sees[row, max(0, row - window + 1) : row + 1] = True
                continue
            sees[row, max(0, length - window) : length] = True
            if together and self._shape.setwise:
                sees[row, length:] = True
            sees[row, row] = self._shape.self_key
        return sees

    def _attention(self, token_MD: Floats, name: str, sees_MM: NDArray[np.bool_], position_M: Integers) -> Floats:
        width = token_MD.shape[1]
        each = width // self._shape.heads
        split = token_MD @ self._w[f"{name}attention.branch.inward.weight"].T
        gathered = np.zeros_like(token_MD)
        for head in range(self._shape.heads):
            query, key, value = (split[:, at + head * each : at + (head + 1) * each] for at in (0, width, 2 * width))
            if self._shape.rotary:
                query, key = _turned(query, position_M), _turned(key, position_M)
            score = np.where(sees_MM, query @ key.T / math.sqrt(each), -np.inf)
            top = score.max(1, keepdims=True)
            weight = np.exp(score - np.where(np.isfinite(top), top, 0))
            total = weight.sum(1, keepdims=True)
            gathered[:, head * each : (head + 1) * each] = weight @ value / np.where(total > 0, total, 1)
        return np.asarray(gathered @ self._w[f"{name}attention.branch.outward.weight"].T)

    def _gate(self, token_MD: Floats, name: str) -> Floats | float:
        if f"{name}.weight" not in self._w:
            return 1.0
        return _sigmoid(token_MD @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"])

    def _norm(self, token_MD: Floats, name: str) -> Floats:
        centred = token_MD - token_MD.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return np.asarray(scaled * self._w[f"{name}.weight"] + self._w[f"{name}.bias"])


def _turned(vector_ME: Floats, position_M: Integers) -> Floats:
    """Number i and number i + E / 2 of the vector at position t, turned by t / 10000^(2 i / E)."""
    half = vector_ME.shape[1] // 2
    angle = position_M[:, None] * 10_000.0 ** (-np.arange(half) / half)
    first, second = vector_ME[:, :half], vector_ME[:, half:]
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)], 1
    )


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * value)))


# --- claims -----------------------------------------------------------------------------------------------------------


def _finite(weights: Mapping[str, Floats]) -> Claim:
    wrong = {name: int((~np.isfinite(value)).sum()) for name, value in weights.items()}
    bad = [name for name, count in wrong.items() if count]
    return Claim(
        name="weights_not_finite",
        kind="exact",
        value=float(sum(wrong.values())),
        limit=0.0,
        detail=f"All {sum(value.size for value in weights.values())} numbers of the product." + _first(bad),
    )


def _parts(log: Log, data: Payload) -> Claim:
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
        wrong += [
            f"row {row} of {earlier} is not before {later}"
            for row in parts[earlier][log.time[parts[earlier]] >= border]
        ]
    wrong += [f"row {row + 1} is earlier than the row before it" for row in np.flatnonzero(np.diff(log.time) < 0)]
    return Claim(
        name="time_order_violations",
        kind="exact",
        value=float(len(wrong)),
        limit=0.0,
        detail=f"{len(owner)} events in three parts: each in one, sessions whole, one part before the next."
        + _first(wrong),
    )


def _complete(log: Log, data: Payload, test: Scored) -> Claim:
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


def _again(reference: Reference, scored: Scored, name: str, sessions: int, seed: int) -> Claim:
    """Sampled sessions scored again; a missing score counts as infinitely far."""
    log = reference.log
    known = {int(row): place for place, row in enumerate(scored.rows)}
    every = np.unique(log.session[scored.rows])
    chosen = np.sort(np.random.default_rng(seed).permutation(every)[:sessions])
    worst, where, rows = 0.0, -1, 0
    for session in chosen.tolist():
        right = reference.session(session)
        shown = np.flatnonzero(log.session == session)
        rows += len(shown)
        for place, row in enumerate(shown.tolist()):
            said = scored.logit[known[row]] if row in known else np.full(right.shape[1], np.inf)
            away = float(np.abs(right[place] - said).max())
            if not away <= worst:
                worst, where = away, row
    return Claim(
        name=name,
        kind="bounded",
        value=worst,
        limit=SCORE,
        detail=f"Largest difference in logits over {rows} candidates of {len(chosen)} sessions, scored again in "
        f"float64 from the weights and from the events before each session; the largest is at row {where}.",
    )


def _alike(test: Scored) -> Claim:
    away = np.abs(np.asarray(test.logit, np.float64) - test.batch)
    value = float(away.max()) if away.size else 0.0
    return Claim(
        name="batch_score_difference",
        kind="bounded",
        value=value,
        limit=BATCH,
        detail=f"Largest difference in logits between one request after another and batches, {len(away)} candidates.",
    )


def _steps(weights: Mapping[str, Floats]) -> list[tuple[Floats, Floats]]:
    return [
        (table[0, : int(size)], table[1, : int(size)])
        for table, size in zip(weights["calibration"], weights["knots"].tolist(), strict=True)
    ]


def _disorder(weights: Mapping[str, Floats], test: Scored) -> Claim:
    wrong: list[str] = []
    for task, (score, chance) in enumerate(_steps(weights)):
        if not len(score):
            wrong.append(f"task {task} has no calibration")
        wrong += [f"task {task}: knot {place + 1} does not rise" for place in np.flatnonzero(~(np.diff(score) > 0))]
        wrong += [f"task {task}: chance {place + 1} does not rise" for place in np.flatnonzero(~(np.diff(chance) > 0))]
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


def _calibrated(weights: Mapping[str, Floats], log: Log, test: Scored, validation: Scored) -> list[Claim]:
    """Chances are the kept steps of the logits, and these are what the validation part alone gives."""
    worst, refit = 0.0, 0.0
    for task, (score, chance) in enumerate(_steps(weights)):
        if not len(score):
            worst = refit = math.inf
            continue
        right = _interpolated(np.asarray(test.logit[:, task], np.float64), score, chance)
        worst = max(worst, float(np.nan_to_num(np.abs(right - test.chance[:, task]), nan=np.inf).max(initial=0)))
        values = np.asarray(validation.logit[:, task], np.float64)
        again = _interpolated(values, *pooled(values, log.action[validation.rows, task]))
        refit = max(refit, float(np.abs(again - _interpolated(values, score, chance)).mean()))
    return [
        Claim(
            name="chance_error",
            kind="bounded",
            value=worst,
            limit=ROUNDING,
            detail=f"Largest difference between served chances and the kept steps of the served logits, "
            f"{len(test.rows)} candidates.",
        ),
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
    right = np.clip(np.searchsorted(score, value), 1, max(len(score) - 1, 1))
    if len(score) == 1:
        return np.full(len(value), chance[0])
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
    pairs = [(float(score.min()), mean), (float(score.max()), mean)]
    pairs += list(zip(score.tolist(), label.tolist(), strict=True))
    ties: dict[float, list[float]] = {}
    for value, truth in pairs:
        mass = ties.setdefault(value, [0.0, 0.0])
        mass[0] += 1
        mass[1] += truth
    blocks: list[list[float]] = []
    for value in sorted(ties):
        count, total = ties[value]
        blocks.append([count, total, count * value])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            last = blocks.pop()
            blocks[-1] = [old + new for old, new in zip(blocks[-1], last, strict=True)]
    table = np.array(blocks)
    return table[:, 2] / table[:, 0], table[:, 1] / table[:, 0]


def _counted(log: Log, test: Scored, metrics: Mapping[str, float]) -> list[Claim]:
    """Reported numbers counted again."""
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


def _honest(log: Log, test: Scored, margin: float) -> list[Claim]:
    """Whether the served chances of the main task meet the later rates, beyond what luck and drift explain."""
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
