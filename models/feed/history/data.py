"""Where impressions and responses come from, how they are split, their counting features, and the checks of all that.

A prepared data set is a payload with the parts of `Events.payload` (`events`, `users`, `items`, `about`), those of
`Split.payload` (`train`, `validation`, `test`, `left_out`, `split`), and

    features           (E, F) float32, in the order of `models.feed.events.features.FEATURES`
    layout             JSON: source, which item attribute holds the categories
    oracle_*           simulator only: the best scores that are possible (`models.feed.events.simulator`)

Protocol: global time. What is learned from lies before what chooses, and that before what judges; sessions are whole.
MovieLens ratings are not impressions: nobody knows what was shown and passed over, and the order within a session is
that of the page on which people rated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.histories import Histories
from models.feed.events.leakage import check_canary, check_history, check_past_only, check_recomputed, check_split
from models.feed.events.leakage import recompute as recomputed
from models.feed.events.simulator import SimulatorConfig, simulate
from models.feed.events.sources import LIKED, movielens_atomic, movielens_csv
from models.feed.events.splits import Split, global_time
from models.feed.events.table import Events, EventsTableConfig, read_events

CHECKED = 200
"""Rows whose histories are looked at before anything is learned from them."""
AGAIN = 20
"""Rows whose features are computed again."""
TURNED = 2
"""Sessions after which the log is cut and whose responses are turned round."""


@dataclass(frozen=True, kw_only=True)
class MovieLensConfig:
    """MovieLens of any release: ratings.csv and movies.csv, or RecBole's .inter and .item (GroupLens licence)."""

    ratings: str = setting(
        "catalogue:retrieval-movielens-small/ratings.csv.gz",
        "Ratings",
        "Path, URL or catalogue entry of ratings.csv, or of an atomic file whose name has .inter in it.",
    )
    movies: str = setting(
        "catalogue:retrieval-movielens-small/movies.csv.gz",
        "Movies",
        "Path, URL or catalogue entry of movies.csv, or of the .item file.",
    )
    least_rating: float = setting(
        LIKED, "Least rating liked", "Stars from which a rating is a positive response, 0.5 to 5.", ge=0.5, le=5
    )

    def __post_init__(self) -> None:
        check(self)

    def read(self, files: Mapping[str, Path]) -> Events:
        """The ratings as events; raises `InputError`."""
        if ".inter" in self.ratings:
            return movielens_atomic(files["ratings"], files["movies"], liked=self.least_rating)
        return movielens_csv(files["ratings"], files["movies"], liked=self.least_rating)


def _simulator() -> SimulatorConfig:
    return SimulatorConfig(users=300, sessions=10.0)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which events; only the settings of the chosen source are read."""

    name: str = setting(
        "simulated",
        "Name",
        "Name of the data and of the scorer made from them: lower case letters, digits and hyphens, 1 to 63.",
        min_length=1,
        max_length=63,
    )
    source: Literal["simulator", "movielens", "table"] = setting(
        "simulator", "Source", "A simulated feed of known truth, MovieLens ratings, or a table of your own."
    )
    simulator: SimulatorConfig = setting(_simulator, "Simulator", "The simulated feed, when it is the source.")
    movielens: MovieLensConfig = setting(MovieLensConfig, "MovieLens", "Its files, when it is the source.")
    table: EventsTableConfig = setting(
        EventsTableConfig, "Own table", "Your files and columns, when they are the source."
    )
    table_categories: str = setting(
        "", "Categories of the table", "Item attribute of your table that holds the categories; empty: none."
    )
    validation: float = setting(
        0.1, "Validation part", "Share of the events that choose the epoch and calibrate, above 0 to 0.4.", gt=0, le=0.4
    )
    test: float = setting(0.1, "Test part", "Share of the events that judge, the latest, above 0 to 0.4.", gt=0, le=0.4)

    def __post_init__(self) -> None:
        check(self)
        if not all(part.isalnum() and part.isascii() and part == part.lower() for part in self.name.split("-")):
            raise ValueError(
                f"DataConfig.name must be lower case letters, digits and single hyphens, got {self.name!r}."
            )
        if self.source == "table" and not self.table.events:
            raise ValueError(
                "DataConfig.table.events must name a file when the source is 'table', got ''; give its path or URL."
            )

    @property
    def categories(self) -> str:
        """The item attribute that holds the categories; empty for none."""
        return {"simulator": "category", "movielens": "genres", "table": self.table_categories}[self.source]

    def sources(self) -> Mapping[str, str]:
        """Raw files of the chosen source: logical name to location."""
        if self.source == "movielens":
            return {"ratings": self.movielens.ratings, "movies": self.movielens.movies}
        if self.source == "table":
            files = {"events": self.table.events, "items": self.table.items}
            return {name: location for name, location in files.items() if location}
        return {}

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate and split the events, count their features, and check all of it.

        Args:
            files: the raw files.

        Raises:
            InputError: they cannot be used.
            LeakageError: a part would know of another, or a history or a feature of its own session.
        """
        oracles: Payload = {}
        if self.source == "movielens":
            events = self.movielens.read(files)
        elif self.source == "table":
            events = read_events(files["events"], self.table, items=files.get("items"))
        else:
            simulation = simulate(self.simulator)
            events = simulation.events
            oracles = {name: part for name, part in simulation.payload().items() if name.startswith("oracle_")}
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
        InputError: a response is not between 0 and 1, or the attribute is unknown, or the events cannot be split.
        LeakageError: see `models.feed.events.leakage`.

    Source:
        Ours.
    """
    wrong = np.argwhere((events.actions != 0) & (events.actions != 1))
    if len(wrong):
        row, task = wrong[0]
        raise InputError(
            f"the response {events.tasks[task]!r} of event {row} is {events.actions[row, task]:g} (and "
            f"{len(wrong) - 1} more); responses are 0 or 1, say in "
            f"EventsTableConfig.at_least from which value on they count as 1."
        )
    try:
        split = global_time(events, (1 - sum(shares), *shares))
        features = PastCounts(events, categories).of_events()
    except ValueError as error:
        raise InputError(f"the events of {source} cannot be used: {error}") from error
    for name, rows in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        if len(np.unique(events.label[rows])) < 2:
            raise InputError(
                f"all {len(rows)} events of the {name} part have the response {events.label[rows[0]]:g} to "
                f"{events.tasks[0]!r}; there must be both, so log what was shown and passed over too, or take longer "
                f"parts."
            )
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
