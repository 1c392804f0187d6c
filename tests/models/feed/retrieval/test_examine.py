"""What a look at somebody's table says is what a run does with it, whatever is wrong with the table."""

import bz2
import csv
import dataclasses
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import TypeAdapter

from models.common.contracts import InputError
from models.common.examination import ColumnFound, Examination, Problem, RawFile
from models.feed.retrieval.config import RetrievalConfig
from models.feed.retrieval.examine import examine

NOW = 1_750_000_000.0  # 2025-06-15
MARCH = 1_740_800_000  # 2025-03-01
COLOURS = ["rouge", "blau", "green", "white", "nero"]


@dataclass
class Shop:
    """Tables of a shop as rows of text, and how they are written."""

    sales: list[list[str]]
    goods: list[list[str]]
    delimiter: str = ","
    sales_as: Callable[[bytes], bytes] = bytes
    goods_as: Callable[[bytes], bytes] = bytes
    rng: random.Random = field(default_factory=random.Random)

    def row(self) -> int:
        """Any row of the sales, counted from 1 after the header."""
        return self.rng.randrange(1, len(self.sales))

    def good(self) -> int:
        return self.rng.randrange(1, len(self.goods))

    def write(self, folder: Path) -> dict[str, RawFile]:
        files = {}
        for name, rows, finish in (("sales", self.sales, self.sales_as), ("goods", self.goods, self.goods_as)):
            text = io.StringIO(newline="")
            csv.writer(text, delimiter=self.delimiter if name == "sales" else ",").writerows(rows)
            path = folder / f"{name}.csv"
            path.write_bytes(finish(text.getvalue().encode()))
            files[name] = RawFile(str(path), path)
        return files


def shop(seed: int) -> Shop:
    """23 customers, 17 products, 3 to 9 purchases each; no two customers and no two sizes alike."""
    rng = random.Random(seed)
    goods = [["sku", "price", "colour", "tags"]]
    for item in range(17):
        tags = rng.sample(["new", "old", "gift", "retro"], rng.randrange(1, 4))
        goods.append([f"p-{item}", f"{rng.uniform(1, 99):.2f}", rng.choice(COLOURS), "|".join(tags)])
    sales = [["customer_id", "sku", "ts", "stars"]]
    for user in range(23):
        for item in rng.sample(range(17), rng.randrange(3, 10)):
            moment = MARCH + rng.randrange(8_000_000)
            sales.append([str(100 + user), f"p-{item}", str(moment), str(rng.randrange(1, 6))])
    return Shop(sales, goods, rng=rng)


def look(files: dict[str, RawFile], *, items: bool = True, **chosen: str) -> Examination:
    return examine(files["sales"], {"items": files["goods"]} if items else {}, chosen, moment=NOW)


def curate(found: Examination) -> Any:
    """What a run does with the parameters as they were printed: through JSON and through the form's own validation."""
    config = TypeAdapter(RetrievalConfig).validate_json(json.dumps(found.settings))
    return config.data.prepare({name: Path(location) for name, location in config.data.sources().items()})


def roles(found: Examination) -> dict[str, ColumnFound]:
    return {one.role: one for one in reversed(found.columns) if one.role in ("user", "item", "time")}


def problem(found: Examination, what: str) -> Problem:
    return next(one for one in found.problems if one.what.startswith(what))


# ---------------------------------------------------------------------------------------------- the family of damages

Damage = Callable[[Shop], tuple[int, str] | None]
"""Spoils a shop; gives the row and the value that must be named, if the problem is one of rows."""


def put(table: str, column: int, value: Callable[[Shop, str], str]) -> Damage:
    """Another value in one cell."""

    def spoil(shop: Shop) -> tuple[int, str]:
        rows = shop.sales if table == "sales" else shop.goods
        row = shop.row() if table == "sales" else shop.good()
        rows[row][column] = value(shop, rows[row][column])
        return row, rows[row][column]

    return spoil


def every(table: str, column: int, value: Callable[[str], str]) -> Damage:
    """Another value in all cells of a column."""

    def spoil(shop: Shop) -> tuple[int, str]:
        rows = shop.sales if table == "sales" else shop.goods
        for row in rows[1:]:
            row[column] = value(row[column])
        return 1, rows[1][column]

    return spoil


def whole(change: Callable[[Shop], Any]) -> Damage:
    def spoil(shop: Shop) -> None:
        change(shop)

    return spoil


def as_bytes(table: str, change: Callable[[Shop, bytes], bytes]) -> Damage:
    def spoil(shop: Shop) -> None:
        setattr(shop, f"{table}_as", lambda raw: change(shop, raw))

    return spoil


def rename(table: str, names: dict[str, str]) -> Damage:
    def spoil(shop: Shop) -> None:
        rows = shop.sales if table == "sales" else shop.goods
        rows[0] = [names.get(name, name) for name in rows[0]]

    return spoil


def repeat_a_good(shop: Shop) -> tuple[int, str]:
    again = list(shop.goods[shop.good()])
    shop.goods.append(again)
    return len(shop.goods) - 1, again[0]


def repeat_a_sale(shop: Shop) -> None:
    shop.sales.append(list(shop.sales[shop.row()]))


def newcomer(shop: Shop) -> tuple[int, str]:
    shop.sales += [["999", "p-1", str(MARCH), "4"], ["999", "p-2", str(MARCH + 9), "4"]]
    return len(shop.sales) - 2, "999"


def flip(shop: Shop, raw: bytes) -> bytes:
    packed = gzip.compress(raw)
    place = shop.rng.randrange(20, len(packed) - 8)
    return packed[:place] + bytes([packed[place] ^ 255]) + packed[place + 1 :]


def json_lines(_: Shop, raw: bytes) -> bytes:
    rows = list(csv.DictReader(io.StringIO(raw.decode())))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def latin(shop: Shop, raw: bytes) -> bytes:
    lines = raw.split(b"\r\n")
    row = shop.row()
    lines[row] = lines[row].replace(b"p-", b"p\xe9-")
    return b"\r\n".join(lines)


def parquet(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """The sales as Parquet, with columns changed."""

    def write(_: Shop, raw: bytes) -> bytes:
        rows = list(csv.DictReader(io.StringIO(raw.decode())))
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        change(columns)
        out = io.BytesIO()
        pyarrow.parquet.write_table(pa.table(columns), out)
        return out.getvalue()

    return as_bytes("sales", write)


STOPS, LEFT, KNOWING = "stops the run", "rows left out", "worth knowing"
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "no user": (put("sales", 0, lambda *_: ""), STOPS, "no identifier"),
    "no item": (put("sales", 1, lambda *_: ""), STOPS, "no identifier"),
    "no moment": (put("sales", 2, lambda *_: ""), STOPS, "no moment"),
    "no item in the items": (put("goods", 0, lambda *_: ""), STOPS, "no identifier"),
    "a word for a moment": (put("sales", 2, lambda *_: "soon"), STOPS, "no readable moment"),
    "a date among seconds": (put("sales", 2, lambda *_: "2025-03-09"), STOPS, "no readable moment"),
    "an endless moment": (put("sales", 2, lambda *_: "inf"), STOPS, "no readable moment"),
    "dates with slashes": (every("sales", 2, lambda _: "31/03/2025 10:00"), STOPS, "no readable moment"),
    "microseconds": (every("sales", 2, lambda old: old + "000000"), STOPS, "no readable moment"),
    "an unknown item": (put("sales", 1, lambda *_: "p-99"), STOPS, "items that the items file lacks"),
    "an item with a blank": (put("sales", 1, lambda _, old: " " + old), STOPS, "items that the items file lacks"),
    "an item twice": (repeat_a_good, STOPS, "items that stand twice"),
    "a price of infinity": (put("goods", 1, lambda *_: "inf"), STOPS, "no finite number"),
    "another name in the items": (rename("goods", {"sku": "id"}), STOPS, "no column for the item"),
    "no column of times": (whole(lambda shop: [row.pop(2) for row in shop.sales]), STOPS, "no column for the time"),
    "no header": (whole(lambda shop: shop.sales.pop(0)), STOPS, "no column for the user"),
    "no header in the items": (whole(lambda shop: shop.goods.pop(0)), STOPS, "no column for the item"),
    "semicolons": (whole(lambda shop: setattr(shop, "delimiter", ";")), STOPS, "no column for the user"),
    "tabs": (whole(lambda shop: setattr(shop, "delimiter", "\t")), STOPS, "no column for the user"),
    "a column twice": (rename("sales", {"stars": "sku"}), STOPS, "names the column 'sku' twice"),
    "a short row": (whole(lambda shop: shop.sales[shop.row()].pop()), STOPS, "is not a regular CSV file"),
    "a header alone": (whole(lambda shop: shop.sales.__delitem__(slice(1, None))), STOPS, "has a header but no rows"),
    "an empty file": (as_bytes("sales", lambda *_: b""), STOPS, "is empty"),
    "empty items": (as_bytes("goods", lambda *_: b""), STOPS, "is empty"),
    "a blank first line": (as_bytes("sales", lambda _, raw: b"\r\n" + raw), STOPS, "has no header"),
    "a cut gzip": (as_bytes("sales", lambda _, raw: gzip.compress(raw)[:-9]), STOPS, "is a damaged or truncated gzip"),
    "a flipped gzip": (as_bytes("sales", flip), STOPS, "is a damaged or truncated gzip"),
    "Latin-1": (as_bytes("sales", latin), STOPS, "is not UTF-8 text"),
    "UTF-16": (as_bytes("sales", lambda _, raw: raw.decode().encode("utf-16")), STOPS, "is not UTF-8 text"),
    "bzip2": (as_bytes("sales", lambda _, raw: bz2.compress(raw)), STOPS, "is not UTF-8 text"),
    "a workbook": (as_bytes("goods", lambda *_: b"PK\x03\x04\x14\x00\xff\x00"), STOPS, "is not UTF-8 text"),
    "zero bytes": (as_bytes("sales", lambda _, raw: raw[:200] + b"\x00" + raw[200:]), STOPS, "is neither Parquet nor"),
    "JSON Lines": (as_bytes("sales", json_lines), STOPS, "no column for the user"),
    "half a Parquet": (as_bytes("sales", lambda _, raw: b"PAR1" + raw[:99]), STOPS, "begins as Parquet but"),
    "fractions for users": (
        parquet(lambda columns: columns.update(customer_id=[float(one) for one in columns["customer_id"]])),
        STOPS, "identifiers of type double",
    ),
    "times of day": (
        parquet(lambda columns: columns.update(ts=pa.array([int(one) % 999 for one in columns["ts"]], pa.time32("s")))),
        STOPS, "refused",
    ),
    "two Parquet columns of one name": (
        as_bytes("sales", lambda *_: two_of_one_name()), STOPS, "no column for the time",
    ),
    "nobody met three": (
        whole(lambda shop: shop.sales.__delitem__(slice(3, None))), STOPS, "refused",
    ),
    "someone met two": (newcomer, LEFT, "users with fewer than 3"),
    "a sale twice": (whole(repeat_a_sale), LEFT, "repeated pairs"),
    "milliseconds": (every("sales", 2, lambda old: old + "000"), KNOWING, "moments in milliseconds"),
    "one in milliseconds": (put("sales", 2, lambda _, old: old + "000"), KNOWING, "moments in milliseconds"),
    "the future": (put("sales", 2, lambda *_: "1900000000"), KNOWING, "moments in the future"),
    "the epoch": (put("sales", 2, lambda *_: "0"), KNOWING, "moments before 1990"),
    "days as numbers": (every("sales", 2, lambda _: "20250301"), KNOWING, "moments written YYYYMMDD"),
    "days": (every("sales", 2, lambda _: "2025-03-01"), KNOWING, "days without hours"),
    "a user called NULL": (put("sales", 0, lambda *_: "NULL"), KNOWING, "words for nothing"),
    "a user in words": (put("sales", 0, lambda *_: "anna"), KNOWING, "mixed types: text among integers"),
    "a user with zeros": (put("sales", 0, lambda _, old: "00" + old), KNOWING, "zeros before the number"),
    "a price in words": (put("goods", 1, lambda *_: "cheap"), KNOWING, "mixed types: text among numbers"),
    "an item never met": (
        whole(lambda shop: shop.goods.append(["p-77", "1", "blau", "new"])), KNOWING, "items that nobody met",
    ),
    "an item without attributes": (
        whole(lambda shop: shop.goods.append(["p-77", "", "", ""])), KNOWING, "items without attributes",
    ),
    "a column of nothing": (every("goods", 2, lambda _: ""), KNOWING, "a column of nothing"),
    "our own name": (rename("goods", {"colour": "item_id"}), KNOWING, "our own name"),
    "a mark before UTF-8": (as_bytes("sales", lambda _, raw: b"\xef\xbb\xbf" + raw), "", ""),
    "gzip": (as_bytes("sales", lambda _, raw: gzip.compress(raw)), "", ""),
    "Parquet": (parquet(lambda columns: columns.update(ts=[int(one) for one in columns["ts"]])), "", ""),
    "a newline in a cell": (put("goods", 2, lambda *_: "rot\nund blau"), "", ""),
}  # fmt: skip


def two_of_one_name() -> bytes:
    table = pa.table([["a"] * 4, [1, 2, 3, 4], [5, 6, 7, 8], [5, 6, 7, 8]], names=["customer_id", "sku", "ts", "ts"])
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


def test_the_family_of_damages_has_at_least_thirty_that_stop_a_run() -> None:
    assert sum(grade == STOPS for _, grade, _ in DAMAGES.values()) >= 30


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_called_usable_curates_and_what_curate_refuses_is_refused_in_the_same_words(
    tmp_path: Path, kind: str, seed: int
) -> None:
    spoil, grade, what = DAMAGES[kind]
    one = shop(seed)
    culprit = spoil(one)
    found = look(one.write(tmp_path))

    if found.usable:
        data = curate(found)
        assert found.counts["users"] == data["users"].num_rows
        assert found.counts["items"] == data["items"].num_rows
        assert found.counts["rows used"] == sum(data[part].num_rows for part in ("train", "validation", "test"))
    else:
        with pytest.raises(Exception) as refused:
            curate(found)
        assert str(refused.value) == found.refusal
        if kind not in ("times of day", "two Parquet columns of one name"):  # pyarrow's words, not the reader's
            assert isinstance(refused.value, InputError)
    stops = [one for one in found.problems if one.grade == STOPS]
    assert bool(stops) == (not found.usable) == (grade == STOPS)
    if grade:
        named = problem(found, what)
        assert named.grade == grade
        assert named.remedy
        if culprit and kind not in ("days", "a column of nothing"):  # those are of the column, not of rows
            row, value = culprit
            assert named.rows[0] == (row, "999" if kind == "someone met two" else repr(value) if value else "nothing")
    else:
        assert not [one for one in found.problems if one.what != "items that nobody met"]


def test_a_whole_shop_has_no_problem(tmp_path: Path) -> None:
    found = look(shop(4).write(tmp_path))
    assert found.usable
    assert not found.problems
    assert found.counts["rows"] == found.counts["rows used"] == len(shop(4).sales) - 1


def test_all_rows_of_a_problem_are_counted_and_the_first_three_are_named(tmp_path: Path) -> None:
    one = shop(0)
    for row in (7, 11, 40, 41):
        one.sales[row][2] = "never"
    found = problem(look(one.write(tmp_path)), "no readable moment")
    assert found.count == 4
    assert found.rows == ((7, "'never'"), (11, "'never'"), (40, "'never'"))


def test_several_problems_are_told_at_once_the_gravest_first(tmp_path: Path) -> None:
    one = shop(0)
    one.sales[3][0], one.sales[9][1] = "", "p-99"
    one.sales[20][2] = "1900000000"
    one.goods.append(["p-77", "", "", ""])
    found = look(one.write(tmp_path))
    assert [each.grade for each in found.problems] == sorted(
        (each.grade for each in found.problems), key=[STOPS, LEFT, KNOWING].index
    )
    assert {
        "no identifier",
        "items that the items file lacks",
        "moments in the future",
        "items without attributes",
    } <= {each.what for each in found.problems}


# -------------------------------------------------------------------------------------------------------------- mapping


@pytest.mark.parametrize(
    ("user", "item", "time"),
    [
        ("user_id", "item_id", "timestamp"),
        ("uid", "product_id", "ts"),
        ("MemberID", "Movie Id", "Event-Time"),
        ("customer", "article_id", "purchased_at"),
        ("visitorid", "itemid", "timestamp"),
        ("app_user_id", "shop_product_key", "last_click_time"),
        ("InvoiceAccount", "StockCode", "InvoiceDate"),
    ],
)
def test_usual_names_are_understood(tmp_path: Path, user: str, item: str, time: str) -> None:
    one = shop(1)
    one.sales[0] = ["stars" if name == "stars" else name for name in [user, item, time, "stars"]]
    order = one.rng.sample(range(4), 4)
    one.sales = [[row[place] for place in order] for row in one.sales]
    found = roles(look(one.write(tmp_path), items=False))
    if user != "InvoiceAccount":
        assert (found["user"].column, found["user"].choice) == (user, "guessed by name")
    assert (found["item"].column, found["item"].choice) == (item, "guessed by name")
    assert (found["time"].column, found["time"].choice) == (time, "guessed by name")


def test_columns_with_names_that_say_nothing_are_told_by_what_they_hold(tmp_path: Path) -> None:
    one = shop(2)
    one.sales[0] = ["a", "b", "c", "d"]
    one.goods[0][0] = "b"
    found = look(one.write(tmp_path))
    assert found.usable
    assert {role: (each.column, each.choice) for role, each in roles(found).items()} == {
        "user": ("a", "guessed by content"),
        "item": ("b", "guessed by content"),
        "time": ("c", "guessed by content"),
    }
    assert curate(found)["items"].num_rows == 17


def test_what_is_named_is_not_guessed(tmp_path: Path) -> None:
    one = shop(2)
    for row in one.sales:
        row.append(row[0])
    one.sales[0][-1] = "buyer of the thing"
    found = look(one.write(tmp_path), user="buyer of the thing", least_interactions="4", name="my-shop", separator=";")
    assert roles(found)["user"].choice == "named by you"
    assert found.settings["data"]["name"] == "my-shop"
    table = found.settings["data"]["table"]
    assert table["user_column"] == "buyer of the thing"
    assert table["least_interactions"] == 4
    assert "multi_valued" not in table
    assert curate(found)["users"].num_rows == found.counts["users"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"usr": "a"}, "can be set, got 'usr'"),
        ({"least_interactions": "few"}, "must be a whole number, got 'few'"),
        ({"least_interactions": "2"}, "least_interactions must be at least"),
        ({"name": "My Shop"}, "must be lower case letters"),
    ],
)
def test_a_wrong_wish_is_refused(tmp_path: Path, chosen: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look(shop(0).write(tmp_path), **chosen)


def test_a_named_column_that_is_not_there_stops_the_run_in_the_words_of_the_run(tmp_path: Path) -> None:
    found = look(shop(0).write(tmp_path), time="when")
    assert not found.usable
    assert "sales.csv has no column 'when'; it has ['customer_id'" in found.refusal
    assert problem(found, "no column for the time").column == "when"


def test_lists_and_numbers_among_the_attributes_are_found(tmp_path: Path) -> None:
    found = look(shop(0).write(tmp_path))
    table = found.settings["data"]["table"]
    assert table["numbers"] == ["price"]
    assert table["multi_valued"] == ["tags"]
    items = curate(found)["items"]
    assert pa.types.is_list(items.schema.field("tags").type)
    assert pa.types.is_floating(items.schema.field("price").type)
    kinds = {one.column: one.kind for one in found.columns if one.role == "attribute"}
    assert kinds == {"price": "number", "colour": "text", "tags": "list of text"}


def test_names_with_commas_are_no_lists(tmp_path: Path) -> None:
    one = shop(0)
    for row in one.goods:
        row[3] = "title" if row[0] == "sku" else f"Film {row[0]}, The"
    found = look(one.write(tmp_path))
    assert "multi_valued" not in found.settings["data"]["table"]


def test_the_column_that_must_be_renamed_is_named(tmp_path: Path) -> None:
    one = shop(0)
    one.goods[0][0] = "reference"
    assert (
        problem(look(one.write(tmp_path)), "no column for the item").remedy == "rename its column 'reference' to 'sku'"
    )


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("semicolons", "parted by semicolons"),
        ("tabs", "parted by tabs"),
        ("UTF-16", "UTF-16 text; save it as CSV UTF-8"),
        ("Latin-1", "iconv -f WINDOWS-1252"),
        ("JSON Lines", "pyarrow.json.read_json"),
        ("bzip2", "packed with bzip2"),
        ("a workbook", "Excel workbook"),
        ("no header", "its first line looks like data"),
    ],
)
def test_a_file_of_another_kind_is_recognised(tmp_path: Path, kind: str, remedy: str) -> None:
    one = shop(0)
    DAMAGES[kind][0](one)
    found = look(one.write(tmp_path))
    assert remedy in found.problems[0].remedy
    assert all(each.choice == "not found" for each in roles(found).values()) or kind == "a workbook"


def test_a_file_for_each_day_is_tried_by_one_of_its_days(tmp_path: Path) -> None:
    location = str(tmp_path / "sales-{date}.csv")
    found = examine(RawFile(location, Path(location)), {}, {}, moment=NOW)
    assert not found.usable
    assert "try the file of one day" in found.problems[0].remedy


def test_columns_that_can_be_no_attributes_are_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    files = shop(0).write(tmp_path)
    goods = pa.table({"sku": [f"p-{i}" for i in range(17)], "size": list(range(17)), "box": [{"w": 1}] * 17})
    pyarrow.parquet.write_table(goods, files["goods"].path)
    found = look(files)
    assert found.settings["data"]["table"]["attributes"] == ["size"]
    assert problem(found, "no attribute: type struct").column == "box"
    assert curate(found)["items"].column_names == ["item", "item_id", "size"]


def test_points_are_attributes_and_those_that_are_nowhere_stop_the_run(tmp_path: Path) -> None:
    files = shop(0).write(tmp_path)
    points: list[Any] = [{"lat": 50.0, "lon": float(i)} for i in range(17)]
    points[4] = None

    def looked() -> Examination:
        goods = pa.table({"sku": [f"p-{i}" for i in range(17)], "where": points})
        pyarrow.parquet.write_table(goods, files["goods"].path)
        return look(files)

    found = looked()
    assert found.usable
    assert [(one.kind, one.role) for one in found.columns if one.column == "where"] == [("point", "attribute")]
    assert curate(found)["items"]["where"].to_pylist()[4:6] == [None, {"latitude": 50.0, "longitude": 5.0}]
    points[7] = {"lat": -90.5, "lon": 0.0}
    found = looked()
    assert not found.usable
    wrong = problem(found, "no place on Earth")
    assert (wrong.column, wrong.count, wrong.rows[0][0]) == ("where", 1, 8)


def test_nothing_is_written_beside_the_files(tmp_path: Path) -> None:
    files = shop(0).write(tmp_path)
    before = sorted(tmp_path.iterdir())
    look(files)
    assert sorted(tmp_path.iterdir()) == before


def _every_value(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from _every_value(getattr(value, each.name))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _every_value(each)
    else:
        yield value


def test_what_is_found_is_plain_values(tmp_path: Path) -> None:
    found = look(shop(0).write(tmp_path))
    for value in _every_value((found.columns, found.problems, found.refusal)):
        assert isinstance(value, str | int | float)
    assert json.loads(json.dumps(found.settings)) == found.settings
