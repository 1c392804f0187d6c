"""What happens when things die, through a real stack; `make prove SYSTEM=operations` does the same at full counts."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import operations
from tests.damages import KINDS, damage_and_open
from tests.operations import Stack

pytestmark = pytest.mark.timeout(600)
EPOCHS = 30


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with operations.stack(tmp_path_factory.mktemp("operated"), 4480) as running:
        yield running


def flow_runs_of(stack: Stack, deployment: str) -> list[dict[str, Any]]:
    found = stack.call(f"/deployments/name/{deployment}")
    runs: list[dict[str, Any]] = stack.call(
        "/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [found["id"]]}}}
    )
    return runs


def test_towers_that_go_live_start_the_build_of_their_index_by_themselves(stack: Stack) -> None:
    generated = operations.learning(0)
    generated["config"] |= {"data": {"generator": {"users": 200, "items": 400}}}  # the product that the trigger names
    encoder = stack.wait(stack.trigger("retrieval-encoder/tiny", generated))
    assert encoder["name"] == "Published", encoder
    deadline = time.monotonic() + 120
    while not (runs := flow_runs_of(stack, "retrieval-follow/tiny")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert runs, "the automation started nothing"
    assert stack.wait(runs[0]["id"])["name"] == "Published", stack.state(runs[0]["id"])
    assert stack.digest("index", "retrieval-generated")


def test_the_prefect_server_may_be_away_in_mid_run_and_no_metric_is_missing(stack: Stack) -> None:
    flow_run = stack.trigger("retrieval/tiny", operations.learning(1, EPOCHS))
    stack.wait_for_task(flow_run, "train")
    (found,) = operations.away(stack, "prefect", 10, [flow_run], EPOCHS)
    assert (found["type"], found["missing"]) == ("COMPLETED", 0), found
    stack.up()  # the keeper, too


def test_a_worker_and_its_flow_killed_together_are_called_crashed_and_the_slot_is_free(stack: Stack) -> None:
    flow_run = stack.trigger("retrieval/tiny", operations.learning(2, 1000))
    stack.wait_for_task(flow_run, "train")
    (found,) = operations.dead_together(stack, [flow_run], keeper=False)
    assert found["type"] == "CRASHED", found
    assert found["seconds"] <= 120, found
    stack.up()
    after = stack.wait(stack.trigger("retrieval/tiny", operations.learning(2, 1)))
    assert after["type"] == "COMPLETED", after


def test_the_keeper_brings_a_killed_server_back_where_it_was(stack: Stack) -> None:
    before = stack.services()
    stack.kill("prefect")
    deadline = time.monotonic() + 90
    while (now := stack.services()["prefect"])["pid"] == before["prefect"]["pid"] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert now["pid"] != before["prefect"]["pid"], "nobody started it again"
    assert now["port"] == before["prefect"]["port"]
    assert stack.call("/health") is True
    assert stack.services()["mlflow"] == before["mlflow"]


def test_a_reader_never_sees_half_a_publish_while_publishers_are_killed(tmp_path: Path) -> None:
    found = operations.publishing(tmp_path / "store", 12, seed=7)
    assert found["killed"] == 12
    assert found["reads"] > 12
    assert found["wrong_count"] == 0, found["wrong"]


def test_every_damage_to_a_published_version_is_refused_by_one_exception_that_names_it(tmp_path: Path) -> None:
    count = 4 * len(KINDS)
    found = damage_and_open(tmp_path, count, seed=7)
    assert (found["accepted"], found["unnamed"]) == ([], [])
    assert found["refused"] == count
