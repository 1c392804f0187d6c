"""Pacing in steps: the target follows from what was spent, is kept in the plan, and every number of it is judged."""

import dataclasses
from typing import Any

import pytest

from models.common.contracts import InputError, Payload
from models.marketing.config import DataConfig, GeneratorConfig, JudgementConfig, PaceConfig, PacingConfig

CONFIG = PaceConfig(
    data=DataConfig(generator=GeneratorConfig(members=800, budget=0.15, seed=2)),
    pacing=PacingConfig(days=6),
    judgement=JudgementConfig(gap=5e-3),  # few members, and so much in whole offers
)
DATA = CONFIG.data.prepare({})


@pytest.fixture(scope="module")
def begun() -> Payload:
    return CONFIG.plan.allocate(DATA, None, None)


@pytest.fixture(scope="module")
def day(begun: Payload) -> Payload:
    return CONFIG.allocate(DATA, begun, None)


def test_the_plan_keeps_within_the_day_s_target_and_its_certificate_holds(day: Payload) -> None:
    judgement = CONFIG.judge(day, DATA, None)
    assert judgement.certificate.holds, [claim.sentence() for claim in judgement.certificate.failures()]
    assert judgement.figures[0].name == "pacing"
    row = day["rows"].to_pylist()[0]
    assert row["load"] <= row["upper"] == day["about"]["pace"]["upper"]
    assert judgement.metrics["spent"] == day["about"]["pace"]["realised"]
    assert 0.5 < judgement.metrics["delivery"] < 1


@pytest.mark.parametrize(
    "change",
    [
        {"upper": lambda x: x * 1.001},
        {"realised": lambda x: x * 0.999},
        {"predicted": lambda x: x * 1.01},
        {"budget": lambda x: x * 2},
        {"after": lambda x: {**x, "spent": x["spent"] - 1}},
        {"after": lambda x: {**x, "ratio": x["ratio"] + 0.01}},
        *({"after": lambda x, name=name: {**x, name: x[name] + 0.01}} for name in ("trend", "target", "noise", "odd")),
        {"after": lambda x: {**x, "period": x["period"] + 1}},
        {"before": lambda x: {**x, "spent": x["spent"] + 5}},
    ],
)
def test_a_number_that_was_changed_is_refused(day: Payload, change: dict[str, Any]) -> None:
    pace = day["about"]["pace"]
    forged = {**pace, **{name: alter(pace[name]) for name, alter in change.items()}}
    judgement = CONFIG.judge({**day, "about": {**day["about"], "pace": forged}}, DATA, None)
    assert "target_off" in {claim.name for claim in judgement.certificate.failures()}


def test_what_was_spent_late_is_made_up_for(begun: Payload) -> None:
    def target(spent: float) -> float:
        told = PacingConfig(days=6, source="told", spent=spent)
        found: float = dataclasses.replace(CONFIG, pacing=told).allocate(DATA, begun, None)["about"]["pace"]["upper"]
        return found

    budget = begun["rows"].to_pylist()[0]["upper"]
    assert target(0.5 * budget) > target(0.8 * budget) > target(budget)


def test_delivery_is_simulated_in_the_world_of_the_live_plan_alone(begun: Payload) -> None:
    other = dataclasses.replace(CONFIG.data.generator, seed=3)
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, generator=other))
    with pytest.raises(InputError, match="the live plan is one for another world"):
        config.allocate(config.data.prepare({}), begun, None)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("spent", "there is no row 'spent' over all pairs to pace; there are spend, unsubscribes."),
        ("volume", "no row 'volume'"),
        ("volume/starter", "no row 'volume/starter' over all pairs"),
    ],
)
def test_a_row_that_cannot_be_paced_is_named(begun: Payload, row: str, told: str) -> None:
    config = dataclasses.replace(CONFIG, pacing=PacingConfig(row=row))
    with pytest.raises(InputError, match=told):
        config.allocate(DATA, begun, None)
