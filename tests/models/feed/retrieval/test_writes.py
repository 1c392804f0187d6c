"""What was written is told again without an index, and an index that holds something else is refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import Payload
from models.feed.retrieval.config import IndexConfig
from models.feed.retrieval.delta import DeltaError, LiveIndex, replayed, stored
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.judge import JudgementConfig, Source, judge_compacted
from models.feed.retrieval.writes import Writes, writes_of
from tests.deltas import ITEMS, History, compacted, first, rows_of, vector_of

INDEX = IndexConfig()


def told(folder: Path) -> Writes:
    found = stored(folder)
    assert found is not None
    return writes_of(first().snapshot(), found)


def sorted_rows(vectors: np.ndarray, ids: np.ndarray, attributes: pa.Table) -> tuple[Any, ...]:
    order = np.argsort(ids)
    return ids[order].tolist(), vectors[order].tolist(), attributes.take(pa.array(order)).to_pylist()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), acts=st.lists(st.sampled_from(["write", "adopt", "compact"]), max_size=9))
def test_items_and_writes_make_what_the_index_makes_whatever_became_of_the_log(
    tmp_path_factory: pytest.TempPathFactory, seed: int, acts: list[str]
) -> None:
    folder, history = tmp_path_factory.mktemp("live") / "live", History(seed)
    with history.create(folder) as live:
        for act in acts:
            live.flush()
            match act:
                case "write":
                    history.go_on(live, 4)
                case "adopt":
                    live.adopt(**compacted(folder))
                case _:
                    live.compact()
        live.flush()
        built, state = first().snapshot(), history.state(live.sequence)
        writes = told(folder)
        assert writes.sequence == live.sequence
        assert sorted_rows(**dict(zip(("vectors", "ids", "attributes"), writes.applied(**built), strict=True))) == (
            sorted_rows(**live.index.snapshot())
        )
        changed = [one for one, stamp in sorted(state.items()) if stamp]
        assert (writes.ids.tolist(), writes.gone.tolist()) == (changed, sorted(set(range(ITEMS)) - set(state)))
        assert writes.vectors.tolist() == [vector_of(one, state[one]) for one in changed]
        assert writes.missing_from(live.index.snapshot()) == 0
        again = Writes.of(writes.parts())
        assert again.attributes.equals(writes.attributes)
        assert (again.line, again.sequence) == (live.line, live.sequence)


def test_writes_that_change_nothing_in_the_end_leave_no_trace(tmp_path: Path) -> None:
    with History(1).create(tmp_path) as live:
        ids, vectors, table = rows_of([3, 4], 0)
        live.upsert(ids, vectors, table)  # as they are
        live.upsert(*rows_of([100], 9))
        live.delete([100, 200])
        live.delete([5])
        live.upsert(*rows_of([5], 0))
        live.flush()
        writes = told(tmp_path)
    assert (len(writes.ids), len(writes.gone), writes.sequence) == (0, 0, 5)


def test_attributes_of_every_kind_are_told_as_the_index_keeps_them(tmp_path: Path) -> None:
    kinds = {
        "kind": pa.array(["a", None, "b"]).cast(pa.dictionary(pa.int8(), pa.string())),
        "price": pa.array([0.5, float("nan"), None], pa.float32()),
        "tags": pa.array([["é", "é"], [None], None], pa.list_(pa.string())),
        "place": pa.array([{"lat": 1.0, "lon": -180.0}, {"lat": None, "lon": 2.0}, None]),
        "vector": pa.array([1, 2, None], pa.uint64()),
        "fresh": pa.array([True, None, False]),
    }
    vectors, table = np.eye(3, 5, dtype=np.float32), pa.table(kinds)
    built = RetrievalIndex.build(vectors, np.arange(3), table).snapshot()
    with LiveIndex.create(tmp_path, built) as live:
        live.upsert(np.array([1, 2, 8]), vectors + 1, table.take(pa.array([0, 1, 2])))
        live.upsert(np.array([0]), vectors[:1], table.slice(0, 1))  # as it is, by other words
        live.flush()
        found = stored(tmp_path)
        assert found is not None
        writes = writes_of(built, found)
        assert writes.ids.tolist() == [1, 2, 8]
        assert writes.missing_from(replayed(found)) == 0
        live.adopt(replayed(found), line=live.line, sequence=found.sequence)
        after = stored(tmp_path)
        assert after is not None and not after.records
        assert writes_of(built, after).ids.tolist() == [1, 2, 8]


def test_an_index_without_attributes_is_told_too(tmp_path: Path) -> None:
    built = RetrievalIndex.build(np.eye(3, dtype=np.float32), np.arange(3)).snapshot()
    with LiveIndex.create(tmp_path, built) as live:
        live.upsert(np.array([2, 3]), np.ones((2, 3), np.float32))
        live.delete([0])
        live.flush()
        found = stored(tmp_path)
    assert found is not None
    writes = writes_of(built, found)
    vectors, ids, attributes = writes.applied(built["vectors"], built["ids"], built["attributes"])
    assert (ids.tolist(), vectors.shape, attributes.num_columns) == ([1, 2, 3], (3, 3), 0)
    assert writes.missing_from(replayed(found)) == 0


def test_only_what_no_crash_can_take_is_folded(tmp_path: Path) -> None:
    history = History(2)
    with history.create(tmp_path) as live:
        history.go_on(live, 3)
        live.flush()
        history.go_on(live, 2)
        before = (tmp_path / "delta.log").read_bytes()
        product, written = INDEX.compact(first().snapshot(), tmp_path, None) or ({}, {})
        assert written["about"] == {"line": live.line, "sequence": 3}
        assert product["ids"].tolist() == sorted(history.state(3))
        assert (tmp_path / "delta.log").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            ["delta.log", "writer.lock", live._delta.description.base]
        )


def test_there_is_nothing_to_fold_without_writes_or_beyond_those_that_are_published(tmp_path: Path) -> None:
    built, history = first().snapshot(), History(2)
    assert INDEX.compact(built, tmp_path / "nowhere", None) is None
    with history.create(tmp_path / "live") as live:
        assert INDEX.compact(built, tmp_path / "live", None) is None
        history.go_on(live, 3)
        live.flush()
        _, written = INDEX.compact(built, tmp_path / "live", None) or ({}, {})
        assert INDEX.compact(built, tmp_path / "live", written) is None
        history.go_on(live, 2)
        live.flush()
        _, more = INDEX.compact(built, tmp_path / "live", written) or ({}, {})
        assert more["about"]["sequence"] == 5
        with history.create(tmp_path / "other") as other:
            assert INDEX.compact(built, tmp_path / "other", written) is None
            history.go_on(other, 9)
            other.flush()
            with pytest.raises(DeltaError, match=r"other holds other writes .* compact where that is written to"):
                INDEX.compact(built, tmp_path / "other", written)


# --- the judgement of what was compacted ------------------------------------------------------------------------------

SETTINGS = JudgementConfig(cases=40, queries=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Payload, Writes]:
    folder, history = tmp_path_factory.mktemp("made"), History(4)
    with history.create(folder) as live:
        history.go_on(live, 30)
        live.flush()
        product, written = INDEX.compact(first().snapshot(), folder, None) or ({}, {})
    return product, Writes.of(written)


def judged(product: Payload, writes: Writes) -> Any:
    vectors, ids, attributes = writes.applied(**first().snapshot())
    queries = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    source = Source(vectors=vectors, ids=ids, attributes=attributes, queries=queries, members=queries)
    return judge_compacted(product, writes, source, SETTINGS)


def test_what_was_compacted_holds_and_says_how_much_was_written(made: tuple[Payload, Writes]) -> None:
    product, writes = made
    judgement = judged(product, writes)
    assert judgement.certificate.holds, [claim.sentence() for claim in judgement.certificate.failures()]
    assert judgement.certificate.kinds == "exact"
    assert judgement.metrics["items_written"] == len(writes.ids) > 10
    assert judgement.metrics["items_removed"] == len(writes.gone) > 1
    assert judgement.metrics[judgement.headline] == 1
    assert f"{len(writes.ids)} written" in judgement.protocol


def _rows(product: Payload, order: Any) -> Payload:
    order = np.asarray(order, np.int64)
    return {name: part.take(pa.array(order)) if name == "attributes" else part[order] for name, part in product.items()}


def _with(product: Payload, **parts: Any) -> Payload:
    return {**product, **parts}


def _set(product: Payload, row: int, column: str, value: Any) -> Payload:
    table = product["attributes"]
    values = table[column].to_pylist()
    values[row] = value
    number = table.column_names.index(column)
    return _with(product, attributes=table.set_column(number, column, pa.array(values, table[column].type)))


Corrupt = Callable[[Payload, Writes, np.random.Generator], Payload]


def _written(product: Payload, writes: Writes, draw: np.random.Generator) -> int:
    """The row of some item that was written."""
    return int(np.searchsorted(product["ids"], draw.choice(writes.ids)))


def _lose(product: Payload, writes: Writes, draw: np.random.Generator) -> Payload:
    row = _written(product, writes, draw)
    return _rows(product, np.delete(np.arange(len(product["ids"])), row))


def _keep(product: Payload, writes: Writes, draw: np.random.Generator) -> Payload:
    old, gone = first().snapshot(), int(draw.choice(writes.gone))
    row = _rows(old, [gone])
    both = {
        name: pa.concat_tables([product[name], row[name]])
        if name == "attributes"
        else np.concatenate([product[name], row[name]])
        for name in product
    }
    return _rows(both, np.argsort(both["ids"]))


def _old_vector(product: Payload, writes: Writes, draw: np.random.Generator) -> Payload:
    vectors, row = product["vectors"].copy(), _written(product, writes, draw)
    vectors[row] = vector_of(int(product["ids"][row]), 0)
    return _with(product, vectors=vectors)


def _least_bit(product: Payload, writes: Writes, draw: np.random.Generator) -> Payload:
    vectors, row = product["vectors"].copy(), _written(product, writes, draw)
    vectors[row, 1] = np.nextafter(vectors[row, 1], np.float32(np.inf))
    return _with(product, vectors=vectors)


def _swap(product: Payload, writes: Writes, draw: np.random.Generator) -> Payload:
    vectors, (one, two) = product["vectors"].copy(), draw.choice(len(product["ids"]), 2, replace=False)
    vectors[[one, two]] = vectors[[two, one]]
    return _with(product, vectors=vectors)


CORRUPTIONS: dict[str, Corrupt] = {
    "a written item lost": _lose,
    "a removed item kept": _keep,
    "the vector of before": _old_vector,
    "one bit of a vector": _least_bit,
    "two vectors swapped": _swap,
    "an old stamp": lambda p, w, d: _set(p, _written(p, w, d), "stamp", 0),
    "another name": lambda p, w, d: _set(p, _written(p, w, d), "name", "nobody"),
    "tags of nobody": lambda p, w, d: _set(p, _written(p, w, d), "tags", ["z"]),
    "another id": lambda p, w, d: _with(p, ids=np.where(p["ids"] == d.choice(w.ids), 5000, p["ids"])),
    "nothing written": lambda p, w, d: first().snapshot(),
    "no items": lambda p, w, d: _rows(p, []),
    "attributes of the neighbour": lambda p, w, d: _with(
        p, attributes=p["attributes"].take(pa.array(np.roll(np.arange(len(p["ids"])), int(d.integers(1, 9)))))
    ),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", CORRUPTIONS)
def test_an_index_that_does_not_hold_what_was_written_is_refused(
    made: tuple[Payload, Writes], how: str, seed: int
) -> None:
    product, writes = made
    certificate = judged(CORRUPTIONS[how](product, writes, np.random.default_rng(seed)), writes).certificate
    assert not certificate.holds
    if how not in ("two vectors swapped",):
        assert "writes_lost" in {claim.name for claim in certificate.failures()}


def test_writes_that_were_left_out_of_the_reference_are_refused_too(made: tuple[Payload, Writes]) -> None:
    product, writes = made
    fewer = dataclasses.replace(
        writes, ids=writes.ids[1:], vectors=writes.vectors[1:], attributes=writes.attributes.slice(1)
    )
    assert not judged(product, fewer).certificate.holds
