"""The store: immutable, checksummed versions of every product, and one pointer to the live one.

    STORE/KIND/NAME/VERSION/manifest.json and the files it lists
    STORE/KIND/NAME/CURRENT                       which version is live, and which were before
    STORE/KIND/NAME/PINS, REMOVED                 which versions are never removed, and which were, with the reason
    STORE/.staging/                               what is being written; never read
    STORE/.parts/                                 pieces of large datasets, each made once (`infra.grids`)

A version appears whole or not at all. On a local disk its files are written beside, flushed, and moved into place by
one rename; on an object store the manifest is written last, and without a manifest there is no version. What is live
changes by one rename (one object) of CURRENT and by nothing else. On S3 that object is replaced only if it is still
the one that was read (a conditional write), so that of two publishers neither undoes the other's publish.

    StoreError
     +-- IntegrityError     a file is missing, cut, changed, or not what the manifest says
     +-- NotPublishedError  nothing is live under this name
     +-- WithdrawnError     the version was rolled back and may not return by itself
     +-- SupersededError    another version is live than the one whose place it was to take
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from infra.digests import remember, sha256_of
from infra.grids import open_groups
from infra.manifest import FORMAT, FileEntry, Manifest, canonical
from infra.migrations import FormatError, upgraded
from infra.refs import Ref
from infra.settings import settings
from infra.trees import Tree, plant, sync

RefT = TypeVar("RefT", bound=Ref)
T = TypeVar("T")
Payload = Mapping[str, Any]
_BLOCK = 1 << 20
_ATTEMPTS = 20
_REMOVAL = timedelta(minutes=1)
"""How long a removal is given from its note to the end of its manifest."""


class StoreError(Exception):
    """Something about the store that the caller must know."""


class IntegrityError(StoreError):
    """A file differs from its manifest; the message names file, expected and found."""


class NotPublishedError(StoreError):
    """No version of the product is live."""


class WithdrawnError(StoreError):
    """The version was rolled back."""


class SupersededError(StoreError):
    """Another version went live meanwhile."""


class _ChangedMeanwhileError(Exception):
    """An object is no longer the one that was read: another writer was faster."""


class Current(BaseModel):
    """The content of CURRENT.

    Attributes:
        version: the live version.
        manifest_sha256: checksum of its manifest, so that every byte is covered from here down.
        history: versions that were live before, newest first; rollback walks down this list.
        withdrawn: versions that were rolled back; they do not go live again unless asked for by name.
        published: time of the change, UTC.
        cause: who asked for a rollback; empty after a publish.
        also: checksum that its manifest is about to have, while `rewrite` brings it to another format; else empty, and
            then not written, so that an older headrace reads the pointer too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    manifest_sha256: str
    history: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    published: str = ""
    cause: str = ""
    also: tuple[str, ...] = ()

    @property
    def seals(self) -> tuple[str, ...]:
        """Checksums that the manifest of the live version may have."""
        return (self.manifest_sha256, *self.also)

    def as_bytes(self) -> bytes:
        """What is written."""
        return self.model_dump_json(indent=1, exclude=None if self.also else {"also"}).encode()


class Note(BaseModel):
    """Why something was done to a version, and when.

    Attributes:
        why: a sentence.
        when: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    when: str


_NOTES = TypeAdapter(dict[str, Note])


class Opened(Mapping[str, Any]):
    """The parts of one version, each read and checked against its checksum when first asked for.

    A part that is a tree of files is opened, not read; the format's own checksums guard what is read of it later.
    """

    def __init__(self, store: "Store", manifest: Manifest, location: str) -> None:
        self.manifest = manifest
        self._store = store
        self._location = location
        self._entries: dict[str, list[FileEntry]] = {}
        for entry in manifest.files:
            self._entries.setdefault(entry.part, []).append(entry)
        self._parts: dict[str, Any] = {}

    def __getitem__(self, part: str) -> Any:
        if part not in self._parts:
            entries = self._entries[part]
            if _is_tree(entries[0]):
                tree = entries[0].path.partition("/")[0]
                self._parts[part] = open_groups(f"{self._store.root}/{self._location}/{tree}")
            else:
                self._parts[part] = self._store.read_file(f"{self._location}/{entries[0].path}", entries[0])
        return self._parts[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Store:
    """Versions of products under one root, a local folder or an fsspec URL.

    Args:
        root: where.
        touch: make the folder if there is none, and sweep what killed writers left; without, nothing is changed.
    """

    def __init__(self, root: str, *, touch: bool = True) -> None:
        self.root = root.rstrip("/")
        # a cached listing could hide what another process has published
        self._fs, self._path = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        if touch:
            if self._local:
                Path(self._path).mkdir(parents=True, exist_ok=True)
            self._sweep()

    # ------------------------------------------------------------------------------------------------ write

    def write(self, ref_class: type[RefT], payload: Payload, manifest: Manifest, **extra: str) -> RefT:
        """Store a payload as an immutable version; writing equal content again yields the same version.

        Args:
            ref_class: the kind of reference to return.
            payload: parts by name: numpy arrays, pyarrow tables, dictionaries of tensors, JSON values, trees of files.
            manifest: everything but the files, which are filled in here.
            extra: further fields of the reference.

        Returns:
            A reference to the version.

        Raises:
            StoreError: the payload has a part of unknown type, or the place cannot be written.
        """
        folder = _target(manifest.kind, manifest.name)
        with self._writing(folder), self._staging() as staging:
            files = tuple(entry for part, value in sorted(payload.items()) for entry in _write(staging, part, value))
            complete = manifest.model_copy(update={"files": files, "created": _now()})
            version = complete.digest[:12]
            target = f"{folder}/{version}"
            existing = self._manifest_or_none(target)
            if existing is not None and self._whole(existing, target):
                self._use(manifest.kind, manifest.name, version)
            else:
                self._commit(staging, _healed(complete, existing), target)
                self._remember(complete, target)
                if existing is not None:  # mended, and as old as before
                    self._use(manifest.kind, manifest.name, version)
        return ref_class(
            name=manifest.name, version=version, digest=complete.digest, location=f"{self.root}/{target}", **extra
        )

    def _commit(self, staging: Path, manifest: Manifest, target: str) -> None:
        """Move staged files into place: at once on a local disk, manifest last elsewhere."""
        if not self._local:
            for entry in manifest.files:
                self._fs.put_file(str(staging / entry.path), f"{self._path}/{target}/{entry.path}")
            self._replace_unless_whole(target, manifest, _manifest_bytes(manifest))
            return
        final = Path(self._path) / target
        final.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(target.rpartition("/")[0]):
            there = self._manifest_or_none(target)
            if there is not None and self._whole(there, target):
                self._use(manifest.kind, manifest.name, manifest.digest[:12])
                return  # another writer of equal content was faster, and it may be live by now
            write_durably(staging / "manifest.json", _manifest_bytes(_healed(manifest, there)))
            sync(staging)
            if final.exists():  # a damaged version of equal content gives way to the whole one
                with self._staging() as aside:
                    final.rename(aside / "replaced")
            staging.rename(final)
            sync(final.parent)

    # ------------------------------------------------------------------------------------------------- read

    def open(self, ref: Ref) -> Opened:
        """Open a version for reading.

        Raises:
            IntegrityError: the manifest is missing, unreadable, or of another digest than the reference.
        """
        target = _target(ref.kind, ref.name, ref.version)
        manifest = self.manifest(ref.kind, ref.name, ref.version)
        if manifest.digest != ref.digest:
            raise IntegrityError(f"{target}/manifest.json: expected digest {ref.digest}, found {manifest.digest}.")
        return Opened(self, manifest, target)

    def manifest(self, kind: str, name: str, version: str) -> Manifest:
        """The manifest of a version.

        Raises:
            IntegrityError: it is missing, unreadable, of a newer format, or does not fit its version.
        """
        target = _target(kind, name, version)
        return self._parse_manifest(target, self._read(f"{target}/manifest.json"))

    def read_file(self, path: str, entry: FileEntry) -> Any:
        """Read one part, checking length and checksum first."""
        data = self._read(path)
        if len(data) != entry.length:
            raise IntegrityError(f"{path}: expected {entry.length} bytes, found {len(data)}.")
        found = hashlib.sha256(data).hexdigest()
        if found != entry.sha256:
            raise IntegrityError(f"{path}: expected SHA-256 {entry.sha256}, found {found}.")
        return _read_part(entry.path, data)

    def intact(self, ref: Ref) -> bool:
        """Whether a reference still points to a version with its digest and every byte of it."""
        if ref.location != f"{self.root}/{ref.kind}/{ref.name}/{ref.version}":
            return False
        target = _target(ref.kind, ref.name, ref.version)
        manifest = self._manifest_or_none(target)
        found = manifest is not None and manifest.digest == ref.digest and self._whole(manifest, target)
        if found:
            self._use(ref.kind, ref.name, ref.version)
        return found

    def verify(self, ref: Ref) -> None:
        """Read every byte of a version and compare it with the manifest.

        Raises:
            IntegrityError: the first file that differs.
        """
        opened = self.open(ref)
        target = _target(ref.kind, ref.name, ref.version)
        for entry in opened.manifest.files:
            if _is_tree(entry):
                self._check_bytes(f"{target}/{entry.path}", entry)
        for part in opened:
            opened[part]

    def versions(self, kind: str, name: str) -> list[Manifest]:
        """Manifests of all versions of a product, oldest first."""
        found = []
        for version in self._children(f"{kind}/{name}"):
            manifest = self._manifest_or_none(f"{kind}/{name}/{version}")
            if manifest is not None:
                found.append(manifest)
        return sorted(found, key=lambda manifest: manifest.created)

    def products(self, kind: str) -> list[str]:
        """Names under a kind."""
        return self._children(kind)

    def kinds(self) -> list[str]:
        """Kinds of products that the store has."""
        if not self._fs.isdir(self._path):
            return []
        names = (Path(str(item)).name for item in self._fs.ls(self._path, detail=False))
        return sorted(name for name in names if re.fullmatch(r"[a-z]+", name))

    def known(self, kind: str, name: str) -> list[str]:
        """Versions of a product that have a place in the store, whole or not."""
        return [child for child in self._children(_target(kind, name)) if re.fullmatch(r"[0-9a-f]{12}", child)]

    # ---------------------------------------------------------------------------------------------- publish

    def publish(
        self,
        ref: Ref,
        certificate: Mapping[str, Any],
        *,
        run_id: str = "",
        reinstate: bool = False,
        instead_of: str = "",
    ) -> Current:
        """Seal a version with its certificate and make it the live one.

        Args:
            ref: the version.
            certificate: its claims as JSON.
            run_id: MLflow run that shows it.
            reinstate: allow a version that was rolled back.
            instead_of: the version whose place it may take; empty: that of any, or of none.

        Returns:
            What is live now.

        Raises:
            IntegrityError: the version is damaged.
            WithdrawnError: it was rolled back before and `reinstate` is not set.
            SupersededError: neither it nor the version whose place it may take is live.
        """
        self.verify(ref)

        def change() -> Current:
            mark = self._mark(f"{ref.kind}/{ref.name}/CURRENT")
            before = self.current_or_none(ref.kind, ref.name)
            if before and ref.version in before.withdrawn and not reinstate:
                raise WithdrawnError(f"{ref} was rolled back; roll forward to it by name, or publish another version.")
            live = before.version if before else "nothing"
            if instead_of and live not in (instead_of, ref.version):
                raise SupersededError(f"{ref} was to take the place of {instead_of}, and {live} is live by now.")
            seal = self._seal(ref, certificate, run_id)
            if before and before.version == ref.version and before.manifest_sha256 == seal:
                return before
            history = tuple(v for v in ((before.version, *before.history) if before else ()) if v != ref.version)
            return self._point(ref.kind, ref.name, ref.version, seal, history, before, reinstate, mark=mark)

        return self._undisturbed(ref.kind, ref.name, change)

    def rollback(self, kind: str, name: str, version: str = "", *, cause: str = "") -> Current:
        """Make an earlier published version live again and withdraw the one that was.

        Args:
            kind: kind of the product.
            name: the product.
            version: the version to return to; empty means the one that was live before.
            cause: who asks; asked again by the same, as a retried flow does, nothing more is rolled back.

        Raises:
            NotPublishedError: there is no such published version, or retention removed it.
            IntegrityError: it is damaged.
        """

        def change() -> Current:
            mark = self._mark(f"{kind}/{name}/CURRENT")
            before = self.current(kind, name)
            if cause and before.cause == cause:
                return before
            if version:
                _target(kind, name, version)
            target = version or next(iter(before.history), "")
            if not target or target == before.version:
                raise NotPublishedError(f"{kind} {name} has no version before {before.version} to return to.")
            self._refuse_removed(kind, name, target)
            data = self._read(f"{kind}/{name}/{target}/manifest.json")
            manifest = self._parse_manifest(f"{kind}/{name}/{target}", data)
            if manifest.certificate is None:
                raise NotPublishedError(f"{kind} {name}@{target} was never published; known are {before.history}.")
            self._check_files(manifest, f"{kind}/{name}/{target}")
            history = before.history[before.history.index(target) + 1 :] if target in before.history else before.history
            withdrawn = tuple(v for v in (*before.withdrawn, before.version) if v != target)
            return self._point(
                kind, name, target, hashlib.sha256(data).hexdigest(), history, before, True, withdrawn, cause, mark=mark
            )

        return self._undisturbed(kind, name, change)

    def current(self, kind: str, name: str) -> Current:
        """What is live.

        Raises:
            NotPublishedError: nothing is.
            IntegrityError: CURRENT is unreadable.
        """
        current = self.current_or_none(kind, name)
        if current is None:
            raise NotPublishedError(f"no {kind} named {name!r} is live in {self.root}; publish one first.")
        return current

    def current_or_none(self, kind: str, name: str) -> Current | None:
        """What is live, or None."""
        path = f"{_target(kind, name)}/CURRENT"
        try:
            return Current.model_validate_json(self._fs.cat_file(f"{self._path}/{path}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError as error:
            raise IntegrityError(f"{path}: expected a pointer as JSON, found a folder; move it away.") from error
        except ValidationError as error:
            raise IntegrityError(f"{path}: expected a pointer as JSON, found {error.errors()[0]['msg']}.") from error

    def live(self, ref_class: type[RefT], name: str, **extra: str) -> RefT:
        """A reference to the live version, its manifest checked against CURRENT.

        Raises:
            NotPublishedError: nothing is live.
            IntegrityError: the manifest is not the one that was published.
        """
        for _ in range(2):  # the second time for a reader that came between pointer and manifest while both changed
            current = self.current(ref_class.kind, name)
            target = f"{ref_class.kind}/{name}/{current.version}"
            data = self._read(f"{target}/manifest.json")
            found = hashlib.sha256(data).hexdigest()
            if found in current.seals:
                break
        else:
            raise IntegrityError(f"{target}/manifest.json: expected SHA-256 {current.manifest_sha256}, found {found}.")
        manifest = self._parse_manifest(target, data)
        return ref_class(
            name=name, version=current.version, digest=manifest.digest, location=f"{self.root}/{target}", **extra
        )

    def serves(self, kind: str, name: str, version: str) -> bool:
        """Whether a version is live, its manifest the published one, and every byte as it says."""
        try:
            current = self.current_or_none(kind, name)
            if current is None or current.version != version:
                return False
            data = self._read(f"{kind}/{name}/{version}/manifest.json")
            manifest = self._parse_manifest(f"{kind}/{name}/{version}", data)
        except IntegrityError:
            return False
        sealed = hashlib.sha256(data).hexdigest() in current.seals
        return sealed and self._whole(manifest, f"{kind}/{name}/{version}")

    def _seal(self, ref: Ref, certificate: Mapping[str, Any], run_id: str) -> str:
        """Write the certificate into the manifest, once; returns the manifest's checksum."""
        path = f"{ref.kind}/{ref.name}/{ref.version}/manifest.json"
        mark = self._mark(path)
        data = self._read(path)
        manifest = self._parse_manifest(path.rpartition("/")[0], data)
        if manifest.certificate is None:
            data = _manifest_bytes(manifest.model_copy(update={"certificate": dict(certificate), "run_id": run_id}))
            self._replace(path, data, mark)
        return hashlib.sha256(data).hexdigest()

    def _point(
        self,
        kind: str,
        name: str,
        version: str,
        seal: str,
        history: tuple[str, ...],
        before: Current | None,
        reinstate: bool,
        withdrawn: tuple[str, ...] | None = None,
        cause: str = "",
        *,
        mark: str | None = None,
    ) -> Current:
        kept = withdrawn if withdrawn is not None else (before.withdrawn if before else ())
        if reinstate:
            kept = tuple(v for v in kept if v != version)
        current = Current(
            version=version,
            manifest_sha256=seal,
            history=history[:100],
            withdrawn=kept,
            published=_now(),
            cause=cause,
        )
        try:
            self._replace(f"{kind}/{name}/CURRENT", current.as_bytes(), mark)
        except _ChangedMeanwhileError:
            if self.current_or_none(kind, name) != current:  # else it was we: the answer was lost, the request repeated
                raise
        if not self._local and not self._outlives_removal(kind, name, version):
            if before is not None:
                self._replace(f"{kind}/{name}/CURRENT", before.as_bytes(), self._mark(f"{kind}/{name}/CURRENT"))
            else:
                self._fs.rm_file(f"{self._path}/{kind}/{name}/CURRENT")
            raise IntegrityError(
                f"{kind}/{name}/{version} was removed by retention while it was to go live; what was live stays. "
                "Run again: it is built anew."
            )
        return current

    def _outlives_removal(self, kind: str, name: str, version: str) -> bool:
        """Whether a version that was just pointed to stays, on an object store, which has no lock for two writers.

        `remove` notes what it is about to remove and then looks at CURRENT; here CURRENT is written and then the note
        is looked at. So one of the two sees the other: it takes its note back, or we wait until it is done.
        """
        while (manifest := self._manifest_or_none(f"{kind}/{name}/{version}")) is not None:
            note = self.removed(kind, name).get(version)
            if note is None or note.when < manifest.created:  # of an earlier one with equal content
                return True
            if datetime.now(UTC) - datetime.fromisoformat(note.when) > _REMOVAL:  # it was killed before it removed
                return True
            time.sleep(0.2)
        return False

    def _undisturbed(self, kind: str, name: str, change: Callable[[], T]) -> T:
        """Change CURRENT, or a file beside it, by what was read of it; read it anew when another came between."""
        with self._writing(_target(kind, name)), self._lock(_target(kind, name)):
            for attempt in range(_ATTEMPTS):
                try:
                    return change()
                except _ChangedMeanwhileError:
                    time.sleep(random.uniform(0, 0.05 * 1.5**attempt))  # noqa: S311 - so that two do not meet again
            raise StoreError(
                f"{kind}/{name} in {self.root} was changed by others {_ATTEMPTS} times while it was to be "
                "changed. Nothing was lost; run again when fewer publish."
            )

    # ----------------------------------------------------------------------------------------------- upkeep

    def pins(self, kind: str, name: str) -> dict[str, Note]:
        """Versions that are never removed, each with the reason.

        Raises:
            IntegrityError: the file PINS is unreadable.
        """
        return self._notes(f"{_target(kind, name)}/PINS")

    def removed(self, kind: str, name: str) -> dict[str, Note]:
        """Versions that were removed, each with the reason; one that was built again since is there all the same.

        Raises:
            IntegrityError: the file REMOVED is unreadable.
        """
        return self._notes(f"{_target(kind, name)}/REMOVED")

    def pin(self, kind: str, name: str, version: str, why: str) -> None:
        """Keep a version, and all that it is made from, whatever retention says.

        Args:
            kind: kind of the product.
            name: the product.
            version: which.
            why: for whoever asks later.

        Raises:
            IntegrityError: there is no such version.
        """
        path = f"{_target(kind, name, version).rpartition('/')[0]}/PINS"

        def change() -> None:
            mark = self._mark(path)
            self.manifest(kind, name, version)
            self._write_notes(path, self.pins(kind, name) | {version: Note(why=why, when=_now())}, mark)

        self._undisturbed(kind, name, change)
        self.manifest(kind, name, version)  # an object store has no lock: it may have been removed meanwhile

    def unpin(self, kind: str, name: str, version: str) -> None:
        """Let retention treat a version like any other.

        Raises:
            StoreError: it is not pinned.
        """
        path = f"{_target(kind, name, version).rpartition('/')[0]}/PINS"

        def change() -> None:
            mark, pins = self._mark(path), self.pins(kind, name)
            if version not in pins:
                raise StoreError(f"{kind}/{name}@{version} is not pinned; pinned are {sorted(pins) or 'none'}.")
            self._write_notes(path, {pinned: note for pinned, note in pins.items() if pinned != version}, mark)

        self._undisturbed(kind, name, change)

    def needed(self, kind: str, name: str, version: str) -> bool:
        """Whether a version is live or pinned now.

        Raises:
            IntegrityError: CURRENT or PINS cannot be read, so that nobody knows.
        """
        current = self.current_or_none(kind, name)
        return (current is not None and current.version == version) or version in self.pins(kind, name)

    def remove(self, kind: str, name: str, version: str, why: str) -> bool:
        """Remove a version that is neither live nor pinned.

        It vanishes by one rename (on an object store: with its manifest) and is deleted then. Whoever opened it
        before goes on with the parts that were read, and gets `IntegrityError` for the others, never half of one.

        Args:
            kind: kind of the product.
            name: the product.
            version: which.
            why: kept in the file REMOVED, and told to whoever wants to return to it.

        Returns:
            Whether it was removed; not when it is live or pinned by now, or gone already.

        Raises:
            IntegrityError: CURRENT or PINS cannot be read, so that nobody knows.
        """
        target = _target(kind, name, version)
        path = f"{target.rpartition('/')[0]}/REMOVED"
        full = f"{self._path}/{target}"

        def change() -> bool:
            mark = self._mark(path)
            if self.needed(kind, name, version) or not self._fs.isdir(full):
                return False
            newest = dict(list(self.removed(kind, name).items())[-999:])
            try:
                self._write_notes(path, newest | {version: Note(why=why, when=_now())}, mark)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # a full disk is what this makes room on
                    raise
            if self._local:
                Path(full).rename(aside / "removed")
                sync(Path(full).parent)
            else:
                if self.needed(kind, name, version):  # without a lock, somebody may have returned to it meanwhile
                    mark, notes = self._mark(path), self.removed(kind, name)
                    self._write_notes(path, {gone: note for gone, note in notes.items() if gone != version}, mark)
                    return False
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(f"{full}/manifest.json")
                self._fs.rm(full, recursive=True)
            return True

        with self._staging() as aside:  # the files go with it, when the lock of the product is free again
            gone = self._undisturbed(kind, name, change)
        if gone:
            with contextlib.suppress(OSError):
                self._fs.rm_file(f"{self._path}/{target.rpartition('/')[0]}/.used/{version}")
        return gone

    def headless(self, kind: str, name: str) -> dict[str, datetime]:
        """Folders without a manifest, which a killed removal or write on an object store leaves, and their ages.

        Returns:
            Version and time of the last change of each.
        """
        found = {}
        for version in self._children(f"{kind}/{name}"):
            full = f"{self._path}/{kind}/{name}/{version}"
            if re.fullmatch(r"[0-9a-f]{12}", version) and not self._fs.exists(f"{full}/manifest.json"):
                times = [self._fs.modified(str(file)) for file in self._fs.find(full)]
                stamp = max(times) if times else self._fs.modified(full) if self._local else datetime.now(UTC)
                found[version] = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
        return found

    def rewrite(self, kind: str, name: str, version: str) -> bool:
        """Write a manifest of an older format in the present one; what is live stays live at every moment.

        CURRENT names both checksums while the manifest changes, so that a kill anywhere leaves a version that serves
        and can be rewritten again. Payload, digest and version stay what they are.

        Args:
            kind: kind of the product.
            name: the product.
            version: which.

        Returns:
            Whether there was anything to do.

        Raises:
            IntegrityError: the manifest cannot be read, or is not the one that was published.
        """
        target = _target(kind, name, version)
        path, pointer = f"{target}/manifest.json", f"{target.rpartition('/')[0]}/CURRENT"

        def change() -> bool:
            mark, pointer_mark = self._mark(path), self._mark(pointer)
            data, current = self._read(path), self.current_or_none(kind, name)
            live = current if current is not None and current.version == version else None
            new = _manifest_bytes(self._parse_manifest(target, data))
            seal, found = hashlib.sha256(new).hexdigest(), hashlib.sha256(data).hexdigest()
            if live and found not in live.seals:
                raise IntegrityError(f"{path}: expected SHA-256 {live.manifest_sha256}, found {found}.")
            old = json.loads(data)["format"] != FORMAT
            if old:
                if live:
                    both = live.model_copy(update={"also": (seal,)})
                    self._replace(pointer, both.as_bytes(), pointer_mark)
                    pointer_mark = self._mark(pointer)
                self._replace(path, new, mark)
            if live and (old or live.also):
                done = live.model_copy(update={"manifest_sha256": seal if old else found, "also": ()})
                self._replace(pointer, done.as_bytes(), pointer_mark)
            return old or bool(live and live.also)

        return self._undisturbed(kind, name, change)

    def format_of(self, kind: str, name: str, version: str) -> int:
        """The format that a manifest has on disk.

        Raises:
            IntegrityError: it is missing or unreadable.
        """
        target = _target(kind, name, version)
        data = self._read(f"{target}/manifest.json")
        self._parse_manifest(target, data)
        return int(json.loads(data)["format"])

    def used(self, kind: str, name: str, version: str) -> datetime | None:
        """When a run last took up a version that was there already, instead of making it anew; None if never."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            stamp: datetime = self._fs.modified(f"{self._path}/{_target(kind, name)}/.used/{version}")
            return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
        return None

    def _use(self, kind: str, name: str, version: str) -> None:
        """Note that a version is taken up, for retention; a store that is full or read-only serves all the same."""
        with contextlib.suppress(OSError):
            self._fs.makedirs(f"{self._path}/{_target(kind, name)}/.used", exist_ok=True)
            self._fs.pipe_file(f"{self._path}/{_target(kind, name)}/.used/{version}", b"used")

    def parts(self, name: str) -> Path:
        """The folder of a dataset's pieces: beside its versions, so that their files can be linked; else in scratch."""
        _target("dataset", name)
        return (Path(self._path) / ".parts" if self._local else settings().scratch / "parts") / name

    def leftovers(self) -> list[str]:
        """What killed writers left in staging and nobody swept yet; found without touching it."""
        parent = Path(self._path) / ".staging" if self._local else settings().scratch / "staging"
        found = []
        for folder in sorted(path for path in parent.glob("*") if path.suffix != ".owner"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                owner = folder.with_suffix(".owner")
                if owner.exists():
                    with owner.open() as handle:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(folder.name)
        return found

    def manifest_bytes(self, kind: str, name: str, version: str) -> bytes:
        """A manifest as it is on disk.

        Raises:
            IntegrityError: there is none.
        """
        return self._read(f"{_target(kind, name, version)}/manifest.json")

    def small_files(self, kind: str, name: str) -> dict[str, bytes]:
        """CURRENT, PINS and REMOVED of a product, as far as there are any, byte for byte."""
        found = {}
        for file in ("REMOVED", "PINS", "CURRENT"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found[file] = self._fs.cat_file(f"{self._path}/{_target(kind, name)}/{file}")
        return found

    def _notes(self, path: str) -> dict[str, Note]:
        try:
            return _NOTES.validate_json(self._fs.cat_file(f"{self._path}/{path}"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except IsADirectoryError as error:
            raise IntegrityError(f"{path}: expected a file, found a folder; move it away.") from error
        except ValidationError as error:
            raise IntegrityError(
                f"{path}: expected versions with why and when, found {error.errors()[0]['msg']}."
            ) from error

    def _write_notes(self, path: str, notes: Mapping[str, Note], mark: str | None) -> None:
        self._replace(path, _NOTES.dump_json(dict(notes), indent=1), mark)

    def _refuse_removed(self, kind: str, name: str, version: str) -> None:
        """Say of a version that retention took it, rather than that it was never there."""
        if self._fs.exists(f"{self._path}/{kind}/{name}/{version}/manifest.json"):
            return
        if note := self.removed(kind, name).get(version):
            kept = [manifest.digest[:12] for manifest in self.versions(kind, name) if manifest.certificate is not None]
            raise NotPublishedError(
                f"{kind} {name}@{version} was removed by retention on {note.when[:10]} ({note.why}); to return to are "
                f"{', '.join(kept) or 'none'}. Restore it from a backup, or build it again; pin what is to stay."
            )

    def _epitaph(self, path: str) -> str:
        """What REMOVED says of the version that a path lies in; "" for one that was not removed."""
        parts = path.split("/")
        with contextlib.suppress(StoreError):
            note = self.removed(parts[0], parts[1]).get(parts[2]) if len(parts) == 4 else None
            return f": the version was removed on {note.when[:10]} ({note.why})" if note else ""
        return ""

    # --------------------------------------------------------------------------------------------- plumbing

    @contextlib.contextmanager
    def _writing(self, folder: str) -> Iterator[None]:
        """Say of what a write failed that the store itself is as it was."""
        try:
            yield
        except OSError as error:
            left = f" ({shutil.disk_usage(self._path).free:,} bytes left)" if self._local else ""
            raise StoreError(
                f"cannot write {folder} in {self.root}: {error}{left}. Nothing was changed; make room, run again."
            ) from error

    def _read(self, path: str) -> bytes:
        try:
            data: bytes = self._fs.cat_file(f"{self._path}/{path}")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IntegrityError(f"{path}: expected a file, found none{self._epitaph(path)}.") from error
        except IsADirectoryError as error:
            raise IntegrityError(f"{path}: expected a file, found a folder; move it away.") from error
        return data

    def _mark(self, path: str) -> str | None:
        """What tells an object's content from any other, taken before it is read; "" when there is no object.

        None where a write cannot depend on it: a folder, which has a lock, and an object store without such writes.
        """
        if self._local or not self._conditional:
            return None
        try:
            return str(self._fs.info(f"{self._path}/{path}", refresh=True)["ETag"])
        except FileNotFoundError:
            return ""

    @cached_property
    def _conditional(self) -> bool:
        """Whether the object store refuses a write whose condition does not hold; tried, since not all that look like
        S3 do, and what does not know the condition ignores it."""
        if "s3" not in self._fs.protocol:
            return False
        path = f"{self._path}/.conditional"
        try:
            self._fs.pipe_file(path, b"", mode="create")
            self._fs.pipe_file(path, b"", mode="create")
        except OSError as error:
            if _is_refusal(error):
                return True
            if error.errno != errno.ENOSYS:
                raise
        logging.getLogger("headrace").warning(
            "%s has no conditional writes; let one publisher at a time work.", self.root
        )
        return False

    def _replace_unless_whole(self, target: str, manifest: Manifest, data: bytes) -> None:
        """Put the manifest of a version on an object store; one of equal content that is there keeps its seal."""
        path = f"{target}/manifest.json"
        mark = self._mark(path)
        existing = self._manifest_or_none(target)
        if existing is None or existing.digest != manifest.digest:
            with contextlib.suppress(_ChangedMeanwhileError):  # the faster one wrote the same version
                self._replace(path, data, mark)

    def _replace(self, path: str, data: bytes, mark: str | None = None) -> None:
        """Replace one small file so that a reader sees the old bytes or the new ones.

        Raises:
            _ChangedMeanwhileError: it is no longer the one with this mark.
        """
        if not self._local:
            condition = {} if mark is None else {"IfMatch": mark} if mark else {"IfNoneMatch": "*"}
            try:
                self._fs.pipe_file(f"{self._path}/{path}", data, **condition)
            except OSError as error:
                if condition and _is_refusal(error):
                    raise _ChangedMeanwhileError from error
                raise
            return
        with self._staging() as staging:
            write_durably(staging / "file", data)
            target = Path(self._path) / path
            (staging / "file").replace(target)
            sync(target.parent)

    def _parse_manifest(self, target: str, data: bytes) -> Manifest:
        path = f"{target}/manifest.json"
        try:
            manifest = Manifest.model_validate(upgraded(json.loads(data)))
        except FormatError as error:
            raise IntegrityError(f"{path}: {error}") from error
        except (ValueError, ValidationError) as error:
            raise IntegrityError(
                f"{path}: expected a manifest of format {FORMAT}, found {str(error).splitlines()[0]}"
            ) from error
        kind, name, version = target.split("/")
        if (manifest.kind, manifest.name, manifest.digest[:12]) != (kind, name, version):
            found = f"{manifest.kind}/{manifest.name}/{manifest.digest[:12]}"
            raise IntegrityError(f"{path}: expected the manifest of {target}, found that of {found}.")
        return manifest

    def _manifest_or_none(self, target: str) -> Manifest | None:
        try:
            return self._parse_manifest(target, self._read(f"{target}/manifest.json"))
        except IntegrityError:
            return None

    def _check_files(self, manifest: Manifest, target: str) -> None:
        for entry in manifest.files:
            if not _is_tree(entry):
                self.read_file(f"{target}/{entry.path}", entry)
        self._check_leaves([entry for entry in manifest.files if _is_tree(entry)], target)

    def _check_leaves(self, entries: Sequence[FileEntry], target: str) -> None:
        """Compare the files of trees with the manifest; those that did not change since they were read are not read."""
        if not entries:
            return
        if not self._local:
            found = self._fs.find(f"{self._path}/{target}", detail=True)
            lengths = {path.removeprefix(f"{self._path}/{target}/"): info["size"] for path, info in found.items()}
            for entry in entries:
                length = lengths.get(entry.path)
                if length != entry.length:
                    raise IntegrityError(f"{target}/{entry.path}: expected {entry.length} bytes, found {length}.")
            return
        paths = [Path(self._path) / target / entry.path for entry in entries]
        try:
            digests = sha256_of(paths)
        except OSError as error:
            raise IntegrityError(f"{target}: a file cannot be read ({error}).") from error
        for entry, digest in zip(entries, digests, strict=True):
            if digest != entry.sha256:
                raise IntegrityError(f"{target}/{entry.path}: expected SHA-256 {entry.sha256}, found {digest}.")

    def _check_bytes(self, path: str, entry: FileEntry) -> None:
        """Read a file in pieces and compare it with the manifest."""
        total, length = hashlib.sha256(), 0
        try:
            with self._fs.open(f"{self._path}/{path}", "rb") as stream:
                while block := stream.read(_BLOCK):
                    total.update(block)
                    length += len(block)
        except OSError as error:
            raise IntegrityError(f"{path}: expected a file, found none that can be read ({error}).") from error
        if length != entry.length:
            raise IntegrityError(f"{path}: expected {entry.length} bytes, found {length}.")
        if total.hexdigest() != entry.sha256:
            raise IntegrityError(f"{path}: expected SHA-256 {entry.sha256}, found {total.hexdigest()}.")

    def _remember(self, manifest: Manifest, target: str) -> None:
        """Note the checksums of a tree that was just put into place, so that the next look need not read it."""
        if self._local:
            place = Path(self._path) / target
            remember((place / entry.path, entry.sha256) for entry in manifest.files if _is_tree(entry))

    def _whole(self, manifest: Manifest, target: str) -> bool:
        try:
            self._check_files(manifest, target)
        except IntegrityError:
            return False
        return True

    def _children(self, path: str) -> list[str]:
        full = f"{self._path}/{path}"
        if not self._fs.isdir(full):
            return []
        return sorted(Path(str(item)).name for item in self._fs.ls(full, detail=False) if self._fs.isdir(item))

    @contextlib.contextmanager
    def quiet(self, kind: str, name: str) -> Iterator[None]:
        """Nothing of a product changes meanwhile; on an object store, or one that is read-only, it might.

        Args:
            kind: kind of the product.
            name: the product.
        """
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                held.enter_context(self._lock(_target(kind, name)))
            yield

    @contextlib.contextmanager
    def _lock(self, folder: str) -> Iterator[None]:
        """One writer per product; the lock dies with its holder. Object stores have none, but conditional writes."""
        if not self._local:
            yield
            return
        path = Path(self._path) / folder
        path.mkdir(parents=True, exist_ok=True)
        with (path / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Path]:
        """An empty folder on the store's own disk where there is one; it is gone when the block ends, or its owner."""
        with self._staging() as folder:
            yield folder

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder beside the store for one write; its owner holds a lock on it, which dies with the owner."""
        parent = Path(self._path) / ".staging" if self._local else settings().scratch / "staging"
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / uuid.uuid4().hex
        with _owned(parent / f"{folder.name}.owner") as owner:
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                Path(owner.name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what killed writers left in staging: whatever nobody holds a lock on any more."""
        parent = Path(self._path) / ".staging" if self._local else settings().scratch / "staging"
        for owner in parent.glob("*.owner"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), owner.open("r+") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.with_suffix(""), ignore_errors=True)
                owner.unlink(missing_ok=True)


@contextlib.contextmanager
def _owned(file: Path) -> Iterator[IO[str]]:
    """A file with a lock on it; made again when a sweep took it for a dead owner's before it was locked."""
    while True:
        with file.open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(owner.fileno()), file.stat()):
                    yield owner
                    return


def _is_refusal(error: OSError) -> bool:
    """Whether S3 says that the condition of a write does not hold, or that another such write is under way."""
    response = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    # a write that needs an object which was just removed is answered with 404
    return isinstance(error, FileExistsError | FileNotFoundError) or status in (404, 409, 412)


def _target(kind: str, name: str, version: str = "") -> str:
    """The folder of a product or of one version, names checked so that none leads out of the store."""
    if not re.fullmatch(r"[a-z]+", kind) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise StoreError(f"product must be KIND/NAME in lower case letters, digits and hyphens, got {kind!r}/{name!r}.")
    if version and not re.fullmatch(r"[0-9a-f]{12}", version):
        raise StoreError(f"version must be twelve hexadecimal digits, got {version!r}.")
    return f"{kind}/{name}/{version}" if version else f"{kind}/{name}"


def open_store() -> Store:
    """The store of this installation."""
    return Store(settings().store_location)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")


def _healed(manifest: Manifest, existing: Manifest | None) -> Manifest:
    """A manifest that takes the place of a damaged version keeps its seal, so that CURRENT still fits it."""
    kept = ("certificate", "run_id", "flow_run_id", "commit", "code", "created")
    return manifest.model_copy(update={field: getattr(existing, field) for field in kept if existing is not None})


def _manifest_bytes(manifest: Manifest) -> bytes:
    return (json.dumps(json.loads(canonical(manifest)), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as handle:
        handle.write(data)
        _sync(handle)


def _sync(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _is_tree(entry: FileEntry) -> bool:
    return "/" in entry.path


def _write(folder: Path, part: str, value: Any) -> list[FileEntry]:
    """Write one part: a tree of files as it is, anything else as one file."""
    return plant(value, folder, part) if isinstance(value, Tree) else [_write_part(folder, part, value)]


def _write_part(folder: Path, part: str, value: Any) -> FileEntry:
    """Write one part in the format of its type: .npy, .parquet, .safetensors or .json."""
    if isinstance(value, np.ndarray):
        path = folder / f"{part}.npy"
        with path.open("wb") as handle:
            np.save(handle, value, allow_pickle=False)
            _sync(handle)
    elif isinstance(value, pa.Table):
        path = folder / f"{part}.parquet"
        with path.open("wb") as handle:
            pyarrow.parquet.write_table(value, handle)
            _sync(handle)
    elif isinstance(value, Mapping) and value and all(isinstance(item, torch.Tensor) for item in value.values()):
        path = folder / f"{part}.safetensors"
        write_durably(path, safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in value.items()}))
    elif isinstance(value, Mapping | list | tuple):
        path = folder / f"{part}.json"
        write_durably(path, canonical(value).encode())
    else:
        raise StoreError(
            f"part {part!r} is a {type(value).__name__}; pass a numpy array, a pyarrow table, tensors by name, or JSON."
        )
    with path.open("rb") as handle:
        return FileEntry(
            part=part,
            path=path.name,
            length=path.stat().st_size,
            sha256=hashlib.file_digest(handle, "sha256").hexdigest(),
        )


def _read_part(path: str, data: bytes) -> Any:
    """The inverse of `_write_part`."""
    match Path(path).suffix:
        case ".npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        case ".parquet":
            return pyarrow.parquet.read_table(io.BytesIO(data))
        case ".safetensors":
            return safetensors.torch.load(data)
        case ".json":
            return json.loads(data)
        case other:
            raise IntegrityError(f"{path}: expected .npy, .parquet, .safetensors or .json, found {other!r}.")
