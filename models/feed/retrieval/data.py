"""Where interactions and items come from, and how they are split.

A prepared data set is a payload with these parts.

    items        `item` (row, dense from 0), `item_id` (the source's own identifier), one column per attribute
    users        `user` (row, dense from 0), `user_id`
    train, validation, test    `user`, `item`, `time` (seconds since 1970, UTC), by user and then by time
    about        JSON: source, protocol, counts, and what was left out
    true_users, true_items     generator only: rows whose `utility` is the true one, so the oracle is computable
    vectors, queries           cities and given vectors only: of the indexed items, and those that ask

Protocol: leave one out. Each user's last interaction is the test, the one before it the validation, the rest is for
training. Interactions with one time keep the order of their file; of repeated (user, item) pairs the first counts.
"""

import gzip
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.feed.points import POINT
from models.feed.retrieval.days import GeneratedDay, TableDay
from models.feed.retrieval.generator import DAYS, GeneratorConfig, generate
from models.feed.retrieval.table import (
    DATE,
    Rows,
    TableConfig,
    VectorsConfig,
    file_name,
    find_items,
    join_rows,
    read_interactions,
    read_items,
    read_rows,
    read_vectors,
)
from models.feed.tables import read_attribute, read_names, read_table

Integers = NDArray[np.int64]

PROTOCOL = (
    "Leave one out by time: each user's last interaction is the test, the one before it the validation; all items are "
    "ranked, those that the user already met are not."
)
NO_GENRES = "(no genres listed)"
LEAST_TO_SPLIT = 3


@dataclass(frozen=True, kw_only=True)
class MovieLensConfig:
    """MovieLens ml-latest-small, or any MovieLens release of the same form (GroupLens licence: not for commerce)."""

    movies: str = setting(
        "catalogue:retrieval-movielens-small/movies.csv.gz", "Movies", "Path, URL or catalogue entry of movies.csv."
    )
    ratings: str = setting(
        "catalogue:retrieval-movielens-small/ratings.csv.gz", "Ratings", "Path, URL or catalogue entry of ratings.csv."
    )
    least_rating: float = setting(
        0.5,
        "Lowest rating that counts",
        "Ratings at least this high are interactions, 0.5 to 5 stars; 0.5 takes every rating as a sign of interest.",
        ge=0.5,
        le=5,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class GloveCitiesConfig:
    """200,000 GloVe word vectors; 18,705 of the words name a city with country, place and population."""

    vectors: str = setting(
        "catalogue:retrieval-glove-cities/glove50_int8.npz", "Vectors", "Path, URL or catalogue entry of the codes."
    )
    words: str = setting(
        "catalogue:retrieval-glove-cities/words.txt.gz", "Words", "Path, URL or catalogue entry of the words."
    )
    cities: str = setting(
        "catalogue:retrieval-glove-cities/cities.csv.gz", "Cities", "Path, URL or catalogue entry of the cities."
    )
    held_out: float = setting(
        0.01, "Queries held out", "Share of words kept out of the index and used as queries, 0.0001 to 0.5.",
        ge=0.0001, le=0.5,
    )  # fmt: skip
    seed: int = setting(0, "Seed", "Choice of the held-out words, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data; only the settings of the chosen source are read."""

    name: str = setting(
        "generated",
        "Name",
        "Name of the data and of the index made from them: lower case letters, digits and hyphens, 1 to 63.",
        min_length=1,
        max_length=63,
    )
    source: Literal["generator", "movielens", "glove-cities", "table", "vectors"] = setting(
        "generator",
        "Source",
        "A generated world, MovieLens ratings, GloVe words with cities, a table of your own, or your own vectors.",
    )
    generator: GeneratorConfig = setting(GeneratorConfig, "Generator", "The generated world, when it is the source.")
    movielens: MovieLensConfig = setting(MovieLensConfig, "MovieLens", "Its files, when it is the source.")
    cities: GloveCitiesConfig = setting(GloveCitiesConfig, "GloVe and cities", "Their files, when they are the source.")
    table: TableConfig = setting(TableConfig, "Own table", "Your files and columns, when they are the source.")
    vectors: VectorsConfig = setting(VectorsConfig, "Own vectors", "Your file of vectors, when it is the source.")

    def __post_init__(self) -> None:
        check(self)
        if not all(part.isalnum() and part.isascii() and part == part.lower() for part in self.name.split("-")):
            raise ValueError(
                f"DataConfig.name must be lower case letters, digits and single hyphens, got {self.name!r}."
            )
        if self.source == "table" and not self.table.interactions:
            raise ValueError(
                "DataConfig.table.interactions must name a file when the source is 'table', got ''; "
                "give its path or URL."
            )
        if self.source == "vectors" and not self.vectors.items:
            raise ValueError(
                "DataConfig.vectors.items must name a file when the source is 'vectors', got ''; give its path or URL."
            )

    def sources(self) -> Mapping[str, str]:
        """Raw files of the chosen source: logical name to location; of a file for each day, those that all share."""
        if self.source == "movielens":
            return {"movies": self.movielens.movies, "ratings": self.movielens.ratings}
        if self.source == "glove-cities":
            return {"vectors": self.cities.vectors, "words": self.cities.words, "cities": self.cities.cities}
        if self.source == "vectors":
            return {"items": self.vectors.items}
        if self.source == "table":
            files = {"interactions": self.table.interactions, "items": self.table.items}
            return {name: location for name, location in files.items() if location and DATE not in location}
        return {}

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate and arrange the raw files; raises `InputError`."""
        if self.source == "movielens":
            return prepare_movielens(self.movielens, files["movies"], files["ratings"])
        if self.source == "glove-cities":
            return prepare_cities(self.cities, files["vectors"], files["words"], files["cities"])
        if self.source == "vectors":
            return prepare_vectors(self.vectors, files["items"])
        if self.source == "table":
            if DATE in self.table.interactions:
                raise InputError(
                    f"{file_name(self.table.interactions)} is one file for each day; run a flow that takes in days, "
                    "or name one file for all days in DataConfig.table.interactions."
                )
            return prepare_table(self.table, files["interactions"], files.get("items"))
        return prepare_generated(self.generator)

    def day(self, date: date) -> TableDay | GeneratedDay:
        """One day of the chosen source; raises `InputError` when it has none."""
        if self.source == "generator":
            return GeneratedDay(data=self.name, date=date.isoformat(), generator=self.generator)
        if self.source != "table" or DATE not in self.table.interactions:
            named = f"DataConfig.source is {self.source!r}"
            if self.source == "table":
                named = f"DataConfig.table.interactions is {file_name(self.table.interactions)!r}"
            raise InputError(
                f"{named}, which has no days; name one file for each day of a table, "
                f"as in PATH/interactions-{DATE}.csv."
            )
        return TableDay(
            data=self.name,
            date=date.isoformat(),
            interactions=self.table.interactions.replace(DATE, date.isoformat()),
            user_column=self.table.user_column,
            item_column=self.table.item_column,
            time_column=self.table.time_column,
        )

    def assemble(self, days: Mapping[str, Payload], files: Mapping[str, Path]) -> Payload:
        """The dataset of all given days; raises `InputError`."""
        if self.source == "generator":
            return assemble_generated(self.generator, days)
        return assemble_table(self.table, days, files.get("items"))


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of a table of interactions by what they are for, each by user and then by time; `users` are who is left."""

    train: Integers
    validation: Integers
    test: Integers
    users: Integers


def leave_one_out(user: Integers, item: Integers, time: Integers, *, least: int = LEAST_TO_SPLIT) -> Split:
    """Split interactions by user and time.

    Args:
        user: dense user of each row.
        item: dense item of each row.
        time: moment of each row; rows of one moment keep their order.
        least: users with fewer different items are left out; three or more.

    Returns:
        Row numbers of each part, and the users that are left, rising.

    Raises:
        ValueError: least is below three.

    Source:
        Leave-one-out as in He et al. 2017 (NCF, section 4.1) and Kang & McAuley 2018 (SASRec, section IV-A), ranked
        among all items.
    """
    if least < LEAST_TO_SPLIT:
        raise ValueError(
            f"least must be at least {LEAST_TO_SPLIT}: one row each to train, validate, test; got {least}."
        )
    order = np.lexsort((time, user))
    pair = user[order] * (int(item.max(initial=0)) + 1) + item[order]
    first = np.sort(np.unique(pair, return_index=True)[1])
    rows = order[first]
    count = np.bincount(user[rows], minlength=1)
    rows = rows[count[user[rows]] >= least]
    if not len(rows):
        empty = np.zeros(0, np.int64)
        return Split(train=empty, validation=empty, test=empty, users=empty)
    ends = np.append(np.flatnonzero(np.diff(user[rows])), len(rows) - 1)
    train = np.ones(len(rows), bool)
    train[ends] = train[ends - 1] = False
    return Split(train=rows[train], validation=rows[ends - 1], test=rows[ends], users=user[rows[ends]])


def prepare_generated(config: GeneratorConfig) -> Payload:
    """A generated world as a data set; with its truth.

    Args:
        config: the world.

    Returns:
        The payload; see the module.

    Source:
        Ours.
    """
    world = generate(config)
    split = leave_one_out(world.user, world.item, world.time)
    one = np.ones((*world.taste.shape[:-1], 1))
    return {
        **_parts(split, world.user, world.item, world.time),
        "items": _with_row(world.items.add_column(0, "item_id", pa.array(np.arange(config.items)))),
        "users": pa.table({"user": np.arange(config.users), "user_id": np.arange(config.users)}),
        "true_users": np.concatenate([world.taste, one], -1).astype(np.float32)[split.users],
        "true_items": np.concatenate([world.trait, world.appeal[:, None]], 1).astype(np.float32),
        "about": _about("generator", split, world.items, left_out=config.users - len(split.users)),
    }


def assemble_generated(config: GeneratorConfig, days: Mapping[str, Payload]) -> Payload:
    """Days of a generated world as a data set; with its truth when no day is missing.

    Until the last day the truth is no oracle: some items are not born yet, and she who ranks them by utility loses.

    Args:
        config: the world.
        days: prepared days by their dates.

    Returns:
        The payload; see the module. Of all days it is what `prepare_generated` gives.

    Raises:
        InputError: too little is left to split.

    Source:
        Ours.
    """
    table = pa.concat_tables([days[day]["interactions"] for day in sorted(days)])
    user, item, time = (np.asarray(table[name].to_numpy(), np.int64) for name in ("user", "item", "time"))
    split = leave_one_out(user, item, time)
    whole = prepare_generated(config)
    described = whole["items"].drop_columns(["item"])
    payload = _assemble("generator", split, user, item, time, pa.array(np.arange(config.users)), described)
    if len(days) < DAYS:
        return payload
    return {**payload, "true_users": whole["true_users"], "true_items": whole["true_items"]}


def prepare_movielens(config: MovieLensConfig, movies: Path, ratings: Path) -> Payload:
    """MovieLens as a data set.

    Attributes are title, year (from the title, may be null), genres (a list, may be empty), rating_count and
    mean_rating. The last two are computed from each user's ratings before that user's validation item, so that
    nothing of what is held out reaches an attribute.

    Args:
        config: which ratings count as interactions.
        movies: movies.csv, packed or not: movieId, title, genres.
        ratings: ratings.csv, packed or not: userId, movieId, rating, timestamp.

    Returns:
        The payload; see the module.

    Raises:
        InputError: a file cannot be used.

    Source:
        Data: Harper & Konstan 2015, "The MovieLens Datasets: History and Context".
    """
    listed = read_table(movies, ("movieId", "title", "genres"))
    identifiers = read_names(movies, listed, "movieId")
    columns = TableConfig(user_column="userId", item_column="movieId", time_column="timestamp")
    found, _ = read_interactions(ratings, columns, pa.table({"item_id": identifiers}))
    rated = read_table(ratings, ("rating",))
    star = read_attribute(ratings, rated, "rating", kind="number")
    if star.null_count:
        row = int(np.flatnonzero(np.asarray(star.is_null()))[0]) + 1
        raise InputError(f"{ratings}, column 'rating', row {row}: no value; give 0.5 to 5 stars.")
    stars = np.asarray(pc.cast(star, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    names = pc.unique(found.user).sort()
    user = np.asarray(pc.index_in(found.user, value_set=names).to_numpy(zero_copy_only=False), np.int64)

    liked = np.flatnonzero(stars >= config.least_rating)
    part = leave_one_out(user[liked], found.item[liked], found.time[liked])
    split = Split(train=liked[part.train], validation=liked[part.validation], test=liked[part.test], users=part.users)
    before = _before_held_out(user, found.time, split)
    count = np.bincount(found.item[before], minlength=len(identifiers))
    total = np.bincount(found.item[before], weights=stars[before], minlength=len(identifiers))
    title = pc.utf8_trim_whitespace(listed["title"].combine_chunks())
    year = pc.struct_field(pc.extract_regex(title, r"\((?P<year>\d{4})\)$"), "year")
    genres = [
        [] if text in (None, NO_GENRES) else [name for name in text.split("|") if name]
        for text in listed["genres"].to_pylist()
    ]
    items = pa.table(
        {
            "item_id": identifiers,
            "title": title,
            "year": pc.cast(year, pa.int64()),
            "genres": pa.array(genres, pa.list_(pa.string())),
            "rating_count": pa.array(count, pa.int64()),
            "mean_rating": pa.array(np.round(total / np.maximum(count, 1), 4), pa.float64(), mask=count == 0),
        }
    )
    return _assemble("movielens", split, user, found.item, found.time, names, items)


def _before_held_out(user: Integers, time: Integers, split: Split) -> NDArray[np.bool_]:
    """Rows strictly before the validation row in their user's order; all rows of users who are left out."""
    order = np.lexsort((time, user))
    place = np.empty(len(user), np.int64)
    place[order] = np.arange(len(user))
    limit = np.full(int(user.max()) + 1, len(user))
    limit[split.users] = place[split.validation]
    return np.asarray(place < limit[user])


def prepare_table(config: TableConfig, interactions: Path, items: Path | None) -> Payload:
    """A user's own tables as a data set.

    Args:
        config: names of the columns.
        interactions: who met what, when.
        items: attributes of the items; None for items without.

    Returns:
        The payload; see the module.

    Raises:
        InputError: a file cannot be used, or too little is left to split.

    Source:
        Ours.
    """
    return _arrange(config, read_rows(interactions, config), items, str(interactions))


def assemble_table(config: TableConfig, days: Mapping[str, Payload], items: Path | None) -> Payload:
    """Days of a user's own table as a data set.

    Args:
        config: names of the columns.
        days: prepared days by their dates.
        items: attributes of the items; None for items without.

    Returns:
        The payload; see the module. It is what `prepare_table` gives for one file with the same rows.

    Raises:
        InputError: an item is unknown, or too little is left to split.

    Source:
        Ours.
    """
    parts = [
        Rows(
            table=days[day]["interactions"],
            files=((config.interactions.replace(DATE, day), days[day]["about"]["rows"]),),
        )
        for day in sorted(days)
    ]
    return _arrange(config, join_rows(parts), items, config.interactions)


def _arrange(config: TableConfig, rows: Rows, items: Path | None, interactions: str) -> Payload:
    """Interactions and the items file as a data set."""
    described = None if items is None else read_items(items, config)
    found, known = find_items(rows, config, described)
    names = pc.unique(found.user).sort()
    user = np.asarray(pc.index_in(found.user, value_set=names).to_numpy(zero_copy_only=False), np.int64)
    split = leave_one_out(user, found.item, found.time, least=config.least_interactions)
    if not len(split.users):
        raise InputError(
            f"{interactions}, column {config.user_column!r}: none of {len(names)} users met "
            f"{config.least_interactions} different items; give more interactions or lower least_interactions."
        )
    described = pa.table({"item_id": known}) if described is None else described
    return _assemble("table", split, user, found.item, found.time, names, described)


def prepare_cities(config: GloveCitiesConfig, vectors: Path, words: Path, cities: Path) -> Payload:
    """GloVe word vectors with what is known of each word, a share of the rows held out as queries.

    Words that name no city have null for the attributes of a city; its latitude and longitude are also one, `place`.

    Args:
        config: share and seed of the held-out words.
        vectors: npz with `codes` int8 (N, d) and `scale` float32 (N); a vector is codes * scale.
        words: one word per line, packed or not.
        cities: CSV with row, word, country, latitude, longitude, population, timezone.

    Returns:
        The payload: items, vectors, queries, about.

    Raises:
        InputError: a file cannot be used.

    Source:
        Vectors: Pennington et al. 2014, GloVe 6B. Cities: GeoNames, CC BY 4.0.
    """
    rows_Nd = _read_codes(vectors)
    spelled = _read_words(words)
    if len(spelled) != len(rows_Nd):
        raise InputError(f"{words} has {len(spelled)} words, {vectors} has {len(rows_Nd)} rows; they must be as many.")
    table = read_table(cities, ("row", "word", "country", "latitude", "longitude", "population", "timezone"))
    row = read_attribute(cities, table, "row", kind="number")
    known = np.asarray(pc.fill_null(row, -1).to_numpy(zero_copy_only=False), np.int64)
    for place, (at, word) in enumerate(zip(known, table["word"].to_pylist(), strict=True)):
        if not 0 <= at < len(spelled) or spelled[at] != word:
            raise InputError(
                f"{cities}, column 'row', row {place + 1}: {at} is not the row of {word!r} in {words}; "
                f"take all three files from one release."
            )
    reverse = np.full(len(spelled), -1)
    reverse[known] = np.arange(len(known))
    where = pa.array(reverse, pa.int64(), mask=reverse < 0)
    columns: dict[str, Any] = {
        "item_id": pa.array(np.arange(len(spelled))),
        "word": pa.array(spelled, pa.string()),
        "rank": pa.array(np.arange(len(spelled))),
        "length": pa.array([len(word) for word in spelled], pa.int64()),
        "first_letter": pa.array([word[0] for word in spelled], pa.string()),
        "has_digit": pa.array([any(c.isdigit() for c in word) for word in spelled], pa.bool_()),
        "has_hyphen": pa.array(["-" in word for word in spelled], pa.bool_()),
        "is_ascii": pa.array([word.isascii() for word in spelled], pa.bool_()),
    }
    city = {
        name: read_attribute(cities, table, name, kind="any" if name in ("country", "timezone") else "number")
        for name in ("country", "latitude", "longitude", "population", "timezone")
    }
    parts = [city[field.name].cast(field.type) for field in POINT]
    places = pa.table({"place": pa.StructArray.from_arrays(parts, fields=list(POINT))})
    city["place"] = read_attribute(cities, places, "place")
    columns |= {name: values.take(where) for name, values in city.items()}
    order = np.random.default_rng(config.seed).permutation(len(spelled))
    held = np.sort(order[: max(1, round(config.held_out * len(spelled)))])
    kept = np.setdiff1d(np.arange(len(spelled)), held)
    items = pa.table(columns).take(pa.array(kept))
    return {
        "items": _with_row(items),
        "vectors": rows_Nd[kept],
        "queries": rows_Nd[held],
        "about": {
            "source": "glove-cities",
            "protocol": "A seeded share of the words is held out of the index and serves as queries.",
            "items": len(kept),
            "queries": len(held),
            "attributes": {name: str(items.schema.field(name).type) for name in items.column_names[1:]},
        },
    }


def prepare_vectors(config: VectorsConfig, items: Path) -> Payload:
    """Items with vectors of their own; each asks by its own vector or by another that stands beside it.

    Args:
        config: names of the columns.
        items: one row per item.

    Returns:
        The payload: items, vectors, queries, about.

    Raises:
        InputError: the file cannot be used.

    Source:
        Ours.
    """
    vectors = read_vectors(items, config.vector_column)
    queries = read_vectors(items, config.query_column) if config.query_column else vectors
    if queries.shape != vectors.shape:
        raise InputError(
            f"{items}: vectors of column {config.query_column!r} have {queries.shape[1]} numbers, those of "
            f"{config.vector_column!r} {vectors.shape[1]}; an inner product needs as many."
        )
    without = (config.vector_column, config.query_column)
    described = read_items(items, TableConfig(item_column=config.item_column), without)
    return {
        "items": _with_row(described),
        "vectors": vectors,
        "queries": queries,
        "about": {
            "source": "vectors",
            "protocol": "The vectors are given, and nothing is trained; the items ask for one another.",
            "items": len(vectors),
            "queries": len(queries),
            "attributes": {name: str(described.schema.field(name).type) for name in described.column_names[1:]},
        },
    }


def _read_codes(path: Path) -> NDArray[np.float32]:
    """Unit vectors from codes and scales."""
    try:
        with np.load(path, allow_pickle=False) as parts:
            codes, scale = parts["codes"], parts["scale"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no npz file with 'codes' and 'scale' ({error}); copy it again.") from error
    if codes.ndim != 2 or scale.shape != codes.shape[:1]:
        raise InputError(f"{path} has codes {codes.shape} and scale {scale.shape}; expected (N, d) and (N,).")
    vectors = codes.astype(np.float32) * scale[:, None].astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(wrong):
        raise InputError(
            f"{path}, row {wrong[0] + 1}: its vector has norm {norms[wrong[0]]}; make it finite, not zero."
        )
    return np.asarray(vectors / norms[:, None], np.float32)


def _read_words(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as lines of UTF-8 text ({error}); copy it again.") from error
    words = text.removesuffix("\n").split("\n")
    if "" in words:
        raise InputError(f"{path}, line {words.index('') + 1} is empty; every line must hold a word.")
    return words


def _assemble(
    source: str, split: Split, user: Integers, item: Integers, time: Integers, names: pa.Array, items: pa.Table
) -> Payload:
    if not len(split.users):
        raise InputError(
            f"No user of the {source} data has {LEAST_TO_SPLIT} interactions with different items; give more of them."
        )
    dense = np.full(len(names), -1)
    dense[split.users] = np.arange(len(split.users))
    return {
        **_parts(split, dense[user], item, time),
        "items": _with_row(items),
        "users": pa.table({"user": np.arange(len(split.users)), "user_id": names.take(pa.array(split.users))}),
        "about": _about(source, split, items, left_out=len(names) - len(split.users)),
    }


def _with_row(items: pa.Table) -> pa.Table:
    """Add the dense row number as the first column."""
    return items.add_column(0, "item", pa.array(np.arange(items.num_rows)))


def _parts(split: Split, user: Integers, item: Integers, time: Integers) -> dict[str, pa.Table]:
    rows = {"train": split.train, "validation": split.validation, "test": split.test}
    return {name: pa.table({"user": user[at], "item": item[at], "time": time[at]}) for name, at in rows.items()}


def _about(source: str, split: Split, items: pa.Table, *, left_out: int) -> dict[str, Any]:
    names = [name for name in items.column_names if name != "item_id"]
    return {
        "source": source,
        "protocol": PROTOCOL,
        "users": len(split.users),
        "users_left_out": left_out,
        "items": items.num_rows,
        "train": len(split.train),
        "attributes": {name: str(items.schema.field(name).type) for name in names},
        "empty": {name: int(items[name].null_count) for name in names},
    }


def index_ids(data: Payload) -> Integers:
    """The identifiers under which items are indexed: the source's own if all are integers from 0, else the rows."""
    named = data["items"]["item_id"]
    own = pa.types.is_integer(named.type) and pc.min(named).as_py() >= 0
    return np.array((named if own else data["items"]["item"]).to_numpy(), np.int64)
