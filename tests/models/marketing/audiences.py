"""A small index without a system behind it: exhaustive cosines, for tests of expansions."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.marketing.config import ExpansionConfig, GeneratedSeedsConfig

CONFIG = ExpansionConfig(neighbours=30, best=4, size=60, generated=GeneratedSeedsConfig(seeds=40, seed=2))


class Exhaustive:
    """Every cosine, sorted; see `models.common.contracts.Searcher`."""

    def __init__(self, members: int = 413, width: int = 7, seed: int = 0, nameless: int = -1) -> None:
        rng = np.random.default_rng(seed)
        vectors = rng.normal(0, 1, (members, width))
        self._vectors = np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
        names = [None if row == nameless else f"m{row}" for row in range(members)]
        self._items = pa.array(names)
        self._popularity = rng.integers(0, 9, members).astype(np.float64)

    @property
    def items(self) -> pa.Array:
        """Names m0, m1, ..."""
        return self._items

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Of length one."""
        return self._vectors

    @property
    def popularity(self) -> NDArray[np.float64]:
        """Drawn from 0 to 8."""
        return self._popularity

    @property
    def about(self) -> Mapping[str, str | int]:
        """Nothing was written."""
        return {}

    def neighbours(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Best first."""
        exact = queries.astype(np.float64) @ self._vectors.astype(np.float64).T
        places = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        return places, np.take_along_axis(exact, places, 1)


def expanded(config: ExpansionConfig = CONFIG, searcher: Exhaustive | None = None) -> Payload:
    """An expansion, as the task stores it."""
    index = searcher or Exhaustive()
    asked = config.questions({}, index)
    return config.answers(asked, *index.neighbours(asked["queries"], config.k))[0]
