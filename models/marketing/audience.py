"""Audience expansion by look-alikes: seeds ask a published index for their neighbours, the best of these are chosen.

    score(m) = mean of the `best` largest cosines of member m to seeds, over the lists in which seeds asked

Members are the items of the index, seeds are among them, and their vectors are the index's own. A stored expansion is a
payload with these parts.

    answers      `member` and `score` of who was chosen, best first
    items        (N) `item` of every member by its identifier; `popularity` where the index knows it, and `chance` to
                 convert where seeds are generated
    seeds        (S) places of the seeds among the items
    queries      (S, D) their vectors
    places       (S, K) places of their neighbours, best first, -1 where there are no more
    scores       (S, K) cosines
    about        JSON: what was asked, how many members a list holds
"""

# Shapes: N members, S seeds, D dimension, K neighbours of a seed.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload, Searcher
from models.common.identifiers import places_of
from models.common.tables import read_table, read_written_names
from models.marketing.adaptive.lookalikes import best_neighbours, expand

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LENGTH_OFF = 1e-3
"""How far the length of a member's vector may be from one: the index compares by inner products, we by cosines."""


@dataclass(frozen=True, kw_only=True)
class GeneratedSeedsConfig:
    """Members of the index who convert by chance, and the likelier the better something suits their vector."""

    seeds: int = setting(150, "Seeds", "How many convert on average, 2 to 1000000.", ge=2, le=1_000_000)
    tastes: int = setting(
        2, "Tastes", "Hidden directions; the best of them counts for a member, 1 to 100.", ge=1, le=100
    )
    sharpness: float = setting(
        2.5,
        "Sharpness",
        "Log odds to convert per standard deviation of how well it suits, 0 to 20; 0: chance alone.",
        ge=0,
        le=20,
    )
    seed: int = setting(0, "Seed", "Of tastes and conversions, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class SeedsTableConfig:
    """Where your seeds are listed."""

    file: str = setting("", "File", "Path or URL of a Parquet or CSV file with one row per seed.")
    member_column: str = setting(
        "member", "Member column", "Column that names the member as the index's data do.", min_length=1
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ExpansionConfig:
    """Who the seeds are, what they ask the index, and how many members join them."""

    name: str = setting(
        "lookalikes",
        "Name",
        "Name of the audience: lower case letters, digits and hyphens, 1 to 63.",
        min_length=1,
        max_length=63,
    )
    source: Literal["generated", "table"] = setting(
        "generated", "Source", "Seeds whose chance to convert is known, or a table of your own."
    )
    generated: GeneratedSeedsConfig = setting(
        GeneratedSeedsConfig, "Generated seeds", "Who converts, when that is the source."
    )
    table: SeedsTableConfig = setting(SeedsTableConfig, "Own seeds", "Your file, when it is the source.")
    neighbours: int = setting(
        50, "Neighbours", "How many members nearest to it each seed asks for, 1 to 10000.", ge=1, le=10_000
    )
    best: int = setting(
        10, "Best", "How many of a member's largest cosines to seeds are averaged, 1 to 1000; 1: the largest.", ge=1,
        le=1000,
    )  # fmt: skip
    size: int = setting(200, "Size", "Members to add, 1 to 10000000.", ge=1, le=10_000_000)

    def __post_init__(self) -> None:
        check(self)
        if not all(part.isalnum() and part.isascii() and part == part.lower() for part in self.name.split("-")):
            raise ValueError(
                f"ExpansionConfig.name must be lower case letters, digits and single hyphens, got {self.name!r}."
            )
        if self.source == "table" and not self.table.file:
            raise ValueError(
                "ExpansionConfig.table.file must name a file when the source is 'table', got ''; give its path or URL."
            )

    @property
    def k(self) -> int:
        """Length of a list: a seed finds itself too."""
        return self.neighbours + 1

    def sources(self) -> Mapping[str, str]:
        """The file of seeds; none when they are generated."""
        return {"seeds": self.table.file} if self.source == "table" else {}

    def questions(self, files: Mapping[str, Path], searcher: Searcher) -> Payload:
        """Seeds, their vectors, and all members; raises `InputError`."""
        vectors, items = searcher.vectors, {"item": searcher.items}
        _refuse_lengths(vectors, searcher.items)
        if searcher.popularity is not None:
            items["popularity"] = pa.array(searcher.popularity)
        if self.source == "table":
            seeds = _read(files["seeds"], self.table.member_column, searcher.items)
        else:
            chance = chances(vectors, self.generated)
            items["chance"] = pa.array(chance)
            seeds = np.flatnonzero(np.random.default_rng([self.generated.seed, 1]).random(len(chance)) < chance)
        if len(seeds) < 2:
            raise InputError(f"there must be at least 2 seeds, for one is held out to judge by, got {len(seeds)}.")
        return {"queries": vectors[seeds], "seeds": seeds, "items": pa.table(items)}

    def answers(self, asked: Payload, places: Integers, scores: Floats) -> tuple[Payload, Mapping[str, float]]:
        """Who joins the seeds, with what it rests on; see `Asking`."""
        items, seeds = asked["items"]["item"].combine_chunks(), asked["seeds"]
        known = np.asarray(pc.is_valid(items).to_numpy(zero_copy_only=False), bool)
        score, found = scored(places, scores, len(items), self.best)
        seed = np.zeros(len(items), bool)
        seed[seeds] = True
        added = expand(score, seed, self.size, barred=~found | ~known).added
        members = pa.table({"member": items.take(pa.array(added)), "score": pa.array(score[added])})
        reached = int((found & ~seed & known).sum())
        about = {"best": self.best, "size": self.size, "reached": reached, "source": self.source}
        counted = {"seeds": len(seeds), "members": len(added), "reached": reached, "items": len(items)}
        return (
            {**asked, "answers": members, "places": places, "scores": scores, "about": about},
            {name: float(value) for name, value in counted.items()},
        )


def scored(places: Integers, scores: Floats, members: int, best: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of all members by the lists of seeds, and which of them a list holds at all.

    Args:
        places: (S, K) members near each seed, -1 for an empty place.
        scores: (S, K) their cosines.
        members: N.
        best: how many cosines are averaged.

    Returns:
        (N) scores, and (N) whether a list holds the member.

    Source:
        `best_neighbours`.
    """
    found = np.zeros(members, bool)
    found[places[places >= 0]] = True
    return best_neighbours(places, scores, members, best=best), found


def chances(vectors: NDArray[np.float32], config: GeneratedSeedsConfig) -> Floats:
    """How likely members convert: logistic in how well the best of some hidden directions suits them.

    Args:
        vectors: (N, D) of members.
        config: how many convert, by how many directions, and how sharply.

    Returns:
        (N) chances, which add up to the number of seeds wanted.

    Raises:
        InputError: there are not twice as many members as seeds.

    Source:
        Ours.
    """
    if len(vectors) < 2 * config.seeds:
        raise InputError(
            f"GeneratedSeedsConfig.seeds is {config.seeds}, the index has {len(vectors)} members; ask for at most half."
        )
    direction = np.random.default_rng([config.seed, 0]).normal(0, 1, (vectors.shape[1], config.tastes))
    suits = vectors.astype(np.float64) @ direction
    spread = suits.std(0)
    suits = (suits - suits.mean(0)) / np.where(spread > 0, spread, 1.0)
    logit = config.sharpness * suits.max(1)
    low, high = -50.0 - logit.max(), 50.0 - logit.min()
    for _ in range(100):  # the sum rises with the middle: halve until it is there to the bit
        middle = (low + high) / 2
        low, high = (middle, high) if _chance(logit + middle).sum() < config.seeds else (low, middle)
    return _chance(logit + (low + high) / 2)


def _chance(logit: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(logit / 2)), np.float64)


def _read(path: Path, column: str, items: pa.Array) -> Integers:
    """Places of the seeds that a file lists, each once, in the order of the items."""
    names = read_written_names(path, read_table(path, (column,)), column)
    return np.unique(places_of(names, items, where="the index"))


def _refuse_lengths(vectors: NDArray[np.float32], items: pa.Array) -> None:
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(length - 1) <= LENGTH_OFF))
    if len(wrong):
        raise InputError(
            f"the vector of item {items[int(wrong[0])].as_py()!r} has length {length[wrong[0]]:.6g}, and "
            f"{len(wrong) - 1} others are not of length one either; look-alikes are found by cosines, so name an index "
            "of unit vectors."
        )


def parameters(config: ExpansionConfig) -> dict[str, Any]:
    """What a person compares expansions by."""
    described = {
        "audience": config.name,
        "source": config.source,
        "neighbours": config.neighbours,
        "best": config.best,
        "size": config.size,
    }
    if config.source == "table":
        return described
    drawn = config.generated
    return {**described, "seeds_wanted": drawn.seeds, "tastes": drawn.tastes, "sharpness": drawn.sharpness}
