"""Circles and boxes on the sphere, against the haversine, and the rows that orders find against all rows."""

import hashlib
import io
import math
import os
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.feed.points import POINT, degrees_of, is_point
from models.feed.retrieval import attributes as module
from models.feed.retrieval.attributes import Orders, select
from models.feed.retrieval.columns import Points
from models.feed.retrieval.filter import GeoBox, GeoWithin, IsNull, Predicate, col
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.points import EARTH_KM, circle_of, rectangle, units_of

CASES = int(os.environ.get("HEADRACE_CASES", "100"))
HALF_ROUND = math.pi * EARTH_KM

latitudes = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, -89.9999, -1e-9, 0.0, 45.0, 89.99, 90.0]))
longitudes = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, -179.9999, -90.0, 0.0, 1e-300, 179.99, 180.0]))
points = st.tuples(latitudes, longitudes)
distances = st.one_of(st.floats(0, 20100), st.floats(0, 1), st.sampled_from([0.0, 111.2, 10007.5, HALF_ROUND, 1e9]))


def haversine(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Great-circle distance in kilometres, of points as degrees (..., 2)."""
    (up, along), (there, beside) = np.moveaxis(np.radians(one), -1, 0), np.moveaxis(np.radians(other), -1, 0)
    square = np.sin((there - up) / 2) ** 2 + np.cos(up) * np.cos(there) * np.sin((beside - along) / 2) ** 2
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.minimum(1, square))))


def column_of(degrees: Any) -> Points:
    """A column of points, given as latitude and longitude; not-a-number for none."""
    parts = np.asarray(degrees, np.float64).reshape(-1, 2)
    values = pa.StructArray.from_arrays([pa.array(part) for part in parts.T], fields=list(POINT))
    column = Points("place", POINT)
    column.append(column.encode(pa.chunked_array([values])), 0)
    return column


def inside(where: Predicate, degrees: Any) -> list[bool]:
    column = column_of(degrees)
    found: list[bool] = column.passing(where, slice(len(column.degrees))).tolist()
    return found


def scattered(random: np.random.Generator, rows: int, world: str) -> NDArray[np.float64]:
    """Points all over the sphere, in one town, round a pole, or along the antimeridian; some are missing."""
    latitude = np.degrees(np.arcsin(random.uniform(-1, 1, rows)))
    longitude = random.uniform(-180, 180, rows)
    if world == "town":
        latitude, longitude = 52.5 + latitude / 900, 13.4 + longitude / 900
    if world == "pole":
        latitude = 90 - np.abs(latitude) / 900
    if world == "antimeridian":
        longitude = np.where(longitude < 0, -180 - longitude / 900, 180 - longitude / 900)
    degrees = np.stack([latitude, longitude], axis=1)
    whole = random.random(rows) < 0.3
    degrees[whole] = np.round(degrees[whole])  # equal points, poles, and both spellings of the antimeridian
    degrees[random.random(rows) < 0.1] = np.nan
    return degrees


# --- the definition ---------------------------------------------------------------------------------------------------


@settings(max_examples=5 * CASES, deadline=None)
@given(points, points, distances)
def test_a_circle_has_what_the_haversine_puts_into_it(point: Any, centre: Any, km: float) -> None:
    far = float(haversine(np.array(point), np.array(centre)))
    (found,) = inside(GeoWithin("place", *centre, km), [point])
    # chords differ by their rounding; an arc is longer than its chord by as much as it is close to half of the round
    width = 1e-14 / max(math.cos(far / (2 * EARTH_KM)), 1e-7)
    if abs(far - km) > EARTH_KM * width:
        assert found == (far <= km)


@pytest.mark.parametrize(
    ("one", "other", "km"),
    [
        # a degree of a great circle is pi R / 180 = 111.195 km
        ((0, 0), (0, 1), 111.195080),
        ((0, 0), (1, 0), 111.195080),
        ((89.5, 10), (89.5, -170), 111.195080),
        ((-0.5, 179.75), (0.5, 179.75), 111.195080),
        ((0, 179.5), (0, -179.5), 111.195080),
        ((0, 0), (0, 180), 20015.114442),
        ((90, 5), (0, -77), 10007.557221),
    ],
)
def test_known_distances(one: Any, other: Any, km: float) -> None:
    assert inside(GeoWithin("place", *one, km - 1e-3), [other]) == [False]
    assert inside(GeoWithin("place", *one, km + 1e-3), [other]) == [True]


@settings(max_examples=CASES, deadline=None)
@given(points)
def test_a_circle_of_no_radius_has_its_centre(point: Any) -> None:
    latitude, longitude = point
    same = [point, *([(latitude, -longitude)] if abs(longitude) == 180 else [])]
    same += [(latitude, 7.0), (latitude, -180.0)] if abs(latitude) == 90 else []
    assert all(inside(GeoWithin("place", latitude, longitude, 0), same))
    assert not any(inside(GeoWithin("place", latitude, longitude, 0), [(-latitude / 2 + 1, longitude)]))


@settings(max_examples=CASES, deadline=None)
@given(points, st.lists(points, min_size=1, max_size=5), distances, distances)
def test_a_larger_circle_has_what_a_smaller_one_has(centre: Any, others: Any, one: float, other: float) -> None:
    small, large = sorted([one, other])
    within = inside(GeoWithin("place", *centre, small), others)
    beyond = inside(GeoWithin("place", *centre, large), others)
    assert all(b for a, b in zip(within, beyond, strict=True) if a)


@settings(max_examples=CASES, deadline=None)
@given(points, points, st.sampled_from([HALF_ROUND, 20016.0, 1e300]))
def test_half_of_the_round_reaches_every_point_but_no_missing_one(centre: Any, point: Any, km: float) -> None:
    assert inside(GeoWithin("place", *centre, km), [point, (math.nan, math.nan)]) == [True, False]


@settings(max_examples=CASES, deadline=None)
@given(st.lists(points, min_size=1, max_size=9), latitudes, latitudes, longitudes, longitudes)
@example([(0, 180), (0, -180), (0, 0)], -1, 1, -180, -180)
@example([(0, 180), (0, -180), (0, 0)], -1, 1, 180, -180)
def test_a_box_across_the_antimeridian_is_the_union_of_its_two_sides(
    places: Any, one: float, other: float, west: float, east: float
) -> None:
    (south, north), (east, west) = sorted([one, other]), sorted([west, east])
    across = inside(GeoBox("place", south, west, north, east), places)
    left = inside(GeoBox("place", south, west, north, 180), places)
    right = inside(GeoBox("place", south, -180, north, east), places)
    if west > east:
        assert across == [a or b for a, b in zip(left, right, strict=True)]


@pytest.mark.parametrize(
    ("box", "passing"),
    [
        ((0, 10, 5, 20), [(0, 10), (5, 20), (2, 15)]),
        ((0, 20, 5, 10), [(0, 10), (5, 20), (0, 180), (0, -180), (0, 0)]),
        ((0, -180, 5, 10), [(0, 10), (0, 180), (0, -180), (0, 0)]),
        ((0, 20, 5, 180), [(5, 20), (0, 180), (0, -180)]),
        ((0, -180, 5, -180), [(0, 180), (0, -180)]),
        ((0, 180, 5, 180), [(0, 180), (0, -180)]),
        ((5, 20, 90, 30), [(5, 20), (90, 0), (90, 33)]),  # a pole lies on every meridian
        ((-90, 0, 90, 0), [(0, 0), (90, 0), (90, 33)]),
        ((-90, -180, 90, 180), [(0, 10), (5, 20), (2, 15), (0, 180), (0, -180), (0, 0), (90, 0), (90, 33)]),
    ],
)
def test_boxes_have_their_ends_the_antimeridian_and_the_poles(box: Any, passing: Any) -> None:
    places = [(0, 10), (5, 20), (2, 15), (0, 180), (0, -180), (0, 0), (90, 0), (90, 33), (math.nan, math.nan)]
    found = inside(GeoBox("place", *box), places)
    assert [place for place, passes in zip(places, found, strict=True) if passes] == passing


# --- bits -------------------------------------------------------------------------------------------------------------


def test_unit_vectors_have_the_same_bits_on_every_machine() -> None:
    """The digest was taken from this code on x86-64, numpy 2.4; additions and multiplications cannot give another."""
    latitude, longitude = np.meshgrid(np.linspace(-90, 90, 3 * 47), np.linspace(-180, 180, 5 * 47))
    units = units_of(np.stack([latitude.ravel(), longitude.ravel()], axis=1))
    digest = hashlib.sha256((units + 0.0).astype("<f8").tobytes()).hexdigest()
    assert digest[:16] == "19e16d064a41e913"
    (_, most), alone = (
        circle_of(GeoWithin("place", 1, 2, 321.5)),
        units_of(np.array([[latitude[7, 5], longitude[7, 5]]])),
    )
    assert most.hex() == "0x1.4db498c7d4826p-9"
    assert np.array_equal(alone[0], units.reshape(5 * 47, 3 * 47, 3)[7, 5])  # nor does company change a bit


@settings(max_examples=5 * CASES, deadline=None)
@given(points)
def test_unit_vectors_are_right_to_the_last_bits(point: Any) -> None:
    latitude, longitude = np.radians(point)
    plain = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    (unit,) = units_of(np.array([point]))
    np.testing.assert_allclose(unit, plain, rtol=0, atol=7e-16)
    assert abs(np.linalg.norm(unit) - 1) < 5e-16


# --- what orders find -------------------------------------------------------------------------------------------------


@settings(max_examples=3 * CASES, deadline=None)
@given(points, points, distances)
def test_the_rectangle_of_a_circle_leaves_none_of_its_points_outside(centre: Any, point: Any, km: float) -> None:
    where = GeoWithin("place", *centre, km)
    south, west, north, east = rectangle(where)
    (column,) = column_of([point]).degrees.numpy()
    between = west <= column[1] <= east if west <= east else (column[1] >= west or column[1] <= east)
    if inside(where, [point])[0]:
        assert south <= column[0] <= north
        assert between


@st.composite
def predicates(draw: st.DrawFn, world: str) -> Predicate:
    centre = (52.5 + draw(st.floats(-0.1, 0.1)), 13.4 + draw(st.floats(-0.2, 0.2))) if world == "town" else draw(points)
    km = draw(st.one_of(distances, st.floats(0, 300)))
    south, north = sorted([centre[0], draw(latitudes)])
    box = GeoBox("place", south, centre[1], north, draw(longitudes))
    turned = GeoBox("place", south, box.east, north, box.west)
    return draw(st.sampled_from([GeoWithin("place", *centre, km)] * 3 + [box, turned, IsNull("place")]))


@settings(max_examples=2 * CASES, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([0, 1, 2, 47, 3000]),
    later=st.sampled_from([0, 17]),
    world=st.sampled_from(["sphere", "town", "pole", "antimeridian"]),
    few=st.sampled_from([0, module.FEW, 2**40]),
)
def test_a_selection_is_exactly_the_passing_rows(
    data: st.DataObject, seed: int, rows: int, later: int, world: str, few: int
) -> None:
    random = np.random.default_rng(seed)
    column = column_of(scattered(random, rows, world))
    orders, where = Orders.of({"place": column}, max(0, rows - later)), data.draw(predicates(world))
    live = torch.from_numpy(random.random(rows) < 0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", few)
        for what in (where, ~where, where & where):
            found = select(what, {"place": column}, orders, live, all_live=False)
            passing = column.passing(where, slice(rows)).numpy() != (what == ~where)
            assert sorted(found.as_rows().tolist()) == np.flatnonzero(passing & live.numpy()).tolist()
            assert found.count == (passing & live.numpy()).sum()


@pytest.mark.parametrize(
    ("world", "centre"), [("sphere", (20.0, 179.9)), ("town", (52.5, 13.4)), ("pole", (89.95, 3.0))]
)
def test_few_rows_are_looked_at_for_a_small_circle(world: str, centre: Any) -> None:
    rows = 50_000
    degrees = scattered(np.random.default_rng(5), rows, world)
    column = column_of(degrees)
    far = np.sort(haversine(column.degrees.numpy(), np.array(centre)))
    where = GeoWithin("place", *centre, float(far[rows // 1000]))
    candidates = Orders.of({"place": column}, rows).candidates(where)
    assert rows // 1000 <= candidates.most < rows // 1000 * 12


# --- in an index ------------------------------------------------------------------------------------------------------


def index_of(degrees: NDArray[np.float64]) -> RetrievalIndex:
    places = pa.StructArray.from_arrays([pa.array(part) for part in degrees.T], fields=list(POINT))
    return RetrievalIndex.build(
        np.ones((len(degrees), 1), np.float32), np.arange(len(degrees)), pa.table({"place": places})
    )


def test_points_survive_every_way_that_an_index_takes() -> None:
    random = np.random.default_rng(6)
    degrees = scattered(random, 3 * 47, "antimeridian")
    index = index_of(degrees)
    asked = [col("place").within(0, 180, km=3000), col("place").in_box(south=-50, west=179, north=9, east=-179)]
    query = np.ones((2, 1), np.float32)
    expected = index.search(query, 200, asked)
    assert 0 < expected.passing.min() < expected.passing.max() < 3 * 47

    loaded = RetrievalIndex(1, pa.schema([("place", POINT)]))
    file = io.BytesIO()
    torch.save(index.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    stored = io.BytesIO()
    pyarrow.parquet.write_table(index.snapshot()["attributes"], stored)
    read = {**index.snapshot(), "attributes": pyarrow.parquet.read_table(stored)}
    again = index_of(degrees)
    again.upsert(np.arange(3 * 47), np.ones((3 * 47, 1), np.float32), index.snapshot()["attributes"])
    again.compact()
    for other in (loaded, RetrievalIndex.restore(read), again, pickle.loads(pickle.dumps(index)), loaded.half()):  # noqa: S301
        for mine, theirs in zip(expected, other.search(query, 200, asked), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert other.snapshot()["attributes"].equals(index.snapshot()["attributes"])


def test_a_point_without_a_part_is_null_and_comes_back_as_null() -> None:
    places = pa.array([{"lat": 1.0, "lon": None}, {"lat": math.nan, "lon": 2.0}, None, {"lat": 1.0, "lon": -180.0}])
    index = RetrievalIndex.build(np.ones((4, 1), np.float32), np.arange(4), pa.table({"place": places}))
    assert index.explain("place is null")["passing"] == 3
    assert index.explain("not place geo_within(1, 2, 30000)")["passing"] == 3
    assert index.snapshot()["attributes"].column("place").to_pylist() == [None] * 3 + [{"lat": 1.0, "lon": 180.0}]


@pytest.mark.parametrize(
    ("fields", "is_one"),
    [
        ([("latitude", pa.float64()), ("longitude", pa.float32())], True),
        ([("lon", pa.float16()), ("lat", pa.float64())], True),
        ([("lat", pa.float64()), ("longitude", pa.float64())], False),
        ([("lat", pa.float64()), ("lat", pa.float64())], False),
        ([("lat", pa.int64()), ("lon", pa.int64())], False),
        ([("x", pa.float64()), ("y", pa.float64())], False),
        ([], False),
    ],
)
def test_a_point_is_a_struct_of_two_named_floats(fields: Any, is_one: bool) -> None:
    assert is_point(pa.struct(fields)) == is_one
    if is_one:
        sliced = pa.chunked_array([pa.array([(1.5, 2.5), None, (3.5, 4.5)], pa.struct(fields)).slice(1)])
        expected = [[math.nan] * 2, [3.5, 4.5] if fields[0][0] == "latitude" else [4.5, 3.5]]
        np.testing.assert_array_equal(degrees_of(sliced), expected)
