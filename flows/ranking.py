"""Train, judge and publish the ranker of a feed; answer tables by it, watch it, go back."""

from prefect import flow

from infra.provenance import dated
from infra.refs import Outcome, Predictions
from models.feed.events.requests import RequestsConfig
from models.feed.ranking.config import RankingConfig, tiny
from models.feed.ranking.next_item import config as next_item
from tasks.curate import curate
from tasks.evaluate import evaluate
from tasks.export import export_answers
from tasks.monitor import condition, watch
from tasks.predict import live_model, predict
from tasks.publish import publish, rival, rollback, verdict
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


@flow(name="ranking-predict", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def predict_ranking(config: RequestsConfig = RequestsConfig(), product: str = "ranking-simulated") -> Predictions:  # noqa: B008
    """Answer a table of requests by the live ranker, keep the answers, and write them where you want them.

    Args:
        config: Where the requests lie, and where the answers go.
        product: Name of the ranker: `ranking-` and the name of its data.
    """
    predictions = predict(config, live_model(product))
    export_answers(predictions, config.export)
    return predictions


@flow(name="ranking-monitor", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def monitor_ranking(config: RankingConfig = tiny()) -> None:  # noqa: B008
    """Ask the live ranker again about the latest sessions, and compare with the exact answer and with what users did.

    Args:
        config: The ranker as it was trained; its judgement says how much is scored again.
    """
    return condition(watch(config, config.data, "model"))


@flow(name="ranking-rollback", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def rollback_ranking(product: str = "ranking-simulated", version: str = "") -> list[Outcome]:
    """Return to an earlier published ranker; the one that was live is withdrawn and no schedule brings it back.

    Args:
        product: Name of the ranker: `ranking-` and the name of its data.
        version: Version to return to, twelve hexadecimal digits; empty means the one that was live before.
    """
    return verdict(rollback("model", product, version))


@flow(
    name="ranking-next-item",
    flow_run_name=dated("{config.data.name}"),
    persist_result=True,
    result_serializer="json",
)
def train_next_item_ranker(config: next_item.NextItemConfig = next_item.tiny()) -> list[Outcome]:  # noqa: B008
    """Curate sequences, train a ranker of what comes next, judge it beside counting, and publish it if it may.

    Args:
        config: Everything about one ranker of next items: its data, network, training, judgement and gate.
    """
    data = curate(config.data)
    model = train(config.ranker, data)
    live = rival(model)
    report = evaluate(config, model, data, against=live)
    return verdict(publish(model, report, config.gate, live))
