"""Batches: the candidates of several sessions of one user in one row, after one history, in rows of like length.

A row holds the events of a user and, as candidates, what some of her sessions in a row show. A candidate sees the
events before its own session and no later ones, so the history is computed once for all of them ("shared-context
batching"). Its first session sees the latest `history` events, as in service; the later ones see those of the row
besides.
"""

# Shapes: R rows, C candidates of all rows, Q rows of a batch, L events (padded), N candidates (padded), T tasks.

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.feed.ranking.counts import Counter
from models.feed.ranking.inputs import Inputs, gap_codes, hours
from models.feed.ranking.network import Batch

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]

BUCKET = 16
"""Batches that are sorted by length together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows that batches are made of.

    Attributes:
        user: (R) users.
        begin: (R) where each row's events begin in `Histories.rows`.
        length: (R) events of each row.
        start: (R + 1) where each row's candidates begin in the arrays below.
        row: (C) row numbers of the candidates.
        session: (C) session of each candidate.
        seen: (C) events of the row that come before it.
        gap: (C) codes of the time between the last of these and the session.
        began: (C) when the session begins.
    """

    user: Integers
    begin: Integers
    length: Integers
    start: Integers
    row: Integers
    session: Integers
    seen: Integers
    gap: Integers
    began: Integers

    def __len__(self) -> int:
        return len(self.user)


def rows_of(inputs: Inputs, sessions: Integers, *, history: int, candidates: int) -> Rows:
    """Put sessions into rows.

    Args:
        inputs: the log.
        sessions: numbers of the sessions, rising.
        history: latest events before the first session of a row that are in the row.
        candidates: most candidates of a row, unless a single session has more; 0: one session a row.

    Returns:
        The rows, user by user.

    Source:
        Feed-SR (arXiv 2602.12354), "shared-context batching"; how it fills rows is not published, this way is ours.
    """
    opening = inputs.session_rows[inputs.session_start[sessions]]
    user = inputs.events.user[opening].astype(np.int64)
    order = np.lexsort((inputs.seen[sessions], user))
    sessions, user = sessions[order], user[order]
    size = inputs.session_start[sessions + 1] - inputs.session_start[sessions]
    opens = np.ones(len(sessions), bool)
    filled = 0
    for at in range(len(sessions)):
        filled += int(size[at])
        opens[at] = at == 0 or user[at] != user[at - 1] or filled > candidates
        filled = int(size[at]) if opens[at] else filled
    number = np.cumsum(opens) - 1
    first = np.flatnonzero(opens)
    last = np.append(first[1:], len(sessions)) - 1
    begin = np.maximum(inputs.seen[sessions[first]] - history, 0)
    total = np.concatenate([[0], np.cumsum(size)])
    place = np.repeat(np.arange(len(sessions)), size)
    offset = np.arange(total[-1]) - total[place]
    return Rows(
        user=user[first],
        begin=inputs.histories.start[user[first]] + begin,
        length=inputs.seen[sessions[last]] - begin,
        start=np.append(total[first], total[-1]),
        row=inputs.session_rows[inputs.session_start[sessions[place]] + offset],
        session=sessions[place],
        seen=(inputs.seen[sessions] - begin[number])[place],
        gap=inputs.session_gap[sessions[place]],
        began=inputs.events.time[inputs.session_rows[inputs.session_start[sessions[place]]]],
    )


def cut_in_two(inputs: Inputs, rows: Rows, share: float, draw: np.random.Generator) -> Rows:
    """End sessions at a random moment, and let what follows be a session of its own that knows what came before.

    The moment is that of a candidate, each as likely as the others, and events of one moment stay together. A session
    of one moment is left whole.

    Args:
        inputs: the log.
        rows: sessions in rows.
        share: of the sessions to be cut, 0 to 1.
        draw: which, and where.

    Returns:
        The same candidates in the same rows.

    Source:
        Ours; any prefix of a history as a training example is how next-item models are trained.
    """
    events, histories = inputs.events, inputs.histories
    time_C = events.time[rows.row]
    first_S = np.flatnonzero(np.append(True, rows.session[1:] != rows.session[:-1]))
    size_S = np.diff(np.append(first_S, len(rows.row)))
    moment_S = time_C[first_S + np.floor(draw.random(len(first_S)) * size_S).astype(np.int64)]
    cut_S = (draw.random(len(first_S)) < share) & (moment_S > rows.began[first_S])
    place_C = np.repeat(np.arange(len(first_S)), size_S)
    later_C = cut_S[place_C] & (time_C >= moment_S[place_C])
    row_C = np.repeat(np.arange(len(rows)), np.diff(rows.start))
    user_S = rows.user[row_C[first_S]]
    known_S = histories.before(user_S, moment_S)
    last_S = histories.latest(user_S, np.maximum(known_S, 1), 1)[:, 0]
    seen_S = histories.start[user_S] + known_S - rows.begin[row_C[first_S]]
    seen_C = np.where(later_C, seen_S[place_C], rows.seen)
    length = rows.length.copy()
    np.maximum.at(length, row_C, seen_C)
    return replace(
        rows,
        length=length,
        session=np.where(later_C, rows.session + len(inputs.seen), rows.session),
        seen=seen_C,
        gap=np.where(later_C, gap_codes(moment_S - events.time[last_S])[place_C], rows.gap),
        began=np.where(later_C, moment_S[place_C], rows.began),
    )


def batch_of(inputs: Inputs, rows: Rows, chosen: Integers, weight_E: Floats, counts_CF: Floats | None = None) -> Batch:
    """Some rows as a batch.

    Args:
        inputs: the log.
        rows: all rows.
        chosen: which.
        weight_E: what each event of the log counts in the loss when it is a candidate.
        counts_CF: what is counted of the candidates of all rows; None for a network that asks for nothing.

    Returns:
        The batch; padded to its longest row.

    Source:
        Ours.
    """
    events, length_Q = inputs.events, rows.length[chosen]
    place_L = np.arange(int(length_Q.max(initial=0)))
    there_QL = place_L < length_Q[:, None]
    order = inputs.histories.rows
    at_QL = order[np.minimum(rows.begin[chosen, None] + place_L, len(order) - 1)]
    start_Q = rows.start[chosen]
    size_Q = rows.start[chosen + 1] - start_Q
    place_N = np.arange(int(size_Q.max(initial=0)))
    shown_QN = place_N < size_Q[:, None]
    slot_QN = np.minimum(start_Q[:, None] + place_N, len(rows.row) - 1)
    candidate_QN, session_QN = rows.row[slot_QN], rows.session[slot_QN]
    return Batch(
        event_item=_whole(np.where(there_QL, events.item[at_QL], 0)),
        event_action=torch.from_numpy(np.where(there_QL[:, :, None], events.actions[at_QL], np.float32(0))),
        event_gap=_whole(np.where(there_QL, inputs.gap[at_QL], 0)),
        event_hour=_whole(np.where(there_QL, inputs.hour[at_QL], 0)),
        length=_whole(length_Q),
        item=_whole(np.where(shown_QN, events.item[candidate_QN], 0)),
        gap=_whole(np.where(shown_QN, rows.gap[slot_QN], 0)),
        hour=_whole(np.where(shown_QN, hours(rows.began[slot_QN]), 0)),
        user=_whole(rows.user[chosen]),
        session=_whole(np.where(shown_QN, session_QN, -1 - place_N)),
        seen=_whole(np.where(shown_QN, rows.seen[slot_QN], 0)),
        label=torch.from_numpy(np.where(shown_QN[:, :, None], events.actions[candidate_QN], np.float32(0))),
        weight=torch.from_numpy(np.where(shown_QN, weight_E[candidate_QN], np.float32(0))),
        total=torch.tensor(weight_E.sum(dtype=np.float64), dtype=torch.float32),
        catalogue=inputs.catalogue,
        counts=torch.zeros(*shown_QN.shape, 0)
        if counts_CF is None
        else torch.from_numpy(np.where(shown_QN[:, :, None], counts_CF[slot_QN], np.float32(0))),
    )


def _whole(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.int64))


def candidate_weights(inputs: Inputs, train: Integers, *, recency_days: float, position: float) -> Floats:
    """What each training event counts in the loss: the later, the more.

    Args:
        inputs: the log.
        train: rows to learn from; all others weigh nothing.
        recency_days: days before the last training event after which an event counts half; 0: all days alike.
        position: events of the user in training after which an event counts half; 0: all alike.

    Returns:
        (E) weights, 0 to 1.

    Source:
        LiGR (arXiv 2502.03417): exponential decay by position and by recency, with a half-life of the length of the
        sequence and one of 60 days.
    """
    events = inputs.events
    weight = np.zeros(len(events))
    weight[train] = 1
    if recency_days:
        age_days = (events.time[train].max() - events.time[train]) / 86_400
        weight[train] *= 0.5 ** (age_days / recency_days)
    if position:
        last_U = np.zeros(events.users, np.int64)
        number = inputs.histories.before_row
        np.maximum.at(last_U, events.user[train], number[train])
        weight[train] *= 0.5 ** ((last_U[events.user[train]] - number[train]) / position)
    return weight.astype(np.float32)


class SessionBatches:
    """One process's share of the training batches; implements `models.common.contracts.Batches`.

    An epoch is a permutation of the rows drawn from seed and epoch alone; `BUCKET` batches at a time are sorted by
    length, so that a batch has rows of like length, and the batches are mixed again. Process r of p takes every p-th
    row of each batch from the r-th. The rest that fills no batch waits for another epoch.

    Args:
        inputs: the log.
        rows: rows of the training sessions.
        weight_E: what each event counts in the loss.
        batch_size: rows of a step over all processes.
        seed: of the order.
        cut: share of the sessions that are cut in two, other ones in each epoch; see `cut_in_two`.
        counter: what is counted of candidates; None for nothing.
        rank: this process.
        processes: how many there are.

    Raises:
        ValueError: there are fewer rows than processes.
    """

    def __init__(
        self,
        inputs: Inputs,
        rows: Rows,
        weight_E: Floats,
        *,
        batch_size: int,
        seed: int,
        cut: float = 0.0,
        counter: Counter | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if len(rows) < processes:
            raise ValueError(
                f"training needs at least one row per process, got {len(rows)} for {processes} processes; lower "
                f"processes or give more sessions."
            )
        self._inputs, self._rows, self._weight = inputs, rows, weight_E
        self._cut, self._count = cut, None if counter is None else counter.of(inputs)
        self._size = min(batch_size, len(rows)) // processes * processes
        self._seed, self._rank, self._processes = seed, rank, processes
        self._cost = rows.length + np.diff(rows.start)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._rows) // self._size

    def order(self, number: int) -> Integers:
        """(batches, rows) of one epoch, over all processes."""
        draw = np.random.default_rng([self._seed, number])
        order = draw.permutation(len(self._rows))[: len(self) * self._size]
        parts = []
        for first in range(0, len(order), BUCKET * self._size):
            some = order[first : first + BUCKET * self._size]
            parts.append(some[np.argsort(self._cost[some], kind="stable")].reshape(-1, self._size))
        batches = np.concatenate(parts)
        return np.asarray(batches[draw.permutation(len(batches))], np.int64)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches of one epoch."""
        rows = self._rows
        if self._cut:
            rows = cut_in_two(self._inputs, rows, self._cut, np.random.default_rng([self._seed, number, 1]))
        counts = None if self._count is None else self._count(rows.row, rows.began)
        for chosen in self.order(number):
            yield batch_of(self._inputs, rows, chosen[self._rank :: self._processes], self._weight, counts)
