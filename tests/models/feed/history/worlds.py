"""Small logs and scorers for the tests of this folder."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from models.common.calibration import Isotonic
from models.common.contracts import Payload, TrainingConfig
from models.common.transformer import TransformerConfig
from models.feed.events.simulator import SimulatorConfig
from models.feed.history.config import DataConfig, HistoryConfig, JudgementConfig, NetworkConfig, ScorerConfig
from models.feed.history.inputs import Inputs
from models.feed.history.network import DLRM

BLOCK = TransformerConfig(width=12, heads=2, layers=2, multiplier=2)
NETWORK = NetworkConfig(transformer=BLOCK, item_width=10, history=31, stride=7, last=3, cross=2, hidden=14, depth=2)
CONFIG = HistoryConfig(
    data=DataConfig(name="test", simulator=SimulatorConfig(users=47, sessions=7.0)),
    scorer=ScorerConfig(architecture=NETWORK, training=TrainingConfig(epochs=2, batch_size=8, learning_rate=5e-3)),
    judgement=JudgementConfig(sessions=8, margin=1.0, calibration=1.0, resamples=100),
)
VARIANTS = {
    "append": NETWORK,
    "append with self key": replace(NETWORK, form="append with self key"),
    "concat": replace(NETWORK, form="concat"),
    "low rank": replace(NETWORK, rank=3),
    "no cross layer": replace(NETWORK, cross=0),
    "no hidden layer": replace(NETWORK, depth=0),
    "three cross layers": replace(NETWORK, cross=3, rank=5),
    "no last outputs": replace(NETWORK, last=0),
    "short history": replace(NETWORK, history=3, stride=3),
    "no gate": replace(NETWORK, transformer=replace(BLOCK, gate=False)),
    "no positions": replace(NETWORK, transformer=replace(BLOCK, rotary=False)),
    "one layer, one head": replace(NETWORK, transformer=replace(BLOCK, layers=1, heads=1)),
}


@cache
def simulated(seed: int = 0) -> Payload:
    """The data set of a small simulated feed; made once, to be changed by copy alone."""
    return replace(CONFIG.data, simulator=replace(CONFIG.data.simulator, seed=seed)).prepare({})


def random_scorer(data: Payload, config: NetworkConfig = NETWORK, seed: int = 0, scale: float = 0.1) -> DLRM:
    """A network all of whose numbers are drawn, so that everything about it matters; calibrated by a slanted step."""
    inputs = Inputs.of(data)
    sizes: dict[str, Any] = {
        "users": inputs.events.users,
        "items": inputs.events.items,
        "categories": len(inputs.categories),
        "tasks": len(inputs.events.tasks),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DLRM(**sizes, config=config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=draw))
    network.keep(inputs.standard)
    network.calibrate([Isotonic(score=np.array([-3.0, 4.0]), chance=np.array([0.1, 0.8]))] * len(inputs.events.tasks))
    return network.eval()
