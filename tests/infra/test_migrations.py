"""Formats of the manifest: an older one is read as if it were new, and rewritten while what is live stays live.

There is one format so far, so the tests play a format 0, which said kind and name in one word and had its files by
name. `tests/data/format_1` is a store as headrace 0.1.0 wrote it, and must be readable for ever. It was written on
2026-11-25 with pyarrow 25 and safetensors 0.8 by

    python -m tests.infra.test_migrations tests/data/format_1

and then `.staging` and `.lock` were removed. It is not to be written anew: whoever raises FORMAT adds a step to
`infra.migrations.STEPS`, and beside this store one of the format before.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner, Result

from infra import manifest as manifests
from infra import migrations
from infra import store as stores
from infra.cli import app
from infra.manifest import FORMAT, Manifest
from infra.migrations import STEPS, FormatError, upgraded
from infra.refs import Index
from infra.store import IntegrityError, Store

GOLDEN = Path(__file__).parent.parent / "data" / "format_1"
DIGESTS = {
    2: "bfb556711736a12c4d821436dae83a3c3f0917977659474b6c3ae63303ed290b",
    3: "6dffedbd769a57b9a84979270271f2725f9129abca02aeecfb52509c4f6dc425",
}
CERTIFICATE = {
    "claims": [{"name": "recall", "kind": "exact", "value": 1.0, "limit": 1.0, "sense": "at least", "detail": ""}]
}
PRODUCT = "index/toy-line"


def toy_manifest(k: int) -> Manifest:
    return Manifest(
        kind="index",
        name="toy-line",
        configuration={"k": k, "words": ["Zürich", "東京"], "rate": 0.1},
        configuration_class="models.toy.config.LineConfig",
        code="c" * 64,
        commit="0123abc+",
        flow_run_id="f",
        inputs={"dataset": {"name": "toy-line", "version": "0" * 12, "digest": "0" * 64}},
        files=(),
    )


def toy_payload(k: int) -> dict[str, Any]:
    return {
        "vectors": np.arange(6, dtype=np.float32).reshape(2, 3) * k,
        "attributes": pa.table({"year": [1999, None, k], "tags": [["a", "é"], [], None]}),
        "weights": {"bias": torch.arange(3) + k, "weight": torch.ones(2, 3)},
        "notes": {"k": k},
    }


def write_toys(root: str) -> list[Index]:
    """Two published versions; the older one is pinned."""
    store = Store(root)
    refs = [store.write(Index, toy_payload(k), toy_manifest(k)) for k in (2, 3)]
    for ref in refs:
        store.publish(ref, CERTIFICATE, run_id="r")
    store.pin("index", "toy-line", refs[0].version, "the release of March")
    return refs


# ------------------------------------------------------------------------------------------------------- a format 0


def from_0(values: dict[str, Any]) -> dict[str, Any]:
    """The step: what a format 0 says, as format 1 says it."""
    kind, name = values.pop("product").split("/")
    files = [{"path": path, **entry} for path, entry in values.pop("files").items()]
    return {**values, "kind": kind, "name": name, "files": files}


def to_0(values: dict[str, Any]) -> dict[str, Any]:
    """The way back, which headrace itself never goes."""
    values = dict(values)
    files = {entry.pop("path"): entry for entry in map(dict, values.pop("files"))}
    return {**values, "format": 0, "product": f"{values.pop('kind')}/{values.pop('name')}", "files": files}


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, 0, from_0)


@pytest.fixture
def written(home: Path) -> list[Index]:
    """What the present headrace wrote, in the store of HOME."""
    return write_toys(str(home / "store"))


@pytest.fixture
def old(written: list[Index], home: Path, step: None) -> Store:
    """The same store as a headrace of format 0 would have left it."""
    for ref in written:
        file = Path(ref.location, "manifest.json")
        file.write_text(json.dumps(to_0(json.loads(file.read_text()))))
    seal(home / "store", written[1])
    return Store(str(home / "store"))


def seal(root: Path, ref: Index) -> None:
    """Let CURRENT say of a live version the checksum that its manifest has now."""
    pointer = root / PRODUCT / "CURRENT"
    found = hashlib.sha256(Path(ref.location, "manifest.json").read_bytes()).hexdigest()
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"manifest_sha256": found}))


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file that counts; staging and locks do not."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }


def migrate(*words: str) -> Result:
    return CliRunner().invoke(app, ["migrate", *words])


def assert_serves(store: Store, ref: Index) -> None:
    """What is live is this version, every byte of it, by either way of asking."""
    assert store.live(Index, "toy-line") == ref
    store.verify(ref)
    assert store.serves("index", "toy-line", ref.version)


# ---------------------------------------------------------------------------------------------------------- format 1


def test_a_store_that_headrace_0_1_0_wrote_is_read_part_by_part(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    live = store.live(Index, "toy-line")
    assert live.digest == DIGESTS[3]
    before = store.manifest("index", "toy-line", DIGESTS[2][:12])
    assert before.digest == DIGESTS[2]
    for k, opened in ((3, store.open(live)), (2, store.open(live.model_copy(update=place(store, DIGESTS[2]))))):
        said, wanted = opened.manifest, toy_manifest(k)
        assert said.certificate == CERTIFICATE
        assert (said.run_id, said.format) == ("r", FORMAT)
        kept = ("kind", "name", "configuration", "configuration_class", "inputs", "code", "commit", "flow_run_id")
        assert [getattr(said, field) for field in kept] == [getattr(wanted, field) for field in kept]
        parts = toy_payload(k)
        assert set(opened) == set(parts)
        assert np.array_equal(opened["vectors"], parts["vectors"])
        assert opened["attributes"].equals(parts["attributes"])
        assert all(torch.equal(opened["weights"][key], value) for key, value in parts["weights"].items())
        assert opened["notes"] == parts["notes"]
    assert store.pins("index", "toy-line")[DIGESTS[2][:12]].why == "the release of March"
    store.rollback("index", "toy-line")
    assert store.live(Index, "toy-line").digest == DIGESTS[2]


def place(store: Store, digest: str) -> dict[str, str]:
    return {"version": digest[:12], "digest": digest, "location": f"{store.root}/{PRODUCT}/{digest[:12]}"}


def test_the_store_of_format_1_is_of_format_1() -> None:
    for digest in DIGESTS.values():
        assert json.loads((GOLDEN / PRODUCT / digest[:12] / "manifest.json").read_text())["format"] == 1


def test_raising_the_format_rewrites_the_store_of_format_1(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What whoever raises FORMAT next will do, with a step that renames nothing."""
    shutil.copytree(GOLDEN, home / "store")
    for module in (manifests, migrations, stores):
        monkeypatch.setattr(module, "FORMAT", FORMAT + 1)
    for number in range(1, FORMAT + 1):
        monkeypatch.setitem(STEPS, number, STEPS.get(number, dict))
    done = migrate("--write")
    assert done.exit_code == 0, done.output
    store = Store(str(home / "store"))
    for digest in DIGESTS.values():
        assert store.format_of("index", "toy-line", digest[:12]) == FORMAT + 1
        assert store.manifest("index", "toy-line", digest[:12]).digest == digest
    assert store.serves("index", "toy-line", DIGESTS[3][:12])


# ---------------------------------------------------------------------------------------------------------- reading


def test_an_older_manifest_is_read_as_if_it_were_new(old: Store, written: list[Index]) -> None:
    assert old.format_of("index", "toy-line", written[1].version) == 0
    assert_serves(old, written[1])
    assert old.open(written[1])["notes"] == {"k": 3}
    assert [found.digest for found in old.versions("index", "toy-line")] == [ref.digest for ref in written]


def test_an_older_store_is_published_to_and_rolled_back_without_a_migration(old: Store, written: list[Index]) -> None:
    old.rollback("index", "toy-line")
    assert_serves(old, written[0])
    old.publish(written[1], CERTIFICATE, reinstate=True)
    assert_serves(old, written[1])
    assert old.write(Index, toy_payload(3), toy_manifest(3)) == written[1]
    assert_serves(old, written[1])


def test_steps_are_taken_one_after_the_other_and_leave_what_was_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "FORMAT", 3)
    for number in range(3):
        monkeypatch.setitem(STEPS, number, lambda values: {**values, "seen": [*values["seen"], values["format"]]})
    read = {"format": 0, "seen": []}
    assert upgraded(read) == {"format": 3, "seen": [0, 1, 2]}
    assert upgraded({"format": 2, "seen": []}) == {"format": 3, "seen": [2]}
    assert read == {"format": 0, "seen": []}


def test_a_step_cannot_change_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, 0, lambda values: {"files": values["files"].append(1)})
    read: dict[str, Any] = {"format": 0, "files": []}
    upgraded(read)
    assert read["files"] == []


def test_a_newer_format_is_refused_with_the_remedy() -> None:
    with pytest.raises(FormatError, match=rf"expected format {FORMAT} or older, found 99; upgrade headrace"):
        upgraded({"format": 99})


@pytest.mark.parametrize("found", [0, -1])
def test_a_format_older_than_any_step_is_refused_with_the_remedy(found: int) -> None:
    with pytest.raises(FormatError, match=rf"found {found}; migrate with an older headrace first"):
        upgraded({"format": found})


@pytest.mark.parametrize("said", [None, "1", True, 1.0, [1]])
def test_a_manifest_that_does_not_say_its_format_is_refused_by_name(
    said: Any, written: list[Index], home: Path
) -> None:
    file = Path(written[0].location, "manifest.json")
    values = json.loads(file.read_text()) | {"format": said}
    if said is None:
        del values["format"]
    file.write_text(json.dumps(values))
    store = Store(str(home / "store"))
    for ask in (store.manifest, store.format_of, store.rewrite):
        with pytest.raises(IntegrityError, match=f"{written[0].version}/manifest.json: expected .* format, found"):
            ask("index", "toy-line", written[0].version)
    assert migrate().exit_code == 1


@pytest.mark.parametrize("damage", ["lose", "another type", "an empty list"])
def test_a_damaged_manifest_of_an_older_format_is_refused_by_name(
    damage: str, old: Store, written: list[Index]
) -> None:
    file = Path(written[0].location, "manifest.json")
    values = json.loads(file.read_text())
    if damage == "lose":
        del values["product"]
    else:
        values |= {"product": None} if damage == "another type" else {"files": []}
    file.write_text(json.dumps(values))
    with pytest.raises(IntegrityError, match=f"{written[0].version}/manifest.json: expected .* format 0, found"):
        old.manifest("index", "toy-line", written[0].version)
    assert old.versions("index", "toy-line")[0].digest == written[1].digest


# -------------------------------------------------------------------------------------------------------- rewriting


def test_without_write_nothing_is_changed_and_everything_is_named(old: Store, written: list[Index], home: Path) -> None:
    before = snapshot(home)
    done = migrate()
    assert done.exit_code == 0
    for ref in written:
        assert f"index/toy-line@{ref.version}: format 0 -> {FORMAT}" in done.output
    assert "2 versions, 2 to be rewritten; repeat with --write." in done.output
    assert snapshot(home) == before


def test_a_rewritten_manifest_is_the_one_that_would_have_been_written_today(
    written: list[Index], home: Path, step: None
) -> None:
    today = snapshot(home / "store")
    for ref in written:
        file = Path(ref.location, "manifest.json")
        file.write_text(json.dumps(to_0(json.loads(file.read_text()))))
    seal(home / "store", written[1])
    changed = {path for path, data in snapshot(home / "store").items() if today[path] != data}
    assert changed == {f"{PRODUCT}/{ref.version}/manifest.json" for ref in written} | {f"{PRODUCT}/CURRENT"}
    done = migrate("--write")
    assert done.exit_code == 0
    assert "2 versions, 2 rewritten." in done.output
    assert snapshot(home / "store") == today, "payload, digest, certificate, history and seal are what they were"
    assert_serves(Store(str(home / "store")), written[1])


def test_what_is_live_can_be_rolled_back_after_a_migration(old: Store, written: list[Index]) -> None:
    assert migrate("--write").exit_code == 0
    old.rollback("index", "toy-line")
    assert_serves(old, written[0])
    old.rollback("index", "toy-line", written[1].version)
    assert_serves(old, written[1])


def test_a_second_migration_has_nothing_to_do(old: Store, home: Path) -> None:
    migrate("--write")
    before = snapshot(home)
    for words in ([], ["--write"]):
        done = migrate(*words)
        assert done.exit_code == 0
        assert done.output == f"2 versions, nothing to rewrite in format {FORMAT}.\n"
    assert snapshot(home) == before


def test_an_installation_without_a_store_has_nothing_to_migrate(home: Path) -> None:
    assert migrate().output == f"0 versions, nothing to rewrite in format {FORMAT}.\n"
    assert not (home / "store").exists()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_migration_that_is_killed_at_any_write_serves_and_is_finished_by_the_next(
    write: int, after: bool, old: Store, written: list[Index], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions are four writes: of the live one CURRENT, the manifest and CURRENT again; of the other, one."""
    replace, count = Store._replace, 0

    def fatal(self: Store, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == write and not after:
            os._exit(9)
        replace(self, *arguments)
        if count == write:
            os._exit(9)

    child = os.fork()
    if not child:
        monkeypatch.setattr(Store, "_replace", fatal)
        migrate("--write")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, "there are fewer writes than that"

    store = Store(str(home / "store"))
    assert_serves(store, written[1])
    pointer = json.loads((home / "store" / PRODUCT / "CURRENT").read_text())
    formats = {store.format_of("index", "toy-line", ref.version) for ref in written}
    unfinished = formats != {FORMAT} or "also" in pointer
    assert ("nothing to rewrite" in migrate().output) != unfinished
    done = migrate("--write")
    assert done.exit_code == 0, done.output
    assert_serves(store, written[1])
    assert {store.format_of("index", "toy-line", ref.version) for ref in written} == {FORMAT}
    assert "also" not in json.loads((home / "store" / PRODUCT / "CURRENT").read_text())
    assert "nothing to rewrite" in migrate().output
    assert store.leftovers() == []


def test_a_pointer_that_a_killed_migration_left_is_named_and_finished(
    old: Store, written: list[Index], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, count = Store._replace, 0

    def fatal(self: Store, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        replace(self, *arguments)

    old.rewrite("index", "toy-line", written[0].version)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "_replace", fatal)
        old.rewrite("index", "toy-line", written[1].version)
    assert_serves(old, written[1])
    done = migrate()
    assert f"index/toy-line@{written[1].version}: CURRENT still names both formats" in done.output
    assert "2 versions, 1 to be rewritten" in done.output
    assert "2 versions, 1 rewritten." in migrate("--write").output
    assert_serves(old, written[1])
    assert "also" not in json.loads((home / "store" / PRODUCT / "CURRENT").read_text())


def test_a_newer_manifest_is_left_alone_and_all_others_are_rewritten(
    old: Store, written: list[Index], home: Path
) -> None:
    file = Path(written[0].location, "manifest.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    newer = file.read_bytes()
    done = migrate("--write")
    assert done.exit_code == 1
    assert f"{written[0].version}/manifest.json: expected format {FORMAT} or older, found 99; upgrade headrace" in flat(
        done
    )
    assert "1 failed" in done.output
    assert file.read_bytes() == newer
    assert old.format_of("index", "toy-line", written[1].version) == FORMAT
    assert_serves(old, written[1])


def flat(done: Result) -> str:
    return re.sub(r"\s+", " ", done.output)


def test_a_step_that_changes_what_is_said_is_refused(
    old: Store, written: list[Index], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(values: dict[str, Any]) -> dict[str, Any]:
        return from_0(values) | {"configuration": {"k": 4}}

    monkeypatch.setitem(STEPS, 0, careless)
    before = snapshot(home)
    done = migrate("--write")
    assert done.exit_code == 1
    assert f"expected the manifest of {PRODUCT}/{written[1].version}, found" in flat(done)
    assert snapshot(home) == before


def test_a_manifest_that_is_not_the_published_one_is_not_sealed_anew(
    old: Store, written: list[Index], home: Path
) -> None:
    file = Path(written[1].location, "manifest.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"certificate": {"claims": ["forged"]}}))
    before = snapshot(home)
    done = migrate("--write")
    assert done.exit_code == 1
    assert f"{written[1].version}/manifest.json: expected SHA-256" in flat(done)
    after = snapshot(home)
    other = f"store/{PRODUCT}/{written[0].version}/manifest.json"
    assert {path for path in before if before[path] != after[path]} == {other}
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        old.live(Index, "toy-line")


def test_a_disk_that_takes_no_more_leaves_what_is_live_and_is_named(
    old: Store, written: list[Index], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(home)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stores, "write_durably", full)
        done = migrate("--write")
    assert done.exit_code == 1
    assert f"cannot write {PRODUCT}" in flat(done)
    assert "No space left on device" in flat(done)
    assert snapshot(home) == before
    assert migrate("--write").exit_code == 0
    assert_serves(old, written[1])


def test_a_folder_without_a_manifest_is_no_version_and_a_live_one_is_damage(
    old: Store, written: list[Index], home: Path
) -> None:
    """The first is what a killed write leaves on an object store."""
    Path(written[0].location, "manifest.json").unlink()
    done = migrate("--write")
    assert done.exit_code == 0
    assert "1 versions, 1 rewritten." in done.output
    Path(written[1].location, "manifest.json").unlink()
    done = migrate("--write")
    assert done.exit_code == 1
    assert f"{written[1].version}/manifest.json: expected a file, found none" in flat(done)


if __name__ == "__main__":
    write_toys(sys.argv[1])
