"""Serve what is live over HTTP, on loopback, and follow it: a version that goes live is served without a restart.

    headrace serve-index NAME [--port 8700]               search and writes on an index
    headrace serve-model NAME [--port 8701]               a model that answers requests, such as a ranker
    headrace serve-feed INDEX MODEL [--port 8702]         both: what the index finds, in the model's order

The configuration that made a product knows how to open it and what its service looks like; here is who listens, where
the writes of a version are kept, and what happens when another goes live. A version that was built has a folder of its
own for the writes that came over HTTP: vectors of another encoder would mean nothing in it. When an older version goes
live again, its writes are there again. A version that was compacted from a built one and such writes is served from the
same folder, so nothing is handed over: the log goes on, over a new base. A model is opened with the data that it was
made from; what it is told meanwhile is in memory alone.

It listens on loopback alone. Whoever wants to reach it from elsewhere puts a proxy before it that asks who calls.
"""

import contextlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

import typer

from infra import terminal
from infra.refs import Dataset, Index, Model, Writes
from infra.settings import settings
from infra.store import Store, StoreError, open_store

POLL_S = 1.0
GRACE_S = 60.0
"""How long a version that was replaced stays open, for requests that found it."""

HOST = "127.0.0.1"
_log = logging.getLogger("uvicorn.error")


class Open(Protocol):
    """A product that is being served."""

    def close(self) -> None:
        """Bring every write to the disk, and let go of the files whether that went well or not."""


class Servable(Protocol):
    """What a configuration has whose product can be served."""

    def open_live(self, payload: Any, folder: Path, origin: str, writes: Any) -> Open:
        """Open a published version together with the writes that a folder holds; made if there is none.

        `writes` are those that the version holds itself, None when it is as it was built.
        """

    def adopt(self, product: Any, payload: Any, writes: Any) -> None:
        """Let what is served stand on a version that holds some of its writes; nothing else changes."""

    def application(self, source: Callable[[], tuple[Any, str]]) -> Any:
        """The ASGI application that answers from what `source` gives, with its version, at the moment of a request."""


class ServableModel(Protocol):
    """What the configuration of a model has that can be served."""

    def open_live(self, payload: Any, data: Any, **limits: float) -> Open:
        """Open a published version, with the data that it was made from; `limits` are those of the application."""

    def application(
        self,
        source: Callable[[], tuple[Any, str]],
        search: Callable[[], tuple[Any, Any, str]] | None,
        **limits: float,
    ) -> Any:
        """The ASGI application that answers from what `source` gives, with its version, at the moment of a request.

        `search`, where it is given, gives the index that finds candidates, what gives users their vectors, and version.
        """


class ServableEncoder(Protocol):
    """What the configuration of a model has that gives users the vectors by which an index is searched."""

    def members(self, payload: Any, data: Any) -> Any:
        """Vectors of users, and identifiers of what an index finds."""


class _Now(NamedTuple):
    product: Open
    version: str
    built: str


def as_built(store: Store, index: Index) -> Index:
    """The version that an index was compacted from, or the index itself when it was built."""
    manifest = store.open(index).manifest
    return manifest.input(Index, store.root) if Index.kind in manifest.inputs else index


def folder_of(built: Index) -> Path:
    """Where the service on this machine keeps what is written to a version that was built."""
    return settings().home.resolve() / "serving" / built.name / built.version


class Live:
    """The live version of a product, opened; `look` puts another in its place when another is live.

    Args:
        store: where it is published.
        name: the product.

    Raises:
        StoreError: nothing is live, it is damaged, or its configuration cannot be served.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._said = ""
        self._looking = threading.Lock()
        self._open: dict[str, Open] = {}
        self._replaced: dict[str, float] = {}
        live = self._live()
        self.configuration = self._configured(live)
        self._now = self._opened(live)

    def __call__(self) -> tuple[Any, str]:
        """What is served now, and its version."""
        return self._now[:2]

    def _live(self) -> Any:
        return self._store.live(Index, self._name)

    def _configured(self, index: Any) -> Any:
        manifest = self._store.open(index).manifest
        configuration = manifest.rebuild_configuration()
        if Model.kind in manifest.inputs:
            model = self._store.open(manifest.input(Model, self._store.root))
            if why := getattr(model.manifest.rebuild_configuration(), "unserved", ""):
                raise StoreError(f"{index} is not served: {why}.")
        found: Servable = _able(configuration, index)
        return found

    def _opened(self, index: Any) -> _Now:
        """The version, opened now or still open from before."""
        opened, built = self._store.open(index), as_built(self._store, index)
        named = opened.manifest.inputs
        writes = self._store.open(opened.manifest.input(Writes, self._store.root)) if Writes.kind in named else None
        if built.version not in self._open:
            payload = dict(opened)  # every byte is checked before anything is served
            product = self._configured(index).open_live(payload, folder_of(built), built.digest, writes)
            self._open[built.version] = product
        elif writes is not None:
            self._configured(index).adopt(self._open[built.version], dict(opened), writes)
        self._replaced.pop(built.version, None)
        return _Now(self._open[built.version], str(index), built.version)

    def look(self) -> bool:
        """Serve another version if another is live; one that cannot be opened changes nothing.

        Returns:
            Whether another version is served from now on.
        """
        with self._looking:
            self._let_go(time.monotonic() - GRACE_S)
            try:
                live = self._live()
                if str(live) == self._now.version:
                    self._said = ""
                    return False
                old, self._now = self._now, self._opened(live)
            except Exception as error:  # whatever is wrong with the new one, the old one goes on
                if str(error) != self._said:
                    self._said = str(error)
                    _log.warning("%s stays, because what is live cannot be opened: %s", self._now.version, error)
                return False
            if old.built != self._now.built:
                self._replaced[old.built] = time.monotonic()
            _log.info("serving %s from now on; %s had been served", self._now.version, old.version)
            return True

    def _let_go(self, before: float) -> None:
        """Close the versions that were replaced before a moment."""
        for version in [version for version, moment in self._replaced.items() if moment < before]:
            del self._replaced[version]
            try:
                self._open.pop(version).close()
            except Exception as error:  # what was answered is on the disk already; the others are to be served on
                _log.error("the last writes to %s may not be on the disk: %s", version, error)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Look every second meanwhile; at the end bring all writes to the disk and close everything."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(POLL_S):
                self.look()

        follower = threading.Thread(target=follow, name="follow", daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()
            self._replaced = dict.fromkeys(self._open, -math.inf)
            self._let_go(0)

    def sweep(self) -> list[str]:
        """Remove the writes to versions that are in the store no more; returns which."""
        kept = set(self._store.known(Index.kind, self._name))
        inputs = [manifest.inputs.get(Index.kind) for manifest in self._store.versions(Index.kind, self._name)]
        kept |= {named["version"] for named in inputs if named}
        place = settings().home.resolve() / "serving" / self._name
        gone = [folder for folder in sorted(place.glob("*")) if folder.name not in kept]
        for folder in gone:
            shutil.rmtree(folder)
        return [folder.name for folder in gone]


class LiveModel(Live):
    """The live version of a model, opened with the data that it was made from.

    Args:
        store: where it is published.
        name: the product.
        limits: of its application, by name.

    Raises:
        StoreError: nothing is live, it is damaged, or its configuration cannot be served.
    """

    def __init__(self, store: Store, name: str, **limits: float) -> None:
        self._limits = limits
        super().__init__(store, name)

    def application(self, search: Callable[[], tuple[Any, Any, str]] | None = None) -> Any:
        """The ASGI application that answers from the version of the moment, and from the index that finds for it."""
        return self.configuration.application(self, search, **self._limits)

    def _live(self) -> Any:
        return self._store.live(Model, self._name)

    def _configured(self, model: Any) -> Any:
        found: ServableModel = _able(self._store.open(model).manifest.rebuild_configuration(), model)
        return found

    def _opened(self, model: Any) -> _Now:
        if model.version not in self._open:
            opened = self._store.open(model)
            data = self._store.open(opened.manifest.input(Dataset, self._store.root))
            # every byte of both is checked before anything is served
            self._open[model.version] = self._configured(model).open_live(dict(opened), dict(data), **self._limits)
        self._replaced.pop(model.version, None)
        return _Now(self._open[model.version], str(model), model.version)


class LiveSearch(Live):
    """The live version of an index, and the encoder behind it, which gives users their vectors."""

    def __init__(self, store: Store, name: str) -> None:
        self._members: dict[str, Any] = {}
        super().__init__(store, name)

    def found(self) -> tuple[Any, Any, str]:
        """What is served now, the encoder behind it, and its version."""
        now = self._now
        return now.product, self._members[now.built], now.version

    def _opened(self, index: Any) -> _Now:
        now = super()._opened(index)
        if now.built not in self._members:
            manifest = self._store.open(index).manifest
            if Model.kind not in manifest.inputs:
                raise StoreError(f"{index} was made without an encoder, so no user has a vector; serve another index.")
            model = self._store.open(manifest.input(Model, self._store.root))
            encoder: ServableEncoder = model.manifest.rebuild_configuration()
            if not hasattr(encoder, "members"):
                raise StoreError(f"{type(encoder).__name__}, behind {index}, does not say how users get their vectors.")
            data = self._store.open(manifest.input(Dataset, self._store.root))
            self._members = {built: one for built, one in self._members.items() if built in self._open}
            self._members[now.built] = encoder.members(dict(model), dict(data))
        return now


def together(search: LiveSearch, ranker: LiveModel) -> Any:
    """The application of a model that an index finds candidates for, and beside it that of the index, its one writer.

    Neither is inside the other, so each has its own limits on bodies and on who waits.
    """
    from starlette.applications import Starlette
    from starlette.routing import Mount

    index = Mount("/index", search.configuration.application(search))
    return Starlette(routes=[index, Mount("/", ranker.application(search.found))])


def _able(configuration: Any, product: Any) -> Any:
    """The configuration, if it says how its product is served."""
    if not (hasattr(configuration, "open_live") and hasattr(configuration, "application")):
        raise StoreError(f"{type(configuration).__name__}, which made {product}, does not say how it is served.")
    return configuration


def guarded(application: Any) -> Any:
    """The application for loopback's own names alone: a web page that makes its own name lead here is turned away."""
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return TrustedHostMiddleware(application, allowed_hosts=[HOST, "localhost"])


LiveT = TypeVar("LiveT", bound=Live)
Memory = Annotated[float, typer.Option(min=0, help="Megabytes for what was computed of users' histories.")]
Told = Annotated[float, typer.Option(min=0.001, help="Megabytes for what is told of users, in memory alone.")]


def serve_index(
    name: Annotated[str, typer.Argument(help="Product, as retrieval-generated; `headrace doctor` knows what is live.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8700,
) -> None:
    """Answer searches and writes on the live version of an index, in the foreground, and follow it."""
    console = terminal.console()
    live = _open(console, lambda: Live(open_store(), name))
    for version in live.sweep():
        console.print(f"removed the writes to {name}@{version}, which is in the store no more")
    with live.following():
        _answer(console, [live], live.configuration.application(live), port)


def serve_model(
    name: Annotated[str, typer.Argument(help="Product, as ranking-simulated; `headrace doctor` knows what is live.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8701,
    cache_megabytes: Memory = 256.0,
    told_megabytes: Told = 64.0,
) -> None:
    """Answer requests with the live version of a model, in the foreground, and follow it."""
    console = terminal.console()
    _one_core_a_request()
    limits = {"cache_megabytes": cache_megabytes, "told_megabytes": told_megabytes}
    live = _open(console, lambda: LiveModel(open_store(), name, **limits))
    with live.following():
        _answer(console, [live], live.application(), port)


def serve_feed(
    index: Annotated[str, typer.Argument(help="Index that finds candidates, as retrieval-feed.")],
    model: Annotated[str, typer.Argument(help="Model that orders them, as ranking-simulated.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8702,
    cache_megabytes: Memory = 256.0,
    told_megabytes: Told = 64.0,
) -> None:
    """Find candidates for a user and order them, with the live versions of both, in the foreground; follow both."""
    console = terminal.console()
    _one_core_a_request()
    limits = {"cache_megabytes": cache_megabytes, "told_megabytes": told_megabytes}
    search = _open(console, lambda: LiveSearch(open_store(), index))
    with search.following():
        ranker = _open(console, lambda: LiveModel(open_store(), model, **limits))
        with ranker.following():
            _answer(console, [search, ranker], together(search, ranker), port)


def _one_core_a_request() -> None:
    """Many requests are answered at a time, and the bits of a score are those that one thread gives."""
    import torch

    torch.set_num_threads(1)


def _open(console: Any, make: Callable[[], LiveT]) -> LiveT:
    try:
        return make()
    except Exception as error:
        raise terminal.failed(console, error) from error


def _answer(console: Any, served: Sequence[Live], application: Any, port: int) -> None:
    import uvicorn

    versions = " and ".join(live()[1] for live in served)
    console.print(f"serving {versions}: try http://{HOST}:{port}/docs", soft_wrap=True)
    uvicorn.run(guarded(application), host=HOST, port=port, log_level="info")
