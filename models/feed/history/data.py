"""The scorer's data set: impressions and responses, their counting features, how they are split, and checks of it all.

A prepared data set is a payload with the parts of `Events.payload` (`events`, `users`, `items`, `about`), those of
`Split.payload` (`train`, `validation`, `test`, `left_out`, `split`), and

    features           (E, F) float32, in the order of `models.feed.events.features.FEATURES`
    layout             JSON: source, which item attribute holds the categories
    oracle_*           simulator only: the best scores that are possible (`models.feed.events.simulator`)

Which logs there are and how they are divided stands in `models.feed.events.preparation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.common.contracts import Payload
from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.histories import Histories
from models.feed.events.leakage import check_canary, check_history, check_past_only, check_recomputed, check_split
from models.feed.events.leakage import recompute as recomputed
from models.feed.events.preparation import LogConfig, divided, refuse_responses, unusable
from models.feed.events.splits import Split
from models.feed.events.table import Events

CHECKED = 200
"""Rows whose histories are looked at before anything is learned from them."""
AGAIN = 20
"""Rows whose features are computed again."""
TURNED = 2
"""Sessions after which the log is cut and whose responses are turned round."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(LogConfig):
    """Which events; only the settings of the chosen source are read."""

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate and split the events, count their features, and check all of it.

        Args:
            files: the raw files.

        Raises:
            InputError: they cannot be used.
            LeakageError: a part would know of another, or a history or a feature of its own session.
        """
        events, oracles = self.read(files)
        return {**arrange(events, self.categories, (self.validation, self.test), self.source), **oracles}


def arrange(events: Events, categories: str, shares: tuple[float, float], source: str) -> Payload:
    """Split events by time, count features, and refuse what could not be learned from honestly.

    Args:
        events: the log.
        categories: item attribute with the categories; empty for none.
        shares: of the events for validation and test.
        source: what they come from, in a word.

    Returns:
        The parts of the data set.

    Raises:
        InputError: a response is neither 0 nor 1, or the attribute is unknown, or the events cannot be split.
        LeakageError: see `models.feed.events.leakage`.

    Source:
        Ours.
    """
    refuse_responses(events, (events.actions != 0) & (events.actions != 1), "0 or 1")
    split = divided(events, shares, source)
    try:
        features = PastCounts(events, categories).of_events()
    except ValueError as error:
        raise unusable(source, error) from error
    refuse_leaks(events, split, features, categories)
    layout = {"source": source, "categories": categories}
    return {**events.payload(), **split.payload(), "features": features.astype(np.float32), "layout": layout}


def refuse_leaks(events: Events, split: Split, features_EF: np.ndarray, categories: str) -> None:
    """Refuse parts, histories and features that know what they may not; raises `LeakageError`."""
    check_split(events, split.train, split.validation, split.test, ordered=True)
    rows = np.random.default_rng(0).permutation(len(events))[:CHECKED]
    histories = Histories(events)
    seen = histories.before_session[rows]
    check_history(events, rows, histories.latest(events.user[rows], seen, int(max(seen.max(), 1))))
    every = np.arange(len(events))
    check_recomputed(
        events,
        every,
        features_EF,
        FEATURES,
        lambda past, user, item, moment: recomputed(past, user, item, moment, categories),
        sample=AGAIN,
    )
    check_past_only(events, lambda log: PastCounts(log, categories).of_events(), FEATURES, sample=TURNED)
    check_canary(events, every, features_EF, FEATURES)
