"""What was written to an index since it was built, as rows: by plain loops over records, with no index at work.

A compacted index comes from `RetrievalIndex`; what it should hold comes from here. The two share the bytes of the log.

Shapes: N items as they were built, M items that are new or other since, G items that are gone, D dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.feed.retrieval.delta import UPSERT, Record, Stored

Integers = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Writes:
    """The difference between an index as it was built and as it became, item by item.

    Attributes:
        ids: (M) of items that are new or other, ascending.
        vectors: (M, D) theirs.
        attributes: M rows of theirs.
        gone: (G) items that were removed, ascending.
        line: whose writes they are; see `delta.Description`.
        sequence: number of the last write.
    """

    ids: Integers
    vectors: Vectors
    attributes: pa.Table
    gone: Integers
    line: str
    sequence: int

    def parts(self) -> Payload:
        """As parts to be stored."""
        return {
            "ids": self.ids,
            "vectors": self.vectors,
            "attributes": self.attributes,
            "gone": self.gone,
            "about": {"line": self.line, "sequence": self.sequence},
        }

    @classmethod
    def of(cls, parts: Payload) -> "Writes":
        """The inverse of `parts`."""
        rows = {name: parts[name] for name in ("ids", "vectors", "attributes", "gone")}
        return cls(**rows, **parts["about"])

    def applied(self, vectors: Vectors, ids: Integers, attributes: pa.Table) -> tuple[Vectors, Integers, pa.Table]:
        """The items as they became.

        Args:
            vectors: (N, D) as they were built.
            ids: (N) theirs.
            attributes: N rows of theirs, with the columns of the index.

        Returns:
            The same of the items that are there now: first those that stayed as they were.
        """
        stayed = np.flatnonzero(~np.isin(ids, np.concatenate([self.ids, self.gone])))
        old = attributes.take(pa.array(stayed)) if attributes.num_columns else attributes
        new = self.attributes.select(attributes.column_names)
        columns = []
        for name in attributes.column_names:
            one = _plain(old[name])
            columns.append(pa.chunked_array([*one.chunks, *_plain(new[name]).cast(one.type).chunks], one.type))
        return (
            np.concatenate([vectors[stayed], self.vectors]),
            np.concatenate([ids[stayed], self.ids]),
            pa.table(columns, names=attributes.column_names),
        )

    def missing_from(self, product: Payload) -> int:
        """How many of these items a product does not hold as they were written, or holds although they are gone."""
        place = _places(product["ids"])
        wrong = sum(identity in place for identity in self.gone.tolist())
        rows, mine = [_rows(product)], [(self.vectors, self.attributes.select(product["attributes"].column_names))]
        for row, identity in enumerate(self.ids.tolist()):
            wrong += identity not in place or _row(rows, (0, place[identity])) != _row(mine, (0, row))
        return wrong


def writes_of(built: Payload, found: Stored) -> Writes:
    """What a folder holds that is not as it was built.

    A write that changes nothing in the end leaves no trace: the same items give the same writes, whatever came between.

    Args:
        built: parts of the index as it was built.
        found: what the folder holds, from `delta.stored`.

    Returns:
        The writes.

    Source:
        Ours.
    """
    base, told = found.base, found.description
    was, is_base = _places(built["ids"]), _places(base["ids"])
    last, upserts = _last_of_each(found.records, told.columns)
    touched = set(last)
    if told.sequence:  # the base is no longer what was built
        touched |= _differing(built, base, was, is_base)
    kept, gone, batches = list[tuple[int, int, int]](), list[int](), [_rows(base), *upserts]
    for identity in sorted(touched):
        at = last.get(identity, (0, is_base[identity]) if identity in is_base else None)
        if at is None:
            if identity in was:
                gone.append(identity)
        elif identity not in was or _row(batches, at) != _row([_rows(built)], (0, was[identity])):
            kept.append((identity, *at))
    return Writes(
        ids=np.array([identity for identity, _, _ in kept], np.int64),
        vectors=_gathered(batches, kept, built["vectors"].shape[1]),
        attributes=_taken(batches, kept, built["attributes"].schema),
        gone=np.array(gone, np.int64),
        line=told.line,
        sequence=found.sequence,
    )


Rows = tuple[Vectors, pa.Table]
Place = tuple[int, int]
"""Number of a batch, and a row in it."""


def _last_of_each(records: Sequence[Record], columns: pa.Schema) -> tuple[dict[int, Place | None], list[Rows]]:
    """Of each id that was written where its last row stands, None when it was deleted; and the rows of all upserts."""
    last: dict[int, Place | None] = {}
    upserts = list[Rows]()
    for record in records:
        buffer = pa.py_buffer(record.payload)
        if record.kind == UPSERT:
            table = pa.Table.from_batches([pa.ipc.read_record_batch(buffer, columns)])
            vectors = table.column(1).combine_chunks()
            flat = vectors.flatten().to_numpy().reshape(len(table), vectors.type.list_size)
            upserts.append((flat, table.select(range(2, table.num_columns))))
            last.update({one: (len(upserts), row) for row, one in enumerate(table.column(0).to_pylist())})
        else:
            deleted = pa.ipc.read_record_batch(buffer, pa.schema([pa.field("id", pa.int64())]))
            last.update(dict.fromkeys(deleted.column(0).to_pylist()))
    return last, upserts


def _differing(built: Payload, base: Payload, was: Mapping[int, int], is_base: Mapping[int, int]) -> set[int]:
    """Ids of items that are in one of two indexes alone, or not the same in both."""
    shared = sorted(set(was) & set(is_base))
    left, right = [was[one] for one in shared], [is_base[one] for one in shared]
    other = (built["vectors"][left] != base["vectors"][right]).any(axis=1)
    for one, two in zip(built["attributes"].columns, base["attributes"].columns, strict=True):
        one, two = _plain(one.take(pa.array(left, pa.int64()))), _plain(two.take(pa.array(right, pa.int64())))
        if not one.equals(two):
            pairs = zip(one.to_pylist(), two.to_pylist(), strict=True)
            other |= np.array([_known(mine) != _known(theirs) for mine, theirs in pairs], bool)
    return (set(was) ^ set(is_base)) | {identity for identity, differs in zip(shared, other, strict=True) if differs}


def _row(batches: Sequence[Rows], at: Place) -> tuple[bytes, list[Any]]:
    """A row as plain values."""
    vectors, attributes = batches[at[0]]
    return vectors[at[1]].tobytes(), [_known(column[at[1]].as_py()) for column in attributes.columns]


def _known(value: Any) -> Any:
    """The value as an index keeps it: not-a-number and half a point are null, longitude -180 is 180."""
    if isinstance(value, dict):
        half = any(part is None or part != part for part in value.values())
        return None if half else {name: 180.0 if part == -180 else part for name, part in value.items()}
    return None if isinstance(value, float) and value != value else value


def _gathered(batches: Sequence[Rows], kept: Sequence[tuple[int, int, int]], dimension: int) -> Vectors:
    rows = [batches[batch][0][row] for _, batch, row in kept]
    return np.array(rows, np.float32).reshape(len(rows), dimension)


def _taken(batches: Sequence[Rows], kept: Sequence[tuple[int, int, int]], schema: pa.Schema) -> pa.Table:
    """The attributes of some rows, in the order in which they are wanted."""
    columns = []
    for number, field in enumerate(schema):
        plain = _plain(pa.chunked_array([], field.type)).type
        starts, pieces = [0], list[pa.Array]()
        for _, attributes in batches:
            values = _plain(attributes.column(number))
            starts.append(starts[-1] + len(values))
            pieces += [piece.cast(plain) for piece in values.chunks]
        places = pa.array([starts[batch] + row for _, batch, row in kept], pa.int64())
        columns.append(pa.chunked_array(pieces, plain).take(places))
    return pa.table(columns, names=schema.names)


def _rows(parts: Payload) -> Rows:
    return parts["vectors"], parts["attributes"]


def _places(ids: Integers) -> dict[int, int]:
    return {identity: row for row, identity in enumerate(ids.tolist())}


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values without a dictionary."""
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
