"""A live index that outlives its process: a compacted snapshot and an append-only delta of the writes since.

    FOLDER/base-DIGEST.arrow    the items at some moment; never changed
    FOLDER/delta.log            which base, and every write since, one record each
    FOLDER/writer.lock          held by the one process that writes

`upsert` and `delete` return when their record is in the file and queries see them: they outlive the process. `flush`
returns when they are on the disk: they outlive the machine. It writes down how far (the mark), after the records and
before it returns. So a bad byte before the mark is damage and is refused, and a record behind it that is not whole was
never promised: it is what a crash leaves, and the next writer cuts it off.

A delta begins with magic, format and size of the description (16 bytes), the mark (12), the description as JSON, and a
checksum of all but the mark. A record is checksum, kind, number, size, and an Arrow record batch: ids, vectors and
attributes of an upsert, ids of a delete. Checksums are CRC-32, those of mark and records begun with the description's:
a record of another delta does not fit. `docs/retrieval.md` goes through the crashes.

    DeltaError              nothing was changed, or nothing more can be
     +-- DamageError        a file is missing, cut, changed, or not what the delta says
     +-- LockedError        another process writes

Shapes: N items, M rows of one write, D dimension.
"""

import base64
import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from models.common.contracts import Payload
from models.feed.retrieval.index import Hits, RetrievalIndex, Where

FORMAT = 1
UPSERT, DELETE = 1, 2

_MAGIC = b"HRDELTA\n"
_HEAD = struct.Struct("<8sII")  # magic, format, bytes of the description
_MARK = struct.Struct("<QI")  # bytes that are on the disk, checksum
_CHECK = struct.Struct("<I")
_RECORD = struct.Struct("<IB3xQQ")  # checksum of all that follows, kind, number, bytes of the payload

_DELTA = "delta.log"
_LOOKS = 20
"""How often a mark that does not fit is read again, a millisecond apart: its writer may be at it."""

_TOGETHER = 4096
"""Records that are replayed as one write at most."""

_IDS = pa.schema([pa.field("id", pa.int64())])
_CLOSED = "it was closed"


class DeltaError(Exception):
    """A write that was not done; the message says what is left, and what to do."""


class DamageError(DeltaError):
    """A file differs from what was acknowledged; the message names file, expected and found."""


class LockedError(DeltaError):
    """Another process writes; the message names it."""


@dataclass(frozen=True)
class Description:
    """What a delta builds upon.

    Attributes:
        base: name of the file with the items before the first record.
        length: its bytes.
        sha256: its checksum.
        sequence: number of the last write that it holds whole; the first record has the next.
        schema: columns of an upsert: ids, vectors, then the attributes by name; as an Arrow message in base64.
        origin: whatever the maker of the index said about where the items came from.
        line: whose numbers those of the writes are: drawn when the folder is made, kept through every new base.
    """

    base: str
    length: int
    sha256: str
    sequence: int
    schema: str
    origin: str
    line: str = ""

    @cached_property
    def columns(self) -> pa.Schema:
        """`schema`, read."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))


class Position(NamedTuple):
    """A place in a delta, behind some record.

    Attributes:
        offset: in bytes.
        sequence: number of that record.
    """

    offset: int
    sequence: int


class Record(NamedTuple):
    """One write.

    Attributes:
        kind: UPSERT or DELETE.
        payload: a record batch.
        after: the place behind it.
    """

    kind: int
    payload: bytes
    after: Position


class Stored(NamedTuple):
    """What a folder holds for certain.

    Attributes:
        description: of the delta.
        base: parts of the index before the first record.
        records: the writes since that are on the disk.
    """

    description: Description
    base: Payload
    records: tuple[Record, ...]

    @property
    def sequence(self) -> int:
        """Number of the last of these writes."""
        return self.records[-1].after.sequence if self.records else self.description.sequence


class Delta:
    """One file of records, each with checksum and number, and a mark of how many bytes are on the disk for certain.

    It keeps no position: who reads or writes says from where.

    Args:
        path: the file.
        write: whether to append.

    Raises:
        DamageError: there is no such file, or it does not begin as a delta of this format.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        try:
            self._file = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DamageError(f"{path}: expected a file, found none; `LiveIndex.create` makes one.") from error
        try:
            self.description, self._seed, start = self._read_head()
        except BaseException:
            os.close(self._file)
            raise
        self.first = Position(start, self.description.sequence)

    @classmethod
    def create(cls, path: Path, description: Description) -> "Delta":
        """Write a delta without records, and wait until the disk has it; raises OSError."""
        told = json.dumps(dataclasses.asdict(description)).encode()
        head = _HEAD.pack(_MAGIC, FORMAT, len(told))
        seed = zlib.crc32(head + told)
        start = len(head) + _MARK.size + len(told) + _CHECK.size
        write_durably(path, head + _marked(start, seed) + told + _CHECK.pack(seed))
        return cls(path, write=True)

    def _read_head(self) -> tuple[Description, int, int]:
        head = _pread(self._file, _HEAD.size, 0)
        if len(head) < _HEAD.size or not head.startswith(_MAGIC):
            raise DamageError(f"{self.path}: expected a delta that begins with {_MAGIC!r}, found {head[:8]!r}.")
        _, format_, size = _HEAD.unpack(head)
        if format_ != FORMAT:
            raise DamageError(
                f"{self.path}: expected format {FORMAT}, found {format_}; open it with the version that wrote it."
            )
        told = _pread(self._file, min(size, os.fstat(self._file).st_size) + _CHECK.size, _HEAD.size + _MARK.size)
        if len(told) < size + _CHECK.size:
            raise DamageError(f"{self.path}: expected {size + _CHECK.size} bytes of description, found {len(told)}.")
        seed, (check,) = zlib.crc32(head + told[:size]), _CHECK.unpack(told[size:])
        if seed != check:
            raise DamageError(f"{self.path}: expected a description with checksum {check:08x}, found {seed:08x}.")
        return Description(**json.loads(told[:size])), seed, _HEAD.size + _MARK.size + len(told)

    def acknowledged(self) -> int:
        """Bytes that are on the disk for certain.

        Raises:
            DamageError: the mark does not fit its checksum.
        """
        for _ in range(_LOOKS):
            mark = _pread(self._file, _MARK.size, _HEAD.size)
            length = int(_MARK.unpack(mark)[0])
            if mark == _marked(length, self._seed):
                return length
            time.sleep(0.001)
        raise DamageError(f"{self.path}: expected the mark {_marked(length, self._seed).hex()}, found {mark.hex()}.")

    def read(self, start: Position) -> Iterator[Record]:
        """The whole records from a place on.

        Args:
            start: `first`, or behind a record that was read or appended.

        Yields:
            One record after another, up to the end or to the first that is not whole and was not acknowledged.

        Raises:
            DamageError: a record that was acknowledged is not whole.
        """
        # The mark first: what it promises was in the file before it.
        acknowledged, size = self.acknowledged(), os.fstat(self._file).st_size
        if size < acknowledged:
            raise DamageError(f"{self.path}: expected at least {acknowledged} bytes, found {size}.")
        while True:
            found = self._record(start, size)
            if isinstance(found, str):
                if start.offset < acknowledged:
                    raise DamageError(f"{self.path}: byte {start.offset}: {found}.")
                return
            yield found
            start = found.after

    def _record(self, at: Position, size: int) -> Record | str:
        """The record at a place, or what is wrong with it."""
        head = _pread(self._file, _RECORD.size, at.offset)
        if len(head) < _RECORD.size:
            return f"expected a record of at least {_RECORD.size} bytes, found {len(head)}"
        check, kind, sequence, length = _RECORD.unpack(head)
        start = at.offset + _RECORD.size
        if sequence != at.sequence + 1:
            return f"expected record {at.sequence + 1}, found {sequence}"
        if length > size - start:
            return f"expected {length} bytes in record {sequence}, found {size - start}"
        payload = _pread(self._file, length, start)
        found = zlib.crc32(payload, zlib.crc32(head[_CHECK.size :], self._seed))
        if found != check:
            return f"expected record {sequence} with checksum {check:08x}, found {found:08x}"
        return Record(kind, payload, Position(start + length, sequence))

    def append(self, at: Position, kind: int, payload: bytes) -> Position:
        """Write one record; it outlives the process from the return on.

        Args:
            at: the end.
            kind: UPSERT or DELETE.
            payload: a record batch.

        Returns:
            The place behind it.

        Raises:
            DeltaError: the disk takes no more; the delta is what it was.
            OSError: nor could it be made what it was.
        """
        body = _RECORD.pack(0, kind, at.sequence + 1, len(payload))[_CHECK.size :] + payload
        try:
            _pwrite(self._file, _CHECK.pack(zlib.crc32(body, self._seed)) + body, at.offset)
        except OSError as error:
            os.ftruncate(self._file, at.offset)
            raise DeltaError(
                f"cannot write {self.path}: {error}. Nothing was changed; make room, and write again."
            ) from error
        return Position(at.offset + _CHECK.size + len(body), at.sequence + 1)

    def flush(self, end: Position) -> None:
        """Wait until the disk has everything up to a place, and write that down, on the disk too; raises OSError."""
        os.fsync(self._file)
        _pwrite(self._file, _marked(end.offset, self._seed), _HEAD.size)
        os.fsync(self._file)

    def cut(self, end: Position) -> None:
        """Drop what stands behind the last whole record, for good before anything is written there; raises OSError."""
        os.ftruncate(self._file, end.offset)
        self.flush(end)

    def replaced(self) -> bool:
        """Whether another file has taken its name.

        Raises:
            DamageError: no file has its name.
        """
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._file))
        except FileNotFoundError as error:
            raise DamageError(f"{self.path}: expected a file, found none.") from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class LiveIndex:
    """A retrieval index whose writes are kept: one process writes, any number of others follow.

    Opened again, it answers as it did, to the bit. A process that reads follows by `refresh`; it needs no lock and no
    right to write. Queries, from any thread, see what `RetrievalIndex` promises: one version of the index, and in it
    every write that returned. Change it by its own methods, never by those of `index`: they are not kept.

    Args:
        folder: what `create` made.
        write: whether to change it; then what a crash left behind is cleared away.

    Raises:
        DamageError: a file differs from what was acknowledged.
        LockedError: another process writes.
        DeltaError: it is to be changed, and the folder cannot be written.

    Source:
        LiNR, section 4: a stream of updates, a compacted snapshot on disk for a warm start. The paper describes neither
        format nor crashes; those are ours.
    """

    def __init__(self, folder: str | Path, *, write: bool = False) -> None:
        self._folder = Path(folder)
        self._writing, self._flushing, self._compacting = threading.RLock(), threading.Lock(), threading.Lock()
        self._process, self._fault = os.getpid(), ""
        with contextlib.ExitStack() as held:
            self._lock = _locked(self._folder) if write else None
            if self._lock is not None:
                held.callback(os.close, self._lock)
            self._delta, self._index = self._opened()
            held.callback(lambda: self._delta.close())
            self._at = self._delta.first
            self._follow()
            if write:
                with _changing(self._folder):
                    self._delta.cut(self._at)
                _sweep(self._folder, self._delta.description.base)
            self._acknowledged = self._at
            self._held = held.pop_all()

    @classmethod
    def create(
        cls, folder: str | Path, payload: Payload, *, origin: str = "", line: str = "", sequence: int = 0
    ) -> "LiveIndex":
        """Make a folder of items and open it for writing.

        Args:
            folder: where; made if there is none.
            payload: parts of an index, as `RetrievalIndex.snapshot` gives them and the store keeps them.
            origin: anything that names where the items came from, such as the digest of a published version.
            line: the line of writes that the items hold already; none: a new one.
            sequence: number of the last of these writes.

        Returns:
            The live index.

        Raises:
            DeltaError: there is one already, or the folder cannot be written.
            ValueError: the payload makes no index.

        Source:
            Ours.
        """
        folder, plain = Path(folder), RetrievalIndex.restore(payload).snapshot()
        with _changing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
        try:
            if (folder / _DELTA).exists():
                raise DeltaError(f"{folder} holds a live index already; open it, or name another folder.")
            try:
                with _changing(folder):
                    part = folder / f"{_DELTA}.part"
                    line = line or secrets.token_hex(8)
                    Delta.create(part, _write_base(folder, plain, sequence, origin, line)).close()
                    part.replace(folder / _DELTA)
                    sync_folder(folder)
            except BaseException:
                if not (folder / _DELTA).exists():
                    _sweep(folder, "")
                raise
        finally:
            os.close(lock)
        return cls(folder, write=True)

    @classmethod
    def open(
        cls, folder: str | Path, payload: Payload, *, origin: str, line: str = "", sequence: int = 0
    ) -> "LiveIndex":
        """Open a folder for writing, made of the items if there is none; arguments and errors as in `create`.

        When the items hold writes of a line, the folder takes them over as its base: see `adopt`. A folder that lacks
        some of these, as one that was restored from a copy does, begins anew with the items: they hold all it has.

        Raises:
            DamageError: the folder began with items of another origin, or a file differs from what was acknowledged.
            LockedError: another process writes.
            DeltaError: see `adopt`.
        """
        if not (Path(folder) / _DELTA).exists():
            return cls.create(folder, payload, origin=origin, line=line, sequence=sequence)
        live = cls(folder, write=True)
        try:
            if live.origin != origin:
                raise DamageError(
                    f"{folder}: expected writes to {origin}, found those to {live.origin}; name another folder."
                )
            if line == live.line and sequence > live.sequence:
                with live._compacting, _changing(live._folder):
                    live._rebase(RetrievalIndex.restore(payload).snapshot(), live._at, line, sequence)
            elif line:
                live.adopt(payload, line=line, sequence=sequence)
        except BaseException:
            live.close()
            raise
        return live

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def index(self) -> RetrievalIndex:
        """The index of now, a torch module; `compact`, and `refresh` after one, put another in its place."""
        return self._index

    @property
    def sequence(self) -> int:
        """Number of the last write that queries see; the first after `create` is 1."""
        return self._at.sequence

    @property
    def origin(self) -> str:
        """What `create` was told."""
        return self._delta.description.origin

    @property
    def line(self) -> str:
        """Whose numbers those of the writes are; `Description` has more."""
        return self._delta.description.line

    def __len__(self) -> int:
        """Items that can be found."""
        return len(self._index)

    def __bool__(self) -> bool:
        """True: an index without items is an index."""
        return True

    def __enter__(self) -> "LiveIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- questions ----------------------------------------------------------------------------------------------------

    def forward(self, queries: Tensor, k: int, where: Where | Sequence[Where] = None) -> Hits[Tensor]:
        """See `RetrievalIndex.forward`."""
        hits: Hits[Tensor] = self._index(queries, k, where)
        return hits

    def search(self, queries: NDArray[np.float32], k: int, where: Where | Sequence[Where] = None) -> Hits[NDArray[Any]]:
        """See `RetrievalIndex.search`."""
        return self._index.search(queries, k, where)

    def explain(self, where: Where = None) -> dict[str, Any]:
        """See `RetrievalIndex.explain`."""
        return self._index.explain(where)

    # --- changes ------------------------------------------------------------------------------------------------------

    def upsert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], attributes: pa.Table | None = None) -> None:
        """Insert or replace items, as `RetrievalIndex.upsert` does, and keep them.

        At the return queries see them and a kill of the process loses none; `flush` guards against the machine's.

        Args:
            ids: of shape (M,), int64, not negative; of rows with the same id, the last one counts.
            vectors: of shape (M, D), float32, finite.
            attributes: M rows with exactly the index's columns; None for an index without attributes.

        Raises:
            DeltaError: it could not be written; nothing was changed.
            ValueError: as `RetrievalIndex.upsert`; nothing was changed.

        Source:
            LiNR, section 4; that it is kept is ours.
        """
        with self._writing:
            self._check()
            rows = self._index.prepare(ids, vectors, attributes)
            if len(rows.ids):
                payload = _batch(self._delta.description.columns, rows.ids, rows.vectors, rows.table)
                with self._or_stop():
                    after = self._delta.append(self._at, UPSERT, payload)
                    self._index.insert(rows)
                    self._at = after

    def delete(self, ids: Iterable[int] | NDArray[np.int64]) -> int:
        """Remove items, as `RetrievalIndex.delete` does, and keep it so.

        Args:
            ids: which; ids that are not there are passed over.

        Returns:
            How many items were removed.

        Raises:
            DeltaError: it could not be written; nothing was changed.

        Source:
            LiNR, section 4; that it is kept is ours.
        """
        wanted = np.unique(np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64))
        with self._writing:
            self._check()
            if not len(wanted):
                return 0
            payload = pa.record_batch([pa.array(wanted)], schema=_IDS).serialize().to_pybytes()
            with self._or_stop():
                after = self._delta.append(self._at, DELETE, payload)
                gone = self._index.delete(wanted)
                self._at = after
            return gone

    def flush(self) -> None:
        """Wait until every write that returned is on the disk.

        One wait serves all threads that ask meanwhile, and writes go on.

        Raises:
            DeltaError: the disk did not take them. What is on it is not known then, so writing stops: open it again.

        Source:
            Group commit (DeWitt et al. 1984).
        """
        with self._flushing:
            with self._writing:
                self._check()
                delta, end = self._delta, self._at
            if end != self._acknowledged:
                with self._or_stop():
                    delta.flush(end)
                self._acknowledged = end

    def compact(self) -> None:
        """Begin a new delta over a base of all items, on disk and in memory; answers stay the same to the bit.

        Writes and queries go on meanwhile; only at the end writes wait until those that came since are copied. A crash
        leaves the old pair of base and delta, or the new one. Needs room for a second index, on disk and in memory.

        Raises:
            DeltaError: the disk does not take it; the old pair stays and serves.

        Source:
            LiNR's compacted snapshot (section 4).
        """
        with self._compacting, _changing(self._folder):
            with self._writing:
                self._check()
                start, index = self._at, self._index
            # It may hold some of the writes behind `start`: that they are done again changes nothing.
            self._rebase(index.snapshot(), start, self.line, start.sequence)

    def adopt(self, payload: Payload, *, line: str, sequence: int) -> None:
        """Begin a new delta over published items which hold the writes of this folder up to a number.

        As `compact`, but the base is what was published, and so what was certified. Nothing happens when the base holds
        these writes already.

        Args:
            payload: parts of an index.
            line: whose writes the items hold; a folder without a write of its own takes over any.
            sequence: number of the last of these writes.

        Raises:
            DeltaError: the items hold writes that the folder lacks, or lack some that it has; or the disk does not take
                them. The old pair stays and serves.

        Source:
            Ours.
        """
        with self._compacting, _changing(self._folder):
            with self._writing:
                self._check()
                first, mine = self._delta.first, self.line
                if line == mine:
                    if sequence <= first.sequence:
                        return
                    if sequence > self._at.sequence:
                        raise DeltaError(
                            f"{self._folder} has writes up to {self._at.sequence}, the items hold those up to "
                            f"{sequence}; open it again."
                        )
                elif self._at.sequence:
                    raise DeltaError(
                        f"{self._folder} has {self._at.sequence} writes of its own, the items hold those of another "
                        f"folder (line {line}, here {mine or 'none'}); move it away to go on without its writes."
                    )
            start = first
            if line == mine:
                start = next(at.after for at in self._delta.read(first) if at.after.sequence == sequence)
            self._rebase(RetrievalIndex.restore(payload).snapshot(), start, line, sequence)

    def _rebase(self, plain: Payload, start: Position, line: str, sequence: int) -> None:
        """Begin a delta over a snapshot, which holds the writes of a line up to a number; those behind `start`, a place
        in the delta of now, are done again."""
        try:
            fresh = RetrievalIndex.restore(plain).to(self._index.vectors.device)
            description = _write_base(self._folder, plain, sequence, self.origin, line)
            with self._flushing, self._writing:
                self._check()
                # The records are copied as they are, and were written by the schema of now.
                schema = self._delta.description.schema
                self._replace(fresh, dataclasses.replace(description, schema=schema), start)
        finally:
            if not self._fault:
                _sweep(self._folder, self._delta.description.base)

    def _replace(self, fresh: RetrievalIndex, description: Description, start: Position) -> None:
        """Copy the records behind a place into a delta over a new base, and put both in place of the old ones."""
        part = self._folder / f"{_DELTA}.part"
        new = Delta.create(part, description)
        try:
            since = list(self._delta.read(start))
            for _ in _replay(fresh, description.columns, since):
                pass
            end = new.first
            for record in since:
                end = new.append(end, record.kind, record.payload)
            new.flush(end)
        except BaseException:
            new.close()
            raise
        old = self._delta
        with self._or_stop():
            part.replace(old.path)
            new.path = old.path
            self._delta, self._index, self._at, self._acknowledged = new, fresh, end, end
            sync_folder(self._folder)
        old.close()

    def refresh(self) -> int:
        """Follow the writer: see all writes that returned there before this call.

        Returns:
            How many writes were new.

        Raises:
            DamageError: a file differs from what was acknowledged; queries see the writes before it.

        Source:
            LiNR's Bootstrapper and Updater (section 4): the compacted snapshot, then the stream.
        """
        with self._writing:
            if self._fault == _CLOSED:
                raise DeltaError(f"{self._folder} was closed; open it again.")
            if self._lock is not None:
                return 0
            before = self.sequence
            if self._delta.replaced():
                new, fresh = self._opened()
                at = new.first
                try:
                    for behind in _replay(fresh, new.description.columns, new.read(at)):
                        at = behind
                    fresh = fresh.to(self._index.vectors.device)
                except BaseException:
                    new.close()
                    raise
                self._delta.close()
                self._delta, self._index, self._at = new, fresh, at
            else:
                self._follow()
            return self.sequence - before

    def close(self) -> None:
        """Flush what was written, and let another process write; the index can still be searched."""
        if self._fault == _CLOSED:
            return
        try:
            if self._lock is not None and not self._fault and self._process == os.getpid():
                self.flush()
        finally:
            with self._compacting, self._flushing, self._writing:
                self._fault = _CLOSED
                self._held.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _opened(self) -> tuple[Delta, RetrievalIndex]:
        """The delta of now, and the index of its base."""
        while True:
            delta = Delta(self._folder / _DELTA, write=self._lock is not None)
            try:
                return delta, RetrievalIndex.restore(_read_base(self._folder, delta.description))
            except FileNotFoundError as error:
                with contextlib.closing(delta):
                    if not delta.replaced():  # else it was compacted meanwhile, and its base went away
                        base = self._folder / delta.description.base
                        raise DamageError(f"{base}: expected a file, found none.") from error
            except BaseException:
                delta.close()
                raise

    def _follow(self) -> None:
        for at in _replay(self._index, self._delta.description.columns, self._delta.read(self._at)):
            self._at = at

    def _check(self) -> None:
        """Whether there may be writes."""
        if self._fault:
            raise DeltaError(f"writing to {self._folder} has ended: {self._fault}; open it again.")
        if self._lock is None:
            raise DeltaError(f"{self._folder} was opened for reading; open it with write=True to change it.")
        if self._process != os.getpid():
            raise DeltaError(f"{self._folder} is written by process {self._process}, of which this one is a copy.")

    @contextlib.contextmanager
    def _or_stop(self) -> Iterator[None]:
        """End all writing when memory and file may differ, or when nobody knows what the disk has."""
        try:
            yield
        except DeltaError:
            raise
        except BaseException as error:
            self._fault = f"{type(error).__name__}: {error}"
            if isinstance(error, OSError):
                raise DeltaError(f"cannot write {self._folder}: {error}. Writing has ended; open it again.") from error
            raise


def stored(folder: str | Path) -> Stored | None:
    """What a folder holds for certain, while its writer goes on: what the next crash of the machine cannot take.

    Args:
        folder: what `LiveIndex.create` made.

    Returns:
        Base and writes; None when there is no live index.

    Raises:
        DamageError: a file differs from what was acknowledged.

    Source:
        Ours.
    """
    folder = Path(folder)
    while (folder / _DELTA).exists():
        with contextlib.closing(Delta(folder / _DELTA)) as delta:
            try:
                return Stored(delta.description, _read_base(folder, delta.description), _durable(delta))
            except FileNotFoundError as error:
                if not delta.replaced():  # else it was compacted meanwhile, and its base went away
                    raise DamageError(f"{folder / delta.description.base}: expected a file, found none.") from error
    return None


def _durable(delta: Delta) -> tuple[Record, ...]:
    """The records that are on the disk for certain."""
    acknowledged = delta.acknowledged()
    return tuple(itertools.takewhile(lambda record: record.after.offset <= acknowledged, delta.read(delta.first)))


def replayed(found: Stored) -> Payload:
    """The parts of an index of what a folder holds.

    Args:
        found: what `stored` gave.

    Returns:
        What `RetrievalIndex.snapshot` gives.

    Source:
        LiNR's compacted snapshot (section 4).
    """
    index = RetrievalIndex.restore(found.base)
    for _ in _replay(index, found.description.columns, found.records):
        pass
    return index.snapshot()


def _replay(index: RetrievalIndex, columns: pa.Schema, records: Iterable[Record]) -> Iterator[Position]:
    """Do writes again, neighbours of one kind as one, and tell how far; doing them twice changes nothing."""
    for kind, alike in itertools.groupby(records, key=lambda record: record.kind):
        while some := list(itertools.islice(alike, _TOGETHER)):
            schema = columns if kind == UPSERT else _IDS
            buffers = [pa.py_buffer(record.payload) for record in some]
            table = pa.Table.from_batches([pa.ipc.read_record_batch(buffer, schema) for buffer in buffers], schema)
            if kind == UPSERT:
                index.upsert(*_parts(table))
            else:
                index.delete(table.column(0).to_numpy())
            yield some[-1].after


def _batch(columns: pa.Schema, ids: NDArray[np.int64], vectors: NDArray[np.float32], attributes: pa.Table) -> bytes:
    """The payload of an upsert."""
    table = _table(columns, ids, vectors, attributes)
    (batch,) = table.combine_chunks().to_batches()
    payload: bytes = batch.serialize().to_pybytes()
    return payload


def _table(columns: pa.Schema, ids: NDArray[np.int64], vectors: NDArray[np.float32], attributes: pa.Table) -> pa.Table:
    """Ids, vectors and attributes as one table."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    values = [column.cast(field.type) for column, field in zip(attributes.columns, list(columns)[2:], strict=True)]
    return pa.Table.from_arrays(
        [pa.array(ids), pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]), *values], schema=columns
    )


def _parts(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float32], pa.Table]:
    """The inverse of `_table`; the arrays are copies."""
    vectors = table.column(1).combine_chunks()
    flat = np.array(vectors.flatten().to_numpy()).reshape(len(table), vectors.type.list_size)
    attributes = pa.Table.from_arrays(table.columns[2:], schema=pa.schema(list(table.schema)[2:]))
    return np.array(table.column(0).to_numpy()), flat, attributes


def _write_base(folder: Path, plain: Payload, sequence: int, origin: str, line: str) -> Description:
    """Write a snapshot as a file that is named by its content, and wait until the disk has it; raises OSError."""
    attributes = plain["attributes"]
    vector = pa.list_(pa.float32(), plain["vectors"].shape[1])
    fixed = [pa.field("id", pa.int64()), pa.field("vector", vector)]
    columns = pa.schema([*fixed, *attributes.schema])
    part = folder / "base.part"
    with part.open("wb") as handle:
        with pa.ipc.new_file(handle, columns) as writer:
            writer.write_table(_table(columns, plain["ids"], plain["vectors"], attributes))
        handle.flush()
        os.fsync(handle.fileno())
    with part.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    name, length = f"base-{digest[:16]}.arrow", part.stat().st_size
    part.replace(folder / name)
    sync_folder(folder)  # the name is to be there before the delta that speaks of it
    schema = base64.b64encode(pa.schema([*fixed, *map(_without_dictionary, attributes.schema)]).serialize()).decode()
    return Description(name, length, digest, sequence, schema, origin, line)


def _without_dictionary(field: pa.Field) -> pa.Field:
    """The field for records, which stand alone and so cannot share a dictionary."""
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _read_base(folder: Path, description: Description) -> Payload:
    """The snapshot that a delta builds upon; raises `DamageError`, and FileNotFoundError."""
    path = folder / description.base
    with path.open("rb") as handle:
        length = os.fstat(handle.fileno()).st_size
        if length != description.length:
            raise DamageError(f"{path}: expected {description.length} bytes, found {length}.")
        found = hashlib.file_digest(handle, "sha256").hexdigest()
        if found != description.sha256:
            raise DamageError(f"{path}: expected SHA-256 {description.sha256}, found {found}.")
        handle.seek(0)
        ids, vectors, attributes = _parts(pa.ipc.open_file(handle).read_all())
    return {"ids": ids, "vectors": vectors, "attributes": attributes}


def _sweep(folder: Path, base: str) -> None:
    """Remove what a killed or failed writer left: all but the base that the delta names."""
    for file in [*folder.glob("*.part"), *folder.glob("base-*.arrow")]:
        if file.name != base:
            with contextlib.suppress(OSError):
                file.unlink()


def _locked(folder: Path) -> int:
    """A lock on the right to write, open for as long as it is held; the system frees it when its holder dies."""
    path = folder / "writer.lock"
    if not folder.is_dir():
        raise DamageError(f"{folder}: expected a folder, found none; `LiveIndex.create` makes one.")
    with _changing(folder):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.write(lock, str(os.getpid()).encode())
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode() or "unknown"
            os.close(lock)
            raise LockedError(
                f"{folder} is being written by process {holder}; wait for it, or open it for reading."
            ) from error
        except BaseException:
            os.close(lock)
            raise
    return lock


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """Say of what the disk refused that the folder still holds what it held."""
    try:
        yield
    except OSError as error:
        raise DeltaError(f"cannot write {folder}: {error}. It holds what it held; make room, and try again.") from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _marked(length: int, seed: int) -> bytes:
    """The mark for so many bytes."""
    return _MARK.pack(length, zlib.crc32(length.to_bytes(8, "little"), seed))


def _pread(file: int, size: int, offset: int) -> bytes:
    """The bytes from an offset on, fewer only where the file ends."""
    parts = []
    while size and (part := os.pread(file, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def _pwrite(file: int, data: bytes, offset: int) -> None:
    """Write all of it, which one call need not do."""
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written
