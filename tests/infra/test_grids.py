"""Arrays that are written in pieces and put together without copying them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.grids import Parts, Receipt, open_groups
from infra.manifest import Manifest
from infra.refs import Dataset
from infra.store import IntegrityError, Store
from models.common.parts import Layout, Variable

RNG = np.random.default_rng(5)
HOURS = Layout(
    variables={
        "u": Variable(
            dims=("time", "level", "lat"),
            dtype="float32",
            attrs={"units": "m s-1"},
            chunks={"level": 2, "lat": 5},
            shards={"time": 1, "level": 4},
        ),
        "flag": Variable(dims=("time",), dtype="uint8", fill=2, shards={"time": 1}),
    },
    sizes={"time": 3, "level": 6, "lat": 7},
    coordinates={
        "lat": (("lat",), np.linspace(-90, 90, 7), {"units": "degrees_north"}),
        "name": (("level",), np.array(["a", "b", "c", "d", "e", "f"]), {}),
    },
    attrs={"title": "hours"},
)
ROWS = Layout(
    variables={
        "value": Variable(dims=("row",), dtype="float64", chunks={"row": 4}, shards={"row": 8}),
        "text": Variable(dims=("row",), dtype="str", chunks={"row": 4}, shards={"row": 8}),
        "pair": Variable(dims=("row", "two"), dtype="int16", fill=-1, chunks={"row": 4}, shards={"row": 8}),
    },
    sizes={"two": 2},
    append="row",
)
GROUPS = {"hours": HOURS, "rows": ROWS}


def _part(time: int, level: int, rows: int) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng([time, level])
    return {
        "hours": {
            "u": rng.normal(size=(1, min(4, 6 - level), 7)).astype("float32"),
            **({"flag": np.array([time], "uint8")} if level == 0 else {}),
        },
        "rows": {
            "value": rng.normal(size=rows),
            "text": np.array([f"ÿ {time} {row}" for row in range(rows)], dtype=object),
            "pair": rng.integers(0, 9, (rows, 2)).astype("int16"),
        },
    }


PLAN = [(time, level, (5 * time + 3 * level) % 11) for time in range(3) for level in (0, 4)]


def _write(parts: Parts) -> list[tuple[Receipt, Mapping[str, Mapping[str, int]]]]:
    made: list[tuple[Receipt, Mapping[str, Mapping[str, int]]]] = []
    for time, level, rows in PLAN:
        key = f"{time}{level}".ljust(32, "0")
        receipt = parts.receipt(key) or parts.write(f"{time} {level}", key, GROUPS, _part(time, level, rows), {"n": 1})
        made.append((receipt, {"hours": {"time": time, "level": level}}))
    return made


def _stored(store: Store, folder: Path, name: str = "grids-toy") -> Dataset:
    parts = Parts(folder)
    with store.workplace() as staging:
        tree = parts.join(staging, GROUPS, _write(parts), {"recipe": "toy"})
        manifest = Manifest(
            kind="dataset", name=name, configuration={}, configuration_class="x", inputs={}, files=(), code=""
        )
        return store.write(Dataset, {"data": tree, "about": {"a": 1}}, manifest)


def test_what_parts_brought_is_what_is_read_from_the_whole(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    ref = _stored(store, store.parts("grids-toy"))
    groups = store.open(ref)["data"]
    u, flag = groups["hours"]["u"], groups["hours"]["flag"]
    for time, level, _ in PLAN:
        brought = _part(time, level, 0)["hours"]
        np.testing.assert_array_equal(u[time, level : level + 4].values, brought["u"][0])
    np.testing.assert_array_equal(flag.values, [0, 1, 2])
    assert flag.dtype == "uint8"
    assert u.attrs["units"] == "m s-1"
    np.testing.assert_array_equal(groups["hours"]["lat"].values, np.linspace(-90, 90, 7))
    assert list(groups["hours"]["name"].values) == list("abcdef")
    rows = [_part(*one)["rows"] for one in PLAN]
    for name in ("value", "text", "pair"):
        np.testing.assert_array_equal(groups["rows"][name].values, np.concatenate([part[name] for part in rows]))
    assert groups["hours"].attrs["title"] == "hours"


def test_one_file_of_the_whole_holds_one_shard_and_is_that_of_the_part(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    ref = _stored(store, store.parts("grids-toy"))
    whole = Path(ref.location) / "data.zarr" / "hours" / "u" / "c" / "2" / "1" / "0"
    part = store.parts("grids-toy") / "24".ljust(32, "0") / "hours" / "u" / "c" / "0" / "0" / "0"
    assert whole.samefile(part)


def test_the_same_parts_give_the_same_version_and_no_file_is_written_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    first = _stored(store, store.parts("grids-toy"))
    inodes = {path: path.stat().st_ino for path in Path(first.location).rglob("*")}
    again = _stored(store, store.parts("grids-toy"))
    elsewhere = _stored(Store(str(tmp_path / "other")), tmp_path / "apart")
    assert again == first
    assert elsewhere.digest == first.digest
    assert {path: path.stat().st_ino for path in Path(first.location).rglob("*")} == inodes


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "flip both"])
def test_a_damaged_file_is_found_and_the_version_made_whole_again(tmp_path: Path, harm: str) -> None:
    store = Store(str(tmp_path / "store"))
    ref = _stored(store, store.parts("grids-toy"))
    file = Path(ref.location) / "data.zarr" / "hours" / "u" / "c" / "1" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if harm != "flip both":  # else the part, whose file it is too, is damaged with it
        file.unlink()
    if harm != "gone":
        file.write_bytes(data[:-1] if harm == "cut" else data)
    assert not store.intact(ref)
    with pytest.raises(IntegrityError, match="hours/u/c/1/0/0"):
        store.verify(ref)
    assert _stored(store, store.parts("grids-toy")) == ref
    store.verify(ref)
    assert store.intact(ref)


def test_a_flipped_bit_is_refused_when_it_is_read_though_nobody_verified(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    ref = _stored(store, store.parts("grids-toy"))
    file = Path(ref.location) / "data.zarr" / "hours" / "u" / "c" / "1" / "0" / "0"
    clean = file.read_bytes()
    wrong = 0
    for place in range(0, len(clean), max(1, len(clean) // 40)):
        data = bytearray(clean)
        data[place] ^= 4
        file.unlink()
        file.write_bytes(data)
        with pytest.raises(Exception, match=r"."):
            open_groups(f"{ref.location}/data.zarr")["hours"]["u"][1].load()
        wrong += 1
    assert wrong >= 40


def test_a_part_that_lost_a_file_is_not_there_and_is_made_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    made = _write(parts)
    before = [json.loads(receipt.model_dump_json()) for receipt, _ in made]
    parts.path(made[0][0], made[0][0].pieces[0]).unlink()
    fresh = Parts(tmp_path / "parts")
    assert fresh.receipt(made[0][0].key) is None
    assert [json.loads(receipt.model_dump_json()) for receipt, _ in _write(fresh)] == before


def test_old_parts_and_what_killed_writers_left_are_swept(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    made = _write(parts)
    (parts.folder / ".killed").mkdir()
    keep = frozenset(receipt.key for receipt, _ in made[:2])
    assert parts.sweep(keep, before=0.0) == 0
    assert parts.sweep(keep, before=4e9) == len(made) - 2
    assert {path.name for path in parts.folder.iterdir()} == set(keep)
