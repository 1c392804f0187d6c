"""What is done with a live ranker: it answers tables, is watched, and gives way to the one before."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

from flows import history as histories
from flows import ranking as rankings
from infra.manifest import describe
from infra.refs import Dataset, Model, Predictions
from infra.settings import settings
from infra.store import NotPublishedError, open_store
from infra.tracking import mlflow_client
from models.feed.events.features import PastCounts
from models.feed.events.requests import RequestsConfig
from models.feed.events.splits import Split
from models.feed.events.table import Events
from tests.models.feed.history.worlds import CONFIG as HISTORY
from tests.models.feed.ranking.worlds import CONFIG as RANKING

pytestmark = pytest.mark.timeout(900)
"""The training that all share is of the first test's time."""


class System(NamedTuple):
    """A system with a live product."""

    config: Any
    train: Any
    predict: Any
    monitor: Any
    rollback: Any
    product: str
    folder: Path
    learner: str


@pytest.fixture(scope="module", params=["ranking", "history"])
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tracking_uri: str, prefect_server: str
) -> Iterator[System]:
    """One training, shared by all that follows."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("rankers")
        (home / "own").mkdir()
        patch.setenv("HEADRACE_HOME", str(home))
        patch.setenv("HEADRACE_TRACKING_URI", tracking_uri)
        patch.setenv("HEADRACE_DATA_ROOTS", str(home / "own"))
        settings.cache_clear()
        if request.param == "ranking":
            found = System(
                RANKING, rankings.train_ranker, rankings.predict_ranking, rankings.monitor_ranking,
                rankings.rollback_ranking, "ranking-test", home / "own", "ranker",
            )  # fmt: skip
        else:
            found = System(
                HISTORY, histories.train_history_scorer, histories.predict_history, histories.monitor_history,
                histories.rollback_history, "history-test", home / "own", "scorer",
            )  # fmt: skip
        state = found.train(found.config, return_state=True)
        assert state.name == "Published", state.message
        yield found
    settings.cache_clear()


def dataset_of(system: System) -> tuple[Dataset, Any]:
    store = open_store()
    dataset = store.open(store.live(Model, system.product)).manifest.input(Dataset, store.root)
    return dataset, store.open(dataset)


def judged(system: System) -> tuple[Events, np.ndarray, np.ndarray]:
    """The log, rows of the test part, and their logits as the judge computes them."""
    store = open_store()
    model = store.live(Model, system.product)
    _, data = dataset_of(system)
    config: Any = store.open(model).manifest.rebuild_configuration()
    network = config.network(store.open(model)["training"]["sizes"]).eval()
    network.load_state_dict(store.open(model)["weights"])
    if system.learner == "ranker":
        from models.feed.ranking.inputs import Inputs
        from models.feed.ranking.score import Ranker as Asked
    else:
        from models.feed.history.inputs import Inputs
        from models.feed.history.score import Scorer as Asked
    inputs = Inputs.of(data)
    sessions = inputs.sessions_of(Split.from_payload(data).test)
    return inputs.events, *Asked(network, inputs.catalogue).logits(inputs, sessions)


def requests_of(events: Events, rows: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "user": events.user_ids.take(pa.array(events.user[rows])),
            "item": events.item_ids.take(pa.array(events.item[rows])),
            "time": pa.array(events.began[rows]),
            "session": pa.array(events.session[rows]),
        }
    )


def last_run(system: str, purpose: str) -> Any:
    (experiment,) = [one for one in mlflow_client().search_experiments() if one.name == system]
    runs = mlflow_client().search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    return next(run.data for run in runs if run.data.tags.get("purpose") == purpose)


def test_a_table_is_answered_as_the_judge_would_and_kept_with_its_lineage(system: System) -> None:
    events, rows, logit = judged(system)
    file, export = system.folder / "requests.parquet", system.folder / "answers.parquet"
    whole = requests_of(events, rows)  # candidates of a session stay in their order, sessions and users do not
    drawn = np.random.default_rng(1).permutation(events.session.max() + 1)
    shuffled = whole.take(pa.array(np.argsort(drawn[events.session[rows]], kind="stable")))
    pyarrow.parquet.write_table(shuffled, file)
    state = system.predict(
        RequestsConfig(requests=str(file), session_column="session", export=str(export)),
        system.product,
        return_state=True,
    )
    predictions: Predictions = state.result()
    store = open_store()
    store.verify(predictions)
    answers = store.open(predictions)["answers"]
    assert pyarrow.parquet.read_table(export).equals(answers)
    assert answers["row"].to_pylist() == list(range(1, len(rows) + 1))
    key = {(events.session[row], events.item_ids[int(events.item[row])].as_py()): one
           for row, one in zip(rows, logit, strict=True)}  # fmt: skip
    right = np.array(
        [key[pair] for pair in zip(shuffled["session"].to_pylist(), shuffled["item"].to_pylist(), strict=True)]
    )
    for column, task in enumerate(events.tasks):
        assert np.array_equal(answers[f"logit_{task}"].to_numpy(), right[:, column])
        assert ((answers[f"chance_{task}"].to_numpy() > 0) & (answers[f"chance_{task}"].to_numpy() < 1)).all()
    best = answers.filter(pa.compute.equal(answers["place"], 1))
    assert best.num_rows == len(np.unique(events.session[rows])) == answers["request"].to_numpy().max() + 1
    manifest = store.open(predictions).manifest
    assert manifest.input(Model, store.root) == store.live(Model, system.product)
    assert manifest.input(Dataset, store.root) == dataset_of(system)[0]
    logged = last_run(system.train.name, "prediction")
    assert logged.metrics["candidates"] == len(rows)
    assert logged.metrics["candidates_per_second"] > 0
    assert 0 <= logged.metrics["cache_hit_rate"] <= 1
    shown = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]),
        key=ArtifactFilterKey(any_=["progress"]),
    )
    with get_client(sync_client=True) as client:
        (bar,) = client.read_artifacts(artifact_filter=shown)
    assert float(str(bar.data)) == 100
    again = system.predict(
        RequestsConfig(requests=str(file), session_column="session", export=str(export)), system.product
    )
    assert again == predictions, "equal requests and models give an equal version"


def test_lists_unknown_items_and_unknown_users_are_answered(system: System) -> None:
    file = system.folder / "lists.csv"
    file.write_text("who,when,shown\n1,2030-01-01T00:00:00Z,3|1|2\nnobody,2030-01-01T00:00:00Z,2|999999\n")
    config = RequestsConfig(
        requests=str(file), user_column="who", time_column="when", item_column="shown", listed=True,
        unknown="categories",
    )  # fmt: skip
    answers = open_store().open(system.predict(config, system.product))["answers"]
    assert answers["row"].to_pylist() == [1, 1, 1, 2, 2]
    assert answers["unknown"].to_pylist() == [False, False, False, False, True]
    assert answers["seen"].to_pylist()[3:] == [0, 0]
    assert answers["seen"].to_pylist()[0] > 0
    assert sorted(answers["place"].to_pylist()[:3]) == [1, 2, 3]
    refused = system.predict(dataclasses.replace(config, unknown="refuse"), system.product, return_state=True)
    assert refused.name == "Failed"
    assert "lists.csv, column 'shown', row 2: 999999 is unknown to the ranker" in str(refused.message)


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        ("user,time,item\n1,5,1\n1,yesterday,2\n1,6,3\n", {}, "column 'time', row 2: 'yesterday'"),
        ("user,time,item\n1,5,1\n1,-7,2\n", {}, "column 'time', row 2: -7"),
        ("user,time,item\n1,5,1\n,5,2\n", {}, "column 'user', row 2"),
        ("user,time,item\n1,5,\n", {}, "column 'item', row 1"),
        ("user,time,item\n1,5,1|\n1,5,\n", {"listed": True}, "column 'item', row 2"),
        ("user,time\n1,5\n", {}, "has no column 'item'"),
        ("user,time,item\n", {}, "no rows"),
        ("user,time,item\n1,5,1\n", {"session_column": "visit"}, "has no column 'visit'"),
        ("user,time,item\n1,5,1\n", {"export": "/etc/answers.parquet"}, "lies outside the data roots"),
        ("user,time,item\n1,5,1\n", {"export": "s3://there/answers.parquet"}, "to a path on this machine"),
    ],
)
def test_what_cannot_be_answered_names_the_row(system: System, text: str, changes: Any, said: str) -> None:
    file = system.folder / "wrong.csv"
    file.write_text(text)
    state = system.predict(RequestsConfig(requests=str(file), **changes), system.product, return_state=True)
    assert state.name == "Failed"
    assert said in str(state.message)


def test_a_product_that_is_not_live_is_named(system: System) -> None:
    with pytest.raises(NotPublishedError, match=f"{system.train.name}-none"):
        system.predict(RequestsConfig(), f"{system.train.name}-none")


def test_a_live_product_is_healthy_until_users_do_otherwise(system: System) -> None:
    state = system.monitor(system.config, return_state=True)
    assert state.name == "Healthy", state.message
    logged = last_run(system.train.name, "monitoring")
    assert {"auc", "auc_low", "auc_high", "calibration_ratio", "latency_ms_p50", "cache_hit_rate"} <= set(
        logged.metrics
    )
    dataset, data = dataset_of(system)
    store = open_store()
    main = f"action_{data['about']['tasks'][0]}"
    response = data["events"][main].to_numpy().copy()
    response[data["test"]] = 1 - response[data["test"]]  # of late, users do the opposite
    events = data["events"].set_column(data["events"].column_names.index(main), main, pa.array(response))
    later = {**data, "events": events}
    if "features" in data:
        counts = PastCounts(Events.from_payload(later), data["layout"]["categories"])
        later["features"] = counts.of_events().astype(np.float32)
    store.write(Dataset, later, describe(Dataset, dataset.name, system.config.data))
    strict = dataclasses.replace(system.config, judgement=dataclasses.replace(system.config.judgement, calibration=0.1))
    state = system.monitor(strict, return_state=True)
    assert state.name == "Degraded"
    assert "calibration_" in str(state.message)
    assert "served_score_error" not in str(state.message)


def test_a_rollback_returns_to_the_one_before(system: System) -> None:
    store = open_store()
    first = store.live(Model, system.product)
    learner = getattr(system.config, system.learner)
    longer = dataclasses.replace(learner, training=dataclasses.replace(learner.training, epochs=3))
    lenient = dataclasses.replace(system.config, gate=dataclasses.replace(system.config.gate, margin=1.0))
    state = system.train(dataclasses.replace(lenient, **{system.learner: longer}), return_state=True)
    assert state.name == "Published", state.message
    assert store.live(Model, system.product) != first
    (outcome,) = system.rollback(system.product)
    assert (outcome.version, store.live(Model, system.product)) == (first.version, first)
