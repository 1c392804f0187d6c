"""Sequences: where they come from, how they are split, and the histories made of them."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.feed.events.splits import Split
from models.feed.events.table import Events, EventsTableConfig
from models.feed.ranking.next_item.data import DataConfig, Histories, histories_of, questions, split_events
from tests.models.feed.ranking.next_item.sequences import events_of, simulated


def words(found: Histories, events: Events) -> list[str]:
    names = events.item_ids.to_pylist()
    return ["".join(names[item] for item in found.take(np.array([place])).item) for place in range(len(found))]


def test_the_last_two_events_are_held_out_and_the_validation_event_is_in_the_history_of_the_test() -> None:
    events = events_of({"ann": "abcd", "bob": "xy", "cyd": "zab"} | {f"u{n}": "cad" for n in range(20)})
    data = split_events(events, "test")
    split = Split.from_payload(data)
    validation, test = questions(events, split, "validation"), questions(events, split, "test")
    assert words(validation.history, events)[:2] == ["ab", "z"]
    assert words(test.history, events)[:2] == ["abc", "za"]
    names = events.item_ids.to_pylist()
    assert [names[item] for item in validation.target[:2]] == ["c", "a"]
    assert [names[item] for item in test.target[:2]] == ["d", "b"]
    assert len(test) == 22, "bob has two events and only trains"
    everyone = histories_of(events, split.train, np.arange(events.users))
    assert words(everyone, events)[:3] == ["ab", "xy", "z"]


@given(length=st.lists(st.integers(0, 9), min_size=1, max_size=9), most=st.integers(1, 9))
def test_latest_and_take_are_slices(length: list[int], most: int) -> None:
    item = np.arange(sum(length))
    found = Histories(item=item, start=np.concatenate([[0], np.cumsum(length)]).astype(np.int64))
    plain = [item[begin:end].tolist() for begin, end in zip(found.start[:-1], found.start[1:], strict=True)]
    chosen = np.array([len(length) - 1, 0, 0])
    for made, right in (
        (found.latest(most), [word[-most:] for word in plain]),
        (found.take(chosen), [plain[place] for place in chosen]),
    ):
        assert len(made) == len(right)
        assert [made.item[a:b].tolist() for a, b in zip(made.start[:-1], made.start[1:], strict=True)] == right
        row, one = made.pairs
        assert list(zip(row.tolist(), one.tolist(), strict=True)) == [
            (place, item) for place, word in enumerate(right) for item in word
        ]


def test_a_file_of_sequences_is_read_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "some.txt.gz"
    with gzip.open(file, "wt") as handle:
        handle.writelines(f"{user} 5 {user + 100} 3 7\n" for user in range(1, 31))
    config = DataConfig(name="some", source="sequences", file=str(file))
    assert config.sources() == {"sequences": str(file)}
    events = Events.from_payload(data := config.prepare({"sequences": file}))
    asked = questions(events, Split.from_payload(data), "test")
    assert [events.item_ids[int(item)].as_py() for item in asked.target] == [7] * 30
    assert asked.history.length.tolist() == [3] * 30
    assert data["layout"] == {"source": "sequences"}


def test_of_a_table_only_responses_count(tmp_path: Path) -> None:
    rows = ["user,item,time,liked"]
    rows += [
        f"u{user},i{step},{1_600_000_000 + 60 * step},{0 if step == 4 else 1}"
        for user in range(25)
        for step in range(5)
    ]
    file = tmp_path / "events.csv"
    file.write_text("\n".join(rows))
    config = DataConfig(source="table", table=EventsTableConfig(events=str(file), actions=("liked",)))
    data = config.prepare({"events": file})
    events = Events.from_payload(data)
    assert len(events) == 100
    target = questions(events, Split.from_payload(data), "test").target
    assert {events.item_ids[int(item)].as_py() for item in target} == {"i3"}


def test_too_few_users_are_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match="19 of 20 users have three events or more, and at least 20 must"):
        split_events(events_of({"x": "ab"} | {f"u{n}": "abc" for n in range(19)}), "a table")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "Two Words"}, "must be lower case"),
        ({"source": "sequences"}, r"DataConfig.file must name a file when the source is 'sequences', got ''"),
        ({"source": "table"}, r"DataConfig.table.events must name a file when the source is 'table', got ''"),
    ],
)
def test_a_configuration_that_names_nothing_is_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**wrong)  # type: ignore[arg-type]


def test_the_same_seed_makes_the_same_data() -> None:
    left, right, other = simulated(3), simulated(3), simulated(4)
    assert left["events"].equals(right["events"])
    assert not left["events"].equals(other["events"])
    assert np.array_equal(left["oracle_last"], right["oracle_last"])
