"""The mirror of the store in MLflow's model registry: one registered version per published version, one alias.

The store decides what is live. The registry shows it: `champion` points to the version that CURRENT names. The mirror
is brought in line at every publish, every rollback and every start of the stack.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from infra import outbox
from infra.outbox import mlflow_client
from infra.store import Store, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("headrace.registry")
KINDS = ("index", "model", "plan", "dataset")


def mirror(store: Store, kind: str, name: str) -> str:
    """Bring the registry in line with the store for one product.

    Args:
        store: the truth.
        kind: kind of the product.
        name: the product.

    Returns:
        The registry's number of the live version; "" when nothing is live.
    """
    client, number, registered = mlflow_client(), "", registered_name(kind, name)
    current = store.current_or_none(kind, name)
    while current is not None:
        number = _number(client, registered, current.version) or _register(client, store, kind, name, current.version)
        client.set_registered_model_alias(registered, "champion", number)
        before, current = current, store.current_or_none(kind, name)
        if current is None or current.version == before.version:  # else another publisher came between: once more
            break
    return number


def mirror_when_there(store: Store, kind: str, name: str) -> str:
    """Bring the registry in line with the store, or leave it to the next start when MLflow is away.

    Args:
        store: the truth.
        kind: kind of the product.
        name: the product.

    Returns:
        The registry's number of the live version; "" when nothing is live, or MLflow is away.
    """
    try:
        return mirror(store, kind, name)
    except Exception as error:
        if not outbox.absence(error):
            raise
        log.warning("MLflow is away: the registry shows what is live of %s %s when it is back.", kind, name)
        return ""


def registered_name(kind: str, name: str) -> str:
    """The name of a product in the registry: `retrieval-movielens-index`."""
    return f"{name}-{kind}"


def reconcile(store: Store) -> list[str]:
    """Mirror every product whose alias is missing or points elsewhere; returns what was mended, as sentences."""
    client = mlflow_client()
    mended = []
    for kind, name in _products(store):
        current = store.current_or_none(kind, name)
        if current is not None and champion(client, kind, name) != current.version:
            number = mirror(store, kind, name)
            mended.append(f"{name}: champion is now {current.version} (registered version {number})")
    return mended


def catch_up(store: Store) -> list[str]:
    """Bring MLflow up to date with all that happened while it was away; returns what was mended, as sentences.

    Args:
        store: the truth.
    """
    late = [f"what waited for the MLflow run of flow run {flow_run} has arrived" for flow_run in outbox.deliver()]
    return [*late, *reconcile(store)]


def champion(client: "MlflowClient", kind: str, name: str) -> str:
    """The store's version that the alias points to; "" without one."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(registered_name(kind, name), "champion")
    except MlflowException:
        return ""
    return str(found.tags.get("version", ""))


def _register(client: "MlflowClient", store: Store, kind: str, name: str, version: str) -> str:
    """Register a version that the store holds; its source is the manifest logged with its run."""
    from mlflow.exceptions import MlflowException

    manifest = store.manifest(kind, name, version)
    registered = registered_name(kind, name)
    claims: Any = manifest.certificate or {}
    try:
        run_id: str | None = manifest.run_id or None
        source = f"{client.get_run(manifest.run_id).info.artifact_uri}/product" if run_id else store.root
    except MlflowException:  # the run was deleted, or the server is another one now
        run_id, source = None, store.root
    try:
        client.create_registered_model(
            registered, tags={"kind": kind}, description=f"Live versions of the {kind} {name}."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        registered,
        source=source,
        run_id=run_id,
        tags={
            "version": version,
            "digest": manifest.digest,
            "kind": kind,
            "certificate": "; ".join(f"{c['name']} {c['value']:.6g}" for c in claims.get("claims", [])),
            "location": f"{store.root}/{kind}/{name}/{version}",
            "prefect.flow_run_id": manifest.flow_run_id,
        },
        description="\n".join(f"- {c['name']} = {c['value']:.6g} ({c['kind']})" for c in claims.get("claims", [])),
    )
    return str(created.version)


def _number(client: "MlflowClient", name: str, version: str) -> str:
    """The registry's number of a store version; "" when it is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.search_model_versions(f"name = '{name}' and tags.version = '{version}'")
    except MlflowException:
        return ""
    return str(found[0].version) if found else ""


def _products(store: Store) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        for name in store.products(kind):
            yield kind, name


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    for sentence in catch_up(open_store()):
        log.info("%s", sentence)
