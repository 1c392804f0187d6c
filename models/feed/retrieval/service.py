"""A live index over HTTP: search, upsert, delete, and what is being served.

`service` makes an application of whatever gives the index of the moment. It asks once per request, so an answer speaks
of one version, and a newer one is served from the next request on, without a restart. Whoever runs the application
decides where it listens.

A request that cannot be answered is told why: 400 for one that does not suit the index, 409 for a write that was meant
for items of another origin, 413 for one that is too large, 422 for one that is no question at all, 503 when too many
wait or the disk takes no more. None of them changes anything. A write that is answered is on the disk.

Source: ours; LiNR's service (section 4) is native code inside LinkedIn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from models.common.configuration import check, setting
from models.common.guard import Guard
from models.feed.retrieval.delta import DeltaError, LiveIndex
from models.feed.retrieval.filter import FilterError

Where = str | dict[str, Any] | None
Vector = Annotated[list[FiniteFloat], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one request may ask, and how many may wait."""

    queries: int = setting(256, "Queries", "Queries of one request, 1 to 65536.", ge=1, le=65536)
    k: int = setting(1000, "Results", "Results per query, 1 to 100000.", ge=1, le=100_000)
    items: int = setting(10_000, "Items", "Items of one write, 1 to 1000000.", ge=1, le=1_000_000)
    megabytes: int = setting(32, "Megabytes", "Size of one request's body, 1 to 1024.", ge=1, le=1024)
    waiting: int = setting(64, "Waiting", "Requests answered or waiting at a time, 1 to 10000.", ge=1, le=10_000)

    def __post_init__(self) -> None:
        check(self)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Question(_Strict):
    """Queries and what they are to find."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"queries": [[0.1, -0.2, 0.7]], "k": 2, "where": "lang in ('en', 'de') and year >= 2019"},
                {"queries": [[0.1, -0.2, 0.7], [0.5, 0.5, 0.0]], "k": 2, "where": [{"year": {"$gte": 2019}}, None]},
            ]
        }
    )

    queries: list[Vector] = Field(min_length=1, description="Vectors of the index's dimension.")
    k: int = Field(10, ge=1, description="Results per query.")
    where: Where | list[Where] = Field(
        None, description="One filter for all queries, or a list of one for each; as text or as a dictionary."
    )


class Found(BaseModel):
    """The answer to one query."""

    ids: list[int] = Field(description="Best first; equal scores by ascending id. Fewer than k where fewer pass.")
    scores: list[float] = Field(description="Dot products with the query.")
    passing: int = Field(description="How many items the filter lets through.")


class Answer(BaseModel):
    """The answers to a question, all from one version."""

    version: str
    results: list[Found]


_ORIGIN = "Which items it is meant for, as `/version` told; while those of another origin are served, it is refused."


class Item(_Strict):
    """An item to be found."""

    id: int = Field(ge=0, lt=2**63)
    vector: Vector
    attributes: dict[str, Any] = Field({}, description="By column; one that is left out is null.")


class Items(_Strict):
    """Items to insert, or to put in place of those with the same ids."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"id": 7, "vector": [0.1, -0.2, 0.7], "attributes": {"lang": "en", "year": 2019}}]}]
        }
    )

    items: list[Item] = Field(min_length=1)
    origin: str | None = Field(None, description=_ORIGIN)


class Ids(_Strict):
    """Items to remove."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [7, 8]}]})

    ids: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=1)
    origin: str | None = Field(None, description=_ORIGIN)


class Written(BaseModel):
    """What a write did: every search that begins after this reply sees it."""

    version: str
    items: int = Field(description="Items inserted, replaced or removed.")


class Explained(BaseModel):
    """How a filter would be answered."""

    version: str
    filter: str
    items: int
    passing: int
    strategy: str


class State(BaseModel):
    """What is being served."""

    version: str
    items: int
    dimension: int
    columns: dict[str, str]
    origin: str = Field(description="The build that these items began with; it stays when the index is compacted.")


class Refusal(BaseModel):
    """Why a request was not answered, and where in the filter: a position in its text, a path in its dictionary."""

    detail: str
    position: int | None = None
    path: str | None = None


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str, position: int | None = None, path: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.refusal = status, Refusal(detail=detail, position=position, path=path)


def service(source: Callable[[], tuple[LiveIndex, str]], limits: Limits | None = None) -> FastAPI:
    """The application.

    Args:
        source: gives what is to be served, open for writing, and the name of its version; asked once per request, from
            several threads.
        limits: how much a request may ask; None for the defaults.

    Returns:
        An ASGI application; its page `/docs` describes it, with examples.

    Source:
        Ours.
    """
    limits = Limits() if limits is None else limits
    refusals: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (400, 409, 413, 503)}
    app = FastAPI(title="headrace retrieval", summary=(__doc__ or "").splitlines()[0], responses=refusals)
    app.add_middleware(Guard, megabytes=limits.megabytes, waiting=limits.waiting)

    @app.exception_handler(_RefusedError)
    async def refuse(_request: Request, error: _RefusedError) -> JSONResponse:
        return _refused(error.status, error.refusal)

    @app.post("/search")
    def search(question: Question) -> Answer:
        """The k best items of every query that pass its filter, exactly."""
        _at_most("queries", len(question.queries), limits.queries)
        _at_most("k", question.k, limits.k)
        index, version = source()
        vectors = _vectors(question.queries, index.index.dimension, "query")
        hits = _suited(lambda: index.search(vectors, question.k, question.where))
        results = []
        for ids, scores, passing in zip(*hits, strict=True):
            there = ids >= 0
            results.append(Found(ids=ids[there].tolist(), scores=scores[there].tolist(), passing=int(passing)))
        return Answer(version=version, results=results)

    @app.post("/upsert")
    def upsert(wanted: Items) -> Written:
        """Insert items or replace them, all or none."""
        _at_most("items", len(wanted.items), limits.items)
        index, version = source()
        _meant(wanted.origin, index, version)
        vectors = _vectors([item.vector for item in wanted.items], index.index.dimension, "item")
        ids = np.array([item.id for item in wanted.items], np.int64)
        table = _table([item.attributes for item in wanted.items], index.index.fields)
        _suited(lambda: index.upsert(ids, vectors, table))
        _suited(index.flush)
        return Written(version=version, items=len(np.unique(ids)))

    @app.post("/delete")
    def delete(wanted: Ids) -> Written:
        """Remove items; ids that are not there are passed over."""
        _at_most("ids", len(wanted.ids), limits.items)
        index, version = source()
        _meant(wanted.origin, index, version)
        gone = _suited(lambda: index.delete(wanted.ids))
        _suited(index.flush)
        return Written(version=version, items=gone)

    @app.get("/explain")
    def explain(where: str | None = None) -> Explained:
        """How many items a filter lets through, and how it would be answered."""
        index, version = source()
        return Explained(version=version, **_suited(lambda: index.explain(where)))

    @app.get("/version")
    def state() -> State:
        """What is being served."""
        index, version = source()
        here = index.index
        columns = dict(here.schema)
        return State(version=version, items=len(here), dimension=here.dimension, columns=columns, origin=index.origin)

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether searches are answered: one is made."""
        index, version = source()
        index.search(np.zeros((1, index.index.dimension), np.float32), 1)
        return {"status": "healthy", "version": version}

    return app


def _refused(status: int, refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.model_dump(), status)


def _meant(origin: str | None, index: LiveIndex, version: str) -> None:
    if origin is not None and origin != index.origin:
        raise _RefusedError(
            409, f"meant for items of origin {origin}; {version} is of origin {index.origin}, nothing was changed."
        )


def _at_most(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise _RefusedError(400, f"{what}: at most {limit} here, got {count}; ask in parts.")


def _suited(ask: Callable[[], Any]) -> Any:
    """What the index says, its complaints as refusals."""
    try:
        return ask()
    except FilterError as error:
        raise _RefusedError(400, str(error), error.position, error.path) from error
    except ValueError as error:
        raise _RefusedError(400, str(error)) from error
    except DeltaError as error:
        raise _RefusedError(503, str(error)) from error


def _vectors(lists: Sequence[Sequence[float]], dimension: int, what: str) -> Any:
    for number, numbers in enumerate(lists):
        if len(numbers) != dimension:
            raise _RefusedError(400, f"{what} {number} has {len(numbers)} numbers; the index has {dimension}.")
    with np.errstate(over="ignore"):  # what is too long is refused by the index, with its number
        return np.array(lists, np.float64).astype(np.float32)


def _table(rows: Sequence[Mapping[str, Any]], fields: pa.Schema) -> pa.Table:
    """Attributes as a table of the index's columns."""
    for number, row in enumerate(rows):
        unknown = sorted(set(row) - set(fields.names))
        if unknown:
            raise _RefusedError(400, f"item {number} has unknown attributes {unknown}; known are {fields.names}.")
    columns = []
    for field in fields:
        values = [_placed(row.get(field.name), field.type) for row in rows]
        wrong = next((value for value in values if isinstance(value, str)), None)
        if wrong is not None and pa.types.is_nested(field.type):  # pyarrow would take it for a list of letters
            raise _RefusedError(400, f"attribute {field.name!r} does not fit its {field.type}: got the text {wrong!r}.")
        try:
            for value in values:
                if isinstance(value, dict) and not _suits(value, field.type):  # pyarrow would take it for a null
                    raise pa.ArrowInvalid(f"got {value!r}")
            columns.append(pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            raise _RefusedError(400, f"attribute {field.name!r} does not fit its {field.type}: {error}") from error
    return pa.table(columns, schema=fields)


_SHORT = {"latitude": "lat", "longitude": "lon"}


def _placed(value: Any, kind: pa.DataType) -> Any:
    """A point by the names that the column has for its parts; everything else as it is."""
    if not isinstance(value, dict) or not pa.types.is_struct(kind):
        return value
    names = {_SHORT.get(field.name, field.name): field.name for field in kind}
    return {names.get(_SHORT.get(part, part), part): number for part, number in value.items()}


def _suits(value: dict[str, Any], kind: pa.DataType) -> bool:
    """Whether a point has no parts that its column does not have."""
    return bool(pa.types.is_struct(kind)) and set(value) <= {field.name for field in kind}
