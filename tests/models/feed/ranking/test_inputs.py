import numpy as np
import pytest

from models.feed.events.catalogue import GAPS, gap_codes
from models.feed.ranking.inputs import Inputs
from tests.models.feed.ranking.worlds import few_events, simulated


def test_a_history_is_what_the_user_did_strictly_before_the_session() -> None:
    inputs = Inputs.of_events(few_events(), "genre")
    sessions = {tuple(inputs.rows(one).tolist()): one for one in range(len(inputs.seen))}
    assert set(sessions) == {(0, 1, 3), (4, 5), (2,), (6, 7), (8,)}
    expected = {(0, 1, 3): [], (4, 5): [0, 1, 3], (2,): [], (6, 7): [2], (8,): [2, 6, 7]}
    for rows, past in expected.items():
        assert inputs.history(sessions[rows], 9).tolist() == past
        assert inputs.seen[sessions[rows]] == len(past)
        assert inputs.history(sessions[rows], 2).tolist() == past[-2:]


def test_gaps_count_doublings_of_the_time_since_the_event_before() -> None:
    inputs = Inputs.of_events(few_events(), "")
    # 1 + floor(log2(1 + s)): 0 s -> 1, 100 s -> 7, 7,100 s -> 13, 8,950 s -> 14, 11,000 s -> 14; none -> 0
    assert inputs.gap.tolist() == [0, 1, 0, 7, 13, 1, 14, 1, 14]
    assert [int(inputs.session_gap[one]) for one in inputs.sessions_of(np.array([4, 6, 8]))] == [13, 14, 14]
    assert gap_codes(np.array([0, 1, 2, 3, 2**38 - 1, 2**38, 2**50])).tolist() == [1, 2, 2, 3, GAPS - 1, 39, 39]
    assert inputs.hour.tolist() == [0, 0, 0, 0, 2, 2, 2, 2, 5]


def test_categories_of_an_item_weigh_one_together() -> None:
    inputs = Inputs.of_events(few_events(), "genre")
    assert inputs.categories == ("x", "y")
    assert inputs.catalogue.codes.tolist() == [[0, 0], [0, 1], [0, 0], [1, 0]]
    assert inputs.catalogue.weights.tolist() == [[1, 0], [0.5, 0.5], [0, 0], [1, 0]]
    assert Inputs.of_events(few_events(), "").catalogue.codes.shape == (4, 0)
    with pytest.raises(ValueError, match="item attribute must be one of"):
        Inputs.of_events(few_events(), "colour")


def test_sessions_of_rows_are_whole_and_each_once() -> None:
    data = simulated()
    inputs = Inputs.of(data)
    for part in ("train", "validation", "test"):
        sessions = inputs.sessions_of(data[part])
        rows = np.concatenate([inputs.rows(int(one)) for one in sessions])
        assert np.sort(rows).tolist() == np.sort(data[part]).tolist()
