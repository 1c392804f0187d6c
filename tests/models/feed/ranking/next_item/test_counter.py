"""The counter as an input: pairs counted, divided, mixed with logits."""

import numpy as np
import pytest
import scipy.sparse as sparse

from models.feed.events.counting import CounterConfig, fit_counter
from models.feed.ranking.next_item.counter import MIXTURES, Mixture, count_pairs, fit_companions, normalized

USER = np.array([0, 1, 0, 1, 0, 2, 0, 1])
ITEM = np.array([0, 2, 1, 0, 2, 3, 1, 4])
"""User 0: 0 1 2 1; user 1: 2 0 4; user 2: 3. Users take turns in time."""


def plain(window: int, power: float, backward: float) -> np.ndarray:
    found = np.zeros((5, 5))
    for word in ([0, 1, 2, 1], [2, 0, 4], [3]):
        for place, one in enumerate(word):
            for distance in range(1, window + 1):
                if place + distance < len(word):
                    found[one, word[place + distance]] += distance**-power
                    found[word[place + distance], one] += backward * distance**-power
    return found


@pytest.mark.parametrize(("window", "power", "backward"), [(10, 0.5, 1.0), (2, 0.5, 0.5), (1, 0.0, 0.0), (3, 2.0, 0.3)])
def test_pairs_are_those_of_a_plain_loop(window: int, power: float, backward: float) -> None:
    found = count_pairs(USER, ITEM, 5, window=window, power=power, backward=backward)
    np.testing.assert_allclose(found.toarray(), plain(window, power, backward))


def test_pairs_are_those_that_the_counter_divides_by_rows() -> None:
    config = CounterConfig(window=2, tau=3.0)
    pairs = count_pairs(USER, ITEM, 5, window=2, power=config.power, backward=config.backward).toarray()
    share = fit_counter(config, USER, ITEM, 5).share.toarray()
    np.testing.assert_allclose(share, pairs / (pairs.sum(1, keepdims=True) + 3.0), rtol=1e-6)


def test_companions_are_divided_by_row_and_column() -> None:
    config = CounterConfig(window=2, power=0.5, backward=0.5, tau=3.0)
    pairs = plain(2, 0.5, 0.5)
    right = pairs / np.sqrt((pairs.sum(1, keepdims=True) + 3) * (pairs.sum(0, keepdims=True) + 3))
    np.testing.assert_allclose(fit_companions(config, USER, ITEM, 5).share.toarray(), right, rtol=1e-6)


def test_an_item_without_pairs_and_without_damping_gets_zeros() -> None:
    found = normalized(sparse.csr_matrix(np.array([[0.0, 2.0], [0.0, 0.0]])), 0.0)
    np.testing.assert_allclose(found.toarray(), [[0.0, 1.0], [0.0, 0.0]])


def test_the_mixture_adds_a_logarithm_that_is_nothing_where_nothing_was_counted() -> None:
    logit = np.array([[1.0, -2.0, -np.inf]], np.float32)
    mixed = Mixture(weight=2.0, scale=0.5).logits(logit, np.array([[0.0, 1.0, 1.0]], np.float32))
    np.testing.assert_allclose(mixed, [[1.0, -2.0 + 2 * np.log(3), -np.inf]], rtol=1e-6)


def test_no_more_than_fifteen_mixtures_are_tried() -> None:
    assert len(set(MIXTURES)) == len(MIXTURES) <= 15
