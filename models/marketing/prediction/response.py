"""How likely a member responds to each offer: one network for all offers, calibrated offer by offer.

The network sees a member once and says a logit for every offer; it learns from the offers that were shown. What it says
is turned into chances by a nondecreasing function of each offer, fitted to members that it was not trained on, so that
chances are right on average where it matters: an allocation compares chances of different offers.

`Logistic` is the small model for propensities and first projects: a straight line of features, fitted exactly.
"""

# Shapes: B members of a batch, N members, F features, M offers, W width, K knots.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload, TrainingConfig
from models.marketing.prediction.tabular import Rows, Tower, check_table

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

STEPS = 100
"""Most Newton steps of a logistic fit."""
NEAR = 1e-10
"""Relative gain of the next step below which it is the last."""
STEEPEST = 30.0
"""A slope above this, in logits a deviation of its feature, is taken for one without bound."""


# --- a straight line --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Logistic:
    """Chance 1 / (1 + exp(-(offset + slope . features))).

    Attributes:
        offset: at features of 0.
        slope: (F).
    """

    offset: float
    slope: Floats

    def __call__(self, features: Floats) -> Floats:
        """(N) chances."""
        return np.asarray(expit(features @ self.slope + self.offset), np.float64)


def fit_logistic(
    features: NDArray[Any], label: NDArray[Any], weight: NDArray[Any] | None = None, *, ridge: float = 1.0
) -> Logistic:
    """Fit a logistic regression by Newton's method.

    Args:
        features: (N, F) finite.
        label: (N) 0 to 1, of both kinds.
        weight: (N) 0 or more; None for ones.
        ridge: penalty on squared slopes in standard units of the features, in members: with 0 a feature that parts the
            labels has no finite slope; above 0 there is always one answer. The offset is free, so the mean chance is
            the mean label.

    Returns:
        The model.

    Raises:
        InputError: a value cannot be, the labels are all alike, or there is no maximum.

    Source:
        McCullagh & Nelder 1989, "Generalized linear models", section 2.5.
    """
    table, truth = np.asarray(features, np.float64), np.asarray(label, np.float64)
    mass = np.ones(len(truth)) if weight is None else np.asarray(weight, np.float64)
    _checked(table, truth, mass, ridge)
    centre, spread = table.mean(axis=0), table.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    design = np.concatenate([np.ones((len(table), 1)), (table - centre) / scale], axis=1)
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 0
    share = float(mass @ truth / mass.sum())
    now = np.zeros(design.shape[1])
    now[0] = np.log(share / (1 - share))

    def cost(at: Floats) -> float:
        line = design @ at
        return float(mass @ (np.logaddexp(0, line) - truth * line) + 0.5 * penalty @ at**2)

    lowest = cost(now)
    for _ in range(STEPS):
        chance = expit(design @ now)
        slope = design.T @ (mass * (chance - truth)) + penalty * now
        bend = design.T @ (design * (mass * chance * (1 - chance))[:, None]) + np.diag(penalty)
        step = np.linalg.lstsq(bend, slope, rcond=None)[0]
        if ridge == 0 and np.abs(now[1:]).max(initial=0) > STEEPEST:
            break
        if slope @ step <= NEAR * max(1.0, abs(lowest)):
            # from here one whole step ends at the optimum up to rounding, which the cost can no longer tell
            now = now - step
            found = now[1:] / scale
            return Logistic(offset=float(now[0] - found @ centre), slope=found)
        size = 1.0
        while (tried := cost(now - size * step)) > lowest and size > 1e-8:
            size /= 2
        now, lowest = now - size * step, min(tried, lowest)
    raise InputError(f"the logistic regression has no finite slopes, since some feature parts the labels; use a "
                     f"ridge above {ridge:g}.")  # fmt: skip


def _checked(table: Floats, truth: Floats, mass: Floats, ridge: float) -> None:
    if table.ndim != 2 or not len(table) or truth.shape != (len(table),) or mass.shape != truth.shape:
        raise InputError(f"features, labels and weights must have one row a member, got {table.shape}, {truth.shape}, "
                         f"{mass.shape}.")  # fmt: skip
    for name, good, remedy in (
        ("features", np.isfinite(table).all(1), "finite"),
        ("label", (truth >= 0) & (truth <= 1), "0 to 1"),
        ("weight", np.isfinite(mass) & (mass >= 0), "0 or more"),
    ):
        wrong = np.flatnonzero(~good)
        if len(wrong):
            raise InputError(f"{name} of member {wrong[0]} must be {remedy}.")
    if not 0 < mass @ truth < mass.sum():
        raise InputError(f"all {len(truth)} labels are alike, so there is nothing to tell apart.")
    if not ridge >= 0:
        raise InputError(f"ridge must be 0 or more, got {ridge}.")


# --- calibration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """A nondecreasing function through the middles of blocks.

    Attributes:
        score: (K) rising.
        chance: (K) not falling, 0 to 1.
    """

    score: Floats
    chance: Floats

    def __call__(self, score: NDArray[Any]) -> Floats:
        """Chances of scores of any shape; beyond the outermost blocks constant."""
        return np.asarray(np.interp(np.asarray(score, np.float64), self.score, self.chance), np.float64)


def fit_steps(score: NDArray[Any], label: NDArray[Any]) -> Steps:
    """Fit chances to labels that the scores were not learned from.

    Args:
        score: (N) finite.
        label: (N) 0 or 1.

    Returns:
        The function; one made-up member with the mean label at either end keeps chances off 0 and 1, and the mean
        chance is that of the labels, to which the broken line is moved.

    Raises:
        InputError: lengths differ, there is nobody, or a value cannot be.

    Source:
        Zadrozny & Elkan 2002, "Transforming classifier scores into accurate multiclass probability estimates".
    """
    values, truth = np.asarray(score, np.float64), np.asarray(label, np.float64)
    if values.shape != truth.shape or values.ndim != 1 or not len(values):
        raise InputError(
            f"scores and labels must be rows of one length, at least 1, got {values.shape}, {truth.shape}."
        )
    if not np.all(np.isfinite(values)) or not np.all((truth >= 0) & (truth <= 1)):
        raise InputError("scores must be finite and labels 0 to 1.")
    knots, place = np.unique(values, return_inverse=True)
    mass, positive = np.bincount(place).astype(np.float64), np.bincount(place, weights=truth)
    for end in (0, -1):
        mass[end] += 1
        positive[end] += truth.mean()
    begin = np.asarray(isotonic_regression(positive / mass, weights=mass).blocks[:-1], np.int64)
    size = np.add.reduceat(mass, begin)
    middle = np.add.reduceat(mass * knots, begin) / size
    chance = np.clip(np.add.reduceat(positive, begin) / size, 0, 1)
    said, wanted = float(np.interp(values, middle, chance).mean()), float(truth.mean())
    if said > wanted > 0:
        chance = chance * (wanted / said)
    elif said < wanted < 1:
        chance = 1 - (1 - chance) * ((1 - wanted) / (1 - said))
    return Steps(score=middle, chance=chance)


# --- the network ------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Members of a step: features (B, F), the offer that was shown to each (B), and the response to it (B)."""

    feature: Tensor
    offer: Tensor
    label: Tensor


class ResponseNetwork(nn.Module):
    """A tower, and for every offer a straight line of it.

    Args:
        features: F.
        offers: M.
        width: of the hidden layers.
        depth: hidden layers.
        dropout: share of hidden units that a step leaves out.

    Source:
        One body and a head for each action: Shalit, Johansson & Sontag 2017, "Estimating individual treatment effect",
        figure 1.
    """

    def __init__(self, features: int, offers: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.tower = Tower(features, width, depth, dropout)
        self.head = nn.Linear(self.tower.width, offers)

    def forward(self, feature: Tensor) -> Tensor:
        """Logits (B, M) of features (B, F) as they come."""
        out: Tensor = self.head(self.tower(feature))
        return out

    def last(self, feature: Tensor) -> Tensor:
        """(B, W + 1) what the last layer multiplies with its weights, its offset's 1 at the end."""
        inner = self.tower(feature)
        return torch.cat((inner, torch.ones_like(inner[:, :1])), dim=1)


@dataclass(frozen=True, kw_only=True)
class ResponseConfig:
    """A network that tells responses, and how it learns; a `Trainable`.

    Its data have the parts `features` (N, F), `offer` (N) number of the offer that was shown, `response` (N) 0 or 1,
    `offers` (M) names, and `train` and `validation`, numbers of rows.
    """

    width: int = setting(32, "Width", "Units of a hidden layer, 1 to 4096.", ge=1, le=4096)
    depth: int = setting(1, "Hidden layers", "How many, 0 to 8; 0: logistic regression.", ge=0, le=8)
    dropout: float = setting(0.0, "Dropout", "Share of hidden units that a step leaves out, 0 to 0.9.", ge=0, le=0.9)
    training: TrainingConfig = setting(
        lambda: TrainingConfig(epochs=10, batch_size=512, learning_rate=3e-3, weight_decay=1e-2, average=0.99),
        "Training",
        "How the network learns.",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def monitor(self) -> str:
        """The metric by which the best epoch is kept."""
        return "likelihood"

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """F and M; raises `InputError` for data that cannot be learned from."""
        check_table(data, "offer", "response")
        offer, response = np.asarray(data["offer"]), np.asarray(data["response"])
        names = list(data["offers"])
        wrong = np.flatnonzero(~((offer >= 0) & (offer < len(names))))
        if len(wrong):
            raise InputError(f"offer of member {wrong[0]} is {offer[wrong[0]]}; there are {len(names)} offers.")
        wrong = np.flatnonzero((response != 0) & (response != 1))
        if len(wrong):
            raise InputError(f"response of member {wrong[0]} is {response[wrong[0]]}; it must be 0 or 1.")
        for part in ("train", "validation"):
            shown = np.bincount(offer[data[part]], minlength=len(names))
            if not shown.all():
                raise InputError(f"{part} never shows the offer {names[int(np.argmin(shown))]!r}; leave it out or show "
                                 f"it to some members at random.")  # fmt: skip
        return {"features": int(data["features"].shape[1]), "offers": len(names)}

    def network(self, sizes: Mapping[str, int]) -> ResponseNetwork:
        """A fresh network."""
        return ResponseNetwork(sizes["features"], sizes["offers"], self.width, self.depth, self.dropout)

    def start(self, network: nn.Module, data: Payload) -> None:
        """Begin at the mean response to every offer, in standard units."""
        assert isinstance(network, ResponseNetwork)  # noqa: S101 - for the type checker
        rows = data["train"]
        offer, response = data["offer"][rows], np.asarray(data["response"][rows], np.float64)
        size = len(list(data["offers"]))
        shown, hits = np.bincount(offer, minlength=size), np.bincount(offer, weights=response, minlength=size)
        share = (hits + response.mean() + 1e-6) / (shown + 1 + 2e-6)
        network.tower.keep(np.asarray(data["features"][rows], np.float64))
        with torch.no_grad():
            network.head.bias.copy_(torch.from_numpy(np.log(share / (1 - share))))
            nn.init.zeros_(network.head.weight)

    def batches(self, data: Payload, *, rank: int, processes: int) -> "Shown":
        """This process's share of the training rows."""
        training, rows = self.training, np.asarray(data["train"], np.int64)
        order = Rows(rows, size=training.batch_size, seed=training.seed, rank=rank, processes=processes)
        return Shown(data, order)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the offers that were shown."""
        logit = network(batch.feature).gather(1, batch.offer[:, None])[:, 0]
        return functional.binary_cross_entropy_with_logits(logit, batch.label)

    def validate(self, network: nn.Module, data: Payload) -> Mapping[str, float]:
        """Likelihood per member, before calibration."""
        batch = batch_of(data, data["validation"])
        return {"likelihood": -float(self.loss(network, batch))}


@dataclass(frozen=True, kw_only=True, eq=False)
class Response:
    """A trained network and what turns its logits into chances.

    Attributes:
        network: trained.
        offers: (M) names.
        steps: (M) one function an offer.
    """

    network: ResponseNetwork
    offers: tuple[str, ...]
    steps: tuple[Steps, ...]

    def chances(self, features: Floats) -> Floats:
        """(N, M) calibrated chance that each member responds to each offer."""
        return self.calibrated(logits_of(self.network, features))

    def calibrated(self, logits: Floats) -> Floats:
        """(N, M) calibrated chances of logits (N, M), such as those of `exploration`."""
        return np.stack([step(logits[:, offer]) for offer, step in enumerate(self.steps)], axis=1)

    @classmethod
    def of(cls, network: ResponseNetwork, data: Payload) -> "Response":
        """Calibrate a trained network on the validation members.

        Raises:
            InputError: an offer has no validation member.
        """
        rows, names = np.asarray(data["validation"]), tuple(str(name) for name in data["offers"])
        offer, label = data["offer"][rows], data["response"][rows]
        logits = logits_of(network, data["features"][rows])
        steps = []
        for number, name in enumerate(names):
            shown = offer == number
            if not shown.any():
                raise InputError(f"no validation member was shown the offer {name!r}, so it cannot be calibrated.")
            steps.append(fit_steps(logits[shown, number], label[shown]))
        return cls(network=network, offers=names, steps=tuple(steps))


def logits_of(network: ResponseNetwork, features: NDArray[Any]) -> Floats:
    """(N, M) logits in float64 of a network that is not learning."""
    network.eval()
    with torch.no_grad():
        logits: Floats = network(torch.from_numpy(np.asarray(features, np.float32))).double().numpy()
    return logits


def batch_of(data: Payload, rows: Integers) -> Batch:
    """Rows of the data as a batch."""
    return Batch(
        feature=torch.from_numpy(np.asarray(data["features"][rows], np.float32)),
        offer=torch.from_numpy(np.asarray(data["offer"][rows], np.int64)),
        label=torch.from_numpy(np.asarray(data["response"][rows], np.float32)),
    )


class Shown:
    """Batches of offers that were shown; implements `models.common.contracts.Batches`.

    Args:
        data: see `ResponseConfig`.
        rows: which rows each batch has.
    """

    def __init__(self, data: Payload, rows: Rows) -> None:
        self._data, self._rows = data, rows

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches of one epoch."""
        for rows in self._rows.epoch(number):
            yield batch_of(self._data, rows)

    def __len__(self) -> int:
        return len(self._rows)
