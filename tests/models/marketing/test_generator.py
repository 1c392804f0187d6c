"""The generated world: its truth is what is said, what members do follows it, and the same seed is the same world."""

import dataclasses

import numpy as np
import pytest

from models.marketing.generator import GeneratorConfig, World, generate, past, simulate
from models.marketing.tables import generated, program_of

CONFIG = GeneratorConfig(members=613, offers=11, lines=3, channels=4, segments=4, density=0.37, seed=5)


@pytest.fixture(scope="module")
def world() -> World:
    return generate(CONFIG)


def test_the_same_configuration_is_the_same_world_and_another_seed_another(world: World) -> None:
    again, other = generate(CONFIG), generate(dataclasses.replace(CONFIG, seed=6))
    for field in dataclasses.fields(World):
        one, two = getattr(world, field.name), getattr(again, field.name)
        assert one.equals(two) if hasattr(one, "equals") else np.array_equal(one, two), field.name
    assert not np.array_equal(world.value, other.value)


def test_every_member_may_get_an_offer_and_none_twice(world: World) -> None:
    assert np.diff(world.start).min() >= 1
    assert world.start[-1] == len(world.offer) == len(world.value)
    for begin, end in zip(world.start[:-1], world.start[1:], strict=True):
        assert (np.diff(world.offer[begin:end]) > 0).all()
    assert world.offers.num_rows == len(set(world.offers["offer"].to_pylist())) == 11


def test_a_member_whom_all_coins_would_leave_without_an_offer_has_one() -> None:
    sparse = generate(dataclasses.replace(CONFIG, density=1e-9))
    assert np.array_equal(np.diff(sparse.start), np.ones(613))


def test_chances_are_chances_and_some_offers_do_harm(world: World) -> None:
    for chances in (world.organic, world.lifted, world.true_risk, world.reach):
        assert (chances > 0).all()
        assert (chances < 1).all()
    harm = (world.true_value < 0).mean()
    assert 0.02 < harm < 0.6


def test_estimates_are_off_by_the_error_that_was_asked_for_and_exact_without(world: World) -> None:
    ratio = np.log(world.value / world.true_value)
    assert np.std(ratio) == pytest.approx(CONFIG.error, rel=0.1)
    exact = generate(dataclasses.replace(CONFIG, error=0.0))
    np.testing.assert_allclose(exact.value, exact.true_value, rtol=1e-6)
    np.testing.assert_allclose(exact.risk, exact.true_risk, rtol=1e-6)


def test_what_members_spend_has_the_mean_that_truth_says(world: World) -> None:
    """Mean over 400 rounds against the true value, within 4 standard errors."""
    choice = world.start[:-1].copy()
    expected = world.organic_value.sum() + world.true_value[choice].sum()
    totals = [simulate(world, choice, np.random.default_rng(seed)).spend.sum() for seed in range(400)]
    error = np.std(totals, ddof=1) / 20
    assert abs(np.mean(totals) - expected) < 4 * error
    assert error < 0.05 * expected, "the check above would pass with anything"


def test_who_gets_nothing_costs_nothing_and_leaves_nothing(world: World) -> None:
    outcome = simulate(world, np.full(613, -1), np.random.default_rng(1))
    assert outcome.cost == 0
    assert not outcome.arrived.any()
    assert not outcome.unsubscribed.any()
    assert 0 < (outcome.spend > 0).sum() < 613
    assert np.array_equal(outcome.spend > 0, ~np.isnan(outcome.delay))
    assert np.array_equal(outcome.lines.sum(1), outcome.spend)


def test_spend_has_many_zeros_and_a_heavy_tail() -> None:
    big = generate(dataclasses.replace(CONFIG, members=20_000))
    spend = simulate(big, np.full(20_000, -1), np.random.default_rng(0)).spend
    assert (spend == 0).mean() > 0.7
    above = spend[spend > 0]
    assert above.mean() > 1.5 * np.median(above)


def test_the_past_was_decided_by_the_chances_that_it_says(world: World) -> None:
    sent = np.zeros(len(world.offer))
    rounds = 300
    for seed in range(rounds):
        choice, outcome = past(world, np.random.default_rng(seed))
        np.add.at(sent, choice[choice >= 0], 1)
        assert not outcome.arrived[choice < 0].any()
    chance = 0.5 / np.repeat(np.diff(world.start), np.diff(world.start))
    z = (sent - rounds * chance) / np.sqrt(rounds * chance * (1 - chance))
    assert np.abs(z.mean()) < 4 / np.sqrt(len(z))
    assert z.std() == pytest.approx(1.0, abs=0.1)


def test_rows_have_both_bounds_and_follow_the_world(world: World) -> None:
    rows = {f"{row['family']}/{row['row']}": row for row in world.rows.to_pylist()}
    assert rows["volume/plus"]["lower"] == pytest.approx(0.05 * 613)
    assert rows["volume/plus"]["upper"] == pytest.approx(0.25 * 613)
    assert rows["spend/"]["lower"] is None
    segments = world.members["segment"].to_pylist()
    for name in set(segments):
        assert rows[f"segment/{name}"]["upper"] == pytest.approx(0.85 * segments.count(name))


def test_bounds_that_cannot_hold_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"least_volume must be at most most_volume, got 0.5 and 0.25"):
        GeneratorConfig(least_volume=0.5)
    with pytest.raises(ValueError, match=r"GeneratorConfig.members must be at least 10, got 3"):
        GeneratorConfig(members=3)


def test_few_members_may_leave_segments_empty_and_these_have_no_row() -> None:
    config = GeneratorConfig(members=10, segments=8, seed=0)
    world = generate(config)
    held = set(world.members["segment"].to_pylist())
    assert len(held) < 8
    rows = [row for row in world.rows.to_pylist() if row["family"] == "segment"]
    assert {row["row"] for row in rows} == held
    assert sum(row["upper"] for row in rows) == pytest.approx(config.segment_share * 10)
    assert program_of(generated(config)).N == 10


def test_offers_of_one_line_and_channel_are_numbered() -> None:
    names = generate(GeneratorConfig(members=10, offers=9, lines=2, channels=2)).offers["offer"].to_pylist()
    assert names[:5] == ["starter-email", "plus-push", "starter-push", "plus-email", "starter-email-2"]
    assert len(set(names)) == 9
