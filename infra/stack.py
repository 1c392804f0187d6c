"""The local stack: a Prefect server, an MLflow server and a worker on loopback, all state under `HEADRACE_HOME`.

Bringing it up twice is bringing it up once; taking it down stops exactly the processes that were started here.
What a killed service leaves behind is found by its session and by a mark in its environment, and ended too.

Settings alone lead further: to Postgres, Redis and an object store behind the same servers, to servers that run
elsewhere already, and to addresses that other machines reach, which no server takes without a password. Passwords
travel in environments, never in command lines or in the record.

    StackError
     +-- a service did not become healthy, a port range is full, a deployment does not exist, the worker died
     +-- a server would be open to everyone, has a weak password, or refuses ours
     +-- a setting needs a package that is not installed, or is no address of its kind
"""

import contextlib
import fcntl
import hashlib
import http.client
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, TypeAdapter
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from infra import access
from infra.automations import give_grace
from infra.settings import PROJECT, settings

POOL = "headrace"
HOST = "127.0.0.1"
SERVERS = {"prefect": "/api/health", "mlflow": "/health"}
"""The services that answer, in the order in which they start, and where each says that it is healthy."""

KEEPER = "keeper"
"""The process that starts again what dies; see `infra.keeper`."""

HEALTHY_WITHIN_S = 240
FOREIGN_WITHIN_S = 20
PORT_ATTEMPTS = 5
BUSY_ATTEMPTS = 6
"""How often Prefect is asked that says 503: its SQLite has one writer, and somebody else was it."""

RESULTS_BLOCK = "headrace-results"
"""Prefect's name for the place of results that several machines share."""

SERVERS_ONLY = (
    *("HEADRACE_PREFECT_DATABASE", "HEADRACE_MLFLOW_DATABASE", "HEADRACE_REDIS_URL", "HEADRACE_SECRETS"),
    *("HEADRACE_PREFECT_AUTH", "HEADRACE_MLFLOW_USER", "HEADRACE_MLFLOW_PASSWORD"),
    *("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "PREFECT_SERVER_API_AUTH_STRING"),
)
"""What no flow run inherits: it calls the servers with PREFECT_API_AUTH_STRING and MLFLOW_TRACKING_PASSWORD."""

MARK = "HEADRACE_SERVICE"
"""Variable that everything a service starts inherits: a flow run has a session of its own and outlives its worker."""

STACK_TRACKING_URI = "HEADRACE_STACK_TRACKING_URI"
"""The address that the stack chose, so that once exported to a shell it is not mistaken for a person's wish."""

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback


class StackError(RuntimeError):
    """The stack cannot do what was asked; the message says which part, why, and where its log is."""


class Service(BaseModel):
    """A process that the stack started.

    Attributes:
        pid: its number, which is also that of its session.
        created: when it started, by the clock of that moment.
        birth: when it started, as the kernel counts; a number used again has another one. "" where it does not tell.
        port: where it listens; 0 for the worker.
        digest: of the settings it was started with; "" for a server that needed none.
        address: how it is called; "" for the worker.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    birth: str = ""
    port: int = 0
    digest: str = ""
    address: str = ""

    @property
    def url(self) -> str:
        """Its address."""
        return self.address or f"http://{HOST}:{self.port}"

    @property
    def foreign(self) -> bool:
        """Whether somebody else started it, and is to stop it."""
        return not self.pid

    def alive(self) -> bool:
        """Whether this very process still runs; of a foreign server its health tells."""
        if self.foreign:
            return True
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
    is left alone as long as its servers are where they were. So is a server with other settings. Servers that settings
    name as running elsewhere are called, not started.

    Args:
        say: told in a sentence when a worker or a server keeps its old settings.

    Returns:
        The services by name: prefect, mlflow, worker, keeper.

    Raises:
        StackError: a service did not become healthy, its log is named; or it may not start as it is configured.
    """
    folder().mkdir(parents=True, exist_ok=True)
    elsewhere = _elsewhere()
    _refuse_what_cannot_be(elsewhere)
    with _lock():
        record = _known_or_nothing()
        before = dict(record)
        for name in SERVERS:
            _change_hands(name, record, elsewhere)
        started = [name for name in SERVERS if name not in record or not record[name].alive()]
        started += _with_old_settings([name for name in SERVERS if name not in started], record, say)
        for name in started:
            _start_server(name, record)
        for name in SERVERS:
            _settle(name, record)
            _knock(name, record[name])
        moved = [name for name in started if name not in before or before[name].url != record[name].url]
        digest = _settings_digest(environment(record))
        if not _worker_stays(record.get("worker"), digest, started, moved, say):
            _start_worker(record, digest)
        _start_keeper(record, digest)
    return record


def down() -> list[str]:
    """Stop what `up` started and what is left of it; returns the names of what was stopped."""
    folder().mkdir(parents=True, exist_ok=True)
    with _lock():
        record = _known_or_nothing()
        stopped = []
        for name in (KEEPER, "worker", *reversed(SERVERS)):  # the keeper first: it would start the others again
            if name == "prefect" and name in record and record[name].alive():
                # A server that does not answer must not keep anyone from stopping it; the next worker does this again.
                with contextlib.suppress(StackError):
                    if _alone(record[name]):
                        crash_dead_runs(record[name], "The stack was taken down while this run was under way.")
            if _end(name, record.get(name)):
                stopped.append(name)
        _remember({})
    return stopped


def foreground(name: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of one service, for whoever keeps processes alive himself, as a container does.

    Before a worker is returned its pool, the shared results and the deployments are there. A keeper here starts
    nothing again; it closes what dead runs left open and delivers what waits for MLflow.

    Args:
        name: prefect, or its halves prefect-api and prefect-services; mlflow; worker; keeper.

    Returns:
        What to execute, and with what. There are passwords in the environment, none in the command.

    Raises:
        StackError: the service may not start as it is configured, or a worker's servers do not answer.
    """
    elsewhere = _elsewhere()
    server = name.partition("-")[0]
    if server in SERVERS:
        _refuse_what_cannot_be(elsewhere | {other: "" for other in SERVERS if other != server})
        folder().mkdir(parents=True, exist_ok=True)
        if name in ("prefect", "prefect-services"):  # what counts the silence of runs
            _give_grace()
        port = settings().prefect_port if server == "prefect" else settings().mlflow_port
        address = f"http://{_bracketed(settings().address)}:{port}"
        commands = {
            "prefect-api": [*_commands("prefect", port), "--no-services"],
            "prefect-services": [sys.executable, "-m", "prefect", "server", "services", "start"],
        }
        return commands.get(name) or _commands(server, port), environment({}) | _server_environment(server, address)
    if missing := [one for one in SERVERS if one not in elsewhere]:
        variables = {"prefect": "HEADRACE_PREFECT_API_URL", "mlflow": "HEADRACE_TRACKING_URI"}
        raise StackError(
            f"a {name} alone needs {' and '.join(variables[one] for one in missing)}; set what is missing."
        )
    _refuse_what_cannot_be(elsewhere)
    folder().mkdir(parents=True, exist_ok=True)
    record = elsewhere_services()
    for one, service in record.items():
        _wait_for_foreign(one, service)
        _knock(one, service)
    if name == KEEPER:
        return [*_commands(KEEPER, 0), "--only-tidy"], environment(record)
    _create_pool(record)
    if settings().results_location:
        _share_results(record)
    deploy(record, always=True)
    return [*_commands("worker", 0), "--with-healthcheck"], environment(record)


def known() -> Services:
    """The services that were started and not yet stopped, alive or not.

    Raises:
        StackError: the record is damaged.
    """
    file = folder() / "stack.json"
    if not file.exists():
        return {}
    try:
        return TypeAdapter(Services).validate_json(file.read_text())
    except ValueError as error:
        raise StackError(f"{file} cannot be read ({type(error).__name__}); headrace down needs none.") from error


def _known_or_nothing() -> Services:
    """The same; nothing when the record is damaged: processes are found by their marks too."""
    try:
        return known()
    except StackError:
        return {}


def environment(services: Services) -> dict[str, str]:
    """Environment of everything that talks to the stack: servers, worker, flow runs, command line.

    A `HEADRACE_TRACKING_URI` that a person set stays; the stack's own server is for whoever set none. What only the
    servers need to know, their databases above all, is left out.
    """
    home = settings().home.resolve()
    values = {
        **{name: value for name, value in os.environ.items() if name not in SERVERS_ONLY},
        "HEADRACE_HOME": str(home),
        "HEADRACE_PROJECT": str(PROJECT),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "headrace",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_CLIENT_MAX_RETRIES": "8",  # 2 + 4 + ... + 256 s: a server may be away for minutes in mid-run
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
        ours = dict.fromkeys((HOST, "localhost", settings().address))
        values[name] = ",".join([*hosts, *(host for host in ours if host not in hosts)])
    values.pop(MARK, None)
    if settings().results_location:
        values["PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"] = f"remote-file-system/{RESULTS_BLOCK}"
    credentials = {
        "PREFECT_API_AUTH_STRING": settings().prefect_auth.get_secret_value(),
        "MLFLOW_TRACKING_USERNAME": settings().mlflow_user,
        "MLFLOW_TRACKING_PASSWORD": settings().mlflow_password.get_secret_value(),
    }
    values |= {name: value for name, value in credentials.items() if value}
    if "mlflow" in services:
        own, wished = services["mlflow"].url, os.environ.get("HEADRACE_TRACKING_URI", "")
        chosen = own if wished in ("", os.environ.get(STACK_TRACKING_URI)) else wished
        values |= {"HEADRACE_TRACKING_URI": chosen, "MLFLOW_TRACKING_URI": chosen, STACK_TRACKING_URI: own}
    return values


def deploy(services: Services, *, always: bool = False) -> None:
    """Create or update every deployment of `prefect.yaml`, and the automations.

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
    for words in (["prefect", "--no-prompt", "deploy", "--all"], ["infra.automations"]):
        command = [sys.executable, "-m", *words]
        done = subprocess.run(
            command, cwd=PROJECT, env=environment(services), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StackError(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
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
        found = [run["id"] for run in call(prefect, "/flow_runs/filter", query) if run["id"] not in ended]
        if not found:
            wanted.pop()
        for flow_run in found:
            call(prefect, f"/flow_runs/{flow_run}/set_state", {"state": state, "force": True})
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
            return [*python, "infra.prefect_server", "start", "--host", settings().host, "--port", str(port)]
        case "mlflow":
            (home / "mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
            destination = settings().mlflow_artifacts or str(home / "mlflow" / "artifacts")
            return [  # where the runs are kept is said in the environment: it may contain a password
                *python,
                *("mlflow", "server", "--host", settings().host, "--port", str(port), "--workers", "1"),
                *("--artifacts-destination", destination, "--serve-artifacts"),
                *(("--app-name", "basic-auth") if settings().mlflow_user else ()),
            ]
        case "keeper":
            return [*python, "infra.keeper"]
        case _:
            worker = ("worker", "start", "--pool", POOL, "--type", "process", "--limit", "2", "--name", _worker_name())
            return [*python, "prefect", *worker]


def _worker_name() -> str:
    """One for each installation, so that a worker that was started again is not taken for a second one."""
    return f"{socket.gethostname()} {hashlib.sha256(str(folder()).encode()).hexdigest()[:6]}"


def _server_environment(name: str, url: str) -> dict[str, str]:
    """What a server is told besides `environment`: where its state is, and whom it lets in."""
    now = settings()
    if name == "mlflow":
        database = _database("HEADRACE_MLFLOW_DATABASE", now.mlflow_database.get_secret_value(), "psycopg")
        home = now.home.resolve()
        uri = database.render_as_string(hide_password=False) if database else f"sqlite:///{home / 'mlflow/mlflow.db'}"
        values = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
        if now.exposed:  # a page that a stranger's name server points here is not answered
            host = url.partition("://")[2]
            own = {"MLFLOW_SERVER_ALLOWED_HOSTS": f"{host},localhost:*,{HOST}:*"}
            values |= {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": url, **own}
            values |= {key: os.environ[key] for key in values if os.environ.get(key)}
        if now.mlflow_user:
            users = _without_password(database) if database else f"sqlite:///{home / 'mlflow' / 'users.db'}"
            file = folder() / "mlflow_users.ini"
            file.write_text(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {str(users).replace('%', '%%')}\n")
            values |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(file),
                "MLFLOW_AUTH_ADMIN_USERNAME": now.mlflow_user,
                "MLFLOW_AUTH_ADMIN_PASSWORD": now.mlflow_password.get_secret_value(),
                # signs the forms of one server; kept nowhere, made anew when it starts
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
            }
            if database and database.password:  # libpq takes it from here, and the file has none
                values["PGPASSWORD"] = str(database.password)
        return values
    values = {"PREFECT_API_URL": f"{url}/api", "PREFECT_UI_API_URL": f"{url}/api", "PREFECT_UI_URL": url}
    database = _database("HEADRACE_PREFECT_DATABASE", now.prefect_database.get_secret_value(), "asyncpg")
    # SQLite has one writer: whoever comes second on a busy machine waits instead of failing.
    values |= {"PREFECT_SERVER_DATABASE_TIMEOUT": "60", "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60"}
    # A run ends itself when the server no longer knows its lease of a slot; in memory that is after every restart, and
    # the 75 s that are left of Prefect's five minutes when a lease is renewed are too short for an outage.
    values |= {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "1200",
    }
    if database:
        values["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database.render_as_string(hide_password=False)
    if auth := now.prefect_auth.get_secret_value():
        values["PREFECT_SERVER_API_AUTH_STRING"] = auth
    if redis := now.redis_url.get_secret_value():
        values |= {
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
            "PREFECT_SERVER_DOCKET_URL": redis,
            "PREFECT_REDIS_MESSAGING_URL": redis,
            "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": redis,
        }
    return values


def _database(variable: str, url: str, driver: str) -> URL | None:
    """A Postgres address with the driver that its server wants; None when none is set.

    Raises:
        StackError: it is no Postgres address. It is not repeated, for it has a password in it.
    """
    if not url:
        return None
    wanted = f"{variable} must be postgresql://USER:PASSWORD@HOST:PORT/NAME, special characters of the password escaped"
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise StackError(f"{wanted}; what it has cannot be read.") from None
    if address.get_backend_name() not in ("postgresql", "postgres") or not address.database or not address.host:
        raise StackError(f"{wanted}; it has the scheme {address.drivername!r}, or no host or no name.")
    return address.set(drivername=f"postgresql+{driver}")


def _without_password(address: URL) -> str:
    plain = URL.create(address.drivername, address.username, None, address.host, address.port, address.database)
    return plain.update_query_dict(dict(address.query)).render_as_string()


def _elsewhere() -> dict[str, str]:
    """Servers that settings name as running already, and their addresses."""
    wished = settings().tracking_uri
    mlflow = wished if wished.startswith(("http://", "https://")) else ""
    found = {
        "prefect": settings().prefect_api_url.rstrip("/").removesuffix("/api"),
        "mlflow": "" if wished == os.environ.get(STACK_TRACKING_URI) else mlflow.rstrip("/"),
    }
    return {name: address for name, address in found.items() if address}


def elsewhere_services() -> Services:
    """The servers that settings name as running already, as services that somebody else started."""
    return {name: _foreign(address) for name, address in _elsewhere().items()}


def _foreign(address: str) -> Service:
    return Service(pid=0, created=0, address=address)


def _refuse_what_cannot_be(elsewhere: dict[str, str]) -> None:
    """Look at the settings before anything starts.

    Raises:
        StackError: a server would be open, or a setting cannot be followed; says all that is to be mended.
    """
    now = settings()
    found = access.objections(now, prefect="prefect" not in elsewhere, mlflow="mlflow" not in elsewhere)
    packages = {
        "HEADRACE_REDIS_URL": ("prefect_redis", bool(now.redis_url.get_secret_value()) and "prefect" not in elsewhere),
        "HEADRACE_MLFLOW_DATABASE": ("psycopg", bool(now.mlflow_database.get_secret_value())),
        "HEADRACE_MLFLOW_USER": ("flask_wtf", bool(now.mlflow_user) and "mlflow" not in elsewhere),
        "HEADRACE_MLFLOW_ARTIFACTS": ("boto3", now.mlflow_artifacts.startswith("s3://")),
        "HEADRACE_STORE": ("s3fs", now.store.startswith("s3://")),
    }
    for variable, (package, wanted) in packages.items():
        if wanted and importlib.util.find_spec(package) is None:
            found.append(
                f"{variable} needs the package {package}; install headrace with its extra: pip install -e '.[scale]'."
            )
    for variable, value in (
        ("HEADRACE_STORE", now.store),
        ("HEADRACE_MLFLOW_ARTIFACTS", now.mlflow_artifacts),
        ("HEADRACE_TRACKING_URI", now.tracking_uri),
        ("HEADRACE_PREFECT_API_URL", now.prefect_api_url),
    ):
        if given := access.credentials_in(value):
            found.append(
                f"{variable} has {given}, and addresses are logged; take it out and set AWS_*, "
                "HEADRACE_MLFLOW_PASSWORD or HEADRACE_PREFECT_AUTH."
            )
    if now.redis_url.get_secret_value().partition("://")[0].lower() not in ("", "redis", "rediss"):
        found.append("HEADRACE_REDIS_URL must be redis://USER:PASSWORD@HOST:PORT/NUMBER, or rediss:// for TLS.")
    for variable, url in (
        ("HEADRACE_PREFECT_DATABASE", now.prefect_database),
        ("HEADRACE_MLFLOW_DATABASE", now.mlflow_database),
    ):
        try:
            _database(variable, url.get_secret_value(), "any")
        except StackError as error:
            found.append(str(error))
    if found:
        raise StackError("nothing was started.\n" + "\n".join(f"- {sentence}" for sentence in found))


def _change_hands(name: str, record: Services, elsewhere: dict[str, str]) -> None:
    """Put a server that runs elsewhere into the record, or take it out; a process of ours gives way to it."""
    if name in elsewhere:
        if name in record and not record[name].foreign:
            _end(name, record[name])
        record[name] = _foreign(elsewhere[name])
    elif name in record and record[name].foreign:
        del record[name]


def _with_old_settings(names: list[str], record: Services, say: Callable[[str], None]) -> list[str]:
    """Servers of ours to be started again because they were told something else; none while a flow run is under way."""
    stale = [name for name in names if not record[name].foreign and record[name].digest != _server_digest(name)]
    worker = record.get("worker")
    if stale and worker and worker.alive() and _executes(worker):
        say(
            f"The worker executes a flow run, so {' and '.join(stale)} keep the settings they were started with; "
            "wait for its end and repeat the command, or make down, if the settings of now should hold."
        )
        return []
    return stale


def _server_digest(name: str) -> str:
    """Digest of what settings say of a server beyond its port; "" when they say nothing."""
    now = settings()
    host = "" if now.host == HOST else now.host
    said = {
        "prefect": (now.prefect_database, now.redis_url, now.prefect_auth),
        "mlflow": (now.mlflow_database, now.mlflow_user, now.mlflow_password, now.mlflow_artifacts),
    }[name]
    values = [value if isinstance(value, str) else value.get_secret_value() for value in said]
    values += [host, now.public_host]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest() if any(values) else ""


def _alone(prefect: Service) -> bool:
    """Whether no other machine's worker serves the pool: flow runs under way could be its own, and well."""
    found = call(prefect, f"/work_pools/{POOL}/workers/filter", {})
    return all(one["name"] == _worker_name() or one.get("status") != "ONLINE" for one in found)


def _knock(name: str, service: Service) -> None:
    """Make sure that a server takes our credentials.

    Raises:
        StackError: it does not; says which setting to mend.
    """
    if name == "prefect":
        path, credentials = "/api/admin/version", settings().prefect_auth.get_secret_value()
        remedy = "set HEADRACE_PREFECT_AUTH to what the server was started with"
    else:
        user, password = settings().mlflow_user, settings().mlflow_password.get_secret_value()
        path, credentials = "/api/2.0/mlflow/experiments/get?experiment_id=0", f"{user}:{password}" if user else ""
        remedy = (
            "set HEADRACE_MLFLOW_USER and HEADRACE_MLFLOW_PASSWORD to those of a user there; the administrator's "
            "password is the one of the server's first start until it is changed through MLflow"
        )
    request = urllib.request.Request(service.url + path, headers=access.basic(credentials))  # noqa: S310
    try:
        _opener(service).open(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise StackError(f"{name} at {service.url} refuses our credentials ({error.code}); {remedy}.") from None
    except (OSError, http.client.HTTPException) as error:
        raise StackError(f"{name} at {service.url} was healthy and then lost ({error}).") from error


def _opener(service: Service) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener() if service.foreign else _direct


def _start_server(name: str, record: Services) -> None:
    """Start a server where it was before, or else on the first free port, and remember it."""
    _end(name, record.get(name))
    if name == "prefect":
        _give_grace()
    first = settings().prefect_port if name == "prefect" else settings().mlflow_port
    port = _free_port(first, record[name].port if name in record else 0)
    others = {other: service for other, service in record.items() if other != name and service.alive()}
    record[name] = _start(name, _commands(name, port), environment(others), port, _server_digest(name))
    _remember(record)


def _give_grace() -> None:
    database = _database("HEADRACE_PREFECT_DATABASE", settings().prefect_database.get_secret_value(), "asyncpg")
    give_grace(database or settings().home.resolve() / "prefect" / "prefect.db")


def _settle(name: str, record: Services) -> None:
    """Wait until a server is healthy; start it elsewhere when someone else took its port first."""
    if record[name].foreign:
        _wait_for_foreign(name, record[name])
        return
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
    _create_pool(record)
    if _alone(record["prefect"]):
        crash_dead_runs(record["prefect"], "Its worker ended while this run was under way; run the deployment again.")
    if settings().results_location:
        _share_results(record)
    record["worker"] = _start("worker", _commands("worker", 0), environment(record), 0, digest)
    _remember(record)


def _start_keeper(record: Services, digest: str) -> None:
    """Start the keeper, unless one with these settings runs: the keeper itself calls `up`.

    What only the servers are told counts too: a keeper of older settings would lead them back to these.
    """
    digest = hashlib.sha256("".join([digest, *map(_server_digest, SERVERS)]).encode()).hexdigest()
    if KEEPER in record and record[KEEPER].alive() and record[KEEPER].digest == digest:
        return
    if KEEPER in record and record[KEEPER].pid == os.getpid():  # a server came back elsewhere: no reason to end itself
        os.environ.update(environment(record))
        settings.cache_clear()
        record[KEEPER] = record[KEEPER].model_copy(update={"digest": digest})
        _remember(record)
        return
    _end(KEEPER, record.pop(KEEPER, None))
    # it starts servers, so it must know what only they need to know
    record[KEEPER] = _start(KEEPER, _commands(KEEPER, 0), {**os.environ, **environment(record)}, 0, digest)
    _remember(record)


def _start(name: str, command: list[str], environment: dict[str, str], port: int, digest: str = "") -> Service:
    environment |= {MARK: _mark(name)}
    address = f"http://{_bracketed(settings().address)}:{port}" if name in SERVERS else ""
    if address:
        environment |= _server_environment(name, address)
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
    birth = _birth(process.pid)
    return Service(pid=process.pid, created=created, birth=birth, port=port, digest=digest, address=address)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _end(name: str, service: Service | None) -> bool:
    """End a service and what is left of it: ask, wait, insist. Returns whether there was anything to end."""
    service = None if service and service.foreign else service
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
            # what the keeper started again are services of their own
            children = [] if name == KEEPER else leader.children(recursive=True)
            found |= set() if reused else {leader, *children}
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
    prefixes = ("HEADRACE_", "AWS_", "PREFECT_API_", "PREFECT_RESULTS_", "MLFLOW_TRACKING_")
    chosen = {
        name: value
        for name, value in sorted(environment.items())
        if value and name not in ports and name.startswith(prefixes)
    }
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()


def _deployed_digest(prefect: Service) -> str:
    """Digest of all that deploying depends on: the deployments, the flows, their parameters, and the very server."""
    total = hashlib.sha256(f"{PROJECT} {sys.executable} {prefect.pid} {prefect.created} {prefect.birth}".encode())
    sources = [file for name in ("flows", "models") for file in sorted((PROJECT / name).rglob("*.py"))]
    for file in (PROJECT / "prefect.yaml", PROJECT / "infra" / "automations.py", *sources):
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
            _direct.open(service.url + path, timeout=5) as reply,
        ):
            if reply.status == 200 and _listens(service):
                return True
        time.sleep(0.25)
    raise StackError(f"{name} was not healthy at {service.url}{path} within {HEALTHY_WITHIN_S} s; see {log}.")


def _wait_for_foreign(name: str, service: Service) -> None:
    """Wait a moment for a server that somebody else runs."""
    address, reason = service.url + SERVERS[name], ""
    deadline = time.monotonic() + FOREIGN_WITHIN_S
    while time.monotonic() < deadline:
        try:
            with _opener(service).open(address, timeout=5):
                return
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = str(error)
        time.sleep(0.5)
    variable = "HEADRACE_PREFECT_API_URL" if name == "prefect" else "HEADRACE_TRACKING_URI"
    raise StackError(f"{name} does not answer at {address} ({reason}); start it there, or mend {variable}.")


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


def call(prefect: Service, path: str, body: dict[str, Any]) -> Any:
    """Post to the Prefect API.

    Args:
        prefect: the server.
        path: below `/api`.
        body: JSON.

    Returns:
        The answer.

    Raises:
        StackError: it did not answer, or refused; its words are in the message.
    """
    address = f"{prefect.url}/api{path}"
    headers = {"Content-Type": "application/json", **access.basic(settings().prefect_auth.get_secret_value())}
    attempt = 0
    while True:
        request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")  # noqa: S310
        attempt += 1
        try:
            with _opener(prefect).open(request, timeout=60) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE and attempt < BUSY_ATTEMPTS:
                time.sleep(attempt)
                continue
            words = error.read().decode(errors="replace")[:500]
            raise StackError(f"Prefect refused {address}: {error} {words}; see {folder() / 'prefect.log'}.") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise StackError(f"Prefect is lost at {address}: {error}; see {folder() / 'prefect.log'}.") from error


def _create_pool(services: Services) -> None:
    pools = call(services["prefect"], "/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}})
    if other := [pool["type"] for pool in pools if pool["type"] != "process"]:
        raise StackError(
            f"the pool {POOL} at {services['prefect'].url} is of type {other[0]}, and only a process can be started "
            "here; its own workers execute, and `prefect deploy --all` deploys."
        )
    command = [sys.executable, "-m", "prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite"]
    done = subprocess.run(command, env=environment(services), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"cannot create the work pool {POOL}:\n{done.stdout}{done.stderr}")


def _share_results(services: Services) -> None:
    """Tell Prefect where results are that every machine finds; how to get in there, each knows from its environment."""
    command = [sys.executable, "-m", "infra.results", RESULTS_BLOCK, settings().results_location]
    done = subprocess.run(command, cwd=PROJECT, env=environment(services), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"cannot share results at {settings().results_location}:\n{done.stdout}{done.stderr[-2000:]}")


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
    with socket.socket(socket.AF_INET6 if ":" in settings().host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings().host, port))
        except OSError:
            return False
    return True


def _remember(services: Services) -> None:
    file = folder() / "stack.json"
    partial = file.with_suffix(".partial")
    with partial.open("w") as handle:
        partial.chmod(0o600)  # digests of settings are in it, passwords among them
        handle.write(json.dumps({name: service.model_dump() for name, service in services.items()}))
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(file)


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    with (folder() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
