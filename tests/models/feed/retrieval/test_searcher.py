"""An opened index: items by their identifiers, the answers of its service, and writes as far as they are certain."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.common.contracts import Payload
from models.feed.retrieval.config import IndexConfig
from models.feed.retrieval.delta import DeltaError, LiveIndex
from models.feed.retrieval.index import RetrievalIndex

ITEMS, WIDTH = 47, 5


def unit(seed: int, rows: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(0, 1, (rows, WIDTH))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def world(names: list[int] | list[str]) -> tuple[Payload, Payload]:
    """An index and the data behind it: items in the order of the names, met once more each."""
    data = {
        "items": pa.table({"item": np.arange(ITEMS), "item_id": names, "colour": ["red"] * ITEMS}),
        "train": pa.table({"item": np.repeat(np.arange(ITEMS), np.arange(ITEMS)), "time": np.zeros(ITEMS * 46 // 2)}),
        "validation": pa.table({"item": np.array([0]), "time": np.array([0.0])}),
        "vectors": unit(0, ITEMS),
    }
    return IndexConfig().build_index(data, None), data


NUMBERS = [int(number) for number in np.random.default_rng(1).permutation(ITEMS) * 3]
TEXTS = [f"film {number}" for number in range(ITEMS)]


def test_items_are_called_as_in_the_data_and_have_their_own_vectors_and_counts(tmp_path: Path) -> None:
    for names in (NUMBERS, TEXTS):
        product, data = world(names)
        searcher = IndexConfig().searcher(product, data, tmp_path / "none")
        place = {name: row for row, name in enumerate(names)}
        rows = [place[name] for name in searcher.items.to_pylist()]
        assert sorted(rows) == list(range(ITEMS))
        assert (searcher.vectors == data["vectors"][rows]).all()
        assert searcher.popularity is not None
        assert searcher.popularity.tolist() == [1 if row == 0 else row for row in rows]
        assert dict(searcher.about) == {}


def test_answers_are_those_of_an_exhaustive_scan_and_places_end_with_minus_one(tmp_path: Path) -> None:
    product, data = world(NUMBERS)
    searcher = IndexConfig().searcher(product, data, tmp_path / "none")
    queries = unit(3, 4)
    places, scores = searcher.neighbours(queries, ITEMS + 2)
    exact = queries.astype(np.float64) @ searcher.vectors.astype(np.float64).T
    assert (places[:, :ITEMS] == np.argsort(-exact, axis=1)).all()
    assert scores[:, :ITEMS] == pytest.approx(np.sort(exact, axis=1)[:, ::-1], abs=1e-12)
    assert (places[:, ITEMS:] == -1).all()


@pytest.mark.parametrize("names", [NUMBERS, TEXTS], ids=["numbers", "texts"])
def test_what_was_written_in_service_is_found_as_the_service_finds_it(
    tmp_path: Path, names: list[int] | list[str]
) -> None:
    product, data = world(names)
    folder, queries = tmp_path / "live", unit(5, 3)
    with LiveIndex.open(folder, product, origin="here") as live:
        live.upsert(np.array([900]), queries[:1], pa.table({"colour": ["blue"]}))
        gone = int(product["ids"][4])
        live.delete([gone])
        live.flush()
        searcher = IndexConfig().searcher(product, data, folder)
        assert searcher.about == {"line": live.line, "sequence": 2}
        hits = live.search(queries, 9)
        places, scores = searcher.neighbours(queries, 9)
        ids = np.array(sorted({*product["ids"].tolist(), 900} - {gone}))
        assert (ids[places] == hits.ids).all()
        assert (scores == hits.scores).all()
        assert ids[places[0, 0]] == 900
        named = 900 if names is NUMBERS else None
        assert searcher.items[int(places[0, 0])].as_py() == named
        assert searcher.popularity is not None
        assert searcher.popularity[places[0, 0]] == 0, "nobody met it"
    assert len(searcher.items) == ITEMS


def test_writes_that_a_compacted_version_holds_are_not_done_again(tmp_path: Path) -> None:
    product, data = world(NUMBERS)
    folder = tmp_path / "live"
    with LiveIndex.open(folder, product, origin="here") as live:
        live.upsert(np.array([900]), unit(5, 1), pa.table({"colour": ["blue"]}))
        live.flush()
        made = IndexConfig().compact(product, folder, None)
        assert made is not None
        compacted, writes = made
        behind = {**data, "writes": writes}
        searcher = IndexConfig().searcher(compacted, behind, folder)
        assert dict(searcher.about) == {}
        assert 900 in searcher.items.to_pylist()
        assert len(searcher.items) == ITEMS + 1
        live.delete([900])
        live.flush()
        later = IndexConfig().searcher(compacted, behind, folder)
        assert later.about["sequence"] == 2
        assert 900 not in later.items.to_pylist()
    other = tmp_path / "other"
    with LiveIndex.open(other, product, origin="here") as stranger:
        stranger.delete([int(product["ids"][0])])
        stranger.flush()
        with pytest.raises(DeltaError, match="holds other writes"):
            IndexConfig().searcher(compacted, behind, other)


def test_given_vectors_without_interactions_have_no_popularity(tmp_path: Path) -> None:
    product, data = world(TEXTS)
    searcher = IndexConfig().searcher(product, {name: data[name] for name in ("items", "vectors")}, tmp_path / "none")
    assert searcher.popularity is None
    assert len(RetrievalIndex.restore(product)) == len(searcher.items)
