"""Deciding later: as the plan would, in whatever company, and by names alone."""

import numpy as np
import pyarrow as pa
import pytest

from models.common.contracts import InputError, Payload
from models.marketing.deciding import decide
from models.marketing.generator import GeneratorConfig, generate
from models.marketing.planning import PlanConfig
from models.marketing.tables import generated

CONFIG = GeneratorConfig(members=900, offers=7, lines=3, seed=4)
DATA = generated(CONFIG)


@pytest.fixture(scope="module")
def product() -> Payload:
    return PlanConfig().allocate(DATA, None, None)


def requests(seed: int = 4, members: int = 900) -> pa.Table:
    """All pairs of a world as a table of requests."""
    world = generate(GeneratorConfig(members=members, offers=7, lines=3, seed=seed))
    return pa.table(
        {
            "member": pa.array([str(member) for member in world.member]),
            "offer": pa.array(np.array(world.offers["offer"].to_pylist())[world.offer].tolist()),
            **{name: getattr(world, name) for name in ("value", "cost", "risk", "reach")},
            "segment": pa.array(np.array(world.members["segment"].to_pylist())[world.member].tolist()),
        }
    )


def sends(product: Payload, table: pa.Table) -> dict[str, str]:
    answers, _ = decide(product, DATA, table, 1.0)
    return dict(zip(answers["member"].to_pylist(), answers["offer"].to_pylist(), strict=True))


def test_members_of_the_solve_are_decided_as_they_were(product: Payload) -> None:
    planned = dict(
        zip(map(str, product["plan"]["member"].to_pylist()), product["plan"]["offer"].to_pylist(), strict=True)
    )
    later = sends(product, requests())
    otherwise = [member for member in planned.keys() | later.keys() if planned.get(member) != later.get(member)]
    assert len(otherwise) <= 2 * product["rows"].num_rows, "more than who are indifferent, or were rounded"


def test_a_member_is_decided_the_same_alone_in_another_order_and_among_others(product: Payload) -> None:
    table = requests(seed=9, members=120)
    together = sends(product, table)
    assert 20 < len(together) < 120
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    assert sends(product, shuffled) == together
    for member in ("0", "7", "63"):
        alone = sends(product, table.filter(pa.compute.equal(table["member"], member)))
        assert alone == {key: offer for key, offer in together.items() if key == member}


def test_what_is_drawn_is_counted(product: Payload) -> None:
    table = requests(seed=9, members=120)
    answers, counted = decide(product, DATA, table, 1.0)
    chosen = set(zip(answers["member"].to_pylist(), answers["offer"].to_pylist(), strict=True))
    rows = [row for row in table.to_pylist() if (row["member"], row["offer"]) in chosen]
    assert counted["members"] == 120
    assert counted["sends"] == answers.num_rows == len(rows)
    assert counted["load/spend"] == pytest.approx(sum(row["cost"] for row in rows))
    assert counted["value"] == pytest.approx(sum(row["value"] for row in rows))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop_columns(["risk"]), "rows sum 'risk', the table has"),
        (lambda t: t.drop_columns(["segment"]), "rows are by 'segment', the table has"),
        (
            lambda t: t.set_column(1, "offer", pa.array(["plus-pigeon"] * t.num_rows)),
            "row 1 is of the offer 'plus-pigeon', the plan knows starter-email",
        ),
        (
            lambda t: t.set_column(
                6, "segment", pa.array(["new", "casual"] * (t.num_rows // 2) + ["new"] * (t.num_rows % 2))
            ),
            "column 'segment': .*, the member had another entry before",
        ),
        (lambda t: t.set_column(2, "value", pa.array([float("nan")] * t.num_rows)), "column 'value', row 1: nan"),
    ],
)
def test_what_is_missing_or_unknown_is_named(product: Payload, change: object, told: str) -> None:
    assert callable(change)
    with pytest.raises(InputError, match=told):
        decide(product, DATA, change(requests(seed=9, members=40)), 1.0)


def test_members_of_a_segment_without_a_row_or_never_seen_are_decided_too(product: Payload) -> None:
    table = requests(seed=9, members=120)
    place = table.column_names.index("segment")
    elsewhere = table.set_column(place, "segment", pa.array(["nowhere"] * table.num_rows))
    rows = DATA["rows"].filter(pa.compute.invert(pa.compute.equal(DATA["rows"]["row"], "new")))
    fewer = {**DATA, "rows": rows}
    free = PlanConfig().allocate(fewer, None, None)
    alone = table.filter(pa.compute.equal(table["segment"], "new"))
    assert alone.num_rows
    for plan, data, asked in ((product, DATA, elsewhere), (free, fewer, alone)):
        answers, counted = decide(plan, data, asked, 1.0)
        assert answers.num_rows > 0
        assert all(load == 0 for name, load in counted.items() if name.startswith("load/segment"))


def test_a_table_of_nobody_is_answered_by_nothing_and_an_empty_segment_is_named(product: Payload) -> None:
    table = requests(seed=9, members=40)
    answers, counted = decide(product, DATA, table.slice(0, 0), 1.0)
    assert (answers.num_rows, counted["members"]) == (0, 0)
    place = table.column_names.index("segment")
    empty = table.set_column(place, "segment", pa.array([None, *table["segment"].to_pylist()[1:]], pa.string()))
    with pytest.raises(InputError, match="row 1, column 'segment': it is empty"):
        decide(product, DATA, empty, 1.0)
