from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.common.contracts import InputError
from models.feed.events import preparation
from models.feed.events.leakage import LeakageError
from models.feed.events.splits import Split
from models.feed.events.table import Events, EventsTableConfig
from models.feed.ranking import data as data_module
from models.feed.ranking.data import DataConfig
from tests.models.feed.ranking.worlds import simulated


def test_parts_follow_one_another_and_carry_their_protocol_and_oracles() -> None:
    payload = simulated()
    events, split = Events.from_payload(payload), Split.from_payload(payload)
    assert events.time[split.train].max() < events.time[split.validation].min()
    assert events.time[split.validation].max() < events.time[split.test].min()
    assert "Global time: 0.8 / 0.1 / 0.1" in split.protocol
    assert payload["layout"] == {"source": "simulator", "categories": "category"}
    assert len(payload["oracle_setwise"]) == len(payload["oracle_pointwise"]) == len(events)


def own_table(folder: Path, change: str = "") -> DataConfig:
    lines = ["who,what,when,click,stars,item_kind"]
    for number in range(300):
        click = (number * 7) % 3 == 0
        kind = ["x|y", "y", ""][number % 11 % 3]
        lines.append(f"u{number % 9},i{number % 11},{1_600_000_000 + 5000 * number},{int(click)},{number % 5},{kind}")
    file = folder / "own.csv"
    file.write_text("\n".join(lines))
    table = EventsTableConfig(
        events=str(file),
        user_column="who",
        item_column="what",
        time_column="when",
        actions=("click", "stars"),
        at_least=(1, 4),
        multi_valued=("kind",),
    )
    table = replace(table, at_least=()) if change == "raw" else table
    return DataConfig(name="own", source="table", table=table, table_categories="kind")


def test_a_table_of_ones_own_is_read_with_its_tasks_and_categories(tmp_path: Path) -> None:
    config = own_table(tmp_path)
    assert set(config.sources()) == {"events"}
    payload = config.prepare({"events": Path(config.table.events)})
    assert payload["about"]["tasks"] == ["click", "stars"]
    assert payload["layout"]["categories"] == "kind"
    assert Events.from_payload(payload).categories("kind").names == ("x", "y")


def test_responses_beyond_one_are_refused_with_the_remedy(tmp_path: Path) -> None:
    config = own_table(tmp_path, "raw")
    with pytest.raises(InputError, match=r"'stars' of event 2 is 2 .* say in EventsTableConfig.at_least"):
        config.prepare({"events": Path(config.table.events)})


def test_an_unknown_attribute_is_refused_by_name(tmp_path: Path) -> None:
    config = replace(own_table(tmp_path), table_categories="colour")
    with pytest.raises(InputError, match="item attribute must be one of"):
        config.prepare({"events": Path(config.table.events)})


def test_a_split_that_leaks_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = preparation.global_time

    def leaking(events: Events, shares: tuple[float, float, float]) -> Split:
        split = plain(events, shares)
        return replace(split, train=np.append(split.train, split.test[-1]))

    monkeypatch.setattr(preparation, "global_time", leaking)
    with pytest.raises(LeakageError, match="is in the training and in the test part"):
        simulated()


def test_a_history_with_events_of_its_own_session_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = data_module.Inputs.history

    def leaking(self: data_module.Inputs, session: int, length: int) -> np.ndarray:
        return np.append(plain(self, session, length - 1), self.rows(session)[0])

    monkeypatch.setattr(data_module.Inputs, "history", leaking)
    with pytest.raises(LeakageError, match="take the user's own events from before the session"):
        simulated()
