"""Train, judge and publish the click model over users' histories."""

from prefect import flow

from infra.provenance import dated
from infra.refs import Outcome
from models.feed.history.config import HistoryConfig, tiny
from tasks.curate import curate
from tasks.evaluate import evaluate
from tasks.publish import publish, rival, verdict
from tasks.train import train


@flow(name="history", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def train_history_scorer(config: HistoryConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Curate impressions, train the scorer, judge what it serves, and publish it if it is no worse than the live one.

    Args:
        config: Everything about one scorer: its data, network, training, judgement and gate.
    """
    data = curate(config.data)
    model = train(config.scorer, data)
    live = rival(model)
    report = evaluate(config, model, data, against=live)
    return verdict(publish(model, report, config.gate, live))
