"""One log, two products, one service: what the index finds for a user comes in the order of the ranker."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient

from flows.feed import train_feed
from infra.refs import Dataset, Model
from infra.serving import HOST, LiveModel, LiveSearch, guarded, together
from infra.store import open_store
from models.feed.events.export import ExportConfig
from models.feed.events.kept import Kept
from models.feed.events.known import Asked, Item
from models.feed.events.table import Events
from models.feed.retrieval import config as retrieval
from models.feed.retrieval.batches import latest_items
from models.feed.retrieval.features import encode_attributes
from models.feed.retrieval.network import Catalogue, encode_users
from tasks.train import network_of
from tests.models.feed.ranking.worlds import CONFIG

pytestmark = pytest.mark.timeout(900)
"""Two trainings are of the first test's time."""

ASK = {"user": 3, "time": 1_800_000_000, "k": 5, "candidates": 20}


@pytest.fixture(scope="module")
def feed(
    tmp_path_factory: pytest.TempPathFactory, tracking_uri: str, prefect_server: str
) -> Iterator[tuple[Any, LiveSearch, LiveModel]]:
    """Both products of one run of the flow, served together."""
    from infra.settings import settings

    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("feed")
        patch.setenv("HEADRACE_HOME", str(home))
        patch.setenv("HEADRACE_TRACKING_URI", tracking_uri)
        patch.setenv("HEADRACE_DATA_ROOTS", str(home / "data"))
        settings.cache_clear()
        whole = retrieval.feed()
        export = ExportConfig(
            interactions=str(home / "data" / "feed" / "met.parquet"),
            items=str(home / "data" / "feed" / "items.parquet"),
        )
        table = dataclasses.replace(whole.data.table, interactions=export.interactions, items=export.items)
        brief = dataclasses.replace(whole.encoder.training, epochs=1)
        index = dataclasses.replace(
            whole,
            data=dataclasses.replace(whole.data, table=table),
            encoder=dataclasses.replace(whole.encoder, training=brief),
            judgement=dataclasses.replace(whole.judgement, margin=1.0, cases=8, queries=8),
        )
        state = train_feed(CONFIG, index, export, return_state=True)
        assert state.name == "Published", state.message
        assert [outcome.product for outcome in state.result()] == ["retrieval-feed", "ranking-test"]
        search, ranker = LiveSearch(open_store(), "retrieval-feed"), LiveModel(open_store(), "ranking-test")
        with (
            search.following(),
            ranker.following(),
            TestClient(guarded(together(search, ranker)), base_url=f"http://{HOST}") as client,
        ):
            yield client, search, ranker
    settings.cache_clear()


def data_of(ranker: LiveModel) -> Events:
    store = open_store()
    model = store.live(Model, "ranking-test")
    return Events.from_payload(store.open(store.open(model).manifest.input(Dataset, store.root)))


def test_the_tables_hold_the_positive_responses_and_all_items(feed: Any) -> None:
    events = data_of(feed[2])
    folder = Path(open_store().root).parent / "data" / "feed"
    met, items = (pyarrow.parquet.read_table(folder / name) for name in ("met.parquet", "items.parquet"))
    assert met.num_rows == int((events.label > 0).sum())
    assert items["item"].to_pylist() == events.item_ids.to_pylist()
    assert items.column_names[1:] == events.item_attributes.column_names


def test_candidates_of_the_index_come_in_the_order_of_the_ranker(feed: Any) -> None:
    client, search, ranker = feed
    answer = client.post("/feed", json=ASK).json()
    assert (answer["index_version"], answer["ranker_version"]) == (search()[1], ranker()[1])
    assert (answer["found"], answer["unknown"], len(answer["items"])) == (20, 0, 5)
    assert set(answer["milliseconds"]) == {"vector", "search", "rank", "whole"}
    asked = Asked(3, None, ASK["time"], (Item(1),))
    index, members, _ = search.found()
    vector = members.vector(3, ranker()[0].met(asked, Kept(0)))
    ids, scores, _ = index.search(vector, 20)
    right = client.post("/rank", json={"user": 3, "time": ASK["time"], "candidates": ids[0].tolist()}).json()
    assert answer["seen"] == right["seen"] > 0
    for one, other in zip(answer["items"], right["items"][:5], strict=True):
        assert (one["item"], one["found"]) == (other["item"], other["place"])
        assert (one["logits"], one["chances"]) == (other["logits"], other["chances"])
        assert one["similarity"] == pytest.approx(float(scores[0][one["found"]]), abs=1e-6)


def test_a_user_gets_the_vector_that_her_tower_gives_her(feed: Any) -> None:
    _, members, _ = feed[1].found()
    store = open_store()
    manifest = store.manifest("index", "retrieval-feed", store.current("index", "retrieval-feed").version)
    model = manifest.input(Model, store.root)
    data = store.open(manifest.input(Dataset, store.root))
    network: Any = network_of(store, model)
    catalogue = Catalogue.of(encode_attributes(data["items"]))
    histories = latest_items([data["train"]], data["users"].num_rows, network.history)
    users = np.arange(0, data["users"].num_rows, 5)
    right = encode_users(network, catalogue, users, histories[users])
    names, items = data["users"]["user_id"].to_pylist(), data["items"]["item_id"].to_pylist()
    for row, vector in zip(users, right, strict=True):
        met = [items[code] for code in histories[row] if code >= 0]
        assert np.abs(members.vector(names[row], met)[0] - vector).max() <= 1e-6
        assert np.array_equal(members.vector(str(names[row]), met), members.vector(names[row], met))
    alone = members.vector(None, [items[0], "nobody knows it"])
    assert np.array_equal(alone, members.vector("a stranger", [items[0]]))


def test_the_filter_holds_and_its_complaints_name_the_field(feed: Any) -> None:
    client, _, ranker = feed
    events = data_of(ranker)
    kinds = dict(zip(events.item_ids.to_pylist(), events.item_attributes["category"].to_pylist(), strict=True))
    kind = kinds[0][0] if isinstance(kinds[0], list) else kinds[0]
    where = {"category": {"$contains": kind}} if isinstance(kinds[0], list) else {"category": kind}
    answer = client.post("/feed", json={**ASK, "where": where}).json()
    assert answer["items"], answer
    assert all(kind in kinds[one["item"]] for one in answer["items"])
    assert answer["passing"] == sum(kind in (other or ()) for other in kinds.values())
    wrong = client.post("/feed", json={**ASK, "where": "no_such_attribute == 1"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "where")
    for filtered in ({}, {"where": where}):
        short = client.post("/feed", json={**ASK, **filtered, "vector": [1.0, 2.0]})
        assert (short.status_code, short.json()["field"]) == (422, "vector")
    many = client.post("/feed", json={**ASK, "candidates": 10**9})
    assert (many.status_code, many.json()["field"]) == (422, "candidates")
    more = client.post("/feed", json={**ASK, "no": 1})
    assert (more.status_code, more.json()["field"]) == (422, "no")


def test_an_item_that_the_ranker_does_not_know_comes_last_and_is_counted(feed: Any) -> None:
    """It was written to the index where both are served."""
    client, search, _ = feed
    dimension = search()[0].index.dimension
    vector = [dimension**-0.5] * dimension
    new = {"id": 777_777, "vector": [9 * number for number in vector]}
    client.post("/index/upsert", json={"items": [new]}).raise_for_status()
    answer = client.post("/feed", json={**ASK, "vector": vector, "k": 20}).json()
    assert (answer["found"], answer["unknown"]) == (20, 1)
    last = answer["items"][-1]
    assert (last["item"], last["found"], last["logits"], last["chances"]) == (777_777, 0, None, None)
    assert client.post("/index/delete", json={"ids": [777_777]}).json()["items"] == 1
    assert client.post("/feed", json={**ASK, "vector": vector}).json()["unknown"] == 0


def test_the_index_beside_the_ranker_takes_what_it_takes_alone(feed: Any) -> None:
    """A body larger than the ranker's requests may be."""
    client, search, _ = feed
    vector = [0.123456789012345] * search()[0].index.dimension
    items = [{"id": 800_000 + number, "vector": vector} for number in range(9 * 2**20 // (18 * len(vector)))]
    body = json.dumps({"items": items}).encode()
    assert body[8 * 2**20 :]
    taken = client.post("/index/upsert", content=body, headers={"Content-Type": "application/json"})
    assert taken.status_code != 413, taken.text
    refused = client.post("/rank", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 413
    client.post("/index/delete", json={"ids": [one["id"] for one in items]})
    assert client.get("/docs").status_code == client.get("/index/docs").status_code == 200


def test_what_is_told_changes_what_is_found_and_how_it_is_ordered(feed: Any) -> None:
    client, _, ranker = feed
    stranger = {**ASK, "user": 123_456}
    before = client.post("/feed", json=stranger).json()
    items = data_of(ranker).item_ids.to_pylist()[:3]
    events = [{"item": item, "time": 1_700_000_000, "actions": {"click": 1}} for item in items]
    client.post("/events", json={"user": 123_456, "events": events}).raise_for_status()
    after = client.post("/feed", json=stranger).json()
    assert (before["seen"], after["seen"]) == (0, 3)
    assert [one["similarity"] for one in before["items"]] != [one["similarity"] for one in after["items"]]
    given = client.post("/feed", json={**ASK, "user": None, "history": events}).json()
    assert [one["item"] for one in given["items"]] == [one["item"] for one in after["items"]]
