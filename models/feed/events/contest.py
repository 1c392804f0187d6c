"""What a model of impressions is worth beside what needs no training, what is possible, and what is live.

The scores of all of them, of the same impressions, stand beside one another in a `Contest`; metrics, intervals over
users, table and figures are made of it.
"""

# Shapes: C candidates of all test sessions.

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
from models.feed.events.table import Events

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CTR, RATE = "item CTR", "base rate"
ORACLES = {"oracle_pointwise": "pointwise oracle", "oracle_setwise": "set-wise oracle"}
DECILES = 10
Z = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class JudgementConfig:
    """How a model of impressions is judged before it goes live."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """Scores of the same impressions beside one another.

    Attributes:
        model: the name of what is judged.
        user: (C) users.
        label: (C) responses to the main task.
        scores: name to (C) scores: base rate, item CTR, oracles where truth is known, and the model.
        chance: (C) calibrated chances of the model.
    """

    model: str
    user: NDArray[np.int32]
    label: NDArray[np.float32]
    scores: Mapping[str, Floats]
    chance: Floats

    @classmethod
    def of(
        cls, model: str, events: Events, data: Payload, rows: Integers, score: NDArray[Any], chance: Floats
    ) -> "Contest":
        """A model among what needs no training, which is learned from all before the test part, and the oracles.

        Args:
            model: its name.
            events: the log.
            data: the data set: its parts, and oracles where truth is known.
            rows: (C) row numbers of what was scored.
            score: (C) the model's scores of the main task.
            chance: (C) its chances.
        """
        split = Split.from_payload(data)
        known = np.concatenate([split.train, split.validation])
        rate = item_rates(events.item[known], events.label[known], events.items)
        scores = {RATE: np.full(len(rows), events.label[known].mean(dtype=np.float64)), CTR: rate[events.item[rows]]}
        scores |= {name: np.asarray(data[part], np.float64)[rows] for part, name in ORACLES.items() if part in data}
        scores[model] = np.asarray(score, np.float64)
        return cls(model=model, user=events.user[rows], label=events.label[rows], scores=scores, chance=chance)

    def chances(self, name: str) -> Floats:
        """Chances that a score stands for; those of all but the model are chances themselves."""
        return self.chance if name == self.model else self.scores[name]

    def gain(self, over: str, metric: Any, settings: JudgementConfig) -> Interval:
        """The model less another, with its interval over users."""
        pick = self.chances if metric == "ne" else self.scores.__getitem__
        return self._difference(pick(self.model), pick(over), metric, settings)

    def against(self, champion: NDArray[Any], settings: JudgementConfig) -> dict[str, float]:
        """What the live model reaches on the same impressions, and what the model gains over it.

        Args:
            champion: (C) its scores.
            settings: resamples and seed.
        """
        score = np.asarray(champion, np.float64)
        gain = self._difference(self.scores[self.model], score, "auc", settings)
        return {
            "auc_champion": auc(self.label, score),
            "gain_over_champion": gain.difference,
            "gain_over_champion_low": gain.low,
            "gain_over_champion_high": gain.high,
        }

    def metrics(self, settings: JudgementConfig) -> dict[str, float]:
        """What the model reaches, its gain over the item CTR, and the share of the oracles' gap that it closes."""
        label, user, score = self.label, self.user, self.scores[self.model]
        found = {
            **main_metrics(user, label, score, self.chance),
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

    def judgement(
        self, metrics: Mapping[str, float], certificate: Certificate, protocol: str, settings: JudgementConfig
    ) -> Judgement:
        """The judgement on the model, with the claim that it is not below the item CTR.

        Args:
            metrics: those of `metrics`, and what else was measured.
            certificate: what the independent reference claims.
            protocol: how the data were split, in words.
            settings: margin and resamples.
        """
        gain = Claim(
            name="auc_gain_over_item_ctr_low",
            kind="statistical",
            value=metrics["auc_gain_low"],
            limit=-settings.margin,
            sense="at least",
            detail=f"Lower end of the 95 % interval of AUC less that of the item CTR, paired over "
            f"{len(np.unique(self.user))} users, {settings.resamples} resamples.",
        )
        return Judgement(
            headline="auc",
            metrics=metrics,
            certificate=Certificate(claims=(*certificate.claims, gain)),
            table=self.table(),
            figures=self.figures(),
            protocol=protocol,
        )

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
        return self._reliability(), self._areas()

    def _difference(self, ours: Floats, theirs: Floats, metric: Any, settings: JudgementConfig) -> Interval:
        return paired_difference(
            self.user, self.label, ours, theirs, metric, seed=settings.seed, resamples=settings.resamples
        )

    def _reliability(self) -> Figure:
        order = np.argsort(self.chance, kind="stable")
        tenths = [part for part in np.array_split(order, DECILES) if len(part)]
        said = tuple(float(self.chance[part].mean()) for part in tenths)
        rate = np.array([self.label[part].mean(dtype=np.float64) for part in tenths])
        count = np.array([len(part) for part in tenths])
        middle = (rate + Z**2 / (2 * count)) / (1 + Z**2 / count)
        half = Z / (1 + Z**2 / count) * np.sqrt(rate * (1 - rate) / count + Z**2 / (4 * count**2))
        low, high = said[0], said[-1]
        return Figure(
            name="calibration",
            title="Predicted chances beside observed rates",
            x_label="mean predicted chance of a tenth of the impressions",
            y_label="share that responded",
            series=(
                Series(
                    label=self.model,
                    x=said,
                    y=tuple(rate.tolist()),
                    low=tuple((middle - half).tolist()),
                    high=tuple((middle + half).tolist()),
                ),
                Series(label="perfect", x=(low, high), y=(low, high)),
            ),
            caption=f"{len(order)} test impressions in tenths by chance. Bands: 95 % Wilson intervals.",
        )

    def _areas(self) -> Figure:
        areas = {name: auc(self.label, score) for name, score in self.scores.items()}
        above = areas[self.model] > max(areas[RATE], areas[CTR])
        return Figure(
            name="auc",
            title=f"{self.model} is {'above' if above else 'not above'} what needs no training",
            x_label="score",
            y_label="AUC",
            series=(Series(label="AUC", x=tuple(areas), y=tuple(areas.values())),),
            kind="bars",
            caption=f"{len(self.label)} test impressions of {len(np.unique(self.user))} users.",
        )


def main_metrics(
    user: NDArray[Any], label: NDArray[Any], score: NDArray[Any], chance: NDArray[Any]
) -> dict[str, float]:
    """AUC, gAUC and normalized entropy of the main task, under those names.

    Args:
        user: (C) users.
        label: (C) responses.
        score: (C) scores.
        chance: (C) chances.

    Raises:
        ValueError: see `auc`, `grouped_auc`, `normalized_entropy`.
    """
    return {
        "auc": auc(label, score),
        "gauc": grouped_auc(user, label, score),
        "normalized_entropy": normalized_entropy(label, chance),
    }
