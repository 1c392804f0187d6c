"""Train, judge and publish the ranker of a feed."""

from prefect import flow

from infra.provenance import dated
from infra.refs import Outcome
from models.feed.ranking.config import RankingConfig, tiny
from tasks.curate import curate
from tasks.evaluate import evaluate
from tasks.publish import publish, rival, verdict
from tasks.train import train


@flow(name="ranking", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def train_ranker(config: RankingConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Curate impressions, train the ranker, judge what it serves, and publish it if it is no worse than the live one.

    Args:
        config: Everything about one ranker: its data, network, training, judgement and gate.
    """
    data = curate(config.data)
    model = train(config.ranker, data)
    live = rival(model)
    report = evaluate(config, model, data, against=live)
    return verdict(publish(model, report, config.gate, live))
