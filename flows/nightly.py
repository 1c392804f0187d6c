"""Everything that is to be fresh by morning, in one flow."""

from prefect import flow

from flows.retrieval import rebuild_index
from infra.refs import Outcome
from models.feed.retrieval.config import RetrievalConfig, tiny
from tasks.publish import verdict


@flow(name="nightly", persist_result=True, result_serializer="json")
def nightly(retrieval: RetrievalConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Rebuild every product in turn; a refused one keeps its champion and does not stop the others.

    Args:
        retrieval: The retrieval index to rebuild.
    """
    return verdict(*rebuild_index(retrieval))
