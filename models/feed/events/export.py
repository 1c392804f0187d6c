"""What users responded to, as a table that a retrieval system learns from: positive events and the items of a log.

So an index and a ranker can be made from one log, with items and users by the same identifiers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import normpath

import numpy as np
import pyarrow as pa

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.feed.events.table import Events


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Where the tables go, and what counts as an interaction."""

    interactions: str = setting(
        "data/feed/interactions.parquet",
        "Interactions file",
        "Path of a Parquet file, under a data root, with one row per positive response: user, item, time.",
        min_length=1,
    )
    items: str = setting(
        "data/feed/items.parquet",
        "Items file",
        "Path of a Parquet file, under a data root, with one row per item: its identifier and its attributes.",
        min_length=1,
    )
    least: float = setting(
        0.5, "Least response", "Response to the main task from which on it is an interaction, above 0 to 1.", gt=0, le=1
    )

    def __post_init__(self) -> None:
        check(self)
        if normpath(self.interactions) == normpath(self.items):
            raise ValueError(
                f"ExportConfig.interactions and ExportConfig.items must name two files, got {self.items!r} for both."
            )

    def check_reader(self, source: str, interactions: str, items: str) -> None:
        """Raise `InputError` when an index would be built from other tables than those that are written.

        Args:
            source: what `RetrievalConfig.data.source` says.
            interactions: path that `RetrievalConfig.data.table.interactions` says.
            items: path that `RetrievalConfig.data.table.items` says.
        """
        if source != "table":
            raise InputError(
                f"RetrievalConfig.data.source must be 'table' to read what ExportConfig writes, got {source!r}."
            )
        for name, ours, theirs in (("interactions", self.interactions, interactions), ("items", self.items, items)):
            if normpath(ours) != normpath(theirs):
                raise InputError(
                    f"ExportConfig.{name} is {ours!r}, but RetrievalConfig.data.table.{name} is {theirs!r}, so the "
                    f"index would not be built from what is written; give both the same path."
                )

    def tables(self, data: Payload) -> Mapping[str, pa.Table]:
        """Tables by where they go.

        Args:
            data: the data set: the parts of `Events.payload`.

        Raises:
            InputError: nobody responded, or an attribute is called `item`.

        Source:
            Ours.
        """
        events = Events.from_payload(data)
        rows = np.flatnonzero(events.label >= self.least)
        if not len(rows):
            raise InputError(
                f"none of {len(events)} responses to {events.tasks[0]!r} is {self.least:g} or more, so there is no "
                f"interaction; lower ExportConfig.least."
            )
        if "item" in events.item_attributes.column_names:
            raise InputError("an attribute of the items is called 'item', as their identifiers are; rename it.")
        attributes = events.item_attributes
        return {
            self.interactions: pa.table(
                {
                    "user": events.user_ids.take(pa.array(events.user[rows])),
                    "item": events.item_ids.take(pa.array(events.item[rows])),
                    "time": pa.array(events.time[rows]),
                }
            ),
            self.items: pa.table(
                {"item": events.item_ids, **{name: attributes[name] for name in attributes.column_names}}
            ),
        }
