"""What `make prove SYSTEM=operations` measures: kills, deaths, outages, torn reads, damages."""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from infra.settings import PROJECT
from tests import operations
from tests.proof import Found, Pieces, Proof, Report, Section, Subject, table, yes

CODE = (
    "flows",
    "tasks",
    "models.common",
    *(f"infra.{door}" for door in ("automations", "caching", "catalogue", "compute", "keeper", "lineage", "manifest")),
    *(f"infra.{door}" for door in ("outbox", "prefect_server", "provenance", "refs", "registry", "settings", "stack")),
    *(f"infra.{door}" for door in ("store", "tracking")),
)
"""What the figures speak of."""

SEED = 20261124
CRASHED_WITHIN_S = 120
AWAY_S = 60
OUTAGES = 10
COMPLETIONS = 500
PUBLISHERS = 200
DAMAGES = 250
STEPS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35, 38, 41, 44)
RANDOM_WRITES = 20


# ------------------------------------------------------------------------------------------------- kills


def moments() -> dict[str, tuple[str, str]]:
    """Names of kills to flow and moment: every task of three flows, writes, and steps of training."""
    from tests.faults import INSIDE, TASKS, WRITES

    chosen = {f"rebuild_index {moment}": ("rebuild_index", moment) for moment in (*INSIDE, *WRITES)}
    for flow in ("train_encoder", "backfill_index"):
        for task in TASKS[flow]:
            if flow == "backfill_index" and task in ("build_index", "evaluate"):
                continue  # the same tasks as in rebuild_index, with the same inputs
            for where in ("enter", "middle", "exit"):
                chosen[f"{flow} {task}:{where}"] = (flow, f"{task}:{where}")
    draw = random.Random(SEED)  # a backfill writes day after day: die at any of hundreds of writes
    for count in sorted(draw.sample(range(2, 1000), RANDOM_WRITES)):
        chosen[f"backfill_index fsync:{count}"] = ("backfill_index", f"fsync:{count}")
    return chosen | {f"rebuild_index step:{step}": ("rebuild_index", f"step:{step}") for step in STEPS}


SERVICES = {
    f"{victim} at {after:g} s": (victim, deployment, after)
    for number, (victim, count) in enumerate({"worker": 5, "flow": 4, "prefect": 5, "mlflow": 5}.items())
    for deployment, after in zip(
        ("retrieval/tiny", "retrieval-encoder/tiny") * count,
        operations.moments(count, SEED + number, 9.0),
        strict=False,
    )
}
"""Kills through a real stack: who dies, of which deployment's run, and when."""


def kills(proof: Proof) -> Pieces:
    """Undisturbed runs first, then the kills inside a flow, then those of services."""
    flows = {f"undisturbed {flow}": partial(_undisturbed, proof, flow, "") for flow in _flows()}
    often = {"undisturbed steps": partial(_undisturbed, proof, "rebuild_index", "step:0")}
    inside = {name: partial(_killed, proof, flow, moment) for name, (flow, moment) in moments().items()}
    return {**flows, **often, **inside, "services": _services}


def _flows() -> list[str]:
    return sorted({flow for flow, _ in moments().values()})


def _undisturbed(proof: Proof, flow: str, moment: str, _: Mapping[str, Found]) -> Found:
    from tests.faults import durations_of, run_with_kill

    with tempfile.TemporaryDirectory() as folder:
        result = run_with_kill(Path(folder), moment, proof.server, {}, flow)
        if result.state != "COMPLETED/Published":
            raise SystemExit(f"the undisturbed run ended {result.state}:\n{result.attempts[0].output[-4000:]}")
        durations = durations_of(Path(folder))
    return {"digest": result.digest, "durations": durations, "steps": result.steps}


def _killed(proof: Proof, flow: str, moment: str, known: Mapping[str, Found]) -> Found:
    from tests.faults import run_with_kill

    stepped = moment.startswith("step:")
    whole = known["undisturbed steps" if stepped else f"undisturbed {flow}"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = run_with_kill(Path(folder), moment, proof.server, whole["durations"], flow)
        except Exception as error:  # one moment that ends in an error is a finding, and the others are still wanted
            return {"killed": True, "state": f"{type(error).__name__}: {error}"[:200], "equal": False, "repeated": []}
    said = {} if result.state.startswith("COMPLETED") else {"said": result.attempts[-1].output[-2000:]}
    return {
        **said,
        "killed": result.killed,
        "state": result.state,
        "equal": result.digest == whole["digest"],
        "repeated": result.repeated,
        "runs": result.runs,
        "steps_lost": result.steps - whole["steps"] if stepped else 0,
        "retries": 1,
    }


def _services(_: Mapping[str, Found]) -> Found:
    """All kills of services in one stack: bringing one up for each would take longer than the kills."""
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        operations.stack(Path(folder) / "home", 4410) as running,
    ):
        whole = {}
        for deployment, kind in (("retrieval/tiny", "index"), ("retrieval-encoder/tiny", "model")):
            running.forget()
            state = running.wait(running.trigger(deployment, operations.learning(0)))
            if state["name"] != "Published":
                raise SystemExit(f"the undisturbed run of {deployment} ended {state}")
            whole[deployment] = running.digest(kind, "retrieval-operated")
        for name, (victim, deployment, after) in SERVICES.items():
            _whole_again(running)
            result = operations.killed(running, victim, after, deployment)
            found[name] = {**result, "equal": result["digest"] == whole[deployment]}
    return {"kills": found}


def _whole_again(running: operations.Stack, seconds: float = 120) -> None:
    """Wait until the keeper has started again what the kill before took."""
    deadline = time.monotonic() + seconds
    while not all(psutil.pid_exists(service["pid"]) for service in running.services().values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"a service is still dead after {seconds:.0f} s: {running.services()}")
        time.sleep(0.5)


def report_kills(found: Mapping[str, Found]) -> Report:
    """A row for each kill and the sum."""
    rows, missed, right, total, lost = [], [], 0, 0, 0
    inside = {name: piece for name, piece in found.items() if not name.startswith("undisturbed") and name != "services"}
    services = found.get("services", {}).get("kills", {})
    for name, piece in {**inside, **services}.items():
        if not piece.get("killed", True):
            rows.append((name, "not reached", piece["state"], "", "", "", ""))
            continue
        total += 1
        steps = piece.get("steps_lost", 0)
        lost = max(lost, steps)
        good = (
            piece["state"].startswith("COMPLETED/")
            and piece["equal"]
            and not piece["repeated"]
            and piece.get("retries", 1) <= 1
            and steps <= 1
        )
        right += good
        repeated = ", ".join(piece["repeated"]) or "0"
        rows.append(
            (name, piece.get("first", "killed"), piece["state"], piece.get("retries", 1), yes(piece["equal"]), repeated)
            + ((steps,) if name in inside and "step" in name else ("",))
        )
        if not good:
            missed.append(f"kills: {name} ended {piece['state']}, {piece}")
    if total < 100:
        missed.append(f"kills: {total} kills were reached, 100 are wanted")
    head = (
        "kill",
        "before the retry",
        "at the end",
        "retries",
        "digest equal",
        "finished tasks repeated",
        "steps lost",
    )
    return Report(
        [
            "The process of the flow is killed (SIGKILL) at a moment inside it and the flow run retried once, each "
            "with a home of its own: at the beginning, in the middle and at the end of each task, at the n-th fsync, "
            "rename or replace, in the n-th step of a training with a checkpoint after each. Then a service of a "
            "running stack is killed some seconds into a run and the run retried if it crashed; the keeper starts the "
            "service again. `steps lost` are steps begun twice.",
            "",
            f"**Sum:** {right} of {total} kills ended Completed after at most one retry, with the digest of an "
            f"undisturbed run and no finished task repeated; at most {lost} step of training, one checkpoint interval, "
            "was lost.",
            "",
            *table(head, rows),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- deaths


def deaths(_: Proof) -> Pieces:
    """Worker and flows killed together, the automation alone and with the keeper."""
    return {"automation": partial(_deaths, 6, False), "keeper": partial(_deaths, 4, True)}


def _deaths(rounds: int, keeper: bool, _: Mapping[str, Found]) -> Found:
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        operations.stack(Path(folder) / "home", 4425 if keeper else 4420) as running,
    ):
        for number in range(rounds):
            runs = _two(running, number, 400)
            time.sleep(random.Random(SEED + number).uniform(0, 30))  # anywhere between two heartbeats
            found += operations.dead_together(running, runs, keeper=keeper)
            running.up()
            after = running.trigger("retrieval/tiny", operations.learning(number, 1))
            state = running.wait(after, ("RUNNING", *operations.FINAL), 60)
            found[-2]["slot_free"] = state["type"] in ("RUNNING", "COMPLETED")
            running.wait(after)
    return {"runs": found}


def _two(running: operations.Stack, seed: int, epochs: int, **training: Any) -> list[str]:
    """Two flow runs that learn; of the same training one would wait for the other, and then find it done."""
    runs = [
        running.trigger(name, operations.learning(seed + other, epochs, **training))
        for name, other in (("retrieval/tiny", 0), ("retrieval-encoder/small", 1000))
    ]
    for flow_run in runs:
        running.wait_for_task(flow_run, "train")
    return runs


def report_deaths(found: Mapping[str, Found]) -> Report:
    """Seconds to Crashed."""
    rows, missed = [], []
    for name, piece in found.items():
        seconds = [run["seconds"] for run in piece["runs"]]
        crashed = sum(run["type"] == "CRASHED" for run in piece["runs"])
        free = [run["slot_free"] for run in piece["runs"] if "slot_free" in run]
        longest = max(seconds)
        who = "the automation alone, keeper killed too" if name == "automation" else "the keeper"
        span = f"{min(seconds):.1f} to {longest:.1f}"
        rows.append((who, len(free), len(seconds), crashed, span, f"{sum(free)} of {len(free)}"))
        if crashed < len(seconds) or longest > CRASHED_WITHIN_S or not all(free):
            missed.append(f"deaths: {name}: {crashed} of {len(seconds)} Crashed, longest {longest:.1f} s, slots {free}")
    return Report(
        [
            "A worker and the two flow runs that it executes are killed (SIGKILL) at one moment; nobody is left to say "
            f"so. Bar: Crashed within {CRASHED_WITHIN_S} s, and the deployment, which allows one run at a time, takes "
            "the next one.",
            "",
            *table(("who notices", "times", "runs killed", "Crashed", "seconds until then", "slot free"), rows),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- healthy


def healthy(_: Proof) -> Pieces:
    """Hundreds of short runs beside two that saturate both cores for ten minutes."""
    return {"completions": lambda _: _healthy()}


def _healthy() -> Found:
    with (
        tempfile.TemporaryDirectory() as folder,
        operations.stack(Path(folder) / "home", 4430) as running,
    ):
        long = _two(running, 0, 450, batch_size=32)
        begun = time.monotonic()
        environment = {
            **running.environment,
            "PREFECT_API_URL": f"http://127.0.0.1:{running.services()['prefect']['port']}/api",
            "PREFECT_HOME": str(running.home / "prefect"),
            "HEADRACE_HOME": str(Path(folder) / "other"),
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_CLIENT_MAX_RETRIES": "8",  # as a worker of the stack gives it to its flow runs
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.completions", str(COMPLETIONS - len(long))],
            env=environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the short runs ended with {done.returncode}:\n{done.stderr[-3000:]}")
        short = json.loads(done.stdout.splitlines()[-1])
        at_ten = None
        while time.monotonic() - begun < 610:
            time.sleep(1)
        at_ten = [running.state(flow_run)["type"] for flow_run in long]
        ended = [running.wait(flow_run, seconds=1500) for flow_run in long]
        time.sleep(CRASHED_WITHIN_S)  # a late verdict counts too
        crashed = running.call("/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": ["CRASHED"]}}}})
        completed = running.call("/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})
    return {
        "short": short,
        "long": [state["type"] for state in ended],
        "at_ten_minutes": at_ten,
        "crashed": crashed,
        "completed": completed,
    }


def report_healthy(found: Mapping[str, Found]) -> Report:
    """How many completed, how many were called dead."""
    piece = found["completions"]
    missed = []
    if piece["crashed"] or piece["completed"] < COMPLETIONS or set(piece["long"]) != {"COMPLETED"}:
        missed.append(f"healthy: {piece}")
    return Report(
        [
            "Short flow runs, two at a time, beside two trainings that hold both cores. Bar: none is called Crashed.",
            "",
            *table(
                ("completed", "called Crashed", "state of the long runs after ten minutes", "at the end"),
                [(piece["completed"], piece["crashed"], ", ".join(piece["at_ten_minutes"]), ", ".join(piece["long"]))],
            ),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- outages


def outages(_: Proof) -> Pieces:
    """Each server away for a minute, ten times, two runs at a time."""
    return {server: partial(_outage, server) for server in operations.SERVERS}


def _outage(server: str, _: Mapping[str, Found]) -> Found:
    found, epochs = [], 150
    with (
        tempfile.TemporaryDirectory() as folder,
        operations.stack(Path(folder) / "home", 4440 + operations.SERVERS.index(server)) as running,
    ):
        for number in range(OUTAGES):
            running.forget()
            runs = _two(running, number, epochs)
            time.sleep(random.Random(SEED + number).uniform(1, 8))
            found += operations.away(running, server, AWAY_S, runs, epochs)
    return {"runs": found, "epochs": epochs}


def report_outages(found: Mapping[str, Found]) -> Report:
    """Failed runs and missing points."""
    rows, missed = [], []
    for server, piece in found.items():
        runs = piece["runs"]
        failed = [run for run in runs if run["type"] != "COMPLETED"]
        missing = sum(run["missing"] for run in runs)
        rows.append((server, len(runs) // 2, len(runs), len(failed), missing, len(runs) * piece["epochs"]))
        if failed or missing:
            missed.append(f"outages: {server}: {len(failed)} failed, {missing} points missing; {failed[:2]}")
    return Report(
        [
            f"While two trainings run, a server is killed and comes back after {AWAY_S} s (the keeper is killed too: "
            "it would bring it back at once). Bar: no run fails, no point of a metric is missing in MLflow.",
            "",
            *table(("server away", "times", "runs", "failed", "points missing", "of"), rows),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- reads and damages


def reads(_: Proof) -> Pieces:
    """A reader polls while publishers die."""
    return {"publishers": lambda _: _reads()}


def _reads() -> Found:
    with tempfile.TemporaryDirectory() as folder:
        return operations.publishing(Path(folder) / "store", PUBLISHERS, SEED)


def report_reads(found: Mapping[str, Found]) -> Report:
    """Reads and torn reads."""
    piece = found["publishers"]
    missed = [] if not piece["wrong_count"] and piece["killed"] >= PUBLISHERS else [f"reads: {piece}"]
    return Report(
        [
            "Publishers write and publish one version after another and are killed (SIGKILL) at random moments; a "
            "reader opens what is live all the while and compares all parts, manifest and certificate.",
            "",
            *table(
                ("publishers killed", "publishes begun", "reads", "versions seen", "answers that mix versions or fail"),
                [(piece[key] for key in ("killed", "publishes", "reads", "versions_seen", "wrong_count"))],
            ),
        ],
        missed,
    )


def damages(_: Proof) -> Pieces:
    """Seeded damages of a published version."""
    return {"damages": lambda _: _damages()}


def _damages() -> Found:
    from tests.damages import damage_and_open

    with tempfile.TemporaryDirectory() as folder:
        return damage_and_open(Path(folder), DAMAGES, SEED)


def report_damages(found: Mapping[str, Found]) -> Report:
    """Refusals by kind of damage."""
    piece = found["damages"]
    missed = []
    if piece["refused"] < DAMAGES or piece["unnamed"]:
        missed.append(
            f"damages: {piece['refused']} of {DAMAGES} refused; {piece['accepted'][:3]} {piece['unnamed'][:3]}"
        )
    rows = [(kind, count, piece["refused_by_kind"].get(kind, 0)) for kind, count in sorted(piece["by_kind"].items())]
    return Report(
        [
            f"{DAMAGES} seeded damages, each to a fresh copy of a published version. Refused means: `IntegrityError`, "
            "and no other exception, whose words name the file, what was expected and what was found.",
            "",
            *table(("damage", "tried", "refused"), rows),
        ],
        missed,
    )


SECTIONS = (
    Section(
        "kills",
        "A hundred kills",
        (PROJECT / "tests" / "faults.py", PROJECT / "tests" / "operations.py"),
        kills,
        report_kills,
        lanes=2,
    ),
    Section(
        "deaths",
        "Worker and flow killed together",
        (PROJECT / "tests" / "operations.py",),
        deaths,
        report_deaths,
        lanes=2,
    ),
    Section("healthy", "Healthy runs", (PROJECT / "tests" / "completions.py",), healthy, report_healthy),
    Section(
        "outages",
        "A server away for a minute",
        (PROJECT / "tests" / "operations.py",),
        outages,
        report_outages,
        lanes=2,
    ),
    Section("reads", "Reading while publishers die", (PROJECT / "tests" / "publishers.py",), reads, report_reads),
    Section("damages", "Damaged artifacts", (PROJECT / "tests" / "damages.py",), damages, report_damages),
)

SUBJECT = Subject("operations", "Operations", CODE, SECTIONS, str(SEED))
