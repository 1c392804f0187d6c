import base64
import contextlib
import dataclasses
import os
import resource
import shutil
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.retrieval import delta as module
from models.feed.retrieval.delta import DELETE, UPSERT, DamageError, Delta, DeltaError, LiveIndex, LockedError, Position
from models.feed.retrieval.index import RetrievalIndex
from tests import deltas
from tests.deltas import History, rows_of

QUERY = np.array([[0, 1, 0]], np.float32)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveIndex]:
    with History(1).create(tmp_path / "live") as opened:
        yield opened


# --- warm start -------------------------------------------------------------------------------------------------------

ACTS = ("upsert", "upsert", "delete", "flush", "compact", "reopen", "refresh")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), acts=st.lists(st.sampled_from(ACTS), min_size=1, max_size=12))
def test_an_index_opened_again_or_followed_gives_the_bits_of_the_one_that_was_written_in_memory(
    tmp_path_factory: pytest.TempPathFactory, seed: int, acts: list[str]
) -> None:
    folder, random = tmp_path_factory.mktemp("live") / "live", np.random.default_rng(seed)
    tags = [["é", "é"], None, [], ["日本", None]]

    def rows(count: int) -> tuple[Any, ...]:
        table = {
            "lang": pa.array([[None, "", "en", "é"][n] for n in random.integers(0, 4, count)], pa.string()),
            "kind": pa.array([["a", None][n] for n in random.integers(0, 2, count)]).cast(
                pa.dictionary(pa.int8(), pa.string())
            ),
            "price": pa.array([[0.1, np.nan, -0.0, None][n] for n in random.integers(0, 4, count)], pa.float32()),
            "tags": pa.array([tags[n] for n in random.integers(0, 4, count)], pa.list_(pa.string())),
            "vector": pa.array(random.integers(0, 2, count), pa.uint64()),  # a name that the files use too
        }
        vectors = random.standard_normal((count, 5)).astype(np.float32)
        return random.integers(0, 60, count), vectors, pa.table(table)

    ids, vectors, table = rows(47)
    plain = RetrievalIndex.build(vectors, ids, table)
    live = LiveIndex.create(folder, plain.snapshot())
    follower = LiveIndex(folder)
    for act in acts:
        match act:
            case "upsert":
                ids, vectors, table = rows(int(random.integers(0, 6)))
                plain.upsert(ids, vectors, table)
                live.upsert(ids, vectors, table.select(table.column_names[::-1]))
            case "delete":
                gone = random.integers(0, 60, int(random.integers(0, 6)))
                assert live.delete(gone) == plain.delete(gone)
            case "reopen":
                live.close()
                live = LiveIndex(folder, write=True)
            case "refresh":
                follower.refresh()
            case _:
                getattr(live, act)()
        queries = random.standard_normal((3, 5)).astype(np.float32)
        where = ["tags has 'é' or lang == 'en'", "not price < 0.2 and vector == 1", "kind is null"]
        follower.refresh()
        for other in (live, follower):
            assert len(other) == len(plain)
            for mine, theirs in zip(plain.search(queries, 9, where), other.search(queries, 9, where), strict=True):
                np.testing.assert_array_equal(mine, theirs)
            assert other.index.snapshot()["attributes"].equals(plain.snapshot()["attributes"])
    live.close()
    follower.close()


def test_an_index_without_attributes_or_without_items_is_kept_too(tmp_path: Path) -> None:
    empty = RetrievalIndex(2).snapshot()
    with LiveIndex.create(tmp_path, empty) as live:
        assert len(live) == 0
        assert live
        live.upsert(np.array([7]), np.ones((1, 2), np.float32))
    with contextlib.closing(LiveIndex(tmp_path)) as again:
        assert again.search(np.ones((1, 2), np.float32), 2).ids.tolist() == [[7, -1]]


def test_a_write_is_found_by_the_next_query_and_a_deleted_item_by_none(live: LiveIndex) -> None:
    live.upsert(*rows_of([3, 100], 8))
    assert live.search(QUERY, 3).ids.tolist() == [[3, 100, 0]]
    assert live.forward(torch.from_numpy(QUERY), 1, "name == '100-8'").ids.tolist() == [[100]]
    assert live.delete([3, 100, 500]) == 2
    assert live.explain("stamp == 8")["passing"] == 0
    assert live.delete([]) == 0
    live.upsert(*rows_of([], 9))
    assert live.sequence == 2


def test_a_follower_sees_every_write_that_returned_and_counts_them(live: LiveIndex, tmp_path: Path) -> None:
    with contextlib.closing(LiveIndex(tmp_path / "live")) as follower:
        assert (follower.sequence, follower.origin) == (0, "history 1")
        History(1).go_on(live, 5)
        assert follower.refresh() == 5
        assert follower.refresh() == 0
        live.compact()
        History(1).go_on(live, 2)
        assert follower.refresh() == 2
        assert History(1).differs(follower) == ""
        assert live.refresh() == 0


def test_compacting_keeps_the_writes_that_come_meanwhile(live: LiveIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    history, plain = History(1), module._write_base
    history.go_on(live, 20)
    snapshot = RetrievalIndex.snapshot

    def written(*arguments: Any) -> Any:
        history.go_on(live, 3)
        return plain(*arguments)

    def taken(index: RetrievalIndex) -> Any:
        history.go_on(live, 3)  # these are in the base already, and are done again
        return snapshot(index)

    monkeypatch.setattr(module, "_write_base", written)
    monkeypatch.setattr(RetrievalIndex, "snapshot", taken)
    live.compact()
    monkeypatch.undo()
    assert live.sequence == 26
    assert live.index.rows < 26 * 9
    assert live._delta.description.sequence == 20
    for opened in (live, LiveIndex(live._folder)):
        assert history.differs(opened) == ""


def test_compacting_drops_dead_rows_from_disk_and_memory(live: LiveIndex, tmp_path: Path) -> None:
    History(1).go_on(live, 50)
    live.compact()
    size = (tmp_path / "live" / "delta.log").stat().st_size
    assert (size, live.index.rows) == (live._delta.first.offset, len(live))
    assert deltas.stray(tmp_path / "live") == []


# --- standing on what was published -----------------------------------------------------------------------------------


def test_a_folder_stands_on_what_was_published_and_keeps_the_writes_behind_it(live: LiveIndex, tmp_path: Path) -> None:
    history, folder = History(1), tmp_path / "live"
    history.go_on(live, 9)
    live.flush()
    published = deltas.compacted(folder)
    history.go_on(live, 4)
    with contextlib.closing(LiveIndex(folder)) as follower:
        live.adopt(**published)
        assert live._delta.description.sequence == 9
        assert len(list(live._delta.read(live._delta.first))) == 4
        live.adopt(**published)  # once more changes nothing
        history.go_on(live)
        assert follower.refresh() == 1
        for one in (live, follower):
            assert (one.sequence, one.line, history.differs(one)) == (14, published["line"], "")
    live.close()
    with LiveIndex.open(folder, origin="history 1", **published) as again:
        assert (again.sequence, history.differs(again)) == (14, "")
    assert deltas.stray(folder) == []


def test_writes_that_come_while_the_new_base_is_written_are_kept(
    live: LiveIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, plain = History(1), module._write_base
    history.go_on(live, 5)
    live.flush()
    published = deltas.compacted(tmp_path / "live")

    def written(*arguments: Any) -> Any:
        history.go_on(live, 3)
        return plain(*arguments)

    monkeypatch.setattr(module, "_write_base", written)
    live.adopt(**published)
    assert (live.sequence, history.differs(live)) == (8, "")


def test_a_folder_made_from_what_was_compacted_goes_on_counting_its_writes(live: LiveIndex, tmp_path: Path) -> None:
    history = History(1)
    history.go_on(live, 6)
    live.flush()
    published = deltas.compacted(tmp_path / "live")
    with LiveIndex.open(tmp_path / "elsewhere", origin="history 1", **published) as other:
        assert (other.line, other.sequence) == (live.line, 6)
        history.go_on(other, 3)
        assert history.differs(other) == ""


def test_a_folder_that_was_restored_from_a_copy_begins_anew_with_what_is_published(
    live: LiveIndex, tmp_path: Path
) -> None:
    history, folder, copy = History(1), tmp_path / "live", tmp_path / "copy"
    history.go_on(live, 3)
    live.flush()
    shutil.copytree(folder, copy)
    history.go_on(live, 5)
    live.flush()
    published = deltas.compacted(folder)
    with LiveIndex(copy, write=True) as behind, pytest.raises(DeltaError, match=r"writes up to 3, .* up to 8"):
        behind.adopt(**published)
    with LiveIndex.open(copy, origin="history 1", **published) as again:
        assert (again.sequence, history.differs(again)) == (8, "")
        history.go_on(again, 2)
    with contextlib.closing(LiveIndex(copy)) as after:
        assert (after.sequence, history.differs(after)) == (10, "")


def test_the_writes_of_another_folder_are_taken_over_by_one_without_writes_alone(
    live: LiveIndex, tmp_path: Path
) -> None:
    history = History(1)
    history.go_on(live, 6)
    live.flush()
    published = deltas.compacted(tmp_path / "live")
    with history.create(tmp_path / "idle") as idle:
        idle.adopt(**published)
        assert (idle.line, idle.sequence, history.differs(idle)) == (live.line, 6, "")
        history.go_on(idle)
        assert history.differs(idle) == ""
    with history.create(tmp_path / "busy") as busy:
        history.go_on(busy, 2)
        with pytest.raises(DeltaError, match=r"2 writes of its own, .* move it away"):
            busy.adopt(**published)
        history.go_on(busy)
        assert history.differs(busy) == ""


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crashes() -> Iterator[dict[str, Any]]:
    with deltas.scratch() as folder:
        yield deltas.run(folder, 7, flushed=20, killed=20, steps=12, adopted=12)


@pytest.mark.timeout(1200)
def test_a_kill_after_flush_loses_nothing(crashes: dict[str, Any]) -> None:
    found = crashes["flushed"]
    assert (found["killed"], found["lost"], found["wrong"]) == (20, 0, [])
    assert found["writes"] >= 20


@pytest.mark.timeout(1200)
def test_a_kill_at_any_moment_leaves_what_was_written_and_a_reader_sees_nothing_else(crashes: dict[str, Any]) -> None:
    found = crashes["killed"]
    assert (found["killed"], found["lost"], found["wrong"], found["stray"]) == (20, 0, [], [])
    assert found["answers"] >= 20


@pytest.mark.timeout(1200)
def test_a_kill_before_within_or_after_any_step_leaves_the_old_pair_or_the_new_one(crashes: dict[str, Any]) -> None:
    found = crashes["steps"]
    assert (found["killed"], found["lost"], found["wrong"], found["stray"]) == (3 * found["steps"], 0, [], [])
    assert found["steps"] == 12


@pytest.mark.timeout(1200)
def test_a_kill_while_a_folder_comes_to_stand_on_what_was_published_loses_nothing(crashes: dict[str, Any]) -> None:
    found = crashes["adopted"]
    assert (found["killed"], found["lost"], found["wrong"], found["stray"]) == (3 * found["steps"], 0, [], [])
    assert found["steps"] == 12


@pytest.fixture(scope="module")
def half_flushed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A delta of seven records of which four were flushed, and where each of them ends."""
    history, folder = History(3), tmp_path_factory.mktemp("half") / "live"
    live = history.create(folder)
    ends = [live._at.offset]
    for number in range(7):
        history.go_on(live)
        ends.append(live._at.offset)
        if number == 3:
            live.flush()
    live._held.close()  # as a kill would
    return folder / "delta.log", ends


def read(log: Path) -> int:
    """How many whole records a delta gives."""
    with contextlib.closing(Delta(log)) as opened:
        return len(list(opened.read(opened.first)))


def test_a_delta_that_ends_early_anywhere_gives_the_whole_records_or_is_refused(
    half_flushed: tuple[Path, list[int]], tmp_path: Path
) -> None:
    log, ends = half_flushed
    whole, cut = log.read_bytes(), tmp_path / "delta.log"
    assert len(whole) == ends[7]
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        if length < ends[4]:  # acknowledged up to there
            with pytest.raises(DamageError, match=r"delta\.log: .*expected .*found "):
                read(cut)
        else:
            assert read(cut) == sum(end <= length for end in ends[1:])


def test_a_bad_byte_is_damage_before_the_mark_and_the_end_of_what_is_there_behind_it(
    half_flushed: tuple[Path, list[int]], tmp_path: Path
) -> None:
    log, ends = half_flushed
    whole, changed = bytearray(log.read_bytes()), tmp_path / "delta.log"
    for place in range(len(whole)):
        whole[place] ^= 1 << place % 8
        changed.write_bytes(whole)
        whole[place] ^= 1 << place % 8
        if place < ends[4]:
            with pytest.raises(DamageError, match=r"delta\.log: .*expected .*found "):
                read(changed)
        else:
            assert read(changed) == sum(end <= place for end in ends[1:])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_whatever_a_disk_makes_of_what_was_not_flushed_the_rest_is_whole_and_can_be_written_on(
    tmp_path_factory: pytest.TempPathFactory, seed: int, data: st.DataObject
) -> None:
    """After a power failure blocks of 64 bytes behind the mark may be there, empty, or full of something else."""
    history, folder = History(seed), tmp_path_factory.mktemp("power") / "live"
    live = history.create(folder)
    history.go_on(live, data.draw(st.integers(0, 4)))
    live.flush()
    promised, start = live.sequence, live._at.offset
    history.go_on(live, 4)
    live._held.close()
    log = folder / "delta.log"
    tail = bytearray(log.read_bytes()[start:])
    for block in range(0, len(tail), 64):
        fate = data.draw(st.sampled_from(["there", "there", "there", "empty", "other"]))
        if fate != "there":
            size = len(tail[block : block + 64])
            tail[block : block + 64] = bytes(size) if fate == "empty" else np.random.default_rng(block).bytes(size)
    end = data.draw(st.integers(0, len(tail)))
    log.write_bytes(log.read_bytes()[:start] + tail[:end] + bytes(data.draw(st.sampled_from([0, 0, 4096]))))
    with contextlib.closing(LiveIndex(folder)) as reader:
        assert reader.sequence >= promised
        assert history.differs(reader) == ""
        seen = reader.sequence
    with LiveIndex(folder, write=True) as writer:
        assert writer.sequence == seen
        history.go_on(writer, 2)
    with contextlib.closing(LiveIndex(folder)) as reader:
        assert reader.sequence == seen + 2
        assert history.differs(reader) == ""


def test_a_follower_waits_for_the_rest_of_a_record(half_flushed: tuple[Path, list[int]], tmp_path: Path) -> None:
    log, ends = half_flushed
    folder, whole = tmp_path / "live", log.read_bytes()
    folder.mkdir()
    (base,) = log.parent.glob("base-*.arrow")
    (folder / base.name).write_bytes(base.read_bytes())
    (folder / "delta.log").write_bytes(whole[: ends[5] + 1])
    with contextlib.closing(LiveIndex(folder)) as follower, (folder / "delta.log").open("ab") as log_:
        seen = [follower.sequence]
        for start, end in ((ends[5] + 1, ends[5] + 40), (ends[5] + 40, ends[6]), (ends[6], ends[7])):
            log_.write(whole[start:end])
            log_.flush()
            follower.refresh()
            seen.append(follower.sequence)
            assert History(3).differs(follower) == ""
    assert seen == [5, 5, 6, 7]


def test_a_record_of_another_delta_does_not_fit(tmp_path: Path) -> None:
    """Its number and checksum may be right in itself: a disk may show an old block of a file that is gone."""
    logs = []
    for name, seed in (("one", 1), ("two", 1)):
        History(seed).create(tmp_path / name).close()
        logs.append(tmp_path / name / "delta.log")
    with contextlib.closing(Delta(logs[0], write=True)) as one:
        described = dataclasses.replace(one.description, origin="another")
        two = Delta.create(logs[1], described)
        end = two.append(two.first, DELETE, b"payload")
        payload = logs[1].read_bytes()[two.first.offset :]
        with logs[0].open("ab") as log:
            log.write(payload)
        assert len(list(two.read(two.first))) == 1
        assert list(one.read(one.first)) == []
        assert end == Position(two.first.offset + len(payload), 1)
        two.close()


def test_opening_for_writing_cuts_off_a_torn_record_before_anything_is_written(
    live: LiveIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.close()
    log = tmp_path / "live" / "delta.log"
    length = log.stat().st_size
    with log.open("ab") as torn:
        torn.write(b"torn")
    asked: list[str] = []
    for name in ("ftruncate", "fsync", "pwrite"):
        act = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, act=act, name=name: (asked.append(name), act(*args))[1])
    with LiveIndex(log.parent, write=True):
        assert log.stat().st_size == length
        assert asked[1:] == ["ftruncate", "fsync", "pwrite", "fsync"]  # the first is the lock's


# --- damage -----------------------------------------------------------------------------------------------------------


def test_every_damage_is_refused_by_one_exception_that_names_file_expected_and_found(tmp_path: Path) -> None:
    found = deltas.damaged(tmp_path, flips=40, cuts=20, seed=7)
    assert (found["accepted"], found["unnamed"], found["wrong"]) == ([], [], [])
    assert found["tried"] == found["refused_by_kind"]
    assert set(found["tried"]) == set(deltas.KINDS)


def test_a_folder_that_is_none_or_has_no_delta_is_refused(tmp_path: Path) -> None:
    for write in (False, True):
        with pytest.raises(DamageError, match=r"expected a f.*found none; `LiveIndex.create` makes one"):
            LiveIndex(tmp_path / "none", write=write)
        with pytest.raises(DamageError, match=r"delta\.log: expected a file, found none"):
            LiveIndex(tmp_path, write=write)


def test_a_follower_goes_on_serving_when_files_are_damaged_under_it(live: LiveIndex, tmp_path: Path) -> None:
    history, log = History(1), tmp_path / "live" / "delta.log"
    history.go_on(live, 3)
    with contextlib.closing(LiveIndex(log.parent)) as follower:
        history.go_on(live, 3)
        live.flush()
        whole = log.read_bytes()
        with log.open("r+b") as damaged:
            damaged.write(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DamageError, match="record 6 with checksum"):
            follower.refresh()
        assert history.differs(follower) == ""
        with log.open("r+b") as mended:
            mended.write(whole)
        follower.refresh()
        assert (follower.sequence, history.differs(follower)) == (6, "")
        log.unlink()
        with pytest.raises(DamageError, match="found none"):
            follower.refresh()
        assert history.differs(follower) == ""


# --- the disk refuses -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_file_longer_than(length: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_disk_does_not_take_changes_nothing_and_the_next_one_follows_the_last(
    live: LiveIndex, tmp_path: Path
) -> None:
    history, log = History(1), tmp_path / "live" / "delta.log"
    history.go_on(live, 5)
    before = sorted(path.name for path in log.parent.iterdir())
    for room in (0, 1, 100):
        length = log.stat().st_size
        with no_file_longer_than(length + room):
            with pytest.raises(DeltaError, match=r"cannot write .*delta\.log: .*File too large.*Nothing was changed"):
                live.upsert(*rows_of([1, 2], 99))
            if not room:
                with pytest.raises(DeltaError, match="Nothing was changed"):
                    live.delete([3])
            with pytest.raises(DeltaError, match=r"File too large.*It holds what it held"), no_file_longer_than(1000):
                live.compact()
        assert log.stat().st_size == length
        assert sorted(path.name for path in log.parent.iterdir()) == before
        history.go_on(live)
        for opened in (live, LiveIndex(log.parent)):
            assert history.differs(opened) == ""


def test_an_index_that_cannot_be_created_leaves_no_file(tmp_path: Path) -> None:
    with no_file_longer_than(1000), pytest.raises(DeltaError, match="File too large"):
        History(1).create(tmp_path / "live")
    assert [path.name for path in (tmp_path / "live").iterdir()] == ["writer.lock"]
    History(1).create(tmp_path / "live").close()


@pytest.mark.skipif(not deltas.may_mount(), reason="this machine gives nobody a mount namespace; limits stand in")
def test_a_full_disk_and_a_read_only_one_are_refused_by_name_and_served_from(tmp_path: Path) -> None:
    found = deltas.run(tmp_path, 7, before=deltas.NAMESPACE, refused=30)["refused"]
    assert (found["stray"], found["wrong"]) == ([], [])
    for attempt, said in found["said"].items():
        assert ("No space left" if attempt.startswith("full") else "Read-only file system") in said


@pytest.mark.parametrize("call", [1, 2])
def test_when_the_disk_fails_at_a_flush_writing_ends_and_queries_go_on(
    live: LiveIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Nobody knows what a disk has after a failed fsync, and asking it again does not tell."""
    history, calls, fsync = History(1), [], os.fsync
    history.go_on(live, 3)

    def failing(file: int) -> None:
        calls.append(file)
        if len(calls) == call:
            raise OSError(5, "Input/output error")
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DeltaError, match=r"Input/output error\. Writing has ended; open it again"):
        live.flush()
    for act in (live.flush, live.compact, lambda: live.delete([1]), lambda: history.go_on(live)):
        with pytest.raises(DeltaError, match="has ended: OSError"):
            act()
    assert history.differs(live) == ""
    live.close()
    with LiveIndex(tmp_path / "live", write=True) as again:
        assert again.sequence == 3
        assert history.differs(again) == ""


def test_when_memory_cannot_follow_the_file_writing_ends_and_the_file_is_right(
    live: LiveIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(1)
    history.go_on(live, 2)
    with monkeypatch.context() as patch:
        patch.setattr(RetrievalIndex, "insert", lambda *_: (_ for _ in ()).throw(MemoryError("no more")))
        with pytest.raises(MemoryError):
            live.upsert(*rows_of(history.write(3)[1], 3))
    with pytest.raises(DeltaError, match="MemoryError: no more; open it again"):
        live.delete([1])
    assert (live.sequence, history.differs(live)) == (2, "")
    live.close()
    with LiveIndex(tmp_path / "live", write=True) as again:
        assert (again.sequence, history.differs(again)) == (3, "")


# --- who may write ----------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_writes(live: LiveIndex, tmp_path: Path) -> None:
    with pytest.raises(LockedError, match=f"is being written by process {os.getpid()}; wait for it, or open it for"):
        LiveIndex(tmp_path / "live", write=True)
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        History(1).create(tmp_path / "live")
    live.close()
    with pytest.raises(DeltaError, match="holds a live index already"):
        History(1).create(tmp_path / "live")


def test_who_reads_or_has_closed_it_cannot_write(live: LiveIndex, tmp_path: Path) -> None:
    reader = LiveIndex(tmp_path / "live")
    acts: list[Callable[[LiveIndex], Any]] = [
        lambda index: index.upsert(*rows_of([1], 1)),
        lambda index: index.delete([1]),
        LiveIndex.flush,
        LiveIndex.compact,
    ]
    for act in acts:
        with pytest.raises(DeltaError, match="was opened for reading; open it with write=True"):
            act(reader)
    for index in (live, reader):
        index.close()
        index.close()
        for act in (*acts, LiveIndex.refresh):
            with pytest.raises(DeltaError, match="closed; open it again"):
                act(index)
        assert index.search(QUERY, 1).ids.tolist() == [[0]]


def test_a_copy_of_the_writing_process_cannot_write(live: LiveIndex) -> None:
    child = os.fork()
    if not child:
        try:
            live.delete([1])
        except DeltaError as error:
            os._exit(0 if "of which this one is a copy" in str(error) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_refused_write_is_not_kept(live: LiveIndex, tmp_path: Path) -> None:
    ids, vectors, table = rows_of([1, 2], 5)
    wrong: list[tuple[Any, ...]] = [
        (ids, vectors * np.nan, table),
        (ids, vectors, table.drop_columns(["stamp"])),
        (ids, vectors, table.set_column(0, "stamp", pa.array(["x", "y"]))),
        (-ids, vectors, table),
    ]
    length = (tmp_path / "live" / "delta.log").stat().st_size
    for arguments in wrong:
        with pytest.raises(ValueError):
            live.upsert(*arguments)
    assert (tmp_path / "live" / "delta.log").stat().st_size == length
    History(1).go_on(live)
    assert History(1).differs(live) == ""


# --- many at once -----------------------------------------------------------------------------------------------------


def test_of_two_writers_and_four_readers_each_finds_whole_writes_and_its_own(tmp_path: Path) -> None:
    found = deltas.crowded(tmp_path / "live", 1.5, seed=7)
    assert found["wrong"] == []
    assert min(found["writes"], found["answers"], found["followed"]) >= 3


def test_one_wait_for_the_disk_serves_all_who_ask_meanwhile(live: LiveIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, calls, fsync = threading.Event(), threading.Event(), [], os.fsync

    def slow(file: int) -> None:
        calls.append(file)
        begun.set()
        go_on.wait(60)
        fsync(file)

    monkeypatch.setattr(os, "fsync", slow)
    live.delete([1])
    threads = [threading.Thread(target=live.flush)]
    threads[0].start()
    begun.wait(60)
    live.delete([2])  # writes do not wait for the disk
    threads += [threading.Thread(target=live.flush) for _ in range(5)]
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 4  # twice for the first, twice for the other five together
    live.flush()
    assert len(calls) == 4


# --- the format -------------------------------------------------------------------------------------------------------


def test_a_delta_is_laid_out_as_it_is_documented(tmp_path: Path) -> None:
    """Read by hand: magic, format and size; mark; description; checksum; records."""
    import json
    import zlib

    with History(1).create(tmp_path) as live:
        live.upsert(*rows_of([1, 5], 3))
        live.delete([4])
    raw = (tmp_path / "delta.log").read_bytes()
    magic, format_, size = struct.unpack_from("<8sII", raw)
    assert (magic, format_) == (b"HRDELTA\n", 1)
    length, mark_check = struct.unpack_from("<QI", raw, 16)
    told = raw[28 : 28 + size]
    (seed,) = struct.unpack_from("<I", raw, 28 + size)
    assert seed == zlib.crc32(raw[:16] + told)
    assert (length, mark_check) == (len(raw), zlib.crc32(raw[16:24], seed))
    description = json.loads(told)
    assert (description["sequence"], description["origin"]) == (0, "history 1")
    columns = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(description["schema"])))
    assert columns.names == ["id", "vector", "stamp", "name", "tags"]
    place, found = 28 + size + 4, []
    while place < len(raw):
        check, kind, number, bytes_ = struct.unpack_from("<IB3xQQ", raw, place)
        end = place + 24 + bytes_
        assert check == zlib.crc32(raw[place + 4 : end], seed)
        schema = columns if kind == UPSERT else pa.schema([("id", pa.int64())])
        found.append((number, pa.ipc.read_record_batch(pa.py_buffer(raw[place + 24 : end]), schema).to_pydict()))
        place = end
    assert found[0] == (1, {"id": [1, 5], "vector": [deltas.vector_of(i, 3) for i in (1, 5)]} | {
        name: [deltas.attributes_of(i, 3)[name] for i in (1, 5)] for name in ("stamp", "name", "tags")
    })  # fmt: skip
    assert found[1] == (2, {"id": [4]})


def test_nothing_warns_and_the_page_names_the_format(tmp_path: Path) -> None:
    page = (deltas.PROJECT / "docs" / "retrieval.md").read_text()
    assert f"`delta.log` in format {module.FORMAT}," in page
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with History(1).create(tmp_path / "live") as live:
            History(1).go_on(live, 3)
            live.compact()
        LiveIndex(tmp_path / "live").close()
