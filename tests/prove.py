"""Run the full counts behind a system's claims, and write them down.

    python -m tests.prove retrieval [--only SECTION ...]

Each piece of a section (a moment of the kills, a seed of the quality) is kept under HEADRACE_HOME/prove as soon as it
is there, by the digest of the code, so that a proof that was interrupted goes on where it was. Other code begins anew.
At the end `docs/results/retrieval.md` says what was found, and the exit code is 1 if a bar was missed.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

# Set before Prefect, MLflow or headrace read them; the pieces have homes of their own.
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.pop("HEADRACE_STORE", None)

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import retrieval_orchestration as orchestration
from infra.manifest import code_digest
from infra.settings import PROJECT, settings

CODE = (
    "flows.retrieval",
    "tasks",
    "models.common",
    "models.feed.retrieval",
    *(f"infra.{door}" for door in ("caching", "catalogue", "compute", "lineage", "manifest", "provenance", "refs")),
    *(f"infra.{door}" for door in ("registry", "settings", "store", "tracking")),
)
"""What the figures speak of: all but the local stack, the command line and the style of figures."""

PAGE = PROJECT / "docs" / "results" / "retrieval.md"
SEARCH_TESTS = PROJECT / "tests" / "models" / "feed" / "retrieval" / "test_index.py"
SEEDS = (0, 1, 2)
CASES = 2000
GAP_CLOSED = 0.6
TASK_RUNS = 50

Found = dict[str, Any]
"""What one piece found, as JSON."""


@dataclass
class Proof:
    """One run of the program: the code it speaks of, what is known already, and a server for who needs one."""

    digest: str
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def server(self) -> str:
        """The address of a temporary Prefect server, started when first asked for."""
        return self.stack.enter_context(orchestration.temporary_server())

    @property
    def folder(self) -> Path:
        """Where the pieces of this code are kept."""
        return settings().home.resolve() / "prove" / "retrieval" / self.digest[:12]

    def known(self, section: "Section", piece: str) -> Found | None:
        """What was found before with the same code and the same tests."""
        file = self._file(section, piece)
        kept: Found | None = json.loads(file.read_text()) if file.exists() else None
        return kept if kept and kept["by"] == section.tests_digest else None

    def keep(self, section: "Section", piece: str, found: Found, seconds: float) -> Found:
        """Keep what was found.

        Raises:
            SystemExit: the code is no longer the one that the proof began with.
        """
        if code_digest(*CODE) != self.digest:
            raise SystemExit(f"the code was changed while {section.name} {piece} ran; start the proof again.")
        date = f"{datetime.now(UTC):%Y-%m-%d}"
        kept = {**found, "by": section.tests_digest, "seconds": round(seconds, 1), "date": date}
        file = self._file(section, piece)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_suffix(".part")
        partial_file.write_text(json.dumps(kept, indent=1))
        partial_file.replace(file)
        return kept

    def _file(self, section: "Section", piece: str) -> Path:
        return self.folder / f"{section.name}-{re.sub('[^a-z0-9]+', '-', piece)}.json"


@dataclass(frozen=True)
class Report:
    """A section as text: lines of Markdown, and the bars that were missed."""

    lines: Sequence[str]
    missed: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the proof.

    Attributes:
        name: as `--only` knows it.
        title: its heading.
        tests: files outside the code that decide what is found.
        pieces: names of its pieces in order, and what each of them does, given what those before it found.
        report: writes down what the pieces found; at least one of them is there.
    """

    name: str
    title: str
    tests: Sequence[Path]
    pieces: Callable[[Proof], Mapping[str, Callable[[Mapping[str, Found]], Found]]]
    report: Callable[[Mapping[str, Found]], Report]

    @property
    def tests_digest(self) -> str:
        """Digest of the tests."""
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in self.tests)).hexdigest()


# ------------------------------------------------------------------------------------------------- kills


def kills(proof: Proof) -> dict[str, Callable[[Mapping[str, Found]], Found]]:
    """The undisturbed run, then one run for every moment."""
    from tests.faults import INSIDE, WRITES

    return {
        "undisturbed": lambda _: _undisturbed(proof.server),
        **{moment: partial(_killed, proof, moment) for moment in (*INSIDE, *WRITES)},
    }


def _undisturbed(server: str) -> Found:
    from tests.faults import durations_of, run_with_kill

    with tempfile.TemporaryDirectory() as folder:
        result = run_with_kill(Path(folder), "", server, {})
        if result.state != "COMPLETED/Published":
            raise SystemExit(f"the undisturbed run ended {result.state}:\n{result.attempts[0].output[-4000:]}")
        return {
            "state": result.state,
            "digest": result.digest,
            "runs": result.runs,
            "durations": durations_of(Path(folder)),
        }


def _killed(proof: Proof, moment: str, known: Mapping[str, Found]) -> Found:
    from tests.faults import run_with_kill

    with tempfile.TemporaryDirectory() as folder:
        try:
            result = run_with_kill(Path(folder), moment, proof.server, known["undisturbed"]["durations"])
        except Exception as error:  # one moment that ends in an error is a finding, and the others are still wanted
            return {"killed": True, "state": f"{type(error).__name__}: {error}"[:200], "equal": False, "repeated": []}
    code = result.attempts[0].code
    return {
        "killed": result.killed,
        "state": result.state if result.killed or code == 0 else f"first attempt ended with {code}",
        "reached": result.killed or code != 0,
        "equal": result.digest == known["undisturbed"]["digest"],
        "repeated": result.repeated,
        "runs": result.runs,
    }


def report_kills(found: Mapping[str, Found]) -> Report:
    """A row for each moment and the sum."""
    rows, missed, right = [], [], 0
    moments = {name: piece for name, piece in found.items() if name != "undisturbed"}
    reached = {name: piece for name, piece in moments.items() if piece.get("reached", True)}
    for moment, piece in moments.items():
        if moment not in reached:
            rows.append((moment, "no", "not reached", "", "", ""))
            continue
        repeated = ", ".join(piece["repeated"]) or "0"
        state, equal = piece["state"], piece["equal"]
        rows.append((moment, _yes(piece["killed"]), state, _yes(equal), repeated, str(piece.get("runs", "unknown"))))
        holds = piece["killed"] and state.startswith("COMPLETED/") and equal and not piece["repeated"]
        right += holds
        if not holds:
            missed.append(f"kills: {moment} ended {state}, digest equal {_yes(equal)}, repeated {repeated}")
    if not right:
        missed.append("kills: no moment was reached and survived")
    total = (
        f"**Sum:** {len(moments)} moments, {len(reached)} of them reached; after one retry {right} of {len(reached)} "
        f"Completed with the digest of the undisturbed run and no finished task repeated; "
        f"{sum(len(piece['repeated']) for piece in moments.values())} finished tasks repeated; one MLflow run in "
        f"{sum(piece.get('runs') == 1 for piece in reached.values())}."
    )
    return Report(
        [
            "The process of the flow is killed (SIGKILL) at the moment and the flow run retried once, each moment with "
            "a home of its own. `TASK:enter`, `middle` and `exit` lie inside a task; `fsync`, `rename`, `replace` are "
            "the n-th such call of the process. A count that the run never reaches proves nothing and is not counted.",
            "",
            *table(
                ("moment", "killed", "state after one retry", "digest equal", "finished tasks repeated", "MLflow runs"),
                rows,
            ),
            "",
            total,
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- search


def search(_: Proof) -> dict[str, Callable[[Mapping[str, Found]], Found]]:
    """One piece: the tests of the index with many cases."""
    return {"tests": lambda _: _search()}


def _search() -> Found:
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "results.xml"
        options = ["--timeout=1200", f"--junitxml={xml}", "--hypothesis-show-statistics", "--no-header"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", str(SEARCH_TESTS), *options],
            cwd=PROJECT,
            env={**os.environ, "HEADRACE_CASES": str(CASES)},
            capture_output=True,
            text=True,
            check=False,
        )
        if not xml.exists():
            raise SystemExit(f"pytest ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
        suite = ET.parse(xml).getroot()[0]  # noqa: S314  written by our own pytest
    failures = [
        f"{case.get('name')}: {(part.get('message') or '').splitlines()[0] if part.get('message') else part.tag}"
        for case in suite
        for part in case
        if part.tag in ("failure", "error")
    ]
    return {
        "code": done.returncode,
        "tests": int(suite.get("tests", 0)),
        "skipped": int(suite.get("skipped", 0)),
        "cases": sum(int(count) for count in re.findall(r"(\d+) passing, \d+ failing", done.stdout)),
        "failures": failures,
        "test_seconds": float(suite.get("time", 0)),
    }


def report_search(found: Mapping[str, Found]) -> Report:
    """One row, and the failures in full."""
    piece = found["tests"]
    failures = piece["failures"]
    row = (piece["tests"], piece["skipped"], f"{piece['cases']:,}", len(failures), f"{piece['test_seconds']:.0f}")
    missed = [f"search: {failure}" for failure in failures]
    if piece["code"] and not missed:
        missed = [f"search: pytest ended with {piece['code']}"]
    if piece["cases"] < CASES:
        missed.append(f"search: {piece['cases']} generated cases passed, must be at least {CASES}")
    return Report(
        [
            f"`tests/models/feed/retrieval/test_index.py` with HEADRACE_CASES={CASES}. A case is a generated example, "
            "most of them several queries, each compared place by place with an answer written out in plain Python: "
            "ids, scores and the number of passing items.",
            "",
            *table(("tests", "skipped", "generated cases passed", "tests with a difference", "seconds"), [row]),
            *([""] if failures else []),
            *(f"- {_ascii(failure)}" for failure in failures),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- quality


def quality(_: Proof) -> dict[str, Callable[[Mapping[str, Found]], Found]]:
    """A piece for each preset and seed."""
    presets = ("tiny", "small", *(("movielens",) if settings().mirror else ()))
    pieces = {f"{preset} {seed}": partial(_trained, preset, seed) for preset in presets for seed in SEEDS}
    return {**pieces, **({"glove_cities": _given} if settings().mirror else {})}


def _trained(preset: str, seed: int, _: Mapping[str, Found]) -> Found:
    """Train one preset with one seed and judge the index."""
    import safetensors.torch

    from infra.compute import lightning_arguments
    from models.common.fit import fit
    from models.feed.retrieval import config as presets

    config = _seeded(getattr(presets, preset)(), seed, world=preset != "movielens")
    data = config.data.prepare(_files(config.data))
    encoder, begun = config.encoder, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit(encoder, data, Path(folder), lightning_arguments=lightning_arguments("cpu", 1))
        summary = json.loads((Path(folder) / "training.json").read_text())
        network = encoder.network(summary["sizes"])
        network.load_state_dict(safetensors.torch.load_file(Path(folder) / "weights.safetensors"))
    seconds = time.perf_counter() - begun
    return {**_judged(config, data, network.eval()), "best_epoch": summary["best_epoch"], "fit_seconds": seconds}


def _given(_: Mapping[str, Found]) -> Found:
    """Index the given vectors and judge the index."""
    from models.feed.retrieval.config import glove_cities

    config = glove_cities()
    return _judged(config, config.data.prepare(_files(config.data)), None)


def _seeded(config: Any, seed: int, *, world: bool) -> Any:
    """The configuration with another seed of training, and of the generated world if asked for."""
    training = dataclasses.replace(config.encoder.training, seed=seed)
    changed = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, training=training))
    if not world:
        return changed
    generator = dataclasses.replace(config.data.generator, seed=seed)
    return dataclasses.replace(changed, data=dataclasses.replace(config.data, generator=generator))


def _files(config: Any) -> dict[str, Path]:
    from infra.catalogue import locate

    return {name: locate(location) for name, location in config.sources().items()}


def _judged(config: Any, data: Mapping[str, Any], network: torch.nn.Module | None) -> Found:
    judgement = config.judge(config.index.build_index(data, network), data, network)
    return {
        "metrics": dict(judgement.metrics),
        "holds": judgement.certificate.holds,
        "claims": [claim.sentence() for claim in judgement.certificate.claims],
        "failures": [claim.sentence() for claim in judgement.certificate.failures()],
        "protocol": data["about"]["protocol"],
        "baseline": judgement.table[0].get("ranking", ""),
    }


def report_quality(found: Mapping[str, Found]) -> Report:
    """A table for each preset."""
    lines, missed = [], []
    for preset in ("tiny", "small", "movielens"):
        seeds = {name.split()[1]: piece for name, piece in found.items() if name.split()[0] == preset}
        if seeds:
            more = _contest(preset, seeds)
            lines += more.lines
            missed += more.missed
    if "glove_cities" in found:
        lines += _cities(found["glove_cities"])
    if not any(name.startswith(("movielens", "glove_cities")) for name in found):
        lines.append("MovieLens and GloVe with cities were not run: HEADRACE_MIRROR named no folder.")
    for name, piece in found.items():
        missed += [f"quality: {name}: {failure}" for failure in piece["failures"]]
        missed += [
            f"quality: {name}: {metric} is {value:.6g}, must be 1"
            for metric, value in piece["metrics"].items()
            if metric.startswith("filtered_recall") and value != 1
        ]
    return Report(lines, missed)


def _contest(preset: str, seeds: Mapping[str, Found]) -> Report:
    columns = {
        "popularity HR@50": "hit_rate_at_50_popularity",
        "two towers HR@50": "hit_rate_at_50",
        "oracle HR@50": "hit_rate_at_50_oracle",
        "gap closed": "gap_closed",
        "gain": "hit_rate_gain",
    }
    metrics = {seed: piece["metrics"] for seed, piece in seeds.items()}
    columns = {title: key for title, key in columns.items() if all(key in one for one in metrics.values())}
    rows = [
        (
            seed,
            *(f"{metrics[seed][key]:.4f}" for key in columns.values()),
            f"{metrics[seed]['hit_rate_gain_low']:.4f} to {metrics[seed]['hit_rate_gain_high']:.4f}",
            _yes(piece["holds"]),
            piece["best_epoch"],
            f"{piece['fit_seconds']:.0f}",
        )
        for seed, piece in seeds.items()
    ]
    values = {key: [one[key] for one in metrics.values()] for key in columns.values()}
    rows.append(("mean +- sd", *(_mean_sd(values[key]) for key in columns.values()), "", "", "", ""))
    missed = []
    if preset == "movielens":
        varied = "the data stay, the seed of the training varies"
        missed = [
            f"quality: movielens {seed}: the interval begins at {one['hit_rate_gain_low']:.4f}, must be above 0"
            for seed, one in metrics.items()
            if not one["hit_rate_gain_low"] > 0
        ]
    else:
        varied = "seeds of the generated world and of the training vary together"
        gap = float(np.mean(values["gap_closed"])) if "gap_closed" in values else 0.0
        if not gap >= GAP_CLOSED:
            missed = [f"quality: {preset}: gap closed {gap:.3f} on average, must be at least {GAP_CLOSED}"]
    one = next(iter(seeds.values()))
    return Report(
        [
            f"**`{preset}`**, {varied}. {one['protocol']} Baseline: {one['baseline']} (of the first seed).",
            "",
            *table(("seed", *columns, "95 % interval of gain", "certificate holds", "best epoch", "fit s"), rows),
            "",
        ],
        missed,
    )


def _cities(piece: Found) -> list[str]:
    recall = {name: value for name, value in piece["metrics"].items() if name.startswith("filtered_recall")}
    return [
        f"**`glove_cities`**, nothing is trained. {piece['protocol']}",
        "",
        *table(
            ("rows", *recall, "claims", "certificate holds"),
            [
                (
                    f"{piece['metrics']['index_rows']:,.0f}",
                    *(f"{value:.6g}" for value in recall.values()),
                    len(piece["claims"]),
                    _yes(piece["holds"]),
                )
            ],
        ),
        "",
        *(f"- {_ascii(claim)}" for claim in piece["claims"]),
        "",
    ]


# ------------------------------------------------------------------------------------------------- ddp


def ddp(proof: Proof) -> dict[str, Callable[[Mapping[str, Found]], Found]]:
    """A piece for each seed of the training and number of processes."""
    return {
        f"{seed} with {processes}": partial(_flow, proof, seed, processes) for seed in SEEDS for processes in (1, 2)
    }


def _flow(proof: Proof, seed: int, processes: int, _: Mapping[str, Found]) -> Found:
    """The whole flow at `tiny`, in a fresh home."""
    from mlflow import MlflowClient

    from models.feed.retrieval.config import tiny

    config = _seeded(tiny(), seed, world=False)
    training = dataclasses.replace(config.encoder.training, processes=processes)
    config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, training=training))
    with tempfile.TemporaryDirectory() as folder:
        told = orchestration.run_flow(Path(folder), proof.server, "rebuild_index", config)
        client = MlflowClient(f"sqlite:///{Path(folder) / 'mlflow' / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = len(client.search_runs(experiments))
    return {"state": told["state"], "hit_rate": told["metrics"]["hit_rate_at_50"], "runs": runs}


def report_ddp(found: Mapping[str, Found]) -> Report:
    """One process beside two, seed by seed."""
    seeds = [seed for seed in SEEDS if f"{seed} with 1" in found and f"{seed} with 2" in found]
    rates = np.array([[found[f"{seed} with {count}"]["hit_rate"] for count in (1, 2)] for seed in seeds])
    rates = rates.reshape(-1, 2)
    pairs = [(found[f"{seed} with 1"], found[f"{seed} with 2"]) for seed in seeds]
    rows = [
        (seed, f"{one:.4f}", f"{two:.4f}", f"{two - one:+.4f}", a["runs"], b["runs"], a["state"], b["state"])
        for seed, (one, two), (a, b) in zip(seeds, rates, pairs, strict=True)
    ]
    head = ("seed", "HR@50, 1 process", "HR@50, 2 processes", "difference")
    head = (*head, "MLflow runs, 1 process", "MLflow runs, 2 processes", "state, 1 process", "state, 2 processes")
    compared = "Too few seeds to compare."
    if len(seeds) > 1:
        difference, spread = float(np.mean(rates[:, 1] - rates[:, 0])), float(np.std(rates[:, 0], ddof=1))
        ratio = f"{abs(difference) / spread:.2f} times" if spread else "undefined in terms of"
        compared = (
            f"Mean with one process {_mean_sd(rates[:, 0])}, with two {_mean_sd(rates[:, 1])}; mean difference "
            f"{difference:+.4f}, {ratio} the standard deviation over seeds with one process."
        )
    missed = [
        f"ddp: {name} processes left {piece['runs']} MLflow runs, must be 1"
        for name, piece in found.items()
        if piece["runs"] != 1
    ]
    return Report(
        [
            "The whole flow at `tiny` in a fresh home; the data stay and the seed of the training varies. A batch is "
            "split among the processes, and negatives are taken within each share.",
            "",
            *table(head, rows),
            "",
            compared,
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- orchestration


def orchestrated(proof: Proof) -> dict[str, Callable[[Mapping[str, Found]], Found]]:
    """One piece: the flows at `small`."""
    return {"small": lambda _: orchestration.measure(proof.server, "small")}


def report_orchestration(found: Mapping[str, Found]) -> Report:
    """Counts, seconds and shares."""
    told = found["small"]
    missed = [
        f"orchestration: {flow} made {count} task runs, must be at most {TASK_RUNS}"
        for flow, count in told["task_runs"].items()
        if count > TASK_RUNS
    ]
    return Report(
        [
            "The flows at `small` in one home, each in a process of its own; `rebuild_index` first, with everything to "
            "do, and the seconds are its. CPU counts all threads and ended children. Imports are made before the flow "
            "begins, those that tasks would make when they need them included. A task's body includes writing to the "
            "store, to MLflow and the drawing of figures; outside of it are Prefect's engine, cache keys and the "
            "results of tasks. `rollback_index` is one task and was not run here.",
            "",
            *table(("what", "found"), orchestration.table_of(told)),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- the whole


SECTIONS = (
    Section("kills", "Kills", (PROJECT / "tests" / "faults.py",), kills, report_kills),
    Section("search", "Search", (SEARCH_TESTS,), search, report_search),
    Section("quality", "Quality", (), quality, report_quality),
    Section("ddp", "Data-parallel training", (), ddp, report_ddp),
    Section("orchestration", "Orchestration", (Path(orchestration.__file__),), orchestrated, report_orchestration),
)


def prove(proof: Proof, wanted: Sequence[str], limit: int | None, console: Console) -> dict[str, dict[str, Found]]:
    """Do what is wanted and not yet known; what is not wanted counts if it is known.

    Args:
        proof: this run.
        wanted: names of sections.
        limit: the first so many pieces of each section; None for all.
        console: shows the progress.

    Returns:
        What was found, by section and piece.
    """
    found: dict[str, dict[str, Found]] = {section.name: {} for section in SECTIONS}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with proof.stack, Progress(*columns, console=console) as progress:
        for section in SECTIONS:
            pieces = list(section.pieces(proof).items())[:limit]
            bar = progress.add_task(section.name, total=len(pieces)) if section.name in wanted else None
            for name, work in pieces:
                known = proof.known(section, name)
                if known is None and bar is not None:
                    progress.update(bar, description=f"{section.name} {name}")
                    begun = time.perf_counter()
                    known = proof.keep(section, name, work(found[section.name]), time.perf_counter() - begun)
                    progress.console.print(f"{section.name} {name}: {known['seconds']:.0f} s")
                if known is not None:
                    found[section.name][name] = known
                if bar is not None:
                    progress.advance(bar)
            if bar is not None:
                progress.update(bar, description=section.name)
    return found


def write(proof: Proof, found: Mapping[str, Mapping[str, Found]], command: str) -> tuple[str, list[str]]:
    """The page as text, and the bars that were missed."""
    pieces = [piece for section in found.values() for piece in section.values()]
    dates = sorted({piece["date"] for piece in pieces}) or ["nothing measured"]
    sections, missed = [], []
    for section in SECTIONS:
        sections += [f"## {section.title}", ""]
        expected, have = section.pieces(proof), found[section.name]
        if not have:
            sections += ["Not run with this code.", ""]
            continue
        report = section.report(have)
        missed += report.missed
        sections += [*report.lines, ""]
        if len(have) < len(expected):
            sections += [f"Incomplete: {len(have)} of {len(expected)} pieces were run.", ""]
        sections += [f"Took {sum(piece['seconds'] for piece in have.values()):.0f} s.", ""]
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Retrieval: what was measured",
        "",
        f"Written by `{command}`; do not edit. Another code makes another page.",
        "",
        *table(
            ("what", "value"),
            [
                ("measured", " to ".join(dict.fromkeys((dates[0], dates[-1])))),
                ("seeds", ", ".join(map(str, SEEDS))),
                ("code digest", f"`{proof.digest}`"),
                ("of", ", ".join(f"`{name}`" for name in CODE)),
                ("machine", f"{cores} cores ({platform.machine()}), {torch.get_num_threads()} threads"),
                ("Python", platform.python_version()),
                ("torch", torch.__version__),
            ],
        ),
        "",
        *([f"**Bars missed: {len(missed)}.**", "", *(f"- {_ascii(one)}" for one in missed), ""] if missed else []),
        *sections,
    ]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n", missed


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [[_ascii(str(cell)).replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in cells)]


def _ascii(text: str) -> str:
    """The text with what is not ASCII spelled out, and without the paths of this machine."""
    return text.replace(str(PROJECT), ".").encode("ascii", "backslashreplace").decode()


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _mean_sd(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    spread = f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else "unknown"
    return f"{np.mean(values):.4f} +- {spread}"


def main() -> None:
    """Prove, write the page, and end with 1 if a bar was missed."""
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(prog="python -m tests.prove")
    parser.add_argument("system", choices=["retrieval"])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SECTION", help=", ".join(names))
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)  # to try the program; the page is only shown
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own; nothing to be done here
    console = Console(highlight=False)
    proof = Proof(code_digest(*CODE))
    found = prove(proof, chosen.only, chosen.limit, console)
    only = "" if chosen.only == names else f" --only {' '.join(chosen.only)}"
    page, missed = write(proof, found, f"python -m tests.prove {chosen.system}{only}")
    if chosen.limit is None:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page, encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PROJECT)}")
    else:
        console.print(page, markup=False, soft_wrap=True)
    for one in missed:
        console.print(f"missed: {one}", markup=False)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
