"""Evaluate: a product meets held-out data and its independent reference; the report says how it did."""

import dataclasses
import json
import math
from collections import ChainMap
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from prefect import get_run_logger
from prefect.states import Completed
from pydantic import TypeAdapter

from infra import tracking
from infra.caching import verb
from infra.figures import draw
from infra.lineage import tracked
from infra.manifest import describe
from infra.provenance import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
    this_flow_run,
)
from infra.refs import Dataset, Index, Model, Plan, Predictions, Ref, Report
from infra.store import Store, open_store
from models.common.certificate import Certificate, Claim
from models.common.contracts import Analysed, Judged
from models.common.judgement import Judgement
from tasks.index import with_writes
from tasks.train import network_of


@verb(timeout_seconds=timedelta(hours=4).total_seconds())
def evaluate(
    config: Judged,
    product: Index | Model | Plan,
    data: Dataset,
    model: Model | None = None,
    against: Model | None = None,
) -> Report:
    """Judge a product, store the judgement, and show it in MLflow and on the flow run's page.

    Args:
        config: says how to judge.
        product: the candidate.
        data: holds the held-out part and the truth.
        model: what the product was made with, when that is another product, or another model that it is compared with.
        against: the live version that the candidate must not be worse than; None when there is none.

    Returns:
        The report.

    Raises:
        IntegrityError: the candidate is damaged.
    """
    flow_run, store = this_flow_run(), open_store()
    store.verify(product)
    opened = with_champion(store, with_writes(store, product, data), against)
    judgement = config.judge(store.open(product), opened, network_of(store, model))
    judgement = dataclasses.replace(
        judgement, certificate=_with_checksums(judgement.certificate, len(store.open(product)))
    )
    with tracked(config, data, flow_run, "evaluation") as run:
        show(run, judgement, flow_run.name)
        run.text("product/manifest.json", store.open(product).manifest.model_dump_json(indent=1))
        payload: dict[str, Any] = {"judgement": spelled(dataclasses.asdict(judgement))}
        inputs: tuple[Ref, ...] = (product, data)
        if model and model.kind == product.kind:  # of a kind a manifest names one
            payload["beside"] = {"name": model.name, "version": model.version, "digest": model.digest}
        elif model:
            inputs = (*inputs, model)
        manifest = describe(Report, product.name, config, inputs, flow_run_id=flow_run.id, run_id=run.id)
        report = store.write(Report, payload, manifest, run_id=run.id)
    get_run_logger().info("judged %s: %s %.4f", product, judgement.headline, judgement.metrics[judgement.headline])
    return report


@verb(timeout_seconds=timedelta(hours=4).total_seconds())
def analyse(config: Analysed, data: Dataset | Predictions) -> Report:
    """Say what an experiment or answers show, store it, and show it in MLflow and on the flow run's page.

    Args:
        config: says how to read it.
        data: the experiment, or answers that can be judged by themselves.

    Returns:
        The report.

    Raises:
        IntegrityError: the data are damaged.
        ValueError: the experiment is too small to say anything.
    """
    flow_run, store = this_flow_run(), open_store()
    judgement = config.analyse(store.open(data))
    with tracked(config, data, flow_run, "evaluation") as run:
        show(run, judgement, flow_run.name)
        manifest = describe(Report, data.name, config, (data,), flow_run_id=flow_run.id, run_id=run.id)
        report = store.write(Report, {"judgement": spelled(dataclasses.asdict(judgement))}, manifest, run_id=run.id)
    get_run_logger().info("analysed %s: %s %.4f", data, judgement.headline, judgement.metrics[judgement.headline])
    return report


def findings(report: Report) -> Report:
    """The final state of an analysis: Completed, named `Healthy`, or `Degraded` when a check of it fails.

    Args:
        report: of `analyse`.

    Returns:
        A state, whose data, the report, Prefect hands to whoever called the flow. So its type is that of the data.
    """
    judgement = judgement_of(open_store().open(report))
    failures = judgement.certificate.failures()
    said = f"{judgement.headline} = {judgement.metrics[judgement.headline]:.6g}"
    message = "; ".join(claim.sentence() for claim in failures) or f"{said}; all checks hold."
    return cast("Report", Completed(name="Degraded" if failures else "Healthy", message=message, data=report))


def with_champion(store: Store, data: Mapping[str, Any], champion: Model | None) -> Mapping[str, Any]:
    """A dataset, and as its part `champion` the live version: its `network`, and the `data` that it was made from."""
    if champion is None:
        return data
    behind = store.open(champion).manifest.input(Dataset, store.root)
    part = {"network": network_of(store, champion), "data": store.open(behind)}
    return ChainMap({"champion": part}, data)  # type: ignore[arg-type]


def show(run: tracking.Run, judgement: Judgement, title: str) -> None:
    """Put a judgement where people look: MLflow's metrics, tables and figures, and the flow run's artifacts."""
    run.metrics({**judgement.metrics, "certificate_holds": float(judgement.certificate.holds)})
    run.tags({"certificate": "holds" if judgement.certificate.holds else "FAILS"})
    run.table("tables/results.json", judgement.table)
    certificate = certificate_page(judgement)
    run.text("certificate.md", certificate)
    for figure in judgement.figures:
        path = f"figures/{figure.name}.png"
        run.text(f"figures/{figure.name}.json", json.dumps(spelled(dataclasses.asdict(figure)), indent=1))
        run.image(path, draw(figure))
        if run.image_url(path):
            create_image_artifact(run.image_url(path), key=figure.name, description=figure.title)
    rows = [{key: _shown(value) for key, value in row.items()} for row in judgement.table]
    create_table_artifact(rows, key="results", description=f"{title}. {judgement.protocol}")
    create_markdown_artifact(certificate, key="certificate", description="How far the product is from the right answer")
    if run.url:
        create_link_artifact(
            run.url, link_text="MLflow run", key="mlflow-run", description="Parameters, metrics, figures"
        )


def spelled(value: Any) -> Any:
    """The same value with numbers that JSON lacks as words, so that a judgement about not-a-number can be stored."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(item) for item in value]
    return value


def judgement_of(opened: Mapping[str, Any]) -> Judgement:
    """The judgement that a stored report holds."""
    return TypeAdapter(Judgement).validate_python(opened["judgement"])


def certificate_page(judgement: Judgement) -> str:
    """A certificate as a Markdown table, failures first."""
    certificate = judgement.certificate
    ordered = sorted(certificate.claims, key=lambda claim: claim.holds)
    rows = "\n".join(
        f"| {'holds' if c.holds else '**FAILS**'} | `{c.name}` | {c.kind} | {c.value:.6g} | {c.sense} {c.limit:.6g} "
        f"| {c.detail.replace('|', '/')} |"
        for c in ordered
    )
    verdict = "holds" if certificate.holds else "does NOT hold"
    return (
        f"## The certificate {verdict}\n\n{len(certificate.claims)} claims, {certificate.kinds}.\n\n"
        f"| verdict | claim | kind | found | must be | how |\n|---|---|---|---|---|---|\n{rows}\n\n"
        f"{judgement.protocol}\n"
    )


def _with_checksums(certificate: Certificate, files: int) -> Certificate:
    """Add what the store checked before judging began."""
    claim = Claim(
        name="damaged_files",
        kind="exact",
        value=0,
        limit=0,
        detail=f"SHA-256 of every byte of {files} files against the manifest.",
    )
    return Certificate(claims=(*certificate.claims, claim))


def _shown(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
