"""What is counted of candidates before their session, in sizes that a network can take: features, or rates.

The features are those of `models.feed.events.features`, counted from events strictly before the session. Nothing is
fitted here, so they need no memory of the training part:

    rates               log-odds
    logarithms          a tenth; the largest, of seconds, then is about two
    item_week_share     log(1 + share)
    flags, clocks       as they are

Rates are those of `models.feed.events.rates`, as log-odds.
"""

# Shapes: Q rows asked for, F numbers counted of each.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.leakage import check_recomputed, recompute
from models.feed.events.rates import EVER, check_rates
from models.feed.ranking.inputs import Inputs

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COUNTS = len(FEATURES)
CHECKED = 24
"""Rows whose features are counted a second time before anything is learned from them."""


Count = Callable[[Integers, Integers], NDArray[np.float32]]
"""From rows of a log and the moments when their sessions begin (Q), what is counted of them (Q, F)."""


class Counter(Protocol):
    """What a network asks to have counted of its candidates."""

    def of(self, inputs: Inputs) -> Count:
        """What counts in a log."""

    def check(self, inputs: Inputs, rows: Integers) -> None:
        """Raises `LeakageError` when what is counted of some of the rows knows more than the past."""


@dataclass(frozen=True)
class Features:
    """All counting features."""

    def of(self, inputs: Inputs) -> Count:
        """What counts in a log; it takes a moment to make."""
        past = past_of(inputs)
        return lambda rows, began: counts_of(past, rows, began)

    def check(self, inputs: Inputs, rows: Integers) -> None:
        """See `check_counts`."""
        check_counts(inputs, rows)


@dataclass(frozen=True)
class Rates:
    """Log-odds of rates: of the item, then of the user, where each is asked for.

    Attributes:
        days: how far back an item's events count; 0: its rate is not asked for.
        user: whether the user's is.
    """

    days: int
    user: bool

    def of(self, inputs: Inputs) -> Count:
        """What counts in a log."""
        parts = []
        if self.days:
            parts.append((inputs.item_rates, inputs.events.item, self.days))
        if self.user:
            parts.append((inputs.user_rates, inputs.events.user, EVER))
        return lambda rows, began: single([rates.before(key[rows], began, days).odds for rates, key, days in parts])

    def check(self, inputs: Inputs, rows: Integers) -> None:
        """See `check_rates`."""
        if self.days:
            check_rates(inputs.events, rows, self.days, inputs.item_rates, "item")
        if self.user:
            check_rates(inputs.events, rows, EVER, inputs.user_rates, "user")


def single(odds: Sequence[Floats]) -> NDArray[np.float32]:
    """Log-odds of one or two rates (Q) as the network takes them (Q, F), in service as in training."""
    return np.stack(odds, 1).astype(np.float32)


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
