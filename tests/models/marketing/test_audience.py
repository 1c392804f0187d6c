"""Expansion: seeds from a file or by chance, their vectors from the index, and nobody twice."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from models.common.contracts import InputError
from models.marketing.adaptive.lookalikes import best_cosines
from models.marketing.audience import ExpansionConfig, GeneratedSeedsConfig, SeedsTableConfig, chances
from models.marketing.config import AudienceConfig
from tests.models.marketing.audiences import CONFIG, Exhaustive, expanded


def own(folder: Path, *lines: str) -> tuple[ExpansionConfig, dict[str, Path]]:
    file = folder / "seeds.csv"
    file.write_text("\n".join(["who", *lines]) + "\n")
    table = SeedsTableConfig(file=str(file), member_column="who")
    return dataclasses.replace(CONFIG, source="table", table=table), {"seeds": file}


def test_those_who_join_have_the_largest_mean_cosines_and_are_no_seeds() -> None:
    index = Exhaustive()
    parts = expanded(dataclasses.replace(CONFIG, neighbours=412), index)
    exact = best_cosines(index.vectors, index.vectors[parts["seeds"]], best=CONFIG.best)
    exact[parts["seeds"]] = -np.inf
    best = np.argsort(-exact, kind="stable")[: CONFIG.size]
    assert parts["answers"]["member"].to_pylist() == [f"m{row}" for row in best]
    assert parts["answers"]["score"].to_numpy() == pytest.approx(exact[best], abs=1e-6)  # of float32 vectors


def test_an_audience_is_shorter_where_the_lists_hold_no_more() -> None:
    parts = expanded(dataclasses.replace(CONFIG, neighbours=1, size=400))
    assert parts["answers"].num_rows == parts["about"]["reached"] < 45
    assert min(parts["answers"]["score"].to_pylist()) > -1


def test_a_member_without_a_name_joins_nobody() -> None:
    first = expanded()["answers"]["member"][0].as_py()
    parts = expanded(searcher=Exhaustive(nameless=int(first[1:])))
    assert None not in parts["answers"]["member"].to_pylist()
    assert parts["answers"]["member"][0].as_py() == expanded()["answers"]["member"][1].as_py()


def test_seeds_of_a_file_count_once_and_ask_by_the_vectors_of_the_index(tmp_path: Path) -> None:
    index = Exhaustive()
    config, files = own(tmp_path, "m7", "m402", "m7", "m30")
    asked = config.questions(files, index)
    assert asked["seeds"].tolist() == [7, 30, 402]
    assert (asked["queries"] == index.vectors[[7, 30, 402]]).all()
    assert "chance" not in asked["items"].column_names


def test_a_seed_that_the_index_lacks_is_named(tmp_path: Path) -> None:
    config, files = own(tmp_path, "m7", "ann", "m30")
    with pytest.raises(InputError, match="the index has no item 'ann'; its 413 items are called like 'm0'"):
        config.questions(files, Exhaustive())


def test_one_seed_is_too_few_to_be_judged(tmp_path: Path) -> None:
    config, files = own(tmp_path, "m7", "m7")
    with pytest.raises(InputError, match="at least 2 seeds, for one is held out to judge by, got 1"):
        config.questions(files, Exhaustive())


def test_vectors_that_are_not_of_length_one_are_refused_by_name() -> None:
    index = Exhaustive()
    index.vectors[3] *= 2
    with pytest.raises(InputError, match="item 'm3' has length 2, and 0 others"):
        CONFIG.questions({}, index)


def test_generated_seeds_are_as_many_as_wanted_and_suit_the_hidden_tastes() -> None:
    vectors = Exhaustive(members=4001).vectors
    config = GeneratedSeedsConfig(seeds=300, tastes=3, sharpness=2.0, seed=5)
    chance = chances(vectors, config)
    assert chance.sum() == pytest.approx(300, abs=1e-6)
    direction = np.random.default_rng([5, 0]).normal(0, 1, (7, 3))
    suits = vectors.astype(np.float64) @ direction
    suits = ((suits - suits.mean(0)) / suits.std(0)).max(1)
    slope = np.polyfit(suits, np.log(chance / (1 - chance)), 1)[0]
    assert slope == pytest.approx(2.0, abs=1e-9)
    flat = chances(vectors, dataclasses.replace(config, sharpness=0.0))
    assert flat == pytest.approx(np.full(4001, 300 / 4001), abs=1e-9)


def test_more_seeds_than_half_of_all_are_refused() -> None:
    with pytest.raises(InputError, match="seeds is 40, the index has 79 members"):
        CONFIG.questions({}, Exhaustive(members=79))


def test_what_cannot_be_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"export must end in \.parquet"):
        AudienceConfig(export="members.csv")
    with pytest.raises(ValueError, match=r"table\.file must name a file"):
        ExpansionConfig(source="table")
    with pytest.raises(ValueError, match="lower case letters"):
        ExpansionConfig(name="Spring")
