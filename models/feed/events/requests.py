"""A table of requests of a user's own, and the answers of a ranker to all of it.

A table is a Parquet or a CSV file, one row per candidate or one row per request with a list of candidates. The columns
may bear other names; `RequestsConfig` says which.

    user         required   integer or text; one whom the ranker does not know has no history
    time         required   the moment of the request: seconds since 1970 in UTC, or dates as in ISO 8601
    item         required   the candidate; or a list of candidates, in CSV as text parted by a separator
    session      optional   integer or text; requests of one user and moment are told apart by it
    categories   optional   of a candidate that the ranker does not know, in a table with one row per candidate

Rows of one user, moment and session are one request, wherever they stand. The answers have one row per candidate, in
the order of the table.
"""

# Shapes: R rows of the table, C candidates, N candidates of a request, T tasks.

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.common.configuration import check, setting
from models.common.contracts import InputError
from models.feed.events.kept import Kept, Ranking
from models.feed.events.known import Asked, AskError, Item
from models.feed.tables import flat, read_attribute, read_names, read_table, read_times, refuse_first

LATEST = 2**40
"""Moments must lie before: the year 36812."""


@dataclass(frozen=True, kw_only=True)
class RequestsConfig:
    """Where requests lie, what their columns are called, and where the answers go besides the store."""

    requests: str = setting("", "Requests file", "Path or URL of a Parquet or CSV file with requests.")
    user_column: str = setting("user", "User column", "Column that names the user.", min_length=1)
    time_column: str = setting(
        "time",
        "Time column",
        "Column with the moment of the request: seconds since 1970 in UTC, or dates as in ISO 8601.",
        min_length=1,
    )
    item_column: str = setting("item", "Item column", "Column that names the candidate, or lists them.", min_length=1)
    session_column: str = setting(
        "", "Session column", "Column that tells requests of one user and moment apart; empty: there are none."
    )
    categories_column: str = setting(
        "", "Categories column", "Column with the categories of a candidate that the ranker may not know; empty: none."
    )
    separator: str = setting(
        "|", "Separator", "What parts candidates that are listed in text, and categories.", min_length=1
    )
    listed: bool = setting(False, "Listed in text", "Whether the item column of a CSV lists candidates in one cell.")
    unknown: Literal["refuse", "categories"] = setting(
        "refuse",
        "Unknown items",
        "refuse: an item that the ranker does not know ends the run, by its row; categories: it is scored by its "
        "categories alone, also when it has none.",
    )
    export: str = setting(
        "", "Export", "Path of a Parquet file for the answers, under a data root; empty: the store alone has them."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.export and not self.export.endswith(".parquet"):
            raise ValueError(
                f"RequestsConfig.export must end in .parquet, because answers are a Parquet file, got {self.export!r}."
            )
        if self.export and normpath(self.export) == normpath(self.requests):
            raise ValueError(
                f"RequestsConfig.export must name another file than RequestsConfig.requests, because answers would "
                f"take the place of the requests, got {self.export!r} for both."
            )

    def sources(self) -> Mapping[str, str]:
        """The raw file: logical name to location."""
        return {"requests": self.requests} if self.requests else {}

    def read(self, files: Mapping[str, Path]) -> pa.Table:
        """Requests as a table with one row per candidate.

        Args:
            files: the raw file.

        Returns:
            Columns `request` (numbered by first row), `row` (of the file, from 1), `user`, `time`, `item` and
            `categories` (a list, null where nothing is said); the schema's metadata name the file.

        Raises:
            InputError: it cannot be used; the message names column and row.

        Source:
            Ours.
        """
        if "requests" not in files:
            raise InputError("RequestsConfig.requests must name a file of requests, got ''; give its path or URL.")
        path = files["requests"]
        named = [self.user_column, self.time_column, self.item_column, self.session_column, self.categories_column]
        table = read_table(path, (), needed=tuple(name for name in named if name))
        moment = read_times(path, table, self.time_column)
        wrong = pa.array((moment < 0) | (moment >= LATEST))
        refuse_first(path, self.time_column, wrong, pa.array(moment), "a moment lies between 1970 and the year 36812")
        user = read_names(path, table, self.user_column)
        session = read_names(path, table, self.session_column) if self.session_column else pa.nulls(len(user))
        row, item = self._candidates(path, table)
        categories: pa.Array = pa.nulls(len(row), pa.list_(pa.string()))
        if self.categories_column:
            told = read_attribute(path, table, self.categories_column, kind="list", separator=self.separator)
            categories = pc.cast(told, pa.list_(pa.string())).take(pa.array(row))
        key = list(zip(user.to_pylist(), moment.tolist(), session.to_pylist(), strict=True))
        numbers = {one: number for number, one in enumerate(dict.fromkeys(key))}
        found = pa.table(
            {
                "request": pa.array([numbers[key[place]] for place in row], pa.int64()),
                "row": pa.array(row + 1),
                "user": user.take(pa.array(row)),
                "time": pa.array(moment[row]),
                "item": item,
                "categories": categories,
            }
        )
        return found.replace_schema_metadata({"file": path.name, "item": self.item_column})

    def _candidates(self, path: Path, table: pa.Table) -> tuple[np.ndarray, pa.Array]:
        """Row of the file (C) and identifier (C) of every candidate."""
        column = flat(table, self.item_column)
        if self.listed:
            column = read_attribute(path, table, self.item_column, kind="list", separator=self.separator)
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            return np.arange(len(column)), read_names(path, table, self.item_column)
        empty = pc.fill_null(pc.equal(pc.list_value_length(column), 0), True)
        refuse_first(path, self.item_column, empty, column, "a request lists at least one candidate")
        row = np.asarray(pc.list_parent_indices(column), np.int64)
        one = pa.table({self.item_column: pc.list_flatten(column)})
        missing = np.flatnonzero(np.asarray(pc.is_null(one[self.item_column])))
        if len(missing):
            raise InputError(
                f"{path}, column {self.item_column!r}, row {row[missing[0]] + 1}: a candidate is empty; name it or "
                f"leave it out."
            )
        return row, read_names(path, one, self.item_column)


def answer(
    ranking: Ranking,
    requests: pa.Table,
    *,
    unknown: Literal["refuse", "categories"],
    tell: Callable[[float], None] = lambda share: None,
) -> tuple[pa.Table, dict[str, float]]:
    """Answers of a ranker to requests, user by user in the order of time, so that histories are computed once.

    Args:
        ranking: the ranker.
        requests: as `RequestsConfig.read` gives them.
        unknown: what to do with items that it does not know.
        tell: is told after each request what share of the candidates is done.

    Returns:
        The table without `categories` and with `logit_TASK` and `chance_TASK`, `place` (in the order of its request,
        from 1), `unknown` and `seen`; and what was counted: requests, candidates, candidates a second, the share of
        requests that found their history, unknown items.

    Raises:
        InputError: a row cannot be answered.

    Source:
        Ours.
    """
    began, nothing = time.perf_counter(), Kept(0)
    number = requests["request"].to_numpy()
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    groups = np.split(order, starts[1:])
    user, moment, item = (requests[name].to_pylist() for name in ("user", "time", "item"))
    kinds = [None if one is None else tuple(one) for one in requests["categories"].to_pylist()]
    size, tasks = len(order), ranking.tasks
    logit, chance = np.zeros((size, len(tasks)), np.float32), np.zeros((size, len(tasks)))
    place, strange, seen = np.zeros(size, np.int64), np.zeros(size, bool), np.zeros(size, np.int64)
    done = 0
    if unknown == "refuse":
        _refuse_unknown(ranking, requests)
    for rows in sorted(groups, key=lambda rows: (str(user[rows[0]]), moment[rows[0]])):
        first = rows[0]
        candidates = tuple(
            Item(item[row], kinds[row] if kinds[row] is not None or unknown == "refuse" else ()) for row in rows
        )
        asked = Asked(ranking.name(user[first]), None, moment[first], candidates)
        try:
            scores = ranking.rank(asked, nothing)
        except AskError as error:
            raise InputError(_where(requests, first, f"{error.field}: {error.remedy}")) from error
        logit[rows], chance[rows] = scores.logit, scores.chance
        strange[rows], seen[rows] = scores.unknown, scores.seen
        place[rows[np.argsort(-scores.logit[:, 0], kind="stable")]] = np.arange(1, len(rows) + 1)
        done += len(rows)
        tell(done / size)
    columns: dict[str, Any] = {name: requests[name] for name in ("request", "row", "user", "time", "item")}
    for column, task in enumerate(tasks):
        columns[f"logit_{task}"] = pa.array(np.ascontiguousarray(logit[:, column]))
        columns[f"chance_{task}"] = pa.array(np.ascontiguousarray(chance[:, column]))
    columns |= {"place": pa.array(place), "unknown": pa.array(strange), "seen": pa.array(seen)}
    return pa.table(columns), {
        "requests": float(len(groups)),
        "candidates": float(size),
        "candidates_per_second": size / max(time.perf_counter() - began, 1e-9),
        "cache_hit_rate": float(ranking.counts()["cache_hit_rate"]),
        "unknown_items": float(strange.sum()),
    }


def _refuse_unknown(ranking: Ranking, requests: pa.Table) -> None:
    for place, item in enumerate(requests["item"].to_pylist()):
        if not ranking.knows(item):
            raise InputError(
                _where(
                    requests,
                    place,
                    f"{item!r} is unknown to the ranker; leave the row out, or set RequestsConfig.unknown to "
                    f"'categories' to have such items scored by their categories alone",
                )
            )


def _where(requests: pa.Table, place: int, wrong: str) -> str:
    told = requests.schema.metadata or {}
    file, column = (told.get(name, b"requests").decode() for name in (b"file", b"item"))
    return f"{file}, column {column!r}, row {requests['row'][int(place)].as_py()}: {wrong}."
