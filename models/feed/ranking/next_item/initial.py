"""Where item vectors begin: at a truncated singular value decomposition of what goes with what."""

# Shapes: I items, D width, R = D + oversampled.

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.feed.ranking.next_item.counter import count_pairs, normalized

Floats = NDArray[np.float64]

OVERSAMPLED = 10
ITERATIONS = 2
"""Both as Halko et al. advise for a spectrum that falls slowly."""


@dataclass(frozen=True, kw_only=True)
class InitialConfig:
    """How item vectors begin."""

    kind: Literal["pairs", "random"] = setting(
        "pairs",
        "Kind",
        "pairs: at the singular vectors of the pairs in the training part; random: at normal numbers.",
    )
    window: int = setting(
        10, "Window", "Largest distance of a pair inside one user's events, 1 to 1000.", ge=1, le=1000
    )
    power: float = setting(
        0.5, "Power of distance", "A pair at distance d counts d to the minus this, 0 to 5.", ge=0, le=5
    )
    damping: float = setting(
        30.0, "Damping", "Pairs added to the sum of every row and column, 0 to 1000000.", ge=0, le=1_000_000
    )
    spread: float = setting(
        0.1, "Spread", "Standard deviation of the numbers of all vectors, 0.0001 to 10.", ge=1e-4, le=10
    )

    def __post_init__(self) -> None:
        check(self)


def truncated_svd(matrix: Any, rank: int, seed: int) -> tuple[Floats, Floats]:
    """The largest singular values of a sparse matrix, and their left vectors.

    Args:
        matrix: (I, J) sparse.
        rank: how many, at most the smaller side.
        seed: of the random start.

    Returns:
        Vectors (I, rank) and values, falling. The sign of each vector makes its largest number positive.

    Source:
        Halko, Martinsson & Tropp 2011, "Finding structure with randomness", algorithms 4.4 and 5.1.
    """
    most = min(matrix.shape)
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(matrix @ rng.standard_normal((matrix.shape[1], min(most, rank + OVERSAMPLED))))[0]
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(matrix.T @ basis)[0]
        basis = np.linalg.qr(matrix @ basis)[0]
    left, value, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    vector = (basis @ left)[:, :rank]
    top = np.abs(vector).argmax(0)
    return vector * np.where(vector[top, np.arange(vector.shape[1])] < 0, -1, 1), value[:rank]


def initial_vectors(
    config: InitialConfig, user_E: NDArray[Any], item_E: NDArray[Any], items: int, width: int, seed: int
) -> NDArray[np.float32]:
    """Vectors of all items.

    Items that go with nothing begin at normal numbers, for a vector of zeros has no direction.

    Args:
        config: the kind, and how pairs are counted.
        user_E: user of each event of the training part, events in the order of time.
        item_E: their items.
        items: number of all items.
        width: numbers of a vector.
        seed: of all draws.

    Returns:
        (I, D) numbers of the wanted spread.

    Source:
        Ours, of known parts: factors of damped co-occurrence are Levy & Goldberg 2014, "Neural word embedding as
        implicit matrix factorization", with the root of the singular values.
    """
    vector = np.random.default_rng((seed, 1)).standard_normal((items, width)) * config.spread
    if config.kind == "random":
        return vector.astype(np.float32)
    pairs = count_pairs(user_E, item_E, items, window=config.window, power=config.power, backward=1.0)
    left, value = truncated_svd(normalized(pairs, config.damping), min(width, items), seed)
    found = left * np.sqrt(value)
    known = np.linalg.norm(found, axis=1) > 1e-9
    if known.any():
        vector[known] = 0  # a catalogue smaller than the width leaves the last numbers at zero
        vector[known, : found.shape[1]] = found[known] * (config.spread / found.std())
    return vector.astype(np.float32)
