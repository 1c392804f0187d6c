"""Monitor: the live product answers sampled requests beside its exact reference."""

from collections import ChainMap
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, cast

from prefect import get_run_logger, task
from prefect.states import Completed

from infra.lineage import tracked
from infra.manifest import product_name
from infra.provenance import this_flow_run
from infra.refs import Dataset, Index, Model
from infra.store import Store, open_store
from models.common.contracts import Monitored, Named
from models.common.judgement import Judgement
from tasks.evaluate import show
from tasks.index import with_writes
from tasks.train import network_of


@task(timeout_seconds=timedelta(hours=1).total_seconds())
def watch(config: Monitored, data: Named, kind: Literal["index", "model"] = "index") -> Judgement:
    """Replay sampled requests against the live product and log how it did.

    Args:
        config: says what to sample.
        data: the configuration of its data, which names it.
        kind: kind of the product.

    Returns:
        The judgement.

    Raises:
        NotPublishedError: nothing is live under the configuration's name.
        IntegrityError: the live version is damaged.
    """
    flow_run, store = this_flow_run(), open_store()
    name = product_name(data)
    live: Index | Model = store.live(Model, name) if kind == Model.kind else store.live(Index, name)
    opened = store.open(live)
    dataset = opened.manifest.input(Dataset, store.root)
    behind = with_writes(store, live, dataset)
    if isinstance(live, Model):
        model: Model | None = live
        behind = with_latest(store, behind, dataset)
    else:
        model = opened.manifest.input(Model, store.root) if Model.kind in opened.manifest.inputs else None
    judgement = config.watch(opened, behind, network_of(store, model))
    with tracked(config, dataset, flow_run, "monitoring") as run:
        run.tags({"purpose": "monitoring", "version": live.version})
        show(run, judgement, flow_run.name)
    get_run_logger().info("watched %s: %s %.4f", live, judgement.headline, judgement.metrics[judgement.headline])
    return judgement


def with_latest(store: Store, data: Mapping[str, Any], dataset: Dataset) -> Mapping[str, Any]:
    """A dataset, and as its part `latest` the one that was curated last under its name, where that is another."""
    latest = store.versions(Dataset.kind, dataset.name)[-1]
    if latest.digest == dataset.digest:
        return data
    version = latest.digest[:12]
    location = f"{store.root}/{Dataset.kind}/{dataset.name}/{version}"
    newer = Dataset(name=dataset.name, version=version, digest=latest.digest, location=location)
    return ChainMap({"latest": store.open(newer)}, data)  # type: ignore[arg-type]


def condition(judgement: Judgement) -> None:
    """The final state of a monitoring flow, Completed and named `Healthy` or `Degraded`; its data are None."""
    failures = judgement.certificate.failures()
    message = (
        "; ".join(claim.sentence() for claim in failures) or f"all {len(judgement.certificate.claims)} claims hold."
    )
    return cast("None", Completed(name="Degraded" if failures else "Healthy", message=message))
