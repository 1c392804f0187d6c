"""The configuration keeps its promises to the tasks, its form and its presets."""

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from models.common.contracts import Comparable, Curatable, Indexable, Judged, Monitored, Trainable
from models.feed.retrieval import config as retrieval
from models.feed.retrieval.config import DataConfig, IndexConfig, RetrievalConfig, TableConfig, VectorsConfig
from models.feed.retrieval.data import MovieLensConfig
from models.feed.retrieval.generator import GeneratorConfig
from models.feed.retrieval.judge import JudgementConfig

PRESETS = (retrieval.tiny, retrieval.small, retrieval.paper, retrieval.movielens, retrieval.glove_cities)


def nested(kind: type) -> Iterator[type]:
    """A configuration class and those of its fields."""
    yield kind
    for annotation in typing.get_type_hints(kind).values():
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            yield from nested(annotation)


CLASSES = list(nested(RetrievalConfig))


def test_it_serves_every_task() -> None:
    configuration = retrieval.tiny()
    serving = {
        Curatable: configuration.data,
        Trainable: configuration.encoder,
        Indexable: configuration.index,
        Judged: configuration,
        Monitored: configuration,
        Comparable: configuration,
    }
    for protocol, part in serving.items():
        promised = {name for name in vars(protocol) | typing.get_type_hints(protocol) if not name.startswith("_")}
        assert not {name for name in promised if not hasattr(part, name)}, protocol.__name__


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_setting_has_a_default_a_title_and_a_description_that_is_a_sentence(kind: type) -> None:
    assert kind() == kind()
    for field in dataclasses.fields(kind):
        assert field.metadata["title"], field.name
        assert field.metadata["description"].endswith("."), field.name


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_setting_is_a_union_or_a_dictionary(kind: type) -> None:
    for name, annotation in typing.get_type_hints(kind).items():
        plain = annotation in (int, float, str, bool) or dataclasses.is_dataclass(annotation)
        assert plain or typing.get_origin(annotation) in (tuple, typing.Literal), name


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_limits_are_held_at_both_ends(kind: type) -> None:
    for field in dataclasses.fields(kind):
        for limit, beyond in (("ge", -1), ("le", 1)):
            if limit in field.metadata:
                with pytest.raises(ValueError, match=rf"{kind.__name__}\.{field.name} must be"):
                    kind(**{field.name: type(field.default)(field.metadata[limit] + beyond)})


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.__name__)
def test_presets_are_valid_frozen_and_have_names_of_their_own(preset: Callable[[], RetrievalConfig]) -> None:
    assert preset() == preset()
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset().data = DataConfig()  # type: ignore[misc]
    assert sum(preset().data.name == other().data.name for other in PRESETS) == 1


def test_tiny_is_what_a_bare_configuration_is() -> None:
    assert retrieval.tiny() == RetrievalConfig()


def test_only_the_chosen_sources_files_are_asked_for() -> None:
    assert retrieval.tiny().data.sources() == {}
    assert set(retrieval.movielens().data.sources()) == {"movies", "ratings"}
    assert set(retrieval.glove_cities().data.sources()) == {"vectors", "words", "cities"}
    own = DataConfig(source="table", table=TableConfig(interactions="a.csv"))
    assert own.sources() == {"interactions": "a.csv"}


def test_given_vectors_are_not_trained() -> None:
    assert [preset().trains for preset in PRESETS] == [True, True, True, True, False]
    own = DataConfig(source="vectors", vectors=VectorsConfig(items="a.parquet"))
    assert not RetrievalConfig(data=own).trains


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(name="Two Words"), "must be lower case letters, digits and single hyphens"),
        (lambda: DataConfig(name="a--b"), "single hyphens"),
        (lambda: DataConfig(source="table"), r"table\.interactions must name a file when the source is 'table'"),
        (lambda: GeneratorConfig(items=100, events=26), "at most a quarter of the items, got 26 choices among 100"),
        (lambda: DataConfig(source="vectors"), r"vectors\.items must name a file when the source is 'vectors'"),
        (lambda: VectorsConfig(query_column="vector"), "must name columns that differ"),
        (lambda: TableConfig(attributes=("a",), numbers=("b",)), "must name every special column, got 'b'"),
        (lambda: MovieLensConfig(least_rating=5.5), "MovieLensConfig.least_rating must be at most 5"),
        (lambda: JudgementConfig(cases=7), "JudgementConfig.cases must be at least 8"),
    ],
)
def test_impossible_configurations_say_what_to_do(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_filterable_attributes_must_exist() -> None:
    configuration = RetrievalConfig(
        data=DataConfig(generator=GeneratorConfig(users=10, items=60, events=5)),
        index=IndexConfig(attributes=("year", "shade")),
    )
    with pytest.raises(ValueError, match=r"must be among \['category', 'year', 'price', 'tags'\], got 'shade'"):
        configuration.index.filterable(configuration.data.prepare({}))
