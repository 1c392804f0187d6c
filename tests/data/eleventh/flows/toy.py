"""Fit a line every night."""

from models.toy.config import ToyConfig
from prefect import flow

from infra.refs import Outcome
from tasks.curate import curate
from tasks.evaluate import evaluate
from tasks.publish import publish, verdict
from tasks.train import train


@flow(name="toy", persist_result=True, result_serializer="json")
def fit_line(config: ToyConfig = ToyConfig()) -> list[Outcome]:  # noqa: B008
    """Draw points, fit a line, judge it, publish it.

    Args:
        config: Everything about one line.
    """
    data = curate(config.data)
    model = train(config.line, data)
    report = evaluate(config.judgement, model, data)
    return verdict(publish(model, report, config.gate))
