"""What goes with what, counted: pairs within a user's sequence, the counter made of them, and the counter as an input.

    C[i, j]   sum over pairs of one user's events, i at distance d <= window before j, of d^-power, and `backward` times
              that over pairs with j before i
    A[i, j] = C[i, j] / sqrt((tau + sum_m C[i, m]) (tau + sum_m C[m, j]))

A begins the item vectors (`initial`), and is the input of the hybrid: to the logit z of an item is added

    z + weight * log(1 + S / scale),    S_j = sum_{k < keep} recency^k A[h_{t-k}, j]
"""

# Shapes: E events, I items, Q histories.

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from models.feed.events.counting import Counter, CounterConfig

Floats = NDArray[np.float32]

WEIGHTS, SCALES = (1.0, 2.0, 3.0, 5.0), (3e-4, 1e-3, 3e-3)
"""What the hybrid chooses among, on validation: 12 pairs."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How much the counter counts beside the network."""

    weight: float
    scale: float

    def logits(self, logit_QI: Floats, count_QI: Floats) -> Floats:
        """Logits with the counter's part.

        Args:
            logit_QI: of the network.
            count_QI: of the counter, zero or more.

        Source:
            Ours. A product of the two chances, as in Hinton 2002, "Training products of experts", one of them damped.
        """
        return np.asarray(logit_QI + np.float32(self.weight) * np.log1p(count_QI / np.float32(self.scale)), np.float32)


MIXTURES = tuple(Mixture(weight=weight, scale=scale) for weight, scale in product(WEIGHTS, SCALES))


def count_pairs(
    user_E: NDArray[Any], item_E: NDArray[Any], items: int, *, window: int, power: float, backward: float
) -> Any:
    """Pairs of items near one another in a user's sequence.

    Args:
        user_E: user of each event that may be learned from, events in the order of time.
        item_E: their items.
        items: number of all items.
        window: largest distance.
        power: a pair at distance d counts d to the minus this.
        backward: what a pair counts against the direction of time.

    Returns:
        (I, I) sparse, float64.

    Source:
        See `models.feed.events.counting.fit_counter`.
    """
    order = np.argsort(user_E, kind="stable")
    user, item = np.asarray(user_E)[order], np.asarray(item_E)[order]
    total = sparse.csr_matrix((items, items), dtype=np.float64)
    for distance in range(1, window + 1):
        same = user[:-distance] == user[distance:]
        if not same.any():
            break
        weight = np.full(int(same.sum()), float(distance) ** -power)
        pair = (item[:-distance][same], item[distance:][same])
        total = total + sparse.csr_matrix((weight, pair), shape=(items, items))
    return sparse.csr_matrix(total + backward * total.T if backward else total)


def normalized(pairs: Any, tau: float) -> Any:
    """Pairs divided by the roots of the damped sums of their row and their column: A of the module.

    Args:
        pairs: (I, I) sparse.
        tau: added to each sum; zero or more.

    Source:
        Normalized adjacency as in Kipf & Welling 2017, "Semi-supervised classification with graph convolutional
        networks", equation 2, damped.
    """
    row, column = (np.asarray(pairs.sum(axis)).reshape(-1) + tau for axis in (1, 0))
    left, right = (sparse.diags(np.where(one > 0, np.where(one > 0, one, 1) ** -0.5, 0)) for one in (row, column))
    return sparse.csr_matrix(left @ pairs @ right)


def fit_companions(config: CounterConfig, user_E: NDArray[Any], item_E: NDArray[Any], items: int) -> Counter:
    """The counter that is an input: pairs divided by row and column.

    Args:
        config: how pairs are counted and histories weighed.
        user_E: user of each event that may be learned from, events in the order of time.
        item_E: their items.
        items: number of all items.

    Returns:
        A counter whose shares are A of the module.

    Source:
        Ours; see the module.
    """
    pairs = count_pairs(user_E, item_E, items, window=config.window, power=config.power, backward=config.backward)
    share = normalized(pairs, config.tau).astype(np.float32)
    share.sort_indices()
    return Counter(config=config, share=share)
