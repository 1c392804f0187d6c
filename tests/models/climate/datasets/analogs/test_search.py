"""Analogs by an index are those of a direct search, whatever days the index has, and what is wrong is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import xarray as xr

from models.climate.datasets.analogs.baseline import Days, skill
from models.climate.datasets.analogs.search import (
    AnalogQuestionsConfig,
    AnalogSearchConfig,
    DayVectorsConfig,
    judge,
)
from models.common.contracts import InputError, Payload
from models.feed.retrieval.config import DataConfig, IndexConfig, VectorsConfig
from models.feed.retrieval.searcher import IndexSearcher

COUNT = 160
START = 17_897  # 2019-01-01


def dataset(count: int = COUNT, start: int = START, seed: int = 0) -> Payload:
    """Days that resemble the day before and drift through recurring weather, as they are stored."""
    random = np.random.default_rng(seed)
    state, fields = np.zeros((2, 3, 5)), []
    kinds = random.normal(0, 3, (4, 2, 3, 5))
    for row in range(count):
        state = 0.7 * state + 0.3 * kinds[row // 6 % 4] + 0.4 * random.normal(0, 1, state.shape)
        fields.append(state.copy())
    slp, t2m = np.moveaxis(np.array(fields, np.float32), 1, 0)
    day = start + np.arange(count)
    stored = xr.Dataset(
        {
            "SLP": (("time", "lat", "lon"), 101_000 + 100 * slp),
            "T2M": (("time", "lat", "lon"), 280 + t2m),
            "time": (("time",), (day * 1440).astype(np.int32)),
            "lat": (("lat",), np.array([42.0, 50.0, 58.0])),
            "lon": (("lon",), np.arange(-15.0, -10.0)),
        }
    )
    return {"data": {"": stored}}


def searcher(path: Path, table: pa.Table) -> IndexSearcher:
    """The index that the retrieval system builds of a table of days."""
    pyarrow.parquet.write_table(table, path)
    config = DataConfig(
        source="vectors", vectors=VectorsConfig(items=str(path), item_column="day", query_column="question")
    )
    data = config.prepare({"items": path})
    return IndexSearcher(IndexConfig().build_index(data, None), data, path.parent / "no writes")


def search(config: AnalogQuestionsConfig, index: IndexSearcher) -> tuple[Payload, dict[str, float]]:
    asked = config.questions({}, index)
    return config.answers(asked, *index.neighbours(asked["queries"], config.k))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Payload, dict[str, float]]:
    (table,) = DayVectorsConfig().tables(dataset()).values()
    return search(AnalogQuestionsConfig(), searcher(tmp_path_factory.mktemp("index") / "days.parquet", table))


def test_days_become_a_table_that_says_which_days_they_are() -> None:
    ((path, table),) = DayVectorsConfig(file="out/days.parquet").tables(dataset()).items()
    assert path == "out/days.parquet"
    first = table.slice(31, 1).to_pylist()[0]
    assert (first["day"], first["date"], first["year"], first["month"]) == (START + 31, "2019-02-01", 2019, 2)
    assert len(first["vector"]) == len(first["question"]) == 2 * 15 + 2
    assert first["question"][:-2] == first["vector"][:-2]
    assert first["question"][-2:] == [1, 1]


@pytest.mark.parametrize("start", [START, -60], ids=["2019", "days before 1970 have no number of their own"])
@pytest.mark.parametrize(("analogs", "window"), [(10, 15), (1, 0), (7, 40)])
def test_the_index_finds_what_a_direct_search_finds(start: int, analogs: int, window: int, tmp_path: Path) -> None:
    stored = dataset(start=start)
    (table,) = DayVectorsConfig().tables(stored).values()
    shuffled = table.take(np.random.default_rng(1).permutation(COUNT))
    parts, counted = search(
        AnalogQuestionsConfig(analogs=analogs, window=window), searcher(tmp_path / "days.parquet", shuffled)
    )
    places, distance = Days.of(stored["data"]).nearest(analogs, window)
    assert parts["places"].tolist() == places.tolist()
    assert np.asarray(parts["answers"]["distance"]).reshape(COUNT, analogs) == pytest.approx(distance, rel=1e-5)
    row = parts["answers"].slice(3 * analogs, 1).to_pylist()[0]
    expected = (np.datetime64(start + 3, "D"), np.datetime64(start + int(places[3, 0]), "D"), 1)
    assert (np.datetime64(row["day"]), np.datetime64(row["analog"]), row["rank"]) == expected
    assert counted == {"days": COUNT, "analogs": COUNT * analogs}


def test_a_search_is_judged_by_chance_persistence_and_every_pair_of_days(
    found: tuple[Payload, dict[str, float]],
) -> None:
    judgement = AnalogSearchConfig().analyse(found[0])
    assert judgement.certificate.holds
    assert judgement.metrics["recall_at_10"] == 1
    for lead in (0, 1, 3):
        low, gain, high = (judgement.metrics[f"gain_over_random_{lead}d{end}"] for end in ("_low", "", "_high"))
        assert 0 < low < gain < high
        apart = judgement.metrics[f"random_{lead}d_rms"] - judgement.metrics[f"ten_analogs_{lead}d_rms"]
        assert gain == pytest.approx(apart)
    assert "gain_over_persistence_0d" not in judgement.metrics, "a day is its own persistence"
    assert judgement.metrics["gain_over_persistence_1d"] < judgement.metrics["gain_over_persistence_7d"]
    assert [figure.name for figure in judgement.figures] == ["analog_forecasts"]
    assert {series.label for series in judgement.figures[0].series} >= {"analog", "ten analogs", "persistence"}
    assert judge(found[0]).metrics == judgement.metrics


@pytest.mark.parametrize(
    ("damage", "claim"),
    [
        (lambda places: np.roll(places, 1, axis=0), "recall_at_10"),
        (lambda places: places[:, ::-1].copy(), "analogs_out_of_order"),
        (lambda places: np.where(places == places[0, 0], (np.arange(COUNT) + 1)[:, None] % COUNT, places),
         "analogs_within_the_window"),
    ],
)  # fmt: skip
def test_analogs_that_are_not_the_nearest_are_refused(
    damage: Any, claim: str, found: tuple[Payload, dict[str, float]]
) -> None:
    spoilt = {**found[0], "places": damage(found[0]["places"])}
    assert claim in {one.name for one in judge(spoilt).certificate.failures()}


def test_distances_that_were_changed_are_refused(found: tuple[Payload, dict[str, float]]) -> None:
    answers = found[0]["answers"]
    column = answers.column_names.index("distance")
    longer = answers.set_column(column, "distance", pa.array(np.asarray(answers["distance"]) * (1 + 1e-9)))
    (failed,) = judge({**found[0], "answers": longer}).certificate.failures()
    assert failed.name == "difference_of_distances"


def test_other_numbers_of_analogs_have_names_of_their_own() -> None:
    days = Days.of(dataset()["data"])
    metrics = skill(days, days.nearest(4)[0])
    assert metrics["4_analogs_1d_rms"] < metrics["analog_1d_rms"]
    assert "ten_analogs_1d_rms" not in metrics


def test_what_is_no_index_of_days_is_refused_by_name(tmp_path: Path) -> None:
    (table,) = DayVectorsConfig().tables(dataset()).values()
    config, path = AnalogQuestionsConfig(), tmp_path / "days.parquet"
    named = table.set_column(0, "day", table["date"])
    with pytest.raises(InputError, match="items of the index must be days since 1970-01-01, got string"):
        config.questions({}, searcher(path, named))
    swapped = table.set_column(4, "vector", table["question"])
    with pytest.raises(InputError, match="160 of 160 vectors do not end in minus half their square"):
        config.questions({}, searcher(path, swapped))
    with pytest.raises(InputError, match="fewer than 100 days outside 40 days around it"):
        search(AnalogQuestionsConfig(analogs=100, window=40), searcher(path, table))


def test_a_dataset_without_days_gives_no_table() -> None:
    with pytest.raises(InputError, match="datasets-analogs gives no vectors of days: analogs need at least 32 days"):
        DayVectorsConfig().tables(dataset(20))
    with pytest.raises(InputError, match="datasets-storms gives no vectors of days"):
        DayVectorsConfig(name="storms").tables({"data": {"": xr.Dataset()}})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            ("table", "data/analogs/days.parquet", ("day", "vector", "question")),
            "source must be 'vectors'.*got 'table'",
        ),
        (("vectors", "other.parquet", ("day", "vector", "question")), "but the index reads 'other.parquet'"),
        (("vectors", "data/analogs/./days.parquet", ("day", "vector", "")), "columns must be 'day', 'vector' and"),
    ],
)
def test_an_index_of_another_table_is_refused(said: tuple[str, str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DayVectorsConfig().check_reader(*said)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnalogQuestionsConfig(name="Two Words"), "lower case letters, digits and single hyphens"),
        (lambda: AnalogQuestionsConfig(analogs=0), "AnalogQuestionsConfig.analogs must be at least 1"),
        (lambda: AnalogSearchConfig(export="a.csv"), "AnalogSearchConfig.export must end in .parquet"),
        (lambda: dataclasses.replace(DayVectorsConfig(), file=""), "DayVectorsConfig.file"),
    ],
)
def test_impossible_settings_say_what_to_do(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
