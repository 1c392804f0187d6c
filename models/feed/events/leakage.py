"""Checks that nothing of what a model must predict reaches what it is given; each fails by naming row and value.

They are written plainly and share no code with what they check: neither `splits` nor `features` is used here.

    check_split       parts apart, whole sessions, one after another in time; or each user's last two events
    check_recomputed  sampled rows' features computed again from events strictly before their session
    check_past_only   features stay when everything after, and the session's own responses, are changed
    check_history     histories hold the user's own events from before the session
    check_canary      no single feature tells a row's label, or that of the user's next row
    check_shuffled    a model trained on shuffled labels predicts nothing
"""

# Shapes: E events, Q rows, F features.

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.feed.events.table import Events

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SUSPICIOUS = 0.95
"""AUC of a single feature from which it is taken for the label in disguise; honest counting features of MovieLens and
of the simulated feed reach 0.72."""
SHUFFLED = 0.01
"""How far from one half the AUC after shuffling the labels may lie, when chance itself allows no more."""
_BINS = 50
_PER_BIN = 40


class LeakageError(ValueError):
    """What must be predicted reaches what is given; the message names the row, the value and the remedy."""


# --- splits -----------------------------------------------------------------------------------------------------------


def check_split(events: Events, train: Integers, validation: Integers, test: Integers, *, ordered: bool) -> None:
    """Refuse a split that lets one part know another.

    Args:
        events: all events.
        train: row numbers to learn from.
        validation: row numbers that choose.
        test: row numbers that judge.
        ordered: true for a global time split: all of one part lies strictly before all of the next, and no session is
            in two. False for leave-one-out: each user has at most one validation and one test event; they are the last
            ones in the order of the log, the validation event right before the test event.

    Raises:
        LeakageError: an event is in two parts, out of order, or in a session that another part has too.

    Source:
        Ours; the failures are those of Ji et al. 2023, "A critical study on data leakage in recommender system offline
        evaluation".
    """
    parts = {"training": train, "validation": validation, "test": test}
    names = list(parts)
    owner_E = np.full(len(events), -1)
    for number, (name, rows) in enumerate(parts.items()):
        outside = rows[(rows < 0) | (rows >= len(events))]
        if len(outside):
            raise LeakageError(f"the {name} part names row {outside[0]} of {len(events)} events; split them again.")
        ordinal, times = np.unique(rows, return_counts=True)
        taken = ordinal[(owner_E[ordinal] >= 0) | (times > 1)]
        if len(taken):
            other = names[owner_E[taken[0]]] if owner_E[taken[0]] >= 0 else name
            raise LeakageError(f"row {taken[0]} is in the {other} and in the {name} part; split the events again.")
        owner_E[rows] = number
    if ordered:
        _check_order(events, parts)
        _check_sessions(events, owner_E, names)
    else:
        _check_last(events, owner_E)


def _check_order(events: Events, parts: dict[str, Integers]) -> None:
    filled = [name for name, rows in parts.items() if len(rows)]
    for earlier, later in pairwise(filled):
        latest = parts[earlier][np.argmax(events.time[parts[earlier]])]
        first = parts[later][np.argmin(events.time[parts[later]])]
        if events.time[latest] >= events.time[first]:
            raise LeakageError(
                f"row {latest} of the {earlier} part is of time {events.time[latest]}, not before row {first} of the "
                f"{later} part at {events.time[first]}; cut the events at one moment for all users."
            )


def _check_sessions(events: Events, owner_E: Integers, names: list[str]) -> None:
    kept = np.flatnonzero(owner_E >= 0)
    order = kept[np.lexsort((owner_E[kept], events.session[kept], events.user[kept]))]
    user, session, owner = events.user[order], events.session[order], owner_E[order]
    torn = np.flatnonzero((user[1:] == user[:-1]) & (session[1:] == session[:-1]) & (owner[1:] != owner[:-1]))
    if len(torn):
        at = int(torn[0])
        raise LeakageError(
            f"session {session[at]} of user {user[at]} has row {order[at]} in the {names[owner[at]]} and row "
            f"{order[at + 1]} in the {names[owner[at + 1]]} part; keep sessions whole."
        )


def _check_last(events: Events, owner_E: Integers) -> None:
    size = np.bincount(events.user, minlength=events.users)
    last_U, before_U = np.full(events.users, -1), np.full(events.users, -1)
    rows = np.arange(len(events))
    np.maximum.at(last_U, events.user, rows)
    other = rows[last_U[events.user] != rows]
    np.maximum.at(before_U, events.user[other], other)
    for number, name, right_U in ((1, "validation", before_U), (2, "test", last_U)):
        for row in np.flatnonzero(owner_E == number).tolist():
            user = events.user[row]
            if size[user] < 3:
                raise LeakageError(
                    f"row {row} is the {name} event of user {user}, who has {size[user]} events; hold out from 3 on."
                )
            if row != right_U[user]:
                raise LeakageError(
                    f"row {row} at {events.time[row]} is a {name} event of user {user}, and only row {right_U[user]} "
                    f"at {events.time[right_U[user]]} can be; keep the order of the file within one moment."
                )
    alone = np.flatnonzero((size >= 3) & ((owner_E[last_U] == 2) != (owner_E[before_U] == 1)))
    if len(alone):
        raise LeakageError(
            f"user {alone[0]} has one of validation and test event, rows {before_U[alone[0]]} and {last_U[alone[0]]}; "
            f"hold out both or neither."
        )


# --- features ---------------------------------------------------------------------------------------------------------


def recompute(past: Events, user: int, item: int, moment: int, attribute: str = "") -> dict[str, float]:
    """The counting features of one row, computed plainly from a log that ends before the row's session.

    Args:
        past: events strictly before the session; what came later is not even here.
        user: code of the user.
        item: code of the item.
        moment: when the session begins, seconds since 1970.
        attribute: item attribute that holds the categories; empty for none.

    Returns:
        Every feature by its name.

    Source:
        The list in `features`, read again.
    """
    times, labels = past.time.tolist(), [float(value) for value in past.actions[:, 0]]
    mine = past.user == user
    same = past.item == item
    shares = np.zeros(len(past))
    if attribute:
        listed = past.item_attributes[attribute].to_pylist()
        wanted = _values(listed[item])
        overlap = np.array([len(wanted & _values(value)) for value in listed], np.float64)
        shares = overlap[past.item]
    overall = (sum(labels) + 1) / (len(labels) + 2)

    def rate(weight: NDArray[Any]) -> float:
        clicked = sum(float(weight[row]) * labels[row] for row in np.flatnonzero(weight))
        return (clicked + 10 * overall) / (float(weight.sum()) + 10)

    def elapsed(rows: NDArray[np.bool_], first: bool) -> float:
        found = [times[row] for row in np.flatnonzero(rows)]
        return math.log(1 + moment - (min(found) if first else max(found))) if found else 0.0

    ages = moment - past.time
    week = ages <= 7 * 24 * 3600
    day_turn, week_turn = 2 * math.pi * (moment % 86_400) / 86_400, 2 * math.pi * (moment % 604_800) / 604_800
    return {
        "user_rate": rate(mine),
        "item_rate": rate(same),
        "user_category_rate": rate(mine * shares),
        "category_rate": rate(shares),
        "pair_rate": rate(mine & same),
        "user_count": math.log(1 + mine.sum()),
        "item_count": math.log(1 + same.sum()),
        "user_category_count": math.log(1 + (mine * shares).sum()),
        "pair_count": math.log(1 + (mine & same).sum()),
        "user_recency": elapsed(mine, first=False),
        "item_recency": elapsed(same, first=False),
        "user_known": float(mine.any()),
        "item_known": float(same.any()),
        "item_age": elapsed(same, first=True),
        "item_day": math.log(1 + (same & (ages <= 24 * 3600)).sum()),
        "item_week": math.log(1 + (same & week).sum()),
        "item_month": math.log(1 + (same & (ages <= 30 * 24 * 3600)).sum()),
        "item_week_share": float(past.items * (same & week).sum() / max(int(week.sum()), 1)),
        "item_week_rate": rate(same & week),
        "hour_sine": math.sin(day_turn),
        "hour_cosine": math.cos(day_turn),
        "weekday_sine": math.sin(week_turn),
        "weekday_cosine": math.cos(week_turn),
    }


def _values(value: Any) -> set[Any]:
    if value is None:
        return set()
    return {part for part in value if part is not None} if isinstance(value, list) else {value}


Recompute = Callable[[Events, int, int, int], dict[str, float]]


def check_recomputed(
    events: Events,
    rows: Integers,
    value_QF: Floats,
    names: Sequence[str],
    again: Recompute = recompute,
    *,
    sample: int = 40,
    seed: int = 0,
    tolerance: float = 1e-9,
) -> None:
    """Compute the features of sampled rows again, by a function that is shown only what it may use.

    Args:
        events: the whole log.
        rows: the rows that the features are of.
        value_QF: their features.
        names: (F) of the features.
        again: computes all features by name from the events strictly before a session, user, item and the moment at
            which the session begins.
        sample: how many rows.
        seed: of the sample.
        tolerance: largest difference, relative to the larger of 1 and the value.

    Raises:
        LeakageError: a feature is not what the past gives; also when it is not a number.
        ValueError: shapes do not fit, or `again` does not know a feature.

    Source:
        Ours.
    """
    if value_QF.shape != (len(rows), len(names)):
        raise ValueError(f"features must be of shape {(len(rows), len(names))}, got {value_QF.shape}.")
    chosen = np.random.default_rng(seed).permutation(len(rows))[:sample]
    for place in np.sort(chosen).tolist():
        row = int(rows[place])
        moment = int(events.time[events.session == events.session[row]].min())
        past = events.take(events.time < moment)
        found = again(past, int(events.user[row]), int(events.item[row]), moment)
        for column, name in enumerate(names):
            if name not in found:
                raise ValueError(f"feature {name!r} cannot be computed again; known are {sorted(found)}.")
            value, right = float(value_QF[place, column]), found[name]
            if not abs(value - right) <= tolerance * max(1.0, abs(right)):
                raise LeakageError(
                    f"row {row}, feature {name!r}: {value!r}, but the events before its session at {moment} give "
                    f"{right!r}; count only what is strictly before the session."
                )


def check_past_only(
    events: Events,
    compute: Callable[[Events], Floats],
    names: Sequence[str],
    *,
    sample: int = 8,
    seed: int = 0,
    tolerance: float = 1e-9,
) -> None:
    """Take away everything after sampled sessions, turn round their own responses, and see that features stay.

    Args:
        events: the log.
        compute: makes the features (E, F) of all events of a log.
        names: (F) of the features.
        sample: how many sessions.
        seed: of the sample.
        tolerance: largest difference, relative to the larger of 1 and the value.

    Raises:
        LeakageError: a feature has changed.

    Source:
        Ours.
    """
    whole = compute(events)
    sessions = np.unique(events.session)
    for session in np.random.default_rng(seed).permutation(sessions)[:sample].tolist():
        own = events.session == session
        moment = events.time[own].min()
        cut = events.take(own | (events.time < moment))
        inside = cut.session == session
        turned = np.where(inside[:, None], 1 - cut.actions, cut.actions).astype(np.float32)
        left = compute(replace(cut, actions=turned))[inside]
        right = whole[own]
        wrong = np.argwhere(~(np.abs(left - right) <= tolerance * np.maximum(1, np.abs(right))))
        if len(wrong):
            place, column = wrong[0]
            row = int(np.flatnonzero(own)[place])
            raise LeakageError(
                f"row {row}, feature {names[column]!r}: {right[place, column]!r} with the whole log, "
                f"{left[place, column]!r} with nothing after {moment} and the session's responses turned round; "
                f"count only what is strictly before the session."
            )


def check_history(events: Events, rows: Integers, history_QL: NDArray[Any]) -> None:
    """Refuse a history that holds another user's event, or one that is not strictly before the row's session.

    Args:
        events: all events.
        rows: rows that histories are given with.
        history_QL: row numbers of their histories, -1 for none.

    Raises:
        LeakageError: a history holds what it may not.
        ValueError: shapes do not fit.

    Source:
        Ours.
    """
    if history_QL.ndim != 2 or len(history_QL) != len(rows):
        raise ValueError(f"histories must be of shape ({len(rows)}, L), got {history_QL.shape}.")
    begin: dict[int, int] = {}
    for session, moment in zip(events.session.tolist(), events.time.tolist(), strict=True):
        begin.setdefault(session, moment)
    limit = np.array([begin[session] for session in events.session[rows].tolist()], np.int64)
    there = history_QL >= 0
    past = np.where(there, history_QL, 0)
    wrong = np.argwhere(
        there & ((events.user[past] != events.user[rows][:, None]) | (events.time[past] >= limit[:, None]))
    )
    if len(wrong):
        row, other = int(rows[wrong[0, 0]]), int(history_QL[wrong[0, 0], wrong[0, 1]])
        raise LeakageError(
            f"the history of row {row} (user {events.user[row]}, session from {limit[wrong[0, 0]]} on) holds row "
            f"{other} (user {events.user[other]}, at {events.time[other]}); take the user's own events from before "
            f"the session."
        )


def check_canary(
    events: Events,
    rows: Integers,
    value_QF: Floats,
    names: Sequence[str],
    *,
    limit: float = SUSPICIOUS,
) -> None:
    """Refuse a feature that alone tells a row's label, or that of the user's next row.

    A feature that equals the label, or any monotone function of it, orders the labels without an error (AUC 1 or 0).
    One that tells it by another rule is found by the rate of the label in each of up to 50 ranges of its values. What
    is hidden more finely, or known only in part, is for `check_past_only`.

    Labels are the tasks whose responses are zeros and ones, both of them.

    Args:
        events: all events.
        rows: the rows that the features are of.
        value_QF: their features.
        names: (F) of the features.
        limit: AUC from which a feature is refused, either way round.

    Raises:
        LeakageError: a feature is suspicious or not a number.

    Source:
        Ours; known elsewhere as target leakage (Kaufman et al. 2012, "Leakage in data mining").
    """
    for column, name in enumerate(names):
        wrong = np.flatnonzero(~np.isfinite(value_QF[:, column]))
        if len(wrong):
            raise LeakageError(
                f"row {rows[wrong[0]]}, feature {name!r}: {value_QF[wrong[0], column]}; features must be finite."
            )
    following = _next_of_user(events)[rows]
    for place, task in enumerate(events.tasks):
        own = events.actions[rows, place]
        targets = {"its own row": (own, np.ones(len(rows), bool))}
        known = following >= 0
        targets["the user's next row"] = (events.actions[following, place], known)
        for what, (label, there) in targets.items():
            if set(np.unique(label[there]).tolist()) != {0.0, 1.0}:
                continue
            truth = label[there] == 1
            for column, name in enumerate(names):
                values = value_QF[there, column]
                found = max(_area(values, truth), 1 - _area(values, truth), _best_area(values, truth))
                if found >= limit:
                    row = int(rows[there][0])
                    raise LeakageError(
                        f"feature {name!r} tells {task!r} of {what} with an AUC of {found:.4f}, at least {limit:g}; "
                        f"for example row {row}: {float(values[0])!r} beside the label {float(label[there][0]):g}. "
                        f"Compute it from earlier sessions, or raise the limit if it is honest."
                    )


def _next_of_user(events: Events) -> Integers:
    """The user's next row after each row, -1 for none."""
    order = np.argsort(events.user, kind="stable")
    out = np.full(len(events), -1, np.int64)
    same = events.user[order[:-1]] == events.user[order[1:]]
    out[order[:-1][same]] = order[1:][same]
    return out


def _area(values: Floats, truth: NDArray[np.bool_]) -> float:
    """AUC: how many negatives lie below each positive, ties half."""
    negatives = np.sort(values[~truth])
    below = np.searchsorted(negatives, values[truth], side="left")
    upto = np.searchsorted(negatives, values[truth], side="right")
    return float((below + upto).mean() / (2 * len(negatives)))


def _best_area(values: Floats, truth: NDArray[np.bool_]) -> float:
    """AUC of the label's rate in ranges of the values; 0 with too few rows to tell."""
    bins = min(_BINS, len(values) // _PER_BIN)
    if bins < 2:
        return 0.0
    known = np.unique(values)
    edges = known if len(known) <= bins else np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:]))
    place = np.searchsorted(edges, values)
    rate = np.bincount(place, weights=truth, minlength=len(edges)) / np.maximum(np.bincount(place), 1)
    return _area(rate[place], truth)


# --- labels -----------------------------------------------------------------------------------------------------------


def shuffle_labels(events: Events, seed: int) -> Events:
    """The same events with their responses dealt out at random, those of all tasks of one event together.

    Args:
        events: any.
        seed: of the dealing.

    Returns:
        Events that nothing can predict.

    Source:
        Ours; a permutation test as in Ojala & Garriga 2010, "Permutation Tests for Studying Classifier Performance".
    """
    order = np.random.default_rng(seed).permutation(len(events))
    return replace(events, actions=events.actions[order])


def check_shuffled(label: NDArray[Any], score: NDArray[Any], *, tolerance: float = SHUFFLED) -> float:
    """Refuse a model that predicts shuffled labels: its AUC must be one half.

    Args:
        label: (E) shuffled labels of held-out rows, zeros and ones of both kinds.
        score: (E) of a model that was trained on shuffled labels.
        tolerance: largest distance from one half; four standard errors of chance when those are more.

    Returns:
        The AUC.

    Raises:
        LeakageError: the model predicts them, so something tells it the labels of held-out rows.
        ValueError: the labels are all alike.

    Source:
        The standard error of AUC under chance is that of the rank sum, Mann & Whitney 1947.
    """
    truth = np.asarray(label) == 1
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise ValueError(f"shuffled labels must be of both kinds, got {positives} positives and {negatives} negatives.")
    area = _area(np.asarray(score, np.float64), truth)
    allowed = max(tolerance, 4 * math.sqrt((positives + negatives + 1) / (12 * positives * negatives)))
    if not abs(area - 0.5) <= allowed:
        raise LeakageError(
            f"a model trained on shuffled labels has an AUC of {area:.4f} on {len(truth)} held-out rows, more than "
            f"{allowed:.4f} from one half; look for the label of a row among what the model is given."
        )
    return area
