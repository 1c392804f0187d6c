"""A ranker over HTTP: candidates in the best order for a user now, her new events, and how the service fares.

`service` makes an application of whatever gives the ranker of the moment. It asks once per request, so an answer speaks
of one version, and a newer one answers from the next request on. What users do meanwhile is told to `/events`, kept in
memory by identifiers, and so seen by every version that comes; a service that begins anew begins with the log behind
its version.

A request that cannot be answered is told why: 413 for one that is too large, 422 for one that is wrong, with the field,
the value and the remedy, 503 when too many wait, and at `/health` for a version that is damaged. None of them changes
anything.

Source: ours.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, StrictStr

from models.common.guard import Guard
from models.feed.events.kept import Kept, Ranking
from models.feed.events.known import Asked, AskError, Identifier, Item, Scores, Told, shown
from models.feed.events.limits import Limits

LATEST = 4096
"""Requests whose times are kept for the quantiles."""


# --- questions and answers --------------------------------------------------------------------------------------------

Name = StrictInt | Annotated[StrictStr, Field(min_length=1, max_length=1000)]
Moment = Annotated[int, Field(ge=0, lt=2**40, strict=True)]
Response = Annotated[FiniteFloat, Field(ge=0, le=1)]
Categories = Annotated[list[StrictStr], Field(max_length=1000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Described(_Strict):
    """An item; what is said of it is read when the ranker does not know it."""

    item: Name
    categories: Categories | None = Field(None, description="Of an item that is unknown; [] for none.")

    def named(self) -> Item:
        """The same as a ranker is asked."""
        return Item(self.item, None if self.categories is None else tuple(self.categories))


class Event(Described):
    """What a user did."""

    time: Moment = Field(description="Seconds since 1970, UTC.")
    actions: dict[str, Response] = Field({}, description="Responses by task, 0 to 1; 0 where nothing is said.")

    def told(self) -> Told:
        """The same as a ranker is told."""
        return Told(self.named(), self.time, self.actions)


class Question(_Strict):
    """Who is to be shown what."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user": 7, "time": 1700000000, "candidates": [3, 1, 2], "k": 2}]}
    )

    user: Name | None = Field(None, description="Who; one who is unknown has no history yet.")
    history: list[Event] | None = Field(None, description="Her events; without, those that are known of her.")
    time: Moment | None = Field(None, description="Seconds since 1970, UTC; without, now. Events before it count.")
    candidates: list[Name | Described] = Field(min_length=1, description="Items to be ordered.")
    k: int | None = Field(None, ge=1, description="How many to answer; without, all.")


class Placed(BaseModel):
    """A candidate in its place."""

    item: Identifier
    place: int = Field(description="Where it stood in the request, from 0.")
    logits: dict[str, float] = Field(description="By task; the order is that of the main task.")
    chances: dict[str, float] = Field(description="By task, calibrated.")
    unknown: bool = Field(description="Whether it was scored by its categories alone.")


class Order(BaseModel):
    """Candidates, the best first; of equal ones the first asked about."""

    version: str
    time: int
    seen: int = Field(description="Events of the user that counted.")
    items: list[Placed]


class NewEvents(_Strict):
    """What a user did since."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user": 7, "events": [{"item": 3, "time": 1700000000, "actions": {"x": 1}}]}]}
    )

    user: Name
    events: list[Event] = Field(min_length=1)


class Counted(BaseModel):
    """What was kept: every request that begins after this reply sees it."""

    version: str
    events: int = Field(description="Told events of this user that are kept; 0 when there is no room for them.")


class Refusal(BaseModel):
    """Why a request was not answered: which field, what stands there, and what would be right."""

    detail: str
    field: str | None = None
    value: str | None = None


class Times:
    """How long the latest requests took; safe to use from several threads."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=LATEST)
        self._count, self._lock = 0, threading.Lock()

    def add(self, seconds: float) -> None:
        """Count a request."""
        with self._lock:
            self._seconds.append(seconds)
            self._count += 1

    def summary(self) -> dict[str, float]:
        """Requests so far, and median and 95th percentile of the latest, in milliseconds."""
        with self._lock:
            seconds, count = np.array(self._seconds), self._count
        low, high = np.quantile(seconds, (0.5, 0.95)) if len(seconds) else (0.0, 0.0)
        return {"requests": count, "latency_ms_p50": 1000 * float(low), "latency_ms_p95": 1000 * float(high)}


def service(source: Callable[[], tuple[Ranking, str]], limits: Limits | None = None) -> FastAPI:
    """The application.

    Args:
        source: gives what is to be served and the name of its version; asked once per request, from several threads.
        limits: how much a request may ask, and what is kept; None for the defaults.

    Returns:
        An ASGI application; its page `/docs` describes it, with examples.

    Source:
        Ours.
    """
    limits = Limits() if limits is None else limits
    told, times = Kept(limits.told_megabytes * 2**20), Times()
    refusals: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (413, 422, 503)}
    app = FastAPI(title="headrace ranking", summary=(__doc__ or "").splitlines()[0], responses=refusals)
    app.add_middleware(Guard, megabytes=limits.megabytes, waiting=limits.waiting)
    app.state.told, app.state.times = told, times
    refuse_by_field(app)

    @app.post("/rank")
    def rank(question: Question) -> Order:
        """Candidates in the best order for a user, with a logit and a calibrated chance for each task."""
        began = time.perf_counter()
        ranking, version = source()
        asked = asked_of(ranking, question, limits)
        scores = ranking.rank(asked, told)
        answer = order_of(asked, scores, ranking.tasks, version, question.k)
        times.add(time.perf_counter() - began)
        return answer

    @app.post("/events")
    def events(new: NewEvents) -> Counted:
        """Keep what a user did, for every request to come; an event that was told before is replaced."""
        at_most("events", len(new.events), limits.events)
        ranking, version = source()
        given = ranking.check([event.told() for event in new.events])
        return Counted(version=version, events=told.add(ranking.name(new.user), given))

    @app.get("/health")
    def health() -> Any:
        """Whether requests are answered: one is made, of a stranger and of an item of which nothing is known."""
        ranking, version = source()
        scores = ranking.rank(Asked(None, (), int(time.time()), (Item("", ()),)), told)
        if not np.isfinite(scores.logit).all():
            value = shown(scores.logit.tolist())
            refusal = Refusal(detail=f"logit: {value}: {version} is damaged; roll it back.", field="logit", value=value)
            return JSONResponse(refusal.model_dump(), 503)
        return {"status": "healthy", "version": version}

    @app.get("/metrics")
    def metrics() -> dict[str, Any]:
        """What became of requests: times, kept histories, bytes held."""
        ranking, version = source()
        return {
            "version": version,
            **times.summary(),
            **ranking.counts(),
            "bytes_limit": limits.cache_megabytes * 2**20,
            "told_users": len(told),
            "told_bytes": told.nbytes,
            "told_bytes_limit": told.size,
            "told_evicted": told.evicted,
        }

    return app


def asked_of(ranking: Ranking, question: Question, limits: Limits) -> Asked:
    """A question as a ranker is asked; raises `AskError` for one that asks too much."""
    at_most("candidates", len(question.candidates), limits.candidates)
    at_most("history", len(question.history or ()), limits.events)
    return Asked(
        user=None if question.user is None else ranking.name(question.user),
        history=None if question.history is None else tuple(event.told() for event in question.history),
        time=int(time.time()) if question.time is None else question.time,
        candidates=tuple(one.named() if isinstance(one, Described) else Item(one, None) for one in question.candidates),
    )


def order_of(asked: Asked, scores: Scores, tasks: Sequence[str], version: str, k: int | None) -> Order:
    """Scores as an answer: by falling logit of the main task, of equal ones the first asked about."""
    order = np.argsort(-scores.logit[:, 0], kind="stable")[:k]
    items = [
        Placed(
            item=asked.candidates[place].id,
            place=int(place),
            logits=dict(zip(tasks, map(float, scores.logit[place]), strict=True)),
            chances=dict(zip(tasks, map(float, scores.chance[place]), strict=True)),
            unknown=bool(scores.unknown[place]),
        )
        for place in order
    ]
    return Order(version=version, time=asked.time, seen=scores.seen, items=items)


def at_most(field: str, count: int, limit: int) -> None:
    """Raise `AskError` for more than is allowed."""
    if count > limit:
        raise AskError(field, count, f"at most {limit} are answered at once; ask in parts")


def refuse_by_field(app: FastAPI) -> None:
    """Answer a request that is wrong by 422, with the field, the value and what would be right."""

    @app.exception_handler(AskError)
    async def wrong(_request: Request, error: AskError) -> JSONResponse:
        refusal = Refusal(detail=str(error), field=error.field, value=shown(error.value))
        return JSONResponse(refusal.model_dump(), 422)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        deepest = max(error.errors(), key=lambda one: len(_place(one)))  # of alternatives the one that was meant
        field, value, remedy = _malformed(deepest)
        refusal = Refusal(detail=f"{field}: {value}: {remedy}.", field=field, value=value)
        return JSONResponse(refusal.model_dump(), 422)


_ALTERNATIVES = ("int", "str", "constrained-str", "Described")


def _malformed(error: Any) -> tuple[str, str, str]:
    """Field, value and remedy of what pydantic found wrong first."""
    if error["type"] == "json_invalid":
        return "body", f"at byte {error['loc'][-1]}", f"this is no JSON ({error['ctx']['error']})"
    place = _place(error)
    field = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in place).lstrip(".") or "body"
    if len(place) < len(error["loc"]) - 1:
        remedy = "identifiers are whole numbers or text of 1 to 1000 characters, and candidates may say more"
    else:
        remedy = error["msg"][:1].lower() + error["msg"][1:]
    return field, shown(error.get("input")), f"{remedy}; the page /docs says what is asked"


def _place(error: Any) -> list[str | int]:
    return [one for one in error["loc"][1:] if one not in _ALTERNATIVES]
