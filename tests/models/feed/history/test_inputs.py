from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.feed.events.features import FEATURES
from models.feed.history.inputs import OF_CANDIDATE, OF_REQUEST, OUTERMOST, Inputs, Past, Standard, first_seen
from tests.models.feed.history.worlds import NETWORK, simulated


@given(st.integers(0, 500), st.integers(1, 60), st.data())
def test_a_history_is_the_latest_events_from_a_multiple_of_the_stride_on(
    seen: int, history: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, history))
    first = int(first_seen(np.array([seen]), history, stride)[0])
    assert first % stride == 0
    assert first == 0 if seen <= history else history - stride < seen - first <= history


def test_the_oldest_event_that_is_seen_moves_once_in_a_stride() -> None:
    assert first_seen(np.arange(8, 17), 9, 4).tolist() == [0, 0, 4, 4, 4, 4, 8, 8, 8]


def test_a_session_sees_its_users_events_from_before_it_alone() -> None:
    inputs = Inputs.of(simulated())
    events = inputs.events
    lengths = set()
    for session in range(0, len(inputs.seen), 5):
        begin, length = inputs.span(np.array([session]), NETWORK.history, NETWORK.stride)
        past = inputs.histories.rows[begin[0] : begin[0] + length[0]]
        rows = inputs.rows(session)
        wanted = np.flatnonzero((events.user == events.user[rows[0]]) & (events.time < events.time[rows].min()))
        assert past.tolist() == wanted[len(wanted) - len(past) :].tolist()
        found = inputs.past(session, NETWORK.history, NETWORK.stride)
        assert found.item.tolist() == events.item[past].tolist()
        assert found.gap.tolist() == inputs.gap[past].tolist()
        assert np.array_equal(found.action, events.actions[past])
        lengths.add(found.length)
    assert 0 in lengths and max(lengths) <= NETWORK.history


def test_histories_between_two_moves_grow_at_their_end() -> None:
    inputs = Inputs.of(simulated())
    sessions = np.arange(len(inputs.seen))
    user = inputs.events.user[inputs.session_rows[inputs.session_start[:-1]]]
    grown = moved = 0
    for one in range(inputs.events.users):
        mine = sessions[user == one]
        mine = mine[np.argsort(inputs.seen[mine], kind="stable")]
        pasts = [inputs.past(int(session), NETWORK.history, NETWORK.stride) for session in mine]
        for before, after in pairwise(pasts):
            grown += after.begins_with(before)
            moved += not after.begins_with(before)
    assert grown > 20 and moved > 20


def test_one_past_begins_with_another_only_if_all_of_it_agrees() -> None:
    past = Past(np.array([3, 4, 5]), np.array([[1.0], [0], [1]], np.float32), np.array([0, 2, 7]))
    part = Past(past.item[:2], past.action[:2], past.gap[:2])
    assert past.begins_with(part) and past.begins_with(past) and not part.begins_with(past)
    assert past.after(2).item.tolist() == [5]
    for changed in (
        part._replace(item=np.array([3, 9])),
        part._replace(action=1 - part.action),
        part._replace(gap=np.array([1, 2])),
    ):
        assert not past.begins_with(changed)


def test_features_are_in_units_of_the_training_part_and_bounded() -> None:
    data = simulated()
    inputs = Inputs.of(data)
    train = inputs.features[data["train"]].astype(np.float64)
    inner = np.abs(train).max(0) < OUTERMOST
    assert inner.sum() > 10
    np.testing.assert_allclose(train[:, inner].mean(0), 0, atol=1e-5)
    spread = train[:, inner].std(0)
    assert set(np.round(spread, 4)) <= {0.0, 1.0}
    assert np.abs(inputs.features).max() <= OUTERMOST
    one = Standard(mean=np.array([1.0]), scale=np.array([2.0]))
    assert one(np.array([[1.0], [5.0], [-1e9], [1e9]])).ravel().tolist() == [0, 2, -OUTERMOST, OUTERMOST]
    assert Standard.of(np.full((4, 1), 3.0)).scale.tolist() == [1]


def test_features_of_a_request_are_the_same_for_all_of_its_candidates_and_the_others_are_not() -> None:
    inputs = Inputs.of(simulated())
    assert sorted(OF_REQUEST + OF_CANDIDATE) == list(range(len(FEATURES)))
    differs = np.zeros(len(FEATURES), bool)
    for session in range(len(inputs.seen)):
        differs |= np.ptp(inputs.raw[inputs.rows(session)], axis=0) > 0
    assert not differs[list(OF_REQUEST)].any()
    assert differs[list(OF_CANDIDATE)].all()


def test_features_of_another_shape_are_refused() -> None:
    data = dict(simulated())
    data["features"] = data["features"][:, :-1]
    with pytest.raises(ValueError, match="curate the data again"):
        Inputs.of(data)


def test_an_unknown_attribute_is_refused() -> None:
    data = dict(simulated())
    data["layout"] = {**data["layout"], "categories": "colour"}
    with pytest.raises(ValueError, match="item attribute must be one of"):
        Inputs.of(data)
    data["layout"] = {**data["layout"], "categories": ""}
    assert Inputs.of(data).categories == ()
    assert replace(NETWORK, stride=1).stride == 1
