"""The part of training that may run in other processes: no Prefect here, so that torchrun children start fast.

python -m tasks.fit_job JOB.json        under torchrun; JOB is made by `tasks.train`
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from infra import tracking
from infra.compute import die_with_parent, lightning_arguments
from infra.manifest import resolve_configuration
from infra.refs import Dataset
from infra.store import open_store
from models.common.fit import fit


def run(job: dict[str, Any]) -> None:
    """Train what a job describes, as one process of one or several.

    Args:
        job: configuration class and values, dataset reference, folder for checkpoints, MLflow run, and
            what stands before the names of its metrics.
    """
    tracking.quiet()
    die_with_parent()
    config: Any = TypeAdapter(resolve_configuration(job["configuration_class"])).validate_python(job["configuration"])
    fit(
        config,
        open_store().open(Dataset(**job["data"])),
        Path(job["folder"]),
        lightning_arguments=lightning_arguments(config.training.accelerator, config.training.processes),
        logger=tracking.lightning_logger(tracking.Target(**job["run"]), job["beside"]),
        rank=int(os.environ.get("RANK", "0")),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run(json.loads(Path(sys.argv[1]).read_text()))
