"""Train: a configuration and a dataset become a model, with one MLflow run however many processes work."""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from prefect import get_run_logger

from infra import tracking
from infra.caching import cache_key, verb
from infra.compute import torchrun
from infra.lineage import tracked
from infra.manifest import class_path, describe, describe_configuration, system_of
from infra.provenance import this_flow_run
from infra.refs import Dataset, Model
from infra.settings import settings
from infra.store import Store, open_store
from models.common.contracts import Trainable

TIMEOUT_S = timedelta(hours=12).total_seconds()


@verb(timeout_seconds=TIMEOUT_S)
def train(config: Trainable, data: Dataset, product: str = "", beside: str = "") -> Model:
    """Train the configuration's network and store its best epoch.

    A run that was killed goes on from its last finished epoch when the task runs again, in this flow run or another,
    as long as configuration, data and code are the same.

    Args:
        config: describes network, loss, batches and how long to train.
        data: what to learn from.
        product: name of the model; empty: that of the data.
        beside: what stands before the names of its metrics when it is not the flow's own model but one beside it.

    Returns:
        The model: weights and the sizes that its network is built from.

    Raises:
        TrainingFailedError: a data-parallel training ended with an error.
        ValueError: the loss became not-a-number.
    """
    flow_run, store = this_flow_run(), open_store()
    folder = settings().scratch / "training" / cache_key(train.fn, {"config": config, "data": data})[:32]
    with _alone(folder), tracked(config, data, flow_run, "training", run_id=_begun(config, folder, flow_run.id)) as run:
        (folder / "run_id").write_text(run.id)
        job = {
            "configuration_class": class_path(config),
            "configuration": describe_configuration(config),
            "data": data.model_dump(),
            "folder": str(folder),
            "run": run.target.model_dump(),
            "beside": beside,
        }
        if config.training.processes == 1:
            from tasks import fit_job  # Lightning takes seconds to import, and a cached task needs none of it

            fit_job.run(job)
        else:
            torchrun("tasks.fit_job", job, config.training.processes, folder / "torchrun.log", TIMEOUT_S - 60)
        summary = json.loads((folder / "training.json").read_text())
        run.metrics({f"{beside}{key}": value for key, value in summary.items() if key != "sizes"})
        payload = {"weights": safetensors.torch.load_file(folder / "weights.safetensors"), "training": summary}
        manifest = describe(Model, product or data.name, config, (data,), flow_run_id=flow_run.id, run_id=run.id)
        model = store.write(Model, payload, manifest)
        shutil.rmtree(folder, ignore_errors=True)
    get_run_logger().info("trained %s: best epoch %d of %d", model, summary["best_epoch"], summary["epochs"])
    return model


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One training at a time in a folder: two flow runs may ask for the same model at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        yield


def _begun(config: Trainable, folder: Path, flow_run_id: str) -> str:
    """The MLflow run of a training that was killed, handed over to this flow run; "" when there is none."""
    note = folder / "run_id"
    run_id = note.read_text() if note.exists() else ""
    return run_id if run_id and tracking.adopt(run_id, flow_run_id, system_of(config)) else ""


def network_of(store: Store, model: Model | None) -> torch.nn.Module | None:
    """Rebuild a stored model's network from its manifest, in evaluation mode; None stays None."""
    if model is None:
        return None
    opened = store.open(model)
    config: Any = opened.manifest.rebuild_configuration()
    network: torch.nn.Module = config.network(opened["training"]["sizes"])
    network.load_state_dict(opened["weights"])
    return network.eval()
