"""An independent reference for the scorer: the network written out in float64, straight from the weights and the log.

Nothing here is shared with what it judges: neither the network nor its batches, neither the amortized pass nor what is
kept between requests, neither the metrics nor the isotonic fit. Features of sampled rows are counted again from the
events before their session, and each candidate is appended to its history alone. The blocks stand in
`models.common.written_out`, the log and what is counted again in `models.feed.recounting`.
"""

# Shapes: L events of a history, N candidates of a session, M = L + 1 tokens, D width, T tasks, F features, C rows that
# were scored.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.contracts import Payload
from models.common.written_out import Blocks, sigmoid
from models.feed import recounting
from models.feed.events.leakage import recompute
from models.feed.events.table import Events
from models.feed.recounting import ROUNDING, Log, Scored

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SAME = 1e-6
"""How far, in chances before calibration, two ways of scoring in float32 may be apart."""
FEATURE = 1e-6
"""How far, relative to the larger of 1 and its value, a feature in float32 may be from one that is counted again."""
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
    claims = [
        recounting.finite(plain),
        recounting.parts_in_order(log, data),
        recounting.complete(data, test),
        _past_only(log, data, seed),
        _standard(plain, data),
        _appended(test, appended),
        _alike("batch_score_difference", test.logit, test.batch, "batches as in training"),
        recounting.disorder(plain, test),
        *recounting.calibrated(plain, log, test, validation),
        *recounting.counted(log, test, metrics),
        *recounting.honest(log, test, margin),
    ]
    if claims[0].holds:
        again = Reference(plain, shape, log, data).session
        claims += [
            recounting.scored_again(again, log, test, "served_score_error", sessions, seed),
            recounting.scored_again(again, log, validation, "validation_score_error", sessions, seed),
        ]
    return Certificate(claims=tuple(claims))


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
        self._blocks = Blocks(weights, "transformer", heads=shape.heads, rotary=shape.rotary)
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
            + w["gap.weight"][gap]
            for row, gap in zip(past, log.gaps(past), strict=True)
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
        return self._blocks(token_MD, sees_MM, np.arange(size))


def _numbered(weights: Mapping[str, Any], prefix: str) -> int:
    """How many numbered parts there are under a name."""
    found = {int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)}
    return len(found)


def _units(data: Payload) -> tuple[Floats, Floats]:
    """Mean and scale of the features over the training part."""
    rows = np.asarray(data["features"], np.float64)[np.asarray(data["train"])]
    mean = rows.sum(0) / len(rows)
    spread = np.sqrt(((rows - mean) ** 2).sum(0) / len(rows))
    spread[spread <= 1e-9] = 1
    return mean, spread


# --- claims that this network alone needs -----------------------------------------------------------------------------


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


def _alike(name: str, ours: NDArray[Any], theirs: NDArray[Any], what: str) -> Claim:
    detail = f"Largest difference in chances before calibration between one request after another and {what}"
    return recounting.alike(name, sigmoid(ours), sigmoid(theirs), SAME, detail)


def _appended(test: Scored, appended: tuple[Integers, NDArray[Any]]) -> Claim:
    known = {int(row): place for place, row in enumerate(test.rows)}
    missing = np.full(test.logit.shape[1], np.nan)
    said = [test.logit[known[row]] if row in known else missing for row in appended[0].tolist()]
    ours = np.array(said).reshape(-1, test.logit.shape[1])
    return _alike("append_score_difference", ours, appended[1], "each candidate alone after a history of its own")
