"""What a scorer is worth on sessions that it never saw, asked one request after another as in service."""

import numpy as np

from models.common.contracts import Payload
from models.common.judgement import Judgement
from models.feed.events.contest import Contest, JudgementConfig
from models.feed.events.splits import Split
from models.feed.history.certificate import Shape, certify
from models.feed.history.inputs import Inputs
from models.feed.history.network import DLRM
from models.feed.history.score import Scorer, appended_logits, batch_logits, carried_over
from models.feed.recounting import Scored

SCORER = "DLRM"


def judge(product: Payload, data: Payload, network: DLRM, settings: JudgementConfig) -> Judgement:
    """Judge a scorer on the test part, which is read here alone.

    Args:
        product: the model's parts.
        data: the data set.
        network: the scorer, with the product's weights.
        settings: counts, seed and margins.

    Returns:
        The judgement. What is measured is what a service answers.

    Source:
        Ours.
    """
    inputs, split = Inputs.of(data), Split.from_payload(data)
    sessions = inputs.sessions_of(split.test)
    scorer = Scorer(network, inputs.catalogue)
    rows, logit = scorer.logits(inputs, sessions)
    chance = network.chances(logit)
    contest = Contest.of(SCORER, inputs.events, data, rows, logit[:, 0], chance[:, 0])
    metrics = contest.metrics(settings) | {"cache_hit_rate": scorer.histories.counts.hit_rate}
    if "champion" in data:
        live = data["champion"]
        champion = carried_over(live["network"], Inputs.of(live["data"]), inputs)
        score = Scorer(champion, inputs.catalogue).logits(inputs, sessions)[1][:, 0]
        metrics |= contest.against(score, settings)
    known, known_logit = batch_logits(network, inputs, inputs.sessions_of(split.validation))
    sampled = np.sort(np.random.default_rng(settings.seed).permutation(sessions)[: settings.sessions])
    certificate = certify(
        weights=product["weights"],
        shape=shape_of(network),
        data=data,
        test=Scored(rows=rows, logit=logit, chance=chance, batch=batch_logits(network, inputs, sessions)[1]),
        validation=Scored(rows=known, logit=known_logit, chance=network.chances(known_logit), batch=known_logit),
        appended=appended_logits(network, inputs, sampled),
        metrics=metrics,
        sessions=settings.sessions,
        seed=settings.seed,
        margin=settings.calibration,
    )
    return contest.judgement(metrics, certificate, split.protocol, settings)


def shape_of(network: DLRM) -> Shape:
    """What the certificate must be told of the network beside its weights."""
    config, block = network.config, network.config.transformer
    return Shape(
        form=config.form,
        heads=block.heads,
        rotary=block.rotary,
        history=config.history,
        stride=config.stride,
        last=config.last,
    )
