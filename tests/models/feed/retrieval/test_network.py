"""Towers give unit vectors that depend on what they should and on nothing else."""

import numpy as np
import pytest
import torch

from models.feed.retrieval.network import Catalogue, TowerConfig, TwoTower, encode_items, encode_users, history_weights

USERS, ITEMS, CODES = 5, 47, 13
CONFIG = TowerConfig(dimension=6, hidden=9, dropout=0.3, forgetting=0.3)


def network(seed: int = 1, config: TowerConfig = CONFIG) -> TwoTower:
    torch.manual_seed(seed)
    made = TwoTower(users=USERS, items=ITEMS, codes=CODES, config=config)
    for tower in (made.user_tower, made.item_tower):
        torch.nn.init.normal_(tower[-1].weight, std=0.2)
    return made


def catalogue() -> Catalogue:
    generator = torch.Generator().manual_seed(7)
    weights = torch.rand((ITEMS, 3), generator=generator)
    return Catalogue(torch.randint(0, CODES, (ITEMS, 3), generator=generator), weights)


USER = np.array([0, 4, 2, -1])
HISTORY = np.array([[3, 4, 46, -1], [-1, -1, -1, -1], [1, 1, 1, 2], [3, 4, 46, -1]])


def test_vectors_are_of_length_one() -> None:
    for vectors in (encode_items(network(), catalogue()), encode_users(network(), catalogue(), USER, HISTORY)):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_the_same_seed_makes_the_same_network() -> None:
    one, same, other = (network(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["users.weight"], other["users.weight"])


def test_a_network_is_rebuilt_from_its_weights() -> None:
    weights = network(1).state_dict()
    again = network(2)
    again.load_state_dict(weights)
    np.testing.assert_array_equal(encode_items(network(1), catalogue()), encode_items(again, catalogue()))


def test_an_item_vector_depends_on_its_own_attributes_alone() -> None:
    before = encode_items(network(), catalogue())
    changed = catalogue()
    changed.codes[11] = (changed.codes[11] + 1) % CODES
    after = encode_items(network(), changed)
    assert np.flatnonzero((before != after).any(1)).tolist() == [11]


def test_the_order_and_the_padding_of_a_history_do_not_matter() -> None:
    plain = encode_users(network(), catalogue(), USER[:1], HISTORY[:1])
    mixed = encode_users(network(), catalogue(), USER[:1], np.array([[-1, 46, -1, 3, -1, 4]]))
    np.testing.assert_allclose(plain, mixed, atol=1e-7)


def test_members_are_encoded_independently_of_one_another() -> None:
    together = encode_users(network(), catalogue(), USER, HISTORY)
    one_by_one = encode_users(network(), catalogue(), USER, HISTORY, batch=1)
    np.testing.assert_array_equal(together, one_by_one)


def test_an_unknown_member_is_her_history() -> None:
    known, unknown = encode_users(network(), catalogue(), USER, HISTORY)[[0, 3]]
    assert np.abs(known - unknown).max() > 1e-3
    forgotten = network()
    torch.nn.init.zeros_(forgotten.users.weight)
    known, unknown = encode_users(forgotten, catalogue(), USER, HISTORY)[[0, 3]]
    np.testing.assert_array_equal(known, unknown)


def test_encoding_leaves_the_network_training_and_without_gradient() -> None:
    trained = network().train()
    first = encode_items(trained, catalogue())
    assert trained.training
    np.testing.assert_array_equal(first, encode_items(trained, catalogue()))
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_forgetting_drops_whole_identities_in_training_only() -> None:
    made = network(config=TowerConfig(dimension=6, hidden=9, dropout=0, forgetting=0.6)).train()
    torch.nn.init.zeros_(made.attributes.weight)
    rows = torch.arange(ITEMS)
    torch.manual_seed(0)
    inputs = made.inputs(rows, catalogue())
    forgotten = (inputs == 0).all(1)
    assert 0.3 < forgotten.float().mean() < 0.9
    kept = ~forgotten
    torch.testing.assert_close(inputs[kept], made.items.weight[kept] / 0.4)
    torch.testing.assert_close(made.eval().inputs(rows, catalogue()), made.items.weight)


def test_history_weights_share_equally_and_are_zero_for_nobody() -> None:
    expected = [[1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 0], [0.25] * 4, [1 / 3, 1 / 3, 1 / 3, 0]]
    torch.testing.assert_close(history_weights(torch.from_numpy(HISTORY)), torch.tensor(expected))


def test_the_temperature_stays_above_its_floor() -> None:
    made = network()
    with torch.no_grad():
        made.log_temperature.fill_(-100.0)
    assert made.temperature.item() == pytest.approx(0.01)


def test_a_fixed_temperature_is_not_learned() -> None:
    made = network(config=TowerConfig(temperature=0.25, learn_temperature=False))
    assert made.temperature.item() == pytest.approx(0.25)
    assert not made.log_temperature.requires_grad
