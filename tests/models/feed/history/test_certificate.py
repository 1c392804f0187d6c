"""A sound scorer is certified, and every corruption of it is refused, by the claim that it breaks."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.common.calibration import Isotonic
from models.common.certificate import Certificate
from models.common.contracts import Payload
from models.feed.events.features import FEATURES
from models.feed.events.metrics import auc, normalized_entropy
from models.feed.history.certificate import NAMES, REQUEST, Shape, certify
from models.feed.history.inputs import OF_REQUEST, Inputs, Past
from models.feed.history.network import DLRM, NetworkConfig
from models.feed.history.score import Scorer, appended_logits, batch_logits
from models.feed.recounting import Scored
from tests.models.feed.history.worlds import NETWORK, VARIANTS, random_scorer, simulated

SESSIONS = 24


@dataclass(repr=False)
class World:
    """A scorer, what it serves, and what is known of it; corruptions change parts of it."""

    data: Payload
    config: NetworkConfig = NETWORK
    weights: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = Inputs.of(self.data)
        self.network = random_scorer(self.data, self.config)
        self.test, self.known = (self.inputs.sessions_of(self.data[part]) for part in ("test", "validation"))
        self.network.calibrate_on(self.inputs.events, *batch_logits(self.network, self.inputs, self.known))
        self.weights = dict(self.network.state_dict())

    def scored(self, network: DLRM | None = None, inputs: Inputs | None = None) -> Scored:
        """What a service says that may have another network or another log in mind."""
        network, inputs = network or self.network, inputs or self.inputs
        return self.said(*Scorer(network, inputs.catalogue).logits(inputs, self.test))

    def said(self, rows: np.ndarray, logit: np.ndarray) -> Scored:
        return Scored(rows=rows, logit=logit, chance=self.network.chances(logit), batch=logit)

    def asked(self, ask: Callable[[Scorer, int, Past, np.ndarray], np.ndarray]) -> Scored:
        """What a service says that asks in a way of its own: `ask(scorer, user, past, rows)`."""
        scorer = Scorer(self.network, self.inputs.catalogue)
        rows, found = [], []
        for session in self.test.tolist():
            shown = self.inputs.rows(session)
            past = self.inputs.past(session, self.config.history, self.config.stride)
            rows.append(shown)
            found.append(ask(scorer, int(self.inputs.events.user[shown[0]]), past, shown))
        row, logit = np.concatenate(rows), np.concatenate(found)
        order = np.argsort(row)
        return self.said(row[order], logit[order])

    def certify(self, **changed: Any) -> Certificate:
        block = self.config.transformer
        parts: dict[str, Any] = {
            "weights": self.weights,
            "shape": Shape(
                form=self.config.form,
                heads=block.heads,
                rotary=block.rotary,
                history=self.config.history,
                stride=self.config.stride,
                last=self.config.last,
            ),
            "data": self.data,
            "validation": self.said(*batch_logits(self.network, self.inputs, self.known)),
            "appended": appended_logits(self.network, self.inputs, self.test[::5]),
            "sessions": SESSIONS,
            "seed": 1,
            "margin": 0.1,
        }
        parts |= changed
        test = parts.setdefault("test", self.scored())
        label = self.inputs.events.label[test.rows]
        reported = {
            "auc": auc(label, test.logit[:, 0]),
            "normalized_entropy": normalized_entropy(label, test.chance[:, 0]),
        }
        parts["metrics"] = reported | parts.get("metrics", {})
        return certify(**parts)


@pytest.fixture(scope="module")
def world() -> World:
    return World(simulated())


def test_the_reference_knows_the_features_by_their_names() -> None:
    assert NAMES == FEATURES
    assert [NAMES.index(name) for name in REQUEST] == list(OF_REQUEST)


@pytest.mark.parametrize("form", ["append", "append with self key", "concat", "low rank"])
def test_a_sound_scorer_is_certified(form: str) -> None:
    world = World(simulated(seed=2), VARIANTS[form])
    batch = batch_logits(world.network, world.inputs, world.test)[1]
    # the network is drawn, not trained: its calibration is fitted on one part and may be off on the next
    certificate = world.certify(test=replace(world.scored(), batch=batch), margin=1.0)
    assert certificate.failures() == ()
    assert certificate.kinds == "exact + bounded + statistical"
    errors = {claim.name: claim.value for claim in certificate.claims}
    assert errors["served_score_error"] < 5e-6, "the limit has room for more than rounding"


# --- corruptions ------------------------------------------------------------------------------------------------------


def other_weights(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[World], dict[str, Any]]:
    """The service has other weights than the product."""

    def corrupt(world: World) -> dict[str, Any]:
        network = random_scorer(world.data, world.config)
        network.load_state_dict({**world.weights, name: change(world.weights[name].clone())})
        return {"test": world.scored(network)}

    return corrupt


def other_config(**changed: Any) -> Callable[[World], dict[str, Any]]:
    """The service builds another network from the same weights."""

    def corrupt(world: World) -> dict[str, Any]:
        block = {key: changed[key] for key in changed if hasattr(world.config.transformer, key)}
        rest = {key: value for key, value in changed.items() if key not in block}
        config = replace(world.config, transformer=replace(world.config.transformer, **block), **rest)
        network = random_scorer(world.data, config)
        network.load_state_dict(world.weights)
        return {"test": world.scored(network)}

    return corrupt


def asks(ask: Callable[..., np.ndarray]) -> Callable[[World], dict[str, Any]]:
    """The service is asked in another way."""

    def corrupt(world: World) -> dict[str, Any]:
        def way(scorer: Scorer, user: int, past: Past, rows: np.ndarray) -> np.ndarray:
            return ask(world, scorer, user, past, rows)

        return {"test": world.asked(way)}

    return corrupt


def right(world: World, scorer: Scorer, user: int, past: Past, rows: np.ndarray, **other: Any) -> np.ndarray:
    told = {"item": world.inputs.events.item[rows], "raw": world.inputs.raw[rows]} | other
    return scorer.score(user, past, told["item"], told["raw"])


def stale(world: World, scorer: Scorer, user: int, past: Past, rows: np.ndarray) -> np.ndarray:
    """The user's kept history is served although she has done something since."""
    kept = scorer.histories.get(user)
    return right(world, scorer, user, past if kept is None else kept.past, rows)


def foreign(world: World, scorer: Scorer, user: int, past: Past, rows: np.ndarray) -> np.ndarray:
    """The cache finds the history of another user: it forgets to ask who it is."""
    return right(world, scorer, user, world.inputs.past(int(world.test[0]), 31, 7), rows)


def with_labels(world: World, scorer: Scorer, user: int, past: Past, rows: np.ndarray) -> np.ndarray:
    """The history holds the session's own responses."""
    events = world.inputs.events
    longer = Past(
        np.append(past.item, events.item[rows].astype(np.int64)),
        np.concatenate([past.action, events.actions[rows]]),
        np.append(past.gap, world.inputs.gap[rows]),
    )
    return right(world, scorer, user, longer, rows)


def nudged(world: World, amount: float) -> Scored:
    sound = world.scored()
    logit = sound.logit.copy()
    logit += np.float32(amount)
    return world.said(sound.rows, logit)


def swapped(world: World) -> dict[str, Any]:
    """Two candidates of each session trade scores."""
    return {"test": world.asked(lambda scorer, user, past, rows: right(world, scorer, user, past, rows)[::-1])}


def leaked_feature(world: World) -> dict[str, Any]:
    """A feature of all rows counts the row itself; the network is served with what it was trained on."""
    data = dict(world.data)
    features = data["features"].copy()
    features[:, NAMES.index("item_rate")] += 0.01 * world.inputs.events.label
    return {"data": {**data, "features": features}}


def later_units(world: World) -> dict[str, Any]:
    """Features are put into units of all rows, the test part's too."""
    raw = world.inputs.raw.astype(np.float64)
    mean = torch.from_numpy(raw.mean(0))
    return {"weights": {**world.weights, "mean": mean}}


def torn(world: World) -> dict[str, Any]:
    data = dict(world.data)
    data["train"] = np.append(data["train"], data["test"][0])
    data["test"] = data["test"][1:]
    return {"data": data}


def turned_responses(world: World) -> dict[str, Any]:
    table = world.data["events"]
    place = table.column_names.index("action_click")
    turned = pa.array(1 - table["action_click"].to_numpy())
    return {"data": {**world.data, "events": table.set_column(place, "action_click", turned)}}


def fitted_on_test(world: World) -> dict[str, Any]:
    sound = world.scored()
    network = random_scorer(world.data, world.config)
    network.load_state_dict(world.weights)
    network.calibrate_on(world.inputs.events, sound.rows, sound.logit)
    return {
        "weights": dict(network.state_dict()),
        "test": replace(sound, chance=network.chances(sound.logit)),
    }


def overconfident(world: World) -> dict[str, Any]:
    network = random_scorer(world.data, world.config)
    network.load_state_dict(world.weights)
    network.calibrate([Isotonic(score=np.array([-9.0, 9.0]), chance=np.array([0.9, 0.99]))] * 2)
    sound = world.scored()
    return {"weights": dict(network.state_dict()), "test": replace(sound, chance=network.chances(sound.logit))}


def dropped_rows(world: World) -> dict[str, Any]:
    sound = world.scored()
    kept = np.arange(len(sound.rows)) != 17
    return {"test": Scored(**{name: getattr(sound, name)[kept] for name in ("rows", "logit", "chance", "batch")})}


CORRUPTIONS: dict[str, tuple[Callable[[World], dict[str, Any]], str]] = {
    "an embedding is off by one part in a thousand": (
        other_weights("items.weight", lambda weight: weight * 1.001), "served_score_error"),
    "users are shifted by one": (other_weights("users.weight", lambda w: w.roll(1, 0)), "served_score_error"),
    "a head's sign is flipped": (other_weights("head.tasks.weight", torch.neg), "served_score_error"),
    "a cross layer has no bias": (
        other_weights("head.cross.1.outward.bias", torch.zeros_like), "served_score_error"),
    "a gate is open": (
        other_weights("transformer.blocks.0.attention.gate.bias", lambda w: w + 1), "served_score_error"),
    "the candidate sees itself": (other_config(form="append with self key"), "served_score_error"),
    "the heads are others": (other_config(heads=3), "served_score_error"),
    "no positions": (other_config(rotary=False), "served_score_error"),
    "the history is shorter": (other_config(history=20), "served_score_error"),
    "another stride": (other_config(stride=5), "served_score_error"),
    "features in units of their own": (
        other_weights("scale", lambda scale: scale * 1.01), "served_score_error"),
    "a kept history is served stale": (asks(stale), "append_score_difference"),
    "the history of another user is found": (asks(foreign), "append_score_difference"),
    "the history holds the session's responses": (asks(with_labels), "served_score_error"),
    "candidates trade scores": (swapped, "served_score_error"),
    "scores drift between training and service": (
        lambda world: {"test": replace(world.scored(), batch=world.scored().logit + np.float32(1e-4))},
        "batch_score_difference"),
    "scores are nudged": (lambda world: {"test": nudged(world, 1e-3)}, "served_score_error"),
    "a feature counts its own row": (leaked_feature, "feature_error"),
    "units know the test part": (later_units, "standard_unit_error"),
    "a session is in two parts": (torn, "time_order_violations"),
    "responses are turned round": (turned_responses, "auc_difference"),
    "the calibration knows the test part": (fitted_on_test, "calibration_refit_difference"),
    "chances are too high": (overconfident, "calibration_bins_off"),
    "chances are not those of the steps": (
        lambda world: {"test": replace(world.scored(), chance=world.scored().chance * 0.99)}, "chance_error"),
    "the order of chances is not that of scores": (
        lambda world: {"test": replace(world.scored(), chance=1 - world.scored().chance)}, "calibration_disorder"),
    "there is no calibration": (
        lambda world: {"weights": {**world.weights, "knots": torch.zeros(2, dtype=torch.int64)}},
        "calibration_disorder"),
    "a row is missing": (dropped_rows, "rows_missing_or_foreign"),
    "a weight is not a number": (
        lambda world: {"weights": {**world.weights, "event.weight": world.weights["event.weight"] * torch.nan}},
        "weights_not_finite"),
    "a larger AUC is reported": (lambda world: {"metrics": {"auc": 0.93}}, "auc_difference"),
    "a smaller entropy is reported": (
        lambda world: {"metrics": {"normalized_entropy": 0.5}}, "normalized_entropy_difference"),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_refused_by_the_claim_that_it_breaks(world: World, name: str) -> None:
    corrupt, claim = CORRUPTIONS[name]
    certificate = world.certify(**corrupt(world))
    assert not certificate.holds
    assert claim in {failed.name for failed in certificate.failures()}
