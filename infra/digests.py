"""Checksums of large files, computed once for every content that a file has had.

A file is known again by device, inode, size and both its times; a change to its content changes the times. One that
was written so recently that the clock may not show a further write is read anew. What is remembered here decides what
is skipped, never what is served: publishing and the doctor read every byte.
"""

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.settings import settings

SETTLED_S = 2.0
"""A file younger than this may be written to again without its times changing."""


def sha256_of(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of files, hexadecimal, in their order.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    stats = [path.stat() for path in paths]
    known = _recall(stats)
    unknown = [number for number, stat in enumerate(stats) if _place(stat) not in known]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = dict(zip(unknown, pool.map(_read, [paths[number] for number in unknown]), strict=True))
    now = time.time()
    settled = {number for number in found if now - max(stats[number].st_mtime, stats[number].st_ctime) > SETTLED_S}
    _keep([(stats[number], digest) for number, digest in found.items() if number in settled])
    return [found[number] if number in found else known[_place(stat)] for number, stat in enumerate(stats)]


def remember(digests: Iterable[tuple[Path, str]]) -> None:
    """Note checksums that are known otherwise: of files linked from a checked place, which never change."""
    _keep([(path.stat(), digest) for path, digest in digests])


def _read(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _place(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _mark(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _recall(stats: Sequence[os.stat_result]) -> dict[tuple[int, int], str]:
    """What is remembered of files that did not change since, by device and inode."""
    marks = {_place(stat): _mark(stat) for stat in stats}
    found: dict[tuple[int, int], str] = {}
    with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(_notes()) as notes:
        for place, mark in marks.items():
            row = notes.execute("SELECT mark, sha256 FROM files WHERE device = ? AND inode = ?", place).fetchone()
            if row and row[0] == mark:
                found[place] = row[1]
    return found


def _keep(known: Sequence[tuple[os.stat_result, str]]) -> None:
    """Remember; notes that cannot be written cost time alone."""
    rows = [(*_place(stat), _mark(stat), digest) for stat, digest in known]
    if rows:
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(_notes()) as notes, notes:
            notes.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)


def _notes() -> sqlite3.Connection:
    path = settings().scratch / "digests.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = sqlite3.connect(path, timeout=20)
    notes.execute("PRAGMA journal_mode = WAL")
    notes.execute("PRAGMA synchronous = OFF")
    notes.execute(
        "CREATE TABLE IF NOT EXISTS files (device INTEGER, inode INTEGER, mark TEXT, sha256 TEXT, "
        "PRIMARY KEY (device, inode))"
    )
    return notes
