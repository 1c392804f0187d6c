"""Honest splits and features pass; each seeded leak is refused, with the row and the value in the message."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.leakage import (
    LeakageError,
    check_canary,
    check_past_only,
    check_recomputed,
    check_shuffled,
    check_split,
    recompute,
    shuffle_labels,
)
from models.feed.events.simulator import SimulatorConfig, simulate
from models.feed.events.splits import global_time, leave_one_out
from models.feed.events.table import Events, arrange
from tests.models.feed.events.logs import random_events

Parts = dict[str, Any]

# --- splits -----------------------------------------------------------------------------------------------------------


def parts_of(events: Events, *, ordered: bool) -> Parts:
    split = global_time(events, (0.6, 0.2, 0.2)) if ordered else leave_one_out(events)
    return {"train": split.train, "validation": split.validation, "test": split.test, "ordered": ordered}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ordered", [True, False])
def test_honest_splits_pass(seed: int, ordered: bool) -> None:
    events = random_events(seed)
    check_split(events, **parts_of(events, ordered=ordered))


def moved(parts: Parts, source: str, target: str, rows: Any) -> Parts:
    return {
        **parts,
        source: np.setdiff1d(parts[source], rows),
        target: np.union1d(parts[target], rows),
    }


SPLIT_LEAKS: dict[str, tuple[bool, Callable[[Parts], Parts], str]] = {
    "a test row is trained on": (
        True, lambda p: {**p, "train": np.append(p["train"], p["test"][4])},
        r"row \d+ is in the training and in the test",
    ),
    "a row stands twice in one part": (
        True, lambda p: {**p, "test": np.append(p["test"], p["test"][0])}, r"in the test and in the test part"
    ),
    "a row of another log": (
        True, lambda p: {**p, "test": np.append(p["test"], 331)}, r"the test part names row 331 of 331 events"
    ),
    "the last test row is validated on": (
        True, lambda p: moved(p, "test", "validation", p["test"][-1:]), r"not before row \d+ of the test part"
    ),
    "a random split": (
        True,
        lambda p: {"ordered": True, "train": np.arange(0, 331, 2), "validation": np.arange(1, 331, 4),
                   "test": np.arange(3, 331, 4)},
        r"row \d+ of the training part is of time \d+, not before",
    ),
    "training goes on after the test": (
        True, lambda p: moved(p, "test", "train", p["test"][-3:]), r"of the training part is of time"
    ),
    "validation and test exchanged": (
        False, lambda p: {**p, "validation": p["test"], "test": p["validation"]},
        r"is a validation event of user \d+, and",
    ),
    "an earlier event as the test": (
        False, lambda p: moved(moved(p, "test", "train", p["test"][:1]), "train", "test", p["train"][:1]),
        r"row 0 at \d+ is a test event",
    ),
    "a test event is trained on": (
        False, lambda p: moved(p, "test", "train", p["test"][2:3]), r"user \d+ has one of validation and test event"
    ),
    "a validation event is trained on too": (
        False, lambda p: {**p, "train": np.append(p["train"], p["validation"][0])},
        r"in the training and in the validation",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLIT_LEAKS)
def test_a_split_that_leaks_is_refused(name: str) -> None:
    ordered, leak, message = SPLIT_LEAKS[name]
    events = random_events(2)
    with pytest.raises(LeakageError, match=message):
        check_split(events, **leak(parts_of(events, ordered=ordered)))


def test_one_moment_in_two_parts_is_refused() -> None:
    events = arrange(
        user=pa.array([0, 1, 2, 3]), item=pa.array([0] * 4), time=np.array([1, 5, 5, 9]),
        actions={"event": np.ones(4)}, gap=1,
    )  # fmt: skip
    with pytest.raises(LeakageError, match=r"row 1 of the training part is of time 5, not before row 2 .* at 5"):
        check_split(events, np.array([0, 1]), np.array([2]), np.array([3]), ordered=True)


def test_a_torn_session_is_refused() -> None:
    events = arrange(
        user=pa.array([0, 1, 1, 0]), item=pa.array([0] * 4), time=np.array([1, 5, 6, 20]),
        actions={"event": np.ones(4)}, gap=3,
    )  # fmt: skip
    with pytest.raises(LeakageError, match="session 1 of user 1 has row 1 in the training and row 2 in the validation"):
        check_split(events, np.array([0, 1]), np.array([2]), np.array([3]), ordered=True)


def test_a_user_with_two_events_cannot_be_held_out() -> None:
    events = arrange(user=pa.array([0, 0]), item=pa.array([0, 1]), time=np.array([1, 5]), actions={"event": np.ones(2)})
    with pytest.raises(LeakageError, match="user 0, who has 2 events"):
        check_split(events, np.zeros(0, int), np.array([0]), np.array([1]), ordered=False)


# --- features ---------------------------------------------------------------------------------------------------------

LOG = simulate(SimulatorConfig(users=60, items=200, sessions=10.0, seed=8)).events
ROWS = np.arange(len(LOG))


def honest(events: Events) -> Any:
    return PastCounts(events, "category").of_events()


def again(past: Events, user: int, item: int, moment: int) -> dict[str, float]:
    return recompute(past, user, item, moment, "category")


def test_honest_features_pass_every_check() -> None:
    values = honest(LOG)
    check_recomputed(LOG, ROWS, values, FEATURES, again)
    check_past_only(LOG, honest, FEATURES)
    check_canary(LOG, ROWS, values, FEATURES)


def rates(key: Any, label: Any, rows: Any) -> Any:
    """Smoothed rate of each event's key over some rows."""
    shown = np.bincount(key[rows], minlength=key.max() + 1)
    clicked = np.bincount(key[rows], label[rows], minlength=key.max() + 1)
    return ((clicked + 5) / (shown + 10))[key]


def following(events: Events) -> Any:
    """The label of the user's next row, one half without one."""
    out = np.full(len(events), 0.5)
    for user in np.unique(events.user):
        mine = np.flatnonzero(events.user == user)
        out[mine[:-1]] = events.label[mine[1:]]
    return out


def up_to_the_row(events: Events) -> Any:
    """User's clicks before the row itself, those of its own session among them."""
    out = np.zeros(len(events))
    for user in np.unique(events.user):
        mine = np.flatnonzero(events.user == user)
        out[mine] = np.cumsum(events.label[mine]) - events.label[mine]
    return out


FEATURE_LEAKS: dict[str, Callable[[Events], Any]] = {
    "item rate over the whole log": lambda e: rates(e.item, e.label, np.arange(len(e))),
    "user rate over the whole log": lambda e: rates(e.user, e.label, np.arange(len(e))),
    "rate inside the own session": lambda e: rates(
        np.unique(e.session, return_inverse=True)[1], e.label, np.arange(len(e))
    ),
    "clicks up to the row": up_to_the_row,
    "the label of the user's next row": following,
    "the label itself": lambda e: e.label.astype(float),
    "how often the item will have been shown": lambda e: np.bincount(e.item, minlength=e.items)[e.item].astype(float),
    "when the user comes for the last time": lambda e: np.array([e.time[e.user == u].max() for u in range(e.users) if
                                                                 (e.user == u).any()])[
        np.unique(e.user, return_inverse=True)[1]].astype(float),
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURE_LEAKS)
def test_a_feature_that_knows_the_session_or_the_future_moves_with_it(name: str) -> None:
    leak = FEATURE_LEAKS[name]
    with pytest.raises(
        LeakageError, match=r"row \d+, feature 'odd': .* count only what is strictly before the session"
    ):
        check_past_only(LOG, lambda events: np.stack([np.zeros(len(events)), leak(events)], 1), ["zero", "odd"])


@pytest.mark.parametrize(
    "column", ["user_rate", "item_count", "user_recency", "item_week", "hour_sine", "user_category_rate", "item_age"]
)
def test_a_feature_that_is_not_what_the_past_gives_is_refused(column: str) -> None:
    """One part in a million is enough."""
    values = honest(LOG)
    place = FEATURES.index(column)
    values[:, place] = np.where(LOG.time > LOG.time[0], values[:, place] * (1 + 1e-6) + 1e-6, values[:, place])
    with pytest.raises(LeakageError, match=rf"row \d+, feature '{column}': "):
        check_recomputed(LOG, ROWS, values, FEATURES, again)


def test_counting_to_the_row_in_place_of_the_session_is_refused() -> None:
    events = random_events(9, step=60)
    late = PastCounts(events, "genres").at(events.user, events.item, events.time)
    shifted = events.began != events.time
    assert shifted.any()
    with pytest.raises(LeakageError, match="the events before its session at"):
        check_recomputed(
            events, np.flatnonzero(shifted), late[shifted], FEATURES,
            lambda past, user, item, moment: recompute(past, user, item, moment, "genres"),
        )  # fmt: skip


def test_features_that_cannot_be_computed_again_or_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="feature 'mood' cannot be computed again"):
        check_recomputed(LOG, ROWS, np.zeros((len(LOG), 1)), ["mood"], again)
    with pytest.raises(ValueError, match="features must be of shape"):
        check_recomputed(LOG, ROWS, np.zeros((5, 1)), ["user_rate"], again)
    broken = honest(LOG)
    broken[:, 0] = np.nan
    with pytest.raises(LeakageError, match="feature 'user_rate': nan"):
        check_recomputed(LOG, ROWS, broken, FEATURES, again)


rng = np.random.default_rng(0)
NOISE = rng.random(len(LOG))
CANARIES: dict[str, Any] = {
    "the label": LOG.label,
    "the label of the user's next row": following(LOG),
    "its opposite": -following(LOG),
    "a power of it": 3.0 ** following(LOG) - 7,
    "the label and a little noise": LOG.label + 0.9 * NOISE,
    "the next label and a lot of noise": following(LOG) + 0.3 * rng.normal(size=len(LOG)),
    "a code of the label that is not in order": np.where(LOG.label == 1, 2, np.where(NOISE < 0.5, 1, 3)),
    "a code of the next label that is not in order": np.where(following(LOG) == 1, 5, np.where(NOISE < 0.5, 4, 9)),
    "the second task": LOG.actions[:, 1],
}


@pytest.mark.parametrize("name", CANARIES)
def test_a_feature_that_tells_a_label_alone_is_refused(name: str) -> None:
    values = np.stack([NOISE, np.asarray(CANARIES[name], float)], 1)
    with pytest.raises(LeakageError, match=r"feature 'canary' tells '(click|like)' of .* with an AUC of (0\.9|1\.0)"):
        check_canary(LOG, ROWS, values, ["noise", "canary"])


def test_a_canary_among_some_rows_is_found_by_the_whole_log_s_next_row() -> None:
    rows = np.flatnonzero(NOISE < 0.4)
    with pytest.raises(LeakageError, match="of the user's next row"):
        check_canary(LOG, rows, following(LOG)[rows][:, None], ["canary"])


def test_a_feature_that_is_no_number_is_refused() -> None:
    values = NOISE[:, None].copy()
    values[17] = np.inf
    with pytest.raises(LeakageError, match="row 17, feature 'noise': inf; features must be finite"):
        check_canary(LOG, ROWS, values, ["noise"])


def test_labels_of_one_kind_have_nothing_to_tell() -> None:
    ones = replace(LOG, actions=np.ones((len(LOG), 1), np.float32), tasks=("event",))
    check_canary(ones, ROWS, np.ones((len(LOG), 1)), ["one"])


# --- labels -----------------------------------------------------------------------------------------------------------


def test_shuffled_labels_are_the_same_labels_in_another_order() -> None:
    mixed = shuffle_labels(LOG, 4)
    assert sorted(map(tuple, mixed.actions.tolist())) == sorted(map(tuple, LOG.actions.tolist()))
    assert not np.array_equal(mixed.actions, LOG.actions)
    np.testing.assert_array_equal(mixed.actions, shuffle_labels(LOG, 4).actions)
    np.testing.assert_array_equal(mixed.item, LOG.item)


def test_honest_features_of_shuffled_labels_predict_nothing_and_leaking_ones_are_refused() -> None:
    mixed = shuffle_labels(simulate(SimulatorConfig(users=150, items=200, sessions=10.0, seed=8)).events, 4)
    test = global_time(mixed).test
    values = PastCounts(mixed, "category").of_events(test)
    for name in ("item_rate", "user_rate", "user_category_rate"):
        assert abs(check_shuffled(mixed.label[test], values[:, FEATURES.index(name)]) - 0.5) < 0.05
    leaking = rates(mixed.item, mixed.label, np.arange(len(mixed)))[test]
    with pytest.raises(LeakageError, match=r"has an AUC of 0\.[5-9]\d+ on \d+ held-out rows"):
        check_shuffled(mixed.label[test], leaking)
    with pytest.raises(LeakageError, match=r"has an AUC of 0\.[0-4]\d+"):
        check_shuffled(mixed.label[test], -leaking)
    with pytest.raises(ValueError, match="must be of both kinds"):
        check_shuffled(np.ones(5), np.arange(5))
