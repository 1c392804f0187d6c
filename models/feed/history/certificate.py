"""An independent reference for the scorer: the network written out in float64, straight from the weights and the log.

Nothing here is shared with what it judges: neither the network nor its batches, neither the amortized pass nor what is
kept between requests, neither the metrics nor the isotonic fit. Histories are found again in the log by comparing
times, features of sampled rows are counted again from the events before their session, each candidate is appended to
its history alone, attention is a loop over heads, AUC is counted, and the calibration is fitted again by pooling
neighbours one by one.
"""

# Shapes: L events of a history, N candidates of a session, M = L + 1 tokens, D width, E width of a head, T tasks, F
# features, C rows that were scored, K knots.

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.contracts import Payload
from models.feed.events.leakage import recompute
from models.feed.events.table import Events

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SCORE = 2e-5
"""How far, in logits, a float32 score may be from the reference: about 200 roundings of a number of size one."""
SAME = 1e-6
"""How far, in chances before calibration, two ways of scoring in float32 may be apart."""
FEATURE = 1e-6
"""How far, relative to the larger of 1 and its value, a feature in float32 may be from one that is counted again."""
ROUNDING = 1e-9
REFIT = 1e-3
"""How far, on average over the validation part, the kept calibration may be from one that is fitted again; the fit
pools scores before it where it would have more knots than are kept."""
SIGMAS = 4.0
"""Standard errors that chance is allowed: 1 in 16,000 honest scorers fails."""
DRAWS = 200
COUNTED_AGAIN = 40
"""Rows of the test part whose features are counted again."""
OUTERMOST = 8.0
"""Standard deviations at which features end."""

NAMES = (
    "user_rate", "item_rate", "user_category_rate", "category_rate", "pair_rate",
    "user_count", "item_count", "user_category_count", "pair_count",
    "user_recency", "item_recency", "user_known", "item_known", "item_age",
    "item_day", "item_week", "item_month", "item_week_share", "item_week_rate",
    "hour_sine", "hour_cosine", "weekday_sine", "weekday_cosine",
)  # fmt: skip
"""Features in the order of the data set's columns."""
REQUEST = ("user_rate", "user_count", "user_recency", "user_known",
           "hour_sine", "hour_cosine", "weekday_sine", "weekday_cosine")  # fmt: skip
"""Those that do not depend on the candidate, in the order in which the network reads them."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the weights alone do not say of a network."""

    form: str
    heads: int
    rotary: bool
    history: int
    stride: int
    last: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What the fast path said.

    Attributes:
        rows: (C) row numbers of events.
        logit: (C, T) their logits, asked one session after another, histories kept in between.
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
    appended: tuple[Integers, NDArray[Any]],
    metrics: Mapping[str, float],
    sessions: int,
    seed: int,
    margin: float,
) -> Certificate:
    """Say how far a scorer is from what it should be.

    Args:
        weights: of the product, by name.
        shape: of the network.
        data: the data set: events, items, features, parts.
        test: scores of the test part.
        validation: scores of the validation part; their chances are not read.
        appended: rows of sampled sessions and their logits, each candidate alone after a history of its own.
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
    claims = [_finite(plain), _parts(log, data), _complete(log, data, test), _past_only(log, data, seed)]
    claims.append(_standard(plain, data))
    if claims[0].holds:
        reference = Reference(plain, shape, log, data)
        claims += [
            _again(reference, test, "served_score_error", sessions, seed),
            _again(reference, validation, "validation_score_error", sessions, seed),
        ]
    claims += [_appended(test, appended), _alike(test)]
    claims += [_disorder(plain, test), *_calibrated(plain, log, test, validation)]
    claims += [*_counted(log, test, metrics), *_honest(log, test, margin)]
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

    def asked(self, session: int, history: int, stride: int) -> tuple[Integers, Integers]:
        """Rows of what a session sees of its user's past, and rows of the session.

        Of more than `history` events the oldest are passed over, `stride` at a time, until the rest is short enough.
        """
        rows = np.flatnonzero(self.session == session)
        past = np.flatnonzero((self.user == self.user[rows[0]]) & (self.time < self.time[rows].min()))
        passed = 0
        while len(past) - passed > history:
            passed += stride
        return past[passed:], rows

    def gap(self, row: int) -> int:
        """Binary digits of 1 + the seconds since the user's event before, at most 39; 0 for none."""
        earlier = np.flatnonzero(self.user[:row] == self.user[row])
        return min((1 + int(self.time[row] - self.time[earlier[-1]])).bit_length(), 39) if len(earlier) else 0


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


# --- the network, written out -----------------------------------------------------------------------------------------


class Reference:
    """Scores of a session from weights and log, in float64, each candidate by itself.

    Args:
        weights: by name, float64.
        shape: of the network.
        log: the events.
        data: the data set: its features, and the training part that gives their mean and scale.

    Source:
        The formulae at the top of `network.py` and of `models.common.transformer`, read again.
    """

    def __init__(self, weights: Mapping[str, Floats], shape: Shape, log: Log, data: Payload) -> None:
        self._w, self._shape, self.log = weights, shape, log
        self._layers = _numbered(weights, "transformer.blocks.")
        self._mean, self._scale = _units(data)
        self._features = data["features"]
        self._request = [NAMES.index(name) for name in REQUEST]
        self._own = [place for place, name in enumerate(NAMES) if name not in REQUEST]

    def session(self, session: int) -> Floats:
        """Logits (N, T) of the rows of a session."""
        log, w = self.log, self._w
        past, rows = log.asked(session, self._shape.history, self._shape.stride)
        event = [
            w["event.weight"] @ self._item(int(log.item[row]))[0]
            + w["response.weight"] @ log.action[row]
            + w["response.bias"]
            + w["gap.weight"][log.gap(int(row))]
            for row in past
        ]
        history_LD = np.array(event).reshape(len(past), len(w["response.bias"]))
        return np.array([self._candidate(int(row), history_LD) for row in rows])

    def _candidate(self, row: int, history_LD: Floats) -> Floats:
        log, w = self.log, self._w
        whole, own, told = self._item(int(log.item[row]))
        unit = np.clip((np.asarray(self._features[row], np.float64) - self._mean) / self._scale, -OUTERMOST, OUTERMOST)
        candidate = w["candidate.weight"] @ whole + w["candidate.bias"]
        length = len(history_LD)
        head = [w["users.weight"][log.user[row]], unit[self._request]]
        tail = [own, told, unit[self._own]]
        if self._shape.form == "concat":
            joined = np.concatenate([history_LD, np.tile(candidate, (length, 1))], 1)
            tokens = joined @ w["fuse.weight"].T + w["fuse.bias"]
            tail.append(self._pool(self._stack(tokens, length)))
        else:
            hidden = self._stack(np.concatenate([history_LD, candidate[None]]), length)
            head.append(self._pool(hidden[:length]))
            tail.append(hidden[length])
        return self._head(np.concatenate(head + tail))

    def _item(self, item: int) -> tuple[Floats, Floats, Floats]:
        """An item: own embedding and mean of its categories' added up, and each alone."""
        own = self._w["items.weight"][item]
        known = self.log.categories[item]
        told = np.mean([self._w["categories.weight"][one] for one in known], 0) if known else np.zeros_like(own)
        return own + told, own, told

    def _pool(self, hidden_LD: Floats) -> Floats:
        length, width = hidden_LD.shape
        nothing = np.zeros(width)
        parts = [hidden_LD[length - 1 - back] if back < length else nothing for back in range(self._shape.last)]
        return np.concatenate([*parts, hidden_LD.max(0) if length else nothing])

    def _head(self, first: Floats) -> Floats:
        w, now = self._w, first
        for layer in range(_numbered(w, "head.cross.")):
            name, narrow = f"head.cross.{layer}.", now
            if f"{name}inward.weight" in w:
                narrow = w[f"{name}inward.weight"] @ now
            now = first * (w[f"{name}outward.weight"] @ narrow + w[f"{name}outward.bias"]) + now
        for layer in range(_numbered(w, "head.hidden.")):
            now = np.maximum(w[f"head.hidden.{layer}.weight"] @ now + w[f"head.hidden.{layer}.bias"], 0)
        return np.asarray(w["head.tasks.weight"] @ now + w["head.tasks.bias"])

    def _stack(self, token_MD: Floats, length: int) -> Floats:
        """Hidden states of `length` events and, if there is a token more, of the candidate after them."""
        size = len(token_MD)
        sees_MM = np.tril(np.ones((size, size), bool))
        if size > length:
            sees_MM[length, length] = self._shape.form == "append with self key"
        for layer in range(self._layers):
            name = f"transformer.blocks.{layer}."
            change = self._attention(self._norm(token_MD, f"{name}attention.norm"), name, sees_MM)
            token_MD = token_MD + change * self._gate(token_MD, f"{name}attention.gate")
            inner = (
                self._norm(token_MD, f"{name}feed_forward.norm") @ self._w[f"{name}feed_forward.branch.inward.weight"].T
            )
            opening, passing = inner[:, : inner.shape[1] // 2], inner[:, inner.shape[1] // 2 :]
            change = (opening * _sigmoid(opening) * passing) @ self._w[f"{name}feed_forward.branch.outward.weight"].T
            token_MD = token_MD + change * self._gate(token_MD, f"{name}feed_forward.gate")
        return self._norm(token_MD, "transformer.norm")

    def _attention(self, token_MD: Floats, name: str, sees_MM: NDArray[np.bool_]) -> Floats:
        width = token_MD.shape[1]
        each = width // self._shape.heads
        split = token_MD @ self._w[f"{name}attention.branch.inward.weight"].T
        gathered = np.zeros_like(token_MD)
        for head in range(self._shape.heads):
            query, key, value = (split[:, at + head * each : at + (head + 1) * each] for at in (0, width, 2 * width))
            if self._shape.rotary:
                query, key = _turned(query), _turned(key)
            for row, seen in enumerate(sees_MM):
                if seen.any():
                    score = key[seen] @ query[row] / math.sqrt(each)
                    weight = np.exp(score - score.max())
                    gathered[row, head * each : (head + 1) * each] = weight @ value[seen] / weight.sum()
        return np.asarray(gathered @ self._w[f"{name}attention.branch.outward.weight"].T)

    def _gate(self, token_MD: Floats, name: str) -> Floats | float:
        if f"{name}.weight" not in self._w:
            return 1.0
        return _sigmoid(token_MD @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"])

    def _norm(self, token_MD: Floats, name: str) -> Floats:
        centred = token_MD - token_MD.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return np.asarray(scaled * self._w[f"{name}.weight"] + self._w[f"{name}.bias"])


def _numbered(weights: Mapping[str, Any], prefix: str) -> int:
    """How many numbered parts there are under a name."""
    found = {int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)}
    return len(found)


def _turned(vector_ME: Floats) -> Floats:
    """Number i and number i + E / 2 of the vector at position t, turned by t / 10000^(2 i / E)."""
    half = vector_ME.shape[1] // 2
    angle = np.arange(len(vector_ME))[:, None] * 10_000.0 ** (-np.arange(half) / half)
    first, second = vector_ME[:, :half], vector_ME[:, half:]
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)], 1
    )


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * value)))


def _units(data: Payload) -> tuple[Floats, Floats]:
    """Mean and scale of the features over the training part."""
    rows = np.asarray(data["features"], np.float64)[np.asarray(data["train"])]
    mean = rows.sum(0) / len(rows)
    spread = np.sqrt(((rows - mean) ** 2).sum(0) / len(rows))
    spread[spread <= 1e-9] = 1
    return mean, spread


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


def _past_only(log: Log, data: Payload, seed: int) -> Claim:
    """Features of sampled test rows against what the events before their session give."""
    rows = np.random.default_rng(seed).permutation(np.asarray(data["test"], np.int64))[:COUNTED_AGAIN]
    events, attribute = Events.from_payload(data), data["layout"]["categories"]
    worst, where = 0.0, ""
    for row in np.sort(rows).tolist():
        moment = int(log.time[log.session == log.session[row]].min())
        past = events.take(log.time < moment)
        right = recompute(past, int(log.user[row]), int(log.item[row]), moment, attribute)
        for place, name in enumerate(NAMES):
            away = abs(float(data["features"][row, place]) - right[name]) / max(1.0, abs(right[name]))
            if not away <= worst:
                worst, where = away, f"{name} of row {row}"
    return Claim(
        name="feature_error",
        kind="bounded",
        value=worst,
        limit=FEATURE,
        detail=f"Largest relative difference over {len(NAMES)} features of {len(rows)} test rows, counted again from "
        f"the events before their sessions; the largest is {where or 'zero'}.",
    )


def _standard(weights: Mapping[str, Floats], data: Payload) -> Claim:
    mean, scale = _units(data)
    away = np.concatenate([np.abs(weights["mean"] - mean), np.abs(weights["scale"] - scale)])
    size = np.maximum(1, np.concatenate([np.abs(mean), scale]))
    value = float(np.nan_to_num(away / size, nan=np.inf).max())
    return Claim(
        name="standard_unit_error",
        kind="bounded",
        value=value,
        limit=ROUNDING,
        detail=f"Kept mean and scale of {len(mean)} features against those of the training part alone, relative to "
        f"the larger of 1 and the value.",
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


def _apart(name: str, ours: NDArray[Any], theirs: NDArray[Any], what: str) -> Claim:
    away = np.abs(_sigmoid(np.asarray(ours, np.float64)) - _sigmoid(np.asarray(theirs, np.float64)))
    value = float(np.nan_to_num(away, nan=np.inf).max()) if away.size else 0.0
    return Claim(
        name=name,
        kind="bounded",
        value=value,
        limit=SAME,
        detail=f"Largest difference in chances before calibration between one request after another and {what}, "
        f"{len(away)} candidates.",
    )


def _appended(test: Scored, appended: tuple[Integers, NDArray[Any]]) -> Claim:
    known = {int(row): place for place, row in enumerate(test.rows)}
    missing = np.full(test.logit.shape[1], np.nan)
    said = [test.logit[known[row]] if row in known else missing for row in appended[0].tolist()]
    ours = np.array(said).reshape(-1, test.logit.shape[1])
    return _apart("append_score_difference", ours, appended[1], "each candidate alone after a history of its own")


def _alike(test: Scored) -> Claim:
    return _apart("batch_score_difference", test.logit, test.batch, "batches as in training")


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
    sure = max(0.0, abs(float(off.sum())) - SIGMAS * math.sqrt(float((off**2).sum()))) / total
    found = _binned(chance, label)
    draw = np.random.default_rng(0)
    luck = [_binned(chance, (draw.random(len(chance)) < chance).astype(np.float64)) for _ in range(DRAWS)]
    more = max(0.0, found - float(np.mean(luck)) - SIGMAS * float(np.std(luck)))
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
            value=more / (total / max(len(label), 1)),
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
