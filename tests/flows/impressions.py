"""The flow of a system that learns from impressions, whole: what is cached, compared, refused, and what goes on.

A system's file of tests derives a class from `FlowOfImpressions` and says which system it is.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from infra.refs import Model
from infra.settings import settings
from infra.store import open_store
from infra.tracking import mlflow_client
from models.common.contracts import TrainingConfig
from models.feed.events.simulator import SimulatorConfig
from tests.homes import living_in
from tests.runs import states

FEED = SimulatorConfig(users=47, sessions=7.0)
TRAINING = TrainingConfig(epochs=2, batch_size=8, learning_rate=5e-3)
STEPS = ("curate", "train", "rival", "evaluate", "publish")


@dataclass(frozen=True, kw_only=True)
class System:
    """What the tests must be told.

    Attributes:
        flow: the flow; it stands here because Prefect binds a flow that is an attribute of the class.
        config: its configuration, over data named `flow-test`, lenient in judging.
        learner: the field of the configuration that trains.
    """

    flow: Any
    config: Any
    learner: str

    @property
    def product(self) -> str:
        return f"{self.flow.name}-flow-test"


class FlowOfImpressions:
    """What every such flow does; the tests of a class share a home, so that what one has trained serves the next."""

    system: ClassVar[System]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def shared_home(
        cls, prefect_server: str, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Path]:
        folder = tmp_path_factory.mktemp("home")
        with pytest.MonkeyPatch.context() as patch, living_in(folder, tracking_uri, patch):
            yield folder

    @pytest.fixture(scope="class")
    @classmethod
    def first(cls, shared_home: Path) -> Any:
        """The state of the first run."""
        return cls.run()

    @property
    def config(self) -> Any:
        return self.system.config

    @classmethod
    def run(cls, config: Any = None) -> Any:
        return cls.system.flow(cls.system.config if config is None else config, return_state=True)

    def trained_by(self, **changes: Any) -> Any:
        training = dataclasses.replace(TRAINING, **changes)
        learner = dataclasses.replace(getattr(self.config, self.system.learner), training=training)
        return dataclasses.replace(self.config, **{self.system.learner: learner})

    def judged(self) -> Any:
        """The judgement of the newest evaluation."""
        (experiment,) = [one for one in mlflow_client().search_experiments() if one.name == self.system.flow.name]
        return mlflow_client().search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0].data

    def test_what_is_published_is_cached_and_the_next_one_must_not_be_worse(self, first: Any) -> None:
        (outcome,) = first.result()
        assert (first.name, outcome.status, outcome.product) == ("Published", "published", self.system.product)
        assert outcome.certificate == "exact + bounded + statistical: holds"
        assert set(states(first).values()) == {"Completed"}
        store = open_store()
        live = store.live(Model, self.system.product)
        assert (live.version, outcome.headline) == (outcome.version, "auc")
        assert "gain_over_champion" not in self.judged().metrics
        said = {name: str(value) for name, value in self.config.parameters().items()}
        assert said.items() <= self.judged().params.items(), "what a person compares runs by"

        again = self.run()
        assert again.name == "Unchanged"
        found = states(again)
        assert {name: found[name] for name in STEPS if name != "rival"} == dict.fromkeys(
            ("curate", "train", "evaluate", "publish"), "Cached"
        )

        better = self.trained_by(epochs=3)
        lenient = dataclasses.replace(better, gate=dataclasses.replace(self.config.gate, margin=1.0))
        second = self.run(lenient)
        assert second.name == "Published"
        metrics = self.judged().metrics
        assert metrics["gain_over_champion_low"] <= metrics["gain_over_champion"] <= metrics["gain_over_champion_high"]
        assert metrics["gain_over_champion"] == pytest.approx(metrics["auc"] - metrics["auc_champion"], abs=1e-12)

        refused = self.run(self.trained_by(epochs=1, learning_rate=1e-6))
        assert refused.name == "Refused"
        assert "interval against the champion begins at" in str(refused.message)
        assert store.live(Model, self.system.product).version == second.result()[0].version

    def test_the_champion_is_compared_by_identifiers_when_the_data_have_changed(self, first: Any) -> None:
        assert open_store().live(Model, self.system.product)
        grown = dataclasses.replace(
            self.config,
            data=dataclasses.replace(self.config.data, simulator=dataclasses.replace(FEED, users=60)),
            gate=dataclasses.replace(self.config.gate, margin=1.0),
        )
        state = self.run(grown)
        assert state.name == "Published", state.message
        assert 0 < self.judged().metrics["auc_champion"] < 1

    def test_what_is_not_above_the_item_ctr_is_refused_with_the_reason(self) -> None:
        strict = dataclasses.replace(
            self.trained_by(epochs=1, learning_rate=1e-6),
            data=dataclasses.replace(self.config.data, name="strict"),
            judgement=dataclasses.replace(self.config.judgement, margin=0.0),
        )
        state = self.run(strict)
        assert state.name == "Refused"
        assert "auc_gain_over_item_ctr_low" in str(state.message)
        assert open_store().current_or_none("model", f"{self.system.flow.name}-strict") is None

    def test_a_table_whose_responses_are_all_alike_fails_with_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(tmp_path))
        settings.cache_clear()
        request.addfinalizer(settings.cache_clear)
        rows = ["user,item,time"]
        rows += [f"u{number % 5},i{number % 7},{1_600_000_000 + 4000 * number}" for number in range(90)]
        file = tmp_path / "events.csv"
        file.write_text("\n".join(rows))
        table = dataclasses.replace(self.config.data.table, events=str(file))
        data = dataclasses.replace(self.config.data, name="own", source="table", table=table)
        state = self.run(dataclasses.replace(self.config, data=data))
        assert state.name == "Failed"
        assert "log what was shown and passed over too" in str(state.message)

    def test_the_same_inputs_make_the_same_versions_elsewhere(
        self, first: Any, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with living_in(tmp_path, tracking_uri, monkeypatch):
            again = self.run()
            assert again.name == "Published", "nothing is cached there"
            assert again.result()[0].version == first.result()[0].version

    def test_two_processes_train_one_model(self) -> None:
        twice = self.trained_by(processes=2)
        state = self.run(dataclasses.replace(twice, gate=dataclasses.replace(self.config.gate, margin=1.0)))
        assert state.name == "Published", state.message
        assert self.judged().params["processes"] == "2"
