"""The history flow, whole."""

from flows.history import train_history_scorer
from models.feed.history.config import (
    DataConfig,
    HistoryConfig,
    JudgementConfig,
    NetworkConfig,
    ScorerConfig,
    TransformerConfig,
)
from tests.flows.impressions import FEED, TRAINING, FlowOfImpressions, System


class TestHistory(FlowOfImpressions):
    system = System(
        flow=train_history_scorer,
        learner="scorer",
        config=HistoryConfig(
            data=DataConfig(name="flow-test", simulator=FEED),
            scorer=ScorerConfig(
                architecture=NetworkConfig(
                    transformer=TransformerConfig(width=12, heads=2, layers=2, multiplier=2),
                    item_width=10,
                    history=31,
                    stride=8,
                ),
                training=TRAINING,
            ),
            judgement=JudgementConfig(sessions=8, margin=1.0, calibration=1.0, resamples=100),
        ),
    )
