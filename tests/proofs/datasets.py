"""What `make prove SYSTEM=datasets` measures: kills of all six flows among their parts and writes."""

import random
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.faults import SMALLER
from tests.proof import Found, Pieces, Proof, Report, Section, Subject, table, yes

CODE = (
    "flows.datasets",
    "tasks.prepare",
    "tasks.publish",
    *(f"models.climate.{part}" for part in ("datasets", "generator", "geometry", "harmonics", "remapping")),
    "models.common.moments",
    "models.common.parts",
    *(f"infra.{door}" for door in ("caching", "compute", "digests", "grids", "manifest", "store", "trees")),
)
"""What the figures speak of."""

SEED = 20261126
DATASETS = ("fluxes", "turbulence", "storms", "analogs", "precipitation", "outlooks")
WANTED = 100
WRITES = {"fsync": (8, 150), "link": (3, 40), "rename": (2, 6), "part": (2, 2)}
"""Calls, how many of each are drawn for a flow, and up to which one."""


def moments() -> dict[str, tuple[str, str]]:
    """Names of kills to flow and moment: tasks, parts, and writes drawn at random, the same every time."""
    draw, chosen = random.Random(SEED), {}
    for dataset in DATASETS:
        flow = f"prepare_{dataset}"
        inside = [f"{task}:{where}" for task in ("prepare", "certify", "publish") for where in ("middle", "exit")]
        writes = [
            f"{call}:{count}"
            for call, (number, most) in WRITES.items()
            for count in sorted(draw.sample(range(1, most + 1), min(number, most)))
        ]
        chosen |= {f"{dataset} {moment}": (flow, moment) for moment in (*inside, *writes)}
    return chosen


def kills(proof: Proof) -> Pieces:
    """Undisturbed runs first, then the kills."""
    whole = {f"undisturbed {dataset}": partial(_undisturbed, proof, f"prepare_{dataset}") for dataset in DATASETS}
    return {
        **whole,
        **{name: partial(_killed, proof, name, flow, moment) for name, (flow, moment) in moments().items()},
    }


def _undisturbed(proof: Proof, flow: str, _: Mapping[str, Found]) -> Found:
    from tests.faults import durations_of, run_with_kill

    with tempfile.TemporaryDirectory() as folder:
        result = run_with_kill(Path(folder), "", proof.server, {}, flow)
        if result.state != "COMPLETED/Published":
            raise SystemExit(f"the undisturbed run ended {result.state}:\n{result.attempts[0].output[-4000:]}")
        return {"digest": result.digest, "durations": durations_of(Path(folder))}


def _killed(proof: Proof, name: str, flow: str, moment: str, known: Mapping[str, Found]) -> Found:
    from tests.faults import run_with_kill

    whole = known[f"undisturbed {name.partition(' ')[0]}"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = run_with_kill(Path(folder), moment, proof.server, whole["durations"], flow)
        except Exception as error:  # one moment that ends in an error is a finding, and the others are still wanted
            return {"killed": True, "state": f"{type(error).__name__}: {error}"[:200], "equal": False, "mixed": True}
    return {
        "killed": result.killed,
        "state": result.state,
        "equal": result.digest == whole["digest"],
        "mixed": result.between not in ("", whole["digest"]),
        "repeated": result.repeated,
    }


def report_kills(found: Mapping[str, Found]) -> Report:
    """Sums by dataset, and every kill that went wrong."""
    rows, missed, total = [], [], 0
    for dataset in DATASETS:
        own = {name: piece for name, piece in found.items() if name.startswith(f"{dataset} ") and piece["killed"]}
        good = {
            name: piece["state"].startswith("COMPLETED/") and piece["equal"] and not piece["mixed"] and
            not piece["repeated"]
            for name, piece in own.items()
        }  # fmt: skip
        missed += [f"kills: {name} ended {own[name]}" for name, right in good.items() if not right]
        total += len(own)
        mixed = sum(piece["mixed"] for piece in own.values())
        equal = sum(piece["equal"] for piece in own.values())
        rows.append((dataset, len(own), mixed, equal, yes(all(good.values()))))
    if total < WANTED:
        missed.append(f"kills: {total} kills were reached, {WANTED} are wanted")
    return Report(
        [
            "The process of a flow is killed (SIGKILL) in the middle and at the end of each task, when its n-th part "
            "is made, and at its n-th fsync, link or rename, n drawn at random; each with a home of its own. Then a "
            "reader checks every byte of what is live, and the flow run is retried once. Moments that a flow does "
            "not reach are not counted. Sizes are smaller than those of `tiny` where the tests need few parts: "
            f"{', '.join(sorted(SMALLER))}.",
            "",
            *table(("dataset", "kills", "mixed reads", "digest of an undisturbed run", "all right"), rows),
            "",
            f"**Sum:** {total} kills.",
        ],
        missed,
    )


TESTS = (Path(__file__), Path(__file__).parent.parent / "faults.py")
SECTIONS = (Section("kills", "Kills", TESTS, kills, report_kills, lanes=2),)
SUBJECT = Subject("datasets", "Datasets under kills", CODE, SECTIONS, str(SEED))
