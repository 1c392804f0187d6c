"""The engine for a card against the plain scan: the same bits, from kernels that triton interprets on a CPU."""

import contextlib
import mmap
import os
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import retrieval_gpu
from models.feed.retrieval import gpu
from models.feed.retrieval.filter import Filter, bind, parse
from models.feed.retrieval.gpu import Clause, Engine, Passing, Signs, packed, select
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.scan import exact_scores
from tests.models.feed.retrieval.test_engine import WORLDS, equal, expected, lumpy
from tests.models.feed.retrieval.test_index import CASES, World, filters

PROJECT = Path(__file__).parents[4]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def interpreted() -> None:
    from models.feed.retrieval import gpu_kernels

    assert type(gpu_kernels.scan).__name__ == "InterpretedFunction", "triton was imported before tests/conftest.py ran"


@contextlib.contextmanager
def sizes(block: int, steps: int, board: int, together: int = 64) -> Iterator[None]:
    """Blocks and boards small enough for many launches, lost rows and boards without room."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_BLOCK", block)
        patch.setattr(gpu, "_STEPS", steps)
        patch.setattr(gpu, "_SMALLEST_BOARD", board)
        patch.setattr(gpu, "_BOARD", 1)
        patch.setattr(gpu, "_TOGETHER", together)
        yield


def some_passing(random: np.random.Generator, rows: int, queries: int) -> tuple[list[Passing], np.ndarray]:
    """A filter for each query, and the mask that it means: clauses, bits, both or nothing; some shared."""
    narrow, wide = (torch.from_numpy(random.integers(-3, 4, rows).astype(type_)) for type_ in (np.int32, np.int64))
    selections, masks = list[Passing](), list[np.ndarray]()
    for number in range(queries):
        if number and random.random() < 0.3:
            selections.append(selections[0])
            masks.append(masks[0])
            continue
        clauses, mask = list[Clause](), np.ones(rows, np.bool_)
        for _ in range(random.integers(0, 4)):
            values = (narrow, wide)[random.integers(2)]
            low = int(random.choice([-(2**63), -2, 0, 3, 2**40]))
            high = int(random.choice([-(2**40), 0, 2, 3, 2**63 - 1]))
            outside = bool(random.random() < 0.3)
            clauses.append(Clause(values, low, high, outside))
            mask &= ((values.numpy() >= low) & (values.numpy() <= high)) != outside
        bits = None
        if random.random() < 0.5:
            kept = random.random(rows) < random.choice([0.0, 0.01, 0.5, 1.0])
            bits, mask = packed(torch.from_numpy(kept)), mask & kept
        selections.append(Passing(tuple(clauses), bits))
        masks.append(mask)
    return selections, np.array(masks).reshape(queries, rows)


def check(
    engine: Engine,
    queries: np.ndarray,
    k: int,
    selections: list[Passing],
    masks: np.ndarray,
    vectors: np.ndarray,
    ids: np.ndarray | None,
) -> None:
    known = None if ids is None else torch.from_numpy(ids)
    best = engine.search(torch.from_numpy(queries), k, selections, torch.from_numpy(vectors), known)
    names = np.arange(len(vectors)) if ids is None else ids
    scores, found = expected(queries, k, masks, vectors, names)
    assert np.array_equal(best.ids.numpy(), found)
    assert best.scores.numpy().tobytes() == scores.tobytes()
    assert best.passed.tolist() == masks.sum(1).tolist()
    held = best.rows.numpy() >= 0
    assert np.array_equal(names[best.rows.numpy()[held]], found[held])
    assert not held[found < 0].any()


# --- exactness --------------------------------------------------------------------------------------------------------


@settings(max_examples=CASES // 5, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    world=st.sampled_from(WORLDS),
    codes=st.sampled_from(["int8", "float16"]),
    rows=st.sampled_from([0, 1, 2, 47, 511, 512, 513, 1500, 3000]),
    dimension=st.sampled_from([1, 3, 47, 64, 128]),
    queries=st.sampled_from([1, 3, 16, 17, 21]),
    k=st.sampled_from([1, 10, 100, 700]),
    named=st.booleans(),
)
def test_every_answer_has_the_bits_of_an_exhaustive_scan(
    seed: int, world: Any, codes: Any, rows: int, dimension: int, queries: int, k: int, named: bool
) -> None:
    random = np.random.default_rng(seed)
    vectors = world(random, rows, dimension)
    asked = world(random, max(rows, queries), dimension)[:queries].copy()
    if queries > 1:
        asked[0] = 0
    engine = Engine(dimension, CPU, codes)
    half = rows // 3
    engine.append(torch.from_numpy(vectors[half : 3 * half]), 0)
    engine.append(torch.from_numpy(vectors[:half]), 0)
    engine.append(torch.from_numpy(vectors[half:]), half)  # as after writes that failed half-way
    ids = random.permutation(10 * rows)[:rows].astype(np.int64) if named else None
    with sizes(block=256, steps=2, board=1024, together=16):
        check(engine, asked, k, *some_passing(random, rows, queries), vectors, ids)


def rising(random: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    """Each row is better than all before it, and nothing that comes first helps to choose."""
    vectors = np.zeros((rows, dimension), np.float32)
    vectors[:, 0] = np.linspace(-3, 3, rows)
    return vectors


def close(random: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    """All rows are as good as one another but for the last bits: codes cannot tell them apart."""
    return (1 + 1e-6 * random.standard_normal((rows, dimension))).astype(np.float32)


@pytest.mark.parametrize("world", [rising, close, equal])
@pytest.mark.parametrize("codes", ["int8", "float16"])
def test_rows_that_found_no_place_on_the_board_are_not_lost(world: Any, codes: Any) -> None:
    random = np.random.default_rng(3)
    vectors, ids = world(random, 601, 19), random.permutation(601)
    launched = list[tuple[int, int]]()
    scan = gpu._Question.scan

    def spied(self: Any, first: int, count: int, chunks: int) -> None:
        launched.append((first, count))
        scan(self, first, count, chunks)

    engine = Engine(19, CPU, codes)
    engine.append(torch.from_numpy(vectors), 0)
    with sizes(block=64, steps=1, board=160), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu._Question, "scan", spied)
        patch.setattr(gpu, "_step", lambda chunks: 1)  # chunks in the rows' own order
        check(engine, np.ones((2, 19), np.float32), 30, [Passing()] * 2, np.ones((2, 601), np.bool_), vectors, ids)
    firsts = [first for first, _ in launched]
    assert len(firsts) > len(set(firsts)), "no part was scanned again: nothing was lost"


def test_a_row_is_read_once_and_few_are_remembered_when_rows_come_in_any_order() -> None:
    random = np.random.default_rng(4)
    vectors = random.standard_normal((40_000, 8)).astype(np.float32)
    engine, parts, remembered = Engine(8, CPU), list[int](), list[int]()
    engine.append(torch.from_numpy(vectors), 0)
    scan = gpu._Question.scan

    def spied(self: Any, first: int, count: int, chunks: int) -> None:
        before = int(self.counts.sum())
        scan(self, first, count, chunks)
        parts.append(count)
        remembered.append(int(self.counts.sum()) - before)

    with sizes(block=1024, steps=1, board=2048), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu._Question, "scan", spied)
        check(engine, vectors[:1].copy(), 10, [Passing()], np.ones((1, 40_000), np.bool_), vectors, None)
    assert sum(parts) == 40  # of 1,024 rows
    assert sum(remembered[1:]) < 40_000 // 20


@settings(max_examples=CASES // 4, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    world=st.sampled_from(WORLDS),
    codes=st.sampled_from(["int8", "float16"]),
    dimension=st.sampled_from([1, 3, 47, 128, 300]),
)
def test_no_score_by_codes_errs_by_more_than_its_bound(seed: int, world: Any, codes: Any, dimension: int) -> None:
    random = np.random.default_rng(seed)
    vectors = torch.from_numpy(world(random, 200, dimension))
    queries = torch.from_numpy(world(random, 200, dimension)[:5].copy())
    engine = Engine(dimension, CPU, codes)
    engine.append(vectors, 0)
    asked = gpu._Asked.of(queries, engine._worst, engine._codes)
    sums = asked.codes[:5].double() @ engine._codes[:200].double().T
    approximate = (sums.float() * engine._scales[:200]).double()
    exact = exact_scores(vectors, queries[:, None]) / asked.factors[:, None]
    assert bool(((approximate - exact).abs() <= asked.errors[:, None]).all())


def test_the_largest_dimension_does_not_overflow_the_sums() -> None:
    vectors = np.full((20, gpu.LARGEST), 1.0, np.float32)
    vectors[::2] = -1.0
    engine = Engine(gpu.LARGEST, CPU)
    engine.append(torch.from_numpy(vectors), 0)
    with sizes(block=16, steps=2, board=32), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_piece", lambda width, _: 2**14)
        check(engine, vectors[:2].copy(), 15, [Passing()] * 2, np.ones((2, 20), np.bool_), vectors, None)


def test_rows_whose_codes_lie_beyond_32_bits_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rows of 2^31 / 64 + some, most of which are never touched: memory that is not there reads as zeros."""
    from triton.runtime import interpreter

    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *_: None)  # copies all onto itself
    chunk = gpu._BLOCK * gpu._STEPS
    chunks = 2**32 // 64 // chunk + 2
    rows = chunks * chunk - 77
    codes = torch.from_numpy(untouched(rows * 64).view(np.int8).reshape(rows, 64))
    scales = torch.from_numpy(untouched(rows * 4).view(np.float32))
    attribute = torch.from_numpy(untouched(rows * 8).view(np.int64))
    last = np.arange(rows - 40, rows)
    codes[last, 0] = torch.arange(40, dtype=torch.int8)
    scales[last], attribute[last[::2]] = 0.5, 7
    query = torch.zeros(1, 64)
    query[0, 0] = 1
    asked = gpu._Asked.of(query, (0.0, 20.0), codes)
    filters = gpu._Filters.of([Passing((Clause(attribute, 7, 7),))], len(asked.codes), rows, CPU)
    question = gpu._Question(codes, scales, asked, filters, rows, lambda _: codes, None, 5, 2 * chunk)
    monkeypatch.setattr(gpu, "_step", lambda _: 1)
    question.scan(chunks - 1, 1, chunks)
    found = question.numbers[0, : int(question.counts[0])]
    assert sorted(found.tolist()) == last[::2].tolist()
    assert int(question.passed[0]) == 20
    assert sorted(question.scores[0, :20].tolist()) == [127 * 0.5 * code for code in range(0, 40, 2)]


def untouched(size: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000), np.uint8)


def test_codes_alone_are_searched_exactly_for_what_they_stand_for() -> None:
    random = np.random.default_rng(5)
    codes = torch.from_numpy(random.integers(-127, 128, (1111, 64)).astype(np.int8))
    scales = torch.from_numpy(random.random(1111).astype(np.float32))
    queries = torch.from_numpy(lumpy(random, 3, 64))
    selections, masks = some_passing(random, 1111, 3)
    with sizes(block=256, steps=1, board=512):
        best = Engine.of_codes(codes, scales).search(queries, 20, selections)
    rows = codes.double() * scales.double()[:, None]
    for number, mask in enumerate(masks):
        passing = np.flatnonzero(mask)
        scores = exact_scores(rows[passing], queries[number]).numpy()
        order = np.lexsort((passing, -scores))[:20]
        assert best.rows[number, : len(order)].tolist() == passing[order].tolist()
        assert best.scores[number, : len(order)].tolist() == scores[order].tolist()
        assert best.ids[number, len(order) :].eq(-1).all()


def test_rows_that_are_appended_while_others_search_are_not_seen_and_disturb_nobody() -> None:
    random = np.random.default_rng(6)
    vectors, queries = torch.from_numpy(lumpy(random, 3000, 16)), lumpy(random, 2, 16)
    engine = Engine(16, CPU)
    engine.append(vectors[:403], 0)
    ended = threading.Event()

    def append() -> None:
        for start in range(403, 3000, 37):
            engine.append(vectors[start : start + 37], start)
        ended.set()

    writer = threading.Thread(target=append)
    writer.start()
    with sizes(block=256, steps=2, board=1024):
        while True:
            last = ended.is_set()
            check(engine, queries, 20, [Passing()] * 2, np.ones((2, 403), np.bool_), vectors[:403].numpy(), None)
            if last:
                break
    writer.join()
    assert engine.rows == 3000


# --- filters ----------------------------------------------------------------------------------------------------------


@settings(max_examples=CASES // 8, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    asked=st.lists(filters, min_size=1, max_size=4),
    whole=st.booleans(),
    k=st.integers(1, 12),
    steps=st.lists(st.sampled_from(["upsert", "delete", "compact", "move"]), max_size=3),
)
def test_an_index_on_a_card_answers_as_its_plain_twin(
    seed: int, asked: list[Filter], whole: bool, k: int, steps: list[str]
) -> None:
    """The index of `test_index`, made to believe that a CPU is a card."""
    with sizes(block=64, steps=2, board=128), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "usable", lambda *_: True)
        world = World(np.random.default_rng(seed), dimension=5, whole=whole)
        world.build(int(world.random.integers(0, 90)), 60)
        world.check(asked, k)
        for step in steps:
            match step:
                case "upsert":
                    world.upsert(20, 60)
                case "delete":
                    world.delete(15, 60)
                case "compact":
                    world.index.compact()
                case "move":  # as if it had been on another device meanwhile
                    world.index._card = None
            world.check(asked, k)


def test_conjunctions_over_integers_and_categories_need_no_mask() -> None:
    items = pa.table(
        {
            "geo": ["se", "no", None, "se", "dk"],
            "company": [3, 4, 3, 5, 5],
            "size": [1, None, 2, 3, 4],
            "price": [0.5, 1.5, 2.5, 3.5, 4.5],
        }
    )
    index = RetrievalIndex.build(np.ones((5, 2), np.float32), np.arange(5), items)
    view = index._view()

    def passing(text: str, live: torch.Tensor = view.live) -> Passing:
        where = bind(parse(text), index.schema)
        (found,) = select([where], view.columns, live, all_live=bool(live.all()))
        return found

    fused = passing("geo == 'se' and not company == 3 and company between 1 and 9 and geo != 'dk'")
    assert fused.bits is None
    assert [clause.outside for clause in fused.clauses] == [False, True, False, False, True]
    assert passing("geo is null").clauses[0].low == -1
    assert [clause.outside for clause in passing("company != 4").clauses] == [True]
    assert passing("geo == 'fi'").clauses[0].low > passing("geo == 'fi'").clauses[0].high
    for text in ("size == 1", "price < 2", "geo == 'se' or company == 5", "not (geo == 'se' and company == 3)"):
        assert passing(text).clauses == (), text
        assert passing(text).bits is not None, text
    live = torch.tensor([True, False, True, True, True])
    assert passing("company == 4", live).bits.tolist() == [0b11101]  # type: ignore[union-attr]
    one, other = select([parse("company == 4")] * 2, view.columns, live, all_live=False)
    assert one is other


@given(st.lists(st.booleans(), max_size=70))
def test_a_bit_stands_for_each_row(flags: list[bool]) -> None:
    bits = np.unpackbits(packed(torch.tensor(flags, dtype=torch.bool)).numpy(), bitorder="little")
    assert bits[: len(flags)].astype(bool).tolist() == flags
    assert not bits[len(flags) :].any()


def test_explain_says_that_a_card_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "usable", lambda *_: True)
    index = RetrievalIndex.build(np.eye(99, 3, dtype=np.float32), np.arange(99), pa.table({"year": range(99)}))
    index._view()
    told = [index.explain(where) for where in ("year == 3", "year < 90", None, "year < 0")]
    assert [entry["strategy"] for entry in told] == ["scan", "scan", "scan", "none"]
    assert [entry["passing"] for entry in told] == [1, 90, 99, 0]


# --- signs ------------------------------------------------------------------------------------------------------------


def plain_agreement(signs: Signs, queries: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    return ((queries @ signs._turned > 0)[:, None] == (vectors @ signs._turned > 0)[None]).sum(2)


@pytest.mark.parametrize(("dimension", "bits"), [(47, None), (64, 64), (20, 96)])
def test_rows_are_kept_by_how_many_signs_they_share_with_the_query(dimension: int, bits: int | None) -> None:
    random = np.random.default_rng(13)
    vectors = torch.from_numpy(random.standard_normal((900, dimension)).astype(np.float32))
    queries = vectors[:3] + 0.1
    signs = Signs(dimension, CPU, bits, seed=1)
    signs.append(vectors[:301])
    signs.append(vectors[301:])
    selections, masks = some_passing(random, 900, 3)
    agreement = plain_agreement(signs, queries, vectors).numpy()
    with sizes(block=256, steps=1, board=512):
        best = signs.search(queries, 20, selections, vectors.__getitem__, keep=60)
    for number, mask in enumerate(masks):
        passing = np.flatnonzero(mask)
        # the sample is all rows, so what is to be reached is exactly the agreement of the 60th
        least = np.sort(agreement[number, passing])[::-1][59] if len(passing) >= 60 else 0
        kept = passing[agreement[number, passing] >= least]
        scores = exact_scores(vectors[kept], queries[number]).numpy()
        order = np.lexsort((kept, -scores))[:20]
        assert best.rows[number, : len(order)].tolist() == kept[order].tolist()
        assert best.scores[number, : len(order)].tolist() == scores[order].tolist()
        assert int(best.passed[number]) == len(passing)


def test_keeping_every_row_makes_signs_exact_and_keeping_more_never_lowers_recall() -> None:
    random = np.random.default_rng(14)
    vectors = lumpy(random, 2000, 64)
    queries, ids = lumpy(random, 4, 64), random.permutation(2000)
    signs, known = Signs(64, CPU), torch.from_numpy(ids)
    signs.append(torch.from_numpy(vectors))
    everything = [Passing()] * 4
    _, found = expected(queries, 30, np.ones((4, 2000), np.bool_), vectors, ids)
    recalls = []
    for keep in (30, 300, 2000):
        best = signs.search(
            torch.from_numpy(queries), 30, everything, torch.from_numpy(vectors).__getitem__, known, keep=keep
        )
        recalls.append(
            np.mean([np.isin(right, got).mean() for right, got in zip(found, best.ids.numpy(), strict=True)])
        )
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0


def test_a_sample_that_misleads_loses_no_place() -> None:
    """The sample holds only rows that agree well, and few others reach what it asks for."""
    vectors = torch.ones(320, 32)
    vectors[64:] = -1
    vectors[::64] = 1
    signs = Signs(32, CPU)
    signs.append(vectors)
    with sizes(block=64, steps=1, board=128), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_SAMPLE", 1)
        best = signs.search(torch.ones(1, 32), 100, [Passing()], vectors.__getitem__, keep=100)
    assert (best.rows >= 0).all()


# --- cards ------------------------------------------------------------------------------------------------------------


COMPILE = """
import re, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models.feed.retrieval import gpu_kernels

shared = dict(columns=("*i32", "*i64"), lows=("*i32", "*i64"), highs=("*i32", "*i64"), outsides=("*i8", "*i8"),
    bits="*u8", sets="*i32", width="i64", numbers="*i64", counts="*i32", passed="*i64", rows="i64", first="i64",
    chunks="i64", step="i64", asked="i32", capacity="i32", scores="*fp32")
for queries, type_, whole in ((16, "*fp16", False), (64, "*i8", True)):
    constant = dict(B=queries, BLOCK=128, STEPS=32, WIDTH=64, PIECE=64, WHOLE=whole, CLAUSES=2, BITS=True)
    types = dict(shared, codes=type_, queries=type_, scales="*fp32", floors="*fp32")
    build(gpu_kernels.scan, types, constant)
constant = dict(BLOCK=1024, STEPS=4, WORDS=2, CLAUSES=2, BITS=True)
build(gpu_kernels.agree, dict(shared, codes="*i32", queries="*i32", floors="*i32", scores="*i32"), constant)
"""
BUILD = """
def build(kernel, types, constant):
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = [number for number, name in enumerate(names) if str(types.get(name)).startswith("*")]
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constant.items()},
        {(number,): [["tt.divisibility", 16]] for number in aligned})
    made = compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"num_warps": 4, "maxnreg": 128})
    assert len(made.asm["cubin"]) > 0
    print(*sorted(set(re.findall(r"(?:mma.sync|wgmma.mma_async)[.\\w]*", made.asm["ptx"]))))
"""


def test_the_kernels_compile_for_a_card_and_use_its_matrix_units(tmp_path: Path) -> None:
    done = compiled(BUILD + COMPILE, "90", tmp_path)
    assert done.returncode == 0, done.stderr
    half, whole, signs = done.stdout.split("\n")[:3]
    assert re.search(r"mma\.sync\S*f32\.f16\.f16\.f32", half), half
    assert re.search(r"wgmma\S*s32\.s8\.s8", whole), whole
    assert signs == ""


def compiled(program: str, card: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    place = cache / "program.py"
    place.write_text(program)
    environment["PYTHONPATH"] = os.pathsep.join([str(PROJECT), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(place), card], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_card_gives_the_bits_of_the_cpu(tmp_path: Path) -> None:
    done = compiled("from tests.models.feed.retrieval.test_gpu import on_a_card\non_a_card()\n", "", tmp_path)
    assert done.returncode == 0, done.stderr


def on_a_card() -> None:
    """An index on a card beside itself on the CPU; in a process of its own, where triton compiles."""
    random = np.random.default_rng(15)
    for rows, dimension, k in ((300_001, 47, 100), (3000, 64, 2000), (100_000, 128, 10)):
        vectors, ids = lumpy(random, rows, dimension), random.permutation(rows)
        items = pa.table({"year": random.integers(0, 100, rows), "lang": random.choice(["en", "de", "fr"], rows)})
        index = RetrievalIndex.build(vectors, ids, items)
        index.delete(ids[::7])
        queries = lumpy(random, 70, dimension)
        where = [f"year < {number} and not lang == 'de'" if number % 3 else "lang == 'en'" for number in range(70)]
        here = index.search(queries, k, where)
        there = index.to("cuda").search(queries, k, where)
        for left, right in zip(here, there, strict=True):
            assert left.tobytes() == right.tobytes()


def test_the_project_does_without_triton(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import numpy as np, torch\n"
        "from models.feed.retrieval import gpu\n"
        "from models.feed.retrieval.index import RetrievalIndex\n"
        "assert not gpu.usable(torch.device('cuda'), 2)\n"
        "hits = RetrievalIndex.build(np.eye(3, 2, dtype=np.float32), np.arange(3)).search(np.ones((1, 2), 'f4'), 2)\n"
        "assert hits.ids.tolist() == [[0, 1]]\n"
    )
    done = compiled(program, "", tmp_path)
    assert done.returncode == 0, done.stderr
    for file in (PROJECT / "models").rglob("*.py"):
        if file.name != "gpu_kernels.py":
            assert not re.search(r"^(import|from) (triton|.*gpu_kernels)", file.read_text(), re.MULTILINE), file


def test_only_a_cuda_device_with_triton_is_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card, there = torch.device("cuda"), sysconfig.get_paths()["include"]
    monkeypatch.setattr(gpu, "_launches", gpu._launches.__wrapped__)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(Path, "exists", lambda self: self.parent != Path("nowhere"))
    for compiler, headers, usable in ("cc", there, True), ("", there, False), ("cc", "nowhere", False):
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setattr("sysconfig.get_paths", lambda headers=headers: {"include": headers})
        assert gpu.usable(card, 64) is usable
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": there})
    assert not gpu.usable(torch.device("cpu"), 64)
    assert not gpu.usable(card, gpu.LARGEST + 1)
    for version, usable in ("3.6.0", True), ("3.7.1", True), ("3.8.0", False), ("3.10.0+git1", False):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        assert gpu.usable(card, 64) is usable
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert not gpu.usable(card, 64)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Engine(0, CPU), "dimension must be from 1 to"),
        (lambda: Engine(2, CPU, "int4"), "codes must be one of int8, float16, got 'int4'"),  # type: ignore[arg-type]
        (lambda: Engine.of_codes(torch.zeros((2, 33), dtype=torch.int8), torch.ones(2)), "a multiple of 32"),
        (lambda: Engine.of_codes(torch.zeros((2, 32), dtype=torch.int8), torch.ones(3)), r"float32 of shape \(2,\)"),
        (lambda: Clause(torch.zeros(3), 0, 1), "int32 or int64"),
        (lambda: Signs(8, CPU, bits=33), "multiple of 32, got 33"),
        (lambda: Signs(8, CPU).search(torch.ones(1, 8), 5, [Passing()], lambda rows: rows, keep=4), "at least k"),
        (
            lambda: Engine.of_codes(torch.zeros((2, 32), dtype=torch.int8), torch.ones(2)).search(
                torch.ones(1, 32), 1, [Passing(bits=torch.zeros(2, dtype=torch.uint8))]
            ),
            "bits must be contiguous with 1 entries",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_the_benchmark_refuses_a_machine_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        retrieval_gpu.main([])


def test_the_benchmark_runs_at_the_size_of_a_toy(capsys: pytest.CaptureFixture[str]) -> None:
    with sizes(block=512, steps=1, board=2048):
        retrieval_gpu.main(["--device", "cpu", "--n", "1500", "--large", "2100", "--rounds", "1"])
    printed = capsys.readouterr().out
    for request in ("two clauses, batch 1 ", "two clauses, batch 16", "narrow filter", "64 filters", "signs"):
        assert request in printed
    assert printed.count(" exact ") == 6
    assert "WRONG" not in printed
