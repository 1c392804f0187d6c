"""The objective: the fused softmax against the plain one, the sample against the whole."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.feed.ranking.next_item.batches import Negatives, SequenceBatches
from models.feed.ranking.next_item.data import Histories
from models.feed.ranking.next_item.loss import SampledSoftmax, next_item_loss
from models.feed.ranking.next_item.network import Batch, NextItem
from tests.models.feed.ranking.next_item.sequences import KINDS, NETWORK, random_ranker

ITEMS = 31
QUIET = replace(NETWORK, dropout=0.0, item_dropout=0.0)
WORDS = [[4, 8, 15, 16], [23, 4], [2, 30, 11, 19, 1, 0, 7, 5], [3, 3, 3], [9]]


def histories(words: list[list[int]] = WORDS) -> Histories:
    return Histories(
        item=np.array([item for word in words for item in word], np.int64),
        start=np.concatenate([[0], np.cumsum([len(word) for word in words])]).astype(np.int64),
    )


def batch_of(
    count: np.ndarray, size: int, *, corrected: bool = False, sampling: str = "uniform", seed: int = 0
) -> Batch:
    negatives = Negatives(count, size, sampling, corrected=corrected)  # type: ignore[arg-type]
    batches = SequenceBatches(histories(), negatives, history=7, size=1000, steps=1, seed=seed)
    return next(iter(batches.epoch(0)))


def plain_full_loss(network: NextItem) -> torch.Tensor:
    """Cross entropy of every next item among all items, one user after another, as the formula says it."""
    nats = []
    for word in WORDS:
        read, found = word[-8:-1], word[-8:][1:]
        if not read:
            continue
        states = network.states(network.items(torch.tensor([read])), torch.tensor([len(read)]))[0]
        vectors = network.items.weight
        if network.config.similarity == "cosine":
            states, vectors = (functional.normalize(one, dim=-1) for one in (states, vectors))
        logit = states @ vectors.T / network.config.temperature
        nats.append(functional.cross_entropy(logit, torch.tensor(found), reduction="none"))
    return torch.cat(nats).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corrected", [False, True])
def test_the_sampled_softmax_with_all_items_is_the_full_one_in_value_and_gradient(kind: str, corrected: bool) -> None:
    network = random_ranker(ITEMS, replace(QUIET, **KINDS[kind])).train()
    right = plain_full_loss(network)
    wanted = torch.autograd.grad(right, list(network.parameters()))
    for size in (0, ITEMS, 10 * ITEMS):
        found = next_item_loss(network, batch_of(np.ones(ITEMS), size, corrected=corrected))
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
        gradients = torch.autograd.grad(found, list(network.parameters()))
        for one, other in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


def test_the_fused_gradient_is_that_of_plain_operations_and_of_small_differences() -> None:
    draw = torch.Generator().manual_seed(2)
    state, negative = (torch.randn(n, 3, generator=draw, dtype=torch.float64, requires_grad=True) for n in (5, 7))
    positive = torch.randn(5, generator=draw, dtype=torch.float64, requires_grad=True)
    offset, hit = torch.randn(7, generator=draw, dtype=torch.float64), torch.tensor([[0, 3, 3], [6, 1, 2]])

    def fused(*parts: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = SampledSoftmax.apply(*parts, offset, hit, torch.float64)
        return found

    logit = (state @ negative.T + offset).index_put((hit[0], hit[1]), torch.tensor(-torch.inf, dtype=torch.float64))
    plain = (torch.cat([positive[:, None], logit], 1).logsumexp(1) - positive).sum()
    torch.testing.assert_close(fused(state, negative, positive), plain)
    parts = (state, negative, positive)
    for one, other in zip(
        torch.autograd.grad(3 * fused(*parts), parts), torch.autograd.grad(3 * plain, parts), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(fused, parts)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_products_change_value_and_gradient_by_their_rounding_alone(kind: str) -> None:
    network = random_ranker(ITEMS, replace(QUIET, **KINDS[kind])).train()
    batch = batch_of(np.ones(ITEMS), 12)
    losses = [next_item_loss(network, batch, kind) for kind in (torch.float32, torch.bfloat16)]
    assert losses[1].dtype == torch.float32
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=0.03)
    assert losses[0] != losses[1]
    right, found = (torch.cat([g.flatten() for g in torch.autograd.grad(one, network.parameters())]) for one in losses)
    assert functional.cosine_similarity(right, found, dim=0) > 0.98


def test_the_fused_softmax_stands_logits_that_overflow() -> None:
    state = torch.tensor([[500.0], [-500.0]], requires_grad=True)
    negative = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    positive = torch.tensor([0.0, 900.0], requires_grad=True)
    nats = SampledSoftmax.apply(
        state, negative, positive, torch.zeros(2), torch.zeros(2, 0, dtype=torch.long), torch.float32
    )
    assert float(nats.detach()) == 500
    nats.backward()
    assert torch.isfinite(state.grad).all()
    assert positive.grad.tolist() == [-1, 0]


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_with_the_correction_the_expected_sum_over_negatives_is_that_over_all_items(sampling: str) -> None:
    count = np.array([1, 5, 2, 9, 0, 3, 1, 7])
    logit = np.random.default_rng(4).normal(size=8)
    negatives = Negatives(count, 4, sampling, corrected=True)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    sums = []
    for _ in range(20_000):
        item, offset = negatives.draw(rng)
        sums.append(np.exp(logit[item] + offset).sum())
    right = np.exp(logit[count > 0]).sum()
    assert np.mean(sums) == pytest.approx(right, abs=5 * np.std(sums) / np.sqrt(len(sums)))
    assert np.std(sums) > 0.05 * right, "nothing was sampled"


def test_without_the_correction_negatives_count_as_often_as_they_were_drawn() -> None:
    rng = np.random.default_rng(0)
    item, offset = Negatives(np.array([1, 0, 1]), 1, "uniform", corrected=False).draw(rng)
    assert len(item) == 1
    assert offset.tolist() == [0]
    item, offset = Negatives(np.array([9, 1, 0, 0, 1]), 2, "popularity", corrected=False).draw(np.random.default_rng(2))
    assert item.tolist() == [0]
    assert offset.tolist() == [pytest.approx(np.log(2))]


def test_a_target_among_the_negatives_does_not_count_twice() -> None:
    network = random_ranker(ITEMS, QUIET).train()
    batch = batch_of(np.ones(ITEMS), 12, seed=3)
    negative = batch.item[: batch.negatives].tolist()
    nats = []
    for word in WORDS:
        read, found = word[-8:-1], word[-8:][1:]
        if not read:
            continue
        states = network.states(network.items(torch.tensor([read])), torch.tensor([len(read)]))[0]
        logit = functional.normalize(states, dim=-1) @ functional.normalize(network.items.weight, dim=-1).T / 0.07
        for row, target in zip(logit, found, strict=True):
            others = [item for item in negative if item != target]
            nats.append(torch.logsumexp(row[[target, *others]], 0) - row[target])
    assert batch.hit.shape[1] > 0, "no target among the negatives; take another seed"
    torch.testing.assert_close(next_item_loss(network, batch), torch.stack(nats).mean(), atol=1e-5, rtol=1e-5)


def test_an_item_loses_the_same_numbers_wherever_it_stands_in_a_step() -> None:
    network = random_ranker(ITEMS, replace(QUIET, item_dropout=0.5)).train()
    batch = batch_of(np.ones(ITEMS), 12)
    kept: list[torch.Tensor] = []
    compared = network.compared
    network.compared = lambda vector: kept.append(vector) or compared(vector)  # type: ignore[method-assign,func-returns-value]
    read: list[torch.Tensor] = []
    states = network.states
    network.states = lambda event, length: read.append(event) or states(event, length)  # type: ignore[method-assign,func-returns-value]
    next_item_loss(network, batch)
    vector = kept[1]
    assert 0.3 < float((vector == 0).float().mean()) < 0.7
    for row, length in enumerate(batch.length.tolist()):
        assert torch.equal(read[0][row, :length], vector[batch.history[row, :length]])


def test_training_on_a_batch_again_and_again_learns_it() -> None:
    torch.manual_seed(0)
    network = NextItem(ITEMS, QUIET).train()
    batch = batch_of(np.ones(ITEMS), 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = next_item_loss(network, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert sum(later > earlier for earlier, later in pairwise(losses)) < 20
