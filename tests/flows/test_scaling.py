"""The study of scaling, whole: what is cached, what a broken study goes on from, what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flows.scaling import scaling_study
from infra.refs import Dataset, Model
from infra.settings import settings
from infra.store import open_store
from infra.tracking import mlflow_client
from models.feed.events.simulator import SimulatorConfig
from models.feed.ranking.scaling import ScalingConfig, SizeConfig, TrialConfig
from tests.runs import states

CONFIG = ScalingConfig(
    name="flow-test",
    sizes=tuple(SizeConfig(width=4 * (1 + place), users=14 + 9 * place) for place in range(5)),
    seeds=1,
    measured=31,
    examples=(),
    histories=(),
    simulator=SimulatorConfig(items=160, slate=7, sessions=6.0),
)
LAW = "ranking-flow-test"


def run(config: ScalingConfig = CONFIG) -> Any:
    return scaling_study(config, return_state=True)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of trials as they are measured."""
    names: list[str] = []
    measure = TrialConfig.measure

    def counting(self: TrialConfig, *parts: Any) -> Any:
        names.append(self.name)
        return measure(self, *parts)

    monkeypatch.setattr(TrialConfig, "measure", counting)
    return names


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("prefect_server")
def test_a_study_that_broke_goes_on_and_trains_only_what_is_new(
    home: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = TrialConfig.measure

    def breaking(self: TrialConfig, *parts: Any) -> Any:
        if self.place == 2:
            raise OSError("the machine went away")
        return counting(self, *parts)

    monkeypatch.setattr(TrialConfig, "measure", breaking)
    assert run().name == "Failed"
    assert measured == ["flow-test-compute-0-0", "flow-test-compute-1-0"]

    monkeypatch.setattr(TrialConfig, "measure", counting)
    first = run()
    (outcome,) = first.result()
    assert (first.name, outcome.product, outcome.headline) == ("Published", LAW, "exponent"), first.message
    assert outcome.certificate == "exact + bounded + statistical: holds"
    assert [name[-3] for name in measured] == ["0", "1", "2", "3", "4"]
    store = open_store()
    law = store.open(store.live(Model, LAW))
    assert law["law"]["held_back"]["flops"] == law["points"][-1]["flops"]
    gathered = law.manifest.input(Dataset, store.root)
    assert gathered.name == LAW
    sources = store.open(gathered)["sources"]
    assert [one["name"] for one in sources] == [f"ranking-flow-test-compute-{place}-0" for place in range(5)]
    for one, point in zip(sources, law["points"], strict=True):
        trial = Dataset(**one, location=f"{store.root}/{Dataset.kind}/{one['name']}/{one['version']}")
        assert store.open(trial)["about"]["width"] == point["width"]

    (experiment,) = [one for one in mlflow_client().search_experiments() if one.name == "ranking"]
    runs = [one.data for one in mlflow_client().search_runs([experiment.experiment_id])]
    trials = [one for one in runs if one.params.get("study") == "compute" and "flops" in one.metrics]
    assert sorted(int(one.params["users"]) for one in trials)[-5:] == [14, 23, 32, 41, 50]
    assert all(one.metrics["flops"] > 0 and 0 < one.metrics["auc"] < 1 for one in trials)
    whole = next(one for one in runs if one.params.get("study") == "flow-test" and "exponent" in one.metrics)
    assert whole.metrics["exponent_low"] <= whole.metrics["exponent"] <= whole.metrics["exponent_high"]

    again = run()
    assert again.name == "Unchanged"
    found = states(again)
    assert {found[name] for name in ("gather", "conclude", "evaluate", "publish")} == {"Cached"}

    strict = run(dataclasses.replace(CONFIG, least_decades=5.0))
    assert strict.name == "Refused"
    assert "decades" in str(strict.message)
    assert store.live(Model, LAW).version == outcome.version

    larger = dataclasses.replace(CONFIG, sizes=(*CONFIG.sizes[:4], SizeConfig(width=24, users=50)))
    run(larger)
    assert measured[5:] == ["flow-test-compute-4-0"]

    # trials at a time, processes apart, in a house of their own, measure the same
    monkeypatch.setenv("HEADRACE_HOME", str(home / "elsewhere"))
    settings.cache_clear()
    assert run(dataclasses.replace(CONFIG, concurrency=2)).name == "Published"
    apart = open_store()
    assert apart.open(apart.live(Model, LAW))["points"] == law["points"]
