"""The filter language: which items may be answered at all.

One filter, two spellings. In Python, `(col("year") >= 2019) & col("lang").isin(["en", "de"])`; as text, in a flow's
parameter, `year >= 2019 and lang in ('en', 'de')`. `str(where)` is the text of a filter and `parse` reads it back.

    filter     := conjunction ("or" conjunction)*
    conjunction:= negation ("and" negation)*
    negation   := "not" negation | "(" filter ")" | "true" | "false" | predicate
    predicate  := column ("=="|"="|"!="|"<>"|"<"|"<="|">"|">=") value
                | column ["not"] "in" "(" value ("," value)* ")"
                | column ["not"] "between" value "and" value               both ends included
                | column ["not"] "has" value                               columns of lists only, these three
                | column ["not"] ("has_any"|"has_all") "(" value ("," value)* ")"
                | column "is" ["not"] "null"
    column     := a name, or any text in `backticks` or "double quotes"; the quote itself is doubled
    value      := 'text' with '' for a quote | integer | decimal | "true" | "false"

Keywords may be in capitals. Text is compared by code point, exactly as stored: no case folding, no normal form.

Nulls are two-valued: a predicate on a missing value is false, except `is null`, and `not` is the plain complement.
So `year != 2019` leaves out items without a year, while `not year == 2019` and `year not in (2019)` let them through;
add `and year is not null` to leave them out. An empty list is a list, not a null.

Source: the operators are SQL's and those of the vector stores (`has`, `has_any`, `has_all` for lists); the two-valued
nulls are ours: with SQL's third value, `x or not x` would lose items. LiNR's clauses (section 3.1) are the special
case of a conjunction of `in`, and of `not ... in` for a reverse clause.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np

Value = str | bool | int | float
Kind = Literal["string", "boolean", "integer", "float", "list of strings", "list of integers"]
Operator = Literal["==", "!=", "<", "<=", ">", ">="]

_DEEPEST = 100
_KEYWORDS = ("and", "or", "not", "in", "between", "has", "has_any", "has_all", "is", "null", "true", "false")
_INTEGERS = range(-(2**63), 2**63)


class FilterError(ValueError):
    """A filter that means nothing here: the message says where, what was found and what would be right."""

    def __init__(self, message: str, place: "Place | None" = None) -> None:
        super().__init__(message if place is None else f"{message}\n{place.drawing()}")
        self.position = None if place is None else place.position


@dataclass(frozen=True)
class Place:
    """A position in the text of a filter, counted in characters from 0."""

    text: str
    position: int

    def drawing(self) -> str:
        """The line that holds the position, at most 121 characters of it, and a caret under the position."""
        start = self.text.rfind("\n", 0, self.position) + 1
        end = self.text.find("\n", self.position)
        first = max(start, self.position - 60)
        last = min(len(self.text) if end < 0 else end, self.position + 60)
        line = "".join(mark if mark.isprintable() else " " for mark in self.text[first:last])
        return f"  {line}\n  {' ' * (self.position - first)}^ at position {self.position}"


class Filter:
    """A condition on items; combine filters with `&` (and), `|` (or) and `~` (not)."""

    def __and__(self, other: "Filter") -> "And":
        return And((self, other)) if isinstance(other, Filter) else NotImplemented

    def __or__(self, other: "Filter") -> "Or":
        return Or((self, other)) if isinstance(other, Filter) else NotImplemented

    def __invert__(self) -> "Not":
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"a filter is neither true nor false before it meets items: {self}. Write & | ~ instead of and, or, not, "
            "with parentheses around each comparison, and .between(a, b) instead of a <= col(...) <= b."
        )


@dataclass(frozen=True)
class Everything(Filter):
    """Passes every item; written `true`, and its complement `false`."""

    def __str__(self) -> str:
        return "true"


@dataclass(frozen=True)
class Predicate(Filter):
    """A condition on one column; `place` remembers where a text said it, for messages alone."""

    column: str
    place: Place | None = field(default=None, kw_only=True, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.column, str) or not self.column:
            raise FilterError(f"a column needs a name of at least one character, got {self.column!r}.", self.place)


@dataclass(frozen=True)
class _OfOneValue(Predicate):
    value: Value

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", _plain(self.value, self))


@dataclass(frozen=True)
class _OfManyValues(Predicate):
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.values, str):
            raise FilterError(
                f"column {self.column!r} is asked for the letters of {self.values!r}; give a list of values.",
                self.place,
            )
        object.__setattr__(self, "values", tuple(_plain(value, self) for value in self.values))
        if not self.values:
            raise FilterError(
                f"the list of values for column {self.column!r} is empty; name one, or leave the condition out.",
                self.place,
            )


@dataclass(frozen=True)
class Comparison(_OfOneValue):
    """`column operator value`."""

    operator: Operator

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator not in ("==", "!=", "<", "<=", ">", ">="):
            raise FilterError(f"unknown operator {self.operator!r}; known are == != < <= > >=.", self.place)

    def __str__(self) -> str:
        return f"{_name(self.column)} {self.operator} {_literal(self.value)}"


@dataclass(frozen=True)
class In(_OfManyValues):
    """The column's value is one of `values`."""

    def __str__(self) -> str:
        return f"{_name(self.column)} in {_literals(self.values)}"


@dataclass(frozen=True)
class Between(Predicate):
    """`low <= column <= high`; nothing passes when low is above high."""

    low: Value
    high: Value

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "low", _plain(self.low, self))
        object.__setattr__(self, "high", _plain(self.high, self))

    def __str__(self) -> str:
        return f"{_name(self.column)} between {_literal(self.low)} and {_literal(self.high)}"


@dataclass(frozen=True)
class IsNull(Predicate):
    """The column has no value."""

    def __str__(self) -> str:
        return f"{_name(self.column)} is null"


@dataclass(frozen=True)
class Has(_OfOneValue):
    """The column's list holds `value`."""

    def __str__(self) -> str:
        return f"{_name(self.column)} has {_literal(self.value)}"


@dataclass(frozen=True)
class HasAny(_OfManyValues):
    """The column's list holds at least one of `values`."""

    def __str__(self) -> str:
        return f"{_name(self.column)} has_any {_literals(self.values)}"


@dataclass(frozen=True)
class HasAll(_OfManyValues):
    """The column's list holds every one of `values`."""

    def __str__(self) -> str:
        return f"{_name(self.column)} has_all {_literals(self.values)}"


@dataclass(frozen=True)
class And(Filter):
    """Passes what every part passes; an `And` among the parts is dissolved into its own parts."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _dissolved(self.parts, And))

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, Or) else str(part) for part in self.parts)


@dataclass(frozen=True)
class Or(Filter):
    """Passes what at least one part passes; an `Or` among the parts is dissolved into its own parts."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _dissolved(self.parts, Or))

    def __str__(self) -> str:
        return " or ".join(str(part) for part in self.parts)


@dataclass(frozen=True)
class Not(Filter):
    """Passes exactly what its part does not, items without a value included."""

    part: Filter

    def __post_init__(self) -> None:
        if not isinstance(self.part, Filter):
            raise FilterError(f"not needs a filter, got {self.part!r}.")

    def __str__(self) -> str:
        match self.part:
            case Everything():
                return "false"
            case IsNull(column):
                return f"{_name(column)} is not null"
            case In(column, values):
                return f"{_name(column)} not in {_literals(values)}"
            case And() | Or():
                return f"not ({self.part})"
            case _:
                return f"not {self.part}"


def _dissolved(parts: Iterable[Filter], kind: type[And] | type[Or]) -> tuple[Filter, ...]:
    flat: list[Filter] = []
    for part in parts:
        if not isinstance(part, Filter):
            raise FilterError(f"{kind.__name__} combines filters, got {part!r}.")
        flat.extend(part.parts if isinstance(part, kind) else (part,))
    if len(flat) < 2:
        raise FilterError(f"{kind.__name__} combines at least two filters, got {len(flat)}; a single one stands alone.")
    return tuple(flat)


def _plain(value: Any, predicate: Predicate) -> Value:
    """The value as plain Python, so that equal filters are written alike."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        raise FilterError(f"column {predicate.column!r} cannot be compared with nothing; use is null.", predicate.place)
    if not isinstance(value, str | bool | int | float):
        raise FilterError(
            f"column {predicate.column!r} is compared with {value!r} of type {type(value).__name__}; "
            "values are text, integers, floats, true and false.",
            predicate.place,
        )
    if isinstance(value, int) and value not in _INTEGERS:
        raise FilterError(
            f"column {predicate.column!r} is compared with an integer of more than 64 bits, which no column holds; "
            "write larger numbers as decimals, 1e20.",
            predicate.place,
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise FilterError(
            f"column {predicate.column!r} is compared with {value!r}; use finite values, and is null for missing ones.",
            predicate.place,
        )
    return value


def _name(column: str) -> str:
    plain = re.fullmatch(r"[^\W\d]\w*", column) and column.lower() not in _KEYWORDS
    return column if plain else "`" + column.replace("`", "``") + "`"


def _literal(value: Value) -> str:
    match value:
        case str():
            return "'" + value.replace("'", "''") + "'"
        case bool():
            return "true" if value else "false"
        case _:
            return repr(value)


def _literals(values: tuple[Value, ...]) -> str:
    return "(" + ", ".join(_literal(value) for value in values) + ")"


class Column:
    """A column that is about to be compared; made by `col`."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: Value) -> Comparison:  # type: ignore[override]
        return Comparison(self._name, value, "==")

    def __ne__(self, value: Value) -> Comparison:  # type: ignore[override]
        return Comparison(self._name, value, "!=")

    def __lt__(self, value: Value) -> Comparison:
        return Comparison(self._name, value, "<")

    def __le__(self, value: Value) -> Comparison:
        return Comparison(self._name, value, "<=")

    def __gt__(self, value: Value) -> Comparison:
        return Comparison(self._name, value, ">")

    def __ge__(self, value: Value) -> Comparison:
        return Comparison(self._name, value, ">=")

    def __bool__(self) -> NoReturn:
        raise TypeError(f"column {self._name!r} is no condition yet; compare it: col({self._name!r}) == True.")

    def isin(self, values: Iterable[Value]) -> In:
        """The value is one of `values`, at least one."""
        return In(self._name, _listed(values))

    def between(self, low: Value, high: Value) -> Between:
        """The value lies from `low` to `high`, both included."""
        return Between(self._name, low, high)

    def is_null(self) -> IsNull:
        """There is no value."""
        return IsNull(self._name)

    def has(self, value: Value) -> Has:
        """The list holds `value`."""
        return Has(self._name, value)

    def has_any(self, values: Iterable[Value]) -> HasAny:
        """The list holds at least one of `values`."""
        return HasAny(self._name, _listed(values))

    def has_all(self, values: Iterable[Value]) -> HasAll:
        """The list holds every one of `values`."""
        return HasAll(self._name, _listed(values))


def _listed(values: Iterable[Value]) -> Any:
    return values if isinstance(values, str) else tuple(values)


def col(name: str) -> Column:
    """Name a column in a Python filter: `col("year") >= 2019`.

    Args:
        name: the column, as in the index's schema; whether it exists is seen when the filter meets an index.

    Returns:
        An object with the comparisons, `isin`, `between`, `is_null`, `has`, `has_any` and `has_all`.

    Source:
        The spelling of polars and Spark; the implementation is ours.
    """
    return Column(name)


# --- reading text -----------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<number>-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>`(?:[^`]|``)+`|"(?:[^"]|"")+")
    | (?P<word>[^\W\d]\w*)
    | (?P<symbol>==|!=|<>|<=|>=|[=<>(),])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    kind: str  # number, text, column, symbol, end, or the keyword itself
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            rest = text[position : position + 12]
            remedy = " a quote is never closed;" if rest[0] in "'`\"" else ""
            raise FilterError(f"cannot read {rest!r}:{remedy} text stands in 'single quotes'.", Place(text, position))
        kind, word = str(found.lastgroup), found.group()
        if kind == "word":
            kind = word.lower() if word.lower() in _KEYWORDS else "column"
        elif kind == "quoted":
            kind, word = "column", word[1:-1].replace(word[0] * 2, word[0])
        elif kind == "text":
            word = word[1:-1].replace("''", "'")
        if kind != "space":
            tokens.append(_Token(kind, word, position))
        position = found.end()
    return [*tokens, _Token("end", "the end", len(text))]


class _Reader:
    """Recursive descent over the grammar at the top of this module, one method per rule."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.next = 0
        self.depth = 0

    def whole(self) -> Filter:
        where = self.filter()
        if self.kind != "end":
            self.fail("expected and, or, or the end")
        return where

    def filter(self) -> Filter:
        parts = [self.conjunction()]
        while self.accept("or"):
            parts.append(self.conjunction())
        return Or(tuple(parts)) if len(parts) > 1 else parts[0]

    def conjunction(self) -> Filter:
        parts = [self.negation()]
        while self.accept("and"):
            parts.append(self.negation())
        return And(tuple(parts)) if len(parts) > 1 else parts[0]

    def negation(self) -> Filter:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise FilterError(f"nested deeper than {_DEEPEST} levels; use in (...) for long lists.", self.place)
        where: Filter
        if self.accept("not"):
            where = Not(self.negation())
        elif self.accept("("):
            where = self.filter()
            self.expect(")")
        elif self.accept("true"):
            where = Everything()
        elif self.accept("false"):
            where = Not(Everything())
        else:
            where = self.predicate()
        self.depth -= 1
        return where

    def predicate(self) -> Filter:
        place = self.place
        column = self.expect("column", "a column name").text
        if self.accept("is"):
            negative = self.accept("not")
            self.expect("null")
            return _unless(negative, IsNull(column, place=place))
        if self.kind == "symbol" and self.token.text in ("==", "=", "!=", "<>", "<", "<=", ">", ">="):
            sign = self.advance().text
            operator: Any = {"=": "==", "<>": "!="}.get(sign, sign)
            return Comparison(column, self.value(), operator, place=place)
        negative = self.accept("not")
        if self.accept("in"):
            return _unless(negative, In(column, self.values(), place=place))
        if self.accept("between"):
            low = self.value()
            self.expect("and")
            return _unless(negative, Between(column, low, self.value(), place=place))
        if self.accept("has"):
            return _unless(negative, Has(column, self.value(), place=place))
        if self.accept("has_any"):
            return _unless(negative, HasAny(column, self.values(), place=place))
        if self.accept("has_all"):
            return _unless(negative, HasAll(column, self.values(), place=place))
        return self.fail(f"expected == != < <= > >= in between has has_any has_all or is after column {column!r}")

    def values(self) -> tuple[Value, ...]:
        place = self.place
        self.expect("(")
        if self.accept(")"):
            raise FilterError("the list is empty; name at least one value, or leave the condition out.", place)
        values = [self.value()]
        while self.accept(","):
            values.append(self.value())
        self.expect(")")
        return tuple(values)

    def value(self) -> Value:
        place = self.place
        if self.kind == "text":
            return self.advance().text
        if self.kind in ("true", "false"):
            return self.advance().kind == "true"
        if self.kind == "number":
            word = self.advance().text
            try:
                number = int(word) if re.fullmatch("-?[0-9]+", word) else float(word)
            except ValueError:  # Python reads integers of at most 4300 digits
                raise FilterError(f"{word[:20]}... has too many digits.", place) from None
            if isinstance(number, float) and math.isinf(number):
                raise FilterError(f"{word[:40]} is larger than a decimal can be.", place)
            return number
        if self.kind == "null":
            return self.fail("nothing equals null; write is null or is not null")
        return self.fail("expected a value: 'text' in single quotes, a number, true or false")

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    @property
    def kind(self) -> str:
        return self.token.kind

    @property
    def place(self) -> Place:
        return Place(self.text, self.token.position)

    def advance(self) -> _Token:
        self.next += 1
        return self.tokens[self.next - 1]

    def accept(self, wanted: str) -> bool:
        found = self.kind == wanted or (self.kind == "symbol" and self.token.text == wanted)
        self.next += found
        return found

    def expect(self, wanted: str, called: str = "") -> _Token:
        if not self.accept(wanted):
            self.fail(f"expected {called or wanted}")
        return self.tokens[self.next - 1]

    def fail(self, message: str) -> NoReturn:
        raise FilterError(f"{message}, found {self.token.text!r}.", self.place)


def _unless(negative: bool, where: Predicate) -> Filter:
    return Not(where) if negative else where


def parse(text: str) -> Filter:
    """Read a filter from its text; the grammar stands at the top of this module.

    Args:
        text: for example `lang in ('en', 'de') and year >= 2019 and not tags has 'nsfw'`.

    Returns:
        The filter; `parse(str(where)) == where` for every filter at most 100 levels deep.

    Raises:
        FilterError: the text is no filter, is empty, or is nested deeper than 100 levels; the message draws a caret
            under the position.

    Source:
        Ours; recursive descent.
    """
    if not isinstance(text, str):
        raise FilterError(f"a filter is text, got {text!r} of type {type(text).__name__}.")
    if not text.strip():
        raise FilterError("the filter is empty; write true to let every item pass.")
    return _Reader(text).whole()


# --- meeting a schema -------------------------------------------------------------------------------------------------


def bind(where: Filter, schema: Mapping[str, Kind]) -> Filter:
    """Hold a filter to the columns that exist, and give its values the columns' types.

    Two filters that are equal after binding pass the same items; before, `flag == 1` and `flag == true` are equal in
    Python and yet only one of them suits a boolean column.

    Args:
        where: any filter.
        schema: column name to the kind of its values.

    Returns:
        The filter with integers given to float columns turned into floats; otherwise unchanged.

    Raises:
        FilterError: an unknown column, a value of another type than the column's, a value the column's type cannot
            hold exactly, or an operator that the column's kind does not have.

    Source:
        Ours.
    """
    match where:
        case Everything():
            return where
        case And(parts):
            return And(tuple(bind(part, schema) for part in parts))
        case Or(parts):
            return Or(tuple(bind(part, schema) for part in parts))
        case Not(part):
            return Not(bind(part, schema))
        case Predicate():
            return _bound(where, schema)
    raise FilterError(f"expected a filter, got {where!r} of type {type(where).__name__}; write text or use col(...).")


def _bound(where: Predicate, schema: Mapping[str, Kind]) -> Predicate:
    if where.column not in schema:
        known = ", ".join(sorted(schema)) or "none, the index has no attributes"
        raise FilterError(f"unknown column {where.column!r}; known columns: {known}.", where.place)
    kind = schema[where.column]
    many = kind.startswith("list of ")
    if isinstance(where, IsNull):
        return where
    if isinstance(where, Has | HasAny | HasAll) != many:
        remedy = "use has, has_any, has_all or is null" if many else "use a comparison, in, between or is null"
        raise FilterError(f"column {where.column!r} is a {kind} column: {remedy}.", where.place)
    ordered = isinstance(where, Between) or (isinstance(where, Comparison) and where.operator not in ("==", "!="))
    if kind == "boolean" and ordered:
        raise FilterError(f"column {where.column!r} is boolean and has no order: use ==, != or in.", where.place)
    fitted = _FITTED[kind]
    match where:
        case Comparison() | Has():
            return dataclasses.replace(where, value=fitted(where.value, where))
        case Between():
            return dataclasses.replace(where, low=fitted(where.low, where), high=fitted(where.high, where))
        case In() | HasAny() | HasAll():
            return dataclasses.replace(where, values=tuple(fitted(value, where) for value in where.values))
    raise FilterError(f"unknown predicate {where!r}.", where.place)


def _refuse(value: Value, where: Predicate, wanted: str) -> NoReturn:
    raise FilterError(f"column {where.column!r} holds {wanted}, got {_literal(value)}.", where.place)


def _text(value: Value, where: Predicate) -> Value:
    return value if isinstance(value, str) else _refuse(value, where, "text; write it in 'single quotes'")


def _boolean(value: Value, where: Predicate) -> Value:
    return value if isinstance(value, bool) else _refuse(value, where, "true and false")


def _integer(value: Value, where: Predicate) -> Value:
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(value, where, "integers; compare it with one, without quotes and without a decimal point")
    return value


def _float(value: Value, where: Predicate) -> Value:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(value, where, "numbers; compare it with one, without quotes")
    if float(value) != value:
        _refuse(value, where, "floats of 64 bits, which cannot be this integer")
    return float(value)


_FITTED: Mapping[Kind, Callable[[Value, Predicate], Value]] = {
    "string": _text,
    "boolean": _boolean,
    "integer": _integer,
    "float": _float,
    "list of strings": _text,
    "list of integers": _integer,
}
