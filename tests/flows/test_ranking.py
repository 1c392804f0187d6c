"""The ranking flow, whole."""

import dataclasses
from typing import Any

import pytest

from flows.ranking import train_ranker
from infra.refs import Model
from infra.store import open_store
from models.feed.ranking.config import (
    DataConfig,
    JudgementConfig,
    NetworkConfig,
    RankerConfig,
    RankingConfig,
    TransformerConfig,
)
from tests.flows.impressions import FEED, TRAINING, FlowOfImpressions, System


class TestRanking(FlowOfImpressions):
    system = System(
        flow=train_ranker,
        learner="ranker",
        config=RankingConfig(
            data=DataConfig(name="flow-test", simulator=FEED),
            ranker=RankerConfig(
                architecture=NetworkConfig(
                    transformer=TransformerConfig(width=12, heads=2, layers=2, multiplier=2), item_width=10, history=31
                ),
                training=TRAINING,
            ),
            judgement=JudgementConfig(sessions=8, margin=1.0, calibration=1.0, resamples=100),
        ),
    )

    def test_a_baseline_is_measured_beside_what_is_live_and_refused(self, first: Any) -> None:
        before = open_store().live(Model, self.system.product)
        baseline = dataclasses.replace(
            self.config,
            ranker=dataclasses.replace(self.config.ranker, model="logistic"),
            gate=dataclasses.replace(self.config.gate, margin=1.0),
        )
        state = self.run(baseline)
        assert state.name == "Refused"
        assert "baseline_model = 1" in str(state.message)
        assert "never goes live" in str(state.message)
        assert self.judged().params["model"] == "logistic"
        metrics = self.judged().metrics
        assert metrics["gain_over_champion"] == pytest.approx(metrics["auc"] - metrics["auc_champion"], abs=1e-12)
        assert open_store().live(Model, self.system.product) == before
