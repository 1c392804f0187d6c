"""Scoring sessions: in batches, as while training, and one request after another over a kept history, as in service.

Both give a logit for each task and candidate; the network's calibration makes chances of them. They agree to 1e-5 in
float32, which the certificate checks.
"""

# Shapes: S sessions, C candidates of all sessions asked about, L events, N candidates of a session, T tasks, D width.

from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.common.amortised import Amortised, Cache
from models.common.threads import one_thread
from models.feed.events.catalogue import Catalogue
from models.feed.events.scoring import in_order, moved_tables, refuse_other_tasks, sizes_of
from models.feed.ranking.batches import batch_of, rows_of
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR
from models.feed.ranking.scorer import Scorer

Integers = NDArray[np.int64]
Logits = NDArray[np.float32]
Network = TypeVar("Network", bound=Scorer)

AT_ONCE = 64
"""Sessions of a batch."""


@torch.no_grad()
def batch_logits(network: Scorer, inputs: Inputs, sessions: Integers) -> tuple[Integers, Logits]:
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
    rows = rows_of(inputs, np.asarray(sessions, np.int64), history=network.config.history, candidates=0)
    nothing = np.zeros(len(inputs.events), np.float32)
    counter = network.counter(network.config)
    counts = None if counter is None else counter.of(inputs)(rows.row, rows.began)
    size = np.diff(rows.start)
    found, number = [], []
    for chosen in np.array_split(np.argsort(rows.length + size, kind="stable"), max(1, len(rows) // AT_ONCE)):
        logit = network(batch_of(inputs, rows, chosen, nothing, counts)).numpy()
        for place, row in enumerate(chosen):
            number.append(rows.row[rows.start[row] : rows.start[row + 1]])
            found.append(logit[place, : size[row]])
    return in_order(number, found, len(inputs.events.tasks))


class Ranker:
    """A network as it answers requests: a history once, its candidates in one pass over what was kept of it.

    Args:
        network: its weights are read now, and later changes are not seen.
        catalogue: categories of all items.
        threads: how many threads share the candidates of a call in the compiled passes; 0: as many as torch uses.
            All else is computed on one, so that a score does not depend on them.

    Source:
        See `Amortised`.
    """

    def __init__(self, network: LiGR, catalogue: Catalogue, *, threads: int = 0) -> None:
        self.network = network.eval()
        threads = threads or torch.get_num_threads()
        self._amortised = Amortised(network.transformer, threads=threads)
        self._session = Amortised(network.session, threads=threads) if network.session is not None else None
        with torch.no_grad(), one_thread():
            self._vectors = network.item_vectors(torch.arange(len(catalogue.codes)), catalogue)

    @torch.no_grad()
    @one_thread()
    def encode(self, item_L: NDArray[Any], action_LT: NDArray[Any], gap_L: NDArray[Any], hour_L: NDArray[Any]) -> Cache:
        """What is kept of a history, the latest events of a user, oldest first."""
        vector = self._vectors[torch.from_numpy(np.asarray(item_L, np.int64))]
        return self._amortised.encode(
            self.network.event_tokens(
                vector,
                torch.from_numpy(np.asarray(action_LT, np.float32)),
                torch.from_numpy(np.asarray(gap_L, np.int64)),
                torch.from_numpy(np.asarray(hour_L, np.int64)),
            )
        )

    @torch.no_grad()
    @one_thread()
    def rank(
        self, cache: Cache, item_N: NDArray[Any], *, gap: int, hour: int, user: int, odds: NDArray[Any] | None = None
    ) -> Logits:
        """Logits (N, T) of the candidates of one session.

        Args:
            cache: of the user's history.
            item_N: items to be ranked.
            gap: code of the time since the last event of the history.
            hour: in which the session begins.
            user: who asks.
            odds: (N, F) log-odds of rates as `Rates` counts them; needed, and read, where the network is told some.

        Raises:
            ValueError: the network is told rates, and there are none.

        Source:
            See the class.
        """
        size, rated = len(item_N), self.network.config.rates > 0
        if rated and odds is None:
            raise ValueError("this ranker is told rates; give their log-odds, as `Rates` of `counts` counts them.")
        rate = torch.from_numpy(np.asarray(odds, np.float32)) if rated else None
        item = torch.from_numpy(np.asarray(item_N, np.int64))
        vector = self._vectors[item]
        token = self.network.candidate_tokens(
            vector, *(torch.full((size,), value, dtype=torch.long) for value in (gap, hour, user))
        )
        token = self.network.rated(token, rate)
        together = torch.zeros(size, dtype=torch.long)
        hidden = self._amortised.attend(cache, token, together if self.network.config.joint else None)
        if self._session is not None:
            hidden = self._session.attend(self._session.encode(hidden[:0]), hidden, together)
        if self.network.company is not None:
            hidden = self.network.company(hidden[None], vector[None], together[None])[0]
        return np.asarray(self.network.logits(hidden, item, rate).numpy(), np.float32)

    def session(self, inputs: Inputs, session: int) -> Logits:
        """Logits (N, T) of what a session of a log shows, in the order of its rows."""
        past, rows = inputs.history(session, self.network.config.history), inputs.rows(session)
        events = inputs.events
        cache = self.encode(events.item[past], events.actions[past], inputs.gap[past], inputs.hour[past])
        return self.rank(
            cache,
            events.item[rows],
            gap=int(inputs.session_gap[session]),
            hour=int(inputs.hour[rows[0]]),
            user=int(events.user[rows[0]]),
            odds=self._odds(inputs, rows),
        )

    def _odds(self, inputs: Inputs, rows: Integers) -> NDArray[np.float32] | None:
        """(N, F) log-odds of the rates of what a session shows, where the network is told some."""
        counter = self.network.counter(self.network.config)
        if counter is None:
            return None
        return counter.of(inputs)(rows, np.full(len(rows), inputs.events.time[rows[0]]))

    def logits(self, inputs: Inputs, sessions: Integers) -> tuple[Integers, Logits]:
        """Logits of what sessions show, one request after another; row numbers rise."""
        parts = [self.session(inputs, int(one)) for one in sessions]
        return in_order([inputs.rows(int(one)) for one in sessions], parts, len(inputs.events.tasks))


def served_logits(network: Scorer, inputs: Inputs, sessions: Integers) -> tuple[Integers, Logits]:
    """Logits of what sessions show, one request after another; row numbers rise.

    A LiGR answers as in service, over a kept history. A baseline, which no service has, is asked about one session at
    a time, its counting features counted for this session alone.

    Args:
        network: in evaluation mode.
        inputs: the log.
        sessions: numbers of the sessions.

    Returns:
        Row numbers (C), rising, and their logits (C, T).

    Source:
        Ours.
    """
    if isinstance(network, LiGR):
        return Ranker(network, inputs.catalogue).logits(inputs, sessions)
    nothing = np.zeros(len(inputs.events), np.float32)
    counter = network.counter(network.config)
    count = None if counter is None else counter.of(inputs)
    rows, found = [], []
    for session in sessions:
        asked = rows_of(inputs, np.array([session]), history=network.config.history, candidates=0)
        counts = None if count is None else count(asked.row, asked.began)
        with torch.no_grad(), one_thread():
            logit = network(batch_of(inputs, asked, np.zeros(1, np.int64), nothing, counts))
        rows.append(asked.row)
        found.append(logit[0].numpy())
    return in_order(rows, found, len(inputs.events.tasks))


def carried_over(network: Network, old: Inputs, new: Inputs) -> Network:
    """A ranker of one log for the users, items and categories of another.

    Args:
        network: trained on the old log.
        old: the log that it was made from.
        new: the log that it is to rank.

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
        type(network)(**sizes_of(new.events, new.categories), config=network.config),
        {
            "items.weight": (old.events.item_ids, new.events.item_ids),
            "bias.weight": (old.events.item_ids, new.events.item_ids),
            "users.weight": (old.events.user_ids, new.events.user_ids),
            "categories.weight": (pa.array(old.categories, pa.string()), pa.array(new.categories, pa.string())),
        },
    )
