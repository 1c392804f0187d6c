"""Orders of columns, and which rows they give."""

import numpy as np
import pyarrow as pa
import pytest

from models.feed.retrieval.attributes import Orders
from models.feed.retrieval.columns import Column, column


def filled(values: pa.Array) -> Column:
    made = column("value", values.type)
    made.append(made.encode(pa.chunked_array([values])), 0)
    return made


NUMBERS = [None if value > 95 else value for value in np.random.default_rng(0).integers(0, 100, 3000).tolist()]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(NUMBERS, pa.int64()),
        pa.array(NUMBERS, pa.float64()),
        pa.array([None if value is None else value > 50 for value in NUMBERS]),
        pa.array([None if value is None else f"{value}" for value in NUMBERS]),
        pa.array([None if value is None else [value % 7, value % 5] for value in NUMBERS], pa.list_(pa.int64())),
    ],
    ids=lambda values: str(values.type),
)
@pytest.mark.parametrize("known", [0, 1, 2000, 2999, 3000])
def test_an_order_that_goes_on_is_the_order_made_anew(values: pa.Array, known: int) -> None:
    columns = {"value": filled(values)}
    anew = Orders.of(columns, 3000).by_column["value"]
    on = Orders.of(columns, 3000, Orders.of(columns, known)).by_column["value"]
    whole = [(0, len(anew._rows))]
    assert np.array_equal(on.rows(whole, None), anew.rows(whole, None))


def test_rows_that_are_not_live_are_left_out_in_order() -> None:
    order = Orders.of({"value": filled(pa.array(NUMBERS, pa.int64()))}, 3000).by_column["value"]
    live = np.random.default_rng(1).random(3000) < 0.5
    pieces = [(10, 400), (900, 901), (2000, 3000)]
    rows = order.rows(pieces, None)
    assert np.array_equal(order.rows(pieces, live), rows[live[rows]])
