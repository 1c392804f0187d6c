"""The live ranker held against its float64 reference and against what users did, on the latest events."""

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


def watch(data: Payload, network: LiGR, settings: JudgementConfig) -> Judgement:
    """Replay sampled sessions of the latest events against the live ranker; see `watching.watch`.

    Args:
        data: the data set that it was made from, and perhaps the `latest`.
        network: the live ranker.
        settings: how many sessions the reference scores, seed and margins.

    Returns:
        The judgement.

    Raises:
        ValueError: the latest events have other tasks.
    """
    return watching.watch(
        RANKER,
        network,
        data,
        settings,
        carried_over=lambda network, old, new: carried_over(network, Inputs.of(old), Inputs.of(new)),
        opened=lambda network, latest: Served(network, latest, cache_bytes=watching.CACHE_BYTES),
        reference=lambda network, plain, latest: Reference(plain, shape_of(network), Log.of(latest)).session,
    )
