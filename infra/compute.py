"""The door to processors: which device trains, in how many processes, and which Dask cluster works.

Lightning and Dask do the work; here it is decided from settings, so that a flow never changes when the machine does.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from infra.settings import PROJECT, settings


class TrainingFailedError(RuntimeError):
    """A data-parallel training did not finish; the message ends with its output."""


def lightning_arguments(accelerator: str, processes: int) -> dict[str, Any]:
    """Arguments of `lightning.Trainer` for this machine.

    Args:
        accelerator: "cpu", "gpu" or "auto".
        processes: data-parallel processes.

    Returns:
        Accelerator, devices and strategy.
    """
    gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    arguments: dict[str, Any] = {"accelerator": "gpu" if gpu else "cpu", "devices": processes}
    if processes > 1:
        from lightning.pytorch.strategies import DDPStrategy

        arguments["strategy"] = DDPStrategy(process_group_backend="nccl" if gpu else "gloo")
    return arguments


def torchrun(module: str, job: Mapping[str, Any], processes: int, log: Path, timeout_s: float) -> None:
    """Run a module under torchrun on this machine and wait for it.

    A subprocess, never a fork: the process of a flow holds Prefect's threads.

    Args:
        module: module to run; its one argument is the path of the job.
        job: what to do, as JSON.
        processes: how many.
        log: file that takes the output.
        timeout_s: seconds until it is killed.

    Raises:
        TrainingFailedError: it ended with an error or not in time.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as handle:
        json.dump(job, handle)
        handle.flush()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        with log.open("w") as output:
            try:
                done = subprocess.run(
                    [*command, "-m", module, handle.name],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=PROJECT,
                    timeout=timeout_s,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise TrainingFailedError(
                    f"training with {processes} processes passed {timeout_s:.0f} s; see {log}."
                ) from error
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise TrainingFailedError(
            f"training with {processes} processes ended with {done.returncode}; {log} ends:\n{tail}"
        )


@contextlib.contextmanager
def dask_client(workers: int = 2) -> Iterator[Any]:
    """A Dask client: of the scheduler that settings name, or of local processes for the length of the block."""
    from distributed import Client, LocalCluster  # a second of import that most tasks need not pay

    address = settings().dask_address
    if address:
        with Client(address) as client:
            yield client
    else:
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
