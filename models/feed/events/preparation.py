"""From raw files to a data set of impressions: which log, how it is divided by time, and what is refused.

Protocol: global time. What is learned from lies before what chooses, and that before what judges; sessions are whole.
MovieLens ratings are not impressions: nobody knows what was shown and passed over, and the order within a session is
that of the page on which people rated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.feed.events.simulator import SimulatorConfig, simulate
from models.feed.events.sources import LIKED, movielens_atomic, movielens_csv
from models.feed.events.splits import Split, global_time
from models.feed.events.table import Events, EventsTableConfig, read_events


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
class LogConfig:
    """Which events; only the settings of the chosen source are read.

    A system's own configuration of data builds on this and says in `prepare` what becomes of the events.
    """

    name: str = setting(
        "simulated",
        "Name",
        "Name of the data and of the model made from them: lower case letters, digits and hyphens, 1 to 63.",
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
                f"{type(self).__name__}.name must be lower case letters, digits and single hyphens, got {self.name!r}."
            )
        if self.source == "table" and not self.table.events:
            raise ValueError(
                f"{type(self).__name__}.table.events must name a file when the source is 'table', got ''; give its "
                f"path or URL."
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

    def read(self, files: Mapping[str, Path]) -> tuple[Events, Payload]:
        """The events, and the best scores that are possible where the truth is known.

        Args:
            files: the raw files.

        Returns:
            The log, and `oracle_*` of the simulator; nothing for other sources.

        Raises:
            InputError: the files cannot be used.
        """
        if self.source == "movielens":
            return self.movielens.read(files), {}
        if self.source == "table":
            return read_events(files["events"], self.table, items=files.get("items")), {}
        simulation = simulate(self.simulator)
        oracles = {name: part for name, part in simulation.payload().items() if name.startswith("oracle_")}
        return simulation.events, oracles


def refuse_responses(events: Events, wrong_ET: NDArray[np.bool_], allowed: str) -> None:
    """Refuse responses that cannot be learned from.

    Args:
        events: the log.
        wrong_ET: which of its responses are such.
        allowed: what they may be, in words.

    Raises:
        InputError: one is wrong; it names the first.
    """
    wrong = np.argwhere(wrong_ET)
    if len(wrong):
        row, task = wrong[0]
        raise InputError(
            f"the response {events.tasks[task]!r} of event {row} is {events.actions[row, task]:g} (and "
            f"{len(wrong) - 1} more); responses are {allowed}, say in "
            f"EventsTableConfig.at_least from which value on they count as 1."
        )


def divided(events: Events, shares: tuple[float, float], source: str) -> Split:
    """Split events by time.

    Args:
        events: the log.
        shares: of the events for validation and test.
        source: what they come from, in a word.

    Returns:
        The parts; each has responses of both kinds to the main task.

    Raises:
        InputError: the events cannot be split, or all responses of a part are alike.
    """
    try:
        split = global_time(events, (1 - sum(shares), *shares))
    except ValueError as error:
        raise unusable(source, error) from error
    for name, rows in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        if len(np.unique(events.label[rows])) < 2:
            raise InputError(
                f"all {len(rows)} events of the {name} part have the response {events.label[rows[0]]:g} to "
                f"{events.tasks[0]!r}; there must be both, so log what was shown and passed over too, or take longer "
                f"parts."
            )
    return split


def unusable(source: str, error: Exception) -> InputError:
    """What to raise when events do not serve their purpose."""
    return InputError(f"the events of {source} cannot be used: {error}")
