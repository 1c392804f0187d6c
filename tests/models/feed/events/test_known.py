"""Identifiers for codes, and one line of time of what the log has and what was told."""

import numpy as np
import pyarrow as pa
import pytest

from models.feed.events import known as module
from models.feed.events.known import AskError, Item, Known, Told
from models.feed.events.table import Events, arrange


def log(*, numbers: bool) -> Events:
    """Two users; each item has one category, and item 2 none."""
    rows = [(1, 0, 10, 1.0), (1, 1, 10, 0.0), (2, 1, 20, 1.0), (1, 2, 30, 1.0), (1, 0, 4000, 0.0)]
    user, item, time, label = zip(*rows, strict=True)
    spelled = (lambda values: pa.array(values)) if numbers else (lambda values: pa.array([str(one) for one in values]))
    return arrange(
        user=spelled(user),
        item=spelled(item),
        time=np.array(time, np.int64),
        actions={"click": np.array(label), "like": np.zeros(len(rows))},
        item_ids=spelled([0, 1, 2]),
        item_attributes=pa.table({"kind": pa.array([["x"], ["y"], []], pa.list_(pa.string()))}),
    )


@pytest.mark.parametrize("numbers", [True, False])
def test_identifiers_are_known_however_they_are_written(numbers: bool) -> None:
    known = Known(log(numbers=numbers), "kind")
    assert known.user(1) == known.user("1") == 0
    assert known.user("nobody") == known.user(None) == 2
    assert [known.item(Item(name), "x") for name in (2, "2")] == [2, 2]
    assert (known.name("1"), known.name(1)) == ((1, 1) if numbers else ("1", "1"))
    for strange in ("", "1.0", " 1", "1_0", "9" * 40, 10**40, -1):
        assert not known.knows(strange)


def test_a_line_of_time_is_what_the_log_has_and_what_was_told() -> None:
    known = Known(log(numbers=True), "kind")
    line = known.line(1, [])
    assert (line.item.tolist(), line.time.tolist()) == ([0, 1, 2, 0], [10, 10, 30, 4000])
    assert [line.before(moment) for moment in (0, 10, 11, 30, 31, 10**6)] == [0, 0, 2, 2, 3, 4]
    assert line.gap.tolist() == [0, 1, 5, 12]  # 0, 20 and 3970 seconds
    told = [Told(Item(2), 20, {"like": 1.0}), Told(Item(1), 10, {"click": 1.0}), Told(Item(0), 5000, {})]
    line = known.line(1, told)
    assert (line.item.tolist(), line.time.tolist()) == ([0, 1, 2, 2, 0, 0], [10, 10, 20, 30, 4000, 5000])
    assert line.action.tolist() == [[1, 0], [1, 0], [0, 1], [1, 0], [0, 0], [0, 0]]
    assert known.line("nobody", told).item.tolist() == [1, 2, 0]
    empty = known.line(None, [])
    assert (len(empty.item), empty.action.shape, len(empty.gap), empty.before(5)) == (0, (0, 2), 0, 0)


@pytest.mark.parametrize("numbers", [True, False])
def test_an_item_and_a_moment_are_one_event_however_the_item_is_written(numbers: bool) -> None:
    known = Known(log(numbers=numbers), "kind")
    told = [Told(Item(0), 50, {"click": 1.0}), Told(Item(1), 50, {}), Told(Item("0"), 50, {"like": 1.0})]
    line = known.line(None, told, "history")
    assert (line.item.tolist(), line.action.tolist()) == ([0, 1], [[0, 1], [0, 0]])
    new = [Told(Item("8", ("x",)), 50, {}), Told(Item(8, ("y",)), 50, {}), Told(Item(9, ("y",)), 50, {})]
    assert known.line(None, new).item.tolist() == [known.item(new[1].item, "item")] * 2
    for once in (known.once(told), known.countable(told)):
        assert [(one.item.id, dict(one.actions)) for one in once] == [
            (0 if numbers else "0", {"like": 1.0}),
            (1 if numbers else "1", {}),
        ]
    with pytest.raises(AskError, match=r"^events\[3\]\.item: 'new'"):
        known.line(1, [*told, Told(Item("new"), 1, {})])


def test_items_of_which_nothing_is_known_have_a_code_when_all_others_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GUESTS", 3)
    known = Known(log(numbers=True), "kind")
    assert [known.item(Item("new", one), "item") for one in (("x",), ("y",))] == [3, 4]
    with pytest.raises(AskError, match="3 different sets"):
        known.item(Item("new", ("x", "y")), "item")
    assert known.item(Item("", ()), "item") == 5


def test_codes_behind_those_of_the_log_are_of_sets_of_categories(monkeypatch: pytest.MonkeyPatch) -> None:
    admitted: list[tuple[int, tuple[int, ...]]] = []
    known = Known(log(numbers=True), "kind", lambda code, kinds: admitted.append((code, kinds)))
    names = [("x",), ("y", "x"), ("x", "y", "y"), (), ("no such",), ("x", "no such")]
    assert [known.item(Item("new", one), "item") for one in names] == [3, 4, 4, 5, 5, 3]
    assert admitted == [(3, (0,)), (4, (0, 1)), (5, ())]
    assert known.guests() == [(0,), (0, 1), ()]
    monkeypatch.setattr(module, "GUESTS", 3)
    with pytest.raises(AskError, match="3 different sets of categories of unknown items"):
        known.item(Item("new", ("y",)), "item")
    assert known.item(Item("other", ("x",)), "item") == 3


def test_what_is_wrong_is_named_by_its_place() -> None:
    known = Known(log(numbers=True), "kind")
    with pytest.raises(AskError, match=r"^candidates\[1\]: 'new': this item is unknown; say of which categories"):
        known.codes([Item(1), Item("new")], "candidates")
    with pytest.raises(AskError, match=r"^events\[1\]\.actions: 'bought': there is no such task"):
        known.line(1, [Told(Item(1), 1, {}), Told(Item(1), 2, {"bought": 1.0})])
    long = AskError("field", "x" * 500, "say less")
    assert len(str(long)) < 120
    told = [Told(Item("new"), 1, {}), Told(Item(1), 1, {"bought": 1.0}), Told(Item(1), 2, {})]
    assert known.countable(told) == told[2:]


def test_what_a_user_met_is_what_she_responded_to_before_the_moment() -> None:
    known = Known(log(numbers=True), "kind")
    asked = module.Asked(1, None, 31, (Item(1),))
    assert known.met(asked, []) == [0, 2]
    assert known.met(asked._replace(time=30), []) == [0]
    told = [Told(Item(1), 25, {"click": 1.0}), Told(Item("new", ()), 26, {"click": 1.0})]
    assert known.met(asked, told) == [0, 1, 2]
    assert known.met(asked._replace(history=tuple(told)), []) == [1]
