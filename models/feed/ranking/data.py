"""Where impressions and responses come from, how they are split, and the checks that they must pass.

A prepared data set is a payload with the parts of `Events.payload` (`events`, `users`, `items`, `about`), those of
`Split.payload` (`train`, `validation`, `test`, `left_out`, `split`), and

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
from models.feed.events.leakage import check_history, check_split
from models.feed.events.simulator import SimulatorConfig, simulate
from models.feed.events.sources import LIKED, movielens_atomic, movielens_csv
from models.feed.events.splits import global_time
from models.feed.events.table import Events, EventsTableConfig, read_events
from models.feed.ranking.inputs import Inputs

CHECKED = 200
"""Sessions whose histories are looked at before anything is learned from them."""


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
        "Name of the data and of the ranker made from them: lower case letters, digits and hyphens, 1 to 63.",
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
        """Validate, split and check the events.

        Args:
            files: the raw files.

        Raises:
            InputError: they cannot be used.
            LeakageError: a part would know of another, or a history of its own session.
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
    wrong = np.argwhere((events.actions < 0) | (events.actions > 1))
    if len(wrong):
        row, task = wrong[0]
        raise InputError(
            f"the response {events.tasks[task]!r} of event {row} is {events.actions[row, task]:g} (and "
            f"{len(wrong) - 1} more); responses are from 0 to 1, say in "
            f"EventsTableConfig.at_least from which value on they count as 1."
        )
    try:
        split = global_time(events, (1 - sum(shares), *shares))
        inputs = Inputs.of_events(events, categories)
    except ValueError as error:
        raise InputError(f"the events of {source} cannot be used: {error}") from error
    for name, rows in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        if len(np.unique(events.label[rows])) < 2:
            raise InputError(
                f"all {len(rows)} events of the {name} part have the response {events.label[rows[0]]:g} to "
                f"{events.tasks[0]!r}; there must be both, so log what was shown and passed over too, or take longer "
                f"parts."
            )
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
