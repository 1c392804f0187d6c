"""Predict: a live model answers a table of requests; the answers are kept with what they came from."""

from datetime import timedelta

from prefect import get_run_logger, task
from prefect.cache_policies import INPUTS, RUN_ID

from infra import catalogue
from infra.lineage import tracked
from infra.manifest import describe
from infra.provenance import Progress, this_flow_run
from infra.refs import Dataset, Model, Predictions
from infra.store import open_store
from models.common.contracts import Predicting, Requested


@task(cache_policy=RUN_ID + INPUTS, persist_result=True, result_serializer="json")
def live_model(product: str) -> Model:
    """The live version of a model; a retry of the same flow run goes on with the one that it began with.

    Args:
        product: its name.

    Returns:
        The live version.

    Raises:
        NotPublishedError: nothing is live under this name.
        IntegrityError: its manifest is not the one that was published.
    """
    return open_store().live(Model, product)


@task(
    cache_policy=RUN_ID + INPUTS,  # another run finds another file, or other code that answers
    persist_result=True,
    result_serializer="json",
    timeout_seconds=timedelta(hours=12).total_seconds(),
)
def predict(config: Requested, model: Model) -> Predictions:
    """Answer requests by a model, with the data that it was made from, and store requests and answers.

    Args:
        config: names the requests, and reads them.
        model: what answers; the configuration that made it knows how.

    Returns:
        The answers, checksummed, with their lineage to model and data.

    Raises:
        CatalogueError: the file is not allowed, missing or changed.
        InputError: a row cannot be answered; names it.
        IntegrityError: the model is damaged.
        ValueError: models of its kind do not answer tables.
    """
    flow_run, store = this_flow_run(), open_store()
    opened = store.open(model)
    data = opened.manifest.input(Dataset, store.root)
    maker: Predicting = opened.manifest.rebuild_configuration()
    if not hasattr(maker, "predict"):
        raise ValueError(f"{type(maker).__name__}, which made {model}, does not answer tables of requests.")
    requests = config.read({name: catalogue.locate(location) for name, location in config.sources().items()})
    with (
        Progress(f"{requests.num_rows} candidates for {model}") as progress,
        tracked(maker, data, flow_run, "prediction") as run,
    ):
        answers, metrics = maker.predict(dict(opened), dict(store.open(data)), config, requests, progress)
        run.metrics(metrics)
        run.tags({"purpose": "prediction", "version": model.version})
        manifest = describe(Predictions, model.name, config, (model, data), flow_run_id=flow_run.id, run_id=run.id)
        found = store.write(Predictions, {"answers": answers, "requests": requests}, manifest)
    get_run_logger().info(
        "%s: %d candidates, %.0f a second, cache hit rate %.3f", found, len(answers), metrics["candidates_per_second"],
        metrics["cache_hit_rate"],
    )  # fmt: skip
    return found
