"""Public logs in the forms in which they are published, as `Events`.

None of the data come with this project: GroupLens and UCSD allow research use and no redistribution.

    movielens_atomic   MovieLens in RecBole's atomic files: .inter, .item, .user
    movielens_csv      MovieLens as GroupLens publishes it: ratings.csv, movies.csv
    item_sequences     one user a line, the items oldest first: the files of S3-Rec
    open_bandit        Open Bandit: what was shown where, with which propensity, and whether it was clicked

Every file may be packed with gzip. MovieLens ratings are not impressions: nobody knows what was shown and skipped, and
within a session the order is that of the page on which people rated.
"""

import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from models.common.contracts import InputError
from models.feed.events.table import (
    NO_TABLE,
    SESSION_GAP,
    Events,
    arrange,
    read_response,
)
from models.feed.tables import flat, read_attribute, read_names, read_table, read_times, refuse_first, type_names

LIKED = 4.0
"""Stars from which a rating counts as a positive response; 55.4 % of MovieLens 100K."""
NO_GENRES = "(no genres listed)"
BANDIT_FEATURES = tuple(f"user_feature_{number}" for number in range(4))


def read_text(path: Path) -> str:
    """A file of UTF-8 text, packed with gzip or not.

    Args:
        path: the file.

    Returns:
        Its text.

    Raises:
        InputError: the file is missing, empty, damaged or not UTF-8.

    Source:
        Ours.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give the path of a text file, packed with gzip or not.")
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is a damaged or truncated gzip file ({error}); copy it again.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8 text: line {line} has the byte 0x{raw[error.start]:02x}; save it as UTF-8."
        ) from error
    if not text.strip():
        raise InputError(f"{path} is empty; copy it again.")
    return text


def read_atomic(path: Path, needed: tuple[str, ...] = ()) -> pa.Table:
    """An atomic file of RecBole: tab-separated, the header `name:type`.

    Types: token is kept as text, token_seq becomes a list of text parted by spaces, float becomes float64, float_seq a
    list of float64. Empty cells are null, an empty list for the lists.

    Args:
        path: the file.
        needed: columns that must be there.

    Returns:
        The table under the names without types.

    Raises:
        InputError: the file cannot be used.

    Source:
        The form is that of Zhao et al. 2021, "RecBole: Towards a Unified, Comprehensive and Efficient Framework for
        Recommendation Algorithms".
    """
    lines = [line.removesuffix("\r").split("\t") for line in read_text(path).split("\n") if line.strip("\r")]
    header = [cell.rpartition(":") for cell in lines[0]]
    names = [name for name, _, _ in header]
    for cell, (name, _, kind) in zip(lines[0], header, strict=True):
        if not name or kind not in ("token", "token_seq", "float", "float_seq"):
            raise InputError(
                f"{path}, header: {cell!r} is no column of an atomic file; write NAME:TYPE with token, token_seq, "
                f"float or float_seq, parted by tabs."
            )
        if names.count(name) > 1:
            raise InputError(f"{path} names the column {name!r} twice; rename one.")
    for name in needed:
        if name not in names:
            raise InputError(f"{path} has no column {name!r}; it has {names}. Rename the column.")
    for row, cells in enumerate(lines[1:], 1):
        if len(cells) != len(names):
            raise InputError(f"{path}, row {row}: {len(cells)} cells; every row needs {len(names)}, parted by tabs.")
    if len(lines) < 2:
        raise InputError(f"{path} has a header but no rows; give at least one row.")
    columns = {}
    for place, (name, _, kind) in enumerate(header):
        cells = [line[place] for line in lines[1:]]
        columns[name] = _typed(path, name, kind, cells)
    return pa.table(columns)


def _typed(path: Path, name: str, kind: str, cells: list[str]) -> pa.Array:
    if kind == "token":
        return pa.array([cell or None for cell in cells], pa.string())
    if kind == "token_seq":
        return pa.array([cell.split() for cell in cells], pa.list_(pa.string()))
    try:
        if kind == "float":
            return pa.array([float(cell) if cell else None for cell in cells], pa.float64())
        return pa.array([[float(part) for part in cell.split()] for cell in cells], pa.list_(pa.float64()))
    except ValueError as error:
        row = next(row for row, cell in enumerate(cells, 1) if not _is_number(cell))
        raise InputError(
            f"{path}, column {name!r}, row {row}: {cells[row - 1]!r} is no number; write numbers or leave it empty."
        ) from error


def _is_number(cell: str) -> bool:
    try:
        return bool([float(part) for part in cell.split()]) or not cell
    except ValueError:
        return False


def movielens_atomic(
    inter: Path, item: Path | None = None, user: Path | None = None, *, liked: float = LIKED, gap: int = SESSION_GAP
) -> Events:
    """MovieLens in RecBole's atomic files.

    Args:
        inter: user_id, item_id, rating, timestamp.
        item: item_id, movie_title, release_year, class (the genres); None for items without attributes.
        user: user_id, age, gender, occupation, zip_code; None for users without.
        liked: stars from which a rating is a positive response.
        gap: longest pause inside a session, in seconds.

    Returns:
        Events of one task, `liked`. Attributes of items: title, year, genres. The stars are an event attribute,
        `rating`.

    Raises:
        InputError: a file cannot be used.

    Source:
        Data: Harper & Konstan 2015, "The MovieLens Datasets: History and Context".
    """
    table = read_atomic(inter, ("user_id", "item_id", "rating", "timestamp"))
    stars = read_response(inter, table, "rating")
    items, item_ids = NO_TABLE, None
    if item is not None:
        listed = read_atomic(item, ("item_id",))
        item_ids = read_names(item, listed, "item_id")
        called = {"movie_title": "title", "release_year": "year", "class": "genres"}
        items = _attributes(item, listed, "item_id", called)
    users, user_ids = NO_TABLE, None
    if user is not None:
        listed = read_atomic(user, ("user_id",))
        user_ids = read_names(user, listed, "user_id")
        users = _attributes(user, listed, "user_id", {})
    return _movielens(
        inter, table, ("user_id", "item_id", "timestamp"), stars, liked, gap, item_ids, items, user_ids, users
    )


def movielens_csv(ratings: Path, movies: Path | None = None, *, liked: float = LIKED, gap: int = SESSION_GAP) -> Events:
    """MovieLens as GroupLens publishes it since 2015.

    Args:
        ratings: userId, movieId, rating, timestamp.
        movies: movieId, title, genres; None for items without attributes.
        liked: stars from which a rating is a positive response.
        gap: longest pause inside a session, in seconds.

    Returns:
        Events of one task, `liked`. Attributes of items: title, year (from the title, may be null), genres. The stars
        are an event attribute, `rating`.

    Raises:
        InputError: a file cannot be used.

    Source:
        Data: Harper & Konstan 2015, "The MovieLens Datasets: History and Context".
    """
    table = read_table(ratings, ("userId", "movieId", "rating", "timestamp"))
    stars = read_response(ratings, table, "rating")
    items, item_ids = NO_TABLE, None
    if movies is not None:
        listed = read_table(movies, ("movieId", "title", "genres"))
        item_ids = read_names(movies, listed, "movieId")
        title = pc.utf8_trim_whitespace(flat(listed, "title"))
        year = pc.struct_field(pc.extract_regex(title, r"\((?P<year>\d{4})\)$"), "year")
        genres = [
            [] if text in (None, NO_GENRES) else [name for name in text.split("|") if name]
            for text in listed["genres"].to_pylist()
        ]
        items = pa.table(
            {"title": title, "year": pc.cast(year, pa.int64()), "genres": pa.array(genres, pa.list_(pa.string()))}
        )
    columns = ("userId", "movieId", "timestamp")
    return _movielens(ratings, table, columns, stars, liked, gap, item_ids, items, None, NO_TABLE)


def _movielens(
    path: Path,
    table: pa.Table,
    columns: tuple[str, str, str],
    stars: np.ndarray[Any, np.dtype[np.float32]],
    liked: float,
    gap: int,
    item_ids: pa.Array | None,
    items: pa.Table,
    user_ids: pa.Array | None,
    users: pa.Table,
) -> Events:
    user = _known(path, columns[0], read_names(path, table, columns[0]), user_ids)
    item = _known(path, columns[1], read_names(path, table, columns[1]), item_ids)
    return arrange(
        user=user,
        item=item,
        time=read_times(path, table, columns[2]),
        actions={"liked": stars >= liked},
        gap=gap,
        item_ids=item_ids,
        item_attributes=items,
        user_ids=user_ids,
        user_attributes=users,
        event_attributes=pa.table({"rating": pa.array(stars)}),
    )


def _known(path: Path, column: str, values: pa.Array, known: pa.Array | None) -> pa.Array:
    """Identifiers in the type of a file of all of them; refuses one that is not there."""
    if known is None:
        return values
    values = values if values.type == known.type else pc.cast(values, known.type)
    unknown = pc.is_null(pc.index_in(values, value_set=known))
    refuse_first(path, column, unknown, values, "the other file has no such row; take both from one release")
    return values


def _attributes(path: Path, table: pa.Table, key: str, called: dict[str, str]) -> pa.Table:
    names = [name for name in table.column_names if name != key]
    columns = {called.get(name, name): read_attribute(path, table, name) for name in names}
    return pa.table(columns) if columns else NO_TABLE


def item_sequences(path: Path, attributes: Path | None = None) -> Events:
    """One user a line: the user, then the items, oldest first, parted by spaces.

    The file has no times: `time` is the number of the event in the file, `timed` is false, and every event is a
    session of its own. Every event is a positive response to the task `event`.

    Args:
        path: the file; identifiers are integers or text without spaces.
        attributes: JSON, item to a list of attributes; None for items without.

    Returns:
        Events; the attributes are the item attribute `attributes`, a list, empty for an item that the file lacks.

    Raises:
        InputError: a file cannot be used.

    Source:
        The form is that of the data of Zhou et al. 2020, "S3-Rec: Self-Supervised Learning for Sequential
        Recommendation with Mutual Information Maximization"; reviews of McAuley et al. 2015.
    """
    users: list[str] = []
    lengths: list[int] = []
    items: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) < 2:
            raise InputError(f"{path}, line {number}: {line!r} names a user and no item; drop the line.")
        users.append(cells[0])
        lengths.append(len(cells) - 1)
        items += cells[1:]
    user_ids = type_names(pa.array(users, pa.string()))
    if len(pc.unique(user_ids)) < len(users):
        codes = np.asarray(pc.dictionary_encode(user_ids).indices)
        place = int(np.setdiff1d(np.arange(len(users)), np.unique(codes, return_index=True)[1])[0])
        raise InputError(f"{path}: user {users[place]!r} has two lines; a user has one, merge them.")
    user = user_ids.take(pa.array(np.repeat(np.arange(len(users)), lengths)))
    item = type_names(pa.array(items, pa.string()))
    item_ids = pc.unique(item).sort()
    return arrange(
        user=user,
        item=item,
        time=np.arange(len(items)),
        actions={"event": np.ones(len(items))},
        timed=False,
        item_ids=item_ids,
        item_attributes=NO_TABLE if attributes is None else _read_lists(attributes, item_ids),
    )


def _read_lists(path: Path, item_ids: pa.Array) -> pa.Table:
    try:
        listed = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}); it must map each item to a list of attributes.") from error
    if not isinstance(listed, dict):
        raise InputError(f"{path} holds a {type(listed).__name__}; it must map each item to a list of attributes.")
    for name, values in listed.items():
        if not isinstance(values, list) or not all(isinstance(value, int | str) for value in values):
            raise InputError(f"{path}: item {name!r} has {values!r}; write a list of integers or words.")
    rows = [[str(value) for value in listed.get(str(name), [])] for name in item_ids.to_pylist()]
    return pa.table({"attributes": pa.array(rows, pa.list_(pa.string()))})


def open_bandit(log: Path, items: Path | None = None) -> Events:
    """A log of the Open Bandit Dataset.

    The published rows are a sample, so the three slots of one page cannot be put together again: every event is a
    session of its own. There are no users either: events with the same four features count as one user, which is a
    group of people.

    Args:
        log: timestamp, item_id, position (1 to 3), click, propensity_score, user_feature_0 to 3.
        items: item_id and features of each item; None for items without.

    Returns:
        Events of one task, `click`; `position` from 0. Event attributes: `propensity`, the chance with which the
        logging policy put this item into this slot, and every other numeric column of the log.

    Raises:
        InputError: a file cannot be used, or a propensity is not above 0 and at most 1.

    Source:
        Data: Saito et al. 2021, "Open Bandit Dataset and Pipeline: Towards Realistic and Reproducible Off-Policy
        Evaluation".
    """
    needed = ("timestamp", "item_id", "position", "click", "propensity_score", *BANDIT_FEATURES)
    table = read_table(log, (), needed=needed)
    propensity = read_attribute(log, table, "propensity_score", kind="number")
    chance = np.asarray(pc.fill_null(pc.cast(propensity, pa.float64()), 0).to_numpy(zero_copy_only=False))
    wrong = ~((chance > 0) & (chance <= 1))
    refuse_first(log, "propensity_score", pa.array(wrong), propensity, "a propensity is above 0 and at most 1")
    slot = read_response(log, table, "position")
    wrong = (slot != np.floor(slot)) | (slot < 1) | (slot > 2**15)
    refuse_first(log, "position", pa.array(wrong), flat(table, "position"), "positions are counted from 1")
    click = read_response(log, table, "click")
    refuse_first(log, "click", pa.array(~np.isin(click, (0, 1))), flat(table, "click"), "a click is 0 or 1")
    group = pc.binary_join_element_wise(
        *(pc.cast(flat(table, name), pa.string()) for name in BANDIT_FEATURES),
        "/",
        null_handling="replace",
        null_replacement="",
    )
    extra: dict[str, pa.Array] = {"propensity": pc.cast(propensity, pa.float64())}
    for name in table.column_names:
        if re.fullmatch(r"user-item_affinity_\d+", name):
            extra[name] = pc.cast(read_attribute(log, table, name, kind="number"), pa.float64())
    described, item_ids = NO_TABLE, None
    item = read_names(log, table, "item_id")
    if items is not None:
        listed = read_table(items, (), needed=("item_id",))
        item_ids = read_names(items, listed, "item_id")
        listed = listed.select([name for name in listed.column_names if name])
        described = _attributes(items, listed, "item_id", {})
        item = _known(log, "item_id", item, item_ids)
    return arrange(
        user=group,
        item=item,
        time=read_times(log, table, "timestamp"),
        actions={"click": click},
        session=np.arange(table.num_rows),
        position=slot - 1,
        item_ids=item_ids,
        item_attributes=described,
        event_attributes=pa.table(extra),
    )
