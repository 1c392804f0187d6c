"""Backup and restore: the store, both databases, MLflow's files and what waits for MLflow, while everything runs.

    headrace backup TARGET            add a backup to the folder TARGET
    headrace restore SOURCE           the newest finished backup, into an empty HEADRACE_HOME

    TARGET/2026-11-24T021705.123Z.json    one backup: every file with length and checksum; written last
    TARGET/files/ab/abcdef...             contents, each under its SHA-256, shared by all backups

A content is written beside, flushed, read back and moved into place; the list of a backup is written when all its
contents are there. So an interrupted backup leaves no list, and the next one goes on where it ended. CURRENT is read
when the version that it names was copied, so that a product that is published meanwhile is of one moment. A restore
writes and checks everything beside, and then moves it into place; one that was killed is finished by the next.

    BackupError               the target cannot be used; there is no finished backup; one is damaged, or newer than
     |                        this headrace; the home is not empty
     +-- UnreadableError      what is to be backed up cannot be read; it is left out, and the backup says so
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO

import fsspec
import typer
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from infra import access, manifest, stack, terminal
from infra.manifest import FileEntry, Manifest, digest_of
from infra.settings import Settings, settings
from infra.store import Current, IntegrityError, Store, StoreError, write_durably
from infra.terminal import failed, say
from infra.trees import sync

FORMAT = 1
"""Version of the layout of a backup; a newer one is refused."""

PARTS = ("prefect", "mlflow", "outbox", "store")
"""What a backup consists of, each a folder of HOME. The store is restored last, because it says what is live."""

ORDER = ("report", "", "writes", "model", "dataset", "calendar", "day")
"""Kinds in the order in which they are copied, "" for all others: each before those that it is made from. What is
copied later is newer, so whatever a copied version needs is copied too."""

DATABASES = {
    "mlflow/mlflow.db": ("mlflow", "store/db_migrations/versions"),
    "prefect/prefect.db": ("prefect", "server/database/_migrations/versions/sqlite"),
}
"""Databases whose schema the package that reads them must know, and where it says so."""

Say = Callable[[str], None]
_BLOCK = 1 << 20
_ATTEMPTS = 5
_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d{6}\.\d{3}Z")
_TIME = "%Y-%m-%dT%H%M%S.%f"
_STAGING = ".restoring"
_READY = "ready"
_UPLOADED = "uploaded"


class BackupError(Exception):
    """A backup that cannot be made or must not be used; the message names what is wrong and what to do."""


class UnreadableError(BackupError):
    """Something that is to be backed up cannot be read."""


class Entry(BaseModel):
    """A file of a backup.

    Attributes:
        path: where it belongs, below HOME.
        length: bytes.
        sha256: its content, and the name of the file that holds it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    length: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Record(BaseModel):
    """One finished backup.

    Attributes:
        format: version of this layout.
        manifest_format: newest format of a manifest in it.
        made: when it was finished, UTC.
        made_with: versions of headrace and of what wrote the databases.
        settings: what differed from the defaults; no secrets.
        live: the live version of each product, by KIND/NAME.
        files: every file.
        left_out: what is damaged or cannot be read, as sentences.
        elsewhere: what is no part of it, as sentences that say how to keep it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    manifest_format: int
    made: str
    made_with: dict[str, str]
    settings: dict[str, str]
    live: dict[str, str]
    files: tuple[Entry, ...]
    left_out: tuple[str, ...]
    elsewhere: tuple[str, ...]

    @property
    def length(self) -> int:
        """Bytes of all files."""
        return sum(entry.length for entry in self.files)


class Contents:
    """The folder `files` of a target: contents by checksum, each there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.added = 0

    def path(self, sha256: str) -> Path:
        """Where a content is, or would be."""
        return self.folder / sha256[:2] / sha256

    def has(self, entry: FileEntry | Entry) -> bool:
        """Whether a content is there in its length; its bytes were compared when it was written."""
        with contextlib.suppress(OSError):
            return self.path(entry.sha256).stat().st_size == entry.length
        return False

    def add(self, stream: BinaryIO, expected: FileEntry | None = None) -> tuple[str, int]:
        """Copy a content, flushed and read back; returns its checksum and length.

        Raises:
            IntegrityError: it is not what was expected.
            UnreadableError: it cannot be read to its end.
        """
        self.folder.mkdir(exist_ok=True, mode=0o700)
        partial = self.folder / f".partial-{os.getpid()}"
        try:
            sha256, length = _copied(stream, partial)
            if expected and (sha256, length) != (expected.sha256, expected.length):
                raise IntegrityError(
                    f"{expected.path}: expected {expected.length} bytes with SHA-256 {expected.sha256}, "
                    f"found {length} with {sha256}."
                )
            final = self.path(sha256)
            if not final.parent.is_dir():
                final.parent.mkdir()
                sync(self.folder)
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)  # nothing half-written stays on a disk that is full
        sync(final.parent)
        self.added += length
        return sha256, length

    def sweep(self, wanted: set[str] | None = None) -> None:
        """Remove what killed backups left half-written and, if told, contents that no backup wants."""
        for file in self.folder.glob("*/*" if wanted is not None else ".partial-*"):
            if wanted is None or file.name not in wanted:
                shutil.rmtree(file) if file.is_dir() else file.unlink()


# ------------------------------------------------------------------------------------------------------------ backup


def back_up(target: Path, *, keep: int = 0, say: Say = print) -> Record:
    """Back up everything of this installation while it runs.

    Args:
        target: a folder outside HOME and outside the store; made if it is not there.
        keep: finished backups to keep, this one included; older ones are removed, unless this one had to leave
            something out that they may have. 0 keeps all.
        say: told in a sentence what is being copied.

    Returns:
        What was backed up.

    Raises:
        BackupError: the target cannot be used or written.
    """
    target = target.expanduser().resolve()
    home = settings().home.resolve()
    for place in (home, *_local(settings().store_location), *_local(settings().mlflow_artifacts)):
        if target == place or place in target.parents:
            raise BackupError(f"{target} lies inside {place}, which is backed up; take a folder on another disk.")
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)  # databases have names of people in them
        with _alone(target):
            return _back_up(target, keep, say)
    except OSError as error:
        raise BackupError(
            f"cannot back up to {target}: {error}{_room(target)}. Earlier backups are as they were; "
            "mend it and run again, what was copied is not copied twice."
        ) from error


def _back_up(target: Path, keep: int, say: Say) -> Record:
    name, contents = _free_name(target), Contents(target / "files")
    contents.sweep()
    (target / f"{name}.unfinished").touch()
    home, now = settings().home.resolve(), settings()
    left_out: list[str] = []
    # The store first: what its versions say of runs is in the databases by then. The outbox before MLflow's database:
    # what is delivered in between is in both, and may be delivered twice. The files of runs after their database.
    say(f"store {now.store_location}")
    copy = StoreCopy(Store(now.store_location, touch=False), contents)
    copy.all()
    files = {f"store/{path}": entry for path, entry in copy.files.items()}
    files |= _folder("outbox", home / "outbox", contents, left_out, say, hidden=False)
    for part, database in (
        ("MLflow", "mlflow/mlflow.db"),
        ("MLflow", "mlflow/users.db"),
        ("Prefect", "prefect/prefect.db"),
    ):
        if (home / database).is_file() and not _postgres(part):
            say(f"{part} database {home / database}")
            try:
                files[database] = _database(home / database, contents)
            except UnreadableError as error:
                left_out.append(f"{database}: {error}")
    if artifacts := _artifacts(home):
        files |= _folder("mlflow/artifacts", artifacts, contents, left_out, say, hidden=True)
    record = Record(
        manifest_format=manifest.FORMAT,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        made_with={package: importlib.metadata.version(package) for package in ("headrace", "mlflow", "prefect")},
        settings=_plain_settings(now),
        live=copy.live,
        files=tuple(entry.model_copy(update={"path": path}) for path, entry in sorted(files.items())),
        left_out=(*copy.left_out, *left_out),
        elsewhere=tuple(_elsewhere(target)),
    )
    _write_record(target / f"{name}.json", record)
    for marker in (*target.glob("*.unfinished"), *target.glob("*.partial")):
        if _NAME.fullmatch(marker.stem):
            marker.unlink()
    if keep and record.left_out:
        say("older backups stay: they may have what is damaged now.")
    elif keep:
        _forget(target, contents, keep)
    say(f"{contents.added:,} bytes were new in {target}")
    return record


class StoreCopy:
    """Copies a store while others publish and remove: what comes of it is as if nobody had.

    Payloads never change and come first. Then CURRENT is read, and only then the manifests of what it names: a
    manifest changes when its version is published, which is before CURRENT names it.
    """

    def __init__(self, store: Store, contents: Contents) -> None:
        self.store = store
        self.contents = contents
        self.files: dict[str, Entry] = {}
        self.live: dict[str, str] = {}
        self.left_out: list[str] = []
        self._manifests: dict[str, Manifest] = {}
        self._fs, self._path = fsspec.core.url_to_fs(store.root, use_listings_cache=False)

    def all(self) -> None:
        """Copy every product, and every other file but what begins with a dot: staging, locks, cached results."""
        for kind in sorted(self.store.kinds(), key=lambda kind: ORDER.index(kind if kind in ORDER else "")):
            for name in self.store.products(kind):
                self.product(kind, name)
            self._beside(kind)
        self._beside("")

    def product(self, kind: str, name: str) -> None:
        """Copy the versions of a product, then its manifests, then which one is live.

        That is done while others publish, once more when one came between; the last time they wait.
        """
        folder = f"{kind}/{name}"
        for attempt in range(_ATTEMPTS):
            with self.store.quiet(kind, name) if attempt == _ATTEMPTS - 1 else contextlib.nullcontext():
                pointer, current, damaged = self._versions(kind, name)
            sealed = current and self.files.get(f"{folder}/{current.version}/manifest.json")
            if current is None or current.version in damaged or (sealed and sealed.sha256 in current.seals):
                break
            torn = current.version
            time.sleep(0.2)
        else:
            damaged[torn] = f"{folder}/{torn}/manifest.json: it is not the one that was published."
        self._beside(folder)
        if pointer is not None:
            self._keep(f"{folder}/CURRENT", pointer)
        if current is not None:
            self.live[folder] = current.version
        self.left_out += damaged.values()

    def _versions(self, kind: str, name: str) -> tuple[bytes | None, Current | None, dict[str, str]]:
        """Copy the versions of a product; returns CURRENT as it is and as it reads, and what is damaged, by version."""
        folder = f"{kind}/{name}"
        damaged: dict[str, str] = {}
        for version in self.store.known(kind, name):
            damaged |= self._payload(kind, name, version)
        pointer = self._bytes(f"{folder}/CURRENT")
        current = None
        if pointer is not None:
            try:
                current = Current.model_validate_json(pointer)
            except ValidationError:
                damaged["CURRENT"] = f"{folder}/CURRENT: expected a pointer as JSON, found something else."
        for version in (current.version, *current.history) if current else ():
            if f"{folder}/{version}" not in self._manifests and version not in damaged:
                damaged |= self._payload(kind, name, version)
        for target in [target for target in self._manifests if target.startswith(f"{folder}/")]:
            self._manifest(target)
        return pointer, current, damaged

    def _payload(self, kind: str, name: str, version: str) -> dict[str, str]:
        """Copy the files of a version; what is wrong with it, by version. One that is gone by now is left alone."""
        target = f"{kind}/{name}/{version}"
        try:
            with _reading(f"{target}/manifest.json"):
                found = self.store.manifest(kind, name, version)
            for entry in found.files:
                path = f"{target}/{entry.path}"
                if not self.contents.has(entry):
                    try:
                        with _reading(path):
                            stream = self._fs.open(f"{self._path}/{path}", "rb")
                    except FileNotFoundError as error:
                        raise IntegrityError(f"{path}: expected a file, found none.") from error
                    with stream:
                        self.contents.add(stream, entry)
                self.files[path] = Entry(path=path, length=entry.length, sha256=entry.sha256)
            self._manifests[target] = found
        except (IntegrityError, UnreadableError) as error:
            self._drop(target)
            if self._fs.exists(f"{self._path}/{target}/manifest.json"):
                return {version: f"{target}: {error}"}
        return {}

    def _manifest(self, target: str) -> None:
        """Copy the manifest of a version as it is now, and whatever else lies beside it."""
        data = self._bytes(f"{target}/manifest.json")
        if data is None:  # removed meanwhile
            self._drop(target)
            return
        self._keep(f"{target}/manifest.json", data)
        self._beside(target)

    def _beside(self, folder: str) -> None:
        """Copy the files of a folder that belong to no manifest: pins, notes on what was removed."""
        full = f"{self._path}/{folder}" if folder else self._path
        if not self._fs.isdir(full):
            return
        for item in self._fs.ls(full, detail=True):
            name = PurePosixPath(str(item["name"])).name
            path = f"{folder}/{name}" if folder else name
            if item["type"] == "file" and not name.startswith(".") and name != "CURRENT" and path not in self.files:
                data = self._bytes(path)
                if data is not None:
                    self._keep(path, data)

    def _drop(self, target: str) -> None:
        self._manifests.pop(target, None)
        self.files = {path: entry for path, entry in self.files.items() if not path.startswith(f"{target}/")}

    def _bytes(self, path: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return bytes(self._fs.cat_file(f"{self._path}/{path}"))
        return None

    def _keep(self, path: str, data: bytes) -> None:
        entry = Entry(path=path, length=len(data), sha256=hashlib.sha256(data).hexdigest())
        if not self.contents.has(entry):
            with tempfile.TemporaryFile() as stream:
                stream.write(data)
                stream.seek(0)
                self.contents.add(stream)
        self.files[path] = entry


def _database(source: Path, contents: Contents) -> Entry:
    """A database as it is at one moment, however many write to it: SQLite's own online backup."""
    contents.folder.mkdir(exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=contents.folder, prefix=".partial-") as folder:
        file = Path(folder) / "copy.db"
        try:
            with (
                contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True, timeout=60)) as origin,
                contextlib.closing(sqlite3.connect(file)) as copy,
            ):
                origin.execute("BEGIN")
                origin.execute("SELECT count(*) FROM sqlite_master")  # waits its turn; from here on nothing changes
                origin.backup(copy, sleep=0.01)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
                (found,) = copy.execute("PRAGMA integrity_check").fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise OSError(errno.EIO, f"copying {source.name}: {error}", str(contents.folder)) from error
            raise UnreadableError(f"expected a database, found {error}; go back to an earlier backup.") from error
        if found != "ok":
            raise UnreadableError(f"expected a whole database, found {found}; go back to an earlier backup.")
        with file.open("rb") as stream:
            sha256, length = contents.add(stream)
    return Entry(path=source.name, length=length, sha256=sha256)


def _folder(
    part: str, folder: Path, contents: Contents, left_out: list[str], say: Say, *, hidden: bool
) -> dict[str, Entry]:
    """Copy every file below a folder, by its path under a part; no link is followed.

    Args:
        part: where they belong, below HOME.
        folder: where they are.
        contents: where they go.
        left_out: told what could not be copied.
        say: told in a sentence what is being copied.
        hidden: whether what begins with a dot counts.
    """
    found: dict[str, Entry] = {}
    if folder.is_dir():
        say(f"files {folder}")
    for parent, folders, names in os.walk(folder, onerror=_raise_unless_gone):
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        for name in (*folders, *sorted(names)):
            file = Path(parent) / name
            path = f"{part}/{file.relative_to(folder).as_posix()}"
            if file.is_symlink():
                left_out.append(f"{path}: expected a file, found a link to {file.readlink()}; put the file there.")
            elif file.is_file() and (hidden or not name.startswith(".")):
                try:
                    path.encode()
                    if entry := _file(file, contents):
                        found[path] = entry
                except (UnreadableError, UnicodeEncodeError) as error:
                    left_out.append(f"{path!a}: {error}")
    return found


def _file(file: Path, contents: Contents) -> Entry | None:
    """Copy a file, once more when it changed meanwhile; None when it is gone: delivered or deleted."""
    entry = None
    for _ in range(_ATTEMPTS):
        try:
            with _reading(file.name):
                stream = file.open("rb")
        except FileNotFoundError:
            return None
        with stream:
            before = os.fstat(stream.fileno())
            sha256, length = _digest(stream)
            entry = Entry(path=file.name, length=length, sha256=sha256)
            if not contents.has(entry):
                stream.seek(0)
                sha256, length = contents.add(stream)
                entry = Entry(path=file.name, length=length, sha256=sha256)
            after = os.fstat(stream.fileno())
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            break
    return entry


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _forget(target: Path, contents: Contents, keep: int) -> None:
    """Remove all but the newest backups, then the contents that none of those left has.

    Raises:
        BackupError: one that is to be kept cannot be read, so that nobody knows what it needs; nothing is removed.
    """
    names = finished(target)
    try:
        wanted = {entry.sha256 for name in names[-keep:] for entry in read(target, name).files}
    except BackupError as error:
        raise BackupError(
            f"the backup {names[-1]} is finished, and no older one was removed, because nobody knows what this one "
            f"needs: {error}"
        ) from error
    for name in names[:-keep]:
        (target / f"{name}.json").unlink()
    sync(target)
    contents.sweep(wanted)


# ----------------------------------------------------------------------------------------------------------- restore


def finished(source: Path) -> list[str]:
    """Names of the finished backups of a folder, oldest first."""
    return sorted(file.stem for file in source.glob("*.json") if _NAME.fullmatch(file.stem))


def read(source: Path, name: str) -> Record:
    """The record of a backup.

    Raises:
        BackupError: it is damaged, or newer than this headrace.
    """
    file = source / f"{name}.json"
    try:
        written = json.loads(file.read_bytes())
        content, expected = written["content"], written["sha256"]
        found = digest_of(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(
            f"{file}: expected a backup's record as JSON, found {type(error).__name__}: {error}; take another backup "
            "with --name, or remove this record."
        ) from error
    if found != expected:
        raise BackupError(
            f"{file}: expected SHA-256 {expected}, found {found}; it was changed. Take another backup with --name."
        )
    formats = [content.get(key, 0) if isinstance(content, dict) else 0 for key in ("format", "manifest_format")]
    for one, newest in zip(formats, (FORMAT, manifest.FORMAT), strict=True):
        if isinstance(one, int) and one > newest:
            raise BackupError(
                f"{file}: expected a backup of format {FORMAT} with manifests of format {manifest.FORMAT}, or older, "
                f"found {formats[0]} with {formats[1]}, made with {content.get('made_with')}; upgrade headrace, then "
                "restore."
            )
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        raise BackupError(f"{file}: expected a backup's record, found {error.errors()[0]['msg']}.") from error
    for entry in record.files:
        parts = PurePosixPath(entry.path).parts
        if len(parts) < 2 or entry.path != "/".join(parts) or parts[0] not in PARTS or ".." in parts:
            raise BackupError(
                f"{file}: expected paths below {', '.join(PARTS)}, found {entry.path!r}; it may be forged."
            )
    return record


def choose(source: Path, name: str = "") -> str:
    """The backup that is meant: the newest finished one without a name.

    Raises:
        BackupError: there is no such backup, or none that was finished.
    """
    known = finished(source)
    if name in known or (known and not name):
        return name or known[-1]
    if name:
        raise BackupError(f"{source} has no finished backup {name!r}; it has {', '.join(known) or 'none'}.")
    begun = sorted(file.stem for file in source.glob("*.unfinished"))
    if begun:
        raise BackupError(
            f"{source} has no finished backup; one was begun {begun[-1]} and interrupted. "
            f"Run headrace backup {source} again: what was copied is not copied twice."
        )
    raise BackupError(f"{source} has no backup; give the folder that headrace backup was given.")


def check(source: Path, record: Record) -> None:
    """Read every byte of a backup.

    Raises:
        BackupError: something is missing or damaged; the message names every such file.
    """
    contents, wrong = Contents(source / "files"), []
    known: dict[str, str] = {}
    for entry in record.files:
        if entry.sha256 not in known:
            known[entry.sha256] = _wrong_with(contents.path(entry.sha256), entry)
        if known[entry.sha256]:
            wrong.append(f"{entry.path} in {contents.path(entry.sha256)}: {known[entry.sha256]}")
    if wrong:
        more = f"\nand {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise BackupError(
            "the backup is damaged and nothing was restored:\n"
            + "\n".join(wrong[:20])
            + more
            + "\nRemove the named files and back up again while the originals last, or take an older one with --name."
        )


def checked(source: Path, name: str = "") -> Record:
    """Read every byte of a backup and restore nothing.

    Args:
        source: the folder that was given to `back_up`.
        name: which backup; empty means the newest one.

    Raises:
        BackupError: it is damaged, unfinished or newer.
    """
    source = source.expanduser().resolve()
    try:
        with _alone(source, shared=True):
            record = read(source, choose(source, name))
            check(source, record)
            return record
    except OSError as error:
        raise BackupError(f"cannot read {source}: {error}.") from error


def restore(source: Path, *, into: Path | None = None, name: str = "", say: Say = print) -> Record:
    """Restore a backup into an empty HOME, every byte of it checked before and after.

    Args:
        source: the folder that was given to `back_up`.
        into: an empty or new folder; None means HOME, and the store where the settings have it.
        name: which backup; empty means the newest one.
        say: told in a sentence what is done.

    Returns:
        What was restored.

    Raises:
        BackupError: the backup is damaged, unfinished or newer, or the place is not empty.
    """
    source = source.expanduser().resolve()
    home = (into or settings().home).expanduser().resolve()
    place = str(home / "store") if into else settings().store_location
    try:
        with _alone(source, shared=True):
            return _restore(source, read(source, choose(source, name)), home, place, say)
    except OSError as error:
        raise BackupError(
            f"cannot restore {source} to {home}: {error}{_room(home)}. Mend it and run again, it goes on."
        ) from error


def _restore(source: Path, record: Record, home: Path, place: str, say: Say) -> Record:
    elsewhere = place != str(home / "store")
    staging, mark = home / _STAGING, digest_of(record.model_dump(mode="json"))
    ready = (staging / _READY).is_file() and (staging / _READY).read_text() == mark
    _refuse_unless_empty(home, place if elsewhere else "", staging if ready else None, mark)
    if not ready:
        say(f"reading {len(record.files):,} files, {record.length:,} bytes, of {record.made}")
        check(source, record)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(staging, ignore_errors=True)
        if (free := shutil.disk_usage(home).free) < record.length:
            raise BackupError(
                f"{home} has {free:,} bytes left and {record.length:,} are needed; make room, or use --into."
            )
        say(f"writing {home}")
        try:
            _stage(source, record, staging, mark)
        except (BackupError, OSError):
            shutil.rmtree(staging, ignore_errors=True)
            raise
    # from here on nothing is written anew: a restore that is killed is finished by the next one
    if elsewhere and (staging / "store").is_dir():
        say(f"writing {place}")
        _upload(staging / "store", place, record, mark)
        (staging / "store").rename(staging / _UPLOADED)
    if elsewhere:
        fs, root = fsspec.core.url_to_fs(place, use_listings_cache=False)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(f"{root}/{_STAGING}")
    for part in PARTS:
        if (staging / part).is_dir():
            (staging / part).rename(home / part)
    sync(home)
    shutil.rmtree(staging)
    _certify(Store(place, touch=False), record)
    return record


def _stage(source: Path, record: Record, staging: Path, mark: str) -> None:
    """Write everything beside its place, and when it is on the disk, that it is."""
    contents = Contents(source / "files")
    staging.mkdir(mode=0o700)
    for part in {PurePosixPath(entry.path).parts[0] for entry in record.files} | {"store"}:
        (staging / part).mkdir(mode=0o755 if part == "store" else 0o700)  # databases have names of people in them
    for entry in record.files:
        file = staging / entry.path
        file.parent.mkdir(parents=True, exist_ok=True)
        with contents.path(entry.sha256).open("rb") as stream:
            if _copied(stream, file) != (entry.sha256, entry.length):
                raise BackupError(f"{entry.path}: the backup changed while it was read; run again.")
        if file.suffix == ".db":
            file.chmod(0o600)
    _refuse_unknown_schema(staging, record)
    for folder, _, _ in os.walk(staging):
        sync(Path(folder))
    write_durably(staging / _READY, mark.encode())


def _refuse_unless_empty(home: Path, place: str, ready: Path | None, mark: str) -> None:
    """Refuse to restore over something.

    Args:
        home: where everything but the store goes.
        place: the store, when it is not in there; else "".
        ready: what a killed restore of the same backup was about to move into place.
        mark: of this backup.
    """
    ours = {_STAGING, "lost+found"}
    for store in _local(place):
        if home in store.parents:
            ours.add(store.relative_to(home).parts[0])
    found = sorted(item.name for item in home.iterdir() if item.name not in ours) if home.exists() else []
    if ready:
        found = [name for name in found if name not in PARTS or (ready / name).exists()]
    if found:
        raise BackupError(
            f"{home} is not empty, it has {', '.join(found[:8])}; stop the stack and move it away, "
            "or restore beside it with --into ANOTHER."
        )
    if place and not (ready and (ready / _UPLOADED).exists()):
        fs, root = fsspec.core.url_to_fs(place, use_listings_cache=False)
        names = [PurePosixPath(str(item)).name for item in fs.ls(root, detail=False)] if fs.isdir(root) else []
        there = sorted(name for name in names if not name.startswith(".") and name != "lost+found")
        if there and not _is_marked(fs, root, mark):
            raise BackupError(
                f"the store {place} is not empty, it has {', '.join(there[:8])}; restore with --into ANOTHER."
            )


def _refuse_unknown_schema(staging: Path, record: Record) -> None:
    """A database of a newer package is no use to an older one: its server would not start."""
    for database, (package, folder) in DATABASES.items():
        spec = importlib.util.find_spec(package)
        if not (staging / database).is_file() or spec is None or not spec.submodule_search_locations:
            continue
        row = None
        with (
            contextlib.closing(sqlite3.connect(staging / database)) as copy,
            contextlib.suppress(sqlite3.DatabaseError),  # a server that was just starting had no tables yet
        ):
            row = copy.execute("SELECT version_num FROM alembic_version").fetchone()
        steps = (Path(spec.submodule_search_locations[0]) / folder).glob("*.py")
        said = [re.search(r"^revision(?:: \w+)? = [\"'](\w+)", step.read_text(), re.MULTILINE) for step in steps]
        if row and row[0] not in {match.group(1) for match in said if match}:
            raise BackupError(
                f"{database} has the schema {row[0]}, which {package} {importlib.metadata.version(package)} does not "
                f"know; it was made with {package} {record.made_with.get(package)}. Install that one or a newer one, "
                "then restore."
            )


def _upload(folder: Path, place: str, record: Record, mark: str) -> None:
    """Put a checked store to where it belongs; what says what is live comes last."""
    fs, root = fsspec.core.url_to_fs(place, use_listings_cache=False)
    fs.makedirs(root, exist_ok=True)
    fs.pipe_file(f"{root}/{_STAGING}", mark.encode())
    files = [entry for entry in record.files if entry.path.startswith("store/")]
    for entry in sorted(files, key=lambda entry: _turn(entry.path)):
        path = entry.path.removeprefix("store/")
        target = f"{root}/{path}"
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(folder / path), target)
        with fs.open(target, "rb") as stream:
            if _digest(stream) != (entry.sha256, entry.length):
                raise BackupError(f"{target} does not read back as it was written; look at the store, then run again.")
    os.sync()


def _turn(path: str) -> tuple[bool, bool, str]:
    """When a file is written: without a manifest there is no version, without CURRENT nothing is live."""
    return path.endswith("/CURRENT"), path.endswith("/manifest.json"), path


def _is_marked(fs: Any, root: str, mark: str) -> bool:
    """Whether a killed restore of the same backup began to write to a store."""
    with contextlib.suppress(FileNotFoundError):
        return bool(fs.cat_file(f"{root}/{_STAGING}") == mark.encode())
    return False


def _certify(store: Store, record: Record) -> None:
    """Make sure that what was live serves, byte for byte."""
    damaged = {sentence.partition(":")[0] for sentence in record.left_out}
    for product, version in record.live.items():
        kind, name = product.split("/")
        named = any(one.startswith((f"{product}/{version}", f"{product}/CURRENT")) for one in damaged)
        if not named and not store.serves(kind, name, version):
            raise BackupError(f"{product}@{version} was restored and does not serve; say so, with the backup at hand.")


# ---------------------------------------------------------------------------------------------------------- plumbing


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """What is read, in blocks; that it cannot be read is another error than that a copy cannot be written."""
    while True:
        with _reading(str(getattr(stream, "name", "a file"))):
            block = stream.read(_BLOCK)
        if not block:
            return
        yield block


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Tell what cannot be read from what cannot be written; what is not there is neither.

    Raises:
        UnreadableError: instead of any `OSError` but that there is no such file.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error}.") from error


def _digest(stream: BinaryIO) -> tuple[str, int]:
    total, length = hashlib.sha256(), 0
    for block in _blocks(stream):
        total.update(block)
        length += len(block)
    return total.hexdigest(), length


def _copied(stream: BinaryIO, file: Path) -> tuple[str, int]:
    """Copy a stream to a file, flush it and read it back; returns checksum and length of what is there.

    Raises:
        UnreadableError: the stream cannot be read.
        BackupError: the disk gave back something else.
    """
    total = hashlib.sha256()
    with file.open("w+b") as copy:
        for block in _blocks(stream):
            total.update(block)
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
        if hasattr(os, "posix_fadvise"):  # else what is read back is the memory, not the disk
            os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        copy.seek(0)
        found, length = _digest(copy)
    if found != total.hexdigest():
        raise BackupError(f"{file}: expected SHA-256 {total.hexdigest()}, found {found} read back; look at that disk.")
    return found, length


def _wrong_with(file: Path, entry: Entry) -> str:
    """How a content differs from what it should be; "" when it does not."""
    try:
        with file.open("rb") as stream:
            length = os.fstat(stream.fileno()).st_size
            if length != entry.length:
                return f"expected {entry.length} bytes, found {length}"
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return "expected a file, found none"
    except OSError as error:
        return f"expected a file, found {error}"
    return "" if found == entry.sha256 else f"expected SHA-256 {entry.sha256}, found {found}"


def _write_record(file: Path, record: Record) -> None:
    content = record.model_dump(mode="json")
    partial = file.with_suffix(".partial")
    write_durably(partial, json.dumps({"sha256": digest_of(content), "content": content}, indent=1).encode())
    partial.replace(file)
    sync(file.parent)


def _free_name(target: Path) -> str:
    """The time of now, or a moment after the newest backup that is there when the clock was set back since."""
    names = [file.stem for file in target.iterdir() if _NAME.fullmatch(file.stem)]
    last = datetime.strptime(max(names)[:-1], _TIME).replace(tzinfo=UTC) if names else datetime.min.replace(tzinfo=UTC)
    moment = max(datetime.now(UTC), last + timedelta(milliseconds=1))
    return f"{moment.strftime(_TIME)[:-3]}Z"


def _plain_settings(now: Settings) -> dict[str, str]:
    """Settings that differ from their defaults, secrets and the way to them left out."""
    return {
        f"HEADRACE_{name.upper()}": _without_secrets(str(getattr(now, name)))
        for name, field in Settings.model_fields.items()
        if field.annotation is not SecretStr and name != "secrets" and getattr(now, name) != field.default
    }


def _without_secrets(value: str) -> str:
    """A setting, or each of several roots, without what an address may carry: user, password and query."""
    roots = re.split(r";(?=\s*(?:[\w+.-]+:/)?/)", value)  # a semicolon elsewhere may be one of a password
    return ";".join(map(access.without_credentials, roots))


def _postgres(part: str) -> str:
    now = settings()
    return (now.mlflow_database if part == "MLflow" else now.prefect_database).get_secret_value()


def _artifacts(home: Path) -> Path | None:
    """Where MLflow keeps files, when that is a folder."""
    place = settings().mlflow_artifacts
    return None if "://" in place else Path(place or home / "mlflow" / "artifacts")


def _elsewhere(target: Path) -> Iterator[str]:
    """What is no part of a backup, and how to keep it."""
    for part in ("MLflow", "Prefect"):
        if url := _postgres(part):
            file = shlex.quote(str(target / f"{part.lower()}.dump"))
            try:
                address = make_url(url)._replace(drivername="postgresql", password=None)
                plain = {key: value for key, value in address.query.items() if key.startswith("sslmode")}
                found = address.set(query=plain).render_as_string()
            except (ArgumentError, ValueError):
                found = f"HEADRACE_{part.upper()}_DATABASE"
            yield (
                f"{part}'s database is Postgres. Keep it with: pg_dump --format=custom --file={file} "
                f"{shlex.quote(found)}"
            )
    if "://" in settings().mlflow_artifacts:
        place = _without_secrets(settings().mlflow_artifacts)
        yield f"MLflow's files are in {place}; keep them with the tools of that place."
    with contextlib.suppress(stack.StackError):  # a damaged record of what runs is no reason to keep nothing
        for name, service in stack.known().items():
            if service.foreign:
                yield f"{name} runs at {_without_secrets(service.url)}; it is to be backed up there."


def _local(location: str) -> Iterator[Path]:
    """The folder that a setting names, links resolved, if it names one."""
    path = location.removeprefix("file://")
    if path and "://" not in path:
        yield Path(path).resolve()


def _room(place: Path) -> str:
    while not place.exists():
        place = place.parent
    return f" ({shutil.disk_usage(place).free:,} bytes left)"


@contextlib.contextmanager
def _alone(target: Path, *, shared: bool = False) -> Iterator[None]:
    """One backup to a target at a time, and none while one is restored from it.

    Raises:
        BackupError: another one is under way, or there is no such folder.
    """
    if not target.is_dir():
        raise BackupError(f"expected a folder, found none: {target}.")
    lock = target / ".lock"  # a file: NFS locks no folders, and for writing only what was opened for writing
    with contextlib.ExitStack() as held:
        if not shared or lock.exists():
            stream = held.enter_context(lock.open("r" if shared else "a"))
            try:
                fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BackupError(f"another backup or restore uses {target}; wait for its end.") from error
        yield


# ---------------------------------------------------------------------------------------------------------- commands


def backup(
    target: Annotated[Path, typer.Argument(help="Folder that holds the backups, on another disk.")],
    keep: Annotated[int, typer.Option(min=0, help="Finished backups to keep; 0 keeps all.")] = 0,
) -> None:
    """Back up store, MLflow, Prefect and settings without secrets, while the stack runs.

    Exits 0 when everything is in the backup, 1 when it failed or a damaged version had to be left out.
    """
    console, started = terminal.console(), time.monotonic()
    try:
        record = back_up(target, keep=keep, say=lambda sentence: say(console, sentence))
    except (BackupError, StoreError) as error:
        raise failed(console, error) from error
    say(console, f"{_summary(record)} in {time.monotonic() - started:.0f} s.")
    for sentence in record.elsewhere:
        say(console, f"not in it: {sentence}")
    for sentence in record.left_out:
        say(console, f"damaged, left out: {sentence}")
    if record.left_out:
        raise typer.Exit(1)


def restore_command(
    source: Annotated[Path, typer.Argument(help="Folder that holds the backups.")],
    into: Annotated[Path | None, typer.Option(help="Another HOME, empty or new; the store goes into it too.")] = None,
    name: Annotated[str, typer.Option(help="Which backup, as its file is called; empty: the newest.")] = "",
    only_check: Annotated[
        bool, typer.Option("--check", help="Read every byte of the backup, restore nothing.")
    ] = False,
) -> None:
    """Restore a backup into an empty HOME; every byte is checked before anything is written."""
    console, started = terminal.console(), time.monotonic()
    try:
        if only_check:
            record = checked(source, name)
            say(console, f"{_summary(record)}: every byte as it was.")
            return
        record = restore(source, into=into, name=name, say=lambda sentence: say(console, sentence))
    except (BackupError, StoreError) as error:
        raise failed(console, error) from error
    say(console, f"restored {_summary(record)} in {time.monotonic() - started:.0f} s.")
    for sentence in (*record.left_out, *record.elsewhere):
        say(console, f"not in it: {sentence}")
    now = _plain_settings(settings())
    for variable, value in record.settings.items():
        if variable != "HEADRACE_HOME" and now.get(variable) != value:
            say(console, f"it was made with {variable}={value}")
    if into:
        unset = "; unset HEADRACE_STORE" if settings().store else ""
        say(console, f"to work with it: export HEADRACE_HOME={shlex.quote(str(into.expanduser().resolve()))}{unset}")
    for folder in _local(settings().mlflow_artifacts):
        restored = (into or settings().home).expanduser().resolve() / "mlflow" / "artifacts"
        say(console, f"MLflow's files are in {restored}; move them to {folder}, as HEADRACE_MLFLOW_ARTIFACTS says.")


def _summary(record: Record) -> str:
    products = f"{len(record.live)} live product{'' if len(record.live) == 1 else 's'}"
    return f"{products}, {len(record.files):,} files, {record.length:,} bytes"
