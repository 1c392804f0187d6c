"""Models are served as they were judged, a newer version without a restart, through a kill, and beside an index."""

import contextlib
import dataclasses
import os
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
import pytest
from fastapi.testclient import TestClient

from flows.history import train_history_scorer
from flows.ranking import train_ranker
from infra import serving
from infra.manifest import describe
from infra.refs import Dataset, Model
from infra.registry import registered_name
from infra.serving import HOST, LiveModel, guarded
from infra.store import IntegrityError, NotPublishedError, Store, StoreError, open_store
from infra.tracking import mlflow_client
from models.feed.events.metrics import auc
from models.feed.events.splits import Split
from models.feed.history import config as history
from models.feed.history.score import Scorer
from models.feed.ranking import config as ranking
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.score import Ranker
from tasks.evaluate import judgement_of
from tasks.train import network_of
from tests.models.feed.ranking.worlds import CONFIG, random_ranker, simulated

NAME = "ranking-test"
CERTIFICATE = {"holds": True}
ASK = {"user": 1, "time": 1_800_000_000, "candidates": [3, 1, 2]}


@pytest.fixture
def store(home: Path) -> Store:
    return open_store()


def published(store: Store, seed: int) -> Model:
    data = simulated()
    network = random_ranker(data, seed=seed)
    sizes = CONFIG.ranker.sizes(data)
    dataset = store.write(Dataset, data, describe(Dataset, NAME, CONFIG.data))
    payload = {"weights": network.state_dict(), "training": {"sizes": dict(sizes)}}
    model = store.write(Model, payload, describe(Model, NAME, CONFIG.ranker, (dataset,)))
    store.publish(model, CERTIFICATE)
    return model


@contextlib.contextmanager
def client_of(live: LiveModel) -> Iterator[TestClient]:
    """A client of what is live; it follows when it is told to look, so that no other thread is faster."""
    with TestClient(guarded(live.application()), base_url=f"http://{HOST}") as client:
        yield client


@contextlib.contextmanager
def command(home: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A command that listens, as soon as it is healthy; killed at the end if it still runs."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "infra.cli", *words, "--port", str(port)]
    process = subprocess.Popen(line, env={**os.environ, "HEADRACE_HOME": str(home)})
    try:
        until = time.monotonic() + 200
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://{HOST}:{port}/health", timeout=60).raise_for_status()
                break
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        yield f"http://{HOST}:{port}", process
    finally:
        process.kill()
        process.wait(60)


def briefly(config: Any, learner: str) -> Any:
    """The preset with its own data and architecture, trained for one epoch and judged leniently."""
    part = getattr(config, learner)
    trained = dataclasses.replace(part, training=dataclasses.replace(part.training, epochs=1))
    judged = dataclasses.replace(config.judgement, margin=1.0, calibration=1.0, resamples=100)
    return dataclasses.replace(config, **{learner: trained}, judgement=judged)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("flow", "config"),
    [(train_ranker, briefly(ranking.tiny(), "ranker")), (train_history_scorer, briefly(history.tiny(), "scorer"))],
    ids=["ranking", "history"],
)
def test_trained_registered_loaded_and_served_the_scores_are_those_of_the_judge_to_the_bit(
    home: Path, flow: Any, config: Any
) -> None:
    """The test part of the tiny preset over HTTP, from another process; the certified shape is a session a request."""
    (outcome,) = flow(config)
    registered = mlflow_client().get_model_version_by_alias(registered_name("model", outcome.product), "champion")
    store = open_store()
    model = store.live(Model, outcome.product)
    assert (registered.tags["version"], registered.tags["digest"]) == (model.version, model.digest)
    assert registered.tags["location"] == model.location

    data = store.open(store.open(model).manifest.input(Dataset, store.root))
    network: Any = network_of(store, model)
    if flow is train_ranker:
        inputs: Any = Inputs.of(data)
        sessions = inputs.sessions_of(Split.from_payload(data).test)
        rows, judged = Ranker(network, inputs.catalogue).logits(inputs, sessions)
    else:
        from models.feed.history.inputs import Inputs as Histories

        inputs = Histories.of(data)
        sessions = inputs.sessions_of(Split.from_payload(data).test)
        rows, judged = Scorer(network, inputs.catalogue).logits(inputs, sessions)
    events = inputs.events
    users, items = events.user_ids.to_pylist(), events.item_ids.to_pylist()
    served, chance = np.full(judged.shape, np.nan), np.full(judged.shape, np.nan)
    with command(home, "serve-model", outcome.product) as (address, _), httpx.Client(base_url=address) as client:
        for session in sessions:
            shown = inputs.rows(int(session))
            question = {
                "user": users[events.user[shown[0]]],
                "time": int(events.time[shown[0]]),
                "candidates": [items[code] for code in events.item[shown]],
            }
            answer = client.post("/rank", json=question).raise_for_status().json()
            assert answer["version"] == str(model)
            for one in answer["items"]:
                place = np.searchsorted(rows, shown[one["place"]])
                served[place] = [one["logits"][task] for task in events.tasks]
                chance[place] = [one["chances"][task] for task in events.tasks]
        metrics = client.get("/metrics").json()
    assert np.abs(served - judged).max() == 0
    assert np.abs(chance - network.chances(judged)).max() == 0
    report = store.versions("report", outcome.product)[-1]
    reported = judgement_of({"judgement": store.read_file(
        f"report/{outcome.product}/{report.digest[:12]}/judgement.json", report.files[0])}).metrics  # fmt: skip
    assert auc(events.label[rows], served[:, 0].astype(np.float32)) == reported["auc"]
    assert metrics["requests"] == len(sessions)
    assert metrics["cache_hit_rate"] > 0


def test_a_version_that_goes_live_answers_without_a_restart_and_knows_what_was_told(store: Store) -> None:
    first = published(store, 1)
    live = LiveModel(store, NAME)
    with client_of(live) as client:
        assert client.get("/health").json() == {"status": "healthy", "version": str(first)}
        before = client.post("/rank", json=ASK).json()
        new = {"user": 1, "events": [{"item": 3, "time": 1_799_999_999, "actions": {"click": 1}}]}
        assert client.post("/events", json=new).json() == {"version": str(first), "events": 1}
        second = published(store, 2)
        assert live.look()
        after = client.post("/rank", json=ASK).json()
        assert (before["version"], after["version"]) == (str(first), str(second))
        assert after["seen"] == before["seen"] + 1
        assert after["items"] != before["items"]
        store.rollback("model", NAME)
        assert live.look()
        assert client.post("/rank", json=ASK).json()["version"] == str(first)


def test_a_request_that_began_with_a_version_ends_with_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = published(store, 1)
    live = LiveModel(store, NAME)
    monkeypatch.setattr(serving, "GRACE_S", 0.0)
    with client_of(live) as client:
        right = client.post("/rank", json=ASK).json()
        inside, go = threading.Event(), threading.Event()
        old: Any = live()[0]
        rank = old.rank

        def slowly(*arguments: Any) -> Any:
            inside.set()
            assert go.wait(60)
            return rank(*arguments)

        monkeypatch.setattr(old, "rank", slowly)
        answers = list[Any]()
        asking = threading.Thread(target=lambda: answers.append(client.post("/rank", json=ASK).json()))
        asking.start()
        assert inside.wait(60)
        second = published(store, 2)
        assert live.look()
        live.look()  # the grace is over: the first version is closed
        assert client.post("/rank", json=ASK).json()["version"] == str(second)
        go.set()
        asking.join(60)
        assert answers == [right]
        assert right["version"] == str(first)


def test_a_damaged_version_is_never_served_and_the_one_before_goes_on(store: Store) -> None:
    first = published(store, 1)
    live = LiveModel(store, NAME)
    with client_of(live) as client:
        second = published(store, 2)
        damaged = next(Path(second.location).glob("*.safetensors"))
        data = bytearray(damaged.read_bytes())
        data[-1] ^= 1
        damaged.write_bytes(data)
        assert not live.look()
        assert client.get("/health").json()["version"] == str(first)
    with pytest.raises(IntegrityError):
        LiveModel(store, NAME)


def test_what_is_not_live_or_cannot_be_served_is_named(store: Store) -> None:
    with pytest.raises(NotPublishedError, match=NAME):
        LiveModel(store, NAME)
    dataset = store.write(Dataset, {"x": [1]}, describe(Dataset, "toy", CONFIG.data))
    toy = store.write(Model, {"x": [1]}, describe(Model, "toy", CONFIG.gate, (dataset,)))
    store.publish(toy, CERTIFICATE)
    with pytest.raises(StoreError, match=r"GateConfig, which made toy@.*does not say how it is served"):
        LiveModel(store, "toy")


@pytest.mark.parametrize("host", ["evil.example", "headrace.internal:8701"])
def test_a_page_that_makes_its_own_name_lead_to_loopback_is_turned_away(store: Store, host: str) -> None:
    published(store, 1)
    with client_of(LiveModel(store, NAME)) as client:
        assert client.post("/rank", json=ASK, headers={"Host": host}).status_code == 400
        text = client.post("/rank", content='{"candidates": [1]}', headers={"Content-Type": "text/plain"})
        assert text.status_code == 422


def test_limits_are_those_of_the_command(store: Store) -> None:
    published(store, 1)
    with client_of(LiveModel(store, NAME, cache_megabytes=0.0, told_megabytes=1.0)) as client:
        client.post("/rank", json=ASK)
        metrics = client.get("/metrics").json()
    assert (metrics["bytes"], metrics["bytes_limit"], metrics["told_bytes_limit"]) == (0, 0, 2**20)
    with pytest.raises(ValueError, match=r"Limits\.told_megabytes must be at least 0.001"):
        LiveModel(store, NAME, told_megabytes=0.0)


def test_a_service_that_was_killed_begins_again_with_the_log_behind_its_version(store: Store, home: Path) -> None:
    published(store, 1)
    answers = []
    for _ in range(2):
        with command(home, "serve-model", NAME) as (address, process):
            answers.append(httpx.post(f"{address}/rank", json=ASK).raise_for_status().json())
            new = {"user": 1, "events": [{"item": 3, "time": 1_799_999_999, "actions": {"click": 1}}]}
            assert httpx.post(f"{address}/events", json=new).json()["events"] == 1
            told = httpx.post(f"{address}/rank", json=ASK).json()
            assert told["seen"] == answers[-1]["seen"] + 1
            process.send_signal(signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL
    assert answers[0] == answers[1]
