"""Measurements in pieces: each is kept as JSON once made, so that a long benchmark may stop and go on."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def measured(
    name: str, pieces: Mapping[str, Callable[[], Any]], code: Sequence[Path], *, folder: str = "", most: float = 0.0
) -> dict[str, Any] | None:
    """Make what is missing.

    Args:
        name: of the benchmark.
        pieces: what makes each piece; it must be JSON.
        code: files whose change makes all pieces stale.
        folder: of the pieces; empty: one for passing files.
        most: CPU seconds of this call; 0: no limit.

    Returns:
        All pieces, or None when the time was spent before the last; call again to go on.
    """
    text = b"".join(path.read_bytes() for path in code)
    place = Path(folder or Path(tempfile.gettempdir()) / "headrace" / name) / hashlib.sha256(text).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    begun, found = time.process_time(), {}
    for key, make in pieces.items():
        file = place / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        if not file.exists():
            if most and time.process_time() - begun > most:
                return None
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(make()))
            fresh.replace(file)
        found[key] = json.loads(file.read_text())
    return found


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def mean_interval(numbers: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """Mean over seeds with its 95 % interval by Student's t."""
    from scipy.stats import t

    values = scale * np.asarray(numbers, np.float64)
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return f"{values.mean():.{digits}f} ({values.mean() - half:.{digits}f} to {values.mean() + half:.{digits}f})"
