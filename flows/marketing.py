"""Plan who gets which offer under shared budgets, with a certificate; measure it; hold the budget; find look-alikes."""

from prefect import flow

from infra.manifest import product_name
from infra.provenance import dated
from infra.refs import Outcome, Predictions, Report
from models.marketing.config import (
    AudienceConfig,
    EvaluateConfig,
    MarketingConfig,
    PaceConfig,
    tiny,
    tiny_audience,
    tiny_campaign,
    tiny_pace,
)
from models.marketing.deciding import DecideConfig
from tasks.allocate import allocate, decide, live_plan, plan_before
from tasks.curate import curate
from tasks.evaluate import analyse, evaluate, findings
from tasks.export import export_answers
from tasks.neighbours import neighbours, published_index
from tasks.publish import model_behind, publish, rollback, verdict
from tasks.train import train


@flow(name="marketing", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def plan_campaign(config: MarketingConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Curate members, offers and rows, learn values if asked to, solve, certify the plan, and publish it if it holds.

    Args:
        config: Everything about one plan: its data, what is solved, judgement and gate.
    """
    data = curate(config.data)
    model = train(config.values, data) if config.learns else None
    before = plan_before(config.plan, data, model)
    plan = allocate(config.plan, data, before, model)
    report = evaluate(config, plan, data, model)
    return verdict(publish(plan, report, config.gate))


@flow(
    name="marketing-evaluate",
    flow_run_name=dated("{config.experiment.name}"),
    persist_result=True,
    result_serializer="json",
)
def evaluate_campaign(config: EvaluateConfig = tiny_campaign()) -> Report:  # noqa: B008
    """Simulate or read what two arms of a campaign brought, check the experiment, and say what the treatment adds.

    Args:
        config: The experiment, and how it is read.
    """
    data = curate(config.experiment)
    return findings(analyse(config, data))


@flow(name="marketing-pace", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def pace_budget(config: PaceConfig = tiny_pace()) -> list[Outcome]:  # noqa: B008
    """Look at what the live plan's day has cost, move the budget of the next day, and publish the plan within it.

    Args:
        config: The data of the next day, which name the live plan, what is solved, and how the budget is held.
    """
    live = live_plan(product_name(config.data))
    data, model = curate(config.data), model_behind(live)
    plan = allocate(config, data, live, model)
    report = evaluate(config, plan, data, model)
    return verdict(publish(plan, report, config.gate, live))


@flow(name="marketing-decide", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def decide_offers(config: DecideConfig = DecideConfig(), product: str = "marketing-generated") -> Predictions:  # noqa: B008
    """Decide for a table of members by the prices of the live plan, keep the answers, and write them where you want.

    Args:
        config: Where the members and what they may get lie, and where the answers go.
        product: Name of the plan: `marketing-` and the name of its data.
    """
    decisions = decide(config, live_plan(product))
    export_answers(decisions, config.export)
    return decisions


@flow(
    name="marketing-expand",
    flow_run_name=dated("{config.expansion.name}"),
    persist_result=True,
    result_serializer="json",
)
def expand_audience(config: AudienceConfig = tiny_audience(), index: str = "retrieval-generated") -> Report:  # noqa: B008
    """Find members like some seeds by a published index, keep them, write them where you want, and judge them.

    Args:
        config: Seeds, how many members join them, how that is judged, and where they go.
        index: Name of the index whose items are the members: its system, a hyphen, and the name of its data.
    """
    audience = neighbours(config.expansion, published_index(index))
    export_answers(audience, config.export)
    return findings(analyse(config, audience))


@flow(name="marketing-rollback", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def rollback_plan(product: str = "marketing-generated", version: str = "") -> list[Outcome]:
    """Return to an earlier published plan; the one that was live is withdrawn and no schedule brings it back.

    Args:
        product: Name of the plan: `marketing-` and the name of its data.
        version: Version to return to, twelve hexadecimal digits; empty means the one that was live before.
    """
    return verdict(rollback("plan", product, version))
