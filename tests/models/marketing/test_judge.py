"""A stored plan is judged by names against the data: whatever was changed in it, or in the data, is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.common.contracts import Payload
from models.marketing.config import GeneratorConfig
from models.marketing.judge import JudgementConfig, judge
from models.marketing.planning import PlanConfig
from models.marketing.tables import generated

DATA = generated(GeneratorConfig(members=700, offers=6, lines=3, seed=6))
PLAN, BAR = PlanConfig(), JudgementConfig(gap=5e-3)


@pytest.fixture(scope="module")
def product() -> Payload:
    return PLAN.allocate(DATA, None, None)


def judged(product: Payload, data: Payload = DATA) -> Any:
    return judge(product, data, PLAN, BAR).certificate


def column(table: pa.Table, name: str, change: Callable[[list[Any]], list[Any]]) -> pa.Table:
    """The table with one column changed."""
    place = table.column_names.index(name)
    return table.set_column(place, name, pa.array(change(table[name].to_pylist()), table.schema.field(name).type))


def in_part(part: str, name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Payload], Payload]:
    return lambda product: {**product, part: column(product[part], name, change)}


def about(**changes: Callable[[Any], Any]) -> Callable[[Payload], Payload]:
    return lambda product: {
        **product,
        "about": {**product["about"], **{name: change(product["about"][name]) for name, change in changes.items()}},
    }


def first(change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [change(values[0]), *values[1:]]


def policy(**changes: Any) -> Callable[[Payload], Payload]:
    return lambda product: {**product, "policy": {**product["policy"], **changes}}


def family(name: str, **changes: Callable[[Any], Any]) -> Callable[[Payload], Payload]:
    """The plan whose policy has one family changed."""

    def changed(product: Payload) -> Payload:
        families = [dict(one) for one in product["policy"]["families"]]
        (mine,) = (one for one in families if one["name"] == name)
        mine |= {part: change(mine[part]) for part, change in changes.items()}
        return policy(families=families)(product)

    return changed


def tied(**parts: Any) -> Callable[[Payload], Payload]:
    """The plan whose policy says how members of one more kind are shared out."""
    sound = {"groups": ["new"], "slots": 1, "options": ["starter-email"], "shares": [0.5]}
    return policy(ties=[{**sound, **parts}])


CORRUPTIONS: dict[str, tuple[str, Callable[[Payload], Payload]]] = {
    "members shuffled": ("", in_part("plan", "member", lambda names: names[1:] + names[:1])),
    "an offer that there is not": ("unknown_pairs", in_part("plan", "offer", first(lambda _: "plus-pigeon"))),
    "a member that there is not": ("unknown_pairs", in_part("plan", "member", first(lambda _: 10**9))),
    "half of an offer": ("shares_outside", in_part("plan", "share", first(lambda _: 0.5))),
    "a send lost": ("value_off", lambda product: {**product, "plan": product["plan"].slice(1)}),
    "a send twice": (
        "repeated_pairs",
        lambda product: {**product, "plan": pa.concat_tables([product["plan"], product["plan"].slice(0, 1)])},
    ),
    "a load that is less": ("loads_off", in_part("rows", "load", first(lambda load: load * 0.999))),
    "a price that is more": ("bound_off", in_part("rows", "price", first(lambda price: price * 1.01))),
    "rows in another order": ("rows_misnamed", in_part("rows", "row", lambda names: names[::-1])),
    "a row lost": ("shapes_wrong", lambda product: {**product, "rows": product["rows"].slice(1)}),
    "a wider bound beside the load": ("bounds_misstated", in_part("rows", "upper", first(lambda bound: bound * 2))),
    "a value that is more": ("value_off", about(value=lambda value: value * 1.000001)),
    "a bound that is less": ("bound_off", about(bound=lambda bound: bound * 0.9999)),
    "a value that is no number": ("numbers_not_finite", about(value=lambda _: float("nan"))),
    "a policy with other prices": (
        "policy_off",
        family("spend", prices=lambda prices: {row: price + 0.01 for row, price in prices.items()}),
    ),
    "a policy with an offer in another row": (
        "policy_off",
        family("channel", row_of=lambda row_of: dict(zip(row_of, [*list(row_of.values())[1:], "email"], strict=True))),
    ),
    "a policy with an offer in no row": (
        "policy_off",
        family("volume", row_of=lambda row_of: dict(list(row_of.items())[1:])),
    ),
    "a policy that counts what has a weight": ("policy_off", family("spend", weighted=lambda _: False)),
    "a policy whose segments are of offers": ("policy_off", family("segment", by=lambda _: "offers")),
    "a policy without a family": (
        "policy_off",
        lambda product: policy(families=product["policy"]["families"][1:])(product),
    ),
    "a policy with a family twice": (
        "policy_off",
        lambda product: policy(families=[*product["policy"]["families"], product["policy"]["families"][0]])(product),
    ),
    "a policy without an offer": (
        "policy_off",
        lambda product: policy(offers=product["policy"]["offers"][1:])(product),
    ),
    "a policy of more offers a member": ("policy_off", policy(most=2)),
    "a policy to which everybody is indifferent": ("policy_off", policy(width=1e9)),
    "a policy whose width is no number": ("policy_off", policy(width=float("nan"))),
    "a tie shared out to more than all": ("policy_off", tied(shares=[1.5])),
    "a tie shared out to less than nobody": ("policy_off", tied(shares=[-0.1])),
    "a tie of more than the slots": ("policy_off", tied(options=["starter-email", "plus-push"], shares=[0.9, 0.9])),
    "a tie of an offer that there is not": ("policy_off", tied(options=["plus-pigeon"])),
}


def test_a_sound_plan_holds(product: Payload) -> None:
    assert judged(product).holds
    assert judged(tied()(product)).holds


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_changed_plan_is_refused_by_the_claim_that_it_breaks(product: Payload, kind: str) -> None:
    claim, corrupt = CORRUPTIONS[kind]
    failed = {one.name for one in judged(corrupt(product)).failures()}
    assert failed
    assert not claim or claim in failed


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"upper": lambda bound: bound * 0.97}, "rows_broken"),
        ({"upper": lambda bound: bound * 1.1}, "bound_off"),
    ],
)
def test_a_plan_for_other_budgets_is_refused(product: Payload, change: dict[str, Any], claim: str) -> None:
    rows = DATA["rows"]
    for name, alter in change.items():
        rows = column(rows, name, first(alter))
    assert claim in {one.name for one in judged(product, {**DATA, "rows": rows}).failures()}


def test_a_plan_for_other_values_is_refused(product: Payload) -> None:
    pairs = DATA["pairs"]
    values = np.asarray(pairs["value"]) * np.float32(1.001)
    other = {**DATA, "pairs": pairs.set_column(pairs.column_names.index("value"), "value", pa.array(values))}
    assert "value_off" in {one.name for one in judged(product, other).failures()}


def test_a_plan_that_is_far_from_the_best_is_refused(product: Payload) -> None:
    strict = dataclasses.replace(BAR, gap=1e-9)
    (failed,) = judge(product, DATA, PLAN, strict).certificate.failures()
    assert failed.name == "gap"
