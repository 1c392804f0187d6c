"""The store: immutable, checksummed versions of every product, and one pointer to the live one.

    STORE/KIND/NAME/VERSION/manifest.json and the files it lists
    STORE/KIND/NAME/CURRENT                       which version is live, and which were before
    STORE/.staging/                               what is being written; never read

A version appears whole or not at all. On a local disk its files are written beside, flushed, and moved into place by
one rename; on an object store the manifest is written last, and without a manifest there is no version. What is live
changes by one rename (one object) of CURRENT and by nothing else.

    StoreError
     +-- IntegrityError     a file is missing, cut, changed, or not what the manifest says
     +-- NotPublishedError  nothing is live under this name
     +-- WithdrawnError     the version was rolled back and may not return by itself
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.manifest import FORMAT, FileEntry, Manifest, canonical
from infra.refs import Ref
from infra.settings import settings

RefT = TypeVar("RefT", bound=Ref)
Payload = Mapping[str, Any]
_BLOCK = 1 << 20


class StoreError(Exception):
    """Something about the store that the caller must know."""


class IntegrityError(StoreError):
    """A file differs from its manifest; the message names file, expected and found."""


class NotPublishedError(StoreError):
    """No version of the product is live."""


class WithdrawnError(StoreError):
    """The version was rolled back."""


class Current(BaseModel):
    """The content of CURRENT.

    Attributes:
        version: the live version.
        manifest_sha256: checksum of its manifest, so that every byte is covered from here down.
        history: versions that were live before, newest first; rollback walks down this list.
        withdrawn: versions that were rolled back; they do not go live again unless asked for by name.
        published: time of the change, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    manifest_sha256: str
    history: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    published: str = ""


class Opened(Mapping[str, Any]):
    """The parts of one version, each read and checked against its checksum when first asked for."""

    def __init__(self, store: "Store", manifest: Manifest, location: str) -> None:
        self.manifest = manifest
        self._store = store
        self._location = location
        self._entries = {entry.part: entry for entry in manifest.files}
        self._parts: dict[str, Any] = {}

    def __getitem__(self, part: str) -> Any:
        if part not in self._parts:
            entry = self._entries[part]
            self._parts[part] = self._store.read_file(f"{self._location}/{entry.path}", entry)
        return self._parts[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Store:
    """Versions of products under one root, a local folder or an fsspec URL."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._fs, self._path = fsspec.core.url_to_fs(self.root)
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        if self._local:
            Path(self._path).mkdir(parents=True, exist_ok=True)
            self._sweep()

    # ------------------------------------------------------------------------------------------------ write

    def write(self, ref_class: type[RefT], payload: Payload, manifest: Manifest, **extra: str) -> RefT:
        """Store a payload as an immutable version; writing equal content again yields the same version.

        Args:
            ref_class: the kind of reference to return.
            payload: parts by name: numpy arrays, pyarrow tables, dictionaries of tensors, or JSON values.
            manifest: everything but the files, which are filled in here.
            extra: further fields of the reference.

        Returns:
            A reference to the version.

        Raises:
            StoreError: the payload has a part of unknown type, or the place cannot be written.
        """
        folder = f"{manifest.kind}/{manifest.name}"
        try:
            with self._staging() as staging:
                files = tuple(_write_part(staging, part, value) for part, value in sorted(payload.items()))
                complete = manifest.model_copy(update={"files": files, "created": _now()})
                version = complete.digest[:12]
                target = f"{folder}/{version}"
                existing = self._manifest_or_none(target)
                if existing is None or not self._whole(existing, target):
                    self._commit(staging, complete, target)
        except OSError as error:
            raise StoreError(
                f"cannot write {folder} in {self.root}: {error}. Nothing was changed; make room, run again."
            ) from error
        return ref_class(
            name=manifest.name, version=version, digest=complete.digest, location=f"{self.root}/{target}", **extra
        )

    def _commit(self, staging: Path, manifest: Manifest, target: str) -> None:
        """Move staged files into place: at once on a local disk, manifest last elsewhere."""
        data = _manifest_bytes(manifest)
        if not self._local:
            for entry in manifest.files:
                self._fs.put_file(str(staging / entry.path), f"{self._path}/{target}/{entry.path}")
            self._fs.pipe_file(f"{self._path}/{target}/manifest.json", data)
            return
        _write_durably(staging / "manifest.json", data)
        _sync_folder(staging)
        final = Path(self._path) / target
        final.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(target.rpartition("/")[0]):
            if final.exists():  # a damaged version of equal content gives way to the whole one
                final.rename(Path(self._path) / ".staging" / f"{staging.name}-replaced")
                shutil.rmtree(Path(self._path) / ".staging" / f"{staging.name}-replaced", ignore_errors=True)
            staging.rename(final)
            _sync_folder(final.parent)

    # ------------------------------------------------------------------------------------------------- read

    def open(self, ref: Ref) -> Opened:
        """Open a version for reading.

        Raises:
            IntegrityError: the manifest is missing, unreadable, or of another digest than the reference.
        """
        target = f"{ref.kind}/{ref.name}/{ref.version}"
        manifest = self.manifest(ref.kind, ref.name, ref.version)
        if manifest.digest != ref.digest:
            raise IntegrityError(f"{target}/manifest.json: expected digest {ref.digest}, found {manifest.digest}.")
        return Opened(self, manifest, target)

    def manifest(self, kind: str, name: str, version: str) -> Manifest:
        """The manifest of a version.

        Raises:
            IntegrityError: it is missing, unreadable, of a newer format, or does not fit its version.
        """
        return self._parse_manifest(f"{kind}/{name}/{version}", self._read(f"{kind}/{name}/{version}/manifest.json"))

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
        """Whether a reference still points to a version with its digest and all its files at full length."""
        if ref.location != f"{self.root}/{ref.kind}/{ref.name}/{ref.version}":
            return False
        manifest = self._manifest_or_none(f"{ref.kind}/{ref.name}/{ref.version}")
        return manifest is not None and manifest.digest == ref.digest and self._present(manifest)

    def verify(self, ref: Ref) -> None:
        """Read every byte of a version and compare it with the manifest.

        Raises:
            IntegrityError: the first file that differs.
        """
        opened = self.open(ref)
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

    # ---------------------------------------------------------------------------------------------- publish

    def publish(
        self, ref: Ref, certificate: Mapping[str, Any], *, run_id: str = "", reinstate: bool = False
    ) -> Current:
        """Seal a version with its certificate and make it the live one.

        Args:
            ref: the version.
            certificate: its claims as JSON.
            run_id: MLflow run that shows it.
            reinstate: allow a version that was rolled back.

        Returns:
            What is live now.

        Raises:
            IntegrityError: the version is damaged.
            WithdrawnError: it was rolled back before and `reinstate` is not set.
        """
        self.verify(ref)
        with self._lock(f"{ref.kind}/{ref.name}"):
            before = self.current_or_none(ref.kind, ref.name)
            if before and ref.version in before.withdrawn and not reinstate:
                raise WithdrawnError(f"{ref} was rolled back; roll forward to it by name, or publish another version.")
            seal = self._seal(ref, certificate, run_id)
            if before and before.version == ref.version and before.manifest_sha256 == seal:
                return before
            history = tuple(v for v in ((before.version, *before.history) if before else ()) if v != ref.version)
            return self._point(ref.kind, ref.name, ref.version, seal, history, before, reinstate)

    def rollback(self, kind: str, name: str, version: str = "") -> Current:
        """Make an earlier published version live again and withdraw the one that was.

        Args:
            kind: kind of the product.
            name: the product.
            version: the version to return to; empty means the one that was live before.

        Raises:
            NotPublishedError: there is no such published version.
            IntegrityError: it is damaged.
        """
        with self._lock(f"{kind}/{name}"):
            before = self.current(kind, name)
            target = version or next(iter(before.history), "")
            if not target or target == before.version:
                raise NotPublishedError(f"{kind} {name} has no version before {before.version} to return to.")
            data = self._read(f"{kind}/{name}/{target}/manifest.json")
            manifest = self._parse_manifest(f"{kind}/{name}/{target}", data)
            if manifest.certificate is None:
                raise NotPublishedError(f"{kind} {name}@{target} was never published; known are {before.history}.")
            self._check_files(manifest, f"{kind}/{name}/{target}")
            history = before.history[before.history.index(target) + 1 :] if target in before.history else before.history
            withdrawn = tuple(v for v in (*before.withdrawn, before.version) if v != target)
            return self._point(kind, name, target, hashlib.sha256(data).hexdigest(), history, before, True, withdrawn)

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
        path = f"{kind}/{name}/CURRENT"
        if not self._fs.exists(f"{self._path}/{path}"):
            return None
        try:
            return Current.model_validate_json(self._read(path))
        except ValidationError as error:
            raise IntegrityError(f"{path}: expected a pointer as JSON, found {error.errors()[0]['msg']}.") from error

    def live(self, ref_class: type[RefT], name: str, **extra: str) -> RefT:
        """A reference to the live version, its manifest checked against CURRENT.

        Raises:
            NotPublishedError: nothing is live.
            IntegrityError: the manifest is not the one that was published.
        """
        current = self.current(ref_class.kind, name)
        target = f"{ref_class.kind}/{name}/{current.version}"
        data = self._read(f"{target}/manifest.json")
        found = hashlib.sha256(data).hexdigest()
        if found != current.manifest_sha256:
            raise IntegrityError(f"{target}/manifest.json: expected SHA-256 {current.manifest_sha256}, found {found}.")
        manifest = self._parse_manifest(target, data)
        return ref_class(
            name=name, version=current.version, digest=manifest.digest, location=f"{self.root}/{target}", **extra
        )

    def serves(self, kind: str, name: str, version: str) -> bool:
        """Whether a version is live, its manifest the published one, and all its files at full length."""
        try:
            current = self.current_or_none(kind, name)
            if current is None or current.version != version:
                return False
            data = self._read(f"{kind}/{name}/{version}/manifest.json")
            manifest = self._parse_manifest(f"{kind}/{name}/{version}", data)
        except IntegrityError:
            return False
        return hashlib.sha256(data).hexdigest() == current.manifest_sha256 and self._present(manifest)

    def _seal(self, ref: Ref, certificate: Mapping[str, Any], run_id: str) -> str:
        """Write the certificate into the manifest, once; returns the manifest's checksum."""
        path = f"{ref.kind}/{ref.name}/{ref.version}/manifest.json"
        data = self._read(path)
        manifest = self._parse_manifest(path.rpartition("/")[0], data)
        if manifest.certificate is None:
            data = _manifest_bytes(manifest.model_copy(update={"certificate": dict(certificate), "run_id": run_id}))
            self._replace(path, data)
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
    ) -> Current:
        kept = withdrawn if withdrawn is not None else (before.withdrawn if before else ())
        if reinstate:
            kept = tuple(v for v in kept if v != version)
        current = Current(
            version=version, manifest_sha256=seal, history=history[:100], withdrawn=kept, published=_now()
        )
        self._replace(f"{kind}/{name}/CURRENT", current.model_dump_json(indent=1).encode())
        return current

    # --------------------------------------------------------------------------------------------- plumbing

    def _read(self, path: str) -> bytes:
        try:
            data: bytes = self._fs.cat_file(f"{self._path}/{path}")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IntegrityError(f"{path}: expected a file, found none.") from error
        return data

    def _replace(self, path: str, data: bytes) -> None:
        """Replace one small file so that a reader sees the old bytes or the new ones."""
        if not self._local:
            self._fs.pipe_file(f"{self._path}/{path}", data)
            return
        with self._staging() as staging:
            _write_durably(staging / "file", data)
            target = Path(self._path) / path
            (staging / "file").replace(target)
            _sync_folder(target.parent)

    def _parse_manifest(self, target: str, data: bytes) -> Manifest:
        path = f"{target}/manifest.json"
        try:
            manifest = Manifest.model_validate(json.loads(data))
        except (ValueError, ValidationError) as error:
            raise IntegrityError(
                f"{path}: expected a manifest of format {FORMAT}, found {str(error).splitlines()[0]}"
            ) from error
        if manifest.format > FORMAT:
            raise IntegrityError(
                f"{path}: expected format {FORMAT} or older, found {manifest.format}; upgrade headrace."
            )
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
            self.read_file(f"{target}/{entry.path}", entry)

    def _whole(self, manifest: Manifest, target: str) -> bool:
        try:
            self._check_files(manifest, target)
        except IntegrityError:
            return False
        return True

    def _present(self, manifest: Manifest) -> bool:
        folder = f"{self._path}/{manifest.kind}/{manifest.name}/{manifest.digest[:12]}"
        try:
            return all(self._fs.size(f"{folder}/{entry.path}") == entry.length for entry in manifest.files)
        except FileNotFoundError:
            return False

    def _children(self, path: str) -> list[str]:
        full = f"{self._path}/{path}"
        if not self._fs.isdir(full):
            return []
        return sorted(Path(str(item)).name for item in self._fs.ls(full, detail=False) if self._fs.isdir(item))

    @contextlib.contextmanager
    def _lock(self, folder: str) -> Iterator[None]:
        """One writer per product; the lock dies with its holder. Object stores have none: allow one publisher there."""
        if not self._local:
            yield
            return
        path = Path(self._path) / folder
        path.mkdir(parents=True, exist_ok=True)
        with (path / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder beside the store for one write; its name says whose it is, so that a later process can sweep it."""
        parent = Path(self._path) / ".staging" if self._local else Path(tempfile.gettempdir()) / "headrace-staging"
        parent.mkdir(parents=True, exist_ok=True)
        owner = f"{os.getpid()}-{int(psutil.Process().create_time())}"
        folder = parent / f"{owner}-{uuid.uuid4().hex[:8]}-{socket.gethostname()}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed writers of this machine left in staging."""
        for folder in (Path(self._path) / ".staging").glob(f"*-{socket.gethostname()}"):
            pid, created = (int(part) for part in folder.name.split("-")[:2])
            if not _alive(pid, created):
                shutil.rmtree(folder, ignore_errors=True)


def open_store() -> Store:
    """The store of this installation."""
    return Store(settings().store_location)


def _alive(pid: int, created: int) -> bool:
    try:
        return int(psutil.Process(pid).create_time()) == created
    except psutil.NoSuchProcess:
        return False


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")


def _manifest_bytes(manifest: Manifest) -> bytes:
    return (json.dumps(json.loads(canonical(manifest)), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(data)
        _sync(handle)


def _sync(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        _write_durably(path, safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in value.items()}))
    elif isinstance(value, Mapping | list | tuple):
        path = folder / f"{part}.json"
        _write_durably(path, canonical(value).encode())
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
