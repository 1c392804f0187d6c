"""The live ranker held against its float64 reference and against what users did, on the latest events."""

import copy

import numpy as np

from models.common.contracts import Payload
from models.common.judgement import Judgement
from models.feed.events import watching
from models.feed.events.contest import JudgementConfig
from models.feed.ranking.certificate import Reference
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.judge import RANKER, shape_of
from models.feed.ranking.network import LiGR
from models.feed.ranking.score import carried_over
from models.feed.ranking.service import Served
from models.feed.recounting import Log

CACHE_BYTES = 64 * 2**20


def watch(data: Payload, network: LiGR, settings: JudgementConfig) -> Judgement:
    """Replay sampled sessions of the latest events against the live ranker.

    Args:
        data: the data set that it was made from; its part `latest`, where there is one, has later events, for whose
            users and items the ranker is carried over by their identifiers.
        network: the live ranker.
        settings: how many sessions the reference scores, seed and margins.

    Returns:
        The judgement.

    Raises:
        ValueError: the latest events have other tasks.

    Source:
        Ours.
    """
    latest: Payload = data
    if "latest" in data:
        latest = data["latest"]
        network = carried_over(network, Inputs.of(data), Inputs.of(latest))
    weights = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    plain = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    served = Served(copy.deepcopy(network), latest, cache_bytes=CACHE_BYTES)
    reference = Reference(plain, shape_of(network), Log.of(latest)).session
    return watching.watch(RANKER, served, weights, reference, latest, settings)
