"""Publish: a judged candidate goes live if the gate opens; rollback is a publish of an older version.

`CURRENT` in the store decides what is live. MLflow's registry mirrors it.
"""

from typing import Literal, cast

from prefect import get_run_logger, task
from prefect.states import Completed

from infra import tracking
from infra.caching import verb
from infra.provenance import create_image_artifact, create_link_artifact, create_table_artifact, this_flow_run
from infra.refs import Index, Model, Outcome, Report
from infra.registry import mirror
from infra.store import WithdrawnError, open_store
from models.common.gate import GateConfig, decide
from tasks.evaluate import judgement_of


@verb(retries=2, retry_delay_seconds=5, timeout_seconds=1800)
def publish(product: Index | Model, report: Report, gate: GateConfig) -> Outcome:
    """Make a candidate live when its certificate holds and the gate agrees; otherwise the champion stays.

    Args:
        product: the candidate.
        report: its judgement.
        gate: when it may go live.

    Returns:
        What happened. A refusal is no error: whatever depends on the product goes on with the champion.

    Raises:
        IntegrityError: the candidate is damaged.
    """
    store = open_store()
    judgement = judgement_of(store.open(report))
    before = store.current_or_none(product.kind, product.name)
    decision = decide(gate, judgement.certificate, judgement.metrics, has_champion=before is not None)
    status: Literal["published", "unchanged", "refused"] = "published" if decision.publish else "refused"
    reason = decision.reason
    if decision.publish:
        try:
            certificate = {
                "claims": [
                    {
                        "name": c.name,
                        "kind": c.kind,
                        "value": c.value,
                        "limit": c.limit,
                        "sense": c.sense,
                        "detail": c.detail,
                    }
                    for c in judgement.certificate.claims
                ]
            }
            store.publish(product, certificate, run_id=report.run_id)
            if before and before.version == product.version:
                status, reason = "unchanged", f"{product} was live already."
        except WithdrawnError as withdrawn:
            status, reason = "refused", str(withdrawn)
    elif before and before.version == product.version:
        reason = f"{product} is LIVE and no longer holds, roll back or mend it: {reason}"
    mirror(store, product.kind, product.name)
    live = store.current_or_none(product.kind, product.name)
    outcome = Outcome(
        kind=product.kind,
        product=product.name,
        version=product.version,
        status=status,
        reason=reason,
        headline=judgement.headline,
        value=judgement.metrics[judgement.headline],
        certificate=f"{judgement.certificate.kinds}: {'holds' if judgement.certificate.holds else 'FAILS'}",
        live=live.version if live else "",
        run_id=report.run_id,
        figure=f"figures/{judgement.figures[0].name}.png" if judgement.figures else "",
    )
    get_run_logger().info("%s@%s %s: %s", product.name, product.version, status, reason)
    return outcome


@task(persist_result=True, result_serializer="json")
def rollback(kind: str, product: str, version: str = "") -> Outcome:
    """Return to an earlier published version and withdraw the live one, so that no schedule brings it back.

    Args:
        kind: kind of the product.
        product: its name.
        version: where to return to; empty means the version that was live before.

    Returns:
        What is live now.

    Raises:
        NotPublishedError: there is no such version.
        IntegrityError: it is damaged.
    """
    store = open_store()
    now = store.rollback(kind, product, version, cause=this_flow_run().id)
    left = now.withdrawn[-1]
    mirror(store, kind, product)
    manifest = store.manifest(kind, product, now.version)
    outcome = Outcome(
        kind=kind,
        product=product,
        version=now.version,
        status="published",
        reason=f"rolled back from {left}, which is withdrawn and will not be published again by a schedule.",
        headline="claims",
        value=float(len((manifest.certificate or {}).get("claims", ()))),
        certificate="holds, as published",
        live=now.version,
        run_id=manifest.run_id,
    )
    get_run_logger().info("%s is %s again, %s is withdrawn", product, now.version, left)
    return outcome


def verdict(*outcomes: Outcome) -> list[Outcome]:
    """The final state of a flow, named after what happened to its products, and what its page shows of them.

    Args:
        outcomes: of the flow itself or of the flows that it ran.

    Returns:
        Completed and named `Refused` if any product was refused, else `Published` if any went live, else `Unchanged`:
        a state, whose data Prefect hands to whoever called the flow. So its type is that of the data.
    """
    refused = [outcome for outcome in outcomes if outcome.status == "refused"]
    published = [outcome for outcome in outcomes if outcome.status == "published"]
    name = "Refused" if refused else "Published" if published else "Unchanged"
    message = "; ".join(f"{o.product}@{o.version}: {o.reason}" for o in refused or published or outcomes)
    _show(outcomes)
    return cast("list[Outcome]", Completed(name=name, message=message, data=list(outcomes)))


def _show(outcomes: tuple[Outcome, ...]) -> None:
    """A table of all products, a figure and a link for each; also when every task found its cache."""
    rows = [
        {
            "product": outcome.product,
            "headline": f"{outcome.headline} = {outcome.value:.4f}",
            "certificate": outcome.certificate,
            "version": outcome.version,
            "status": outcome.status,
            "live": outcome.live or "nothing",
            "reason": outcome.reason,
        }
        for outcome in outcomes
    ]
    create_table_artifact(rows, key="products", description="What this run did to its products")
    for outcome in outcomes:
        figure, page = tracking.artifact_url(outcome.run_id, outcome.figure), tracking.url_of(outcome.run_id)
        if figure:
            create_image_artifact(
                figure, key=f"{outcome.product}-figure", description=f"{outcome.product}, held-out data"
            )
        if page:
            create_link_artifact(
                page, link_text=f"MLflow run of {outcome.product}", key=f"{outcome.product}-mlflow-run"
            )
