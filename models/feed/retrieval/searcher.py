"""A published index, opened to be asked for neighbours without its service: the same items, the same search.

What was written in service counts as far as it is on the disk for certain, which is all that was ever answered for. A
folder that holds no more than the version does, or that is not on this machine, changes nothing.
"""

# Shapes: N items, D dimension, Q queries.

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.feed.retrieval.data import index_ids
from models.feed.retrieval.delta import DeltaError, replayed, stored
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.metrics import popularity


class IndexSearcher:
    """The items of an index by their identifiers; see `models.common.contracts.Searcher`.

    Args:
        product: a published version.
        data: behind it; the part `writes` has those that the version holds itself.
        folder: where its service keeps what is written to it; it need not exist, and is only read.

    Raises:
        DeltaError: the folder is damaged, or holds other writes than the version.

    Source:
        Ours.
    """

    def __init__(self, product: Payload, data: Payload, folder: Path) -> None:
        parts, self._about = as_served(product, data, folder)
        self._index = RetrievalIndex.restore(parts)
        kept = self._index.snapshot()  # in ascending order of ids
        self._ids: NDArray[np.int64] = kept["ids"]
        self._vectors: NDArray[np.float32] = kept["vectors"]
        ids, named = index_ids(data), data["items"]["item_id"].combine_chunks()
        order = np.argsort(ids)
        place = np.searchsorted(ids, self._ids, sorter=order)
        row = order[np.minimum(place, len(ids) - 1)]
        self._rows = np.where(ids[row] == self._ids, row, -1)
        own = pa.types.is_integer(named.type) and bool((ids == np.asarray(named.to_numpy(zero_copy_only=False))).all())
        self._items = pa.array(self._ids) if own else named.take(pa.array(self._rows, mask=self._rows < 0))
        self._popularity = None
        if "train" in data:
            met = popularity([data[name] for name in ("train", "validation")], len(ids), 1.0)
            self._popularity = np.where(self._rows >= 0, met[self._rows], 0).astype(np.float64)

    @property
    def items(self) -> pa.Array:
        """(N) identifiers as in the data; of items that came since where the index goes by identifiers, else null."""
        return self._items

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, D)."""
        return self._vectors

    @property
    def popularity(self) -> NDArray[np.float64] | None:
        """(N) how often each was met before the test part; None where nobody met anything."""
        return self._popularity

    @property
    def about(self) -> Mapping[str, str | int]:
        """Line and number of the last write that is searched; empty where there is none beyond the version's own."""
        return self._about

    def neighbours(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(Q, k) places in `items` and inner products, best first; -1 and minus infinity where there are no more."""
        hits = self._index.search(queries, k)
        places = np.where(hits.ids >= 0, np.searchsorted(self._ids, hits.ids), -1)
        return places, hits.scores


def as_served(product: Payload, data: Payload, folder: Path) -> tuple[Payload, Mapping[str, str | int]]:
    """The items that the service of a version answers from, as far as they are on the disk for certain.

    Args:
        product: the version.
        data: behind it, with its `writes`.
        folder: of the service.

    Returns:
        The parts of an index, and which writes it has beyond the version.

    Raises:
        DeltaError: the folder is damaged, or holds writes while the version holds those of another folder.

    Source:
        Ours; it takes what `LiveIndex.open` would.
    """
    found = stored(folder)
    if found is None or not found.sequence:
        return product, {}
    held = data["writes"]["about"] if "writes" in data else None
    if held is not None:
        if held["line"] != found.description.line:
            raise DeltaError(
                f"{folder} holds other writes (line {found.description.line}) than the version (line "
                f"{held['line']}); move it away to search without them."
            )
        if found.sequence <= held["sequence"]:
            return product, {}
    return replayed(found), {"line": found.description.line, "sequence": found.sequence}
