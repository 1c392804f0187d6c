"""Feed a table to an index in service: rows become upserts and deletes, in batches, and what was interrupted goes on.

    headrace feed-index NAME FILE [--delete] [--port 8700]

The door is the service's HTTP, which is the one writer of its folder. When nobody answers there, the same application
is opened in this process: then this is the writer, and a service that is started meanwhile is told so.

A batch that was answered is on the disk, and after each how far it went is noted under HOME. An interrupted feed of the
same file goes on there; a batch that was sent twice changes nothing. Every batch says which build of the index it is
meant for, so none reaches an index whose vectors are another encoder's.

    FeedError      the file cannot be used, or what is served does not take it; the message names file, row and remedy
"""

import asyncio
import contextlib
import csv
import datetime
import decimal
import gzip
import hashlib
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import httpx
import pyarrow as pa
import pyarrow.parquet
import typer

from infra import terminal
from infra.manifest import digest_of
from infra.serving import HOST, Live, guarded
from infra.settings import settings
from infra.store import StoreError, open_store, write_durably

PATIENCE_S = 60.0
"""How long a service that is busy, full or away is asked again."""

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


class FeedError(Exception):
    """What was not fed, and why; all before it stays."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table and how it is read.

    Attributes:
        path: Parquet, or CSV in UTF-8 with a header, packed with gzip or not; told by its first bytes.
        id: column of the identifiers under which items are indexed.
        vector: column of the vectors: lists of numbers; in CSV text, as `[0.1, -0.2]` or with blanks between.
        deletes: whether every row names an item to remove.
        delete_column: column that says, row by row, whether the item is to be removed; "" for none.
        ignored: columns that are neither of these nor attributes.
        separator: what parts the values of a list in CSV.
    """

    path: Path
    id: str = "id"
    vector: str = "vector"
    deletes: bool = False
    delete_column: str = ""
    ignored: tuple[str, ...] = ()
    separator: str = "|"


@dataclass
class Fed:
    """How far a feed went.

    Attributes:
        rows: of the table, from its beginning.
        written: items inserted or replaced.
        removed: items removed.
        absent: items that were to be removed and were not there.
        version: what took the last batch.
        resumed: rows that an interrupted feed had done before.
        missing: attributes of the index that the table does not have: null in every item that was written.
    """

    rows: int = 0
    written: int = 0
    removed: int = 0
    absent: int = 0
    version: str = ""
    resumed: int = 0
    missing: tuple[str, ...] = ()


class _Change(NamedTuple):
    row: int
    identity: int
    item: dict[str, Any] | None  # None: to be removed


Call = Callable[[str, str, bytes | None], httpx.Response]
"""`call(method, path, body)` asks the service."""


def feed(
    name: str,
    table: Table,
    *,
    port: int = 8700,
    batch: int = 1000,
    patience_s: float = PATIENCE_S,
    tell: Callable[[Fed], None] = lambda fed: None,
) -> Fed:
    """Send every row of a table to what is live.

    Args:
        name: the product.
        table: what to send; rows later in it win over earlier ones with the same id.
        port: where a service may answer on loopback.
        batch: rows of one request.
        patience_s: how long one that cannot answer now is asked again.
        tell: is called after each batch.

    Returns:
        What was done, with what an interrupted feed of the same table did before.

    Raises:
        FeedError: a row cannot be used, or is refused; the rows before it were sent.
        StoreError: nobody serves, and nothing is live; or another process writes to it.
    """
    with _door(name, port, patience_s) as call:
        reply = _answered(call, "GET", "/version", None, patience_s)
        if reply.status_code != httpx.codes.OK or "origin" not in reply.text:
            raise FeedError(f"what answers on port {port} is no service of an index; name the port of {name}.")
        state = reply.json()
        served = str(state["version"])
        if served.rpartition("@")[0] != name:
            raise FeedError(f"port {port} serves {served} and not {name}; name the port of its service.")
        reader = _Reader(table, state["dimension"], state["columns"])
        note = _note(name, table, state["origin"])
        fed = Fed(**json.loads(note.read_text())) if note.exists() else Fed()
        fed.resumed, fed.missing = fed.rows, tuple(reader.missing)
        sender = _Sender(call, table.path, state["origin"], fed, patience_s)
        changes = reader.changes(fed.rows)
        while some := list(itertools.islice(changes, batch)):
            for removed, alike in itertools.groupby(some, key=lambda change: change.item is None):
                sender.send("/delete" if removed else "/upsert", list(alike))
            note.parent.mkdir(parents=True, exist_ok=True)
            _replace(note, json.dumps(asdict(fed)))
            tell(fed)
        note.unlink(missing_ok=True)
        fed.version = fed.version or served
        return fed


def _note(name: str, table: Table, origin: str) -> Path:
    """Where is written down how far a feed of this content to this build has got."""
    with table.path.open("rb") as handle:
        content = hashlib.file_digest(handle, "sha256").hexdigest()
    reading = {key: value for key, value in asdict(table).items() if key != "path"}
    key = digest_of({"content": content, "origin": origin, **reading})
    return settings().home.resolve() / "feeding" / name / f"{key[:16]}.json"


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    write_durably(part, text.encode())
    part.replace(path)


# ------------------------------------------------------------------------------------------------------------ the door


@contextlib.contextmanager
def _door(name: str, port: int, patience_s: float) -> Iterator[Call]:
    """A way to the one writer: over HTTP when somebody answers there, else the application opened here."""
    address = f"http://{HOST}:{port}"
    with httpx.Client(base_url=address, timeout=max(60.0, patience_s), trust_env=False) as client:

        def call(method: str, path: str, body: bytes | None) -> httpx.Response:
            return client.request(method, path, content=body, headers={"Content-Type": "application/json"})

        there = True
        try:
            call("GET", "/health", None)
        except httpx.ConnectError:
            there = False
        except httpx.TransportError:  # it is busy, or just going: asked again below
            pass
        if there:
            yield call
            return
    try:
        live = Live(open_store(), name)
    except Exception as error:
        hint = f"Nobody answers on {address}; if its service listens elsewhere, give --port."
        raise StoreError(f"{error} {hint}") from error
    with live.following():
        yield _inside(guarded(live.configuration.application(live)))


def _inside(application: Any) -> Call:
    """The application of this process, called as over HTTP."""

    async def ask(method: str, path: str, body: bytes | None) -> httpx.Response:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
            headers = {"Content-Type": "application/json"}
            return await client.request(method, path, content=body, headers=headers)

    return lambda method, path, body: asyncio.run(ask(method, path, body))


def _answered(call: Call, method: str, path: str, body: bytes | None, patience_s: float) -> httpx.Response:
    """An answer, asked for again while the service is busy, full or away.

    Raises:
        FeedError: it is so for too long.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            reply = call(method, path, body)
            if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return reply
            why = _detail(reply)
        except httpx.TransportError as error:
            why = f"the service is away ({type(error).__name__}: {error})"
        if time.monotonic() > until:
            raise FeedError(f"{why} Asked again for {patience_s:.0f} s; run it again, and it goes on here.")
        time.sleep(min(1.0, patience_s / 10))


def _detail(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["detail"])
    except (ValueError, KeyError):
        return f"{reply.status_code} {reply.text[:200]}"


class _Sender:
    """Sends changes and counts them; a batch that is refused is parted until the row to blame is found."""

    def __init__(self, call: Call, path: Path, origin: str, fed: Fed, patience_s: float) -> None:
        self.call, self.path, self.origin, self.fed, self.patience_s = call, path, origin, fed, patience_s

    def send(self, address: str, changes: list[_Change]) -> None:
        what = [change.identity if change.item is None else change.item for change in changes]
        body = json.dumps({"ids" if address == "/delete" else "items": what, "origin": self.origin}).encode()
        reply = _answered(self.call, "POST", address, body, self.patience_s)
        if reply.status_code == httpx.codes.OK:
            done = reply.json()
            count = int(done["items"])
            if address == "/delete":
                self.fed.removed += count
                self.fed.absent += len(set(what)) - count
            else:
                self.fed.written += count
            self.fed.rows, self.fed.version = changes[-1].row, done["version"]
            return
        first, last = changes[0].row, changes[-1].row
        if reply.status_code == httpx.codes.CONFLICT:
            raise FeedError(
                f"{self.path}: rows before {first} went to another build than is served now: {_detail(reply)} Run it "
                "again to feed the whole table to that, if its vectors are of the same encoder."
            )
        parts = reply.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE)
        if not parts or len(changes) == 1:
            where = f"row {first}" if first == last else f"rows {first} to {last}"
            raise FeedError(f"{self.path}, {where}: {_detail(reply)} The rows before were fed.")
        middle = len(changes) // 2
        self.send(address, changes[:middle])
        self.send(address, changes[middle:])


# ------------------------------------------------------------------------------------------------------------ the table


class _Reader:
    """Rows of a table as changes; rows are counted from 1 after the header.

    Args:
        table: what to read.
        dimension: numbers in a vector.
        kinds: the index's attributes by name, with their kinds in words.

    Raises:
        FeedError: it is no table, or its columns do not suit.
    """

    def __init__(self, table: Table, dimension: int, kinds: Mapping[str, str]) -> None:
        self.table, self.dimension, self.kinds = table, dimension, kinds
        if not table.path.is_file():
            raise FeedError(f"{table.path} is no file; give the path of a Parquet or CSV file.")
        with table.path.open("rb") as handle:
            start = handle.read(4)
        self.packed, self.parquet = start[:2] == b"\x1f\x8b", start == b"PAR1"
        with self._reading():
            columns = self._columns()
        special = [table.id, *([] if table.deletes else [table.vector])]
        special += [table.delete_column] if table.delete_column else []
        for name in (*special, *table.ignored):
            if name not in columns:
                raise FeedError(f"{table.path} has no column {name!r}; it has {columns}.")
        attributes = [name for name in columns if name not in (*special, *table.ignored)]
        self.attributes = [] if table.deletes else attributes
        for name in self.attributes:
            if name not in kinds:
                raise FeedError(
                    f"{table.path} has the column {name!r}, which is no attribute of the index; that has "
                    f"{sorted(kinds)}. Leave it out with --ignore {name!r}."
                )

    @property
    def missing(self) -> list[str]:
        """Attributes of the index that the table does not have."""
        return [] if self.table.deletes else [name for name in self.kinds if name not in self.attributes]

    def changes(self, done: int) -> Iterator[_Change]:
        """The changes behind so many rows."""
        with self._reading():
            for number, values in enumerate(self._rows(done), start=done + 1):
                yield self._change(number, values)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, csv.Error, EOFError, OSError, UnicodeDecodeError) as error:
            remedy = "it must be Parquet, or CSV saved as UTF-8"
            if "lists to be of size" in str(error):  # pyarrow writes such a file and cannot read it
                remedy = "missing vectors are told by lists of any length, not by those of a fixed one"
            raise FeedError(f"{self.table.path} cannot be read ({error}); {remedy}.") from error

    def _text(self) -> IO[str]:
        csv.field_size_limit(1 << 30)  # a vector may be long
        if self.packed:
            return gzip.open(self.table.path, "rt", encoding="utf-8-sig", newline="")
        return self.table.path.open(encoding="utf-8-sig", newline="")

    def _columns(self) -> list[str]:
        if self.parquet:
            return list(pa.parquet.ParquetFile(self.table.path).schema_arrow.names)
        with self._text() as text:
            header = next(csv.reader(text), [])
        if len(set(header)) < len(header):
            raise FeedError(f"{self.table.path} names a column twice; rename one of {header}.")
        return header

    def _rows(self, done: int) -> Iterator[dict[str, Any]]:
        if self.parquet:
            wanted = [self.table.id, *([] if self.table.deletes else [self.table.vector, *self.attributes])]
            wanted += [self.table.delete_column] if self.table.delete_column else []
            before = 0
            for part in pa.parquet.ParquetFile(self.table.path).iter_batches(batch_size=1024, columns=wanted):
                skipped = min(len(part), max(0, done - before))
                before += len(part)
                yield from part.slice(skipped).to_pylist()
            return
        with self._text() as text:
            for number, row in enumerate(csv.DictReader(text), start=1):
                if None in row or None in row.values():
                    raise self._wrong(number, "", list(row.values()), "every row needs as many cells as the header")
                if number > done:
                    yield row

    def _change(self, row: int, values: Mapping[str, Any]) -> _Change:
        identity = self._identity(row, values[self.table.id])
        if self.table.deletes or (self.table.delete_column and self._deletes(row, values[self.table.delete_column])):
            return _Change(row, identity, None)
        item = {
            "id": identity,
            "vector": self._vector(row, values[self.table.vector]),
            "attributes": {name: self._attribute(row, name, values[name]) for name in self.attributes},
        }
        return _Change(row, identity, item)

    def _identity(self, row: int, value: Any) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,19}", text) or int(text) >= 2**63:
            remedy = "an id is a whole number from 0 on, that under which the item is indexed"
            raise self._wrong(row, self.table.id, value, remedy)
        return int(text)

    def _deletes(self, row: int, value: Any) -> bool:
        word = "" if value is None else str(value).strip().lower()
        if word not in (*_TRUE, *_FALSE):
            raise self._wrong(row, self.table.delete_column, value, "write true or false")
        return word in _TRUE

    def _vector(self, row: int, value: Any) -> list[float]:
        found = [part for part in re.split(r"[\s,;|\[\]]+", value) if part] if isinstance(value, str) else value
        try:
            numbers = [float(number) for number in found]
        except (TypeError, ValueError) as error:
            raise self._wrong(row, self.table.vector, value, "a vector is a list of numbers") from error
        if len(numbers) != self.dimension or not all(map(math.isfinite, numbers)):
            remedy = f"the index takes {self.dimension} finite numbers, here are {len(numbers)}"
            raise self._wrong(row, self.table.vector, value, remedy)
        return numbers

    def _attribute(self, row: int, name: str, value: Any) -> Any:
        """A value as JSON; text of a CSV by the kind of its column."""
        if isinstance(value, str) and not self.parquet:
            try:
                return _of_text(value, self.kinds[name], self.table.separator)
            except ValueError as error:
                raise self._wrong(row, name, value, f"the attribute is of kind {self.kinds[name]}") from error
        return _plain(value)

    def _wrong(self, row: int, column: str, value: Any, remedy: str) -> FeedError:
        place = f", column {column!r}" if column else ""
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return FeedError(f"{self.table.path}{place}, row {row}: {shown}: {remedy}. The rows before its batch were fed.")


def _of_text(text: str, kind: str, separator: str) -> Any:
    """A cell of a CSV; raises ValueError."""
    if not text.strip():
        return None
    match kind:
        case "string":
            return text
        case "integer":
            return int(text)
        case "float":
            return _plain(float(text))
        case "boolean":
            if text.strip().lower() not in (*_TRUE, *_FALSE):
                raise ValueError(text)
            return text.strip().lower() in _TRUE
        case "point":
            latitude, longitude = (float(part) for part in re.split(r"[\s,;|]+", text.strip()))
            return {"latitude": latitude, "longitude": longitude}
        case _:
            parts = [part.strip() for part in text.split(separator) if part.strip()]
            return [int(part) for part in parts] if kind == "list of integers" else parts


def _plain(value: Any) -> Any:
    """A value of a Parquet file as JSON has it: moments as seconds since 1970, not-a-number as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None if value != value else str(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return math.floor(moment.timestamp())
    if isinstance(value, datetime.date):
        return (value - datetime.date(1970, 1, 1)).days * 86_400
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value if value is None or isinstance(value, bool | int | str) else str(value)


# --------------------------------------------------------------------------------------------------------- the command


def feed_index(
    name: Annotated[str, typer.Argument(help="Product, as retrieval-generated.")],
    file: Annotated[Path, typer.Argument(help="Parquet, or CSV with a header; packed with gzip or not.")],
    identifiers: Annotated[str, typer.Option("--id", help="Column of the ids under which items are indexed.")] = "id",
    vector: Annotated[str, typer.Option(help="Column of the vectors, of the encoder of this index.")] = "vector",
    delete: Annotated[bool, typer.Option("--delete", help="Remove the items whose ids the file has.")] = False,
    delete_column: Annotated[str, typer.Option(help="Column that is true where the item is to be removed.")] = "",
    ignore: Annotated[list[str] | None, typer.Option(help="Column to leave out; may be repeated.")] = None,
    separator: Annotated[str, typer.Option(help="What parts the values of a list in a CSV.")] = "|",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of one request.")] = 1000,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the index's service on loopback.")] = 8700,
) -> None:
    """Write the rows of a table to a live index, through its service if that runs; one that was cut off goes on."""
    console = terminal.console()
    table = Table(
        path=file, id=identifiers, vector=vector, deletes=delete, delete_column=delete_column,
        ignored=tuple(ignore or ()), separator=separator,
    )  # fmt: skip
    told = time.monotonic()

    def tell(fed: Fed) -> None:
        nonlocal told
        if time.monotonic() - told > 5:
            told = time.monotonic()
            terminal.say(console, f"{fed.rows:,} rows")

    try:
        fed = feed(name, table, port=port, batch=batch, tell=tell)
    except (FeedError, StoreError) as error:
        raise terminal.failed(console, error) from error
    before = f", the first {fed.resumed:,} by a feed that was cut off" if fed.resumed else ""
    terminal.say(
        console,
        f"fed {fed.rows:,} rows to {fed.version}{before}: {fed.written:,} items written, {fed.removed:,} removed, "
        f"{fed.absent:,} to be removed were not there",
    )
    if fed.missing and fed.written:
        terminal.say(console, f"the table has no column for {', '.join(fed.missing)}: null in every item written")
