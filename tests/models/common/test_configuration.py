"""Settings: one statement of a limit holds in the form, the API and Python."""

from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter, ValidationError

from models.common.configuration import check, setting


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = setting(8, "Width", "Columns, 1 to 64.", ge=1, le=64)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    rate: float = setting(0.1, "Rate", "Share, above 0, below 1.", gt=0, lt=1)
    inner: Inner = setting(Inner, "Inner", "The inside.")


def test_python_is_held_to_the_limits_with_a_message_that_names_everything() -> None:
    with pytest.raises(ValueError, match=r"Inner\.width must be at most 64, got 65\. Columns, 1 to 64\."):
        Inner(width=65)


@pytest.mark.parametrize(("width", "fine"), [(0, False), (1, True), (64, True), (65, False)])
def test_limits_include_their_ends(width: int, fine: bool) -> None:
    if fine:
        assert Inner(width=width).width == width
    else:
        with pytest.raises(ValueError, match=r"Inner\.width"):
            Inner(width=width)


def test_the_schema_of_the_form_carries_words_and_limits() -> None:
    schema = TypeAdapter(Outer).json_schema()
    width = schema["$defs"]["Inner"]["properties"]["width"]
    assert width == {
        "default": 8,
        "description": "Columns, 1 to 64.",
        "maximum": 64,
        "minimum": 1,
        "title": "Width",
        "type": "integer",
    }
    assert schema["properties"]["rate"]["exclusiveMinimum"] == 0


def test_the_form_s_values_are_refused_with_the_path_of_the_field() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Outer).validate_python({"inner": {"width": 65}})
    assert caught.value.errors()[0]["loc"] == ("inner", "width")


def test_an_unknown_limit_is_a_mistake_of_the_programmer() -> None:
    with pytest.raises(TypeError, match="unknown limits"):
        setting(1, "A", "B", greater=3)
