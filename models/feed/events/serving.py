"""How the configuration of a ranker of a log is served and asked, whatever its network."""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from models.common.contracts import Payload
from models.feed.events.kept import Ranking
from models.feed.events.limits import Limits
from models.feed.events.requests import RequestsConfig, answer


class InService:
    """The part of a configuration that is the same for all rankers; a subclass opens its own network.

    Source:
        Ours.
    """

    def open_live(self, product: Payload, data: Payload, **limits: float) -> Ranking:
        """A trained ranker, opened for service with the data that it was made from; `limits` as in `Limits`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is opened.")

    def application(
        self,
        source: Callable[[], tuple[Ranking, str]],
        search: Callable[[], tuple[Any, Any, str]] | None = None,
        **limits: float,
    ) -> Any:
        """The HTTP service of whatever `source` gives, and of an index that finds candidates for it."""
        from models.feed.two_stage import application  # FastAPI takes a moment to import, and few need it

        return application(source, search, Limits(**limits))  # type: ignore[arg-type]

    def predict(
        self, product: Payload, data: Payload, config: RequestsConfig, requests: pa.Table, tell: Callable[[float], None]
    ) -> tuple[pa.Table, Mapping[str, float]]:
        """Answers to a table of requests; see `answer`."""
        return answer(self.open_live(product, data), requests, unknown=config.unknown, tell=tell)
