"""What is prepared is what the files say, held-out choices reach nothing else, and bad files are refused by name."""

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.feed.retrieval.batches import latest_items
from models.feed.retrieval.data import DataConfig, GloveCitiesConfig, MovieLensConfig, index_ids, leave_one_out
from models.feed.retrieval.features import encode_attributes
from models.feed.retrieval.generator import GeneratorConfig, generate, utility
from models.feed.retrieval.metrics import Seen, hit_rate, popularity, popularity_lists, rank_by
from models.feed.retrieval.table import TableConfig, VectorsConfig

SMALL = GeneratorConfig(users=47, items=203, events=11, seed=5)


def write(path: Path, rows: list[list[Any]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    raw = text.getvalue().encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def pairs(table: pa.Table) -> list[tuple[int, int, int]]:
    return list(zip(*(table[name].to_pylist() for name in ("user", "item", "time")), strict=True))


# --- leave one out ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=60))
def test_the_last_item_is_the_test_and_the_one_before_it_the_validation(rows: list[tuple[int, int, int]]) -> None:
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    split = leave_one_out(user, item, time)
    for who in range(5):
        met: list[int] = []  # the first meeting with each item, by time and then by the order of the file
        for row in sorted(np.flatnonzero(user == who), key=lambda row: (time[row], row)):
            if item[row] not in [item[other] for other in met]:
                met.append(int(row))
        if len(met) < 3:
            assert who not in split.users
            continue
        place = split.users.tolist().index(who)
        assert split.test[place] == met[-1]
        assert split.validation[place] == met[-2]
        assert [row for row in split.train if user[row] == who] == met[:-2]


def test_fewer_than_three_interactions_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="least must be at least 3"):
        leave_one_out(np.zeros(5, int), np.arange(5), np.arange(5), least=2)


# --- the generated world ----------------------------------------------------------------------------------------------


def test_a_world_follows_from_its_configuration_alone() -> None:
    first, again = generate(SMALL), generate(SMALL)
    assert first.items.equals(again.items)
    for name in ("user", "item", "time", "taste", "trait", "appeal"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    other = generate(GeneratorConfig(users=47, items=203, events=11, seed=6))
    assert not np.array_equal(first.taste, other.taste)


def test_nobody_chooses_an_item_twice_or_before_it_is_born() -> None:
    world = generate(GeneratorConfig(users=120, items=150, events=30, newcomers=0.5, seed=2))
    assert len(set(zip(world.user.tolist(), world.item.tolist(), strict=True))) == len(world.user)
    assert (np.diff(world.time)[np.diff(world.user) == 0] >= 0).all()
    season = (world.time - world.time.min()) / (90 * 86_400)
    young = np.asarray(world.items["year"])[world.item] == 2024
    assert not young[season < 0.9].any()
    assert young[season > 3].any()


def test_items_have_nulls_several_tags_and_words_of_many_scripts() -> None:
    items = generate(SMALL).items
    assert items["category"].null_count and items["price"].null_count
    lengths = {len(tags) for tags in items["tags"].to_pylist()}
    assert {0, 1, 2, 3, 4} == lengths
    assert all(len(set(tags)) == len(tags) for tags in items["tags"].to_pylist())
    assert any(not tag.isascii() for tags in items["tags"].to_pylist() for tag in tags)


def test_choices_follow_the_stated_softmax() -> None:
    """A member's first choice among the first season's items has probability exp(utility) / sum, here checked by its
    mean and its spread: sum over members of (1{took i} - P(i|u)) is a sum of independent terms of mean zero."""
    config = GeneratorConfig(users=4000, items=60, events=4, newcomers=0, sharpness=1.5, seed=9)
    world = generate(config)
    first = world.item[np.searchsorted(world.user, np.arange(config.users))]
    utility = world.taste @ world.trait.T + world.appeal
    chance = np.exp(utility) / np.exp(utility).sum(1, keepdims=True)
    took = np.bincount(first, minlength=60)
    z = (took - chance.sum(0)) / np.sqrt((chance * (1 - chance)).sum(0))
    assert np.abs(z).max() < 4.5  # 60 items: beyond 4.5 with probability 4e-4
    assert 0.6 < z.std() < 1.4


def test_with_several_interests_a_choice_serves_any_one_of_them() -> None:
    """As above; the chance of an item is the sum over interests, written out."""
    config = GeneratorConfig(users=4000, items=60, events=4, newcomers=0, sharpness=2.0, interests=3, seed=9)
    world = generate(config)
    assert world.taste.shape == (4000, 3, config.factors)
    np.testing.assert_allclose(np.linalg.norm(world.taste, axis=2), 2.0)
    first = world.item[np.searchsorted(world.user, np.arange(config.users))]
    rate = sum(np.exp(world.taste[:, m] @ world.trait.T + world.appeal) for m in range(3))
    chance = rate / rate.sum(1, keepdims=True)
    z = (np.bincount(first, minlength=60) - chance.sum(0)) / np.sqrt((chance * (1 - chance)).sum(0))
    assert np.abs(z).max() < 4.5
    assert 0.6 < z.std() < 1.4
    data = DataConfig(generator=config).prepare({})
    np.testing.assert_allclose(utility(data["true_users"], data["true_items"]), np.log(rate), rtol=1e-4, atol=1e-4)


def test_nobody_beats_the_oracle_and_popularity_is_worth_something() -> None:
    data = DataConfig(generator=GeneratorConfig(users=900, items=700, seed=1)).prepare({})
    users = data["test"]["user"].to_numpy()
    relevant = data["test"]["item"].to_numpy()[:, None]
    earlier = [data["train"], data["validation"]]
    seen = Seen(earlier, 900)
    popular = popularity_lists(popularity(earlier, 700, 1.0), users, seen, 50)
    oracle = rank_by(data["true_users"][users], data["true_items"], users, seen, 50)
    rate = {name: hit_rate(x, relevant, 50).mean() for name, x in (("popular", popular), ("oracle", oracle))}
    assert 50 / 700 + 0.05 < rate["popular"] < rate["oracle"] - 0.2


def test_true_vectors_belong_to_the_rows_of_users_and_items() -> None:
    data = DataConfig(generator=SMALL).prepare({})
    assert data["true_users"].shape == (data["users"].num_rows, SMALL.factors + 1)
    assert data["true_items"].shape == (data["items"].num_rows, SMALL.factors + 1)
    world = generate(SMALL)
    own = data["true_users"][11] @ data["true_items"][7]
    assert own == pytest.approx(float(world.taste[11] @ world.trait[7] + world.appeal[7]), rel=1e-5)


# --- MovieLens --------------------------------------------------------------------------------------------------------

MOVIES = [
    ["movieId", "title", "genres"],
    [7, "Seven Lakes (1995)", "Drama|Romance"],
    [3, "Three, or Four (2001) ", "Comedy"],
    [90, "Babylon", "(no genres listed)"],
    [11, "Été à Łódź (1960)", "Drama"],
    [12, "Nobody Saw It (2010)", "War"],
]
RATINGS = [
    ["userId", "movieId", "rating", "timestamp"],
    [5, 3, 4.0, 100],
    [5, 7, 2.0, 200],
    [5, 90, 5.0, 300],
    [5, 11, 3.0, 400],
    [2, 11, 4.5, 50],
    [2, 7, 4.0, 50],
    [2, 3, 0.5, 50],
]


def movielens(folder: Path, ratings: list[list[Any]] = RATINGS, least: float = 0.5) -> Any:
    files = {"movies": write(folder / "movies.csv.gz", MOVIES), "ratings": write(folder / "ratings.csv.gz", ratings)}
    config = DataConfig(source="movielens", movielens=MovieLensConfig(least_rating=least))
    assert set(config.sources()) == set(files)
    return config.prepare(files)


def test_movielens_is_split_by_time_with_ties_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = movielens(tmp_path)
    assert data["users"].to_pydict() == {"user": [0, 1], "user_id": [2, 5]}
    assert pairs(data["train"]) == [(0, 3, 50), (1, 1, 100), (1, 0, 200)]
    assert pairs(data["validation"]) == [(0, 0, 50), (1, 2, 300)]
    assert pairs(data["test"]) == [(0, 1, 50), (1, 3, 400)]
    assert index_ids(data).tolist() == [7, 3, 90, 11, 12]


def test_movielens_years_genres_and_missing_values_come_from_the_titles(tmp_path: Path) -> None:
    items = movielens(tmp_path)["items"].to_pydict()
    assert items["year"] == [1995, 2001, None, 1960, 2010]
    assert items["genres"] == [["Drama", "Romance"], ["Comedy"], [], ["Drama"], ["War"]]
    assert items["title"][1] == "Three, or Four (2001)"


def test_held_out_ratings_reach_no_attribute(tmp_path: Path) -> None:
    data = movielens(tmp_path)
    # before the held-out pairs: user 2 rated 11 with 4.5; user 5 rated 3 with 4.0 and 7 with 2.0
    assert data["items"]["rating_count"].to_pylist() == [1, 1, 0, 1, 0]
    assert data["items"]["mean_rating"].to_pylist() == [2.0, 4.0, None, 4.5, None]
    changed = [row if row[3] not in (300, 400) else [*row[:2], 0.5, row[3]] for row in RATINGS]
    assert movielens(tmp_path, changed)["items"].equals(data["items"])


def test_ratings_below_the_threshold_are_no_interactions_but_count_for_the_mean(tmp_path: Path) -> None:
    data = movielens(tmp_path, [*RATINGS, [5, 12, 4.0, 250]], least=2.5)
    assert data["users"]["user_id"].to_pylist() == [5]
    assert [item for _, item, _ in pairs(data["train"])] == [1, 4]
    assert data["items"]["mean_rating"].to_pylist()[0] == 3.0  # 2.0 by user 5 and 4.0 by user 2


# --- words and cities -------------------------------------------------------------------------------------------------


def glove(folder: Path, words: list[str], cities: list[list[Any]]) -> tuple[DataConfig, dict[str, Path]]:
    rng = np.random.default_rng(3)
    codes = rng.integers(-127, 128, (len(words), 7)).astype(np.int8)
    np.savez(folder / "codes.npz", codes=codes, scale=np.linspace(0.5, 2, len(words), dtype=np.float32))
    (folder / "words.txt.gz").write_bytes(gzip.compress(("\n".join(words) + "\n").encode()))
    header = ["row", "word", "country", "latitude", "longitude", "population", "timezone"]
    write(folder / "cities.csv.gz", [header, *cities])
    files = {"vectors": folder / "codes.npz", "words": folder / "words.txt.gz", "cities": folder / "cities.csv.gz"}
    return DataConfig(source="glove-cities", cities=GloveCitiesConfig(held_out=0.2)), files


WORDS = ["the", "paris", "k-9", "naïve", "2020", "rome", "of", ",", "bath", "nice"]
CITIES = [
    [1, "paris", "FR", 48.85, 2.35, 2138551, "Europe/Paris"],
    [5, "rome", "IT", 41.89, 12.48, 2318895, "Europe/Rome"],
    [9, "nice", "FR", 43.7, 7.27, 338620, "Europe/Paris"],
]


def test_words_are_unit_vectors_and_held_out_ones_are_queries_not_items(tmp_path: Path) -> None:
    config, files = glove(tmp_path, WORDS, CITIES)
    data = config.prepare(files)
    assert data["vectors"].shape == (8, 7) and data["queries"].shape == (2, 7)
    np.testing.assert_allclose(np.linalg.norm(data["vectors"], axis=1), 1, rtol=1e-6)
    everything = {row.tobytes() for row in np.concatenate([data["vectors"], data["queries"]])}
    assert len(everything) == 10
    assert len(set(index_ids(data))) == 8
    assert data["items"]["item_id"].to_pylist() == data["items"]["rank"].to_pylist()


def test_words_carry_their_own_attributes_and_those_of_their_city(tmp_path: Path) -> None:
    config, files = glove(tmp_path, WORDS, CITIES)
    rows = {row["word"]: row for row in config.prepare(files)["items"].to_pylist()}
    for word, row in rows.items():
        assert row["length"] == len(word)
        assert row["first_letter"] == word[0]
        assert (row["has_digit"], row["has_hyphen"]) == (word in ("k-9", "2020"), word == "k-9")
        assert row["is_ascii"] == (word != "naïve")
        city = {line[1]: line for line in CITIES}.get(word)
        assert row["country"] == (city[2] if city else None)
        assert row["population"] == (city[5] if city else None)
        assert (row["latitude"], row["longitude"]) == ((city[3], city[4]) if city else (None, None))
        assert row["place"] == ({"latitude": city[3], "longitude": city[4]} if city else None)


def test_a_city_that_is_nowhere_on_earth_is_refused_by_its_row(tmp_path: Path) -> None:
    config, files = glove(tmp_path, WORDS, [CITIES[0], [5, "rome", "IT", 41.89, 192.48, 1, "Europe/Rome"]])
    with pytest.raises(InputError, match=r"cities.csv.gz, column 'place', row 2: .*192.48.*between -180 and 180"):
        config.prepare(files)


def test_files_of_different_releases_are_refused(tmp_path: Path) -> None:
    config, files = glove(tmp_path, WORDS, [[2, "paris", "FR", 48.85, 2.35, 1, "Europe/Paris"]])
    with pytest.raises(InputError, match=r"cities.csv.gz, column 'row', row 1: 2 is not the row of 'paris'"):
        config.prepare(files)
    (tmp_path / "words.txt.gz").write_bytes(gzip.compress(b"a\nb\n"))
    with pytest.raises(InputError, match=r"words.txt.gz has 2 words, .*codes.npz has 10 rows"):
        config.prepare(files)
    files["vectors"].write_bytes(files["vectors"].read_bytes()[:60])
    with pytest.raises(InputError, match=r"codes.npz is no npz file"):
        config.prepare(files)


# --- a user's own table -----------------------------------------------------------------------------------------------

GOODS = [
    ["sku", "colour", "price", "tags", "in_stock", "stars"],
    ["a-1", "rouge", "3.5", "new|größer", "true", "4"],
    ["b-2", "", "", "", "false", "5"],
    ["c-3", "blau, hell", "7", "|new| ", "true", ""],
    ["d-4", "rouge", "1e2", "old", "", "3"],
]
SALES = [
    ["who", "sku", "at"],
    *[
        [who, sku, f"2024-05-{day:02d}T10:00:00Z"]
        for day, (who, sku) in enumerate(
            [("zoe", "c-3"), ("ann", "a-1"), ("zoe", "a-1"), ("zoe", "d-4"), ("ann", "b-2"), ("ann", "c-3")], 1
        )
    ],
    ["bob", "a-1", "2024-06-01"],
]
SHOP = TableConfig(
    interactions="sales.csv", items="goods.csv", user_column="who", item_column="sku", time_column="at",
    multi_valued=("tags",), numbers=("price",),
)  # fmt: skip


def shop(
    folder: Path, sales: list[list[Any]] = SALES, goods: list[list[Any]] = GOODS, config: TableConfig = SHOP
) -> Any:
    files = {"interactions": write(folder / "sales.csv", sales), "items": write(folder / "goods.csv", goods)}
    return DataConfig(source="table", table=config).prepare(files)


def points_of_shops(folder: Path, points: list[Any]) -> Any:
    """The shop's items as Parquet with a column of points; a CSV has none."""
    write(folder / "sales.csv", SALES)
    table = pa.table({"sku": ["a-1", "b-2", "c-3", "d-4"], "at": pa.array(points)})
    pyarrow.parquet.write_table(table, folder / "goods.parquet")
    config = TableConfig(
        interactions="sales.csv", items="goods.parquet", user_column="who", item_column="sku", time_column="at"
    )
    files = {"interactions": folder / "sales.csv", "items": folder / "goods.parquet"}
    return DataConfig(source="table", table=config).prepare(files)


def test_points_of_ones_own_pass_through_and_the_towers_do_not_see_them(tmp_path: Path) -> None:
    points = [{"lon": -180.0, "lat": 52.5}, None, {"lon": 1.0, "lat": float("nan")}, {"lon": 1.0, "lat": -90.0}]
    data = points_of_shops(tmp_path, points)
    assert data["items"]["at"].to_pylist() == [
        {"latitude": 52.5, "longitude": 180.0}, None, None, {"latitude": -90.0, "longitude": 1.0},
    ]  # fmt: skip
    assert encode_attributes(data["items"]).weights.sum() == 0
    points[3] = {"lon": 1.0, "lat": 90.1}
    with pytest.raises(InputError, match=r"goods.parquet, column 'at', row 4: .*90.1.*a latitude lies between"):
        points_of_shops(tmp_path, points)


def test_a_table_of_ones_own_becomes_a_data_set(tmp_path: Path) -> None:
    data = shop(tmp_path)
    assert data["items"].to_pydict() == {
        "item": [0, 1, 2, 3],
        "item_id": ["a-1", "b-2", "c-3", "d-4"],
        "colour": ["rouge", None, "blau, hell", "rouge"],
        "price": [3.5, None, 7.0, 100.0],
        "tags": [["new", "größer"], None, ["new"], ["old"]],
        "in_stock": [True, False, True, None],
        "stars": [4, 5, None, 3],
    }
    assert data["users"]["user_id"].to_pylist() == ["ann", "zoe"]
    assert data["about"]["users_left_out"] == 1
    first = 1714557600  # 2024-05-01T10:00:00Z, by `date -u -d ... +%s`
    day = 86_400
    assert pairs(data["train"]) == [(0, 0, first + day), (1, 2, first)]
    assert pairs(data["test"]) == [(0, 2, first + 5 * day), (1, 3, first + 3 * day)]
    assert index_ids(data).tolist() == [0, 1, 2, 3]


def test_parquet_and_packed_csv_give_the_same_as_csv(tmp_path: Path) -> None:
    plain = shop(tmp_path)
    columns = {name: [row[i] for row in SALES[1:]] for i, name in enumerate(SALES[0])}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "sales")  # the name's ending means nothing
    packed = write(tmp_path / "goods.csv.gz", GOODS).rename(tmp_path / "goods")
    files = {"interactions": tmp_path / "sales", "items": packed}
    other = DataConfig(source="table", table=SHOP).prepare(files)
    for part in ("items", "users", "train", "validation", "test"):
        assert other[part].equals(plain[part]), part


def test_without_an_items_file_the_items_are_those_met(tmp_path: Path) -> None:
    config = TableConfig(interactions="x", user_column="who", item_column="sku", time_column="at")
    files = {"interactions": write(tmp_path / "sales.csv", SALES)}
    data = DataConfig(source="table", table=config).prepare(files)
    assert data["items"].to_pydict() == {"item": [0, 1, 2, 3], "item_id": ["a-1", "b-2", "c-3", "d-4"]}
    assert encode_attributes(data["items"]).weights.sum() == 0


@pytest.mark.parametrize("form", ["seconds", "fractions", "dates", "timestamps", "zones"])
def test_moments_are_read_in_every_usual_form(tmp_path: Path, form: str) -> None:
    moments = np.array([1714557600, 1714557661, 1714557722])
    stamps = moments.astype("datetime64[s]")
    column: dict[str, Any] = {
        "seconds": moments,
        "fractions": [f"{m}.75" for m in moments],
        "dates": [str(stamp) for stamp in stamps],
        "timestamps": pa.array(stamps, pa.timestamp("us", tz="UTC")),
        "zones": [f"{stamp + np.timedelta64(2, 'h')}+02:00" for stamp in stamps],
    }
    table = pa.table({"user": [1, 1, 1], "item": [4, 5, 6], "time": column[form]})
    pyarrow.parquet.write_table(table, tmp_path / "sales.parquet")
    data = DataConfig(source="table", table=TableConfig(interactions="x")).prepare(
        {"interactions": tmp_path / "sales.parquet"}
    )
    assert [data[part]["time"][0].as_py() for part in ("train", "validation", "test")] == moments.tolist()
    assert index_ids(data).tolist() == [4, 5, 6]


def edit(rows: list[list[Any]], row: int, column: int, value: Any) -> list[list[Any]]:
    return [[value if (i, j) == (row, column) else cell for j, cell in enumerate(line)] for i, line in enumerate(rows)]


WRONG: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "missing column": (lambda: (edit(SALES, 0, 2, "when"), GOODS), r"sales.csv has no column 'at'; it has \['who'"),
    "missing special column": (lambda: (SALES, edit(GOODS, 0, 3, "labels")), r"goods.csv has no column 'tags'"),
    "no user": (lambda: (edit(SALES, 3, 0, ""), GOODS), r"sales.csv, column 'who', row 3: None: .*drop the row"),
    "no item": (lambda: (edit(SALES, 2, 1, ""), GOODS), r"sales.csv, column 'sku', row 2: None"),
    "no moment": (lambda: (edit(SALES, 5, 2, ""), GOODS), r"sales.csv, column 'at', row 5: None"),
    "bad moment": (lambda: (edit(SALES, 4, 2, "soon"), GOODS), r"column 'at', row 4: 'soon': write a date"),
    "two bad": (lambda: (edit(edit(SALES, 4, 2, "x"), 6, 2, "y"), GOODS), r"row 4: 'x' \(and 1 more\)"),
    "unknown item": (lambda: (edit(SALES, 6, 1, "z-9"), GOODS), r"column 'sku', row 6: 'z-9': the items file has no"),
    "item twice": (lambda: (SALES, edit(GOODS, 3, 0, "a-1")), r"goods.csv, column 'sku', row 3: 'a-1': an item stands"),
    "not a number": (lambda: (SALES, edit(GOODS, 2, 2, "cheap")), r"column 'price', row 2: 'cheap': write a number"),
    "not finite": (lambda: (SALES, edit(GOODS, 4, 2, "inf")), r"column 'price', row 4: inf: numbers must be finite"),
    "our name": (lambda: (SALES, edit(GOODS, 0, 1, "item_id")), r"attribute called 'item_id', which is our own name"),
    "column twice": (lambda: (SALES, edit(GOODS, 0, 1, "price")), r"goods.csv names the column 'price' twice"),
    "ragged": (lambda: ([*SALES, ["x", "a-1"]], GOODS), r"sales.csv is not a regular CSV file .*needs 3 cells"),
    "no rows": (lambda: (SALES[:1], GOODS), r"sales.csv has a header but no rows"),
    "too few": (lambda: (SALES[:4], GOODS), r"none of 2 users met 3 different items"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tables_are_refused_with_file_column_row_and_remedy(tmp_path: Path, case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        shop(tmp_path, *make())


def damaged(kind: str, folder: Path) -> Path:
    path = folder / "sales.csv"
    packed = gzip.compress("\n".join(",".join(row) for row in SALES).encode())
    pyarrow.parquet.write_table(pa.table({"who": [1], "sku": [2], "at": [3]}), path)
    parquet = path.read_bytes()
    contents = {
        "absent": None,
        "empty": b"",
        "truncated gzip": packed[:-9],
        "flipped gzip": packed[:30] + bytes([packed[30] ^ 255]) + packed[31:],
        "truncated parquet": parquet[: len(parquet) // 2],
        "latin-1": b"who,sku,at\nRen\xe9e,a-1,3\n",
        "picture": b"\x89PNG\r\n\x1a\n\x00\x00",
        "zeros": b"who,sku,at\n\x00\x00\n",
        "blank header": b"\nwho,sku,at\n",
    }[kind]
    path.unlink()
    if contents is not None:
        path.write_bytes(contents)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "is no file"),
        ("empty", "is empty"),
        ("truncated gzip", "damaged or truncated gzip"),
        ("flipped gzip", "damaged or truncated gzip"),
        ("truncated parquet", "begins as Parquet but cannot be read"),
        ("latin-1", "is not UTF-8 text: line 2 has the byte 0xe9"),
        ("picture", "is not UTF-8 text: line 1"),
        ("zeros", "line 2 has a zero byte"),
        ("blank header", "has no header"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, kind: str, message: str) -> None:
    files = {"interactions": damaged(kind, tmp_path), "items": write(tmp_path / "goods.csv", GOODS)}
    with pytest.raises(InputError, match=f"sales.csv.*{message}"):
        DataConfig(source="table", table=SHOP).prepare(files)


# --- features and histories -------------------------------------------------------------------------------------------


def test_every_attribute_has_codes_of_its_own_whose_weights_sum_to_one() -> None:
    items = generate(SMALL).items
    features = encode_attributes(items)
    assert features.codes.max() < features.size
    alone = [encode_attributes(items.select([name])) for name in items.column_names]
    assert sum(one.size for one in alone) == features.size
    np.testing.assert_allclose(features.weights.sum(1), len(alone), rtol=1e-6)
    for one in alone:
        np.testing.assert_allclose(one.weights.sum(1), 1, rtol=1e-6)


def test_values_that_differ_differ_in_code_and_null_is_a_code() -> None:
    items = pa.table(
        {"colour": ["b", "a", None, "b"], "tags": [["x", "y"], ["y"], None, []], "n": [1.0, None, 3.0, 2.0]}
    )
    features = encode_attributes(items)
    colour, first, second, number = features.codes.T
    assert colour.tolist() == [1, 2, 0, 1]
    assert first[0] != second[0]
    assert first[1] in (first[0], second[0])  # y
    assert first[2] == first[3] != first[1]
    assert features.weights[:, 1].tolist() == [0.5, 1, 1, 1]
    assert len(set(number)) == 4


def test_titles_that_nearly_all_differ_are_left_to_the_identity() -> None:
    items = pa.table({"title": [f"film {i}" for i in range(300)], "genre": ["a", "b", None] * 100})
    assert encode_attributes(items).size == 3


def test_latest_items_end_with_the_latest_part() -> None:
    train = pa.table({"user": [0, 0, 0, 2], "item": [5, 6, 7, 1]})
    validation = pa.table({"user": [0, 2], "item": [9, 8]})
    assert latest_items([train, validation], 3, 3).tolist() == [[6, 7, 9], [-1, -1, -1], [1, 8, -1]]


# --- own vectors ------------------------------------------------------------------------------------------------------


def listed(path: Path, **columns: Any) -> dict[str, Path]:
    """Four items with vectors, as a file."""
    table = {
        "sku": ["a", "b", "c", "d"],
        "vector": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [0.1, 0.2, 0.3]],
        "asks": [[0.0, 0.0, 1.0]] * 4,
        "price": [3, None, 5, 7],
    }
    pyarrow.parquet.write_table(pa.table(table | columns), path)
    return {"items": path}


OWN = DataConfig(source="vectors", vectors=VectorsConfig(items="items.parquet", item_column="sku", query_column="asks"))


def test_own_vectors_are_indexed_as_they_are_and_items_ask_by_another_column(tmp_path: Path) -> None:
    assert OWN.sources() == {"items": "items.parquet"}
    data = OWN.prepare(listed(tmp_path / "items.parquet"))
    assert data["vectors"].dtype == np.float32
    np.testing.assert_array_equal(data["vectors"][3], np.array([0.1, 0.2, 0.3], np.float32))
    assert data["queries"].tolist() == [[0, 0, 1]] * 4
    assert data["items"].to_pydict() == {"item": [0, 1, 2, 3], "item_id": list("abcd"), "price": [3, None, 5, 7]}
    assert data["about"]["attributes"] == {"price": "int64"}


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.int64(), 3)])
def test_vectors_are_lists_of_any_kind_of_number(kind: pa.DataType, tmp_path: Path) -> None:
    vectors = pa.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]).cast(kind)
    config = DataConfig(source="vectors", vectors=VectorsConfig(items="items.parquet", item_column="sku"))
    files = listed(tmp_path / "items.parquet", vector=vectors)
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(files["items"]).drop_columns(["asks"]), files["items"])
    data = config.prepare(files)
    assert data["vectors"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    assert data["queries"] is data["vectors"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"vector": [1.0, 2.0, 3.0, 4.0]}, "column 'vector' holds double; write a list of numbers"),
        ({"vector": [["x"]] * 4}, r"column 'vector' holds list<.*string.*>; write a list of numbers"),
        (
            {"vector": [[1.0, 2.0]] * 3 + [[1.0]]},
            "column 'vector', row 4: 1: the vector of the first row has 2 numbers",
        ),
        ({"vector": [[1.0, 2.0]] * 2 + [None, None]}, r"column 'vector', row 3: -1 \(and 1 more\)"),
        ({"vector": [[], [], [], []]}, "column 'vector'"),
        (
            {"vector": [[1.0, float("nan"), 2.0]] * 4},
            "row 1: a number is missing or not finite as float32, and 3 other",
        ),
        ({"vector": [[1.0, 1.0, 2.0], [1e39, 1.0, 1.0]] * 2}, "row 2: a number is missing or not finite as float32"),
        ({"vector": [[1.0, None, 2.0]] * 4}, "row 1: a number is missing or not finite"),
        ({"asks": [[1.0, 2.0]] * 4}, "column 'asks' have 2 numbers, those of 'vector' 3"),
        ({"sku": ["a", "b", "a", "d"]}, "column 'sku', row 3: 'a'.*an item stands in one row only"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused_by_their_row(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        OWN.prepare(listed(tmp_path / "items.parquet", **columns))
