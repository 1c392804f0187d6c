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
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
import numpy as np
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
        cause: who asked for a rollback; empty after a publish.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    manifest_sha256: str
    history: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    published: str = ""
    cause: str = ""


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
        # a cached listing could hide what another process has published
        self._fs, self._path = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
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
        folder = _target(manifest.kind, manifest.name)
        try:
            with self._staging() as staging:
                files = tuple(_write_part(staging, part, value) for part, value in sorted(payload.items()))
                complete = manifest.model_copy(update={"files": files, "created": _now()})
                version = complete.digest[:12]
                target = f"{folder}/{version}"
                existing = self._manifest_or_none(target)
                if existing is not None:  # what heals a damaged version keeps its seal, so that CURRENT still fits it
                    kept = ("certificate", "run_id", "flow_run_id", "commit", "code", "created")
                    complete = complete.model_copy(update={field: getattr(existing, field) for field in kept})
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
                with self._staging() as aside:
                    final.rename(aside / "replaced")
            staging.rename(final)
            _sync_folder(final.parent)

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
        return manifest is not None and manifest.digest == ref.digest and self._whole(manifest, target)

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
        with self._lock(_target(ref.kind, ref.name)):
            before = self.current_or_none(ref.kind, ref.name)
            if before and ref.version in before.withdrawn and not reinstate:
                raise WithdrawnError(f"{ref} was rolled back; roll forward to it by name, or publish another version.")
            seal = self._seal(ref, certificate, run_id)
            if before and before.version == ref.version and before.manifest_sha256 == seal:
                return before
            history = tuple(v for v in ((before.version, *before.history) if before else ()) if v != ref.version)
            return self._point(ref.kind, ref.name, ref.version, seal, history, before, reinstate)

    def rollback(self, kind: str, name: str, version: str = "", *, cause: str = "") -> Current:
        """Make an earlier published version live again and withdraw the one that was.

        Args:
            kind: kind of the product.
            name: the product.
            version: the version to return to; empty means the one that was live before.
            cause: who asks; asked again by the same, as a retried flow does, nothing more is rolled back.

        Raises:
            NotPublishedError: there is no such published version.
            IntegrityError: it is damaged.
        """
        with self._lock(_target(kind, name)):
            before = self.current(kind, name)
            if cause and before.cause == cause:
                return before
            if version:
                _target(kind, name, version)
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
            return self._point(
                kind, name, target, hashlib.sha256(data).hexdigest(), history, before, True, withdrawn, cause
            )

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
        """Whether a version is live, its manifest the published one, and every byte as it says."""
        try:
            current = self.current_or_none(kind, name)
            if current is None or current.version != version:
                return False
            data = self._read(f"{kind}/{name}/{version}/manifest.json")
            manifest = self._parse_manifest(f"{kind}/{name}/{version}", data)
        except IntegrityError:
            return False
        sealed = hashlib.sha256(data).hexdigest() == current.manifest_sha256
        return sealed and self._whole(manifest, f"{kind}/{name}/{version}")

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
        cause: str = "",
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
        """A folder beside the store for one write; its owner holds a lock on it, which dies with the owner."""
        parent = Path(self._path) / ".staging" if self._local else settings().scratch / "staging"
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / uuid.uuid4().hex
        with (parent / f"{folder.name}.owner").open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
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
