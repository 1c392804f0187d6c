"""Processes that publish for ever and read for ever, for whoever kills the former."""

import contextlib
from typing import Any

import numpy as np

from infra.manifest import Manifest
from infra.refs import Index
from infra.store import IntegrityError, Store

SIZE = 20_000


def payload_of(number: int) -> dict[str, Any]:
    """A payload that says in every part which one it is."""
    return {"values": np.full(SIZE, number, np.int64), "again": np.full(SIZE, number, np.int64), "about": {"n": number}}


def publish(store: Store, number: int) -> Index:
    """Write and publish one version."""
    manifest = Manifest(
        kind="index",
        name="polled",
        configuration={"n": number},
        configuration_class="models.toy.Config",
        inputs={},
        files=(),
        code="toy",
    )
    ref = store.write(Index, payload_of(number), manifest)
    store.publish(ref, {"claims": [], "n": number})
    return ref


def publish_for_ever(root: str, seed: int, began: Any, limit: int) -> None:
    """Publish one version after another; counts up before each."""
    store = Store(root)
    for step in range(limit):
        number = 1_000_000 * seed + step
        with began.get_lock():
            began.value += 1
        publish(store, number)


def read_for_ever(root: str, stop: Any, told: Any) -> None:
    """Open what is live, read all of it, and compare the parts with one another, until told to stop."""
    store = Store(root)
    reads, wrong, seen = 0, [], set()
    while not stop.is_set():
        try:
            live = store.live(Index, "polled")
            opened = store.open(live)
            numbers = {
                opened["about"]["n"],
                *np.unique(opened["values"]).tolist(),
                *np.unique(opened["again"]).tolist(),
            }
            numbers |= {(opened.manifest.certificate or {}).get("n")}
        except IntegrityError as error:
            wrong.append(str(error))
            continue
        reads += 1
        seen |= numbers
        if len(numbers) != 1:
            wrong.append(f"parts of {sorted(map(str, numbers))} in one answer")
    with contextlib.suppress(ValueError):
        told.put({"reads": reads, "wrong": wrong[:10], "wrong_count": len(wrong), "versions_seen": len(seen)})
