"""The ranker's data set: impressions and responses, how they are split, and the checks that they must pass.

A prepared data set is a payload with the parts of `Events.payload` (`events`, `users`, `items`, `about`), those of
`Split.payload` (`train`, `validation`, `test`, `left_out`, `split`), and

    layout             JSON: source, which item attribute holds the categories
    oracle_*           simulator only: the best scores that are possible (`models.feed.events.simulator`)

Which logs there are and how they are divided stands in `models.feed.events.preparation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.common.contracts import Payload
from models.feed.events.leakage import check_history, check_split
from models.feed.events.preparation import LogConfig, divided, refuse_responses, unusable
from models.feed.events.table import Events
from models.feed.ranking.inputs import Inputs

CHECKED = 200
"""Sessions whose histories are looked at before anything is learned from them."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(LogConfig):
    """Which events; only the settings of the chosen source are read."""

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate, split and check the events.

        Args:
            files: the raw files.

        Raises:
            InputError: they cannot be used.
            LeakageError: a part would know of another, or a history of its own session.
        """
        events, oracles = self.read(files)
        return {**arrange(events, self.categories, (self.validation, self.test), self.source), **oracles}


def arrange(events: Events, categories: str, shares: tuple[float, float], source: str) -> Payload:
    """Split events by time and refuse what could not be learned from honestly.

    Args:
        events: the log.
        categories: item attribute with the categories; empty for none.
        shares: of the events for validation and test.
        source: what they come from, in a word.

    Returns:
        The parts of the data set.

    Raises:
        InputError: a response is not between 0 and 1, or the attribute is unknown, or the events cannot be split.
        LeakageError: see `models.feed.events.leakage`.

    Source:
        Ours.
    """
    refuse_responses(events, (events.actions < 0) | (events.actions > 1), "from 0 to 1")
    split = divided(events, shares, source)
    try:
        inputs = Inputs.of_events(events, categories)
    except ValueError as error:
        raise unusable(source, error) from error
    check_split(events, split.train, split.validation, split.test, ordered=True)
    sessions = inputs.sessions_of(np.concatenate([split.train, split.validation, split.test]))
    sampled = np.random.default_rng(0).permutation(sessions)[:CHECKED]
    length = int(max(inputs.seen[sampled].max(), 1))
    first = np.array([inputs.rows(int(one))[0] for one in sampled])
    history = np.full((len(sampled), length), -1)
    for place, session in enumerate(sampled):
        past = inputs.history(int(session), length)
        history[place, : len(past)] = past
    check_history(events, first, history)
    layout = {"source": source, "categories": categories}
    return {**events.payload(), **split.payload(), "layout": layout}
