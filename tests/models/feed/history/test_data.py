from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.common.contracts import InputError
from models.feed.events.features import FEATURES, PastCounts
from models.feed.events.leakage import LeakageError
from models.feed.events.splits import Split
from models.feed.events.table import Events, EventsTableConfig
from models.feed.history.data import DataConfig, refuse_leaks
from tests.models.feed.history.worlds import CONFIG, simulated


def test_the_simulated_feed_comes_with_parts_features_and_oracles() -> None:
    data = simulated()
    events = Events.from_payload(data)
    assert data["features"].shape == (len(events), len(FEATURES)) and data["features"].dtype == np.float32
    assert sum(len(data[part]) for part in ("train", "validation", "test", "left_out")) == len(events)
    assert {"oracle_pointwise", "oracle_setwise"} <= set(data)
    again = CONFIG.data.prepare({})
    assert np.array_equal(again["features"], data["features"]) and again["split"] == data["split"]


@pytest.mark.parametrize("name", ["item_rate", "user_count", "pair_rate"])
def test_a_feature_that_knows_the_row_itself_stops_the_run(name: str) -> None:
    data = simulated()
    events, split = Events.from_payload(data), Split.from_payload(data)
    features = PastCounts(events, "category").of_events()
    refuse_leaks(events, split, features, "category")
    leaky = features.copy()
    leaky[:, FEATURES.index(name)] += 0.01 * events.label
    with pytest.raises(LeakageError, match=name):
        refuse_leaks(events, split, leaky, "category")


def test_a_part_that_knows_the_next_one_stops_the_run() -> None:
    data = simulated()
    events, split = Events.from_payload(data), Split.from_payload(data)
    mixed = replace(split, train=np.append(split.train, split.test[-1]), test=split.test[:-1])
    with pytest.raises(LeakageError):
        refuse_leaks(events, mixed, np.asarray(data["features"], np.float64), "category")


def test_a_table_of_ones_own_is_read_and_one_whose_responses_are_stars_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [f"u{n % 7},i{draw.integers(19)},{1_600_000_000 + 5000 * n},{draw.integers(2)}" for n in range(300)]
    (tmp_path / "e.csv").write_text("\n".join(["user,item,time,click", *rows]))
    table = EventsTableConfig(events=str(tmp_path / "e.csv"), actions=("click",))
    config = DataConfig(name="own", source="table", table=table)
    assert config.sources() == {"events": str(tmp_path / "e.csv")}
    assert len(config.prepare({"events": tmp_path / "e.csv"})["features"]) == 300
    (tmp_path / "e.csv").write_text("\n".join(["user,item,time,click", *(row[:-1] + "4" for row in rows)]))
    with pytest.raises(InputError, match="responses are 0 or 1"):
        config.prepare({"events": tmp_path / "e.csv"})


def test_the_attribute_with_the_categories_follows_from_the_source() -> None:
    assert DataConfig(source="movielens").categories == "genres"
    assert DataConfig().categories == "category"
