"""Counting features of candidates, in sizes that a network can take.

The features are those of `models.feed.events.features`, counted from events strictly before the session. Nothing is
fitted here, so they need no memory of the training part:

    rates               log-odds
    logarithms          a tenth; the largest, of seconds, then is about two
    item_week_share     log(1 + share)
    flags, clocks       as they are
"""

# Shapes: Q rows asked for, F features.

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.leakage import check_recomputed, recompute
from models.feed.ranking.inputs import Inputs

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COUNTS = len(FEATURES)
CHECKED = 24
"""Rows whose features are counted a second time before anything is learned from them."""


def scaled(value_QF: NDArray[Any]) -> NDArray[np.float32]:
    """Features in the order of `FEATURES` (Q, F), each on its scale; see the module."""
    out = np.array(value_QF, np.float64)
    for column, name in enumerate(FEATURES):
        change = _change(name)
        out[:, column] = change(out[:, column])
    return out.astype(np.float32)


def _change(name: str) -> Callable[[Floats], Floats]:
    if name.endswith("_rate"):
        return lambda rate: np.asarray(np.log(rate / (1 - rate)))
    if name == "item_week_share":
        return lambda share: np.asarray(np.log1p(share))
    if name.endswith(("_known", "_sine", "_cosine")):
        return lambda value: value
    return lambda value: value / 10


def past_of(inputs: Inputs) -> PastCounts:
    """What counts a log; it takes a moment to make."""
    return PastCounts(inputs.events, inputs.attribute)


def counts_of(past: PastCounts, rows: Integers, began: Integers) -> NDArray[np.float32]:
    """(Q, F) scaled features of some rows of a log, each at the moment when its session begins (Q)."""
    events = past.events
    return scaled(past.at(events.user[rows], events.item[rows], began))


def check_counts(inputs: Inputs, rows: Integers) -> None:
    """Refuse features that know more than the past: some of the rows are counted again.

    Args:
        inputs: the log.
        rows: rows to learn from.

    Raises:
        LeakageError: a feature is not what the events before the session give.

    Source:
        See `models.feed.events.leakage.check_recomputed`.
    """
    events, attribute = inputs.events, inputs.attribute
    sampled = np.sort(np.random.default_rng(0).permutation(rows)[:CHECKED])
    check_recomputed(
        events,
        sampled,
        past_of(inputs).at(events.user[sampled], events.item[sampled], events.began[sampled]),
        FEATURES,
        lambda past, user, item, moment: recompute(past, user, item, moment, attribute),
        sample=CHECKED,
    )
