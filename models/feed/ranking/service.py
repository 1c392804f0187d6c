"""A ranker as it is served: users by their identifiers, histories kept between requests, items that nobody knew.

A request of a user whose history was computed before finds it; one whose events went on since then computes these
alone. A user with more events than `NetworkConfig.history` is computed anew when she did something, because then the
oldest event that is seen moves, and with it the position of all others.
"""

# Shapes: L events of a history, N candidates, T tasks, G codes of unknown items.

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.common.amortised import Cache
from models.common.contracts import Payload
from models.feed.events.catalogue import gap_codes
from models.feed.events.kept import ByteLru, Kept, OfLog, Outcomes
from models.feed.events.known import GUESTS, Asked, Identifier, Known, Line, Scores
from models.feed.ranking.inputs import Inputs, hours
from models.feed.ranking.network import LiGR
from models.feed.ranking.score import Ranker

Integers = NDArray[np.int64]


class _Roomy(Ranker):
    """A ranker with room for codes behind those of its catalogue: items that are their categories alone, one stranger.

    What it says of the catalogue's own items has the bits that a plain `Ranker` gives.
    """

    def __init__(self, network: LiGR, inputs: Inputs, *, threads: int = 0) -> None:
        super().__init__(network, inputs.catalogue, threads=threads)
        self._behind = len(self._vectors)
        self._vectors = torch.cat((self._vectors, torch.zeros(GUESTS, self._vectors.shape[1])))
        network.bias = _longer(network.bias, GUESTS)
        if network.users is not None:
            network.users = _longer(network.users, 1)

    @torch.no_grad()
    def admit(self, code: int, kinds: tuple[int, ...]) -> None:
        """Let a code behind the catalogue stand for some categories."""
        table = self.network.categories
        if table is not None and kinds:
            self._vectors[code] = self.network.project(table(torch.tensor(kinds)).mean(0))

    @torch.no_grad()
    def extended(self, cache: Cache, past: "_Past", known: int) -> Cache:
        """A kept history of `known` events, and the later ones of some events after it."""
        token_LD = self.network.event_tokens(
            self._vectors[torch.from_numpy(past.item)],
            torch.from_numpy(past.action),
            torch.from_numpy(past.gap),
            torch.from_numpy(past.hour),
        )
        return self._amortised.extend(cache, token_LD[known:])


class _Past(NamedTuple):
    """Events of one user as the ranker sees them, oldest first."""

    item: Integers
    action: NDArray[np.float32]
    gap: Integers
    hour: Integers

    def begins_with(self, other: "_Past") -> bool:
        """Whether all events of another are the first ones of these."""
        size = len(other.item)
        return (
            np.array_equal(self.item[:size], other.item)
            and np.array_equal(self.action[:size], other.action)
            and np.array_equal(self.gap[:size], other.gap)
            and np.array_equal(self.hour[:size], other.hour)
        )

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return self.item.nbytes + self.action.nbytes + self.gap.nbytes + self.hour.nbytes


class Served(OfLog):
    """A ranker that answers requests; see `models.feed.events.kept.Ranking`.

    Args:
        network: its calibration and weights; it is the service's own from now on.
        data: the data set that it was made from.
        cache_bytes: memory for histories of users; 0: each request computes its own.
        threads: how many threads share the candidates of a call; 0: as many as torch uses.

    Raises:
        ValueError: the parts of the data do not fit together.

    Source:
        Ours; see `Ranker`.
    """

    def __init__(self, network: LiGR, data: Payload, *, cache_bytes: float, threads: int = 0) -> None:
        inputs = Inputs.of(data)
        self.network = network.eval()
        self._ranker = _Roomy(self.network, inputs, threads=threads)
        self.known = Known(inputs.events, data["layout"]["categories"], self._ranker.admit)
        self._encoded = ByteLru[tuple[_Past, Cache]](cache_bytes)
        self._outcomes = Outcomes()

    @torch.no_grad()
    def rank(self, asked: Asked, told: Kept) -> Scores:
        """Logits and chances of candidates."""
        given = asked.history is not None
        if asked.history is not None:
            line = self.known.line(None, asked.history, "history")
        else:
            line = self.known.line(asked.user, self.known.countable(told.of(asked.user)))
        item_N = self.known.codes(asked.candidates, "candidates")
        seen = line.before(asked.time)
        cache = self._history(None if given else asked.user, line, seen)
        logit = self._ranker.rank(
            cache,
            item_N,
            gap=int(gap_codes(np.array(asked.time - line.time[seen - 1]))) if seen else 0,
            hour=int(hours(np.array([asked.time]))[0]),
            user=self.known.user(asked.user),
        )
        return Scores(logit, self.network.chances(logit), item_N >= self.known.events.items, seen)

    def counts(self) -> dict[str, float]:
        """What became of requests' histories, and how many bytes are held."""
        return {
            **self._outcomes.summary(),
            "evicted": self._encoded.evicted,
            "histories": len(self._encoded),
            "bytes": self._encoded.nbytes,
        }

    def _history(self, user: Identifier | None, line: Line, seen: int) -> Cache:
        """What is kept of a user's latest events before the moment."""
        begin = max(0, seen - self.network.config.history)
        past = _Past(  # copies: what is kept must not keep all the user's events alive
            item=line.item[begin:seen].copy(),
            action=line.action[begin:seen].copy(),
            gap=line.gap[begin:seen].copy(),
            hour=hours(line.time[begin:seen]),
        )
        kept = None if user is None else self._encoded.get(user)
        if kept is not None and past.begins_with(kept[0]):
            known = len(kept[0].item)
            if known == len(past.item):
                self._outcomes.count("hits")
                return kept[1]
            cache = self._ranker.extended(kept[1], past, known)
            self._outcomes.count("extended")
        else:
            cache = self._ranker.encode(*past)
            self._outcomes.count("misses")
        if user is not None:
            self._encoded.put(user, (past, cache), past.nbytes + cache.nbytes)
        return cache


def _longer(table: nn.Embedding, rows: int) -> nn.Embedding:
    """The same embeddings, and zeros behind them."""
    weight = table.weight.detach()
    return nn.Embedding(
        len(weight) + rows, weight.shape[1], _weight=torch.cat((weight, weight.new_zeros(rows, weight.shape[1])))
    )
