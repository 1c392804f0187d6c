"""Baselines are what their papers write, score alike in any company, and are certified or refused like the ranker."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast, get_args

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import ranking_baselines, ranking_setwise
from models.common.certificate import Certificate
from models.common.contracts import Payload
from models.common.fit import fit
from models.common.gate import decide
from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.leakage import LeakageError
from models.feed.events.metrics import auc, normalized_entropy
from models.feed.ranking import counts as counting
from models.feed.ranking.baselines import (
    BASELINES,
    CrossLayer,
    Hstu,
    HstuBlock,
    InterestNetwork,
    Logistic,
    SasRec,
    codes_of,
)
from models.feed.ranking.batches import batch_of, cut_in_two, rows_of
from models.feed.ranking.certificate import certify
from models.feed.ranking.config import NETWORKS, Model, RankerConfig, movielens
from models.feed.ranking.counts import check_counts, counts_of, past_of
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.judge import NAMES as CALLED
from models.feed.ranking.judge import shape_of
from models.feed.ranking.loss import impression_loss
from models.feed.ranking.network import LiGR, NetworkConfig
from models.feed.ranking.references import REFERENCES
from models.feed.ranking.score import batch_logits, carried_over, served_logits
from models.feed.ranking.scorer import Scorer
from models.feed.recounting import Scored
from tests.models.feed.ranking.worlds import CONFIG, NETWORK, few_events, simulated

NAMES = sorted(BASELINES)
CONFIGURED = replace(NETWORK, user=True)
HISTORIES = ["din", "hstu", "sasrec"]


@cache
def feed() -> Inputs:
    """The log of a small simulated feed."""
    return Inputs.of(simulated())


def random_baseline(
    name: str, inputs: Inputs, config: NetworkConfig = CONFIGURED, seed: int = 0, scale: float = 0.2
) -> Scorer:
    """A baseline all of whose numbers are drawn, so that everything about it matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Scorer = BASELINES[name](
            users=inputs.events.users,
            items=inputs.events.items,
            categories=len(inputs.categories),
            tasks=len(inputs.events.tasks),
            config=config,
        )
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=draw))
    return network.eval()


@dataclass(repr=False)
class World:
    """A baseline, what it serves, and what is known of it."""

    name: str
    data: Payload

    def __post_init__(self) -> None:
        self.inputs = Inputs.of(self.data)
        self.network = random_baseline(self.name, self.inputs)
        self.test, self.known = (self.inputs.sessions_of(self.data[part]) for part in ("test", "validation"))
        self.network.calibrate_on(self.inputs.events, *batch_logits(self.network, self.inputs, self.known))

    def scored(self, network: Scorer | None = None, inputs: Inputs | None = None) -> Scored:
        rows, logit = served_logits(network or self.network, inputs or self.inputs, self.test)
        return Scored(rows=rows, logit=logit, chance=self.network.chances(logit), batch=logit)

    def certify(self, **changed: Any) -> Certificate:
        rows, logit = batch_logits(self.network, self.inputs, self.known)
        parts: dict[str, Any] = {
            "weights": dict(self.network.state_dict()),
            "shape": shape_of(self.network),
            "data": self.data,
            "validation": Scored(rows=rows, logit=logit, chance=self.network.chances(logit), batch=logit),
            "sessions": 25,
            "seed": 1,
            "margin": 1.0,
            "written_out": REFERENCES[type(self.network).__name__],
        }
        test = changed.setdefault("test", self.scored())
        label = self.inputs.events.label[test.rows]
        reported = {
            "auc": auc(label, test.logit[:, 0]),
            "normalized_entropy": normalized_entropy(label, test.chance[:, 0]),
        }
        return certify(**(parts | {"metrics": reported} | changed))


@pytest.fixture(scope="module")
def data() -> Payload:
    return simulated()


@pytest.fixture(scope="module")
def worlds(data: Payload) -> dict[str, World]:
    return {name: World(name, data) for name in NAMES}


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_baseline_is_certified_by_a_reference_of_its_own(worlds: dict[str, World], name: str) -> None:
    world = worlds[name]
    batch = batch_logits(world.network, world.inputs, world.test)[1]
    certificate = world.certify(test=replace(world.scored(), batch=batch))
    assert certificate.failures() == ()
    errors = {claim.name: claim.value for claim in certificate.claims}
    assert errors["served_score_error"] < 1e-5, "the limit has room for more than rounding"


def test_a_baseline_without_hours_is_certified_too(data: Payload) -> None:
    world = World("hstu", data)
    world.network = random_baseline("hstu", world.inputs, replace(CONFIGURED, hour=False))
    world.network.calibrate_on(world.inputs.events, *batch_logits(world.network, world.inputs, world.known))
    assert world.certify().failures() == ()


def other_weight(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[World], Scored]:
    """The service has other weights than the product."""

    def corrupt(world: World) -> Scored:
        network = random_baseline(world.name, world.inputs)
        network.load_state_dict({**world.network.state_dict(), name: change(world.network.state_dict()[name].clone())})
        return world.scored(network)

    return corrupt


def shuffled(table: torch.Tensor) -> torch.Tensor:
    return table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]


def peeking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are counted as if the session were over."""
    right = PastCounts.at
    monkeypatch.setattr(PastCounts, "at", lambda self, user, item, moment: right(self, user, item, moment + 1))


def own_responses(world: World) -> Scored:
    """The history ends with the session that is asked about."""
    inputs = world.inputs
    size = np.diff(inputs.session_start)
    return world.scored(inputs=replace(inputs, seen=inputs.seen + size))


FLIPS = {
    "logistic": "linear.weight",
    "dcnv2": "cross.1.inward.weight",
    "din": "weight.weight",
    "sasrec": "blocks.1.attention.outward.weight",
    "hstu": "blocks.0.distance",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_with_a_flipped_sign_is_refused(worlds: dict[str, World], name: str) -> None:
    world = worlds[name]
    refused = world.certify(test=other_weight(FLIPS[name], torch.neg)(world)).failures()
    assert "served_score_error" in {claim.name for claim in refused}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "logistic"])
@pytest.mark.parametrize("table", ["items.weight", "categories.weight", "bias.weight", "gap.weight"])
def test_a_baseline_with_shuffled_embeddings_is_refused(worlds: dict[str, World], name: str, table: str) -> None:
    world = worlds[name]
    refused = world.certify(test=other_weight(table, shuffled)(world)).failures()
    assert "served_score_error" in {claim.name for claim in refused}


@pytest.mark.parametrize("name", ["logistic", "dcnv2"])
def test_features_that_include_the_session_itself_are_refused(
    worlds: dict[str, World], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds[name]
    known = batch_logits(world.network, world.inputs, world.known)
    right = Scored(rows=known[0], logit=known[1], chance=world.network.chances(known[1]), batch=known[1])
    peeking(monkeypatch)
    refused = {claim.name for claim in world.certify(test=world.scored(), validation=right).failures()}
    assert refused >= {"served_score_error"}
    assert "validation_score_error" not in refused


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_that_includes_the_session_itself_is_refused(worlds: dict[str, World], name: str) -> None:
    world = worlds[name]
    refused = world.certify(test=own_responses(world)).failures()
    assert "served_score_error" in {claim.name for claim in refused}


def test_training_refuses_features_that_know_the_session(data: Payload, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs.of(data)
    check_counts(inputs, data["train"])
    peeking(monkeypatch)
    with pytest.raises(LeakageError, match="count only what is strictly before the session"):
        check_counts(inputs, data["train"])
    with pytest.raises(LeakageError):
        replace(CONFIG.ranker, model="dcnv2").batches(data, rank=0, processes=1)


# --- properties of all ------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 1000))
def test_scores_do_not_depend_on_company_padding_or_way_of_asking(name: str, seed: int) -> None:
    inputs = feed()
    network = random_baseline(name, inputs, seed=seed)
    sessions = np.random.default_rng(seed).permutation(len(inputs.seen))[:9]
    sessions = np.sort(np.append(sessions, np.flatnonzero(inputs.seen == 0)[:2]))
    rows, alone = served_logits(network, inputs, np.unique(sessions))
    again, together = batch_logits(network, inputs, np.unique(sessions))
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_allclose(alone, together, rtol=0, atol=2e-5)
    assert np.isfinite(alone).all()
    assert (inputs.seen[sessions] == 0).any(), "an empty history is among them"


@pytest.mark.parametrize("name", NAMES)
def test_several_sessions_in_a_row_score_as_each_alone(worlds: dict[str, World], name: str) -> None:
    network, inputs = worlds[name].network, worlds[name].inputs
    sessions = inputs.sessions_of(worlds[name].data["train"])
    rows = rows_of(inputs, sessions, history=1000, candidates=1000)
    longest = int(np.argmax(rows.length))
    counter = network.counter(network.config)
    counts = None if counter is None else counter.of(inputs)(rows.row, rows.began)
    with torch.no_grad():
        nothing = np.zeros(len(inputs.events), np.float32)
        got = network(batch_of(inputs, rows, np.array([longest, 0]), nothing, counts))[0].numpy()
    part = slice(rows.start[longest], rows.start[longest + 1])
    wide = random_baseline(name, inputs, replace(CONFIGURED, history=1000))
    wide.load_state_dict(network.state_dict())
    found, right = served_logits(wide, inputs, np.unique(rows.session[part]))
    order = np.argsort(rows.row[part], kind="stable")
    np.testing.assert_array_equal(rows.row[part][order], found)
    np.testing.assert_allclose(got[: len(order)][order], right, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", HISTORIES)
def test_what_happens_after_a_session_begins_does_not_change_its_scores(worlds: dict[str, World], name: str) -> None:
    world = worlds[name]
    events = world.inputs.events
    late = world.data["test"]
    turned = events.actions.copy()
    turned[late] = 1 - turned[late]
    first = world.test[[int(np.argmin(events.time[world.inputs.session_rows[world.inputs.session_start[world.test]]]))]]
    changed = Inputs.of_events(replace(events, actions=turned), world.inputs.attribute)
    _, before = served_logits(world.network, world.inputs, first)
    _, after = served_logits(world.network, changed, first)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_learns_is_judged_and_stands_in_the_parameters(name: str, data: Payload, tmp_path: Any) -> None:
    training = replace(CONFIG.ranker.training, epochs=1)
    config = replace(CONFIG, ranker=replace(CONFIG.ranker, model=cast(Model, name), training=training))
    fit(config.ranker, data, tmp_path, lightning_arguments={"accelerator": "cpu", "devices": 1})
    product = {
        "weights": safetensors.torch.load_file(tmp_path / "weights.safetensors"),
        "training": json.loads((tmp_path / "training.json").read_text()),
    }
    judgement = config.judge(product, data, None)
    (refused,) = judgement.certificate.failures()
    assert refused.name == "baseline_model"
    assert "never goes live" in refused.sentence()
    gate = replace(config.gate, margin=1.0)
    assert not decide(gate, judgement.certificate, judgement.metrics, has_champion=False).publish
    assert judgement.metrics[judgement.headline] > 0.4, "it is measured all the same"
    assert config.parameters()["model"] == name
    with pytest.raises(TypeError, match=r"a service takes a LiGR"):
        config.ranker.open_live(product, data)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"user": True},
        {"hour": False},
        {"setwise": False},
        {"session_layers": 1},
        {"rate_days": 9, "user_rate": True, "company": 2},
    ],
)
@pytest.mark.parametrize("name", get_args(Model))
def test_every_weight_of_every_model_has_a_gradient_after_a_step(name: Model, changes: Any, data: Payload) -> None:
    ranker = replace(CONFIG.ranker, model=name, architecture=replace(NETWORK, **changes))
    network = ranker.network(ranker.sizes(data))
    (batch, *_) = ranker.batches(data, rank=0, processes=1).epoch(0)
    ranker.loss(network, batch).backward()  # type: ignore[no-untyped-call]
    without = [weight for weight, value in network.named_parameters() if value.grad is None]
    assert without == [], "training by several processes waits for the gradient of every weight"


def test_the_tables_of_models_have_the_same_keys() -> None:
    assert get_args(Model) == tuple(NETWORKS) == ("ligr", *BASELINES)
    classes = {network.__name__ for network in NETWORKS.values()}
    assert classes == set(CALLED) == set(REFERENCES)
    assert len(set(CALLED.values())) == len(classes), "each is called something else"


def test_no_configuration_of_the_benchmarks_is_tried_twice() -> None:
    for base in (movielens().ranker, ranking_baselines.simulated().base):
        for model, changes in ranking_baselines.SEARCH.items():
            tried = {ranking_baselines.configured(base, model, change, 0) for change in changes}
            assert len(tried) == len(changes) == len(ranking_baselines.SEARCH["ligr"]), model
    for setwise in (True, False):
        changes = ranking_setwise.SEARCH
        tried = {ranking_setwise.configured("tiny", change, 0, setwise=setwise) for change in changes}
        assert len(tried) == len(changes), setwise
        assert {ranker.architecture.setwise for ranker in tried} == {setwise}


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_is_carried_over_to_another_log(worlds: dict[str, World], name: str) -> None:
    world = worlds[name]
    moved = carried_over(world.network, world.inputs, world.inputs)
    assert type(moved) is type(world.network)
    np.testing.assert_array_equal(world.scored(moved).logit, world.scored().logit)


# --- each as its paper writes it --------------------------------------------------------------------------------------


def test_a_cross_layer_is_the_first_value_times_a_line_plus_the_value() -> None:
    torch.manual_seed(0)
    layer = CrossLayer(5)
    first, value = torch.randn(3, 5), torch.randn(3, 5)
    weight, bias = layer.inward.weight.tolist(), layer.inward.bias.tolist()
    got = layer(first, value).tolist()
    for row in range(3):
        for i in range(5):
            line = sum(weight[i][j] * value[row, j].item() for j in range(5)) + bias[i]
            assert got[row][i] == pytest.approx(first[row, i].item() * line + value[row, i].item(), abs=1e-5)


def test_din_weighs_an_event_by_how_it_stands_to_the_candidate() -> None:
    config = replace(NETWORK, transformer=replace(NETWORK.transformer, width=8, heads=2))
    network = InterestNetwork(users=1, items=1, categories=0, tasks=1, config=config)
    with torch.no_grad():
        for part in (network.weigh.weight, network.weigh.bias, network.weight.weight, network.weight.bias):
            part.zero_()
        # hidden 0: 2 e_0 + 3 c_0 + 5 (e_0 - c_0) + 7 e_0 c_0
        for place, value in enumerate((2.0, 3.0, 5.0, 7.0)):
            network.weigh.weight[0, 8 * place] = value
        network.weight.weight[0, 0] = 1
        network.weigh_turn.weight.fill_(0.25)
    event, candidate = torch.zeros(1, 2, 8), torch.zeros(1, 1, 8)
    event[0, 0, 0], event[0, 1, 0], candidate[0, 0, 0] = 1.0, -1.0, 2.0
    # first event: 2 + 6 + 5 (1 - 2) + 14 = 17; second: -2 + 6 + 5 (-1 - 2) - 14 = -25, a quarter of it below zero
    np.testing.assert_allclose(network.weights(event, candidate).detach().numpy(), [[[17.0, -6.25]]], atol=1e-5)


def test_din_weights_do_not_add_up_to_one() -> None:
    inputs = feed()
    network = random_baseline("din", inputs)
    assert isinstance(network, InterestNetwork)
    width = NETWORK.transformer.width
    weights = network.weights(torch.randn(2, 7, width), torch.randn(2, 3, width)).sum(-1)
    assert (weights - 1).abs().min() > 1e-3


def test_an_hstu_block_is_gated_attention_without_softmax() -> None:
    torch.manual_seed(3)
    config = replace(NETWORK.transformer, width=8, heads=2, dropout=0.0)
    block = HstuBlock(config)
    torch.nn.init.normal_(block.distance)
    length, seen = 3, torch.tensor([[1, 3]])
    token = torch.randn(1, length + 2, 8)
    inner = torch.nn.functional.silu(block.norm(token) @ block.inward.weight.T)[0]
    gate, value, query, key = inner.chunk(4, dim=-1)
    position = [0, 1, 2, 1, 3]
    sees = [[0], [0, 1], [0, 1, 2], [0, 3], [0, 1, 2, 4]]
    for row in range(5):
        gathered = torch.zeros(8)
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            for at in sees[row]:
                code = int(math.log2(1 + position[row] - position[at]))
                score = query[row, part] @ key[at, part] + block.distance[code, head]
                gathered[part] += score * torch.sigmoid(score) / len(sees[row]) * value[at, part]
        mixed = block.gathered_norm(gathered) * gate[row]
        right = token[0, row] + mixed @ block.outward.weight.T
        torch.testing.assert_close(block(token, seen)[0, row], right, rtol=1e-4, atol=1e-5)


def test_hstu_is_blind_to_other_candidates_and_has_no_feed_forward_part() -> None:
    inputs = feed()
    network = random_baseline("hstu", inputs)
    assert isinstance(network, Hstu)
    names = {name.split(".")[2] for name, _ in network.blocks[0].named_parameters(prefix="blocks.0")}
    assert names == {"norm", "inward", "distance", "gathered_norm", "outward"}


def test_codes_of_distances_count_doublings() -> None:
    distance = torch.tensor([-4, 0, 1, 2, 3, 6, 7, 8, 2**18 - 1, 2**19, 2**30])
    assert codes_of(distance).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 18, 19, 19]


def test_sasrec_does_not_look_at_the_candidate_before_the_inner_product() -> None:
    inputs = feed()
    network = random_baseline("sasrec", inputs)
    assert isinstance(network, SasRec)
    event = torch.randn(1, 6, NETWORK.transformer.width)
    changed = event.clone()
    changed[0, 4, 0] += 1
    before, after = network.states(event), network.states(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert ((before - after)[0, 5:].abs().amax(-1) > 1e-4).all(), "what came after knows it"


def test_logistic_regression_is_where_newtons_method_ends(data: Payload) -> None:
    inputs = Inputs.of(data)
    rows = rows_of(inputs, inputs.sessions_of(data["train"]), history=1, candidates=0)
    counts = counts_of(past_of(inputs), rows.row, rows.began)
    batch = batch_of(inputs, rows, np.arange(len(rows)), np.ones(len(inputs.events), np.float32), counts)
    there = batch.weight > 0
    value = torch.cat((batch.counts[there], torch.ones(int(there.sum()), 1)), dim=1).double().numpy()
    label = batch.label[there][:, 0].double().numpy()
    weight, ridge = np.zeros(value.shape[1]), 1e-3
    for _ in range(40):
        chance = 1 / (1 + np.exp(-value @ weight))
        slope = value.T @ (chance - label) / len(label) + ridge * weight
        curve = (value * (chance * (1 - chance))[:, None]).T @ value / len(label) + ridge * np.eye(len(weight))
        weight -= np.linalg.solve(curve, slope)
    network = Logistic(tasks=2, config=NETWORK).double()
    with torch.no_grad():
        network.linear.weight[0] = torch.from_numpy(weight[:-1])
        network.linear.bias[0] = float(weight[-1])
    double = batch._replace(counts=batch.counts.double(), label=batch.label.double(), weight=batch.weight.double())
    impression_loss(network, double).backward()  # type: ignore[no-untyped-call]
    gradient = network.linear.weight.grad
    assert gradient is not None
    np.testing.assert_allclose(gradient[0].numpy(), -ridge * weight[:-1], atol=1e-7)
    assert np.abs(weight).max() > 0.1, "there was something to learn"


# --- features, starts and cuts ----------------------------------------------------------------------------------------


def test_features_are_scaled_by_what_they_are() -> None:
    raw = np.full((1, len(FEATURES)), 0.5)
    raw[0, FEATURES.index("item_rate")] = 0.75
    raw[0, FEATURES.index("item_week_share")] = math.e - 1
    scaled = dict(zip(FEATURES, counting.scaled(raw)[0].tolist(), strict=True))
    assert scaled["item_rate"] == pytest.approx(math.log(3), rel=1e-6)
    assert scaled["item_week_share"] == pytest.approx(1)
    assert scaled["user_count"] == pytest.approx(0.05)
    assert scaled["hour_sine"] == scaled["user_known"] == 0.5


def test_the_bias_of_items_begins_at_the_log_odds_of_their_smoothed_rates(data: Payload) -> None:
    ranker = replace(CONFIG.ranker, objective=replace(CONFIG.ranker.objective, smoothing=7.0))
    network = ranker.network(ranker.sizes(data))
    assert isinstance(network, LiGR)
    ranker.start(network, data)
    events = Inputs.of(data).events
    rows = data["train"]
    item = int(np.bincount(events.item[rows]).argmax())
    mine = rows[events.item[rows] == item]
    overall = float(events.label[rows].mean())
    rate = (float(events.label[mine].sum()) + 7 * overall) / (len(mine) + 7)
    right = math.log(rate / (1 - rate)) - math.log(overall / (1 - overall))
    assert network.bias.weight[item, 0].item() == pytest.approx(right, abs=1e-5)
    plain = CONFIG.ranker.network(CONFIG.ranker.sizes(data))
    assert isinstance(plain, LiGR)
    CONFIG.ranker.start(plain, data)
    assert plain.bias.weight.abs().max() == 0


def test_the_prior_leaves_biases_that_began_at_rates_alone(data: Payload) -> None:
    inputs = Inputs.of(data)
    network = random_baseline("hstu", inputs)
    assert len(network.identities()) == 1 + len(network.identities(bias=False))
    assert random_baseline("logistic", inputs).identities() == []


def test_a_cut_session_goes_on_as_one_that_knows_what_came_before() -> None:
    events = replace(few_events(), time=few_events().time + 1_000_000)
    inputs = Inputs.of_events(events, "genre")
    rows = rows_of(inputs, np.arange(len(inputs.seen)), history=9, candidates=100)
    cut = 0
    for seed in range(30):
        got = cut_in_two(inputs, rows, 1.0, np.random.default_rng(seed))
        np.testing.assert_array_equal(got.row, rows.row)
        np.testing.assert_array_equal(got.start, rows.start)
        for place, row in enumerate(got.row.tolist()):
            user, began = int(events.user[row]), int(got.began[place])
            whose = int(np.searchsorted(got.start, place, side="right")) - 1
            first = got.begin[whose] - inputs.histories.start[user]
            past = np.flatnonzero((events.user == user) & (events.time < began))
            assert got.seen[place] == len(past) - first
            assert events.time[row] >= began, "nobody knows what she is asked about"
            gap = 0 if not len(past) else min(int(began - events.time[past[-1]] + 1).bit_length(), 39)
            assert got.gap[place] == gap
            assert got.seen[place] <= got.length[whose]
        cut += int((got.session != rows.session).any())
    assert cut, "the session of three moments was cut now and then"
    whole = cut_in_two(inputs, rows, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(whole.session, rows.session)
    np.testing.assert_array_equal(whole.seen, rows.seen)


def test_cuts_are_others_in_each_epoch_and_the_same_for_a_seed(data: Payload) -> None:
    events = Inputs.of(data).events
    spread_out = replace(events, time=np.sort(events.time + events.position))
    ranker: RankerConfig = replace(CONFIG.ranker, objective=replace(CONFIG.ranker.objective, cut=0.5))
    payload = {**data, **spread_out.payload()}
    batches = ranker.batches(payload, rank=0, processes=1)
    again = ranker.batches(payload, rank=0, processes=1)
    first = [batch.seen for batch in batches.epoch(0)]
    assert all(torch.equal(one, other.seen) for one, other in zip(first, again.epoch(0), strict=True))
    assert sorted(int(one.sum()) for one in first) != sorted(int(batch.seen.sum()) for batch in batches.epoch(1))
