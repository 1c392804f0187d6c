"""Allocate: values, costs and shared rows become a plan of who gets what, and a plan decides for who comes later."""

from datetime import timedelta

from prefect import get_run_logger, task
from prefect.cache_policies import INPUTS, RUN_ID

from infra import catalogue
from infra.caching import verb
from infra.lineage import tracked
from infra.manifest import class_path, describe, describe_configuration
from infra.provenance import this_flow_run
from infra.refs import Dataset, Model, Plan, Predictions
from infra.store import open_store
from models.common.contracts import Allocatable, Deciding, Requested
from tasks.train import network_of

BEFORE = "before"
"""Part of a plan: name, version and digest of the plan that it began from."""


@verb(timeout_seconds=timedelta(hours=4).total_seconds())
def allocate(config: Allocatable, data: Dataset, live: Plan | None = None, model: Model | None = None) -> Plan:
    """Make a plan and store it as a candidate, with what the solve is compared by in MLflow.

    Args:
        config: describes what is solved.
        data: who may get what, and the rows.
        live: the plan to begin from; None to begin from nothing.
        model: says what things are worth; None when the data do.

    Returns:
        The candidate. Where no plan holds all rows it is the proof of that, which its judge refuses by name.

    Raises:
        InputError: the data cannot be used; names member, offer, column, value.
    """
    flow_run, store = this_flow_run(), open_store()
    payload = config.allocate(store.open(data), store.open(live) if live else None, network_of(store, model))
    account = config.account(payload)
    with tracked(config, data, flow_run, "allocation") as run:
        run.metrics(account.metrics)
        for name, values in account.steps.items():
            for step, value in enumerate(values, 1):
                run.metrics({name: value}, step)
        run.table("tables/rows.json", account.table)
        if live:  # a note and no input: each plan begins from the one before, and retention would keep them all
            payload = {**payload, BEFORE: live.model_dump(exclude={"location"})}
        inputs = (data, model) if model else (data,)
        manifest = describe(Plan, data.name, config, inputs, flow_run_id=flow_run.id, run_id=run.id)
        plan = store.write(Plan, payload, manifest)
    get_run_logger().info("allocated %s", plan)
    return plan


@task(cache_policy=RUN_ID + INPUTS, persist_result=True, result_serializer="json")
def live_plan(product: str) -> Plan:
    """The plan that is live; a retry of the same flow run goes on with the one that it began with.

    Args:
        product: its name.

    Returns:
        The live version.

    Raises:
        NotPublishedError: nothing is live under this name.
        IntegrityError: its manifest is not the one that was published.
    """
    return open_store().live(Plan, product)


@task(cache_policy=RUN_ID + INPUTS, persist_result=True, result_serializer="json")
def plan_before(config: Allocatable, data: Dataset, model: Model | None = None) -> Plan | None:
    """The plan that a new one begins from; a retry of the same flow run goes on with the one that it began with.

    A live plan of these very data by this very configuration is the one that would be made now: then the answer is what
    that one began from, so that the same is not solved twice.

    Args:
        config: describes what is solved.
        data: what it is solved for.
        model: says what things are worth; None when the data do.

    Returns:
        The live plan, or the one that it began from; None when nothing is live, or it began from nothing.

    Raises:
        IntegrityError: the manifest of the live version is not the one that was published.
    """
    store = open_store()
    if store.current_or_none(Plan.kind, data.name) is None:
        return None
    live = store.live(Plan, data.name)
    opened = store.open(live)
    made = opened.manifest
    of = made.input(Model, store.root) if Model.kind in made.inputs else None
    by = (made.configuration_class, made.configuration)
    if (made.input(Dataset, store.root), of) != (data, model) or by != (
        class_path(config),
        describe_configuration(config),
    ):
        return live
    if BEFORE not in opened:
        return None
    noted = opened[BEFORE]
    before = Plan(**noted, location=f"{store.root}/{Plan.kind}/{noted['name']}/{noted['version']}")
    return before if store.intact(before) else live


@task(
    cache_policy=RUN_ID + INPUTS,  # another run finds another file
    persist_result=True,
    result_serializer="json",
    timeout_seconds=timedelta(hours=4).total_seconds(),
)
def decide(config: Requested, plan: Plan) -> Predictions:
    """Decide for members of a table by the prices of a plan, and store requests and answers.

    Args:
        config: names the table, and reads it.
        plan: what decides; the configuration that made it knows how.

    Returns:
        The sends, checksummed, with their lineage to plan and data.

    Raises:
        CatalogueError: the file is not allowed, missing or changed.
        InputError: a row cannot be decided; names it.
        IntegrityError: the plan is damaged.
    """
    flow_run, store = this_flow_run(), open_store()
    opened = store.open(plan)
    data = opened.manifest.input(Dataset, store.root)
    maker: Deciding = opened.manifest.rebuild_configuration()
    requests = config.read({name: catalogue.locate(location) for name, location in config.sources().items()})
    answers, metrics = maker.decide(opened, store.open(data), requests)
    with tracked(maker, data, flow_run, "prediction") as run:
        run.metrics(metrics)
        run.tags({"purpose": "prediction", "version": plan.version})
        manifest = describe(Predictions, plan.name, config, (plan, data), flow_run_id=flow_run.id, run_id=run.id)
        found = store.write(Predictions, {"answers": answers, "requests": requests}, manifest)
    get_run_logger().info("%s: %d sends", found, answers.num_rows)
    return found
