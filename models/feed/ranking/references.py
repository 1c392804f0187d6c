"""The baselines written out in float64, straight from their weights and the log: the judges of their certificates.

Nothing is shared with what they judge. Counting features are counted by comparing every event of the log with the one
that is asked about; attention is a loop over candidates and events.
"""

# Shapes: L events of a history, N candidates of a session, D width, E width of a head, T tasks, F counting features.

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.written_out import sigmoid
from models.feed.ranking.certificate import DAY, SMOOTHING, Reference, Shape, WrittenOut
from models.feed.recounting import Log, elapsed

Floats = NDArray[np.float64]


class Counted:
    """Scores by counting features alone: logistic regression, and what the other baselines build on.

    Args:
        weights: by name, float64.
        shape: of the network.
        log: the events.

    Source:
        The formulae at the top of `baselines`, `counts` and `models.feed.events.features`, read again.
    """

    def __init__(self, weights: Mapping[str, Floats], shape: Shape, log: Log) -> None:
        self.w, self.shape, self.log = weights, shape, log

    def session(self, session: int) -> Floats:
        """Logits (N, T) of the rows of a session."""
        rows = np.flatnonzero(self.log.session == session)
        return np.array([self.line("linear", self.counts(int(row))) for row in rows])

    def line(self, name: str, value: Floats) -> Floats:
        """A matrix times a vector, and its bias where it has one."""
        out = self.w[f"{name}.weight"] @ value
        return np.asarray(out + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else out)

    def norm(self, name: str, value: Floats) -> Floats:
        """A vector less its mean, over its deviation, scaled and moved."""
        centred = value - value.mean()
        scaled = centred / math.sqrt(float((centred**2).mean()) + 1e-5)
        return np.asarray(scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"])

    def counts(self, row: int) -> Floats:
        """(F) features of a row, counted from the events before its session."""
        log = self.log
        moment = int(log.time[log.session == log.session[row]].min())
        past = log.time < moment
        time, label = log.time[past], log.action[past, 0]
        mine, same = log.user[past] == log.user[row], log.item[past] == log.item[row]
        wanted = set(log.categories[int(log.item[row])])
        shared = np.array([len(wanted & set(known)) for known in log.categories], np.float64)[log.item[past]]
        recent = {days: moment - time <= days * DAY for days in (1, 7, 30)}
        overall = (label.sum() + 1) / (len(label) + 2)

        def odds(weight: NDArray[Any]) -> float:
            chance = ((weight * label).sum() + SMOOTHING * overall) / (weight.sum() + SMOOTHING)
            return math.log(chance) - math.log(1 - chance)

        def size(weight: NDArray[Any]) -> float:
            return math.log(1 + float(weight.sum())) / 10

        def since(which: NDArray[Any], place: int) -> float:
            return math.log(1 + moment - int(time[which][place])) / 10 if which.any() else 0.0

        share = len(log.categories) * float((same & recent[7]).sum()) / max(float(recent[7].sum()), 1.0)
        day, week = 2 * math.pi * (moment % DAY) / DAY, 2 * math.pi * (moment % (7 * DAY)) / (7 * DAY)
        return np.array(
            [
                *(odds(weight) for weight in (mine, same, mine * shared, shared, mine & same)),
                *(size(weight) for weight in (mine, same, mine * shared, mine & same)),
                *(since(mine, -1), since(same, -1), float(mine.any()), float(same.any()), since(same, 0)),
                *(size(same & recent[days]) for days in (1, 7, 30)),
                *(math.log(1 + share), odds(same & recent[7])),
                *(math.sin(day), math.cos(day), math.sin(week), math.cos(week)),
            ]
        )


class Told(Counted):
    """The tokens of LiGR: events before a session and its candidates."""

    def item(self, item: int) -> Floats:
        """(D) an item, by itself and by its categories."""
        vector = self.w["items.weight"][item]
        known = self.log.categories[item]
        if known:
            vector = vector + sum(self.w["categories.weight"][one] for one in known) / len(known)
        return np.asarray(self.w["project.weight"] @ vector)

    def hour(self, table: str, time: int) -> Floats | float:
        """(D) the hour of the day, where it is told."""
        name = f"{table}.weight"
        return self.w[name][time // 3600 % 24] if name in self.w else 0.0

    def asked(self, session: int) -> tuple[list[Floats], list[int], Floats]:
        """Tokens of the history, items shown, and what all candidates of the session are told."""
        log = self.log
        past, _ = log.asked(session, self.shape.history)
        event = [
            self.item(int(log.item[row]))
            + self.line("response", log.action[row])
            + self.w["event_gap.weight"][code]
            + self.hour("event_hour", int(log.time[row]))
            for row, code in zip(past, log.gaps(past), strict=True)
        ]
        return event, *self.shown(session)

    def shown(self, session: int) -> tuple[list[int], Floats]:
        """Items shown, and what all candidates of the session are told."""
        log, w = self.log, self.w
        past, rows = log.asked(session, self.shape.history)
        began = int(log.time[rows].min())
        gap = elapsed(int(log.time[past[-1]]), began) if len(past) else 0
        moment = w["candidate"] + w["gap.weight"][gap] + self.hour("hour", began)
        if "users.weight" in w:
            moment = moment + w["users.weight"][log.user[rows[0]]]
        return [int(log.item[row]) for row in rows], moment


class Crossed(Told):
    """DCNv2."""

    def session(self, session: int) -> Floats:
        """Logits (N, T) of the rows of a session."""
        items, moment = self.shown(session)
        rows = np.flatnonzero(self.log.session == session)
        return np.array([self._one(item, moment, int(row)) for item, row in zip(items, rows, strict=True)])

    def _one(self, item: int, moment: Floats, row: int) -> Floats:
        first = np.concatenate([self.item(item), moment, self.counts(row)])
        crossed = first
        for layer in range(sum(name.startswith("cross.") and name.endswith(".weight") for name in self.w)):
            crossed = first * self.line(f"cross.{layer}.inward", crossed) + crossed
        deep = np.maximum(self.line("deep.0", first), 0)
        deep = np.maximum(self.line("deep.3", deep), 0)
        return np.asarray(self.line("head", np.concatenate([crossed, deep])) + self.w["bias.weight"][item])


class Interested(Told):
    """DIN."""

    def session(self, session: int) -> Floats:
        """Logits (N, T) of the rows of a session."""
        event, items, moment = self.asked(session)
        return np.array([self._one(event, item, moment) for item in items])

    def _one(self, event: list[Floats], item: int, moment: Floats) -> Floats:
        candidate = self.item(item) + moment
        interest = np.zeros_like(candidate)
        for one in event:
            pair = np.concatenate([one, candidate, one - candidate, one * candidate])
            weight = self.line("weight", self._turned("weigh_turn", self.line("weigh", pair)))
            interest = interest + weight[0] * one
        joined = np.concatenate([interest, candidate, interest * candidate])
        tower = self._turned("tower_turn", self.line("tower", joined))
        return np.asarray(self.line("head", tower) + self.w["bias.weight"][item])

    def _turned(self, name: str, value: Floats) -> Floats:
        return np.where(value > 0, value, self.w[f"{name}.weight"][0] * value)


class Met(Told):
    """SASRec: softmax attention over the history, then an inner product."""

    def session(self, session: int) -> Floats:
        """Logits (N, T) of the rows of a session."""
        event, items, moment = self.asked(session)
        stream = [self.w["opening"], *event]
        for layer in range(len({name.split(".")[1] for name in self.w if name.startswith("blocks.")})):
            stream = self._block(f"blocks.{layer}", stream)
        width = len(moment)
        asked = self.line("ask", self.norm("norm", stream[-1])).reshape(-1, width)
        return np.array(
            [asked @ (self.item(item) + moment) / math.sqrt(width) + self.w["bias.weight"][item] for item in items]
        )

    def _block(self, name: str, stream: list[Floats]) -> list[Floats]:
        normed = [self.norm(f"{name}.attention_norm", one) for one in stream]
        split = [np.split(self.w[f"{name}.attention.inward.weight"] @ one, 3) for one in normed]
        each = len(normed[0]) // self.shape.heads
        out = []
        for now in range(len(stream)):
            gathered = []
            for head in range(self.shape.heads):
                part = slice(head * each, (head + 1) * each)
                query = _turned(split[now][0][part], now)
                score = np.array([query @ _turned(split[at][1][part], at) for at in range(now + 1)]) / math.sqrt(each)
                weight = np.exp(score - score.max())
                gathered.append(weight / weight.sum() @ np.array([split[at][2][part] for at in range(now + 1)]))
            change = self.w[f"{name}.attention.outward.weight"] @ np.concatenate(gathered)
            after = stream[now] + change
            hidden = np.maximum(self.line(f"{name}.inward", self.norm(f"{name}.norm", after)), 0)
            out.append(after + self.line(f"{name}.outward", hidden))
        return out


def _turned(vector: Floats, position: int) -> Floats:
    """Number i and number i + E / 2 turned by position / 10000^(2 i / E)."""
    half = len(vector) // 2
    out = np.empty_like(vector)
    for pair in range(half):
        angle = position / 10_000.0 ** (pair / half)
        one, other = vector[pair], vector[pair + half]
        out[pair] = one * math.cos(angle) - other * math.sin(angle)
        out[pair + half] = one * math.sin(angle) + other * math.cos(angle)
    return out


class Transduced(Told):
    """HSTU: attention without softmax, gated; a candidate sees the history and itself."""

    def session(self, session: int) -> Floats:
        """Logits (N, T) of the rows of a session."""
        event, items, moment = self.asked(session)
        stream = event + [self.item(item) + moment for item in items]
        for layer in range(len({name.split(".")[1] for name in self.w if name.startswith("blocks.")})):
            stream = self._block(f"blocks.{layer}", stream, len(event))
        return np.array(
            [
                self.line("head", self.norm("norm", hidden)) + self.w["bias.weight"][item]
                for hidden, item in zip(stream[len(event) :], items, strict=True)
            ]
        )

    def _block(self, name: str, stream: list[Floats], length: int) -> list[Floats]:
        w, heads = self.w, self.shape.heads
        inner = [w[f"{name}.inward.weight"] @ self.norm(f"{name}.norm", one) for one in stream]
        split = [np.split(one * sigmoid(one), 4) for one in inner]
        each = len(stream[0]) // heads
        out = []
        for now in range(len(stream)):
            seen = [*range(min(now, length)), now]
            gathered = np.zeros(len(stream[0]))
            for head in range(heads):
                part = slice(head * each, (head + 1) * each)
                for at in seen:
                    code = min((1 + min(now, length) - min(at, length)).bit_length() - 1, 19)
                    score = split[now][2][part] @ split[at][3][part] + w[f"{name}.distance"][code, head]
                    gathered[part] += score * sigmoid(score) / len(seen) * split[at][1][part]
            change = self.norm(f"{name}.gathered_norm", gathered) * split[now][0]
            out.append(stream[now] + w[f"{name}.outward.weight"] @ change)
        return out


REFERENCES: Mapping[str, Callable[[Mapping[str, Floats], Shape, Log], WrittenOut]] = {
    "LiGR": Reference,
    "Logistic": Counted,
    "CrossNetwork": Crossed,
    "InterestNetwork": Interested,
    "SasRec": Met,
    "Hstu": Transduced,
}
"""References by the name of the network's class."""
