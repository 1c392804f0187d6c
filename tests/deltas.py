"""Kills, damages and crowds for a live index, each with a count, and what was found.

    python -m tests.deltas FOLDER SEED [flushed=COUNT] [killed=COUNT] [steps=COUNT] [adopted=COUNT] [refused=COUNT]

Run as a program, for it forks: one process with one thread, and with everything imported, gives its children a start of
milliseconds. It prints what it found as JSON.

A `History` says of every write what it is, by its number alone. So whoever opens the folder knows from the number of
the last write what every answer must be.
"""

import contextlib
import ctypes
import json
import math
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.feed.retrieval.delta import DamageError, DeltaError, LiveIndex, replayed, stored
from models.feed.retrieval.filter import col
from models.feed.retrieval.index import RetrievalIndex

PROJECT = Path(__file__).parent.parent
NAMESPACE = ("unshare", "--mount", "--map-root-user")
ITEMS = 47
FIELDS = pa.schema([("stamp", pa.int64()), ("name", pa.string()), ("tags", pa.list_(pa.string()))])


# ----------------------------------------------------------------------------------------------------- what is written


def vector_of(identity: int, stamp: int) -> list[float]:
    """A vector that says whose it is and of which write."""
    return [float(identity), float(stamp), float((identity * 31 + stamp) % 101)]


def attributes_of(identity: int, stamp: int) -> dict[str, Any]:
    """Attributes that say the same; some are missing."""
    return {
        "stamp": stamp,
        "name": None if stamp % 11 == 5 else f"{identity}-{stamp}",
        "tags": None if stamp % 7 == 3 else [str(identity % 3)] * (stamp % 3),
    }


def rows_of(ids: list[int], stamp: int) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """Arguments of an upsert."""
    vectors = np.array([vector_of(identity, stamp) for identity in ids], np.float32).reshape(len(ids), 3)
    table = pa.Table.from_pylist([attributes_of(identity, stamp) for identity in ids], schema=FIELDS)
    return np.array(ids, np.int64), vectors, table


def first() -> RetrievalIndex:
    """The index after write 0."""
    ids, vectors, table = rows_of(list(range(ITEMS)), 0)
    return RetrievalIndex.build(vectors, ids, table)


@dataclass
class History:
    """What was written, write by write: number 0 puts all items there, the others replace, add or delete some."""

    seed: int
    _states: list[dict[int, int]] = field(default_factory=lambda: [dict.fromkeys(range(ITEMS), 0)])

    def write(self, number: int) -> tuple[str, list[int]]:
        """Kind and ids of a write."""
        draw = random.Random(f"{self.seed} {number}")
        ids = draw.sample(range(2 * ITEMS), draw.randint(1, 9))
        return ("delete" if draw.random() < 0.2 else "upsert"), ids

    def state(self, number: int) -> dict[int, int]:
        """Id to the write that it is of, after so many writes."""
        while len(self._states) <= number:
            after = dict(self._states[-1])
            stamp = len(self._states)
            kind, ids = self.write(stamp)
            for identity in ids:
                if kind == "upsert":
                    after[identity] = stamp
                else:
                    after.pop(identity, None)
            self._states.append(after)
        return self._states[number]

    def create(self, folder: Path) -> LiveIndex:
        """The live index after write 0."""
        return LiveIndex.create(folder, first().snapshot(), origin=f"history {self.seed}")

    def go_on(self, live: LiveIndex, writes: int = 1) -> None:
        """Do the next writes."""
        for _ in range(writes):
            stamp = live.sequence + 1
            kind, ids = self.write(stamp)
            if kind == "upsert":
                live.upsert(*rows_of(ids, stamp))
            else:
                live.delete(ids)

    def differs(self, live: LiveIndex) -> str:
        """In what a live index differs from what it must be after its last write; "" when in nothing."""
        stamp, state = live.sequence, self.state(live.sequence)
        found, ids = live.index.snapshot(), sorted(state)
        if found["ids"].tolist() != ids:
            return f"after write {stamp}: other ids"
        if found["vectors"].tolist() != [vector_of(one, state[one]) for one in ids]:
            return f"after write {stamp}: other vectors"
        if found["attributes"].to_pylist() != [attributes_of(one, state[one]) for one in ids]:
            return f"after write {stamp}: other attributes"
        for least in (0, stamp // 2, stamp - 3):
            passing = sorted((-state[one], one) for one in ids if state[one] >= least)[:20]
            hits = live.search(np.array([[0, 1, 0]], np.float32), 20, col("stamp") >= least)
            empty = 20 - len(passing)
            right_ids = [one for _, one in passing] + [-1] * empty
            right_scores = [float(-score) for score, _ in passing] + [-math.inf] * empty
            if (hits.ids[0].tolist(), hits.scores[0].tolist()) != (right_ids, right_scores):
                return f"after write {stamp}: another answer"
        return ""


# ----------------------------------------------------------------------------------------------------- who is killed


class Told:
    """Numbers that outlive the processes that told them."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 64)

    def __getitem__(self, place: int) -> int:
        return int(struct.unpack_from("q", self._shared, 8 * place)[0])

    def __setitem__(self, place: int, value: int) -> None:
        struct.pack_into("q", self._shared, 8 * place, value)


PROMISED, ROUNDS, STOP, STEP = range(4)


def forked(work: Callable[[], None]) -> int:
    """Do something in a child process, which dies with its parent; its number."""
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def flushed(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill a writer after `flush` returned, again and again: at once, or some moments and writes later.

    Args:
        folder: a fresh one.
        count: how many writers die.
        seed: of the history and the moments.

    Returns:
        How many died, writes that were promised and are gone, and differences from the history.
    """
    history, told, draw = History(seed), Told(), random.Random(seed)
    history.create(folder).close()
    lost, wrong, killed = 0, [], 0
    for number in range(count):
        before, at_once = told[PROMISED], number % 2 == 0
        last = before + draw.randint(1, 6)

        def write(last: int = last, at_once: bool = at_once) -> None:
            with LiveIndex(folder, write=True) as live:
                while True:
                    history.go_on(live)
                    if live.sequence % 3 == 0 or live.sequence == last:
                        live.flush()
                        told[PROMISED] = live.sequence
                        if at_once and live.sequence >= last:
                            os.kill(os.getpid(), signal.SIGKILL)

        child = forked(write)
        while not at_once and told[PROMISED] == before and not _ended(child):
            time.sleep(0.0005)
        if not at_once:
            time.sleep(draw.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
        killed += _killed(child)
        live = LiveIndex(folder)
        lost += max(0, told[PROMISED] - live.sequence)
        wrong += [said for said in [history.differs(live)] if said]
        live.close()
    return {"killed": killed, "writes": told[PROMISED], "lost": lost, "wrong": wrong}


def killed(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill a process that upserts, deletes and compacts, at random moments, while another opens and follows.

    Args:
        folder: a fresh one.
        count: how many writers die.
        seed: of the history and the moments.

    Returns:
        How many died, answers that were compared, writes that returned and are gone, differences from the history, and
        files that nobody needs.
    """
    history, told, draw = History(seed), Told(), random.Random(seed)
    history.create(folder).close()
    lost, wrong, died = 0, [], 0

    def follow() -> None:
        live = LiveIndex(folder)
        while not told[STOP]:
            promised = told[PROMISED]
            if told[ROUNDS] % 3 == 0:
                live.close()
                live = LiveIndex(folder)
            else:
                live.refresh()
            said = history.differs(live)
            if said or live.sequence < promised:
                raise AssertionError(said or f"write {promised} is gone, the last is {live.sequence}")
            told[ROUNDS] += 1
        live.close()

    reader = forked(follow)
    for number in range(count):
        before = told[PROMISED]

        def write(number: int = number) -> None:
            chance = random.Random(f"{seed} {number}")
            with LiveIndex(folder, write=True) as live:
                while True:
                    history.go_on(live)
                    told[PROMISED] = live.sequence
                    if chance.random() < 0.25:
                        live.compact()

        child = forked(write)
        while told[PROMISED] == before and not _ended(child):
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
        died += _killed(child)
        with contextlib.closing(LiveIndex(folder)) as live:
            lost += max(0, told[PROMISED] - live.sequence)
    told[STOP] = 1
    if os.waitpid(reader, 0)[1]:
        wrong.append("the reader found an answer that it could not have; it is told above")
    with LiveIndex(folder, write=True) as live:
        wrong += [said for said in [history.differs(live)] if said]
    return {
        "killed": died, "writes": told[PROMISED], "lost": lost, "wrong": wrong, "answers": told[ROUNDS],
        "stray": stray(folder),
    }  # fmt: skip


STEPS = ("fsync", "pwrite", "replace", "ftruncate", "unlink")
SECTOR = 512
"""The mark stands in the first bytes that a disk writes at once, so it is never half there; records may be."""


def steps(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill a writer before, within and after every step that it asks the system for, in one walk through all it does.

    Args:
        folder: a fresh one.
        count: how many of the steps, drawn; 0 for all.
        seed: of the history and the draw.

    Returns:
        Steps at which it was killed, deaths, writes that returned and are gone, differences from the history, and files
        that nobody needs.
    """
    history, told = History(seed), Told()

    def walk(place: Path) -> None:
        with LiveIndex(place, write=True) as live:
            for act in (live.flush, live.compact, lambda: None, live.compact):
                history.go_on(live, 2)
                told[PROMISED] = live.sequence
                act()
        with LiveIndex(place, write=True) as live:
            history.go_on(live)
            told[PROMISED] = live.sequence

    return _stepwise(folder, count, seed, history, told, walk)


def adopted(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """The same for a writer that goes on while what it holds is compacted and published, and then stands on that.

    Args:
        folder: a fresh one.
        count: how many of the steps, drawn; 0 for all.
        seed: of the history and the draw.

    Returns:
        As `steps`.
    """
    history, told = History(seed), Told()

    def walk(place: Path) -> None:
        with LiveIndex(place, write=True) as live:
            for _ in range(2):
                history.go_on(live, 2)
                live.flush()
                published = compacted(place)
                history.go_on(live, 2)
                told[PROMISED] = live.sequence
                live.adopt(**published)
            history.go_on(live)
            live.flush()
            told[PROMISED] = live.sequence
        origin = f"history {seed}"
        with LiveIndex.open(place, origin=origin, **compacted(place)) as live:  # as a service that begins
            history.go_on(live)
            told[PROMISED] = live.sequence

    return _stepwise(folder, count, seed, history, told, walk)


def compacted(folder: Path) -> dict[str, Any]:
    """What a compaction makes of a folder: items, their line, and the number of the last write in them."""
    found = stored(folder)
    assert found is not None
    return {"payload": replayed(found), "line": found.description.line, "sequence": found.sequence}


def _stepwise(
    folder: Path, count: int, seed: int, history: History, told: Told, walk: Callable[[Path], None]
) -> dict[str, Any]:
    """Kill whoever walks before, within and after steps of the walk; see `steps`."""

    def begun(name: str) -> Path:
        place = folder / name
        with history.create(place) as live:
            history.go_on(live, 3)
        with (place / "delta.log").open("ab") as torn:  # so that there is something to cut off
            torn.write(b"torn")
        return place

    def counted(place: Path, last: int, how: str) -> None:
        torch.set_num_threads(1)
        with _dying(told, last, how):
            walk(place)

    os.waitpid(forked(lambda: counted(begun("all"), -1, "")), 0)
    every = range(told[STEP])
    chosen = sorted(random.Random(seed).sample(every, count)) if count else every
    died, lost, wrong, left = 0, 0, [], []
    for number in chosen:
        for how in ("before", "within", "after"):
            place = begun(f"{number}-{how}")
            told[STEP], told[PROMISED] = 0, 3
            died += _killed(forked(lambda place=place, number=number, how=how: counted(place, number, how)))  # type: ignore[misc]
            for write in (False, True):
                with LiveIndex(place, write=write) as live:
                    lost += max(0, told[PROMISED] - live.sequence)
                    wrong += [f"{how} step {number}: {said}" for said in [history.differs(live)] if said]
            left += stray(place)
    return {"steps": len(chosen), "killed": died, "lost": lost, "wrong": wrong, "stray": left}


@contextlib.contextmanager
def _dying(told: Told, last: int, how: str) -> Iterator[None]:
    """Count what is asked of the system, and die at one of the calls; within a write half of it is done."""
    plain = {name: getattr(os, name) for name in STEPS}

    def stepping(name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            mine = told[STEP] == last
            told[STEP] += 1
            if mine and how == "within" and name == "pwrite" and arguments[2] > SECTOR:
                file, data, offset = arguments
                plain["pwrite"](file, data[: len(data) // 2], offset)
            if mine and how != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            done = plain[name](*arguments, **more)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return step

    for name in STEPS:
        setattr(os, name, stepping(name))
    try:
        yield
    finally:
        for name, act in plain.items():
            setattr(os, name, act)


def stray(folder: Path) -> list[str]:
    """Files in the folder that belong to nothing."""
    with contextlib.closing(LiveIndex(folder)) as live:
        known = {"delta.log", "writer.lock", live._delta.description.base}
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


def _ended(child: int) -> bool:
    """Whether a child has ended by itself, which none of ours should; it stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _killed(child: int) -> bool:
    """Wait for a child that is to be killed."""
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"a writer ended by itself with {os.WEXITSTATUS(status)}")
    return True


# ----------------------------------------------------------------------------------------------------- damage

KINDS = ("flip a bit", "cut", "lose", "take that of another", "another format", "lengthen the base")


def damaged(folder: Path, flips: int, cuts: int, seed: int) -> dict[str, Any]:
    """Damage what was flushed, one place at a time, and open it.

    Args:
        folder: a fresh one.
        flips: how many bits are flipped, each at a random place of either file.
        cuts: how often either file ends early.
        seed: of the places.

    Returns:
        How many were tried and refused, by kind, and which were accepted or refused without naming file, expected and
        found.
    """
    history, draw = History(seed), random.Random(seed)
    place, other = folder / "live", folder / "other"
    for where, writes in ((place, 40), (other, 41)):
        with history.create(where) as live:
            history.go_on(live, writes)
            if where == place:
                live.compact()
                history.go_on(live, 40)
    base = next(place.glob("base-*.arrow"))
    files = [place / "delta.log", base]
    tried, refused, accepted, unnamed = Counter[str](), Counter[str](), [], []
    kinds = [KINDS[0]] * flips + [KINDS[1]] * cuts + [kind for kind in KINDS[2:] for _ in range(4)]
    for number, kind in enumerate(kinds):
        file = base if kind == "lengthen the base" else place / "delta.log" if kind == "another format" else None
        file = file or files[number % 2]
        whole = file.read_bytes()
        match kind:
            case "flip a bit":
                where = draw.randrange(len(whole))
                file.write_bytes(whole[:where] + bytes([whole[where] ^ 1 << draw.randrange(8)]) + whole[where + 1 :])
            case "cut":
                os.truncate(file, draw.randrange(len(whole)))
            case "lose":
                file.unlink()
            case "take that of another":
                file.write_bytes(next(other.glob("base-*.arrow" if file == base else "delta.log")).read_bytes())
            case "another format":
                file.write_bytes(whole[:8] + struct.pack("<I", draw.choice([0, 2, 3])) + whole[12:])
            case _:
                file.write_bytes(whole + draw.randbytes(draw.randint(1, 99)))
        tried[kind] += 1
        try:
            with LiveIndex(place, write=number % 4 == 0):
                accepted.append(f"{kind} {file.name}")
        except DamageError as error:
            refused[kind] += 1
            if not all(word in str(error) for word in ("expected", "found", "live/")):
                unnamed.append(f"{kind}: {error}")
        except Exception as error:
            accepted.append(f"{kind} {file.name}: {type(error).__name__} {error}")
        file.write_bytes(whole)
    with LiveIndex(place, write=True) as live:
        wrong = [said for said in [history.differs(live)] if said]
    return {
        "tried": dict(tried), "refused": sum(refused.values()), "refused_by_kind": dict(refused),
        "accepted": accepted, "unnamed": unnamed, "wrong": wrong,
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------- crowds


def crowded(folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Two threads write, four search, and another thread follows, for a while.

    Args:
        folder: a fresh one.
        seconds: how long.
        seed: of what is written.

    Returns:
        Writes, answers, and what was wrong: a hit of no write, a vector of one write with attributes of another, a
        write that its own writer did not find, a deleted item that was found.
    """
    live = History(seed).create(folder)
    wrong: list[str] = []
    written, answers, over = [0, 0], [0] * 5, threading.Event()

    def write(writer: int) -> None:
        draw, stamp = random.Random(f"{seed} {writer}"), 0
        while not over.is_set():
            stamp += 1
            ids = sorted(draw.sample(range(writer, ITEMS, 2), 7))
            mark = 2 * stamp + writer
            live.upsert(*rows_of(ids, mark))
            found = set(live.search(np.zeros((1, 3), np.float32), 9, f"stamp == {mark}").ids[0].tolist()) - {-1}
            if found != set(ids):
                wrong.append(f"write {mark} of {ids}: its writer found {sorted(found)}")
            if stamp % 5 == 0:
                live.delete(ids[:3])
                hits = live.search(np.zeros((1, 3), np.float32), ITEMS).ids[0].tolist()
                if set(ids[:3]) & set(hits):
                    wrong.append(f"{ids[:3]} were deleted and found")
            if stamp % 40 == 0:
                live.flush()
            if writer == 0 and stamp % 100 == 0:
                live.compact()
            written[writer] += 1

    def search(reader: int, asked: LiveIndex) -> None:
        draw, query = random.Random(f"{seed} reader {reader}"), np.array([[1, 1024, 0]], np.float32)
        while not over.is_set():
            asked.refresh()
            least = draw.choice([0, max(0, 2 * max(written) - 20)])
            hits = asked.search(query, ITEMS, f"stamp >= {least}")
            for identity, score in zip(hits.ids[0].tolist(), hits.scores[0].tolist(), strict=True):
                if identity >= 0:
                    stamp, whose = divmod(int(score), 1024)
                    if whose != identity or stamp < least or (stamp and stamp % 2 != identity % 2):
                        wrong.append(f"id {identity} with the vector of id {whose}, write {stamp}, least {least}")
            answers[reader] += 1

    def guarded(act: Callable[..., None], *arguments: Any) -> Callable[[], None]:
        def run() -> None:
            try:
                act(*arguments)
            except BaseException as error:
                wrong.append(f"{type(error).__name__}: {error}")
                over.set()

        return run

    with live, contextlib.closing(LiveIndex(folder)) as follower:
        work = [guarded(write, writer) for writer in range(2)]
        work += [guarded(search, reader, live) for reader in range(4)] + [guarded(search, 4, follower)]
        threads = [threading.Thread(target=one) for one in work]
        for thread in threads:
            thread.start()
        over.wait(seconds)
        over.set()
        for thread in threads:
            thread.join()
    return {"writes": sum(written), "answers": sum(answers), "followed": answers[4], "wrong": wrong[:9]}


# ----------------------------------------------------------------------------------------------------- disks


def refused(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Write on a disk that is full, then on one that is read-only; to be run where a disk may be mounted.

    Args:
        folder: a fresh one; a small disk is mounted there.
        count: writes before the disk is full.
        seed: of the history.

    Returns:
        What was said of each attempt, files that appeared, and differences from the history.
    """
    history = History(seed)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    place, said, wrong, appeared = folder / "live", {}, [], []
    live = history.create(place)
    history.go_on(live, count)
    before = sorted(path.name for path in place.iterdir())
    big = rows_of(list(range(30_000)), 1)

    def attempt(name: str, act: Callable[[], Any]) -> None:
        try:
            act()
            said[name] = "no error"
        except DeltaError as error:
            said[name] = str(error)
        appeared.extend(sorted({path.name for path in place.iterdir()} - set(before)))
        with contextlib.closing(LiveIndex(place)) as reader:
            wrong.extend(one for one in (history.differs(live), history.differs(reader)) if one)

    attempt("full: upsert", lambda: live.upsert(*big))
    with (folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(512))
    attempt("full: compact", live.compact)
    attempt("full: create", lambda: history.create(folder / "second"))
    appeared += [path.name for path in (folder / "second").glob("*") if path.name != "writer.lock"]
    (folder / "ballast").unlink()
    history.go_on(live, count)
    live.compact()
    history.go_on(live)
    wrong += [one for one in [history.differs(live)] if one]
    live.close()
    before = sorted(path.name for path in place.iterdir())
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    attempt("read-only: open for writing", lambda: LiveIndex(place, write=True))
    return {"said": said, "stray": appeared, "wrong": wrong}


def run(folder: Path, seed: int, *, before: tuple[str, ...] = (), **counts: int) -> dict[str, Any]:
    """Run some of these, by name and count, in a process of its own; what each of them found."""
    wanted = [f"{name}={count}" for name, count in counts.items()]
    command = [*before, sys.executable, "-m", "tests.deltas", str(folder), str(seed), *wanted]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=7200)
    if done.returncode:
        raise SystemExit(f"{wanted} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    print(done.stderr, file=sys.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: a kill leaves the same there, and the waits for a disk are gone."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def may_mount() -> bool:
    """Whether this machine lets us have a disk of our own."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    torch.set_num_threads(1)  # before anything is computed: a fork has none of its parent's threads
    first()  # compiles, once for all children
    _acts = {"flushed": flushed, "killed": killed, "steps": steps, "adopted": adopted, "refused": refused}
    _asked = dict(word.split("=") for word in sys.argv[3:])
    _places = {_name: Path(sys.argv[1]) / ("" if _name == "refused" else _name) for _name in _asked}
    _seed = int(sys.argv[2])
    print(json.dumps({_name: _acts[_name](_places[_name], int(_count), _seed) for _name, _count in _asked.items()}))
