"""The scorer in service."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from numpy.typing import NDArray

from models.common.certificate import Claim
from models.feed.events.known import Identifier
from models.feed.history.inputs import Inputs
from models.feed.history.network import DLRM
from models.feed.history.score import Scorer
from models.feed.history.service import Served
from models.feed.history.watch import watch
from tests.models.feed.events.serving import ServedRanker, World
from tests.models.feed.history.worlds import CONFIG, random_scorer, simulated


@pytest.fixture(scope="module")
def world() -> World:
    data = simulated()
    inputs = Inputs.of(data)
    return World(
        data,
        lambda some, size: Served(random_scorer(data), some, cache_bytes=size),
        lambda sessions: Scorer(random_scorer(data), inputs.catalogue).logits(inputs, sessions),
    )


class TestScorer(ServedRanker):
    def past_of(self, served: Any, user: Identifier) -> Sequence[NDArray[Any]]:
        found = served._scorer.histories.get(served.known.user(user))
        return tuple(found.past)


def test_a_watch_refuses_chances_that_are_not_those_of_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated()

    def claim() -> Claim:
        claims = watch(data, random_scorer(data), replace(CONFIG.judgement, sessions=2)).certificate.claims
        (found,) = (one for one in claims if one.name == "chance_error")
        return found

    assert claim().holds
    whole = DLRM.chances
    monkeypatch.setattr(DLRM, "chances", lambda network, logit: whole(network, logit) / 2)
    assert not claim().holds
