"""The door to Zarr: labelled arrays that are written in pieces and put together without copying them.

    PARTS/NAME/KEY/receipt.json               what the piece holds: every file with length and checksum, and notes
    PARTS/NAME/KEY/GROUP/VARIABLE/c/0/0/0     its files, as they will lie in the whole, counted from its own corner

A piece appears whole or not at all: it is written beside, flushed, and moved into place by one rename. Its files hold
whole shards, so a dataset is made of pieces by linking their files under the numbers that they have in the whole, and
by writing new metadata. Groups whose pieces have as many rows as they happen to have are written anew, end to end.
"""

import contextlib
import hashlib
import math
import os
import shutil
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import google_crc32c
import numpy as np
from numcodecs import Blosc
from pydantic import BaseModel, ConfigDict

from infra.digests import remember, sha256_of
from infra.trees import Leaf, Tree, sync

RECEIPT = "receipt.json"

_COMPRESSOR: Literal["lz4"] = "lz4"
_LEVEL = 5
_WRITERS = 4
"""Threads that write the files of a part: so many that compression never waits for the disk."""

_CORES = threading.BoundedSemaphore(os.cpu_count() or 1)
"""Held while a file is compressed."""

ROWS_AT_ONCE = 1 << 22
"""Bytes, at most, of one variable that are held while pieces are laid end to end, but for one shard."""


class VariableLike(Protocol):
    """A stored variable; see `models.common.parts.Variable`."""

    @property
    def dims(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def attrs(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def fill(self) -> float | int | str | None: ...  # noqa: D102
    @property
    def chunks(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def shards(self) -> Mapping[str, int]: ...  # noqa: D102


class LayoutLike(Protocol):
    """A group; see `models.common.parts.Layout`."""

    @property
    def variables(self) -> Mapping[str, VariableLike]: ...  # noqa: D102
    @property
    def sizes(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def coordinates(self) -> Mapping[str, tuple[tuple[str, ...], Any, Mapping[str, Any]]]: ...  # noqa: D102
    @property
    def attrs(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def append(self) -> str: ...  # noqa: D102


class Piece(BaseModel):
    """A file of a part: which variable's, and its number along every dimension, from the part's own corner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    variable: str
    place: tuple[int, ...]
    length: int
    sha256: str


class Receipt(BaseModel):
    """What a part brought.

    Attributes:
        name: what a person calls the part.
        key: digest of everything it depends on.
        pieces: its files.
        rows: group to how many rows it has along the dimension that is laid end to end.
        notes: what was found out about it: statistics, counts; JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str
    pieces: tuple[Piece, ...]
    rows: dict[str, int]
    notes: dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """The pieces of one dataset.

    Args:
        folder: where they lie.
    """

    folder: Path
    _receipts: dict[str, Receipt] = field(default_factory=dict, repr=False)

    def receipt(self, key: str) -> Receipt | None:
        """What a part brought; None when it is not there, or not whole."""
        if key not in self._receipts:
            try:
                found = Receipt.model_validate_json((self.folder / key / RECEIPT).read_bytes())
            except (OSError, ValueError):
                return None
            if found.key != key or not self._whole(found):
                return None
            self._receipts[key] = found
        return self._receipts[key]

    def _whole(self, receipt: Receipt) -> bool:
        """Whether every file of a part is as it was written: a version shares it, and both are damaged together."""
        paths = [self.path(receipt, piece) for piece in receipt.pieces]
        try:
            if any(path.stat().st_size != piece.length for path, piece in zip(paths, receipt.pieces, strict=True)):
                return False
            return sha256_of(paths) == [piece.sha256 for piece in receipt.pieces]
        except OSError:
            return False

    def path(self, receipt: Receipt, piece: Piece) -> Path:
        """Where a file of a part lies."""
        return self.folder / receipt.key / _chunk_path(piece.group, piece.variable, piece.place)

    def write(
        self,
        name: str,
        key: str,
        layouts: Mapping[str, LayoutLike],
        arrays: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
        notes: Mapping[str, Any],
    ) -> Receipt:
        """Store one part; a part that another process stored meanwhile stays.

        Args:
            name: of the part.
            key: of the part.
            layouts: groups of the whole.
            arrays: group to variables of this part, dimensions in the order of the layout.
            notes: JSON values that belong to the part.

        Raises:
            OSError: there is no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        staging = self.folder / f".{uuid.uuid4().hex}"
        try:
            pieces, rows = [], {}
            for group, variables in sorted(arrays.items()):
                layout = layouts[group]
                for variable, values in sorted(variables.items()):
                    pieces += _write_array(staging, group, variable, layout.variables[variable], values)
                    if layout.append:
                        rows[group] = values.shape[layout.variables[variable].dims.index(layout.append)]
            receipt = Receipt(name=name, key=key, pieces=tuple(pieces), rows=rows, notes=dict(notes))
            _flush(staging, receipt)
            target = self.folder / key
            if target.exists() and self.receipt(key) is None:  # a part that lost a file gives way
                shutil.rmtree(target)
            with contextlib.suppress(OSError):  # another process was faster
                staging.rename(target)
            sync(self.folder)
            remember((self.path(receipt, piece), piece.sha256) for piece in pieces)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        stored = self.receipt(key)
        if stored is None:
            raise OSError(f"{target}: the part {name!r} could not be put into place; is the disk full?")
        return stored

    def sweep(self, keep: frozenset[str], before: float) -> int:
        """Remove what killed writers left, and parts that nobody asked for since a time; returns how many parts.

        Args:
            keep: keys of parts that stay.
            before: seconds since 1970; younger ones stay.
        """
        removed = 0
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in keep and path.stat().st_mtime < before:
                    shutil.rmtree(path)
                    removed += not path.name.startswith(".")
        return removed

    def join(
        self,
        staging: Path,
        layouts: Mapping[str, LayoutLike],
        parts: Sequence[tuple[Receipt, Mapping[str, Mapping[str, int]]]],
        attrs: Mapping[str, Any],
    ) -> Tree:
        """Put parts together.

        Args:
            staging: empty folder for the metadata and for the groups that are laid end to end.
            layouts: groups of the whole.
            parts: receipt, and group to where the part's arrays begin along some dimensions; in the order of the whole.
            attrs: of the whole.

        Returns:
            The tree of the whole; its files lie in `staging` and in the parts.
        """
        sizes = {group: dict(layout.sizes) for group, layout in layouts.items()}
        for group, layout in layouts.items():
            if layout.append:
                sizes[group][layout.append] = sum(receipt.rows.get(group, 0) for receipt, _ in parts)
        _write_frame(staging, layouts, sizes, attrs)
        leaves: dict[str, Leaf] = {}
        for receipt, at in parts:
            for piece in receipt.pieces:
                layout = layouts[piece.group]
                if not layout.append:
                    variable = layout.variables[piece.variable]
                    starts, shard = at.get(piece.group, {}), _extent(variable, variable.shards, sizes[piece.group])
                    offset = [starts.get(dim, 0) // shard[number] for number, dim in enumerate(variable.dims)]
                    place = tuple(a + b for a, b in zip(offset, piece.place, strict=True))
                    path = _chunk_path(piece.group, piece.variable, place)
                    leaves[path] = Leaf(source=self.path(receipt, piece), length=piece.length, sha256=piece.sha256)
        for group, layout in layouts.items():
            if layout.append:
                for name, variable in layout.variables.items():
                    self._lay_end_to_end(staging, group, name, variable, layout.append, [one for one, _ in parts])
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            sync(file)
            data = file.read_bytes()
            leaves[str(file.relative_to(staging))] = Leaf(
                source=file, length=len(data), sha256=hashlib.sha256(data).hexdigest()
            )
        return Tree(leaves)

    def _lay_end_to_end(
        self, staging: Path, group: str, name: str, variable: VariableLike, append: str, receipts: Sequence[Receipt]
    ) -> None:
        """Copy a variable of all parts into the whole, shard by shard."""
        import zarr

        with _quiet():
            target = zarr.open_array(staging / group / name, mode="r+")
        axis = variable.dims.index(append)
        wanted = (target.shards or target.chunks)[axis]
        held: list[np.ndarray[Any, Any]] = []
        begun = 0
        for receipt in [one for one in receipts if one.rows.get(group)]:
            with _quiet():
                source = zarr.open_array(self.folder / receipt.key / group / name, mode="r")
            bytes_of_row = max(1, source.nbytes // source.shape[axis])
            step = max(1, min(wanted, ROWS_AT_ONCE // bytes_of_row))
            for start in range(0, source.shape[axis], step):
                held.append(np.asarray(source[_slab(source.ndim, axis, start, start + step)]))
                while (rows := sum(block.shape[axis] for block in held)) >= wanted:
                    block = np.concatenate(held, axis)
                    target[_slab(target.ndim, axis, begun, begun + wanted)] = block[_slab(target.ndim, axis, 0, wanted)]
                    held = [block[_slab(target.ndim, axis, wanted, rows)]]
                    begun += wanted
        if held and (rows := sum(block.shape[axis] for block in held)):
            target[_slab(target.ndim, axis, begun, begun + rows)] = np.concatenate(held, axis)


def open_groups(location: str) -> dict[str, Any]:
    """Open the groups of a stored dataset lazily and undecoded: fills are values, times are numbers with units.

    Args:
        location: folder or URL of the tree.

    Returns:
        Group to `xarray.Dataset`; "" is the root.
    """
    import xarray as xr
    import zarr

    with _quiet():
        root = zarr.open_group(location, mode="r")
        names = ["", *sorted(name for name, _ in root.groups())]
        if len(names) > 1 and not any(True for _ in root.arrays()):
            names.remove("")
        return {
            name: xr.open_zarr(
                location, group=name or None, chunks=None, mask_and_scale=False, decode_times=False, consolidated=True
            )
            for name in names
        }


def _slab(dims: int, axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if dim == axis else slice(None) for dim in range(dims))


def _chunk_path(group: str, variable: str, place: tuple[int, ...]) -> str:
    """Path of a file of an array in a tree: that of Zarr 3 with slashes between numbers."""
    return "/".join([*([group] if group else []), variable, "c", *map(str, place)])


def _extent(variable: VariableLike, chosen: Mapping[str, int], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Lengths of chunks or shards; a dimension that is not named is held whole."""
    return tuple(chosen.get(dim) or max(1, sizes[dim]) for dim in variable.dims)


def _create(store: Path, variable: VariableLike, sizes: Mapping[str, int], *, inner: Mapping[str, int]) -> Any:
    """An empty array of Zarr 3: shards hold compressed chunks, each with a checksum of its own."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    shape = tuple(sizes[dim] for dim in variable.dims)
    shards, chunks = _extent(variable, variable.shards, sizes), _extent(variable, inner, sizes)
    chunks = tuple(min(chunk, shard) for chunk, shard in zip(chunks, shards, strict=True))
    shards = tuple(math.ceil(shard / chunk) * chunk for chunk, shard in zip(chunks, shards, strict=True))
    text = variable.dtype == "str"
    width = 1 if text else np.dtype(variable.dtype).itemsize
    with _quiet():
        return zarr.create_array(
            str(store),
            shape=shape,
            dtype="str" if text else variable.dtype,
            chunks=chunks,
            shards=shards if shards != chunks else None,
            fill_value=_fill(variable),
            compressors=[
                BloscCodec(cname=_COMPRESSOR, clevel=_LEVEL, typesize=width, shuffle="shuffle"),
                Crc32cCodec(),
            ],
            dimension_names=variable.dims,
            attributes=_attributes(variable),
            config={"write_empty_chunks": True},
            zarr_format=3,
        )


def _fill(variable: VariableLike) -> Any:
    """What Zarr returns where nothing was written."""
    kind = "U" if variable.dtype == "str" else np.dtype(variable.dtype).kind
    if variable.fill is not None:
        return variable.fill.encode() if kind == "S" and isinstance(variable.fill, str) else variable.fill
    return {"f": math.nan, "U": "", "S": b"", "b": False}.get(kind, 0)


def _attributes(variable: VariableLike) -> dict[str, Any]:
    """Attributes as stored; the fill is told the way xarray reads it from Zarr 3."""
    attributes = dict(variable.attrs)
    if variable.fill is not None and variable.dtype != "str" and np.dtype(variable.dtype).kind not in "SU":
        from xarray.backends.zarr import FillValueCoder

        attributes["_FillValue"] = FillValueCoder.encode(_fill(variable), np.dtype(variable.dtype))
    return attributes


def _write_array(
    staging: Path, group: str, name: str, variable: VariableLike, values: np.ndarray[Any, Any]
) -> list[Piece]:
    """Write one variable of a part; its metadata stay with it, so that a part can be opened alone."""
    sizes = dict(zip(variable.dims, values.shape, strict=True))
    place = staging / group / name
    array = _create(place, variable, sizes, inner=variable.chunks)
    if not values.size:
        return []
    root = place / "c"
    if values.dtype.kind == "O" or not values.ndim:  # text of any length goes through Zarr's own codec
        array[...] = values
        files = sorted(path for path in root.rglob("*") if path.is_file())
        numbers = [tuple(int(number) for number in file.relative_to(root).parts) for file in files]
        written = [_hashed(file, [file.read_bytes()]) for file in files]
    else:
        chunks, shards = array.chunks, array.shards or array.chunks
        numbers = list(np.ndindex(*(math.ceil(n / shard) for n, shard in zip(values.shape, shards, strict=True))))
        files = [root.joinpath(*map(str, number)) for number in numbers]
        for folder in {file.parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        one = partial(_write_shard, values, chunks, shards, array.fill_value, sharded=array.shards is not None)
        with ThreadPoolExecutor(_WRITERS) as pool:
            written = list(pool.map(one, numbers, files))
    return [
        Piece(group=group, variable=name, place=number, length=length, sha256=digest)
        for number, (length, digest) in zip(numbers, written, strict=True)
    ]


def _write_shard(
    values: np.ndarray[Any, Any],
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    fill: Any,
    number: tuple[int, ...],
    file: Path,
    *,
    sharded: bool,
) -> tuple[int, str]:
    """Write one file as Zarr 3 lays it out, and wait until the disk has it; returns its length and checksum.

    Compression, checksums, writing and waiting leave the interpreter free, so threads share the cores and the disk.

    Source:
        Zarr storage specification, version 3; sharding codec 1.0 with its index at the end.
    """
    with _CORES:  # others write and wait meanwhile
        pieces = _shard(values, chunks, shards, fill, number, sharded=sharded)
    return _hashed(file, pieces)


def _shard(
    values: np.ndarray[Any, Any],
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    fill: Any,
    number: tuple[int, ...],
    *,
    sharded: bool,
) -> list[bytes]:
    """The bytes of one file: compressed chunks with their checksums and, of a shard, the index of them."""
    begin = [n * shard for n, shard in zip(number, shards, strict=True)]
    pieces: list[bytes] = []
    index = np.empty((*(shard // chunk for shard, chunk in zip(shards, chunks, strict=True)), 2), "<u8")
    offset = 0
    for inner in np.ndindex(*index.shape[:-1]):
        corner = [start + n * chunk for start, n, chunk in zip(begin, inner, chunks, strict=True)]
        if any(start >= length for start, length in zip(corner, values.shape, strict=True)):
            index[inner] = np.uint64(2**64 - 1)  # outside of the array: no such chunk
            continue
        encoded = _encoded(values, corner, chunks, fill)
        index[inner] = offset, len(encoded) + 4
        pieces += [encoded, _crc(encoded)]
        offset += len(encoded) + 4
    if sharded:
        table = index.tobytes()
        pieces += [table, _crc(table)]
    return pieces


def _encoded(values: np.ndarray[Any, Any], corner: Sequence[int], chunks: tuple[int, ...], fill: Any) -> bytes:
    """One compressed chunk; at an edge the rest of it is the fill."""
    block = values[tuple(slice(start, start + chunk) for start, chunk in zip(corner, chunks, strict=True))]
    if block.shape != chunks:
        whole = np.full(chunks, fill, values.dtype)
        whole[tuple(slice(length) for length in block.shape)] = block
        block = whole
    width = values.dtype.itemsize
    codec = Blosc(cname=_COMPRESSOR, clevel=_LEVEL, shuffle=Blosc.SHUFFLE, typesize=width)
    return bytes(codec.encode(np.ascontiguousarray(block).reshape(-1).view(np.uint8)))


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def _hashed(file: Path, pieces: Sequence[bytes]) -> tuple[int, str]:
    """Write a file, take its checksum, and wait for the disk."""
    with file.open("wb", buffering=0) as handle:
        for piece in pieces:
            written = handle.write(piece)
            while written < len(piece):  # a full disk raises; a short write goes on
                written += handle.write(memoryview(piece)[written:])
        digest = hashlib.sha256()
        for piece in pieces:  # the disk is at work meanwhile
            digest.update(piece)
        os.fsync(handle.fileno())
    return sum(map(len, pieces)), digest.hexdigest()


def _flush(staging: Path, receipt: Receipt) -> None:
    """Wait until the disk has a part; its receipt comes last."""
    staging.mkdir(exist_ok=True)
    for file in staging.rglob("zarr.json"):
        sync(file)
    file = staging / RECEIPT
    file.write_text(receipt.model_dump_json())
    sync(file)
    for folder, _, _ in os.walk(staging):
        sync(Path(folder))


def _write_frame(
    staging: Path, layouts: Mapping[str, LayoutLike], sizes: Mapping[str, Mapping[str, int]], attrs: Mapping[str, Any]
) -> None:
    """Write everything but the parts' own files: metadata of groups and arrays, and the coordinates."""
    import zarr

    with _quiet():
        root = zarr.create_group(str(staging), attributes={**attrs, **(layouts[""].attrs if "" in layouts else {})})
        for group, layout in sorted(layouts.items()):
            if group:
                root.create_group(group, attributes=dict(layout.attrs))
            for name, variable in layout.variables.items():
                _create(staging / group / name, variable, sizes[group], inner=variable.chunks)
            for name, (dims, values, attributes) in layout.coordinates.items():
                coordinate = _Coordinate(dims, values, attributes)
                array = _create(
                    staging / group / name, coordinate, dict(zip(dims, values.shape, strict=True)), inner={}
                )
                if values.size:
                    array[...] = values
        for group in sorted(group for group in layouts if group):
            zarr.consolidate_metadata(str(staging), path=group)
        zarr.consolidate_metadata(str(staging))


class _Coordinate:
    """A coordinate as a variable that is stored in one piece."""

    def __init__(self, dims: tuple[str, ...], values: np.ndarray[Any, Any], attrs: Mapping[str, Any]) -> None:
        self.dims = dims
        self.dtype = "str" if values.dtype.kind in "UOT" else str(values.dtype)
        self.attrs = attrs
        self.fill = None
        self.chunks: Mapping[str, int] = {}
        self.shards: Mapping[str, int] = {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Zarr warns of types and consolidated metadata that are young in its format 3; its version is pinned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="zarr")
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification")
        yield
