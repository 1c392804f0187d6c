"""Which days of a member's history are features, which are treatment, and which are outcome.

For a report at R every member gets a decision day D of its own, so that decisions do not all fall on one weekday:

    D = R - (C + T + W) + U,   U uniform on 0 .. W - 1,

    features    [D - B, D)     what was known when the decision fell,
    treatment   [D, D + T)     any touch,
    outcome     [D + T, R]     C to C + W days: at least C for a conversion to come.

An event stamped D is not a feature. That is the one rule that keeps what the decision caused out of what it is
predicted from; `gather` is built so that such an event cannot reach its features.
"""

# Shapes: N members, E events, K kinds of events.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """Lengths of the windows, in days."""

    back: int = setting(60, "Features", "Days before the decision that features see, 1 to 3650.", ge=1, le=3650)
    treatment: int = setting(
        7, "Treatment", "Days from the decision on in which a touch counts, 1 to 365.", ge=1, le=365
    )
    conversion: int = setting(
        30, "Conversion", "Days that a conversion has at least, after the treatment, 1 to 3650.", ge=1, le=3650
    )
    decisions: int = setting(90, "Decisions", "Days over which decisions are spread, 1 to 3650.", ge=1, le=3650)

    def __post_init__(self) -> None:
        check(self)

    def decision_days(self, members: int, *, report: int, seed: int) -> Integers:
        """A decision day (N) for every member.

        Args:
            members: N.
            report: R, the last day of which events are known.
            seed: of the draw.

        Source:
            "From Prediction to Incrementality" (arXiv 2608.10182): D = R - (W_C + W_T + W_D) + U{0..W_D - 1}, with 30,
            7, 90 and 60 days as here.
        """
        drawn = np.random.default_rng(seed).integers(0, self.decisions, members)
        return np.asarray(report - (self.conversion + self.treatment + self.decisions) + drawn, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Windowed:
    """Members at their decisions.

    Attributes:
        features: (N, 3 K + 1) of each kind of event how many, their summed amount, and days since the last one, `back`
            without one; then the member's days since the first event of any kind, at most `back`.
        treated: (N) whether a touch came in the treatment window.
        outcome: (N) summed amount of outcomes in the outcome window.
        converted: (N) whether there was one.
        followed: (N) days of the outcome window.
    """

    features: Floats
    treated: NDArray[np.bool_]
    outcome: Floats
    converted: NDArray[np.bool_]
    followed: Integers


def gather(
    member: NDArray[Any],
    day: NDArray[Any],
    kind: NDArray[Any],
    amount: NDArray[Any],
    decision: Integers,
    *,
    kinds: int,
    touch: int,
    conversion: int,
    report: int,
    config: WindowsConfig,
) -> Windowed:
    """Features, treatment and outcome of every member.

    Args:
        member: (E) number of the member, 0 to N - 1.
        day: (E) whole number.
        kind: (E) number of the kind, 0 to K - 1.
        amount: (E) finite.
        decision: (N) decision days.
        kinds: K.
        touch: the kind that is treatment.
        conversion: the kind that is outcome.
        report: R; later events are refused, they were not known.
        config: lengths of the windows.

    Returns:
        The members.

    Raises:
        InputError: lengths differ, a number is out of its range, or an event lies after the report.

    Source:
        As `WindowsConfig.decision_days`; the features are ours.
    """
    who, when, what, much = _events(member, day, kind, amount, len(decision), kinds, report)
    since = when - decision[who]
    size = len(decision)
    before = (since >= -config.back) & (since < 0)
    cell = who[before] * kinds + what[before]
    count = np.bincount(cell, minlength=size * kinds).reshape(size, kinds)
    total = np.bincount(cell, weights=much[before], minlength=size * kinds).reshape(size, kinds)
    last = np.full(size * kinds, config.back, np.int64)
    np.minimum.at(last, cell, -since[before])
    first = np.zeros(size, np.int64)
    earlier = since < 0
    np.maximum.at(first, who[earlier], -since[earlier])
    features = np.concatenate(
        [count, total, last.reshape(size, kinds), np.minimum(first, config.back)[:, None]], axis=1
    ).astype(np.float64)
    touched = (what == touch) & (since >= 0) & (since < config.treatment)
    outcome = (what == conversion) & (since >= config.treatment)
    return Windowed(
        features=features,
        treated=np.bincount(who[touched], minlength=size) > 0,
        outcome=np.bincount(who[outcome], weights=much[outcome], minlength=size).astype(np.float64),
        converted=np.bincount(who[outcome], minlength=size) > 0,
        followed=report - (decision + config.treatment) + 1,
    )


def _events(
    member: NDArray[Any],
    day: NDArray[Any],
    kind: NDArray[Any],
    amount: NDArray[Any],
    size: int,
    kinds: int,
    report: int,
) -> tuple[Integers, Integers, Integers, Floats]:
    named = (("member of event", member), ("day of event", day), ("kind of event", kind))
    who, when, what = (whole(np.asarray(part), name) for name, part in named)
    much = np.asarray(amount, np.float64)
    if not who.shape == when.shape == what.shape == much.shape:
        raise InputError(f"events need a member, day, kind and amount each, got {who.shape}, {when.shape}, "
                         f"{what.shape}, {much.shape}.")  # fmt: skip
    for name, numbers, good, remedy in (
        ("member", who, (who >= 0) & (who < size), f"0 to {size - 1}"),
        ("day", when, when <= report, f"at most the report's, {report}; take a later report"),
        ("kind", what, (what >= 0) & (what < kinds), f"0 to {kinds - 1}"),
        ("amount", much, np.isfinite(much), "finite"),
    ):
        wrong = np.flatnonzero(~good)
        if len(wrong):
            raise InputError(f"{name} of event {wrong[0]} is {numbers[wrong[0]]}; it must be {remedy}.")
    return who, when, what, much


def whole(numbers: NDArray[Any], name: str) -> Integers:
    """Numbers as integers; raises `InputError`, with the name and place, for one that is no whole number."""
    if numbers.dtype.kind in "iub":
        return numbers.astype(np.int64)
    values = np.asarray(numbers, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values == np.floor(values))))
    if len(wrong):
        raise InputError(f"{name} {wrong[0]} is {values[wrong[0]]}; it must be a whole number: drop or round it.")
    return values.astype(np.int64)
