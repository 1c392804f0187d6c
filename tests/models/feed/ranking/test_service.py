"""The ranker in service."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.common.certificate import Claim
from models.feed.events.kept import Kept
from models.feed.events.known import Identifier, Item, Told
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR
from models.feed.ranking.score import Ranker
from models.feed.ranking.service import Served
from models.feed.ranking.watch import watch
from tests.models.feed.events.serving import ServedRanker, World
from tests.models.feed.ranking.worlds import CONFIG, NETWORK, random_ranker, simulated


@pytest.fixture(scope="module")
def world() -> World:
    data = simulated()
    inputs = Inputs.of(data)
    return World(
        data,
        lambda some, size: Served(random_ranker(data), some, cache_bytes=size),
        lambda sessions: Ranker(random_ranker(data), inputs.catalogue).logits(inputs, sessions),
    )


class TestRanker(ServedRanker):
    def past_of(self, served: Any, user: Identifier) -> Sequence[NDArray[Any]]:
        found = served._encoded.get(user)
        return tuple(found[0])


class TestRatedRanker(ServedRanker):
    """One that is told rates, of the log and of what was told."""

    @pytest.fixture(scope="class")
    @classmethod
    def world(cls) -> World:
        data, config = simulated(), replace(NETWORK, rate_days=3, user_rate=True)
        inputs = Inputs.of(data)
        return World(
            data,
            lambda some, size: Served(random_ranker(data, config), some, cache_bytes=size),
            lambda sessions: Ranker(random_ranker(data, config), inputs.catalogue).logits(inputs, sessions),
        )

    def past_of(self, served: Any, user: Identifier) -> Sequence[NDArray[Any]]:
        found = served._encoded.get(user)
        return tuple(found[0])

    def test_what_others_did_since_changes_the_rate_and_so_the_scores(self, world: World) -> None:
        served, asked = world.open(world.data, 0), world.asked(int(world.sessions[-1]))
        before = served.rank(asked, Kept(2**20)).logit
        told, item = Kept(2**20), asked.candidates[0]
        for place in range(30):
            told.add(f"stranger {place}", [Told(item, asked.time - 1 - place, {"click": 1.0})])
        after = served.rank(asked, told).logit
        assert np.abs(after - before)[0, 0] > 0.1
        later = Kept(2**20)
        later.add("stranger", [Told(item, asked.time, {"click": 1.0})])
        assert np.array_equal(served.rank(asked, later).logit, before), "nothing of the same second counts"

    def test_the_user_s_rate_is_that_of_a_history_that_is_given(self, world: World) -> None:
        served, asked = world.open(world.data, 0), world.asked(int(world.sessions[-1]))
        rows = np.flatnonzero(world.events.user == world.events.user[world.of(int(world.sessions[-1]))[0]])
        past = tuple(world.told(int(row)) for row in rows if world.events.time[row] < asked.time)
        assert len(past) > 3
        given = served.rank(asked._replace(user=None, history=past), Kept(2**20)).logit
        np.testing.assert_allclose(given, served.rank(asked, Kept(2**20)).logit, atol=1e-6)

    def test_an_unknown_user_has_the_rate_of_what_was_told_of_her(self, world: World) -> None:
        served, asked = world.open(world.data, 0), world.asked(int(world.sessions[-1]))
        told, asked = Kept(2**20), asked._replace(user="nobody")
        past = [Told(item, asked.time - 9 - place, {"click": 1.0}) for place, item in enumerate(asked.candidates)]
        told.add("nobody", past)
        after = served.rank(asked, told).logit
        given = served.rank(asked._replace(user=None, history=tuple(past)), told).logit
        np.testing.assert_allclose(after, given, atol=1e-6)

    def test_an_unknown_item_has_the_rate_of_what_was_told_of_it(self, world: World) -> None:
        served, asked = world.open(world.data, 0), world.asked(int(world.sessions[-1]))
        new, other = Item("new", ("category 001",)), Item("newer", ("category 001",))
        asked = asked._replace(candidates=(new, other))
        told = Kept(2**20)
        told.add("stranger", [Told(new, asked.time - 5 - place, {"click": 1.0}) for place in range(9)])
        first, second = served.rank(asked, told).logit[:, 0]
        assert abs(first - second) > 0.01
        first, second = served.rank(asked, Kept(2**20)).logit[:, 0]
        assert first == pytest.approx(second, abs=1e-6)


def test_a_watch_refuses_chances_that_are_not_those_of_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated()
    settings = replace(CONFIG.judgement, sessions=2)

    def claim(name: str) -> Claim:
        (found,) = (one for one in watch(data, random_ranker(data), settings).certificate.claims if one.name == name)
        return found

    assert claim("chance_error").holds
    assert claim("calibration_disorder").holds
    assert claim("auc_low").limit == 0.5
    whole = LiGR.chances
    monkeypatch.setattr(LiGR, "chances", lambda network, logit: whole(network, logit) / 2)
    halved = claim("chance_error")
    assert not halved.holds
    assert halved.value > 0.01
    monkeypatch.setattr(LiGR, "chances", lambda network, logit: whole(network, -logit))
    assert not claim("calibration_disorder").holds
