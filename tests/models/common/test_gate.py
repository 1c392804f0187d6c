"""The gate: what goes live and why not."""

import math

import pytest

from models.common.certificate import Certificate, Claim
from models.common.gate import GateConfig, decide

HOLDS = Claim(name="recall", kind="exact", value=1.0, limit=1.0, sense="at least")
FAILS = Claim(name="recall", kind="exact", value=0.9, limit=1.0, sense="at least", detail="query 3 lost item 7.")


def test_a_currency_product_goes_live_when_its_certificate_holds() -> None:
    assert decide(GateConfig(), Certificate(claims=(HOLDS,)), {}, has_champion=True).publish


def test_a_failed_claim_refuses_with_the_claim_s_own_sentence() -> None:
    decision = decide(GateConfig(), Certificate(claims=(HOLDS, FAILS)), {}, has_champion=False)
    assert not decision.publish
    assert "recall = 0.9, must be at least 1" in decision.reason
    assert "query 3 lost item 7" in decision.reason


def test_a_certificate_without_claims_vouches_for_nothing() -> None:
    assert not decide(GateConfig(), Certificate(claims=()), {}, has_champion=False).publish


def test_a_claim_about_not_a_number_never_holds() -> None:
    for sense in ("at least", "at most"):
        assert not Claim(name="x", kind="exact", value=math.nan, limit=0, sense=sense).holds


@pytest.mark.parametrize(
    ("low", "margin", "champion", "goes"),
    [
        (0.01, 0, True, True),
        (-0.01, 0, True, False),
        (-0.01, 0.02, True, True),
        (None, 0, True, False),
        (None, 0, False, True),
    ],
)
def test_a_comparison_product_must_not_lose_to_the_champion_by_more_than_the_margin(
    low: float | None, margin: float, champion: bool, goes: bool
) -> None:
    metrics = {} if low is None else {"gain_over_champion_low": low}
    gate = GateConfig(product="comparison", margin=margin)
    assert decide(gate, Certificate(claims=(HOLDS,)), metrics, has_champion=champion).publish is goes


def test_not_a_number_is_no_win() -> None:
    metrics = {"gain_over_champion_low": math.nan}
    gate = GateConfig(product="comparison")
    assert not decide(gate, Certificate(claims=(HOLDS,)), metrics, has_champion=True).publish
