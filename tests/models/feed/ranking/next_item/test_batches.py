"""Batches: everyone once in a pass, about as many next items in each, the same batches for the same seed."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.feed.events.splits import Split
from models.feed.events.table import Events
from models.feed.ranking.next_item.batches import Negatives, SequenceBatches
from models.feed.ranking.next_item.data import Histories, questions
from models.feed.ranking.next_item.loss import next_item_loss
from models.feed.ranking.next_item.network import Batch
from tests.models.feed.ranking.next_item.sequences import NETWORK, random_ranker, ranker_config, simulated


def histories(length: list[int], items: int = 40, seed: int = 0) -> Histories:
    rng = np.random.default_rng(seed)
    return Histories(
        item=rng.integers(items, size=sum(length)), start=np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    )


def batches_of(length: list[int], *, size: int = 40, steps: int = 7, seed: int = 0, **shared: int) -> SequenceBatches:
    negatives = Negatives(np.ones(40), 6, "uniform", corrected=False)
    return SequenceBatches(histories(length), negatives, history=9, size=size, steps=steps, seed=seed, **shared)


def same(left: Batch, right: Batch) -> bool:
    return all(
        torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        for one, other in zip(left, right, strict=True)
    )


@given(length=st.lists(st.integers(0, 30), min_size=2, max_size=60), going=st.integers(0, 3))
def test_a_pass_has_everyone_with_a_next_item_once_and_batches_of_like_size(length: list[int], going: int) -> None:
    length = [*length, 2]
    batches = batches_of(length)
    groups = batches.groups(going)
    able = [min(one, 10) - 1 for one in length if one > 1]
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(able)))
    assert len(groups) == batches.in_pass == -(-sum(able) // 40)
    for group in groups:
        # a user falls where the middle of hers falls, so a batch is off by no more than one history
        assert abs(sum(able[user] for user in group) - sum(able) / len(groups)) <= 9


def test_epochs_go_through_one_pass_after_another() -> None:
    batches = batches_of([5] * 23, steps=3)
    assert batches.in_pass == 3
    found = [sorted(np.concatenate([row[:length] for row, length in zip(
        batch.item[batch.history].numpy(), batch.length.tolist(), strict=True)]).tolist())
        for batch in batches.epoch(0)]  # fmt: skip
    read = histories([5] * 23).latest(10)
    everything = sorted(np.delete(read.item, read.start[1:] - 1).tolist())
    assert sorted(np.concatenate(found).tolist()) == everything
    short = batches_of([5] * 23, steps=2)
    assert same(next(iter(batches_of([5] * 23, steps=1).epoch(5))), list(short.epoch(2))[1])


def test_an_epoch_follows_from_seed_and_number_alone() -> None:
    batches = batches_of([3, 9, 14, 2, 5, 6, 30, 4])
    first = list(batches.epoch(4))
    list(batches.epoch(1))
    assert len(first) == 7
    assert all(same(one, other) for one, other in zip(first, batches.epoch(4), strict=True))
    other_seed = batches_of([3, 9, 14, 2, 5, 6, 30, 4], seed=1)
    assert not all(same(one, other) for one, other in zip(first, other_seed.epoch(4), strict=True))


def test_every_event_but_the_first_is_to_be_found_from_those_before_it() -> None:
    past = histories([3, 1, 9, 14, 0, 2])
    batch = next(iter(batches_of([3, 1, 9, 14, 0, 2], size=1000).epoch(0)))
    item = batch.item.numpy()
    pairs, place = [], 0
    for row, length in enumerate(batch.length.tolist()):
        read = item[batch.history[row, :length].numpy()].tolist()
        found = item[batch.target[place : place + length].numpy()].tolist()
        assert batch.state[place : place + length].tolist() == [row * batch.history.shape[1] + t for t in range(length)]
        assert read[1:] == found[:-1]
        pairs.append([*read, found[-1]])
        place += length
    assert place == len(batch.target) == batch.share
    right = [past.item[begin:end].tolist()[-10:] for begin, end in zip(past.start[:-1], past.start[1:], strict=True)]
    assert sorted(pairs) == sorted(word for word in right if len(word) > 1)


def test_negatives_come_first_each_once_and_a_target_among_them_is_named() -> None:
    for batch in islice(batches_of([5] * 20).epoch(0), 5):
        item = batch.item.tolist()
        assert len(set(item)) == len(item)
        negative = item[: batch.negatives]
        assert batch.negatives == 6
        target = [item[place] for place in batch.target.tolist()]
        hits = {(state, negative.index(one)) for state, one in enumerate(target) if one in negative}
        assert {(state, place) for state, place in batch.hit.T.tolist()} == hits
        assert torch.equal(batch.offset, torch.zeros(6))


def test_items_that_training_never_met_are_never_negatives() -> None:
    negatives = Negatives(np.array([3, 0, 1, 0, 2]), 2, "uniform", corrected=False)
    rng = np.random.default_rng(0)
    drawn = {int(item) for _ in range(50) for item in negatives.draw(rng)[0]}
    assert drawn == {0, 2, 4}
    everything, offset = Negatives(np.array([3, 0, 1, 0, 2]), 4096, "uniform", corrected=True).draw(rng)
    assert everything.tolist() == [0, 2, 4]
    assert offset.tolist() == [0, 0, 0]


def test_two_processes_share_each_batch_and_their_mean_gradient_is_that_of_one() -> None:
    length = [3, 9, 14, 2, 5, 6, 30, 4, 11]
    network = random_ranker(40, replace(NETWORK, history=9))
    whole = next(iter(batches_of(length).epoch(0)))
    parts = [next(iter(batches_of(length, rank=rank, processes=2).epoch(0))) for rank in (0, 1)]
    assert sum(len(part.target) for part in parts) == len(whole.target)
    assert all(part.item[:6].tolist() == whole.item[:6].tolist() for part in parts)

    def gradient(batch: Batch) -> torch.Tensor:
        found = torch.autograd.grad(next_item_loss(network, batch), list(network.parameters()), allow_unused=True)
        return torch.cat([one.flatten() for one in found if one is not None])

    torch.testing.assert_close((gradient(parts[0]) + gradient(parts[1])) / 2, gradient(whole), atol=1e-5, rtol=1e-3)


def test_too_few_users_for_the_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 users have two events to learn from, and there are 2 processes"):
        batches_of([1, 0, 3], processes=2)


def test_no_validation_and_no_test_event_is_ever_trained_on() -> None:
    data = simulated()
    events, split = Events.from_payload(data), Split.from_payload(data)
    config = ranker_config()
    batches = config.batches(data, rank=0, processes=1)
    held: dict[tuple[int, ...], set[int]] = {}
    for part in ("validation", "test"):
        asked = questions(events, split, part)  # type: ignore[arg-type]
        for place in range(len(asked)):
            word = asked.history.take(np.array([place])).item.tolist()
            held.setdefault(tuple(word), set()).add(int(asked.target[place]))
    trained = set()
    for epoch in range(6):
        for batch in batches.epoch(epoch):
            item, place = batch.item.numpy(), 0
            for row, length in enumerate(batch.length.tolist()):
                read = item[batch.history[row, :length].numpy()].tolist()
                trained.add((*read, int(item[batch.target[place + length - 1]])))
                place += length
    rows = set(split.train.tolist())
    right = set()
    for user in range(events.users):
        word = [int(events.item[row]) for row in np.flatnonzero(events.user == user) if row in rows]
        if len(word) > 1:
            right.add(tuple(word[-8:]))
    assert trained == right
    # the longest history that is read ends before the validation event
    assert not any((*word[-7:], target) in trained for word, targets in held.items() for target in targets)
