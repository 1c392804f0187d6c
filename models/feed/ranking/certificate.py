"""An independent reference for the ranker: the network written out in float64, straight from the weights and the log.

Nothing here is shared with what it judges: neither the network nor its batches, neither the amortized pass nor the
metrics and the isotonic fit. The blocks stand in `models.common.written_out`, the log and what is counted again in
`models.feed.recounting`.
"""

# Shapes: L events of a history, N candidates of a session, M = L + N tokens, D width, V width of an item's vector, T
# tasks.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Certificate
from models.common.contracts import Payload
from models.common.written_out import Blocks, sigmoid
from models.feed import recounting
from models.feed.recounting import Log, Scored, elapsed

Floats = NDArray[np.float64]

BATCH = 2e-5
"""How far, in logits, the scores of a batch may be from those of one request after another."""


DAY = 86_400
SMOOTHING = 10.0
"""Events of the overall rate in every rate."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the weights alone do not say of a network."""

    heads: int
    history: int
    setwise: bool
    self_key: bool
    rotary: bool
    window: int
    rate_days: int = 0
    user_rate: bool = False


class WrittenOut(Protocol):
    """A network in plain float64, straight from its weights and the log."""

    def session(self, session: int) -> Floats:
        """Logits (N, T) of the rows of a session."""


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
    written_out: "Callable[[Mapping[str, Floats], Shape, Log], WrittenOut] | None" = None,
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
        written_out: makes the reference from weights, shape and log; None for that of LiGR.

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
        recounting.alike(
            "batch_score_difference",
            test.logit,
            test.batch,
            BATCH,
            "Largest difference in logits between one request after another and batches",
        ),
        recounting.disorder(plain, test),
        *recounting.calibrated(plain, log, test, validation),
        *recounting.counted(log, test, metrics),
        *recounting.honest(log, test, margin),
    ]
    if claims[0].holds:
        again = (written_out or Reference)(plain, shape, log).session
        claims += [
            recounting.scored_again(again, log, test, "served_score_error", sessions, seed),
            recounting.scored_again(again, log, validation, "validation_score_error", sessions, seed),
        ]
    return Certificate(claims=tuple(claims))


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
        event = [
            self._item(int(log.item[row]))
            + w["response.weight"] @ log.action[row]
            + w["response.bias"]
            + w["event_gap.weight"][code]
            + self._hour("event_hour", int(log.time[row]))
            for row, code in zip(past, log.gaps(past), strict=True)
        ]
        gap = elapsed(int(log.time[past[-1]]), began) if len(past) else 0
        shared = w["candidate"] + w["gap.weight"][gap] + self._hour("hour", began)
        if "users.weight" in w:
            shared = shared + w["users.weight"][log.user[rows[0]]]
        shown = [self._item(int(log.item[row])) + shared for row in rows]
        rates = [self._rates(int(row), began) for row in rows]
        if "rate.weight" in w:
            shown = [token + w["rate.weight"] @ told for token, told in zip(shown, rates, strict=True)]
        apart = any(name.startswith("session.") for name in w)
        hidden = self._stack("transformer", np.array(event + shown), len(past), together=not apart)[len(past) :]
        if apart:
            hidden = self._stack("session", hidden, 0, together=True)
        if "company.look.weight" in w:
            hidden = self._accompanied(hidden, [self._item(int(log.item[row])) for row in rows])
        out = np.array([self._head(one) for one in hidden]) + w["bias.weight"][log.item[rows]]
        return out + np.array(rates) @ w["odds.weight"].T if "odds.weight" in w else out

    def _accompanied(self, hidden: Floats, vector: list[Floats]) -> Floats:
        """Candidates that are told how many others are like them."""
        w, out = self._w, hidden.copy()
        width = hidden.shape[1]
        for here, seen in enumerate(vector):
            counts = []
            for way, sharpness in enumerate(np.exp(w["company.sharpness"])):
                look = w["company.look.weight"][way * width : (way + 1) * width]
                own = look @ seen
                total = 0.0
                for there, other in enumerate(vector):
                    if there != here:
                        theirs = look @ other
                        size = max(float(np.linalg.norm(own)), 1e-12) * max(float(np.linalg.norm(theirs)), 1e-12)
                        total += float(np.exp(sharpness * (own @ theirs / size - 1)))
                counts.append(total)
            gate = sigmoid(w["company.gate.weight"] @ hidden[here] + w["company.gate.bias"])
            out[here] += w["company.outward.weight"] @ np.array(counts) * gate
        return out

    def _rates(self, row: int, moment: int) -> Floats:
        """Log-odds of the rates of a row's item and user before a moment, those that are told."""
        log, days = self.log, self._shape.rate_days
        age = moment - log.time
        of_item = (log.item == log.item[row]) & (age > 0) & (age <= days * DAY)
        of_user = (log.user == log.user[row]) & (age > 0)
        told = [of_item] * (days > 0) + [of_user] * self._shape.user_rate
        return np.array([self._odds(log.action[which, 0], moment) for which in told])

    def _odds(self, label: Floats, moment: int) -> float:
        """Log-odds of the rate of some events, smoothed by that of all before a moment."""
        before = self.log.action[self.log.time < moment, 0]
        overall = (before.sum() + 1) / (len(before) + 2)
        chance = (label.sum() + SMOOTHING * overall) / (len(label) + SMOOTHING)
        return float(np.log(chance) - np.log(1 - chance))

    def _hour(self, table: str, time: int) -> Floats | float:
        name = f"{table}.weight"
        return self._w[name][time // 3600 % 24] if name in self._w else 0.0

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
            return np.asarray(w["head.2.weight"] @ (between * sigmoid(between)) + w["head.2.bias"])
        return np.asarray(w["head.0.weight"] @ hidden + w["head.0.bias"])

    def _stack(self, stack: str, token_MD: Floats, length: int, *, together: bool) -> Floats:
        """The blocks of a stack over events and then candidates, which see one another only when `together`."""
        blocks = Blocks(self._w, stack, heads=self._shape.heads, rotary=self._shape.rotary)
        sees_MM = self._sees(len(token_MD), length, together=together)
        return blocks(token_MD, sees_MM, np.minimum(np.arange(len(token_MD)), length))

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
