"""The mirror of the store in MLflow's model registry: one registered version per published version, one alias.

The store decides what is live. The registry shows it: `champion` points to the version that CURRENT names. The mirror
is brought in line at every publish, every rollback and every start of the stack.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from infra.store import Store
from infra.tracking import mlflow_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
    current = store.current_or_none(kind, name)
    if current is None:
        return ""
    client = mlflow_client()
    number = _number(client, name, current.version) or _register(client, store, kind, name, current.version)
    client.set_registered_model_alias(name, "champion", number)
    return number


def reconcile(store: Store) -> list[str]:
    """Mirror every product whose alias is missing or points elsewhere; returns what was mended, as sentences."""
    client = mlflow_client()
    mended = []
    for kind, name in _products(store):
        current = store.current_or_none(kind, name)
        if current is not None and champion(client, name) != current.version:
            number = mirror(store, kind, name)
            mended.append(f"{name}: champion is now {current.version} (registered version {number})")
    return mended


def champion(client: "MlflowClient", name: str) -> str:
    """The store's version that the alias points to; "" without one."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(name, "champion")
    except MlflowException:
        return ""
    return str(found.tags.get("version", ""))


def _register(client: "MlflowClient", store: Store, kind: str, name: str, version: str) -> str:
    """Register a version that the store holds; its source is the manifest logged with its run."""
    from mlflow.exceptions import MlflowException

    manifest = store.manifest(kind, name, version)
    claims: Any = manifest.certificate or {}
    try:
        client.create_registered_model(name, tags={"kind": kind}, description=f"Live versions of the {kind} {name}.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(manifest.run_id).info.artifact_uri}/product" if manifest.run_id else store.root
    created = client.create_model_version(
        name,
        source=source,
        run_id=manifest.run_id or None,
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
