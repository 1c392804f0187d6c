"""The doctor: looks at everything, changes nothing, says what is wrong and what to do about it.

    headrace doctor                        live versions byte for byte, every manifest, servers, disks, settings, ...
    headrace doctor --deep                 every version byte for byte
    headrace doctor --backup TARGET        the age of the newest backup too

It works when everything is down, and then looks at what there is. No check stops another. Exits 0 when there is no
problem, 1 when there is one; warnings do not count.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import fsspec
import psutil
import typer
import yaml  # type: ignore[import-untyped, unused-ignore]
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from infra import access, backup, outbox, stack, terminal
from infra.automations import DEAD
from infra.keeper import SETTLED_S
from infra.manifest import FORMAT, Manifest
from infra.registry import KINDS, registered_name
from infra.retention import Key, lineage
from infra.settings import PROJECT, Settings, settings
from infra.stack import KEEPER, POOL, SERVERS, Service, Services, StackError
from infra.store import Current, IntegrityError, Store, StoreError
from infra.terminal import readable

Verdict = Literal["ok", "warning", "problem"]

ANSWER_S = 5
"""Seconds that a server has to answer."""

SILENT_S = 150
"""A run that began this long ago and has no process is dead: the automation would have said so by now."""

LITTLE = 10_000_000_000
"""Bytes left on a disk below which it is time to make room."""

LITTLE_SHARE = 0.05
"""The same as a share of the disk."""

NOTHING = 1_000_000_000
"""Bytes left below which the next training may fail."""

BACKUP_DAYS = 7
"""A newest backup older than this is worth a word."""

NAMED = 5
"""Of many things of one kind, how many are named."""

SHOWN = ("prefect", "mlflow", "torch", "lightning", "dask", "numpy")
"""Packages whose versions are told also when all is well."""

BEYOND_SETTINGS = ("HEADRACE_PROJECT", "HEADRACE_PARENT", stack.MARK, stack.STACK_TRACKING_URI)
"""Variables with our prefix that are no settings, and are set by ourselves."""

PROOF = {"prefect": "/api/admin/version", "mlflow": "/api/2.0/mlflow/experiments/get?experiment_id=0"}
"""A question of each server that only somebody with a password is answered, if it asks for one."""

_STOPS = "cannot be read, so nothing else was looked at"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Finding:
    """A row of the table.

    Attributes:
        check: what was looked at.
        verdict: ok, warning or problem.
        found: what was found, as a sentence.
        remedy: what to do about it; "" when there is nothing to do.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Entry:
    """A version of the store, as far as it can be read.

    Attributes:
        manifest: None when it cannot be read.
        format: of the manifest, as it is on disk.
        error: why it cannot be read.
    """

    manifest: Manifest | None
    format: int = FORMAT
    error: str = ""


class Patient:
    """What the checks look at, each part read once.

    Args:
        deep: whether every version is read byte for byte, not only what is live.
        target: folder of the backups; None when nobody asks.
    """

    def __init__(self, *, deep: bool = False, target: Path | None = None) -> None:
        self.deep = deep
        self.target = target

    @cached_property
    def home(self) -> Path:
        """HEADRACE_HOME."""
        return settings().home.resolve()

    @cached_property
    def recorded(self) -> Services:
        """What the stack started and did not stop.

        Raises:
            StackError: the record cannot be read.
        """
        try:
            return stack.known()
        except OSError as error:
            raise StackError(f"{stack.folder() / 'stack.json'} cannot be read ({type(error).__name__})") from error

    @cached_property
    def services(self) -> Services:
        """The same, and the servers that settings name as running elsewhere."""
        elsewhere = {name: Service(pid=0, created=0, address=url) for name, url in stack._elsewhere().items()}
        with contextlib.suppress(StackError):  # the check of the servers says so
            return self.recorded | elsewhere
        return elsewhere

    @cached_property
    def silence(self) -> dict[str, str]:
        """Why each server does not answer; "" for one that does."""
        return {name: _silence(name, self.services[name]) for name in SERVERS if name in self.services}

    def server(self, name: str) -> Service | None:
        """A server that answers, or None."""
        return self.services[name] if self.silence.get(name) == "" else None

    @cached_property
    def store(self) -> Store:
        """The store, looked at and not touched."""
        return Store(settings().store_location, touch=False)

    @cached_property
    def products(self) -> list[tuple[str, str]]:
        """Kinds and names."""
        return [(kind, name) for kind in self.store.kinds() for name in self.store.products(kind)]

    @cached_property
    def live(self) -> dict[tuple[str, str], Current | str]:
        """What is live of each product; a sentence where the pointer cannot be read."""
        found: dict[tuple[str, str], Current | str] = {}
        for kind, name in self.products:
            try:
                if current := self.store.current_or_none(kind, name):
                    found[kind, name] = current
            except StoreError as error:
                found[kind, name] = str(error)
        return found

    @cached_property
    def versions(self) -> dict[Key, Entry]:
        """Every version, and folders that should be one."""
        found: dict[Key, Entry] = {}
        for kind, name in self.products:
            with contextlib.suppress(StoreError):  # a folder that is no product; `live` says so
                for key in ((kind, name, version) for version in self.store.known(kind, name)):
                    try:
                        found[key] = Entry(self.store.manifest(*key), self.store.format_of(*key))
                    except StoreError as error:
                        found[key] = Entry(None, error=str(error))
        return found


Check = Callable[[Patient], Iterator[Finding]]


def examine(
    *, deep: bool = False, target: Path | None = None, tell: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """Look at everything, and change nothing.

    Args:
        deep: read every version byte for byte, not only what is live.
        target: folder of the backups; None leaves them out.
        tell: told what is looked at.

    Returns:
        What was found, in the order of the checks.
    """
    patient, found = Patient(deep=deep, target=target), list[Finding]()
    for name, look in CHECKS.items():
        tell(name)
        try:
            for finding in look(patient):
                found.append(finding)  # one by one: what was found before an error counts
        except Exception as error:  # one check must not stop the others
            sentence = " ".join(str(error).split())[:300]
            remedy = "Mend what it names; if that does not help, report it with this line."
            found.append(
                Finding(name, "problem", f"could not be looked at: {type(error).__name__}: {sentence}", remedy)
            )
        if name == "settings" and any(one.check == name and _STOPS in one.found for one in found):
            break
    return found


# --------------------------------------------------------------------------------------------- versions and settings


def _versions(_: Patient) -> Iterator[Finding]:
    """What is installed against what this headrace needs, and against what it was tested with."""
    own = importlib.metadata.metadata("headrace")
    python = ".".join(map(str, sys.version_info[:3]))
    if own["Requires-Python"] and python not in SpecifierSet(own["Requires-Python"]):
        yield Finding(
            "versions",
            "problem",
            f"Python {python} runs, {own['Requires-Python']} is needed",
            "Install such a Python, then: make setup PYTHON=python3.11",
        )
    broken = set()
    for needed in [Requirement(line) for line in importlib.metadata.requires("headrace") or []]:
        installed, range_ = _installed(needed.name), str(needed.specifier)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        if installed is None or not needed.specifier.contains(installed, prereleases=True):
            broken.add(canonicalize_name(needed.name))
            found = f"{needed.name} {installed} is installed" if installed else f"{needed.name} is not installed"
            remedy = f".venv/bin/python -m pip install --constraint constraints.txt '{needed.name}{range_}'"
            yield Finding("versions", "problem", f"{found}, {range_ or 'any version'} is needed", remedy)
    tested = _tested()
    others = {
        name: installed
        for name, version in tested.items()
        if (installed := _installed(name)) and Version(installed).public != version and name not in broken
    }
    if others:
        named = [f"{name} {installed} instead of {tested[name]}" for name, installed in others.items()]
        yield Finding(
            "versions",
            "warning",
            f"not what constraints.txt was tested with: {_some(named)}",
            f".venv/bin/python -m pip install {' '.join(f'{name}=={tested[name]}' for name in list(others)[:NAMED])}",
        )
    if not broken and not others:
        shown = ", ".join(f"{name} {_installed(name)}" for name in SHOWN)
        yield Finding("versions", "ok", f"Python {python}, {shown}; all as in constraints.txt")


def _installed(package: str) -> str | None:
    """Version of a package; None when it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _tested() -> dict[str, str]:
    """Versions of constraints.txt."""
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("#")[0].strip().partition("==") for line in lines]
    return {canonicalize_name(name): version for name, equal, version in pairs if equal}


def _settings(_: Patient) -> Iterator[Finding]:
    """Whether the settings can be read, and name what is there."""
    try:
        now = settings()
    except ValidationError as error:
        for wrong in error.errors(include_input=False):
            name = f"HEADRACE_{'_'.join(map(str, wrong['loc'])).upper()}".replace("HEADRACE_HEADRACE", "HEADRACE")
            yield Finding("settings", "problem", f"{name} {_STOPS}: {wrong['msg']}", f"Mend {name}, or unset it.")
        return
    except ValueError as error:
        yield Finding("settings", "problem", f"a setting {_STOPS}: {error}", "Do what it says.")
        return
    found = list(_wrong_settings(now))
    yield from found
    if not found:
        named = [name for name in sorted(os.environ) if name.startswith("HEADRACE_") and os.environ[name]]
        yield Finding("settings", "ok", f"set are {', '.join(named)}" if named else "none is set; all have defaults")


def _wrong_settings(now: Settings) -> Iterator[Finding]:
    from infra.catalogue import data_roots

    try:
        stack._refuse_what_cannot_be(stack._elsewhere())
    except StackError as error:
        for sentence in str(error).splitlines()[1:]:
            said, _, remedy = sentence.removeprefix("- ").partition("; ")
            yield Finding("settings", "problem", said, _capital(remedy) or "Mend it; nothing starts before.")
    if now.data_roots:
        for root in data_roots():
            if "://" not in root and not Path(root).is_dir():
                yield Finding(
                    "settings",
                    "problem",
                    f"HEADRACE_DATA_ROOTS names {root}, and there is no such folder",
                    "Make or mount it, or take it out; then make up, so that the worker knows.",
                )
    if now.mirror and not Path(now.mirror).is_dir():
        remedy = "Make or mount it, or unset HEADRACE_MIRROR."
        yield Finding("settings", "problem", f"HEADRACE_MIRROR names {now.mirror}, which is no folder", remedy)
    known = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields} | set(BEYOND_SETTINGS)
    for name in sorted(os.environ):
        if name.startswith("HEADRACE_") and name not in known and not name.startswith("HEADRACE_TEST_"):
            yield Finding("settings", "warning", f"{name} is set, and nobody reads it", "Look for a slip of the pen.")
    if now.secrets:
        for file in sorted(path for path in Path(now.secrets).iterdir() if path.is_file()):
            if file.stat().st_mode & 0o077 and os.access(file, os.W_OK):
                remedy = f"chmod 600 {file}"
                yield Finding("settings", "warning", f"the secret {file} can be read by other users", remedy)
            if file.name.upper() not in known and file.name.lower().startswith("headrace_"):
                remedy = "Name it like the variable, in lower case."
                yield Finding("settings", "warning", f"the secret {file} has the name of no setting", remedy)


# ------------------------------------------------------------------------------------------------------------ servers


def _ports(patient: Patient) -> Iterator[Finding]:
    """Who holds the usual ports, if it is not us."""
    for name in SERVERS:
        first = settings().prefect_port if name == "prefect" else settings().mlflow_port
        service = patient.services.get(name)
        alive = service is not None and service.alive()
        if service and service.foreign:
            yield Finding("ports", "ok", f"{name} runs elsewhere, at {service.url}")
            continue
        if service and alive and service.port == first and stack._listens(service):
            yield Finding("ports", "ok", f"{first} is held by our {name}")
            continue
        if stack._is_free(first):
            yield Finding("ports", "ok", f"{first} is free" + (f", our {name} is at {service.port}" if service else ""))
            continue
        holder, orphans = _holder(first), set[int]()
        if not alive:
            orphans = {one.pid for one in stack._family(name, service)}
        if holder in orphans:
            left = ", ".join(map(str, sorted(orphans)))
            found = f"{first} is held by what is left of our {name}: process {left}"
            yield Finding("ports", "warning", found, "make up ends it; so does headrace down.")
            continue
        now = f"our {name} is at {service.port}" if service and alive else "make up takes the next free one"
        yield Finding(
            "ports",
            "warning",
            f"{first}, where {name} would be, is held by {_described(holder)}",
            f"Nothing need be done: {now}. Or end that program, or set HEADRACE_{name.upper()}_PORT.",
        )


def _holder(port: int) -> int:
    """Number of the process that listens on a port of this machine; 0 when the system does not tell."""
    with contextlib.suppress(psutil.AccessDenied):  # macOS tells root alone
        for one in psutil.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return int(one.pid)
    return 0


def _described(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if pid:
            return f"{process.name()} (process {pid} of {process.username()})"
    return "a program of another user"


def _servers(patient: Patient) -> Iterator[Finding]:
    """Whether both servers are there, are ours, take our password, and are of the version that speaks to them."""
    try:
        _ = patient.recorded
    except StackError as error:
        remedy = f"headrace down finds the processes without it; remove {stack.folder() / 'stack.json'}, then make up."
        yield Finding("servers", "problem", str(error), remedy)
    for name in SERVERS:
        yield _server(name, patient)


def _server(name: str, patient: Patient) -> Finding:
    service, log = patient.services.get(name), stack.folder() / f"{name}.log"
    if service is None:
        if left := stack._family(name, None):
            pids = ", ".join(str(process.pid) for process in left)
            found = f"{name} is not recorded, and processes of it are left: {pids}"
            return Finding("servers", "problem", found, "headrace down ends them.")
        return Finding("servers", "warning", f"{name} is not started", "make up")
    if not service.alive():
        found = f"{name} died: process {service.pid} is gone"
        return Finding("servers", "problem", found, f"make up starts it again where it was; {log} says why it ended.")
    if reason := patient.silence[name]:
        variable = "HEADRACE_PREFECT_API_URL" if name == "prefect" else "HEADRACE_TRACKING_URI"
        remedy = (
            f"Start it there, or mend {variable}." if service.foreign else f"See {log}; headrace down, then make up."
        )
        return Finding("servers", "problem", f"{name} does not answer at {service.url}: {reason}", remedy)
    if not service.foreign and not stack._listens(service):
        found = f"{service.url} is answered by another program, not by our {name}"
        return Finding("servers", "problem", found, "headrace down, then make up: it takes another port.")
    if refusal := _refusal(name, service):
        variables = (
            "HEADRACE_PREFECT_AUTH" if name == "prefect" else "HEADRACE_MLFLOW_USER and HEADRACE_MLFLOW_PASSWORD"
        )
        found = f"{name} at {service.url} refuses our credentials ({refusal})"
        return Finding("servers", "problem", found, f"Set {variables} to what the server was started with.")
    whose = "elsewhere" if service.foreign else f"process {service.pid}"
    return _compared(name, service, whose)


def _compared(name: str, service: Service, whose: str) -> Finding:
    """The version of a server beside that of its client here."""
    path = PROOF["prefect"] if name == "prefect" else "/version"
    server, client = _get(name, service, path).decode().strip().strip('"'), _installed(name)
    if server == client:
        return Finding("servers", "ok", f"{name} {server} at {service.url}, {whose}")
    far = server.split(".")[:2] != str(client).split(".")[:2]
    remedy = (
        f"Install {name} {server} here, or {client} there; the server first."
        if service.foreign
        else "headrace down, then make up: the server was started before the upgrade."
    )
    found = f"{name} at {service.url} is {server}, and {client} is installed here"
    return Finding("servers", "problem" if far else "warning", found, remedy)


def _silence(name: str, service: Service) -> str:
    """Why a server does not answer; "" when it does."""
    try:
        _get(name, service, SERVERS[name])
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", "") or error) or type(error).__name__
    return ""


def _refusal(name: str, service: Service) -> str:
    """How a server refuses our credentials; "" when it does not."""
    try:
        _get(name, service, PROOF[name])
    except urllib.error.HTTPError as error:
        return str(error.code) if error.code in (401, 403) else ""
    return ""


def _get(name: str, service: Service, path: str) -> bytes:
    """Ask a server.

    Raises:
        OSError: it did not answer in time, or refused.
    """
    now = settings()
    user = f"{now.mlflow_user}:{now.mlflow_password.get_secret_value()}" if now.mlflow_user else ""
    credentials = now.prefect_auth.get_secret_value() if name == "prefect" else user
    request = urllib.request.Request(service.url + path, headers=access.basic(credentials))  # noqa: S310
    with stack._opener(service).open(request, timeout=ANSWER_S) as reply:
        return bytes(reply.read())


def _worker(patient: Patient) -> Iterator[Finding]:
    """Whether somebody executes flow runs."""
    worker, prefect, log = patient.services.get("worker"), patient.server("prefect"), stack.folder() / "worker.log"
    if worker and not worker.alive():
        remedy = f"The keeper starts it again within seconds; make up if it does not. {log} says why it ended."
        yield Finding("worker", "problem", f"the worker died: process {worker.pid} is gone", remedy)
    if prefect is None:
        if not worker:
            yield Finding("worker", "warning", "not started", "make up")
        elif worker.alive():
            yield Finding("worker", "ok", f"process {worker.pid}; Prefect cannot be asked about it")
        return
    found = stack.call(prefect, f"/work_pools/{POOL}/workers/filter", {})
    online = [str(one["name"]) for one in found if one.get("status") == "ONLINE"]
    if worker and worker.alive():
        if stack._worker_name() in online:
            yield Finding("worker", "ok", f"process {worker.pid}, online; {len(online)} worker(s) of the pool {POOL}")
        else:
            found_ = f"process {worker.pid} runs, and Prefect has not heard of it for a while"
            yield Finding("worker", "problem", found_, f"See {log}; headrace down, then make up.")
    elif not worker and online:
        yield Finding("worker", "ok", f"{len(online)} worker(s) of the pool {POOL} on other machines: {_some(online)}")
    elif not worker:
        yield Finding("worker", "problem", f"no worker of the pool {POOL} is online: nothing is executed", "make up")
    pool = json.loads(_get("prefect", prefect, f"/api/work_pools/{POOL}"))
    if pool.get("is_paused"):
        remedy = "Resume it in the UI under Work Pools."
        yield Finding("worker", "warning", f"the pool {POOL} is paused: no run begins", remedy)


def _keeper(patient: Patient) -> Iterator[Finding]:
    """Whether somebody starts again what dies."""
    keeper = patient.services.get(KEEPER)
    ours = [name for name, service in patient.services.items() if not service.foreign]
    if keeper and keeper.alive():
        yield Finding("keeper", "ok", f"process {keeper.pid}")
    elif ours:
        found = f"the keeper died: process {keeper.pid} is gone" if keeper else "there is none"
        yield Finding("keeper", "problem", f"{found}; what dies is not started again", "make up")
    elif not patient.services:
        yield Finding("keeper", "warning", "not started", "make up")


# ------------------------------------------------------------------------------------------------------------ Prefect


def _automations(patient: Patient) -> Iterator[Finding]:
    """Whether the automations are on the server, and on."""
    if (prefect := patient.server("prefect")) is None:
        yield _not_asked("automations", "Prefect")
        return
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    wanted = [DEAD, *(trigger["name"] for one in deployments for trigger in one.get("triggers", ()))]
    found = stack.call(prefect, "/automations/filter", {"automations": {"name": {"any_": wanted}}})
    there = {one["name"]: one["enabled"] for one in found}
    missing = [name for name in wanted if name not in there]
    if missing:
        yield Finding("automations", "problem", f"missing: {_some(missing)}", "headrace up makes them anew.")
    off = [name for name in wanted if there.get(name) is False]
    if off:
        remedy = "Switch them on in the UI under Automations, if that was not meant."
        yield Finding("automations", "warning", f"switched off: {_some(off)}", remedy)
    if not missing and not off:
        yield Finding("automations", "ok", f"{len(wanted)} present and enabled, among them '{DEAD}'")


def _deployments(patient: Patient) -> Iterator[Finding]:
    """Whether what prefect.yaml says is on the server."""
    if (prefect := patient.server("prefect")) is None:
        yield _not_asked("deployments", "Prefect")
        return
    wanted = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    found: set[tuple[str, str]] = set()
    while page := stack.call(prefect, "/deployments/filter", {"limit": 200, "offset": len(found)}):
        before = len(found)
        found |= {(str(one["entrypoint"]), str(one["name"])) for one in page}
        if len(page) < 200 or len(found) == before:
            break
    missing = [f"{one['entrypoint']} {one['name']}" for one in wanted if (one["entrypoint"], one["name"]) not in found]
    if missing:
        yield Finding("deployments", "problem", f"missing: {_some(missing)}", "headrace up")
        return
    done, service = stack.folder() / "deployed", patient.services["prefect"]
    if not service.foreign and done.exists() and done.read_text() != stack._deployed_digest(service):
        found_ = "flows, models or prefect.yaml changed since they were deployed"
        yield Finding("deployments", "warning", found_, "headrace up")
        return
    yield Finding("deployments", "ok", f"all {len(wanted)} of prefect.yaml are there")


def _dangling(patient: Patient) -> Iterator[Finding]:
    """Runs that say they are under way, and are not."""
    if (prefect := patient.server("prefect")) is None:
        yield _not_asked("dangling runs", "Prefect")
        return
    under_way = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    runs = stack.call(prefect, "/flow_runs/filter", {"work_pools": {"name": {"any_": [POOL]}}, "flow_runs": under_way})
    wrong = False
    if runs and not stack._alone(prefect):
        yield Finding("dangling runs", "ok", f"{len(runs)} under way; other machines work too, and theirs are not seen")
        wrong = True
    else:
        executed = _executed()
        dead = [run["name"] for run in runs if run["id"] not in executed and _long_ago(run["state"])]
        if dead:
            wrong = True
            yield Finding(
                "dangling runs",
                "problem",
                f"flow runs under way without a process: {_some(dead)}",
                "headrace down, then make up: they are called Crashed and their slot is free; retry them then.",
            )
    left = [*_of_ended(prefect, under_way), *_tasks_of_ended(prefect)]
    if left:
        wrong = True
        yield Finding(
            "dangling runs",
            "warning",
            f"under way in flow runs that are over: {_some(left)}",
            "The keeper closes task runs within a minute; make up, if it does not run. A flow run: Cancel in the UI.",
        )
    if not wrong:
        yield Finding("dangling runs", "ok", f"none; {len(runs)} flow run(s) under way")


def _executed() -> set[str]:
    """Flow runs that have a process on this machine."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
    return found


def _long_ago(state: dict[str, Any]) -> bool:
    began = datetime.fromisoformat(str(state["timestamp"]))
    return datetime.now(UTC) - began > timedelta(seconds=SILENT_S)


def _of_ended(prefect: Service, under_way: dict[str, Any]) -> list[str]:
    """Flow runs that were started by flow runs which ended."""
    asked = {"flow_runs": under_way | {"parent_task_run_id": {"is_null_": False}}}
    children = {run["parent_task_run_id"]: run for run in stack.call(prefect, "/flow_runs/filter", asked)}
    if not children:
        return []
    tasks = stack.call(prefect, "/task_runs/filter", {"task_runs": {"id": {"any_": list(children)}}})
    ended = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}}
    parents = {"id": {"any_": [task["flow_run_id"] for task in tasks]}} | ended
    over = {run["id"] for run in stack.call(prefect, "/flow_runs/filter", {"flow_runs": parents})}
    return [
        f"flow run {children[task['id']]['name']}"
        for task in tasks
        if task["flow_run_id"] in over and _long_ago(children[task["id"]]["state"])
    ]


def _tasks_of_ended(prefect: Service) -> list[str]:
    """Task runs that the keeper would close."""
    before = (datetime.now(UTC) - timedelta(seconds=2 * SETTLED_S)).isoformat()
    asked = {
        "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        "flow_runs": {
            "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}},
            "end_time": {"before_": before},
        },
    }
    return [f"task run {one['name']}" for one in stack.call(prefect, "/task_runs/filter", asked)]


# -------------------------------------------------------------------------------------------------------------- disks


def _disks(patient: Patient) -> Iterator[Finding]:
    """How much room is left where we write."""
    places = {"HOME": patient.home}
    for name, location in (("the store", settings().store_location), ("MLflow's files", settings().mlflow_artifacts)):
        if location and "://" not in location:
            places[name] = Path(location).resolve()
    disks: dict[int, tuple[list[str], Path]] = {}
    for name, place in places.items():
        there = _nearest(place)
        disks.setdefault(there.stat().st_dev, ([], there))[0].append(name)
    for names, place in disks.values():
        usage = shutil.disk_usage(place)
        left = f"{readable(usage.free)} of {readable(usage.total)} left for {' and '.join(names)} at {place}"
        remedy = "Make room: headrace run --flow upkeep --preset retention names what may go."
        if usage.free < NOTHING:
            yield Finding("disk", "problem", left, remedy)
        elif usage.free < LITTLE or usage.free < LITTLE_SHARE * usage.total:
            yield Finding("disk", "warning", left, remedy)
        else:
            yield Finding("disk", "ok", left)


def _writable(patient: Patient) -> Iterator[Finding]:
    """Whether we may write where we have to; tried by asking the system, not by writing."""
    home = patient.home
    places = [home, *(home / name for name in ("stack", "prefect", "mlflow", "scratch", "outbox", "locks"))]
    if "://" not in settings().store_location:
        root = Path(settings().store_location)
        places += [root, *(root / kind / name for kind, name in patient.products)]
    wrong = list[str]()
    for place in places:
        there = _nearest(place)
        if not there.is_dir():
            wrong.append(f"{there} is no folder")
        elif not os.access(there, os.W_OK | os.X_OK):
            wrong.append(f"{there} belongs to user {there.stat().st_uid}, or its disk is read-only")
    if wrong:
        remedy = f"Give it to the user who runs headrace (chown -R {os.getuid()} ...), or mount its disk for writing."
        yield Finding("writable", "problem", f"cannot be written: {_some(list(dict.fromkeys(wrong)))}", remedy)
    else:
        yield Finding("writable", "ok", f"{home} and what lies in it" if home.exists() else f"{home}, not there yet")


def _nearest(place: Path) -> Path:
    """A place, or the folder nearest above it that exists."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


# -------------------------------------------------------------------------------------------------------------- store


def _live(patient: Patient) -> Iterator[Finding]:
    """Every byte of what is live."""
    store, length, whole, damaged = patient.store, 0, 0, False
    for (kind, name), current in patient.live.items():
        if isinstance(current, str):
            damaged = True
            remedy = f"Restore {kind}/{name}/CURRENT from a backup, or remove it and run its flow again."
            if f"{kind}/{name}/CURRENT" not in current:
                remedy = f"Move {kind}/{name} out of the store; it is none of ours."
            yield Finding("live versions", "problem", current, remedy)
            continue
        folder = f"{kind}/{name}/{current.version}"
        if wrong := _wrong_with(store, (kind, name, current.version), current):
            damaged = True
            back = "roll back, or remove" if current.history else "remove"
            remedy = f"Live and damaged: {back} the folder {folder} and run its flow again; it is built anew."
            for sentence in wrong[:NAMED]:
                yield Finding("live versions", "problem", sentence, remedy)
        else:
            whole += 1
            length += sum(entry.length for entry in store.manifest(kind, name, current.version).files)
    if not damaged:
        yield Finding("live versions", "ok", f"{whole} live, {readable(length)}, every byte as it was published")


def _others(patient: Patient) -> Iterator[Finding]:
    """Manifests of all versions and, if wished, every byte of them."""
    damaged = False
    yield from _not_known("all versions", patient)
    headless = set()
    for kind, name in patient.products:
        if not isinstance(patient.live.get((kind, name)), str):
            headless |= {(kind, name, version) for version in patient.store.headless(kind, name)}
    live = {(*product, current.version) for product, current in patient.live.items() if isinstance(current, Current)}
    for key, entry in patient.versions.items():
        if key in live or key in headless:
            continue  # looked at already, or no version
        wrong = [entry.error] if entry.error else _wrong_with(patient.store, key) if patient.deep else []
        for sentence in wrong[:NAMED]:
            damaged = True
            remedy = (
                f"Restore it from a backup, or remove the folder {'/'.join(key)}; a run that needs it makes it anew."
            )
            if "upgrade headrace" in sentence or "older headrace" in sentence:
                remedy = "Do what it says; nothing is damaged."
            yield Finding("all versions", "problem", sentence, remedy)
    if headless:
        named = _some(["/".join(key) for key in sorted(headless)])
        needed = sorted(key for key in headless if key in live)
        if not needed:
            remedy = "The flow upkeep removes them when they are 30 days old."
            yield Finding("all versions", "warning", f"files without a manifest: {named}", remedy)
    if not damaged:
        looked = "every byte as it should be" if patient.deep else "every manifest can be read"
        more = "" if patient.deep else "; --deep reads every byte"
        yield Finding("all versions", "ok", f"{len(patient.versions) - len(headless)} versions, {looked}{more}")


def _wrong_with(store: Store, key: Key, current: Current | None = None) -> list[str]:
    """How a version differs from its manifest, and the manifest from what was published, file by file."""
    folder = "/".join(key)
    try:
        manifest = store.manifest(*key)
        if current is not None:
            found = hashlib.sha256(store.manifest_bytes(*key)).hexdigest()
            if found not in current.seals:
                expected = current.manifest_sha256
                return [f"{folder}/manifest.json: expected SHA-256 {expected}, found {found}."]
    except StoreError as error:
        return [str(error)]
    fs, root = fsspec.core.url_to_fs(store.root, use_listings_cache=False)
    wrong = []
    for entry in manifest.files:
        path = f"{folder}/{entry.path}"
        total, length = hashlib.sha256(), 0
        try:
            with fs.open(f"{root}/{path}", "rb") as stream:  # in pieces: an index may be larger than the memory
                while block := stream.read(_BLOCK):
                    total.update(block)
                    length += len(block)
        except (FileNotFoundError, NotADirectoryError):
            wrong.append(f"{path}: expected a file, found none.")
            continue
        except IsADirectoryError:
            wrong.append(f"{path}: expected a file, found a folder.")
            continue
        if length != entry.length:
            wrong.append(f"{path}: expected {entry.length} bytes, found {length}.")
        elif total.hexdigest() != entry.sha256:
            wrong.append(f"{path}: expected SHA-256 {entry.sha256}, found {total.hexdigest()}.")
    return wrong


def _lineage(patient: Patient) -> Iterator[Finding]:
    """Whether all that live and pinned versions are made from is there."""
    yield from _not_known("lineage", patient)
    wanted = {(*product, current.version) for product, current in patient.live.items() if isinstance(current, Current)}
    for kind, name in patient.products:
        with contextlib.suppress(StoreError):  # unreadable pins are told by the check of the pins
            wanted |= {(kind, name, version) for version in patient.store.pins(kind, name)}
    missing, waiting, seen = list[str](), [(key, key) for key in wanted], set(wanted)
    while waiting:
        key, heir = waiting.pop()
        entry = patient.versions.get(key)
        if entry is None:
            missing.append(f"{'/'.join(key[:2])}@{key[2]}, behind {'/'.join(heir[:2])}@{heir[2]}")
            continue
        if entry.manifest is None:
            continue  # told by the other checks
        with contextlib.suppress(IntegrityError):
            for named in lineage(patient.store, entry.manifest) - seen:
                seen.add(named)
                waiting.append((named, key))
    if missing:
        remedy = "Restore it from a backup, or run the flow of the product again: what is missing is made anew."
        yield Finding("lineage", "problem", f"not in the store: {_some(sorted(missing))}", remedy)
    else:
        yield Finding("lineage", "ok", f"all that {len(wanted)} live or pinned versions are made from is there")


def _pins(patient: Patient) -> Iterator[Finding]:
    """Whether the notes beside the versions can be read: retention stops where they cannot."""
    count, wrong = 0, False
    for kind, name in patient.products:
        for file, read in (("PINS", patient.store.pins), ("REMOVED", patient.store.removed)):
            try:
                notes = read(kind, name)
                count += len(notes) if file == "PINS" else 0
            except IntegrityError as error:
                wrong = True
                remedy = f"Restore {kind}/{name}/{file} from a backup, or remove it and pin again what is to stay."
                yield Finding("pins", "problem", str(error), remedy)
            except StoreError:
                continue  # a folder that is no product; told by the check of the live versions
    if not wrong:
        yield Finding("pins", "ok", f"{count} pinned")


def _leftovers(patient: Patient) -> Iterator[Finding]:
    """What killed writers left behind."""
    if left := patient.store.leftovers():
        remedy = "The next run, or make up, sweeps it; nothing reads it."
        yield Finding("leftovers", "warning", f"{len(left)} left by killed writers in staging: {_some(left)}", remedy)
    else:
        yield Finding("leftovers", "ok", "none")


def _formats(patient: Patient) -> Iterator[Finding]:
    """Manifests of older formats."""
    old = ["/".join(key) for key, entry in patient.versions.items() if entry.manifest and entry.format != FORMAT]
    if old:
        found = f"{len(old)} of an older format than {FORMAT}: {_some(old)}"
        yield Finding(
            "formats", "warning", found, "They are read all the same; headrace migrate --write rewrites them."
        )
    else:
        yield Finding("formats", "ok", f"all in format {FORMAT}")


# ------------------------------------------------------------------------------------------------------------- MLflow


def _outbox(patient: Patient) -> Iterator[Finding]:
    """What MLflow has not seen yet, or did not want."""
    waiting, refused = outbox.waiting(), sorted((patient.home / "outbox").glob("*.refused.jsonl"))
    if waiting:
        oldest = min(_modified(file) for file in waiting)
        since = datetime.fromtimestamp(oldest, UTC).isoformat(sep=" ", timespec="minutes")[:16]
        remedy = "It arrives when MLflow is back; until then it is safe."
        if patient.server("mlflow"):
            remedy = "The keeper delivers it within a minute; make up does it now."
        found = f"the writes of {len(waiting)} run(s) wait for MLflow, the oldest since {since} UTC: "
        yield Finding("outbox", "warning", found + _some([file.name for file in waiting]), remedy)
    if refused:
        remedy = f"Look at them in {patient.home / 'outbox'}, then remove them; nothing else waits for them."
        yield Finding("outbox", "warning", f"MLflow refused: {_some([file.name for file in refused])}", remedy)
    if not waiting and not refused:
        yield Finding("outbox", "ok", "nothing waits for MLflow")


def _modified(file: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
        return file.stat().st_mtime
    return time.time()


def _registry(patient: Patient) -> Iterator[Finding]:
    """Whether MLflow's alias names what is live."""
    if (mlflow := patient.server("mlflow")) is None:
        yield _not_asked("registry", "MLflow")
        return
    yield from _not_known("registry", patient)
    looked, wrong = 0, []
    for (kind, name), current in patient.live.items():
        if kind in KINDS and isinstance(current, Current):
            looked += 1
            said = _champion(mlflow, kind, name)
            if said != current.version:
                wrong.append(f"{kind}/{name}: live is {current.version}, champion is {said or 'nothing'}")
    if wrong:
        found = f"MLflow does not show what is live. {_some(wrong)}"
        yield Finding("registry", "problem", found, "headrace up brings it in line; the store decides.")
    else:
        yield Finding("registry", "ok", f"champion is what is live for {looked} product(s)")


def _champion(mlflow: Service, kind: str, name: str) -> str:
    """The store's version that the alias points to, as `registry.champion`, without three seconds of imports."""
    asked = urllib.parse.urlencode({"name": registered_name(kind, name), "alias": "champion"})
    try:
        answer = json.loads(_get("mlflow", mlflow, f"/api/2.0/mlflow/registered-models/alias?{asked}"))
    except urllib.error.HTTPError as error:
        if error.code in (400, 404):
            return ""
        raise
    tags = {tag["key"]: tag["value"] for tag in answer["model_version"].get("tags", ())}
    return str(tags.get("version", ""))


# ------------------------------------------------------------------------------------------------------------- backup


def _backup(patient: Patient) -> Iterator[Finding]:
    """The age of the newest backup."""
    if patient.target is None:
        return
    target = patient.target.expanduser().resolve()
    begun = sorted(file.stem for file in target.glob("*.unfinished"))
    command = f"headrace backup {target}"
    try:
        name = backup.choose(target)
        record = backup.read(target, name)
    except backup.BackupError as error:
        yield Finding("backup", "problem", str(error), command)
        return
    age = datetime.now(UTC) - datetime.strptime(name, "%Y-%m-%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    found = f"the newest is {age.days} days old: {name}, {readable(record.length)}"
    if begun and begun[-1] > name:
        yield Finding("backup", "warning", f"one was begun {begun[-1]} and not finished", command)
    if record.left_out:
        remedy = "Mend or remove what it names, then back up again."
        yield Finding("backup", "warning", f"{name} had to leave out: {_some(list(record.left_out))}", remedy)
    yield Finding("backup", "warning", found, command) if age.days >= BACKUP_DAYS else Finding("backup", "ok", found)


CHECKS: dict[str, Check] = {
    "versions": _versions,
    "settings": _settings,
    "disk": _disks,
    "writable": _writable,
    "ports": _ports,
    "servers": _servers,
    "worker": _worker,
    "keeper": _keeper,
    "automations": _automations,
    "deployments": _deployments,
    "dangling runs": _dangling,
    "live versions": _live,
    "all versions": _others,
    "lineage": _lineage,
    "pins": _pins,
    "leftovers": _leftovers,
    "formats": _formats,
    "outbox": _outbox,
    "registry": _registry,
    "backup": _backup,
}


def _not_asked(check: str, server: str) -> Finding:
    return Finding(check, "warning", f"not looked at: {server} does not answer", "See servers.")


def _not_known(check: str, patient: Patient) -> Iterator[Finding]:
    """The products that a check of what is live has to leave out."""
    for (kind, name), current in patient.live.items():
        if isinstance(current, str) and f"{kind}/{name}/CURRENT" in current:
            yield Finding(check, "warning", f"nobody knows what is live of {kind}/{name}", "See live versions.")


def _some(names: Iterable[str]) -> str:
    """The first of many, and how many more."""
    named = list(names)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return ", ".join(named[:NAMED]) + more


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


# ------------------------------------------------------------------------------------------------------------ command


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte of every version, not only what is live.")
    ] = False,
    backups: Annotated[
        Path | None, typer.Option("--backup", metavar="TARGET", help="Look at the age of the backups there too.")
    ] = None,
) -> None:
    """Look at everything, change nothing, and say what is wrong and what to do about it.

    Exits 0 when there is no problem, 1 when there is one; warnings do not count.
    """
    console, started = terminal.console(), time.monotonic()
    with console.status("looking ...") as status:
        found = examine(deep=deep, target=backups, tell=lambda name: status.update(f"looking at: {name}"))
    colours = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    table = Table(show_lines=False)
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(one.check, Text(one.verdict, style=colours[one.verdict]), Text(one.found), Text(one.remedy))
    console.print(table)
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in ("problem", "warning")}
    said = [f"{count or 'no'} {verdict}{'' if count == 1 else 's'}" for verdict, count in counts.items()]
    console.print(f"{', '.join(said)}; {len(found)} findings in {time.monotonic() - started:.0f} s.")
    if counts["problem"]:
        raise typer.Exit(1)
