"""A whole campaign: arms that share no budget, both decisions logged, and an interval that covers the true lift."""

import dataclasses

import numpy as np
import pytest

from models.common.errors import InputError
from models.marketing.allocation.program import NOTHING, Program
from models.marketing.campaign import Campaign, best_pairs, ranked, run_campaign
from models.marketing.experiments import AnalysisConfig, ExperimentConfig, analyse, simulated
from models.marketing.generator import GeneratorConfig, World, generate
from models.marketing.tables import data_of, program_of

CONFIG = GeneratorConfig(members=3001, lines=3, offers=6, channels=3, seed=7)


@pytest.fixture(scope="module")
def world() -> World:
    return generate(CONFIG)


@pytest.fixture(scope="module")
def program(world: World) -> Program:
    return program_of(data_of(world))


@pytest.fixture(scope="module")
def campaign(world: World) -> Campaign:
    return run_campaign(world, share=0.3, gap=1e-4, seed=11)


def test_each_arm_keeps_within_its_share_of_every_row(campaign: Campaign, program: Program) -> None:
    for decided, inside, share in (
        (campaign.treatment, campaign.treated, 0.3),
        (campaign.control, ~campaign.treated, 0.7),
    ):
        pairs = decided[inside]
        pairs = pairs[pairs != NOTHING]
        loads = program.loads_of(pairs, np.ones(len(pairs)))
        assert (loads <= share * program.upper * (1 + 1e-12)).all()
        if share == 0.3:
            assert (loads >= share * program.lower * (1 - 1e-12)).all()


def test_both_ways_decide_for_every_member_and_only_what_she_may_get(campaign: Campaign, program: Program) -> None:
    for decided in (campaign.control, campaign.treatment):
        sent = np.flatnonzero(decided != NOTHING)
        assert 0.05 < len(sent) / program.N < 0.95
        assert np.array_equal(program.member_of(decided[sent]), sent)
        for arm in (campaign.treated, ~campaign.treated):
            assert (decided[arm] != NOTHING).mean() == pytest.approx(len(sent) / program.N, abs=0.05)


def test_the_ranking_takes_the_dearest_until_a_row_is_full(program: Program) -> None:
    everybody = np.ones(program.N, bool)
    chosen = ranked(program, everybody, 1.0)
    best = best_pairs(program)
    sent = chosen != NOTHING
    assert np.array_equal(chosen[sent], best[sent])
    left = program.value[best[~sent & (best != NOTHING)]]
    assert program.value[chosen[sent]].min() >= left.max()
    following = np.flatnonzero(~sent & (best != NOTHING))[np.argmax(left)]
    more = np.append(chosen[sent], best[following])
    assert (program.loads_of(more, np.ones(len(more))) > program.upper).any(), "there was room for one more"


def test_the_true_lift_is_that_of_the_decisions(campaign: Campaign, world: World) -> None:
    true = [
        sum(world.true_value[pair] for pair in decided if pair != NOTHING)
        for decided in (campaign.treatment, campaign.control)
    ]
    assert campaign.lift == pytest.approx((true[0] - true[1]) / 3001)
    assert campaign.lift > 0, "a plan is worth more than a ranking under the same rows"


def test_the_same_seed_is_the_same_campaign(campaign: Campaign, world: World) -> None:
    again = run_campaign(world, share=0.3, gap=1e-4, seed=11)
    for field in dataclasses.fields(Campaign):
        assert np.array_equal(getattr(again, field.name), getattr(campaign, field.name)), field.name


def test_the_true_lift_is_inside_its_interval_as_often_as_is_said() -> None:
    """30 campaigns; fewer than 24 have a chance of 8.5e-5 at 95 %. `tests/proofs/marketing_campaign.py` runs 400."""
    config = ExperimentConfig(world=GeneratorConfig(members=2000, lines=3, offers=6))
    covered, shares = 0, []
    for seed in range(30):
        world = dataclasses.replace(config.world, seed=seed)
        data = simulated(dataclasses.replace(config, world=world, seed=seed))
        metrics = analyse(data, AnalysisConfig(permutations=99)).metrics
        covered += int(metrics["covered"])
        shares.append(metrics["triggered_share"])
    assert covered >= 24
    assert 0.1 < np.mean(shares) < 0.8, "hardly anybody, or everybody, was decided otherwise"


@pytest.mark.parametrize(("share", "arm"), [(0.01, "treatment"), (0.99, "control")])
def test_an_arm_to_which_the_toss_leaves_nobody_is_named(share: float, arm: str) -> None:
    small = generate(GeneratorConfig(members=10, lines=3, offers=6))
    with pytest.raises(InputError, match=f"of 10 members the toss leaves none to the {arm}, whose share is 0.01"):
        run_campaign(small, share=share, gap=1e-3, seed=1)
