"""Index: a dataset, and the model that embeds it if there is one, become a searchable index.

What is written to an index in service is compacted into a new version of it.
"""

from collections import ChainMap
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import INPUTS, RUN_ID

from infra.caching import verb
from infra.manifest import describe, describe_configuration, product_name
from infra.provenance import this_flow_run
from infra.refs import Dataset, Index, Model, Ref, Writes
from infra.serving import as_built, folder_of
from infra.store import Store, open_store
from models.common.contracts import Compactable, Curatable, Indexable
from tasks.train import network_of


@verb(timeout_seconds=timedelta(hours=4).total_seconds())
def build_index(config: Indexable, data: Dataset, model: Model | None = None) -> Index:
    """Build an index and store it as a candidate; it serves nobody before it is published.

    Args:
        config: describes the index.
        data: the items and their attributes.
        model: embeds the items; None when the dataset carries vectors.

    Returns:
        The candidate.
    """
    store = open_store()
    payload = config.build_index(store.open(data), network_of(store, model))
    inputs = (data, model) if model else (data,)
    manifest = describe(Index, data.name, config, inputs, flow_run_id=this_flow_run().id)
    index = store.write(Index, payload, manifest)
    get_run_logger().info("built %s", index)
    return index


@task(cache_policy=RUN_ID + INPUTS, persist_result=True, result_serializer="json")
def live_index(config: Curatable) -> Index:
    """The index that is live; a retry of the same flow run goes on with the one that it began with.

    Args:
        config: the configuration of its data, which names it.

    Returns:
        The live version.

    Raises:
        NotPublishedError: nothing is live under this name.
        IntegrityError: its manifest is not the one that was published.
    """
    return open_store().live(Index, product_name(config))


@task(
    cache_policy=RUN_ID + INPUTS,  # another run finds other writes
    persist_result=True,
    result_serializer="json",
    timeout_seconds=timedelta(hours=4).total_seconds(),
)
def compact(config: Compactable, live: Index) -> Index:
    """Fold what was written to a live index in service into a new version, a candidate.

    Nothing is taken from its service: that goes on and keeps every write. What the candidate holds is on the disk
    there, so no crash takes from the service what was published.

    Args:
        config: describes the index.
        live: the version whose service is written to.

    Returns:
        The candidate; the live version itself when it holds every write already.

    Raises:
        ValueError: the live version was built by other settings.
        IntegrityError: a version is damaged.
        Exception: the folder of writes is damaged, or holds other writes than the live version.
    """
    store, log = open_store(), get_run_logger()
    opened = store.open(live)
    if describe_configuration(config) != opened.manifest.configuration:
        raise ValueError(
            f"{live} was built by {opened.manifest.configuration}, and is to be compacted by "
            f"{describe_configuration(config)}; run with the settings that it was built by."
        )
    built = as_built(store, live)
    folder = folder_of(built)
    before = store.open(opened.manifest.input(Writes, store.root)) if Writes.kind in opened.manifest.inputs else None
    found = config.compact(store.open(built), folder, before)
    if found is None:
        log.info("%s stays: there are no other writes in %s", live, folder)
        return live
    payload, written = found
    run = this_flow_run().id
    writes = store.write(Writes, written, describe(Writes, live.name, config, (built,), flow_run_id=run))
    kinds = [kind for kind in (Dataset, Model) if kind.kind in opened.manifest.inputs]
    inputs: list[Ref] = [*(opened.manifest.input(kind, store.root) for kind in kinds), built, writes]
    index = store.write(Index, payload, describe(Index, live.name, config, tuple(inputs), flow_run_id=run))
    log.info("compacted %s and %s into %s", built, written["about"], index)
    return index


def with_writes(store: Store, product: Ref, data: Dataset) -> Mapping[str, Any]:
    """The dataset behind a product, and as its part `writes` what was written to the product since it was built."""
    opened, manifest = store.open(data), store.open(product).manifest
    if Writes.kind not in manifest.inputs:
        return opened
    return ChainMap({"writes": store.open(manifest.input(Writes, store.root))}, opened)  # type: ignore[arg-type]
