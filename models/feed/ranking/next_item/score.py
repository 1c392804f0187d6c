"""Scores of all items for users' histories, and the items that come first."""

# Shapes: Q users, B rows of a batch, L events (padded), I items, D width, k items of a list.

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from models.feed.events.metrics import target_ranks
from models.feed.events.table import Events
from models.feed.ranking.next_item.data import Histories, Questions
from models.feed.ranking.next_item.network import NextItem

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]

AT_ONCE = 256
"""Histories of a batch."""
CELLS = 8_000_000
"""Scores held at a time."""


@torch.no_grad()
def user_vectors(network: NextItem, histories: Histories) -> Floats:
    """What item vectors are multiplied with, in batches of like length.

    Args:
        network: in evaluation mode.
        histories: what the users met; an empty one gives zeros.

    Returns:
        (Q, D).

    Source:
        Ours.
    """
    latest = histories.latest(network.config.history)
    order = np.argsort(latest.length, kind="stable")
    out = np.zeros((len(latest), network.config.width), np.float32)
    device = network.items.weight.device  # while training, that of the accelerator
    for first in range(0, len(order), AT_ONCE):
        chosen = order[first : first + AT_ONCE]
        rows = latest.take(chosen)
        history = np.zeros((len(rows), int(rows.length.max(initial=0))), np.int64)
        row, item = rows.pairs
        history[row, np.arange(len(item)) - rows.start[row]] = item
        asked = (torch.from_numpy(array).to(device) for array in (history, rows.length))
        out[chosen] = network.user_vectors(*asked).cpu().numpy()
    return out


class Scorer:
    """A network as it answers requests; its weights are read now, and later changes are not seen.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: NextItem) -> None:
        self.network = network
        with torch.no_grad():
            self._items = network.item_vectors().cpu().numpy().copy()
        self._unknown = ~network.known.cpu().numpy()

    def logits(self, histories: Histories) -> Floats:
        """(Q, I); minus infinity for items that training never met."""
        score: Floats = user_vectors(self.network, histories) @ self._items.T
        score[:, self._unknown] = -np.inf
        return score

    def best(self, histories: Histories, k: int) -> Integers:
        """The first items of each that it has not met (Q, k); -1 where there are fewer."""
        score = self.logits(histories)
        row, item = histories.pairs
        score[row, item] = -np.inf
        order = np.argsort(-score, axis=1, kind="stable")[:, :k]
        return np.where(np.isneginf(np.take_along_axis(score, order, axis=1)), -1, order)


def blocks(asked: Questions, items: int) -> Iterator[Questions]:
    """Questions in parts whose scores fit into memory."""
    size = max(1, CELLS // max(items, 1))
    for first in range(0, len(asked), size):
        yield asked.take(np.arange(first, min(first + size, len(asked))))


def ranks(asked: Questions, score_QI: NDArray[Any]) -> Integers:
    """(Q) places of the targets from 0, among all items that the user has not met; ties count against the target."""
    return target_ranks(score_QI, asked.target, *asked.history.pairs)


def carried_over(network: NextItem, old: Events, new: Events) -> NextItem:
    """A ranker of one log for the items of another.

    Args:
        network: trained on the old log.
        old: the log that it was made from.
        new: the log whose items it is to rank.

    Returns:
        The same network, its vectors in the order of the new identifiers; items that it never knew are never
        recommended.

    Source:
        Ours.
    """
    place = pc.index_in(pc.cast(new.item_ids, pa.string()), value_set=pc.cast(old.item_ids, pa.string()))
    met = torch.from_numpy(np.array(pc.is_valid(place)))
    code = torch.from_numpy(np.array(place.drop_null(), np.int64))
    moved = NextItem(new.items, network.config)
    state = dict(network.state_dict())
    vectors, known = state["items.weight"], state["known"]
    state["items.weight"] = vectors.new_zeros(new.items, vectors.shape[1])
    state["items.weight"][met] = vectors[code]
    state["known"] = torch.zeros(new.items, dtype=torch.bool)
    state["known"][met] = known[code]
    moved.load_state_dict(state)
    return moved.eval()
