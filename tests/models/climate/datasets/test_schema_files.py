"""The six schemas, as data: they load, they say where every fact comes from, and stored variables say what they are."""

import re
from dataclasses import fields
from importlib import import_module
from importlib.resources import files

import pytest

from models.climate.datasets import schemas
from models.climate.datasets.recipe import DATASETS


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_fact_of_a_schema_says_where_it_comes_from(dataset: str) -> None:
    schema = schemas.load(dataset)
    assert schema.dataset == dataset
    assert set(schema.upstream) >= {"repository", "commit"}
    assert schema.files and schema.splits
    for entry in schema.files:
        assert re.search(r"\.(py|ipynb|sh|yml|md)\b|not found|best_track", entry.source), entry.name
        for variable in entry.variables.values():
            assert variable.source or entry.source, (entry.name, variable.name)
    for split in schema.splits:
        assert split["name"] and split["rule"] and split["source"]


def test_there_is_a_schema_for_each_of_the_six_and_no_other() -> None:
    folder = files("models.climate.datasets") / "schemas"
    assert {one.name for one in folder.iterdir()} == {f"{dataset}.json" for dataset in DATASETS}
    with pytest.raises(FileNotFoundError, match="there is no schema 'tides'"):
        schemas.load("tides")


@pytest.mark.parametrize("dataset", ["storms", "analogs", "outlooks"])
def test_every_stored_variable_has_a_name_and_its_units(dataset: str) -> None:
    config = import_module(f"models.climate.datasets.{dataset}.config").tiny()
    for layout in config.survey({}).groups.values():
        described = {
            **{name: (one.dtype, one.attrs) for name, one in layout.variables.items()},
            **{name: (values.dtype.str, attrs) for name, (_, values, attrs) in layout.coordinates.items()},
        }
        for name, (dtype, attrs) in described.items():
            assert {"long_name", "standard_name", "cell_methods"} & set(attrs), name
            text = dtype == "str" or "S" in dtype
            assert text or {"units", "flag_values"} & set(attrs) or name == "fields", name


@pytest.mark.parametrize("dataset", DATASETS)
def test_settings_that_do_not_matter_for_a_part_are_settings(dataset: str) -> None:
    config = import_module(f"models.climate.datasets.{dataset}.config").tiny()
    assert "name" in config.elsewhere
    assert set(config.elsewhere) <= {field.name for field in fields(config)}
    assert not {"compat", "reproduce", "source"} & set(config.elsewhere)
