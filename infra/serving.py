"""Serve what is live over HTTP, on loopback, and follow it: a version that goes live is served without a restart.

    headrace serve-index NAME [--port 8700]

The configuration that made a product knows how to open it and what its service looks like; here is who listens, where
the writes of a version are kept, and what happens when another goes live. A version that was built has a folder of its
own for the writes that came over HTTP: vectors of another encoder would mean nothing in it. When an older version goes
live again, its writes are there again. A version that was compacted from a built one and such writes is served from the
same folder, so nothing is handed over: the log goes on, over a new base.

It listens on loopback alone. Whoever wants to reach it from elsewhere puts a proxy before it that asks who calls.
"""

import contextlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import typer

from infra import terminal
from infra.refs import Index, Model, Writes
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
        index = store.live(Index, name)
        self.configuration = self._configured(index)
        self._now = self._opened(index)

    def __call__(self) -> tuple[Open, str]:
        """What is served now, and its version."""
        return self._now[:2]

    def _configured(self, index: Index) -> Servable:
        manifest = self._store.open(index).manifest
        configuration = manifest.rebuild_configuration()
        if Model.kind in manifest.inputs:
            model = self._store.open(manifest.input(Model, self._store.root))
            if why := getattr(model.manifest.rebuild_configuration(), "unserved", ""):
                raise StoreError(f"{index} is not served: {why}.")
        if not (hasattr(configuration, "open_live") and hasattr(configuration, "application")):
            raise StoreError(f"{type(configuration).__name__}, which made {index}, does not say how it is served.")
        found: Servable = configuration
        return found

    def _opened(self, index: Index) -> _Now:
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
                index = self._store.live(Index, self._name)
                if str(index) == self._now.version:
                    self._said = ""
                    return False
                old, self._now = self._now, self._opened(index)
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


def guarded(application: Any) -> Any:
    """The application for loopback's own names alone: a web page that makes its own name lead here is turned away."""
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return TrustedHostMiddleware(application, allowed_hosts=[HOST, "localhost"])


def serve_index(
    name: Annotated[str, typer.Argument(help="Product, as retrieval-generated; `headrace doctor` knows what is live.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8700,
) -> None:
    """Answer searches and writes on the live version of an index, in the foreground, and follow it."""
    import uvicorn

    console = terminal.console()
    try:
        live = Live(open_store(), name)
    except Exception as error:
        raise terminal.failed(console, error) from error
    for version in live.sweep():
        console.print(f"removed the writes to {name}@{version}, which is in the store no more")
    console.print(f"serving {live()[1]}: try http://{HOST}:{port}/docs", soft_wrap=True)
    with live.following():
        uvicorn.run(guarded(live.configuration.application(live)), host=HOST, port=port, log_level="info")
