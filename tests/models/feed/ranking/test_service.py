"""The ranker in service."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from numpy.typing import NDArray

from models.common.certificate import Claim
from models.feed.events.known import Identifier
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR
from models.feed.ranking.score import Ranker
from models.feed.ranking.service import Served
from models.feed.ranking.watch import watch
from tests.models.feed.events.serving import ServedRanker, World
from tests.models.feed.ranking.worlds import CONFIG, random_ranker, simulated


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
