"""How much a service of rankers may be asked, and what it keeps in memory."""

from dataclasses import dataclass

from models.common.configuration import check, setting


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one request may ask, how many may wait, and what is kept in memory."""

    candidates: int = setting(10_000, "Candidates", "Candidates of one request, 1 to 1000000.", ge=1, le=1_000_000)
    events: int = setting(10_000, "Events", "Events of one request, 1 to 1000000.", ge=1, le=1_000_000)
    megabytes: int = setting(8, "Megabytes", "Size of one request's body, 1 to 1024.", ge=1, le=1024)
    waiting: int = setting(64, "Waiting", "Requests answered or waiting at a time, 1 to 10000.", ge=1, le=10_000)
    cache_megabytes: float = setting(
        256.0,
        "Encoded histories",
        "Megabytes for what was computed of users' histories, 0 to 1000000; 0: each request computes its own.",
        ge=0,
        le=1_000_000,
    )
    told_megabytes: float = setting(
        64.0,
        "Told events",
        "Megabytes for what was told of users since the log ended, 0.001 to 1000000; of who was not asked about for "
        "longest it is given up first.",
        ge=0.001,
        le=1_000_000,
    )

    def __post_init__(self) -> None:
        check(self)
