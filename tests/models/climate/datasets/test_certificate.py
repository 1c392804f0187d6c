"""What is stored against what is made again, and statistics that are counted again."""

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr

from models.climate.datasets.certificate import claim_of_statistics, claims_of_parts, differences, distance
from models.common.moments import moments


def stored(values: Any, dims: tuple[str, ...] = ("time", "lat")) -> dict[str, xr.Dataset]:
    return {"g": xr.Dataset({"x": (dims, np.asarray(values))})}


VALUES = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([math.nan, 2.0], [math.nan, 2.0], 0.0),
        ([math.nan, 2.0], [1.0, 2.0], math.inf),
        ([1.0, 2.0], [math.nan, 2.0], math.inf),
        ([1.0], [1.0, 2.0], math.inf),
        ([0.0, 1e-9], [0.0, 0.0], math.inf),
        ([], [], 0.0),
        (["a", "é"], ["a", "é"], 0.0),
        (["a", "b"], ["a", "c"], math.inf),
        (np.array([b"EX", b"TS"]), ["EX", "TS"], 0.0),
        ([0, 86400], np.array(["1970-01-01", "1970-01-02"], "datetime64[ns]"), 0.0),
    ],
)
def test_distances_are_relative_and_infinite_where_something_is_missing(
    ours: Any, theirs: Any, expected: float
) -> None:
    assert distance(np.asarray(ours), np.asarray(theirs)) == expected


def test_a_part_is_looked_for_in_its_place() -> None:
    place = {"g": {"time": slice(2, None)}}
    part = stored(VALUES[2:4])
    assert differences(stored(VALUES), [("late", place, part)])["g/x"].largest == 0
    wrong = differences(stored(VALUES[::-1]), [("late", place, part)])["g/x"]
    assert (wrong.largest > 0.5, wrong.where, wrong.values) == (True, "late", 6)


def test_rows_that_the_reference_lacks_are_a_difference() -> None:
    place = {"g": {"time": slice(1, 4)}}
    assert differences(stored(VALUES), [("part", place, stored(VALUES[1:3]))])["g/x"].largest == math.inf


def test_the_order_of_dimensions_does_not_matter() -> None:
    part = {"g": xr.Dataset({"x": (("lat", "time"), VALUES.T)})}
    assert differences(stored(VALUES), [("all", {}, part)])["g/x"].largest == 0


def test_exact_and_bounded_variables_have_a_claim_each() -> None:
    found = differences(stored(VALUES), [("part", {}, stored(VALUES + 1e-9))])
    (exact,) = claims_of_parts(found, {}, 1, 2)
    assert (exact.kind, exact.holds) == ("exact", False)
    (bounded,) = claims_of_parts(found, {"x": 1e-6}, 1, 2)
    assert (bounded.kind, bounded.holds) == ("bounded", True)
    assert "g/x in part" in bounded.detail


def published(values: np.ndarray, keep: tuple[int, ...], fill: float | None = None) -> dict[str, Any]:
    found = moments(values, keep, fill)
    return {
        "g/x": {
            "count": found.count.tolist(),
            "mean": found.mean.tolist(),
            "deviation": found.deviation.tolist(),
            "minimum": found.minimum.tolist(),
            "maximum": found.maximum.tolist(),
        }
    }


@pytest.mark.parametrize(("keep", "fill"), [((), None), ((1,), None), ((0,), 7.0)])
def test_statistics_hold_and_every_change_to_one_is_found(keep: tuple[int, ...], fill: float | None) -> None:
    values = np.random.default_rng(1).normal(5, 2, (4, 3))
    values[1, 2] = math.nan
    values[3, 1] = 7.0
    groups, right = stored(values), published(values, keep, fill)
    fills = {} if fill is None else {"g/x": fill}
    assert claim_of_statistics(groups, right, ["g/x"], fills).value < 1e-14
    for name in ("count", "mean", "deviation", "minimum", "maximum"):
        wrong = {"g/x": {**right["g/x"], name: (np.array(right["g/x"][name], float) * (1 + 1e-9)).tolist()}}
        assert not claim_of_statistics(groups, wrong, ["g/x"], fills).holds, name


def test_statistics_of_a_variable_without_a_value_hold() -> None:
    values = np.full((2, 3), math.nan)
    right = published(values, ())
    right["g/x"] = {key: None if value != value else value for key, value in right["g/x"].items()}
    assert claim_of_statistics(stored(values), right, ["g/x"], {}).holds
