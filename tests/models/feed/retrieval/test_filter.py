import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.retrieval.filter import (
    And,
    Between,
    Comparison,
    Everything,
    Filter,
    FilterError,
    Has,
    HasAll,
    HasAny,
    In,
    IsNull,
    Kind,
    Not,
    Or,
    bind,
    col,
    parse,
)

CASES = int(os.environ.get("HEADRACE_CASES", "100"))

SCHEMA: dict[str, Kind] = {
    "year": "integer",
    "price": "float",
    "lang": "string",
    "fresh": "boolean",
    "tags": "list of strings",
    "makers": "list of integers",
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
predicates = st.one_of(
    st.just(Everything()),
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
        FilterError, match="unknown column 'yeer'; known columns: fresh, lang, makers, price, tags, year"
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
        lambda: parse(1),  # type: ignore[arg-type]
    ],
)
def test_a_filter_that_means_nothing_cannot_be_made(mistake: object) -> None:
    with pytest.raises(FilterError):
        mistake()  # type: ignore[operator]
