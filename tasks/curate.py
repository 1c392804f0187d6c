"""Curate: raw files become a validated, versioned dataset."""

from datetime import timedelta
from typing import Any

from prefect import get_run_logger

from infra import catalogue
from infra.caching import verb
from infra.manifest import describe, product_name
from infra.provenance import this_flow_run
from infra.refs import Dataset
from infra.store import open_store
from models.common.contracts import Curatable


def _worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """A network may come back; a wrong file stays wrong."""
    return not isinstance(state.result(raise_on_failure=False), ValueError)


@verb(retries=2, retry_delay_seconds=10, retry_condition_fn=_worth_retrying, timeout_seconds=timedelta(hours=4).seconds)
def curate(config: Curatable) -> Dataset:
    """Fetch what the configuration names, validate and arrange it, and store the result.

    Args:
        config: names its sources and prepares them.

    Returns:
        The dataset; the same sources and code give the same version.

    Raises:
        CatalogueError: a source is unknown, not allowed, missing or changed.
        InputError: its content cannot be used; names file, column and row.
    """
    files = {name: catalogue.locate(location) for name, location in config.sources().items()}
    payload = config.prepare(files)
    manifest = describe(Dataset, product_name(config), config, flow_run_id=this_flow_run().id)
    dataset = open_store().write(Dataset, payload, manifest)
    get_run_logger().info("curated %s", dataset)
    return dataset
