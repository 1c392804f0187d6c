"""Items by the identifiers of the data, and never by those of another item."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.feed.retrieval.features import encode_attributes
from models.feed.retrieval.members import Members
from models.feed.retrieval.network import TowerConfig, TwoTower


def members(items: list[Any]) -> Members:
    """Of some items with an attribute, and of two users."""
    size = len(items)
    table = pa.table({"item": np.arange(size), "item_id": items, "kind": [str(row % 2) for row in range(size)]})
    data = {"items": table, "users": pa.table({"user": [0, 1], "user_id": ["ann", "bob"]})}
    codes = int(encode_attributes(table).codes.max()) + 1
    return Members(TwoTower(users=2, items=size, codes=codes, config=TowerConfig(dimension=6, hidden=8)), data)


@pytest.mark.parametrize(
    ("items", "ids", "right"),
    [
        ([7, 3, 5], [3, 7, 0], [3, 7, 0]),  # the index calls items by their identifiers, also those that came since
        (["1", "7", "x"], [0, 1, 2, 7], ["1", "7", "x", None]),  # 7 came since and is not the item "7"
        ([-1, 7, 5], [0, 2, 7], [-1, 5, None]),
    ],
)
def test_a_number_of_the_index_is_never_taken_for_another_item(items: Any, ids: Any, right: Any) -> None:
    assert members(items).identifiers(np.array(ids)) == right


def test_a_vector_is_of_length_one_however_items_are_written() -> None:
    ours = members([7, 3, 5])
    vector = ours.vector("ann", [7, "3"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(vector, ours.vector("ann", ["7", 3]))
    assert not np.array_equal(vector, ours.vector("bob", [7, 3]))
