"""An index that grows day by day: what a backfill builds, what a daily run adds, and what the form refuses."""

import dataclasses
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ParameterTypeError, PrefectHTTPStatusError

from flows.retrieval import backfill_index
from infra.refs import Calendar, Dataset, Index
from infra.store import open_store
from models.common.contracts import TrainingConfig
from models.common.days import DaysConfig
from models.feed.retrieval.config import (
    DataConfig,
    EncoderConfig,
    GeneratorConfig,
    JudgementConfig,
    RetrievalConfig,
    TowerConfig,
)
from tests.runs import states

CONFIG = RetrievalConfig(
    data=DataConfig(name="days-test", generator=GeneratorConfig(users=120, items=240, events=15)),
    encoder=EncoderConfig(
        tower=TowerConfig(dimension=8, hidden=8, uniform_negatives=16),
        training=TrainingConfig(epochs=1, batch_size=128),
    ),
    judgement=JudgementConfig(cases=16, replays=16, margin=1.0),
)
PRODUCT = "retrieval-days-test"
LAST = date(2021, 12, 7)


def run(first: date, last: date, **others: Any) -> Any:
    return backfill_index(CONFIG, DaysConfig(first=first, last=last, **others), return_state=True)


def versions(kind: str) -> set[str]:
    return {manifest.digest for manifest in open_store().versions(kind, PRODUCT)}


@pytest.mark.usefixtures("prefect_server")
def test_days_grow_an_index_and_a_run_without_news_changes_nothing(home: Path) -> None:
    first = run(date(2021, 6, 1), date(2021, 12, 6))
    assert first.name == "Published", first.message
    assert set(states(first).values()) == {"Completed"}
    assert len(states(first)) == 6, "a task for each day would be many"

    kinds = ("calendar", "dataset", "model", "index", "report")
    before = {kind: versions(kind) for kind in kinds}
    again = run(date(2021, 6, 1), date(2021, 12, 6))
    assert (again.name, again.result()[0].status) == ("Unchanged", "unchanged")
    assert states(again) == {
        "ingest": "Completed",
        **dict.fromkeys(("assemble", "train", "build_index", "evaluate", "publish"), "Cached"),
    }
    recent = backfill_index(CONFIG, DaysConfig(span="recent", lookback=2), return_state=True)
    assert recent.name == "Unchanged", "days without events are awaited"
    assert {kind: versions(kind) for kind in kinds} == before

    grown = run(LAST, LAST)
    (outcome,) = grown.result()
    assert (grown.name, outcome.live) == ("Published", outcome.version)
    store = open_store()
    live = store.live(Index, PRODUCT)
    dataset = store.open(live).manifest.input(Dataset, store.root)
    calendar = store.open(dataset).manifest.input(Calendar, store.root)
    days = [entry["day"] for entry in store.open(calendar)["days"]]
    assert (days[0], days[-1], len(days)) == ("2021-06-01", "2021-12-07", 190), "the day joined those that were known"

    old_day = run(date(2021, 9, 30), date(2021, 9, 30))
    assert old_day.name == "Unchanged", "a run for an old day took the newer days out of the index"


@pytest.mark.usefixtures("prefect_server")
def test_the_api_refuses_days_that_are_none_and_names_the_field() -> None:
    identifier = UUID(str(backfill_index.to_deployment(name="days-test").apply()))
    wrong: list[tuple[str, Any]] = [
        ("first", "yesterday"),
        ("last", "2024-13-01"),
        ("first", 20240101),
        ("span", "all"),
        ("lookback", 0),
        ("window", -1),
    ]
    with get_client(sync_client=True) as client:
        for name, value in wrong:
            with pytest.raises(PrefectHTTPStatusError) as found:
                client.create_flow_run_from_deployment(identifier, parameters={"days": {name: value}})
            assert found.value.response.status_code in (409, 422)
            assert f"days.{name}" in found.value.response.text
        right = {"first": "2021-01-01", "last": "2021-01-02"}
        assert (
            client.create_flow_run_from_deployment(identifier, parameters={"days": right}).parameters["days"] == right
        )


@pytest.mark.parametrize(
    ("days", "words"),
    [
        ({"first": "2021-01-02", "last": "2021-01-01"}, "first must not be after last"),
        ({"last": "2999-01-01"}, "last must not be in the future"),
        ({"first": "2021-02-30"}, "days.first"),
    ],
)
def test_a_range_that_makes_no_sense_fails_before_any_task(days: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterTypeError, match=r"days") as found:
        backfill_index.validate_parameters({"days": days})
    assert words in str(found.value)


def test_the_form_has_date_pickers() -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(backfill_index).model_dump()
    fields = schema["definitions"]["DaysConfig"]["properties"]
    assert [fields[name]["format"] for name in ("first", "last")] == ["date", "date"]
    assert {field.name for field in dataclasses.fields(DaysConfig)} == set(fields)
