"""Look at a user's own tables before a flow is scheduled on them: guess the mapping, list what is wrong, say what to
set.

Whether a run would take the files is not judged here a second time: `DataConfig.prepare`, which is what a run calls, is
called with the proposed settings, and its refusal is quoted. The rest says more than the first refusal does: every
problem at once, how many rows have it, and what a run would swallow without a word.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.common.examination import (
    Choice,
    ColumnFound,
    Examination,
    Grade,
    Problem,
    RawFile,
    looks_like_data,
    offending,
    plain_name,
    rank_by_name,
    shown,
    suspicion,
)
from models.feed.points import degrees_of, is_point, outside
from models.feed.retrieval.data import DataConfig
from models.feed.retrieval.features import OURS
from models.feed.retrieval.table import DATE, TableConfig
from models.feed.tables import INTEGER, NUMBER, read_attribute, read_names, read_table, read_times

ENDINGS = ("id", "ids", "uid", "key", "no", "nr", "number", "code", "ref", "hash")
USERS = (
    *("user", "user_id", "userid", "uid", "member", "member_id", "customer", "customer_id", "cust_id", "client"),
    *("client_id", "account", "account_id", "visitor", "visitor_id", "visitorid", "person", "person_id", "subscriber"),
    *("subscriber_id", "shopper", "buyer", "reader", "viewer", "listener", "player", "profile", "profile_id"),
    *("household", "patron", "guest", "who", "device_id", "cookie_id", "session_id"),
)
ITEMS = (
    *("item", "item_id", "itemid", "iid", "product", "product_id", "productid", "sku", "article", "article_id", "asin"),
    *("stock_code", "movie", "movie_id", "film", "film_id", "book", "book_id", "isbn", "song", "song_id", "track"),
    *("track_id", "artist", "artist_id", "video", "video_id", "game", "game_id", "recipe", "recipe_id", "listing"),
    *("listing_id", "offer", "offer_id", "post", "post_id", "content", "content_id", "document", "document_id"),
    *("doc_id", "job", "job_id", "page", "page_id", "business_id", "poi", "venue_id", "goods", "what", "url"),
)
TIMES = (
    *("time", "timestamp", "ts", "event_time", "event_timestamp", "event_ts", "datetime", "date_time", "at", "when"),
    *("occurred_at", "purchased_at", "viewed_at", "clicked_at", "created_at", "created", "purchase_time"),
    *("purchase_date", "order_date", "order_time", "invoice_date", "event_date", "unix_time", "unixtime", "epoch"),
    *("moment", "date", "day", "inserted_at", "updated_at"),
)
TIME_ENDINGS = ("time", "timestamp", "ts", "datetime", "date", "at", "epoch", "moment")
NO_MOMENTS = frozenset({"birth", "born", "expiry", "expires", "expiration", "due", "deleted", "delivery"})
LISTS = frozenset(
    {"tags", "genres", "categories", "labels", "keywords", "topics", "colors", "colours", "languages", "authors"}
)
PLACEHOLDERS = pa.array(["", "null", "none", "nan", "n/a", "na", "nil", "-", "--", "?", "undefined", "unknown", "#n/a"])
SEPARATORS = ("|", ";", ",")
SAMPLE = 20_000
BY_CONTENT = 0.9  # share of a sample that must fit for a column to be chosen by its content
YEAR_1990, YEAR_2100 = 631_152_000, 4_102_444_800  # in seconds since 1970
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
DAY = 86_400

SINGLE = ("name", "user", "item", "time", "separator", "least_interactions")
SEVERAL = ("attributes", "numbers", "multi_valued")
FAILURES = (ValueError, LookupError, NotImplementedError, TypeError, pa.ArrowException)
"""What a run fails by on some file: `InputError`, and what pyarrow and pandas raise for types nobody thought of."""

GRADES: tuple[Grade, ...] = ("stops the run", "rows left out", "worth knowing")


def examine(table: RawFile, others: Mapping[str, RawFile], chosen: Mapping[str, str], *, moment: float) -> Examination:
    """Look at a user's own tables; nothing is stored.

    Args:
        table: one row per interaction.
        others: `items`, one row per item; may be left out.
        chosen: what is not to be guessed: `user`, `item`, `time` to a column; `attributes`, `numbers`, `multi_valued`
            to columns with commas between; `separator`, `least_interactions`, `name` to a value.
        moment: now, in seconds since 1970; times after it are told of.

    Returns:
        Mapping, problems, the words of a run's refusal, and the settings to paste.

    Raises:
        ValueError: `others` or `chosen` name what there is not, or a chosen value is outside its limits.

    Source:
        Ours.
    """
    for name in others:
        if name != "items":
            raise ValueError(f"the table 'items' is the only one beside the interactions, got {name!r}; leave it out.")
    for name in chosen:
        if name not in (*SINGLE, *SEVERAL):
            raise ValueError(f"one of {', '.join((*SINGLE, *SEVERAL))} can be set, got {name!r}.")
    files = {"interactions": table, **others}
    interactions, items = _Table(table), _Table(others["items"]) if "items" in others else None
    met, described = _understood(interactions, items, chosen)
    config = _configured(interactions, items, met, described, chosen)
    by: Choice = "named by you" if "multi_valued" in chosen else "guessed by content"
    lists = config.table.multi_valued
    described = [replace(one, kind="list of text", choice=by) if one.column in lists else one for one in described]
    problems = [
        *_problems_of_files(interactions, items, met),
        *_problems_of_identifiers(interactions, items, config.table),
        *_problems_of_times(interactions, config.table.time_column, moment),
        *(_problems_of_items(interactions, items, described, config.table) if items else ()),
    ]
    payload, refusal = _dry_run(config, files)
    if payload is not None:
        problems += _left_out(interactions, config.table, payload)
    elif not any(problem.grade == "stops the run" for problem in problems):
        problems.append(Problem(grade="stops the run", what="refused", file=interactions.path, remedy=refusal))
    problems.sort(key=lambda problem: GRADES.index(problem.grade))
    return Examination(
        columns=(*met, *described),
        problems=tuple(problems),
        refusal=refusal,
        settings={"data": {"name": config.name, "source": "table", "table": _changed(config.table)}},
        counts={} if payload is None else _counts(interactions, payload),
    )


class _Table:
    """A file as the reader gives it, or why it does not."""

    def __init__(self, file: RawFile) -> None:
        self.file = file
        self.path = str(file.path)
        self.table: pa.Table = pa.table({})
        self.refusal = ""
        self._read: dict[tuple[str, str], Any] = {}
        try:
            table = read_table(file.path, ())
            once = [name for name in table.column_names if table.column_names.count(name) == 1]
            self.table = table.select(once)  # Parquet may have two columns of one name, and a name then means neither
        except FAILURES as error:
            self.refusal = str(error)

    @property
    def names(self) -> list[str]:
        """Its columns; none when it cannot be read."""
        return list(self.table.column_names)

    def values(self, column: str) -> pa.Array:
        """A column in one piece, dictionaries opened."""
        chunked = self.table[column]
        if pa.types.is_dictionary(chunked.type):
            chunked = pc.cast(chunked, chunked.type.value_type)
        return pa.concat_arrays(chunked.chunks) if chunked.num_chunks != 1 else chunked.chunk(0)

    def sample(self, column: str) -> pa.Array:
        """At most 20,000 values, evenly spread over the file; without nulls."""
        values = self.values(column)
        if len(values) > SAMPLE:
            values = values.take(pa.array(np.linspace(0, len(values) - 1, SAMPLE).astype(np.int64)))
        return values.drop_null()

    def read(self, reader: Callable[..., Any], column: str) -> Any:
        """What a run makes of a column; None where it refuses."""
        key = (reader.__name__, column)
        if key not in self._read:
            self._read[key] = _attempt(reader, self.file.path, self.table, column)
        return self._read[key]


def _attempt(reader: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        return reader(*arguments, **named)
    except FAILURES:
        return None


# ------------------------------------------------------------------------------------------------------------ mapping


def _understood(
    table: _Table, items: _Table | None, chosen: Mapping[str, str]
) -> tuple[list[ColumnFound], list[ColumnFound]]:
    """Every column of the interactions and of the items with its role."""
    roles: dict[str, tuple[str, Choice]] = {}
    for role in ("item", "time", "user"):  # in the order in which content tells them apart
        roles[role] = _column_for(role, table, items, chosen, {column for column, _ in roles.values()})
    used = {column for column, _ in roles.values()}
    found = [_found(role, table, *roles[role]) for role in ("user", "item", "time")]
    found += [_found("-", table, name, "not read") for name in table.names if name not in used]
    if items is None:
        return found, []
    key, choice = roles["item"]
    described = [_found("item", items, key, choice)]
    named = _several(chosen, "attributes")
    for name in items.names:
        if name != key:
            kept = name in named if named else _readable(items, name)
            how: Choice = "not read" if not kept else "named by you" if named else "by default"
            described.append(_found("attribute" if kept else "-", items, name, how))
    return found, described


def _column_for(
    role: str, table: _Table, items: _Table | None, chosen: Mapping[str, str], taken: set[str]
) -> tuple[str, Choice]:
    """The column of the interactions that has a role, and who chose it."""
    if role in chosen:
        return chosen[role], "named by you"
    if len(table.names) == 1:  # another separator than the comma: the whole line is one name
        return role, "not found"
    free = [name for name in table.names if name not in taken and name not in chosen.values()]
    words, endings = {"user": (USERS, ENDINGS), "item": (ITEMS, ENDINGS), "time": (TIMES, TIME_ENDINGS)}[role]
    shared = set(items.names) if items else set()
    ranked = []
    for place, name in enumerate(free):
        rank = rank_by_name(name, words, endings)
        if rank is None or (role == "time" and NO_MOMENTS & set(plain_name(name).split("_"))):
            continue
        fits = _time_share(table.sample(name)) > 0.5 if role == "time" else _identifies(table, name)
        ranked.append((not fits, role == "item" and name not in shared, rank, place, name))
    if ranked:
        return min(ranked)[-1], "guessed by name"
    if any(looks_like_data(name) for name in table.names):  # no header: the next file would have other names
        return role, "not found"
    guess = _by_content(role, free, table, items)
    return (guess, "guessed by content") if guess else (role, "not found")


def _by_content(role: str, free: Sequence[str], table: _Table, items: _Table | None) -> str | None:
    if role == "time":
        fitting = [name for name in free if _time_share(table.sample(name)) >= BY_CONTENT]
        return fitting[0] if fitting else None
    names = [
        name
        for name in free
        if _identifies(table, name)
        and _time_share(table.sample(name)) < BY_CONTENT
        and not any(rank_by_name(name, words, ENDINGS) is not None for words in (USERS, ITEMS))
    ]
    if role == "item" and items is not None and items.names:
        return next((name for name in names if _key_of(items, table.sample(name), first=name)), None)
    repeated = [name for name in names if _repeats(table, name)]
    if role == "item":  # without items to compare with, order decides, and people write who before what
        people = any(rank_by_name(name, USERS, ENDINGS) is not None for name in free)
        repeated = repeated if people else repeated[1:]
    return repeated[0] if repeated else None


def _repeats(table: _Table, name: str) -> bool:
    """Whether a column names things that come again, neither a handful of kinds nor a number for each row."""
    values = table.values(name)
    distinct = pc.count_distinct(values).as_py()
    return bool(min(5, len(values) / 10) < distinct < len(values))


def _key_of(items: _Table, values: pa.Array, *, first: str) -> str | None:
    """The column of the items, each value in it once, in which nearly all the values are found."""
    wanted = pc.cast(values, pa.string())
    for name in sorted(items.names, key=lambda name: name != first):
        column = items.values(name)
        if not _is_identifier(column.type) or pc.count_distinct(column).as_py() < BY_CONTENT * len(column):
            continue
        inside = pc.sum(pc.is_in(wanted, value_set=pc.cast(column, pa.string()))).as_py() or 0
        if inside >= BY_CONTENT * max(len(wanted), 1):
            return name
    return None


def _identifies(table: _Table, name: str) -> bool:
    """Whether a column's values could be identifiers: integers, or text that is no fraction."""
    sample = table.sample(name)
    if not _is_identifier(sample.type):
        return False
    if pa.types.is_integer(sample.type) or not len(sample):
        return bool(len(sample))
    text = pc.cast(sample, pa.string())
    fraction = pc.and_(pc.match_substring_regex(text, NUMBER), pc.invert(pc.match_substring_regex(text, INTEGER)))
    return 2 * (pc.sum(fraction).as_py() or 0) < len(text)


def _is_identifier(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _time_share(sample: pa.Array) -> float:
    """Share of values that are moments since 1990, in whatever unit or usual way of writing."""
    if not len(sample):
        return 0.0
    if pa.types.is_temporal(sample.type):
        return 1.0
    if pa.types.is_integer(sample.type) or pa.types.is_floating(sample.type):
        return float(np.mean(_unit(np.asarray(sample.to_numpy(zero_copy_only=False), np.float64)) >= 0))
    if not _is_text(sample.type):
        return 0.0
    text = pc.cast(sample, pa.string())
    number = pc.match_substring_regex(text, NUMBER)
    numbers = pc.cast(pc.utf8_trim_whitespace(text.filter(number)), pa.float64(), safe=False) if _any(number) else []
    moments = int(np.sum(_unit(np.asarray(numbers, np.float64)) >= 0)) if len(numbers) else 0
    written = r"^\s*(\d{4}-\d\d-\d\d|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}/\d{1,2}/\d{1,2})"
    return float((moments + (pc.sum(pc.match_substring_regex(text, written)).as_py() or 0)) / len(text))


def _unit(numbers: NDArray[np.float64]) -> NDArray[np.int8]:
    """The unit in which each number is a moment from 1990 to 2100, as its place in `UNITS`; -1 for none."""
    unit = np.full(len(numbers), -1, np.int8)
    for place, factor in enumerate(UNITS.values()):
        unit[(numbers >= YEAR_1990 * factor) & (numbers < YEAR_2100 * factor)] = place
    return unit


def _found(role: str, table: _Table, name: str, choice: Choice) -> ColumnFound:
    if name not in table.names:
        return ColumnFound(role=role, file=table.path, column=name, choice="not found")
    values = table.values(name)
    present = values.drop_null()
    return ColumnFound(
        role=role,
        file=table.path,
        column=name,
        kind=_kind(role, table, name),
        example=shown(present[0].as_py()).strip("'") if len(present) else "",
        choice=choice,
        missing=values.null_count / max(len(values), 1),
    )


def _kind(role: str, table: _Table, name: str) -> str:
    values, sample = table.values(name), table.sample(name)
    if role == "time" and not pa.types.is_temporal(values.type):
        moments = table.read(read_times, name)
        if moments is None:
            return _called(values.type)
        if _is_text(sample.type) and not _any(pc.match_substring_regex(sample, NUMBER)):
            return "moment, ISO 8601"
        unit = int(np.bincount(_unit(moments.astype(np.float64)) + 1).argmax())
        return f"moment, {list(UNITS)[max(unit - 1, 0)]}"
    if role == "-":
        read = _attempt(read_attribute, table.file.path, pa.table({name: sample}), name)
    else:
        read = table.read(read_names if role in ("user", "item") else read_attribute, name)
    return _called((values if read is None else read).type)


def _called(kind: pa.DataType) -> str:
    if _is_text(kind):
        return "text"
    if pa.types.is_list(kind):
        return f"list of {_called(kind.value_type)}"
    if is_point(kind):
        return "point"
    named = {"bool": "truth value", "int64": "integer", "double": "number"}
    return "moment, timestamp" if pa.types.is_temporal(kind) else named.get(str(kind), str(kind))


def _readable(items: _Table, name: str) -> bool:
    """Whether a column can be an attribute at all; single wrong values are another matter."""
    kind = items.values(name).type
    plain = pa.types.is_boolean(kind) or pa.types.is_null(kind) or pa.types.is_decimal(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    moment = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    several = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_identifier(kind.value_type)
    return name not in OURS and bool(_is_text(kind) or plain or number or moment or several or is_point(kind))


# ----------------------------------------------------------------------------------------------------------- settings


def _configured(
    table: _Table,
    items: _Table | None,
    met: Sequence[ColumnFound],
    described: Sequence[ColumnFound],
    chosen: Mapping[str, str],
) -> DataConfig:
    """The settings that use the files as they were understood."""
    kept = tuple(found.column for found in described if found.role == "attribute")
    all_kept = len(kept) == len(described) - 1
    separator, multi_valued = _multi_valued(items, kept, chosen) if items else (chosen.get("separator", "|"), ())
    numbers = tuple(name for name in kept if items and name not in multi_valued and _only_numbers(items, name))
    column = {found.role: found.column for found in met[:3]}
    config = TableConfig(
        interactions=table.file.location,
        items=items.file.location if items else "",
        user_column=column["user"],
        item_column=column["item"],
        time_column=column["time"],
        attributes=_several(chosen, "attributes") or (() if all_kept else kept),
        numbers=_several(chosen, "numbers") if "numbers" in chosen else numbers,
        multi_valued=multi_valued,
        separator=separator,
        least_interactions=_whole(chosen, "least_interactions", TableConfig.least_interactions),
    )
    return DataConfig(name=chosen.get("name") or _name(table.file), source="table", table=config)


def _several(chosen: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in chosen.get(name, "").split(",") if part.strip())


def _whole(chosen: Mapping[str, str], name: str, default: int) -> int:
    text = chosen.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, got {text!r}.")
    return int(text)


def _name(file: RawFile) -> str:
    """A name for the data: that of the file, without what a name may not hold."""
    stem = Path(file.location.rpartition("/")[2]).name.partition(".")[0]
    plain = plain_name(stem).replace("_", "-")
    return plain[:63].strip("-") or "table"


def _only_numbers(items: _Table, name: str) -> bool:
    """Whether text holds numbers alone; a file that has its own types needs no such setting."""
    if not _is_text(items.values(name).type):
        return False
    read = items.read(read_attribute, name)
    return read is not None and bool(pa.types.is_integer(read.type) or pa.types.is_floating(read.type))


def _multi_valued(items: _Table, kept: Sequence[str], chosen: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The separator, and the text attributes that hold several values."""
    separators = (chosen["separator"],) if "separator" in chosen else SEPARATORS
    if "multi_valued" in chosen:
        return separators[0], _several(chosen, "multi_valued")
    found = {separator: tuple(name for name in kept if _parted(items, name, separator)) for separator in separators}
    best = max(separators, key=lambda separator: len(found[separator]))
    return best, found[best]


def _parted(items: _Table, name: str, separator: str) -> bool:
    """Whether a column's values are lists: they hold the separator, and their parts come again in other values."""
    sample = items.sample(name)
    if not _is_text(sample.type):
        return False
    values = pc.unique(sample).to_pylist()
    parted = [value for value in values if separator in value.strip(separator)]
    if not parted:
        return False
    if plain_name(name).split("_")[-1] in LISTS:
        return True
    parts = {part.strip() for value in values for part in value.split(separator)}
    return len(values) >= 8 and 10 * len(parted) >= len(values) and 2 * len(parts) <= len(values)


def _changed(config: TableConfig) -> dict[str, Any]:
    """The settings that are not the default, as JSON has them."""
    plain = TableConfig()
    changed: dict[str, Any] = {}
    for setting in fields(config):
        value = getattr(config, setting.name)
        if value != getattr(plain, setting.name):
            changed[setting.name] = list(value) if isinstance(value, tuple) else value
    return changed


def _dry_run(config: DataConfig, files: Mapping[str, RawFile]) -> tuple[Payload | None, str]:
    """What a run would prepare, or the words in which it would refuse."""
    try:
        return config.prepare({name: file.path for name, file in files.items()}), ""
    except FAILURES as error:
        return None, str(error)


# ----------------------------------------------------------------------------------------------------------- problems


def _problems_of_files(table: _Table, items: _Table | None, met: Sequence[ColumnFound]) -> Iterator[Problem]:
    """Files that cannot be read, roles that no column has, names that do not meet."""
    stops: Grade = "stops the run"
    for one in (table, items):
        if one is not None and one.refusal:
            remedy = suspicion(one.file.path) or "see the verdict"
            if DATE in one.file.location:
                remedy = f"try the file of one day, and write {DATE} in its location afterwards"
            yield Problem(grade=stops, what=_reason(one), file=one.path, remedy=remedy)
    if not table.refusal:
        for found in met[:3]:
            if found.column not in table.names:
                remedy = suspicion(table.file.path) or f"name it: {found.role}=COLUMN, one of {', '.join(table.names)}"
                what = f"no column for the {found.role}"
                yield Problem(grade=stops, what=what, file=table.path, column=found.column, remedy=remedy)
    key = met[1].column
    if items is not None and not items.refusal and key not in items.names:
        same = _key_of(items, table.sample(key), first=key) if key in table.names else None
        same = same or next(
            (name for name in items.names if rank_by_name(name, (*ITEMS, "id"), ENDINGS) is not None), None
        )
        remedy = (
            f"rename its column {same!r} to {key!r}" if same else f"rename the column that names the item to {key!r}"
        )
        hint = suspicion(items.file.path)
        yield Problem(grade=stops, what="no column for the item", file=items.path, column=key, remedy=hint or remedy)


def _reason(table: _Table) -> str:
    """Why a file cannot be read, without its name and the remedy."""
    return table.refusal.removeprefix(table.path).lstrip(" ,").partition(";")[0].rstrip(".")


def _problems_of_identifiers(table: _Table, items: _Table | None, config: TableConfig) -> Iterator[Problem]:
    """Missing and doubtful identifiers of both files."""
    places = [(table, config.user_column), (table, config.item_column)]
    places += [(items, config.item_column)] if items is not None else []
    for one, column in places:
        if column not in one.names:
            continue
        values = one.values(column)
        yield from offending(
            *("stops the run", "no identifier", one.path, column, pc.is_null(values), values),
            "fill it in or drop the row",
        )
        if _is_text(values.type):
            yield from _doubtful_words(one, column, values)
        elif not pa.types.is_integer(values.type):
            remedy = "write integers or text"
            if pa.types.is_floating(values.type):
                remedy += "; pandas makes fractions of integers with gaps: astype('Int64') before writing"
            what = f"identifiers of type {values.type}"
            yield Problem(grade="stops the run", what=what, file=one.path, column=column, remedy=remedy)


def _doubtful_words(table: _Table, column: str, values: pa.Array) -> Iterator[Problem]:
    """Identifiers that a run takes as they stand, and that are hardly meant so. Looked for among the distinct ones."""
    words = pc.unique(values).drop_null()
    whole = pc.match_substring_regex(words, INTEGER)
    share = (pc.sum(whole).as_py() or 0) / max(len(words), 1)
    zeros = pc.match_substring_regex(words, r"^\s*[+-]?0\d+\s*$")
    empty = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(words)), value_set=PLACEHOLDERS.cast(words.type))
    blank = pc.and_not(pc.not_equal(words, pc.utf8_trim_whitespace(words)), empty)
    doubts = [
        (empty, "words for nothing", "they are taken for an identifier; leave the cell empty and drop the row"),
        (blank, "blanks around identifiers", "text is compared exactly, blanks too; trim it"),
    ]
    if share == 1:
        doubts[1:] = [(zeros, "zeros before the number", "all are read as integers, so '007' and '7' are one")]
    elif share >= 0.5:
        doubts.append((pc.and_not(pc.invert(whole), empty), "mixed types: text among integers", "all are read as text"))
    elif share > 0:
        doubts.append((whole, "mixed types: integers among text", "all are read as text"))
    for doubt, what, remedy in doubts:
        chosen = words.filter(doubt)
        if len(chosen):
            wrong = pc.is_in(values, value_set=chosen)
            yield from offending("worth knowing", what, table.path, column, wrong, values, remedy)


def _problems_of_times(table: _Table, column: str, moment: float) -> Iterator[Problem]:
    """Moments that are missing, cannot be read, or are hardly meant so."""
    if column not in table.names:
        return
    values = table.values(column)
    where = (table.path, column)
    missing = pc.is_null(values)
    yield from offending("stops the run", "no moment", *where, missing, values, "fill it in or drop the row")
    seconds = table.read(read_times, column)
    if seconds is not None:
        yield from _doubtful_moments(where, values, seconds, moment)
        return
    wrong, remedy = _unreadable_moments(values)
    wrong = pc.and_not(wrong, missing)
    yield from offending("stops the run", "no readable moment", *where, wrong, values, remedy)


def _unreadable_moments(values: pa.Array) -> tuple[pa.Array, str]:
    """Where `read_times` finds none, by its rule: seconds when most values are numbers, else ISO 8601."""
    if pa.types.is_floating(values.type):
        return pc.invert(pc.less(pc.abs(values), 1e15)), "write finite seconds since 1970"
    if not _is_text(values.type):
        return pa.array(np.zeros(len(values), bool)), "write seconds since 1970 or ISO 8601 dates"
    number = pc.fill_null(pc.match_substring_regex(values, NUMBER), False)
    if 2 * (pc.sum(number).as_py() or 0) <= len(values):
        series = pd.to_datetime(pd.Series(values.to_pylist()), utc=True, format="ISO8601", errors="coerce")
        return pa.array(series.isna().to_numpy()), "write a date as in 2024-05-17T08:30:00Z, or seconds"
    read = pd.to_numeric(pd.Series(values.to_pylist(), dtype=object), errors="coerce")
    far = pa.array(~(np.abs(read.to_numpy(np.float64)) < 1e15))
    return pc.or_(pc.invert(number), far), "write finite seconds since 1970, as in the other rows"


def _doubtful_moments(
    where: tuple[str, str], values: pa.Array, seconds: NDArray[np.int64], moment: float
) -> Iterator[Problem]:
    """Moments that a run takes, and that are hardly meant so."""
    knowing: Grade = "worth knowing"
    unit = _unit(seconds.astype(np.float64))
    finer = unit > 0
    for place, (name, factor) in enumerate(UNITS.items()):
        if place and finer.any():
            remedy = f"they are read as seconds; the order stays, the dates do not: divide by {factor}"
            yield from offending(knowing, f"moments in {name}", *where, unit == place, values, remedy)
    calendar = (seconds >= 19_000_101) & (seconds <= 21_001_231)
    if 2 * calendar.sum() > len(seconds):
        remedy = "they are read as seconds in 1970; write 2024-05-17"
        yield from offending(knowing, "moments written YYYYMMDD", *where, calendar, values, remedy)
        return
    later = (seconds > moment + DAY) & ~finer
    yield from offending(
        knowing, "moments in the future", *where, later, values, "correct them; a user's last is the test"
    )
    early = seconds < YEAR_1990
    yield from offending(knowing, "moments before 1990", *where, early, values, "correct them if that is not meant")
    if len(seconds) > 1 and not finer.any() and not (seconds % DAY).any():
        remedy = "rows of one user and one day keep the order of the file; give hours if you have them"
        yield Problem(grade=knowing, what="days without hours", file=where[0], column=where[1], remedy=remedy)


def _problems_of_items(
    table: _Table, items: _Table, described: Sequence[ColumnFound], config: TableConfig
) -> Iterator[Problem]:
    """Items that stand twice, are unknown, or of which nothing is known; attributes that cannot be read."""
    key = config.item_column
    if key in items.names:
        names = items.read(read_names, key)
        names = items.values(key) if names is None else names
        if not _is_identifier(names.type):
            return
        codes = np.asarray(pc.dictionary_encode(names).indices.fill_null(-1))
        repeated = np.ones(len(codes), bool)
        repeated[np.unique(codes, return_index=True)[1]] = False
        wrong = pc.and_(pa.array(repeated), pc.is_valid(names))
        remedy = "an item stands in one row only; merge its rows"
        yield from offending("stops the run", "items that stand twice", items.path, key, wrong, names, remedy)
        if key in table.names:
            yield from _unmet_and_unknown(table, items, key, names)
    kept = [found.column for found in described if found.role == "attribute"]
    for name in kept:
        yield from _problems_of_attribute(items, name, config)
    for name in items.names:
        if name != key and name not in kept and not config.attributes:
            continue
        if name != key and not _readable(items, name):
            what = "our own name" if name in OURS else f"no attribute: type {items.values(name).type}"
            remedy = "it is left out; rename the column" if name in OURS else "it is left out; convert it to use it"
            yield Problem(grade="worth knowing", what=what, file=items.path, column=name, remedy=remedy)
    if kept:
        nothing = np.ones(items.table.num_rows, bool)
        for name in kept:
            nothing &= np.asarray(pc.is_null(items.values(name)).to_numpy(zero_copy_only=False), bool)
        values = items.values(key) if key in items.names else items.values(kept[0])
        remedy = "no filter but 'is null' lets them through; fill in what you know"
        yield from offending("worth knowing", "items without attributes", items.path, key, nothing, values, remedy)


def _unmet_and_unknown(table: _Table, items: _Table, key: str, names: pa.Array) -> Iterator[Problem]:
    met = table.read(read_names, key)
    met = table.values(key) if met is None else met
    if not (_is_identifier(met.type) and _is_identifier(names.type)):
        return
    if met.type != names.type:
        met, names = pc.cast(met, pa.string()), pc.cast(names, pa.string())
    unknown = pc.and_(pc.invert(pc.is_in(met, value_set=names)), pc.is_valid(met))
    remedy = f"add them to {items.file.path.name}, or drop the rows"
    yield from offending("stops the run", "items that the items file lacks", table.path, key, unknown, met, remedy)
    unmet = pc.and_(pc.invert(pc.is_in(names, value_set=pc.unique(met))), pc.is_valid(names))
    remedy = "they are in the index all the same, and found by their attributes"
    yield from offending("worth knowing", "items that nobody met", items.path, key, unmet, names, remedy)


def _problems_of_attribute(items: _Table, name: str, config: TableConfig) -> Iterator[Problem]:
    values = items.values(name)
    where = (items.path, name)
    stops: Grade = "stops the run"
    if values.null_count == len(values):
        remedy = "leave it out, or fill it in"
        yield Problem(grade="worth knowing", what="a column of nothing", file=items.path, column=name, remedy=remedy)
    if pa.types.is_floating(values.type):
        remedy = "numbers must be finite; leave the cell empty if it is unknown"
        yield from offending(stops, "no finite number", *where, pc.invert(pc.is_finite(values)), values, remedy)
    if is_point(values.type):
        remedy = "a latitude lies between -90 and 90 degrees, a longitude between -180 and 180"
        yield from offending(stops, "no place on Earth", *where, outside(degrees_of(values)), values, remedy)
    if not _is_text(values.type) or name in config.multi_valued:
        return
    number = pc.match_substring_regex(values, NUMBER)
    share = (pc.sum(number).as_py() or 0) / max(len(values) - values.null_count, 1)
    if share == 1:
        infinite = pc.match_substring_regex(values, r"^\s*[+-]?(nan|inf)", ignore_case=True)
        remedy = "numbers must be finite; leave the cell empty if it is unknown"
        yield from offending(stops, "no finite number", *where, infinite, values, remedy)
    elif name in config.numbers:
        remedy = "write a number, or leave the cell empty"
        yield from offending(stops, "no number", *where, pc.invert(number), values, remedy)
    elif share >= 0.5:
        remedy = f"all are read as text, and no filter can say {name} < 5; write numbers, or leave the cell empty"
        yield from offending(
            "worth knowing", "mixed types: text among numbers", *where, pc.invert(number), values, remedy
        )
    other = next((one for one in SEPARATORS if one != config.separator and _parted(items, name, one)), None)
    if other and name not in config.multi_valued:
        remedy = (
            f"one separator holds for all columns; part these by {config.separator!r} too, or set separator={other}"
        )
        holding = pc.match_substring(values, other)
        yield from offending("worth knowing", "lists that are read as text", *where, holding, values, remedy)


def _left_out(table: _Table, config: TableConfig, payload: Payload) -> Iterator[Problem]:
    """Rows that a run reads and does not use."""
    user = table.read(read_names, config.user_column)
    kept = pc.is_in(user, value_set=payload["users"]["user_id"].combine_chunks())
    less = config.least_interactions
    yield from offending(
        *("rows left out", f"users with fewer than {less} different items", table.path, config.user_column),
        *(pc.invert(kept), user),
        "wait for more of them, or give more history",
    )
    again = len(user) - _rows_used(payload) - (len(user) - (pc.sum(kept).as_py() or 0))
    if again:
        remedy = "of repeated pairs of user and item the first counts"
        yield Problem(
            grade="rows left out", what="repeated pairs", file=table.path, column=config.item_column, count=again,
            remedy=remedy,
        )  # fmt: skip


def _rows_used(payload: Payload) -> int:
    return sum(int(payload[part].num_rows) for part in ("train", "validation", "test"))


def _counts(table: _Table, payload: Payload) -> dict[str, int]:
    return {
        "rows": table.table.num_rows,
        "rows used": _rows_used(payload),
        "users": payload["users"].num_rows,
        "users left out": int(payload["about"]["users_left_out"]),
        "items": payload["items"].num_rows,
    }


def _any(truth: pa.Array) -> bool:
    return bool(pc.any(pc.fill_null(truth, False)).as_py())
