import json
from dataclasses import replace

import numpy as np
import pytest

from models.common.contracts import InputError
from models.marketing.allocation.exact import matrix, solve_exactly
from models.marketing.allocation.policy import Policy
from models.marketing.allocation.program import Family, Program
from tests.models.marketing.allocation.worlds import world


def solved(program: Program, width: float = 1e-7) -> tuple[Policy, np.ndarray, np.ndarray]:
    """The policy of an optimal vertex, its shares, and net values of all pairs."""
    found = solve_exactly(program)
    pairs = np.flatnonzero(found.x > 0)
    policy = Policy.from_shares(program, found.prices, pairs, found.x[pairs], width=width)
    return policy, found.x, program.value - matrix(program).T @ found.prices


def asked(program: Program, policy: Policy, member: int) -> tuple[str, ...]:
    """One member's decision from her own numbers by name."""
    own = range(int(program.start[member]), int(program.start[member + 1]))
    name = {pair: program.offers[program.offer[pair]] for pair in own}
    weights = {
        family.name: {name[pair]: float(family.weight[pair]) for pair in own}
        for family in program.families
        if family.weight is not None
    }
    groups = {
        family.name: family.rows[family.members[member]]
        for family in program.families
        if family.members is not None and family.members[member] >= 0
    }
    return policy.decide(
        {name[pair]: float(program.value[pair]) for pair in own},
        key=program.name_of(member),
        weights=weights,
        groups=groups,
        most=int(program.most_of(np.array([member]))[0]),
    )


@pytest.mark.parametrize("most", (1.0, 2.0, "mixed"))
@pytest.mark.parametrize("seed", range(8))
def test_who_is_sure_gets_what_the_solve_gave_her(seed: int, most: float | str) -> None:
    program = world(seed, members=47, offers=6, most=most, negative=seed % 2 == 0)
    # a value of exactly zero is a tie with nothing; here all differ
    program = replace(program, value=program.value + np.random.default_rng(seed).random(program.E))
    policy, x, net = solved(program)
    given = np.zeros(program.E)
    given[policy.decide_all(program)] = 1
    unsure = 0
    for u in range(program.N):
        own = slice(int(program.start[u]), int(program.start[u + 1]))
        shares, values = x[own], np.append(net[own], 0.0)
        cap = int(program.most_of(np.array([u]))[0])
        order = np.sort(values)[::-1]
        if cap and len(values) > cap and order[cap - 1] - order[cap] < 1e-6 and order[cap - 1] > -1e-6:
            unsure += 1  # the last that she gets and the next are worth the same
            continue
        if cap and np.isclose(net[own], 0, atol=1e-6).any():
            unsure += 1
            continue
        np.testing.assert_allclose(given[own], shares, atol=1e-6)
    assert unsure <= program.K


@pytest.mark.parametrize("most", (1.0, 2.0, "mixed"))
@pytest.mark.parametrize("quantise", (0.0, 0.5))
def test_one_member_gets_alone_what_she_gets_among_all(quantise: float, most: float | str) -> None:
    program = world(5, members=60, offers=6, most=most, quantise=quantise)
    unit = tuple(replace(f, weight=None if f.weight is None else np.ones_like(f.weight)) for f in program.families)
    program = program if not quantise else replace(program, families=unit)
    policy, _, _ = solved(program) if not quantise else priced(program)
    given = policy.decide_all(program)
    for u in range(program.N):
        mine = [
            program.offers[program.offer[pair]]
            for pair in given.tolist()
            if program.member_of(np.array([pair]))[0] == u
        ]
        assert sorted(asked(program, policy, u)) == sorted(mine)


def priced(program: Program) -> tuple[Policy, np.ndarray, np.ndarray]:
    """A policy at prices at which many members are indifferent, with shares of a third of what they are tied in."""
    prices = np.zeros(program.K)
    prices[0] = 1.0
    shares = np.full(program.E, 1 / 3)
    return (
        Policy.from_shares(program, prices, np.arange(program.E), shares, width=1e-7),
        shares,
        program.value - matrix(program).T @ prices,
    )


def binned(members: int, seed: int = 0) -> Program:
    """Members with scores of three bins and a row that the middle bin must share."""
    random = np.random.default_rng(seed)
    value = random.choice([1.0, 2.0, 3.0], members, p=[0.3, 0.5, 0.2])
    sends = Family(name="sends", rows=("sends",), lower=np.array([-np.inf]), upper=np.array([0.45 * members]))
    return Program(
        start=np.arange(members + 1),
        offer=np.zeros(members, np.int16),
        value=value,
        offers=("mail",),
        families=(sends,),
        members=[f"member {u}" for u in range(members)],
    ).check()


def test_a_mass_of_equal_members_is_shared_out_and_not_all_or_none() -> None:
    program = binned(2000)
    policy, _, _ = solved(program)
    (tie,) = policy.ties
    # 45 in a hundred sends: all of the top fifth, the rest from the half in the middle
    middle = float(np.mean(program.value == 2))
    assert tie.options == ("mail",)
    assert tie.shares[0] == pytest.approx((0.45 - float(np.mean(program.value == 3))) / middle, abs=1e-6)
    others = replace(binned(20_000, seed=1), members=[f"new {u}" for u in range(20_000)])
    given = policy.decide_all(others)
    chance = np.isin(np.flatnonzero(others.value == 2), given).mean()
    deviation = np.sqrt(tie.shares[0] * (1 - tie.shares[0]) / np.sum(others.value == 2))
    assert abs(chance - tie.shares[0]) < 4 * deviation
    assert np.isin(np.flatnonzero(others.value == 3), given).all()
    assert not np.isin(np.flatnonzero(others.value == 1), given).any()


def test_another_salt_shares_out_differently_and_the_same_one_alike() -> None:
    program = binned(2000)
    policy, _, _ = solved(program)
    first, again = policy.decide_all(program), policy.decide_all(program)
    other = replace(policy, salt="another").decide_all(program)
    np.testing.assert_array_equal(first, again)
    assert len(np.setxor1d(first, other)) > 100
    order = np.random.default_rng(0).permutation(program.N)
    turned = replace(program, value=program.value[order], members=[program.members[u] for u in order])
    assert {turned.members[pair] for pair in policy.decide_all(turned)} == {program.members[pair] for pair in first}


def test_ties_that_were_never_seen_are_shared_evenly_with_nothing() -> None:
    program = binned(2000)
    policy = replace(solved(program)[0], ties=())
    middle = np.flatnonzero(program.value == 2)
    chance = np.isin(middle, policy.decide_all(program)).mean()
    assert abs(chance - 0.5) < 4 * np.sqrt(0.25 / len(middle))


def test_rows_offers_and_members_are_met_by_name_in_any_order() -> None:
    program = world(3, members=30, offers=6)
    policy, _, _ = solved(program)
    order = np.random.default_rng(1).permutation(program.M)
    place = np.argsort(order)
    families = []
    for family in reversed(program.families):
        offers = None if family.offers is None else family.offers[order]
        families.append(replace(family, offers=offers))
    turned = replace(
        program,
        offers=tuple(program.offers[i] for i in order),
        offer=place[program.offer].astype(np.int16),
        families=tuple(families),
    ).check()
    np.testing.assert_array_equal(policy.decide_all(turned), policy.decide_all(program))


def test_a_policy_survives_json() -> None:
    for program in (world(3, members=30, offers=6, quantise=0.5, most=2.0), binned(500)):
        policy = solved(program)[0]
        again = Policy.from_json(json.loads(json.dumps(policy.as_json())))
        assert again == policy
        np.testing.assert_array_equal(again.decide_all(program), policy.decide_all(program))
    with pytest.raises(InputError, match="this is no policy: 'families'"):
        Policy.from_json({"offers": []})
    with pytest.raises(InputError, match=r"this is no policy: .*unexpected keyword argument 'colour'"):
        Policy.from_json({**policy.as_json(), "colour": "blue"})


def test_unknown_names_are_refused() -> None:
    program = world(3, members=30, offers=6)
    policy = solved(program)[0]
    weights = {"spend": {"offer-0": 1.0}, "risk": {"offer-0": 1.0}, "segment": {"offer-0": 1.0}}
    assert policy.decide({"offer-0": 1e6}, key="me", weights=weights) == ("offer-0",)
    with pytest.raises(InputError, match="offer 'offer-9' is unknown here; known are offer-0, offer-1"):
        policy.decide({"offer-9": 1.0}, key="me")
    with pytest.raises(InputError, match="family 'cost' is unknown here; known are spend, risk, segment"):
        policy.decide({"offer-0": 1.0}, key="me", weights={"cost": {}})
    with pytest.raises(InputError, match="family 'segment' has no row 'z', it has a, b, c"):
        policy.decide({"offer-0": 1.0}, key="me", weights=weights, groups={"segment": "z"})
    with pytest.raises(InputError, match="offer 'offer-0' has the net value nan; give finite"):
        policy.decide({"offer-0": np.nan}, key="me", weights=weights)
    with pytest.raises(InputError, match="offer 'new' is unknown to the policy; solve with it first"):
        policy.decide_all(replace(program, offers=("new", *program.offers[1:])))
    with pytest.raises(InputError, match="the program has no family 'spend'; both must have the same"):
        policy.decide_all(replace(program, families=program.families[1:]))
    moved = replace(program.families[2], offers=(program.families[2].offers + 2) % 3)
    with pytest.raises(InputError, match=r"is in row .* of 'volume', in the policy in"):
        policy.decide_all(replace(program, families=(*program.families[:2], moved, program.families[3])))
    renamed = replace(program.families[3], rows=("a", "b", "z"))
    with pytest.raises(InputError, match="row segment/z is unknown to the policy"):
        policy.decide_all(replace(program, families=(*program.families[:3], renamed)))


def test_a_missing_weight_of_a_priced_row_is_refused() -> None:
    program = world(3, members=30, offers=6, lower=0.0, tight=0.05)
    policy = solved(program)[0]
    priced_families = [f.name for f in policy.families if f.weighted and f.by != "members" and any(f.prices.values())]
    assert priced_families
    with pytest.raises(InputError, match=f"offer 'offer-0' has no weight for '{priced_families[0]}'; give it"):
        policy.decide({"offer-0": 1.0}, key="me")


def test_a_policy_needs_whole_caps() -> None:
    program = replace(world(3), most=1.5)
    with pytest.raises(InputError, match=r"most of member '0' is 1\.5, a policy gives whole offers"):
        Policy.from_shares(program, np.zeros(program.K), np.empty(0, np.int64), np.empty(0))


def test_where_nobody_is_indifferent_everybody_gets_her_best() -> None:
    program = world(3, members=80, offers=5, density=0.5, most=1.0)
    program = replace(program, value=1.0 + np.random.default_rng(0).random(program.E))
    nothing = np.zeros(program.K)
    policy = Policy.from_shares(program, nothing, np.empty(0, np.int64), np.empty(0))
    assert policy.ties == ()
    best = [
        start + int(np.argmax(program.value[start:end]))
        for start, end in zip(program.start, program.start[1:], strict=False)
        if end > start
    ]
    assert policy.decide_all(program).tolist() == best
    nobody = program.take(np.arange(0))
    assert policy.decide_all(nobody).tolist() == []
