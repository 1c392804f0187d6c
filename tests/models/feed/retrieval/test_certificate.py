from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.common.certificate import Certificate
from models.feed.retrieval.certificate import certify, exact_answer, recall_at_k
from models.feed.retrieval.filter import (
    And,
    Between,
    Clause,
    Comparison,
    Everything,
    Filter,
    GeoBox,
    GeoWithin,
    HasAll,
    HasAny,
    In,
    IsNull,
    Not,
    Or,
    Predicate,
    col,
    parse,
)
from models.feed.retrieval.index import RetrievalIndex

Answers = tuple[np.ndarray, np.ndarray, np.ndarray]
Search = Callable[[np.ndarray, int, list[Filter]], Answers]
ROWS, DIMENSION, K, CASES = 3 * 47, 7, 10, 300


class Source:
    """The rows that an index should hold: nulls in each column, ids that stand twice, ties, unicode, large integers."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.vectors = random.standard_normal((ROWS, DIMENSION)).astype(np.float32)
        self.vectors[1:7] = self.vectors[0]  # equal scores, to be answered by id
        self.ids = random.permutation(10 * ROWS)[:ROWS]
        self.ids[-5:] = self.ids[:5]
        self.queries = random.standard_normal((5, DIMENSION)).astype(np.float32)

        def some(values: list[Any]) -> list[Any]:
            return [None if random.random() < 0.15 else value for value in values]

        def lists(values: str) -> list[Any]:
            return some([list(random.permutation(list(values))[: random.integers(0, 4)]) for _ in range(ROWS)])

        columns = {
            "year": pa.array(some(random.integers(1990, 2020, ROWS).tolist()), pa.int16()),
            "serial": pa.array((2**53 + random.permutation(ROWS)).tolist()),
            "price": pa.array(some(random.random(ROWS).round(2).tolist())),
            "lang": pa.array(some(random.choice(["de", "en", "é", "日本"], ROWS).tolist())),
            "fresh": pa.array(some((random.random(ROWS) < 0.3).tolist())),
            "tags": pa.array(lists("abcdé"), pa.list_(pa.string())),
        }
        places = zip(random.uniform(-90, 90, ROWS).tolist(), random.uniform(-180, 180, ROWS).tolist(), strict=True)
        points = [{"latitude": one, "longitude": other} for one, other in places]
        points[:4] = [{"latitude": 9.5, "longitude": side} for side in (180.0, -180.0, 180.0, None)]
        points[4:6] = [{"latitude": 90.0, "longitude": side} for side in (0.0, 77.0)]
        columns["place"] = pa.array([*points[:6], *some(points[6:])])
        self.attributes = pa.table(columns)

    def index(self, **changed: Any) -> RetrievalIndex:
        parts = {"vectors": self.vectors, "ids": self.ids, "attributes": self.attributes, **changed}
        return RetrievalIndex.build(**parts)

    def column(self, name: str, change: Callable[[list[Any]], list[Any]]) -> pa.Table:
        place = self.attributes.schema.get_field_index(name)
        values = pa.array(change(self.attributes.column(name).to_pylist()), self.attributes.schema.field(name).type)
        return self.attributes.set_column(place, name, values)

    def certify(self, search: Search, cases: int = CASES) -> Certificate:
        return certify(
            search,
            vectors=self.vectors,
            ids=self.ids,
            attributes=self.attributes,
            queries=self.queries,
            k=K,
            cases=cases,
            seed=1,
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_index_is_certified(seed: int) -> None:
    source = Source(seed)
    certificate = source.certify(source.index().search)
    assert certificate.failures() == ()
    assert certificate.holds
    assert certificate.kinds == "exact"
    assert certificate.claims[0].name == "filtered_recall_at_10"


def test_an_index_with_a_history_is_certified_by_its_present_rows() -> None:
    source = Source()
    other = Source(seed=9)
    index = other.index(ids=source.ids)
    index.upsert(np.array([99999]), source.vectors[:1], source.attributes.slice(0, 1))
    index.upsert(source.ids, source.vectors, source.attributes)
    index.delete([99999])
    assert source.certify(index.search).holds


@pytest.mark.parametrize("rows", [0, 1])
def test_the_smallest_indexes_are_certified(rows: int) -> None:
    source = Source()
    parts = {
        "vectors": source.vectors[:rows],
        "ids": source.ids[:rows],
        "attributes": source.attributes.slice(0, rows),
    }
    index = RetrievalIndex.build(**parts)
    assert certify(index.search, queries=source.queries, k=K, cases=30, seed=0, **parts).holds


def test_an_index_without_attributes_is_certified() -> None:
    source = Source()
    source.attributes = None
    assert source.certify(source.index().search, cases=20).holds


# --- corruptions ------------------------------------------------------------------------------------------------------


def rebuilt(**changes: Callable[[Source], Any]) -> Callable[[Source], Search]:
    """An index of rows that are not quite the source's."""

    def corrupt(source: Source) -> Search:
        return source.index(**{name: change(source) for name, change in changes.items()}).search

    return corrupt


def rebuilt_from(rows: np.ndarray) -> Callable[[Source], Search]:
    """An index of some of the source's rows, in another order."""
    return rebuilt(
        vectors=lambda s: s.vectors[rows], ids=lambda s: s.ids[rows], attributes=lambda s: s.attributes.take(rows)
    )


def asked(change: Callable[[Filter], Filter]) -> Callable[[Source], Search]:
    """An index that misreads predicates; connectives are left alone."""

    def whole(where: Filter) -> Filter:
        match where:
            case And(parts):
                return And(tuple(whole(part) for part in parts))
            case Or(parts):
                return Or(tuple(whole(part) for part in parts))
            case Not(part):
                return Not(whole(part))
        return change(where)

    def corrupt(source: Source) -> Search:
        index = source.index()
        return lambda queries, k, filters: index.search(queries, k, [whole(where) for where in filters])

    return corrupt


def answered(change: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]) -> Callable[[Source], Search]:
    """An index whose answers are changed on the way."""

    def corrupt(source: Source) -> Search:
        index = source.index()

        def search(queries: np.ndarray, k: int, filters: list[Filter]) -> Answers:
            ids, scores, passing = (part.copy() for part in index.search(queries, k, filters))
            changed = change(ids, scores, passing)
            return (ids, scores, passing) if changed is None else changed

        return search

    return corrupt


def swapped(values: np.ndarray, a: int, b: int) -> np.ndarray:
    values = values.copy()
    values[[a, b]] = values[[b, a]]
    return values


def flipped(source: Source) -> np.ndarray:
    vectors = source.vectors.copy()
    vectors[40:50, 3] *= -1
    return vectors


def one_category_changed(values: list[Any]) -> list[Any]:
    row = values.index("en")
    return [*values[:row], "de", *values[row + 1 :]]


def filter_ignored(source: Source) -> Search:
    index = source.index()
    return lambda queries, k, filters: index.search(queries, k, None)


def only_the_first_filter_applied(source: Source) -> Search:
    index = source.index()
    return lambda queries, k, filters: index.search(queries, k, filters[0])


def rejected_rows_scored_zero(source: Source) -> Search:
    index = source.index()

    def search(queries: np.ndarray, k: int, filters: list[Filter]) -> Answers:
        every, passing = index.search(queries, ROWS, None), index.search(queries, ROWS, filters)
        ids, scores = every.ids[:, :k].copy(), every.scores[:, :k].copy()
        for number in range(len(queries)):
            masked = np.where(np.isin(every.ids[number], passing.ids[number]), every.scores[number], 0.0)
            masked[every.ids[number] < 0] = -np.inf
            best = np.argsort(-masked, kind="stable")[:k]
            ids[number, : len(best)], scores[number, : len(best)] = every.ids[number][best], masked[best]
        return ids, scores, passing.passing

    return search


def stale_vector_after_upsert(source: Source) -> Search:
    old = source.vectors.copy()
    old[60] = -old[60]
    index = source.index(vectors=old)
    index.upsert(source.ids[60:61], source.vectors[60:61], source.attributes.slice(60, 1))
    index.vectors[index.rows - 1] = torch.from_numpy(old[60])
    return index.search


def stale_attributes_after_upsert(source: Source) -> Search:
    index = source.index()
    index.upsert(source.ids[60:61], source.vectors[60:61], source.attributes.slice(61, 1))
    return index.search


def a_deleted_row_still_there(source: Source) -> Search:
    return source.index(
        ids=np.append(source.ids, 99999),
        vectors=np.append(source.vectors, source.vectors[:1], axis=0),
        attributes=pa.concat_tables([source.attributes, source.attributes.slice(0, 1)]),
    ).search


def nulls_pass(where: Filter) -> Filter:
    return Or((where, IsNull(where.column))) if isinstance(where, Predicate) else where


def ends_excluded(where: Filter) -> Filter:
    match where:
        case Between(column, low, high):
            return And((Comparison(column, low, ">"), Comparison(column, high, "<")))
        case _:
            return where


def strict_made_loose(where: Filter) -> Filter:
    loose = {"<": "<=", ">": ">="}
    if isinstance(where, Comparison) and where.operator in loose:
        return replace(where, operator=loose[where.operator])
    return where


def membership_cut_short(where: Filter) -> Filter:
    return replace(where, values=where.values[:1]) if isinstance(where, In) else where


def all_taken_for_any(where: Filter) -> Filter:
    return HasAny(where.column, where.values) if isinstance(where, HasAll) else where


def circles_cut_off_at_the_antimeridian(where: Filter) -> Filter:
    if not isinstance(where, GeoWithin):
        return where
    side = {"west": 0, "east": 180} if where.longitude >= 0 else {"west": -180, "east": 0}
    return And((where, GeoBox(where.column, -90, side["west"], 90, side["east"])))


def boxes_across_the_antimeridian_emptied(where: Filter) -> Filter:
    return Not(Everything()) if isinstance(where, GeoBox) and where.west > where.east else where


def kilometres_taken_for_miles(where: Filter) -> Filter:
    return replace(where, km=where.km * 1.609344) if isinstance(where, GeoWithin) else where


def circles_by_flat_degrees(source: Source) -> Search:
    """Degrees of longitude taken for as long as those of latitude: every circle becomes its bounding box."""

    def change(where: Filter) -> Filter:
        if not isinstance(where, GeoWithin):
            return where
        reach = where.km / 111.195
        south, north = max(-90.0, where.latitude - reach), min(90.0, where.latitude + reach)
        west, east = max(-180.0, where.longitude - reach), min(180.0, where.longitude + reach)
        return GeoBox(where.column, south, west, north, east)

    return asked(change)(source)


def exchanged(point: Any) -> Any:
    """Latitude and longitude in each other's place, as far as that is a point."""
    if point is None or point["longitude"] is None or abs(point["longitude"]) > 90:
        return point
    return {"latitude": point["longitude"], "longitude": point["latitude"]}


def empty_taken_for_null(where: Filter) -> Filter:
    if isinstance(where, IsNull) and where.column == "tags":
        return Not(HasAny("tags", tuple("abcdé")))
    return where


def sql_nulls(source: Source) -> Search:
    """`not x` leaves out rows where x is unknown."""
    index = source.index()

    def read(where: Filter) -> Filter:
        if isinstance(where, Not) and isinstance(where.part, Predicate) and not isinstance(where.part, IsNull):
            return And((where, Not(IsNull(where.part.column))))
        return where

    return lambda queries, k, filters: index.search(queries, k, [read(where) for where in filters])


def duplicated(ids: np.ndarray, scores: np.ndarray, passing: np.ndarray) -> None:
    if ids.shape[1] > 1:
        several = ids[:, 1] >= 0
        ids[several, 1], scores[several, 1] = ids[several, 0], scores[several, 0]


def truncated(ids: np.ndarray, scores: np.ndarray, passing: np.ndarray) -> None:
    ids[:, -1], scores[:, -1] = -1, -np.inf


def unfilled_scored_zero(ids: np.ndarray, scores: np.ndarray, passing: np.ndarray) -> None:
    scores[ids < 0] = 0


def unfilled_with_an_id(ids: np.ndarray, scores: np.ndarray, passing: np.ndarray) -> None:
    ids[ids < 0] = 0


def one_score_not_a_number(ids: np.ndarray, scores: np.ndarray, passing: np.ndarray) -> None:
    scores[0, 0] = np.nan


def first_two_exchanged(ids: np.ndarray, scores: np.ndarray, passing: np.ndarray) -> None:
    for part in (ids, scores):
        part[:, [0, 1]] = part[:, [1, 0]]


def ties_by_descending_id(ids: np.ndarray, scores: np.ndarray, passing: np.ndarray) -> None:
    order = np.lexsort((-ids, -scores))
    ids[:], scores[:] = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def best_lost(ids: np.ndarray, scores: np.ndarray, passing: np.ndarray) -> None:
    full = passing > ids.shape[1]
    ids[full, :-1], scores[full, :-1] = ids[full, 1:], scores[full, 1:]
    ids[full, -1] = -1


CORRUPTIONS: dict[str, tuple[str, Callable[[Source], Search]]] = {
    # what is stored
    "rows shuffled": ("score_error", rebuilt(vectors=lambda s: np.roll(s.vectors, 1, axis=0))),
    "two rows swapped": ("score_error", rebuilt(vectors=lambda s: swapped(s.vectors, 50, 90))),
    "attributes shuffled": ("forbidden_rows", rebuilt(attributes=lambda s: s.attributes.take(np.roll(range(ROWS), 1)))),
    "rows dropped": ("row_count_difference", rebuilt_from(np.delete(np.arange(ROWS), [50, 51, 52]))),
    "the first row of an id taken for the last": ("score_error", rebuilt_from(np.arange(ROWS)[::-1])),
    "a deleted row still there": ("unknown_ids", a_deleted_row_still_there),
    "ids off by one": ("unknown_ids", rebuilt(ids=lambda s: s.ids + 1)),
    "ids exchanged": ("score_error", rebuilt(ids=lambda s: np.roll(s.ids, 1))),
    "a sign flipped in a region of one component": ("score_error", rebuilt(vectors=flipped)),
    "vectors rounded to half precision": (
        "score_error",
        rebuilt(vectors=lambda s: s.vectors.astype(np.float16).astype(np.float32)),
    ),
    "stale vector after upsert": ("score_error", stale_vector_after_upsert),
    "stale attributes after upsert": ("wrong_passing_counts", stale_attributes_after_upsert),
    "one category changed in one row": (
        "wrong_passing_counts",
        rebuilt(attributes=lambda s: s.column("lang", one_category_changed)),
    ),
    "two categories exchanged": (
        "forbidden_rows",
        rebuilt(attributes=lambda s: s.column("lang", lambda v: [{"de": "en", "en": "de"}.get(str(x), x) for x in v])),
    ),
    "integers passed through floats": (
        "wrong_passing_counts",
        rebuilt(attributes=lambda s: s.column("serial", lambda v: [int(float(x)) for x in v])),
    ),
    "nulls stored as zero": (
        "wrong_passing_counts",
        rebuilt(attributes=lambda s: s.column("year", lambda v: [x or 0 for x in v])),
    ),
    "nulls stored as false": (
        "wrong_passing_counts",
        rebuilt(attributes=lambda s: s.column("fresh", lambda v: [bool(x) for x in v])),
    ),
    "the last value of each list lost": (
        "wrong_passing_counts",
        rebuilt(attributes=lambda s: s.column("tags", lambda v: [x and x[:-1] for x in v])),
    ),
    "latitude and longitude exchanged": (
        "wrong_passing_counts",
        rebuilt(attributes=lambda s: s.column("place", lambda v: [exchanged(x) for x in v])),
    ),
    "points rounded to a degree": (
        "wrong_passing_counts",
        rebuilt(
            attributes=lambda s: s.column(
                "place", lambda v: [x and {k: n if n is None else round(n, 0) for k, n in x.items()} for x in v]
            )
        ),
    ),
    "one point on the other side of the Earth in one row": (
        "wrong_passing_counts",
        rebuilt(
            attributes=lambda s: s.column("place", lambda v: [*v[:5], {"latitude": -90.0, "longitude": 77.0}, *v[6:]])
        ),
    ),
    "missing points stored as zero": (
        "wrong_passing_counts",
        rebuilt(
            attributes=lambda s: s.column("place", lambda v: [x or {"latitude": 0.0, "longitude": 0.0} for x in v])
        ),
    ),
    # how filters are read
    "filters ignored": ("forbidden_rows", filter_ignored),
    "the first filter applied to the whole batch": ("forbidden_rows", only_the_first_filter_applied),
    "nulls pass": ("forbidden_rows", asked(nulls_pass)),
    "nulls stay unknown under not": ("wrong_passing_counts", sql_nulls),
    "ends of a range excluded": ("wrong_passing_counts", asked(ends_excluded)),
    "strict comparisons made loose": ("forbidden_rows", asked(strict_made_loose)),
    "membership reads the first value only": ("wrong_passing_counts", asked(membership_cut_short)),
    "has_all taken for has_any": ("forbidden_rows", asked(all_taken_for_any)),
    "circles cut off at the antimeridian": ("wrong_passing_counts", asked(circles_cut_off_at_the_antimeridian)),
    "boxes across the antimeridian emptied": ("wrong_passing_counts", asked(boxes_across_the_antimeridian_emptied)),
    "kilometres taken for miles": ("forbidden_rows", asked(kilometres_taken_for_miles)),
    "circles measured in flat degrees": ("wrong_passing_counts", circles_by_flat_degrees),
    "an empty list taken for null": ("forbidden_rows", asked(empty_taken_for_null)),
    # what is answered
    "rejected rows scored zero": ("forbidden_rows", rejected_rows_scored_zero),
    "an id answered twice": ("repeated_ids", answered(duplicated)),
    "the last place left empty": ("incomplete_answers", answered(truncated)),
    "the best one lost": ("filtered_recall_at_10", answered(best_lost)),
    "unfilled places scored zero": ("incomplete_answers", answered(unfilled_scored_zero)),
    "unfilled places given an id": ("incomplete_answers", answered(unfilled_with_an_id)),
    "scores scaled by a millionth": ("score_error", answered(lambda i, s, p: (i, s * (1 + 1e-6), p))),
    "scores rounded to float32": ("score_error", answered(lambda i, s, p: (i, s.astype(np.float32), p))),
    "scores negated": ("score_inversion", answered(lambda i, s, p: (i, np.where(i < 0, s, -s), p))),
    "a score that is not a number": ("scores_not_finite", answered(one_score_not_a_number)),
    "the first two exchanged": ("score_inversion", answered(first_two_exchanged)),
    "ties by descending id": ("ties_out_of_order", answered(ties_by_descending_id)),
    "one passing row too many counted": ("wrong_passing_counts", answered(lambda i, s, p: (i, s, p + 1))),
    "fewer places than asked": ("malformed_answers", answered(lambda i, s, p: (i[:, 1:], s[:, 1:], p))),
    "ids as floats": ("malformed_answers", answered(lambda i, s, p: (i.astype(np.float64), s, p))),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_index_is_refused(name: str) -> None:
    claim, corrupt = CORRUPTIONS[name]
    source = Source()
    certificate = source.certify(corrupt(source))
    failed = {failure.name: failure for failure in certificate.failures()}
    assert claim in failed
    assert "First offender: case " in failed[claim].detail


def test_one_changed_component_in_one_row_is_seen_among_all_rows() -> None:
    source = Source()
    for row in (7, 70, ROWS - 6):
        vectors = source.vectors.copy()
        vectors[row, row % DIMENSION] += 1e-4
        assert not source.certify(source.index(vectors=vectors).search, cases=8).holds


def test_the_first_offender_is_named_with_question_expectation_and_finding() -> None:
    source = Source()
    (claim,) = (
        claim
        for claim in source.certify(asked(strict_made_loose)(source)).failures()
        if claim.name == "wrong_passing_counts"
    )
    assert "300 cases" in claim.detail
    assert "filter " in claim.detail
    assert "expected" in claim.detail
    assert "found" in claim.detail


def test_the_same_seed_asks_the_same_questions() -> None:
    source = Source()
    heard: list[tuple[bytes, int, str]] = []
    index = source.index()

    def search(queries: np.ndarray, k: int, filters: list[Filter]) -> Answers:
        heard.append((queries.tobytes(), k, str(filters)))
        return index.search(queries, k, filters)

    source.certify(search)
    first, heard[:] = list(heard), []
    source.certify(search)
    assert heard == first


def test_sampled_filters_use_each_operator_on_each_kind_of_column_and_all_selectivities() -> None:
    source = Source()
    index = source.index()
    texts: list[str] = []
    shares: list[float] = []

    def search(queries: np.ndarray, k: int, filters: list[Filter]) -> Answers:
        hits = index.search(queries, k, filters)
        texts.extend(map(str, filters))
        shares.extend((hits.passing / len(index)).tolist())
        return hits

    source.certify(search)
    together = "\n".join(texts)
    for column in ("year", "serial", "price", "lang"):
        for sign in ("==", "!=", "<", "<=", ">", ">=", "in", "between"):
            assert f"{column} {sign} " in together
    for text in ("fresh ==", "fresh !=", "fresh in", "tags has ", "tags has_any", "tags has_all", "is null"):
        assert text in together
    for text in ("place geo_within(", ", 0.0)", "place geo_box(", "place is null"):
        assert text in together
    for word in (" and ", " or ", "not "):
        assert word in together
    counts, _ = np.histogram(shares, [0, 1e-9, 0.05, 0.2, 0.5, 0.8, 0.999, 1.1])
    assert (counts >= 3).all()


# --- the reference itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("true", [0, 1, 2, 3]),
        ("year == 2019", [0]),
        ("year != 2019", [1]),
        ("not year == 2019", [1, 2, 3]),
        ("year not in (2019) and year is not null", [1]),
        ("year between 2019 and 2020", [0, 1]),
        ("price < 1", [0]),
        ("price is null", [2, 3]),
        ("tags has 'a'", [0]),
        ("tags has_any ('b', 'c')", [0, 1]),
        ("tags has_all ('a', 'b')", [0]),
        ("tags is null", [3]),
        ("not tags has 'a'", [1, 2, 3]),
        ("year < 2020 or tags has 'c'", [0, 1]),
        ("place is null", [2, 3]),
        ("place geo_within(10, 180, 0)", [0]),
        ("place geo_within(10, 180, 9000)", [0, 1]),
        ("place geo_within(-10, 0, 20015.11)", [1]),
        ("place geo_within(90, 77, 0)", [1]),
        ("not place geo_within(-10, 0, 20016)", [2, 3]),
        ("place geo_box(10, 170, 10, 180)", [0]),
        ("place geo_box(-10, 30, 90, 30)", [1]),
        ("place geo_box(0, 170, 90, -170)", [0, 1]),
    ],
)
def test_the_reference_reads_filters_as_the_language_says(text: str, passing: list[int]) -> None:
    attributes = pa.table(
        {
            "year": [2019, 2020, None, None],
            "price": [0.5, 1.0, None, float("nan")],
            "tags": [["a", "b"], ["c"], [], None],
            "place": [{"lat": 10.0, "lon": -180.0}, {"lat": 90.0, "lon": 5.0}, {"lat": 1.0, "lon": float("nan")}, None],
        }
    )
    vectors = np.ones((4, 1), np.float32)
    answer = exact_answer(vectors, np.arange(4), attributes, vectors[:1], 4, [parse(text)])
    assert [i for i in answer.ids[0].tolist() if i >= 0] == passing
    assert answer.passing.tolist() == [len(passing)]
    assert np.isneginf(answer.scores[0, len(passing) :]).all()


def test_the_reference_reads_clauses_by_the_values_that_it_finds() -> None:
    attributes = pa.table({"year": [2019, 2020, None], "tags": [["a", "b"], [], None]})
    vectors, clauses = np.ones((3, 1), np.float32), [
        Clause("year", any_of=[2019, 7]), Clause("year", none_of=[2019]),
        Clause("tags", any_of=["b", "c"]), Clause("tags", none_of=["b"]),
    ]  # fmt: skip
    answer = exact_answer(vectors, np.arange(3), attributes, np.repeat(vectors[:1], 4, 0), 3, clauses)
    assert answer.ids.tolist() == [[0, -1, -1], [1, 2, -1], [0, -1, -1], [1, 2, -1]]


def test_the_exact_answer_is_ordered_by_score_then_id_with_the_last_row_of_an_id() -> None:
    vectors = np.array([[9], [1], [2], [2]], np.float32)
    answer = exact_answer(vectors, np.array([1, 1, 7, 5]), None, np.ones((1, 1), np.float32), 4, [Everything()])
    assert answer.ids.tolist() == [[5, 7, 1, -1]]
    assert answer.scores.tolist() == [[2, 2, 1, -np.inf]]


def test_recall_counts_ties_by_score_and_repeats_once() -> None:
    vectors = np.array([[3], [2], [2], [1]], np.float32)
    found = np.array([[0, 2], [0, 0], [3, 0], [0, 9], [1, 2], [-1, -1]])
    filters: list[Filter] = [Everything()] * 4 + [col("lang") == "en", col("lang") == "nowhere"]
    attributes = pa.table({"lang": ["de", "en", "de", "de"]})
    recall = recall_at_k(found, vectors, np.arange(4), attributes, np.ones((6, 1), np.float32), filters)
    assert recall.tolist() == [1.0, 0.5, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("change", [{"cases": 7}, {"k": 0}, {"queries": np.zeros((0, DIMENSION), np.float32)}])
def test_a_certificate_of_nothing_is_not_given(change: dict[str, Any]) -> None:
    source = Source()
    arguments: dict[str, Any] = {
        "vectors": source.vectors,
        "ids": source.ids,
        "attributes": source.attributes,
        "queries": source.queries,
        "k": K,
        "cases": CASES,
        "seed": 0,
    }
    with pytest.raises(ValueError, match="certify needs"):
        certify(source.index().search, **{**arguments, **change})
