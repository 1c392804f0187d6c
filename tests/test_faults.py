"""A killed flow, retried once, ends as if nothing had happened; `make prove` kills at every moment."""

from pathlib import Path

import pytest

from tests.faults import EVERY_STEP, INSIDE, WRITES, Result, durations_of, run_with_kill


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> tuple[Result, dict[str, float]]:
    home = tmp_path_factory.mktemp("undisturbed")
    result = run_with_kill(home, "", prefect_server, {})
    assert result.state == "COMPLETED/Published", result.attempts[0].output
    return result, durations_of(home)


@pytest.mark.timeout(600)
def test_a_training_killed_in_mid_epoch_makes_no_step_twice_that_a_checkpoint_holds(
    tmp_path: Path, prefect_server: str
) -> None:
    whole = run_with_kill(tmp_path / "whole", EVERY_STEP, prefect_server, {})
    assert whole.state == "COMPLETED/Published", whole.attempts[0].output

    result = run_with_kill(tmp_path / "killed", "step:20", prefect_server, {})

    assert result.killed, result.attempts[0].output
    assert result.state.startswith("COMPLETED/"), result.attempts[-1].output
    assert result.digest == whole.digest
    assert result.steps == whole.steps + 1, "the step of the kill is begun twice, and no other"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["train:middle", "fsync:12"])
def test_a_killed_flow_ends_like_an_undisturbed_one_after_one_retry(
    moment: str, tmp_path: Path, prefect_server: str, undisturbed: tuple[Result, dict[str, float]]
) -> None:
    assert moment in (*INSIDE, *WRITES)
    whole, durations = undisturbed

    result = run_with_kill(tmp_path, moment, prefect_server, durations)

    assert result.killed, result.attempts[0].output
    assert result.state.startswith("COMPLETED/"), result.attempts[-1].output
    assert result.digest == whole.digest
    assert result.repeated == [], "a task that had finished ran again"
    assert result.runs == 1, "the retry made another MLflow run"


@pytest.fixture(scope="module")
def undisturbed_storms(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> tuple[Result, dict[str, float]]:
    home = tmp_path_factory.mktemp("storms")
    result = run_with_kill(home, "", prefect_server, {}, "prepare_storms")
    assert result.state == "COMPLETED/Published", result.attempts[0].output
    return result, durations_of(home)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["part:2", "fsync:20", "rename:2", "link:9", "prepare:exit"])
def test_a_dataset_killed_among_its_parts_is_completed_and_nobody_ever_reads_a_mixture(
    moment: str, tmp_path: Path, prefect_server: str, undisturbed_storms: tuple[Result, dict[str, float]]
) -> None:
    whole, durations = undisturbed_storms

    result = run_with_kill(tmp_path, moment, prefect_server, durations, "prepare_storms")

    assert result.killed, result.attempts[0].output
    assert result.between in ("", whole.digest)
    assert result.state.startswith("COMPLETED/"), result.attempts[-1].output
    assert result.digest == whole.digest
    assert result.repeated == [], "a task that had finished ran again"
