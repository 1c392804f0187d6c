"""Checksums that are taken once for every content."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from infra import digests
from infra.digests import remember, sha256_of


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read from now on."""
    seen: list[Path] = []
    original = digests._read

    def noted(path: Path) -> str:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(digests, "_read", noted)
    return seen


def settled(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def test_a_file_that_settled_is_read_once(home: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)
    file = settled(home / "a", "one")
    assert sha256_of([file, file])[0] == hashlib.sha256(b"one").hexdigest()
    before = len(read)
    assert sha256_of([file]) == [hashlib.sha256(b"one").hexdigest()]
    assert len(read) == before


def test_a_file_that_was_just_written_is_read_every_time(home: Path, read: list[Path]) -> None:
    (home / "a").write_text("one")
    sha256_of([home / "a"])
    sha256_of([home / "a"])
    assert len(read) == 2


@pytest.mark.parametrize("kept", ["times", "nothing"])
def test_a_changed_content_of_the_same_length_is_seen_though_its_time_was_set_back(
    home: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)
    file = settled(home / "a", "one")
    sha256_of([file])
    stat = file.stat()
    file.write_text("two")
    if kept == "times":
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sha256_of([file]) == [hashlib.sha256(b"two").hexdigest()]


def test_what_is_remembered_is_known_without_reading(home: Path, read: list[Path]) -> None:
    (home / "a").write_text("one")
    remember([(home / "a", "f" * 64)])
    assert sha256_of([home / "a"]) == ["f" * 64]
    assert read == []


def test_notes_that_cannot_be_written_cost_time_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "scratch").mkdir()
    (home / "scratch" / "digests.db").write_bytes(
        b"no database at all, and longer than a header of sqlite has to be" * 9
    )
    file = settled(home / "a", "one")
    assert sha256_of([file]) == [hashlib.sha256(b"one").hexdigest()]


def test_a_file_that_is_missing_is_an_error(home: Path) -> None:
    with pytest.raises(OSError, match="none"):
        sha256_of([home / "none"])
