"""The service answers as the index does, follows what is live, and says why it does not answer."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from models.feed.retrieval.delta import DeltaError, LiveIndex
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.service import Limits, service

ROWS, WIDTH = 47, 3
Served = tuple[LiveIndex, str]


def index_of(folder: Path, seed: int) -> LiveIndex:
    random = np.random.default_rng(seed)
    attributes = pa.table(
        {
            "year": pa.array([None if row % 5 == 0 else 2000 + row % 7 for row in range(ROWS)], pa.int16()),
            "lang": [("en", "de", "fr")[row % 3] for row in range(ROWS)],
            "tags": [["a"] * (row % 2) + ["b"] * (row % 3) for row in range(ROWS)],
        }
    )
    vectors = random.normal(size=(ROWS, WIDTH)).astype(np.float32)
    return LiveIndex.create(folder / str(seed), RetrievalIndex.build(vectors, np.arange(ROWS), attributes).snapshot())


class Shelf:
    """What is live, and can be changed."""

    def __init__(self, folder: Path) -> None:
        self.live = (index_of(folder, 1), "retrieval@1")

    def __call__(self) -> Served:
        return self.live


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def client(shelf: Shelf) -> Iterator[TestClient]:
    limits = Limits(queries=5, k=20, items=3, megabytes=1, waiting=4)
    with TestClient(service(shelf, limits)) as client:
        yield client


def test_a_search_answers_as_the_index_does(client: TestClient, shelf: Shelf) -> None:
    queries = np.random.default_rng(2).normal(size=(3, WIDTH)).astype(np.float32)
    filters = ["lang == 'en'", None, "year == 2003 and tags has 'b'"]
    reply = client.post("/search", json={"queries": queries.tolist(), "k": 20, "where": filters})
    assert reply.status_code == 200, reply.text
    assert reply.json()["version"] == "retrieval@1"
    hits = shelf.live[0].search(queries, 20, filters)
    for found, ids, scores, passing in zip(reply.json()["results"], *hits, strict=True):
        assert found["ids"] == ids[ids >= 0].tolist()
        assert found["scores"] == scores[ids >= 0].tolist()
        assert found["passing"] == passing


def test_a_write_is_seen_by_the_next_search(client: TestClient, shelf: Shelf) -> None:
    items = [{"id": 100 + i, "vector": [50.0 - i, 0, 0], "attributes": {"lang": "eo", "tags": ["c"]}} for i in range(3)]
    assert client.post("/upsert", json={"items": items}).json() == {"version": "retrieval@1", "items": 3}
    ask = {"queries": [[1, 0, 0]], "k": 5, "where": "lang == 'eo' and year is null and tags has 'c'"}
    assert client.post("/search", json=ask).json()["results"][0]["ids"] == [100, 101, 102]
    assert client.post("/delete", json={"ids": [101, 7777]}).json()["items"] == 1
    assert client.post("/search", json=ask).json()["results"][0]["ids"] == [100, 102]
    assert client.get("/version").json() == {
        "version": "retrieval@1", "items": ROWS + 2, "dimension": WIDTH,
        "columns": {"year": "integer", "lang": "string", "tags": "list of strings"}, "origin": "",
    }  # fmt: skip


def test_a_write_for_items_of_another_origin_is_refused(client: TestClient, shelf: Shelf) -> None:
    item = {"id": 100, "vector": [50.0, 0, 0]}
    for address, body in ("/upsert", {"items": [item]}), ("/delete", {"ids": [3]}):
        before = len(shelf.live[0])
        reply = client.post(address, json=body | {"origin": "another"})
        assert reply.status_code == 409
        assert "meant for items of origin another; retrieval@1 is of origin" in reply.json()["detail"]
        assert len(shelf.live[0]) == before
        assert client.post(address, json=body | {"origin": client.get("/version").json()["origin"]}).status_code == 200


@pytest.mark.parametrize("names", [("lat", "lon"), ("latitude", "longitude")])
def test_a_point_is_taken_by_either_names_and_by_no_others(
    shelf: Shelf, tmp_path: Path, names: tuple[str, str]
) -> None:
    place = pa.struct([(name, pa.float64()) for name in names])
    empty = RetrievalIndex(2, pa.schema([("place", place), ("lang", pa.string())])).snapshot()
    live = shelf.live = (LiveIndex.create(tmp_path / "points", empty), "retrieval@3")
    points: list[Any] = [{"lat": 1, "lon": 2}, {"latitude": 3, "longitude": 4}, {"lat": 5}, None]
    with TestClient(service(shelf)) as client:
        items = [{"id": n, "vector": [1, 0], "attributes": {"place": point}} for n, point in enumerate(points)]
        assert client.post("/upsert", json={"items": items}).status_code == 200
        for wrong in {"x": 1, "y": 2}, {"lat": 1, "lng": 2}:
            for column in "place", "lang":
                item = {"id": 9, "vector": [1, 0], "attributes": {column: wrong}}
                reply = client.post("/upsert", json={"items": [item]})
                assert (reply.status_code, f"'{column}' does not fit" in reply.text) == (400, True), reply.text
    found = [row["place"] for row in live[0].index.snapshot()["attributes"].to_pylist()]
    assert found == [dict(zip(names, point, strict=True)) for point in ((1, 2), (3, 4))] + [None, None]


def test_what_becomes_live_is_served_from_the_next_request_on(client: TestClient, shelf: Shelf, tmp_path: Path) -> None:
    ask = {"queries": [[1, 1, 1]], "k": 3}
    before = client.post("/search", json=ask).json()
    shelf.live = (index_of(tmp_path, 9), "retrieval@2")
    after = client.post("/search", json=ask).json()
    assert (before["version"], after["version"]) == ("retrieval@1", "retrieval@2")
    assert before["results"] != after["results"]
    assert client.get("/health").json() == {"status": "healthy", "version": "retrieval@2"}


def test_a_write_that_is_answered_outlives_the_process(client: TestClient, shelf: Shelf, tmp_path: Path) -> None:
    client.post("/upsert", json={"items": [{"id": 100, "vector": [50.0, 0, 0]}]})
    client.post("/delete", json={"ids": [3]})
    with LiveIndex(tmp_path / "1") as follower:  # reads what is in the files
        assert len(follower) == ROWS
        assert follower.search(np.array([[1, 0, 0]], np.float32), 1).ids[0, 0] == 100


def test_a_write_that_the_disk_does_not_take_is_refused(
    client: TestClient, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DeltaError("cannot write: no space left. Nothing was changed.")

    monkeypatch.setattr(shelf.live[0], "upsert", full)
    monkeypatch.setattr(shelf.live[0], "delete", full)
    for address, body in (("/upsert", {"items": [{"id": 1, "vector": [1, 2, 3]}]}), ("/delete", {"ids": [1]})):
        reply = client.post(address, json=body)
        assert (reply.status_code, reply.json()["detail"]) == (503, "cannot write: no space left. Nothing was changed.")


def test_explain_says_how_many_pass(client: TestClient) -> None:
    found = client.get("/explain", params={"where": "lang = 'de'"}).json()
    assert (found["filter"], found["passing"], found["items"]) == ("lang == 'de'", 16, ROWS)


@pytest.mark.parametrize(
    ("address", "body", "status", "words"),
    [
        ("/search", {"queries": [[1, 2]]}, 400, "query 0 has 2 numbers; the index has 3"),
        ("/search", {"queries": [[1e30, 0, 0]]}, 400, "query 0 has length 1e+30"),
        ("/search", {"queries": [[1, 0, 0]] * 6}, 400, "queries: at most 5 here, got 6"),
        ("/search", {"queries": [[1, 0, 0]], "k": 21}, 400, "k: at most 20 here, got 21"),
        ("/search", {"queries": [[1, 0, 0]], "where": "jear == 3"}, 400, "known columns: lang, tags, year"),
        ("/search", {"queries": [[1, 0, 0]], "where": ["true", "true"]}, 400, "1 queries need one filter"),
        ("/search", {"queries": [[1, 0, 0]], "k": 0}, 422, "greater than or equal to 1"),
        ("/search", {"queries": [["one", 0, 0]]}, 422, "valid number"),
        ("/search", {"queries": []}, 422, "at least 1"),
        ("/search", {"queries": [[1, 0, 0]], "filter": "true"}, 422, "Extra inputs"),
        ("/upsert", {"items": [{"id": 1, "vector": [1, 2, 3], "attributes": {"jear": 1}}]}, 400, "unknown attributes"),
        ("/upsert", {"items": [{"id": 1, "vector": [1, 2, 3], "attributes": {"year": "x"}}]}, 400, "'year' does not"),
        ("/upsert", {"items": [{"id": 1, "vector": [1, 2, 3], "attributes": {"year": 1 << 40}}]}, 400, "'year' does"),
        ("/upsert", {"items": [{"id": 1, "vector": [1, 2, 3], "attributes": {"tags": "a"}}]}, 400, "'tags' does not"),
        ("/upsert", {"items": [{"id": -1, "vector": [1, 2, 3]}]}, 422, "greater than or equal to 0"),
        ("/upsert", {"items": [{"id": 1, "vector": [1, 2]}]}, 400, "item 0 has 2 numbers"),
        ("/upsert", {"items": [{"id": 1, "vector": [1, 2, 3]}] * 4}, 400, "items: at most 3 here, got 4"),
        ("/delete", {"ids": [1, 2, 3, 4]}, 400, "ids: at most 3 here, got 4"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why_and_changes_nothing(
    client: TestClient, shelf: Shelf, address: str, body: dict[str, Any], status: int, words: str
) -> None:
    before = shelf.live[0].index.snapshot()
    reply = client.post(address, json=body)
    assert reply.status_code == status, reply.text
    assert words in reply.text
    after = shelf.live[0].index.snapshot()
    assert np.array_equal(before["vectors"], after["vectors"])
    assert before["attributes"].equals(after["attributes"])


def test_a_filter_that_cannot_be_read_is_refused_with_the_position(client: TestClient) -> None:
    reply = client.post("/search", json={"queries": [[1, 0, 0]], "where": "lang == 'en' und year > 3"})
    assert reply.status_code == 400
    assert reply.json()["position"] == 13
    assert reply.json()["path"] is None
    wrong = client.post(
        "/search", json={"queries": [[1, 0, 0]], "where": {"$or": [{"lang": "en"}, {"year": {"$gt": "x"}}]}}
    )
    assert (wrong.status_code, wrong.json()["path"]) == (400, "$or[1].year.$gt")
    assert client.get("/explain", params={"where": "lang =="}).json()["position"] == 7


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_turned_away_unread(client: TestClient, declared: bool) -> None:
    body = json.dumps({"queries": [[0.125, 0, 0]] * 100_000}).encode()
    content: Any = body if declared else iter([body[:600_000], body[600_000:]])
    reply = client.post("/search", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 413
    assert "more than 1 MB" in reply.json()["detail"]


def test_whoever_would_be_one_too_many_is_asked_to_come_again(tmp_path: Path) -> None:
    waiting, entered = threading.Event(), threading.Semaphore(0)
    live = (index_of(tmp_path, 1), "retrieval@1")

    def slow() -> Served:
        entered.release()
        assert waiting.wait(20)
        return live

    app = service(slow, Limits(waiting=2))
    replies: list[int] = []

    def ask() -> None:
        with TestClient(app) as client:
            replies.append(client.get("/version").status_code)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in askers:
        assert entered.acquire(timeout=20)
    with TestClient(app) as client:
        turned = client.get("/version")
        waiting.set()
        for asker in askers:
            asker.join(20)
        assert (turned.status_code, turned.headers["Retry-After"]) == (503, "1")
        assert replies == [200, 200]
        assert client.get("/version").status_code == 200


def test_somebody_who_hangs_up_leaves_no_place_taken(shelf: Shelf) -> None:
    app = service(shelf, Limits(waiting=1))

    async def hang_up() -> None:
        scope = {"type": "http", "method": "POST", "path": "/search", "headers": [], "query_string": b""}
        messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            raise AssertionError(f"nobody is there to read {message}")

        await app(scope, receive, send)

    for _ in range(3):
        asyncio.run(hang_up())
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200


def test_every_answer_while_versions_change_is_of_one_version(shelf: Shelf, tmp_path: Path) -> None:
    """Vectors say their version: all results of one reply carry the same."""
    versions = []
    for number in range(4):
        vectors = np.tile(np.array([number + 1.0, 0], np.float32), (30, 1))
        payload = RetrievalIndex.build(vectors, np.arange(30)).snapshot()
        versions.append((LiveIndex.create(tmp_path / f"v{number}", payload), f"v{number}"))
    shelf.live = versions[0]
    ended, wrong = threading.Event(), list[Any]()

    def ask() -> None:
        with TestClient(service(shelf)) as client:
            while not ended.is_set():
                reply = client.post("/search", json={"queries": [[1, 0]] * 3, "k": 30}).json()
                expected = float(reply["version"][1:]) + 1
                wrong.extend(found for found in reply["results"] if set(found["scores"]) != {expected})

    asker = threading.Thread(target=ask)
    asker.start()
    for step in range(400):
        shelf.live = versions[step % 4]
    ended.set()
    asker.join(20)
    assert not wrong


def test_the_description_names_every_address_with_an_example(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {"/search", "/upsert", "/delete", "/explain", "/version", "/health"}
    for name in ("Question", "Items", "Ids"):
        example = description["components"]["schemas"][name]["examples"][0]
        address = {"Question": "/search", "Items": "/upsert", "Ids": "/delete"}[name]
        assert client.post(address, json=example).status_code == 200
    assert client.get("/docs").status_code == 200
