"""Served scores: what they depend on and what not."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.common.contracts import Payload
from models.feed.events.table import Events
from models.feed.ranking.batches import batch_of, rows_of
from models.feed.ranking.certificate import Reference, Shape
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR, NetworkConfig
from models.feed.ranking.score import Ranker, batch_logits, carried_over
from models.feed.recounting import Log
from tests.models.feed.ranking.worlds import BLOCK, NETWORK, few_events, random_ranker, simulated

EQUAL = 1e-5
POINTWISE = replace(NETWORK, setwise=False)
ACCOMPANIED = replace(NETWORK, session_layers=1, company=2)
RATED = replace(NETWORK, rate_days=30, user_rate=True)
VARIANTS = {
    "as it is": NETWORK,
    "pointwise": POINTWISE,
    "a layer of the session": replace(NETWORK, session_layers=1),
    "two layers of the session": replace(NETWORK, session_layers=2),
    "user": replace(NETWORK, user=True),
    "linear head": replace(NETWORK, head="linear"),
    "short history": replace(NETWORK, history=3),
    "no gate": replace(NETWORK, transformer=replace(BLOCK, gate=False)),
    "no self key": replace(NETWORK, transformer=replace(BLOCK, self_key=False)),
    "no positions": replace(NETWORK, transformer=replace(BLOCK, rotary=False)),
    "window": replace(NETWORK, transformer=replace(BLOCK, window=5)),
    "company": replace(NETWORK, company=2),
    "company, a layer of the session": replace(NETWORK, company=3, session_layers=1),
    "rate": replace(NETWORK, rate_days=2),
    "rate of the user": replace(NETWORK, user_rate=True),
    "rates, a layer of the session": replace(NETWORK, rate_days=365, user_rate=True, session_layers=1),
    "one layer, one head": replace(NETWORK, transformer=replace(BLOCK, layers=1, heads=1)),
}


@pytest.fixture(scope="module")
def data() -> Payload:
    return simulated()


def shape(config: NetworkConfig) -> Shape:
    block = config.transformer
    return Shape(
        heads=block.heads,
        history=config.history,
        setwise=config.setwise,
        self_key=block.self_key,
        rotary=block.rotary,
        window=block.window,
        rate_days=config.rate_days,
        user_rate=config.user_rate,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_requests_batches_and_the_reference_say_the_same(data: Payload, name: str) -> None:
    config = VARIANTS[name]
    network, inputs = random_ranker(data, config), Inputs.of(data)
    sessions = np.arange(0, len(inputs.seen), 9)
    assert {0, 31} <= {len(inputs.history(int(one), 31)) for one in sessions}, "the first ones and cut ones"
    rows, served = Ranker(network, inputs.catalogue).logits(inputs, sessions)
    assert rows.tolist() == batch_logits(network, inputs, sessions)[0].tolist()
    np.testing.assert_allclose(batch_logits(network, inputs, sessions)[1], served, atol=EQUAL)
    weights = {key: np.asarray(value, np.float64) for key, value in network.state_dict().items()}
    reference = Reference(weights, shape(config), Log.of(data))
    wanted = np.concatenate([reference.session(int(inputs.events.session[inputs.rows(int(s))[0]])) for s in sessions])
    order = np.argsort(np.concatenate([inputs.rows(int(one)) for one in sessions]), kind="stable")
    np.testing.assert_allclose(served, wanted[order], atol=EQUAL)
    assert np.ptp(served) > 0.5, "a network that says the same of everything proves nothing"


def test_rows_of_several_sessions_say_what_single_sessions_say_when_no_history_is_cut(data: Payload) -> None:
    config = replace(NETWORK, history=500)
    network, inputs = random_ranker(data, config), Inputs.of(data)
    sessions = np.arange(len(inputs.seen))
    rows = rows_of(inputs, sessions, history=500, candidates=45)
    with torch.no_grad():
        logit = network(batch_of(inputs, rows, np.arange(len(rows)), np.ones(len(inputs.events), np.float32)))
    alone = batch_logits(network, inputs, sessions)[1]
    for place in range(len(rows)):
        shown = rows.row[rows.start[place] : rows.start[place + 1]]
        np.testing.assert_allclose(logit[place, : len(shown)], alone[shown], atol=EQUAL)


def asked(network: LiGR, inputs: Inputs, session: int, items: np.ndarray) -> np.ndarray:
    ranker, past = Ranker(network, inputs.catalogue), inputs.history(session, network.config.history)
    events = inputs.events
    cache = ranker.encode(events.item[past], events.actions[past], inputs.gap[past], inputs.hour[past])
    return ranker.rank(cache, items, gap=int(inputs.session_gap[session]), hour=5, user=3)


@pytest.mark.parametrize("config", [NETWORK, POINTWISE, ACCOMPANIED], ids=["set-wise", "pointwise", "company"])
def test_permuting_candidates_permutes_their_scores(data: Payload, config: NetworkConfig) -> None:
    network, inputs = random_ranker(data, config), Inputs.of(data)
    items, order = np.arange(17), np.random.default_rng(0).permutation(17)
    straight = asked(network, inputs, 200, items)
    np.testing.assert_allclose(asked(network, inputs, 200, items[order]), straight[order], atol=EQUAL)


def test_alone_a_candidate_scores_the_same_in_any_company_and_set_wise_it_does_not(data: Payload) -> None:
    inputs, items = Inputs.of(data), np.arange(9)
    changed = items.copy()
    changed[0] = 100
    alone = replace(POINTWISE, company=2)
    for config, depends in ((POINTWISE, False), (alone, False), (NETWORK, True), (replace(NETWORK, company=2), True)):
        network = random_ranker(data, config)
        away = np.abs(asked(network, inputs, 200, items)[1:] - asked(network, inputs, 200, changed)[1:]).max()
        assert (away > 1e-4) == depends
        assert depends or away == 0, "bit for bit"


def test_one_candidate_scores_the_same_set_wise_and_alone(data: Payload) -> None:
    inputs = Inputs.of(data)
    for item in (0, 47, 101):
        one = np.array([item])
        together, alone = (asked(random_ranker(data, config), inputs, 200, one) for config in (NETWORK, POINTWISE))
        np.testing.assert_allclose(together, alone, atol=EQUAL)


@pytest.mark.parametrize("config", [NETWORK, POINTWISE, RATED], ids=["set-wise", "pointwise", "rate"])
def test_scores_of_a_session_depend_on_nothing_from_its_beginning_on(data: Payload, config: NetworkConfig) -> None:
    """Labels of the session itself, of others at the same moment, and everything later may change."""
    inputs = Inputs.of(data)
    events, network = inputs.events, random_ranker(data, config)
    session = int(np.median(np.flatnonzero(inputs.seen > 3)))
    moment = events.time[inputs.rows(session)[0]]
    later = events.time >= moment
    actions = np.where(later[:, None], 1 - events.actions, events.actions).astype(np.float32)
    turned = Inputs.of_events(replace(events, actions=actions), "category")
    before = Ranker(network, inputs.catalogue).session(inputs, session)
    assert Ranker(network, inputs.catalogue).session(turned, session).tolist() == before.tolist()
    cut = events.take(~later | (events.session == events.session[inputs.rows(session)[0]]))
    alone = Inputs.of_events(cut, "category")
    number = int(alone.sessions_of(np.array([len(cut) - 1]))[0])
    assert Ranker(network, alone.catalogue).session(alone, number).tolist() == before.tolist()


def test_scores_depend_on_how_the_user_responded_before(data: Payload) -> None:
    inputs = Inputs.of(data)
    events, network = inputs.events, random_ranker(data)
    session = int(np.argmax(inputs.seen))
    turned = Inputs.of_events(replace(events, actions=1 - events.actions), "category")
    one, other = (Ranker(network, inputs.catalogue).session(which, session) for which in (inputs, turned))
    assert np.abs(one - other).max() > 1e-2


def test_scores_are_the_same_bits_however_many_threads_torch_uses(data: Payload) -> None:
    inputs, sessions = Inputs.of(data), np.arange(0, 200, 17)
    network, before, found = random_ranker(data), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(Ranker(network, inputs.catalogue).logits(inputs, sessions)[1])
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_session_without_history_and_an_item_without_category_have_scores(data: Payload) -> None:
    events = few_events()
    payload = {**events.payload(), "layout": {"categories": "genre"}}
    network, inputs = random_ranker(payload), Inputs.of_events(events, "genre")
    rows, logit = Ranker(network, inputs.catalogue).logits(inputs, np.arange(5))
    assert rows.tolist() == list(range(9))
    assert np.isfinite(logit).all()
    assert np.abs(logit - batch_logits(network, inputs, np.arange(5))[1]).max() < EQUAL
    assert Ranker(network, inputs.catalogue).logits(inputs, np.arange(0))[1].shape == (0, 1)


def test_gradients_are_finite_with_empty_histories_and_reach_every_weight(data: Payload) -> None:
    network, inputs = random_ranker(data, replace(NETWORK, user=True)).train(), Inputs.of(data)
    rows = rows_of(inputs, np.arange(30), history=31, candidates=30)
    batch = batch_of(inputs, rows, np.arange(len(rows)), np.ones(len(inputs.events), np.float32))
    assert 0 in batch.length.tolist()
    network(batch).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max() > 0, name


def test_a_ranker_is_carried_over_by_identifiers(data: Payload) -> None:
    old = Inputs.of(data)
    network = random_ranker(data, replace(NETWORK, user=True))
    order = np.random.default_rng(0).permutation(old.events.items)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    events = old.events
    again = Events(
        user=events.user,
        item=place[events.item].astype(np.int32),
        time=events.time,
        session=events.session,
        position=events.position,
        actions=events.actions,
        tasks=events.tasks,
        user_ids=pa.array([*events.user_ids.to_pylist(), 10_000]),
        item_ids=events.item_ids.take(pa.array(order)),
        item_attributes=events.item_attributes.take(pa.array(order)),
    )
    new = Inputs.of_events(again, "category")
    moved = carried_over(network, old, new)
    sessions = np.arange(0, len(old.seen), 17)
    one, other = (
        Ranker(ranker, inputs.catalogue).logits(inputs, sessions)[1]
        for ranker, inputs in ((network, old), (moved, new))
    )
    np.testing.assert_allclose(one, other, atol=EQUAL)
    assert moved.users is not None
    assert not moved.users.weight[-1].any(), "nobody is known of whom nothing is known"
    with pytest.raises(ValueError, match="publish the new one under another name"):
        carried_over(network, old, Inputs.of_events(few_events(), "genre"))
