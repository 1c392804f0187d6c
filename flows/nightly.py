"""Everything that is to be fresh by morning, in one flow."""

from prefect import flow

from flows.history import train_history_scorer
from flows.marketing import plan_campaign
from flows.ranking import train_ranker
from flows.retrieval import rebuild_index
from infra.refs import Outcome
from models.feed.history import config as histories
from models.feed.history.config import HistoryConfig
from models.feed.ranking import config as rankings
from models.feed.ranking.config import RankingConfig
from models.feed.retrieval.config import RetrievalConfig, tiny
from models.marketing import config as campaigns
from models.marketing.config import MarketingConfig
from tasks.publish import verdict


@flow(name="nightly", persist_result=True, result_serializer="json")
def nightly(
    retrieval: RetrievalConfig = tiny(),  # noqa: B008
    ranking: RankingConfig = rankings.tiny(),  # noqa: B008
    history: HistoryConfig = histories.tiny(),  # noqa: B008
    marketing: MarketingConfig = campaigns.tiny(),  # noqa: B008
) -> list[Outcome]:
    """Rebuild every product in turn; a refused one keeps its champion and does not stop the others.

    Args:
        retrieval: The retrieval index to rebuild.
        ranking: The ranker to train.
        history: The click model to train.
        marketing: The plan of offers to make.
    """
    feed = (*rebuild_index(retrieval), *train_ranker(ranking), *train_history_scorer(history))
    return verdict(*feed, *plan_campaign(marketing))
