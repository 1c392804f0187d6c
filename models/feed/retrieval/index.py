"""The retrieval index: a torch module that answers "the k best items that pass this filter", exactly and live.

As in LiNR (section 4) the index is the model: items, attributes and marks of deletion are buffers, writes go to buffers
longer than needed behind a high-water mark, and gradients flow through the scores into the queries. Unlike LiNR, which
multiplies scores by a mask of zeros and ones (section 3.1), a rejected item scores minus infinity: with dot products a
passing item may well score below zero, and would then lose to a rejected one.

Answers are those of an exhaustive scan in float64; `scan` says why. On a CPU `engine` finds them, on a CUDA device
`gpu`, elsewhere `scan`, with the same bits. Reads take no lock: a query works on the version of the index that it
found, whatever is written meanwhile.

Shapes: N rows stored, D dimension, B queries, K results per query.
"""

import contextlib
import ctypes
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.common.contracts import Payload
from models.feed.retrieval import gpu
from models.feed.retrieval.attributes import Orders, Selection, few, select
from models.feed.retrieval.columns import Column, Growing, as_bytes, column, from_bytes, kind_of, passing
from models.feed.retrieval.engine import Best as Found
from models.feed.retrieval.engine import Engine
from models.feed.retrieval.filter import Filter, Kind, as_filter, bind
from models.feed.retrieval.scan import LONGEST, Best, blocks, exact_scores

T = TypeVar("T")
Where = Filter | str | Mapping[str, Any] | None

_GATHER = 31
"""Taking a row out costs as much as scoring it for so many queries (measured at D = 64 on a CPU)."""

_MASKS = 2**26
"""Bytes of masks held for queries that are scanned together."""

_UNORDERED = 4096
"""Rows without an order that are looked at one by one, before all are put in order again."""

_LATER = 2**16
"""Ids in a dictionary that are always fewer than are worth new arrays."""

_TOGETHER = 256
"""Queries scanned together at most."""


class Hits(NamedTuple, Generic[T]):
    """Answers to B queries.

    Attributes:
        ids: of shape (B, K), int64, best first; equal scores by ascending id; -1 where fewer than K items pass.
        scores: of shape (B, K), float64 dot products; minus infinity where the id is -1.
        passing: of shape (B,), int64: how many items the filter lets through.
    """

    ids: T
    scores: T
    passing: T


@dataclass(frozen=True)
class _View:
    """One version of the index, complete and unchanging below its number of rows."""

    rows: int
    longest: float
    memory: Tensor
    vectors: Tensor
    ids: Tensor
    live: Tensor
    columns: Mapping[str, Column]
    all_live: bool
    fast: "_Fast | None"
    card: gpu.Engine | None


class _Fast(NamedTuple):
    """What answers on a CPU are found with; covers at least the rows of its view, and the orders at most those."""

    engine: Engine
    orders: Orders
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """Queries that were checked, and the rows among which a CPU finds their answers.

    Attributes:
        engine: the codes of the rows.
        vectors: of shape (N, D), float32: the rows.
        ids: of shape (N,), int64.
        queries: of shape (B, D), float32.
        k: results per query.
        selections: B of them: the rows that pass; one object where several queries share a filter.
    """

    engine: Engine
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    queries: NDArray[np.float32]
    k: int
    selections: Sequence[Selection]

    def answer(self) -> tuple[Found, NDArray[np.int64]]:
        """The exact answers, and how many items pass each query's filter."""
        best = self.engine.search(self.queries, self.k, self.selections, self.vectors, self.ids)
        return best, np.array([selection.count for selection in self.selections], dtype=np.int64)


class Prepared(NamedTuple):
    """Rows that were checked and encoded, and that nothing can refuse any more.

    Attributes:
        ids: of shape (M,), int64, none twice.
        vectors: of shape (M, D), float32.
        table: M rows with the index's columns, in their order and types.
        encoded: by the column's name, what it stores.
    """

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    table: pa.Table
    encoded: Mapping[str, tuple[Tensor, ...]]


class _Places:
    """In which row each id was put last; whether the row is live is not known here.

    Two sorted arrays take 16 bytes per id where a dictionary takes some 100; one holds what came since they were made.

    Args:
        ids: of shape (N,), int64, none twice.
        rows: of shape (N,), int64.
    """

    def __init__(self, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        order = ids.argsort(kind="stable")
        self._ids, self._rows = ids[order], rows[order]
        self._later: dict[int, int] = {}

    @property
    def crowded(self) -> bool:
        """Whether so many ids came since that new arrays are due."""
        return len(self._later) > max(_LATER, len(self._ids) // 4)

    def put(self, ids: NDArray[np.int64], start: int) -> None:
        """Note that ids stand from row `start` on now."""
        self._later.update(zip(ids.tolist(), range(start, start + len(ids)), strict=True))

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of those ids that were ever put, int64."""
        places = np.searchsorted(self._ids, ids)
        rows = np.full(len(ids), -1)
        inside = np.flatnonzero(places < len(self._ids))
        inside = inside[self._ids[places[inside]] == ids[inside]]
        rows[inside] = self._rows[places[inside]]
        if self._later:
            pairs = zip(ids.tolist(), rows.tolist(), strict=True)
            rows = np.array([self._later.get(identity, row) for identity, row in pairs], np.int64)
        return rows[rows >= 0]


class RetrievalIndex(Growing):
    """Items with vectors and attributes, searchable under filters, and changeable while being searched.

    Make one with `build` or `restore`; the constructor gives an empty one, to be filled by `upsert` or
    `load_state_dict`.

    Args:
        dimension: numbers in a vector, at least 1.
        fields: names and types of the attribute columns; none for an index without attributes.

    Raises:
        ValueError: the dimension is below 1, a column's type cannot be filtered, or a name stands twice.
    """

    vectors: Tensor
    ids: Tensor
    live: Tensor

    def __init__(self, dimension: int, fields: pa.Schema | None = None) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(
                f"dimension must be at least 1, got {dimension}; give vectors of shape (items, dimension)."
            )
        fields = pa.schema([]) if fields is None else fields
        names = list(fields.names)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"attribute columns {twice} stand more than once in the table; rename or drop the others.")
        self.register_buffer("vectors", torch.zeros((0, dimension), dtype=torch.float32))
        self.register_buffer("ids", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("live", torch.zeros(0, dtype=torch.bool))
        self.columns = torch.nn.ModuleList([column(name, fields.field(name).type) for name in names])
        self._schema = {entry.name: kind_of(entry.name, entry.arrow) for entry in self._columns().values()}
        self._rows = 0
        self._alive = 0
        self._longest = 0.0
        self._places: _Places | None = None
        self._shown: Tensor | None = None
        self._seen: _View | None = None
        self._asked = False
        self._engine = Engine(dimension)
        self._orders = Orders(0, {})
        self._card: gpu.Engine | None = None
        self._writing = threading.RLock()
        self._publishing = threading.Lock()

    # --- what it is ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls, vectors: NDArray[np.float32], ids: NDArray[np.int64], attributes: pa.Table | None = None
    ) -> "RetrievalIndex":
        """Make an index of items.

        Args:
            vectors: of shape (N, D), float32, finite, each shorter than 1e18; N may be 0. They are copied.
            ids: of shape (N,), int64, not negative. Of rows with the same id, the last one counts.
            attributes: N rows of columns of string, bool, integer, float, list of string or integer, or points (structs
                of latitude and longitude, or lat and lon, as floats in degrees); nulls are welcome everywhere, and
                not-a-number counts as null. None for items without attributes.

        Returns:
            The index; `schema` tells the kinds of its columns.

        Raises:
            ValueError: an argument has another shape or type, a vector is not finite or too long, an id is negative,
                a point lies nowhere on the sphere, or a column's type cannot be filtered; the message names which.

        Source:
            LiNR, section 4; the layout of columns is ours.
        """
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2:
            raise ValueError(f"vectors must be an array of shape (items, dimension), got {_described(vectors)}.")
        _check_table(attributes)
        index = cls(vectors.shape[1], None if attributes is None else attributes.schema)
        index.upsert(ids, vectors, attributes)
        _give_back()
        return index

    @property
    def dimension(self) -> int:
        """Numbers in a vector, D."""
        return self.vectors.shape[1]

    @property
    def schema(self) -> dict[str, Kind]:
        """Column name to the kind of its values, in the table's order; what a filter may speak of."""
        return dict(self._schema)

    @property
    def fields(self) -> pa.Schema:
        """Names and types of the attribute columns, as `build` was given them."""
        return pa.schema([pa.field(name, entry.arrow) for name, entry in self._columns().items()])

    @property
    def rows(self) -> int:
        """Rows stored, replaced and deleted ones included; far above `len(index)` it is time to `compact`."""
        return self._rows

    def __len__(self) -> int:
        """Items that can be found."""
        return self._alive

    def __bool__(self) -> bool:
        """True: an index without items is an index."""
        return True

    # --- questions ----------------------------------------------------------------------------------------------------

    def forward(self, queries: Tensor, k: int, where: Where | Sequence[Where] = None) -> Hits[Tensor]:
        """Find the k best passing items of every query.

        Args:
            queries: of shape (B, D), on the index's device; taken as float32, finite, shorter than 1e18.
            k: results per query, at least 1; more than pass leaves places unfilled.
            where: None for every item; a filter, its text, or its dictionary for all queries; or a sequence of B of
                these. Clauses of one query are one filter: see `filter.all_of`.

        Returns:
            The exact answer. Scores carry gradients into the queries when these ask for them.

        Raises:
            FilterError: a filter does not suit the columns.
            ValueError: k is below 1, the queries' shape is wrong or one is not finite, or there are not B filters.

        Source:
            LiNR, sections 3.1 (filter, then score) and 4 (the index as a module); exactness is ours.
        """
        self._check_question(queries, k)
        view = self._view()
        with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
            asked = queries.detach().float()
            if view.fast is not None and view.card is None and asked.device.type == "cpu":
                best, passed = self._question(view, view.fast, asked.numpy(), k, where).answer()
                hits = Hits(torch.from_numpy(best.ids), torch.from_numpy(best.scores), torch.from_numpy(passed))
                rows = torch.from_numpy(best.rows)
            else:
                _check_lengths(torch.linalg.vector_norm(asked.double(), dim=1).cpu().numpy())
                hits, rows = _answer(view, asked, k, self._filters(where, len(asked)))
        if torch.is_grad_enabled() and queries.requires_grad:
            scores = exact_scores(view.vectors[rows.clamp(min=0)], queries.float()[:, None])
            hits = hits._replace(scores=scores.masked_fill(rows < 0, -torch.inf))
        return hits

    def search(self, queries: NDArray[np.float32], k: int, where: Where | Sequence[Where] = None) -> Hits[NDArray[Any]]:
        """`forward` for arrays: the same answer, as arrays and without gradients."""
        question = self.question(queries, k, where)
        if question is not None:
            best, passed = question.answer()
            return Hits(best.ids, best.scores, passed)
        with torch.no_grad():
            hits = self(torch.from_numpy(np.ascontiguousarray(queries)).to(self.vectors.device), k, where)
        return Hits(*(part.cpu().numpy() for part in hits))

    def explain(self, where: Where = None) -> dict[str, Any]:
        """What a filter lets through, and how it would be answered.

        Args:
            where: as in `forward`, for one query.

        Returns:
            filter: the text of the filter; items: how many there are; passing: how many pass; strategy: "none" when
            none pass, "gather" when the passing rows are taken out and scored, "scan" when all rows are scored, as on
            a card always.

        Raises:
            FilterError: the filter does not suit the columns.

        Source:
            The two strategies are LiNR's V2 and V1 (section 3.1).
        """
        view = self._view()
        (bound,) = self._filters(where, 1)
        if view.fast is not None and view.card is None:
            count = _selected(view, view.fast, bound, 1).count
            gathers = few(count, view.rows, 1)
        else:
            count = int(torch.count_nonzero(_mask(view, bound)))
            gathers = view.card is None and _gathers(count, view.rows, 1)
        strategy = "none" if count == 0 else "gather" if gathers else "scan"
        return {
            "filter": str(bound),
            "items": int(torch.count_nonzero(view.live)),
            "passing": count,
            "strategy": strategy,
        }

    # --- changes ------------------------------------------------------------------------------------------------------

    def upsert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], attributes: pa.Table | None = None) -> None:
        """Insert items, or replace those whose ids are there already, as one change.

        A query sees all of it or nothing; one that starts after the return sees all. When the call raises, nothing
        has changed.

        Args:
            ids: of shape (M,), int64, not negative; of rows with the same id, the last one counts.
            vectors: of shape (M, D), float32, finite, each shorter than 1e18.
            attributes: M rows with exactly the index's columns, in any order, of types that cast to theirs without
                loss; None for an index without attributes.

        Raises:
            ValueError: as in `build`, or a column is missing, unknown, or does not cast.

        Source:
            LiNR, section 4 (pre-allocated buffers, high-water mark); the mark of deletion for the old row is ours.
        """
        with self._writing:
            self.insert(self.prepare(ids, vectors, attributes))

    def prepare(
        self, ids: NDArray[np.int64], vectors: NDArray[np.float32], attributes: pa.Table | None = None
    ) -> Prepared:
        """The first half of `upsert`, for who has something to do before the rows can be found: write them down.

        Arguments, errors and source are those of `upsert`. A `compact` before the `insert` makes it void.
        """
        _check_rows(ids, vectors, attributes, self.dimension)
        with self._writing:
            table = self._suited(attributes)
            kept = _last_of_each(ids)
            if len(kept) < len(ids):
                ids, vectors, table = ids[kept], vectors[kept], table.take(pa.array(kept))
            encoded = {name: entry.encode(table.column(name)) for name, entry in self._columns().items()}
            return Prepared(ids, vectors, table, encoded)

    def insert(self, rows: Prepared) -> None:
        """The second half of `upsert`."""
        ids = rows.ids
        with self._writing:
            start, end = self._rows, self._rows + len(ids)
            longest = max(self._longest, _longest(rows.vectors))
            replaced = self._rows_of(ids)
            for name, entry in self._columns().items():
                entry.append(rows.encoded[name], start)
            self._reserve("vectors", end)[start:end] = torch.from_numpy(np.ascontiguousarray(rows.vectors))
            self._reserve("ids", end)[start:end] = torch.from_numpy(np.ascontiguousarray(ids))
            live = self._reserve("live", len(self.vectors))
            orders = self._follow(min(start, self._engine.rows), end)
            if self._places is not None:
                self._places.put(ids, start)
                self._places = None if self._places.crowded else self._places
            with self._publishing:
                self._shown = self._to_be_shown(end, replaced, slice(start, end))
                live[replaced] = False
                live[start:end] = True
                self._rows, self._longest, self._orders = end, longest, orders
                self._alive += len(ids) - len(replaced)

    def delete(self, ids: Iterable[int] | NDArray[np.int64]) -> int:
        """Remove items; a query that starts after the return finds none of them.

        Args:
            ids: which; ids that are not there are passed over.

        Returns:
            How many items were removed.

        Source:
            LiNR, section 4; the row stays, marked, until `compact`.
        """
        wanted = np.unique(np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64))
        with self._writing:
            gone = self._rows_of(wanted)
            with self._publishing:
                self._shown = self._to_be_shown(self._rows, gone, slice(0))
                self.live[gone] = False
                self._alive -= len(gone)
        return len(gone)

    def compact(self, arrange: Callable[[NDArray[np.float32]], NDArray[np.int64]] | None = None) -> None:
        """Drop replaced and deleted rows, spare room, and dictionary entries that no item uses any more.

        Answers stay the same to the bit. Queries go on meanwhile; writes wait. Needs room for a second index.

        Args:
            arrange: takes the vectors in order of id, (N, D), and says in which order (N,) the rows shall stand; none
                leaves them in order of id. `probing` has the rows of a list stand together.

        Source:
            LiNR's compacted snapshot (section 4), in memory.
        """
        with self._writing:
            items = self.snapshot()
            if arrange is not None:
                order = arrange(items["vectors"])
                items = {
                    name: part.take(order) if isinstance(part, pa.Table) else part[order]
                    for name, part in items.items()
                }
            fresh = RetrievalIndex.restore(items).to(self.vectors.device)
            fresh._view()
            with self._publishing:
                self.vectors, self.ids, self.live = fresh.vectors, fresh.ids, fresh.live
                self.columns = fresh.columns
                self._rows, self._alive, self._longest = fresh._rows, fresh._alive, fresh._longest
                self._engine, self._orders, self._card = fresh._engine, fresh._orders, fresh._card
                self._places = self._shown = None

    # --- at rest ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Payload:
        """The items as plain data, in order of id: the same items give the same bytes, whatever their history.

        Returns:
            vectors: of shape (N, D), float32; ids: of shape (N,), int64, ascending; attributes: a table of N rows
            with the columns' own types, or without columns. Nulls stay null, and not-a-number has become null.

        Source:
            LiNR's compacted snapshot (section 4).
        """
        view = self._view()
        rows = view.live.nonzero().flatten()
        rows = rows[view.ids[rows].argsort()]
        fields = pa.schema([pa.field(name, entry.arrow) for name, entry in view.columns.items()])
        values = [entry.values(rows) for entry in view.columns.values()]
        return {
            "vectors": view.vectors[rows].detach().cpu().numpy(),
            "ids": view.ids[rows].cpu().numpy(),
            "attributes": pa.table(values, schema=fields),
        }

    @classmethod
    def restore(cls, payload: Payload) -> "RetrievalIndex":
        """The index of a snapshot; its answers equal those of the index that gave it, to the bit.

        Args:
            payload: what `snapshot` gave.

        Returns:
            The index.

        Raises:
            ValueError: parts are missing or unknown, or do not make an index (see `build`).

        Source:
            Ours.
        """
        expected = {"vectors", "ids", "attributes"}
        if set(payload) != expected:
            raise ValueError(f"an index is stored in the parts {sorted(expected)}, got {sorted(payload)}.")
        attributes = payload["attributes"]
        return cls.build(payload["vectors"], payload["ids"], attributes if attributes.num_columns else None)

    def get_extra_state(self) -> Tensor:
        """What the buffers do not say, as JSON in a byte tensor: rows in use, and the columns."""
        return as_bytes({"rows": self._rows, "columns": self._described_columns()})

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self._rows = int(from_bytes(state)["rows"])
        self._alive = int(self.live[: self._rows].sum())
        self._longest = _longest(self.vectors[: self._rows].cpu().numpy())
        self._engine, self._orders, self._card = Engine(self.dimension), Orders(0, {}), None
        self._places = self._shown = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        with self._writing:  # marks change in place, all else is only appended to: this is what stays one version
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "live"] = self.live.clone()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(prefix + "_extra_state")
        if saved is not None and from_bytes(saved)["columns"] != self._described_columns():
            raise ValueError(
                f"the saved index has columns {from_bytes(saved)['columns']}, this one {self._described_columns()}; "
                "construct it with the fields of the saved one."
            )
        vectors = state_dict.get(prefix + "vectors")
        if vectors is not None and vectors.shape[1] != self.dimension:
            raise ValueError(
                f"the saved index has dimension {vectors.shape[1]}, this one {self.dimension}; "
                "construct it with the dimension of the saved one."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        made = ("_writing", "_publishing", "_engine", "_orders", "_card", "_places", "_shown", "_seen", "_asked")
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._writing, self._publishing = threading.RLock(), threading.Lock()
        self._engine, self._orders, self._card = Engine(self.dimension), Orders(0, {}), None
        self._places = self._shown = self._seen = None
        self._asked = False

    # --- inside -------------------------------------------------------------------------------------------------------

    def _columns(self) -> dict[str, Column]:
        return {entry.name: entry for entry in self.columns if isinstance(entry, Column)}

    def _described_columns(self) -> list[list[str]]:
        return [[name, str(entry.arrow)] for name, entry in self._columns().items()]

    def _view(self) -> _View:
        """The version of now. On a CPU it is made once: every change takes `_shown` away, a move the vectors."""
        vectors, seen = self.vectors, self._seen
        if seen is not None and seen.live is self._shown and seen.memory is vectors:
            return seen
        here = vectors.device.type == "cpu"
        if here and self._engine.rows < self._rows:  # after loading, and on coming back from another device
            with self._writing:
                self._orders = self._follow(self._engine.rows, self._rows)
        carded = gpu.usable(self.vectors.device, self.dimension)
        if carded and (self._card is None or self._card.device != self.vectors.device or self._card.rows < self._rows):
            with self._writing:
                if self._card is None or self._card.device != self.vectors.device:
                    self._card = gpu.Engine(self.dimension, self.vectors.device)
                self._follow_on_card(self._card, self._rows)
        with self._publishing:
            rows = self._rows
            # Marks change in place; a query needs a copy that does not. See `_to_be_shown`.
            self._asked = True
            if self._shown is None or self._shown.device != self.live.device:
                self._shown = self.live[:rows].clone()
            vectors, ids = self.vectors[:rows], self.ids[:rows]
            fast = _Fast(self._engine, self._orders, vectors.detach().numpy(), ids.numpy()) if here else None
            view = _View(
                rows, self._longest, self.vectors, vectors, ids, self._shown, self._columns(), self._alive == rows,
                fast, self._card if carded else None,
            )  # fmt: skip
            self._seen = view if here and not carded else None
            return view

    def _to_be_shown(self, rows: int, gone: Tensor, new: slice) -> Tensor | None:
        """The marks of so many rows after a write, for queries; None leaves them to the first query.

        Whoever writes makes them, so that queries need not wait, but for nothing while nobody asks.
        """
        shown = self._shown
        if shown is None or not self._asked or shown.device != self.live.device:
            return None
        self._asked = False
        after = shown.new_empty(rows)
        if shown.device.type == "cpu":
            after.numpy()[: len(shown)] = shown.numpy()  # torch would have threads wait for one another
        else:
            after[: len(shown)] = shown
        after[gone] = False
        after[new] = True
        return after

    def _follow(self, start: int, rows: int) -> Orders:
        """Bring codes up to so many rows; on a CPU, and on a card that was asked before.

        Returns:
            The orders from now on, new ones when too many rows have none. They are to be shown together with the rows.
        """
        if self._card is not None and self._card.device == self.vectors.device:
            self._follow_on_card(self._card, rows)
        if self.vectors.device.type != "cpu":
            return self._orders
        self._engine.append(self.vectors[start:rows].detach().numpy(), start)
        close = rows - self._orders.rows <= max(_UNORDERED, rows // 64)
        return self._orders if close else Orders.of(self._columns(), rows, self._orders)

    def _follow_on_card(self, card: gpu.Engine, rows: int) -> None:
        start = min(self._rows, card.rows)
        card.append(self.vectors[start:rows].detach(), start)

    def _filters(self, where: Where | Sequence[Where], queries: int) -> list[Filter]:
        one = where is None or isinstance(where, str | Filter | Mapping)
        wanted: Sequence[Any] = [where] * queries if one else list(where)  # type: ignore[arg-type]
        if len(wanted) != queries:
            raise ValueError(f"{queries} queries need one filter for all, or {queries} filters; got {len(wanted)}.")
        read: dict[Any, Filter] = {}
        bound = []
        for entry in wanted:
            # Filters are told apart by identity here: equal ones may still hold values of different types.
            key = entry if isinstance(entry, str) else id(entry)
            if key not in read:
                read[key] = bind(as_filter(entry), self._schema)
            bound.append(read[key])
        return bound

    def _check_question(self, queries: Any, k: Any) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be an integer of at least 1, got {k!r}.")
        if not isinstance(queries, Tensor | np.ndarray) or queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"queries must have shape (queries, {self.dimension}), got {_described(queries)}.")
        if not (queries.is_floating_point() if isinstance(queries, Tensor) else queries.dtype.kind == "f"):
            raise ValueError(f"queries must be of a floating type, got {queries.dtype}; convert them to float32.")

    def question(
        self, queries: NDArray[np.float32], k: int, where: Where | Sequence[Where] = None
    ) -> "Question | None":
        """What `search` would answer, for who answers it in another way; None where it is not a CPU that answers.

        Arguments, errors and source are those of `search`.
        """
        if not isinstance(queries, np.ndarray):
            raise ValueError(f"queries must be an array of shape (queries, dimension), got {_described(queries)}.")
        self._check_question(queries, k)
        view = self._view()
        if view.fast is None or view.card is not None:
            return None
        return self._question(view, view.fast, queries.astype(np.float32, copy=False), k, where)

    def _question(
        self, view: _View, fast: _Fast, queries: NDArray[np.float32], k: int, where: Where | Sequence[Where]
    ) -> Question:
        _check_lengths(_lengths(queries))
        filters = self._filters(where, len(queries))
        chosen: dict[Filter, Selection] = {}
        for one in filters:
            if one not in chosen:
                chosen[one] = _selected(view, fast, one, len(filters))
        return Question(
            fast.engine, fast.vectors, fast.ids, np.ascontiguousarray(queries), k, [chosen[one] for one in filters]
        )

    def _suited(self, attributes: pa.Table | None) -> pa.Table:
        """The table with the index's columns, in their order and types."""
        columns = self._columns()
        names = [] if attributes is None else attributes.column_names
        missing, unknown = sorted(set(columns) - set(names)), sorted(set(names) - set(columns))
        if missing or unknown or len(names) != len(columns):
            raise ValueError(
                f"attributes must have the columns {sorted(columns)}, got {sorted(names)}: "
                f"missing {missing}, unknown {unknown}."
            )
        suited = {}
        for name, entry in columns.items():
            try:
                suited[name] = entry.suited(attributes.column(name))  # type: ignore[union-attr]
            except (ValueError, pa.ArrowNotImplementedError) as error:
                raise ValueError(
                    f"attribute column {name!r} does not fit the index's {entry.arrow}: {error}"
                ) from error
        return pa.table(suited)

    def _rows_of(self, ids: NDArray[np.int64]) -> Tensor:
        """Row numbers of the ids that are there; the first write that needs it makes what they are looked up in."""
        if not self._rows:
            return torch.zeros(0, dtype=torch.int64, device=self.live.device)
        if self._places is None:
            rows = self.live[: self._rows].nonzero().flatten()
            self._places = _Places(self.ids[rows].cpu().numpy(), rows.cpu().numpy())
        found = torch.from_numpy(self._places.of(ids)).to(self.live.device)
        return found[self.live[found]]


def _answer(view: _View, queries: Tensor, k: int, filters: Sequence[Filter]) -> tuple[Hits[Tensor], Tensor]:
    """The hits, and the row number of each, on any device."""
    if view.card is not None:
        chosen = gpu.select(filters, view.columns, view.live, all_live=view.all_live)
        found = view.card.search(queries.contiguous(), k, chosen, view.vectors.detach(), view.ids)
        return Hits(found.ids, found.scores, found.passed), found.rows
    count, device = len(queries), queries.device
    ids = torch.full((count, k), -1, dtype=torch.int64, device=device)
    scores = torch.full((count, k), -torch.inf, dtype=torch.float64, device=device)
    rows, passed = ids.clone(), torch.zeros(count, dtype=torch.int64, device=device)
    askers: defaultdict[Filter, list[int]] = defaultdict(list)
    for query, where in enumerate(filters):
        askers[where].append(query)

    def keep(members: list[int], best: Best) -> None:
        ids[members], scores[members], rows[members] = best.ids, best.scores, best.rows

    together: list[tuple[Tensor, list[int]]] = []

    def scan() -> None:
        if together:
            members = [query for _, queries_of_mask in together for query in queries_of_mask]
            keep(members, _scanned(view, queries[members], k, together))
            together.clear()

    for where, asking in askers.items():
        mask = _mask(view, where)
        total = int(torch.count_nonzero(mask))
        passed[asking] = total
        if total == 0:
            continue
        for start in range(0, len(asking), _TOGETHER):
            members = asking[start : start + _TOGETHER]
            if _gathers(total, view.rows, len(members)):
                keep(members, _gathered(view, queries[members], k, mask.nonzero().flatten()))
                continue
            waiting = sum(len(others) for _, others in together)
            if waiting + len(members) > _TOGETHER or (len(together) + 1) * view.rows > _MASKS:
                scan()
            together.append((mask, members))
    scan()
    return Hits(ids, scores, passed), rows


def _selected(view: _View, fast: _Fast, where: Filter, queries: int) -> Selection:
    return select(where, view.columns, fast.orders, view.live, all_live=view.all_live, queries=queries)


def _mask(view: _View, where: Filter) -> Tensor:
    return passing(where, view.columns, slice(view.rows), view.live) & view.live


def _gathers(passing_rows: int, rows: int, queries: int) -> bool:
    """Whether taking the passing rows out, and scoring them, costs less than scoring all."""
    return passing_rows * (_GATHER + queries) <= rows * queries


def _gathered(view: _View, queries: Tensor, k: int, rows: Tensor) -> Best:
    """The best among the given rows."""
    best = Best(queries, k, view.longest)
    for start, end in blocks(len(rows), len(queries), view.vectors.shape[1], k):
        block = rows[start:end]
        best.offer(view.vectors[block], view.ids[block], block)
    return best


def _scanned(view: _View, queries: Tensor, k: int, masks: Sequence[tuple[Tensor, list[int]]]) -> Best:
    """The best among all rows, each query under the mask that it is listed with."""
    best = Best(queries, k, view.longest)
    owner = torch.tensor([number for number, (_, members) in enumerate(masks) for _ in members], device=queries.device)
    every = torch.arange(view.rows, device=queries.device)
    for start, end in blocks(view.rows, len(queries), view.vectors.shape[1], k):
        allowed = torch.stack([mask[start:end] for mask, _ in masks])
        if 1 < len(masks) < len(queries):
            allowed = allowed[owner]
        best.offer(view.vectors[start:end], view.ids[start:end], every[start:end], allowed)
    return best


def _give_back() -> None:
    """Return freed memory to the system: glibc keeps what lies between arrays that live longer, a fifth of an index."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def _check_rows(ids: Any, vectors: Any, attributes: Any, dimension: int) -> None:
    """Hold the arguments of `build` and `upsert` to what their docstrings ask."""
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ValueError(f"vectors must have shape (items, {dimension}), got {_described(vectors)}.")
    if vectors.dtype != np.float32:
        raise ValueError(f"vectors must be float32, got {vectors.dtype}; convert with .astype(np.float32).")
    if not isinstance(ids, np.ndarray) or ids.dtype != np.int64 or ids.ndim != 1:
        raise ValueError(f"ids must be an int64 array of shape (items,), got {_described(ids)}.")
    if len(ids) != len(vectors):
        raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors; give one id for each.")
    _check_table(attributes)
    if attributes is not None and attributes.num_columns and len(attributes) != len(ids):
        raise ValueError(f"{len(attributes)} rows of attributes for {len(ids)} ids; give one row for each.")
    if len(ids) and ids.min() < 0:
        raise ValueError(f"id {ids.min()} in row {ids.argmin()} is negative; -1 marks places without a hit.")
    lengths = _lengths(vectors)
    wrong = np.flatnonzero(~(lengths < LONGEST))
    if len(wrong):
        raise ValueError(
            f"the vector of id {ids[wrong[0]]} in row {wrong[0]} has length {lengths[wrong[0]]:g}, and "
            f"{len(wrong) - 1} others are like it; vectors must be finite and shorter than {LONGEST:g}."
        )


def _check_lengths(lengths: NDArray[np.float64]) -> None:
    """Hold queries to be finite and not too long."""
    if not (lengths < LONGEST).all():
        wrong = np.flatnonzero(~(lengths < LONGEST))[0]
        raise ValueError(
            f"query {wrong} has length {lengths[wrong]:g}; queries must be finite and shorter than {LONGEST:g}."
        )


def _check_table(attributes: Any) -> None:
    if attributes is not None and not isinstance(attributes, pa.Table):
        raise ValueError(f"attributes must be a pyarrow.Table or None, got {_described(attributes)}.")


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of shape (N,); not-a-number for vectors that are not finite."""
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return np.sqrt(squares)


def _longest(vectors: NDArray[np.float32]) -> float:
    return float(_lengths(vectors).max(initial=0.0))


def _last_of_each(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the last row of each id, ascending."""
    _, first_from_behind = np.unique(ids[::-1], return_index=True)
    return np.sort(len(ids) - 1 - first_from_behind)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}" + (f" of shape {tuple(shape)}, {value.dtype}" if shape is not None else "")
