"""Small logs and rankers for the tests of this folder."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.common.calibration import Isotonic
from models.common.contracts import Payload, TrainingConfig
from models.common.transformer import TransformerConfig
from models.feed.events.simulator import SimulatorConfig
from models.feed.events.table import Events, arrange
from models.feed.ranking.config import DataConfig, JudgementConfig, NetworkConfig, RankerConfig, RankingConfig
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR

BLOCK = TransformerConfig(width=12, heads=2, layers=2, multiplier=2)
NETWORK = NetworkConfig(transformer=BLOCK, item_width=10, history=31)
CONFIG = RankingConfig(
    data=DataConfig(name="test", simulator=SimulatorConfig(users=47, sessions=7.0)),
    ranker=RankerConfig(architecture=NETWORK, training=TrainingConfig(epochs=2, batch_size=8, learning_rate=5e-3)),
    judgement=JudgementConfig(sessions=8, margin=1.0, calibration=1.0, resamples=100),
)


def simulated(**changes: Any) -> Payload:
    """The data set of a small simulated feed."""
    return replace(CONFIG.data, simulator=replace(CONFIG.data.simulator, **changes)).prepare({})


def random_ranker(data: Payload, config: NetworkConfig = NETWORK, seed: int = 0, scale: float = 0.3) -> LiGR:
    """A ranker all of whose numbers are drawn, so that everything about it matters; calibrated by a slanted step."""
    inputs = Inputs.of(data)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LiGR(
            users=inputs.events.users,
            items=inputs.events.items,
            categories=len(inputs.categories),
            tasks=len(inputs.events.tasks),
            config=config,
        )
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=draw))
    network.calibrate([Isotonic(score=np.array([-3.0, 4.0]), chance=np.array([0.1, 0.8]))] * len(inputs.events.tasks))
    return network.eval()


def few_events() -> Events:
    """Two users and nine events in five sessions, one of them torn by no pause; every number is easy to check.

    ann    0: a b          (no history)
           100: c          session of its own pause: none, the gap is 100 s, so it belongs to the first
           7200: a d       second session
    bob    50: b
           9000: c a
           20000: d
    """
    rows = [
        ("ann", "a", 0, 1.0),
        ("ann", "b", 0, 0.0),
        ("bob", "b", 50, 1.0),
        ("ann", "c", 100, 1.0),
        ("ann", "a", 7200, 0.0),
        ("ann", "d", 7200, 1.0),
        ("bob", "c", 9000, 0.0),
        ("bob", "a", 9000, 1.0),
        ("bob", "d", 20000, 0.0),
    ]
    user, item, time, label = zip(*rows, strict=True)
    return arrange(
        user=pa.array(user),
        item=pa.array(item),
        time=np.array(time, np.int64),
        actions={"click": np.array(label)},
        item_ids=pa.array(["a", "b", "c", "d"]),
        item_attributes=pa.table({"genre": pa.array([["x"], ["x", "y"], [], ["y"]], pa.list_(pa.string()))}),
    )
