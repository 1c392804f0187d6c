"""A sound ranker is certified, and every corruption of it is refused, by the claim that it breaks."""

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
from models.feed.events.metrics import auc, normalized_entropy
from models.feed.events.rates import PastRates
from models.feed.ranking.batches import batch_of, rows_of
from models.feed.ranking.certificate import Shape, certify
from models.feed.ranking.company import Company
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR, NetworkConfig
from models.feed.ranking.score import Ranker, batch_logits
from models.feed.recounting import Scored
from tests.models.feed.ranking.worlds import NETWORK, random_ranker, simulated

SESSIONS = 40


@dataclass(repr=False)
class World:
    """A ranker, what it serves, and what is known of it; corruptions change parts of it."""

    data: Payload
    config: NetworkConfig = NETWORK
    weights: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = Inputs.of(self.data)
        self.network = random_ranker(self.data, self.config, scale=0.15)
        self.test, self.known = (self.inputs.sessions_of(self.data[part]) for part in ("test", "validation"))
        self.network.calibrate_on(self.inputs.events, *batch_logits(self.network, self.inputs, self.known))
        self.weights = dict(self.network.state_dict())

    def scored(self, network: LiGR | None = None, inputs: Inputs | None = None) -> Scored:
        """What a service says that may have another network or another log in mind."""
        network, inputs = network or self.network, inputs or self.inputs
        rows, logit = Ranker(network, inputs.catalogue).logits(inputs, self.test)
        return self.said(rows, logit)

    def said(self, rows: np.ndarray, logit: np.ndarray) -> Scored:
        return Scored(rows=rows, logit=logit, chance=self.network.chances(logit), batch=logit)

    def asked(self, ask: Callable[[Ranker, int, np.ndarray, np.ndarray], np.ndarray]) -> Scored:
        """What a service says that asks in a way of its own: `ask(ranker, session, past, rows)`."""
        ranker = Ranker(self.network, self.inputs.catalogue)
        rows, found = [], []
        for session in self.test.tolist():
            past, shown = self.inputs.history(session, self.config.history), self.inputs.rows(session)
            rows.append(shown)
            found.append(ask(ranker, session, past, shown))
        return self.said(np.concatenate(rows), np.concatenate(found))

    def rank(self, ranker: Ranker, session: int, past: np.ndarray, shown: np.ndarray, **other: Any) -> np.ndarray:
        """The right way to ask, but for what is given."""
        events = self.inputs.events
        told = {"item": events.item, "action": events.actions, "gap": self.inputs.gap, "hour": self.inputs.hour}
        told |= {name: other.pop(name) for name in list(other) if name in told}
        cache = ranker.encode(told["item"][past], told["action"][past], told["gap"][past], told["hour"][past])
        if "shift" in other:
            cache = replace(cache, position=cache.position + other.pop("shift"))
        request = {
            "gap": int(self.inputs.session_gap[session]),
            "hour": int(self.inputs.hour[shown[0]]),
            "user": int(events.user[shown[0]]),
        }
        return ranker.rank(cache, events.item[shown], **(request | other))

    def certify(self, **changed: Any) -> Certificate:
        block = self.config.transformer
        rows, logit = batch_logits(self.network, self.inputs, self.known)
        parts: dict[str, Any] = {
            "weights": self.weights,
            "shape": Shape(
                heads=block.heads,
                history=self.config.history,
                setwise=self.config.setwise,
                self_key=block.self_key,
                rotary=block.rotary,
                window=block.window,
                rate_days=self.config.rate_days,
                user_rate=self.config.user_rate,
            ),
            "data": self.data,
            "validation": self.said(rows, logit),
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


@pytest.mark.parametrize(
    "changes",
    [
        {"session_layers": 1},
        {},
        {"setwise": False, "session_layers": 1},
        {"rate_days": 5, "user_rate": True},
        {"company": 2},
    ],
    ids=str,
)
def test_a_sound_ranker_is_certified(changes: dict[str, Any]) -> None:
    world = World(simulated(seed=2), replace(NETWORK, **changes))
    batch = batch_logits(world.network, world.inputs, world.test)[1]
    certificate = world.certify(test=replace(world.scored(), batch=batch))
    assert certificate.failures() == ()
    assert certificate.holds
    assert certificate.kinds == "exact + bounded + statistical"
    errors = {claim.name: claim.value for claim in certificate.claims}
    assert errors["served_score_error"] < 5e-6, "the limit has room for more than rounding"


# --- corruptions ------------------------------------------------------------------------------------------------------


def other_weights(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[World], dict[str, Any]]:
    """The service has other weights than the product."""

    def corrupt(world: World) -> dict[str, Any]:
        network = random_ranker(world.data, world.config)
        network.load_state_dict({**world.weights, name: change(world.weights[name].clone())})
        return {"test": world.scored(network)}

    return corrupt


def other_config(**changed: Any) -> Callable[[World], dict[str, Any]]:
    """The service builds another network from the same weights."""

    def corrupt(world: World) -> dict[str, Any]:
        block = {key: changed[key] for key in changed if hasattr(world.config.transformer, key)}
        rest = {key: value for key, value in changed.items() if key not in block}
        config = replace(world.config, transformer=replace(world.config.transformer, **block), **rest)
        network = random_ranker(world.data, config)
        network.load_state_dict(world.weights, strict=False)
        return {"test": world.scored(network)}

    return corrupt


def asks(ask: Callable[..., np.ndarray]) -> Callable[[World], dict[str, Any]]:
    """The service asks the right network wrongly."""
    return lambda world: {"test": world.asked(lambda *request: ask(world, *request))}


def product(**changed: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[World], dict[str, Any]]:
    """The product itself has other numbers, and the service follows it."""

    def corrupt(world: World) -> dict[str, Any]:
        weights = {**world.weights, **{name: change(world.weights[name].clone()) for name, change in changed.items()}}
        return {"weights": weights}

    return corrupt


def says(change: Callable[[Scored], Scored]) -> Callable[[World], dict[str, Any]]:
    """What was served is changed on its way."""
    return lambda world: {"test": change(world.scored())}


def data(change: Callable[[World], dict[str, Any]]) -> Callable[[World], dict[str, Any]]:
    """The data set has other parts."""
    return lambda world: {"data": {**world.data, **change(world)}}


def shuffled(table: torch.Tensor) -> torch.Tensor:
    return table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]


def own_labels(world: World, ranker: Ranker, session: int, past: np.ndarray, shown: np.ndarray) -> np.ndarray:
    return world.rank(ranker, session, np.concatenate([past, shown]), shown)


def the_future(world: World, ranker: Ranker, session: int, past: np.ndarray, shown: np.ndarray) -> np.ndarray:
    histories, user = world.inputs.histories, world.inputs.events.user[shown[0]]
    return world.rank(ranker, session, histories.rows[histories.start[user] : histories.start[user + 1]][-31:], shown)


def somebody_else(world: World, ranker: Ranker, session: int, past: np.ndarray, shown: np.ndarray) -> np.ndarray:
    return world.rank(ranker, session, world.inputs.history(int(world.test[0]), 31), shown)


def each_alone(world: World, ranker: Ranker, session: int, past: np.ndarray, shown: np.ndarray) -> np.ndarray:
    return np.concatenate([world.rank(ranker, session, past, shown[[at]]) for at in range(len(shown))])


def one_slot_on(scored: Scored) -> Scored:
    return replace(scored, logit=np.roll(scored.logit, 1, 0), chance=np.roll(scored.chance, 1, 0))


def nudged(scored: Scored) -> Scored:
    logit = scored.logit + np.float32(1e-3)
    return replace(scored, logit=logit, batch=logit)


def dipped(table: torch.Tensor) -> torch.Tensor:
    table[0, 1, 1] = table[0, 1, 0] - 1e-6
    return table


def doubled(table: torch.Tensor) -> torch.Tensor:
    table[:, 0] *= 1.5
    return table


def swapped_parts(world: World) -> dict[str, Any]:
    return {"validation": world.data["test"], "test": world.data["validation"]}


def told(world: World) -> dict[str, Any]:
    return {"train": np.append(world.data["train"], world.data["test"][:1])}


def torn(world: World) -> dict[str, Any]:
    rows = world.data["validation"]
    return {"validation": rows[1:], "test": np.append(rows[:1], world.data["test"])}


def turned_back(world: World) -> dict[str, Any]:
    table = world.data["events"]
    time = np.array(table["time"].to_numpy())
    time[int(world.data["test"][-1])] = time[0] - 1
    return {"events": table.set_column(table.column_names.index("time"), "time", pa.array(time))}


def other_genres(world: World) -> dict[str, Any]:
    items = world.data["items"]
    backwards = items["item_category"].take(pa.array(np.arange(items.num_rows)[::-1]))
    return {"items": pa.table({"id": items["id"], "item_category": backwards})}


def calibrated_on_the_test(world: World) -> dict[str, Any]:
    rows, logit = batch_logits(world.network, world.inputs, world.test)
    network = random_ranker(world.data, world.config)
    network.load_state_dict(world.weights)
    network.calibrate_on(world.inputs.events, rows, logit)
    chance = network.chances(world.scored().logit)
    return {"weights": dict(network.state_dict()), "test": replace(world.scored(), chance=chance)}


def other_chances(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[World], dict[str, Any]]:
    """Product and service share a calibration that the validation part does not give."""

    def corrupt(world: World) -> dict[str, Any]:
        steps = [Isotonic(score=step.score, chance=change(step.chance)) for step in world.network.steps()]
        network = random_ranker(world.data, world.config)
        network.load_state_dict(world.weights)
        network.calibrate(steps)
        scored = world.scored()
        return {
            "weights": dict(network.state_dict()),
            "test": replace(scored, chance=network.chances(scored.logit)),
        }

    return corrupt


GATE = "transformer.blocks.1.attention.gate.weight"
CORRUPTIONS: dict[str, tuple[str, Callable[[World], dict[str, Any]]]] = {
    "rows of the item embedding are shuffled": ("served_score_error", other_weights("items.weight", shuffled)),
    "rows of the category embedding are shuffled": (
        "served_score_error",
        other_weights("categories.weight", shuffled),
    ),
    "a gate has the other sign": ("served_score_error", other_weights(GATE, torch.neg)),
    "a norm is left out": (
        "served_score_error",
        other_weights("transformer.blocks.0.feed_forward.norm.weight", torch.ones_like),
    ),
    "one weight has lost its last digits": (
        "served_score_error",
        other_weights("head.2.weight", lambda table: table.half().float()),
    ),
    "heads are split otherwise": ("served_score_error", other_config(heads=3)),
    "positions are forgotten": ("served_score_error", other_config(rotary=False)),
    "a candidate does not see itself": ("served_score_error", other_config(self_key=False)),
    "the service is not set-wise": ("served_score_error", other_config(setwise=False)),
    "biases are those of other items": (
        "served_score_error",
        other_weights("bias.weight", shuffled),
    ),
    "candidates are asked one by one": ("served_score_error", asks(each_alone)),
    "the history is one event short": ("served_score_error", other_config(history=30)),
    "the session's own labels are in its history": ("served_score_error", asks(own_labels)),
    "the future is in the history": ("served_score_error", asks(the_future)),
    "the history is somebody else's": ("served_score_error", asks(somebody_else)),
    "the history runs backwards": (
        "served_score_error",
        asks(lambda w, ranker, session, past, shown: w.rank(ranker, session, past[::-1], shown)),
    ),
    "responses are turned round": (
        "served_score_error",
        asks(lambda w, *request: w.rank(*request, action=1 - w.inputs.events.actions)),
    ),
    "responses of the tasks are swapped": (
        "served_score_error",
        asks(lambda w, *request: w.rank(*request, action=w.inputs.events.actions[:, ::-1].copy())),
    ),
    "candidates stand at the wrong position": (
        "served_score_error",
        asks(lambda w, *request: w.rank(*request, shift=3)),
    ),
    "the clock is an hour off": (
        "served_score_error",
        asks(lambda w, *request: w.rank(*request, hour=(w.inputs.hour + 1) % 24)),
    ),
    "gaps are those of a log in milliseconds": (
        "served_score_error",
        asks(lambda w, *request: w.rank(*request, gap=np.minimum(w.inputs.gap + 10, 39))),
    ),
    "scores come back one slot on": ("served_score_error", says(one_slot_on)),
    "scores are off by a thousandth": ("served_score_error", says(nudged)),
    "the items have other categories": ("served_score_error", data(other_genres)),
    "batches say something else": (
        "batch_score_difference",
        says(lambda scored: replace(scored, batch=scored.batch + np.float32(1e-4))),
    ),
    "a weight is not a number": (
        "weights_not_finite",
        product(candidate=lambda weight: torch.full_like(weight, torch.nan)),
    ),
    "the calibration falls somewhere": ("calibration_disorder", product(calibration=dipped)),
    "there is no calibration": ("calibration_disorder", product(knots=torch.zeros_like)),
    "the calibration is stretched": ("calibration_refit_difference", product(calibration=doubled)),
    "the calibration knows the test part": ("calibration_refit_difference", calibrated_on_the_test),
    "chances are those of another task": (
        "chance_error",
        says(lambda scored: replace(scored, chance=scored.chance[:, ::-1])),
    ),
    "chances are overconfident": ("calibration_bins_off", other_chances(lambda chance: chance**3)),
    "chances are too high": ("calibration_sum_off", other_chances(lambda chance: chance**0.2)),
    "a chance falls where scores rise": (
        "calibration_disorder",
        says(lambda scored: replace(scored, chance=1 - scored.chance)),
    ),
    "a row of the test part was not scored": (
        "rows_missing_or_foreign",
        says(lambda s: Scored(rows=s.rows[1:], logit=s.logit[1:], chance=s.chance[1:], batch=s.batch[1:])),
    ),
    "a row was scored twice": (
        "rows_missing_or_foreign",
        says(lambda s: Scored(*[], **{k: np.append(v, v[:1], 0) for k, v in vars(s).items()})),
    ),
    "AUC is rounded up": ("auc_difference", lambda world: {"metrics": {"auc": 0.99}}),
    "entropy is that of another base rate": (
        "normalized_entropy_difference",
        lambda world: {"metrics": {"normalized_entropy": 0.5}},
    ),
    "a test row was trained on": ("time_order_violations", data(told)),
    "a session is torn": ("time_order_violations", data(torn)),
    "validation and test are swapped": ("time_order_violations", data(swapped_parts)),
    "the log runs back": ("time_order_violations", data(turned_back)),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_refused_by_the_claim_that_it_breaks(world: World, name: str) -> None:
    claim, corrupt = CORRUPTIONS[name]
    certificate = world.certify(**corrupt(world))
    assert not certificate.holds
    assert claim in {failure.name for failure in certificate.failures()}, certificate.failures()


def other_days(world: World) -> Scored:
    """The service counts the rates of items over other days."""
    network = random_ranker(world.data, replace(world.config, rate_days=9))
    network.load_state_dict(world.weights)
    return world.scored(network)


def own_session_counts(world: World) -> Scored:
    """The rates of items include the session that is asked about."""
    inputs = world.inputs
    with pytest.MonkeyPatch.context() as patch:
        right = PastRates.before
        patch.setattr(PastRates, "before", lambda self, item, moment, days: right(self, item, moment + 1, days))
        return world.scored(inputs=inputs)


def rates_of_others(world: World) -> Scored:
    """Each candidate is told the rate of the item after it."""
    with pytest.MonkeyPatch.context() as patch:
        right = PastRates.before
        patch.setattr(PastRates, "before", lambda self, item, *other: right(self, np.roll(item, 1), *other))
        return world.scored()


def rates_swapped(world: World) -> Scored:
    """The rate of the user is told as that of the item."""
    inputs = Inputs.of(world.data)
    vars(inputs)["user_rates"] = inputs.item_rates
    return world.scored(inputs=inputs)


def no_company(world: World) -> Scored:
    """Candidates are asked one by one."""
    return world.asked(lambda *request: each_alone(world, *request))


def itself_in_company(world: World) -> Scored:
    """A candidate is among its own company."""
    with pytest.MonkeyPatch.context() as patch:
        right = Company.counts
        patch.setattr(Company, "counts", lambda self, vector, session: right(self, vector, session) + 1)
        return world.scored()


@pytest.mark.parametrize(
    ("changes", "corrupt"),
    [
        ({"rate_days": 5, "user_rate": True}, other_days),
        ({"rate_days": 5}, own_session_counts),
        ({"rate_days": 5}, rates_of_others),
        ({"user_rate": True}, own_session_counts),
        ({"user_rate": True}, rates_swapped),
        ({"setwise": True, "company": 2}, no_company),
        ({"company": 2}, itself_in_company),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_rate_or_a_company_that_is_told_wrongly_is_refused(
    changes: dict[str, Any], corrupt: Callable[[World], Scored]
) -> None:
    world = World(simulated(), replace(NETWORK, **changes))
    assert world.certify().failures() == ()
    assert "served_score_error" in {claim.name for claim in world.certify(test=corrupt(world)).failures()}


def test_labels_of_the_session_in_training_batches_would_be_refused_too(world: World) -> None:
    """A batch in which candidates see events of their own session differs from what is served."""
    rows = rows_of(world.inputs, world.test, history=31, candidates=0)
    longer = replace(rows, length=rows.length + 1, seen=rows.seen + 1)
    with torch.no_grad():
        batch = batch_of(world.inputs, longer, np.arange(len(rows)), np.ones(len(world.inputs.events), np.float32))
        logit = world.network(batch).numpy()
    size = np.diff(rows.start)
    said = np.concatenate([logit[place, : size[place]] for place in range(len(rows))])
    order = np.argsort(rows.row)
    certificate = world.certify(test=replace(world.scored(), batch=said[order]))
    assert [claim.name for claim in certificate.failures()] == ["batch_score_difference"]
