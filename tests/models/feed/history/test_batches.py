import numpy as np
import pytest
import torch

from models.feed.history.batches import SessionBatches, batch_of
from models.feed.history.inputs import Inputs
from tests.models.feed.history.worlds import NETWORK, simulated


def test_a_batch_holds_sessions_their_histories_and_their_features() -> None:
    inputs = Inputs.of(simulated())
    sessions = np.array([250, 3, 120])
    batch = batch_of(inputs, sessions, NETWORK)
    for place, session in enumerate(sessions):
        past, rows = inputs.past(int(session), NETWORK.history, NETWORK.stride), inputs.rows(int(session))
        assert batch.length[place] == past.length
        assert batch.event_item[place, : past.length].tolist() == past.item.tolist()
        assert batch.event_gap[place, : past.length].tolist() == past.gap.tolist()
        assert batch.event_action[place, : past.length].tolist() == past.action.tolist()
        assert not batch.event_action[place, past.length :].any()
        assert batch.user[place] == inputs.events.user[rows[0]]
        assert batch.item[place, : len(rows)].tolist() == inputs.events.item[rows].tolist()
        assert batch.label[place, : len(rows)].tolist() == inputs.events.actions[rows].tolist()
        assert np.array_equal(batch.feature[place, : len(rows)], inputs.features[rows])
        assert batch.weight[place].sum() == len(rows)
    alone = batch_of(inputs, sessions[[0, 0]], NETWORK, rows=inputs.rows(250)[[4, 1]])
    assert alone.item.tolist() == [[int(inputs.events.item[row])] for row in inputs.rows(250)[[4, 1]]]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epoch_is_the_same_sessions_whatever_the_number_of_processes(processes: int) -> None:
    inputs = Inputs.of(simulated())
    sessions = inputs.sessions_of(simulated()["train"])
    shares = [
        SessionBatches(inputs, sessions, NETWORK, batch_size=6, seed=3, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    assert {len(share) for share in shares} == {len(sessions) // 6}
    whole = list(SessionBatches(inputs, sessions, NETWORK, batch_size=6, seed=3).epoch(1))
    parts = [list(share.epoch(1)) for share in shares]
    for step, batch in enumerate(whole):
        labels = torch.cat([part[step].label.flatten(1) for part in parts])
        assert sorted(labels.tolist()) == sorted(batch.label.flatten(1).tolist())


def test_the_order_follows_from_seed_and_epoch_alone_and_batches_are_of_like_length() -> None:
    inputs = Inputs.of(simulated())
    sessions = inputs.sessions_of(simulated()["train"])
    batches = SessionBatches(inputs, sessions, NETWORK, batch_size=5, seed=3)
    again = SessionBatches(inputs, sessions, NETWORK, batch_size=5, seed=3)
    other = SessionBatches(inputs, sessions, NETWORK, batch_size=5, seed=4)
    assert batches.order(1).tolist() == again.order(1).tolist()
    assert batches.order(1).tolist() != batches.order(0).tolist()
    assert batches.order(1).tolist() != other.order(1).tolist()
    order = batches.order(0)
    assert len(np.unique(order)) == order.size and set(order.ravel()) <= set(sessions)
    length = np.minimum(inputs.seen, NETWORK.history)
    mixed = np.random.default_rng(0).permutation(order.ravel()).reshape(order.shape)
    assert np.ptp(length[order], axis=1).mean() < 0.5 * np.ptp(length[mixed], axis=1).mean()


def test_fewer_sessions_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one session per process, got 2 for 3"):
        SessionBatches(Inputs.of(simulated()), np.arange(2), NETWORK, batch_size=6, seed=0, processes=3)
