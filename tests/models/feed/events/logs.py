"""Small logs with everything that makes trouble: ties, odd sizes, users and items without events, no genre or three."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.feed.events.table import Events, arrange

GENRES = ("drama", "comedy", "noir", "été")


def random_events(
    seed: int, *, size: int = 331, users: int = 17, items: int = 23, span: int = 40 * 86_400, step: int = 600
) -> Events:
    """A log in which many events share a moment; the last user and the last item have none."""
    rng = np.random.default_rng(seed)
    time = 1_600_000_000 + step * rng.integers(0, span // step, size)
    return arrange(
        user=pa.array(rng.integers(0, users - 1, size)),
        item=pa.array(rng.integers(0, items - 1, size)),
        time=time,
        actions={"click": rng.random(size) < 0.4, "like": rng.random(size) < 0.1},
        gap=3 * 3600,
        user_ids=pa.array(np.arange(users)),
        item_ids=pa.array(np.arange(items)),
        item_attributes=pa.table(
            {
                "genres": pa.array(
                    [None if rng.random() < 0.1 else list(rng.choice(GENRES, rng.integers(0, 4), replace=False))
                     for _ in range(items)],
                    pa.list_(pa.string()),
                ),
                "year": pa.array(rng.integers(1990, 1994, items)),
            }
        ),
    )  # fmt: skip


def write(path: Path, rows: list[list[Any]], separator: str = ",") -> Path:
    """A file of cells; packed when it is called so."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    return write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> Path:
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path
