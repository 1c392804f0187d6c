"""What `make prove SYSTEM=retrieval` measures: kills, search, delta, quality, parallel training, orchestration."""

import dataclasses
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import retrieval_orchestration as orchestration
from infra.settings import PROJECT, settings
from tests.proof import Found, Pieces, Proof, Report, Section, Subject, ascii_of, mean_sd, pytest, table, yes

CODE = (
    "flows.retrieval",
    "tasks",
    "models.common",
    "models.feed.retrieval",
    *(f"infra.{door}" for door in ("caching", "catalogue", "compute", "lineage", "manifest", "provenance", "refs")),
    *(f"infra.{door}" for door in ("outbox", "registry", "settings", "store", "tracking")),
)
"""What the figures speak of: all but the local stack, the command line and the style of figures."""

SEARCH_TESTS = PROJECT / "tests" / "models" / "feed" / "retrieval" / "test_index.py"
SEEDS = (0, 1, 2)
CASES = 2000
GAP_CLOSED = 0.6
TASK_RUNS = 50
FLUSH_KILLS = 200
WRITER_KILLS = 500
FLIPS = 1000
CUTS = 200
CROWDED_S = 60


# ------------------------------------------------------------------------------------------------- kills


def kills(proof: Proof) -> Pieces:
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
        rows.append((moment, yes(piece["killed"]), state, yes(equal), repeated, str(piece.get("runs", "unknown"))))
        holds = piece["killed"] and state.startswith("COMPLETED/") and equal and not piece["repeated"]
        right += holds
        if not holds:
            missed.append(f"kills: {moment} ended {state}, digest equal {yes(equal)}, repeated {repeated}")
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


def search(_: Proof) -> Pieces:
    """One piece: the tests of the index with many cases."""
    return {"tests": lambda _: _search()}


def _search() -> Found:
    options = ["--timeout=1200", "--hypothesis-show-statistics"]
    told = pytest([str(SEARCH_TESTS), *options], {**os.environ, "HEADRACE_CASES": str(CASES)})
    cases = re.findall(r"(\d+) passing, \d+ failing", told.pop("output"))
    return {**told, "cases": sum(map(int, cases))}


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
            *(f"- {ascii_of(failure)}" for failure in failures),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- delta


def delta(_: Proof) -> Pieces:
    """A piece for each way in which a live index may come to harm."""
    from tests import deltas

    counts = {"flushed": FLUSH_KILLS, "killed": WRITER_KILLS, "steps": 0, "adopted": 0}
    pieces = {name: partial(_harmed, name, count) for name, count in counts.items()}
    pieces["damaged"] = lambda _: _in_folder(partial(deltas.damaged, flips=FLIPS, cuts=CUTS, seed=SEEDS[0]))
    pieces["crowded"] = lambda _: _in_folder(partial(deltas.crowded, seconds=CROWDED_S, seed=SEEDS[0]))
    return pieces


def _harmed(name: str, count: int, _: Mapping[str, Found]) -> Found:
    from tests import deltas

    with tempfile.TemporaryDirectory() as folder:  # on a disk, where waits for it are real
        found: Found = deltas.run(Path(folder), SEEDS[0], **{name: count})[name]
        return found


def _in_folder(work: Callable[[Path], Found]) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        return work(Path(folder) / "live")


def report_delta(found: Mapping[str, Found]) -> Report:
    """A row for each way."""
    said = {
        "flushed": ("killed after `flush` returned, at once or some writes later", FLUSH_KILLS),
        "killed": ("killed at a random moment of upserting, deleting and compacting", WRITER_KILLS),
        "steps": ("killed before, within or after each call to the system", 0),
        "adopted": ("killed so while its folder comes to stand on a compacted version", 0),
    }
    rows, missed, lines = [], [], []
    for name, (what, count) in said.items():
        if piece := found.get(name):
            stray, wrong = piece.get("stray", []), piece["wrong"]
            rows.append((what, piece["killed"], piece.get("answers", ""), piece["lost"], len(wrong), len(stray)))
            if piece["killed"] < (count or 1) or piece["lost"] or wrong or stray:
                missed.append(
                    f"delta: {name}: {piece['killed']} killed, {piece['lost']} lost, {wrong[:3]}, {stray[:3]}"
                )
    if piece := found.get("damaged"):
        tried = sum(piece["tried"].values())
        by_kind = ", ".join(f"{kind} {count}" for kind, count in piece["tried"].items())
        lines.append(f"Damages: {tried} tried ({by_kind}), {piece['refused']} refused by `DamageError`.")
        if piece["refused"] != tried or piece["unnamed"] or piece["wrong"]:
            missed.append(
                f"delta: {piece['refused']} of {tried} refused; {piece['accepted'][:3]} {piece['unnamed'][:3]}"
            )
    if piece := found.get("crowded"):
        lines.append(
            f"Crowd: two threads wrote {piece['writes']:,} times, four searched and one followed: "
            f"{piece['answers']:,} answers in {CROWDED_S} s, {len(piece['wrong'])} of them wrong."
        )
        missed += [f"delta: crowded: {one}" for one in piece["wrong"]]
    return Report(
        [
            "`tests/deltas.py`: the number of a write says what it is, so every answer is compared with that of the "
            "writes up to the one that the index names. A write is lost when it returned, or was flushed, and is not "
            "there after the kill. While writers die, a reader opens and follows; its answers are counted.",
            "",
            *table(("a writer is", "killed", "answers of the reader", "lost", "wrong answers", "stray files"), rows),
            "",
            *(line for pair in zip(lines, [""] * len(lines), strict=True) for line in pair),
        ],
        missed,
    )


# ------------------------------------------------------------------------------------------------- quality


def quality(_: Proof) -> Pieces:
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
            yes(piece["holds"]),
            piece["best_epoch"],
            f"{piece['fit_seconds']:.0f}",
        )
        for seed, piece in seeds.items()
    ]
    values = {key: [one[key] for one in metrics.values()] for key in columns.values()}
    rows.append(("mean +- sd", *(mean_sd(values[key]) for key in columns.values()), "", "", "", ""))
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
                    yes(piece["holds"]),
                )
            ],
        ),
        "",
        *(f"- {ascii_of(claim)}" for claim in piece["claims"]),
        "",
    ]


# ------------------------------------------------------------------------------------------------- ddp


def ddp(proof: Proof) -> Pieces:
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
            f"Mean with one process {mean_sd(rates[:, 0])}, with two {mean_sd(rates[:, 1])}; mean difference "
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


def orchestrated(proof: Proof) -> Pieces:
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
    Section("delta", "Live updates", (PROJECT / "tests" / "deltas.py",), delta, report_delta),
    Section("quality", "Quality", (), quality, report_quality),
    Section("ddp", "Data-parallel training", (), ddp, report_ddp),
    Section("orchestration", "Orchestration", (Path(orchestration.__file__),), orchestrated, report_orchestration),
)

SUBJECT = Subject("retrieval", "Retrieval", CODE, SECTIONS, ", ".join(map(str, SEEDS)))
