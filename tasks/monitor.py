"""Monitor: the live product answers sampled requests beside its exact reference."""

from datetime import timedelta
from typing import cast

from prefect import get_run_logger, task
from prefect.states import Completed

from infra.lineage import tracked
from infra.manifest import product_name
from infra.provenance import this_flow_run
from infra.refs import Dataset, Index, Model
from infra.store import open_store
from models.common.contracts import Curatable, Monitored
from models.common.judgement import Judgement
from tasks.evaluate import show
from tasks.index import with_writes
from tasks.train import network_of


@task(timeout_seconds=timedelta(hours=1).total_seconds())
def watch(config: Monitored, data: Curatable) -> Judgement:
    """Replay sampled requests against the live product and log how it did.

    Args:
        config: says what to sample.
        data: the configuration of its data, which names it.

    Returns:
        The judgement.

    Raises:
        NotPublishedError: nothing is live under the configuration's name.
        IntegrityError: the live version is damaged.
    """
    flow_run, store = this_flow_run(), open_store()
    live = store.live(Index, product_name(data))
    opened = store.open(live)
    dataset = opened.manifest.input(Dataset, store.root)
    model = opened.manifest.input(Model, store.root) if Model.kind in opened.manifest.inputs else None
    judgement = config.watch(opened, with_writes(store, live, dataset), network_of(store, model))
    with tracked(config, dataset, flow_run, "monitoring") as run:
        run.tags({"purpose": "monitoring", "version": live.version})
        show(run, judgement, flow_run.name)
    get_run_logger().info("watched %s: %s %.4f", live, judgement.headline, judgement.metrics[judgement.headline])
    return judgement


def condition(judgement: Judgement) -> None:
    """The final state of a monitoring flow, Completed and named `Healthy` or `Degraded`; its data are None."""
    failures = judgement.certificate.failures()
    message = (
        "; ".join(claim.sentence() for claim in failures) or f"all {len(judgement.certificate.claims)} claims hold."
    )
    return cast("None", Completed(name="Degraded" if failures else "Healthy", message=message))
