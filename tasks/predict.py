"""Predict: a live model answers a table of requests, or turns a dataset on a grid into another one, part by part.

Answers and predicted datasets are kept with what they came from. The parts of a predicted dataset are made once, like
those of any dataset that is made in parts: their keys are the digest of the model, of what a part reads, and of the
code.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

import torch
from prefect import get_run_logger, task
from prefect.cache_policies import INPUTS, RUN_ID

from infra import catalogue
from infra.caching import verb
from infra.compute import each
from infra.grids import open_groups
from infra.lineage import tracked
from infra.manifest import describe, digest_of
from infra.provenance import Progress, this_flow_run
from infra.refs import Dataset, Model, Predictions
from infra.store import open_store
from models.common.contracts import Gridding, InputError, Payload, Predicting, Requested
from models.common.parts import Layout, Part, PreparationConfig
from tasks.prepare import Work, keep, key_of_all, live_dataset, put_together
from tasks.publish import data_behind
from tasks.train import network_of


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


def input_of(config: Gridding, model: Model) -> Dataset | None:
    """What a model is asked about: a live dataset, or that from which it learned; None when a folder is named.

    Args:
        config: names it.
        model: what is asked.

    Returns:
        The dataset.

    Raises:
        NotPublishedError: nothing is live under the name.
    """
    if config.location:
        return None
    return live_dataset(config.dataset) if config.dataset else data_behind(model)


@verb(timeout_seconds=timedelta(days=7).total_seconds())
def predict_parts(config: Gridding, model: Model, data: Dataset | None, how: PreparationConfig) -> Dataset:
    """Let a model turn a dataset into another one, part by part, and store that.

    Args:
        config: says which parts there are, and makes each by the model's network.
        model: what predicts.
        data: what it predicts from; None: the folder that the configuration names.
        how: how the work is done; it does not matter for the result.

    Returns:
        The dataset, with its lineage to model and data; the same model, values, settings and code give the same
        version, whatever happened on the way.

    Raises:
        CatalogueError: the folder lies outside the data roots.
        InputError: the data are not those that the network can take. Parts that were made are kept.
        IntegrityError: model or data are damaged.
    """
    mark = digest_of({name: catalogue.fingerprint(place) for name, place in config.sources().items()})
    source = _Source(model=model, data=data, location=config.location, mark=mark)
    network, opened = _opened(source)
    survey = config.survey(opened, network)
    if not survey.parts:
        raise InputError(f"{data or config.location}: there are no hours to predict; prepare some.")
    found = each(partial(_content, config, source), survey.parts, workers=how.workers)
    common = key_of_all(config) | {"model": model.digest, "torch": version("torch")}
    keys = {part.name: _key(common, part, content) for part, content in zip(survey.parts, found, strict=True)}
    light = {group: dataclasses.replace(layout, coordinates={}) for group, layout in survey.groups.items()}
    maker = partial(_make, config, source, light, common)
    inputs = (model, data) if data else (model,)
    return put_together(config, survey, keys, maker, how, files={}, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What a worker opens: the model, and a dataset or a folder; `mark` is another one when the folder's files are."""

    model: Model
    data: Dataset | None
    location: str
    mark: str


def _content(config: Gridding, source: _Source, part: Part) -> str:
    """Digest of what one part reads; in whatever process."""
    _, opened = _opened(source)
    return config.content(opened, part)


def _key(common: Mapping[str, Any], part: Part, content: str) -> str:
    """The key of a part."""
    return digest_of({**common, "part": part.name, "about": part.about, "content": content})[:32]


def _make(
    config: Gridding, source: _Source, groups: Mapping[str, Layout], common: Mapping[str, Any], work: Work
) -> str:
    """Make one part and store it; in whatever process."""
    network, opened = _opened(source)
    made = config.part(opened, network, work.part)
    # a folder may change while it is read, and a part under the key of other values would be found for ever
    if source.location and _key(common, work.part, config.content(opened, work.part)) != work.key:
        raise InputError(f"{work.part.name}: {source.location} changed while it was read; run again when it is whole.")
    return keep(made, groups, work)


@lru_cache(maxsize=2)
def _opened(source: _Source) -> tuple[torch.nn.Module, Payload]:
    """The network and what it is asked about, once in a process."""
    store = open_store()
    network: Any = network_of(store, source.model)
    if source.data is not None:
        return network, store.open(source.data)
    return network, {"data": open_groups(catalogue.allowed(source.location))}
