"""Backups: everything of an installation, taken while it runs, and put back whole or not at all."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from infra import backup as backups
from infra import manifest as manifests
from infra.backup import (
    BackupError,
    Contents,
    Record,
    StoreCopy,
    back_up,
    checked,
    choose,
    finished,
    read,
    restore,
)
from infra.cli import app
from infra.manifest import Manifest, digest_of
from infra.migrations import STEPS
from infra.refs import Index, Model, Ref
from infra.settings import settings
from infra.store import Store

SECRETS = {
    "HEADRACE_PREFECT_AUTH": "operator:planted-1",
    "HEADRACE_MLFLOW_PASSWORD": "planted-2",
    "HEADRACE_PREFECT_DATABASE": "postgresql://prefect:planted-3@db.example.org:5432/prefect?passfile=planted-4",
    "HEADRACE_MLFLOW_DATABASE": "postgresql://mlflow:planted-5@db.example.org/mlflow",
    "HEADRACE_REDIS_URL": "redis://:planted-6@redis.example.org:6379/0",
    "HEADRACE_TRACKING_URI": "https://operator:planted-7@mlflow.example.org/?token=planted-8",
    "HEADRACE_DATA_ROOTS": "/srv/data;https://reader:planted-9@data.example.org/x?sig=planted-10;s3://bucket/a",
    "HEADRACE_MLFLOW_ARTIFACTS": "s3://key:planted-11@bucket/mlflow",
}


# ----------------------------------------------------------------------------------------------------- installations


def toy(kind: type[Ref], number: int) -> Manifest:
    return Manifest(
        kind=kind.kind,
        name="toy",
        configuration={"n": number},
        configuration_class="models.toy.Config",
        inputs={},
        files=(),
        code="toy",
    )


def publish(store: Store, number: int, kind: type[Ref] = Index) -> Ref:
    """Publish a version which says in every part which one it is."""
    payload = {"values": np.full(300, number), "about": {"n": number}}
    ref = store.write(kind, payload, toy(kind, number))
    store.publish(ref, {"claims": [], "n": number})
    return ref


def database(file: Path, rows: int, revision: str = "", journal: str = "DELETE") -> sqlite3.Connection:
    """A small database as the servers have them, still open."""
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, text TEXT)")
    connection.executemany("INSERT INTO runs (text) VALUES (?)", [(f"run {row}",) for row in range(rows)])
    if revision:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    return connection


def dump(file: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def installation(bare: Path) -> Iterator[Path]:
    """A HOME with all that one has, its Prefect database open and with rows that are in its log alone."""
    root = bare
    store = Store(settings().store_location)
    publish(store, 1, Model)
    first = publish(store, 1)
    publish(store, 2)
    store.write(Index, {"about": {"n": 3}}, toy(Index, 3))
    store.pin("index", "toy", first.version, "the release of March")
    database(root / "mlflow/mlflow.db", 20).close()
    database(root / "mlflow/users.db", 2).close()
    for name in ("1/0a/artifacts/certificate.md", "1/0a/artifacts/.hidden", "1/0b/artifacts/table.json"):
        write(root / "mlflow/artifacts" / name, name)
    for name in ("0a.jsonl", "0a.refused.jsonl"):
        write(root / "outbox" / name, f'{{"of": "{name}"}}\n')
    for name in ("outbox/.locks/write-1", "stack/worker.log", "scratch/training/checkpoint", "prefect/storage/result"):
        write(root / name, "not to be kept")
    with contextlib.closing(database(root / "prefect/prefect.db", 30, journal="WAL")) as connection:
        connection.execute("INSERT INTO runs (text) VALUES ('in the log alone')")
        assert (root / "prefect/prefect.db-wal").stat().st_size > 0
        yield root


@pytest.fixture
def bare(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HOME with nothing in it."""
    monkeypatch.delenv("HEADRACE_STORE", raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(home / "home"))
    settings.cache_clear()
    return home / "home"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can cut the power, and a disk that others use is slow."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file but locks and staging."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {".staging", ".lock"} & {*path.relative_to(root).parts}
    }


def quiet(_: str) -> None:
    """Say nothing."""


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def assert_whole(root: Path) -> None:
    """Every version of a store is what it says, part by part, and what is live serves."""
    store = Store(str(root))
    for kind in store.kinds():
        for name in store.products(kind):
            for version in store.known(kind, name):
                manifest = store.manifest(kind, name, version)
                said = store.open(Ref_of(kind)(name=name, version=version, digest=manifest.digest, location=""))
                numbers = {manifest.configuration["n"], said["about"]["n"]}
                numbers |= set(said["values"].tolist()) if "values" in said else set()
                numbers |= {manifest.certificate["n"]} if manifest.certificate else set()
                assert len(numbers) == 1, f"{kind}/{name}@{version} is of {numbers}"
            if current := store.current_or_none(kind, name):
                assert store.serves(kind, name, current.version)


def Ref_of(kind: str) -> type[Ref]:
    return {"index": Index, "model": Model}[kind]


def in_a_child(act: Callable[[], Any], prepare: Callable[[], Any] = lambda: None) -> int:
    """The exit status of an act in a process of its own, which is a copy of this one."""
    child = os.fork()
    if not child:
        try:
            prepare()
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number: int, act: Callable[[], Any]) -> bool:
    """Whether an act in a process of its own was killed at a step that changes the disk; it may have ended before."""
    count = itertools.count(1)

    def prepare() -> None:
        for place, name in ((os, "fsync"), (os, "sync"), (Path, "replace"), (Path, "rename"), (Path, "unlink")):
            setattr(place, name, fatal(getattr(place, name)))

    def fatal(step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            if next(count) == number:
                os._exit(9)
            return step(*arguments, **more)

        return counted

    status = in_a_child(act, prepare)
    assert status in (0, 9)
    return status == 9


# -------------------------------------------------------------------------------------------------------- round trip


def test_everything_of_an_installation_comes_back(installation: Path, target: Path, tmp_path: Path) -> None:
    record = back_up(target, say=quiet)
    assert record.left_out == ()
    assert record.live == {
        f"{kind}/toy": Store(settings().store_location).current(kind, "toy").version for kind in ("index", "model")
    }
    there = tmp_path / "there"
    assert restore(target, into=there, say=quiet) == record
    before, after = snapshot(installation), snapshot(there)
    databases = {"mlflow/mlflow.db", "mlflow/users.db", "prefect/prefect.db"}
    for file in databases:
        assert dump(there / file) == dump(installation / file), file
    assert "INSERT INTO \"runs\" VALUES(31,'in the log alone');" in dump(there / "prefect/prefect.db")
    kept = {path for path in before if path.startswith(("store/", "mlflow/artifacts/", "outbox/0a"))}
    assert {"store/index/toy/CURRENT", "store/index/toy/PINS", "mlflow/artifacts/1/0a/artifacts/.hidden"} <= kept
    assert set(after) == kept | databases, "more or less came back than is to be kept"
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    assert_whole(there / "store")


def test_what_was_live_serves_and_can_be_rolled_back_and_published_to_after_a_restore(
    installation: Path, target: Path
) -> None:
    back_up(target, say=quiet)
    before = snapshot(installation / "store")
    installation.rename(installation.with_name("lost"))
    restore(target, say=quiet)
    assert snapshot(installation / "store") == before
    store = Store(settings().store_location)
    store.verify(store.live(Index, "toy"))
    store.rollback("index", "toy")
    assert store.open(store.live(Index, "toy"))["about"] == {"n": 1}
    publish(store, 4)
    assert_whole(installation / "store")


def test_backing_up_changes_nothing_of_the_installation(installation: Path, target: Path) -> None:
    def kept() -> dict[str, bytes]:
        return {path: data for path, data in snapshot(installation).items() if not path.endswith(("-shm", "-wal"))}

    before = kept()
    back_up(target, say=quiet)
    assert kept() == before


def test_an_empty_installation_can_be_backed_up_and_restored(bare: Path, target: Path) -> None:
    assert back_up(target, say=quiet).files == ()
    assert not bare.exists()
    restore(target, say=quiet)
    assert snapshot(bare) == {}


def test_a_second_backup_copies_what_is_new_and_nothing_else(installation: Path, target: Path) -> None:
    back_up(target, say=quiet)
    before = snapshot(target / "files")
    publish(Store(settings().store_location), 4)
    record = back_up(target, say=quiet)
    new = set(snapshot(target / "files")) - set(before)
    version = record.live["index/toy"]
    expected = {entry.sha256 for entry in record.files if f"index/toy/{version}/" in entry.path}
    expected |= {entry.sha256 for entry in record.files if entry.path == "store/index/toy/CURRENT"}
    assert {Path(path).name for path in new} == expected
    assert len(finished(target)) == 2


def test_an_older_backup_is_restored_by_its_name(installation: Path, target: Path, tmp_path: Path) -> None:
    first = back_up(target, say=quiet)
    publish(Store(settings().store_location), 4)
    second = back_up(target, say=quiet)
    older, newer = finished(target)
    assert (read(target, older), read(target, newer)) == (first, second)
    assert choose(target) == newer
    assert restore(target, into=tmp_path / "older", name=older, say=quiet).live == first.live
    assert_whole(tmp_path / "older" / "store")


def test_a_store_elsewhere_is_copied_from_there_and_put_back_there(
    installation: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STORE", f"memory://{installation.name}/store")
    settings.cache_clear()
    place = settings().store_location
    fs, root = fsspec.core.url_to_fs(place)
    store = Store(place)
    publish(store, 7)
    ref = publish(store, 8)
    before = {path: fs.cat_file(path) for path in fs.find(root)}
    back_up(target, say=quiet)
    with pytest.raises(BackupError, match="is not empty, it has mlflow"):
        restore(target, say=quiet)
    shutil.rmtree(installation)
    with pytest.raises(BackupError, match="the store memory://home/store is not empty, it has index"):
        restore(target, say=quiet)
    fs.rm(root, recursive=True)
    restore(target, say=quiet)
    assert {path: fs.cat_file(path) for path in fs.find(root)} == before
    assert Store(place).serves("index", "toy", ref.version)
    assert not (installation / "store").exists()
    fs.rm(root, recursive=True)


# ------------------------------------------------------------------------------------------------- while others work


def churn(root: str) -> None:
    """Publish for ever, and remove all but the two newest."""
    store = Store(root)
    for number in itertools.count(100):
        publish(store, number)
        for manifest in store.versions("index", "toy")[:-2]:
            store.remove("index", "toy", manifest.digest[:12], "for room")


@pytest.mark.parametrize("attempts", [backups._ATTEMPTS, 1], ids=["meanwhile", "while the publisher waits"])
def test_a_backup_made_while_another_process_publishes_and_removes_is_of_one_whole_moment(
    installation: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    monkeypatch.setattr(backups, "_ATTEMPTS", attempts)
    store, seen = Store(settings().store_location), set()
    store.unpin("index", "toy", store.current("index", "toy").history[0])
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            churn(settings().store_location)
        os._exit(1)
    try:
        for turn in range(8):
            record = back_up(target, say=quiet)
            assert record.left_out == ()
            seen.add(record.live["index/toy"])
            restore(target, into=tmp_path / f"{turn}", say=quiet)
            assert_whole(tmp_path / f"{turn}" / "store")
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "nobody published meanwhile"
    finally:
        os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
    assert len(seen) > 1, "nothing was published meanwhile"


def replace_all(store: Store) -> None:
    """Publish another version and remove all others."""
    newest = max(manifest.configuration["n"] for manifest in store.versions("index", "toy"))
    ref = publish(store, newest + 1)
    for version in store.known("index", "toy"):
        if version != ref.version:
            store.remove("index", "toy", version, "for room")


def roll_back(store: Store) -> None:
    """Return to the version before, and remove the one that was live."""
    current = store.rollback("index", "toy", cause="once")
    store.remove("index", "toy", current.withdrawn[-1], "for room")


def bring_up_to_date(store: Store) -> None:
    """Rewrite manifests in the present format."""
    for version in store.known("index", "toy"):
        store.rewrite("index", "toy", version)


@pytest.mark.parametrize("meanwhile", [replace_all, roll_back, bring_up_to_date])
def test_whatever_happens_between_two_steps_of_a_backup_it_is_of_one_whole_moment(
    meanwhile: Callable[[Store], None],
    home: Path,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same in all orders: it happens before and after every call that reads the store."""
    monkeypatch.setitem(STEPS, 0, lambda values: values)
    monkeypatch.setattr(backups.time, "sleep", lambda _: None)
    steps = [(StoreCopy, "_bytes"), (Contents, "add"), (Store, "manifest"), (Store, "known")]
    originals = {(place, name): getattr(place, name) for place, name in steps}
    moment, moments, store = 0, 0, Store(str(tmp_path / "0"))

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            tick()
            found = step(*arguments, **more)
            tick()
            return found

        return call

    def tick() -> None:
        nonlocal moments
        moments += 1
        if moments == moment:
            with monkeypatch.context() as undisturbed:
                for (place, name), original in originals.items():
                    undisturbed.setattr(place, name, original)
                meanwhile(store)

    for moment in range(1, 1000):
        moments, store = 0, Store(str(tmp_path / f"{moment}"))
        for number in (1, 2):
            publish(store, number)
        if meanwhile is bring_up_to_date:
            make_older(store)
        with monkeypatch.context() as patched:
            for (place, name), original in originals.items():
                patched.setattr(place, name, watched(original))
            copy = StoreCopy(store, Contents(target))
            target.mkdir(exist_ok=True)
            copy.all()
        assert copy.left_out == []
        there = tmp_path / f"{moment}-there"
        for entry in copy.files.values():
            (there / entry.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Contents(target).path(entry.sha256), there / entry.path)
        assert_whole(there)
        assert Store(str(there)).current("index", "toy").version == copy.live["index/toy"]
        if moments < moment:
            break
    assert moment > 15, "hardly any step was disturbed"


def test_a_migration_that_was_killed_is_backed_up_as_it_is(
    bare: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CURRENT names two checksums then, and either may be the one of the manifest."""
    monkeypatch.setitem(STEPS, 0, lambda values: values)
    for writes in (1, 2):
        store = Store(settings().store_location)
        ref = publish(store, 1)
        make_older(store)
        replace, count = Store._replace, itertools.count(1)

        def fatal(
            self: Store, *arguments: Any, writes: int = writes, count: Iterator[int] = count, whole: Any = replace
        ) -> None:
            if next(count) > writes:
                raise KeyboardInterrupt
            whole(self, *arguments)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Store, "_replace", fatal)
            store.rewrite("index", "toy", ref.version)
        assert store.current("index", "toy").also
        assert back_up(target, say=quiet).left_out == ()
        restore(target, into=tmp_path / f"{writes}", say=quiet)
        there = Store(str(tmp_path / f"{writes}" / "store"))
        assert there.current("index", "toy").also
        there.rewrite("index", "toy", ref.version)
        assert there.serves("index", "toy", ref.version)
        shutil.rmtree(bare)


def make_older(store: Store) -> None:
    """Give the manifests of a store another number, and CURRENT the checksum of the live one."""
    for version in store.known("index", "toy"):
        file = Path(store.root, "index", "toy", version, "manifest.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 0}))
    pointer = Path(store.root, "index", "toy", "CURRENT")
    said = json.loads(pointer.read_text())
    file = Path(store.root, "index", "toy", said["version"], "manifest.json")
    pointer.write_text(json.dumps(said | {"manifest_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))


def test_what_a_version_is_made_from_is_copied_after_it(installation: Path, target: Path) -> None:
    """A model that is published while the indexes are copied is there with its index, or neither is."""
    store, copied = Store(settings().store_location), []
    for kind in ("report", "plan", "dataset", "calendar", "day"):
        (Path(store.root) / kind / "toy").mkdir(parents=True)
    copy = StoreCopy(store, Contents(target))
    copy.product = lambda kind, name: copied.append(kind)  # type: ignore[method-assign]
    copy.all()
    assert copied == ["report", "index", "plan", "model", "dataset", "calendar", "day"]


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_database_that_is_written_to_is_copied_as_of_one_transaction(journal: str, home: Path, target: Path) -> None:
    file = home / "mlflow.db"
    with contextlib.closing(database(file, 5000, journal=journal)) as connection:
        connection.execute("CREATE TABLE totals (rows INTEGER)")
        connection.execute("INSERT INTO totals VALUES (5000)")
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException), contextlib.closing(sqlite3.connect(file, timeout=60)) as writer:
            writer.execute("PRAGMA synchronous = OFF")
            while True:
                with writer:
                    writer.execute("INSERT INTO runs (text) VALUES (hex(randomblob(200)))")
                    writer.execute("UPDATE totals SET rows = rows + 1")
        os._exit(1)
    try:
        target.mkdir()
        totals = set()
        for _ in range(4):
            entry = backups._database(file, Contents(target))
            copy = Contents(target).path(entry.sha256)
            with contextlib.closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True)) as found:
                ((rows,),) = found.execute("SELECT count(*) FROM runs")
                ((total,),) = found.execute("SELECT rows FROM totals")
            assert rows == total
            totals.add(total)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len(totals) > 1, "nothing was written meanwhile"
    assert not list(target.glob(".partial*"))


def test_what_is_delivered_to_mlflow_while_a_backup_is_made_is_in_it(
    installation: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the outbox, in the database, or in both: an operation may be delivered twice and never not at all."""
    for moment in range(1, 30):
        shutil.rmtree(tmp_path / "there", ignore_errors=True)
        write(installation / "outbox" / "0c.jsonl", '{"waits": "for MLflow"}\n')
        with contextlib.closing(sqlite3.connect(installation / "mlflow/mlflow.db")) as mlflow, mlflow:
            mlflow.execute("DELETE FROM runs WHERE text = 'waits for MLflow'")
        count = itertools.count(1)
        originals = {name: getattr(backups, name) for name in ("_database", "_folder", "_file")}

        def deliver_between(step: Callable[..., Any], count: Iterator[int], moment: int) -> Callable[..., Any]:
            def call(*arguments: Any, **more: Any) -> Any:
                if next(count) == moment:
                    with contextlib.closing(sqlite3.connect(installation / "mlflow/mlflow.db")) as mlflow, mlflow:
                        mlflow.execute("INSERT INTO runs (text) VALUES ('waits for MLflow')")
                    (installation / "outbox" / "0c.jsonl").unlink()
                return step(*arguments, **more)

            return call

        with monkeypatch.context() as patched:
            for name, original in originals.items():
                patched.setattr(backups, name, deliver_between(original, count, moment))
            back_up(target, say=quiet)
        restore(target, into=tmp_path / "there", say=quiet)
        waits = (tmp_path / "there/outbox/0c.jsonl").exists()
        arrived = any("waits for MLflow" in line for line in dump(tmp_path / "there/mlflow/mlflow.db"))
        assert waits or arrived, f"lost when delivered at step {moment}"
    assert next(count) < 30, "not every step was tried"


def test_a_file_that_grows_is_copied_once_more_and_one_that_goes_is_left_alone(
    installation: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing, going = installation / "outbox/0a.jsonl", installation / "outbox/0a.refused.jsonl"
    add, grown = Contents.add, []

    def busy(self: Contents, stream: Any, *more: Any) -> tuple[str, int]:
        found = add(self, stream, *more)
        if getattr(stream, "name", "") == str(growing) and not grown:
            grown.append(growing.write_text(growing.read_text() + '{"more": true}\n'))
            going.unlink()
        return found

    monkeypatch.setattr(Contents, "add", busy)
    record = back_up(target, say=quiet)
    entries = {entry.path: entry for entry in record.files}
    assert entries["outbox/0a.jsonl"].sha256 == hashlib.sha256(growing.read_bytes()).hexdigest()
    assert "outbox/0a.refused.jsonl" not in entries
    assert record.left_out == ()


# ------------------------------------------------------------------------------------------------------------ killed


def test_a_backup_that_is_killed_anywhere_is_not_taken_for_one_and_the_next_goes_on(
    installation: Path, tmp_path: Path
) -> None:
    interrupted, whole = 0, snapshot(installation / "store")
    for number in itertools.chain(range(1, 20), range(20, 1000, 7)):
        target = tmp_path / f"target-{number}"
        if not killed_at(number, lambda target=target: back_up(target, say=quiet)):
            break
        there = {path.name for path in (target / "files").glob("??/*")}
        if finished(target):  # all but the tidying was done
            checked(target)
        else:
            interrupted += 1
            with pytest.raises(BackupError, match=r"one was begun 20\S+Z and interrupted. Run headrace backup"):
                restore(target, into=tmp_path / "none", say=quiet)
            assert not (tmp_path / "none").exists()
        record = back_up(target, say=quiet)
        assert checked(target) == record
        assert {entry.path for entry in record.files if entry.path.startswith("store/")} == {
            f"store/{path}" for path in whole
        }
        assert there <= {path.name for path in (target / "files").glob("??/*")}
        assert not [*target.glob("*.unfinished"), *target.glob("*.partial"), *(target / "files").glob(".partial*")]
    assert interrupted > 10, "hardly any step was interrupted"


def test_a_killed_backup_leaves_earlier_ones_as_they_were(installation: Path, target: Path, tmp_path: Path) -> None:
    first = back_up(target, say=quiet)
    publish(Store(settings().store_location), 4)
    for number in (1, 3, 6, 10, 14):
        assert killed_at(number, lambda: back_up(target, keep=1, say=quiet))
        assert checked(target, finished(target)[0]) == first
    assert len(finished(target)) == 1
    back_up(target, keep=1, say=quiet)
    assert restore(target, into=tmp_path / "there", say=quiet).live != first.live


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in HOME", "elsewhere"])
def test_a_restore_that_is_killed_anywhere_is_finished_by_the_next(
    elsewhere: bool, installation: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = back_up(target, say=quiet)
    before, killed = snapshot(installation / "store"), 0
    for number in itertools.chain(range(1, 40, 5), range(40, 1000)):
        monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / f"home-{number}"))
        if elsewhere:
            monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / f"store-{number}"))
        settings.cache_clear()
        root, store = settings().home, Path(settings().store_location)
        if not killed_at(number, lambda: restore(target, say=quiet)):
            break
        killed += 1
        assert restore(target, say=quiet) == record
        assert snapshot(store) == before
        assert len(dump(root / "prefect/prefect.db")) > 30
        assert not list(root.glob(".*"))
        assert not (store / ".restoring").exists()
        with pytest.raises(BackupError, match="is not empty"):
            restore(target, say=quiet)
        shutil.rmtree(root)
        shutil.rmtree(store, ignore_errors=True)
    assert killed > 8, "hardly any step was interrupted"


def test_a_restore_that_was_killed_is_not_finished_over_something_else(
    installation: Path, target: Path, tmp_path: Path
) -> None:
    back_up(target, say=quiet)
    for number in range(1, 1000):
        there = tmp_path / f"there-{number}"
        assert killed_at(number, lambda there=there: restore(target, into=there, say=quiet))
        if (there / "prefect").exists() and not (there / "store").exists():
            break
    publish(Store(str(there / "store")), 9)
    before = snapshot(there / "store")
    with pytest.raises(BackupError, match="is not empty, it has store"):
        restore(target, into=there, say=quiet)
    assert snapshot(there / "store") == before
    shutil.rmtree(there / "store")
    back_up(target, say=quiet)
    with pytest.raises(BackupError, match="is not empty, it has prefect"):  # of another backup than was begun
        restore(target, into=there, say=quiet)
    restore(target, into=there, name=finished(target)[0], say=quiet)
    assert_whole(there / "store")


# ----------------------------------------------------------------------------------------------------------- damages


def flip(file: Path, other: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def cut(file: Path, other: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def append(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def lose(file: Path, other: Path) -> None:
    file.unlink()


def empty(file: Path, other: Path) -> None:
    os.truncate(file, 0)


def swap(file: Path, other: Path) -> None:
    first, second = file.read_bytes(), other.read_bytes()
    file.write_bytes(second)
    other.write_bytes(first)


def become_a_folder(file: Path, other: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [flip, cut, append, lose, empty, swap, become_a_folder])
def test_every_damage_to_a_content_is_refused_by_name_and_nothing_is_restored(
    damage: Callable[[Path, Path], None], installation: Path, target: Path, tmp_path: Path
) -> None:
    record = back_up(target, say=quiet)
    contents, there = Contents(target / "files"), tmp_path / "there"
    for entry, other in zip(record.files, (*record.files[1:], record.files[0]), strict=True):
        whole = shutil.copytree(target / "files", tmp_path / "whole")
        damage(contents.path(entry.sha256), contents.path(other.sha256))
        for read_all in (lambda: checked(target), lambda: restore(target, into=there, say=quiet)):
            with pytest.raises(BackupError) as refused:
                read_all()
            words = str(refused.value)
            assert f"{entry.path} in {contents.path(entry.sha256)}: expected " in words, words
            assert ", found " in words
            assert "nothing was restored" in words
        assert not there.exists()
        shutil.rmtree(target / "files")
        whole.rename(target / "files")
    restore(target, into=there, say=quiet)


def test_a_content_that_is_damaged_after_it_was_checked_is_not_restored(
    installation: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = backups.check

    def check_in_vain(source: Path, record: Record) -> None:
        check(source, record)
        flip(Contents(source / "files").path(record.files[-1].sha256), source)

    back_up(target, say=quiet)
    monkeypatch.setattr(backups, "check", check_in_vain)
    with pytest.raises(BackupError, match="the backup changed while it was read"):
        restore(target, into=tmp_path / "there", say=quiet)
    assert snapshot(tmp_path / "there") == {}


def test_a_damaged_content_that_is_removed_is_copied_anew_by_the_next_backup(
    installation: Path, target: Path, tmp_path: Path
) -> None:
    first = back_up(target, say=quiet)
    entry = next(one for one in first.files if one.path.endswith("values.npy"))
    flip(Contents(target / "files").path(entry.sha256), target)
    with pytest.raises(BackupError, match="Remove the named files and back up again"):
        checked(target)
    Contents(target / "files").path(entry.sha256).unlink()
    back_up(target, say=quiet)
    for name in finished(target):
        checked(target, name)


def test_a_content_that_was_cut_is_copied_anew_by_the_next_backup(installation: Path, target: Path) -> None:
    first = back_up(target, say=quiet)
    for entry in first.files:
        cut(Contents(target / "files").path(entry.sha256), target)
    back_up(target, say=quiet)
    checked(target)


def changed(file: Path, change: Callable[[dict[str, Any]], Any], *, sealed: bool = False) -> None:
    """Change a record as an editor would, or with the checksum that the change has."""
    written = json.loads(file.read_text())
    change(written["content"])
    if sealed:
        written["sha256"] = digest_of(written["content"])
    file.write_text(json.dumps(written))


@pytest.mark.parametrize("field", sorted(Record.model_fields))
def test_a_record_that_was_edited_is_refused_with_both_checksums(
    field: str, installation: Path, target: Path, tmp_path: Path
) -> None:
    back_up(target, say=quiet)
    file = target / f"{choose(target)}.json"
    expected = json.loads(file.read_text())["sha256"]
    changed(file, lambda content: content.update({field: [content[field]]}))
    found = digest_of(json.loads(file.read_text())["content"])
    with pytest.raises(BackupError, match=f"{file.name}: expected SHA-256 {expected}, found {found}"):
        restore(target, into=tmp_path / "there", say=quiet)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"content": {}, "sha256": "0"}', "null", '"content"'])
def test_a_record_that_is_none_is_refused_by_name(text: str, target: Path, tmp_path: Path) -> None:
    file = target / "2026-11-24T021705.123Z.json"
    write(file, text)
    with pytest.raises(BackupError, match=r"2026-11-24T021705.123Z.json: expected .*, found "):
        restore(target, into=tmp_path / "there", say=quiet)


@pytest.mark.parametrize("content", [{}, [], None, 1, "x", {"format": "1"}, {"format": 1, "files": "x"}])
def test_a_sealed_record_of_something_else_is_refused_by_name(content: Any, target: Path) -> None:
    file = target / "2026-11-24T021705.123Z.json"
    write(file, json.dumps({"content": content, "sha256": digest_of(content)}))
    with pytest.raises(BackupError, match=r"2026-11-24T021705.123Z.json: expected .*, found "):
        checked(target)


@pytest.mark.parametrize(
    "path",
    ["../x", "store/../../x", "/etc/x", "stack/stack.json", "store", "", ".", "store//x", "./store/x", "store/x/"],
)
def test_a_forged_path_is_refused(path: str, installation: Path, target: Path, tmp_path: Path) -> None:
    back_up(target, say=quiet)
    file = target / f"{choose(target)}.json"
    changed(file, lambda content: content["files"][0].update(path=path), sealed=True)
    with pytest.raises(BackupError, match="expected paths below prefect, mlflow, outbox, store, found"):
        restore(target, into=tmp_path / "there", say=quiet)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("field", ["format", "manifest_format"])
def test_a_newer_backup_is_refused_with_the_remedy(
    field: str, installation: Path, target: Path, tmp_path: Path
) -> None:
    back_up(target, say=quiet)
    file = target / f"{choose(target)}.json"
    changed(file, lambda content: content.update({field: 99, "of_the_future": True}), sealed=True)
    with pytest.raises(BackupError, match=r"found .*99.*upgrade headrace, then restore"):
        restore(target, into=tmp_path / "there", say=quiet)
    assert not (tmp_path / "there").exists()


def test_a_backup_with_manifests_of_the_newest_format_says_so(
    installation: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "FORMAT", 2)
    assert back_up(target, say=quiet).manifest_format == 2
    monkeypatch.setattr(manifests, "FORMAT", 1)
    with pytest.raises(BackupError, match="found 1 with 2"):
        checked(target)


@pytest.mark.parametrize(("file", "package"), [("mlflow/mlflow.db", "mlflow"), ("prefect/prefect.db", "prefect")])
def test_a_database_that_is_newer_than_its_package_is_refused_and_nothing_is_left(
    file: str, package: str, bare: Path, target: Path, tmp_path: Path
) -> None:
    database(bare / file, 3, revision="0f0f0f0f0f0f").close()
    back_up(target, say=quiet)
    with pytest.raises(BackupError, match=rf"{file} has the schema 0f0f0f0f0f0f, which {package} .* does not know"):
        restore(target, into=tmp_path / "there", say=quiet)
    assert snapshot(tmp_path / "there") == {}


@pytest.mark.parametrize("file", sorted(backups.DATABASES))
def test_the_schemas_of_the_installed_packages_are_known(file: str, bare: Path, target: Path, tmp_path: Path) -> None:
    """Asked of alembic, which both packages use, and not of the way in which we look them up."""
    import importlib

    from alembic.config import Config
    from alembic.script import ScriptDirectory

    package = backups.DATABASES[file][0]
    script = {"mlflow": "mlflow/store/db_migrations", "prefect": "prefect/server/database/_migrations"}[package]
    place = Path(str(importlib.import_module(package).__file__)).parent.parent / script
    config = Config()
    config.set_main_option("script_location", str(place))
    config.set_main_option("path_separator", "os")
    if package == "prefect":
        config.set_main_option("version_locations", str(place / "versions" / "sqlite"))
    (newest,) = ScriptDirectory.from_config(config).get_heads()
    database(bare / file, 3, revision=newest).close()
    back_up(target, say=quiet)
    restore(target, into=tmp_path / "there", say=quiet)
    assert dump(tmp_path / "there" / file) == dump(bare / file)


# ---------------------------------------------------------------------------------------------------------- refusals


def test_a_home_that_is_not_empty_is_refused_and_left_as_it_is(
    installation: Path, target: Path, tmp_path: Path
) -> None:
    back_up(target, say=quiet)
    before = snapshot(installation)
    with pytest.raises(BackupError, match=r"home is not empty, it has mlflow, outbox, .* or restore beside it"):
        restore(target, say=quiet)
    assert snapshot(installation) == before
    write(tmp_path / "there" / "notes.txt", "mine")
    with pytest.raises(BackupError, match=r"is not empty, it has notes.txt"):
        restore(target, into=tmp_path / "there", say=quiet)
    assert snapshot(tmp_path / "there") == {"notes.txt": b"mine"}


def test_a_fresh_disk_is_an_empty_home(installation: Path, target: Path, tmp_path: Path) -> None:
    back_up(target, say=quiet)
    (tmp_path / "there" / "lost+found").mkdir(parents=True)
    restore(target, into=tmp_path / "there", say=quiet)
    assert_whole(tmp_path / "there" / "store")


@pytest.mark.parametrize("inside", ["home", "home/backups", "linked/backups", "elsewhere/b", "artifacts/b"])
def test_a_target_inside_what_is_backed_up_is_refused(
    inside: str, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = installation.parent
    (base / "linked").symlink_to(installation)
    if inside.startswith("elsewhere"):
        monkeypatch.setenv("HEADRACE_STORE", f"file://{base}/elsewhere")
    monkeypatch.setenv("HEADRACE_MLFLOW_ARTIFACTS", str(base / "artifacts"))
    settings.cache_clear()
    before = snapshot(base)
    with pytest.raises(BackupError, match=r"lies inside .*, which is backed up; take a folder on another disk"):
        back_up(base / inside, say=quiet)
    assert snapshot(base) == before


def test_a_target_inside_what_a_link_to_the_store_leads_to_is_refused(installation: Path, tmp_path: Path) -> None:
    (installation / "store").rename(tmp_path / "big disk")
    (installation / "store").symlink_to(tmp_path / "big disk")
    with pytest.raises(BackupError, match="big disk, which is backed up"):
        back_up(tmp_path / "big disk" / "backups", say=quiet)


def test_one_backup_or_restore_works_on_a_folder_at_a_time(installation: Path, target: Path, tmp_path: Path) -> None:
    back_up(target, say=quiet)
    with (target / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for act in (
            lambda: back_up(target, say=quiet),
            lambda: restore(target, into=tmp_path / "there", say=quiet),
            lambda: checked(target),
        ):
            with pytest.raises(BackupError, match=r"another backup or restore uses .*; wait for its end"):
                act()
        fcntl.flock(other, fcntl.LOCK_SH)
        checked(target)
        with pytest.raises(BackupError, match="another backup or restore uses"):
            back_up(target, say=quiet)
    back_up(target, say=quiet)


def test_what_is_no_backup_is_refused_with_what_to_do(installation: Path, target: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="expected a folder, found none"):
        restore(target, into=tmp_path / "there", say=quiet)
    target.mkdir()
    with pytest.raises(BackupError, match="has no backup; give the folder that headrace backup was given"):
        restore(target, into=tmp_path / "there", say=quiet)
    back_up(target, say=quiet)
    (name,) = finished(target)
    with pytest.raises(BackupError, match=rf"has no finished backup 'March'; it has {name}"):
        restore(target, into=tmp_path / "there", name="March", say=quiet)


# --------------------------------------------------------------------------------------------------------------- keep


def test_keep_removes_older_backups_and_never_what_another_one_needs(
    installation: Path, target: Path, tmp_path: Path
) -> None:
    store, records = Store(settings().store_location), []
    for number in range(10, 16):
        ref = publish(store, number)
        records.append(back_up(target, keep=3, say=quiet))
        if number >= 12:
            before = store.current("index", "toy").history[0]
            store.remove("index", "toy", before, "for room")
        assert ref.version == records[-1].live["index/toy"]
    assert [read(target, name) for name in finished(target)] == records[-3:]
    for name in finished(target):
        restore(target, into=tmp_path / name, name=name, say=quiet)
        assert_whole(tmp_path / name / "store")
    wanted = {entry.sha256 for record in records[-3:] for entry in record.files}
    assert {path.name for path in (target / "files").glob("*/*")} == wanted
    gone = {entry.sha256 for entry in records[0].files} - wanted
    assert gone, "nothing could have been removed"


def test_keep_removes_nothing_when_this_backup_had_to_leave_something_out(
    installation: Path, target: Path, tmp_path: Path
) -> None:
    first = back_up(target, keep=1, say=quiet)
    version = first.live["index/toy"]
    file = installation / "store/index/toy" / version / "values.npy"
    flip(file, file)
    Contents(target / "files").path(
        next(e.sha256 for e in first.files if e.path.endswith(f"{version}/values.npy"))
    ).unlink()
    said: list[str] = []
    for _ in range(2):
        assert back_up(target, keep=1, say=said.append).left_out
    assert len(finished(target)) == 3
    assert "older backups stay: they may have what is damaged now." in said


def test_keep_removes_nothing_when_one_that_is_to_be_kept_cannot_be_read(installation: Path, target: Path) -> None:
    for number in (10, 11, 12):
        publish(Store(settings().store_location), number)
        back_up(target, say=quiet)
    damaged = finished(target)[2]
    changed(target / f"{damaged}.json", lambda content: content.update(live={}))
    before = snapshot(target / "files")
    with pytest.raises(BackupError, match=rf"is finished, and no older one was removed, .*{damaged}.json: expected"):
        back_up(target, keep=2, say=quiet)
    assert len(finished(target)) == 4
    assert before.items() <= snapshot(target / "files").items()
    back_up(target, keep=1, say=quiet)
    checked(target)


def test_the_latest_backup_is_the_newest_even_when_the_clock_was_set_back(
    installation: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=400)

    with monkeypatch.context() as patched:
        patched.setattr(backups, "datetime", Later)
        back_up(target, say=quiet)
    publish(Store(settings().store_location), 4)
    record = back_up(target, keep=1, say=quiet)
    assert read(target, choose(target)) == record
    assert len(finished(target)) == 1


# -------------------------------------------------------------------------------------------------------------- disks


def mounted(kind: str, folder: Path) -> None:
    """Put a small file system over a folder, for this process alone; full, or for reading only, or with a limit."""
    if kind == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        return
    library, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if library.unshare(0x00020000):  # CLONE_NEWNS
        if library.unshare(0x00020000 | 0x10000000):  # and CLONE_NEWUSER
            raise OSError(ctypes.get_errno(), "no mount namespace")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    folder.mkdir(exist_ok=True)
    size = "8k" if kind == "full" else "8m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    if kind == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def _kinds() -> list[Any]:
    """Real disks where a process may mount one; a limit on the size of files needs no rights and is always tried."""
    may = in_a_child(lambda: mounted("full", Path("/mnt"))) == 0
    real = [("full", "No space left on device"), ("read-only", "Read-only file system")] if may else []
    return [("limit", "File too large"), *real]


@pytest.mark.parametrize(("kind", "words"), _kinds())
@pytest.mark.parametrize("act", ["back up", "restore"])
def test_a_disk_that_takes_no_more_is_named_and_nothing_half_written_stays(
    act: str, kind: str, words: str, installation: Path, target: Path, tmp_path: Path
) -> None:
    earlier, there = tmp_path / "earlier", tmp_path / "there"
    back_up(earlier, say=quiet)
    disk = target if act == "back up" else there
    disk.mkdir()
    said = tmp_path / "said"

    def attempt() -> None:
        said.write_text("")
        mounted(kind, disk)
        with said.open("r+") as answer, pytest.raises(BackupError) as refused:
            try:
                back_up(target, say=quiet) if act == "back up" else restore(earlier, into=there, say=quiet)
            finally:
                left = [path.name for path in disk.rglob("*") if path.name.startswith((".partial", ".restoring"))]
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        answer_text = f"{refused.value}\nleft {left} {finished(disk)}"
        with said.open("w") as answer:
            answer.write(answer_text)

    assert in_a_child(attempt) == 0
    text = said.read_text()
    assert str(disk) in text
    assert words in text or "are needed; make room" in text, text
    assert "run again" in text or "make room" in text
    assert "left [] []" in text


# ------------------------------------------------------------------------------------------------------------ secrets


def test_no_secret_is_in_a_backup_or_said(installation: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HEADRACE_MLFLOW_USER", "operator")
    settings.cache_clear()
    done = run("backup", target)
    assert done.exit_code == 0, done.output
    again = run("restore", target, "--into", target.with_name("there"))
    assert again.exit_code == 0, again.output
    record = (target / f"{choose(target)}.json").read_text()
    for text in (record, done.output, again.output):
        assert "planted" not in text
        assert "***" not in text
    for path, data in snapshot(target).items():
        assert b"planted" not in data, path
    assert read(target, choose(target)).settings == {
        "HEADRACE_HOME": str(installation),
        "HEADRACE_MLFLOW_USER": "operator",
        "HEADRACE_TRACKING_URI": "https://mlflow.example.org/",
        "HEADRACE_DATA_ROOTS": "/srv/data;https://data.example.org/x;s3://bucket/a",
        "HEADRACE_MLFLOW_ARTIFACTS": "s3://bucket/mlflow",
    }
    assert f"pg_dump --format=custom --file={target}/prefect.dump postgresql://prefect@db.example.org:5432/prefect" in (
        done.output
    )
    assert "MLflow's files are in s3://bucket/mlflow; keep them with the tools of that place." in done.output


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("postgresql://u:planted/w@host/db", "postgresql://host/db"),
        ("postgresql://u:planted?w@host/db?passfile=planted", "postgresql://host/db"),
        ("postgresql://u:planted@planted/planted@host/db", "postgresql://host/db"),
        ("https://u:planted;planted@host/x", "https://host/x"),
        ("https://u:planted/1@a/x;s3://bucket/b@c?x=planted;/srv/d?e;~/f", "https://a/x;s3://bucket/b@c;/srv/d?e;~/f"),
        ("redis://:planted@host:6379/0", "redis://host:6379/0"),
        ("filecache::s3://k:planted@bucket/x#planted", "filecache::s3://bucket/x"),
        ("http://[::1]:4200/api", "http://[::1]:4200/api"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("/srv/what?/a@b", "/srv/what?/a@b"),
    ],
)
def test_a_setting_is_kept_without_its_secrets_whatever_characters_they_have(value: str, kept: str) -> None:
    assert backups._without_secrets(value) == kept


def test_a_backup_is_for_its_owner_alone(installation: Path, target: Path) -> None:
    target.mkdir(mode=0o755)
    target.chmod(0o755)
    back_up(target, say=quiet)
    assert (target / "files").stat().st_mode & 0o777 == 0o700
    back_up(target.with_name("new"), say=quiet)
    assert target.with_name("new").stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------------------------------------------- what is damaged


def test_a_damaged_version_is_left_out_by_name_and_all_others_are_there(
    installation: Path, target: Path, tmp_path: Path
) -> None:
    store = Store(settings().store_location)
    before, live = store.current("index", "toy").history[0], store.current("index", "toy").version
    flip(installation / "store/index/toy" / before / "values.npy", target)
    done = run("backup", target)
    assert done.exit_code == 1
    assert f"damaged, left out: index/toy/{before}: values.npy: expected " in done.output
    restore(target, into=tmp_path / "there", say=quiet)
    assert_whole(tmp_path / "there/store")
    assert before not in Store(str(tmp_path / "there/store")).known("index", "toy")
    assert Store(str(tmp_path / "there/store")).serves("index", "toy", live)


def test_a_damaged_version_that_an_earlier_backup_has_is_taken_from_there(
    installation: Path, target: Path, tmp_path: Path
) -> None:
    back_up(target, say=quiet)
    live = Store(settings().store_location).current("index", "toy").version
    (installation / "store/index/toy" / live / "values.npy").unlink()
    assert back_up(target, say=quiet).left_out == ()
    restore(target, into=tmp_path / "there", say=quiet)
    assert_whole(tmp_path / "there/store")


@pytest.mark.parametrize("part", ["values.npy", "manifest.json", "CURRENT"])
def test_a_damaged_live_version_is_said_at_the_backup_and_at_the_restore(
    part: str, installation: Path, target: Path, tmp_path: Path
) -> None:
    live = Store(settings().store_location).current("index", "toy").version
    folder = installation / "store/index/toy"
    flip(folder / live / part if part != "CURRENT" else folder / part, target)
    cut(folder / live / part if part != "CURRENT" else folder / part, target)
    record = back_up(target, say=quiet)
    assert len(record.left_out) == 1
    assert record.left_out[0].startswith(f"index/toy/{live if part != 'CURRENT' else part}")
    done = run("restore", target, "--into", tmp_path / "there")
    assert done.exit_code == 0, done.output
    assert f"not in it: {record.left_out[0]}" in done.output
    assert Store(str(tmp_path / "there/store")).serves("model", "toy", record.live["model/toy"])


def test_a_manifest_that_is_not_the_published_one_is_said(installation: Path, target: Path) -> None:
    live = Store(settings().store_location).current("index", "toy").version
    file = installation / "store/index/toy" / live / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"certificate": {"claims": ["forged"], "n": 2}}))
    (said,) = back_up(target, say=quiet).left_out
    assert said == f"index/toy/{live}/manifest.json: it is not the one that was published."


@pytest.mark.parametrize("damage", [flip, empty], ids=["flip", "no database"])
def test_a_damaged_database_is_left_out_by_name_and_the_rest_is_there(
    damage: Callable[[Path, Path], None], installation: Path, target: Path, tmp_path: Path
) -> None:
    file = installation / "mlflow/mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE INDEX by_text ON runs (text)")
    file.write_bytes(b"no database at all" * 500) if damage is empty else damage_rows(file)
    done = run("backup", target)
    assert done.exit_code == 1
    assert "damaged, left out: mlflow/mlflow.db: expected a " in done.output
    assert "go back to an earlier backup" in done.output
    record = restore(target, into=tmp_path / "there", say=quiet)
    assert not (tmp_path / "there/mlflow/mlflow.db").exists()
    assert {"prefect/prefect.db", "mlflow/users.db"} <= {entry.path for entry in record.files}
    assert_whole(tmp_path / "there/store")


def damage_rows(file: Path) -> None:
    """Change a row without its index."""
    data = file.read_bytes()
    place = data.index(b"run 7")
    file.write_bytes(data[:place] + b"fun 7" + data[place + 5 :])


def test_a_link_is_not_followed_and_named(installation: Path, target: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside" / "secret", "not ours")
    (installation / "mlflow/artifacts/1/linked").symlink_to(tmp_path / "outside")
    (installation / "mlflow/artifacts/1/0a/artifacts/file").symlink_to(tmp_path / "outside/secret")
    record = back_up(target, say=quiet)
    assert sorted(sentence.partition(":")[0] for sentence in record.left_out) == [
        "mlflow/artifacts/1/0a/artifacts/file",
        "mlflow/artifacts/1/linked",
    ]
    assert all("found a link to" in sentence for sentence in record.left_out)
    assert b"not ours" not in snapshot(target / "files").values()


def test_a_name_that_is_no_text_is_left_out_by_name(installation: Path, target: Path) -> None:
    write(installation / "mlflow/artifacts" / os.fsdecode(b"caf\xe9"), "x")
    (said,) = back_up(target, say=quiet).left_out
    assert "caf" in said
    assert said.isascii()


def test_what_the_disk_cannot_read_is_left_out_by_name_and_all_others_are_there(
    installation: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Store(settings().store_location).current("index", "toy").history[0]
    bad = (f"index/toy/{before}/values.npy", "artifacts/certificate.md")
    blocks = backups._blocks

    def dying(stream: Any) -> Iterator[bytes]:
        if str(getattr(stream, "name", "")).endswith(bad):
            with backups._reading(stream.name):
                raise OSError(errno.EIO, "Input/output error")
        yield from blocks(stream)

    monkeypatch.setattr(backups, "_blocks", dying)
    record = back_up(target, say=quiet)
    assert len(record.left_out) == 2
    for sentence, name in zip(record.left_out, bad, strict=True):
        assert f"{name} cannot be read: [Errno 5] Input/output error" in sentence
    assert not list((target / "files").glob(".partial*"))
    restore(target, into=tmp_path / "there", say=quiet)
    assert_whole(tmp_path / "there/store")


def test_bytes_that_the_disk_gives_back_wrong_are_no_backup(
    installation: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = backups._digest

    def lying(stream: Any) -> tuple[str, int]:
        found, length = digest(stream)
        return (found, length) if ".partial" not in str(getattr(stream, "name", "")) else ("0" * 64, length)

    monkeypatch.setattr(backups, "_digest", lying)
    with pytest.raises(BackupError, match=rf"expected SHA-256 .*, found {'0' * 64} read back; look at that disk"):
        back_up(target, say=quiet)
    assert finished(target) == []


# ----------------------------------------------------------------------------------------------------------- commands


def test_the_commands_say_what_they_did_and_how_to_go_on(
    installation: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("backup", target, "--keep", 7)
    assert done.exit_code == 0
    assert "2 live products, " in done.output
    assert f"bytes were new in {target}" in done.output
    assert "every byte as it was." in run("restore", target, "--check").output
    there = tmp_path / "an other"
    monkeypatch.setenv("HEADRACE_MIRROR", "/srv/mirror")
    settings.cache_clear()
    run("backup", target)
    monkeypatch.delenv("HEADRACE_MIRROR")
    settings.cache_clear()
    restored = run("restore", target, "--into", there)
    assert restored.exit_code == 0
    assert "it was made with HEADRACE_MIRROR=/srv/mirror" in restored.output
    assert f"to work with it: export HEADRACE_HOME='{there}'" in restored.output


def test_a_folder_of_mlflow_files_elsewhere_is_kept_and_its_place_is_said(
    installation: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installation / "mlflow/artifacts").rename(tmp_path / "big")
    monkeypatch.setenv("HEADRACE_MLFLOW_ARTIFACTS", str(tmp_path / "big"))
    settings.cache_clear()
    run("backup", target)
    done = run("restore", target, "--into", tmp_path / "there")
    assert f"move them to {tmp_path / 'big'}, as HEADRACE_MLFLOW_ARTIFACTS says" in done.output
    assert snapshot(tmp_path / "there/mlflow/artifacts") == snapshot(tmp_path / "big")


@pytest.mark.parametrize("words", [("backup",), ("restore",), ("restore", "--check")])
def test_a_command_that_failed_exits_1_with_one_sentence_and_no_traceback(
    words: tuple[str, ...], installation: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a file"
    file.touch()
    done = run(words[0], file, *words[1:])
    assert done.exit_code == 1
    assert done.output.startswith("failed: ")
    assert str(file) in done.output
    assert isinstance(done.exception, SystemExit)


def test_what_is_restored_is_for_its_owner_alone(installation: Path, target: Path, tmp_path: Path) -> None:
    back_up(target, say=quiet)
    restore(target, into=tmp_path / "again", say=quiet)
    for place in (tmp_path / "again", tmp_path / "again" / "mlflow", tmp_path / "again" / "prefect"):
        assert place.stat().st_mode & 0o077 == 0, place
    for database in (tmp_path / "again").glob("*/*.db"):
        assert database.stat().st_mode & 0o077 == 0, database
