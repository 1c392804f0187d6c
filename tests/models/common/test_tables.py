"""Numbers of somebody's own table: whatever their type, finite, and what an empty cell means is said by who reads."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.common.contracts import InputError
from models.common.tables import read_numbers, read_table

FILE = Path("costs.csv")


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, 0, -2]),
        pa.array([3.0, 0.0, -2.0], pa.float32()),
        pa.array(["3", " 0.0 ", "-2e0"]),
        pa.array(["3", "0", "-2"]).dictionary_encode(),
    ],
)
def test_numbers_of_any_type_are_read_alike(values: pa.Array) -> None:
    found = read_numbers(FILE, pa.table({"cost": values}), "cost")
    assert found.dtype == np.float64
    assert found.tolist() == [3.0, 0.0, -2.0]


def test_an_empty_cell_is_what_its_reader_says_or_refused() -> None:
    table = pa.table({"cost": pa.array(["1.5", None])})
    assert read_numbers(FILE, table, "cost", empty=0.0).tolist() == [1.5, 0.0]
    assert np.isnan(read_numbers(FILE, pa.table({"cost": pa.nulls(2)}), "cost", empty=np.nan)).all()
    with pytest.raises(InputError, match=r"costs.csv, column 'cost', row 2: None: a number must not be missing"):
        read_numbers(FILE, table, "cost")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pa.array(["1", "two"]), r"row 2: 'two': write a number"),
        (pa.array([1.0, np.nan]), r"row 2: nan: numbers must be finite"),
        (pa.array(["inf", "1"]), r"row 1: inf: numbers must be finite"),
        (pa.array([True, False]), r"holds bool; it must hold numbers"),
    ],
)
def test_what_is_no_number_is_named_with_its_row(values: pa.Array, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_numbers(FILE, pa.table({"cost": values}), "cost")


def test_a_table_is_read_by_its_first_bytes_and_lacks_no_column(tmp_path: Path) -> None:
    path = tmp_path / "costs.parquet"
    path.write_text("cost,name\n1.5,a\n")
    assert read_numbers(path, read_table(path, ("cost",)), "cost").tolist() == [1.5]
    with pytest.raises(InputError, match=r"has no column 'price'; it has \['cost', 'name'\]"):
        read_table(path, ("price",))
