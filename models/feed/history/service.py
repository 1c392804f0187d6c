"""A scorer as it is served: users by their identifiers, histories kept between requests, counts of what was told since.

The counting features of a request are those of the log behind the version and of all that was told since, whoever did
it, strictly before its moment. They are counted again at the first request after something was told, which takes time
in proportion to the log. A user's features of a history that is given in the request are counted in that history.
"""

# Shapes: L events of a history, N candidates, T tasks, F features, G codes of unknown items, K categories.

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from models.common.amortised import Amortised
from models.common.contracts import Payload
from models.feed.events.features import FEATURES, SMOOTHING, PastCounts
from models.feed.events.kept import Kept, OfLog
from models.feed.events.known import GUESTS, Asked, Identifier, Known, Line, Scores, Told
from models.feed.events.table import NO_TABLE, Events
from models.feed.history.inputs import Inputs, Past, first_seen
from models.feed.history.network import DLRM
from models.feed.history.score import Kept as History
from models.feed.history.score import Scorer

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SHARE = FEATURES.index("item_week_share")
"""The one feature that knows how many items there are."""


class _Roomy(Scorer):
    """A scorer with room for codes behind those of its catalogue: items that are their categories alone, one stranger.

    What it says of the catalogue's own items has the bits that a plain `Scorer` gives.
    """

    def __init__(self, network: DLRM, inputs: Inputs, *, cache_bytes: int, threads: int = 0) -> None:
        super().__init__(network, inputs.catalogue, cache_bytes=cache_bytes, threads=threads)
        self._parts, self._events, self._candidates = (
            torch.cat((table, table.new_zeros(GUESTS, table.shape[1])))
            for table in (self._parts, self._events, self._candidates)
        )
        self._stranger = len(network.users.weight)
        users = network.users.weight.detach()
        users = torch.cat((users, users.new_zeros(1, users.shape[1])))
        network.users = nn.Embedding(len(users), users.shape[1], _weight=users)

    @torch.no_grad()
    def admit(self, code: int, kinds: tuple[int, ...]) -> None:
        """Let a code behind the catalogue stand for some categories."""
        network = self.network
        told = network.categories(torch.tensor(kinds)).mean(0) if kinds else torch.zeros(network.config.item_width)
        self._parts[code, network.config.item_width :] = told
        self._events[code], self._candidates[code] = network.event(told), network.candidate(told)

    def _history(self, amortised: Amortised, user: int, past: Past) -> History:
        """What is kept of a user's history; that of somebody who is not in the log is computed each time."""
        if user != self._stranger:
            return super()._history(amortised, user, past)
        self.histories.count("misses")
        cache = amortised.encode(self._tokens(past), outputs=True)
        return History(past, cache, self._pooled(cache))


class _Counts(NamedTuple):
    """Counts of a log at some moment of the service.

    Attributes:
        state: number of the moment, and codes of unknown items there were.
        past: the counts.
        items: codes of the unknown items that something was told of, by identifier.
        blank: where the items stand of which nothing is known but their categories.
        users: codes of users that something was told of and the log lacks.
    """

    state: tuple[int, int]
    past: PastCounts
    items: dict[Identifier, int]
    blank: int
    users: dict[Identifier, int]


class Served(OfLog):
    """A scorer that answers requests; see `models.feed.events.kept.Ranking`.

    Args:
        network: its calibration and weights; it is the service's own from now on.
        data: the data set that it was made from.
        cache_bytes: memory for histories of users; 0: each request computes its own.
        threads: how many threads share the candidates of a call; 0: as many as torch uses.

    Raises:
        ValueError: the parts of the data do not fit together.

    Source:
        Ours; see `Scorer`.
    """

    def __init__(self, network: DLRM, data: Payload, *, cache_bytes: float, threads: int = 0) -> None:
        inputs = Inputs.of(data)
        self.network = network.eval()
        self._scorer = _Roomy(self.network, inputs, cache_bytes=int(cache_bytes), threads=threads)
        self.known = Known(inputs.events, data["layout"]["categories"], self._scorer.admit)
        self._kinds = inputs.events.categories(self.known.attribute) if self.known.attribute else None
        self._counting = threading.Lock()
        past = PastCounts(inputs.events, self.known.attribute)
        self._counts = _Counts((0, 0), past, {}, inputs.events.items, {})

    @torch.no_grad()
    def rank(self, asked: Asked, told: Kept) -> Scores:
        """Logits and chances of candidates."""
        item_N = self.known.codes(asked.candidates, "candidates")
        if asked.history is not None:
            line = self.known.line(None, asked.history, "history")
            counts = self._counted(*told.everything())
        else:
            state, everything = told.everything()  # one moment for the history and the counts
            own = everything.get(asked.user, ()) if asked.user is not None else ()
            line = self.known.line(asked.user, self.known.countable(own))
            counts = self._counted(state, everything)
        seen = line.before(asked.time)
        feature_NF = self._features(counts, asked, line, item_N)
        config = self.network.config
        begin = int(first_seen(np.array([seen]), config.history, config.stride)[0])
        # copies: what is kept of a history must not keep all the user's events alive
        past = Past(line.item[begin:seen].copy(), line.action[begin:seen].copy(), line.gap[begin:seen].copy())
        logit = self._scorer.score(self.known.user(asked.user), past, item_N, feature_NF)
        return Scores(logit, self.network.chances(logit), item_N >= self.known.events.items, seen)

    def counts(self) -> dict[str, float]:
        """What became of requests' histories, and how many bytes are held."""
        kept = self._scorer.histories
        counts = kept.counts
        return {
            "hits": counts.hits,
            "extended": counts.extended,
            "misses": counts.misses,
            "cache_hit_rate": counts.hit_rate,
            "evicted": counts.evicted,
            "histories": len(kept),
            "bytes": kept.nbytes,
        }

    def _counted(self, state: int, told: Mapping[Identifier, Sequence[Told]]) -> _Counts:
        """The counts with all that was told at some moment."""
        with self._counting:
            if self._counts.state != (state, len(self.known.guests())):
                self._counts = self._count(state, told)
            return self._counts

    def _count(self, state: int, told: Mapping[Identifier, Sequence[Told]]) -> _Counts:
        events, known = self.known.events, self.known
        whole = [(user, one) for user, some in told.items() for one in known.countable(some)]
        codes = [known.item(one.item, "events") for _, one in whole]
        guests = known.guests()  # among them those of all these items
        users: dict[Identifier, int] = {}
        items: dict[Identifier, int] = {}
        kinds: list[tuple[int, ...]] = []
        user, item = np.zeros(len(whole), np.int32), np.array(codes, np.int32)
        for row, (who, one) in enumerate(whole):
            if codes[row] >= events.items and one.item.id not in items:
                items[one.item.id] = events.items + len(kinds)
                kinds.append(guests[codes[row] - events.items])
            item[row] = items[one.item.id] if codes[row] >= events.items else codes[row]
            user[row] = known.user(who)
            if user[row] == events.users:
                user[row] = users.setdefault(who, events.users + len(users))
        time = np.array([one.time for _, one in whole], np.int64)
        action = np.array([known.actions(one.actions, "events") for _, one in whole], np.float32)
        again = set(zip(user.tolist(), item.tolist(), time.tolist(), strict=True))
        kept = np.flatnonzero(np.isin(events.time, time))
        kept = np.setdiff1d(
            np.arange(len(events)),
            [row for row in kept if (events.user[row], events.item[row], events.time[row]) in again],
        )
        order = np.argsort(np.concatenate([events.time[kept], time]), kind="stable")
        grown = Events(
            user=np.concatenate([events.user[kept], user])[order],
            item=np.concatenate([events.item[kept], item])[order],
            time=np.concatenate([events.time[kept], time])[order],
            session=np.arange(len(order)),
            position=np.full(len(order), -1, np.int16),
            actions=np.concatenate([events.actions[kept], action.reshape(len(whole), len(events.tasks))])[order],
            tasks=events.tasks,
            user_ids=pa.array(np.arange(events.users + len(users))),
            item_ids=pa.array(np.arange(events.items + len(kinds) + len(guests))),
            item_attributes=self._described([*kinds, *guests]),
        )
        past = PastCounts(grown, known.attribute)
        return _Counts((state, len(guests)), past, items, events.items + len(kinds), users)

    def _described(self, behind: Sequence[tuple[int, ...]]) -> pa.Table:
        """Categories of the log's items and of some behind them."""
        if self._kinds is None:
            return NO_TABLE
        code = np.concatenate([self._kinds.code, *(np.array(one, np.int64) for one in behind)])
        start = np.concatenate([self._kinds.start, self._kinds.start[-1] + np.cumsum([len(one) for one in behind])])
        names = pa.array(self._kinds.names, pa.string()).take(pa.array(code, pa.int64()))
        return pa.table({self.known.attribute: pa.ListArray.from_arrays(pa.array(start, pa.int32()), names)})

    def _features(self, counts: _Counts, asked: Asked, line: Line, item_N: Integers) -> Floats:
        """Counting features of the candidates (N, F), before standard units."""
        events, past = self.known.events, counts.past
        user = past.events.users  # nobody
        if asked.history is None:
            code = self.known.user(asked.user)
            if code < events.users:
                user = code
            elif asked.user is not None:
                user = counts.users.get(asked.user, user)
        place = [
            code
            if code < events.items
            else counts.items.get(self.known.spelled(one.id), counts.blank + code - events.items)
            for code, one in zip(item_N.tolist(), asked.candidates, strict=True)
        ]
        size = len(item_N)
        feature = past.at(np.full(size, user), np.array(place, np.int64), np.full(size, asked.time))
        if past.events.items != events.items:  # the model learned it with as many items as the log has
            feature[:, SHARE] *= events.items / past.events.items
        if asked.history is not None:
            seen = line.before(asked.time)
            self._of_history(feature, line.item[:seen], line.action[:seen, 0], asked.time - line.time[:seen], item_N)
        return feature

    def _of_history(
        self, feature_NF: Floats, item_L: Integers, label_L: NDArray[np.float32], ago_L: Integers, item_N: Integers
    ) -> None:
        """Put the features of a user in place that are those of a history that was given."""
        overall = feature_NF[:, FEATURES.index("user_rate")].copy()  # nobody's rate is that of all
        label = label_L.astype(np.float64)
        pair_NL = (item_N[:, None] == item_L).astype(np.float64)
        shared_NL = self._has(item_N) @ self._has(item_L).T
        for name, weight_NL in (
            ("user", np.ones((len(item_N), len(item_L)))),
            ("pair", pair_NL),
            ("user_category", shared_NL),
        ):
            count = weight_NL.sum(1)
            feature_NF[:, FEATURES.index(f"{name}_count")] = np.log1p(count)
            feature_NF[:, FEATURES.index(f"{name}_rate")] = (weight_NL @ label + SMOOTHING * overall) / (
                count + SMOOTHING
            )
        feature_NF[:, FEATURES.index("user_known")] = len(item_L) > 0
        feature_NF[:, FEATURES.index("user_recency")] = np.log1p(ago_L[-1]) if len(ago_L) else 0.0

    def _has(self, item_Q: Integers) -> Floats:
        """Whether items have categories (Q, K)."""
        kinds, guests = self._kinds, self.known.guests()
        has = np.zeros((len(item_Q), 0 if kinds is None else len(kinds.names)))
        if kinds is not None:
            for row, code in enumerate(item_Q.tolist()):
                known = code < self.known.events.items
                has[row, kinds.code[kinds.start[code] : kinds.start[code + 1]] if known else
                    list(guests[code - self.known.events.items])] = 1  # fmt: skip
        return has
