"""The live scorer held against its float64 reference and against what users did, on the latest events."""

import copy

import numpy as np

from models.common.contracts import Payload
from models.common.judgement import Judgement
from models.feed.events import watching
from models.feed.events.contest import JudgementConfig
from models.feed.history.certificate import Reference
from models.feed.history.inputs import Inputs
from models.feed.history.judge import SCORER, shape_of
from models.feed.history.network import DLRM
from models.feed.history.score import carried_over
from models.feed.history.service import Served
from models.feed.recounting import Log

CACHE_BYTES = 64 * 2**20


def watch(data: Payload, network: DLRM, settings: JudgementConfig) -> Judgement:
    """Replay sampled sessions of the latest events against the live scorer.

    Args:
        data: the data set that it was made from; its part `latest`, where there is one, has later events, for whose
            users and items the scorer is carried over by their identifiers.
        network: the live scorer.
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
    # the units of the features are those of the data that it was made from, whatever the latest are like
    known = np.asarray(data["features"], np.float64)[np.asarray(data["train"])]
    features = np.concatenate([np.asarray(latest["features"], np.float64), known])
    counted = {"features": features, "train": np.arange(len(features) - len(known), len(features))}
    reference = Reference(plain, shape_of(network), Log.of(latest), counted).session
    return watching.watch(SCORER, served, weights, reference, latest, settings)
