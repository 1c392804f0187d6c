"""What a ranker is worth on sessions that it never saw, asked one request after another as in service."""

# Shapes: C candidates of all test sessions, T tasks.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.judgement import Figure, Judgement, Series
from models.feed.events.counting import item_rates
from models.feed.events.metrics import (
    Interval,
    auc,
    calibration_error,
    calibration_ratio,
    grouped_auc,
    normalized_entropy,
    paired_difference,
)
from models.feed.events.splits import Split
from models.feed.ranking.certificate import Scored, Shape, certify
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR
from models.feed.ranking.score import Ranker, batch_logits, carried_over

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CTR, RATE = "item CTR", "base rate"
RANKER = "LiGR"
ORACLES = {"oracle_pointwise": "pointwise oracle", "oracle_setwise": "set-wise oracle"}
DECILES = 10
Z = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class JudgementConfig:
    """How a ranker is judged before it goes live."""

    sessions: int = setting(
        64,
        "Sessions scored again",
        "Test sessions whose scores the certificate computes again from the weights, 1 to 100000.",
        ge=1,
        le=100_000,
    )
    margin: float = setting(
        0.0,
        "Margin to item CTR",
        "How far below the item CTR the lower end of the 95 % interval of the AUC's gain may lie, 0 to 1.",
        ge=0,
        le=1,
    )
    calibration: float = setting(
        0.1,
        "Margin of calibration",
        "How far the sum of chances may be from the number of responses, as a share, beyond what chance allows, "
        "0.001 to 1.",
        ge=0.001,
        le=1,
    )
    resamples: int = setting(1000, "Resamples", "Bootstrap resamples of the users, 100 to 100000.", ge=100, le=100_000)
    seed: int = setting(0, "Seed", "Start of every draw in judging, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)


def judge(product: Payload, data: Payload, network: LiGR, settings: JudgementConfig) -> Judgement:
    """Judge a ranker on the test part, which is read here alone.

    Args:
        product: the model's parts.
        data: the data set.
        network: the ranker, with the product's weights.
        settings: counts, seed and margins.

    Returns:
        The judgement. What is measured is what a service answers.

    Source:
        Ours.
    """
    inputs, split = Inputs.of(data), Split.from_payload(data)
    sessions = inputs.sessions_of(split.test)
    rows, logit = Ranker(network, inputs.catalogue).logits(inputs, sessions)
    events, chance = inputs.events, network.chances(logit)
    contest = Contest(
        user=events.user[rows],
        label=events.label[rows],
        scores=_others(inputs, split, rows, data) | {RANKER: logit[:, 0].astype(np.float64)},
        chance=chance[:, 0],
    )
    metrics = contest.metrics(settings)
    if "champion" in data:
        metrics |= _against(data["champion"], inputs, rows, contest, settings)
    known = inputs.sessions_of(split.validation)
    certificate = certify(
        weights=product["weights"],
        shape=_shape(network),
        data=data,
        test=Scored(rows=rows, logit=logit, chance=chance, batch=batch_logits(network, inputs, sessions)[1]),
        validation=_validated(network, inputs, known),
        metrics=metrics,
        sessions=settings.sessions,
        seed=settings.seed,
        margin=settings.calibration,
    )
    gain = Claim(
        name="auc_gain_over_item_ctr_low",
        kind="statistical",
        value=metrics["auc_gain_low"],
        limit=-settings.margin,
        sense="at least",
        detail=f"Lower end of the 95 % interval of AUC less that of the item CTR, paired over "
        f"{len(np.unique(contest.user))} users, {settings.resamples} resamples.",
    )
    return Judgement(
        headline="auc",
        metrics=metrics,
        certificate=Certificate(claims=(*certificate.claims, gain)),
        table=contest.table(),
        figures=contest.figures(),
        protocol=split.protocol,
    )


def _against(
    champion: Mapping[str, Any], inputs: Inputs, rows: Integers, contest: "Contest", settings: JudgementConfig
) -> dict[str, float]:
    """The live ranker on the candidate's own test sessions, and what the candidate gains over it."""
    network = carried_over(champion["network"], Inputs.of(champion["data"]), inputs)
    session = inputs.sessions_of(rows)
    score = Ranker(network, inputs.catalogue).logits(inputs, session)[1][:, 0].astype(np.float64)
    gain = paired_difference(
        contest.user,
        contest.label,
        contest.scores[RANKER],
        score,
        "auc",
        seed=settings.seed,
        resamples=settings.resamples,
    )
    return {
        "auc_champion": auc(contest.label, score),
        "gain_over_champion": gain.difference,
        "gain_over_champion_low": gain.low,
        "gain_over_champion_high": gain.high,
    }


def _validated(network: LiGR, inputs: Inputs, sessions: Integers) -> Scored:
    rows, logit = batch_logits(network, inputs, sessions)
    return Scored(rows=rows, logit=logit, chance=network.chances(logit), batch=logit)


def _shape(network: LiGR) -> Shape:
    """What the certificate must be told of the network beside its weights."""
    config, block = network.config, network.config.transformer
    return Shape(
        heads=block.heads,
        history=config.history,
        setwise=config.setwise,
        self_key=block.self_key,
        rotary=block.rotary,
        window=block.window,
    )


def _others(inputs: Inputs, split: Split, rows: Integers, data: Payload) -> dict[str, Floats]:
    """Scores of what needs no training, learned from everything before the test part, and of the oracles."""
    events = inputs.events
    known = np.concatenate([split.train, split.validation])
    rate = item_rates(events.item[known], events.label[known], events.items)
    found = {RATE: np.full(len(rows), events.label[known].mean(dtype=np.float64)), CTR: rate[events.item[rows]]}
    for part, name in ORACLES.items():
        if part in data:
            found[name] = np.asarray(data[part], np.float64)[rows]
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """Scores of the same impressions beside one another.

    Attributes:
        user: (C) users.
        label: (C) responses to the main task.
        scores: name to (C) scores: base rate, item CTR, the ranker, and oracles where truth is known.
        chance: (C) calibrated chances of the ranker.
    """

    user: NDArray[np.int32]
    label: NDArray[np.float32]
    scores: Mapping[str, Floats]
    chance: Floats

    def chances(self, name: str) -> Floats:
        """Chances that a score stands for; those of all but the ranker are chances themselves."""
        return self.chance if name == RANKER else self.scores[name]

    def gain(self, over: str, metric: Any, settings: JudgementConfig) -> Interval:
        """The ranker less another, with its interval over users."""
        pick = self.chances if metric == "ne" else self.scores.__getitem__
        return paired_difference(
            self.user,
            self.label,
            pick(RANKER),
            pick(over),
            metric,
            seed=settings.seed,
            resamples=settings.resamples,
        )

    def metrics(self, settings: JudgementConfig) -> dict[str, float]:
        """What the ranker reaches, its gain over the item CTR, and the share of the oracles' gap that it closes."""
        label, user, score = self.label, self.user, self.scores[RANKER]
        found = {
            "auc": auc(label, score),
            "gauc": grouped_auc(user, label, score),
            "normalized_entropy": normalized_entropy(label, self.chance),
            "calibration_error": calibration_error(label, self.chance),
            "calibration_ratio": calibration_ratio(label, self.chance),
            "auc_item_ctr": auc(label, self.scores[CTR]),
            "normalized_entropy_item_ctr": normalized_entropy(label, self.scores[CTR]),
        }
        # a constant has an AUC of one half in every resample, so this is the interval of the AUC itself
        whole = self.gain(RATE, "auc", settings)
        found |= {"auc_low": whole.low + 0.5, "auc_high": whole.high + 0.5}
        for metric, name in (("auc", "auc"), ("gauc", "gauc"), ("ne", "normalized_entropy")):
            gain = self.gain(CTR, metric, settings)
            found |= {f"{name}_gain": gain.difference, f"{name}_gain_low": gain.low, f"{name}_gain_high": gain.high}
        for oracle in ("pointwise", "setwise"):
            name = ORACLES[f"oracle_{oracle}"]
            if name in self.scores:
                best = auc(label, self.scores[name])
                found[f"auc_oracle_{oracle}"] = best
                if best > found["auc_item_ctr"]:
                    found[f"gap_closed_{oracle}"] = found["auc_gain"] / (best - found["auc_item_ctr"])
        return found

    def table(self) -> tuple[Mapping[str, Any], ...]:
        """One row per score."""
        return tuple(
            {
                "score": name,
                "AUC": auc(self.label, score),
                "gAUC": grouped_auc(self.user, self.label, score),
                "normalized entropy": normalized_entropy(self.label, self.chances(name)),
                "ECE": calibration_error(self.label, self.chances(name)),
                "predicted / observed": calibration_ratio(self.label, self.chances(name)),
            }
            for name, score in self.scores.items()
        )

    def figures(self) -> tuple[Figure, ...]:
        """Chances against observed rates, and the AUC of everything."""
        order = np.argsort(self.chance, kind="stable")
        tenths = [part for part in np.array_split(order, DECILES) if len(part)]
        said = tuple(float(self.chance[part].mean()) for part in tenths)
        rate = np.array([self.label[part].mean(dtype=np.float64) for part in tenths])
        count = np.array([len(part) for part in tenths])
        middle = (rate + Z**2 / (2 * count)) / (1 + Z**2 / count)
        half = Z / (1 + Z**2 / count) * np.sqrt(rate * (1 - rate) / count + Z**2 / (4 * count**2))
        low, high = said[0], said[-1]
        areas = {name: auc(self.label, score) for name, score in self.scores.items()}
        best = max(areas[RATE], areas[CTR])
        return (
            Figure(
                name="calibration",
                title="Predicted chances beside observed rates",
                x_label="mean predicted chance of a tenth of the impressions",
                y_label="share that responded",
                series=(
                    Series(
                        label=RANKER,
                        x=said,
                        y=tuple(rate.tolist()),
                        low=tuple((middle - half).tolist()),
                        high=tuple((middle + half).tolist()),
                    ),
                    Series(label="perfect", x=(low, high), y=(low, high)),
                ),
                caption=f"{len(order)} test impressions in tenths by chance. Bands: 95 % Wilson intervals.",
            ),
            Figure(
                name="auc",
                title=f"The ranker is {'above' if areas[RANKER] > best else 'not above'} what needs no training",
                x_label="score",
                y_label="AUC",
                series=(Series(label="AUC", x=tuple(areas), y=tuple(areas.values())),),
                kind="bars",
                caption=f"{len(order)} test impressions of {len(np.unique(self.user))} users.",
            ),
        )
