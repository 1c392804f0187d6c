"""What is live is served over HTTP, a newer version without a restart, and no write is lost on the way."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
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
import pytest
from fastapi.testclient import TestClient

from infra import serving
from infra.manifest import Manifest, describe
from infra.refs import Index, Model, Ref, Writes
from infra.serving import HOST, Live, as_built, folder_of, guarded
from infra.settings import PROJECT, settings
from infra.store import IntegrityError, NotPublishedError, Store, StoreError, SupersededError, open_store
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
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The follower waits: a test says when to look, and on a busy machine nobody is faster."""
    monkeypatch.setattr(serving, "POLL_S", 3600.0)
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


# --- a version that was compacted -------------------------------------------------------------------------------------


def compacted(store: Store) -> Index:
    """What the task `compact` makes of the live version, published in its place."""
    live = store.live(Index, NAME)
    opened, built = store.open(live), as_built(store, live)
    before = store.open(opened.manifest.input(Writes, store.root)) if Writes.kind in opened.manifest.inputs else None
    product, told = config.tiny().index.compact(store.open(built), folder_of(built), before) or ({}, {})
    writes = store.write(Writes, told, describe(Writes, NAME, config.tiny().index, (built,)))
    index = store.write(Index, product, describe(Index, NAME, config.tiny().index, (built, writes)))
    store.publish(index, CERTIFICATE, instead_of=live.version)
    return index


def item(identity: int) -> dict[str, Any]:
    return ITEM | {"id": identity}


def found(client: TestClient) -> list[int]:
    reply = client.post("/search", json=ASK | {"k": 1000}).json()
    return sorted(reply["results"][0]["ids"])


def test_a_compacted_version_is_followed_without_losing_a_write_before_during_or_after(store: Store) -> None:
    first = published(store, 1)
    live = Live(store, NAME)
    with client_of(live) as client:
        product: Any = live()[0]
        client.post("/upsert", json={"items": [item(7000), item(7001)]})
        client.post("/delete", json={"ids": [0]})
        made = compacted(store)
        client.post("/upsert", json={"items": [item(7002)]})  # published, and not followed yet
        assert live.look()
        assert live() == (product, str(made))
        client.post("/delete", json={"ids": [7001]})
        product.upsert(np.array([7003]), np.ones((1, 3), np.float32), pa.table({"year": [1999]}))  # who found it before
        assert (found(client), client.get("/version").json()["items"]) == ([7000, 7002, 7003], 49)
        assert product.index.rows < 47 + 5, "it stands on the new base"
    with client_of(Live(store, NAME)) as client:
        assert found(client) == [7000, 7002, 7003]
    store.rollback("index", NAME)
    with client_of(Live(store, NAME)) as client:  # a rollback of the version is none of the writes
        assert client.get("/version").json()["version"] == str(first)
        assert found(client) == [7000, 7002, 7003]
    store.rollback("index", NAME, made.version)
    with client_of(Live(store, NAME)) as client:
        assert client.get("/version").json()["version"] == str(made)
        assert found(client) == [7000, 7002, 7003]


def test_what_is_written_by_many_while_versions_are_compacted_one_after_another_is_all_there(store: Store) -> None:
    published(store, 1)
    live, written, over = Live(store, NAME), list[int](), threading.Event()
    with client_of(live) as client:

        def write(writer: int) -> None:
            for number in itertools.count(10_000 * writer):
                if over.is_set():
                    return
                if client.post("/upsert", json={"items": [item(number)]}).status_code == 200:
                    written.append(number)

        writers = [threading.Thread(target=write, args=(writer,)) for writer in (1, 2, 3)]
        for thread in writers:
            thread.start()
        made = []
        for _ in range(4):
            before = len(written)
            while len(written) < before + 5:
                time.sleep(0.01)
            made.append(compacted(store))
            live.look()
        over.set()
        for thread in writers:
            thread.join()
        assert live()[1] == str(made[-1])
        assert len(set(made)) == 4
        assert found(client) == sorted(written)
    with client_of(Live(store, NAME)) as client:
        assert found(client) == sorted(written)


def test_of_two_compactions_at_once_the_second_is_told_and_nothing_is_lost(store: Store) -> None:
    first = published(store, 1)
    live = Live(store, NAME)
    with client_of(live) as client:
        client.post("/upsert", json={"items": [item(7000)]})
        made = compacted(store)
        client.post("/upsert", json={"items": [item(7001)]})
        later = written(store, 5)
        with pytest.raises(
            SupersededError, match=f"{later} was to take the place of {first.version}, and {made.version}"
        ):
            store.publish(later, CERTIFICATE, instead_of=first.version)
        assert store.current("index", NAME).version == made.version
        store.publish(made, CERTIFICATE, instead_of=first.version)  # by a retry
        assert live.look()
        assert found(client) == [7000, 7001]


def test_a_version_that_was_built_anew_begins_without_the_writes_and_they_come_back_with_theirs(store: Store) -> None:
    published(store, 1)
    live = Live(store, NAME)
    with client_of(live) as client:
        client.post("/upsert", json={"items": [item(7000)]})
        made = compacted(store)
        live.look()
        published(store, 2)
        live.look()
        assert found(client) == []
        store.rollback("index", NAME)
        live.look()
        assert client.get("/version").json()["version"] == str(made)
        assert found(client) == [7000]


def test_a_service_elsewhere_begins_with_what_was_compacted(store: Store, home: Path) -> None:
    built = published(store, 1)
    with client_of(Live(store, NAME)) as client:
        client.post("/upsert", json={"items": [item(7000)]})
        compacted(store)
    shutil.rmtree(folder_of(built))
    with client_of(Live(store, NAME)) as client:
        assert found(client) == [7000]
        client.post("/upsert", json={"items": [item(7001)]})
        made = compacted(store)
    with client_of(Live(store, NAME)) as client:
        assert (found(client), client.get("/version").json()["version"]) == ([7000, 7001], str(made))


def test_a_service_that_was_written_to_itself_keeps_its_writes_and_stays(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()  # not by the logger: a server that ran in this process before may have silenced it
    monkeypatch.setattr(serving._log, "warning", lambda message, *values: said.append(message % values))
    first = published(store, 1)
    with client_of(Live(store, NAME)) as client:
        client.post("/upsert", json={"items": [item(7000)]})
    folder_of(first).rename(home / "elsewhere")
    live = Live(store, NAME)
    with client_of(live) as client:
        client.post("/upsert", json={"items": [item(7001)]})
        mine = folder_of(first).rename(home / "mine")
        (home / "elsewhere").rename(folder_of(first))
        compacted(store)  # by the service elsewhere
        folder_of(first).rename(home / "elsewhere")
        mine.rename(folder_of(first))
        assert not live.look()
        assert "1 writes of its own, the items hold those of another folder" in "\n".join(said)
        assert found(client) == [7001]
        assert client.get("/version").json()["version"] == str(first)


def test_writes_stay_as_long_as_a_version_that_was_compacted_from_their_build(store: Store) -> None:
    first = published(store, 1)
    with client_of(Live(store, NAME)) as client:
        client.post("/upsert", json={"items": [item(7000)]})
        compacted(store)
    store.remove("index", NAME, first.version, "for this test")
    assert Live(store, NAME).sweep() == []


KILLED = """
import os, signal, sys
from tests.infra.test_serving import compacted, item, Live, NAME
from infra.store import open_store
import numpy as np, pyarrow as pa
place, wanted = sys.argv[1], int(sys.argv[2])
steps = 0
plain = {name: getattr(os, name) for name in ("fsync", "replace", "rename")}
def stepping(name):
    def step(*arguments, **more):
        global steps
        steps += 1
        if steps == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain[name](*arguments, **more)
    return step
store = open_store()
live = Live(store, NAME)
product = live()[0]
for name in plain:
    setattr(os, name, stepping(name))
def write(number):
    product.upsert(np.array([number]), np.ones((1, 3), np.float32), pa.table({"year": [1999]}))
    product.flush()
    with open(place, "a") as told:
        print(number, file=told)
write(8000); compacted(store); write(8001); live.look(); write(8002); compacted(store); live.look(); write(8003)
print(steps)
"""


def test_a_kill_at_any_step_of_writing_compacting_publishing_and_following_loses_no_write(
    store: Store, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed in whichever process: here one does all, so that every step can be hit."""
    published(store, 1)
    told = tmp_path_factory.mktemp("told") / "written"

    def walk(home: Path, wanted: int) -> subprocess.CompletedProcess[str]:
        told.write_text("")
        environment = {**os.environ, "HEADRACE_HOME": str(home), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", KILLED, str(told), str(wanted)]
        return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)

    def fresh(name: str) -> Path:
        place = told.parent / name
        shutil.copytree(home, place)
        return place

    whole = walk(fresh("whole"), 0)
    assert whole.returncode == 0, whole.stderr
    steps = int(whole.stdout)
    assert steps > 30
    for wanted in random.Random(3).sample(range(1, steps + 1), 5):
        place = fresh(str(wanted))
        assert walk(place, wanted).returncode == -signal.SIGKILL
        kept = [int(line) for line in told.read_text().split()]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HEADRACE_HOME", str(place))
            settings.cache_clear()
            again = Live(open_store(), NAME)
            with client_of(again) as client:
                assert set(kept) <= set(found(client)), f"killed at step {wanted} of {steps}"
                assert set(found(client)) <= {8000, 8001, 8002, 8003}
                client.post("/upsert", json={"items": [item(9000)]})
                compacted(open_store())
                again.look()
                assert {*kept, 9000} <= set(found(client))
        settings.cache_clear()


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
