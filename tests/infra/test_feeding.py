"""A table reaches a live index through the door that is open, once or twice over, and what is wrong has a row."""

import contextlib
import datetime
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import uvicorn
from typer.testing import CliRunner

from infra import feeding
from infra.cli import app
from infra.feeding import FeedError, Table, feed
from infra.manifest import describe
from infra.refs import Index
from infra.serving import HOST, Live, folder_of, guarded
from infra.settings import PROJECT
from infra.store import Store, StoreError, open_store
from models.feed.retrieval import config
from models.feed.retrieval.delta import LiveIndex
from models.feed.retrieval.index import RetrievalIndex
from tests.services import free_port

NAME = "retrieval-fed"
FIELDS = pa.schema(
    [
        ("year", pa.int16()),
        ("price", pa.float64()),
        ("lang", pa.string()),
        ("fresh", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("sizes", pa.list_(pa.int64())),
        ("place", pa.struct([("lat", pa.float64()), ("lon", pa.float64())])),
    ]
)
ROWS = 2003


def published(store: Store, seed: int) -> Index:
    vectors = np.random.default_rng(seed).normal(size=(47, 3)).astype(np.float32)
    table = pa.Table.from_pylist([{"year": 2000 + row} for row in range(47)], schema=FIELDS)
    payload = RetrievalIndex.build(vectors, np.arange(47), table).snapshot()
    index = store.write(Index, payload, describe(Index, NAME, config.tiny().index))
    store.publish(index, {"holds": True})
    return index


def items(count: int = ROWS) -> list[dict[str, Any]]:
    """Rows as they should be found: every fifth has nulls, and each says its number."""
    return [
        {
            "id": 1000 + row,
            "vector": [float(row), 0.5, -1.25],
            "year": None if row % 5 == 0 else 1900 + row % 100,
            "price": None if row % 5 == 1 else row / 8,
            "lang": None if row % 5 == 2 else ("en", "dé")[row % 2],
            "fresh": None if row % 5 == 3 else row % 3 == 0,
            "tags": None if row % 5 == 0 else ["a", "b c"][: 1 + row % 2],
            "sizes": None if row % 5 == 0 else [row, 7],
            "place": None if row % 5 == 4 else {"lat": row % 90 + 0.5, "lon": -(row % 180) - 0.25},
        }
        for row in range(count)
    ]


def parquet(path: Path, rows: list[dict[str, Any]], length: int = 3, **more: pa.DataType) -> Path:
    fields = [("id", pa.int64()), ("vector", pa.list_(pa.float32(), length)), *FIELDS]
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema=pa.schema([*fields, *more.items()])), path)
    return path


def as_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case list():
            return "|".join(map(str, value))
        case dict():
            return f'"{value["lat"]}, {value["lon"]}"'
        case _:
            return str(value)


def as_csv(rows: list[dict[str, Any]]) -> str:
    lines = [
        ",".join([str(row["id"]), f'"{row["vector"]}"', *(as_text(row[name]) for name in FIELDS.names)]) for row in rows
    ]
    return "\n".join([",".join(["id", "vector", *FIELDS.names]), *lines, ""])


def found(built: Index) -> list[dict[str, Any]]:
    """The items that were fed, as the folder of the service has them."""
    with contextlib.closing(LiveIndex(folder_of(built))) as live:
        parts = live.index.snapshot()
    rows = parts["attributes"].to_pylist()
    both = zip(parts["ids"].tolist(), parts["vectors"].tolist(), rows, strict=True)
    return [{"id": identity, "vector": vector, **row} for identity, vector, row in both if identity >= 1000]


@pytest.fixture
def store(home: Path) -> Store:
    return open_store()


@contextlib.contextmanager
def serving(live: Live) -> Iterator[int]:
    """The service, listening."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(guarded(live.configuration.application(live)), host=HOST, port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    with live.following():
        thread.start()
        until = time.monotonic() + 120
        while not server.started:
            assert time.monotonic() < until
            time.sleep(0.02)
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(60)


@pytest.mark.parametrize("door", ["the service", "the folder"])
@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz"])
def test_a_table_is_found_as_it_was_written(store: Store, tmp_path: Path, door: str, kind: str) -> None:
    built, file = published(store, 1), tmp_path / f"goods.{kind}"
    if kind == "parquet":
        parquet(file, items())
    else:
        text = as_csv(items()).encode()
        file.write_bytes(gzip.compress(text) if kind.endswith("gz") else b"\xef\xbb\xbf" + text)
    told: list[int] = []
    if door == "the service":
        with serving(Live(store, NAME)) as port:
            fed = feed(NAME, Table(path=file), port=port, tell=lambda fed: told.append(fed.rows))
    else:
        fed = feed(NAME, Table(path=file), port=free_port(), tell=lambda fed: told.append(fed.rows))
    assert (fed.rows, fed.written, fed.removed, fed.resumed) == (ROWS, ROWS, 0, 0)
    assert (fed.version, fed.missing) == (str(built), ())
    assert told == [1000, 2000, ROWS]
    assert found(built) == items()


def test_rows_are_taken_in_their_order_upserts_and_deletes_alike(store: Store, tmp_path: Path) -> None:
    built, rows = published(store, 1), items(6)
    rows = [row | {"gone": False} for row in rows]
    order = [rows[0], rows[1], rows[0] | {"gone": True}, rows[2], rows[1] | {"gone": True}, rows[1] | {"year": 1}]
    order += [{"id": 99_999, "gone": True}, rows[2] | {"vector": [9.0, 9, 9], "gone": None}]
    file = parquet(tmp_path / "log.parquet", order, -1, gone=pa.bool_())
    fed = feed(NAME, Table(path=file, delete_column="gone"), port=free_port(), batch=5)
    assert (fed.rows, fed.written, fed.removed, fed.absent) == (8, 5, 2, 1)
    assert [(row["id"], row["year"], row["vector"][0]) for row in found(built)] == [
        (1001, 1, 1.0),
        (1002, rows[2]["year"], 9.0),
    ]


def test_a_list_of_ids_is_removed(store: Store, tmp_path: Path) -> None:
    published(store, 1)
    file = tmp_path / "gone.csv"
    file.write_text("sku,why\n3,sold\n5,\n3,sold\n4711,never here\n")
    with serving(Live(store, NAME)) as port:
        fed = feed(NAME, Table(path=file, id="sku", deletes=True), port=port)
        assert httpx.get(f"http://{HOST}:{port}/version").json()["items"] == 45
    assert (fed.rows, fed.removed, fed.absent) == (4, 2, 1)


def test_moments_become_seconds_and_what_json_lacks_becomes_null(store: Store, tmp_path: Path) -> None:
    built = published(store, 1)
    day = datetime.date(1970, 1, 3)
    table = pa.table(
        {
            "id": [1000, 1001],
            "vector": pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.int64())),
            "price": [float("nan"), 2.5],
            "sizes": [[day, day], []],
            "place": pa.array([{"latitude": 1.5, "longitude": 2.5}, None]),
        }
    )
    pa.parquet.write_table(table, tmp_path / "odd.parquet")
    fed = feed(NAME, Table(path=tmp_path / "odd.parquet"), port=free_port())
    assert fed.missing == ("year", "lang", "fresh", "tags")
    one, two = found(built)
    assert (one["price"], one["sizes"], one["place"]) == (None, [172_800, 172_800], {"lat": 1.5, "lon": 2.5})
    assert (two["price"], two["sizes"], two["place"]) == (2.5, [], None)


# --- what was cut off -------------------------------------------------------------------------------------------------


def test_a_feed_that_was_cut_off_goes_on_and_one_that_ended_begins_anew(
    store: Store, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, file = published(store, 1), parquet(tmp_path / "goods.parquet", items())
    plain, calls = feeding._Sender.send, list[int]()

    def dying(self: Any, address: str, changes: Any) -> None:
        calls.append(changes[0].row)
        if len(calls) == 4:
            raise KeyboardInterrupt
        plain(self, address, changes)

    monkeypatch.setattr(feeding._Sender, "send", dying)
    with pytest.raises(KeyboardInterrupt):
        feed(NAME, Table(path=file), port=free_port(), batch=300)
    assert len(found(built)) == 900
    fed = feed(NAME, Table(path=file), port=free_port(), batch=300)
    assert (fed.rows, fed.written, fed.resumed) == (ROWS, ROWS, 900)
    assert calls[3:5] == [901, 901]
    assert found(built) == items()
    assert list((home / "feeding" / NAME).iterdir()) == []
    assert feed(NAME, Table(path=file), port=free_port()).resumed == 0

    parquet(file, items(50))  # another table of this name is another feed
    assert feed(NAME, Table(path=file), port=free_port()).rows == 50


def test_a_feed_that_is_killed_at_any_moment_is_finished_by_the_next(store: Store, tmp_path: Path, home: Path) -> None:
    built, file = published(store, 1), parquet(tmp_path / "goods.parquet", items())
    command = [sys.executable, "-m", "infra.cli", "feed-index", NAME, str(file), "--batch", "9", "--port", "1"]
    environment = {**os.environ, "HEADRACE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    draw, notes = random.Random(5), home / "feeding" / NAME
    reached = 0
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, cwd=PROJECT)
        until, aim = time.monotonic() + 200, reached + draw.randint(9, 300)
        while reached < aim and process.poll() is None:
            assert time.monotonic() < until
            for note in notes.glob("*.json"):
                with contextlib.suppress(FileNotFoundError):
                    reached = json.loads(note.read_text())["rows"]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert found(built)[:reached] == items()[:reached], "what was noted is there"
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"fed {ROWS:,} rows to {built}, the first " in done.stdout
    assert found(built) == items()


def test_a_service_that_is_away_for_a_moment_is_waited_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, file = published(store, 1), parquet(tmp_path / "goods.parquet", items(20))
    plain, asked = httpx.Client.request, list[str]()

    def request(self: httpx.Client, method: str, path: Any, **more: Any) -> httpx.Response:
        asked.append(path)
        if len(asked) == 3:
            raise httpx.ReadError("reset")
        if len(asked) == 4:
            return httpx.Response(503, json={"detail": "64 requests are waiting already; ask again in a second."})
        return plain(self, method, path, **more)

    monkeypatch.setattr(httpx.Client, "request", request)
    with serving(Live(store, NAME)) as port:
        assert feed(NAME, Table(path=file), port=port).written == 20
        assert asked == ["/health", "/version", "/upsert", "/upsert", "/upsert"]
        asked[:] = [""]
        with pytest.raises(
            FeedError, match=r"ReadError: reset\) Asked again for 0 s; run it again, and it goes on here"
        ):
            feed(NAME, Table(path=file), port=port, patience_s=0)
    assert found(built) == items(20)


# --- whom it reaches --------------------------------------------------------------------------------------------------


def test_no_row_reaches_an_index_that_was_built_anew_meanwhile(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = parquet(tmp_path / "goods.parquet", items(30))
    first, live = published(store, 1), Live(store, NAME)
    with serving(live) as port:

        def another(fed: feeding.Fed) -> None:
            if fed.rows == 10:
                published(store, 2)
                live.look()

        with pytest.raises(
            FeedError, match=r"rows before 11 went to another build than is served now: meant for .* Run"
        ):
            feed(NAME, Table(path=file), port=port, batch=10, tell=another)
        second = store.live(Index, NAME)
        assert found(second) == []
        assert len(found(first)) == 10
        fed = feed(NAME, Table(path=file), port=port, batch=10)
        assert (fed.resumed, fed.version) == (0, str(second))
        assert found(second) == items(30)


def test_a_feed_goes_on_while_what_it_feeds_is_compacted(store: Store, tmp_path: Path) -> None:
    from tests.infra.test_serving import compacted

    file = parquet(tmp_path / "goods.parquet", items(30))
    built, live = published(store, 1), Live(store, NAME)
    with serving(live) as port, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.infra.test_serving.NAME", NAME)

        def compact(fed: feeding.Fed) -> None:
            compacted(store)
            live.look()

        fed = feed(NAME, Table(path=file), port=port, batch=10, tell=compact)
        assert fed.rows == 30
        assert fed.version != str(built)
    assert found(built) == items(30)


def test_whoever_holds_the_folder_elsewhere_is_named(store: Store, tmp_path: Path) -> None:
    published(store, 1)
    file = parquet(tmp_path / "goods.parquet", items(3))
    with serving(Live(store, NAME)), pytest.raises(StoreError, match=rf"process {os.getpid()};.*give --port"):
        feed(NAME, Table(path=file), port=free_port())
    with pytest.raises(StoreError, match=r"no index named 'retrieval-none' is live .* Nobody answers on http"):
        feed("retrieval-none", Table(path=file), port=free_port())


def test_another_product_or_something_else_on_the_port_is_told(store: Store, tmp_path: Path) -> None:
    published(store, 1)
    file = parquet(tmp_path / "goods.parquet", items(3))
    with serving(Live(store, NAME)) as port, pytest.raises(FeedError, match=rf"serves {NAME}@\w+ and not retrieval-x"):
        feed("retrieval-x", Table(path=file), port=port)

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"not here"})

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(other, host=HOST, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    with pytest.raises(FeedError, match=f"what answers on port {port} is no service of an index"):
        feed(NAME, Table(path=file), port=port)
    server.should_exit = True
    thread.join(60)


# --- what cannot be used ----------------------------------------------------------------------------------------------

HEADER = "id,vector,year\n"
WRONG = {
    "HEADERLESS": ("", r"is no file|has no column 'id'; it has \[\]"),
    "no id column": ("sku,vector\n1,1 2 3\n", r"has no column 'id'; it has \['sku', 'vector'\]"),
    "unknown column": ("id,vector,colour\n1,1 2 3,red\n", r"'colour', which is no attribute .* --ignore 'colour'"),
    "a column twice": ("id,vector,id\n1,1 2 3,1\n", "names a column twice"),
    "an id that is text": (HEADER + "1,1 2 3,5\nabc,1 2 3,5\n", r"column 'id', row 2: 'abc': an id is a whole number"),
    "a negative id": (HEADER + "-1,1 2 3,5\n", r"column 'id', row 1: '-1': an id is a whole number"),
    "an id too large": (HEADER + f"{2**63},1 2 3,5\n", r"column 'id', row 1: '9223372036854775808'"),
    "a short vector": (HEADER + "1,1 2 3,5\n2,1 2,5\n", r"column 'vector', row 2: '1 2': the index takes 3 .* are 2"),
    "no number": (HEADER + "1,1 2 x,5\n", r"column 'vector', row 1: '1 2 x': a vector is a list of numbers"),
    "an infinite number": (HEADER + "1,1 2 inf,5\n", r"column 'vector', row 1: '1 2 inf': the index takes 3 finite"),
    "a year that is text": (HEADER + "1,1 2 3,5\n2,1 2 3,soon\n", r"column 'year', row 2: 'soon': .* kind integer"),
    "a cell too many": (HEADER + "1,1 2 3,5,6\n", r"row 1: .*every row needs as many cells as the header"),
    "a cell too few": (HEADER + "1,1 2 3\n", r"row 1: .*every row needs as many cells as the header"),
    "a year out of its range": (
        HEADER + "1,1 2 3,5\n2,1 2 3,70000\n3,1 2 3,5\n",
        r", row 2: attribute 'year' does not",
    ),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_cannot_be_used_is_told_with_file_row_and_remedy(store: Store, tmp_path: Path, how: str) -> None:
    built, file = published(store, 1), tmp_path / "goods.csv"
    text, said = WRONG[how]
    file.write_text(text)
    with pytest.raises(FeedError, match=said) as error:
        feed(NAME, Table(path=file), port=free_port(), batch=1000)
    assert str(file) in str(error.value)
    expected = [1] if how == "a year out of its range" else []  # the rows before the one to blame
    with contextlib.closing(LiveIndex(folder_of(built))) as live:
        assert [one for one in expected if one not in live.index.snapshot()["ids"]] == []
        assert len(live) == 47


def test_a_damaged_file_is_told(store: Store, tmp_path: Path) -> None:
    published(store, 1)
    for name, data in {"cut.parquet": b"PAR1 and no more", "cut.csv.gz": gzip.compress(as_csv(items()).encode())[:900],
                       "latin.csv": HEADER.encode() + b"1,1 2 3,\xff\n"}.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FeedError, match=rf"{name} cannot be read"):
            feed(NAME, Table(path=tmp_path / name), port=free_port())
    fixed = parquet(tmp_path / "fixed.parquet", [{"id": 7}, *items(2)])
    with pytest.raises(FeedError, match="missing vectors are told by lists of any length"):
        feed(NAME, Table(path=fixed), port=free_port())
    with pytest.raises(FeedError, match=r"nothing\.csv is no file"):
        feed(NAME, Table(path=tmp_path / "nothing.csv"), port=free_port())


def test_the_command_says_what_it_did_and_what_is_wrong(store: Store, tmp_path: Path) -> None:
    built, file = published(store, 1), tmp_path / "goods.csv"
    file.write_text("sku,v,year,colour,gone\n1000,1 2 3,5,red,no\n7,,,,yes\n")
    words = ["feed-index", NAME, str(file), "--id", "sku", "--vector", "v", "--delete-column", "gone", "--port", "1"]
    done = CliRunner().invoke(app, [*words, "--ignore", "colour"])
    assert done.exit_code == 0, done.output
    said = f"fed 2 rows to {built}: 1 items written, 1 removed, 0 to be removed were not there\n"
    assert said in done.output
    assert "no column for price, lang, fresh, tags, sizes, place: null in every item written" in done.output
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "--ignore 'colour'" in done.output
