"""Study: trials that differ in one thing, each measured by itself, and what they show together."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from prefect import get_run_logger, task
from prefect.task_runners import ProcessPoolTaskRunner

from infra.caching import verb
from infra.lineage import tracked
from infra.manifest import describe, product_name
from infra.provenance import this_flow_run
from infra.refs import Dataset, Model
from infra.store import open_store
from models.common.contracts import Measured, Studied
from tasks.train import network_of

TIMEOUT_S = timedelta(hours=4).total_seconds()


@verb(timeout_seconds=TIMEOUT_S)
def measure(config: Measured, model: Model, data: Dataset) -> Dataset:
    """Measure a trained model on held-out data, and store what it said.

    Args:
        config: the trial; says what to measure.
        model: what it trained.
        data: what it learned from, with the held-out part.

    Returns:
        What the model said.
    """
    flow_run, store = this_flow_run(), open_store()
    network = network_of(store, model)
    if network is None:
        raise TypeError(f"{model} has no network; measure takes what train returned.")
    payload = config.measure(store.open(model), store.open(data), network)
    with tracked(config, data, flow_run, "evaluation") as run:
        run.metrics(config.metrics(payload))
        manifest = describe(
            Dataset, product_name(config), config, (data, model), flow_run_id=flow_run.id, run_id=run.id
        )
        measured = store.write(Dataset, payload, manifest)
    get_run_logger().info("measured %s as %s", model, measured)
    return measured


@verb(timeout_seconds=TIMEOUT_S)
def gather(config: Studied, measured: Sequence[Dataset]) -> Dataset:
    """Put what all trials said into one dataset.

    Args:
        config: the study.
        measured: what was measured of each trial, in the order of its trials.

    Returns:
        The dataset; it holds all that the study's conclusion rests on, and in `sources` name, version and digest of
        what each trial measured, in their order: a manifest names one input of a kind, and here there are many.
        Retention may remove these, for nothing live is made from them but by way of this list.
    """
    flow_run, store = this_flow_run(), open_store()
    sources = [{"name": one.name, "version": one.version, "digest": one.digest} for one in measured]
    payload = {**config.gather([store.open(one) for one in measured]), "sources": sources}
    manifest = describe(Dataset, product_name(config), config, flow_run_id=flow_run.id)
    data = store.write(Dataset, payload, manifest)
    get_run_logger().info("gathered %d trials as %s", len(measured), data)
    return data


@verb(timeout_seconds=TIMEOUT_S)
def conclude(config: Studied, data: Dataset) -> Model:
    """Fit what the trials of a study show together.

    Args:
        config: the study.
        data: what was gathered.

    Returns:
        The fitted law, and the points that it was fitted to.
    """
    flow_run, store = this_flow_run(), open_store()
    payload = config.conclude(store.open(data))
    manifest = describe(Model, data.name, config, (data,), flow_run_id=flow_run.id)
    law = store.write(Model, payload, manifest)
    get_run_logger().info("concluded %s from %s", law, data)
    return law


def attempt(trial: Callable[[Any], Dataset], configs: Sequence[Any], concurrency: int) -> list[Dataset]:
    """Run every trial of a study, some at a time.

    Trials at a time are processes apart, for a training owns the random stream of its process. Each computes with as
    many threads as this process, for the order of sums depends on it: a trial has the same bits either way.

    Args:
        trial: a flow that runs one trial, by its configuration.
        configs: the configurations.
        concurrency: how many at a time.

    Returns:
        What each measured, in their order.

    Raises:
        Exception: of the first trial that failed; what others finished is cached.
    """
    if concurrency == 1:
        return [trial(config) for config in configs]
    with ProcessPoolTaskRunner(max_workers=concurrency) as runner:
        apart = task(name="trial", persist_result=False)(_apart)
        threads = torch.get_num_threads()
        futures = [runner.submit(apart, {"trial": trial, "config": config, "threads": threads}) for config in configs]
        return [future.result() for future in futures]


def _apart(trial: Callable[[Any], Dataset], config: Any, threads: int) -> Dataset:
    """One trial in a process of its own."""
    torch.set_num_threads(threads)
    return trial(config)
