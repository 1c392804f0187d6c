"""Index: a dataset, and the model that embeds it if there is one, become a searchable index."""

from datetime import timedelta

from prefect import get_run_logger

from infra.caching import verb
from infra.manifest import describe
from infra.provenance import this_flow_run
from infra.refs import Dataset, Index, Model
from infra.store import open_store
from models.common.contracts import Indexable
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
