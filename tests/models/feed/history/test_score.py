"""Served scores: what they depend on and what not, and what is kept between requests."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.common.contracts import Payload
from models.feed.events.features import PastCounts
from models.feed.events.table import Events
from models.feed.history.certificate import Reference, Shape
from models.feed.history.inputs import Inputs, Past
from models.feed.history.network import DLRM, NetworkConfig
from models.feed.history.score import Scorer, appended_logits, batch_logits, carried_over
from models.feed.recounting import Log
from tests.models.feed.history.worlds import VARIANTS, random_scorer, simulated

EQUAL = 1e-6
"""Between chances of two ways in float32."""


@pytest.fixture(scope="module")
def data() -> Payload:
    return simulated()


def chances(logit: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logit.astype(np.float64))))


def shape(config: NetworkConfig) -> Shape:
    return Shape(
        form=config.form,
        heads=config.transformer.heads,
        rotary=config.transformer.rotary,
        history=config.history,
        stride=config.stride,
        last=config.last,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_requests_batches_lone_candidates_and_the_reference_say_the_same(data: Payload, name: str) -> None:
    config = VARIANTS[name]
    network, inputs = random_scorer(data, config), Inputs.of(data)
    sessions = np.arange(0, len(inputs.seen), 23)
    assert 0 in inputs.seen[sessions] and inputs.seen[sessions].max() > config.history
    rows, served = Scorer(network, inputs.catalogue).logits(inputs, sessions)
    for way in (batch_logits, appended_logits):
        found, logit = way(network, inputs, sessions)
        assert rows.tolist() == found.tolist()
        np.testing.assert_allclose(chances(logit), chances(served), atol=EQUAL)
    weights = {key: np.asarray(value, np.float64) for key, value in network.state_dict().items()}
    reference = Reference(weights, shape(config), Log.of(data), data)
    some = sessions[::4]
    wanted = np.concatenate([reference.session(int(inputs.events.session[inputs.rows(int(s))[0]])) for s in some])
    place = np.searchsorted(rows, np.concatenate([inputs.rows(int(s)) for s in some]))
    np.testing.assert_allclose(served[place], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["append", "append with self key", "concat"])
def test_a_candidates_score_does_not_depend_on_the_others_or_their_order(data: Payload, form: str) -> None:
    inputs = Inputs.of(data)
    scorer = Scorer(random_scorer(data, VARIANTS[form]), inputs.catalogue)
    session = int(np.argmax(inputs.seen))
    past, rows = inputs.past(session, 31, 7), inputs.rows(session)
    item, raw, user = inputs.events.item[rows], inputs.raw[rows], int(inputs.events.user[rows[0]])
    whole = scorer.score(user, past, item, raw)
    order = np.random.default_rng(0).permutation(len(rows))
    for some in (order, order[3:4], order[:7]):
        found = scorer.score(user, past, item[some], raw[some])
        np.testing.assert_allclose(chances(found), chances(whole[some]), atol=EQUAL)
    twice = np.array([2, 2])
    same = scorer.score(user, past, item[twice], raw[twice])
    np.testing.assert_allclose(chances(same), chances(whole[twice]), atol=EQUAL)


def test_scores_depend_on_what_the_user_did_and_on_its_order(data: Payload) -> None:
    inputs = Inputs.of(data)
    scorer = Scorer(random_scorer(data), inputs.catalogue)
    session = int(np.argmax(inputs.seen))
    past, rows = inputs.past(session, 31, 7), inputs.rows(session)
    item, raw = inputs.events.item[rows], inputs.raw[rows]
    right = scorer.score(0, past, item, raw)
    for other in (
        past._replace(action=1 - past.action),
        past._replace(gap=past.gap[::-1].copy()),
        Past(past.item[::-1].copy(), past.action[::-1].copy(), past.gap[::-1].copy()),
        past.after(1),
    ):
        assert np.abs(scorer.score(0, other, item, raw) - right).max() > 1e-4
    assert np.abs(scorer.score(1, past, item, raw) - right).max() > 1e-4


def test_a_request_finds_the_history_extends_it_or_computes_it(data: Payload) -> None:
    inputs = Inputs.of(data)
    network = random_scorer(data)
    scorer, fresh = Scorer(network, inputs.catalogue), Scorer(network, inputs.catalogue, cache_bytes=0)
    session = int(np.argmax(inputs.seen))
    past, rows = inputs.past(session, 31, 7), inputs.rows(session)
    item, raw = inputs.events.item[rows], inputs.raw[rows]
    steps = [
        (Past(past.item[:5], past.action[:5], past.gap[:5]), (0, 0, 1)),
        (Past(past.item[:6], past.action[:6], past.gap[:6]), (0, 1, 1)),
        (past, (0, 2, 1)),
        (past, (1, 2, 1)),
        (past.after(7), (1, 2, 2)),
    ]
    for given, counted in steps:
        found = scorer.score(4, given, item, raw)
        counts = scorer.histories.counts
        assert (counts.hits, counts.extended, counts.misses) == counted
        assert found.tobytes() == fresh.score(4, given, item, raw).tobytes(), "kept or not, the same bits"
    assert scorer.histories.counts.hit_rate == 3 / 5
    assert fresh.histories.counts.misses == 5 and len(fresh.histories) == 0 and fresh.histories.nbytes == 0


def test_histories_stay_within_their_bytes_and_the_least_recent_goes_first(data: Payload) -> None:
    inputs = Inputs.of(data)
    scorer = Scorer(random_scorer(data), inputs.catalogue)
    session = int(np.argmax(inputs.seen))
    past, rows = inputs.past(session, 31, 7), inputs.rows(session)
    item, raw = inputs.events.item[rows], inputs.raw[rows]
    scorer.score(0, past, item, raw)
    each = scorer.histories.nbytes
    assert each > past.length * 2 * 2 * 12 * 4, "keys and values of two layers at least"
    scorer.histories.size = 3 * each + each // 2
    for user in (1, 2, 0, 3):  # 0 is asked again, so that 1 is the least recent when 3 comes
        scorer.score(user, past, item, raw)
    assert len(scorer.histories) == 3 and scorer.histories.nbytes == 3 * each
    assert scorer.histories.counts.evicted == 1
    assert scorer.histories.get(1) is None and scorer.histories.get(0) is not None
    scorer.histories.size = each - 1
    scorer.score(7, past, item, raw)
    assert scorer.histories.get(7) is None, "what is too large for itself is not kept"


def test_served_features_are_those_of_training_when_counted_at_the_moment_of_the_request(data: Payload) -> None:
    inputs = Inputs.of(data)
    scorer = Scorer(random_scorer(data), inputs.catalogue)
    counts = PastCounts(inputs.events, "category")
    for session in range(0, len(inputs.seen), 61):
        rows = inputs.rows(session)
        events = inputs.events
        live = counts.at(events.user[rows], events.item[rows], np.full(len(rows), events.time[rows].min()))
        past = inputs.past(session, 31, 7)
        served = scorer.score(int(events.user[rows[0]]), past, events.item[rows], live)
        assert served.tobytes() == scorer.session(inputs, session).tobytes()


def test_a_request_without_candidates_is_empty_and_one_without_enough_features_refused(data: Payload) -> None:
    inputs = Inputs.of(data)
    scorer = Scorer(random_scorer(data), inputs.catalogue)
    past = inputs.past(0, 31, 7)
    assert scorer.score(0, past, np.zeros(0, np.int64), np.zeros((0, inputs.raw.shape[1]))).shape == (0, 2)
    with pytest.raises(ValueError, match=r"features must be of shape \(3, 23\), got \(2, 23\)"):
        scorer.score(0, past, np.arange(3), inputs.raw[:2])


def test_a_scorer_is_carried_over_by_identifiers(data: Payload) -> None:
    inputs = Inputs.of(data)
    network = random_scorer(data)
    events = inputs.events
    turn = np.random.default_rng(0).permutation(events.items)
    place = np.argsort(turn)
    moved = Events(
        **{name: getattr(events, name) for name in ("user", "time", "session", "position", "actions", "tasks")},
        item=place[events.item].astype(np.int32),
        user_ids=events.user_ids,
        item_ids=events.item_ids.take(pa.array(turn)),
        item_attributes=events.item_attributes.take(pa.array(turn)),
    )
    other = Inputs.of({**data, **moved.payload()})
    sessions = np.arange(0, len(inputs.seen), 19)
    carried = carried_over(network, inputs, other)
    assert isinstance(carried, DLRM)
    np.testing.assert_allclose(
        batch_logits(carried, other, sessions)[1], batch_logits(network, inputs, sessions)[1], atol=1e-5
    )
    foreign = replace(other, events=replace(other.events, item_ids=pa.array(np.arange(events.items) + 10_000)))
    assert not carried_over(network, inputs, foreign).items.weight.any()
    with pytest.raises(ValueError, match="publish the new one under another name"):
        carried_over(network, inputs, replace(other, events=replace(other.events, tasks=("click", "share"))))


def test_scores_are_the_same_bits_however_many_threads_torch_uses(data: Payload) -> None:
    inputs, sessions = Inputs.of(data), np.arange(0, 200, 17)
    network, before, found = random_scorer(data), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(Scorer(network, inputs.catalogue).logits(inputs, sessions)[1])
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
