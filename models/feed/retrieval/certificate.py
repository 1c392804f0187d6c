"""Judge a retrieval index from outside: ask it questions, and answer them again from the source rows.

The judge knows the language of filters and the rows that the index was made of; of the index it knows answers alone.
It reads filters by an interpreter of its own, one row after another in plain Python, and scores every row in float64.

Shapes: N source rows, D dimension, B queries, K results per query.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.feed.retrieval.filter import (
    And,
    Between,
    Clause,
    Comparison,
    Everything,
    Filter,
    GeoBox,
    GeoWithin,
    Has,
    HasAll,
    HasAny,
    In,
    IsNull,
    Not,
    Or,
    Predicate,
)

Vectors = NDArray[np.float32]
Answers = tuple[NDArray[np.int64], NDArray[np.floating[Any]], NDArray[np.int64]]
Search = Callable[[Vectors, int, list[Filter]], Answers]
"""`search(queries (B, D), k, filters, one per query)` gives ids (B, K), scores (B, K) and passing (B,)."""

_TOGETHER = 16
_DEEP = 8
_TIE = 1e-6
"""Scores of unit vectors closer than float32 can tell apart."""

_EARTH_KM = 6371.0088
_APART_KM = 5e-3
"""How far from the rim of a sampled circle every point lies at least. Closer to it than some 10 nanometres, or half a
metre near the opposite point, the distance as it is computed here may contradict the definition in `points`."""

_SAME_KM = 1e-9
"""What may lie between two spellings of one point, on the antimeridian or at a pole, by the haversine's rounding."""


class Exact(NamedTuple):
    """The right answers, in float64.

    Attributes:
        ids: of shape (B, K), int64, by (score descending, id ascending); -1 where fewer than K rows pass.
        scores: of shape (B, K), float64; minus infinity where the id is -1.
        passing: of shape (B,), int64: rows that pass.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    passing: NDArray[np.int64]

    @classmethod
    def empty(cls, queries: int, k: int) -> "Exact":
        """Answers in which nothing passes."""
        return cls(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf), np.zeros(queries, np.int64))

    def fill(self, query: int, ids: NDArray[np.int64], passing: NDArray[np.bool_], scores: NDArray[np.float64]) -> None:
        """Put in the answer to one query: the best of the rows (N) that pass."""
        rows = np.flatnonzero(passing)
        best = rows[np.lexsort((ids[rows], -scores[rows]))][: self.ids.shape[1]]
        self.ids[query, : len(best)] = ids[best]
        self.scores[query, : len(best)] = scores[best]
        self.passing[query] = len(rows)


def exact_answer(
    vectors: Vectors,
    ids: NDArray[np.int64],
    attributes: pa.Table | None,
    queries: Vectors,
    k: int,
    filters: Sequence[Filter],
) -> Exact:
    """Answer queries by scoring every passing row in float64.

    Args:
        vectors: of shape (N, D): the source rows.
        ids: of shape (N,); of rows with the same id the last one counts.
        attributes: N rows, or None.
        queries: of shape (B, D).
        k: results per query.
        filters: B filters whose columns and value types suit the attributes. Points on the very rim of a circle may be
            judged either way, see `_APART_KM`; those at its centre are inside whatever its radius.

    Returns:
        The right answers, against which a monitor measures recall.

    Source:
        Ours; the definition of the task, as plain as it can be written.
    """
    source, exact = _Source(vectors, ids, attributes), Exact.empty(len(queries), k)
    for query, passing, scores in source.judged(queries, filters):
        exact.fill(query, source.ids, passing, scores)
    return exact


def exact_and_recall(
    found: NDArray[np.int64],
    vectors: Vectors,
    ids: NDArray[np.int64],
    attributes: pa.Table | None,
    queries: Vectors,
    filters: Sequence[Filter],
) -> tuple[Exact, NDArray[np.float64]]:
    """What `exact_answer` and `recall_at_k` say, in one reading of the rows.

    Args:
        found: of shape (B, K): ids, -1 in unfilled places.
        vectors: as in `exact_answer`, like all that follow.
        ids: source ids.
        attributes: source attributes.
        queries: of shape (B, D).
        filters: B filters.

    Returns:
        The right answers, and the recall of every query, of shape (B,).

    Source:
        See these two.
    """
    source, exact, recall = _Source(vectors, ids, attributes), Exact.empty(*found.shape), np.ones(len(queries))
    for query, passing, scores in source.judged(queries, filters):
        exact.fill(query, source.ids, passing, scores)
        recall[query] = source.recall(query, found[query], queries[query], passing, scores)
    return exact, recall


def recall_at_k(
    found: NDArray[np.int64],
    vectors: Vectors,
    ids: NDArray[np.int64],
    attributes: pa.Table | None,
    queries: Vectors,
    filters: Sequence[Filter],
) -> NDArray[np.float64]:
    """The share of the K best passing rows that was found, of shape (B,).

    A row counts when it passes the filter and its exact score reaches that of the last of the K best, so that ties
    cost nothing; an id found twice counts once. One where nothing passes.

    Args:
        found: of shape (B, K): ids, -1 in unfilled places.
        vectors: as in `exact_answer`, like all that follow.
        ids: source ids.
        attributes: source attributes.
        queries: of shape (B, D).
        filters: B filters.

    Returns:
        Recall of every query, 0 to 1.

    Source:
        Recall@k with ties counted by score, as in the harnesses of ann-benchmarks.
    """
    source = _Source(vectors, ids, attributes)
    recall = np.ones(len(queries))
    for query, passing, scores in source.judged(queries, filters):
        recall[query] = source.recall(query, found[query], queries[query], passing, scores)
    return recall


def certify(
    search: Search,
    *,
    vectors: Vectors,
    ids: NDArray[np.int64],
    attributes: pa.Table | None,
    queries: Vectors,
    k: int,
    cases: int,
    seed: int,
) -> Certificate:
    """Ask an index sampled questions and compare each answer with the exhaustive one.

    Filters are drawn from the source rows: each kind of predicate on each column in turn, with values that occur, from
    a handful of passing rows to all of them, alone, negated and nested. One case in eight, and two without a filter,
    ask for all rows instead of k: each stored vector and attribute then shows in some answer. Queries are drawn from
    the given ones, source rows and their opposites, and random directions.

    Args:
        search: the index's answer; see `Search`.
        vectors: of shape (N, D), float32: the rows that the index should hold, not taken from the index.
        ids: of shape (N,), int64; of rows with the same id the last one counts.
        attributes: N rows, or None.
        queries: of shape (B, D), float32, at least one; what is asked in service.
        k: results per query in service, at least 1.
        cases: questions asked, at least 8; a few per column and operator are a good measure.
        seed: start of the random stream.

    Returns:
        Exact claims; each one's detail counts the cases and, when it fails, names the first offender.

    Raises:
        ValueError: there are no queries, fewer than 8 cases, or k is below 1.

    Source:
        Ours. A score may be off by 1e-12 |q| times the longest |x|, far above the rounding of D products in float64.
    """
    if len(queries) < 1 or cases < 8 or k < 1:
        raise ValueError(
            f"certify needs at least 1 query, 8 cases and k of 1, got {len(queries)} queries, {cases} cases, k {k}."
        )
    source = _Source(vectors, ids, attributes)
    random = np.random.default_rng(seed)
    sampler = _Sampler(source.columns, random)
    filters = [Everything(), Everything(), Not(Everything()), *(sampler.filter() for _ in range(cases - 3))]
    deep = random.random(cases) < 1 / _DEEP
    deep[:2] = True
    asked = _directions(source, queries, cases, random)
    ledger = _Ledger(cases)
    for wanted, chosen in (
        (max(1, len(source.ids)), np.flatnonzero(deep).tolist()),
        (k, np.flatnonzero(~deep).tolist()),
    ):
        for start in range(0, len(chosen), _TOGETHER):
            batch = chosen[start : start + _TOGETHER]
            answers = search(asked[batch], wanted, [filters[case] for case in batch])
            if not _well_formed(answers, len(batch), wanted):
                ledger.malformed(batch[0], answers, len(batch), wanted)
                continue
            _examine(ledger, source, asked[batch], batch, [filters[case] for case in batch], answers)
    return ledger.certificate(k, cases)


# --- the source rows, and the interpreter -----------------------------------------------------------------------------


class _Source:
    """Source rows, the last one of each id, with attributes as plain Python values; a missing value is None."""

    def __init__(self, vectors: Vectors, ids: NDArray[np.int64], attributes: pa.Table | None) -> None:
        last = {identity: row for row, identity in enumerate(ids.tolist())}
        kept = np.array(sorted(last.values()), dtype=np.int64)
        self.vectors = vectors[kept]
        self.ids = ids[kept]
        self.row_of = {identity: row for row, identity in enumerate(self.ids.tolist())}
        self.longest = float(np.sqrt((self.vectors.astype(np.float64) ** 2).sum(axis=1)).max(initial=0.0))
        self.columns: dict[str, list[Any]] = {}
        for name in [] if attributes is None else attributes.column_names:
            values = attributes.column(name).to_pylist()  # type: ignore[union-attr]
            self.columns[name] = [_value(values[row]) for row in kept.tolist()]

    def judged(
        self, queries: Vectors, filters: Sequence[Filter]
    ) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.float64]]]:
        """For each query its number, which rows pass, and every row's score."""
        for start in range(0, len(queries), _TOGETHER):
            some = queries[start : start + _TOGETHER].astype(np.float64)
            scores = np.empty((len(some), len(self.ids)))
            for row in range(0, len(self.ids), 65536):
                scores[:, row : row + 65536] = some @ self.vectors[row : row + 65536].astype(np.float64).T
            for number in range(len(some)):
                yield start + number, self.passing(filters[start + number]), scores[number]

    def passing(self, where: Filter) -> NDArray[np.bool_]:
        """Which rows pass: of shape (N,)."""
        match where:
            case Everything():
                return np.ones(len(self.ids), dtype=bool)
            case Not(part):
                return ~self.passing(part)
            case And(parts):
                return np.asarray(np.logical_and.reduce([self.passing(part) for part in parts]))
            case Or(parts):
                return np.asarray(np.logical_or.reduce([self.passing(part) for part in parts]))
            case Clause(column, none_of=values) if values is not None:
                return ~self.passing(Clause(column, any_of=values))
            case Predicate():
                holds = _meaning(where)
                missing = isinstance(where, IsNull)
                return np.array([missing if v is None else holds(v) for v in self.columns[where.column]], dtype=bool)
        raise TypeError(f"{where!r} is no filter.")

    def tolerance(self, query: Vectors) -> float:
        """How far a score may be from the judge's: 1e-12 |x| |q|, above the rounding of either sum."""
        size = len(query) * 2.0**-52
        return max(1e-12, size) * self.longest * float(np.linalg.norm(query.astype(np.float64)))

    def recall(
        self,
        number: int,
        found: NDArray[np.int64],
        query: Vectors,
        passing: NDArray[np.bool_],
        scores: NDArray[np.float64],
    ) -> float:
        """Recall of one query; see `recall_at_k`."""
        possible = min(len(found), int(passing.sum()))
        if possible == 0:
            return 1.0
        last = np.sort(scores[passing])[-possible] - self.tolerance(query)
        rows = {self.row_of[identity] for identity in found.tolist() if identity in self.row_of}
        return min(1.0, sum(1 for row in rows if passing[row] and scores[row] >= last) / possible)


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        place = tuple(_value(value.get(long, value.get(short))) for long, short in _PARTS)
        return None if None in place else place
    return None if isinstance(value, float) and value != value else value


_PARTS = (("latitude", "lat"), ("longitude", "lon"))


def _distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Great-circle distance of two points, in kilometres, by the haversine (Sinnott 1984, Virtues of the Haversine)."""
    up, along = (math.sin(math.radians(there - here) / 2) ** 2 for here, there in zip(one, other, strict=True))
    haversine = up + math.cos(math.radians(one[0])) * math.cos(math.radians(other[0])) * along
    return 2 * _EARTH_KM * math.asin(math.sqrt(min(1.0, haversine)))


def _in_box(where: GeoBox, latitude: float, longitude: float) -> bool:
    same = {-180.0, 180.0} if abs(longitude) == 180 else {longitude}
    if where.west <= where.east:
        between = any(where.west <= one <= where.east for one in same)
    else:
        between = any(one >= where.west or one <= where.east for one in same)
    return where.south <= latitude <= where.north and (between or abs(latitude) == 90)


def _meaning(where: Predicate) -> Callable[[Any], bool]:
    """What a predicate says of a value that is there."""
    match where:
        case Comparison(_, value, "=="):
            return lambda found: bool(found == value)
        case Comparison(_, value, "!="):
            return lambda found: bool(found != value)
        case Comparison(_, value, "<"):
            return lambda found: bool(found < value)
        case Comparison(_, value, "<="):
            return lambda found: bool(found <= value)
        case Comparison(_, value, ">"):
            return lambda found: bool(found > value)
        case Comparison(_, value, ">="):
            return lambda found: bool(found >= value)
        case In(_, values):
            return lambda found: found in values
        case Between(_, low, high):
            return lambda found: bool(low <= found <= high)
        case IsNull():
            return lambda found: False
        case Has(_, value):
            return lambda found: value in found
        case HasAny(_, values):
            return lambda found: any(value in found for value in values)
        case HasAll(_, values):
            return lambda found: all(value in found for value in values)
        case Clause(any_of=several) if several is not None:
            return lambda found: any(v in several for v in (found if isinstance(found, list) else [found]))
        case GeoWithin(_, latitude, longitude, km):
            return lambda found: _distance((latitude, longitude), found) <= km + _SAME_KM
        case GeoBox():
            return lambda found: _in_box(where, *found)
    raise TypeError(f"{where!r} is no predicate.")


# --- questions --------------------------------------------------------------------------------------------------------


class _Sampler:
    """Draws filters whose values occur in the columns."""

    def __init__(self, columns: dict[str, list[Any]], random: np.random.Generator) -> None:
        self.random = random
        self.columns = columns
        self.present = {name: [v for v in values if v is not None] for name, values in columns.items()}
        self.ordered = {
            name: sorted(values)
            for name, values in self.present.items()
            if values and not isinstance(values[0], list | bool | tuple)
        }
        self.places = {
            name: [sorted(part) for part in zip(*values, strict=True)]
            for name, values in self.present.items()
            if values and isinstance(values[0], tuple)
        }
        self.inside = {
            name: [v for row in values for v in row if v is not None]
            for name, values in self.present.items()
            if values and isinstance(values[0], list)
        }
        self.turn = 0

    def filter(self) -> Filter:
        """A predicate: alone, negated, or nested with others."""
        if not self.columns:
            return Everything()
        where = self.predicate()
        shape = self.pick(12)
        if shape < 6:
            return where
        if shape < 8:
            return Not(where)
        other, third = self.predicate(), self.predicate()
        return (
            And((where, Not(other))),
            Or((where, And((other, third)))),
            Not(Or((where, other))),
            And((Or((where, other)), third)),
        )[shape - 8]

    def predicate(self) -> Filter:
        """One column after another, and on each column one kind of predicate after another."""
        names = list(self.columns)
        name = names[self.turn % len(names)]
        kind = self.turn // len(names)
        self.turn += 1
        if not self.present[name]:
            return IsNull(name)
        if name in self.inside:
            return self.of_lists(name, kind)
        if name in self.places:
            return self.of_points(name, kind)
        return self.of_values(name, kind)

    def of_lists(self, name: str, kind: int) -> Filter:
        if not self.inside[name]:
            return IsNull(name)
        some = tuple(self.one(self.inside[name]) for _ in range(1 + self.pick(3)))
        full = [row for row in self.present[name] if any(v is not None for v in row)]
        row = [v for v in self.one(full) if v is not None]
        together = tuple(self.one(row) for _ in range(1 + self.pick(3)))
        return (Has(name, some[0]), HasAny(name, some), HasAll(name, together), IsNull(name))[kind % 4]

    def of_points(self, name: str, kind: int) -> Filter:
        if kind % 3 == 0:
            return self.circle(name)
        if kind % 3 == 1:
            south, north = self.range(self.places[name][0])
            west, east = self.range(self.places[name][1])
            return GeoBox(name, south, *((west, north, east) if self.pick(2) else (east, north, west)))
        return IsNull(name)

    def circle(self, name: str) -> Filter:
        """A circle around a point that occurs; no other point lies close to its rim, see `_APART_KM`."""
        centre = self.one(self.present[name])
        far = np.sort([_distance(centre, place) for place in self.present[name]])
        far = np.append(far, far[-1] + 1)
        last = np.flatnonzero(np.diff(far) > 2 * _APART_KM)
        chosen = int(last[round(len(last) ** self.random.random()) - 1])
        km = 0.0 if far[chosen] == 0 else (far[chosen] + far[chosen + 1]) / 2
        return GeoWithin(name, centre[0], centre[1], km)

    def of_values(self, name: str, kind: int) -> Filter:
        value = self.one(self.present[name])
        several = tuple(self.one(self.present[name]) for _ in range(1 + self.pick(5)))
        if name not in self.ordered:
            return (Comparison(name, value, "=="), Comparison(name, value, "!="), In(name, several), IsNull(name))[
                kind % 4
            ]
        low, high = self.range(self.ordered[name])
        return (
            Comparison(name, value, "=="),
            Between(name, low, high),
            In(name, several),
            Comparison(name, high, "<="),
            Comparison(name, low, ">="),
            Comparison(name, high, "<"),
            Comparison(name, low, ">"),
            Comparison(name, value, "!="),
            IsNull(name),
        )[kind % 9]

    def range(self, values: list[Any]) -> tuple[Any, Any]:
        """Ends that occur, with one to all of the rows between them, small and large shares alike."""
        rows = min(len(values), max(1, round(len(values) ** self.random.random())))
        start = self.pick(len(values) - rows + 1)
        return values[start], values[start + rows - 1]

    def one(self, values: Sequence[Any]) -> Any:
        return values[self.pick(len(values))]

    def pick(self, count: int) -> int:
        return int(self.random.integers(count))


def _directions(source: _Source, queries: Vectors, cases: int, random: np.random.Generator) -> Vectors:
    asked = np.empty((cases, queries.shape[1]), dtype=np.float32)
    for case in range(cases):
        kind = int(random.integers(4)) if len(source.ids) else 3 * (case % 2)
        if kind == 0:
            asked[case] = queries[random.integers(len(queries))]
        elif kind == 3:
            asked[case] = random.standard_normal(queries.shape[1])
        else:
            asked[case] = source.vectors[random.integers(len(source.ids))] * (1 if kind == 1 else -1)
    return asked


# --- verdicts ---------------------------------------------------------------------------------------------------------


@dataclass
class _Entry:
    value: float
    offender: str = ""


class _Ledger:
    """The worst of each claim so far, and the first case that broke it."""

    def __init__(self, cases: int) -> None:
        self.cases = cases
        self.entries = {name: _Entry(0.0) for name in _CLAIMS}
        self.recall = _Entry(1.0)

    def count(self, name: str, amount: int, offender: str) -> None:
        """Add offences to a claim that counts them."""
        entry = self.entries[name]
        if amount and not entry.offender:
            entry.offender = offender
        entry.value += amount

    def largest(self, name: str, amount: float, offender: str) -> None:
        """Raise a claim that keeps the largest value; not-a-number counts as infinite."""
        entry = self.entries[name]
        amount = np.inf if np.isnan(amount) else amount
        if amount > _CLAIMS[name][0] and not entry.offender:
            entry.offender = offender
        entry.value = max(entry.value, amount)

    def least_recall(self, recall: float, offender: str) -> None:
        """Lower the recall."""
        if recall < 1 and not self.recall.offender:
            self.recall.offender = offender
        self.recall.value = min(self.recall.value, recall)

    def malformed(self, case: int, answers: Any, count: int, k: int) -> None:
        """A whole batch that cannot be read."""
        shapes = [f"{getattr(part, 'dtype', type(part).__name__)}{getattr(part, 'shape', '')}" for part in answers]
        expected = f"integer ids ({count}, {k}), float scores ({count}, {k}), integer passing ({count},)"
        self.count("malformed_answers", count, f"case {case}: expected {expected}, found {', '.join(shapes)}")
        self.least_recall(0.0, f"case {case}: the answer cannot be read")

    def certificate(self, k: int, cases: int) -> Certificate:
        """The claims."""

        def detail(words: str, entry: _Entry) -> str:
            return f"{words}; {cases} cases." + (f" First offender: {entry.offender}." if entry.offender else "")

        claims = [
            Claim(
                name=f"filtered_recall_at_{k}",
                kind="exact",
                value=self.recall.value,
                limit=1.0,
                sense="at least",
                detail=detail("Lowest recall against an exhaustive float64 scan, ties counted by score", self.recall),
            )
        ]
        for name, (limit, words) in _CLAIMS.items():
            entry = self.entries[name]
            claims.append(Claim(name=name, kind="exact", value=entry.value, limit=limit, detail=detail(words, entry)))
        return Certificate(claims=tuple(claims))


_CLAIMS: dict[str, tuple[float, str]] = {
    "score_error": (1.0, "Largest distance of a score from float64, in units of 1e-12 |q| times the longest |x|"),
    "score_inversion": (0.0, "Largest rise from one score to the next"),
    "ties_out_of_order": (0.0, "Equal scores whose ids do not ascend"),
    "forbidden_rows": (0.0, "Rows returned that the filter rejects"),
    "wrong_passing_counts": (0.0, "Answers that miscount the passing rows"),
    "incomplete_answers": (0.0, "Answers without exactly min(k, passing) ids first and -1 with minus infinity after"),
    "repeated_ids": (0.0, "Ids returned twice in one answer"),
    "unknown_ids": (0.0, "Ids returned that no source row has"),
    "row_count_difference": (0.0, "Rows in the index against rows in the source"),
    "scores_not_finite": (0.0, "Scores of returned ids that are not finite"),
    "malformed_answers": (0.0, "Answers of the wrong shape or type"),
}


def _well_formed(answers: Any, count: int, k: int) -> bool:
    if not isinstance(answers, tuple) or len(answers) != 3 or not all(isinstance(a, np.ndarray) for a in answers):
        return False
    shapes = ((count, k), (count, k), (count,))
    return [part.dtype.kind for part in answers] == ["i", "f", "i"] and tuple(a.shape for a in answers) == shapes


def _examine(
    ledger: _Ledger, source: _Source, asked: Vectors, cases: list[int], filters: list[Filter], answers: Answers
) -> None:
    """Hold a batch of answers against the source."""
    ids, scores, passing_counts = answers
    k = ids.shape[1]
    for number, passing, exact in source.judged(asked, filters):
        where = filters[number]
        question = f"case {cases[number]}, k {k}, filter {where}"
        total = int(passing.sum())
        told = int(passing_counts[number])
        ledger.count("wrong_passing_counts", int(told != total), f"{question}: expected {total} passing, found {told}")
        if isinstance(where, Everything):
            ledger.largest(
                "row_count_difference",
                abs(told - len(source.ids)),
                f"{question}: expected {len(source.ids)} rows, found {told}",
            )

        filled = ids[number] != -1
        due = np.arange(k) < min(k, total)
        empty_scores = scores[number][~filled]
        wrong = bool((filled != due).any() or not np.isneginf(empty_scores).all())
        ledger.count(
            "incomplete_answers",
            int(wrong),
            f"{question}: expected {min(k, total)} ids, then -1 with -inf; found {int(filled.sum())} ids, "
            f"and scores up to {max(empty_scores.tolist(), default=-np.inf)} without one",
        )

        found, told_scores = ids[number][filled].tolist(), scores[number][filled].astype(np.float64)
        repeated = [identity for identity, times in Counter(found).items() if times > 1]
        ledger.count("repeated_ids", len(repeated), f"{question}: id {repeated[:1]} more than once")
        unknown = [identity for identity in found if identity not in source.row_of]
        ledger.count("unknown_ids", len(unknown), f"{question}: id {unknown[:1]} is in no source row")
        infinite = np.flatnonzero(~np.isfinite(told_scores))
        ledger.count(
            "scores_not_finite",
            len(infinite),
            f"{question}: id {[found[i] for i in infinite[:1]]} has score {told_scores[infinite[:1]].tolist()}",
        )

        known = np.array([identity in source.row_of for identity in found], dtype=bool)
        rows = np.array([source.row_of[identity] for identity in found if identity in source.row_of], dtype=np.int64)
        forbidden = rows[~passing[rows]]
        ledger.count("forbidden_rows", len(forbidden), f"{question}: id {source.ids[forbidden[:1]]} does not pass")
        tolerance = source.tolerance(asked[number])
        errors = np.abs(told_scores[known] - exact[rows])
        if len(rows):
            worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
            ledger.largest(
                "score_error",
                float(errors[worst]) / tolerance if tolerance else float(np.inf if errors[worst] else 0.0),
                f"{question}: id {source.ids[rows[worst]]}, expected {exact[rows[worst]]!r}, "
                f"found {told_scores[known][worst]!r}",
            )
        with np.errstate(invalid="ignore"):  # infinite scores, which have their own claim
            rises = np.diff(told_scores)
        if len(rises):
            ledger.largest(
                "score_inversion",
                float(rises.max()),
                f"{question}: place {int(rises.argmax()) + 1} scores higher than the one before it",
            )
        ties = np.flatnonzero((rises == 0) & (np.diff(np.array(found, dtype=np.int64)) <= 0))
        ledger.count("ties_out_of_order", len(ties), f"{question}: the ids from place {ties[:1]} on")
        ledger.least_recall(
            source.recall(number, ids[number], asked[number], passing, exact),
            f"{question}: some of the {min(k, total)} best are missing",
        )


def certify_towers(
    *,
    weights: Mapping[str, Any],
    items: Vectors,
    queries: Vectors,
    relevant: NDArray[np.int64],
    met: Sequence[NDArray[np.int64]],
    hits: NDArray[np.floating[Any]],
    k: int,
) -> Certificate:
    """Judge two towers from outside: their weights, their vectors, and the ranking of sampled members done again.

    Args:
        weights: tensors of the model by name; they tell how it compares.
        items: of shape (N, X): what the towers say of the items: vectors, and what a learned similarity wants beside.
        queries: of shape (B, X): what they say of sampled members.
        relevant: of shape (B,): the held-out item of each.
        met: of each member, the items that are left out.
        hits: of shape (B,): 1 where the judged ranking found the item among the first k, else 0.
        k: length of the lists.

    Returns:
        The certificate.

    Source:
        Ours. Ties may fall either way: a hit is wrong only if no order of equal scores explains it.
    """
    broken = sum(int((~np.isfinite(np.asarray(tensor, np.float64))).sum()) for tensor in weights.values())
    exact = {name: np.asarray(tensor, np.float64) for name, tensor in weights.items()}
    width = exact["items.weight"].shape[1] if "items.weight" in exact else items.shape[1]
    gate = len(exact["cross_gate.2.bias"]) if "cross_gate.2.bias" in exact else 0
    units = [rows[:, : rows.shape[1] - gate] if gate else rows[:, :width] for rows in (items, queries)]
    length = np.linalg.norm(np.concatenate([rows.reshape(-1, width) for rows in units]).astype(np.float64), axis=1)
    compare, tie = _comparison(exact, width)
    differ = 0
    for query, item, left_out, hit in zip(queries, relevant, met, hits, strict=True):
        scores = compare(query.astype(np.float64), items.astype(np.float64))
        rivals = np.delete(scores, [*set(left_out.tolist()), item])
        surely, perhaps = (rivals > scores[item] + tie).sum(), (rivals >= scores[item] - tie).sum()
        differ += not (surely < k if hit else perhaps >= k)
    return Certificate(
        claims=(
            Claim(
                name="weights_not_finite",
                kind="exact",
                value=float(broken),
                limit=0.0,
                detail="Weights that are infinite or not a number; if any, lower the learning rate.",
            ),
            Claim(
                name="length_off_one",
                kind="bounded",
                value=float(np.abs(length - 1).max()),
                limit=1e-5,
                detail=f"Largest deviation from length one among {len(length)} vectors, in float64.",
            ),
            Claim(
                name="hits_that_differ",
                kind="exact",
                value=float(differ),
                limit=0.0,
                detail=f"Members, of {len(queries)}, whose hit at {k} an exhaustive scan in float64 cannot explain.",
            ),
        )
    )


def certify_two_stages(
    *,
    found: NDArray[np.int64],
    certified: NDArray[np.bool_],
    weights: Mapping[str, Any],
    items: Vectors,
    ids: NDArray[np.int64],
    attributes: pa.Table | None,
    queries: Vectors,
    filters: Sequence[Filter],
) -> tuple[NDArray[np.float64], Certificate]:
    """Judge a search in two stages from outside: compare every passing item with every member, and look what it missed.

    Args:
        found: of shape (B, K): ids that it answered, -1 in unfilled places.
        certified: of shape (B,): whether it said that the answer is exact.
        weights: tensors of the model by name; they tell how it compares.
        items: of shape (N, X): rows of the items.
        ids: of shape (N,): theirs.
        attributes: N rows, or None.
        queries: of shape (B, X'): rows of the members.
        filters: B filters.

    Returns:
        Recall of every query against the K best passing items, ties counted by score, of shape (B,); and exact claims:
        what was called exact is, and no item passes that should not.

    Source:
        Ours.
    """
    exact = {name: np.asarray(tensor, np.float64) for name, tensor in weights.items()}
    compare, _ = _comparison(exact, exact["items.weight"].shape[1])
    source, recall = _Source(items, ids, attributes), np.ones(len(queries))
    forbidden = wrong = 0
    for query, where in enumerate(filters):
        passing = source.passing(where)
        there = found[query][found[query] >= 0].tolist()
        rows = {source.row_of[identity] for identity in there if identity in source.row_of}
        hits = [row for row in rows if passing[row]]
        forbidden += len(there) - len(hits)
        possible = min(found.shape[1], int(passing.sum()))
        if possible:
            scores = compare(queries[query].astype(np.float64), source.vectors[passing].astype(np.float64))
            last = np.sort(scores)[-possible]
            score = dict(zip(np.flatnonzero(passing).tolist(), scores.tolist(), strict=True))
            recall[query] = sum(score[row] >= last - _ROUNDING * (1 + abs(last)) for row in hits) / possible
        wrong += bool(certified[query] and recall[query] < 1)
    claims = (
        Claim(
            name="certified_answers_wrong",
            kind="exact",
            value=float(wrong),
            limit=0.0,
            detail=f"Answers, of {int(certified.sum())} that the two stages call exact, without one of the best items.",
        ),
        Claim(
            name="two_stage_forbidden_rows",
            kind="exact",
            value=float(forbidden),
            limit=0.0,
            detail=f"Items in {len(queries)} answers of the two stages that their filter rejects, or that stand twice.",
        ),
    )
    return np.minimum(1.0, recall), Certificate(claims=claims)


Reals = NDArray[np.float64]

_ROUNDING = 1e-9
"""How far two float64 computations of one mixture may lie apart, relative to it; they differ by some 1e-14."""


def _comparison(weights: Mapping[str, Reals], width: int) -> tuple[Callable[[Reals, Reals], Reals], float]:
    """How a model with these weights compares a member's row with all items' (written out here, not asked of it), and
    how close float32 may bring two scores."""

    def affine(x: Reals, name: str) -> Reals:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def silu(x: Reals) -> Reals:
        return np.asarray(x / (1 + np.exp(-x)))

    def cosine(query_X: Reals, items_NX: Reals) -> Reals:
        return np.asarray(items_NX[:, :width] @ query_X[:width])

    def hadamard(query_X: Reals, items_NX: Reals) -> Reals:
        product = silu(affine(items_NX[:, width:] * query_X[width:], "product.0"))
        return np.asarray(cosine(query_X, items_NX) / temperature + product @ weights["product.2.weight"][0])

    def mixture(query_X: Reals, items_NX: Reals) -> Reals:
        pairs = len(weights["cross_gate.2.bias"])
        members = query_X[:-pairs].reshape(-1, width)
        cosines = np.stack([items_NX[:, :-pairs].reshape(len(items_NX), -1, width) @ one for one in members], 1)
        cosines = cosines.reshape(len(items_NX), pairs)
        crossed = affine(silu(affine(cosines, "cross_gate.0")), "cross_gate.2")
        gate = np.exp(silu(query_X[-pairs:] * items_NX[:, -pairs:] + crossed))
        return np.asarray((gate * cosines).sum(1) / gate.sum(1) / temperature)

    if "product.0.weight" not in weights and not weights.get("started", np.zeros(())).any():
        return cosine, _TIE
    temperature = max(0.01, float(np.exp(weights["log_temperature"])))
    return (mixture if "started" in weights else hadamard), 100 * _TIE
