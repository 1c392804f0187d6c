"""Sequences whose law is known: what comes next follows from the last two items.

After the items a (last) and b (before it), item j that the user has not met comes next with a chance proportional to

    last * A[a, j] + before * B[b, j] + (1 - last - before) * popularity_j.

Rows of A and B are chances over a few successors of each item. So a model that sees only the last item cannot reach the
best score, a model that sees two can, and nothing that looks further back knows more.
"""

# Shapes: U users, I items, S successors of an item, E events, Q users asked for.

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.feed.events.table import Events, arrange

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CELLS = 25_000_000
"""Most users times items: chances of all users are held at once, which takes about 1 GB then. The law has a number for
every two items, so 5,000 items are as many cells."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The size and the law of simulated sequences."""

    users: int = setting(1500, "Users", "People with a sequence, 10 to 2500000.", ge=10, le=2_500_000)
    items: int = setting(120, "Items", "Items of the catalogue, 10 to 5000.", ge=10, le=5000)
    length: float = setting(
        11.0, "Length", "Mean number of events of a user, 3 to 1000; none has fewer than three.", ge=3, le=1000
    )
    successors: int = setting(4, "Successors", "Items that like to follow an item, 1 to 1000.", ge=1, le=1000)
    last: float = setting(0.5, "Last item", "Share of choices that the last item makes, 0 to 1.", ge=0, le=1)
    before: float = setting(0.2, "Item before", "Share that the item before the last one makes, 0 to 1.", ge=0, le=1)
    skew: float = setting(0.8, "Skew", "Popularity of the item of rank r is r to the minus this, 0 to 3.", ge=0, le=3)
    seed: int = setting(0, "Seed", "Start of the random stream, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)
        if self.last + self.before > 1:
            raise ValueError(
                f"WorldConfig.last and before are shares of one choice, got {self.last} and {self.before}; "
                f"let them add up to at most 1."
            )
        if self.successors >= self.items:
            raise ValueError(
                f"WorldConfig.successors must be below items, got {self.successors} and {self.items}; lower it."
            )
        if 3 * self.length > self.items:
            raise ValueError(
                f"WorldConfig.items must be at least three times the length, so that nobody runs out of new items; "
                f"got {self.items} and {self.length}. Raise items or lower length."
            )
        if self.users * self.items > CELLS:
            raise ValueError(
                f"WorldConfig.users times items must be at most {CELLS:,}, for the chances of all users are held at "
                f"once; got {self.users:,} and {self.items:,}, {self.users * self.items:,} in all. Lower users to "
                f"{CELLS // self.items:,}, or items to {CELLS // self.users:,}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Simulated sequences and their law, the shares multiplied in.

    Attributes:
        events: without times, one user after another.
        last: (I, I) what the last item says of the next.
        before: (I, I) what the item before it says.
        popular: (I) what is liked whatever came before.
    """

    events: Events
    last: Floats
    before: Floats
    popular: Floats

    def payload(self) -> Payload:
        """The law as parts of a data set."""
        return {"oracle_last": self.last, "oracle_before": self.before, "oracle_popular": self.popular}


def oracle(law: Payload, last_Q: Integers, before_Q: Integers) -> Floats:
    """The best scores that are possible, of all items.

    Args:
        law: the parts of `World.payload`.
        last_Q: last items.
        before_Q: the items before them; -1 for none.

    Returns:
        (Q, I) chances of the next item, before those that the user met are taken out.

    Source:
        The law of this module.
    """
    there = (before_Q >= 0)[:, None]
    earlier = np.where(there, law["oracle_before"][np.maximum(before_Q, 0)], 0)
    return np.asarray(law["oracle_last"][last_Q] + earlier + law["oracle_popular"])


def simulate_sequences(config: WorldConfig) -> World:
    """Draw the law, then the sequences.

    Args:
        config: sizes, shares and seed.

    Returns:
        The world; a user's first item is drawn by popularity, no item comes twice to one user.

    Source:
        Ours; mixtures of chains of several orders are Raftery 1985, "A model for high-order Markov chains".
    """
    rng = np.random.default_rng(config.seed)
    users, items = config.users, config.items
    popular = np.arange(1, items + 1) ** -config.skew
    popular = rng.permutation(popular / popular.sum())
    last, before = (_chances(rng, items, config.successors) for _ in range(2))
    law = {
        "oracle_last": config.last * last,
        "oracle_before": config.before * before,
        "oracle_popular": (1 - config.last - config.before) * popular,
    }
    length = np.minimum(3 + rng.poisson(config.length - 3, users), items // 2)
    sequence = np.full((users, int(length.max())), -1)
    sequence[:, 0] = rng.choice(items, users, p=popular)
    free = np.ones((users, items), bool)
    rows = np.arange(users)
    free[rows, sequence[:, 0]] = False
    for place in range(1, sequence.shape[1]):
        going = rows[length > place]
        earlier = sequence[going, place - 2] if place > 1 else np.full(len(going), -1)
        # with all shares given to chains, nothing may be left for a user: then any new item will do
        chance = (oracle(law, sequence[going, place - 1], earlier) + 1e-12) * free[going]
        total = np.cumsum(chance, axis=1)
        drawn = (total > rng.random((len(going), 1)) * total[:, -1:]).argmax(1)
        sequence[going, place] = drawn
        free[going, drawn] = False
    there = sequence >= 0
    item = sequence[there]
    events = arrange(
        user=pa.array(np.repeat(rows, length)),
        item=pa.array(item),
        time=np.arange(len(item)),
        actions={"event": np.ones(len(item))},
        timed=False,
        item_ids=pa.array(np.arange(items)),
    )
    return World(
        events=events,
        last=np.asarray(law["oracle_last"], np.float64),
        before=np.asarray(law["oracle_before"], np.float64),
        popular=np.asarray(law["oracle_popular"], np.float64),
    )


def _chances(rng: np.random.Generator, items: int, successors: int) -> Floats:
    """(I, I) rows of chances over a few other items each."""
    table = np.zeros((items, items))
    for row in range(items):
        others = np.delete(np.arange(items), row)
        table[row, rng.choice(others, successors, replace=False)] = rng.dirichlet(np.full(successors, 2.0))
    return table
