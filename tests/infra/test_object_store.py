"""The store on S3: the same answers as on a disk, and two publishers that do not undo one another's publish."""

import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from infra.manifest import Manifest
from infra.refs import Index
from infra.store import IntegrityError, NotPublishedError, Store, WithdrawnError

pytest.importorskip("s3fs", reason="needs the extra `scale`")
pytest.importorskip("moto", reason="needs the extra `dev`")

CERTIFICATE: dict[str, Any] = {"claims": []}


class Faults:
    """A WSGI application around moto: one write at a time, as S3 orders them, and errors when asked for."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application = application
        self.lock = threading.Lock()
        self.refusals: list[str] = []
        self.ignores_conditions = False
        self.forgets_one_answer = False

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self.lock:
            if environ["REQUEST_METHOD"] != "PUT":
                return self.application(environ, start)
            if self.refusals:
                start(self.refusals.pop(), [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
            if self.ignores_conditions:
                for name in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
                    environ.pop(name, None)
            if self.forgets_one_answer and "CURRENT" in environ["PATH_INFO"]:
                self.forgets_one_answer = False
                list(self.application(environ, lambda *_: None))
                start("500 Internal Server Error", [("Content-Type", "application/xml")])
                return [b"<Error><Code>InternalError</Code><Message>We had trouble.</Message></Error>"]
            return self.application(environ, start)


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    """An S3-compatible server with the bucket `shared`; the environment leads to it."""
    import botocore.session
    import s3fs
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    faults = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # a file system remembers the address that the environment had
    botocore.session.get_session().create_client("s3").create_bucket(Bucket="shared")
    yield faults
    patch.undo()
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, home: Any) -> Store:
    """An empty store; the one that HEADRACE_TEST_STORE names takes the place of moto."""
    if request.param != "s3":
        return Store(str(home / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")
    given = os.environ.get("HEADRACE_TEST_STORE")
    if not given:
        request.getfixturevalue("faults")
    return Store(f"{given or 's3://shared'}/{uuid.uuid4().hex}")


@pytest.fixture
def bucket(faults: Faults, home: Any) -> Store:
    """An empty store on moto."""
    return Store(f"s3://shared/{uuid.uuid4().hex}")


def write(store: Store, number: int) -> Index:
    manifest = Manifest(
        kind="index",
        name="toy-line",
        configuration={"k": 3},
        configuration_class="models.x.Y",
        inputs={},
        files=(),
        code="c",
    )
    vectors = np.random.default_rng(number).standard_normal((47, 3)).astype(np.float32)
    return store.write(Index, {"vectors": vectors, "notes": {"number": number}}, manifest)


def test_every_kind_of_store_publishes_serves_rolls_back_and_refuses_alike(store: Store) -> None:
    with pytest.raises(NotPublishedError):
        store.current("index", "toy-line")
    first, second = write(store, 1), write(store, 2)
    assert write(store, 1) == first
    assert {found.digest for found in store.versions("index", "toy-line")} == {first.digest, second.digest}
    store.publish(first, CERTIFICATE)
    current = store.publish(second, CERTIFICATE)
    assert store.publish(second, CERTIFICATE) == current
    assert (current.version, current.history) == (second.version, (first.version,))
    assert store.live(Index, "toy-line") == second
    assert store.serves("index", "toy-line", second.version)
    opened = store.open(second)
    assert np.array_equal(opened["vectors"], np.random.default_rng(2).standard_normal((47, 3)).astype(np.float32))
    back = store.rollback("index", "toy-line", cause="me")
    assert store.rollback("index", "toy-line", cause="me") == back
    assert (back.version, back.withdrawn) == (first.version, (second.version,))
    with pytest.raises(WithdrawnError):
        store.publish(second, CERTIFICATE)
    assert store.products("index") == ["toy-line"]


def test_every_kind_of_store_refuses_a_changed_byte(store: Store) -> None:
    ref = write(store, 1)
    path = f"{store._path}/index/toy-line/{ref.version}/vectors.npy"
    data = bytearray(store._fs.cat_file(path))
    data[200] ^= 1
    store._fs.pipe_file(path, bytes(data))
    with pytest.raises(IntegrityError, match=r"vectors\.npy: expected SHA-256"):
        store.verify(ref)
    assert write(store, 1) == ref, "a damaged candidate is replaced when it is written again"
    store.verify(ref)


def test_a_publish_that_another_one_overtakes_keeps_both(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (write(bucket, number) for number in range(3))
    bucket.publish(first, CERTIFICATE)
    overtake(bucket, third, monkeypatch)
    current = bucket.publish(second, CERTIFICATE)
    assert (current.version, current.history) == (second.version, (third.version, first.version))


def test_a_rollback_that_a_publish_overtakes_leaves_the_newly_published(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (write(bucket, number) for number in range(3))
    for ref in (first, second):
        bucket.publish(ref, CERTIFICATE)
    other = Store(bucket.root)
    parse = bucket._parse_manifest

    def slow(target: str, data: bytes) -> Manifest:
        monkeypatch.undo()
        other.publish(third, CERTIFICATE)
        return parse(target, data)

    monkeypatch.setattr(bucket, "_parse_manifest", slow)
    current = bucket.rollback("index", "toy-line")
    assert (current.version, current.withdrawn) == (second.version, (third.version,))


def test_the_first_publish_of_two_is_not_overwritten(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write(bucket, 1), write(bucket, 2)
    overtake(bucket, second, monkeypatch)
    assert bucket.publish(first, CERTIFICATE).history == (second.version,)


def test_a_store_without_conditional_writes_says_so_and_works_for_one_publisher(
    bucket: Store, faults: Faults, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And loses a publish when there are two: what the condition is for."""
    monkeypatch.setattr(faults, "ignores_conditions", True)
    first, second, third = (write(bucket, number) for number in range(3))
    bucket.publish(first, CERTIFICATE)
    assert "has no conditional writes" in caplog.text
    with monkeypatch.context() as patch:
        overtake(bucket, third, patch)
        assert bucket.publish(second, CERTIFICATE).history == (first.version,)


def overtake(slow: Store, ref: Index, patch: pytest.MonkeyPatch) -> None:
    """Let another publisher come between the moment at which a store reads CURRENT and that at which it writes."""
    other, seal = Store(slow.root), slow._seal

    def sealed(*arguments: Any) -> str:
        patch.setattr(slow, "_seal", seal)
        other.publish(ref, CERTIFICATE)
        return seal(*arguments)

    patch.setattr(slow, "_seal", sealed)


def test_publishers_that_race_lose_no_publish(bucket: Store) -> None:
    refs = [write(bucket, number) for number in range(12)]
    failures: list[BaseException] = []

    def publisher(mine: list[Index]) -> None:
        store = Store(bucket.root)
        try:
            for ref in mine:
                store.publish(ref, CERTIFICATE)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publisher, args=(refs[number::3],)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    current = bucket.current("index", "toy-line")
    assert sorted((current.version, *current.history)) == sorted(ref.version for ref in refs)
    bucket.verify(bucket.live(Index, "toy-line"))


def test_a_writer_that_comes_late_leaves_the_seal_of_what_is_live(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write the same version; while one still uploads, the other has published it."""
    late, put = Store(bucket.root), bucket._replace_unless_whole

    def slow(*arguments: Any) -> None:
        late.publish(write(late, 1), CERTIFICATE)
        put(*arguments)

    monkeypatch.setattr(bucket, "_replace_unless_whole", slow)
    ref = write(bucket, 1)
    assert bucket.live(Index, "toy-line") == ref


@pytest.mark.parametrize("status", ["503 Slow Down", "500 Internal Server Error"])
def test_a_write_that_is_refused_for_the_moment_is_tried_again(bucket: Store, faults: Faults, status: str) -> None:
    ref = write(bucket, 1)
    faults.refusals += [status] * 3
    started = time.monotonic()
    bucket.publish(ref, CERTIFICATE)
    assert faults.refusals == []
    assert time.monotonic() - started > 0.1, "it was tried again without a pause"
    assert bucket.live(Index, "toy-line") == ref


def test_a_rollback_whose_answer_is_lost_rolls_back_once(bucket: Store, faults: Faults) -> None:
    """The request is repeated and refused, for the first one was carried out."""
    first, second, third = (write(bucket, number) for number in range(3))
    for ref in (first, second, third):
        bucket.publish(ref, CERTIFICATE)
    faults.forgets_one_answer = True
    current = bucket.rollback("index", "toy-line")
    assert not faults.forgets_one_answer
    assert (current.version, current.withdrawn) == (second.version, (third.version,))


@pytest.mark.parametrize("first", [True, False], ids=["the first publish", "another publish"])
def test_a_version_that_is_removed_while_it_goes_live_does_not_stay_live(
    bucket: Store, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """There is no lock: a removal has looked for the last time, and deletes when CURRENT names the version already."""
    old, ref = write(bucket, 1), write(bucket, 2)
    if not first:
        bucket.publish(old, CERTIFICATE)
    remover, looks, failures = Store(bucket.root), itertools.count(1), []
    needed = remover.needed

    def publish() -> None:
        try:
            bucket.publish(ref, CERTIFICATE)
        except BaseException as error:
            failures.append(error)

    publisher = threading.Thread(target=publish)

    def looked(kind: str, name: str, version: str) -> bool:
        found = needed(kind, name, version)
        if next(looks) == 2:
            publisher.start()
            while not needed(kind, name, version):
                time.sleep(0.01)
        return found

    monkeypatch.setattr(remover, "needed", looked)
    assert remover.remove("index", "toy-line", ref.version, "for room")
    publisher.join()
    assert [type(failure) for failure in failures] == [IntegrityError]
    assert "removed by retention while it was to go live" in str(failures[0])
    current = bucket.current_or_none("index", "toy-line")
    assert (current.version if current else None) == (None if first else old.version)
    rebuilt = write(bucket, 2)
    bucket.publish(rebuilt, CERTIFICATE)  # the note of its removal is of the one before
    assert bucket.live(Index, "toy-line") == rebuilt


def test_a_removal_that_sees_the_publish_takes_its_note_back_and_the_publisher_waits_for_that(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, remover, looks = write(bucket, 1), Store(bucket.root), itertools.count(1)
    needed, publisher = remover.needed, threading.Thread(target=bucket.publish, args=(ref, CERTIFICATE))

    def looked(kind: str, name: str, version: str) -> bool:
        if next(looks) == 2:
            publisher.start()
            while not needed(kind, name, version):
                time.sleep(0.01)
        return needed(kind, name, version)

    monkeypatch.setattr(remover, "needed", looked)
    assert not remover.remove("index", "toy-line", ref.version, "for room")
    publisher.join()
    assert bucket.live(Index, "toy-line") == ref
    assert bucket.removed("index", "toy-line") == {}


def test_a_removal_that_was_killed_before_it_removed_keeps_nobody_from_publishing(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, remover = write(bucket, 1), Store(bucket.root)
    monkeypatch.setattr(remover._fs, "rm_file", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remover.remove("index", "toy-line", ref.version, "for room")
    monkeypatch.undo()
    monkeypatch.setattr("infra.store._REMOVAL", timedelta(seconds=1))
    bucket.publish(ref, CERTIFICATE)
    assert bucket.live(Index, "toy-line") == ref
