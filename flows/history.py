"""Train, judge and publish the click model over users' histories; answer tables by it, watch it, go back."""

from prefect import flow

from infra.provenance import dated
from infra.refs import Outcome, Predictions
from models.feed.events.requests import RequestsConfig
from models.feed.history.config import HistoryConfig, tiny
from tasks.curate import curate
from tasks.evaluate import evaluate
from tasks.export import export_answers
from tasks.monitor import condition, watch
from tasks.predict import live_model, predict
from tasks.publish import publish, rival, rollback, verdict
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


@flow(name="history-predict", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def predict_history(config: RequestsConfig = RequestsConfig(), product: str = "history-simulated") -> Predictions:  # noqa: B008
    """Answer a table of requests by the live scorer, keep the answers, and write them where you want them.

    Args:
        config: Where the requests lie, and where the answers go.
        product: Name of the scorer: `history-` and the name of its data.
    """
    predictions = predict(config, live_model(product))
    export_answers(predictions, config.export)
    return predictions


@flow(name="history-monitor", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def monitor_history(config: HistoryConfig = tiny()) -> None:  # noqa: B008
    """Ask the live scorer again about the latest sessions, and compare with the exact answer and with what users did.

    Args:
        config: The scorer as it was trained; its judgement says how much is scored again.
    """
    return condition(watch(config, config.data, "model"))


@flow(name="history-rollback", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def rollback_history(product: str = "history-simulated", version: str = "") -> list[Outcome]:
    """Return to an earlier published scorer; the one that was live is withdrawn and no schedule brings it back.

    Args:
        product: Name of the scorer: `history-` and the name of its data.
        version: Version to return to, twelve hexadecimal digits; empty means the one that was live before.
    """
    return verdict(rollback("model", product, version))
