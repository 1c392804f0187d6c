"""Tables: a user's own files become a program by name, and everything that is wrong with them is named."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from models.common.contracts import InputError, Payload
from models.marketing.generator import GeneratorConfig, generate
from models.marketing.tables import TableConfig, data_of, generated, plain, program_of, read_tables

PAIRS = [
    {"who": "ann", "what": "plus-mail", "worth": 3.5, "cost": 0.8},
    {"who": "bob", "what": "team-push", "worth": 1.25, "cost": 0.1},
    {"who": "ann", "what": "team-push", "worth": 0.5, "cost": 0.1},
    {"who": "cem", "what": "plus-mail", "worth": -1.0, "cost": 0.9},
]
ROWS = [
    {"family": "spend", "row": "", "weight": "cost", "by": "", "lower": "", "upper": 1.0},
    {"family": "sends", "row": "push", "weight": "", "by": "channel", "lower": 1, "upper": ""},
    {"family": "sends", "row": "mail", "weight": "", "by": "channel", "lower": "", "upper": 1},
    {"family": "region", "row": "north", "weight": "", "by": "region", "lower": "", "upper": 2},
]
OFFERS = [{"what": "team-push", "channel": "push"}, {"what": "plus-mail", "channel": "mail"}]
MEMBERS = [{"who": "ann", "region": "north"}, {"who": "bob", "region": "south"}, {"who": "cem", "region": "north"}]
CONFIG = TableConfig(pairs="pairs", rows="rows", member_column="who", offer_column="what", value_column="worth")


def written(folder: Path, **tables: Sequence[Mapping[str, Any]]) -> dict[str, Path]:
    """Files of rows."""
    whole: dict[str, Sequence[Mapping[str, Any]]] = {"pairs": PAIRS, "rows": ROWS, "offers": OFFERS, "members": MEMBERS}
    files = {}
    for name, rows in (whole | tables).items():
        files[name] = folder / f"{name}.csv"
        with files[name].open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return files


def test_own_tables_become_the_program_that_they_say(tmp_path: Path) -> None:
    program = program_of(read_tables(CONFIG, written(tmp_path)))
    assert program.members is not None
    assert list(program.members) == ["ann", "bob", "cem"]
    assert program.offers == ("team-push", "plus-mail")
    assert program.names == ("spend", "sends/push", "sends/mail", "region/north")
    assert program.start.tolist() == [0, 2, 3, 4]
    assert program.value.tolist() == [3.5, 0.5, 1.25, -1.0]
    assert program.lower.tolist() == [-math.inf, 1, -math.inf, -math.inf]
    assert program.upper.tolist() == [1, math.inf, 1, 2]
    np.testing.assert_allclose(program.loads(np.array([1, 0, 1, 0.5])), [0.8 + 0.1 + 0.45, 1, 1.5, 1.5])


def test_rows_over_all_pairs_need_no_tables_of_offers_and_members(tmp_path: Path) -> None:
    files = written(tmp_path, rows=ROWS[:1])
    program = program_of(read_tables(CONFIG, {name: files[name] for name in ("pairs", "rows")}))
    assert program.offers == ("plus-mail", "team-push")
    assert program.names == ("spend",)


def test_columns_in_another_order_and_parquet_say_the_same(tmp_path: Path) -> None:
    plain = read_tables(CONFIG, written(tmp_path))
    files = written(tmp_path, pairs=[dict(reversed(row.items())) for row in PAIRS])
    table = pa.table({name: [row[name] for row in ROWS] for name in ("family", "row", "weight", "by")})
    for side in ("upper", "lower"):
        numbers = [float(row[side]) if row[side] != "" else None for row in ROWS]  # type: ignore[arg-type]
        table = table.append_column(side, pa.array(numbers, pa.float64()))
    files["rows"] = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(table, files["rows"])
    again = read_tables(CONFIG, files)
    assert again["pairs"].equals(plain["pairs"])
    assert again["rows"].equals(plain["rows"])


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"pairs": [{**PAIRS[0], "worth": "nan"}]}, r"pairs.csv, column 'worth', row 1: nan.*must be finite"),
        ({"pairs": [PAIRS[1], {**PAIRS[0], "cost": "inf"}]}, r"pairs.csv, column 'cost', row 2: inf"),
        ({"pairs": [{**PAIRS[0], "cost": "dear"}]}, r"column 'cost', row 1: 'dear': write a number"),
        ({"pairs": [{**PAIRS[0], "cost": ""}]}, r"column 'cost', row 1: None: a number must not be missing"),
        ({"pairs": [*PAIRS, PAIRS[0]]}, r"member 'ann' has offer 'plus-mail' twice"),
        ({"pairs": [{**PAIRS[0], "what": "plus-post"}]}, r"offer 'plus-post', the table of offers has none"),
        ({"pairs": [{**PAIRS[0], "who": "dan"}]}, r"member 'dan', the table of members has none"),
        ({"pairs": [{"who": "ann", "what": "plus-mail", "worth": 1}]}, r"pairs.csv has no column 'cost'"),
        ({"rows": [{**ROWS[1], "row": "pusch"}]}, r"limits 'sends' bound 'pusch', column 'channel' holds mail, push"),
        ({"rows": [{**ROWS[1], "by": "chanel"}]}, r"by 'chanel', neither table"),
        ({"rows": [{**ROWS[0], "upper": 1, "lower": 2}]}, r"rows.csv, column 'lower', row 1: 2.0: the lower bound"),
        ({"rows": [{**ROWS[0], "Upper": 1}]}, r"rows.csv has the unknown column 'Upper'; known are family, row"),
        ({"rows": [{**ROWS[0], "family": ""}]}, r"column 'family', row 1: '': name the family"),
        ({"rows": [{**ROWS[0], "row": "push"}]}, r"family 'spend' has the row 'push' and is by nothing; name the col"),
        ({"rows": [ROWS[0], ROWS[0]]}, r"row 'spend' of family 'spend' stands twice"),
        ({"rows": [ROWS[1], {**ROWS[2], "weight": "cost"}]}, r"rows of family 'sends' have weight '', 'cost'"),
        ({"rows": [{**ROWS[0], "weight": "value"}]}, r"rows.csv names the weight 'value', which is our own name"),
        ({"rows": [{key: value for key, value in ROWS[0].items() if key != "by"}]}, r"rows.csv has no column 'by'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, tables: dict[str, Sequence[Mapping[str, Any]]], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_tables(CONFIG, written(tmp_path, **tables))


def test_other_rows_for_the_same_data_are_matched_by_name(tmp_path: Path) -> None:
    data = read_tables(CONFIG, written(tmp_path))
    other = pa.table(
        {"family": ["sends"], "row": ["mail"], "weight": [""], "by": ["channel"], "lower": [None], "upper": [5.0]},
        schema=data["rows"].schema,
    )
    assert program_of(data, rows=other).names == ("sends/mail",)
    assert program_of(data, rows=other).upper.tolist() == [5.0]
    for column, entry, told in (
        ("row", "fax", "rows 'sends' bound 'fax', column 'channel' holds mail, push"),
        ("by", "country", "rows 'sends' are by 'country', of offers and members neither has it"),
        ("weight", "volume", "rows 'sends' sum 'volume', the pairs have offer, value, cost"),
    ):
        wrong = other.set_column(other.column_names.index(column), column, pa.array([entry]))
        with pytest.raises(InputError, match=told):
            program_of(data, rows=wrong)


def test_a_generated_world_is_the_program_of_its_rows() -> None:
    config = GeneratorConfig(members=97, offers=7, lines=3, seed=2)
    data: Payload = generated(config)
    program, world = program_of(data), generate(config)
    assert (97, 7, len(world.offer)) == (program.N, program.M, program.E)
    assert program.names[:3] == ("spend", "unsubscribes", "volume/starter")
    x = np.random.default_rng(0).random(program.E)
    loads = dict(zip(program.names, program.loads(x), strict=True))
    assert loads["spend"] == pytest.approx(world.cost.astype(float) @ x)
    line = np.array(world.offers["line"].to_pylist())[world.offer]
    assert loads["volume/plus"] == pytest.approx((world.reach.astype(float) * x)[line == "plus"].sum())
    segment = np.array(world.members["segment"].to_pylist())[world.member]
    assert loads["segment/new"] == pytest.approx(x[segment == "new"].sum())
    assert data["past"].num_rows == 97
    assert set(data_of(world)) < set(data)


def test_a_row_s_name_becomes_one_of_a_metric() -> None:
    assert plain("volume/starter") == "volume/starter"
    assert plain("Größe/süd (50%)/") == "Größe/süd _50___"
    assert plain("/a//b..c") == "_a/b__c"
