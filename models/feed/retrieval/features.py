"""What the towers see of an item: its attributes as a short weighted bag of codes."""

# Shapes: N items, A places for codes in an item's bag.

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.feed.points import is_point

MOST_VALUES = 512
MOST_PER_ITEM = 12
BUCKETS = 16
OURS = ("item", "item_id")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Attributes of all items as codes.

    Attributes:
        codes: (N, A) int64, below `size`; every attribute has codes of its own.
        weights: (N, A) float32; the weights of one attribute's codes sum to one in each item.
        size: number of codes.
    """

    codes: NDArray[np.int64]
    weights: NDArray[np.float32]
    size: int


def attribute_names(items: pa.Table) -> list[str]:
    """The attribute columns of an items table: all but our own identifiers."""
    return [name for name in items.column_names if name not in OURS]


def encode_attributes(items: pa.Table) -> Features:
    """Encode every attribute of a table of items.

    Text and truth values become one code per value (rare values beyond the 512 most frequent share a code), numbers
    the code of one of at most 16 buckets of equal count, lists up to 12 codes with equal weights. Null, an empty list
    and "other" have a code of their own in each attribute. Text in which most values differ (a title) tells items
    apart as their identifier already does, and is left out; so are points, which have no value of their own to learn.

    Args:
        items: `item`, `item_id` and attributes.

    Returns:
        The features; a function of the table alone.

    Source:
        Ours; embedding bags of side information as in Covington et al. 2016, "Deep Neural Networks for YouTube
        Recommendations", section 3.2.
    """
    codes: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float32]] = []
    size = 0
    for name in attribute_names(items):
        column = items[name].combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        encoded = _encode(column)
        if encoded is None:
            continue
        codes.append(encoded.codes + size)
        weights.append(encoded.weights)
        size += encoded.size
    if not codes:
        rows = items.num_rows
        return Features(codes=np.zeros((rows, 1), np.int64), weights=np.zeros((rows, 1), np.float32), size=1)
    return Features(codes=np.concatenate(codes, 1), weights=np.concatenate(weights, 1), size=size)


def _encode(column: pa.Array) -> Features | None:
    if is_point(column.type):
        return None
    if pa.types.is_list(column.type):
        return _encode_lists(column)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _one_code(*_buckets(column))
    codes, size, distinct = _categories(column)
    many_differ = pa.types.is_string(column.type) and distinct > 100 and 2 * distinct > len(column)
    return None if many_differ else _one_code(codes, size)


def _one_code(codes: NDArray[np.int64], size: int) -> Features:
    return Features(codes=codes[:, None], weights=np.ones((len(codes), 1), np.float32), size=size)


def _buckets(column: pa.Array) -> tuple[NDArray[np.int64], int]:
    """Bucket of equal count of each number, 0 for null."""
    null = np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False), bool)
    values = np.asarray(pc.fill_null(pc.cast(column, pa.float64()), 0.0).to_numpy(zero_copy_only=False), np.float64)
    present = values[~null]
    if not len(present):
        return np.zeros(len(values), np.int64), 1
    edges = np.unique(np.quantile(present, np.arange(1, BUCKETS) / BUCKETS))
    return np.where(null, 0, 1 + np.searchsorted(edges, values, side="right")), len(edges) + 2


def _categories(column: pa.Array) -> tuple[NDArray[np.int64], int, int]:
    """Code of each value by falling frequency (ties by value), 0 for null and for all beyond the most frequent."""
    text = pc.cast(column, pa.string())
    counted = pc.value_counts(text.drop_null())
    pairs = sorted(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True), key=_by_frequency)
    kept = pa.array([value for value, _ in pairs[:MOST_VALUES]], pa.string())
    place = pc.add(pc.cast(pc.index_in(text, value_set=kept, skip_nulls=True), pa.int64()), 1)
    return np.asarray(pc.fill_null(place, 0).to_numpy(zero_copy_only=False), np.int64), len(kept) + 1, len(pairs)


def _by_frequency(pair: tuple[str, int]) -> tuple[int, str]:
    return -pair[1], pair[0]


def _encode_lists(column: pa.Array) -> Features:
    rows = len(column)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False), np.int64)
    flat, size, _ = _categories(pc.list_flatten(column))
    owner = np.repeat(np.arange(rows), lengths)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    width = int(np.clip(lengths.max(initial=1), 1, MOST_PER_ITEM))
    kept = place < width
    codes = np.zeros((rows, width), np.int64)
    weights = np.zeros((rows, width), np.float32)
    codes[owner[kept], place[kept]] = flat[kept]
    weights[owner[kept], place[kept]] = 1.0
    weights[lengths == 0, 0] = 1.0
    return Features(codes=codes, weights=weights / weights.sum(1, keepdims=True), size=size)
