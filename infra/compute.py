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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from infra.settings import PROJECT, settings

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

PARENT = "HEADRACE_PARENT"
"""Environment variable that tells a training process whose it is."""

CHECKPOINT_WITHIN_S = 25
"""Seconds that data-parallel processes have for their checkpoint when they are asked to end; torchrun gives them 30."""


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
            except BaseException:  # the flow was asked to end: so are they, and write a checkpoint
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.terminate()
                    agent.wait(CHECKPOINT_WITHIN_S)
                raise
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


def each(
    function: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    *,
    workers: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[ResultT]:
    """Apply a function to every item: on the Dask cluster that settings name, else here.

    Here that is in this process one by one, or on a Dask cluster of local processes when more than one is asked for.

    What a worker was doing when it died is done again by another one, so the function must bear to be repeated.

    Args:
        function: of a module, or a partial of one; it and what it takes and gives travel to the workers and back.
        items: what to apply it to, each independent of the others.
        workers: local processes; a cluster that settings name has as many as it has.
        tell: called with how many are done, and of how many, after each.

    Returns:
        The results in the order of the items.

    Raises:
        OSError: the scheduler cannot be reached.
        Exception: what the function raised for an item; others may have been done.
    """
    if not settings().dask_address and (workers == 1 or len(items) < 2):
        results = []
        for item in items:
            results.append(function(item))
            tell(len(results), len(items))
        return results
    from distributed import as_completed

    with dask_client(min(workers, len(items))) as client:
        futures = client.map(partial(_as_here, function, _surroundings()), items, pure=False)
        for done, future in enumerate(as_completed(futures), start=1):
            if future.status == "error":
                client.cancel(futures)
                future.result()
            tell(done, len(items))
        gathered: list[ResultT] = client.gather(futures)
        return gathered


def _surroundings() -> dict[str, str]:
    """Where things are, for a worker that was started elsewhere; no secret travels with it."""
    here = settings()
    return {
        "HEADRACE_HOME": str(here.home.resolve()),
        "HEADRACE_STORE": here.store_location,
        "HEADRACE_MIRROR": here.mirror,
        "HEADRACE_DATA_ROOTS": here.data_roots,
    }


def _as_here(function: Callable[[ItemT], ResultT], surroundings: Mapping[str, str], item: ItemT) -> ResultT:
    """Work on a worker as if it were here."""
    if any(os.environ.get(name) != value for name, value in surroundings.items()):
        os.environ.update(surroundings)
        settings.cache_clear()
    return function(item)
