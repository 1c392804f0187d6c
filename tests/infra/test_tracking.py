"""Tracking: one MLflow run for a flow run, whatever happens to it."""

import concurrent.futures
import uuid
from pathlib import Path

import pytest

from infra.tracking import mlflow_client, run_for


def test_every_task_of_a_flow_run_writes_into_the_same_run(home: Path) -> None:
    flow_run = str(uuid.uuid4())
    with run_for("tracking-test", flow_run, "first name", {"product": "toy"}) as first:
        first.parameters({"width": 8})
        first.metrics({"loss": 0.5})
    with run_for("tracking-test", flow_run, "another name") as second:
        second.parameters({"width": 9, "depth": 2})
    found = mlflow_client().get_run(first.id)
    assert second.id == first.id
    assert found.info.run_name == "first name"
    assert found.info.status == "FINISHED"
    assert found.data.params == {"width": "8", "depth": "2"}, "a parameter changed within a run"
    assert found.data.tags["prefect.flow_run_id"] == flow_run


def test_tasks_that_begin_at_once_share_one_run(home: Path) -> None:
    flow_run = str(uuid.uuid4())

    def begin(_: int) -> str:
        with run_for("tracking-test", flow_run, "parallel") as run:
            return run.id

    with run_for("tracking-test", str(uuid.uuid4()), "the experiment exists"):
        pass
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(begin, range(8)))) == 1


def test_a_run_whose_work_raised_is_failed_and_the_error_goes_on(home: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        run_for("tracking-test", str(uuid.uuid4()), "fails") as run,
    ):
        raise ZeroDivisionError
    assert mlflow_client().get_run(run.id).info.status == "FAILED"


def test_figures_tables_and_texts_are_files_of_the_run(home: Path) -> None:
    with run_for("tracking-test", str(uuid.uuid4()), "artifacts") as run:
        run.image("figures/a.png", b"png")
        run.table("tables/a.json", [{"k": 1, "hit rate": 0.5}])
        run.text("certificate.md", "holds")
    client = mlflow_client()
    assert {item.path for item in client.list_artifacts(run.id)} == {"figures", "tables", "certificate.md"}
    assert [item.path for item in client.list_artifacts(run.id, "figures")] == ["figures/a.png"]
