"""The manifest: what it says can be rebuilt, and what it may name is confined."""

import dataclasses

import pytest

from infra.manifest import (
    class_path,
    code_behind,
    code_digest,
    describe,
    digest_of,
    flatten,
    resolve_configuration,
    system_of,
)
from infra.refs import Dataset
from models.common.gate import GateConfig
from models.feed.ranking import config as ranking
from models.feed.ranking.next_item import config as next_item
from models.feed.retrieval.config import tiny


def test_a_configuration_is_rebuilt_from_its_class_path() -> None:
    assert resolve_configuration(class_path(GateConfig())) is GateConfig


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "models.common.gate.decide",
        "models.common.gate.Literal",
        "models.nowhere.Config",
        "subprocess.Popen",
    ],
)
def test_anything_but_a_configuration_under_models_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"models\.|configuration"):
        resolve_configuration(path)


def test_the_digest_of_equal_values_does_not_depend_on_their_order() -> None:
    assert digest_of({"a": 1, "b": [2, 3]}) == digest_of({"b": [2, 3], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        digest_of({"a": float("nan")})


def test_a_system_is_named_after_its_folder() -> None:
    assert system_of(tiny()) == "retrieval"


def test_the_code_behind_a_configuration_is_its_system_and_what_it_shares() -> None:
    behind = code_behind(tiny())
    assert behind == (
        "models.feed.retrieval",
        "models.feed.events",
        "models.feed.points",
        "models.feed.recounting",
        "models.feed.tables",
        "models.feed.two_stage",
        "models.common",
    )
    assert len(code_digest(*behind)) == 64


def test_a_part_of_a_system_stands_on_all_of_it_and_on_what_the_family_shares() -> None:
    assert system_of(next_item.tiny()) == "ranking"
    behind = code_behind(next_item.tiny())
    assert behind == code_behind(ranking.tiny())
    assert {"models.feed.ranking", "models.feed.events", "models.common"} <= set(behind)


def test_a_setting_with_credentials_gets_into_no_manifest_even_when_it_is_not_read() -> None:
    whole = tiny().data
    for location, found in (
        ("https://example.org/{date}.csv?sig=planted", "'sig' in its query"),
        ("s3://key:planted@bucket/a.csv", "a user or password"),
    ):
        data = dataclasses.replace(whole, table=dataclasses.replace(whole.table, interactions=location))
        with pytest.raises(ValueError, match=rf"table\.interactions is .* was given with {found}") as caught:
            describe(Dataset, "toy", data)
        assert "planted" not in str(caught.value)
    assert describe(Dataset, "toy", whole).configuration["table"]["items"] == whole.table.items


def test_nested_settings_get_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
