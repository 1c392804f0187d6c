"""The whole of a scorer: presets, training, the judgement of what it serves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from models.common.contracts import Payload
from models.common.fit import fit
from models.common.gate import decide
from models.feed.events.leakage import check_shuffled, shuffle_labels
from models.feed.events.table import Events
from models.feed.history.batches import batch_of
from models.feed.history.config import movielens, paper, small, tiny
from models.feed.history.inputs import Inputs
from models.feed.history.score import batch_logits
from tests.models.feed.history.worlds import CONFIG, random_scorer, simulated


def product(data: Payload, folder: Path, config: Any = CONFIG) -> Payload:
    fit(config.scorer, data, folder, lightning_arguments={"accelerator": "cpu", "devices": 1})
    training = json.loads((folder / "training.json").read_text())
    return {"training": training, "weights": safetensors.torch.load_file(folder / "weights.safetensors")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    return product(simulated(), tmp_path_factory.mktemp("trained"))


def test_presets_are_valid_and_differ_where_they_say() -> None:
    assert tiny() == tiny()
    names = [preset().data.name for preset in (tiny, small, movielens, paper)]
    assert len(set(names)) == 4
    for preset in (tiny, small, movielens, paper):
        config = preset()
        assert config.scorer.architecture.form == "append"
        assert config.gate.product == "comparison"
        assert json.dumps(dict(config.parameters()))


def test_a_scorer_is_trained_judged_and_certified(trained: Payload) -> None:
    judgement = CONFIG.judge(trained, simulated(), None)
    assert judgement.certificate.holds, [claim.sentence() for claim in judgement.certificate.failures()]
    assert judgement.certificate.kinds == "exact + bounded + statistical"
    metrics = judgement.metrics
    assert judgement.headline == "auc"
    assert metrics["auc_low"] <= metrics["auc"] <= metrics["auc_high"]
    assert metrics["auc"] > metrics["auc_item_ctr"]
    assert 0 < metrics["cache_hit_rate"] < 1, "some requests found what another one had left, the first ones did not"
    assert "Global time" in judgement.protocol
    assert {row["score"] for row in judgement.table} == {
        "base rate", "item CTR", "DLRM", "pointwise oracle", "set-wise oracle",
    }  # fmt: skip


def test_the_champion_is_scored_on_the_candidates_own_test_part(trained: Payload) -> None:
    data = simulated()
    champion = CONFIG.scorer.network(trained["training"]["sizes"]).eval()
    champion.load_state_dict(trained["weights"])
    same = CONFIG.judge(trained, {**data, "champion": {"network": champion, "data": data}}, None)
    assert same.metrics["gain_over_champion"] == 0 and same.metrics["gain_over_champion_low"] == 0
    assert decide(CONFIG.gate, same.certificate, same.metrics, has_champion=True).publish
    weak = {**trained, "weights": random_scorer(data, seed=5).state_dict()}
    worse = CONFIG.judge(weak, {**data, "champion": {"network": champion, "data": data}}, None)
    assert worse.metrics["gain_over_champion"] < 0
    assert not decide(CONFIG.gate, worse.certificate, worse.metrics, has_champion=True).publish


def test_training_again_gives_the_same_bits(trained: Payload, tmp_path: Path) -> None:
    again = product(simulated(), tmp_path)
    for name, weight in trained["weights"].items():
        assert weight.numpy().tobytes() == again["weights"][name].numpy().tobytes(), name


def test_shuffled_responses_teach_nothing(tmp_path: Path) -> None:
    data = simulated()
    shuffled = {**data, **shuffle_labels(Events.from_payload(data), 3).payload()}
    # features count the shuffled responses too, as they would in a log of such
    from models.feed.events.features import PastCounts

    shuffled["features"] = PastCounts(Events.from_payload(shuffled), "category").of_events().astype(np.float32)
    model = product(shuffled, tmp_path)
    network = CONFIG.scorer.network(model["training"]["sizes"]).eval()
    network.load_state_dict(model["weights"])
    inputs = Inputs.of(shuffled)
    rows, logit = batch_logits(network, inputs, inputs.sessions_of(shuffled["test"]))
    check_shuffled(inputs.events.label[rows], logit[:, 0])


def test_the_loss_falls_in_a_few_steps() -> None:
    data = simulated()
    torch.manual_seed(0)
    network = CONFIG.scorer.network(CONFIG.scorer.sizes(data))
    batch = batch_of(Inputs.of(data), np.arange(100, 116), CONFIG.scorer.architecture)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = CONFIG.scorer.loss(network, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_another_network_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a DLRM, got Linear"):
        CONFIG.scorer.validate(torch.nn.Linear(2, 2), simulated())
    assert replace(CONFIG.scorer).monitor == "auc"
