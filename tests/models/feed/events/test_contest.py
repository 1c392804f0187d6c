"""A model beside the item CTR, the oracles and the live one, on the same impressions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.common.certificate import Certificate, Claim
from models.feed.events.contest import CTR, ORACLES, RATE, Contest, JudgementConfig
from models.feed.events.metrics import auc
from models.feed.events.simulator import SimulatorConfig, simulate
from models.feed.events.splits import global_time

SETTINGS = JudgementConfig(resamples=200)


def drawn(seed: int = 0, size: int = 4000) -> Contest:
    """A model that knows the truth, an item CTR of the same order that is too timid."""
    draw = np.random.default_rng(seed)
    truth = draw.random(size)
    return Contest(
        model="the model",
        user=draw.integers(0, 47, size).astype(np.int32),
        label=(draw.random(size) < truth).astype(np.float32),
        scores={RATE: np.full(size, 0.5), CTR: 0.25 + 0.5 * truth, "the model": np.log(truth / (1 - truth))},
        chance=truth,
    )


def test_chances_of_the_model_and_of_the_baselines_are_compared_by_entropy() -> None:
    contest = drawn()
    metrics = contest.metrics(SETTINGS)
    assert metrics["auc"] == metrics["auc_item_ctr"], "the same order"
    assert metrics["auc_low"] < metrics["auc"] < metrics["auc_high"]
    assert metrics["normalized_entropy_gain_high"] < 0, "truer chances cost fewer nats"
    assert metrics["calibration_error"] < 0.03
    assert metrics["calibration_ratio"] == pytest.approx(1, abs=0.03)
    said = contest.figures()[0].series[0]
    assert all(low <= y <= high for y, low, high in zip(said.y, said.low, said.high, strict=True))


def test_the_figure_says_whether_the_model_is_above_what_needs_no_training() -> None:
    contest = drawn()
    assert contest.figures()[1].title == "the model is not above what needs no training"
    worse = replace(contest, scores={**contest.scores, CTR: np.zeros(len(contest.label))})
    assert worse.figures()[1].title == "the model is above what needs no training"


def test_a_champion_is_compared_on_the_same_impressions() -> None:
    contest = drawn()
    same = contest.against(contest.scores["the model"], SETTINGS)
    assert same["gain_over_champion"] == same["gain_over_champion_low"] == same["gain_over_champion_high"] == 0
    noise = contest.scores["the model"] + np.random.default_rng(1).normal(0, 3, len(contest.label))
    worse = contest.against(noise, SETTINGS)
    assert worse["auc_champion"] == auc(contest.label, noise)
    assert 0 < worse["gain_over_champion_low"] < worse["gain_over_champion"] < worse["gain_over_champion_high"]


def test_what_needs_no_training_learns_from_everything_before_the_test_part_and_from_nothing_of_it() -> None:
    simulation = simulate(SimulatorConfig(users=47, sessions=7.0))
    events = simulation.events
    split = global_time(events)
    data: dict[str, Any] = {**split.payload(), **simulation.payload()}
    rows, score = split.test, np.arange(len(split.test))
    contest = Contest.of("the model", events, data, rows, score, score / len(score))
    assert list(contest.scores) == [RATE, CTR, *ORACLES.values(), "the model"]
    turned = events.actions.copy()
    turned[rows] = 1 - turned[rows]
    other = Contest.of("the model", replace(events, actions=turned), data, rows, score, score / len(score))
    for name, values in contest.scores.items():
        assert values.tolist() == other.scores[name].tolist(), name
    known = np.concatenate([split.train, split.validation])
    assert contest.scores[RATE][0] == events.label[known].mean(dtype=np.float64)


def test_a_judgement_claims_the_gain_over_the_item_ctr() -> None:
    contest = drawn()
    claim = Claim(name="a", kind="exact", value=0.0, limit=0.0)
    metrics = contest.metrics(SETTINGS)
    for changed, good in ((0.0, True), (-0.1, False)):
        shown = {**metrics, "auc_gain_low": changed}
        judgement = contest.judgement(shown, Certificate(claims=(claim,)), "by time", SETTINGS)
        assert judgement.certificate.holds == good
        assert [one.name for one in judgement.certificate.claims] == ["a", "auc_gain_over_item_ctr_low"]
    assert judgement.headline == "auc" and judgement.protocol == "by time"
    assert [row["score"] for row in judgement.table] == [RATE, CTR, "the model"]
