"""Train what a feed needs, from one log: an index that finds candidates, and a ranker that puts them in order."""

from prefect import flow

from flows.ranking import train_ranker
from flows.retrieval import rebuild_index
from infra.refs import Outcome
from models.feed.events.export import ExportConfig
from models.feed.ranking import config as rankings
from models.feed.ranking.config import RankingConfig
from models.feed.retrieval.config import RetrievalConfig, feed
from tasks.curate import curate
from tasks.export import export_tables
from tasks.publish import verdict


@flow(name="feed", persist_result=True, result_serializer="json")
def train_feed(
    ranking: RankingConfig = rankings.tiny(),  # noqa: B008
    retrieval: RetrievalConfig = feed(),  # noqa: B008
    export: ExportConfig = ExportConfig(),  # noqa: B008
) -> list[Outcome]:
    """Train a ranker, write its log's positive responses as a table, and build the index of that; serve both together.

    Args:
        ranking: The ranker and its log.
        retrieval: The index; its data are the tables that are written.
        export: Where the tables go.
    """
    read = retrieval.data
    export.check_reader(read.source, read.table.interactions, read.table.items)
    export_tables(export, curate(ranking.data))
    return verdict(*rebuild_index(retrieval), *train_ranker(ranking))
