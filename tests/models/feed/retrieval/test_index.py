import contextlib
import copy
import dataclasses
import io
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.retrieval import attributes, engine, scan
from models.feed.retrieval import index as module
from models.feed.retrieval.attributes import Selection
from models.feed.retrieval.filter import (
    And,
    Between,
    Clause,
    Comparison,
    Everything,
    Filter,
    FilterError,
    GeoBox,
    GeoWithin,
    Has,
    HasAll,
    HasAny,
    In,
    IsNull,
    Not,
    Or,
    all_of,
    col,
)
from models.feed.retrieval.index import RetrievalIndex

CASES = int(os.environ.get("HEADRACE_CASES", "100"))

FIELDS = pa.schema(
    [
        ("year", pa.int64()),
        ("price", pa.float64()),
        ("lang", pa.string()),
        ("fresh", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("makers", pa.list_(pa.int64())),
        ("place", pa.struct([("latitude", pa.float64()), ("longitude", pa.float64())])),
    ]
)
NAMES = FIELDS.names

# Few distinct values, so that filters meet rows; among them what breaks shortcuts: integers that floats cannot tell
# apart, both zeros, not-a-number, text that differs by its normal form only, empty text.
BIG = 2**53
ITEMS: dict[str, list[Any]] = {
    "year": [None, -(2**63), -3, 0, 2019, BIG, BIG + 1, 2**63 - 1],
    "price": [None, math.nan, -0.0, 0.0, 0.1, -2.5, 1e300, math.inf],
    "lang": [None, "", "en", "é", "e\u0301", "日本", "it's", "🜁"],
    "fresh": [None, True, False],
}
# Poles and the antimeridian in several spellings, and two places that are 7 millimetres apart.
PLACES = [
    *[(0.0, 0.0), (-0.0, -0.0), (0.0, 180.0), (0.0, -180.0), (90.0, 0.0), (90.0, 77.0), (-90.0, -12.0)],
    *[(52.5, 13.4), (52.5, 13.4000001), (-33.9, 18.4), (89.9, -170.0), (10.0, 179.9), (10.0, -179.9)],
]
ITEMS["place"] = [None, *({"latitude": one, "longitude": other} for one, other in PLACES)]
ITEMS["place"] += [{"latitude": 5.0, "longitude": None}, {"latitude": math.nan, "longitude": 5.0}]
RADII = [0.0, 0.001, 25.0, 300.0, 9000.0, 10007.5, 12000.0, 20015.0, 20016.0, 1e300]
INSIDE: dict[str, list[Any]] = {"tags": ["", "en", "é", "日本"], "makers": [-1, 0, BIG, BIG + 1]}


# --- the specification, written out -----------------------------------------------------------------------------------


def passes(where: Filter, item: dict[str, Any]) -> bool:
    match where:
        case Everything():
            return True
        case Not(part):
            return not passes(part, item)
        case And(parts):
            return all(passes(part, item) for part in parts)
        case Or(parts):
            return any(passes(part, item) for part in parts)
    value = item[where.column]  # type: ignore[attr-defined]
    if isinstance(value, dict):
        value = None if any(part is None or math.isnan(part) for part in value.values()) else tuple(value.values())
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return isinstance(where, IsNull)
    match where:
        case IsNull():
            return False
        case Comparison(_, other, operator):
            return {
                "==": value == other,
                "!=": value != other,
                "<": value < other,
                "<=": value <= other,
                ">": value > other,
                ">=": value >= other,
            }[operator]
        case In(_, others):
            return value in others
        case Between(_, low, high):
            return low <= value <= high
        case Has(_, other):
            return other in value
        case HasAny(_, others):
            return any(other in value for other in others)
        case HasAll(_, others):
            return all(other in value for other in others)
        case GeoWithin(_, latitude, longitude, km):
            return distance(value, (latitude, longitude)) <= km + 1e-7  # no two places have a radius so close between
        case GeoBox(_, south, west, north, east):
            latitude, longitude = value
            turned = {longitude, -longitude} if abs(longitude) == 180 else {longitude}
            round_the_back = any(one >= west or one <= east for one in turned)
            meridian = round_the_back if west > east else any(west <= one <= east for one in turned)
            return south <= latitude <= north and (abs(latitude) == 90 or meridian)
    raise AssertionError(where)


def distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    """By the haversine, in kilometres on a sphere of 6371.0088."""
    (up, along), (there, beside) = np.radians(one).tolist(), np.radians(other).tolist()
    square = math.sin((there - up) / 2) ** 2 + math.cos(up) * math.cos(there) * math.sin((beside - along) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(min(1.0, square)))


@dataclass
class Plain:
    """An index as a dictionary: id to vector and attributes."""

    items: dict[int, tuple[list[float], dict[str, Any]]] = field(default_factory=dict)

    def search(self, query: list[float], k: int, where: Filter) -> tuple[list[int], list[float], int]:
        # fsum of exact products is the correctly rounded dot product
        scored = [
            (-math.fsum(a * b for a, b in zip(vector, query, strict=True)), identity)
            for identity, (vector, item) in self.items.items()
            if passes(where, item)
        ]
        best = sorted(scored)[:k]
        empty = k - len(best)
        return [i for _, i in best] + [-1] * empty, [-s for s, _ in best] + [-math.inf] * empty, len(scored)


# --- random cases -----------------------------------------------------------------------------------------------------


@st.composite
def predicates(draw: st.DrawFn) -> Filter:
    name = draw(st.sampled_from(NAMES))
    if name in INSIDE:
        some = tuple(draw(st.lists(st.sampled_from([*INSIDE[name], INSIDE[name][-1]]), min_size=1, max_size=3)))
        return draw(st.sampled_from([Has(name, some[0]), HasAny(name, some), HasAll(name, some), IsNull(name)]))
    if name == "place":
        latitude, longitude = draw(st.sampled_from(PLACES))
        south, north = sorted(draw(st.sampled_from(PLACES))[0] for _ in range(2))
        west, east = (draw(st.sampled_from(PLACES))[1] for _ in range(2))
        within = GeoWithin(name, latitude, longitude, draw(st.sampled_from(RADII)))
        return draw(st.sampled_from([within, within, GeoBox(name, south, west, north, east), IsNull(name)]))
    usable = [v for v in ITEMS[name] if v is not None and not (isinstance(v, float) and not math.isfinite(v))]
    usable += {"year": [5], "price": [7.5], "lang": ["nowhere"], "fresh": []}[name]
    value, other, third = (draw(st.sampled_from(usable)) for _ in range(3))
    signs = ["==", "!="] if name == "fresh" else ["==", "!=", "<", "<=", ">", ">="]
    choices: list[Filter] = [Comparison(name, value, sign) for sign in signs]  # type: ignore[arg-type]
    choices += [In(name, (value, other, third)), IsNull(name)]
    if name != "fresh":
        choices.append(Between(name, value, other))
    return draw(st.sampled_from(choices))


filters = st.recursive(
    st.one_of(predicates(), predicates(), predicates(), st.just(Everything())),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=5,
)


@dataclass
class World:
    """An index beside its plain twin, fed with the same random rows."""

    random: np.random.Generator
    dimension: int
    whole: bool  # vectors of small integers: scores are exact, and ties abound
    index: RetrievalIndex = field(init=False)
    plain: Plain = field(default_factory=Plain)

    def rows(self, count: int, ids: int) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
        items = []
        for _ in range(count):
            item = {name: values[self.random.integers(len(values))] for name, values in ITEMS.items()}
            for name, values in INSIDE.items():
                size = self.random.integers(-1, 4)
                inside = [values[self.random.integers(len(values))] for _ in range(size)]
                item[name] = None if size < 0 else inside
            items.append(item)
        return self.vectors(count), self.random.integers(0, max(1, ids), count), items

    def vectors(self, count: int) -> np.ndarray:
        if self.whole:
            return self.random.integers(-2, 3, (count, self.dimension)).astype(np.float32)
        return self.random.standard_normal((count, self.dimension)).astype(np.float32)

    def build(self, count: int, ids: int) -> None:
        vectors, keys, items = self.rows(count, ids)
        self.index = RetrievalIndex.build(vectors, keys, table(items))
        self.note(vectors, keys, items)

    def upsert(self, count: int, ids: int) -> None:
        vectors, keys, items = self.rows(count, ids)
        self.index.upsert(keys, vectors, table(items))
        self.note(vectors, keys, items)

    def note(self, vectors: np.ndarray, keys: np.ndarray, items: list[dict[str, Any]]) -> None:
        for vector, key, item in zip(vectors.tolist(), keys.tolist(), items, strict=True):
            self.plain.items[key] = (vector, item)

    def delete(self, count: int, ids: int) -> None:
        keys = self.random.integers(0, max(1, ids), count).tolist()
        gone = {key for key in keys if key in self.plain.items}
        assert self.index.delete(keys) == len(gone)
        for key in gone:
            del self.plain.items[key]

    def check(self, asked: list[Filter], k: int) -> None:
        queries = self.vectors(len(asked))
        hits = self.index.search(queries, k, asked)
        for number, where in enumerate(asked):
            ids, scores, passing = self.plain.search(queries[number].tolist(), k, where)
            assert hits.passing[number] == passing, str(where)
            assert hits.ids[number].tolist() == ids, str(where)
            if self.whole:
                assert hits.scores[number].tolist() == scores
            else:
                np.testing.assert_allclose(hits.scores[number], scores, rtol=0, atol=1e-13)
        assert len(self.index) == len(self.plain.items)


def table(items: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(items, schema=FIELDS)


def small_index(count: int = 3 * 47, dimension: int = 5, seed: int = 0) -> World:
    world = World(np.random.default_rng(seed), dimension, whole=False)
    world.build(count, 10 * count)
    return world


WAYS = ("scan", "codes", "rows", "bits", "orders")
"""Ways in which an answer is found: as where there is no CPU; as it comes; by numbers of rows; by bits of rows; by the
one or the other, with every column in order."""


@contextlib.contextmanager
def taking(way: str) -> Iterator[None]:
    """Make every search, and what is written for it, take one way."""
    view = RetrievalIndex._view
    with pytest.MonkeyPatch.context() as patch:
        if way == "scan":
            patch.setattr(RetrievalIndex, "_view", lambda index: dataclasses.replace(view(index), fast=None))
        if way in ("rows", "bits"):
            for user in (attributes, engine):
                patch.setattr(user, "FEW", 0 if way == "rows" else 2**40)
        if way in ("rows", "bits", "orders"):
            patch.setattr(module, "_UNORDERED", 0)
        yield


# --- answers are exact ------------------------------------------------------------------------------------------------


@settings(max_examples=CASES, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.sampled_from([0, 1, 2, 47, 3 * 47]),
    dimension=st.sampled_from([1, 3, 8, 47]),
    whole=st.booleans(),
    asked=st.lists(filters, min_size=1, max_size=5),
    k=st.sampled_from([1, 2, 10, 200]),
    way=st.sampled_from(WAYS),
)
def test_search_equals_an_exhaustive_scan_of_the_passing_items(
    seed: int, rows: int, dimension: int, whole: bool, asked: list[Filter], k: int, way: str
) -> None:
    world = World(np.random.default_rng(seed), dimension, whole)
    with taking(way):
        world.build(rows, 2 * rows)  # half of the ids stand twice or more
        world.check([*asked, asked[0]], k)


@settings(max_examples=max(10, CASES // 4), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.sampled_from([0, 5, 47]),
    steps=st.lists(
        st.tuples(st.sampled_from(["upsert", "delete", "compact", "restore", "reload"]), st.integers(0, 9), filters),
        min_size=1,
        max_size=8,
    ),
    way=st.sampled_from(WAYS),
)
def test_search_stays_exact_whatever_is_written_between_queries(
    seed: int, rows: int, steps: list[tuple[str, int, Filter]], way: str
) -> None:
    with taking(way):
        write_and_search(seed, rows, steps)


def write_and_search(seed: int, rows: int, steps: list[tuple[str, int, Filter]]) -> None:
    world = World(np.random.default_rng(seed), 3, whole=True)
    world.build(rows, 30)
    for step, count, where in steps:
        match step:
            case "upsert":
                world.upsert(count, 30)
            case "delete":
                world.delete(count, 30)
            case "compact":
                world.index.compact()
            case "restore":
                world.index = RetrievalIndex.restore(world.index.snapshot())
            case "reload":
                fresh = RetrievalIndex(3, FIELDS)
                fresh.load_state_dict(world.index.state_dict())
                world.index = fresh
        world.check([where, Everything()], 7)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("share", [0.002, 0.1, 0.6, 1.0])
def test_answers_are_exact_over_many_blocks(monkeypatch: pytest.MonkeyPatch, share: float, k: int, way: str) -> None:
    monkeypatch.setattr(scan, "ELEMENTS", 1024)
    monkeypatch.setattr(scan, "_FIRST_BLOCK", 16)
    random = np.random.default_rng(3)
    vectors = random.standard_normal((3 * 997, 7)).astype(np.float32)
    number = random.random(len(vectors))
    queries = random.standard_normal((5, 7)).astype(np.float32)
    with taking(way):
        index = RetrievalIndex.build(vectors, np.arange(len(vectors)), pa.table({"number": number}))
        hits = index.search(queries, k, f"number < {share}")
    exact = np.where(number < share, queries.astype(np.float64) @ vectors.T.astype(np.float64), -np.inf)
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    filled = np.arange(expected.shape[1]) < (number < share).sum()
    np.testing.assert_array_equal(hits.ids, np.where(filled, expected, -1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ["ascending", "descending", "equal"])
def test_answers_are_exact_when_rows_come_in_the_worst_order(
    monkeypatch: pytest.MonkeyPatch, order: str, way: str
) -> None:
    monkeypatch.setattr(scan, "_FIRST_BLOCK", 16)
    line = {"ascending": np.arange(999.0), "descending": -np.arange(999.0), "equal": np.zeros(999)}[order]
    index = RetrievalIndex.build(line[:, None].astype(np.float32), np.arange(999) * 3)
    with taking(way):
        hits = index.search(np.ones((1, 1), np.float32), 5)
    first = 3 * np.arange(5)
    np.testing.assert_array_equal(hits.ids[0], 3 * 998 - first if order == "ascending" else first)


def near_ties() -> tuple[np.ndarray, np.ndarray]:
    """Rows whose scores differ by less than float32 can tell, in a dimension where its errors add up."""
    random = np.random.default_rng(5)
    base = random.standard_normal(301)
    vectors = (base + 1e-7 * random.standard_normal((2000, 301))).astype(np.float32)
    return vectors, random.standard_normal((3, 301)).astype(np.float32)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first_block", [16, 8192])
def test_order_is_right_where_float32_cannot_tell(monkeypatch: pytest.MonkeyPatch, first_block: int, way: str) -> None:
    monkeypatch.setattr(scan, "_FIRST_BLOCK", first_block)
    vectors, queries = near_ties()
    with taking(way):
        hits = RetrievalIndex.build(vectors, np.arange(2000)).search(queries, 50)
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_array_equal(hits.ids, np.argsort(-exact, axis=1)[:, :50])
    assert (np.argsort(-(queries @ vectors.T), axis=1)[:, :50] != hits.ids).any()  # the case is a hard one


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["medium", "high"])
def test_answers_do_not_depend_on_the_precision_torch_is_allowed_to_use(precision: str, way: str) -> None:
    with taking(way):
        search_in_all_precisions(precision)


def search_in_all_precisions(precision: str) -> None:
    vectors, queries = near_ties()
    index = RetrievalIndex.build(vectors, np.arange(2000))
    plain = index.search(queries, 50)
    torch.set_float32_matmul_precision(precision)
    try:
        short = index.search(queries, 50)
    finally:
        torch.set_float32_matmul_precision("highest")
    with torch.autocast("cpu", torch.bfloat16):
        cast = index.search(queries, 50)
    for other in (short, cast):
        np.testing.assert_array_equal(plain.ids, other.ids)
        np.testing.assert_array_equal(plain.scores, other.scores)


def test_the_bound_covers_factors_rounded_to_bfloat16_where_torch_may_do_so() -> None:
    vectors, queries = (torch.from_numpy(part) for part in near_ties())
    short = queries.bfloat16().double() @ vectors.bfloat16().double().T
    error = (short - queries.double() @ vectors.double().T).abs()
    longest, lengths = float(vectors.double().norm(dim=1).max()), queries.double().norm(dim=1)
    assert (error > scan.rounding_bound(301, longest, lengths)[:, None]).any()
    torch.set_float32_matmul_precision("medium")
    try:
        assert (error <= scan.rounding_bound(301, longest, lengths)[:, None]).all()
    finally:
        torch.set_float32_matmul_precision("highest")


def test_answers_do_not_depend_on_the_company_of_other_queries_or_on_threads() -> None:
    vectors, queries = near_ties()
    index = RetrievalIndex.build(vectors, np.arange(2000))
    together = index.search(queries, 50)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(3):
            alone = index.search(queries[number : number + 1], 50)
            np.testing.assert_array_equal(alone.ids[0], together.ids[number])
            np.testing.assert_array_equal(alone.scores[0], together.scores[number])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [1e-40, 1e-22, 1e17])
def test_answers_are_exact_for_very_short_and_very_long_vectors(size: float) -> None:
    random = np.random.default_rng(7)
    vectors = (size * random.standard_normal((300, 3))).astype(np.float32)
    queries = (size * random.standard_normal((2, 3))).astype(np.float32)
    hits = RetrievalIndex.build(vectors, np.arange(300)).search(queries, 9)
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_array_equal(hits.ids, np.argsort(-exact, axis=1, kind="stable")[:, :9])


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 47, 301, 1000]), st.sampled_from([1e-30, 1.0, 1e15]))
def test_float32_scores_stay_within_the_proven_bound(seed: int, dimension: int, size: float) -> None:
    random = np.random.default_rng(seed)
    vectors = torch.from_numpy((size * random.standard_normal((50, dimension))).astype(np.float32))
    queries = torch.from_numpy(random.standard_normal((3, dimension)).astype(np.float32))
    longest = float(vectors.double().norm(dim=1).max())
    bound = scan.rounding_bound(dimension, longest, queries.double().norm(dim=1))
    error = (queries @ vectors.T).double() - queries.double() @ vectors.double().T
    assert (error.abs() <= bound[:, None]).all()


def test_exact_scores_have_the_same_bits_wherever_a_row_stands() -> None:
    random = np.random.default_rng(9)
    vectors = torch.from_numpy(random.standard_normal((1000, 47)).astype(np.float32))
    query = torch.from_numpy(random.standard_normal(47).astype(np.float32))
    together = scan.exact_scores(vectors, query)
    alone = torch.stack([scan.exact_scores(vector, query) for vector in vectors])
    assert torch.equal(together, alone)


# --- the shape of an answer -------------------------------------------------------------------------------------------


def test_a_passing_item_below_zero_beats_a_rejected_one() -> None:
    vectors = np.array([[-1.0], [2.0], [-3.0]], np.float32)
    index = RetrievalIndex.build(vectors, np.array([10, 20, 30]), pa.table({"lang": ["en", "de", "en"]}))
    hits = index.search(np.ones((1, 1), np.float32), 3, "lang == 'en'")
    assert hits.ids.tolist() == [[10, 30, -1]]
    assert hits.scores.tolist() == [[-1.0, -3.0, -math.inf]]
    assert hits.passing.tolist() == [2]


def test_equal_scores_are_answered_by_ascending_id() -> None:
    ids = np.array([40, 10, 30, 20])
    index = RetrievalIndex.build(np.ones((4, 2), np.float32), ids)
    assert index.search(np.ones((1, 2), np.float32), 3).ids.tolist() == [[10, 20, 30]]


def test_each_query_has_its_own_filter_in_any_spelling() -> None:
    index = RetrievalIndex.build(
        np.ones((3, 1), np.float32), np.array([1, 2, 3]), pa.table({"year": [2018, 2019, 2020]})
    )
    asked = ["year == 2018", col("year") >= 2019, None, "year == 2018"]
    hits = index.search(np.ones((4, 1), np.float32), 3, asked)
    assert hits.ids.tolist() == [[1, -1, -1], [2, 3, -1], [1, 2, 3], [1, -1, -1]]
    assert hits.passing.tolist() == [1, 2, 3, 1]


def test_one_filter_has_four_spellings_and_each_is_one_for_all_queries_or_one_of_several() -> None:
    tags = pa.array([["a"], ["a", "b"], [], None], pa.list_(pa.string()))
    attributes = pa.table({"lang": ["en", "de", "en", "fr"], "tags": tags})
    index = RetrievalIndex.build(np.ones((4, 1), np.float32), np.arange(4), attributes)
    spellings: list[Any] = [
        "lang in ('en', 'de') and not tags has 'b'",
        col("lang").isin(["en", "de"]) & ~col("tags").has("b"),
        {"lang": {"$in": ["en", "de"]}, "$not": {"tags": "b"}},
        all_of([Clause("lang", any_of=["en", "de"]), Clause("tags", none_of=["b"])]),
    ]
    query = np.ones((1, 1), np.float32)
    for where in spellings:
        assert index.search(query, 3, where).ids.tolist() == [[0, 2, -1]]
        assert index.explain(where)["passing"] == 2
    assert index.search(np.repeat(query, 4, axis=0), 3, spellings).ids.tolist() == [[0, 2, -1]] * 4
    clauses = index.search(
        np.repeat(query, 2, axis=0), 3, [Clause("lang", any_of=["fr"]), Clause("tags", any_of=["b"])]
    )
    assert clauses.ids.tolist() == [[3, -1, -1], [1, -1, -1]]  # a filter for each query
    with pytest.raises(FilterError, match="all_of"):
        index.search(query, 1, [[Clause("lang", any_of=["fr"])]])
    with pytest.raises(FilterError, match=r"at \$or\[0\].yeer"):
        index.search(query, 1, {"$or": [{"yeer": 5}]})


def test_filters_that_python_calls_equal_are_still_held_to_their_columns() -> None:
    index = RetrievalIndex.build(np.ones((1, 1), np.float32), np.array([1]), pa.table({"fresh": [True]}))
    with pytest.raises(FilterError, match="true and false"):
        index.search(np.ones((2, 1), np.float32), 1, [col("fresh") == True, col("fresh") == 1])  # noqa: E712


def test_a_negated_condition_passes_items_without_a_value_until_told_otherwise() -> None:
    index = RetrievalIndex.build(np.ones((3, 1), np.float32), np.arange(3), pa.table({"year": [2019, 2020, None]}))

    def found(where: str) -> list[int]:
        hits = index.search(np.ones((1, 1), np.float32), 3, where)
        return sorted(i for i in hits.ids[0].tolist() if i >= 0)

    assert found("year != 2019") == [1]
    assert found("not year == 2019") == [1, 2]
    assert found("year not in (2019)") == [1, 2]
    assert found("not year == 2019 and year is not null") == [1]
    assert found("year is null") == [2]


def test_an_empty_list_is_not_null() -> None:
    tags = pa.array([[], None, ["a"], [None]], pa.list_(pa.string()))
    index = RetrievalIndex.build(np.ones((4, 1), np.float32), np.arange(4), pa.table({"tags": tags}))

    def count(where: str) -> int:
        return int(index.explain(where)["passing"])

    assert count("tags is null") == 1
    assert count("tags is not null") == 3
    assert count("tags has 'a'") == 1
    assert count("not tags has 'a'") == 3


def test_an_index_without_items_answers_with_nothing() -> None:
    index = RetrievalIndex.build(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), FIELDS.empty_table())
    hits = index.search(np.ones((2, 3), np.float32), 4, "year > 3 or tags has 'x' or lang == 'y'")
    assert (hits.ids == -1).all()
    assert np.isneginf(hits.scores).all()
    assert hits.passing.tolist() == [0, 0]
    assert len(index) == 0


def test_no_queries_get_no_answers() -> None:
    hits = small_index().index.search(np.zeros((0, 5), np.float32), 4, "year > 3")
    assert hits.ids.shape == hits.scores.shape == (0, 4)


def test_explain_counts_the_passing_items_and_names_the_strategy() -> None:
    index = RetrievalIndex.build(np.ones((1000, 1), np.float32), np.arange(1000), pa.table({"year": range(1000)}))
    index.delete([0])
    told = [index.explain(where) for where in ("year < 0", "year < 10", "year >= 10", None)]
    assert [entry["strategy"] for entry in told] == ["none", "gather", "scan", "scan"]
    assert [entry["passing"] for entry in told] == [0, 9, 990, 999]
    assert told[1] == {"filter": "year < 10", "items": 999, "passing": 9, "strategy": "gather"}


def test_the_schema_names_each_column_and_its_kind() -> None:
    assert small_index().index.schema == {
        "year": "integer",
        "price": "float",
        "lang": "string",
        "fresh": "boolean",
        "tags": "list of strings",
        "makers": "list of integers",
        "place": "point",
    }


# --- a torch module ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, "year > 0", "lang == 'en'"])
def test_scores_carry_gradients_into_the_queries(where: str | None) -> None:
    index = small_index().index
    # multiples of 2^-10, so that adding a step of 2^-16 is exact in float32
    drawn = torch.randint(-2048, 2048, (4, 5), generator=torch.Generator().manual_seed(1))
    queries = (drawn / 1024).requires_grad_()
    weights = torch.randn(4, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    expected = index(queries, 30, where).ids

    def value(at: torch.Tensor) -> torch.Tensor:
        ids, scores, _ = index(at, 30, where)
        assert torch.equal(ids, expected)  # between changes of order, scores are linear in the query
        return (torch.where(scores.isinf(), 0.0, scores) * weights).sum()

    value(queries).backward()
    assert queries.grad is not None
    step = 2.0**-16
    for place in np.ndindex(4, 5):
        nudge = torch.zeros(4, 5)
        nudge[place] = step
        with torch.no_grad():
            slope = (value(queries + nudge) - value(queries - nudge)) / (2 * step)
        assert float(queries.grad[place]) == pytest.approx(float(slope), rel=1e-3, abs=1e-4)


def test_scores_are_the_same_with_and_without_gradients() -> None:
    index = small_index().index
    queries = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(index(queries, 200).scores, index(queries.requires_grad_(), 200).scores)


def test_items_and_attributes_are_buffers_and_nothing_is_a_parameter() -> None:
    index = small_index().index
    assert not list(index.parameters())
    assert {"vectors", "ids", "live"} < {name for name, _ in index.named_buffers()}
    assert all(isinstance(value, torch.Tensor) for value in index.state_dict().values())


def test_state_survives_a_file_read_with_weights_only() -> None:
    world = small_index()
    world.upsert(20, 100)
    file = io.BytesIO()
    torch.save(world.index.state_dict(), file)
    file.seek(0)
    world.index = RetrievalIndex(5, FIELDS)
    world.index.load_state_dict(torch.load(file, weights_only=True))
    world.check([col("lang") == "日本", Everything(), col("tags").has("é")], 20)
    world.upsert(20, 100)
    world.check([col("lang") == "日本", Everything(), col("tags").has("é")], 20)


def test_state_of_another_index_is_refused_by_name() -> None:
    state = small_index().index.state_dict()
    with pytest.raises(ValueError, match="dimension 5, this one 4"):
        RetrievalIndex(4, FIELDS).load_state_dict(state)
    with pytest.raises(ValueError, match="has columns"):
        RetrievalIndex(5, pa.schema([("year", pa.int64())])).load_state_dict(state)


def test_a_model_that_changes_its_own_precision_leaves_the_index_as_it_was() -> None:
    world = small_index()
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), world.index).half()
    assert next(model.parameters()).dtype == torch.float16
    world.check([col("price") == 0.1], 10)


def test_a_copy_is_an_index_of_its_own() -> None:
    world = small_index()
    other = copy.deepcopy(world.index)
    other.delete(other.ids.tolist())
    assert len(other) == 0
    world.check([Everything()], 10)


# --- written while in use ---------------------------------------------------------------------------------------------


def test_a_write_is_seen_by_the_next_query() -> None:
    index = RetrievalIndex.build(np.zeros((1, 1), np.float32), np.array([7]), pa.table({"lang": ["en"]}))
    query = np.ones((1, 1), np.float32)
    index.upsert(np.array([8, 7]), np.array([[1.0], [2.0]], np.float32), pa.table({"lang": ["日本", "日本"]}))
    assert index.search(query, 3).ids.tolist() == [[7, 8, -1]]
    assert index.search(query, 3, "lang == 'en'").passing.tolist() == [0]
    assert index.delete([7, 9]) == 1
    assert index.search(query, 3).ids.tolist() == [[8, -1, -1]]
    assert index.delete([7]) == 0
    assert len(index) == 1


def test_of_rows_with_the_same_id_the_last_one_counts() -> None:
    vectors = np.array([[1.0], [5.0], [3.0]], np.float32)
    index = RetrievalIndex.build(vectors, np.array([4, 4, 4]), pa.table({"year": [1, 2, 3]}))
    hits = index.search(np.ones((1, 1), np.float32), 2, "year == 3")
    assert hits.scores.tolist() == [[3.0, -math.inf]]
    assert len(index) == 1


def test_compacting_drops_dead_rows_and_changes_no_answer() -> None:
    world = small_index()
    world.upsert(50, 100)
    world.delete(50, 100)
    queries = world.vectors(4)
    before = world.index.search(queries, 30)
    assert world.index.rows > len(world.index)
    world.index.compact()
    assert world.index.rows == len(world.index) == len(world.index.vectors)
    after = world.index.search(queries, 30)
    np.testing.assert_array_equal(before.ids, after.ids)
    np.testing.assert_array_equal(before.scores, after.scores)
    world.upsert(50, 100)
    world.check([Everything()], 30)


def test_a_refused_write_changes_nothing() -> None:
    world = small_index()
    vectors, keys, items = world.rows(3, 50)
    wrong = table(items).set_column(0, "year", pa.array(["x", "y", "z"]))
    with pytest.raises(ValueError, match="'year' does not fit"):
        world.index.upsert(keys, vectors, wrong)
    vectors[1, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        world.index.upsert(keys, vectors, table(items))
    world.check([Everything()], 200)


def test_rows_written_one_by_one_seldom_move_the_others() -> None:
    world = small_index(count=1)
    rooms = set()
    for _ in range(100):
        world.upsert(1, 10**9)
        rooms.add(len(world.index.vectors))
    assert len(rooms) <= 8
    world.check([Everything(), col("tags").has("é")], 101)


def test_the_callers_arrays_are_copied() -> None:
    vectors, ids = np.ones((3, 2), np.float32), np.arange(3)
    index = RetrievalIndex.build(vectors, ids)
    vectors[:] = 0
    ids[:] = 9
    assert index.search(np.ones((1, 2), np.float32), 3).ids.tolist() == [[0, 1, 2]]
    assert index.search(np.ones((1, 2), np.float32), 1).scores.tolist() == [[2.0]]


def test_ids_are_found_again_when_what_they_are_looked_up_in_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LATER", 3)
    world = small_index(count=47)
    for _ in range(12):
        world.upsert(5, 100)
        world.delete(5, 100)
        world.check([Everything()], 100)


def test_marks_change_in_place_and_are_copied_for_queries_alone() -> None:
    world = small_index(count=47)
    world.upsert(3, 470)  # leaves room
    place, shown = world.index.live.data_ptr(), world.index._view().live
    world.upsert(3, 470)
    world.delete(20, 470)
    assert world.index.live.data_ptr() == place
    assert world.index._view().live is world.index._view().live
    assert shown.tolist() != world.index._view().live.tolist()


def test_a_state_that_was_taken_stays_the_version_it_was() -> None:
    world = small_index(count=47)
    world.upsert(3, 470)
    queries = world.vectors(2)
    before, state = world.index.search(queries, 60), world.index.state_dict()
    world.upsert(3, 470)
    world.index.delete(sorted(world.plain.items)[::2])
    other = RetrievalIndex(5, FIELDS)
    other.load_state_dict(state)
    for mine, theirs in zip(before, other.search(queries, 60), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("write", ["replace", "insert", "delete", "compact"])
def test_a_query_answers_from_the_version_that_it_found(monkeypatch: pytest.MonkeyPatch, write: str) -> None:
    world = small_index(count=47)
    world.upsert(3, 470)  # leaves spare room, so that the next write changes buffers in place
    world.delete(10, 470)
    index, query = world.index, np.ones((1, 5), np.float32)
    before = index.search(query, 60, "year >= 0 or lang == 'en' or tags has 'en'")
    ids = np.array(sorted(world.plain.items))[::2].copy()
    vectors, _, items = world.rows(len(ids), 1)
    assert index.rows + len(ids) <= len(index.live)
    writes: dict[str, Callable[[], Any]] = {
        "replace": lambda: index.upsert(ids, vectors, table(items)),
        "insert": lambda: index.upsert(ids + 1000, vectors, table(items)),
        "delete": lambda: index.delete(ids),
        "compact": lambda: (index.delete(ids[::2]), index.compact(), index.upsert(ids, vectors, table(items))),
    }
    ask = module.select

    def interrupted(*arguments: Any, **more: Any) -> Selection:
        monkeypatch.setattr(module, "select", ask)
        writes[write]()
        return ask(*arguments, **more)

    monkeypatch.setattr(module, "select", interrupted)
    during = index.search(query, 60, "year >= 0 or lang == 'en' or tags has 'en'")
    after = index.search(query, 60, "year >= 0 or lang == 'en' or tags has 'en'")
    assert before.ids.tolist() == during.ids.tolist()
    assert before.scores.tolist() == during.scores.tolist()
    assert after.ids.tolist() != before.ids.tolist()


def test_readers_see_whole_writes_only() -> None:
    """Every write stamps all ids alike, in vector and attributes, or removes all: readers find one stamp or none."""
    ids = np.arange(3 * 47)
    query = np.ones((1, 1), np.float32)

    def rows(stamp: int) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        stamps = pa.array([stamp] * len(ids))
        return (
            ids,
            np.full((len(ids), 1), stamp, np.float32),
            pa.table({"stamp": stamps, "word": stamps.cast("string")}),
        )

    def whole(where: str | None, allowed: Callable[[float], bool]) -> float:
        hits = index.search(query, len(ids) + 1, where)
        total = int(hits.passing[0])
        assert total in (0, len(ids))
        assert hits.ids[0].tolist() == [*range(total), *[-1] * (len(ids) + 1 - total)]
        stamps = set(hits.scores[0, :total].tolist())
        assert len(stamps) <= 1
        assert all(allowed(stamp) for stamp in stamps)
        return stamps.pop() if stamps else 0.0

    def read(reader: int) -> None:
        try:
            while not done.is_set():
                stamp = int(whole(None, lambda found: True))
                near = {float(stamp), float(stamp + 1)}
                whole(f"stamp == {stamp} or word == '{stamp + 1}'", near.__contains__)
                rounds[reader] += 1
        except BaseException as error:  # a thread's failure is the test's
            failures.append(error)

    first = rows(1)
    index = RetrievalIndex.build(first[1], first[0], first[2])
    done = threading.Event()
    failures: list[BaseException] = []
    rounds = [0, 0]
    readers = [threading.Thread(target=read, args=(reader,)) for reader in range(2)]
    for reader in readers:
        reader.start()
    stamp = 1
    while stamp < 80 or (min(rounds) < 20 and not failures):
        stamp += 1
        index.upsert(*rows(stamp))
        if stamp % 20 == 0:
            index.compact()
        if stamp % 20 == 10:
            assert index.delete(ids) == len(ids)
    done.set()
    for reader in readers:
        reader.join()
    assert not failures


# --- at rest ----------------------------------------------------------------------------------------------------------


def test_a_restored_index_gives_the_same_bits() -> None:
    world = small_index()
    world.upsert(50, 100)
    world.delete(50, 100)
    queries = world.vectors(4)
    other = RetrievalIndex.restore(world.index.snapshot())
    for where in (None, "year > 0 or tags has 'é'", "not price < 1"):
        mine, theirs = world.index.search(queries, 30, where), other.search(queries, 30, where)
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_snapshot_depends_on_the_items_and_not_on_their_history() -> None:
    world = small_index(count=47)
    ids = np.array(sorted(world.plain.items))[::-1].copy()
    items = table([world.plain.items[i][1] for i in ids.tolist()])
    vectors = np.array([world.plain.items[i][0] for i in ids.tolist()], np.float32)
    other = RetrievalIndex.build(vectors[::-1] * 2, ids, items)
    other.upsert(ids, vectors, items)
    a, b = world.index.snapshot(), other.snapshot()
    assert a["vectors"].tobytes() == b["vectors"].tobytes()
    assert a["ids"].tobytes() == b["ids"].tobytes()
    assert serialized(a["attributes"]) == serialized(b["attributes"])


def serialized(attributes: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, attributes.schema) as writer:
        writer.write_table(attributes)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None, -128], pa.int8()),
        pa.array([BIG + 1, None, 2**63 - 1], pa.int64()),
        pa.array([2**63 - 1, None, 0], pa.uint64()),
        pa.array([0.1, None, -0.0], pa.float64()),
        pa.array([0.1, None, math.inf], pa.float32()),
        pa.array([True, None, False]),
        pa.array(["é", None, ""]),
        pa.array(["é", None, ""], pa.large_string()),
        pa.array(["é", None, "é"]).dictionary_encode(),
        pa.array(["é", None, "b"]).cast(pa.dictionary(pa.int8(), pa.string())),
        pa.array([["é", "é", None], None, []]),
        pa.array([[1, 1, None], None, []], pa.large_list(pa.int16())),
        pa.chunked_array([[], [1], [None, 3]], pa.int32()),
        pa.array([None, None, None], pa.string()),
        pa.array([{"latitude": 90.0, "longitude": -179.5}, None, {"latitude": -0.0, "longitude": 180.0}]),
        pa.array([{"lon": 0.1, "lat": 0.1}, None, None], pa.struct([("lon", pa.float32()), ("lat", pa.float64())])),
        pa.array([{"lat": 0.5, "lon": 1.0}] * 3, pa.struct([pa.field(n, pa.float16(), False) for n in ("lat", "lon")])),
    ],
    ids=lambda values: str(values.type),
)
def test_attributes_come_back_with_their_types_nulls_and_values(values: pa.Array) -> None:
    attributes = pa.table({"column": values})
    index = RetrievalIndex.build(np.eye(3, dtype=np.float32), np.arange(3), attributes)
    again = RetrievalIndex.restore(index.snapshot()).snapshot()["attributes"]
    assert again.schema == attributes.schema
    assert again.to_pylist() == attributes.to_pylist()


def test_an_index_without_attributes_comes_back_without_them() -> None:
    index = RetrievalIndex.build(np.eye(3, dtype=np.float32), np.arange(3))
    payload = index.snapshot()
    assert sorted(payload) == ["attributes", "ids", "vectors"]
    assert RetrievalIndex.restore(payload).schema == {}
    assert len(RetrievalIndex.restore(payload)) == 3


def test_a_payload_with_other_parts_is_refused() -> None:
    payload = dict(small_index().index.snapshot())
    with pytest.raises(ValueError, match=r"got \['attributes', 'ids', 'more', 'vectors'\]"):
        RetrievalIndex.restore({**payload, "more": {}})


# --- refusals ---------------------------------------------------------------------------------------------------------

VECTORS, IDS = np.ones((2, 3), np.float32), np.array([1, 2])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RetrievalIndex.build(VECTORS[0], IDS), r"vectors must be an array of shape"),
        (lambda: RetrievalIndex.build(VECTORS.astype(np.float64), IDS), r"float64; convert with"),
        (lambda: RetrievalIndex.build(VECTORS[:, :0], IDS), r"dimension must be at least 1"),
        (lambda: RetrievalIndex.build(VECTORS * np.nan, IDS), r"vector of id 1 in row 0 has length nan"),
        (lambda: RetrievalIndex.build(VECTORS * np.inf, IDS), r"must be finite"),
        (lambda: RetrievalIndex.build(VECTORS * np.float32(1e19), IDS), r"shorter than 1e\+18"),
        (lambda: RetrievalIndex.build(VECTORS, IDS[:1]), r"1 ids for 2 vectors"),
        (lambda: RetrievalIndex.build(VECTORS, IDS.astype(np.int32)), r"int64 array"),
        (lambda: RetrievalIndex.build(VECTORS, -IDS), r"id -2 in row 1 is negative"),
        (lambda: RetrievalIndex.build(VECTORS, IDS, pa.table({"a": [1]})), r"1 rows of attributes for 2 ids"),
        (lambda: RetrievalIndex.build(VECTORS, IDS, {"a": [1, 2]}), r"must be a pyarrow.Table"),  # type: ignore[arg-type]
        (lambda: with_column(pa.array([0, 1], pa.timestamp("s"))), r"'a' has type timestamp\[s\].*int64 in a unit"),
        (lambda: with_column(pa.nulls(2)), r"'a' has type null.*name its type"),
        (lambda: with_column(pa.array([[1.5], []])), r"'a' has type list<item: double>"),
        (lambda: with_column(pa.array([{"b": 1}, None])), r"'a' has type struct.*point exactly these fields"),
        (lambda: with_column(pa.array([{"lat": 1, "lon": 1}, None])), r"'a' has type struct.*of the floats latitude"),
        (lambda: with_column(pa.array([{"lat": 1.0, "lon": 1.0, "up": 1.0}, None])), r"'a' has type struct"),
        (
            lambda: with_column(pa.array([{"lat": 1.0, "lon": 1.0}, {"lat": 90.5, "lon": 7.0}])),
            r"'a' does not fit.*row 1 has latitude 90.5 and longitude 7.0, and 0 others.*latitudes from -90 to 90",
        ),
        (
            lambda: with_column(pa.array([{"lat": 1.0, "lon": math.inf}, None])),
            r"row 0 has latitude 1.0 and longitude inf",
        ),
        (lambda: with_column(pa.array([2**63, 0], pa.uint64())), r"not in range"),
        (
            lambda: RetrievalIndex.build(VECTORS, IDS, pa.Table.from_arrays([pa.array([1, 2])] * 2, ["a", "a"])),
            r"\['a'\] stand more than once",
        ),
    ],
)
def test_an_index_is_not_built_from_what_does_not_fit(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def with_column(values: pa.Array) -> RetrievalIndex:
    return RetrievalIndex.build(VECTORS, IDS, pa.table({"a": values}))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda index: index.search(np.ones((1, 4), np.float32), 1), r"shape \(queries, 5\)"),
        (lambda index: index.search(np.ones(5, np.float32), 1), r"shape \(queries, 5\)"),
        (lambda index: index.search([[1.0] * 5], 1), r"must be an array"),
        (lambda index: index.search(np.ones((1, 5), np.int64), 1), r"floating type"),
        (lambda index: index.search(np.full((2, 5), np.nan, np.float32), 1), r"query 0 has length nan"),
        (lambda index: index.search(np.ones((1, 5), np.float32), 0), r"k must be an integer of at least 1, got 0"),
        (lambda index: index.search(np.ones((1, 5), np.float32), 1.5), r"got 1.5"),
        (lambda index: index.search(np.ones((3, 5), np.float32), 1, ["true"] * 2), r"3 queries need"),
        (lambda index: index.search(np.ones((1, 5), np.float32), 1, "yeer = 1"), r"unknown column 'yeer'"),
        (lambda index: index.search(np.ones((1, 5), np.float32), 1, [5]), r"expected a filter"),
        (lambda index: index.upsert(IDS, np.ones((2, 5), np.float32)), r"missing \['fresh', 'lang'"),
        (
            lambda index: index.upsert(
                IDS[:0], np.ones((0, 5), np.float32), FIELDS.empty_table().rename_columns(list("abcdefg"))
            ),
            r"unknown \['a', 'b'",
        ),
    ],
)
def test_a_question_or_write_that_does_not_fit_is_refused_by_name(
    ask: Callable[[RetrievalIndex], Any], words: str
) -> None:
    index = small_index().index
    with pytest.raises(ValueError, match=words):
        ask(index)


def test_of_refused_points_the_row_of_the_callers_table_is_named() -> None:
    """Also when rows before it are left out, because their ids come again."""
    places = pa.array([{"lat": 0.0, "lon": 0.0}] * 2 + [{"lat": 0.0, "lon": 180.5}] * 2)
    with pytest.raises(ValueError, match=r"row 2 has .* longitude 180.5, and 1 others"):
        RetrievalIndex.build(np.ones((4, 1), np.float32), np.array([1, 1, 1, 2]), pa.table({"place": places}))


def test_points_may_be_written_under_other_names_and_in_another_order() -> None:
    places = pa.array([{"latitude": 1.0, "longitude": -180.0}, None])
    index = RetrievalIndex.build(VECTORS, IDS, pa.table({"a": places}))
    other = pa.array(
        [{"lon": 3.5, "lat": 2.0}, {"lon": math.nan, "lat": 2.0}],
        pa.struct([("lon", pa.float32()), ("lat", pa.float32())]),
    )
    index.upsert(np.array([3, 4]), VECTORS, pa.table({"a": other}))
    assert index.snapshot()["attributes"].column("a").to_pylist() == [
        {"latitude": 1.0, "longitude": 180.0}, None, {"latitude": 2.0, "longitude": 3.5}, None,
    ]  # fmt: skip
    assert index.search(VECTORS[:1], 4, "a geo_within(2, 3.5, 0)").ids.tolist() == [[3, -1, -1, -1]]
    for wrong in (pa.array([1, 2]), pa.array([{"lat": 1.0}, None]), pa.array([{"lat": "1", "lon": "2"}, None])):
        with pytest.raises(ValueError, match=r"'a' does not fit.*points are structs of"):
            index.upsert(IDS, VECTORS, pa.table({"a": wrong}))


@pytest.mark.parametrize("step", ["append", "of"])
def test_a_write_that_ran_out_of_memory_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Neither before nor after its codes were written: the next write puts others in their place."""
    world = World(np.random.default_rng(2), 5, whole=True)
    world.build(141, 1000)
    vectors, keys, items = world.rows(50, 1000)
    owner = engine.Engine if step == "append" else attributes.Orders
    with monkeypatch.context() as patch:
        patch.setattr(module, "_UNORDERED", 0)
        patch.setattr(owner, step, lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            world.index.upsert(keys, vectors, table(items))
    world.check([Everything()], 200)
    world.upsert(50, 1000)
    world.check([Everything()], 300)


def test_rows_that_are_in_order_but_not_shown_yet_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that comes between the codes and orders of a write and the moment at which it is shown."""
    world, follow, during = small_index(), RetrievalIndex._follow, []
    query, where = world.vectors(1), "year >= 0"

    def interrupted(index: RetrievalIndex, *arguments: Any) -> Any:
        found = follow(index, *arguments)
        during.append(index.search(query, 500, where))
        return found

    with taking("rows"):
        before = world.index.search(query, 500, where)
        with monkeypatch.context() as patch:
            patch.setattr(RetrievalIndex, "_follow", interrupted)
            world.upsert(60, 2000)
        after = world.index.search(query, 500, where)
    assert [hits.ids.tolist() for hits in during] == [before.ids.tolist()]
    assert after.ids.tolist() != before.ids.tolist()
