"""What is live is served over HTTP, a newer version without a restart, and no write is lost on the way."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from infra import serving
from infra.manifest import Manifest, describe
from infra.refs import Index, Model, Ref
from infra.serving import HOST, Live, guarded
from infra.store import IntegrityError, NotPublishedError, Store, StoreError, open_store
from models.feed.retrieval import config
from models.feed.retrieval.delta import DeltaError
from models.feed.retrieval.index import RetrievalIndex

NAME = "retrieval-generated"
CERTIFICATE = {"holds": True}
ITEM = {"id": 7000, "vector": [9.0, 0, 0], "attributes": {"year": 1999}}
ASK = {"queries": [[1, 0, 0]], "k": 3, "where": "year == 1999"}


def written(store: Store, seed: int, *inputs: Ref) -> Index:
    random = np.random.default_rng(seed)
    vectors, years = random.normal(size=(47, 3)).astype(np.float32), pa.table({"year": 2000 + np.arange(47)})
    payload = RetrievalIndex.build(vectors, np.arange(47), years).snapshot()
    return store.write(Index, payload, describe(Index, NAME, config.tiny().index, inputs))


def published(store: Store, seed: int) -> Index:
    index = written(store, seed)
    store.publish(index, CERTIFICATE)
    return index


@pytest.fixture
def store(home: Path) -> Store:
    return open_store()


@contextlib.contextmanager
def client_of(live: Live) -> Iterator[TestClient]:
    app = guarded(live.configuration.application(live))
    with live.following(), TestClient(app, base_url=f"http://{HOST}") as client:
        yield client


def test_a_version_that_goes_live_is_served_without_a_restart(store: Store) -> None:
    first = published(store, 1)
    live = Live(store, NAME)
    with client_of(live) as client:
        assert client.get("/version").json()["version"] == str(first)
        second = published(store, 2)
        assert live.look()
        assert client.get("/version").json()["version"] == str(second)
        assert not live.look()
        store.rollback("index", NAME)
        assert live.look()
        assert client.get("/version").json()["version"] == str(first)


def test_the_follower_looks_by_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "POLL_S", 0.05)
    published(store, 1)
    with client_of(Live(store, NAME)) as client:
        second = published(store, 2)
        until = time.monotonic() + 60
        while client.get("/version").json()["version"] != str(second):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_writes_belong_to_their_version_and_outlive_the_service(store: Store) -> None:
    published(store, 1)
    live = Live(store, NAME)
    with client_of(live) as client:
        assert client.post("/upsert", json={"items": [ITEM]}).status_code == 200
        published(store, 2)
        live.look()
        assert client.post("/search", json=ASK).json()["results"][0]["ids"] == []
    store.rollback("index", NAME)
    with client_of(Live(store, NAME)) as client:
        assert client.post("/search", json=ASK).json()["results"][0]["ids"] == [7000]
        assert client.post("/delete", json={"ids": [7000]}).json()["items"] == 1
    with client_of(Live(store, NAME)) as client:
        assert client.post("/search", json=ASK).json()["results"][0]["ids"] == []


def test_a_damaged_version_is_never_served_and_the_one_before_goes_on(store: Store) -> None:
    first = published(store, 1)
    live = Live(store, NAME)
    with client_of(live) as client:
        second = published(store, 2)
        damaged = next(Path(second.location).glob("*vectors*"))
        data = bytearray(damaged.read_bytes())
        data[-1] ^= 1
        damaged.write_bytes(data)
        assert not live.look()
        assert client.get("/version").json()["version"] == str(first)
        assert client.get("/health").status_code == 200
    with pytest.raises(IntegrityError):
        Live(store, NAME)


def test_what_is_not_live_or_cannot_be_served_is_named(store: Store) -> None:
    with pytest.raises(NotPublishedError, match=NAME):
        Live(store, NAME)
    toy = Manifest(
        kind="index", name="toy", configuration={}, configuration_class="models.common.gate.GateConfig", inputs={},
        files=(), code="c",
    )  # fmt: skip
    store.publish(store.write(Index, {"x": [1]}, toy), CERTIFICATE)
    with pytest.raises(StoreError, match=r"GateConfig, which made toy@.*does not say how it is served"):
        Live(store, "toy")


def test_a_version_that_was_replaced_stays_open_for_a_while_and_is_then_closed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(store, 1)
    live = Live(store, NAME)
    with client_of(live) as client:
        before: Any = live()[0]
        published(store, 2)
        live.look()
        before.upsert(np.array([7000]), np.ones((1, 3), np.float32), pa.table({"year": [1999]}))  # who found it so
        monkeypatch.setattr(serving, "GRACE_S", 0.0)
        live.look()
        with pytest.raises(DeltaError, match="closed"):
            before.upsert(np.array([7001]), np.ones((1, 3), np.float32), pa.table({"year": [1999]}))
        store.rollback("index", NAME)
        live.look()
        assert client.post("/search", json=ASK).json()["results"][0]["ids"] == [7000]


def test_a_disk_that_takes_no_more_from_a_replaced_version_does_not_end_the_following(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        raise DeltaError("no space left")

    first = published(store, 1)
    live = Live(store, NAME)
    monkeypatch.setattr(serving, "GRACE_S", 0.0)
    with client_of(live) as client:
        monkeypatch.setattr(live()[0], "flush", full)
        for seed in (2, 3):
            version = published(store, seed)
            assert live.look()
            assert client.get("/version").json()["version"] == str(version)
    assert f"the last writes to {first.version} may not be on the disk: no space left" in caplog.text


def test_an_index_that_is_not_compared_by_inner_products_is_not_served(store: Store) -> None:
    mixed = config.EncoderConfig(similarity=config.SimilarityConfig(kind="mixture"))
    for encoder, served in (config.EncoderConfig(), True), (mixed, False):
        model = store.write(Model, {"training": {"sizes": {}}}, describe(Model, NAME, encoder))
        store.publish(written(store, 1, model), CERTIFICATE)
        if served:
            with client_of(Live(store, NAME)) as client:
                assert client.get("/health").status_code == 200
        else:
            with pytest.raises(StoreError, match=r"is not served: .*kind is 'mixture'"):
                Live(store, NAME)


def test_two_services_never_write_to_one_version(store: Store) -> None:
    published(store, 1)
    with client_of(Live(store, NAME)), pytest.raises(Exception, match=str(os.getpid())):
        Live(store, NAME)


def test_writes_to_a_version_that_left_the_store_are_removed(store: Store) -> None:
    first = published(store, 1)
    with client_of(Live(store, NAME)) as client:
        client.post("/upsert", json={"items": [ITEM]})
    published(store, 2)
    store.remove("index", NAME, first.version, "for this test")
    live = Live(store, NAME)
    with client_of(live):
        assert live.sweep() == [first.version]
        assert live.sweep() == []


@pytest.mark.parametrize("host", ["evil.example", "headrace.internal:8700"])
def test_a_page_that_makes_its_own_name_lead_to_loopback_is_turned_away(store: Store, host: str) -> None:
    published(store, 1)
    with client_of(Live(store, NAME)) as client:
        assert client.get("/version", headers={"Host": host}).status_code == 400
        # a form of another page can send text, which is no question here
        text = client.post("/delete", content='{"ids": [1]}', headers={"Content-Type": "text/plain"})
        assert text.status_code == 422
        assert client.get("/version").json()["items"] == 47


def test_the_command_listens_on_loopback_and_keeps_its_writes_through_sigterm(store: Store, home: Path) -> None:
    published(store, 1)
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "infra.cli", "serve-index", NAME, "--port", str(port)]
    for number in range(2):
        process = subprocess.Popen(command, env={**os.environ, "HEADRACE_HOME": str(home)})
        try:
            until = time.monotonic() + 120
            while True:
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"http://{HOST}:{port}/health").raise_for_status()
                    break
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
            if number == 0:
                httpx.post(f"http://{HOST}:{port}/upsert", json={"items": [ITEM]}).raise_for_status()
            else:
                found: Any = httpx.post(f"http://{HOST}:{port}/search", json=ASK).json()
                assert found["results"][0]["ids"] == [7000]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
