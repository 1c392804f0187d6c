"""Keep the house from filling up."""

from prefect import flow

from tasks.retain import RetentionConfig, account, survey, sweep


@flow(name="upkeep", persist_result=True, result_serializer="json")
def upkeep(retention: RetentionConfig = RetentionConfig()) -> None:  # noqa: B008
    """Name the versions, runs and scratch files that are old and needed by nobody, and remove them if that is wished.

    Args:
        retention: How long what is kept, and whether anything is removed.
    """
    found = survey(retention)
    return account(retention, found, sweep(retention, found))
