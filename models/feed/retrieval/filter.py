"""The filter language: which items may be answered at all.

One filter, four spellings. As text, in a flow's parameter: `year >= 2019 and lang in ('en', 'de')`. In Python:
`(col("year") >= 2019) & col("lang").isin(["en", "de"])`. As a dictionary, the way of MongoDB:
`{"year": {"$gte": 2019}, "lang": {"$in": ["en", "de"]}}`. As clauses of the paper:
`all_of([Clause("lang", any_of=["en", "de"]), Clause("tags", none_of=["nsfw"])])`. `str(where)` is the text of a filter
and `parse` reads it back.

    filter     := conjunction ("or" conjunction)*
    conjunction:= negation ("and" negation)*
    negation   := "not" negation | "(" filter ")" | "true" | "false" | predicate
    predicate  := column ("=="|"="|"!="|"<>"|"<"|"<="|">"|">=") value
                | column ["not"] "in" "(" value ("," value)* ")"
                | column ["not"] "between" value "and" value               both ends included
                | column ["not"] "has" value                               columns of lists only, these three
                | column ["not"] ("has_any"|"has_all") "(" value ("," value)* ")"
                | column ["not"] "geo_within" "(" latitude "," longitude "," km ")"   columns of points, these two
                | column ["not"] "geo_box" "(" south "," west "," north "," east ")"
                | column "is" ["not"] "null"
    column     := a name, or any text in `backticks` or "double quotes"; the quote itself is doubled
    value      := 'text' with '' for a quote | integer | decimal | "true" | "false"

Keywords may be in capitals. Text is compared by code point, exactly as stored: no case folding, no normal form.

    dictionary := {entry, ...}                       at least one; all hold
    entry      := column: value                      equal to it; on a column of lists: has it; no column named $...
                | column: {operator: operand, ...}   at least one; all hold
                | "$and" | "$or" | "$nor": [dictionary, ...]
                | "$not": dictionary
    operator   := "$eq" | "$ne" | "$lt" | "$lte" | "$gt" | "$gte" | "$has": value
                | "$in" | "$nin" | "$has_any" | "$has_all" | "$all": [value, ...]       $all is $has_all
                | "$within": {"latitude": , "longitude": , "km": }
                | "$box": {"south": , "west": , "north": , "east": }
                | "$exists": true or false
                | "$not": {operator: operand, ...}

A point is a latitude and a longitude in degrees. `geo_within` passes points at most so many kilometres away along the
surface of a sphere; `points` has the exact definition. `geo_box` passes points from south to north and from west
eastwards to east, all ends included; with west above east the box crosses the antimeridian. 180 and -180 are one
meridian, and a pole lies on all of them.

Nulls are two-valued: a predicate on a missing value is false, except `is null`, and `not` is the plain complement.
So `year != 2019` leaves out items without a year, while `not year == 2019` and `year not in (2019)` let them through;
add `and year is not null` to leave them out. An empty list is a list, not a null. The dictionary says the same:
`$ne` is `!=`, and `$nin` is `not in`, the complement.

Source: the operators are SQL's and those of the vector stores (`has`, `has_any`, `has_all` for lists); the two-valued
nulls are ours: with SQL's third value, `x or not x` would lose items. LiNR's clauses (section 3.1) are the special
case of a conjunction of `in`, and of `not ... in` for a reverse clause. Of MongoDB's operators those for points are
left out, which count in radians and begin with the longitude; `$within` and `$box` are ours.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np

Value = str | bool | int | float
Kind = Literal["string", "boolean", "integer", "float", "list of strings", "list of integers", "point"]
Operator = Literal["==", "!=", "<", "<=", ">", ">="]

_DEEPEST = 100
_KEYWORDS = (
    *("and", "or", "not", "in", "between", "has", "has_any", "has_all", "geo_within", "geo_box", "is", "null"),
    *("true", "false"),
)
_INTEGERS = range(-(2**63), 2**63)


class FilterError(ValueError):
    """A filter that means nothing here: the message says where, what was found and what would be right.

    Attributes:
        position: of the mistake in a text, in characters from 0; None elsewhere.
        path: of the mistake in a dictionary, as in `$or[1].year`; None elsewhere.
    """

    def __init__(self, message: str, place: "Place | Path | None" = None) -> None:
        super().__init__(message if place is None else f"{message}\n{place.drawing()}")
        self.position = place.position if isinstance(place, Place) else None
        self.path = place.path if isinstance(place, Path) else None


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


@dataclass(frozen=True)
class Path:
    """A place in the dictionary of a filter: the keys, and numbers in lists, that lead to it."""

    path: str = ""

    def drawing(self) -> str:
        """The line that names it."""
        return f"  at {self.path or 'the top'}"

    def key(self, name: Any) -> "Path":
        """The place of an entry."""
        return Path(f"{self.path}.{name}" if self.path else str(name))

    def item(self, number: int) -> "Path":
        """The place of an element of a list."""
        return Path(f"{self.path}[{number}]")


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
    """A condition on one column; `place` remembers where a text or dictionary said it, for messages alone."""

    column: str
    place: Place | Path | None = field(default=None, kw_only=True, compare=False, repr=False)

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
        object.__setattr__(self, "values", _several(self.values, self))


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


class _Geographic(Predicate):
    """A condition on a column of points; its other fields are numbers."""

    _word = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self._numbers():
            object.__setattr__(self, name, _number(getattr(self, name), name, self))

    def __str__(self) -> str:
        return f"{_name(self.column)} {self._word}({', '.join(repr(getattr(self, name)) for name in self._numbers())})"

    @classmethod
    def _numbers(cls) -> tuple[str, ...]:
        return tuple(entry.name for entry in dataclasses.fields(cls) if entry.name not in ("column", "place"))


@dataclass(frozen=True)
class GeoWithin(_Geographic):
    """The column's point lies at most `km` kilometres from a point, in degrees, along the surface of the sphere."""

    latitude: float
    longitude: float
    km: float

    _word = "geo_within"


@dataclass(frozen=True)
class GeoBox(_Geographic):
    """The column's point lies from south to north, and from west eastwards to east, in degrees, all ends included."""

    south: float
    west: float
    north: float
    east: float

    _word = "geo_box"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.south > self.north:
            raise FilterError(
                f"the box for column {self.column!r} has south {self.south!r} above north {self.north!r}; exchange "
                "them. Only west may be above east, for a box that crosses the antimeridian.",
                self.place,
            )


@dataclass(frozen=True)
class Clause(Predicate):
    """A clause of the paper: the column has one of `any_of`, or else none of `none_of`; exactly one is given.

    Meeting an index it becomes `in`, or `has_any` on a column of lists; with `none_of` the complement of that, which
    items without a value pass. As the kind of the column decides, a clause has no text of its own.

    Source:
        LiNR, section 3.1: clauses, and reverse clauses for `none_of`.
    """

    any_of: Sequence[Value] | None = field(default=None, kw_only=True)
    none_of: Sequence[Value] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.any_of is None) == (self.none_of is None):
            raise FilterError(
                f"the clause of column {self.column!r} needs any_of or none_of, got "
                f"{'neither' if self.any_of is None else 'both'}; give exactly one.",
                self.place,
            )
        name = "none_of" if self.any_of is None else "any_of"
        object.__setattr__(self, name, _several(getattr(self, name), self))

    def __str__(self) -> str:
        name, values = self._given()
        return f"Clause({self.column!r}, {name}={list(values)!r})"

    def _given(self) -> tuple[str, tuple[Value, ...]]:
        return ("none_of", tuple(self.none_of or ())) if self.any_of is None else ("any_of", tuple(self.any_of))

    def bound(self, schema: Mapping[str, Kind]) -> Filter:
        """What the clause says of a column of its kind; see `bind`."""
        many = schema.get(self.column, "").startswith("list of ")
        name, values = self._given()
        where = _bound((HasAny if many else In)(self.column, values, place=self.place), schema)
        return _unless(name == "none_of", where)


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


def _several(values: Any, predicate: Predicate) -> tuple[Value, ...]:
    """The values as plain Python, at least one."""
    if isinstance(values, str):
        raise FilterError(
            f"column {predicate.column!r} is asked for the letters of {values!r}; give a list of values.",
            predicate.place,
        )
    if not isinstance(values, Iterable):
        raise FilterError(f"column {predicate.column!r} needs a list of values, got {values!r}.", predicate.place)
    plain = tuple(_plain(value, predicate) for value in values)
    if not plain:
        raise FilterError(
            f"the list of values for column {predicate.column!r} is empty; name one, or leave the condition out.",
            predicate.place,
        )
    return plain


_LIMITS = {"latitude": 90.0, "south": 90.0, "north": 90.0, "longitude": 180.0, "west": 180.0, "east": 180.0}


def _number(value: Any, name: str, predicate: Predicate) -> float:
    """A latitude, a longitude or a distance as a float."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, int) and abs(plain) > 1e300:  # neither a float nor a message can hold it
        plain = math.inf
    number = float(plain) if isinstance(plain, int | float) and not isinstance(plain, bool) else math.nan
    limit = _LIMITS.get(name)
    fits = 0 <= number < math.inf if limit is None else -limit <= number <= limit
    if not fits:
        wanted = "a finite number of at least 0" if limit is None else f"a number from {-limit:g} to {limit:g} degrees"
        raise FilterError(f"column {predicate.column!r} is asked for {name} {plain!r}; give {wanted}.", predicate.place)
    return number


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

    def within(self, latitude: float, longitude: float, *, km: float) -> GeoWithin:
        """The point lies at most `km` kilometres from one given in degrees."""
        return GeoWithin(self._name, latitude, longitude, km)

    def in_box(self, *, south: float, west: float, north: float, east: float) -> GeoBox:
        """The point lies in a box given in degrees, ends included; west above east crosses the antimeridian."""
        return GeoBox(self._name, south, west, north, east)

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
        An object with the comparisons, `isin`, `between`, `is_null`, `has`, `has_any`, `has_all`, `within` and
        `in_box`.

    Source:
        The spelling of polars and Spark; the implementation is ours.
    """
    return Column(name)


def all_of(filters: Iterable[Filter]) -> Filter:
    """The conjunction of any number of filters: the clauses of one query, say.

    `where` takes a sequence for filters of different queries. What one query asks is one filter, so that a list of
    clauses is put together first: `where=all_of([Clause("geo", any_of=[7]), Clause("company", none_of=[1, 2])])`.

    Args:
        filters: any number; of none, every item passes.

    Returns:
        The filter that passes what they all pass.

    Raises:
        FilterError: one of them is no filter.

    Source:
        LiNR, section 3.1: an item passes when it passes all clauses.
    """
    return _joined(And, list(filters))


def _joined(kind: type[And] | type[Or], parts: Sequence[Any]) -> Filter:
    if len(parts) == 1 and isinstance(parts[0], Filter):
        return parts[0]
    return kind(tuple(parts)) if parts else Everything()


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
        if self.accept("geo_within"):
            return _unless(negative, GeoWithin(column, *self.numbers(GeoWithin), place=place))
        if self.accept("geo_box"):
            return _unless(negative, GeoBox(column, *self.numbers(GeoBox), place=place))
        return self.fail(
            f"expected == != < <= > >= in between has has_any has_all geo_within geo_box or is after column {column!r}"
        )

    def numbers(self, kind: type[GeoWithin] | type[GeoBox]) -> list[Any]:
        names, found = kind._numbers(), list[Any]()
        self.expect("(")
        for name in names:
            if found:
                self.expect(",", f"a comma and the {name}")
            if self.kind != "number":
                self.fail(f"expected a number, the {name}: ({', '.join(names)})")
            found.append(self.value())
        self.expect(")")
        return found

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
        The filter; `parse(str(where)) == where` for every filter at most 100 levels deep and without a `Clause`.

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


# --- reading dictionaries ---------------------------------------------------------------------------------------------

_COMPARING: Mapping[str, Operator] = {"$eq": "==", "$ne": "!=", "$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_LISTING = {"$in": In, "$nin": In, "$has_any": HasAny, "$has_all": HasAll, "$all": HasAll}
_LOCATING: Mapping[str, type[GeoWithin] | type[GeoBox]] = {"$within": GeoWithin, "$box": GeoBox}
_OPERATORS = (*_COMPARING, "$in", "$nin", "$exists", "$has", "$has_any", "$has_all", "$all", *_LOCATING, "$not")
_CONNECTIVES = ("$and", "$or", "$nor", "$not")


def parse_dict(where: Mapping[str, Any]) -> Filter:
    """Read a filter from a dictionary in the way of MongoDB; the grammar stands at the top of this module.

    Args:
        where: for example `{"year": {"$gte": 2019}, "lang": {"$in": ["en", "de"]}}`. Keys that begin with `$` are
            operators, so that a column whose name does is out of reach here.

    Returns:
        The filter.

    Raises:
        FilterError: the dictionary is no filter, is empty, or is nested deeper than 100 levels; the message ends with
            the path to the mistake, as in `at $or[1].year`.

    Source:
        The operators are MongoDB's, but for those of lists and points; nulls and kinds are those of the module.
    """
    return _read_dict(where, Path(), 1)


def _read_dict(where: Any, path: Path, depth: int) -> Filter:
    return _joined(And, [_entry(name, value, path.key(name), depth) for name, value in _entries(where, path, depth)])


def _entries(where: Any, path: Path, depth: int) -> Iterable[tuple[str, Any]]:
    if not isinstance(where, Mapping):
        raise FilterError(f"expected a dictionary, got {where!r} of type {type(where).__name__}.", path)
    if not where:
        raise FilterError("the dictionary is empty; name a condition, or leave it out to let every item pass.", path)
    if depth > _DEEPEST:
        raise FilterError(f"nested deeper than {_DEEPEST} levels; use $in for long lists.", path)
    for name in where:
        if not isinstance(name, str):
            raise FilterError(f"keys are names of columns and operators, got {name!r}.", path)
    return where.items()


def _entry(name: str, value: Any, path: Path, depth: int) -> Filter:
    if name == "$not":
        return Not(_read_dict(value, path, depth + 1))
    if name in _CONNECTIVES:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise FilterError(f"{name} needs a list of at least one dictionary, got {value!r}.", path)
        parts = [_read_dict(part, path.item(number), depth + 1) for number, part in enumerate(value)]
        joined = _joined(And if name == "$and" else Or, parts)
        return Not(joined) if name == "$nor" else joined
    if name.startswith("$"):
        raise FilterError(
            f"unknown operator {name!r} in the place of a column; known here: {', '.join(_CONNECTIVES)}.", path
        )
    if isinstance(value, Mapping):
        return _conditions(name, value, path, depth + 1)
    return Clause(name, any_of=(_single(value, path),), place=path)


def _conditions(column: str, operators: Any, path: Path, depth: int) -> Filter:
    entries = _entries(operators, path, depth)
    return _joined(And, [_condition(column, name, operand, path.key(name), depth) for name, operand in entries])


def _condition(column: str, name: str, operand: Any, path: Path, depth: int) -> Filter:
    if name in _COMPARING:
        return Comparison(column, _single(operand, path), _COMPARING[name], place=path)
    if name == "$has":
        return Has(column, _single(operand, path), place=path)
    if name in _LISTING:
        if isinstance(operand, str | Mapping) or not isinstance(operand, Iterable):
            raise FilterError(f"{name} needs a list of values, got {operand!r}.", path)
        return _unless(name == "$nin", _LISTING[name](column, tuple(operand), place=path))
    if name in _LOCATING:
        wanted = _LOCATING[name]._numbers()
        if not isinstance(operand, Mapping) or set(operand) != set(wanted):
            raise FilterError(f"{name} needs a dictionary of exactly {', '.join(wanted)}, got {operand!r}.", path)
        return _LOCATING[name](column, **operand, place=path)
    if name == "$exists":
        if not isinstance(operand, bool):
            raise FilterError(f"$exists needs true or false, got {operand!r}.", path)
        return _unless(operand, IsNull(column, place=path))
    if name == "$not":
        return Not(_conditions(column, operand, path, depth + 1))
    raise FilterError(f"unknown operator {name!r}; known operators: {', '.join(_OPERATORS)}.", path)


def _single(value: Any, path: Path) -> Any:
    """A value that is compared; the remedies for what is none are those of a dictionary."""
    if value is None:
        raise FilterError('nothing equals null; say {"$exists": false} for a missing value.', path)
    if isinstance(value, list | tuple | Mapping):
        raise FilterError(f"expected one value, got {value!r}; a list of values stands under $in or $has_any.", path)
    return value


def as_filter(where: "Filter | str | Mapping[str, Any] | None") -> Filter:
    """A filter in whatever spelling: None for every item, text, a dictionary, or a filter itself.

    Args:
        where: the filter.

    Returns:
        The filter.

    Raises:
        FilterError: as `parse` and `parse_dict`, or `where` is none of these.

    Source:
        Ours.
    """
    if where is None:
        return Everything()
    if isinstance(where, str):
        return parse(where)
    if isinstance(where, Mapping):
        return parse_dict(where)
    if isinstance(where, Filter):
        return where
    remedy = "put the filters of one query together with all_of" if isinstance(where, list | tuple) else ""
    raise FilterError(
        f"expected a filter, got {where!r} of type {type(where).__name__}; "
        f"{remedy or 'write text or a dictionary, or use col(...)'}."
    )


# --- meeting a schema -------------------------------------------------------------------------------------------------


def bind(where: Filter, schema: Mapping[str, Kind]) -> Filter:
    """Hold a filter to the columns that exist, and give its values the columns' types.

    Two filters that are equal after binding pass the same items; before, `flag == 1` and `flag == true` are equal in
    Python and yet only one of them suits a boolean column.

    Args:
        where: any filter.
        schema: column name to the kind of its values.

    Returns:
        The filter with integers given to float columns turned into floats, and a `Clause` turned into what it says of
        its column; otherwise unchanged.

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
        case Clause():
            return where.bound(schema)
        case Predicate():
            return _bound(where, schema)
    raise FilterError(f"expected a filter, got {where!r} of type {type(where).__name__}; write text or use col(...).")


def _bound(where: Predicate, schema: Mapping[str, Kind]) -> Predicate:
    if where.column not in schema:
        known = ", ".join(sorted(schema)) or "none, the index has no attributes"
        raise FilterError(f"unknown column {where.column!r}; known columns: {known}.", where.place)
    kind = schema[where.column]
    if isinstance(where, IsNull):
        return where
    if kind == "point":
        suits, remedy = isinstance(where, GeoWithin | GeoBox), "use geo_within, geo_box or is null"
    elif kind.startswith("list of "):
        suits, remedy = isinstance(where, Has | HasAny | HasAll), "use has, has_any, has_all or is null"
    else:
        suits, remedy = isinstance(where, Comparison | Between | In), "use a comparison, in, between or is null"
    if not suits:
        raise FilterError(f"column {where.column!r} is a {kind} column: {remedy}.", where.place)
    if isinstance(where, GeoWithin | GeoBox):
        return where
    ordered = isinstance(where, Between) or (isinstance(where, Comparison) and where.operator not in ("==", "!="))
    if kind == "boolean" and ordered:
        raise FilterError(f"column {where.column!r} is boolean and has no order: use ==, != or in.", where.place)
    fitted = _FITTED[kind]
    match where:
        case Comparison() | Has():
            value = fitted(where.value, where)
            return where if value is where.value else dataclasses.replace(where, value=value)
        case Between():
            low, high = fitted(where.low, where), fitted(where.high, where)
            unchanged = low is where.low and high is where.high
            return where if unchanged else dataclasses.replace(where, low=low, high=high)
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
