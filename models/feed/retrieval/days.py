"""One day of interactions: where it comes from and what it holds.

A prepared day is a payload with these parts.

    interactions    `user` and `item` as the file wrote them (int64 or text), `time` (seconds since 1970, UTC), in the
                    order of the file
    about           JSON: source, date, rows

What identifiers mean is decided when days are put together: seven and 007 are one item if all items are integers and
two if some are words, and one day cannot know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa

from models.common.certificate import Certificate
from models.common.configuration import check, setting
from models.common.contracts import AwaitedError, Payload
from models.feed.retrieval import day_certificate as certificates
from models.feed.retrieval.generator import FIRST_DAY, LAST_DAY, GeneratorConfig, events_on, world_of
from models.feed.retrieval.table import TableConfig, bounds, read_rows, refuse_other_days


@dataclass(frozen=True, kw_only=True)
class TableDay:
    """One day's file of interactions."""

    data: str = setting("", "Data", "Name of the data.", min_length=1)
    date: str = setting("", "Date", "The day in UTC, as in 2024-05-17.", min_length=10, max_length=10)
    interactions: str = setting("", "Interactions file", "Path or URL of the day's file.", min_length=1)
    user_column: str = setting("user", "User column", "Column that names the user.", min_length=1)
    item_column: str = setting("item", "Item column", "Column that names the item.", min_length=1)
    time_column: str = setting("time", "Time column", "Column with the moment.", min_length=1)

    def __post_init__(self) -> None:
        check(self)
        date.fromisoformat(self.date)

    @property
    def name(self) -> str:
        """Name of the data and the date."""
        return f"{self.data}-{self.date}"

    def sources(self) -> Mapping[str, str]:
        """The day's file."""
        return {"interactions": self.interactions}

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate the day's file; raises `InputError`."""
        path, columns = files["interactions"], self._columns()
        rows = read_rows(path, columns, may_be_empty=True)
        refuse_other_days(path, columns, rows, date.fromisoformat(self.date))
        return {"interactions": rows.table, "about": _about("table", self.date, rows.table)}

    def certify(self, payload: Payload, files: Mapping[str, Path]) -> Certificate:
        """What holds about the prepared day."""
        columns = (self.user_column, self.item_column, self.time_column)
        return certificates.certify_file(payload["interactions"], files["interactions"], columns, self._bounds())

    def _columns(self) -> TableConfig:
        return TableConfig(
            interactions=self.interactions,
            user_column=self.user_column,
            item_column=self.item_column,
            time_column=self.time_column,
        )

    def _bounds(self) -> tuple[int, int]:
        return bounds(date.fromisoformat(self.date))


@dataclass(frozen=True, kw_only=True)
class GeneratedDay:
    """One day of a generated world."""

    data: str = setting("", "Data", "Name of the data.", min_length=1)
    date: str = setting("", "Date", "The day in UTC, as in 2021-05-17.", min_length=10, max_length=10)
    generator: GeneratorConfig = setting(GeneratorConfig, "Generator", "The generated world.")

    def __post_init__(self) -> None:
        check(self)
        date.fromisoformat(self.date)

    @property
    def name(self) -> str:
        """Name of the data and the date."""
        return f"{self.data}-{self.date}"

    def sources(self) -> Mapping[str, str]:
        """No files: the day follows from the configuration."""
        return {}

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """The day's events; raises `AwaitedError` for a day that the world does not have."""
        day = date.fromisoformat(self.date)
        if not FIRST_DAY <= day <= LAST_DAY:
            raise AwaitedError(f"the generated world goes from {FIRST_DAY} to {LAST_DAY}, got {day}.")
        user, item, time = events_on(self.generator, day)
        table = pa.table({"user": user, "item": item, "time": time})
        return {"interactions": table, "about": _about("generator", self.date, table)}

    def certify(self, payload: Payload, files: Mapping[str, Path]) -> Certificate:
        """What holds about the prepared day."""
        world = world_of(self.generator)
        rows = (world.user, world.item, world.time)
        return certificates.certify_world(payload["interactions"], rows, bounds(date.fromisoformat(self.date)))


def _about(source: str, day: str, table: pa.Table) -> dict[str, str | int]:
    return {"source": source, "date": day, "rows": table.num_rows}
