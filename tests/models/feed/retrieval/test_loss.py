"""The corrected sampled softmax is the paper's formula, and in expectation the softmax over all items."""

import math
from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.feed.retrieval.batches import InteractionBatches
from models.feed.retrieval.loss import corrected_softmax, retrieval_loss
from models.feed.retrieval.network import Catalogue, TowerConfig, TwoTower, encode_items, history_weights

ITEMS = 7


def catalogue(items: int = ITEMS) -> Catalogue:
    generator = torch.Generator().manual_seed(2)
    return Catalogue(torch.randint(0, 5, (items, 3), generator=generator), torch.rand((items, 3), generator=generator))


def batches(train: pa.Table, **changes: int) -> InteractionBatches:
    settings = {"items": ITEMS, "history": 3, "negatives": 4, "batch_size": 5, "seed": 1} | changes
    return InteractionBatches(train, catalogue=catalogue(), **settings)


def choices() -> pa.Table:
    item = [0, 1, 2, 1, 0, 5, 2, 1, 0, 6, 3, 0]
    user = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3]
    return pa.table({"user": user, "item": item, "time": list(range(12))})


def towers(**changes: float) -> TwoTower:
    torch.manual_seed(3)
    network = TwoTower(users=4, items=ITEMS, codes=5, config=TowerConfig(dimension=6, hidden=8, **changes))
    torch.nn.init.normal_(network.item_tower[-1].weight, std=0.3)
    return network.double().eval()


@torch.no_grad()
def test_the_loss_is_the_formula_written_as_a_loop() -> None:
    network = towers()
    for batch in batches(choices()).epoch(0):
        total = 0.0
        for row in range(5):
            own = int(batch.positive[row])
            met = [int(item) for item in batch.history[row] if item >= 0]
            user = network.user_vectors(
                batch.user[row : row + 1],
                batch.history[row : row + 1].clamp_min(0),
                history_weights(batch.history[row : row + 1]),
                network.inputs(torch.arange(ITEMS), batch.catalogue),
            )[0]
            vectors = network.item_vectors(network.inputs(torch.arange(ITEMS), batch.catalogue))
            score = [float(user @ vector) / float(network.temperature) for vector in vectors]
            partition = math.exp(score[own])
            for candidate in [*batch.positive.tolist(), *batch.negative.tolist()]:
                if candidate == own or candidate in met:
                    continue
                # 4 other examples drawn from the 11 other rows, and 4 of 7 items drawn uniformly
                expected = 4 / 11 * choices()["item"].to_pylist().count(candidate) + 4 / 7
                partition += math.exp(score[candidate]) / expected
            total += math.log(partition) - score[own]
        assert retrieval_loss(network, batch).item() == pytest.approx(total / 5, rel=1e-6)


def test_the_correction_makes_the_denominator_that_of_all_items_on_average() -> None:
    """All batches of three among five rows, one by one: the mean of the corrected sum is the sum over all items that
    occur, to rounding; without the correction it leans to the popular."""
    item = np.array([0, 0, 0, 1, 2])
    logit = np.array([0.3, -1.2, 0.9])
    own = 1  # the row of item 1 is in the batch; two more come from the four others
    expected = {i: 2 / 4 * (item == i).sum() for i in (0, 2)}
    corrected, plain = [], []
    for others in permutations([0, 1, 2, 4], 2):
        drawn = [item[row] for row in others]
        corrected.append(sum(math.exp(logit[i]) / expected[i] for i in drawn))
        plain.append(sum(math.exp(logit[i]) for i in drawn))
    everything = sum(math.exp(logit[i]) for i in range(3) if i != own)
    assert np.mean(corrected) == pytest.approx(everything, rel=1e-12)
    assert abs(np.mean(plain) - everything) > 0.2


def test_many_candidates_give_the_full_softmax_and_its_gradient() -> None:
    torch.manual_seed(0)
    size, candidates = 5, 200_000
    logits = torch.randn(2, size, dtype=torch.float64, requires_grad=True)
    own = torch.tensor([1, 4])
    share = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)  # sampled as popularity is
    drawn = torch.multinomial(share, candidates, replacement=True)
    allowed = drawn != own[:, None]
    sampled = corrected_softmax(logits[[0, 1], own], logits[:, drawn], candidates * share[drawn], allowed)
    full = torch.nn.functional.cross_entropy(logits, own)
    assert sampled.item() == pytest.approx(full.item(), abs=0.01)
    (ours,), (theirs,) = torch.autograd.grad(sampled, logits), torch.autograd.grad(full, logits)
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)

    uncorrected = corrected_softmax(
        logits[[0, 1], own], logits[:, drawn], torch.ones(candidates) * candidates / 5, allowed
    )
    assert abs(uncorrected.item() - full.item()) > 0.05


def test_a_model_trained_on_corrected_batches_learns_the_true_shares() -> None:
    """One member, five items taken in known proportions: the softmax that maximises the likelihood has exactly those
    shares. In-batch candidates alone would otherwise punish the popular and level them."""
    shares = np.array([60, 20, 10, 6, 4])
    item = torch.from_numpy(np.repeat(np.arange(5), shares))
    found = {}
    for correct in (True, False):
        score = torch.zeros(5, requires_grad=True)
        optimizer = torch.optim.Adam([score], lr=0.05)
        generator = torch.Generator().manual_seed(0)
        for _ in range(600):
            batch = item[torch.randperm(100, generator=generator)[:50]]
            expected = 49 / 99 * torch.from_numpy(shares)[batch] if correct else torch.full((50,), 10.0)
            loss = corrected_softmax(score[batch], score[batch].expand(50, -1), expected, batch != batch[:, None])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[correct] = torch.softmax(score.detach(), 0).numpy()
    np.testing.assert_allclose(found[True], shares / 100, atol=0.03)
    assert found[False][0] < 0.5


def test_a_positive_that_comes_again_is_no_negative() -> None:
    own = torch.tensor([0.5, 0.5])
    logits = torch.tensor([[0.5, 0.5, -1.0], [0.5, 0.5, -1.0]])
    allowed = torch.tensor([[False, False, True], [False, False, True]])
    expected = torch.tensor([1.0, 1.0, 1.0])
    assert corrected_softmax(own, logits, expected, allowed).item() == pytest.approx(
        math.log1p(math.exp(-1.5)), rel=1e-6
    )


def test_the_loss_reaches_every_parameter() -> None:
    network = towers(learn_temperature=True).float().train()
    batch = next(iter(batches(choices()).epoch(0)))
    retrieval_loss(network, batch).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_epochs_follow_from_seed_and_number_and_use_each_example_once() -> None:
    first = [batch.positive.tolist() for batch in batches(choices()).epoch(3)]
    assert first == [batch.positive.tolist() for batch in batches(choices()).epoch(3)]
    assert first != [batch.positive.tolist() for batch in batches(choices()).epoch(4)]
    assert first != [batch.positive.tolist() for batch in batches(choices(), seed=2).epoch(3)]
    whole = batches(choices(), batch_size=12)
    assert sorted(next(iter(whole.epoch(0))).positive.tolist()) == sorted(choices()["item"].to_pylist())


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_an_epoch_equally_and_completely(processes: int) -> None:
    shares = [batches(choices(), batch_size=6, rank=rank, processes=processes) for rank in range(processes)]
    assert {len(share) for share in shares} == {2}
    together = [
        sorted(item for batch in step for item in batch.positive.tolist())
        for step in zip(*(share.epoch(1) for share in shares), strict=True)
    ]
    alone = [sorted(batch.positive.tolist()) for batch in batches(choices(), batch_size=6).epoch(1)]
    assert together == alone


def test_a_history_never_holds_the_example_itself_nor_anyone_elses_items() -> None:
    table = choices()
    user, item = table["user"].to_numpy(), table["item"].to_numpy()
    for length in (1, 2, 3, 9):
        for batch in batches(table, history=length, batch_size=12).epoch(0):
            for who, own, history in zip(
                batch.user.tolist(), batch.positive.tolist(), batch.history.tolist(), strict=True
            ):
                others = [i for i in item[user == who].tolist() if i != own]  # nobody took an item twice here
                assert [i for i in history if i >= 0] == others[-length:]


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two examples per process, got 3 for 2"):
        batches(choices().slice(0, 3), rank=0, processes=2)


def test_encoding_is_the_same_to_the_bit_whatever_the_batch() -> None:
    network = towers().float()
    whole = encode_items(network, catalogue())
    np.testing.assert_array_equal(whole, encode_items(network, catalogue(), batch=2))
    assert whole.dtype == np.float32
