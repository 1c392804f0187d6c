from dataclasses import replace
from typing import Any

import pytest

from models.common.gate import decide
from models.feed.events.contest import CTR, RATE
from models.feed.events.metrics import auc
from models.feed.ranking.config import RankingConfig
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.judge import RANKER, judge
from models.feed.ranking.score import Ranker, batch_logits
from tests.models.feed.ranking.worlds import CONFIG, random_ranker, simulated


def calibrated(data: Any, seed: int = 0) -> Any:
    network, inputs = random_ranker(data, seed=seed, scale=0.1), Inputs.of(data)
    network.calibrate_on(inputs.events, *batch_logits(network, inputs, inputs.sessions_of(data["validation"])))
    return network


def product_of(network: Any, data: Any) -> dict[str, Any]:
    return {"weights": dict(network.state_dict()), "training": {"sizes": dict(CONFIG.ranker.sizes(data))}}


def test_a_judgement_has_metrics_intervals_baselines_and_oracles() -> None:
    data = simulated()
    network = calibrated(data)
    judgement = judge(product_of(network, data), data, network, CONFIG.judgement)
    metrics = judgement.metrics
    assert judgement.headline == "auc"
    assert metrics["auc_low"] < metrics["auc"] < metrics["auc_high"]
    assert metrics["auc_gain_low"] <= metrics["auc_gain"] <= metrics["auc_gain_high"]
    assert metrics["auc_gain"] == pytest.approx(metrics["auc"] - metrics["auc_item_ctr"])
    assert metrics["auc_oracle_setwise"] > metrics["auc_oracle_pointwise"] > 0.7
    gap = metrics["auc_oracle_setwise"] - metrics["auc_item_ctr"]
    assert metrics["gap_closed_setwise"] == pytest.approx(metrics["auc_gain"] / gap)
    assert [row["score"] for row in judgement.table] == [RATE, CTR, "pointwise oracle", "set-wise oracle", RANKER]
    assert {figure.name for figure in judgement.figures} == {"calibration", "auc"}
    assert "Global time" in judgement.protocol
    served = Ranker(network, Inputs.of(data).catalogue)
    rows, logit = served.logits(Inputs.of(data), Inputs.of(data).sessions_of(data["test"]))
    assert metrics["auc"] == auc(Inputs.of(data).events.label[rows], logit[:, 0]), "what is served is what is judged"


def test_the_configuration_judges_the_weights_of_the_product() -> None:
    data = simulated()
    network = calibrated(data)
    ours = CONFIG.judge(product_of(network, data), data, None)
    assert ours.metrics == judge(product_of(network, data), data, network, CONFIG.judgement).metrics
    assert ours.certificate.holds, ours.certificate.failures()
    (served,) = [claim for claim in ours.certificate.claims if claim.name == "baseline_model"]
    assert (served.kind, served.value) == ("exact", 0), "LiGR is what a service takes"


def test_a_ranker_that_knows_less_than_the_item_ctr_is_refused() -> None:
    data = simulated()
    network = calibrated(data)
    strict = replace(CONFIG.judgement, margin=0.0)
    judgement = judge(product_of(network, data), data, network, strict)
    assert [claim.name for claim in judgement.certificate.failures()] == ["auc_gain_over_item_ctr_low"]


def test_a_champion_is_compared_on_the_same_sessions_and_an_equal_one_is_no_worse() -> None:
    data = simulated()
    network, other = calibrated(data), calibrated(data, seed=1)
    for champion in (network, other):
        shown = {**data, "champion": {"network": champion, "data": data}}
        judgement = judge(product_of(network, data), shown, network, CONFIG.judgement)
        metrics = judgement.metrics
        assert metrics["gain_over_champion"] == pytest.approx(metrics["auc"] - metrics["auc_champion"])
        if champion is network:
            assert metrics["gain_over_champion_low"] == metrics["gain_over_champion_high"] == 0
            gate = replace(RankingConfig().gate, margin=0.0)
            assert decide(gate, judgement.certificate, metrics, has_champion=True).publish
        else:
            assert metrics["gain_over_champion_low"] < metrics["gain_over_champion"]
