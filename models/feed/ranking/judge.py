"""What a ranker is worth on sessions that it never saw, asked one request after another as in service."""

from collections.abc import Mapping

from models.common.certificate import Certificate, Claim
from models.common.contracts import Payload
from models.common.judgement import Judgement
from models.feed.events.contest import Contest, JudgementConfig
from models.feed.events.splits import Split
from models.feed.ranking.certificate import Shape, certify
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR
from models.feed.ranking.references import REFERENCES
from models.feed.ranking.score import batch_logits, carried_over, served_logits
from models.feed.ranking.scorer import Scorer
from models.feed.recounting import Scored

RANKER = "LiGR"
NAMES: Mapping[str, str] = {
    "LiGR": RANKER,
    "Logistic": "logistic regression",
    "CrossNetwork": "DCNv2",
    "InterestNetwork": "DIN",
    "SasRec": "SASRec",
    "Hstu": "HSTU",
}
"""What a person calls a network, by the name of its class."""


def judge(product: Payload, data: Payload, network: Scorer, settings: JudgementConfig) -> Judgement:
    """Judge a ranker on the test part, which is read here alone.

    Args:
        product: the model's parts.
        data: the data set.
        network: the ranker, with the product's weights.
        settings: counts, seed and margins.

    Returns:
        The judgement. What is measured is what a service answers. That of a baseline never holds, see `served`.

    Source:
        Ours.
    """
    inputs, split = Inputs.of(data), Split.from_payload(data)
    sessions = inputs.sessions_of(split.test)
    rows, logit = served_logits(network, inputs, sessions)
    chance = network.chances(logit)
    contest = Contest.of(NAMES[type(network).__name__], inputs.events, data, rows, logit[:, 0], chance[:, 0])
    metrics = contest.metrics(settings)
    if "champion" in data:
        live = data["champion"]
        champion = carried_over(live["network"], Inputs.of(live["data"]), inputs)
        score = served_logits(champion, inputs, sessions)[1][:, 0]
        metrics |= contest.against(score, settings)
    known, known_logit = batch_logits(network, inputs, inputs.sessions_of(split.validation))
    certificate = certify(
        weights=product["weights"],
        shape=shape_of(network),
        data=data,
        test=Scored(rows=rows, logit=logit, chance=chance, batch=batch_logits(network, inputs, sessions)[1]),
        validation=Scored(rows=known, logit=known_logit, chance=network.chances(known_logit), batch=known_logit),
        metrics=metrics,
        sessions=settings.sessions,
        seed=settings.seed,
        margin=settings.calibration,
        written_out=REFERENCES[type(network).__name__],
    )
    whole = Certificate(claims=(*certificate.claims, served(network)))
    return contest.judgement(metrics, whole, split.protocol, settings)


def served(network: Scorer) -> Claim:
    """The claim that a network is one that a service takes: a baseline is measured like LiGR and never goes live."""
    baseline = not isinstance(network, LiGR)
    name = NAMES[type(network).__name__]
    return Claim(
        name="baseline_model",
        kind="exact",
        value=float(baseline),
        limit=0.0,
        detail=f"{name} is a baseline: it is there to be compared with, its metrics are kept, and it never goes live; "
        f"what is to be served is trained with RankerConfig.model 'ligr'."
        if baseline
        else f"1 for a baseline, which is there to be compared with; {name} is what a service takes.",
    )


def shape_of(network: Scorer) -> Shape:
    """What the certificate must be told of the network beside its weights."""
    config, block = network.config, network.config.transformer
    return Shape(
        heads=block.heads,
        history=config.history,
        setwise=config.setwise,
        self_key=block.self_key,
        rotary=block.rotary,
        window=block.window,
        rate_days=config.rate_days,
        user_rate=config.user_rate,
    )
