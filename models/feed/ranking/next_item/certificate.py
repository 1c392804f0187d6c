"""An independent reference for next-item ranking: network, protocol, counters and places written out plainly.

Nothing here is shared with what it judges: neither the network nor its batches and scores, neither the split nor the
counters nor the metrics. The parts are found again in the log, the network is computed in float64 straight from the
weights, attention is a loop over heads and events, pairs are counted in dictionaries, and places by a loop over items.
"""

# Shapes: L events of a history, D width, E width of a head, I items, Q users of the test, S users looked at again.

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.contracts import Payload
from models.common.written_out import sigmoid
from models.feed import recounting

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SCORE = 1e-5
"""How far a float32 score may be from the reference, as a share of the user's largest score: about 100 roundings."""
ROUNDING = 1e-9
COUNTED = 1e-5
"""The same for scores of a counter."""
NEVER = 2**62
Z = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the weights alone do not say of a network."""

    block: str
    heads: int
    history: int
    similarity: str
    temperature: float


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How a counter counts; see `models.feed.events.counting`."""

    window: int
    power: float
    backward: float
    recency: float
    tau: float
    keep: int
    both: bool
    """Whether a pair is divided by the roots of the sums of row and column, or by the sum of its row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What the fast path said of the test.

    Attributes:
        user: (Q) users.
        target: (Q) items to be found.
        rank: name of a score to (Q) places of the targets: `model`, `counter`, `companions`, `hybrid`, `popularity`,
            and `oracle` where the law of the sequences is known.
        sampled: (S) places in `user` that are looked at again.
        logit: (S, I) scores of the network for these; minus infinity for items that training never met.
        weight: of the counter in the hybrid.
        scale: of the counter in the hybrid.
    """

    user: Integers
    target: Integers
    rank: Mapping[str, Integers]
    sampled: Integers
    logit: NDArray[Any]
    weight: float
    scale: float


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How far below another the lower end of an interval of the NDCG's difference may lie."""

    counter: float
    popularity: float


def certify(
    *,
    weights: Mapping[str, Any],
    shape: Shape,
    data: Payload,
    answers: Answers,
    counter: Counting,
    companions: Counting,
    metrics: Mapping[str, float],
    margins: Margins,
) -> Certificate:
    """Say how far a ranker of next items is from what it should be.

    Args:
        weights: of the product, by name.
        shape: of the network.
        data: the data set: events, items, parts.
        answers: of the fast path.
        counter: how the counter of the table counts.
        companions: how the one counts that is an input.
        metrics: what was reported.
        margins: of the statistical claims.

    Returns:
        The certificate.

    Source:
        Ours.
    """
    plain = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    log = Log.of(data)
    claims = [recounting.finite(plain), _protocol(log, data), _known(log, plain), _asked(log, answers)]
    sound = all(claim.holds for claim in claims)
    if sound:
        claims += _again(Reference(plain, shape), log, answers, counter, companions, Law.of(data))
    claims += _recounted(answers, metrics)
    claims += [
        _above(answers, "counter", margins.counter),
        _above(answers, "popularity", margins.popularity),
    ]
    return Certificate(claims=tuple(claims))


# --- the log ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Log:
    """The rows of every user in the order of the log, and what they are for, found anew."""

    items: int
    item: list[int]
    time: list[int]
    rows: dict[int, list[int]]

    @classmethod
    def of(cls, data: Payload) -> "Log":
        """The log of a data set."""
        table = data["events"]
        rows: dict[int, list[int]] = {}
        for row, user in enumerate(table["user"].to_pylist()):
            rows.setdefault(user, []).append(row)
        return cls(
            items=data["items"].num_rows,
            item=table["item"].to_pylist(),
            time=table["time"].to_pylist(),
            rows=rows,
        )

    def training(self, user: int) -> list[int]:
        """Items of a user's training rows, oldest first."""
        rows = self.rows[user]
        return [self.item[row] for row in (rows[:-2] if len(rows) > 2 else rows)]

    def before_test(self, user: int) -> list[int]:
        """Items that a user met before her test event, oldest first."""
        return [self.item[row] for row in self.rows[user][:-1]]


def _protocol(log: Log, data: Payload) -> Claim:
    """The last event of everyone with three or more is the test, the one before it the validation, the rest trains."""
    right = {"train": set[int](), "validation": set[int](), "test": set[int]()}
    for rows in log.rows.values():
        held = len(rows) > 2
        right["train"].update(rows[:-2] if held else rows)
        if held:
            right["validation"].add(rows[-2])
            right["test"].add(rows[-1])
    wrong: list[str] = []
    for name, expected in right.items():
        said = np.asarray(data[name], np.int64).tolist()
        wrong += [f"row {row} should be in {name}" for row in sorted(expected - set(said))]
        wrong += [f"row {row} should not be in {name}" for row in sorted(set(said) - expected)]
        if len(said) != len(set(said)):
            wrong.append(f"a row is in {name} twice")
    falls = [row + 1 for row in range(len(log.time) - 1) if log.time[row + 1] < log.time[row]]
    wrong += [f"row {row} is earlier than the row before it" for row in falls]
    return Claim(
        name="protocol_violations",
        kind="exact",
        value=float(len(wrong)),
        limit=0.0,
        detail=f"Last two events of {len(right['test'])} of {len(log.rows)} users held out, all else trained on, found "
        f"again in the log." + _first(wrong),
    )


def _known(log: Log, weights: Mapping[str, Floats]) -> Claim:
    """Whether exactly the items of the training part can be recommended."""
    met = {item for user in log.rows for item in log.training(user)}
    said = weights["known"].tolist()
    wrong = [f"item {item}" for item in range(log.items) if (item in met) != (item < len(said) and said[item] == 1)]
    return Claim(
        name="items_wrongly_known",
        kind="exact",
        value=float(len(wrong) + abs(len(said) - log.items)),
        limit=0.0,
        detail=f"{len(met)} of {log.items} items are in the training part; no other is recommended." + _first(wrong),
    )


def _asked(log: Log, answers: Answers) -> Claim:
    """Whether everyone with a test event was asked about once, with the right target."""
    right = {user: log.item[rows[-1]] for user, rows in log.rows.items() if len(rows) > 2}
    wrong, found = [], set[int]()
    for user, target in zip(answers.user.tolist(), answers.target.tolist(), strict=False):
        if user in found or right.get(user) != target:
            wrong.append(f"user {user} with item {target}")
        found.add(user)
    wrong += [f"user {user} was not asked about" for user in sorted(set(right) - found)]
    sizes = {len(rank) for rank in answers.rank.values()} | {len(answers.user), len(answers.target)}
    if len(sizes) > 1:
        wrong.append(f"there are {sorted(sizes)} places and users")
    return Claim(
        name="questions_wrong",
        kind="exact",
        value=float(len(wrong)),
        limit=0.0,
        detail=f"{len(right)} users whose last event is to be found." + _first(wrong),
    )


# --- the network, written out -----------------------------------------------------------------------------------------


class Reference:
    """Scores of all items from the weights and a history, in float64.

    Args:
        weights: by name, float64.
        shape: of the network.

    Source:
        The formulae at the top of `network.py` and of its blocks, read again.
    """

    def __init__(self, weights: Mapping[str, Floats], shape: Shape) -> None:
        self._w, self._shape = weights, shape
        self.known = weights["known"] == 1

    def scores(self, history: Sequence[int]) -> Floats:
        """(I) scores of all items; minus infinity for items that training never met."""
        w, latest = self._w, list(history)[-self._shape.history :]
        vectors = w["items.weight"]
        if not latest:
            return np.where(self.known, 0.0, -np.inf)
        event = np.array([vectors[item] + w["positions.weight"][len(latest) - 1 - t] for t, item in enumerate(latest)])
        layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
        block = {"ligr": self._gated, "sasrec": self._plain, "hstu": self._pointwise}[self._shape.block]
        for layer in range(layers):
            event = block(event, f"blocks.{layer}.")
        state = (self._norm(event, "norm") if "norm.weight" in w else event)[-1]
        if self._shape.similarity == "cosine":
            state = state / max(math.sqrt(float(state @ state)), 1e-6)
            vectors = vectors / np.maximum(np.sqrt((vectors * vectors).sum(1, keepdims=True)), 1e-6)
        return np.where(self.known, vectors @ state / self._shape.temperature, -np.inf)

    def _gated(self, event_LD: Floats, name: str) -> Floats:
        normed = self._norm(event_LD, f"{name}attention_norm")
        change = self._attention(normed, normed, name)
        event_LD = event_LD + change * self._gate(event_LD, f"{name}attention_gate")
        inner = self._norm(event_LD, f"{name}inner_norm") @ self._w[f"{name}opening.weight"].T
        opened, passing = inner[:, : inner.shape[1] // 2], inner[:, inner.shape[1] // 2 :]
        change = (opened * sigmoid(opened) * passing) @ self._w[f"{name}closing.weight"].T
        return np.asarray(event_LD + change * self._gate(event_LD, f"{name}inner_gate"))

    def _plain(self, event_LD: Floats, name: str) -> Floats:
        normed = self._norm(event_LD, f"{name}attention_norm")
        event_LD = self._norm(normed + self._attention(normed, event_LD, name), f"{name}inner_norm")
        return np.asarray(
            event_LD + self._line(np.maximum(self._line(event_LD, f"{name}opening"), 0), f"{name}closing")
        )

    def _pointwise(self, event_LD: Floats, name: str) -> Floats:
        split = self._line(self._norm(event_LD, f"{name}norm"), f"{name}inward")
        split = split * sigmoid(split)
        length, width = event_LD.shape
        each = width // self._shape.heads
        gathered = np.zeros_like(event_LD)
        for head in range(self._shape.heads):
            query, key, value = (split[:, at + head * each : at + (head + 1) * each] for at in (0, width, 2 * width))
            for now in range(length):
                for then in range(now + 1):
                    score = float(query[now] @ key[then]) / math.sqrt(each)
                    score += float(self._w[f"{name}distance"][head, now - then])
                    weight = score / (1 + math.exp(-score)) / self._shape.history
                    gathered[now, head * each : (head + 1) * each] += weight * value[then]
        gathered = self._norm(gathered, f"{name}gathered_norm") * split[:, 3 * width :]
        return np.asarray(event_LD + self._line(gathered, f"{name}outward"))

    def _attention(self, asking_LD: Floats, asked_LD: Floats, name: str) -> Floats:
        width = asking_LD.shape[1]
        each = width // self._shape.heads
        left, right = (self._line(one, f"{name}attention.inward") for one in (asking_LD, asked_LD))
        gathered = np.zeros_like(asking_LD)
        for head in range(self._shape.heads):
            begin, end = head * each, (head + 1) * each
            query, key, value = left[:, begin:end], right[:, width + begin : width + end], right[:, 2 * width :]
            for now in range(len(asking_LD)):
                score = key[: now + 1] @ query[now] / math.sqrt(each)
                weight = np.exp(score - score.max())
                gathered[now, begin:end] = weight @ value[: now + 1, begin:end] / weight.sum()
        return self._line(gathered, f"{name}attention.outward")

    def _line(self, vector_LD: Floats, name: str) -> Floats:
        return np.asarray(vector_LD @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"])

    def _gate(self, event_LD: Floats, name: str) -> Floats | float:
        return sigmoid(self._line(event_LD, name)) if f"{name}.weight" in self._w else 1.0

    def _norm(self, vector_LD: Floats, name: str) -> Floats:
        centred = vector_LD - vector_LD.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return np.asarray(scaled * self._w[f"{name}.weight"] + self._w[f"{name}.bias"])


# --- counters, written out --------------------------------------------------------------------------------------------


class Pairs:
    """Pairs counted one by one, for the items that are asked about.

    Args:
        log: the events.
        counting: how.
        wanted: items whose companions are needed.
    """

    def __init__(self, log: Log, counting: Counting, wanted: set[int]) -> None:
        self._counting = counting
        self._found: dict[int, dict[int, float]] = {item: {} for item in wanted}
        self._row, self._column = ([counting.tau] * log.items for _ in range(2))
        for user in log.rows:
            met = log.training(user)
            for place, one in enumerate(met):
                for distance in range(1, min(counting.window, len(met) - 1 - place) + 1):
                    other = met[place + distance]
                    worth = distance**-counting.power
                    self._add(one, other, worth)
                    if counting.backward:
                        self._add(other, one, counting.backward * worth)

    def _add(self, one: int, other: int, worth: float) -> None:
        self._row[one] += worth
        self._column[other] += worth
        if one in self._found:
            self._found[one][other] = self._found[one].get(other, 0.0) + worth

    def scores(self, history: Sequence[int], items: int) -> Floats:
        """(I) scores of all items after a history."""
        score = np.zeros(items)
        for back, item in enumerate(reversed(history)):
            if back == self._counting.keep:
                break
            near = self._counting.recency**back
            for other, worth in self._found[item].items():
                total = math.sqrt(self._row[item] * self._column[other]) if self._counting.both else self._row[item]
                score[other] += near * worth / total
        return score


class Law:
    """The law of simulated sequences, which the best possible scores are.

    Args:
        last: (I, I) what the last item says of the next.
        before: (I, I) what the item before it says.
        popular: (I) what is liked whatever came before.
    """

    def __init__(self, last: Floats, before: Floats, popular: Floats) -> None:
        self._last, self._before, self._popular = last, before, popular

    @classmethod
    def of(cls, data: Payload) -> "Law | None":
        """The law of a data set; None where nobody knows it."""
        if "oracle_last" not in data:
            return None
        return cls(*(np.asarray(data[f"oracle_{name}"], np.float64) for name in ("last", "before", "popular")))

    def scores(self, history: Sequence[int]) -> Floats:
        """(I) chances of all items after a history, before those that it has are taken out."""
        score = self._last[history[-1]] + self._popular
        return np.asarray(score + self._before[history[-2]] if len(history) > 1 else score)


# --- claims -----------------------------------------------------------------------------------------------------------


def _again(
    reference: Reference, log: Log, answers: Answers, counter: Counting, companions: Counting, law: Law | None
) -> list[Claim]:
    """Sampled users scored and placed again, by every score that was reported."""
    users = answers.user[answers.sampled].tolist()
    wanted = {item for user in users for item in log.before_test(user)}
    pairs, beside = Pairs(log, counter, wanted), Pairs(log, companions, wanted)
    popular = _popular(log)
    worst, where = 0.0, -1
    wrong: dict[str, list[str]] = {}
    for place, user, logit in zip(answers.sampled.tolist(), users, answers.logit, strict=True):
        history, target = log.before_test(user), log.item[log.rows[user][-1]]
        right = reference.scores(history)
        size = max(float(np.abs(right[reference.known]).max(initial=0)), 1.0)
        away = _away(right, np.asarray(logit, np.float64)) / size
        if not away <= worst:
            worst, where = away, user
        counted = pairs.scores(history, log.items)
        inputs = beside.scores(history, log.items)
        added = answers.weight * np.log1p(inputs / answers.scale)
        tolerance = SCORE * size
        again = {
            "model": (right, tolerance),
            "counter": _counted(counted),
            "companions": _counted(inputs),
            "hybrid": (right + added, tolerance + COUNTED * float(added.max())),
            "popularity": (popular, 0.0),
        }
        if law:
            again["oracle"] = (law.scores(history), ROUNDING)
        for name, (score, slack) in again.items():
            least, most = _places(score, target, set(history), slack)
            found = int(answers.rank[name][place])
            offenders = wrong.setdefault(name, [])
            if not least <= found <= most:
                offenders.append(f"user {user}: place {found}, should be {least} to {most}")
    claims = [
        Claim(
            name="score_error",
            kind="bounded",
            value=worst,
            limit=SCORE,
            detail=f"Largest difference of scores, as a share of the user's largest, over all items for {len(users)} "
            f"users, in float64 from the weights and the events before the test event; the largest is of user {where}.",
        )
    ]
    return claims + [
        Claim(
            name=f"{name}_places_wrong",
            kind="exact",
            value=float(len(found)),
            limit=0.0,
            detail=f"Places of the targets of {len(users)} users counted by a loop over all items, scores that a "
            f"rounding apart may stand either way." + _first(found),
        )
        for name, found in wrong.items()
    ]


def _popular(log: Log) -> Floats:
    """(I) how often the training part has each item; minus infinity for never."""
    count = [0] * log.items
    for user in log.rows:
        for item in log.training(user):
            count[item] += 1
    return np.array([float(times) if times else -math.inf for times in count])


def _counted(score: Floats) -> tuple[Floats, float]:
    """What never went with a history is not recommended, and by how much a score of a counter may be off."""
    return np.where(score > 0, score, -math.inf), COUNTED * float(score.max(initial=0))


def _away(right: Floats, said: Floats) -> float:
    """Largest difference; infinite where one is finite and the other not."""
    if right.shape != said.shape:
        return math.inf
    both = np.isneginf(right) & np.isneginf(said)
    with np.errstate(invalid="ignore"):
        away = np.abs(np.where(both, 0.0, right - said))
    return float(np.nan_to_num(away, nan=np.inf).max(initial=0))


def _places(score: Floats, target: int, met: set[int], slack: float) -> tuple[int, int]:
    """The least and the most that the target's place may be: items surely above, and items not surely below.

    Without slack scores are exact, and ties count against the target.
    """
    own = float(score[target])
    if own == -math.inf:
        return NEVER, NEVER
    least = most = 0
    for item, other in enumerate(score.tolist()):
        if item == target or item in met:
            continue
        least += other > own + slack if slack else other >= own
        most += other >= own - slack
    return least, most


def _recounted(answers: Answers, metrics: Mapping[str, float]) -> list[Claim]:
    """Reported numbers counted again from the places."""
    claims = []
    for name, ranks in answers.rank.items():
        suffix = "" if name == "model" else f"_{name}"
        hits, gains = 0, 0.0
        for rank in ranks.tolist():
            if 0 <= rank < 10:
                hits += 1
                gains += 1 / math.log2(rank + 2)
        size = max(len(ranks), 1)
        for metric, value in (("recall_at_10", hits / size), ("ndcg_at_10", gains / size)):
            claims.append(
                Claim(
                    name=f"{metric}{suffix}_difference",
                    kind="exact",
                    value=abs(value - metrics[metric + suffix]),
                    limit=ROUNDING,
                    detail=f"Counted again from {size} places: {value:.6f}, reported {metrics[metric + suffix]:.6f}.",
                )
            )
    return claims


def _above(answers: Answers, other: str, margin: float) -> Claim:
    """Lower end of the interval of the NDCG's difference to another score."""
    ours, theirs = (
        np.array([1 / math.log2(rank + 2) if 0 <= rank < 10 else 0.0 for rank in answers.rank[name].tolist()])
        for name in ("model", other)
    )
    gain = ours - theirs if len(ours) == len(theirs) > 1 else np.array([-math.inf, -math.inf])
    mean = float(gain.mean())
    error = float(np.sqrt(((gain - mean) ** 2).sum() / max(len(gain) - 1, 1) / len(gain)))
    return Claim(
        name=f"ndcg_gain_over_{other}_low",
        kind="statistical",
        value=mean - Z * error,
        limit=-margin,
        sense="at least",
        detail=f"Lower end of the 95 % interval of NDCG@10 less that of the {other}: {mean:.4f} less {Z:g} standard "
        f"errors of {error:.4f} over {len(gain)} users.",
    )


def _first(wrong: list[str]) -> str:
    return f" The first of {len(wrong)}: {wrong[0]}." if wrong else ""
