"""The registry mirrors the store and never decides."""

import uuid
from pathlib import Path

import numpy as np
import pytest

from infra.manifest import Manifest
from infra.refs import Index
from infra.registry import champion, mirror, reconcile, registered_name
from infra.store import Store, open_store
from infra.tracking import mlflow_client, run_for

CERTIFICATE = {"claims": [{"name": "recall", "kind": "exact", "value": 1.0, "limit": 1.0, "sense": "at least"}]}


@pytest.fixture
def name() -> str:
    return f"toy-{uuid.uuid4().hex[:8]}"


def publish(store: Store, name: str, seed: int) -> Index:
    with run_for("registry-test", str(uuid.uuid4()), f"{name} {seed}") as run:
        run.text("product/manifest.json", "{}")
    manifest = Manifest(
        kind="index", name=name, configuration={}, configuration_class="models.x.Y", inputs={}, files=(), code=""
    )
    ref = store.write(Index, {"vectors": np.full(3, seed)}, manifest)
    store.publish(ref, CERTIFICATE, run_id=run.id)
    return ref


def test_a_published_version_is_registered_with_its_certificate_and_is_champion(home: Path, name: str) -> None:
    store = open_store()
    ref = publish(store, name, 1)
    assert mirror(store, "index", name) == "1"
    version = mlflow_client().get_model_version_by_alias(registered_name("index", name), "champion")
    assert version.tags["version"] == ref.version
    assert version.tags["digest"] == ref.digest
    assert "recall" in version.description
    assert mirror(store, "index", name) == "1", "the same version was registered twice"


def test_the_alias_follows_publish_and_rollback(home: Path, name: str) -> None:
    store = open_store()
    first = publish(store, name, 1)
    mirror(store, "index", name)
    second = publish(store, name, 2)
    assert mirror(store, "index", name) == "2"
    assert champion(mlflow_client(), "index", name) == second.version
    store.rollback("index", name)
    assert mirror(store, "index", name) == "1"
    assert champion(mlflow_client(), "index", name) == first.version


def test_a_publisher_killed_before_the_mirror_is_reconciled_later(home: Path, name: str) -> None:
    store = open_store()
    ref = publish(store, name, 1)
    assert champion(mlflow_client(), "index", name) == ""
    mended = reconcile(store)
    assert len(mended) == 1
    assert name in mended[0]
    assert champion(mlflow_client(), "index", name) == ref.version
    assert reconcile(store) == []


def test_a_product_whose_run_was_lost_is_registered_all_the_same(home: Path, name: str) -> None:
    store = open_store()
    publish(store, name, 1)
    (run,) = mlflow_client().search_runs(
        [mlflow_client().get_experiment_by_name("registry-test").experiment_id], f"tags.`mlflow.runName` = '{name} 1'"
    )
    mlflow_client().delete_run(run.info.run_id)
    assert mirror(store, "index", name) == "1"
