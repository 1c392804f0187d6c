"""Keep a filtered retrieval index fresh, watched, and able to go back."""

from prefect import flow

from infra.provenance import dated
from infra.refs import Outcome
from models.common.days import DaysConfig
from models.feed.retrieval.config import RetrievalConfig, tiny, tiny_by_day
from tasks.curate import curate
from tasks.evaluate import evaluate
from tasks.index import build_index, compact, live_index
from tasks.ingest import assemble, ingest
from tasks.monitor import condition, watch
from tasks.publish import champion, data_behind, model_behind, publish, rollback, verdict
from tasks.train import train


@flow(name="retrieval", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def rebuild_index(config: RetrievalConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Curate items and interactions, train the towers, build the index, certify it, and publish it if it holds.

    Args:
        config: Everything about one index: its data, encoder, judgement and gate.
    """
    data = curate(config.data)
    encoder = train(config.encoder, data) if config.trains else None
    index = build_index(config.index, data, encoder)
    report = evaluate(config, index, data, encoder)
    return verdict(publish(index, report, config.gate))


@flow(
    name="retrieval-encoder", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json"
)
def train_encoder(config: RetrievalConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Train the two towers, judge them on held-out choices, and publish them; a rebuild of the index follows by itself.

    Args:
        config: Data, encoder, judgement and gate; of the index only the filterable attributes are read.
    """
    data = curate(config.data)
    encoder = train(config.encoder, data)
    report = evaluate(config, encoder, data)
    return verdict(publish(encoder, report, config.gate))


@flow(name="retrieval-follow", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def follow_encoder(config: RetrievalConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Build, certify and publish the index of the live encoder; starts by itself when an encoder goes live.

    Args:
        config: The index and how it is judged; its data's name says which encoder.
    """
    encoder = champion("model", config.data)
    data = data_behind(encoder)
    index = build_index(config.index, data, encoder)
    report = evaluate(config, index, data, encoder)
    return verdict(publish(index, report, config.gate))


@flow(
    name="retrieval-compact", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json"
)
def compact_index(config: RetrievalConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Fold what was written to the live index in service into a new version, certify it, and publish it in its place.

    Runs where the index is served; the service goes on meanwhile, keeps every write, and follows to the new version.

    Args:
        config: The index as it was built; its judgement says how the new version is certified.
    """
    live = live_index(config.data)
    index = compact(config.index, live)
    report = evaluate(config, index, data_behind(live), model_behind(live))
    return verdict(publish(index, report, config.gate, live))


@flow(
    name="retrieval-monitor", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json"
)
def monitor_recall(config: RetrievalConfig = tiny()) -> None:  # noqa: B008
    """Replay sampled queries and filters against the live index and compare every answer with the exact one.

    Args:
        config: The index as it was built; its judgement says how much to replay.
    """
    return condition(watch(config, config.data))


@flow(name="retrieval-rollback", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def rollback_index(product: str = "retrieval-generated", version: str = "") -> list[Outcome]:
    """Return to an earlier published index; the one that was live is withdrawn and no schedule brings it back.

    Args:
        product: Name of the index: `retrieval-` and the name of its data.
        version: Version to return to, twelve hexadecimal digits; empty means the one that was live before.
    """
    return verdict(rollback("index", product, version))


@flow(
    name="retrieval-backfill", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json"
)
def backfill_index(config: RetrievalConfig = tiny_by_day(), days: DaysConfig = DaysConfig()) -> list[Outcome]:  # noqa: B008
    """Take in the days of a range that are new or revised, and rebuild the index over all known days if any were.

    Args:
        config: Everything about one index; its data come day by day: generated, or a table with {date} in its location.
        days: Which days to look at, and how many the index is made from.
    """
    data = assemble(config.data, ingest(config.data, days))
    encoder = train(config.encoder, data)
    index = build_index(config.index, data, encoder)
    report = evaluate(config, index, data, encoder)
    return verdict(publish(index, report, config.gate))
