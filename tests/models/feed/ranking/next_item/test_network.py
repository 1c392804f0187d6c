"""The network: what a state may know, and that batch and padding do not matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.feed.ranking.next_item.data import Histories
from models.feed.ranking.next_item.network import NetworkConfig, NextItem, network_of
from models.feed.ranking.next_item.score import Scorer, user_vectors
from tests.models.feed.ranking.next_item.sequences import KINDS, NETWORK, random_ranker


def histories(*words: list[int]) -> Histories:
    return Histories(
        item=np.array([item for word in words for item in word], np.int64),
        start=np.concatenate([[0], np.cumsum([len(word) for word in words])]).astype(np.int64),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_depends_on_its_own_and_earlier_events_alone(kind: str) -> None:
    network = random_ranker(31, replace(NETWORK, **KINDS[kind]))
    draw = torch.Generator().manual_seed(5)
    event = torch.randn(3, 7, 12, generator=draw, requires_grad=True)
    states = network.states(event, torch.tensor([7, 7, 7]))
    for place in range(7):
        (gradient,) = torch.autograd.grad(states[:, place].square().sum(), event, retain_graph=True)
        touched = gradient.abs().amax(dim=(0, 2)) > 0
        assert touched.tolist() == [earlier <= place for earlier in range(7)]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_do_not_know_one_another(kind: str) -> None:
    network = random_ranker(31, replace(NETWORK, **KINDS[kind]))
    event = torch.randn(3, 5, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.states(event, torch.tensor([5, 4, 2]))[1].sum(), event)
    assert (gradient.abs().amax(dim=(1, 2)) > 0).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", KINDS)
@given(length=st.integers(1, 7), padded=st.integers(0, 4), junk=st.integers(0, 30), seed=st.integers(0, 99))
def test_padding_of_any_kind_leaves_the_scores_alone(kind: str, length: int, padded: int, junk: int, seed: int) -> None:
    network = random_ranker(31, replace(NETWORK, **KINDS[kind]), seed=seed)
    item = torch.randint(31, (1, length), generator=torch.Generator().manual_seed(seed))
    size = torch.tensor([length])
    with torch.no_grad():
        plain = network.user_vectors(item, size)
        beside = network.user_vectors(torch.cat([item, torch.full((1, padded), junk)], dim=1), size)
    torch.testing.assert_close(plain, beside, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_company_in_a_batch_leaves_the_scores_alone(kind: str) -> None:
    network = random_ranker(31, replace(NETWORK, **KINDS[kind]))
    words = [[4, 8, 15], [], [16], [23, 4, 2, 30, 11, 19, 1, 0, 7, 5], [3, 3, 3]]
    together = user_vectors(network, histories(*words))
    for place, word in enumerate(words):
        np.testing.assert_allclose(user_vectors(network, histories(word))[0], together[place], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_history_has_finite_scores_all_alike_and_finite_gradients(kind: str) -> None:
    network = random_ranker(31, replace(NETWORK, **KINDS[kind]))
    score = Scorer(network).logits(histories([], [5, 6]))
    assert (score[0] == 0).all()
    assert np.isfinite(score).all()
    vector = network.user_vectors(torch.tensor([[0, 0], [5, 6]]), torch.tensor([0, 2]))
    assert (vector[0] == 0).all()
    vector.square().sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)


def test_only_the_latest_events_of_a_long_history_are_read() -> None:
    network = random_ranker(31)
    long = list(range(20))
    left, right = user_vectors(network, histories(long, long[-NETWORK.history :]))
    np.testing.assert_allclose(left, right, atol=1e-6)


def test_the_order_of_a_history_matters() -> None:
    left, right = user_vectors(random_ranker(31), histories([4, 8, 15], [8, 4, 15]))
    assert np.abs(left - right).max() > 1e-3


def test_a_score_is_the_cosine_over_the_temperature() -> None:
    network = random_ranker(31)
    score = Scorer(network).logits(histories([4, 8, 15]))[0]
    with torch.no_grad():
        state = network.states(network.items(torch.tensor([[4, 8, 15]])), torch.tensor([3]))[0, -1]
        right = torch.nn.functional.cosine_similarity(state[None], network.items.weight) / 0.07
    np.testing.assert_allclose(score, right.numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(score).max() <= 1 / 0.07 + 1e-4


def test_an_item_that_training_never_met_is_never_recommended() -> None:
    network = random_ranker(31)
    known = torch.ones(31, dtype=torch.bool)
    known[[2, 30]] = False
    network.begin(network.items.weight, known)
    scorer = Scorer(network)
    assert np.isneginf(scorer.logits(histories([4]))[0, [2, 30]]).all()
    best = scorer.best(histories([4, 7], []), 31)
    assert sorted(best[0][best[0] >= 0].tolist()) == [item for item in range(31) if item not in (2, 4, 7, 30)]
    assert best[0].tolist()[-4:] == [-1] * 4


def test_a_last_event_has_one_position_whatever_the_length() -> None:
    network = random_ranker(31)
    with torch.no_grad():
        network.positions.weight[1:] = 0
        event = torch.zeros(2, 4, 12)
        seen: list[torch.Tensor] = []
        network.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        network.states(event, torch.tensor([4, 2]))
    there = seen[0].abs().amax(-1) > 0
    # padding after the end keeps the position of the last event, and nobody sees it
    assert there.tolist() == [[False, False, False, True], [False, True, True, True]]


def test_dropout_falls_in_training_alone() -> None:
    network = random_ranker(31)
    vectors = [network.user_vectors(torch.tensor([[4, 8]]), torch.tensor([2])) for _ in range(2)]
    assert torch.equal(*vectors)
    network.train()
    vectors = [network.user_vectors(torch.tensor([[4, 8]]), torch.tensor([2])) for _ in range(2)]
    assert not torch.equal(*vectors)


def test_a_width_that_heads_do_not_divide_is_refused_with_the_next_one_that_they_do() -> None:
    with pytest.raises(ValueError, match="got 50 and 4; take 52"):
        NetworkConfig(width=50, heads=4)


def test_a_network_of_another_system_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match="give these data a name of their own"):
        network_of(torch.nn.Linear(2, 2))
    assert isinstance(network_of(random_ranker(5)), NextItem)
