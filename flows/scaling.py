"""How far a ranker gets for what its training costs: many trainings, and the law that they follow."""

from prefect import flow

from infra.provenance import dated
from infra.refs import Dataset, Outcome
from models.feed.ranking.scaling import ScalingConfig, TrialConfig, tiny
from tasks.curate import curate
from tasks.evaluate import evaluate
from tasks.publish import publish, verdict
from tasks.study import attempt, conclude, gather, measure
from tasks.train import train


@flow(name="scaling", flow_run_name=dated("{config.name}"), persist_result=True, result_serializer="json")
def scaling_study(config: ScalingConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Train every size with every seed, fit the law of what they reach, hold it to the largest, and publish it.

    What is finished is not done again: a study that was killed, or was given one more size or seed, goes on from there,
    as long as the store keeps what its trials left; retention removes that of trials after some days.

    Args:
        config: Everything about one study: sizes, seeds, what all trials share, and the gate.
    """
    measured = attempt(run_trial, config.trials(), config.concurrency)
    data = gather(config, measured)
    law = conclude(config, data)
    report = evaluate(config, law, data)
    return verdict(publish(law, report, config.gate))


@flow(name="scaling-trial", flow_run_name=dated("{config.name}"), persist_result=True, result_serializer="json")
def run_trial(config: TrialConfig = TrialConfig()) -> Dataset:  # noqa: B008
    """One training of a study, with an MLflow run of its own, and what it is worth on users whom nobody learned from.

    Args:
        config: Everything about one training: data, network, and who is measured.
    """
    data = curate(config.data)
    model = train(config, data)
    return measure(config, model, data)
