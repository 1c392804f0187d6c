"""The live scorer held against its float64 reference and against what users did, on the latest events."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

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

Floats = NDArray[np.float64]


def watch(data: Payload, network: DLRM, settings: JudgementConfig) -> Judgement:
    """Replay sampled sessions of the latest events against the live scorer; see `watching.watch`.

    Args:
        data: the data set that it was made from, and perhaps the `latest`.
        network: the live scorer.
        settings: how many sessions the reference scores, seed and margins.

    Returns:
        The judgement.

    Raises:
        ValueError: the latest events have other tasks.
    """
    return watching.watch(
        SCORER,
        network,
        data,
        settings,
        carried_over=lambda network, old, new: carried_over(network, Inputs.of(old), Inputs.of(new)),
        opened=lambda network, latest: Served(network, latest, cache_bytes=watching.CACHE_BYTES),
        reference=lambda network, plain, latest: _reference(network, plain, data, latest),
    )


def _reference(network: DLRM, plain: Mapping[str, Floats], data: Payload, latest: Payload) -> Callable[[int], Floats]:
    # the units of the features are those of the data that it was made from, whatever the latest are like
    known = np.asarray(data["features"], np.float64)[np.asarray(data["train"])]
    features = np.concatenate([np.asarray(latest["features"], np.float64), known])
    counted = {"features": features, "train": np.arange(len(features) - len(known), len(features))}
    return Reference(plain, shape_of(network), Log.of(latest), counted).session
