"""The store: whole versions or none, every byte checked, one pointer that says what is live."""

import itertools
import os
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from infra.manifest import Manifest
from infra.refs import Index
from infra.store import IntegrityError, NotPublishedError, Store, StoreError, WithdrawnError
from tests import children

CERTIFICATE = {
    "claims": [{"name": "recall", "kind": "exact", "value": 1.0, "limit": 1.0, "sense": "at least", "detail": ""}]
}


def manifest(name: str = "toy-line", **changes: Any) -> Manifest:
    values = {"kind": "index", "name": name, "configuration": {"k": 3}, "configuration_class": "models.x.Y"}
    return Manifest(**{**values, "inputs": {}, "files": (), "code": "c", **changes})


def payload(seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "vectors": generator.standard_normal((47, 3)).astype(np.float32),
        "attributes": pa.table({"year": [1999, None, seed], "tags": [["a", "é"], [], None]}),
        "weights": {"bias": torch.arange(3) + seed, "weight": torch.ones(2, 3)},
        "notes": {"seed": seed, "words": ["Zürich", "東京"]},
    }


def write(store: Store, seed: int) -> Index:
    return store.write(Index, payload(seed), manifest())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return bool(left.dtype == right.dtype and np.array_equal(left, right))
    if isinstance(left, dict) and left and isinstance(next(iter(left.values())), torch.Tensor):
        return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    return bool(left == right)


def test_what_was_written_is_read_back(store: Store) -> None:
    opened = store.open(write(store, 1))
    assert set(opened) == set(payload(1))
    assert all(same(opened[part], value) for part, value in payload(1).items())


def test_equal_content_has_an_equal_version_in_any_store(store: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "elsewhere"))
    first, again, elsewhere, different = write(store, 1), write(store, 1), write(other, 1), write(store, 2)
    assert first == again
    assert first.digest == elsewhere.digest
    assert first.version != different.version
    assert [found.digest for found in store.versions("index", "toy-line")] == [first.digest, different.digest]


def test_run_ids_and_times_are_no_part_of_the_digest() -> None:
    assert manifest().digest == manifest(created="now", flow_run_id="f", run_id="r", commit="c").digest
    assert manifest().digest != manifest(configuration={"k": 4}).digest


def test_publishing_moves_the_pointer_and_seals_the_certificate(store: Store) -> None:
    first, second = write(store, 1), write(store, 2)
    with pytest.raises(NotPublishedError, match="no index named 'toy-line' is live"):
        store.live(Index, "toy-line")
    store.publish(first, CERTIFICATE, run_id="r1")
    assert store.live(Index, "toy-line") == first
    store.publish(second, CERTIFICATE)
    assert store.live(Index, "toy-line") == second
    assert store.current("index", "toy-line").history == (first.version,)
    assert store.manifest("index", "toy-line", first.version).certificate == CERTIFICATE


def test_publishing_the_live_version_again_changes_nothing(store: Store) -> None:
    ref = write(store, 1)
    assert store.publish(ref, CERTIFICATE) == store.publish(ref, CERTIFICATE)


def test_a_rolled_back_version_does_not_return_by_itself(store: Store) -> None:
    first, second = write(store, 1), write(store, 2)
    store.publish(first, CERTIFICATE)
    store.publish(second, CERTIFICATE)
    store.rollback("index", "toy-line")
    assert store.live(Index, "toy-line") == first
    with pytest.raises(WithdrawnError, match="was rolled back"):
        store.publish(second, CERTIFICATE)
    store.publish(second, CERTIFICATE, reinstate=True)
    assert store.live(Index, "toy-line") == second


def test_rollback_walks_back_through_history_and_then_says_that_it_ends(store: Store) -> None:
    refs = [write(store, seed) for seed in range(3)]
    for ref in refs:
        store.publish(ref, CERTIFICATE)
    assert store.rollback("index", "toy-line").version == refs[1].version
    assert store.rollback("index", "toy-line").version == refs[0].version
    with pytest.raises(NotPublishedError, match="no version before"):
        store.rollback("index", "toy-line")


def test_a_retried_rollback_rolls_back_once(store: Store) -> None:
    refs = [write(store, seed) for seed in range(3)]
    for ref in refs:
        store.publish(ref, CERTIFICATE)
    first = store.rollback("index", "toy-line", cause="flow run 1")
    assert store.rollback("index", "toy-line", cause="flow run 1") == first
    assert store.rollback("index", "toy-line", cause="flow run 2").version == refs[0].version


def test_a_damaged_live_version_that_is_written_again_serves_again(store: Store) -> None:
    ref = write(store, 1)
    store.publish(ref, CERTIFICATE, run_id="r")
    vectors = Path(ref.location, "vectors.npy")
    flipped = bytearray(vectors.read_bytes())
    flipped[-1] ^= 1
    vectors.write_bytes(flipped)
    assert not store.intact(ref)
    assert not store.serves("index", "toy-line", ref.version)
    assert write(store, 1) == ref
    assert store.live(Index, "toy-line") == ref, "the healed version lost its seal"
    assert store.serves("index", "toy-line", ref.version)


def test_of_two_writers_of_equal_content_the_later_leaves_what_is_live_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster one writes and publishes between the look of the slower one and its rename."""
    commit = Store._commit

    def late(self: Store, *arguments: Any) -> None:
        monkeypatch.setattr(Store, "_commit", commit)
        store.publish(write(store, 1), CERTIFICATE)
        commit(self, *arguments)

    monkeypatch.setattr(Store, "_commit", late)
    ref = write(store, 1)
    assert store.live(Index, "toy-line") == ref
    assert store.manifest("index", "toy-line", ref.version).certificate == CERTIFICATE


def test_a_version_says_when_it_was_last_taken_up_and_is_no_other_by_that(store: Store) -> None:
    ref = write(store, 1)
    assert store.used("index", "toy-line", ref.version) is None
    for take_up in (lambda: store.intact(ref), lambda: write(store, 1)):
        take_up()
        stamp = Path(store.root, "index", "toy-line", ".used", ref.version)
        os.utime(stamp, (0, 0))
        long_ago = store.used("index", "toy-line", ref.version)
        take_up()
        again = store.used("index", "toy-line", ref.version)
        assert long_ago
        assert again
        assert long_ago.year == 1970 < again.year
    assert store.known("index", "toy-line") == [ref.version]
    assert store.remove("index", "toy-line", ref.version, "old")
    assert store.used("index", "toy-line", ref.version) is None


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "A", "x'y", ".hidden"])
def test_a_name_that_leads_out_of_the_store_is_refused(store: Store, name: str) -> None:
    for attempt in (
        lambda: store.rollback("index", name),
        lambda: store.current("index", name),
        lambda: store.manifest("index", name, "0" * 12),
        lambda: store.write(Index, {"n": {"a": 1}}, manifest(name=name)),
    ):
        with pytest.raises(StoreError, match="product must be"):
            attempt()
    assert not list(Path(store.root).parent.rglob("evil"))


def test_only_a_published_version_can_be_rolled_back_to(store: Store) -> None:
    published, candidate = write(store, 1), write(store, 2)
    store.publish(published, CERTIFICATE)
    with pytest.raises(NotPublishedError, match="never published"):
        store.rollback("index", "toy-line", candidate.version)


def damages(folder: Path) -> list[tuple[str, Any]]:
    """Ways to damage a version: (name, function that does it)."""
    chosen = random.Random(0)

    def flip(path: Path, offset: int) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)

    found: list[tuple[str, Any]] = []
    for file in sorted(folder.iterdir()):
        size = file.stat().st_size
        for _ in range(6):
            offset = chosen.randrange(size)
            found.append((f"flip {file.name} at {offset}", lambda file=file, offset=offset: flip(file, offset)))
        length = chosen.randrange(size)
        found.append((f"cut {file.name} to {length}", lambda file=file, length=length: os.truncate(file, length)))
        found.append((f"lose {file.name}", file.unlink))
        found.append((f"append to {file.name}", lambda file=file: file.write_bytes(file.read_bytes() + b"x")))
    names = sorted(file.name for file in folder.iterdir())
    for one, two in itertools.pairwise(names):
        found.append((f"swap {one} and {two}", lambda one=one, two=two: swap(folder / one, folder / two)))
    return found


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def test_every_damage_to_a_live_version_is_refused_by_one_exception_type(store: Store, tmp_path: Path) -> None:
    ref = write(store, 1)
    store.publish(ref, CERTIFICATE)
    folder = Path(ref.location)
    shutil.copytree(folder, tmp_path / "whole")
    count = len(damages(folder))
    assert count >= 45
    for number in range(count):
        name, damage = damages(folder)[number]
        damage()
        with pytest.raises(IntegrityError) as caught:
            store.verify(store.live(Index, "toy-line"))
        assert "expected" in str(caught.value), name
        assert "found" in str(caught.value), name
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "whole", folder)
    store.verify(store.live(Index, "toy-line"))


def test_a_damaged_pointer_is_refused(store: Store) -> None:
    ref = write(store, 1)
    store.publish(ref, CERTIFICATE)
    Path(store.root, "index", "toy-line", "CURRENT").write_text("{}")
    with pytest.raises(IntegrityError, match="CURRENT"):
        store.live(Index, "toy-line")


def test_a_damaged_candidate_is_replaced_when_it_is_written_again(store: Store) -> None:
    ref = write(store, 1)
    Path(ref.location, "vectors.npy").write_bytes(b"")
    assert not store.intact(ref)
    assert write(store, 1) == ref
    store.verify(ref)


def test_a_newer_format_is_refused_with_the_remedy(store: Store) -> None:
    newer = manifest(format=99)
    folder = Path(store.root, "index", "toy-line", newer.digest[:12])
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(newer.model_dump_json())
    with pytest.raises(IntegrityError, match="found 99; upgrade headrace"):
        store.manifest("index", "toy-line", newer.digest[:12])


def test_a_part_of_unknown_type_is_refused_by_name(store: Store) -> None:
    with pytest.raises(StoreError, match="part 'model' is a object"):
        store.write(Index, {"model": object()}, manifest())
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        store.write(Index, {"names": np.array([object()])}, manifest())
    assert store.versions("index", "toy-line") == []


def test_an_object_store_gives_the_same_answers() -> None:
    store = Store("memory://bucket/store")
    first, second = write(store, 1), write(store, 2)
    store.publish(first, CERTIFICATE)
    store.publish(second, CERTIFICATE)
    assert store.live(Index, "toy-line") == second
    assert store.rollback("index", "toy-line").version == first.version
    store.verify(first)
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file(f"/bucket/store/index/toy-line/{first.version}/vectors.npy", b"damage")
    with pytest.raises(IntegrityError, match=r"vectors\.npy"):
        store.verify(first)


def test_a_folder_that_cannot_be_written_leaves_the_old_version_live(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = write(store, 1)
    store.publish(ref, CERTIFICATE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device.*Nothing was changed"):
        write(store, 2)
    monkeypatch.undo()
    assert store.live(Index, "toy-line") == ref
    assert list(Path(store.root, ".staging").iterdir()) == []


KILLED_WRITER = """
import os, sys
sys.path.insert(0, {tests!r})
from test_store import CERTIFICATE, payload, manifest, write
from infra.store import Store
call, count = {call!r}, {count}
module = os if hasattr(os, call) else None
seen = 0
import pathlib
def killing(original):
    def wrapped(*args, **kwargs):
        global seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), 9)
        return original(*args, **kwargs)
    return wrapped
if call == "fsync":
    os.fsync = killing(os.fsync)
else:
    setattr(pathlib.Path, call, killing(getattr(pathlib.Path, call)))
store = Store({root!r})
store.publish(write(store, 2), CERTIFICATE)
print("finished")
"""


@pytest.mark.parametrize(
    ("call", "count"),
    [*(("fsync", count) for count in (1, 3, 5, 6, 7, 8, 10, 11)), ("rename", 1), ("replace", 1), ("replace", 2)],
)
def test_a_writer_killed_at_any_step_leaves_one_whole_version_live(store: Store, call: str, count: int) -> None:
    first = write(store, 1)
    store.publish(first, CERTIFICATE)
    script = KILLED_WRITER.format(tests=str(Path(__file__).parent), call=call, count=count, root=store.root)
    done = children.run(script, timeout=120)
    assert done.returncode == -9, done.stdout + done.stderr

    again = Store(store.root)
    live = again.live(Index, "toy-line")
    again.verify(live)
    second = write(again, 2)
    assert live in (first, second)
    assert list(Path(store.root, ".staging").iterdir()) == [], "what the killed writer left was not swept"
    again.publish(second, CERTIFICATE)
    assert again.live(Index, "toy-line") == second
    again.verify(second)


def test_readers_see_only_published_versions_while_others_publish(store: Store) -> None:
    refs = [write(store, seed) for seed in range(2)]
    store.publish(refs[0], CERTIFICATE)
    stop, wrong = threading.Event(), []

    def read() -> None:
        reader = Store(store.root)
        while not stop.is_set():
            opened = reader.open(reader.live(Index, "toy-line"))
            seed = opened["notes"]["seed"]
            if not same(opened["vectors"], payload(seed)["vectors"]):
                wrong.append(seed)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(40):
        store.publish(refs[number % 2], CERTIFICATE)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


@hypothesis_settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.text("abcxyz", min_size=1), st.integers(-5, 5), max_size=4))
def test_json_parts_survive_a_round_trip(values: dict[str, int]) -> None:
    store = Store("memory://json")
    assert store.open(store.write(Index, {"part": values}, manifest()))["part"] == values
