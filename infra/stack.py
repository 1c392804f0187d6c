"""The local stack: a Prefect server, an MLflow server and a worker on loopback, all state under `HEADRACE_HOME`.

Bringing it up twice is bringing it up once; taking it down stops exactly the processes that were started here.
What a killed service leaves behind is found by its session and by a mark in its environment, and ended too.

    StackError
     +-- a service did not become healthy, a port range is full, a deployment does not exist, the worker died
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, TypeAdapter

from infra.settings import PROJECT, settings

POOL = "headrace"
HOST = "127.0.0.1"
SERVERS = {"prefect": "/api/health", "mlflow": "/health"}
"""The services that answer, in the order in which they start, and where each says that it is healthy."""

HEALTHY_WITHIN_S = 240
PORT_ATTEMPTS = 5
MARK = "HEADRACE_SERVICE"
"""Variable that everything a service starts inherits: a flow run has a session of its own and outlives its worker."""

STACK_TRACKING_URI = "HEADRACE_STACK_TRACKING_URI"
"""The address that the stack chose, so that once exported to a shell it is not mistaken for a person's wish."""

_loopback = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback


class StackError(RuntimeError):
    """The stack cannot do what was asked; the message says which part, why, and where its log is."""


class Service(BaseModel):
    """A process that the stack started.

    Attributes:
        pid: its number, which is also that of its session.
        created: when it started, by the clock of that moment.
        birth: when it started, as the kernel counts; a number used again has another one. "" where it does not tell.
        port: where it listens; 0 for the worker.
        digest: of the settings it was started with; only the worker's matters.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    birth: str = ""
    port: int = 0
    digest: str = ""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return self.is_process(process) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def is_process(self, process: psutil.Process) -> bool:
        """Whether a process is this one and not another with the same number.

        Raises:
            psutil.NoSuchProcess: it ended meanwhile.
        """
        if process.pid == self.pid and self.birth and (birth := _birth(self.pid)):
            return birth == self.birth  # the clock may have been set since; the kernel's count goes on
        return bool(process.pid == self.pid and abs(process.create_time() - self.created) < 1)


Services = dict[str, Service]


def up(say: Callable[[str], None] = print) -> Services:
    """Start what is not running, wait until it is healthy, and give the worker the settings of now.

    A worker that was started with other settings, or before its servers, is restarted; one that executes a flow run
    is left alone as long as its servers are where they were.

    Args:
        say: told in a sentence when a worker keeps its old settings.

    Returns:
        The services by name: prefect, mlflow, worker.

    Raises:
        StackError: a service did not become healthy; its log is named.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with _lock():
        record = known()
        before = dict(record)
        started = [name for name in SERVERS if name not in record or not record[name].alive()]
        for name in started:
            _start_server(name, record)
        for name in SERVERS:
            _settle(name, record)
        moved = [name for name in started if name not in before or before[name].url != record[name].url]
        digest = _settings_digest(environment(record))
        if not _worker_stays(record.get("worker"), digest, started, moved, say):
            _start_worker(record, digest)
    return record


def down() -> list[str]:
    """Stop what `up` started and what is left of it; returns the names of what was stopped."""
    folder().mkdir(parents=True, exist_ok=True)
    with _lock():
        record = known()
        stopped = []
        for name in ("worker", *reversed(SERVERS)):
            if name == "prefect" and name in record and record[name].alive():
                # A server that does not answer must not keep anyone from stopping it; the next worker does this again.
                with contextlib.suppress(StackError):
                    crash_dead_runs(record[name], "The stack was taken down while this run was under way.")
            if _end(name, record.get(name)):
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
    """Environment of everything that talks to the stack: servers, worker, flow runs, command line.

    A `HEADRACE_TRACKING_URI` that a person set stays; the stack's own server is for whoever set none.
    """
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
    for name, place in (("HEADRACE_STORE", settings().store), ("HEADRACE_MIRROR", settings().mirror)):
        if place and "://" not in place:  # flow runs work in another folder than the person who set it
            values[name] = str(Path(place).resolve())
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host.strip()]
        values[name] = ",".join([*hosts, *(host for host in (HOST, "localhost") if host not in hosts)])
    values.pop(MARK, None)
    if "mlflow" in services:
        own, wished = services["mlflow"].url, os.environ.get("HEADRACE_TRACKING_URI", "")
        chosen = own if wished in ("", os.environ.get(STACK_TRACKING_URI)) else wished
        values |= {"HEADRACE_TRACKING_URI": chosen, "MLFLOW_TRACKING_URI": chosen, STACK_TRACKING_URI: own}
    return values


def deploy(services: Services, *, always: bool = False) -> None:
    """Create or update every deployment of `prefect.yaml`.

    Args:
        services: the running stack.
        always: deploy even if neither the flows nor the Prefect server changed since the last time; someone may have
            removed a deployment.

    Raises:
        StackError: Prefect refused; its words are in the message.
    """
    done_file, digest = folder() / "deployed", _deployed_digest(services["prefect"])
    if not always and done_file.exists() and done_file.read_text() == digest:
        return
    done_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=PROJECT, env=environment(services), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"prefect deploy --all failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    done_file.write_text(digest)


def crash_dead_runs(prefect: Service, why: str) -> list[str]:
    """Say Crashed of every flow run of the pool that is under way, and of the flow runs it started.

    To be called while no worker runs: whoever executed them is gone, and a deployment that allows one run at a time
    would wait for them for ever.

    Args:
        prefect: the Prefect server.
        why: message of the state.

    Returns:
        Ids of the flow runs.

    Raises:
        StackError: the server did not answer, or refused.
    """
    state = {"type": "CRASHED", "name": "Crashed", "message": why}
    ended: list[str] = []
    wanted: list[dict[str, Any]] = [{"work_pools": {"name": {"any_": [POOL]}}}]
    while wanted:
        under_way = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        query = wanted[-1] | {"flow_runs": under_way | wanted[-1].get("flow_runs", {})}
        found = [run["id"] for run in _post(prefect, "/flow_runs/filter", query) if run["id"] not in ended]
        if not found:
            wanted.pop()
        for flow_run in found:
            _post(prefect, f"/flow_runs/{flow_run}/set_state", {"state": state, "force": True})
            ended.append(flow_run)
            wanted.append({"flow_runs": {"parent_flow_run_id": {"any_": [flow_run]}}})
    return ended


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


def _start_server(name: str, record: Services) -> None:
    """Start a server where it was before, or else on the first free port, and remember it."""
    _end(name, record.get(name))
    first = settings().prefect_port if name == "prefect" else settings().mlflow_port
    port = _free_port(first, record[name].port if name in record else 0)
    others = {other: service for other, service in record.items() if other != name and service.alive()}
    record[name] = _start(name, _commands(name, port), environment(others), port)
    _remember(record)


def _settle(name: str, record: Services) -> None:
    """Wait until a server is healthy; start it elsewhere when someone else took its port first."""
    for _ in range(PORT_ATTEMPTS):
        if _wait_until_healthy(name, record[name], SERVERS[name]):
            return
        _start_server(name, record)
    raise StackError(f"{name} lost its port {PORT_ATTEMPTS} times to other programs; see {folder() / f'{name}.log'}.")


def _worker_stays(
    worker: Service | None, digest: str, started: list[str], moved: list[str], say: Callable[[str], None]
) -> bool:
    if worker is None or not worker.alive():
        return False
    if worker.digest == digest and not started:
        return True
    if moved or not _executes(worker):
        return False
    say(
        "The worker executes a flow run and keeps the settings it was started with; "
        "wait for its end and repeat the command, or make down, if other HEADRACE_ settings should hold."
    )
    return True


def _executes(worker: Service) -> bool:
    """Whether the worker has flow runs under way: each is a child of it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(worker.pid).children(recursive=True)
        return any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    return False


def _start_worker(record: Services, digest: str) -> None:
    _end("worker", record.pop("worker", None))
    _remember(record)
    crash_dead_runs(record["prefect"], "Its worker ended while this run was under way; run the deployment again.")
    _create_pool(record)
    record["worker"] = _start("worker", _commands("worker", 0), environment(record), 0, digest)
    _remember(record)


def _start(name: str, command: list[str], environment: dict[str, str], port: int, digest: str = "") -> Service:
    environment |= {MARK: _mark(name)}
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
    created = psutil.Process(process.pid).create_time()
    return Service(pid=process.pid, created=created, birth=_birth(process.pid), port=port, digest=digest)


def _end(name: str, service: Service | None) -> bool:
    """End a service and what is left of it: ask, wait, insist. Returns whether there was anything to end."""
    family = _family(name, service)
    if service and service.alive():
        # The leader first: the worker ends its flow runs itself, and says so to Prefect.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGTERM)
        _wait_gone([process for process in family if process.pid == service.pid], 15)
    for ask, seconds in ((psutil.Process.terminate, 10), (psutil.Process.kill, 5)):
        left = [process for process in {*family, *_family(name, service)} if _runs(process)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(process)
        _wait_gone(left, seconds)
    return bool(family)


def _family(name: str, service: Service | None) -> list[psutil.Process]:
    """Every process of a service that runs: its leader, its descendants, its session, and all that bear its mark."""
    found: set[psutil.Process] = set()
    reused = False
    if service:
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(service.pid)
            # The kernel gives out no number that still names a session: a stranger there means that nobody is left.
            reused = not service.is_process(leader)
            found |= set() if reused else {leader, *leader.children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real != os.getuid() or process.pid == os.getpid():
                continue
            ours = service and not reused and os.getsid(process.pid) == service.pid and _not_before(service, process)
            if ours or process.environ().get(MARK) == _mark(name):
                found.add(process)
    return [process for process in found if _runs(process)]


def _not_before(service: Service, process: psutil.Process) -> bool:
    """Whether a process started no earlier than the service did."""
    boot, _, ticks = service.birth.partition(" ")
    other_boot, _, other_ticks = _birth(process.pid).partition(" ")
    if ticks and other_ticks:
        return boot == other_boot and int(other_ticks) >= int(ticks)
    return bool(process.create_time() >= service.created - 1)


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _wait_gone(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until processes ended; one that nobody collects, a zombie, counts as ended."""
    deadline = time.monotonic() + seconds
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _mark(name: str) -> str:
    return str(folder() / name)


def _birth(pid: int) -> str:
    """When a process started, as "BOOT TICKS"; "" where there is no /proc, or no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name may contain anything
    except OSError:
        return ""
    return f"{boot} {fields[19]}"  # field 22 of proc(5), counted from the third


def _settings_digest(environment: dict[str, str]) -> str:
    """Digest of what a flow run sees of the settings; ports are where to begin looking, not settings of a run."""
    ports = ("HEADRACE_PREFECT_PORT", "HEADRACE_MLFLOW_PORT")
    chosen = {
        name: value
        for name, value in sorted(environment.items())
        if value and name not in ports and (name.startswith("HEADRACE_") or name == "PREFECT_API_URL")
    }
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()


def _deployed_digest(prefect: Service) -> str:
    """Digest of all that deploying depends on: the deployments, the flows, their parameters, and the very server."""
    total = hashlib.sha256(f"{PROJECT} {sys.executable} {prefect.pid} {prefect.created} {prefect.birth}".encode())
    sources = [file for name in ("flows", "models") for file in sorted((PROJECT / name).rglob("*.py"))]
    for file in (PROJECT / "prefect.yaml", *sources):
        content = file.read_bytes()
        total.update(f"{file.relative_to(PROJECT)} {len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def _wait_until_healthy(name: str, service: Service, path: str) -> bool:
    """Wait for a server; False when it ended because another program has its port."""
    log = folder() / f"{name}.log"
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while time.monotonic() < deadline:
        if not service.alive():
            if not _is_free(service.port):
                return False
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise StackError(f"{name} ended while starting; {log} ends:\n{tail}")
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            _loopback.open(service.url + path, timeout=5) as reply,
        ):
            if reply.status == 200 and _listens(service):
                return True
        time.sleep(0.25)
    raise StackError(f"{name} was not healthy at {service.url}{path} within {HEALTHY_WITHIN_S} s; see {log}.")


def _listens(service: Service) -> bool:
    """Whether it is this service, or a child of it, that listens on its port, and not a stranger."""
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(service.pid)
        for process in (leader, *leader.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                for one in process.net_connections(kind="tcp"):
                    if one.status == psutil.CONN_LISTEN and one.laddr.port == service.port:
                        return True
    return False


def _post(prefect: Service, path: str, body: dict[str, Any]) -> Any:
    address = f"{prefect.url}/api{path}"
    request = urllib.request.Request(  # noqa: S310 - our own loopback address
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with _loopback.open(request, timeout=60) as reply:
            return json.loads(reply.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        words = error.read().decode(errors="replace")[:500] if isinstance(error, urllib.error.HTTPError) else ""
        raise StackError(f"Prefect refused {address}: {error} {words}; see {folder() / 'prefect.log'}.") from error


def _create_pool(services: Services) -> None:
    command = [sys.executable, "-m", "prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite"]
    done = subprocess.run(command, env=environment(services), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"cannot create the work pool {POOL}:\n{done.stdout}{done.stderr}")


def _free_port(first: int, previous: int = 0) -> int:
    """The port it had, so that links and open shells stay right, or else the first that is free."""
    last = first + 199
    if previous and _is_free(previous):
        return previous
    for port in range(first, last + 1):
        if _is_free(port):
            return port
    raise StackError(f"no free port between {first} and {last}; set HEADRACE_PREFECT_PORT or HEADRACE_MLFLOW_PORT.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


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
