"""Which events are learned from, which choose the model, and which judge it.

Two protocols. Leave-one-out matches published tables of next-item ranking; it lets the past of one user know the
future of another, so no claim about quality in service rests on it. The global time split does not: everything that is
learned from lies before everything that chooses, and that before everything that judges.
"""

# Shapes: E events, S sessions, B borders that are possible.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.feed.events.table import Events

Integers = NDArray[np.int64]

LEAVE_ONE_OUT = (
    "Leave one out: each user's last event is the test, the one before it the validation; users with fewer than three "
    "events only train; events of one moment are in the order of their file; no refit: the validation event is not "
    "trained on."
)
GLOBAL_TIME = (
    "Global time: {shares} of the events in the order of time; whole sessions; all training events lie before all "
    "validation events, and those before all test events; {left_out} events of sessions that run across a border are "
    "in no part."
)
SLACK = 0.01
"""How far, as a share of all events, a border may move to where fewer sessions run across it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Row numbers of events by what they are for; each rises.

    Attributes:
        train: rows to learn from.
        validation: rows that choose the model and its options.
        test: rows that judge; read once.
        left_out: rows in no part; they may stand in the history of later rows.
        protocol: the rule in one sentence, to be printed beside every number.
        ordered: whether all of one part lies before all of the next in time.
    """

    train: Integers
    validation: Integers
    test: Integers
    left_out: Integers
    protocol: str
    ordered: bool

    def payload(self) -> Payload:
        """The split as parts of a product."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test, "left_out": self.left_out}
        return {**parts, "split": {"protocol": self.protocol, "ordered": self.ordered}}

    @classmethod
    def from_payload(cls, payload: Payload) -> "Split":
        """The split that `payload` described; raises `KeyError` for a part that is missing."""
        return cls(
            train=np.asarray(payload["train"], np.int64),
            validation=np.asarray(payload["validation"], np.int64),
            test=np.asarray(payload["test"], np.int64),
            left_out=np.asarray(payload["left_out"], np.int64),
            protocol=payload["split"]["protocol"],
            ordered=payload["split"]["ordered"],
        )


def leave_one_out(events: Events) -> Split:
    """Hold out each user's last two events.

    Args:
        events: in the order of time, ties in the order of the file, as `Events` always is.

    Returns:
        The split; users with fewer than three events only train. Repeated items stay: the target is whatever came
        last.

    Source:
        Kang & McAuley 2018, "Self-attentive sequential recommendation", section IV-A. Whether the validation event is
        trained on before the test differs between publications; here it never is.
    """
    order = np.argsort(events.user, kind="stable")
    count = np.bincount(events.user, minlength=events.users)
    last = np.cumsum(count)[count >= 3] - 1
    test, validation = order[last], order[last - 1]
    kept = np.ones(len(events), bool)
    kept[test] = kept[validation] = False
    return Split(
        train=np.flatnonzero(kept),
        validation=np.sort(validation),
        test=np.sort(test),
        left_out=np.zeros(0, np.int64),
        protocol=LEAVE_ONE_OUT,
        ordered=False,
    )


def global_time(events: Events, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Split:
    """Cut the events at two moments, between sessions.

    A border is the beginning of a session. Within one hundredth of all events around the wanted share the border is
    chosen across which the fewest events' sessions run, then the nearest one. Those sessions are in no part.

    Args:
        events: with times.
        shares: of the events for training, validation and test; above zero, adding up to one.

    Returns:
        The split.

    Raises:
        ValueError: the shares do not add up, the events have no times, or a part would be empty.

    Source:
        Ours; why time must be global: Ji et al. 2023, "A critical study on data leakage in recommender system offline
        evaluation".
    """
    if len(shares) != 3 or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be three numbers above 0 that add up to 1, got {shares}.")
    if not events.timed:
        raise ValueError(
            "the global time split needs moments, and these events have only the order of their file; "
            "use leave_one_out."
        )
    first, last = _spans(events)
    begins, ends, size = events.time[first], events.time[last], _sizes(events)
    early = _border(events, begins, ends, size, shares[0] * len(events), after=None)
    late = _border(events, begins, ends, size, (shares[0] + shares[1]) * len(events), after=early)
    _, place = np.unique(events.session, return_inverse=True)
    part_S = np.full(len(begins), -1)
    part_S[ends < early] = 0
    part_S[(begins >= early) & (ends < late)] = 1
    part_S[begins >= late] = 2
    part = part_S[place]
    for number, name in enumerate(("training", "validation", "test")):
        if not (part == number).any():
            raise ValueError(
                f"the {name} part would be empty with shares {shares} of {len(events)} events in {len(begins)} "
                f"sessions; give more events, other shares, or shorter sessions."
            )
    left_out = np.flatnonzero(part == -1)
    return Split(
        train=np.flatnonzero(part == 0),
        validation=np.flatnonzero(part == 1),
        test=np.flatnonzero(part == 2),
        left_out=left_out,
        protocol=GLOBAL_TIME.format(shares=" / ".join(f"{share:g}" for share in shares), left_out=len(left_out)),
        ordered=True,
    )


def _spans(events: Events) -> tuple[Integers, Integers]:
    """(S) first and last row of every session, sessions by number."""
    _, first = np.unique(events.session, return_index=True)
    _, from_end = np.unique(events.session[::-1], return_index=True)
    return first, len(events) - 1 - from_end


def _sizes(events: Events) -> Integers:
    """(S) events of every session, sessions by number."""
    return np.unique(events.session, return_counts=True)[1]


def _border(events: Events, begins: Integers, ends: Integers, size: Integers, wanted: float, after: int | None) -> int:
    """The moment of a session's beginning at which to cut."""
    moments = np.unique(begins)
    moments = moments[moments > (events.time[0] if after is None else after)]
    if not len(moments):
        raise ValueError(
            f"the events cannot be cut in three: too few of the {len(begins)} sessions begin at different moments."
        )
    by_begin, by_end = np.argsort(begins, kind="stable"), np.argsort(ends, kind="stable")
    begun = np.concatenate([[0], np.cumsum(size[by_begin])])[np.searchsorted(begins[by_begin], moments, side="left")]
    ended = np.concatenate([[0], np.cumsum(size[by_end])])[np.searchsorted(ends[by_end], moments, side="left")]
    across = begun - ended
    distance = np.abs(events.before(moments) - wanted)
    near = np.flatnonzero(distance <= max(SLACK * len(events), distance.min()))
    return int(moments[near[np.lexsort((distance[near], across[near]))[0]]])
