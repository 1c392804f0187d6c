"""Hours of a stored variable, straight from the files of a local Zarr 3 array.

Zarr's own reader takes a millisecond of the interpreter for every chunk, whichever thread asks, and a stored hour may
have a thousand: one for each level of each variable. Here an hour costs one file for each block of levels, and what
takes time, decompression and checksums, leaves the interpreter free.

Shapes: T hours, L levels, I latitudes, J longitudes.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
import xarray as xr
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from xarray.core import indexing
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding
from zarr.storage import LocalStore

from models.common.errors import InputError

Singles = NDArray[np.float32]

_ABSENT = 2**64 - 1
"""What stands in the index of a shard for a chunk that it lacks."""


class Hours(Protocol):
    """A variable of hours, read one at a time; by any thread."""

    @property
    def place(self) -> str:
        """What an error calls it: its path, or its name."""

    def read(self, hour: int, levels: slice, out_LIJ: Singles) -> None:
        """Fill an array with levels of one hour; raises `InputError` or `OSError`."""


def hours_of(variable: xr.Variable, name: str) -> Hours:
    """The fastest way to the hours of a variable.

    Args:
        variable: (time, level, lat, lon); of a store that was opened lazily, or in memory.
        name: what errors call it where it has no file.

    Returns:
        `StoredHours` for whole maps of an hour in local files that `infra` wrote, `LabelledHours` for anything else.

    Source:
        Ours.
    """
    array = _array_behind(variable)
    if array is not None and (layout := _layout(array)) is not None:
        return layout
    return LabelledHours(variable=variable, place=name)


@dataclass(frozen=True, eq=False)
class LabelledHours:
    """Hours of any variable on (time, level, lat, lon) or (time, lat, lon), through xarray."""

    variable: xr.Variable
    place: str

    def read(self, hour: int, levels: slice, out_LIJ: Singles) -> None:
        """See `Hours`."""
        values = self.variable[hour].values if self.variable.ndim == 3 else self.variable[hour, levels].values
        out_LIJ[...] = values


@dataclass(frozen=True, eq=False)
class StoredHours:
    """Hours of an array in local files, whose chunks are blocks of levels of one hour.

    Attributes:
        folder: of the array.
        shape: (T, L, I, J).
        chunk: levels of a chunk.
        shard: hours and levels of a file; None where a chunk is a file.
        checked: whether chunks end with a checksum.
    """

    folder: Path
    shape: tuple[int, int, int, int]
    chunk: int
    shard: tuple[int, int] | None
    checked: bool

    @property
    def place(self) -> str:
        """The folder of the array."""
        return str(self.folder)

    def read(self, hour: int, levels: slice, out_LIJ: Singles) -> None:
        """See `Hours`.

        Raises:
            InputError: a file is missing, cut short, or does not have the checksum that it was written with.
        """
        first, last, _ = levels.indices(self.shape[1])
        hours, high = self.shard or (1, self.chunk)
        for number in range(first // high, -(-last // high)):
            file = self.folder.joinpath("c", str(hour // hours), str(number), "0", "0")
            try:
                if self.shard is None:
                    self._place(file.read_bytes(), number * high, first, last, out_LIJ, file)
                else:
                    self._read_shard(file, self.shard, hour, number * high, first, last, out_LIJ)
            except FileNotFoundError:
                raise InputError(f"{file} is missing; the dataset is damaged, prepare or restore it.") from None

    def _read_shard(
        self, file: Path, shard: tuple[int, int], hour: int, begin: int, first: int, last: int, out_LIJ: Singles
    ) -> None:
        """The chunks of one hour of one file; chunks of an hour lie side by side, so that one read fetches them."""
        hours, high = shard
        inner = high // self.chunk
        with file.open("rb", buffering=0) as handle:
            size = os.fstat(handle.fileno()).st_size
            length = 16 * hours * inner + 4
            index = os.pread(handle.fileno(), length, size - length) if size >= length else b""
            if len(index) != length or _checksum(index[:-4]) != index[-4:]:
                raise InputError(f"{file} is damaged: its index of chunks is not whole; restore the dataset.")
            chunk_KQ = np.frombuffer(index[:-4], "<u8").reshape(hours, inner, 2)[hour % hours]
            wanted = range(max(0, (first - begin) // self.chunk), min(inner, -(-(last - begin) // self.chunk)))
            places = [(int(chunk_KQ[k, 0]), int(chunk_KQ[k, 1])) for k in wanted]
            if any(_ABSENT in place for place in places):
                raise InputError(f"{file} lacks a chunk of hour {hour}; the dataset is damaged, restore it.")
            start, stop = min(a for a, _ in places), max(a + n for a, n in places)
            data = memoryview(os.pread(handle.fileno(), stop - start, start))
        for k, (offset, count) in zip(wanted, places, strict=True):
            piece = data[offset - start : offset - start + count]
            self._place(piece, begin + k * self.chunk, first, last, out_LIJ, file)

    def _place(
        self, piece: bytes | memoryview, begin: int, first: int, last: int, out_LIJ: Singles, file: Path
    ) -> None:
        """Decompress a chunk into the levels that are wanted of it."""
        if self.checked:
            if len(piece) < 4 or _checksum(piece[:-4]) != bytes(piece[-4:]):
                raise InputError(f"{file} is damaged: a chunk does not have its checksum; restore the dataset.")
            piece = piece[:-4]
        end = begin + self.chunk
        whole = first <= begin and end <= last and out_LIJ.flags.c_contiguous
        rest = self.shape[2:]
        target = out_LIJ[begin - first : end - first] if whole else np.empty((self.chunk, *rest), np.float32)
        try:
            blosc.decompress(piece, target)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{file} is damaged: a chunk cannot be decompressed ({error}); restore it.") from error
        if not whole:
            low, high = max(first, begin), min(last, end)
            out_LIJ[low - first : high - first] = target[low - begin : high - begin]


def _checksum(data: bytes | memoryview) -> bytes:
    return int(google_crc32c.value(bytes(data))).to_bytes(4, "little")


def _array_behind(variable: xr.Variable) -> "zarr.Array[Any] | None":
    """The whole Zarr array that a variable shows, if it shows one; None for parts, changed values, anything in memory.

    xarray has no public way to it. What it does not recognise is read through xarray, only slower.
    """
    data = variable._data
    while isinstance(data, indexing.MemoryCachedArray | indexing.CopyOnWriteArray):
        data = data.array
    if not isinstance(data, indexing.LazilyIndexedArray):
        return None
    key = data.key.tuple
    if any(one != slice(None) for one in key):
        return None
    array = getattr(data.array, "_array", None)
    return array if isinstance(array, zarr.Array) and array.shape == variable.shape else None


def _layout(array: "zarr.Array[Any]") -> StoredHours | None:
    """How to read an array, if its files are as `infra` writes them."""
    metadata: Any = array.metadata
    store = array.store
    if not isinstance(store, LocalStore):
        return None
    known = (
        metadata.zarr_format == 3
        and array.ndim == 4
        and array.dtype == np.dtype("<f4")
        and isinstance(metadata.chunk_key_encoding, DefaultChunkKeyEncoding)
        and metadata.chunk_key_encoding.separator == "/"
        and array.chunks[0] == 1
        and array.chunks[2:] == array.shape[2:]
    )
    if not known:
        return None
    codecs, shard = metadata.codecs, None
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        one = codecs[0]
        index = one.index_codecs
        if (
            one.index_location.value != "end"
            or len(index) != 2
            or not (_little(index[0]) and isinstance(index[1], Crc32cCodec))
            or array.shards is None
            or array.shards[2:] != array.chunks[2:]
        ):
            return None
        codecs, shard = one.codecs, (array.shards[0], array.shards[1])
    if not (len(codecs) in (2, 3) and _little(codecs[0]) and isinstance(codecs[1], BloscCodec)):
        return None
    if len(codecs) == 3 and not isinstance(codecs[2], Crc32cCodec):
        return None
    return StoredHours(
        folder=Path(store.root) / array.path,
        shape=(array.shape[0], array.shape[1], array.shape[2], array.shape[3]),
        chunk=array.chunks[1],
        shard=shard,
        checked=len(codecs) == 3,
    )


def _little(codec: Any) -> bool:
    return isinstance(codec, BytesCodec) and codec.endian is not None and codec.endian.value == "little"
