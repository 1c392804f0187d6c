"""Publish: a judged candidate goes live if the gate opens; rollback is a publish of an older version.

`CURRENT` in the store decides what is live. MLflow's registry mirrors it.
"""

from datetime import datetime
from typing import Literal, cast

from prefect import get_run_logger, task
from prefect.cache_policies import INPUTS, RUN_ID
from prefect.context import FlowRunContext
from prefect.states import Completed

from infra import tracking
from infra.caching import verb
from infra.manifest import product_name
from infra.provenance import (
    announce,
    create_image_artifact,
    create_link_artifact,
    create_table_artifact,
    this_flow_run,
)
from infra.refs import Dataset, Index, Model, Outcome, Plan, Report
from infra.registry import mirror_when_there
from infra.store import SupersededError, WithdrawnError, open_store
from models.common.contracts import Curatable
from models.common.gate import GateConfig, decide
from tasks.evaluate import judgement_of


@verb(retries=2, retry_delay_seconds=5, timeout_seconds=1800)
def publish(
    product: Dataset | Index | Model | Plan,
    report: Report,
    gate: GateConfig,
    instead_of: Index | Model | Plan | None = None,
) -> Outcome:
    """Make a candidate live when its certificate holds and the gate agrees; otherwise the champion stays.

    Args:
        product: the candidate.
        report: its judgement.
        gate: when it may go live.
        instead_of: the version that it was made from or compared with, when it may take the place of that one alone.

    Returns:
        What happened. A refusal is no error: whatever depends on the product goes on with the champion.

    Raises:
        IntegrityError: the candidate is damaged.
    """
    store = open_store()
    judgement = judgement_of(store.open(report))
    before = store.current_or_none(product.kind, product.name)
    rivalled = before is not None and before.version != product.version
    decision = decide(gate, judgement.certificate, judgement.metrics, has_champion=rivalled)
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
            place = instead_of.version if instead_of else ""
            store.publish(product, certificate, run_id=report.run_id, instead_of=place)
            if before and before.version == product.version:
                status, reason = "unchanged", f"{product} was live already."
        except (SupersededError, WithdrawnError) as refusal:
            status, reason = "refused", str(refusal)
    elif before and before.version == product.version:
        reason = f"{product} is LIVE and no longer holds, roll back or mend it: {reason}"
    mirror_when_there(store, product.kind, product.name)
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
    if outcome.live == product.version:
        announce(product)
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
    mirror_when_there(store, kind, product)
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
    if kind == Model.kind:
        announce(store.live(Model, product))
    return outcome


@task(cache_policy=RUN_ID + INPUTS, persist_result=True, result_serializer="json")
def champion(kind: Literal["model"], config: Curatable) -> Model:
    """The live version of a product; a retry of the same flow run goes on with the one that it began with.

    Args:
        kind: kind of the product.
        config: the configuration of its data, which names it.

    Returns:
        The live version.

    Raises:
        NotPublishedError: nothing is live under this name.
        IntegrityError: its manifest is not the one that was published.
    """
    return open_store().live(Model, product_name(config))


@task(cache_policy=RUN_ID + INPUTS, persist_result=True, result_serializer="json")
def rival(product: Model) -> Model | None:
    """The live version that a candidate is compared with; a retry goes on with the one that the run began with.

    Args:
        product: the candidate.

    Returns:
        The live version; None when nothing is live, or the candidate itself.

    Raises:
        IntegrityError: the manifest of the live version is not the one that was published.
    """
    store = open_store()
    current = store.current_or_none(product.kind, product.name)
    return None if current is None or current.version == product.version else store.live(Model, product.name)


def data_behind(product: Index | Model | Plan) -> Dataset:
    """The dataset that a product was made from."""
    store = open_store()
    return store.open(product).manifest.input(Dataset, store.root)


def model_behind(product: Index | Plan) -> Model | None:
    """The model that a product was made with; None when it was made without."""
    store = open_store()
    manifest = store.open(product).manifest
    return manifest.input(Model, store.root) if Model.kind in manifest.inputs else None


def verdict(*outcomes: Outcome) -> list[Outcome]:
    """The final state of a flow, named after what happened to its products, and what its page shows of them.

    Args:
        outcomes: of the flow itself or of the flows that it ran.

    Returns:
        Completed and named `Refused` if any product was refused, else `Published` if any went live, else `Unchanged`:
        a state, whose data Prefect hands to whoever called the flow. So its type is that of the data.
    """
    outcomes = tuple(map(_since_the_start, outcomes))
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
                page,
                link_text=f"MLflow run of {outcome.product}",
                key=f"{outcome.product}-mlflow-run",
                description="Parameters, metrics by epoch, figures and certificate of the candidate.",
            )


def _since_the_start(outcome: Outcome) -> Outcome:
    """An outcome as this flow run sees it: what an earlier run published is unchanged now.

    A cached `publish` gives the outcome of the run that published; where nothing happened, the page should say so.
    """
    context, current = FlowRunContext.get(), open_store().current_or_none(outcome.kind, outcome.product)
    began = context.flow_run.start_time if context and context.flow_run else None
    if outcome.status != "published" or began is None or current is None or current.version != outcome.version:
        return outcome
    if datetime.fromisoformat(current.published) >= began:
        return outcome
    reason = f"{outcome.product}@{outcome.version} was live already."
    return outcome.model_copy(update={"status": "unchanged", "reason": reason})
