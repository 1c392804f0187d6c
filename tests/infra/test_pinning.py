"""Pins: the three commands, what they keep from retention, and what is said when they are typed wrongly."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import infra.store
from infra import outbox, retention
from infra.manifest import Manifest
from infra.pinning import parsed
from infra.refs import Dataset, Index, Ref
from infra.settings import settings
from infra.store import Note, Store, StoreError, open_store


def made(kind: type[Ref], number: int, *inputs: Ref) -> Ref:
    """A version that is a year old."""
    manifest = Manifest(
        kind=kind.kind,
        name="toy",
        configuration={"number": number},
        configuration_class="models.toy.Config",
        inputs={ref.kind: {"name": ref.name, "version": ref.version, "digest": ref.digest} for ref in inputs},
        files=(),
        code="c",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infra.store, "_now", lambda: (datetime.now(UTC) - timedelta(days=365)).isoformat())
        return open_store().write(kind, {"x": {"number": number}}, manifest)


@pytest.fixture
def index(home: Path) -> Ref:
    return made(Index, 2, made(Dataset, 1))


def said(*words: str) -> tuple[int, str]:
    """Exit code and output of a command, its line breaks taken for blanks."""
    from infra.cli import app

    done = CliRunner().invoke(app, list(words))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.output.split())


def address(ref: Ref) -> str:
    return f"{ref.kind}/{ref.name}@{ref.version}"


def swept() -> list[str]:
    """What retention removes with its strictest rules."""
    store, day = open_store(), timedelta(days=1)
    rules = retention.Rules(published=1, candidates=day, grace=day)
    items = retention.old_versions(store, retention.what_stays(store, rules, datetime.now(UTC)))
    return [item.name for item in retention.remove_versions(store, items)[0]]


def test_a_pinned_version_and_what_it_is_made_from_stay_until_it_is_unpinned(
    index: Ref, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "answers", lambda: False)
    code, words = said("pin", address(index), "--why", "figure 3 of the paper")
    assert (code, words) == (0, f"pinned {address(index)}; it and what it is made from stay.")
    assert swept() == []
    assert said("unpin", address(index)) == (0, f"unpinned {address(index)}.")
    assert len(swept()) == 2
    assert said("pins") == (0, "nothing is pinned.")


def test_pins_are_shown_with_time_and_reason_whatever_stands_in_it(index: Ref) -> None:
    other = made(Index, 3)
    said("pin", address(index), "--why", "first [/] [red]and[/red] last")
    said("pin", address(other), "--why", "second")
    code, words = said("pins")
    assert code == 0
    assert "first [/] [red]and[/red] last" in words
    assert address(index) in words
    assert address(other) in words
    assert datetime.now(UTC).strftime("%Y-%m-%dT") in words


def test_pinning_again_keeps_one_pin_with_the_last_reason(index: Ref) -> None:
    said("pin", address(index), "--why", "once")
    said("pin", address(index), "--why", "twice")
    assert [note.why for note in open_store().pins("index", "toy").values()] == ["twice"]


@pytest.mark.parametrize("command", ["pin", "unpin"])
@pytest.mark.parametrize(
    "product",
    [
        "toy",
        "index/toy",
        "index/toy@latest",
        "index/toy@0123456789AB",
        "index/../toy@0123456789ab",
        "index/toy@0123456789ab\n",
    ],
)
def test_what_is_no_version_is_refused_with_an_example(home: Path, command: str, product: str) -> None:
    with pytest.raises(StoreError, match="a version is written KIND/NAME@VERSION, as index/retrieval-movielens@"):
        parsed(product)
    code, words = said(command, product, *(["--why", "w"] if command == "pin" else []))
    assert code == 1
    assert words.startswith("failed: a version is written KIND/NAME@VERSION")
    assert not (Path(settings().store_location) / "index").exists()


def test_a_pin_wants_a_reason(index: Ref) -> None:
    assert said("pin", address(index))[0] == 2
    assert said("pin", address(index), "--why", "  ") == (
        1,
        "failed: --why is empty; say for whom or until when the version is kept.",
    )
    assert open_store().pins("index", "toy") == {}


def test_a_version_that_is_not_there_cannot_be_pinned_nor_unpinned(index: Ref) -> None:
    missing = "index/toy@0123456789ab"
    code, words = said("pin", missing, "--why", "w")
    assert (code, "expected a file, found none" in words) == (1, True)
    code, words = said("unpin", missing)
    assert (code, words) == (1, f"failed: {missing} is not pinned; pinned are none.")
    assert open_store().pins("index", "toy") == {}


def test_a_version_whose_files_are_lost_can_still_be_unpinned(index: Ref) -> None:
    said("pin", address(index), "--why", "w")
    (Path(open_store().root) / "index" / "toy" / index.version / "manifest.json").unlink()
    assert said("unpin", address(index))[0] == 0


def test_pins_that_cannot_be_read_are_named_and_not_overwritten(index: Ref) -> None:
    file = Path(open_store().root) / "index" / "toy" / "PINS"
    file.write_text("{")
    for words in (("pins",), ("pin", address(index), "--why", "w"), ("unpin", address(index))):
        code, answer = said(*words)
        assert (code, "index/toy/PINS: expected versions with why and when" in answer) == (1, True), words
    assert file.read_text() == "{"


def test_showing_pins_makes_no_store(home: Path) -> None:
    assert said("pins") == (0, "nothing is pinned.")
    assert not Path(settings().store_location).exists()


def test_pins_lie_in_the_store_as_plain_json(index: Ref) -> None:
    said("pin", address(index), "--why", "for whoever restores it")
    store = Store(settings().store_location, touch=False)
    written: dict[str, Any] = json.loads(store.small_files("index", "toy")["PINS"])
    assert written[index.version]["why"] == "for whoever restores it"


def test_no_pin_is_forgotten_for_there_being_many(index: Ref) -> None:
    store = open_store()
    many = {f"{number:012x}": Note(why="w", when="2026-11-25T00:00:00+00:00") for number in range(1200)}
    store._write_notes("index/toy/PINS", many, None)
    said("pin", address(index), "--why", "one more")
    assert len(store.pins("index", "toy")) == 1201
