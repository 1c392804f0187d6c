"""Identifiers: found however they were written, and named when they are not there."""

import pyarrow as pa
import pytest

from models.common.contracts import InputError
from models.common.identifiers import places_of

ITEMS = pa.array([12, 7, 30])


def test_places_are_in_the_order_that_was_asked() -> None:
    assert places_of(pa.array([30, 12, 30]), ITEMS, where="the index").tolist() == [2, 0, 2]


def test_a_number_written_as_text_is_the_same_item_either_way() -> None:
    assert places_of(pa.array(["7", "12"]), ITEMS, where="the index").tolist() == [1, 0]
    assert places_of(pa.array([7]), pa.array(["ann", "7"]), where="the index").tolist() == [1]


def test_unknown_items_are_named_with_how_many_more_there_are() -> None:
    with pytest.raises(InputError, match=r"retrieval-x has no item 1, 2, 3, 4, 5 and 2 more; its 3 items .* 12, 7, 30"):
        places_of(pa.array([1, 2, 12, 3, 4, 5, 6, 8]), ITEMS, where="retrieval-x")


def test_an_item_without_an_identifier_is_nobody() -> None:
    items = pa.array(["ann", None, "bob"])
    assert places_of(pa.array(["bob"]), items, where="the index").tolist() == [2]
    with pytest.raises(InputError, match="has no item None"):
        places_of(pa.array([None], pa.string()), items, where="the index")
