"""A mixture of logits is its formula, clusters catch who has no history, and two stages find what one would."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import Payload, TrainingConfig
from models.common.fit import fit
from models.feed.retrieval.cascade import MixtureIndex, MixtureSearching, tower_queries
from models.feed.retrieval.config import (
    DataConfig,
    EncoderConfig,
    GeneratorConfig,
    JudgementConfig,
    RetrievalConfig,
    SimilarityConfig,
    TowerConfig,
)
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.judge import sample_filters
from models.feed.retrieval.loss import retrieval_loss
from models.feed.retrieval.mixture import MixtureOfLogits, compare_by, imbalance, nearest, spherical_kmeans
from models.feed.retrieval.network import Catalogue, TwoTower, encode_items, encode_users

USERS, ITEMS, CODES, WIDTH = 7, 47, 13, 6
TOWER = TowerConfig(dimension=WIDTH, hidden=9, dropout=0.1, forgetting=0.2)
MIXTURE = SimilarityConfig(kind="mixture", interests=2, heads=2, clusters=5, gate=11, gate_dropout=0.3, tower_epochs=1)


def catalogue(items: int = ITEMS) -> Catalogue:
    draw = torch.Generator().manual_seed(7)
    return Catalogue(torch.randint(0, CODES, (items, 3), generator=draw), torch.rand((items, 3), generator=draw))


def mixture(config: SimilarityConfig = MIXTURE, items: int = ITEMS, *, start: bool = True) -> MixtureOfLogits:
    """Random weights everywhere, the gate's too."""
    torch.manual_seed(3)
    network = config.network(users=USERS, items=items, codes=CODES, tower=TOWER)
    assert isinstance(network, MixtureOfLogits)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name != "log_temperature":
                parameter.add_(0.3 * torch.randn_like(parameter))
    if start:
        network.start(catalogue(items), seed=1)
    return network.eval()


def rows(network: TwoTower, items: int = ITEMS) -> tuple[np.ndarray, np.ndarray]:
    """Rows of all members, one unknown and one without history among them, and of all items."""
    users = np.array([0, 1, 2, 3, 4, 5, 6, -1])
    histories = np.random.default_rng(1).integers(0, items, (8, 3))
    histories[5] = -1
    return encode_users(network, catalogue(items), users, histories), encode_items(network, catalogue(items))


@torch.no_grad()
def logits(network: TwoTower, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """All logits, in float64."""
    exact = copy.deepcopy(network).double().eval()
    return exact.compare(torch.from_numpy(user).double(), torch.from_numpy(item).double())[0].numpy()


def best(scores: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[list[int]]:
    """Items by falling score, equal ones by ascending number."""
    passing = range(scores.shape[1]) if allowed is None else np.flatnonzero(allowed).tolist()
    return [sorted(passing, key=lambda item: (-row[item], item))[:k] for row in scores.tolist()]


def attributes(items: int = ITEMS) -> pa.Table:
    return pa.table({"shelf": np.random.default_rng(5).integers(0, 6, items)})


def index_of(network: MixtureOfLogits, items: int = ITEMS) -> MixtureIndex:
    """Identifiers are even numbers in falling order."""
    ids = 2 * np.arange(items)[::-1]
    built = RetrievalIndex.build(encode_items(network, catalogue(items)), ids, attributes(items))
    return MixtureIndex(network, built.snapshot())


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


# --- the formula ------------------------------------------------------------------------------------------------------


def test_the_mixture_is_the_formula_written_as_a_loop() -> None:
    network = mixture()
    users, items = rows(network)
    P, Q = 1 + 2 + 1, 1 + 2 + 1 + 1
    assert users.shape == (8, P * WIDTH + P * Q)
    assert items.shape == (ITEMS, Q * WIDTH + P * Q)
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    found = logits(network, users, items)
    for u in (0, 5, 7):
        for i in (0, 11, 46):
            cosines = []
            for p in range(P):
                for q in range(Q):
                    f = users[u, p * WIDTH : (p + 1) * WIDTH].astype(float)
                    g = items[i, q * WIDTH : (q + 1) * WIDTH].astype(float)
                    cosines.append(sum(x * y for x, y in zip(f, g, strict=True)))
            hidden = weights["cross_gate.0.weight"] @ np.array(cosines) + weights["cross_gate.0.bias"]
            crossed = weights["cross_gate.2.weight"] @ [silu(h) for h in hidden] + weights["cross_gate.2.bias"]
            a, b = users[u, P * WIDTH :], items[i, Q * WIDTH :]
            gate = [math.exp(silu(float(a[n]) * float(b[n]) + crossed[n])) for n in range(P * Q)]
            phi = sum(weight * cosine for weight, cosine in zip(gate, cosines, strict=True)) / sum(gate) / 0.2
            assert found[u, i] == pytest.approx(phi, abs=1e-6)  # the temperature is a float32


def test_components_have_length_one_and_the_gate_sums_to_one() -> None:
    network = mixture()
    users, items = rows(network)
    for part, count in ((users, network.user_components), (items, network.item_components)):
        length = np.linalg.norm(part[:, : count * WIDTH].reshape(-1, WIDTH), axis=1)
        np.testing.assert_allclose(length, 1, rtol=1e-6)
    _, weight = network.mixture(torch.from_numpy(users), torch.from_numpy(items))
    torch.testing.assert_close(weight.sum(-1), torch.ones(8, ITEMS))
    assert weight.min() > 0


def test_permuting_items_permutes_scores_and_equal_rows_score_equal_bits() -> None:
    network = mixture()
    users, items = rows(network)
    order = np.random.default_rng(0).permutation(ITEMS)
    order[3] = order[40]
    np.testing.assert_array_equal(logits(network, users, items)[:, order], logits(network, users, items[order]))


def test_items_of_ones_own_are_compared_as_items_of_all() -> None:
    network = mixture()
    users, items = (torch.from_numpy(part) for part in rows(network))
    together, _ = network.compare(users, items)
    apart, _ = network.compare(users, items.expand(8, -1, -1))
    torch.testing.assert_close(together, apart)


def test_a_fresh_mixture_leans_on_the_tower_vectors() -> None:
    torch.manual_seed(0)
    fresh = MIXTURE.network(users=USERS, items=ITEMS, codes=CODES, tower=TOWER).eval()
    assert isinstance(fresh, MixtureOfLogits)
    users, items = rows(fresh)
    cosine = users[:, :WIDTH] @ items[:, :WIDTH].T
    np.testing.assert_allclose(logits(fresh, users, items), cosine / 0.2, atol=1e-5)  # the towers alone
    fresh.start(catalogue(), seed=1)
    _, weight = fresh.mixture(*(torch.from_numpy(part) for part in rows(fresh)))
    assert 0.6 < weight[..., 0].mean() < 0.9
    assert weight[..., 1:].min() > 0


def test_balance_is_minus_the_mutual_information_of_pair_and_question() -> None:
    decided = torch.eye(3, dtype=torch.float64)[None]
    assert imbalance(decided).item() == pytest.approx(-math.log(3))
    assert imbalance(torch.full((2, 5, 3), 1 / 3)).item() == pytest.approx(0, abs=1e-6)
    assert imbalance(decided[:, :1].expand(1, 4, 3)).item() == pytest.approx(0)  # collapsed on one pair


def test_in_training_the_gate_drops_pairs_and_still_sums_to_one() -> None:
    network = mixture(dataclasses.replace(MIXTURE, gate_dropout=0.5, balance=0.5)).train()
    users, items = (torch.from_numpy(part) for part in rows(network))
    torch.manual_seed(0)
    first, penalty = network.compare(users, items)
    delta, weight = network.mixture(users, items)
    assert penalty.item() == pytest.approx(0.5 * imbalance(weight).item())
    assert not torch.equal(first, network.compare(users, items)[0])
    assert (first <= delta.amax(-1) + 1e-5).all() and (first >= delta.amin(-1).clamp_max(0) - 1e-5).all()


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_kmeans_finds_planted_directions_and_repeats() -> None:
    draw = torch.Generator().manual_seed(4)
    planted = torch.nn.functional.normalize(torch.randn(3, 17, generator=draw), dim=1)
    member = torch.arange(300) % 3
    vectors = torch.nn.functional.normalize(planted[member] + 0.05 * torch.randn(300, 17, generator=draw), dim=1)
    found = spherical_kmeans(vectors, 3, seed=2)
    assert torch.equal(found, spherical_kmeans(vectors, 3, seed=2))
    assert ((found @ planted.double().T).amax(0) > 0.99).all()
    assert len({(int(a), int(b)) for a, b in zip(nearest(vectors.double(), found), member, strict=True)}) == 3


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 23), clusters=st.integers(1, 23), copies=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_centroid_has_length_one_also_with_equal_vectors(
    rows: int, clusters: int, copies: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(rows, 5, generator=draw), dim=1).repeat(copies, 1)
    found = spherical_kmeans(vectors, min(clusters, len(vectors)), seed=seed)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found), dtype=torch.float64))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_clusters_get_no_gradient_and_trained_ones_do(frozen: bool) -> None:
    network = mixture(dataclasses.replace(MIXTURE, frozen=frozen)).train()
    before = network.clusters.weight.detach().clone()
    assert torch.equal(before, network.centroids)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    config = EncoderConfig(tower=TOWER, similarity=MIXTURE, training=TrainingConfig(batch_size=16))
    config.loss(network, next(iter(config.batches(few(), rank=0, processes=1).epoch(1)))).backward()
    optimizer.step()
    assert torch.equal(network.clusters.weight, before) == frozen
    silent = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert silent == {"log_temperature"} | ({"clusters.weight"} if frozen else set())


def test_who_has_no_history_falls_on_the_cluster_nearest_to_what_is_known() -> None:
    """A member who is unknown and met nothing, and an item that nobody met, still have the component of a cluster."""
    network = mixture()
    users, items = rows(network)
    place = {"user": network.user_components - 1, "item": network.item_components - 1}
    for name, part in (("user", users), ("item", items)):
        cluster = (part[:, :WIDTH] @ network.centroids.numpy().T).argmax(1)
        with torch.no_grad():
            expected = torch.nn.functional.normalize(getattr(network, f"{name}_cluster")(network.centroids), dim=1)
        found = part[:, place[name] * WIDTH : (place[name] + 1) * WIDTH]
        np.testing.assert_allclose(found, expected.numpy()[cluster], atol=1e-6)
    assert len(np.unique((items[:, :WIDTH] @ network.centroids.numpy().T).argmax(1))) > 1


def test_more_clusters_than_items_are_refused() -> None:
    with pytest.raises(ValueError, match="at most the number of items, got 48 clusters of 47 items; lower clusters"):
        mixture(dataclasses.replace(MIXTURE, clusters=48))


# --- two stages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("where", [None, "shelf == 3", "shelf in (1, 2)", "false"])
def test_without_a_budget_two_stages_answer_as_one_would(k: int, where: str | None) -> None:
    network = mixture()
    users, items = rows(network)
    hits = index_of(network).search(users, k, where)
    shelf = attributes()["shelf"].to_numpy()
    allowed = {None: shelf >= 0, "shelf == 3": shelf == 3, "false": shelf < 0}.get(where, (shelf == 1) | (shelf == 2))
    scores = logits(network, users, items[::-1].copy())  # by ascending id
    expected = best(scores, k, allowed[::-1])
    assert hits.certified.all()
    assert (hits.passing == allowed.sum()).all()
    assert (hits.evaluated <= hits.passing).all()
    for row, answer in enumerate(expected):
        assert hits.ids[row].tolist() == [2 * item for item in answer] + [-1] * (k - len(answer))
        np.testing.assert_array_equal(hits.scores[row, : len(answer)], scores[row, answer])


@settings(deadline=None, max_examples=12)
@given(k=st.integers(1, 9), budget=st.integers(9, 50), seed=st.integers(0, 50))
def test_what_is_certified_is_exact_and_a_budget_is_kept(k: int, budget: int, seed: int) -> None:
    network = mixture()
    users, items = rows(network)
    users = users[np.random.default_rng(seed).permutation(8)[:3]]
    hits = index_of(network).search(users, k, budget=budget)
    assert (hits.evaluated <= budget).all()
    assert (hits.ids >= 0).all()
    expected = best(logits(network, users, items[::-1].copy()), k)
    for row in np.flatnonzero(hits.certified.numpy()):
        assert (hits.ids[row] // 2).tolist() == expected[row]


def test_equal_items_stand_by_ascending_id() -> None:
    network = mixture()
    users, items = rows(network)
    items[[4, 9, 30]] = items[20]
    hits = MixtureIndex(network, RetrievalIndex.build(items, np.arange(ITEMS)).snapshot()).search(users, ITEMS)
    for answer in hits.ids.tolist():
        places = [answer.index(item) for item in (4, 9, 20, 30)]
        assert places == list(range(places[0], places[0] + 4))


def test_a_tenth_of_the_work_finds_99_percent_on_clustered_items() -> None:
    """Work is the number of mixtures computed; comparing every item takes 2,003 for each member."""
    items = 2003
    network = mixture(dataclasses.replace(MIXTURE, heads=0), items, start=False)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        middles = torch.randn(23, WIDTH, generator=draw)
        network.items.weight.copy_(middles[torch.arange(items) % 23] + 0.5 * torch.randn(items, WIDTH, generator=draw))
    network.start(catalogue(items), seed=1)
    users, rows_of_items = rows(network, items)
    hits = index_of(network, items).search(users, 10, budget=items // 10)
    expected = best(logits(network, users, rows_of_items[::-1].copy()), 10)
    recall = np.mean([np.isin(answer, hits.ids[row] // 2).mean() for row, answer in enumerate(expected)])
    assert hits.evaluated.max() <= items / 10
    assert recall >= 0.99


def test_a_filter_for_each_query_holds_in_both_stages_and_never_starves() -> None:
    network = mixture()
    users, _ = rows(network)
    shelf = attributes()["shelf"].to_numpy()[::-1]
    hits = index_of(network).search(users[:6], 5, [f"shelf == {number}" for number in range(6)], budget=5)
    for number, answer in enumerate(hits.ids.tolist()):
        there = [identity // 2 for identity in answer if identity >= 0]
        assert (shelf[there] == number).all()
        assert len(there) == min(5, (shelf == number).sum())


def test_wrong_questions_say_what_to_do() -> None:
    network = mixture()
    users, items = rows(network)
    index = index_of(network)
    with pytest.raises(ValueError, match="rows of 44 numbers, got shape"):
        index.search(items[:2], 3)
    with pytest.raises(ValueError, match="budget must be 0 or at least k, got 2 for k = 3"):
        index.search(users, 3, budget=2)
    with pytest.raises(ValueError, match="2 filters for 8 queries"):
        index.search(users, 3, [None, None])
    with pytest.raises(ValueError, match="rows of 6 numbers, the network's have 50"):
        MixtureIndex(network, RetrievalIndex.build(items[:, :6].copy(), np.arange(ITEMS)).snapshot())


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_reach_members_and_items_and_agree_with_finite_differences() -> None:
    network = mixture()
    users, items = rows(network)
    index = index_of(network)
    member = torch.from_numpy(users[:2]).double().requires_grad_()
    source = torch.from_numpy(items[::-1].copy()).double().requires_grad_()
    weight = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def total(member: torch.Tensor, source: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        hits = index(member, 5, rows=source)
        assert ids is None or torch.equal(hits.ids, ids), "a step so small changes no answer"
        return (weight * hits.scores).sum()

    ids = index(member.detach(), 5).ids
    total(member, source).backward()
    assert member.grad is not None and source.grad is not None
    assert set(source.grad.abs().sum(1).nonzero().flatten().tolist()) == set((ids // 2).flatten().tolist())
    draw = np.random.default_rng(0)
    for tensor in (member, source):
        touched = tensor.grad.abs().sum(1).nonzero().flatten().tolist()
        for _ in range(12):
            place = (draw.choice(touched), draw.integers(tensor.shape[1]))
            ends = []
            for sign in (1, -1):
                moved = tensor.detach().clone()
                moved[place] += sign * 1e-5
                ends.append(total(*((moved, source) if tensor is member else (member, moved)), ids).item())
            difference = (ends[0] - ends[1]) / 2e-5
            assert tensor.grad[place].item() == pytest.approx(difference, rel=1e-3, abs=1e-7)


def test_scores_without_gradients_are_the_same() -> None:
    network = mixture()
    users, _ = rows(network)
    index = index_of(network)
    plain = index.search(users, 4, "shelf == 3")
    asked = index(torch.from_numpy(users).requires_grad_(), 4, "shelf == 3")
    torch.testing.assert_close(plain.scores, asked.scores.detach(), rtol=0, atol=0)
    assert torch.equal(plain.ids, asked.ids)


# --- training ---------------------------------------------------------------------------------------------------------

CONFIG = RetrievalConfig(
    data=DataConfig(generator=GeneratorConfig(users=60, items=90, events=12, interests=2, seed=3)),
    encoder=EncoderConfig(
        tower=TowerConfig(dimension=8, hidden=8, uniform_negatives=16),
        similarity=SimilarityConfig(kind="mixture", clusters=6, gate=8, tower_epochs=1),
        training=TrainingConfig(epochs=4, batch_size=64),
    ),
    judgement=JudgementConfig(cases=12, queries=20, replays=8, resamples=200, margin=1.0),
)


def few() -> Payload:
    """Interactions of 7 members with 47 items."""
    draw = np.random.default_rng(8)
    user = np.repeat(np.arange(USERS), 6)
    train = pa.table({"user": user, "item": draw.integers(0, ITEMS, len(user)), "time": np.arange(len(user))})
    items = pa.table({"item": np.arange(ITEMS), "item_id": np.arange(ITEMS), "shelf": draw.integers(0, 9, ITEMS)})
    return {"train": train, "items": items, "users": pa.table({"user": np.arange(USERS)})}


@pytest.fixture(scope="module")
def data() -> Payload:
    return CONFIG.data.prepare({})


def fitted(config: EncoderConfig, data: Payload, folder: Path) -> TwoTower:
    fit(config, data, folder, lightning_arguments={"accelerator": "cpu", "devices": 1})
    network = config.network(config.sizes(data))
    network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    return network.eval()


class StoppedError(Exception):
    pass


def test_a_training_that_stopped_goes_on_with_the_same_bits(
    data: Payload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once while the towers learn alone, once in the epoch after the clusters were made."""
    whole = fitted(CONFIG.encoder, data, tmp_path / "whole").state_dict()
    assert whole["started"]
    loss, steps = EncoderConfig.loss, len(CONFIG.encoder.batches(data, rank=0, processes=1))
    for at in (1, steps + 2):
        seen = 0

        def stopping(self: EncoderConfig, network: torch.nn.Module, batch: object, at: int = at) -> torch.Tensor:
            nonlocal seen
            seen += 1
            if seen == at + 1:
                raise StoppedError
            return loss(self, network, batch)  # type: ignore[arg-type]

        often = dataclasses.replace(CONFIG.encoder.training, checkpoint_minutes=1e-9)
        monkeypatch.setattr(EncoderConfig, "loss", stopping)
        with pytest.raises(StoppedError):
            fitted(dataclasses.replace(CONFIG.encoder, training=often), data, tmp_path / f"killed{at}")
        monkeypatch.setattr(EncoderConfig, "loss", loss)
        again = fitted(CONFIG.encoder, data, tmp_path / f"killed{at}").state_dict()
        assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_mixture_is_indexed_judged_and_watched_by_its_own_ranking(data: Payload, tmp_path: Path) -> None:
    network = fitted(CONFIG.encoder, data, tmp_path)
    product = CONFIG.index.build_index(data, network)
    judged = CONFIG.judge(product, data, network)
    assert judged.certificate.holds, [claim.sentence() for claim in judged.certificate.failures()]
    weights = {"weights": network.state_dict(), "training": {"sizes": CONFIG.encoder.sizes(data)}}
    alone = CONFIG.judge(weights, data, None)
    assert alone.certificate.holds, [claim.sentence() for claim in alone.certificate.failures()]
    assert judged.metrics["hit_rate_at_50"] == pytest.approx(alone.metrics["hit_rate_at_50"], abs=0.02)
    for one in (judged, alone):
        assert [row["ranking"] for row in one.table][1:] == ["mixture of logits", "oracle"]
        assert one.figures[0].title.startswith("The mixture of logits is ")
        assert "two towers" not in " ".join(figure.title for figure in one.figures)
    assert CONFIG.watch(product, data, network).certificate.holds
    plain = RetrievalConfig(
        data=CONFIG.data, encoder=dataclasses.replace(CONFIG.encoder, similarity=SimilarityConfig())
    )
    assert set(plain.parameters()) == set(CONFIG.parameters())


def test_a_judgement_says_what_two_stages_find_and_how_much_work_they_save(
    data: Payload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = fitted(CONFIG.encoder, data, tmp_path)
    assert isinstance(network, MixtureOfLogits)
    product = CONFIG.index.build_index(data, network)
    judged = CONFIG.judge(product, data, network)
    claims = {claim.name: claim.value for claim in judged.certificate.claims}
    assert claims["certified_answers_wrong"] == claims["two_stage_forbidden_rows"] == 0

    # again, written out: the same questions, every passing item compared
    source, settings = CONFIG._source(data, network), CONFIG.judgement
    drawn = np.random.default_rng(settings.seed).permutation(len(source.queries))[: settings.queries]
    filters = sample_filters(source.attributes, len(drawn), seed=settings.seed)
    hits = MixtureSearching(network, product).hits(source.members[drawn], settings.k, filters)
    scores = logits(network, source.members[drawn], source.vectors)
    everything = RetrievalIndex.restore(product)
    recalls = []
    for row, where in enumerate(filters):
        passing = everything.search(np.zeros((1, source.vectors.shape[1]), np.float32), 90, where).ids[0]
        passing = sorted(passing[passing >= 0].tolist())
        right = sorted(passing, key=lambda item: (-scores[row, item], item))[: settings.k]
        recalls.append(np.isin(right, hits.ids[row]).mean() if right else 1.0)
    assert judged.metrics["two_stage_recall_at_10"] == pytest.approx(np.mean(recalls))
    assert judged.metrics["two_stage_certified"] == pytest.approx(hits.certified.double().mean().item())
    saved = 1 - hits.evaluated.sum().item() / hits.passing.sum().item()
    assert judged.metrics["two_stage_work_saved"] == pytest.approx(saved)
    assert 0 < saved < 1

    plain = MixtureSearching.hits

    def boastful(self: MixtureSearching, queries: Any, k: int, filters: Any) -> Any:
        found = plain(self, queries, k, filters)
        return found._replace(ids=found.ids.roll(1, 0), certified=torch.ones_like(found.certified))

    monkeypatch.setattr(MixtureSearching, "hits", boastful)
    failures = {claim.name for claim in CONFIG.judge(product, data, network).certificate.failures()}
    assert failures == {"certified_answers_wrong", "two_stage_forbidden_rows"}


def test_a_hadamard_network_begins_as_the_towers_and_has_no_index(data: Payload) -> None:
    config = dataclasses.replace(CONFIG.encoder, similarity=SimilarityConfig(kind="hadamard"))
    torch.manual_seed(0)
    network = config.network(config.sizes(data)).train()
    batch = next(iter(config.batches(data, rank=0, processes=1).epoch(0)))
    plain = dataclasses.replace(config, similarity=SimilarityConfig())
    torch.manual_seed(0)
    towers = plain.network(plain.sizes(data))
    assert retrieval_loss(network.eval(), batch).item() == pytest.approx(retrieval_loss(towers.eval(), batch).item())
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(2):  # the last layer begins at zero and lets gradients through from the second step on
        optimizer.zero_grad()
        retrieval_loss(network.train(), batch).backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.product.parameters())
    weights = {"weights": network.state_dict(), "training": {"sizes": config.sizes(data)}}
    configured = dataclasses.replace(CONFIG, encoder=config)
    judged = configured.judge(weights, data, None)
    assert judged.figures[0].title.startswith("The Hadamard network is ")
    certificate = judged.certificate
    assert not [claim for claim in certificate.failures() if claim.kind != "statistical"]
    with pytest.raises(ValueError, match=r"there is no index for SimilarityConfig\.kind 'hadamard'"):
        configured.index.build_index(data, network)


def test_ranking_in_float32_is_ranking_in_float64_but_for_near_ties() -> None:
    network = mixture()
    users, items = rows(network)
    np.testing.assert_allclose(compare_by(network)(users, items), logits(network, users, items), atol=1e-4)


def test_the_first_stage_is_asked_by_tower_vectors() -> None:
    network = mixture()
    users, items = rows(network)
    asked = tower_queries(network, users)
    np.testing.assert_allclose(asked @ items.T, users[:, :WIDTH] @ items[:, :WIDTH].T, atol=1e-6)
    search = MixtureSearching(network, RetrievalIndex.build(items, np.arange(ITEMS)).snapshot())
    ids, scores, passing = search(users, 3, None)
    assert ids.shape == scores.shape == (8, 3) and (passing == ITEMS).all()
