"""How likely a member responds to each offer: one network for all offers, calibrated offer by offer.

The network sees a member once and says a logit for every offer; it learns from the offers that were shown. What it says
is turned into chances by a nondecreasing function of each offer, fitted to members that it was not trained on, so that
chances are right on average where it matters: an allocation compares chances of different offers.
"""

# Shapes: B members of a batch, N members, F features, M offers, W width.

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.common.calibration import Isotonic, fit_isotonic
from models.common.contracts import Payload
from models.common.errors import InputError
from models.marketing.prediction.tabular import Batched, Tower, TowerConfig, check_table
from models.marketing.prediction.windows import whole

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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
class ResponseConfig(TowerConfig):
    """A network that tells responses, and how it learns; a `Trainable`.

    Its data have the parts `features` (N, F), `offer` (N) number of the offer that was shown, `response` (N) 0 or 1,
    `offers` (M) names, and `train` and `validation`, numbers of rows.
    """

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """F and M; raises `InputError` for data that cannot be learned from."""
        check_table(data, "offer", "response")
        offer, response = whole(np.asarray(data["offer"]), "offer of member"), np.asarray(data["response"])
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

    def batches(self, data: Payload, *, rank: int, processes: int) -> Batched[Batch]:
        """This process's share of the training rows."""
        return Batched(partial(batch_of, data), self.order(data, rank=rank, processes=processes))

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
    steps: tuple[Isotonic, ...]

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
            steps.append(fit_isotonic(logits[shown, number], label[shown]))
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
