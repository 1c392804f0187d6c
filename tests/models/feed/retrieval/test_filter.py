import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Kind,
    Not,
    Or,
    Predicate,
    all_of,
    as_filter,
    bind,
    col,
    parse,
    parse_dict,
)

CASES = int(os.environ.get("HEADRACE_CASES", "100"))

SCHEMA: dict[str, Kind] = {
    "year": "integer",
    "price": "float",
    "lang": "string",
    "fresh": "boolean",
    "tags": "list of strings",
    "makers": "list of integers",
    "place": "point",
}

WORDS = ["a", "1", "'x'", "(", ")", ",", "=", "and", "or", "not", "in", "has", "is", "null", "-"]

names = st.one_of(
    st.sampled_from(["year", "and", "Has", "true", "a b", "`", '"', "ünïcode", "日本", "_1", "1a", "x.y", "\n"]),
    st.text(min_size=1, max_size=5),
)
values = st.one_of(
    st.text(max_size=6),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
some_values = st.lists(values, min_size=1, max_size=3).map(tuple)
latitudes, longitudes, distances = st.floats(-90, 90), st.floats(-180, 180), st.floats(0, 1e6)
spans = st.tuples(latitudes, latitudes).map(sorted)
boxes = st.builds(lambda n, s, w, e: GeoBox(n, s[0], w, s[1], e), names, spans, longitudes, longitudes)
predicates = st.one_of(
    st.just(Everything()),
    st.builds(GeoWithin, names, latitudes, longitudes, distances),
    boxes,
    st.builds(Comparison, names, values, st.sampled_from(["==", "!=", "<", "<=", ">", ">="])),
    st.builds(Between, names, values, values),
    st.builds(IsNull, names),
    st.builds(Has, names, values),
    *(st.builds(kind, names, some_values) for kind in (In, HasAny, HasAll)),
)
filters = st.recursive(
    predicates,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=12,
)


@settings(max_examples=2 * CASES, deadline=None)
@given(filters)
def test_the_text_of_a_filter_reads_back_as_the_same_filter(where: Filter) -> None:
    again = parse(str(where))
    assert again == where
    assert repr(again) == repr(where)  # tells 1 from 1.0 and from true, which Python calls equal


@settings(max_examples=2 * CASES, deadline=None)
@given(st.one_of(st.text(max_size=30), st.lists(st.sampled_from(WORDS))))
def test_any_text_is_a_filter_or_a_filter_error(text: str | list[str]) -> None:
    try:
        where = parse(text if isinstance(text, str) else " ".join(text))
    except FilterError as error:
        assert str(error)
    else:
        assert parse(str(where)) == where


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("year == 2019", col("year") == 2019),
        ("year = 2019", col("year") == 2019),
        ("year != 2019", col("year") != 2019),
        ("year <> 2019", col("year") != 2019),
        ("year<-5", col("year") < -5),
        ("price <= -.5e-3", col("price") <= -0.0005),
        ("price > 2.", col("price") > 2.0),
        ("price >= 1e3", col("price") >= 1000.0),
        ("fresh == TRUE", col("fresh") == True),  # noqa: E712
        ("lang IN ('en', 'it''s')", col("lang").isin(["en", "it's"])),
        ("lang not in ('en')", ~col("lang").isin(["en"])),
        ("year between 2000 and 2019 and fresh = true", col("year").between(2000, 2019) & (col("fresh") == True)),  # noqa: E712
        ("year not between 2000 and 2019", ~col("year").between(2000, 2019)),
        ("tags has 'a'", col("tags").has("a")),
        ("not tags has 'a'", ~col("tags").has("a")),
        ("tags has_any ('a', 'b')", col("tags").has_any(["a", "b"])),
        ("makers has_all (1, 2)", col("makers").has_all([1, 2])),
        ("place geo_within (52.5, 13, 25)", col("place").within(52.5, 13.0, km=25)),
        ("place not GEO_WITHIN(-90, -180, .5)", ~col("place").within(-90, -180, km=0.5)),
        ("place geo_box(-9, 170, 9, -170)", col("place").in_box(south=-9, west=170, north=9, east=-170)),
        ("place not geo_box(0, 0, 0, 0)", ~col("place").in_box(south=0, west=0, north=0, east=0)),
        ("lang is null", col("lang").is_null()),
        ("lang is not null", ~col("lang").is_null()),
        ("true", Everything()),
        ("false", ~Everything()),
        ('`my col` == 1 and "a""b" == 2', (col("my col") == 1) & (col('a"b') == 2)),
        ("lang == '日本' \n and\tyear=1", (col("lang") == "日本") & (col("year") == 1)),
    ],
)
def test_each_operator_has_a_text_and_a_python_spelling(text: str, where: Filter) -> None:
    assert repr(parse(text)) == repr(where)


def test_not_binds_tighter_than_and_which_binds_tighter_than_or() -> None:
    a, b, c = (col(name) == 1 for name in "abc")
    assert parse("not a=1 and b=1 or c=1") == (~a & b) | c
    assert parse("a=1 or b=1 and c=1") == a | (b & c)
    assert parse("not (a=1 or b=1) and c=1") == ~(a | b) & c


def test_chains_of_the_same_connective_are_one_filter_however_they_were_put_together() -> None:
    a, b, c = (col(name) == 1 for name in "abc")
    assert (a & b) & c == a & (b & c) == parse("a=1 and (b=1 and c=1)")
    assert (a | b) | c == a | (b | c) == parse("(a=1 or b=1) or c=1")


def test_numbers_of_numpy_are_written_as_plain_numbers() -> None:
    assert str(col("year").isin(np.array([1, 2]))) == "year in (1, 2)"
    assert str(col("price") > np.float32(0.5)) == "price > 0.5"
    assert str(col("fresh") == np.bool_(True)) == "fresh == true"
    assert str(col("place").within(np.float32(0.5), np.int64(7), km=1)) == "place geo_within(0.5, 7.0, 1.0)"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: (col("a") == 1) and (col("b") == 2),
        lambda: (col("a") == 1) or (col("b") == 2),
        lambda: not (col("a") == 1),  # noqa: SIM201
        lambda: 1 <= col("a") <= 2,
    ],
)
def test_python_connectives_are_refused_with_the_operators_to_use(mistake: object) -> None:
    with pytest.raises(TypeError, match=r"& \| ~ instead of and, or, not"):
        mistake()  # type: ignore[operator]


def test_a_bare_column_is_no_condition() -> None:
    with pytest.raises(TypeError, match="compare it"):
        bool(col("fresh"))


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", None, "write true to let every item pass"),
        ("  ", None, "write true to let every item pass"),
        ("year >", 6, "expected a value"),
        ("2019 < year", 0, "expected a column name, found '2019'"),
        ("year 2019", 5, "expected == !="),
        ("year == null", 8, "is null"),
        ("lang == en", 8, "single quotes"),
        ("lang == 'en", 8, "never closed"),
        ("lang in ()", 8, "list is empty"),
        ("lang in 'en'", 8, "expected ("),
        ("(year = 1", 9, "expected )"),
        ("year = 1)", 8, "expected and, or, or the end"),
        ("year = 1 lang = 'x'", 9, "expected and, or, or the end"),
        ("year between 1 or 2", 15, "expected and"),
        ("year = 12abc", 7, "cannot read '12abc'"),
        ("price < 1e999", 8, "larger than a decimal"),
        ("year = 9223372036854775808", 0, "64 bits"),
        ("year ! 3", 5, "cannot read '! 3'"),
        ("place geo_within 5", 17, "expected ("),
        ("place geo_within(1, 2)", 21, "expected a comma and the km, found ')'"),
        ("place geo_within(1, 'x', 3)", 20, "expected a number, the longitude: (latitude, longitude, km)"),
        ("place geo_box(1, 2, 3, 4, 5)", 24, "expected )"),
        ("year = 1 or place geo_within(90.5, 0, 1)", 12, "latitude 90.5; give a number from -90 to 90 degrees"),
        ("place geo_within(0, -181, 1)", 0, "longitude -181; give a number from -180 to 180 degrees"),
        ("place geo_within(0, 0, -1)", 0, "km -1; give a finite number of at least 0"),
        ("place geo_within(0, 0, 1" + "0" * 400 + ")", 0, "km inf; give a finite number"),
        ("place geo_box(2, 0, 1, 0)", 0, "south 2.0 above north 1.0"),
        ("not place geo_box(2, 0, 1, 200)", 4, "east 200"),
        ("a=1 and\n  b ==", 14, "expected a value"),
        ("not " * 101 + "a=1", 400, "deeper than 100"),
        ("year = " + "9" * 5000, 7, "too many digits"),
    ],
)
def test_a_mistake_in_a_text_is_shown_where_it_is(text: str, position: int | None, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert caught.value.position == position


def test_the_caret_stands_under_the_mistake_in_its_own_line() -> None:
    with pytest.raises(FilterError) as caught:
        parse("year > 1 and\nlang in ()\nor fresh = true")
    assert str(caught.value).splitlines()[1:] == ["  lang in ()", "          ^ at position 21"]


def test_a_long_text_is_shown_around_the_mistake() -> None:
    text = " and ".join(["year > 1"] * 50 + ["yeer > 2"] + ["year > 1"] * 50)
    with pytest.raises(FilterError) as caught:
        bind(parse(text), SCHEMA)
    _, line, caret = str(caught.value).splitlines()
    assert len(line) <= 2 + 121
    assert line[caret.index("^") :].startswith("yeer > 2")


def test_an_unknown_column_is_named_with_the_columns_that_exist() -> None:
    with pytest.raises(
        FilterError, match="unknown column 'yeer'; known columns: fresh, lang, makers, place, price, tags, year"
    ):
        bind(col("yeer") == 1, SCHEMA)
    with pytest.raises(FilterError, match="none, the index has no attributes"):
        bind(col("year") == 1, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("year == '2019'", "holds integers"),
        ("year == 2019.0", "without a decimal point"),
        ("year == true", "holds integers"),
        ("price == 'x'", "holds numbers"),
        ("price == true", "holds numbers"),
        ("price == 9007199254740993", "cannot be this integer"),
        ("lang == 1", "single quotes"),
        ("lang in ('en', 1)", "single quotes"),
        ("fresh == 1", "true and false"),
        ("fresh < true", "has no order"),
        ("fresh between false and true", "has no order"),
        ("lang has 'en'", "use a comparison"),
        ("tags == 'a'", "use has"),
        ("tags in ('a')", "use has"),
        ("tags has 1", "single quotes"),
        ("makers has_all ('a')", "holds integers"),
        ("place == 1", "use geo_within, geo_box or is null"),
        ("place has 1", "use geo_within, geo_box or is null"),
        ("year geo_within(0, 0, 1)", "use a comparison"),
        ("tags geo_box(0, 0, 1, 1)", "use has"),
        ("year = 1 or not (lang = 'x' and fresh = 'y')", "true and false"),
    ],
)
def test_a_value_or_operator_that_does_not_suit_the_column_is_refused(text: str, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        bind(parse(text), SCHEMA)
    assert words in str(caught.value)
    assert "^ at position" in str(caught.value)


def test_an_integer_for_a_float_column_becomes_a_float() -> None:
    assert str(bind(parse("price in (1, 2.5)"), SCHEMA)) == "price in (1.0, 2.5)"
    assert str(bind(parse("year in (1, 2)"), SCHEMA)) == "year in (1, 2)"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: col("year") == None,  # noqa: E711
        lambda: col("year") == [2019],
        lambda: col("price") < float("nan"),
        lambda: col("price") < float("inf"),
        lambda: col("year").isin([]),
        lambda: col("tags").has_any("nsfw"),
        lambda: col("") == 1,
        lambda: Comparison("year", 1, "~"),  # type: ignore[arg-type]
        lambda: And((Everything(),)),
        lambda: Or((Everything(), 1)),  # type: ignore[arg-type]
        lambda: Not("year = 1"),  # type: ignore[arg-type]
        lambda: bind("year = 1", SCHEMA),  # type: ignore[arg-type]
        lambda: col("place").within(True, 0, km=1),
        lambda: col("place").within("1", 0, km=1),  # type: ignore[arg-type]
        lambda: col("place").within(None, 0, km=1),  # type: ignore[arg-type]
        lambda: col("place").within(0, float("nan"), km=1),
        lambda: col("place").within(0, 0, km=float("inf")),
        lambda: col("place").within(0, 0, km=10**5000),
        lambda: col("place").in_box(south=1, west=0, north=0, east=0),
        lambda: Clause("lang"),
        lambda: Clause("lang", any_of=["en"], none_of=["de"]),
        lambda: Clause("lang", any_of=[]),
        lambda: Clause("lang", any_of=5),  # type: ignore[arg-type]
        lambda: Clause("lang", none_of="en"),
        lambda: all_of(["year = 1", Everything()]),  # type: ignore[list-item]
        lambda: all_of(["year = 1"]),  # type: ignore[list-item]
        lambda: as_filter(5),  # type: ignore[arg-type]
        lambda: as_filter([Everything()]),  # type: ignore[arg-type]
        lambda: parse(1),  # type: ignore[arg-type]
    ],
)
def test_a_filter_that_means_nothing_cannot_be_made(mistake: object) -> None:
    with pytest.raises(FilterError):
        mistake()  # type: ignore[operator]


# --- dictionaries -----------------------------------------------------------------------------------------------------

SIGNS = {"==": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}


def as_dict(where: Filter) -> dict[str, Any]:
    """A filter without `Everything` and `Between`, which a dictionary has no words for, as one."""
    match where:
        case And(parts):
            return {"$and": [as_dict(part) for part in parts]}
        case Or(parts):
            return {"$or": [as_dict(part) for part in parts]}
        case Not(In(column, values)):
            return {column: {"$nin": list(values)}}
        case Not(IsNull(column)):
            return {column: {"$exists": True}}
        case Not(Or(parts)):
            return {"$nor": [as_dict(part) for part in parts]}
        case Not(part):
            return {"$not": as_dict(part)}
        case Comparison(column, value, sign):
            return {column: {SIGNS[sign]: value}}
        case IsNull(column):
            return {column: {"$exists": False}}
        case Has(column, value):
            return {column: {"$has": value}}
        case In(column, values):
            return {column: {"$in": list(values)}}
        case HasAny(column, values):
            return {column: {"$has_any": values}}
        case HasAll(column, values):
            return {column: {"$has_all": values}}
        case GeoWithin(column, latitude, longitude, km):
            return {column: {"$within": {"latitude": latitude, "longitude": longitude, "km": km}}}
        case GeoBox(column, south, west, north, east):
            return {column: {"$box": {"south": south, "west": west, "north": north, "east": east}}}
    raise AssertionError(where)


sayable = st.recursive(
    # a dictionary cannot name a column that begins like an operator
    predicates.filter(lambda where: isinstance(where, Predicate) and not isinstance(where, Between)).filter(
        lambda where: not where.column.startswith("$")
    ),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=12,
)


@settings(max_examples=2 * CASES, deadline=None)
@given(sayable)
def test_the_dictionary_of_a_filter_reads_as_the_same_filter(where: Filter) -> None:
    again = parse_dict(as_dict(where))
    assert again == where
    assert repr(again) == repr(where)
    assert hash(again) == hash(where)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ({"year": {"$gte": 2019}, "lang": {"$in": ["en", "de"]}}, "year >= 2019 and lang in ('en', 'de')"),
        ({"year": {"$gte": 2000, "$lt": 2010, "$ne": 2005}}, "year >= 2000 and year < 2010 and year != 2005"),
        ({"lang": {"$nin": ["en"]}}, "lang not in ('en')"),
        ({"lang": {"$exists": True}}, "lang is not null"),
        ({"tags": {"$all": ["a", "b"]}}, "tags has_all ('a', 'b')"),
        ({"year": {"$not": {"$gt": 5, "$lt": 9}}}, "not (year > 5 and year < 9)"),
        ({"$not": {"year": {"$gt": 5}, "price": {"$lt": 1}}}, "not (year > 5 and price < 1)"),
        ({"$nor": [{"year": {"$gt": 5}}]}, "not year > 5"),
        ({"$or": [{"year": {"$gt": 5}}]}, "year > 5"),
        (
            {"$or": [{"year": {"$gt": 5}, "price": {"$lt": 1}}, {"tags": {"$has": "a"}}]},
            "year > 5 and price < 1 or tags has 'a'",
        ),
        (
            {"place": {"$within": {"latitude": 1, "longitude": 2, "km": 3}, "$exists": True}},
            "place geo_within(1, 2, 3) and place is not null",
        ),
        ({"place": {"$box": {"west": 2, "south": 1, "east": 4, "north": 3}}}, "place geo_box(1, 2, 3, 4)"),
    ],
)
def test_dictionaries_say_what_texts_say(where: dict[str, Any], text: str) -> None:
    assert repr(parse_dict(where)) == repr(parse(text))
    assert repr(as_filter(where)) == repr(as_filter(text))


def test_a_bare_value_asks_for_equality_and_on_a_column_of_lists_for_holding_it() -> None:
    assert str(bind(parse_dict({"lang": "en"}), SCHEMA)) == "lang in ('en')"
    assert str(bind(parse_dict({"tags": "en", "price": 1}), SCHEMA)) == "tags has_any ('en') and price in (1.0)"


OPERATORS = "$eq, $ne, $lt, $lte, $gt, $gte, $in, $nin, $exists, $has, $has_any, $has_all, $all, $within, $box, $not"


@pytest.mark.parametrize(
    ("where", "path", "words"),
    [
        ({}, "", "the dictionary is empty"),
        ({"year": {}}, "year", "the dictionary is empty"),
        ({"$or": [{"lang": "x"}, {}]}, "$or[1]", "the dictionary is empty"),
        ({"$or": []}, "$or", "list of at least one"),
        ({"$or": {"lang": "x"}}, "$or", "list of at least one"),
        ({"$and": "lang"}, "$and", "list of at least one"),
        ({"$and": ["lang = 'x'"]}, "$and[0]", "expected a dictionary"),
        ({"$not": [{"lang": "x"}]}, "$not", "expected a dictionary"),
        ({"$xor": []}, "$xor", "known here: $and, $or, $nor, $not"),
        ({5: "x"}, "", "keys are names"),
        ({"$or": [{"lang": "x"}, {"year": {"$gte": 1, "$near": 5}}]}, "$or[1].year.$near", OPERATORS),
        ({"year": {"gte": 5}}, "year.gte", OPERATORS),
        ({"year": {"$not": {"$or": [1]}}}, "year.$not.$or", OPERATORS),
        ({"year": {"$not": 5}}, "year.$not", "expected a dictionary"),
        ({"year": None}, "year", '{"$exists": false}'),
        ({"year": {"$ne": None}}, "year.$ne", '{"$exists": false}'),
        ({"year": [1, 2]}, "year", "$in"),
        ({"year": {"$gt": {"$lt": 5}}}, "year.$gt", "expected one value"),
        ({"year": {"$gt": b"x"}}, "year.$gt", "of type bytes"),
        ({"year": {"$in": 5}}, "year.$in", "list of values, got 5"),
        ({"year": {"$in": "56"}}, "year.$in", "list of values"),
        ({"year": {"$in": []}}, "year.$in", "list of values for column 'year' is empty"),
        ({"year": {"$in": [1, None]}}, "year.$in", "nothing"),
        ({"year": {"$exists": 1}}, "year.$exists", "true or false"),
        ({"": 1}, "", "needs a name"),
        ({"place": {"$within": [1, 2, 3]}}, "place.$within", "exactly latitude, longitude, km"),
        ({"place": {"$within": {"latitude": 1, "longitude": 2}}}, "place.$within", "exactly latitude, longitude, km"),
        ({"place": {"$box": {"south": 5, "west": 0, "north": 4, "east": 1}}}, "place.$box", "south 5.0 above north"),
        ({"place": {"$within": {"latitude": 1, "longitude": 200, "km": 1}}}, "place.$within", "longitude 200"),
        ({"$nor": [{"yeer": {"$gt": 5}}]}, "$nor[0].yeer.$gt", "known columns: fresh, lang, makers, place"),
        ({"yeer": 5}, "yeer", "known columns: fresh, lang, makers, place"),
        ({"tags": {"$in": ["a"]}}, "tags.$in", "use has"),
        ({"lang": 5}, "lang", "single quotes"),
        ({"place": 5}, "place", "use geo_within"),
    ],
)
def test_a_mistake_in_a_dictionary_is_named_by_its_path(where: Any, path: str, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        bind(parse_dict(where), SCHEMA)
    message = str(caught.value)
    assert words in message
    assert caught.value.path == path
    assert message.endswith(f"at {path or 'the top'}")
    assert caught.value.position is None


def test_a_dictionary_nested_too_deep_is_refused_and_what_is_no_dictionary_too() -> None:
    where: dict[str, Any] = {"year": 5}
    for _ in range(98):
        where = {"$not": where}
    assert str(bind(parse_dict(where), SCHEMA)).startswith("not not not")
    with pytest.raises(FilterError, match="deeper than 100"):
        parse_dict({"$nor": [{"$and": [where]}]})
    with pytest.raises(FilterError, match="expected a dictionary, got 'year = 1'"):
        parse_dict("year = 1")  # type: ignore[arg-type]


# --- clauses ----------------------------------------------------------------------------------------------------------


def test_clauses_become_what_the_kind_of_their_column_has() -> None:
    where = all_of([Clause("lang", any_of=["en", "de"]), Clause("tags", none_of=["a"]), Clause("price", none_of=[1])])
    assert str(bind(where, SCHEMA)) == "lang in ('en', 'de') and not tags has_any ('a') and price not in (1.0)"
    assert str(bind(~Clause("makers", any_of=np.array([1, 2])), SCHEMA)) == "not makers has_any (1, 2)"


def test_any_number_of_filters_is_put_together_to_one() -> None:
    first, second = Clause("lang", any_of=["en"]), col("year") > 5
    assert all_of([]) == Everything()
    assert all_of([first]) == first
    assert all_of(iter([first, second])) == first & second == And((first, second))


def test_clauses_are_keys_and_show_themselves() -> None:
    assert {Clause("a", any_of=["x"]): 1}[Clause("a", any_of=("x",))] == 1
    assert Clause("a", any_of=["x"]) != Clause("a", none_of=["x"])
    assert str(Clause("a", none_of=["x", "y"])) == "Clause('a', none_of=['x', 'y'])"


@pytest.mark.parametrize(
    ("clause", "words"),
    [
        (Clause("yeer", none_of=[1]), "known columns: fresh"),
        (Clause("lang", any_of=[1]), "single quotes"),
        (Clause("makers", any_of=["a"]), "holds integers"),
        (Clause("place", any_of=[1]), "use geo_within"),
    ],
)
def test_a_clause_that_does_not_suit_its_column_is_refused(clause: Clause, words: str) -> None:
    with pytest.raises(FilterError, match=words):
        bind(clause, SCHEMA)


def test_a_list_of_filters_is_no_filter_and_the_message_says_what_makes_it_one() -> None:
    with pytest.raises(FilterError, match="all_of"):
        as_filter([Clause("lang", any_of=["en"])])  # type: ignore[arg-type]
