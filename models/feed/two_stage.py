"""Retrieve, then rank: an index finds candidates for a user, a ranker puts them in order, one request over HTTP.

Neither knows the other. The index finds vectors under numbers, and what gives users their vectors says which items
these numbers are; the ranker is asked by the items' identifiers. What the ranker does not know it cannot place: such
candidates come behind the others, in the order in which the index found them, and the answer counts them.
"""

# Shapes: N candidates, D dimension.

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from models.feed.events.kept import Kept, Ranking
from models.feed.events.known import AskError, Identifier, Item
from models.feed.events.limits import Limits
from models.feed.events.service import Event, Moment, Name, Question, Times, asked_of, at_most, service

Where = str | dict[str, Any] | None


class Searching(Protocol):
    """An index."""

    def search(self, vectors: NDArray[np.float32], k: int, where: Any) -> tuple[Any, Any, Any]:
        """Ids (1, k), scores (1, k), and how many items the filter lets through (1); raises `ValueError`."""


class Encoding(Protocol):
    """What gives users the vectors by which the index is asked."""

    def vector(self, user: Identifier | None, met: Sequence[Identifier]) -> NDArray[np.float32]:
        """(1, D) of a user who met some items, oldest first."""

    def identifiers(self, ids: NDArray[np.int64]) -> list[Identifier | None]:
        """Items that the index calls by numbers; None for one of which the number alone is known."""


class Wanted(BaseModel):
    """For whom, under which filter, how much."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"user": 7, "time": 1700000000, "where": "category == 'category 001'", "k": 10}]
        },
    )

    user: Name | None = Field(None, description="Who; one who is unknown has no history yet.")
    history: list[Event] | None = Field(None, description="Her events; without, those that are known of her.")
    time: Moment | None = Field(None, description="Seconds since 1970, UTC; without, now. Events before it count.")
    vector: list[FiniteFloat] | None = Field(None, min_length=1, description="What the index is asked by, if not her.")
    where: Where = Field(None, description="A filter on the index's attributes, as text or as a dictionary.")
    k: int = Field(10, ge=1, description="How many to answer.")
    candidates: int = Field(100, ge=1, description="How many the index is to find, k or more.")


class Shown(BaseModel):
    """An item in its place."""

    item: Identifier = Field(description="As the log writes it; what the index calls it where the log lacks it.")
    found: int = Field(description="Its place in what the index found, from 0.")
    similarity: float = Field(description="The index's score.")
    logits: dict[str, float] | None = Field(description="By task; null for an item that the ranker does not know.")
    chances: dict[str, float] | None


class Feed(BaseModel):
    """Items in the order in which to show them."""

    index_version: str
    ranker_version: str
    time: int
    seen: int = Field(description="Events of the user that counted.")
    passing: int = Field(description="Items that the filter lets through.")
    found: int = Field(description="Candidates that the index found.")
    unknown: int = Field(description="Of these, unknown to the ranker; they come last.")
    milliseconds: dict[str, float] = Field(description="Time by stage: vector, search, rank, and whole.")
    items: list[Shown]


def application(
    ranker: Callable[[], tuple[Ranking, str]],
    search: Callable[[], tuple[Searching, Encoding, str]] | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The service of a ranker, which answers `/feed` too where an index finds candidates for it.

    Args:
        ranker: gives the ranker of the moment and its version.
        search: gives the index of the moment, what gives users their vectors, and the version; None for none.
        limits: how much a request may ask, and what is kept; None for the defaults.

    Returns:
        The application of `models.feed.events.service`, with one more question.

    Source:
        Ours; in two stages as in Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations".
    """
    limits = Limits() if limits is None else limits
    app = service(ranker, limits)
    return app if search is None else _with_feed(app, ranker, search, limits)


def _with_feed(
    app: FastAPI,
    ranker: Callable[[], tuple[Ranking, str]],
    search: Callable[[], tuple[Searching, Encoding, str]],
    limits: Limits,
) -> FastAPI:
    told: Kept = app.state.told
    times: Times = app.state.times

    @app.post("/feed")
    def feed(wanted: Wanted) -> Feed:
        """What to show a user: found by the index under a filter, in the order of the ranker."""
        began = time.perf_counter()
        at_most("candidates", wanted.candidates, limits.candidates)
        at_most("k", wanted.k, limits.candidates)
        ranking, ranker_version = ranker()
        index, encoder, index_version = search()
        question = Question(user=wanted.user, history=wanted.history, time=wanted.time, candidates=[0])
        asked = asked_of(ranking, question, limits)
        if wanted.vector is None:
            vector = encoder.vector(asked.user, ranking.met(asked, told))
        else:
            vector = np.array([wanted.vector], np.float32)
        embedded = time.perf_counter()
        ids, similarity, passing = _found(index, vector, max(wanted.k, wanted.candidates), wanted.where)
        named = encoder.identifiers(ids)
        identifiers = [int(ids[place]) if item is None else item for place, item in enumerate(named)]
        searched = time.perf_counter()
        known = [place for place, item in enumerate(named) if item is not None and ranking.knows(item)]
        items, seen = list[Shown](), 0
        if known:
            asked = asked._replace(candidates=tuple(Item(identifiers[place]) for place in known))
            scores = ranking.rank(asked, told)
            seen = scores.seen
            for one in np.argsort(-scores.logit[:, 0], kind="stable"):
                place = known[one]
                items.append(
                    Shown(
                        item=identifiers[place],
                        found=place,
                        similarity=float(similarity[place]),
                        logits=dict(zip(ranking.tasks, map(float, scores.logit[one]), strict=True)),
                        chances=dict(zip(ranking.tasks, map(float, scores.chance[one]), strict=True)),
                    )
                )
        for place in sorted(set(range(len(identifiers))) - set(known)):
            score = float(similarity[place])
            items.append(Shown(item=identifiers[place], found=place, similarity=score, logits=None, chances=None))
        ended = time.perf_counter()
        times.add(ended - began)
        stages = {"vector": embedded - began, "search": searched - embedded, "rank": ended - searched}
        return Feed(
            index_version=index_version,
            ranker_version=ranker_version,
            time=asked.time,
            seen=seen,
            passing=passing,
            found=len(identifiers),
            unknown=len(identifiers) - len(known),
            milliseconds={name: 1000 * seconds for name, seconds in {**stages, "whole": ended - began}.items()},
            items=items[: wanted.k],
        )

    return app


def _found(index: Searching, vector: NDArray[np.float32], k: int, where: Where) -> tuple[Any, Any, int]:
    """What the index finds, without empty places; its complaints name the field."""
    try:
        ids, scores, passing = index.search(vector, k, where)
    except ValueError as error:  # a filter that it does not understand, or a vector of another length
        if where is not None:
            _found(index, vector, 1, None)  # complains of the vector if that is what is wrong
        field, value = ("where", where) if where is not None else ("vector", vector.shape[1])
        raise AskError(field, value, str(error).rstrip(".")) from error
    there = ids[0] >= 0
    return ids[0][there], scores[0][there], int(passing[0])
