"""A sound ranker is certified, and every corruption of it is refused, by the claim that it breaks."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.common.certificate import Certificate
from models.common.contracts import Payload
from models.feed.events.metrics import hit_rate_at, ndcg_at
from models.feed.events.splits import Split
from models.feed.events.table import Events
from models.feed.ranking.next_item.certificate import Answers, Margins, certify
from models.feed.ranking.next_item.counter import Mixture
from models.feed.ranking.next_item.data import Questions, questions
from models.feed.ranking.next_item.initial import InitialConfig, initial_vectors
from models.feed.ranking.next_item.judge import Beside, JudgementConfig, _counting, _shape
from models.feed.ranking.next_item.network import NetworkConfig, NextItem
from models.feed.ranking.next_item.score import Scorer, ranks
from tests.models.feed.ranking.next_item.sequences import KINDS, NETWORK, random_ranker, simulated

SETTINGS = JudgementConfig()
MIXTURE = Mixture(weight=2.0, scale=1e-3)


@dataclass(repr=False)
class World:
    """A ranker, what it answers, and what is known of it; corruptions change parts of it."""

    data: Payload
    config: NetworkConfig = NETWORK
    weights: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.events, self.split = Events.from_payload(self.data), Split.from_payload(self.data)
        self.asked = questions(self.events, self.split, "test")
        self.network = random_ranker(self.events.items, self.config, scale=0.1)
        rows = self.split.train
        vectors = initial_vectors(
            InitialConfig(damping=1.0), self.events.user[rows], self.events.item[rows], self.events.items, 12, 0
        )
        known = np.bincount(self.events.item[rows], minlength=self.events.items) > 0
        self.network.begin(torch.from_numpy(vectors), torch.from_numpy(known))
        self.weights = dict(self.network.state_dict())
        self.beside = Beside.of(self.events, self.split, SETTINGS)

    def answers(self, network: NextItem | None = None, asked: Questions | None = None, **changed: Any) -> Answers:
        """What a service says that may have another network or other histories in mind."""
        asked = asked or self.asked
        scorer = Scorer(network or self.network)
        parts = {
            "user": self.asked.user,
            "target": self.asked.target,
            "rank": self.beside.ranks(scorer, MIXTURE, asked, self.data),
            "sampled": np.arange(0, len(self.asked), 3),
            "logit": scorer.logits(asked.take(np.arange(0, len(asked), 3)).history),
            "weight": MIXTURE.weight,
            "scale": MIXTURE.scale,
        }
        return Answers(**(parts | changed))

    def certify(self, **changed: Any) -> Certificate:
        parts: dict[str, Any] = {
            "weights": self.weights,
            "shape": _shape(self.network),
            "data": self.data,
            "counter": _counting(SETTINGS.counter, both=False),
            "companions": _counting(SETTINGS.companions, both=True),
            "margins": Margins(counter=1.0, popularity=1.0),
        }
        parts |= changed
        answers: Answers = parts.setdefault("answers", self.answers())
        reported = {}
        for name, rank in answers.rank.items():
            suffix = "" if name == "model" else f"_{name}"
            reported[f"recall_at_10{suffix}"] = float(hit_rate_at(rank, 10).mean())
            reported[f"ndcg_at_10{suffix}"] = float(ndcg_at(rank, 10).mean())
        parts["metrics"] = reported | parts.get("metrics", {})
        return certify(**parts)


@pytest.fixture(scope="module")
def world() -> World:
    return World(simulated())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_ranker_is_certified(kind: str) -> None:
    certificate = World(simulated(seed=2), replace(NETWORK, **KINDS[kind])).certify()
    assert certificate.failures() == ()
    assert certificate.holds
    assert certificate.kinds == "exact + bounded + statistical"
    errors = {claim.name: claim.value for claim in certificate.claims}
    assert errors["score_error"] < 3e-6, "the limit has room for more than rounding"


def test_items_unknown_to_training_are_certified_too() -> None:
    world = World(simulated(seed=8, users=30, items=90))
    assert not world.network.known.all()
    assert world.certify().failures() == ()


def rows(world: World, part: str, change: Callable[[np.ndarray], np.ndarray]) -> Payload:
    return {**world.data, part: change(np.asarray(world.data[part]))}


def weights(world: World, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    return {**world.weights, name: change(world.weights[name].clone())}


def table(world: World, column: str, change: Callable[[np.ndarray], np.ndarray]) -> Payload:
    events = world.data["events"]
    place = events.column_names.index(column)
    changed = pa.array(change(events[column].to_numpy().copy()), events[column].type)
    return {**world.data, "events": events.set_column(place, column, changed)}


def swapped(values: np.ndarray, one: int, other: int) -> np.ndarray:
    values = values.copy()
    values[[one, other]] = values[[other, one]]
    return values


def shifted(values: torch.Tensor) -> torch.Tensor:
    values.view(-1)[3] += 1e-2
    return values


def holed(values: torch.Tensor) -> torch.Tensor:
    values.view(-1)[3] = torch.nan
    return values


def more(world: World, items: int) -> Questions:
    """Histories that lack their last so many events, or have an event too many: the target itself."""
    lengths = world.asked.history.length
    if items < 0:
        words = [[*_word(world, place), int(world.asked.target[place])] for place in range(len(lengths))]
    else:
        words = [_word(world, place)[: len(_word(world, place)) - items] for place in range(len(lengths))]
    start = np.concatenate([[0], np.cumsum([len(word) for word in words])]).astype(np.int64)
    history = replace(world.asked.history, item=np.concatenate(words).astype(np.int64), start=start)
    return replace(world.asked, history=history)


def _word(world: World, place: int) -> list[int]:
    found: list[int] = world.asked.history.take(np.array([place])).item.tolist()
    return found


def backwards(world: World) -> Questions:
    words = [_word(world, place)[::-1] for place in range(len(world.asked))]
    return replace(world.asked, history=replace(world.asked.history, item=np.concatenate(words).astype(np.int64)))


def other_places(world: World, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Answers:
    rank = world.answers().rank
    return world.answers(rank={**rank, name: change(rank[name].copy())})


def popularity(world: World, rows: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Places by how often some rows have an item, the target's own count changed."""
    count = np.bincount(world.events.item[rows], minlength=world.events.items).astype(float)
    score = np.broadcast_to(count, (len(world.asked), len(count))).copy()
    place = np.arange(len(score)), world.asked.target
    score[place] = change(score[place])
    return ranks(world.asked, score)


def untied(world: World) -> np.ndarray:
    return popularity(world, world.split.train, lambda own: own + 0.5)


def counted_over(world: World, part: str) -> np.ndarray:
    return popularity(world, np.concatenate([world.split.train, getattr(world.split, part)]), lambda own: own)


def other_network(world: World, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Answers:
    network = NextItem(world.events.items, world.config).eval()
    network.load_state_dict(weights(world, name, change))
    return world.answers(network)


def another(world: World, **changed: Any) -> Answers:
    """A service that believes in other settings than those of the product."""
    network = NextItem(world.events.items, replace(world.config, **changed)).eval()
    network.load_state_dict(world.weights)
    return world.answers(network)


def swap_with_test(world: World) -> Payload:
    test, validation = (np.asarray(world.data[part]).copy() for part in ("test", "validation"))
    test[0], validation[0] = validation[0], test[0]
    return {**world.data, "test": np.sort(test), "validation": np.sort(validation)}


CORRUPTIONS: dict[str, tuple[str, Callable[[World], dict[str, Any]]]] = {
    "a weight that is no number": (
        "weights_not_finite",
        lambda w: {"weights": weights(w, "positions.weight", holed)},
    ),
    "a validation event among the training rows": (
        "protocol_violations",
        lambda w: {"data": rows(w, "train", lambda r: np.sort(np.append(r, w.split.validation[4])))},
    ),
    "a test event among the training rows": (
        "protocol_violations",
        lambda w: {"data": rows(w, "train", lambda r: np.sort(np.append(r, w.split.test[0])))},
    ),
    "a training row left out": ("protocol_violations", lambda w: {"data": rows(w, "train", lambda r: r[1:])}),
    "a row twice": ("protocol_violations", lambda w: {"data": rows(w, "test", lambda r: np.append(r, r[0]))}),
    "test and validation changed over": ("protocol_violations", lambda w: {"data": swap_with_test(w)}),
    "a user without a test event": ("protocol_violations", lambda w: {"data": rows(w, "test", lambda r: r[:-1])}),
    "events in another order than that of time": (
        "protocol_violations",
        lambda w: {"data": table(w, "time", lambda v: swapped(v, 3, 90))},
    ),
    "an item of the log changed": ("questions_wrong", lambda w: {"data": table(w, "item", lambda v: (v + 1) % 31)}),
    "an item called unknown": (
        "items_wrongly_known",
        lambda w: {"weights": weights(w, "known", lambda v: v & (torch.arange(31) != 5))},
    ),
    "a target that is another item": (
        "questions_wrong",
        lambda w: {"answers": w.answers(target=np.roll(w.asked.target, 1))},
    ),
    "a user asked about twice": (
        "questions_wrong",
        lambda w: {"answers": w.answers(user=np.append(w.asked.user[:-1], w.asked.user[0]))},
    ),
    "places of fewer users": (
        "questions_wrong",
        lambda w: {"answers": other_places(w, "counter", lambda r: r[:-1])},
    ),
    "a position one hundredth off": (
        "score_error",
        lambda w: {"answers": other_network(w, "positions.weight", shifted)},
    ),
    "item vectors shuffled": (
        "score_error",
        lambda w: {"answers": other_network(w, "items.weight", lambda v: v.roll(1, 0))},
    ),
    "a gate with its sign turned": (
        "score_error",
        lambda w: {"answers": other_network(w, "blocks.0.attention_gate.bias", torch.neg)},
    ),
    "a temperature of three quarters": ("score_error", lambda w: {"answers": another(w, temperature=0.0525)}),
    "inner products for cosines": (
        "score_error",
        lambda w: {"answers": another(w, similarity="inner", temperature=0.07)},
    ),
    "heads of another number": ("score_error", lambda w: {"answers": another(w, heads=3)}),
    "histories without their last event": ("score_error", lambda w: {"answers": w.answers(asked=more(w, 1))}),
    "histories that hold the target": ("score_error", lambda w: {"answers": w.answers(asked=more(w, -1))}),
    "histories turned round": ("score_error", lambda w: {"answers": w.answers(asked=backwards(w))}),
    "scores of another user": (
        "score_error",
        lambda w: {"answers": w.answers(logit=np.roll(w.answers().logit, 1, axis=0))},
    ),
    "places one better": (
        "model_places_wrong",
        lambda w: {"answers": other_places(w, "model", lambda r: np.maximum(r - 1, 0))},
    ),
    "places one better of the counter": (
        "counter_places_wrong",
        lambda w: {"answers": other_places(w, "counter", lambda r: np.where(r < 50, np.maximum(r - 1, 0), r))},
    ),
    "places one better of the hybrid": (
        "hybrid_places_wrong",
        lambda w: {"answers": other_places(w, "hybrid", lambda r: np.maximum(r - 1, 0))},
    ),
    "places of popularity a hundred too far back": (
        "popularity_places_wrong",
        lambda w: {"answers": other_places(w, "popularity", lambda r: r + 100)},
    ),
    "places one better of popularity": (
        "popularity_places_wrong",
        lambda w: {"answers": other_places(w, "popularity", lambda r: np.maximum(r - 1, 0))},
    ),
    "popularity with ties in the target's favour": (
        "popularity_places_wrong",
        lambda w: {"answers": other_places(w, "popularity", lambda r: untied(w))},
    ),
    "popularity counted with the test part": (
        "popularity_places_wrong",
        lambda w: {"answers": other_places(w, "popularity", lambda r: counted_over(w, "test"))},
    ),
    "places of the counter that is an input a hundred too far back": (
        "companions_places_wrong",
        lambda w: {"answers": other_places(w, "companions", lambda r: r + 100)},
    ),
    "the counter that is an input of another damping": (
        "companions_places_wrong",
        lambda w: {"companions": replace(_counting(SETTINGS.companions, both=True), tau=0.0)},
    ),
    "the counter that is an input divided by its rows alone": (
        "companions_places_wrong",
        lambda w: {"companions": replace(_counting(SETTINGS.companions, both=False), tau=0.0)},
    ),
    "places one better of the oracle": (
        "oracle_places_wrong",
        lambda w: {"answers": other_places(w, "oracle", lambda r: np.maximum(r - 1, 0))},
    ),
    "an oracle of another law": (
        "oracle_places_wrong",
        lambda w: {"data": {**w.data, "oracle_before": np.roll(w.data["oracle_before"], 1, axis=0)}},
    ),
    "a counter of another window": (
        "counter_places_wrong",
        lambda w: {"counter": replace(_counting(SETTINGS.counter, both=False), window=1)},
    ),
    "a counter that looks forward alone": (
        "counter_places_wrong",
        lambda w: {"counter": replace(_counting(SETTINGS.counter, both=False), backward=0.0)},
    ),
    "a hybrid of another weight": ("hybrid_places_wrong", lambda w: {"answers": w.answers(weight=40.0)}),
    "recall reported too high": ("recall_at_10_difference", lambda w: {"metrics": {"recall_at_10": 0.9}}),
    "NDCG reported a millionth too high": (
        "ndcg_at_10_difference",
        lambda w: {"metrics": {"ndcg_at_10": float(ndcg_at(w.answers().rank["model"], 10).mean()) + 1e-6}},
    ),
    "the counter reported too low": (
        "ndcg_at_10_counter_difference",
        lambda w: {"metrics": {"ndcg_at_10_counter": 0.0}},
    ),
    "the counter that is an input reported too low": (
        "ndcg_at_10_companions_difference",
        lambda w: {"metrics": {"ndcg_at_10_companions": 0.0}},
    ),
    "popularity reported too low": (
        "recall_at_10_popularity_difference",
        lambda w: {"metrics": {"recall_at_10_popularity": 0.0}},
    ),
    "the oracle reported too high": (
        "ndcg_at_10_oracle_difference",
        lambda w: {"metrics": {"ndcg_at_10_oracle": 0.99}},
    ),
    "the hybrid reported too high": (
        "ndcg_at_10_hybrid_difference",
        lambda w: {"metrics": {"ndcg_at_10_hybrid": 0.99}},
    ),
    "a ranker below the counter": (
        "ndcg_gain_over_counter_low",
        lambda w: {"margins": Margins(counter=-0.9, popularity=1.0)},
    ),
    "a ranker below popularity": (
        "ndcg_gain_over_popularity_low",
        lambda w: {"answers": other_places(w, "model", lambda r: r + 30), "margins": Margins(counter=1, popularity=0)},
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_refused_by_its_claim(world: World, name: str) -> None:
    claim, corrupt = CORRUPTIONS[name]
    failures = {one.name for one in world.certify(**corrupt(world)).failures()}
    assert claim in failures


def test_the_sound_world_of_the_corruptions_is_certified(world: World) -> None:
    assert world.certify().failures() == ()


def test_a_claim_that_fails_names_the_first_offender(world: World) -> None:
    row = int(world.split.validation[4])
    data = rows(world, "train", lambda found: np.sort(np.append(found, row)))
    (failure,) = [one for one in world.certify(data=data).failures() if one.name == "protocol_violations"]
    assert f"row {row} should not be in train" in failure.detail
