"""Expanding an audience, whole: another system's published index is asked by its name, writes in service included."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from flows.marketing import expand_audience
from infra.manifest import describe
from infra.refs import Dataset, Index, Predictions
from infra.serving import Live
from infra.settings import settings
from infra.store import open_store
from infra.tracking import mlflow_client
from models.common.contracts import Payload
from models.feed.retrieval.config import IndexConfig
from models.marketing.adaptive.lookalikes import best_cosines
from models.marketing.config import AudienceConfig, ExpansionConfig, GeneratedSeedsConfig, SeedsTableConfig
from tests.runs import states

PRODUCT = "retrieval-people"
MEMBERS = 431
CONFIG = AudienceConfig(
    expansion=ExpansionConfig(name="test", neighbours=40, best=5, size=70, generated=GeneratedSeedsConfig(seeds=50))
)


def publish() -> Index:
    """An index of vectors that the data give, as the retrieval system publishes one."""
    vectors = np.random.default_rng(0).normal(0, 1, (MEMBERS, 8))
    data = {
        "items": pa.table(
            {
                "item": np.arange(MEMBERS),
                "item_id": [f"member {row}" for row in range(MEMBERS)],
                "country": [("de", "fr", "it")[row % 3] for row in range(MEMBERS)],
            }
        ),
        "vectors": np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32),
    }
    store, config = open_store(), IndexConfig()
    dataset = store.write(Dataset, data, describe(Dataset, PRODUCT, config))
    index = store.write(Index, config.build_index(data, None), describe(Index, PRODUCT, config, (dataset,)))
    store.publish(index, {"claims": []})
    return index


def audience_of(state: Any) -> tuple[Predictions, Payload]:
    """What a report is about."""
    store = open_store()
    found = store.open(state.result()).manifest.input(Predictions, store.root)
    return found, store.open(found)


def own(home: Path, monkeypatch: pytest.MonkeyPatch, *members: str) -> AudienceConfig:
    """Seeds of a file."""
    (home / "seeds.csv").write_text("\n".join(["who", *members]) + "\n")
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(home))
    settings.cache_clear()
    table = SeedsTableConfig(file=str(home / "seeds.csv"), member_column="who")
    expansion = dataclasses.replace(CONFIG.expansion, source="table", table=table)
    return dataclasses.replace(CONFIG, expansion=expansion, export=str(home / "audience.parquet"))


@pytest.mark.usefixtures("prefect_server")
def test_look_alikes_are_found_by_the_index_judged_by_held_out_seeds_and_shown(home: Path) -> None:
    index = publish()
    state = expand_audience(CONFIG, PRODUCT, return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Healthy"), state.message
    audience, parts = audience_of(state)
    assert audience.name == "marketing-test"
    made = open_store().open(audience).manifest
    assert {kind: named["version"] for kind, named in made.inputs.items() if kind == "index"} == {
        "index": index.version
    }

    items, seeds = parts["items"]["item"].to_pylist(), parts["seeds"]
    place = {name: row for row, name in enumerate(items)}
    chosen = [place[name] for name in parts["answers"]["member"].to_pylist()]
    assert len(set(chosen)) == 70
    assert not set(chosen) & set(seeds.tolist())
    vectors = open_store().open(index)["vectors"]
    nearest = best_cosines(vectors, vectors[seeds], best=5)
    others = np.setdiff1d(np.arange(MEMBERS), [*chosen, *seeds.tolist()])
    assert nearest[chosen].mean() > nearest[others].mean() + 0.1

    metrics = mlflow_client().get_run(state.result().run_id).data.metrics
    assert metrics["recall"] > metrics["recall_random"]
    assert metrics["gain_over_random_low"] > 0
    assert metrics["members"] == 70
    figures = {file.path for file in mlflow_client().list_artifacts(state.result().run_id, "figures")}
    assert "figures/held_out_seeds.png" in figures
    assert set(states(state)) == {"published_index", "neighbours", "export_answers", "analyse"}

    again = expand_audience(CONFIG, PRODUCT, return_state=True)
    assert audience_of(again)[0].digest == audience.digest, "the same index gave another audience"
    assert states(again)["analyse"] == "Cached"


@pytest.mark.usefixtures("prefect_server")
def test_own_seeds_are_exported_and_what_was_written_in_service_may_join(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = publish()
    names = [f"member {row}" for row in range(0, 60, 3)]
    config = own(home, monkeypatch, *names)
    before = expand_audience(config, PRODUCT, return_state=True)
    exported = pyarrow.parquet.read_table(home / "audience.parquet")
    assert exported.equals(audience_of(before)[1]["answers"])
    assert not set(exported["member"].to_pylist()) & set(names)
    assert audience_of(before)[1]["about"]["writes"] == {}

    best = int(exported["member"][0].as_py().removeprefix("member "))
    live = Live(open_store(), PRODUCT)
    with live.following():
        served: Any = live()[0]
        served.delete([best])
        served.flush()
        after = expand_audience(config, PRODUCT, return_state=True)
        parts = audience_of(after)[1]
        assert parts["about"]["writes"] == {"line": served.line, "sequence": 1}
    assert f"member {best}" not in parts["answers"]["member"].to_pylist()
    assert len(parts["items"]) == MEMBERS - 1
    assert open_store().live(Index, PRODUCT) == index, "asking changed what is live"


@pytest.mark.usefixtures("prefect_server")
def test_an_unknown_seed_and_an_unknown_index_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = expand_audience(CONFIG, "retrieval-nobody", return_state=True)
    assert absent.name == "Failed"
    assert "no index named 'retrieval-nobody' is live" in str(absent.message)
    publish()
    config = own(home, monkeypatch, "member 3", "ann", "member 5")
    state = expand_audience(config, PRODUCT, return_state=True)
    assert state.name == "Failed"
    assert "has no item 'ann'" in str(state.message)
    assert not (home / "audience.parquet").exists()
    assert not open_store().products(Predictions.kind), "something was kept"

    store, other = open_store(), "marketing-other"
    data = store.write(Dataset, {"items": pa.table({"item": [0]})}, describe(Dataset, other, CONFIG))
    store.publish(store.write(Index, {"about": {}}, describe(Index, other, CONFIG, (data,))), {"claims": []})
    wrong = expand_audience(CONFIG, other, return_state=True)
    assert "AudienceConfig, which made marketing-other@" in str(wrong.message)
    assert "opens no index to be asked for neighbours" in str(wrong.message)
