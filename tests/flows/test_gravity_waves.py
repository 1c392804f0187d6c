"""The flows of fluxes, whole: what is published, cached, compared, refused; what is predicted once and goes on."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.datasets import prepare_fluxes
from flows.gravity_waves import (
    monitor_gravity_waves,
    predict_fluxes,
    rollback_gravity_waves,
    train_gravity_waves,
)
from infra.grids import Parts
from infra.manifest import product_name
from infra.refs import Dataset, Model
from infra.settings import settings
from infra.store import open_store
from infra.tracking import mlflow_client
from models.climate.datasets.config import preset
from models.climate.generator.gwsphere import GwsphereConfig
from models.climate.gravity_waves.config import (
    DataConfig,
    GravityWavesConfig,
    JudgementConfig,
    LatticeConfig,
    LearningConfig,
    NetworkConfig,
    TrainingConfig,
    tiny,
)
from models.climate.gravity_waves.prediction import PREDICTED, PredictionConfig, PredictionFlowConfig
from models.common.gate import GateConfig
from tasks.train import network_of
from tests.runs import states

pytestmark = pytest.mark.usefixtures("prefect_server")

STEPS = ("prepare", "train", "evaluate", "publish")
TRAINING = TrainingConfig(epochs=3, batch_size=4, learning_rate=5e-3, schedule="cosine")
QUICK = GravityWavesConfig(
    data=DataConfig(
        lattice=LatticeConfig(
            name="quick", hours_apart=301, hours_together=16, world=GwsphereConfig(rows=16, columns=32, levels=6)
        )
    ),
    network=LearningConfig(architecture=NetworkConfig(width=4, depth=1, stem=24), training=TRAINING),
    column=LearningConfig(architecture=NetworkConfig(kind="column", hidden=16, layers=1), training=TRAINING),
    # limits that a training of seconds holds; those of the presets hold in the first test
    judgement=JudgementConfig(column=5.0, mean=1.5, sign=0.3, magnitude=20.0, slope=20.0, change=-1.0, drag=-1.0),
    gate=GateConfig(product="comparison", margin=1.0),
)
PRODUCT = product_name(QUICK.data)


def run(config: GravityWavesConfig = QUICK) -> Any:
    return train_gravity_waves(config, return_state=True)


def learning(epochs: int = 3, **changes: Any) -> GravityWavesConfig:
    training = dataclasses.replace(TRAINING, epochs=epochs, **changes)
    network = dataclasses.replace(QUICK.network, training=training)
    column = dataclasses.replace(QUICK.column, training=dataclasses.replace(TRAINING, epochs=epochs))
    return dataclasses.replace(QUICK, network=network, column=column)


def predict(product: str = PRODUCT, folder: str = "", **changes: Any) -> Dataset:
    config = PredictionFlowConfig(data=PredictionConfig(**changes), folder=folder)
    found: Dataset = predict_fluxes(config, product)
    return found


def made(monkeypatch: pytest.MonkeyPatch, fatal: int = 0) -> list[str]:
    """Names of the parts that are made from now on; the n-th ends in an error."""
    names: list[str] = []
    original = Parts.write

    def write(self: Parts, name: str, *rest: Any) -> Any:
        if len(names) + 1 == fatal:
            raise OSError("no space left on device")
        names.append(name)
        return original(self, name, *rest)

    monkeypatch.setattr(Parts, "write", write)
    return names


def live() -> Model:
    return open_store().live(Model, PRODUCT)


@pytest.mark.timeout(900)
def test_the_tiny_network_is_published_with_a_certificate_that_holds_and_a_second_run_makes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = made(monkeypatch)
    first = run(tiny())
    assert first.name == "Published", first.message
    (outcome,) = first.result()
    assert (outcome.product, outcome.headline) == ("gravity_waves-lattice", "skill_over_column")
    assert outcome.certificate.endswith("holds")
    assert outcome.value > 0
    assert names

    store, parts = open_store(), len(names)
    (report,) = [one for one in store.versions("report", outcome.product) if one.run_id == outcome.run_id]
    assert report.inputs["model"]["version"] == outcome.version
    assert any(entry.part == "beside" for entry in report.files), "the report does not say which column"
    (beside,) = store.versions("model", "gravity_waves-lattice-column")
    assert store.current_or_none("model", "gravity_waves-lattice-column") is None, "a column went live"
    kept = mlflow_client().get_run(outcome.run_id).data
    assert kept.metrics["column_best_epoch"] >= 1
    assert {"validation_r2", "column_validation_r2", "skill_over_column"} <= set(kept.metrics)
    assert kept.params["kind"] == "unet"
    network = network_of(store, store.live(Model, outcome.product))
    assert torch.isfinite(torch.cat([one.ravel() for one in network.state_dict().values()])).all()  # type: ignore[union-attr]

    again = run(tiny())
    assert again.name == "Unchanged"
    found = states(again)
    assert {name: found[name] for name in STEPS} == dict.fromkeys(STEPS, "Cached")
    assert len(names) == parts, "a part was made twice"
    assert len(store.versions("model", outcome.product)) == 1
    assert store.versions("model", "gravity_waves-lattice-column")[0].digest == beside.digest

    watched = monitor_gravity_waves(tiny(), return_state=True)
    assert watched.name == "Healthy", watched.message


@pytest.mark.timeout(600)
def test_the_next_network_must_not_be_worse_and_the_one_before_can_come_back(home: Path) -> None:
    first = run()
    assert first.name == "Published", first.message
    second = run(learning(4))
    assert second.name == "Published", second.message
    metrics = mlflow_client().get_run(second.result()[0].run_id).data.metrics
    assert metrics["gain_over_champion_low"] <= metrics["gain_over_champion"]

    worse = run(dataclasses.replace(learning(1, learning_rate=5e-4), gate=GateConfig(product="comparison")))
    assert worse.name == "Refused"
    assert "interval against the champion begins at" in str(worse.message)
    strict = run(dataclasses.replace(learning(2), judgement=dataclasses.replace(QUICK.judgement, column=0.01)))
    assert strict.name == "Refused"
    assert "mse_over_column" in str(strict.message)
    short = dataclasses.replace(TRAINING, epochs=1)
    hasty = run(dataclasses.replace(QUICK, column=dataclasses.replace(QUICK.column, training=short)))
    assert "column_budget" in str(hasty.message), "a column that learned less is no bar"
    assert live().version == second.result()[0].version

    back = rollback_gravity_waves(PRODUCT, return_state=True)
    assert back.name == "Published"
    assert live().version == first.result()[0].version


@pytest.mark.timeout(600)
def test_fluxes_are_predicted_once_for_a_dataset_a_live_one_and_a_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(home))
    settings.cache_clear()
    assert run().name == "Published"
    names = made(monkeypatch)
    own = predict(days_together=30, folder=str(home / "files"))
    store = open_store()
    opened = store.open(own)
    assert own.name == "gravity_waves-predicted"
    assert opened.manifest.inputs["model"]["version"] == live().version
    assert [one["kind"] for one in opened["provenance"]["inputs"]] == ["model", "dataset"]
    learned = store.open(opened.manifest.input(Dataset, store.root))["data"]["training"]
    group = opened["data"][PREDICTED]
    assert group["uw"].shape == learned["uw"].shape
    assert group["time"].values.tolist() == learned["time"].values.tolist()
    network = network_of(store, live())
    assert network is not None
    from models.climate.gravity_waves.fields import FluxFields

    features, _ = FluxFields(learned).read([5])
    with torch.no_grad():
        told = network.fluxes(torch.from_numpy(features)).numpy()[0]  # type: ignore[operator]
    both = np.concatenate([group["uw"].values[5], group["vw"].values[5]])
    np.testing.assert_allclose(both, told, rtol=1e-4, atol=1e-4 * np.abs(told).max())
    files = sorted((home / "files").iterdir())
    assert len(files) == len(np.unique(group["time"].values.astype("datetime64[m]").astype("datetime64[M]")))
    import xarray as xr

    with xr.open_dataset(files[0]) as file:
        np.testing.assert_array_equal(file["vw"].values, group["vw"].values[: len(file["time"])])

    before = len(names)
    assert predict(days_together=30) == own
    assert len(names) == before, "a finished prediction was made again"

    recipe = preset("fluxes", "tiny")
    assert prepare_fluxes(recipe, return_state=True).name == "Published"
    del names[:]
    other = predict(dataset="datasets-fluxes", name="of-fluxes")
    assert names == ["2010-01-31"]
    assert store.open(other)["data"][PREDICTED].sizes["time"] == 3
    folder = Path(store.live(Dataset, "datasets-fluxes").location) / "data.zarr"
    shutil.copytree(folder, home / "copied.zarr")
    same = predict(location=str(home / "copied.zarr"), name="of-folder")
    assert "dataset" not in store.open(same).manifest.inputs
    for name in ("uw", "vw"):
        one, two = (store.open(ref)["data"][PREDICTED][name].values for ref in (other, same))
        np.testing.assert_array_equal(one, two)
    predict(dataset="datasets-fluxes", name="of-folder")
    assert names == ["2010-01-31", "2010-01-31"], "values that are the same were predicted again"


@pytest.mark.timeout(600)
def test_a_prediction_that_broke_off_goes_on_and_ends_with_the_same_digest(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run().name == "Published"
    shutil.copytree(home, home / "elsewhere", ignore=shutil.ignore_patterns("elsewhere"))
    broken = made(monkeypatch, fatal=4)
    config = PredictionFlowConfig(data=PredictionConfig(days_together=60))
    state = predict_fluxes(config, PRODUCT, return_state=True)
    assert state.is_failed()
    assert len(broken) == 3
    monkeypatch.undo()
    monkeypatch.setenv("HEADRACE_HOME", str(home))
    settings.cache_clear()
    rest = made(monkeypatch)
    whole: Dataset = predict_fluxes(config, PRODUCT)
    assert not set(broken) & set(rest), "a part that was there was made again"

    monkeypatch.setenv("HEADRACE_HOME", str(home / "elsewhere"))
    settings.cache_clear()
    del rest[:]
    undisturbed: Dataset = predict_fluxes(config, PRODUCT)
    assert set(broken) < set(rest)
    assert undisturbed.digest == whole.digest
    assert undisturbed.location != whole.location


@pytest.mark.timeout(600)
def test_fields_that_the_network_never_saw_the_like_of_are_refused_by_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(home))
    settings.cache_clear()
    assert run().name == "Published"
    other = dataclasses.replace(
        QUICK.data.lattice, name="warmer", years=(2010,), world=GwsphereConfig(rows=16, columns=32, levels=7)
    )
    from tests.models.climate.gravity_waves.hours import prepared

    (home / "seven").mkdir()
    prepared(other, home / "seven")
    config = PredictionConfig(location=str(home / "seven" / "version" / "data.zarr"))
    state = predict_fluxes(PredictionFlowConfig(data=config), PRODUCT, return_state=True)
    assert state.is_failed()
    assert "deviations off" in str(state.message), state.message
    few = dataclasses.replace(QUICK.data.lattice, name="few", years=(2010,))
    few = dataclasses.replace(few, world=GwsphereConfig(rows=16, columns=32, levels=6))
    (home / "six").mkdir()
    opened = prepared(few, home / "six")["data"]["training"]
    assert opened.sizes["level"] == 6
    network: Any = network_of(open_store(), live())
    with pytest.raises(ValueError, match="learned from 6"):
        PredictionConfig(group="training").survey({"data": {"training": opened.isel(level=slice(1, None))}}, network)
    outside = predict_fluxes(PredictionFlowConfig(data=PredictionConfig(location="/etc")), PRODUCT, return_state=True)
    assert "outside the data roots" in str(outside.message)


@pytest.mark.timeout(600)
def test_two_processes_train_one_network(home: Path) -> None:
    state = run(learning(processes=2))
    assert state.name == "Published", state.message


@pytest.mark.timeout(600)
def test_a_live_dataset_is_learned_from_by_reference(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_reference = dataclasses.replace(QUICK, data=DataConfig(source="dataset", dataset=PRODUCT))
    absent = run(by_reference)
    assert "publish one first" in str(absent.message)
    assert run().name == "Published"
    store = open_store()
    lattice = store.open(live()).manifest.input(Dataset, store.root)
    store.publish(lattice, {"claims": []})
    names = made(monkeypatch)
    state = run(by_reference)
    assert state.name == "Unchanged", "the same hours gave another network"
    assert {name: states(state)[name] for name in ("train",)} == {"train": "Cached"}
    assert names == []

    assert prepare_fluxes(preset("fluxes", "tiny"), return_state=True).name == "Published"
    few = run(dataclasses.replace(QUICK, data=DataConfig(source="dataset", dataset="datasets-fluxes")))
    assert few.is_failed()
    assert "no hour is left for" in str(few.message) or "hours, and there are" in str(few.message), few.message
