"""The door to processors: which device trains, in how many processes, and which Dask cluster works.

Lightning and Dask do the work; here it is decided from settings, so that a flow never changes when the machine does.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from infra.settings import PROJECT, settings

PARENT = "HEADRACE_PARENT"
"""Environment variable that tells a training process whose it is."""


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
            agent = subprocess.Popen(
                [*command, "-m", module, handle.name],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=PROJECT,
                env={**os.environ, PARENT: str(os.getpid())},
            )
            try:
                code = agent.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                raise TrainingFailedError(
                    f"training with {processes} processes passed {timeout_s:.0f} s; see {log}."
                ) from error
            finally:
                _end(agent)
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise TrainingFailedError(f"training with {processes} processes ended with {code}; {log} ends:\n{tail}")


def die_with_parent() -> None:
    """Let this process end when the flow that started the training is gone, however it went.

    A killed flow cannot stop its torchrun; left alone, the processes would write the checkpoints of the retry.
    """
    parent = os.environ.get(PARENT)
    if not parent:
        return

    def watch() -> None:
        flow = psutil.Process(int(parent))
        while flow.is_running():
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end(agent: "subprocess.Popen[bytes]") -> None:
    """End torchrun and its workers, which have sessions of their own."""
    if agent.poll() is None:
        for process in [*psutil.Process(agent.pid).children(recursive=True), psutil.Process(agent.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        agent.wait()


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
