"""A ranker as it is served: users by their identifiers, histories kept between requests, items that nobody knew.

A request of a user whose history was computed before finds it; one whose events went on since then computes these
alone. A user with more events than `NetworkConfig.history` is computed anew when she did something, because then the
oldest event that is seen moves, and with it the position of all others.

Where the ranker is told rates, they are those of the log behind the version and of all that was told since, whoever did
it, strictly before the moment of the request. The user's rate of a history that the request gives is that history's.
"""

# Shapes: L events of a history, N candidates, T tasks, G codes of unknown items.

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.common.amortised import Cache
from models.common.contracts import Payload
from models.feed.events.catalogue import gap_codes
from models.feed.events.kept import ByteLru, Kept, OfLog, Outcomes
from models.feed.events.known import GUESTS, Asked, Identifier, Known, Line, Scores, Told
from models.feed.events.rates import EVER, PastRates, Tally
from models.feed.ranking.counts import single
from models.feed.ranking.inputs import Inputs, hours
from models.feed.ranking.network import LiGR, NetworkConfig
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


class _Counted(NamedTuple):
    """What was told up to some moment, counted.

    Attributes:
        state: number of the moment.
        told: counts of what was told, by item and by user.
        replaced: counts of what it takes the place of in the log, likewise.
        items: codes of the unknown items that something was told of.
        users: codes of the unknown users.
    """

    state: int
    told: tuple[PastRates, PastRates]
    replaced: tuple[PastRates, PastRates]
    items: dict[Identifier, int]
    users: dict[Identifier, int]


class _Rates:
    """Rates by the log and by what was told since, which is counted again after something was told.

    Args:
        inputs: the log.
        known: its identifiers.
        config: which rates the network is told.
    """

    def __init__(self, inputs: Inputs, known: Known, config: NetworkConfig) -> None:
        self._known, self._config = known, config
        self._log = inputs.item_rates, inputs.user_rates
        self._lock = threading.Lock()
        self._counted = self._count(0, {})

    def odds(
        self, asked: Asked, item_N: Integers, line: Line, state: int, told: Mapping[Identifier, Sequence[Told]]
    ) -> NDArray[np.float32]:
        """Log-odds of the rates of candidates before the moment of a request (N, F).

        Args:
            asked: the request.
            item_N: codes of its candidates.
            line: the events of the user that the request gives or that are known.
            state: of what was told, as `Kept.everything` gives both.
            told: by user.
        """
        with self._lock:
            if self._counted.state != state:
                self._counted = self._count(state, told)
            counted = self._counted
        items, users = self._known.events.items, self._known.events.users
        item, user = item_N.copy(), np.full(len(item_N), users)
        for at in np.flatnonzero(item_N >= items):
            item[at] = counted.items.get(self._known.spelled(asked.candidates[at].id), items)
        if asked.user is not None:
            code = self._known.user(asked.user)
            user[:] = code if code < users else counted.users.get(self._known.name(asked.user), users)
        moment = np.full(len(item_N), asked.time)
        found = []
        if self._config.rate_days:
            found.append(self._tally(counted, 0, item, moment, self._config.rate_days).odds)
        if self._config.user_rate:
            tally = self._tally(counted, 1, user, moment, EVER)
            if asked.history is not None:  # the user is whom this history is of
                seen = line.before(asked.time)
                responses = line.action[:seen, 0].sum(dtype=np.float64)
                tally = replace(tally, events=np.full(len(user), float(seen)), responses=np.full(len(user), responses))
            found.append(tally.odds)
        return single(found)

    def _tally(self, counted: _Counted, kind: int, key: Integers, moment: Integers, days: int) -> Tally:
        tally = self._log[kind].before(key, moment, days)
        tally = tally.plus(counted.told[kind].before(key, moment, days))
        return tally.plus(counted.replaced[kind].before(key, moment, days), -1.0)

    def _count(self, state: int, told: Mapping[Identifier, Sequence[Told]]) -> _Counted:
        events, known = self._known.events, self._known
        whole = [(user, one) for user, some in told.items() for one in known.countable(some)]
        items: dict[Identifier, int] = {}
        users: dict[Identifier, int] = {}
        item = np.array([known.item(one.item, "events") for _, one in whole], np.int64)
        user = np.array([known.user(who) for who, _ in whole], np.int64)
        for row, (who, one) in enumerate(whole):  # unknown ones behind a place of which nothing was told
            if item[row] >= events.items:
                item[row] = items.setdefault(one.item.id, events.items + 1 + len(items))
            if user[row] >= events.users:
                user[row] = users.setdefault(known.name(who), events.users + 1 + len(users))
        time = np.array([one.time for _, one in whole], np.int64)
        label = np.array([known.actions(one.actions, "events")[0] for _, one in whole], np.float32)
        again = set(zip(user.tolist(), item.tolist(), time.tolist(), strict=True))
        rows = np.array(
            [
                row
                for row in np.flatnonzero(np.isin(events.time, time)).tolist()
                if (events.user[row], events.item[row], events.time[row]) in again
            ],
            np.int64,
        )
        was = events.time[rows], events.label[rows]
        return _Counted(
            state=state,
            told=(PastRates(item, time, label), PastRates(user, time, label)),
            replaced=(PastRates(events.item[rows], *was), PastRates(events.user[rows], *was)),
            items=items,
            users=users,
        )


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
        config = self.network.config
        self._rates = _Rates(inputs, self.known, config) if config.rates else None

    @torch.no_grad()
    def rank(self, asked: Asked, told: Kept) -> Scores:
        """Logits and chances of candidates."""
        given = asked.history is not None
        # one moment for the history and the rates
        state, everything = told.everything() if self._rates is not None else (0, {})
        if asked.history is not None:
            line = self.known.line(None, asked.history, "history")
        else:
            own = told.of(asked.user)
            if self._rates is not None:
                own = () if asked.user is None else everything.get(asked.user, ())
            line = self.known.line(asked.user, self.known.countable(own))
        item_N = self.known.codes(asked.candidates, "candidates")
        seen = line.before(asked.time)
        cache = self._history(None if given else asked.user, line, seen)
        logit = self._ranker.rank(
            cache,
            item_N,
            gap=int(gap_codes(np.array(asked.time - line.time[seen - 1]))) if seen else 0,
            hour=int(hours(np.array([asked.time]))[0]),
            user=self.known.user(asked.user),
            odds=None if self._rates is None else self._rates.odds(asked, item_N, line, state, everything),
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
