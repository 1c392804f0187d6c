"""The doctor: every defect is planted once, found by its check, told with its remedy, and nothing else is called ill.

The servers are one small program in this process that answers as Prefect and MLflow do; what is asked of the real
Prefect is asked of it at the end.
"""

import contextlib
import fcntl
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import namedtuple
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
import yaml
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from infra import backup, doctor, migrations, stack
from infra.automations import DEAD
from infra.doctor import CHECKS, Finding, examine
from infra.manifest import Manifest
from infra.refs import Dataset, Index, Ref
from infra.settings import PROJECT, settings
from infra.stack import Service
from infra.store import Store, open_store

Usage = namedtuple("Usage", "total used free")
DEPLOYMENTS = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
TRIGGERS = [trigger["name"] for one in DEPLOYMENTS for trigger in one.get("triggers", ())]


class Servers:
    """Prefect and MLflow at one address, as far as the doctor asks."""

    def __init__(self) -> None:
        self.versions = {"prefect": doctor._installed("prefect"), "mlflow": doctor._installed("mlflow")}
        self.automations = dict.fromkeys((DEAD, *TRIGGERS), True)
        self.deployments = [{"entrypoint": one["entrypoint"], "name": one["name"]} for one in DEPLOYMENTS]
        self.workers = [{"name": stack._worker_name(), "status": "ONLINE"}]
        self.paused = False
        self.flow_runs: list[dict[str, Any]] = []
        self.task_runs: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self.champions: dict[str, str] = {}
        self.code = 200
        self.hangs_s = 0.0
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, asked: dict[str, Any]) -> Any:
        route, _, query = path.partition("?")
        if route in ("/api/health", "/health"):
            return "OK"
        if route == "/version":
            return self.versions["mlflow"]
        if self.code != 200:
            return None
        if route == "/api/admin/version":
            return self.versions["prefect"]
        if route == "/api/2.0/mlflow/experiments/get":
            return {}
        if route == "/api/2.0/mlflow/registered-models/alias":
            name = dict(urllib.parse.parse_qsl(query))["name"]
            tags = [{"key": "version", "value": self.champions.get(name)}]
            return {"model_version": {"tags": tags}} if name in self.champions else None
        if route == "/api/work_pools/headrace":
            return {"is_paused": self.paused}
        if route == "/api/work_pools/headrace/workers/filter":
            return self.workers
        if route == "/api/automations/filter":
            wanted = asked["automations"]["name"]["any_"]
            return [{"name": name, "enabled": on} for name, on in self.automations.items() if name in wanted]
        if route == "/api/deployments/filter":
            return self.deployments[asked["offset"] : asked["offset"] + asked["limit"]]
        if route == "/api/flow_runs/filter":
            if "work_pools" in asked:
                return [run for run in self.flow_runs if not run.get("parent_task_run_id")]
            if "parent_task_run_id" in asked["flow_runs"]:
                return [run for run in self.flow_runs if run.get("parent_task_run_id")]
            return self.ended
        if route == "/api/task_runs/filter":
            return [one for one in self.task_runs if ("id" in one) == ("id" in asked["task_runs"])]
        raise AssertionError(f"the doctor asked {route}")

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        servers = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(servers.hangs_s)
                length = int(self.headers.get("Content-Length", 0))
                found = servers.answer(self.path, json.loads(self.rfile.read(length) or b"{}"))
                self.send_response(200 if found is not None else servers.code if servers.code != 200 else 404)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(found.encode() if self.path == "/version" else json.dumps(found).encode())

            do_POST = do_GET  # noqa: N815 - as the library calls it

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


class Home:
    """A healthy installation, to be made ill."""

    def __init__(self, folder: Path, servers: Servers, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.servers = servers
        self.patch = patch
        self.store = open_store()
        self.data = self.write("dataset", 1)
        self.past = self.write("index", 2, self.data)
        self.live = self.write("index", 3, self.data)
        for ref in (self.past, self.live):
            self.store.publish(ref, {"claims": []})
        servers.champions["toy-index"] = self.live.version
        self.record(prefect=self.me(servers.port), mlflow=self.me(servers.port), worker=self.me(), keeper=self.me())

    def write(self, kind: str, number: int, *inputs: Ref) -> Ref:
        manifest = Manifest(
            kind=kind,
            name="toy",
            configuration={"number": number},
            configuration_class="models.toy.Config",
            inputs={ref.kind: {"name": ref.name, "version": ref.version, "digest": ref.digest} for ref in inputs},
            files=(),
            code="c",
        )
        return self.store.write({"dataset": Dataset, "index": Index}[kind], {"x": {"number": number}}, manifest)

    def at(self, ref: Ref, file: str = "") -> Path:
        return Path(self.store.root) / ref.kind / ref.name / ref.version / file

    @staticmethod
    def me(port: int = 0, **fields: Any) -> Service:
        """A service that this process is."""
        created = psutil.Process().create_time()
        return Service(
            **{"pid": os.getpid(), "created": created, "birth": stack._birth(os.getpid()), "port": port} | fields
        )

    def record(self, **services: Service | None) -> None:
        """Change what the stack remembers."""
        stack.folder().mkdir(parents=True, exist_ok=True)
        stack._remember({name: service for name, service in (stack.known() | services).items() if service})

    def dead(self, port: int = 0) -> Service:
        """A service whose process is gone."""
        return Service(pid=2**22 + 1, created=1.0, port=port)

    def set(self, **values: str) -> None:
        for name, value in values.items():
            self.patch.setenv(f"HEADRACE_{name.upper()}", value)
        settings.cache_clear()

    def run(self, minutes: float, **fields: Any) -> None:
        """A flow run that has been under way so long."""
        began = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
        self.servers.flow_runs.append({"id": "f-1", "name": "silent-heron", "state": {"timestamp": began}} | fields)


def install(patch: pytest.MonkeyPatch, **others: str | None) -> None:
    """Install what constraints.txt says, whatever this machine has, and some packages otherwise."""
    there = {**doctor._tested(), **others}
    patch.setattr(doctor, "_installed", lambda name: there.get(canonicalize_name(name)))


@pytest.fixture
def well(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    for name in ("HEADRACE_TRACKING_URI", "HEADRACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    servers = Servers()
    monkeypatch.setenv("HEADRACE_PREFECT_PORT", str(servers.port))
    monkeypatch.setenv("HEADRACE_MLFLOW_PORT", str(servers.port))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100e9, 40e9, 60e9))
    install(monkeypatch)
    settings.cache_clear()
    yield Home(home, servers, monkeypatch)
    servers.stop()


def of(found: list[Finding], verdict: str) -> list[Finding]:
    return [one for one in found if one.verdict == verdict]


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


# ----------------------------------------------------------------------------------------------------- well, and down


def test_a_healthy_home_is_all_ok_and_nothing_is_changed_by_looking(well: Home) -> None:
    before = tree(well.folder)
    found = examine(deep=True)
    assert [one for one in found if one.verdict != "ok"] == []
    assert {one.check for one in found} == set(CHECKS) - {"backup"}
    assert tree(well.folder) == before
    done = CliRunner().invoke(command(), ["doctor"])
    assert done.exit_code == 0, done.output
    assert "no problems, no warnings" in done.output
    assert tree(well.folder) == before


def test_a_home_that_never_was_is_said_to_be_not_started_and_is_not_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEADRACE_TRACKING_URI", "HEADRACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(home / "nothing" / "here"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100e9, 40e9, 60e9))
    settings.cache_clear()
    found = examine(deep=True)
    assert of(found, "problem") == []
    said = {one.found: one.remedy for one in found if one.check in ("servers", "worker", "keeper")}
    assert said == dict.fromkeys(["prefect is not started", "mlflow is not started", "not started"], "make up")
    assert {one.check for one in found if "not looked at" in one.found} == {
        "automations", "deployments", "dangling runs", "registry",
    }  # fmt: skip
    assert list(home.iterdir()) == []


def test_with_all_servers_dead_the_store_is_looked_at_all_the_same(well: Home) -> None:
    well.servers.stop()
    well.record(**{name: well.dead(well.servers.port) for name in stack.known()})
    flip(well.at(well.live, "x.json"))
    begun = time.monotonic()
    found = examine()
    assert time.monotonic() - begun < 15
    assert [one.check for one in of(found, "problem")] == ["servers", "servers", "worker", "keeper", "live versions"]
    assert CliRunner().invoke(command(), ["doctor"]).exit_code == 1


def test_servers_that_hang_are_not_waited_for(well: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ANSWER_S", 0.3)
    well.servers.hangs_s = 3
    begun = time.monotonic()
    found = examine()
    assert time.monotonic() - begun < 3
    assert [(one.check, "timed out" in one.found) for one in of(found, "problem")] == [("servers", True)] * 2


# ------------------------------------------------------------------------------------------------- one defect at a time


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def instead(file: Path) -> None:
    """A folder where a file should be."""
    file.unlink(missing_ok=True)
    file.mkdir()


def installed(package: str, version: str | None) -> Callable[[Home], None]:
    return lambda well: install(well.patch, **{package: version})


def full(free: float, total: float = 100e9) -> Callable[[Home], None]:
    return lambda well: well.patch.setattr(shutil, "disk_usage", lambda _: Usage(total, total - free, free))


def secret(name: str, mode: int) -> Callable[[Home], None]:
    def plant(well: Home) -> None:
        folder = well.folder.parent / f"{well.folder.name}-secrets"
        folder.mkdir()
        (folder / name).write_text("")
        (folder / name).chmod(mode)
        well.set(secrets=str(folder))

    return plant


def staged(well: Home) -> None:
    (Path(well.store.root) / ".staging" / "0123").mkdir(parents=True)
    (Path(well.store.root) / ".staging" / "0123.owner").touch()


def noted(name: str) -> Callable[[Home], None]:
    def plant(well: Home) -> None:
        (well.folder / "outbox").mkdir(exist_ok=True)
        (well.folder / "outbox" / name).write_text("{}\n")

    return plant


def other_format(well: Home) -> None:
    """What an upgrade looks like: manifests of yesterday, and a step to those of today."""
    from infra import manifest, store

    for module in (manifest, migrations, store, doctor):
        well.patch.setattr(module, "FORMAT", 2)
    well.patch.setitem(migrations.STEPS, 1, lambda values: values)


def sealed_anew(well: Home) -> None:
    file = well.at(well.live, "manifest.json")
    file.write_text(file.read_text().replace('"certificate": {', '"certificate": {"forged": true,'))


def back_up(days: float, *, leave_out: bool = False) -> Callable[[Home], None]:
    def plant(well: Home) -> None:
        target = target_of(well)
        if leave_out:
            flip(well.at(well.past, "x.json"))
        backup.back_up(target, say=lambda _: None)
        (made,) = target.glob("*.json")
        name = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H%M%S.%f")[:-3] + "Z"
        made.rename(made.with_stem(name))

    return plant


def target_of(well: Home) -> Path:
    return well.folder.parent / f"{well.folder.name}-backups"


def marked(well: Home) -> None:
    """A process that an earlier stack left, of which there is no record."""
    environment = {**os.environ, stack.MARK: str(stack.folder() / "mlflow")}
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)
    well.patch.setattr(well, "left", left, raising=False)
    well.record(mlflow=None)


def stranger(well: Home) -> None:
    """A server whose port another program answers."""
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    well.patch.setattr(well, "left", left, raising=False)
    created = psutil.Process(left.pid).create_time()
    well.record(prefect=Service(pid=left.pid, created=created, birth=stack._birth(left.pid), port=well.servers.port))


def held(well: Home) -> None:
    """The usual port is held by somebody else, and ours is at another."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    well.patch.setattr(well, "holder", holder, raising=False)
    well.set(prefect_port=str(holder.getsockname()[1]))


def task_of_ended(well: Home) -> None:
    well.servers.task_runs.append({"name": "train-a7a"})


def child_of_ended(well: Home) -> None:
    well.run(10, name="orphan", parent_task_run_id="t-1")
    well.servers.task_runs.append({"id": "t-1", "flow_run_id": "f-0", "name": "orphan"})
    well.servers.ended.append({"id": "f-0"})


DEFECTS: list[tuple[str, Callable[[Home], Any], str, str, str, str]] = [
    # what is planted, how; by which check it is found, how bad it is; what is said, what is to be done
    ("a package of a wrong version", installed("fastapi", "0.165.0"), "versions", "problem",
     r"fastapi 0\.165\.0 is installed, <0\.151 is needed", r"pip install --constraint constraints.txt 'fastapi<0.151'"),
    ("a package that is missing", installed("dask", None), "versions", "problem",
     r"dask is not installed, >=2026\.8 is needed", r"pip install .*'dask>=2026.8'"),
    ("a package that was not tested", installed("torch", "2.13.9+cpu"), "versions", "warning",
     r"torch 2\.13\.9\+cpu instead of 2\.13\.0", r"pip install torch==2\.13\.0"),
    ("another Python", lambda well: well.patch.setattr(
        doctor.importlib.metadata, "metadata", lambda _: {"Requires-Python": ">=4"}),
     "versions", "problem", r"Python 3\.\S+ runs, >=4 is needed", r"make setup PYTHON="),
    ("a root that does not exist", lambda well: well.set(data_roots="/nowhere/at/all"), "settings", "problem",
     r"HEADRACE_DATA_ROOTS names /nowhere/at/all", r"Make or mount it, .*make up"),
    ("a mirror that does not exist", lambda well: well.set(mirror="/nowhere"), "settings", "problem",
     r"HEADRACE_MIRROR names /nowhere, which is no folder", r"unset HEADRACE_MIRROR"),
    ("a variable that nobody reads", lambda well: well.set(dataroots="/srv"), "settings", "warning",
     r"HEADRACE_DATAROOTS is set, and nobody reads it", r"slip of the pen"),
    ("servers open to everyone", lambda well: well.set(host="0.0.0.0"), "settings", "problem",  # noqa: S104
     r"HEADRACE_PREFECT_AUTH is not set", r"."),
    ("a secret that everybody can read", secret("headrace_prefect_auth", 0o644), "settings", "warning",
     r"headrace_prefect_auth can be read by other users", r"chmod 600 .*headrace_prefect_auth"),
    ("a secret with a slip of the pen", secret("headrace_prefekt_auth", 0o600), "settings", "warning",
     r"headrace_prefekt_auth has the name of no setting", r"Name it like the variable"),
    ("a full disk", full(0.9e9), "disk", "problem",
     r"900\.0 MB of 100\.0 GB left for HOME and the store", r"upkeep .* names what may go"),
    ("a disk that fills up", full(9e9), "disk", "warning", r"9\.0 GB of 100\.0 GB left", r"Make room"),
    ("a large disk that fills up", full(40e9, 1000e9), "disk", "warning", r"40\.0 GB of 1\.0 TB left", r"Make room"),
    ("a folder of another user", lambda well: well.patch.setattr(
        os, "access", lambda path, mode: not str(path).endswith("/index/toy")),
     "writable", "problem", r"index/toy belongs to user \d+, or its disk is read-only", r"chown -R \d+"),
    ("a file where a folder should be", lambda well: (well.folder / "outbox").touch(), "writable", "problem",
     r"outbox is no folder", r"Give it to the user"),
    ("a stranger at our port", held, "ports", "warning",
     rf"where prefect would be, is held by \S+ \(process {os.getpid()} of", r"our prefect is at \d+.*PREFECT_PORT"),
    ("a server that died", lambda well: well.record(mlflow=well.dead(5000)), "servers", "problem",
     r"mlflow died: process \d+ is gone", r"make up starts it again where it was; \S+mlflow\.log says why"),
    ("a server that another program answers for", stranger, "servers", "problem",
     r"is answered by another program, not by our prefect", r"headrace down, then make up"),
    ("a server that runs elsewhere and is away", lambda well: well.set(tracking_uri="http://127.0.0.1:9"),
     "servers", "problem", r"mlflow does not answer at http://127\.0\.0\.1:9: .*refused", r"mend HEADRACE_TRACKING"),
    ("a server of the next version", lambda well: well.servers.versions.update(prefect="3.9.0"), "servers", "problem",
     r"prefect at \S+ is 3\.9\.0, and 3\.8\.8 is installed here", r"headrace down, then make up"),
    ("a server of another patch", lambda well: well.servers.versions.update(mlflow="3.17.99"), "servers", "warning",
     r"mlflow at \S+ is 3\.17\.99", r"the server was started before the upgrade"),
    ("a process that is not recorded", marked, "servers", "problem",
     r"mlflow is not recorded, and processes of it are left: \d+", r"headrace down"),
    ("a worker that died", lambda well: well.record(worker=well.dead()), "worker", "problem",
     r"the worker died", r"make up if it does not. \S+worker\.log"),
    ("a worker that Prefect lost", lambda well: well.servers.workers.clear(), "worker", "problem",
     r"Prefect has not heard of it", r"headrace down, then make up"),
    ("no worker at all", lambda well: (well.record(worker=None), well.servers.workers.clear()), "worker", "problem",
     r"no worker of the pool headrace is online: nothing is executed", r"make up"),
    ("a pool that is paused", lambda well: setattr(well.servers, "paused", True), "worker", "warning",
     r"the pool headrace is paused", r"Resume it in the UI"),
    ("a keeper that died", lambda well: well.record(keeper=well.dead()), "keeper", "problem",
     r"the keeper died", r"make up"),
    ("no keeper", lambda well: well.record(keeper=None), "keeper", "problem", r"there is none", r"make up"),
    ("a missing automation", lambda well: well.servers.automations.pop(DEAD), "automations", "problem",
     r"missing: headrace: a run without a sign of life is Crashed", r"headrace up"),
    ("an automation switched off", lambda well: well.servers.automations.update({DEAD: False}), "automations",
     "warning", r"switched off: headrace: a run without", r"Switch them on in the UI"),
    ("a missing deployment", lambda well: well.servers.deployments.pop(), "deployments", "problem",
     r"missing: flows\.upkeep\.upkeep retention", r"headrace up"),
    ("deployments of yesterday", lambda well: (stack.folder() / "deployed").write_text("old"), "deployments",
     "warning", r"changed since they were deployed", r"headrace up"),
    ("a flow run without a process", lambda well: well.run(10), "dangling runs", "problem",
     r"under way without a process: silent-heron", r"headrace down, then make up"),
    ("a task run of an ended flow run", task_of_ended, "dangling runs", "warning",
     r"in flow runs that are over: task run train-a7a", r"The keeper closes task runs"),
    ("a flow run of an ended flow run", child_of_ended, "dangling runs", "warning",
     r"in flow runs that are over: flow run orphan", r"Cancel in the UI"),
    ("a flipped bit in what is live", lambda well: flip(well.at(well.live, "x.json")), "live versions", "problem",
     r"index/toy/\w+/x\.json: expected SHA-256 \w+, found \w+", r"roll back, or remove the folder index/toy/\w+ and"),
    ("a cut file in what is live", lambda well: os.truncate(well.at(well.live, "x.json"), 3), "live versions",
     "problem", r"x\.json: expected \d+ bytes, found 3", r"roll back"),
    ("a lost file in what is live", lambda well: well.at(well.live, "x.json").unlink(), "live versions", "problem",
     r"x\.json: expected a file, found none", r"roll back"),
    ("a truncated manifest of what is live", lambda well: os.truncate(well.at(well.live, "manifest.json"), 50),
     "live versions", "problem", r"index/toy/\w+/manifest\.json: expected a manifest", r"roll back"),
    ("a manifest that was not published", sealed_anew, "live versions", "problem",
     r"manifest\.json: expected SHA-256 \w+, found \w+", r"roll back"),
    ("a pointer that cannot be read", lambda well: (well.at(well.live).parent / "CURRENT").write_text("{"),
     "live versions", "problem", r"index/toy/CURRENT: expected a pointer", r"Restore index/toy/CURRENT from a backup"),
    ("a folder in place of a pointer", lambda well: instead(well.at(well.live).parent / "CURRENT"), "live versions",
     "problem", r"index/toy/CURRENT: expected .*", r"Restore index/toy/CURRENT from a backup"),
    ("a folder in place of a live file", lambda well: instead(well.at(well.live, "x.json")), "live versions",
     "problem", r"index/toy/\w+/x\.json: expected a file, found a folder", r"roll back"),
    ("a folder in place of a manifest", lambda well: instead(well.at(well.past, "manifest.json")), "all versions",
     "problem", r"index/toy/\w+/manifest\.json: expected a ", r"remove the folder index/toy/\w+;"),
    ("a folder in place of pins", lambda well: instead(well.at(well.live).parent / "PINS"), "pins", "problem",
     r"index/toy/PINS: expected ", r"Restore index/toy/PINS from a backup"),
    ("a folder that is no product", lambda well: (Path(well.store.root) / "index" / "Not Ours").mkdir(),
     "live versions", "problem", r"product must be KIND/NAME", r"Move index/Not Ours out of the store"),
    ("a truncated manifest of another version", lambda well: os.truncate(well.at(well.past, "manifest.json"), 50),
     "all versions", "problem", r"toy/\w+/manifest\.json: expected a manifest", r"remove the folder index/toy/\w+;"),
    ("a manifest of a newer headrace", lambda well: well.at(well.past, "manifest.json").write_text(
        well.at(well.past, "manifest.json").read_text().replace('"format": 1', '"format": 9')),
     "all versions", "problem", r"found 9; upgrade headrace", r"nothing is damaged"),
    ("files without a manifest", lambda well: well.at(well.past, "manifest.json").unlink(), "all versions", "warning",
     r"files without a manifest: index/toy/\w+", r"The flow upkeep removes them when they are 30 days old"),
    ("a dataset that is gone", lambda well: shutil.rmtree(well.at(well.data)), "lineage", "problem",
     r"not in the store: dataset/toy@\w+, behind index/toy@\w+", r"Restore it from a backup, or run the flow"),
    ("pins that cannot be read", lambda well: (well.at(well.live).parent / "PINS").write_text("?"), "pins", "problem",
     r"index/toy/PINS: expected versions with why and when", r"Restore index/toy/PINS from a backup"),
    ("a note on removals that cannot be read", lambda well: (well.at(well.live).parent / "REMOVED").write_text("?"),
     "pins", "problem", r"index/toy/REMOVED", r"Restore index/toy/REMOVED from a backup"),
    ("what a killed writer left", staged, "leftovers", "warning", r"1 left by killed writers in staging: 0123",
     r"make up, sweeps it"),
    ("manifests of an older format", other_format, "formats", "warning", r"3 of an older format than 2: dataset/toy/",
     r"headrace migrate --write"),
    ("writes that wait for MLflow", noted("f-1.jsonl"), "outbox", "warning",
     r"the writes of 1 run\(s\) wait for MLflow, the oldest since 20\S+ \S+ UTC: f-1\.jsonl", r"The keeper delivers"),
    ("writes that MLflow refused", noted("f-1.refused.jsonl"), "outbox", "warning",
     r"MLflow refused: f-1\.refused\.jsonl", r"Look at them in \S+/outbox, then remove them"),
    ("an alias that points elsewhere", lambda well: well.servers.champions.update({"toy-index": well.past.version}),
     "registry", "problem", r"index/toy: live is \w+, champion is \w{12}", r"headrace up brings it in line"),
    ("no alias", lambda well: well.servers.champions.clear(), "registry", "problem",
     r"live is \w+, champion is nothing", r"headrace up brings it in line"),
    ("no backup", lambda well: target_of(well).mkdir(), "backup", "problem", r"has no backup", r"headrace backup /"),
    ("a backup that was interrupted", lambda well: (
        back_up(1)(well), (target_of(well) / "2999-01-01T000000.000Z.unfinished").touch()),
     "backup", "warning", r"one was begun 2999-01-01T000000\.000Z and not finished", r"headrace backup /"),
    ("an old backup", back_up(9), "backup", "warning", r"the newest is 9 days old", r"headrace backup /"),
    ("a backup whose list is damaged", lambda well: (
        back_up(1)(well), flip(next(target_of(well).glob("*.json")))),
     "backup", "problem", r"expected .*, found|expected SHA-256", r"headrace backup /"),
]  # fmt: skip

ALSO_ILL = {
    # what follows from a defect, and is said by other checks too
    "a server that died": {"registry", "ports"},
    "a server that another program answers for": {"ports"},
    "a server that runs elsewhere and is away": {"registry"},
    "a process that is not recorded": {"registry", "ports"},
    "servers open to everyone": {"servers", "ports"},
    "a pointer that cannot be read": {"all versions", "lineage", "registry"},
    "a folder in place of a pointer": {"all versions", "lineage", "registry"},
}


@pytest.mark.parametrize(
    ("name", "plant", "check", "verdict", "found", "remedy"), DEFECTS, ids=[defect[0] for defect in DEFECTS]
)
def test_each_defect_is_found_by_its_check_and_told_with_its_remedy(
    well: Home, name: str, plant: Callable[[Home], Any], check: str, verdict: str, found: str, remedy: str
) -> None:
    plant(well)
    try:
        findings = examine(target=target_of(well) if check == "backup" else None)
    finally:
        if left := getattr(well, "left", None):
            left.kill()
            left.wait()
        if holder := getattr(well, "holder", None):
            holder.close()
    ill = [one for one in findings if one.verdict != "ok"]
    assert {one.check for one in ill} - ALSO_ILL.get(name, set()) == {check}, ill
    mine = [one for one in ill if one.check == check]
    assert any(re.search(found, one.found) and re.search(remedy, one.remedy) for one in mine), mine
    assert {one.verdict for one in mine} == {verdict}
    assert all(one.remedy for one in ill), "a defect without a remedy"


def test_every_check_was_seen_failing() -> None:
    assert {defect[2] for defect in DEFECTS} == set(CHECKS)


# --------------------------------------------------------------------------------------------------- finer distinctions


@pytest.mark.parametrize("spoil", [instead, lambda file: file.write_text("{")])
def test_a_broken_pointer_is_named_by_each_check_of_what_is_live_and_other_products_are_looked_at(
    well: Home, spoil: Callable[[Path], Any]
) -> None:
    well.store.publish(well.data, {"claims": []})
    well.servers.champions["toy-dataset"] = well.data.version
    spoil(well.at(well.live).parent / "CURRENT")
    flip(well.at(well.data, "x.json"))
    found = examine()
    said = {check: [one for one in found if one.check == check] for check in CHECKS}
    assert any(
        f"dataset/toy/{well.data.version}/x.json: expected SHA-256" in one.found for one in said["live versions"]
    )
    assert any("index/toy/CURRENT: expected" in one.found for one in said["live versions"])
    for check in ("all versions", "lineage", "registry"):
        first, last = said[check]
        assert (first.found, first.remedy) == ("nobody knows what is live of index/toy", "See live versions.")
        assert last.verdict == "ok", "the check ended at the broken product"
    assert not [one for one in found if "could not be looked at" in one.found]


def test_only_deep_reads_the_bytes_of_versions_that_are_not_live(well: Home) -> None:
    flip(well.at(well.past, "x.json"))
    assert of(examine(), "problem") == []
    (problem,) = of(examine(deep=True), "problem")
    assert problem.check == "all versions"
    assert f"index/toy/{well.past.version}/x.json: expected SHA-256" in problem.found
    assert f"remove the folder index/toy/{well.past.version}" in problem.remedy


def test_a_setting_that_cannot_be_read_is_named_and_its_value_is_not(well: Home) -> None:
    well.set(prefect_port="hunter2hunter2")
    found = examine()
    (problem,) = of(found, "problem")
    assert problem.found.startswith("HEADRACE_PREFECT_PORT cannot be read, so nothing else was looked at")
    assert problem.remedy == "Mend HEADRACE_PREFECT_PORT, or unset it."
    assert found[-1] == problem
    assert "hunter2" not in str(found)


def test_a_folder_of_secrets_that_is_not_there_is_said(well: Home) -> None:
    well.set(secrets="/nowhere")
    assert "HEADRACE_SECRETS must be a folder, got /nowhere" in of(examine(), "problem")[0].found


def test_a_server_that_refuses_our_password_is_said_without_it(well: Home) -> None:
    well.set(mlflow_user="operator", mlflow_password="correct-horse-battery")  # noqa: S106
    well.servers.code = 401
    found = examine()
    (one, other) = [finding for finding in of(found, "problem") if finding.check == "servers"]
    assert "prefect at" in one.found
    assert "refuses our credentials (401)" in one.found
    assert "HEADRACE_MLFLOW_USER and HEADRACE_MLFLOW_PASSWORD" in other.remedy
    assert "battery" not in str(found)


def test_a_record_that_cannot_be_read_is_said_and_the_rest_is_looked_at(well: Home) -> None:
    (stack.folder() / "stack.json").write_text("{")
    found = examine()
    said = [one for one in found if "stack.json cannot be read" in one.found]
    assert [(one.check, one.verdict) for one in said] == [("servers", "problem")]
    assert "headrace down finds the processes without it" in said[0].remedy
    assert next(one for one in found if one.check == "live versions").verdict == "ok"


def test_a_check_that_breaks_stops_no_other_and_keeps_what_it_found(
    well: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: Any) -> Iterator[Finding]:
        yield Finding("ports", "ok", "one was looked at")
        raise RuntimeError("unforeseen [red]\n")

    monkeypatch.setitem(CHECKS, "ports", breaks)
    found = examine()
    assert [one.found for one in found if one.check == "ports"] == [
        "one was looked at",
        "could not be looked at: RuntimeError: unforeseen [red]",
    ]
    assert {one.check for one in found} == set(CHECKS) - {"backup"}


def test_a_run_that_has_a_process_just_began_or_works_elsewhere_is_not_dangling(well: Home) -> None:
    well.run(1)
    assert [one for one in examine() if one.verdict != "ok"] == []
    well.servers.flow_runs.clear()
    well.run(600)
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": "f-1"}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment) as process:
        executed = examine()
        process.kill()
    assert [one for one in executed if one.verdict != "ok"] == []
    well.servers.workers.append({"name": "another machine", "status": "ONLINE"})
    assert [one for one in examine() if one.verdict != "ok"] == []


def test_a_worker_on_another_machine_is_as_good(well: Home) -> None:
    well.record(worker=None)
    well.servers.workers = [{"name": "another machine", "status": "ONLINE"}]
    (row,) = [one for one in examine() if one.check == "worker"]
    assert (row.verdict, row.found) == ("ok", "1 worker(s) of the pool headrace on other machines: another machine")


def test_a_port_held_by_what_a_killed_server_left_is_not_said_to_be_a_strangers(well: Home) -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    environment = {**os.environ, stack.MARK: str(stack.folder() / "mlflow")}
    command = [sys.executable, "-c", f"{code}; time.sleep(60)"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as left:
        assert left.stdout
        well.set(mlflow_port=left.stdout.readline().strip())
        well.record(mlflow=well.dead(settings().mlflow_port))
        found = examine()
        left.kill()
    (row,) = [one for one in found if one.check == "ports" and one.verdict == "warning"]
    assert f"is held by what is left of our mlflow: process {left.pid}" in row.found
    assert row.remedy == "make up ends it; so does headrace down."


def test_what_is_being_written_is_no_leftover(well: Home) -> None:
    staged(well)
    with (Path(well.store.root) / ".staging" / "0123.owner").open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert [one.found for one in examine() if one.check == "leftovers"] == ["none"]


def test_waiting_writes_are_said_to_be_safe_while_mlflow_is_away(well: Home) -> None:
    noted("f-1.jsonl")(well)
    well.record(mlflow=None)
    (row,) = [one for one in examine() if one.check == "outbox"]
    assert row.remedy == "It arrives when MLflow is back; until then it is safe."


def test_a_pinned_version_wants_its_lineage_too(well: Home) -> None:
    other = well.write("dataset", 7)
    pinned = well.write("index", 8, other)
    well.store.pin("index", "toy", pinned.version, "a paper")
    shutil.rmtree(well.at(other))
    (problem,) = of(examine(), "problem")
    assert f"dataset/toy@{other.version}, behind index/toy@{pinned.version}" in problem.found


def test_a_young_backup_is_ok_and_what_it_left_out_is_said(well: Home) -> None:
    back_up(1)(well)
    (row,) = [one for one in examine(target=target_of(well)) if one.check == "backup"]
    assert row.verdict == "ok"
    assert "the newest is 1 days old" in row.found
    shutil.rmtree(target_of(well))
    back_up(1, leave_out=True)(well)
    rows = [one for one in examine(target=target_of(well)) if one.check == "backup"]
    assert [one.verdict for one in rows] == ["warning", "ok"]
    assert f"index/toy/{well.past.version}" in rows[0].found


def test_many_defects_of_one_kind_are_counted_and_some_named(well: Home) -> None:
    (well.folder / "outbox").mkdir()
    for number in range(12):
        (well.folder / "outbox" / f"f-{number:02}.jsonl").touch()
    (row,) = [one for one in examine() if one.check == "outbox"]
    assert row.found.endswith("f-00.jsonl, f-01.jsonl, f-02.jsonl, f-03.jsonl, f-04.jsonl and 7 more")


# --------------------------------------------------------------------------------------------------------- the command


def command() -> Any:
    from infra.cli import app

    return app


def test_the_table_has_every_defect_with_its_remedy_and_brackets_are_no_markup(
    well: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(well.at(well.live, "x.json"))
    noted("[bold]f.jsonl")(well)
    monkeypatch.setattr(doctor.terminal, "console", doctor_console)
    done = CliRunner().invoke(command(), ["doctor"])
    assert done.exit_code == 1
    assert "1 problem, 1 warning; " in done.output
    assert f"remove the folder index/toy/{well.live.version}" in done.output
    assert "[bold]f.jsonl" in done.output


def doctor_console() -> Any:
    from rich.console import Console

    return Console(width=600, highlight=False)


def test_deep_and_backup_can_be_said_on_the_command_line(well: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(doctor, "examine", lambda **words: asked.update(words) or [])
    assert CliRunner().invoke(command(), ["doctor", "--deep", "--backup", "/srv/backups"]).exit_code == 0
    assert (asked["deep"], asked["target"]) == (True, Path("/srv/backups"))


# ----------------------------------------------------------------------------------------------------- the real Prefect


def test_the_real_prefect_understands_what_it_is_asked(
    prefect_server: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Completed, Running

    monkeypatch.setattr(doctor, "NAMED", 1000)  # other tests leave runs on this server, too

    from infra import automations

    @task
    def hangs() -> None:
        """A task that begins and never ends."""

    @flow
    def doctored() -> None:
        """A flow whose process is gone."""

    monkeypatch.setenv("HEADRACE_PREFECT_API_URL", prefect_server)
    monkeypatch.setattr(doctor, "SILENT_S", -5)
    monkeypatch.setattr(doctor, "SETTLED_S", -5)
    settings.cache_clear()
    names = [f"doctored-{uuid4().hex[:6]}" for _ in range(3)]
    with get_client(sync_client=True) as client:
        if not client.read_work_pools():
            client.create_work_pool(WorkPoolCreate(name="headrace", type="process"))
        deployment = client.create_deployment(client.create_flow(doctored), "doctored", work_pool_name="headrace")
        alone, parent = (client.create_flow_run_from_deployment(deployment, name=name) for name in names[:2])
        begun = client.create_task_run(hangs, parent.id, dynamic_key="0", name=f"{names[1]}-task", state=Running())
        child = client.create_flow_run(doctored, name=names[2], parent_task_run_id=begun.id)
        for run in (alone, parent, child):
            client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(parent.id, Completed(), force=True)
        try:
            found = examine()
            rows = {one.found: one for one in found if one.check in ("dangling runs", "automations", "deployments")}
            assert not any("could not be looked at" in said for said in rows), rows
            said = " ".join(rows)
            assert re.search(rf"under way without a process: [^.]*{names[0]}", said)
            assert re.search(rf"in flow runs that are over: [^.]*flow run {names[2]}", said)
            assert f"task run {names[1]}-task" in said
            assert next(one for one in rows.values() if one.check == "deployments").found.startswith("missing: flows.")
            assert [one.found for one in found if one.check == "worker"] == [
                "no worker of the pool headrace is online: nothing is executed"
            ]
            automations.create()
            after = [one.found for one in examine() if one.check == "automations"]
            assert DEAD not in " ".join(after)
            known = client.read_automations_by_name(DEAD)
            client.pause_automation(known[0].id)
            assert any(one.found == f"switched off: {DEAD}" for one in examine())
        finally:
            for identifier in (child.id, alone.id, parent.id):
                client.delete_flow_run(UUID(str(identifier)))
            for automation in client.read_automations_by_name(DEAD):
                client.delete_automation(automation.id)
            client.delete_deployment(deployment)


def test_the_store_of_the_doctor_is_opened_without_a_touch(home: Path) -> None:
    staging = Path(settings().store_location) / ".staging"
    staging.mkdir(parents=True)
    (staging / "0123").mkdir()
    (staging / "0123.owner").touch()
    Store(settings().store_location, touch=False).kinds()
    examine()
    assert (staging / "0123").exists(), "the doctor swept what it should name"
