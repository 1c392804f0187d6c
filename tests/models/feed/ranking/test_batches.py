from dataclasses import replace

import numpy as np
import pytest
import torch

from models.feed.ranking.batches import SessionBatches, batch_of, candidate_weights, rows_of
from models.feed.ranking.inputs import Inputs
from tests.models.feed.ranking.worlds import few_events, simulated


def test_a_row_holds_several_sessions_after_one_history() -> None:
    inputs = Inputs.of_events(few_events(), "genre")
    rows = rows_of(inputs, np.arange(5), history=9, candidates=5)
    assert rows.user.tolist() == [0, 1]
    assert rows.length.tolist() == [3, 3]
    assert rows.row.tolist() == [0, 1, 3, 4, 5, 2, 6, 7, 8]
    assert rows.seen.tolist() == [0, 0, 0, 3, 3, 0, 1, 1, 3]
    batch = batch_of(inputs, rows, np.array([1, 0]), np.arange(9, dtype=np.float32))
    assert batch.event_item.tolist() == [[1, 2, 0], [0, 1, 2]]
    assert batch.event_action.squeeze(-1).tolist() == [[1, 0, 1], [1, 0, 1]]
    assert batch.item.tolist() == [[1, 2, 0, 3, 0], [0, 1, 2, 0, 3]]
    assert batch.weight.tolist() == [[2, 6, 7, 8, 0], [0, 1, 3, 4, 5]]
    assert batch.gap.tolist() == [[0, 14, 14, 14, 0], [0, 0, 0, 13, 13]]
    assert batch.user.tolist() == [1, 0]
    assert len(set(batch.session[0].tolist())) == 4, "padding has a session of its own"


@pytest.mark.parametrize(("candidates", "count"), [(0, 5), (3, 4), (4, 3), (100, 2)])
def test_rows_fill_up_to_the_wanted_number_of_candidates(candidates: int, count: int) -> None:
    inputs = Inputs.of_events(few_events(), "genre")
    rows = rows_of(inputs, np.arange(5), history=9, candidates=candidates)
    assert len(rows) == count
    assert sorted(rows.row.tolist()) == list(range(9))


def test_a_long_history_is_cut_at_the_first_session_of_its_row() -> None:
    inputs = Inputs.of_events(few_events(), "genre")
    rows = rows_of(inputs, np.arange(5), history=1, candidates=0)
    for place in range(len(rows)):
        session = int(rows.session[rows.start[place]])
        past = inputs.histories.rows[rows.begin[place] : rows.begin[place] + rows.length[place]]
        assert past.tolist() == inputs.history(session, 1).tolist()


def test_no_label_of_a_session_and_nothing_after_it_is_among_the_events_that_it_sees() -> None:
    inputs = Inputs.of(simulated())
    events = inputs.events
    rows = rows_of(inputs, inputs.sessions_of(np.arange(len(events))), history=31, candidates=40)
    for place in range(len(rows)):
        past = inputs.histories.rows[rows.begin[place] : rows.begin[place] + rows.length[place]]
        for at in range(rows.start[place], rows.start[place + 1]):
            seen = past[: rows.seen[at]]
            assert (events.time[seen] < events.began[rows.row[at]]).all()
            assert (events.user[seen] == events.user[rows.row[at]]).all()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epoch_is_the_same_rows_whatever_the_number_of_processes(processes: int) -> None:
    inputs = Inputs.of(simulated())
    rows = rows_of(inputs, inputs.sessions_of(np.arange(len(inputs.events))), history=31, candidates=20)
    weight = np.ones(len(inputs.events), np.float32)
    shares = [
        SessionBatches(inputs, rows, weight, batch_size=6, seed=3, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    for epoch in (0, 1):
        parts = [list(share.epoch(epoch)) for share in shares]
        assert {len(part) for part in parts} == {len(rows) // 6}
        whole = list(SessionBatches(inputs, rows, weight, batch_size=6, seed=3).epoch(epoch))
        for step, batch in enumerate(whole):
            users = sorted(user for part in parts for user in part[step].user.tolist())
            assert users == sorted(batch.user.tolist())


def test_the_order_follows_from_seed_and_epoch_alone_and_batches_are_of_like_length() -> None:
    inputs = Inputs.of(simulated())
    rows = rows_of(inputs, inputs.sessions_of(np.arange(len(inputs.events))), history=31, candidates=20)
    weight = np.ones(len(inputs.events), np.float32)
    batches = SessionBatches(inputs, rows, weight, batch_size=5, seed=3)
    assert batches.order(1).tolist() == SessionBatches(inputs, rows, weight, batch_size=5, seed=3).order(1).tolist()
    assert batches.order(1).tolist() != batches.order(0).tolist()
    assert batches.order(1).tolist() != SessionBatches(inputs, rows, weight, batch_size=5, seed=4).order(1).tolist()
    order = batches.order(0)
    assert len(np.unique(order)) == order.size
    cost = rows.length + np.diff(rows.start)
    shuffled = np.random.default_rng(0).permutation(order.ravel()).reshape(order.shape)
    assert np.ptp(cost[order], axis=1).mean() < 0.5 * np.ptp(cost[shuffled], axis=1).mean()


def test_later_events_weigh_more_by_their_half_lives() -> None:
    inputs = Inputs.of_events(few_events(), "genre")
    train = np.array([0, 3, 4, 5, 6])  # times 0, 100, 7200, 7200, 9000; ann's numbers 0, 2, 3, 4, bob's 1
    by_time = candidate_weights(inputs, train, recency_days=9000 / 86_400, position=0)
    assert by_time[[0, 6]].tolist() == pytest.approx([0.5, 1.0])
    assert by_time[[1, 2, 7, 8]].tolist() == [0, 0, 0, 0]
    by_place = candidate_weights(inputs, train, recency_days=0, position=4)
    assert by_place[train].tolist() == pytest.approx([0.5, 2**-0.5, 2**-0.25, 1, 1])


def test_fewer_rows_than_processes_are_refused() -> None:
    inputs = Inputs.of_events(few_events(), "genre")
    rows = rows_of(inputs, np.arange(5), history=9, candidates=99)
    with pytest.raises(ValueError, match="at least one row per process, got 2 for 3"):
        SessionBatches(inputs, rows, np.ones(9, np.float32), batch_size=6, seed=0, processes=3)


def test_a_batch_is_made_of_the_types_that_the_network_takes() -> None:
    inputs = Inputs.of_events(replace(few_events()), "genre")
    rows = rows_of(inputs, np.arange(5), history=9, candidates=5)
    batch = batch_of(inputs, rows, np.arange(2), np.ones(9, np.float32))
    for name, value in batch._asdict().items():
        if name not in ("catalogue", "total"):
            real = name in ("event_action", "label", "weight", "counts")
            assert value.dtype == (torch.float32 if real else torch.int64), name
