"""Small logs of sequences, and rankers of them, for the tests of this folder."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.common.contracts import Payload, TrainingConfig
from models.feed.events.table import Events, arrange
from models.feed.ranking.next_item.config import (
    NetworkConfig,
    NextItemRankerConfig,
    ObjectiveConfig,
)
from models.feed.ranking.next_item.data import split_events
from models.feed.ranking.next_item.network import NextItem
from models.feed.ranking.next_item.world import WorldConfig, simulate_sequences

NETWORK = NetworkConfig(width=12, heads=2, layers=2, multiplier=2, history=7, dropout=0.3, item_dropout=0.2)
KINDS = {
    "ligr": {},
    "ungated": {"gate": False},
    "sasrec": {"block": "sasrec", "final_norm": True},
    "hstu": {"block": "hstu"},
    "inner": {"similarity": "inner", "temperature": 0.5},
}


def events_of(sequences: dict[str, str], *, items: str = "") -> Events:
    """Events of words of one letter an item, one user after another."""
    user = [name for name, word in sequences.items() for _ in word]
    item = list("".join(sequences.values()))
    return arrange(
        user=pa.array(user),
        item=pa.array(item),
        time=np.arange(len(item)),
        actions={"event": np.ones(len(item))},
        timed=False,
        user_ids=pa.array(list(sequences)),
        item_ids=pa.array(list(items)) if items else None,
    )


def simulated(seed: int = 1, *, users: int = 47, items: int = 31) -> Payload:
    """A small world with users of few events among its own."""
    world = simulate_sequences(WorldConfig(users=users, items=items, length=6.0, successors=3, seed=seed))
    return {**split_events(world.events, "world"), **world.payload()}


def ranker_config(architecture: NetworkConfig = NETWORK, **training: Any) -> NextItemRankerConfig:
    chosen = {"epochs": 2, "batch_size": 40, "learning_rate": 5e-3, "weight_decay": 0.0, "schedule": "cosine"}
    return NextItemRankerConfig(
        architecture=architecture,
        objective=ObjectiveConfig(negatives=9, steps=5),
        training=TrainingConfig(**(chosen | {"average": 0.9, "seed": 3} | training)),
    )


def random_ranker(items: int, config: NetworkConfig = NETWORK, *, seed: int = 0, scale: float = 0.3) -> NextItem:
    """A network whose numbers are all of some size, biases and norms too; in evaluation mode."""
    network = NextItem(items, config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_((weight.dim() == 1) * 0.5 + scale * torch.randn(weight.shape, generator=draw))
    return network.eval()
