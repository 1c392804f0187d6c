"""Deployments: presets as parameters, and a form that needs no manual."""

import importlib
import pkgutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from models.climate.datasets import config as climate
from models.climate.gravity_waves import config as gravity_waves
from models.feed.history import config as history
from models.feed.ranking import config as ranking
from models.feed.ranking import scaling
from models.feed.ranking.next_item import config as next_item
from models.feed.retrieval import config as retrieval
from models.marketing import config as marketing

DEPLOYMENTS = yaml.safe_load((Path(__file__).parent.parent / "prefect.yaml").read_text())["deployments"]
NAMES = [f"{one['entrypoint'].rpartition('.')[2]}/{one['name']}" for one in DEPLOYMENTS]
PRESETS = {
    ("flows.retrieval.rebuild_index", "tiny"): retrieval.tiny,
    ("flows.retrieval.rebuild_index", "small"): retrieval.small,
    ("flows.retrieval.rebuild_index", "paper"): retrieval.paper,
    ("flows.retrieval.rebuild_index", "movielens"): retrieval.movielens,
    ("flows.retrieval.rebuild_index", "glove-cities"): retrieval.glove_cities,
    ("flows.retrieval.train_encoder", "tiny"): retrieval.tiny,
    ("flows.retrieval.train_encoder", "small"): retrieval.small,
    ("flows.retrieval.follow_encoder", "tiny"): retrieval.tiny,
    ("flows.retrieval.follow_encoder", "small"): retrieval.small,
    ("flows.retrieval.backfill_index", "tiny"): retrieval.tiny_by_day,
    ("flows.retrieval.compact_index", "tiny"): retrieval.tiny,
    ("flows.retrieval.monitor_recall", "tiny"): retrieval.tiny,
    ("flows.ranking.train_ranker", "tiny"): ranking.tiny,
    ("flows.ranking.train_ranker", "small"): ranking.small,
    ("flows.ranking.train_ranker", "movielens"): ranking.movielens,
    ("flows.ranking.train_ranker", "paper"): ranking.paper,
    ("flows.ranking.monitor_ranking", "tiny"): ranking.tiny,
    ("flows.ranking.train_next_item_ranker", "tiny"): next_item.tiny,
    ("flows.ranking.train_next_item_ranker", "small"): next_item.small,
    ("flows.ranking.train_next_item_ranker", "beauty"): next_item.beauty,
    ("flows.ranking.train_next_item_ranker", "sports"): next_item.sports,
    ("flows.ranking.train_next_item_ranker", "paper"): next_item.paper,
    ("flows.scaling.scaling_study", "tiny"): scaling.tiny,
    ("flows.scaling.scaling_study", "small"): scaling.small,
    ("flows.scaling.scaling_study", "paper"): scaling.paper,
    ("flows.history.train_history_scorer", "tiny"): history.tiny,
    ("flows.history.train_history_scorer", "small"): history.small,
    ("flows.history.train_history_scorer", "movielens"): history.movielens,
    ("flows.history.train_history_scorer", "paper"): history.paper,
    ("flows.history.monitor_history", "tiny"): history.tiny,
    ("flows.marketing.plan_campaign", "tiny"): marketing.tiny,
    ("flows.marketing.plan_campaign", "small"): marketing.small,
    ("flows.marketing.plan_campaign", "paper"): marketing.paper,
    ("flows.marketing.plan_campaign", "learned"): marketing.learned,
    ("flows.marketing.evaluate_campaign", "tiny"): marketing.tiny_campaign,
    ("flows.marketing.evaluate_campaign", "hillstrom"): marketing.hillstrom,
    ("flows.marketing.pace_budget", "tiny"): marketing.tiny_pace,
    **{
        (f"flows.datasets.prepare_{dataset}", size): partial(climate.preset, dataset, size)
        for dataset in climate.FLOWS
        for size in climate.PRESETS
    },
    ("flows.marketing.expand_audience", "tiny"): marketing.tiny_audience,
    ("flows.gravity_waves.train_gravity_waves", "tiny"): gravity_waves.tiny,
    ("flows.gravity_waves.train_gravity_waves", "small"): gravity_waves.small,
    ("flows.gravity_waves.train_gravity_waves", "paper"): gravity_waves.paper,
    ("flows.gravity_waves.monitor_gravity_waves", "tiny"): gravity_waves.tiny,
}


def flow_of(deployment: dict[str, Any]) -> Any:
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_the_parameters_are_those_of_the_preset(deployment: dict[str, Any]) -> None:
    preset = PRESETS.get((deployment["entrypoint"], deployment["name"]))
    parameters = deployment.get("parameters", {})
    if preset is None:
        assert parameters == {}, "add the preset to this test"
    else:
        built = TypeAdapter(type(preset())).validate_python(parameters.get("config", {}))
        assert built == preset()


def fields(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field that a form shows, with its path; references are followed."""
    while "$ref" in node or len(node.get("allOf", ())) == 1:
        inner = node.get("$ref") or node["allOf"][0]["$ref"]
        node = {
            **schema["definitions"][inner.rpartition("/")[2]],
            **{k: v for k, v in node.items() if k not in ("$ref", "allOf")},
        }
    if path:
        yield path, node
    for name, child in node.get("properties", {}).items():
        yield from fields(schema, child, f"{path}.{name}" if path else name)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_every_field_of_the_form_has_words_a_default_and_a_widget(deployment: dict[str, Any]) -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow_of(deployment)).model_dump()
    found = list(fields(schema, {"properties": schema["properties"]}))
    assert found
    for path, node in found:
        assert node.get("title"), f"{path} has no title"
        assert len(node.get("description", "")) > 10, f"{path} has no description"
        assert "anyOf" not in node, f"{path} is a union: a raw JSON editor in the form"
        assert "oneOf" not in node, f"{path} is a union: a raw JSON editor in the form"
        kind = node.get("type")
        assert kind in ("string", "integer", "number", "boolean", "array", "object"), f"{path} has type {kind}"
        if kind == "object":
            assert node.get("properties"), f"{path} is free JSON"
        else:
            assert "default" in node, f"{path} has no default"
        if kind in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & set(node), f"{path}: the API accepts any small number"
            assert {"maximum", "exclusiveMaximum"} & set(node), f"{path}: the API accepts any large number"
            assert any(character.isdigit() for character in node["description"]), f"{path}: no range in words"


def test_every_flow_is_deployed() -> None:
    from prefect import Flow

    import flows

    modules = [importlib.import_module(f"flows.{one.name}") for one in pkgutil.iter_modules(flows.__path__)]
    known = {
        f"{module.__name__}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Flow) and value.fn.__module__ == module.__name__
    }
    assert known == {deployment["entrypoint"] for deployment in DEPLOYMENTS}


def test_the_nightly_flow_is_scheduled() -> None:
    assert any(one["entrypoint"] == "flows.nightly.nightly" and one["schedules"] for one in DEPLOYMENTS)
