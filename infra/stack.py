"""The local stack: a Prefect server, an MLflow server and a worker on loopback, all state under `HEADRACE_HOME`.

Bringing it up twice is bringing it up once; taking it down stops exactly the processes that were started here.

    StackError
     +-- a service did not become healthy, a port range is full, a deployment does not exist
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, TypeAdapter

from infra.settings import PROJECT, settings

POOL = "headrace"
HOST = "127.0.0.1"
HEALTHY_WITHIN_S = 240


class StackError(RuntimeError):
    """The stack cannot do what was asked; the message says which part, why, and where its log is."""


class Service(BaseModel):
    """A process that the stack started.

    Attributes:
        pid, created: which process, safe against a reused number.
        port: where it listens; 0 for the worker.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    port: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return bool(abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


Services = dict[str, Service]


def up() -> Services:
    """Start what is not running yet and wait until it is healthy.

    Returns:
        The services by name: prefect, mlflow, worker.

    Raises:
        StackError: a service did not become healthy; its log is named.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with _lock():
        services = {name: service for name, service in known().items() if service.alive()}
        for name, first in (("prefect", settings().prefect_port), ("mlflow", settings().mlflow_port)):
            if name not in services:
                services[name] = _start(name, _commands(name, port := _free_port(first)), environment(services), port)
                _remember(services)
        for name, path in (("prefect", "/api/health"), ("mlflow", "/health")):
            _wait_until_healthy(name, services[name], path)
        if "worker" not in services:
            _create_pool(services)
            services["worker"] = _start("worker", _commands("worker", 0), environment(services), 0)
            _remember(services)
    return services


def down() -> list[str]:
    """Stop what `up` started; returns the names of what was stopped."""
    folder().mkdir(parents=True, exist_ok=True)
    with _lock():
        stopped = []
        for name, service in reversed(list(known().items())):
            if service.alive():
                _stop(service)
                stopped.append(name)
        _remember({})
    return stopped


def known() -> Services:
    """The services that were started and not yet stopped, alive or not."""
    file = folder() / "stack.json"
    if not file.exists():
        return {}
    return TypeAdapter(Services).validate_json(file.read_text())


def environment(services: Services) -> dict[str, str]:
    """Environment of everything that talks to the stack: servers, worker, flow runs, command line."""
    home = settings().home.resolve()
    values = {
        **os.environ,
        "HEADRACE_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "headrace",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_WAIT_POLICY": "passive",
    }
    if "prefect" in services:
        values |= {
            "PREFECT_API_URL": f"{services['prefect'].url}/api",
            "PREFECT_UI_URL": services["prefect"].url,
        }
    if "mlflow" in services:
        values |= {"HEADRACE_TRACKING_URI": services["mlflow"].url, "MLFLOW_TRACKING_URI": services["mlflow"].url}
    return values


def deploy(services: Services) -> None:
    """Create or update every deployment of `prefect.yaml`.

    Raises:
        StackError: Prefect refused; its words are in the message.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=PROJECT, env=environment(services), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"prefect deploy --all failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def folder() -> Path:
    """Where the stack keeps its logs and its record."""
    return settings().home.resolve() / "stack"


def _commands(name: str, port: int) -> list[str]:
    home = settings().home.resolve()
    python = [sys.executable, "-m"]
    match name:
        case "prefect":
            return [*python, "prefect", "server", "start", "--host", HOST, "--port", str(port)]
        case "mlflow":
            (home / "mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
            return [
                *python,
                *("mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"),
                *("--artifacts-destination", str(home / "mlflow" / "artifacts"), "--serve-artifacts"),
            ]
        case _:
            return [*python, "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--limit", "2"]


def _start(name: str, command: list[str], environment: dict[str, str], port: int) -> Service:
    if name == "prefect":
        url = f"http://{HOST}:{port}"
        # SQLite has one writer: whoever comes second on a busy machine waits instead of failing.
        environment |= {"PREFECT_SERVER_DATABASE_TIMEOUT": "60", "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60"}
        environment |= {"PREFECT_API_URL": f"{url}/api", "PREFECT_UI_API_URL": f"{url}/api", "PREFECT_UI_URL": url}
    if name == "mlflow":
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder() / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Service(pid=process.pid, created=psutil.Process(process.pid).create_time(), port=port)


def _stop(service: Service) -> None:
    """End a service and its children: ask, wait, insist."""
    family = [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(service.pid, signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=15)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def _wait_until_healthy(name: str, service: Service, path: str) -> None:
    log = folder() / f"{name}.log"
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while time.monotonic() < deadline:
        if not service.alive():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise StackError(f"{name} ended while starting; {log} ends:\n{tail}")
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(service.url + path, timeout=5) as reply,  # noqa: S310 - our own loopback address
        ):
            if reply.status == 200:
                return
        time.sleep(0.25)
    raise StackError(f"{name} was not healthy at {service.url}{path} within {HEALTHY_WITHIN_S} s; see {log}.")


def _create_pool(services: Services) -> None:
    command = [sys.executable, "-m", "prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite"]
    done = subprocess.run(command, env=environment(services), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"cannot create the work pool {POOL}:\n{done.stdout}{done.stderr}")


def _free_port(first: int) -> int:
    for port in range(first, first + 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise StackError(
        f"no free port between {first} and {first + 199}; set HEADRACE_PREFECT_PORT or HEADRACE_MLFLOW_PORT."
    )


def _remember(services: Services) -> None:
    file = folder() / "stack.json"
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({name: service.model_dump() for name, service in services.items()}))
    partial.replace(file)


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    with (folder() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
