"""Neighbours: a published index, named by reference, says what is nearest to vectors; what is made of it is kept."""

from datetime import timedelta

import numpy as np
from prefect import get_run_logger, task
from prefect.cache_policies import INPUTS, RUN_ID

from infra import catalogue
from infra.lineage import tracked
from infra.manifest import describe, product_name
from infra.provenance import Progress, this_flow_run
from infra.refs import Dataset, Index, Predictions
from infra.serving import as_built, folder_of
from infra.store import open_store
from models.common.contracts import Asking, Searchable
from tasks.index import with_writes

TOGETHER = 256
"""Questions asked at a time; between two of them the bar moves."""


@task(cache_policy=RUN_ID + INPUTS, persist_result=True, result_serializer="json")
def published_index(product: str) -> Index:
    """The live version of an index, by its name; a retry of the same flow run goes on with the one it began with.

    Args:
        product: its name.

    Returns:
        The live version.

    Raises:
        NotPublishedError: nothing is live under this name.
        IntegrityError: its manifest is not the one that was published.
    """
    return open_store().live(Index, product)


@task(
    cache_policy=RUN_ID + INPUTS,  # another run finds another file, or other writes to the index
    persist_result=True,
    result_serializer="json",
    timeout_seconds=timedelta(hours=12).total_seconds(),
)
def neighbours(config: Asking, index: Index) -> Predictions:
    """Ask an index for neighbours, and store what the configuration makes of its answers.

    What was written to the index in service counts where its service runs on this machine, as far as it is on the disk
    for certain; the part `about` says which writes these are.

    Args:
        config: says what is asked, and what is made of the answers.
        index: is asked; the configuration that made it knows how to open it.

    Returns:
        Questions and answers, checksummed, with their lineage to the index and its data.

    Raises:
        CatalogueError: a file is not allowed, missing or changed.
        InputError: a file cannot be used, or names an item that the index lacks.
        IntegrityError: the index is damaged.
        ValueError: indexes of its kind are not asked this way.
    """
    flow_run, store, log = this_flow_run(), open_store(), get_run_logger()
    opened = store.open(index)
    data = opened.manifest.input(Dataset, store.root)
    maker: Searchable = opened.manifest.rebuild_configuration()
    if not hasattr(maker, "searcher"):
        raise ValueError(f"{type(maker).__name__}, which made {index}, opens no index to be asked for neighbours.")
    searcher = maker.searcher(dict(opened), with_writes(store, index, data), folder_of(as_built(store, index)))
    files = {name: catalogue.locate(location) for name, location in config.sources().items()}
    asked = config.questions(files, searcher)
    queries, found = asked["queries"], []
    with Progress(f"{len(queries)} questions to {index}") as progress:
        for first in range(0, len(queries), TOGETHER):
            found.append(searcher.neighbours(queries[first : first + TOGETHER], config.k))
            progress((first + len(found[-1][0])) / len(queries))
    places, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    payload, metrics = config.answers(asked, places, scores)
    about = {"writes": dict(searcher.about), **payload.get("about", {})}
    with tracked(config, data, flow_run, "prediction") as run:
        run.metrics(metrics)
        run.tags({"purpose": "prediction", "version": index.version})
        inputs = (index, data)
        manifest = describe(Predictions, product_name(config), config, inputs, flow_run_id=flow_run.id, run_id=run.id)
        answers = store.write(Predictions, {**payload, "about": about}, manifest)
    log.info("%s: %d questions to %s%s", answers, len(queries), index, f" and {about['writes']}" * bool(searcher.about))
    return answers
