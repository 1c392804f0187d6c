"""Users as an index is asked for them: their vectors by the tower, and the identifiers of what is found."""

# Shapes: H items of a history, D dimension.

import copy
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.feed.retrieval.data import index_ids
from models.feed.retrieval.features import encode_attributes
from models.feed.retrieval.network import Catalogue, TwoTower, history_weights

Identifier = int | str


class Members:
    """Vectors of users, by their identifiers and what they met; safe to use from several threads.

    Args:
        network: the towers.
        data: the data set that they were made from.

    Source:
        As `encode_users`, whose vectors these are to the bit; here what does not change is computed once.
    """

    def __init__(self, network: TwoTower, data: Payload) -> None:
        self._exact = copy.deepcopy(network).double().eval()
        self._catalogue = Catalogue.of(encode_attributes(data["items"]))
        self._users = _places(data["users"]["user_id"])
        named = data["items"]["item_id"]
        self._items = _places(named)
        self._identifiers = dict(zip(index_ids(data).tolist(), named.to_pylist(), strict=True))
        self._own = all(number == name for number, name in self._identifiers.items())

    @torch.no_grad()
    def vector(self, user: Identifier | None, met: Sequence[Identifier]) -> NDArray[np.float32]:
        """(1, D) of a user.

        Args:
            user: who; one who is unknown is what she met.
            met: items, oldest first; those that are unknown are passed over, and of the others the latest count.
        """
        known = [row for row in (_row(self._items, item) for item in met) if row >= 0][-self._exact.history :]
        history = torch.full((1, max(1, len(known))), -1)
        history[0, : len(known)] = torch.tensor(known, dtype=torch.long)
        unique, place = torch.unique(history.clamp_min(0), return_inverse=True)
        row = torch.tensor([-1 if user is None else _row(self._users, user)])
        inputs = self._exact.inputs(unique, self._catalogue)
        vector = self._exact.user_rows(row, place, history_weights(history), inputs)
        return np.asarray(vector.float().numpy())

    def identifiers(self, ids: NDArray[np.int64]) -> list[Identifier | None]:
        """Items by the identifiers of the data.

        Those that came since are what the index calls them where it calls all items by their identifiers. Elsewhere it
        calls items by numbers of its own, which say nothing of an item that the data lack: None.
        """
        return [self._identifiers.get(number, number if self._own else None) for number in ids.tolist()]


def _places(names: pa.ChunkedArray) -> dict[Identifier, int]:
    return {name: place for place, name in enumerate(names.to_pylist())}


def _row(places: dict[Identifier, int], name: Identifier) -> int:
    """The row of an identifier, also of a number written as text or the other way round; -1 for one unknown."""
    if name in places:
        return places[name]
    other = str(name) if isinstance(name, int) else int(name) if name.isdecimal() and len(name) < 19 else None
    return places.get(other, -1) if other is not None else -1
