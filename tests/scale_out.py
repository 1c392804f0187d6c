"""Run the whole set on Postgres, Redis, an S3-compatible store, a Dask scheduler and torchrun, and write it down.

    python -m tests.scale_out [--only SECTION ...]

One command: it starts the services from packages in temporary folders, brings the stack up against them on an address
that is not loopback, with passwords, runs what there is to run, and ends all of it. The Dask workers and a second
headrace, a worker only, live in network namespaces where that is permitted, as if they were other machines. Pieces are
kept by the digest of the code, so that an interrupted run goes on where it was. A service that is not installed is
named, with how to install it. At the end `docs/results/scale_out.md` says what was found, and the exit code is 1 if
something failed.
"""

import argparse
import base64
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import psutil
import yaml
from rich.console import Console

from infra import automations
from infra.manifest import code_digest
from infra.settings import PROJECT
from tests import services
from tests.proof import Found, Pieces, Proof, Report, Section, Subject, conclude, prove, pytest, table, yes

LARGE = {"small", "paper", "movielens", "glove-cities"}
"""Presets that take long, or want files that are not here."""

OTHER = {"config": {"encoder": {"training": {"seed": 1}}}}
"""Parameters that make another version of the tiny index."""

TWO_PROCESSES = {"config": {"data": {"name": "two-processes"}, "encoder": {"training": {"processes": 2}}}}
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
COMMAND = [sys.executable, "-m", "infra.cli"]


class Fabric:
    """The services, the stack on them, and a second machine; each started when first asked for."""

    def __init__(self, running: ExitStack) -> None:
        self._running = running
        self.secrets: dict[str, str] = {}
        self.seen_in_command_lines: list[str] = []
        self.scans = 0

    @cached_property
    def home(self) -> Path:
        return Path(self._running.enter_context(tempfile.TemporaryDirectory(prefix="headrace-scale-")))

    @cached_property
    def network(self) -> services.Network:
        return self._running.enter_context(services.network())

    @cached_property
    def postgres(self) -> services.Postgres:
        return self._running.enter_context(services.postgres(self.network.host))

    @cached_property
    def redis(self) -> tuple[str, str]:
        return self._running.enter_context(services.redis(self.network.host))

    @cached_property
    def s3(self) -> dict[str, str]:
        return self._running.enter_context(services.s3(self.network.host))

    @cached_property
    def dask(self) -> str:
        return self._running.enter_context(services.dask(self.network, self.s3))

    @cached_property
    def environment(self) -> dict[str, str]:
        """What the stack is told; all of it is environment."""
        prefect, mlflow = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        values = {
            "HEADRACE_HOME": str(self.home / "first"),
            "HEADRACE_HOST": self.network.host,
            "HEADRACE_PREFECT_PORT": str(services.free_port(self.network.host)),
            "HEADRACE_MLFLOW_PORT": str(services.free_port(self.network.host)),
            "HEADRACE_PREFECT_AUTH": f"operator:{prefect}",
            "HEADRACE_MLFLOW_USER": "operator",
            "HEADRACE_MLFLOW_PASSWORD": mlflow,
            "HEADRACE_PREFECT_DATABASE": self.postgres.database("prefect"),
            "HEADRACE_MLFLOW_DATABASE": self.postgres.database("mlflow"),
            "HEADRACE_REDIS_URL": self.redis[0],
            "HEADRACE_STORE": "s3://headrace/store",
            "HEADRACE_MLFLOW_ARTIFACTS": "s3://headrace/mlflow",
            "HEADRACE_DASK_ADDRESS": self.dask,
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",  # a minute otherwise
            **self.s3,
        }
        for name in ("HEADRACE_PREFECT_DATABASE", "HEADRACE_MLFLOW_DATABASE", "HEADRACE_REDIS_URL"):
            self.secrets[name] = values[name].partition("://")[2].partition("@")[0].partition(":")[2]
        self.secrets |= {"HEADRACE_PREFECT_AUTH": prefect, "HEADRACE_MLFLOW_PASSWORD": mlflow}
        self.secrets["AWS_SECRET_ACCESS_KEY"] = values["AWS_SECRET_ACCESS_KEY"]
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HEADRACE_", "PREFECT_API", "MLFLOW_TRACKING", "AWS_")) and name != "PREFECT_HOME"
        }
        return {**clean, **values}

    @cached_property
    def stack(self) -> dict[str, Any]:
        """The record of the stack, up until the end of the program; command lines are watched from here on."""
        assert self.environment  # the services first, so that they end after the stack
        self._running.callback(self.headrace, "down")
        self._watch()
        done = self.headrace("up")
        if done.returncode:
            raise SystemExit(f"headrace up ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads((self.home / "first" / "stack" / "stack.json").read_text())
        return found

    @cached_property
    def elsewhere(self) -> dict[str, str]:
        """What the second machine is told: where the servers are, and nothing of what is behind them."""
        behind = ("HEADRACE_PREFECT_DATABASE", "HEADRACE_MLFLOW_DATABASE", "HEADRACE_REDIS_URL", "HEADRACE_HOST")
        values = {name: value for name, value in self.environment.items() if name not in behind}
        return {
            **values,
            "HEADRACE_HOME": str(self.home / "second"),
            "HEADRACE_PREFECT_API_URL": f"{self.stack['prefect']['address']}/api",
            "HEADRACE_TRACKING_URI": self.stack["mlflow"]["address"],
        }

    @cached_property
    def copy(self) -> Path:
        """The project as the second machine has it: in another folder."""
        folder = self.home / "copy"
        for name in ("flows", "tasks", "models", "infra"):
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "secrets"))
        shutil.copy(PROJECT / "prefect.yaml", folder)
        return folder

    def headrace(self, *words: str, machine: int | None = None) -> subprocess.CompletedProcess[str]:
        """A command of headrace here, or on another machine."""
        command = [*COMMAND, *words]
        command = command if machine is None else self.network.command(machine, command)
        environment = self.environment if machine is None else self.elsewhere
        place = PROJECT if machine is None else self.copy
        return subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=900, check=False
        )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A call of Prefect's API with credentials."""
        user = self.environment["HEADRACE_PREFECT_AUTH"]
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}",
        }
        data = None if body is None else json.dumps(body).encode()
        address = f"{self.stack['prefect']['address']}/api{path}"
        request = urllib.request.Request(address, data, headers, method=method)  # noqa: S310
        with direct.open(request, timeout=60) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def run(self, deployment: str, parameters: Mapping[str, Any] | None = None) -> Found:
        """Run a deployment to its end."""
        found = self.call("GET", f"/deployments/name/{deployment}")
        create = f"/deployments/{found['id']}/create_flow_run"
        begun = time.monotonic()
        flow_run = self.call("POST", create, {"parameters": dict(parameters)} if parameters else {})
        return self.follow(flow_run["id"], begun)

    def follow(self, flow_run: str, begun: float, seconds: float = 600) -> Found:
        """Wait for a flow run and say how it and its tasks ended."""
        while time.monotonic() - begun < seconds:
            found = self.call("GET", f"/flow_runs/{flow_run}")
            if found["state_type"] in ENDED:
                break
            time.sleep(1)
        time.sleep(2)  # states of tasks travel as events and arrive a little later
        children = self.call("POST", "/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run]}}})
        ids = [flow_run, *(child["id"] for child in children)]
        tasks = self.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": ids}}})
        names = [task["state_name"] for task in tasks if task["state_name"] != "Published"]
        return {
            "id": flow_run,
            "state": f"{found['state_type']}/{found['state_name']}",
            "message": found["state"]["message"] or "",
            "tasks": {name: names.count(name) for name in sorted(set(names))},
            "run_seconds": round(time.monotonic() - begun, 1),
        }

    def _watch(self) -> None:
        """Look at the command lines of all processes, over and over, for a secret."""

        def look() -> None:
            while not ended.wait(1):
                self.scans += 1
                for process in psutil.process_iter():
                    with suppress(psutil.Error):
                        words = " ".join(process.cmdline())
                        found = [name for name, secret in self.secrets.items() if secret in words]
                        self.seen_in_command_lines += [f"{name} in {words.split()[0]}" for name in found]

        ended = threading.Event()
        threading.Thread(target=look, daemon=True).start()
        self._running.callback(ended.set)


direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_fabrics: dict[int, Fabric] = {}


def fabric(proof: Proof) -> Fabric:
    """The one fabric of a proof; nothing starts before it is used."""
    return _fabrics.setdefault(id(proof), Fabric(proof.stack))


# -------------------------------------------------------------------------------------------- what is behind


def behind(proof: Proof) -> Pieces:
    """Each service, asked whether it is really used."""
    fab = fabric(proof)
    return {
        "postgres": lambda _: _postgres(fab),
        "grace": lambda _: _grace(fab),
        "redis": lambda _: _redis(fab),
        "s3": lambda _: _objects(fab),
        "dask": lambda _: _dask(fab),
    }


def _postgres(fab: Fabric) -> Found:
    import psycopg

    fab.run("retrieval/tiny")
    with psycopg.connect(fab.environment["HEADRACE_PREFECT_DATABASE"]) as connection:
        (flow_runs,) = connection.execute("SELECT count(*) FROM flow_run").fetchone() or (0,)
    with psycopg.connect(fab.environment["HEADRACE_MLFLOW_DATABASE"]) as connection:
        (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone() or (0,)
    files = [str(file.name) for file in (fab.home / "first").rglob("*.db")]
    said = f"{flow_runs} flow runs of Prefect, {runs} runs of MLflow; SQLite files in HOME: {len(files)}"
    return {"version": fab.postgres.version, "said": said, "right": bool(flow_runs and runs and not files)}


def _grace(fab: Fabric) -> Found:
    """A run that Prefect waits for, in the database that a stopped server left, and the grace before its start."""
    import psycopg
    from sqlalchemy.engine import make_url

    fab.run("retrieval/tiny")
    url, moment = fab.environment["HEADRACE_PREFECT_DATABASE"], datetime.now(UTC)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            'INSERT INTO automation_bucket (automation_id, trigger_id, bucketing_key, count, start, "end") '
            "SELECT id, gen_random_uuid(), '[\"proof\"]', 0, %s, %s FROM automation LIMIT 1",
            (moment, moment + timedelta(seconds=60)),
        )
        automations.give_grace(make_url(url).set(drivername="postgresql+asyncpg"))
        gone = connection.execute(
            'DELETE FROM automation_bucket WHERE bucketing_key = \'["proof"]\' RETURNING "end"'
        ).fetchone()
    seconds = (gone[0] - moment).total_seconds() if gone else 0.0
    said = f"a run that was waited for another 60 s has {seconds:.0f} s after a start of the server"
    return {"version": fab.postgres.version, "said": said, "right": seconds >= automations.GRACE_S}


def _redis(fab: Fabric) -> Found:
    import redis

    assert fab.stack
    with redis.Redis.from_url(fab.redis[0]) as client:
        keys = [key.decode() for key in client.keys("*")]
    turns = sum(key.startswith("prefect-server:") for key in keys)
    messages = sum("messaging-cache" in key for key in keys)
    said = f"{len(keys)} keys: messages {messages}, turns of Prefect's services {turns}, and others"
    return {"version": fab.redis[1].split(" sha")[0], "said": said, "right": bool(messages and turns)}


def _objects(fab: Fabric) -> Found:
    import moto

    fab.run("retrieval/tiny")
    names = _listing(fab)
    counts = {
        "files of the store": sum(name.startswith("store/") and "/.results/" not in f"/{name}" for name in names),
        "results of Prefect": sum("/.results/" in f"/{name}" for name in names),
        "files of MLflow": sum(name.startswith("mlflow/") for name in names),
    }
    local = [path for path in ("first/store", "first/prefect/storage") if (fab.home / path).exists()]
    said = ", ".join(f"{name} {count}" for name, count in counts.items()) + f"; folders of HOME: {local or 'none'}"
    return {"version": f"moto {moto.__version__}", "said": said, "right": all(counts.values()) and not local}


def _dask(fab: Fabric) -> Found:
    """The door that flows use, from a process with the environment of the stack."""
    code = (
        "import json, os\n"
        "from infra.compute import dask_client\n"
        "place = lambda number: (number * number, os.readlink('/proc/self/ns/net'))\n"
        "with dask_client() as client:\n"
        "    client.wait_for_workers(2, timeout=60)\n"
        "    found = client.gather(client.map(place, range(47), pure=False))\n"
        "    every = client.run(lambda: os.readlink('/proc/self/ns/net'))\n"
        "here = os.readlink('/proc/self/ns/net')\n"
        "print(json.dumps([[n for n, _ in found], sorted(set(every.values())), here]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=fab.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"version": "", "said": done.stderr[-500:], "right": False}
    squares, places, here = json.loads(done.stdout)
    right = squares == [number * number for number in range(47)]
    apart = len(places) == 2 and here not in places
    said = f"47 tasks on two workers {'in network namespaces of their own' if apart else 'on this machine'}"
    import distributed

    right = right and apart == bool(fab.network.machines)
    return {"version": f"distributed {distributed.__version__}", "said": said, "right": right}


def _listing(fab: Fabric) -> list[str]:
    found = _client(fab).get_paginator("list_objects_v2").paginate(Bucket="headrace")
    return [item["Key"] for page in found for item in page.get("Contents", ())]


def _client(fab: Fabric) -> Any:
    import botocore.session

    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=fab.s3["AWS_ENDPOINT_URL"],
        aws_access_key_id=fab.s3["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=fab.s3["AWS_SECRET_ACCESS_KEY"],
        region_name=fab.s3["AWS_DEFAULT_REGION"],
    )


def report_behind(found: Mapping[str, Found]) -> Report:
    """A row for each service."""
    rows = [(name, one["version"], one["said"], yes(one["right"])) for name, one in found.items()]
    missed = [f"{name}: {one['said']}" for name, one in found.items() if not one["right"]]
    return Report(table(("service", "version", "what it held after a run", "as it must be"), rows), missed)


# ------------------------------------------------------------------------------------------------------ runs


def runs(proof: Proof) -> Pieces:
    """Every deployment that is small enough, then what only several processes or machines can show."""
    fab = fabric(proof)
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    names = [f"{_flow(one['entrypoint'])}/{one['name']}" for one in deployments if one["name"] not in LARGE]
    ordered = sorted(names, key=lambda name: (name.startswith("retrieval-rollback"), not name.startswith("nightly")))
    return {
        **{name: partial(_deployment, fab, name) for name in ordered},
        "retrieval/tiny in two processes": lambda _: fab.run("retrieval/tiny", TWO_PROCESSES),
        "a schedule": lambda _: _schedule(fab),
        "headrace run": lambda _: _followed(fab, None),
        "headrace run on the second machine": lambda _: _followed(fab, 0),
    }


def _flow(entrypoint: str) -> str:
    """The name of the flow behind `flows.MODULE.FUNCTION`."""
    import importlib

    module, _, function = entrypoint.rpartition(".")
    return str(getattr(importlib.import_module(module), function).name)


def _deployment(fab: Fabric, name: str, _: Mapping[str, Found]) -> Found:
    if name.startswith(("retrieval-monitor", "retrieval-rollback")):
        fab.run("retrieval/tiny")
    if name.startswith("retrieval-rollback"):  # there must be a version to return to
        fab.run("retrieval/tiny", OTHER)
    return fab.run(name)


def _schedule(fab: Fabric) -> Found:
    """Give a deployment a schedule and wait for a run that nobody asked for."""
    fab.run("retrieval/tiny")
    deployment = fab.call("GET", "/deployments/name/retrieval-monitor/tiny")
    begun = time.monotonic()
    schedule = {"schedule": {"interval": 5, "anchor_date": datetime.now(UTC).isoformat()}, "active": True}
    made = fab.call("POST", f"/deployments/{deployment['id']}/schedules", [schedule])
    runs = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": list(ENDED)}}}
    fired: list[Any] = []
    try:
        while not fired and time.monotonic() - begun < 240:
            time.sleep(2)
            ended = fab.call("POST", "/flow_runs/filter", {"flow_runs": runs})
            fired = [run for run in ended if run["auto_scheduled"]]
    finally:
        fab.call("DELETE", f"/deployments/{deployment['id']}/schedules/{made[0]['id']}")
    if not fired:
        return {"state": "no run began", "message": "", "tasks": {}, "run_seconds": round(time.monotonic() - begun, 1)}
    return fab.follow(fired[0]["id"], begun)


def _followed(fab: Fabric, machine: int | None) -> Found:
    """The command line's own way, with another worker asleep so that it is this machine's that works."""
    fab.run("retrieval/tiny")
    asleep = None
    if machine is not None:
        done = fab.headrace("up", machine=machine)
        if done.returncode:
            return {"state": "headrace up failed", "message": done.stdout[-500:], "tasks": {}, "run_seconds": 0.0}
        asleep = psutil.Process(fab.stack["worker"]["pid"])
        asleep.suspend()
    begun = time.monotonic()
    try:
        done = fab.headrace("run", "--flow", "retrieval", "--preset", "tiny", machine=machine)
    finally:
        if asleep:
            asleep.resume()
    words = re.findall(r"(?:curate|train|build_index|evaluate|publish)-\w+ +(\w+)$", done.stdout, re.MULTILINE)
    ended = [word for word in words if word not in ("Running", "Pending")]
    log = (fab.home / ("second" if machine is not None else "first") / "stack" / "worker.log").read_text()
    flow_run = next(iter(re.findall(r"/flow-run/([0-9a-f-]{36})", done.stdout)), "none")
    here = flow_run in log or machine is None
    services_of = json.loads(
        (fab.home / ("second" if machine is not None else "first") / "stack" / "stack.json").read_text()
    )
    started = sorted(name for name, service in services_of.items() if service["pid"])
    if machine is not None:
        fab.headrace("down", machine=machine)
    return {
        "state": f"exit code {done.returncode}" + ("" if here else ", but on the other machine"),
        "message": (done.stdout + done.stderr)[-400:] if done.returncode else "",
        "tasks": {name: ended.count(name) for name in sorted(set(ended))},
        "run_seconds": round(time.monotonic() - begun, 1),
        "started": started,
    }


def report_runs(found: Mapping[str, Found]) -> Report:
    """A row for each run."""
    rows, missed = [], []
    for name, one in found.items():
        tasks = ", ".join(f"{count} {state}" for state, count in one["tasks"].items())
        rows.append((f"`{name}`" if "/" in name and " " not in name else name, one["state"], tasks, one["run_seconds"]))
        right = one["state"].startswith("COMPLETED/") or one["state"] == "exit code 0"
        if name.endswith("second machine"):
            right = right and set(one["tasks"]) == {"Cached"} and not {"prefect", "mlflow"} & set(one["started"])
        if not right:
            missed.append(f"{name} ended {one['state']} with {tasks}: {one['message'][:300]}")
    lines = [
        "Through Prefect's API, by the worker, with every service of the table above. The second machine has a home "
        "and a copy of the code in other folders, the addresses of both servers and of the store, and a worker; it "
        "must find every result of the first.",
        "",
        *table(("what", "ended", "tasks", "seconds"), rows),
    ]
    return Report(lines, missed)


# ---------------------------------------------------------------------------------------------------- guards


def guards(proof: Proof) -> Pieces:
    """Who gets in, and what gets out."""
    fab = fabric(proof)
    return {
        "prefect without credentials": lambda _: _knock_everywhere(_prefect_routes(fab), {"/api/health", "/api/ready"}),
        "prefect with a wrong password": lambda _: _knock_everywhere(
            _prefect_routes(fab), {"/api/health", "/api/ready"}, "operator:wrong"
        ),
        "mlflow without credentials": lambda _: _knock_everywhere(_mlflow_routes(fab), PUBLIC),
        "mlflow with a wrong password": lambda _: _knock_everywhere(_mlflow_routes(fab), PUBLIC, "operator:wrong"),
        "mlflow under a stranger's name": lambda _: _stranger(fab),
        "secrets": lambda _: _secrets(fab),
    }


PUBLIC = {"/health", "/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info", "/static-files/1"}
"""What MLflow's own authentication leaves open: whether it runs, its kind of database, the files of its pages."""


def _prefect_routes(fab: Fabric) -> list[tuple[str, str]]:
    base = fab.stack["prefect"]["address"]
    with direct.open(f"{base}/openapi.json", timeout=60) as reply:
        paths = json.loads(reply.read())["paths"]
    plain = "11111111-1111-4111-8111-111111111111"
    return [
        (method.upper(), f"{base}/api{re.sub('{[^}]*}', plain, path)}") for path, ops in paths.items() for method in ops
    ]


def _mlflow_routes(fab: Fabric) -> list[tuple[str, str]]:
    """Every route of the Flask application and of the one around it."""
    code = (
        "import json, re\n"
        "from mlflow.server import app as inner\n"
        "from mlflow.server.fastapi_app import app as outer\n"
        "found = {(m, re.sub('<[^>]*>', '1', r.rule)) for r in inner.url_map.iter_rules() for m in r.methods}\n"
        "found |= {(m.upper(), re.sub('{[^}]*}', '1', p)) for p, o in outer.openapi()['paths'].items() for m in o}\n"
        "print(json.dumps(sorted(f for f in found if f[0] not in ('HEAD', 'OPTIONS'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    base = fab.stack["mlflow"]["address"]
    return [(method, base + path) for method, path in json.loads(done.stdout.splitlines()[-1])]


def _knock_everywhere(routes: list[tuple[str, str]], public: set[str], user: str = "") -> Found:
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    codes: dict[str, int] = {}
    opened = []
    for method, url in routes:
        code = _status(method, url, headers)
        codes[str(code)] = codes.get(str(code), 0) + 1
        path = "/" + url.partition("://")[2].partition("/")[2]
        if code != 401 and path not in public:
            opened.append(f"{method} {path} answered {code}")
    said = f"{len(routes)} routes: " + ", ".join(f"{count} answered {code}" for code, count in sorted(codes.items()))
    return {"said": said, "right": not opened and len(routes) > 100, "wrong": opened[:10]}


def _status(method: str, url: str, headers: Mapping[str, str]) -> int:
    data = None if method == "GET" else b"{}"
    try:
        with direct.open(urllib.request.Request(url, data, dict(headers), method=method), timeout=60) as reply:  # noqa: S310
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def _stranger(fab: Fabric) -> Found:
    """A page elsewhere that points its own name to this server, or writes to it from its own origin."""
    url = f"{fab.stack['mlflow']['address']}/api/2.0/mlflow/experiments/search"
    user = f"operator:{fab.environment['HEADRACE_MLFLOW_PASSWORD']}"
    ours = {
        "Content-Type": "application/json",
        "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}",
    }
    named = _status("POST", url, {**ours, "Host": "stranger.example.org"})
    written = _status("POST", url, {**ours, "Origin": "http://stranger.example.org"})
    own = _status("POST", url, {**ours, "Origin": fab.stack["mlflow"]["address"]})
    said = f"another Host {named}, another Origin {written}, its own Origin {own}"
    return {"said": said, "right": (named, written) == (403, 403) and own not in (401, 403), "wrong": []}


def _secrets(fab: Fabric) -> Found:
    """Look for every secret wherever something is kept or shown."""
    fab.run("retrieval/tiny")
    found: list[str] = list(dict.fromkeys(fab.seen_in_command_lines))
    needles = {name: secret.encode() for name, secret in fab.secrets.items()}

    def search(where: str, data: bytes) -> None:
        found.extend(f"{name} in {where}" for name, needle in needles.items() if needle in data)

    files = [file for file in fab.home.rglob("*") if file.is_file()]
    for file in files:
        search(str(file.relative_to(fab.home)), file.read_bytes())
    dump = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"), reverse=True)), Path("pg_dump"))
    size = 0
    for name in ("PREFECT", "MLFLOW"):
        address = fab.environment[f"HEADRACE_{name}_DATABASE"]
        plain = re.sub(r"://(\w+):[^@]+@", r"://\1@", address)
        password = {"PGPASSWORD": fab.secrets[f"HEADRACE_{name}_DATABASE"]}
        done = subprocess.run(
            [str(dump), "--dbname", plain], env={**os.environ, **password}, capture_output=True, check=True
        )
        size += len(done.stdout)
        search(f"the database of {name.title()}", done.stdout)
    client, objects = _client(fab), _listing(fab)
    for key in objects:
        search(f"s3://headrace/{key}", client.get_object(Bucket="headrace", Key=key)["Body"].read())
    worker = psutil.Process(fab.stack["worker"]["pid"]).environ()
    needless = [name for name in needles if name.startswith("HEADRACE_") and name in worker]
    found += [f"{name} in the environment of the worker" for name in needless]
    said = (
        f"{len(needles)} secrets looked for in {len(files)} files of HOME, dumps of both databases ({size:,} bytes), "
        f"{len(objects)} objects, the command lines of all processes {fab.scans} times: {len(found)} found"
    )
    return {"said": said, "right": not found and fab.scans > 3, "wrong": found[:10]}


def report_guards(found: Mapping[str, Found]) -> Report:
    """A row for each attempt."""
    rows = [(name, one["said"], yes(one["right"])) for name, one in found.items()]
    missed = [f"{name}: {one['said']} {one['wrong']}" for name, one in found.items() if not one["right"]]
    return Report(
        [
            "The servers listen on an address that is not loopback. Every route that they have is called; all but "
            "those that say whether the server runs must answer 401.",
            "",
            *table(("attempt", "what happened", "as it must be"), rows),
        ],
        missed,
    )


# ----------------------------------------------------------------------------------------------------- tests

SUITES = ("tests/infra/test_object_store.py", "tests/infra/test_registry.py", "tests/flows", "tests/test_stack.py")


def suites(proof: Proof) -> Pieces:
    """The parts of the test suite that depend on what is behind them."""
    fab = fabric(proof)
    return {name: partial(_suite, fab, name) for name in SUITES}


def _suite(fab: Fabric, name: str, _: Mapping[str, Found]) -> Found:
    """Run tests with stores on S3; their flow runs go to the running servers, or to their own on Postgres."""
    environment = {key: value for key, value in fab.environment.items() if not key.startswith("HEADRACE_")}
    if name == "tests/test_stack.py":  # it starts a stack itself
        mark = secrets.token_hex(2)
        environment |= {
            "HEADRACE_PREFECT_DATABASE": fab.postgres.database(f"prefect_{mark}"),
            "HEADRACE_MLFLOW_DATABASE": fab.postgres.database(f"mlflow_{mark}"),
            "HEADRACE_REDIS_URL": re.sub(r"/\d+$", "/1", fab.redis[0]),
        }
    else:
        environment |= {
            "HEADRACE_TEST_STORE": "s3://headrace/tests",
            "HEADRACE_TEST_PREFECT_API_URL": f"{fab.stack['prefect']['address']}/api",
            "HEADRACE_TEST_TRACKING_URI": fab.stack["mlflow"]["address"],
            "PREFECT_API_AUTH_STRING": fab.environment["HEADRACE_PREFECT_AUTH"],
            "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": "remote-file-system/headrace-results",
            "MLFLOW_TRACKING_USERNAME": "operator",
            "MLFLOW_TRACKING_PASSWORD": fab.environment["HEADRACE_MLFLOW_PASSWORD"],
        }
    told = pytest([*name.split(), "--timeout=900", "-q"], environment)
    told.pop("output")
    return {**told, "test_seconds": round(told["test_seconds"], 1)}


def report_suites(found: Mapping[str, Found]) -> Report:
    """A row for each part of the suite."""
    rows = [
        (f"`{name}`", one["tests"], one["skipped"], len(one["failures"]), one["test_seconds"])
        for name, one in found.items()
    ]
    missed = [f"{name}: {failure}" for name, one in found.items() for failure in one["failures"]]
    missed += [f"{name} ended with {one['code']}" for name, one in found.items() if one["code"] and not one["failures"]]
    lines = [
        "Tests of the suite with the store on S3, runs in MLflow on Postgres, and flow runs at the Prefect server on "
        "Postgres and Redis; `tests/test_stack.py` brings up a stack of its own on other databases of the same.",
        "",
        *table(("tests", "run", "skipped", "failed", "seconds"), rows),
    ]
    return Report(lines, missed)


OWN = (Path(__file__), Path(services.__file__))
TESTS = sorted(
    file
    for name in ("tests/conftest.py", "tests/runs.py", *SUITES)
    for file in ([PROJECT / name] if name.endswith(".py") else (PROJECT / name).glob("*.py"))
)
SUBJECT = Subject(
    name="scale_out",
    title="Scale-out by environment alone",
    code=("flows", "tasks", "infra", "models.common", "models.feed.retrieval"),
    sections=(
        Section("behind", "What is behind the servers", OWN, behind, report_behind),
        Section("runs", "Deployments", OWN, runs, report_runs),
        Section("guards", "Access and secrets", OWN, guards, report_guards),
        Section("suites", "Tests", (*OWN, *TESTS), suites, report_suites),
    ),
    seeds="as the presets have them",
)


def main() -> None:
    """Run, write the page, and end with 1 if something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale_out")
    names = [section.name for section in SUBJECT.sections]
    parser.add_argument("--only", nargs="+", metavar="SECTION", choices=names, help="names of sections; all by default")
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)  # to try the program; the page is only shown
    chosen = parser.parse_args()
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    proof = Proof(SUBJECT, code_digest(*SUBJECT.code))
    try:
        found = prove(proof, chosen.only or names, chosen.limit, console)
    except services.MissingServiceError as error:
        sys.exit(str(error))
    only = f" --only {' '.join(chosen.only)}" if chosen.only else ""
    sys.exit(conclude(proof, found, f"python -m tests.scale_out{only}", console, show=chosen.limit is not None))


if __name__ == "__main__":
    main()
