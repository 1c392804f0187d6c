"""Tables of requests, however they are written, and their answers, whatever the order of their rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from models.common.contracts import InputError
from models.feed.events.requests import RequestsConfig, answer
from models.feed.events.splits import Split
from models.feed.events.table import Events
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.score import Ranker
from models.feed.ranking.service import Served
from tests.models.feed.ranking.worlds import random_ranker, simulated


@pytest.fixture(scope="module")
def served() -> Served:
    return Served(random_ranker(simulated()), simulated(), cache_bytes=2**24)


def read(path: Path, content: Any, **changes: Any) -> pa.Table:
    if isinstance(content, str):
        path.write_text(content)
    else:
        pyarrow.parquet.write_table(content, path)
    return RequestsConfig(requests=str(path), **changes).read({"requests": path})


def test_rows_of_one_user_moment_and_session_are_one_request(tmp_path: Path) -> None:
    text = "user,time,item,visit\n7,5,1,a\n8,5,1,a\n7,5,2,a\n7,5,1,b\n7,6,1,a\n"
    table = read(tmp_path / "own.csv", text, session_column="visit")
    assert table["request"].to_pylist() == [0, 1, 0, 2, 3]
    assert table["row"].to_pylist() == [1, 2, 3, 4, 5]
    assert read(tmp_path / "own.csv", text)["request"].to_pylist() == [0, 1, 0, 0, 2]


def test_lists_are_as_good_as_rows(tmp_path: Path) -> None:
    lists = {"user": [7, 8], "time": [5, 6], "item": pa.array([[1, 2], [3]], pa.list_(pa.int64()))}
    listed = read(tmp_path / "lists.parquet", pa.table(lists))
    text = read(tmp_path / "lists.csv", "user,time,item\n7,5,1|2\n8,1970-01-01T00:00:06Z,3\n".replace(
        "7,5", "7,1970-01-01T00:00:05Z"), listed=True)  # fmt: skip
    for table in (listed, text):
        assert table.select(["request", "row", "user", "time", "item"]).to_pylist() == [
            {"request": 0, "row": 1, "user": 7, "time": 5, "item": 1},
            {"request": 0, "row": 1, "user": 7, "time": 5, "item": 2},
            {"request": 1, "row": 2, "user": 8, "time": 6, "item": 3},
        ]


def test_answers_are_those_of_the_judge_in_the_order_of_the_table(served: Served, tmp_path: Path) -> None:
    data = simulated()
    inputs = Inputs.of(data)
    events = inputs.events
    sessions = inputs.sessions_of(Split.from_payload(data).test)
    rows, logit = Ranker(random_ranker(data), inputs.catalogue).logits(inputs, sessions)
    drawn = np.random.default_rng(1).permutation(len(inputs.seen))
    number = np.repeat(sessions, [len(inputs.rows(int(one))) for one in sessions])
    shown = np.concatenate([inputs.rows(int(one)) for one in sessions])
    shown = shown[np.argsort(drawn[number], kind="stable")]  # sessions and users in any order
    own = pa.table(
        {
            "user": events.user_ids.take(pa.array(events.user[shown])),
            "item": events.item_ids.take(pa.array(events.item[shown])),
            "time": pa.array(events.began[shown]),
            "session": pa.array(events.session[shown]),
        }
    )
    told = list[float]()
    table = read(tmp_path / "own.parquet", own, session_column="session")
    answers, counted = answer(served, table, unknown="refuse", tell=told.append)
    right = logit[np.searchsorted(rows, shown)]
    for column, task in enumerate(events.tasks):
        assert np.array_equal(answers[f"logit_{task}"].to_numpy(), right[:, column])
        chances = served.network.chances(right)[:, column]
        assert np.array_equal(answers[f"chance_{task}"].to_numpy(), chances)
    for request in range(len(sessions)):
        mine = answers.filter(pa.compute.equal(answers["request"], request))
        best = mine.sort_by("place")
        assert best["place"].to_pylist() == list(range(1, len(best) + 1))
        main = best[f"logit_{events.tasks[0]}"].to_numpy()
        assert (np.diff(main) <= 0).all()
    assert told == sorted(told)
    assert told[-1] == 1
    assert (counted["requests"], counted["candidates"]) == (len(sessions), len(rows))
    assert counted["candidates_per_second"] > 0
    assert 0 < counted["cache_hit_rate"] < 1
    assert not answers["unknown"].to_numpy().any()


def test_unknown_users_and_items_are_answered_or_named(served: Served, tmp_path: Path) -> None:
    kind = Events.from_payload(simulated()).categories("category").names[0]
    text = f"user,time,item,kind\nnobody,2000000000,1,\nnobody,2000000000,new,{kind}\n1,2000000000,other,\n"
    table = read(tmp_path / "own.csv", text, categories_column="kind")
    answers, counted = answer(served, table, unknown="categories")
    assert answers["unknown"].to_pylist() == [False, True, True]
    assert answers["seen"].to_pylist()[:2] == [0, 0]
    assert answers["seen"].to_pylist()[2] > 0
    assert counted["unknown_items"] == 2
    with pytest.raises(InputError, match=r"own\.csv, column 'item', row 2: 'new' is unknown to the ranker; leave"):
        answer(served, table, unknown="refuse")


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        ("user,time,item\n1,5,1\n1,6,3\n1,yesterday,2\n", {}, "column 'time', row 3: 'yesterday'"),
        ("user,time,item\n1,5,1\n1,-7,2\n", {}, "column 'time', row 2: -7"),
        ("user,time,item\n1,5,1\n1,9999999999999,2\n", {}, "column 'time', row 2: 9999999999999"),
        ("user,time,item\n1,5,1\n,5,2\n", {}, "column 'user', row 2"),
        ("user,time,item\n1,5,\n", {}, "column 'item', row 1"),
        ("user,time,item\n1,5,1|\n1,5,|\n", {"listed": True}, "column 'item', row 2"),
        ("user,time\n1,5\n", {}, "has no column 'item'"),
        ("user,time,item\n", {}, "no rows"),
        ("", {}, "is empty"),
        ("user,time,item\n1,5,1\n", {"session_column": "visit"}, "has no column 'visit'"),
        ("user,time,item\n1,5,1\n", {"categories_column": "kind"}, "has no column 'kind'"),
    ],
)
def test_what_cannot_be_read_names_column_and_row(tmp_path: Path, text: str, changes: Any, said: str) -> None:
    with pytest.raises(InputError) as found:
        read(tmp_path / "own.csv", text, **changes)
    assert said in str(found.value)


def test_no_file_is_named_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"RequestsConfig\.requests must name a file"):
        RequestsConfig().read({})


@pytest.mark.parametrize(
    ("export", "said"),
    [
        ("data/own.parquet", "must name another file than RequestsConfig.requests"),
        ("data/./more/../own.parquet", "must name another file than RequestsConfig.requests"),
        ("data/answers.csv", r"must end in \.parquet.*got 'data/answers\.csv'"),
    ],
)
def test_answers_never_take_the_place_of_the_requests(export: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RequestsConfig(requests="data/own.parquet", export=export)
    assert RequestsConfig(requests="data/own.parquet", export="data/answers.parquet").export
