"""Public logs are what their publishers wrote; the files here have the same form and are made up."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.common.contracts import InputError
from models.feed.events.sources import item_sequences, movielens_atomic, movielens_csv, open_bandit, read_atomic
from models.feed.events.table import Events
from tests.models.feed.events.logs import write, write_text

INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
9\t30\t4\t881250949
10\t4\t3\t881250949
9\t4\t5\t881252749
9\t5\t1\t881254550
"""
ITEM = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
4\tToy "Story"\t1995\tAnimation Children's
30\tHeat\t\tNoir
5\tA Été\t2001\t
"""
USER = """user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token
10\t24\tM\twriter\t05201
9\t53\tF\tother\tE2A4H
"""


def atomic(tmp_path: Path, *, ending: str = "", inter: str = INTER, item: str = ITEM, user: str = USER) -> Events:
    files = [write_text(tmp_path / f"x.{name}{ending}", text)
             for name, text in (("inter", inter), ("item", item), ("user", user))]  # fmt: skip
    return movielens_atomic(*files)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_atomic_files_of_movielens(tmp_path: Path, ending: str) -> None:
    events = atomic(tmp_path, ending=ending)
    assert events.user_ids.to_pylist() == [10, 9] and events.item_ids.to_pylist() == [4, 30, 5]
    assert events.user.tolist() == [1, 0, 1, 1] and events.item.tolist() == [1, 0, 0, 2]
    assert events.time.tolist() == [881250949, 881250949, 881252749, 881254550]
    assert events.tasks == ("liked",) and events.label.tolist() == [1, 0, 1, 0]
    assert events.session.tolist() == [0, 1, 0, 2]  # 1800 seconds are inside a session, 1801 are not
    assert events.event_attributes["rating"].to_pylist() == [4, 3, 5, 1]
    assert events.item_attributes["title"].to_pylist() == [["Toy", '"Story"'], ["Heat"], ["A", "Été"]]
    assert events.item_attributes["genres"].to_pylist() == [["Animation", "Children's"], ["Noir"], []]
    assert events.item_attributes["year"].to_pylist() == [1995, None, 2001]
    assert events.user_attributes["age"].to_pylist() == [24, 53]
    assert events.user_attributes["zip_code"].to_pylist() == ["05201", "E2A4H"]
    assert events.timed and (events.position == -1).all()


def test_the_log_alone_is_enough(tmp_path: Path) -> None:
    events = movielens_atomic(write_text(tmp_path / "x.inter", INTER), liked=5.0, gap=60)
    assert events.user_ids.to_pylist() == [9, 10] and events.label.tolist() == [0, 0, 1, 0]
    assert events.session.tolist() == [0, 1, 2, 3] and not events.item_attributes.num_columns


def test_every_type_of_an_atomic_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "x", "a:token\tb:token_seq\tc:float\td:float_seq\r\n1\tx y\t.5\t1 2.5\r\n\t\t\t\r\n")
    assert read_atomic(path).to_pydict() == {
        "a": ["1", None], "b": [["x", "y"], []], "c": [0.5, None], "d": [[1, 2.5], []],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.inter is empty"),
        (INTER.replace("rating:float", "rating"), "'rating' is no column of an atomic file"),
        (INTER.replace("rating:float", "rating:number"), "'rating:number' is no column"),
        (INTER.replace("rating:float", "user_id:float"), "names the column 'user_id' twice"),
        (INTER.replace("rating:", "stars:"), "has no column 'rating'"),
        (INTER.replace("\t4\t881250949", "\t881250949"), "row 1: 3 cells; every row needs 4"),
        (INTER.replace("\t3\t881", "\tgood\t881"), r"column 'rating', row 2: 'good' is no number"),
        (INTER.replace("\t3\t881", "\t\t881"), r"column 'rating', row 2: None: a response must not be empty"),
        (INTER.replace("10\t4", "11\t4"), r"column 'user_id', row 2: 11: the other file has no such row"),
        (INTER.replace("10\t4", "10\t6"), r"column 'item_id', row 2: 6: the other file has no such row"),
        (INTER.replace("10\t4", "\t4"), r"column 'user_id', row 2: None: an identifier must not be empty"),
        (INTER.replace("881254550", "nan"), r"column 'timestamp', row 4: nan: write finite seconds"),
        (INTER.splitlines()[0], "has a header but no rows"),
    ],
)  # fmt: skip
def test_a_damaged_atomic_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        atomic(tmp_path, inter=text)


def test_a_file_that_is_missing_torn_or_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        movielens_atomic(tmp_path / "none.inter")
    packed = write_text(tmp_path / "x.gz", INTER)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged or truncated gzip"):
        movielens_atomic(packed)
    packed.write_bytes(b"user_id:token\nM\xfcller\n")
    with pytest.raises(InputError, match=r"line 2 has the byte 0xfc"):
        movielens_atomic(packed)


def test_movielens_as_published_in_csv(tmp_path: Path) -> None:
    ratings = write(
        tmp_path / "ratings.csv.gz",
        [["userId", "movieId", "rating", "timestamp"], [7, 2, 4.0, 20], [3, 9, 3.5, 10], [3, 2, 0.5, 10]],
    )
    movies = write(
        tmp_path / "movies.csv",
        [["movieId", "title", "genres"], [2, "Heat, The (1995)", "Action|Crime"], [9, "Odd", "(no genres listed)"]],
    )
    events = movielens_csv(ratings, movies)
    assert events.user_ids.to_pylist() == [3, 7]
    assert list(zip(events.user.tolist(), events.item.tolist(), strict=True)) == [(0, 1), (0, 0), (1, 0)]
    assert events.label.tolist() == [0, 0, 1] and events.event_attributes["rating"].to_pylist() == [3.5, 0.5, 4]
    assert events.item_attributes.to_pydict() == {
        "title": ["Heat, The (1995)", "Odd"], "year": [1995, None], "genres": [["Action", "Crime"], []],
    }  # fmt: skip
    assert movielens_csv(ratings).item_ids.to_pylist() == [2, 9]
    write(movies, [["movieId", "title", "genres"], [2, "Heat", ""]])
    with pytest.raises(InputError, match=r"column 'movieId', row 2: 9: the other file has no such row"):
        movielens_csv(ratings, movies)


def test_item_sequences_have_the_order_of_the_file_and_no_times(tmp_path: Path) -> None:
    log = write_text(tmp_path / "Beauty.txt.gz", "1 1 2 3\n2 3 5\n\n10 2 1 5\n")
    listed = write_text(tmp_path / "attributes.json", json.dumps({"1": [4, 9], "5": ["x"], "77": [1]}))
    events = item_sequences(log, listed)
    assert events.user_ids.to_pylist() == [1, 2, 10] and events.item_ids.to_pylist() == [1, 2, 3, 5]
    assert events.user.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert [events.item_ids[code].as_py() for code in events.item] == [1, 2, 3, 3, 5, 2, 1, 5]
    assert not events.timed and events.time.tolist() == list(range(8)) == events.session.tolist()
    assert events.tasks == ("event",) and (events.label == 1).all()
    assert events.item_attributes["attributes"].to_pylist() == [["4", "9"], [], [], ["x"]]


@pytest.mark.parametrize(
    ("text", "attributes", "message"),
    [
        ("1 1 2\n4\n", "{}", "line 2: '4' names a user and no item"),
        ("1 1 2\n1 3\n", "{}", "user '1' has two lines"),
        ("1 1 2\n", "[1]", "holds a list; it must map each item"),
        ("1 1 2\n", "{", "is not JSON"),
        ("1 1 2\n", '{"1": 4}', "item '1' has 4; write a list"),
    ],
)
def test_damaged_sequences_are_refused(tmp_path: Path, text: str, attributes: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        item_sequences(write_text(tmp_path / "log.txt", text), write_text(tmp_path / "a.json", attributes))


BANDIT = [
    ["", "timestamp", "item_id", "position", "click", "propensity_score",
     *(f"user_feature_{n}" for n in range(4)), "user-item_affinity_0", "user-item_affinity_1"],
    [0, "2019-11-24 00:00:34.762830+00:00", 14, 3, 0, 0.0125, "81", "03", "c2", "f9", 0.0, 1.0],
    [1, "2019-11-24 00:00:34.962830+00:00", 0, 1, 1, 0.25, "81", "03", "c2", "f9", 0.0, 0.0],
    [2, "2019-11-23 23:59:59+00:00", 14, 2, 0, 1, "81", "03", "27", "", 2.0, 0.0],
]  # fmt: skip
BANDIT_ITEMS = [["", "item_id", "item_feature_0"], [0, 0, -0.5], [1, 14, 1.25], [2, 3, 0]]


def test_a_log_of_the_open_bandit_keeps_slots_and_propensities(tmp_path: Path) -> None:
    events = open_bandit(write(tmp_path / "all.csv.gz", BANDIT), write(tmp_path / "items.csv", BANDIT_ITEMS))
    assert events.time.tolist() == [1574553599, 1574553634, 1574553634]
    assert [events.user_ids[code].as_py() for code in events.user] == ["81/03/27/", "81/03/c2/f9", "81/03/c2/f9"]
    assert events.item_ids.to_pylist() == [0, 14, 3] and events.item.tolist() == [1, 1, 0]
    assert events.position.tolist() == [1, 2, 0] and events.label.tolist() == [0, 0, 1]
    assert events.event_attributes["propensity"].to_pylist() == [1, 0.0125, 0.25]
    assert events.event_attributes["user-item_affinity_1"].to_pylist() == [0, 1, 0]
    assert events.item_attributes["item_feature_0"].to_pylist() == [-0.5, 1.25, 0]
    assert len(np.unique(events.session)) == 3, "the published rows are a sample, no two of one slate"
    assert isinstance(Events.from_payload(events.payload()).event_attributes, pa.Table)


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (1, 5, 0, r"column 'propensity_score', row 1: 0.0: a propensity is above 0"),
        (2, 5, 1.5, r"column 'propensity_score', row 2: 1.5"),
        (2, 5, "", r"column 'propensity_score', row 2: None"),
        (3, 3, 0, r"column 'position', row 3: '0': positions are counted from 1"),
        (2, 4, 2, r"column 'click', row 2: '2': a click is 0 or 1"),
        (2, 2, 5, r"column 'item_id', row 2: 5: the other file has no such row"),
    ],
)
def test_a_damaged_bandit_log_is_refused(tmp_path: Path, row: int, column: int, value: object, message: str) -> None:
    rows = [list(line) for line in BANDIT]
    rows[row][column] = value  # type: ignore[call-overload]
    with pytest.raises(InputError, match=message):
        open_bandit(write(tmp_path / "all.csv", rows), write(tmp_path / "items.csv", BANDIT_ITEMS))
