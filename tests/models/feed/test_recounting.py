"""What certificates count again: it knows nothing of what they judge, and finds what is wrong and nothing else."""

import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.common.calibration import Isotonic, fit_isotonic
from models.feed import recounting
from models.feed.events.histories import Histories
from models.feed.events.metrics import auc, normalized_entropy
from models.feed.events.simulator import SimulatorConfig, simulate
from models.feed.events.splits import global_time
from models.feed.events.table import Events
from models.feed.recounting import Log, Scored

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    """A simulated feed in parts, as a system prepares it."""
    events = simulate(SimulatorConfig(users=47, sessions=7.0)).events
    layout = {"layout": {"source": "simulator", "categories": "category"}}
    return {**events.payload(), **global_time(events).payload(), **layout}


def said(data: dict[str, Any], part: str = "test", **changes: Any) -> Scored:
    """Scores of a part that know the truth to some extent, with their own calibration."""
    rows = np.sort(data[part])
    events = Events.from_payload(data)
    draw = np.random.default_rng(3)
    logit = (events.actions[rows] + draw.normal(0, 1, (len(rows), 2))).astype(np.float32)
    steps = [fit_isotonic(logit[:, task], events.actions[rows, task]) for task in range(2)]
    chance = np.stack([step(logit[:, task]) for task, step in enumerate(steps)], 1)
    return Scored(**({"rows": rows, "logit": logit, "chance": chance, "batch": logit} | changes))


def kept(steps: list[Isotonic]) -> dict[str, Any]:
    """A calibration as a network keeps it."""
    table = np.zeros((len(steps), 2, 256))
    for task, step in enumerate(steps):
        table[task, :, : len(step.score)] = step.score, step.chance
    return {"calibration": table, "knots": np.array([len(step.score) for step in steps])}


@pytest.mark.parametrize("module", ["models/feed/recounting.py", "models/common/written_out.py"])
def test_nothing_of_the_project_is_imported_but_the_form_of_a_certificate(module: str) -> None:
    names = set()
    for node in ast.walk(ast.parse((PROJECT / module).read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = {name for name in names if name.split(".")[0] in ("models", "infra", "tasks", "flows")}
    assert ours <= {"models.common.certificate", "models.common.contracts"}
    assert not {name.split(".")[0] for name in names} & {"torch", "scipy", "numba", "lightning"}


def test_the_log_finds_histories_gaps_and_categories_as_the_fast_path_does(data: dict[str, Any]) -> None:
    log, events = Log.of(data), Events.from_payload(data)
    histories = Histories(events)
    for row in range(0, len(events), 97):
        past, rows = log.asked(int(events.session[row]), 9)
        seen = histories.before_session[[row]]
        wanted = histories.latest(events.user[[row]], seen, 9)[0]
        assert past.tolist() == wanted[wanted >= 0].tolist() and row in rows
        strided, _ = log.asked(int(events.session[row]), 9, 4)
        skipped = -(-max(int(seen[0]) - 9, 0) // 4) * 4
        assert len(strided) == int(seen[0]) - skipped
    codes = events.categories("category")
    assert log.categories == [
        sorted(codes.code[codes.start[item] : codes.start[item + 1]].tolist()) for item in range(events.items)
    ]
    past, _ = log.asked(int(events.session[-1]), 30)
    assert all(0 < gap < 40 for gap in log.gaps(past)[1:])
    assert recounting.elapsed(10, 10) == 1 and recounting.elapsed(0, 1023) == 11 and recounting.elapsed(0, 2**60) == 39


def test_what_is_sound_holds(data: dict[str, Any]) -> None:
    log, test, validation = Log.of(data), said(data), said(data, "validation")
    weights = {
        "w": np.zeros(3),
        **kept([fit_isotonic(validation.logit[:, t], log.action[validation.rows, t]) for t in (0, 1)]),
    }
    label = log.action[test.rows, 0]
    chance = np.stack([step(test.logit[:, t]) for t, step in enumerate(steps_of(weights))], 1)
    test = said(data, chance=chance)
    metrics = {"auc": auc(label, test.logit[:, 0]), "normalized_entropy": normalized_entropy(label, chance[:, 0])}
    claims = [
        recounting.finite(weights),
        recounting.parts_in_order(log, data),
        recounting.complete(data, test),
        recounting.alike("a", test.logit, test.batch, 0.0, "Largest"),
        recounting.disorder(weights, test),
        *recounting.calibrated(weights, log, test, validation),
        *recounting.counted(log, test, metrics),
        *recounting.honest(log, test, 0.1),
        recounting.scored_again(lambda session: test.logit[log.session[test.rows] == session], log, test, "b", 9, 0),
    ]
    assert [claim.sentence() for claim in claims if not claim.holds] == []


def steps_of(weights: dict[str, Any]) -> list[Isotonic]:
    return [
        Isotonic(score=table[0, :size], chance=table[1, :size])
        for table, size in zip(weights["calibration"], weights["knots"], strict=True)
    ]


def test_a_number_that_is_not_finite_is_named() -> None:
    claim = recounting.finite({"good": np.ones(3), "bad": np.array([1, np.inf, np.nan])})
    assert claim.value == 2 and "The first of 1: bad." in claim.detail


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("train", lambda data: np.append(data["train"], data["test"][:1]), "is in train and test"),
        ("validation", lambda data: data["validation"][1:], ""),
        ("test", lambda data: np.append(data["validation"][-1:], data["test"]), "is in validation and test"),
        ("train", lambda data: np.append(data["train"][:-1], data["test"][-1:]), "is not before validation"),
    ],
)
def test_parts_that_overlap_or_know_of_later_ones_are_found(
    data: dict[str, Any], part: str, change: Any, words: str
) -> None:
    claim = recounting.parts_in_order(Log.of(data), {**data, part: change(data)})
    assert claim.holds == (not words)
    assert words in claim.detail or claim.value > 1


def test_a_torn_session_and_a_log_that_runs_back_are_found(data: dict[str, Any]) -> None:
    log = Log.of(data)
    first = data["test"][log.session[data["test"]] == log.session[data["test"][0]]]
    torn = {**data, "validation": np.append(data["validation"], first[:1]), "test": data["test"][1:]}
    assert len(first) > 1 and not recounting.parts_in_order(log, torn).holds
    table = data["events"]
    time = np.array(table["time"].to_numpy())
    time[100] = time[0] - 1
    back = {**data, "events": table.set_column(table.column_names.index("time"), "time", pa.array(time))}
    assert "row 100 is earlier" in recounting.parts_in_order(Log.of(back), data).detail


def test_missing_foreign_and_doubled_scores_are_counted(data: dict[str, Any]) -> None:
    rows = np.sort(data["test"])
    for found, wrong in (
        (rows[1:], 1),
        (np.append(rows, rows[:1]), 1),
        (np.append(rows, data["train"][:2]), 2),
        (rows, 0),
    ):
        assert recounting.complete(data, said(data, rows=found)).value == wrong


def test_what_is_not_a_number_is_infinitely_far() -> None:
    assert recounting.alike("a", np.array([1.0, np.nan]), np.array([1.0, 2.0]), 1.0, "Largest").value == math.inf
    assert recounting.alike("a", np.zeros(0), np.zeros(0), 0.0, "Largest").holds


def test_a_score_that_is_missing_fails_the_session(data: dict[str, Any]) -> None:
    log, test = Log.of(data), said(data)
    right = {
        int(session): test.logit[log.session[test.rows] == session] for session in np.unique(log.session[test.rows])
    }
    short = said(data, rows=test.rows[1:], logit=test.logit[1:])
    claim = recounting.scored_again(right.__getitem__, log, short, "again", 10_000, 0)
    assert not claim.holds and math.isinf(claim.value) and f"at row {test.rows[0]}" in claim.detail


def test_pooling_neighbours_one_by_one_is_the_isotonic_fit() -> None:
    draw = np.random.default_rng(0)
    for size in (1, 2, 3, 47, 500):
        score = np.round(draw.standard_normal(size), 1)
        label = (draw.random(size) < 1 / (1 + np.exp(-score))).astype(float)
        np.testing.assert_allclose(recounting.fitted_again(score, label), fit_isotonic(score, label)(score), atol=1e-12)


@pytest.mark.parametrize("label", [np.zeros(4), np.ones(4), np.array([0.0, 1, 1, 1]), np.array([1.0, 0, 0, 0])])
def test_a_calibration_that_is_fitted_again_keeps_the_mean(label: np.ndarray) -> None:
    again = recounting.fitted_again(np.array([0.0, 1, 2, 3]), label)
    assert again.mean() == pytest.approx(label.mean(), abs=1e-12)
    assert ((again >= 0) & (again <= 1)).all()


@pytest.mark.parametrize(("power", "holds"), [(1.0, True), (3.0, False), (0.2, False)])
def test_chances_that_are_too_sure_or_too_high_are_found(data: dict[str, Any], power: float, holds: bool) -> None:
    test = said(data)
    claims = recounting.honest(Log.of(data), said(data, chance=test.chance**power), 0.1)
    assert all(claim.holds for claim in claims) == holds
