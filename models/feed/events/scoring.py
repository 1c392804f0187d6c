"""What scoring the sessions of a log has in common: sizes, the order of rows, a network moved to another log."""

# Shapes: C candidates of all sessions asked about, T tasks.

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import nn

from models.feed.events.table import Events

Integers = NDArray[np.int64]
Logits = NDArray[np.float32]
Network = TypeVar("Network", bound=nn.Module)


def sizes_of(events: Events, categories: Sequence[str]) -> dict[str, int]:
    """What a network must be told of a log: numbers of users, items, categories and tasks, under those names."""
    return {
        "users": events.users,
        "items": events.items,
        "categories": len(categories),
        "tasks": len(events.tasks),
    }


def in_order(rows: Sequence[Integers], logits: Sequence[Logits], tasks: int) -> tuple[Integers, Logits]:
    """Put together what sessions were given.

    Args:
        rows: of each session, the row numbers of its candidates.
        logits: of each session, their logits.
        tasks: number of tasks, T.

    Returns:
        Row numbers (C), rising, and their logits (C, T).
    """
    if not rows:
        return np.zeros(0, np.int64), np.zeros((0, tasks), np.float32)
    row, logit = np.concatenate(rows), np.concatenate(logits)
    order = np.argsort(row, kind="stable")
    return row[order], logit[order]


def refuse_other_tasks(old: Events, new: Events) -> None:
    """Refuse to score a log of other tasks than those that a network was trained for; raises `ValueError`."""
    if old.tasks != new.tasks:
        raise ValueError(
            f"the live network was trained for the tasks {old.tasks}, the data have {new.tasks}; publish the new one "
            f"under another name."
        )


def moved_tables(network: nn.Module, fresh: Network, tables: Mapping[str, tuple[pa.Array, pa.Array]]) -> Network:
    """Give a fresh network the weights of another, the rows of some tables in the order of new identifiers.

    Args:
        network: with the weights.
        fresh: of the sizes of the new log; its weights are overwritten.
        tables: name of a table to the identifiers of its rows, old and new. A row that the old ones do not name
            becomes zero, and so does a table that the network does not have.

    Returns:
        The fresh network, in evaluation mode.

    Source:
        Ours.
    """
    known, state = network.state_dict(), {}
    for name, empty in fresh.state_dict().items():
        if name not in tables:
            state[name] = known[name]
            continue
        before, after = tables[name]
        table = torch.zeros_like(empty)
        if name in known:
            place = pc.index_in(pc.cast(after, pa.string()), value_set=pc.cast(before, pa.string()))
            met = torch.from_numpy(np.array(pc.is_valid(place)))
            table[: len(after)][met] = known[name][torch.from_numpy(np.array(place.drop_null(), np.int64))]
        state[name] = table
    fresh.load_state_dict(state)
    return fresh.eval()
