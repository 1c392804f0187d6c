"""Scoring sessions: in batches, as while training; candidate by candidate; and as in service, by requests.

In service a history is computed once and kept; the next request of the user finds it, and only events that are new are
computed. All ways give the same logits up to roundings of float32, which the certificate checks.
"""

# Shapes: S sessions, C candidates of all sessions asked about, L events, N candidates of a request, T tasks, F
# features, D width, k last outputs.

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.common.amortised import Amortised, Cache
from models.common.threads import one_thread
from models.feed.events.catalogue import Catalogue
from models.feed.events.scoring import in_order, moved_tables, refuse_other_tasks, sizes_of
from models.feed.history.batches import batch_of
from models.feed.history.inputs import OF_CANDIDATE, OF_REQUEST, Inputs, Past
from models.feed.history.network import DLRM, pool

Integers = NDArray[np.int64]
Logits = NDArray[np.float32]

AT_ONCE = 64
"""Sessions of a batch."""
TOKENS = 4096
"""Events that are computed at once for candidates that each need a history of their own."""
CACHE_BYTES = 256 * 2**20


@torch.no_grad()
def batch_logits(network: DLRM, inputs: Inputs, sessions: Integers) -> tuple[Integers, Logits]:
    """Logits of what sessions show, in batches of like length.

    Args:
        network: in evaluation mode.
        inputs: the log.
        sessions: numbers of the sessions.

    Returns:
        Row numbers (C), rising, and their logits (C, T).

    Source:
        Ours.
    """
    sessions = np.asarray(sessions, np.int64)
    length = inputs.span(sessions, network.config.history, network.config.stride)[1]
    size = np.diff(inputs.session_start)[sessions]
    found, number = [], []
    for chosen in np.array_split(np.lexsort((size, length)), max(1, len(sessions) // AT_ONCE)):
        logit = network(batch_of(inputs, sessions[chosen], network.config)).numpy()
        for place, one in enumerate(chosen):
            number.append(inputs.rows(int(sessions[one])))
            found.append(logit[place, : size[one]])
    return in_order(number, found, len(inputs.events.tasks))


@torch.no_grad()
def appended_logits(network: DLRM, inputs: Inputs, sessions: Integers) -> tuple[Integers, Logits]:
    """Logits of what sessions show, each candidate alone after a history of its own; rows rise."""
    found, number = [], []
    for session in sessions:
        rows = inputs.rows(int(session))
        length = int(inputs.span(np.array([session]), network.config.history, network.config.stride)[1][0])
        for some in np.array_split(rows, -(-len(rows) * max(1, length) // TOKENS)):
            batch = batch_of(inputs, np.full(len(some), session), network.config, rows=some)
            number.append(some)
            found.append(network(batch)[:, 0].numpy())
    return in_order(number, found, len(inputs.events.tasks))


@dataclass
class Counts:
    """What became of requests.

    Attributes:
        hits: the history was there.
        extended: it was there but for the latest events.
        misses: it was computed.
        evicted: histories given up for others.
    """

    hits: int = 0
    extended: int = 0
    misses: int = 0
    evicted: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the requests that found their history or most of it; 0 before the first."""
        asked = self.hits + self.extended + self.misses
        return (self.hits + self.extended) / asked if asked else 0.0


class Kept(NamedTuple):
    """What is kept of a user's history."""

    past: Past
    cache: Cache
    pooled: Tensor
    """What the history contributes to the features, ((k + 1) D)."""

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return int(self.past.nbytes + self.cache.nbytes + self.pooled.nbytes)


class HistoryCache:
    """Histories of the users who asked last, within so many bytes; safe to use from several threads.

    Args:
        size: most bytes; 0 keeps nothing.

    Source:
        Least recently used goes first.
    """

    def __init__(self, size: int) -> None:
        self.size, self.nbytes, self.counts = size, 0, Counts()
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, user: int) -> Kept | None:
        """What is kept of a user."""
        with self._lock:
            found = self._kept.get(user)
            if found is not None:
                self._kept.move_to_end(user)
            return found

    def put(self, user: int, kept: Kept) -> None:
        """Keep a history, unless it alone is too large, and give up the oldest ones for it."""
        with self._lock:
            old = self._kept.pop(user, None)
            self.nbytes -= 0 if old is None else old.nbytes
            if kept.nbytes > self.size:
                return
            self._kept[user] = kept
            self.nbytes += kept.nbytes
            while self.nbytes > self.size:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes
                self.counts.evicted += 1

    def count(self, what: str) -> None:
        """Count a request."""
        with self._lock:
            setattr(self.counts, what, getattr(self.counts, what) + 1)


class Scorer:
    """A network as it answers requests.

    Args:
        network: its weights are read now, and later changes are not seen.
        catalogue: categories of all items.
        cache_bytes: memory for histories of users; 0: each request computes its own.
        threads: how many threads share the candidates of a call in the compiled passes; 0: as many as torch uses.
            All else is computed on one, so that a score does not depend on them.

    Source:
        arXiv 2412.06924, amortized inference; what is kept between requests, and the rule of `inputs` that lets it
        grow, are ours.
    """

    def __init__(
        self, network: DLRM, catalogue: Catalogue, *, cache_bytes: int = CACHE_BYTES, threads: int = 0
    ) -> None:
        self.network = network.eval()
        self.histories = HistoryCache(cache_bytes)
        self._standard = network.standard
        threads = threads or torch.get_num_threads()
        self._amortised = None if network.config.fused else Amortised(network.transformer, threads=threads)
        with torch.no_grad(), one_thread():
            self._parts = network.item_parts(torch.arange(len(catalogue.codes)), catalogue)
            whole = sum(self._parts.chunk(2, dim=1))
            self._events, self._candidates = network.event(whole), network.candidate(whole)

    @torch.no_grad()
    @one_thread()
    def score(self, user: int, past: Past, item_N: NDArray[Any], feature_NF: NDArray[Any]) -> Logits:
        """Logits of the candidates of one request.

        Args:
            user: who asks.
            past: what she did, as `Inputs.past` cuts it.
            item_N: items to be scored.
            feature_NF: their counting features, not in standard units; those of the request are read in row 0.

        Returns:
            (N, T).

        Raises:
            ValueError: there are not as many features as items.

        Source:
            See the class.
        """
        if feature_NF.shape != (len(item_N), len(self._standard.mean)):
            raise ValueError(
                f"features must be of shape ({len(item_N)}, {len(self._standard.mean)}), got {feature_NF.shape}; "
                f"compute them with PastCounts.at."
            )
        if not len(item_N):
            return np.zeros((0, self.network.head.tasks.out_features), np.float32)
        # as in training, features come to standard units from single precision
        feature = torch.from_numpy(self._standard(np.asarray(feature_NF, np.float32)))
        item = torch.from_numpy(np.asarray(item_N, np.int64))
        request = [self.network.users.weight[user], feature[0, OF_REQUEST]]
        own = [self._parts[item], feature[:, OF_CANDIDATE]]
        if self._amortised is None:
            own.append(self._fused(past, self._candidates[item]))
        else:
            kept = self._history(self._amortised, user, past)
            request.append(kept.pooled)
            own.append(self._amortised.attend(kept.cache, self._candidates[item]))
        head = self.network.head
        return np.asarray(head.candidates(head.shared(torch.cat(request)), torch.cat(own, dim=1)).numpy())

    def session(self, inputs: Inputs, session: int) -> Logits:
        """Logits (N, T) of what a session of a log shows, in the order of its rows."""
        rows, config = inputs.rows(session), self.network.config
        past = inputs.past(session, config.history, config.stride)
        return self.score(int(inputs.events.user[rows[0]]), past, inputs.events.item[rows], inputs.raw[rows])

    def logits(self, inputs: Inputs, sessions: Integers) -> tuple[Integers, Logits]:
        """Logits of what sessions show, one request after another in the order of time; row numbers rise."""
        began = inputs.events.began[inputs.session_rows[inputs.session_start[sessions]]]
        asked = np.asarray(sessions)[np.argsort(began, kind="stable")]
        parts = [self.session(inputs, int(one)) for one in asked]
        return in_order([inputs.rows(int(one)) for one in asked], parts, len(inputs.events.tasks))

    def _history(self, amortised: Amortised, user: int, past: Past) -> Kept:
        kept = self.histories.get(user)
        if kept is not None and past.begins_with(kept.past):
            if kept.past.length == past.length:
                self.histories.count("hits")
                return kept
            self.histories.count("extended")
            cache = amortised.extend(kept.cache, self._tokens(past.after(kept.past.length)))
        else:
            self.histories.count("misses")
            cache = amortised.encode(self._tokens(past), outputs=True)
        kept = Kept(past, cache, self._pooled(cache))
        self.histories.put(user, kept)
        return kept

    def _pooled(self, cache: Cache) -> Tensor:
        hidden_LD = cache.outputs
        assert hidden_LD is not None  # noqa: S101 - for the type checker
        if not len(hidden_LD):
            return torch.zeros(self.network.config.pooled)
        return pool(hidden_LD.unsqueeze(0), torch.tensor([len(hidden_LD)]), self.network.config.last)[0]

    def _fused(self, past: Past, candidate_ND: Tensor) -> Tensor:
        token_LD = self._tokens(past)
        length = len(token_LD)
        if not length:
            return torch.zeros(len(candidate_ND), self.network.config.pooled)
        parts = torch.split(candidate_ND, max(1, TOKENS // length))
        return torch.cat([self.network.fused(token_LD, length, part_ND) for part_ND in parts])

    def _tokens(self, past: Past) -> Tensor:
        return self.network.event_tokens(
            self._events[torch.from_numpy(past.item)], torch.from_numpy(past.action), torch.from_numpy(past.gap)
        )


def carried_over(network: DLRM, old: Inputs, new: Inputs) -> DLRM:
    """A scorer of one log for the users, items and categories of another.

    Args:
        network: trained on the old log.
        old: the log that it was made from.
        new: the log that it is to score.

    Returns:
        The same network, its embeddings in the order of the new identifiers, zero for those that it never knew.

    Raises:
        ValueError: the tasks are others.

    Source:
        Ours.
    """
    refuse_other_tasks(old.events, new.events)
    return moved_tables(
        network,
        DLRM(**sizes_of(new.events, new.categories), config=network.config),
        {
            "items.weight": (old.events.item_ids, new.events.item_ids),
            "users.weight": (old.events.user_ids, new.events.user_ids),
            "categories.weight": (pa.array(old.categories, pa.string()), pa.array(new.categories, pa.string())),
        },
    )
