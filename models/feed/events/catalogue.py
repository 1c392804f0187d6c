"""What networks over histories are told of items and of time: categories as arrays, gaps as codes."""

# Shapes: E events, I items, A slots for categories of an item.

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.feed.events.histories import Histories
from models.feed.events.table import Events

Integers = NDArray[np.int64]

GAPS = 40
"""Codes of gaps: 0 for no event before, then one for each doubling, the last for 2^38 seconds and more."""


class Catalogue(NamedTuple):
    """Categories of all items: codes (I, A) and their weights (I, A), which add up to one; zero behind the last."""

    codes: Tensor
    weights: Tensor


def catalogue_of(events: Events, attribute: str) -> tuple[Catalogue, tuple[str, ...]]:
    """Categories of all items by an attribute, and their names; none for an empty attribute.

    Raises:
        ValueError: there is no such attribute.
    """
    if not attribute:
        return Catalogue(torch.zeros(events.items, 0, dtype=torch.long), torch.zeros(events.items, 0)), ()
    known = events.categories(attribute)
    count = np.diff(known.start)
    place = np.arange(int(count.max(initial=0)))
    there = place < count[:, None]
    at = np.where(there, known.start[:-1, None] + place, 0)
    codes = np.where(there, known.code[at] if len(known.code) else 0, 0)
    weights = there / np.maximum(count, 1)[:, None]
    return (
        Catalogue(torch.from_numpy(codes.astype(np.int64)), torch.from_numpy(weights.astype(np.float32))),
        known.names,
    )


def gap_codes(seconds: NDArray[Any]) -> Integers:
    """1 + floor(log2(1 + seconds)), at most `GAPS` - 1."""
    digits = 1 + np.floor(np.log2(1.0 + np.asarray(seconds)))
    return np.asarray(np.minimum(digits, GAPS - 1), np.int64)


def gaps(events: Events, histories: Histories) -> Integers:
    """(E) codes of the time since the user's event before; 0 for none."""
    gap = np.zeros(len(events), np.int64)
    before, after = histories.rows[:-1], histories.rows[1:]
    same = events.user[before] == events.user[after]
    gap[after[same]] = gap_codes(events.time[after[same]] - events.time[before[same]])
    return gap
